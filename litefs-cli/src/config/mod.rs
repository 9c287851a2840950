//! The settings of `litefs.yml`: every key, its type and its default, in one place.
//!
//! Reading the file is in [`load`], what may not be combined in [`validate`]; the few value types that
//! need their own parser are in [`value`]. Invariant: a key that is absent or empty (`key:`) has its
//! default. Keys of our own, which the original doesn't know: `data.durability`,
//! `data.retention-size`, and `http.addr: ""` or `off` for no listener.
//!
//! Source: `spec/cli-config.md` §4.

pub(crate) mod error;
pub(crate) mod load;
pub(crate) mod validate;
pub(crate) mod value;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub(crate) use self::value::{Durability, ExecList};
use crate::bytesize::ByteSize;
use crate::goduration::GoDuration;

/// Declares a section: the struct, its defaults, and a twin in which each field is optional, because
/// an empty key (`dir:`) must leave the default alone, which serde by itself can't do.
macro_rules! settings {
    ($(#[$doc:meta])* $name:ident, $raw:ident, $raw_name:literal {
        $($(#[$field_doc:meta])* $field:ident: $ty:ty = $default:expr,)*
    }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
        #[serde(from = $raw_name, rename_all = "kebab-case")]
        pub(crate) struct $name {
            $($(#[$field_doc])* pub(crate) $field: $ty,)*
        }

        impl Default for $name {
            fn default() -> $name {
                $name { $($field: $default,)* }
            }
        }

        #[derive(Default, Deserialize)]
        #[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
        struct $raw {
            $($field: Option<$ty>,)*
        }

        impl From<$raw> for $name {
            fn from(raw: $raw) -> $name {
                $name { $($field: raw.$field.unwrap_or_else(|| $default),)* }
            }
        }
    };
}

settings! {
    /// The whole file.
    Config, RawConfig, "RawConfig" {
        /// End with code 1 if the start fails; otherwise stay alive until a signal comes.
        exit_on_error: bool = true,
        /// Don't wait for the cluster before the application starts.
        skip_sync: bool = false,
        /// Compute the checksum of the whole database after every commit. For tests.
        strict_verify: bool = false,
        /// The application, and what must run before it.
        exec: ExecList = ExecList::default(),
        data: Data = Data::default(),
        fuse: Fuse = Fuse::default(),
        http: Http = Http::default(),
        proxy: Proxy = Proxy::default(),
        lease: Lease = Lease::default(),
        backup: Backup = Backup::default(),
        log: Log = Log::default(),
        tracing: Tracing = Tracing::default(),
    }
}

settings! {
    /// `data`: where databases and their history are kept.
    Data, RawData, "RawData" {
        dir: PathBuf = "/var/lib/litefs".into(),
        /// LZ4 in the transaction log.
        compress: bool = true,
        /// How long transactions are kept.
        retention: GoDuration = GoDuration::from_secs(600),
        /// How often old ones are looked for.
        retention_monitor_interval: GoDuration = GoDuration::from_secs(60),
        /// How much history a database may keep; 0 means no limit.
        retention_size: ByteSize = ByteSize::default(),
        /// Whether a commit survives a power loss only as SQLite asks, or always.
        durability: Durability = Durability::Normal,
    }
}

settings! {
    /// `fuse`: the mount.
    Fuse, RawFuse, "RawFuse" {
        dir: PathBuf = "/litefs".into(),
        /// Let other users in.
        allow_other: bool = false,
        debug: bool = false,
    }
}

settings! {
    /// `http`: the API other nodes and commands use.
    Http, RawHttp, "RawHttp" {
        addr: String = ":20202".into(),
        /// 0 means the retention.
        snapshot_timeout: GoDuration = GoDuration::from_nanos(0),
    }
}

settings! {
    /// `proxy`: forwards requests to the application and writes to the primary.
    Proxy, RawProxy, "RawProxy" {
        addr: String = String::new(),
        target: String = String::new(),
        db: String = String::new(),
        max_lag: GoDuration = GoDuration::from_secs(10),
        debug: bool = false,
        passthrough: Vec<String> = Vec::new(),
        always_forward: Vec<String> = Vec::new(),
        primary_redirect_timeout: GoDuration = GoDuration::from_secs(5),
        read_timeout: GoDuration = GoDuration::from_nanos(0),
        read_header_timeout: GoDuration = GoDuration::from_secs(10),
        write_timeout: GoDuration = GoDuration::from_nanos(0),
        idle_timeout: GoDuration = GoDuration::from_secs(30),
    }
}

settings! {
    /// `lease`: who is primary.
    Lease, RawLease, "RawLease" {
        /// `static` or `consul`; must be given.
        r#type: String = String::new(),
        hostname: String = String::new(),
        advertise_url: String = String::new(),
        /// May become primary. With a static lease: is the primary.
        candidate: bool = true,
        /// Become primary once ready.
        promote: bool = false,
        reconnect_delay: GoDuration = GoDuration::from_secs(1),
        demote_delay: GoDuration = GoDuration::from_secs(10),
        /// May lead though it lacks transactions that the cluster had.
        allow_stale_promotion: bool = false,
        /// The databases this replica wants; empty means all.
        databases: Vec<String> = Vec::new(),
        consul: Consul = Consul::default(),
    }
}

settings! {
    /// `lease.consul`.
    Consul, RawConsul, "RawConsul" {
        url: String = String::new(),
        key: String = String::new(),
        ttl: GoDuration = GoDuration::from_secs(10),
        lock_delay: GoDuration = GoDuration::from_secs(1),
        /// A dead primary is replaced after seconds, not after Consul's own time.
        fast_failover: bool = false,
    }
}

settings! {
    /// `backup`.
    Backup, RawBackup, "RawBackup" {
        r#type: String = String::new(),
        path: String = String::new(),
        url: String = "https://litefs.fly.io".into(),
        cluster: String = String::new(),
        auth_token: String = String::new(),
    }
}

settings! {
    /// `log`: what goes to stderr.
    Log, RawLog, "RawLog" {
        /// `text` or `json`.
        format: String = "text".into(),
        timestamp: bool = false,
        debug: bool = false,
    }
}

settings! {
    /// `tracing`: a rolling file with every file operation.
    Tracing, RawTracing, "RawTracing" {
        /// Only with a path.
        enabled: bool = true,
        path: PathBuf = PathBuf::new(),
        /// In MB, after which a new file is begun.
        max_size: u32 = 64,
        /// Old files to keep.
        max_count: u32 = 8,
        /// Compress old files with gzip.
        compress: bool = true,
    }
}

impl Http {
    /// Where to listen; `None` if nowhere.
    pub(crate) fn listen_addr(&self) -> Option<&str> {
        Some(self.addr.as_str()).filter(|addr| !matches!(*addr, "" | "off"))
    }
}

impl Tracing {
    /// The file to write to; `None` if none.
    pub(crate) fn file(&self) -> Option<&PathBuf> {
        Some(&self.path).filter(|path| self.enabled && !path.as_os_str().is_empty())
    }
}

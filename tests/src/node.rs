//! A real `litefs mount` with its own mount point and data directory.
//!
//! ```text
//!   <temp>/litefs.yml   made from NodeOptions
//!   <temp>/mnt          the mount
//!   <temp>/data         the data directory, unless the test brings its own
//! ```
//!
//! A node lives no longer than its limit. Then its FUSE connection is aborted, so that whoever waits
//! for an answer of the mount gets an error, and the test fails instead of hanging.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::Signal;
use nix::sys::stat::minor;
use tempfile::TempDir;

use crate::process::Process;
use crate::{scan, sqlite};

/// How long a start or a stop may take.
pub const LIMIT: Duration = Duration::from_secs(20);

/// What a node is like.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    /// Check all pages after each commit.
    pub strict_verify: bool,
    /// More lines of `litefs.yml`.
    pub config: String,
    /// More lines of its section `data`.
    pub data: String,
    /// Arguments after `litefs mount -config …`.
    pub args: Vec<String>,
    /// Variables for litefs.
    pub env: Vec<(String, String)>,
    /// What is started.
    pub program: PathBuf,
    /// A program that starts litefs in its own place, with its arguments: as another user, on another host.
    pub through: Vec<String>,
    /// The longest life of the node.
    pub limit: Duration,
}

impl Default for NodeOptions {
    fn default() -> NodeOptions {
        NodeOptions {
            strict_verify: true,
            config: String::new(),
            data: String::new(),
            args: Vec::new(),
            env: Vec::new(),
            program: litefs(),
            through: Vec::new(),
            limit: Duration::from_secs(90),
        }
    }
}

/// A node, running or not.
#[derive(Debug)]
pub struct Node {
    options: NodeOptions,
    mount: PathBuf,
    data: PathBuf,
    config: PathBuf,
    process: Option<Arc<Process>>,
    mounted: Arc<Mounted>,
    /// Dropping it ends the watchdog.
    _watchdog: Sender<()>,
    _dir: TempDir,
}

/// What the watchdog needs to end a hanging mount.
#[derive(Debug, Default)]
struct Mounted {
    process: Mutex<Option<Arc<Process>>>,
    /// Number of the FUSE connection.
    connection: Mutex<Option<u64>>,
}

/// A database's position as its `-pos` file tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The last transaction; 0 if none.
    pub txid: u64,
    /// The checksum of all pages after it.
    pub checksum: u64,
}

impl Node {
    /// Starts a node that checks each commit.
    pub fn start() -> Node {
        Node::start_with(NodeOptions::default())
    }

    /// Starts a node.
    ///
    /// # Panics
    /// If it doesn't come up.
    pub fn start_with(options: NodeOptions) -> Node {
        let mut node = Node::new(options);
        node.up();
        node
    }

    /// A node that doesn't run yet.
    ///
    /// # Panics
    /// If its directories can't be made.
    pub fn new(options: NodeOptions) -> Node {
        let dir = tempfile::Builder::new().prefix("litefs-test-").tempdir().unwrap();
        let (mount, data) = (dir.path().join("mnt"), dir.path().join("data"));
        fs::create_dir(&mount).unwrap();
        fs::create_dir(&data).unwrap();
        let mounted = Arc::new(Mounted::default());
        let watchdog = watch(mounted.clone(), options.limit);
        Node {
            config: dir.path().join("litefs.yml"),
            options,
            mount,
            data,
            process: None,
            mounted,
            _watchdog: watchdog,
            _dir: dir,
        }
    }

    /// Starts it and waits until the mount is served.
    ///
    /// # Panics
    /// If it doesn't come up.
    pub fn up(&mut self) {
        self.up_to("waiting for signal or subprocess to exit");
    }

    /// Starts it and waits until the mount is there, whether or not the node has found its primary.
    ///
    /// # Panics
    /// If it doesn't come up.
    pub fn up_alone(&mut self) {
        self.up_to("LiteFS mounted to");
    }

    fn up_to(&mut self, line: &str) {
        let process = self.launch();
        process.line(line, LIMIT);
        *self.mounted.connection.lock().unwrap() =
            Some(minor(fs::metadata(&self.mount).unwrap().dev()));
    }

    /// Starts it without waiting for anything.
    ///
    /// # Panics
    /// If there is no `litefs`.
    pub fn launch(&mut self) -> Arc<Process> {
        fs::write(&self.config, self.config_text()).unwrap();
        let mut words = self.options.through.iter().map(Into::into).chain([self
            .options
            .program
            .clone()
            .into_os_string()]);
        let mut command = Command::new(words.next().expect("one at least"));
        command.args(words);
        command.args(["mount", "-config"]).arg(&self.config).args(&self.options.args);
        command.envs(self.options.env.iter().cloned());
        let process = Arc::new(Process::start(&mut command));
        self.process = Some(process.clone());
        *self.mounted.process.lock().unwrap() = Some(process.clone());
        process
    }

    /// Changes what the next start will be like.
    pub fn options(&mut self) -> &mut NodeOptions {
        &mut self.options
    }

    /// Whether it has run.
    pub fn was_started(&self) -> bool {
        self.process.is_some()
    }

    /// Its process.
    ///
    /// # Panics
    /// If it was never started.
    pub fn process(&self) -> &Process {
        self.process.as_deref().expect("started")
    }

    /// A path in the mount; with `""` the mount itself.
    pub fn path(&self, name: &str) -> PathBuf {
        if name.is_empty() { self.mount.clone() } else { self.mount.join(name) }
    }

    /// The data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Where the files of a database really are.
    pub fn backing(&self, name: &str) -> PathBuf {
        self.data.join("dbs").join(name)
    }

    /// The configuration file that each start writes.
    pub fn config_path(&self) -> &Path {
        &self.config
    }

    /// Ends it with SIGTERM; its exit code. Unmounting is left to it.
    pub fn stop(&mut self) -> Option<i32> {
        self.process().signal(Signal::SIGTERM);
        self.process().wait(LIMIT).code()
    }

    /// Kills it, as a crash would. The dead mount stays.
    pub fn kill(&mut self) {
        self.process().signal(Signal::SIGKILL);
        self.process().wait(LIMIT);
    }

    /// Kills it while it may be writing through its own mount, and aborts the connection: a thread that waits for
    /// an answer of its own process keeps that from ending, and nobody else can answer.
    pub fn kill_and_abort(&self) {
        self.mounted.end();
        self.process().wait(LIMIT);
    }

    /// Ends it in whatever state it is.
    pub fn end(&self) {
        self.mounted.end();
    }

    /// Whether something is mounted, even if dead.
    pub fn is_mounted(&self) -> bool {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let dir = self.mount.to_string_lossy();
        mounts.lines().any(|line| line.split(' ').nth(1) == Some(&*dir))
    }

    /// Makes two databases, `DELETE` and `WAL` by name and mode, each with a table `t` of one row.
    ///
    /// # Panics
    /// If it can't.
    #[track_caller]
    pub fn make_databases(&self) {
        for journal in ["DELETE", "WAL"] {
            let make = "CREATE TABLE t(x); INSERT INTO t VALUES (1)";
            let sql = format!("PRAGMA journal_mode={journal}; {make}");
            sqlite::run(&sqlite::open(&self.path(journal)), &sql);
        }
    }

    /// What `-pos` says.
    ///
    /// # Panics
    /// If it isn't there or isn't a position.
    #[track_caller]
    pub fn pos(&self, name: &str) -> Position {
        self.pos_if_there(name).unwrap_or_else(|| panic!("{name} has no position"))
    }

    /// What `-pos` says, if there is such a database.
    ///
    /// # Panics
    /// If it isn't a position.
    #[track_caller]
    pub fn pos_if_there(&self, name: &str) -> Option<Position> {
        let text = match fs::read_to_string(self.path(&format!("{name}-pos"))) {
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => return None,
            text => text.unwrap(),
        };
        let parse = |s: &str| u64::from_str_radix(s, 16).unwrap();
        assert!(text.len() == 34 && text.ends_with('\n'), "-pos of {name}: {text:?}");
        Some(Position { txid: parse(&text[..16]), checksum: parse(&text[17..33]) })
    }

    /// Checks a database nobody writes to: SQLite finds it intact, its position tells the checksum of
    /// all its pages, the mount shows what is on disk, and the node has nothing to complain about.
    ///
    /// # Panics
    /// If something is wrong.
    #[track_caller]
    pub fn check(&self, name: &str) {
        let conn = sqlite::open(&self.path(name));
        assert_eq!(sqlite::text(&conn, "PRAGMA integrity_check"), "ok", "{name}");
        drop(conn);
        self.check_position(name);
        self.check_log();
    }

    /// The part of [`Node::check`] that also holds for a database SQLite finds broken.
    ///
    /// # Panics
    /// If the position isn't that of the files.
    #[track_caller]
    pub fn check_position(&self, name: &str) {
        let dir = self.backing(name);
        let sum = scan::checksum(&dir.join("database"), &dir.join("wal")).unwrap();
        let pos = self.pos(name);
        // A database that nobody committed to has no checksum yet.
        let sum = if pos.txid == 0 && sum == scan::EMPTY { 0 } else { sum };
        assert_eq!(format!("{:016x}", pos.checksum), format!("{sum:016x}"), "position of {name}");
        // By another process: closing a file here would drop this process's own locks on it.
        let mut cmp = Command::new("cmp");
        let (code, output) =
            Process::run(cmp.arg(self.path(name)).arg(dir.join("database")), LIMIT);
        assert_eq!(code, Some(0), "the mount shows something else: {output}");
    }

    /// Checks that the node has reported no error.
    ///
    /// # Panics
    /// If it has.
    #[track_caller]
    pub fn check_log(&self) {
        let output = self.process().output();
        assert!(!output.contains("level=ERROR") && !output.contains("panicked"), "{output}");
        assert!(self.process().is_running(), "{output}");
    }

    fn config_text(&self) -> String {
        let NodeOptions { strict_verify, config, data: more, .. } = &self.options;
        let (mount, data) = (self.mount.display(), self.data.display());
        let mut text = format!("fuse:\n  dir: \"{mount}\"\ndata:\n  dir: \"{data}\"\n  {more}\n");
        let sets = |key: &str| config.lines().any(|line| line.starts_with(key));
        if !sets("lease:") {
            text += "lease:\n  type: static\n  candidate: true\n  hostname: localhost\n  \
                     advertise-url: http://127.0.0.1:20202\n";
        }
        if !sets("http:") {
            text += "http:\n  addr: \"127.0.0.1:0\"\n";
        }
        format!("{text}strict-verify: {strict_verify}\n{config}")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if thread::panicking()
            && let Some(process) = &self.process
        {
            eprintln!("--- output of the node\n{}---", process.output());
        }
        self.mounted.end();
        // Mounts can be stacked if a test went wrong.
        while self.is_mounted() && unmount(&self.mount) {}
    }
}

impl Mounted {
    fn end(&self) {
        if let Some(process) = &*self.process.lock().unwrap() {
            process.signal(Signal::SIGKILL);
        }
        if let Some(connection) = self.connection.lock().unwrap().take() {
            // Fails if the connection is gone already, which is as good.
            let _ = fs::write(format!("/sys/fs/fuse/connections/{connection}/abort"), "1");
        }
    }
}

/// The binary under test: `LITEFS_BIN`, else the one that was built beside this test.
///
/// # Panics
/// If there is none.
pub fn litefs() -> PathBuf {
    if let Some(path) = std::env::var_os("LITEFS_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().unwrap();
    let path = test.ancestors().nth(2).unwrap().join("litefs");
    assert!(path.exists(), "{path:?} isn't there: build it first (cargo build -p litefs-cli)");
    path
}

/// Detaches a mount, whatever is open on it.
pub fn unmount(dir: &Path) -> bool {
    umount2(dir, MntFlags::MNT_DETACH).is_ok()
        || Command::new("fusermount3")
            .arg("-uz")
            .arg(dir)
            .output()
            .is_ok_and(|o| o.status.success())
}

fn watch(mounted: Arc<Mounted>, limit: Duration) -> Sender<()> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        if receiver.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
            eprintln!("a node lived longer than {limit:?}: its mount is aborted");
            mounted.end();
        }
    });
    sender
}

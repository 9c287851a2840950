//! A network of hosts in the kernel: a namespace each, joined by a switch.
//!
//! ```text
//!   Network   namespace with a bridge        port1      port2   …
//!                                              │ veth     │
//!   Host      namespace                      eth0       eth0
//!                                          10.99.0.1  10.99.0.2
//! ```
//!
//! Any process can live on a host ([`Host::command`]), and a [`crate::node::Node`] by its option `through`. Only the network is
//! the host's: files and mounts are everybody's, so a test reads a node's mount as if there were no host.
//!
//! Failures are silent, as those of a real network: no reset comes back, and no error but "no route" after some seconds.
//!
//! ```text
//!   unplug  the cable: the host hears nobody and nobody hears it
//!   lose    one way: what one host sends to another goes to a hardware address that nobody has
//! ```
//!
//! Networks know nothing of each other, so all have the same addresses. Namespaces end with their owners, also if a test panics;
//! one whose processes outlive it ends with the last of them.

use std::ffi::OsStr;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::thread;

use nix::sched::{CloneFlags, setns};

use crate::node::LIMIT;
use crate::process::Process;

/// A switch.
#[derive(Debug)]
pub struct Network {
    switch: Arc<Namespace>,
    hosts: AtomicU8,
}

/// A machine, as far as its network goes.
#[derive(Debug)]
pub struct Host {
    namespace: Namespace,
    switch: Arc<Namespace>,
    number: u8,
}

#[derive(Debug)]
struct Namespace {
    name: String,
}

impl Network {
    /// A switch without hosts.
    ///
    /// # Panics
    /// If the kernel has no namespaces, or the test isn't root.
    pub fn new() -> Network {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let switch = Namespace::new(format!("litefs-test-{}-{count}", std::process::id()));
        // Forwards from the first moment on.
        switch.ip("link add switch type bridge forward_delay 0 mcast_snooping 0");
        switch.ip("link set switch up");
        Network { switch: Arc::new(switch), hosts: AtomicU8::new(0) }
    }

    /// A new host, plugged in.
    ///
    /// # Panics
    /// If there are too many.
    pub fn host(&self) -> Host {
        let number = self.hosts.fetch_add(1, Ordering::Relaxed) + 1;
        let namespace = Namespace::new(format!("{}-{number}", self.switch.name));
        let host = Host { namespace, switch: self.switch.clone(), number };
        let (port, name, mac) = (host.port(), &host.namespace.name, host.hardware());
        self.switch
            .ip(&format!("link add {port} type veth peer name eth0 address {mac} netns {name}"));
        self.switch.ip(&format!("link set {port} master switch up"));
        host.namespace.ip("link set lo up");
        host.namespace.ip("link set eth0 up");
        host.namespace.ip(&format!("address add {}/24 dev eth0", host.ip()));
        host
    }
}

impl Default for Network {
    fn default() -> Network {
        Network::new()
    }
}

impl Host {
    /// Its address.
    pub fn ip(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 99, 0, self.number)
    }

    /// Its address with a port.
    pub fn address(&self, port: u16) -> SocketAddr {
        (self.ip(), port).into()
    }

    /// The program that starts another one on this host in its own place, with its arguments.
    pub fn through(&self) -> Vec<String> {
        vec!["nsenter".into(), format!("--net=/run/netns/{}", self.namespace.name)]
    }

    /// A program that is to run on this host.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let through = self.through();
        let mut command = Command::new(&through[0]);
        command.args(&through[1..]).arg(program);
        command
    }

    /// Does the work on a thread of this host: sockets that are made there stay there.
    ///
    /// # Panics
    /// If the work does.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(format!("/run/netns/{}", self.namespace.name)).unwrap();
        let on_host = || {
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        };
        let done = thread::scope(|scope| scope.spawn(on_host).join());
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Pulls its cable.
    pub fn unplug(&self) {
        self.switch.ip(&format!("link set {} down", self.port()));
    }

    /// Plugs it in again.
    pub fn plug(&self) {
        self.switch.ip(&format!("link set {} up", self.port()));
    }

    /// From now on what it sends to the other is lost; what the other sends arrives.
    pub fn lose(&self, to: &Host) {
        self.neighbour(to, "02:99:00:00:00:ff");
    }

    /// Ends [`Host::lose`].
    pub fn carry(&self, to: &Host) {
        self.neighbour(to, &to.hardware());
    }

    fn neighbour(&self, other: &Host, mac: &str) {
        let ip = other.ip();
        self.namespace.ip(&format!("neighbour replace {ip} lladdr {mac} nud permanent dev eth0"));
    }

    fn port(&self) -> String {
        format!("port{}", self.number)
    }

    fn hardware(&self) -> String {
        format!("02:99:00:00:00:{:02x}", self.number)
    }
}

impl Namespace {
    fn new(name: String) -> Namespace {
        let namespace = Namespace { name };
        namespace.run(&["netns", "add", &namespace.name]);
        namespace
    }

    /// Runs `ip` in it.
    #[track_caller]
    fn ip(&self, words: &str) {
        let words = words.split(' ');
        self.run(&["-netns", &self.name].into_iter().chain(words).collect::<Vec<_>>());
    }

    #[track_caller]
    fn run(&self, args: &[&str]) {
        let (code, output) = Process::run(Command::new("ip").args(args), LIMIT);
        assert_eq!(code, Some(0), "{}: ip {args:?}: {output}", self.name);
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let output = Command::new("ip").args(["netns", "delete", &self.name]).output();
        if !output.as_ref().is_ok_and(|output| output.status.success()) {
            eprintln!("namespace {} is left: {output:?}", self.name);
        }
    }
}

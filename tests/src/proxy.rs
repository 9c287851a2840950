//! A network that fails: a TCP proxy in the test's process.
//!
//! ```text
//!   replica ──► Proxy ──► primary      bytes pass, until the test says otherwise:
//!                 │
//!                 ├─ stall     connections stay open, and nothing moves any more
//!                 ├─ delay     each piece of the answer is late
//!                 ├─ cut       all connections end; the next one may pass
//!                 ├─ target    somebody else answers, or nobody
//!                 ├─ record    all bytes of the connections that come are kept
//!                 ├─ fault     one byte of the next answer is flipped, or the answer ends before it
//!                 └─ cut_next  the next connection ends within what is asked, or answered; others go on
//! ```
//!
//! A fault may count bytes of the connection or of the answer's body. For the latter the proxy follows HTTP/2's
//! frames, and leaves their headers as they are: so the damage gets through HTTP/2 to whoever reads the body.
//!
//! The proxy's address stays the same for its life, whatever the target's is.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::shutdown;

use crate::netns::Host;

/// A proxy; its connections end with it.
#[derive(Debug)]
pub struct Proxy {
    addr: SocketAddr,
    listener: TcpListener,
    shared: Arc<Shared>,
}

/// Damage to the answer of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// What is counted.
    pub layer: Layer,
    /// The byte that it strikes, from 0.
    pub at: u64,
    /// What happens to it.
    pub damage: Damage,
}

/// What a [`Fault`] counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// All bytes of the connection.
    Tcp,
    /// The bytes of the answer's body.
    Body,
}

/// What happens to the byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// The connection ends before it.
    Cut,
    /// These bits are flipped.
    Flip(u8),
}

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the one who has connected.
    Request,
    /// To it.
    Answer,
}

/// The bytes of a connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recorded {
    /// What the client sent.
    pub request: Vec<u8>,
    /// What came back.
    pub answer: Vec<u8>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    target: Option<SocketAddr>,
    stalled: bool,
    delay: Duration,
    fault: Option<Fault>,
    request_fault: Option<Fault>,
    accepted: u64,
    struck: u64,
    recording: bool,
    records: Vec<Recorded>,
    /// Both ends of each connection.
    ends: Vec<TcpStream>,
    closed: bool,
}

impl Proxy {
    /// A proxy without a target: who connects is sent away.
    ///
    /// # Panics
    /// If there is no port.
    pub fn start() -> Proxy {
        Proxy::accept_on(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    /// A proxy that only processes on that host reach, at its loopback address. It leads to this process's network.
    ///
    /// # Panics
    /// If there is no port.
    pub fn start_on(host: &Host) -> Proxy {
        Proxy::accept_on(host.within(|| TcpListener::bind("127.0.0.1:0")).unwrap())
    }

    fn accept_on(listener: TcpListener) -> Proxy {
        let addr = listener.local_addr().unwrap();
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new() });
        let (accepting, ending) = (shared.clone(), listener.try_clone().unwrap());
        thread::spawn(move || {
            for from in listener.incoming().map_while(Result::ok) {
                accepting.connect(from);
            }
        });
        Proxy { addr, listener: ending, shared }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Where new connections lead; `None`: nowhere.
    pub fn set_target(&self, target: Option<SocketAddr>) {
        self.shared.change(|state| state.target = target);
    }

    /// Whether nothing moves.
    pub fn stall(&self, stalled: bool) {
        self.shared.change(|state| state.stalled = stalled);
    }

    /// How late each piece of an answer is.
    pub fn delay(&self, delay: Duration) {
        self.shared.change(|state| state.delay = delay);
    }

    /// Ends all connections.
    pub fn cut(&self) {
        self.shared.change(State::cut);
    }

    /// Ends all connections; the next one is damaged.
    pub fn cut_and_damage(&self, fault: Fault) {
        self.shared.change(|state| {
            state.fault = Some(fault);
            state.cut();
        });
    }

    /// The next connection ends before its byte `at` of that way; `None`: it doesn't.
    pub fn cut_next(&self, way: Way, at: Option<u64>) {
        let fault = at.map(|at| Fault { layer: Layer::Tcp, at, damage: Damage::Cut });
        self.shared.change(|state| match way {
            Way::Request => state.request_fault = fault,
            Way::Answer => state.fault = fault,
        });
    }

    /// Keeps all bytes of the connections that come from now on.
    pub fn record(&self) {
        self.shared.change(|state| state.recording = true);
    }

    /// What was recorded of each connection so far.
    pub fn records(&self) -> Vec<Recorded> {
        self.shared.lock().records.clone()
    }

    /// How many connections there were.
    pub fn accepted(&self) -> u64 {
        self.shared.lock().accepted
    }

    /// How many faults have struck.
    pub fn struck(&self) -> u64 {
        self.shared.lock().struck
    }

    /// Waits until `count` faults have struck; whether they have.
    pub fn wait_struck(&self, count: u64, limit: Duration) -> bool {
        self.shared.wait(limit, |state| state.struck >= count)
    }

    /// Waits until there were `count` connections; whether there were.
    pub fn wait_accepted(&self, count: u64, limit: Duration) -> bool {
        self.shared.wait(limit, |state| state.accepted >= count)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.change(|state| {
            state.closed = true;
            state.cut();
        });
        // Wakes the thread that accepts, and ends it.
        let _ = shutdown(self.listener.as_raw_fd(), nix::sys::socket::Shutdown::Both);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic inside")
    }

    fn change(&self, f: impl FnOnce(&mut State)) {
        f(&mut self.lock());
        self.changed.notify_all();
    }

    fn wait(&self, limit: Duration, ready: impl Fn(&State) -> bool) -> bool {
        let deadline = Instant::now() + limit;
        let mut state = self.lock();
        while !ready(&state) {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return false };
            (state, _) = self.changed.wait_timeout(state, left).expect("no panic inside");
        }
        true
    }

    fn connect(self: &Arc<Shared>, from: TcpStream) {
        let target = self.lock().target;
        let to = target.and_then(|target| TcpStream::connect(target).ok());
        let Some(to) = to else {
            self.change(|state| state.accepted += 1);
            return;
        };
        let clone = |stream: &TcpStream| stream.try_clone().expect("descriptors are left");
        let (from2, to2) = (clone(&from), clone(&to));
        let (mut fault, mut request_fault, mut record) = (None, None, None);
        self.change(|state| {
            state.accepted += 1;
            state.ends.extend([clone(&from), clone(&to)]);
            fault = state.fault.take();
            request_fault = state.request_fault.take();
            if state.recording {
                record = Some(state.records.len());
                state.records.push(Recorded::default());
            }
        });
        let (up, down) = (self.clone(), self.clone());
        thread::spawn(move || up.pump(from, to, request_fault, record, false));
        thread::spawn(move || down.pump(to2, from2, fault, record, true));
    }

    fn pump(
        &self,
        mut from: TcpStream,
        mut to: TcpStream,
        fault: Option<Fault>,
        record: Option<usize>,
        is_answer: bool,
    ) {
        let mut injector = fault.map(Injector::new);
        let mut buf = vec![0; 64 << 10];
        while let Ok(n @ 1..) = from.read(&mut buf) {
            if !self.may_pass(is_answer) {
                break;
            }
            let (len, struck) = injector.as_mut().map_or((n, false), |i| i.apply(&mut buf[..n]));
            if let Some(record) = record {
                let record = &mut self.lock().records[record];
                let half = if is_answer { &mut record.answer } else { &mut record.request };
                half.extend(&buf[..len]);
            }
            let sent = to.write_all(&buf[..len]);
            if struck {
                self.change(|state| state.struck += 1);
            }
            if sent.is_err() || len < n {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    }

    /// Waits while nothing moves; whether the proxy still lives.
    fn may_pass(&self, is_answer: bool) -> bool {
        let mut state = self.lock();
        while state.stalled && !state.closed {
            state = self.changed.wait(state).expect("no panic inside");
        }
        let (closed, delay) = (state.closed, state.delay);
        drop(state);
        if is_answer && !delay.is_zero() {
            thread::sleep(delay);
        }
        !closed
    }
}

impl State {
    fn cut(&mut self) {
        for end in self.ends.drain(..) {
            // It may have ended by itself.
            let _ = end.shutdown(Shutdown::Both);
        }
    }
}

/// Finds the byte that a fault strikes.
struct Injector {
    fault: Fault,
    seen: u64,
    /// The HTTP/2 frame's header so far, and how much is left of its payload.
    header: Vec<u8>,
    payload: usize,
}

impl Injector {
    fn new(fault: Fault) -> Injector {
        Injector { fault, seen: 0, header: Vec::new(), payload: 0 }
    }

    /// How many of the bytes are to be sent, and whether the fault has struck.
    fn apply(&mut self, bytes: &mut [u8]) -> (usize, bool) {
        for (i, byte) in bytes.iter_mut().enumerate() {
            if !self.counts(*byte) {
                continue;
            }
            self.seen += 1;
            if self.seen == self.fault.at + 1 {
                match self.fault.damage {
                    Damage::Cut => return (i, true),
                    Damage::Flip(bits) => *byte ^= bits,
                }
                return (bytes.len(), true);
            }
        }
        (bytes.len(), false)
    }

    fn counts(&mut self, byte: u8) -> bool {
        if self.fault.layer == Layer::Tcp {
            return true;
        }
        if self.payload > 0 {
            self.payload -= 1;
            let is_data = self.header[3] == 0;
            if self.payload == 0 {
                self.header.clear();
            }
            return is_data;
        }
        self.header.push(byte);
        if self.header.len() == FRAME_HEADER_LEN {
            let len = [0, self.header[0], self.header[1], self.header[2]];
            self.payload = u32::from_be_bytes(len) as usize;
            if self.payload == 0 {
                self.header.clear();
            }
        }
        false
    }
}

/// Length (3), type (1; 0 is data), flags (1), stream (4). Source: RFC 9113, "Frame Format".
const FRAME_HEADER_LEN: usize = 9;

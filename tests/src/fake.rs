//! A Consul that says what the test tells it to, and remembers what it was asked.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// A request as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Method and target: `PUT /v1/txn`.
    pub line: String,
    /// Lower-case names.
    pub headers: Vec<(String, String)>,
    /// What came with it.
    pub body: String,
}

impl Asked {
    /// A header by its lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// What is said to it.
#[derive(Debug, Clone)]
pub struct Reply {
    status: u16,
    body: String,
    index: u64,
    late: Duration,
}

impl Reply {
    /// Said at once.
    pub fn new(status: u16, body: &str) -> Reply {
        Reply { status, body: body.into(), index: 1, late: Duration::ZERO }
    }

    /// The state of the place.
    pub fn index(self, index: u64) -> Reply {
        Reply { index, ..self }
    }

    /// Said after this time.
    pub fn late(self, late: Duration) -> Reply {
        Reply { late, ..self }
    }
}

/// It runs until the process ends.
#[derive(Debug)]
pub struct Fake {
    addr: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Fake {
    /// `answer` is called once for each request.
    ///
    /// # Panics
    /// If there is no port.
    pub fn start(answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let asked = Arc::<Mutex<Vec<Asked>>>::default();
        let (answer, log) = (Arc::new(answer), asked.clone());
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (answer, log) = (answer.clone(), log.clone());
                thread::spawn(move || {
                    let mut reader = BufReader::new(&stream);
                    while let Some(asked) = read(&mut reader) {
                        log.lock().unwrap().push(asked.clone());
                        let reply = answer(&asked);
                        thread::sleep(reply.late);
                        if write(&stream, &reply).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Fake { addr, asked }
    }

    /// Where it listens, as a URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.addr
    }

    /// All requests so far.
    ///
    /// # Panics
    /// If `answer` has.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// Method, target and body of each, a line each.
    pub fn script(&self) -> Vec<String> {
        let line = |asked: &Asked| format!("{} {}", asked.line, asked.body).trim().to_owned();
        self.asked().iter().map(line).collect()
    }
}

/// `None` at the end of the connection.
fn read(reader: &mut impl BufRead) -> Option<Asked> {
    let mut line = || {
        let mut text = String::new();
        (reader.read_line(&mut text).ok()? > 0).then(|| text.trim_end().to_owned())
    };
    let first = line()?;
    let mut headers = Vec::new();
    loop {
        let text = line()?;
        let Some((name, value)) = text.split_once(": ") else { break };
        headers.push((name.to_lowercase(), value.to_owned()));
    }
    let line = first.strip_suffix(" HTTP/1.1")?.to_owned();
    let mut asked = Asked { line, headers, body: String::new() };
    let length = asked.header("content-length").map_or(0, |length| length.parse().unwrap());
    reader.take(length).read_to_string(&mut asked.body).ok()?;
    Some(asked)
}

fn write(mut stream: &TcpStream, reply: &Reply) -> std::io::Result<()> {
    let Reply { status, body, index, .. } = reply;
    let length = body.len();
    let head = format!("Content-Length: {length}\r\nX-Consul-Index: {index}\r\n");
    stream.write_all(format!("HTTP/1.1 {status} -\r\n{head}\r\n{body}").as_bytes())
}

//! HTTP by hand, as any program may ask a node or Consul.
//!
//! HTTP/1.0, so an answer is all there is on the connection.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Status and body of the answer; no single step may take longer than `limit`.
///
/// # Errors
/// If there is none.
pub fn ask(
    addr: SocketAddr,
    method: &str,
    target: &str,
    body: &str,
    limit: Duration,
) -> io::Result<(u16, Vec<u8>)> {
    let mut stream = TcpStream::connect_timeout(&addr, limit)?;
    stream.set_read_timeout(Some(limit))?;
    let length = body.len();
    write!(stream, "{method} {target} HTTP/1.0\r\nContent-Length: {length}\r\n\r\n{body}")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n");
    let body = end.map(|end| answer.split_off(end + 4));
    let head = String::from_utf8_lossy(&answer);
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    status.zip(body).ok_or_else(|| io::Error::other(format!("no HTTP answer: {head:?}")))
}

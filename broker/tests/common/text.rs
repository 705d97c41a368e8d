//! A client that speaks text: what it sends and gets are lines.
#![allow(dead_code, unreachable_pub)]

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{PATIENCE, new_socket, uninterrupted};

/// What lets in where everybody may come in.
pub const RESOLVE: &str =
    r#"[[0 <A <resolve <ref {oid: "syndicate" sig: #[acowDB2/oI+6aSEC3YIxGg==]}> #:[0 0]> 1>]]"#;

trait Conn: Read + Write + Send {
    fn set_timeout(&self, timeout: Duration);
    fn finish(&self);
}

impl Conn for TcpStream {
    fn set_timeout(&self, timeout: Duration) {
        self.set_read_timeout(Some(timeout)).unwrap();
    }

    fn finish(&self) {
        let _ = self.shutdown(Shutdown::Write);
    }
}

impl Conn for UnixStream {
    fn set_timeout(&self, timeout: Duration) {
        self.set_read_timeout(Some(timeout)).unwrap();
    }

    fn finish(&self) {
        let _ = self.shutdown(Shutdown::Write);
    }
}

/// See the module's head.
pub struct TextClient {
    conn: Box<dyn Conn>,
    unread: Vec<u8>,
    /// Up to where there is no newline in `unread`.
    searched: usize,
}

impl TextClient {
    pub fn tcp(address: SocketAddr) -> TextClient {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        TextClient::new(Box::new(stream))
    }

    /// With a small receive buffer, so that what it does not read stays with the broker.
    pub fn narrow(address: SocketAddr) -> TextClient {
        use rustix::net::{connect, sockopt};
        let fd = new_socket();
        sockopt::set_socket_recv_buffer_size(&fd, 4096).unwrap();
        connect(&fd, &address).unwrap();
        TextClient::new(Box::new(TcpStream::from(fd)))
    }

    pub fn unix(path: &Path) -> TextClient {
        TextClient::new(Box::new(UnixStream::connect(path).unwrap()))
    }

    fn new(conn: Box<dyn Conn>) -> TextClient {
        TextClient { conn, unread: Vec::new(), searched: 0 }
    }

    /// Asks for the dataspace, which becomes oid 1.
    pub fn resolved(mut self) -> TextClient {
        self.send(RESOLVE);
        assert_eq!(without_handles(&self.line()), "[[0, <A <ok #:[0, 1]> H>]]");
        self
    }

    pub fn send(&mut self, text: &str) {
        self.send_bytes(text.as_bytes());
        self.send_bytes(b"\n");
    }

    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.conn.write_all(bytes).unwrap();
    }

    /// Sends bytes without minding whether the broker ends the connection meanwhile.
    pub fn send_anyway(&mut self, bytes: &[u8]) {
        let _ = self.conn.write_all(bytes);
    }

    /// The next line, without its end; nothing if the connection ends before there is one.
    pub fn next_line(&mut self) -> Option<String> {
        let start = Instant::now();
        let mut chunk = vec![0; 64 << 10];
        loop {
            if let Some(at) = self.unread[self.searched..].iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.unread.drain(..self.searched + at + 1).collect();
                self.searched = 0;
                return Some(String::from_utf8(line[..line.len() - 1].to_vec()).expect("it is text"));
            }
            self.searched = self.unread.len();
            assert!(start.elapsed() < PATIENCE, "a line comes; there is {:?}", self.unread);
            self.conn.set_timeout(Duration::from_secs(1));
            match uninterrupted(|| self.conn.read(&mut chunk)) {
                Ok(0) => {
                    assert!(self.unread.is_empty(), "it ends within a line: {:?}", self.unread);
                    return None;
                }
                Ok(read) => self.unread.extend_from_slice(&chunk[..read]),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => return None,
            }
        }
    }

    pub fn line(&mut self) -> String {
        self.next_line().expect("the connection goes on")
    }

    /// What comes before the answer to a Sync at `oid`.
    pub fn sync_at(&mut self, oid: i64) -> Vec<String> {
        self.send(&format!("[[{oid} <S #:[0 999999]>]]"));
        let mut lines = Vec::new();
        loop {
            let line = self.line();
            if line == "[[999999, <M #t>]]" {
                return lines;
            }
            lines.push(line);
        }
    }

    /// Expects the connection to end with an Error packet, and returns its message.
    pub fn ends_with_error(&mut self) -> String {
        loop {
            let line = self.next_line().expect("it ends with an Error packet");
            if let Some(rest) = line.strip_prefix("<error \"") {
                let message = rest.strip_suffix("\" #f>").expect("a message and #f");
                assert_eq!(self.next_line(), None, "after {message}");
                return message.to_owned();
            }
        }
    }

    /// Ends the sending direction, unless the connection has ended already.
    pub fn finish_anyway(&mut self) {
        self.conn.finish();
    }

    /// Reads to the end of the connection, whatever comes: a change may have made binary of what it sent.
    pub fn drain(&mut self) {
        self.conn.set_timeout(PATIENCE);
        let mut chunk = vec![0; 64 << 10];
        loop {
            match uninterrupted(|| self.conn.read(&mut chunk)) {
                Ok(0) => return,
                Ok(_) => {}
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    panic!("neither goes on nor ends")
                }
                Err(_) => return,
            }
        }
    }

    /// The lines up to the end of the connection.
    pub fn rest(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.next_line()).collect()
    }

    /// What it has not read yet, as bytes.
    pub fn read_bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.unread);
        self.searched = 0;
        self.conn.set_timeout(PATIENCE);
        while bytes.len() < count {
            let mut chunk = vec![0; count - bytes.len()];
            let read = uninterrupted(|| self.conn.read(&mut chunk)).unwrap();
            assert!(read > 0);
            bytes.extend_from_slice(&chunk[..read]);
        }
        bytes
    }
}

/// A line with the broker's handles, which are different each time, as `H`.
pub fn without_handles(line: &str) -> String {
    let mut out = String::new();
    let mut rest = line;
    while let Some(at) = rest.find(">]") {
        let before = &rest[..at];
        let digits = before.bytes().rev().take_while(u8::is_ascii_digit).count();
        let is_handle = digits > 0 && !before.ends_with(">]");
        let kept = if is_handle { at - digits } else { at };
        out.push_str(&rest[..kept]);
        out.push_str(if is_handle { "H>]" } else { ">]" });
        rest = &rest[at + 2..];
    }
    out + rest
}

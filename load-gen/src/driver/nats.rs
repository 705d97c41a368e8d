//! The text protocol of NATS, as far as comparing 1->1 and fan-out needs it.
//!
//! The server's PING goes unanswered; it asks every two minutes and gives up after the third, which is longer
//! than any run here.

use std::os::fd::OwnedFd;

use super::framed::line_end;
use super::{Driver, Launch, Place, Session};
use crate::client::{Contact, Error, connect, receive, send_all};
use crate::drive::Port;
use crate::payload::{HEAD_BYTES, blank};
use crate::sink::{Intake, OBSERVER_OID, Sink, Subscriptions};
use crate::source::{Shape, Source, Template};
use crate::wire::decode::Malformed;

/// Longest line that is waited for.
const LINE_BYTES_MAX: usize = 64 * 1024;

/// `PUB` commands, with the producer's name as subject.
pub fn template(shape: &Shape) -> Template {
    let mut packet = format!("PUB {} {}\r\n", shape.name, shape.payload_bytes).into_bytes();
    let at = packet.len();
    packet.extend_from_slice(&blank(shape.payload_bytes));
    packet.extend_from_slice(b"\r\n");
    Template::repeat(&packet, &[at], shape.write_bytes)
}

/// `nats-server`.
#[derive(Debug)]
pub struct Nats;

impl Driver for Nats {
    fn kind(&self) -> &'static str {
        "nats"
    }
    fn program(&self) -> &'static str {
        "nats-server"
    }

    fn launch(&self, place: &Place) -> Launch {
        let config = place.file("nats.conf");
        let text = format!("listen: \"127.0.0.1:{}\"\n", place.port);
        Launch {
            args: vec!["-c".into(), config.display().to_string()],
            files: vec![(config, text)],
            address: place.tcp(),
        }
    }

    fn open(
        &self,
        contact: Contact<'_>,
        topics: &[String],
        subscriptions: Subscriptions,
    ) -> Result<Session, Error> {
        let (fd, kept) = subscribe(contact, topics)?;
        Ok(Session { fd, kept, sink: Box::new(Messages::new(subscriptions)), target: 0 })
    }

    fn frame(&self, _target: u64, topic: &str, payload: &[u8], out: &mut Vec<u8>) -> usize {
        out.extend_from_slice(format!("PUB {topic} {}\r\n", payload.len()).as_bytes());
        let at = out.len();
        out.extend_from_slice(payload);
        out.extend_from_slice(b"\r\n");
        at
    }
}

/// Connects and subscribes to `subjects`.
pub fn open_consumer(
    contact: Contact<'_>,
    subjects: &[String],
    subscriptions: Subscriptions,
) -> Result<Port, Error> {
    let (fd, kept) = subscribe(contact, subjects)?;
    Ok(Port::new(fd, kept, None, Box::new(Messages::new(subscriptions))))
}

/// A session with subscriptions numbered from [`OBSERVER_OID`].
fn subscribe(contact: Contact<'_>, subjects: &[String]) -> Result<(OwnedFd, Vec<u8>), Error> {
    let (fd, mut kept) = open(contact)?;
    let mut commands = String::new();
    for (i, subject) in subjects.iter().enumerate() {
        let sid = OBSERVER_OID + i as u64;
        commands.push_str(&format!("SUB {subject} {sid}\r\n"));
    }
    commands.push_str("PING\r\n");
    send_all(&fd, commands.as_bytes())?;
    wait_line(&fd, &mut kept, b"PONG")?;
    Ok((fd, kept))
}

/// Connects a producer.
pub fn open_producer(
    contact: Contact<'_>,
    source: Box<dyn Source>,
    subscriptions: Subscriptions,
) -> Result<Port, Error> {
    let (fd, kept) = open(contact)?;
    Ok(Port::new(fd, kept, Some(source), Box::new(Messages::new(subscriptions))))
}

fn open(contact: Contact<'_>) -> Result<(OwnedFd, Vec<u8>), Error> {
    let fd = connect(contact)?;
    let mut kept = vec![];
    wait_line(&fd, &mut kept, b"INFO").map_err(|e| match e {
        Error::Silent(time) => {
            Error::Usage(format!("no server of NATS is there: no INFO within {} s", time.as_secs_f64()))
        }
        e => e,
    })?;
    send_all(&fd, b"CONNECT {\"verbose\":false,\"pedantic\":false,\"lang\":\"raw\"}\r\nPING\r\n")?;
    wait_line(&fd, &mut kept, b"PONG")?;
    Ok((fd, kept))
}

/// Reads lines until one begins with `start`.
fn wait_line(fd: &OwnedFd, kept: &mut Vec<u8>, start: &[u8]) -> Result<(), Error> {
    let mut buf = vec![0; 16 * 1024];
    loop {
        while let Some(end) = line_end(kept) {
            let line: Vec<u8> = kept.drain(..end).collect();
            if line.starts_with(start) {
                return Ok(());
            }
            if line.starts_with(b"-ERR") {
                return Err(Error::PeerFailed(String::from_utf8_lossy(&line).trim().to_owned()));
            }
        }
        let n = receive(fd, &mut buf)?;
        kept.extend_from_slice(&buf[..n]);
    }
}

/// A session with subscriptions.
struct Messages {
    subscriptions: Subscriptions,
    /// The header line last seen, the checker it belongs to, and the payload's length.
    last: Option<(Vec<u8>, u32, usize)>,
}

impl Messages {
    fn new(subscriptions: Subscriptions) -> Messages {
        Messages { subscriptions, last: None }
    }

    /// One line, and the payload if it is a `MSG`; `None` if it is not all there.
    fn item(&mut self, buf: &[u8], intake: &mut Intake) -> Result<Option<usize>, Malformed> {
        if let Some((header, checker, len)) = &self.last
            && buf.starts_with(header)
        {
            let end = header.len() + len + 2;
            if buf.len() < end {
                return Ok(None);
            }
            self.subscriptions.take(*checker, &buf[header.len()..end - 2], intake);
            return Ok(Some(end));
        }
        let Some(end) = line_end(buf) else {
            return if buf.len() > LINE_BYTES_MAX {
                Err(Malformed::new(0, "endless line"))
            } else {
                Ok(None)
            };
        };
        let line = &buf[..end];
        if line.starts_with(b"-ERR") {
            intake.failure = Some(String::from_utf8_lossy(line).trim().to_owned());
        }
        if !line.starts_with(b"MSG ") {
            return Ok(Some(end));
        }
        let (sid, len) = parse_msg(line).ok_or_else(|| Malformed::new(0, "MSG line"))?;
        match self.subscriptions.find(sid, None) {
            Some(checker) if len >= HEAD_BYTES => {
                self.last = Some((line.to_vec(), checker, len));
                self.item(buf, intake)
            }
            _ if buf.len() < end + len + 2 => Ok(None),
            _ => {
                intake.misdelivered += 1;
                Ok(Some(end + len + 2))
            }
        }
    }
}

impl Sink for Messages {
    fn data(&mut self, buf: &[u8], intake: &mut Intake) -> Result<usize, Malformed> {
        let mut at = 0;
        while let Some(n) = self.item(&buf[at..], intake)? {
            at += n;
        }
        Ok(at)
    }
    fn expected(&self, sent: &[u64]) -> u64 {
        self.subscriptions.expected(sent)
    }
    fn faults(&self, sent: &[u64]) -> crate::check::Faults {
        self.subscriptions.faults(sent)
    }
    fn so_far(&self) -> crate::check::Faults {
        self.subscriptions.so_far()
    }
    fn received(&self) -> Vec<u64> {
        self.subscriptions.received()
    }
}

/// Subscription number and payload length of `MSG subject sid [reply] length`.
fn parse_msg(line: &[u8]) -> Option<(u64, usize)> {
    let fields: Vec<&str> = std::str::from_utf8(line).ok()?.split_ascii_whitespace().collect();
    Some((fields.get(2)?.parse().ok()?, fields.last()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::Stamp;
    use crate::sink::Scrutiny;

    #[test]
    fn messages_split_anywhere() {
        let mut bytes = b"PING\r\n".to_vec();
        for (sid, seq) in [(1, 0u64), (1, 1), (2, 0), (9, 0), (1, 2)] {
            bytes.extend_from_slice(format!("MSG p0 {sid} 24\r\n").as_bytes());
            let mut payload = blank(24);
            Stamp { seq, sent_ns: 0 }.write(&mut payload);
            bytes.extend_from_slice(&payload);
            bytes.extend_from_slice(b"\r\n");
        }
        for cut in 0..=bytes.len() {
            let scrutiny = Scrutiny { time_every: 1, body_every: 1 };
            let mut sink = Messages::new(Subscriptions::by_literal(vec![0, 1], 24, scrutiny));
            let mut intake = Intake::default();
            let taken = sink.data(&bytes[..cut], &mut intake).unwrap();
            assert_eq!(sink.data(&bytes[taken..], &mut intake), Ok(bytes.len() - taken), "cut at {cut}");
            assert_eq!((intake.delivered, intake.misdelivered, intake.damaged), (4, 1, 0));
            assert_eq!(sink.faults(&[3, 1]).total(), 0);
        }
    }
}

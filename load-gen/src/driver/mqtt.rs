//! MQTT 3.1.1 with quality of service 0, and mosquitto.

use std::sync::atomic::{AtomicU64, Ordering};

use super::framed::{Frame, Framed};
use super::{Driver, Launch, Place, Session, wait_for};
use crate::client::{Contact, Error, connect, send_all};
use crate::sink::Subscriptions;
use crate::wire::decode::Malformed;

const CONNECT: u8 = 0x10;
const CONNACK: u8 = 0x20;
const PUBLISH: u8 = 0x30;
const SUBSCRIBE: u8 = 0x82;
const SUBACK: u8 = 0x90;

/// Topics in one SUBSCRIBE.
const TOPICS_MAX: usize = 1000;

/// `mosquitto`.
#[derive(Debug)]
pub struct Mosquitto;

impl Driver for Mosquitto {
    fn kind(&self) -> &'static str {
        "mosquitto"
    }
    fn version_flag(&self) -> &'static str {
        "-h"
    }

    fn launch(&self, place: &Place) -> Launch {
        let config = place.file("mosquitto.conf");
        let text = format!(
            "listener {} 127.0.0.1\nallow_anonymous true\npersistence false\nlog_type error\n",
            place.port
        );
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
        let fd = connect(contact)?;
        let mut kept = vec![];
        send_all(&fd, &hello())?;
        await_packet(&fd, &mut kept, CONNACK)?;
        for some in topics.chunks(TOPICS_MAX) {
            send_all(&fd, &subscribe(some))?;
            await_packet(&fd, &mut kept, SUBACK)?;
        }
        Ok(Session { fd, kept, sink: Box::new(Framed::new(next, subscriptions)), target: 0 })
    }

    fn frame(&self, _target: u64, topic: &str, payload: &[u8], out: &mut Vec<u8>) -> usize {
        out.push(PUBLISH);
        length(out, 2 + topic.len() + payload.len());
        text(out, topic);
        out.extend_from_slice(payload);
        out.len() - payload.len()
    }
}

/// A CONNECT with a fresh name, a clean session, and no keep-alive.
fn hello() -> Vec<u8> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    // Relaxed: only uniqueness matters.
    let name = format!("load-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let mut body = vec![];
    text(&mut body, "MQTT");
    body.extend_from_slice(&[4, 2, 0, 0]);
    text(&mut body, &name);
    packet(CONNECT, &body)
}

fn subscribe(topics: &[String]) -> Vec<u8> {
    let mut body = vec![0, 1];
    for topic in topics {
        text(&mut body, topic);
        body.push(0);
    }
    packet(SUBSCRIBE, &body)
}

fn packet(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![kind];
    length(&mut out, body.len());
    out.extend_from_slice(body);
    out
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u16).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// The remaining length: base 128, least significant group first.
fn length(out: &mut Vec<u8>, n: usize) {
    crate::wire::encode::varint(out, n);
}

fn await_packet(fd: &std::os::fd::OwnedFd, kept: &mut Vec<u8>, kind: u8) -> Result<(), Error> {
    wait_for(fd, kept, |buf| {
        let Some((start, end)) = extent(buf)? else { return Ok(None) };
        if buf.len() < end {
            return Ok(None);
        }
        if buf[0] == CONNACK && buf[start + 1..end] != [0] {
            return Err(Error::Refused(format!("CONNACK {}", buf[end - 1])));
        }
        Ok(Some((end, buf[0] == kind)))
    })
}

/// Where the body of the packet at the beginning starts and ends, once its length is there.
fn extent(buf: &[u8]) -> Result<Option<(usize, usize)>, Malformed> {
    let mut len = 0;
    for (i, byte) in buf.iter().skip(1).take(4).enumerate() {
        len |= usize::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Ok(Some((i + 2, i + 2 + len)));
        }
    }
    if buf.len() > 4 { Err(Malformed::new(1, "endless length")) } else { Ok(None) }
}

fn next(buf: &[u8]) -> Result<Frame<'_>, Malformed> {
    let Some((start, end)) = extent(buf)? else { return Ok(Frame::Incomplete) };
    let Some(body) = buf.get(start..end) else { return Ok(Frame::Incomplete) };
    if buf[0] & 0xf0 != PUBLISH {
        return Ok(Frame::Other(end));
    }
    let topic_len = body.first_chunk::<2>().map(|n| usize::from(u16::from_be_bytes(*n)));
    let parts = topic_len.and_then(|n| body[2..].split_at_checked(n));
    let (topic, payload) = parts.ok_or_else(|| Malformed::new(start, "a topic longer than its packet"))?;
    Ok(Frame::Message { topic, payload, len: end })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_split_anywhere() {
        let preface = [SUBACK, 3, 0, 1, 0];
        super::super::framed::check(next, &preface, |topic, payload| {
            let mut out = vec![];
            let at = Mosquitto.frame(0, topic, payload, &mut out);
            assert_eq!(&out[at..], payload);
            out
        });
    }
}

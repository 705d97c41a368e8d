//! Redis: PUBLISH and SUBSCRIBE, in its protocol RESP 2.

use super::framed::{Frame, Framed, line_end};
use super::{Driver, Launch, Place, Session, wait_for};
use crate::client::{Contact, Error, connect, send_all};
use crate::sink::Subscriptions;
use crate::wire::decode::Malformed;

/// `redis-server`.
#[derive(Debug)]
pub struct Redis;

impl Driver for Redis {
    fn kind(&self) -> &'static str {
        "redis"
    }
    fn program(&self) -> &'static str {
        "redis-server"
    }

    fn launch(&self, place: &Place) -> Launch {
        let config = place.file("redis.conf");
        let text = format!(
            "bind 127.0.0.1\nport {}\ndir {}\nsave \"\"\nappendonly no\ndaemonize no\nmaxclients 20000\n",
            place.port,
            place.dir.display()
        );
        Launch { args: vec![config.display().to_string()], files: vec![(config, text)], address: place.tcp() }
    }

    fn open(
        &self,
        contact: Contact<'_>,
        topics: &[String],
        subscriptions: Subscriptions,
    ) -> Result<Session, Error> {
        let fd = connect(contact)?;
        let (mut kept, mut command) = (vec![], vec![]);
        let is_consumer = !topics.is_empty();
        if is_consumer {
            array(&mut command, topics.len() + 1);
            bulk(&mut command, b"SUBSCRIBE");
            topics.iter().for_each(|topic| bulk(&mut command, topic.as_bytes()));
        } else {
            array(&mut command, 1);
            bulk(&mut command, b"PING");
        }
        send_all(&fd, &command)?;
        let mut answers = 0;
        wait_for(&fd, &mut kept, |buf| {
            Ok(match next(buf)? {
                Frame::Incomplete => None,
                Frame::Failed(text, _) => {
                    return Err(Error::PeerFailed(String::from_utf8_lossy(text).trim().to_owned()));
                }
                Frame::Other(n) | Frame::Message { len: n, .. } => {
                    answers += 1;
                    Some((n, answers == topics.len().max(1)))
                }
            })
        })?;
        Ok(Session { fd, kept, sink: Box::new(Framed::new(next, subscriptions)), target: 0 })
    }

    fn frame(&self, _target: u64, topic: &str, payload: &[u8], out: &mut Vec<u8>) -> usize {
        array(out, 3);
        bulk(out, b"PUBLISH");
        bulk(out, topic.as_bytes());
        bulk(out, payload);
        out.len() - payload.len() - 2
    }
}

fn array(out: &mut Vec<u8>, n: usize) {
    out.extend_from_slice(format!("*{n}\r\n").as_bytes());
}

fn bulk(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(format!("${}\r\n", bytes.len()).as_bytes());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// The number in a header line as `$12\r\n`, and the offset after it.
fn number(buf: &[u8], at: usize) -> Result<Option<(u8, usize, usize)>, Malformed> {
    let Some(len) = line_end(&buf[at..]) else {
        let is_endless = buf.len() - at > 64;
        return if is_endless { Err(Malformed::new(at, "a header without an end")) } else { Ok(None) };
    };
    let line = std::str::from_utf8(&buf[at..at + len]).ok().map(str::trim_end);
    let digits = line.and_then(|l| l.get(1..)).and_then(|d| d.parse::<i64>().ok());
    let n = digits.ok_or_else(|| Malformed::new(at, "no number in a header"))?;
    Ok(Some((buf[at], n.max(0) as usize, at + len)))
}

fn next(buf: &[u8]) -> Result<Frame<'_>, Malformed> {
    let Some(first) = buf.first() else { return Ok(Frame::Incomplete) };
    match first {
        b'-' => return Ok(line_end(buf).map_or(Frame::Incomplete, |n| Frame::Failed(&buf[..n], n))),
        b'*' => {}
        b':' | b'+' => return Ok(line_end(buf).map_or(Frame::Incomplete, Frame::Other)),
        _ => return Err(Malformed::new(0, format!("no reply of Redis begins with {first:#x}"))),
    }
    let Some((_, count, mut at)) = number(buf, 0)? else { return Ok(Frame::Incomplete) };
    let mut parts = [&[][..]; 3];
    for i in 0..count {
        let Some((kind, n, start)) = number(buf, at)? else { return Ok(Frame::Incomplete) };
        at = start;
        if kind == b'$' {
            let Some(part) = buf.get(start..start + n) else { return Ok(Frame::Incomplete) };
            if buf.len() < start + n + 2 {
                return Ok(Frame::Incomplete);
            }
            if let Some(place) = parts.get_mut(i) {
                *place = part;
            }
            at += n + 2;
        }
    }
    Ok(match parts {
        [b"message", topic, payload] => Frame::Message { topic, payload, len: at },
        _ => Frame::Other(at),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_split_anywhere() {
        let preface = b"*3\r\n$9\r\nsubscribe\r\n$2\r\na0\r\n:1\r\n:5\r\n+OK\r\n";
        super::super::framed::check(next, preface, |topic, payload| {
            let mut out = vec![];
            array(&mut out, 3);
            [b"message", topic.as_bytes(), payload].iter().for_each(|part| bulk(&mut out, part));
            out
        });
    }

    #[test]
    fn what_is_published_has_its_payload_where_it_says() {
        let mut out = vec![];
        let at = Redis.frame(0, "a0", &[7; 20], &mut out);
        assert_eq!(&out[..at], b"*3\r\n$7\r\nPUBLISH\r\n$2\r\na0\r\n$20\r\n");
        assert_eq!(&out[at..], [&[7; 20][..], b"\r\n"].concat());
    }
}

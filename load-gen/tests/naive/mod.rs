//! A broker small enough to be right: one lock, one thread for each session, everything linear. It can be told to
//! misbehave.
#![allow(dead_code)] // Each test program uses a part of it.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};

use rustix::net::SendFlags;
use staunch_load::wire::decode::{Event, elements, label, skip, turn_event, unsigned};
use staunch_load::wire::{END, SEQUENCE, encode};

/// What the broker does to a message on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mischief {
    None,
    /// Message number n (counted over all deliveries) is not delivered.
    Drop(u64),
    /// It is delivered twice.
    Repeat(u64),
    /// Its last payload byte is changed.
    Spoil(u64),
    /// It is delivered to an oid that nobody exported.
    Stray(u64),
    /// Instead of it every session ends.
    Die(u64),
    /// Instead of it comes an Error packet.
    Fail(u64),
    /// It is delivered after the next one.
    Swap(u64),
    /// Whoever does not read is kept everything for, without an end.
    Hoard,
    /// What somebody does not read in time is lost.
    Lose,
    /// Who does not read in time is disconnected.
    Cut,
    /// The reference is rejected.
    Refuse,
    /// Nothing is ever answered.
    Mute,
}

struct Observer {
    session: u64,
    handle: u64,
    oid: u64,
    label: Vec<u8>,
    /// Index and constant, or a capture.
    entries: Vec<(usize, Option<Vec<u8>>)>,
    out: UnixStream,
    /// Takes what is to be written, where that may wait without an end.
    hoard: Option<Sender<Vec<u8>>>,
}

#[derive(Default)]
struct Space {
    observers: Vec<Observer>,
    /// By session and handle: number in order of assertion, and value.
    held: HashMap<(u64, u64), (u64, Vec<u8>)>,
    next: u64,
    /// A message that is late.
    late: Option<Vec<u8>>,
}

/// Starts a broker on a fresh socket; it lives as long as the test process.
pub(crate) fn start(mischief: Mischief) -> PathBuf {
    let path = fresh_path();
    let listener = UnixListener::bind(&path).unwrap();
    let space: Arc<Mutex<Space>> = Arc::default();
    let deliveries: Arc<AtomicU64> = Arc::default();
    std::thread::spawn(move || {
        for (session, stream) in (0..).zip(listener.incoming()) {
            let (space, deliveries) = (space.clone(), deliveries.clone());
            std::thread::spawn(move || {
                let session =
                    Session { number: session, stream: stream.unwrap(), space, deliveries, mischief };
                session.run();
            });
        }
    });
    path
}

/// Starts a bare relay on a fresh socket: it joins connections two by two.
pub(crate) fn relay() -> PathBuf {
    let path = fresh_path();
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        while let (Ok((a, _)), Ok((b, _))) = (listener.accept(), listener.accept()) {
            let pass_on = |mut from: UnixStream, mut to: UnixStream| {
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Write);
            };
            let (a_from, b_to) = (a.try_clone().unwrap(), b.try_clone().unwrap());
            std::thread::spawn(move || pass_on(a_from, b_to));
            std::thread::spawn(move || pass_on(b, a));
        }
    });
    path
}

fn fresh_path() -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    // Relaxed: only uniqueness matters.
    let n = COUNT.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("naive-{}-{n}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    path
}

struct Session {
    number: u64,
    stream: UnixStream,
    space: Arc<Mutex<Space>>,
    deliveries: Arc<AtomicU64>,
    mischief: Mischief,
}

impl Session {
    fn run(mut self) {
        let (mut kept, mut buf) = (vec![], vec![0; 65536]);
        loop {
            let n = self.stream.read(&mut buf).unwrap_or(0);
            if n == 0 {
                break self.end();
            }
            kept.extend_from_slice(&buf[..n]);
            let mut at = 0;
            while let Some(end) = skip(&kept[at..], 0).unwrap() {
                self.packet(&kept[at..at + end]);
                at += end;
            }
            kept.drain(..at);
        }
    }

    fn packet(&mut self, packet: &[u8]) {
        if packet[0] != SEQUENCE {
            return;
        }
        let mut at = 1;
        while packet[at] != END {
            let (oid, event, next) = turn_event(packet, at).unwrap().unwrap();
            at = next;
            match event {
                Event::Assert { .. } if self.mischief == Mischief::Mute => {}
                Event::Assert { value, .. } if oid == 0 && self.mischief == Mischief::Refuse => {
                    assert_eq!(label(value), Some(&b"resolve"[..]));
                    let why = |out: &mut Vec<u8>| encode::string(out, "not you");
                    let answer = |out: &mut Vec<u8>| encode::record(out, "rejected", why);
                    send(&self.stream, |out| encode::assert(out, 0, 1, answer));
                }
                Event::Assert { value, .. } if oid == 0 => {
                    assert_eq!(label(value), Some(&b"resolve"[..]));
                    let answer = |out: &mut Vec<u8>| encode::record(out, "ok", |out| encode::own_cap(out, 1));
                    send(&self.stream, |out| encode::assert(out, 0, 1, answer));
                }
                Event::Assert { value, handle } if label(value) == Some(b"Observe") => {
                    self.observe(value, handle)
                }
                Event::Assert { value, handle } => {
                    let mut space = self.space.lock().unwrap();
                    space.next += 1;
                    let number = space.next;
                    space.held.insert((self.number, handle), (number, value.to_vec()));
                    for o in &space.observers {
                        o.tell_assert(value, number);
                    }
                }
                Event::Retract { handle } => self.retract(handle),
                Event::Message { body } => self.message(body),
                Event::Sync => send(&self.stream, |out| encode::message(out, 0, |out| out.push(0x81))),
            }
        }
    }

    fn observe(&mut self, value: &[u8], handle: u64) {
        let fields = elements(value).unwrap();
        let group = elements(fields[0]).unwrap();
        let label = elements(group[0]).unwrap()[0].to_vec();
        let (dictionary, mut at, mut entries) = (group[1], 1, vec![]);
        while dictionary[at] != END {
            let (index, pattern_at) = unsigned(dictionary, at).unwrap().unwrap();
            at = skip(dictionary, pattern_at).unwrap().unwrap();
            let pattern = &dictionary[pattern_at..at];
            let is_literal = staunch_load::wire::decode::label(pattern) == Some(b"lit");
            entries.push((index as usize, is_literal.then(|| elements(pattern).unwrap()[0].to_vec())));
        }
        let oid = unsigned(elements(&fields[1][1..]).unwrap()[1], 0).unwrap().unwrap().0;
        let out = self.stream.try_clone().unwrap();
        let hoard = (self.mischief == Mischief::Hoard).then(|| hoarder(out.try_clone().unwrap()));
        let observer = Observer { session: self.number, handle, oid, label, entries, out, hoard };
        let mut space = self.space.lock().unwrap();
        let mut held: Vec<_> = space.held.values().collect();
        held.sort();
        for (number, value) in held {
            observer.tell_assert(value, *number);
        }
        space.observers.push(observer);
    }

    fn retract(&mut self, handle: u64) {
        let mut space = self.space.lock().unwrap();
        let session = self.number;
        space.observers.retain(|o| (o.session, o.handle) != (session, handle));
        if let Some((number, value)) = space.held.remove(&(session, handle)) {
            for o in space.observers.iter().filter(|o| o.captures(&value).is_some()) {
                send(&o.out, |out| encode::retract(out, o.oid, number));
            }
        }
    }

    fn message(&mut self, body: &[u8]) {
        let mut space = self.space.lock().unwrap();
        let mut late = space.late.take();
        for o in &space.observers {
            let Some(mut captures) = o.captures(body) else { continue };
            // Relaxed: the lock orders it.
            let n = self.deliveries.fetch_add(1, Ordering::Relaxed);
            let (mut oid, mut times) = (o.oid, 1);
            match self.mischief {
                Mischief::Drop(k) if k == n => times = 0,
                Mischief::Repeat(k) if k == n => times = 2,
                Mischief::Stray(k) if k == n => oid = 99,
                Mischief::Swap(k) if k == n => {
                    late = Some(captures);
                    break;
                }
                Mischief::Die(k) if k == n => {
                    for o in &space.observers {
                        let _ = o.out.shutdown(Shutdown::Both);
                    }
                    return;
                }
                Mischief::Fail(k) if k == n => {
                    let mut packet = vec![];
                    encode::record(&mut packet, "error", |out| {
                        encode::string(out, "had enough");
                        out.push(0x80);
                    });
                    let _ = (&o.out).write_all(&packet);
                    return;
                }
                Mischief::Spoil(k) if k == n => {
                    let last = captures.len() - 2;
                    captures[last] ^= 1;
                }
                _ => {}
            }
            for captures in std::iter::repeat_n(&captures, times).chain(late.take().as_ref()) {
                let mut packet = vec![];
                encode::turn(&mut packet, |out| {
                    encode::message(out, oid, |out| out.extend_from_slice(captures))
                });
                o.write(&packet, self.mischief);
            }
        }
        space.late = late;
    }

    fn end(self) {
        self.space.lock().unwrap().observers.retain(|o| o.session != self.number);
        let handles: Vec<u64> = {
            let space = self.space.lock().unwrap();
            space.held.keys().filter(|k| k.0 == self.number).map(|k| k.1).collect()
        };
        let mut this = self;
        handles.into_iter().for_each(|h| this.retract(h));
    }
}

/// A thread that writes what it is given, when that can be written.
fn hoarder(mut out: UnixStream) -> Sender<Vec<u8>> {
    let (sender, receiver) = channel::<Vec<u8>>();
    std::thread::spawn(move || receiver.iter().take_while(|packet| out.write_all(packet).is_ok()).count());
    sender
}

impl Observer {
    fn write(&self, packet: &[u8], mischief: Mischief) {
        if let Some(hoard) = &self.hoard {
            let _ = hoard.send(packet.to_vec());
            return;
        }
        let mut at = 0;
        if matches!(mischief, Mischief::Lose | Mischief::Cut) {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            at = rustix::net::send(&self.out, packet, flags).unwrap_or(0);
            if at == 0 && mischief == Mischief::Cut {
                let _ = self.out.shutdown(Shutdown::Both);
            }
            if at == 0 {
                return;
            }
        }
        // Who has gone away misses it.
        let _ = (&self.out).write_all(&packet[at..]);
    }

    fn captures(&self, value: &[u8]) -> Option<Vec<u8>> {
        // The label is compared with its tag and length.
        let end = skip(value, 1).ok()??;
        (value[1..end] == self.label[..]).then_some(())?;
        let fields = elements(value)?;
        let mut out = vec![SEQUENCE];
        for (index, constant) in &self.entries {
            match constant {
                Some(constant) if *fields.get(*index)? != &constant[..] => return None,
                Some(_) => {}
                None => out.extend_from_slice(fields.get(*index)?),
            }
        }
        out.push(END);
        Some(out)
    }

    fn tell_assert(&self, value: &[u8], number: u64) {
        if let Some(captures) = self.captures(value) {
            let assertion = |out: &mut Vec<u8>| out.extend_from_slice(&captures);
            send(&self.out, |out| encode::assert(out, self.oid, number, assertion));
        }
    }
}

fn send(mut to: &UnixStream, event: impl FnOnce(&mut Vec<u8>)) {
    let mut packet = vec![];
    encode::turn(&mut packet, event);
    // Who has gone away misses it.
    let _ = to.write_all(&packet);
}

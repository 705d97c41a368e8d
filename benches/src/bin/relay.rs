//! The floor: a bare relay that moves bytes between two sockets without looking at them.
//!
//! Whatever a broker spends beyond this is the price of routing; whatever it spends less, it saves by batching.
//!
//! `relay --listen tcp:127.0.0.1:PORT` or `relay --listen unix:PATH`. One thread, one epoll set. Two connections
//! are accepted and joined, and everything read from one is written to the other, in both directions. When both
//! have ended, or one has failed, the next two are accepted. A direction whose writer is slow is not read
//! meanwhile; so at most [`BUFFER_BYTES`] per direction are in the relay.

use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::ExitCode;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown};

/// Most bytes read at once.
const BUFFER_BYTES: usize = 128 * 1024;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [flag, address] = &args[..] else { return usage() };
    if flag != "--listen" {
        return usage();
    }
    match listen(address) {
        Ok(listener) => match serve(&listener) {
            Ok(never) => match never {},
            Err(e) => fail(&format!("accepting: {e}")),
        },
        Err(e) => fail(&format!("{address}: {e}")),
    }
}

fn usage() -> ExitCode {
    fail("usage: relay --listen tcp:ADDRESS:PORT|unix:PATH")
}

fn fail(why: &str) -> ExitCode {
    eprintln!("relay: {why}");
    ExitCode::from(2)
}

/// Where connections come from.
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

fn listen(address: &str) -> std::io::Result<Listener> {
    if let Some(address) = address.strip_prefix("tcp:") {
        return TcpListener::bind(address).map(Listener::Tcp);
    }
    if let Some(path) = address.strip_prefix("unix:") {
        // A socket file that an earlier relay left behind.
        if let Err(e) = std::fs::remove_file(path)
            && e.kind() != std::io::ErrorKind::NotFound
        {
            return Err(e);
        }
        return UnixListener::bind(path).map(Listener::Unix);
    }
    Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "neither tcp: nor unix:"))
}

impl Listener {
    fn accept(&self) -> std::io::Result<OwnedFd> {
        let fd: OwnedFd = match self {
            Listener::Tcp(listener) => {
                let stream: TcpStream = listener.accept()?.0;
                stream.set_nodelay(true)?;
                stream.into()
            }
            Listener::Unix(listener) => listener.accept()?.0.into(),
        };
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(fd)
    }
}

/// Joins connections two by two, for ever.
fn serve(listener: &Listener) -> std::io::Result<std::convert::Infallible> {
    loop {
        let sides = [listener.accept()?, listener.accept()?];
        // One pair's failure ends that pair only.
        if let Err(e) = relay(&sides) {
            eprintln!("relay: {e}");
        }
    }
}

/// One direction.
struct Lane {
    buf: Box<[u8]>,
    /// The part of `buf` that was read and not yet written.
    start: usize,
    end: usize,
    has_ended: bool,
}

impl Lane {
    fn new() -> Lane {
        Lane { buf: vec![0; BUFFER_BYTES].into(), start: 0, end: 0, has_ended: false }
    }

    fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Reads once and writes what it can of it.
    fn pump(&mut self, from: &OwnedFd, to: &OwnedFd) -> Result<(), Errno> {
        if self.is_empty() && !self.has_ended {
            match rustix::net::recv(from, &mut self.buf[..], RecvFlags::DONTWAIT) {
                Ok((_, 0)) => self.has_ended = true,
                Ok((_, n)) => (self.start, self.end) = (0, n),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(e) => return Err(e),
            }
        }
        self.flush(to)
    }

    fn flush(&mut self, to: &OwnedFd) -> Result<(), Errno> {
        while !self.is_empty() {
            let rest = &self.buf[self.start..self.end];
            match rustix::net::send(to, rest, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(n) => self.start += n,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(e) => return Err(e),
            }
        }
        if self.has_ended {
            // The reader may have gone; then there is nobody to tell.
            let _ = rustix::net::shutdown(to, Shutdown::Write);
        }
        Ok(())
    }
}

/// Relays until both sides have ended. `lanes[i]` is what side `i` sends.
fn relay(sides: &[OwnedFd; 2]) -> Result<(), Errno> {
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    let mut lanes = [Lane::new(), Lane::new()];
    let mut interests = [EventFlags::IN; 2];
    for (i, side) in sides.iter().enumerate() {
        epoll::add(&epoll, side, EventData::new_u64(i as u64), interests[i])?;
    }
    let mut ready = Vec::with_capacity(2);
    while !lanes.iter().all(|lane| lane.has_ended && lane.is_empty()) {
        ready.clear();
        match epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut ready), None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
        for event in &ready {
            let (side, flags) = (event.data.u64() as usize, event.flags);
            let other = 1 - side;
            if flags.contains(EventFlags::OUT) {
                lanes[other].flush(&sides[side])?;
            }
            if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
                lanes[side].pump(&sides[side], &sides[other])?;
            }
            // Gone in both directions, and nothing of it is left to write: epoll would report it for ever.
            if flags.contains(EventFlags::HUP) && lanes[side].has_ended && lanes[side].is_empty() {
                return Ok(());
            }
        }
        for side in 0..2 {
            let mut wanted = EventFlags::empty();
            wanted.set(EventFlags::IN, lanes[side].is_empty() && !lanes[side].has_ended);
            wanted.set(EventFlags::OUT, !lanes[1 - side].is_empty());
            if wanted != interests[side] {
                epoll::modify(&epoll, &sides[side], EventData::new_u64(side as u64), wanted)?;
                interests[side] = wanted;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    #[test]
    fn bytes_survive_a_slow_reader_in_both_directions() {
        let (mut a, a_side) = UnixStream::pair().unwrap();
        let (mut b, b_side) = UnixStream::pair().unwrap();
        let sides = [a_side.into(), b_side.into()];
        let relaying = std::thread::spawn(move || relay(&sides));
        let sent: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
        let to_send = sent.clone();
        let mut a_writes = a.try_clone().unwrap();
        let writing = std::thread::spawn(move || {
            a_writes.write_all(&to_send).unwrap();
            a_writes.shutdown(std::net::Shutdown::Write).unwrap();
        });
        b.write_all(b"back").unwrap();
        b.shutdown(std::net::Shutdown::Write).unwrap();
        let (mut got, mut piece) = (vec![], [0; 777]);
        loop {
            let n = b.read(&mut piece).unwrap();
            if n == 0 {
                break;
            }
            got.extend_from_slice(&piece[..n]);
        }
        writing.join().unwrap();
        assert!(got == sent);
        let mut back = vec![];
        a.read_to_end(&mut back).unwrap();
        assert_eq!(back, b"back");
        relaying.join().unwrap().unwrap();
    }
}

//! What the kernel knows of a TCP peer's answers.
//!
//! A peer that lives and does not read is told from one that has vanished by its acknowledgements: its kernel answers
//! each question for room, with "none" if need be.

use std::io;
use std::time::Duration;

use nix::libc;
use nix::sys::socket::sockopt::{GetStruct, SetStruct};
use nix::sys::socket::{GetSockOpt, SetSockOpt};
use nix::{getsockopt_impl, setsockopt_impl};

use super::Stream;

/// What is owed by a TCP peer, as of now. Nothing, by a Unix one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    /// Something that was written has not been acknowledged: it is on its way, or waits until the peer has room.
    pub is_owed: bool,
    /// Time since the peer's last acknowledgement of anything. (Also while nothing is owed.)
    pub silence: Duration,
    /// How often the peer has been asked since: repetitions of what was sent, and questions for room.
    pub asked: u32,
}

/// The beginning of `struct tcp_info` (`linux/tcp.h`), which only grows at its end; so much there is since Linux 4.6.
#[repr(C)]
#[derive(Clone, Copy)]
struct Info {
    /// State, congestion state, timeouts of retransmission, unanswered probes, backoff, and flags.
    bytes: [u8; 8],
    /// From the timeout (`tcpi_rto`) to the number of retransmissions (`tcpi_total_retrans`).
    words: [u32; 24],
    /// Pacing, and counts of bytes.
    long: [u64; 4],
    /// Segments out and in, bytes not sent, the shortest round trip.
    more: [u32; 4],
}

impl Info {
    const RETRANSMITS: usize = 2;
    const PROBES: usize = 3;
    const UNACKED: usize = 4;
    const LAST_ACK_RECV_MS: usize = 12;
    const NOTSENT_BYTES: usize = 2;
}

/// `TCP_INFO`
#[derive(Clone, Copy)]
struct TcpInfo;
getsockopt_impl!(TcpInfo, libc::IPPROTO_TCP, libc::TCP_INFO, Info, GetStruct<Info>);

/// `TCP_RTO_MAX_MS`, since Linux 6.15.
#[derive(Clone)]
struct RtoMax;
const TCP_RTO_MAX_MS: libc::c_int = 44;
setsockopt_impl!(RtoMax, libc::IPPROTO_TCP, TCP_RTO_MAX_MS, u32, SetStruct<u32>);

impl Stream {
    /// What the peer owes. Cost: one system call.
    ///
    /// # Errors
    /// None is expected.
    pub fn answers(&self) -> io::Result<Answers> {
        if !self.is_tcp() {
            return Ok(Answers::default());
        }
        let Info { bytes, words, more, .. } = TcpInfo.get(self)?;
        Ok(Answers {
            is_owed: words[Info::UNACKED] > 0 || more[Info::NOTSENT_BYTES] > 0,
            silence: Duration::from_millis(words[Info::LAST_ACK_RECV_MS].into()),
            asked: u32::from(bytes[Info::RETRANSMITS]) + u32::from(bytes[Info::PROBES]),
        })
    }

    /// Has the kernel wait no longer than this, 1 to 120 s, before it repeats what a TCP peer has not acknowledged, or
    /// asks it for room again; else the pauses double up to 120 s. Nothing to a Unix stream.
    ///
    /// # Errors
    /// Before Linux 6.15, which does not know the option.
    pub fn set_retry_interval_max(&self, interval: Duration) -> io::Result<()> {
        if self.is_tcp() {
            let millis = interval.as_millis().clamp(1000, 120_000) as u32;
            RtoMax.set(self, &millis)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{Buffers, Listener, ListenerAddress};
    use std::time::Instant;

    /// Waits until something that will happen has happened.
    fn until(mut happened: impl FnMut() -> bool) {
        let start = Instant::now();
        while !happened() {
            assert!(start.elapsed() < Duration::from_secs(60), "it happens");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_peer_that_does_not_read_owes_and_answers() {
        let small = Buffers { send_bytes: Some(65536), receive_bytes: Some(4096) };
        let listener = Listener::tcp("127.0.0.1:0".parse().unwrap(), small).unwrap();
        let ListenerAddress::Tcp(address) = *listener.address() else { panic!("it is TCP") };
        let peer = Stream::connect_tcp(address, small).unwrap();
        let mut accepted = None;
        until(|| {
            accepted = listener.accept().unwrap();
            accepted.is_some()
        });
        let (ours, _) = accepted.unwrap();
        assert!(!ours.answers().unwrap().is_owed);
        match ours.set_retry_interval_max(Duration::from_secs(1)) {
            Err(error) => eprintln!("{error}: before Linux 6.15 it is not known"),
            Ok(()) => {
                // With pauses of a second at most there is an answer every second or so; each takes back the question.
                while ours.write(&[0; 65536]).is_ok() {}
                let start = Instant::now();
                while start.elapsed() < Duration::from_secs(4) {
                    let answers = ours.answers().unwrap();
                    assert!(answers.is_owed && answers.silence < Duration::from_secs(30), "{answers:?}");
                    std::thread::sleep(Duration::from_millis(20));
                }
                until(|| ours.answers().unwrap().silence < Duration::from_secs(1));
            }
        }
        // Once it reads it owes nothing.
        until(|| {
            let _ = peer.read(&mut [0; 65536]);
            !ours.answers().unwrap().is_owed
        });
        let (one, _other) = Stream::pair().unwrap();
        one.write(b"x").unwrap();
        assert_eq!(one.answers().unwrap(), Answers::default());
        one.set_retry_interval_max(Duration::from_secs(1)).unwrap();
    }
}

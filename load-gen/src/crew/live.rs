//! One client of a scenario while it runs.

use std::os::fd::OwnedFd;
use std::sync::mpsc::Receiver;

use rustix::event::epoll::EventFlags;

use super::feed::Feed;
use crate::client::Error;
use crate::driver::Session;
use crate::script::Reads;
use crate::sink::Sink;

/// What a relay may have read and not yet written before it stops reading.
pub(super) const RELAY_BYTES_MAX: usize = 256 * 1024;

/// A slow reader may make up for so many seconds in which nothing was there.
const BURST_S: f64 = 0.02;

/// One client.
pub(super) struct Live {
    /// The group's number in the scenario, and the client's in the group.
    pub(super) group: usize,
    pub(super) client: usize,
    pub(super) link: Link,
    pub(super) kept: Vec<u8>,
    pub(super) sink: Box<dyn Sink>,
    pub(super) feed: Option<Feed>,
    pub(super) relay: Option<Relay>,
    pub(super) slow: Option<Bucket>,
    /// It does not read because the scenario says so.
    pub(super) is_stalled: bool,
    /// It has hung up because the scenario says so.
    pub(super) is_killed: bool,
    /// Wants to write and cannot, since then.
    pub(super) blocked_since: Option<u64>,
    pub(super) blocked_ns: u64,
    /// Messages received.
    pub(super) delivered: u64,
    /// Which of its streams a producer is at, and what was accepted of those before.
    pub(super) life: usize,
    pub(super) accepted_before: Vec<u64>,
    /// What the epoll set knows.
    pub(super) flags: EventFlags,
    pub(super) wants_to_write: bool,
}

/// A client's connection.
pub(super) enum Link {
    Up(OwnedFd),
    /// Ended by the broker while it was not being read: what lies there is still to be read.
    Cut(OwnedFd),
    /// A producer that comes back: the session, once it is there.
    Coming(Receiver<Result<Session, Error>>),
    Gone,
}

/// What a relay has yet to write.
pub(super) struct Relay {
    pub(super) topics: Vec<String>,
    pub(super) target: u64,
    pub(super) queue: Vec<u8>,
    pub(super) at: usize,
}

/// What a slow reader may read.
pub(super) struct Bucket {
    reads: Reads,
    tokens: f64,
    last_ns: u64,
    pub(super) is_empty: bool,
}

impl Bucket {
    pub(super) fn new(reads: Reads) -> Bucket {
        Bucket { reads, tokens: 0.0, last_ns: 0, is_empty: false }
    }

    /// Most bytes to read at once.
    pub(super) fn read_bytes(&self) -> usize {
        match self.reads {
            Reads::Bytes(_) => (self.tokens as usize).clamp(256, 64 * 1024),
            Reads::Messages(_) => 1024,
        }
    }

    /// So much has been read.
    pub(super) fn took(&mut self, bytes: usize, messages: u64) {
        self.tokens -= match self.reads {
            Reads::Bytes(_) => bytes as f64,
            Reads::Messages(_) => messages as f64,
        };
        self.is_empty = self.tokens < 1.0;
    }

    /// Time has passed.
    pub(super) fn fill(&mut self, now_ns: u64) {
        let (Reads::Bytes(rate) | Reads::Messages(rate)) = self.reads;
        let passed = now_ns.saturating_sub(self.last_ns) as f64 / 1e9;
        self.last_ns = now_ns;
        self.tokens = (self.tokens + passed * rate).min(rate * BURST_S + 1.0);
        self.is_empty = self.tokens < 1.0;
    }
}

impl Relay {
    pub(super) fn is_full(&self) -> bool {
        self.queue.len() - self.at > RELAY_BYTES_MAX
    }

    pub(super) fn wrote(&mut self, n: usize) {
        self.at += n;
        if self.at == self.queue.len() {
            self.queue.clear();
            self.at = 0;
        } else if self.at > RELAY_BYTES_MAX {
            self.queue.drain(..self.at);
            self.at = 0;
        }
    }
}

impl Live {
    /// Whether it is to read what comes.
    pub(super) fn reads(&self) -> bool {
        let is_slow = self.slow.as_ref().is_some_and(|b| b.is_empty);
        !self.is_stalled && !is_slow && !self.relay.as_ref().is_some_and(Relay::is_full)
    }

    /// Messages accepted of all its streams.
    pub(super) fn accepted(&self) -> u64 {
        self.accepted_before.iter().sum::<u64>() + self.feed.as_ref().map_or(0, Feed::accepted)
    }

    /// It can write, or has nothing to write any more.
    pub(super) fn unblock(&mut self, now_ns: u64) {
        if let Some(since) = self.blocked_since.take() {
            self.blocked_ns += now_ns.saturating_sub(since);
        }
    }

    /// Time for which it could not write, up to now.
    pub(super) fn blocked(&self, now_ns: u64) -> u64 {
        self.blocked_ns + self.blocked_since.map_or(0, |since| now_ns.saturating_sub(since))
    }
}

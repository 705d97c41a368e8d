//! What all scenarios have in common: the broker, how much to send, and how.

use std::time::Duration;

use crate::client::{Address, Barrier, Contact, Error, looking_at};
use crate::screen::Screen;
use crate::sink::Scrutiny;
use crate::source::Shape;

/// Pause before the broker's memory is read.
const REST: Duration = Duration::from_millis(300);

/// The language spoken to the server under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Syndicate packets, binary, through the well-known reference.
    Syndicate,
    /// The text protocol of NATS: `PUB` and `MSG`.
    Nats,
    /// None: what one client writes, another is expected to read.
    Relay,
}

/// How much a run sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// As much as goes in this time.
    Time(Duration),
    /// This many messages by each producer.
    Messages(u64),
}

impl Amount {
    /// As limits for a producer that has sent `sent` and starts at `now_ns`: total and deadline.
    pub fn limits(&self, sent: u64, now_ns: u64) -> (u64, u64) {
        match self {
            Amount::Time(time) => (u64::MAX, now_ns + time.as_nanos() as u64),
            Amount::Messages(n) => (sent + n, u64::MAX),
        }
    }
}

/// Common settings of a run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the broker listens.
    pub address: Address,
    /// What it speaks.
    pub protocol: Protocol,
    /// The broker's process, if its use of processor and memory is to be read.
    pub broker_pid: Option<u32>,
    /// How much is sent while measuring.
    pub amount: Amount,
    /// How long messages flow before measuring begins.
    pub warmup: Duration,
    /// A run in which no byte moves for this long is given up; what is missing then counts as lost.
    pub patience: Duration,
    /// Bytes of payload.
    pub payload_bytes: usize,
    /// Events per Turn packet.
    pub events_per_packet: usize,
    /// Bytes per write.
    pub write_bytes: usize,
    /// The reference by which producers come in, in canonical form, if it is not the well-known one.
    pub producer_ref: Option<std::sync::Arc<[u8]>>,
    /// Observers capture the producer's name too and take every producer's messages.
    pub captures_both: bool,
    /// Compare every payload rather than a sample.
    pub checks_bodies: bool,
    /// Threads that carry the load.
    pub threads: usize,
    /// Round trips poll their sockets rather than sleep.
    pub is_spinning: bool,
    /// How clients make sure that an Observe is in place.
    pub barrier: Barrier,
    /// The progress line.
    pub screen: Screen,
}

impl Settings {
    /// The shape of the messages of producer `name`.
    pub fn shape(&self, name: String) -> Shape {
        Shape {
            name,
            payload_bytes: self.payload_bytes,
            events_per_packet: self.events_per_packet,
            extra_fields: 0,
            write_bytes: self.write_bytes,
        }
    }

    /// Whom to connect to.
    pub fn contact(&self) -> Contact<'_> {
        Contact { address: &self.address, patience: self.patience }
    }

    /// Refuses scenarios that only Syndicate brokers can play.
    pub fn require_syndicate(&self, scenario: &str) -> Result<(), Error> {
        match self.protocol {
            Protocol::Syndicate => Ok(()),
            _ => Err(Error::Usage(format!("{scenario} needs a Syndicate broker"))),
        }
    }

    /// The broker's resident memory in KiB, if its process is known, once it had a moment to come to rest.
    pub fn broker_rss_kib(&self) -> Result<Option<u64>, Error> {
        let Some(pid) = self.broker_pid else { return Ok(None) };
        std::thread::sleep(REST);
        crate::usage::rss_kib(pid).map(Some).map_err(looking_at(pid))
    }

    /// How thoroughly consumers look; latencies are sampled unless the run is about them.
    pub fn scrutiny(&self, is_timing: bool) -> Scrutiny {
        Scrutiny {
            time_every: if is_timing { 1 } else { 16 },
            body_every: if self.checks_bodies { 1 } else { 64 },
        }
    }
}

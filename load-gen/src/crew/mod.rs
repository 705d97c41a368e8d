//! The processes that carry a scenario's load, and what they and the one that directs them tell each other.
//!
//! The director ([`crate::play`]) starts one *member* for each process that the scenario asks for, and writes
//! [`Order`]s to its standard input, one line of JSON each; the member writes [`Note`]s to its standard output. Every
//! tenth of a second (a *tick*) it notes running totals of its groups; rates are differences of these, so that a
//! member that was stopped for a while leaves a gap and no error. All members run by the machine's monotonic clock.
//!
//! A member has one thread and one epoll set ([`lane`]); it reads and writes without blocking.

pub mod feed;
pub mod lane;
mod live;
pub mod member;

use serde::{Deserialize, Serialize};

use crate::check::Faults;

/// Time between two notes of running totals.
pub const TICK_NS: u64 = 100_000_000;

/// Groups of at most so many clients note each client's total.
pub const CLIENTS_NOTED_MAX: usize = 1024;

/// What a member is told first: its part.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Part {
    /// The scenario's text.
    pub text: String,
    /// How many times as long everything takes.
    pub stretch: f64,
    /// Clients that a group has at most.
    pub clients_max: usize,
    /// Rates for groups in place of those in the text: messages per second, or 0 for full speed.
    pub rates: Vec<Option<f64>>,
    /// If given, nothing of the scenario but its producers at their rates, for so many seconds.
    pub only_s: Option<f64>,
    /// The kind of driver.
    pub driver: String,
    /// Where the broker listens.
    pub address: String,
    /// Which of the scenario's processes this is.
    pub process: String,
    /// The letter that topics begin with, which nobody else uses at that broker.
    pub letter: char,
}

/// What a member is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Connect all clients of a role, and say that they are ready.
    Open(Turn),
    /// The scenario begins at this instant.
    Go(u64),
    /// So many messages had each stream. Wait until all have come, and say so.
    Drain(Vec<u64>),
}

/// Who connects when: whoever receives before whoever sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Turn {
    /// Consumers.
    Consumers,
    /// Relays.
    Relays,
    /// Producers.
    Producers,
}

/// What a member says.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Note {
    /// All clients that were asked for are connected.
    Ready,
    /// It cannot go on.
    Failed(String),
    /// Running totals.
    Tick(Vec<Totals>),
    /// The producers here have ended; messages accepted of each stream.
    Sent(Vec<(usize, u64)>),
    /// Everything has come, or nothing comes any more.
    Done(Vec<Ending>),
}

/// Running totals of one group.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Totals {
    /// The group's number.
    pub group: usize,
    /// When: nanoseconds from the start.
    pub at_ns: u64,
    /// Messages that were to be sent by now; in closed loops those that were.
    pub offered: u64,
    /// Messages of which the kernel has taken every byte.
    pub accepted: u64,
    /// Messages received.
    pub delivered: u64,
    /// Time in which clients had something to write and could not, all clients together.
    pub blocked_ns: u64,
    /// What went wrong, as far as can be said by now.
    pub faults: Faults,
    /// Connections that the broker ended.
    pub disconnects: u64,
    /// Times that producers came back.
    pub reconnects: u64,
    /// Latencies since the last tick, in microseconds: median, 99 of 100, the slowest.
    pub latency_us: Option<[f64; 3]>,
    /// For each client what it had accepted (producers) or received (all others).
    pub clients: Vec<u64>,
}

/// What is to be said of a group in the end.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Ending {
    /// The group's number.
    pub group: usize,
    /// What went wrong. Clients that were killed have lost nothing.
    pub faults: Faults,
    /// Why sessions ended that should not have: what the broker said, or how it ended them.
    pub reasons: Vec<String>,
    /// All latencies: a histogram in its serial form, in hexadecimal.
    pub latency: String,
}

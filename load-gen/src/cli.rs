//! The command line.

use std::fmt::Display;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::client::{Address, Barrier, Error, doing};
use crate::compare::Comparison;
use crate::payload::HEAD_BYTES;
use crate::report::{Report, Sample};
use crate::scenario;
use crate::scenario::stall::Comes;
use crate::screen::Screen;
use crate::settings::{Amount, Protocol, Settings};

/// Load generator and checker for Syndicate brokers.
///
/// Connects producers and consumers to a broker, sends numbered messages, checks that each arrives once and in
/// order, and reports rates, latencies, and what the broker spent. Any broker will do that has a dataspace behind
/// the well-known reference `<ref {oid: "syndicate" sig: #[acowDB2/oI+6aSEC3YIxGg==]}>`.
///
/// Messages are `<Says "a0" #x"...">`, the payload beginning with a sequence number and a time; observers use
/// `<group <rec Says> {0: <lit "a0"> 1: <bind <_>>}>`. Everything runs on one thread unless --threads says
/// otherwise. For steady figures give broker and load cores of their own, for instance with taskset.
///
/// The exit status is 0 if all arrived as it should, 1 if anything was lost, duplicated, reordered, misdelivered
/// or damaged, and 2 if the run could not be carried through.
#[derive(Debug, Parser)]
#[command(name = "staunch-load", version, max_term_width = 110)]
#[command(after_help = crate::command::OVERVIEW)]
pub struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ProtocolName {
    /// Syndicate, in binary
    Syndicate,
    /// The text protocol of NATS (one-to-one, fan-out, pairs and open-loop only)
    Nats,
    /// None: a bare relay joins two sessions (one-to-one, open-loop and ping-pong only)
    Relay,
}

#[derive(Debug, Args)]
struct Common {
    /// The broker's TCP address, with or without tcp: before it
    #[arg(long, global = true, value_name = "ADDR", conflicts_with = "unix", help_heading = "Broker")]
    #[arg(value_parser = |text: &str| address("tcp:", text))]
    tcp: Option<Address>,
    /// The broker's Unix socket, with or without unix: before it
    #[arg(long, global = true, value_name = "PATH", help_heading = "Broker")]
    #[arg(value_parser = |text: &str| address("unix:", text))]
    unix: Option<Address>,
    /// What the server speaks
    #[arg(long, global = true, value_enum, default_value = "syndicate", help_heading = "Broker")]
    protocol: ProtocolName,
    /// The broker's process: reports its use of processor and memory
    #[arg(long, global = true, value_name = "PID", help_heading = "Broker")]
    broker_pid: Option<u32>,
    /// Wait this many milliseconds after subscribing instead of using Sync; for peers that do not answer it
    #[arg(long, global = true, value_name = "MS", help_heading = "Broker")]
    settle_ms: Option<u64>,

    /// Seconds of sending per repetition
    #[arg(long, global = true, default_value = "5", value_name = "SECONDS", help_heading = "Amount")]
    #[arg(value_parser = positive_seconds)]
    duration: Duration,
    /// Send this many messages per producer instead
    #[arg(long, global = true, value_name = "N", help_heading = "Amount", value_parser = positive::<NonZeroU64>)]
    messages: Option<NonZeroU64>,
    /// Seconds of sending before measuring begins
    #[arg(long, global = true, default_value = "0.5", value_name = "SECONDS", help_heading = "Amount")]
    #[arg(value_parser = seconds)]
    warmup: Duration,
    /// Repetitions, each on fresh sessions; figures are medians
    #[arg(long, global = true, default_value = "1", value_name = "N", help_heading = "Amount")]
    #[arg(value_parser = positive::<NonZeroUsize>)]
    repeat: NonZeroUsize,
    /// Give up when nothing has moved for this many seconds; what is missing then counts as lost. Also the
    /// longest wait for a connection and its first answer
    #[arg(long, global = true, default_value = "10", value_name = "SECONDS", help_heading = "Amount")]
    #[arg(value_parser = positive_seconds)]
    patience: Duration,

    /// Bytes of payload, at least 16 [default: 64; for stall 1000000]
    #[arg(long, global = true, value_name = "BYTES", help_heading = "Messages")]
    payload: Option<usize>,
    /// Events in each Turn packet
    #[arg(long, global = true, default_value = "1", value_name = "N", help_heading = "Messages")]
    #[arg(value_parser = positive::<NonZeroUsize>)]
    events_per_packet: NonZeroUsize,
    /// Bytes per write, in whole packets
    #[arg(long, global = true, default_value = "16384", value_name = "BYTES", help_heading = "Messages")]
    #[arg(value_parser = positive::<NonZeroUsize>)]
    write_bytes: NonZeroUsize,
    /// The reference by which producers come in, such as one that is attenuated, as Preserves text
    #[arg(long, global = true, value_name = "REF", help_heading = "Messages", value_parser = reference)]
    producer_ref: Option<Reference>,
    /// Observe `{0: <bind <_>> 1: <bind <_>>}`: every consumer takes every producer's messages
    #[arg(long, global = true, help_heading = "Messages")]
    capture_both: bool,
    /// Compare every payload with what was sent, not one in 64
    #[arg(long, global = true, help_heading = "Messages")]
    check_bodies: bool,

    /// Threads to spread sessions over
    #[arg(long, global = true, default_value = "1", value_name = "N", help_heading = "Output and load")]
    #[arg(value_parser = positive::<NonZeroUsize>)]
    threads: NonZeroUsize,
    /// Write all figures of all repetitions to this file
    #[arg(long, global = true, value_name = "FILE", help_heading = "Output and load")]
    json: Option<PathBuf>,
    /// Show the progress line even if standard error is not a terminal
    #[arg(long, global = true, help_heading = "Output and load")]
    progress: bool,
}

#[derive(Debug, Subcommand)]
enum Scenario {
    /// One producer, one consumer, as fast as it goes
    OneToOne,
    /// One producer, N consumers that all get everything
    FanOut {
        /// Number of consumers
        #[arg(long, default_value = "10", value_parser = positive::<NonZeroUsize>)]
        consumers: NonZeroUsize,
    },
    /// N producers, each with a consumer of its own
    Pairs {
        /// Number of pairs
        #[arg(long, default_value = "2", value_parser = positive::<NonZeroUsize>)]
        pairs: NonZeroUsize,
    },
    /// Round trips between two sessions, one message in flight: latency
    PingPong {
        /// Poll the sockets rather than sleep, which keeps the load's own wake-ups out of the figure. Wants a core
        /// that the broker does not need.
        #[arg(long)]
        spin: bool,
    },
    /// Assertions made and retracted, seen by one observer; figures are per event, of which each makes two
    Churn {
        /// Assertions alive at a time beyond the one that comes and goes
        #[arg(long, default_value = "0")]
        live: u64,
    },
    /// 1->1 among observers of other literals, compared with 1->1 alone
    Observers {
        /// Number of other observers
        #[arg(long, default_value = "100000", value_parser = positive::<NonZeroUsize>)]
        count: NonZeroUsize,
        /// Sessions that they are spread over
        #[arg(long, default_value = "1000", value_parser = positive::<NonZeroUsize>)]
        connections: NonZeroUsize,
    },
    /// 1->1 among patterns with other constant positions for the same label; one point per count
    ///
    /// Messages carry 14 more fields. Pattern k is `<group <rec Says> {0: <lit "x"> 1: <bind <_>> ...}>` with a
    /// constant, never equal, in each field whose bit is set in k. From some 90 on, Staunch has to be started with
    /// `--limit principal-skeletons-alike=100000`.
    Skeletons {
        /// Numbers of skeletons, ascending, at most 16383
        #[arg(long, value_delimiter = ',', default_value = "1,10,100,1000,10000")]
        #[arg(value_parser = positive::<NonZeroUsize>)]
        counts: Vec<NonZeroUsize>,
        /// Sessions that they are spread over
        #[arg(long, default_value = "1", value_parser = positive::<NonZeroUsize>)]
        connections: NonZeroUsize,
        /// Let the first constant be the producer's name, so that each pattern nearly matches
        #[arg(long)]
        same_name: bool,
    },
    /// 1->1 while assertions `<Held n "...">` are held, compared with 1->1 alone; memory per assertion
    ///
    /// Memory is told as growth, so use a freshly started broker for it, and no repetitions.
    Held {
        /// Number of assertions
        #[arg(long, default_value = "1000000", value_parser = positive::<NonZeroU64>)]
        count: NonZeroU64,
        /// Bytes of each when encoded
        #[arg(long, default_value = "60")]
        value_bytes: usize,
        /// Have one session observe them, and check that it sees each, and each one's end
        #[arg(long)]
        observed: bool,
    },
    /// Connections that do nothing: memory per connection, connected only and with the reference resolved
    Idle {
        /// Number of connections
        #[arg(long, default_value = "10000", value_parser = positive::<NonZeroUsize>)]
        count: NonZeroUsize,
    },
    /// Consumers that stop reading: memory, throttling, and whether everything is there when they go on
    ///
    /// Messages have 1 MB of payload unless --payload says otherwise. --duration is how long the consumers stall;
    /// --messages limits what is sent to them. A pair of bystanders goes on meanwhile, with 64 B.
    Stall {
        /// Number of stalled consumers
        #[arg(long, default_value = "1000", value_parser = positive::<NonZeroUsize>)]
        observers: NonZeroUsize,
        /// No bystanders
        #[arg(long)]
        alone: bool,
    },
    /// An observer of many assertions that stops reading: memory beyond the store
    StallAssertions {
        /// Number of assertions
        #[arg(long, default_value = "1000000", value_parser = positive::<NonZeroU64>)]
        count: NonZeroU64,
        /// Bytes of each when encoded
        #[arg(long, default_value = "60")]
        value_bytes: usize,
        /// The observer is there before the assertions rather than after them
        #[arg(long)]
        early: bool,
        /// Another session observes the same and reads: so the broker knows already what it takes to tell of them
        #[arg(long, conflicts_with = "early")]
        observed: bool,
    },
    /// Two clients through a bare relay instead of a broker: what moving the bytes costs
    RelayFloor,
    /// A fixed rate; latency counts from the instant each message was meant to be sent
    OpenLoop {
        /// Messages per second
        #[arg(long, default_value = "100000", value_parser = positive::<NonZeroU64>)]
        rate: NonZeroU64,
        /// Number of consumers that all get everything
        #[arg(long, default_value = "1", value_parser = positive::<NonZeroUsize>)]
        consumers: NonZeroUsize,
    },
    /// Puts reports side by side: a Markdown table of medians, and of ratios of the first broker to the others
    Compare {
        /// What --json wrote, in files named GATE.BROKER.N.json
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
}

impl Cli {
    /// Runs what was asked for; gives what is to be printed, and whether all arrived as it should.
    pub fn run(&self) -> Result<(String, bool), Error> {
        if let Scenario::Compare { files } = &self.scenario {
            return Ok((Comparison::read(files)?.markdown(), true));
        }
        let settings = self.settings()?;
        let mut samples: Vec<Sample> = vec![];
        for _ in 0..self.common.repeat.get() {
            samples.extend(self.scenario.run(&settings, self.common.duration)?);
        }
        if !matches!(self.scenario, Scenario::Idle { .. })
            && let Some(idle) = samples.iter().find(|s| s.messages == 0)
        {
            return Err(Error::Usage(format!(
                "nothing was sent for {}: --duration is too short",
                idle.point
            )));
        }
        let command = std::env::args().collect();
        let report = Report::new(self.scenario.name(), settings.address.to_string(), command, &samples);
        if let Some(path) = &self.common.json {
            let json = serde_json::to_vec_pretty(&report).expect("reports have string keys");
            std::fs::write(path, json).map_err(doing(&format!("writing {}", path.display())))?;
        }
        Ok((report.table(), report.faults().total() == 0))
    }

    fn settings(&self) -> Result<Settings, Error> {
        let c = &self.common;
        let address = c.tcp.as_ref().or(c.unix.as_ref()).cloned();
        let address =
            address.ok_or_else(|| Error::Usage("give the broker's address with --tcp or --unix".into()))?;
        let usual = if matches!(self.scenario, Scenario::Stall { .. }) { 1_000_000 } else { 64 };
        let payload_bytes = c.payload.unwrap_or(usual);
        if payload_bytes < HEAD_BYTES {
            return Err(Error::Usage(format!("a payload has at least {HEAD_BYTES} bytes")));
        }
        Ok(Settings {
            address,
            protocol: match c.protocol {
                ProtocolName::Syndicate => Protocol::Syndicate,
                ProtocolName::Nats => Protocol::Nats,
                ProtocolName::Relay => Protocol::Relay,
            },
            broker_pid: c.broker_pid,
            amount: match c.messages {
                Some(n) => Amount::Messages(n.get()),
                None => Amount::Time(c.duration),
            },
            warmup: c.warmup,
            patience: c.patience,
            payload_bytes,
            events_per_packet: c.events_per_packet.get(),
            write_bytes: c.write_bytes.get(),
            producer_ref: c.producer_ref.clone(),
            captures_both: c.capture_both,
            checks_bodies: c.check_bodies,
            threads: c.threads.get(),
            is_spinning: matches!(self.scenario, Scenario::PingPong { spin: true }),
            barrier: c.settle_ms.map_or(Barrier::Sync, |ms| Barrier::Pause(Duration::from_millis(ms))),
            screen: Screen::new(c.progress),
        })
    }
}

/// A value in canonical form. (Its own type: clap takes a `Vec` for many values.)
type Reference = std::sync::Arc<[u8]>;

fn reference(text: &str) -> Result<Reference, String> {
    let limits = staunch_protocols::wire::Limits::default();
    staunch_protocols::text::parse(text, &limits).map(Reference::from).map_err(|error| error.to_string())
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|_| "not a number of seconds".to_owned())
}

fn positive_seconds(text: &str) -> Result<Duration, String> {
    match seconds(text)? {
        Duration::ZERO => Err("must be more than 0".into()),
        other => Ok(other),
    }
}

/// A number from 1 on.
fn positive<N: FromStr<Err: Display>>(text: &str) -> Result<N, String> {
    text.parse().map_err(|e: N::Err| e.to_string())
}

/// An address whose kind an option tells; it may be told again.
fn address(kind: &str, text: &str) -> Result<Address, String> {
    let other = if kind == "tcp:" { "unix:" } else { "tcp:" };
    if text.starts_with(other) {
        return Err(format!("for {other} there is another option"));
    }
    if text.starts_with(kind) { text.parse() } else { format!("{kind}{text}").parse() }
}

impl Scenario {
    fn name(&self) -> &'static str {
        match self {
            Scenario::OneToOne => "one-to-one",
            Scenario::FanOut { .. } => "fan-out",
            Scenario::Pairs { .. } => "pairs",
            Scenario::PingPong { .. } => "ping-pong",
            Scenario::Churn { .. } => "churn",
            Scenario::Observers { .. } => "observers",
            Scenario::Skeletons { .. } => "skeletons",
            Scenario::Held { .. } => "held",
            Scenario::Idle { .. } => "idle",
            Scenario::Stall { .. } => "stall",
            Scenario::StallAssertions { .. } => "stall-assertions",
            Scenario::RelayFloor => "relay-floor",
            Scenario::Compare { .. } => "compare",
            Scenario::OpenLoop { .. } => "open-loop",
        }
    }

    fn run(&self, settings: &Settings, stall: Duration) -> Result<Vec<Sample>, Error> {
        match (settings.protocol, self) {
            (Protocol::Relay, Scenario::FanOut { .. } | Scenario::Pairs { .. }) => {
                return Err(Error::Usage(format!("{} is not there for a bare relay", self.name())));
            }
            (Protocol::Relay, Scenario::OpenLoop { consumers, .. }) if consumers.get() > 1 => {
                return Err(Error::Usage("a bare relay has one consumer".into()));
            }
            (Protocol::Relay, Scenario::OneToOne | Scenario::OpenLoop { .. } | Scenario::PingPong { .. }) => {
                scenario::require_relay(settings)?;
            }
            _ => {}
        }
        match self {
            Scenario::OneToOne => scenario::one_to_one(settings),
            Scenario::FanOut { consumers } => scenario::fan_out(settings, consumers.get()),
            Scenario::Pairs { pairs } => scenario::pairs(settings, pairs.get()),
            Scenario::PingPong { .. } => scenario::ping_pong::run(settings),
            Scenario::Churn { live } => scenario::churn::run(settings, *live),
            Scenario::Observers { count, connections } => {
                scenario::crowd::observers(settings, count.get(), connections.get())
            }
            Scenario::Skeletons { counts, connections, same_name } => {
                let counts: Vec<usize> = counts.iter().map(|n| n.get()).collect();
                scenario::crowd::skeletons(settings, &counts, connections.get(), *same_name)
            }
            Scenario::Held { count, value_bytes, observed } => {
                scenario::crowd::held_by_one(settings, count.get(), *value_bytes, *observed)
            }
            Scenario::Idle { count } => scenario::idle::run(settings, count.get()),
            Scenario::Stall { observers, alone } => {
                scenario::stall::messages(settings, observers.get(), stall, !alone)
            }
            Scenario::StallAssertions { count, value_bytes, early, observed } => {
                let comes = match (early, observed) {
                    (true, _) => Comes::First,
                    (false, true) => Comes::AfterAnother,
                    (false, false) => Comes::Last,
                };
                scenario::stall::assertions(settings, count.get(), *value_bytes, stall, comes)
            }
            Scenario::RelayFloor => scenario::relay_floor(settings),
            Scenario::Compare { .. } => Ok(vec![]),
            Scenario::OpenLoop { rate, consumers } => {
                scenario::open_loop(settings, rate.get(), consumers.get())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}

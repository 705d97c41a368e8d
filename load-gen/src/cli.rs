//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::client::{Address, Barrier, Error};
use crate::payload::HEAD_BYTES;
use crate::report::{Report, Sample};
use crate::scenario;
use crate::screen::Screen;
use crate::settings::{Amount, Protocol, Settings};

/// Load generator and checker for Syndicate brokers.
///
/// Connects producers and consumers to a broker, sends numbered messages, checks that each arrives once and in
/// order, and reports rates, latencies, and what the broker spent. Any broker will do that has a dataspace behind
/// the well-known reference <ref {oid: "syndicate" sig: #[acowDB2/oI+6aSEC3YIxGg==]}>.
///
/// Messages are <Says "p0" #x"...">, the payload beginning with a sequence number and a time; observers use
/// <group <rec Says> {0: <lit "p0"> 1: <bind <_>>}>. Everything runs on one thread unless --threads says
/// otherwise. For steady figures give broker and load cores of their own, for instance with taskset.
///
/// The exit status is 0 if all arrived as it should, 1 if anything was lost, duplicated, reordered, misdelivered
/// or damaged, and 2 if the run could not be carried through.
#[derive(Debug, Parser)]
#[command(name = "staunch-load", version, max_term_width = 110)]
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
}

#[derive(Debug, Args)]
struct Common {
    /// The broker's TCP address
    #[arg(long, global = true, value_name = "ADDR", conflicts_with = "unix", help_heading = "Broker")]
    tcp: Option<SocketAddr>,
    /// The broker's Unix socket
    #[arg(long, global = true, value_name = "PATH", help_heading = "Broker")]
    unix: Option<PathBuf>,
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
    duration: f64,
    /// Send this many messages per producer instead
    #[arg(long, global = true, value_name = "N", help_heading = "Amount")]
    messages: Option<u64>,
    /// Seconds of sending before measuring begins
    #[arg(long, global = true, default_value = "0.5", value_name = "SECONDS", help_heading = "Amount")]
    warmup: f64,
    /// Repetitions, each on fresh sessions; figures are medians
    #[arg(long, global = true, default_value = "1", value_name = "N", help_heading = "Amount")]
    repeat: usize,
    /// Give up when nothing has moved for this many seconds; what is missing then counts as lost
    #[arg(long, global = true, default_value = "10", value_name = "SECONDS", help_heading = "Amount")]
    patience: f64,

    /// Bytes of payload, at least 16
    #[arg(long, global = true, default_value = "64", value_name = "BYTES", help_heading = "Messages")]
    payload: usize,
    /// Events in each Turn packet
    #[arg(long, global = true, default_value = "1", value_name = "N", help_heading = "Messages")]
    events_per_packet: usize,
    /// Bytes per write, in whole packets
    #[arg(long, global = true, default_value = "16384", value_name = "BYTES", help_heading = "Messages")]
    write_bytes: usize,
    /// Observe {0: <bind <_>> 1: <bind <_>>}: every consumer takes every producer's messages
    #[arg(long, global = true, help_heading = "Messages")]
    capture_both: bool,
    /// Compare every payload with what was sent, not one in 64
    #[arg(long, global = true, help_heading = "Messages")]
    check_bodies: bool,

    /// Threads to spread sessions over
    #[arg(long, global = true, default_value = "1", value_name = "N", help_heading = "Output and load")]
    threads: usize,
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
        #[arg(long, default_value = "10")]
        consumers: usize,
    },
    /// N producers, each with a consumer of its own
    Pairs {
        /// Number of pairs
        #[arg(long, default_value = "2")]
        pairs: usize,
    },
    /// Round trips between two sessions, one message in flight: latency
    PingPong,
    /// A fixed rate; latency counts from the instant each message was meant to be sent
    OpenLoop {
        /// Messages per second
        #[arg(long, default_value = "100000")]
        rate: u64,
        /// Number of consumers that all get everything
        #[arg(long, default_value = "1")]
        consumers: usize,
    },
}

impl Cli {
    /// Runs what was asked for; gives the report.
    pub fn run(&self) -> Result<Report, Error> {
        let settings = self.settings()?;
        let mut samples: Vec<Sample> = vec![];
        for _ in 0..self.common.repeat.max(1) {
            samples.extend(self.scenario.run(&settings)?);
        }
        let command = std::env::args().collect();
        let report = Report::new(self.scenario.name(), settings.address.to_string(), command, &samples);
        if let Some(path) = &self.common.json {
            let json = serde_json::to_vec_pretty(&report).expect("reports have string keys");
            std::fs::write(path, json)
                .map_err(crate::client::doing(&format!("writing {}", path.display())))?;
        }
        Ok(report)
    }

    fn settings(&self) -> Result<Settings, Error> {
        let c = &self.common;
        let address = match (&c.tcp, &c.unix) {
            (Some(addr), _) => Address::Tcp(*addr),
            (None, Some(path)) => Address::Unix(path.clone()),
            (None, None) => {
                return Err(Error::Usage("give the broker's address with --tcp or --unix".into()));
            }
        };
        if c.payload < HEAD_BYTES {
            return Err(Error::Usage(format!("a payload has at least {HEAD_BYTES} bytes")));
        }
        let seconds = |s: f64| Duration::try_from_secs_f64(s).map_err(|e| Error::Usage(e.to_string()));
        Ok(Settings {
            address,
            protocol: match c.protocol {
                ProtocolName::Syndicate => Protocol::Syndicate,
                ProtocolName::Nats => Protocol::Nats,
            },
            broker_pid: c.broker_pid,
            amount: match c.messages {
                Some(n) => Amount::Messages(n),
                None => Amount::Time(seconds(c.duration)?),
            },
            warmup: seconds(c.warmup)?,
            patience: seconds(c.patience)?,
            payload_bytes: c.payload,
            events_per_packet: c.events_per_packet.max(1),
            write_bytes: c.write_bytes,
            captures_both: c.capture_both,
            checks_bodies: c.check_bodies,
            threads: c.threads,
            barrier: c.settle_ms.map_or(Barrier::Sync, |ms| Barrier::Pause(Duration::from_millis(ms))),
            screen: Screen::new(c.progress),
        })
    }
}

impl Scenario {
    fn name(&self) -> &'static str {
        match self {
            Scenario::OneToOne => "one-to-one",
            Scenario::FanOut { .. } => "fan-out",
            Scenario::Pairs { .. } => "pairs",
            Scenario::PingPong => "ping-pong",
            Scenario::OpenLoop { .. } => "open-loop",
        }
    }

    fn run(&self, settings: &Settings) -> Result<Vec<Sample>, Error> {
        match self {
            Scenario::OneToOne => scenario::one_to_one(settings),
            Scenario::FanOut { consumers } => scenario::fan_out(settings, *consumers),
            Scenario::Pairs { pairs } => scenario::pairs(settings, *pairs),
            Scenario::PingPong => scenario::ping_pong::run(settings),
            Scenario::OpenLoop { rate, consumers } => scenario::open_loop(settings, *rate, *consumers),
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

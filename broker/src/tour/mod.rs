//! The tour: a broker, two producers and four consumers in one process, and a story that shows what backpressure
//! does to them. What it tells it has measured, and it fails if the story does not come true.
//!
//! # Layout
//! - `story`: the acts.
//! - `crew`: producers and consumers, a thread each.
//! - `client`: one session over TCP.
//! - `figures`: rates, debts and the ledger at one moment.
//! - `screen`: what people see, on a terminal or off it.

mod client;
mod crew;
mod figures;
mod screen;
mod story;

use std::io;
use std::time::Duration;

use staunch::server::StartError;

/// How the tour is given.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// How many seconds it takes, about.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(2..=3600))]
    seconds: u64,
    /// Print lines only, as when the output is no terminal, and no picture that is redrawn.
    #[arg(long)]
    plain: bool,
    /// Let the broker run on afterwards, for clients of your own.
    #[arg(long)]
    keep: bool,
}

impl Options {
    /// Gives the tour.
    ///
    /// # Returns
    /// The broker, if it is to be kept.
    ///
    /// # Errors
    /// [`Error`]: the first thing that was not as it should be.
    pub(crate) fn run(&self) -> Result<Option<story::Kept>, Error> {
        let screen = screen::Screen::new(self.plain);
        story::run(self.seconds, self.keep, screen)
    }
}

/// Why a tour fails.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// There is no broker.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The operating system refuses something: what was being done, and why.
    #[error("{0}: {1}")]
    Io(&'static str, #[source] io::Error),
    /// The broker does not know the well-known reference.
    #[error("the broker refused the well-known reference")]
    Refused,
    /// The broker sent what is no packet.
    #[error("the broker sent something that is not the protocol: {0}")]
    Malformed(String),
    /// The broker sent an Error packet: its text.
    #[error("the broker reported an error: {0}")]
    Peer(String),
    /// The broker closed a connection.
    #[error("the broker closed the connection")]
    Closed,
    /// A message is missing, came twice, or is not what was sent.
    #[error("message {expected} was to come next, but this came: {}", found.map_or("no number".to_owned(), |n| n.to_string()))]
    Disorder {
        /// The number that was to come.
        expected: u64,
        /// The number that came, if it was one.
        found: Option<i64>,
    },
    /// Something has not happened in time: what, and how long it was waited for.
    #[error("waited {seconds} s for {0}, in vain", seconds = .1.as_secs())]
    Late(&'static str, Duration),
    /// Somebody who takes part has failed: who, and why.
    #[error("{0}: {1}")]
    Member(&'static str, #[source] Box<Error>),
    /// Somebody who takes part has panicked.
    #[error("{0} panicked; please report it")]
    Panicked(&'static str),
    /// A consumer has not received what was sent.
    #[error("{consumer} received {received} messages of the {sent} that {producer} sent")]
    Lost {
        /// Who sent.
        producer: &'static str,
        /// Who received.
        consumer: &'static str,
        /// Messages sent.
        sent: u64,
        /// Messages received.
        received: u64,
    },
    /// Somebody was slowed who should not have been.
    #[error("{0} has nothing to do with {1}, and yet it stood still while {1} did not read")]
    NotIsolated(&'static str, &'static str),
    /// A producer was to be held back and was not.
    #[error("{0} was to be held back, but sent {1} messages more")]
    NotThrottled(&'static str, u64),
}

//! A small client: one session with a broker, for programs that do one thing at a time.
//!
//! Nothing here blocks but opening a session and [`Session::wait`]. What is asserted, sent or asked is gathered in a
//! buffer and leaves with [`Session::flush`]; what comes is handed over by [`Session::hear`]. So a program decides for
//! itself how much it gathers, and what else it waits for.
//!
//! # Layout
//! - `address`: where a broker is to be reached.
//! - `connection`: bytes to packets.
//! - `session`: handles, entities, and the dataspace behind a sturdyref.

mod address;
mod connection;
mod session;

use std::io;
use std::time::Duration;

pub use address::BrokerAddress;
pub use session::Session;

/// Why a session cannot be opened, or does not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A host name is not known: the name, and why.
    #[error("cannot look up the host {0}: {1}")]
    Host(String, #[source] io::Error),
    /// There is no connection: to where, and why.
    #[error("cannot connect to {0}: {1}")]
    Connect(BrokerAddress, #[source] io::Error),
    /// What answers there is no broker: how its answer begins.
    #[error("what answers is not the Syndicate protocol; it begins with {0}")]
    NotABroker(String),
    /// Nothing came in time.
    #[error("no answer within {} s", .0.as_secs_f64())]
    Silent(Duration),
    /// The broker answers, but knows nothing by this sturdyref's oid.
    #[error("the broker has nothing for this reference's oid, and said nothing of it for {} s", .0.as_secs_f64())]
    Unbound(Duration),
    /// The broker refuses the sturdyref: its reason, as text.
    #[error("the broker refuses the reference: {0}")]
    Refused(String),
    /// The broker sent something that cannot be read.
    #[error("the broker sent what cannot be read: {0}")]
    Malformed(String),
    /// The broker ended the session with an Error packet: its text.
    #[error("the broker ended the session: {0}")]
    Peer(String),
    /// The broker closed the connection.
    #[error("the broker closed the connection")]
    Closed,
    /// The connection is lost, or the operating system refuses something.
    #[error("the connection to the broker is lost: {0}")]
    Io(#[from] io::Error),
}

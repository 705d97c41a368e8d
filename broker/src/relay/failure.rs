//! Why sessions end, as their peers are told.

use staunch_protocols::caveat::CaveatError;
use staunch_protocols::packet::PacketError;
use staunch_protocols::text::{TextError, TextErrorKind};
use staunch_protocols::wire::{CanonError, Int, ScanError, ScanErrorKind};

use super::session::STRANGER_PACKET_MAX;
use crate::limits::Exceeded;

/// Why a session ends by this side.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{0}{key}", key = binary_key(&.0.kind))]
    Scan(ScanError),
    #[error("{0}")]
    Duplicate(CanonError),
    #[error("{0}")]
    Packet(PacketError),
    #[error("Assertion with duplicate handle {0}")]
    DuplicateHandle(Int),
    #[error("Cannot receive transient reference")]
    TransientReference,
    #[error("Invalid capability attenuation: {0}")]
    Caveat(CaveatError),
    #[error("{0}")]
    TooMany(Exceeded),
    #[error("More than {0} kinds of pattern (skeletons) of one principal (principal-skeletons)")]
    TooManySkeletons(u64),
    #[error(
        "Kinds of pattern (skeletons) of one principal that are like one value, such as all for one label, come to more than {0} (principal-skeletons-alike)"
    )]
    TooManySkeletonsAlike(u64),
    #[error("A turn whose values have to be held against too many kinds of pattern; send it in parts")]
    TurnTooLong,
    #[error("More than {0} captures lists kept for the observations of one principal (principal-captures)")]
    TooManyCaptures(u64),
    #[error(
        "Packets that have not come whole, or not taken effect yet, take more than {0} bytes of one principal (principal-unfinished)"
    )]
    Unfinished(u64),
    #[error(
        "{0}; a packet may be longer once a reference has been resolved: until then the broker takes {max} bytes",
        max = STRANGER_PACKET_MAX
    )]
    Stranger(ScanError),
    #[error(
        "More than {0} references in the assertions of one principal told, over all who are told of them (principal-told)"
    )]
    TooManyTold(u64),
    #[error(
        "Too many connections that observe the same references: one principal's may be told {0} times by so many (principal-told)"
    )]
    ToldTooOften(u64),
    #[error("More than {0} Syncs of one principal that wait for an answer (principal-syncs)")]
    TooManySyncs(u64),
    #[error("{0}")]
    Peer(String),
    #[error("What one turn's values became behind caveats takes more than {0} bytes")]
    TurnTooLarge(usize),
    #[error("An observation that goes round in circles: what it was told came back to it {0} times")]
    Loop(u32),
    #[error(
        "A turn that would come to more than {0} bytes for all who observe it (fan-out-max); send it in parts"
    )]
    TurnTooWide(u64),
    #[error("A pattern with more than {0} captures within each other")]
    CapturesNested(usize),
    #[error("An observation that captures more than {0} bytes of one value")]
    CapturesTooMuch(usize),
    #[error(
        "Observations that multiply what others send: one turn came to more than {0} bytes (fan-out-max)"
    )]
    Multiplied(u64),
    #[error(
        "Connections of one principal that multiply what others send: one turn would have come to more than {0} bytes for all of them"
    )]
    MultipliedByMany(u64),
    #[error("Observations that multiply what others send: one turn would have come to more than {0} events")]
    MultipliedEvents(u64),
    #[error(
        "Observations by dataspaces that multiply what others send: more than {0} bytes of one author's at a time"
    )]
    MultipliedOver(u64),
    #[error("Observations behind caveats that take too long for the time of those who send")]
    CostlyCaveats,
    #[error("What one turn's values take to pass through caveats is too much; send it in parts")]
    TurnTooCostly,
    #[error("Too much waits for this connection to read it (outbox-max)")]
    Unread,
    #[error("Too slow: {0} bytes have waited for this connection for more than {1} s")]
    Slow(u64, f64),
    #[error(
        "What the ledger tells this connection has not been read for {0} s, and others are told nothing meanwhile"
    )]
    LedgerUnread(f64),
    #[error("The broker ends")]
    BrokerEnds,
    #[error("A bug in the broker; please report it")]
    Bug,
    #[error("text, {0}{key}", key = text_key(&.0.what))]
    Text(TextError),
    #[error("No HTTP is spoken here; over TCP, text begins with [ or <")]
    NoText,
}

impl Failure {
    /// The peer's own Error packet. Its message is for logs, too: short, and on one line.
    pub(crate) fn peer(message: &str) -> Failure {
        const CHARS_MAX: usize = 256;
        let mut clean: String =
            message.chars().map(|c| if c.is_control() { ' ' } else { c }).take(CHARS_MAX).collect();
        if message.chars().nth(CHARS_MAX).is_some() {
            clean.push('…');
        }
        Failure::Peer(clean)
    }

    /// Of a peer that has been given nothing yet.
    pub(crate) fn of_stranger(error: ScanError) -> Failure {
        match error.kind {
            ScanErrorKind::TooLong(STRANGER_PACKET_MAX) => Failure::Stranger(error),
            _ => Failure::Scan(error),
        }
    }
}

/// The limits on packets, as configurations call them.
const DEPTH: &str = " (packet-depth)";
const LENGTH: &str = " (packet-bytes)";

fn binary_key(what: &ScanErrorKind) -> &'static str {
    match what {
        ScanErrorKind::TooDeep(_) => DEPTH,
        ScanErrorKind::TooLong(_) => LENGTH,
        _ => "",
    }
}

fn text_key(what: &TextErrorKind) -> &'static str {
    match what {
        TextErrorKind::TooDeep(_) => DEPTH,
        TextErrorKind::TooLong(STRANGER_PACKET_MAX) => " that there is until a reference has been resolved",
        TextErrorKind::TooLong(_) => LENGTH,
        _ => "",
    }
}

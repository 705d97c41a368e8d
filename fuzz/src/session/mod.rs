//! Whole sessions with a broker in this process: several peers that do whatever the input says, while a well-behaved
//! bystander is served.
//!
//! # Layout
//! - `script`: raw bytes, and where they are cut. `packets`: packets that are nearly right, chosen by bytes.
//! - `rig`: the broker, and what must hold while a script runs and when its peers have gone.
//! - `peer`: one connection, and what must be true of what comes.
#![allow(dead_code, unreachable_pub)]

mod packets;
mod peer;
mod rig;
mod script;

/// Peers at a time.
const PEERS: usize = 3;
/// Steps of one script: each is followed by a round of the bystander's.
const STEPS_MAX: usize = 64;

/// How a peer comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// By a Unix socket, and has asked the gatekeeper for the dataspace, which is oid 1 then.
    Resolved,
    /// By a pair of sockets: oid 0 is the dataspace.
    Adopted,
    /// By a Unix socket where the gatekeeper answers in the older form.
    Older,
    /// Over TCP, where text is told from HTTP.
    Tcp,
}

const WAYS: [Way; 4] = [Way::Resolved, Way::Adopted, Way::Older, Way::Tcp];

/// What one peer does next.
#[derive(Debug, Clone)]
enum What {
    /// Comes in, by this way; leaves before if it was there.
    Open(Way),
    /// Sends bytes; comes in before if it was not there.
    Send(Vec<u8>),
    /// Ends its sending direction.
    HalfClose,
    /// Leaves.
    Leave,
    /// Reads what comes from now on, or does not.
    Reads(bool),
    /// The bystander asserts this, or retracts it if it has.
    Bystander(u8),
}

/// A step of a script: which peer, and what.
type Step = (usize, What);

/// Raw bytes, for up to three peers, cut wherever the input says. See `script` for the form of the input.
pub fn session(data: &[u8]) {
    rig::run(script::steps(data));
}

/// Packets that are mostly right, for up to three peers, chosen by the input's bytes.
pub fn packets(data: &[u8]) {
    rig::run(packets::steps(data));
}

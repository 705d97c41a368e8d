//! Scripts as bytes: what is sent is as it is, and 0xfe (which begins no value and stands in no text) and a byte behind it
//! say what happens there. So a recorded session is a seed as it is, and pieces of inputs keep their meaning elsewhere.

use super::{PEERS, Step, WAYS, What};

const ESCAPE: u8 = 0xfe;

/// What the byte behind an escape says: `extra` (3 bits), what is done (3), who does it (2).
pub(super) const fn command(peer: u8, action: u8, extra: u8) -> u8 {
    extra << 5 | action << 2 | peer
}

/// The steps of a script. Two escapes are one byte of what is sent.
pub(super) fn steps(data: &[u8]) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut peer = 0;
    let mut unsent = Vec::new();
    let mut bytes = data.iter().copied();
    while let Some(byte) = bytes.next() {
        if byte != ESCAPE {
            unsent.push(byte);
            continue;
        }
        let Some(what) = bytes.next() else { break };
        if what == ESCAPE {
            unsent.push(ESCAPE);
            continue;
        }
        if !unsent.is_empty() {
            steps.push((peer, What::Send(std::mem::take(&mut unsent))));
        }
        peer = what as usize % 4 % PEERS;
        let extra = what >> 5;
        match what >> 2 & 7 {
            // What was sent is cut here.
            0 | 1 => {}
            2 => steps.push((peer, What::HalfClose)),
            3 => steps.push((peer, What::Leave)),
            4 => steps.push((peer, What::Reads(false))),
            5 => steps.push((peer, What::Reads(true))),
            6 => steps.push((peer, What::Bystander(extra))),
            _ => steps.push((peer, What::Open(WAYS[extra as usize % WAYS.len()]))),
        }
    }
    if !unsent.is_empty() {
        steps.push((peer, What::Send(unsent)));
    }
    steps
}

//! What an event for a peer carries.

use smallvec::SmallVec;
use staunch_index::Captures;
use staunch_protocols::wire::tag;

/// A body's turn, and where its parts are and how long.
pub(super) type BodyKey = (u64, SmallVec<[(usize, usize); 4]>);

/// What an event for a peer carries.
pub(super) enum Body<'c, 'v> {
    Captures(&'c Captures<'v>),
    Value(&'c [u8]),
}

impl Body<'_, '_> {
    pub(super) fn bytes(&self) -> usize {
        match self {
            Body::Captures(captures) => captures.iter().map(|c| c.len()).sum::<usize>() + 2,
            Body::Value(value) => value.len(),
        }
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Body::Captures(captures) => {
                out.push(tag::SEQUENCE);
                captures.iter().for_each(|c| out.extend_from_slice(c));
                out.push(tag::END);
            }
            Body::Value(value) => out.extend_from_slice(value),
        }
    }

    /// What tells it from other bodies. `None` if nothing does: captures lie in values that live as long as their
    /// turn is being staged, but other bodies may be made for one peer, one after the other in the same place.
    pub(super) fn key(&self, turn: u64) -> Option<BodyKey> {
        match self {
            Body::Captures(captures) => {
                Some((turn, captures.iter().map(|c| (c.as_ptr() as usize, c.len())).collect()))
            }
            Body::Value(_) => None,
        }
    }
}

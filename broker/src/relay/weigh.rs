//! Whether a turn may come to what it would: a look ahead, for turns that might come to much.
//!
//! A turn takes effect whole, and is staged whole for all who observe it, so no account can stop it half-way. What it
//! comes to is therefore bounded before it begins. Who is to blame for too much? Its author, for what each session gets
//! of it *once*; a session that gets it many times over, by many observations, for the rest (see `stage/shed`).

use std::collections::HashMap;

use foldhash::fast::RandomState;
use smallvec::SmallVec;
use staunch_index::{Captures, Observers, Reader, Scratch};
use staunch_protocols::wire::View;

use super::{Opening, Remote};
use crate::Broker;
use crate::cap::Entity;
use crate::dataspace::{Router, Target};
use crate::stage::{CLASSES_MAX, EVENT_COST, SHARED_BYTES_MIN};

/// What an event takes beside its captures, at most.
pub(super) const FRAME_BYTES: u64 = EVENT_COST + 32;

/// What need not be weighed, in a dataspace with so many observers.
#[derive(Clone, Copy)]
pub(super) struct Light {
    /// Bytes of one event.
    one_max: u64,
    /// Bytes of a turn.
    turn_max: u64,
}

impl Light {
    pub(super) fn of(fan_out_max: u64, observers: usize) -> Light {
        let observers = observers.max(1) as u64;
        // The shortest event, a retraction, has nine bytes.
        let bytes = fan_out_max / observers / (1 + FRAME_BYTES / 9);
        let one_max = if observers > LIGHT_PAIRS_MAX { 0 } else { fan_out_max / observers };
        Light { one_max, turn_max: bytes.min(LIGHT_PAIRS_MAX / observers * 9) }
    }

    /// Whether one event of so many bytes is light.
    #[inline]
    pub(super) fn allows_one(self, bytes: usize) -> bool {
        bytes as u64 + FRAME_BYTES <= self.one_max
    }

    /// The same of a turn.
    #[inline]
    pub(super) fn allows(self, bytes: usize) -> bool {
        bytes as u64 <= self.turn_max
    }
}

/// What is weighed, with a value each.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A message without references: a class of observers may share it.
    Message,
    /// Anything else that observers get the captures of.
    Captured,
    /// Observers get a handle.
    Retraction,
}

/// So many events of one turn may go to one session for each event in it, and at least [`PAIRS_MIN`] in all.
const PAIRS_PER_EVENT: u64 = 16;
const PAIRS_MIN: u64 = 16 << 10;
/// Turns whose events times the observers in the dataspace are fewer are not weighed for the work.
pub(super) const LIGHT_PAIRS_MAX: u64 = 1 << 20;

/// What stands against a turn.
pub(super) enum Heavy {
    /// It would come to too much whoever observes it: its author is to blame.
    TooWide(u64),
    /// This session has it multiplied, by many observations, to more events than this: it has to go first.
    Multiplied(u64, u64),
}

/// What a turn would come to.
pub(super) struct Weight<'b> {
    /// What it comes to for somebody who gets each event once.
    once: u64,
    max: u64,
    pairs_max: u64,
    broker: &'b Broker,
    /// What all get together, each event once.
    total: u64,
    /// What each session gets: bytes, and events.
    shares: HashMap<u64, (u64, u64), RandomState>,
}

impl<'b> Weight<'b> {
    /// Of a turn of so many events, which come to `once` with [`FRAME_BYTES`] each.
    pub(super) fn new(events: usize, once: u64, broker: &'b Broker) -> Weight<'b> {
        let pairs_max = (events as u64 * PAIRS_PER_EVENT).max(PAIRS_MIN);
        let max = broker.fan_out_max;
        Weight { once, max, pairs_max, broker, total: 0, shares: HashMap::default() }
    }

    /// Adds an event.
    pub(super) fn add(
        &mut self,
        value: View<'_>,
        kind: Kind,
        reader: &Reader<'_, Router>,
        scratch: &mut Scratch,
    ) -> Result<(), Heavy> {
        let mut heavy = None;
        reader.route(value, scratch, |observers, captures| {
            if heavy.is_none() {
                heavy = self.add_group(&observers, captures, kind).err();
            }
        });
        heavy.map_or(Ok(()), Err)
    }

    fn add_group(
        &mut self,
        observers: &Observers<'_, Router>,
        captures: &Captures<'_>,
        kind: Kind,
    ) -> Result<(), Heavy> {
        let body = match kind {
            Kind::Retraction => 0,
            _ => captures.iter().map(|c| c.len()).sum::<usize>(),
        };
        let bytes = body as u64 + FRAME_BYTES;
        // Copies of what many hold in one piece.
        let shared = match kind {
            _ if body >= SHARED_BYTES_MIN => Some(1),
            Kind::Message => classes_of(observers),
            _ => None,
        };
        let (mut sum, mut most) = (0, 0);
        for target in observers.iter() {
            let session = session_of(target);
            let (share, pairs) = self.shares.entry(session).or_default();
            let before = (*share).min(self.once);
            *share += bytes;
            *pairs += 1;
            // Who has gone, and whose observation somebody else keeps alive, cannot be ended.
            if *pairs > self.pairs_max && self.broker.sessions.contains_key(&session) {
                return Err(Heavy::Multiplied(session, self.pairs_max));
            }
            let more = (*share).min(self.once) - before;
            (sum, most) = (sum + more, most.max(more));
            if shared.is_none() && self.total + sum > self.max {
                return Err(Heavy::TooWide(self.max));
            }
        }
        self.total += shared.map_or(sum, |copies| copies * most);
        if self.total > self.max { Err(Heavy::TooWide(self.max)) } else { Ok(()) }
    }
}

/// How many copies are made of a message for a group that shares them. `None` if each gets its own.
fn classes_of(observers: &Observers<'_, Router>) -> Option<u64> {
    let mut classes: SmallVec<[&Opening; CLASSES_MAX]> = SmallVec::new();
    for target in observers.iter() {
        let Target::Remote(remote) = target else { return None };
        let opening = Some(remote.opening()).filter(|opening| !opening.is_too_long())?;
        if !classes.contains(&opening) {
            if classes.len() == CLASSES_MAX {
                return None;
            }
            classes.push(opening);
        }
    }
    Some(classes.len() as u64)
}

/// Whose observation it is.
fn session_of(target: &Target) -> u64 {
    let of = |remote: &Remote| remote.session_id();
    match target {
        Target::Remote(remote) => of(remote),
        Target::Other(cap, by) => match cap.entity() {
            Entity::Remote(remote) => of(remote),
            _ => by.session,
        },
    }
}

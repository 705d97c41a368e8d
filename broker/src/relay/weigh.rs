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

use super::session::Failure;
use super::{Opening, Remote};
use crate::cap::Entity;
use crate::dataspace::{Router, Target};
use crate::stage::{CLASSES_MAX, EVENT_COST, SHARED_BYTES_MIN};

/// What an event takes beside its captures, at most.
pub(super) const FRAME_BYTES: u64 = EVENT_COST + 32;

/// What a turn of so many bytes may come to for somebody who gets each event once. The shortest event, a retraction,
/// has nine bytes.
pub(super) fn once_max(turn_bytes: usize) -> u64 {
    turn_bytes as u64 * (1 + FRAME_BYTES / 9)
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

/// What a turn would come to.
pub(super) struct Weight {
    /// What it comes to for somebody who gets each event once.
    once: u64,
    max: u64,
    /// What all get together, each event once.
    total: u64,
    /// What each session gets.
    shares: HashMap<u64, u64, RandomState>,
}

impl Weight {
    /// Of a turn whose events, each with [`FRAME_BYTES`], come to `once`; it may come to `max`.
    pub(super) fn new(once: u64, max: u64) -> Weight {
        Weight { once, max, total: 0, shares: HashMap::default() }
    }

    /// Adds an event.
    pub(super) fn add(
        &mut self,
        value: View<'_>,
        kind: Kind,
        reader: &Reader<'_, Router>,
        scratch: &mut Scratch,
    ) -> Result<(), Failure> {
        reader.route(value, scratch, |observers, captures| self.add_group(&observers, captures, kind));
        match self.total > self.max {
            true => Err(Failure::TurnTooWide(self.max)),
            false => Ok(()),
        }
    }

    fn add_group(&mut self, observers: &Observers<'_, Router>, captures: &Captures<'_>, kind: Kind) {
        let mut bytes = FRAME_BYTES;
        if kind != Kind::Retraction {
            let body: usize = captures.iter().map(|c| c.len()).sum();
            match body >= SHARED_BYTES_MIN {
                // One piece of memory for all.
                true => self.total += body as u64,
                false => bytes += body as u64,
            }
        }
        if kind == Kind::Message
            && let Some(classes) = classes_of(observers)
        {
            self.total += classes * bytes;
            return;
        }
        for target in observers.iter() {
            let share = self.shares.entry(session_of(target)).or_default();
            let before = (*share).min(self.once);
            *share += bytes;
            self.total += (*share).min(self.once) - before;
            if self.total > self.max {
                return;
            }
        }
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

//! Whether a turn may come to what it would: a look ahead, for turns that might come to much.
//!
//! A turn takes effect whole, and is staged whole for all who observe it, so no account can stop it half-way. What it
//! comes to is therefore bounded before it begins. Who is to blame for too much? A session that gets the turn very many
//! times over, by many observations; if there is none, and the turn is small, the principal whose sessions together get the
//! larger part of all; else the author. What is beyond that look (what caveats make of it, say) is bounded by `stage/shed`.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use smallvec::SmallVec;
use staunch_index::{Captures, Observers, Reader, Scratch};
use staunch_protocols::wire::View;

use super::{Failure, Opening, Remote, Session};
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

/// So many times over each session may get a turn, in events and in bytes, and all sessions of one principal together
/// in bytes. Who gets it more often is to blame before its author is; who does not never is.
const COPIES_MAX: u64 = 64;
/// So many events in all may go to one session in any case.
const PAIRS_MIN: u64 = 16 << 10;
/// Turns whose events times the observers in the dataspace are fewer are not weighed for the work.
pub(super) const LIGHT_PAIRS_MAX: u64 = 1 << 20;
/// Who gets this fraction of the bound once sends no more than anybody may, however many observe it.
const MODEST: u64 = 256;

/// What stands against a turn.
pub(super) enum Heavy {
    /// Its author is to blame: it would come to more than this whoever observes it, or to somebody who does not observe
    /// much.
    TooWide(u64),
    /// These sessions, or one principal's, have it multiplied: they have to go first.
    Multiplied(Vec<u64>, fn(u64) -> Failure, u64),
}

/// What a turn would come to.
pub(super) struct Weight<'b> {
    author: &'b Session,
    /// What it comes to for somebody who gets each event once.
    once: u64,
    /// The same of what has been added so far.
    once_so_far: u64,
    max: u64,
    pairs_max: u64,
    /// What all get together.
    total: u64,
    shares: HashMap<u64, Share, RandomState>,
}

/// What one session gets.
#[derive(Default)]
struct Share {
    bytes: u64,
    pairs: u64,
}

impl<'b> Weight<'b> {
    /// Of a turn of so many events, which come to `once` with [`FRAME_BYTES`] each.
    pub(super) fn new(events: usize, once: u64, author: &'b Session) -> Weight<'b> {
        let pairs_max = (events as u64 * COPIES_MAX).max(PAIRS_MIN);
        let max = author.broker().fan_out_max;
        Weight { author, once, once_so_far: 0, max, pairs_max, total: 0, shares: HashMap::default() }
    }

    /// Adds an event.
    pub(super) fn add(
        &mut self,
        value: View<'_>,
        kind: Kind,
        reader: &Reader<'_, Router>,
        scratch: &mut Scratch,
    ) -> Result<(), Heavy> {
        self.once_so_far += FRAME_BYTES;
        if kind != Kind::Retraction {
            self.once_so_far += value.span().len() as u64;
        }
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
        let count = observers.count() as u64;
        // Copies: fewer than observers of what many hold in one piece.
        let copies = match kind {
            _ if body >= SHARED_BYTES_MIN => 1,
            Kind::Message => classes_of(observers).unwrap_or(count),
            _ => count,
        };
        let bytes = (body as u64 + FRAME_BYTES) * copies / count.max(1);
        for target in observers.iter() {
            let session = session_of(target);
            let share = self.shares.entry(session).or_default();
            share.bytes += bytes;
            share.pairs += 1;
            // Who has gone, and whose observation somebody else keeps alive, cannot be ended.
            if share.pairs > self.pairs_max && self.author.broker().sessions.contains_key(&session) {
                return Err(Heavy::Multiplied(vec![session], Failure::MultipliedEvents, self.pairs_max));
            }
            self.total += bytes;
            if self.total > self.max {
                return Err(self.blame());
            }
        }
        Ok(())
    }

    /// Who is to blame for too much.
    #[cold]
    fn blame(&self) -> Heavy {
        let modest_max = self.once_so_far * COPIES_MAX;
        let once_each: u64 = self.shares.values().map(|share| share.bytes.min(self.once_so_far)).sum();
        if once_each <= self.max / 2 {
            let many = self.shares.iter().filter(|(_, share)| share.bytes > modest_max);
            let sessions = self.shed(many.map(|(session, share)| (*session, share.bytes)).collect());
            if !sessions.is_empty() {
                return Heavy::Multiplied(sessions, Failure::Multiplied, self.max);
            }
        }
        if self.once <= self.max / MODEST {
            let sessions = self.shed(self.crowd(modest_max));
            if !sessions.is_empty() {
                return Heavy::Multiplied(sessions, Failure::MultipliedByMany, self.max);
            }
        }
        Heavy::TooWide(self.max)
    }

    /// The sessions, with their shares, of the principal that gets the larger part of all, and more than is modest;
    /// unless it is the author's own.
    fn crowd(&self, modest_max: u64) -> Vec<(u64, u64)> {
        let principal_of = |id: &u64| self.author.broker().sessions.get(id).map(|s| s.holdings().number());
        let mut sums: HashMap<u64, u64, RandomState> = HashMap::default();
        for (id, share) in &self.shares {
            if let Some(principal) = principal_of(id) {
                *sums.entry(principal).or_default() += share.bytes;
            }
        }
        sums.remove(&self.author.holdings().number());
        let is_it = |(_, sum): &(u64, u64)| *sum > modest_max && *sum > self.total / 2;
        let Some((principal, _)) = sums.into_iter().find(is_it) else { return Vec::new() };
        let its = self.shares.iter().filter(|(id, _)| principal_of(id) == Some(principal));
        its.map(|(id, share)| (*id, share.bytes)).collect()
    }

    /// Those that have to go for the whole turn to keep within the bound, with some room: the largest shares first.
    fn shed(&self, mut shares: Vec<(u64, u64)>) -> Vec<u64> {
        shares.sort_unstable_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
        // As much as is left may come of the rest of the turn.
        let part =
            |of: u64| (u128::from(of) * u128::from(self.once_so_far) / u128::from(self.once.max(1))) as u64;
        let room = part(self.max / 4 * 3);
        let mut held = self.total;
        let mut sessions = Vec::new();
        for (session, bytes) in shares {
            if held <= room {
                break;
            }
            if self.author.broker().sessions.contains_key(&session) {
                sessions.push(session);
                held -= bytes;
            }
        }
        sessions
    }
}

/// So much may all of a turn's events take to be routed, in [`Reader::effort`]: some 8 ms.
pub(super) const EFFORT_MAX: u64 = 1 << 19;
/// An event takes so much anyway: what it is to be told of and to be read.
const EFFORT_FREE: u64 = 8;

/// What it takes to route a turn's events, whoever observes them.
#[derive(Default)]
pub(super) struct Effort(u64);

impl Effort {
    /// One more event takes so much.
    ///
    /// # Errors
    /// If that is too much.
    pub(super) fn add(&mut self, effort: u64) -> Result<(), Failure> {
        self.0 += effort.saturating_sub(EFFORT_FREE);
        if self.0 > EFFORT_MAX { Err(Failure::TurnTooLong) } else { Ok(()) }
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

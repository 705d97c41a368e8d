//! Replays: what a new observer is told of a large state, piece by piece as it keeps up.

use std::sync::Arc;

use staunch_index::{Captures, Scratch, Stored};
use staunch_protocols::packet;
use staunch_protocols::wire::{encode, tag};

use super::introduce::charge_told;
use super::{Body, EVENT_COST, Stage};
use crate::cap::{Cap, Caps, Entity};
use crate::dataspace::{References, Router, Target};
use crate::outbox::PendingReplay;
use crate::principals::Author;
use crate::relay::{Remote, Session};

/// How long a piece may get, in bytes.
const PIECE_BYTES: usize = 32 << 10;
/// Places of a bag looked at for one piece.
const PIECE_SLOTS: u32 = 1024;
/// The same for attenuated observers, whose caveats are work.
const PIECE_SLOTS_FILTERED: u32 = 64;
/// How much work, in steps: the bag is locked meanwhile.
pub(super) const PIECE_WORK: u64 = 1 << 16;

impl Stage {
    /// Produces the next piece of a replay for a peer: one turn. Returns how much work caveats were.
    pub(super) fn pull(
        &mut self,
        session: &Arc<Session>,
        pending: Box<PendingReplay>,
        scratch: &mut Scratch,
    ) -> u64 {
        // Until the piece is in place: see the stage's drop.
        self.pulling = Some(session.clone());
        let mut out = self.pool.take();
        out.push(tag::SEQUENCE);
        let (mut events, mut work) = (0, 0);
        let mut tell = |handle: u64, from: &Stored<Router>, captures: &Captures<'_>| {
            events += self.write_replayed(&pending.to, handle, from, captures, &mut out, &mut work) as u64;
            out.len() < PIECE_BYTES && work < PIECE_WORK
        };
        let slots = match pending.to {
            Target::Remote(_) => PIECE_SLOTS,
            Target::Other(..) => PIECE_SLOTS_FILTERED,
        };
        let has_more = pending.replay.pull(slots, scratch, &mut tell);
        out.push(tag::END);
        if events == 0 {
            out.clear();
        }
        let cost = if events == 0 { 0 } else { out.len() as u64 + events * EVENT_COST };
        pending.account.charge(cost);
        self.deliveries += events;
        session.outbox().replayed(pending, out, cost, has_more);
        self.pulling = None;
        work
    }

    /// Appends the event that tells an observer of one captures list, unless its caveats drop it.
    fn write_replayed(
        &mut self,
        to: &Target,
        handle: u64,
        from: &Stored<Router>,
        captures: &Captures<'_>,
        out: &mut Vec<u8>,
        work: &mut u64,
    ) -> bool {
        match to {
            Target::Remote(remote) => match from.extra() {
                None => write_event(remote, handle, out, |out| Body::Captures(captures).write(out)),
                Some(References { caps, author }) => {
                    let references = (caps, author.as_ref());
                    self.write_with_caps(remote, handle, &captured(captures), references, out);
                }
            },
            Target::Other(cap, _) => {
                let Entity::Remote(remote) = cap.entity() else { return false };
                let caps = References::caps_of(from.extra());
                let (passed, took) = self.filter_uncounted(cap, captured(captures), caps);
                *work += took.steps;
                let Some((value, caps)) = passed else { return false };
                let author = from.extra().and_then(|references| references.author.as_ref());
                self.write_with_caps(remote, handle, &value, (&caps, author), out);
            }
        }
        true
    }

    fn write_with_caps(
        &mut self,
        remote: &Remote,
        handle: u64,
        value: &[u8],
        (caps, author): (&Caps, Option<&Author>),
        out: &mut Vec<u8>,
    ) {
        let mut membrane = remote.session().membrane();
        write_event(remote, handle, out, |out| {
            let told = membrane.write_assertion(value, caps, handle, &mut self.scanner, out);
            // All that is appended goes behind the replay, whose place is taken.
            membrane.tell(&told);
        });
        charge_told(remote, membrane, handle, author);
    }
}

fn captured(captures: &Captures<'_>) -> Vec<u8> {
    let mut value = Vec::new();
    Body::Captures(captures).write(&mut value);
    value
}

fn write_event(remote: &Remote, handle: u64, out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    out.extend_from_slice(remote.head());
    out.push(b'A');
    body(out);
    encode::uint(out, handle);
    out.extend_from_slice(&packet::frame::CLOSE);
}

/// One captures list that an observer in this process is told of: its handle, what its caveats made of it, and the
/// capabilities in that.
pub(crate) type Replayed = (u64, Vec<u8>, Caps);

impl crate::dataspace::LocalReplay {
    /// The next few captures lists, and whether there are more.
    pub(crate) fn pull(&self, stage: &mut Stage, scratch: &mut Scratch) -> (Vec<Replayed>, bool) {
        let mut pulled = Vec::new();
        let (mut bytes, mut work) = (0, 0);
        let to: &Cap = &self.to;
        let has_more = self.replay.pull(PIECE_SLOTS_FILTERED, scratch, &mut |handle, from, captures| {
            let caps = References::caps_of(from.extra());
            let (passed, took) = stage.filter_uncounted(to, captured(captures), caps);
            work += took.steps;
            if let Some((value, caps)) = passed {
                bytes += value.len();
                pulled.push((handle, value, caps));
            }
            bytes < PIECE_BYTES && work < PIECE_WORK
        });
        (pulled, has_more)
    }
}

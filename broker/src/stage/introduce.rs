//! What a peer has been told of our capabilities, in the order in which its outbox has it.
//!
//! Several workers may stage for one peer at a time, and the order in which they stage is not that in which they
//! append. Assertions of one captures list are ordered by its bag's lock, but a message takes none of those. So
//! without more a message could reach the outbox before the assertion that introduces a capability in it, or behind
//! the retraction that ends it.
//!
//! Hence what introduces a capability, what uses one, and what ends one is noted as it is staged, and *settled* when
//! the batch is appended, in the order of the batch, under the peer's membrane, which stays locked until the outbox
//! has the batch. So the membrane's counts of what the peer has been told follow the order of the outbox, and a
//! message that finds its capability untold is taken out of the batch: it is dropped and counted as one that comes too
//! early or too late is dropped when it is staged. Nothing is ordered between two senders, and who had any way to know
//! that the peer had been told sends after that was appended. Batches without capabilities pay nothing.

use std::collections::HashMap;
use std::ops::Range;

use foldhash::fast::RandomState;
use parking_lot::MutexGuard;
use smallvec::SmallVec;

use super::{Body, Slot, Stage};
use crate::cap::Caps;
use crate::dataspace::Observing;
use crate::outbox::Segment;
use crate::principals::Author;
use crate::relay::{Failure, Membrane, Oids, Remote, Session};

/// What a staged event has to do with our capabilities.
enum Note {
    /// An assertion that introduces them, or tells of them again.
    Told(Oids),
    /// The end of such an assertion.
    Untold(Oids),
    /// A message with them in it, and which segments hold it.
    Used(Oids, Range<usize>),
}

/// Notes of a batch, by session.
#[derive(Default)]
pub(super) struct Notes {
    by_session: HashMap<u64, Vec<Note>, RandomState>,
}

impl Notes {
    fn add(&mut self, session: u64, note: Note) {
        self.by_session.entry(session).or_default().push(note);
    }

    /// Nothing that has been staged for this session will be appended.
    pub(super) fn forget(&mut self, session: u64) {
        self.by_session.remove(&session);
    }
}

impl Stage {
    /// Notes that what is staged for `to` now tells it of these.
    pub(super) fn note_told(&mut self, to: &Remote, oids: Oids) {
        if !oids.is_empty() {
            self.notes.add(to.session_id(), Note::Told(oids));
        }
    }

    /// Notes that what is staged for `to` now takes these back.
    pub(super) fn note_untold(&mut self, to: &Remote, oids: Oids) {
        if !oids.is_empty() {
            self.notes.add(to.session_id(), Note::Untold(oids));
        }
    }

    /// Stages an assertion with a value in stored form, for which whoever asked for it is to answer.
    pub(super) fn asked_assert(
        &mut self,
        to: &Remote,
        by: Observing,
        value: &[u8],
        caps: &Caps,
        handle: u64,
    ) {
        let find = || Author::of(to.session().broker(), by.session);
        let author = if caps.is_empty() { None } else { find() };
        self.direct_assert(to, value, (caps, author.as_ref()), handle);
    }

    /// Stages a message in wire form that uses these capabilities, so that it can be taken out again.
    pub(super) fn message_using(&mut self, to: &Remote, oids: Oids, wire: &[u8]) {
        if oids.is_empty() {
            return self.event(to, b'M', Some(Body::Value(wire)), None);
        }
        let turn = self.turn;
        let slot = self.slot(to);
        slot.open(turn);
        let first = slot.split();
        self.event(to, b'M', Some(Body::Value(wire)), None);
        let slot = self.slot(to);
        if slot.is_shed {
            return;
        }
        let end = slot.split();
        self.notes.add(to.session_id(), Note::Used(oids, first..end));
    }

    /// Settles what has been noted for a session that these are to be appended for, if anything has. The membrane is to
    /// stay locked until they are.
    pub(super) fn settle<'m>(
        &mut self,
        session: &'m Session,
        segments: &mut Vec<Segment>,
    ) -> Option<MutexGuard<'m, Membrane>> {
        if self.notes.by_session.is_empty() {
            return None;
        }
        let notes = self.notes.by_session.remove(&session.id())?;
        let mut membrane = session.membrane();
        let mut early: SmallVec<[Range<usize>; 4]> = SmallVec::new();
        for note in notes {
            match note {
                Note::Told(oids) => membrane.tell(&oids),
                Note::Untold(oids) => membrane.untell(&oids),
                Note::Used(oids, range) if !membrane.knows(&oids) => early.push(range),
                Note::Used(..) => {}
            }
        }
        self.transient_drops += early.len() as u64;
        // From the last on, so that the others stay where they are.
        for range in early.into_iter().rev() {
            debug_assert!(range.end <= segments.len());
            segments.drain(range.start.min(segments.len())..range.end.min(segments.len()));
        }
        Some(membrane)
    }
}

/// Puts together again what was divided at messages: a piece that holds bytes ends with a packet, unless a shared body
/// follows.
pub(super) fn join(segments: &mut Vec<Segment>, buffer: &mut Vec<u8>) {
    let mut joined: Vec<Segment> = Vec::with_capacity(segments.len());
    for segment in segments.drain(..) {
        match (joined.last_mut(), segment) {
            (Some(Segment::Inline(last)), Segment::Inline(bytes)) => last.extend_from_slice(&bytes),
            (_, segment) => joined.push(segment),
        }
    }
    if let Some(Segment::Inline(last)) = joined.last_mut() {
        last.append(buffer);
        *buffer = std::mem::take(last);
        joined.pop();
    }
    *segments = joined;
}

/// Of so few assertions any connection may be told.
const FEW: usize = 16;

/// Has the references in an assertion that a peer is told counted for its author: what is kept of them here is the
/// author's doing. But who observes on very many connections uses up the author's allowance, too. So a principal whose
/// connections are more than what each has been told uses half of it at most, and they end in the author's place.
pub(super) fn charge_told(
    to: &Remote,
    mut membrane: MutexGuard<'_, Membrane>,
    handle: u64,
    author: Option<&Author>,
) {
    let session = to.session();
    let own = author.is_none().then(|| Author::new(session.holdings(), session.id()));
    let Some(author) = author.or(own.as_ref()) else { return };
    let max = session.broker().limits().principal_told;
    let count = membrane.sent_count();
    let is_one_of_many = count >= FEW && session.account().principal().connections() > count as u64;
    if membrane.charge_sent(handle, author, if is_one_of_many { max / 2 } else { max }) {
        return;
    }
    drop(membrane);
    let broker = session.broker();
    if is_one_of_many {
        broker.end_session(session.id(), Failure::ToldTooOften(max / 2));
    } else if broker.sessions.contains_key(&author.session) {
        broker.end_session(author.session, Failure::TooManyTold(max));
    } else {
        // Somebody else keeps alive what it has left.
        broker.end_session(session.id(), Failure::TooManyTold(max));
    }
}

impl Slot {
    /// Opens a turn at the buffer's end, unless it is open.
    #[inline]
    pub(super) fn open(&mut self, turn: u64) {
        if self.turn == turn {
            return;
        }
        if self.turn != 0 {
            self.buffer.push(staunch_protocols::wire::tag::END);
        }
        self.buffer.push(staunch_protocols::wire::tag::SEQUENCE);
        self.turn = turn;
    }

    /// Makes what is in the buffer a segment. Returns how many there are.
    fn split(&mut self) -> usize {
        if !self.buffer.is_empty() {
            self.segments.push(Segment::Inline(std::mem::take(&mut self.buffer)));
        }
        self.segments.len()
    }
}

#[cfg(all(test, not(broker_loom)))]
mod tests {
    use std::sync::Arc;

    use staunch_flowctl::{Ledger, Limits, Loan};

    use super::*;
    use crate::outbox::SharedBody;

    /// Outboxes take it that a piece that holds bytes ends with a packet, unless a shared body is next.
    #[test]
    fn what_was_divided_at_messages_ends_with_packets() {
        let ledger = Ledger::default();
        let account = ledger.open_account(&ledger.principal("p"), "a", Limits::unlimited());
        let body = || Segment::Shared(Arc::new(SharedBody::new(vec![9], Loan::charge(&account, 1))));
        let inline = |byte: u8| Segment::Inline(vec![byte]);
        let check = |segments: Vec<Segment>, expected: &[&[u8]], rest: &[u8]| {
            let (mut segments, mut buffer) = (segments, vec![0]);
            join(&mut segments, &mut buffer);
            let found: Vec<&[u8]> = segments
                .iter()
                .map(|segment| match segment {
                    Segment::Inline(bytes) => bytes.as_slice(),
                    Segment::Shared(body) => body.bytes(),
                    _ => panic!("none was there"),
                })
                .collect();
            assert_eq!((found.as_slice(), buffer.as_slice()), (expected, rest));
        };
        check(vec![], &[], &[0]);
        check(vec![inline(1), inline(2)], &[], &[1, 2, 0]);
        check(vec![inline(1), inline(2), body()], &[&[1, 2], &[9]], &[0]);
        check(vec![inline(1), body(), inline(2), inline(3)], &[&[1], &[9]], &[2, 3, 0]);
    }
}

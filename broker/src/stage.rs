//! Staging: what turns mean for each peer, gathered on the worker and appended to outboxes once per batch.
//!
//! A worker routes many turns from one read chunk. Their events for one peer are written one after the other
//! into a buffer of the worker's, turn by turn, and reach the peer's outbox in one append: so turns stay whole,
//! and neither a lock nor an atomic is taken per delivery.

use std::sync::Arc;

use bytes::Bytes;
use staunch_flowctl::{Account, Loan, Repayments};
use staunch_index::{Captures, Replay, Scratch, Sink, Stored};
use staunch_protocols::packet;
use staunch_protocols::wire::{Limits, Scanner, encode, tag};

use crate::Broker;
use crate::cap::{Cap, Caps, Entity};
use crate::dataspace::{Delivery, LocalEvent, Router, Target};
use crate::outbox::{Flushed, PendingReplay, Pool, Segment, WriteCounts};
use crate::relay::{Remote, Session};

/// What an event costs beside its bytes: what it takes to handle it, in the same unit.
pub(crate) const EVENT_COST: u64 = 32;
/// What follows the captures in a message: `]>]`.
const MESSAGE_CLOSE: [u8; 3] = [tag::END; 3];
/// Bodies from this size on are shared between outboxes, not copied into each.
const SHARED_BYTES_MIN: usize = 4096;
/// A queue of an entity in this process hands its cause on at most so often.
pub(crate) const HOPS_MAX: u32 = 32;

/// What one peer is to get.
struct Slot {
    session: Arc<Session>,
    session_id: u64,
    segments: Vec<Segment>,
    buffer: Vec<u8>,
    cost: u64,
    /// The turn that is open at the buffer's end; 0 for none.
    turn: u64,
}

/// See the module's head. One per worker.
pub(crate) struct Stage {
    slots: Vec<Slot>,
    /// Slot of each session by its number, plus one; 0 for none.
    by_number: Vec<u32>,
    /// The turn being staged; a slot's is open if it is the same.
    turn: u64,
    /// What is staged and not charged yet.
    cost: u64,
    account: Option<Arc<Account>>,
    hops: u32,
    /// Appended to and not flushed yet.
    dirty: Vec<Arc<Session>>,
    local: Vec<(Cap, Delivery)>,
    shared: Option<((usize, usize, u64), Bytes)>,
    scanner: Scanner,
    pub(crate) pool: Pool,
    pub(crate) repayments: Repayments,
    pub(crate) counts: WriteCounts,
    /// Messages not delivered since they would have introduced a capability.
    pub(crate) transient_drops: u64,
    pub(crate) deliveries: u64,
}

impl Default for Stage {
    fn default() -> Stage {
        Stage {
            slots: Vec::new(),
            by_number: Vec::new(),
            turn: 1,
            cost: 0,
            account: None,
            hops: 0,
            dirty: Vec::new(),
            local: Vec::new(),
            shared: None,
            scanner: Scanner::new(Limits { packet_bytes_max: u32::MAX, ..Limits::default() }),
            pool: Pool::default(),
            repayments: Repayments::default(),
            counts: WriteCounts::default(),
            transient_drops: 0,
            deliveries: 0,
        }
    }
}

/// What an event for a peer carries.
enum Body<'c, 'v> {
    Captures(&'c Captures<'v>),
    Value(&'c [u8]),
}

impl Body<'_, '_> {
    fn bytes(&self) -> usize {
        match self {
            Body::Captures(captures) => captures.iter().map(|c| c.len()).sum::<usize>() + 2,
            Body::Value(value) => value.len(),
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Body::Captures(captures) => {
                out.push(tag::SEQUENCE);
                captures.iter().for_each(|c| out.extend_from_slice(c));
                out.push(tag::END);
            }
            Body::Value(value) => out.extend_from_slice(value),
        }
    }

    /// What tells it from other bodies of the same turn.
    fn key(&self, turn: u64) -> (usize, usize, u64) {
        match self {
            Body::Captures(captures) => {
                (captures.first().map_or(0, |c| c.as_ptr() as usize), self.bytes(), turn)
            }
            Body::Value(value) => (value.as_ptr() as usize, value.len(), turn),
        }
    }
}

impl Stage {
    /// Who causes what is staged from now on, over how many queues. What was staged before must have been
    /// published.
    pub(crate) fn begin(&mut self, account: &Arc<Account>, hops: u32) {
        debug_assert!(self.cost == 0);
        if !self.account.as_ref().is_some_and(|a| Arc::ptr_eq(a, account)) {
            self.account = Some(account.clone());
        }
        self.hops = hops;
    }

    /// Another turn begins.
    #[inline]
    pub(crate) fn next_turn(&mut self) {
        self.turn += 1;
    }

    /// What is staged and has not been charged.
    #[inline]
    pub(crate) fn cost(&self) -> u64 {
        self.cost
    }

    #[inline]
    fn slot(&mut self, to: &Remote) -> &mut Slot {
        let at = match self.by_number.get(to.session_number()) {
            // A session that has ended may have left its number to this one since its slot was made.
            Some(&at) if at != 0 && self.slots[at as usize - 1].session_id == to.session_id() => {
                at as usize - 1
            }
            _ => self.new_slot(to),
        };
        &mut self.slots[at]
    }

    #[cold]
    fn new_slot(&mut self, to: &Remote) -> usize {
        let number = to.session_number();
        if number >= self.by_number.len() {
            self.by_number.resize(number + 1, 0);
        }
        self.slots.push(Slot {
            session: to.session().clone(),
            session_id: to.session_id(),
            segments: Vec::new(),
            buffer: self.pool.take(),
            cost: 0,
            turn: 0,
        });
        self.by_number[number] = self.slots.len() as u32;
        self.slots.len() - 1
    }

    /// Stages a message for a peer's entity: the hot path. The captures hold no capabilities.
    #[inline]
    pub(crate) fn remote_message(&mut self, to: &Remote, captures: &Captures<'_>) {
        let bytes: usize = captures.iter().map(|c| c.len()).sum();
        if bytes >= SHARED_BYTES_MIN {
            self.event(to, b'M', Some(Body::Captures(captures)), None);
            return;
        }
        let turn = self.turn;
        let opening = to.opening();
        let slot = self.slot(to);
        let begins_at = match slot.turn {
            0 => 1,
            open if open == turn => 2,
            _ => 0,
        };
        slot.turn = turn;
        let out = &mut slot.buffer;
        out.reserve(bytes + opening.len() + MESSAGE_CLOSE.len());
        out.extend_from_slice(&opening[begins_at..]);
        captures.iter().for_each(|c| out.extend_from_slice(c));
        out.extend_from_slice(&MESSAGE_CLOSE);
        let cost = (bytes + opening.len() + MESSAGE_CLOSE.len()) as u64 + EVENT_COST;
        slot.cost += cost;
        self.cost += cost;
        self.deliveries += 1;
    }

    /// Stages a message, without capabilities in it, for any observer.
    #[inline]
    pub(crate) fn message(&mut self, to: &Target, captures: &Captures<'_>) {
        match to {
            Target::Remote(remote) => self.remote_message(remote, captures),
            Target::Other(cap, id) => {
                let mut value = Vec::new();
                Body::Captures(captures).write(&mut value);
                self.other(cap, *id, LocalEvent::Message(value, Caps::new()));
            }
        }
    }

    /// Stages any event for a peer's entity. The body is in wire form.
    fn event(&mut self, to: &Remote, kind: u8, body: Option<Body<'_, '_>>, handle: Option<u64>) {
        let turn = self.turn;
        let shared = match &body {
            Some(body) if body.bytes() >= SHARED_BYTES_MIN => Some(self.share(body)),
            _ => None,
        };
        let slot = self.slot(to);
        if slot.turn != turn {
            if slot.turn != 0 {
                slot.buffer.push(tag::END);
            }
            slot.buffer.push(tag::SEQUENCE);
            slot.turn = turn;
        }
        slot.buffer.extend_from_slice(to.head());
        slot.buffer.push(kind);
        let bytes = to.head().len() + body.as_ref().map_or(0, Body::bytes) + 16;
        let cost = EVENT_COST + bytes as u64;
        match (shared, body) {
            (Some(shared), _) => {
                slot.segments.push(Segment::Inline(std::mem::take(&mut slot.buffer)));
                slot.segments.push(Segment::Shared(shared));
            }
            (None, Some(body)) => body.write(&mut slot.buffer),
            (None, None) => {}
        }
        if let Some(handle) = handle {
            encode::uint(&mut slot.buffer, handle);
        }
        slot.buffer.extend_from_slice(&packet::frame::CLOSE);
        slot.cost += cost;
        self.cost += cost;
        self.deliveries += 1;
    }

    /// The body as a segment that outboxes can share: made once for all that get it.
    fn share(&mut self, body: &Body<'_, '_>) -> Bytes {
        let key = body.key(self.turn);
        if let Some((known, bytes)) = &self.shared
            && *known == key
        {
            return bytes.clone();
        }
        let mut out = Vec::with_capacity(body.bytes());
        body.write(&mut out);
        let bytes = Bytes::from(out);
        self.shared = Some((key, bytes.clone()));
        bytes
    }

    /// Stages `#t` as a message, which answers a Sync.
    pub(crate) fn synced(&mut self, to: &Remote) {
        self.event(to, b'M', Some(Body::Value(&[tag::TRUE])), None);
    }

    /// Stages a Sync for a peer's entity; the answer is to come to our export `oid`.
    pub(crate) fn forward_sync(&mut self, to: &Remote, oid: u64) {
        let mut reference = Vec::new();
        packet::write_mine(&mut reference, oid);
        self.event(to, b'S', Some(Body::Value(&reference)), None);
    }

    /// Stages a message with a body in stored form for whatever `to` denotes.
    pub(crate) fn direct_message(&mut self, to: &Remote, body: &[u8], caps: &Caps) {
        if caps.is_empty() {
            return self.event(to, b'M', Some(Body::Value(body)), None);
        }
        let mut wire = Vec::new();
        if to.session().membrane().write_message(body, caps, &mut self.scanner, &mut wire) {
            self.event(to, b'M', Some(Body::Value(&wire)), None);
        } else {
            self.transient_drops += 1;
        }
    }

    /// Stages an assertion with a value in stored form.
    pub(crate) fn direct_assert(&mut self, to: &Remote, value: &[u8], caps: &Caps, handle: u64) {
        if caps.is_empty() {
            return self.event(to, b'A', Some(Body::Value(value)), Some(handle));
        }
        let mut wire = Vec::new();
        to.session().membrane().write_assertion(value, caps, handle, &mut self.scanner, &mut wire);
        self.event(to, b'A', Some(Body::Value(&wire)), Some(handle));
    }

    /// Stages a retraction.
    pub(crate) fn direct_retract(&mut self, to: &Remote, handle: u64, has_caps: bool) {
        self.event(to, b'R', None, Some(handle));
        if has_caps {
            to.session().membrane().release_sent(handle);
        }
    }

    /// An event for an observer that is not simply a peer's entity.
    fn other(&mut self, to: &Cap, observer: u64, event: LocalEvent) {
        let event = match event {
            LocalEvent::Assert(value, caps, handle) => match filter(to, value, caps, &mut self.scanner) {
                Some((value, caps)) => LocalEvent::Assert(value, caps, handle),
                None => return,
            },
            LocalEvent::Message(body, caps) => match filter(to, body, caps, &mut self.scanner) {
                Some((body, caps)) => LocalEvent::Message(body, caps),
                None => return,
            },
            retract => retract,
        };
        match (to.entity(), event) {
            (Entity::Remote(remote), LocalEvent::Assert(value, caps, handle)) => {
                self.direct_assert(remote, &value, &caps, handle);
            }
            (Entity::Remote(remote), LocalEvent::Message(body, caps)) => {
                self.direct_message(remote, &body, &caps)
            }
            (Entity::Remote(remote), LocalEvent::Retract(handle)) => {
                self.direct_retract(remote, handle, true)
            }
            (Entity::Dataspace(_), event) => self.local_event(to, observer, event),
            _ => {}
        }
    }

    fn local_event(&mut self, to: &Cap, observer: u64, event: LocalEvent) {
        let Some(account) = self.account.clone() else { return };
        if self.hops >= HOPS_MAX && !matches!(event, LocalEvent::Retract(_)) {
            account_over_hops(&account);
            return;
        }
        let bytes = match &event {
            LocalEvent::Assert(value, ..) | LocalEvent::Message(value, _) => value.len(),
            LocalEvent::Retract(_) => 0,
        };
        let loan = Loan::charge(&account, bytes as u64 + EVENT_COST);
        self.local.push((to.clone(), Delivery { event, observer, loan, hops: self.hops + 1 }));
    }

    /// Appends all that is staged to the outboxes, and charges for it. Takes their locks, one after the other;
    /// does nothing slow.
    pub(crate) fn publish_staged(&mut self, broker: &Arc<Broker>) {
        if !self.slots.is_empty() {
            self.publish_slots();
        }
        for (cap, delivery) in self.local.drain(..) {
            if let Entity::Dataspace(dataspace) = cap.entity()
                && dataspace.inbox.push(delivery)
            {
                broker.wake_inbox(dataspace);
            }
        }
    }

    fn publish_slots(&mut self) {
        let Some(account) = self.account.clone() else { return };
        account.charge(self.cost);
        self.cost = 0;
        for mut slot in self.slots.drain(..) {
            self.by_number[slot.session.number() as usize] = 0;
            if slot.turn != 0 {
                slot.buffer.push(tag::END);
            }
            let outbox = slot.session.outbox();
            if outbox.append(&mut slot.segments, &mut slot.buffer, &account, slot.cost, &mut self.pool) {
                self.dirty.push(slot.session);
            }
            self.pool.put(slot.buffer);
        }
        self.shared = None;
    }

    /// Writes out what has been published, and wakes those whose debts that repaid. No lock may be held.
    pub(crate) fn flush(&mut self, scratch: &mut Scratch) {
        while let Some(session) = self.dirty.pop() {
            self.flush_one(&session, scratch);
        }
        self.repayments.repay_all();
    }

    /// Hands the sessions that are to be flushed over to somebody else.
    pub(crate) fn take_dirty(&mut self, count: usize) -> Vec<Arc<Session>> {
        self.dirty.split_off(self.dirty.len().saturating_sub(count))
    }

    /// How many sessions are to be flushed.
    pub(crate) fn dirty_count(&self) -> usize {
        self.dirty.len()
    }

    /// Writes out one outbox.
    pub(crate) fn flush_one(&mut self, session: &Arc<Session>, scratch: &mut Scratch) {
        loop {
            let outbox = session.outbox();
            match outbox.flush(session.stream(), &mut self.pool, &mut self.repayments, &mut self.counts) {
                Flushed::Done => return,
                Flushed::Failed => return session.hang_up(),
                Flushed::Replay(pending) => self.pull(session, pending, scratch),
            }
        }
    }

    /// Produces the next piece of a replay: one turn.
    fn pull(&mut self, session: &Arc<Session>, pending: Box<PendingReplay>, scratch: &mut Scratch) {
        const PIECE_BYTES: usize = 32 << 10;
        const PIECE_SLOTS: u32 = 1024;
        let mut out = self.pool.take();
        out.push(tag::SEQUENCE);
        let mut events = 0;
        let Stage { scanner, .. } = self;
        let to = &pending.to;
        let has_more = pending.replay.pull(PIECE_SLOTS, scratch, &mut |handle, from, captures| {
            events += 1;
            out.extend_from_slice(to.head());
            out.push(b'A');
            match from.extra() {
                None => Body::Captures(captures).write(&mut out),
                Some(caps) => {
                    let mut value = Vec::new();
                    Body::Captures(captures).write(&mut value);
                    session.membrane().write_assertion(&value, caps, handle, scanner, &mut out);
                }
            }
            encode::uint(&mut out, handle);
            out.extend_from_slice(&packet::frame::CLOSE);
            out.len() < PIECE_BYTES
        });
        out.push(tag::END);
        if events == 0 {
            out.clear();
        }
        let cost = if events == 0 { 0 } else { out.len() as u64 + events * EVENT_COST };
        pending.account.charge(cost);
        session.outbox().replayed(pending, out, cost, has_more);
    }
}

/// Passes a value through a capability's caveats.
fn filter(to: &Cap, value: Vec<u8>, caps: Caps, scanner: &mut Scanner) -> Option<(Vec<u8>, Caps)> {
    match to.caveats() {
        None => Some((value, caps)),
        Some(caveats) => crate::attenuate::apply(caveats, value, caps, scanner),
    }
}

fn account_over_hops(account: &Account) {
    tracing::warn!(account = account.name(), hops = HOPS_MAX, "dropped an event that went round too often");
}

/// The sink of one commit: stages, and publishes under the commit's locks.
pub(crate) struct Commit<'s> {
    pub(crate) stage: &'s mut Stage,
    pub(crate) broker: &'s Arc<Broker>,
    /// The capabilities in the turn's messages.
    pub(crate) caps: &'s Caps,
}

impl Commit<'_> {
    fn captured(captures: &Captures<'_>) -> Vec<u8> {
        let mut value = Vec::new();
        Body::Captures(captures).write(&mut value);
        value
    }
}

impl Sink<Router> for Commit<'_> {
    fn message(&mut self, to: &Target, captures: &Captures<'_>) {
        match to {
            Target::Remote(remote) if self.caps.is_empty() => self.stage.remote_message(remote, captures),
            Target::Remote(remote) => self.stage.direct_message(remote, &Self::captured(captures), self.caps),
            Target::Other(cap, id) => {
                let event = LocalEvent::Message(Self::captured(captures), self.caps.clone());
                self.stage.other(cap, *id, event);
            }
        }
    }

    fn assert(&mut self, to: &Target, handle: u64, captures: &Captures<'_>, from: &Stored<Router>) {
        match (to, from.extra()) {
            (Target::Remote(remote), None) => {
                self.stage.event(remote, b'A', Some(Body::Captures(captures)), Some(handle));
            }
            (Target::Remote(remote), Some(caps)) => {
                self.stage.direct_assert(remote, &Self::captured(captures), caps, handle);
            }
            (Target::Other(cap, id), caps) => {
                let caps = caps.cloned().unwrap_or_default();
                self.stage.other(cap, *id, LocalEvent::Assert(Self::captured(captures), caps, handle));
            }
        }
    }

    fn retract(&mut self, to: &Target, handle: u64, captures: &Captures<'_>, from: &Stored<Router>) {
        match to {
            Target::Remote(remote) => self.stage.direct_retract(remote, handle, from.extra().is_some()),
            Target::Other(cap, id) => {
                // What the caveats dropped was never asserted there, so it is not retracted either.
                let caps = from.extra().cloned().unwrap_or_default();
                if filter(cap, Self::captured(captures), caps, &mut self.stage.scanner).is_some() {
                    self.stage.other(cap, *id, LocalEvent::Retract(handle));
                }
            }
        }
    }

    fn replay(&mut self, to: &Target, replay: Replay<Router>) {
        match to {
            Target::Remote(remote) => {
                let Some(account) = self.stage.account.clone() else { return };
                let slot = self.stage.slot(remote);
                if slot.turn != 0 {
                    slot.buffer.push(tag::END);
                    slot.turn = 0;
                }
                if !slot.buffer.is_empty() {
                    slot.segments.push(Segment::Inline(std::mem::take(&mut slot.buffer)));
                }
                let pending = PendingReplay { replay, to: remote.clone(), account };
                slot.segments.push(Segment::Replay(Box::new(pending)));
            }
            // Entities in this process take it all at once, in their own queue.
            Target::Other(cap, id) => {
                let mut scratch = Scratch::default();
                while replay.pull(1024, &mut scratch, &mut |handle, from, captures| {
                    let caps = from.extra().cloned().unwrap_or_default();
                    self.stage.other(cap, *id, LocalEvent::Assert(Self::captured(captures), caps, handle));
                    true
                }) {}
            }
        }
    }

    fn publish(&mut self) {
        self.stage.publish_staged(self.broker);
    }
}

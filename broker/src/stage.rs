//! Staging: what turns mean for each peer, gathered on the worker and appended to outboxes once per batch.
//!
//! A worker routes many turns from one read chunk. Their events for one peer are written one after the other
//! into a buffer of the worker's, turn by turn, and reach the peer's outbox in one append: so turns stay whole,
//! and neither a lock nor an atomic is taken per delivery.

mod body;
mod commit;
mod cut;
mod dirty;
mod fanout;
mod filter;
mod introduce;
mod replay;
mod shed;
#[cfg(all(test, not(broker_loom)))]
mod tests;

use std::sync::Arc;

use staunch_flowctl::{Account, Loan, Repayments};
use staunch_index::{Captures, Observers, Scratch};
use staunch_protocols::packet;
use staunch_protocols::wire::{Limits, Scanner, encode, tag};

use self::body::{Body, BodyKey};
use self::fanout::FanOuts;
use self::filter::Filter;
use self::introduce::Notes;
use crate::Broker;
use crate::cap::{Cap, Caps, Entity};
use crate::dataspace::{Delivery, Inbox, LocalEvent, Observing, Router, Target};
use crate::outbox::{CallCounts, Pool, Segment, SharedBody};
use crate::principals::Author;
use crate::relay::{Failure, Opening, Remote, Session};

pub(crate) use commit::Commit;
pub(crate) use fanout::CLASSES_MAX;

/// What an event costs beside its bytes: what it takes to handle it, in the same unit.
pub(crate) const EVENT_COST: u64 = 32;
/// What follows the captures in a message: `]>]`.
const MESSAGE_CLOSE: [u8; 3] = [tag::END; 3];
/// Bodies from this size on are shared between outboxes, not copied into each.
pub(crate) const SHARED_BYTES_MIN: usize = 4096;
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
    /// It has missed something: it gets nothing more. See [`shed`].
    is_shed: bool,
}

/// Sessions flushed by one piece of work, a tenth of a millisecond's worth.
pub(crate) const FLUSH_PIECE: usize = 32;
/// Sessions flushed by a run itself; more are cut into pieces, which give way to others and may be taken by other workers.
pub(crate) const FLUSH_MAX: usize = 128;

/// See the module's head. One per worker.
pub(crate) struct Stage {
    slots: Vec<Slot>,
    /// Slot of each session by its number, plus one, or its class (see [`fanout`]); 0 for none.
    by_number: Vec<u32>,
    /// The turn being staged; a slot's is open if it is the same.
    turn: u64,
    /// What is staged and not charged yet.
    cost: u64,
    /// How much one turn may come to, see [`shed`].
    fan_out_max: u64,
    /// The cost at which memory is looked at.
    shed_at: u64,
    /// What the large bodies among it cost, which have been charged.
    shared_cost: u64,
    account: Option<Arc<Account>>,
    hops: u32,
    /// Appended to and not flushed yet.
    dirty: Vec<Arc<Session>>,
    /// Appended to, and to be looked through for what has become void.
    long: Vec<Arc<Session>>,
    /// Who was flushed last, by its id.
    pub(crate) flushed_last: u64,
    /// Appended to, and above their ceilings: whoever is being run is to wait for them.
    full: Vec<Arc<Session>>,
    local: Vec<(Cap, Delivery)>,
    /// What has been put there costs so much.
    local_cost: u64,
    /// Sessions to end for what they observe, once the locks are released.
    ends: Vec<(u64, Failure)>,
    shared: Option<(BodyKey, Arc<SharedBody>)>,
    /// Whose replay is being pulled.
    pulling: Option<Arc<Session>>,
    scanner: Scanner,
    pub(crate) pool: Pool,
    pub(crate) repayments: Repayments,
    pub(crate) counts: CallCounts,
    /// Messages not delivered since they would have introduced a capability.
    pub(crate) transient_drops: u64,
    pub(crate) deliveries: u64,
    /// What all observers of a message get.
    body: Vec<u8>,
    fan_outs: FanOuts,
    notes: Notes,
    filter: Filter,
}

impl Default for Stage {
    fn default() -> Stage {
        Stage {
            slots: Vec::new(),
            by_number: Vec::new(),
            turn: 1,
            cost: 0,
            fan_out_max: u64::MAX,
            shed_at: u64::MAX,
            shared_cost: 0,
            account: None,
            hops: 0,
            dirty: Vec::new(),
            long: Vec::new(),
            flushed_last: u64::MAX,
            full: Vec::new(),
            local: Vec::new(),
            local_cost: 0,
            ends: Vec::new(),
            shared: None,
            pulling: None,
            scanner: Scanner::new(Limits { packet_bytes_max: u32::MAX, ..Limits::default() }),
            pool: Pool::default(),
            repayments: Repayments::default(),
            counts: CallCounts::default(),
            transient_drops: 0,
            deliveries: 0,
            body: Vec::new(),
            fan_outs: FanOuts::default(),
            notes: Notes::default(),
            filter: Filter::default(),
        }
    }
}

impl Stage {
    /// Who causes what is staged from now on, over how many queues, and how much one turn may come to. What was
    /// staged before must have been published.
    pub(crate) fn begin(&mut self, account: &Arc<Account>, hops: u32, fan_out_max: u64) {
        debug_assert!(self.cost == 0);
        (self.fan_out_max, self.shed_at) = (fan_out_max, fan_out_max);
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

    /// The number of the turn being staged.
    #[inline]
    pub(crate) fn turn(&self) -> u64 {
        self.turn
    }

    /// What is staged and has not been charged.
    #[inline]
    pub(crate) fn cost(&self) -> u64 {
        self.cost
    }

    #[inline]
    fn slot(&mut self, to: &Remote) -> &mut Slot {
        let at = self.by_number.get(to.session_number()).map_or(0, |at| *at as usize).wrapping_sub(1);
        let at = match self.slots.get(at) {
            // A session that has ended may have left its number to this one since its slot was made.
            Some(slot) if slot.session_id == to.session_id() => at,
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
        let known = self.by_number[number];
        if known & fanout::IS_CLASS != 0 {
            self.leave_class(known, to);
            let at = self.by_number[number];
            if at & fanout::IS_CLASS == 0 && self.slots[at as usize - 1].session_id == to.session_id() {
                return at as usize - 1;
            }
        }
        self.slots.push(Slot {
            session: to.session().clone(),
            session_id: to.session_id(),
            segments: Vec::new(),
            buffer: self.pool.take(),
            cost: 0,
            turn: 0,
            is_shed: false,
        });
        self.by_number[number] = self.slots.len() as u32;
        self.slots.len() - 1
    }

    /// Stages a message, without capabilities in it, for all observers that get the same of it: the hot path.
    #[inline]
    pub(crate) fn messages(&mut self, observers: Observers<'_, Router>, captures: &Captures<'_>) {
        let bytes: usize = captures.iter().map(|c| c.len()).sum();
        if bytes >= SHARED_BYTES_MIN {
            observers.iter().for_each(|to| self.message(to, captures));
            return;
        }
        let mut one = observers.iter();
        if observers.count() == 1
            && let Some(Target::Remote(remote)) = one.next()
            && !remote.opening().is_too_long()
        {
            return self.write_message(remote, |opening, skipped, out| {
                opening.write_parts(skipped, captures, &MESSAGE_CLOSE, out)
            });
        }
        let mut body = std::mem::take(&mut self.body);
        body.clear();
        captures.iter().for_each(|c| body.extend_from_slice(c));
        body.extend_from_slice(&MESSAGE_CLOSE);
        if !self.fan_out(&observers, &body) {
            for to in observers.iter() {
                match to {
                    Target::Remote(remote) if !remote.opening().is_too_long() => {
                        self.copy_message(remote, &body);
                    }
                    other => self.message(other, captures),
                }
            }
        }
        self.body = body;
    }

    /// Stages a message for a peer's entity: `body` is all that follows the opening.
    #[inline]
    fn copy_message(&mut self, to: &Remote, body: &[u8]) {
        self.write_message(to, |opening, skipped, out| opening.write(skipped, body, out));
    }

    /// Stages a message for a peer's entity. `write` appends it, and returns its length.
    #[inline(always)]
    fn write_message(&mut self, to: &Remote, write: impl FnOnce(&Opening, usize, &mut Vec<u8>) -> usize) {
        let turn = self.turn;
        let slot = self.slot(to);
        if slot.is_shed {
            return;
        }
        let skipped = fanout::skipped(slot.turn, turn);
        slot.turn = turn;
        let cost = write(to.opening(), skipped, &mut slot.buffer) as u64 + EVENT_COST;
        slot.cost += cost;
        self.add(cost, 1);
    }

    /// Stages a message, without capabilities in it, for one observer.
    pub(crate) fn message(&mut self, to: &Target, captures: &Captures<'_>) {
        match to {
            Target::Remote(remote) => self.event(remote, b'M', Some(Body::Captures(captures)), None),
            Target::Other(_, id) if self.is_too_much(*id, captures) => {}
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
        if self.slot(to).is_shed {
            return;
        }
        let shared = match &body {
            Some(body) if body.bytes() >= SHARED_BYTES_MIN => self.share(body),
            _ => None,
        };
        let slot = self.slot(to);
        slot.open(turn);
        slot.buffer.extend_from_slice(to.head());
        slot.buffer.push(kind);
        // A shared body has been charged for, once for all who get it.
        let own = if shared.is_some() { 0 } else { body.as_ref().map_or(0, Body::bytes) };
        let cost = EVENT_COST + (to.head().len() + own + 16) as u64;
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
        self.add(cost, 1);
        if self.cost + self.shared_cost > self.shed_at {
            self.shed();
        }
    }

    /// Counts what has been staged.
    #[inline(always)]
    fn add(&mut self, cost: u64, deliveries: u64) {
        self.cost += cost;
        self.deliveries += deliveries;
        if self.cost > self.shed_at {
            self.shed();
        }
    }

    /// The body as a segment that outboxes can share: made, and charged for, once for all that get it.
    fn share(&mut self, body: &Body<'_, '_>) -> Option<Arc<SharedBody>> {
        let key = body.key(self.turn);
        if let Some((known, shared)) = &self.shared
            && Some(known) == key.as_ref()
        {
            return Some(shared.clone());
        }
        let loan = Loan::charge(self.account.as_ref()?, body.bytes() as u64);
        self.shared_cost += body.bytes() as u64;
        let mut out = Vec::with_capacity(body.bytes());
        body.write(&mut out);
        let shared = Arc::new(SharedBody::new(out, loan));
        self.shared = key.map(|key| (key, shared.clone()));
        Some(shared)
    }

    /// What was staged last lay in a place that something else will lie in, in the same turn even.
    pub(crate) fn forget_shared(&mut self) {
        self.shared = None;
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
        let used = to.session().membrane().write_message(body, caps, &mut self.scanner, &mut wire);
        match used {
            Some(oids) => self.message_using(to, oids, &wire),
            None => self.transient_drops += 1,
        }
    }

    /// Stages an assertion with a value in stored form.
    pub(crate) fn direct_assert(
        &mut self,
        to: &Remote,
        value: &[u8],
        (caps, author): (&Caps, Option<&Author>),
        handle: u64,
    ) {
        if caps.is_empty() {
            return self.event(to, b'A', Some(Body::Value(value)), Some(handle));
        }
        let mut wire = Vec::new();
        let mut membrane = to.session().membrane();
        let told = membrane.write_assertion(value, caps, handle, &mut self.scanner, &mut wire);
        introduce::charge_told(to, membrane, handle, author);
        self.event(to, b'A', Some(Body::Value(&wire)), Some(handle));
        self.note_told(to, told);
    }

    /// Stages a retraction.
    pub(crate) fn direct_retract(&mut self, to: &Remote, handle: u64, has_caps: bool) {
        self.event(to, b'R', None, Some(handle));
        if has_caps {
            let mut membrane = to.session().membrane();
            let untold = membrane.release_sent(handle);
            to.session().note_removals(&membrane);
            drop(membrane);
            self.note_untold(to, untold);
        }
    }

    /// An event for an observer that is not simply a peer's entity.
    fn other(&mut self, to: &Cap, by: Observing, event: LocalEvent) {
        let event = match event {
            LocalEvent::Assert(value, caps, handle) => match self.filter(to, by, value, caps) {
                Some((value, caps)) => LocalEvent::Assert(value, caps, handle),
                None => return,
            },
            LocalEvent::Message(body, caps) => match self.filter(to, by, body, caps) {
                Some((body, caps)) => LocalEvent::Message(body, caps),
                None => return,
            },
            as_it_is => as_it_is,
        };
        self.deliver(to, by, event);
    }

    /// An event, as the caveats have let it pass.
    pub(crate) fn deliver(&mut self, to: &Cap, by: Observing, event: LocalEvent) {
        match (to.entity(), event) {
            (Entity::Remote(remote), LocalEvent::Assert(value, caps, handle)) => {
                self.asked_assert(remote, by, &value, &caps, handle);
            }
            (Entity::Remote(remote), LocalEvent::Message(body, caps)) => {
                self.direct_message(remote, &body, &caps)
            }
            (Entity::Remote(remote), LocalEvent::Retract(handle)) => {
                self.direct_retract(remote, handle, true)
            }
            (Entity::Dataspace(_) | Entity::Reporter(_), event) => self.local_event(to, by, event),
            _ => {}
        }
    }

    fn local_event(&mut self, to: &Cap, by: Observing, event: LocalEvent) {
        let Some(account) = self.account.clone() else { return };
        if self.hops >= HOPS_MAX && !matches!(event, LocalEvent::Retract(_)) {
            self.ends.push((by.session, Failure::Loop(HOPS_MAX)));
            return;
        }
        let bytes = match &event {
            LocalEvent::Assert(value, ..) | LocalEvent::Message(value, _) => value.len(),
            LocalEvent::Retract(_) | LocalEvent::Replay(_) => 0,
        };
        let cost = bytes as u64 + EVENT_COST;
        self.local_cost += cost;
        if self.local_cost > self.fan_out_max && !matches!(event, LocalEvent::Retract(_)) {
            // As in `shed`, by the order in which they come.
            self.local_cost -= cost;
            self.ends.push((by.session, Failure::Multiplied(self.fan_out_max)));
            return;
        }
        // No outbox bounds what dataspaces make of each other's turns. An author's own turns leave it owing about this much
        // at most (a last one goes to peers and to dataspaces); what it owes beyond, such observations have made of them.
        let owed_max = account.limit().saturating_add(self.fan_out_max.saturating_mul(2));
        if self.hops > 0 && account.debt() > owed_max && !matches!(event, LocalEvent::Retract(_)) {
            self.local_cost -= cost;
            self.ends.push((by.session, Failure::MultipliedOver(owed_max)));
            return;
        }
        let loan = Loan::charge(&account, cost);
        self.local.push((to.clone(), Delivery { event, by, loan, hops: self.hops + 1 }));
    }

    /// Appends all that is staged to the outboxes, and charges for it. Takes their locks, one after the other;
    /// does nothing slow.
    pub(crate) fn publish_staged(&mut self, broker: &Arc<Broker>) {
        if !self.slots.is_empty() || !self.fan_outs.is_empty() {
            self.publish_slots();
        }
        for (cap, delivery) in self.local.drain(..) {
            if let Entity::Reporter(reporter) = cap.entity() {
                reporter.hear(delivery, broker);
            } else if let Entity::Dataspace(dataspace) = cap.entity()
                && dataspace.inbox.push(delivery)
            {
                broker.scheduler().notify(&dataspace.inbox, Inbox::PUSHED);
            }
        }
        self.local_cost = 0;
        self.filter.settle();
        for (session, failure) in self.ends.drain(..) {
            broker.end_session(session, failure);
        }
    }

    fn publish_slots(&mut self) {
        let Some(account) = self.account.clone() else { return };
        account.charge(self.cost);
        (self.cost, self.shared_cost, self.shed_at) = (0, 0, self.fan_out_max);
        let mut slots = std::mem::take(&mut self.slots);
        for slot in slots.drain(..) {
            let Slot { session, mut segments, mut buffer, cost, turn, is_shed, .. } = slot;
            self.by_number[session.number() as usize] = 0;
            if is_shed {
                self.notes.forget(session.id());
                continue;
            }
            if turn != 0 {
                buffer.push(tag::END);
            }
            let membrane = self.settle(&session, &mut segments);
            if membrane.is_some() {
                introduce::join(&mut segments, &mut buffer);
            }
            let outbox = session.outbox();
            let appended = outbox.append(&mut segments, &mut buffer, &account, cost, &mut self.pool);
            drop(membrane);
            self.pool.put(buffer);
            self.note_appended(&session, appended);
        }
        self.slots = slots;
        self.shared = None;
        if !self.fan_outs.is_empty() {
            self.publish_classes();
        }
    }
}

impl Drop for Stage {
    /// A worker's local state is dropped when it has panicked. What others are to get by then is in their
    /// outboxes: they see to it themselves.
    fn drop(&mut self) {
        self.dirty.drain(..).for_each(|session| session.tell(Session::FLUSH));
        if let Some(session) = self.pulling.take() {
            // The place of its replay stays taken for good.
            session.break_off();
        }
    }
}

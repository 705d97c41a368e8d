//! One connection: reading and flow control.

mod credit;
mod end;
pub(crate) mod meter;
pub(crate) mod packets;
mod plain;
mod text;
mod throttle;
mod watch;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, MutexGuard};
use staunch_flowctl::{Account, OpenConnection};
use staunch_protocols::text::StreamReader;
use staunch_protocols::wire::{Limits, Scanner};
use staunch_system::net::Stream;
use staunch_system::poll::Interest;

use credit::Counting;
use end::Ending;
use meter::Meter;

use super::failure::Failure;
use super::handles::{Handles, Held};
use super::membrane::{Membrane, Ref, Refs};
use super::turn::{Applied, Decoded};
use crate::cap::{Cap, Entity};
use crate::limits::{Share, Unfinished};
use crate::listen::Credit;
use crate::outbox::{Outbox, Pool};
use crate::principals::Holdings;
use crate::schedule::{Outcome, Ready, Registration, Task, TaskState, Worker};
use crate::slow::Slow;
use crate::{Broker, Local};

/// What a session may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SessionConfig {
    /// Debt above which it is not read.
    pub(crate) debt_max: u64,
    /// Bytes that may wait for it before those who cause more are held back.
    pub(crate) outbox_max: usize,
    /// What is done if it does not read.
    pub(crate) slow: Slow,
    /// Whether turns are counted and reported, each way.
    pub(crate) credit: Option<Credit>,
    /// Bounds on one packet.
    pub(crate) packet: Limits,
}

/// What an unfinished packet may take before it is read into a buffer of its own.
const CARRY_MAX: usize = 32 << 10;
/// Bytes of one packet of a peer that has been given nothing but the gatekeeper: questions need no more.
pub(super) const STRANGER_PACKET_MAX: u32 = 256 << 10;
/// How much more of a packet is read at a time once it has a buffer of its own.
const LONG_READ: usize = 256 << 10;

/// What only the worker that runs the session touches.
pub(super) struct Inbound {
    pub(super) handles: Handles,
    /// Its share for those.
    pub(super) assertions: Share,
    /// How many of them are observations, and the share for these.
    pub(super) observations: (u64, Share),
    /// What turns retracted that then failed: to be retracted in the end, as if they had not been.
    pub(super) leftovers: Vec<Held>,
    /// The beginning of a packet, or what was read and has to wait.
    carry: Vec<u8>,
    /// Where the scan of the packet at the carry's start stands, if one has begun.
    scanner: Option<Scanner>,
    /// What reads the peer's text, if it speaks text at present: then `carry` is only what has to wait.
    text: Option<Box<StreamReader>>,
    /// What the unfinished packet takes, and all that is counted with it: see [`Session::cover_unfinished`].
    unfinished: Unfinished,
    /// Bytes of questions at the gatekeeper that have no answer yet.
    pub(super) kept_bytes: usize,
    /// Something has been handled: it is known whether this is a session at all.
    is_known: bool,
    /// It has been given nothing but the gatekeeper so far.
    is_stranger: bool,
    /// A turn that waits for something to be built.
    waiting: Option<Box<Decoded>>,
    /// There may be more to read.
    is_readable: bool,
    /// The peer has finished: read to the end, then end.
    is_hanging_up: bool,
    /// Reading has ended; what was asserted is being retracted.
    is_ending: bool,
    /// The dataspace that an event was last sent to.
    target: Option<packets::MessageTarget>,
    /// Something has been read.
    has_begun: bool,
    /// It has been found to owe too much, and not to be let on since.
    is_parked: bool,
    /// Sessions whose outboxes it has brought above their ceilings.
    full: Vec<Arc<Session>>,
    /// If turns are counted.
    counting: Option<Box<Counting>>,
    ending: Ending,
}

/// See the module's head.
pub(crate) struct Session {
    state: TaskState,
    id: u64,
    number: u32,
    /// Bounds on one packet.
    packet: Limits,
    counts_turns: bool,
    broker: Arc<Broker>,
    stream: Stream,
    account: Arc<Account>,
    holdings: Arc<Holdings>,
    connection: Mutex<Option<OpenConnection>>,
    registration: OnceLock<Registration<Local>>,
    /// The one waker that accounts know it by.
    waker: OnceLock<std::task::Waker>,
    inbound: Mutex<Inbound>,
    membrane: Mutex<Membrane>,
    /// As in [`Membrane::removals`], to be read without its lock.
    removals: AtomicU64,
    /// To be released in the membrane. Nothing else is locked while this is.
    unneeded: Mutex<Vec<Ref>>,
    outbox: Outbox,
    /// Whether the kernel has been asked to tell when the stream can be written to. (Over TCP it tells only after it
    /// has refused something, so there that is asked for once and for all.)
    asks_for_room: Mutex<bool>,
    /// Its peer is known to owe acknowledgements: see [`crate::silence`], which clears it and looks then, whereas who has
    /// written looks here then.
    is_watched: AtomicBool,
    /// Why others want it to end. Boxed, as it comes to pass for few.
    verdict: Mutex<Option<Box<Failure>>>,
    /// Set once, when the session has begun to end: nothing is delivered any more.
    is_closed: AtomicBool,
    /// Boxed, for the sake of the size.
    meter: Box<Meter>,
}

/// With the counts of its `Arc` it fills what the allocator sets aside for it: one byte more takes 256 for each connection.
const _: () = assert!(size_of::<Session>() + 16 <= 1280, "box what few sessions need");

impl Session {
    /// Takes a connection on. `initial` is what the peer gets to start from.
    pub(crate) fn open(
        broker: &Arc<Broker>,
        stream: Stream,
        connection: OpenConnection,
        principal: &str,
        name: &str,
        initial: Cap,
        config: SessionConfig,
    ) -> Arc<Session> {
        let owner = broker.ledger.principal(principal);
        let limits = staunch_flowctl::Limits::new(config.debt_max).with_resume_below(config.debt_max / 2);
        let account = broker.ledger.open_account(&owner, name, limits);
        let holdings = broker.principals.get(principal);
        let mut membrane = Membrane::new(holdings.clone());
        let is_stranger = matches!(initial.entity(), Entity::Gatekeeper(_));
        membrane.export_initial(initial);
        let session = Arc::new(Session {
            state: TaskState::new(),
            id: account.id(),
            number: broker.numbers.take(),
            packet: config.packet,
            counts_turns: config.credit.is_some(),
            broker: broker.clone(),
            stream,
            account,
            holdings,
            connection: Mutex::new(Some(connection)),
            registration: OnceLock::new(),
            waker: OnceLock::new(),
            inbound: Mutex::new(Inbound {
                handles: Handles::default(),
                assertions: Share::default(),
                observations: Default::default(),
                leftovers: Vec::new(),
                carry: Vec::new(),
                scanner: None,
                unfinished: Unfinished::default(),
                kept_bytes: 0,
                text: None,
                is_known: false,
                is_stranger,
                waiting: None,
                is_readable: true,
                is_hanging_up: false,
                is_ending: false,
                target: None,
                has_begun: false,
                is_parked: false,
                full: Vec::new(),
                counting: config.credit.map(|credit| Box::new(Counting::new(credit))),
                ending: Ending::default(),
            }),
            membrane: Mutex::new(membrane),
            removals: AtomicU64::new(0),
            unneeded: Mutex::default(),
            asks_for_room: Mutex::new(false),
            is_watched: AtomicBool::new(false),
            verdict: Mutex::default(),
            outbox: Outbox::new(config.outbox_max, config.slow),
            is_closed: AtomicBool::new(false),
            meter: Box::default(),
        });
        broker.sessions.insert(session.id, session.clone());
        session
    }

    /// Starts to read.
    pub(crate) fn start(self: &Arc<Self>) -> std::io::Result<()> {
        let interest = if self.stream.is_tcp() { Interest::ReadWrite } else { Interest::Read };
        let registration = self.broker.scheduler().register_for(&self.stream, self.clone(), interest)?;
        let _ = self.registration.set(registration);
        // It may have been run, and blocked, before the registration was there to be changed.
        if self.outbox.is_blocked() {
            self.await_room();
        }
        Ok(())
    }

    /// The kernel takes no more: has it tell when it does again. To be called after the outbox has noted that.
    pub(crate) fn await_room(&self) {
        if self.stream.is_tcp() {
            return;
        }
        let mut asks = self.asks_for_room.lock();
        if !*asks && let Some(registration) = self.registration.get() {
            // If there is room by now it is told at once.
            *asks = registration.set_interest(&self.stream, Interest::ReadWrite).is_ok();
        }
    }

    /// Has the kernel no longer tell whenever the peer has read something, once nothing waits for that.
    fn forgo_room(&self) {
        if self.stream.is_tcp() {
            return;
        }
        let mut asks = self.asks_for_room.lock();
        // Under this lock: who finds it blocked later asks again later.
        if *asks
            && !self.outbox.is_blocked()
            && let Some(registration) = self.registration.get()
        {
            *asks = registration.set_interest(&self.stream, Interest::Read).is_err();
        }
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    #[inline]
    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    pub(crate) fn broker(&self) -> &Arc<Broker> {
        &self.broker
    }

    pub(crate) fn holdings(&self) -> &Arc<Holdings> {
        &self.holdings
    }

    pub(crate) fn account(&self) -> &Arc<Account> {
        &self.account
    }

    pub(crate) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// What it has done, and whether it is held back.
    pub(crate) fn meter(&self) -> &Meter {
        &self.meter
    }

    #[inline]
    pub(crate) fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// The membrane, locked. Take no other lock but an outbox's while holding it; what is dropped meanwhile sees to that
    /// itself (see [`Session::release_soon`]).
    pub(crate) fn membrane(&self) -> MutexGuard<'_, Membrane> {
        self.membrane.lock()
    }

    /// Gives back references that are held in the membrane.
    pub(crate) fn release(&self, refs: &[Ref]) {
        let mut membrane = self.membrane();
        refs.iter().for_each(|r| membrane.release(r));
        self.note_removals(&membrane);
    }

    /// The same, before it reads on: for whoever may hold any lock.
    pub(crate) fn release_soon(self: &Arc<Self>, refs: Refs) {
        if self.is_closed() {
            return;
        }
        let mut unneeded = self.unneeded.lock();
        let was_empty = unneeded.is_empty();
        unneeded.extend(refs);
        drop(unneeded);
        if was_empty {
            self.tell(Session::UNNEEDED);
        }
    }

    /// Tells the fast way that entries have gone from the membrane.
    pub(crate) fn note_removals(&self, membrane: &Membrane) {
        // Release: pairs with the Acquire in run_messages(): who sees the count looks the target up again.
        self.removals.store(membrane.removals, Ordering::Release);
    }

    pub(crate) fn is_closed(&self) -> bool {
        // Relaxed: whoever misses it appends to a closed outbox, which settles at once.
        self.is_closed.load(Ordering::Relaxed)
    }

    /// There is something in the outbox that nobody is about to flush.
    pub(crate) const FLUSH: Ready = Ready::USER1;
    /// Somebody wants it to end: see `verdict`.
    const VERDICT: Ready = Ready::USER2;
    /// There are references to give back.
    const UNNEEDED: Ready = Ready::USER4;
    /// It is time to report turns to the peer.
    pub(crate) const REPORT: Ready = Ready::user(5);
    /// It has lingered for long enough.
    pub(crate) const OVERDUE: Ready = Ready::USER3;

    /// Has it run, and told so. From any thread.
    pub(crate) fn tell(self: &Arc<Self>, ready: Ready) {
        self.broker.scheduler().notify(self, ready);
    }
}

impl Task<Local> for Session {
    fn state(&self) -> &TaskState {
        &self.state
    }

    fn run(self: Arc<Self>, ready: Ready, worker: &mut Worker<Local>) -> Outcome {
        let mut inbound = self.inbound.lock();
        let local = &mut worker.local;
        let is_writable = ready.contains(Ready::WRITABLE);
        if is_writable && self.outbox.writable() || ready.contains(Session::FLUSH) {
            local.stage.flush_one(&self, &mut local.scratch);
            local.stage.repayments.repay_all();
        } else if is_writable {
            self.forgo_room();
        }
        inbound.is_readable |= ready.intersects(Ready::READABLE.union(Ready::HANGUP));
        inbound.is_hanging_up |= ready.contains(Ready::HANGUP);
        if inbound.is_readable && local.stage.flushed_last == self.id {
            worker.queue.note_answer();
        }
        inbound.ending.is_overdue |= ready.contains(Session::OVERDUE);
        if ready.contains(Session::UNNEEDED) {
            let unneeded = std::mem::take(&mut *self.unneeded.lock());
            self.release(&unneeded);
        }
        local.stage.begin(&self.account, 0, self.broker.fan_out_max);
        let verdict = if ready.contains(Session::VERDICT) { self.verdict.lock().take() } else { None };
        if let Some(failure) = verdict
            && !inbound.is_ending
        {
            self.fail(&failure, &mut inbound, local);
        }
        let turns_before = local.stage.turn();
        let outcome = self.advance(&mut inbound, local, &mut worker.buffer);
        local.stage.publish_staged(&self.broker);
        if let Some(counting) = &mut inbound.counting {
            self.count_turns(counting, ready, local);
        }
        local.flush(&worker.queue);
        inbound.full.append(&mut local.stage.take_full());
        let stage = &mut local.stage;
        stage.counts.turns = stage.turn() - turns_before;
        self.meter.add(stage.counts.read_bytes, stage.counts.turns, stage.deliveries);
        let count = inbound.handles.len() as u64;
        inbound.assertions.trim(count, &self.holdings.assertions);
        local.publish_counts(&self.broker);
        outcome
    }

    fn panicked(self: Arc<Self>) {
        tracing::error!(connection = self.account.name(), "a bug ended this connection; please report it");
        self.end_soon(Failure::Bug);
    }
}

/// What is kept until the next read, without the room that a long packet has left: the connection may be idle for long.
fn fitting(carry: Vec<u8>, pool: &mut Pool) -> Vec<u8> {
    if carry.capacity() <= CARRY_MAX || carry.len() >= carry.capacity() / 2 {
        return carry;
    }
    let kept = carry.as_slice().to_vec();
    pool.put(carry);
    kept
}

impl Session {
    fn advance(self: &Arc<Self>, inbound: &mut Inbound, local: &mut Local, buffer: &mut [u8]) -> Outcome {
        if inbound.is_ending {
            return self.end_some(inbound, local, buffer);
        }
        let read = self.read(inbound, local, buffer).and_then(|outcome| {
            self.cover_unfinished(inbound)?;
            Ok(outcome)
        });
        match read {
            Ok(outcome) => outcome,
            Err(failure) => {
                self.fail(&failure, inbound, local);
                Outcome::Again(Ready::NONE)
            }
        }
    }

    /// Has what an unfinished packet takes counted with the principal's others, and one that waits whole because of a debt,
    /// a turn for which something is built, and questions that may be answered later. (Up to a read's worth of short packets may wait uncounted: who owes is not ended for it.)
    fn cover_unfinished(&self, inbound: &mut Inbound) -> Result<(), Failure> {
        let Inbound { carry, scanner, text, waiting, unfinished, kept_bytes, is_stranger, .. } = inbound;
        let binary = match scanner {
            Some(scanner) => carry.capacity() + scanner.memory_bytes(),
            None if carry.capacity() > LONG_READ => carry.capacity(),
            None => 0,
        };
        let text = text.as_ref().map_or(0, |reader| reader.memory_bytes());
        let waiting = waiting.as_ref().map_or(0, |decoded| decoded.memory_bytes);
        let bytes = binary + text + waiting + *kept_bytes;
        let max = || self.broker.limits().principal_unfinished;
        // Strangers have an eighth for themselves, so that they cannot take the others' share.
        if !*is_stranger {
            unfinished.cover(bytes as u64, &self.holdings.unfinished, max)
        } else {
            unfinished.cover(bytes as u64, &self.holdings.unfinished_strangers, || max() / 8)
        }
        .then_some(())
        .ok_or_else(|| Failure::Unfinished(max()))
    }

    /// Bounds on the peer's packets.
    fn packet_limits(&self, inbound: &Inbound) -> Limits {
        match inbound.is_stranger {
            true => {
                let bytes = self.packet.packet_bytes_max.min(STRANGER_PACKET_MAX);
                Limits { packet_bytes_max: bytes, ..self.packet }
            }
            false => self.packet,
        }
    }

    /// Looks whether a stranger has been given something since. True if so, once.
    fn is_introduced(&self, inbound: &mut Inbound) -> bool {
        let is_introduced = inbound.is_stranger && self.membrane.lock().has_exported();
        if is_introduced {
            inbound.unfinished.release(&self.holdings.unfinished_strangers);
            inbound.is_stranger = false;
        }
        is_introduced
    }

    /// Reads and handles one chunk.
    fn read(
        self: &Arc<Self>,
        inbound: &mut Inbound,
        local: &mut Local,
        buffer: &mut [u8],
    ) -> Result<Outcome, Failure> {
        if let Some(mut waiting) = inbound.waiting.take() {
            if let Applied::Building = self.apply(&mut waiting, None, inbound, local)? {
                inbound.waiting = Some(waiting);
                return Ok(Outcome::Again(Ready::NONE));
            }
            inbound.count_turns(1);
        }
        if !self.may_go_on(inbound) {
            return Ok(Outcome::Idle);
        }
        // What was carried over whole is handled before more is read.
        let mut carry = std::mem::take(&mut inbound.carry);
        if inbound.scanner.is_none() && !carry.is_empty() {
            let done = self.handle(&carry, inbound, local)?;
            // Either something has to wait before the rest, or the rest is an unfinished packet.
            let is_paused = inbound.waiting.is_some() || done < carry.len() && inbound.scanner.is_none();
            carry.drain(..done);
            if is_paused {
                inbound.carry = carry;
                return Ok(self.after_pause(inbound));
            }
        }
        // Before the broker ends, only what was read already is handled, and what was sent by those that have gone.
        if !inbound.is_readable || self.broker.is_draining() && !inbound.is_hanging_up {
            inbound.carry = fitting(carry, &mut local.stage.pool);
            return Ok(Outcome::Idle);
        }
        if carry.len() > CARRY_MAX {
            return self.read_long(carry, inbound, local);
        }
        let carried = carry.len();
        buffer[..carried].copy_from_slice(&carry);
        carry.clear();
        local.stage.counts.reads += 1;
        let read = self.stream.read(&mut buffer[carried..]);
        let space = buffer.len() - carried;
        let Some(read) = self.after_read(read, space, inbound) else {
            return Ok(self.finish_reading(inbound));
        };
        local.stage.counts.read_bytes += read as u64;
        let bytes = &buffer[..carried + read];
        let done = self.handle(bytes, inbound, local)?;
        if done < bytes.len() {
            // In the memory of the one before, if there was one: a busy connection's reads mostly end within a packet.
            if bytes.len() - done > CARRY_MAX {
                let small = std::mem::replace(&mut carry, local.stage.pool.take());
                local.stage.pool.put(small);
            }
            carry.extend_from_slice(&bytes[done..]);
            inbound.carry = fitting(carry, &mut local.stage.pool);
        } else {
            local.stage.pool.put(carry);
        }
        Ok(self.after_pause(inbound))
    }

    /// Reads on in a packet that has outgrown the worker's buffer.
    fn read_long(
        self: &Arc<Self>,
        mut carry: Vec<u8>,
        inbound: &mut Inbound,
        local: &mut Local,
    ) -> Result<Outcome, Failure> {
        let before = carry.len();
        // Grows with what arrives, never by what was declared.
        carry.resize(before + before.clamp(CARRY_MAX, LONG_READ), 0);
        local.stage.counts.reads += 1;
        let read = self.stream.read(&mut carry[before..]);
        let space = carry.len() - before;
        let read = self.after_read(read, space, inbound);
        carry.truncate(before + read.unwrap_or(0));
        local.stage.counts.read_bytes += read.unwrap_or(0) as u64;
        if read.is_none() {
            return Ok(self.finish_reading(inbound));
        }
        let done = self.handle(&carry, inbound, local)?;
        carry.drain(..done);
        inbound.carry = if done > 0 { fitting(carry, &mut local.stage.pool) } else { carry };
        Ok(self.after_pause(inbound))
    }

    /// What a read tells. `None` if there is no more to read, ever or for now.
    fn after_read(&self, read: std::io::Result<usize>, space: usize, inbound: &mut Inbound) -> Option<usize> {
        match read {
            Ok(0) => {
                inbound.is_hanging_up = true;
                inbound.is_readable = false;
                None
            }
            Ok(read) => {
                inbound.has_begun = true;
                // A short read has emptied the socket; whatever comes later is another edge.
                if read < space && !inbound.is_hanging_up {
                    inbound.is_readable = false;
                }
                Some(read)
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                inbound.is_readable = false;
                Some(0)
            }
            Err(_) => None,
        }
    }

    fn finish_reading(self: &Arc<Self>, inbound: &mut Inbound) -> Outcome {
        self.begin_end(inbound, None);
        Outcome::Again(Ready::NONE)
    }

    fn after_pause(self: &Arc<Self>, inbound: &mut Inbound) -> Outcome {
        let has_work = inbound.is_readable || inbound.waiting.is_some();
        let has_whole = !inbound.carry.is_empty() && inbound.scanner.is_none();
        if has_work || has_whole { Outcome::Again(Ready::NONE) } else { Outcome::Idle }
    }
}

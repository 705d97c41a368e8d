//! One connection: reading, flow control, and the end.

mod packets;
mod plain;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Poll;

use parking_lot::{Mutex, MutexGuard};
use staunch_flowctl::{Account, ConnectionsExhausted, OpenConnection};
use staunch_protocols::caveat::CaveatError;
use staunch_protocols::packet::{self, PacketError};
use staunch_protocols::wire::{CanonError, Int, Limits, ScanError, Scanner};
use staunch_system::net::{Shutdown, Stream};

use super::handles::Handles;
use super::membrane::Membrane;
use super::turn::{Applied, Decoded};
use crate::cap::Cap;
use crate::outbox::{Outbox, Segment};
use crate::principals::Holdings;
use crate::schedule::{Outcome, Ready, Registration, Task, TaskState, Worker};
use crate::{Broker, Local};

/// What a session may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SessionConfig {
    /// Debt above which it is not read.
    pub(crate) debt_max: u64,
    /// Live assertions.
    pub(crate) assertions_max: u64,
    /// Skeletons that exist because of its principal.
    pub(crate) skeletons_max: u64,
    /// Bounds on one packet.
    pub(crate) packet: Limits,
}

/// What an unfinished packet may take before it is read into a buffer of its own.
const CARRY_MAX: usize = 32 << 10;
/// Sessions flushed by one piece of work; more are cut into pieces that other workers may take.
const FLUSH_PIECE: usize = 64;

/// Why a session ends by this side.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{0}")]
    Scan(ScanError),
    #[error("{0}")]
    Duplicate(CanonError),
    #[error("{0}")]
    Packet(PacketError),
    #[error("Assertion with duplicate handle {0}")]
    DuplicateHandle(Int),
    #[error("Cannot receive transient reference")]
    TransientReference,
    #[error("Invalid capability attenuation: {0}")]
    Caveat(CaveatError),
    #[error("More than {0} assertions")]
    TooManyAssertions(u64),
    #[error("More than {0} kinds of pattern (skeletons) for this principal")]
    TooManySkeletons(u64),
    #[error("{0}")]
    Peer(String),
    #[error("text syntax is not spoken here: the first byte of a packet must be 0x80 or above")]
    Text,
}

/// What only the worker that runs the session touches.
pub(super) struct Inbound {
    pub(super) handles: Handles,
    /// The beginning of a packet, or what was read and has to wait.
    carry: Vec<u8>,
    /// Where the scan of the packet at the carry's start stands, if one has begun.
    scanner: Option<Scanner>,
    /// A turn that waits for something to be built.
    waiting: Option<Decoded>,
    /// There may be more to read.
    is_readable: bool,
    /// The peer has finished: read to the end, then end.
    is_hanging_up: bool,
    /// Reading has ended; what was asserted is being retracted.
    is_ending: bool,
    /// The dataspace that a message was last sent to.
    target: Option<packets::MessageTarget>,
    /// It has been found to owe too much, and to be let on.
    is_parked: bool,
}

/// See the module's head.
pub(crate) struct Session {
    state: TaskState,
    id: u64,
    number: u32,
    config: SessionConfig,
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
    outbox: Outbox,
    /// Set once, when the session has begun to end: nothing is delivered any more.
    is_closed: AtomicBool,
}

impl Session {
    /// Takes a connection on. `initial` is what the peer gets to start from.
    pub(crate) fn open(
        broker: &Arc<Broker>,
        stream: Stream,
        principal: &str,
        name: &str,
        initial: Cap,
        config: SessionConfig,
    ) -> Result<Arc<Session>, ConnectionsExhausted> {
        let owner = broker.ledger.principal(principal);
        let connection = owner.try_open()?;
        let limits = staunch_flowctl::Limits::new(config.debt_max).with_resume_below(config.debt_max / 2);
        let account = broker.ledger.open_account(&owner, name, limits);
        let mut membrane = Membrane::default();
        membrane.export_initial(initial);
        let session = Arc::new(Session {
            state: TaskState::new(),
            id: account.id(),
            number: broker.numbers.take(),
            config,
            broker: broker.clone(),
            stream,
            account,
            holdings: broker.principals.get(principal),
            connection: Mutex::new(Some(connection)),
            registration: OnceLock::new(),
            waker: OnceLock::new(),
            inbound: Mutex::new(Inbound {
                handles: Handles::default(),
                carry: Vec::new(),
                scanner: None,
                waiting: None,
                is_readable: true,
                is_hanging_up: false,
                is_ending: false,
                target: None,
                is_parked: false,
            }),
            membrane: Mutex::new(membrane),
            removals: AtomicU64::new(0),
            outbox: Outbox::default(),
            is_closed: AtomicBool::new(false),
        });
        broker.sessions.insert(session.id, session.clone());
        Ok(session)
    }

    /// Starts to read.
    pub(crate) fn start(self: &Arc<Self>) -> std::io::Result<()> {
        let registration = self.broker.scheduler().register(&self.stream, self.clone())?;
        let _ = self.registration.set(registration);
        Ok(())
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

    pub(crate) fn config(&self) -> &SessionConfig {
        &self.config
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

    #[inline]
    pub(crate) fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// The membrane, locked. Take no other lock but an outbox's while holding it.
    pub(crate) fn membrane(&self) -> MutexGuard<'_, Membrane> {
        self.membrane.lock()
    }

    /// Tells the fast way that entries have gone from the membrane.
    pub(super) fn note_removals(&self, membrane: &Membrane) {
        // Release: pairs with the Acquire in run_messages(): who sees the count looks the target up again.
        self.removals.store(membrane.removals, Ordering::Release);
    }

    pub(crate) fn is_closed(&self) -> bool {
        // Relaxed: whoever misses it appends to a closed outbox, which settles at once.
        self.is_closed.load(Ordering::Relaxed)
    }

    /// The connection is broken: has the session end itself. From any thread.
    pub(crate) fn hang_up(self: &Arc<Self>) {
        self.broker.scheduler().notify(self, Ready::HANGUP);
    }
}

impl Task<Local> for Session {
    fn state(&self) -> &TaskState {
        &self.state
    }

    fn run(self: Arc<Self>, ready: Ready, worker: &mut Worker<Local>) -> Outcome {
        let mut inbound = self.inbound.lock();
        let local = &mut worker.local;
        if ready.contains(Ready::WRITABLE) && self.outbox.writable() {
            local.stage.flush_one(&self, &mut local.scratch);
            local.stage.repayments.repay_all();
        }
        inbound.is_readable |= ready.intersects(Ready::READABLE.union(Ready::HANGUP));
        inbound.is_hanging_up |= ready.contains(Ready::HANGUP);
        local.stage.begin(&self.account, 0);
        let outcome = self.advance(&mut inbound, local, &mut worker.buffer);
        local.stage.publish_staged(&self.broker);
        self.flush(local, &worker.queue);
        local.publish_counts(&self.broker);
        outcome
    }

    fn panicked(self: Arc<Self>) {
        tracing::error!(connection = self.account.name(), "a bug ended this connection; please report it");
        self.inbound.lock().is_ending = true;
        self.hang_up();
    }
}

impl Session {
    fn advance(self: &Arc<Self>, inbound: &mut Inbound, local: &mut Local, buffer: &mut [u8]) -> Outcome {
        if inbound.is_ending {
            return self.end_some(inbound, local);
        }
        match self.read(inbound, local, buffer) {
            Ok(outcome) => outcome,
            Err(failure) => {
                tracing::info!(connection = self.account.name(), reason = %failure, "ends a connection");
                local.stage.publish_staged(&self.broker);
                self.say_error(&failure, local);
                self.begin_end(inbound);
                Outcome::Again(Ready::NONE)
            }
        }
    }

    /// Whether it may go on, by what it and its principal owe. A peer that has hung up is read to its end.
    fn may_go_on(self: &Arc<Self>, inbound: &mut Inbound) -> bool {
        let owner = self.account.principal();
        let is_clear = inbound.is_hanging_up || (self.account.is_clear() && owner.is_clear());
        if is_clear {
            inbound.is_parked = false;
            return true;
        }
        let waker = self.waker.get_or_init(|| self.broker.scheduler().waker(self));
        // A principal's orphaned debt holds back only connections that have not begun: new ones.
        let owner_is_clear = !inbound.handles_is_new() || owner.poll_clear_funds(waker).is_ready();
        if owner_is_clear && self.account.poll_clear_funds(waker) == Poll::Ready(()) {
            inbound.is_parked = false;
            return true;
        }
        if !std::mem::replace(&mut inbound.is_parked, true) {
            self.broker.counters.throttled.fetch_add(1, Ordering::Relaxed);
        }
        false
    }

    /// Reads and handles one chunk.
    fn read(
        self: &Arc<Self>,
        inbound: &mut Inbound,
        local: &mut Local,
        buffer: &mut [u8],
    ) -> Result<Outcome, Failure> {
        if let Some(mut waiting) = inbound.waiting.take()
            && let Applied::Building = self.apply(&mut waiting, None, inbound, local)?
        {
            inbound.waiting = Some(waiting);
            return Ok(Outcome::Again(Ready::NONE));
        }
        if !self.may_go_on(inbound) {
            return Ok(Outcome::Idle);
        }
        // What was carried over whole is handled before more is read.
        let mut carry = std::mem::take(&mut inbound.carry);
        if inbound.scanner.is_none() && !carry.is_empty() {
            let done = self.handle(&carry, inbound, local)?;
            if done < carry.len() && (inbound.scanner.is_none() || inbound.waiting.is_some()) {
                carry.drain(..done);
                inbound.carry = carry;
                return Ok(self.after_pause(inbound));
            }
            carry.drain(..done);
        }
        if !inbound.is_readable {
            inbound.carry = carry;
            return Ok(Outcome::Idle);
        }
        if carry.len() > CARRY_MAX {
            return self.read_long(carry, inbound, local);
        }
        let carried = carry.len();
        buffer[..carried].copy_from_slice(&carry);
        drop(carry);
        let read = self.stream.read(&mut buffer[carried..]);
        let space = buffer.len() - carried;
        let Some(read) = self.after_read(read, space, inbound) else {
            return Ok(self.finish_reading(inbound));
        };
        let bytes = &buffer[..carried + read];
        let done = self.handle(bytes, inbound, local)?;
        if done < bytes.len() {
            inbound.carry = bytes[done..].to_vec();
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
        const PIECE: usize = 256 << 10;
        let before = carry.len();
        // Grows with what arrives, never by what was declared.
        carry.resize(before + before.clamp(CARRY_MAX, PIECE), 0);
        let read = self.stream.read(&mut carry[before..]);
        let space = carry.len() - before;
        let read = self.after_read(read, space, inbound);
        carry.truncate(before + read.unwrap_or(0));
        if read.is_none() {
            return Ok(self.finish_reading(inbound));
        }
        let done = self.handle(&carry, inbound, local)?;
        carry.drain(..done);
        inbound.carry = carry;
        Ok(self.after_pause(inbound))
    }

    /// What a read tells. `None` if there is no more to read, ever or for now.
    fn after_read(&self, read: std::io::Result<usize>, space: usize, inbound: &mut Inbound) -> Option<usize> {
        match read {
            Ok(0) => {
                inbound.is_hanging_up = true;
                inbound.is_readable = false;
                inbound.is_ending = true;
                None
            }
            Ok(read) => {
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
            Err(_) => {
                inbound.is_ending = true;
                None
            }
        }
    }

    fn finish_reading(self: &Arc<Self>, inbound: &mut Inbound) -> Outcome {
        self.begin_end(inbound);
        Outcome::Again(Ready::NONE)
    }

    fn after_pause(self: &Arc<Self>, inbound: &mut Inbound) -> Outcome {
        let has_work = inbound.is_readable || inbound.waiting.is_some();
        let has_whole = !inbound.carry.is_empty() && inbound.scanner.is_none();
        if has_work || has_whole { Outcome::Again(Ready::NONE) } else { Outcome::Idle }
    }

    /// Flushes what this run has published; a wide fan-out in pieces that other workers may take.
    fn flush(&self, local: &mut Local, queue: &crate::schedule::Queue<Local>) {
        if self.broker.scheduler().workers() > 1 {
            while local.stage.dirty_count() > 2 * FLUSH_PIECE {
                let piece = local.stage.take_dirty(FLUSH_PIECE);
                queue.spawn(move |worker| {
                    let Local { stage, scratch, .. } = &mut worker.local;
                    piece.iter().for_each(|session| stage.flush_one(session, scratch));
                    stage.repayments.repay_all();
                });
            }
        }
        local.stage.flush(&mut local.scratch);
    }

    /// Tells the peer why its session ends, as far as it still listens.
    fn say_error(self: &Arc<Self>, failure: &Failure, local: &mut Local) {
        let mut bytes = Vec::new();
        packet::write_error(&mut bytes, &failure.to_string());
        let cost = bytes.len() as u64;
        self.account.charge(cost);
        self.outbox.append(
            &mut Vec::<Segment>::new(),
            &mut bytes,
            &self.account,
            cost,
            &mut local.stage.pool,
        );
        local.stage.flush_one(self, &mut local.scratch);
    }

    /// Stops reading and delivering; what was asserted goes piece by piece.
    fn begin_end(self: &Arc<Self>, inbound: &mut Inbound) {
        inbound.is_ending = true;
        // Relaxed: see is_closed().
        if self.is_closed.swap(true, Ordering::Relaxed) {
            return;
        }
        if let Some(registration) = self.registration.get() {
            registration.close();
        }
        if let Some(waiting) = inbound.waiting.take() {
            self.abandon(waiting);
        }
        self.outbox.close();
        let _ = self.stream.shutdown(Shutdown::Write);
        // Unread input would turn the close into a reset, which can overtake the Error packet.
        let mut sink = [0; 4096];
        for _ in 0..256 {
            if !matches!(self.stream.read(&mut sink), Ok(1..)) {
                break;
            }
        }
        inbound.carry = Vec::new();
        inbound.scanner = None;
        inbound.target = None;
    }

    fn end_some(self: &Arc<Self>, inbound: &mut Inbound, local: &mut Local) -> Outcome {
        self.begin_end(inbound);
        if self.retract_some(inbound, local) {
            return Outcome::Again(Ready::NONE);
        }
        if self.broker.sessions.remove(&self.id).is_none() {
            return Outcome::Idle;
        }
        self.membrane.lock().close();
        let _ = self.stream.shutdown(Shutdown::Both);
        // Its number may be another's from now on: nothing may be staged for it.
        local.stage.publish_staged(&self.broker);
        self.account.retire();
        self.connection.lock().take();
        self.broker.numbers.give_back(self.number);
        self.broker.counters.ended.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(connection = self.account.name(), "ended");
        Outcome::Idle
    }
}

impl Inbound {
    /// Whether the session has not done anything lasting yet.
    fn handles_is_new(&self) -> bool {
        self.handles.len() == 0 && self.target.is_none()
    }
}

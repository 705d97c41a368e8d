//! Outboxes: what is to be written to a peer, and who owes for it.
//!
//! Whoever routes appends under the lock; whoever flushes takes a few pieces out, unlocks, writes, and comes
//! back with what the kernel did not take. One thread writes at a time; what others append meanwhile, it sees
//! when it comes back. No system call happens under the lock. An empty outbox holds no memory.
//!
//! # Ceilings
//! What waits here is bounded by the accounts of those who caused it; many of them may still bring much together.
//! So an outbox has a *ceiling*: who appends to one that is above it is not read until it has drained to half of
//! that ([`Outbox::poll_room`]). What nobody can be held back for (retractions at session ends, turns that were
//! under way) may go on to the *hard cap*, and beyond that the session that does not read ends.
//!
//! # Text
//! Peers that speak text are written to in text: see `text`. Nothing else about their outboxes differs.
//!
//! # The end
//! A session that ends by this side has last words: [`Outbox::wind_up`] drops all but the rest of the packet that
//! the peer has received the beginning of, and puts the words behind that.

mod audit;
mod credit;
mod latest;
mod pool;
mod remains;
mod standing;
#[cfg(all(test, not(broker_loom)))]
mod tests;
mod text;
mod write;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use parking_lot::Mutex;
use staunch_flowctl::{Account, DebtRuns, Loan, Repayments};
use staunch_index::Replay;
use staunch_system::net::Stream;

use crate::dataspace::{Router, Target};
use crate::slow::Slow;

use credit::Window;
use text::Syntax;
use write::{put_back, take, write};

pub(crate) use audit::Debtors;
pub(crate) use latest::Cut;
pub(crate) use pool::{CallCounts, Pool};
use standing::Plan;
pub(crate) use standing::Waiting;

/// A piece of an outbox.
pub(crate) enum Segment {
    /// Events, one after the other.
    Inline(Vec<u8>),
    /// The same, held by other outboxes too.
    Batch(Arc<Vec<u8>>),
    /// A body that other outboxes hold too, with the debt for it.
    Shared(Arc<SharedBody>),
    /// State to be pulled from the store when its turn comes.
    Replay(Box<PendingReplay>),
}

/// A large body, held by each outbox that it waits in. It is charged once, to whoever caused it, and that is
/// repaid when the last outbox is done with it.
pub(crate) struct SharedBody {
    bytes: Vec<u8>,
    loan: Loan,
}

impl SharedBody {
    pub(crate) fn new(bytes: Vec<u8>, loan: Loan) -> SharedBody {
        SharedBody { bytes, loan }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn loan(&self) -> &Loan {
        &self.loan
    }
}

/// See [`Segment::Replay`].
pub(crate) struct PendingReplay {
    pub(crate) replay: Replay<Router>,
    /// A peer's entity, perhaps attenuated.
    pub(crate) to: Target,
    /// Who pays for it: whoever asked to observe.
    pub(crate) account: Arc<Account>,
}

impl Segment {
    /// How many bytes it holds by itself.
    fn inline_bytes(&self) -> usize {
        match self {
            Segment::Inline(bytes) => bytes.len(),
            Segment::Batch(bytes) => bytes.len(),
            Segment::Shared(_) | Segment::Replay(_) => 0,
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Segment::Inline(bytes) => bytes,
            Segment::Batch(bytes) => bytes,
            Segment::Shared(body) => &body.bytes,
            Segment::Replay(_) => &[],
        }
    }
}

/// What a class of peers gets alike.
pub(crate) enum Batch {
    /// To be held by all.
    Shared(Arc<Vec<u8>>),
    /// Too small for that.
    Copied(Vec<u8>),
}

/// What is shorter than this is copied to the end of the piece before it, for as long as that piece is shorter
/// than 16 of it.
const JOIN_BYTES_MAX: usize = 4 << 10;
/// How many writes (or pieces of a replay) one flush does at most, so that a fast reader does not keep a worker.
const ROUNDS_MAX: usize = 16;
/// The hard cap, in ceilings.
const CEILINGS_MAX: usize = 4;

/// What becomes of what waits.
#[derive(Default, PartialEq, Eq, Clone, Copy)]
enum Phase {
    #[default]
    Open,
    /// Nothing more is taken; what is there goes out.
    Ending,
    /// Nothing is there any more.
    Closed,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Segment>,
    /// How much of the first segment has been written.
    head: usize,
    /// Whether the first segment begins within a packet, since a shared body was before it.
    is_within: bool,
    debts: DebtRuns,
    /// Bytes of inline segments, those being written included.
    inline_bytes: usize,
    /// All bytes ever put here, but for those that were dropped (it wraps).
    appended: u64,
    /// Whoever appended when that was above the ceiling, by session: to be woken when there is room.
    waiters: HashMap<u64, Waker>,
    /// Somebody is writing, with the first pieces in hand.
    is_writing: bool,
    /// The kernel took no more, and has not said since that it would.
    is_blocked: bool,
    /// Somebody has been told to flush it, and has not begun: one is enough.
    is_due: bool,
    /// What is done if the peer is slow; `None` to throttle alone.
    plan: Option<Box<Plan>>,
    /// What the peer has not reported, if it has agreed to report.
    window: Option<Box<Window>>,
    /// It is known that something waits: see [`crate::backlog`].
    is_watched: bool,
    /// It said so while somebody was writing.
    edge: bool,
    phase: Phase,
    /// Since when there has always been something that waits, as of when the kernel took no more.
    waits_since: Option<Instant>,
    /// What is written at present.
    syntax: Syntax,
    /// Whether that is to be text from the next packet on.
    speaks_text: bool,
    /// Went beyond a bound: takes nothing more, until its session has ended.
    is_burst: bool,
    /// What to say in the end, at whose cost, once whoever is writing has come back.
    last_words: Option<Box<(Vec<u8>, Arc<Account>)>>,
}

/// See the module's head.
pub(crate) struct Outbox {
    state: Mutex<State>,
    ceiling: usize,
}

/// What appending came to.
pub(crate) struct Appended {
    /// It is to be flushed by whoever has appended: nobody is writing or about to, and the kernel may take more.
    pub(crate) can_flush: bool,
    pub(crate) level: Level,
    /// It is long enough to be looked through.
    pub(crate) is_to_be_cut: bool,
}

/// How much waits.
#[derive(PartialEq, Eq, Clone, Copy, Debug)]
pub(crate) enum Level {
    BelowCeiling,
    /// Who appended is to wait for room.
    AboveCeiling,
    /// The session that does not read is to end.
    AboveCap,
}

/// What a flush came to.
pub(crate) enum Flushed {
    /// Nothing is left, or somebody else is at it.
    Done,
    /// The kernel takes no more for now.
    Blocked {
        /// It is to be watched from now on.
        is_news: bool,
    },
    /// There is more, to be flushed when others have had their turn.
    More,
    /// The last words have been said.
    Said,
    /// A replay is next: pull it (see [`Outbox::replayed`]).
    Replay(Box<PendingReplay>),
    /// The peer is gone.
    Failed,
}

impl Outbox {
    /// An empty one, with a ceiling in bytes, and what is done if its peer is slow.
    pub(crate) fn new(ceiling: usize, policy: Slow) -> Outbox {
        let state = State { plan: Plan::of(policy), ..State::default() };
        Outbox { state: Mutex::new(state), ceiling }
    }

    /// Appends what `account` has been charged `cost` for. What comes when nothing more is taken is repaid.
    pub(crate) fn append(
        &self,
        segments: &mut Vec<Segment>,
        buffer: &mut Vec<u8>,
        account: &Arc<Account>,
        cost: u64,
        pool: &mut Pool,
    ) -> Appended {
        let appended = self.append_with(account, cost, |state| {
            segments.drain(..).for_each(|segment| state.push(segment));
            if !buffer.is_empty() && !state.join(buffer) {
                state.push(Segment::Inline(std::mem::replace(buffer, pool.take())));
            }
        });
        segments.clear();
        buffer.clear();
        appended
    }

    /// Appends what other outboxes get too, like [`Outbox::append`].
    pub(crate) fn append_batch(
        &self,
        batch: &Batch,
        account: &Arc<Account>,
        cost: u64,
        pool: &mut Pool,
    ) -> Appended {
        self.append_with(account, cost, |state| match batch {
            Batch::Shared(bytes) => state.push(Segment::Batch(bytes.clone())),
            Batch::Copied(bytes) if state.join(bytes) => {}
            Batch::Copied(bytes) => {
                let mut piece = pool.take();
                piece.extend_from_slice(bytes);
                state.push(Segment::Inline(piece));
            }
        })
    }

    fn append_with(&self, account: &Arc<Account>, cost: u64, append: impl FnOnce(&mut State)) -> Appended {
        let mut state = self.state.lock();
        if state.phase != Phase::Open || state.is_burst {
            drop(state);
            account.repay(cost);
            return Appended { can_flush: false, level: Level::BelowCeiling, is_to_be_cut: false };
        }
        let before = state.appended;
        append(&mut state);
        let bytes = state.appended.wrapping_sub(before);
        state.debts.push(account, bytes, cost);
        let level = self.level(&state);
        state.is_burst = level == Level::AboveCap;
        let can_flush = !state.is_writing && !state.is_blocked && !state.is_due && !state.is_held();
        state.is_due |= can_flush;
        let is_to_be_cut = state.plan.as_ref().is_some_and(|plan| plan.wants_cut(&state));
        Appended { can_flush, level, is_to_be_cut }
    }

    fn level(&self, state: &State) -> Level {
        match state.inline_bytes {
            bytes if bytes <= self.ceiling => Level::BelowCeiling,
            bytes if bytes <= self.ceiling.saturating_mul(CEILINGS_MAX) => Level::AboveCeiling,
            _ => Level::AboveCap,
        }
    }

    /// Takes nothing more: the session is to end, and has missed something.
    pub(crate) fn take_no_more(&self) {
        self.state.lock().is_burst = true;
    }

    /// Whether there is room again. If not, `waker` is woken once there is; `session` says whose it is.
    pub(crate) fn poll_room(&self, session: u64, waker: &Waker) -> bool {
        let mut state = self.state.lock();
        if state.inline_bytes <= self.ceiling / 2 || state.phase != Phase::Open {
            return true;
        }
        state.waiters.insert(session, waker.clone());
        false
    }

    /// The kernel says that it takes more. Returns whether to flush.
    pub(crate) fn writable(&self) -> bool {
        let mut state = self.state.lock();
        state.is_blocked = false;
        if state.is_writing {
            state.edge = true;
        }
        !state.queue.is_empty() && !state.is_writing
    }

    /// Whether the kernel took no more, and has not said since that it would.
    pub(crate) fn is_blocked(&self) -> bool {
        self.state.lock().is_blocked
    }

    /// Whether nothing waits, nor is being written.
    pub(crate) fn is_empty(&self) -> bool {
        let state = self.state.lock();
        state.queue.is_empty() && !state.is_writing
    }

    /// Whether the last words have been said, or there never were any, and nothing comes any more.
    pub(crate) fn has_ended(&self) -> bool {
        let state = self.state.lock();
        state.phase != Phase::Open && state.queue.is_empty() && !state.is_writing
    }

    /// Writes as much as the kernel takes, up to a bound. What is repaid goes to `repayments`.
    pub(crate) fn flush(
        &self,
        stream: &Stream,
        pool: &mut Pool,
        repayments: &mut Repayments,
        counts: &mut CallCounts,
    ) -> Flushed {
        let mut taken = std::mem::take(&mut pool.taken);
        let flushed = self.flush_pieces(stream, &mut taken, pool, repayments, counts);
        taken.clear();
        pool.taken = taken;
        flushed
    }

    /// Writes piece by piece; `taken` is what it has in hand.
    fn flush_pieces(
        &self,
        stream: &Stream,
        taken: &mut VecDeque<Segment>,
        pool: &mut Pool,
        repayments: &mut Repayments,
        counts: &mut CallCounts,
    ) -> Flushed {
        let mut leftovers = text::Leftovers::default();
        let mut state = self.state.lock();
        state.is_due = false;
        if !matches!(state.syntax, Syntax::Binary) {
            return self.flush_text(state, stream, taken, pool, repayments, counts);
        }
        let mut flushed = Flushed::More;
        for _ in 0..ROUNDS_MAX {
            if !matches!(state.syntax, Syntax::Binary) {
                break;
            }
            state.open_window();
            if !state.may_write() {
                flushed = Flushed::Done;
                break;
            }
            state.is_writing = true;
            if let Some(replay) = state.take_replay() {
                // The replay's place stays taken: nobody else writes until `replayed` is called.
                flushed = Flushed::Replay(replay);
                break;
            }
            state.edge = false;
            let head = state.head;
            let room = state.room();
            let wanted = take(&mut state.queue, taken, head, room);
            drop(state);
            let written = write(stream, taken, head, wanted);
            counts.writes += 1;
            state = self.state.lock();
            state.is_writing = false;
            if state.phase == Phase::Closed {
                flushed = Flushed::Done;
                break;
            }
            let written = match written {
                Ok(written) => written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(_) => {
                    // What is in hand is gone, and `head` with it: nobody may write what follows.
                    leftovers.dropped = Some(state.close());
                    flushed = Flushed::Failed;
                    break;
                }
            };
            counts.bytes += written as u64;
            state.settle(taken, head, written, repayments);
            put_back(&mut state, taken, head + written, pool, repayments);
            leftovers.add(&mut state, self.ceiling);
            if state.queue.is_empty() {
                state.rest();
                flushed = if state.phase == Phase::Ending { Flushed::Said } else { Flushed::Done };
                break;
            }
            if written < wanted && !std::mem::take(&mut state.edge) {
                state.block();
                flushed = Flushed::Blocked { is_news: state.begin_watch() };
                break;
            }
        }
        drop(state);
        leftovers.settle();
        flushed
    }

    /// Puts a piece of a replay, for which its account has been charged `cost`, at the front, and the rest of
    /// the replay behind it if there is more.
    pub(crate) fn replayed(&self, pending: Box<PendingReplay>, piece: Vec<u8>, cost: u64, has_more: bool) {
        let account = pending.account.clone();
        let mut state = self.state.lock();
        state.is_writing = false;
        if state.phase != Phase::Open {
            // What came before the replay has been written, so no packet is under way.
            let dropped = state.say_last_words();
            drop(state);
            drop(dropped);
            account.repay(cost);
            return;
        }
        if has_more {
            state.queue.push_front(Segment::Replay(pending));
        }
        // Debts are a queue in the order of the bytes; these bytes come before all others.
        state.debts.push_front(&account, piece.len() as u64, cost);
        state.appended = state.appended.wrapping_add(piece.len() as u64);
        state.inline_bytes += piece.len();
        if !piece.is_empty() {
            state.queue.push_front(Segment::Inline(piece));
        }
        state.head = 0;
        state.is_within = false;
    }

    /// Takes no more, and drops and repays what waits, but for the rest of the packet that is under way; `words`,
    /// a packet, go behind that, at the cost of `account`.
    pub(crate) fn wind_up(&self, words: Vec<u8>, account: &Arc<Account>) {
        let mut state = self.state.lock();
        if state.phase != Phase::Open {
            return;
        }
        state.phase = Phase::Ending;
        state.last_words = Some(Box::new((words, account.clone())));
        // Who is writing does it on coming back.
        let dropped = if state.is_writing { None } else { state.say_last_words() };
        let woken = std::mem::take(&mut state.waiters);
        drop(state);
        drop(dropped);
        woken.into_values().for_each(Waker::wake);
    }

    /// Drops everything and takes no more; repays what is owed.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        let dropped = state.close();
        let woken = std::mem::take(&mut state.waiters);
        drop(state);
        drop(dropped);
        woken.into_values().for_each(Waker::wake);
    }
}

/// What an outbox let go of, to be dropped, and thereby repaid, outside its lock.
type Dropped = (VecDeque<Segment>, DebtRuns, Option<Box<Window>>);

impl State {
    fn push(&mut self, segment: Segment) {
        let bytes = segment.bytes().len();
        self.appended = self.appended.wrapping_add(bytes as u64);
        if matches!(segment, Segment::Inline(_) | Segment::Batch(_)) {
            self.inline_bytes += bytes;
        }
        self.queue.push_back(segment);
    }

    /// Copies something small to the end of the last piece, if that is small too.
    fn join(&mut self, bytes: &[u8]) -> bool {
        match self.queue.back_mut() {
            Some(Segment::Inline(last))
                if bytes.len() < JOIN_BYTES_MAX && last.len() < 16 * JOIN_BYTES_MAX =>
            {
                last.extend_from_slice(bytes);
                self.appended = self.appended.wrapping_add(bytes.len() as u64);
                self.inline_bytes += bytes.len();
                true
            }
            _ => false,
        }
    }

    /// Takes no more.
    fn close(&mut self) -> Dropped {
        self.phase = Phase::Closed;
        self.last_words = None;
        self.syntax = Syntax::Binary;
        self.drop_all()
    }

    fn drop_all(&mut self) -> Dropped {
        self.head = 0;
        self.is_within = false;
        self.inline_bytes = 0;
        self.waits_since = None;
        self.appended = self.appended.wrapping_sub(self.debts.total_bytes());
        (std::mem::take(&mut self.queue), std::mem::take(&mut self.debts), self.window.take())
    }

    /// See [`Outbox::wind_up`]. Nobody may be writing.
    fn say_last_words(&mut self) -> Option<Dropped> {
        let (words, account) = *self.last_words.take()?;
        let rest = remains::of_begun_packet(&self.queue, self.head, self.is_within);
        let mut bytes = self.syntax.wind_up(rest);
        bytes.extend_from_slice(&words);
        let dropped = self.drop_all();
        let cost = bytes.len() as u64;
        account.charge(cost);
        self.debts.push(&account, cost, cost);
        self.appended = self.appended.wrapping_add(cost);
        self.inline_bytes = bytes.len();
        self.queue.push_back(Segment::Inline(bytes));
        Some(dropped)
    }

    /// Whether there is something to write, and nobody writes it or has to wait for room.
    #[inline]
    fn may_write(&self) -> bool {
        !self.is_writing && !self.is_blocked && !self.queue.is_empty() && !self.is_held()
    }

    /// Whether the peer has to report turns before more is written.
    #[inline]
    fn is_held(&self) -> bool {
        self.window.as_ref().is_some_and(|window| window.is_full())
    }

    /// How much one write may take, roughly.
    #[inline]
    fn room(&self) -> usize {
        self.window.as_ref().map_or(usize::MAX, |window| window.room())
    }

    /// Takes the replay that the queue begins with, if it does.
    #[inline]
    fn take_replay(&mut self) -> Option<Box<PendingReplay>> {
        self.queue.pop_front_if(|segment| matches!(segment, Segment::Replay(_))).and_then(|segment| {
            match segment {
                Segment::Replay(replay) => Some(replay),
                _ => None,
            }
        })
    }

    /// The kernel takes no more.
    fn block(&mut self) {
        self.is_blocked = true;
        self.waits_since.get_or_insert_with(Instant::now);
    }

    /// Gives memory back once nothing waits.
    fn rest(&mut self) {
        if self.plan.is_some() {
            self.plan_cut(0);
        }
        self.waits_since = None;
        if self.queue.capacity() > 8 {
            self.queue = VecDeque::new();
            self.debts.shrink();
        }
    }
}

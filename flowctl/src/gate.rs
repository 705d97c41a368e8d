//! The gate: one word of debt, the limits it is compared with, and whoever waits for it to fall.
//!
//! An account and a principal are each a gate plus a name. The word packs
//!
//! ```text
//!   63 ............................... 2        1          0
//!   debt, 62 bits, two's complement       ORPHANED   WAITING
//! ```
//!
//! The debt is at the *top*, so that whatever is added to or subtracted from it leaves by the upper
//! end: no arithmetic on the debt, right or wrong, can reach the flags. WAITING means that the list of
//! waiters is not empty; it is changed only under the lock of that list. ORPHANED is set once and never
//! cleared; only an account sets it.
//!
//! # Why no wake-up is lost
//!
//! The usual way to park needs two variables (a flag and a condition), and so a sequentially
//! consistent fence on both sides of the race between "set the flag, look at the condition" and
//! "change the condition, look at the flag". Here both are one word and both sides are
//! read-modify-write operations on it:
//!
//! ```text
//!   parking:   before = word.fetch_or(WAITING)     park if before's debt is above the limit
//!   repaying:  before = word.fetch_sub(cost)       wake if before has WAITING and the debt is low
//! ```
//!
//! All modifications of one atomic have one order, and each read-modify-write reads the value just
//! before its own. Either the repayment is earlier, and parking sees the lower debt; or parking is
//! earlier, and the repayment sees the flag. There is no third case, whatever the orderings: they
//! matter only for *other* variables, namely the limits (below) and the caller's own data.
//!
//! The limits are variables of their own. Who changes them stores the limit and then does a
//! read-modify-write of the word that changes nothing; its place in the word's order decides, in the
//! same way, whether it sees the flag or parking (and repaying) sees the new limit. This one
//! does need Acquire and Release, which hold across the operations in between because a
//! read-modify-write of any ordering continues a release sequence.
//!
//! # Locks
//!
//! Charging is one `fetch_add`, and never anything else. Repaying is one `fetch_sub` and a test of
//! the value that it returned. The mutex around the list of wakers is taken in two cases only: by a
//! source that has just run out of credit and is about to stop, and by the one repayment
//! that ends its wait. Neither is on the path of a source that has credit, nor of repaying to
//! a source that is still above its level, and no foreign code runs under it (wakers are cloned before,
//! woken and dropped after). A thread descheduled inside can thus delay one hand-over of one wake-up
//! on one account; it can delay no charge at all, and no repayment that wakes nobody.

use std::collections::HashSet;
use std::task::{Poll, Waker};

use crossbeam::utils::CachePadded;

use crate::fault::{Fault, Faults};
use crate::policy::{COST_MAX, DEBT_MAX, Limits};
use crate::sync::{AtomicU64, Mutex, Ordering, fence, lock};

/// Somebody waits for the debt to fall.
const WAITING: u64 = 1 << 0;
/// The source is gone; its principal owes what is left.
const ORPHANED: u64 = 1 << 1;
const FLAGS: u64 = WAITING | ORPHANED;
/// Where the debt begins.
const DEBT_SHIFT: u32 = 2;

/// Whether repaying more than is owed panics; else the debt goes below zero, for the audit to find.
const IS_UNDERFLOW_FATAL: bool = cfg!(any(debug_assertions, flowctl_loom));

/// How `resume_below: None` is stored: being above every limit, it means the limit.
const RESUME_AT_LIMIT: u64 = u64::MAX;

/// One value of a gate's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Word(u64);

impl Word {
    /// The debt; below zero if more was repaid than charged, which is a bug of the caller.
    #[inline]
    pub(crate) fn debt_signed(self) -> i64 {
        self.0.cast_signed() >> DEBT_SHIFT
    }

    /// The debt; zero if more was repaid than charged.
    #[inline]
    pub(crate) fn debt(self) -> u64 {
        self.debt_signed().max(0).cast_unsigned()
    }

    /// How much more was repaid than charged: zero unless there is a bug.
    pub(crate) fn over_repaid(self) -> u64 {
        self.debt_signed().min(0).unsigned_abs()
    }

    #[inline]
    pub(crate) fn is_waiting(self) -> bool {
        self.0 & WAITING != 0
    }

    #[inline]
    pub(crate) fn is_orphaned(self) -> bool {
        self.0 & ORPHANED != 0
    }

    /// What the word became when `cost` was repaid.
    #[inline]
    pub(crate) fn less(self, cost: u64) -> Word {
        Word(self.0.wrapping_sub(cost << DEBT_SHIFT))
    }
}

/// Up to so many wakers are compared one by one.
const SCAN_MAX: usize = 16;

/// The tasks that wait. One of them, the usual case, needs no allocation.
#[derive(Default)]
struct Waiters {
    first: Option<Waker>,
    more: Vec<Waker>,
    /// Names of those in `more`, once they are more than [`SCAN_MAX`].
    names: Option<HashSet<(usize, usize)>>,
}

impl Waiters {
    /// Adds `waker`, unless a waker of the same task is there: then gives it back, to be dropped
    /// outside the lock. *Cost*: constant, but for what growing the lists costs.
    fn add(&mut self, waker: Waker) -> Option<Waker> {
        let Some(first) = &self.first else {
            self.first = Some(waker);
            return None;
        };
        if first.will_wake(&waker) || self.has_more(&waker) {
            return Some(waker);
        }
        self.more.push(waker);
        if self.names.is_none() && self.more.len() > SCAN_MAX {
            self.names = Some(self.more.iter().map(name).collect());
        }
        None
    }

    /// Whether a waker of the same task is in `more`; one that is not is noted as being about to be.
    fn has_more(&mut self, waker: &Waker) -> bool {
        match &mut self.names {
            Some(names) => !names.insert(name(waker)),
            None => self.more.iter().any(|other| other.will_wake(waker)),
        }
    }

    fn take(&mut self) -> Waiters {
        std::mem::take(self)
    }

    fn wake(self) {
        self.first.into_iter().chain(self.more).for_each(Waker::wake);
    }
}

/// What two wakers of the same task have in common, as [`Waker::will_wake`] has it. It names nobody else for as long
/// as one of them is kept.
fn name(waker: &Waker) -> (usize, usize) {
    (waker.data().addr(), std::ptr::from_ref(waker.vtable()).addr())
}

/// A debt, its limits, and the tasks that wait for it to fall.
///
/// **Invariant:** under the lock of `waiters`, WAITING is set if and only if `waiters` is not empty.
pub(crate) struct Gate {
    /// *Meaning*: debt and flags, see the module. *Written* by everybody who charges or repays, each
    /// by one read-modify-write. *Read* by the source between its turns, and by the ledger.
    /// *Orders*: what was done before repaying, and the limits. *Wraps*: never; see [`DEBT_MAX`].
    /// On a cache line of its own, since everything else here is read far more often than written.
    word: CachePadded<AtomicU64>,
    /// *Meaning*: the greatest debt with which the source is read. *Written* by [`Gate::set_limits`],
    /// *read* by all. *Orders* nothing itself: it is ordered by the word. *Wraps*: no arithmetic.
    limit: AtomicU64,
    /// *Meaning*: the debt at which a stopped source goes on, if that is below the limit. Written, read
    /// and ordered as `limit`. The two may be read torn; the word's order then makes a later
    /// operation look again.
    resume: AtomicU64,
    waiters: Mutex<Waiters>,
    faults: Faults,
}

impl Gate {
    pub(crate) fn new(limits: Limits, faults: Faults) -> Gate {
        Gate {
            word: CachePadded::new(AtomicU64::new(0)),
            limit: AtomicU64::new(limits.limit),
            resume: AtomicU64::new(limits.resume_below.unwrap_or(RESUME_AT_LIMIT)),
            waiters: Mutex::new(Waiters::default()),
            faults,
        }
    }

    /// Adds `cost` and returns the word as it was before.
    ///
    /// # Panics
    /// If `cost` is above [`COST_MAX`], or the debt above [`DEBT_MAX`]; the debt is then unchanged.
    #[inline]
    pub(crate) fn charge(&self, cost: u64) -> Word {
        if cost > COST_MAX {
            cost_above_max(cost);
        }
        self.add(cost)
    }

    /// [`Gate::charge`] without the bound on a single cost: for debts handed over whole.
    #[inline]
    fn add(&self, cost: u64) -> Word {
        // Relaxed: a charge publishes nothing, and being a read-modify-write it keeps alive the release
        // sequences of the repayments and the limits before it. The charging source sees its own charge in
        // its next is_clear() by coherence.
        let before = Word(self.word.fetch_add(cost << DEBT_SHIFT, Ordering::Relaxed));
        if before.debt() > DEBT_MAX {
            self.debt_above_max(cost);
        }
        before
    }

    #[cold]
    fn debt_above_max(&self, cost: u64) -> ! {
        // Relaxed: takes back a charge that nobody has been told about.
        self.word.fetch_sub(cost << DEBT_SHIFT, Ordering::Relaxed);
        panic!("charging {cost} to a debt above {DEBT_MAX} units");
    }

    /// Subtracts `cost`, wakes whoever waits if the debt is low enough, and returns the word as it
    /// was before.
    #[inline]
    pub(crate) fn repay(&self, cost: u64) -> Word {
        // Release: pairs with the Acquire loads in word() and with the Acquire in park(), publishes
        // whatever the repayer did before: who sees the credit sees the work done.
        let seen_first = self.faults.has(Fault::RepayLooksFirst).then(|| self.word());
        let release = self.faults.weaken(Fault::RepayRelaxed, Ordering::Release, Ordering::Relaxed);
        let before = Word(self.word.fetch_sub(cost << DEBT_SHIFT, release));
        if IS_UNDERFLOW_FATAL && before.debt() < cost && !std::thread::panicking() {
            panic!("repaying {cost} of a debt of {}", before.debt_signed());
        }
        if seen_first.unwrap_or(before).0 & FLAGS != 0 {
            self.repaid_flagged(before.less(cost));
        }
        before
    }

    /// The rest of repaying when a flag was seen.
    #[cold]
    fn repaid_flagged(&self, after: Word) {
        // Acquire: pairs with the Release in set_limits() and in orphan(), of which the first
        // publishes a new limit, compared with here, and the second the heir's new debt, which our caller
        // is about to repay. As a fence, so that repaying to an unflagged account does not pay for it.
        if !self.faults.has(Fault::RepayWithoutAcquire) {
            fence(Ordering::Acquire);
        }
        if after.is_waiting() && after.debt() <= self.resume_level() {
            self.wake();
        }
    }

    /// Wakes all who wait, and notes that nobody does any more.
    #[cold]
    fn wake(&self) {
        let woken = {
            let mut waiters = lock(&self.waiters);
            // Relaxed: the flag is changed under the lock only, which orders it; debts are not compared.
            self.word.fetch_and(!WAITING, Ordering::Relaxed);
            waiters.take()
        };
        woken.wake();
    }

    /// Ready if the source may go on; else `waker` is woken when it may.
    pub(crate) fn poll_clear_funds(&self, waker: &Waker) -> Poll<()> {
        if self.may_go_on(self.word()) {
            return Poll::Ready(());
        }
        self.park(waker.clone())
    }

    #[cold]
    fn park(&self, waker: Waker) -> Poll<()> {
        let mut waiters = lock(&self.waiters);
        let before = self.set_waiting();
        if self.may_go_on(before) && !self.faults.has(Fault::ParkWithoutRecheck) {
            // Relaxed: as in wake().
            self.word.fetch_and(!WAITING, Ordering::Relaxed);
            let others = waiters.take();
            drop(waiters);
            // What is low enough for us is so for the others.
            others.wake();
            return Poll::Ready(());
        }
        let duplicate = waiters.add(waker);
        drop(waiters);
        drop(duplicate);
        Poll::Pending
    }

    /// Sets WAITING and returns the word as it was before.
    fn set_waiting(&self) -> Word {
        if self.faults.has(Fault::ParkByLoadStore) {
            let before = self.word.load(Ordering::Acquire);
            self.word.store(before | WAITING, Ordering::Release);
            return Word(before);
        }
        // Acquire: pairs with the Release in set_limits(), so that either it sees WAITING or we see its
        // limit; and with the Release in repay(), since we may be about to answer "go on".
        let acquire = self.faults.weaken(Fault::ParkRelaxed, Ordering::Acquire, Ordering::Relaxed);
        Word(self.word.fetch_or(WAITING, acquire))
    }

    /// Whether a source that sees `word` may be read. If somebody waits already, that is so only from the
    /// resume level down; else a task polled by chance would defeat the hysteresis. A source that is
    /// gone holds nobody up.
    fn may_go_on(&self, word: Word) -> bool {
        let level = if word.is_waiting() { self.resume_level() } else { self.limit() };
        word.is_orphaned() || word.debt() <= level
    }

    /// Whether the debt is at or below the limit, or the source gone.
    #[inline]
    pub(crate) fn is_clear(&self) -> bool {
        let word = self.word();
        word.debt() <= self.limit() || word.is_orphaned()
    }

    #[inline]
    pub(crate) fn word(&self) -> Word {
        // Acquire: pairs with the Release in repay(): who sees the credit sees the work done.
        let acquire = self.faults.weaken(Fault::LookRelaxed, Ordering::Acquire, Ordering::Relaxed);
        Word(self.word.load(acquire))
    }

    #[inline]
    pub(crate) fn limit(&self) -> u64 {
        // Relaxed: a bound to compare with. Where a stale one would lose a wake-up, the caller has
        // acquired the word first.
        self.limit.load(Ordering::Relaxed)
    }

    /// The debt at or below which a stopped source goes on.
    pub(crate) fn resume_level(&self) -> u64 {
        // Relaxed: as limit().
        self.resume.load(Ordering::Relaxed).min(self.limit())
    }

    /// Sets what is given, and wakes whoever may go on because of it.
    pub(crate) fn set_limits(&self, limit: Option<u64>, resume_below: Option<Option<u64>>) {
        // Relaxed, both: published by the read-modify-write that follows.
        if let Some(limit) = limit {
            self.limit.store(limit, Ordering::Relaxed);
        }
        if let Some(resume) = resume_below {
            self.resume.store(resume.unwrap_or(RESUME_AT_LIMIT), Ordering::Relaxed);
        }
        let word = if self.faults.has(Fault::LimitByLoad) {
            self.word()
        } else {
            // Release: pairs with the Acquire in set_waiting() and in repaid_flagged(): whichever of them
            // comes later in the word's order sees the new limit, and we see what whichever comes earlier
            // did.
            // Acquire: pairs with the Release of another set_limits(), so that the later of the two compares
            // with both changes.
            let both = Ordering::AcqRel;
            let both = self.faults.weaken(Fault::LimitWithoutRelease, both, Ordering::Acquire);
            let both = self.faults.weaken(Fault::LimitWithoutAcquire, both, Ordering::Release);
            Word(self.word.fetch_or(0, both))
        };
        if word.is_waiting() && word.debt() <= self.resume_level() {
            self.wake();
        }
    }

    /// Marks the source as gone and hands its debt to `heir`. Returns the word as it was before, or
    /// nothing if it had been marked already.
    ///
    /// The heir is charged first and the flag set afterwards, by a compare-and-swap that fails if the debt
    /// has changed meanwhile: so who sees the flag, and therefore repays the heir too, never
    /// repays what the heir has not been charged yet.
    pub(crate) fn orphan(&self, heir: &Gate) -> Option<Word> {
        if self.faults.has(Fault::RetireFlagFirst) || self.faults.has(Fault::RetireByLoadStore) {
            return self.orphan_wrongly(heir);
        }
        // Relaxed: only a guess, which the exchange below checks.
        let mut seen = Word(self.word.load(Ordering::Relaxed));
        let mut adopted = 0;
        loop {
            let debt = if seen.is_orphaned() { 0 } else { seen.debt() };
            match debt.checked_sub(adopted) {
                Some(0) => {}
                Some(more) => _ = heir.add(more),
                None => _ = heir.repay(adopted - debt),
            }
            adopted = debt;
            if seen.is_orphaned() {
                return None;
            }
            // Release: pairs with the Acquire fence in repaid_flagged(), publishes the heir's charge.
            // Relaxed on failure: again only a guess.
            let (release, relaxed) = (Ordering::Release, Ordering::Relaxed);
            let orphaned = seen.0 | ORPHANED;
            match self.word.compare_exchange_weak(seen.0, orphaned, release, relaxed) {
                Ok(_) => break,
                Err(now) => seen = Word(now),
            }
        }
        if seen.is_waiting() && !self.faults.has(Fault::RetireWithoutWake) {
            self.wake();
        }
        Some(seen)
    }

    /// [`Gate::orphan`] with one of two faults, for the models.
    fn orphan_wrongly(&self, heir: &Gate) -> Option<Word> {
        let before = if self.faults.has(Fault::RetireByLoadStore) {
            let before = self.word.load(Ordering::Acquire);
            self.word.store(before | ORPHANED, Ordering::Release);
            Word(before)
        } else {
            Word(self.word.fetch_or(ORPHANED, Ordering::AcqRel))
        };
        if before.is_orphaned() {
            return None;
        }
        heir.add(before.debt());
        Some(before)
    }
}

#[cold]
fn cost_above_max(cost: u64) -> ! {
    panic!("a cost of {cost} units is above the maximum of {COST_MAX}");
}

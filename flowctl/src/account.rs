//! An account: what one source of activity owes.

use std::fmt;
use std::future::{Future, poll_fn};
use std::task::{Poll, Waker};

use crate::fault::Faults;
use crate::gate::{Gate, Word};
use crate::ledger::Registry;
use crate::loan::{Loan, LoanedItem};
use crate::policy::Limits;
use crate::principal::Principal;
use crate::sync::{Arc, Weak};

/// What one source of activity owes: a connection, a timer, a child process.
///
/// *Shape*: shared as `Arc<Account>`, opened by [`Ledger::open_account`](crate::Ledger::open_account),
/// ended by [`Account::retire`], which the opener owes it. The word that holds the debt has a
/// cache line of its own.
///
/// *Cost*: charging is one atomic `fetch_add`, repaying one `fetch_sub` and a test of its
/// result, with the exceptions that the module doc of [`gate`](crate#locks) argues about: one repayment
/// per wait, and repayments to an account that was retired.
///
/// *Order*: charge *before* handing the item to whoever will repay it. A repayment that overtakes
/// its charge takes the debt below zero: with debug assertions that panics; without, nothing is
/// lost, the debt reads as zero until the charge has come, and if it never comes
/// [`Ledger::audit`](crate::Ledger::audit) reports [`AuditError::OverRepaid`](crate::AuditError::OverRepaid).
///
/// **Invariant:** the debt is the sum of the costs of all loans and runs against this account.
pub struct Account {
    id: u64,
    name: Arc<str>,
    gate: Gate,
    principal: Arc<Principal>,
    /// The ledger that lists this account, unless it is gone.
    registry: Weak<Registry>,
    this: Weak<Account>,
}

impl Account {
    pub(crate) fn open(
        id: u64,
        name: &str,
        limits: Limits,
        principal: &Arc<Principal>,
        registry: &Arc<Registry>,
        faults: Faults,
    ) -> Arc<Account> {
        Arc::new_cyclic(|this| Account {
            id,
            name: Arc::from(name),
            gate: Gate::new(limits, faults),
            principal: Arc::clone(principal),
            registry: Arc::downgrade(registry),
            this: Weak::clone(this),
        })
    }

    /// What the account was called when it was opened. Not unique.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn shared_name(&self) -> &Arc<str> {
        &self.name
    }

    /// Its number, unique within its ledger and never used again.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Who owes what is left when this account's source is gone.
    pub fn principal(&self) -> &Arc<Principal> {
        &self.principal
    }

    /// The greatest debt, in cost units, with which the source is read.
    pub fn limit(&self) -> u64 {
        self.gate.limit()
    }

    /// The debt at or below which a stopped source goes on: at most the limit.
    pub fn resume_level(&self) -> u64 {
        self.gate.resume_level()
    }

    /// Sets the limit, and wakes whoever may go on because of it. The resume level stays as it was
    /// set, or the limit if it was not.
    pub fn set_limit(&self, limit: u64) {
        self.gate.set_limits(Some(limit), None);
    }

    /// Sets the debt at or below which a stopped source goes on (`None`: the limit), and wakes whoever
    /// may go on because of it.
    pub fn set_resume_below(&self, resume_below: Option<u64>) {
        self.gate.set_limits(None, Some(resume_below));
    }

    /// Adds `cost` to the debt, whatever the limit: who looks at the limit is the source, between turns.
    ///
    /// A charge to a retired account (some work that its events caused may still go on) is charged to
    /// the principal's orphaned debt too.
    ///
    /// # Panics
    /// If `cost` is above [`COST_MAX`](crate::COST_MAX) or the debt above [`DEBT_MAX`](crate::DEBT_MAX), both
    /// of which are bugs, in all builds: a debt cut down to fit could never be repaid exactly. The debt is
    /// then unchanged.
    #[inline]
    pub fn charge(&self, cost: u64) {
        let before = self.gate.charge(cost);
        if before.is_orphaned() {
            self.charged_orphan(cost, before);
        }
    }

    #[cold]
    fn charged_orphan(&self, cost: u64, before: Word) {
        self.principal.gate().charge(cost);
        if before.debt_signed() == 0 {
            // The ledger may have forgotten it.
            self.review();
        }
    }

    /// Subtracts `cost` from the debt, and wakes whoever waits if the debt is now at or below the
    /// resume level. The waker runs on this thread: do not hold a lock that it wants.
    ///
    /// # Panics
    /// With debug assertions, if the debt is less than `cost`; see the type for what happens
    /// without.
    #[inline]
    pub fn repay(&self, cost: u64) {
        if cost == 0 {
            return;
        }
        let before = self.gate.repay(cost);
        if before.is_orphaned() {
            self.repaid_orphan(cost, before);
        }
    }

    #[cold]
    fn repaid_orphan(&self, cost: u64, before: Word) {
        self.principal.gate().repay(cost);
        if before.less(cost).debt_signed() == 0 {
            self.review();
        }
    }

    /// Has the ledger look whether it should list this account.
    fn review(&self) {
        if let (Some(registry), Some(this)) = (self.registry.upgrade(), self.this.upgrade()) {
            registry.review(&this);
        }
    }

    /// What is owed, in cost units.
    pub fn debt(&self) -> u64 {
        self.gate.word().debt()
    }

    /// Whether the source may be read: the debt is at or below the limit, or the account retired.
    /// *Cost*: one load of the debt, one of the limit. Called between turns.
    #[inline]
    pub fn is_clear(&self) -> bool {
        self.gate.is_clear()
    }

    /// Whether some task waits for the debt to fall.
    pub fn is_waiting(&self) -> bool {
        self.gate.word().is_waiting()
    }

    /// Whether [`Account::retire`] was called.
    pub fn is_retired(&self) -> bool {
        self.gate.word().is_orphaned()
    }

    pub(crate) fn word(&self) -> Word {
        self.gate.word()
    }

    /// Ready if the source may be read; else `waker` is kept and woken once when it may be.
    ///
    /// Any number of tasks may wait. A task may be woken although the debt is above the limit (again), and
    /// then has to poll again. While anybody waits, the debt that answers "ready" is the resume
    /// level, not the limit. A retired account makes nobody wait.
    ///
    /// *Cancellation*: a task that waits no more keeps its waker here until the next wake-up, which it
    /// will then see as a spurious one. A task polling repeatedly is kept once.
    pub fn poll_clear_funds(&self, waker: &Waker) -> Poll<()> {
        self.gate.poll_clear_funds(waker)
    }

    /// Waits until the source may be read: [`Account::poll_clear_funds`] as a future.
    ///
    /// *Cancellation*: safe at any time.
    pub fn ensure_clear_funds(&self) -> impl Future<Output = ()> + Send + '_ {
        poll_fn(|context| self.poll_clear_funds(context.waker()))
    }

    /// Charges `cost` and returns `item` carrying that debt.
    ///
    /// # Panics
    /// As [`Account::charge`].
    pub fn loan<T>(self: &Arc<Self>, item: T, cost: u64) -> LoanedItem<T> {
        LoanedItem::new(item, Loan::charge(self, cost))
    }

    /// Notes that the source is gone: what is owed becomes the principal's orphaned debt, and whoever
    /// waits on this account is woken.
    ///
    /// Later repayments and charges change the account's debt and the principal's alike. Once nothing is
    /// owed the ledger forgets the account. Calling it again does nothing.
    ///
    /// *Cost*: a few atomic operations, more if the debt changes meanwhile; it never waits.
    pub fn retire(&self) {
        let Some(before) = self.gate.orphan(self.principal.gate()) else { return };
        if before.debt_signed() == 0 {
            self.review();
        }
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = self.word();
        f.debug_struct("Account")
            .field("id", &self.id)
            .field("name", &self.name)
            .field("principal", &self.principal.name())
            .field("debt", &word.debt_signed())
            .field("limit", &self.limit())
            .field("is_waiting", &word.is_waiting())
            .field("is_retired", &word.is_orphaned())
            .finish()
    }
}

//! The ledger: all accounts and principals, their totals, and the audit.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use crate::account::Account;
use crate::fault::{Fault, Faults};
use crate::policy::{Limits, PrincipalLimits};
use crate::principal::Principal;
use crate::sync::{Arc, Mutex, Weak, lock};

/// All accounts and principals of one broker.
///
/// *Shape*: a handle; clones are the same ledger.
///
/// It lists every account that is open or owes something. A retired account leaves it when its debt
/// reaches zero, and comes back if it is charged again, so the ledger does not grow with the
/// number of connections there have been, and still misses no debt. Principals are held weakly.
///
/// *Cost*: opening an account takes the ledger's lock, and so does the last repayment to a retired account.
/// Charging and repaying otherwise never come here.
#[derive(Clone)]
pub struct Ledger {
    registry: Arc<Registry>,
}

impl Ledger {
    /// An empty ledger, whose principals have `limits` unless told otherwise.
    pub fn new(limits: PrincipalLimits) -> Self {
        Ledger::with_faults(limits, Faults::default())
    }

    pub(crate) fn with_faults(limits: PrincipalLimits, faults: Faults) -> Self {
        Ledger { registry: Arc::new(Registry { lists: Mutex::new(Lists::default()), limits, faults }) }
    }

    /// The principal called `name`, made with the ledger's own limits if there is none.
    pub fn principal(&self, name: &str) -> Arc<Principal> {
        self.principal_with(name, self.registry.limits)
    }

    /// The principal called `name`, made with `limits` if there is none. One that exists keeps the
    /// limits it has.
    pub fn principal_with(&self, name: &str, limits: PrincipalLimits) -> Arc<Principal> {
        let mut lists = lock(&self.registry.lists);
        if let Some(principal) = lists.principals.get(name).and_then(Weak::upgrade) {
            return principal;
        }
        let name: Arc<str> = Arc::from(name);
        let principal = Principal::new(Arc::clone(&name), limits, &self.registry, self.registry.faults);
        lists.principals.insert(name, Arc::downgrade(&principal));
        principal
    }

    /// Opens an account of `principal` for a source called `name`. Who opens it has to
    /// [retire](Account::retire) it when the source is gone.
    pub fn open_account(
        &self,
        principal: &Arc<Principal>,
        name: &str,
        limits: impl Into<Limits>,
    ) -> Arc<Account> {
        let limits = limits.into();
        let mut lists = lock(&self.registry.lists);
        let id = lists.account_id_next;
        lists.account_id_next += 1;
        let account = Account::open(id, name, limits, principal, &self.registry, self.registry.faults);
        lists.accounts.insert(id, Arc::clone(&account));
        account
    }

    /// The account with this number, if it is open or owes something.
    pub fn account(&self, id: u64) -> Option<Arc<Account>> {
        lock(&self.registry.lists).accounts.get(&id).cloned()
    }

    /// All accounts that are open or owe something, by number.
    pub fn accounts(&self) -> Vec<Arc<Account>> {
        lock(&self.registry.lists).accounts.values().cloned().collect()
    }

    /// All principals that anybody holds, by name.
    pub fn principals(&self) -> Vec<Arc<Principal>> {
        // Collected before they are looked at: dropping the last reference takes the lock.
        let mut principals: Vec<_> = {
            let lists = lock(&self.registry.lists);
            lists.principals.values().filter_map(Weak::upgrade).collect()
        };
        principals.sort_by(|a, b| a.name().cmp(b.name()));
        principals
    }

    /// One row per account, by number. Each row is consistent in itself; the rows are read one after
    /// another while debts change.
    pub fn snapshot(&self) -> Vec<AccountRow> {
        self.accounts().iter().map(|account| AccountRow::of(account)).collect()
    }

    /// One row per principal, by name.
    pub fn principals_snapshot(&self) -> Vec<PrincipalRow> {
        self.principals().iter().map(|principal| PrincipalRow::of(principal)).collect()
    }

    /// The sum of all debts, in cost units.
    pub fn total_debt(&self) -> u64 {
        self.accounts().iter().map(|account| account.debt()).sum()
    }

    /// Checks F1: that no account was repaid more than it was charged, that all debts together are
    /// `outstanding`, the cost of all loans there are, and that each principal's orphaned debt is that of its
    /// retired accounts.
    ///
    /// Only meaningful while nobody charges or repays: no commit and no flush is in progress.
    ///
    /// # Errors
    /// [`AuditError`], the first that applies. Each is a bug, in the broker or here.
    pub fn audit(&self, outstanding: u64) -> Result<(), AuditError> {
        let accounts = self.accounts();
        let mut debt: u64 = 0;
        for account in &accounts {
            let word = account.word();
            let excess = word.over_repaid();
            if excess > 0 {
                let name = Arc::clone(account.shared_name());
                return Err(AuditError::OverRepaid { id: account.id(), name, excess });
            }
            debt = debt.saturating_add(word.debt());
        }
        if debt != outstanding {
            return Err(AuditError::Unbalanced { outstanding, debt });
        }
        for principal in self.principals() {
            let of_principal = |account: &&Arc<Account>| {
                account.is_retired() && Arc::ptr_eq(account.principal(), &principal)
            };
            let retired = accounts.iter().filter(of_principal).map(|account| account.debt()).sum();
            let orphaned = principal.orphaned();
            if orphaned != retired {
                let principal = Arc::clone(principal.shared_name());
                return Err(AuditError::Orphaned { principal, orphaned, retired });
            }
        }
        Ok(())
    }
}

impl Default for Ledger {
    fn default() -> Self {
        Ledger::new(PrincipalLimits::default())
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.accounts()).finish()
    }
}

/// What the handles share, and what accounts and principals refer back to.
pub(crate) struct Registry {
    lists: Mutex<Lists>,
    limits: PrincipalLimits,
    faults: Faults,
}

/// **Invariant:** `accounts` holds each account that is not finished, and that of each finished one
/// some thread is about to call [`Registry::review`], or has.
#[derive(Default)]
struct Lists {
    account_id_next: u64,
    accounts: BTreeMap<u64, Arc<Account>>,
    principals: HashMap<Arc<str>, Weak<Principal>>,
}

impl Registry {
    /// Lists `account` if it owes something, and forgets it if it is finished. Called after each
    /// change between the two.
    ///
    /// Whoever makes such a change comes here afterwards and looks at the debt *under the lock*; so the last
    /// to come has seen every change by those before it, and what it leaves is right whichever way the
    /// changes and the visits interleaved.
    pub(crate) fn review(&self, account: &Arc<Account>) {
        let is_finished = |account: &Account| {
            let word = account.word();
            word.is_orphaned() && word.debt_signed() == 0
        };
        let seen_early = is_finished(account);
        let forgotten = {
            let mut lists = lock(&self.lists);
            let finished =
                if self.faults.has(Fault::ForgetWithoutRecheck) { seen_early } else { is_finished(account) };
            if finished {
                lists.accounts.remove(&account.id())
            } else {
                lists.accounts.insert(account.id(), Arc::clone(account))
            }
        };
        // Outside the lock: with it may go the principal, which takes the lock again.
        drop(forgotten);
    }

    /// Forgets a principal that is being dropped, unless its name has been given to a new one.
    pub(crate) fn forget_principal(&self, principal: &Principal) {
        let mut lists = lock(&self.lists);
        if lists.principals.get(principal.name()).is_some_and(|listed| listed.strong_count() == 0) {
            lists.principals.remove(principal.name());
        }
    }
}

/// One account, as it was at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountRow {
    /// [`Account::id`].
    pub id: u64,
    /// [`Account::name`].
    pub name: Arc<str>,
    /// The name of its principal.
    pub principal: Arc<str>,
    /// What is owed, in cost units.
    pub debt: u64,
    /// How much more was repaid than charged: zero, unless there is a bug.
    pub over_repaid: u64,
    /// The greatest debt with which the source is read.
    pub limit: u64,
    /// The debt at or below which a stopped source goes on.
    pub resume_level: u64,
    /// Whether a task waits for the debt to fall.
    pub is_waiting: bool,
    /// Whether the source is gone, and the debt its principal's.
    pub is_orphaned: bool,
}

impl AccountRow {
    fn of(account: &Account) -> Self {
        let word = account.word();
        AccountRow {
            id: account.id(),
            name: Arc::clone(account.shared_name()),
            principal: Arc::clone(account.principal().shared_name()),
            debt: word.debt(),
            over_repaid: word.over_repaid(),
            limit: account.limit(),
            resume_level: account.resume_level(),
            is_waiting: word.is_waiting(),
            is_orphaned: word.is_orphaned(),
        }
    }
}

/// One principal, as it was at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrincipalRow {
    /// [`Principal::name`].
    pub name: Arc<str>,
    /// What its retired accounts owe, in cost units.
    pub orphaned: u64,
    /// The greatest orphaned debt with which its new connections are read.
    pub limit: u64,
    /// How many connections are open.
    pub connections: u64,
    /// How many may be.
    pub connections_max: u64,
    /// Whether a connection waits for the orphaned debt to fall.
    pub is_waiting: bool,
}

impl PrincipalRow {
    fn of(principal: &Principal) -> Self {
        PrincipalRow {
            name: Arc::clone(principal.shared_name()),
            orphaned: principal.orphaned(),
            limit: principal.limit(),
            connections: principal.connections(),
            connections_max: principal.connections_max(),
            is_waiting: principal.is_waiting(),
        }
    }
}

/// What an audit found: a bug, in whoever charges and repays or in this crate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuditError {
    /// An account was repaid more than it was charged: something was repaid twice.
    OverRepaid {
        /// The account's number.
        id: u64,
        /// The account's name.
        name: Arc<str>,
        /// By how much.
        excess: u64,
    },
    /// The debts are not the cost of all loans: something was charged and is not held by anything, or the
    /// reverse.
    Unbalanced {
        /// The cost of all loans, says the caller.
        outstanding: u64,
        /// The sum of all debts.
        debt: u64,
    },
    /// A principal's orphaned debt is not that of its retired accounts: a bug of this crate.
    Orphaned {
        /// The principal's name.
        principal: Arc<str>,
        /// Its orphaned debt.
        orphaned: u64,
        /// The debt of its retired accounts.
        retired: u64,
    },
}

impl fmt::Display for AuditError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AuditError::OverRepaid { id, name, excess } => {
                write!(f, "account {id} ({name}) was repaid {excess} more than it was charged")
            }
            AuditError::Unbalanced { outstanding, debt } => {
                write!(f, "the debts sum to {debt}, but loans of {outstanding} are outstanding")
            }
            AuditError::Orphaned { principal, orphaned, retired } => {
                let owed = format_args!("its retired accounts owe {retired}");
                write!(f, "principal {principal} has an orphaned debt of {orphaned}, but {owed}")
            }
        }
    }
}

impl std::error::Error for AuditError {}

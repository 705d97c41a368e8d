//! Loans: debts that are repaid when they are dropped, and items that carry one.

use std::fmt;
use std::ops::{Deref, DerefMut};

use crate::account::Account;
use crate::sync::Arc;

/// A cost charged to an account, repaid when dropped.
///
/// *Shape*: 16 bytes; not `Clone`, since each unit is repaid once.
///
/// It is repaid on every way out: at the end of its scope, in a container that is dropped, or while
/// a panic unwinds. Only [`Loan::into_debt`] takes the duty to repay out of it (and
/// [`std::mem::forget`], against which nothing helps but the audit).
#[must_use = "dropping a loan repays it"]
pub struct Loan {
    account: Arc<Account>,
    cost: u64,
}

impl Loan {
    /// Charges `cost` to `account`.
    ///
    /// # Panics
    /// As [`Account::charge`].
    pub fn charge(account: &Arc<Account>, cost: u64) -> Loan {
        account.charge(cost);
        Loan::adopt(Arc::clone(account), cost)
    }

    /// Takes over `cost` that has been charged to `account` already.
    pub fn adopt(account: Arc<Account>, cost: u64) -> Loan {
        Loan { account, cost }
    }

    /// Whom the debt is charged to: the ultimate cause.
    pub fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// How much is owed, in cost units.
    pub fn cost(&self) -> u64 {
        self.cost
    }

    /// Takes off up to `cost` as a loan of its own. Nothing is charged or repaid.
    pub fn split(&mut self, cost: u64) -> Loan {
        let cost = cost.min(self.cost);
        self.cost -= cost;
        Loan::adopt(Arc::clone(&self.account), cost)
    }

    /// Adds `other` to this loan. Nothing is charged or repaid.
    ///
    /// # Errors
    /// Gives `other` back if it is against another account.
    pub fn absorb(&mut self, mut other: Loan) -> Result<(), Loan> {
        if !Arc::ptr_eq(&self.account, &other.account) {
            return Err(other);
        }
        self.cost += std::mem::take(&mut other.cost);
        Ok(())
    }

    /// The account and the cost, which the caller has to see repaid from now on.
    #[must_use = "the debt stays until somebody repays it"]
    pub fn into_debt(mut self) -> (Arc<Account>, u64) {
        (Arc::clone(&self.account), std::mem::take(&mut self.cost))
    }

    /// Repays: says what dropping it does.
    pub fn repay(self) {}
}

impl Drop for Loan {
    fn drop(&mut self) {
        self.account.repay(self.cost);
    }
}

impl fmt::Debug for Loan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Loan({} of {:?})", self.cost, self.account.name())
    }
}

/// Work that carries its debt: an event on its way, repaid when dropped.
///
/// *Shape*: the item and 16 bytes; dereferences to the item. The item is dropped first and the loan
/// repaid afterwards, so that the debt outlives the memory it stands for.
///
/// Whatever is sent because of this item is charged to the same account: [`LoanedItem::lend`].
#[must_use = "dropping a loaned item repays its loan"]
pub struct LoanedItem<T> {
    // Fields are dropped in this order.
    item: T,
    loan: Loan,
}

impl<T> LoanedItem<T> {
    /// `item`, carrying `loan`.
    pub fn new(item: T, loan: Loan) -> Self {
        LoanedItem { item, loan }
    }

    /// Whom the debt is charged to: the ultimate cause.
    pub fn account(&self) -> &Arc<Account> {
        self.loan.account()
    }

    /// How much is owed, in cost units.
    pub fn cost(&self) -> u64 {
        self.loan.cost()
    }

    /// Charges what this item caused, `further`, to the account that this one is charged to.
    ///
    /// # Panics
    /// As [`Account::charge`].
    pub fn lend<U>(&self, further: U, cost: u64) -> LoanedItem<U> {
        self.account().loan(further, cost)
    }

    /// Hands this item's debt on to `further`, entirely: what an intermediary does that turns one
    /// event into another. Nothing is charged or repaid.
    pub fn transfer<U>(self, further: U) -> (T, LoanedItem<U>) {
        (self.item, LoanedItem::new(further, self.loan))
    }

    /// Takes up to `cost` off this item's debt and has `further` carry it. Nothing is charged or
    /// repaid.
    pub fn split<U>(&mut self, further: U, cost: u64) -> LoanedItem<U> {
        LoanedItem::new(further, self.loan.split(cost))
    }

    /// Changes the item, and leaves its debt. If `change` panics the loan is repaid.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> LoanedItem<U> {
        let LoanedItem { item, loan } = self;
        LoanedItem { item: change(item), loan }
    }

    /// The item, with its loan repaid.
    pub fn into_inner_repaid(self) -> T {
        self.item
    }

    /// The item and the loan, each for itself.
    pub fn into_parts(self) -> (T, Loan) {
        (self.item, self.loan)
    }
}

impl<T> Deref for LoanedItem<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.item
    }
}

impl<T> DerefMut for LoanedItem<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.item
    }
}

impl<T: fmt::Debug> fmt::Debug for LoanedItem<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoanedItem").field("item", &self.item).field("loan", &self.loan).finish()
    }
}

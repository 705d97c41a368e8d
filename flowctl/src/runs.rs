//! The debts in an outbox: whose bytes wait there, in which order, at what cost.
//!
//! An outbox holds bytes of many events, charged to many accounts, and learns from the kernel only
//! "so many bytes were taken". [`DebtRuns`] turns that number into repayments. It keeps no
//! entry per event: neighbours charged to the same account are one run.
//!
//! A run of `len` bytes and cost `c` of which `n` bytes are written repays `c * n / len`, rounded down, and
//! goes on as a run of `len - n` bytes and of the cost that is left. What rounding held back is thus in the
//! run still, and the last byte repays all of it: the sum is exact for any sequence of writes.

use std::collections::VecDeque;
use std::fmt;

use crate::account::Account;
use crate::loan::Loan;
use crate::sync::Arc;

/// How many accounts one [`DebtRuns::settle`] collects repayments for before it repays the first.
const COLLECTED_MAX: usize = 8;

struct Run {
    account: Arc<Account>,
    bytes: u64,
    cost: u64,
}

/// A first-in, first-out list of debts, in runs of bytes charged to the same account.
///
/// It takes over debts that were charged before: it repays, and never charges. Dropping it repays
/// whatever it holds.
///
/// *Shape*: 48 bytes and 24 per run; in steady state nothing is allocated, see [`DebtRuns::shrink`].
///
/// **Invariant:** `total_cost` and `total_bytes` are the sums over the runs, and the former is a part of the
/// debts of the accounts in it.
#[derive(Default)]
pub struct DebtRuns {
    runs: VecDeque<Run>,
    total_bytes: u64,
    total_cost: u64,
}

impl DebtRuns {
    /// An empty list, which has allocated nothing.
    pub const fn new() -> Self {
        DebtRuns { runs: VecDeque::new(), total_bytes: 0, total_cost: 0 }
    }

    /// Notes that `bytes` were appended which have cost `account` `cost` units, *charged by the caller
    /// already*. *Cost*: constant; a reference count if the last run is another account's.
    ///
    /// A push of no bytes is repaid together with the bytes before it.
    pub fn push(&mut self, account: &Arc<Account>, bytes: u64, cost: u64) {
        self.total_bytes += bytes;
        self.total_cost += cost;
        match self.runs.back_mut() {
            Some(last) if Arc::ptr_eq(&last.account, account) => {
                last.bytes += bytes;
                last.cost += cost;
            }
            _ => self.runs.push_back(Run { account: Arc::clone(account), bytes, cost }),
        }
    }

    /// As [`DebtRuns::push`], for bytes that were put before all others.
    pub fn push_front(&mut self, account: &Arc<Account>, bytes: u64, cost: u64) {
        self.total_bytes += bytes;
        self.total_cost += cost;
        match self.runs.front_mut() {
            Some(first) if Arc::ptr_eq(&first.account, account) => {
                first.bytes += bytes;
                first.cost += cost;
            }
            _ => self.runs.push_front(Run { account: Arc::clone(account), bytes, cost }),
        }
    }

    /// Takes over a loan that `bytes` were appended for.
    pub fn push_loan(&mut self, loan: Loan, bytes: u64) {
        let (account, cost) = loan.into_debt();
        self.push(&account, bytes, cost);
    }

    /// Repays for the first `bytes`, which have been written, and returns how much.
    ///
    /// *Cost*: the number of runs written; one atomic operation per account among them, as long as those are
    /// few, and never more than one per run. Whoever is woken by it is woken on this thread, within this
    /// call; [`DebtRuns::settle_into`] puts that off.
    ///
    /// # Panics
    /// With debug assertions, if there are not so many bytes; without, all is repaid.
    pub fn settle(&mut self, bytes: u64) -> u64 {
        let mut collected: [Option<(Arc<Account>, u64)>; COLLECTED_MAX] = Default::default();
        let mut next = 0;
        let repaid = self.settle_with(bytes, |account, cost| {
            let same = |slot: &&mut Option<(Arc<Account>, u64)>| {
                slot.as_ref().is_some_and(|(other, _)| Arc::ptr_eq(other, &account))
            };
            if let Some(Some((_, sum))) = collected.iter_mut().find(same) {
                *sum += cost;
            } else {
                let oldest = collected[next].replace((account, cost));
                next = (next + 1) % COLLECTED_MAX;
                repay(oldest);
            }
        });
        collected.into_iter().for_each(repay);
        repaid
    }

    /// As [`DebtRuns::settle`], but leaves the repaying to `repayments`: to be done when no lock is held any
    /// more, or once for many outboxes.
    pub fn settle_into(&mut self, bytes: u64, repayments: &mut Repayments) -> u64 {
        self.settle_with(bytes, |account, cost| repayments.add(account, cost))
    }

    /// Repays all that is left, and returns how much.
    pub fn settle_all(&mut self) -> u64 {
        self.settle(self.total_bytes)
    }

    fn settle_with(&mut self, bytes: u64, mut repay: impl FnMut(Arc<Account>, u64)) -> u64 {
        debug_assert!(bytes <= self.total_bytes, "{bytes} bytes of {} were written", self.total_bytes);
        let mut bytes_left = bytes.min(self.total_bytes);
        let cost_before = self.total_cost;
        self.total_bytes -= bytes_left;
        // Whole runs, including those of no bytes behind the last byte written.
        while self.runs.front().is_some_and(|run| run.bytes <= bytes_left) {
            let run = self.runs.pop_front().expect("there is a first run");
            bytes_left -= run.bytes;
            self.total_cost -= run.cost;
            repay(run.account, run.cost);
        }
        // The beginning of the next.
        if bytes_left > 0
            && let Some(run) = self.runs.front_mut()
        {
            let cost = share(run.cost, bytes_left, run.bytes);
            run.bytes -= bytes_left;
            run.cost -= cost;
            self.total_cost -= cost;
            if cost > 0 {
                repay(Arc::clone(&run.account), cost);
            }
        }
        cost_before - self.total_cost
    }

    /// Puts the debts for the first `bytes` behind those of another list. A run that is divided is divided as by
    /// [`DebtRuns::settle`]; nothing is repaid. *Cost*: the number of runs moved.
    ///
    /// # Panics
    /// With debug assertions, if there are not so many bytes; without, all is moved.
    pub fn move_front(&mut self, bytes: u64, to: &mut DebtRuns) {
        debug_assert!(bytes <= self.total_bytes, "{bytes} bytes of {} are moved", self.total_bytes);
        let mut left = bytes;
        while let Some(run) = self.runs.front_mut()
            && (run.bytes <= left || left > 0)
        {
            let (bytes, cost) = match run.bytes <= left {
                true => (run.bytes, run.cost),
                false => (left, share(run.cost, left, run.bytes)),
            };
            to.push(&run.account, bytes, cost);
            (run.bytes, run.cost) = (run.bytes - bytes, run.cost - cost);
            self.total_bytes -= bytes;
            self.total_cost -= cost;
            left -= bytes;
            if run.bytes == 0 {
                self.runs.pop_front();
            }
        }
    }

    /// Puts another list behind this one. *Cost*: the number of its runs.
    pub fn append(&mut self, mut other: DebtRuns) {
        for run in std::mem::take(&mut other.runs) {
            self.push(&run.account, run.bytes, run.cost);
        }
        (other.total_bytes, other.total_cost) = (0, 0);
    }

    /// What is owed for the bytes here, in cost units.
    pub fn total_cost(&self) -> u64 {
        self.total_cost
    }

    /// How many bytes are here.
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// How many runs there are.
    pub fn len(&self) -> usize {
        self.runs.len()
    }

    /// Whether nothing is owed here.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The runs, first in first: who owes what here. One account may have several.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = RunView<'_>> {
        self.runs.iter().map(|run| RunView { account: &run.account, bytes: run.bytes, cost: run.cost })
    }

    /// Gives back the memory beyond what its runs need: when an outbox has become idle.
    pub fn shrink(&mut self) {
        self.runs.shrink_to_fit();
    }
}

/// `cost * part / whole`, rounded down.
fn share(cost: u64, part: u64, whole: u64) -> u64 {
    debug_assert!(part <= whole && whole > 0);
    let share = u128::from(cost) * u128::from(part) / u128::from(whole);
    u64::try_from(share).expect("a part is no more than the whole")
}

fn repay(collected: Option<(Arc<Account>, u64)>) {
    if let Some((account, cost)) = collected {
        account.repay(cost);
    }
}

impl Drop for DebtRuns {
    fn drop(&mut self) {
        self.settle_all();
    }
}

impl fmt::Debug for DebtRuns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// One run of a [`DebtRuns`].
#[derive(Clone, Copy, Debug)]
pub struct RunView<'a> {
    /// Who caused these bytes.
    pub account: &'a Arc<Account>,
    /// How many bytes of it are still here.
    pub bytes: u64,
    /// What is still owed for them, in cost units.
    pub cost: u64,
}

/// Repayments collected to be made later, one per account.
///
/// A worker keeps one and reuses it: it settles several outboxes into it and then, holding no lock, repays.
/// Until then the debts stand, so the end of a flush is the latest moment for it. Dropping it
/// repays.
///
/// *Cost*: adding looks at no more than the last 16 accounts added; an account beyond
/// them may be repaid in two operations instead of one.
#[derive(Default)]
pub struct Repayments {
    collected: Vec<(Arc<Account>, u64)>,
}

impl Repayments {
    /// None yet, and nothing allocated.
    pub const fn new() -> Self {
        Repayments { collected: Vec::new() }
    }

    /// Adds `cost`, which is to be repaid to `account`.
    pub fn add(&mut self, account: Arc<Account>, cost: u64) {
        const LOOKED_AT_MAX: usize = 16;
        let recent = self.collected.iter_mut().rev().take(LOOKED_AT_MAX);
        match { recent }.find(|(other, _)| Arc::ptr_eq(other, &account)) {
            Some((_, sum)) => *sum += cost,
            None => self.collected.push((account, cost)),
        }
    }

    /// What is to be repaid, in cost units.
    pub fn total_cost(&self) -> u64 {
        self.collected.iter().map(|(_, cost)| cost).sum()
    }

    /// Repays all of it, waking whoever may go on, and keeps the memory for the next time.
    pub fn repay_all(&mut self) {
        for (account, cost) in self.collected.drain(..) {
            account.repay(cost);
        }
    }
}

impl Drop for Repayments {
    fn drop(&mut self) {
        self.repay_all();
    }
}

impl fmt::Debug for Repayments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs = self.collected.iter().map(|(account, cost)| (account.name(), cost));
        f.debug_map().entries(pairs).finish()
    }
}

//! F1, conservation: after each step of any history, the debts are exactly the cost of what is outstanding.
//!
//! A history of random steps is done twice: with the real accounts, loans and runs, and with a naive twin
//! that keeps a list of all that is owed and adds it up. They are compared after each step.

#![cfg(not(flowctl_loom))]

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Waker;

use proptest::collection::vec;
use proptest::prelude::*;
use staunch_flowctl::{
    Account, DebtRuns, Ledger, Limits, Loan, LoanedItem, Principal, PrincipalLimits, Repayments,
};

const PRINCIPALS: usize = 2;
const OUTBOXES: usize = 3;
const ORPHANED_LIMIT: u64 = 500;

/// One step. Numbers are taken modulo what there is.
#[derive(Clone, Debug)]
enum Step {
    Open {
        principal: usize,
        limit: u64,
    },
    Retire {
        account: usize,
    },
    SetLimit {
        account: usize,
        limit: u64,
    },
    Park {
        account: usize,
    },
    Charge {
        account: usize,
        cost: u64,
    },
    Loan {
        account: usize,
        cost: u64,
    },
    Lend {
        item: usize,
        cost: u64,
    },
    Split {
        item: usize,
        cost: u64,
    },
    Transfer {
        item: usize,
    },
    Absorb {
        item: usize,
        other: usize,
    },
    Drop {
        item: usize,
    },
    Enqueue {
        item: usize,
        outbox: usize,
        bytes: u64,
    },
    Push {
        account: usize,
        outbox: usize,
        bytes: u64,
        cost: u64,
    },
    Settle {
        outbox: usize,
        permille: u64,
    },
    SettleInto {
        outbox: usize,
        permille: u64,
    },
    RepayAll,
    DropOutbox {
        outbox: usize,
    },
    /// A turn that makes loans, sends some of them, and panics.
    Panic {
        account: usize,
        outbox: usize,
        costs: Vec<u64>,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let n = || 0..64_usize;
    let cost = || prop_oneof![4 => 0..300_u64, 1 => 0..=1_u64 << 40];
    let bytes = || prop_oneof![1 => Just(0_u64), 6 => 0..2000_u64, 1 => 0..=1_u64 << 40];
    prop_oneof![
        2 => (n(), 0..400_u64).prop_map(|(principal, limit)| Step::Open { principal, limit }),
        2 => n().prop_map(|account| Step::Retire { account }),
        1 => (n(), 0..400_u64).prop_map(|(account, limit)| Step::SetLimit { account, limit }),
        2 => n().prop_map(|account| Step::Park { account }),
        2 => (n(), cost()).prop_map(|(account, cost)| Step::Charge { account, cost }),
        4 => (n(), cost()).prop_map(|(account, cost)| Step::Loan { account, cost }),
        3 => (n(), cost()).prop_map(|(item, cost)| Step::Lend { item, cost }),
        3 => (n(), cost()).prop_map(|(item, cost)| Step::Split { item, cost }),
        1 => n().prop_map(|item| Step::Transfer { item }),
        2 => (n(), n()).prop_map(|(item, other)| Step::Absorb { item, other }),
        4 => n().prop_map(|item| Step::Drop { item }),
        4 => (n(), n(), bytes()).prop_map(|(item, outbox, bytes)| Step::Enqueue { item, outbox, bytes }),
        4 => (n(), n(), bytes(), cost())
            .prop_map(|(account, outbox, bytes, cost)| Step::Push { account, outbox, bytes, cost }),
        6 => (n(), 0..=1000_u64).prop_map(|(outbox, permille)| Step::Settle { outbox, permille }),
        2 => (n(), 0..=1000_u64).prop_map(|(outbox, permille)| Step::SettleInto { outbox, permille }),
        2 => Just(Step::RepayAll),
        1 => n().prop_map(|outbox| Step::DropOutbox { outbox }),
        2 => (n(), n(), vec(0..300_u64, 1..4))
            .prop_map(|(account, outbox, costs)| Step::Panic { account, outbox, costs }),
    ]
}

/// What is known of an account without looking at it.
#[derive(Clone, Copy)]
struct NaiveAccount {
    principal: usize,
    limit: u64,
    is_retired: bool,
}

/// The twin: all that is owed, as plain lists of (account, cost).
#[derive(Default)]
struct Naive {
    accounts: Vec<NaiveAccount>,
    /// Same order as the real items.
    items: Vec<(usize, u64)>,
    /// (account, bytes, cost).
    outboxes: [VecDeque<(usize, u64, u64)>; OUTBOXES],
    repayments: Vec<(usize, u64)>,
}

impl Naive {
    fn owed(&self) -> impl Iterator<Item = (usize, u64)> {
        let runs = self.outboxes.iter().flatten().map(|&(account, _, cost)| (account, cost));
        self.items.iter().chain(&self.repayments).copied().chain(runs)
    }

    fn debt(&self, account: usize) -> u64 {
        self.owed().filter(|&(other, _)| other == account).map(|(_, cost)| cost).sum()
    }

    fn orphaned(&self, principal: usize) -> u64 {
        let retired = |&(account, _): &(usize, u64)| {
            self.accounts[account].is_retired && self.accounts[account].principal == principal
        };
        self.owed().filter(retired).map(|(_, cost)| cost).sum()
    }

    fn push(&mut self, outbox: usize, account: usize, bytes: u64, cost: u64) {
        match self.outboxes[outbox].back_mut() {
            Some(last) if last.0 == account => *last = (account, last.1 + bytes, last.2 + cost),
            _ => self.outboxes[outbox].push_back((account, bytes, cost)),
        }
    }

    /// Returns who is to be repaid what.
    fn settle(&mut self, outbox: usize, mut bytes: u64) -> Vec<(usize, u64)> {
        let mut repaid = Vec::new();
        while let Some(run) = self.outboxes[outbox].front_mut() {
            if run.1 <= bytes {
                bytes -= run.1;
                repaid.push((run.0, run.2));
                self.outboxes[outbox].pop_front();
                continue;
            }
            let cost = (run.2 as u128 * bytes as u128 / run.1 as u128) as u64;
            *run = (run.0, run.1 - bytes, run.2 - cost);
            repaid.push((run.0, cost));
            break;
        }
        repaid
    }
}

/// The real thing, and its twin.
struct World {
    ledger: Ledger,
    principals: Vec<Arc<Principal>>,
    accounts: Vec<Arc<Account>>,
    items: Vec<LoanedItem<u64>>,
    outboxes: [DebtRuns; OUTBOXES],
    repayments: Repayments,
    naive: Naive,
}

impl World {
    fn new() -> Self {
        let limits = PrincipalLimits { orphaned: Limits::new(ORPHANED_LIMIT), connections_max: 0 };
        let ledger = Ledger::new(limits);
        let principals = (0..PRINCIPALS).map(|n| ledger.principal(&n.to_string())).collect();
        let mut world = World {
            ledger,
            principals,
            accounts: Vec::new(),
            items: Vec::new(),
            outboxes: Default::default(),
            repayments: Repayments::new(),
            naive: Naive::default(),
        };
        world.open(0, 100);
        world
    }

    fn open(&mut self, principal: usize, limit: u64) {
        self.accounts.push(self.ledger.open_account(&self.principals[principal], "account", limit));
        self.naive.accounts.push(NaiveAccount { principal, limit, is_retired: false });
    }

    fn add(&mut self, item: LoanedItem<u64>, account: usize, cost: u64) {
        self.items.push(item);
        self.naive.items.push((account, cost));
    }

    fn number_of(&self, account: &Arc<Account>) -> usize {
        self.accounts.iter().position(|other| Arc::ptr_eq(other, account)).unwrap()
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Open { principal, limit } => self.open(principal % PRINCIPALS, limit),
            Step::Retire { account } => {
                let account = account % self.accounts.len();
                self.accounts[account].retire();
                self.naive.accounts[account].is_retired = true;
            }
            Step::SetLimit { account, limit } => {
                let account = account % self.accounts.len();
                self.accounts[account].set_limit(limit);
                self.naive.accounts[account].limit = limit;
            }
            Step::Park { account } => {
                let account = account % self.accounts.len();
                let ready = self.accounts[account].poll_clear_funds(Waker::noop()).is_ready();
                assert_eq!(ready, self.accounts[account].is_clear());
            }
            Step::Charge { account, cost } => {
                let account = account % self.accounts.len();
                self.accounts[account].charge(cost);
                let loan = Loan::adopt(Arc::clone(&self.accounts[account]), cost);
                self.add(LoanedItem::new(cost, loan), account, cost);
            }
            Step::Loan { account, cost } => {
                let account = account % self.accounts.len();
                self.add(self.accounts[account].loan(cost, cost), account, cost);
            }
            Step::Push { account, outbox, bytes, cost } => {
                let (account, outbox) = (account % self.accounts.len(), outbox % OUTBOXES);
                self.accounts[account].charge(cost);
                self.outboxes[outbox].push(&self.accounts[account], bytes, cost);
                self.naive.push(outbox, account, bytes, cost);
            }
            Step::Settle { .. } | Step::SettleInto { .. } | Step::RepayAll | Step::DropOutbox { .. } => {
                self.run_outbox(step);
            }
            Step::Panic { account, outbox, costs } => self.panic_in_turn(account, outbox % OUTBOXES, &costs),
            _ if self.items.is_empty() => {}
            _ => self.run_item(step),
        }
    }

    /// The steps that need an item.
    fn run_item(&mut self, step: Step) {
        let len = self.items.len();
        match step {
            Step::Lend { item, cost } => {
                let lent = self.items[item % len].lend(cost, cost);
                self.add(lent, self.naive.items[item % len].0, cost);
            }
            Step::Split { item, cost } => {
                let part = self.items[item % len].split(cost, cost);
                let (account, whole) = self.naive.items[item % len];
                self.naive.items[item % len].1 = whole.saturating_sub(cost);
                self.add(part, account, cost.min(whole));
            }
            Step::Transfer { item } => {
                let (_, further) = self.items.swap_remove(item % len).transfer(0);
                let (account, cost) = self.naive.items.swap_remove(item % len);
                self.add(further, account, cost);
            }
            Step::Absorb { item, other } => {
                let (value, mut loan) = self.items.swap_remove(item % len).into_parts();
                let (account, mut cost) = self.naive.items.swap_remove(item % len);
                if len > 1 {
                    let other = other % (len - 1);
                    let is_same = self.naive.items[other].0 == account;
                    let (_, absorbed) = self.items.swap_remove(other).into_parts();
                    // If it is another account's it comes back, and is dropped.
                    assert_eq!(loan.absorb(absorbed).is_ok(), is_same);
                    let (_, more) = self.naive.items.swap_remove(other);
                    cost += if is_same { more } else { 0 };
                }
                self.add(LoanedItem::new(value, loan), account, cost);
            }
            Step::Drop { item } => {
                drop(self.items.swap_remove(item % len));
                self.naive.items.swap_remove(item % len);
            }
            Step::Enqueue { item, outbox, bytes } => {
                let (_, loan) = self.items.swap_remove(item % len).into_parts();
                self.outboxes[outbox % OUTBOXES].push_loan(loan, bytes);
                let (account, cost) = self.naive.items.swap_remove(item % len);
                self.naive.push(outbox % OUTBOXES, account, bytes, cost);
            }
            other => unreachable!("{other:?} needs no item"),
        }
    }

    /// The steps on what is in outboxes already.
    fn run_outbox(&mut self, step: Step) {
        match step {
            Step::Settle { outbox, permille } => {
                let (outbox, bytes) = self.part(outbox, permille);
                let repaid = self.outboxes[outbox].settle(bytes);
                let naive = self.naive.settle(outbox, bytes);
                assert_eq!(repaid, naive.iter().map(|(_, cost)| cost).sum::<u64>());
            }
            Step::SettleInto { outbox, permille } => {
                let (outbox, bytes) = self.part(outbox, permille);
                self.outboxes[outbox].settle_into(bytes, &mut self.repayments);
                let repaid = self.naive.settle(outbox, bytes);
                self.naive.repayments.extend(repaid);
            }
            Step::RepayAll => {
                self.repayments.repay_all();
                self.naive.repayments.clear();
            }
            Step::DropOutbox { outbox } => {
                self.outboxes[outbox % OUTBOXES] = DebtRuns::new();
                self.naive.outboxes[outbox % OUTBOXES].clear();
            }
            other => unreachable!("{other:?} is not about an outbox"),
        }
    }

    /// A number of bytes of what is there.
    fn part(&self, outbox: usize, permille: u64) -> (usize, u64) {
        let outbox = outbox % OUTBOXES;
        (outbox, self.outboxes[outbox].total_bytes() * permille / 1000)
    }

    /// All loans of the turn are repaid by unwinding; what it sent before it panicked stays sent.
    fn panic_in_turn(&mut self, account: usize, outbox: usize, costs: &[u64]) {
        let account = account % self.accounts.len();
        let runs = &mut self.outboxes[outbox];
        let turn = || {
            let event = self.accounts[account].loan((), 1);
            let mut loans: Vec<_> = costs.iter().map(|&cost| event.lend(cost, cost)).collect();
            let (bytes, sent) = loans.pop().expect("at least one").into_parts();
            runs.push_loan(sent, bytes);
            // Quietly: no message of a panic that is expected.
            std::panic::resume_unwind(Box::new("a turn fails"));
        };
        assert!(catch_unwind(AssertUnwindSafe(turn)).is_err());
        let sent = *costs.last().expect("at least one");
        self.naive.push(outbox, account, sent, sent);
    }

    fn check(&self) {
        let outstanding: u64 = self.naive.owed().map(|(_, cost)| cost).sum();
        assert_eq!(self.ledger.audit(outstanding), Ok(()));
        assert_eq!(self.ledger.total_debt(), outstanding);
        let mut listed = 0;
        for (number, account) in self.accounts.iter().enumerate() {
            let (naive, debt) = (self.naive.accounts[number], self.naive.debt(number));
            assert_eq!(account.debt(), debt);
            assert_eq!(account.is_clear(), debt <= naive.limit || naive.is_retired);
            // Nobody is left waiting who may go on.
            assert!(!(account.is_waiting() && account.is_clear()));
            let is_finished = naive.is_retired && debt == 0;
            assert_eq!(self.ledger.account(account.id()).is_some(), !is_finished);
            listed += usize::from(!is_finished);
        }
        assert_eq!(self.ledger.accounts().len(), listed);
        for (number, principal) in self.principals.iter().enumerate() {
            assert_eq!(principal.orphaned(), self.naive.orphaned(number));
            assert_eq!(principal.is_clear(), principal.orphaned() <= ORPHANED_LIMIT);
        }
        for (runs, naive) in self.outboxes.iter().zip(&self.naive.outboxes) {
            let real: Vec<_> =
                runs.iter().map(|run| (self.number_of(run.account), run.bytes, run.cost)).collect();
            assert_eq!(real, Vec::from(naive.clone()));
            assert_eq!(runs.total_bytes(), naive.iter().map(|run| run.1).sum::<u64>());
            assert_eq!(runs.total_cost(), naive.iter().map(|run| run.2).sum::<u64>());
        }
    }

    /// Everything is dropped: nothing may be owed.
    fn end(self) {
        let World { ledger, accounts, items, outboxes, repayments, principals, .. } = self;
        drop((items, outboxes, repayments));
        assert_eq!(ledger.audit(0), Ok(()));
        accounts.iter().for_each(|account| account.retire());
        assert!(ledger.accounts().is_empty());
        drop((accounts, principals));
        assert!(ledger.principals().is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 4000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn debts_are_what_is_outstanding(steps in vec(step(), 1..80)) {
        let mut world = World::new();
        for step in steps {
            world.run(step);
            world.check();
        }
        world.end();
    }

    /// However the writes are cut, the whole of a run's cost is repaid with its last byte, never more than
    /// its share before, and less than its share by less than one unit per write.
    #[test]
    fn runs_repay_their_share(cost in 0..=1_u64 << 47, writes in vec(1..=1_u64 << 30, 1..20)) {
        let ledger = Ledger::default();
        let account = ledger.open_account(&ledger.principal("p"), "a", 0);
        let total: u64 = writes.iter().sum();
        let mut runs = DebtRuns::new();
        runs.push_loan(Loan::charge(&account, cost), total);
        let (mut written, mut repaid) = (0, 0);
        for (count, write) in (1_u64..).zip(&writes) {
            written += write;
            repaid += runs.settle(*write);
            prop_assert_eq!(account.debt(), cost - repaid);
            let share = u128::from(cost) * u128::from(written) / u128::from(total);
            prop_assert!(u128::from(repaid) <= share && share < u128::from(repaid + count));
        }
        prop_assert_eq!(repaid, cost);
    }
}

//! Accounts, loans, principals and the ledger, one rule at a time, on one thread.

#![cfg(not(flowctl_loom))]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Poll, Wake, Waker};

use staunch_flowctl::{
    Account, AuditError, COST_MAX, ConnectionsExhausted, DEBT_MAX, DebtRuns, Ledger, Limits, Loan, Principal,
    PrincipalLimits, Repayments,
};

/// Counts its wake-ups.
#[derive(Default)]
struct Count(AtomicU64);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn counter() -> (Arc<Count>, Waker) {
    let count = Arc::new(Count::default());
    let waker = Waker::from(Arc::clone(&count));
    (count, waker)
}

fn woken(count: &Count) -> u64 {
    count.0.load(Ordering::SeqCst)
}

fn world(limits: impl Into<Limits>) -> (Ledger, Arc<Principal>, Arc<Account>) {
    let ledger = Ledger::new(PrincipalLimits { orphaned: Limits::new(10), connections_max: 2 });
    let principal = ledger.principal("p");
    let account = ledger.open_account(&principal, "a", limits);
    (ledger, principal, account)
}

#[test]
fn clear_up_to_the_limit() {
    let (_, _, account) = world(5);
    account.charge(5);
    assert!(account.is_clear());
    account.charge(1);
    assert!(!account.is_clear());
    account.repay(1);
    assert!(account.is_clear());
    account.repay(5);
}

#[test]
fn wakes_once_at_the_limit() {
    let (_, _, account) = world(5);
    let (count, waker) = counter();
    account.charge(8);
    assert_eq!(account.poll_clear_funds(&waker), Poll::Pending);
    assert_eq!(account.poll_clear_funds(&waker), Poll::Pending);
    assert!(account.is_waiting());
    account.repay(2);
    assert_eq!(woken(&count), 0);
    account.repay(1);
    assert_eq!(woken(&count), 1);
    assert!(!account.is_waiting());
    account.repay(5);
    assert_eq!(woken(&count), 1);
    assert_eq!(account.poll_clear_funds(&waker), Poll::Ready(()));
}

#[test]
fn wakes_all_who_wait() {
    let (_, _, account) = world(0);
    account.charge(1);
    let sleepers = [counter(), counter(), counter()];
    for (_, waker) in &sleepers {
        assert_eq!(account.poll_clear_funds(waker), Poll::Pending);
    }
    account.repay(1);
    assert!(sleepers.iter().all(|(count, _)| woken(count) == 1));
}

#[test]
fn hysteresis_spares_wake_ups() {
    let (_, _, account) = world(Limits::new(10).with_resume_below(4));
    let (count, waker) = counter();
    account.charge(11);
    assert_eq!(account.poll_clear_funds(&waker), Poll::Pending);
    account.repay(5);
    // Below the limit, but stopped until the resume level, also if polled by chance.
    assert!(account.is_clear());
    assert_eq!(account.poll_clear_funds(&waker), Poll::Pending);
    assert_eq!(woken(&count), 0);
    account.repay(2);
    assert_eq!(woken(&count), 1);
    // Running again, it may go up to the limit.
    account.charge(6);
    assert_eq!(account.poll_clear_funds(&waker), Poll::Ready(()));
    account.repay(10);
}

#[test]
fn resume_level_is_at_most_the_limit() {
    let (_, _, account) = world(Limits::new(10).with_resume_below(50));
    assert_eq!(account.resume_level(), 10);
    account.set_limit(100);
    assert_eq!(account.resume_level(), 50);
    account.set_resume_below(None);
    assert_eq!(account.resume_level(), 100);
}

#[test]
fn raised_limits_wake() {
    let (_, _, account) = world(Limits::new(5).with_resume_below(2));
    let (count, waker) = counter();
    account.charge(9);
    assert_eq!(account.poll_clear_funds(&waker), Poll::Pending);
    account.set_limit(9);
    assert_eq!(woken(&count), 0);
    account.set_resume_below(None);
    assert_eq!(woken(&count), 1);
    account.repay(9);
}

#[test]
fn retired_debt_is_the_principals() {
    let (ledger, principal, account) = world(5);
    let (count, waker) = counter();
    account.charge(12);
    account.retire();
    account.retire();
    assert_eq!(principal.orphaned(), 12);
    assert!(!principal.is_clear());
    assert_eq!(principal.poll_clear_funds(&waker), Poll::Pending);
    // Its events go on causing others.
    account.charge(3);
    assert_eq!(principal.orphaned(), 15);
    account.repay(4);
    assert_eq!(woken(&count), 0);
    account.repay(1);
    assert_eq!((principal.orphaned(), woken(&count)), (10, 1));
    assert_eq!(ledger.audit(10), Ok(()));
    account.repay(10);
    assert_eq!((principal.orphaned(), account.debt()), (0, 0));
    assert!(ledger.snapshot().is_empty());
}

#[test]
fn retiring_wakes_the_source() {
    let (_, _, account) = world(0);
    let (count, waker) = counter();
    account.charge(1);
    assert_eq!(account.poll_clear_funds(&waker), Poll::Pending);
    account.retire();
    assert_eq!(woken(&count), 1);
    assert_eq!(account.poll_clear_funds(&waker), Poll::Ready(()));
    assert!(account.is_clear());
    account.repay(1);
}

#[test]
fn innocent_connections_are_not_gated() {
    let (ledger, principal, guilty) = world(5);
    let innocent = ledger.open_account(&principal, "b", 5);
    guilty.charge(1000);
    guilty.retire();
    assert!(!principal.is_clear());
    assert!(innocent.is_clear());
    guilty.repay(1000);
}

#[test]
fn ledger_recalls_what_is_charged_again() {
    let (ledger, principal, account) = world(5);
    account.retire();
    assert!(ledger.account(account.id()).is_none());
    account.charge(2);
    assert!(ledger.account(account.id()).is_some());
    assert_eq!(ledger.audit(2), Ok(()));
    account.repay(2);
    assert!(ledger.account(account.id()).is_none());
    assert_eq!(principal.orphaned(), 0);
}

#[test]
fn ledger_does_not_grow_with_churn() {
    let ledger = Ledger::default();
    for n in 0..1000 {
        let principal = ledger.principal(&format!("address:{n}"));
        let account = ledger.open_account(&principal, "connection", 5);
        let loan = account.loan((), 3);
        account.retire();
        drop((principal, account));
        assert_eq!((ledger.accounts().len(), ledger.principals().len()), (1, 1));
        drop(loan);
        assert_eq!((ledger.accounts().len(), ledger.principals().len()), (0, 0));
    }
}

#[test]
fn principal_is_one_per_name() {
    let (ledger, principal, account) = world(5);
    assert!(Arc::ptr_eq(&principal, &ledger.principal("p")));
    let same = ledger.principal_with("p", PrincipalLimits::unlimited());
    assert_eq!(same.limit(), 10);
    let other = ledger.principal_with("q", PrincipalLimits::unlimited());
    assert_eq!(other.limit(), u64::MAX);
    account.charge(7);
    account.retire();
    let row = &ledger.principals_snapshot()[0];
    assert_eq!((&*row.name, row.orphaned, row.limit, row.connections), ("p", 7, 10, 0));
    let row = &ledger.snapshot()[0];
    assert_eq!((&*row.name, &*row.principal, row.debt, row.is_orphaned), ("a", "p", 7, true));
    assert_eq!(ledger.total_debt(), 7);
    account.repay(7);
}

#[test]
fn connections_are_bounded() {
    let (_, principal, _account) = world(5);
    let first = principal.try_open().unwrap();
    let _second = principal.try_open().unwrap();
    let refused = principal.try_open().unwrap_err();
    assert_eq!(refused, ConnectionsExhausted { open: 2, connections_max: 2 });
    drop(first);
    let third = principal.try_open().unwrap();
    principal.set_connections_max(0);
    assert_eq!(principal.connections(), 2);
    drop(third);
    assert!(principal.try_open().is_err());
}

#[test]
fn loans_split_merge_and_move() {
    let (ledger, principal, account) = world(5);
    let mut item = account.loan("whole", 10);
    let part = item.split("part", 4);
    assert_eq!((item.cost(), part.cost(), account.debt()), (6, 4, 10));
    let (_, mut loan) = part.into_parts();
    let (inner, moved) = item.transfer(7);
    assert_eq!((inner, *moved), ("whole", 7));
    loan.absorb(moved.into_parts().1).unwrap();
    assert_eq!((loan.cost(), account.debt()), (10, 10));
    let other = ledger.open_account(&principal, "b", 5);
    assert!(loan.absorb(Loan::charge(&other, 1)).is_err());
    assert_eq!(other.debt(), 0);
    loan.repay();
    assert_eq!(account.loan("x", 3).map(str::len).into_inner_repaid(), 1);
    assert_eq!(account.debt(), 0);
}

#[test]
fn loans_are_repaid_while_unwinding() {
    let (ledger, _, account) = world(5);
    let turn = || {
        let event = account.loan("event", 4);
        let _reply = event.lend("reply", 6);
        let _mapped = event.map(|_| -> u32 { panic!("a turn fails") });
    };
    assert!(catch_unwind(AssertUnwindSafe(turn)).is_err());
    assert_eq!(ledger.audit(0), Ok(()));
}

#[test]
fn charges_beyond_the_bounds_change_nothing() {
    let (_, _, account) = world(5);
    assert!(catch_unwind(AssertUnwindSafe(|| account.charge(COST_MAX + 1))).is_err());
    assert_eq!(account.debt(), 0);
    let charges = DEBT_MAX / COST_MAX + 1;
    (0..charges).for_each(|_| account.charge(COST_MAX));
    let debt = account.debt();
    assert!(debt > DEBT_MAX);
    assert!(catch_unwind(AssertUnwindSafe(|| account.charge(1))).is_err());
    assert_eq!(account.debt(), debt);
    assert!(!account.is_clear() && !account.is_waiting() && !account.is_retired());
    account.repay(debt);
    assert_eq!(account.debt(), 0);
}

/// In a release build a debt may go below zero; neither flag may notice.
#[test]
fn repaying_too_much_is_found_by_the_audit() {
    let (ledger, _, account) = world(0);
    let (count, waker) = counter();
    account.charge(1);
    assert_eq!(account.poll_clear_funds(&waker), Poll::Pending);
    let outcome = catch_unwind(AssertUnwindSafe(|| account.repay(3)));
    assert_eq!(outcome.is_err(), cfg!(debug_assertions));
    assert_eq!(account.debt(), 0);
    assert!(!account.is_retired());
    let found = ledger.audit(0);
    assert!(matches!(found, Err(AuditError::OverRepaid { excess: 2, .. })), "{found:?}");
    assert!(found.unwrap_err().to_string().contains("2 more"));
    if !cfg!(debug_assertions) {
        assert_eq!(woken(&count), 1);
    }
    // The charge that had been overtaken.
    account.charge(2);
    assert_eq!(ledger.audit(0), Ok(()));
}

#[test]
fn audit_finds_a_lost_loan() {
    let (ledger, _, account) = world(5);
    std::mem::forget(account.loan((), 3));
    assert_eq!(ledger.audit(0), Err(AuditError::Unbalanced { outstanding: 0, debt: 3 }));
}

#[test]
fn runs_merge_and_settle_in_order() {
    let (ledger, principal, a) = world(5);
    let b = ledger.open_account(&principal, "b", 5);
    let mut runs = DebtRuns::new();
    for (account, bytes, cost) in [(&a, 10, 7), (&a, 20, 3), (&b, 3, 10), (&a, 5, 5)] {
        account.charge(cost);
        runs.push(account, bytes, cost);
    }
    let view: Vec<_> = runs.iter().map(|run| (run.account.name(), run.bytes, run.cost)).collect();
    assert_eq!(view, [("a", 30, 10), ("b", 3, 10), ("a", 5, 5)]);
    assert_eq!((runs.total_bytes(), runs.total_cost(), runs.len()), (38, 25, 3));

    // A third of the first run, rounded down; then all of it and a third of the second.
    assert_eq!(runs.settle(10), 3);
    assert_eq!(a.debt(), 12);
    assert_eq!(runs.settle(21), 7 + 3);
    assert_eq!((a.debt(), b.debt()), (5, 7));
    assert_eq!(runs.settle(0), 0);
    assert_eq!(runs.settle_all(), 12);
    assert!(runs.is_empty());
    assert_eq!(ledger.audit(0), Ok(()));
}

#[test]
fn runs_of_no_bytes_are_settled_with_those_before() {
    let (ledger, principal, a) = world(5);
    let b = ledger.open_account(&principal, "b", 5);
    let mut runs = DebtRuns::new();
    runs.push_loan(Loan::charge(&a, 4), 8);
    runs.push_loan(Loan::charge(&b, 2), 0);
    assert_eq!(runs.settle(7), 3);
    assert_eq!(runs.settle(1), 3);
    assert!(runs.is_empty());
    // And alone, at once.
    runs.push_loan(Loan::charge(&b, 2), 0);
    assert_eq!(runs.settle(0), 2);
    assert_eq!(ledger.audit(0), Ok(()));
}

#[test]
fn runs_repay_more_accounts_than_they_collect() {
    let (ledger, principal, _) = world(5);
    let accounts: Vec<_> = (0..40).map(|n| ledger.open_account(&principal, &n.to_string(), 0)).collect();
    let (mut runs, mut later) = (DebtRuns::new(), DebtRuns::new());
    for account in accounts.iter().chain(&accounts).chain(accounts.iter().rev()) {
        runs.push_loan(Loan::charge(account, 3), 1);
        later.push_loan(Loan::charge(account, 2), 1);
    }
    assert_eq!(runs.settle(100), 300);
    let mut repayments = Repayments::new();
    assert_eq!(later.settle_into(120, &mut repayments), 240);
    assert_eq!(repayments.total_cost(), 240);
    assert_eq!(ledger.audit(60 + 240), Ok(()));
    repayments.repay_all();
    drop(runs);
    assert_eq!(ledger.audit(0), Ok(()));
    assert!(accounts.iter().all(|account| account.debt() == 0));
}

#[test]
fn runs_survive_extreme_costs() {
    let (ledger, _, a) = world(5);
    let mut runs = DebtRuns::new();
    runs.push_loan(Loan::charge(&a, COST_MAX), 1 << 62);
    runs.settle((1 << 62) - 1);
    assert_eq!(a.debt(), 1);
    drop(runs);
    assert_eq!(ledger.audit(0), Ok(()));
}

/// What one more task that waits costs does not grow with how many wait already; each is woken once.
#[test]
fn many_may_wait() {
    const CHUNK: usize = 500;
    const CHUNKS: usize = 40;
    let (_ledger, _principal, account) = world(Limits::new(10));
    account.charge(11);
    let tasks: Vec<_> = (0..CHUNK * CHUNKS).map(|_| counter()).collect();
    let times: Vec<_> = tasks
        .chunks(CHUNK)
        .map(|some| {
            let start = std::time::Instant::now();
            for (_, waker) in some {
                assert_eq!(account.poll_clear_funds(waker), Poll::Pending);
                assert_eq!(account.poll_clear_funds(waker), Poll::Pending, "asks twice");
            }
            start.elapsed()
        })
        .collect();
    // The quickest of several, so that a pause of the machine's does not count.
    let (first, last) = (times[1..9].iter().min().unwrap(), times[CHUNKS - 8..].iter().min().unwrap());
    println!("{CHUNK} more: {first:?} at first, {last:?} among {}", CHUNK * CHUNKS);
    assert!(*last < *first * 6, "{CHUNK} more took {first:?} at first, then {last:?}");
    account.repay(11);
    assert!(tasks.iter().all(|(count, _)| woken(count) == 1));
    // The next wait begins from nothing.
    account.charge(11);
    for (count, waker) in &tasks[..100] {
        assert_eq!(account.poll_clear_funds(waker), Poll::Pending);
        assert_eq!(woken(count), 1);
    }
    account.repay(11);
    assert!(tasks[..100].iter().all(|(count, _)| woken(count) == 2));
    assert!(tasks[100..].iter().all(|(count, _)| woken(count) == 1));
}

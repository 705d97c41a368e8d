//! Models of accounts that are retired: the principal's orphaned debt, who waits for it, and the ledger.

use std::sync::Arc;

use loom::thread;

use super::{Fault, Faults, Sleeper, bounded, exhaustive, join, model};
use crate::account::Account;
use crate::ledger::Ledger;
use crate::policy::{Limits, PrincipalLimits};
use crate::principal::Principal;

/// A ledger with one account.
struct World {
    ledger: Ledger,
    principal: Arc<Principal>,
    account: Arc<Account>,
}

impl World {
    /// Whose account has this debt and both limits are zero.
    fn new(debt: u64, faults: Faults) -> World {
        let limits = PrincipalLimits { orphaned: Limits::new(0), connections_max: 1 };
        let ledger = Ledger::with_faults(limits, faults);
        let principal = ledger.principal("principal");
        let account = ledger.open_account(&principal, "account", 0);
        account.charge(debt);
        World { ledger, principal, account }
    }

    fn on_thread(&self, work: impl FnOnce(&Account) + 'static) -> thread::JoinHandle<()> {
        let account = Arc::clone(&self.account);
        thread::spawn(move || work(&account))
    }

    /// Everything was repaid and the account retired: nothing may be left of it.
    fn assert_at_rest(&self) {
        assert_eq!(self.account.word().debt_signed(), 0);
        assert_eq!(self.principal.gate().word().debt_signed(), 0);
        assert!(!self.principal.is_waiting());
        assert_eq!(self.ledger.audit(0), Ok(()));
        assert!(self.ledger.accounts().is_empty());
    }
}

/// An account is retired while its debts are repaid.
fn retire_while_two_repay(faults: Faults) {
    let world = World::new(3, faults);
    let repaying = [world.on_thread(|account| account.repay(1)), world.on_thread(|account| account.repay(2))];
    world.account.retire();
    join(repaying);
    world.assert_at_rest();
}

model! {
    retire_repay, exhaustive, retire_while_two_repay,
    retire_repay_fails_by_load_and_store: RetireByLoadStore => "repaying 1 of a debt of 0",
    retire_repay_fails_flag_first: RetireFlagFirst => "repaying 1 of a debt of 0"
}

/// An account is retired while its events still cause others.
fn retire_while_charged(faults: Faults) {
    let world = World::new(1, faults);
    let turning = world.on_thread(|account| {
        account.charge(2);
        account.repay(1);
    });
    world.account.retire();
    turning.join().unwrap();
    assert_eq!(world.account.debt(), 2);
    assert_eq!(world.principal.orphaned(), 2);
    assert_eq!(world.ledger.audit(2), Ok(()));
    world.account.repay(2);
    world.assert_at_rest();
}

model! {
    retire_charge, exhaustive, retire_while_charged,
    retire_charge_fails_by_load_and_store: RetireByLoadStore => "left == right",
    retire_charge_fails_flag_first: RetireFlagFirst => "repaying 1 of a debt of 0"
}

/// An account is retired twice at once, while its debt is repaid.
fn retire_twice(faults: Faults) {
    let world = World::new(1, faults);
    let threads = [world.on_thread(|account| account.repay(1)), world.on_thread(Account::retire)];
    world.account.retire();
    join(threads);
    world.assert_at_rest();
}

model! {
    retire_retire, exhaustive, retire_twice,
    retire_retire_fails_by_load_and_store: RetireByLoadStore => "left == right",
    retire_retire_fails_flag_first: RetireFlagFirst => "repaying 1 of a debt of 0"
}

/// An account is retired while its source parks.
fn retire_while_parking(faults: Faults) {
    let world = World::new(1, faults);
    let retiring = world.on_thread(Account::retire);
    let sleeper = Sleeper::new();
    let polled = world.account.poll_clear_funds(&sleeper.waker);
    retiring.join().unwrap();
    sleeper.assert_not_lost(polled);
    assert_eq!(world.principal.orphaned(), 1);
    world.account.repay(1);
    world.assert_at_rest();
}

model! {
    retire_park, exhaustive, retire_while_parking,
    retire_park_fails_without_recheck: ParkWithoutRecheck => "a wake-up was lost",
    retire_park_fails_without_wake: RetireWithoutWake => "a wake-up was lost"
}

/// A new connection waits for the orphaned debt of an old one.
fn principal_waits(faults: Faults) {
    let world = World::new(1, faults);
    world.account.retire();
    let repaying = world.on_thread(|account| account.repay(1));
    let sleeper = Sleeper::new();
    let polled = world.principal.poll_clear_funds(&sleeper.waker);
    repaying.join().unwrap();
    sleeper.assert_not_lost(polled);
    world.assert_at_rest();
}

model! {
    principal_park_repay, exhaustive, principal_waits,
    principal_park_repay_fails_without_recheck: ParkWithoutRecheck => "a wake-up was lost",
    principal_park_repay_fails_by_load_and_store: ParkByLoadStore => "a wake-up was lost"
}

/// A new connection waits while the old one is being retired and what it owed repaid: debt
/// that passes through the principal in the middle of the race.
fn principal_waits_while_retiring(faults: Faults) {
    let world = World::new(1, faults);
    let threads = [world.on_thread(|account| account.repay(1)), world.on_thread(Account::retire)];
    let sleeper = Sleeper::new();
    let polled = world.principal.poll_clear_funds(&sleeper.waker);
    join(threads);
    sleeper.assert_not_lost(polled);
    world.assert_at_rest();
}

model! {
    principal_park_retire, exhaustive, principal_waits_while_retiring,
    principal_park_retire_fails_without_recheck: ParkWithoutRecheck => "a wake-up was lost"
}

/// The same with one debt more, and so a thread more.
fn principal_waits_while_retiring_and_two_repay(faults: Faults) {
    let world = World::new(3, faults);
    let threads = [
        world.on_thread(|account| account.repay(1)),
        world.on_thread(|account| account.repay(2)),
        world.on_thread(Account::retire),
    ];
    let sleeper = Sleeper::new();
    let polled = world.principal.poll_clear_funds(&sleeper.waker);
    join(threads);
    sleeper.assert_not_lost(polled);
    world.assert_at_rest();
}

model! {
    principal_park_retire_repay, bounded, principal_waits_while_retiring_and_two_repay,
    principal_park_retire_repay_fails_without_recheck: ParkWithoutRecheck => "a wake-up was lost"
}

/// A retired account's debt reaches zero while something is charged to it: the ledger must list it in the
/// end.
fn ledger_forgets_and_recalls(faults: Faults) {
    let world = World::new(1, faults);
    world.account.retire();
    let repaying = world.on_thread(|account| account.repay(1));
    world.account.charge(1);
    repaying.join().unwrap();
    assert_eq!(world.ledger.audit(1), Ok(()));
    assert_eq!(world.ledger.accounts().len(), 1);
    world.account.repay(1);
    world.assert_at_rest();
}

model! {
    ledger_review, exhaustive, ledger_forgets_and_recalls,
    ledger_review_fails_without_recheck: ForgetWithoutRecheck => "Unbalanced"
}

/// Two connections are opened at once where one may be.
fn open_twice(_: Faults) {
    let world = World::new(0, Faults::default());
    let opening = {
        let principal = Arc::clone(&world.principal);
        thread::spawn(move || principal.try_open().is_ok_and(|open| open.principal().connections() == 1))
    };
    let opened = world.principal.try_open();
    opening.join().unwrap();
    drop(opened);
    assert_eq!(world.principal.connections(), 0);
    assert!(world.principal.try_open().is_ok());
    world.account.retire();
}

model! { connections_open, exhaustive, open_twice }

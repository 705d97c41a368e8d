//! Models of one gate: charging, repaying, parking, and changes of the limits.

use std::sync::Arc;
use std::task::Poll;

use loom::cell::UnsafeCell;
use loom::thread;

use super::{Fault, Faults, Sleeper, exhaustive, join, model};
use crate::gate::Gate;
use crate::policy::Limits;

fn gate(limits: Limits, debt: u64, faults: Faults) -> Arc<Gate> {
    let gate = Gate::new(limits, faults);
    gate.charge(debt);
    Arc::new(gate)
}

/// Does `work` on a thread of its own.
fn on_thread(gate: &Arc<Gate>, work: impl FnOnce(&Gate) + 'static) -> thread::JoinHandle<()> {
    let gate = Arc::clone(gate);
    thread::spawn(move || work(&gate))
}

fn assert_at_rest(gate: &Gate) {
    assert_eq!(gate.word().debt_signed(), 0);
    assert!(!gate.word().is_waiting());
}

/// A source parks while two others repay what holds it.
fn park_while_two_repay(faults: Faults) {
    let gate = gate(Limits::new(0), 2, faults);
    let repaying = [on_thread(&gate, |gate| _ = gate.repay(1)), on_thread(&gate, |gate| _ = gate.repay(1))];
    let sleeper = Sleeper::new();
    let polled = gate.poll_clear_funds(&sleeper.waker);
    join(repaying);
    sleeper.assert_not_lost(polled);
    assert_at_rest(&gate);
}

model! {
    park_repay, exhaustive, park_while_two_repay,
    park_repay_fails_without_recheck: ParkWithoutRecheck => "a wake-up was lost",
    park_repay_fails_by_load_and_store: ParkByLoadStore => "a wake-up was lost",
    park_repay_fails_looking_first: RepayLooksFirst => "a wake-up was lost"
}

/// The same, with a charge that keeps the debt above the limit for a while.
fn park_while_others_charge_and_repay(faults: Faults) {
    let gate = gate(Limits::new(0), 1, faults);
    let repaying = on_thread(&gate, |gate| _ = gate.repay(1));
    let turning = on_thread(&gate, |gate| {
        gate.charge(1);
        gate.repay(1);
    });
    let sleeper = Sleeper::new();
    let polled = gate.poll_clear_funds(&sleeper.waker);
    repaying.join().unwrap();
    turning.join().unwrap();
    sleeper.assert_not_lost(polled);
    assert_at_rest(&gate);
}

model! {
    park_charge_repay, exhaustive, park_while_others_charge_and_repay,
    park_charge_repay_fails_without_recheck: ParkWithoutRecheck => "a wake-up was lost",
    park_charge_repay_fails_by_load_and_store: ParkByLoadStore => "a wake-up was lost"
}

/// Two tasks wait for the same gate.
fn two_park_while_one_repays(faults: Faults) {
    let gate = gate(Limits::new(0), 1, faults);
    let repaying = on_thread(&gate, |gate| _ = gate.repay(1));
    let parking = {
        let gate = Arc::clone(&gate);
        thread::spawn(move || {
            let sleeper = Sleeper::new();
            let polled = gate.poll_clear_funds(&sleeper.waker);
            (sleeper, polled)
        })
    };
    let sleeper = Sleeper::new();
    let polled = gate.poll_clear_funds(&sleeper.waker);
    repaying.join().unwrap();
    let (other, other_polled) = parking.join().unwrap();
    sleeper.assert_not_lost(polled);
    other.assert_not_lost(other_polled);
    assert_at_rest(&gate);
}

model! {
    park_twice_repay, exhaustive, two_park_while_one_repays,
    park_twice_repay_fails_without_recheck: ParkWithoutRecheck => "a wake-up was lost"
}

/// With hysteresis: it has to be woken when the debt passes the resume level, by whichever repayment.
fn park_with_resume_below(faults: Faults) {
    let gate = gate(Limits::new(2).with_resume_below(0), 3, faults);
    let repaying = [on_thread(&gate, |gate| _ = gate.repay(1)), on_thread(&gate, |gate| _ = gate.repay(2))];
    let sleeper = Sleeper::new();
    let first = gate.poll_clear_funds(&sleeper.waker);
    // A task may be polled by chance.
    let second = gate.poll_clear_funds(&sleeper.waker);
    join(repaying);
    sleeper.assert_not_lost(first);
    sleeper.assert_not_lost(second);
    assert_at_rest(&gate);
}

model! {
    park_hysteresis, exhaustive, park_with_resume_below,
    park_hysteresis_fails_without_recheck: ParkWithoutRecheck => "is_waiting"
}

/// Who is told to go on sees what was done before repaying.
#[expect(
    clippy::arc_with_non_send_sync,
    reason = "loom's cell is shared between loom's threads, and checked"
)]
fn credit_publishes_work(faults: Faults) {
    let gate = gate(Limits::new(0), 1, faults);
    let work = Arc::new(UnsafeCell::new(0));
    let repaying = {
        let (gate, work) = (Arc::clone(&gate), Arc::clone(&work));
        thread::spawn(move || {
            // loom checks that no access races with this one.
            work.with_mut(|work| _ = work);
            gate.repay(1);
        })
    };
    let sleeper = Sleeper::new();
    if gate.poll_clear_funds(&sleeper.waker).is_ready() {
        work.with(|work| _ = work);
    }
    repaying.join().unwrap();
}

model! {
    repay_publishes, exhaustive, credit_publishes_work,
    repay_publishes_fails_relaxed: RepayRelaxed => "Causality violation",
    repay_publishes_fails_relaxed_look: LookRelaxed => "Causality violation",
    repay_publishes_fails_relaxed_park: ParkRelaxed => "Causality violation"
}

/// A limit is raised while the source parks.
fn park_while_limit_is_raised(faults: Faults) {
    let gate = gate(Limits::new(0), 5, faults);
    let raising = on_thread(&gate, |gate| gate.set_limits(Some(5), None));
    let sleeper = Sleeper::new();
    let polled = gate.poll_clear_funds(&sleeper.waker);
    raising.join().unwrap();
    sleeper.assert_not_lost(polled);
    gate.repay(5);
    assert_at_rest(&gate);
}

model! {
    limit_park, exhaustive, park_while_limit_is_raised,
    limit_park_fails_without_recheck: ParkWithoutRecheck => "a wake-up was lost",
    limit_park_fails_relaxed_park: ParkRelaxed => "a wake-up was lost",
    limit_park_fails_without_release: LimitWithoutRelease => "a wake-up was lost",
    limit_park_fails_by_load: LimitByLoad => "a wake-up was lost"
}

/// A limit is raised while the debt falls; only both together let the source, which is parked, go on.
fn repay_while_limit_is_raised(faults: Faults) {
    let gate = gate(Limits::new(5), 10, faults);
    let sleeper = Sleeper::new();
    assert_eq!(gate.poll_clear_funds(&sleeper.waker), Poll::Pending);
    let raising = on_thread(&gate, |gate| gate.set_limits(Some(7), None));
    let repaying = on_thread(&gate, |gate| _ = gate.repay(4));
    raising.join().unwrap();
    repaying.join().unwrap();
    sleeper.assert_not_lost(Poll::Pending);
    gate.repay(6);
    assert_at_rest(&gate);
}

model! {
    limit_repay, exhaustive, repay_while_limit_is_raised,
    limit_repay_fails_without_acquire: RepayWithoutAcquire => "a wake-up was lost",
    limit_repay_fails_without_release: LimitWithoutRelease => "a wake-up was lost",
    limit_repay_fails_by_load: LimitByLoad => "a wake-up was lost"
}

/// Both limits are raised, by two threads; only both together let the source go on.
fn both_limits_are_raised(faults: Faults) {
    let gate = gate(Limits::new(5).with_resume_below(4), 10, faults);
    let sleeper = Sleeper::new();
    assert_eq!(gate.poll_clear_funds(&sleeper.waker), Poll::Pending);
    let limit = on_thread(&gate, |gate| gate.set_limits(Some(20), None));
    let resume = on_thread(&gate, |gate| gate.set_limits(None, Some(Some(20))));
    limit.join().unwrap();
    resume.join().unwrap();
    sleeper.assert_not_lost(Poll::Pending);
    gate.repay(10);
    assert_at_rest(&gate);
}

model! {
    limit_limit, exhaustive, both_limits_are_raised,
    limit_limit_fails_without_acquire: LimitWithoutAcquire => "a wake-up was lost",
    limit_limit_fails_without_release: LimitWithoutRelease => "a wake-up was lost",
    limit_limit_fails_by_load: LimitByLoad => "a wake-up was lost"
}

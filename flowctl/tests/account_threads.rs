//! Accounts on real threads: no wake-up is lost, and nothing of a debt.
//!
//! The models look at every interleaving of a few steps; this looks at a great many steps in whatever
//! interleaving the machine finds. Nothing sleeps: threads wait for each other through what is tested, and a
//! watchdog turns a lost wake-up into a failure. Each test prints its seed;
//! `FLOWCTL_SEED=n` repeats its choices, though not its interleaving.

#![cfg(not(flowctl_loom))]

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use staunch_flowctl::{Account, DebtRuns, Ledger, Limits, Loan, PrincipalLimits, Repayments};

/// Far more than any of the tests takes, on any machine.
const WATCHDOG: Duration = Duration::from_secs(120);

/// Runs `test`, and fails if it does not end.
fn watched(test: impl FnOnce() + Send + 'static) {
    let (done, ended) = channel();
    let thread = thread::spawn(move || {
        test();
        done.send(()).ok();
    });
    match ended.recv_timeout(WATCHDOG) {
        Err(RecvTimeoutError::Timeout) => panic!("it hangs: a wake-up was lost"),
        Ok(()) | Err(RecvTimeoutError::Disconnected) => thread.join().expect("the test failed"),
    }
}

/// Numbers to choose by: xorshift64*.
struct Choices(u64);

impl Choices {
    /// `lane` tells the threads of one test apart.
    fn new(seed: u64, lane: u64) -> Self {
        Choices((seed ^ (lane + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }
}

/// The seed asked for, or one of this run's own.
fn seed(test: &str) -> u64 {
    let seed = std::env::var("FLOWCTL_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        u64::from(now.expect("the clock is past 1970").subsec_nanos())
    });
    println!("{test}: FLOWCTL_SEED={seed}");
    seed
}

/// Wakes a thread that is in [`block_on`].
struct Unpark {
    thread: thread::Thread,
    is_woken: AtomicBool,
}

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        // Release: pairs with the Acquire in block_on(): who was woken sees why.
        self.is_woken.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

/// Polls only when woken, so that a lost wake-up hangs. Returns how often it was.
fn block_on(future: impl Future<Output = ()>) -> u64 {
    let unpark = Arc::new(Unpark { thread: thread::current(), is_woken: AtomicBool::new(false) });
    let waker = Waker::from(Arc::clone(&unpark));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    let mut wakes = 0;
    while future.as_mut().poll(&mut context).is_pending() {
        // Acquire: pairs with the Release in wake().
        while !unpark.is_woken.swap(false, Ordering::Acquire) {
            thread::park();
        }
        wakes += 1;
    }
    wakes
}

/// A producer that is let on by nothing but wake-ups, and consumers that repay whatever it lends.
fn producer_goes_on(limits: Limits, consumers: u64, turns: u64) {
    let ledger = Ledger::default();
    let account = ledger.open_account(&ledger.principal("p"), "producer", limits);
    thread::scope(|scope| {
        let queues: Vec<SyncSender<Loan>> = (0..consumers)
            .map(|_| {
                let (queue, loans) = sync_channel(1024);
                scope.spawn(move || loans.into_iter().for_each(Loan::repay));
                queue
            })
            .collect();
        for turn in 0..turns {
            block_on(account.ensure_clear_funds());
            // Only this thread charges: what it was told is true until it charges again, and its debt
            // exceeds the limit by at most one turn.
            assert!(account.debt() <= limits.limit);
            let queue = &queues[(turn % consumers) as usize];
            queue.send(Loan::charge(&account, 1 + turn % 3)).expect("the consumer is there");
        }
    });
    assert_eq!(ledger.audit(0), Ok(()));
    assert!(!account.is_waiting());
}

#[test]
fn no_wake_up_is_lost() {
    watched(|| producer_goes_on(Limits::new(0), 2, 40_000));
}

#[test]
fn no_wake_up_is_lost_with_hysteresis() {
    watched(|| producer_goes_on(Limits::new(16).with_resume_below(4), 3, 100_000));
}

/// Somebody keeps changing the limits meanwhile; the debt is never at zero while it is parked but for a
/// moment.
#[test]
fn no_wake_up_is_lost_while_limits_change() {
    watched(|| {
        let seed = seed("no_wake_up_is_lost_while_limits_change");
        let ledger = Ledger::default();
        let account = ledger.open_account(&ledger.principal("p"), "producer", 4);
        // What keeps the debt above the low limit: only a change of the limit lets the producer on.
        let standing = account.loan((), 10);
        let is_done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut choices = Choices::new(seed, 0);
                // Relaxed: only says when to stop.
                while !is_done.load(Ordering::Relaxed) {
                    account.set_limit(4);
                    account.set_resume_below(Some(choices.below(8)));
                    account.set_limit(20);
                    account.set_resume_below(None);
                }
            });
            for _ in 0..30_000 {
                block_on(account.ensure_clear_funds());
                account.charge(1);
                account.repay(1);
            }
            // Relaxed: as above.
            is_done.store(true, Ordering::Relaxed);
        });
        drop(standing);
        assert_eq!(ledger.audit(0), Ok(()));
    });
}

/// Connections come and go, leaving debt; the next one waits until the principal has little enough of it.
#[test]
fn reconnecting_waits_for_orphaned_debt() {
    watched(|| {
        let limits = PrincipalLimits { orphaned: Limits::new(3), connections_max: 1 };
        let ledger = Ledger::new(limits);
        let principal = ledger.principal("p");
        thread::scope(|scope| {
            let (queue, loans) = sync_channel::<Loan>(64);
            scope.spawn(move || loans.into_iter().for_each(Loan::repay));
            for _ in 0..20_000 {
                let connection = principal.try_open().expect("the last one was closed");
                block_on(principal.ensure_clear_funds());
                let account = ledger.open_account(&principal, "connection", 100);
                for cost in 1..4 {
                    queue.send(Loan::charge(&account, cost)).expect("the consumer is there");
                }
                account.retire();
                drop(connection);
                // At most one connection's debt above the limit.
                assert!(principal.orphaned() <= 3 + 6);
            }
        });
        assert_eq!((principal.orphaned(), principal.connections()), (0, 0));
        assert_eq!(ledger.audit(0), Ok(()));
        assert!(ledger.accounts().is_empty());
    });
}

/// What the threads of [`stress`] share.
struct Stage {
    ledger: Ledger,
    accounts: Vec<Mutex<Arc<Account>>>,
    outboxes: Vec<Mutex<DebtRuns>>,
    opened: AtomicU64,
}

const ACCOUNTS: u64 = 6;
const OUTBOXES: u64 = 3;

impl Stage {
    fn new() -> Self {
        let ledger = Ledger::new(PrincipalLimits::unlimited());
        let opened = AtomicU64::new(0);
        let mut stage = Stage { ledger, accounts: Vec::new(), outboxes: Vec::new(), opened };
        stage.accounts = (0..ACCOUNTS).map(|_| Mutex::new(stage.open())).collect();
        stage.outboxes = (0..OUTBOXES).map(|_| Mutex::new(DebtRuns::new())).collect();
        stage
    }

    fn open(&self) -> Arc<Account> {
        // Relaxed: a number to choose a principal by.
        let number = self.opened.fetch_add(1, Ordering::Relaxed);
        let principal = self.ledger.principal(if number.is_multiple_of(2) { "even" } else { "odd" });
        self.ledger.open_account(&principal, &number.to_string(), 50)
    }

    /// One thread's part: turns that lend, send, drop or panic; flushes; connections that end.
    fn act(&self, mut choices: Choices, steps: u64) {
        let mut held: Vec<Loan> = Vec::new();
        let mut repayments = Repayments::new();
        for _ in 0..steps {
            let slot = &self.accounts[choices.below(ACCOUNTS) as usize];
            let outbox = &self.outboxes[choices.below(OUTBOXES) as usize];
            match choices.below(16) {
                0 => {
                    let next = self.open();
                    std::mem::replace(&mut *slot.lock().unwrap(), next).retire();
                }
                1..=6 => {
                    let account = Arc::clone(&slot.lock().unwrap());
                    let (cost, bytes) = (1 + choices.below(9), choices.below(100));
                    outbox.lock().unwrap().push_loan(Loan::charge(&account, cost), bytes);
                }
                7..=8 => {
                    let account = Arc::clone(&slot.lock().unwrap());
                    held.push(Loan::charge(&account, 1 + choices.below(9)));
                    // Whether it has to wait depends on the others.
                    let _ = account.poll_clear_funds(Waker::noop());
                }
                9 => held.truncate(choices.below(4) as usize),
                10 => {
                    let account = Arc::clone(&slot.lock().unwrap());
                    let turn = move || {
                        let _loan = Loan::charge(&account, 7);
                        std::panic::resume_unwind(Box::new("a turn fails"));
                    };
                    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(turn)).is_err());
                }
                11..=13 => {
                    let mut runs = outbox.lock().unwrap();
                    let bytes = runs.total_bytes() * choices.below(101) / 100;
                    runs.settle(bytes);
                }
                14 => {
                    let mut runs = outbox.lock().unwrap();
                    let bytes = runs.total_bytes() * choices.below(101) / 100;
                    runs.settle_into(bytes, &mut repayments);
                    drop(runs);
                    repayments.repay_all();
                }
                _ => {
                    // A look from outside, in the middle of everything: no row is torn.
                    assert!(self.ledger.snapshot().iter().all(|row| row.over_repaid == 0));
                }
            }
        }
    }

    /// Between rounds nobody acts: what is in the outboxes is all that is owed.
    fn audit(&self) {
        let outstanding = self.outboxes.iter().map(|runs| runs.lock().unwrap().total_cost()).sum();
        assert_eq!(self.ledger.audit(outstanding), Ok(()));
    }
}

#[test]
fn stress() {
    watched(|| {
        let seed = seed("stress");
        let stage = Stage::new();
        for round in 0..20 {
            thread::scope(|scope| {
                for lane in 0..4 {
                    let stage = &stage;
                    scope.spawn(move || stage.act(Choices::new(seed, round * 4 + lane), 4_000));
                }
            });
            stage.audit();
        }
        stage.outboxes.iter().for_each(|runs| _ = runs.lock().unwrap().settle_all());
        assert_eq!(stage.ledger.audit(0), Ok(()));
        stage.accounts.iter().for_each(|account| account.lock().unwrap().retire());
        assert!(stage.ledger.accounts().is_empty());
        // What is left is held by the slots.
        assert!(stage.ledger.principals_snapshot().iter().all(|row| row.orphaned == 0));
    });
}

/// A waker may run its task on the spot, which may look at the account that is waking it.
#[test]
fn waking_may_poll_at_once() {
    struct Inline(Arc<Account>);
    impl Wake for Inline {
        fn wake(self: Arc<Self>) {
            assert_eq!(self.0.poll_clear_funds(Waker::noop()), Poll::Ready(()));
            self.0.charge(1);
            let parked = self.0.poll_clear_funds(Waker::noop());
            assert_eq!(parked, Poll::Pending);
            self.0.repay(1);
        }
    }
    watched(|| {
        let ledger = Ledger::default();
        let account = ledger.open_account(&ledger.principal("p"), "a", 0);
        account.charge(1);
        let waker = Waker::from(Arc::new(Inline(Arc::clone(&account))));
        assert_eq!(account.poll_clear_funds(&waker), Poll::Pending);
        account.repay(1);
        assert_eq!(account.debt(), 0);
        assert!(!account.is_waiting());
    });
}

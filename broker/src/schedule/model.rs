//! Models of [`TaskState`] and [`Idle`], and proof that they would notice: each is run again with one step left out,
//! and must then fail.
//!
//! Run by `broker/ci/loom.sh`. Two threads are explored in full; where the number of interleavings grows beyond use, up
//! to the number of preemptions that the model states. The queues are modelled by what they promise at least: a relaxed
//! counter that says how many units there are. The eventfd is a flag under a lock, as an edge that is told once.

// Std's: dropping loom's is a step of the model, which aborts the process when a deadlock is being reported.
use std::sync::Arc;

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use loom::sync::{Condvar, Mutex};
use loom::thread;

use super::idle::Idle;
use super::state::{Ready, TaskState};
use super::sync::{Mutant, leave_out};

/// Explores a model with a step left out (or none), in full or up to so many preemptions.
fn explore(
    left_out: Option<Mutant>,
    preemptions_max: Option<usize>,
    model: impl Fn() + Send + Sync + 'static,
) {
    leave_out(left_out);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions_max;
    builder.check(model);
}

/// A task that counts, with plain memory, what it was told: two runs at once, or one that does not see what the run
/// before it did, are a data race that loom reports.
struct Counting {
    state: TaskState,
    /// What each notifier did before it notified; plain memory again, one place each.
    posted: [UnsafeCell<()>; 2],
    runs: UnsafeCell<()>,
    seen: AtomicU32,
    /// Who must run it: one place, since it may be in one queue at most.
    is_queued: AtomicBool,
}

impl Counting {
    fn new() -> Counting {
        Counting {
            state: TaskState::new(),
            posted: [UnsafeCell::new(()), UnsafeCell::new(())],
            runs: UnsafeCell::new(()),
            seen: AtomicU32::new(0),
            is_queued: AtomicBool::new(false),
        }
    }

    /// Posts as notifier `n`, and enqueues and runs the task if that falls to it.
    fn post(&self, n: usize) {
        self.posted[n].with_mut(|_| ());
        if self.state.notify(bit(n)) {
            self.enqueue();
            self.run_queued();
        }
    }

    fn enqueue(&self) {
        // Relaxed: the queue promises nothing that the state itself must.
        assert!(!self.is_queued.swap(true, Ordering::Relaxed), "in two queues");
    }

    fn run_queued(&self) {
        loop {
            assert!(self.is_queued.swap(false, Ordering::Relaxed));
            let ready = self.state.begin();
            self.runs.with_mut(|_| ());
            for n in (0..2).filter(|&n| ready.contains(bit(n))) {
                self.posted[n].with(|_| ());
                self.seen.fetch_or(1 << n, Ordering::Relaxed);
            }
            if !self.state.finish(None) {
                return;
            }
            self.enqueue();
        }
    }
}

fn bit(n: usize) -> Ready {
    Ready::user(n as u32 + 1)
}

/// Two threads notify; whoever has to runs the task.
fn two_notifiers(left_out: Option<Mutant>) {
    explore(left_out, None, || {
        let task = Arc::new(Counting::new());
        let other = task.clone();
        let thread = thread::spawn(move || other.post(1));
        task.post(0);
        thread.join().unwrap();
        assert_eq!(task.seen.load(Ordering::Relaxed), 0b11, "a notification was lost");
        assert!(task.state.is_idle());
    });
}

#[test]
fn a_task_runs_alone_and_hears_all() {
    two_notifiers(None);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn without_release_in_notify_a_run_misses_what_was_posted() {
    two_notifiers(Some(Mutant::NotifyRelaxed));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn without_acquire_in_begin_a_run_misses_what_was_posted() {
    two_notifiers(Some(Mutant::BeginRelaxed));
}

#[test]
#[should_panic(expected = "must be running")]
fn a_begin_in_two_steps_confuses_the_word() {
    two_notifiers(Some(Mutant::BeginInTwoSteps));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn without_release_in_finish_a_run_misses_the_run_before() {
    two_notifiers(Some(Mutant::FinishRelaxed));
}

#[test]
#[should_panic(expected = "a notification was lost")]
fn a_finish_that_does_not_look_loses_a_notification() {
    two_notifiers(Some(Mutant::FinishBlindly));
}

/// A run that asks for another is given it, and what comes meanwhile is heard too.
#[test]
fn a_task_may_ask_for_another_run() {
    explore(None, None, || {
        let state = Arc::new(TaskState::new());
        assert!(state.notify(bit(0)));
        let other = state.clone();
        let thread = thread::spawn(move || assert!(!other.notify(bit(1)), "it is never idle"));
        let first = state.begin();
        assert!(state.finish(Some(bit(2))));
        thread.join().unwrap();
        let second = state.begin();
        assert!(second.contains(bit(2)));
        assert!((first | second).contains(bit(0) | bit(1)));
        assert!(!first.intersects(second), "told once");
    });
}

/// What the epoll set has to tell.
#[derive(Default)]
struct Pending {
    /// An edge of the eventfd that no worker was told of yet.
    wake: bool,
    /// An edge of some socket, likewise.
    socket: bool,
    /// All are told to stop, for good.
    stop: bool,
}

impl Pending {
    fn take(&mut self) -> bool {
        self.socket = false;
        std::mem::take(&mut self.wake)
    }
}

/// The queues, the eventfd, and the protocol under test.
struct Workplace {
    idle: Idle,
    /// Units in the injector; relaxed, as the least that a queue can promise.
    units: AtomicUsize,
    /// Units that workers have taken.
    taken: AtomicUsize,
    units_total: usize,
    /// Whether workers look for events between units too, as a tick does.
    do_tick: bool,
    pending: Mutex<Pending>,
    epoll: Condvar,
}

impl Workplace {
    fn new(workers: usize, units_total: usize) -> Workplace {
        Workplace {
            idle: Idle::new(workers),
            units: AtomicUsize::new(0),
            taken: AtomicUsize::new(0),
            units_total,
            do_tick: false,
            pending: Mutex::new(Pending::default()),
            epoll: Condvar::new(),
        }
    }

    /// What `Scheduler::enqueue` does.
    fn enqueue(&self) {
        self.units.fetch_add(1, Ordering::Relaxed);
        if self.idle.claim_wake() {
            self.wake();
        }
    }

    fn wake(&self) {
        self.pending.lock().unwrap().wake = true;
        self.epoll.notify_one();
    }

    fn socket_event(&self) {
        self.pending.lock().unwrap().socket = true;
        self.epoll.notify_one();
    }

    /// `epoll_wait`: true when the wake was among what it found.
    fn wait(&self) -> bool {
        let mut pending = self.pending.lock().unwrap();
        while !pending.wake && !pending.socket && !pending.stop {
            pending = self.epoll.wait(pending).unwrap();
        }
        pending.take()
    }

    /// `epoll_wait` that does not wait.
    fn poll(&self) -> bool {
        self.pending.lock().unwrap().take()
    }

    fn has_work(&self) -> bool {
        self.units.load(Ordering::Relaxed) > 0
    }

    fn steal(&self) -> bool {
        let less = |units: usize| units.checked_sub(1);
        self.units.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }

    /// What `Worker::run_loop` does, until all units are taken; `run` stands for each.
    fn work(&self, run: impl Fn()) {
        let mut is_searching = false;
        // Relaxed: a count, read for its own sake.
        while self.taken.load(Ordering::Relaxed) < self.units_total {
            if self.do_tick && self.poll() {
                self.idle.take_claim(is_searching);
                is_searching = true;
            }
            is_searching = is_searching || self.idle.begin_search();
            if is_searching && self.steal() {
                is_searching = false;
                if self.idle.end_search(|| self.has_work()) {
                    self.wake();
                }
                run();
                if self.taken.fetch_add(1, Ordering::Relaxed) + 1 == self.units_total {
                    // The model's shutdown.
                    self.pending.lock().unwrap().stop = true;
                    self.epoll.notify_all();
                }
            } else if !self.idle.fall_asleep(std::mem::take(&mut is_searching), || self.has_work()) {
                is_searching = true;
            } else {
                if self.wait() {
                    self.idle.take_claim(is_searching);
                    is_searching = true;
                }
                self.idle.woken();
            }
        }
    }
}

/// One worker, and one thread that enqueues two units: none may lie while the worker sleeps, which loom would report
/// as a deadlock.
fn one_sleeper(left_out: Option<Mutant>) {
    explore(left_out, None, || {
        let place = Arc::new(Workplace::new(1, 2));
        let other = place.clone();
        let worker = thread::spawn(move || other.work(|| ()));
        place.enqueue();
        place.enqueue();
        worker.join().unwrap();
    });
}

#[test]
fn a_sleeper_is_woken_for_what_comes() {
    one_sleeper(None);
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_its_fence_who_enqueues_may_miss_the_sleeper() {
    one_sleeper(Some(Mutant::WakeNoFence));
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_its_fence_a_sleeper_may_miss_what_came() {
    one_sleeper(Some(Mutant::SleepNoFence));
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_another_look_a_sleeper_may_miss_what_came() {
    one_sleeper(Some(Mutant::SleepNoCheck));
}

/// A socket may wake the worker that was chosen to be woken, which then finds the wake when it sleeps the next time.
#[test]
fn a_sleeper_may_be_woken_by_a_socket_instead() {
    explore(None, Some(4), || {
        let place = Arc::new(Workplace::new(1, 2));
        let other = place.clone();
        let worker = thread::spawn(move || other.work(|| ()));
        place.enqueue();
        place.socket_event();
        place.enqueue();
        worker.join().unwrap();
    });
}

/// A worker that searches anyway may be the one to hear that it was chosen to be woken.
fn a_searcher_that_polls(left_out: Option<Mutant>) {
    explore(left_out, Some(3), || {
        let place = Arc::new(Workplace { do_tick: true, ..Workplace::new(1, 2) });
        let other = place.clone();
        let worker = thread::spawn(move || other.work(|| ()));
        place.enqueue();
        place.enqueue();
        worker.join().unwrap();
    });
}

#[test]
fn a_claim_is_counted_once() {
    a_searcher_that_polls(None);
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_claim_counted_twice_leaves_a_sleeper_asleep() {
    a_searcher_that_polls(Some(Mutant::ClaimCountedTwice));
}

/// Two workers and two units that each need the other to be running: both must be awake at once, although only one is
/// woken for both. The searcher that finds the first has to see to the second.
fn two_sleepers(left_out: Option<Mutant>) {
    explore(left_out, Some(3), || {
        let place = Arc::new(Workplace::new(2, 2));
        let meeting = Arc::new((Mutex::new(0), Condvar::new()));
        let workers = [(); 2].map(|()| {
            let (place, meeting) = (place.clone(), meeting.clone());
            thread::spawn(move || {
                place.work(|| {
                    let mut arrived = meeting.0.lock().unwrap();
                    *arrived += 1;
                    meeting.1.notify_all();
                    while *arrived < 2 {
                        arrived = meeting.1.wait(arrived).unwrap();
                    }
                });
            })
        });
        place.enqueue();
        place.enqueue();
        for worker in workers {
            worker.join().unwrap();
        }
    });
}

#[test]
fn the_last_searcher_wakes_the_next() {
    two_sleepers(None);
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_another_look_the_last_searcher_leaves_work_lying() {
    two_sleepers(Some(Mutant::SearchNoCheck));
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_its_fence_the_last_searcher_may_leave_work_lying() {
    two_sleepers(Some(Mutant::SearchNoFence));
}

//! One worker thread: its queue, its loop, and what it lends to whatever it runs.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam::deque::{self, Injector, Steal};
use staunch_system::poll::Events;

use super::busy_poll::BusyPoll;
use super::metrics::Counters;
use super::pause::Next;
use super::queues::Queues;
use super::task::{Job, Unit};
use super::{Outcome, Ready, Scheduler, Task};

/// Events fetched by one call; more are left to the next, or to another worker.
const EVENTS_MAX: usize = 128;
/// After so many units a worker looks for events and at the injector, however much it has in its own queue.
const TICK_UNITS: u32 = 31;
/// After so long, too.
const TICK_NS: u64 = 50_000;

/// What a worker lends to what it runs.
///
/// The fields are apart so that they can be borrowed apart: the buffer for reading, the local state for routing, the
/// queue for notifying.
pub struct Worker<L: 'static> {
    /// Scratch state that tasks of this worker share, one after the other. Made anew after a panic.
    pub local: L,
    /// The read buffer, of the size configured. What is in it is of no use to the next run. It may be taken
    /// (`std::mem::take`); put back what was taken, or the next run finds a new one.
    pub buffer: Box<[u8]>,
    /// Where to enqueue, and what time it is.
    pub queue: Queue<L>,
    /// Whether this worker is counted as searching.
    is_searching: bool,
    busy_poll: BusyPoll,
    events: Events,
    since_tick: u32,
    ticked_ns: u64,
    seed: u64,
}

/// A worker's own queue, and what is shared by all workers. It dereferences to the [`Scheduler`].
pub struct Queue<L: 'static> {
    scheduler: Scheduler<L>,
    local: Rc<LocalQueue<L>>,
    now_ns: Cell<u64>,
    /// Since the last occasion to poll.
    is_answered: Cell<bool>,
}

/// The part of a worker that notifications from its own thread need.
struct LocalQueue<L: 'static> {
    /// Which scheduler this is of: the address of what its handles share.
    owner: usize,
    index: usize,
    queues: Queues<L>,
    /// How many units the present run has enqueued.
    pushed_in_run: Cell<u32>,
}

thread_local! {
    /// The queue of the worker that this thread is, if any: a `LocalQueue<L>`.
    static CURRENT: RefCell<Option<Rc<dyn Any>>> = const { RefCell::new(None) };
}

impl<L: 'static> Queue<L> {
    /// Notifies a task from its worker: see [`Scheduler::notify`], which does the same a little slower.
    ///
    /// The first task enqueued in a run waits for the end of the run, since this worker is about to be free; with the
    /// second, a sleeping worker is woken.
    #[inline]
    pub fn notify<T: Task<L>>(&self, task: &Arc<T>, ready: Ready) {
        if task.state().notify(ready) {
            self.local.push(&self.scheduler, Unit::Task(task.clone()), Urgency::EndOfRun);
        }
    }

    /// Notifies a task whose type is not known; see [`notify`](Self::notify).
    #[inline]
    pub fn notify_dyn(&self, task: &Arc<dyn Task<L>>, ready: Ready) {
        if task.state().notify(ready) {
            self.local.push(&self.scheduler, Unit::Task(task.clone()), Urgency::EndOfRun);
        }
    }

    /// Enqueues a piece of work at the back of this worker's queue, and wakes a sleeping worker to take it.
    pub fn spawn(&self, job: impl FnOnce(&mut Worker<L>) + Send + 'static) {
        self.local.push(&self.scheduler, Unit::Job(Box::new(job)), Urgency::Now);
    }

    /// To be called by a task that has been sent something by whoever was written to last: another answer is likely to
    /// follow soon, and the worker may poll for it.
    #[inline]
    pub fn note_answer(&self) {
        self.is_answered.set(true);
    }

    /// Nanoseconds since the scheduler was started, as of the end of the last run or sleep of this worker.
    #[inline]
    pub fn now_ns(&self) -> u64 {
        self.now_ns.get()
    }

    /// Which worker this is, from 0.
    #[inline]
    pub fn index(&self) -> usize {
        self.local.index
    }

    /// The scheduler that this worker belongs to.
    #[inline]
    pub fn scheduler(&self) -> &Scheduler<L> {
        &self.scheduler
    }

    fn counters(&self) -> &Counters {
        &self.scheduler.shared.counters[self.local.index]
    }

    fn wake(&self) {
        self.local.wake(&self.scheduler);
    }

    /// Takes from the injector, in the way that `take` does it.
    fn take_injected<T>(
        &self,
        take: impl Fn(&Injector<Unit<L>>, &deque::Worker<Unit<L>>) -> Steal<T>,
    ) -> Option<T> {
        let taken = persist(|| take(&self.scheduler.shared.injector, self.local.queues.tasks()))?;
        self.counters().injections.add(1);
        Some(taken)
    }
}

impl<L: 'static> Deref for Worker<L> {
    type Target = Queue<L>;
    fn deref(&self) -> &Queue<L> {
        &self.queue
    }
}

/// Whether the first of several events is run before all that is queued: right only when nothing is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Direct {
    Yes,
    No,
}

/// When a unit that a run enqueues has to be seen by others.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Urgency {
    Now,
    EndOfRun,
}

impl<L: 'static> LocalQueue<L> {
    fn push(&self, scheduler: &Scheduler<L>, unit: Unit<L>, urgency: Urgency) {
        self.queues.push(unit);
        let pushed = self.pushed_in_run.get() + 1;
        self.pushed_in_run.set(pushed);
        if (urgency == Urgency::Now || pushed > 1) && scheduler.shared.idle.claim_wake() {
            self.wake(scheduler);
        }
    }

    fn wake(&self, scheduler: &Scheduler<L>) {
        scheduler.shared.counters[self.index].wakes.add(1);
        scheduler.shared.waker.wake();
    }
}

/// Enqueues on the queue of the worker that this thread is; gives the unit back when it is none of `scheduler`'s.
pub(super) fn push_if_worker<L: 'static>(scheduler: &Scheduler<L>, unit: Unit<L>) -> Result<(), Unit<L>> {
    let current = CURRENT.try_with(|current| current.borrow().clone());
    let Ok(Some(current)) = current else { return Err(unit) };
    match current.downcast_ref::<LocalQueue<L>>() {
        Some(local) if local.owner == scheduler.address() => {
            local.push(scheduler, unit, Urgency::EndOfRun);
            Ok(())
        }
        _ => Err(unit),
    }
}

/// Whether this thread is one of the scheduler's workers.
pub(super) fn is_worker<L: 'static>(scheduler: &Scheduler<L>) -> bool {
    let is_its = |current: &Rc<dyn Any>| {
        let local = current.downcast_ref::<LocalQueue<L>>();
        local.is_some_and(|local| local.owner == scheduler.address())
    };
    CURRENT.try_with(|current| current.borrow().as_ref().is_some_and(is_its)).unwrap_or(false)
}

impl<L: 'static> Worker<L> {
    /// Of the thread that calls; `queues` are what the others steal from.
    pub(super) fn new(scheduler: Scheduler<L>, index: usize, queues: Queues<L>) -> Worker<L> {
        let local =
            Rc::new(LocalQueue { owner: scheduler.address(), index, queues, pushed_in_run: Cell::new(0) });
        CURRENT.set(Some(local.clone()));
        Worker {
            local: (scheduler.shared.make_local)(index),
            buffer: new_buffer(&scheduler),
            is_searching: false,
            busy_poll: BusyPoll::new(scheduler.shared.config.busy_poll),
            queue: Queue { scheduler, local, now_ns: Cell::new(0), is_answered: Cell::new(false) },
            events: Events::with_capacity(EVENTS_MAX),
            since_tick: 0,
            ticked_ns: 0,
            seed: index as u64 + 1,
        }
    }

    /// Runs until the scheduler is shut down.
    pub(super) fn run_until_stopped(mut self) {
        // Runs and jobs are caught one by one; what gets here is a panic in dropping a task.
        while catch_unwind(AssertUnwindSafe(|| self.run_loop())).is_err() {
            self.queue.counters().panics.add(1);
        }
        // The stealers keep the queue, and with it what is queued, which may hold the scheduler: empty it here.
        while let Some(unit) = self.queue.local.queues.pop() {
            let _ = catch_unwind(AssertUnwindSafe(|| drop(unit)));
        }
        CURRENT.set(None);
    }

    fn run_loop(&mut self) {
        loop {
            match self.queue.scheduler.shared.pause.next() {
                Next::Run => {
                    if let Some(unit) = self.next() {
                        self.execute(unit);
                    }
                }
                Next::Rest => {
                    self.queue.scheduler.shared.pause.rest();
                    self.queue.now_ns.set(self.queue.scheduler.shared.elapsed_ns());
                }
                Next::Stop => return,
            }
        }
    }

    /// The next unit: of the own queue, the injector, another worker's queue, or a task that an event was for.
    fn next(&mut self) -> Option<Unit<L>> {
        if self.since_tick >= TICK_UNITS || self.queue.now_ns() - self.ticked_ns >= TICK_NS {
            self.tick();
        }
        if let Some(unit) = self.queue.local.queues.pop() {
            return Some(unit);
        }
        self.is_searching = self.is_searching || self.queue.scheduler.shared.idle.begin_search();
        if self.is_searching {
            if let Some(unit) = self.search() {
                return Some(unit);
            }
            if let Some(deadline_ns) =
                self.busy_poll.deadline(self.queue.is_answered.take(), self.queue.now_ns())
                && self.busy_poll(deadline_ns)
            {
                return self.fetch_events(Direct::Yes);
            }
        }
        self.park()
    }

    /// What must not wait for the own queue to be empty.
    fn tick(&mut self) {
        self.ticked(self.queue.now_ns());
        self.queue.take_injected(Injector::steal_batch);
        // While somebody sleeps in epoll_wait the kernel hands events to them: there is nothing to look for.
        if !self.queue.scheduler.shared.idle.somebody_sleeps() {
            self.queue.counters().polls.add(1);
            self.poll(Some(Duration::ZERO));
            let none = self.fetch_events(Direct::No);
            debug_assert!(none.is_none());
        }
    }

    /// Looks through the injector and the other workers' queues, once.
    fn search(&mut self) -> Option<Unit<L>> {
        if let Some(unit) = self.queue.take_injected(Injector::steal_batch_and_pop) {
            return Some(unit);
        }
        let start = self.random();
        let Queue { scheduler, local, .. } = &self.queue;
        let stealers = &scheduler.shared.stealers;
        let start = start as usize % stealers.len();
        let victims =
            (0..stealers.len()).map(|n| (start + n) % stealers.len()).filter(|&victim| victim != local.index);
        for victim in victims {
            if let Some(unit) = persist(|| stealers[victim].steal_to(&local.queues)) {
                self.queue.counters().steals.add(1);
                return Some(unit);
            }
        }
        None
    }

    /// Looks at the epoll set again and again, as a searcher: whoever enqueues a unit meanwhile need not wake anybody.
    /// Returns whether there is something to fetch or to take.
    fn busy_poll(&mut self, deadline_ns: u64) -> bool {
        // Relaxed, also below: a bound on how many poll, which guards nothing.
        if self.queue.scheduler.shared.is_polled.swap(true, Ordering::Relaxed) {
            return false;
        }
        let has_found = loop {
            self.queue.counters().polls.add(1);
            self.poll(Some(Duration::ZERO));
            let shared = &self.queue.scheduler.shared;
            let has_found = !self.events.is_empty() || shared.has_work();
            self.queue.now_ns.set(shared.elapsed_ns());
            if has_found || self.queue.now_ns() >= deadline_ns {
                break has_found;
            }
            // Who is to send what is waited for may have been woken on this very processor.
            std::thread::yield_now();
        };
        self.queue.scheduler.shared.is_polled.store(false, Ordering::Relaxed);
        self.ticked(self.queue.now_ns());
        self.busy_poll.polled(has_found, self.queue.now_ns());
        has_found
    }

    fn ticked(&mut self, now_ns: u64) {
        self.since_tick = 0;
        self.ticked_ns = now_ns;
    }

    /// Sleeps until there are events, or somebody calls. Returns at once if there is work after all.
    fn park(&mut self) -> Option<Unit<L>> {
        let was_searching = std::mem::take(&mut self.is_searching);
        let shared = &self.queue.scheduler.shared;
        if !shared.idle.fall_asleep(was_searching, || shared.has_work()) {
            self.is_searching = true;
            return None;
        }
        self.queue.counters().parks.add(1);
        self.poll(None);
        let shared = &self.queue.scheduler.shared;
        shared.idle.woken();
        let now_ns = shared.elapsed_ns();
        self.queue.now_ns.set(now_ns);
        self.ticked(now_ns);
        self.busy_poll.slept(now_ns);
        self.fetch_events(Direct::Yes)
    }

    fn poll(&mut self, timeout: Option<Duration>) {
        let result = self.queue.scheduler.shared.poller.wait(&mut self.events, timeout);
        result.expect("an epoll set that exists can be waited on");
    }

    /// Turns events into queued tasks, in the order of the events. The first is returned instead if it is to be run
    /// directly; a worker is then woken for the others. (Otherwise that is done after the next unit, if there are many.)
    fn fetch_events(&mut self, direct: Direct) -> Option<Unit<L>> {
        let shared = &self.queue.scheduler.shared;
        let counters = self.queue.counters();
        counters.events.add(self.events.len() as u64);
        let (mut first, mut pushed) = (None, false);
        for event in self.events.iter() {
            if event.token >= super::TOKENS_OWN {
                if event.token == super::TOKEN_WAKE {
                    shared.idle.take_claim(self.is_searching);
                    self.is_searching = true;
                }
                // Told to stop or to rest, run_loop will see it.
                continue;
            }
            let Some(task) = shared.registry.get(event.token) else {
                counters.events_stale.add(1);
                continue;
            };
            let mut ready = Ready::NONE;
            for (is_so, bit) in [
                (event.readable, Ready::READABLE),
                (event.writable, Ready::WRITABLE),
                (event.hangup, Ready::HANGUP),
            ] {
                ready |= if is_so { bit } else { Ready::NONE };
            }
            if !task.state().notify(ready) {
                counters.events_merged.add(1);
            } else if direct == Direct::Yes && first.is_none() {
                first = Some(Unit::Task(task));
            } else {
                self.queue.local.queues.push(Unit::Task(task));
                pushed = true;
            }
        }
        if pushed && direct == Direct::Yes && shared.idle.claim_wake() {
            self.queue.wake();
        }
        first
    }

    fn execute(&mut self, unit: Unit<L>) {
        if std::mem::take(&mut self.is_searching) {
            let shared = &self.queue.scheduler.shared;
            if shared.idle.end_search(|| shared.has_work()) {
                self.queue.wake();
            }
        }
        self.queue.local.pushed_in_run.set(0);
        match unit {
            Unit::Task(task) => self.run_task(task),
            Unit::Job(job) => self.run_job(job),
        }
        self.since_tick += 1;
        self.queue.now_ns.set(self.queue.scheduler.shared.elapsed_ns());
        // One unit is for this worker, which is free now; more are for others too.
        if self.queue.local.queues.len() > 1 && self.queue.scheduler.shared.idle.claim_wake() {
            self.queue.wake();
        }
    }

    fn run_task(&mut self, task: Arc<dyn Task<L>>) {
        self.queue.counters().tasks_run.add(1);
        let ready = task.state().begin();
        let running = task.clone();
        let again = match catch_unwind(AssertUnwindSafe(|| running.run(ready, self))) {
            Ok(Outcome::Idle) => None,
            Ok(Outcome::Again(ready)) => Some(ready),
            Err(payload) => {
                self.recover(payload);
                let told = task.clone();
                if let Err(payload) = catch_unwind(AssertUnwindSafe(|| told.panicked())) {
                    self.recover(payload);
                }
                None
            }
        };
        if self.buffer.len() != self.queue.scheduler.shared.config.buffer_bytes {
            self.buffer = new_buffer(&self.queue.scheduler);
        }
        if task.state().finish(again) {
            self.queue.local.queues.push(Unit::Task(task));
        }
    }

    fn run_job(&mut self, job: Job<L>) {
        self.queue.counters().jobs_run.add(1);
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| job(self))) {
            self.recover(payload);
        }
    }

    /// After a panic: nothing that it may have left half done is seen by the next unit.
    fn recover(&mut self, payload: Box<dyn Any + Send>) {
        self.queue.counters().panics.add(1);
        let make = || (self.queue.scheduler.shared.make_local)(self.queue.index());
        let old = std::mem::replace(&mut self.local, make());
        // Both may have a Drop that panics in turn.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(payload)));
        let _ = catch_unwind(AssertUnwindSafe(|| drop(old)));
    }

    /// Where to begin to steal: xorshift64 (Marsaglia 2003), so that thieves spread.
    fn random(&mut self) -> u64 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        self.seed
    }
}

/// Tries again while another thread is in the way.
pub(super) fn persist<T>(mut steal: impl FnMut() -> Steal<T>) -> Option<T> {
    loop {
        match steal() {
            Steal::Success(found) => return Some(found),
            Steal::Empty => return None,
            Steal::Retry => std::hint::spin_loop(),
        }
    }
}

fn new_buffer<L: 'static>(scheduler: &Scheduler<L>) -> Box<[u8]> {
    vec![0; scheduler.shared.config.buffer_bytes].into_boxed_slice()
}

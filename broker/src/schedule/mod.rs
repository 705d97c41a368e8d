//! The scheduler: worker threads that share one epoll set and steal from each other.
//!
//! # Layout
//!
//! | module | holds |
//! |---|---|
//! | `state` | what a task is to be told, and whether it is queued or running: one word |
//! | `task` | what is run: tasks, pieces of work, and wakers for tasks |
//! | `worker` | one worker thread: its queue, its loop, what it lends to what it runs |
//! | `busy_poll` | when a worker polls before it sleeps |
//! | `queues` | what waits in a worker: tasks, and pieces of work |
//! | `idle` | who sleeps, who searches, when somebody is woken |
//! | `pause` | all workers between two units, while somebody looks |
//! | `registry` | from an epoll token to its task |
//! | `metrics` | what the workers have done, in numbers |
//! | `sync` | std or loom atomics |
//! | `model` | the models of `state` and `idle`, run by `broker/ci/loom.sh` |
//!
//! # The way of an event
//!
//! A socket is registered once, edge-triggered. A worker without work sleeps in `epoll_wait` itself, so the thread
//! that the kernel wakes has the event in its hands and runs the task at once: no second thread, no second system
//! call, no allocation. If the kernel hands it several, the others go to its queue, whence a worker that is woken for
//! it steals them. A worker with work looks at the epoll set and at the injector (where threads that are no workers
//! enqueue) after each 31 units or 50 us, but only while no worker sleeps: else the kernel hands the events to those.
//!
//! Queues are first in, first out, and a task that has more to do goes to the back: a quiet task waits for one turn of
//! each hot one before it, no more. Pieces of work wait in a queue of their own behind those (`queues`).
#![forbid(unsafe_code)]

mod busy_poll;
mod idle;
mod metrics;
#[cfg(all(test, broker_loom))]
mod model;
mod pause;
mod queues;
mod registry;
mod state;
mod sync;
mod task;
#[cfg(all(test, not(broker_loom)))]
mod tests;
mod worker;

pub use metrics::{Metrics, WorkerMetrics};
pub use pause::NotPaused;
pub use state::{Ready, TaskState};
pub use staunch_system::poll::Interest;
pub use task::{Outcome, Task};
pub use worker::{Queue, Worker};

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam::deque::Injector;
use crossbeam::utils::CachePadded;
use parking_lot::Mutex;
use staunch_system::poll::{Poller, Waker as EventWaker};

use idle::Idle;
use metrics::Counters;
use pause::{Next, Pause};
use queues::{Queues, Stealers};
use registry::Registry;
use task::{TaskWaker, Unit};

/// Tokens from here on are the scheduler's own; the registry's have their upper bit clear.
const TOKENS_OWN: u64 = 1 << 63;
const TOKEN_WAKE: u64 = TOKENS_OWN;
const TOKEN_STOP: u64 = TOKENS_OWN + 1;
const TOKEN_PAUSE: u64 = TOKENS_OWN + 2;

/// How to start a [`Scheduler`].
#[derive(Clone, Debug)]
pub struct SchedulerConfig {
    /// How many worker threads; as many as there are processors by default.
    pub workers: usize,
    /// The size of each worker's read buffer; 128 KiB by default.
    pub buffer_bytes: usize,
    /// For how long a worker that has run out of work polls for more before it sleeps, where answers come fast; zero
    /// for not at all; 50 us by default. It trades processor time for latency: see `busy_poll.rs`.
    pub busy_poll: Duration,
    /// What the threads are called, their number appended; `worker-` by default. The kernel shows 15 bytes of it.
    pub thread_name: String,
}

impl Default for SchedulerConfig {
    fn default() -> SchedulerConfig {
        SchedulerConfig {
            workers: thread::available_parallelism().map_or(1, usize::from),
            buffer_bytes: 128 * 1024,
            busy_poll: Duration::from_micros(50),
            thread_name: "worker-".to_owned(),
        }
    }
}

/// A handle to the workers: what registers, notifies and enqueues, from any thread.
///
/// Shape: one reference-counted pointer. `L` is the state each worker keeps for what it runs ([`Worker::local`]).
/// Dropping the last handle ends nothing; [`shutdown`](Self::shutdown) does.
pub struct Scheduler<L: 'static = ()> {
    shared: Arc<Shared<L>>,
}

struct Shared<L: 'static> {
    poller: Poller,
    /// Edge-triggered: wakes one sleeper per claim.
    waker: EventWaker,
    /// Level-triggered: wakes all, for good.
    stopper: EventWaker,
    /// Level-triggered: wakes all, for as long as they are to rest.
    pauser: EventWaker,
    /// Whether workers are to run, to rest, or to stop.
    pause: Pause,
    /// Whether some worker polls before it sleeps. Set and reset by that worker; others read it to see whether they
    /// may. Orders nothing.
    is_polled: AtomicBool,
    injector: Injector<Unit<L>>,
    stealers: Box<[Stealers<L>]>,
    idle: Idle,
    registry: Registry<L>,
    counters: Box<[CachePadded<Counters>]>,
    /// Wakes by threads that are no workers: counter only.
    outside_wakes: AtomicU64,
    started: Instant,
    make_local: Box<dyn Fn(usize) -> L + Send + Sync>,
    config: SchedulerConfig,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl<L: 'static> Scheduler<L> {
    /// Starts the workers, each with a default local state.
    ///
    /// # Errors
    /// When out of descriptors, threads or memory; nothing keeps running then.
    ///
    /// # Panics
    /// Unless there are 1 to 32,767 workers.
    pub fn start(config: SchedulerConfig) -> io::Result<Scheduler<L>>
    where
        L: Default,
    {
        Self::start_with(config, |_| L::default())
    }

    /// Starts the workers; `make_local` makes a worker's local state on its thread, and again after a panic there. It
    /// is told the worker's index, and must not panic itself.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    ///
    /// # Panics
    /// As [`start`](Self::start).
    pub fn start_with(
        config: SchedulerConfig,
        make_local: impl Fn(usize) -> L + Send + Sync + 'static,
    ) -> io::Result<Scheduler<L>> {
        let queues: Vec<_> = (0..config.workers).map(|_| Queues::new()).collect();
        let (poller, waker, stopper) = (Poller::new()?, EventWaker::new()?, EventWaker::new()?);
        poller.add(&waker, TOKEN_WAKE, Interest::Read)?;
        poller.add_level(&stopper, TOKEN_STOP, Interest::Read)?;
        let pauser = EventWaker::new()?;
        poller.add_level(&pauser, TOKEN_PAUSE, Interest::Read)?;
        let shared = Arc::new(Shared {
            poller,
            waker,
            stopper,
            pauser,
            pause: Pause::default(),
            is_polled: AtomicBool::new(false),
            injector: Injector::new(),
            stealers: queues.iter().map(Queues::stealers).collect(),
            idle: Idle::new(config.workers),
            registry: Registry::new(),
            counters: queues.iter().map(|_| CachePadded::default()).collect(),
            outside_wakes: AtomicU64::new(0),
            started: Instant::now(),
            make_local: Box::new(make_local),
            config,
            threads: Mutex::new(Vec::new()),
        });
        let scheduler = Scheduler { shared };
        for (index, queues) in queues.into_iter().enumerate() {
            let worker_scheduler = scheduler.clone();
            let spawned = thread::Builder::new()
                .name(format!("{}{index}", scheduler.shared.config.thread_name))
                .spawn(move || Worker::new(worker_scheduler, index, queues).run_until_stopped());
            match spawned {
                Ok(thread) => scheduler.shared.threads.lock().push(thread),
                Err(error) => {
                    scheduler.shutdown();
                    return Err(error);
                }
            }
        }
        Ok(scheduler)
    }

    /// Has a task notified whenever `fd` becomes readable, writable or ends: [`register_for`](Self::register_for)
    /// with [`Interest::ReadWrite`].
    ///
    /// # Errors
    /// As [`register_for`](Self::register_for).
    pub fn register(&self, fd: impl AsFd, task: Arc<dyn Task<L>>) -> io::Result<Registration<L>> {
        self.register_for(fd, task, Interest::ReadWrite)
    }

    /// Has a task notified of edges of `fd`, which must be non-blocking. What is ready now counts as the first edge.
    ///
    /// The task may be run before this returns. The registration holds the task until it is closed. It does not hold
    /// `fd`: the kernel forgets that when it is closed, in either order. Registering an `fd` again, once its former
    /// registration is closed, is fine; with both open, only the newer hears of it.
    ///
    /// # Errors
    /// When `fd` cannot be polled (a regular file), or out of kernel memory.
    pub fn register_for(
        &self,
        fd: impl AsFd,
        task: Arc<dyn Task<L>>,
        interest: Interest,
    ) -> io::Result<Registration<L>> {
        let token = self.shared.registry.insert(task);
        let registration = Registration { scheduler: self.clone(), token };
        match self.shared.poller.add(&fd, token, interest) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.shared.poller.modify(&fd, token, interest)?;
            }
            other => other?,
        }
        Ok(registration)
    }

    /// Adds `ready` to what a task is to be told, and enqueues it if it was idle. From any thread; from a worker's own
    /// [`Queue::notify`] is a little faster.
    ///
    /// What was done before is seen by the run that is told. After [`shutdown`](Self::shutdown) nothing happens.
    #[inline]
    pub fn notify<T: Task<L>>(&self, task: &Arc<T>, ready: Ready) {
        if task.state().notify(ready) {
            self.enqueue(Unit::Task(task.clone()));
        }
    }

    /// Notifies a task whose type is not known; see [`notify`](Self::notify).
    #[inline]
    pub fn notify_dyn(&self, task: &Arc<dyn Task<L>>, ready: Ready) {
        if task.state().notify(ready) {
            self.enqueue(Unit::Task(task.clone()));
        }
    }

    /// Enqueues a piece of work, to be run once by whichever worker gets to it. From any thread; from a worker prefer
    /// [`Queue::spawn`], which wakes another at once.
    pub fn spawn(&self, job: impl FnOnce(&mut Worker<L>) + Send + 'static) {
        self.enqueue(Unit::Job(Box::new(job)));
    }

    /// A waker that notifies `task` with [`Ready::WAKE`]. It does not keep the task alive, and does nothing once the
    /// task has gone.
    ///
    /// Cost: one allocation; clones share it, and are told apart from others by `will_wake`. Keep one per task.
    pub fn waker<T: Task<L>>(&self, task: &Arc<T>) -> std::task::Waker {
        let task = Arc::downgrade(task);
        Arc::new(TaskWaker { scheduler: self.clone(), task }).into()
    }

    /// Ends the workers after the unit each is running, and waits for them. Called by a worker, it waits for the
    /// others only. What is queued or registered is dropped without being run. Calling it again is harmless.
    pub fn shutdown(&self) {
        self.shared.pause.stop();
        self.shared.stopper.wake();
        let threads = std::mem::take(&mut *self.shared.threads.lock());
        for thread in threads {
            if thread.thread().id() != thread::current().id() {
                // A worker catches panics; one that ended by one all the same has ended.
                let _ = thread.join();
            }
        }
        self.shared.registry.clear();
        self.shared.drain_injector();
    }

    /// Whether [`shutdown`](Self::shutdown) was called.
    pub fn is_shut_down(&self) -> bool {
        self.shared.pause.next() == Next::Stop
    }

    /// Looks at something while no worker does anything: each is between two units of work, which is waited for, for
    /// up to `patience`. From any thread, also a worker's, whose own unit should have left nothing half done.
    ///
    /// Those that are there first wait for the last. So all stand still for as long as the longest unit under way
    /// takes, and then for as long as `look` does.
    ///
    /// # Errors
    /// [`NotPaused`]; nothing has been looked at.
    pub fn pause<R>(&self, patience: Duration, look: impl FnOnce() -> R) -> Result<R, NotPaused> {
        let shared = &self.shared;
        let others = shared.config.workers - usize::from(worker::is_worker(self));
        let waking = (|| shared.pauser.wake(), || shared.pauser.clear());
        shared.pause.pause(others, patience, waking, look)
    }

    /// How many workers there are.
    pub fn workers(&self) -> usize {
        self.shared.config.workers
    }

    /// When it was started.
    pub fn started(&self) -> Instant {
        self.shared.started
    }

    /// Nanoseconds since the scheduler was started. In a run, [`Queue::now_ns`] is cheaper.
    pub fn elapsed_ns(&self) -> u64 {
        self.shared.elapsed_ns()
    }

    /// What the workers have done until now.
    pub fn metrics(&self) -> Metrics {
        Metrics {
            workers: self.shared.counters.iter().map(|counters| counters.read()).collect(),
            // Relaxed: counter only.
            outside_wakes: self.shared.outside_wakes.load(Ordering::Relaxed),
        }
    }

    fn enqueue(&self, unit: Unit<L>) {
        let Err(unit) = worker::push_if_worker(self, unit) else { return };
        let shared = &self.shared;
        shared.injector.push(unit);
        if shared.idle.claim_wake() {
            // Relaxed: counter only.
            shared.outside_wakes.fetch_add(1, Ordering::Relaxed);
            shared.waker.wake();
        }
        // Nobody will come for it after a shutdown, and it may hold what holds the scheduler.
        if self.is_shut_down() {
            shared.drain_injector();
        }
    }

    /// What tells this scheduler's handles from another's.
    fn address(&self) -> usize {
        Arc::as_ptr(&self.shared).addr()
    }
}

impl<L: 'static> Clone for Scheduler<L> {
    fn clone(&self) -> Scheduler<L> {
        Scheduler { shared: self.shared.clone() }
    }
}

impl<L: 'static> fmt::Debug for Scheduler<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scheduler")
            .field("config", &self.shared.config)
            .field("idle", &self.shared.idle)
            .finish()
    }
}

impl<L: 'static> Shared<L> {
    /// Whether some queue that all may take from holds something.
    fn has_work(&self) -> bool {
        !self.injector.is_empty() || self.stealers.iter().any(|stealer| !stealer.is_empty())
    }

    fn elapsed_ns(&self) -> u64 {
        // 584 years are enough.
        self.started.elapsed().as_nanos() as u64
    }

    fn drain_injector(&self) {
        while let Some(unit) = worker::persist(|| self.injector.steal()) {
            drop(unit);
        }
    }
}

/// A task's claim to the events of a descriptor; closed on drop.
///
/// It is of the descriptor that was registered: close it along with that, in either order.
pub struct Registration<L: 'static = ()> {
    scheduler: Scheduler<L>,
    token: u64,
}

impl<L: 'static> Registration<L> {
    /// Lets go of the task. Events that are yet to be looked at are not told to it, nor to whoever gets its place; a
    /// run that is queued or under way still happens. Calling it again is harmless.
    pub fn close(&self) {
        // The task may be dropped by this.
        drop(self.scheduler.shared.registry.remove(self.token));
    }

    /// Whether it was closed.
    pub fn is_closed(&self) -> bool {
        self.scheduler.shared.registry.get(self.token).is_none()
    }

    /// Changes what the task is told of. What is ready now is told again, so nothing is missed in between.
    ///
    /// Cost: one system call.
    ///
    /// # Errors
    /// [`NotFound`](io::ErrorKind::NotFound) when `fd` is not the one that was registered.
    pub fn set_interest(&self, fd: impl AsFd, interest: Interest) -> io::Result<()> {
        self.scheduler.shared.poller.modify(fd, self.token, interest)
    }

    /// Closes it, and has the kernel forget `fd` although it stays open.
    ///
    /// # Errors
    /// [`NotFound`](io::ErrorKind::NotFound) when `fd` is not the one that was registered.
    pub fn deregister(&self, fd: impl AsFd) -> io::Result<()> {
        self.close();
        self.scheduler.shared.poller.delete(fd)
    }
}

impl<L: 'static> Drop for Registration<L> {
    fn drop(&mut self) {
        self.close();
    }
}

impl<L: 'static> fmt::Debug for Registration<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration").field("token", &self.token).finish()
    }
}

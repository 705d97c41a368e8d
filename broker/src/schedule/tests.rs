//! The scheduler with real threads and real sockets. What is waited for is always an event, never a time.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Barrier, OnceLock, Weak};

use parking_lot::Mutex;
use staunch_system::net::Stream;

use super::*;

fn start<L: Default + 'static>(workers: usize) -> Scheduler<L> {
    Scheduler::start(SchedulerConfig { workers, ..SchedulerConfig::default() }).unwrap()
}

/// Waits until something that will happen has happened.
fn until(happened: impl Fn() -> bool) {
    while !happened() {
        thread::yield_now();
    }
}

/// Shuts down once all workers sleep. That they come to it, with no search or wake left in the books, is part of each
/// test: a leak there would let work lie, much later.
fn rest_and_stop<L: 'static>(scheduler: &Scheduler<L>) {
    until(|| scheduler.shared.idle.is_at_rest());
    assert!(!scheduler.shared.has_work());
    scheduler.shutdown();
}

/// A task that does what its closure says.
struct Closure<F> {
    state: TaskState,
    body: F,
    panics: AtomicUsize,
}

impl<L: 'static, F: Fn(Ready, &mut Worker<L>) -> Outcome + Send + Sync + 'static> Task<L> for Closure<F> {
    fn state(&self) -> &TaskState {
        &self.state
    }
    fn run(self: Arc<Self>, ready: Ready, worker: &mut Worker<L>) -> Outcome {
        (self.body)(ready, worker)
    }
    fn panicked(self: Arc<Self>) {
        self.panics.fetch_add(1, Ordering::SeqCst);
    }
}

fn task<L: 'static, F: Fn(Ready, &mut Worker<L>) -> Outcome + Send + Sync + 'static>(
    body: F,
) -> Arc<Closure<F>> {
    Arc::new(Closure { state: TaskState::new(), body, panics: AtomicUsize::new(0) })
}

/// Sends back what it reads. It reads at most `chunk_bytes` per run.
struct Echo {
    state: TaskState,
    stream: Stream,
    registration: OnceLock<Registration>,
    chunk_bytes: usize,
    unsent: Mutex<Vec<u8>>,
}

impl Echo {
    fn start(scheduler: &Scheduler, stream: Stream, chunk_bytes: usize) -> Weak<Echo> {
        let echo = Arc::new(Echo {
            state: TaskState::new(),
            stream,
            registration: OnceLock::new(),
            chunk_bytes,
            unsent: Mutex::default(),
        });
        let registration = scheduler.register(&echo.stream, echo.clone()).unwrap();
        echo.registration.set(registration).unwrap();
        // It may have run, and found the end, before its registration was there to be closed.
        scheduler.notify(&echo, Ready::READABLE);
        Arc::downgrade(&echo)
    }
}

impl Task for Echo {
    fn state(&self) -> &TaskState {
        &self.state
    }

    fn run(self: Arc<Self>, _: Ready, worker: &mut Worker<()>) -> Outcome {
        let mut unsent = self.unsent.lock();
        loop {
            while !unsent.is_empty() {
                match self.stream.write(&unsent) {
                    Ok(written) => drop(unsent.drain(..written)),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Outcome::Idle,
                    Err(_) => unsent.clear(),
                }
            }
            match self.stream.read(&mut worker.buffer[..self.chunk_bytes]) {
                Ok(0) => {
                    if let Some(registration) = self.registration.get() {
                        registration.close();
                    }
                    return Outcome::Idle;
                }
                Ok(read) => unsent.extend_from_slice(&worker.buffer[..read]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Outcome::Idle,
                Err(error) => panic!("{error}"),
            }
            if unsent.len() == self.chunk_bytes {
                return Outcome::Again(Ready::READABLE);
            }
        }
    }
}

fn echo_pair(scheduler: &Scheduler, chunk_bytes: usize) -> (UnixStream, Weak<Echo>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (ours, Echo::start(scheduler, Stream::from_fd(theirs.into()).unwrap(), chunk_bytes))
}

fn echo_many(workers: usize, connections: usize, rounds: usize) {
    let scheduler = start(workers);
    let mut all: Vec<_> = (0..connections).map(|_| echo_pair(&scheduler, 1024)).collect();
    for round in 0..rounds {
        for (n, (stream, _)) in all.iter_mut().enumerate() {
            stream.write_all(format!("{n:06}{round:06}").as_bytes()).unwrap();
        }
        for (n, (stream, _)) in all.iter_mut().enumerate() {
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).unwrap();
            assert_eq!(answer, format!("{n:06}{round:06}").as_bytes());
        }
    }
    let tasks: Vec<_> = all.into_iter().map(|(_, task)| task).collect();
    // The streams are closed now: each task finds its end, closes its registration and goes.
    until(|| tasks.iter().all(|task| task.strong_count() == 0));
    rest_and_stop(&scheduler);
    assert_eq!(scheduler.metrics().total().panics, 0);
}

#[test]
fn a_thousand_connections_on_one_worker() {
    let _ = staunch_system::limits::raise_open_files();
    echo_many(1, 1000, 3);
}

#[test]
fn a_thousand_connections_on_three_workers() {
    let _ = staunch_system::limits::raise_open_files();
    echo_many(3, 1000, 3);
}

#[test]
fn a_flood_larger_than_all_buffers_comes_back_whole() {
    for workers in [1, 2] {
        let scheduler = start(workers);
        let (mut stream, _) = echo_pair(&scheduler, 4096);
        let mut reader = stream.try_clone().unwrap();
        let total = 8 << 20;
        let writer = thread::spawn(move || {
            for n in 0..total / 8_u64 {
                stream.write_all(&n.to_be_bytes()).unwrap();
            }
        });
        for n in 0..total / 8 {
            let mut word = [0; 8];
            reader.read_exact(&mut word).unwrap();
            assert_eq!(u64::from_be_bytes(word), n);
        }
        writer.join().unwrap();
        rest_and_stop(&scheduler);
    }
}

#[test]
fn no_notification_is_lost_and_no_run_overlaps() {
    const NOTIFIERS: u64 = 4;
    const EACH: u64 = 20_000;
    for workers in [1, 2, 4] {
        let scheduler = start::<()>(workers);
        let posted = Arc::new(AtomicU64::new(0));
        let (seen, is_inside) = (Arc::new(AtomicU64::new(0)), AtomicBool::new(false));
        let (posted_there, seen_there) = (posted.clone(), seen.clone());
        let watcher = task(move |ready: Ready, _: &mut Worker<()>| {
            assert!(ready.contains(Ready::USER1));
            assert!(!is_inside.swap(true, Ordering::SeqCst), "two threads are inside");
            seen_there.store(posted_there.load(Ordering::Relaxed), Ordering::Relaxed);
            is_inside.store(false, Ordering::SeqCst);
            Outcome::Idle
        });
        thread::scope(|scope| {
            for _ in 0..NOTIFIERS {
                scope.spawn(|| {
                    for _ in 0..EACH {
                        posted.fetch_add(1, Ordering::Relaxed);
                        scheduler.notify(&watcher, Ready::USER1);
                    }
                });
            }
        });
        until(|| seen.load(Ordering::Relaxed) == NOTIFIERS * EACH);
        until(|| watcher.state.is_idle());
        assert_eq!(watcher.panics.load(Ordering::SeqCst), 0);
        rest_and_stop(&scheduler);
    }
}

#[test]
fn work_of_a_busy_worker_is_stolen() {
    let scheduler = start::<()>(2);
    let barrier = Arc::new(Barrier::new(2));
    let (done, all_done) = mpsc::channel();
    // One job enqueues two on its own worker's queue, each of which needs the other to be running too.
    scheduler.spawn(move |worker| {
        let index = worker.index();
        for _ in 0..2 {
            let (barrier, done) = (barrier.clone(), done.clone());
            worker.spawn(move |worker| {
                barrier.wait();
                done.send((index, worker.index())).unwrap();
            });
        }
    });
    let ran_on: Vec<_> = (0..2).map(|_| all_done.recv().unwrap()).collect();
    assert_eq!(ran_on.iter().filter(|(from, on)| from == on).count(), 1, "one stays, one is stolen");
    rest_and_stop(&scheduler);
    let total = scheduler.metrics().total();
    assert!(total.steals >= 1 && total.jobs_run == 3, "{total:?}");
}

#[test]
fn a_skewed_load_is_shared() {
    let scheduler = start::<()>(2);
    let seen = Arc::new(Mutex::new([0_u32; 2]));
    let ended = Arc::new(AtomicBool::new(false));
    let (seen_there, ended_there) = (seen.clone(), ended.clone());
    // All tasks are enqueued by one worker; they go on until the other has run some too.
    scheduler.spawn(move |worker| {
        for _ in 0..64 {
            let (seen, ended) = (seen_there.clone(), ended_there.clone());
            let hot = task(move |_, worker: &mut Worker<()>| {
                let mut seen = seen.lock();
                seen[worker.index()] += 1;
                if seen.iter().all(|&runs| runs > 100) {
                    ended.store(true, Ordering::SeqCst);
                    return Outcome::Idle;
                }
                Outcome::Again(Ready::NONE)
            });
            worker.notify(&hot, Ready::NONE);
        }
    });
    until(|| ended.load(Ordering::SeqCst));
    rest_and_stop(&scheduler);
    let metrics = scheduler.metrics();
    assert!(metrics.total().steals >= 1, "{metrics:?}");
    assert!(metrics.workers.iter().all(|worker| worker.tasks_run > 100), "{metrics:?}");
}

#[test]
fn a_hot_task_does_not_keep_a_quiet_one_waiting() {
    let scheduler = start::<()>(1);
    let (heard, stop) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (heard_there, stop_there) = (heard.clone(), stop.clone());
    let hot = task(move |_, _: &mut Worker<()>| match stop_there.load(Ordering::SeqCst) {
        false => Outcome::Again(Ready::NONE),
        true => Outcome::Idle,
    });
    scheduler.notify(&hot, Ready::NONE);
    // By socket, by notification, by job: each gets through although the only worker's queue is never empty.
    let (mut stream, _) = echo_pair(&scheduler, 64);
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut [0]).unwrap();
    let quiet = task(move |_, _: &mut Worker<()>| {
        heard_there.store(true, Ordering::SeqCst);
        Outcome::Idle
    });
    scheduler.notify(&quiet, Ready::USER1);
    until(|| heard.load(Ordering::SeqCst));
    let (done, is_done) = mpsc::channel();
    scheduler.spawn(move |_| done.send(()).unwrap());
    is_done.recv().unwrap();
    stop.store(true, Ordering::SeqCst);
    until(|| hot.state.is_idle());
    rest_and_stop(&scheduler);
}

#[test]
fn one_worker_runs_in_order_of_arrival() {
    let scheduler = start::<()>(1);
    let (tell, told) = mpsc::channel();
    scheduler.spawn(move |worker| {
        let notified = |name: &'static str, times: usize| {
            let (left, tell) = (AtomicUsize::new(times), tell.clone());
            let task = task(move |_, _: &mut Worker<()>| {
                tell.send(name).unwrap();
                match left.fetch_sub(1, Ordering::SeqCst) {
                    1 => Outcome::Idle,
                    _ => Outcome::Again(Ready::NONE),
                }
            });
            worker.notify(&task, Ready::USER1);
            worker.notify(&task, Ready::USER2);
        };
        notified("twice", 2);
        notified("once", 1);
        let first = tell.clone();
        worker.spawn(move |_| first.send("first").unwrap());
        // The same thread, by the handle: the same queue.
        let second = tell.clone();
        worker.scheduler().spawn(move |_| second.send("second").unwrap());
    });
    assert_eq!(told.iter().collect::<Vec<_>>(), ["twice", "once", "twice", "first", "second"]);
    rest_and_stop(&scheduler);
}

/// Tasks go before pieces of work, and do not keep them from being done.
#[test]
fn pieces_of_work_give_way_but_have_their_turn() {
    let scheduler = start::<()>(1);
    let (tell, told) = mpsc::channel();
    scheduler.spawn(move |worker| {
        for _ in 0..2 {
            let tell = tell.clone();
            worker.spawn(move |_| tell.send("piece").unwrap());
        }
        let left = AtomicUsize::new(30);
        let busy = task(move |_, _: &mut Worker<()>| {
            tell.send("task").unwrap();
            if left.fetch_sub(1, Ordering::SeqCst) > 1 { Outcome::Again(Ready::NONE) } else { Outcome::Idle }
        });
        worker.notify(&busy, Ready::READABLE);
    });
    let told: Vec<_> = told.iter().collect();
    let turns: Vec<_> = told.iter().enumerate().filter(|(_, who)| **who == "piece").map(|(n, _)| n).collect();
    assert_eq!(told.len(), 32);
    assert!(turns[0] > 3 && turns[1] < 25 && turns[1] - turns[0] > 3, "{turns:?}");
    rest_and_stop(&scheduler);
}

#[test]
fn a_panic_stays_with_its_task() {
    for workers in [1, 2] {
        let scheduler = start::<Vec<u8>>(workers);
        let bad = task(|ready: Ready, worker: &mut Worker<Vec<u8>>| {
            worker.local.push(1);
            worker.buffer = Box::default();
            if ready.contains(Ready::USER1) {
                panic!("as intended");
            }
            worker.local.clear();
            Outcome::Idle
        });
        for _ in 0..10 {
            scheduler.notify(&bad, Ready::USER1);
            until(|| bad.state.is_idle());
        }
        assert_eq!(bad.panics.load(Ordering::SeqCst), 10);
        scheduler.spawn(|_| panic!("as intended"));
        // All workers live, with a new local state and a buffer.
        let barrier = Arc::new(Barrier::new(workers + 1));
        for _ in 0..workers {
            let barrier = barrier.clone();
            scheduler.spawn(move |worker| {
                assert!(worker.local.is_empty() && worker.buffer.len() == 128 * 1024);
                barrier.wait();
            });
        }
        barrier.wait();
        until(|| scheduler.metrics().total().panics == 11);
        // And the task can be run again.
        scheduler.notify(&bad, Ready::USER2);
        until(|| bad.state.is_idle());
        rest_and_stop(&scheduler);
        assert_eq!(scheduler.metrics().total().panics, 11);
    }
}

#[test]
fn a_panic_in_drop_does_not_end_the_worker() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("as intended");
        }
    }
    let scheduler = start::<()>(1);
    let bomb = Bomb;
    let bad = task(move |_, _: &mut Worker<()>| {
        let _ = &bomb;
        Outcome::Idle
    });
    let gone = Arc::downgrade(&bad);
    scheduler.spawn(move |worker| worker.notify(&bad, Ready::NONE));
    until(|| gone.strong_count() == 0);
    let (done, is_done) = mpsc::channel();
    scheduler.spawn(move |_| done.send(()).unwrap());
    is_done.recv().unwrap();
    rest_and_stop(&scheduler);
    assert_eq!(scheduler.metrics().total().panics, 1);
}

#[test]
fn a_closed_registration_hears_nothing() {
    let scheduler = start::<()>(1);
    let runs = Arc::new(AtomicUsize::new(0));
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    let runs_there = runs.clone();
    let watcher = task(move |_, _: &mut Worker<()>| {
        runs_there.fetch_add(1, Ordering::SeqCst);
        Outcome::Idle
    });
    // The kernel lists edges in order of arrival, and one worker runs them in that order: when a later edge was heard,
    // earlier ones have been.
    let look = || {
        let (socket, _other) = UnixStream::pair().unwrap();
        let (tell, told) = mpsc::channel();
        let sentinel = task(move |_, _: &mut Worker<()>| {
            tell.send(()).unwrap();
            Outcome::Idle
        });
        let _registration = scheduler.register(&socket, sentinel).unwrap();
        told.recv().unwrap();
        runs.load(Ordering::SeqCst)
    };
    let registration = scheduler.register_for(&theirs, watcher.clone(), Interest::Read).unwrap();
    assert_eq!(look(), 0);
    ours.write_all(b"x").unwrap();
    assert_eq!(look(), 1);
    registration.set_interest(&theirs, Interest::ReadWrite).unwrap();
    assert_eq!(look(), 2, "what is so is told again");
    registration.close();
    assert!(registration.is_closed());
    ours.write_all(b"x").unwrap();
    assert_eq!(look(), 2);
    assert!(scheduler.metrics().total().events_stale >= 1);
    // The same descriptor again, in the same slot: the new registration hears, the old one's drop does no harm.
    let again = scheduler.register(&theirs, watcher.clone()).unwrap();
    drop(registration);
    assert_eq!(look(), 3);
    again.deregister(&theirs).unwrap();
    assert_eq!(again.deregister(&theirs).unwrap_err().kind(), io::ErrorKind::NotFound);
    ours.write_all(b"x").unwrap();
    assert_eq!(look(), 3);
    rest_and_stop(&scheduler);
}

#[test]
fn a_hangup_is_told() {
    let scheduler = start::<()>(2);
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (tell, told) = mpsc::channel();
    let watcher = task(move |ready: Ready, _: &mut Worker<()>| {
        if ready.contains(Ready::HANGUP) {
            tell.send(ready).unwrap();
        }
        Outcome::Idle
    });
    let _registration = scheduler.register(&theirs, watcher).unwrap();
    drop(ours);
    assert!(told.recv().unwrap().contains(Ready::READABLE | Ready::HANGUP));
    rest_and_stop(&scheduler);
}

#[test]
fn a_waker_wakes_while_its_task_lives() {
    let scheduler = start::<()>(1);
    let (tell, told) = mpsc::channel();
    let sleeper = task(move |ready, _: &mut Worker<()>| {
        tell.send(ready).unwrap();
        Outcome::Idle
    });
    let waker = scheduler.waker(&sleeper);
    assert!(waker.will_wake(&waker.clone()));
    waker.wake_by_ref();
    assert_eq!(told.recv().unwrap(), Ready::WAKE);
    until(|| sleeper.state.is_idle());
    drop(sleeper);
    waker.wake();
    assert!(told.recv().is_err(), "the task has gone, and its end of the channel with it");
    rest_and_stop(&scheduler);
}

#[test]
fn wakers_used_on_a_worker_use_its_queue() {
    let scheduler = start::<()>(1);
    let (tell, told) = mpsc::channel();
    let sleeper = task(move |_, _: &mut Worker<()>| {
        tell.send(()).unwrap();
        Outcome::Idle
    });
    let waker = scheduler.waker(&sleeper);
    scheduler.spawn(move |_| waker.wake());
    told.recv().unwrap();
    rest_and_stop(&scheduler);
    assert_eq!(scheduler.metrics().total().injections, 1, "the job itself, and not the wake");
}

#[test]
fn shutdown_ends_all_and_drops_what_waits() {
    for workers in [1, 4] {
        let scheduler = start::<()>(workers);
        let (_stream, echo) = echo_pair(&scheduler, 64);
        let hot = task(|_, _: &mut Worker<()>| Outcome::Again(Ready::NONE));
        scheduler.notify(&hot, Ready::NONE);
        until(|| scheduler.metrics().total().tasks_run > 10);
        scheduler.shutdown();
        assert!(scheduler.is_shut_down());
        scheduler.shutdown();
        assert_eq!(echo.strong_count(), 0, "the registry has let go of it");
        let runs = scheduler.metrics().total().tasks_run;
        scheduler.notify(&hot, Ready::NONE);
        let held = Arc::new(());
        let held_there = held.clone();
        scheduler.spawn(move |_| drop(held_there));
        assert_eq!(Arc::strong_count(&held), 1, "the job was dropped");
        assert_eq!(scheduler.metrics().total().tasks_run, runs);
        assert_eq!(Arc::strong_count(&hot), 1);
        assert_eq!(Arc::strong_count(&scheduler.shared), 1, "nothing else holds the scheduler");
    }
}

#[test]
fn work_from_all_sides_never_lies() {
    for workers in [1, 2, 3] {
        let scheduler = start(workers);
        let (mut stream, _) = echo_pair(&scheduler, 64);
        let (tell, told) = mpsc::channel();
        for _ in 0..3000 {
            stream.write_all(b"x").unwrap();
            let tell = tell.clone();
            scheduler.spawn(move |worker| worker.spawn(move |_| tell.send(()).unwrap()));
            told.recv().unwrap();
            stream.read_exact(&mut [0]).unwrap();
        }
        rest_and_stop(&scheduler);
    }
}

#[test]
fn a_worker_may_shut_down() {
    let scheduler = start::<()>(2);
    scheduler.spawn(|worker| worker.scheduler().shutdown());
    until(|| scheduler.is_shut_down());
    until(|| Arc::strong_count(&scheduler.shared) == 1);
}

#[test]
fn local_state_is_made_per_worker() {
    let config = SchedulerConfig { workers: 2, ..SchedulerConfig::default() };
    let scheduler = Scheduler::start_with(config, |index| vec![index]).unwrap();
    let barrier = Arc::new(Barrier::new(2));
    let (tell, told) = mpsc::channel();
    for _ in 0..2 {
        let (barrier, tell) = (barrier.clone(), tell.clone());
        scheduler.spawn(move |worker| {
            barrier.wait();
            let [] = worker.local[1..] else { panic!("fresh") };
            tell.send((worker.index(), worker.local[0], worker.now_ns())).unwrap();
        });
    }
    drop(tell);
    let mut all: Vec<_> = told.iter().map(|(index, local, _)| (index, local)).collect();
    all.sort_unstable();
    assert_eq!(all, [(0, 0), (1, 1)]);
    rest_and_stop(&scheduler);
}

#[test]
fn nothing_runs_while_somebody_looks() {
    const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);
    for workers in [1, 3] {
        let scheduler = start::<()>(workers);
        let (running, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicU64::new(0)));
        let body = {
            let (running, done) = (running.clone(), done.clone());
            move |_: Ready, _: &mut Worker<()>| {
                running.fetch_add(1, Ordering::SeqCst);
                done.fetch_add(1, Ordering::SeqCst);
                running.fetch_sub(1, Ordering::SeqCst);
                Outcome::Again(Ready::NONE)
            }
        };
        let tasks: Vec<_> = (0..4).map(|_| task(body.clone())).collect();
        // First while all sleep, then while all work.
        assert_eq!(scheduler.pause(PATIENCE, || done.load(Ordering::SeqCst)), Ok(0));
        tasks.iter().for_each(|task| scheduler.notify(task, Ready::WAKE));
        for _ in 0..200 {
            let looked = scheduler.pause(PATIENCE, || {
                let before = done.load(Ordering::SeqCst);
                thread::yield_now();
                (running.load(Ordering::SeqCst), done.load(Ordering::SeqCst) - before)
            });
            assert_eq!(looked, Ok((0, 0)));
            let before = done.load(Ordering::SeqCst);
            until(|| done.load(Ordering::SeqCst) > before);
        }
        scheduler.shutdown();
        assert_eq!(scheduler.pause(PATIENCE, || ()), Err(NotPaused::Busy), "they have stopped");
    }
}

#[test]
fn a_worker_that_is_busy_for_long_is_not_waited_for() {
    let scheduler = start::<()>(2);
    let (begun, held) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    scheduler.spawn({
        let (begun, held) = (begun.clone(), held.clone());
        move |_| {
            begun.wait();
            held.wait();
        }
    });
    begun.wait();
    assert_eq!(scheduler.pause(std::time::Duration::from_millis(1), || ()), Err(NotPaused::Late));
    held.wait();
    // All go on, and can be paused again, also by one of them.
    let (tell, told) = mpsc::channel();
    scheduler.spawn(move |worker| {
        let looked = worker.scheduler().pause(std::time::Duration::from_secs(60), || worker.index() < 2);
        tell.send(looked).unwrap();
    });
    assert_eq!(told.recv().unwrap(), Ok(true));
    rest_and_stop(&scheduler);
}

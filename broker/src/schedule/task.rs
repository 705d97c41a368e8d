//! What the scheduler runs.

use std::sync::{Arc, Weak};
use std::task::Wake;

use super::{Ready, Scheduler, TaskState, Worker};

/// Something that is run, by one worker at a time, whenever it has been notified: a connection, an in-process entity.
///
/// `L` is the state that each worker keeps for its tasks ([`Worker::local`]).
pub trait Task<L: 'static = ()>: Send + Sync + 'static {
    /// The task's own state word: always the same one, embedded in the task.
    fn state(&self) -> &TaskState;

    /// Does some of what there is to do. `ready` is all that came since the last run began (perhaps nothing, after a
    /// bare notification, and perhaps something that turns out to be so no more).
    ///
    /// **Invariant:** never entered by two threads at once for one task; each run sees what the one before did, and
    /// what each notifier told in `ready` did before it notified. A notification that comes during a run leads to
    /// another run.
    ///
    /// It must not block, and should return within some 100 us, with [`Outcome::Again`] if there is more to do.
    fn run(self: Arc<Self>, ready: Ready, worker: &mut Worker<L>) -> Outcome;

    /// Called after [`run`](Self::run) has panicked, on the same worker, instead of its outcome. The worker's local
    /// state has been made anew. The task is idle afterwards and is run again when it is notified; to end it is for
    /// this hook to do.
    fn panicked(self: Arc<Self>) {}
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing to do until the next notification.
    Idle,
    /// There is more to do: run again, with these bits, after all that waits in this worker's queue.
    Again(Ready),
}

/// A piece of work that is run once, by whichever worker gets to it.
pub(super) type Job<L> = Box<dyn FnOnce(&mut Worker<L>) + Send>;

/// What lies in a queue.
pub(super) enum Unit<L: 'static> {
    /// A task whose state says QUEUED.
    Task(Arc<dyn Task<L>>),
    Job(Job<L>),
}

/// Notifies a task with [`Ready::WAKE`], as long as it lives.
pub(super) struct TaskWaker<L: 'static> {
    pub(super) scheduler: Scheduler<L>,
    /// Weak, since what holds the waker (an account's waiter) is often held by the task.
    pub(super) task: Weak<dyn Task<L>>,
}

impl<L: 'static> Wake for TaskWaker<L> {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if let Some(task) = self.task.upgrade() {
            self.scheduler.notify_dyn(&task, Ready::WAKE);
        }
    }
}

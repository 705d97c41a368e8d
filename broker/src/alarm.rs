//! What a task needs that looks at something when its time has come.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use staunch_system::poll::{Interest, Timer};

use crate::schedule::{Registration, Task, TaskState};
use crate::{Broker, Local};

/// After a panic the task is run again so much later.
const AFTER_PANIC: Duration = Duration::from_secs(1);

/// A timer that runs a task, with the task's state.
pub(crate) struct Alarm {
    state: TaskState,
    timer: Timer,
    registration: OnceLock<Registration<Local>>,
}

impl Alarm {
    /// Not set.
    ///
    /// # Errors
    /// When out of descriptors.
    pub(crate) fn new() -> io::Result<Alarm> {
        Ok(Alarm { state: TaskState::new(), timer: Timer::new()?, registration: OnceLock::new() })
    }

    /// Has the workers run `task`, whose alarm this is, when it goes off.
    ///
    /// # Errors
    /// When out of kernel memory.
    pub(crate) fn start(&self, task: Arc<dyn Task<Local>>, broker: &Broker) -> io::Result<()> {
        let registration = broker.scheduler().register_for(&self.timer, task, Interest::Read)?;
        let _ = self.registration.set(registration);
        Ok(())
    }

    pub(crate) fn state(&self) -> &TaskState {
        &self.state
    }

    /// Goes off after so long, instead of when it was set to before.
    pub(crate) fn set(&self, after: Duration) {
        self.timer.set(after);
    }

    /// Has the task go on after a panic: else nobody would look at what is left.
    pub(crate) fn set_after_panic(&self) {
        self.timer.set(AFTER_PANIC);
    }
}

//! What sessions are told when some time has passed: that they have lingered for long enough, or that they owe their
//! peers a report.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::alarm::Alarm;
use crate::relay::Session;
use crate::schedule::{Outcome, Ready, Task, TaskState, Worker};
use crate::{Broker, Local};

/// How long a session that ends by this side waits for its peer to take its last words.
pub(crate) const LINGER: Duration = Duration::from_secs(5);
/// How much later than the turns at most the peer is told of them that has asked for that.
pub(crate) const REPORT: Duration = Duration::from_millis(200);

/// The sessions that wait, by when they began. All wait equally long, so the first is the next.
pub(crate) struct Later {
    alarm: Alarm,
    span: Duration,
    news: Ready,
    waiting: Mutex<VecDeque<(Instant, Weak<Session>)>>,
}

impl Later {
    /// None yet: who waits is told `news` after `span`.
    ///
    /// # Errors
    /// When out of descriptors.
    pub(crate) fn new(span: Duration, news: Ready) -> io::Result<Arc<Later>> {
        Ok(Arc::new(Later { alarm: Alarm::new()?, span, news, waiting: Mutex::default() }))
    }

    /// Has the workers listen to its timer.
    ///
    /// # Errors
    /// When out of kernel memory.
    pub(crate) fn start(self: &Arc<Self>, broker: &Broker) -> io::Result<()> {
        self.alarm.start(self.clone(), broker)
    }

    /// Tells a session when its time has come.
    pub(crate) fn add(self: &Arc<Self>, broker: &Broker, session: &Arc<Session>) {
        let mut waiting = self.waiting.lock();
        waiting.push_back((Instant::now() + self.span, Arc::downgrade(session)));
        let is_first = waiting.len() == 1;
        drop(waiting);
        if is_first {
            broker.scheduler().notify(self, Ready::WAKE);
        }
    }
}

impl Task<Local> for Later {
    fn state(&self) -> &TaskState {
        self.alarm.state()
    }

    fn run(self: Arc<Self>, _: Ready, _: &mut Worker<Local>) -> Outcome {
        let now = Instant::now();
        loop {
            let mut waiting = self.waiting.lock();
            let Some((due, _)) = waiting.front() else { return Outcome::Idle };
            if *due > now {
                // Those that have departed meanwhile are passed over when their time comes.
                self.alarm.set(*due - now);
                return Outcome::Idle;
            }
            let session = waiting.pop_front().and_then(|(_, session)| session.upgrade());
            drop(waiting);
            if let Some(session) = session {
                session.tell(self.news);
            }
        }
    }

    fn panicked(self: Arc<Self>) {
        self.alarm.set_after_panic();
    }
}

//! TCP peers that have vanished: whose machines acknowledge nothing of what is on its way to them.
//!
//! Keep-alives find those only while nothing is on its way; the kernel itself gives up after a quarter of an hour or more,
//! since its pauses double up to 120 s. A peer that lives and does not read is no such one: its kernel answers each
//! question for room. So silence counts from the last acknowledgement of anything (`TCP_INFO`), and only if the peer has
//! been asked several times since.
//!
//! Sessions that have written are looked at every now and then until all has been acknowledged; others cost nothing.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use staunch_system::net::Answers;

use crate::alarm::Alarm;
use crate::relay::Session;
use crate::schedule::{Outcome, Ready, Task, TaskState, Worker};
use crate::{Broker, Local};

/// How many questions must have met silence: that one or two, or their answers, are lost is ordinary.
const ASKED_MIN: u32 = 3;
/// Sessions are looked at so many times as often as they may be silent.
const LOOKS: u32 = 8;
/// How often they are looked at if they may be silent for as long as they like: that may change.
const LOOK_EVERY_MAX: Duration = Duration::from_secs(60);
/// Sessions looked at in one run, at a system call each.
const LOOKED_AT_MAX: usize = 256;

/// The longest pause between two questions to a peer that may be silent for so long: with it there are enough questions.
pub(crate) fn retry_interval_max(silence_max: Duration) -> Duration {
    silence_max / (ASKED_MIN + 1)
}

/// How long it is until a session is looked at again.
fn look_every(silence_max: Option<Duration>) -> Duration {
    silence_max.map_or(LOOK_EVERY_MAX, |max| max / LOOKS).min(LOOK_EVERY_MAX)
}

/// Whether a peer that has owed answers for so long has vanished.
fn has_vanished(answers: &Answers, owed: Duration, silence_max: Duration) -> bool {
    answers.asked >= ASKED_MIN && answers.silence.min(owed) >= silence_max
}

/// A session whose peer owes acknowledgements.
struct Watched {
    due: Instant,
    session: Weak<Session>,
    /// When it was first found to owe some. (Its last acknowledgement may be of long before.)
    owes_since: Option<Instant>,
}

/// The sessions whose peers owe acknowledgements, by when they are looked at: all after equally long, so the first is the
/// next. (After that has been changed some are late.)
pub(crate) struct Silences {
    alarm: Alarm,
    watched: Mutex<VecDeque<Watched>>,
}

impl Silences {
    /// None yet.
    ///
    /// # Errors
    /// When out of descriptors.
    pub(crate) fn new() -> io::Result<Arc<Silences>> {
        Ok(Arc::new(Silences { alarm: Alarm::new()?, watched: Mutex::default() }))
    }

    /// Has the workers listen to its timer.
    ///
    /// # Errors
    /// When out of kernel memory.
    pub(crate) fn start(self: &Arc<Self>, broker: &Broker) -> io::Result<()> {
        self.alarm.start(self.clone(), broker)
    }

    /// Watches a session to which something has been written, if it is not watched.
    #[cold]
    pub(crate) fn add(self: &Arc<Self>, session: &Arc<Session>) {
        if session.begin_watch() {
            let broker = session.broker();
            let due = Instant::now() + look_every(broker.settings().silence_max);
            if self.push(Watched { due, session: Arc::downgrade(session), owes_since: None }) {
                broker.scheduler().notify(self, Ready::WAKE);
            }
        }
    }

    /// Whether there was none before.
    fn push(&self, watched: Watched) -> bool {
        let mut all = self.watched.lock();
        all.push_back(watched);
        all.len() == 1
    }

    /// Looks at one: ends it if its peer has vanished, and else looks again later if that still owes something.
    fn look(&self, mut watched: Watched, session: &Arc<Session>, now: Instant) {
        session.end_watch();
        let Ok(answers) = session.stream().answers() else { return };
        if !answers.is_owed || session.is_closed() {
            return;
        }
        let silence_max = session.broker().settings().silence_max;
        let owed = now - *watched.owes_since.get_or_insert(now);
        if let Some(max) = silence_max
            && has_vanished(&answers, owed, max)
        {
            session.broker().counters.vanished.fetch_add(1, Ordering::Relaxed);
            tracing::info!(
                connection = session.account().name(),
                "ends a connection: its peer has vanished; {:?} without any acknowledgement, asked {} times",
                answers.silence,
                answers.asked
            );
            return session.break_off();
        }
        // Unless it is already, since something has been written meanwhile.
        if session.begin_watch() {
            watched.due = now + look_every(silence_max);
            self.push(watched);
        }
    }
}

impl Task<Local> for Silences {
    fn state(&self) -> &TaskState {
        self.alarm.state()
    }

    fn run(self: Arc<Self>, _: Ready, _: &mut Worker<Local>) -> Outcome {
        let now = Instant::now();
        let mut session = None;
        for _ in 0..LOOKED_AT_MAX {
            let mut all = self.watched.lock();
            let Some(first) = all.front() else { return Outcome::Idle };
            if first.due > now {
                let due = first.due;
                let of = session.or_else(|| first.session.upgrade());
                // A session may go with what is held of it here: not under the lock.
                drop(all);
                let every = of.map_or(LOOK_EVERY_MAX, |s| look_every(s.broker().settings().silence_max));
                // Those that are due soon after each other are looked at together.
                self.alarm.set((due - now).max(every / LOOKS));
                return Outcome::Idle;
            }
            let Some(watched) = all.pop_front() else { return Outcome::Idle };
            drop(all);
            session = watched.session.upgrade();
            if let Some(session) = &session {
                self.look(watched, session, now);
            }
        }
        Outcome::Again(Ready::WAKE)
    }

    fn panicked(self: Arc<Self>) {
        self.alarm.set_after_panic();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_answers_now_and_then_has_not_vanished() {
        let seconds = Duration::from_secs;
        let check = |silence: u64, asked, owed: u64, expected: bool| {
            let answers = Answers { is_owed: true, silence: seconds(silence), asked };
            assert_eq!(has_vanished(&answers, seconds(owed), seconds(60)), expected, "{answers:?} {owed}");
        };
        check(60, 3, 60, true);
        check(3600, 15, 61, true);
        // Its kernel answers with "no room", every two minutes at the least.
        check(59, 0, 3600, false);
        check(120, 1, 3600, false);
        check(120, 2, 3600, false);
        // It was silent since there was nothing to answer.
        check(3600, 3, 59, false);
        assert!(retry_interval_max(seconds(60)) * ASKED_MIN < seconds(60));
    }
}

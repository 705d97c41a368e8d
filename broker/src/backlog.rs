//! Consumers for which something waits that the kernel does not take: what their policies say is seen to here.
//!
//! A session is watched from the first write that its kernel refuses until nothing waits for it any more. It is looked
//! at some times within the span that its policy names, and each look notes how much has been appended so far. What
//! waits now beyond what was appended since a look is what was there then: so it is known how much has waited for how
//! long, at no cost to those who append and write.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::alarm::Alarm;
use crate::decisions::DecisionKind;
use crate::outbox::Waiting;
use crate::relay::{Failure, Session};
use crate::schedule::{Outcome, Ready, Task, TaskState, Worker};
use crate::slow::Slow;
use crate::stage::Stage;
use crate::{Broker, Local};

/// Sessions are looked at so many times within the span that they have.
const LOOKS: u32 = 4;
/// How long it is between two looks at most, and for who is told what is newest.
const LOOK_EVERY_MAX: Duration = Duration::from_secs(5);
/// As [`LOOK_EVERY_MAX`].
const LATEST_EVERY: Duration = Duration::from_millis(200);
/// So much must have come to what waits before it is looked through at a look; and an eighth of it, up to another bound.
const CUT_MIN: u64 = 256;
/// As [`CUT_MIN`].
const CUT_MAX: u64 = 64 << 10;
/// Who is to end shortly after another was ended gets so much longer, once: it may have been that one's fault, if each was
/// not read since the other did not read.
const GRACE: Duration = Duration::from_secs(1);
/// Sessions looked at in one run.
const LOOKED_AT_MAX: usize = 256;

/// How much had been appended when it was looked.
type Mark = (Instant, u64);

/// A session for which something waits.
struct Watched {
    session: Weak<Session>,
    /// The oldest first. Of those older than the policy's span one is kept.
    marks: VecDeque<Mark>,
    had_grace: bool,
    /// How many turns had been written when it was looked, if some were not reported.
    unreported: Option<Mark>,
}

impl Watched {
    /// It is looked at so much later than it should have been: the broker did not run meanwhile, so that is nobody's fault.
    fn excuse(&mut self, late: Duration) {
        self.marks.iter_mut().chain(&mut self.unreported).for_each(|(at, _)| *at += late);
    }

    /// Whether it has not reported for so long a turn that it was sent.
    fn owes_reports(&mut self, now: Instant, waiting: &Waiting) -> bool {
        let Some((sent, reported, patience)) = waiting.unreported else {
            self.unreported = None;
            return false;
        };
        let (since, then) = *self.unreported.get_or_insert((now, sent));
        // The numbers wrap, and are not far from each other.
        if reported.wrapping_sub(then).cast_signed() >= 0 {
            self.unreported = Some((now, sent));
            return false;
        }
        now - since >= patience
    }

    /// How many bytes have waited for longer than `after`, if that is known of any.
    fn held(&mut self, now: Instant, waiting: &Waiting, after: Duration) -> u64 {
        self.marks.push_back((now, waiting.appended));
        while self.marks.get(1).is_some_and(|(at, _)| now - *at >= after) {
            self.marks.pop_front();
        }
        match self.marks.front() {
            Some((at, then)) if now - *at >= after => {
                waiting.bytes.saturating_sub(waiting.appended.wrapping_sub(*then))
            }
            _ => 0,
        }
    }
}

/// The sessions that are watched, by when they are looked at and a number of their own.
pub(crate) struct Backlogs {
    alarm: Alarm,
    watched: Mutex<BTreeMap<(Instant, u64), Watched>>,
    numbers: AtomicU64,
    /// When somebody was ended.
    ended: Mutex<Option<Instant>>,
}

impl Backlogs {
    /// None yet.
    ///
    /// # Errors
    /// When out of descriptors.
    pub(crate) fn new() -> io::Result<Arc<Backlogs>> {
        let alarm = Alarm::new()?;
        let (watched, numbers, ended) = Default::default();
        Ok(Arc::new(Backlogs { alarm, watched, numbers, ended }))
    }

    /// Has the workers listen to its timer.
    ///
    /// # Errors
    /// When out of kernel memory.
    pub(crate) fn start(self: &Arc<Self>, broker: &Broker) -> io::Result<()> {
        self.alarm.start(self.clone(), broker)
    }

    /// Watches a session, whose outbox has noted that it is watched.
    #[cold]
    pub(crate) fn add(self: &Arc<Self>, session: &Arc<Session>) {
        let waiting = session.outbox().waiting();
        let now = Instant::now();
        let marks = VecDeque::from([(now, waiting.appended)]);
        let watched = Watched { session: Arc::downgrade(session), marks, had_grace: false, unreported: None };
        if self.push(now + look_every(&waiting), watched) {
            session.broker().scheduler().notify(self, Ready::WAKE);
        }
    }

    /// Whether it is now the first.
    fn push(&self, due: Instant, watched: Watched) -> bool {
        // Relaxed: only uniqueness matters.
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let mut all = self.watched.lock();
        all.insert((due, number), watched);
        all.first_key_value().is_some_and(|(first, _)| *first == (due, number))
    }

    /// Looks at one, and again later unless nothing waits for it any more or it is ended.
    fn look(
        &self,
        mut watched: Watched,
        session: &Arc<Session>,
        (due, now): (Instant, Instant),
        stage: &mut Stage,
    ) {
        let Some(waiting) = session.outbox().look() else { return };
        let (late, every) = (now - due, look_every(&waiting));
        if late > every / 2 {
            watched.excuse(late);
            self.push(now + every, watched);
            return;
        }
        let mut due = now + every;
        if watched.owes_reports(now, &waiting) {
            lapse(session, waiting, stage);
            watched.unreported = None;
        }
        match waiting.policy {
            Slow::Disconnect { bytes, after } => {
                let held = watched.held(now, &waiting, after);
                if held > bytes && !self.is_granted(&mut watched, now, after, &mut due) {
                    return self.end(session, held, after, now);
                }
            }
            // Who is held back adds nothing, and so does not come to have it looked through.
            Slow::Latest { .. } if waiting.uncut_bytes > CUT_MIN + (waiting.bytes / 8).min(CUT_MAX) => {
                stage.cut(session);
            }
            _ => {}
        }
        self.push(due, watched);
    }

    /// Whether it gets longer, once, since somebody else was ended a moment ago.
    fn is_granted(&self, watched: &mut Watched, now: Instant, after: Duration, due: &mut Instant) -> bool {
        let grace = GRACE.min(after / 2);
        let is_soon = self.ended.lock().is_some_and(|ended| now - ended < grace);
        if !is_soon || std::mem::replace(&mut watched.had_grace, true) {
            return false;
        }
        *due = now + grace;
        true
    }

    fn end(&self, session: &Arc<Session>, held: u64, after: Duration, now: Instant) {
        *self.ended.lock() = Some(now);
        session.broker().decisions.note(session.account(), DecisionKind::Disconnected, held);
        session.end_soon(Failure::Slow(held, after.as_secs_f64()));
    }
}

/// Its reports are waited for no more.
fn lapse(session: &Arc<Session>, waiting: Waiting, stage: &mut Stage) {
    let (owed, can_flush) = session.outbox().close_window();
    let bytes = owed.total_bytes();
    // Repays.
    drop(owed);
    tracing::info!(
        connection = session.account().name(),
        "has not reported the turns that it said it would: they are waited for no more"
    );
    session.broker().decisions.note(session.account(), DecisionKind::CreditLapsed, waiting.bytes + bytes);
    if can_flush {
        stage.flush_soon(session);
    }
}

/// How long it is until a session is looked at again.
fn look_every(waiting: &Waiting) -> Duration {
    let every = match waiting.policy {
        Slow::Throttle => LOOK_EVERY_MAX,
        Slow::Disconnect { after, .. } => (after / LOOKS).min(LOOK_EVERY_MAX),
        Slow::Latest { .. } => LATEST_EVERY,
    };
    waiting.unreported.map_or(every, |(.., patience)| every.min(patience / LOOKS))
}

impl Task<Local> for Backlogs {
    fn state(&self) -> &TaskState {
        self.alarm.state()
    }

    fn run(self: Arc<Self>, _: Ready, worker: &mut Worker<Local>) -> Outcome {
        let now = Instant::now();
        let Local { stage, scratch, .. } = &mut worker.local;
        for _ in 0..LOOKED_AT_MAX {
            let mut all = self.watched.lock();
            let Some((&(due, _), _)) = all.first_key_value() else { return Outcome::Idle };
            if due > now {
                self.alarm.set(due - now);
                return Outcome::Idle;
            }
            let watched = all.pop_first();
            drop(all);
            // A session may go with what is held of it here: not under the lock.
            if let Some((_, watched)) = watched
                && let Some(session) = watched.session.upgrade()
            {
                self.look(watched, &session, (due, now), stage);
                stage.flush(scratch);
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
    fn only_what_was_there_before_has_waited_for_long() {
        let start = Instant::now();
        let mut watched = Watched {
            session: Weak::new(),
            marks: VecDeque::from([(start, 100)]),
            had_grace: false,
            unreported: None,
        };
        let mut check = |ms: u64, appended, bytes, expected| {
            let waiting =
                Waiting { policy: Slow::Throttle, appended, bytes, unreported: None, uncut_bytes: 0 };
            let now = start + Duration::from_millis(ms);
            assert_eq!(watched.held(now, &waiting, Duration::from_millis(100)), expected, "at {ms}");
        };
        check(50, 200, 150, 0);
        // 100 were appended since the start; what waits beyond that was there then.
        check(100, 200, 150, 50);
        // The mark at 50 ms counts now: all that waits was there then, but for 100.
        check(150, 300, 180, 80);
        check(199, 300, 180, 80);
        check(200, 300, 170, 70);
        check(251, 1000, 170, 0);
        check(351, 1000, 170, 170);
        // Nobody looked from 390 ms on.
        watched.excuse(Duration::from_millis(1000));
        let mut check = |ms: u64, expected| {
            let waiting = Waiting {
                policy: Slow::Throttle,
                appended: 1100,
                bytes: 300,
                unreported: None,
                uncut_bytes: 0,
            };
            let now = start + Duration::from_millis(ms);
            assert_eq!(watched.held(now, &waiting, Duration::from_millis(100)), expected, "at {ms}");
        };
        check(1400, 200);
        check(1455, 200);
    }
}

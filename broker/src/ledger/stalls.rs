//! Sessions that are held back: which, for how long, and whether they wait for each other.
//!
//! A session enters itself when it is held back and leaves when it goes on: both are rare beside messages. While any is
//! there they are looked at every now and then. What has not moved from one look to the next may be a *cycle*: clients
//! that each do not read until they have written, which is not done until the next one reads. (See [`waits`](super::waits).)

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use super::waits::{self, Cycle};
use crate::alarm::Alarm;
use crate::relay::Session;
use crate::schedule::{Outcome, Ready, Task, TaskState, Worker};
use crate::{Broker, Local};

/// How often those that are held back are looked at. A cycle has been named after two looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// So many new ones are logged after one look.
const LOGGED_MAX: usize = 4;
/// Up to how many seconds a stall is counted in which class; there is one more for those that are longer.
pub(crate) const STALL_SECONDS: [f64; 12] =
    [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0];

/// How long stalls that are over have lasted. Relaxed throughout: counters only.
#[derive(Default)]
pub(crate) struct StallTimes {
    classes: [AtomicU64; STALL_SECONDS.len() + 1],
    sum_ns: AtomicU64,
}

impl StallTimes {
    fn add(&self, span_ns: u64) {
        let seconds = span_ns as f64 / 1e9;
        let class = STALL_SECONDS.partition_point(|max| *max < seconds);
        self.classes[class].fetch_add(1, Ordering::Relaxed);
        self.sum_ns.fetch_add(span_ns, Ordering::Relaxed);
    }

    /// How long all together.
    pub(crate) fn sum_ns(&self) -> u64 {
        self.sum_ns.load(Ordering::Relaxed)
    }

    /// How many there were in each class, and how many seconds all together.
    pub(crate) fn read(&self) -> ([u64; STALL_SECONDS.len() + 1], f64) {
        let classes = self.classes.each_ref().map(|class| class.load(Ordering::Relaxed));
        (classes, self.sum_ns.load(Ordering::Relaxed) as f64 / 1e9)
    }
}

/// What of a session that is held back changes if anything moves: since when it is, and what its peer has read.
type Standing = (u64, u64);

#[derive(Default)]
struct State {
    held_back: HashMap<u64, Weak<Session>>,
    /// They are being looked at: the alarm is set.
    is_watched: bool,
    /// What was found in the look before.
    before: HashMap<u64, Standing>,
    /// Those that have been named, and hold still.
    cycles: Vec<Cycle>,
}

/// See the module's head.
pub(crate) struct Stalls {
    alarm: Alarm,
    broker: Mutex<Weak<Broker>>,
    state: Mutex<State>,
    pub(crate) times: StallTimes,
    /// How many cycles have been named. Relaxed: a counter.
    cycles_named: AtomicU64,
}

impl Stalls {
    /// None yet.
    ///
    /// # Errors
    /// When out of descriptors.
    pub(crate) fn new() -> io::Result<Arc<Stalls>> {
        Ok(Arc::new(Stalls {
            alarm: Alarm::new()?,
            broker: Mutex::default(),
            state: Mutex::default(),
            times: StallTimes::default(),
            cycles_named: AtomicU64::new(0),
        }))
    }

    /// Has the workers listen to its timer.
    ///
    /// # Errors
    /// When out of kernel memory.
    pub(crate) fn start(self: &Arc<Self>, broker: &Arc<Broker>) -> io::Result<()> {
        *self.broker.lock() = Arc::downgrade(broker);
        self.alarm.start(self.clone(), broker)
    }

    /// A session is held back.
    pub(crate) fn add(self: &Arc<Self>, session: &Arc<Session>) {
        let mut state = self.state.lock();
        state.held_back.insert(session.id(), Arc::downgrade(session));
        let is_first = !std::mem::replace(&mut state.is_watched, true);
        drop(state);
        if is_first {
            session.broker().scheduler().notify(self, Ready::WAKE);
        }
    }

    /// A session goes on, or ends, after so long.
    pub(crate) fn remove(&self, session: u64, span_ns: u64) {
        self.state.lock().held_back.remove(&session);
        self.times.add(span_ns);
    }

    /// How many are held back.
    pub(crate) fn count(&self) -> usize {
        self.state.lock().held_back.len()
    }

    /// The cycles that there are: who waits for whom, since when. Each member is the id of a session, which can be
    /// ended to break it. Not older than [`LOOK_EVERY`].
    pub(crate) fn cycles(&self) -> Vec<Cycle> {
        self.state.lock().cycles.clone()
    }

    /// How many cycles there have been.
    pub(crate) fn cycles_named(&self) -> u64 {
        self.cycles_named.load(Ordering::Relaxed)
    }

    /// Looks at all that are held back. Returns whether there are any.
    fn look(&self, broker: &Broker) -> bool {
        let mut state = self.state.lock();
        let sessions: Vec<Arc<Session>> = state.held_back.values().filter_map(Weak::upgrade).collect();
        let before = std::mem::take(&mut state.before);
        let known = state.cycles.clone();
        state.is_watched = !sessions.is_empty();
        drop(state);
        let mut now = HashMap::with_capacity(sessions.len());
        let mut stuck = Vec::new();
        for session in &sessions {
            let Some(throttle) = session.meter().throttle() else { continue };
            let standing = (throttle.since_ns, session.outbox().load().written);
            if before.get(&session.id()) == Some(&standing) {
                stuck.push(session.clone());
            }
            now.insert(session.id(), standing);
        }
        let cycles = waits::cycles(&stuck);
        let new: Vec<&Cycle> = cycles.iter().filter(|cycle| !known.contains(cycle)).collect();
        self.cycles_named.fetch_add(new.len() as u64, Ordering::Relaxed);
        for cycle in new.iter().take(LOGGED_MAX) {
            tracing::warn!("connections wait for each other, and none reads: {cycle}");
        }
        let has_changed = cycles != known;
        let mut state = self.state.lock();
        (state.before, state.cycles) = (now, cycles);
        drop(state);
        if has_changed {
            broker.tell_reporter();
        }
        !sessions.is_empty()
    }
}

impl Task<Local> for Stalls {
    fn state(&self) -> &TaskState {
        self.alarm.state()
    }

    fn run(self: Arc<Self>, _: Ready, _: &mut Worker<Local>) -> Outcome {
        let broker = self.broker.lock().upgrade();
        if let Some(broker) = broker
            && self.look(&broker)
        {
            self.alarm.set(LOOK_EVERY);
        }
        Outcome::Idle
    }

    fn panicked(self: Arc<Self>) {
        self.alarm.set_after_panic();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stalls_are_counted_by_how_long_they_last() {
        let times = StallTimes::default();
        for span_ns in [0, 1_000_000, 1_000_001, 2_000_000_000, u64::from(u32::MAX) << 10] {
            times.add(span_ns);
        }
        let (classes, seconds) = times.read();
        assert_eq!(classes, [2, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]);
        assert!((seconds - 2.002_000_001 - 4_398.046_510_08).abs() < 1e-6, "{seconds}");
    }
}

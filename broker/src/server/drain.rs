//! The broker's end, in good order.
//!
//! 1. *Nobody new*: the listeners are closed, their socket files removed.
//! 2. *Nothing new*: sessions are not read any more, but for those whose peers have hung up. Packets that have been
//!    read whole take effect; those that wait for credit may, as it is repaid.
//! 3. *What waits goes out*, for as long as is allowed: peers that read get all of it.
//! 4. *Last words*: each session that is left is ended with an Error packet. A peer that takes it and ends its side is
//!    gone; when none has gone for [`FAREWELL`], the others have had their time.
//! 5. *The end*: connections are cut, the workers stopped.
//!
//! Every wait has an end, so the whole has one.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::Server;
use super::held_back::waiting;
use crate::relay::{Failure, Session};

/// For how long peers may take their last words while no other goes.
const FAREWELL: Duration = Duration::from_millis(500);
/// For how long sessions may take to end once their connections have been cut, while no other does.
const CUT: Duration = Duration::from_millis(500);
/// For how long either may take in all: very many sessions do not end within half a second.
const ENDS_MAX: Duration = Duration::from_secs(5);
/// How often it is looked whether a step is done, at most.
const STEP: Duration = Duration::from_millis(5);

impl Server {
    /// Ends the broker in good order. Waits for up to `patience` for peers to take what waits for them, and about a
    /// second more for them to go (with very many of them, ten at most). Returns whether all that was read has taken effect and has gone out.
    ///
    /// Blocks the thread: not to be called by a worker.
    pub fn drain(&self, patience: Duration) -> bool {
        self.stop_listening();
        // Relaxed: see Broker::is_draining(). Sessions that run now may read one more chunk.
        self.broker.is_draining.store(true, Ordering::Relaxed);
        let until = Instant::now() + patience;
        let mut settled = 0;
        // Twice in a row: what was on its way from one place to another while all were looked at has come there.
        while settled < 2 && Instant::now() < until {
            let start = Instant::now();
            settled = if self.is_settled() { settled + 1 } else { 0 };
            if settled < 2 {
                // Looking at very many sessions must not take the time that they need.
                std::thread::sleep(STEP.max(4 * start.elapsed()).min(until - start));
            }
        }
        let sessions = self.sessions();
        if settled < 2 {
            tell_unread(&sessions);
        }
        for session in sessions {
            session.end_soon(Failure::BrokerEnds);
        }
        self.await_departures(FAREWELL);
        self.shutdown();
        settled >= 2
    }

    /// Ends all connections and the workers.
    pub fn shutdown(&self) {
        self.stop_listening();
        for session in self.sessions() {
            session.break_off();
            // Nor does it wait any longer for a peer that goes on sending.
            session.tell(Session::OVERDUE);
        }
        // Peers see the end in any case; what they asserted here ends with the process.
        self.await_departures(CUT);
        self.broker.scheduler().shutdown();
        #[cfg(debug_assertions)]
        self.assert_balance();
    }

    /// The workers have stopped: what is owed is what waits still, and has been whenever that was looked at.
    #[cfg(debug_assertions)]
    fn assert_balance(&self) {
        let found = self.broker.imbalance.lock().take().or_else(|| self.broker.compare().imbalance);
        if let Some(error) = found
            && !std::thread::panicking()
        {
            panic!("debts are not what waits: {error}");
        }
    }

    fn stop_listening(&self) {
        let acceptors = std::mem::take(&mut *self.acceptors.lock());
        for (acceptor, registration) in acceptors {
            let _ = registration.deregister(&acceptor.listener);
        }
    }

    pub(super) fn sessions(&self) -> Vec<Arc<Session>> {
        self.broker.sessions.iter().map(|session| session.clone()).collect()
    }

    /// Waits until all sessions have gone, or none has for so long.
    fn await_departures(&self, patience: Duration) {
        let start = Instant::now();
        let (mut left, mut since) = (self.connections(), start);
        while left > 0 && since.elapsed() < patience && start.elapsed() < ENDS_MAX {
            std::thread::sleep(STEP);
            let now = self.connections();
            if now < left {
                (left, since) = (now, Instant::now());
            }
        }
    }

    /// Whether what has been read has taken effect and has been handed to the kernel.
    fn is_settled(&self) -> bool {
        let sessions = self.sessions();
        let dataspaces: Vec<_> = self.broker.dataspaces.lock().iter().filter_map(Weak::upgrade).collect();
        // In the order in which one makes the other.
        sessions.iter().all(|session| session.has_done_its_part())
            && dataspaces.iter().all(|dataspace| dataspace.inbox.is_settled())
            && sessions.iter().all(|session| session.is_closed() || session.outbox().is_empty())
    }
}

/// So many of those that have not read are named.
const UNREAD_NAMED_MAX: usize = 4;

/// Logs who has not read what waits, those for whom most does first.
fn tell_unread(sessions: &[Arc<Session>]) {
    let mut unread: Vec<(u64, &str)> = sessions
        .iter()
        .filter(|session| !session.is_closed())
        .map(|session| (waiting(session), session.account().name()))
        .filter(|(bytes, _)| *bytes > 0)
        .collect();
    unread.sort_unstable_by(|a, b| b.cmp(a));
    for (bytes, connection) in unread.iter().take(UNREAD_NAMED_MAX) {
        tracing::warn!(connection, bytes, "has not read what waited for it");
    }
    if let Some(more @ 1..) = unread.len().checked_sub(UNREAD_NAMED_MAX) {
        tracing::warn!("nor have {more} others");
    }
}

//! Who is to be flushed, and the flushing; and what a session sends to its own peer beside turns.

use std::sync::Arc;

use super::{Scratch, Stage, replay};
use crate::outbox::{Appended, Flushed, Level};
use crate::relay::{Failure, Session};
use crate::schedule::Ready;

impl Stage {
    /// Appends whole packets that no turn brings, at the cost of the session itself.
    pub(crate) fn append_own(&mut self, session: &Arc<Session>, mut packets: Vec<u8>) {
        let (account, cost) = (session.account(), packets.len() as u64);
        account.charge(cost);
        let appended = session.outbox().append(&mut Vec::new(), &mut packets, account, cost, &mut self.pool);
        self.note_appended(session, appended);
    }

    /// Has a session flushed with the others.
    pub(crate) fn flush_soon(&mut self, session: &Arc<Session>) {
        self.dirty.push(session.clone());
    }

    /// Takes sessions over that are to be flushed.
    pub(crate) fn adopt_dirty(&mut self, sessions: Vec<Arc<Session>>) {
        self.dirty.extend(sessions);
    }

    /// Hands the sessions that are to be flushed over to somebody else.
    pub(crate) fn take_dirty(&mut self, count: usize) -> Vec<Arc<Session>> {
        self.dirty.split_off(self.dirty.len().saturating_sub(count))
    }

    /// How many sessions are to be flushed.
    pub(crate) fn dirty_count(&self) -> usize {
        self.dirty.len()
    }

    pub(super) fn note_appended(&mut self, session: &Arc<Session>, appended: Appended) {
        if appended.level != Level::BelowCeiling {
            note_level(session, appended.level, &mut self.full);
        }
        if appended.can_flush {
            self.dirty.push(session.clone());
        }
        if appended.is_to_be_cut {
            self.note_long(session);
        }
    }

    /// Writes out what has been published, and wakes those whose debts that repaid. No lock may be held.
    pub(crate) fn flush(&mut self, scratch: &mut Scratch) {
        self.cut_long();
        while let Some(session) = self.dirty.pop() {
            self.flushed_last = session.id();
            self.flush_one(&session, scratch);
        }
        self.repayments.repay_all();
    }

    /// Whether something was appended to an outbox above its ceiling.
    pub(crate) fn has_full(&self) -> bool {
        !self.full.is_empty()
    }

    /// The sessions whose outboxes were above their ceilings when something was appended since the last call.
    pub(crate) fn take_full(&mut self) -> Vec<Arc<Session>> {
        std::mem::take(&mut self.full)
    }

    /// Writes out one outbox.
    pub(crate) fn flush_one(&mut self, session: &Arc<Session>, scratch: &mut Scratch) {
        let mut work = 0;
        loop {
            let outbox = session.outbox();
            let flushed =
                outbox.flush(session.stream(), &mut self.pool, &mut self.repayments, &mut self.counts);
            session.expect_answers();
            if session.counts_turns() && outbox.begin_report_watch() {
                session.broker().backlogs.add(session);
            }
            match flushed {
                Flushed::Done => return,
                Flushed::Blocked { is_news } => {
                    if is_news {
                        session.broker().backlogs.add(session);
                    }
                    return session.await_room();
                }
                Flushed::More => return session.tell(Session::FLUSH),
                Flushed::Said => return session.tell(Ready::WAKE),
                Flushed::Failed => return session.break_off(),
                // Caveats may be much work, with nothing to be written in the end: on the observer's own time.
                Flushed::Replay(pending) => {
                    work += self.pull(session, pending, scratch);
                    if work >= replay::PIECE_WORK {
                        return session.tell(Session::FLUSH);
                    }
                }
            }
        }
    }
}

/// What an append to an outbox above its ceiling leads to.
#[cold]
fn note_level(session: &Arc<Session>, level: Level, full: &mut Vec<Arc<Session>>) {
    if level == Level::AboveCap {
        session.end_soon(Failure::Unread);
    }
    if !full.iter().any(|s| Arc::ptr_eq(s, session)) {
        full.push(session.clone());
    }
}

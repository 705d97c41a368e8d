//! Who is to be flushed, and what a session sends to its own peer beside turns.

use std::sync::Arc;

use super::Stage;
use crate::relay::Session;

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
}

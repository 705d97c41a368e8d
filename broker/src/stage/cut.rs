//! Peers that are told only what is newest: what waits for them is looked through when much has come to it.

use std::sync::Arc;

use super::Stage;
use crate::decisions::DecisionKind;
use crate::outbox::Cut;
use crate::relay::Session;

impl Stage {
    /// Has what waits for a session looked through before the next flush, when no lock is held.
    #[cold]
    pub(super) fn note_long(&mut self, session: &Arc<Session>) {
        if !self.long.iter().any(|known| Arc::ptr_eq(known, session)) {
            self.long.push(session.clone());
        }
    }

    /// Looks through what waits for those that it was noted of. No lock may be held.
    #[inline]
    pub(crate) fn cut_long(&mut self) {
        if self.long.is_empty() {
            return;
        }
        for session in std::mem::take(&mut self.long) {
            self.cut(&session);
        }
    }

    /// Looks through what waits for a session. No lock may be held.
    pub(crate) fn cut(&mut self, session: &Arc<Session>) {
        let mut dropped = Vec::new();
        let cut = session.outbox().cut(&mut dropped);
        // Repays.
        drop(dropped);
        let Cut { cancelled_events, dropped_messages, .. } = cut;
        if cancelled_events + dropped_messages > 0 {
            session.broker().decisions.count_unsent(cancelled_events, dropped_messages);
        }
        if cut.is_news {
            let name = session.account().name();
            tracing::info!(
                connection = name,
                "is slow: from now on it is told what is newest whenever much waits"
            );
            session.broker().decisions.note(session.account(), DecisionKind::KeepsLatest, cut.waiting_bytes);
        }
        if cut.can_flush {
            self.dirty.push(session.clone());
        }
    }
}

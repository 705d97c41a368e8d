//! What waits in an outbox, and who owes for it: for the ledger's audit and its readers.

use std::sync::Arc;

use staunch_flowctl::Account;

use super::{Outbox, Segment, SharedBody};

impl Outbox {
    /// Who owes how much for what waits here, or to be reported: account, bytes, cost.
    pub(crate) fn owed(&self) -> Vec<(Arc<Account>, u64, u64)> {
        let state = self.state.lock();
        let unreported = state.window.iter().flat_map(|window| window.debts.iter());
        state.debts.iter().chain(unreported).map(|run| (run.account.clone(), run.bytes, run.cost)).collect()
    }

    /// The shared bodies that wait here.
    pub(crate) fn shared_bodies(&self) -> Vec<Arc<SharedBody>> {
        let state = self.state.lock();
        let shared = state.queue.iter().filter_map(|segment| match segment {
            Segment::Shared(body) => Some(body.clone()),
            _ => None,
        });
        shared.collect()
    }
}

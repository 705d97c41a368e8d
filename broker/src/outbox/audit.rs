//! What waits in an outbox, and who owes for it: for the ledger, its audit and its readers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use staunch_flowctl::Account;

use super::{Outbox, Segment, SharedBody};
use crate::stage::EVENT_COST;

/// How much waits, at a glance.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// What is owed for it and for what is to be reported, shared bodies not counted.
    pub(crate) units: u64,
    /// All bytes that the kernel has taken so far; of text, those that it was made of.
    pub(crate) written: u64,
    /// Since when something waits, and the kernel takes no more; with pauses in which it took some, but never all.
    pub(crate) waits_since: Option<Instant>,
}

/// What waits because of one account.
#[derive(Clone)]
pub(crate) struct Debtor {
    pub(crate) account: Arc<Account>,
    pub(crate) units: u64,
    pub(crate) bytes: u64,
    /// An estimate: outboxes do not count events.
    pub(crate) events: u64,
}

/// Who owes for what waits.
#[derive(Default)]
pub(crate) struct Debtors {
    /// Each account once, in no order.
    pub(crate) each: Vec<Debtor>,
    /// What is owed for what was not looked at.
    pub(crate) rest_units: u64,
}

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

    /// How much waits. *Cost*: a lock.
    pub(crate) fn load(&self) -> Load {
        let state = self.state.lock();
        let written = state.appended.wrapping_sub(state.debts.total_bytes());
        let unreported = state.window.as_ref().map_or(0, |window| window.debts.total_cost());
        Load { units: state.debts.total_cost() + unreported, written, waits_since: state.waits_since }
    }

    /// Who owes for what waits here, shared bodies included: of the first `pieces_max` runs and pieces, so that nobody
    /// who appends has to wait for long.
    pub(crate) fn debtors(&self, pieces_max: usize) -> Debtors {
        let mut found: HashMap<u64, Debtor> = HashMap::new();
        let state = self.state.lock();
        let unreported = state.window.iter().flat_map(|window| window.debts.iter());
        let unreported_units = state.window.as_ref().map_or(0, |window| window.debts.total_cost());
        let mut rest_units = state.debts.total_cost() + unreported_units;
        for run in state.debts.iter().chain(unreported).take(pieces_max) {
            let debtor = entry(&mut found, run.account);
            debtor.units += run.cost;
            debtor.bytes += run.bytes;
            rest_units -= run.cost;
        }
        for segment in state.queue.iter().take(pieces_max) {
            let Segment::Shared(body) = segment else { continue };
            let debtor = entry(&mut found, body.loan.account());
            // Its bytes are in the runs already, what it costs is not.
            debtor.units += body.loan.cost();
        }
        drop(state);
        let mut each: Vec<Debtor> = found.into_values().collect();
        each.iter_mut().for_each(|d| d.events = (d.units.saturating_sub(d.bytes) / EVENT_COST).max(1));
        Debtors { each, rest_units }
    }

    /// The sessions that wait for room here.
    pub(crate) fn awaited_by(&self) -> Vec<u64> {
        self.state.lock().waiters.keys().copied().collect()
    }
}

fn entry<'f>(found: &'f mut HashMap<u64, Debtor>, account: &Arc<Account>) -> &'f mut Debtor {
    let new = || Debtor { account: account.clone(), units: 0, bytes: 0, events: 0 };
    found.entry(account.id()).or_insert_with(new)
}

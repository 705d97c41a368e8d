//! Audits: whether what is owed is exactly what waits.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use staunch_flowctl::AuditError;

use crate::Broker;
use crate::schedule::NotPaused;

/// How long workers may take to come to rest.
const PATIENCE: Duration = Duration::from_millis(100);

/// What an audit saw.
#[derive(Debug, Clone)]
pub struct Audit {
    /// The sum of all debts, in cost units.
    pub debt: u64,
    /// What waits, in the same.
    pub outstanding: u64,
    /// Accounts that are open or owe something.
    pub accounts: usize,
    /// Connections.
    pub connections: usize,
    /// For how long nothing moved.
    pub paused: Duration,
    /// What does not add up, if something does not: a bug.
    pub imbalance: Option<AuditError>,
}

impl Broker {
    /// Has all workers stand still and compares.
    ///
    /// # Errors
    /// If they do not come to rest soon.
    pub(crate) fn pause_and_audit(&self) -> Result<Audit, NotPaused> {
        let start = Instant::now();
        let audit = self.scheduler().pause(PATIENCE, || self.compare())?;
        self.counters.audits.fetch_add(1, Ordering::Relaxed);
        if let Some(error) = &audit.imbalance {
            self.counters.imbalances.fetch_add(1, Ordering::Relaxed);
            tracing::error!("debts and what waits do not agree, which is a bug; please report it: {error}");
        }
        Ok(Audit { paused: start.elapsed(), ..audit })
    }

    /// Compares what is owed with what waits. Meaningful only while nothing moves.
    pub(crate) fn compare(&self) -> Audit {
        let outstanding = self.outstanding();
        let imbalance = self.ledger.audit(outstanding).err();
        Audit {
            debt: self.ledger.total_debt(),
            outstanding,
            accounts: self.ledger.accounts().len(),
            connections: self.sessions.len(),
            paused: Duration::ZERO,
            imbalance,
        }
    }

    /// What is owed for all that waits: in outboxes, in the queues of dataspaces and of the reporter, and for Syncs.
    fn outstanding(&self) -> u64 {
        let (mut outstanding, mut seen) = (self.owed_for_syncs.load(Ordering::Relaxed), HashSet::new());
        for session in &self.sessions {
            outstanding += session.outbox().load().units;
            for body in session.outbox().shared_bodies() {
                // It is owed for once, whoever holds it.
                if seen.insert(Arc::as_ptr(&body).addr()) {
                    outstanding += body.loan().cost();
                }
            }
        }
        let sum = |owed: Vec<(_, u64)>| owed.iter().map(|(_, cost)| cost).sum::<u64>();
        for dataspace in self.dataspaces.lock().iter().filter_map(Weak::upgrade) {
            outstanding += sum(dataspace.inbox.owed());
        }
        let reporter = self.reporter.get().and_then(Weak::upgrade);
        outstanding + reporter.map_or(0, |reporter| sum(reporter.owed()))
    }
}

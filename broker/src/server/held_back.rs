//! Tells who is held back because of whom.
//!
//! Now and then it is looked which sessions are not read. Those that were not the time before either have something to
//! wait for that does not go by: the log names who reads least of what they have caused. Nothing of this is in the way
//! of messages; while nobody is held back it reads one number.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Server;
use crate::relay::Session;

/// How often it is looked.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How often a consumer is named.
const NAMED_EVERY: Duration = Duration::from_secs(60);
/// How many are named in one look, and how many that are held back because of one.
const NAMED_MAX: usize = 4;

/// What was seen before.
#[derive(Default)]
pub(super) struct HeldBack {
    looked: Option<Instant>,
    /// Who was held back then.
    sessions: HashSet<u64>,
    /// Consumers that were named not long ago, and when.
    named: HashMap<u64, Instant>,
}

/// Bytes that wait for a session to read them.
pub(super) fn waiting(session: &Session) -> u64 {
    let owed = session.outbox().owed().iter().map(|(_, bytes, _)| *bytes).sum::<u64>();
    let shared = session.outbox().shared_bodies();
    owed + shared.iter().map(|body| body.bytes().len() as u64).sum::<u64>()
}

/// What waits for a session because of each of these.
fn waiting_by(session: &Session, debtors: &HashSet<u64>) -> HashMap<u64, u64> {
    let mut by = HashMap::new();
    for (account, bytes, _) in session.outbox().owed() {
        *by.entry(account.id()).or_default() += bytes;
    }
    for body in session.outbox().shared_bodies() {
        *by.entry(body.loan().account().id()).or_default() += body.bytes().len() as u64;
    }
    by.retain(|id, _| debtors.contains(id));
    by
}

impl Server {
    /// Looks who is held back, if it is time.
    pub(super) fn look_who_is_held_back(&self) {
        let (mut state, now) = (self.held_back.lock(), Instant::now());
        if state.looked.is_some_and(|at| now - at < LOOK_EVERY) {
            return;
        }
        state.looked = Some(now);
        if self.broker.stalls.count() == 0 {
            return state.sessions.clear();
        }
        let all = self.sessions();
        let is_held_back = |session: &&Arc<Session>| session.meter().throttle().is_some();
        let held: HashSet<u64> = all.iter().filter(is_held_back).map(|session| session.id()).collect();
        let still = &held & &state.sessions;
        state.sessions = held;
        state.named.retain(|_, at| now - *at < NAMED_EVERY);
        if still.is_empty() {
            return;
        }
        let because = because_of(&all, &still);
        let new = because.into_iter().filter(|(id, _)| !state.named.contains_key(id));
        let new: Vec<(u64, Vec<u64>)> = new.take(NAMED_MAX).collect();
        for (consumer, producers) in new {
            state.named.insert(consumer, now);
            tell(&all, consumer, &producers);
        }
    }
}

/// Who reads least of what those have caused who are held back: a consumer, and for whom it is so.
fn because_of(all: &[Arc<Session>], held: &HashSet<u64>) -> HashMap<u64, Vec<u64>> {
    let mut most: HashMap<u64, (u64, u64)> = HashMap::new();
    for session in all {
        for (debtor, bytes) in waiting_by(session, held) {
            let entry = most.entry(debtor).or_default();
            *entry = (*entry).max((bytes, session.id()));
        }
    }
    let mut because: HashMap<u64, Vec<u64>> = HashMap::new();
    for (debtor, (_, consumer)) in most {
        because.entry(consumer).or_default().push(debtor);
    }
    because
}

fn tell(all: &[Arc<Session>], consumer: u64, producers: &[u64]) {
    let find = |id: u64| all.iter().find(|session| session.id() == id);
    let Some(session) = find(consumer) else { return };
    let named = producers.iter().take(NAMED_MAX).filter_map(|id| Some(find(*id)?.account().name()));
    let mut held_back = named.collect::<Vec<_>>().join(", ");
    if let Some(more @ 1..) = producers.len().checked_sub(NAMED_MAX) {
        held_back += &format!(" and {more} others");
    }
    let (consumer, principal) = (session.account().name(), session.account().principal().name());
    tracing::info!(
        consumer,
        principal,
        bytes = waiting(session),
        held_back,
        "does not read, and holds others back"
    );
}

//! Who connections belong to, and what each holds.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;

use dashmap::DashMap;
use staunch_index::Payer;

use crate::Broker;
use crate::limits::{Limits, Meter, Taken};
use crate::relay::Failure;

/// What one principal holds, beside its debts.
#[derive(Default)]
pub(crate) struct Holdings {
    pub(crate) assertions: Taken,
    pub(crate) observations: Taken,
    pub(crate) references: Taken,
    /// References that others have been told.
    told: Taken,
    /// Syncs that wait for an answer.
    syncs: Taken,
    /// Bytes of packets that have not come whole, and of others that wait.
    pub(crate) unfinished: Taken,
    /// The same, of connections that have been given nothing but the gatekeeper.
    pub(crate) unfinished_strangers: Taken,
    /// Skeletons that exist because of it. Relaxed throughout: a bound, nothing is published by it.
    skeletons: AtomicU64,
    /// Captures lists kept for its observations, and how many there may be: for all principals the same. Relaxed
    /// throughout, as above.
    captures: AtomicU64,
    captures_max: Arc<AtomicU64>,
    /// Where it is listed.
    listed: Option<(Box<str>, Weak<Map>)>,
}

impl Holdings {
    /// Another than that of any other principal that is there.
    pub(crate) fn number(self: &Arc<Holdings>) -> u64 {
        Arc::as_ptr(self).addr() as u64
    }
}

type Map = DashMap<Box<str>, Weak<Holdings>>;

impl Drop for Holdings {
    fn drop(&mut self) {
        if let Some((name, map)) = &self.listed
            && let Some(map) = map.upgrade()
        {
            // It may have come back meanwhile.
            map.remove_if(name, |_, held| held.strong_count() == 0);
        }
    }
}

/// Holdings by the principal's name, as long as anybody of it is there: addresses seen once do not pile up.
#[derive(Default)]
pub(crate) struct Principals {
    map: Arc<Map>,
    captures_max: Arc<AtomicU64>,
    pub(crate) arrivals: Arrivals,
}

/// New connections, by principal: remembered for as long as they count, also when all of them have gone.
#[derive(Default)]
pub(crate) struct Arrivals {
    meters: DashMap<Box<str>, Meter>,
    /// How many there may be before those that are full are forgotten. Relaxed throughout: a bound.
    forget_above: AtomicUsize,
}

impl Arrivals {
    /// So few need not be looked through.
    const KNOWN_MIN: usize = 1024;

    /// Whether one more connection of this principal may come now.
    pub(crate) fn admit(&self, principal: &str, rate: u64, burst: u64) -> bool {
        let now = Instant::now();
        let is_admitted = self.meters.entry(principal.into()).or_default().admit(rate, burst, now);
        let count = self.meters.len();
        if count > self.forget_above.load(Ordering::Relaxed).max(Arrivals::KNOWN_MIN) {
            // Each time as many have come as were left the last time.
            self.meters.retain(|_, meter| !meter.is_full(rate, burst, now));
            self.forget_above.store(2 * self.meters.len(), Ordering::Relaxed);
        }
        is_admitted
    }
}

impl Principals {
    /// How many captures lists may be kept for one principal's observations.
    pub(crate) fn set_captures_max(&self, max: u64) {
        self.captures_max.store(max, Ordering::Relaxed);
    }

    pub(crate) fn get(&self, name: &str) -> Arc<Holdings> {
        let mut entry = self.map.entry(name.into()).or_default();
        if let Some(known) = entry.upgrade() {
            return known;
        }
        let listed = Some((Box::from(name), Arc::downgrade(&self.map)));
        let mut holdings = Holdings::default();
        holdings.captures_max = self.captures_max.clone();
        holdings.listed = listed;
        let new = Arc::new(holdings);
        *entry = Arc::downgrade(&new);
        new
    }
}

/// Held by a skeleton: a place in its maker's allowance, given back on drop.
pub(crate) struct SkeletonShare(Arc<Holdings>);

impl SkeletonShare {
    /// Takes a place for a skeleton with which those that are like it come to `alike`, if there is one.
    ///
    /// # Errors
    /// The limit that is reached.
    pub(crate) fn take(
        holdings: &Arc<Holdings>,
        alike: u64,
        limits: &Limits,
    ) -> Result<SkeletonShare, Failure> {
        if alike > limits.principal_skeletons_alike {
            return Err(Failure::TooManySkeletonsAlike(limits.principal_skeletons_alike));
        }
        let skeletons_max = limits.principal_skeletons;
        let taken = holdings
            .skeletons
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < skeletons_max).then_some(n + 1));
        match taken {
            Ok(_) => Ok(SkeletonShare(holdings.clone())),
            Err(_) => Err(Failure::TooManySkeletons(skeletons_max)),
        }
    }
}

impl Drop for SkeletonShare {
    fn drop(&mut self) {
        self.0.skeletons.fetch_sub(1, Ordering::Relaxed);
    }
}

/// So much of something of a principal's, given back on drop. 16 bytes, as there may be many.
pub(crate) struct Taking {
    holdings: Arc<Holdings>,
    count: u32,
    what: Countable,
}

/// What it is of.
#[derive(Clone, Copy)]
enum Countable {
    Told,
    Syncs,
}

impl Taking {
    /// One more Sync that waits, if there may be so many.
    pub(crate) fn sync(holdings: &Arc<Holdings>, max: u64) -> Option<Taking> {
        Taking::take(holdings, 1, Countable::Syncs, max)
    }

    fn take(holdings: &Arc<Holdings>, count: u32, what: Countable, max: u64) -> Option<Taking> {
        let is_taken = holdings.taken(what).try_take(count.into(), max);
        is_taken.then(|| Taking { holdings: holdings.clone(), count, what })
    }
}

impl Holdings {
    fn taken(&self, what: Countable) -> &Taken {
        match what {
            Countable::Told => &self.told,
            Countable::Syncs => &self.syncs,
        }
    }
}

impl Drop for Taking {
    fn drop(&mut self) {
        self.holdings.taken(self.what).give_back(self.count.into());
    }
}

/// Who answers for references in an assertion: the session that asserted it, or the first of those.
#[derive(Clone)]
pub(crate) struct Author {
    holdings: Arc<Holdings>,
    pub(crate) session: u64,
}

impl Author {
    pub(crate) fn new(holdings: &Arc<Holdings>, session: u64) -> Author {
        Author { holdings: holdings.clone(), session }
    }

    /// The session with this number, if it is still there.
    pub(crate) fn of(broker: &Broker, session: u64) -> Option<Author> {
        broker.sessions.get(&session).map(|found| Author::new(found.holdings(), session))
    }

    /// One more session is told of so many references, if there may be so many.
    pub(crate) fn tell(&self, count: u32, max: u64) -> Option<Taking> {
        Taking::take(&self.holdings, count, Countable::Told, max)
    }
}

/// Pays for what a session's observation makes an index keep.
#[derive(Clone)]
pub(crate) struct CapturesPayer {
    holdings: Arc<Holdings>,
    /// The session that asked for it.
    pub(crate) session: u64,
}

impl CapturesPayer {
    pub(crate) fn new(holdings: &Arc<Holdings>, session: u64) -> CapturesPayer {
        CapturesPayer { holdings: holdings.clone(), session }
    }

    /// How many lists it may have.
    pub(crate) fn captures_max(&self) -> u64 {
        self.holdings.captures_max.load(Ordering::Relaxed)
    }
}

impl Payer for CapturesPayer {
    fn number(&self) -> u64 {
        self.holdings.number()
    }

    fn holder(&self) -> u64 {
        self.session
    }

    fn take(&self, lists: u64) {
        self.holdings.captures.fetch_add(lists, Ordering::Relaxed);
    }

    fn give_back(&self, lists: u64) {
        self.holdings.captures.fetch_sub(lists, Ordering::Relaxed);
    }

    fn is_overdrawn(&self) -> bool {
        self.holdings.captures.load(Ordering::Relaxed) > self.captures_max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_gone_is_forgotten() {
        let principals = Principals::default();
        let first = principals.get("a");
        assert!(Arc::ptr_eq(&first, &principals.get("a")));
        let second = principals.get("b");
        assert_eq!(principals.map.len(), 2);
        drop(first);
        assert_eq!(principals.map.len(), 1);
        drop(second);
        assert_eq!(principals.map.len(), 0);
    }
}

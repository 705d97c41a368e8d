//! What connections may have, and the principals that answer for them.
//!
//! A bound that a peer exceeds ends its session, with an Error packet that names the bound, as configurations call it,
//! in brackets; one on connections refuses the new one. All can be changed while the broker runs: what exceeds a new bound stays, and nothing is added to it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

/// Bounds on what peers may have. The numbers count what is alive at a time, unless it says otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one packet. (For connections made from then on.)
    pub packet_bytes: u32,
    /// How deep values may be nested. (For connections made from then on.)
    pub packet_depth: u16,
    /// Connections of all principals together: so many at most, and fewer if the process may not have a descriptor for
    /// each (`RLIMIT_NOFILE`, when the broker starts).
    pub connections: u64,
    /// Connections of one principal: so many at most, and no more than three quarters of those that there are
    /// descriptors for.
    pub principal_connections: u64,
    /// New connections of one principal a second, on average.
    pub principal_connection_rate: u64,
    /// How many new connections may come at once before that average counts.
    pub principal_connection_burst: u64,
    /// What one connection may have.
    pub connection: Quota,
    /// What one principal's connections may have together.
    pub principal: Quota,
    /// Kinds of pattern (skeletons: shapes with the positions of constants) that exist because of one principal. Each
    /// that is like a value costs some 45 ns for each such value that anybody asserts or sends.
    pub principal_skeletons: u64,
    /// What those of one principal may come to that are like one value: that are for one label, for sequences, for
    /// dictionaries, or for anything. Each counts one, and one more for each two groups or constants beyond the first. That is
    /// how much one principal can add to what others' values cost, in some 10 to 40 ns each.
    pub principal_skeletons_alike: u64,
    /// Captures lists that the broker keeps for one principal's observations, over all of its patterns, counted in steps:
    /// for each pattern what it captures, some 35 bytes each, and once more for each further observation of the same
    /// pattern by one connection. Observers of one pattern share its lists, and one of their principals pays for them. Four
    /// assertions that a kind of pattern is like count as a list, and so do 32 bytes of lists that are no longer in any
    /// assertion, or lie in one that is more than four times as long. As it grows by what others assert, the observers
    /// for whom it is too much end.
    pub principal_captures: u64,
    /// References in assertions that one principal's connections have made, once for each connection that has been told of
    /// such an assertion. Each takes some 230 bytes.
    pub principal_told: u64,
    /// Syncs of one principal that have been handed on to a peer's entity and wait for the answer. Each takes some 700
    /// bytes.
    pub principal_syncs: u64,
    /// Bytes of memory for packets of one principal that have not come whole or not taken effect yet, with what is known of them so far: for
    /// a packet of very many very short values that is up to ten times its length. Up to 16 KiB in a connection are not
    /// counted. Connections that have resolved no reference yet have an eighth of it, for themselves.
    pub principal_unfinished: u64,
}

/// What a connection or a principal may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Assertions (each with a handle), observations included. Each takes some 200 bytes, and its own.
    pub assertions: u64,
    /// Observations of dataspaces. Each takes some 700 bytes, and those of the pattern.
    pub observations: u64,
    /// Entities of the peer's that the broker knows. Each takes some 300 bytes.
    pub references: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            packet_bytes: 16 << 20,
            packet_depth: 256,
            connections: 100_000,
            principal_connections: 50_000,
            principal_connection_rate: 2_000,
            principal_connection_burst: 20_000,
            connection: Quota { assertions: 10_000_000, observations: 200_000, references: 200_000 },
            principal: Quota { assertions: 20_000_000, observations: 1_000_000, references: 1_000_000 },
            principal_skeletons: 20_000,
            principal_skeletons_alike: 256,
            principal_captures: 20_000_000,
            principal_told: 2_000_000,
            principal_syncs: 200_000,
            principal_unfinished: 512 << 20,
        }
    }
}

impl Limits {
    /// What holds in this process: no more connections than it has descriptors for. Raises its soft limit of these.
    pub fn with_descriptors(mut self) -> Limits {
        let (_, places) = Places::here();
        self.connections = self.connections.min(places.connections);
        self.principal_connections = self.principal_connections.min(places.principal_connections);
        self
    }
}

/// How many connections the process has descriptors for, each one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Places {
    pub(crate) connections: u64,
    pub(crate) principal_connections: u64,
}

impl Places {
    /// Kept for all that is no connection: listeners, workers, files, and connections while they are refused or end.
    const KEPT_MIN: u64 = 32;
    const KEPT_MAX: u64 = 1024;

    /// Of this process, once it may have as many descriptors as it can be allowed: how many, and the places.
    pub(crate) fn here() -> (u64, Places) {
        // If it cannot be raised, what there is has to do.
        let descriptors = staunch_system::limits::raise_open_files()
            .unwrap_or_else(|_| staunch_system::limits::open_files());
        (descriptors, Places::of(descriptors))
    }

    /// Of a process that may have so many descriptors.
    pub(crate) fn of(open_files_max: u64) -> Places {
        let kept = (open_files_max / 8).clamp(Places::KEPT_MIN, Places::KEPT_MAX);
        let connections = open_files_max.saturating_sub(kept).max(2);
        Places { connections, principal_connections: connections - (connections / 4).max(1) }
    }
}

/// What there may be too many of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Thing {
    Assertions,
    Observations,
    References,
}

impl Thing {
    fn of(self, quota: &Quota) -> u64 {
        match self {
            Thing::Assertions => quota.assertions,
            Thing::Observations => quota.observations,
            Thing::References => quota.references,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Thing::Assertions => "assertions",
            Thing::Observations => "observations",
            Thing::References => "references to entities",
        }
    }

    /// As configurations call it, behind whose it is.
    fn key(self) -> &'static str {
        match self {
            Thing::References => "references",
            other => other.name(),
        }
    }
}

/// A bound is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("More than {max} {} of one {whose} ({whose}-{})", thing.name(), thing.key())]
pub(crate) struct Exceeded {
    thing: Thing,
    whose: &'static str,
    max: u64,
}

/// What one principal's connections have taken of one thing. Relaxed throughout: a bound, nothing is published by it.
#[derive(Default)]
pub(crate) struct Taken(AtomicU64);

impl Taken {
    pub(crate) fn try_take(&self, count: u64, max: u64) -> bool {
        let more = |n: u64| n.checked_add(count).filter(|n| *n <= max);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    pub(crate) fn give_back(&self, count: u64) {
        self.0.fetch_sub(count, Ordering::Relaxed);
    }
}

/// What one connection's unfinished packet has taken of its principal's allowance, in bytes.
#[derive(Default)]
pub(crate) struct Unfinished(u64);

impl Unfinished {
    /// What is not counted.
    const FREE: u64 = 16 << 10;
    /// How much is taken at a time.
    const CHUNK: u64 = 64 << 10;

    /// It takes so much now. False if that is too much for the principal.
    #[inline]
    pub(crate) fn cover(&mut self, bytes: u64, taken: &Taken, max: impl FnOnce() -> u64) -> bool {
        let needed = if bytes <= Unfinished::FREE { 0 } else { bytes.next_multiple_of(Unfinished::CHUNK) };
        if needed > self.0 && !taken.try_take(needed - self.0, max()) {
            return false;
        }
        if needed < self.0 {
            taken.give_back(self.0 - needed);
        }
        self.0 = needed;
        true
    }

    /// Gives back all.
    pub(crate) fn release(&mut self, taken: &Taken) {
        taken.give_back(std::mem::take(&mut self.0));
    }
}

/// What one connection has taken of its principal's allowance of one thing: some more than it has, so that it need not
/// ask each time. (So a principal with many connections may be told "too many" a little early.)
#[derive(Default)]
pub(crate) struct Share(u64);

impl Share {
    /// How much is taken at a time.
    const CHUNK: u64 = 64;

    /// How many there may be without asking.
    #[inline]
    pub(crate) fn room(&self) -> u64 {
        self.0
    }

    /// There are to be `count` now.
    pub(crate) fn cover(
        &mut self,
        count: u64,
        thing: Thing,
        taken: &Taken,
        limits: &Limits,
    ) -> Result<(), Exceeded> {
        if count <= self.0 {
            return Ok(());
        }
        let max = thing.of(&limits.connection);
        if count > max {
            return Err(Exceeded { thing, whose: "connection", max });
        }
        let max_principal = thing.of(&limits.principal);
        let missing = count - self.0;
        // Not beyond the connection's own bound: the share is what the next ones are not asked about.
        for more in [missing.max(Share::CHUNK).min(max - self.0), missing] {
            if taken.try_take(more, max_principal) {
                self.0 += more;
                return Ok(());
            }
        }
        Err(Exceeded { thing, whose: "principal", max: max_principal })
    }

    /// There are `count` now: gives back what is not needed soon.
    #[inline]
    pub(crate) fn trim(&mut self, count: u64, taken: &Taken) {
        if self.0 > count + 4 * Share::CHUNK {
            taken.give_back(self.0 - count - Share::CHUNK);
            self.0 = count + Share::CHUNK;
        }
    }

    /// Gives back all.
    pub(crate) fn release(&mut self, taken: &Taken) {
        taken.give_back(std::mem::take(&mut self.0));
    }
}

/// Meters what comes at a rate: a bucket that fills by so many a second, up to so many.
#[derive(Default)]
pub(crate) struct Meter(Mutex<Option<(f64, Instant)>>);

impl Meter {
    /// Whether it would admit as many as if nothing had ever come.
    pub(crate) fn is_full(&self, rate: u64, burst: u64, now: Instant) -> bool {
        let state = self.0.lock();
        state.is_none_or(|(left, since)| {
            left + now.saturating_duration_since(since).as_secs_f64() * rate as f64 >= burst as f64
        })
    }

    /// Whether one more may come now.
    pub(crate) fn admit(&self, rate: u64, burst: u64, now: Instant) -> bool {
        let mut state = self.0.lock();
        let (left, since) = state.unwrap_or((burst as f64, now));
        let passed = now.saturating_duration_since(since).as_secs_f64();
        let left = (left + passed * rate as f64).min(burst as f64);
        let is_admitted = left >= 1.0;
        *state = Some((if is_admitted { left - 1.0 } else { left }, now));
        is_admitted
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn limits(connection: u64, principal: u64) -> Limits {
        let quota = |n| Quota { assertions: n, observations: n, references: n };
        Limits { connection: quota(connection), principal: quota(principal), ..Limits::default() }
    }

    #[test]
    fn descriptors_are_kept_for_others() {
        let places = |max| {
            let Places { connections, principal_connections } = Places::of(max);
            (connections, principal_connections)
        };
        assert_eq!([places(0), places(20), places(128)], [(2, 1), (2, 1), (96, 72)]);
        assert_eq!([places(1024), places(1 << 20)], [(896, 672), ((1 << 20) - 1024, (3 << 18) - 768)]);
        assert_eq!(places(u64::MAX).0, u64::MAX - 1024);
    }

    #[test]
    fn shares_never_exceed_what_is_allowed() {
        let (taken, limits) = (Taken::default(), limits(100, 150));
        let (mut one, mut two) = (Share::default(), Share::default());
        let cover = |share: &mut Share, n| share.cover(n, Thing::Assertions, &taken, &limits);
        assert_eq!(cover(&mut one, 100), Ok(()));
        assert_eq!(
            cover(&mut one, 101).unwrap_err().to_string(),
            "More than 100 assertions of one connection (connection-assertions)"
        );
        assert_eq!(cover(&mut two, 50), Ok(()));
        assert_eq!(
            cover(&mut two, 51).unwrap_err().to_string(),
            "More than 150 assertions of one principal (principal-assertions)"
        );
        one.release(&taken);
        assert_eq!(cover(&mut two, 100), Ok(()));
        two.release(&taken);
        assert_eq!(taken.0.into_inner(), 0);
    }

    #[test]
    fn what_is_not_needed_is_given_back() {
        let (taken, limits) = (Taken::default(), limits(10_000, 10_000));
        let mut share = Share::default();
        (1..=5000).for_each(|n| share.cover(n, Thing::References, &taken, &limits).unwrap());
        assert!(share.room() < 5000 + Share::CHUNK);
        (0..5000).rev().for_each(|n| {
            share.trim(n, &taken);
            assert!(share.room() >= n);
        });
        assert!(taken.0.load(Ordering::Relaxed) <= 4 * Share::CHUNK);
    }

    #[test]
    fn a_meter_admits_the_burst_and_then_the_rate() {
        let (meter, start) = (Meter::default(), Instant::now());
        let admitted = |millis| {
            let now = start + Duration::from_millis(millis);
            (0..1000).filter(|_| meter.admit(10, 50, now)).count()
        };
        assert_eq!([admitted(0), admitted(10), admitted(1000), admitted(100_000)], [50, 0, 10, 50]);
    }
}

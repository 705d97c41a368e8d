//! Everything over time: running totals as they came, and rates at every tenth of a second made from these.

use serde::{Deserialize, Serialize};

use super::gauge::Reading;
use crate::crew::{TICK_NS, Totals};

/// All that was noted in one play.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// By group.
    pub tracks: Vec<Tracks>,
    /// The broker before anybody sent.
    pub baseline: Option<Reading>,
    /// The broker meanwhile.
    pub readings: Vec<Reading>,
}

/// One group's running totals, in the order of time.
#[derive(Clone, Debug, Default)]
pub struct Tracks(Vec<Totals>);

impl Tracks {
    /// The next.
    pub fn push(&mut self, totals: Totals) {
        self.0.push(totals);
    }

    /// The latest.
    pub fn last(&self) -> Option<&Totals> {
        self.0.last()
    }

    /// All, in order.
    pub fn all(&self) -> &[Totals] {
        &self.0
    }

    /// The latest at that time, in seconds from the start.
    pub fn at(&self, seconds: f64) -> Option<&Totals> {
        let ns = (seconds * 1e9) as u64;
        let after = self.0.partition_point(|t| t.at_ns <= ns);
        self.0[..after].last()
    }

    /// Those with `from < at <= to`, in seconds from the start.
    pub fn within(&self, from_s: f64, to_s: f64) -> &[Totals] {
        let place = |s: f64| self.0.partition_point(|t| t.at_ns as f64 <= s * 1e9);
        let (start, end) = (place(from_s), place(to_s));
        &self.0[start.min(end)..end]
    }

    /// Per second, of what `value` picks, between two times.
    pub fn rate(&self, from_s: f64, to_s: f64, value: impl Fn(&Totals) -> u64) -> f64 {
        let (Some(a), Some(b)) = (self.at(from_s), self.at(to_s)) else { return 0.0 };
        let seconds = b.at_ns.saturating_sub(a.at_ns) as f64 / 1e9;
        if seconds <= 0.0 { 0.0 } else { value(b).saturating_sub(value(a)) as f64 / seconds }
    }

    /// When something was delivered last, in nanoseconds from the start.
    pub fn last_delivery_ns(&self) -> Option<u64> {
        let total = self.last()?.delivered;
        self.0.iter().find(|t| t.delivered == total).filter(|_| total > 0).map(|t| t.at_ns)
    }
}

/// Plots of a play, at every tenth of a second from the start. Each list is as long as the others.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// Time between two points, in seconds.
    pub step_s: f64,
    /// For each group, in the scenario's order.
    pub groups: Vec<GroupSeries>,
    /// The broker's resident memory, in MiB.
    pub rss_mib: Vec<f64>,
    /// What waits in the kernel's queues of its sockets, in MiB.
    pub queued_mib: Vec<f64>,
    /// Processors that it uses.
    pub cpu: Vec<f64>,
}

/// One group's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GroupSeries {
    /// Its name.
    pub name: String,
    /// `producer`, `relay` or `consumer`.
    pub role: String,
    /// Whether it has nothing to do with who stalls.
    pub innocent: bool,
    /// Messages a second that were to be sent.
    pub offered_per_s: Vec<f64>,
    /// Messages a second that the kernel took.
    pub accepted_per_s: Vec<f64>,
    /// Messages a second received.
    pub delivered_per_s: Vec<f64>,
    /// The share of time in which a client had something to write and could not: from 0 to 1.
    pub blocked: Vec<f64>,
    /// Messages missing before others that came, so far.
    pub lost: Vec<f64>,
    /// Messages out of order, so far.
    pub reordered: Vec<f64>,
    /// Messages received twice, so far.
    pub duplicated: Vec<f64>,
    /// Connections that the broker ended, so far.
    pub disconnects: Vec<f64>,
    /// Latencies in milliseconds: the median; `null` where nothing was timed.
    pub latency_p50_ms: Vec<Option<f64>>,
    /// 99 of 100.
    pub latency_p99_ms: Vec<Option<f64>>,
    /// The slowest.
    pub latency_max_ms: Vec<Option<f64>>,
}

impl Record {
    /// How many points the plots have.
    fn points(&self) -> usize {
        let last = self.tracks.iter().filter_map(|t| t.last()).map(|t| t.at_ns).max().unwrap_or(0);
        (last / TICK_NS) as usize + 1
    }

    /// Plots, but for names and roles.
    pub fn series(&self, clients: &[usize]) -> Series {
        let points = self.points();
        let groups = self.tracks.iter().zip(clients).map(|(t, clients)| t.series(points, *clients)).collect();
        let mut series = Series { step_s: TICK_NS as f64 / 1e9, groups, ..Series::default() };
        let mut readings = self.readings.iter().peekable();
        let mut last = self.baseline.unwrap_or_default();
        let mut cpu = 0.0;
        for point in 0..points as u64 {
            while let Some(next) = readings.next_if(|r| r.at_ns < (point + 1) * TICK_NS) {
                let passed = next.at_ns.saturating_sub(last.at_ns);
                if passed > 0 && last.cpu_ns > 0 {
                    cpu = next.cpu_ns.saturating_sub(last.cpu_ns) as f64 / passed as f64;
                }
                last = *next;
            }
            series.rss_mib.push(last.rss_kib as f64 / 1024.0);
            series.queued_mib.push(last.queued_bytes as f64 / 1048576.0);
            series.cpu.push(cpu);
        }
        series
    }
}

impl Tracks {
    fn series(&self, points: usize, clients: usize) -> GroupSeries {
        let mut out = GroupSeries::default();
        let mut last = Totals::default();
        let mut totals = self.0.iter().peekable();
        for point in 0..points as u64 {
            let before = last.clone();
            let mut latency = None;
            while let Some(next) = totals.next_if(|t| t.at_ns < (point + 1) * TICK_NS + TICK_NS / 2) {
                latency = next.latency_us.or(latency);
                last = next.clone();
            }
            // A process that was stopped did all that it did just before it told of it.
            let seconds = (last.at_ns.saturating_sub(before.at_ns)).clamp(1, TICK_NS * 3 / 2) as f64 / 1e9;
            let per_s = |f: fn(&Totals) -> u64| (f(&last).saturating_sub(f(&before))) as f64 / seconds;
            out.offered_per_s.push(per_s(|t| t.offered));
            out.accepted_per_s.push(per_s(|t| t.accepted));
            out.delivered_per_s.push(per_s(|t| t.delivered));
            out.blocked.push((per_s(|t| t.blocked_ns) / 1e9 / clients.max(1) as f64).min(1.0));
            out.lost.push(last.faults.lost as f64);
            out.reordered.push(last.faults.reordered as f64);
            out.duplicated.push(last.faults.duplicated as f64);
            out.disconnects.push(last.disconnects as f64);
            out.latency_p50_ms.push(latency.map(|l| l[0] / 1e3));
            out.latency_p99_ms.push(latency.map(|l| l[1] / 1e3));
            out.latency_max_ms.push(latency.map(|l| l[2] / 1e3));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(tick: u64, delivered: u64) -> Totals {
        Totals { at_ns: tick * TICK_NS, delivered, ..Totals::default() }
    }

    #[test]
    fn a_gap_is_a_time_without_deliveries() {
        let mut tracks = Tracks::default();
        [(0, 0), (1, 100), (5, 150), (6, 250)].iter().for_each(|(t, d)| tracks.push(totals(*t, *d)));
        let record = Record { tracks: vec![tracks], ..Record::default() };
        let series = record.series(&[1]);
        let rates: Vec<u64> = series.groups[0].delivered_per_s.iter().map(|r| r.round() as u64).collect();
        assert_eq!(rates.len(), 7);
        assert_eq!(rates[2..5], [0, 0, 333].map(|r| if r == 333 { rates[4] } else { r }));
        assert_eq!(rates.iter().filter(|r| **r > 0).count(), 3, "{rates:?}");
    }

    #[test]
    fn rates_are_differences_of_totals() {
        let mut tracks = Tracks::default();
        (0..10).for_each(|t| tracks.push(totals(t, t * 10)));
        assert_eq!(tracks.rate(0.2, 0.8, |t| t.delivered).round(), 100.0);
        assert_eq!(tracks.within(0.2, 0.4).len(), 2);
        assert_eq!(tracks.last_delivery_ns(), Some(900_000_000));
        assert_eq!(tracks.rate(5.0, 9.0, |t| t.delivered), 0.0);
    }
}

//! What one play of a scenario comes to, in numbers: how fast before, during and after the stall, how much memory, what
//! went wrong. Names end in the unit. [`crate::verdict`] judges them.

use std::collections::BTreeMap;

use crate::cast::Cast;
use crate::check::Faults;
use crate::crew::{TICK_NS, Totals};
use crate::play::Play;
use crate::play::series::Tracks;
use crate::record::Latency;
use crate::script::{Group, Reads, Script};

/// Figures by name.
pub type Figures = BTreeMap<String, f64>;

/// The share of the time before a stall that does not count: what is slow to start.
const START_SHARE: f64 = 0.3;

/// A rate below this share of the usual one is none.
const STILL_SHARE: f64 = 0.01;

/// A rate from this share of the usual one on is full again.
const FULL_SHARE: f64 = 0.8;

/// Takes all figures of one play.
pub fn of(script: &Script, play: &Play) -> Figures {
    let sight = Sight { script, play, cast: Cast::of(script) };
    let mut figures = Figures::new();
    sight.totals(&mut figures);
    sight.memory(&mut figures);
    sight.latencies(&mut figures);
    if let Some((from, to)) = script.stall() {
        sight.throttling(&mut figures, from, to);
        sight.innocents(&mut figures, from, to);
    }
    sight.evenness(&mut figures);
    sight.slow_readers(&mut figures);
    figures
}

/// Faults of all groups.
pub fn faults(play: &Play) -> Faults {
    let mut sum = Faults::default();
    play.endings.iter().for_each(|e| sum.add(&e.faults));
    sum
}

/// A play and what is known of it.
struct Sight<'a> {
    script: &'a Script,
    play: &'a Play,
    cast: Cast,
}

/// Producers: their group, and which of its clients (all, if it does not note each).
struct Senders<'a> {
    tracks: &'a Tracks,
    clients: Option<Vec<usize>>,
}

impl Senders<'_> {
    fn accepted(&self, totals: &Totals) -> u64 {
        match &self.clients {
            None => totals.accepted,
            Some(clients) => clients.iter().filter_map(|c| totals.clients.get(*c)).sum(),
        }
    }

    fn rate(&self, from: f64, to: f64) -> f64 {
        self.tracks.rate(from, to, |t| self.accepted(t))
    }
}

impl Sight<'_> {
    fn groups(&self) -> impl Iterator<Item = (usize, &Group, &Tracks)> {
        self.script.groups.iter().enumerate().map(|(n, g)| (n, g, &self.play.record.tracks[n]))
    }

    fn totals(&self, figures: &mut Figures) {
        let faults = faults(self.play);
        let last = |f: fn(&Totals) -> u64| -> f64 {
            self.play.record.tracks.iter().filter_map(|t| t.last()).map(f).sum::<u64>() as f64
        };
        let length = self.script.duration_s;
        let accepted: f64 = self.play.sent.iter().sum::<u64>() as f64;
        for (name, value) in [
            ("accepted", accepted),
            ("delivered", last(|t| t.delivered)),
            ("accepted_per_s", accepted / length),
            ("delivered_per_s", last(|t| t.delivered) / (length + self.play.drain_s.max(0.0))),
            ("lost", faults.lost as f64),
            ("duplicated", faults.duplicated as f64),
            ("reordered", faults.reordered as f64),
            ("misdelivered", faults.misdelivered as f64),
            ("damaged", faults.damaged as f64),
            ("disconnects", last(|t| t.disconnects)),
            ("reconnects", last(|t| t.reconnects)),
            ("drain_s", self.play.drain_s.max(0.0)),
        ] {
            figures.insert(name.to_owned(), value);
        }
    }

    fn memory(&self, figures: &mut Figures) {
        let record = &self.play.record;
        let Some(idle) = record.baseline else { return };
        // Of a stall what counts is what it adds; without one, what everything takes.
        let stall_ns = self.script.stall().map_or(0, |(from, _)| (from * 1e9) as u64);
        let baseline = record.readings.iter().rfind(|r| r.at_ns <= stall_ns).copied().unwrap_or(idle);
        let most =
            |f: fn(&crate::play::gauge::Reading) -> f64| record.readings.iter().map(f).fold(0.0, f64::max);
        let peak = most(|r| r.memory_mib());
        figures.insert("memory_idle_mib".into(), idle.memory_mib());
        figures.insert("memory_before_mib".into(), baseline.memory_mib());
        figures.insert("memory_peak_mib".into(), peak);
        figures.insert("memory_growth_mib".into(), (peak - baseline.memory_mib()).max(0.0));
        figures.insert("rss_peak_mib".into(), most(|r| r.rss_kib as f64 / 1024.0));
        figures.insert("queued_peak_mib".into(), most(|r| r.queued_bytes as f64 / 1048576.0));
        if let Some(last) = record.readings.last().filter(|r| r.at_ns > 0) {
            let used = last.cpu_ns.saturating_sub(idle.cpu_ns) as f64;
            figures.insert("broker_cpu_share".into(), used / last.at_ns as f64);
            let delivered = figures.get("delivered").copied().unwrap_or(0.0).max(1.0);
            figures.insert("broker_cpu_us_per_delivery".into(), used / 1e3 / delivered);
        }
    }

    fn latencies(&self, figures: &mut Figures) {
        let (mut all, mut innocent) = (Latency::default(), Latency::default());
        for ending in &self.play.endings {
            let group = &self.script.groups[ending.group];
            let latency = Latency::from_hex(&ending.latency);
            if let Some(latency) = latency.filter(|_| group.consuming().is_some()) {
                if group.is_innocent { innocent.add(&latency) } else { all.add(&latency) }
            }
        }
        for (prefix, latency) in [("latency", all), ("innocent_latency", innocent)] {
            if let Some(q) = latency.quantiles() {
                figures.insert(format!("{prefix}_p50_us"), q.p50_us);
                figures.insert(format!("{prefix}_p99_us"), q.p99_us);
                figures.insert(format!("{prefix}_p999_us"), q.p999_us);
                figures.insert(format!("{prefix}_max_us"), q.max_us);
            }
        }
    }

    /// Producers whose messages reach a client that stalls, or those of which none does.
    fn producers(&self, reaching: bool) -> Vec<Senders<'_>> {
        let mut out = vec![];
        for (number, group, tracks) in self.groups().filter(|(_, g, _)| g.producing().is_some()) {
            let reaches = |client: &usize| {
                let sends = &self.cast.clients[number][*client].sends;
                sends.iter().any(|s| self.cast.reaches_stalled(self.script, *s)) == reaching
            };
            let clients: Vec<usize> = (0..group.count).filter(reaches).collect();
            let is_all = clients.len() == group.count;
            let is_noted = group.count <= crate::crew::CLIENTS_NOTED_MAX;
            if !clients.is_empty() && (is_all || is_noted) {
                out.push(Senders { tracks, clients: (!is_all).then_some(clients) });
            }
        }
        out
    }

    fn throttling(&self, figures: &mut Figures, from: f64, to: f64) {
        let sum = |some: &[Senders<'_>], from, to| -> f64 { some.iter().map(|s| s.rate(from, to)).sum() };
        let reaching = self.producers(true);
        let before = sum(&reaching, from * START_SHARE, from);
        let middle = from + (to - from) / 2.0;
        let stalled = sum(&reaching, middle, to - 0.05);
        figures.insert("reaching_before_per_s".into(), before);
        figures.insert("reaching_stalled_per_s".into(), stalled);
        if before > 0.0 {
            figures.insert("reaching_stalled_share".into(), stalled / before);
        }
        let step = TICK_NS as f64 / 1e9;
        let rate_at = |at: f64| sum(&reaching, at - step, at);
        let bins = |from: f64, to: f64| {
            (1..=((to - from) / step).floor() as usize).map(move |n| from + n as f64 * step)
        };
        let last_moving = bins(from, to).rfind(|at| rate_at(*at) > before * STILL_SHARE);
        let after = last_moving.map_or(0.0, |at| at - from);
        if from + after < to - 1.5 * step {
            figures.insert("throttled_after_s".into(), after);
        }
        let is_full = |at: &f64| rate_at(*at) >= before * FULL_SHARE;
        let end = self.script.duration_s;
        // A play that never gets back to its rate took at least what is left of it.
        let back = bins(to, end).find(is_full).unwrap_or(end);
        figures.insert("recovery_s".into(), back - to);
        figures.insert("recovered".into(), f64::from(u8::from(bins(to, end).any(|at| is_full(&at)))));
        let best = bins(to, end).map(rate_at).fold(0.0, f64::max);
        figures.insert("recovered_share".into(), if before > 0.0 { best / before } else { 0.0 });
        let free = self.producers(false);
        let free_before = sum(&free, from * START_SHARE, from);
        if free_before > 0.0 {
            let share = sum(&free, from, to) / free_before;
            figures.insert("free_during_share".into(), share);
        }
    }

    fn innocents(&self, figures: &mut Figures, from: f64, to: f64) {
        let of = |g: &Group| g.is_innocent && g.consuming().is_some();
        let tracks: Vec<&Tracks> = self.groups().filter(|(_, g, _)| of(g)).map(|(.., t)| t).collect();
        if tracks.is_empty() {
            return;
        }
        let rate = |from, to| -> f64 { tracks.iter().map(|t| t.rate(from, to, |t| t.delivered)).sum() };
        let p99 = |from, to| {
            let mut values: Vec<f64> = tracks
                .iter()
                .flat_map(|t| t.within(from, to))
                .filter_map(|t| t.latency_us.map(|l| l[1]))
                .collect();
            values.sort_by(f64::total_cmp);
            values.get(values.len() / 2).copied().unwrap_or(0.0)
        };
        let before = rate(from * START_SHARE, from);
        figures.insert("innocent_before_per_s".into(), before);
        figures.insert("innocent_during_per_s".into(), rate(from, to));
        if before > 0.0 {
            figures.insert("innocent_during_share".into(), rate(from, to) / before);
        }
        figures.insert("innocent_before_p99_us".into(), p99(from * START_SHARE, from));
        figures.insert("innocent_during_p99_us".into(), p99(from, to));
    }

    /// Most over least accepted, among the clients of a group that are treated alike.
    fn evenness(&self, figures: &mut Figures) {
        let mut worst = None;
        for (_, group, tracks) in self.groups().filter(|(_, g, _)| g.producing().is_some() && g.count > 1) {
            let Some(totals) = tracks.at(self.script.duration_s).filter(|t| t.clients.len() == group.count)
            else {
                continue;
            };
            let most = totals.clients.iter().max().copied().unwrap_or(0) as f64;
            let least = totals.clients.iter().min().copied().unwrap_or(0) as f64;
            worst = Some(f64::max(worst.unwrap_or(1.0), most / least.max(1.0)));
        }
        if let Some(worst) = worst {
            figures.insert("evenness".into(), worst);
        }
    }

    fn slow_readers(&self, figures: &mut Figures) {
        let slow = self.groups().find_map(|(_, g, t)| Some((g, g.consuming()?.reads?, t)));
        let Some((group, reads, tracks)) = slow else { return };
        let (from, to) = (self.script.duration_s * 0.4, self.script.duration_s);
        let per_reader = match reads {
            Reads::Messages(n) => n,
            Reads::Bytes(_) => tracks.rate(from, to, |t| t.delivered) / group.count as f64,
        };
        let followed = &group.following().expect("consumers follow").groups;
        let followed = || followed.iter().map(|g| &self.play.record.tracks[*g]);
        let accepted = |from, to| -> f64 { followed().map(|t| t.rate(from, to, |t| t.accepted)).sum() };
        figures.insert("share_of_reader".into(), accepted(from, to) / per_reader.max(1e-9));
        let windows: Vec<f64> =
            (0..(to - from) as usize).map(|n| accepted(from + n as f64, from + n as f64 + 1.0)).collect();
        if windows.len() >= 4 {
            figures.insert("accepted_variation".into(), variation(&windows));
        }
    }
}

/// Standard deviation over mean.
fn variation(values: &[f64]) -> f64 {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let square = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (values.len() - 1).max(1) as f64;
    if mean > 0.0 { square.sqrt() / mean } else { 0.0 }
}

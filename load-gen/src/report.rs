//! What runs measured: one sample per repetition, medians and spread per point, as a table and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use crate::check::Faults;
use crate::record::Quantiles;
use crate::usage::Usage;

/// One repetition of one point of a scenario.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// What the point is called.
    pub point: String,
    /// Messages (or events) sent by producers.
    pub messages: u64,
    /// Messages (or events) received by consumers.
    pub deliveries: u64,
    /// From the first write to the last delivery.
    pub seconds: f64,
    /// What went wrong.
    pub faults: Faults,
    /// The broker's use of processor over the measured phase, and its memory afterwards.
    pub broker: Option<Usage>,
    /// Our own use of processor.
    pub load_cpu_ns: u64,
    /// Latencies, where they mean something.
    pub latency: Option<Quantiles>,
    /// Further figures of a scenario; the name ends in the unit.
    pub extra: Vec<(&'static str, f64)>,
}

impl Sample {
    /// All figures by name; the unit is the last part of the name.
    pub fn metrics(&self) -> BTreeMap<&'static str, f64> {
        let mut m = BTreeMap::new();
        // Without a delivery the time has no end; it does where none is missing.
        let is_timed = self.deliveries > 0 || self.faults.total() == 0;
        if is_timed && self.seconds > 0.0 && self.messages > 0 {
            m.insert("messages_per_s", self.messages as f64 / self.seconds);
            m.insert("deliveries_per_s", self.deliveries as f64 / self.seconds);
            m.insert("load_cpu_us_per_message", per(self.load_cpu_ns, self.messages));
            m.insert("load_cpu_share", self.load_cpu_ns as f64 / 1e9 / self.seconds);
        }
        m.insert("seconds", self.seconds);
        m.insert("messages", self.messages as f64);
        m.insert("deliveries", self.deliveries as f64);
        if let Some(b) = &self.broker {
            m.insert("broker_rss_mib", b.rss_kib as f64 / 1024.0);
            m.insert("broker_rss_peak_mib", b.rss_peak_kib as f64 / 1024.0);
            m.insert("broker_cpu_s", b.cpu_ns as f64 / 1e9);
            if self.messages > 0 {
                m.insert("broker_cpu_us_per_message", per(b.cpu_ns, self.messages));
                m.insert("broker_cpu_us_per_delivery", per(b.cpu_ns, self.deliveries.max(1)));
                m.insert("broker_user_us_per_message", per(b.user_ns, self.messages));
                m.insert("broker_sys_us_per_message", per(b.sys_ns, self.messages));
            }
            if is_timed && self.seconds > 0.0 {
                m.insert("broker_cpu_share", b.cpu_ns as f64 / 1e9 / self.seconds);
            }
        }
        if let Some(q) = &self.latency {
            m.insert("latency_p50_us", q.p50_us);
            m.insert("latency_p99_us", q.p99_us);
            m.insert("latency_p999_us", q.p999_us);
            m.insert("latency_max_us", q.max_us);
        }
        m.extend(self.extra.iter().copied());
        m
    }
}

fn per(ns: u64, n: u64) -> f64 {
    ns as f64 / 1e3 / n as f64
}

/// Median and spread of one figure.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// The middle one; the mean of the two in the middle if their number is even.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

impl Spread {
    /// Of at least one value.
    pub fn of(values: &[f64]) -> Spread {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (lower, upper) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
        Spread { median: (lower + upper) / 2.0, min: sorted[0], max: sorted[sorted.len() - 1] }
    }
}

/// All repetitions of one point.
#[derive(Clone, Debug, Serialize)]
pub struct Point {
    /// What the point is called.
    pub point: String,
    /// How often it was run.
    pub repetitions: usize,
    /// What went wrong, summed.
    pub faults: Faults,
    /// Median and spread of every figure.
    pub figures: BTreeMap<&'static str, Spread>,
    /// Every figure of every repetition, in order.
    pub samples: Vec<BTreeMap<&'static str, f64>>,
}

/// A whole run of one scenario.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The scenario's name.
    pub scenario: String,
    /// Where the broker was.
    pub broker: String,
    /// The command line that was run.
    pub command: Vec<String>,
    /// Points in the order they were first run.
    pub points: Vec<Point>,
}

impl Report {
    /// Groups samples by point.
    pub fn new(scenario: &str, broker: String, command: Vec<String>, samples: &[Sample]) -> Report {
        let mut names: Vec<&str> = vec![];
        for sample in samples {
            if !names.contains(&sample.point.as_str()) {
                names.push(&sample.point);
            }
        }
        let points = names.iter().map(|name| point(name, samples)).collect();
        Report { scenario: scenario.to_owned(), broker, command, points }
    }

    /// All faults of all points.
    pub fn faults(&self) -> Faults {
        let mut sum = Faults::default();
        self.points.iter().for_each(|p| sum.add(&p.faults));
        sum
    }

    /// The table for standard output: one line per point, then what does not fit into columns.
    pub fn table(&self) -> String {
        let mut rows: Vec<Vec<String>> = vec![COLUMNS.iter().map(|c| c.0.to_owned()).collect()];
        rows.extend(self.points.iter().map(|p| COLUMNS.iter().map(|c| c.1(p)).collect()));
        let shown: Vec<usize> =
            (0..COLUMNS.len()).filter(|c| rows[1..].iter().any(|row| row[*c] != "-")).collect();
        let width = |c: usize| rows.iter().map(|row| row[c].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..COLUMNS.len()).map(width).collect();
        let repetitions = self.points.iter().map(|p| p.repetitions).max().unwrap_or(0);
        let mut out = format!("{} on {}, median of {repetitions}\n", self.scenario, self.broker);
        for row in &rows {
            for c in &shown {
                let pad = widths[*c] - row[*c].chars().count();
                // The first column reads from the left, figures line up on the right.
                let (left, right) = if *c == 0 { (0, pad) } else { (pad, 0) };
                let _ = write!(out, "{:left$}{}{:right$}  ", "", row[*c], "");
            }
            out.truncate(out.trim_end().len());
            out.push('\n');
        }
        for point in &self.points {
            let notes = notes(point);
            if !notes.is_empty() {
                let _ = writeln!(out, "  {}: {}", point.point, notes.join(", "));
            }
        }
        out
    }
}

fn point(name: &str, samples: &[Sample]) -> Point {
    let of_point = || samples.iter().filter(|s| s.point == name);
    let all: Vec<_> = of_point().map(Sample::metrics).collect();
    let mut faults = Faults::default();
    of_point().for_each(|s| faults.add(&s.faults));
    let mut values: BTreeMap<&'static str, Vec<f64>> = BTreeMap::new();
    for (key, value) in all.iter().flatten() {
        values.entry(key).or_default().push(*value);
    }
    let figures = values.into_iter().map(|(k, v)| (k, Spread::of(&v))).collect();
    Point { point: name.to_owned(), repetitions: all.len(), faults, figures, samples: all }
}

type Column = (&'static str, fn(&Point) -> String);

const COLUMNS: [Column; 13] = [
    ("point", |p| p.point.clone()),
    ("msg/s", |p| figure(p, "messages_per_s", big)),
    ("dlv/s", |p| figure(p, "deliveries_per_s", big)),
    ("cpu us/msg", |p| figure(p, "broker_cpu_us_per_message", fine)),
    ("(min-max)", |p| spread(p, "broker_cpu_us_per_message")),
    ("us/dlv", |p| figure(p, "broker_cpu_us_per_delivery", fine)),
    ("cpu", |p| figure(p, "broker_cpu_share", share)),
    ("load cpu", |p| figure(p, "load_cpu_share", share)),
    ("p50 us", |p| figure(p, "latency_p50_us", coarse)),
    ("p99 us", |p| figure(p, "latency_p99_us", coarse)),
    ("p99.9 us", |p| figure(p, "latency_p999_us", coarse)),
    ("rss MiB", |p| figure(p, "broker_rss_mib", coarse)),
    ("faults", |p| p.faults.total().to_string()),
];

/// Figures that have no column of their own.
const IN_COLUMNS: [&str; 19] = [
    "messages_per_s",
    "deliveries_per_s",
    "broker_cpu_us_per_message",
    "broker_cpu_us_per_delivery",
    "broker_user_us_per_message",
    "broker_sys_us_per_message",
    "broker_cpu_share",
    "broker_cpu_s",
    "broker_rss_mib",
    "broker_rss_peak_mib",
    "load_cpu_share",
    "load_cpu_us_per_message",
    "latency_p50_us",
    "latency_p99_us",
    "latency_p999_us",
    "latency_max_us",
    "seconds",
    "messages",
    "deliveries",
];

fn notes(point: &Point) -> Vec<String> {
    let mut notes = vec![];
    let f = &point.faults;
    for (name, n) in [
        ("lost", f.lost),
        ("duplicated", f.duplicated),
        ("reordered", f.reordered),
        ("misdelivered", f.misdelivered),
        ("damaged", f.damaged),
    ] {
        if n > 0 {
            notes.push(format!("{n} {name}"));
        }
    }
    for (name, spread) in point.figures.iter().filter(|(name, _)| !IN_COLUMNS.contains(name)) {
        notes.push(format!("{name} {}", fine(spread.median)));
    }
    notes
}

fn figure(p: &Point, name: &str, show: fn(f64) -> String) -> String {
    p.figures.get(name).map_or("-".to_owned(), |s| show(s.median))
}

fn spread(p: &Point, name: &str) -> String {
    match p.figures.get(name) {
        Some(s) if p.repetitions > 1 => format!("({}-{})", fine(s.min), fine(s.max)),
        _ => "-".to_owned(),
    }
}

/// Counts per second: with a unit letter, three or four digits.
fn big(x: f64) -> String {
    match x {
        x if x >= 1e7 => format!("{:.1}M", x / 1e6),
        x if x >= 1e6 => format!("{:.2}M", x / 1e6),
        x if x >= 1e4 => format!("{:.1}k", x / 1e3),
        x => format!("{x:.0}"),
    }
}

/// Figures of any size, at least three digits.
pub(crate) fn fine(x: f64) -> String {
    match x.abs() {
        a if a >= 1000.0 || (a >= 1.0 && x.fract() == 0.0) => format!("{x:.0}"),
        a if a >= 10.0 => format!("{x:.1}"),
        a if a >= 1.0 => format!("{x:.2}"),
        _ => format!("{x:.4}"),
    }
}

fn coarse(x: f64) -> String {
    format!("{x:.1}")
}

fn share(x: f64) -> String {
    format!("{:.0}%", x * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(point: &str, messages: u64, cpu_ns: u64) -> Sample {
        let broker = Some(Usage { cpu_ns, rss_kib: 2048, ..Usage::default() });
        Sample {
            point: point.into(),
            messages,
            deliveries: 2 * messages,
            seconds: 2.0,
            broker,
            ..Sample::default()
        }
    }

    #[test]
    fn medians_and_spread() {
        assert_eq!(Spread::of(&[3.0, 1.0, 2.0]), Spread { median: 2.0, min: 1.0, max: 3.0 });
        assert_eq!(Spread::of(&[4.0, 1.0]).median, 2.5);
        assert_eq!(Spread::of(&[7.0]).median, 7.0);
    }

    #[test]
    fn samples_are_grouped_by_point() {
        let samples =
            [sample("a", 10, 1000), sample("b", 10, 0), sample("a", 10, 3000), sample("a", 10, 8000)];
        let report = Report::new("one-to-one", "tcp:x".into(), vec![], &samples);
        assert_eq!(report.points.len(), 2);
        let a = &report.points[0];
        assert_eq!((a.point.as_str(), a.repetitions), ("a", 3));
        let per_message = a.figures["broker_cpu_us_per_message"];
        assert_eq!((per_message.median, per_message.min, per_message.max), (0.3, 0.1, 0.8));
        assert_eq!(a.figures["broker_cpu_us_per_delivery"].median, 0.15);
        assert_eq!(a.figures["messages_per_s"].median, 5.0);
    }

    #[test]
    fn what_never_came_has_no_rate() {
        let mut bad = sample("x", 1000, 1000);
        (bad.deliveries, bad.seconds, bad.faults.lost) = (0, 1e-9, 1000);
        let rates = ["messages_per_s", "deliveries_per_s", "load_cpu_share", "broker_cpu_share"];
        assert!(rates.iter().all(|name| !bad.metrics().contains_key(name)));
        assert_eq!(bad.metrics()["messages"], 1000.0);
    }

    #[test]
    fn the_table_shows_what_was_measured_and_nothing_else() {
        let mut bad = sample("x", 2_000_000, 1_000_000_000);
        bad.faults.lost = 3;
        bad.extra.push(("rss_per_connection_kib", 4.25));
        let report = Report::new("fan-out", "unix:/s".into(), vec![], &[bad]);
        let table = report.table();
        assert!(table.contains("1.00M") && table.contains("2.00M") && table.contains("0.5000"), "{table}");
        assert!(table.contains("3 lost") && table.contains("rss_per_connection_kib 4.25"), "{table}");
        assert!(!table.contains("p50"), "{table}");
        assert_eq!(report.faults().total(), 3);
        serde_json::to_string(&report).unwrap();
    }
}

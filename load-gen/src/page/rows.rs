//! Which plots there are: for each row what its lines are, and how it is scaled.

use super::plot::{Line, Scale, nice};
use crate::outcome::Outcome;
use crate::play::series::{GroupSeries, Series};

/// One line of a row: what it is called, how it looks, and where its values are.
pub(super) struct Kind {
    pub(super) label: &'static str,
    pub(super) class: &'static str,
    values: fn(&Series) -> Vec<Option<f64>>,
}

/// One row.
pub(super) struct Row {
    pub(super) title: &'static str,
    pub(super) lines: &'static [Kind],
    unit: fn(f64) -> String,
    is_log: bool,
    /// What rises far above the rest is cut.
    cuts_peaks: bool,
    /// The least top of the scale.
    least: f64,
    /// Not shown if it has no value anywhere.
    is_optional: bool,
}

type Pick = fn(&GroupSeries) -> &Vec<f64>;
type PickSome = fn(&GroupSeries) -> &Vec<Option<f64>>;

/// Sums over the groups of a role, at each step.
fn sum(series: &Series, role: &str, innocent: bool, pick: Pick) -> Vec<Option<f64>> {
    let groups = || series.groups.iter().filter(|g| g.role == role && g.innocent == innocent);
    let at =
        |step: usize| groups().map(|g| pick(g).get(step).copied()).reduce(|a, b| Some(a? + b?)).flatten();
    (0..series.rss_mib.len()).map(at).collect()
}

/// The worst over the groups, at each step.
fn most(series: &Series, role: &str, innocent: bool, pick: PickSome) -> Vec<Option<f64>> {
    let groups = || series.groups.iter().filter(|g| g.role == role && g.innocent == innocent);
    let at = |step: usize| groups().filter_map(|g| *pick(g).get(step)?).reduce(f64::max);
    (0..series.rss_mib.len()).map(at).collect()
}

/// The mean over the groups, at each step.
fn mean(series: &Series, role: &str, pick: Pick) -> Vec<Option<f64>> {
    let count = series.groups.iter().filter(|g| g.role == role && !g.innocent).count() as f64;
    sum(series, role, false, pick).into_iter().map(|v| v.map(|v| v / count)).collect()
}

fn all(series: &Series, pick: Pick) -> Vec<Option<f64>> {
    (0..series.rss_mib.len())
        .map(|n| Some(series.groups.iter().filter_map(|g| pick(g).get(n)).sum()))
        .collect()
}

/// From top to bottom.
pub(super) const ROWS: [Row; 8] = [
    Row {
        title: "Messages per second",
        lines: &[
            Kind {
                label: "offered",
                class: "c dashed",
                values: |s| sum(s, "producer", false, |g| &g.offered_per_s),
            },
            Kind {
                label: "delivered",
                class: "b",
                values: |s| sum(s, "consumer", false, |g| &g.delivered_per_s),
            },
            Kind {
                label: "accepted",
                class: "a",
                values: |s| sum(s, "producer", false, |g| &g.accepted_per_s),
            },
        ],
        unit: si,
        is_log: false,
        cuts_peaks: true,
        least: 1.0,
        is_optional: false,
    },
    Row {
        title: "Producers held back",
        lines: &[Kind {
            label: "share of time in which they could not write",
            class: "e",
            values: |s| mean(s, "producer", |g| &g.blocked),
        }],
        unit: percent,
        is_log: false,
        cuts_peaks: false,
        least: 1.0,
        is_optional: false,
    },
    Row {
        title: "The broker's memory",
        lines: &[
            Kind {
                label: "with the kernel's queues of its sockets",
                class: "c dashed",
                values: |s| s.rss_mib.iter().zip(&s.queued_mib).map(|(a, b)| Some(a + b)).collect(),
            },
            Kind { label: "resident", class: "a", values: |s| s.rss_mib.iter().map(|v| Some(*v)).collect() },
        ],
        unit: mib,
        is_log: false,
        cuts_peaks: false,
        least: 16.0,
        is_optional: false,
    },
    Row {
        title: "Lost, out of order, doubled, so far",
        lines: &[
            Kind { label: "doubled", class: "c", values: |s| all(s, |g| &g.duplicated) },
            Kind { label: "out of order", class: "e", values: |s| all(s, |g| &g.reordered) },
            Kind { label: "lost", class: "d", values: |s| all(s, |g| &g.lost) },
        ],
        unit: si,
        is_log: false,
        cuts_peaks: false,
        least: 1.0,
        is_optional: true,
    },
    Row {
        title: "Connections that the broker ended, so far",
        lines: &[Kind { label: "disconnects", class: "d", values: |s| all(s, |g| &g.disconnects) }],
        unit: si,
        is_log: false,
        cuts_peaks: false,
        least: 1.0,
        is_optional: true,
    },
    Row {
        title: "Latency",
        lines: &[
            Kind {
                label: "slowest",
                class: "c",
                values: |s| most(s, "consumer", false, |g| &g.latency_max_ms),
            },
            Kind { label: "p99", class: "e", values: |s| most(s, "consumer", false, |g| &g.latency_p99_ms) },
            Kind {
                label: "median",
                class: "a",
                values: |s| most(s, "consumer", false, |g| &g.latency_p50_ms),
            },
        ],
        unit: ms,
        is_log: true,
        cuts_peaks: false,
        least: 1.0,
        is_optional: true,
    },
    Row {
        title: "The innocent: delivered per second",
        lines: &[
            Kind {
                label: "offered",
                class: "c dashed",
                values: |s| sum(s, "producer", true, |g| &g.offered_per_s),
            },
            Kind {
                label: "delivered",
                class: "b",
                values: |s| sum(s, "consumer", true, |g| &g.delivered_per_s),
            },
        ],
        unit: si,
        is_log: false,
        cuts_peaks: true,
        least: 1.0,
        is_optional: true,
    },
    Row {
        title: "The innocent: latency",
        lines: &[
            Kind {
                label: "slowest",
                class: "c",
                values: |s| most(s, "consumer", true, |g| &g.latency_max_ms),
            },
            Kind { label: "p99", class: "e", values: |s| most(s, "consumer", true, |g| &g.latency_p99_ms) },
            Kind {
                label: "median",
                class: "a",
                values: |s| most(s, "consumer", true, |g| &g.latency_p50_ms),
            },
        ],
        unit: ms,
        is_log: true,
        cuts_peaks: false,
        least: 1.0,
        is_optional: true,
    },
];

/// Where peaks are cut: at so many times what nine of ten values are below.
const PEAK: f64 = 1.6;

/// Repetitions that are drawn beside the first.
const FAINT_MAX: usize = 9;

impl Row {
    fn values<'a>(&'a self, outcomes: &'a [&Outcome]) -> impl Iterator<Item = f64> + 'a {
        let series = outcomes.iter().flat_map(|o| &o.repetitions).map(|r| &r.series);
        series.flat_map(|s| self.lines.iter().flat_map(move |l| (l.values)(s))).flatten()
    }

    /// What is to be said of the scale.
    pub(super) fn note(&self) -> &'static str {
        if self.cuts_peaks { "peaks of catching up are cut" } else { "" }
    }

    /// Whether there is something to see.
    pub(super) fn is_shown(&self, outcomes: &[&Outcome]) -> bool {
        !self.is_optional || self.values(outcomes).any(|v| v > 0.0)
    }

    /// One scale for all brokers, so that they can be compared.
    pub(super) fn scale(&self, outcomes: &[&Outcome]) -> Scale {
        let mut values: Vec<f64> = self.values(outcomes).filter(|v| *v > 0.0).collect();
        values.sort_by(f64::total_cmp);
        let most = values.last().copied().unwrap_or(0.0);
        // Few values far above the others, as when a backlog comes at once, would press these to the ground.
        let usual = values.get(values.len() * 9 / 10).copied().unwrap_or(0.0);
        let top = if self.cuts_peaks { most.min(usual * PEAK) } else { most }.max(self.least);
        let log_from = self.is_log.then(|| {
            let least = values.first().copied().unwrap_or(0.01).clamp(0.001, self.least / 10.0);
            10f64.powf(least.log10().floor())
        });
        let top = if self.is_log { 10f64.powf(top.log10().ceil().max(1.0)) } else { nice(top) };
        let lengths = outcomes.iter().map(|o| length(o));
        let step_s = outcomes.first().map_or(0.1, |o| o.repetitions[0].series.step_s);
        Scale { length_s: lengths.fold(1.0, f64::max), step_s, top, log_from, unit: self.unit }
    }

    /// The lines of one broker: the first repetition, the others faintly behind it.
    pub(super) fn lines(&self, outcome: &Outcome) -> Vec<Line> {
        let mut lines = vec![];
        for kind in self.lines {
            for repetition in outcome.repetitions[1..].iter().take(FAINT_MAX) {
                let class = format!("{} faint", kind.class);
                lines.push(Line { class, values: (kind.values)(&repetition.series) });
            }
        }
        for kind in self.lines {
            let values = (kind.values)(&outcome.repetitions[0].series);
            lines.push(Line { class: kind.class.to_owned(), values });
        }
        lines
    }
}

/// How much of it is drawn: the time of sending, and of the rest as much again at most.
fn length(outcome: &Outcome) -> f64 {
    let points = outcome.repetitions.iter().map(|r| r.series.rss_mib.len()).max().unwrap_or(0);
    let step = outcome.repetitions[0].series.step_s;
    (points as f64 * step).clamp(outcome.duration_s, outcome.duration_s * 1.25)
}

/// With a letter for thousands and millions.
pub(super) fn si(v: f64) -> String {
    let shown = |n: f64, unit: &str| {
        let text = if n >= 100.0 || n.fract() == 0.0 { format!("{n:.0}") } else { format!("{n:.1}") };
        format!("{text}{unit}")
    };
    match v {
        v if v >= 1e6 => shown(v / 1e6, "M"),
        v if v >= 1e3 => shown(v / 1e3, "k"),
        v => shown(v, ""),
    }
}

fn percent(v: f64) -> String {
    format!("{:.0}%", v * 100.0)
}

fn mib(v: f64) -> String {
    if v >= 1024.0 { format!("{:.1} GiB", v / 1024.0) } else { format!("{v:.0} MiB") }
}

fn ms(v: f64) -> String {
    match v {
        v if v >= 999.0 => format!("{:.0} s", v / 1e3),
        v if v >= 0.999 => format!("{v:.0} ms"),
        v => format!("{:.0} us", v * 1e3),
    }
}

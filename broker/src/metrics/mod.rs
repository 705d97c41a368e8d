//! Counters and gauges for monitoring: OpenMetrics text, over HTTP.
//!
//! Everything told here is counted anyway; nothing is walked through but the list of accounts and the dataspaces' own
//! counts, once a second at most however often it is asked for. It is told on a thread of its own.
//!
//! Names and units are those of the conventions: `staunch_`, the thing, the unit; counters end in `_total` and only grow.

mod http;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use crate::Broker;
use crate::accept::REFUSALS;
use crate::ledger::STALL_SECONDS;
use crate::schedule::WorkerMetrics;

pub(crate) use http::Exporter;

/// All metrics of a broker, as text.
pub(crate) fn text(broker: &Broker) -> String {
    let mut registry = Registry::with_prefix("staunch");
    registry.register_collector(Box::new(Snapshot::of(broker)));
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = text::encode(&mut out, &registry);
    out
}

/// What is told, as of one moment.
#[derive(Debug)]
struct Snapshot {
    started: f64,
    workers: u64,
    gauges: Vec<(&'static str, &'static str, Option<Unit>, u64)>,
    counters: Vec<(&'static str, &'static str, Option<Unit>, u64)>,
    refused: [u64; REFUSALS.len()],
    stalls: ([u64; STALL_SECONDS.len() + 1], f64),
}

impl Snapshot {
    fn of(broker: &Broker) -> Snapshot {
        // Relaxed: counters only.
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Snapshot {
            started: broker.clock().started(),
            workers: broker.scheduler().workers() as u64,
            gauges: gauges(broker),
            counters: counters(broker),
            refused: broker.counters.refused.each_ref().map(read),
            stalls: broker.stalls.times.read(),
        }
    }
}

/// Cost units, in which debts are.
fn units() -> Option<Unit> {
    Some(Unit::Other("units".to_owned()))
}

fn gauges(broker: &Broker) -> Vec<(&'static str, &'static str, Option<Unit>, u64)> {
    let (observers, assertions, skeletons) = broker.index_counts();
    let principals = broker.ledger.principals_snapshot();
    let orphaned = principals.iter().map(|row| row.orphaned).sum();
    vec![
        ("connections", "Connections that are open.", None, broker.sessions.len() as u64),
        ("connections_throttled", "Connections that are held back now.", None, broker.stalls.count() as u64),
        (
            "cycles",
            "Cycles of connections that wait for each other now.",
            None,
            broker.stalls.cycles().len() as u64,
        ),
        ("principals", "Principals that have connections, or owe something.", None, principals.len() as u64),
        ("debt", "What all owe: bytes, and 32 for each event.", units(), broker.ledger.total_debt()),
        (
            "debt_orphaned",
            "What connections that have gone owe; part of staunch_debt_units.",
            units(),
            orphaned,
        ),
        ("observers", "Observations in all dataspaces.", None, observers as u64),
        ("assertions", "Distinct assertions in all dataspaces.", None, assertions as u64),
        ("skeletons", "Kinds of pattern in all dataspaces.", None, skeletons as u64),
    ]
}

fn counters(broker: &Broker) -> Vec<(&'static str, &'static str, Option<Unit>, u64)> {
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let c = &broker.counters;
    let WorkerMetrics { tasks_run, jobs_run, steals, parks, polls, events, wakes, panics, .. } =
        broker.scheduler().metrics().total();
    let bytes = || Some(Unit::Bytes);
    vec![
        ("connections_accepted", "Connections let in.", None, read(&c.accepted)),
        ("connections_ended", "Connections that have ended.", None, read(&c.ended)),
        (
            "connections_vanished",
            "Connections ended since their machines had vanished.",
            None,
            read(&c.vanished),
        ),
        ("received", "Read from connections.", bytes(), read(&c.read_bytes)),
        ("sent", "Written to connections.", bytes(), read(&c.written_bytes)),
        ("reads", "Reads from connections.", None, read(&c.reads)),
        ("writes", "Writes to connections.", None, read(&c.writes)),
        ("turns", "Turns taken from connections.", None, read(&c.turns)),
        ("deliveries", "Events for connections.", None, read(&c.deliveries)),
        (
            "messages_dropped",
            "Messages not delivered since they would have introduced a capability.",
            None,
            read(&c.transient_drops),
        ),
        ("throttles", "Times that a connection was held back.", None, read(&c.throttled)),
        (
            "cycles_found",
            "Cycles of connections that waited for each other.",
            None,
            broker.stalls.cycles_named(),
        ),
        ("audits", "Audits made.", None, read(&c.audits)),
        ("audits_failed", "Audits by which debts were not what waits: bugs.", None, read(&c.imbalances)),
        ("scheduler_tasks", "Runs of tasks.", None, tasks_run),
        ("scheduler_jobs", "Pieces of work run, of wide fan-outs mostly.", None, jobs_run),
        ("scheduler_steals", "Times that a worker took work from another.", None, steals),
        ("scheduler_sleeps", "Times that a worker went to sleep.", None, parks),
        ("scheduler_polls", "Times that a worker polled.", None, polls),
        ("scheduler_events", "Events fetched from the kernel.", None, events),
        ("scheduler_wakes", "Times that a worker woke another.", None, wakes),
        ("scheduler_panics", "Bugs that ended a run.", None, panics),
    ]
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "The program.";
        let mut info = encoder.encode_descriptor("build", help, None, MetricType::Info)?;
        info.encode_info(&[("version", env!("CARGO_PKG_VERSION"))])?;
        let started = ("start_time", "When the broker was started, since 1970.", Some(Unit::Seconds));
        let mut gauge =
            encoder.encode_descriptor(started.0, started.1, started.2.as_ref(), MetricType::Gauge)?;
        gauge.encode_gauge(&self.started)?;
        let workers = ConstGauge::new(self.workers);
        workers.encode(encoder.encode_descriptor(
            "workers",
            "Worker threads.",
            None,
            MetricType::Gauge,
        )?)?;
        for (name, help, unit, value) in &self.gauges {
            let metric = encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
            ConstGauge::new(*value).encode(metric)?;
        }
        for (name, help, unit, value) in &self.counters {
            let metric = encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Counter)?;
            ConstCounter::new(*value).encode(metric)?;
        }
        let help = "Connections refused, by why.";
        let mut refused =
            encoder.encode_descriptor("connections_refused", help, None, MetricType::Counter)?;
        for (reason, count) in REFUSALS.iter().zip(self.refused) {
            ConstCounter::new(count).encode(refused.encode_family(&[("reason", *reason)])?)?;
        }
        let help = "For how long connections were held back that go on again.";
        let unit = Unit::Seconds;
        let mut stalls = encoder.encode_descriptor("throttled", help, Some(&unit), MetricType::Histogram)?;
        let (classes, sum) = self.stalls;
        let bounds = STALL_SECONDS.iter().copied().chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(classes).collect();
        stalls.encode_histogram::<NoLabelSet>(sum, classes.iter().sum(), &buckets, None)
    }
}

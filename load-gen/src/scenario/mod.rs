//! The scenarios: what is set up, what is measured, under which names.

pub mod churn;
pub mod crowd;
pub mod idle;
pub mod ping_pong;
pub mod stall;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::client::{Error, connect, doing, receive, send_all};
use crate::flow::{self, Plan};
use crate::report::Sample;
use crate::settings::{Protocol, Settings};
use crate::wire::FALSE;

/// 1->1: one producer, one consumer.
pub fn one_to_one(settings: &Settings) -> Result<Vec<Sample>, Error> {
    Ok(vec![flow::run(settings, &Plan::one_to_one("1->1"))?])
}

/// 1->N: every consumer gets every message.
pub fn fan_out(settings: &Settings, consumers: usize) -> Result<Vec<Sample>, Error> {
    raise_descriptor_limit(consumers as u64)?;
    let mut plan = Plan::one_to_one(format!("1->{consumers}"));
    plan.consumers = vec![vec![0]; consumers];
    Ok(vec![flow::run(settings, &plan)?])
}

/// N->N: independent pairs, each with a literal of its own.
pub fn pairs(settings: &Settings, pairs: usize) -> Result<Vec<Sample>, Error> {
    raise_descriptor_limit(2 * pairs as u64)?;
    let mut plan = Plan::one_to_one(format!("{pairs} pairs"));
    plan.producers = pairs;
    plan.consumers = if settings.captures_both {
        // Every consumer takes everybody's messages.
        vec![(0..pairs).collect(); pairs]
    } else {
        (0..pairs).map(|n| vec![n]).collect()
    };
    Ok(vec![flow::run(settings, &plan)?])
}

/// A fixed rate; latency counts from the instant at which each message was to be sent.
pub fn open_loop(settings: &Settings, per_second: u64, consumers: usize) -> Result<Vec<Sample>, Error> {
    let mut plan = Plan::one_to_one(format!("{per_second}/s 1->{consumers}"));
    plan.consumers = vec![vec![0]; consumers];
    plan.per_second = Some(per_second);
    Ok(vec![flow::run(settings, &plan)?])
}

/// Two clients through a bare relay, which exchange what producer and consumer write to a broker: 1->1 with 64
/// bytes and with 1 KiB, and round trips.
pub fn relay_floor(settings: &Settings) -> Result<Vec<Sample>, Error> {
    let settings = Settings { protocol: Protocol::Relay, ..settings.clone() };
    require_relay(&settings)?;
    let mut samples = vec![];
    for payload_bytes in [64, 1024] {
        let settings = Settings { payload_bytes, ..settings.clone() };
        samples.push(flow::run(&settings, &Plan::one_to_one(format!("1->1 {payload_bytes} B")))?);
    }
    samples.extend(ping_pong::run(&Settings { payload_bytes: 64, ..settings })?);
    Ok(samples)
}

/// Refuses a server that is no bare relay: two sessions of their own see whether one gets what the other sends, a
/// packet that means nothing to anybody.
pub fn require_relay(settings: &Settings) -> Result<(), Error> {
    if settings.protocol != Protocol::Relay {
        return Ok(());
    }
    let (a, b) = (connect(settings.contact())?, connect(settings.contact())?);
    send_all(&a, &[FALSE])?;
    let mut buffer = [0; 64];
    let why = match receive(&b, &mut buffer) {
        Ok(n) if buffer[..n] == [FALSE] => return Ok(()),
        Ok(_) => "gets something else".to_owned(),
        Err(Error::Silent(time)) => format!("has got nothing after {} s", time.as_secs_f64()),
        Err(Error::Closed) => "is closed".to_owned(),
        Err(e) => return Err(e),
    };
    Err(Error::Usage(format!(
        "{} is not a bare relay: what one session sends another should get, but that {why}. A relay is in \
         staunch-benches: cargo run --release -p staunch-benches --bin relay -- --listen tcp:ADDRESS:PORT",
        settings.address
    )))
}

/// Descriptors needed besides the sessions'.
const SPARE_DESCRIPTORS: u64 = 64;

/// Makes room for so many sessions. Going beyond the hard limit needs privileges.
pub fn raise_descriptor_limit(sessions: u64) -> Result<(), Error> {
    let needed = sessions + SPARE_DESCRIPTORS;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|n| n >= needed) {
        return Ok(());
    }
    let maximum = limit.maximum.map(|n| n.max(needed));
    setrlimit(Resource::Nofile, Rlimit { current: Some(needed), maximum })
        .map_err(doing(&format!("raising RLIMIT_NOFILE to {needed}")))
}

//! The scenarios: what is set up, what is measured, under which names.

pub mod ping_pong;

use crate::client::Error;
use crate::flow::{self, Plan};
use crate::report::Sample;
use crate::settings::Settings;

/// 1->1: one producer, one consumer.
pub fn one_to_one(settings: &Settings) -> Result<Vec<Sample>, Error> {
    Ok(vec![flow::run(settings, &Plan::one_to_one("1->1"))?])
}

/// 1->N: every consumer gets every message.
pub fn fan_out(settings: &Settings, consumers: usize) -> Result<Vec<Sample>, Error> {
    let mut plan = Plan::one_to_one(format!("1->{consumers}"));
    plan.consumers = vec![vec![0]; consumers];
    Ok(vec![flow::run(settings, &plan)?])
}

/// N->N: independent pairs, each with a literal of its own.
pub fn pairs(settings: &Settings, pairs: usize) -> Result<Vec<Sample>, Error> {
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

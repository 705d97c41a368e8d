//! Audits that are asked for, by whoever may observe the ledger.
//!
//! All workers stand still for an audit, so there is one a second at most, and whoever has asked by then gets the same
//! answer. It holds for as long as the request does. What nobody would hear (nobody observes), or what is asked with an
//! id that is long or holds capabilities, or by too many at once, is not answered.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use staunch_protocols::schema::{Codec, Double, Value, ledger, rpc};
use staunch_protocols::wire::{Limits, Scanner};

use super::audit::Audit;
use super::rows::int;
use crate::Broker;
use crate::cap::Caps;

/// Between two audits.
const EVERY: Duration = Duration::from_secs(1);
/// The same, of those that debug builds make for themselves.
#[cfg(debug_assertions)]
const EVERY_ANYWAY: Duration = Duration::from_millis(50);
/// Requests that are known at a time.
const REQUESTS_MAX: usize = 256;
/// How long an id may be.
const ID_BYTES_MAX: usize = 256;
/// How often it is tried to have the workers stand still.
const TRIES_MAX: u32 = 5;

/// A request, as long as it is asserted.
struct Request {
    /// The id, canonical.
    id: Value,
    tries: u32,
    response: Option<rpc::Result>,
}

/// See the module's head. By the handles of the requests.
#[derive(Default)]
pub(super) struct Requests {
    each: HashMap<u64, Request>,
    audited: Option<Instant>,
}

impl Requests {
    /// Somebody asks; `captures` is a list of the id.
    pub(super) fn add(&mut self, handle: u64, captures: &[u8], caps: &Caps) {
        if self.each.len() >= REQUESTS_MAX || captures.len() > ID_BYTES_MAX || !caps.is_empty() {
            return;
        }
        let mut scanner = Scanner::new(Limits::default());
        if scanner.scan(captures).is_err() {
            return;
        }
        if let Some(id) = scanner.view(captures).index(0).and_then(|id| read_value(id.span())) {
            self.each.insert(handle, Request { id, tries: 0, response: None });
        }
    }

    pub(super) fn remove(&mut self, handle: u64) {
        self.each.remove(&handle);
    }

    /// Nobody hears them any more: they are to be made anew.
    pub(super) fn forget_answers(&mut self) {
        self.each.values_mut().for_each(|request| (request.tries, request.response) = (0, None));
    }

    fn is_asked(&self) -> bool {
        self.each.values().any(|request| request.response.is_none())
    }

    /// How long it is until there may be an audit, if one is asked for.
    pub(super) fn wait(&self) -> Option<Duration> {
        let wait = || self.audited.map_or(Duration::ZERO, |at| EVERY.saturating_sub(at.elapsed()));
        self.is_asked().then(wait)
    }

    /// Makes an audit, if one is asked for and it is time.
    pub(super) fn answer(&mut self, broker: &Broker) {
        if self.wait() != Some(Duration::ZERO) {
            return;
        }
        self.audited = Some(Instant::now());
        let audited = broker.pause_and_audit();
        for request in self.each.values_mut().filter(|request| request.response.is_none()) {
            request.tries += 1;
            request.response = match &audited {
                Ok(audit) => Some(result(audit, broker)),
                Err(why) if request.tries >= TRIES_MAX => Some(error(&why.to_string())),
                Err(_) => None,
            };
        }
    }

    /// The answers that there are, as they are asserted.
    pub(super) fn answers(&self) -> Vec<Vec<u8>> {
        let answer = |request: &Request| {
            let question = ledger::Audit { id: request.id.clone() };
            let response = Value::of(request.response.as_ref()?);
            Some(rpc::Answer { request: Value::of(&question), response }.to_bytes())
        };
        let mut answers: Vec<Vec<u8>> = self.each.values().filter_map(answer).collect();
        answers.sort();
        answers.dedup();
        answers
    }

    /// Looks at the books although nobody asks; what is wrong is told when the broker ends.
    #[cfg(debug_assertions)]
    pub(super) fn audit_anyway(&mut self, broker: &Broker) {
        if self.audited.is_some_and(|at| at.elapsed() < EVERY_ANYWAY) {
            return;
        }
        self.audited = Some(Instant::now());
        if let Ok(Audit { imbalance: Some(error), .. }) = broker.pause_and_audit() {
            broker.imbalance.lock().get_or_insert(error);
        }
    }
}

fn read_value(bytes: &[u8]) -> Option<Value> {
    Value::from_bytes(bytes, &Limits::default()).ok()
}

fn result(audit: &Audit, broker: &Broker) -> rpc::Result {
    if let Some(imbalance) = &audit.imbalance {
        return error(&imbalance.to_string());
    }
    let audited = ledger::Audited {
        at: Double(broker.clock().now()),
        debt: int(audit.debt),
        outstanding: int(audit.outstanding),
        accounts: int(audit.accounts as u64),
        connections: int(audit.connections as u64),
        paused: Double((audit.paused.as_secs_f64() * 1e6).round() / 1e6),
    };
    rpc::Result::Ok { value: Value::of(&audited) }
}

fn error(why: &str) -> rpc::Result {
    rpc::Result::Error { error: Value::of(&why.to_owned()) }
}

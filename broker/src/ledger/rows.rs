//! What an update says: the records of `protocols/schemas/ledger.prs`.

use std::cmp::Reverse;
use std::time::Instant;

use staunch_protocols::schema::ledger as schema;
use staunch_protocols::schema::{Codec, Double, Int};

use super::gather::{Gathering, Past, Seen};
use super::waits::PIECES_MAX;
use crate::Broker;
use crate::outbox::Debtors;
use crate::relay::{Cause, Done};

/// Of those who owe to one holder, so many are told.
const DEBTORS_MAX: usize = 16;
/// So many cycles are told.
const CYCLES_MAX: usize = 64;

/// The records, each once, in canonical form.
pub(super) fn values(
    gathering: Gathering,
    past: &mut Past,
    rows_max: usize,
    broker: &Broker,
) -> Vec<Vec<u8>> {
    let (now, mut seen) = (Instant::now(), gathering.seen);
    let rates: Vec<Rate> = seen.iter().map(|one| Rate::of(one, past, now)).collect();
    past.at = Some(now);
    past.done = seen.iter().map(|one| (one.account.id(), (one.done, one.written))).collect();
    let sum = |of: fn(&Seen) -> u64| seen.iter().map(of).sum::<u64>();
    let (debt, held) = (sum(|one| one.debt), sum(|one| one.held));
    let (told, holdings) = holdings(&seen, rows_max, broker);
    let mut order: Vec<usize> = (0..seen.len()).collect();
    let rank = |at: &usize| {
        let (one, rate) = (&seen[*at], &rates[*at]);
        let bytes = rate.bytes_in + rate.bytes_out;
        (Reverse(one.debt), Reverse(one.held), Reverse(bytes as u64), one.account.id())
    };
    order.sort_by_cached_key(rank);
    let (named, others) = order.split_at(rows_max.min(order.len()));
    let rest = schema::Rest {
        accounts: int(others.len() as u64),
        debt: int(others.iter().map(|at| seen[*at].debt).sum()),
        held: int(held.saturating_sub(told)),
    };
    let all = schema::Broker {
        at: Double(broker.clock().now()),
        started: Double(broker.clock().started()),
        connections: int(broker.sessions.len() as u64),
        throttled: int(broker.stalls.count() as u64),
        debt: int(debt),
        held: int(held),
        traffic: broker.traffic(),
        rest,
    };
    let mut values = vec![all.to_bytes()];
    values.extend(named.iter().map(|at| account(&seen[*at], &rates[*at], broker).to_bytes()));
    values.extend(holdings);
    values.extend(principals(rows_max, broker));
    values.extend(broker.stalls.cycles().iter().take(CYCLES_MAX).map(|cycle| {
        let party = |(id, name): &(u64, std::sync::Arc<str>)| party(*id, name);
        let parties = cycle.members.iter().map(party).collect();
        schema::Cycle { parties, since: Double(broker.clock().at_ns(cycle.since_ns)) }.to_bytes()
    }));
    seen.clear();
    values
}

/// What a connection does per second.
#[derive(Default)]
struct Rate {
    bytes_in: f64,
    bytes_out: f64,
    turns: f64,
    deliveries: f64,
}

impl Rate {
    /// Since the last update, if it was there then.
    fn of(one: &Seen, past: &Past, now: Instant) -> Rate {
        let before = past.at.zip(past.done.get(&one.account.id()));
        let Some((at, (done, written))) = before else { return Rate::default() };
        let seconds = (now - at).as_secs_f64().max(0.001);
        let rate = |now: u64, before: u64| (now.saturating_sub(before) as f64 / seconds).round();
        Rate {
            bytes_in: rate(one.done.read_bytes, done.read_bytes),
            bytes_out: rate(one.written, *written),
            turns: rate(one.done.turns, done.turns),
            deliveries: rate(one.done.deliveries, done.deliveries),
        }
    }
}

fn account(one: &Seen, rate: &Rate, broker: &Broker) -> schema::Account {
    let account = &one.account;
    let transport = match &one.session {
        Some(session) if session.stream().is_tcp() => schema::Transport::Tcp,
        Some(_) => schema::Transport::Unix,
        // Its name is all that is left of it.
        None if account.name().starts_with("tcp:") => schema::Transport::Tcp,
        None if account.is_retired() => schema::Transport::Unix,
        None => schema::Transport::Internal,
    };
    let state = match one.throttle {
        _ if account.is_retired() => schema::State::Gone,
        Some(throttle) => schema::State::Throttled {
            since: Double(broker.clock().at_ns(throttle.since_ns)),
            cause: match throttle.cause {
                Cause::Debt => schema::Cause::Debt,
                Cause::Room => schema::Cause::Room,
                Cause::Principal => schema::Cause::Principal,
            },
        },
        None => schema::State::Open,
    };
    schema::Account {
        party: party(account.id(), account.name()),
        principal: account.principal().name().to_owned(),
        transport,
        debt: int(one.debt),
        limit: int(account.limit()),
        held: int(one.held),
        state,
        traffic: traffic(&one.done, one.written),
        rate: schema::Rate {
            bytes_in: Double(rate.bytes_in),
            bytes_out: Double(rate.bytes_out),
            turns: Double(rate.turns),
            deliveries: Double(rate.deliveries),
        },
    }
}

/// What those hold who hold most. Returns how much of what waits, shared bodies not counted, that is, too.
fn holdings(seen: &[Seen], rows_max: usize, broker: &Broker) -> (u64, Vec<Vec<u8>>) {
    let mut holders: Vec<&Seen> = seen.iter().filter(|one| one.held > 0).collect();
    holders.sort_by_key(|one| (Reverse(one.held), one.account.id()));
    let (mut told, mut values) = (0, Vec::new());
    for holder in holders.into_iter().take(rows_max) {
        let Some(session) = &holder.session else { continue };
        let Debtors { mut each, rest_units } = session.outbox().debtors(PIECES_MAX);
        each.sort_by_key(|debtor| (Reverse(debtor.units), debtor.account.id()));
        let since = holder.waits_since.map_or(broker.clock().now(), |since| broker.clock().at(since));
        let left: u64 = each.iter().skip(DEBTORS_MAX).map(|debtor| debtor.units).sum();
        told += holder.held.saturating_sub(rest_units + left);
        values.extend(each.into_iter().take(DEBTORS_MAX).map(|debtor| {
            let holding = schema::Holding {
                holder: party(holder.account.id(), holder.account.name()),
                debtor: party(debtor.account.id(), debtor.account.name()),
                units: int(debtor.units),
                bytes: int(debtor.bytes),
                events: int(debtor.events),
                since: Double(since),
            };
            holding.to_bytes()
        }));
    }
    (told, values)
}

/// The principals that owe most for connections that have gone.
fn principals(rows_max: usize, broker: &Broker) -> impl Iterator<Item = Vec<u8>> {
    let mut rows = broker.ledger.principals_snapshot();
    rows.retain(|row| row.orphaned > 0);
    rows.sort_by(|a, b| b.orphaned.cmp(&a.orphaned).then_with(|| a.name.cmp(&b.name)));
    rows.into_iter().take(rows_max).map(|row| {
        let principal = schema::Principal {
            name: row.name.to_string(),
            connections: int(row.connections),
            orphaned: int(row.orphaned),
            limit: int(row.limit),
        };
        principal.to_bytes()
    })
}

fn party(id: u64, name: &str) -> schema::Party {
    schema::Party { id: int(id), name: name.to_owned() }
}

pub(crate) fn traffic(done: &Done, written: u64) -> schema::Traffic {
    schema::Traffic {
        bytes_in: int(done.read_bytes),
        bytes_out: int(written),
        turns: int(done.turns),
        deliveries: int(done.deliveries),
        throttled: Double((done.throttled_ns as f64 / 1e6).round() / 1e3),
    }
}

/// No count comes near the end of the range.
pub(super) fn int(n: u64) -> Int {
    Int::Small(i64::try_from(n).unwrap_or(i64::MAX))
}

//! The ledger as text, and as JSON.

use std::fmt::Write;

use serde_json::{Value, json};
use staunch_protocols::schema::ledger::{
    Account, Broker, Cause, Cycle, Holding, Party, Principal, State, Traffic, Transport,
};

use super::amount::{count, rate, size, span};
use super::model::{Model, chain, int, throttled_since};
use super::order::Order;

/// The columns of connections: title and width.
pub(super) const ACCOUNT_COLUMNS: [(&str, u16); 8] = [
    ("CONNECTION", 22),
    ("OWES", 6),
    ("%", 4),
    ("HOLDS", 6),
    ("IN/s", 6),
    ("OUT/s", 6),
    ("EV/s", 6),
    ("STATE", 17),
];

/// The columns of those who hold.
pub(super) const HOLDING_COLUMNS: [(&str, u16); 5] =
    [("HOLDER", 24), ("WHOSE", 24), ("HOLDS", 6), ("EVENTS", 6), ("FOR", 16)];

/// One connection, by columns.
pub(super) fn account_cells(account: &Account, at: f64) -> [String; 8] {
    let (debt, limit) = (int(&account.debt), int(&account.limit).max(1));
    let state = match (&account.state, throttled_since(account)) {
        (State::Throttled { cause, .. }, Some(since)) => {
            let cause = match cause {
                Cause::Debt => "debt",
                Cause::Room => "room",
                Cause::Principal => "left",
            };
            format!("held {} {cause}", span(at - since))
        }
        (State::Gone, _) => "gone".to_owned(),
        _ => String::new(),
    };
    [
        account.party.name.clone(),
        size(debt),
        (debt as f64 * 100.0 / limit as f64).round().to_string(),
        size(int(&account.held)),
        rate(account.rate.bytes_in.0, 1024.0),
        rate(account.rate.bytes_out.0, 1024.0),
        rate(account.rate.deliveries.0, 1000.0),
        state,
    ]
}

/// What one holds of one, by columns.
pub(super) fn holding_cells(holding: &Holding, at: f64) -> [String; 5] {
    [
        holding.holder.name.clone(),
        holding.debtor.name.clone(),
        size(int(&holding.units)),
        count(int(&holding.events)),
        span(at - holding.since.0),
    ]
}

/// All together, in two lines.
pub(super) fn summary(broker: &Broker, rates: [f64; 4]) -> [String; 2] {
    let (connections, throttled) = (int(&broker.connections), int(&broker.throttled));
    let [bytes_in, bytes_out, turns, deliveries] = rates;
    let plural = if connections == 1 { "" } else { "s" };
    [
        format!(
            "up {}   {connections} connection{plural}, {throttled} held back   owed {}",
            span(broker.at.0 - broker.started.0),
            size(int(&broker.debt))
        ),
        format!(
            "in {}/s  out {}/s   {} turns/s  {} events/s   held back {} in all",
            rate(bytes_in, 1024.0),
            rate(bytes_out, 1024.0),
            rate(turns, 1000.0),
            rate(deliveries, 1000.0),
            span(broker.traffic.throttled.0)
        ),
    ]
}

/// Who waits for each other, in words.
pub(super) fn told(cycle: &Cycle, at: f64) -> String {
    format!("cycle, for {}: {}", span(at - cycle.since.0), chain(cycle))
}

/// What connections do per second, together: in, out, turns, events.
pub(super) fn rates(model: &Model) -> [f64; 4] {
    model.accounts().iter().fold([0.0; 4], |[a, b, c, d], account| {
        let rate = &account.rate;
        [a + rate.bytes_in.0, b + rate.bytes_out.0, c + rate.turns.0, d + rate.deliveries.0]
    })
}

/// What is not shown one by one.
pub(super) fn rest(broker: &Broker) -> Option<String> {
    let (others, debt) = (int(&broker.rest.accounts), int(&broker.rest.debt));
    (others > 0).then(|| format!("and {others} more, which owe {}", size(debt)))
}

/// A table for people and simple scripts.
pub(super) fn table(model: &Model, order: Order) -> String {
    let (mut out, at) = (String::new(), model.at());
    if let Some(broker) = model.broker() {
        summary(broker, rates(model)).iter().for_each(|line| push_line(&mut out, line));
    }
    model.cycles().into_iter().for_each(|one| push_line(&mut out, &told(one, at)));
    out.push('\n');
    push_cells(&mut out, &ACCOUNT_COLUMNS, &ACCOUNT_COLUMNS.map(|(title, _)| title.to_owned()));
    let mut accounts = model.accounts();
    order.sort(&mut accounts, false);
    accounts.iter().for_each(|one| push_cells(&mut out, &ACCOUNT_COLUMNS, &account_cells(one, at)));
    if let Some(rest) = model.broker().and_then(rest) {
        push_line(&mut out, &rest);
    }
    let holdings = model.holdings();
    if !holdings.is_empty() {
        out.push('\n');
        push_cells(&mut out, &HOLDING_COLUMNS, &HOLDING_COLUMNS.map(|(title, _)| title.to_owned()));
        holdings.iter().for_each(|one| push_cells(&mut out, &HOLDING_COLUMNS, &holding_cells(one, at)));
    }
    for principal in model.principals() {
        let (owed, max) = (size(int(&principal.orphaned)), size(int(&principal.limit)));
        let line = format!("{} owes {owed} of {max} for connections that have gone", principal.name);
        push_line(&mut out, &line);
    }
    out
}

fn push_line(out: &mut String, line: &str) {
    out.push_str(line);
    out.push('\n');
}

/// A line of columns: numbers to the right, names to the left.
fn push_cells<const N: usize>(out: &mut String, columns: &[(&str, u16); N], cells: &[String; N]) {
    let mut line = String::new();
    for (number, ((title, width), cell)) in columns.iter().zip(cells).enumerate() {
        let width = usize::from(*width);
        let gap = if number > 0 { " " } else { "" };
        // Writing to a string does not fail.
        let _ = match is_number(title) {
            true => write!(line, "{gap}{cell:>width$}"),
            false => write!(line, "{gap}{cell:<width$}"),
        };
    }
    push_line(out, line.trim_end());
}

/// Whether a column has numbers.
pub(super) fn is_number(title: &str) -> bool {
    !matches!(title, "CONNECTION" | "STATE" | "HOLDER" | "WHOSE" | "FOR")
}

/// All of it, as an object on a line.
pub(super) fn json(model: &Model, order: Order) -> String {
    let mut accounts = model.accounts();
    order.sort(&mut accounts, false);
    let all = json!({
        "broker": model.broker().map(broker),
        "accounts": accounts.into_iter().map(account).collect::<Vec<_>>(),
        "holdings": model.holdings().into_iter().map(holding).collect::<Vec<_>>(),
        "principals": model.principals().into_iter().map(principal).collect::<Vec<_>>(),
        "cycles": model.cycles().into_iter().map(cycle).collect::<Vec<_>>(),
    });
    format!("{all}\n")
}

fn broker(broker: &Broker) -> Value {
    json!({
        "at": broker.at.0,
        "started": broker.started.0,
        "connections": int(&broker.connections),
        "throttled": int(&broker.throttled),
        "debt": int(&broker.debt),
        "held": int(&broker.held),
        "traffic": traffic(&broker.traffic),
        "rest": {
            "accounts": int(&broker.rest.accounts),
            "debt": int(&broker.rest.debt),
            "held": int(&broker.rest.held),
        },
    })
}

fn account(account: &Account) -> Value {
    let transport = match account.transport {
        Transport::Tcp => "tcp",
        Transport::Unix => "unix",
        Transport::Internal => "internal",
    };
    let (state, cause) = match &account.state {
        State::Open => ("open", None),
        State::Gone => ("gone", None),
        State::Throttled { cause: Cause::Debt, .. } => ("throttled", Some("debt")),
        State::Throttled { cause: Cause::Room, .. } => ("throttled", Some("room")),
        State::Throttled { cause: Cause::Principal, .. } => ("throttled", Some("principal")),
    };
    let rate = &account.rate;
    json!({
        "id": int(&account.party.id),
        "name": account.party.name,
        "principal": account.principal,
        "transport": transport,
        "debt": int(&account.debt),
        "limit": int(&account.limit),
        "held": int(&account.held),
        "state": state,
        "cause": cause,
        "throttled_since": throttled_since(account),
        "traffic": traffic(&account.traffic),
        "rate": {
            "bytes_in": rate.bytes_in.0,
            "bytes_out": rate.bytes_out.0,
            "turns": rate.turns.0,
            "deliveries": rate.deliveries.0,
        },
    })
}

fn traffic(traffic: &Traffic) -> Value {
    json!({
        "bytes_in": int(&traffic.bytes_in),
        "bytes_out": int(&traffic.bytes_out),
        "turns": int(&traffic.turns),
        "deliveries": int(&traffic.deliveries),
        "throttled": traffic.throttled.0,
    })
}

fn party(party: &Party) -> Value {
    json!({"id": int(&party.id), "name": party.name})
}

fn holding(holding: &Holding) -> Value {
    json!({
        "holder": party(&holding.holder),
        "debtor": party(&holding.debtor),
        "units": int(&holding.units),
        "bytes": int(&holding.bytes),
        "events": int(&holding.events),
        "since": holding.since.0,
    })
}

fn principal(principal: &Principal) -> Value {
    json!({
        "name": principal.name,
        "connections": int(&principal.connections),
        "orphaned": int(&principal.orphaned),
        "limit": int(&principal.limit),
    })
}

fn cycle(cycle: &Cycle) -> Value {
    json!({"parties": cycle.parties.iter().map(party).collect::<Vec<_>>(), "since": cycle.since.0})
}

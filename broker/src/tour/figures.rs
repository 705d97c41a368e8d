//! What can be said of everybody at one moment: rates, debts, and the ledger.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use staunch::server::Server;

use super::crew::Member;

/// Rates are over this much time.
const WINDOW: Duration = Duration::from_millis(500);
/// What an event costs beyond its bytes.
const EVENT_COST: u64 = 32;

/// Who takes part.
pub(super) struct Cast {
    /// Those who send.
    pub(super) producers: Vec<Member>,
    /// Those who receive, with the index of whoever sends to them.
    pub(super) consumers: Vec<(Member, usize)>,
}

impl Cast {
    /// All of them: producers first.
    pub(super) fn members(&self) -> impl Iterator<Item = &Member> {
        self.producers.iter().chain(self.consumers.iter().map(|(member, _)| member))
    }

    /// What people call a connection.
    fn role(&self, connection: &str) -> Option<&'static str> {
        self.members().find(|m| m.connection == connection).map(|m| m.role)
    }
}

/// A producer, at one moment.
#[derive(Debug, Default, Clone)]
pub(super) struct Sending {
    pub(super) role: &'static str,
    /// Messages per second.
    pub(super) rate: f64,
    /// Messages so far.
    pub(super) sent: u64,
    /// What it owes, in cost units.
    pub(super) debt: u64,
    /// What it may owe.
    pub(super) limit: u64,
    /// Whether the broker does not read it.
    pub(super) is_throttled: bool,
}

/// A consumer, at one moment.
#[derive(Debug, Default, Clone)]
pub(super) struct Receiving {
    pub(super) role: &'static str,
    /// Messages per second.
    pub(super) rate: f64,
    /// Messages sent to it that it has not received.
    pub(super) unread: u64,
    /// Whether it does not read.
    pub(super) is_idle: bool,
}

/// A row of the ledger: what waits in the broker for `holder`, at the expense of `debtor`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owed {
    pub(super) debtor: &'static str,
    pub(super) holder: &'static str,
    /// Events that wait.
    pub(super) events: u64,
    /// What is owed for them.
    pub(super) cost: u64,
}

/// Everybody, at one moment.
#[derive(Debug, Default, Clone)]
pub(super) struct Figures {
    pub(super) producers: Vec<Sending>,
    pub(super) consumers: Vec<Receiving>,
    pub(super) ledger: Vec<Owed>,
}

/// Takes figures again and again.
#[derive(Default)]
pub(super) struct Observer {
    /// Counts of the recent past, all members in order.
    past: VecDeque<(Instant, Vec<u64>)>,
}

impl Observer {
    /// Looks at everybody now.
    pub(super) fn look(&mut self, server: &Server, cast: &Cast) -> Figures {
        let now = Instant::now();
        let counts: Vec<u64> = cast.members().map(Member::count).collect();
        // One sample older than the window is kept: rates are over the window at least.
        while self.past.get(1).is_some_and(|(then, _)| now - *then >= WINDOW) {
            self.past.pop_front();
        }
        let rates: Vec<f64> = match self.past.front() {
            Some((then, past)) => {
                let seconds = (now - *then).as_secs_f64();
                counts.iter().zip(past).map(|(count, before)| (count - before) as f64 / seconds).collect()
            }
            None => vec![0.0; counts.len()],
        };
        let debts = server.debts();
        let producers = cast.producers.iter().enumerate().map(|(i, member)| {
            let row = debts.iter().find(|d| d.name == member.connection);
            Sending {
                role: member.role,
                rate: rates[i],
                sent: counts[i],
                debt: row.map_or(0, |d| d.debt),
                limit: row.map_or(0, |d| d.limit),
                is_throttled: row.is_some_and(|d| d.is_waiting),
            }
        });
        let consumers = cast.consumers.iter().enumerate().map(|(i, (member, producer))| {
            let i = cast.producers.len() + i;
            // What a consumer has can be counted before what was sent: they are other threads.
            let unread = counts[*producer].saturating_sub(counts[i]);
            Receiving { role: member.role, rate: rates[i], unread, is_idle: member.is_idle() }
        });
        let figures = Figures {
            producers: producers.collect(),
            consumers: consumers.collect(),
            ledger: ledger(server, cast),
        };
        self.past.push_back((now, counts));
        figures
    }
}

/// The ledger, a row for each two who have to do with each other; the greatest debt first.
fn ledger(server: &Server, cast: &Cast) -> Vec<Owed> {
    let mut rows: Vec<Owed> = Vec::new();
    for holding in server.holdings() {
        let (Some(debtor), Some(holder)) = (cast.role(&holding.debtor), cast.role(&holding.holder)) else {
            continue;
        };
        let events = holding.cost.saturating_sub(holding.bytes) / EVENT_COST;
        match rows.iter_mut().find(|row| row.debtor == debtor && row.holder == holder) {
            Some(row) => {
                row.events += events;
                row.cost += holding.cost;
            }
            None => rows.push(Owed { debtor, holder, events, cost: holding.cost }),
        }
    }
    rows.sort_by_key(|row| std::cmp::Reverse(row.cost));
    rows
}

//! What the ledger says: its records, as they come and go.

use std::collections::HashMap;

use staunch::client::{Error, Session};
use staunch_protocols::packet::Event;
use staunch_protocols::schema::ledger::{Account, Broker, Cycle, Holding, Party, Principal, State};
use staunch_protocols::schema::{Codec, Int};
use staunch_protocols::text;
use staunch_protocols::wire::{Int as Handle, Limits, View};

use crate::cli::value::malformed;

/// What is observed.
const LABELS: [&str; 5] = ["broker", "account", "holding", "principal", "cycle"];

/// One record.
#[derive(Clone)]
enum Row {
    Broker(Box<Broker>),
    Account(Box<Account>),
    Holding(Holding),
    Principal(Principal),
    Cycle(Cycle),
}

/// See the module's head.
#[derive(Default, Clone)]
pub(super) struct Model {
    /// Our entities that hear of it, with the labels.
    entities: Vec<(i64, &'static str)>,
    rows: HashMap<Handle, Row>,
    updates: u64,
}

impl Model {
    /// Asks to be told.
    pub(super) fn observe(session: &mut Session) -> Model {
        let observe = |label: &'static str| {
            let pattern = format!("<bind <group <rec {label}> {{}}>>");
            let pattern = text::parse(&pattern, &Limits::default()).expect("it is well-formed");
            (session.observe(&pattern), label)
        };
        Model { entities: LABELS.into_iter().map(observe).collect(), ..Model::default() }
    }

    /// How many updates have come. (What a broker tells at first is one.)
    pub(super) fn updates(&self) -> u64 {
        self.updates
    }

    /// Takes an event.
    ///
    /// # Errors
    /// If it is not what a ledger tells.
    pub(super) fn hear(&mut self, oid: i64, event: Event<'_>) -> Result<(), Error> {
        let Some((_, label)) = self.entities.iter().find(|(entity, _)| *entity == oid) else { return Ok(()) };
        match event {
            Event::Assert { assertion, handle } => {
                let handle = handle.as_int().ok_or_else(|| malformed("an assertion without a handle"))?;
                let row = assertion.index(0).and_then(|row| read(label, row));
                let row = row.ok_or_else(|| malformed("a ledger of another form than is known here"))?;
                self.updates += u64::from(matches!(row, Row::Broker(_)));
                self.rows.insert(handle, row);
            }
            Event::Retract { handle } => {
                let handle = handle.as_int().ok_or_else(|| malformed("a retraction without a handle"))?;
                self.rows.remove(&handle);
            }
            Event::Message { .. } | Event::Sync { .. } => {}
        }
        Ok(())
    }

    /// All together.
    pub(super) fn broker(&self) -> Option<&Broker> {
        self.rows.values().find_map(|row| match row {
            Row::Broker(broker) => Some(&**broker),
            _ => None,
        })
    }

    /// The connections, and other accounts, in no order.
    pub(super) fn accounts(&self) -> Vec<&Account> {
        let accounts = self.rows.values().filter_map(|row| match row {
            Row::Account(account) => Some(&**account),
            _ => None,
        });
        accounts.collect()
    }

    /// Who holds whose debts, the most first.
    pub(super) fn holdings(&self) -> Vec<&Holding> {
        let holdings = self.rows.values().filter_map(|row| match row {
            Row::Holding(holding) => Some(holding),
            _ => None,
        });
        let mut holdings: Vec<&Holding> = holdings.collect();
        holdings.sort_by_key(|h| (std::cmp::Reverse(int(&h.units)), int(&h.holder.id), int(&h.debtor.id)));
        holdings
    }

    /// Who owes for connections that have gone, the most first.
    pub(super) fn principals(&self) -> Vec<&Principal> {
        let principals = self.rows.values().filter_map(|row| match row {
            Row::Principal(principal) => Some(principal),
            _ => None,
        });
        let mut principals: Vec<&Principal> = principals.collect();
        principals.sort_by(|a, b| int(&b.orphaned).cmp(&int(&a.orphaned)).then_with(|| a.name.cmp(&b.name)));
        principals
    }

    /// Who waits for each other, the oldest first.
    pub(super) fn cycles(&self) -> Vec<&Cycle> {
        let cycles = self.rows.values().filter_map(|row| match row {
            Row::Cycle(cycle) => Some(cycle),
            _ => None,
        });
        let mut cycles: Vec<&Cycle> = cycles.collect();
        cycles.sort_by(|a, b| a.since.0.total_cmp(&b.since.0));
        cycles
    }

    /// When it was so, in seconds since 1970.
    pub(super) fn at(&self) -> f64 {
        self.broker().map_or(0.0, |broker| broker.at.0)
    }
}

fn read(label: &str, row: View<'_>) -> Option<Row> {
    fn of<T: Codec>(row: View<'_>) -> Option<T> {
        T::from_bytes(row.span(), &Limits::default()).ok()
    }
    Some(match label {
        "broker" => Row::Broker(Box::new(of(row)?)),
        "account" => Row::Account(Box::new(of(row)?)),
        "holding" => Row::Holding(of(row)?),
        "principal" => Row::Principal(of(row)?),
        _ => Row::Cycle(of(row)?),
    })
}

/// A count; none is negative, or so large that it does not fit.
pub(super) fn int(n: &Int) -> u64 {
    match n {
        Int::Small(n) => u64::try_from(*n).unwrap_or(0),
        Int::Big(_) => u64::MAX,
    }
}

/// Since when it is held back, if it is.
pub(super) fn throttled_since(account: &Account) -> Option<f64> {
    match account.state {
        State::Throttled { since, .. } => Some(since.0),
        State::Open | State::Gone => None,
    }
}

/// Who waits for whom, in words.
pub(super) fn chain(cycle: &Cycle) -> String {
    let name = |party: &Party| format!("{} waits for ", party.name);
    let mut words: String = cycle.parties.iter().map(name).collect();
    words.push_str(match (&cycle.parties[..], cycle.parties.first()) {
        ([_], _) => "itself",
        (_, Some(first)) => &first.name,
        (_, None) => "nobody",
    });
    words
}

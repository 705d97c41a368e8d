//! A client that observes the ledger, and knows what holds there.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use staunch::server::Binding;
use staunch_protocols::schema::ledger::{Account, Broker, Cycle, Holding, Principal, State};
use staunch_protocols::schema::{Codec, Int};
use staunch_protocols::sturdy::SturdyRef;
use staunch_protocols::text as syntax;
use staunch_protocols::wire::{Limits, Scanner};

use super::*;

/// What lets in to the ledger of a broker for development, as text.
pub fn ledger_reference() -> String {
    let Binding { oid, key, .. } = Binding::of_ledger(Vec::new());
    let mut reference = Vec::new();
    SturdyRef::mint(&oid, &key).write(&mut reference);
    let mut scanner = Scanner::new(Limits::default());
    scanner.scan(&reference).unwrap();
    let mut out = String::new();
    syntax::write(scanner.view(&reference), &mut out, usize::MAX);
    out
}

/// A client whose oid 1 is the ledger.
pub fn at_ledger(mut client: Client) -> Client {
    client.send(&format!("[[0 <A <resolve {} #:[0 0]> 1>]]", ledger_reference()));
    let event = client.event();
    assert_eq!(event.body, "<ok #:[0, 1]>");
    client
}

/// See the module's head.
pub struct Ledger {
    pub client: Client,
    rows: BTreeMap<i64, Vec<u8>>,
    /// Updates that have come.
    pub updates: usize,
}

impl Ledger {
    /// Observes all there is.
    pub fn observed(address: SocketAddr) -> Ledger {
        let mut client = at_ledger(Client::tcp(address));
        for (at, label) in ["broker", "account", "holding", "principal", "cycle"].into_iter().enumerate() {
            let pattern = format!("<bind <group <rec {label}> {{}}>>");
            client.send(&format!("[{}]", observe(&pattern, 10 + at as i64, 10 + at as i64)));
        }
        Ledger { client, rows: BTreeMap::new(), updates: 0 }
    }

    /// Takes one turn.
    pub fn step(&mut self) {
        let Came::Turn(turn) = self.client.next_within(PATIENCE) else { panic!("something is told") };
        for event in &turn {
            match event.kind {
                'A' => {
                    let row = bytes(&event.body[1..event.body.len() - 1]);
                    assert!(self.rows.insert(event.handle, row).is_none());
                }
                _ => assert!(self.rows.remove(&event.handle).is_some()),
            }
        }
        assert!(self.all::<Broker>().len() <= 1, "it is replaced in one turn");
        self.updates += 1;
    }

    /// All records of a kind.
    pub fn all<T: Codec>(&self) -> Vec<T> {
        self.rows.values().filter_map(|row| T::from_bytes(row, &Limits::default()).ok()).collect()
    }

    pub fn accounts(&self) -> Vec<Account> {
        self.all()
    }

    pub fn holdings(&self) -> Vec<Holding> {
        self.all()
    }

    pub fn principals(&self) -> Vec<Principal> {
        self.all()
    }

    pub fn cycles(&self) -> Vec<Cycle> {
        self.all()
    }

    /// Takes turns until the ledger says so.
    pub fn until(&mut self, what: &str, mut is_so: impl FnMut(&Ledger) -> bool) {
        let start = Instant::now();
        while !is_so(self) {
            assert!(start.elapsed() < PATIENCE, "never told: {what}; {:?}", self.accounts());
            self.step();
        }
    }

    /// The numbers of those who are held back.
    pub fn throttled(&self) -> Vec<i64> {
        let accounts = self.accounts().into_iter();
        accounts.filter(|a| matches!(a.state, State::Throttled { .. })).map(|a| int(&a.party.id)).collect()
    }
}

pub fn int(n: &Int) -> i64 {
    match n {
        Int::Small(n) => *n,
        Int::Big(_) => panic!("nothing is so much"),
    }
}

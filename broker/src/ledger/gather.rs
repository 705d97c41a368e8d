//! An update in the making: all accounts, looked at a few at a time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use staunch_flowctl::Account;

use crate::Broker;
use crate::relay::{Done, Session, Throttle};

/// Accounts looked at in one run: some tens of microseconds.
const LOOKED_AT_MAX: usize = 256;

/// An account, as it was when it was looked at.
pub(super) struct Seen {
    pub(super) account: Arc<Account>,
    /// None if that has gone, or is not a connection.
    pub(super) session: Option<Arc<Session>>,
    pub(super) debt: u64,
    /// What waits for it, shared bodies not counted.
    pub(super) held: u64,
    pub(super) done: Done,
    pub(super) written: u64,
    pub(super) throttle: Option<Throttle>,
    pub(super) waits_since: Option<Instant>,
}

/// What connections had done at some moment, by their numbers.
#[derive(Default)]
pub(super) struct Past {
    pub(super) at: Option<Instant>,
    pub(super) done: HashMap<u64, (Done, u64)>,
}

/// See the module's head.
pub(super) struct Gathering {
    accounts: std::vec::IntoIter<Arc<Account>>,
    pub(super) seen: Vec<Seen>,
}

impl Gathering {
    pub(super) fn begin(broker: &Broker) -> Gathering {
        let accounts = broker.ledger.accounts();
        let seen = Vec::with_capacity(accounts.len());
        Gathering { accounts: accounts.into_iter(), seen }
    }

    /// Looks at some more. Returns whether there may be more.
    pub(super) fn go_on(&mut self, broker: &Broker) -> bool {
        let some = self.accounts.by_ref().take(LOOKED_AT_MAX);
        self.seen.extend(some.map(|account| look(account, broker)));
        self.accounts.len() > 0
    }
}

fn look(account: Arc<Account>, broker: &Broker) -> Seen {
    // A session has the number of its account.
    let session = broker.sessions.get(&account.id()).map(|session| session.clone());
    let load = session.as_ref().map(|session| session.outbox().load());
    Seen {
        debt: account.debt(),
        held: load.map_or(0, |load| load.units),
        written: load.map_or(0, |load| load.written),
        waits_since: load.and_then(|load| load.waits_since),
        done: session.as_ref().map(|session| session.meter().done()).unwrap_or_default(),
        throttle: session.as_ref().and_then(|session| session.meter().throttle()),
        account,
        session,
    }
}

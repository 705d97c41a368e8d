//! A principal: who answers for connections, and owes what they leave behind.

use std::fmt;
use std::future::{Future, poll_fn};
use std::task::{Poll, Waker};

use crate::fault::Faults;
use crate::gate::Gate;
use crate::ledger::Registry;
use crate::policy::PrincipalLimits;
use crate::sync::{Arc, AtomicU64, Ordering, Weak};

/// Who answers for a set of connections: the uid behind a Unix socket, an address, a service's name.
///
/// Live connections are gated by their own accounts alone. A principal adds two bounds that a
/// client cannot shed by reconnecting: how many connections it has open, and the *orphaned* debt,
/// which is what its retired accounts still owe. While that is over the limit, the principal's *new*
/// connections are not read.
///
/// *Shape*: shared as `Arc<Principal>`, from [`Ledger::principal`](crate::Ledger::principal). The ledger
/// itself holds it weakly: a principal without accounts, connections or debt lives only as long as
/// somebody holds it, so that addresses seen once do not pile up.
///
/// **Invariant:** at rest, the orphaned debt is the sum of the debts of its retired accounts. While an
/// account is being retired it may read higher by that account's debt, and while a retired one is
/// being charged lower by that charge; it never goes below zero.
pub struct Principal {
    name: Arc<str>,
    /// Orphaned debt.
    gate: Gate,
    /// *Meaning*: connections open. *Written* by try_open() and by dropping what it returned, *read* by
    /// the ledger. *Orders* nothing. *Wraps*: never, being bounded by `connections_max`.
    connections: AtomicU64,
    /// *Meaning*: the bound on `connections`. *Written* by an operator, *read* by try_open(). *Orders*
    /// nothing.
    connections_max: AtomicU64,
    /// The ledger that lists this principal, unless it is gone.
    registry: Weak<Registry>,
}

impl Principal {
    pub(crate) fn new(
        name: Arc<str>,
        limits: PrincipalLimits,
        registry: &Arc<Registry>,
        faults: Faults,
    ) -> Arc<Principal> {
        Arc::new(Principal {
            name,
            gate: Gate::new(limits.orphaned, faults),
            connections: AtomicU64::new(0),
            connections_max: AtomicU64::new(limits.connections_max),
            registry: Arc::downgrade(registry),
        })
    }

    /// Its name, unique within its ledger.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn shared_name(&self) -> &Arc<str> {
        &self.name
    }

    pub(crate) fn gate(&self) -> &Gate {
        &self.gate
    }

    /// What its retired accounts still owe, in cost units.
    pub fn orphaned(&self) -> u64 {
        self.gate.word().debt()
    }

    /// The greatest orphaned debt with which its new connections are read.
    pub fn limit(&self) -> u64 {
        self.gate.limit()
    }

    /// The orphaned debt at or below which its waiting connections go on: at most the limit.
    pub fn resume_level(&self) -> u64 {
        self.gate.resume_level()
    }

    /// Sets the limit on orphaned debt, and wakes whoever may go on because of it.
    pub fn set_limit(&self, limit: u64) {
        self.gate.set_limits(Some(limit), None);
    }

    /// Sets the orphaned debt at or below which waiting connections go on (`None`: the limit).
    pub fn set_resume_below(&self, resume_below: Option<u64>) {
        self.gate.set_limits(None, Some(resume_below));
    }

    /// Whether its new connections may be read.
    pub fn is_clear(&self) -> bool {
        self.gate.is_clear()
    }

    /// Whether some connection waits for the orphaned debt to fall.
    pub fn is_waiting(&self) -> bool {
        self.gate.word().is_waiting()
    }

    /// Ready if its new connections may be read; else `waker` is woken when they may be. Otherwise as
    /// [`Account::poll_clear_funds`](crate::Account::poll_clear_funds).
    pub fn poll_clear_funds(&self, waker: &Waker) -> Poll<()> {
        self.gate.poll_clear_funds(waker)
    }

    /// Waits until its new connections may be read.
    ///
    /// *Cancellation*: safe at any time.
    pub fn ensure_clear_funds(&self) -> impl Future<Output = ()> + Send + '_ {
        poll_fn(|context| self.poll_clear_funds(context.waker()))
    }

    /// How many connections are open.
    pub fn connections(&self) -> u64 {
        // Relaxed: a count to look at.
        self.connections.load(Ordering::Relaxed)
    }

    /// How many connections may be open.
    pub fn connections_max(&self) -> u64 {
        // Relaxed: a bound, nothing is published by it.
        self.connections_max.load(Ordering::Relaxed)
    }

    /// Sets how many connections may be open. Those that are open stay so.
    pub fn set_connections_max(&self, connections_max: u64) {
        // Relaxed: a bound, nothing is published by it.
        self.connections_max.store(connections_max, Ordering::Relaxed);
    }

    /// Counts one more connection, until what is returned is dropped.
    ///
    /// # Errors
    /// [`ConnectionsExhausted`] if as many are open as may be. A peer error: refuse this connection.
    pub fn try_open(self: &Arc<Self>) -> Result<OpenConnection, ConnectionsExhausted> {
        let connections_max = self.connections_max();
        // Relaxed, all: a count that is exact because it is only changed by read-modify-writes; nothing
        // is published by it.
        let mut open = self.connections.load(Ordering::Relaxed);
        loop {
            if open >= connections_max {
                return Err(ConnectionsExhausted { open, connections_max });
            }
            let (order, more) = (Ordering::Relaxed, open + 1);
            match self.connections.compare_exchange_weak(open, more, order, order) {
                Ok(_) => return Ok(OpenConnection { principal: Arc::clone(self) }),
                Err(now) => open = now,
            }
        }
    }
}

impl Drop for Principal {
    fn drop(&mut self) {
        // A model that has failed is over: its checker's types must not be used while unwinding.
        if cfg!(flowctl_loom) && std::thread::panicking() {
            return;
        }
        if let Some(registry) = self.registry.upgrade() {
            registry.forget_principal(self);
        }
    }
}

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Principal")
            .field("name", &self.name)
            .field("orphaned", &self.gate.word().debt_signed())
            .field("limit", &self.limit())
            .field("connections", &self.connections())
            .finish()
    }
}

/// One connection counted against its principal's bound, until dropped.
#[derive(Debug)]
#[must_use = "dropping it uncounts the connection"]
pub struct OpenConnection {
    principal: Arc<Principal>,
}

impl OpenConnection {
    /// Whose connection it is.
    pub fn principal(&self) -> &Arc<Principal> {
        &self.principal
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        // Relaxed: as in try_open().
        let before = self.principal.connections.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before > 0 || std::thread::panicking(), "a connection was uncounted twice");
    }
}

/// A principal has as many connections open as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionsExhausted {
    /// How many are open.
    pub open: u64,
    /// How many may be.
    pub connections_max: u64,
}

impl fmt::Display for ConnectionsExhausted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} connections are open, and {} may be", self.open, self.connections_max)
    }
}

impl std::error::Error for ConnectionsExhausted {}

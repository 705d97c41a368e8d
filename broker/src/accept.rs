//! Accepting connections, and refusing them.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use staunch_flowctl::OpenConnection;
use staunch_protocols::{packet, wire};
use staunch_system::net::{Buffers, Listener, Peer, Shutdown, Stream};

use crate::cap::Cap;
use crate::relay::{Session, SessionConfig};
use crate::schedule::{Outcome, Ready, Task, TaskState, Worker};
use crate::server::Config;
use crate::{Broker, Local};

/// For how long a TCP peer may be silent before the kernel asks whether it is there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
/// Refusals are logged so often at most.
const REFUSALS_LOGGED_EVERY: Duration = Duration::from_secs(1);

/// Accepts connections on one listener.
pub(crate) struct Acceptor {
    pub(crate) state: TaskState,
    pub(crate) broker: Weak<Broker>,
    pub(crate) listener: Listener,
    pub(crate) initial: Cap,
    pub(crate) terms: Terms,
    pub(crate) refusals: Refusals,
}

/// What all connections get.
#[derive(Clone, Copy)]
pub(crate) struct Terms {
    pub(crate) session: SessionConfig,
    pub(crate) buffers: Buffers,
}

impl Terms {
    pub(crate) fn new(config: &Config) -> Terms {
        let session = SessionConfig {
            debt_max: config.debt_max,
            outbox_max: config.outbox_max,
            packet: wire::Limits {
                packet_bytes_max: config.limits.packet_bytes,
                depth_max: config.limits.packet_depth,
                ..wire::Limits::default()
            },
        };
        let buffers =
            Buffers { send_bytes: Some(config.send_buffer), receive_bytes: Some(config.receive_buffer) };
        Terms { session, buffers }
    }
}

/// Why a connection is refused.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("Too many connections: all together may be {0}")]
    Connections(u64),
    #[error("Too many connections: one principal may have {0}")]
    OfPrincipal(u64),
    #[error("Too many new connections of one principal: {0} a second")]
    Rate(u64),
}

/// Says what has been refused, without being talked into saying it all the time.
#[derive(Default)]
pub(crate) struct Refusals {
    logged: Mutex<Option<Instant>>,
    /// Not logged since. Relaxed: a count.
    silent: AtomicU64,
}

impl Refusals {
    fn note(&self, principal: &str, why: &Refusal) {
        let now = Instant::now();
        let mut logged = self.logged.lock();
        if logged.is_some_and(|at| now - at < REFUSALS_LOGGED_EVERY) {
            self.silent.fetch_add(1, Ordering::Relaxed);
            return;
        }
        *logged = Some(now);
        match self.silent.swap(0, Ordering::Relaxed) {
            0 => tracing::warn!(principal, "refused a connection: {why}"),
            more => tracing::warn!(principal, "refused a connection, after {more} others: {why}"),
        }
    }
}

impl Acceptor {
    fn open(&self, broker: &Arc<Broker>, stream: Stream, peer: Peer) {
        let (principal, name) = names(peer);
        let connection = match admit(broker, &principal) {
            Ok(connection) => connection,
            Err(why) => return self.refuse(broker, &stream, &principal, &why),
        };
        let open = Opening { stream, peer, connection, principal: &principal, name: &name };
        if let Err(error) = open.open(broker, &self.initial, self.terms) {
            tracing::warn!(%error, connection = name, "cannot watch a connection");
        }
    }

    fn refuse(&self, broker: &Broker, stream: &Stream, principal: &str, why: &Refusal) {
        broker.counters.refused.fetch_add(1, Ordering::Relaxed);
        self.refusals.note(principal, why);
        // A new socket has room for it; if not, the peer sees the end alone.
        let mut words = Vec::new();
        packet::write_error(&mut words, &why.to_string());
        let _ = stream.write(&words);
        let _ = stream.shutdown(Shutdown::Write);
    }
}

/// Takes on a connection that no listener accepted.
pub(crate) fn adopt(
    broker: &Arc<Broker>,
    stream: Stream,
    peer: Peer,
    name: &str,
    initial: &Cap,
    terms: Terms,
) -> io::Result<()> {
    let (principal, _) = names(peer);
    let connection = admit(broker, &principal).map_err(|why| io::Error::other(why.to_string()))?;
    let open = Opening { stream, peer, connection, principal: &principal, name };
    open.open(broker, initial, terms)
}

/// A connection that has been admitted.
struct Opening<'a> {
    stream: Stream,
    peer: Peer,
    connection: OpenConnection,
    principal: &'a str,
    name: &'a str,
}

impl Opening<'_> {
    /// Begins a session. If that fails, it ends.
    fn open(self, broker: &Arc<Broker>, initial: &Cap, terms: Terms) -> io::Result<()> {
        let Opening { stream, peer, connection, principal, name } = self;
        match peer {
            // Unlike a TCP socket, it has not inherited them from the listener.
            Peer::Unix(_) => _ = stream.set_buffers(terms.buffers),
            // A machine that vanishes says nothing, and the end of a peer that is not being read waits behind
            // what it wrote, until its kernel gives up.
            Peer::Tcp(_) => _ = stream.set_keepalive(KEEPALIVE_IDLE),
        }
        let session =
            Session::open(broker, stream, connection, principal, name, initial.clone(), terms.session);
        session.start().inspect_err(|_| session.break_off())
    }
}

/// A place among the connections, if there is one.
fn admit(broker: &Broker, principal: &str) -> Result<OpenConnection, Refusal> {
    let (limits, places) = (broker.limits(), &broker.places);
    let connections_max = limits.connections.min(places.connections);
    if broker.sessions.len() as u64 >= connections_max {
        return Err(Refusal::Connections(connections_max));
    }
    let (rate, burst) = (limits.principal_connection_rate, limits.principal_connection_burst);
    if !broker.principals.arrivals.admit(principal, rate, burst) {
        return Err(Refusal::Rate(rate));
    }
    let owner = broker.ledger.principal(principal);
    owner.set_connections_max(limits.principal_connections.min(places.principal_connections));
    owner.try_open().map_err(|full| Refusal::OfPrincipal(full.connections_max))
}

/// Who answers for a connection, and what it is called.
fn names(peer: Peer) -> (String, String) {
    match peer {
        Peer::Tcp(address) => {
            let principal = match address.ip().to_canonical() {
                std::net::IpAddr::V4(ip) => format!("tcp:{ip}"),
                // A customer has at least so many: a single address is no bound.
                std::net::IpAddr::V6(ip) if !ip.is_loopback() => {
                    let [a, b, c, d, ..] = ip.segments();
                    format!("tcp:{}/64", std::net::Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
                }
                loopback => format!("tcp:{loopback}"),
            };
            (principal, format!("tcp:{address}"))
        }
        Peer::Unix(who) => (format!("uid:{}", who.uid), format!("unix:{}:{}", who.uid, who.pid)),
    }
}

impl Task<Local> for Acceptor {
    fn state(&self) -> &TaskState {
        &self.state
    }

    fn run(self: Arc<Self>, _: Ready, _: &mut Worker<Local>) -> Outcome {
        let Some(broker) = self.broker.upgrade() else { return Outcome::Idle };
        for _ in 0..64 {
            match self.listener.accept() {
                Ok(Some((stream, peer))) => self.open(&broker, stream, peer),
                Ok(None) => return Outcome::Idle,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept; will try again");
                    return Outcome::Idle;
                }
            }
        }
        Outcome::Again(Ready::READABLE)
    }
}

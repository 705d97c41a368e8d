//! Accepting connections, and refusing them.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use staunch_flowctl::OpenConnection;
use staunch_protocols::packet;
use staunch_system::net::{Listener, ListenerAddress, Peer, Shutdown, Stream};

use crate::admission::{self, Start};
use crate::cap::{Cap, Entity};
use crate::listen::Credit;
use crate::relay::{Session, SessionConfig};
use crate::schedule::{Outcome, Ready, Task, TaskState, Worker};
use crate::settings::Settings;
use crate::silence;
use crate::slow::Slow;
use crate::{Broker, Local};

/// For how long a TCP peer may be silent before the kernel asks whether it is there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
/// Refusals are logged so often at most.
const REFUSALS_LOGGED_EVERY: Duration = Duration::from_secs(1);
/// Shortages are logged so often at most.
const SHORTAGES_LOGGED_EVERY: Duration = Duration::from_secs(60);

/// Accepts connections on one listener.
pub(crate) struct Acceptor {
    pub(crate) state: TaskState,
    pub(crate) broker: Weak<Broker>,
    pub(crate) listener: Listener,
    pub(crate) initial: Cap,
    /// What is done about slow consumers, if it is said for this listener.
    pub(crate) slow: Option<Slow>,
    /// Whether turns are counted and reported.
    pub(crate) credit: Option<Credit>,
    pub(crate) refusals: Refusals,
    pub(crate) shortages: Shortages,
}

/// Why a connection is refused.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("Too many connections: all together may be {0} (connections)")]
    Connections(u64),
    #[error("Too many connections: one principal may have {0} (principal-connections)")]
    OfPrincipal(u64),
    #[error("Too many new connections of one principal: {0} a second (principal-connection-rate)")]
    Rate(u64),
    #[error("This user may not connect here")]
    Denied,
    #[error("What this user is to start from is not there: its reference is not valid")]
    Reference,
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

/// Says when there are too few descriptors to accept connections, and when there are enough again: not each time that it
/// is tried, nor each time that one becomes free and is taken.
#[derive(Default)]
pub(crate) struct Shortages(Mutex<Shortage>);

#[derive(Default)]
struct Shortage {
    /// Connections may wait that could not be accepted.
    is_short: bool,
    logged: Option<Instant>,
    /// The last line was that there is a shortage.
    is_told: bool,
}

impl Shortages {
    fn begin(&self, address: &ListenerAddress, error: &io::Error) {
        let mut state = self.0.lock();
        state.is_short = true;
        let now = Instant::now();
        if !state.is_told && state.logged.is_none_or(|at| now - at >= SHORTAGES_LOGGED_EVERY) {
            (state.logged, state.is_told) = (Some(now), true);
            tracing::warn!(%address, %error, "cannot accept connections; they wait, and it is tried again");
        }
    }

    /// None waits.
    fn end(&self, address: &ListenerAddress) {
        let mut state = self.0.lock();
        if std::mem::take(&mut state.is_short) && std::mem::take(&mut state.is_told) {
            tracing::info!(%address, "accepts connections again; none waits");
        }
    }
}

/// The reasons, for metrics, in the order of [`Refusal::number`].
pub(crate) const REFUSALS: [&str; 5] =
    ["connections", "principal-connections", "rate", "denied", "reference"];

impl Refusal {
    fn number(&self) -> usize {
        match self {
            Refusal::Connections(_) => 0,
            Refusal::OfPrincipal(_) => 1,
            Refusal::Rate(_) => 2,
            Refusal::Denied => 3,
            Refusal::Reference => 4,
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
        let settings = broker.settings();
        let (initial, slow) = match self.initial(&settings.rules, peer) {
            Ok(initial) => initial,
            Err(why) => return self.refuse(broker, &stream, &principal, &why),
        };
        let open = Opening { stream, peer, connection, principal: &principal, name: &name };
        let slow = slow.or(self.slow).unwrap_or(settings.slow);
        let config = SessionConfig { slow, credit: self.credit, ..settings.session(&broker.limits()) };
        if let Err(error) = open.open(broker, &initial, &settings, config) {
            tracing::warn!(%error, connection = name, "cannot watch a connection");
        }
    }

    /// What a peer starts from, and what is done if it is slow, as far as its rule says so.
    fn initial(&self, rules: &[admission::Rule], peer: Peer) -> Result<(Cap, Option<Slow>), Refusal> {
        let (Peer::Unix(who), ListenerAddress::Unix(socket)) = (peer, self.listener.address()) else {
            return Ok((self.initial.clone(), None));
        };
        let Some(rule) = admission::rule_for(rules, socket, &who) else {
            return Ok((self.initial.clone(), None));
        };
        match (&rule.start, self.initial.entity()) {
            (Start::Gatekeeper, _) => Ok((self.initial.clone(), rule.slow)),
            (Start::Nothing, _) => Err(Refusal::Denied),
            (Start::Reference(reference), Entity::Gatekeeper(gatekeeper)) => {
                let (cap, slow) = gatekeeper.look_up(reference).ok_or(Refusal::Reference)?;
                Ok((cap, rule.slow.or(slow)))
            }
            (Start::Reference(_), _) => Err(Refusal::Reference),
        }
    }

    fn refuse(&self, broker: &Broker, stream: &Stream, principal: &str, why: &Refusal) {
        broker.counters.refused[why.number()].fetch_add(1, Ordering::Relaxed);
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
) -> io::Result<Arc<Session>> {
    let (principal, _) = names(peer);
    let connection = admit(broker, &principal).map_err(|why| io::Error::other(why.to_string()))?;
    let open = Opening { stream, peer, connection, principal: &principal, name };
    let settings = broker.settings();
    let config = settings.session(&broker.limits());
    open.open(broker, initial, &settings, config)
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
    fn open(
        self,
        broker: &Arc<Broker>,
        initial: &Cap,
        settings: &Settings,
        config: SessionConfig,
    ) -> io::Result<Arc<Session>> {
        let Opening { stream, peer, connection, principal, name } = self;
        match peer {
            // Unlike a TCP socket, it has not inherited them from the listener.
            Peer::Unix(_) => _ = stream.set_buffers(settings.buffers),
            // A machine that vanishes says nothing, and the end of a peer that is not being read waits behind
            // what it wrote, until its kernel gives up.
            Peer::Tcp(_) => {
                let _ = stream.set_keepalive(KEEPALIVE_IDLE);
                if let Some(interval) = settings.silence_max.map(silence::retry_interval_max) {
                    // Older kernels do without: it takes longer there.
                    let _ = stream.set_retry_interval_max(interval);
                }
            }
        }
        // Relaxed: counter only.
        broker.counters.accepted.fetch_add(1, Ordering::Relaxed);
        let session = Session::open(broker, stream, connection, principal, name, initial.clone(), config);
        // Before it is run, and what it does is logged.
        tracing::debug!(connection = name, principal, start = initial.entity().name(), "connected");
        session.start().inspect_err(|_| session.break_off())?;
        Ok(session)
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
    let orphaned_max = broker.settings().orphaned_max;
    if owner.limit() != orphaned_max {
        owner.set_limit(orphaned_max);
        owner.set_resume_below(Some(orphaned_max / 2));
    }
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
                Ok(None) => {
                    self.shortages.end(self.listener.address());
                    return Outcome::Idle;
                }
                Err(error) => {
                    self.shortages.begin(self.listener.address(), &error);
                    return Outcome::Idle;
                }
            }
        }
        Outcome::Again(Ready::READABLE)
    }
}

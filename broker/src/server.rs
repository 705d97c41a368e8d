//! Listeners, and the broker's life from start to SIGTERM.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use staunch_flowctl::PrincipalLimits;
use staunch_protocols::wire::{Limits, encode};
use staunch_system::net::{Buffers, Listener, Peer, Shutdown};
use staunch_system::poll::Interest;

use crate::Broker;
use crate::Local;
use crate::cap::{Cap, Entity};
use crate::dataspace::Dataspace;
use crate::gatekeeper::Gatekeeper;
use crate::relay::{Session, SessionConfig};
use crate::schedule::{Outcome, Ready, Registration, Scheduler, SchedulerConfig, Task, TaskState, Worker};

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A TCP address and port.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Address, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path {
                "" => Err("unix: needs a path, as in unix:/run/staunch/socket".to_owned()),
                path => Ok(Address::Unix(path.into())),
            };
        }
        let Some(address) = text.strip_prefix("tcp:") else {
            return Err("expected tcp:ADDRESS:PORT or unix:PATH".to_owned());
        };
        address.parse().map(Address::Tcp).map_err(|_| {
            format!("{address} is not a numeric address with a port, as in 127.0.0.1:9001 or [::1]:9001")
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => write!(f, "tcp:{address}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// How to run a broker.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen.
    pub listen: Vec<Address>,
    /// Worker threads.
    pub workers: usize,
    /// Debt above which a connection is not read, in cost units (bytes, and 32 per event).
    pub debt_max: u64,
    /// Connections of one principal.
    pub connections_max: u64,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            listen: Vec::new(),
            workers: SchedulerConfig::default().workers,
            debt_max: 2 << 20,
            connections_max: 100_000,
        }
    }
}

/// Why a broker does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen on {0}: {1}")]
    Listen(Address, io::Error),
    /// The well-known reference is for this machine alone.
    #[error("--dev lets everybody in, so it listens on loopback addresses and Unix sockets only, not on {0}")]
    NotLocal(Address),
    /// The workers cannot be started.
    #[error("cannot start: {0}")]
    Scheduler(io::Error),
}

/// What an account owes: a row of the ledger.
#[derive(Debug, Clone)]
pub struct Debt {
    /// The connection.
    pub name: String,
    /// What it owes now.
    pub debt: u64,
    /// What it may owe before it is not read.
    pub limit: u64,
    /// Whether it is being held back.
    pub is_waiting: bool,
}

/// What waits for a connection that does not read: a row of the ledger.
#[derive(Debug, Clone)]
pub struct Holding {
    /// The connection that holds.
    pub holder: String,
    /// Who is charged for it.
    pub debtor: String,
    /// Bytes that wait.
    pub bytes: u64,
    /// What is owed for them.
    pub cost: u64,
}

/// A running broker. Ends when it is shut down or dropped.
pub struct Server {
    broker: Arc<Broker>,
    acceptors: Vec<(Arc<Acceptor>, Registration<Local>)>,
}

impl Server {
    /// Starts a broker whose gatekeeper binds the well-known reference, `"syndicate"` signed with the empty key,
    /// to a dataspace.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start_dev(config: &Config) -> Result<Server, StartError> {
        for address in &config.listen {
            if matches!(address, Address::Tcp(a) if !a.ip().is_loopback()) {
                return Err(StartError::NotLocal(address.clone()));
            }
        }
        let _ = staunch_system::limits::raise_open_files();
        let limits =
            PrincipalLimits { connections_max: config.connections_max, ..PrincipalLimits::default() };
        let broker = Broker::new(limits);
        let scheduler = SchedulerConfig { workers: config.workers, ..SchedulerConfig::default() };
        let scheduler = Scheduler::start(scheduler).map_err(StartError::Scheduler)?;
        let _ = broker.scheduler.set(scheduler);
        let dataspace = Cap::new(Entity::Dataspace(Arc::new(Dataspace::new(broker.handles.clone()))));
        let gatekeeper = Gatekeeper::default();
        let mut oid = Vec::new();
        encode::string(&mut oid, "syndicate");
        gatekeeper.bind(&oid, b"", dataspace);
        let initial = Cap::new(Entity::Gatekeeper(Arc::new(gatekeeper)));
        let mut server = Server { broker, acceptors: Vec::new() };
        for address in &config.listen {
            server.listen(address, &initial, config).map_err(|e| StartError::Listen(address.clone(), e))?;
        }
        Ok(server)
    }

    fn listen(&mut self, address: &Address, initial: &Cap, config: &Config) -> io::Result<()> {
        let buffers = Buffers::default();
        let listener = match address {
            Address::Tcp(address) => Listener::tcp(*address, buffers)?,
            Address::Unix(path) => Listener::unix(path, None, buffers)?,
        };
        let session = SessionConfig {
            debt_max: config.debt_max,
            assertions_max: 10_000_000,
            skeletons_max: 20_000,
            packet: Limits::default(),
        };
        let acceptor = Arc::new(Acceptor {
            state: TaskState::new(),
            broker: Arc::downgrade(&self.broker),
            listener,
            initial: initial.clone(),
            session,
        });
        let scheduler = self.broker.scheduler();
        let registration = scheduler.register_for(&acceptor.listener, acceptor.clone(), Interest::Read)?;
        tracing::info!(%address, "listening");
        self.acceptors.push((acceptor, registration));
        Ok(())
    }

    /// The TCP addresses listened on, with the ports that the system chose.
    pub fn tcp_addresses(&self) -> Vec<SocketAddr> {
        let address = |a: &(Arc<Acceptor>, Registration<Local>)| match a.0.listener.address() {
            staunch_system::net::ListenerAddress::Tcp(address) => Some(*address),
            _ => None,
        };
        self.acceptors.iter().filter_map(address).collect()
    }

    /// Looks again for connections on listeners that ran out of descriptors. To be called now and then.
    pub fn tick(&self) {
        for (acceptor, _) in &self.acceptors {
            self.broker.scheduler().notify(acceptor, Ready::WAKE);
        }
    }

    /// Who owes what.
    pub fn debts(&self) -> Vec<Debt> {
        let rows = self.broker.sessions.iter().map(|s| {
            let account = s.account();
            Debt {
                name: account.name().to_owned(),
                debt: account.debt(),
                limit: account.limit(),
                is_waiting: account.is_waiting(),
            }
        });
        rows.collect()
    }

    /// Who sits on whose debts.
    pub fn holdings(&self) -> Vec<Holding> {
        let mut rows = Vec::new();
        for session in self.broker.sessions.iter() {
            for (account, bytes, cost) in session.outbox().owed() {
                rows.push(Holding {
                    holder: session.account().name().to_owned(),
                    debtor: account.name().to_owned(),
                    bytes,
                    cost,
                });
            }
        }
        rows
    }

    /// How many connections are open.
    pub fn connections(&self) -> usize {
        self.broker.sessions.len()
    }

    /// All that is owed, by live and ended connections.
    pub fn total_debt(&self) -> u64 {
        self.broker.ledger.total_debt()
    }

    /// Events delivered, write calls made, messages dropped since they would have introduced a capability, and
    /// times that a connection was held back, so far.
    pub fn counts(&self) -> [(&'static str, u64); 5] {
        let c = &self.broker.counters;
        // Relaxed: counters only.
        let read =
            |counter: &std::sync::atomic::AtomicU64| counter.load(std::sync::atomic::Ordering::Relaxed);
        [
            ("deliveries", read(&c.deliveries)),
            ("writes", read(&c.writes)),
            ("transient drops", read(&c.transient_drops)),
            ("throttled", read(&c.throttled)),
            ("ended", read(&c.ended)),
        ]
    }

    /// Ends all connections and the workers.
    pub fn shutdown(&self) {
        for (_, registration) in &self.acceptors {
            registration.close();
        }
        let sessions: Vec<Arc<Session>> = self.broker.sessions.iter().map(|s| s.clone()).collect();
        for session in &sessions {
            let _ = session.stream().shutdown(Shutdown::Both);
            session.hang_up();
        }
        // Peers see the end in any case; what they asserted here ends with the process.
        let patience = std::time::Instant::now();
        while self.connections() > 0 && patience.elapsed() < Duration::from_millis(500) {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.broker.scheduler().shutdown();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shutdown();
    }
}

/// Accepts connections on one listener.
struct Acceptor {
    state: TaskState,
    broker: Weak<Broker>,
    listener: Listener,
    initial: Cap,
    session: SessionConfig,
}

impl Task<Local> for Acceptor {
    fn state(&self) -> &TaskState {
        &self.state
    }

    fn run(self: Arc<Self>, _: Ready, _: &mut Worker<Local>) -> Outcome {
        let Some(broker) = self.broker.upgrade() else { return Outcome::Idle };
        for _ in 0..64 {
            let (stream, peer) = match self.listener.accept() {
                Ok(Some(accepted)) => accepted,
                Ok(None) => return Outcome::Idle,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept; will try again");
                    return Outcome::Idle;
                }
            };
            let (principal, name) = match peer {
                Peer::Tcp(address) => (format!("tcp:{}", address.ip()), format!("tcp:{address}")),
                Peer::Unix(who) => (format!("uid:{}", who.uid), format!("unix:{}:{}", who.uid, who.pid)),
            };
            match Session::open(&broker, stream, &principal, &name, self.initial.clone(), self.session) {
                Ok(session) => {
                    if let Err(error) = session.start() {
                        tracing::warn!(%error, connection = name, "cannot watch a connection");
                        session.hang_up();
                    }
                }
                Err(error) => tracing::warn!(principal, "refused a connection: {error}"),
            }
        }
        Outcome::Again(Ready::READABLE)
    }
}

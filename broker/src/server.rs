//! Listeners, and the broker's life from start to SIGTERM.

mod decided;
mod drain;
mod held_back;
mod reload;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
pub use staunch_flowctl::AuditError;
use staunch_flowctl::{Account, Limits, PrincipalLimits};
use staunch_protocols::wire::encode;
use staunch_system::net::{Listener, ListenerAddress, Stream};
use staunch_system::poll::Interest;

use crate::Broker;
use crate::Local;
use crate::accept::{self, Acceptor, Refusals, Shortages};
use crate::admission::Rule;
use crate::cap::{Cap, Entity};
pub use crate::decisions::{Decision, DecisionCounts, DecisionKind};
use crate::gatekeeper::{Bindings, Gatekeeper};
use crate::ledger::Reporter;
pub use crate::ledger::{Audit, LedgerConfig};
use crate::limits::{Limits as PeerLimits, Places};
pub use crate::listen::{Address, Answers, Credit, Listen};
use crate::metrics::Exporter;
use crate::relay::Session;
pub use crate::schedule::NotPaused;
use crate::schedule::{Ready, Registration, Scheduler, SchedulerConfig, TaskState};
use crate::settings::Settings;
pub use crate::slow::Slow;
use held_back::HeldBack;

/// What lets clients in: whoever shows a sturdyref for `oid`, signed with `key`, gets the broker's dataspace, or its
/// ledger.
#[derive(Clone, PartialEq, Eq)]
pub struct Binding {
    /// A canonical value without capabilities.
    pub oid: Vec<u8>,
    /// The secret; of any length.
    pub key: Vec<u8>,
    /// What is done about slow consumers that came in by it; `None` for what was said of their connections.
    pub slow: Option<Slow>,
}

impl Binding {
    /// The well-known one of development: `"syndicate"` under the empty key. It lets everybody in.
    pub fn well_known() -> Binding {
        let mut oid = Vec::new();
        encode::string(&mut oid, "syndicate");
        Binding { oid, key: Vec::new(), slow: None }
    }

    /// What lets in to the ledger: `"ledger"` under this key.
    pub fn of_ledger(key: Vec<u8>) -> Binding {
        let mut oid = Vec::new();
        encode::string(&mut oid, "ledger");
        Binding { oid, key, slow: None }
    }
}

impl fmt::Debug for Binding {
    /// Without the key, which is a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Binding").field("oid", &self.oid).field("slow", &self.slow).finish_non_exhaustive()
    }
}

/// How to run a broker.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen.
    pub listen: Vec<Listen>,
    /// Listening sockets that somebody else has made, TCP or Unix. What one of them listens on need not be in `listen`,
    /// and may be.
    pub sockets: Vec<Arc<OwnedFd>>,
    /// Who starts from what over Unix sockets; the first that fits counts.
    pub rules: Vec<Rule>,
    /// Permissions of the files of Unix sockets (writing is what connecting takes); `None` leaves them to the umask.
    pub socket_mode: Option<u32>,
    /// What lets clients in; of two with the same oid the later counts.
    pub bindings: Vec<Binding>,
    /// What lets in to the ledger, a dataspace in which the broker tells who owes what to whom.
    pub ledger_bindings: Vec<Binding>,
    /// How the ledger is kept.
    pub ledger: LedgerConfig,
    /// Where to tell metrics, over HTTP, to whoever can connect. (`GET /metrics`, as OpenMetrics text.)
    pub metrics: Option<SocketAddr>,
    /// Worker threads.
    pub workers: usize,
    /// For how long a worker that has run out of work polls for more before it sleeps, where answers come fast; zero
    /// for not at all.
    pub busy_poll: Duration,
    /// Debt above which a connection is not read, in cost units (bytes, and 32 per event).
    pub debt_max: u64,
    /// What peers may have.
    pub limits: PeerLimits,
    /// What the ended connections of one principal may owe before its new ones are not read, in cost units.
    pub orphaned_max: u64,
    /// Bytes that may wait for one connection, large bodies that others get too not counted, before whoever causes
    /// more is not read. At four times as much the connection that does not read ends.
    pub outbox_max: usize,
    /// What one turn may come to, for all who observe it together, in cost units. Who sends a turn that would come to
    /// more is ended, and the turn has no effect.
    pub fan_out_max: u64,
    /// Bytes that the kernel is to buffer for what we send on one connection (`SO_SNDBUF`).
    pub send_buffer: usize,
    /// Bytes that the kernel is to buffer of what we receive on one connection (`SO_RCVBUF`). On a Unix socket what a
    /// peer has sent stays in the peer's own send buffer, so there it bounds nothing.
    pub receive_buffer: usize,
    /// What is done about slow consumers, unless their listener, rule or binding says otherwise.
    pub slow: Slow,
    /// For how long a TCP peer's kernel may acknowledge nothing while something is on its way to it. `None` leaves that to
    /// our kernel, which gives up after a quarter of an hour or so. A peer that only does not read acknowledges all the
    /// same, and is never ended for this.
    pub silence_max: Option<Duration>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            listen: Vec::new(),
            sockets: Vec::new(),
            rules: Vec::new(),
            socket_mode: None,
            bindings: Vec::new(),
            ledger_bindings: Vec::new(),
            ledger: LedgerConfig::default(),
            metrics: None,
            workers: SchedulerConfig::default().workers,
            busy_poll: SchedulerConfig::default().busy_poll,
            debt_max: 2 << 20,
            limits: PeerLimits::default(),
            orphaned_max: 64 << 20,
            outbox_max: 64 << 20,
            fan_out_max: 256 << 20,
            send_buffer: 256 << 10,
            receive_buffer: 256 << 10,
            slow: Slow::Throttle,
            silence_max: Some(Duration::from_secs(60)),
        }
    }
}

/// Why a broker does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen on {0}: {1}")]
    Listen(Address, io::Error),
    /// Metrics cannot be told there.
    #[error("cannot tell metrics on tcp:{0}: {1}")]
    Metrics(SocketAddr, io::Error),
    /// A socket that was handed over is of no use.
    #[error("socket {0} of those that were handed over cannot be listened on: {1}")]
    Socket(usize, io::Error),
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
    /// Who answers for it.
    pub principal: String,
    /// What it owes now.
    pub debt: u64,
    /// What it may owe before it is not read.
    pub limit: u64,
    /// Whether it is being held back.
    pub is_waiting: bool,
    /// Whether the connection has ended, and its principal owes this.
    pub is_orphaned: bool,
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
    /// Whether they are a body that others may hold as well: it is owed for once, until the last lets go.
    pub is_shared: bool,
}

/// A running broker. Ends when it is shut down or dropped.
pub struct Server {
    broker: Arc<Broker>,
    dataspace: Cap,
    ledger: Cap,
    /// Kept alive with the broker.
    _reporter: Arc<Reporter>,
    bindings: Arc<Bindings>,
    gatekeepers: [(Answers, Arc<Gatekeeper>); 2],
    acceptors: Mutex<Vec<(Arc<Acceptor>, Registration<Local>)>>,
    metrics: Option<Exporter>,
    held_back: Mutex<HeldBack>,
}

impl Server {
    /// Starts a broker whose gatekeeper binds the well-known reference, `"syndicate"` signed with the empty key,
    /// to the dataspace, too; and `"ledger"`, signed with the same, to the ledger.
    ///
    /// # Errors
    /// [`StartError`]: among others, an address that is not this machine's alone.
    pub fn start_dev(config: &Config) -> Result<Server, StartError> {
        let sockets = config.sockets.iter().filter_map(|socket| socket.try_clone().ok());
        let addresses = sockets.filter_map(|socket| Listener::from_fd(socket).ok());
        let handed_over = addresses.map(|listener| address_of(&listener));
        for address in config.listen.iter().map(|listen| listen.address.clone()).chain(handed_over) {
            if matches!(address, Address::Tcp(a) if !a.ip().is_loopback()) {
                return Err(StartError::NotLocal(address));
            }
        }
        let mut config = config.clone();
        config.bindings.push(Binding::well_known());
        config.ledger_bindings.push(Binding::of_ledger(Vec::new()));
        Server::start(&config)
    }

    /// Starts a broker whose gatekeeper gives a dataspace to whoever the bindings let in.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(config: &Config) -> Result<Server, StartError> {
        let places = places(&config.limits);
        let orphaned = Limits::new(config.orphaned_max).with_resume_below(config.orphaned_max / 2);
        let limits = PrincipalLimits { connections_max: config.limits.principal_connections, orphaned };
        let settings = Settings::of(config);
        let broker = Broker::new(limits, config.fan_out_max, config.limits.clone(), places, settings)
            .map_err(StartError::Scheduler)?;
        let scheduler = SchedulerConfig {
            workers: config.workers,
            busy_poll: config.busy_poll,
            ..SchedulerConfig::default()
        };
        let scheduler = Scheduler::start(scheduler).map_err(StartError::Scheduler)?;
        let _ = broker.scheduler.set(scheduler);
        broker.lingering.start(&broker).map_err(StartError::Scheduler)?;
        broker.reports.start(&broker).map_err(StartError::Scheduler)?;
        broker.silences.start(&broker).map_err(StartError::Scheduler)?;
        broker.backlogs.start(&broker).map_err(StartError::Scheduler)?;
        broker.stalls.start(&broker).map_err(StartError::Scheduler)?;
        let (reporter, ledger) =
            Reporter::new(&broker, config.ledger.clone()).map_err(StartError::Scheduler)?;
        let _ = broker.reporter.set(Arc::downgrade(&reporter));
        let dataspace = Cap::new(Entity::Dataspace(broker.new_dataspace()));
        let bindings = Arc::new(Bindings::default());
        bindings.rebind(bound(config, &dataspace, &ledger));
        let gatekeepers = [Answers::Ok, Answers::Accepted]
            .map(|form| (form, Arc::new(Gatekeeper::new(bindings.clone(), form))));
        let (acceptors, held_back) = (Mutex::default(), Mutex::default());
        let metrics = config.metrics.map(|address| {
            Exporter::start(address, &broker).map_err(|error| StartError::Metrics(address, error))
        });
        let metrics = metrics.transpose()?;
        let server = Server {
            broker,
            dataspace,
            ledger,
            _reporter: reporter,
            bindings,
            gatekeepers,
            acceptors,
            metrics,
            held_back,
        };
        for (at, socket) in config.sockets.iter().enumerate() {
            server.take_over(socket, config).map_err(|error| StartError::Socket(at, error))?;
        }
        let handed_over = server.addresses();
        for listen in config.listen.iter().filter(|listen| !handed_over.contains(&listen.address)) {
            server.listen(listen, config).map_err(|e| StartError::Listen(listen.address.clone(), e))?;
        }
        Ok(server)
    }

    fn listen(&self, listen: &Listen, config: &Config) -> io::Result<()> {
        let buffers = self.broker.settings().buffers;
        let listener = match &listen.address {
            Address::Tcp(address) => Listener::tcp(*address, buffers)?,
            Address::Unix(path) => Listener::unix(path, config.socket_mode, buffers)?,
        };
        self.accept_from(listener, Some(listen))
    }

    /// Listens on what somebody else has made. Its options may be said by listing its address.
    fn take_over(&self, socket: &OwnedFd, config: &Config) -> io::Result<()> {
        // What is accepted over TCP inherits these.
        self.broker.settings().buffers.apply(socket)?;
        let listener = Listener::from_fd(socket.try_clone()?)?;
        let listed = config.listen.iter().find(|listen| listen.address == address_of(&listener));
        self.accept_from(listener, listed)
    }

    fn accept_from(&self, listener: Listener, listed: Option<&Listen>) -> io::Result<()> {
        let answers = listed.map_or_else(Answers::default, |listen| listen.answers);
        let gatekeeper = self.gatekeepers.iter().find(|(form, _)| *form == answers);
        let (_, gatekeeper) = gatekeeper.expect("there is one for each form");
        let acceptor = Arc::new(Acceptor {
            state: TaskState::new(),
            broker: Arc::downgrade(&self.broker),
            listener,
            initial: Cap::new(Entity::Gatekeeper(gatekeeper.clone())),
            slow: listed.and_then(|listen| listen.slow),
            credit: listed.and_then(|listen| listen.credit),
            refusals: Refusals::default(),
            shortages: Shortages::default(),
        });
        let scheduler = self.broker.scheduler();
        let registration = scheduler.register_for(&acceptor.listener, acceptor.clone(), Interest::Read)?;
        tracing::debug!(address = %acceptor.listener.address(), "listening");
        self.acceptors.lock().push((acceptor, registration));
        Ok(())
    }

    /// Takes on a connection that was made in some other way. Its peer gets the dataspace itself, as oid 0, so it must
    /// be known who it is. What it has is counted as its principal's, who is named as for a Unix socket.
    ///
    /// # Errors
    /// When the stream cannot be watched, or its principal has too many connections.
    pub fn adopt(&self, stream: Stream, name: &str) -> io::Result<Adopted> {
        let peer = stream.peer()?;
        let session = accept::adopt(&self.broker, stream, peer, name, &self.dataspace)?;
        Ok(Adopted(Arc::downgrade(&session)))
    }

    /// What is listened on.
    pub fn addresses(&self) -> Vec<Address> {
        self.acceptors.lock().iter().map(|(acceptor, _)| address_of(&acceptor.listener)).collect()
    }

    /// The TCP addresses listened on, with the ports that the system chose.
    pub fn tcp_addresses(&self) -> Vec<SocketAddr> {
        let tcp = |address| match address {
            Address::Tcp(address) => Some(address),
            Address::Unix(_) => None,
        };
        self.addresses().into_iter().filter_map(tcp).collect()
    }

    /// Where metrics are told, with the port that the system chose.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics.as_ref().map(Exporter::address)
    }

    /// All metrics, as OpenMetrics text.
    pub fn metrics(&self) -> String {
        crate::metrics::text(&self.broker)
    }

    /// Looks again for connections on listeners that ran out of descriptors, and logs who is held back because of whom.
    /// To be called now and then.
    pub fn tick(&self) {
        self.look_who_is_held_back();
        for (acceptor, _) in self.acceptors.lock().iter() {
            self.broker.scheduler().notify(acceptor, Ready::WAKE);
        }
    }

    /// Has other limits hold from now on.
    pub fn set_limits(&self, limits: PeerLimits) {
        self.broker.set_limits(limits);
    }

    /// Who owes what: live connections, and ended ones that still owe something.
    pub fn debts(&self) -> Vec<Debt> {
        let rows = self.broker.ledger.snapshot().into_iter().map(|row| Debt {
            name: row.name.to_string(),
            principal: row.principal.to_string(),
            debt: row.debt,
            limit: row.limit,
            is_waiting: row.is_waiting,
            is_orphaned: row.is_orphaned,
        });
        rows.collect()
    }

    /// Who sits on whose debts.
    pub fn holdings(&self) -> Vec<Holding> {
        let mut rows = Vec::new();
        for session in &self.broker.sessions {
            let mut add = |account: &Account, bytes, cost, is_shared| {
                let (holder, debtor) = (session.account().name().to_owned(), account.name().to_owned());
                rows.push(Holding { holder, debtor, bytes, cost, is_shared });
            };
            for (account, bytes, cost) in session.outbox().owed() {
                add(&account, bytes, cost, false);
            }
            for body in session.outbox().shared_bodies() {
                add(body.loan().account(), body.bytes().len() as u64, body.loan().cost(), true);
            }
        }
        rows
    }

    /// Checks that all debts together are what is owed for all that waits.
    ///
    /// Only meaningful while nothing moves: no connection is being read or written to.
    ///
    /// # Errors
    /// What does not add up. Each is a bug.
    pub fn audit(&self) -> Result<(), AuditError> {
        self.broker.compare().imbalance.map_or(Ok(()), Err)
    }

    /// The same, and more, at any time: has all workers stand still meanwhile. They do so between two pieces of work,
    /// which takes as long as the longest that is under way, 100 ms at most.
    ///
    /// # Errors
    /// If they do not come to rest.
    pub fn pause_and_audit(&self) -> Result<Audit, NotPaused> {
        self.broker.pause_and_audit()
    }

    /// How many observers, distinct assertions and skeletons there are in all dataspaces.
    pub fn index_counts(&self) -> (usize, usize, usize) {
        self.broker.index_counts()
    }

    /// What the workers have done.
    pub fn scheduler_metrics(&self) -> crate::schedule::Metrics {
        self.broker.scheduler().metrics()
    }

    /// How many connections are open.
    pub fn connections(&self) -> usize {
        self.broker.sessions.len()
    }

    /// All that is owed, by live and ended connections.
    pub fn total_debt(&self) -> u64 {
        self.broker.ledger.total_debt()
    }

    /// So far: events delivered, reads from and writes to connections, messages dropped since they would have introduced
    /// a capability, times that a connection was held back, connections ended, connections refused, and
    /// connections ended since their peers had vanished. A worker adds
    /// what it has counted at the end of each run of a connection.
    pub fn counts(&self) -> [(&'static str, u64); 8] {
        let c = &self.broker.counters;
        // Relaxed: counters only.
        let read =
            |counter: &std::sync::atomic::AtomicU64| counter.load(std::sync::atomic::Ordering::Relaxed);
        [
            ("deliveries", read(&c.deliveries)),
            ("reads", read(&c.reads)),
            ("writes", read(&c.writes)),
            ("transient drops", read(&c.transient_drops)),
            ("throttled", read(&c.throttled)),
            ("ended", read(&c.ended)),
            ("refused", c.refused.iter().map(read).sum()),
            ("vanished", read(&c.vanished)),
        ]
    }

    /// Sets `answered` once a worker has had time for it.
    pub fn ask_workers(&self, answered: Arc<std::sync::atomic::AtomicBool>) {
        // Relaxed: a sign of life, nothing is published by it.
        self.broker.scheduler().spawn(move |_| answered.store(true, std::sync::atomic::Ordering::Relaxed));
    }
}

/// What each binding lets in to: oid, key, target.
fn bound<'c>(config: &'c Config, dataspace: &Cap, ledger: &Cap) -> impl Iterator<Item = (&'c Binding, Cap)> {
    let to = |target: &Cap| {
        let target = target.clone();
        move |binding: &'c Binding| (binding, target.clone())
    };
    let ledgers = config.ledger_bindings.iter().map(to(ledger));
    ledgers.chain(config.bindings.iter().map(to(dataspace)))
}

/// So few connections are told of, whoever asked for how many.
const FEW_CONNECTIONS: u64 = 1000;

/// Raises the limit of descriptors as far as it goes, and says so if that leaves fewer connections than were asked for,
/// or few.
fn places(limits: &PeerLimits) -> Places {
    let (descriptors, places) = Places::here();
    let defaults = PeerLimits::default();
    let is_less = |asked: u64, default: u64, there_are: u64| asked > there_are && asked != default;
    if is_less(limits.connections, defaults.connections, places.connections)
        || is_less(limits.principal_connections, defaults.principal_connections, places.principal_connections)
        || places.connections < limits.connections.min(FEW_CONNECTIONS)
    {
        let (all, one) = (places.connections, places.principal_connections);
        tracing::warn!(
            "{descriptors} descriptors (RLIMIT_NOFILE) are enough for {all} connections, {one} of them one principal's. \
             Allow more (LimitNOFILE= of a service, `ulimit -Hn` of a shell), or lower `connections` and \
             `principal-connections`"
        );
    }
    places
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shutdown();
    }
}

fn address_of(listener: &Listener) -> Address {
    match listener.address() {
        ListenerAddress::Tcp(address) => Address::Tcp(*address),
        ListenerAddress::Unix(path) => Address::Unix(path.clone()),
    }
}

/// A connection that was [taken on](Server::adopt). Dropping this ends nothing.
#[derive(Debug)]
pub struct Adopted(Weak<Session>);

impl Adopted {
    /// Whether all that its peer has written has been read and has taken effect, and the answers have been handed to
    /// the kernel; or it has ended. What others send to it counts as answers.
    pub fn is_settled(&self) -> bool {
        self.0.upgrade().is_none_or(|session| session.is_settled())
    }

    /// Whether the broker ends it, or has ended it, because of something that its peer did. To be asked before the peer
    /// ends its side: after that it may be forgotten.
    pub fn has_failed(&self) -> bool {
        self.0.upgrade().is_some_and(|session| session.has_failed())
    }

    /// Whether the beginning of a packet has come, and not its end.
    pub fn is_within_packet(&self) -> bool {
        self.0.upgrade().is_some_and(|session| session.is_within_packet())
    }

    /// Whether there are no other connections.
    pub fn is_alone(&self) -> bool {
        self.0.upgrade().is_none_or(|session| session.is_only())
    }
}

//! A message broker for Linux that speaks the Syndicate protocol.
//!
//! Most use it as the command `staunch`. It can also run in a program of your own: [`server::Server`] has worker threads
//! of its own and needs no runtime, and [`client::Session`] reaches it as any other peer does. A broker started so handles
//! no signals, takes no lock and writes no file; what it logs goes to `tracing`. Start it with a key of your own in
//! [`server::Config::bindings`]; [`server::Server::start_dev`], as below, lets everybody in on loopback addresses.
//!
//! ```
//! use std::time::{Duration, Instant};
//! use staunch::client::{BrokerAddress, Error, Session};
//! use staunch::server::{Binding, Config, Server};
//! use staunch_protocols::packet::Event;
//! use staunch_protocols::sturdy::SturdyRef;
//! use staunch_protocols::text::parse;
//! use staunch_protocols::wire::Limits;
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let config = Config { listen: vec!["tcp:127.0.0.1:0".parse()?], ..Config::default() };
//!     let server = Server::start_dev(&config)?;
//!     // The port that the system chose.
//!     let address: BrokerAddress = server.addresses()[0].to_string().parse()?;
//!     // What lets in: signed with the binding's key.
//!     let Binding { oid, key, .. } = Binding::well_known();
//!     let patience = Duration::from_secs(10);
//!     let mut session = Session::open(&address, &SturdyRef::mint(&oid, &key), patience)?;
//!
//!     // Whoever is present, their names captured; then somebody is.
//!     let pattern = "<group <rec present> {0: <bind <_>>}>";
//!     let observer = session.observe(&parse(pattern, &Limits::default())?);
//!     session.assert([&parse("<present \"Ada\">", &Limits::default())?[..]]);
//!     let (mut heard, start) = (None, Instant::now());
//!     while heard.is_none() && start.elapsed() < patience {
//!         session.flush()?;
//!         session.hear(|entity, event| {
//!             if let (true, Event::Assert { assertion, .. }) = (entity == observer, event) {
//!                 heard = Some(assertion.span().to_vec());
//!             }
//!             Ok::<(), Error>(())
//!         })?;
//!         session.wait(&[], Some(Duration::from_millis(100)))?;
//!     }
//!     assert_eq!(heard, Some(parse("[\"Ada\"]", &Limits::default())?));
//!
//!     // What waits for peers may take two seconds to go out.
//!     drop(session);
//!     server.drain(Duration::from_secs(2));
//!     server.shutdown();
//!     Ok(())
//! }
//! ```
//!
//! # Layout
//! - [`server`]: listeners and the broker's life. `listen`: where to listen, and how to answer there.
//! - [`schedule`]: the worker threads.
//! - `relay`: sessions, their membranes and turns.
//! - `stage`, `outbox`: what is to be sent, gathered per worker and per peer.
//! - `dataspace`, `gatekeeper`: the entities.
//! - [`admission`], `accept`: who is let in, and what they start from.
//! - `settings`: what new connections get.
//! - `cap`, `attenuate`: capabilities and their caveats.
//! - `principals`: what each client's owner holds.
//! - `alarm`: a timer and the task that it runs.
//! - `later`: what sessions are told when some time has passed. `silence`: peers that have vanished.
//! - `slow`: what may be done about slow consumers. `backlog`: who is one, and that it is done. `decisions`: what was
//!   decided.
//! - [`amount`]: numbers and sizes as people write them.
//! - `ledger`: who owes what and who holds it, told to whoever may know. `clock`: times as others know them.
//! - `metrics`: counters and gauges for monitoring.
//! - [`client`]: a small client, for the command.
#![forbid(unsafe_code)]

mod accept;
pub mod admission;
mod alarm;
pub mod amount;
mod attenuate;
mod backlog;
mod cap;
pub mod client;
mod clock;
mod dataspace;
mod decisions;
mod gatekeeper;
mod later;
mod ledger;
pub mod limits;
mod listen;
mod metrics;
mod outbox;
mod principals;
mod relay;
pub mod schedule;
pub mod server;
mod settings;
mod silence;
mod slow;
mod stage;

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use dashmap::DashMap;
use parking_lot::{Mutex, RwLock};
use staunch_flowctl::{AuditError, Ledger, PrincipalLimits};
use staunch_index::{Scratch, Stored};
use staunch_protocols::caveat;
use staunch_protocols::wire::{self, Scanner};

use backlog::Backlogs;
use clock::Clock;
use dataspace::{Dataspace, Router};
use decisions::Decisions;
use later::Later;
use ledger::{Reporter, Stalls};
use limits::{Limits, Places};
use principals::Principals;
use relay::{Failure, Session, Slice};
use schedule::Scheduler;
use settings::Settings;
use silence::Silences;
use stage::Stage;

/// What each worker keeps for the sessions that it runs.
pub(crate) struct Local {
    pub(crate) stage: Stage,
    pub(crate) scratch: Scratch,
    /// Scanners of packets that are complete, for the next ones.
    pub(crate) scanners: Vec<Scanner>,
    /// What caveats work in.
    pub(crate) caveats: caveat::Scratch,
    /// What a turn has placed, while it is being applied.
    pub(crate) placed: Vec<Stored<Router>>,
    /// The share of time of the run under way.
    pub(crate) slice: Slice,
}

impl Default for Local {
    fn default() -> Local {
        Local {
            stage: Stage::default(),
            scratch: Scratch::default(),
            scanners: Vec::new(),
            caveats: caveat::Scratch::new(attenuate::OUTPUT_BYTES_MAX),
            placed: Vec::new(),
            slice: Slice::default(),
        }
    }
}

impl Local {
    /// A scanner with these limits.
    fn take_scanner(&mut self, limits: wire::Limits) -> Scanner {
        let known = self.scanners.pop().filter(|scanner| *scanner.limits() == limits);
        known.unwrap_or_else(|| Scanner::new(limits))
    }

    fn put_scanner(&mut self, mut scanner: Scanner) {
        if self.scanners.len() < 4 {
            scanner.reset();
            scanner.shrink();
            self.scanners.push(scanner);
        }
    }

    /// Flushes what a run has published; a wide fan-out in pieces.
    fn flush(&mut self, queue: &schedule::Queue<Local>) {
        self.stage.cut_long();
        if self.stage.dirty_count() <= stage::FLUSH_MAX {
            return self.stage.flush(&mut self.scratch);
        }
        while self.stage.dirty_count() > 0 {
            let piece = self.stage.take_dirty(stage::FLUSH_PIECE);
            queue.spawn(move |worker| {
                let Local { stage, scratch, .. } = &mut worker.local;
                stage.adopt_dirty(piece);
                stage.flush(scratch);
            });
        }
    }

    /// Adds what the worker has counted to the broker's counters. Once per run.
    fn publish_counts(&mut self, broker: &Broker) {
        let stage = &mut self.stage;
        let counters = &broker.counters;
        // Relaxed: counters only.
        for (counter, count) in [
            (&counters.reads, std::mem::take(&mut stage.counts.reads)),
            (&counters.read_bytes, std::mem::take(&mut stage.counts.read_bytes)),
            (&counters.turns, std::mem::take(&mut stage.counts.turns)),
            (&counters.writes, std::mem::take(&mut stage.counts.writes)),
            (&counters.written_bytes, std::mem::take(&mut stage.counts.bytes)),
            (&counters.deliveries, std::mem::take(&mut stage.deliveries)),
            (&counters.transient_drops, std::mem::take(&mut stage.transient_drops)),
        ] {
            if count > 0 {
                counter.fetch_add(count, Ordering::Relaxed);
            }
        }
    }
}

/// Small numbers for sessions, so that tables by session stay short.
#[derive(Default)]
struct Numbers(Mutex<(Vec<u32>, u32)>);

impl Numbers {
    fn take(&self) -> u32 {
        let mut numbers = self.0.lock();
        numbers.0.pop().unwrap_or_else(|| {
            numbers.1 += 1;
            numbers.1 - 1
        })
    }

    fn give_back(&self, number: u32) {
        self.0.lock().0.push(number);
    }
}

/// What has happened so far. Relaxed throughout: nothing is published by them.
#[derive(Default)]
struct Counters {
    reads: AtomicU64,
    read_bytes: AtomicU64,
    turns: AtomicU64,
    accepted: AtomicU64,
    writes: AtomicU64,
    written_bytes: AtomicU64,
    deliveries: AtomicU64,
    transient_drops: AtomicU64,
    throttled: AtomicU64,
    ended: AtomicU64,
    /// By why: see [`accept::REFUSALS`].
    refused: [AtomicU64; accept::REFUSALS.len()],
    vanished: AtomicU64,
    audits: AtomicU64,
    imbalances: AtomicU64,
}

/// What all parts of one broker share.
pub(crate) struct Broker {
    scheduler: OnceLock<Scheduler<Local>>,
    ledger: Ledger,
    principals: Principals,
    sessions: DashMap<u64, Arc<Session>>,
    handles: Arc<AtomicU64>,
    numbers: Numbers,
    counters: Counters,
    lingering: Arc<Later>,
    reports: Arc<Later>,
    silences: Arc<Silences>,
    backlogs: Arc<Backlogs>,
    pub(crate) decisions: Decisions,
    stalls: Arc<Stalls>,
    reporter: OnceLock<Weak<Reporter>>,
    clock: OnceLock<Clock>,
    dataspaces: Mutex<Vec<Weak<Dataspace>>>,
    /// What is owed for Syncs that were forwarded and not answered. Relaxed throughout: only read while nothing moves.
    owed_for_syncs: AtomicU64,
    /// What an audit has found that this broker made itself, as it does in debug builds.
    #[cfg(debug_assertions)]
    imbalance: Mutex<Option<AuditError>>,
    /// How much one turn may come to for all who observe it, in cost units.
    fan_out_max: u64,
    limits: RwLock<Arc<Limits>>,
    /// Bounds of the process's on connections, beside those.
    places: Places,
    settings: RwLock<Arc<Settings>>,
    /// Set once, when the broker is about to end: nothing more is read but from peers that have hung up. Written by
    /// `Server::drain`, read by sessions before they read; orders nothing.
    is_draining: AtomicBool,
}

impl Broker {
    fn new(
        principal: PrincipalLimits,
        fan_out_max: u64,
        limits: Limits,
        places: Places,
        settings: Settings,
    ) -> io::Result<Arc<Broker>> {
        let principals = Principals::default();
        principals.set_captures_max(limits.principal_captures);
        Ok(Arc::new(Broker {
            scheduler: OnceLock::new(),
            ledger: Ledger::new(principal),
            principals,
            sessions: DashMap::new(),
            handles: Arc::new(AtomicU64::new(1)),
            numbers: Numbers::default(),
            counters: Counters::default(),
            lingering: Later::new(later::LINGER, Session::OVERDUE)?,
            reports: Later::new(later::REPORT, Session::REPORT)?,
            silences: Silences::new()?,
            backlogs: Backlogs::new()?,
            decisions: Decisions::default(),
            stalls: Stalls::new()?,
            reporter: OnceLock::new(),
            clock: OnceLock::new(),
            dataspaces: Mutex::default(),
            owed_for_syncs: AtomicU64::new(0),
            #[cfg(debug_assertions)]
            imbalance: Mutex::default(),
            fan_out_max,
            limits: RwLock::new(Arc::new(limits)),
            places,
            settings: RwLock::new(Arc::new(settings)),
            is_draining: AtomicBool::new(false),
        }))
    }

    /// A new dataspace.
    fn new_dataspace(self: &Arc<Self>) -> Arc<Dataspace> {
        let dataspace = Dataspace::new(self);
        let mut dataspaces = self.dataspaces.lock();
        dataspaces.retain(|d| d.strong_count() > 0);
        dataspaces.push(Arc::downgrade(&dataspace));
        dataspace
    }

    pub(crate) fn scheduler(&self) -> &Scheduler<Local> {
        self.scheduler.get().expect("set before the first connection is accepted")
    }

    pub(crate) fn clock(&self) -> &Clock {
        self.clock.get_or_init(|| Clock::from(self.scheduler().started()))
    }

    /// Something is to be told in the ledger at once.
    pub(crate) fn tell_reporter(&self) {
        if let Some(reporter) = self.reporter.get().and_then(Weak::upgrade) {
            self.scheduler().notify(&reporter, Reporter::URGENT);
        }
    }

    /// Has the books looked at when a connection has ended, in debug builds.
    #[cfg(debug_assertions)]
    pub(crate) fn note_end(&self) {
        if let Some(reporter) = self.reporter.get().and_then(Weak::upgrade) {
            self.scheduler().notify(&reporter, Reporter::ENDED);
        }
    }

    /// What peers may have, as of now.
    pub(crate) fn limits(&self) -> Arc<Limits> {
        self.limits.read().clone()
    }

    /// Has other limits hold from now on.
    pub(crate) fn set_limits(&self, limits: Limits) {
        self.principals.set_captures_max(limits.principal_captures);
        *self.limits.write() = Arc::new(limits);
    }

    /// What new connections get, as of now.
    pub(crate) fn settings(&self) -> Arc<Settings> {
        self.settings.read().clone()
    }

    /// Whether the broker is about to end.
    pub(crate) fn is_draining(&self) -> bool {
        // Relaxed: whoever misses it reads once more, and is told to run again after it was set.
        self.is_draining.load(Ordering::Relaxed)
    }

    /// A handle that no assertion has had.
    pub(crate) fn next_handle(&self) -> u64 {
        // Relaxed: only uniqueness matters.
        self.handles.fetch_add(1, Ordering::Relaxed)
    }

    /// Has the session with this number end for this reason, if it is still there.
    pub(crate) fn end_session(&self, id: u64, failure: Failure) {
        match self.sessions.get(&id) {
            Some(session) => session.end_soon(failure),
            None => tracing::warn!(%failure, "whoever is to end for this has gone"),
        }
    }

    /// How many observers, distinct assertions and skeletons there are in all dataspaces.
    fn index_counts(&self) -> (usize, usize, usize) {
        let dataspaces: Vec<_> = self.dataspaces.lock().iter().filter_map(Weak::upgrade).collect();
        dataspaces.iter().fold((0, 0, 0), |(observers, assertions, skeletons), dataspace| {
            let index = &dataspace.index;
            (observers + index.observers(), assertions + index.assertions(), skeletons + index.skeletons())
        })
    }

    /// What all connections have done so far.
    fn traffic(&self) -> staunch_protocols::schema::ledger::Traffic {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        let done = relay::Done {
            read_bytes: read(&counters.read_bytes),
            turns: read(&counters.turns),
            deliveries: read(&counters.deliveries),
            throttled_ns: self.stalls.times.sum_ns(),
        };
        ledger::traffic(&done, read(&counters.written_bytes))
    }
}

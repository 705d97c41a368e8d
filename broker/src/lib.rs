//! A message broker for Linux that speaks the Syndicate protocol.
//!
//! # Layout
//! - [`server`]: listeners and the broker's life.
//! - [`schedule`]: the worker threads.
//! - `relay`: sessions, their membranes and turns.
//! - `stage`, `outbox`: what is to be sent, gathered per worker and per peer.
//! - `dataspace`, `gatekeeper`: the entities.
//! - `cap`, `attenuate`: capabilities and their caveats.
//! - `principals`: what each client's owner holds.
#![forbid(unsafe_code)]

mod attenuate;
mod cap;
mod dataspace;
mod gatekeeper;
mod outbox;
mod principals;
mod relay;
pub mod schedule;
pub mod server;
mod stage;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use dashmap::DashMap;
use parking_lot::Mutex;
use staunch_flowctl::{Ledger, PrincipalLimits};
use staunch_index::{Action, Scratch, Stored};
use staunch_protocols::wire::Scanner;

use cap::{Attenuations, Caps};
use dataspace::{Dataspace, Delivery, LocalEvent, Placed, Router};
use principals::Principals;
use relay::Session;
use schedule::Scheduler;
use stage::{Commit, Stage};

/// What each worker keeps for the sessions that it runs.
#[derive(Default)]
pub(crate) struct Local {
    pub(crate) stage: Stage,
    pub(crate) scratch: Scratch,
    /// Scanners of packets that are complete, for the next ones.
    pub(crate) scanners: Vec<Scanner>,
    /// What a turn has placed, while it is being applied.
    pub(crate) placed: Vec<Stored<Router>>,
}

impl Local {
    fn put_scanner(&mut self, mut scanner: Scanner) {
        if self.scanners.len() < 4 {
            scanner.reset();
            scanner.shrink();
            self.scanners.push(scanner);
        }
    }

    /// Adds what the worker has counted to the broker's counters. Once per run.
    fn publish_counts(&mut self, broker: &Broker) {
        let stage = &mut self.stage;
        let counters = &broker.counters;
        // Relaxed: counters only.
        for (counter, count) in [
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
    writes: AtomicU64,
    written_bytes: AtomicU64,
    deliveries: AtomicU64,
    transient_drops: AtomicU64,
    throttled: AtomicU64,
    ended: AtomicU64,
}

/// What all parts of one broker share.
pub(crate) struct Broker {
    scheduler: OnceLock<Scheduler<Local>>,
    ledger: Ledger,
    principals: Principals,
    attenuations: Attenuations,
    sessions: DashMap<u64, Arc<Session>>,
    handles: Arc<AtomicU64>,
    numbers: Numbers,
    counters: Counters,
    /// What dataspaces have placed in dataspaces.
    placed: Mutex<HashMap<usize, Placed>>,
}

impl Broker {
    fn new(limits: PrincipalLimits) -> Arc<Broker> {
        Arc::new(Broker {
            scheduler: OnceLock::new(),
            ledger: Ledger::new(limits),
            principals: Principals::default(),
            attenuations: Attenuations::default(),
            sessions: DashMap::new(),
            handles: Arc::new(AtomicU64::new(1)),
            numbers: Numbers::default(),
            counters: Counters::default(),
            placed: Mutex::default(),
        })
    }

    pub(crate) fn scheduler(&self) -> &Scheduler<Local> {
        self.scheduler.get().expect("set before the first connection is accepted")
    }

    /// A handle that no assertion has had.
    pub(crate) fn next_handle(&self) -> u64 {
        // Relaxed: only uniqueness matters.
        self.handles.fetch_add(1, Ordering::Relaxed)
    }

    /// Has a worker handle what waits for a dataspace.
    pub(crate) fn wake_inbox(self: &Arc<Self>, dataspace: &Arc<Dataspace>) {
        let (broker, dataspace) = (self.clone(), dataspace.clone());
        self.scheduler().spawn(move |worker| {
            // Bounded work; then behind all others again.
            for _ in 0..8 {
                let Some(deliveries) = dataspace.inbox.take(32) else { return };
                for delivery in deliveries {
                    broker.deliver(&dataspace, delivery, &mut worker.local);
                }
                worker.local.stage.flush(&mut worker.local.scratch);
            }
            broker.wake_inbox(&dataspace);
        });
    }

    /// One event of an observation that a dataspace makes: a turn of its own.
    fn deliver(self: &Arc<Self>, dataspace: &Arc<Dataspace>, delivery: Delivery, local: &mut Local) {
        let Delivery { event, observer, loan, hops } = delivery;
        let address = Arc::as_ptr(dataspace).addr();
        local.stage.begin(loan.account(), hops);
        local.stage.next_turn();
        let mut placed = Vec::new();
        let (value, mut caps, handle) = match event {
            LocalEvent::Assert(value, caps, handle) => (value, caps, Some(handle)),
            LocalEvent::Message(value, caps) => (value, caps, None),
            LocalEvent::Retract(handle) => {
                let known = self.placed.lock().entry(address).or_default().remove(&(observer, handle));
                if let Some(stored) = known {
                    let mut sink = Commit { stage: &mut local.stage, broker: self, caps: &Caps::new() };
                    let mut actions = [Action::Retract(stored)];
                    dataspace.index.write().commit(&mut actions, &mut placed, &mut local.scratch, &mut sink);
                }
                return;
            }
        };
        let mut scanner = attenuate::stored_scanner();
        if scanner.scan(&value).is_err() {
            return;
        }
        let view = scanner.view(&value);
        let mut actions = match handle {
            Some(_) => {
                let extra = (!caps.is_empty()).then(|| Box::new(std::mem::take(&mut caps)));
                [Action::Assert { value: view, extra, observe: None }]
            }
            None => [Action::Message(view)],
        };
        let mut sink = Commit { stage: &mut local.stage, broker: self, caps: &caps };
        dataspace.index.read().commit(&mut actions, &mut placed, &mut local.scratch, &mut sink);
        if let (Some(handle), Some(stored)) = (handle, placed.pop()) {
            self.placed.lock().entry(address).or_default().insert((observer, handle), stored);
        }
    }
}

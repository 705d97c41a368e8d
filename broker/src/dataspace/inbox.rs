//! The queue of a dataspace that observes dataspaces: its events become turns of its own.
//!
//! It is a task, run by one worker at a time. A new observation's large state is not poured in: it waits beside the
//! queue as a [`LocalReplay`], which is pulled piece by piece, each charged to whoever asked for it, and only while
//! that account is clear. What the queue holds of the same observation may overtake the rest of its replay: the
//! index tells a change as an event only of what the replay has told already, or will not tell.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Poll, Waker};

use parking_lot::Mutex;
use staunch_flowctl::{Account, Loan};
use staunch_index::{Action, Replay, Stored, looks_like_observe};

use super::{Dataspace, Observing, References, Router};
use crate::cap::{Cap, Caps};
use crate::principals::Author;
use crate::schedule::{Outcome, Ready, Task, TaskState, Worker};
use crate::stage::{Commit, EVENT_COST};
use crate::{Broker, Local, attenuate};

/// An event on its way to an entity in this process.
pub(crate) struct Delivery {
    pub(crate) event: LocalEvent,
    /// Which observation it comes from.
    pub(crate) by: Observing,
    /// What it owes, to whoever caused it in the end.
    pub(crate) loan: Loan,
    /// Over how many such queues its cause has come.
    pub(crate) hops: u32,
}

/// See [`Delivery`]. Values are in stored form.
pub(crate) enum LocalEvent {
    Assert(Vec<u8>, Caps, u64),
    Retract(u64),
    Message(Vec<u8>, Caps),
    /// Much is there already.
    Replay(Box<LocalReplay>),
}

/// What a dataspace has yet to be told of what it observes.
pub(crate) struct LocalReplay {
    pub(crate) replay: Replay<Router>,
    pub(crate) to: Cap,
    /// Who pays for it: whoever asked to observe.
    pub(crate) account: Arc<Account>,
}

/// See the module's head.
pub(crate) struct Inbox {
    state: TaskState,
    broker: Weak<Broker>,
    dataspace: Weak<Dataspace>,
    waiting: Mutex<Waiting>,
    /// The one waker that accounts know it by.
    waker: OnceLock<Waker>,
    /// What the dataspace's observations have placed in it, by observer and handle.
    placed: Mutex<HashMap<(u64, u64), Stored<Router>>>,
}

#[derive(Default)]
struct Waiting {
    queue: VecDeque<Delivery>,
    /// Each to be pulled from.
    replays: VecDeque<Delivery>,
    /// Those whose accounts owe too much, until one of these is clear.
    parked: VecDeque<Delivery>,
}

/// Deliveries taken at a time, and how often that is done in one run.
const TAKEN_MAX: usize = 32;
const ROUNDS_MAX: usize = 8;
/// Pieces of replays pulled in one run.
const PULLED_MAX: usize = 16;

impl Inbox {
    /// Tells it that there is something in its queue.
    pub(crate) const PUSHED: Ready = Ready::USER1;

    pub(super) fn new(broker: &Arc<Broker>, dataspace: Weak<Dataspace>) -> Inbox {
        Inbox {
            state: TaskState::new(),
            broker: Arc::downgrade(broker),
            dataspace,
            waiting: Mutex::default(),
            waker: OnceLock::new(),
            placed: Mutex::default(),
        }
    }

    /// Appends. Returns whether the inbox must be notified: whoever finds it empty does that.
    pub(crate) fn push(&self, delivery: Delivery) -> bool {
        let mut waiting = self.waiting.lock();
        let was_empty = waiting.queue.is_empty();
        waiting.queue.push_back(delivery);
        was_empty
    }

    /// What waits here is owed by whom: account and cost.
    pub(crate) fn owed(&self) -> Vec<(Arc<Account>, u64)> {
        let waiting = self.waiting.lock();
        let loans = waiting.queue.iter().chain(&waiting.replays).chain(&waiting.parked).map(|d| &d.loan);
        loans.map(|loan| (loan.account().clone(), loan.cost())).collect()
    }

    /// Whether nothing waits that is to be told now.
    pub(crate) fn is_settled(&self) -> bool {
        let waiting = self.waiting.lock();
        waiting.queue.is_empty() && waiting.replays.is_empty()
    }

    fn take(&self) -> Vec<Delivery> {
        let mut waiting = self.waiting.lock();
        let count = waiting.queue.len().min(TAKEN_MAX);
        let taken = waiting.queue.drain(..count).collect();
        if waiting.queue.is_empty() {
            waiting.queue = VecDeque::new();
        }
        taken
    }

    /// Whether there is nothing in the queue.
    fn is_empty(&self) -> bool {
        self.waiting.lock().queue.is_empty()
    }

    /// One delivery: a turn of its own.
    fn deliver(&self, broker: &Arc<Broker>, dataspace: &Dataspace, delivery: Delivery, local: &mut Local) {
        match delivery.event {
            LocalEvent::Replay(_) => self.waiting.lock().replays.push_back(delivery),
            LocalEvent::Retract(handle) => {
                local.stage.begin(delivery.loan.account(), delivery.hops, broker.fan_out_max);
                self.retract(broker, dataspace, (delivery.by.observer, handle), local);
            }
            LocalEvent::Assert(value, caps, handle) => {
                local.stage.begin(delivery.loan.account(), delivery.hops, broker.fan_out_max);
                let name = (delivery.by.observer, handle);
                self.place(broker, dataspace, &value, caps, Some(name), delivery.by.session, local);
            }
            LocalEvent::Message(body, caps) => {
                local.stage.begin(delivery.loan.account(), delivery.hops, broker.fan_out_max);
                self.place(broker, dataspace, &body, caps, None, delivery.by.session, local);
            }
        }
    }

    fn retract(&self, broker: &Arc<Broker>, dataspace: &Dataspace, name: (u64, u64), local: &mut Local) {
        let Some(stored) = self.placed.lock().remove(&name) else { return };
        let Local { stage, scratch, .. } = local;
        stage.next_turn();
        let is_exclusive = stored.may_observe();
        let mut actions = [Action::Retract(stored)];
        let mut sink = Commit { stage, broker, caps: &Caps::new() };
        if is_exclusive {
            dataspace.index.write().commit(None, &mut actions, &mut Vec::new(), scratch, &mut sink);
        } else {
            dataspace.index.read().commit(&mut actions, &mut Vec::new(), scratch, &mut sink);
        }
    }

    /// Asserts a value, as that session wanted, or sends it as a message if it has no name.
    #[allow(clippy::too_many_arguments)]
    fn place(
        &self,
        broker: &Arc<Broker>,
        dataspace: &Dataspace,
        value: &[u8],
        mut caps: Caps,
        name: Option<(u64, u64)>,
        session: u64,
        local: &mut Local,
    ) {
        let Local { stage, scratch, .. } = local;
        stage.next_turn();
        let mut scanner = attenuate::stored_scanner();
        if scanner.scan(value).is_err() {
            return;
        }
        let view = scanner.view(value);
        let mut actions = match name {
            Some(_) => {
                let extra = References::of(&mut caps, || Author::of(broker, session));
                [Action::Assert { value: view, extra, observe: None }]
            }
            None => [Action::Message(view)],
        };
        let mut placed = Vec::new();
        let mut sink = Commit { stage, broker, caps: &caps };
        // What it asserts subscribes nobody, but may be equal to an Observe that does.
        if name.is_some() && looks_like_observe(value) {
            dataspace.index.write().commit(None, &mut actions, &mut placed, scratch, &mut sink);
        } else {
            dataspace.index.read().commit(&mut actions, &mut placed, scratch, &mut sink);
        }
        if let (Some(name), Some(stored)) = (name, placed.pop()) {
            self.placed.lock().insert(name, stored);
        }
    }

    /// Pulls pieces of replays whose accounts are clear, and tells them. Returns whether there is more to pull right
    /// away.
    fn pull(self: &Arc<Self>, broker: &Arc<Broker>, dataspace: &Dataspace, local: &mut Local) -> bool {
        let waker = self.waker.get_or_init(|| broker.scheduler().waker(self));
        for _ in 0..PULLED_MAX {
            let Some(delivery) = self.waiting.lock().replays.pop_front() else { return false };
            let LocalEvent::Replay(replay) = &delivery.event else { continue };
            if replay.account.poll_clear_funds(waker) == Poll::Pending {
                self.waiting.lock().parked.push_back(delivery);
                continue;
            }
            let (pulled, has_more) = replay.pull(&mut local.stage, &mut local.scratch);
            let cost = pulled.iter().map(|(_, value, _)| value.len() as u64 + EVENT_COST).sum();
            let loan = Loan::charge(&replay.account, cost);
            for (handle, value, caps) in pulled {
                local.stage.begin(&replay.account, delivery.hops, broker.fan_out_max);
                let by = delivery.by;
                self.place(broker, dataspace, &value, caps, Some((by.observer, handle)), by.session, local);
            }
            drop(loan);
            if has_more {
                self.waiting.lock().replays.push_back(delivery);
            }
        }
        !self.waiting.lock().replays.is_empty()
    }

    /// Some account has become clear: all replays that were parked are looked at again.
    fn unpark(&self) {
        let mut waiting = self.waiting.lock();
        let mut parked = std::mem::take(&mut waiting.parked);
        waiting.replays.append(&mut parked);
    }
}

impl Task<Local> for Inbox {
    fn state(&self) -> &TaskState {
        &self.state
    }

    fn run(self: Arc<Self>, ready: Ready, worker: &mut Worker<Local>) -> Outcome {
        let (Some(broker), Some(dataspace)) = (self.broker.upgrade(), self.dataspace.upgrade()) else {
            return Outcome::Idle;
        };
        if ready.contains(Ready::WAKE) {
            self.unpark();
        }
        let local = &mut worker.local;
        for _ in 0..ROUNDS_MAX {
            for delivery in self.take() {
                self.deliver(&broker, &dataspace, delivery, local);
            }
            if self.is_empty() {
                break;
            }
        }
        let has_more = self.pull(&broker, &dataspace, local) || !self.is_empty();
        local.flush(&worker.queue);
        // Whoever fills outboxes is held back by its own session.
        drop(local.stage.take_full());
        local.publish_counts(&broker);
        if has_more { Outcome::Again(Ready::NONE) } else { Outcome::Idle }
    }

    fn panicked(self: Arc<Self>) {
        tracing::error!("a bug lost an event that a dataspace was to observe; please report it");
        if let Some(broker) = self.broker.upgrade() {
            broker.scheduler().notify(&self, Ready::WAKE);
        }
    }
}

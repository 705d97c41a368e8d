//! The ledger: who owes what, who holds it, who waits for whom, told to whoever may know.
//!
//! It is a dataspace of its own, behind a capability that lets nothing pass but observations and requests for an audit.
//! The *reporter*, a task, asserts there what `protocols/schemas/ledger.prs` describes. While nobody observes, it does
//! nothing and nothing is there. Else it looks at all accounts as often as it is told to, a few at a time, and replaces
//! what has changed in one turn: those who owe, hold and do most are told one by one, the others as a sum.
//!
//! It owes for what it tells like anybody else, by an account of its own. While that is over its limit nothing is told,
//! so what waits for those who do not read what they observe here is bounded; and if one of them has not read for
//! some seconds, it is ended, so that the others are told again.
//!
//! # Layout
//! - here: the reporter.
//! - `gather`: an update in the making. `rows`: what it says.
//! - `requests`: audits that are asked for. `audit`: how they are made.
//! - `stalls`: who is held back, and for how long. `waits`: who waits for whom for good.

mod audit;
mod gather;
mod requests;
mod rows;
mod stalls;
mod waits;

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use staunch_flowctl::Account;
use staunch_index::pattern::Pattern;
use staunch_index::{Action, Stored};
use staunch_protocols::caveat::Caveats;
use staunch_protocols::text;
use staunch_protocols::wire::{Limits, Scanner, encode};

use crate::alarm::Alarm;
use crate::attenuate::stored_scanner;
use crate::cap::{Cap, Caps, Entity};
use crate::dataspace::{Dataspace, Delivery, LocalEvent, References, Router, Target};
use crate::limits;
use crate::principals::{CapturesPayer, SkeletonShare};
use crate::relay::Failure;
use crate::schedule::{Outcome, Ready, Task, TaskState, Worker};
use crate::stage::Commit;
use crate::{Broker, Local};

use gather::{Gathering, Past};
use requests::Requests;

pub use audit::Audit;
pub(crate) use rows::traffic;
pub(crate) use stalls::{STALL_SECONDS, Stalls};

/// The principal of what is the broker's own.
const PRINCIPAL: &str = "broker";
/// How often it is looked whether somebody has not read for too long.
const PATIENCE_LOOK: Duration = Duration::from_millis(500);
/// What may be asserted at the ledger.
const CAVEATS: &str = "[<or [
    <rewrite <bind <rec Observe [<_> <_>]>> <ref 0>>
    <rewrite <bind <rec q [<rec audit [<_>]>]>> <ref 0>>
]>]";
/// Who observes, and what.
const OBSERVATIONS: &str = "<group <rec Observe> {0: <bind <_>> 1: <bind <_>>}>";
/// Who asks for an audit: the id of the request.
const REQUESTS: &str = "<group <rec q> {0: <group <rec audit> {0: <bind <_>>}>}>";

/// How the ledger is kept.
#[derive(Debug, Clone)]
pub struct LedgerConfig {
    /// How often it is told what has changed, at most.
    pub every: Duration,
    /// How many accounts are told one by one, and how many holders.
    pub rows_max: usize,
    /// What may wait for all who observe, in cost units, before nothing more is told.
    pub debt_max: u64,
    /// For how long somebody may then read nothing of it before being ended, for the sake of the others.
    pub patience: Duration,
}

impl Default for LedgerConfig {
    fn default() -> LedgerConfig {
        LedgerConfig {
            every: Duration::from_millis(500),
            rows_max: 100,
            debt_max: 1 << 20,
            patience: Duration::from_secs(5),
        }
    }
}

/// See the module's head.
pub(crate) struct Reporter {
    alarm: Alarm,
    config: LedgerConfig,
    broker: Weak<Broker>,
    dataspace: OnceLock<Weak<Dataspace>>,
    /// Its observers' capability for requests: see [`REQUESTS`].
    requests: OnceLock<u64>,
    /// What its own observations in the ledger have told it, and it has not looked at.
    heard: Mutex<Vec<Delivery>>,
    /// The one waker that its account knows it by.
    waker: OnceLock<Waker>,
    work: Mutex<Work>,
}

/// Values that the reporter has asserted.
type Shown = HashMap<Vec<u8>, Stored<Router>>;

/// What only the worker that runs the reporter touches.
#[derive(Default)]
struct Work {
    /// Who observes, by the handles of their observations; not counting the reporter itself.
    observers: HashMap<u64, ()>,
    /// Who pays for what is told; none while nobody observes.
    account: Option<Arc<Account>>,
    /// What is asserted: of accounts and so on, and in answer to requests.
    shown: Shown,
    answers: Shown,
    requests: Requests,
    gathering: Option<Gathering>,
    /// How things were at the last update, for rates.
    past: Past,
    /// When the last update was begun.
    begun: Option<Instant>,
    /// Something has happened that is to be told at once.
    is_urgent: bool,
}

impl Reporter {
    /// A ledger that nobody observes yet: the reporter, and what its capability is for.
    ///
    /// # Errors
    /// When out of descriptors.
    pub(crate) fn new(broker: &Arc<Broker>, config: LedgerConfig) -> io::Result<(Arc<Reporter>, Cap)> {
        let reporter = Arc::new(Reporter {
            alarm: Alarm::new()?,
            config,
            broker: Arc::downgrade(broker),
            dataspace: OnceLock::new(),
            requests: OnceLock::new(),
            heard: Mutex::default(),
            waker: OnceLock::new(),
            work: Mutex::default(),
        });
        reporter.alarm.start(reporter.clone(), broker)?;
        let dataspace = Dataspace::new(broker);
        let _ = reporter.dataspace.set(Arc::downgrade(&dataspace));
        reporter.observe(OBSERVATIONS, broker, &dataspace);
        let _ = reporter.requests.set(reporter.observe(REQUESTS, broker, &dataspace));
        let caveats = value(CAVEATS, |list| Caveats::compile(list.children()));
        let restricted =
            Cap::new(Entity::Dataspace(dataspace)).attenuate(&caveats.expect("they are well-formed"));
        Ok((reporter, restricted.expect("they are short")))
    }

    /// Has it told what matches a pattern in the ledger, by a capability of its own, whose id is returned.
    fn observe(self: &Arc<Self>, pattern: &str, broker: &Arc<Broker>, dataspace: &Arc<Dataspace>) -> u64 {
        let cap = Cap::new(Entity::Reporter(self.clone()));
        let id = cap.id();
        let mut observe = Vec::new();
        encode::record(&mut observe, "Observe");
        value(pattern, |pattern| observe.extend_from_slice(pattern.span()));
        cap.write_stored(&mut observe);
        encode::end(&mut observe);
        let compiled = value(pattern, Pattern::compile).expect("it is well-formed");
        let holdings = broker.principals.get(PRINCIPAL);
        let (holder, mut local) = (u64::MAX, Local::default());
        let target = Target::of(&cap, holder, holdings.number());
        let limits = limits::Limits { principal_skeletons: u64::MAX, ..Default::default() };
        let admit = |_| SkeletonShare::take(&holdings, 0, &limits);
        let domain = staunch_index::Endpoint::handle_domain(&target);
        let payer = CapturesPayer::new(&holdings, holder);
        let prepared = dataspace.index.prepare(&compiled, domain, payer, admit);
        let Ok(prepared) = prepared else { return id };
        // Nothing is there yet, so there is nothing to build.
        let _ = dataspace.index.advance(&prepared, usize::MAX >> 1, &mut local.scratch);
        let mut scanner = stored_scanner();
        let _ = scanner.scan(&observe);
        let extra = References::of(&mut Caps::from_elem(cap, 1), || None);
        let value = scanner.view(&observe);
        let mut actions = [Action::Assert { value, extra, observe: Some((prepared, target)) }];
        // With nobody to pay for it, what it observes of its own observations is not told.
        let mut sink = Commit { stage: &mut local.stage, broker, caps: &Caps::new() };
        let (mut placed, scratch) = (Vec::new(), &mut local.scratch);
        dataspace.index.write().commit(Some(holder), &mut actions, &mut placed, scratch, &mut sink);
        id
    }

    /// Tells it that it has heard something.
    const HEARD: Ready = Ready::USER1;
    /// Something is to be told at once.
    pub(crate) const URGENT: Ready = Ready::USER2;
    /// A connection has ended.
    #[cfg(debug_assertions)]
    pub(crate) const ENDED: Ready = Ready::USER3;

    /// Takes something that it observes. May be called under any lock.
    pub(crate) fn hear(self: &Arc<Self>, delivery: Delivery, broker: &Broker) {
        let mut heard = self.heard.lock();
        heard.push(delivery);
        let is_first = heard.len() == 1;
        drop(heard);
        if is_first {
            broker.scheduler().notify(self, Reporter::HEARD);
        }
    }

    /// What it has not looked at is owed by whom: account and cost.
    pub(crate) fn owed(&self) -> Vec<(Arc<Account>, u64)> {
        let heard = self.heard.lock();
        heard.iter().map(|d| (d.loan.account().clone(), d.loan.cost())).collect()
    }

    fn listen(&self, work: &mut Work) {
        let heard = std::mem::take(&mut *self.heard.lock());
        for delivery in heard {
            let is_request = self.requests.get() == Some(&delivery.by.observer);
            match delivery.event {
                LocalEvent::Assert(captures, caps, handle) if is_request => {
                    work.requests.add(handle, &captures, &caps);
                }
                LocalEvent::Retract(handle) if is_request => work.requests.remove(handle),
                LocalEvent::Assert(_, _, handle) => _ = work.observers.insert(handle, ()),
                LocalEvent::Retract(handle) => _ = work.observers.remove(&handle),
                LocalEvent::Message(..) | LocalEvent::Replay(_) => {}
            }
        }
    }

    /// Nobody observes: nothing is told, and nothing owed.
    fn rest(&self, work: &mut Work, broker: &Arc<Broker>, local: &mut Local) {
        work.gathering = None;
        work.past = Past::default();
        if let Some(account) = work.account.take() {
            self.publish(Vec::new(), &account, &mut work.shown, broker, local);
            self.publish(Vec::new(), &account, &mut work.answers, broker, local);
            work.requests.forget_answers();
            account.retire();
        }
    }

    fn open_account(&self, broker: &Broker) -> Arc<Account> {
        let owner = broker.ledger.principal(PRINCIPAL);
        let debt_max = self.config.debt_max;
        let limits = staunch_flowctl::Limits::new(debt_max).with_resume_below(debt_max / 2);
        broker.ledger.open_account(&owner, "broker:ledger", limits)
    }

    /// Does some of an update, if it is time for one. Returns when to go on: at once if that is `None`.
    fn report(
        self: &Arc<Self>,
        work: &mut Work,
        broker: &Arc<Broker>,
        local: &mut Local,
    ) -> Option<Duration> {
        let account = work.account.get_or_insert_with(|| self.open_account(broker)).clone();
        if account.is_clear() {
            work.requests.answer(broker);
            self.publish(work.requests.answers(), &account, &mut work.answers, broker, local);
        }
        let Some(mut gathering) = work.gathering.take() else {
            let wait = work.begun.map_or(Duration::ZERO, |at| self.config.every.saturating_sub(at.elapsed()));
            if !wait.is_zero() && !work.is_urgent {
                return Some(wait);
            }
            let waker = self.waker.get_or_init(|| broker.scheduler().waker(self));
            if account.poll_clear_funds(waker) == Poll::Pending {
                self.end_unreading(&account, broker);
                return Some(PATIENCE_LOOK);
            }
            (work.begun, work.is_urgent) = (Some(Instant::now()), false);
            work.gathering = Some(Gathering::begin(broker));
            return None;
        };
        if gathering.go_on(broker) {
            work.gathering = Some(gathering);
            return None;
        }
        let values = rows::values(gathering, &mut work.past, self.config.rows_max, broker);
        self.publish(values, &account, &mut work.shown, broker, local);
        Some(self.config.every)
    }

    /// Replaces what is shown by this, in one turn.
    fn publish(
        &self,
        values: Vec<Vec<u8>>,
        account: &Arc<Account>,
        shown: &mut Shown,
        broker: &Arc<Broker>,
        local: &mut Local,
    ) {
        let Some(dataspace) = self.dataspace.get().and_then(Weak::upgrade) else { return };
        if values.is_empty() && shown.is_empty() {
            return;
        }
        let mut now = HashMap::with_capacity(values.len());
        let mut new = Vec::new();
        for value in values {
            match shown.remove(&value) {
                Some(stored) => _ = now.insert(value, stored),
                None => new.push(value),
            }
        }
        let gone = std::mem::replace(shown, now);
        if gone.is_empty() && new.is_empty() {
            return;
        }
        let scanners: Vec<Scanner> = new.iter().map(|value| scanned(value)).collect();
        let asserts = scanners.iter().zip(&new).map(|(scanner, value)| Action::Assert {
            value: scanner.view(value),
            extra: None,
            observe: None,
        });
        let mut actions: Vec<Action<'_, Router>> =
            asserts.chain(gone.into_values().map(Action::Retract)).collect();
        local.stage.begin(account, 0, broker.fan_out_max);
        local.stage.next_turn();
        let Local { stage, scratch, .. } = local;
        let mut sink = Commit { stage, broker, caps: &Caps::new() };
        let mut placed = Vec::new();
        dataspace.index.read().commit(&mut actions, &mut placed, scratch, &mut sink);
        drop(actions);
        shown.extend(new.into_iter().zip(placed));
    }

    /// Ends those who have held what the reporter owes for too long.
    fn end_unreading(&self, account: &Arc<Account>, broker: &Broker) {
        for session in &broker.sessions {
            let since = session.outbox().load().waits_since;
            let is_late = since.is_some_and(|since| since.elapsed() >= self.config.patience);
            let holds = || {
                let debtors = session.outbox().debtors(waits::PIECES_MAX);
                debtors.each.iter().any(|debtor| Arc::ptr_eq(&debtor.account, account))
            };
            if is_late && holds() {
                session.end_soon(Failure::LedgerUnread(self.config.patience.as_secs_f64()));
            }
        }
    }
}

/// Does something with a value that is written here.
fn value<R>(text: &str, with: impl FnOnce(staunch_protocols::wire::View<'_>) -> R) -> R {
    let bytes = text::parse(text, &Limits::default()).expect("it is well-formed");
    with(scanned(&bytes).view(&bytes))
}

/// A scanner that has read a value which was made here.
fn scanned(value: &[u8]) -> Scanner {
    let mut scanner = stored_scanner();
    let scan = scanner.scan(value);
    debug_assert!(scan.is_ok());
    scanner
}

impl Task<Local> for Reporter {
    fn state(&self) -> &TaskState {
        self.alarm.state()
    }

    fn run(self: Arc<Self>, ready: Ready, worker: &mut Worker<Local>) -> Outcome {
        let Some(broker) = self.broker.upgrade() else { return Outcome::Idle };
        let (mut work, local) = (self.work.lock(), &mut worker.local);
        #[cfg(debug_assertions)]
        if ready.contains(Reporter::ENDED) {
            work.requests.audit_anyway(&broker);
        }
        self.listen(&mut work);
        work.is_urgent |= ready.contains(Reporter::URGENT);
        let outcome = if work.observers.is_empty() {
            self.rest(&mut work, &broker, local);
            Outcome::Idle
        } else {
            match self.report(&mut work, &broker, local) {
                Some(wait) => {
                    self.alarm.set(work.requests.wait().map_or(wait, |request| request.min(wait)));
                    Outcome::Idle
                }
                None => Outcome::Again(Ready::NONE),
            }
        };
        drop(work);
        local.stage.flush(&mut local.scratch);
        // It is held back by its account.
        drop(local.stage.take_full());
        local.publish_counts(&broker);
        outcome
    }

    fn panicked(self: Arc<Self>) {
        self.alarm.set_after_panic();
    }
}

//! Turns: what they lock, and how they take effect whole.

use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use crossbeam::sync::{ShardedLock, ShardedLockReadGuard, ShardedLockWriteGuard};
use crossbeam::utils::CachePadded;
use foldhash::fast::RandomState;
use parking_lot::Mutex;
use staunch_protocols::wire::View;

use crate::apply::Bags;
use crate::build::{Prepared, SORTED_MAX};
use crate::key::key_of;
use crate::parts::Due;
use crate::purse::{Holders, Purse};
use crate::roster::{Observer, Observers};
use crate::store::{Members, Shard};
use crate::trie::{Trie, Walk};
use crate::value::{Domain, Endpoint, Payer, Rescan, Stored};
use crate::{Captures, Sink};

/// Shards of the store. A power of two.
pub(crate) const SHARDS: usize = 32;

/// Memory that turns reuse; one for each thread.
#[derive(Default)]
pub struct Scratch {
    pub(crate) walk: Walk,
    pub(crate) key: Vec<u8>,
    pub(crate) rescan: Rescan,
    pub(crate) rescan_bag: Rescan,
}

/// One thing a turn does.
pub enum Action<'a, D: Domain> {
    /// Places a value. Values for which [`crate::looks_like_observe`] holds need a [`Writer`].
    Assert {
        /// The value, canonical.
        value: View<'a>,
        /// What to store with it, if it is new.
        extra: Option<Box<D::Extra>>,
        /// For a well-formed Observe: its place in the trie and where its events go.
        observe: Option<(Prepared<D>, D::Endpoint)>,
    },
    /// Ends one placement. The same need a [`Writer`].
    Retract(Stored<D>),
    /// Ends the placement made by the action with this number in the same turn.
    RetractSame(usize),
    /// Passes by.
    Message(View<'a>),
}

/// The assertions and observers of one dataspace. See the crate's head.
pub struct Index<D: Domain> {
    pub(crate) trie: ShardedLock<State<D>>,
    pub(crate) shards: Box<[CachePadded<Mutex<Shard<D>>>]>,
    hasher: RandomState,
    /// The next handle that no bag has taken: unique among all indexes that share it. Relaxed suffices: each use is an
    /// atomic addition, and what one bag takes ascends, since it does so under its lock.
    handles: Arc<AtomicU64>,
    /// See [`Index::with_sorted_max`].
    sorted_max: usize,
    /// See [`Index::with_stripes`].
    pub(crate) due: Due,
}

/// What an index holds: counts, each zero in an empty one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Distinct assertions.
    pub assertions: usize,
    /// Subscriptions.
    pub observers: usize,
    /// Shapes with constant positions.
    pub skeletons: usize,
    /// Nodes of the trie beyond its root.
    pub nodes: usize,
    /// Groups of observers that share a bag.
    pub groups: usize,
    /// Captures lists in their bags.
    pub lists: usize,
    /// Sets of assertions by skeleton, over all shards.
    pub member_sets: usize,
    /// Assertions in them.
    pub members: usize,
}

/// What the first lock guards.
pub(crate) struct State<D: Domain> {
    pub(crate) trie: Trie<D>,
    /// By the address of the Observe that made it.
    subscriptions: std::collections::HashMap<usize, Subscription<D>, RandomState>,
    next_observer: u64,
}

struct Subscription<D: Domain> {
    group: Arc<crate::Group<D>>,
    observer: u64,
    /// Its handle domain.
    domain: u64,
    /// Who has placed the Observe.
    holders: Holders<D::Payer>,
}

/// Shared access: ordinary turns.
pub struct Reader<'i, D: Domain> {
    index: &'i Index<D>,
    state: ShardedLockReadGuard<'i, State<D>>,
}

/// Exclusive access: turns that subscribe or unsubscribe.
pub struct Writer<'i, D: Domain> {
    index: &'i Index<D>,
    state: ShardedLockWriteGuard<'i, State<D>>,
    /// What has ended and may be large. Stands after the lock, so that it is dropped when others can go on.
    ended: Vec<Ended<D>>,
}

/// What is dropped without a lock.
#[allow(dead_code)] // Held for its drop.
enum Ended<D: Domain> {
    Group(Arc<crate::Group<D>>),
    Members(Members),
}

impl<D: Domain> Index<D> {
    /// An empty one, which takes the handles it gives out from `handles`.
    pub fn new(handles: Arc<AtomicU64>) -> Index<D> {
        let state = State { trie: Trie::default(), subscriptions: Default::default(), next_observer: 1 };
        let shards = (0..SHARDS).map(|_| CachePadded::new(Mutex::default())).collect();
        Index {
            trie: ShardedLock::new(state),
            shards,
            hasher: RandomState::default(),
            handles,
            sorted_max: SORTED_MAX,
            due: Due::default(),
        }
    }

    /// Another bound up to which new observers are told at once of all captures lists that are there (unless they
    /// are long), in their total order, instead of by a [`crate::Replay`].
    pub fn with_sorted_max(mut self, lists_max: usize) -> Index<D> {
        self.sorted_max = lists_max;
        self
    }

    /// Other bounds from which on a group's bag is divided into stripes, each with a lock of its own: when threads have
    /// waited for it so often, or it has so many captures lists. With a 0 all bags are from the start.
    pub fn with_stripes(mut self, waits: u32, lists: usize) -> Index<D> {
        self.due = Due { waits, lists };
        self
    }

    /// Shared access. Hold it for a bounded number of turns only.
    #[inline]
    pub fn read(&self) -> Reader<'_, D> {
        // A turn that panicked is its caller's bug; the state under the lock is changed by steps that each
        // leave it usable.
        Reader { index: self, state: self.trie.read().unwrap_or_else(PoisonError::into_inner) }
    }

    /// Exclusive access.
    pub fn write(&self) -> Writer<'_, D> {
        let state = self.trie.write().unwrap_or_else(PoisonError::into_inner);
        Writer { index: self, state, ended: Vec::new() }
    }

    /// How many distinct assertions are alive. Takes each shard's lock in turn.
    pub fn assertions(&self) -> usize {
        self.shards.iter().map(|s| s.lock().len()).sum()
    }

    /// How many skeletons there are.
    pub fn skeletons(&self) -> usize {
        self.read().state.trie.skeletons()
    }

    /// What it holds. Takes each shard's and each bag's lock in turn.
    pub fn usage(&self) -> Usage {
        let state = self.read().state;
        let mut usage = Usage { observers: state.subscriptions.len(), ..state.trie.usage() };
        for shard in &self.shards {
            let shard = shard.lock();
            usage.assertions += shard.len();
            usage.members += shard.members.values().map(Members::len).sum::<usize>();
            usage.member_sets += shard.members.len();
        }
        usage
    }

    /// How many observers there are.
    pub fn observers(&self) -> usize {
        self.read().state.subscriptions.len()
    }

    pub(crate) fn hash(&self, bytes: &[u8]) -> u32 {
        fold(self.hasher.hash_one(bytes))
    }

    pub(crate) fn hash_captures(&self, captures: &[&[u8]]) -> u32 {
        let mut hasher = self.hasher.build_hasher();
        captures.iter().for_each(|c| hasher.write(c));
        fold(hasher.finish())
    }

    /// So many handles that nothing else gets; the first of them.
    pub(crate) fn next_handles(&self, count: u64) -> u64 {
        self.handles.fetch_add(count, Ordering::Relaxed)
    }
}

fn fold(hash: u64) -> u32 {
    (hash ^ hash >> 32) as u32
}

impl<D: Domain> Reader<'_, D> {
    /// Routes a message, observer by observer: see [`Reader::route`].
    #[inline]
    pub fn message(
        &self,
        body: View<'_>,
        scratch: &mut Scratch,
        mut to: impl FnMut(&D::Endpoint, &Captures<'_>),
    ) {
        self.route(body, scratch, |observers, captures| observers.iter().for_each(|o| to(o, captures)));
    }

    /// How many observers there are.
    #[inline]
    pub fn observers(&self) -> usize {
        self.state.subscriptions.len()
    }

    /// What it takes to route a value at most, about as many times as long as a skeleton of one group and one constant takes:
    /// for each skeleton that is like it (by the label, or in that both are sequences or dictionaries) one, and one more
    /// for each two further groups or constants. Costs one look-up.
    pub fn effort(&self, value: View<'_>) -> u64 {
        self.state.trie.efforts.of_value(value)
    }

    /// The most that any value may take.
    #[inline]
    pub fn effort_max(&self) -> u64 {
        self.state.trie.efforts.sum()
    }

    /// Routes a message: calls `to` for each group of observers that get the same of it. Takes no further lock,
    /// allocates nothing once `scratch` has grown.
    #[inline]
    pub fn route(
        &self,
        body: View<'_>,
        scratch: &mut Scratch,
        mut to: impl FnMut(Observers<'_, D>, &Captures<'_>),
    ) {
        let Scratch { walk, key, .. } = scratch;
        let bytes = body.all_bytes();
        let mut captures = Captures::new();
        self.state.trie.walk(body, walk, |place, registers, finder| {
            let constants = &place.skeleton.constants;
            let Some(key) = key_of(constants, body, registers, finder, key) else { return };
            for entry in place.entries(key) {
                if entry.group.plan.read(body, bytes, registers, finder, &mut captures) {
                    let (group, observers) = (entry.group.id, entry.roster.observers());
                    to(Observers { group, observers }, &captures);
                }
            }
        });
    }

    /// Takes a turn through: all of it takes effect at once. Pushes what each `Assert` stored to `placed`, in
    /// order.
    ///
    /// # Panics
    /// In debug builds, if an action needs a [`Writer`].
    pub fn commit(
        &self,
        actions: &mut [Action<'_, D>],
        placed: &mut Vec<Stored<D>>,
        scratch: &mut Scratch,
        sink: &mut impl Sink<D>,
    ) {
        let mut bags = Bags::default();
        self.index.apply(&self.state.trie, actions, placed, scratch, &mut bags, sink);
        sink.publish();
    }

    /// Takes several turns through, which are published together.
    pub fn run(&self) -> Run<'_, D> {
        Run { index: self.index, trie: &self.state.trie, bags: Bags::default(), turns: 0 }
    }
}

/// Turns that one caller takes through, one after the other. What they have changed stays locked, for a bounded number of
/// turns and while nobody has to be waited for, so that they can be published together.
pub struct Run<'r, D: Domain> {
    index: &'r Index<D>,
    trie: &'r Trie<D>,
    bags: Bags<'r, D>,
    /// Since the last publication.
    turns: u32,
}

impl<D: Domain> Run<'_, D> {
    /// Whether something is locked.
    #[inline]
    pub fn holds(&self) -> bool {
        self.bags.holds()
    }

    /// Publishes, and lets go of what is locked.
    pub fn let_go(&mut self, sink: &mut impl Sink<D>) {
        self.bags.let_go(sink);
        self.turns = 0;
    }

    /// So many turns are published together at most: others wait for no more than these.
    const TURNS_MAX: u32 = 16;

    /// Like [`Reader::commit`], but [`Sink::publish`] is called later, by one of the next turns or by nobody: before this
    /// run is dropped, the caller has to publish what the sink was told.
    pub fn commit(
        &mut self,
        actions: &mut [Action<'_, D>],
        placed: &mut Vec<Stored<D>>,
        scratch: &mut Scratch,
        sink: &mut impl Sink<D>,
    ) {
        if self.turns == Self::TURNS_MAX {
            self.let_go(sink);
        }
        self.turns += 1;
        self.index.apply(self.trie, actions, placed, scratch, &mut self.bags, sink);
    }
}

impl<D: Domain> Writer<'_, D> {
    /// The same for any turn. `holder` is whose turn it is ([`Payer::holder`]): an observation is paid for by one of
    /// those who have asserted it and have not retracted it.
    pub fn commit(
        &mut self,
        holder: Option<u64>,
        actions: &mut [Action<'_, D>],
        placed: &mut Vec<Stored<D>>,
        scratch: &mut Scratch,
        sink: &mut impl Sink<D>,
    ) {
        let mut made: Vec<Option<Stored<D>>> = Vec::with_capacity(actions.len());
        for action in actions.iter_mut() {
            if let Action::RetractSame(of) = action
                && let Some(Some(stored)) = made.get(*of)
            {
                *action = Action::Retract(stored.clone());
            }
            let observe = match action {
                Action::Assert { observe, .. } => observe.take(),
                _ => None,
            };
            let one = std::slice::from_mut(action);
            let mut bags = Bags::default();
            let is_edge = self.index.apply(&self.state.trie, one, placed, scratch, &mut bags, sink);
            drop(bags);
            made.push(match action {
                Action::Assert { .. } => placed.last().cloned(),
                _ => None,
            });
            match (&*action, observe) {
                (_, Some((prepared, endpoint))) => match placed.last() {
                    // Not only where the value is new: it may be there without having subscribed anybody.
                    Some(stored) if !self.state.subscriptions.contains_key(&stored.address()) => {
                        self.subscribe(stored.address(), prepared, endpoint, scratch, sink)
                    }
                    Some(stored) => self.hold(stored.address(), prepared),
                    None => self.cancel(prepared),
                },
                (Action::Retract(stored), None) if is_edge => {
                    self.unsubscribe(stored.address(), scratch, sink)
                }
                (Action::Retract(stored), None) => self.let_hold(stored.address(), holder),
                _ => {}
            }
        }
        sink.publish();
    }

    /// Gives up a place that was prepared and not used.
    pub fn cancel(&mut self, prepared: Prepared<D>) {
        let Prepared { group, domain, payer } = &prepared;
        let (_, gone) = self.state.trie.leave(group, None, (*domain, payer));
        self.forget_members(gone, &group.members_purse);
        self.ended.push(Ended::Group(prepared.group));
    }

    pub(crate) fn trie(&mut self) -> &mut Trie<D> {
        &mut self.state.trie
    }

    fn subscribe(
        &mut self,
        address: usize,
        prepared: Prepared<D>,
        endpoint: D::Endpoint,
        scratch: &mut Scratch,
        sink: &mut impl Sink<D>,
    ) {
        let observer = self.state.next_observer;
        self.state.next_observer += 1;
        let Prepared { group, domain, payer } = prepared;
        let mut holders = Holders::new(payer.holder(), payer.clone());
        holders.join(payer.holder(), &payer);
        let subscription = Subscription { group: group.clone(), observer, domain, holders };
        self.state.subscriptions.insert(address, subscription);
        debug_assert!(group.bag.filling().is_none(), "the caller advances what it prepared to the end");
        let mut parts = group.bag.lock_all();
        if crate::build::is_small(&parts, self.index.sorted_max) {
            crate::build::sorted(&parts, &group.reading(), scratch, |handle, captures, from| {
                sink.assert(&endpoint, handle, captures, from);
            });
        } else {
            parts.iter_mut().for_each(|bag| bag.begin_replay(observer));
            // The sink may pull at once, which takes the bag's lock.
            drop(parts);
            sink.replay(&endpoint, crate::Replay { group: group.clone(), observer });
        }
        self.state.trie.join(&group, Observer { id: observer, endpoint, payer });
    }

    /// Somebody asserts an observation that is there.
    fn hold(&mut self, address: usize, prepared: Prepared<D>) {
        if let Some(subscription) = self.state.subscriptions.get_mut(&address) {
            subscription.holders.join(prepared.payer.holder(), &prepared.payer);
        }
        self.cancel(prepared);
    }

    /// Somebody retracts an observation that others assert.
    fn let_hold(&mut self, address: usize, holder: Option<u64>) {
        let Some(holder) = holder else { return };
        let State { trie, subscriptions, .. } = &mut *self.state;
        let Some(subscription) = subscriptions.get_mut(&address) else { return };
        let Some(before) = subscription.holders.leave(holder) else { return };
        let Subscription { group, observer, domain, holders } = subscription;
        trie.repay(group, (*observer, *domain), &before, holders.answering());
    }

    fn unsubscribe(&mut self, address: usize, scratch: &mut Scratch, sink: &mut impl Sink<D>) {
        let Some(subscription) = self.state.subscriptions.remove(&address) else { return };
        let Subscription { group, observer, domain, holders } = subscription;
        let (gone, skeleton) = self.state.trie.leave(&group, Some(observer), (domain, holders.answering()));
        self.forget_members(skeleton, &group.members_purse);
        let Some(gone) = gone else { return };
        let (reading, is_told) = (group.reading(), !gone.endpoint.is_gone());
        for part in group.bag.each() {
            let mut bag = part.lock();
            for (slot, handle, from) in bag.iter().filter(|_| is_told) {
                if bag.was_told(observer, slot, handle) {
                    let captures = reading.captures_of(from, &mut scratch.rescan_bag);
                    sink.retract(&gone.endpoint, handle, &captures, from);
                }
            }
            bag.end_replay(observer);
        }
        self.ended.push(Ended::Group(group));
    }

    fn forget_members(&mut self, skeleton: Option<u32>, purse: &Purse<D>) {
        let Some(id) = skeleton else { return };
        for shard in &self.index.shards {
            let Some(mut members) = shard.lock().members.remove(&id) else { continue };
            members.release(purse);
            self.ended.push(Ended::Members(members));
        }
    }
}

//! Turns: what they lock, and how they take effect whole.

use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use crossbeam::sync::{ShardedLock, ShardedLockReadGuard, ShardedLockWriteGuard};
use crossbeam::utils::CachePadded;
use foldhash::fast::RandomState;
use parking_lot::{Mutex, MutexGuard};
use smallvec::SmallVec;
use staunch_protocols::wire::View;

use crate::bag::{Bag, Change};
use crate::build::{Prepared, SORTED_MAX};
use crate::key::key_of;
use crate::roster::{Observer, Observers};
use crate::store::{Members, Shard};
use crate::trie::{Entry, Trie, Walk};
use crate::value::{Domain, Endpoint, Rescan, Stored};
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
    /// The next handle: unique among all indexes that share it, ascending. Relaxed suffices: each use is an
    /// atomic increment or, under a bag's lock, a load that the lock orders after the increments made under it.
    handles: Arc<AtomicU64>,
    /// See [`Index::with_sorted_max`].
    sorted_max: usize,
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

/// What an action did to the store.
struct Effect<D: Domain> {
    stored: Option<Stored<D>>,
    shard: u32,
    slot: u32,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A value appeared.
    Add,
    /// A value went.
    Remove,
    /// Only a count changed.
    Nothing,
    Message,
}

/// A group that an action concerns.
struct Op<'t, 'v, D: Domain> {
    action: u32,
    entry: &'t Entry<D>,
    captures: Captures<'v>,
    /// Hash of the captures, if they are to be counted.
    hash: u32,
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
        }
    }

    /// Another bound up to which new observers are told at once of all captures lists that are there (unless they
    /// are long), in their total order, instead of by a [`crate::Replay`].
    pub fn with_sorted_max(mut self, lists_max: usize) -> Index<D> {
        self.sorted_max = lists_max;
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

    /// What it holds. Takes each shard's lock in turn.
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

    pub(crate) fn next_handle(&self) -> u64 {
        self.handles.fetch_add(1, Ordering::Relaxed)
    }
}

fn fold(hash: u64) -> u32 {
    (hash ^ hash >> 32) as u32
}

fn shard_of(hash: u32) -> u32 {
    hash >> (32 - SHARDS.trailing_zeros())
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
        self.index.apply(&self.state.trie, actions, placed, scratch, sink);
    }
}

impl<D: Domain> Writer<'_, D> {
    /// The same for any turn.
    pub fn commit(
        &mut self,
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
            let is_edge = self.index.apply(&self.state.trie, one, placed, scratch, &mut Unpublished(sink));
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
                    _ => self.cancel(prepared),
                },
                (Action::Retract(stored), None) if is_edge => {
                    self.unsubscribe(stored.address(), scratch, sink)
                }
                _ => {}
            }
        }
        sink.publish();
    }

    /// Gives up a place that was prepared and not used.
    pub fn cancel(&mut self, prepared: Prepared<D>) {
        let (_, gone) = self.state.trie.leave(&prepared.group, None, prepared.domain);
        self.forget_members(gone);
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
        let group = prepared.group;
        let subscription = Subscription { group: group.clone(), observer, domain: prepared.domain };
        self.state.subscriptions.insert(address, subscription);
        let mut bag = group.bag.lock();
        debug_assert!(bag.filling.is_none(), "the caller advances what it prepared to the end");
        if crate::build::is_small(&bag, self.index.sorted_max) {
            crate::build::sorted(&bag, &group.reading(), scratch, |handle, captures, from| {
                sink.assert(&endpoint, handle, captures, from);
            });
        } else {
            bag.begin_replay(observer, self.index.handles.load(Ordering::Relaxed));
            // The sink may pull at once, which takes the bag's lock.
            drop(bag);
            sink.replay(&endpoint, crate::Replay { group: group.clone(), observer });
        }
        self.state.trie.join(&group, Observer { id: observer, endpoint });
    }

    fn unsubscribe(&mut self, address: usize, scratch: &mut Scratch, sink: &mut impl Sink<D>) {
        let Some(Subscription { group, observer, domain }) = self.state.subscriptions.remove(&address) else {
            return;
        };
        let (gone, skeleton) = self.state.trie.leave(&group, Some(observer), domain);
        self.forget_members(skeleton);
        let Some(gone) = gone else { return };
        let mut bag = group.bag.lock();
        if !gone.endpoint.is_gone() {
            let reading = group.reading();
            for (slot, handle, from) in bag.iter() {
                if bag.was_told(observer, slot, handle) {
                    let captures = reading.captures_of(from, &mut scratch.rescan_bag);
                    sink.retract(&gone.endpoint, handle, &captures, from);
                }
            }
        }
        bag.end_replay(observer);
        drop(bag);
        self.ended.push(Ended::Group(group));
    }

    fn forget_members(&mut self, skeleton: Option<u32>) {
        let Some(id) = skeleton else { return };
        for shard in &self.index.shards {
            self.ended.extend(shard.lock().members.remove(&id).map(Ended::Members));
        }
    }
}

/// Passes everything on but the end of the turn.
struct Unpublished<'s, S>(&'s mut S);

impl<D: Domain, S: Sink<D>> Sink<D> for Unpublished<'_, S> {
    fn message(&mut self, to: &D::Endpoint, captures: &Captures<'_>) {
        self.0.message(to, captures);
    }
    fn assert(&mut self, to: &D::Endpoint, handle: u64, captures: &Captures<'_>, from: &Stored<D>) {
        self.0.assert(to, handle, captures, from);
    }
    fn retract(&mut self, to: &D::Endpoint, handle: u64, captures: &Captures<'_>, from: &Stored<D>) {
        self.0.retract(to, handle, captures, from);
    }
    fn replay(&mut self, to: &D::Endpoint, replay: crate::Replay<D>) {
        self.0.replay(to, replay);
    }
    fn publish(&mut self) {}
}

/// A bag and its place in the lock order.
type Lockable<'t, D> = (u64, &'t Mutex<Bag<D>>);

type Shards<'i, D> = SmallVec<[(u32, MutexGuard<'i, Shard<D>>); 2]>;

impl<D: Domain> Index<D> {
    /// Applies a turn. Returns whether its last action made a value appear or go.
    fn apply(
        &self,
        trie: &Trie<D>,
        actions: &mut [Action<'_, D>],
        placed: &mut Vec<Stored<D>>,
        scratch: &mut Scratch,
        sink: &mut impl Sink<D>,
    ) -> bool {
        let mut hashes: SmallVec<[u32; 4]> = SmallVec::new();
        for action in actions.iter() {
            hashes.push(match action {
                Action::Assert { value, .. } => self.hash(value.span()),
                Action::Retract(stored) => stored.header().hash,
                Action::RetractSame(of) => hashes.get(*of).copied().unwrap_or(0),
                Action::Message(_) => 0,
            });
        }
        let mut shards = self.lock_shards(actions, &hashes);
        let effects = change_store(actions, &hashes, &mut shards, placed);
        let mut ops: SmallVec<[Op<'_, '_, D>; 4]> = SmallVec::new();
        let Scratch { walk, key, rescan, rescan_bag } = scratch;
        for (i, (action, effect)) in actions.iter().zip(&effects).enumerate() {
            let mut route = Route { index: self, trie, walk, key, effect, action: i as u32, ops: &mut ops };
            match action {
                _ if effect.kind == Kind::Nothing => {}
                Action::Assert { value, .. } => route.walk(*value, value.all_bytes(), Some(&mut shards)),
                Action::Message(body) => route.walk(*body, body.all_bytes(), None),
                Action::RetractSame(_) => {}
                Action::Retract(stored) => {
                    route.walk(rescan.view(stored.bytes()), stored.bytes(), Some(&mut shards));
                }
            }
        }
        self.tell(&effects, &ops, rescan_bag, sink);
        effects.last().is_some_and(|e| matches!(e.kind, Kind::Add | Kind::Remove))
    }

    fn lock_shards(&self, actions: &[Action<'_, D>], hashes: &[u32]) -> Shards<'_, D> {
        let mut wanted: SmallVec<[u32; 4]> = actions
            .iter()
            .zip(hashes)
            .filter(|(action, _)| !matches!(action, Action::Message(_)))
            .map(|(_, hash)| shard_of(*hash))
            .collect();
        wanted.sort_unstable();
        wanted.dedup();
        wanted.into_iter().map(|s| (s, self.shards[s as usize].lock())).collect()
    }

    /// Changes the bags and tells the observers, in the order of the actions.
    fn tell(
        &self,
        effects: &[Effect<D>],
        ops: &[Op<'_, '_, D>],
        rescan: &mut Rescan,
        sink: &mut impl Sink<D>,
    ) {
        let mut wanted: SmallVec<[Lockable<'_, D>; 4]> = ops
            .iter()
            .filter(|op| effects[op.action as usize].kind != Kind::Message)
            .map(|op| (op.entry.group.id, &*op.entry.group.bag))
            .collect();
        wanted.sort_unstable_by_key(|(id, _)| *id);
        wanted.dedup_by_key(|(id, _)| *id);
        let mut bags: SmallVec<[(u64, MutexGuard<'_, Bag<D>>); 4]> =
            wanted.into_iter().map(|(id, bag)| (id, bag.lock())).collect();
        for op in ops {
            let effect = &effects[op.action as usize];
            let observers = op.entry.roster.observers();
            if effect.kind == Kind::Message {
                observers.iter().for_each(|o| sink.message(&o.endpoint, &op.captures));
                continue;
            }
            let Ok(at) = bags.binary_search_by_key(&op.entry.group.id, |(id, _)| *id) else { continue };
            let bag = &mut *bags[at].1;
            let Some(stored) = &effect.stored else { continue };
            if !bag.counts(effect.shard, effect.slot) {
                continue;
            }
            let reading = op.entry.group.reading();
            if effect.kind == Kind::Add {
                let change = bag.add(&reading, &op.captures, op.hash, stored, rescan, || self.next_handle());
                if let Change::Edge { handle, .. } = change {
                    observers.iter().for_each(|o| sink.assert(&o.endpoint, handle, &op.captures, stored));
                }
            } else if let Change::Edge { slot, handle } =
                bag.remove(&reading, &op.captures, op.hash, stored, rescan)
            {
                for o in observers.iter().filter(|o| bag.was_told(o.id, slot, handle)) {
                    sink.retract(&o.endpoint, handle, &op.captures, stored);
                }
            }
        }
        sink.publish();
    }
}

/// Places and displaces what the turn asserts and retracts, in order.
fn change_store<D: Domain>(
    actions: &mut [Action<'_, D>],
    hashes: &[u32],
    shards: &mut Shards<'_, D>,
    placed: &mut Vec<Stored<D>>,
) -> SmallVec<[Effect<D>; 4]> {
    let mut effects: SmallVec<[Effect<D>; 4]> = SmallVec::new();
    for (action, hash) in actions.iter_mut().zip(hashes) {
        if let Action::RetractSame(of) = action
            && let Some(stored) = effects.get(*of).and_then(|e| e.stored.clone())
        {
            *action = Action::Retract(stored);
        }
        let shard = shard_of(*hash);
        let found = shards.binary_search_by_key(&shard, |(s, _)| *s);
        let effect = match (action, found) {
            (Action::Assert { value, extra, .. }, Ok(at)) => {
                let (stored, slot, is_first) = shards[at].1.place(value.span(), *hash, extra.take());
                placed.push(stored.clone());
                let kind = if is_first { Kind::Add } else { Kind::Nothing };
                Effect { stored: Some(stored), shard, slot, kind }
            }
            (Action::Retract(stored), Ok(at)) => match shards[at].1.displace(stored) {
                Some(slot) => Effect { stored: Some(stored.clone()), shard, slot, kind: Kind::Remove },
                None => Effect { stored: None, shard, slot: 0, kind: Kind::Nothing },
            },
            _ => Effect { stored: None, shard, slot: 0, kind: Kind::Message },
        };
        effects.push(effect);
    }
    effects
}

/// One action on its way through the trie.
struct Route<'r, 't, 'v, D: Domain> {
    index: &'r Index<D>,
    trie: &'t Trie<D>,
    walk: &'r mut Walk,
    key: &'r mut Vec<u8>,
    effect: &'r Effect<D>,
    action: u32,
    ops: &'r mut SmallVec<[Op<'t, 'v, D>; 4]>,
}

impl<'t, 'v, D: Domain> Route<'_, 't, 'v, D> {
    /// Notes which groups `value` (within `bytes`) concerns, and enters it with or removes it from the members
    /// of each skeleton.
    fn walk(&mut self, value: View<'_>, bytes: &'v [u8], mut shards: Option<&mut Shards<'_, D>>) {
        let Route { index, effect, action, ops, key, .. } = self;
        let is_message = effect.kind == Kind::Message;
        self.trie.walk(value, self.walk, |place, registers, finder| {
            let skeleton = &place.skeleton;
            let Some(constants) = key_of(&skeleton.constants, value, registers, finder, key) else { return };
            if let Some(shards) = &mut shards
                && let Ok(at) = shards.binary_search_by_key(&effect.shard, |(s, _)| *s)
            {
                let members = &mut shards[at].1.members;
                let key_hash = index.hash(constants);
                if effect.kind == Kind::Add {
                    let new = || Members::new(!skeleton.constants.is_empty());
                    members.entry(skeleton.id).or_insert_with(new).insert(key_hash, effect.slot);
                } else if let Some(members) = members.get_mut(&skeleton.id) {
                    members.remove(key_hash, effect.slot);
                }
            }
            for entry in place.entries(constants) {
                let mut captures = Captures::new();
                if entry.group.plan.read(value, bytes, registers, finder, &mut captures) {
                    // Before the bag is locked.
                    let hash = if is_message { 0 } else { index.hash_captures(&captures) };
                    ops.push(Op { action: *action, entry, captures, hash });
                }
            }
        });
    }
}

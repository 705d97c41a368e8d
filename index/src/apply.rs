//! How the actions of a turn take effect: the locks of the store and of the bags, and the changes under them.

use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use smallvec::SmallVec;
use staunch_protocols::wire::View;

use crate::bag::{Bag, Change};
use crate::commit::{Action, Index, SHARDS, Scratch};
use crate::key::key_of;
use crate::parts::{Due, stripe_of};
use crate::store::{Members, Shard};
use crate::trie::{Entry, Group, Place, Trie, Walk};
use crate::value::{Domain, Rescan, Stored};
use crate::{Captures, Sink};

/// What an action did to the store.
#[derive(Clone, Copy)]
struct Effect {
    kind: Kind,
    shard: u32,
    slot: u32,
    /// Of an assertion: where among those placed its value is.
    placed: u32,
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
    kind: Kind,
    /// Hash of the captures, if they are to be counted.
    hash: u32,
    entry: &'t Entry<D>,
    captures: Captures<'v>,
}

type Ops<'t, 'v, D> = SmallVec<[Op<'t, 'v, D>; 4]>;

/// What routing finds.
struct Found<'t, 'v, D: Domain> {
    ops: Ops<'t, 'v, D>,
    /// Skeletons whose members have become more than their payer may have.
    overdrawn: Vec<&'t Place<D>>,
}

impl<D: Domain> Default for Found<'_, '_, D> {
    fn default() -> Self {
        Found { ops: Ops::new(), overdrawn: Vec::new() }
    }
}

impl<D: Domain> Found<'_, '_, D> {
    #[inline]
    fn tell_overdrawn(&self, sink: &mut impl Sink<D>) {
        self.overdrawn.iter().for_each(|place| place.purse.tell_overdrawn(place.observers(), sink));
    }
}

type Shards<'i, D> = SmallVec<[(u32, MutexGuard<'i, Shard<D>>); 2]>;

/// So many operations of a turn are kept. If it comes to more, they are found twice instead.
const OPS_MAX: usize = if cfg!(debug_assertions) { 64 } else { 64 << 10 };

/// So many parts of bags are held beyond the turn that took them; one that takes more ends that.
const HELD_MAX: usize = 16;

/// So often does who waits for a lock look before it yields: for some microseconds at most.
const SPINS_MAX: u32 = 64;

/// A group whose bag is to change, and the stripe that the list is in or would be in.
type InStripe<'t, D> = (&'t Arc<Group<D>>, u32);

/// A group's id, and the number of a part of its bag: the lock order.
type PartId = (u64, u32);

/// Parts of bags that are locked. What the sink was told of them has to be published before they are let go, so that nobody is
/// told of later changes first.
pub(crate) struct Bags<'t, D: Domain> {
    /// Ascending.
    held: SmallVec<[(PartId, MutexGuard<'t, Bag<D>>); 2]>,
    /// Whether a turn before this one has told the sink of them.
    is_told: bool,
}

impl<D: Domain> Default for Bags<'_, D> {
    fn default() -> Self {
        Bags { held: SmallVec::new(), is_told: false }
    }
}

impl<'t, D: Domain> Bags<'t, D> {
    #[inline]
    pub(crate) fn holds(&self) -> bool {
        self.is_told
    }

    /// Lets go of all, when what the sink was told has been published.
    pub(crate) fn let_go(&mut self, sink: &mut impl Sink<D>) {
        if std::mem::take(&mut self.is_told) {
            sink.publish();
        }
        self.held.clear();
    }

    fn position(&self, id: PartId) -> Result<usize, usize> {
        match self.held.as_slice() {
            [(only, _)] if *only == id => Ok(0),
            _ => self.held.binary_search_by_key(&id, |(id, _)| *id),
        }
    }

    /// Locks the bags of these groups as well, where lists of these stripes are; divides bags for which it is due. One of those held may come later in the lock order, so nobody waits for a lock here before
    /// having let go of all.
    fn lock(
        &mut self,
        lists: impl Iterator<Item = InStripe<'t, D>> + Clone,
        due: Due,
        sink: &mut impl Sink<D>,
    ) {
        if self.held.len() > HELD_MAX {
            self.let_go(sink);
        }
        for (group, stripe) in lists.clone() {
            loop {
                let number = group.bag.number(stripe);
                let Err(at) = self.position((group.id, number)) else { break };
                let Some(mut part) = group.bag.part(number).try_lock() else {
                    self.let_go(sink);
                    let mut wanted: SmallVec<[_; 4]> = lists.collect();
                    wanted.sort_unstable_by_key(|(group, stripe)| (group.id, *stripe));
                    wanted.dedup_by_key(|(group, stripe)| (group.id, *stripe));
                    return self.wait(&wanted, group.id, due);
                };
                if group.bag.settle(number, &mut part, &group.purse, due) {
                    self.held.insert(at, ((group.id, number), part));
                    break;
                }
            }
        }
    }

    /// Locks these, ascending, when none is held; waits for those that others hold, such as that of the group `busy`.
    #[cold]
    fn wait(&mut self, wanted: &[InStripe<'t, D>], busy: u64, due: Due) {
        let mut next = wanted.iter();
        while let Some((group, stripe)) = next.next() {
            let number = group.bag.number(*stripe);
            if self.position((group.id, number)).is_ok() {
                continue;
            }
            let mut part = wait_for(group.bag.part(number));
            part.waited = part.waited.saturating_add(u32::from(group.id == busy));
            if group.bag.settle(number, &mut part, &group.purse, due) {
                self.held.push(((group.id, number), part));
            } else {
                // Divided, which happens once: from the first again.
                drop(part);
                self.held.clear();
                next = wanted.iter();
            }
        }
    }
}

impl<D: Domain> Index<D> {
    /// Applies a turn, but for its publication, which is due before `bags` is dropped. Returns whether its last action
    /// made a value appear or go.
    pub(crate) fn apply<'t>(
        &self,
        trie: &'t Trie<D>,
        actions: &mut [Action<'_, D>],
        placed: &mut Vec<Stored<D>>,
        scratch: &mut Scratch,
        bags: &mut Bags<'t, D>,
        sink: &mut impl Sink<D>,
    ) -> bool {
        if let [action @ (Action::Assert { .. } | Action::Retract(_))] = actions {
            return self.apply_one(trie, action, placed, scratch, bags, sink);
        }
        let mut hashes: SmallVec<[u32; 4]> = SmallVec::new();
        for action in actions.iter() {
            hashes.push(match action {
                Action::RetractSame(of) => hashes.get(*of).copied().unwrap_or(0),
                other => self.hash_of(other),
            });
        }
        let mut shards = self.lock_shards(actions, &hashes, bags, sink);
        let effects = change_store(actions, &hashes, &mut shards, placed);
        let mut found = Found::default();
        let mut overflow: Option<Vec<InStripe<'_, D>>> = None;
        for (i, (action, effect)) in actions.iter().zip(&effects).enumerate() {
            let shard = position(&shards, effect.shard).ok().map(|at| &mut *shards[at].1);
            self.route(trie, (i as u32, action), effect, shard, scratch, &mut found);
            if found.ops.len() > OPS_MAX {
                let groups = overflow.get_or_insert_default();
                groups.extend(changed(&found.ops));
                groups.sort_unstable_by_key(|(group, stripe)| (group.id, *stripe));
                groups.dedup_by_key(|(group, stripe)| (group.id, *stripe));
                found.ops.clear();
            }
        }
        let stored = |action: u32| match &actions[action as usize] {
            Action::Retract(stored) => Some(stored),
            _ => placed.get(effects[action as usize].placed as usize),
        };
        match &mut overflow {
            None => bags.lock(changed(&found.ops), self.due, sink),
            Some(groups) => {
                groups.extend(changed(&found.ops));
                bags.lock(groups.iter().copied(), self.due, sink);
                found.ops.clear();
            }
        }
        found.tell_overdrawn(sink);
        for op in &found.ops {
            let effect = &effects[op.action as usize];
            self.tell(op, effect, stored(op.action), bags, &mut scratch.rescan_bag, sink);
        }
        if overflow.is_some() {
            // They were too many to be kept: found again, and told one by one.
            for (i, (action, effect)) in actions.iter().zip(&effects).enumerate() {
                let mut found = Found::default();
                self.route(trie, (i as u32, action), effect, None, scratch, &mut found);
                for op in &found.ops {
                    self.tell(op, effect, stored(op.action), bags, &mut scratch.rescan_bag, sink);
                }
            }
        }
        bags.is_told = !bags.held.is_empty();
        effects.last().is_some_and(|e| matches!(e.kind, Kind::Add | Kind::Remove))
    }

    /// [`Index::apply`] for one change alone, as in most turns that are no messages.
    fn apply_one<'t>(
        &self,
        trie: &'t Trie<D>,
        action: &mut Action<'_, D>,
        placed: &mut Vec<Stored<D>>,
        scratch: &mut Scratch,
        bags: &mut Bags<'t, D>,
        sink: &mut impl Sink<D>,
    ) -> bool {
        let hash = self.hash_of(action);
        let mut shard = self.lock_shard(shard_of(hash), bags, sink);
        let effect = change_one(action, hash, Some(&mut shard), placed);
        if effect.kind == Kind::Nothing {
            return false;
        }
        let mut found = Found::default();
        self.route(trie, (0, &*action), &effect, Some(&mut shard), scratch, &mut found);
        bags.lock(changed(&found.ops), self.due, sink);
        found.tell_overdrawn(sink);
        let stored = match &*action {
            Action::Retract(stored) => Some(stored),
            _ => placed.last(),
        };
        for op in &found.ops {
            self.tell(op, &effect, stored, bags, &mut scratch.rescan_bag, sink);
        }
        bags.is_told = !bags.held.is_empty();
        true
    }

    fn hash_of(&self, action: &Action<'_, D>) -> u32 {
        match action {
            Action::Assert { value, .. } => self.hash(value.span()),
            Action::Retract(stored) => stored.header().hash,
            Action::RetractSame(_) | Action::Message(_) => 0,
        }
    }

    /// Finds the groups that an action concerns.
    #[inline]
    fn route<'t, 'v>(
        &self,
        trie: &'t Trie<D>,
        (number, action): (u32, &'v Action<'v, D>),
        effect: &Effect,
        shard: Option<&mut Shard<D>>,
        scratch: &mut Scratch,
        found: &mut Found<'t, 'v, D>,
    ) {
        let Scratch { walk, key, rescan, .. } = scratch;
        let mut route = Route { index: self, trie, walk, key, effect, action: number, found };
        match action {
            _ if effect.kind == Kind::Nothing => {}
            Action::Assert { value, .. } => route.walk(*value, value.all_bytes(), shard),
            Action::Message(body) => route.walk(*body, body.all_bytes(), None),
            Action::RetractSame(_) => {}
            Action::Retract(stored) => route.walk(rescan.view(stored.bytes()), stored.bytes(), shard),
        }
    }

    /// Locks a shard. They come before all bags in the lock order: who has to wait for one lets go of those first.
    #[inline]
    fn lock_shard(
        &self,
        number: u32,
        bags: &mut Bags<'_, D>,
        sink: &mut impl Sink<D>,
    ) -> MutexGuard<'_, Shard<D>> {
        let shard = &self.shards[number as usize];
        shard.try_lock().unwrap_or_else(|| {
            bags.let_go(sink);
            wait_for(shard)
        })
    }

    /// Locks the shards that a turn changes, ascending.
    fn lock_shards(
        &self,
        actions: &[Action<'_, D>],
        hashes: &[u32],
        bags: &mut Bags<'_, D>,
        sink: &mut impl Sink<D>,
    ) -> Shards<'_, D> {
        let changing = actions.iter().zip(hashes).filter(|(action, _)| !matches!(action, Action::Message(_)));
        let mut wanted: SmallVec<[u32; 4]> = changing.map(|(_, hash)| shard_of(*hash)).collect();
        wanted.sort_unstable();
        wanted.dedup();
        wanted.into_iter().map(|number| (number, self.lock_shard(number, bags, sink))).collect()
    }

    /// Changes a bag, and tells the observers.
    #[inline]
    fn tell(
        &self,
        op: &Op<'_, '_, D>,
        effect: &Effect,
        stored: Option<&Stored<D>>,
        bags: &mut Bags<'_, D>,
        rescan: &mut Rescan,
        sink: &mut impl Sink<D>,
    ) {
        let observers = op.entry.roster.observers();
        if effect.kind == Kind::Message {
            observers.iter().for_each(|o| sink.message(&o.endpoint, &op.captures));
            return;
        }
        let group = &op.entry.group;
        // While its part is locked, a list stays there.
        let number = group.bag.number(stripe_of(op.hash));
        let Ok(at) = bags.position((group.id, number)) else { return };
        let bag = &mut *bags.held[at].1;
        let Some(stored) = stored.filter(|_| group.bag.counts(effect.shard, effect.slot)) else { return };
        let reading = group.reading();
        if effect.kind == Kind::Add {
            let change =
                bag.add(&reading, &op.captures, op.hash, stored, rescan, |count| self.next_handles(count));
            if let Change::Edge { handle, .. } = change {
                observers.iter().for_each(|o| sink.assert(&o.endpoint, handle, &op.captures, stored));
                let purse = &group.purse;
                if !bag.pay(purse) {
                    purse.tell_overdrawn(observers.iter(), sink);
                }
            }
        } else if let Change::Edge { slot, handle } =
            bag.remove(&reading, &op.captures, op.hash, stored, rescan)
        {
            for o in observers.iter().filter(|o| bag.was_told(o.id, slot, handle)) {
                sink.retract(&o.endpoint, handle, &op.captures, stored);
            }
            bag.pay_less(&group.purse);
        }
    }
}

/// Locks what somebody else holds, most likely for less time than it takes to yield. (The lock itself looks three times,
/// then yields.)
#[cold]
fn wait_for<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    for _ in 0..SPINS_MAX {
        std::hint::spin_loop();
        if !mutex.is_locked()
            && let Some(guard) = mutex.try_lock()
        {
            return guard;
        }
    }
    mutex.lock()
}

/// The groups whose bags these operations change, and the stripes of the lists.
fn changed<'o, 't, 'v, D: Domain>(
    ops: &'o Ops<'t, 'v, D>,
) -> impl Iterator<Item = InStripe<'t, D>> + Clone + use<'o, 't, 'v, D> {
    ops.iter().filter(|op| op.kind != Kind::Message).map(|op| (&op.entry.group, stripe_of(op.hash)))
}

/// Places and displaces what the turn asserts and retracts, in order.
fn change_store<D: Domain>(
    actions: &mut [Action<'_, D>],
    hashes: &[u32],
    shards: &mut Shards<'_, D>,
    placed: &mut Vec<Stored<D>>,
) -> SmallVec<[Effect; 4]> {
    let mut effects: SmallVec<[Effect; 4]> = SmallVec::new();
    for (action, hash) in actions.iter_mut().zip(hashes) {
        if let Action::RetractSame(of) = action
            && let Some(stored) = effects.get(*of).and_then(|e| placed.get(e.placed as usize))
        {
            *action = Action::Retract(stored.clone());
        }
        let shard = position(shards, shard_of(*hash)).ok().map(|at| &mut *shards[at].1);
        effects.push(change_one(action, *hash, shard, placed));
    }
    effects
}

/// Places or displaces what one action asserts or retracts, in its shard.
#[inline]
fn change_one<D: Domain>(
    action: &mut Action<'_, D>,
    hash: u32,
    shard: Option<&mut Shard<D>>,
    placed: &mut Vec<Stored<D>>,
) -> Effect {
    let mut effect =
        Effect { kind: Kind::Message, shard: shard_of(hash), slot: 0, placed: placed.len() as u32 };
    match (action, shard) {
        (Action::Assert { value, extra, .. }, Some(shard)) => {
            let (stored, slot, is_first) = shard.place(value.span(), hash, extra.take());
            placed.push(stored);
            effect.slot = slot;
            effect.kind = if is_first { Kind::Add } else { Kind::Nothing };
        }
        (Action::Retract(stored), Some(shard)) => match shard.displace(stored) {
            Some(slot) => (effect.slot, effect.kind) = (slot, Kind::Remove),
            None => effect.kind = Kind::Nothing,
        },
        _ => {}
    }
    effect
}

/// Where a shard is among those that are locked.
fn position<D: Domain>(shards: &Shards<'_, D>, number: u32) -> Result<usize, usize> {
    shards.binary_search_by_key(&number, |(n, _)| *n)
}

/// One action on its way through the trie.
struct Route<'r, 't, 'v, D: Domain> {
    index: &'r Index<D>,
    trie: &'t Trie<D>,
    walk: &'r mut Walk,
    key: &'r mut Vec<u8>,
    effect: &'r Effect,
    action: u32,
    found: &'r mut Found<'t, 'v, D>,
}

impl<'t, 'v, D: Domain> Route<'_, 't, 'v, D> {
    /// Notes which groups `value` (within `bytes`) concerns, and enters it with or removes it from the members
    /// of each skeleton.
    fn walk(&mut self, value: View<'_>, bytes: &'v [u8], mut shard: Option<&mut Shard<D>>) {
        let Route { index, effect, action, found: Found { ops, overdrawn }, key, .. } = self;
        let is_message = effect.kind == Kind::Message;
        self.trie.walk(value, self.walk, |place, registers, finder| {
            let skeleton = &place.skeleton;
            let Some(constants) = key_of(&skeleton.constants, value, registers, finder, key) else { return };
            if let Some(shard) = &mut shard {
                let members = &mut shard.members;
                let key_hash = index.hash(constants);
                if effect.kind == Kind::Add {
                    let new = || Members::new(!skeleton.constants.is_empty());
                    let members = members.entry(skeleton.id).or_insert_with(new);
                    members.insert(key_hash, effect.slot);
                    if !members.pay(&place.purse) {
                        overdrawn.push(place);
                    }
                } else if let Some(members) = members.get_mut(&skeleton.id) {
                    members.remove(key_hash, effect.slot);
                    members.pay_less(&place.purse);
                }
            }
            for entry in place.entries(constants) {
                // Filled where it stays.
                ops.push(Op {
                    action: *action,
                    kind: effect.kind,
                    hash: 0,
                    entry,
                    captures: Captures::new(),
                });
                let Some(op) = ops.last_mut() else { continue };
                if !entry.group.plan.read(value, bytes, registers, finder, &mut op.captures) {
                    ops.pop();
                } else if !is_message {
                    // Before the bag is locked.
                    op.hash = index.hash_captures(&op.captures);
                }
            }
        });
    }
}

fn shard_of(hash: u32) -> u32 {
    hash >> (32 - SHARDS.trailing_zeros())
}

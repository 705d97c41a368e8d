//! The pattern trie: which skeletons a value can reach, and which observers wait there.
//!
//! An edge leads from one group of a shape to the next in pre-order, and is chosen by what stands at that
//! group's place in the value, so skeletons whose shape the value lacks are never visited. A node holds the
//! skeletons whose shape ends there: one for each set of constant positions. A skeleton's observers lie in
//! buckets by their constants; in a bucket, those that capture the same positions form a [`Group`].
//!
//! Routing goes over nodes and buckets. Joining and leaving finds skeletons, groups and observers by tables
//! beside them, so it does not depend on how many others there are.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry as TableEntry;
use parking_lot::Mutex;
use smallvec::SmallVec;
use staunch_protocols::wire::View;

use crate::bag::Reading;
use crate::commit::Usage;
use crate::edge::Edge;
use crate::effort::{self, Efforts};
use crate::find::{Finder, resolve};
use crate::key::{key_of_pattern, long_constants};
use crate::parts::Parts;
use crate::pattern::{Loc, Pattern, Shape, Step};
use crate::plan::Plan;
use crate::purse::Purse;
use crate::roster::{Lanes, Observer, Roster};
use crate::value::{Domain, Payer as _};

/// What the groups of one skeleton share.
pub(crate) struct Skeleton {
    pub(crate) id: u32,
    node: u32,
    /// Where its place stands in its node. Written and read under the trie's lock.
    at: AtomicU32,
    pub(crate) shape: Shape,
    pub(crate) constants: Vec<Loc>,
    /// The shard and slot up to which existing assertions have been entered; `None` once all are.
    pub(crate) building: Mutex<Option<(u32, u32)>>,
}

/// Observers of one pattern, up to where their events go: they share one bag and its handles.
pub struct Group<D: Domain> {
    /// Position in the lock order of bags.
    pub(crate) id: u64,
    pub(crate) skeleton: Arc<Skeleton>,
    /// Its constants (see [`crate::key`]).
    pub(crate) key: Box<[u8]>,
    captures: Box<[Loc]>,
    required: Box<[Loc]>,
    /// Those of which the key holds only a digest.
    long_constants: Box<[(Loc, Box<[u8]>)]>,
    is_impossible: bool,
    pub(crate) plan: Plan,
    /// Observers of the same pattern in one handle domain are in different lanes.
    lane: u32,
    /// Where its entry stands in its bucket. Written and read under the trie's lock.
    at: AtomicU32,
    pub(crate) bag: Parts<D>,
    /// Who pays for the bag.
    pub(crate) purse: Purse<D>,
    /// Who pays for the skeleton's members.
    pub(crate) members_purse: Arc<Purse<D>>,
}

impl<D: Domain> Group<D> {
    pub(crate) fn reading(&self) -> Reading<'_> {
        Reading { shape: &self.skeleton.shape, captures: &self.captures }
    }

    /// Whether observers of this pattern, which has the group's constants, can be in it.
    fn suits(&self, pattern: &Pattern) -> bool {
        *self.captures == *pattern.captures
            && *self.required == *pattern.required
            && self.is_impossible == pattern.is_impossible
            && self.long_constants.iter().eq(long_constants(pattern))
    }
}

/// A group and who is in it.
pub(crate) struct Entry<D: Domain> {
    pub(crate) group: Arc<Group<D>>,
    pub(crate) roster: Roster<D>,
}

/// The groups of one pattern: one for each lane.
struct Family<D: Domain> {
    hash: u64,
    groups: SmallVec<[Option<Arc<Group<D>>>; 1]>,
    lanes: Lanes,
}

impl<D: Domain> Family<D> {
    fn first(&self) -> Option<&Arc<Group<D>>> {
        self.groups.iter().flatten().next()
    }
}

/// A skeleton and its observers.
pub(crate) struct Place<D: Domain> {
    pub(crate) skeleton: Arc<Skeleton>,
    /// The observers, if the skeleton has no constants.
    plain: Vec<Entry<D>>,
    /// The observers by their constants' key, if it has any.
    keyed: HashMap<Box<[u8]>, Vec<Entry<D>>, RandomState>,
    /// Held for its drop: whoever is charged for the skeleton.
    _owner: D::Owner,
    /// The number of whoever made the skeleton.
    maker: u64,
    /// Who pays for the members.
    pub(crate) purse: Arc<Purse<D>>,
}

impl<D: Domain> Place<D> {
    /// The groups whose constants have this key.
    #[inline(always)]
    pub(crate) fn entries(&self, key: &[u8]) -> &[Entry<D>] {
        if key.is_empty() { &self.plain } else { self.keyed.get(key).map_or(&[], |entries| entries) }
    }

    /// All who observe by the skeleton.
    pub(crate) fn observers(&self) -> impl Iterator<Item = &Observer<D>> {
        let entries = self.plain.iter().chain(self.keyed.values().flatten());
        entries.flat_map(|entry| entry.roster.observers())
    }

    fn entries_mut(&mut self, key: &[u8]) -> Option<&mut Vec<Entry<D>>> {
        if key.is_empty() { Some(&mut self.plain) } else { self.keyed.get_mut(key) }
    }

    fn is_empty(&self) -> bool {
        self.plain.is_empty() && self.keyed.is_empty()
    }
}

struct Node<D: Domain> {
    /// In the order of their positions.
    edges: Vec<Edge>,
    places: Vec<Place<D>>,
}

impl<D: Domain> Default for Node<D> {
    fn default() -> Self {
        Node { edges: Vec::new(), places: Vec::new() }
    }
}

/// See the module's head.
pub(crate) struct Trie<D: Domain> {
    nodes: Vec<Node<D>>,
    free: Vec<u32>,
    /// By shape and constant positions.
    skeletons: HashTable<Arc<Skeleton>>,
    /// By skeleton, constants, captures and what else is required.
    families: HashTable<Family<D>>,
    pub(crate) efforts: Efforts,
    hasher: RandomState,
    next_skeleton: u32,
    next_group: u64,
}

/// Memory for walks.
#[derive(Default)]
pub(crate) struct Walk {
    /// Nodes still to visit, with how many registers are to be kept, and one more.
    stack: Vec<(u32, u32, u32)>,
    registers: Vec<u32>,
    pub(crate) finder: Finder,
}

impl<D: Domain> Default for Trie<D> {
    fn default() -> Self {
        Trie {
            nodes: vec![Node::default()],
            free: Vec::new(),
            skeletons: HashTable::new(),
            families: HashTable::new(),
            efforts: Efforts::default(),
            hasher: RandomState::default(),
            next_skeleton: 0,
            next_group: 0,
        }
    }
}

impl<D: Domain> Trie<D> {
    /// How many skeletons there are.
    pub(crate) fn skeletons(&self) -> usize {
        self.skeletons.len()
    }

    /// What it holds; see there.
    pub(crate) fn usage(&self) -> Usage {
        let groups = || self.families.iter().flat_map(|family| family.groups.iter().flatten());
        Usage {
            skeletons: self.skeletons.len(),
            nodes: self.nodes.len() - 1 - self.free.len(),
            groups: groups().count(),
            lists: groups().flat_map(|group| group.bag.lock_all()).map(|bag| bag.len()).sum(),
            ..Usage::default()
        }
    }

    /// Visits the skeletons whose shape `value` has, with the tokens of its registers. Cost: the edges of the
    /// nodes reached that look at what is there, and a pass over what they look at. Iterative.
    #[inline(always)]
    pub(crate) fn walk<'t>(
        &'t self,
        value: View<'_>,
        walk: &mut Walk,
        mut visit: impl FnMut(&'t Place<D>, &[u32], &mut Finder),
    ) {
        let Walk { stack, registers, finder } = walk;
        stack.clear();
        registers.clear();
        finder.begin();
        let mut node = &self.nodes[0];
        loop {
            for place in &node.places {
                visit(place, registers, finder);
            }
            let depth = registers.len() as u32;
            // Most nodes lead on to one other at most, which need not go over the stack.
            let mut ahead = None;
            let mut edges = node.edges.iter();
            while let Some(edge) = edges.next() {
                let Some(part) = resolve(&edge.loc, value, registers, finder) else {
                    skip_missing(&edge.loc, &mut edges);
                    continue;
                };
                if let Some(next) = edge.follow(part)
                    && let Some((other, token)) = ahead.replace((next, part.token()))
                {
                    stack.push((other, depth, token));
                }
            }
            let (next, token) = match ahead {
                Some(next) => next,
                None => {
                    let Some((next, depth, token)) = stack.pop() else { return };
                    registers.truncate(depth as usize);
                    (next, token)
                }
            };
            registers.push(token);
            node = &self.nodes[next as usize];
        }
    }

    fn allocate(&mut self) -> u32 {
        match self.free.pop() {
            Some(node) => node,
            None => {
                self.nodes.push(Node::default());
                (self.nodes.len() - 1) as u32
            }
        }
    }

    /// The node at the end of a shape's path, made if need be.
    fn node_for(&mut self, shape: &Shape) -> u32 {
        let mut node = 0;
        for (loc, class) in shape {
            let edges = &mut self.nodes[node as usize].edges;
            let at = edges.binary_search_by(|e| e.loc.cmp(loc)).unwrap_or_else(|at| {
                edges.insert(at, Edge::new(loc.clone()));
                at
            });
            node = match edges[at].get(class) {
                Some(next) => next,
                None => {
                    let next = self.allocate();
                    self.nodes[node as usize].edges[at].set(class, next);
                    next
                }
            };
        }
        node
    }

    /// Removes what has become empty along a shape's path.
    fn prune(&mut self, shape: &Shape) {
        // The nodes on the path, each with the number of the edge that leads on.
        let mut path = Vec::with_capacity(shape.len());
        let mut node = 0;
        for (loc, class) in shape {
            let edges = &self.nodes[node as usize].edges;
            let Ok(at) = edges.binary_search_by(|e| e.loc.cmp(loc)) else { return };
            let Some(next) = edges[at].get(class) else { return };
            path.push((node, at));
            node = next;
        }
        for ((parent, at), (_, class)) in path.into_iter().zip(shape).rev() {
            let ended = &mut self.nodes[node as usize];
            if !ended.edges.is_empty() || !ended.places.is_empty() {
                return;
            }
            *ended = Node::default();
            self.free.push(node);
            let edges = &mut self.nodes[parent as usize].edges;
            edges[at].clear(class);
            if edges[at].is_empty() {
                edges.remove(at);
            }
            node = parent;
        }
    }

    /// The group that an observer with this pattern and handle domain is to join, with its place reserved.
    /// `admit` is asked for the owner of a skeleton that has to be made, and may refuse; it is told what the payer's
    /// skeletons that are like it come to then.
    pub(crate) fn reserve<R>(
        &mut self,
        pattern: &Pattern,
        domain: u64,
        payer: &D::Payer,
        admit: impl FnOnce(u64) -> Result<D::Owner, R>,
    ) -> Result<Arc<Group<D>>, R> {
        let skeleton = self.skeleton(pattern, payer, admit)?;
        let key = key_of_pattern(pattern);
        let hash = self.hash_family(skeleton.id, &key, &pattern.captures, &pattern.required);
        let place = &mut self.nodes[skeleton.node as usize].places[position(&skeleton.at)];
        place.purse.join(payer);
        let is_it = |family: &Family<D>| {
            let first = family.first();
            first.is_some_and(|g| g.skeleton.id == skeleton.id && *g.key == *key && g.suits(pattern))
        };
        let family = self.families.entry(hash, is_it, |f| f.hash).or_insert_with(|| Family {
            hash,
            groups: SmallVec::new(),
            lanes: Lanes::default(),
        });
        let family = family.into_mut();
        let is_in_first = match family.groups.first() {
            Some(Some(first)) => place
                .entries_mut(&key)
                .is_some_and(|entries| entries[position(&first.at)].roster.contains(domain)),
            _ => false,
        };
        let lane = family.lanes.take(domain, is_in_first);
        let entries = if key.is_empty() {
            &mut place.plain
        } else {
            place.keyed.entry(key.as_slice().into()).or_default()
        };
        if family.groups.len() <= lane as usize {
            family.groups.resize(lane as usize + 1, None);
        }
        let slot = &mut family.groups[lane as usize];
        if let Some(group) = slot {
            entries[position(&group.at)].roster.reserve(domain);
            group.purse.join(payer);
            return Ok(group.clone());
        }
        self.next_group += 1;
        let group = Arc::new(Group {
            id: self.next_group,
            skeleton,
            key: key.into(),
            captures: pattern.captures.clone().into(),
            required: pattern.required.clone().into(),
            long_constants: long_constants(pattern).cloned().collect(),
            is_impossible: pattern.is_impossible,
            plan: Plan::new(pattern),
            lane,
            at: AtomicU32::new(entries.len() as u32),
            bag: Parts::default(),
            purse: Purse::new(payer.clone()),
            members_purse: place.purse.clone(),
        });
        group.purse.join(payer);
        *slot = Some(group.clone());
        entries.push(Entry { group: group.clone(), roster: Roster::reserved(domain) });
        Ok(group)
    }

    fn hash_family(&self, skeleton: u32, key: &[u8], captures: &[Loc], required: &[Loc]) -> u64 {
        self.hasher.hash_one((skeleton, key, captures, required))
    }

    /// The skeleton of a pattern, made if need be.
    fn skeleton<R>(
        &mut self,
        pattern: &Pattern,
        payer: &D::Payer,
        admit: impl FnOnce(u64) -> Result<D::Owner, R>,
    ) -> Result<Arc<Skeleton>, R> {
        let constants = || pattern.constants.iter().map(|(loc, _)| loc);
        let hash = hash_skeleton(&self.hasher, &pattern.shape, constants());
        let is_it = |s: &Arc<Skeleton>| s.shape == pattern.shape && s.constants.iter().eq(constants());
        if let Some(known) = self.skeletons.find(hash, is_it) {
            return Ok(known.clone());
        }
        let (maker, effort) = (payer.number(), effort::of_skeleton(&pattern.shape, pattern.constants.len()));
        let owner = admit(self.efforts.of_payer(maker, &pattern.shape) + effort)?;
        self.efforts.add(maker, &pattern.shape, effort);
        let node = self.node_for(&pattern.shape);
        self.next_skeleton += 1;
        let places = &mut self.nodes[node as usize].places;
        let skeleton = Arc::new(Skeleton {
            id: self.next_skeleton,
            node,
            at: AtomicU32::new(places.len() as u32),
            shape: pattern.shape.clone(),
            constants: constants().cloned().collect(),
            building: Mutex::new(Some((0, 0))),
        });
        places.push(Place {
            skeleton: skeleton.clone(),
            plain: Vec::new(),
            keyed: HashMap::default(),
            _owner: owner,
            maker,
            purse: Arc::new(Purse::new(payer.clone())),
        });
        let Trie { skeletons, hasher, .. } = self;
        skeletons
            .insert_unique(hash, skeleton.clone(), |s| hash_skeleton(hasher, &s.shape, s.constants.iter()));
        Ok(skeleton)
    }

    fn place(&mut self, group: &Group<D>) -> &mut Place<D> {
        let skeleton = &group.skeleton;
        &mut self.nodes[skeleton.node as usize].places[position(&skeleton.at)]
    }

    fn entry(&mut self, group: &Group<D>) -> Option<&mut Entry<D>> {
        self.place(group).entries_mut(&group.key)?.get_mut(position(&group.at))
    }

    /// Lets an observer join the group where its place was reserved.
    pub(crate) fn join(&mut self, group: &Group<D>, observer: Observer<D>) {
        if let Some(entry) = self.entry(group) {
            entry.roster.join(observer);
        }
    }

    /// Has another pay for an observer.
    pub(crate) fn repay(
        &mut self,
        group: &Group<D>,
        (observer, domain): (u64, u64),
        before: &D::Payer,
        payer: &D::Payer,
    ) {
        let Some(entry) = self.entry(group) else { return };
        entry.roster.repay(domain, observer, payer);
        for purse in [&group.purse, &group.members_purse] {
            // The new one first: nobody else is to pay in between.
            purse.join(payer);
            purse.leave(before);
        }
    }

    /// Removes an observer, or with `None` a reservation, and whatever is empty then. Returns the observer, and
    /// the id of its skeleton if that is gone.
    pub(crate) fn leave(
        &mut self,
        group: &Group<D>,
        observer: Option<u64>,
        (domain, payer): (u64, &D::Payer),
    ) -> (Option<Observer<D>>, Option<u32>) {
        let Some(entry) = self.entry(group) else { return (None, None) };
        let gone = match observer {
            Some(id) => entry.roster.leave(domain, id),
            None => {
                entry.roster.cancel(domain);
                None
            }
        };
        let is_empty = entry.roster.is_empty();
        group.purse.leave(payer);
        group.members_purse.leave(payer);
        self.leave_lane(group, domain, is_empty);
        let skeleton = if is_empty { self.remove_group(group) } else { None };
        (gone, skeleton)
    }

    /// Gives a lane back, and takes the group out of its family if it ends.
    fn leave_lane(&mut self, group: &Group<D>, domain: u64, ends: bool) {
        let hash = self.hash_family(group.skeleton.id, &group.key, &group.captures, &group.required);
        let is_it = |family: &Family<D>| {
            let own = family.groups.get(group.lane as usize).and_then(Option::as_ref);
            own.is_some_and(|g| g.id == group.id)
        };
        let TableEntry::Occupied(mut found) = self.families.entry(hash, is_it, |f| f.hash) else { return };
        let family = found.get_mut();
        family.lanes.give(domain, group.lane);
        if !ends {
            return;
        }
        family.groups[group.lane as usize] = None;
        while matches!(family.groups.last(), Some(None)) {
            family.groups.pop();
        }
        if family.groups.is_empty() {
            found.remove();
        }
    }

    /// Removes an empty group, and its skeleton if it was the last: its id.
    fn remove_group(&mut self, group: &Group<D>) -> Option<u32> {
        let place = self.place(group);
        let entries = place.entries_mut(&group.key)?;
        let at = position(&group.at);
        entries.swap_remove(at);
        if let Some(moved) = entries.get(at) {
            set_position(&moved.group.at, at);
        }
        if entries.is_empty() {
            place.plain = Vec::new();
            place.keyed.remove(&group.key);
        }
        if !place.is_empty() {
            // Shrinking costs what is left; so much has gone since the last time.
            if place.keyed.capacity() > 64 && place.keyed.len() < place.keyed.capacity() / 8 {
                place.keyed.shrink_to_fit();
            }
            return None;
        }
        let skeleton = &group.skeleton;
        let places = &mut self.nodes[skeleton.node as usize].places;
        let at = position(&skeleton.at);
        let Place { maker, .. } = places.swap_remove(at);
        if let Some(moved) = places.get(at) {
            set_position(&moved.skeleton.at, at);
        }
        let hash = hash_skeleton(&self.hasher, &skeleton.shape, skeleton.constants.iter());
        if let Ok(found) = self.skeletons.find_entry(hash, |s| s.id == skeleton.id) {
            found.remove();
        }
        let effort = effort::of_skeleton(&skeleton.shape, skeleton.constants.len());
        self.efforts.remove(maker, &skeleton.shape, effort);
        self.prune(&skeleton.shape);
        Some(skeleton.id)
    }
}

/// Relaxed: the trie's lock orders all accesses.
fn position(at: &AtomicU32) -> usize {
    at.load(Ordering::Relaxed) as usize
}

/// Relaxed: the trie's lock, held exclusively, orders all accesses.
fn set_position(at: &AtomicU32, to: usize) {
    at.store(to as u32, Ordering::Relaxed);
}

fn hash_skeleton<'l>(hasher: &RandomState, shape: &Shape, constants: impl Iterator<Item = &'l Loc>) -> u64 {
    let mut hasher = hasher.build_hasher();
    shape.hash(&mut hasher);
    constants.for_each(|loc| loc.hash(&mut hasher));
    hasher.finish()
}

/// Passes over edges that look past the end of the same compound.
fn skip_missing(loc: &Loc, edges: &mut std::slice::Iter<'_, Edge>) {
    let Loc::Child { register, step: Step::Index(_) } = loc else { return };
    // Edges are in order: of one register, ascending indices, then keys.
    let last = Loc::Child { register: *register, step: Step::Index(u32::MAX) };
    let rest = edges.as_slice();
    *edges = rest[rest.partition_point(|edge| edge.loc <= last)..].iter();
}

//! The pattern trie: which skeletons a value can reach, and which observers wait there.
//!
//! An edge leads from one group of a shape to the next in pre-order, and is chosen by what stands at that
//! group's place in the value, so skeletons whose shape the value lacks are never visited. A node holds the
//! skeletons whose shape ends there: one for each set of constant positions. A skeleton's observers lie in
//! buckets by the constants' bytes; in a bucket, those that capture the same positions form a [`Group`].

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use parking_lot::Mutex;
use smallvec::SmallVec;
use staunch_protocols::wire::{View, tag};

use crate::Captures;
use crate::bag::{Bag, Reading};
use crate::commit::Usage;
use crate::pattern::{Class, Loc, Pattern, Shape, resolve};
use crate::value::{Domain, Endpoint};

/// What the groups of one skeleton share.
pub(crate) struct Skeleton {
    pub(crate) id: u32,
    pub(crate) node: u32,
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
    /// The constants' bytes, one after the other.
    pub(crate) key: Box<[u8]>,
    pub(crate) captures: Vec<Loc>,
    pub(crate) required: Vec<Loc>,
    /// Observers of the same pattern in one handle domain are in different lanes.
    lane: u32,
    pub(crate) bag: Mutex<Bag<D>>,
    is_impossible: bool,
}

impl<D: Domain> Group<D> {
    pub(crate) fn reading(&self) -> Reading<'_> {
        Reading { shape: &self.skeleton.shape, captures: &self.captures }
    }

    /// What it captures from a value (which lies in `bytes`) whose groups stand at `registers`; `None` if a part
    /// is missing.
    #[inline]
    pub(crate) fn captures<'v>(
        &self,
        value: View<'_>,
        bytes: &'v [u8],
        registers: &[u32],
    ) -> Option<Captures<'v>> {
        if self.is_impossible {
            return None;
        }
        for loc in &self.required {
            resolve(loc, value, registers)?;
        }
        let mut captures = Captures::new();
        for loc in &self.captures {
            let part = resolve(loc, value, registers)?;
            captures.push(&bytes[part.start()..part.end()]);
        }
        Some(captures)
    }
}

/// One subscription.
pub(crate) struct Observer<D: Domain> {
    pub(crate) id: u64,
    pub(crate) endpoint: D::Endpoint,
}

/// A group and who is in it.
pub(crate) struct Entry<D: Domain> {
    pub(crate) group: Arc<Group<D>>,
    pub(crate) observers: Vec<Observer<D>>,
    /// Handle domains of observers about to come.
    reserved: SmallVec<[u64; 1]>,
}

pub(crate) struct Place<D: Domain> {
    pub(crate) skeleton: Arc<Skeleton>,
    pub(crate) buckets: HashMap<Box<[u8]>, Vec<Entry<D>>, RandomState>,
    /// Held for its drop: whoever is charged for the skeleton.
    _owner: D::Owner,
}

#[derive(Default)]
struct Edge {
    loc: Option<Loc>,
    recs: HashMap<Box<[u8]>, u32, RandomState>,
    arr: Option<u32>,
    dict: Option<u32>,
}

impl Edge {
    fn get(&self, class: &Class) -> Option<u32> {
        match class {
            Class::Rec(label) => self.recs.get(label).copied(),
            Class::Arr => self.arr,
            Class::Dict => self.dict,
        }
    }

    fn set(&mut self, class: &Class, node: Option<u32>) {
        match (class, node) {
            (Class::Rec(label), Some(node)) => drop(self.recs.insert(label.clone(), node)),
            (Class::Rec(label), None) => drop(self.recs.remove(label)),
            (Class::Arr, node) => self.arr = node,
            (Class::Dict, node) => self.dict = node,
        }
    }

    fn is_empty(&self) -> bool {
        self.recs.is_empty() && self.arr.is_none() && self.dict.is_none()
    }

    #[inline]
    fn follow(&self, part: View<'_>) -> Option<u32> {
        match part.tag() {
            tag::RECORD => self.recs.get(part.label()?.span()).copied(),
            tag::SEQUENCE => self.arr,
            tag::DICTIONARY => self.dict,
            _ => None,
        }
    }
}

struct Node<D: Domain> {
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
    skeletons: usize,
    next_skeleton: u32,
    next_group: u64,
}

/// Memory for walks.
#[derive(Default)]
pub(crate) struct Walk {
    stack: Vec<(u32, u16, u32)>,
    registers: Vec<u32>,
}

impl<D: Domain> Default for Trie<D> {
    fn default() -> Self {
        Trie { nodes: vec![Node::default()], free: Vec::new(), skeletons: 0, next_skeleton: 0, next_group: 0 }
    }
}

impl<D: Domain> Trie<D> {
    /// How many skeletons there are.
    pub(crate) fn skeletons(&self) -> usize {
        self.skeletons
    }

    /// What it holds; see there.
    pub(crate) fn usage(&self) -> Usage {
        let places = self.nodes.iter().flat_map(|node| &node.places);
        let entries = places.flat_map(|place| place.buckets.values());
        Usage {
            skeletons: self.skeletons,
            nodes: self.nodes.len() - 1 - self.free.len(),
            groups: entries.map(|entries| entries.len()).sum(),
            ..Usage::default()
        }
    }

    /// Visits the skeletons whose shape `value` has, with the tokens of its registers. Cost: the edges of the
    /// nodes reached, and the elements before the parts they look at. Iterative.
    #[inline]
    pub(crate) fn walk<'t>(
        &'t self,
        value: View<'_>,
        walk: &mut Walk,
        mut visit: impl FnMut(&'t Place<D>, &[u32]),
    ) {
        let Walk { stack, registers } = walk;
        stack.clear();
        stack.push((0, 0, 0));
        while let Some((node, depth, token)) = stack.pop() {
            if depth > 0 {
                registers.truncate(depth as usize - 1);
                registers.push(token);
            } else {
                registers.clear();
            }
            let node = &self.nodes[node as usize];
            for place in &node.places {
                visit(place, registers);
            }
            for edge in &node.edges {
                if let Some(loc) = &edge.loc
                    && let Some(part) = resolve(loc, value, registers)
                    && let Some(next) = edge.follow(part)
                {
                    stack.push((next, depth + 1, part.token()));
                }
            }
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
            let known = self.nodes[node as usize].edges.iter().find(|e| e.loc.as_ref() == Some(loc));
            node = match known.and_then(|e| e.get(class)) {
                Some(next) => next,
                None => {
                    let next = self.allocate();
                    let edges = &mut self.nodes[node as usize].edges;
                    let at = edges.iter().position(|e| e.loc.as_ref() == Some(loc)).unwrap_or_else(|| {
                        edges.push(Edge { loc: Some(loc.clone()), ..Edge::default() });
                        edges.len() - 1
                    });
                    edges[at].set(class, Some(next));
                    next
                }
            };
        }
        node
    }

    /// Removes what has become empty along a shape's path.
    fn prune(&mut self, shape: &Shape) {
        let mut path = vec![0];
        for (loc, class) in shape {
            let edges = &self.nodes[path[path.len() - 1] as usize].edges;
            match edges.iter().find(|e| e.loc.as_ref() == Some(loc)).and_then(|e| e.get(class)) {
                Some(next) => path.push(next),
                None => return,
            }
        }
        for depth in (1..path.len()).rev() {
            let node = &self.nodes[path[depth] as usize];
            if !node.edges.is_empty() || !node.places.is_empty() {
                return;
            }
            self.free.push(path[depth]);
            let (loc, class) = &shape[depth - 1];
            let edges = &mut self.nodes[path[depth - 1] as usize].edges;
            if let Some(at) = edges.iter().position(|e| e.loc.as_ref() == Some(loc)) {
                edges[at].set(class, None);
                if edges[at].is_empty() {
                    edges.swap_remove(at);
                }
            }
        }
    }

    /// The group that an observer with this pattern and handle domain is to join, with its place reserved.
    /// `admit` is asked for the owner of a skeleton that has to be made, and may refuse.
    pub(crate) fn reserve<R>(
        &mut self,
        pattern: &Pattern,
        domain: u64,
        admit: impl FnOnce() -> Result<D::Owner, R>,
    ) -> Result<Arc<Group<D>>, R> {
        let locs =
            |p: &Place<D>| p.skeleton.constants.iter().eq(pattern.constants.iter().map(|(loc, _)| loc));
        let known = self.find(&pattern.shape).and_then(|node| {
            self.nodes[node as usize].places.iter().position(locs).map(|place| (node, place))
        });
        let (node, place) = match known {
            Some(found) => found,
            None => self.add_place(pattern, admit()?),
        };
        self.next_group += 1;
        let place = &mut self.nodes[node as usize].places[place];
        let key: Vec<u8> = pattern.constants.iter().flat_map(|(_, bytes)| bytes.iter().copied()).collect();
        let entries = place.buckets.entry(key.clone().into()).or_default();
        let same = |g: &Group<D>| {
            g.captures == pattern.captures
                && g.required == pattern.required
                && g.is_impossible == pattern.is_impossible
        };
        let mut lane = 0;
        for entry in entries.iter_mut().filter(|e| same(&e.group)) {
            if !entry.reserved.contains(&domain)
                && !entry.observers.iter().any(|o| o.endpoint.handle_domain() == domain)
            {
                entry.reserved.push(domain);
                return Ok(entry.group.clone());
            }
            lane = lane.max(entry.group.lane + 1);
        }
        let group = Arc::new(Group {
            id: self.next_group,
            skeleton: place.skeleton.clone(),
            key: key.into(),
            captures: pattern.captures.clone(),
            required: pattern.required.clone(),
            lane,
            bag: Mutex::default(),
            is_impossible: pattern.is_impossible,
        });
        let reserved = SmallVec::from_elem(domain, 1);
        entries.push(Entry { group: group.clone(), observers: Vec::new(), reserved });
        Ok(group)
    }

    fn find(&self, shape: &Shape) -> Option<u32> {
        let mut node = 0;
        for (loc, class) in shape {
            let edges = &self.nodes[node as usize].edges;
            node = edges.iter().find(|e| e.loc.as_ref() == Some(loc))?.get(class)?;
        }
        Some(node)
    }

    fn add_place(&mut self, pattern: &Pattern, owner: D::Owner) -> (u32, usize) {
        let node = self.node_for(&pattern.shape);
        self.next_skeleton += 1;
        self.skeletons += 1;
        let skeleton = Skeleton {
            id: self.next_skeleton,
            node,
            shape: pattern.shape.clone(),
            constants: pattern.constants.iter().map(|(loc, _)| loc.clone()).collect(),
            building: Mutex::new(Some((0, 0))),
        };
        let places = &mut self.nodes[node as usize].places;
        places.push(Place { skeleton: Arc::new(skeleton), buckets: HashMap::default(), _owner: owner });
        (node, places.len() - 1)
    }

    fn entry(&mut self, group: &Group<D>) -> Option<&mut Entry<D>> {
        let places = &mut self.nodes[group.skeleton.node as usize].places;
        let place = places.iter_mut().find(|p| p.skeleton.id == group.skeleton.id)?;
        place.buckets.get_mut(&group.key)?.iter_mut().find(|e| e.group.id == group.id)
    }

    /// Lets an observer join the group where its place was reserved.
    pub(crate) fn join(&mut self, group: &Group<D>, observer: Observer<D>) {
        let Some(entry) = self.entry(group) else { return };
        let domain = observer.endpoint.handle_domain();
        if let Some(at) = entry.reserved.iter().position(|d| *d == domain) {
            entry.reserved.swap_remove(at);
        }
        entry.observers.push(observer);
    }

    /// Removes an observer, or with `None` a reservation, and whatever is empty then. Returns the observer, and
    /// the id of its skeleton if that is gone.
    pub(crate) fn leave(
        &mut self,
        group: &Group<D>,
        observer: Option<u64>,
        domain: u64,
    ) -> (Option<Observer<D>>, Option<u32>) {
        let Some(entry) = self.entry(group) else { return (None, None) };
        let mut gone = None;
        match observer {
            Some(id) => {
                if let Some(at) = entry.observers.iter().position(|o| o.id == id) {
                    gone = Some(entry.observers.swap_remove(at));
                }
            }
            None => {
                if let Some(at) = entry.reserved.iter().position(|d| *d == domain) {
                    entry.reserved.swap_remove(at);
                }
            }
        }
        if !entry.observers.is_empty() || !entry.reserved.is_empty() {
            return (gone, None);
        }
        let node = &mut self.nodes[group.skeleton.node as usize];
        let Some(at) = node.places.iter().position(|p| p.skeleton.id == group.skeleton.id) else {
            return (gone, None);
        };
        let place = &mut node.places[at];
        if let Some(entries) = place.buckets.get_mut(&group.key) {
            entries.retain(|e| e.group.id != group.id);
            if entries.is_empty() {
                place.buckets.remove(&group.key);
            }
        }
        if !place.buckets.is_empty() {
            if place.buckets.capacity() > 64 && place.buckets.len() < place.buckets.capacity() / 8 {
                place.buckets.shrink_to_fit();
            }
            return (gone, None);
        }
        node.places.swap_remove(at);
        self.skeletons -= 1;
        self.prune(&group.skeleton.shape);
        (gone, Some(group.skeleton.id))
    }
}

/// The constants of a value at a skeleton's positions, one after the other: borrowed if there is but one.
#[inline]
pub(crate) fn key_of<'a>(
    constants: &[Loc],
    value: View<'a>,
    registers: &[u32],
    buffer: &'a mut Vec<u8>,
) -> Option<&'a [u8]> {
    match constants {
        [] => Some(&[]),
        [one] => Some(resolve(one, value, registers)?.span()),
        many => {
            buffer.clear();
            for loc in many {
                buffer.extend_from_slice(resolve(loc, value, registers)?.span());
            }
            Some(buffer)
        }
    }
}

//! The assertion store, in shards by hash: each distinct value once, with the number of its placements, and
//! for each skeleton the values that have its shape, by their constants.
//!
//! Values have slots, small numbers, so that sets of them are bits or lists of four bytes, and so that a shard
//! can be walked in pieces while it changes.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use crate::bag::spread;
use crate::value::{Domain, Stored};

/// A set of slots, one bit each.
#[derive(Debug, Default)]
pub(crate) struct Bits(Vec<u64>);

impl Bits {
    fn insert(&mut self, slot: u32) {
        let word = slot as usize / 64;
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (slot % 64);
    }

    fn remove(&mut self, slot: u32) {
        if let Some(word) = self.0.get_mut(slot as usize / 64) {
            *word &= !(1 << (slot % 64));
        }
    }

    /// The first slot in the set from `from` on.
    fn next(&self, from: u32) -> Option<u32> {
        let mut word = from as usize / 64;
        let mut bits = self.0.get(word)? & (u64::MAX << (from % 64));
        while bits == 0 {
            word += 1;
            bits = *self.0.get(word)?;
        }
        Some(word as u32 * 64 + bits.trailing_zeros())
    }
}

/// Slots of values that have the same constants (up to their hash) in one shard.
#[derive(Debug)]
pub(crate) enum Slots {
    /// Sorted.
    Few(Vec<u32>),
    Many(Bits),
}

const FEW_MAX: usize = 64;

impl Slots {
    fn insert(&mut self, slot: u32) {
        match self {
            Slots::Few(list) => {
                if let Err(at) = list.binary_search(&slot) {
                    list.insert(at, slot);
                }
                if list.len() > FEW_MAX {
                    let mut bits = Bits::default();
                    list.iter().for_each(|s| bits.insert(*s));
                    *self = Slots::Many(bits);
                }
            }
            Slots::Many(bits) => bits.insert(slot),
        }
    }

    fn remove(&mut self, slot: u32) {
        match self {
            Slots::Few(list) => {
                if let Ok(at) = list.binary_search(&slot) {
                    list.remove(at);
                }
            }
            Slots::Many(bits) => bits.remove(slot),
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Slots::Few(list) => list.is_empty(),
            Slots::Many(bits) => bits.next(0).is_none(),
        }
    }

    fn next(&self, from: u32) -> Option<u32> {
        match self {
            Slots::Few(list) => list.get(list.partition_point(|s| *s < from)).copied(),
            Slots::Many(bits) => bits.next(from),
        }
    }
}

/// Constants' hash, and the slot of the only value that has them or the number of a set.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keyed {
    hash: u32,
    at: u32,
}

const IS_SET: u32 = 1 << 31;

/// The values of one shard that have one skeleton's shape.
#[derive(Debug)]
pub(crate) enum Members {
    /// The skeleton has no constants.
    All(Bits),
    /// By the hash of the constants. Different constants may share a hash; whoever reads checks.
    ByKey { table: HashTable<Keyed>, sets: Vec<Slots>, free: Vec<u32> },
}

impl Members {
    pub(crate) fn new(has_constants: bool) -> Members {
        if has_constants {
            Members::ByKey { table: HashTable::new(), sets: Vec::new(), free: Vec::new() }
        } else {
            Members::All(Bits::default())
        }
    }

    /// Enters a value; a second time changes nothing.
    pub(crate) fn insert(&mut self, key: u32, slot: u32) {
        let (table, sets, free) = match self {
            Members::All(bits) => return bits.insert(slot),
            Members::ByKey { table, sets, free } => (table, sets, free),
        };
        let Some(found) = table.find_mut(spread(key), |e| e.hash == key) else {
            table.insert_unique(spread(key), Keyed { hash: key, at: slot }, |e| spread(e.hash));
            return;
        };
        let at = found.at;
        if at & IS_SET != 0 {
            sets[(at & !IS_SET) as usize].insert(slot);
        } else if at != slot {
            let set = Slots::Few(vec![at.min(slot), at.max(slot)]);
            let number = match free.pop() {
                Some(number) => {
                    sets[number as usize] = set;
                    number
                }
                None => {
                    sets.push(set);
                    (sets.len() - 1) as u32
                }
            };
            found.at = number | IS_SET;
        }
    }

    /// Takes a value out; one that is not in changes nothing.
    pub(crate) fn remove(&mut self, key: u32, slot: u32) {
        let (table, sets, free) = match self {
            Members::All(bits) => return bits.remove(slot),
            Members::ByKey { table, sets, free } => (table, sets, free),
        };
        let Ok(found) = table.find_entry(spread(key), |e| e.hash == key) else { return };
        let at = found.get().at;
        if at == slot {
            found.remove();
        } else if at & IS_SET != 0 {
            let number = at & !IS_SET;
            let set = &mut sets[number as usize];
            set.remove(slot);
            if set.is_empty() {
                *set = Slots::Few(Vec::new());
                free.push(number);
                found.remove();
            }
        }
    }

    /// The first slot from `from` on whose constants have this hash.
    pub(crate) fn next(&self, key: u32, from: u32) -> Option<u32> {
        match self {
            Members::All(bits) => bits.next(from),
            Members::ByKey { table, sets, .. } => {
                let at = table.find(spread(key), |e| e.hash == key)?.at;
                if at & IS_SET != 0 {
                    sets[(at & !IS_SET) as usize].next(from)
                } else {
                    (at >= from).then_some(at)
                }
            }
        }
    }
}

/// One shard.
pub(crate) struct Shard<D: Domain> {
    table: HashTable<u32>,
    slots: Vec<Option<Stored<D>>>,
    free: Vec<u32>,
    pub(crate) members: HashMap<u32, Members, RandomState>,
}

impl<D: Domain> Default for Shard<D> {
    fn default() -> Self {
        Shard { table: HashTable::new(), slots: Vec::new(), free: Vec::new(), members: HashMap::default() }
    }
}

impl<D: Domain> Shard<D> {
    /// How many distinct values it holds.
    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    /// One past the last slot in use.
    pub(crate) fn end(&self) -> u32 {
        self.slots.len() as u32
    }

    pub(crate) fn get(&self, slot: u32) -> Option<&Stored<D>> {
        self.slots.get(slot as usize)?.as_ref()
    }

    /// Places a value once more: its stored form, its slot, and whether it is new.
    pub(crate) fn place(
        &mut self,
        bytes: &[u8],
        hash: u32,
        extra: Option<Box<D::Extra>>,
    ) -> (Stored<D>, u32, bool) {
        let slots = &self.slots;
        let same = |s: &u32| {
            slots[*s as usize].as_ref().is_some_and(|v| v.header().hash == hash && v.bytes() == bytes)
        };
        if let Some(&slot) = self.table.find(spread(hash), same)
            && let Some(stored) = self.slots[slot as usize].clone()
        {
            let is_first = stored.place();
            return (stored, slot, is_first);
        }
        let stored = Stored::new(bytes, hash, false, extra);
        stored.place();
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = Some(stored.clone());
                slot
            }
            None => {
                self.slots.push(Some(stored.clone()));
                (self.slots.len() - 1) as u32
            }
        };
        let slots = &self.slots;
        let rehash = |s: &u32| slots[*s as usize].as_ref().map_or(0, |v| spread(v.header().hash));
        self.table.insert_unique(spread(hash), slot, rehash);
        (stored, slot, true)
    }

    /// Ends one placement. The slot, if it was the last: the value is gone then.
    pub(crate) fn displace(&mut self, stored: &Stored<D>) -> Option<u32> {
        if !stored.displace() {
            return None;
        }
        let slots = &self.slots;
        let same = |s: &u32| slots[*s as usize].as_ref().is_some_and(|v| v.is_same(stored));
        let found = self.table.find_entry(spread(stored.header().hash), same).ok()?;
        let (slot, _) = found.remove();
        self.slots[slot as usize] = None;
        self.free.push(slot);
        self.shrink();
        Some(slot)
    }

    /// Gives memory back after a crowd has left.
    fn shrink(&mut self) {
        if self.table.is_empty() && self.slots.len() > 64 {
            self.table = HashTable::new();
            self.slots = Vec::new();
            self.free = Vec::new();
        }
    }
}

//! The assertion store, in shards by hash: each distinct value once, with the number of its placements, and
//! for each skeleton the values that have its shape, by their constants.
//!
//! Values have slots, small numbers, so that sets of them are bits or lists of four bytes, and so that a shard
//! can be walked in pieces while it changes.

use std::collections::{BTreeMap, HashMap};

use foldhash::fast::RandomState;

use crate::purse::{Cover, MEMBERS_PER_LIST, Purse};
use crate::table::Table;
use crate::value::{Domain, Stored};

/// A set of slots: what it costs depends on how many there are, not on how large the numbers are.
#[derive(Debug)]
pub(crate) enum SlotSet {
    /// Sorted.
    Few(Vec<u32>),
    /// One bit each, in words by number: 18 bytes each if they lie scattered, a third of a byte if dense.
    Many { words: BTreeMap<u32, u64>, count: u32 },
}

/// Where [`SlotSet::Few`] ends.
const FEW_MAX: usize = 64;

impl Default for SlotSet {
    fn default() -> Self {
        SlotSet::Few(Vec::new())
    }
}

impl SlotSet {
    /// Returns whether it was not in.
    fn insert(&mut self, slot: u32) -> bool {
        match self {
            SlotSet::Few(list) => {
                let Err(at) = list.binary_search(&slot) else { return false };
                list.insert(at, slot);
                if list.len() > FEW_MAX {
                    let list = std::mem::take(list);
                    *self = SlotSet::Many { words: BTreeMap::new(), count: 0 };
                    list.into_iter().for_each(|slot| _ = self.insert(slot));
                }
                true
            }
            SlotSet::Many { words, count } => {
                let word = words.entry(slot / 64).or_default();
                let is_new = *word >> (slot % 64) & 1 == 0;
                *count += u32::from(is_new);
                *word |= 1 << (slot % 64);
                is_new
            }
        }
    }

    /// Returns whether it was in.
    fn remove(&mut self, slot: u32) -> bool {
        match self {
            SlotSet::Few(list) => {
                let Ok(at) = list.binary_search(&slot) else { return false };
                list.remove(at);
                true
            }
            SlotSet::Many { words, count } => {
                let Some(word) = words.get_mut(&(slot / 64)) else { return false };
                let was_in = *word >> (slot % 64) & 1 == 1;
                *count -= u32::from(was_in);
                *word &= !(1 << (slot % 64));
                if *word == 0 {
                    words.remove(&(slot / 64));
                }
                if *count == 0 {
                    *self = SlotSet::default();
                }
                was_in
            }
        }
    }

    fn len(&self) -> usize {
        match self {
            SlotSet::Few(list) => list.len(),
            SlotSet::Many { count, .. } => *count as usize,
        }
    }

    /// The first slot in the set from `from` on.
    fn next(&self, from: u32) -> Option<u32> {
        match self {
            SlotSet::Few(list) => list.get(list.partition_point(|s| *s < from)).copied(),
            SlotSet::Many { words, .. } => {
                let first = words.get(&(from / 64)).map_or(0, |word| word & u64::MAX << (from % 64));
                if first != 0 {
                    return Some(from / 64 * 64 + first.trailing_zeros());
                }
                let (number, word) = words.range(from / 64 + 1..).next()?;
                Some(number * 64 + word.trailing_zeros())
            }
        }
    }
}

/// Constants' hash, and the slot of the only value that has it, or the number of a set.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keyed {
    hash: u32,
    at: u32,
}

/// Marks the number of a set in a table whose other numbers are slots.
const IS_SET: u32 = 1 << 31;

/// The values of one shard that have one skeleton's shape.
#[derive(Debug)]
pub(crate) struct Members {
    slots: SlotsByKey,
    count: u32,
    cover: Cover,
}

/// See [`Members`].
#[derive(Debug)]
enum SlotsByKey {
    /// The skeleton has no constants.
    All(SlotSet),
    /// By the hash of the constants. Different constants may share a hash; whoever reads checks.
    ByKey { table: Table<Keyed>, sets: Vec<SlotSet>, free: Vec<u32> },
}

impl Members {
    pub(crate) fn new(has_constants: bool) -> Members {
        let slots = if has_constants {
            SlotsByKey::ByKey { table: Table::default(), sets: Vec::new(), free: Vec::new() }
        } else {
            SlotsByKey::All(SlotSet::default())
        };
        Members { slots, count: 0, cover: Cover::default() }
    }

    /// How many values are in.
    pub(crate) fn len(&self) -> usize {
        self.count as usize
    }

    /// Enters a value; a second time changes nothing.
    pub(crate) fn insert(&mut self, key: u32, slot: u32) {
        self.count += u32::from(self.slots.insert(key, slot));
    }

    /// Takes a value out; one that is not in changes nothing.
    pub(crate) fn remove(&mut self, key: u32, slot: u32) {
        self.count -= u32::from(self.slots.remove(key, slot));
    }

    /// The first slot from `from` on whose constants have this hash.
    pub(crate) fn next(&self, key: u32, from: u32) -> Option<u32> {
        self.slots.next(key, from)
    }

    /// What they weigh, in captures lists.
    fn weight(&self) -> u64 {
        u64::from(self.count).div_ceil(MEMBERS_PER_LIST)
    }

    /// Something has been inserted: has it paid for. Returns whether the payer may have so much.
    #[inline]
    pub(crate) fn pay<D: Domain>(&mut self, purse: &Purse<D>) -> bool {
        self.cover.grow(self.weight(), purse)
    }

    /// Something has been removed.
    #[inline]
    pub(crate) fn pay_less<D: Domain>(&mut self, purse: &Purse<D>) {
        self.cover.shrink(self.weight(), purse);
    }

    /// They are not kept any longer.
    pub(crate) fn release<D: Domain>(&mut self, purse: &Purse<D>) {
        self.cover.release(purse);
    }
}

impl SlotsByKey {
    /// Returns whether it was not in.
    fn insert(&mut self, key: u32, slot: u32) -> bool {
        let (table, sets, free) = match self {
            SlotsByKey::All(set) => return set.insert(slot),
            SlotsByKey::ByKey { table, sets, free } => (table, sets, free),
        };
        let Some(Keyed { at, .. }) = table.find(key, |e| e.hash == key) else {
            table.insert(key, Keyed { hash: key, at: slot }, |e| e.hash);
            return true;
        };
        if at & IS_SET != 0 {
            return sets[(at & !IS_SET) as usize].insert(slot);
        }
        if at != slot {
            let set = SlotSet::Few(vec![at.min(slot), at.max(slot)]);
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
            table.replace(key, |e| e.hash == key, Keyed { hash: key, at: number | IS_SET });
        }
        at != slot
    }

    /// Returns whether it was in.
    fn remove(&mut self, key: u32, slot: u32) -> bool {
        let (table, sets, free) = match self {
            SlotsByKey::All(set) => return set.remove(slot),
            SlotsByKey::ByKey { table, sets, free } => (table, sets, free),
        };
        let Some(Keyed { at, .. }) = table.find(key, |e| e.hash == key) else { return false };
        let mut forget = || table.remove(key, |e| e.hash == key, |e| e.hash);
        let mut was_in = at == slot;
        if was_in {
            forget();
        } else if at & IS_SET != 0 {
            let number = at & !IS_SET;
            let set = &mut sets[number as usize];
            was_in = set.remove(slot);
            if set.len() == 0 {
                *set = SlotSet::default();
                free.push(number);
                forget();
            }
        }
        if table.is_empty() {
            (*sets, *free) = (Vec::new(), Vec::new());
        }
        was_in
    }

    fn next(&self, key: u32, from: u32) -> Option<u32> {
        match self {
            SlotsByKey::All(set) => set.next(from),
            SlotsByKey::ByKey { table, sets, .. } => {
                let at = table.find(key, |e| e.hash == key)?.at;
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
    table: Table<u32>,
    slots: Vec<Option<Stored<D>>>,
    free: Vec<u32>,
    pub(crate) members: HashMap<u32, Members, RandomState>,
}

impl<D: Domain> Default for Shard<D> {
    fn default() -> Self {
        Shard { table: Table::default(), slots: Vec::new(), free: Vec::new(), members: HashMap::default() }
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
        if let Some(slot) = self.table.find(hash, same)
            && let Some(stored) = self.slots[slot as usize].clone()
        {
            let is_first = stored.place();
            return (stored, slot, is_first);
        }
        let stored = Stored::new(bytes, hash, extra);
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
        self.table.insert(hash, slot, |slot| hash_of(slots, slot));
        (stored, slot, true)
    }

    /// Ends one placement. The slot, if it was the last: the value is gone then.
    pub(crate) fn displace(&mut self, stored: &Stored<D>) -> Option<u32> {
        if !stored.displace() {
            return None;
        }
        let slots = &self.slots;
        let hash = stored.header().hash;
        let same = |s: &u32| slots[*s as usize].as_ref().is_some_and(|v| v.is_same(stored));
        let slot = self.table.remove(hash, same, |slot| hash_of(slots, slot))?;
        self.slots[slot as usize] = None;
        self.free.push(slot);
        self.shrink();
        Some(slot)
    }

    /// Gives memory back after a crowd has left.
    fn shrink(&mut self) {
        if self.table.is_empty() && self.slots.len() > 64 {
            self.slots = Vec::new();
            self.free = Vec::new();
        }
    }
}

/// The hash of the value in a slot.
fn hash_of<D: Domain>(slots: &[Option<Stored<D>>], slot: &u32) -> u32 {
    slots[*slot as usize].as_ref().map_or(0, |value| value.header().hash)
}

//! The capture bag of a group of observers: which captures lists are alive, how many assertions give each, and
//! the handle under which all sessions know it.
//!
//! A captures list is not stored: its slot points at one assertion that gives it (its *representative*). Slots
//! are numbered, so that a new observer can be told of a large bag piece by piece while it changes
//! ([`Replay`]).
//!
//! **Invariant:** a representative is at most a few times as long as the list (see [`WASTE_BYTES`]), so comparing a
//! list with one that is there costs what the list is long, whatever else its values hold.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use staunch_protocols::wire::tag;

use crate::Captures;
use crate::find::{registers, resolve};
use crate::pattern::{Loc, Shape};
use crate::purse::{Cover, Purse};
use crate::slots::Slots;
use crate::table::Table;
use crate::value::{Domain, Rescan, Stored};

/// A representative may be four times as long as the list and this much.
const WASTE_BYTES: usize = 256;

/// So many bytes of a list that no assertion holds for the bag weigh as one more list.
const ALONE_BYTES: u64 = 32;

/// One captures list. 24 bytes.
struct Slot<D: Domain> {
    /// An assertion that gives it, or the list itself; `None` in a free slot.
    representative: Option<Stored<D>>,
    /// The handle, unique in the process.
    handle: u64,
    /// How many assertions give it.
    count: u32,
    /// Hash of the list.
    hash: u32,
}

impl<D: Domain> Default for Slot<D> {
    fn default() -> Self {
        Slot { representative: None, handle: 0, count: 0, hash: 0 }
    }
}

/// How far an observer has been told of what was there when it came.
#[derive(Debug)]
struct Replay {
    /// The next slot to tell.
    cursor: u32,
    /// Slots with this handle or a later one were filled after the observer came, and told to it then.
    since: u64,
}

/// A stripe takes so many handles at once.
const HANDLES_AT_ONCE: u32 = 32;

/// Handles that a bag has taken from those of the process and not given out yet. All threads have that one counter's
/// cache line to fetch from each other; stripes, which are there for threads that would do so all the time, do it for
/// several handles at once.
struct Handles {
    next: u64,
    end: u64,
    at_once: u32,
}

impl Handles {
    /// The next of them, greater than all before. `take` takes so many from those of the process and tells the first.
    #[inline]
    fn next(&mut self, take: impl FnOnce(u64) -> u64) -> u64 {
        if self.next == self.end {
            self.next = take(self.at_once.into());
            self.end = self.next + u64::from(self.at_once);
        }
        self.next += 1;
        self.next - 1
    }

    /// Another bag, which takes from the same, has given this one out. None has been taken yet.
    fn pass(&mut self, handle: u64) {
        self.next = self.next.max(handle + 1);
        self.end = self.next;
    }
}

/// See the module's head.
pub(crate) struct Bag<D: Domain> {
    /// Slots by the hash of their lists.
    table: Table<u32>,
    slots: Slots<Slot<D>>,
    /// Of representatives that are lists alone; and of itself, if it is a stripe.
    alone_bytes: u64,
    cover: Cover,
    handles: Handles,
    /// By observer.
    replays: HashMap<u64, Replay, RandomState>,
    /// How often a thread has found it locked.
    pub(crate) waited: u32,
}

impl<D: Domain> Default for Bag<D> {
    fn default() -> Bag<D> {
        Bag {
            table: Table::default(),
            slots: Slots::default(),
            alone_bytes: 0,
            cover: Cover::default(),
            handles: Handles { next: 0, end: 0, at_once: 1 },
            replays: HashMap::default(),
            waited: 0,
        }
    }
}

/// What adding to or removing from a bag changed for observers.
pub(crate) enum Change {
    /// The list is (still, or still not) there.
    None,
    /// It appeared or went, in this slot, with this handle.
    Edge { slot: u32, handle: u64 },
}

/// How a group reads captures from a value.
pub(crate) struct Reading<'g> {
    pub(crate) shape: &'g Shape,
    pub(crate) captures: &'g [Loc],
}

impl Reading<'_> {
    /// The captures of a stored value that is known to match.
    pub(crate) fn captures_of<'v, D: Domain>(
        &self,
        stored: &'v Stored<D>,
        rescan: &mut Rescan,
    ) -> Captures<'v> {
        let bytes = stored.bytes();
        let (view, finder) = rescan.open(bytes);
        let slice = |part: std::ops::Range<usize>| &bytes[part];
        if stored.is_captures() {
            return view.children().map(|c| slice(c.start()..c.end())).collect();
        }
        let Some(registers) = registers(self.shape, view, finder) else { return Captures::new() };
        let parts = self.captures.iter().filter_map(|loc| resolve(loc, view, &registers, finder));
        parts.map(|c| slice(c.start()..c.end())).collect()
    }
}

impl<D: Domain> Bag<D> {
    /// How many captures lists are alive.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// What it weighs, in captures lists.
    fn weight(&self) -> u64 {
        self.slots.len() as u64 + self.alone_bytes / ALONE_BYTES
    }

    /// Something has been added: has it paid for. Returns whether the payer may have so much.
    #[inline]
    pub(crate) fn pay(&mut self, purse: &Purse<D>) -> bool {
        self.cover.grow(self.weight(), purse)
    }

    /// Something has been removed.
    #[inline]
    pub(crate) fn pay_less(&mut self, purse: &Purse<D>) {
        self.cover.shrink(self.weight(), purse);
    }

    /// An empty stripe (see [`crate::parts`]), which takes so many bytes itself.
    pub(crate) fn stripe(bytes: usize) -> Bag<D> {
        let handles = Handles { next: 0, end: 0, at_once: HANDLES_AT_ONCE };
        Bag { alone_bytes: bytes as u64, handles, ..Bag::default() }
    }

    /// Whether an observer has yet to be told of something.
    pub(crate) fn is_replayed(&self) -> bool {
        !self.replays.is_empty()
    }

    /// Moves all lists to other bags, by their hashes. What is paid for them is given back.
    pub(crate) fn move_out(&mut self, purse: &Purse<D>, bags: &mut [Bag<D>], to: impl Fn(u32) -> usize) {
        self.cover.release(purse);
        (self.table, self.alone_bytes) = (Table::default(), 0);
        let taken: Vec<u32> = self.slots.iter().map(|(slot, _)| slot).collect();
        for entry in taken.into_iter().filter_map(|slot| self.slots.remove(slot)) {
            let bag = &mut bags[to(entry.hash)];
            if let Some(alone) = entry.representative.as_ref().filter(|r| r.is_captures()) {
                bag.alone_bytes += alone.bytes().len() as u64;
            }
            bag.handles.pass(entry.handle);
            bag.insert(entry);
        }
    }

    /// Gives a list a slot.
    fn insert(&mut self, entry: Slot<D>) -> u32 {
        let hash = entry.hash;
        let slot = self.slots.insert(entry);
        let slots = &self.slots;
        self.table.insert(hash, slot, |slot| hash_of(slots, slot));
        slot
    }

    /// Counts one more assertion that gives these captures. If the list is new it gets a handle;
    /// `take` takes so many from those of the process and tells the first.
    pub(crate) fn add(
        &mut self,
        reading: &Reading<'_>,
        captures: &[&[u8]],
        hash: u32,
        from: &Stored<D>,
        rescan: &mut Rescan,
        take: impl FnOnce(u64) -> u64,
    ) -> Change {
        if let Some(slot) = self.find(reading, captures, hash, None, rescan) {
            if let Some(entry) = self.slots.get_mut(slot) {
                entry.count += 1;
            }
            return Change::None;
        }
        let handle = self.handles.next(take);
        let list_bytes: usize = captures.iter().map(|c| c.len()).sum();
        let is_apt = from.bytes().len() <= 4 * list_bytes + WASTE_BYTES;
        let representative = if is_apt { from.clone() } else { list_alone(captures, hash, from) };
        if !is_apt {
            self.alone_bytes += representative.bytes().len() as u64;
        }
        let slot = self.insert(Slot { representative: Some(representative), handle, count: 1, hash });
        Change::Edge { slot, handle }
    }

    /// Counts one fewer.
    pub(crate) fn remove(
        &mut self,
        reading: &Reading<'_>,
        captures: &[&[u8]],
        hash: u32,
        from: &Stored<D>,
        rescan: &mut Rescan,
    ) -> Change {
        let Some(slot) = self.find(reading, captures, hash, Some(from), rescan) else { return Change::None };
        let Some(entry) = self.slots.get_mut(slot) else { return Change::None };
        entry.count -= 1;
        if entry.count > 0 {
            // Others give the same list; the value that goes must not be kept for it.
            if entry.representative.as_ref().is_some_and(|r| r.is_same(from)) {
                let alone = list_alone(captures, hash, from);
                self.alone_bytes += alone.bytes().len() as u64;
                entry.representative = Some(alone);
            }
            return Change::None;
        }
        let handle = entry.handle;
        if let Some(alone) = entry.representative.as_ref().filter(|r| r.is_captures()) {
            self.alone_bytes -= alone.bytes().len() as u64;
        }
        let slots = &self.slots;
        self.table.remove(hash, |s| *s == slot, |slot| hash_of(slots, slot));
        self.slots.remove(slot);
        Change::Edge { slot, handle }
    }

    fn find(
        &self,
        reading: &Reading<'_>,
        captures: &[&[u8]],
        hash: u32,
        from: Option<&Stored<D>>,
        rescan: &mut Rescan,
    ) -> Option<u32> {
        self.table.find(hash, |slot| {
            let Some(entry) = self.slots.get(*slot).filter(|entry| entry.hash == hash) else { return false };
            let Some(representative) = &entry.representative else { return false };
            from.is_some_and(|f| f.is_same(representative))
                || *reading.captures_of(representative, rescan) == *captures
        })
    }

    /// Whether an observer is to be told that the list in `slot` went: not if it was never told of it.
    #[inline]
    pub(crate) fn was_told(&self, observer: u64, slot: u32, handle: u64) -> bool {
        self.replays.is_empty()
            || self.replays.get(&observer).is_none_or(|r| slot < r.cursor || handle >= r.since)
    }

    /// Begins to tell an observer of what is there.
    pub(crate) fn begin_replay(&mut self, observer: u64) {
        // The lists that come get handles from here on: those that are left, or others, which are greater.
        self.replays.insert(observer, Replay { cursor: 0, since: self.handles.next });
    }

    /// Forgets an unfinished replay; what it told so far is still known to [`Bag::was_told`]'s caller.
    pub(crate) fn end_replay(&mut self, observer: u64) {
        self.replays.remove(&observer);
    }

    /// Tells the observer of what is in at most `budget` more slots or empty chunks of them, or until `tell`
    /// returns false, which leaves no budget. Returns whether there may be more.
    pub(crate) fn continue_replay(
        &mut self,
        reading: &Reading<'_>,
        observer: u64,
        budget: &mut u32,
        rescan: &mut Rescan,
        tell: &mut dyn FnMut(u64, &Stored<D>, &Captures<'_>) -> bool,
    ) -> bool {
        let Some(replay) = self.replays.get_mut(&observer) else { return false };
        while *budget > 0 {
            let (next, looked) = self.slots.next(replay.cursor);
            *budget = budget.saturating_sub(looked);
            let entry = next.and_then(|slot| Some((slot, self.slots.get(slot)?)));
            let Some((slot, entry)) = entry else {
                self.end_replay(observer);
                return false;
            };
            replay.cursor = slot + 1;
            if let Some(stored) = &entry.representative
                && entry.handle < replay.since
                && !tell(entry.handle, stored, &reading.captures_of(stored, rescan))
            {
                *budget = 0;
            }
        }
        if replay.cursor >= self.slots.end() {
            self.end_replay(observer);
            return false;
        }
        true
    }

    /// All lists alive, in slot order, with slot and handle.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, u64, &Stored<D>)> {
        self.slots.iter().filter_map(|(i, s)| s.representative.as_ref().map(|r| (i, s.handle, r)))
    }
}

/// The hash of the list in a slot.
fn hash_of<D: Domain>(slots: &Slots<Slot<D>>, slot: &u32) -> u32 {
    slots.get(*slot).map_or(0, |entry| entry.hash)
}

/// A captures list as a stored value of its own.
fn list_alone<D: Domain>(captures: &[&[u8]], hash: u32, from: &Stored<D>) -> Stored<D> {
    let mut bytes = Vec::with_capacity(captures.iter().map(|c| c.len()).sum::<usize>() + 2);
    bytes.push(tag::SEQUENCE);
    captures.iter().for_each(|c| bytes.extend_from_slice(c));
    bytes.push(tag::END);
    Stored::captures(&bytes, hash, from.header().extra.clone())
}

#[cfg(test)]
mod tests {
    use staunch_protocols::wire::encode;

    use super::*;
    use crate::pattern::{Class, Step};
    use crate::value::tests::Plug;

    fn stored(length: usize, n: i64) -> Stored<Plug> {
        let mut bytes = vec![tag::SEQUENCE];
        encode::int(&mut bytes, 1);
        encode::int(&mut bytes, n);
        encode::bytes(&mut bytes, &vec![0; length]);
        encode::end(&mut bytes);
        Stored::new(&bytes, n as u32, None)
    }

    /// Adds to and removes from a bag of the first elements of sequences.
    struct Firsts {
        shape: Shape,
        captures: Vec<Loc>,
        bag: Bag<Plug>,
        rescan: Rescan,
        handles: u64,
    }

    impl Firsts {
        fn new() -> Firsts {
            let captures = vec![Loc::Child { register: 0, step: Step::Index(0) }];
            let shape = vec![(Loc::Root, Class::Arr)];
            Firsts { shape, captures, bag: Bag::default(), rescan: Rescan::default(), handles: 0 }
        }

        fn change(&mut self, list: &[u8], from: &Stored<Plug>, is_added: bool) -> bool {
            let Firsts { shape, captures, bag, rescan, handles } = self;
            let reading = Reading { shape, captures };
            let hash = u32::from(list[list.len() - 1]);
            let change = if is_added {
                let next = |count| {
                    *handles += count;
                    *handles + 1 - count
                };
                bag.add(&reading, &[list], hash, from, rescan, next)
            } else {
                bag.remove(&reading, &[list], hash, from, rescan)
            };
            matches!(change, Change::Edge { .. })
        }
    }

    #[test]
    fn a_long_representative_is_not_scanned_for_every_equal_list() {
        let mut firsts = Firsts::new();
        let one = [tag::INTEGER, 1, 1];
        let long = stored(1 << 20, 0);
        assert!(firsts.change(&one, &long, true));
        let short: Vec<_> = (1..1000).map(|n| stored(3, n)).collect();
        assert!(short.iter().all(|from| !firsts.change(&one, from, true)));
        assert!(!firsts.change(&one, &long, false));
        let last = short.iter().map(|from| firsts.change(&one, from, false)).filter(|is_edge| *is_edge);
        assert_eq!(last.count(), 1);
        let scanned = firsts.rescan.scanned_bytes;
        assert!(scanned < 2000 * 16, "{scanned} bytes scanned");
    }

    #[test]
    fn replays_pending_do_not_weigh_on_each_other() {
        let mut firsts = Firsts::new();
        let lists: Vec<[u8; 3]> = (0..100).map(|n| [tag::INTEGER, 1, n]).collect();
        let from = stored(3, 1);
        lists.iter().for_each(|list| assert!(firsts.change(list, &from, true)));
        (0..1000).for_each(|observer| firsts.bag.begin_replay(observer));
        assert!((0..1000).all(|observer| !firsts.bag.was_told(observer, 0, 1)));
        assert!(firsts.bag.was_told(1000, 0, 1) && firsts.bag.was_told(0, 0, 101));
        (0..1000).for_each(|observer| firsts.bag.end_replay(observer));
        assert!(firsts.bag.replays.is_empty());
    }
}

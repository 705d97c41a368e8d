//! A hash table of numbers that grows and shrinks a piece at a time (linear hashing), so that no insertion under
//! a lock ever moves more than a few thousand entries.
//!
//! With n segments, an entry is in the segment that its hash names modulo the power of two at or above n, or, if
//! that segment is not there yet, modulo half of it. So one more segment takes entries from one other only.

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

/// A segment is added when there are more entries than this for each.
const ENTRIES_MAX: usize = 1536;

/// One entry, 8 bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keyed {
    pub(crate) hash: u32,
    pub(crate) at: u32,
}

/// See the module's head.
#[derive(Debug, Default)]
pub(crate) struct Table {
    segments: Vec<HashTable<Keyed>>,
    len: usize,
}

/// Spreads a 32-bit hash over the 64 bits that the table draws on at both ends.
#[inline]
fn spread(hash: u32) -> u64 {
    (hash as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn respread(entry: &Keyed) -> u64 {
    spread(entry.hash)
}

impl Table {
    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The segment for a hash among so many. Bits from the middle: the segments' own tables use the ends.
    fn segment(spread: u64, count: usize) -> usize {
        let bits = (spread >> 24) as usize;
        let mask = count.next_power_of_two() - 1;
        let at = bits & mask;
        if at < count { at } else { bits & (mask >> 1) }
    }

    /// The entry with this hash whose number is `same`.
    #[inline]
    pub(crate) fn find(&self, hash: u32, mut same: impl FnMut(u32) -> bool) -> Option<u32> {
        if self.segments.is_empty() {
            return None;
        }
        let spread = spread(hash);
        let segment = &self.segments[Table::segment(spread, self.segments.len())];
        segment.find(spread, |e| e.hash == hash && same(e.at)).map(|e| e.at)
    }

    /// Changes the number of the entry with this hash and number.
    pub(crate) fn replace(&mut self, hash: u32, at: u32, by: u32) {
        let (spread, count) = (spread(hash), self.segments.len());
        if let Some(segment) = self.segments.get_mut(Table::segment(spread, count.max(1)))
            && let Some(entry) = segment.find_mut(spread, |e| e.hash == hash && e.at == at)
        {
            entry.at = by;
        }
    }

    /// Adds an entry that is not there.
    pub(crate) fn insert(&mut self, hash: u32, at: u32) {
        if self.len >= self.segments.len() * ENTRIES_MAX {
            self.split();
        }
        let spread = spread(hash);
        let segment = Table::segment(spread, self.segments.len());
        self.segments[segment].insert_unique(spread, Keyed { hash, at }, respread);
        self.len += 1;
    }

    /// Takes out the entry with this hash and number, if it is there.
    pub(crate) fn remove(&mut self, hash: u32, at: u32) -> bool {
        if self.segments.is_empty() {
            return false;
        }
        let spread = spread(hash);
        let number = Table::segment(spread, self.segments.len());
        let segment = &mut self.segments[number];
        match segment.entry(spread, |e| e.hash == hash && e.at == at, respread) {
            Entry::Occupied(found) => drop(found.remove()),
            Entry::Vacant(_) => return false,
        }
        self.len -= 1;
        if segment.capacity() > 64 && segment.len() < segment.capacity() / 8 {
            segment.shrink_to(segment.len() * 2, respread);
        }
        if self.len < self.segments.len() * ENTRIES_MAX / 4 {
            self.join();
        }
        true
    }

    /// One more segment.
    fn split(&mut self) {
        let count = self.segments.len() + 1;
        self.segments.push(HashTable::new());
        if count == 1 {
            return;
        }
        let from = Table::sibling(count - 1);
        for entry in std::mem::take(&mut self.segments[from]) {
            let spread = respread(&entry);
            let segment = &mut self.segments[Table::segment(spread, count)];
            segment.insert_unique(spread, entry, respread);
        }
    }

    /// One segment fewer.
    fn join(&mut self) {
        if self.len == 0 {
            self.segments = Vec::new();
        } else if self.segments.len() > 1
            && let Some(last) = self.segments.pop()
        {
            let into = Table::sibling(self.segments.len());
            last.into_iter().for_each(|entry| {
                self.segments[into].insert_unique(respread(&entry), entry, respread);
            });
        }
    }

    /// Where the entries of a segment are while it does not exist.
    fn sibling(segment: usize) -> usize {
        segment & !(1 << segment.ilog2())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hash as good as any.
    fn hash(n: u32) -> u32 {
        let mixed = (n as u64 + 1).wrapping_mul(0xd6e8_feb8_6659_fd93);
        (mixed ^ mixed >> 32) as u32
    }

    #[test]
    fn grows_and_shrinks_with_all_entries_at_hand() {
        const COUNT: u32 = 40_000;
        let mut table = Table::default();
        for n in 0..COUNT {
            table.insert(hash(n), n);
            let largest = table.segments.iter().map(HashTable::len).max();
            assert!(largest < Some(3 * ENTRIES_MAX), "{largest:?} entries to be moved at once");
        }
        assert!((0..COUNT).all(|n| table.find(hash(n), |at| at == n) == Some(n)));
        table.replace(hash(7), 7, COUNT);
        assert_eq!(table.find(hash(7), |_| true), Some(COUNT));
        table.replace(hash(7), COUNT, 7);
        assert_eq!(table.find(hash(COUNT), |_| true), None);
        for n in 0..COUNT {
            assert!(table.remove(hash(n), n));
            assert!(!table.remove(hash(n), n));
            if n % 1000 == 0 {
                assert!((n + 1..COUNT).all(|n| table.find(hash(n), |at| at == n) == Some(n)));
            }
        }
        assert!(table.is_empty() && table.segments.capacity() == 0);
    }

    #[test]
    fn equal_hashes_are_kept_apart_by_number() {
        let mut table = Table::default();
        (0..10).for_each(|n| table.insert(5, n));
        assert_eq!(table.find(5, |at| at == 9), Some(9));
        assert!(table.remove(5, 3) && !table.remove(5, 3));
        assert_eq!(table.len(), 9);
    }
}

//! A hash table of numbers that grows and shrinks a piece at a time (linear hashing), so that no insertion under
//! a lock ever moves more than a few thousand entries.
//!
//! With n segments, an entry is in the segment that its hash names modulo the power of two at or above n, or, if
//! that segment is not there yet, modulo half of it. So one more segment takes entries from one other only.

use hashbrown::HashTable;

/// A segment is added when there are more entries than this for each.
const ENTRIES_MAX: usize = 448;

/// See the module's head. Whoever uses it tells the hash of an entry, so that entries need not hold it.
#[derive(Debug)]
pub(crate) struct Table<E> {
    segments: Vec<HashTable<E>>,
    len: usize,
}

impl<E> Default for Table<E> {
    fn default() -> Self {
        Table { segments: Vec::new(), len: 0 }
    }
}

/// Spreads a 32-bit hash over the 64 bits that the table draws on at both ends.
#[inline]
fn spread(hash: u32) -> u64 {
    (hash as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// The segment for a hash among so many. Bits from the middle: the segments' own tables use the ends.
#[inline]
fn segment_of(spread: u64, count: usize) -> usize {
    let bits = (spread >> 24) as usize;
    let mask = count.next_power_of_two() - 1;
    let at = bits & mask;
    if at < count { at } else { bits & (mask >> 1) }
}

/// Where the entries of a segment are while it does not exist.
fn sibling(segment: usize) -> usize {
    segment & !(1 << segment.ilog2())
}

impl<E: Copy> Table<E> {
    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The entry with this hash that is `same`; others with that hash or another may be asked about.
    #[inline]
    pub(crate) fn find(&self, hash: u32, same: impl FnMut(&E) -> bool) -> Option<E> {
        if self.segments.is_empty() {
            return None;
        }
        let spread = spread(hash);
        self.segments[segment_of(spread, self.segments.len())].find(spread, same).copied()
    }

    /// Puts an entry with the same hash in the place of one.
    pub(crate) fn replace(&mut self, hash: u32, same: impl FnMut(&E) -> bool, by: E) {
        let (spread, count) = (spread(hash), self.segments.len());
        if let Some(segment) = self.segments.get_mut(segment_of(spread, count.max(1)))
            && let Some(entry) = segment.find_mut(spread, same)
        {
            *entry = by;
        }
    }

    /// Adds an entry that is not there.
    pub(crate) fn insert(&mut self, hash: u32, entry: E, hash_of: impl Fn(&E) -> u32) {
        let respread = |e: &E| spread(hash_of(e));
        if self.len >= self.segments.len() * ENTRIES_MAX {
            self.split(&respread);
        }
        let spread = spread(hash);
        let segment = segment_of(spread, self.segments.len());
        self.segments[segment].insert_unique(spread, entry, respread);
        self.len += 1;
    }

    /// Takes out the entry with this hash that is `same`, if it is there.
    pub(crate) fn remove(
        &mut self,
        hash: u32,
        same: impl FnMut(&E) -> bool,
        hash_of: impl Fn(&E) -> u32,
    ) -> Option<E> {
        if self.segments.is_empty() {
            return None;
        }
        let respread = |e: &E| spread(hash_of(e));
        let spread = spread(hash);
        let number = segment_of(spread, self.segments.len());
        let segment = &mut self.segments[number];
        let (entry, _) = segment.find_entry(spread, same).ok()?.remove();
        self.len -= 1;
        if segment.capacity() > 64 && segment.len() < segment.capacity() / 8 {
            segment.shrink_to(segment.len() * 2, respread);
        }
        if self.len < self.segments.len() * ENTRIES_MAX / 4 {
            self.join(&respread);
        }
        Some(entry)
    }

    /// One more segment.
    fn split(&mut self, respread: &impl Fn(&E) -> u64) {
        let count = self.segments.len() + 1;
        self.segments.push(HashTable::new());
        if count == 1 {
            return;
        }
        for entry in std::mem::take(&mut self.segments[sibling(count - 1)]) {
            let spread = respread(&entry);
            self.segments[segment_of(spread, count)].insert_unique(spread, entry, respread);
        }
    }

    /// One segment fewer.
    fn join(&mut self, respread: &impl Fn(&E) -> u64) {
        if self.len == 0 {
            self.segments = Vec::new();
        } else if self.segments.len() > 1
            && let Some(last) = self.segments.pop()
        {
            let into = sibling(self.segments.len());
            for entry in last {
                self.segments[into].insert_unique(respread(&entry), entry, respread);
            }
        }
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
        let mut table: Table<u32> = Table::default();
        let hash_of = |n: &u32| hash(*n);
        for n in 0..COUNT {
            table.insert(hash(n), n, hash_of);
            let largest = table.segments.iter().map(HashTable::len).max();
            assert!(largest < Some(3 * ENTRIES_MAX), "{largest:?} entries to be moved at once");
        }
        assert!((0..COUNT).all(|n| table.find(hash(n), |e| *e == n) == Some(n)));
        assert_eq!(table.find(hash(COUNT), |e| *e == COUNT), None);
        for n in 0..COUNT {
            assert_eq!(table.remove(hash(n), |e| *e == n, hash_of), Some(n));
            assert_eq!(table.remove(hash(n), |e| *e == n, hash_of), None);
            if n % 1000 == 0 {
                assert!((n + 1..COUNT).all(|n| table.find(hash(n), |e| *e == n) == Some(n)));
            }
        }
        assert!(table.is_empty() && table.segments.capacity() == 0);
    }

    #[test]
    fn entries_of_one_hash_are_told_apart() {
        let mut table: Table<u32> = Table::default();
        (0..10).for_each(|n| table.insert(5, n, |_| 5));
        assert_eq!(table.find(5, |e| *e == 9), Some(9));
        table.replace(5, |e| *e == 9, 20);
        assert_eq!(table.find(5, |e| *e == 9), None);
        assert_eq!(table.remove(5, |e| *e == 20, |_| 5), Some(20));
        assert_eq!(table.len(), 9);
    }
}

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
    /// Here, not behind a pointer: threads that change a small table in turn fetch its cache lines from each other.
    first: HashTable<E>,
    more: Vec<HashTable<E>>,
    len: usize,
}

impl<E> Default for Table<E> {
    fn default() -> Self {
        Table { first: HashTable::new(), more: Vec::new(), len: 0 }
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

    /// How many segments there are.
    fn segments(&self) -> usize {
        1 + self.more.len()
    }

    #[inline]
    fn segment(&self, number: usize) -> &HashTable<E> {
        if number == 0 { &self.first } else { &self.more[number - 1] }
    }

    #[inline]
    fn segment_mut(&mut self, number: usize) -> &mut HashTable<E> {
        if number == 0 { &mut self.first } else { &mut self.more[number - 1] }
    }

    /// The entry with this hash that is `same`; others with that hash or another may be asked about.
    #[inline]
    pub(crate) fn find(&self, hash: u32, same: impl FnMut(&E) -> bool) -> Option<E> {
        let spread = spread(hash);
        self.segment(segment_of(spread, self.segments())).find(spread, same).copied()
    }

    /// Puts an entry with the same hash in the place of one.
    pub(crate) fn replace(&mut self, hash: u32, same: impl FnMut(&E) -> bool, by: E) {
        let spread = spread(hash);
        if let Some(entry) = self.segment_mut(segment_of(spread, self.segments())).find_mut(spread, same) {
            *entry = by;
        }
    }

    /// Adds an entry that is not there.
    pub(crate) fn insert(&mut self, hash: u32, entry: E, hash_of: impl Fn(&E) -> u32) {
        let respread = |e: &E| spread(hash_of(e));
        if self.len >= self.segments() * ENTRIES_MAX {
            self.split(&respread);
        }
        let spread = spread(hash);
        self.segment_mut(segment_of(spread, self.segments())).insert_unique(spread, entry, respread);
        self.len += 1;
    }

    /// Takes out the entry with this hash that is `same`, if it is there.
    pub(crate) fn remove(
        &mut self,
        hash: u32,
        same: impl FnMut(&E) -> bool,
        hash_of: impl Fn(&E) -> u32,
    ) -> Option<E> {
        let respread = |e: &E| spread(hash_of(e));
        let spread = spread(hash);
        let segment = self.segment_mut(segment_of(spread, self.segments()));
        let (entry, _) = segment.find_entry(spread, same).ok()?.remove();
        if segment.capacity() > 64 && segment.len() < segment.capacity() / 8 {
            segment.shrink_to(segment.len() * 2, respread);
        }
        self.len -= 1;
        if self.len < self.segments() * ENTRIES_MAX / 4 {
            self.join(&respread);
        }
        Some(entry)
    }

    /// One more segment.
    fn split(&mut self, respread: &impl Fn(&E) -> u64) {
        self.more.push(HashTable::new());
        let count = self.segments();
        for entry in std::mem::take(self.segment_mut(sibling(count - 1))) {
            let spread = respread(&entry);
            self.segment_mut(segment_of(spread, count)).insert_unique(spread, entry, respread);
        }
    }

    /// One segment fewer.
    fn join(&mut self, respread: &impl Fn(&E) -> u64) {
        if self.len == 0 {
            (self.first, self.more) = (HashTable::new(), Vec::new());
        } else if let Some(last) = self.more.pop() {
            let into = sibling(self.segments());
            for entry in last {
                self.segment_mut(into).insert_unique(respread(&entry), entry, respread);
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
            let largest = (0..table.segments()).map(|at| table.segment(at).len()).max();
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
        assert!(table.is_empty() && table.first.capacity() + table.more.capacity() == 0);
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

//! Numbered places that are reused, in chunks of 64: growing moves nothing, empty chunks cost no memory, and
//! whoever goes over all that is there passes over what has gone 64 places at a time.

const CHUNK: u32 = 64;

/// The first chunk keeps memory for so many places: else one item that comes and goes again and again would be an
/// allocation each time, and one thread's to be given back by another.
const KEPT: usize = 4;

#[derive(Debug)]
struct Chunk<T> {
    /// Which places are taken.
    live: u64,
    items: Vec<T>,
}

impl<T> Default for Chunk<T> {
    fn default() -> Self {
        Chunk { live: 0, items: Vec::new() }
    }
}

/// See the module's head. What is taken out of a place is replaced by a default.
#[derive(Debug)]
pub(crate) struct Slots<T> {
    /// Here, not behind a pointer: threads that change a few places in turn fetch their cache lines from each other.
    first: Chunk<T>,
    more: Vec<Chunk<T>>,
    /// Chunks but the first with room, each once.
    roomy: Vec<u32>,
    len: usize,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Slots { first: Chunk::default(), more: Vec::new(), roomy: Vec::new(), len: 0 }
    }
}

impl<T: Default> Slots<T> {
    /// How many places are taken.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// One past the last place that may be taken.
    pub(crate) fn end(&self) -> u32 {
        (1 + self.more.len()) as u32 * CHUNK
    }

    /// Takes a place.
    pub(crate) fn insert(&mut self, item: T) -> u32 {
        let number = match self.roomy.last() {
            _ if self.first.live != u64::MAX => 0,
            Some(number) => *number,
            None => {
                self.more.push(Chunk::default());
                let number = self.more.len() as u32;
                self.roomy.push(number);
                number
            }
        };
        let chunk = if number == 0 { &mut self.first } else { &mut self.more[number as usize - 1] };
        let at = (!chunk.live).trailing_zeros();
        // Places are taken from the first on, so the first free one is in use already or the next.
        match chunk.items.get_mut(at as usize) {
            Some(place) => *place = item,
            None => chunk.items.push(item),
        }
        chunk.live |= 1 << at;
        if chunk.live == u64::MAX && number > 0 {
            self.roomy.pop();
        }
        self.len += 1;
        number * CHUNK + at
    }

    #[inline]
    fn chunk(&self, number: u32) -> Option<&Chunk<T>> {
        if number == 0 { Some(&self.first) } else { self.more.get(number as usize - 1) }
    }

    #[inline]
    fn chunk_mut(&mut self, number: u32) -> Option<&mut Chunk<T>> {
        if number == 0 { Some(&mut self.first) } else { self.more.get_mut(number as usize - 1) }
    }

    /// What is in a place.
    #[inline]
    pub(crate) fn get(&self, slot: u32) -> Option<&T> {
        let chunk = self.chunk(slot / CHUNK)?;
        if chunk.live >> (slot % CHUNK) & 1 == 0 {
            return None;
        }
        chunk.items.get((slot % CHUNK) as usize)
    }

    /// The same, to change.
    pub(crate) fn get_mut(&mut self, slot: u32) -> Option<&mut T> {
        let chunk = self.chunk_mut(slot / CHUNK)?;
        if chunk.live >> (slot % CHUNK) & 1 == 0 {
            return None;
        }
        chunk.items.get_mut((slot % CHUNK) as usize)
    }

    /// Empties a place.
    pub(crate) fn remove(&mut self, slot: u32) -> Option<T> {
        let item = std::mem::take(self.get_mut(slot)?);
        let number = slot / CHUNK;
        let chunk = self.chunk_mut(number)?;
        let was_full = chunk.live == u64::MAX;
        chunk.live &= !(1 << (slot % CHUNK));
        if chunk.live == 0 && (number > 0 || chunk.items.capacity() > KEPT) {
            chunk.items = Vec::new();
        }
        if was_full && number > 0 {
            self.roomy.push(number);
        }
        self.len -= 1;
        if self.len == 0 && !self.more.is_empty() {
            (self.more, self.roomy) = (Vec::new(), Vec::new());
        }
        Some(item)
    }

    /// The first taken place from `from` on, and how many chunks were looked at.
    pub(crate) fn next(&self, from: u32) -> (Option<u32>, u32) {
        let mut number = from / CHUNK;
        let mut mask = u64::MAX << (from % CHUNK);
        let mut looked = 0;
        while let Some(chunk) = self.chunk(number) {
            looked += 1;
            let live = chunk.live & mask;
            if live != 0 {
                return (Some(number * CHUNK + live.trailing_zeros()), looked);
            }
            number += 1;
            mask = u64::MAX;
        }
        (None, looked)
    }

    /// All that is there, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        let mut from = 0;
        std::iter::from_fn(move || {
            let slot = self.next(from).0?;
            from = slot + 1;
            Some((slot, self.get(slot)?))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_reused_and_passed_over() {
        let mut slots: Slots<u32> = Slots::default();
        let taken: Vec<u32> = (0..10_000).map(|n| slots.insert(n)).collect();
        assert!(taken.iter().zip(0..).all(|(slot, n)| slots.get(*slot) == Some(&n)));
        for slot in &taken[1..9_999] {
            assert_eq!(slots.remove(*slot), Some(*slot));
            assert_eq!(slots.remove(*slot), None);
        }
        assert_eq!(slots.iter().map(|(slot, _)| slot).collect::<Vec<_>>(), [0, 9_999]);
        assert_eq!(slots.next(1), (Some(9_999), 10_000 / 64 + 1));
        assert_eq!(slots.more.iter().chain([&slots.first]).filter(|c| c.items.capacity() > 0).count(), 2);
        for n in 0..9_998 {
            slots.insert(n);
        }
        assert!(slots.end() <= 10_048, "places are reused");
        let all: Vec<u32> = slots.iter().map(|(slot, _)| slot).collect();
        for slot in all {
            slots.remove(slot);
        }
        assert_eq!((slots.len(), slots.more.capacity()), (0, 0));
        assert!(slots.first.items.capacity() <= KEPT);
    }
}

//! What a peer has asserted: by its handles.

mod page;

use std::collections::{HashMap, hash_map};
use std::hash::Hash;

use foldhash::fast::RandomState;
use staunch_index::Stored;
use staunch_protocols::wire::Int;

use self::page::Page;
use super::membrane::Refs;
use crate::cap::Cap;
use crate::dataspace::Router;
use crate::gatekeeper::Asked;

/// One live assertion of the peer's.
pub(crate) enum Held {
    /// In the dataspace that the peer calls `oid`; refers to nothing else. 16 bytes.
    Plain { oid: u32, stored: Stored<Router> },
    /// Anything else.
    Full(Box<FullHeld>),
}

/// See [`Held::Full`].
pub(crate) struct FullHeld {
    pub(crate) target: Cap,
    pub(crate) what: What,
    pub(crate) refs: Refs,
}

/// What came of an assertion.
pub(crate) enum What {
    /// Decoded as the event with this number of its turn, and not applied yet.
    Pending(usize),
    /// The target's caveats dropped it, or the target takes no assertions.
    Nothing,
    /// In a dataspace.
    Stored(Stored<Router>),
    /// At another peer's entity, under this handle; whether it took capabilities along.
    Sent(u64, bool),
    /// A question at the gatekeeper.
    Resolve(Box<Asked>),
}

impl What {
    /// Bytes that are kept because of it, with those of packets that have not taken effect.
    pub(crate) fn kept_bytes(&self) -> usize {
        match self {
            What::Resolve(asked) => asked.kept_bytes,
            _ => 0,
        }
    }
}

/// The peer's handles. Small ones that lie close together, as counters make them, take 18 bytes each, and others some
/// 100 at most (see [`Page`]); a session with no more than [`FEW_MAX`] at a time needs no table.
#[derive(Default)]
pub(crate) struct Handles {
    /// What came while there was room here; in no order.
    few: Vec<(i64, Held)>,
    pages: HashMap<i64, Page, RandomState>,
    /// Boxed, as few sessions have any, and those that are idle are to be small.
    #[expect(clippy::box_collection)]
    big: Option<Box<HashMap<Int, Held, RandomState>>>,
    /// What is left of them in the end, from the first [`Handles::take_some`] on.
    leaving: Option<Box<Leaving>>,
    count: usize,
}

/// Tables that are being emptied, each passed through once.
struct Leaving {
    pages: hash_map::IntoIter<i64, Page>,
    big: hash_map::IntoIter<Int, Held>,
}

/// How many handles [`Handles::few`] holds.
const FEW_MAX: usize = 4;

impl Handles {
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    pub(crate) fn contains(&self, handle: &Int) -> bool {
        match handle {
            Int::Small(handle) => self.get(*handle).is_some(),
            big => self.big.as_ref().is_some_and(|table| table.contains_key(big)),
        }
    }

    fn get(&self, handle: i64) -> Option<&Held> {
        if let Some((_, held)) = self.few.iter().find(|(known, _)| *known == handle) {
            return Some(held);
        }
        let (page, slot) = page::place(handle);
        self.pages.get(&page)?.get(slot)
    }

    /// The value that a small handle stands for, and its target's oid, if it is [`Held::Plain`].
    pub(crate) fn plain(&self, handle: i64) -> Option<(u32, &Stored<Router>)> {
        match self.get(handle)? {
            Held::Plain { oid, stored } => Some((*oid, stored)),
            Held::Full(_) => None,
        }
    }

    /// Sets what a handle stands for, in place of what it stood for before.
    pub(crate) fn set(&mut self, handle: Int, held: Held) {
        let before = match handle {
            Int::Small(handle) => self.set_small(handle, held),
            big => self.big.get_or_insert_default().insert(big, held),
        };
        self.count += before.is_none() as usize;
    }

    fn set_small(&mut self, handle: i64, held: Held) -> Option<Held> {
        if let Some((_, known)) = self.few.iter_mut().find(|(known, _)| *known == handle) {
            return Some(std::mem::replace(known, held));
        }
        let (number, slot) = page::place(handle);
        if self.few.len() < FEW_MAX {
            let before = self.remove_from_page(number, slot);
            self.few.push((handle, held));
            return before;
        }
        match self.pages.entry(number) {
            hash_map::Entry::Occupied(mut page) => page.get_mut().set(slot, held),
            hash_map::Entry::Vacant(place) => {
                place.insert(Page::new(slot, held));
                None
            }
        }
    }

    pub(crate) fn remove(&mut self, handle: &Int) -> Option<Held> {
        let held = match handle {
            Int::Small(handle) => match self.few.iter().position(|(known, _)| known == handle) {
                Some(at) => self.few.swap_remove(at).1,
                None => {
                    let (number, slot) = page::place(*handle);
                    self.remove_from_page(number, slot)?
                }
            },
            big => {
                let table = self.big.as_mut()?;
                let held = table.remove(big)?;
                shrink(table);
                held
            }
        };
        self.count -= 1;
        Some(held)
    }

    fn remove_from_page(&mut self, number: i64, slot: u8) -> Option<Held> {
        if self.pages.is_empty() {
            return None;
        }
        let hash_map::Entry::Occupied(mut page) = self.pages.entry(number) else { return None };
        if !page.get().is_only(slot) {
            return page.get_mut().remove(slot);
        }
        let page = page.remove();
        shrink(&mut self.pages);
        match page {
            Page::One(_, held) => Some(held),
            _ => None,
        }
    }

    /// Takes out up to about `count_max` assertions, whichever come first, in the end: nothing is set any more.
    pub(crate) fn take_some(&mut self, count_max: usize) -> Vec<Held> {
        let mut taken: Vec<Held> = std::mem::take(&mut self.few).into_iter().map(|(_, held)| held).collect();
        let Handles { pages, big, leaving, .. } = self;
        let leaving = leaving.get_or_insert_with(|| {
            let big = big.take().map(|table| *table).unwrap_or_default();
            Box::new(Leaving { pages: std::mem::take(pages).into_iter(), big: big.into_iter() })
        });
        while taken.len() < count_max {
            if let Some((_, page)) = leaving.pages.next() {
                page.take(|_, held| taken.push(held));
            } else if let Some((_, held)) = leaving.big.next() {
                taken.push(held);
            } else {
                break;
            }
        }
        self.count -= taken.len();
        taken
    }
}

/// Gives back the room of a table that has become much too large for what is in it.
fn shrink<K: Eq + Hash, V>(table: &mut HashMap<K, V, RandomState>) {
    if table.len() < table.capacity() / 4 {
        // It is gone through again only after half of it has gone.
        table.shrink_to(2 * table.len());
    }
}

#[cfg(all(test, not(broker_loom)))]
mod tests {
    use super::*;

    /// Held, and told apart by what it stands for.
    fn held(number: usize) -> Held {
        let (target, refs) = (Cap::new(crate::cap::Entity::Inert), Refs::new());
        Held::Full(Box::new(FullHeld { target, what: What::Pending(number), refs }))
    }

    fn number(held: &Held) -> usize {
        match held {
            Held::Full(full) => match full.what {
                What::Pending(number) => number,
                _ => panic!("not what was held"),
            },
            Held::Plain { .. } => panic!("not what was held"),
        }
    }

    /// The `n`th that takes 9 bytes.
    fn big(n: u64) -> Int {
        let mut content = vec![1];
        content.extend_from_slice(&n.to_be_bytes());
        Int::from_content(&content)
    }

    /// What an assertion takes on average, the tables' part included, when these are there.
    fn bytes_each(handles: &Handles) -> usize {
        // So many places a table has at least; each takes a byte more.
        let places = handles.pages.capacity() * 8 / 7;
        let pages = handles.pages.values().map(Page::boxed_bytes).sum::<usize>();
        (places * (size_of::<(i64, Page)>() + 1) + pages) / handles.len()
    }

    #[test]
    fn handles_that_lie_apart_take_little() {
        const COUNT: i64 = 50_000;
        for (step, bytes_max) in
            [(1, 20), (2, 40), (4, 100), (5, 100), (6, 100), (7, 100), (16, 100), (31, 100), (1 << 20, 100)]
        {
            let mut handles = Handles::default();
            (0..COUNT).for_each(|n| handles.set(Int::Small(n * step), held(0)));
            let each = bytes_each(&handles);
            assert!(each <= bytes_max, "{step} apart: {each}");
        }
        // What has become sparse, too: each 31st is left, and then a few.
        let mut handles = Handles::default();
        (0..COUNT).for_each(|n| handles.set(Int::Small(n), held(0)));
        for left in [31, 31 << 6] {
            (0..COUNT).filter(|n| n % left != 0).for_each(|n| _ = handles.remove(&Int::Small(n)));
            let each = bytes_each(&handles);
            assert!(each <= 160, "each {left}th is left: {each}");
        }
        (0..COUNT as u64).for_each(|n| handles.set(big(n), held(0)));
        (5..COUNT as u64).for_each(|n| _ = handles.remove(&big(n)));
        let capacity = handles.big.as_ref().unwrap().capacity();
        assert!(capacity < 64, "{capacity}");
    }

    /// As many as a session's end meets: it would take minutes if each piece were looked for from the beginning.
    #[test]
    fn many_are_taken_out_in_pieces() {
        const COUNT: u64 = 500_000;
        let mut handles = Handles::default();
        for n in 0..COUNT {
            handles.set(big(n), held(0));
            handles.set(Int::Small(n as i64 * 100), held(0));
        }
        let mut taken = 0;
        while handles.len() > 0 {
            taken += handles.take_some(16).len();
        }
        assert_eq!(taken as u64, 2 * COUNT);
    }

    #[test]
    fn it_is_a_map() {
        let small = [0, 1, -1, 30, 31, -31, -32, 62, i64::MIN, i64::MAX].map(Int::Small);
        let close = (100..150).map(Int::Small);
        let keys: Vec<Int> = small.into_iter().chain(close).chain([big(0)]).collect();
        let (mut handles, mut model) = (Handles::default(), std::collections::HashMap::new());
        let mut random = 0x2545_f491_u64;
        for step in 0..100_000 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let key = &keys[(random >> 8) as usize % keys.len()];
            // More are set than removed for a while, and then the other way round.
            if (random % 8 < 5) == (step / 400 % 2 == 0) {
                handles.set(key.clone(), held(step));
                model.insert(key.clone(), step);
            } else {
                let removed = handles.remove(key).as_ref().map(number);
                assert_eq!(removed, model.remove(key));
            }
            assert_eq!(handles.len(), model.len());
            let Int::Small(small) = key else { continue };
            assert_eq!(handles.get(*small).map(number), model.get(key).copied());
            assert_eq!(handles.contains(key), model.contains_key(key));
        }
        let mut left = Vec::new();
        while handles.len() > 0 {
            left.extend(handles.take_some(1).iter().map(number));
        }
        left.sort_unstable();
        let mut expected: Vec<usize> = model.into_values().collect();
        expected.sort_unstable();
        assert_eq!(left, expected);
    }
}

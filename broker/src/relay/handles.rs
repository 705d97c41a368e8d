//! What a peer has asserted: by its handles.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use staunch_index::Stored;
use staunch_protocols::wire::Int;

use super::membrane::Refs;
use crate::cap::Cap;
use crate::dataspace::Router;

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
    /// At the gatekeeper: the value.
    Resolve(Box<[u8]>),
}

/// The peer's handles. Small ones that lie close together, as counters make them, take 18 bytes each; a session with no
/// more than [`FEW_MAX`] at a time needs no table.
#[derive(Default)]
pub(crate) struct Handles {
    /// What came while there was room here; in no order.
    few: Vec<(i64, Held)>,
    pages: HashMap<i64, Box<Page>, RandomState>,
    big: HashMap<Int, Held, RandomState>,
    count: usize,
}

/// How many handles [`Handles::few`] holds.
const FEW_MAX: usize = 4;
/// So that a page fills 504 of the 512 bytes that allocators give for it.
const PAGE: usize = 31;

#[derive(Default)]
struct Page {
    slots: [Option<Held>; PAGE],
    count: u8,
}

fn place(handle: i64) -> (i64, usize) {
    (handle.div_euclid(PAGE as i64), handle.rem_euclid(PAGE as i64) as usize)
}

impl Handles {
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    pub(crate) fn contains(&self, handle: &Int) -> bool {
        match handle {
            Int::Small(handle) => self.get(*handle).is_some(),
            big => self.big.contains_key(big),
        }
    }

    fn get(&self, handle: i64) -> Option<&Held> {
        if let Some((_, held)) = self.few.iter().find(|(known, _)| *known == handle) {
            return Some(held);
        }
        let (page, slot) = place(handle);
        self.pages.get(&page)?.slots[slot].as_ref()
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
            big => self.big.insert(big, held),
        };
        self.count += before.is_none() as usize;
    }

    fn set_small(&mut self, handle: i64, held: Held) -> Option<Held> {
        if let Some((_, known)) = self.few.iter_mut().find(|(known, _)| *known == handle) {
            return Some(std::mem::replace(known, held));
        }
        let (number, slot) = place(handle);
        if self.few.len() < FEW_MAX {
            let before = self.remove_from_page(number, slot);
            self.few.push((handle, held));
            return before;
        }
        let page = self.pages.entry(number).or_default();
        let before = page.slots[slot].replace(held);
        page.count += before.is_none() as u8;
        before
    }

    pub(crate) fn remove(&mut self, handle: &Int) -> Option<Held> {
        let held = match handle {
            Int::Small(handle) => match self.few.iter().position(|(known, _)| known == handle) {
                Some(at) => self.few.swap_remove(at).1,
                None => {
                    let (number, slot) = place(*handle);
                    self.remove_from_page(number, slot)?
                }
            },
            big => self.big.remove(big)?,
        };
        self.count -= 1;
        Some(held)
    }

    fn remove_from_page(&mut self, number: i64, slot: usize) -> Option<Held> {
        if self.pages.is_empty() {
            return None;
        }
        let page = self.pages.get_mut(&number)?;
        let held = page.slots[slot].take()?;
        page.count -= 1;
        if page.count == 0 {
            self.pages.remove(&number);
            if self.pages.is_empty() {
                self.pages.shrink_to_fit();
            }
        }
        Some(held)
    }

    /// Takes out up to about `count_max` assertions, whichever come first.
    pub(crate) fn take_some(&mut self, count_max: usize) -> Vec<Held> {
        let mut taken: Vec<Held> = std::mem::take(&mut self.few).into_iter().map(|(_, held)| held).collect();
        while taken.len() < count_max {
            if let Some(number) = self.pages.keys().next().copied() {
                if let Some(page) = self.pages.remove(&number) {
                    taken.extend(page.slots.into_iter().flatten());
                }
            } else if let Some(handle) = self.big.keys().next().cloned() {
                taken.extend(self.big.remove(&handle));
            } else {
                break;
            }
        }
        self.count -= taken.len();
        // Else the search for the first page would pass over ever more empty places.
        if self.pages.len() < self.pages.capacity() / 4 {
            self.pages.shrink_to_fit();
        }
        taken
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

    #[test]
    fn it_is_a_map() {
        let small = [0, 1, -1, 30, 31, -31, -32, 62, i64::MIN, i64::MAX].map(Int::Small);
        let big = Int::from_content(&[1, 0, 0, 0, 0, 0, 0, 0, 0]);
        let keys: Vec<Int> = small.into_iter().chain([big]).collect();
        let (mut handles, mut model) = (Handles::default(), std::collections::HashMap::new());
        let mut random = 0x2545_f491_u64;
        for step in 0..100_000 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let key = &keys[(random >> 8) as usize % keys.len()];
            // More are set than removed for a while, and then the other way round.
            if (random % 8 < 5) == (step / 50 % 2 == 0) {
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

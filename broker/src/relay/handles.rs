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

/// The peer's handles. Small ones that lie close together, as counters make them, take 17 bytes each.
#[derive(Default)]
pub(crate) struct Handles {
    pages: HashMap<i64, Box<Page>, RandomState>,
    big: HashMap<Int, Held, RandomState>,
    count: usize,
}

const PAGE: usize = 16;

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
            Int::Small(handle) => {
                let (page, slot) = place(*handle);
                self.pages.get(&page).is_some_and(|p| p.slots[slot].is_some())
            }
            big => self.big.contains_key(big),
        }
    }

    /// The value that a small handle stands for, and its target's oid, if it is [`Held::Plain`].
    pub(crate) fn plain(&self, handle: i64) -> Option<(u32, &Stored<Router>)> {
        let (page, slot) = place(handle);
        match self.pages.get(&page)?.slots[slot].as_ref()? {
            Held::Plain { oid, stored } => Some((*oid, stored)),
            Held::Full(_) => None,
        }
    }

    /// Sets what a handle stands for, in place of what it stood for before.
    pub(crate) fn set(&mut self, handle: Int, held: Held) {
        let before = match handle {
            Int::Small(handle) => {
                let (page, slot) = place(handle);
                let page = self.pages.entry(page).or_default();
                let before = page.slots[slot].replace(held);
                page.count += before.is_none() as u8;
                before
            }
            big => self.big.insert(big, held),
        };
        self.count += before.is_none() as usize;
    }

    pub(crate) fn remove(&mut self, handle: &Int) -> Option<Held> {
        let held = match handle {
            Int::Small(handle) => {
                let (number, slot) = place(*handle);
                let page = self.pages.get_mut(&number)?;
                let held = page.slots[slot].take()?;
                page.count -= 1;
                if page.count == 0 {
                    self.pages.remove(&number);
                    if self.pages.is_empty() {
                        self.pages.shrink_to_fit();
                    }
                }
                held
            }
            big => self.big.remove(big)?,
        };
        self.count -= 1;
        Some(held)
    }

    /// Takes out up to about `count_max` assertions, whichever come first.
    pub(crate) fn take_some(&mut self, count_max: usize) -> Vec<Held> {
        let mut taken = Vec::new();
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

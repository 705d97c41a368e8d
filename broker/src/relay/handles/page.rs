//! What goes by 31 handles that follow each other, in a form that fits how many of them there are.

use super::Held;

/// How many handles belong to a page: so that a [`Full`] one fills 504 of the 512 bytes that allocators give for it.
const PAGE: usize = 31;
/// How many a page of [`Few`] holds. From one more on a full one takes less than 100 bytes each, too.
const FEW_MAX: usize = 5;
/// With so many left a full page becomes one of few. Not at once below what made it full: who asserts and retracts in
/// turn shall not move all that is in it each time.
const FULL_MIN: u8 = 4;

/// Where a handle stands: its page, and the slot there.
pub(super) fn place(handle: i64) -> (i64, u8) {
    (handle.div_euclid(PAGE as i64), handle.rem_euclid(PAGE as i64) as u8)
}

/// See the module's head. It is never empty. 24 bytes, as it lies in a table.
pub(super) enum Page {
    One(u8, Held),
    Few(Box<Few>),
    Full(Box<Full>),
}

const _: () = assert!(size_of::<Page>() == 24 && size_of::<Few>() <= 88 && size_of::<Full>() <= 504);

/// Some, in no order, those that there are before the places that are free.
#[derive(Default)]
pub(super) struct Few {
    held: [Option<Held>; FEW_MAX],
    slots: [u8; FEW_MAX],
    count: u8,
}

/// Any number, each in its slot.
#[derive(Default)]
pub(super) struct Full {
    slots: [Option<Held>; PAGE],
    count: u8,
}

impl Page {
    /// One with this alone.
    pub(super) fn new(slot: u8, held: Held) -> Page {
        Page::One(slot, held)
    }

    pub(super) fn get(&self, slot: u8) -> Option<&Held> {
        match self {
            Page::One(known, held) => (*known == slot).then_some(held),
            Page::Few(few) => few.held[few.find(slot)?].as_ref(),
            Page::Full(full) => full.slots[slot as usize].as_ref(),
        }
    }

    /// Whether there is nothing but this.
    pub(super) fn is_only(&self, slot: u8) -> bool {
        matches!(self, Page::One(known, _) if *known == slot)
    }

    /// Sets what stands there, in place of what stood there before.
    pub(super) fn set(&mut self, slot: u8, held: Held) -> Option<Held> {
        match self {
            Page::One(known, before) if *known == slot => return Some(std::mem::replace(before, held)),
            Page::One(..) => self.change_to(Page::Few(Box::default())),
            Page::Few(few) => {
                if let Some(at) = few.find(slot) {
                    return few.held[at].replace(held);
                }
                if few.count as usize == FEW_MAX {
                    self.change_to(Page::Full(Box::default()));
                }
            }
            Page::Full(_) => {}
        }
        self.add(slot, held)
    }

    /// Takes out what stands there. There must be something else beside.
    pub(super) fn remove(&mut self, slot: u8) -> Option<Held> {
        match self {
            Page::One(..) => None,
            Page::Few(few) => {
                let held = few.swap_remove(few.find(slot)?);
                if few.count == 1 {
                    let last = few.held[0].take()?;
                    *self = Page::One(few.slots[0], last);
                }
                held
            }
            Page::Full(full) => {
                let held = full.slots[slot as usize].take()?;
                full.count -= 1;
                if full.count == FULL_MIN {
                    self.change_to(Page::Few(Box::default()));
                }
                Some(held)
            }
        }
    }

    /// Takes all out.
    pub(super) fn take(self, mut each: impl FnMut(u8, Held)) {
        match self {
            Page::One(slot, held) => each(slot, held),
            Page::Few(few) => {
                let Few { held, slots, .. } = *few;
                held.into_iter().zip(slots).for_each(|(held, slot)| _ = held.map(|held| each(slot, held)));
            }
            Page::Full(full) => {
                let slots = full.slots.into_iter().zip(0..);
                slots.for_each(|(held, slot)| _ = held.map(|held| each(slot, held)));
            }
        }
    }

    /// What it takes beside its place in a table.
    #[cfg(all(test, not(broker_loom)))]
    pub(super) fn boxed_bytes(&self) -> usize {
        match self {
            Page::One(..) => 0,
            Page::Few(few) => size_of_val(&**few),
            Page::Full(full) => size_of_val(&**full),
        }
    }

    /// Has the same in another form, an empty one with room for it.
    fn change_to(&mut self, other: Page) {
        std::mem::replace(self, other).take(|slot, held| _ = self.add(slot, held));
    }

    /// Sets what stands there, which has room. Returns what stood there before, if it is full.
    fn add(&mut self, slot: u8, held: Held) -> Option<Held> {
        match self {
            Page::One(known, before) => {
                *known = slot;
                Some(std::mem::replace(before, held))
            }
            Page::Few(few) => {
                let at = few.count as usize;
                few.slots[at] = slot;
                few.count += 1;
                few.held[at].replace(held)
            }
            Page::Full(full) => {
                let before = full.slots[slot as usize].replace(held);
                full.count += before.is_none() as u8;
                before
            }
        }
    }
}

impl Few {
    fn find(&self, slot: u8) -> Option<usize> {
        self.slots[..self.count as usize].iter().position(|known| *known == slot)
    }

    fn swap_remove(&mut self, at: usize) -> Option<Held> {
        self.count -= 1;
        let last = self.count as usize;
        self.held.swap(at, last);
        self.slots.swap(at, last);
        self.held[last].take()
    }
}

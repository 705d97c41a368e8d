//! A group's bag, whole or in stripes.
//!
//! Threads that assert what one group sees would wait for each other at one bag, whatever they assert. So a bag that is
//! large, or that threads have often waited for, is divided into *stripes* by the hash of the captures lists: equal
//! lists meet in one stripe, and others in most cases do not. A bag is not put together again; a group that goes takes
//! its stripes along.
//!
//! **Invariant:** a list is in the whole while there are no stripes, and in its stripe from then on. Stripes are made
//! under the lock of the whole, so who has locked the whole and finds none then may rely on there being none.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::utils::CachePadded;
use parking_lot::{Mutex, MutexGuard};
use smallvec::SmallVec;

use crate::bag::Bag;
use crate::purse::Purse;
use crate::value::Domain;

/// Into so many stripes a bag is divided. A power of two.
const STRIPES: usize = 16;

/// When a bag is to be divided: what comes first.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Due {
    /// Threads have waited for it so often.
    pub(crate) waits: u32,
    /// It has so many lists, against which stripes are small.
    pub(crate) lists: usize,
}

impl Default for Due {
    fn default() -> Due {
        // Sooner in tests, of whole brokers as well.
        if cfg!(debug_assertions) { Due { waits: 1, lists: 32 } } else { Due { waits: 128, lists: 1024 } }
    }
}

/// A bag of more is not divided, since all of them would move at once. One comes to more only while observers have yet
/// to be told of it.
const MOVED_LISTS_MAX: usize = 2048;

/// Padded: threads that change different parts must not share a cache line for it.
type Part<D> = CachePadded<Mutex<Bag<D>>>;

/// See the module's head.
pub(crate) struct Parts<D: Domain> {
    /// Empty, once there are stripes.
    whole: Part<D>,
    stripes: OnceLock<Box<[Part<D>]>>,
    /// The shard and slot (in the lower half) from where on assertions are not counted yet; [`FILLED`] in the end.
    /// Written by whoever fills it, under the lock of the shard that it names before; read under the lock of the
    /// shard asked about, which it does not pass meanwhile. Release and Acquire: who finds it filled finds what was
    /// put in.
    filling: AtomicU64,
}

/// All is counted.
const FILLED: u64 = u64::MAX;

impl<D: Domain> Default for Parts<D> {
    fn default() -> Self {
        Parts { whole: Part::default(), stripes: OnceLock::new(), filling: AtomicU64::new(place(0, 0)) }
    }
}

/// A place in the store as one number, in the order of shards and slots.
fn place(shard: u32, slot: u32) -> u64 {
    u64::from(shard) << 32 | u64::from(slot)
}

/// The stripe of a list with this hash. By its upper bits: the tables of the stripes draw on the lower ones.
#[inline]
pub(crate) fn stripe_of(hash: u32) -> u32 {
    hash >> (32 - STRIPES.trailing_zeros())
}

impl<D: Domain> Parts<D> {
    /// The number of the part in which lists of this stripe are: parts are locked in ascending order. It may change
    /// until it is locked, see [`Parts::settle`].
    #[inline]
    pub(crate) fn number(&self, stripe: u32) -> u32 {
        if self.stripes.get().is_some() { 1 + stripe } else { 0 }
    }

    /// The part with this number.
    #[inline]
    pub(crate) fn part(&self, number: u32) -> &Mutex<Bag<D>> {
        match self.stripes.get() {
            Some(stripes) if number > 0 => &stripes[number as usize - 1],
            _ => &self.whole,
        }
    }

    /// Whether lists are in this part, now that it is locked. Divides the whole if that is due.
    #[inline]
    pub(crate) fn settle(&self, number: u32, part: &mut Bag<D>, purse: &Purse<D>, due: Due) -> bool {
        if number > 0 {
            return true;
        }
        if self.stripes.get().is_some() {
            return false;
        }
        if part.len() < due.lists && part.waited < due.waits {
            return true;
        }
        !self.divide(part, purse)
    }

    /// Makes the stripes, unless too much would have to be moved, or observers have been told of the slots up to some.
    #[cold]
    fn divide(&self, whole: &mut Bag<D>, purse: &Purse<D>) -> bool {
        if whole.len() > MOVED_LISTS_MAX || whole.is_replayed() {
            return false;
        }
        let mut stripes: Vec<Bag<D>> = (0..STRIPES).map(|_| Bag::stripe(size_of::<Part<D>>())).collect();
        whole.move_out(purse, &mut stripes, |hash| stripe_of(hash) as usize);
        // If it is too much, whoever adds something next says so.
        stripes.iter_mut().for_each(|stripe| _ = stripe.pay(purse));
        self.stripes.set(stripes.into_iter().map(|stripe| Part::new(Mutex::new(stripe))).collect()).is_ok()
    }

    /// Locks the part in which a list with this hash is.
    pub(crate) fn lock(&self, hash: u32, purse: &Purse<D>, due: Due) -> MutexGuard<'_, Bag<D>> {
        loop {
            let number = self.number(stripe_of(hash));
            let mut part = self.part(number).lock();
            if self.settle(number, &mut part, purse, due) {
                return part;
            }
        }
    }

    /// All parts that may hold something. While the trie is locked for writing, or an observer has yet to be told of
    /// something, they remain these.
    pub(crate) fn each(&self) -> &[Part<D>] {
        self.stripes.get().map_or(std::slice::from_ref(&self.whole), |stripes| stripes)
    }

    /// Locks all of it, in order.
    pub(crate) fn lock_all(&self) -> SmallVec<[MutexGuard<'_, Bag<D>>; 1]> {
        let locked = self.each().iter().map(|part| part.lock()).collect::<SmallVec<[_; 1]>>();
        // The whole may have been divided before it was locked; stripes remain.
        if locked.len() == self.each().len() { locked } else { self.lock_again(locked) }
    }

    #[cold]
    fn lock_again(
        &self,
        whole: SmallVec<[MutexGuard<'_, Bag<D>>; 1]>,
    ) -> SmallVec<[MutexGuard<'_, Bag<D>>; 1]> {
        drop(whole);
        self.each().iter().map(|part| part.lock()).collect()
    }

    /// How far it has been filled from the store: a shard, and a slot of it; `None` once all is counted.
    pub(crate) fn filling(&self) -> Option<(u32, u32)> {
        // Acquire: pairs with the Release in set_filling.
        let at = self.filling.load(Ordering::Acquire);
        (at != FILLED).then_some(((at >> 32) as u32, at as u32))
    }

    /// It has been filled so far.
    pub(crate) fn set_filling(&self, at: Option<(u32, u32)>) {
        // Release: pairs with the Acquire in filling.
        self.filling.store(at.map_or(FILLED, |(shard, slot)| place(shard, slot)), Ordering::Release);
    }

    /// Whether an assertion at this place in the store has been counted, or is to be counted as it comes. The caller
    /// holds the shard's lock.
    #[inline]
    pub(crate) fn counts(&self, shard: u32, slot: u32) -> bool {
        // Relaxed: the shard's lock orders it with what was filled from this shard.
        place(shard, slot) < self.filling.load(Ordering::Relaxed)
    }
}

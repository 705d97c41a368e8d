//! What a new observer needs that is not there yet: made in small steps, while everybody else goes on.
//!
//! A new skeleton needs the stored values of its shape entered as its members: one pass over the store. A new
//! group needs its bag filled: one pass over those members that have its constants. Both passes remember how
//! far they came (a shard and a slot); turns that run meanwhile do the same to what they change: members are
//! sets, so entering twice is harmless; a bag counts only what lies before its cursor.

use std::sync::Arc;

use parking_lot::MutexGuard;
use staunch_protocols::wire::sort_key;

use crate::bag::{Bag, Reading};
use crate::commit::{Index, SHARDS, Scratch};
use crate::find::registers;
use crate::key::key_of;
use crate::pattern::{Loc, Pattern};
use crate::purse;
use crate::store::{Members, Shard};
use crate::trie::Group;
use crate::value::{Domain, Rescan, Stored};
use crate::{Captures, Overdrawn};

/// A new observer of a bag up to this size is told of it at once, in the total order of the captures; of a
/// larger one piece by piece, in the order of the bag.
pub(crate) const SORTED_MAX: usize = 512;

/// Unless their values are longer than this together, since all of it is scanned while nobody else can go on.
const SORTED_BYTES_MAX: usize = 1 << 20;

/// Places of a shard that are looked at under one hold of its lock.
const STEP: u32 = 64;

/// And bytes of values scanned meanwhile, but for the last value.
const STEP_BYTES: usize = 64 << 10;

/// A reserved place for one observer: to be advanced until it is ready, then handed over in an
/// [`crate::Action::Assert`] or to [`crate::Writer::cancel`].
pub struct Prepared<D: Domain> {
    pub(crate) group: Arc<Group<D>>,
    pub(crate) domain: u64,
    pub(crate) payer: D::Payer,
}

impl<D: Domain> Index<D> {
    /// Reserves a place for an observer with this pattern and handle domain. If the pattern's skeleton is new,
    /// `admit` is asked who is charged for it, and may refuse. It is told what the payer's skeletons that are like this one (for
    /// values of one label, for sequences, for dictionaries or for anything) come to with it, see [`Reader::effort`](crate::Reader::effort). What is kept for the observation may be `payer`'s to pay.
    /// Takes the exclusive lock for a moment.
    ///
    /// # Errors
    /// What `admit` refuses with.
    pub fn prepare<R>(
        &self,
        pattern: &Pattern,
        domain: u64,
        payer: D::Payer,
        admit: impl FnOnce(u64) -> Result<D::Owner, R>,
    ) -> Result<Prepared<D>, R> {
        let group = self.write().trie().reserve(pattern, domain, &payer, admit)?;
        Ok(Prepared { group, domain, payer })
    }

    /// Works on what a place lacks: looks at about `budget` stored values. Returns whether it is ready. Holds no
    /// lock for longer than a hundred values or so.
    ///
    /// # Errors
    /// If what it came to is more than its payer may have: it is to be cancelled.
    pub fn advance(
        &self,
        prepared: &Prepared<D>,
        budget: usize,
        scratch: &mut Scratch,
    ) -> Result<bool, Overdrawn> {
        let mut budget = budget as i64;
        let Prepared { group, payer, .. } = prepared;
        let is_ready =
            self.enter_members(group, &mut budget, scratch) && self.fill(group, &mut budget, scratch);
        // Not where it was charged: another's observation may have done that, or have this one pay for it since.
        purse::check([&group.purse, &group.members_purse], payer)?;
        Ok(is_ready)
    }

    fn enter_members(&self, group: &Group<D>, budget: &mut i64, scratch: &mut Scratch) -> bool {
        let skeleton = &group.skeleton;
        let mut building = skeleton.building.lock();
        while let Some((number, slot)) = *building {
            if *budget <= 0 {
                return false;
            }
            let mut shard = self.shards[number as usize].lock();
            let mut stop = slot;
            let mut bytes = 0;
            while stop < shard.end().min(slot + STEP) && bytes < STEP_BYTES {
                let at = stop;
                stop += 1;
                let Some(stored) = shard.get(at).cloned() else { continue };
                // Most values have another label, which their first bytes tell.
                if let Some((Loc::Root, class)) = skeleton.shape.first()
                    && !class.admits_bytes(stored.bytes())
                {
                    continue;
                }
                bytes += stored.bytes().len();
                let (value, finder) = scratch.rescan.open(stored.bytes());
                let Some(registers) = registers(&skeleton.shape, value, finder) else { continue };
                let key = key_of(&skeleton.constants, value, &registers, finder, &mut scratch.key);
                let Some(key) = key.map(|key| self.hash(key)) else { continue };
                let new = || Members::new(!skeleton.constants.is_empty());
                let members = shard.members.entry(skeleton.id).or_insert_with(new);
                members.insert(key, at);
                // advance() looks whether it may be so much.
                members.pay(&group.members_purse);
            }
            *budget -= i64::from(stop - slot) + 1;
            *building = next_place(number, stop, shard.end());
            // Fairly: who waits for the shard is not to wait for the rest of it.
            MutexGuard::unlock_fair(shard);
        }
        true
    }

    fn fill(&self, group: &Group<D>, budget: &mut i64, scratch: &mut Scratch) -> bool {
        let key = self.hash(&group.key);
        loop {
            // Whoever has the shard's lock goes on from there: look, lock the shard, look again.
            let Some((number, _)) = group.bag.filling() else { return true };
            if *budget <= 0 {
                return false;
            }
            let shard = self.shards[number as usize].lock();
            if let Some((same, slot)) = group.bag.filling()
                && same == number
            {
                let next = self.fill_some(group, key, slot, &shard, budget, scratch);
                group.bag.set_filling(match next {
                    Some(slot) => Some((number, slot)),
                    None => next_place(number, shard.end(), shard.end()),
                });
            }
            MutexGuard::unlock_fair(shard);
        }
    }

    /// Counts the next few members; the slot to go on from, if there are more in this shard.
    fn fill_some(
        &self,
        group: &Group<D>,
        key: u32,
        mut slot: u32,
        shard: &MutexGuard<'_, Shard<D>>,
        budget: &mut i64,
        scratch: &mut Scratch,
    ) -> Option<u32> {
        *budget -= 1;
        let members = shard.members.get(&group.skeleton.id)?;
        let mut bytes = 0;
        for _ in 0..STEP {
            if bytes >= STEP_BYTES {
                break;
            }
            let at = members.next(key, slot)?;
            slot = at + 1;
            *budget -= 1;
            if let Some(stored) = shard.get(at) {
                bytes += stored.bytes().len();
                self.count(group, stored, scratch);
            }
        }
        Some(slot)
    }

    fn count(&self, group: &Group<D>, stored: &Stored<D>, scratch: &mut Scratch) {
        let Scratch { key, rescan, rescan_bag, .. } = scratch;
        let (value, finder) = rescan.open(stored.bytes());
        let skeleton = &group.skeleton;
        let Some(registers) = registers(&skeleton.shape, value, finder) else { return };
        // Members share only a hash of the constants.
        if key_of(&skeleton.constants, value, &registers, finder, key) != Some(&*group.key) {
            return;
        }
        let mut captures = Captures::new();
        if group.plan.read(value, stored.bytes(), &registers, finder, &mut captures) {
            let hash = self.hash_captures(&captures);
            let mut bag = group.bag.lock(hash, &group.purse, self.due);
            bag.add(&group.reading(), &captures, hash, stored, rescan_bag, |count| self.next_handles(count));
            // advance() looks whether it may be so much.
            bag.pay(&group.purse);
        }
    }
}

fn next_place(shard: u32, stop: u32, end: u32) -> Option<(u32, u32)> {
    if stop < end { Some((shard, stop)) } else { (shard as usize + 1 < SHARDS).then_some((shard + 1, 0)) }
}

/// Whether what is in a bag (its parts) is told at once.
pub(crate) fn is_small<D: Domain>(parts: &[MutexGuard<'_, Bag<D>>], lists_max: usize) -> bool {
    parts.iter().map(|bag| bag.len()).sum::<usize>() <= lists_max
        && parts.iter().flat_map(|bag| bag.iter()).map(|(_, _, from)| from.bytes().len()).sum::<usize>()
            <= SORTED_BYTES_MAX
}

/// Tells of everything in the parts of a small bag, in the total order of the captures lists.
pub(crate) fn sorted<D: Domain>(
    parts: &[MutexGuard<'_, Bag<D>>],
    reading: &Reading<'_>,
    scratch: &mut Scratch,
    mut tell: impl FnMut(u64, &Captures<'_>, &Stored<D>),
) {
    let Scratch { rescan, rescan_bag, .. } = scratch;
    let mut lists: Vec<(Vec<u8>, u64, &Stored<D>)> = parts
        .iter()
        .flat_map(|bag| bag.iter())
        .map(|(_, handle, from)| {
            let captures = reading.captures_of(from, rescan_bag);
            (order(&captures, rescan), handle, from)
        })
        .collect();
    lists.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    for (_, handle, from) in lists {
        tell(handle, &reading.captures_of(from, rescan_bag), from);
    }
}

/// The sort key of a captures list.
fn order(captures: &[&[u8]], rescan: &mut Rescan) -> Vec<u8> {
    let mut key = Vec::new();
    for part in captures {
        sort_key(rescan.view(part), &mut key);
    }
    // A shorter list that is a prefix of a longer one does not occur: lists of one group have one length.
    key
}

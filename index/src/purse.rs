//! Who pays for what observations make the index keep: the lists in a group's bag, the members of a skeleton.
//!
//! Observers share a bag, and so do the observers of a skeleton its members; one [`Payer`] of those who are there
//! pays for all of it. When the last observer of that payer's goes, another takes its place: so there is always
//! somebody who could be told to stop.
//!
//! What is kept changes with each assertion, and a payer's count is one cache line for all that it pays for. So a
//! bag (or the members in a shard) is *covered* ahead, in steps that grow with it, and what falls free is kept until
//! it is two steps: then most changes, and all that go up and down, touch no more than the bag itself.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use parking_lot::Mutex;

use crate::roster::Observer;
use crate::value::{Domain, Payer};
use crate::{Overdrawn, Sink};

/// So many members of a skeleton weigh as one captures list does (8 bytes each, or fewer, to some 31).
pub(crate) const MEMBERS_PER_LIST: u64 = 4;

/// Payers by their numbers, with how many observers each has.
type Others<P> = HashMap<u64, (P, u32), RandomState>;

/// Those who hold something, of whom one answers for it.
pub(crate) struct Holders<P> {
    /// Who answers, by what name, and how often it holds.
    answering: (u64, P, u32),
    #[allow(clippy::box_collection)] // 8 bytes where there is none, as in most.
    others: Option<Box<Others<P>>>,
}

impl<P: Clone> Holders<P> {
    /// One that nobody holds, and for which `first` is to answer.
    pub(crate) fn new(name: u64, first: P) -> Holders<P> {
        Holders { answering: (name, first, 0), others: None }
    }

    /// Who answers.
    pub(crate) fn answering(&self) -> &P {
        &self.answering.1
    }

    /// One more is held in this name.
    pub(crate) fn join(&mut self, name: u64, who: &P) {
        if self.answering.0 == name {
            self.answering.2 += 1;
            return;
        }
        let others = self.others.get_or_insert_default();
        others.entry(name).or_insert_with(|| (who.clone(), 0)).1 += 1;
    }

    /// One fewer is. Returns who answered before, if it holds nothing now and another answers.
    pub(crate) fn leave(&mut self, name: u64) -> Option<P> {
        if self.answering.0 == name {
            self.answering.2 = self.answering.2.saturating_sub(1);
            if self.answering.2 > 0 {
                return None;
            }
            let next = self.others.as_ref()?.keys().next().copied()?;
            let (who, count) = self.take_other(next)?;
            return Some(std::mem::replace(&mut self.answering, (next, who, count)).1);
        }
        let (_, count) = self.others.as_mut()?.get_mut(&name)?;
        *count -= 1;
        if *count == 0 {
            self.take_other(name);
        }
        None
    }

    fn take_other(&mut self, name: u64) -> Option<(P, u32)> {
        let others = self.others.as_mut()?;
        let taken = others.remove(&name);
        if others.is_empty() {
            self.others = None;
        } else if others.capacity() > 64 && others.len() < others.capacity() / 8 {
            // Finding the next one goes over what is empty, too.
            others.shrink_to_fit();
        }
        taken
    }
}

/// What is paid for together. Its lock is the innermost of the index: it is held for counting alone.
pub(crate) struct Purse<D: Domain>(Mutex<State<D>>);

struct State<D: Domain> {
    /// By their payers' numbers.
    holders: Holders<D::Payer>,
    /// What the one who answers has been charged.
    charged: u64,
}

impl<D: Domain> Purse<D> {
    /// One that nobody has joined, to be paid for by `payer`.
    pub(crate) fn new(payer: D::Payer) -> Purse<D> {
        Purse(Mutex::new(State { holders: Holders::new(payer.number(), payer), charged: 0 }))
    }

    /// One of this payer's comes.
    pub(crate) fn join(&self, payer: &D::Payer) {
        self.0.lock().holders.join(payer.number(), payer);
    }

    /// One of this payer's goes.
    pub(crate) fn leave(&self, payer: &D::Payer) {
        let state = &mut *self.0.lock();
        if let Some(before) = state.holders.leave(payer.number()) {
            before.give_back(state.charged);
            state.holders.answering().take(state.charged);
        }
    }

    /// The number of who pays.
    fn payer(&self) -> u64 {
        self.0.lock().holders.answering().number()
    }

    /// Whether this payer pays, and more than it may.
    fn is_overdrawn_by(&self, payer: &D::Payer) -> bool {
        let state = self.0.lock();
        let paying = state.holders.answering();
        state.charged > 0 && paying.number() == payer.number() && paying.is_overdrawn()
    }

    /// Tells of those who observe what is too much for the payer, and are the payer's.
    #[cold]
    pub(crate) fn tell_overdrawn<'o>(
        &self,
        observers: impl Iterator<Item = &'o Observer<D>>,
        sink: &mut impl Sink<D>,
    ) {
        let number = self.payer();
        observers.filter(|o| o.payer.number() == number).for_each(|o| sink.overdrawn(&o.payer));
    }

    /// Charges the payer; whether it may have so much.
    fn take(&self, lists: u64) -> bool {
        let state = &mut *self.0.lock();
        state.charged += lists;
        let payer = state.holders.answering();
        payer.take(lists);
        !payer.is_overdrawn()
    }

    fn give_back(&self, lists: u64) {
        let state = &mut *self.0.lock();
        state.charged -= lists;
        state.holders.answering().give_back(lists);
    }
}

impl<D: Domain> Drop for Purse<D> {
    fn drop(&mut self) {
        let state = self.0.get_mut();
        state.holders.answering().give_back(state.charged);
    }
}

/// For how many lists a bag, or the members in a shard, is paid.
#[derive(Debug, Default)]
pub(crate) struct Cover(u64);

/// How much is paid for at a time by one that holds so many.
fn step(lists: u64) -> u64 {
    (lists / 8).clamp(8, 1024)
}

impl Cover {
    /// There are `lists` now. Returns whether the payer may have so many; if not, it is charged for them all the same.
    #[inline]
    pub(crate) fn grow<D: Domain>(&mut self, lists: u64, purse: &Purse<D>) -> bool {
        lists <= self.0 || self.take(lists, purse)
    }

    #[cold]
    fn take<D: Domain>(&mut self, lists: u64, purse: &Purse<D>) -> bool {
        let more = (lists - self.0).max(step(lists));
        self.0 += more;
        purse.take(more)
    }

    /// There are only `lists` now.
    #[inline]
    pub(crate) fn shrink<D: Domain>(&mut self, lists: u64, purse: &Purse<D>) {
        let spare = step(lists);
        if self.0 > lists + 2 * spare {
            purse.give_back(self.0 - lists - spare);
            self.0 = lists + spare;
        }
    }

    /// There is nothing any more, and will not be.
    pub(crate) fn release<D: Domain>(&mut self, purse: &Purse<D>) {
        purse.give_back(std::mem::take(&mut self.0));
    }
}

/// An error if either of these has come to more than its payer, if it is this one, may have.
pub(crate) fn check<D: Domain>(purses: [&Purse<D>; 2], payer: &D::Payer) -> Result<(), Overdrawn> {
    if purses.iter().any(|purse| purse.is_overdrawn_by(payer)) { Err(Overdrawn) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::value::tests::To;

    struct Paying;

    impl Domain for Paying {
        type Endpoint = To;
        type Extra = ();
        type Owner = ();
        type Payer = Named;
    }

    #[derive(Clone)]
    struct Named(u64, Arc<AtomicU64>);

    impl Payer for Named {
        fn number(&self) -> u64 {
            self.0
        }
        fn holder(&self) -> u64 {
            self.0
        }
        fn take(&self, lists: u64) {
            self.1.fetch_add(lists, Ordering::Relaxed);
        }
        fn give_back(&self, lists: u64) {
            self.1.fetch_sub(lists, Ordering::Relaxed);
        }
        fn is_overdrawn(&self) -> bool {
            self.1.load(Ordering::Relaxed) > 1000
        }
    }

    fn named(number: u64) -> Named {
        Named(number, Arc::default())
    }

    fn charged(of: &Named) -> u64 {
        of.1.load(Ordering::Relaxed)
    }

    #[test]
    fn what_is_paid_is_what_is_there_and_little_more() {
        let one = named(1);
        let purse: Purse<Paying> = Purse::new(one.clone());
        purse.join(&one);
        let (mut cover, mut steps, mut before) = (Cover::default(), 0, 0);
        let up = (1..=5000).chain((4990..5010).cycle().take(10_000)).chain(4000..=6000);
        for lists in up.chain((0..6000).rev()) {
            let is_within = cover.grow(lists, &purse);
            assert_eq!(
                is_within || charged(&one) == before,
                charged(&one) <= 1000 || charged(&one) == before
            );
            cover.shrink(lists, &purse);
            assert!(lists <= charged(&one) && charged(&one) <= lists + 2 * step(lists), "{lists}");
            steps += usize::from(charged(&one) != before);
            before = charged(&one);
        }
        assert!(steps < 250, "{steps}");
        cover.release(&purse);
        assert_eq!(charged(&one), 0);
    }

    #[test]
    fn one_who_is_there_pays() {
        let payers: Vec<Named> = (0..300).map(named).collect();
        let purse: Purse<Paying> = Purse::new(payers[0].clone());
        payers.iter().for_each(|payer| (0..2).for_each(|_| purse.join(payer)));
        let mut cover = Cover::default();
        assert!(cover.grow(700, &purse));
        let total = charged(&payers[0]);
        for _ in 0..300 {
            let paying: Vec<&Named> = payers.iter().filter(|payer| charged(payer) > 0).collect();
            assert_eq!((paying.len(), charged(paying[0]), paying[0].0), (1, total, purse.payer()));
            (0..2).for_each(|_| purse.leave(paying[0]));
        }
        drop(purse);
        assert!(payers.iter().all(|payer| charged(payer) == 0));
    }
}

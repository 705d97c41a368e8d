//! Who is in a group, and which lanes a handle domain is in: found without a scan however many there are.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use smallvec::SmallVec;

use crate::value::{Domain, Endpoint};

/// One subscription.
pub(crate) struct Observer<D: Domain> {
    pub(crate) id: u64,
    pub(crate) endpoint: D::Endpoint,
    pub(crate) payer: D::Payer,
}

/// Observers that get the same of a message.
pub struct Observers<'a, D: Domain> {
    pub(crate) group: u64,
    pub(crate) observers: &'a [Observer<D>],
}

impl<'a, D: Domain> Observers<'a, D> {
    /// Where their events go.
    #[inline]
    pub fn iter(&self) -> impl Iterator<Item = &'a D::Endpoint> + use<'a, D> {
        self.observers.iter().map(|o| &o.endpoint)
    }

    /// How many they are.
    #[inline]
    pub fn count(&self) -> usize {
        self.observers.len()
    }

    /// A number of their group's own. Who is in it does not change while a [`crate::Reader`] is held.
    #[inline]
    pub fn group(&self) -> u64 {
        self.group
    }
}

/// Up to so many are scanned.
const SCAN_MAX: usize = 16;

/// The place of a domain in a [`Roster`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Observer(u32),
    Reserved(u32),
}

/// The observers in a group, and the domains of those about to come.
///
/// **Invariant:** no domain is there twice.
pub(crate) struct Roster<D: Domain> {
    observers: Vec<Observer<D>>,
    reserved: SmallVec<[u64; 1]>,
    /// By domain, once there are more than [`SCAN_MAX`].
    #[allow(clippy::box_collection)] // 8 bytes where there is none, as in most.
    by_domain: Option<Box<HashMap<u64, At, RandomState>>>,
}

impl<D: Domain> Roster<D> {
    /// One that holds a reservation.
    pub(crate) fn reserved(domain: u64) -> Roster<D> {
        Roster { observers: Vec::new(), reserved: SmallVec::from_elem(domain, 1), by_domain: None }
    }

    /// Those who are there.
    #[inline(always)]
    pub(crate) fn observers(&self) -> &[Observer<D>] {
        &self.observers
    }

    /// Whether nobody is there or about to come.
    pub(crate) fn is_empty(&self) -> bool {
        self.observers.is_empty() && self.reserved.is_empty()
    }

    /// Whether somebody of this domain is there or about to come.
    pub(crate) fn contains(&self, domain: u64) -> bool {
        self.find(domain).is_some()
    }

    fn find(&self, domain: u64) -> Option<At> {
        if let Some(map) = &self.by_domain {
            return map.get(&domain).copied();
        }
        let observer = self.observers.iter().position(|o| o.endpoint.handle_domain() == domain);
        let reserved = || self.reserved.iter().position(|d| *d == domain);
        observer.map(|at| At::Observer(at as u32)).or_else(|| Some(At::Reserved(reserved()? as u32)))
    }

    fn note(&mut self, domain: u64, at: At) {
        if let Some(map) = &mut self.by_domain {
            map.insert(domain, at);
        } else if self.observers.len() + self.reserved.len() > SCAN_MAX {
            let observers = self.observers.iter().map(|o| o.endpoint.handle_domain()).zip(0..);
            let reserved = self.reserved.iter().copied().zip(0..);
            let all = observers.map(|(domain, at)| (domain, At::Observer(at)));
            let all = all.chain(reserved.map(|(domain, at)| (domain, At::Reserved(at))));
            self.by_domain = Some(Box::new(all.collect()));
        }
    }

    /// Keeps a place for somebody of this domain, who is not there.
    pub(crate) fn reserve(&mut self, domain: u64) {
        debug_assert!(!self.contains(domain), "one of each domain");
        self.reserved.push(domain);
        self.note(domain, At::Reserved(self.reserved.len() as u32 - 1));
    }

    /// Takes the place that was reserved.
    pub(crate) fn join(&mut self, observer: Observer<D>) {
        let domain = observer.endpoint.handle_domain();
        self.cancel(domain);
        self.observers.push(observer);
        self.note(domain, At::Observer(self.observers.len() as u32 - 1));
    }

    /// Has another pay for an observer.
    pub(crate) fn repay(&mut self, domain: u64, id: u64, payer: &D::Payer) {
        let Some(At::Observer(at)) = self.find(domain) else { return };
        if let Some(observer) = self.observers.get_mut(at as usize).filter(|o| o.id == id) {
            observer.payer = payer.clone();
        }
    }

    /// Gives a reservation up.
    pub(crate) fn cancel(&mut self, domain: u64) {
        let Some(At::Reserved(at)) = self.find(domain) else { return };
        self.reserved.swap_remove(at as usize);
        let moved = self.reserved.get(at as usize).copied();
        self.forget(domain, moved.map(|domain| (domain, At::Reserved(at))));
    }

    /// Takes an observer out.
    pub(crate) fn leave(&mut self, domain: u64, id: u64) -> Option<Observer<D>> {
        let Some(At::Observer(at)) = self.find(domain) else { return None };
        if self.observers[at as usize].id != id {
            return None;
        }
        let gone = self.observers.swap_remove(at as usize);
        let moved = self.observers.get(at as usize).map(|o| o.endpoint.handle_domain());
        self.forget(domain, moved.map(|domain| (domain, At::Observer(at))));
        Some(gone)
    }

    /// After one has gone and another may have taken its place in the list.
    fn forget(&mut self, domain: u64, moved: Option<(u64, At)>) {
        let Some(map) = &mut self.by_domain else { return };
        map.remove(&domain);
        if let Some((domain, at)) = moved {
            map.insert(domain, at);
        }
        if map.len() <= SCAN_MAX / 2 {
            self.by_domain = None;
            self.observers.shrink_to_fit();
            self.reserved.shrink_to_fit();
        }
    }
}

/// The lanes that one domain is in: `0..next` but for those in `free`.
#[derive(Debug)]
struct Taken {
    next: u32,
    free: Vec<u32>,
}

/// Which lanes domains are in that are in more than lane 0. A domain that is not listed is in lane 0 or in none.
#[derive(Debug, Default)]
#[allow(clippy::box_collection)] // 8 bytes where there is none, as in most.
pub(crate) struct Lanes(Option<Box<HashMap<u64, Taken, RandomState>>>);

impl Lanes {
    /// A lane for one more of this domain.
    pub(crate) fn take(&mut self, domain: u64, is_in_first: bool) -> u32 {
        if let Some(taken) = self.0.as_mut().and_then(|map| map.get_mut(&domain)) {
            return taken.free.pop().unwrap_or_else(|| {
                taken.next += 1;
                taken.next - 1
            });
        }
        if !is_in_first {
            return 0;
        }
        let map = self.0.get_or_insert_default();
        map.insert(domain, Taken { next: 2, free: Vec::new() });
        1
    }

    /// One of this domain leaves a lane.
    pub(crate) fn give(&mut self, domain: u64, lane: u32) {
        let Some(map) = &mut self.0 else { return };
        let Some(taken) = map.get_mut(&domain) else { return };
        taken.free.push(lane);
        if taken.free.len() == taken.next as usize {
            map.remove(&domain);
            if map.is_empty() {
                self.0 = None;
            }
        }
    }
}

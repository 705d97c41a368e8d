//! From an epoll token to the task it stands for.
//!
//! A token is the number of a slot and the slot's generation, which grows each time that the slot is vacated. An event
//! that a worker fetched just before the registration was closed thus finds a different generation, not somebody
//! else's task.

use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::Task;

/// Slots in the first bucket; each further bucket holds as many as all before it together.
const FIRST_SLOTS: usize = 64;
/// Enough for 2^30 slots.
const BUCKETS: usize = 25;

/// The tasks that wait for readiness, by token.
///
/// Cost: a look-up takes one uncontended lock (each slot has its own, on a cache line of its own) and no allocation.
/// Memory: 64 bytes per slot, never returned: as many slots as there ever were registrations at once, at most doubled.
pub(super) struct Registry<L: 'static> {
    buckets: [OnceLock<Box<[Slot<L>]>>; BUCKETS],
    free: Mutex<Free>,
}

#[derive(Default)]
struct Free {
    vacated: Vec<u32>,
    /// Slots from here on were never used.
    fresh: u32,
}

#[repr(align(64))]
struct Slot<L: 'static> {
    inner: Mutex<Inner<L>>,
}

struct Inner<L: 'static> {
    /// How often the slot was vacated. Wraps after 2^32 times; an event would have to be in a worker's hands for that
    /// long to be mistaken.
    generation: u32,
    task: Option<Arc<dyn Task<L>>>,
}

impl<L: 'static> Registry<L> {
    pub(super) fn new() -> Registry<L> {
        Registry { buckets: [const { OnceLock::new() }; BUCKETS], free: Mutex::new(Free::default()) }
    }

    /// Stores a task and returns its token, whose upper bit is clear.
    ///
    /// # Panics
    /// Beyond 2^30 tasks.
    pub(super) fn insert(&self, task: Arc<dyn Task<L>>) -> u64 {
        let index = {
            let mut free = self.free.lock();
            free.vacated.pop().unwrap_or_else(|| {
                free.fresh += 1;
                free.fresh - 1
            })
        };
        let mut inner = self.slot_or_new(index).inner.lock();
        assert!(inner.task.is_none(), "a vacated slot is empty");
        inner.task = Some(task);
        u64::from(inner.generation & (u32::MAX >> 1)) << 32 | u64::from(index)
    }

    /// The task of a token, unless it was removed.
    #[inline]
    pub(super) fn get(&self, token: u64) -> Option<Arc<dyn Task<L>>> {
        let inner = self.slot(token as u32)?.inner.lock();
        if !inner.is(token) {
            return None;
        }
        inner.task.clone()
    }

    /// Removes a token's task, and returns it so that it is dropped by the caller, not under the lock.
    pub(super) fn remove(&self, token: u64) -> Option<Arc<dyn Task<L>>> {
        let index = token as u32;
        let task = {
            let mut inner = self.slot(index)?.inner.lock();
            if !inner.is(token) {
                return None;
            }
            inner.generation = inner.generation.wrapping_add(1);
            inner.task.take()
        };
        // After the slot is vacant, so that whoever is given it finds it so.
        self.free.lock().vacated.push(index);
        task
    }

    /// Removes all tasks; tokens stay with whoever has them and find nothing.
    pub(super) fn clear(&self) {
        for slot in self.buckets.iter().filter_map(OnceLock::get).flatten() {
            let task = slot.inner.lock().task.take();
            drop(task);
        }
    }

    fn slot(&self, index: u32) -> Option<&Slot<L>> {
        let (bucket, offset) = place(index);
        self.buckets.get(bucket)?.get()?.get(offset)
    }

    fn slot_or_new(&self, index: u32) -> &Slot<L> {
        let (bucket, offset) = place(index);
        assert!(bucket < BUCKETS, "too many registrations");
        let slots = self.buckets[bucket].get_or_init(|| {
            let new = || Slot { inner: Mutex::new(Inner { generation: 0, task: None }) };
            std::iter::repeat_with(new).take(bucket_slots(bucket)).collect()
        });
        &slots[offset]
    }
}

impl<L: 'static> Inner<L> {
    fn is(&self, token: u64) -> bool {
        u64::from(self.generation & (u32::MAX >> 1)) == token >> 32
    }
}

fn bucket_slots(bucket: usize) -> usize {
    FIRST_SLOTS << bucket.saturating_sub(1)
}

/// Bucket and offset of a slot: 0..64, 64..128, 128..256, 256..512 and so on.
fn place(index: u32) -> (usize, usize) {
    let index = index as usize;
    if index < FIRST_SLOTS {
        return (0, index);
    }
    let bucket = (index / FIRST_SLOTS).ilog2() as usize + 1;
    (bucket, index - bucket_slots(bucket))
}

#[cfg(all(test, not(broker_loom)))]
mod tests {
    use super::*;
    use crate::schedule::{Outcome, Ready, TaskState, Worker};

    struct Idler(TaskState);

    impl Task for Idler {
        fn state(&self) -> &TaskState {
            &self.0
        }
        fn run(self: Arc<Self>, _: Ready, _: &mut Worker<()>) -> Outcome {
            Outcome::Idle
        }
    }

    fn task() -> Arc<dyn Task> {
        Arc::new(Idler(TaskState::new()))
    }

    #[test]
    fn every_index_has_a_place_of_its_own() {
        let mut expected = (0, 0);
        for index in 0..100_000 {
            assert_eq!(place(index), expected, "{index}");
            expected.1 += 1;
            if expected.1 == bucket_slots(expected.0) {
                expected = (expected.0 + 1, 0);
            }
        }
        assert_eq!(place((1 << 30) - 1), (BUCKETS - 1, bucket_slots(BUCKETS - 1) - 1));
    }

    #[test]
    fn a_stale_token_finds_nothing() {
        let registry = Registry::new();
        let tokens: Vec<u64> = (0..1000).map(|_| registry.insert(task())).collect();
        let first = registry.get(tokens[3]).unwrap();
        assert!(Arc::ptr_eq(&registry.remove(tokens[3]).unwrap(), &first));
        assert!(registry.remove(tokens[3]).is_none());
        let successor = registry.insert(task());
        assert_eq!(successor as u32, tokens[3] as u32, "the slot is used again");
        assert!(registry.get(tokens[3]).is_none());
        assert!(registry.get(successor).is_some());
        assert!(registry.get(u64::MAX).is_none());
        registry.clear();
        assert!(tokens.iter().all(|&token| registry.get(token).is_none()));
    }

    #[test]
    fn a_generation_may_wrap() {
        let registry = Registry::new();
        let token = registry.insert(task());
        registry.slot(0).unwrap().inner.lock().generation = u32::MAX;
        assert!(registry.remove(token).is_none());
        assert!(registry.remove(u64::from(u32::MAX >> 1) << 32).is_some());
        let next = registry.insert(task());
        assert_eq!(next >> 32, 0);
        assert!(registry.get(next).is_some());
    }
}

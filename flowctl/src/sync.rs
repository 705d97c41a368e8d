//! The synchronisation types of this crate: std's, or loom's under the private cfg `flowctl_loom`.
//!
//! Every module takes its atomics and its mutex from here and never knows which it got. Reference
//! counts stay std's in both builds: nothing here depends on their orderings, and loom has no weak
//! reference.

pub(crate) use std::sync::{Arc, Weak};

#[cfg(flowctl_loom)]
pub(crate) use loom::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU64, Ordering, fence},
};
#[cfg(not(flowctl_loom))]
pub(crate) use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU64, Ordering, fence},
};

use std::sync::PoisonError;

/// Locks `mutex`, also after a panic of a former holder: no critical section of this crate calls
/// foreign code, hence none can leave its data half changed.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

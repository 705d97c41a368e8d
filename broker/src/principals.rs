//! Who connections belong to, and what each may have.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::DashMap;

/// What one principal holds, beside its debts.
#[derive(Default)]
pub(crate) struct Holdings {
    /// Skeletons that exist because of it. Relaxed throughout: a bound, nothing is published by it.
    skeletons: AtomicU64,
}

/// Holdings by the principal's name.
#[derive(Default)]
pub(crate) struct Principals(DashMap<Box<str>, Arc<Holdings>>);

impl Principals {
    pub(crate) fn get(&self, name: &str) -> Arc<Holdings> {
        if let Some(known) = self.0.get(name) {
            return known.clone();
        }
        self.0.entry(name.into()).or_default().clone()
    }
}

/// Held by a skeleton: a place in its maker's allowance, given back on drop.
pub(crate) struct SkeletonShare(Arc<Holdings>);

impl SkeletonShare {
    /// Takes a place, if there is one.
    ///
    /// # Errors
    /// The limit, if it is reached.
    pub(crate) fn take(holdings: &Arc<Holdings>, skeletons_max: u64) -> Result<SkeletonShare, u64> {
        let taken = holdings
            .skeletons
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < skeletons_max).then_some(n + 1));
        match taken {
            Ok(_) => Ok(SkeletonShare(holdings.clone())),
            Err(_) => Err(skeletons_max),
        }
    }
}

impl Drop for SkeletonShare {
    fn drop(&mut self) {
        self.0.skeletons.fetch_sub(1, Ordering::Relaxed);
    }
}

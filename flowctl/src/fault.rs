//! Deliberate faults, by which the models prove that they can fail.
//!
//! A model that passes says little unless it is known to fail on wrong code. Each step that a
//! proof leans on asks [`Faults`] whether it is to be done wrongly; outside the model checker the
//! answer is the constant "no", and nothing of it remains in the compiled code. So it is the real
//! code that is mutated, not a copy of it.

use crate::sync::Ordering;

/// One way in which a step of the protocol can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Parking trusts the debt seen before the flag was set.
    ParkWithoutRecheck,
    /// Parking sets its flag by a load and a store.
    ParkByLoadStore,
    /// Parking's read-modify-write does not acquire a new limit.
    ParkRelaxed,
    /// Looking at the debt does not acquire what was done before repaying.
    LookRelaxed,
    /// Repaying does not release what the repayer did before.
    RepayRelaxed,
    /// Repaying looks for a waiter before it repays, not in what repaying returned.
    RepayLooksFirst,
    /// Repaying does not acquire a new limit before comparing with it.
    RepayWithoutAcquire,
    /// A new limit looks for a waiter by a plain load.
    LimitByLoad,
    /// A new limit is not released to whoever parks or repays next.
    LimitWithoutRelease,
    /// A new limit does not acquire what another one changed just before.
    LimitWithoutAcquire,
    /// Retiring sets its flag by a load and a store.
    RetireByLoadStore,
    /// Retiring sets its flag first and hands over the debt afterwards.
    RetireFlagFirst,
    /// Retiring leaves whoever waits on the account alone.
    RetireWithoutWake,
    /// The ledger forgets a finished account without looking again under its lock.
    ForgetWithoutRecheck,
}

/// The faults that one ledger is built with: none, but in a model.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    #[cfg(flowctl_loom)]
    only: Option<Fault>,
}

impl Faults {
    /// A ledger with this one fault.
    #[cfg(all(test, flowctl_loom))]
    pub(crate) fn only(fault: Fault) -> Self {
        Faults { only: Some(fault) }
    }

    /// Whether the step named by `fault` is to be done wrongly.
    #[inline(always)]
    pub(crate) fn has(self, fault: Fault) -> bool {
        #[cfg(flowctl_loom)]
        return self.only == Some(fault);
        #[cfg(not(flowctl_loom))]
        {
            let _ = fault;
            false
        }
    }

    /// `ordering`, or `weaker` where `fault` asks for it.
    #[inline(always)]
    pub(crate) fn weaken(self, fault: Fault, ordering: Ordering, weaker: Ordering) -> Ordering {
        if self.has(fault) { weaker } else { ordering }
    }
}

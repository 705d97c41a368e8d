//! What the broker has decided about slow consumers, for those who watch it.

use super::{Decision, DecisionCounts, Server};

impl Server {
    /// The last decisions about slow consumers, the oldest first: 256 at most.
    pub fn decisions(&self) -> Vec<Decision> {
        self.broker.decisions.last()
    }

    /// How many decisions there have been, and what they came to.
    pub fn decision_counts(&self) -> DecisionCounts {
        self.broker.decisions.counts()
    }
}

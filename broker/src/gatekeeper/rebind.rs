//! Other bindings while the broker runs.

use std::sync::Arc;

use super::{Binding, Gatekeeper};
use crate::cap::{Cap, Entity};
use crate::{Broker, Local};
use staunch_protocols::sturdy::SturdyRef;

impl Gatekeeper {
    /// What a reference stands for now; `None` if it is not valid.
    pub(crate) fn look_up(&self, reference: &SturdyRef) -> Option<Cap> {
        let bindings = self.bindings.lock();
        let binding = bindings.get(&reference.oid)?;
        let caveats = reference.compile().ok()?;
        reference.verify(&binding.key).then(|| binding.target.attenuate(&caveats))
    }

    /// Has these bindings (oid, key, target) instead of those before. Answers stay as they are.
    pub(crate) fn rebind(&self, bindings: Vec<(Vec<u8>, Vec<u8>, Cap)>) {
        let new = bindings.into_iter().map(|(oid, key, target)| (oid, Binding { key, target }));
        *self.bindings.lock() = new.collect();
    }

    /// Answers the questions that have met silence, if there is an answer by now.
    pub(crate) fn answer_waiting(&self, broker: &Arc<Broker>, local: &mut Local) {
        let mut answers = self.answers.lock();
        for (question, answer) in answers.iter_mut().filter(|(_, answer)| answer.given.is_none()) {
            answer.given = self.give(question, &answer.caps, broker, local);
            if let Some((observer, _)) = &answer.given
                && let Entity::Remote(remote) = observer.entity()
            {
                tracing::debug!(connection = remote.session().account().name(), "answers at last");
            }
        }
    }
}

//! Other bindings while the broker runs.

use std::sync::Arc;

use staunch_protocols::sturdy::SturdyRef;

use super::{Binding, Bindings, Gatekeeper, Given, State, Waiting, read, server};
use crate::attenuate::Asker;
use crate::cap::Cap;
use crate::dataspace::LocalEvent;
use crate::slow::Slow;
use crate::{Broker, Local};

impl Bindings {
    /// What a reference stands for now, and what its binding says of slow consumers; `None` if it is not valid.
    fn look_up(&self, reference: &SturdyRef) -> Option<(Cap, Option<Slow>)> {
        let bindings = self.0.lock();
        let binding = bindings.get(&reference.oid)?;
        let caveats = reference.compile().ok()?;
        let cap = reference.verify(&binding.key).then(|| binding.target.attenuate(&caveats).ok())??;
        Some((cap, binding.slow))
    }

    /// Has these bindings instead of those before. Answers stay as they are.
    pub(crate) fn rebind<'b>(&self, bindings: impl Iterator<Item = (&'b server::Binding, Cap)>) {
        let new = bindings.map(|(binding, target)| (binding.oid.clone(), Binding::new(binding, target)));
        *self.0.lock() = new.collect();
    }
}

impl Gatekeeper {
    /// What a reference stands for now, and what its binding says of slow consumers; `None` if it is not valid.
    pub(crate) fn look_up(&self, reference: &SturdyRef) -> Option<(Cap, Option<Slow>)> {
        self.bindings.look_up(reference)
    }

    /// Answers the questions that have met silence, if there is an answer by now; at the cost of whoever asked.
    pub(crate) fn answer_waiting(&self, broker: &Arc<Broker>, local: &mut Local) {
        let mut answers = self.answers.lock();
        for answer in answers.values_mut() {
            let State::Waiting(Waiting { question, caps, session }) = &answer.state else { continue };
            let Some(session) = broker.sessions.get(session).map(|s| s.clone()) else { continue };
            let mut asker = Asker::new(&session);
            let answered = read(question, caps).and_then(|(observer, reference)| {
                let reply = self.answer(&observer, &reference)?;
                let (value, caps) = asker.pass(&observer, reply.value, reply.caps)?;
                if let Some(slow) = reply.slow {
                    session.outbox().set_policy(slow);
                }
                Some((observer, value, caps))
            });
            let Some((observer, value, caps)) = answered else { continue };
            local.stage.begin(session.account(), 0, broker.fan_out_max);
            local.stage.next_turn();
            let (by, handle) = (asker.observing(&observer), broker.next_handle());
            local.stage.deliver(&observer, by, LocalEvent::Assert(value, caps, handle));
            local.stage.publish_staged(broker);
            answer.state = State::Given(Given { observer, by, handle });
        }
    }
}

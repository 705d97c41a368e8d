//! The gatekeeper: turns sturdyrefs into capabilities.

mod rebind;

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use staunch_protocols::sturdy::SturdyRef;
use staunch_protocols::wire::{Progress, encode};

use crate::attenuate::stored_scanner;
use crate::cap::{self, Cap, Caps, Entity, stored_id};
use crate::listen::Answers;
use crate::{Broker, Local};

/// What a sturdyref's oid stands for.
struct Binding {
    key: Vec<u8>,
    target: Cap,
}

/// An answer that stands as long as its question.
struct Answer {
    /// How often the question has been asserted.
    count: u64,
    /// Where it was given, under which handle; `None` if nothing was said.
    given: Option<(Cap, u64)>,
    /// What a question that has met silence refers to: it may be answered later.
    caps: Caps,
}

/// What sturdyrefs stand for, for all gatekeepers of a broker. By the oid, canonical.
#[derive(Default)]
pub(crate) struct Bindings(Mutex<HashMap<Vec<u8>, Binding>>);

impl Bindings {
    /// Lets whoever shows a sturdyref for `oid` signed with `key` have `target`.
    pub(crate) fn bind(&self, oid: &[u8], key: &[u8], target: Cap) {
        self.0.lock().insert(oid.to_vec(), Binding { key: key.to_vec(), target });
    }
}

/// See the module's head.
pub(crate) struct Gatekeeper {
    bindings: Arc<Bindings>,
    form: Answers,
    /// By the question, in stored form.
    answers: Mutex<HashMap<Box<[u8]>, Answer>>,
}

impl Gatekeeper {
    /// One that answers in this form.
    pub(crate) fn new(bindings: Arc<Bindings>, form: Answers) -> Gatekeeper {
        Gatekeeper { bindings, form, answers: Mutex::default() }
    }

    /// Somebody asserts a question: answers it, unless it has been asked before. What is no question, or has no
    /// answer, meets silence.
    pub(crate) fn resolve(&self, question: &[u8], caps: &Caps, broker: &Arc<Broker>, local: &mut Local) {
        let mut answers = self.answers.lock();
        if let Some(answer) = answers.get_mut(question) {
            answer.count += 1;
            return;
        }
        let given = self.answer(question, caps).and_then(|(observer, value, caps)| {
            let Entity::Remote(remote) = observer.entity() else { return None };
            let handle = broker.next_handle();
            local.stage.direct_assert(remote, &value, &caps, handle);
            Some((observer, handle))
        });
        let caps = if given.is_none() { caps.clone() } else { Caps::new() };
        answers.insert(question.into(), Answer { count: 1, given, caps });
    }

    /// A question is retracted: so is its answer, if nobody else asks.
    pub(crate) fn withdraw(&self, question: &[u8], _broker: &Arc<Broker>, local: &mut Local) {
        let mut answers = self.answers.lock();
        let Some(answer) = answers.get_mut(question) else { return };
        answer.count -= 1;
        if answer.count == 0
            && let Some(Answer { given: Some((observer, handle)), .. }) = answers.remove(question)
            && let Entity::Remote(remote) = observer.entity()
            && !remote.session().is_closed()
        {
            local.stage.direct_retract(remote, handle, true);
        }
    }

    /// The observer of a question, and the value to assert there.
    fn answer(&self, question: &[u8], caps: &Caps) -> Option<(Cap, Vec<u8>, Caps)> {
        let mut scanner = stored_scanner();
        let Ok(Progress::Complete(_)) = scanner.scan(question) else { return None };
        let question = scanner.view(question);
        if !question.is_record("resolve", 2) {
            return None;
        }
        let (step, observer) = (question.index(0)?, question.index(1)?);
        let id = stored_id(observer.span())?;
        let observer = cap::find(caps, id)?.clone();
        if !step.is_record("ref", 1) {
            return None;
        }
        let mut value = Vec::new();
        match SturdyRef::read_parameters(step.index(0)?) {
            Err(error) => self.refuse(&mut value, error.symbol()),
            Ok(reference) => {
                let bindings = self.bindings.0.lock();
                let binding = bindings.get(&reference.oid)?;
                match reference.compile() {
                    Ok(caveats) if reference.verify(&binding.key) => {
                        let cap = binding.target.attenuate(&caveats);
                        encode::record(&mut value, self.form.granted());
                        cap.write_stored(&mut value);
                        encode::end(&mut value);
                        return Some((observer, value, Caps::from_elem(cap, 1)));
                    }
                    _ => self.refuse(&mut value, "sturdyref-failed-validation"),
                }
            }
        }
        Some((observer, value, Caps::new()))
    }

    fn refuse(&self, out: &mut Vec<u8>, why: &str) {
        encode::record(out, self.form.refused());
        encode::symbol(out, why);
        encode::end(out);
    }
}

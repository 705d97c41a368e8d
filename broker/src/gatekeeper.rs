//! The gatekeeper: turns sturdyrefs into capabilities.

mod rebind;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use blake2::{Blake2s256, Digest as _};
use parking_lot::Mutex;
use staunch_protocols::schema::Codec;
use staunch_protocols::schema::gatekeeper::Resolve;
use staunch_protocols::sturdy::{SturdyError, SturdyRef};
use staunch_protocols::text;
use staunch_protocols::wire::{Progress, encode};

use crate::attenuate::{Asker, stored_scanner};
use crate::cap::{self, Cap, Caps, Entity, StoredId};
use crate::dataspace::{LocalEvent, Observing};
use crate::listen::Answers;
use crate::server;
use crate::slow::Slow;
use crate::{Broker, Local};

/// What a sturdyref's oid stands for.
struct Binding {
    key: Vec<u8>,
    target: Cap,
    /// What is done about slow consumers that came in by it, if it says so.
    slow: Option<Slow>,
}

impl Binding {
    fn new(said: &server::Binding, target: Cap) -> Binding {
        Binding { key: said.key.clone(), target, slow: said.slow }
    }
}

/// What is said to a question.
struct Reply {
    value: Vec<u8>,
    caps: Caps,
    /// The binding's that lets in.
    slow: Option<Slow>,
}

/// An answer that stands as long as its question.
struct Answer {
    /// How often the question has been asserted.
    count: u64,
    state: State,
}

enum State {
    Given(Given),
    /// Nothing was said, or nothing of it passed the observer's caveats; it may be answered later.
    Waiting(Waiting),
}

/// A question that has met silence, what it refers to, and whose session asked it first.
struct Waiting {
    question: Box<[u8]>,
    caps: Caps,
    session: u64,
}

/// A digest of a question in stored form, by which it is known: it may be as long as a packet.
type Digest = [u8; 32];

/// What whoever has asked keeps of a question.
#[derive(Clone)]
pub(crate) struct Asked {
    digest: Digest,
    /// How many bytes are kept of it, as it has met silence.
    pub(crate) kept_bytes: usize,
}

/// Where an answer was given, and under which handle.
struct Given {
    observer: Cap,
    by: Observing,
    handle: u64,
}

/// What sturdyrefs stand for, for all gatekeepers of a broker. By the oid, canonical.
#[derive(Default)]
pub(crate) struct Bindings(Mutex<HashMap<Vec<u8>, Binding>>);

/// See the module's head.
pub(crate) struct Gatekeeper {
    bindings: Arc<Bindings>,
    form: Answers,
    answers: Mutex<HashMap<Digest, Answer>>,
}

impl Gatekeeper {
    /// One that answers in this form.
    pub(crate) fn new(bindings: Arc<Bindings>, form: Answers) -> Gatekeeper {
        Gatekeeper { bindings, form, answers: Mutex::default() }
    }

    /// Somebody asserts something: answers it if it is a question, unless it has been asked before. A question that has no
    /// answer meets silence. What is no question does, too, and nothing is kept of it.
    /// The answer is asserted at its observer, a peer's entity or a dataspace; any other takes no notice.
    pub(crate) fn resolve(
        &self,
        question: &[u8],
        caps: &Caps,
        asker: &mut Asker,
        broker: &Arc<Broker>,
        local: &mut Local,
    ) -> Option<Box<Asked>> {
        let (observer, reference) = read(question, caps)?;
        let digest = Blake2s256::digest(question).into();
        let mut answers = self.answers.lock();
        let answer = match answers.entry(digest) {
            Entry::Occupied(answer) => {
                let answer = answer.into_mut();
                answer.count += 1;
                answer
            }
            Entry::Vacant(place) => {
                let given = self.answer(&observer, &reference).and_then(|reply| {
                    let (value, caps) = asker.pass(&observer, reply.value, reply.caps)?;
                    set_policy(broker, asker.session(), reply.slow);
                    let (by, handle) = (asker.observing(&observer), broker.next_handle());
                    local.stage.deliver(&observer, by, LocalEvent::Assert(value, caps, handle));
                    Some(Given { observer, by, handle })
                });
                let waiting =
                    || Waiting { question: question.into(), caps: caps.clone(), session: asker.session() };
                let state = given.map_or_else(|| State::Waiting(waiting()), State::Given);
                place.insert(Answer { count: 1, state })
            }
        };
        let kept_bytes = match &answer.state {
            State::Given(_) => 0,
            State::Waiting(waiting) => waiting.question.len(),
        };
        Some(Box::new(Asked { digest, kept_bytes }))
    }

    /// A question is retracted: so is its answer, if nobody else asks.
    pub(crate) fn withdraw(&self, asked: &Asked, broker: &Arc<Broker>, local: &mut Local) {
        let mut answers = self.answers.lock();
        let Some(answer) = answers.get_mut(&asked.digest) else { return };
        answer.count -= 1;
        if answer.count > 0 {
            // If this turn asked as well, its answer may be staged still. The others who ask may withdraw at once, and
            // no retraction shall come before what it retracts.
            return local.stage.publish_staged(broker);
        }
        let answer = answers.remove(&asked.digest);
        if answers.len() < answers.capacity() / 4 {
            let count = answers.len();
            answers.shrink_to(2 * count);
        }
        if let Some(Answer { state: State::Given(given), .. }) = answer
            && !given.observer.is_gone()
        {
            local.stage.deliver(&given.observer, given.by, LocalEvent::Retract(given.handle));
        }
    }

    /// What to assert about a reference, if there is anything to be said.
    fn answer(&self, observer: &Cap, reference: &Result<SturdyRef, SturdyError>) -> Option<Reply> {
        let mut value = Vec::new();
        match reference {
            Err(error) => self.refuse(&mut value, error.symbol()),
            Ok(reference) => {
                let bindings = self.bindings.0.lock();
                let binding = bindings.get(&reference.oid)?;
                let attenuated = reference.compile().and_then(|caveats| binding.target.attenuate(&caveats));
                match attenuated {
                    Ok(cap) if reference.verify(&binding.key) => {
                        encode::record(&mut value, self.form.granted());
                        cap.write_stored(&mut value);
                        encode::end(&mut value);
                        log(observer, reference, "a reference lets in");
                        let caps = Caps::from_elem(cap, 1);
                        return Some(Reply { value, caps, slow: binding.slow });
                    }
                    _ => {
                        log(observer, reference, "a reference is refused");
                        self.refuse(&mut value, "sturdyref-failed-validation");
                    }
                }
            }
        }
        Some(Reply { value, caps: Caps::new(), slow: None })
    }

    fn refuse(&self, out: &mut Vec<u8>, why: &str) {
        encode::record(out, self.form.refused());
        encode::symbol(out, why);
        encode::end(out);
    }
}

/// What a binding says is done if who came in by it is slow holds for the whole connection from then on.
fn set_policy(broker: &Broker, session: u64, slow: Option<Slow>) {
    if let Some(slow) = slow
        && let Some(session) = broker.sessions.get(&session)
    {
        session.outbox().set_policy(slow);
    }
}

/// For those who want to know later who came in by what: of the reference only what is no secret.
fn log(observer: &Cap, reference: &SturdyRef, what: &str) {
    if !tracing::enabled!(tracing::Level::DEBUG) {
        return;
    }
    let Entity::Remote(remote) = observer.entity() else { return };
    let mut scanner = stored_scanner();
    let Ok(Progress::Complete(_)) = scanner.scan(&reference.oid) else { return };
    let mut oid = String::new();
    text::write(scanner.view(&reference.oid), &mut oid, 60);
    let (connection, caveats) = (remote.session().account().name(), reference.caveats.len());
    tracing::debug!(connection, oid, caveats, "{what}");
}

/// The observer of a question, and the reference that it asks about. `None` if it is no question, or none about a
/// reference.
fn read(question: &[u8], caps: &Caps) -> Option<(Cap, Result<SturdyRef, SturdyError>)> {
    let mut scanner = stored_scanner();
    let Ok(Progress::Complete(_)) = scanner.scan(question) else { return None };
    let Resolve { step, observer } = Resolve::<StoredId>::read(scanner.view(question)).ok()?;
    let observer = cap::find(caps, observer.0.0)?.clone();
    if step.step_type.0 != "ref" {
        return None;
    }
    let mut scanner = stored_scanner();
    let Ok(Progress::Complete(_)) = scanner.scan(step.detail.as_bytes()) else { return None };
    Some((observer, SturdyRef::read_parameters(scanner.view(step.detail.as_bytes()))))
}

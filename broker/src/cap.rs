//! Capabilities: references to entities, perhaps attenuated.
//!
//! In stored values a capability stands as an embedded byte string of 8 bytes, its [`Cap::id`], so that equal
//! capabilities are equal bytes. The bytes keep nothing alive: whoever stores a value stores its [`Caps`] too.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Weak};

use dashmap::DashMap;
use smallvec::SmallVec;
use staunch_protocols::caveat::{CaveatError, Caveats};
use staunch_protocols::schema::{Codec, Input, Mismatch, MismatchKind};
use staunch_protocols::wire::tag;

use crate::dataspace::Dataspace;
use crate::gatekeeper::Gatekeeper;
use crate::ledger::Reporter;
use crate::relay::{Remote, SyncReply};

/// How a capability starts in a stored value; its id, big-endian, follows.
pub(crate) const STORED_HEAD: [u8; 3] = [tag::EMBEDDED, tag::BYTES, 8];

/// Something that can be asserted at, sent messages, and synchronised with.
#[derive(Clone)]
pub(crate) enum Entity {
    Dataspace(Arc<Dataspace>),
    Gatekeeper(Arc<Gatekeeper>),
    Remote(Arc<Remote>),
    SyncReply(Arc<SyncReply>),
    /// Observes the ledger, to know who else does. Nobody but itself has this.
    Reporter(Arc<Reporter>),
    /// Takes everything and does nothing.
    Inert,
}

impl Entity {
    /// What it is, for people.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Entity::Dataspace(_) => "dataspace",
            Entity::Gatekeeper(_) => "gatekeeper",
            Entity::Reporter(_) => "ledger",
            Entity::Remote(_) => "entity of a peer",
            Entity::SyncReply(_) => "answer to a Sync",
            Entity::Inert => "nothing",
        }
    }
}

/// A capability. Cheap to clone; equal if and only if the ids are.
#[derive(Clone)]
pub(crate) struct Cap(Arc<Inner>);

struct Inner {
    id: u64,
    /// The id of the same without caveats.
    root: u64,
    entity: Entity,
    caveats: Option<Caveats>,
}

/// The capabilities that a value holds, each once, by ascending id.
pub(crate) type Caps = SmallVec<[Cap; 2]>;

/// Puts capabilities in the order that [`find`] relies on.
pub(crate) fn sort(caps: &mut Caps) {
    caps.sort_unstable_by_key(Cap::id);
    caps.dedup_by_key(|cap| cap.id());
}

/// The capability with this id among those of a value.
pub(crate) fn find(caps: &Caps, id: u64) -> Option<&Cap> {
    caps.binary_search_by_key(&id, Cap::id).ok().map(|at| &caps[at])
}

/// Those of `caps` that stand in a value in stored form.
pub(crate) fn those_in(value: &[u8], caps: &Caps) -> Caps {
    // What looks like one within a string may come along; nothing comes of it.
    let heads = value.windows(STORED_HEAD.len()).enumerate().filter(|(_, w)| *w == STORED_HEAD);
    let ids = heads.filter_map(|(at, _)| stored_id(value.get(at..at + STORED_HEAD.len() + 8)?));
    let mut found: Caps = ids.filter_map(|id| find(caps, id).cloned()).collect();
    sort(&mut found);
    found
}

/// Never used twice in a process.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl Cap {
    /// A new capability to an entity, equal to no other.
    pub(crate) fn new(entity: Entity) -> Cap {
        Cap::with(entity, None)
    }

    fn with(entity: Entity, restricted: Option<(u64, Caveats)>) -> Cap {
        // Relaxed: only uniqueness matters.
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let (root, caveats) = restricted.map_or((id, None), |(root, caveats)| (root, Some(caveats)));
        Cap(Arc::new(Inner { id, root, entity, caveats }))
    }

    /// The same with more caveats, the newest last. Equal caveats on equal capabilities give equal ones, wherever
    /// they are added, as long as anybody holds them.
    ///
    /// # Errors
    /// If that makes too many caveats, or too long ones.
    pub(crate) fn attenuate(&self, caveats: &Caveats) -> Result<Cap, CaveatError> {
        ATTENUATIONS.attenuate(self, caveats)
    }

    pub(crate) fn id(&self) -> u64 {
        self.0.id
    }

    pub(crate) fn entity(&self) -> &Entity {
        &self.0.entity
    }

    /// What restricts it, if anything does.
    pub(crate) fn caveats(&self) -> Option<&Caveats> {
        self.0.caveats.as_ref()
    }

    /// Whether it is a peer's entity and the peer has gone.
    pub(crate) fn is_gone(&self) -> bool {
        matches!(self.entity(), Entity::Remote(remote) if remote.session().is_closed())
    }

    /// Appends its form in stored values.
    pub(crate) fn write_stored(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&STORED_HEAD);
        out.extend_from_slice(&self.id().to_be_bytes());
    }
}

/// The id in the stored form of a capability.
pub(crate) fn stored_id(span: &[u8]) -> Option<u64> {
    let id = span.strip_prefix(&STORED_HEAD)?;
    Some(u64::from_be_bytes(id.try_into().ok()?))
}

/// What a stored capability has inside, as the schemas' types for embedded values want it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct StoredId(pub(crate) u64);

impl Codec for StoredId {
    const NAME: &'static str = "a stored capability";

    fn read_from(input: Input<'_>) -> Result<StoredId, Mismatch> {
        let id = input.view().span().strip_prefix(&STORED_HEAD[1..]).and_then(|id| id.try_into().ok());
        let id = id.ok_or_else(|| input.mismatch(MismatchKind::Expected(Self::NAME)))?;
        Ok(StoredId(u64::from_be_bytes(id)))
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&STORED_HEAD[1..]);
        out.extend_from_slice(&self.0.to_be_bytes());
    }
}

/// Attenuated capabilities by what they restrict and how, so that the same attenuation of the same capability
/// is the same capability. One for the process, as their ids are.
static ATTENUATIONS: LazyLock<Attenuations> = LazyLock::new(Attenuations::default);

#[derive(Default)]
struct Attenuations {
    /// By the id of the capability without caveats, and the digest of all of them; mostly one has the digest. Each is
    /// forgotten when its last holder drops it.
    known: DashMap<(u64, u64), SmallVec<[Weak<Inner>; 1]>>,
}

impl Attenuations {
    fn attenuate(&self, cap: &Cap, caveats: &Caveats) -> Result<Cap, CaveatError> {
        if caveats.is_empty() {
            return Ok(cap.clone());
        }
        let whole = match cap.caveats() {
            Some(older) => older.and_then(caveats)?,
            None => caveats.clone(),
        };
        let root = cap.0.root;
        // To be dropped after the entry: what is dropped for good is forgotten, under the same lock.
        let mut others: SmallVec<[Arc<Inner>; 1]> = SmallVec::new();
        let mut entry = self.known.entry((root, whole.digest())).or_default();
        for known in entry.iter().filter_map(Weak::upgrade) {
            if known.caveats.as_ref() == Some(&whole) {
                return Ok(Cap(known));
            }
            others.push(known);
        }
        let new = Cap::with(cap.entity().clone(), Some((root, whole)));
        entry.push(Arc::downgrade(&new.0));
        Ok(new)
    }

    /// Forgets what nobody holds any more under this key.
    fn forget(&self, key: (u64, u64)) {
        self.known.remove_if_mut(&key, |_, known| {
            known.retain(|held| held.strong_count() > 0);
            known.is_empty()
        });
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(caveats) = &self.caveats {
            ATTENUATIONS.forget((self.root, caveats.digest()));
        }
    }
}

#[cfg(test)]
mod tests {
    use staunch_protocols::text;
    use staunch_protocols::wire::{Limits, Scanner};

    use super::*;

    fn caveats(list: &str) -> Caveats {
        let bytes = text::parse(list, &Limits::default()).unwrap();
        let mut scanner = Scanner::new(Limits::default());
        scanner.scan(&bytes).unwrap();
        Caveats::compile(scanner.view(&bytes).children()).unwrap()
    }

    #[test]
    fn equal_attenuations_are_the_same_capability() {
        let (a, b) = (caveats("[<reject <lit 1>>]"), caveats("[<reject <lit 2>>]"));
        let both = caveats("[<reject <lit 1>> <reject <lit 2>>]");
        let (cap, other) = (Cap::new(Entity::Inert), Cap::new(Entity::Inert));
        let attenuate = |cap: &Cap, caveats: &Caveats| cap.attenuate(caveats).unwrap();
        let once = attenuate(&cap, &a);
        assert_eq!(once.id(), attenuate(&cap, &a).id());
        assert_ne!(once.id(), attenuate(&cap, &b).id());
        assert_ne!(once.id(), attenuate(&other, &a).id());
        let twice = attenuate(&once, &b);
        assert_eq!(twice.id(), attenuate(&cap, &both).id(), "however the list came about");
        assert_ne!(twice.id(), attenuate(&attenuate(&cap, &b), &a).id());
        assert_eq!(attenuate(&cap, &Caveats::default()).id(), cap.id());
    }

    #[test]
    fn what_nobody_holds_is_forgotten() {
        let cap = Cap::new(Entity::Inert);
        let mut held = Vec::new();
        for n in 0..2000 {
            let made = cap.attenuate(&caveats(&format!("[<reject <lit {n}>>]"))).unwrap();
            if n % 100 == 0 {
                held.push(made);
            }
        }
        let known = || ATTENUATIONS.known.iter().filter(|entry| entry.key().0 == cap.id()).count();
        assert_eq!(known(), held.len());
        for (n, made) in held.iter().enumerate() {
            let again = cap.attenuate(&caveats(&format!("[<reject <lit {}>>]", n * 100))).unwrap();
            assert_eq!(again.id(), made.id());
        }
        held.clear();
        assert_eq!(known(), 0);
    }

    #[test]
    fn caveats_do_not_grow_without_end() {
        let text = "x".repeat(60_000);
        let cap =
            Cap::new(Entity::Inert).attenuate(&caveats(&format!("[<reject <lit \"{text}\">>]"))).unwrap();
        let more = caveats(&format!("[<reject <lit \"{}\">>]", &text[..3000]));
        let longer = cap.attenuate(&more).unwrap();
        assert!(matches!(longer.attenuate(&more), Err(CaveatError::TooLong)));
    }

    #[test]
    fn the_capabilities_in_a_value_are_found() {
        let mut caps: Caps = (0..5).map(|_| Cap::new(Entity::Inert)).rev().collect();
        sort(&mut caps);
        let mut value = vec![tag::SEQUENCE];
        caps[3].write_stored(&mut value);
        caps[1].write_stored(&mut value);
        caps[3].write_stored(&mut value);
        value.push(tag::END);
        let ids: Vec<u64> = those_in(&value, &caps).iter().map(Cap::id).collect();
        assert_eq!(ids, [caps[1].id(), caps[3].id()]);
    }
}

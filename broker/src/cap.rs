//! Capabilities: references to entities, perhaps attenuated.
//!
//! In stored values a capability stands as an embedded byte string of 8 bytes, its [`Cap::id`], so that equal
//! capabilities are equal bytes. The bytes keep nothing alive: whoever stores a value stores its [`Caps`] too.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use dashmap::DashMap;
use smallvec::SmallVec;
use staunch_protocols::caveat::Caveats;
use staunch_protocols::wire::tag;

use crate::dataspace::Dataspace;
use crate::gatekeeper::Gatekeeper;
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
    /// Takes everything and does nothing.
    Inert,
}

/// A capability. Cheap to clone; equal if and only if the ids are.
#[derive(Clone)]
pub(crate) struct Cap(Arc<Inner>);

struct Inner {
    id: u64,
    entity: Entity,
    caveats: Option<Caveats>,
}

/// The capabilities that a value holds, in no particular order.
pub(crate) type Caps = SmallVec<[Cap; 2]>;

/// Never used twice in a process.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl Cap {
    /// A new capability to an entity, equal to no other.
    pub(crate) fn new(entity: Entity) -> Cap {
        Cap::with(entity, None)
    }

    fn with(entity: Entity, caveats: Option<Caveats>) -> Cap {
        // Relaxed: only uniqueness matters.
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        Cap(Arc::new(Inner { id, entity, caveats }))
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

/// Attenuated capabilities by what they restrict and how, so that the same attenuation of the same capability
/// is the same capability.
#[derive(Default)]
pub(crate) struct Attenuations(DashMap<(u64, Box<[u8]>), Weak<Inner>>);

impl Attenuations {
    /// `cap` with more caveats, the newest last.
    pub(crate) fn attenuate(&self, cap: &Cap, caveats: Caveats) -> Cap {
        if caveats.is_empty() {
            return cap.clone();
        }
        let whole = match cap.caveats() {
            Some(older) => older.and_then(&caveats),
            None => caveats.clone(),
        };
        let key = (cap.id(), Box::from(caveats.source()));
        let mut entry = self.0.entry(key).or_default();
        if let Some(known) = entry.upgrade() {
            return Cap(known);
        }
        let new = Cap::with(cap.entity().clone(), Some(whole));
        *entry = Arc::downgrade(&new.0);
        drop(entry);
        // Forget what nobody holds any more, now and then.
        if self.0.len() > 1024 && self.0.len().is_power_of_two() {
            self.0.retain(|_, held| held.strong_count() > 0);
        }
        new
    }
}

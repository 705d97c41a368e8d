//! The membrane of a session: which capabilities each side knows under which oid, and for how long.
//!
//! Entries are counted: one for each reference in a live assertion that crossed, either way, and one for each
//! live assertion at the entity. An entry whose count falls to zero is forgotten; ours never get the same oid
//! again, and a peer's that comes back is another entity.

use std::collections::{HashMap, hash_map};
use std::sync::Arc;

use foldhash::fast::RandomState;
use smallvec::SmallVec;
use staunch_protocols::caveat::{CaveatError, Caveats};
use staunch_protocols::packet::{self, WireRef};
use staunch_protocols::wire::{Int, Progress, Scanner, View, tag};

use super::{Remote, Session};
use crate::cap::{self, Cap, Caps, Entity, stored_id};

/// A counted reference to an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ref {
    /// To one of ours.
    Exported(u64),
    /// To one of the peer's.
    Imported(Int),
}

/// The references that one assertion holds; most that hold any hold one.
pub(crate) type Refs = SmallVec<[Ref; 1]>;

struct Entry {
    cap: Cap,
    count: u64,
}

/// See the module's head.
#[derive(Default)]
pub(crate) struct Membrane {
    exported: HashMap<u64, Entry, RandomState>,
    exported_ids: HashMap<u64, u64, RandomState>,
    next_oid: u64,
    imported: HashMap<Int, Entry, RandomState>,
    /// What the assertions sent to the peer hold, by handle; only those that hold something.
    sent: HashMap<u64, Refs, RandomState>,
    /// Counts removals of exported entries, so that a cached look-up knows when to look again.
    pub(crate) removals: u64,
    is_closed: bool,
}

/// Why a reference from the peer cannot be taken.
pub(crate) enum ImportError {
    Reference(packet::PacketError),
    Caveat(CaveatError),
}

impl Membrane {
    /// Exports the entity that the peer starts from, for good, as oid 0.
    pub(crate) fn export_initial(&mut self, cap: Cap) {
        self.exported_ids.insert(cap.id(), 0);
        self.exported.insert(0, Entry { cap, count: 1 });
        self.next_oid = 1;
    }

    /// What the peer calls `oid`.
    pub(crate) fn exported(&self, oid: &Int) -> Option<&Cap> {
        let Int::Small(oid) = oid else { return None };
        self.exported.get(&u64::try_from(*oid).ok()?).map(|e| &e.cap)
    }

    /// One more reference to what the peer calls `oid`, if there is such a thing.
    pub(crate) fn hold_exported(&mut self, oid: &Int) -> Option<(Cap, u64)> {
        let Int::Small(oid) = oid else { return None };
        let oid = u64::try_from(*oid).ok()?;
        let entry = self.exported.get_mut(&oid)?;
        entry.count += 1;
        Some((entry.cap.clone(), oid))
    }

    /// One more reference to the entity that the peer calls `oid`, if it is known.
    pub(crate) fn hold_imported(&mut self, oid: &Int) {
        if let Some(entry) = self.imported.get_mut(oid) {
            entry.count += 1;
        }
    }

    /// Takes in a reference from the peer, counted. Also tells whether it is known by this reference alone.
    pub(crate) fn import(
        &mut self,
        reference: View<'_>,
        session: &Arc<Session>,
    ) -> Result<(Cap, Option<Ref>, bool), ImportError> {
        match WireRef::read(reference).map_err(ImportError::Reference)? {
            WireRef::Mine(oid) => {
                let entry = self.imported.entry(oid.clone()).or_insert_with(|| {
                    let remote = Arc::new(Remote::new(session.clone(), oid.clone()));
                    Entry { cap: Cap::new(Entity::Remote(remote)), count: 0 }
                });
                entry.count += 1;
                Ok((entry.cap.clone(), Some(Ref::Imported(oid)), entry.count == 1))
            }
            WireRef::Yours(oid, caveats) => {
                let Some((cap, number)) = self.hold_exported(&oid) else {
                    return Ok((Cap::new(Entity::Inert), None, true));
                };
                let held = Some(Ref::Exported(number));
                let mut caveats = caveats.peekable();
                if caveats.peek().is_none() {
                    return Ok((cap, held, false));
                }
                let caveats = Caveats::compile(caveats).map_err(ImportError::Caveat)?;
                Ok((cap.attenuate(&caveats), held, false))
            }
        }
    }

    /// Gives a reference back.
    pub(crate) fn release(&mut self, reference: &Ref) {
        match reference {
            Ref::Exported(oid) => {
                let Some(entry) = self.exported.get_mut(oid) else { return };
                entry.count -= 1;
                if entry.count == 0
                    && let Some(entry) = self.exported.remove(oid)
                {
                    self.exported_ids.remove(&entry.cap.id());
                    self.removals += 1;
                }
            }
            Ref::Imported(oid) => {
                let Some(entry) = self.imported.get_mut(oid) else { return };
                entry.count -= 1;
                if entry.count == 0 {
                    self.imported.remove(oid);
                }
            }
        }
    }

    /// Gives back what a sent assertion holds.
    pub(crate) fn release_sent(&mut self, handle: u64) {
        for reference in self.sent.remove(&handle).unwrap_or_default() {
            self.release(&reference);
        }
    }

    /// Notes that a sent assertion holds one more reference.
    pub(crate) fn note_sent(&mut self, handle: u64, reference: Ref) {
        self.sent.entry(handle).or_default().push(reference);
    }

    /// Exports a capability, counted; returns its oid.
    pub(crate) fn export(&mut self, cap: &Cap) -> u64 {
        if let Some(oid) = self.exported_ids.get(&cap.id()) {
            if let Some(entry) = self.exported.get_mut(oid) {
                entry.count += 1;
            }
            return *oid;
        }
        let oid = self.next_oid;
        if self.is_closed {
            return oid;
        }
        self.next_oid += 1;
        self.exported_ids.insert(cap.id(), oid);
        self.exported.insert(oid, Entry { cap: cap.clone(), count: 1 });
        oid
    }

    /// What is owed for Syncs that the peer has not answered.
    pub(crate) fn owed_for_syncs(&self) -> u64 {
        let caps = self.exported.values().map(|entry| &entry.cap);
        let replies = caps.filter_map(|cap| match cap.entity() {
            Entity::SyncReply(reply) => reply.pending.lock().as_ref().map(|(_, loan)| loan.cost()),
            _ => None,
        });
        replies.sum()
    }

    /// The oid under which the peer gave us this capability, if it did.
    fn home(&self, cap: &Cap) -> Option<Int> {
        let Entity::Remote(remote) = cap.entity() else { return None };
        let entry = self.imported.get(remote.oid())?;
        (entry.cap.id() == cap.id()).then(|| remote.oid().clone())
    }

    /// Appends an assertion's value, from stored to wire form, to `out`; what it refers to is held for `handle`.
    pub(crate) fn write_assertion(
        &mut self,
        value: &[u8],
        caps: &Caps,
        handle: u64,
        scanner: &mut Scanner,
        out: &mut Vec<u8>,
    ) {
        let mut held = Refs::new();
        translate(value, caps, scanner, out, &mut |cap, out| {
            if self.is_closed {
                packet::write_mine(out, 0);
            } else if let Some(oid) = self.home(cap) {
                self.hold_imported(&oid);
                packet::write_yours(out, &oid);
                held.push(Ref::Imported(oid));
            } else {
                let oid = self.export(cap);
                packet::write_mine(out, oid);
                held.push(Ref::Exported(oid));
            }
            true
        });
        if !held.is_empty() {
            self.sent.entry(handle).or_default().extend(held);
        }
    }

    /// Appends a message's body to `out`, unless the peer does not hold some capability in it.
    pub(crate) fn write_message(
        &mut self,
        body: &[u8],
        caps: &Caps,
        scanner: &mut Scanner,
        out: &mut Vec<u8>,
    ) -> bool {
        translate(body, caps, scanner, out, &mut |cap, out| {
            if let Some(oid) = self.home(cap) {
                packet::write_yours(out, &oid);
                return true;
            }
            let Some(oid) = self.exported_ids.get(&cap.id()) else { return false };
            packet::write_mine(out, *oid);
            true
        })
    }

    /// Forgets everything, for good. What was there is to be dropped piece by piece.
    pub(crate) fn close(&mut self) -> Remains {
        let closed = Membrane { is_closed: true, removals: self.removals + 1, ..Membrane::default() };
        let Membrane { exported, imported, sent, .. } = std::mem::replace(self, closed);
        Remains { exported: exported.into_iter(), imported: imported.into_iter(), sent: sent.into_iter() }
    }
}

/// What a membrane held when it was closed.
pub(crate) struct Remains {
    exported: hash_map::IntoIter<u64, Entry>,
    imported: hash_map::IntoIter<Int, Entry>,
    sent: hash_map::IntoIter<u64, Refs>,
}

impl Remains {
    /// Drops up to `count_max` entries of each kind. Returns whether there may be more.
    pub(crate) fn drop_some(&mut self, count_max: usize) -> bool {
        let exported = self.exported.by_ref().take(count_max).count();
        let imported = self.imported.by_ref().take(count_max).count();
        let sent = self.sent.by_ref().take(count_max).count();
        exported.max(imported).max(sent) == count_max
    }
}

/// Copies a value in stored form, with each capability written by `write`; false if that refuses one.
fn translate(
    value: &[u8],
    caps: &Caps,
    scanner: &mut Scanner,
    out: &mut Vec<u8>,
    write: &mut dyn FnMut(&Cap, &mut Vec<u8>) -> bool,
) -> bool {
    scanner.reset();
    let Ok(Progress::Complete(_)) = scanner.scan(value) else { return false };
    let view = scanner.view(value);
    let mut copied = 0;
    for token in 0..view.tokens() {
        let at = view.at(token);
        if at.tag() != tag::EMBEDDED {
            continue;
        }
        let Some(id) = stored_id(at.span()) else { return false };
        let Some(cap) = cap::find(caps, id) else { return false };
        out.extend_from_slice(&value[copied..at.start()]);
        if !write(cap, out) {
            return false;
        }
        copied = at.end();
    }
    out.extend_from_slice(&value[copied..]);
    true
}

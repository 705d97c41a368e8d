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
use staunch_protocols::sturdy::holds_capability;
use staunch_protocols::wire::{Int, Progress, Scanner, View, tag};

use super::{Remote, Session};
use crate::cap::{self, Cap, Caps, Entity, stored_id};
use crate::limits::{Exceeded, Share, Thing};
use crate::principals::{Author, Holdings, Taking};

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

/// Oids of ours, one for each time.
pub(crate) type Oids = SmallVec<[u64; 2]>;

struct Entry {
    cap: Cap,
    count: u64,
    /// How many of these are of assertions sent to the peer; the others are the peer's own.
    sent: u64,
}

/// What an assertion that the peer was told holds, and its author's share for that.
#[derive(Default)]
struct Sent {
    refs: Refs,
    share: Option<Taking>,
}

/// See the module's head.
#[derive(Default)]
pub(crate) struct Membrane {
    exported: HashMap<u64, Entry, RandomState>,
    exported_ids: HashMap<u64, u64, RandomState>,
    next_oid: u64,
    imported: HashMap<Int, Entry, RandomState>,
    /// The share for those, of what its principal may have.
    references: Share,
    holdings: Arc<Holdings>,
    /// What the assertions sent to the peer hold, by handle; only those that hold something. Counted for their authors, as is
    /// what they make us export and note as told.
    sent: HashMap<u64, Sent, RandomState>,
    /// How many assertions the peer has been told of, in the order of its outbox, that refer to each of ours; see
    /// `stage::introduce`.
    told: HashMap<u64, u64, RandomState>,
    /// Counts removals of exported entries, so that a cached look-up knows when to look again.
    pub(crate) removals: u64,
    is_closed: bool,
}

/// Why a reference from the peer cannot be taken.
pub(crate) enum ImportError {
    Reference(packet::PacketError),
    Caveat(CaveatError),
    TooMany(Exceeded),
}

impl Membrane {
    /// An empty one, of a connection of this principal's.
    pub(crate) fn new(holdings: Arc<Holdings>) -> Membrane {
        Membrane { holdings, ..Membrane::default() }
    }

    /// Exports the entity that the peer starts from, for good, as oid 0.
    pub(crate) fn export_initial(&mut self, cap: Cap) {
        self.exported_ids.insert(cap.id(), 0);
        self.exported.insert(0, Entry { cap, count: 1, sent: 0 });
        self.next_oid = 1;
    }

    /// Whether the peer has ever been given more than what it starts from.
    pub(crate) fn has_exported(&self) -> bool {
        self.next_oid > 1
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

    /// The same, told how many references there were before.
    pub(crate) fn hold_counted(&mut self, oid: u64) -> Option<i64> {
        let entry = self.exported.get_mut(&oid)?;
        entry.count += 1;
        Some(entry.count as i64 - 1)
    }

    /// One more reference to this entity of the peer's, if it is known still. What the peer has taken back may be held
    /// by others yet, and another may have its oid by now.
    pub(crate) fn hold_imported(&mut self, remote: &Arc<Remote>) -> Option<Ref> {
        let entry = self.imported.get_mut(remote.oid())?;
        let is_same = matches!(entry.cap.entity(), Entity::Remote(known) if Arc::ptr_eq(known, remote));
        is_same.then(|| {
            entry.count += 1;
            Ref::Imported(remote.oid().clone())
        })
    }

    /// Takes in a reference from the peer, counted. Also tells whether it is known by this reference alone.
    pub(crate) fn import(
        &mut self,
        reference: View<'_>,
        session: &Arc<Session>,
    ) -> Result<(Cap, Option<Ref>, bool), ImportError> {
        match WireRef::read(reference).map_err(ImportError::Reference)? {
            WireRef::Mine(oid) => {
                let count = self.imported.len() as u64 + 1;
                if count > self.references.room() && !self.imported.contains_key(&oid) {
                    let (taken, limits) = (&session.holdings().references, session.broker().limits());
                    let covered = self.references.cover(count, Thing::References, taken, &limits);
                    covered.map_err(ImportError::TooMany)?;
                }
                let entry = self.imported.entry(oid.clone()).or_insert_with(|| {
                    let remote = Arc::new(Remote::new(session.clone(), oid.clone()));
                    Entry { cap: Cap::new(Entity::Remote(remote)), count: 0, sent: 0 }
                });
                entry.count += 1;
                Ok((entry.cap.clone(), Some(Ref::Imported(oid)), entry.count == 1))
            }
            WireRef::Yours(oid, caveats) => {
                let Some((cap, number)) = self.hold_exported(&oid) else {
                    return Ok((Cap::new(Entity::Inert), None, true));
                };
                let held = Some(Ref::Exported(number));
                if caveats.clone().next().is_none() {
                    return Ok((cap, held, false));
                }
                let caveats = match caveats.clone().any(holds_capability) {
                    // What it means in a caveat is not said anywhere. Copied into values it would reach peers as a
                    // reference that nobody gave them.
                    true => Caveats::nothing(),
                    false => Caveats::compile(caveats).map_err(ImportError::Caveat)?,
                };
                Ok((cap.attenuate(&caveats).map_err(ImportError::Caveat)?, held, false))
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
                    self.references.trim(self.imported.len() as u64, &self.holdings.references);
                }
            }
        }
    }

    /// Gives back what a sent assertion holds. Returns those of ours, of which the peer is to be told.
    pub(crate) fn release_sent(&mut self, handle: u64) -> Oids {
        let mut oids = Oids::new();
        for reference in self.sent.remove(&handle).unwrap_or_default().refs {
            if let Ref::Exported(oid) = reference
                && let Some(entry) = self.exported.get_mut(&oid)
            {
                entry.sent -= 1;
                oids.push(oid);
            }
            self.release(&reference);
        }
        oids
    }

    /// The peer is told of these from here on in its outbox, once more for each time.
    pub(crate) fn tell(&mut self, oids: &[u64]) {
        if !self.is_closed {
            oids.iter().for_each(|oid| *self.told.entry(*oid).or_default() += 1);
        }
    }

    /// The peer is told the end of one that told it of these.
    pub(crate) fn untell(&mut self, oids: &[u64]) {
        for oid in oids {
            let Some(count) = self.told.get_mut(oid) else { continue };
            *count -= 1;
            if *count == 0 {
                self.told.remove(oid);
            }
        }
    }

    /// Whether the peer knows all these, by what it has been told or by what it has asserted itself.
    pub(crate) fn knows(&self, oids: &[u64]) -> bool {
        let is_own = |oid| self.exported.get(oid).is_some_and(|e| e.count > e.sent);
        oids.iter().all(|oid| self.told.contains_key(oid) || is_own(oid))
    }

    /// Notes that a sent assertion holds one more reference.
    pub(crate) fn note_sent(&mut self, handle: u64, reference: Ref) {
        self.sent.entry(handle).or_default().refs.push(reference);
    }

    /// How many assertions that hold something the peer has been told.
    pub(crate) fn sent_count(&self) -> usize {
        self.sent.len()
    }

    /// Has what such an assertion holds counted for its author. False if that is too much.
    pub(crate) fn charge_sent(&mut self, handle: u64, author: &Author, max: u64) -> bool {
        let Some(sent) = self.sent.get_mut(&handle) else { return true };
        sent.share = author.tell(sent.refs.len() as u32, max);
        sent.share.is_some()
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
        self.exported.insert(oid, Entry { cap: cap.clone(), count: 1, sent: 0 });
        oid
    }

    /// The entity that this is, if the peer gave it to us, unrestricted.
    fn home<'c>(&self, cap: &'c Cap) -> Option<&'c Arc<Remote>> {
        let Entity::Remote(remote) = cap.entity() else { return None };
        let entry = self.imported.get(remote.oid())?;
        (entry.cap.id() == cap.id()).then_some(remote)
    }

    /// Appends an assertion's value, from stored to wire form, to `out`; what it refers to is held for `handle`.
    /// Returns what it tells the peer of.
    pub(crate) fn write_assertion(
        &mut self,
        value: &[u8],
        caps: &Caps,
        handle: u64,
        scanner: &mut Scanner,
        out: &mut Vec<u8>,
    ) -> Oids {
        let mut held = Refs::new();
        let mut told = Oids::new();
        translate(value, caps, scanner, out, &mut |cap, out| {
            if self.is_closed {
                packet::write_mine(out, 0);
            } else if let Some(remote) = self.home(cap) {
                packet::write_yours(out, remote.oid());
                held.extend(self.hold_imported(remote));
            } else {
                let oid = self.export(cap);
                if let Some(entry) = self.exported.get_mut(&oid) {
                    entry.sent += 1;
                }
                packet::write_mine(out, oid);
                held.push(Ref::Exported(oid));
                told.push(oid);
            }
            true
        });
        if !held.is_empty() {
            self.sent.entry(handle).or_default().refs.extend(held);
        }
        told
    }

    /// Appends a message's body to `out`, unless the peer does not hold some capability in it. Returns those of ours
    /// that it uses: whether the peer has been told of them by then is to be seen when it is appended.
    pub(crate) fn write_message(
        &mut self,
        body: &[u8],
        caps: &Caps,
        scanner: &mut Scanner,
        out: &mut Vec<u8>,
    ) -> Option<Oids> {
        let mut used = Oids::new();
        let is_whole = translate(body, caps, scanner, out, &mut |cap, out| {
            if let Some(remote) = self.home(cap) {
                packet::write_yours(out, remote.oid());
                return true;
            }
            let Some(oid) = self.exported_ids.get(&cap.id()) else { return false };
            packet::write_mine(out, *oid);
            used.push(*oid);
            true
        });
        is_whole.then_some(used)
    }

    /// Forgets everything, for good. What was there is to be dropped piece by piece.
    pub(crate) fn close(&mut self) -> Remains {
        self.references.release(&self.holdings.references);
        let holdings = self.holdings.clone();
        let closed = Membrane { is_closed: true, removals: self.removals + 1, ..Membrane::new(holdings) };
        let Membrane { exported, imported, sent, .. } = std::mem::replace(self, closed);
        Remains { exported: exported.into_iter(), imported: imported.into_iter(), sent: sent.into_iter() }
    }
}

/// What a membrane held when it was closed.
pub(crate) struct Remains {
    exported: hash_map::IntoIter<u64, Entry>,
    imported: hash_map::IntoIter<Int, Entry>,
    sent: hash_map::IntoIter<u64, Sent>,
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

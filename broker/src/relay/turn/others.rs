//! The events for other entities than dataspaces, and the answers to Syncs.

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use staunch_flowctl::Loan;
use staunch_protocols::wire::{View, tag};

use super::super::failure::Failure;
use super::super::handles::{Held, What};
use super::super::membrane::Refs;
use super::super::session::{Inbound, Session};
use super::super::{Pending, SyncReply};
use super::{Event, release, view};
use crate::Local;
use crate::attenuate::Asker;
use crate::cap::{Cap, Caps, Entity};
use crate::dataspace::LocalEvent;
use crate::principals::{Author, Taking};
use crate::stage::EVENT_COST;

impl Session {
    /// What is left of a turn when the dataspaces' parts have been taken out.
    pub(super) fn apply_others(
        self: &Arc<Self>,
        events: Vec<Option<Event>>,
        packet: View<'_>,
        inbound: &mut Inbound,
        local: &mut Local,
    ) {
        let mut sent: Vec<Option<(Cap, What)>> = Vec::new();
        // What the turn retracts again; the handle may stand for a later assertion by now.
        let mut is_brief = vec![false; events.len()];
        for event in events.iter().flatten() {
            if let Event::RetractSame { assert } = event {
                is_brief[*assert] = true;
            }
        }
        let mut asker = Asker::new(self);
        let mut failure = None;
        for (i, event) in events.into_iter().enumerate() {
            let mut made = None;
            match event {
                Some(Event::Assert { target, value, caps, handle, .. }) => {
                    let what = self.assert_at(&target, view(&value, packet).span(), &caps, &mut asker, local);
                    made = Some((target.clone(), copy(&what)));
                    inbound.kept_bytes += what.kept_bytes();
                    if !is_brief[i]
                        && let Some(Held::Full(mut full)) = inbound.handles.remove(&handle)
                    {
                        full.what = what;
                        inbound.handles.set(handle, Held::Full(full));
                    }
                }
                Some(Event::Message { target, value, caps }) => {
                    self.message_at(&target, view(&value, packet).span(), &caps, &mut asker, local);
                }
                Some(Event::Retract { held, .. }) => {
                    if let Held::Full(full) = &held {
                        inbound.kept_bytes -= full.what.kept_bytes();
                        self.retract_at(&full.target, &full.what, local);
                    }
                    let mut membrane = self.membrane();
                    release(&mut membrane, &held);
                    self.note_removals(&membrane);
                }
                Some(Event::RetractSame { assert }) => {
                    if let Some(Some((target, what))) = sent.get(assert) {
                        let (target, what) = (target.clone(), copy(what));
                        inbound.kept_bytes -= what.kept_bytes();
                        self.retract_at(&target, &what, local);
                    }
                }
                Some(Event::Sync { target, peer, refs }) => {
                    failure = failure.or(self.sync_at(&target, &peer, refs, &mut asker, local).err());
                }
                None => {}
            }
            sent.push(made);
        }
        local.stage.publish_staged(self.broker());
        if asker.has_spent_all() {
            failure.get_or_insert(Failure::TurnTooLarge(Asker::BYTES_MAX));
        }
        if let Some(failure) = failure {
            self.end_soon(failure);
        }
    }

    fn assert_at(
        self: &Arc<Self>,
        target: &Cap,
        value: &[u8],
        caps: &Caps,
        asker: &mut Asker,
        local: &mut Local,
    ) -> What {
        match target.entity() {
            Entity::Remote(remote) if !remote.session().is_closed() => {
                let handle = self.broker().next_handle();
                let author = Author::new(self.holdings(), self.id());
                local.stage.direct_assert(remote, value, (caps, Some(&author)), handle);
                let mut membrane = remote.session().membrane();
                if let Some(held) = membrane.hold_imported(remote) {
                    membrane.note_sent(handle, held);
                }
                What::Sent(handle, true)
            }
            Entity::Gatekeeper(gatekeeper) => {
                let asked = gatekeeper.resolve(value, caps, asker, self.broker(), local);
                asked.map_or(What::Nothing, What::Resolve)
            }
            _ => What::Nothing,
        }
    }

    pub(super) fn retract_at(self: &Arc<Self>, target: &Cap, what: &What, local: &mut Local) {
        match (target.entity(), what) {
            (Entity::Remote(remote), What::Sent(handle, has_caps)) if !remote.session().is_closed() => {
                local.stage.direct_retract(remote, *handle, *has_caps);
            }
            (Entity::Gatekeeper(gatekeeper), What::Resolve(asked)) => {
                gatekeeper.withdraw(asked, self.broker(), local);
            }
            _ => {}
        }
    }

    fn message_at(
        self: &Arc<Self>,
        target: &Cap,
        body: &[u8],
        caps: &Caps,
        asker: &mut Asker,
        local: &mut Local,
    ) {
        match target.entity() {
            Entity::Remote(remote) if !remote.session().is_closed() => {
                local.stage.direct_message(remote, body, caps);
            }
            Entity::SyncReply(reply) if body == [tag::TRUE] => {
                // It is answered once; the loan is repaid.
                let Some(refs) = reply.settle() else { return };
                local.stage.publish_staged(self.broker());
                local.stage.next_turn();
                answer_sync(&reply.peer, asker, local);
                reply.end();
                reply.requester.release(&refs);
            }
            _ => {}
        }
    }

    /// Answers a Sync, or hands it on. All earlier events of the turn have been applied.
    ///
    /// # Errors
    /// If too many wait already: it is left out.
    fn sync_at(
        self: &Arc<Self>,
        target: &Cap,
        peer: &Cap,
        refs: Refs,
        asker: &mut Asker,
        local: &mut Local,
    ) -> Result<(), Failure> {
        local.stage.publish_staged(self.broker());
        local.stage.next_turn();
        match target.entity() {
            Entity::Remote(remote) if !remote.session().is_closed() => {
                // Until it is answered it is something that the asker has caused and that somebody sits on.
                let max = self.broker().limits().principal_syncs;
                let Some(place) = Taking::sync(self.holdings(), max) else {
                    self.release(&refs);
                    return Err(Failure::TooManySyncs(max));
                };
                let loan = Loan::charge(self.account(), EVENT_COST);
                self.broker().owed_for_syncs.fetch_add(EVENT_COST, Ordering::Relaxed);
                let reply = Arc::new(SyncReply {
                    peer: peer.clone(),
                    requester: self.clone(),
                    asked: remote.session().clone(),
                    oid: OnceLock::new(),
                    pending: Mutex::new(Some(Pending { refs, loan, _place: place })),
                });
                let cap = Cap::new(Entity::SyncReply(reply.clone()));
                let oid = remote.session().membrane().export(&cap);
                let _ = reply.oid.set(oid);
                local.stage.forward_sync(remote, oid);
                return Ok(());
            }
            Entity::Inert | Entity::Remote(_) => {}
            _ => answer_sync(peer, asker, local),
        }
        self.release(&refs);
        Ok(())
    }
}

/// Stages the answer to a Sync, as far as the caveats of whom it is for let it pass.
fn answer_sync(peer: &Cap, asker: &mut Asker, local: &mut Local) {
    if let (Entity::Remote(remote), None) = (peer.entity(), peer.caveats()) {
        return local.stage.synced(remote);
    }
    if let Some((body, caps)) = asker.pass(peer, vec![tag::TRUE], Caps::new()) {
        local.stage.deliver(peer, asker.observing(peer), LocalEvent::Message(body, caps));
    }
}

fn copy(what: &What) -> What {
    match what {
        What::Sent(handle, has_caps) => What::Sent(*handle, *has_caps),
        What::Resolve(asked) => What::Resolve(asked.clone()),
        What::Pending(_) | What::Nothing | What::Stored(_) => What::Nothing,
    }
}

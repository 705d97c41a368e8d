//! Turns with anything but messages to one dataspace in them: decoded and checked whole, then applied.

use std::sync::Arc;

use parking_lot::Mutex;
use staunch_index::pattern::Pattern;
use staunch_index::{Action, Prepared, Stored, looks_like_observe};
use staunch_protocols::packet::{Event as WireEvent, PacketError, Turn};
use staunch_protocols::wire::{Int, Scanner, View, canonicalize, tag};

use super::SyncReply;
use super::handles::{FullHeld, Held, What};
use super::membrane::{ImportError, Membrane, Ref, Refs};
use super::session::{Failure, Inbound, Session};
use crate::Local;
use crate::cap::{Cap, Caps, Entity, stored_id};
use crate::dataspace::{Dataspace, Router, Target};
use crate::principals::SkeletonShare;
use crate::stage::Commit;

/// A value in stored form, on its own.
pub(super) struct OwnValue {
    bytes: Vec<u8>,
    scanner: Scanner,
}

impl OwnValue {
    fn new(bytes: Vec<u8>) -> Option<OwnValue> {
        let mut scanner = crate::attenuate::stored_scanner();
        scanner.scan(&bytes).ok()?;
        Some(OwnValue { bytes, scanner })
    }

    fn view(&self) -> View<'_> {
        self.scanner.view(&self.bytes)
    }
}

/// Where an event's value is.
enum Value {
    /// At this token of the packet.
    InPacket(u32),
    Own(OwnValue),
}

/// What one event does.
enum Event {
    Assert { target: Cap, value: Value, caps: Caps, handle: Int, subscribes: Option<Subscribes> },
    Retract { held: Held, dataspace: Option<Arc<Dataspace>> },
    RetractSame { assert: usize },
    Message { target: Cap, value: Value, caps: Caps },
    Sync { target: Cap, peer: Cap, refs: Refs },
}

/// The observation that an assertion asks for.
struct Subscribes {
    pattern: Pattern,
    observer: Cap,
    prepared: Option<Prepared<Router>>,
}

/// A turn that has been checked and has had no effect yet.
#[derive(Default)]
pub(super) struct Decoded {
    events: Vec<Event>,
    /// The packet, if the turn has to wait until something is built.
    packet: Option<OwnValue>,
}

/// How far a turn came.
pub(super) enum Applied {
    Whole,
    /// Something large is being built: call again.
    Building,
}

impl Session {
    /// Decodes a turn, event by event, against the membrane.
    pub(super) fn decode(
        self: &Arc<Self>,
        turn: Turn<'_>,
        inbound: &mut Inbound,
    ) -> Result<Decoded, Failure> {
        let mut decoded = Decoded::default();
        let mut membrane = self.membrane();
        for event in turn.events() {
            let event = event.map_err(Failure::Packet)?;
            let oid = event.oid.as_int().unwrap_or(Int::Small(-1));
            match event.event {
                WireEvent::Assert { assertion, handle } => {
                    let handle = handle.as_int().unwrap_or(Int::Small(0));
                    self.decode_assert(&mut membrane, inbound, &oid, assertion, handle, &mut decoded)?;
                }
                WireEvent::Retract { handle } => {
                    if membrane.exported(&oid).is_some() {
                        let handle = handle.as_int().unwrap_or(Int::Small(0));
                        self.decode_retract(&mut membrane, inbound, &handle, &mut decoded);
                    }
                }
                WireEvent::Message { body } => {
                    let Some(target) = membrane.exported(&oid).cloned() else { continue };
                    let (value, caps, refs) = self.take_value(&mut membrane, body, true)?;
                    refs.iter().for_each(|r| membrane.release(r));
                    if let Some((value, caps)) = self.restrict(&target, value, caps, turn.view()) {
                        decoded.events.push(Event::Message { target, value, caps });
                    }
                }
                WireEvent::Sync { peer } => {
                    let Some((target, number)) = membrane.hold_exported(&oid) else { continue };
                    let mut refs = Refs::from_elem(Ref::Exported(number), 1);
                    let (peer, held, _) = self.import(&mut membrane, peer)?;
                    refs.extend(held);
                    decoded.events.push(Event::Sync { target, peer, refs });
                }
            }
        }
        Ok(decoded)
    }

    fn import(
        self: &Arc<Self>,
        membrane: &mut Membrane,
        reference: View<'_>,
    ) -> Result<(Cap, Option<Ref>, bool), Failure> {
        membrane.import(reference, self, &self.broker().attenuations).map_err(|error| match error {
            ImportError::Reference(error) => Failure::Packet(error),
            ImportError::Caveat(error) => Failure::Caveat(error),
        })
    }

    fn decode_assert(
        self: &Arc<Self>,
        membrane: &mut Membrane,
        inbound: &mut Inbound,
        oid: &Int,
        assertion: View<'_>,
        handle: Int,
        decoded: &mut Decoded,
    ) -> Result<(), Failure> {
        if inbound.handles.contains(&handle) {
            return Err(Failure::DuplicateHandle(handle));
        }
        let Some((target, number)) = membrane.hold_exported(oid) else { return Ok(()) };
        if inbound.handles.len() as u64 >= self.config().assertions_max {
            return Err(Failure::TooManyAssertions(self.config().assertions_max));
        }
        let (value, caps, mut refs) = self.take_value(membrane, assertion, false)?;
        refs.push(Ref::Exported(number));
        let Some((value, caps)) = self.restrict(&target, value, caps, assertion) else {
            // Its target drops it: the references go back at once, and its retraction is ignored.
            refs.iter().for_each(|r| membrane.release(r));
            return Ok(());
        };
        let held = FullHeld { target: target.clone(), what: What::Pending, refs };
        inbound.handles.set(handle.clone(), Held::Full(Box::new(held)));
        let view = match &value {
            Value::InPacket(token) => assertion.at(*token),
            Value::Own(value) => value.view(),
        };
        let subscribes = match target.entity() {
            Entity::Dataspace(_) if looks_like_observe(view.span()) => subscribes(view, &caps),
            _ => None,
        };
        decoded.events.push(Event::Assert { target, value, caps, handle, subscribes });
        Ok(())
    }

    fn decode_retract(
        &self,
        membrane: &mut Membrane,
        inbound: &mut Inbound,
        handle: &Int,
        decoded: &mut Decoded,
    ) {
        let Some(held) = inbound.handles.remove(handle) else { return };
        if let Held::Full(full) = &held
            && matches!(full.what, What::Pending)
        {
            let same = |e: &Event| matches!(e, Event::Assert { handle: h, .. } if h == handle);
            if let Some(assert) = decoded.events.iter().rposition(same) {
                full.refs.iter().for_each(|r| membrane.release(r));
                decoded.events.push(Event::RetractSame { assert });
            }
            return;
        }
        let dataspace = dataspace_of(membrane, &held);
        decoded.events.push(Event::Retract { held, dataspace });
    }

    /// Brings a value from wire to stored form, and takes in the references in it.
    fn take_value(
        self: &Arc<Self>,
        membrane: &mut Membrane,
        value: View<'_>,
        is_message: bool,
    ) -> Result<(Value, Caps, Refs), Failure> {
        let (mut caps, mut refs) = (Caps::new(), Refs::new());
        let mut stored: Vec<u8> = Vec::new();
        let mut copied = value.start();
        let mut token = value.token();
        let end = value.token() + value.tokens();
        while token < end {
            let at = value.at(token);
            if at.tag() != tag::EMBEDDED {
                token += 1;
                continue;
            }
            let (cap, held, is_new) = self.import(membrane, at)?;
            if is_message && is_new {
                return Err(Failure::TransientReference);
            }
            stored.extend_from_slice(&value.all_bytes()[copied..at.start()]);
            cap.write_stored(&mut stored);
            copied = at.end();
            caps.push(cap);
            refs.extend(held);
            token += at.tokens();
        }
        if caps.is_empty() {
            return Ok((Value::InPacket(value.token()), caps, refs));
        }
        stored.extend_from_slice(&value.all_bytes()[copied..value.end()]);
        // Capabilities as set elements or keys may have changed places.
        let own = OwnValue::new(stored).ok_or(Failure::Packet(PacketError::NotAPacket))?;
        let mut canonical = Vec::new();
        canonicalize(own.view(), &mut canonical).map_err(Failure::Duplicate)?;
        let own = OwnValue::new(canonical).ok_or(Failure::Packet(PacketError::NotAPacket))?;
        Ok((Value::Own(own), caps, refs))
    }

    /// Passes a value through its target's caveats.
    fn restrict(&self, target: &Cap, value: Value, caps: Caps, packet: View<'_>) -> Option<(Value, Caps)> {
        let Some(caveats) = target.caveats() else { return Some((value, caps)) };
        let bytes = match &value {
            Value::InPacket(token) => packet.at(*token).span().to_vec(),
            Value::Own(own) => own.bytes.clone(),
        };
        let mut scanner = crate::attenuate::stored_scanner();
        let (bytes, caps) = crate::attenuate::apply(caveats, bytes, caps, &mut scanner)?;
        Some((Value::Own(OwnValue::new(bytes)?), caps))
    }

    /// Applies a decoded turn. `packet` is what it was decoded from.
    pub(super) fn apply(
        self: &Arc<Self>,
        decoded: &mut Decoded,
        packet: Option<View<'_>>,
        inbound: &mut Inbound,
        local: &mut Local,
    ) -> Result<Applied, Failure> {
        let is_ready = match self.prepare(decoded, local) {
            Ok(is_ready) => is_ready,
            Err(failure) => {
                self.abandon(std::mem::take(decoded));
                return Err(failure);
            }
        };
        if !is_ready {
            if let Some(packet) = packet {
                decoded.packet = OwnValue::new(packet.span().to_vec());
            }
            return Ok(Applied::Building);
        }
        let Decoded { events, packet: own } = std::mem::take(decoded);
        let Some(packet) = packet.or(own.as_ref().map(OwnValue::view)) else { return Ok(Applied::Whole) };
        local.stage.next_turn();
        let mut dataspaces: Vec<Arc<Dataspace>> = Vec::new();
        for event in &events {
            if let Some(dataspace) = event.dataspace()
                && !dataspaces.iter().any(|d| Arc::ptr_eq(d, &dataspace))
            {
                dataspaces.push(dataspace);
            }
        }
        let mut events: Vec<Option<Event>> = events.into_iter().map(Some).collect();
        for dataspace in &dataspaces {
            self.commit(dataspace, &mut events, packet, inbound, local);
        }
        self.apply_others(events, packet, inbound, local);
        Ok(Applied::Whole)
    }

    /// Reserves and builds what the turn's observations need. True when all is ready.
    fn prepare(self: &Arc<Self>, decoded: &mut Decoded, local: &mut Local) -> Result<bool, Failure> {
        /// Stored values looked at in one go.
        const BUDGET: usize = 2048;
        for event in &mut decoded.events {
            let Event::Assert { target, subscribes: Some(subscribes), .. } = event else { continue };
            let Entity::Dataspace(dataspace) = target.entity() else { continue };
            if subscribes.prepared.is_none() {
                use staunch_index::Endpoint as _;
                let skeletons_max = self.config().skeletons_max;
                let admit = || SkeletonShare::take(self.holdings(), skeletons_max);
                let domain = Target::of(&subscribes.observer).handle_domain();
                let prepared = dataspace.index.prepare(&subscribes.pattern, domain, admit);
                subscribes.prepared = Some(prepared.map_err(Failure::TooManySkeletons)?);
            }
            if let Some(prepared) = &subscribes.prepared
                && !dataspace.index.advance(prepared, BUDGET, &mut local.scratch)
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Gives up a turn that was waiting.
    pub(super) fn abandon(&self, decoded: Decoded) {
        for event in decoded.events {
            if let Event::Assert {
                target, subscribes: Some(Subscribes { prepared: Some(prepared), .. }), ..
            } = event
                && let Entity::Dataspace(dataspace) = target.entity()
            {
                dataspace.index.write().cancel(prepared);
            }
        }
    }

    /// The part of the turn that concerns one dataspace.
    fn commit(
        self: &Arc<Self>,
        dataspace: &Arc<Dataspace>,
        events: &mut [Option<Event>],
        packet: View<'_>,
        inbound: &mut Inbound,
        local: &mut Local,
    ) {
        let (mut order, brief) = take_for(dataspace, events);
        let mut exclusive = false;
        let mut caps = Caps::new();
        let mut positions: Vec<(usize, usize)> = Vec::new();
        let mut asserted: Vec<Option<Int>> = Vec::new();
        let mut actions: Vec<Action<'_, Router>> = Vec::with_capacity(order.len());
        for (i, event) in &mut order {
            let at = actions.len();
            actions.push(match event {
                Event::Assert { value, caps, handle, subscribes, .. } => {
                    let value = view(value, packet);
                    exclusive |= looks_like_observe(value.span());
                    let observe =
                        subscribes.take().and_then(|s| Some((s.prepared?, Target::of(&s.observer))));
                    let extra = (!caps.is_empty()).then(|| Box::new(std::mem::take(caps)));
                    positions.push((*i, at));
                    asserted.push((!brief.contains(i)).then(|| handle.clone()));
                    Action::Assert { value, extra, observe }
                }
                Event::Message { value, caps: more, .. } => {
                    caps.extend(more.drain(..));
                    Action::Message(view(value, packet))
                }
                Event::RetractSame { assert } => {
                    let Some((_, at)) = positions.iter().find(|(i, _)| i == assert) else { continue };
                    Action::RetractSame(*at)
                }
                Event::Retract { held, .. } => {
                    let Some(stored) = stored_of(held) else { continue };
                    exclusive |= stored.may_observe();
                    Action::Retract(stored)
                }
                Event::Sync { .. } => continue,
            });
        }
        let mut placed = Vec::new();
        let Local { stage, scratch, .. } = local;
        let mut sink = Commit { stage, broker: self.broker(), caps: &caps };
        if exclusive {
            dataspace.index.write().commit(&mut actions, &mut placed, scratch, &mut sink);
        } else {
            dataspace.index.read().commit(&mut actions, &mut placed, scratch, &mut sink);
        }
        drop(actions);
        note_placed(asserted, placed, inbound);
        let mut membrane = self.membrane();
        for (_, event) in order {
            if let Event::Retract { held, .. } = event {
                release(&mut membrane, &held);
            }
        }
        self.note_removals(&membrane);
    }

    /// The events for other entities than dataspaces, and the answers to Syncs.
    fn apply_others(
        self: &Arc<Self>,
        events: Vec<Option<Event>>,
        packet: View<'_>,
        inbound: &mut Inbound,
        local: &mut Local,
    ) {
        let mut sent: Vec<Option<(Cap, What)>> = Vec::new();
        for event in events {
            let mut made = None;
            match event {
                Some(Event::Assert { target, value, caps, handle, .. }) => {
                    let what = self.assert_at(&target, view(&value, packet).span(), &caps, local);
                    made = Some((target.clone(), copy(&what)));
                    if let Some(Held::Full(mut full)) = inbound.handles.remove(&handle) {
                        full.what = what;
                        inbound.handles.set(handle, Held::Full(full));
                    }
                }
                Some(Event::Message { target, value, caps }) => {
                    self.message_at(&target, view(&value, packet).span(), &caps, local);
                }
                Some(Event::Retract { held, .. }) => {
                    if let Held::Full(full) = &held {
                        self.retract_at(&full.target, &full.what, local);
                    }
                    let mut membrane = self.membrane();
                    release(&mut membrane, &held);
                    self.note_removals(&membrane);
                }
                Some(Event::RetractSame { assert }) => {
                    if let Some(Some((target, what))) = sent.get(assert) {
                        let (target, what) = (target.clone(), copy(what));
                        self.retract_at(&target, &what, local);
                    }
                }
                Some(Event::Sync { target, peer, refs }) => self.sync_at(&target, &peer, refs, local),
                None => {}
            }
            sent.push(made);
        }
        local.stage.publish_staged(self.broker());
    }

    fn assert_at(self: &Arc<Self>, target: &Cap, value: &[u8], caps: &Caps, local: &mut Local) -> What {
        match target.entity() {
            Entity::Remote(remote) if !remote.session().is_closed() => {
                let handle = self.broker().next_handle();
                local.stage.direct_assert(remote, value, caps, handle);
                let mut membrane = remote.session().membrane();
                membrane.hold_imported(remote.oid());
                membrane.note_sent(handle, Ref::Imported(remote.oid().clone()));
                What::Sent(handle, true)
            }
            Entity::Gatekeeper(gatekeeper) => {
                gatekeeper.resolve(value, caps, self.broker(), local);
                What::Resolve(value.into())
            }
            _ => What::Nothing,
        }
    }

    fn retract_at(self: &Arc<Self>, target: &Cap, what: &What, local: &mut Local) {
        match (target.entity(), what) {
            (Entity::Remote(remote), What::Sent(handle, has_caps)) if !remote.session().is_closed() => {
                local.stage.direct_retract(remote, *handle, *has_caps);
            }
            (Entity::Gatekeeper(gatekeeper), What::Resolve(value)) => {
                gatekeeper.withdraw(value, self.broker(), local);
            }
            _ => {}
        }
    }

    fn message_at(self: &Arc<Self>, target: &Cap, body: &[u8], caps: &Caps, local: &mut Local) {
        match target.entity() {
            Entity::Remote(remote) if !remote.session().is_closed() => {
                local.stage.direct_message(remote, body, caps);
            }
            Entity::SyncReply(reply) if body == [tag::TRUE] => {
                if let Entity::Remote(remote) = reply.peer.entity() {
                    local.stage.publish_staged(self.broker());
                    local.stage.next_turn();
                    local.stage.synced(remote);
                }
                let mut membrane = self.membrane();
                let oid = membrane.export(target);
                membrane.release(&Ref::Exported(oid));
                membrane.release(&Ref::Exported(oid));
                self.note_removals(&membrane);
                drop(membrane);
                let mut membrane = reply.requester.membrane();
                reply.refs.lock().drain(..).for_each(|r| membrane.release(&r));
                reply.requester.note_removals(&membrane);
            }
            _ => {}
        }
    }

    /// Answers a Sync, or hands it on. All earlier events of the turn have been applied.
    fn sync_at(self: &Arc<Self>, target: &Cap, peer: &Cap, refs: Refs, local: &mut Local) {
        local.stage.publish_staged(self.broker());
        local.stage.next_turn();
        match target.entity() {
            Entity::Remote(remote) if !remote.session().is_closed() => {
                let reply = SyncReply { peer: peer.clone(), requester: self.clone(), refs: Mutex::new(refs) };
                let reply = Cap::new(Entity::SyncReply(Arc::new(reply)));
                let oid = remote.session().membrane().export(&reply);
                local.stage.forward_sync(remote, oid);
                return;
            }
            Entity::Inert | Entity::Remote(_) => {}
            _ => {
                if let Entity::Remote(remote) = peer.entity() {
                    local.stage.synced(remote);
                }
            }
        }
        let mut membrane = self.membrane();
        refs.iter().for_each(|r| membrane.release(r));
        self.note_removals(&membrane);
    }

    /// Retracts some of what the peer has asserted, at the session's end. Returns whether there may be more.
    pub(super) fn retract_some(self: &Arc<Self>, inbound: &mut Inbound, local: &mut Local) -> bool {
        const COUNT: usize = 256;
        let taken = inbound.handles.take_some(COUNT);
        let mut rest: Vec<Option<Held>> = taken.into_iter().map(Some).collect();
        while let Some(dataspace) = {
            let membrane = self.membrane();
            rest.iter().flatten().find_map(|held| dataspace_of(&membrane, held))
        } {
            let mut exclusive = false;
            let mut actions = Vec::new();
            for held in &mut rest {
                let Some(found) = held.as_ref().and_then(|h| dataspace_of(&self.membrane(), h)) else {
                    continue;
                };
                if !Arc::ptr_eq(&found, &dataspace) {
                    continue;
                }
                if let Some(stored) = held.take().as_ref().and_then(stored_of) {
                    exclusive |= stored.may_observe();
                    actions.push(Action::Retract(stored));
                }
            }
            local.stage.next_turn();
            let Local { stage, scratch, .. } = &mut *local;
            let mut sink = Commit { stage, broker: self.broker(), caps: &Caps::new() };
            let mut placed = Vec::new();
            if exclusive {
                dataspace.index.write().commit(&mut actions, &mut placed, scratch, &mut sink);
            } else {
                dataspace.index.read().commit(&mut actions, &mut placed, scratch, &mut sink);
            }
        }
        for held in rest.into_iter().flatten() {
            if let Held::Full(full) = held {
                self.retract_at(&full.target, &full.what, local);
            }
        }
        local.stage.publish_staged(self.broker());
        inbound.handles.len() > 0
    }
}

/// Takes out, in order, the events for one dataspace. Also tells which of its assertions the turn retracts again.
fn take_for(dataspace: &Arc<Dataspace>, events: &mut [Option<Event>]) -> (Vec<(usize, Event)>, Vec<usize>) {
    let (mut order, mut brief) = (Vec::new(), Vec::new());
    let mut mine = vec![false; events.len()];
    for (i, event) in events.iter_mut().enumerate() {
        mine[i] = match event {
            // A retraction of what this turn asserts goes with the assertion.
            Some(Event::RetractSame { assert }) if mine[*assert] => {
                brief.push(*assert);
                true
            }
            Some(event) => event.dataspace().is_some_and(|d| Arc::ptr_eq(&d, dataspace)),
            None => false,
        };
        if mine[i]
            && let Some(event) = event.take()
        {
            order.push((i, event));
        }
    }
    (order, brief)
}

/// Notes what became of the turn's assertions, for their retraction: by handle, `None` for those that the turn
/// retracted itself (whose handle may stand for a later one by now).
fn note_placed(asserted: Vec<Option<Int>>, placed: Vec<Stored<Router>>, inbound: &mut Inbound) {
    for (handle, stored) in asserted.into_iter().zip(placed) {
        let Some(handle) = handle else { continue };
        let Some(Held::Full(mut full)) = inbound.handles.remove(&handle) else { continue };
        let held = match full.refs.as_slice() {
            [Ref::Exported(oid)] if *oid <= u32::MAX as u64 => Held::Plain { oid: *oid as u32, stored },
            _ => {
                full.what = What::Stored(stored);
                Held::Full(full)
            }
        };
        inbound.handles.set(handle, held);
    }
}

/// The dataspace that holds an assertion, if one does.
fn dataspace_of(membrane: &Membrane, held: &Held) -> Option<Arc<Dataspace>> {
    let target = match held {
        Held::Plain { oid, .. } => membrane.exported(&Int::Small(*oid as i64))?,
        Held::Full(full) if matches!(full.what, What::Stored(_)) => &full.target,
        Held::Full(_) => return None,
    };
    match target.entity() {
        Entity::Dataspace(dataspace) => Some(dataspace.clone()),
        _ => None,
    }
}

fn stored_of(held: &Held) -> Option<Stored<Router>> {
    match held {
        Held::Plain { stored, .. } => Some(stored.clone()),
        Held::Full(full) => match &full.what {
            What::Stored(stored) => Some(stored.clone()),
            _ => None,
        },
    }
}

/// Gives back what an assertion held.
fn release(membrane: &mut Membrane, held: &Held) {
    match held {
        Held::Plain { oid, .. } => membrane.release(&Ref::Exported(*oid as u64)),
        Held::Full(full) => full.refs.iter().for_each(|r| membrane.release(r)),
    }
}

fn view<'a>(value: &'a Value, packet: View<'a>) -> View<'a> {
    match value {
        Value::InPacket(token) => packet.at(*token),
        Value::Own(own) => own.view(),
    }
}

fn copy(what: &What) -> What {
    match what {
        What::Sent(handle, has_caps) => What::Sent(*handle, *has_caps),
        What::Resolve(value) => What::Resolve(value.clone()),
        What::Pending | What::Nothing | What::Stored(_) => What::Nothing,
    }
}

/// The observation that a stored value asks for, if it is a well-formed Observe.
fn subscribes(value: View<'_>, caps: &Caps) -> Option<Subscribes> {
    let (pattern, observer) = Pattern::of_observe(value)?;
    let id = stored_id(observer.span())?;
    let observer = caps.iter().find(|c| c.id() == id)?.clone();
    Some(Subscribes { pattern, observer, prepared: None })
}

impl Event {
    /// The dataspace that it is for, unless only the session knows.
    fn dataspace(&self) -> Option<Arc<Dataspace>> {
        let target = match self {
            Event::Assert { target, .. } | Event::Message { target, .. } => target,
            Event::Retract { dataspace, .. } => return dataspace.clone(),
            _ => return None,
        };
        match target.entity() {
            Entity::Dataspace(dataspace) => Some(dataspace.clone()),
            _ => None,
        }
    }
}

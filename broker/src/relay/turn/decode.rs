//! From the wire to checked events: each taken through the membrane, with nothing applied yet.

use std::sync::Arc;

use staunch_index::looks_like_observe;
use staunch_index::pattern::Pattern;
use staunch_protocols::packet::{Event as WireEvent, PacketError, Turn};
use staunch_protocols::wire::{Int, View, canonicalize, tag};

use super::super::failure::Failure;
use super::super::handles::{FullHeld, Held, What};
use super::super::membrane::{ImportError, Membrane, Ref, Refs};
use super::super::session::{Inbound, Session};
use super::{Decoded, Event, OwnValue, Subscribes, Value, dataspace_of};
use crate::cap::{self, Cap, Caps, Entity, stored_id};
use crate::limits::Thing;

/// What an observer gets of a value is so many times as long as the value at most.
const CAPTURES_NESTED_MAX: usize = 8;

impl Session {
    /// Decodes a turn, event by event, against the membrane.
    pub(in crate::relay) fn decode(
        self: &Arc<Self>,
        turn: Turn<'_>,
        inbound: &mut Inbound,
    ) -> Result<Decoded, Failure> {
        let mut decoded = Decoded::default();
        let result = self.decode_events(turn, inbound, &mut decoded);
        decoded.machine = None;
        match result {
            Ok(()) => Ok(decoded),
            Err(failure) => {
                self.abandon(decoded, inbound);
                Err(failure)
            }
        }
    }

    fn decode_events(
        self: &Arc<Self>,
        turn: Turn<'_>,
        inbound: &mut Inbound,
        decoded: &mut Decoded,
    ) -> Result<(), Failure> {
        let mut membrane = self.membrane();
        for event in turn.events() {
            let event = event.map_err(Failure::Packet)?;
            let oid = event.oid.as_int().unwrap_or(Int::Small(-1));
            match event.event {
                WireEvent::Assert { assertion, handle } => {
                    let handle = handle.as_int().unwrap_or(Int::Small(0));
                    self.decode_assert(&mut membrane, inbound, &oid, assertion, handle, decoded)?;
                }
                WireEvent::Retract { handle } => {
                    if membrane.exported(&oid).is_some() {
                        let handle = handle.as_int().unwrap_or(Int::Small(0));
                        self.decode_retract(&mut membrane, inbound, &handle, decoded);
                    }
                }
                WireEvent::Message { body } => {
                    let Some(target) = membrane.exported(&oid).cloned() else { continue };
                    let (value, caps, refs) = self.take_value(&mut membrane, body, true)?;
                    refs.iter().for_each(|r| membrane.release(r));
                    if let Some((value, caps)) = restrict(&target, value, caps, turn.view(), decoded)? {
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
        Ok(())
    }

    fn import(
        self: &Arc<Self>,
        membrane: &mut Membrane,
        reference: View<'_>,
    ) -> Result<(Cap, Option<Ref>, bool), Failure> {
        membrane.import(reference, self).map_err(|error| match error {
            ImportError::Reference(error) => Failure::Packet(error),
            ImportError::Caveat(error) => Failure::Caveat(error),
            ImportError::TooMany(exceeded) => Failure::TooMany(exceeded),
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
        self.admit_assertion(inbound)?;
        let (value, caps, mut refs) = self.take_value(membrane, assertion, false)?;
        refs.push(Ref::Exported(number));
        let Some((value, caps)) = restrict(&target, value, caps, assertion, decoded)? else {
            // Its target drops it: the references go back at once, and its retraction is ignored.
            refs.iter().for_each(|r| membrane.release(r));
            return Ok(());
        };
        let held = FullHeld { target: target.clone(), what: What::Pending(decoded.events.len()), refs };
        inbound.handles.set(handle.clone(), Held::Full(Box::new(held)));
        let view = match &value {
            Value::InPacket(token) => assertion.at(*token),
            Value::Own(value) => value.view(),
        };
        let observes = matches!(target.entity(), Entity::Dataspace(_)) && looks_like_observe(view.span());
        if observes {
            self.admit_observation(inbound)?;
        }
        let subscribes = if observes { subscribes(view, &caps) } else { None };
        if subscribes.as_ref().is_some_and(|s| s.pattern.captures_nested() > CAPTURES_NESTED_MAX) {
            return Err(Failure::CapturesNested(CAPTURES_NESTED_MAX));
        }
        decoded.events.push(Event::Assert { target, value, caps, handle, observes, subscribes });
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
            && let What::Pending(assert) = full.what
        {
            full.refs.iter().for_each(|r| membrane.release(r));
            if matches!(decoded.events[assert], Event::Assert { observes: true, .. }) {
                self.dismiss_observation(inbound);
            }
            decoded.events.push(Event::RetractSame { assert });
            return;
        }
        let dataspace = dataspace_of(membrane, &held);
        if super::stored_of(&held).is_some_and(|stored| stored.may_observe()) {
            self.dismiss_observation(inbound);
        }
        decoded.events.push(Event::Retract { held, dataspace });
    }

    /// One more assertion is to be alive.
    fn admit_assertion(&self, inbound: &mut Inbound) -> Result<(), Failure> {
        let count = inbound.handles.len() as u64 + 1;
        if count <= inbound.assertions.room() {
            return Ok(());
        }
        let (taken, limits) = (&self.holdings().assertions, self.broker().limits());
        inbound.assertions.cover(count, Thing::Assertions, taken, &limits).map_err(Failure::TooMany)
    }

    /// One more of them is an observation.
    fn admit_observation(&self, inbound: &mut Inbound) -> Result<(), Failure> {
        let (count, share) = &mut inbound.observations;
        let (taken, limits) = (&self.holdings().observations, self.broker().limits());
        share.cover(*count + 1, Thing::Observations, taken, &limits).map_err(Failure::TooMany)?;
        *count += 1;
        Ok(())
    }

    fn dismiss_observation(&self, inbound: &mut Inbound) {
        let (count, share) = &mut inbound.observations;
        *count = count.saturating_sub(1);
        share.trim(*count, &self.holdings().observations);
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
        cap::sort(&mut caps);
        stored.extend_from_slice(&value.all_bytes()[copied..value.end()]);
        // Capabilities as set elements or keys may have changed places.
        let own = OwnValue::new(stored).ok_or(Failure::Packet(PacketError::NotAPacket))?;
        let mut canonical = Vec::new();
        canonicalize(own.view(), &mut canonical).map_err(Failure::Duplicate)?;
        let own = OwnValue::new(canonical).ok_or(Failure::Packet(PacketError::NotAPacket))?;
        Ok((Value::Own(Box::new(own)), caps, refs))
    }
}

/// Passes a value through its target's caveats.
fn restrict(
    target: &Cap,
    value: Value,
    caps: Caps,
    packet: View<'_>,
    decoded: &mut Decoded,
) -> Result<Option<(Value, Caps)>, Failure> {
    /// What may come of one turn's values; each may be rewritten to something much larger.
    const BYTES_MAX: usize = 64 << 20;
    /// What the caveats may take, in steps, for the turn as such and for each of its bytes: no other session runs on
    /// this worker meanwhile.
    const WORK_MAX: u64 = 4 << 20;
    const BYTE_WORK_MAX: u64 = 8;
    let Some(caveats) = target.caveats() else { return Ok(Some((value, caps))) };
    let bytes = match &value {
        Value::InPacket(token) => packet.at(*token).span().to_vec(),
        Value::Own(own) => own.bytes.clone(),
    };
    let (passed, work) = decoded.machine.get_or_insert_default().apply(caveats, bytes, caps);
    decoded.filtered_work += work.steps;
    if decoded.filtered_work > WORK_MAX + BYTE_WORK_MAX * packet.all_bytes().len() as u64 {
        return Err(Failure::TurnTooCostly);
    }
    let Some((bytes, caps)) = passed else { return Ok(None) };
    decoded.filtered_bytes += bytes.len();
    if decoded.filtered_bytes > BYTES_MAX {
        return Err(Failure::TurnTooLarge(BYTES_MAX));
    }
    Ok(OwnValue::new(bytes).map(|own| (Value::Own(Box::new(own)), caps)))
}

/// The observation that a stored value asks for, if it is a well-formed Observe.
fn subscribes(value: View<'_>, caps: &Caps) -> Option<Box<Subscribes>> {
    let (pattern, observer) = Pattern::of_observe(value)?;
    let id = stored_id(observer.span())?;
    let observer = cap::find(caps, id)?.clone();
    Some(Box::new(Subscribes { pattern, observer, prepared: None }))
}

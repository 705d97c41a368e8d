//! Turns with anything but messages to one dataspace in them: checked whole (see [`decode`]), then applied, first to
//! dataspaces and then to others (see [`others`]).

mod decode;
mod others;

use std::sync::Arc;

use staunch_index::pattern::Pattern;
use staunch_index::{Action, Overdrawn, Prepared, Stored, looks_like_observe};
use staunch_protocols::wire::{Int, Scanner, View};

use super::Slice;
use super::failure::Failure;
use super::handles::{FullHeld, Held, What};
use super::membrane::{Membrane, Ref, Refs};
use super::session::{Inbound, Session};
use super::weigh::{EFFORT_MAX, Effort, FRAME_BYTES, Heavy, Kind, LIGHT_PAIRS_MAX, Weight};
use crate::Local;
use crate::attenuate::Machine;
use crate::cap::{self, Cap, Caps, Entity};
use crate::dataspace::{Dataspace, References, Router, Target};
use crate::principals::{Author, CapturesPayer, SkeletonShare};
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

    fn memory_bytes(&self) -> usize {
        self.bytes.capacity() + self.scanner.memory_bytes()
    }
}

/// Where an event's value is.
enum Value {
    /// At this token of the packet.
    InPacket(u32),
    /// Boxed, as most are in the packet: a turn may have very many events.
    Own(Box<OwnValue>),
}

/// What one event does.
enum Event {
    Assert {
        target: Cap,
        value: Value,
        caps: Caps,
        handle: Int,
        /// It counts as an observation, well-formed or not.
        observes: bool,
        subscribes: Option<Box<Subscribes>>,
    },
    Retract {
        held: Held,
        dataspace: Option<Arc<Dataspace>>,
    },
    RetractSame {
        assert: usize,
    },
    Message {
        target: Cap,
        value: Value,
        caps: Caps,
    },
    Sync {
        target: Cap,
        peer: Cap,
        refs: Refs,
    },
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
    /// How many of them have what they need.
    prepared: usize,
    /// Bytes that caveats have made or passed on.
    filtered_bytes: usize,
    /// What they took, in steps.
    pub(super) filtered_work: u64,
    /// What they work in, while the turn is being decoded.
    machine: Option<Box<Machine>>,
    /// The packet, if the turn has to wait until something is built.
    packet: Option<OwnValue>,
    /// What it takes while it waits.
    pub(super) memory_bytes: usize,
}

impl Decoded {
    /// Keeps the packet, as the turn has to wait.
    fn keep(&mut self, packet: View<'_>) {
        self.packet = OwnValue::new(packet.span().to_vec());
        self.events.shrink_to_fit();
        let own: usize = self.events.iter().map(Event::memory_bytes).sum();
        self.memory_bytes = own + self.packet.as_ref().map_or(0, OwnValue::memory_bytes);
    }
}

/// How far a turn came.
pub(super) enum Applied {
    Whole,
    /// Something large is being built: call again.
    Building,
}

impl Session {
    /// Applies a decoded turn. `packet` is what it was decoded from.
    pub(super) fn apply(
        self: &Arc<Self>,
        decoded: &mut Decoded,
        packet: Option<View<'_>>,
        inbound: &mut Inbound,
        local: &mut Local,
    ) -> Result<Applied, Failure> {
        let ready = self.prepare(decoded, local).and_then(|is_ready| {
            let packet = packet.or(decoded.packet.as_ref().map(OwnValue::view));
            match packet.filter(|_| is_ready) {
                Some(packet) => self.weigh(&decoded.events, packet, local),
                None => Ok(is_ready),
            }
        });
        let is_ready = match ready {
            Ok(is_ready) => is_ready,
            Err(failure) => {
                self.abandon(std::mem::take(decoded), inbound);
                return Err(failure);
            }
        };
        if !is_ready {
            if let Some(packet) = packet {
                decoded.keep(packet);
            }
            return Ok(Applied::Building);
        }
        let Decoded { events, packet: own, .. } = std::mem::take(decoded);
        let Some(packet) = packet.or(own.as_ref().map(OwnValue::view)) else { return Ok(Applied::Whole) };
        local.stage.next_turn();
        let dataspaces = dataspaces_of(&events);
        let mut events: Vec<Option<Event>> = events.into_iter().map(Some).collect();
        for dataspace in &dataspaces {
            self.commit(dataspace, &mut events, packet, inbound, local);
        }
        self.apply_others(events, packet, inbound, local);
        Ok(Applied::Whole)
    }

    /// Reserves and builds what the turn's observations need, some of it at a time. True when all is ready.
    fn prepare(self: &Arc<Self>, decoded: &mut Decoded, local: &mut Local) -> Result<bool, Failure> {
        /// Stored values looked at in one go for one observation, and observations in one go.
        const BUDGET: usize = 2048;
        const COUNT_MAX: usize = 16;
        let mut count = 0;
        while let Some(event) = decoded.events.get_mut(decoded.prepared) {
            if let Event::Assert { target, subscribes: Some(subscribes), .. } = event
                && let Entity::Dataspace(dataspace) = target.entity()
            {
                if count == COUNT_MAX {
                    return Ok(false);
                }
                count += 1;
                if subscribes.prepared.is_none() {
                    subscribes.prepared = Some(self.reserve(dataspace, subscribes)?);
                }
                if let Some(prepared) = &subscribes.prepared {
                    let is_ready = dataspace.index.advance(prepared, BUDGET, &mut local.scratch);
                    let max = || self.broker().limits().principal_captures;
                    if !is_ready.map_err(|Overdrawn| Failure::TooManyCaptures(max()))? {
                        return Ok(false);
                    }
                }
            }
            decoded.prepared += 1;
        }
        Ok(true)
    }

    fn reserve(
        self: &Arc<Self>,
        dataspace: &Dataspace,
        subscribes: &Subscribes,
    ) -> Result<Prepared<Router>, Failure> {
        use staunch_index::Endpoint as _;
        let admit = |alike| SkeletonShare::take(self.holdings(), alike, &self.broker().limits());
        let domain = self.target_of(&subscribes.observer).handle_domain();
        let payer = CapturesPayer::new(self.holdings(), self.id());
        dataspace.index.prepare(&subscribes.pattern, domain, payer, admit)
    }

    /// Where the events of an observation go that the session asks for.
    fn target_of(&self, observer: &Cap) -> Target {
        Target::of(observer, self.id(), self.holdings().number())
    }

    /// Whether a turn may come to what it would, in each of the dataspaces that it concerns, and take what that takes. False
    /// if somebody has to go first, who has been told to.
    fn weigh(&self, events: &[Event], packet: View<'_>, local: &mut Local) -> Result<bool, Failure> {
        let size = |event: &Event| event.value_bytes(packet) as u64 + FRAME_BYTES;
        let once: u64 = events.iter().map(size).sum();
        let mut weight = Weight::new(events.len(), once, self);
        for dataspace in dataspaces_of(events) {
            let reader = dataspace.index.read();
            if events.len() as u64 * reader.effort_max() > EFFORT_MAX {
                let mut effort = Effort::default();
                each_value(&dataspace, events, packet, |value, _| effort.add(reader.effort(value)))?;
            }
            let observers = reader.observers() as u64;
            if once.saturating_mul(observers) <= self.broker().fan_out_max
                && events.len() as u64 * observers <= LIGHT_PAIRS_MAX
            {
                continue;
            }
            let scratch = &mut local.scratch;
            let weighed = each_value(&dataspace, events, packet, |value, kind| {
                weight.add(value, kind, &reader, scratch)
            });
            match weighed {
                Ok(()) => {}
                Err(Heavy::TooWide(max)) => return Err(Failure::TurnTooWide(max)),
                Err(Heavy::Multiplied(sessions, why, max)) => {
                    sessions.into_iter().for_each(|session| self.broker().end_session(session, why(max)));
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Gives up a turn that has had no effect, and shall have none.
    pub(super) fn abandon(&self, decoded: Decoded, inbound: &mut Inbound) {
        for event in decoded.events {
            match event {
                Event::Assert { target, subscribes: Some(subscribes), .. } => {
                    if let (Entity::Dataspace(dataspace), Some(prepared)) =
                        (target.entity(), subscribes.prepared)
                    {
                        dataspace.index.write().cancel(prepared);
                    }
                }
                Event::Retract { held, .. } => inbound.leftovers.push(held),
                _ => {}
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
                        subscribes.take().and_then(|s| Some((s.prepared?, self.target_of(&s.observer))));
                    let author = || Some(Author::new(self.holdings(), self.id()));
                    let extra = References::of(caps, author);
                    positions.push((*i, at));
                    asserted.push((!brief[*i]).then(|| handle.clone()));
                    Action::Assert { value, extra, observe }
                }
                Event::Message { value, caps: more, .. } => {
                    caps.extend(more.drain(..));
                    Action::Message(view(value, packet))
                }
                Event::RetractSame { assert } => {
                    let Ok(at) = positions.binary_search_by_key(assert, |(i, _)| *i) else { continue };
                    Action::RetractSame(positions[at].1)
                }
                Event::Retract { held, .. } => {
                    let Some(stored) = stored_of(held) else { continue };
                    exclusive |= stored.may_observe();
                    Action::Retract(stored)
                }
                Event::Sync { .. } => continue,
            });
        }
        cap::sort(&mut caps);
        let mut placed = Vec::new();
        let Local { stage, scratch, .. } = local;
        let mut sink = Commit { stage, broker: self.broker(), caps: &caps };
        if exclusive {
            dataspace.index.write().commit(Some(self.id()), &mut actions, &mut placed, scratch, &mut sink);
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

    /// Retracts some of what the peer has asserted, at the session's end. Returns whether there may be more.
    pub(super) fn retract_some(self: &Arc<Self>, inbound: &mut Inbound, local: &mut Local) -> bool {
        const COUNT: usize = 256;
        let keep = inbound.leftovers.len().saturating_sub(COUNT);
        let mut taken = inbound.leftovers.split_off(keep);
        taken.extend(inbound.handles.take_some(COUNT - taken.len()));
        let mut rest: Vec<Option<Held>> = taken.into_iter().map(Some).collect();
        let mut slice = Slice::default();
        while let Some(dataspace) = {
            let membrane = self.membrane();
            rest.iter().flatten().find_map(|held| dataspace_of(&membrane, held))
        } {
            self.retract_piece(&dataspace, &mut rest, local);
            if slice.ends() {
                inbound.leftovers.extend(rest.drain(..).flatten());
            }
        }
        for held in rest.into_iter().flatten() {
            if let Held::Full(full) = held {
                self.retract_at(&full.target, &full.what, local);
            }
        }
        local.stage.publish_staged(self.broker());
        inbound.handles.len() > 0 || !inbound.leftovers.is_empty()
    }

    /// Retracts those of `rest` that are in one dataspace, in one turn; only some of them, if that may take long.
    fn retract_piece(self: &Arc<Self>, dataspace: &Dataspace, rest: &mut [Option<Held>], local: &mut Local) {
        /// So many at most that take more than this each.
        const PIECE: usize = 16;
        const EFFORT_SHORT: u64 = 256;
        let is_long = dataspace.index.read().effort_max() > EFFORT_SHORT;
        let piece = if is_long { PIECE } else { rest.len() };
        let mut exclusive = false;
        let mut actions = Vec::new();
        for held in rest {
            if actions.len() == piece {
                break;
            }
            let found = held.as_ref().and_then(|held| dataspace_of(&self.membrane(), held));
            if !found.is_some_and(|found| std::ptr::eq(&*found, dataspace)) {
                continue;
            }
            if let Some(stored) = held.take().as_ref().and_then(stored_of) {
                exclusive |= stored.may_observe();
                actions.push(Action::Retract(stored));
            }
        }
        local.stage.next_turn();
        let Local { stage, scratch, .. } = local;
        let mut sink = Commit { stage, broker: self.broker(), caps: &Caps::new() };
        let mut placed = Vec::new();
        if exclusive {
            dataspace.index.write().commit(Some(self.id()), &mut actions, &mut placed, scratch, &mut sink);
        } else {
            dataspace.index.read().commit(&mut actions, &mut placed, scratch, &mut sink);
        }
    }
}

/// Looks at the values of those of a turn's events that one dataspace gets.
fn each_value<E>(
    dataspace: &Arc<Dataspace>,
    events: &[Event],
    packet: View<'_>,
    mut look: impl FnMut(View<'_>, Kind) -> Result<(), E>,
) -> Result<(), E> {
    let mut scanner = crate::attenuate::stored_scanner();
    for event in events {
        // What the turn asserts itself and retracts again is in the place of the assertion.
        let (event, kind) = match event {
            Event::RetractSame { assert } => (&events[*assert], Kind::Retraction),
            event => (event, Kind::Captured),
        };
        if !event.dataspace().is_some_and(|d| Arc::ptr_eq(&d, dataspace)) {
            continue;
        }
        let stored = event.stored();
        let (value, kind) = match (event, &stored) {
            (Event::Assert { value, .. } | Event::Message { value, .. }, _) => (view(value, packet), kind),
            (_, Some(stored)) => {
                scanner.reset();
                // It has been scanned before.
                let Ok(_) = scanner.scan(stored.bytes()) else { continue };
                (scanner.view(stored.bytes()), Kind::Retraction)
            }
            _ => continue,
        };
        look(value, kind)?;
    }
    Ok(())
}

/// The dataspaces that events are for.
fn dataspaces_of(events: &[Event]) -> Vec<Arc<Dataspace>> {
    let mut dataspaces: Vec<Arc<Dataspace>> = Vec::new();
    for dataspace in events.iter().filter_map(Event::dataspace) {
        if !dataspaces.iter().any(|d| Arc::ptr_eq(d, &dataspace)) {
            dataspaces.push(dataspace);
        }
    }
    dataspaces
}

/// Takes out, in order, the events for one dataspace. Also tells of each event whether it is an assertion there that
/// the turn retracts again.
fn take_for(dataspace: &Arc<Dataspace>, events: &mut [Option<Event>]) -> (Vec<(usize, Event)>, Vec<bool>) {
    let (mut order, mut brief) = (Vec::new(), vec![false; events.len()]);
    let mut mine = vec![false; events.len()];
    for (i, event) in events.iter_mut().enumerate() {
        mine[i] = match event {
            // A retraction of what this turn asserts goes with the assertion.
            Some(Event::RetractSame { assert }) if mine[*assert] => {
                brief[*assert] = true;
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

impl Event {
    /// What it retracts, if that is stored.
    fn stored(&self) -> Option<Stored<Router>> {
        match self {
            Event::Retract { held, .. } => stored_of(held),
            _ => None,
        }
    }

    /// What it takes, as it waits to be applied, in all: with what goes by its handle until then.
    fn memory_bytes(&self) -> usize {
        let own = |value: &Value| match value {
            Value::InPacket(_) => 0,
            Value::Own(own) => size_of::<OwnValue>() + own.memory_bytes(),
        };
        let beside = match self {
            Event::Assert { value, subscribes, .. } => {
                let pattern = |s: &Subscribes| size_of::<Subscribes>() + s.pattern.memory_bytes();
                own(value) + size_of::<FullHeld>() + subscribes.as_deref().map_or(0, pattern)
            }
            Event::Message { value, .. } => own(value),
            // What they hold is there anyway, or small.
            Event::Retract { .. } | Event::RetractSame { .. } | Event::Sync { .. } => 0,
        };
        size_of::<Event>() + beside
    }

    /// How long the value is that it brings.
    fn value_bytes(&self, packet: View<'_>) -> usize {
        match self {
            Event::Assert { value, .. } | Event::Message { value, .. } => view(value, packet).span().len(),
            _ => 0,
        }
    }

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

//! What was read: packets, the fast ways for turns of messages and of plain events (see `plain`), and the general way
//! for the rest.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use smallvec::SmallVec;
use staunch_index::{Reader, Scratch};
use staunch_protocols::caveat::{Caveats, Outcome};
use staunch_protocols::packet::{self, Event, Packet};
use staunch_protocols::wire::{Int, Limits, Prefix, Progress, Scanner, View, canonicalize, tag};

use super::super::failure::Failure;
use super::super::turn::Applied;
use super::super::weigh::{EFFORT_MAX, Effort, FRAME_BYTES, Heavy, Kind, Light, Weight};
use super::plain::PlainRun;
use super::{Inbound, Session};
use crate::Local;
use crate::attenuate::LIGHT_WORK_MAX;
use crate::cap::{Cap, Entity};
use crate::dataspace::{Dataspace, Router};
use crate::stage::{FLUSH_MAX, Stage};

/// Turns routed under one hold of a dataspace's shared lock.
const TURNS_PER_HOLD: u32 = 256;

/// What caveats made of a message last may stay allocated up to this size.
const REWRITTEN_KEPT_MAX: usize = 64 << 10;

/// How handling went on.
pub(super) enum Step {
    Next,
    Unfinished,
    Building,
}

/// What the bytes behind those that were handled are in.
pub(super) enum Syntax {
    /// They come later, or have to wait.
    Same,
    Text,
    Binary,
}

/// What the fast way stopped at.
enum Found {
    Nothing,
    Unfinished,
    Packet(usize),
}

/// The dataspace that a session last sent an event to, for the fast ways.
pub(super) struct MessageTarget {
    pub(super) oid: i64,
    dataspace: Arc<Dataspace>,
    /// What restricts it, if anything does.
    pub(super) caveats: Option<Caveats>,
    /// The membrane's count of removals when the oid was looked up.
    removals: u64,
    /// What a packet with one message for it begins with.
    prefix: Prefix,
}

impl MessageTarget {
    /// What the peer calls `oid`, if that is a dataspace.
    fn new(oid: i64, cap: &Cap, removals: u64, limits: Limits) -> Option<MessageTarget> {
        let Entity::Dataspace(dataspace) = cap.entity() else { return None };
        let (dataspace, caveats) = (dataspace.clone(), cap.caveats().cloned());
        let mut bytes = vec![tag::SEQUENCE];
        packet::frame::open(&mut bytes, &Int::Small(oid), b'M');
        let prefix = Prefix::new(&bytes, limits)?;
        Some(MessageTarget { oid, dataspace, caveats, removals, prefix })
    }

    /// Puts the tokens of the bodies in a packet to `bodies`. False if it is not a turn of nothing but messages
    /// for this target.
    fn read_bodies(&self, packet: View<'_>, bodies: &mut SmallVec<[u32; 8]>) -> Result<bool, Failure> {
        bodies.clear();
        let Some(turn) = packet::Turn::of(packet) else { return Ok(false) };
        for event in turn.events() {
            match event.map_err(Failure::Packet)? {
                packet::TurnEvent { oid, event: Event::Message { body } }
                    if oid.as_i64() == Some(self.oid) =>
                {
                    bodies.push(body.token());
                }
                _ => return Ok(false),
            }
        }
        Ok(true)
    }
}

/// Routes a turn of messages.
#[inline]
fn route(
    packet: View<'_>,
    bodies: &[u32],
    reader: &Reader<'_, Router>,
    stage: &mut Stage,
    scratch: &mut Scratch,
) {
    stage.next_turn();
    for body in bodies {
        reader.route(packet.at(*body), scratch, |to, captures| stage.messages(to, captures));
    }
}

/// Scans one packet.
fn scan_one(bytes: &[u8], scanner: &mut Scanner) -> Result<(usize, Found), Failure> {
    match scanner.scan(bytes).map_err(Failure::Scan)? {
        Progress::Complete(length) => Ok((0, Found::Packet(length))),
        Progress::Incomplete(_) => Ok((0, Found::Unfinished)),
    }
}

/// A run's share of time: what a peer sends can be much work for its bytes.
pub(crate) struct Slice {
    began: Instant,
    packets: u32,
    /// Those of them that are no turns, or turns that have not been applied yet.
    others: u32,
    is_over: bool,
}

impl Default for Slice {
    /// One that begins now.
    fn default() -> Slice {
        Slice { began: Instant::now(), packets: 0, others: 0, is_over: false }
    }
}

impl Slice {
    const LENGTH: Duration = Duration::from_millis(1);
    /// Packets between looks at the clock: a message may have many skeletons to be looked up in.
    const PACKETS: u32 = 16;

    /// Leaves out what has been spent on something else. A flush is bounded by itself, and what it earns is credit for
    /// what is at hand: to begin a new run after each costs wide fan-outs a third of their throughput.
    fn exclude(&mut self, spent: Duration) {
        self.began += spent;
    }

    /// Whether its time is over, as of now.
    pub(crate) fn ends(&mut self) -> bool {
        self.look();
        self.is_over
    }

    /// Something has been done that may have taken long.
    fn look(&mut self) {
        self.is_over = self.began.elapsed() > Slice::LENGTH;
    }

    /// How many turns have been handled.
    pub(super) fn turns(&self) -> u64 {
        u64::from(self.packets.saturating_sub(self.others))
    }

    /// One more packet has been handled.
    #[inline]
    fn count(&mut self) {
        self.packets += 1;
        if self.packets.is_multiple_of(Slice::PACKETS) {
            self.look();
        }
    }
}

impl Session {
    /// Handles the packets in `bytes`. Returns how many bytes it is done with: all but an unfinished packet in binary,
    /// for which the scanner's state is kept, or but what has to wait.
    pub(super) fn handle(
        self: &Arc<Self>,
        bytes: &[u8],
        inbound: &mut Inbound,
        local: &mut Local,
    ) -> Result<usize, Failure> {
        local.slice = Slice::default();
        let mut done = 0;
        loop {
            let rest = &bytes[done..];
            let (length, syntax) = match inbound.text {
                None => self.handle_binary(rest, inbound, local)?,
                Some(_) => self.handle_text(rest, inbound, local)?,
            };
            done += length;
            match syntax {
                Syntax::Same => break,
                Syntax::Text => self.begin_text(bytes[done], inbound)?,
                Syntax::Binary => self.end_text(inbound),
            }
        }
        inbound.is_known |= done > 0;
        inbound.count_turns(local.slice.turns());
        Ok(done)
    }

    fn handle_binary(
        self: &Arc<Self>,
        bytes: &[u8],
        inbound: &mut Inbound,
        local: &mut Local,
    ) -> Result<(usize, Syntax), Failure> {
        let mut scanner = match inbound.scanner.take() {
            Some(scanner) => scanner,
            None => local.take_scanner(self.packet_limits(inbound)),
        };
        let mut done = 0;
        let result = loop {
            if done == bytes.len() || self.is_held_up(inbound, local) {
                break Ok(Step::Next);
            }
            if self.is_introduced(inbound) {
                // What has been scanned of a packet is scanned again, by the bounds of those who are known.
                local.put_scanner(std::mem::replace(&mut scanner, Scanner::new(self.packet)));
            }
            if bytes[done] < 0x80 {
                local.put_scanner(scanner);
                return Ok((done, Syntax::Text));
            }
            match self.handle_some(&bytes[done..], &mut scanner, inbound, local) {
                Ok((n, Step::Next)) => done += n,
                Ok((n, step)) => {
                    done += n;
                    break Ok(step);
                }
                Err(failure) => break Err(failure),
            }
        };
        match result {
            Ok(Step::Unfinished) => inbound.scanner = Some(scanner),
            Ok(_) => local.put_scanner(scanner),
            Err(Failure::Scan(error)) if inbound.is_stranger => return Err(Failure::of_stranger(error)),
            Err(failure) => return Err(failure),
        }
        Ok((done, Syntax::Same))
    }

    /// Whether it has to wait before the next packet. What is staged is flushed if that may help.
    #[inline]
    pub(super) fn is_held_up(&self, inbound: &Inbound, local: &mut Local) -> bool {
        if local.slice.is_over || local.stage.has_full() && !inbound.is_hanging_up {
            return true;
        }
        if local.stage.cost() + self.account.debt() > self.account.limit() && !inbound.is_hanging_up {
            local.stage.publish_staged(&self.broker);
            if local.stage.dirty_count() > FLUSH_MAX {
                // In pieces, at the end of the run.
                return true;
            }
            let flush = Instant::now();
            local.stage.flush(&mut local.scratch);
            local.slice.exclude(flush.elapsed());
            return !self.account.is_clear();
        }
        false
    }

    /// Handles packets until something is in the way.
    pub(super) fn handle_some(
        self: &Arc<Self>,
        bytes: &[u8],
        scanner: &mut Scanner,
        inbound: &mut Inbound,
        local: &mut Local,
    ) -> Result<(usize, Step), Failure> {
        let (done, found) = self.run_messages(bytes, scanner, inbound, local)?;
        let length = match found {
            Found::Nothing => return Ok((done, Step::Next)),
            Found::Unfinished => return Ok((done, Step::Unfinished)),
            Found::Packet(length) => length,
        };
        let packet = &bytes[done..done + length];
        let step = if scanner.is_canonical() {
            self.handle_packet(scanner.view(packet), inbound, local)?
        } else {
            let mut canonical = Vec::with_capacity(length);
            canonicalize(scanner.view(packet), &mut canonical).map_err(Failure::Duplicate)?;
            let mut again = Scanner::new(self.packet);
            again.scan(&canonical).map_err(Failure::Scan)?;
            self.handle_packet(again.view(&canonical), inbound, local)?
        };
        scanner.reset();
        local.slice.count();
        Ok((done + length, step))
    }

    /// The fast ways: packets that hold nothing but messages, or plain events, for one dataspace, without references.
    /// Stops after the first packet that is something else (scanned, not handled), or when it is time to look up.
    ///
    /// What it routes is in the outboxes before it lets go of the dataspace, and of the bags that it changed: who
    /// unsubscribes after that gets nothing any more, and nobody is told of a later change first.
    fn run_messages(
        self: &Arc<Self>,
        bytes: &[u8],
        scanner: &mut Scanner,
        inbound: &mut Inbound,
        local: &mut Local,
    ) -> Result<(usize, Found), Failure> {
        let target = match inbound.target.take() {
            // Acquire: pairs with the Release in note_removals().
            Some(target) if target.removals == self.removals.load(Ordering::Acquire) => target,
            stale => {
                inbound.target = stale;
                return scan_one(bytes, scanner);
            }
        };
        let reader = target.dataspace.index.read();
        let mut run = PlainRun::new(&reader);
        let result = self.route_some(bytes, scanner, &target, (&reader, &mut run), inbound, local);
        local.stage.publish_staged(&self.broker);
        self.settle(&run, &target);
        drop(run);
        drop(reader);
        inbound.target = Some(target);
        result
    }

    fn route_some(
        &self,
        bytes: &[u8],
        scanner: &mut Scanner,
        target: &MessageTarget,
        (reader, run): (&Reader<'_, Router>, &mut PlainRun<'_>),
        inbound: &mut Inbound,
        local: &mut Local,
    ) -> Result<(usize, Found), Failure> {
        let credit = self.account.limit().saturating_sub(self.account.debt());
        // A longer turn might come to more than one may: that is looked into first.
        let light = Light::of(self.broker.fan_out_max, reader.observers());
        let effort_max = reader.effort_max();
        let mut done = 0;
        let mut bodies: SmallVec<[u32; 8]> = SmallVec::new();
        for _ in 0..TURNS_PER_HOLD {
            let rest = &bytes[done..];
            if rest.first().is_none_or(|first| *first < 0x80) {
                break;
            }
            if let Some((length, body)) = scanner.scan_within(&target.prefix, rest) {
                let single = [body.token()];
                if !light.allows_one(length) && self.must_wait(body, &single, reader, &mut local.scratch)? {
                    scanner.reset();
                    return scan_one(rest, scanner).map(|(_, found)| (done, found));
                }
                run.pause(&self.broker, &mut local.stage);
                match &target.caveats {
                    None => route(body, &single, reader, &mut local.stage, &mut local.scratch),
                    Some(caveats) => {
                        if !self.route_restricted(caveats, body, light, reader, local)? {
                            scanner.reset();
                            return scan_one(rest, scanner).map(|(_, found)| (done, found));
                        }
                    }
                }
                done += length;
            } else {
                let length = match scanner.scan(rest).map_err(Failure::Scan)? {
                    Progress::Complete(length) => length,
                    Progress::Incomplete(_) => return Ok((done, Found::Unfinished)),
                };
                let packet = scanner.view(rest);
                // Behind caveats several at once may grow: see `restrict` in `turn::decode`.
                if scanner.embedded() > 0 || !scanner.is_canonical() || target.caveats.is_some() {
                    return Ok((done, Found::Packet(length)));
                }
                let is_light = light.allows(length);
                if target.read_bodies(packet, &mut bodies)? {
                    if bodies.len() as u64 * effort_max > EFFORT_MAX {
                        let mut effort = Effort::default();
                        bodies.iter().try_for_each(|body| effort.add(reader.effort(packet.at(*body))))?;
                    }
                    if !is_light && self.must_wait(packet, &bodies, reader, &mut local.scratch)? {
                        return Ok((done, Found::Packet(length)));
                    }
                    run.pause(&self.broker, &mut local.stage);
                    route(packet, &bodies, reader, &mut local.stage, &mut local.scratch);
                } else if !is_light || !self.apply_plain(packet, target, run, inbound, local)? {
                    return Ok((done, Found::Packet(length)));
                }
                scanner.reset();
                done += length;
            }
            local.slice.count();
            // Acquire: as in run_messages(). A turn may have let go of the target itself.
            let is_stale = target.removals != self.removals.load(Ordering::Acquire);
            if local.stage.cost() > credit || local.slice.is_over || is_stale || run.may_be_last() {
                break;
            }
        }
        Ok((done, Found::Nothing))
    }

    /// Routes what caveats let pass of a message. False if it has to wait.
    #[inline]
    fn route_restricted(
        &self,
        caveats: &Caveats,
        body: View<'_>,
        light: Light,
        reader: &Reader<'_, Router>,
        local: &mut Local,
    ) -> Result<bool, Failure> {
        // There are no references in it to be attenuated.
        let Local { stage, scratch, caveats: machine, slice, .. } = local;
        let outcome = caveats.apply(body, machine, &mut |_, _| None);
        if machine.work() > LIGHT_WORK_MAX {
            slice.look();
        }
        match outcome {
            Outcome::Dropped => return Ok(true),
            Outcome::Unchanged => route(body, &[body.token()], reader, stage, scratch),
            Outcome::Rewritten => {
                let body = machine.view();
                if !light.allows_one(body.span().len())
                    && self.must_wait(body, &[body.token()], reader, scratch)?
                {
                    return Ok(false);
                }
                route(body, &[body.token()], reader, stage, scratch);
                stage.forget_shared();
            }
        }
        if machine.output().len() > REWRITTEN_KEPT_MAX {
            machine.shrink();
        }
        Ok(true)
    }

    /// Whether a turn of messages has to wait, the general way, for somebody who multiplies it.
    #[cold]
    fn must_wait(
        &self,
        packet: View<'_>,
        bodies: &[u32],
        reader: &Reader<'_, Router>,
        scratch: &mut Scratch,
    ) -> Result<bool, Failure> {
        let bytes: usize = bodies.iter().map(|body| packet.at(*body).span().len()).sum();
        let once = bytes as u64 + bodies.len() as u64 * FRAME_BYTES;
        let mut weight = Weight::new(bodies.len(), once, self);
        let mut add = |body: &u32| weight.add(packet.at(*body), Kind::Message, reader, scratch);
        match bodies.iter().try_for_each(&mut add) {
            Ok(()) => Ok(false),
            Err(Heavy::Multiplied(..)) => Ok(true),
            Err(Heavy::TooWide(max)) => Err(Failure::TurnTooWide(max)),
        }
    }

    /// Any packet, in canonical form.
    fn handle_packet(
        self: &Arc<Self>,
        packet: View<'_>,
        inbound: &mut Inbound,
        local: &mut Local,
    ) -> Result<Step, Failure> {
        let turn = match Packet::read(packet).map_err(Failure::Packet)? {
            Packet::Nop => {
                local.slice.others += 1;
                return Ok(Step::Next);
            }
            Packet::Extension(extension) => {
                self.take_extension(extension, inbound, local);
                local.slice.others += 1;
                return Ok(Step::Next);
            }
            Packet::Error { message, .. } => return Err(Failure::peer(message)),
            Packet::Turn(turn) => turn,
        };
        let mut decoded = self.decode(turn, inbound)?;
        if decoded.filtered_work > LIGHT_WORK_MAX {
            local.slice.look();
        }
        self.remember_target(turn, inbound);
        match self.apply(&mut decoded, Some(packet), inbound, local)? {
            Applied::Whole => Ok(Step::Next),
            Applied::Building => {
                local.slice.others += 1;
                inbound.waiting = Some(Box::new(decoded));
                Ok(Step::Building)
            }
        }
    }

    /// Notes the dataspace that the turn's first event is for, for the fast way.
    fn remember_target(&self, turn: packet::Turn<'_>, inbound: &mut Inbound) {
        let Some(Ok(packet::TurnEvent { oid, event })) = turn.events().next() else { return };
        if matches!(event, Event::Sync { .. }) {
            return;
        }
        let Some(oid) = oid.as_i64() else { return };
        let membrane = self.membrane();
        if let Some(cap) = membrane.exported(&Int::Small(oid))
            && let Some(target) = MessageTarget::new(oid, cap, membrane.removals, self.packet)
        {
            inbound.target = Some(target);
        }
    }
}

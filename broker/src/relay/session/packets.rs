//! What was read: packets, the fast way for turns of messages and the general way for the rest.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use smallvec::SmallVec;
use staunch_index::Reader;
use staunch_protocols::packet::{self, Event, Packet};
use staunch_protocols::wire::{Int, Progress, Scanner, View, canonicalize};

use super::super::turn::Applied;
use super::{Failure, Inbound, Session};
use crate::Local;
use crate::cap::Entity;
use crate::dataspace::Router;

/// Turns routed under one hold of a dataspace's shared lock.
const TURNS_PER_HOLD: u32 = 256;

/// How handling went on.
enum Step {
    Next,
    Unfinished,
    Building,
}

/// What the fast way stopped at.
enum Found {
    Nothing,
    Unfinished,
    Packet(usize),
}

/// A run's share of time: what a peer sends can be much work for its bytes.
struct Slice {
    began: Instant,
    steps: u32,
}

impl Slice {
    const LENGTH: Duration = Duration::from_millis(1);
    /// Steps between looks at the clock.
    const STEPS: u32 = 16;

    fn begin() -> Slice {
        Slice { began: Instant::now(), steps: 0 }
    }

    fn is_over(&mut self) -> bool {
        self.steps += 1;
        self.steps.is_multiple_of(Slice::STEPS) && self.began.elapsed() > Slice::LENGTH
    }
}

impl Session {
    /// Handles the packets in `bytes`. Returns how many bytes it is done with: all but an unfinished packet, for
    /// which the scanner's state is kept, or but what has to wait.
    pub(super) fn handle(
        self: &Arc<Self>,
        bytes: &[u8],
        inbound: &mut Inbound,
        local: &mut Local,
    ) -> Result<usize, Failure> {
        let mut scanner = match inbound.scanner.take() {
            Some(scanner) => scanner,
            None => local.scanners.pop().unwrap_or_else(|| Scanner::new(self.config.packet)),
        };
        let mut done = 0;
        let mut slice = Slice::begin();
        let result = loop {
            if done == bytes.len() || slice.is_over() {
                break Ok(false);
            }
            if local.stage.has_full() && !inbound.is_hanging_up {
                break Ok(false);
            }
            if local.stage.cost() + self.account.debt() > self.account.limit() && !inbound.is_hanging_up {
                local.stage.publish_staged(&self.broker);
                local.stage.flush(&mut local.scratch);
                if !self.account.is_clear() {
                    break Ok(false);
                }
            }
            if bytes[done] < 0x80 {
                break Err(Failure::Text);
            }
            match self.handle_some(&bytes[done..], &mut scanner, inbound, local) {
                Ok((n, Step::Next)) => done += n,
                Ok((n, Step::Unfinished)) => {
                    done += n;
                    break Ok(true);
                }
                Ok((n, Step::Building)) => {
                    done += n;
                    break Ok(false);
                }
                Err(failure) => break Err(failure),
            }
        };
        match result {
            Ok(true) => inbound.scanner = Some(scanner),
            Ok(false) => local.put_scanner(scanner),
            Err(failure) => return Err(failure),
        }
        Ok(done)
    }

    /// Handles packets until something is in the way.
    fn handle_some(
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
            let mut again = Scanner::new(self.config.packet);
            again.scan(&canonical).map_err(Failure::Scan)?;
            self.handle_packet(again.view(&canonical), inbound, local)?
        };
        scanner.reset();
        Ok((done + length, step))
    }

    /// The fast way: packets that hold nothing but messages for one dataspace, without references. Stops after
    /// the first packet that is something else (scanned, not handled), or when it is time to look up.
    ///
    /// What it routes is in the outboxes before it lets go of the dataspace: who unsubscribes after that gets
    /// nothing any more.
    fn run_messages(
        self: &Arc<Self>,
        bytes: &[u8],
        scanner: &mut Scanner,
        inbound: &Inbound,
        local: &mut Local,
    ) -> Result<(usize, Found), Failure> {
        let cached = inbound.target.as_ref().filter(|(.., removals)| {
            // Acquire: pairs with the Release in note_removals().
            *removals == self.removals.load(Ordering::Acquire)
        });
        let target = cached.map(|(oid, dataspace, _)| (*oid, dataspace.index.read()));
        let result = self.route_messages(bytes, scanner, target.as_ref(), local);
        local.stage.publish_staged(&self.broker);
        result
    }

    fn route_messages(
        &self,
        bytes: &[u8],
        scanner: &mut Scanner,
        target: Option<&(i64, Reader<'_, Router>)>,
        local: &mut Local,
    ) -> Result<(usize, Found), Failure> {
        let credit = self.account.limit().saturating_sub(self.account.debt());
        let Local { stage, scratch, .. } = local;
        let mut done = 0;
        let mut bodies: SmallVec<[u32; 8]> = SmallVec::new();
        for _ in 0..TURNS_PER_HOLD {
            if done == bytes.len() || bytes[done] < 0x80 {
                return Ok((done, Found::Nothing));
            }
            let length = match scanner.scan(&bytes[done..]).map_err(Failure::Scan)? {
                Progress::Complete(length) => length,
                Progress::Incomplete(_) => return Ok((done, Found::Unfinished)),
            };
            let packet = &bytes[done..done + length];
            let Some((oid, reader)) = target else { return Ok((done, Found::Packet(length))) };
            if scanner.embedded() > 0 || !scanner.is_canonical() {
                return Ok((done, Found::Packet(length)));
            }
            {
                let Ok(Packet::Turn(turn)) = Packet::read(scanner.view(packet)) else {
                    return Ok((done, Found::Packet(length)));
                };
                for event in turn.events() {
                    match event.map_err(Failure::Packet)? {
                        packet::TurnEvent { oid: to, event: Event::Message { body } }
                            if to.as_i64() == Some(*oid) =>
                        {
                            bodies.push(body.token());
                        }
                        _ => return Ok((done, Found::Packet(length))),
                    }
                }
                stage.next_turn();
                for token in bodies.drain(..) {
                    reader
                        .message(turn.view().at(token), scratch, |to, captures| stage.message(to, captures));
                }
            }
            scanner.reset();
            done += length;
            if stage.cost() > credit {
                break;
            }
        }
        Ok((done, Found::Nothing))
    }

    /// Any packet, in canonical form.
    fn handle_packet(
        self: &Arc<Self>,
        packet: View<'_>,
        inbound: &mut Inbound,
        local: &mut Local,
    ) -> Result<Step, Failure> {
        let turn = match Packet::read(packet).map_err(Failure::Packet)? {
            Packet::Nop | Packet::Extension(_) => return Ok(Step::Next),
            Packet::Error { message, .. } => return Err(Failure::Peer(message.to_owned())),
            Packet::Turn(turn) => turn,
        };
        let mut decoded = self.decode(turn, inbound)?;
        self.remember_target(turn, inbound);
        match self.apply(&mut decoded, Some(packet), inbound, local)? {
            Applied::Whole => Ok(Step::Next),
            Applied::Building => {
                inbound.waiting = Some(decoded);
                Ok(Step::Building)
            }
        }
    }

    /// Notes the dataspace that the turn's first message is for, for the fast way.
    fn remember_target(&self, turn: packet::Turn<'_>, inbound: &mut Inbound) {
        let Some(Ok(packet::TurnEvent { oid, event: Event::Message { .. } })) = turn.events().next() else {
            return;
        };
        let Some(oid) = oid.as_i64() else { return };
        let membrane = self.membrane();
        if let Some(cap) = membrane.exported(&Int::Small(oid))
            && cap.caveats().is_none()
            && let Entity::Dataspace(dataspace) = cap.entity()
        {
            inbound.target = Some((oid, dataspace.clone(), membrane.removals));
        }
    }
}

//! The fast way of turns that assert, retract and send plain values in one dataspace: no references in them, no
//! observations, small handles. Nothing is decoded into a form of its own, and of what the general way
//! allocates only the stored values remain.

use smallvec::SmallVec;
use staunch_index::{Action, Run, Stored, looks_like_observe};
use staunch_protocols::packet::{self, Event};
use staunch_protocols::wire::{Int, View};

use super::super::handles::Held;
use super::super::membrane::Ref;
use super::packets::MessageTarget;
use super::{Failure, Inbound, Session};
use crate::Local;
use crate::cap::Caps;
use crate::dataspace::Router;
use crate::stage::Commit;

/// Longer turns go the general way: here, handles are compared with each other.
const EVENTS_MAX: usize = 16;

/// What a plain turn does, as far as it can be told from the packet.
#[derive(Clone, Copy)]
enum Plain {
    /// The value at this token, under this handle.
    Assert(u32, i64),
    Retract(i64),
    Message(u32),
}

type Plains = SmallVec<[Plain; EVENTS_MAX]>;

impl Session {
    /// Takes a turn through, if it is plain. False, and nothing has happened, if it is not (or is wrong: the
    /// general way tells how).
    pub(super) fn apply_plain(
        &self,
        packet: View<'_>,
        target: &MessageTarget,
        run: &mut Run<'_, Router>,
        inbound: &mut Inbound,
        local: &mut Local,
    ) -> Result<bool, Failure> {
        let Some(plains) = self.read_plain(packet, target, inbound)? else { return Ok(false) };
        let (asserts, retracts) = count(&plains);
        let oid = Ref::Exported(target.oid as u64);
        // Held before, released after: so that the entry lives at least as long as what stands on it.
        if asserts > retracts {
            let mut membrane = self.membrane();
            let holds = retracts..asserts;
            // The first tells whether it is there; the others find it there too.
            if holds.map(|_| membrane.hold_exported(&Int::Small(target.oid))).any(|held| held.is_none()) {
                return Ok(false);
            }
        }
        let mut actions: SmallVec<[Action<'_, Router>; 4]> = SmallVec::new();
        for plain in &plains {
            actions.push(match *plain {
                Plain::Assert(token, _) => {
                    Action::Assert { value: packet.at(token), extra: None, observe: None }
                }
                Plain::Message(token) => Action::Message(packet.at(token)),
                Plain::Retract(handle) => match inbound.handles.remove(&Int::Small(handle)) {
                    Some(Held::Plain { stored, .. }) => Action::Retract(stored),
                    // It was looked up a moment ago.
                    _ => continue,
                },
            });
        }
        let Local { stage, scratch, placed, .. } = local;
        placed.clear();
        stage.next_turn();
        let mut sink = Commit { stage, broker: self.broker(), caps: &Caps::new() };
        run.commit(&mut actions, placed, scratch, &mut sink);
        note_placed(&plains, placed, target.oid as u32, inbound);
        if retracts > asserts {
            let mut membrane = self.membrane();
            (asserts..retracts).for_each(|_| membrane.release(&oid));
            self.note_removals(&membrane);
        }
        Ok(true)
    }

    /// Tells what a turn does, if it is plain.
    fn read_plain(
        &self,
        packet: View<'_>,
        target: &MessageTarget,
        inbound: &Inbound,
    ) -> Result<Option<Plains>, Failure> {
        let Ok(packet::Packet::Turn(turn)) = packet::Packet::read(packet) else { return Ok(None) };
        let Ok(oid) = u32::try_from(target.oid) else { return Ok(None) };
        let room = self.config().assertions_max.saturating_sub(inbound.handles.len() as u64);
        let mut plains = Plains::new();
        for event in turn.events() {
            let packet::TurnEvent { oid: to, event } = event.map_err(Failure::Packet)?;
            if plains.len() >= EVENTS_MAX.min(room as usize) || to.as_i64() != Some(target.oid) {
                return Ok(None);
            }
            let plain = match event {
                Event::Message { body } => Some(Plain::Message(body.token())),
                Event::Assert { assertion, handle } => handle
                    .as_i64()
                    .filter(|h| is_new(*h, &plains, inbound) && !looks_like_observe(assertion.span()))
                    .map(|h| Plain::Assert(assertion.token(), h)),
                Event::Retract { handle } => {
                    handle.as_i64().filter(|h| may_retract(*h, oid, &plains, inbound)).map(Plain::Retract)
                }
                Event::Sync { .. } => None,
            };
            match plain {
                Some(plain) => plains.push(plain),
                None => return Ok(None),
            }
        }
        Ok(Some(plains))
    }
}

/// Whether nothing goes by this handle, nor has in this turn.
fn is_new(handle: i64, plains: &Plains, inbound: &Inbound) -> bool {
    !inbound.handles.contains(&Int::Small(handle)) && !is_named(handle, plains)
}

/// Whether the handle stands for a plain value in the target, and has not been named in this turn yet.
fn may_retract(handle: i64, oid: u32, plains: &Plains, inbound: &Inbound) -> bool {
    !is_named(handle, plains)
        && inbound.handles.plain(handle).is_some_and(|(at, stored)| at == oid && !stored.may_observe())
}

fn is_named(handle: i64, plains: &Plains) -> bool {
    plains.iter().any(|p| matches!(p, Plain::Assert(_, h) | Plain::Retract(h) if *h == handle))
}

fn count(plains: &Plains) -> (usize, usize) {
    plains.iter().fold((0, 0), |(asserts, retracts), plain| match plain {
        Plain::Assert(..) => (asserts + 1, retracts),
        Plain::Retract(_) => (asserts, retracts + 1),
        Plain::Message(_) => (asserts, retracts),
    })
}

/// Notes what the turn has placed under its handles.
fn note_placed(plains: &Plains, placed: &mut Vec<Stored<Router>>, oid: u32, inbound: &mut Inbound) {
    let handles = plains.iter().filter_map(|plain| match plain {
        Plain::Assert(_, handle) => Some(*handle),
        _ => None,
    });
    for (handle, stored) in handles.zip(placed.drain(..)) {
        inbound.handles.set(Int::Small(handle), Held::Plain { oid, stored });
    }
}

//! The fast way of turns that assert, retract and send plain values in one dataspace: no references in them, no
//! observations, small handles. Nothing is decoded into a form of its own, and of what the general way
//! allocates only the stored values remain.

use std::sync::Arc;

use smallvec::SmallVec;
use staunch_index::{Action, Reader, Run, Stored, looks_like_observe};
use staunch_protocols::packet::{self, Event};
use staunch_protocols::wire::{Int, View};

use super::super::failure::Failure;
use super::super::handles::Held;
use super::super::membrane::Ref;
use super::packets::MessageTarget;
use super::{Inbound, Session};
use crate::cap::Caps;
use crate::dataspace::Router;
use crate::stage::{Commit, Stage};
use crate::{Broker, Local};

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

/// Plain turns, one after the other, in one dataspace.
pub(super) struct PlainRun<'r> {
    run: Run<'r, Router>,
    /// How many more assertions stand on the target's entry in the membrane than that knows of.
    unsettled: i64,
    /// What else the entry was held by, when the run itself took hold of it: so it lives at least as long as what
    /// stands on it.
    held: Option<i64>,
    /// Of the turn at hand.
    plains: Vec<Plain>,
}

impl<'r> PlainRun<'r> {
    pub(super) fn new(reader: &'r Reader<'_, Router>) -> PlainRun<'r> {
        PlainRun { run: reader.run(), unsettled: 0, held: None, plains: Vec::new() }
    }

    /// Lets go of what plain turns have changed, if something else comes: nobody shall wait for that.
    #[inline]
    pub(super) fn pause(&mut self, broker: &Arc<Broker>, stage: &mut Stage) {
        if self.run.holds() {
            self.run.let_go(&mut Commit { stage, broker, caps: &Caps::new() });
        }
    }

    /// Whether nothing else may hold the target any more: then what comes next may be for a name that is not known.
    pub(super) fn may_be_last(&self) -> bool {
        self.held.is_some_and(|held| held + self.unsettled <= 0)
    }
}

impl Session {
    /// Has the membrane know how many assertions stand on the target. Once per run: mostly as many come as go.
    pub(super) fn settle(&self, run: &PlainRun<'_>, target: &MessageTarget) {
        if run.held.is_none() {
            return;
        }
        let mut membrane = self.membrane();
        (0..run.unsettled - 1).for_each(|_| {
            membrane.hold_exported(&Int::Small(target.oid));
        });
        (run.unsettled..1).for_each(|_| membrane.release(&Ref::Exported(target.oid as u64)));
        self.note_removals(&membrane);
    }

    /// Takes a turn through, if it is plain. False, and nothing has happened, if it is not (or is wrong: the
    /// general way tells how).
    pub(super) fn apply_plain(
        &self,
        packet: View<'_>,
        target: &MessageTarget,
        run: &mut PlainRun<'_>,
        inbound: &mut Inbound,
        local: &mut Local,
    ) -> Result<bool, Failure> {
        run.plains.clear();
        if !self.read_plain(packet, target, inbound, &mut run.plains)? {
            return Ok(false);
        }
        if run.held.is_none() {
            run.held = self.membrane().hold_counted(target.oid as u64);
            if run.held.is_none() {
                return Ok(false);
            }
        }
        let mut actions: SmallVec<[Action<'_, Router>; 4]> = SmallVec::new();
        for plain in &run.plains {
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
        run.run.commit(&mut actions, placed, scratch, &mut sink);
        run.unsettled += note_placed(&run.plains, placed, target.oid as u32, inbound);
        Ok(true)
    }

    /// Tells what a turn does, if it is plain.
    #[inline]
    fn read_plain(
        &self,
        packet: View<'_>,
        target: &MessageTarget,
        inbound: &Inbound,
        plains: &mut Vec<Plain>,
    ) -> Result<bool, Failure> {
        let Some(turn) = packet::Turn::of(packet) else { return Ok(false) };
        let Ok(oid) = u32::try_from(target.oid) else { return Ok(false) };
        let room = inbound.assertions.room().saturating_sub(inbound.handles.len() as u64);
        for event in turn.events() {
            let packet::TurnEvent { oid: to, event } = event.map_err(Failure::Packet)?;
            if plains.len() >= EVENTS_MAX.min(room as usize) || to.as_i64() != Some(target.oid) {
                return Ok(false);
            }
            let plain = match event {
                Event::Message { body } => Some(Plain::Message(body.token())),
                Event::Assert { assertion, handle } => handle
                    .as_i64()
                    .filter(|h| is_new(*h, plains, inbound) && !looks_like_observe(assertion.span()))
                    .map(|h| Plain::Assert(assertion.token(), h)),
                Event::Retract { handle } => {
                    handle.as_i64().filter(|h| may_retract(*h, oid, plains, inbound)).map(Plain::Retract)
                }
                Event::Sync { .. } => None,
            };
            match plain {
                Some(plain) => plains.push(plain),
                None => return Ok(false),
            }
        }
        Ok(true)
    }
}

/// Whether nothing goes by this handle, nor has in this turn.
fn is_new(handle: i64, plains: &[Plain], inbound: &Inbound) -> bool {
    !inbound.handles.contains(&Int::Small(handle)) && !is_named(handle, plains)
}

/// Whether the handle stands for a plain value in the target, and has not been named in this turn yet.
fn may_retract(handle: i64, oid: u32, plains: &[Plain], inbound: &Inbound) -> bool {
    !is_named(handle, plains)
        && inbound.handles.plain(handle).is_some_and(|(at, stored)| at == oid && !stored.may_observe())
}

fn is_named(handle: i64, plains: &[Plain]) -> bool {
    plains.iter().any(|p| matches!(p, Plain::Assert(_, h) | Plain::Retract(h) if *h == handle))
}

/// Notes what the turn has placed under its handles. Returns how many more assertions there are than before.
fn note_placed(plains: &[Plain], placed: &mut Vec<Stored<Router>>, oid: u32, inbound: &mut Inbound) -> i64 {
    let mut placed = placed.drain(..);
    let mut more = 0;
    for plain in plains {
        match plain {
            Plain::Message(_) => {}
            Plain::Retract(_) => more -= 1,
            Plain::Assert(_, handle) => {
                more += 1;
                if let Some(stored) = placed.next() {
                    inbound.handles.set(Int::Small(*handle), Held::Plain { oid, stored });
                }
            }
        }
    }
    more
}

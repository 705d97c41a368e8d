//! The sink of one commit: stages, and publishes under the commit's locks.

use std::sync::Arc;

use staunch_index::{Captures, Replay, Sink, Stored};
use staunch_protocols::wire::tag;

use super::{Body, Stage};
use crate::Broker;
use crate::cap::{Caps, Entity};
use crate::dataspace::{LocalEvent, LocalReplay, Observing, References, Router, Target};
use crate::outbox::{PendingReplay, Segment};
use crate::principals::CapturesPayer;
use crate::relay::{Failure, Remote};

/// As long as a packet may be, by default.
const CAPTURED_BYTES_MAX: usize = 16 << 20;

/// See the module's head.
pub(crate) struct Commit<'s> {
    pub(crate) stage: &'s mut Stage,
    pub(crate) broker: &'s Arc<Broker>,
    /// The capabilities in the turn's messages.
    pub(crate) caps: &'s Caps,
}

impl Commit<'_> {
    fn captured(captures: &Captures<'_>) -> Vec<u8> {
        let mut value = Vec::new();
        Body::Captures(captures).write(&mut value);
        value
    }
}

impl Sink<Router> for Commit<'_> {
    fn message(&mut self, to: &Target, captures: &Captures<'_>) {
        match to {
            Target::Remote(_) if self.caps.is_empty() => self.stage.message(to, captures),
            Target::Remote(remote) => self.stage.direct_message(remote, &Self::captured(captures), self.caps),
            Target::Other(_, by) if self.stage.is_too_much(*by, captures) => {}
            Target::Other(cap, by) => {
                let body = Self::captured(captures);
                let caps = crate::cap::those_in(&body, self.caps);
                self.stage.other(cap, *by, LocalEvent::Message(body, caps));
            }
        }
    }

    fn assert(&mut self, to: &Target, handle: u64, captures: &Captures<'_>, from: &Stored<Router>) {
        match (to, from.extra()) {
            (Target::Remote(remote), None) => {
                self.stage.event(remote, b'A', Some(Body::Captures(captures)), Some(handle));
            }
            (Target::Remote(remote), Some(References { caps, author })) => {
                let references = (caps, author.as_ref());
                self.stage.direct_assert(remote, &Self::captured(captures), references, handle);
            }
            (Target::Other(_, by), _) if self.stage.is_too_much(*by, captures) => {}
            (Target::Other(cap, by), references) => {
                let caps = References::caps_of(references);
                self.stage.other(cap, *by, LocalEvent::Assert(Self::captured(captures), caps, handle));
            }
        }
    }

    fn retract(&mut self, to: &Target, handle: u64, captures: &Captures<'_>, from: &Stored<Router>) {
        match to {
            Target::Remote(remote) => self.stage.direct_retract(remote, handle, from.extra().is_some()),
            Target::Other(cap, by) => {
                // What the caveats dropped was never asserted there, so it is not retracted either.
                let caps = References::caps_of(from.extra());
                if self.stage.has_passed(cap, *by, Self::captured(captures), caps) {
                    self.stage.other(cap, *by, LocalEvent::Retract(handle));
                }
            }
        }
    }

    fn replay(&mut self, to: &Target, replay: Replay<Router>) {
        let Some(account) = self.stage.account.clone() else { return };
        let remote = match to {
            Target::Remote(remote) => remote.clone(),
            Target::Other(cap, by) => match cap.entity() {
                Entity::Remote(remote) => remote.clone(),
                Entity::Dataspace(_) => {
                    // It pulls what it is told, piece by piece, as a peer does.
                    let replay = LocalReplay { replay, to: cap.clone(), account };
                    return self.stage.local_event(cap, *by, LocalEvent::Replay(Box::new(replay)));
                }
                _ => return,
            },
        };
        self.stage.remote_replay(&remote, PendingReplay { replay, to: to.clone(), account });
    }

    fn overdrawn(&mut self, payer: &CapturesPayer) {
        // A session may well have many observations that see the same.
        if self.stage.ends.last().is_none_or(|(session, _)| *session != payer.session) {
            self.stage.ends.push((payer.session, Failure::TooManyCaptures(payer.captures_max())));
        }
    }

    fn publish(&mut self) {
        self.stage.publish_staged(self.broker);
    }
}

impl Stage {
    /// Whether this is more than a value may hold. Captures may be much longer than the value that they are of, and who
    /// gets them may be a dataspace, that observers capture from again. Then the session that set it up is ended.
    pub(super) fn is_too_much(&mut self, by: Observing, captures: &Captures<'_>) -> bool {
        let is_too_much = captures.iter().map(|c| c.len()).sum::<usize>() > CAPTURED_BYTES_MAX;
        if is_too_much && self.ends.last().is_none_or(|(session, _)| *session != by.session) {
            self.ends.push((by.session, Failure::CapturesTooMuch(CAPTURED_BYTES_MAX)));
        }
        is_too_much
    }

    /// Stages a replay, which stands between turns.
    fn remote_replay(&mut self, remote: &Arc<Remote>, pending: PendingReplay) {
        let slot = self.slot(remote);
        if slot.turn != 0 {
            slot.buffer.push(tag::END);
            slot.turn = 0;
        }
        if !slot.buffer.is_empty() {
            slot.segments.push(Segment::Inline(std::mem::take(&mut slot.buffer)));
        }
        slot.segments.push(Segment::Replay(Box::new(pending)));
    }
}

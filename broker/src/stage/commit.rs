//! The sink of one commit: stages, and publishes under the commit's locks.

use std::sync::Arc;

use staunch_index::{Captures, Replay, Sink, Stored};
use staunch_protocols::wire::tag;

use super::{Body, Stage, filter};
use crate::Broker;
use crate::cap::{Caps, Entity};
use crate::dataspace::{LocalEvent, LocalReplay, Router, Target};
use crate::outbox::{PendingReplay, Segment};
use crate::principals::CapturesPayer;
use crate::relay::{Failure, Remote};

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
            (Target::Remote(remote), Some(caps)) => {
                self.stage.direct_assert(remote, &Self::captured(captures), caps, handle);
            }
            (Target::Other(cap, by), caps) => {
                let caps = caps.cloned().unwrap_or_default();
                self.stage.other(cap, *by, LocalEvent::Assert(Self::captured(captures), caps, handle));
            }
        }
    }

    fn retract(&mut self, to: &Target, handle: u64, captures: &Captures<'_>, from: &Stored<Router>) {
        match to {
            Target::Remote(remote) => self.stage.direct_retract(remote, handle, from.extra().is_some()),
            Target::Other(cap, by) => {
                // What the caveats dropped was never asserted there, so it is not retracted either.
                let caps = from.extra().cloned().unwrap_or_default();
                if filter(cap, Self::captured(captures), caps, &mut self.stage.scanner).is_some() {
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

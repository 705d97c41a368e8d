//! How a session ends.
//!
//! 1. *It stops.* Nothing is read or delivered any more. If it ends by this side, its outbox is wound up: the rest of
//!    the packet under way and an Error packet; else the outbox is closed. Either way what it held is settled.
//! 2. *It retracts* what the peer asserted, piece by piece, forgets what crossed the membrane, likewise, and leaves
//!    its debt to its principal.
//! 3. *It lingers*, if it has last words, until the peer has taken them and has ended its side too, or for a few
//!    seconds. Input is read and thrown away meanwhile: unread, it would turn the close into a reset, which can
//!    overtake the Error packet; and a peer that is busy writing might never come to read.
//! 4. *It departs*: its number and its place among its principal's connections are free.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use staunch_protocols::packet;
use staunch_system::net::Shutdown;

use super::super::failure::Failure;
use super::{Inbound, Session};
use crate::Local;
use crate::principals::Holdings;
use crate::relay::membrane::Remains;
use crate::schedule::{Outcome, Ready};

/// Entries of a membrane, of each kind, dropped in one run.
const DROPPED_MAX: usize = 4096;
/// Reads of unwanted input in one run.
const DISCARDS_MAX: usize = 4;

/// How far an end has come.
#[derive(Default)]
pub(super) struct Ending {
    /// It has last words.
    lingers: bool,
    /// It has waited long enough for the peer.
    pub(super) is_overdue: bool,
    /// All that the peer asserted is retracted, and what it owes is its principal's.
    is_retracted: bool,
    remains: Option<Box<Remains>>,
    /// The peer has been told that nothing more comes.
    has_shut_down: bool,
    /// The peer has ended its side.
    peer_has_ended: bool,
}

impl Session {
    /// Has the session end for this reason. From any thread.
    pub(crate) fn end_soon(self: &Arc<Self>, failure: Failure) {
        self.verdict.lock().get_or_insert_with(|| Box::new(failure));
        self.tell(Session::VERDICT);
    }

    /// Whether nothing is left to be done of what the peer has written, nor to be written to it.
    pub(crate) fn is_settled(&self) -> bool {
        // In this order: what is read is handled, and what comes of that staged, in one run.
        let has_read = !self.stream.has_unread().unwrap_or(false);
        self.is_closed() || has_read && self.has_done_its_part() && self.outbox.is_empty()
    }

    /// Whether it ends by this side.
    pub(crate) fn has_failed(&self) -> bool {
        self.inbound.lock().ending.lingers
    }

    /// Whether the beginning of a packet has come, and not its end.
    pub(crate) fn is_within_packet(&self) -> bool {
        let inbound = self.inbound.lock();
        !inbound.is_ending
            && (inbound.scanner.is_some() || inbound.text.as_ref().is_some_and(|reader| !reader.is_idle()))
    }

    /// Whether there are no other sessions.
    pub(crate) fn is_only(&self) -> bool {
        self.broker.sessions.len() == 1
    }

    /// Whether nothing is left to be done of what has been read. Does not wait: a session that is being run has more
    /// to do.
    pub(crate) fn has_done_its_part(&self) -> bool {
        let Some(inbound) = self.inbound.try_lock() else { return false };
        let has_whole = !inbound.carry.is_empty() && inbound.scanner.is_none();
        self.is_closed() || inbound.waiting.is_none() && !has_whole
    }

    /// The connection is of no more use: has what the peer wrote before read to its end, and then the session end.
    /// From any thread.
    pub(crate) fn break_off(self: &Arc<Self>) {
        // A peer that lives sees the end; it cannot keep us reading.
        let _ = self.stream.shutdown(Shutdown::Both);
        self.outbox.close();
        self.tell(Ready::HANGUP);
    }

    /// Ends the session by this side, and tells the peer why.
    pub(super) fn fail(self: &Arc<Self>, failure: &Failure, inbound: &mut Inbound, local: &mut Local) {
        if matches!(failure, Failure::BrokerEnds) {
            // One line for each would say nothing.
            tracing::debug!(connection = self.account.name(), "ends with the broker");
        } else {
            let principal = self.account.principal().name();
            tracing::info!(connection = self.account.name(), principal, reason = %failure, "ends a connection");
        }
        local.stage.publish_staged(&self.broker);
        let mut words = Vec::new();
        packet::write_error(&mut words, &failure.to_string());
        self.begin_end(inbound, Some(words));
        local.stage.flush_one(self, &mut local.scratch);
    }

    /// Stops reading and delivering.
    pub(super) fn begin_end(self: &Arc<Self>, inbound: &mut Inbound, last_words: Option<Vec<u8>>) {
        inbound.is_ending = true;
        // Relaxed: see is_closed().
        if self.is_closed.swap(true, Ordering::Relaxed) {
            return;
        }
        if let Some(waiting) = inbound.waiting.take() {
            self.abandon(*waiting, inbound);
        }
        match last_words {
            None => self.outbox.close(),
            Some(words) => {
                self.outbox.wind_up(words, &self.account);
                inbound.ending.lingers = true;
                self.broker.lingering.add(&self.broker, self);
            }
        }
        self.go_on(inbound);
        inbound.carry = Vec::new();
        inbound.scanner = None;
        inbound.text = None;
        let Holdings { unfinished, unfinished_strangers, .. } = &*self.holdings;
        inbound.unfinished.release(if inbound.is_stranger { unfinished_strangers } else { unfinished });
        inbound.target = None;
        inbound.full = Vec::new();
    }

    /// Goes on with the end.
    pub(super) fn end_some(
        self: &Arc<Self>,
        inbound: &mut Inbound,
        local: &mut Local,
        buffer: &mut [u8],
    ) -> Outcome {
        if self.retract_some(inbound, local) {
            return Outcome::Again(Ready::NONE);
        }
        let ending = &mut inbound.ending;
        if !std::mem::replace(&mut ending.is_retracted, true) {
            ending.remains = Some(Box::new(self.membrane.lock().close()));
            inbound.assertions.release(&self.holdings.assertions);
            inbound.observations.1.release(&self.holdings.observations);
            self.account.retire();
        }
        if let Some(remains) = &mut ending.remains
            && remains.drop_some(DROPPED_MAX)
        {
            return Outcome::Again(Ready::NONE);
        }
        ending.remains = None;
        if ending.lingers
            && let Some(outcome) = self.linger(ending, buffer)
        {
            return outcome;
        }
        self.depart(local)
    }

    /// Waits for the peer to take the last words and to end its side. `None` when there is nothing to wait for.
    fn linger(&self, ending: &mut Ending, buffer: &mut [u8]) -> Option<Outcome> {
        if ending.is_overdue {
            return None;
        }
        let has_said = self.outbox.has_ended();
        if has_said && !std::mem::replace(&mut ending.has_shut_down, true) {
            let _ = self.stream.shutdown(Shutdown::Write);
        }
        for _ in 0..DISCARDS_MAX {
            if ending.peer_has_ended {
                return (!has_said).then_some(Outcome::Idle);
            }
            match self.stream.read(buffer) {
                Ok(1..) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Some(Outcome::Idle),
                Ok(0) | Err(_) => ending.peer_has_ended = true,
            }
        }
        Some(Outcome::Again(Ready::NONE))
    }

    fn depart(self: &Arc<Self>, local: &mut Local) -> Outcome {
        if self.broker.sessions.remove(&self.id).is_none() {
            return Outcome::Idle;
        }
        if let Some(registration) = self.registration.get() {
            registration.close();
        }
        self.outbox.close();
        let _ = self.stream.shutdown(Shutdown::Both);
        // Its number may be another's from now on: nothing may be staged for it.
        local.stage.publish_staged(&self.broker);
        self.connection.lock().take();
        self.broker.numbers.give_back(self.number);
        self.broker.counters.ended.fetch_add(1, Ordering::Relaxed);
        #[cfg(debug_assertions)]
        self.broker.note_end();
        tracing::debug!(connection = self.account.name(), "ended");
        Outcome::Idle
    }
}

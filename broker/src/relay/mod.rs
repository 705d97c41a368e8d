//! Relays: one session for each connection, with the membranes between its names and our capabilities.
//!
//! # Layout
//! - `session`: reading and flow control; `session::packets`: what was read, with the fast way of message turns;
//!   `session::end`: how a session ends.
//! - `turn`: every other turn, applied; `turn::decode`: decoded and checked whole before.
//! - `membrane`: which capabilities each side knows, and for how long.
//! - `handles`: what the peer has asserted.

mod handles;
mod membrane;
mod session;
mod turn;

use std::sync::Arc;

use parking_lot::Mutex;
use smallvec::SmallVec;
use staunch_flowctl::Loan;
use staunch_protocols::packet;
use staunch_protocols::wire::{Int, tag};

pub(crate) use session::{Failure, Session, SessionConfig};

use crate::cap::Cap;

/// A peer's entity, seen from here.
pub(crate) struct Remote {
    session: Arc<Session>,
    /// The session's own, here so that what is staged for it need not touch it.
    session_id: u64,
    session_number: u32,
    oid: Int,
    /// Everything before the captures of a message that begins a turn behind another: see [`Remote::opening`].
    opening: SmallVec<[u8; 24]>,
}

impl Remote {
    pub(crate) fn new(session: Arc<Session>, oid: Int) -> Remote {
        let mut opening = vec![tag::END, tag::SEQUENCE];
        packet::frame::open(&mut opening, &oid, b'M');
        opening.push(tag::SEQUENCE);
        let (session_id, session_number) = (session.id(), session.number());
        Remote { session, session_id, session_number, oid, opening: opening.into() }
    }

    #[inline]
    pub(crate) fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// [`Session::id`]
    #[inline]
    pub(crate) fn session_id(&self) -> u64 {
        self.session_id
    }

    /// [`Session::number`]
    #[inline]
    pub(crate) fn session_number(&self) -> usize {
        self.session_number as usize
    }

    pub(crate) fn oid(&self) -> &Int {
        &self.oid
    }

    /// What precedes the captures in a message: the end of the turn before, the begin of a turn, `[oid <M [`. All
    /// of it for a message that begins a turn behind another, without the first byte if there is no other,
    /// without the first two within a turn.
    #[inline]
    pub(crate) fn opening(&self) -> &[u8] {
        &self.opening
    }

    /// How each event for it begins: `[oid <` and the label's tag and length; the label's letter follows.
    pub(crate) fn head(&self) -> &[u8] {
        &self.opening[2..self.opening.len() - 2]
    }
}

/// Waits at a peer's entity for the answer to a Sync that was forwarded to it.
pub(crate) struct SyncReply {
    /// Whom to tell.
    peer: Cap,
    /// Who asked, and what is held there until the answer comes.
    requester: Arc<Session>,
    pending: Mutex<Option<(membrane::Refs, Loan)>>,
}

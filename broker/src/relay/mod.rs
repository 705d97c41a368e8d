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
use staunch_flowctl::Loan;
use staunch_protocols::wire::{Int, tag};

pub(crate) use session::{Failure, Session, SessionConfig};

use crate::cap::Cap;

/// A peer's entity, seen from here.
pub(crate) struct Remote {
    session: Arc<Session>,
    oid: Int,
    /// How each event for it begins: `[oid <` and the label's tag and length; the label's letter follows.
    head: Box<[u8]>,
}

impl Remote {
    pub(crate) fn new(session: Arc<Session>, oid: Int) -> Remote {
        let mut head = vec![tag::SEQUENCE];
        oid.write(&mut head);
        head.extend_from_slice(&[tag::RECORD, tag::SYMBOL, 1]);
        Remote { session, oid, head: head.into() }
    }

    #[inline]
    pub(crate) fn session(&self) -> &Arc<Session> {
        &self.session
    }

    pub(crate) fn oid(&self) -> &Int {
        &self.oid
    }

    #[inline]
    pub(crate) fn head(&self) -> &[u8] {
        &self.head
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

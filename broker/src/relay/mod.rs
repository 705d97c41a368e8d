//! Relays: one session for each connection, with the membranes between its names and our capabilities.
//!
//! # Layout
//! - `session`: reading and flow control; `session::packets`: what was read, with the fast way of message turns;
//!   `session::plain`: that of plain assertions and retractions; `session::end`: how a session ends;
//!   `session::throttle`: whether it is read; `session::meter`: what it has done so far.
//! - `turn`: every other turn, applied; `turn::decode`: decoded and checked whole before; `turn::others`: what goes
//!   elsewhere than to dataspaces.
//! - `weigh`: whether a turn may come to what it would.
//! - `membrane`: which capabilities each side knows, and for how long.
//! - `failure`: why sessions end.
//! - `handles`: what the peer has asserted.

mod failure;
mod handles;
mod membrane;
mod session;
mod turn;
mod weigh;

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use staunch_flowctl::Loan;
use staunch_protocols::packet;
use staunch_protocols::wire::{Int, tag};

pub(crate) use failure::Failure;
pub(crate) use membrane::{Membrane, Oids};
pub(crate) use session::meter::{Cause, Done, Throttle};
pub(crate) use session::packets::Slice;
pub(crate) use session::{Session, SessionConfig};

use crate::cap::Cap;
use crate::principals::Taking;

/// A peer's entity, seen from here.
pub(crate) struct Remote {
    session: Arc<Session>,
    /// The session's own, here so that what is staged for it need not touch it.
    session_id: u64,
    session_number: u32,
    oid: Int,
    opening: Opening,
    /// How each event for it begins: `[oid <` and the label's tag and length; the label's letter follows.
    head: Box<[u8]>,
}

/// What precedes the captures in a message: the end of the turn before, the begin of a turn, `[oid <M [`. At most
/// [`Opening::LENGTH`] bytes, so that they are copied by two instructions, in an array with room for reading so
/// many from any of its first three; empty if the oid is too long for that.
#[derive(Default, Clone, PartialEq, Eq)]
pub(crate) struct Opening {
    bytes: [u8; Opening::LENGTH + 2],
    length: u8,
}

impl Opening {
    const LENGTH: usize = 24;

    fn new(oid: &Int) -> Opening {
        let mut all = vec![tag::END, tag::SEQUENCE];
        packet::frame::open(&mut all, oid, b'M');
        all.push(tag::SEQUENCE);
        let mut opening = Opening::default();
        if all.len() <= Opening::LENGTH {
            opening.bytes[..all.len()].copy_from_slice(&all);
            opening.length = all.len() as u8;
        }
        opening
    }

    /// Whether it does not stand here.
    #[inline(always)]
    pub(crate) fn is_too_long(&self) -> bool {
        self.length == 0
    }

    /// Appends it, but for the first `skipped` bytes, and `body`; returns how many bytes that are. `skipped` is 0 for
    /// a message that begins a turn behind another, 1 if there is no other, 2 within a turn.
    #[inline(always)]
    pub(crate) fn write(&self, skipped: usize, body: &[u8], out: &mut Vec<u8>) -> usize {
        self.write_parts(skipped, &[body], &[], out)
    }

    /// The same with a body in several parts, and what closes it.
    #[inline(always)]
    pub(crate) fn write_parts(
        &self,
        skipped: usize,
        parts: &[&[u8]],
        close: &[u8],
        out: &mut Vec<u8>,
    ) -> usize {
        let length = (self.length as usize).saturating_sub(skipped);
        let before = out.len();
        let padded: &[u8; Opening::LENGTH] = self.bytes[skipped..].first_chunk().expect("it is so long");
        out.extend_from_slice(padded);
        out.truncate(before + length);
        parts.iter().for_each(|part| out.extend_from_slice(part));
        out.extend_from_slice(close);
        out.len() - before
    }
}

impl Remote {
    pub(crate) fn new(session: Arc<Session>, oid: Int) -> Remote {
        let mut head = vec![tag::SEQUENCE];
        oid.write(&mut head);
        head.extend_from_slice(&[tag::RECORD, tag::SYMBOL, 1]);
        let (session_id, session_number) = (session.id(), session.number());
        let opening = Opening::new(&oid);
        Remote { session, session_id, session_number, oid, opening, head: head.into() }
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

    #[inline]
    pub(crate) fn opening(&self) -> &Opening {
        &self.opening
    }

    pub(crate) fn head(&self) -> &[u8] {
        &self.head
    }
}

/// What a Sync holds until it is answered.
pub(crate) struct Pending {
    /// In the asker's membrane.
    refs: membrane::Refs,
    loan: Loan,
    /// Its place among those of the asker's principal, also when the asker has gone.
    _place: Taking,
}

/// Waits at a peer's entity for the answer to a Sync that was forwarded to it. It can be passed on, and answered by
/// whoever holds it; when nobody does any more nobody will.
pub(crate) struct SyncReply {
    /// Whom to tell.
    peer: Cap,
    /// Who asked, and what is held there until the answer comes, or cannot come any more.
    requester: Arc<Session>,
    pending: Mutex<Option<Pending>>,
    /// Whom the Sync was forwarded to, and the oid that it knows this under because of that.
    asked: Arc<Session>,
    oid: OnceLock<u64>,
}

impl SyncReply {
    /// It is answered, or will not be: repays what is owed for it. Returns what is held because of it, the first time.
    fn settle(&self) -> Option<membrane::Refs> {
        let Pending { refs, loan, _place } = self.pending.lock().take()?;
        self.requester.broker().owed_for_syncs.fetch_sub(loan.cost(), Ordering::Relaxed);
        drop(loan);
        Some(refs)
    }

    /// It has been answered: takes back the reference that came with the Sync, whoever gave the answer. Those that
    /// came otherwise stay.
    fn end(&self) {
        if let Some(oid) = self.oid.get() {
            self.asked.release(&[membrane::Ref::Exported(*oid)]);
        }
    }
}

impl Drop for SyncReply {
    /// May happen under any lock, a membrane's for one.
    fn drop(&mut self) {
        if let Some(refs) = self.settle() {
            self.requester.release_soon(refs);
        }
    }
}

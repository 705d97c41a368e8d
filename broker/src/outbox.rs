//! Outboxes: what is to be written to a peer, and who owes for it.
//!
//! Whoever routes appends under the lock; whoever flushes takes a few pieces out, unlocks, writes, and comes
//! back with what the kernel did not take. One thread writes at a time; what others append meanwhile, it sees
//! when it comes back. No system call happens under the lock. An empty outbox holds no memory.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use staunch_flowctl::{Account, DebtRuns, Repayments};
use staunch_index::Replay;
use staunch_system::net::Stream;

use crate::dataspace::Router;
use crate::relay::Remote;

/// A piece of an outbox.
pub(crate) enum Segment {
    /// Events, one after the other.
    Inline(Vec<u8>),
    /// A body that other outboxes hold too.
    Shared(Bytes),
    /// State to be pulled from the store when its turn comes.
    Replay(Box<PendingReplay>),
}

/// See [`Segment::Replay`].
pub(crate) struct PendingReplay {
    pub(crate) replay: Replay<Router>,
    pub(crate) to: Arc<Remote>,
    /// Who pays for it: whoever asked to observe.
    pub(crate) account: Arc<Account>,
}

impl Segment {
    fn bytes(&self) -> &[u8] {
        match self {
            Segment::Inline(bytes) => bytes,
            Segment::Shared(bytes) => bytes,
            Segment::Replay(_) => &[],
        }
    }
}

/// How many pieces one write takes at most.
const PIECES_MAX: usize = 16;
/// How many bytes one write takes at most, roughly.
const WRITE_BYTES_MAX: usize = 256 << 10;
/// What is shorter than this is copied to the end of the piece before it, for as long as that piece is shorter
/// than 16 of it.
const JOIN_BYTES_MAX: usize = 4 << 10;

#[derive(Default)]
struct State {
    queue: VecDeque<Segment>,
    /// How much of the first segment has been written.
    head: usize,
    debts: DebtRuns,
    /// Somebody is writing, with the first pieces in hand.
    is_writing: bool,
    /// The kernel took no more, and has not said since that it would.
    is_blocked: bool,
    /// It said so while somebody was writing.
    edge: bool,
    is_closed: bool,
}

/// See the module's head.
#[derive(Default)]
pub(crate) struct Outbox(Mutex<State>);

/// What a flush came to.
pub(crate) enum Flushed {
    /// Nothing is left, or somebody else is at it, or the kernel takes no more for now.
    Done,
    /// A replay is next: pull it (see [`Outbox::replayed`]).
    Replay(Box<PendingReplay>),
    /// The peer is gone.
    Failed,
}

/// Memory that flushes reuse: buffers that have been written out, and a list.
#[derive(Default)]
pub(crate) struct Pool {
    buffers: Vec<Vec<u8>>,
    taken: VecDeque<Segment>,
}

impl Pool {
    const BUFFERS_MAX: usize = 64;
    const BUFFER_BYTES_MAX: usize = 256 << 10;

    pub(crate) fn take(&mut self) -> Vec<u8> {
        self.buffers.pop().unwrap_or_default()
    }

    pub(crate) fn put(&mut self, mut buffer: Vec<u8>) {
        if buffer.capacity() > 0
            && buffer.capacity() <= Pool::BUFFER_BYTES_MAX
            && self.buffers.len() < Pool::BUFFERS_MAX
        {
            buffer.clear();
            self.buffers.push(buffer);
        }
    }
}

/// Counts of system calls, kept by each worker.
#[derive(Default, Debug, Clone, Copy)]
pub(crate) struct WriteCounts {
    pub(crate) writes: u64,
    pub(crate) bytes: u64,
}

impl Outbox {
    /// Appends what `account` has been charged `cost` for. Returns whether it can be flushed now: false if
    /// somebody is writing, or the kernel takes no more, or the outbox is closed (what was appended is repaid
    /// then).
    pub(crate) fn append(
        &self,
        segments: &mut Vec<Segment>,
        buffer: &mut Vec<u8>,
        account: &Arc<Account>,
        cost: u64,
        pool: &mut Pool,
    ) -> bool {
        let mut state = self.0.lock();
        if state.is_closed {
            drop(state);
            segments.clear();
            buffer.clear();
            account.repay(cost);
            return false;
        }
        let mut bytes = 0;
        for segment in segments.drain(..) {
            bytes += segment.bytes().len();
            state.queue.push_back(segment);
        }
        if !buffer.is_empty() {
            bytes += buffer.len();
            match state.queue.back_mut() {
                Some(Segment::Inline(last))
                    if buffer.len() < JOIN_BYTES_MAX && last.len() < 16 * JOIN_BYTES_MAX =>
                {
                    last.extend_from_slice(buffer);
                    buffer.clear();
                }
                _ => state.queue.push_back(Segment::Inline(std::mem::replace(buffer, pool.take()))),
            }
        }
        state.debts.push(account, bytes as u64, cost);
        !state.is_writing && !state.is_blocked
    }

    /// The kernel says that it takes more. Returns whether to flush.
    pub(crate) fn writable(&self) -> bool {
        let mut state = self.0.lock();
        state.is_blocked = false;
        if state.is_writing {
            state.edge = true;
        }
        !state.queue.is_empty() && !state.is_writing
    }

    /// Writes as much as the kernel takes. What is repaid goes to `repayments`.
    pub(crate) fn flush(
        &self,
        stream: &Stream,
        pool: &mut Pool,
        repayments: &mut Repayments,
        counts: &mut WriteCounts,
    ) -> Flushed {
        let mut taken = std::mem::take(&mut pool.taken);
        let flushed = self.flush_pieces(stream, &mut taken, pool, repayments, counts);
        taken.clear();
        pool.taken = taken;
        flushed
    }

    /// Writes piece by piece; `taken` is what it has in hand.
    fn flush_pieces(
        &self,
        stream: &Stream,
        taken: &mut VecDeque<Segment>,
        pool: &mut Pool,
        repayments: &mut Repayments,
        counts: &mut WriteCounts,
    ) -> Flushed {
        let mut state = self.0.lock();
        if state.is_writing {
            return Flushed::Done;
        }
        loop {
            if state.is_closed || state.is_blocked || state.queue.is_empty() {
                return Flushed::Done;
            }
            state.is_writing = true;
            if matches!(state.queue.front(), Some(Segment::Replay(_))) {
                // The replay's place stays taken: nobody else writes until `replayed` is called.
                if let Some(Segment::Replay(replay)) = state.queue.pop_front() {
                    return Flushed::Replay(replay);
                }
            }
            state.edge = false;
            let head = state.head;
            let wanted = take(&mut state.queue, taken, head);
            drop(state);
            let written = write(stream, taken, head);
            counts.writes += 1;
            state = self.0.lock();
            state.is_writing = false;
            if state.is_closed {
                return Flushed::Done;
            }
            let written = match written {
                Ok(written) => written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(_) => return Flushed::Failed,
            };
            counts.bytes += written as u64;
            state.debts.settle_into(written as u64, repayments);
            state.head = put_back(&mut state.queue, taken, head + written, pool);
            if written < wanted && !std::mem::take(&mut state.edge) {
                state.is_blocked = true;
            }
            if state.queue.is_empty() && state.queue.capacity() > 8 {
                state.queue = VecDeque::new();
                state.debts.shrink();
            }
        }
    }

    /// Puts a piece of a replay, for which its account has been charged `cost`, at the front, and the rest of
    /// the replay behind it if there is more.
    pub(crate) fn replayed(&self, pending: Box<PendingReplay>, piece: Vec<u8>, cost: u64, has_more: bool) {
        let account = pending.account.clone();
        let mut state = self.0.lock();
        state.is_writing = false;
        if state.is_closed {
            drop(state);
            account.repay(cost);
            return;
        }
        if has_more {
            state.queue.push_front(Segment::Replay(pending));
        }
        // Debts are a queue in the order of the bytes; these bytes come before all others.
        state.debts.push_front(&account, piece.len() as u64, cost);
        if !piece.is_empty() {
            state.queue.push_front(Segment::Inline(piece));
        }
        state.head = 0;
    }

    /// Drops everything and takes no more; repays what is owed.
    pub(crate) fn close(&self) {
        let mut state = self.0.lock();
        state.is_closed = true;
        let queue = std::mem::take(&mut state.queue);
        let mut debts = std::mem::take(&mut state.debts);
        drop(state);
        debts.settle_all();
        drop(queue);
    }

    /// Who owes how much for what waits here: account, bytes, cost.
    pub(crate) fn owed(&self) -> Vec<(Arc<Account>, u64, u64)> {
        self.0.lock().debts.iter().map(|run| (run.account.clone(), run.bytes, run.cost)).collect()
    }
}

/// Takes pieces off the front, up to a replay or to what one write takes. Returns how many bytes are to be
/// written.
fn take(queue: &mut VecDeque<Segment>, taken: &mut VecDeque<Segment>, head: usize) -> usize {
    let mut bytes = 0;
    while taken.len() < PIECES_MAX && bytes < WRITE_BYTES_MAX {
        match queue.front() {
            None | Some(Segment::Replay(_)) => break,
            Some(segment) => bytes += segment.bytes().len(),
        }
        taken.extend(queue.pop_front());
    }
    bytes - head
}

fn write(stream: &Stream, taken: &VecDeque<Segment>, head: usize) -> io::Result<usize> {
    if taken.len() == 1 {
        return stream.write(&taken[0].bytes()[head..]);
    }
    let mut pieces = [IoSlice::new(&[]); PIECES_MAX];
    for (i, segment) in taken.iter().enumerate() {
        let bytes = segment.bytes();
        pieces[i] = IoSlice::new(if i == 0 { &bytes[head..] } else { bytes });
    }
    stream.writev(&pieces[..taken.len()])
}

/// Drops what has been written, puts back the rest. Returns how much of the first piece has been written.
fn put_back(
    queue: &mut VecDeque<Segment>,
    taken: &mut VecDeque<Segment>,
    mut written: usize,
    pool: &mut Pool,
) -> usize {
    while let Some(length) = taken.front().map(|s| s.bytes().len()) {
        if length > written {
            break;
        }
        written -= length;
        if let Some(Segment::Inline(buffer)) = taken.pop_front() {
            pool.put(buffer);
        }
    }
    while let Some(segment) = taken.pop_back() {
        queue.push_front(segment);
    }
    written
}

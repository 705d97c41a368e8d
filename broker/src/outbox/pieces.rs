//! Pieces on their way to the kernel: taken out of an outbox, written, and put back.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;

use staunch_flowctl::Repayments;
use staunch_system::net::Stream;

use super::{Pool, Segment, SharedBody, State};

/// How many pieces one write takes at most.
const PIECES_MAX: usize = 16;
/// How many bytes one write takes at most, roughly.
const WRITE_BYTES_MAX: usize = 256 << 10;

/// Takes pieces off the front, up to a replay or to what one write takes. Returns how many bytes are to be
/// written.
pub(super) fn take(queue: &mut VecDeque<Segment>, taken: &mut VecDeque<Segment>, head: usize) -> usize {
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

pub(super) fn write(stream: &Stream, taken: &VecDeque<Segment>, head: usize) -> io::Result<usize> {
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

/// Drops what has been written, puts back the rest. What shared bodies owe is repaid by who holds them last.
pub(super) fn put_back(
    state: &mut State,
    taken: &mut VecDeque<Segment>,
    mut written: usize,
    pool: &mut Pool,
    repayments: &mut Repayments,
) {
    while let Some(length) = taken.front().map(|s| s.bytes().len()) {
        if length > written {
            break;
        }
        written -= length;
        match taken.pop_front() {
            Some(Segment::Inline(buffer)) => {
                state.inline_bytes -= length;
                state.is_within = false;
                pool.put(buffer);
            }
            Some(Segment::Batch(batch)) => {
                state.inline_bytes -= length;
                state.is_within = false;
                pool.unshare(batch);
            }
            Some(Segment::Shared(body)) => {
                state.is_within = true;
                if let Some(SharedBody { loan, .. }) = Arc::into_inner(body) {
                    let (account, cost) = loan.into_debt();
                    repayments.add(account, cost);
                }
            }
            _ => {}
        }
    }
    while let Some(segment) = taken.pop_back() {
        state.queue.push_front(segment);
    }
    state.head = written;
}

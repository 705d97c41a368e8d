//! Outboxes of peers that speak text.
//!
//! What waits is binary, and is owed for as such; it becomes text packet by packet when it is about to be written. The
//! queue keeps a packet until the kernel has taken all of its text: that repays the debt for it, and makes room.
//!
//! **Invariant:** while text is spoken, the queue's first byte begins the packet whose text is next, or under way. Only
//! right after the change from binary may it lie within a packet, whose rest then goes out as it is.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::task::Waker;

use parking_lot::MutexGuard;
use staunch_flowctl::Repayments;
use staunch_protocols::text;
use staunch_protocols::wire::{Limits, Progress, Scanner};
use staunch_system::net::Stream;

use super::pool::Pool;
use super::{CallCounts, Flushed, Outbox, Phase, Segment, State, put_back, remains};

/// Text made at a time, roughly: a packet is not divided. (A packet's text has up to six times its bytes.)
const TEXT_BYTES: usize = 32 << 10;
/// How much of the queue is looked at for whole packets to begin with.
const REACH_BYTES: usize = 32 << 10;
/// How many writes one flush does at most.
const ROUNDS_MAX: usize = 8;

/// What is written to the peer.
#[derive(Default)]
pub(super) enum Syntax {
    #[default]
    Binary,
    Text(Box<TextOut>),
    /// Text, and whoever is writing has it in hand.
    InHand,
}

impl Syntax {
    /// What comes of the words under way when everything else is dropped; `rest` is what is left of a binary packet. In
    /// binary they are returned, to be written before what comes next.
    pub(super) fn wind_up(&mut self, rest: Vec<u8>) -> Vec<u8> {
        let Syntax::Text(out) = self else { return rest };
        if std::mem::take(&mut out.is_fresh) {
            out.put_raw(rest, 0);
        } else {
            out.cut();
        }
        Vec::new()
    }
}

/// Text on its way.
pub(super) struct TextOut {
    scanner: Scanner,
    /// Of the packets at the queue's beginning.
    text: Vec<u8>,
    written: usize,
    /// For each packet, where its text ends, and how many bytes of the queue it stands for.
    ends: VecDeque<(usize, usize)>,
    /// Where the text of the first of them begins.
    begin: usize,
    /// How much of the queue to look at.
    reach: usize,
    /// The queue may still begin within a packet that was begun in binary.
    is_fresh: bool,
}

impl TextOut {
    fn new() -> TextOut {
        // What waits was checked, or made, by the broker itself.
        let limits = Limits {
            packet_bytes_max: u32::MAX,
            depth_max: u16::MAX,
            tokens_max: u32::MAX - 1,
            integer_bytes_max: u32::MAX,
        };
        TextOut {
            scanner: Scanner::new(limits),
            text: Vec::new(),
            written: 0,
            ends: VecDeque::new(),
            begin: 0,
            reach: REACH_BYTES,
            is_fresh: true,
        }
    }

    /// How many bytes of the queue have become text that is not written yet. `None` if only the queue tells.
    pub(super) fn stands_for(&self) -> Option<usize> {
        (!self.is_fresh).then(|| self.ends.iter().map(|(_, length)| length).sum())
    }

    fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    fn put_raw(&mut self, bytes: Vec<u8>, stands_for: usize) {
        if !bytes.is_empty() {
            self.ends.push_back((bytes.len(), stands_for));
            self.text = bytes;
        }
    }

    /// Takes pieces off the front, up to a replay or to what is looked at. Returns whether all was taken.
    fn take(&self, queue: &mut VecDeque<Segment>, taken: &mut VecDeque<Segment>, head: usize) -> bool {
        let mut bytes = 0;
        while self.is_fresh || bytes < self.reach.saturating_add(head) {
            match queue.front() {
                None | Some(Segment::Replay(_)) => return true,
                Some(segment) => bytes += segment.bytes().len(),
            }
            taken.extend(queue.pop_front());
        }
        false
    }

    /// Makes text of the packets that begin at `head`. If there is none that is whole, it looks further the next time;
    /// an error if there is no more to look at.
    fn convert(
        &mut self,
        taken: &VecDeque<Segment>,
        head: usize,
        is_within: bool,
        has_all: bool,
    ) -> io::Result<()> {
        if std::mem::take(&mut self.is_fresh) {
            let rest = remains::of_begun_packet(taken, head, is_within);
            let length = rest.len();
            self.put_raw(rest, length);
            if length > 0 {
                return Ok(());
            }
        }
        let mut bytes = Vec::new();
        for (n, segment) in taken.iter().enumerate() {
            let from = if n == 0 { head } else { 0 };
            let piece = &segment.bytes()[from..];
            bytes.extend_from_slice(&piece[..piece.len().min(self.reach - bytes.len())]);
        }
        let is_bounded = bytes.len() == self.reach;
        let mut rest = &bytes[..];
        let mut text = String::new();
        while !rest.is_empty() && text.len() < TEXT_BYTES {
            self.scanner.reset();
            let length = match self.scanner.scan(rest) {
                Ok(Progress::Complete(length)) => length,
                Ok(Progress::Incomplete(_)) => break,
                Err(_) => return Err(io::ErrorKind::InvalidData.into()),
            };
            text::write(self.scanner.view(rest), &mut text, usize::MAX);
            text.push('\n');
            self.ends.push_back((text.len(), length));
            rest = &rest[length..];
        }
        self.text = text.into_bytes();
        if !self.is_empty() {
            self.reach = REACH_BYTES;
        } else if has_all && !is_bounded {
            debug_assert!(false, "what is appended is whole packets");
            return Err(io::ErrorKind::InvalidData.into());
        } else {
            self.reach = self.reach.saturating_mul(2);
        }
        Ok(())
    }

    fn unwritten(&self) -> &[u8] {
        &self.text[self.written..]
    }

    /// So much more has been written. Returns for how many bytes of the queue that was the end.
    fn wrote(&mut self, bytes: usize) -> usize {
        self.written += bytes;
        let mut done = 0;
        while let Some((end, length)) = self.ends.front().copied()
            && end <= self.written
        {
            self.ends.pop_front();
            self.begin = end;
            done += length;
        }
        if self.is_empty() {
            self.clear();
        }
        done
    }

    fn clear(&mut self) {
        self.ends = VecDeque::new();
        (self.text, self.written, self.begin) = (Vec::new(), 0, 0);
        self.scanner.reset();
        self.scanner.shrink();
    }

    /// Drops all but the rest of the packet that is under way, which stands for nothing any more.
    fn cut(&mut self) {
        match self.ends.front().copied() {
            Some((end, _)) if self.written > self.begin => {
                self.text.truncate(end);
                self.ends = VecDeque::from([(end, 0)]);
            }
            _ => self.clear(),
        }
    }
}

/// What is to be dropped, and who is to be woken, outside the lock.
#[derive(Default)]
pub(super) struct Leftovers {
    pub(super) dropped: Option<super::Dropped>,
    woken: HashMap<u64, Waker>,
}

impl Outbox {
    /// Has the peer be written to in text, or in binary again, from the next packet on. An outbox begins with binary.
    pub(crate) fn speak(&self, is_text: bool) {
        let mut state = self.state.lock();
        state.speaks_text = is_text;
        if is_text && matches!(state.syntax, Syntax::Binary) && state.phase == Phase::Open {
            state.syntax = Syntax::Text(Box::new(TextOut::new()));
        }
    }

    /// As [`Outbox::flush_pieces`], in text.
    pub(super) fn flush_text<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        stream: &Stream,
        taken: &mut VecDeque<Segment>,
        pool: &mut Pool,
        repayments: &mut Repayments,
        counts: &mut CallCounts,
    ) -> Flushed {
        let mut leftovers = Leftovers::default();
        let mut flushed = Flushed::More;
        for _ in 0..ROUNDS_MAX {
            state.open_window();
            if !state.may_write() {
                flushed = Flushed::Done;
                break;
            }
            let mut out = match std::mem::replace(&mut state.syntax, Syntax::InHand) {
                Syntax::Text(out) if out.is_empty() && !state.speaks_text => {
                    state.syntax = Syntax::Binary;
                    break;
                }
                Syntax::Text(out) => out,
                other => {
                    state.syntax = other;
                    break;
                }
            };
            state.is_writing = true;
            if let Some(replay) = state.take_replay() {
                // As in binary. All before it has been written, so no text is under way.
                state.syntax = Syntax::Text(out);
                flushed = Flushed::Replay(replay);
                break;
            }
            state.edge = false;
            let (head, is_within) = (state.head, state.is_within);
            let has_all = out.take(&mut state.queue, taken, head);
            drop(state);
            let (wanted, written) = round(&mut out, stream, taken, (head, is_within, has_all), counts);
            state = self.state.lock();
            let end = self.after_round(&mut state, out, (wanted, written), (taken, pool, repayments), head);
            if matches!(end, Some(Flushed::Failed)) {
                leftovers.dropped = Some(state.close());
            }
            leftovers.add(&mut state, self.ceiling);
            if let Some(end) = end {
                flushed = end;
                break;
            }
        }
        drop(state);
        leftovers.settle();
        flushed
    }

    /// Notes what a round of writing has come to. Returns how the flush ends, if it does.
    fn after_round(
        &self,
        state: &mut State,
        mut out: Box<TextOut>,
        (wanted, written): (usize, io::Result<usize>),
        (taken, pool, repayments): (&mut VecDeque<Segment>, &mut Pool, &mut Repayments),
        head: usize,
    ) -> Option<Flushed> {
        state.is_writing = false;
        if state.phase == Phase::Closed {
            return Some(Flushed::Done);
        }
        let written = match written {
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(_) => return Some(Flushed::Failed),
        };
        let done = out.wrote(written);
        state.syntax = Syntax::Text(out);
        state.settle(taken, head, done, repayments);
        put_back(state, taken, head + done, pool, repayments);
        if state.last_words.is_none() && state.queue.is_empty() {
            state.rest();
            return Some(if state.phase == Phase::Ending { Flushed::Said } else { Flushed::Done });
        }
        if written < wanted && !std::mem::take(&mut state.edge) {
            state.block();
            return Some(Flushed::Blocked { is_news: state.begin_watch() });
        }
        None
    }
}

impl Leftovers {
    /// Has the last words said, and looks whether there is room.
    pub(super) fn add(&mut self, state: &mut State, ceiling: usize) {
        if state.inline_bytes <= ceiling / 2 && !state.waiters.is_empty() {
            self.woken.extend(std::mem::take(&mut state.waiters));
        }
        if state.last_words.is_some() {
            self.dropped = state.say_last_words();
        }
    }

    /// Drops and wakes. No lock may be held: both may wake somebody.
    pub(super) fn settle(self) {
        drop(self.dropped);
        self.woken.into_values().for_each(Waker::wake);
    }
}

/// Converts, if nothing is left of before, and writes. Returns how much was to be written, and what came of it.
fn round(
    out: &mut TextOut,
    stream: &Stream,
    taken: &VecDeque<Segment>,
    (head, is_within, has_all): (usize, bool, bool),
    counts: &mut CallCounts,
) -> (usize, io::Result<usize>) {
    if out.is_empty()
        && let Err(error) = out.convert(taken, head, is_within, has_all)
    {
        return (0, Err(error));
    }
    let wanted = out.unwritten().len();
    if wanted == 0 {
        return (0, Ok(0));
    }
    let written = stream.write(out.unwritten());
    counts.writes += 1;
    counts.bytes += *written.as_ref().unwrap_or(&0) as u64;
    (wanted, written)
}

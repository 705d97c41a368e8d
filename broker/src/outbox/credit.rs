//! What a peer has been sent and has not reported yet, if it has agreed to report the turns that it receives.
//!
//! What the kernel has taken of whole turns is owed for until they are reported, and while that is more than the
//! *window*, no more is written. So what lies in the kernel for it is bounded by the window, and those who cause it are held back
//! by what the peer has not handled, not by what its buffers do not take. A peer that does not report in time
//! loses that: see [`crate::backlog`].

use std::collections::VecDeque;
use std::time::Duration;

use staunch_flowctl::{DebtRuns, Repayments};
use staunch_protocols::wire::tag;

use super::{Outbox, Phase, Segment, State, remains, text};
use crate::listen::Credit;

/// See the module's head.
#[derive(Default)]
pub(super) struct Window {
    /// It is known where in a packet what was written before ends.
    is_open: bool,
    credit: Credit,
    /// For all that was written since it was opened and has not been reported.
    pub(super) debts: DebtRuns,
    /// How long the turns are that have been written whole; what stood between them counts with the one before.
    turns: VecDeque<u64>,
    /// Their sum.
    bytes: u64,
    /// What has been written of the packet under way.
    begun: u64,
    place: Place,
    /// Turns written whole, and reported (wrapping).
    sent: u64,
    reported: u64,
}

/// Where in a packet what was written ends.
#[derive(Default)]
struct Place {
    depth: u32,
    is_turn: bool,
    /// Of an atom: what is left of it, or, with how many bits of it are known, of its length.
    left: u64,
    length: Option<(u64, u32)>,
    /// What is left of a packet that was begun before.
    passed_over: u64,
}

/// What ended.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum End {
    Turn,
    Other,
    /// What had been begun before.
    Earlier,
}

impl Place {
    /// Goes on up to the end of a packet, or of the bytes. Returns how many bytes that are, and what ended.
    fn pass(&mut self, bytes: &[u8]) -> (usize, Option<End>) {
        if self.passed_over > 0 {
            let passed = bytes.len().min(usize::try_from(self.passed_over).unwrap_or(usize::MAX));
            self.passed_over -= passed as u64;
            return (passed, (self.passed_over == 0).then_some(End::Earlier));
        }
        let mut at = 0;
        while at < bytes.len() {
            if self.left > 0 {
                let passed = (bytes.len() - at).min(usize::try_from(self.left).unwrap_or(usize::MAX));
                self.left -= passed as u64;
                at += passed;
            } else if self.token(bytes[at]) {
                at += 1;
                continue;
            } else {
                at += 1;
            }
            if self.depth == 0 && self.left == 0 && self.length.is_none() {
                let end = if std::mem::take(&mut self.is_turn) { End::Turn } else { End::Other };
                return (at, Some(end));
            }
        }
        (at, None)
    }

    /// Takes a byte that is in no atom's content. Returns whether the value goes on for sure.
    fn token(&mut self, byte: u8) -> bool {
        if let Some((length, shift)) = self.length.take() {
            let length = length | u64::from(byte & 0x7f) << shift;
            match byte < 0x80 {
                true => self.left = length,
                false => self.length = Some((length, (shift + 7).min(56))),
            }
            return self.left > 0 || self.length.is_some();
        }
        match byte {
            tag::RECORD | tag::SEQUENCE | tag::SET | tag::DICTIONARY => {
                self.is_turn |= self.depth == 0 && byte == tag::SEQUENCE;
                self.depth += 1;
                true
            }
            tag::END => {
                self.depth = self.depth.saturating_sub(1);
                self.depth > 0
            }
            tag::EMBEDDED | tag::ANNOTATION => true,
            tag::FALSE | tag::TRUE => self.depth > 0,
            _ => {
                self.length = Some((0, 0));
                true
            }
        }
    }
}

impl Window {
    /// Whether nothing may be written until something is reported.
    pub(super) fn is_full(&self) -> bool {
        self.room() == 0
    }

    /// How much may be written. A turn alone may be as long as it likes: it cannot be reported before it is there.
    pub(super) fn room(&self) -> usize {
        if self.turns.is_empty() {
            return usize::MAX;
        }
        usize::try_from(self.credit.window.saturating_sub(self.bytes + self.begun)).unwrap_or(usize::MAX)
    }

    /// The kernel has taken so much more: takes over what is owed for it. What belongs to no turn is repaid.
    fn take(&mut self, mut bytes: &[u8], debts: &mut DebtRuns, repayments: &mut Repayments) {
        while !bytes.is_empty() {
            let (passed, end) = self.place.pass(bytes);
            bytes = &bytes[passed..];
            debts.move_front(passed as u64, &mut self.debts);
            self.begun += passed as u64;
            let Some(end) = end else { return };
            let length = std::mem::take(&mut self.begun);
            match (end, self.turns.back_mut()) {
                (End::Turn, _) => {
                    self.turns.push_back(length);
                    self.bytes += length;
                    self.sent = self.sent.wrapping_add(1);
                }
                (_, Some(last)) => {
                    *last += length;
                    self.bytes += length;
                }
                (_, None) => _ = self.debts.settle_into(length, repayments),
            }
        }
    }

    /// So many turns more have been received.
    fn report(&mut self, count: u64, repayments: &mut Repayments) {
        let count = usize::try_from(count).unwrap_or(usize::MAX).min(self.turns.len());
        let bytes = self.turns.drain(..count).sum();
        self.bytes -= bytes;
        self.reported = self.reported.wrapping_add(count as u64);
        self.debts.settle_into(bytes, repayments);
        if self.turns.is_empty() {
            self.turns = VecDeque::new();
        }
    }

    /// How many turns have been written and reported, and how long that may take. `None` if all have been.
    pub(super) fn unreported(&self) -> Option<(u64, u64, Duration)> {
        (!self.turns.is_empty()).then_some((self.sent, self.reported, self.credit.patience))
    }
}

impl Outbox {
    /// The peer has agreed to report turns.
    pub(crate) fn open_window(&self, credit: Credit) {
        let mut state = self.state.lock();
        if state.phase == Phase::Open {
            // Opened at the next write: there may be one under way.
            state.window = Some(Box::new(Window { credit, ..Window::default() }));
        }
    }

    /// The peer reports so many turns. Returns whether there is something to flush because of that.
    pub(crate) fn credit(&self, turns: u64, repayments: &mut Repayments) -> bool {
        let mut state = self.state.lock();
        if let Some(window) = &mut state.window {
            window.report(turns, repayments);
        }
        state.may_write()
    }

    /// The peer's reports are waited for no more. Returns what is owed for what was not reported, and whether there is
    /// something to flush now.
    pub(crate) fn close_window(&self) -> (DebtRuns, bool) {
        let mut state = self.state.lock();
        let window = state.window.take();
        (window.map_or_else(DebtRuns::new, |window| window.debts), state.may_write())
    }

    /// Whether something has not been reported, and it is to be watched from now on because of that.
    pub(crate) fn begin_report_watch(&self) -> bool {
        let mut state = self.state.lock();
        let is_unreported = state.window.as_ref().is_some_and(|window| window.unreported().is_some());
        is_unreported && !std::mem::replace(&mut state.is_watched, true)
    }
}

impl State {
    /// Opens the window, if the peer has agreed to that: between two writes.
    #[inline]
    pub(super) fn open_window(&mut self) {
        if self.is_writing || self.window.as_ref().is_none_or(|window| window.is_open) {
            return;
        }
        let begun = match &self.syntax {
            text::Syntax::Text(out) if out.stands_for().is_some() => 0,
            _ => remains::of_begun_packet(&self.queue, self.head, self.is_within).len() as u64,
        };
        if let Some(window) = &mut self.window {
            window.is_open = true;
            window.place.passed_over = begun;
        }
    }

    /// The kernel has taken so much from `head` of the first piece on: it is repaid, or to be reported first.
    pub(super) fn settle(
        &mut self,
        taken: &VecDeque<Segment>,
        head: usize,
        written: usize,
        repayments: &mut Repayments,
    ) {
        let Some(window) = self.window.as_mut().filter(|window| window.is_open) else {
            self.debts.settle_into(written as u64, repayments);
            return;
        };
        let (mut from, mut left) = (head, written);
        for segment in taken {
            let bytes = &segment.bytes()[from..];
            let bytes = &bytes[..left.min(bytes.len())];
            window.take(bytes, &mut self.debts, repayments);
            (from, left) = (0, left - bytes.len());
        }
    }
}

#[cfg(all(test, not(broker_loom)))]
mod tests {
    use staunch_flowctl::{Ledger, Limits};
    use staunch_protocols::{text, wire};

    use super::*;

    fn binary(packets: &str) -> Vec<u8> {
        let all = text::parse_all(packets, &wire::Limits::default()).unwrap();
        all[1..all.len() - 1].to_vec()
    }

    /// However what is written is cut, each packet's end is found, and what it was.
    #[test]
    fn turns_are_counted_wherever_writes_end() {
        let long = format!("[[1 <M \"{}\">]]", "x".repeat(300));
        let packets =
            ["[[1 <M [a #:[0 5] {b: 1.5 c: #t}]>]]", "#f", "<C 3>", "[]", &long, "[[2 <R 7>] [3 <R 0>]]"];
        let all = binary(&packets.join(" "));
        let mut ends = Vec::new();
        for n in 1..=packets.len() {
            let is_turn = packets[n - 1].starts_with('[');
            ends.push((binary(&packets[..n].join(" ")).len(), if is_turn { End::Turn } else { End::Other }));
        }
        for piece in 1..=all.len() {
            let (mut place, mut at, mut found) = (Place::default(), 0, Vec::new());
            for mut bytes in all.chunks(piece) {
                while !bytes.is_empty() {
                    let (passed, end) = place.pass(bytes);
                    (at, bytes) = (at + passed, &bytes[passed..]);
                    found.extend(end.map(|end| (at, end)));
                }
            }
            assert_eq!(found, ends, "in pieces of {piece}");
        }
    }

    #[test]
    fn what_is_reported_is_repaid_and_what_is_no_turn_at_once() {
        let ledger = Ledger::default();
        let account = ledger.open_account(&ledger.principal("p"), "a", Limits::unlimited());
        let bytes = binary("<C 1> [[1 <M a>]] [[1 <M b>]] #f [[1 <M c>]]");
        let one = binary("[[1 <M a>]]").len() as u64;
        let mut debts = DebtRuns::new();
        account.charge(bytes.len() as u64);
        debts.push(&account, bytes.len() as u64, bytes.len() as u64);
        let mut window =
            Window { credit: Credit { window: 2 * one, ..Credit::default() }, ..Window::default() };
        let mut repayments = Repayments::default();
        let mut check = |window: &mut Window, reported: Option<u64>, debt: u64, is_full: bool| {
            reported.into_iter().for_each(|count| window.report(count, &mut repayments));
            repayments.repay_all();
            assert_eq!((account.debt(), window.is_full()), (debt, is_full));
        };
        let mut at_once = Repayments::default();
        window.take(&bytes, &mut debts, &mut at_once);
        at_once.repay_all();
        check(&mut window, None, 3 * one + 1, true);
        check(&mut window, Some(0), 3 * one + 1, true);
        check(&mut window, Some(1), 2 * one + 1, true);
        check(&mut window, Some(1), one, false);
        assert_eq!(window.unreported().map(|(sent, reported, _)| (sent, reported)), Some((3, 2)));
        check(&mut window, Some(u64::MAX), 0, false);
        check(&mut window, Some(1), 0, false);
        assert_eq!(window.unreported(), None);
    }
}

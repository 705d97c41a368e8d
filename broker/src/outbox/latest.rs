//! What is newest: for peers that are told no more of state than that.
//!
//! While the kernel takes nothing, what waits is looked through each time that it has doubled. Between two messages (or
//! replays, or whatever else is no assertion) there is a *stretch* of turns that only assert and retract. An assertion
//! that is retracted in the same stretch is cancelled, and its retraction with it; what is left of the stretch becomes
//! one turn, assertions first: so whoever is told of it goes from one state that was so to another that was, and if
//! something was replaced there is no moment without it. (Only if that would be too long a turn it becomes several.)
//! Nothing is moved past a message, since the order of what one sender sends is to be seen.
//!
//! Who looks through it takes all that waits in hand, as who writes does, so that nobody waits for the lock meanwhile.
//! What was owed for what is cancelled is repaid.

#[cfg(all(test, not(broker_loom)))]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use foldhash::fast::RandomState;
use staunch_flowctl::DebtRuns;
use staunch_protocols::wire::tag;

use super::remains::{self, skip_token};
use super::{Outbox, Phase, Segment, SharedBody, State, text};
use crate::slow::Slow;

/// What waits is looked through from this length on.
pub(super) const LOOKED_THROUGH_MIN: u64 = 64 << 10;
/// What is left of a stretch becomes several turns if it is longer. (Peers bound the packets that they take.)
const TURN_BYTES: u64 = 256 << 10;

/// What looking through came to.
#[derive(Default)]
pub(crate) struct Cut {
    pub(crate) cancelled_events: u64,
    pub(crate) dropped_messages: u64,
    /// Something was for the first time.
    pub(crate) is_news: bool,
    /// There is something to be written, and nobody who is about to.
    pub(crate) can_flush: bool,
    pub(crate) waiting_bytes: u64,
}

impl State {
    /// Notes when to look through what waits.
    pub(super) fn plan_cut(&mut self, waiting_bytes: u64) {
        let appended = self.appended;
        if let Some(plan) = &mut self.plan
            && matches!(plan.policy, Slow::Latest { .. })
        {
            plan.cut_at = waiting_bytes.saturating_mul(2).max(LOOKED_THROUGH_MIN);
            plan.cut_appended = appended;
        }
    }
}

impl Outbox {
    /// Drops what has become void of what waits, if that is the policy. The debts for that go to `dropped`: they are repaid
    /// when that is dropped, which may wake somebody.
    pub(crate) fn cut(&self, dropped: &mut Vec<DebtRuns>) -> Cut {
        let mut state = self.state.lock();
        let Slow::Latest { drops_messages } = state.policy() else { return Cut::default() };
        if state.phase != Phase::Open || state.is_writing || state.queue.is_empty() {
            return Cut::default();
        }
        state.is_writing = true;
        let queue = std::mem::take(&mut state.queue);
        let mut debts = std::mem::take(&mut state.debts);
        let (head, is_within) = (state.head, state.is_within);
        let frozen = match &state.syntax {
            text::Syntax::Text(out) => out.stands_for(),
            _ => None,
        };
        drop(state);
        let frozen = frozen.unwrap_or_else(|| remains::of_begun_packet(&queue, head, is_within).len());
        let inline = |queue: &VecDeque<Segment>| queue.iter().map(Segment::inline_bytes).sum::<usize>();
        let inline_before = inline(&queue);
        let mut cutter = Cutter { drops_messages, ..Cutter::default() };
        let head = cutter.keep_begun(queue, head, frozen, &mut debts);
        cutter.cut_rest(&mut debts);
        let Cutter { queue, debts: mut kept, dropped: void, mut cut, .. } = cutter;
        dropped.push(void);
        let inline_after = inline(&queue);

        let mut state = self.state.lock();
        state.is_writing = false;
        if state.phase == Phase::Closed {
            drop(state);
            dropped.push(kept);
            return cut;
        }
        queue.into_iter().rev().for_each(|segment| state.queue.push_front(segment));
        kept.append(std::mem::take(&mut state.debts));
        state.debts = kept;
        state.inline_bytes -= inline_before - inline_after;
        if frozen == 0 {
            state.is_within = false;
        }
        state.head = head;
        cut.waiting_bytes = state.debts.total_bytes();
        state.plan_cut(cut.waiting_bytes);
        let has_cut = cut.cancelled_events + cut.dropped_messages > 0;
        cut.is_news =
            has_cut && state.plan.as_mut().is_some_and(|plan| !std::mem::replace(&mut plan.has_cut, true));
        let mut leftovers = text::Leftovers::default();
        leftovers.add(&mut state, self.ceiling);
        cut.can_flush = state.may_write();
        drop(state);
        leftovers.settle();
        cut
    }
}

/// A part of what waits that is no replay: bytes, and the shared bodies among them, each with the place where it stands.
#[derive(Default)]
struct Run {
    bytes: Vec<u8>,
    bodies: Vec<(usize, Arc<SharedBody>)>,
}

/// An event of a run.
#[derive(Clone, Copy)]
struct Event {
    kind: u8,
    begin: usize,
    end: usize,
    /// Which body it has, if that is shared.
    body: Option<usize>,
    /// How long it is in all.
    length: u64,
    /// Of an assertion or a retraction.
    handle: u64,
    /// It is not to be sent.
    is_void: bool,
}

/// A packet of a run.
struct Packet {
    begin: usize,
    end: usize,
    /// Of a turn; empty for all else.
    events: std::ops::Range<usize>,
    is_turn: bool,
}

/// What has been looked through.
#[derive(Default)]
struct Cutter {
    drops_messages: bool,
    /// What is left.
    queue: VecDeque<Segment>,
    debts: DebtRuns,
    dropped: DebtRuns,
    cut: Cut,
    /// Not looked through yet.
    rest: VecDeque<Segment>,
}

impl Cutter {
    /// Keeps the first `frozen` bytes from `head` on as they are. Returns where in the first segment what is left begins.
    fn keep_begun(
        &mut self,
        mut queue: VecDeque<Segment>,
        mut head: usize,
        frozen: usize,
        debts: &mut DebtRuns,
    ) -> usize {
        debts.move_front(frozen as u64, &mut self.debts);
        let mut left = frozen;
        while let Some(segment) = queue.pop_front() {
            let length = segment.bytes().len();
            let skipped = if self.queue.is_empty() { head } else { 0 };
            if left == 0 && skipped == 0 {
                queue.push_front(segment);
                break;
            }
            if length - skipped <= left {
                left -= length - skipped;
                if length > skipped {
                    self.queue.push_back(segment);
                } else {
                    head = 0;
                }
                continue;
            }
            // Shared bodies do not end packets: this one holds bytes.
            let bytes = segment.bytes();
            let end = skipped + left;
            queue.push_front(Segment::Inline(bytes[end..].to_vec()));
            match left {
                0 => head = 0,
                _ => self.queue.push_back(Segment::Inline(bytes[..end].to_vec())),
            }
            break;
        }
        self.rest = queue;
        if self.queue.is_empty() { 0 } else { head }
    }

    fn cut_rest(&mut self, debts: &mut DebtRuns) {
        let mut run = Run::default();
        while let Some(segment) = self.rest.pop_front() {
            match segment {
                Segment::Inline(bytes) => run.bytes.extend_from_slice(&bytes),
                Segment::Shared(body) => run.bodies.push((run.bytes.len(), body)),
                // Nothing but messages.
                Segment::Batch(bytes) if self.drops_messages => run.bytes.extend_from_slice(&bytes),
                other => {
                    self.cut_run(std::mem::take(&mut run), debts);
                    let length = other.bytes().len() as u64;
                    debts.move_front(length, &mut self.debts);
                    self.queue.push_back(other);
                }
            }
        }
        self.cut_run(run, debts);
        // There may be some of no bytes.
        self.debts.append(std::mem::take(debts));
    }

    fn cut_run(&mut self, run: Run, debts: &mut DebtRuns) {
        if run.bytes.is_empty() {
            return;
        }
        let mut events = Vec::new();
        let Some(packets) = run.read(&mut events) else {
            debug_assert!(false, "what is appended is whole packets");
            debts.move_front(run.length(), &mut self.debts);
            return run.write(0..run.bytes.len(), 0..run.bodies.len(), &mut Out::new(&mut self.queue));
        };
        if self.drops_messages {
            for event in &mut events {
                event.is_void = event.kind == b'M' && !run.is_answer(event);
                self.cut.dropped_messages += u64::from(event.is_void);
            }
        }
        let of_state = |event: &Event| event.is_void || matches!(event.kind, b'A' | b'R');
        let mut stretch = 0..0;
        for (at, packet) in packets.iter().enumerate() {
            if packet.is_turn && events[packet.events.clone()].iter().all(of_state) {
                stretch.end = at + 1;
                continue;
            }
            self.cut_stretch(&run, &packets[stretch], &mut events, debts);
            self.keep_packet(&run, packet, &events, debts);
            stretch = at + 1..at + 1;
        }
        self.cut_stretch(&run, &packets[stretch], &mut events, debts);
    }

    /// Keeps a packet that is no turn of state, but for what is void of it.
    fn keep_packet(&mut self, run: &Run, packet: &Packet, events: &[Event], debts: &mut DebtRuns) {
        let mut out = Out::new(&mut self.queue);
        if !packet.is_turn {
            debts.move_front((packet.end - packet.begin) as u64, &mut self.debts);
            return run.write(packet.begin..packet.end, 0..0, &mut out);
        }
        debts.move_front(1, &mut self.debts);
        out.bytes.push(tag::SEQUENCE);
        for event in &events[packet.events.clone()] {
            if event.is_void {
                debts.move_front(event.length, &mut self.dropped);
            } else {
                debts.move_front(event.length, &mut self.debts);
                run.write_event(event, &mut out);
            }
        }
        debts.move_front(1, &mut self.debts);
        out.bytes.push(tag::END);
    }

    /// Cancels what can be of a stretch, and joins what is left.
    fn cut_stretch(&mut self, run: &Run, packets: &[Packet], all: &mut [Event], debts: &mut DebtRuns) {
        let (Some(first), Some(last)) = (packets.first(), packets.last()) else { return };
        let events = &mut all[first.events.start..last.events.end];
        self.cut.cancelled_events += cancel(events);
        if events.iter().all(|event| !event.is_void) {
            let length = 2 * packets.len() as u64 + events.iter().map(|event| event.length).sum::<u64>();
            debts.move_front(length, &mut self.debts);
            let mut bodies = events.iter().filter_map(|event| event.body);
            let bodies = bodies.next().map_or(0..0, |first| first..bodies.next_back().unwrap_or(first) + 1);
            return run.write(first.begin..last.end, bodies, &mut Out::new(&mut self.queue));
        }
        // Two bytes around the events of each turn; who owes for which of them does not matter.
        let mut frames = DebtRuns::new();
        let (mut asserting, mut retracting) = (DebtRuns::new(), DebtRuns::new());
        for packet in packets {
            debts.move_front(1, &mut frames);
            for event in &all[packet.events.clone()] {
                let to = match (event.is_void, event.kind) {
                    (true, _) => &mut self.dropped,
                    (false, b'A') => &mut asserting,
                    (false, _) => &mut retracting,
                };
                debts.move_front(event.length, to);
            }
            debts.move_front(1, &mut frames);
        }
        let events = &all[first.events.start..last.events.end];
        let turns = self.write_turns(run, events, packets.len());
        frames.move_front(2 * turns as u64, &mut self.debts);
        [asserting, retracting].into_iter().for_each(|owed| self.debts.append(owed));
        self.dropped.append(frames);
    }

    /// Writes what is not void, assertions first, as one turn or as few. Returns how many: `turns_max` at most.
    fn write_turns(&mut self, run: &Run, events: &[Event], turns_max: usize) -> usize {
        let of = |kind: u8| events.iter().filter(move |event| !event.is_void && event.kind == kind);
        let mut out = Out::new(&mut self.queue);
        let (mut turns, mut length) = (0, 0);
        for event in of(b'A').chain(of(b'R')) {
            if turns == 0 || length > TURN_BYTES && turns < turns_max {
                if turns > 0 {
                    out.bytes.push(tag::END);
                }
                out.bytes.push(tag::SEQUENCE);
                (turns, length) = (turns + 1, 0);
            }
            length += event.length;
            run.write_event(event, &mut out);
        }
        if turns > 0 {
            out.bytes.push(tag::END);
        }
        turns
    }
}

/// Marks assertions that are retracted behind, and their retractions. Returns how many events that are.
fn cancel(events: &mut [Event]) -> u64 {
    let mut asserted: HashMap<u64, usize, RandomState> = HashMap::default();
    let mut cancelled = 0;
    for at in 0..events.len() {
        let event = events[at];
        match event.kind {
            b'A' => _ = asserted.insert(event.handle, at),
            b'R' => {
                if let Some(assertion) = asserted.remove(&event.handle) {
                    events[at].is_void = true;
                    events[assertion].is_void = true;
                    cancelled += 2;
                }
            }
            _ => {}
        }
    }
    cancelled
}

/// Segments being written.
struct Out<'q> {
    queue: &'q mut VecDeque<Segment>,
    bytes: Vec<u8>,
}

impl Out<'_> {
    fn new(queue: &mut VecDeque<Segment>) -> Out<'_> {
        Out { queue, bytes: Vec::new() }
    }

    fn flush(&mut self) {
        if !self.bytes.is_empty() {
            self.queue.push_back(Segment::Inline(std::mem::take(&mut self.bytes)));
        }
    }
}

impl Drop for Out<'_> {
    fn drop(&mut self) {
        self.flush();
    }
}

impl Run {
    /// How long it is, with all bodies.
    fn length(&self) -> u64 {
        let bodies = self.bodies.iter().map(|(_, body)| body.bytes().len() as u64);
        self.bytes.len() as u64 + bodies.sum::<u64>()
    }

    /// Whether an event is the answer to a Sync: nothing else says nothing but that.
    fn is_answer(&self, event: &Event) -> bool {
        let close = 2;
        event.body.is_none() && self.bytes[event.end - close - 1] == tag::TRUE && {
            let mut at = event.begin + 1;
            skip_token(&self.bytes, &mut at);
            // The record, its label, and the body.
            at + 4 == event.end - close - 1
        }
    }

    fn write_event(&self, event: &Event, out: &mut Out<'_>) {
        let bodies = event.body.map_or(0..0, |body| body..body + 1);
        self.write(event.begin..event.end, bodies, out);
    }

    /// Writes some bytes, with these bodies among them.
    fn write(&self, range: std::ops::Range<usize>, bodies: std::ops::Range<usize>, out: &mut Out<'_>) {
        let mut at = range.start;
        for (place, body) in &self.bodies[bodies] {
            out.bytes.extend_from_slice(&self.bytes[at..*place]);
            out.flush();
            out.queue.push_back(Segment::Shared(body.clone()));
            at = *place;
        }
        out.bytes.extend_from_slice(&self.bytes[at..range.end]);
    }

    /// Finds the packets, and their events. `None` if it is not whole packets as this broker writes them.
    fn read(&self, events: &mut Vec<Event>) -> Option<Vec<Packet>> {
        let mut reader = Reader { run: self, at: 0, body: 0 };
        let mut packets = Vec::new();
        while reader.at < self.bytes.len() {
            let (begin, first) = (reader.at, events.len());
            let is_turn = self.bytes[begin] == tag::SEQUENCE;
            if is_turn {
                reader.at += 1;
                while *self.bytes.get(reader.at)? != tag::END {
                    events.push(reader.event()?);
                }
                reader.at += 1;
            } else {
                reader.value()?;
            }
            packets.push(Packet { begin, end: reader.at, events: first..events.len(), is_turn });
        }
        (reader.body == self.bodies.len()).then_some(packets)
    }
}

/// Where in a run reading is.
struct Reader<'r> {
    run: &'r Run,
    at: usize,
    /// The next shared body.
    body: usize,
}

impl Reader<'_> {
    fn byte(&mut self) -> Option<u8> {
        self.at += 1;
        self.run.bytes.get(self.at - 1).copied()
    }

    fn expect(&mut self, bytes: &[u8]) -> Option<()> {
        bytes.iter().all(|byte| self.byte() == Some(*byte)).then_some(())
    }

    /// Passes over a value that holds no shared body.
    fn value(&mut self) -> Option<()> {
        let mut depth = 0;
        loop {
            match *self.run.bytes.get(self.at)? {
                tag::RECORD | tag::SEQUENCE | tag::SET | tag::DICTIONARY => depth += 1,
                tag::END if depth == 0 => return None,
                tag::END => depth -= 1,
                tag::EMBEDDED | tag::ANNOTATION => {
                    self.at += 1;
                    continue;
                }
                _ => {}
            }
            skip_token(&self.run.bytes, &mut self.at);
            if depth == 0 {
                return (self.at <= self.run.bytes.len()).then_some(());
            }
        }
    }

    fn event(&mut self) -> Option<Event> {
        let begin = self.at;
        self.expect(&[tag::SEQUENCE])?;
        self.value()?;
        self.expect(&[tag::RECORD, tag::SYMBOL, 1])?;
        let kind = self.byte()?;
        let mut shared = None;
        if kind != b'R' {
            match self.run.bodies.get(self.body) {
                Some((place, _)) if *place == self.at => {
                    shared = Some(self.body);
                    self.body += 1;
                }
                _ => self.value()?,
            }
        }
        let handle = if matches!(kind, b'A' | b'R') { self.handle()? } else { 0 };
        self.expect(&[tag::END, tag::END])?;
        let bytes = shared.map_or(0, |body| self.run.bodies[body].1.bytes().len());
        let length = (self.at - begin + bytes) as u64;
        Some(Event { kind, begin, end: self.at, body: shared, length, handle, is_void: false })
    }

    /// A number of the broker's own.
    fn handle(&mut self) -> Option<u64> {
        self.expect(&[tag::INTEGER])?;
        let length = self.byte()?;
        let mut handle = 0;
        for _ in 0..length.min(9) {
            handle = handle << 8 | u64::from(self.byte()?);
        }
        (length <= 9).then_some(handle)
    }
}

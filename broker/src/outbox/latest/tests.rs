//! Random churn against a naive twin, which keeps every state that there ever was.

use std::collections::{BTreeMap, HashSet};

use staunch_flowctl::{Account, Ledger, Limits, Loan, Repayments};
use staunch_protocols::packet::{Event as WireEvent, Packet as WirePacket};
use staunch_protocols::text as syntax;
use staunch_protocols::wire::{self, Progress, Scanner};
use staunch_system::net::{Buffers, Stream};

use super::super::{Batch, CallCounts, Flushed, Outbox, Pool, Segment, SharedBody};
use super::*;

/// What is alive: handles by key.
type Live = BTreeMap<u64, u64>;

/// xorshift64*
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % end
    }
}

fn binary(packets: &str) -> Vec<u8> {
    let all = syntax::parse_all(packets, &wire::Limits::default()).unwrap();
    all[1..all.len() - 1].to_vec()
}

struct Scene {
    random: Random,
    ledger: Ledger,
    accounts: Vec<Arc<Account>>,
    outbox: Outbox,
    ours: Stream,
    theirs: Stream,
    pool: Pool,
    got: Vec<u8>,
    cut: Cut,
    live: Live,
    /// All states, the first of nothing.
    history: Vec<Live>,
    next_handle: u64,
    messages: u64,
    answers: u64,
}

impl Scene {
    fn new(seed: u64, policy: &str) -> Scene {
        let ledger = Ledger::default();
        let principal = ledger.principal("p");
        let accounts =
            ["a", "b", "c"].map(|name| ledger.open_account(&principal, name, Limits::unlimited())).to_vec();
        let (ours, theirs) = Stream::pair().unwrap();
        ours.set_buffers(Buffers { send_bytes: Some(4096), receive_bytes: None }).unwrap();
        Scene {
            random: Random(seed),
            ledger,
            accounts,
            outbox: Outbox::new(64 << 20, policy.parse().unwrap()),
            ours,
            theirs,
            pool: Pool::default(),
            got: Vec::new(),
            cut: Cut::default(),
            live: Live::new(),
            history: vec![Live::new()],
            next_handle: 1,
            messages: 0,
            answers: 0,
        }
    }

    fn append(&mut self, segments: &mut Vec<Segment>, mut buffer: Vec<u8>) {
        let account = self.accounts[self.random.below(3) as usize].clone();
        let cost = 40 + buffer.len() as u64;
        account.charge(cost);
        self.outbox.append(segments, &mut buffer, &account, cost, &mut self.pool);
    }

    /// A turn that changes some keys at once: what is there is replaced, or goes.
    fn change(&mut self) {
        let (mut segments, mut buffer) = (Vec::new(), vec![tag::SEQUENCE]);
        for _ in 0..1 + self.random.below(3) {
            let key = self.random.below(6);
            if self.random.below(4) > 0 {
                let handle = self.next_handle;
                self.next_handle += 1;
                if self.random.below(8) == 0 {
                    // A long body, that others hold too.
                    buffer.extend_from_slice(&binary("[7 <A 0 0>]")[..8]);
                    segments.push(Segment::Inline(std::mem::take(&mut buffer)));
                    let body = binary(&format!("[{key} \"{}\"]", "x".repeat(5000)));
                    let loan = Loan::charge(&self.accounts[0], body.len() as u64);
                    segments.push(Segment::Shared(Arc::new(SharedBody::new(body, loan))));
                    wire::encode::uint(&mut buffer, handle);
                    buffer.extend_from_slice(&[tag::END; 2]);
                } else {
                    buffer.extend(binary(&format!("[7 <A [{key} #t {{a: <b #\"c\">}}] {handle}>]")));
                }
                if let Some(old) = self.live.insert(key, handle) {
                    buffer.extend(binary(&format!("[7 <R {old}>]")));
                }
            } else if let Some(old) = self.live.remove(&key) {
                buffer.extend(binary(&format!("[7 <R {old}>]")));
            }
        }
        buffer.push(tag::END);
        self.append(&mut segments, buffer);
        self.history.push(self.live.clone());
    }

    /// Something that is no state, with the number of the state in which it was said; for the answer to a Sync that is the
    /// entity.
    fn say(&mut self) {
        let (n, at) = (self.messages, self.history.len() - 1);
        let said = self.random.below(5);
        let packets = match said {
            0 => format!("[[{} <M #t>]]", 1000 + at),
            1 => "<C 3>".to_owned(),
            2 => format!("[[{} <M #t>] [7 <M [{n} {at}]>]]", 1000 + at),
            _ => format!("[[7 <M [{n} {at}]>]]"),
        };
        self.answers += u64::from(matches!(said, 0 | 2));
        self.messages += u64::from(said > 1);
        if said == 4 {
            let (bytes, account) = (binary(&packets), self.accounts[1].clone());
            account.charge(50);
            self.outbox.append_batch(&Batch::Shared(Arc::new(bytes)), &account, 50, &mut self.pool);
        } else {
            self.append(&mut Vec::new(), binary(&packets));
        }
    }

    fn cut(&mut self) {
        let cut = self.outbox.cut(&mut Vec::new());
        self.cut.cancelled_events += cut.cancelled_events;
        self.cut.dropped_messages += cut.dropped_messages;
    }

    fn flush(&mut self) -> bool {
        let mut repayments = Repayments::default();
        let counts = &mut CallCounts::default();
        let flushed = self.outbox.flush(&self.ours, &mut self.pool, &mut repayments, counts);
        repayments.repay_all();
        matches!(flushed, Flushed::More)
    }

    fn read(&mut self, bytes: usize) -> usize {
        let mut chunk = vec![0; bytes];
        let read = self.theirs.read(&mut chunk).unwrap_or(0);
        self.got.extend_from_slice(&chunk[..read]);
        if read > 0 {
            self.outbox.writable();
        }
        read
    }

    fn check_books(&self) {
        let owed: u64 = self.outbox.owed().iter().map(|(_, _, cost)| cost).sum();
        let bodies: u64 = self.outbox.shared_bodies().iter().map(|body| body.loan().cost()).sum();
        assert_eq!(self.ledger.audit(owed + bodies), Ok(()));
        let state = self.outbox.state.lock();
        let inline: usize = state.queue.iter().map(Segment::inline_bytes).sum();
        assert_eq!(state.inline_bytes, inline);
    }

    fn run(&mut self, steps: u64, is_text: bool) {
        for _ in 0..steps {
            match self.random.below(20) {
                0..13 => self.change(),
                13 => self.say(),
                14 | 15 => self.cut(),
                16 => self.check_books(),
                17 if is_text => {
                    let is_text = self.random.below(2) == 0;
                    self.outbox.speak(is_text);
                }
                _ => {
                    let bytes = 1 + self.random.below(3000) as usize;
                    self.read(bytes);
                    self.flush();
                }
            }
        }
        self.cut();
        while self.flush() || self.read(4096) > 0 || !self.outbox.is_empty() {}
        while self.read(4096) > 0 {}
        self.check_books();
        assert_eq!(self.ledger.total_debt(), 0);
    }

    /// The packets that came, in binary.
    fn packets(&self) -> Vec<Vec<u8>> {
        let (mut packets, mut rest) = (Vec::new(), &self.got[..]);
        while !rest.is_empty() {
            let length = if rest[0] < 0x80 {
                let line = rest.iter().position(|byte| *byte == b'\n').unwrap() + 1;
                packets.push(binary(std::str::from_utf8(&rest[..line]).unwrap()));
                line
            } else {
                let mut scanner = Scanner::new(wire::Limits::default());
                let Ok(Progress::Complete(length)) = scanner.scan(rest) else { panic!("cut: {rest:?}") };
                packets.push(rest[..length].to_vec());
                length
            };
            rest = &rest[length..];
        }
        packets
    }

    /// Takes what came as an observer does, and compares.
    fn check(&self, drops_messages: bool) {
        let mut held: BTreeMap<u64, u64> = BTreeMap::new();
        let mut seen = HashSet::new();
        let (mut at, mut messages, mut answers, mut next) = (0, 0, 0, 0);
        for packet in self.packets() {
            let mut scanner = Scanner::new(wire::Limits::default());
            scanner.scan(&packet).unwrap();
            let WirePacket::Turn(turn) = WirePacket::read(scanner.view(&packet)).unwrap() else { continue };
            let number = |view: wire::View<'_>| view.as_i64().unwrap() as u64;
            let mut said_at = Vec::new();
            for event in turn.events() {
                let event = event.unwrap();
                match event.event {
                    WireEvent::Assert { assertion, handle } => {
                        let handle = handle.as_i64().unwrap() as u64;
                        assert!(seen.insert(handle), "told once");
                        held.insert(handle, number(assertion.children().next().unwrap()));
                    }
                    WireEvent::Retract { handle } => {
                        let handle = handle.as_i64().unwrap() as u64;
                        assert!(held.remove(&handle).is_some(), "never before it was told");
                    }
                    WireEvent::Message { body } if body.span() == [tag::TRUE] => {
                        answers += 1;
                        said_at.push(event.oid.as_i64().unwrap() as usize - 1000);
                    }
                    WireEvent::Message { body } => {
                        let mut parts = body.children().map(number);
                        let n = parts.next().unwrap();
                        assert!(n == next || drops_messages && n > next, "{n} instead of {next}");
                        (messages, next) = (messages + 1, n + 1);
                        said_at.push(parts.next().unwrap() as usize);
                    }
                    WireEvent::Sync { .. } => panic!("none was sent"),
                }
            }
            // Each state that it is told of was so, and not before the last.
            let state: Live = held.iter().map(|(handle, key)| (*key, *handle)).collect();
            assert_eq!(state.len(), held.len(), "never two of one key");
            at += self.history[at..].iter().position(|then| *then == state).expect("it never was so");
            assert!(said_at.iter().all(|at| self.history[*at] == state), "said while it was so");
        }
        let state: Live = held.iter().map(|(handle, key)| (*key, *handle)).collect();
        assert_eq!(state, self.live, "in the end it knows what is so");
        assert_eq!((answers, messages + self.cut.dropped_messages), (self.answers, self.messages));
        assert!(drops_messages || self.cut.dropped_messages == 0);
    }
}

#[test]
fn whoever_is_told_what_is_newest_knows_in_the_end_what_is_so() {
    let seeds: Vec<u64> = match std::env::var("STAUNCH_SEED") {
        Ok(seed) => vec![seed.parse().expect("STAUNCH_SEED is a number")],
        Err(_) => (1..=40).collect(),
    };
    let mut sums = (0, 0);
    for seed in seeds {
        println!("STAUNCH_SEED={seed}");
        for (policy, is_text) in
            [("latest", false), ("latest:drop", false), ("latest", true), ("latest:drop", true)]
        {
            let mut scene = Scene::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, policy);
            scene.run(400, is_text);
            scene.check(policy == "latest:drop");
            sums = (sums.0 + scene.cut.cancelled_events, sums.1 + scene.cut.dropped_messages);
        }
    }
    assert!(sums.0 > 1000 && sums.1 > 100, "{sums:?}");
}

/// What is left of a long stretch is told in several turns, and all that is new before all that is gone.
#[test]
fn a_long_stretch_becomes_turns_that_peers_take() {
    let mut scene = Scene::new(1, "latest");
    let turn = |n: u64, old: u64| format!("[[7 <A [{n} \"{}\"] {n}>] [7 <R {old}>]]", "x".repeat(3000));
    // The beginning of the first is written, so that its handle is not cancelled.
    for n in 1..1000 {
        scene.append(&mut Vec::new(), binary(&turn(n, if n % 10 == 0 { n - 1 } else { 10_000 + n })));
    }
    scene.cut();
    assert_eq!(scene.cut.cancelled_events, 2 * 99);
    while scene.flush() || scene.read(1 << 16) > 0 || !scene.outbox.is_empty() {}
    while scene.read(1 << 16) > 0 {}
    let packets = scene.packets();
    assert!((8..20).contains(&packets.len()), "{}", packets.len());
    let longest = packets.iter().map(Vec::len).max().unwrap();
    assert!(longest < TURN_BYTES as usize + 4000, "{longest}");
    let kinds: Vec<u8> = packets.iter().flat_map(|packet| events_of(packet)).collect();
    assert!(kinds.is_sorted() && kinds.contains(&b'R'));
    assert_eq!(scene.ledger.total_debt(), 0);
}

fn events_of(packet: &[u8]) -> Vec<u8> {
    let mut events = Vec::new();
    Run { bytes: packet.to_vec(), bodies: Vec::new() }.read(&mut events).unwrap();
    events.iter().map(|event| event.kind).collect()
}

//! Several threads at one index: what observers see must be whole turns, in order, and right in the end.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex};

use common::tree::{Tree, capability, dictionary, rec};
use common::{list, scanned, twin};
use staunch_index::pattern::Pattern;
use staunch_index::{Action, Captures, Domain, Endpoint, Index, Replay, Scratch, Sink, Stored, Usage};

const THREADS: u64 = 4;
const TURNS: usize = 1500;
const PAIRS: usize = 12;

/// Splitmix64: a seed gives the same decisions in each thread, though not the same interleaving.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) % n as u64) as usize
    }
}

struct Plug;

impl Domain for Plug {
    type Endpoint = Outbox;
    type Extra = ();
    type Owner = ();
    type Payer = ();
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Event {
    Message(Vec<u8>),
    Assert(u64, Vec<u8>),
    Retract(u64),
}

#[derive(Default)]
struct Log {
    turns: Vec<Vec<Event>>,
    /// How many turns came before the replay, and what it told.
    replay: Option<(usize, Replay<Plug>)>,
    before_replay: Option<usize>,
    pulled: Vec<Event>,
    /// The turn that unsubscribed has returned.
    is_closed: bool,
}

/// An observer's outbox, as a session would have it.
#[derive(Clone)]
struct Outbox {
    number: u64,
    log: Arc<Mutex<Log>>,
}

impl Endpoint for Outbox {
    fn handle_domain(&self) -> u64 {
        self.number % 3
    }
    fn is_gone(&self) -> bool {
        false
    }
}

/// Stages turns, and appends them to each outbox whole.
#[derive(Default)]
struct Stage {
    turn: u64,
    staged: Vec<(u64, Outbox, Event)>,
    replays: Vec<(Outbox, Replay<Plug>)>,
}

impl Stage {
    fn message(&mut self, to: &Outbox, captures: &Captures<'_>) {
        self.staged.push((self.turn, to.clone(), Event::Message(list(captures))));
    }

    fn publish(&mut self) {
        let mut by_outbox: BTreeMap<(u64, u64), (Outbox, Vec<Event>)> = BTreeMap::new();
        for (turn, to, event) in self.staged.drain(..) {
            by_outbox.entry((to.number, turn)).or_insert((to, Vec::new())).1.push(event);
        }
        self.turn += 1;
        for (to, events) in by_outbox.into_values() {
            let mut log = to.log.lock().unwrap();
            assert!(!log.is_closed, "an event for an observer that has gone: {events:?}");
            log.turns.push(events);
        }
        for (to, replay) in self.replays.drain(..) {
            let mut log = to.log.lock().unwrap();
            let before = log.turns.len();
            log.before_replay = Some(before);
            log.replay = Some((before, replay));
        }
    }
}

impl Sink<Plug> for Stage {
    fn message(&mut self, to: &Outbox, captures: &Captures<'_>) {
        Stage::message(self, to, captures);
    }
    fn assert(&mut self, to: &Outbox, handle: u64, captures: &Captures<'_>, _: &Stored<Plug>) {
        self.staged.push((self.turn, to.clone(), Event::Assert(handle, list(captures))));
    }
    fn retract(&mut self, to: &Outbox, handle: u64, _: &Captures<'_>, _: &Stored<Plug>) {
        self.staged.push((self.turn, to.clone(), Event::Retract(handle)));
    }
    fn replay(&mut self, to: &Outbox, replay: Replay<Plug>) {
        self.replays.push((to.clone(), replay));
    }
    fn overdrawn(&mut self, _: &()) {}
    fn publish(&mut self) {
        Stage::publish(self);
    }
}

fn bind() -> Tree {
    rec("bind", vec![rec("_", vec![])])
}

fn group(label: &str, entries: Vec<(Tree, Tree)>) -> Tree {
    rec("group", vec![rec("rec", vec![common::tree::sym(label)]), dictionary(entries)])
}

/// The patterns that observers take.
fn pattern(choice: usize, random: &mut Random) -> Tree {
    let int = |n: usize| Tree::Int(n as i128);
    match choice {
        0 => group("pair", vec![(int(0), bind()), (int(1), bind())]),
        1 => group("pair", vec![(int(0), rec("lit", vec![int(random.below(PAIRS))])), (int(1), bind())]),
        2 => group("state", vec![(int(0), bind()), (int(1), bind())]),
        3 => group("state", vec![(int(0), bind())]),
        4 => group("shared", vec![(int(1), bind())]),
        5 => bind(),
        6 => group("Observe", vec![(int(0), bind())]),
        _ => group("said", vec![(int(0), bind()), (int(1), bind())]),
    }
}

struct Observer {
    observe: Stored<Plug>,
    pattern: Tree,
    choice: usize,
    outbox: Outbox,
}

/// What one thread does, and holds.
struct Worker<'i> {
    id: u64,
    index: &'i Index<Plug>,
    numbers: &'i AtomicU64,
    random: Random,
    scratch: Scratch,
    stage: Stage,
    pairs: BTreeMap<usize, [Stored<Plug>; 2]>,
    shared: Vec<Stored<Plug>>,
    state: Option<Stored<Plug>>,
    states: usize,
    said: usize,
    observers: Vec<Observer>,
    gone: Vec<Observer>,
}

impl Worker<'_> {
    /// Commits assertions (of trees) after or before retractions, with shared access.
    fn commit(
        &mut self,
        asserts: &[Tree],
        retracts: Vec<Stored<Plug>>,
        message: Option<Tree>,
    ) -> Vec<Stored<Plug>> {
        let bytes: Vec<Vec<u8>> = asserts.iter().chain(&message).map(Tree::canonical).collect();
        let scanners: Vec<_> = bytes.iter().map(|b| scanned(b)).collect();
        let mut actions: Vec<Action<'_, Plug>> = Vec::new();
        for i in 0..asserts.len() {
            actions.push(Action::Assert { value: scanners[i].view(&bytes[i]), extra: None, observe: None });
        }
        actions.extend(retracts.into_iter().map(Action::Retract));
        if message.is_some() {
            actions.push(Action::Message(scanners[asserts.len()].view(&bytes[asserts.len()])));
        }
        let mut placed = Vec::new();
        if self.random.below(8) == 0 {
            let mut writer = self.index.write();
            writer.commit(None, &mut actions, &mut placed, &mut self.scratch, &mut self.stage);
        } else {
            let reader = self.index.read();
            reader.commit(&mut actions, &mut placed, &mut self.scratch, &mut self.stage);
        }
        placed
    }

    fn step(&mut self) {
        let int = |n: usize| Tree::Int(n as i128);
        match self.random.below(14) {
            12 | 13 => self.run(),
            0..=3 => {
                let which = self.random.below(PAIRS);
                if let Some(pair) = self.pairs.remove(&which) {
                    self.commit(&[], pair.into(), None);
                } else {
                    let pair = [0, 1].map(|side| rec("pair", vec![int(which), int(side)]));
                    let placed = self.commit(&pair, vec![], None);
                    self.pairs.insert(which, placed.try_into().unwrap());
                }
            }
            4 | 5 => {
                self.states += 1;
                let next = rec("state", vec![int(self.id as usize), int(self.states)]);
                let old = self.state.take();
                self.state = self.commit(&[next], old.into_iter().collect(), None).pop();
            }
            6 => {
                let shared = rec("shared", vec![int(self.random.below(5)), int(self.random.below(2))]);
                let placed = self.commit(&[shared], vec![], None);
                self.shared.extend(placed);
            }
            7 if !self.shared.is_empty() => {
                let at = self.random.below(self.shared.len());
                let stored = self.shared.swap_remove(at);
                self.commit(&[], vec![stored], None);
            }
            8 => {
                self.said += 1;
                let said = rec("said", vec![int(self.id as usize), int(self.said)]);
                self.commit(&[], vec![], Some(said));
            }
            9 => self.route(),
            10 if self.observers.len() < 6 => self.observe(),
            11 if !self.observers.is_empty() => {
                let at = self.random.below(self.observers.len());
                if self.random.below(3) == 0 {
                    let observer = self.observers.swap_remove(at);
                    self.unobserve(observer);
                } else {
                    pull(&self.observers[at].outbox, 1 + self.random.below(5) as u32, &mut self.scratch);
                }
            }
            _ => {}
        }
    }

    /// Turns that are published together, pairs and a state in each, under one hold.
    fn run(&mut self) {
        let int = |n: usize| Tree::Int(n as i128);
        let reader = self.index.read();
        let mut run = reader.run();
        for _ in 0..self.random.below(40) {
            let which = self.random.below(PAIRS);
            let mut trees = Vec::new();
            let mut gone: Vec<Stored<Plug>> = Vec::new();
            match self.pairs.remove(&which) {
                Some(pair) => gone.extend(pair),
                None => trees.extend([0, 1].map(|side| rec("pair", vec![int(which), int(side)]))),
            }
            self.states += 1;
            trees.push(rec("state", vec![int(self.id as usize), int(self.states)]));
            gone.extend(self.state.take());
            let bytes: Vec<Vec<u8>> = trees.iter().map(Tree::canonical).collect();
            let scanners: Vec<_> = bytes.iter().map(|b| scanned(b)).collect();
            let views = scanners.iter().zip(&bytes).map(|(scanner, bytes)| scanner.view(bytes));
            let assert = |value| Action::Assert { value, extra: None, observe: None };
            let mut actions: Vec<Action<'_, Plug>> = views.map(assert).collect();
            actions.extend(gone.into_iter().map(Action::Retract));
            let mut placed = Vec::new();
            self.stage.turn += 1;
            run.commit(&mut actions, &mut placed, &mut self.scratch, &mut self.stage);
            self.state = placed.pop();
            if !placed.is_empty() {
                self.pairs.insert(which, placed.try_into().unwrap());
            }
        }
        self.stage.publish();
    }

    /// Messages by the fast way: many under one hold, appended before it is let go.
    fn route(&mut self) {
        let reader = self.index.read();
        for _ in 0..3 {
            self.said += 1;
            let said =
                rec("said", vec![Tree::Int(self.id as i128), Tree::Int(self.said as i128)]).canonical();
            let scanner = scanned(&said);
            let stage = &mut self.stage;
            reader
                .message(scanner.view(&said), &mut self.scratch, |to, captures| stage.message(to, captures));
            self.stage.publish();
        }
    }

    fn observe(&mut self) {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let choice = self.random.below(8);
        let tree = pattern(choice, &mut self.random);
        let bytes = rec("Observe", vec![tree.clone(), capability(number)]).canonical();
        let scanner = scanned(&bytes);
        let (compiled, _) = Pattern::of_observe(scanner.view(&bytes)).unwrap();
        let prepared = self.index.prepare::<()>(&compiled, number % 3, (), |_| Ok(())).unwrap();
        while !self.index.advance(&prepared, 2, &mut self.scratch).unwrap() {
            if self.random.below(40) == 0 {
                self.index.write().cancel(prepared);
                return;
            }
        }
        let outbox = Outbox { number, log: Arc::default() };
        let value = scanner.view(&bytes);
        let assert = Action::Assert { value, extra: None, observe: Some((prepared, outbox.clone())) };
        let mut placed = Vec::new();
        self.index.write().commit(None, &mut [assert], &mut placed, &mut self.scratch, &mut self.stage);
        let observe = placed.pop().unwrap();
        self.observers.push(Observer { observe, pattern: tree, choice, outbox });
    }

    fn unobserve(&mut self, observer: Observer) {
        let mut retract = [Action::Retract(observer.observe.clone())];
        self.index.write().commit(None, &mut retract, &mut Vec::new(), &mut self.scratch, &mut self.stage);
        observer.outbox.log.lock().unwrap().is_closed = true;
        self.gone.push(observer);
    }

    fn end(&mut self) {
        let pairs = std::mem::take(&mut self.pairs).into_values().flatten();
        let rest: Vec<_> = pairs.chain(self.shared.drain(..)).chain(self.state.take()).collect();
        self.commit(&[], rest, None);
        for observer in std::mem::take(&mut self.observers) {
            self.unobserve(observer);
        }
    }
}

fn pull(outbox: &Outbox, slots_max: u32, scratch: &mut Scratch) {
    // As in an outbox: the replay is taken out, pulled without the log's lock, and put back if there is more.
    let Some((before, replay)) = outbox.log.lock().unwrap().replay.take() else { return };
    let mut pulled = Vec::new();
    let has_more = replay.pull(slots_max, scratch, &mut |handle, _, captures| {
        pulled.push(Event::Assert(handle, list(captures)));
        true
    });
    let mut log = outbox.log.lock().unwrap();
    log.pulled.extend(pulled);
    if has_more {
        log.replay = Some((before, replay));
    }
}

/// A number below 128 in canonical form, and what follows it: for a number again, of another length then or
/// greater bytewise if greater.
fn small(bytes: &[u8]) -> (u8, &[u8]) {
    if bytes[1] == 0 { (0, &bytes[2..]) } else { (bytes[2], &bytes[3..]) }
}

/// Checks an observer's events as they would be on the wire; what it holds in the end.
fn accumulate(observer: &Observer) -> BTreeSet<Vec<u8>> {
    let log = observer.outbox.log.lock().unwrap();
    assert!(log.replay.is_none());
    let before = log.before_replay.unwrap_or(0);
    let pulled = std::iter::once(&log.pulled);
    let turns = log.turns[..before].iter().chain(pulled).chain(&log.turns[before..]);
    let mut held: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    let mut said: BTreeMap<u8, &[u8]> = BTreeMap::new();
    for turn in turns {
        for event in turn {
            match event {
                Event::Assert(handle, list) => assert_eq!(held.insert(*handle, list.clone()), None),
                Event::Retract(handle) => assert!(held.remove(handle).is_some(), "retracted before asserted"),
                Event::Message(list) if observer.choice == 7 => {
                    let (sender, counter) = small(&list[1..]);
                    if let Some(last) = said.insert(sender, counter) {
                        assert!(last < counter, "out of order");
                    }
                }
                Event::Message(_) => {}
            }
        }
        if observer.choice == 2 && log.before_replay.is_none() {
            let whose: BTreeSet<u8> = held.values().map(|l| small(&l[1..]).0).collect();
            assert_eq!(whose.len(), held.len(), "a thread's old state beside its new one: {held:?}");
        }
        if observer.choice <= 1 && log.before_replay.is_none() {
            assert!(turn.len().is_multiple_of(2) && held.len().is_multiple_of(2), "a torn turn: {turn:?}");
        }
    }
    assert_eq!(held.len(), held.values().collect::<BTreeSet<_>>().len(), "a list under two handles");
    held.into_values().collect()
}

fn history(seed: u64, sorted_max: usize, (waits, lists): (u32, usize)) {
    let index: Index<Plug> = Index::new(Arc::new(AtomicU64::new(1)));
    let index = index.with_sorted_max(sorted_max).with_stripes(waits, lists);
    let numbers = AtomicU64::new(1);
    let barrier = Barrier::new(THREADS as usize);
    let run = |id: u64| {
        let mut worker = Worker {
            id,
            index: &index,
            numbers: &numbers,
            random: Random(seed ^ id << 32),
            scratch: Scratch::default(),
            stage: Stage::default(),
            pairs: BTreeMap::new(),
            shared: Vec::new(),
            state: None,
            states: 0,
            said: 0,
            observers: Vec::new(),
            gone: Vec::new(),
        };
        barrier.wait();
        (0..TURNS).for_each(|_| worker.step());
        worker
    };
    let run = &run;
    let mut workers: Vec<Worker<'_>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|id| scope.spawn(move || run(id))).collect();
        threads.into_iter().map(|t| t.join().expect("a thread failed")).collect()
    });
    let mut placed: Vec<Tree> = Vec::new();
    for worker in &workers {
        let held = worker.pairs.values().flatten().chain(&worker.shared).chain(&worker.state);
        let held = held.chain(worker.observers.iter().map(|o| &o.observe));
        placed.extend(held.map(|stored| Tree::read(scanned(stored.bytes()).view(stored.bytes()))));
    }
    let mut scratch = Scratch::default();
    for observer in workers.iter().flat_map(|w| &w.observers) {
        pull(&observer.outbox, u32::MAX, &mut scratch);
        let pattern = twin::parse(&observer.pattern).unwrap();
        let expected: BTreeSet<Vec<u8>> = placed
            .iter()
            .filter_map(|value| Some(Tree::Sequence(twin::captures(&pattern, value)?).canonical()))
            .collect();
        assert_eq!(accumulate(observer), expected, "{:?}", observer.pattern);
    }
    for worker in &mut workers {
        worker.end();
        for observer in &worker.gone {
            pull(&observer.outbox, u32::MAX, &mut scratch);
            assert!(accumulate(observer).is_empty(), "an observer that went was told that all went");
        }
    }
    assert_eq!(index.usage(), Usage::default());
}

/// One test, so that its threads have the cores to themselves.
#[test]
fn concurrent_turns_are_whole_and_exact() {
    let seed = std::env::var("SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
    for round in 0..60 {
        println!("SEED={} fails below, if anything does", seed + round);
        // Bags are divided by the way, from the start, or never.
        let stripes = [(1, 8), (20, usize::MAX), (0, 0), (u32::MAX, usize::MAX)][round as usize / 2 % 4];
        history(seed + round, if round % 2 == 0 { 512 } else { 3 }, stripes);
    }
}

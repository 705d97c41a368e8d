//! Runs random histories through an index and its twin, and compares what each observer sees.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use staunch_index::pattern::Pattern;
use staunch_index::{Action, Index, Prepared, Replay, Scratch, Stored, Usage, looks_like_observe};
use staunch_protocols::wire::Scanner;

use super::tree::{Noise, Tree};
use super::twin::{self, Pat, Twin};
use super::{Event, Pays, Plug, Recorder, To, generate, list, scanned};

/// Of an index's store.
const SHARDS: usize = 32;

/// Where a history's decisions and values come from.
pub trait Source {
    /// A number below `n`, which is at most 256.
    fn below(&mut self, n: usize) -> usize;
    /// What is asserted, or sent.
    fn value(&mut self) -> Tree;
    /// What subscribes somebody, more often than not.
    fn observe(&mut self) -> Tree;

    /// True once in `n` times.
    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == n - 1
    }
}

/// Values that meet often.
impl Source for Noise {
    fn below(&mut self, n: usize) -> usize {
        Noise::below(self, n)
    }
    fn value(&mut self) -> Tree {
        generate::value(self, 2)
    }
    fn observe(&mut self) -> Tree {
        generate::observe(self)
    }
}

/// What a turn is to do.
enum Planned {
    Assert(Tree, Option<Prepared<Plug>>),
    /// A placement taken out of [`Driver::placed`].
    Retract(Stored<Plug>, Tree),
    RetractSame(usize),
    Message(Tree),
}

/// What the twin says that an observer is told.
#[derive(Debug)]
enum Expected {
    Message(Vec<u8>),
    Assert(Vec<u8>),
    /// If the list has been told at all: a replay may not have come to it.
    Retract(Vec<u8>),
    /// All that was told, in any order.
    RetractAll,
    Replay,
}

pub struct Driver {
    index: Index<Plug>,
    sorted_max: usize,
    is_striped: bool,
    twin: Twin,
    scratch: Scratch,
    /// With the numbers of those who placed them.
    placed: Vec<(Stored<Plug>, Tree, u64)>,
    waiting: Vec<(Prepared<Plug>, Tree, u64)>,
    payers: Vec<Pays>,
    /// Whose turn it is.
    holder: u64,
    /// By observer: the lists it holds, by handle.
    told: BTreeMap<u64, BTreeMap<u64, Vec<u8>>>,
    replays: Vec<(u64, Replay<Plug>)>,
    /// Canonical bytes of each Observe: its place here is the observer's number.
    observes: Vec<Vec<u8>>,
    /// How many assertions there have been.
    asserted: usize,
    /// Held by all that the index keeps for us.
    token: Arc<()>,
}

fn sequence(captures: &[Tree]) -> Vec<u8> {
    Tree::Sequence(captures.to_vec()).canonical()
}

/// The observer's capability decides in which session it is.
fn domain_of(observer: &Tree) -> u64 {
    observer.canonical().iter().map(|b| *b as u64).sum::<u64>() % 3
}

impl Driver {
    /// Observers of more than `sorted_max` lists get replays; bags of `striped_from` lists are divided.
    pub fn new(sorted_max: usize, striped_from: usize) -> Driver {
        Driver {
            index: Index::new(Arc::new(AtomicU64::new(1)))
                .with_sorted_max(sorted_max)
                .with_stripes(u32::MAX, striped_from),
            sorted_max,
            is_striped: striped_from < usize::MAX,
            twin: Twin::default(),
            scratch: Scratch::default(),
            placed: Vec::new(),
            waiting: Vec::new(),
            payers: (0..3).map(|number| Pays { number, ..Pays::default() }).collect(),
            holder: 0,
            told: BTreeMap::new(),
            replays: Vec::new(),
            observes: Vec::new(),
            asserted: 0,
            token: Arc::new(()),
        }
    }

    fn number(&mut self, observe: &Tree) -> u64 {
        let bytes = observe.canonical();
        let at = self.observes.iter().position(|o| *o == bytes).unwrap_or_else(|| {
            self.observes.push(bytes);
            self.observes.len() - 1
        });
        at as u64 + 1
    }

    fn prepare(&mut self, observe: &Tree) -> Option<Prepared<Plug>> {
        let bytes = observe.canonical();
        let scanner = scanned(&bytes);
        let compiled = Pattern::of_observe(scanner.view(&bytes));
        let expected = twin::observe(observe);
        assert_eq!(compiled.is_some(), expected.is_some(), "{observe:?}");
        let (pattern, _) = compiled?;
        let (expected, observer) = expected?;
        assert_eq!(pattern.captures_nested(), expected.binds_nested(), "{observe:?}");
        let domain = domain_of(&observer);
        let token = self.token.clone();
        let payer = self.payers[self.holder as usize].clone();
        self.index.prepare::<()>(&pattern, domain, payer, |_| Ok(token)).ok()
    }

    /// One step of a history.
    pub fn step(&mut self, source: &mut impl Source) {
        self.holder = source.below(3) as u64;
        match source.below(10) {
            0..=5 => {
                let plan = self.plan(source);
                self.turn(plan, source.one_in(4));
            }
            6 => {
                let observe = source.observe();
                if let Some(prepared) = self.prepare(&observe) {
                    self.waiting.push((prepared, observe, self.holder));
                }
            }
            7 if !self.waiting.is_empty() => {
                let at = source.below(self.waiting.len());
                let budget = source.below(4);
                self.index.advance(&self.waiting[at].0, budget, &mut self.scratch).unwrap();
            }
            8 if !self.waiting.is_empty() => {
                let (prepared, observe, holder) = self.waiting.swap_remove(source.below(self.waiting.len()));
                self.holder = holder;
                if source.one_in(2) {
                    self.index.write().cancel(prepared);
                } else {
                    self.complete(&prepared, 1 + source.below(9));
                    self.turn(vec![Planned::Assert(observe, Some(prepared))], true);
                }
            }
            9 if !self.replays.is_empty() => {
                let at = source.below(self.replays.len());
                self.pull(at, 1 + source.below(5) as u32, source.below(4));
            }
            _ => {}
        }
    }

    fn plan(&mut self, source: &mut impl Source) -> Vec<Planned> {
        let mut plan: Vec<Planned> = Vec::new();
        for _ in 0..1 + source.below(5) {
            let next = match source.below(10) {
                0..=2 => {
                    let value = source.value();
                    self.planned_assert(value)
                }
                3 if !self.placed.is_empty() => {
                    let again = self.placed[source.below(self.placed.len())].1.clone();
                    self.planned_assert(again)
                }
                4 | 5 if self.placed.iter().any(|(.., holder)| *holder == self.holder) => {
                    let own = |at: &usize| self.placed[*at].2 == self.holder;
                    let from = source.below(self.placed.len());
                    let Some(at) = (from..self.placed.len()).chain(0..from).find(own) else { continue };
                    let (stored, tree, _) = self.placed.swap_remove(at);
                    Planned::Retract(stored, tree)
                }
                6 => {
                    let retracted =
                        |at: usize| plan.iter().any(|p| matches!(p, Planned::RetractSame(of) if *of == at));
                    let free = (0..plan.len())
                        .rev()
                        .find(|at| matches!(plan[*at], Planned::Assert(..)) && !retracted(*at));
                    match free {
                        Some(at) => Planned::RetractSame(at),
                        None => continue,
                    }
                }
                7 => Planned::Message(source.value()),
                8 => Planned::Message(source.observe()),
                _ => {
                    let observe = source.observe();
                    self.planned_assert(observe)
                }
            };
            plan.push(next);
        }
        plan
    }

    /// Works on what a place lacks until it is ready: two passes over what was ever stored, in steps of `budget`.
    fn complete(&mut self, prepared: &Prepared<Plug>, budget: usize) {
        // Each shard is a step at least, in both.
        let steps_max = 2 * (self.asserted + SHARDS);
        for _ in 0..=steps_max {
            if self.index.advance(prepared, budget, &mut self.scratch).unwrap() {
                return;
            }
        }
        panic!("not ready after {steps_max} steps of {budget} for {} values", self.asserted);
    }

    fn planned_assert(&mut self, tree: Tree) -> Planned {
        let prepared = self.prepare(&tree);
        if let Some(prepared) = &prepared {
            self.complete(prepared, 2);
        }
        Planned::Assert(tree, prepared)
    }

    /// Takes a turn through the index and the twin.
    fn turn(&mut self, mut plan: Vec<Planned>, prefers_exclusive: bool) {
        let expected = self.expect(&plan);
        let bytes: Vec<Vec<u8>> = plan
            .iter()
            .map(|p| match p {
                Planned::Assert(tree, _) | Planned::Message(tree) => tree.canonical(),
                _ => vec![0x80],
            })
            .collect();
        let scanners: Vec<Scanner> = bytes.iter().map(|b| scanned(b)).collect();
        let mut exclusive = prefers_exclusive;
        let mut actions: Vec<Action<'_, Plug>> = Vec::new();
        for (i, planned) in plan.iter_mut().enumerate() {
            let value = scanners[i].view(&bytes[i]);
            actions.push(match planned {
                Planned::Assert(tree, prepared) => {
                    exclusive |= looks_like_observe(&bytes[i]);
                    let observe = prepared.take().map(|p| {
                        let domain = domain_of(&twin::observe(tree).unwrap().1);
                        (p, To { observer: self.number(tree), domain })
                    });
                    Action::Assert { value, extra: Some(Box::new(self.token.clone())), observe }
                }
                Planned::Retract(stored, _) => {
                    exclusive |= stored.may_observe();
                    Action::Retract(stored.clone())
                }
                Planned::RetractSame(of) => Action::RetractSame(*of),
                Planned::Message(_) => Action::Message(value),
            });
        }
        let mut placed = Vec::new();
        let mut recorder = Recorder::default();
        if exclusive {
            let mut writer = self.index.write();
            writer.commit(Some(self.holder), &mut actions, &mut placed, &mut self.scratch, &mut recorder);
        } else {
            self.index.read().commit(&mut actions, &mut placed, &mut self.scratch, &mut recorder);
        }
        drop(actions);
        self.keep(&plan, placed);
        self.compare(expected, recorder);
        self.check();
    }

    fn keep(&mut self, plan: &[Planned], placed: Vec<Stored<Plug>>) {
        let mut placed = placed.into_iter();
        for (at, planned) in plan.iter().enumerate() {
            let Planned::Assert(tree, _) = planned else { continue };
            self.asserted += 1;
            let stored = placed.next().expect("each assertion is stored");
            assert_eq!(stored.bytes(), tree.canonical());
            if !plan.iter().any(|p| matches!(p, Planned::RetractSame(of) if *of == at)) {
                self.placed.push((stored, tree.clone(), self.holder));
            }
        }
        assert!(placed.next().is_none());
    }

    /// Applies the plan to the twin, one action after the other.
    fn expect(&mut self, plan: &[Planned]) -> Vec<(u64, Expected)> {
        let mut expected = Vec::new();
        for planned in plan {
            match planned {
                Planned::Assert(tree, _) => self.expect_assert(tree, &mut expected),
                Planned::Retract(_, tree) => self.expect_retract(tree, &mut expected),
                Planned::RetractSame(of) => {
                    let Planned::Assert(tree, _) = &plan[*of] else { unreachable!() };
                    self.expect_retract(tree, &mut expected);
                }
                Planned::Message(tree) => {
                    for (observer, _, pattern) in &self.twin.observers {
                        if let Some(captures) = twin::captures(pattern, tree) {
                            expected.push((*observer, Expected::Message(sequence(&captures))));
                        }
                    }
                }
            }
        }
        expected
    }

    fn expect_assert(&mut self, tree: &Tree, expected: &mut Vec<(u64, Expected)>) {
        let is_new = self.twin.count(tree) == 0;
        if is_new {
            for (observer, _, pattern) in &self.twin.observers {
                if let Some(captures) = twin::captures(pattern, tree)
                    && !self.twin.lists(pattern).contains(&captures)
                {
                    expected.push((*observer, Expected::Assert(sequence(&captures))));
                }
            }
        }
        self.twin.placements.push(tree.clone());
        if is_new && let Some((pattern, _)) = twin::observe(tree) {
            let observer = self.number(tree);
            let lists = self.twin.lists(&pattern);
            if lists.len() <= self.sorted_max {
                expected.extend(lists.iter().map(|c| (observer, Expected::Assert(sequence(c)))));
            } else {
                expected.push((observer, Expected::Replay));
            }
            self.twin.observers.push((observer, tree.clone(), pattern));
        }
    }

    fn expect_retract(&mut self, tree: &Tree, expected: &mut Vec<(u64, Expected)>) {
        self.twin.remove(tree);
        if self.twin.count(tree) > 0 {
            return;
        }
        for (observer, _, pattern) in &self.twin.observers {
            if let Some(captures) = twin::captures(pattern, tree)
                && !self.twin.lists(pattern).contains(&captures)
            {
                expected.push((*observer, Expected::Retract(sequence(&captures))));
            }
        }
        if let Some(at) = self.twin.observers.iter().position(|(_, observe, _)| observe == tree) {
            let (observer, ..) = self.twin.observers.swap_remove(at);
            expected.push((observer, Expected::RetractAll));
        }
    }

    /// Compares what observers were told, each in order, and notes what they hold now.
    fn compare(&mut self, expected: Vec<(u64, Expected)>, recorder: Recorder) {
        let Recorder { mut events, replays, .. } = recorder;
        assert_eq!(events.pop(), Some((0, Event::Publish)), "a turn ends with a publish");
        let mut replays = VecDeque::from(replays);
        let mut actual: BTreeMap<u64, VecDeque<Event>> = BTreeMap::new();
        for (observer, event) in events {
            assert_ne!(event, Event::Publish, "a turn is published once");
            actual.entry(observer).or_default().push_back(event);
        }
        for (observer, next) in expected {
            let told = self.told.entry(observer).or_default();
            let queue = actual.entry(observer).or_default();
            match &next {
                Expected::Message(list) => assert_eq!(queue.pop_front(), Some(Event::Message(list.clone()))),
                Expected::Replay => {
                    assert_eq!(queue.pop_front(), Some(Event::Replay));
                    let at = replays.iter().position(|(o, _)| *o == observer).expect("a replay");
                    self.replays.extend(replays.remove(at));
                }
                Expected::Assert(list) => match queue.pop_front() {
                    Some(Event::Assert(handle, l)) if l == *list => {
                        assert!(told.insert(handle, l).is_none(), "handle {handle} twice");
                    }
                    other => panic!("observer {observer}: {next:?}, was told {other:?}"),
                },
                Expected::Retract(list) if !told.values().any(|l| l == list) => {}
                Expected::Retract(list) => match queue.pop_front() {
                    Some(Event::Retract(handle, l)) if l == *list => {
                        assert_eq!(told.remove(&handle).as_ref(), Some(list));
                    }
                    other => panic!("observer {observer}: {next:?}, was told {other:?}"),
                },
                Expected::RetractAll => {
                    while let Some(Event::Retract(handle, list)) = queue.front() {
                        assert_eq!(told.remove(handle).as_ref(), Some(list));
                        queue.pop_front();
                    }
                    assert!(told.is_empty(), "observer {observer} keeps {told:?}");
                    self.forget_replay(observer);
                }
            }
        }
        actual.retain(|_, events| !events.is_empty());
        assert!(actual.is_empty(), "too much: {actual:?}");
    }

    /// An observer that went is told nothing more by the replay that it left behind.
    fn forget_replay(&mut self, observer: u64) {
        if let Some(at) = self.replays.iter().position(|(o, _)| *o == observer) {
            let (_, replay) = self.replays.swap_remove(at);
            assert!(!replay.pull(100, &mut self.scratch, &mut |_, _, _| panic!("told after the end")));
        }
    }

    fn pull(&mut self, at: usize, slots_max: u32, stop_after: usize) {
        let (observer, replay) = &self.replays[at];
        let observer = *observer;
        let told = self.told.entry(observer).or_default();
        let mut count = 0;
        let has_more = replay.pull(slots_max, &mut self.scratch, &mut |handle, _, captures| {
            assert!(told.insert(handle, list(captures)).is_none(), "handle {handle} twice");
            count += 1;
            count < stop_after
        });
        if !has_more {
            self.replays.swap_remove(at);
        }
        self.check();
    }

    /// What must hold between turns.
    fn check(&self) {
        let mut handles: BTreeMap<u64, &Vec<u8>> = BTreeMap::new();
        let mut in_domains = BTreeSet::new();
        let none = BTreeMap::new();
        for (observer, observe, pattern) in &self.twin.observers {
            let told = self.told.get(observer).unwrap_or(&none);
            let domain = domain_of(&twin::observe(observe).unwrap().1);
            for (handle, list) in told {
                assert!(in_domains.insert((domain, handle)), "handle {handle} twice in one session");
                assert_eq!(*handles.entry(*handle).or_insert(list), list, "one handle for two lists");
            }
            let held: BTreeSet<&Vec<u8>> = told.values().collect();
            assert_eq!(held.len(), told.len(), "one list under two handles");
            let lists: BTreeSet<Vec<u8>> = self.twin.lists(pattern).iter().map(|c| sequence(c)).collect();
            let is_behind = self.replays.iter().any(|(o, _)| o == observer);
            if is_behind {
                assert!(held.iter().all(|l| lists.contains(*l)));
            } else {
                assert!(held.into_iter().eq(lists.iter()), "observer {observer} of {pattern:?}");
            }
        }
        self.check_size();
        self.check_payers();
        assert_eq!(self.index.assertions(), self.twin.distinct());
        assert_eq!(self.index.observers(), self.twin.observers.len());
    }

    /// What is kept for observers grows with their patterns and with what those pick out, and with nothing else.
    fn check_size(&self) {
        let usage = self.index.usage();
        let waiting =
            self.waiting.iter().filter_map(|(_, tree, _)| twin::observe(tree).map(|(p, _)| p.parts()));
        let subscribed = self.twin.observers.iter().map(|(.., pattern)| pattern.parts());
        let parts: usize = waiting.chain(subscribed).sum();
        let patterns = self.twin.observers.len() + self.waiting.len();
        assert!(
            usage.groups <= patterns && usage.skeletons <= usage.groups,
            "{usage:?} for {patterns} patterns"
        );
        assert!(usage.nodes <= parts, "{usage:?} for patterns of {parts} parts");
        assert!(usage.members <= usage.assertions * usage.skeletons, "{usage:?}");
    }

    /// What is kept is paid for, in steps, and by those who observe.
    fn check_payers(&self) {
        let usage = self.index.usage();
        let seen: Vec<usize> =
            self.twin.observers.iter().map(|(.., pattern)| self.twin.lists(pattern).len()).collect();
        assert!(seen.iter().max().is_none_or(|lists| *lists <= usage.lists));
        // Those who wait for theirs may have one already.
        assert!(usage.lists <= seen.iter().sum() || !self.waiting.is_empty());
        let paid: u64 = self.payers.iter().map(Pays::lists).sum();
        let least = usage.lists + usage.members / 4;
        // So few go in steps of 8; and some lists have no assertion to lie in. A bag in stripes pays for 16 of them.
        let bag = if self.is_striped { 16 * (8 + 17) } else { 17 };
        let most = least + bag * usage.groups + 17 * usage.member_sets + usage.lists * 200;
        assert!(least as u64 <= paid && paid <= most as u64, "{least} <= {paid} <= {most}");
        for payer in &self.payers {
            let observes = self
                .placed
                .iter()
                .any(|(_, tree, holder)| *holder == payer.number && twin::observe(tree).is_some());
            let waits = self.waiting.iter().any(|(.., holder)| *holder == payer.number);
            assert!(observes || waits || payer.lists() == 0, "{payer:?} does not observe");
        }
    }

    /// Tells everybody everything, then takes everything back: nothing may be left.
    pub fn finish(mut self) {
        while !self.replays.is_empty() {
            self.pull(0, 3, 100);
        }
        for (prepared, ..) in std::mem::take(&mut self.waiting) {
            self.index.write().cancel(prepared);
        }
        while let Some((stored, tree, holder)) = self.placed.pop() {
            self.holder = holder;
            self.turn(vec![Planned::Retract(stored, tree)], false);
        }
        assert_eq!(self.index.usage(), Usage::default());
        assert_eq!(Arc::strong_count(&self.token), 1, "something is kept");
        assert!(self.payers.iter().all(|payer| payer.lists() == 0), "{:?}", self.payers);
    }
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.twin.fmt(f)
    }
}

/// What a compiled pattern captures, by way of an index with one observer and one message.
pub fn captures_by_index(pattern: &Tree, value: &[u8]) -> Option<Option<Vec<u8>>> {
    let bytes = pattern.canonical();
    let scanner = scanned(&bytes);
    let pattern = Pattern::compile(scanner.view(&bytes))?;
    Some(captures_of(&pattern, value))
}

/// The same for a compiled pattern.
pub fn captures_of(pattern: &Pattern, value: &[u8]) -> Option<Vec<u8>> {
    let index: Index<Plug> = Index::new(Arc::new(AtomicU64::new(1)));
    let mut scratch = Scratch::default();
    let observe = twin::observe_of(Tree::Int(0), 1).canonical();
    let scanner = scanned(&observe);
    let prepared = index.prepare::<()>(pattern, 1, Pays::default(), |_| Ok(Arc::new(()))).unwrap();
    while !index.advance(&prepared, 1000, &mut scratch).unwrap() {}
    let to = To { observer: 1, domain: 1 };
    let assert = Action::Assert { value: scanner.view(&observe), extra: None, observe: Some((prepared, to)) };
    let mut placed = Vec::new();
    index.write().commit(None, &mut [assert], &mut placed, &mut scratch, &mut Recorder::default());
    let value_scanner = scanned(value);
    let mut found = Vec::new();
    index.read().message(value_scanner.view(value), &mut scratch, |_, captures| found.push(list(captures)));
    assert!(found.len() <= 1);
    found.pop()
}

/// What the twin says.
pub fn captures_by_twin(pattern: &Pat, value: &Tree) -> Option<Vec<u8>> {
    twin::captures(pattern, value).map(|c| sequence(&c))
}

//! Costs that a hostile client would grow, counted in work, not in time.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::tree::{Tree, capability, dictionary, rec};
use common::{scanned, twin};
use staunch_index::pattern::Pattern;
use staunch_index::{Action, Captures, Domain, Endpoint, Index, Replay, Scratch, Sink, Stored, Usage};

struct Plug;

impl Domain for Plug {
    type Endpoint = To;
    type Extra = ();
    type Owner = ();
    type Payer = ();
}

/// Counts how often it is asked for its domain: that is what going through a list of observers does.
#[derive(Clone)]
struct To(u64, Arc<AtomicU64>);

impl Endpoint for To {
    fn handle_domain(&self) -> u64 {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0
    }
    fn is_gone(&self) -> bool {
        false
    }
}

/// Counts events, and pulls replays as they come.
#[derive(Default)]
struct Count {
    asserts: usize,
    retracts: usize,
    pulled: usize,
}

impl Sink<Plug> for Count {
    fn message(&mut self, _: &To, _: &Captures<'_>) {}
    fn assert(&mut self, _: &To, _: u64, _: &Captures<'_>, _: &Stored<Plug>) {
        self.asserts += 1;
    }
    fn retract(&mut self, _: &To, _: u64, _: &Captures<'_>, _: &Stored<Plug>) {
        self.retracts += 1;
    }
    fn replay(&mut self, _: &To, replay: Replay<Plug>) {
        let mut scratch = Scratch::default();
        while replay.pull(7, &mut scratch, &mut |_, _, _| {
            self.pulled += 1;
            true
        }) {}
    }
    fn overdrawn(&mut self, _: &()) {}
    fn publish(&mut self) {}
}

struct Harness {
    index: Index<Plug>,
    asked: Arc<AtomicU64>,
    scratch: Scratch,
    sink: Count,
}

impl Harness {
    fn new() -> Harness {
        Harness {
            index: Index::new(Arc::new(AtomicU64::new(1))),
            asked: Arc::default(),
            scratch: Scratch::default(),
            sink: Count::default(),
        }
    }

    fn observe(&mut self, pattern: Tree, number: u64, domain: u64) -> Stored<Plug> {
        let bytes = twin::observe_of(pattern, number).canonical();
        let scanner = scanned(&bytes);
        let value = scanner.view(&bytes);
        let (compiled, _) = Pattern::of_observe(value).unwrap();
        let prepared = self.index.prepare::<()>(&compiled, domain, (), |_| Ok(())).unwrap();
        while !self.index.advance(&prepared, 1000, &mut self.scratch).unwrap() {}
        let observe = Some((prepared, To(domain, self.asked.clone())));
        let mut placed = Vec::new();
        let assert = Action::Assert { value, extra: None, observe };
        self.index.write().commit(None, &mut [assert], &mut placed, &mut self.scratch, &mut self.sink);
        placed.pop().unwrap()
    }

    fn assert(&mut self, value: &Tree) -> Stored<Plug> {
        let bytes = value.canonical();
        let scanner = scanned(&bytes);
        let mut placed = Vec::new();
        let assert = Action::Assert { value: scanner.view(&bytes), extra: None, observe: None };
        self.index.read().commit(&mut [assert], &mut placed, &mut self.scratch, &mut self.sink);
        placed.pop().unwrap()
    }

    fn retract(&mut self, stored: Stored<Plug>) {
        let mut retract = [Action::Retract(stored)];
        self.index.write().commit(None, &mut retract, &mut Vec::new(), &mut self.scratch, &mut self.sink);
    }

    fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }
}

fn bind() -> Tree {
    rec("bind", vec![rec("_", vec![])])
}

fn arr(entries: Vec<(Tree, Tree)>) -> Tree {
    rec("group", vec![rec("arr", vec![]), dictionary(entries)])
}

#[test]
fn observers_come_and_go_without_going_through_the_others() {
    const COUNT: u64 = 3000;
    for domains in [1, 2, COUNT] {
        let mut harness = Harness::new();
        let observes: Vec<_> = (0..COUNT).map(|n| harness.observe(arr(vec![]), n, n % domains)).collect();
        assert_eq!(harness.index.usage().groups as u64, COUNT / domains);
        harness.assert(&Tree::Sequence(vec![]));
        assert_eq!(harness.sink.asserts as u64, COUNT);
        for stored in observes {
            harness.retract(stored);
        }
        assert_eq!(harness.sink.retracts as u64, COUNT);
        assert!(harness.asked() < 100 * COUNT, "{} looks at observers in {domains} domains", harness.asked());
        assert_eq!(harness.index.usage(), Usage { assertions: 1, ..Usage::default() });
    }
}

#[test]
fn lanes_are_used_again() {
    let mut harness = Harness::new();
    let mut observes: Vec<_> = (0..10).map(|n| harness.observe(arr(vec![]), n, 1)).collect();
    for n in 10..2000 {
        harness.retract(observes.remove(n % 10));
        observes.push(harness.observe(arr(vec![]), n as u64, 1));
        assert_eq!(harness.index.usage().groups, 10);
    }
}

#[test]
fn a_sink_may_pull_a_replay_as_it_comes() {
    let mut harness = Harness::new();
    (0..2000).for_each(|n| drop(harness.assert(&Tree::Sequence(vec![Tree::Int(n)]))));
    harness.observe(arr(vec![(Tree::Int(0), bind())]), 1, 1);
    assert_eq!((harness.sink.asserts, harness.sink.pulled), (0, 2000));
}

#[test]
fn long_state_is_not_sorted_under_the_lock() {
    let mut harness = Harness::new();
    (0..100).for_each(|n| {
        harness.assert(&Tree::Sequence(vec![Tree::Bytes(vec![n; 20_000])]));
    });
    harness.observe(arr(vec![(Tree::Int(0), bind())]), 1, 1);
    assert_eq!((harness.sink.asserts, harness.sink.pulled), (0, 100));
}

#[test]
fn a_pattern_may_have_as_many_groups_as_registers_can_be_named() {
    const CHILDREN: i128 = 65_535;
    let mut harness = Harness::new();
    harness.observe(arr((0..CHILDREN).map(|n| (Tree::Int(n), arr(vec![]))).collect()), 1, 1);
    let mut items = vec![Tree::Sequence(vec![]); CHILDREN as usize];
    harness.assert(&Tree::Sequence(items.clone()));
    assert_eq!(harness.sink.asserts, 1);
    items[CHILDREN as usize - 1] = Tree::Int(0);
    harness.assert(&Tree::Sequence(items));
    assert_eq!(harness.sink.asserts, 1);
    let one_more = arr((0..CHILDREN + 1).map(|n| (Tree::Int(n), arr(vec![]))).collect()).canonical();
    assert!(Pattern::compile(scanned(&one_more).view(&one_more)).is_none());
}

#[test]
fn what_is_retracted_leaves_the_members() {
    let mut harness = Harness::new();
    harness.observe(arr(vec![(Tree::Int(0), rec("lit", vec![Tree::Int(0)]))]), 1, 1);
    harness.observe(arr(vec![]), 2, 2);
    let values = (0..500).map(|n| Tree::Sequence(vec![Tree::Int(n % 3), Tree::Int(n), capability(7)]));
    let placed: Vec<_> = values.map(|value| harness.assert(&value)).collect();
    assert_eq!(harness.index.usage().members, 1000);
    placed.into_iter().for_each(|stored| harness.retract(stored));
    assert_eq!(harness.index.usage().members, 0);
}

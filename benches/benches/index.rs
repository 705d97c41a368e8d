//! What routing costs, one turn at a time: nanoseconds per message or turn, scanned before, on one thread.
//!
//! Each group sweeps one parameter. Nothing is sent anywhere, so these are not rates of a broker; and one value is
//! routed over and over, so caches are warmer than in life.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use staunch_benches::routing::{self, Part, Stage};
use staunch_index::{Index, Scratch};

type Routed = Index<routing::Plug>;

fn says(index: &Routed, scratch: &mut Scratch) {
    let part = Part::Rec("Says".into(), vec![(0, Part::Bind), (1, Part::Bind)]);
    routing::observe(index, &part, 1, scratch);
}

/// Measures the routing of one message.
fn route(index: &Routed, bytes: &[u8], bencher: &mut criterion::Bencher<'_>) {
    let scanner = routing::scanned(bytes);
    let (mut scratch, mut stage) = (Scratch::default(), Stage::default());
    let reader = index.read();
    bencher.iter(|| {
        reader.message(black_box(scanner.view(bytes)), &mut scratch, |_, captures| stage.copy(captures));
    });
}

/// Does the number of observers of other literals matter?
fn observers(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("message/observers_of_other_literals");
    for count in [0, 1000, 100_000] {
        let index = routing::index();
        let mut scratch = Scratch::default();
        says(&index, &mut scratch);
        for n in 0..count {
            let part = Part::Rec("Says".into(), vec![(0, Part::Lit(n)), (1, Part::Bind)]);
            routing::observe(&index, &part, 2 + n as u64, &mut scratch);
        }
        let bytes = routing::says(64);
        group.bench_function(BenchmarkId::from_parameter(count), |b| route(&index, &bytes, b));
    }
    group.finish();
}

/// What does a skeleton that a value reaches cost? Each is of two constants, none of which the value has.
fn skeletons(criterion: &mut Criterion) {
    const FIELDS: i64 = 150;
    let mut group = criterion.benchmark_group("message/skeletons_of_one_label");
    let value = Part::Rec("Wide".into(), Vec::new());
    let bytes = wide(FIELDS);
    for count in [1, 10, 100, 1000, 10_000] {
        let index = routing::index();
        let mut scratch = Scratch::default();
        routing::observe(&index, &value, 1, &mut scratch);
        let pairs = (0..FIELDS).flat_map(|i| (0..i).map(move |j| (j, i)));
        for ((i, j), number) in pairs.take(count).zip(2..) {
            let part = Part::Rec("Wide".into(), vec![(i, Part::Lit(-1)), (j, Part::Lit(-1))]);
            routing::observe(&index, &part, number, &mut scratch);
        }
        group.bench_function(BenchmarkId::from_parameter(count), |b| route(&index, &bytes, b));
    }
    group.finish();
}

/// A record with this many small numbers.
fn wide(fields: i64) -> Vec<u8> {
    use staunch_protocols::wire::encode;
    let mut out = Vec::new();
    encode::record(&mut out, "Wide");
    (0..fields).for_each(|n| encode::int(&mut out, n));
    encode::end(&mut out);
    out
}

/// An assertion and its retraction, two turns, seen by one observer; among how many other assertions?
fn assertions(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("assert_and_retract/assertions_held");
    for count in [0, 1000, 1_000_000] {
        let index = routing::index();
        let (mut scratch, mut stage) = (Scratch::default(), Stage::default());
        let part = Part::Rec("State".into(), (0..3).map(|i| (i, Part::Bind)).collect());
        routing::observe(&index, &part, 1, &mut scratch);
        for n in 0..count {
            routing::assert(&index, &routing::record("State", n, 20), &mut scratch, &mut stage);
        }
        let bytes = routing::record("State", -1, 20);
        group.bench_function(BenchmarkId::from_parameter(count), |b| {
            b.iter(|| {
                let stored = routing::assert(&index, black_box(&bytes), &mut scratch, &mut stage);
                routing::retract(&index, stored, &mut scratch, &mut stage);
            });
        });
    }
    group.finish();
}

/// An observer that comes and goes, whose constant picks one of a million assertions.
fn late_observer(criterion: &mut Criterion) {
    const COUNT: i64 = 1_000_000;
    let mut group = criterion.benchmark_group("observe_and_unobserve/one_of_a_million");
    group.sample_size(10);
    let index = routing::index();
    let (mut scratch, mut stage) = (Scratch::default(), Stage::default());
    for n in 0..COUNT {
        routing::assert(&index, &routing::record("State", n, 20), &mut scratch, &mut stage);
    }
    let part = |n: i64| Part::Rec("State".into(), vec![(0, Part::Lit(n)), (2, Part::Bind)]);
    let mut come_and_go = |n: i64| {
        let observe = routing::observe(&index, &part(n), n as u64 + 10, &mut scratch);
        let mut retract = [staunch_index::Action::Retract(observe)];
        index.write().commit(None, &mut retract, &mut Vec::new(), &mut scratch, &mut stage);
    };
    group.bench_function("skeleton_unknown", |b| b.iter(|| come_and_go(COUNT / 2)));
    let keeps = routing::observe(&index, &part(COUNT / 3), 1, &mut Scratch::default());
    group.bench_function("skeleton_known", |b| b.iter(|| come_and_go(COUNT / 2)));
    drop(keeps);
    group.finish();
}

criterion_group!(benches, observers, skeletons, assertions, late_observer);
criterion_main!(benches);

//! The index in memory: how it scales over threads, what it weighs, and whom a new observer keeps waiting.
//!
//! - `index_scale messages [N]`: routes N messages to one observer on one thread and nothing else (for callgrind).
//! - `index_scale threads [N]`: N operations per thread, on 1 and on 2 threads of one index, of messages alone and of
//!   90% messages with 10% assertions and retractions; five rounds, the best and the median of each.
//!   On a machine with other work the CPU time per operation says more than the rate.
//! - `index_scale memory [N]`: heap bytes for N assertions of 60 bytes that one observer sees, and what an
//!   observer that does not read costs.
//! - `index_scale late [N]`: among N assertions, observers whose constant picks one: how long they take, and how
//!   long turns of another thread take meanwhile, as against without them. Other work on the machine shows here.
//!
//! Everything is timed without sockets and scanning: these are not rates of a broker.

use std::alloc::{GlobalAlloc, Layout};
use std::hint::black_box;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mimalloc::MiMalloc;
use staunch_benches::routing::{self, Part, Plug, Stage};
use staunch_index::pattern::Pattern;
use staunch_index::{Action, Index, Scratch, Stored};

/// Counts what is allocated.
struct Counting;

/// Bytes allocated now, as asked for. Relaxed: a counter only.
static HEAP_BYTES: AtomicUsize = AtomicUsize::new(0);
/// Whether to count: threads that are timed do not share a counter.
static IS_COUNTING: AtomicBool = AtomicBool::new(false);

fn count(plus: usize, minus: usize) {
    if IS_COUNTING.load(Ordering::Relaxed) {
        HEAP_BYTES.fetch_add(plus.wrapping_sub(minus), Ordering::Relaxed);
    }
}

// SAFETY: everything is passed on to the allocator that the broker has unchanged; counting touches no memory of its own.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: the caller keeps the same contract.
        unsafe { MiMalloc.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(0, layout.size());
        // SAFETY: the caller keeps the same contract.
        unsafe { MiMalloc.dealloc(at, layout) }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size, layout.size());
        // SAFETY: the caller keeps the same contract.
        unsafe { MiMalloc.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let count = |default: u64| args.get(1).and_then(|n| n.parse().ok()).unwrap_or(default);
    match args.first().map(String::as_str) {
        Some("messages") => messages(count(1_000_000)),
        Some("threads") => threads(count(4_000_000)),
        Some("memory") => memory(count(1_000_000) as i64),
        Some("late") => late(count(1_000_000) as i64),
        _ => eprintln!("usage: index_scale messages|threads|memory|late [N]"),
    }
}

/// The hot path alone.
fn messages(count: u64) {
    let index = routing::index();
    let mut scratch = Scratch::default();
    let part = Part::Rec("Says".into(), vec![(0, Part::Bind), (1, Part::Bind)]);
    routing::observe(&index, &part, 1, &mut scratch);
    let bytes = routing::says(64);
    let scanner = routing::scanned(&bytes);
    let mut stage = Stage::default();
    let reader = index.read();
    for _ in 0..count {
        let mut length = 0;
        reader.message(black_box(scanner.view(&bytes)), &mut scratch, |_, captures| {
            length += captures.iter().map(|c| c.len()).sum::<usize>();
        });
        stage.events += black_box(length) as u64;
    }
    println!("{}", stage.events);
}

/// What the threads of one run do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Load {
    Messages,
    /// One operation in ten asserts or retracts what one observer sees for all threads.
    MixedOnePattern,
    /// The same, with a pattern for each thread.
    MixedOwnPatterns,
}

/// Messages under one hold of the index, as the broker has it.
const MESSAGES_PER_HOLD: u64 = 256;

fn threads(count: u64) {
    for load in [Load::Messages, Load::MixedOnePattern, Load::MixedOwnPatterns] {
        let mut runs: [Vec<(f64, f64)>; 2] = [Vec::new(), Vec::new()];
        for _ in 0..5 {
            runs[0].push(run(load, 1, count));
            runs[1].push(run(load, 2, count));
        }
        for (runs, threads) in runs.iter_mut().zip(1..) {
            runs.sort_by(|a, b| b.0.total_cmp(&a.0));
            let (best, median) = (runs[0], runs[runs.len() / 2]);
            println!(
                "{load:?}, {threads} threads: best {:.2} M/s, median {:.2} M/s; CPU {:.1} ns, median {:.1} ns",
                best.0, median.0, best.1, median.1
            );
        }
        let ratio = |of: usize| runs[1][of].0 / runs[0][of].0;
        println!("{load:?}: x{:.2} by the best, x{:.2} by the medians", ratio(0), ratio(2));
    }
}

/// Operations per second in millions, and CPU nanoseconds per operation.
fn run(load: Load, threads: u64, count: u64) -> (f64, f64) {
    let index = routing::index();
    let mut scratch = Scratch::default();
    let all = || (0..3).map(|i| (i, Part::Bind)).collect();
    routing::observe(
        &index,
        &Part::Rec("Says".into(), vec![(0, Part::Bind), (1, Part::Bind)]),
        1,
        &mut scratch,
    );
    for n in 0..=threads {
        routing::observe(&index, &Part::Rec(format!("State{n}"), all()), 2 + n, &mut scratch);
    }
    let barrier = Barrier::new(threads as usize + 1);
    let (index, barrier) = (&index, &barrier);
    std::thread::scope(|scope| {
        let work = move |id: u64| {
            let label = if load == Load::MixedOwnPatterns { 1 + id } else { 0 };
            barrier.wait();
            let before = cpu_ns();
            operate(index, load != Load::Messages, &format!("State{label}"), id, count);
            cpu_ns() - before
        };
        let threads: Vec<_> = (0..threads).map(|id| scope.spawn(move || work(id))).collect();
        barrier.wait();
        let begun = Instant::now();
        let total = count as f64 * threads.len() as f64;
        let cpu: f64 = threads.into_iter().map(|t| t.join().unwrap_or(f64::NAN)).sum();
        (total / begun.elapsed().as_secs_f64() / 1e6, cpu / total)
    })
}

/// CPU time of this thread.
fn cpu_ns() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    now.tv_sec as f64 * 1e9 + now.tv_nsec as f64
}

fn operate(index: &Index<Plug>, is_mixed: bool, label: &str, id: u64, count: u64) {
    let mut scratch = Scratch::default();
    let mut stage = Stage::default();
    let says = routing::says(64);
    let says = (routing::scanned(&says), says);
    let states: Vec<_> = (0..4096)
        .map(|n| routing::record(label, n << 8 | id as i64, 20))
        .map(|bytes| (routing::scanned(&bytes), bytes))
        .collect();
    let mut held: std::collections::VecDeque<Stored<Plug>> = Default::default();
    let mut placed = Vec::new();
    let mut next = 0;
    let mut done = 0;
    while done < count {
        let messages = if is_mixed { 9 } else { MESSAGES_PER_HOLD };
        let reader = index.read();
        for _ in 0..messages {
            reader.message(says.0.view(&says.1), &mut scratch, |_, captures| stage.copy(captures));
        }
        drop(reader);
        done += messages;
        if !is_mixed {
            continue;
        }
        done += 1;
        // Half of these place, half take back what was placed a while ago.
        if next % 2 == 0 {
            let (scanner, bytes) = &states[next / 2 % states.len()];
            let assert = Action::Assert { value: scanner.view(bytes), extra: None, observe: None };
            index.read().commit(&mut [assert], &mut placed, &mut scratch, &mut stage);
            held.extend(placed.drain(..));
        } else if held.len() > 64
            && let Some(stored) = held.pop_front()
        {
            index.read().commit(&mut [Action::Retract(stored)], &mut placed, &mut scratch, &mut stage);
        }
        next += 1;
    }
    black_box(stage.events);
}

fn heap() -> usize {
    HEAP_BYTES.load(Ordering::Relaxed)
}

/// Resident memory of the process.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split(' ').nth(1).and_then(|n| n.parse::<usize>().ok()).unwrap_or(0) * 4096
}

fn state(n: i64) -> Vec<u8> {
    // 60 bytes: the text makes up for the number's length.
    let mut text = 60 - routing::record("State", n, 0).len();
    while routing::record("State", n, text).len() > 60 {
        text -= 1;
    }
    routing::record("State", n, text)
}

fn memory(count: i64) {
    IS_COUNTING.store(true, Ordering::Relaxed);
    let index = routing::index();
    let mut scratch = Scratch::default();
    let mut stage = Stage::default();
    let all = Part::Rec("State".into(), (0..3).map(|i| (i, Part::Bind)).collect());
    routing::observe(&index, &all, 1, &mut scratch);
    let mut held: Vec<Stored<Plug>> = Vec::with_capacity(2 * count as usize);
    let (before, resident_before) = (heap(), resident());
    for n in 0..count {
        held.push(routing::assert(&index, &state(n), &mut scratch, &mut stage));
    }
    let per = |bytes: usize| bytes as f64 / count as f64;
    println!("{count} assertions of {} bytes, seen by one observer:", held[0].bytes().len());
    println!("  {:.1} B of heap as asked for, each", per(heap() - before));
    println!("  {:.1} B of resident memory, each", per(resident().saturating_sub(resident_before)));
    let before = heap();
    routing::observe(&index, &all, 2, &mut scratch);
    println!("a second observer with its replay pending: {} B", heap() as i64 - before as i64);
    for n in 0..count {
        let stored = std::mem::replace(
            &mut held[n as usize],
            routing::assert(&index, &state(count + n), &mut scratch, &mut stage),
        );
        routing::retract(&index, stored, &mut scratch, &mut stage);
    }
    println!("  after all assertions were replaced meanwhile: {} B", heap() as i64 - before as i64);
    for stored in held {
        routing::retract(&index, stored, &mut scratch, &mut stage);
    }
    println!("after all were retracted: {:.1} B each are kept", per(heap()));
}

/// How long things took, in nanoseconds.
#[derive(Default)]
struct Times(Vec<u64>);

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let at = |part: f64| {
            let at = (sorted.len() as f64 * part) as usize;
            sorted.get(at.min(sorted.len().saturating_sub(1))).map_or(f64::NAN, |ns| *ns as f64 / 1000.0)
        };
        let slow = sorted.len() - sorted.partition_point(|ns| *ns <= 1_000_000);
        let (median, rare, longest) = (at(0.5), at(0.999), at(1.0));
        write!(
            f,
            "{} times, median {median:.1} us, 99.9% {rare:.1} us, longest {longest:.1} us",
            sorted.len()
        )?;
        write!(f, ", {slow} over 1 ms")
    }
}

fn late(count: i64) {
    let index = routing::index();
    let mut scratch = Scratch::default();
    let mut stage = Stage::default();
    for n in 0..count {
        routing::assert(&index, &state(n), &mut scratch, &mut stage);
    }
    let pick = |field: i64, n: i64| Part::Rec("State".into(), vec![(field, Part::Lit(n)), (2, Part::Bind)]);
    println!("nobody comes: turns: {}", meanwhile(&index, || std::thread::sleep(Duration::from_secs(1))));
    let all = Part::Rec("State".into(), vec![(0, Part::Bind), (1, Part::Bind)]);
    let cases = [
        ("skeleton unknown", pick(0, count / 2)),
        ("skeleton known", pick(0, count / 3)),
        ("captures all, skeleton unknown", all),
    ];
    for ((what, part), number) in cases.into_iter().zip(1..) {
        println!("{what}:");
        let turns = meanwhile(&index, || observe_timed(&index, &part, number));
        println!("  turns of another thread meanwhile: {turns}");
    }
}

/// Subscribes, and tells how long it took. A step of building holds each lock once at most.
fn observe_timed(index: &Index<Plug>, part: &Part, number: u64) {
    let mut scratch = Scratch::default();
    let bytes = part.observe(number);
    let scanner = routing::scanned(&bytes);
    let value = scanner.view(&bytes);
    let Some((pattern, _)) = Pattern::of_observe(value) else { return };
    let begun = Instant::now();
    let Ok(prepared) = index.prepare::<()>(&pattern, number, (), |_| Ok(())) else { return };
    let is_prepared = Instant::now();
    let mut steps = Times::default();
    loop {
        let begun = cpu_ns();
        let is_ready = index.advance(&prepared, 1, &mut scratch).unwrap_or(true);
        steps.0.push((cpu_ns() - begun) as u64);
        if is_ready {
            break;
        }
    }
    let is_built = Instant::now();
    let observe = Some((prepared, routing::To(number)));
    let assert = Action::Assert { value, extra: None, observe };
    index.write().commit(None, &mut [assert], &mut Vec::new(), &mut scratch, &mut Stage::default());
    let commit = is_built.elapsed();
    let (prepare, build) = (is_prepared - begun, is_built - is_prepared);
    println!("  prepare {prepare:?}, build {build:?}, commit {commit:?}");
    println!("  steps of building, CPU time: {steps}");
}

/// Runs something while another thread takes turns: messages, assertions, retractions.
fn meanwhile(index: &Index<Plug>, run: impl FnOnce()) -> Times {
    let is_done = AtomicBool::new(false);
    let barrier = Barrier::new(2);
    std::thread::scope(|scope| {
        let turns = scope.spawn(|| {
            let (mut scratch, mut stage, mut times) =
                (Scratch::default(), Stage::default(), Times::default());
            barrier.wait();
            // Relaxed: nothing is published by it.
            while !is_done.load(Ordering::Relaxed) {
                let bytes = state(1 << 40 | times.0.len() as i64);
                let begun = Instant::now();
                let stored = routing::assert(index, &bytes, &mut scratch, &mut stage);
                times.0.push(begun.elapsed().as_nanos() as u64);
                let begun = Instant::now();
                routing::retract(index, stored, &mut scratch, &mut stage);
                times.0.push(begun.elapsed().as_nanos() as u64);
            }
            times
        });
        barrier.wait();
        run();
        is_done.store(true, Ordering::Relaxed);
        turns.join().unwrap_or_default()
    })
}

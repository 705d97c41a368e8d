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
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(f64::NAN)
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
    held.drain(..).for_each(|stored| routing::retract(&index, stored, &mut scratch, &mut stage));
    println!("after all were retracted: {:.1} B each are kept", per(heap()));
}

/// Turns that another thread takes meanwhile: how long each took.
#[derive(Default)]
struct Waits {
    longest: Duration,
    over_1_ms: u64,
    turns: u64,
}

fn late(count: i64) {
    let index = routing::index();
    let mut scratch = Scratch::default();
    let mut stage = Stage::default();
    for n in 0..count {
        routing::assert(&index, &state(n), &mut scratch, &mut stage);
    }
    let pick = |field: i64, n: i64| Part::Rec("State".into(), vec![(field, Part::Lit(n)), (2, Part::Bind)]);
    let waits = meanwhile(&index, || std::thread::sleep(Duration::from_secs(1)));
    report("nobody comes, 1 s", &waits, None);
    let observer = |number: u64, part: Part| {
        let mut took = Vec::new();
        let waits = meanwhile(&index, || took = observe_timed(&index, &part, number));
        (waits, took)
    };
    let (waits, took) = observer(1, pick(0, count / 2));
    report("skeleton unknown", &waits, Some(&took));
    let (waits, took) = observer(2, pick(0, count / 3));
    report("skeleton known", &waits, Some(&took));
    let all = Part::Rec("State".into(), vec![(0, Part::Bind), (1, Part::Bind)]);
    let (waits, took) = observer(3, all);
    report("captures all, skeleton unknown", &waits, Some(&took));
}

fn report(what: &str, waits: &Waits, took: Option<&[Duration]>) {
    let Waits { longest, over_1_ms, turns } = waits;
    println!("{what}: the longest of {turns} turns took {longest:?}; {over_1_ms} took over 1 ms");
    if let Some([prepare, build, longest_step, commit]) = took {
        println!("  prepare {prepare:?}, build {build:?} (longest step {longest_step:?}), commit {commit:?}");
    }
}

/// Subscribes; how long preparing, building, the longest step of building and the turn took.
fn observe_timed(index: &Index<Plug>, part: &Part, number: u64) -> Vec<Duration> {
    let mut scratch = Scratch::default();
    let bytes = part.observe(number);
    let scanner = routing::scanned(&bytes);
    let value = scanner.view(&bytes);
    let Some((pattern, _)) = Pattern::of_observe(value) else { return Vec::new() };
    let begun = Instant::now();
    let Ok(prepared) = index.prepare::<()>(&pattern, number, || Ok(())) else { return Vec::new() };
    let is_prepared = Instant::now();
    let mut longest = Duration::ZERO;
    loop {
        let begun = Instant::now();
        let is_ready = index.advance(&prepared, 2048, &mut scratch);
        longest = longest.max(begun.elapsed());
        if is_ready {
            break;
        }
    }
    let is_built = Instant::now();
    let observe = Some((prepared, routing::To(number)));
    let assert = Action::Assert { value, extra: None, observe };
    index.write().commit(&mut [assert], &mut Vec::new(), &mut scratch, &mut Stage::default());
    vec![is_prepared - begun, is_built - is_prepared, longest, is_built.elapsed()]
}

/// Runs something while another thread takes turns: messages, assertions, retractions.
fn meanwhile(index: &Index<Plug>, run: impl FnOnce()) -> Waits {
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let turns = scope.spawn(|| {
            let (mut scratch, mut stage, mut waits) =
                (Scratch::default(), Stage::default(), Waits::default());
            let mut n = 0;
            // Relaxed: nothing is published by it.
            while !is_done.load(Ordering::Relaxed) {
                let bytes = state(1 << 40 | n);
                let begun = Instant::now();
                let stored = routing::assert(index, &bytes, &mut scratch, &mut stage);
                routing::retract(index, stored, &mut scratch, &mut stage);
                let took = begun.elapsed();
                waits.longest = waits.longest.max(took);
                waits.over_1_ms += u64::from(took > Duration::from_millis(1));
                waits.turns += 2;
                n += 1;
            }
            waits
        });
        run();
        is_done.store(true, Ordering::Relaxed);
        turns.join().unwrap_or_default()
    })
}

//! What a message costs on the cheap path once all is warm: allocations and system calls, by counts, not by time.
//!
//! The broker and its clients are one process here. An allocator counts what the broker's threads allocate: all threads
//! but those that say that they are clients.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use common::*;
use staunch::server::{Config, Server};

/// Allocations by threads that are not clients'.
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static IS_CLIENT: Cell<bool> = const { Cell::new(false) };
}

struct Counting;

// SAFETY: all calls are passed on to `System` as they are. What is done beside neither allocates nor unwinds: the
// thread-local value is made by a constant and has no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps to the contract, which is that of `System`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps to the contract, which is that of `System`.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller keeps to the contract, which is that of `System`.
        unsafe { System.realloc(at, layout, new_size) }
    }
}

fn count() {
    if !IS_CLIENT.get() {
        // Relaxed: counter only.
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One test at a time: the counts are of the process.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    IS_CLIENT.set(true);
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A producer and its consumers, on plain sockets: once set up, the clients do nothing but write and read bytes.
struct Stream {
    producer: TcpStream,
    consumers: Vec<TcpStream>,
    /// One write's worth of messages, and how many they are.
    chunk: Vec<u8>,
    chunk_messages: u64,
    /// Bytes of one message as it is delivered.
    delivered_bytes: u64,
}

impl Stream {
    fn open(address: SocketAddr, consumers: usize) -> Stream {
        let body = format!("<Says \"a0\" #x\"{}\">", "5a".repeat(64));
        let consumers: Vec<TcpStream> = (0..consumers)
            .map(|_| {
                let mut client = Client::tcp(address).resolved();
                client.send(&format!(
                    "[{}]",
                    observe("<group <rec Says> {0: <lit \"a0\"> 1: <bind <_>>}>", 7, 2)
                ));
                client.sync();
                client.into_tcp()
            })
            .collect();
        let message = bytes(&format!("[[1 <M {body}>]]"));
        let delivered = bytes(&format!("[[7 <M [#x\"{}\"]>]]", "5a".repeat(64)));
        let chunk_messages = (64 << 10) / message.len() as u64;
        Stream {
            producer: Client::tcp(address).resolved().into_tcp(),
            consumers,
            chunk: message.repeat(chunk_messages as usize),
            chunk_messages,
            delivered_bytes: delivered.len() as u64,
        }
    }

    /// Sends so many chunks as fast as it goes, and waits until all has been read. Returns how many messages that was.
    fn send(&mut self, chunks: u64) -> u64 {
        let messages = chunks * self.chunk_messages;
        // Events may come in common turns, so their bytes are at most these; the broker's count tells when all is there.
        let bytes = messages * self.delivered_bytes;
        let Stream { producer, consumers, chunk, .. } = self;
        std::thread::scope(|scope| {
            for consumer in consumers.iter_mut() {
                scope.spawn(move || {
                    IS_CLIENT.set(true);
                    let mut buffer = vec![0; 256 << 10];
                    let mut left = bytes;
                    while left > 0 {
                        let most = buffer.len().min(left as usize);
                        left -= consumer.read(&mut buffer[..most]).unwrap() as u64;
                    }
                });
            }
            for _ in 0..chunks {
                producer.write_all(chunk).unwrap();
            }
        });
        messages
    }
}

fn counts(server: &Server) -> HashMap<&'static str, u64> {
    let mut counts: HashMap<_, _> = server.counts().into_iter().collect();
    let total = server.scheduler_metrics().total();
    counts.insert("waits", total.polls + total.parks);
    counts.insert("wakes", total.wakes + server.scheduler_metrics().outside_wakes);
    counts
}

/// Waits for the counts of runs that are just ending, and gives them all.
fn settled(server: &Server, deliveries: u64) -> HashMap<&'static str, u64> {
    until("all deliveries are counted", || counts(server)["deliveries"] >= deliveries);
    counts(server)
}

/// What was spent on messages in steady state.
struct Spent {
    messages: u64,
    allocations: u64,
    calls: u64,
}

fn spent(consumers: usize, workers: usize) -> Spent {
    let (server, address) = start(Config { workers, ..Config::default() });
    let mut stream = Stream::open(address, consumers);
    let before = counts(&server)["deliveries"];
    // Until buffers, tables and queues have grown to what they need.
    let warm = stream.send(200);
    let base = settled(&server, before + warm * consumers as u64);
    let allocations = ALLOCATIONS.load(Ordering::Relaxed);
    let messages = stream.send(1000);
    let end = settled(&server, base["deliveries"] + messages * consumers as u64);
    let allocations = ALLOCATIONS.load(Ordering::Relaxed) - allocations;
    let grown = |name| end[name] - base[name];
    assert_eq!(grown("deliveries"), messages * consumers as u64);
    let calls = grown("reads") + grown("writes") + grown("waits") + grown("wakes");
    println!(
        "1->{consumers}, {workers} workers, {messages} messages: {allocations} allocations, {} reads, {} writes, {} waits for \
         events, {} wakes: {:.4} calls per message",
        grown("reads"),
        grown("writes"),
        grown("waits"),
        grown("wakes"),
        calls as f64 / messages as f64
    );
    Spent { messages, allocations, calls }
}

/// None may be on the way of a message. What is made once for many messages may allocate now and then, when a consumer
/// is slow for a moment: a buffer that grows, a longer queue of them. Usually it is one in some thousands.
const MESSAGES_PER_ALLOCATION_MIN: u64 = 200;

#[test]
fn messages_to_one_observer_allocate_nothing() {
    let _alone = alone();
    let spent = spent(1, 1);
    assert!(
        spent.allocations * MESSAGES_PER_ALLOCATION_MIN <= spent.messages,
        "{} allocations",
        spent.allocations
    );
}

#[test]
fn messages_to_ten_observers_allocate_nothing() {
    let _alone = alone();
    let spent = spent(10, 1);
    assert!(
        spent.allocations * MESSAGES_PER_ALLOCATION_MIN <= spent.messages,
        "{} allocations",
        spent.allocations
    );
}

#[test]
fn system_calls_are_shared_by_many_messages() {
    let _alone = alone();
    for workers in [1, 2] {
        let spent = spent(1, workers);
        assert!(spent.calls * 50 <= spent.messages, "{} calls for {} messages", spent.calls, spent.messages);
    }
}

/// The counter counts: otherwise the tests above would prove nothing.
#[test]
fn allocations_are_counted() {
    let _alone = alone();
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    std::thread::spawn(|| std::hint::black_box(vec![1_u8; 100])).join().unwrap();
    assert!(ALLOCATIONS.load(Ordering::Relaxed) > before);
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    std::hint::black_box(vec![1_u8; 100]);
    assert_eq!(ALLOCATIONS.load(Ordering::Relaxed), before, "this thread is a client's");
}

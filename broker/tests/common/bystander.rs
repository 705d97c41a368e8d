//! Two clients that go on beside what a test does to their broker: what they lose, and how long they wait.
#![allow(dead_code, unreachable_pub)]

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use staunch::server::Server;

use super::{Client, observe, record_pattern, start_default, until};

/// How many round trips there are before the attack.
const ALONE: usize = 100;
/// How long they pause, so as not to take the processors from what is tested.
const PAUSE: Duration = Duration::from_millis(1);
/// What one round trip in a hundred may exceed. Far more than it takes: machines that run tests have other work.
const SLOW: Duration = Duration::from_secs(2);

/// Messages over TCP from one client to another, one at a time.
struct Pair {
    producer: Client,
    consumer: Client,
    sent: u64,
}

impl Pair {
    fn new(address: SocketAddr) -> Pair {
        let mut consumer = Client::tcp(address).resolved();
        consumer.send(&format!("[{}]", observe(&record_pattern("innocent", 1), 7, 2)));
        consumer.sync();
        Pair { producer: Client::tcp(address).resolved(), consumer, sent: 0 }
    }

    /// Sends a message, and returns how long it took to arrive.
    fn exchange(&mut self) -> Duration {
        let start = Instant::now();
        self.producer.send(&format!("[[1 <M <innocent {}>>]]", self.sent));
        assert_eq!(self.consumer.event().body, format!("[{}]", self.sent), "all, in order");
        self.sent += 1;
        start.elapsed()
    }

    fn exchange_while(&mut self, goes_on: impl Fn(usize) -> bool) -> Vec<Duration> {
        let mut times = Vec::new();
        while goes_on(times.len()) {
            times.push(self.exchange());
            std::thread::sleep(PAUSE);
        }
        times.sort();
        times
    }
}

fn at(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}

/// Runs `attack` while two clients exchange numbered messages, and checks that these lose nothing and get on.
pub fn beside<R>(address: SocketAddr, attack: impl FnOnce() -> R) -> R {
    let mut pair = Pair::new(address);
    let alone = pair.exchange_while(|done| done < ALONE);
    let is_done = AtomicBool::new(false);
    let (attacked, during) = std::thread::scope(|scope| {
        // Relaxed: a flag to end by.
        let goes_on = |done| done < ALONE || !is_done.load(Ordering::Relaxed);
        let innocents = scope.spawn(move || pair.exchange_while(goes_on));
        let attacked = catch_unwind(AssertUnwindSafe(attack));
        is_done.store(true, Ordering::Relaxed);
        (attacked, innocents.join().expect("the innocent get on"))
    });
    for (when, times) in [("alone", &alone), ("beside it", &during)] {
        let [half, most, all] = [50, 99, 100].map(|percent| at(times, percent));
        println!("{when}: {} round trips, 50% {half:?}, 99% {most:?}, all {all:?}", times.len());
    }
    assert!(at(&during, 99) < SLOW, "others had to wait: {:?}", at(&during, 99));
    attacked.unwrap_or_else(|panic| resume_unwind(panic))
}

/// Runs `attack` against a broker in this process [beside] innocent clients, and checks that nothing is left of it.
pub fn beside_innocents(attack: impl FnOnce(SocketAddr, &Server)) {
    let (server, address) = start_default();
    let resident = || staunch_system::process::memory().unwrap().resident_bytes;
    let before = resident();
    beside(address, || attack(address, &server));
    let after = resident();
    assert!(after < before + (512 << 20), "{before} bytes before, {after} after");
    check_over(&server);
}

/// Checks that nothing is left of anybody.
pub fn check_over(server: &Server) {
    until("all have gone", || server.connections() == 0);
    until("nothing is owed", || server.total_debt() == 0);
    assert_eq!(server.index_counts(), (0, 0, 0));
    super::balanced(server);
}

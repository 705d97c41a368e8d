//! Attacks.
mod common;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::*;
use staunch::server::{Config, Server};

fn rss() -> u64 {
    staunch_system::process::memory().unwrap().resident_bytes >> 20
}

/// Runs `attack` beside innocents; returns (worst ms, count).
fn beside(server: &Server, address: SocketAddr, attack: impl FnOnce(SocketAddr, &Server)) -> (u64, u64) {
    let done = AtomicBool::new(false);
    let worst = AtomicU64::new(0);
    let count = AtomicU64::new(0);
    let peak = AtomicU64::new(0);
    std::thread::scope(|s| {
        let mut consumer = Client::tcp(address).resolved();
        consumer.send(&format!("[{}]", observe(&record_pattern("innocent", 1), 7, 2)));
        consumer.sync();
        let (done, worst, count, peak) = (&done, &worst, &count, &peak);
        s.spawn(move || {
            while !done.load(Ordering::Relaxed) {
                peak.fetch_max(rss(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        s.spawn(move || {
            let mut producer = Client::tcp(address).resolved();
            let mut n = 0_u64;
            while n < 20 || !done.load(Ordering::Relaxed) {
                let start = Instant::now();
                producer.send(&format!("[[1 <M <innocent {n}>>]]"));
                assert_eq!(consumer.event().body, format!("[{n}]"));
                worst.fetch_max(start.elapsed().as_micros() as u64, Ordering::Relaxed);
                n += 1;
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        let before = rss();
        let r = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| attack(address, server)));
        done.store(true, Ordering::Relaxed);
        println!("rss before {before} MiB, now {} MiB", rss());
        if let Err(p) = r {
            std::panic::resume_unwind(p)
        }
    });
    println!(
        "worst innocent round trip {} us in {}; peak rss {} MiB",
        worst.load(Ordering::Relaxed),
        count.load(Ordering::Relaxed),
        peak.load(Ordering::Relaxed)
    );
    (worst.load(Ordering::Relaxed) / 1000, count.load(Ordering::Relaxed))
}

fn settled(server: &Server) {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(8) {
        if server.connections() == 0 && server.total_debt() == 0 && server.index_counts() == (0, 0, 0) {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    println!(
        "connections {} debt {} index {:?} audit {:?}",
        server.connections(),
        server.total_debt(),
        server.index_counts(),
        server.audit()
    );
    assert_eq!(server.connections(), 0);
    assert_eq!(server.total_debt(), 0);
    assert_eq!(server.index_counts(), (0, 0, 0));
    server.audit().unwrap();
}

/// An attacker's observations get an innocent author ended, though it sends what anybody may.
#[test]
fn h1_lanes_kill_authors_of_large_messages() {
    let (server, address) = start_default();
    let mut greedy = Client::tcp(address).resolved();
    for n in 0..1000 {
        greedy.send(&format!("[{}]", observe(&record_pattern("doc", 1), 10 + n, 10 + n)));
    }
    greedy.sync();
    let mut author = Client::tcp(address).resolved();
    author.send("[[1 <M <doc 0>>]]");
    author.sync();
    author.send_anyway(&bytes(&format!("[[1 <M <doc \"{}\">>]]", "x".repeat(300_000))));
    author.send_anyway(&bytes("[[1 <S #:[0 77]>]]"));
    println!("author: {:?}", author.next_within(Duration::from_secs(5)));
    drop((author, greedy));
    settled(&server);
}

#[test]
fn h1b_lanes_kill_authors_of_small_messages() {
    let (server, address) = start_default();
    let mut greedy = Client::tcp(address).resolved();
    for n in 0..60_000 {
        greedy.send(&format!("[{}]", observe(&record_pattern("doc", 1), 10 + n, 10 + n)));
    }
    greedy.sync();
    let mut author = Client::tcp(address).resolved();
    author.send("[[1 <M <other 0>>]]");
    author.sync();
    author.send_anyway(&bytes(&format!("[[1 <M <doc \"{}\">>]]", "x".repeat(4_500))));
    author.send_anyway(&bytes("[[1 <S #:[0 77]>]]"));
    println!("author: {:?}", author.next_within(Duration::from_secs(5)));
    drop((author, greedy));
    settled(&server);
}

/// What is shed takes its notes along; a message noted after that has a range from before.
#[test]
fn h2_shed_in_a_message_that_uses_a_capability() {
    let max: u64 = std::env::var("FAN").map_or(1 << 20, |v| v.parse().unwrap());
    let (server, address) = start(Config { fan_out_max: max, workers: 2, ..Config::default() });
    {
        let mut innocent = Client::tcp(address).resolved();
        innocent.send(&format!("[{}]", observe(&record_pattern("x", 2), 7, 2)));
        innocent.sync();
        let mut greedy = Client::tcp(address).resolved();
        for n in 0..60 {
            greedy.send(&format!("[{}]", observe("<bind <_>>", 10 + n, 10 + n)));
        }
        greedy.sync();
        let mut owner = Client::tcp(address).resolved();
        let text = "t".repeat(80);
        let count = (max / 4200) as usize;
        let events: String = (0..count).map(|n| format!("[1 <M <x {n} \"{text}\" #:[0 5]>>]")).collect();
        owner.send_anyway(&bytes(&format!("[[1 <A <x keep \"t\" #:[0 5]> 3>]{events}]")));
        owner.send_anyway(&bytes("[[1 <S #:[0 77]>]]"));
        println!("owner: {:?}", owner.next_within(Duration::from_secs(20)));
        println!("greedy: {:?}", greedy.rest().1);
        innocent.send("[[1 <S #:[0 78]>]]");
        let mut got = 0;
        loop {
            match innocent.next_within(Duration::from_secs(3)) {
                Came::Turn(t) => {
                    got += t.len();
                    if t.iter().any(|e| e.oid == 78) {
                        break;
                    }
                }
                other => {
                    println!("innocent {other:?}");
                    break;
                }
            }
        }
        println!("innocent got {got} of {} + sync", count + 1);
    }
    settled(&server);
}

/// One turn times many observations: nothing bounds the work.
#[test]
fn h3_a_turn_times_many_observations() {
    let observations: i64 = std::env::var("OBS").map_or(5000, |v| v.parse().unwrap());
    let messages: usize = std::env::var("MSGS").map_or(100_000, |v| v.parse().unwrap());
    let (server, address) = start_default();
    beside(&server, address, |address, _| {
        let mut greedy = Client::tcp(address).resolved();
        let start = Instant::now();
        for n in 0..observations {
            greedy.send(&format!("[{}]", observe(&record_pattern("x", 0), 10 + n, 10 + n)));
        }
        greedy.sync();
        println!("observing took {:?}", start.elapsed());
        let mut author = Client::tcp(address).resolved();
        let start = Instant::now();
        author.send_anyway(&bytes(&format!("[{}]", "[1 <M <x>>]".repeat(messages))));
        author.send_anyway(&bytes("[[1 <S #:[0 77]>]]"));
        println!("author: {:?} after {:?}", author.next_within(Duration::from_secs(100)), start.elapsed());
    });
    settled(&server);
}

/// Nested binds multiply a value within one observation.
#[test]
fn h4_nested_binds() {
    let groups: usize = std::env::var("GROUPS").map_or(8, |v| v.parse().unwrap());
    let (server, address) = start_default();
    beside(&server, address, |address, _| {
        let mut greedy = Client::tcp(address).resolved();
        for n in 0..groups {
            let k = 240 - n;
            let pattern = format!("<group <rec x> {{0: {}<_>{}}}>", "<bind ".repeat(k), ">".repeat(k));
            greedy.send(&format!("[{}]", observe(&pattern, 10 + n as i64, 10 + n as i64)));
        }
        greedy.sync();
        let mut author = Client::tcp(address).resolved();
        author.send("[[1 <M <other>>]]");
        author.send_anyway(&bytes(&format!("[[1 <M <x \"{}\">>]]", "y".repeat(1 << 20))));
        author.send_anyway(&bytes("[[1 <S #:[0 77]>]]"));
        println!("author: {:?}", author.next_within(Duration::from_secs(10)));
        println!("debt {}", server.total_debt());
        std::thread::sleep(Duration::from_millis(300));
    });
    settled(&server);
}

/// Each lane has a bag of its own, as large as the state.
#[test]
fn h5_lanes_of_large_bags() {
    let state: usize = std::env::var("STATE").map_or(200_000, |v| v.parse().unwrap());
    let lanes: i64 = std::env::var("LANES").map_or(100, |v| v.parse().unwrap());
    let (server, address) = start_default();
    beside(&server, address, |address, _| {
        let mut greedy = Client::tcp(address).resolved();
        let mut all = String::new();
        for n in 0..state {
            all.push_str(&format!("[[1 <A <s {n}> {}>]]", n + 100_000));
        }
        greedy.send_bytes(&bytes(&all));
        greedy.sync();
        println!("state {} MiB", rss());
        let start = Instant::now();
        let mut sent = 0;
        for n in 0..lanes {
            sent +=
                greedy.send_some(&bytes(&format!("[{}]", observe(&record_pattern("s", 1), 10 + n, 10 + n))));
        }
        // It does not read.
        let mut other = Client::tcp(address).resolved();
        until("observers", || {
            server.index_counts().1 as i64 >= lanes || start.elapsed() > Duration::from_secs(50)
        });
        println!("{sent} bytes: {:?}, rss {} MiB, after {:?}", server.index_counts(), rss(), start.elapsed());
        other.sync();
    });
    settled(&server);
}

/// Caveats of an observer run on the author's time, under the dataspace's lock.
#[test]
fn h6_slow_caveats_of_observers() {
    let observers: i64 = std::env::var("OBS").map_or(20, |v| v.parse().unwrap());
    let (server, address) = start_default();
    beside(&server, address, |address, _| {
        let mut greedy = Client::tcp(address).resolved();
        // Twice as long with each step, for as long as it takes.
        let ints = "1 ".repeat(60_000);
        let grow = format!("<rewrite <bind <_>> <arr [{}]>>", "<ref 0>".repeat(16));
        let first = format!("<rewrite <bind <_>> <lit [{ints}]>>");
        let shrink = "<reject <bind <_>>>";
        let _ = shrink;
        let list = format!("<reject <arr [{}]>> {grow} {first}", "<_> ".repeat(16));
        // An entity of its own that it knows attenuated: oid 5 by way of the dataspace.
        for n in 0..observers {
            let pattern = record_pattern("innocent", 1);
            let reference = format!("#:[1 1 <rewrite <_> <lit {n}>> {list}]");
            greedy.send(&format!("[[1 <A <Observe {pattern} {reference}> {}>]]", 10 + n));
        }
        greedy.sync();
        std::thread::sleep(Duration::from_secs(3));
    });
    settled(&server);
}

/// An entity that is known attenuated gets answers of the gatekeeper that its caveats should stop.
#[test]
fn h7_the_gatekeeper_passes_by_caveats() {
    let (server, address) = start_default();
    {
        let mut owner = Client::tcp(address).resolved();
        // Its entity 5, through which nothing but <hello> may pass... is given attenuated by a second owner session's
        // observer: the capability [1 2] of the first, restricted.
        owner.send(&format!("[[1 <A <ent #:[0 5]> 5>]]"));
        owner.sync();
        let mut middle = Client::tcp(address).resolved();
        middle.send(&format!("[{}]", observe(&record_pattern("ent", 1), 7, 2)));
        let told = middle.event();
        println!("{told:?}");
        middle.send("[[1 <A <limited #:[1 2 <reject <_>>]> 6>]]");
        middle.sync();
        let mut attacker = Client::tcp(address).resolved();
        attacker.send(&format!("[{}]", observe(&record_pattern("limited", 1), 7, 2)));
        let told = attacker.event();
        println!("{told:?}");
        attacker.send("[[2 <M hello>] [2 <A hello 8>]]");
        attacker.send(
            r#"[[0 <A <resolve <ref {oid: "syndicate" sig: #[acowDB2/oI+6aSEC3YIxGg==]}> #:[1 2]> 9>]]"#,
        );
        attacker.sync();
        println!("owner got {:?}", owner.sync());
    }
    settled(&server);
}

/// A Sync that is never answered, since its target's session ends.
#[test]
fn h8_syncs_that_die() {
    let (server, address) = start_default();
    {
        let mut asker = Client::tcp(address).resolved();
        for round in 0..5 {
            let mut owner = Client::tcp(address).resolved();
            owner.send("[[1 <A <ent #:[0 5]> 5>]]");
            owner.sync();
            asker.send(&format!("[{}]", observe(&record_pattern("ent", 1), 7, 2 + round)));
            let told = asker.event();
            let oid: i64 = told.body.split(", ").nth(1).unwrap().trim_end_matches([']']).parse().unwrap();
            println!("{told:?}");
            for n in 0..10_000 {
                asker.send(&format!("[[{oid} <S #:[0 {}]>]]", 1000 + n + round * 10_000));
            }
            asker.sync();
            println!("debt {} rss {}", server.total_debt(), rss());
            drop(owner);
            until("gone", || server.connections() == 1);
            asker.send(&format!("[[1 <R {}>]]", 2 + round));
            println!("then {:?}", asker.sync().len());
            println!("debt {}", server.total_debt());
        }
    }
    settled(&server);
}

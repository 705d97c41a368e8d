//! Random histories from many connections: what observers are told is right, and nothing is left afterwards.
//! `STAUNCH_SECONDS` says how long to go on.
mod common;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use common::*;
use staunch::server::{Config, Server};

/// What a client was told: by oid and handle.
#[derive(Default)]
struct Told {
    live: HashMap<(i64, i64), String>,
    last: BTreeMap<(i64, i64), i64>,
    replies: String,
    syncs: BTreeSet<i64>,
}

impl Told {
    fn take(&mut self, who: &str, events: &[Event]) -> Vec<(i64, String)> {
        let mut syncs = Vec::new();
        for e in events {
            match e.kind {
                'A' => {
                    let before = self.live.insert((e.oid, e.handle), e.body.clone());
                    assert!(before.is_none(), "{who}: asserted twice {e:?}, was {before:?}");
                }
                'R' => {
                    assert!(
                        self.live.remove(&(e.oid, e.handle)).is_some(),
                        "{who}: retracted what was not told {e:?}"
                    );
                }
                'S' => syncs.push((e.oid, e.body.clone())),
                'M' => {
                    if e.body == "#t" {
                        self.syncs.insert(e.oid);
                    }
                    // <n sender number>: of one sender in order.
                    if let Some(rest) = e.body.strip_prefix("[<a n ") {
                        let mut parts = rest.trim_end_matches(">]").split(' ');
                        let sender: i64 = parts.next().unwrap().parse().unwrap();
                        let number: i64 = parts.next().unwrap().parse().unwrap();
                        let last = self.last.insert((e.oid, sender), number);
                        assert!(last.is_none_or(|l| l < number), "{who}: order {last:?} {number}");
                    }
                }
                _ => {}
            }
        }
        syncs
    }
}

fn value(random: &mut Random, me: u64) -> String {
    match random.below(12) {
        0..=5 => format!("<a {} {}>", random.below(3), random.below(4)),
        6 => format!("<a {} \"{}\">", random.below(3), "l".repeat(random.below(6000) as usize)),
        7 => format!("<b {} #:[0 {}]>", random.below(3), 50 + random.below(3)),
        8 => format!("[a {} {}]", random.below(2), random.below(3)),
        9 => format!("{{k: {} v: {}}}", random.below(2), me),
        10 => format!("<b {} #:[1 1 <rewrite <bind <_>> <rec w [<ref 0>]>>]>", random.below(3)),
        _ => format!("<a {} {}>", random.below(3), me),
    }
}

fn pattern(random: &mut Random) -> String {
    match random.below(8) {
        0 => record_pattern("a", 1),
        1 => record_pattern("a", 2),
        2 => "<bind <_>>".to_owned(),
        3 => format!("<group <rec a> {{0: <lit {}> 1: <bind <_>>}}>", random.below(3)),
        4 => record_pattern("b", 2),
        5 => "<group <arr> {1: <bind <_>>}>".to_owned(),
        6 => "<group <dict> {k: <bind <_>>}>".to_owned(),
        _ => "<group <rec Observe> {0: <bind <_>>}>".to_owned(),
    }
}

/// Sends, and reads as long as the broker does not.
fn push(client: &mut Client, told: &mut Told, who: &str, text: &str) {
    let all = bytes(&(std::mem::take(&mut told.replies) + text));
    let mut done = client.send_some(&all);
    let start = Instant::now();
    while done < all.len() {
        assert!(start.elapsed() < PATIENCE, "{who}: not read for a minute");
        take_all(client, told, who, Duration::from_millis(1));
        done += client.send_some(&all[done..]);
    }
}

fn take_all(client: &mut Client, told: &mut Told, who: &str, patience: Duration) {
    loop {
        match client.next_within(patience) {
            Came::Turn(t) => {
                for (_, body) in told.take(who, &t) {
                    let peer = body.split(", ").nth(1).unwrap().trim_end_matches(']').to_owned();
                    told.replies.push_str(&format!("[[{peer} <M #t>]]"));
                }
            }
            Came::Nothing => return,
            other => panic!("{who}: {other:?}"),
        }
    }
}

fn history(address: SocketAddr, me: u64, seed: u64, barrier: &AtomicUsize, steps: u64) {
    let mut random = Random(seed.wrapping_mul(2 * me + 3) | 1);
    let who = format!("client {me}");
    let mut client = Client::tcp(address).resolved();
    let mut told = Told::default();
    let mut live: BTreeSet<i64> = BTreeSet::new();
    let mut next = 1000;
    let mut number = 0;
    let mut reads = random.below(4) > 0;
    for step in 0..steps {
        let mut turn = String::new();
        for _ in 0..=random.below(5) {
            match random.below(20) {
                0..=6 => {
                    let small = 20 + (random.0 % 16) as i64;
                    let handle = if (random.0 / 16).is_multiple_of(3) && !live.contains(&small) {
                        small
                    } else {
                        next += 1;
                        next
                    };
                    if !live.insert(handle) {
                        continue;
                    }
                    turn.push_str(&format!("[1 <A {} {handle}>]", value(&mut random, me)));
                }
                7..=11 => {
                    let Some(handle) =
                        live.iter().nth(random.below(live.len().max(1) as u64) as usize).copied()
                    else {
                        continue;
                    };
                    live.remove(&handle);
                    turn.push_str(&format!("[1 <R {handle}>]"));
                }
                12..=14 => {
                    number += 1;
                    turn.push_str(&format!("[1 <M <a n {me} {number}>>]"));
                }
                15 => turn.push_str(&format!("[1 <M <a {} {}>>]", random.below(3), random.below(3))),
                16 | 17 => {
                    next += 1;
                    live.insert(next);
                    let observer = 100 + random.below(4);
                    let reference = match random.below(8) {
                        0 => "#:[1 1 <rewrite <bind <_>> <rec echo [<ref 0>]>>]".to_owned(),
                        _ => format!("#:[0 {observer}]"),
                    };
                    let p = if reference.contains("echo") {
                        record_pattern("b", 1)
                    } else {
                        pattern(&mut random)
                    };
                    turn.push_str(&format!("[1 <A <Observe {p} {reference}> {next}>]"));
                }
                18 => {
                    // Some oid that may or may not be there.
                    let oid = 1 + random.below(6);
                    match random.below(3) {
                        0 => turn.push_str(&format!("[{oid} <S #:[0 60]>]")),
                        1 => turn.push_str(&format!("[{oid} <M <a 1 2>>]")),
                        _ => {
                            next += 1;
                            live.insert(next);
                            turn.push_str(&format!("[{oid} <A <a 1 2> {next}>]"));
                        }
                    }
                }
                _ => turn.push_str("[1 <S #:[0 61]>]"),
            }
        }
        push(&mut client, &mut told, &who, &format!("[{turn}]"));
        if step % 64 == 0 {
            reads = random.below(4) > 0;
        }
        if reads || step % 50 == 0 {
            take_all(&mut client, &mut told, &who, Duration::ZERO);
        }
        if live.len() > 60 {
            let all: String = live.iter().map(|h| format!("[1 <R {h}>]")).collect();
            live.clear();
            push(&mut client, &mut told, &who, &format!("[{all}]"));
        }
    }
    // Nothing moves at the end, and a late observer is told what an early one knows.
    let drain = |client: &mut Client, told: &mut Told, told_at: i64| {
        push(client, told, &who, &format!("[[1 <S #:[0 {told_at}]>]]"));
        let start = Instant::now();
        while !told.syncs.contains(&told_at) {
            assert!(start.elapsed() < PATIENCE, "{who}: no answer");
            take_all(client, told, &who, Duration::from_millis(1));
            push(client, told, &who, "");
        }
    };
    let mut met = 0;
    let mut meet = |client: &mut Client, told: &mut Told| {
        met += 8;
        barrier.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let start = Instant::now();
        while barrier.load(std::sync::atomic::Ordering::SeqCst) < met {
            assert!(start.elapsed() < 2 * PATIENCE, "{who}: alone");
            take_all(client, told, &who, Duration::from_millis(1));
            push(client, told, &who, "");
        }
    };
    push(
        &mut client,
        &mut told,
        &who,
        &format!("[[1 <A <Observe {} #:[0 200]> 900000>]]", record_pattern("a", 2)),
    );
    drain(&mut client, &mut told, 300);
    meet(&mut client, &mut told);
    for n in 0..6 {
        drain(&mut client, &mut told, 301 + n);
        std::thread::sleep(Duration::from_millis(5));
        meet(&mut client, &mut told);
    }
    let mut late = Client::tcp(address).resolved();
    late.send(&format!("[[1 <A <Observe {} #:[0 200]> 900000>]]", record_pattern("a", 2)));
    let mut late_told = Told::default();
    late_told.take("late", &late.sync());
    let set = |t: &Told| {
        t.live
            .iter()
            .filter(|((oid, _), v)| *oid == 200 && v.starts_with('['))
            .map(|(_, v)| v.clone())
            .collect::<BTreeSet<_>>()
    };
    assert_eq!(set(&told), set(&late_told), "{who}");
    meet(&mut client, &mut told);
    match random.below(3) {
        0 => {
            client.finish();
            let _ = client.rest();
        }
        1 => {
            client.send_anyway(&[0xb5, 0xb5, 0xff, 0x00]);
        }
        _ => {}
    }
}

fn settled(server: &Server) {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(15) {
        if server.connections() == 0 && server.total_debt() == 0 && server.index_counts() == (0, 0, 0) {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!((server.connections(), server.total_debt(), server.index_counts()), (0, 0, (0, 0, 0)));
    balanced(server);
}

#[test]
fn random_histories() {
    let seconds: u64 = std::env::var("STAUNCH_SECONDS").map_or(8, |v| v.parse().unwrap());
    let mut random = Random::new("random_histories");
    let (server, address) =
        start(Config { workers: 2, debt_max: 64 << 10, outbox_max: 8 << 20, ..Config::default() });
    let start = Instant::now();
    let mut round = 0;
    while start.elapsed() < Duration::from_secs(seconds) {
        round += 1;
        let seed = random.next();
        println!("round {round} seed {seed}");
        let barrier = AtomicUsize::new(0);
        std::thread::scope(|s| {
            for me in 0..8 {
                let barrier = &barrier;
                s.spawn(move || {
                    let r = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                        history(address, me, seed, barrier, 400)
                    }));
                    if r.is_err() {
                        eprintln!("FAILED in round with seed {seed}");
                        std::process::exit(1);
                    }
                });
            }
        });
        settled(&server);
    }
    println!("{round} rounds, {:?}", server.counts());
}

//! Hostile bytes: whoever sends them ends with an Error packet, or waits; nobody else notices.

mod common;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::*;
use staunch::server::{Config, Server};

/// Packets of all kinds that a resolved client may send, one after the other.
const VALID: [&str; 8] = [
    r#"[[0 <A <resolve <ref {oid: "syndicate" sig: #[acowDB2/oI+6aSEC3YIxGg==]}> #:[0 0]> 1>]]"#,
    "[[1 <A <Observe <group <rec h> {0: <bind <_>>, 1: <lit 7>}> #:[0 2]> 2>]]",
    "[[1 <A <h [1 2.5 \"three\" #\"four\" five {six: #{7 8}}] 7> 3>] [1 <M <h 1 7>>] [1 <S #:[0 4]>]]",
    "[[1 <A <e #:[0 9] #:[1 1] #:[1 1 <reject <_>> <rewrite <bind <_>> <rec w [<ref 0>]>>]> 4>]]",
    "[[1 <M <h 2 7>>] [1 <M <h 3 7>>]]",
    "[[1 <R 3>] [1 <A <h 4 7> 3>] [1 <R 3>]]",
    "#f",
    "<do <credit-flow-control 202506>>",
];

const RESOLVED: usize = 1;

fn recorded() -> (Vec<u8>, usize) {
    (bytes(&VALID.join(" ")), bytes(&VALID[..RESOLVED].join(" ")).len())
}

/// What may become of a session that was sent nonsense: it ends, with an Error packet if by the broker, or it waits.
fn check_end(client: &mut Client) {
    loop {
        match client.next_within(Duration::from_millis(1)) {
            Came::Turn(_) => {}
            Came::Error(message) => {
                assert!(!message.is_empty());
                assert_eq!(client.next(), Came::End, "after {message}");
                return;
            }
            Came::End => panic!("it ends without a word"),
            Came::Nothing => return,
        }
    }
}

/// Runs `attack` while a pair of innocent clients exchange numbered messages, and checks that these lose nothing and
/// that nothing is left of the attackers.
fn beside_innocents(attack: impl FnOnce(SocketAddr, &Server)) {
    let (server, address) = start_default();
    let is_done = AtomicBool::new(false);
    let before = staunch_system::process::memory().unwrap().resident_bytes;
    std::thread::scope(|scope| {
        let mut consumer = Client::tcp(address).resolved();
        consumer.send(&format!("[{}]", observe(&record_pattern("innocent", 1), 7, 2)));
        consumer.sync();
        let is_done = &is_done;
        let innocents = scope.spawn(move || {
            let mut producer = Client::tcp(address).resolved();
            let mut n = 0_u64;
            while n < 100 || !is_done.load(Ordering::Relaxed) {
                producer.send(&format!("[[1 <M <innocent {n}>>]]"));
                assert_eq!(consumer.event().body, format!("[{n}]"));
                n += 1;
            }
            n
        });
        let attacked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| attack(address, &server)));
        is_done.store(true, Ordering::Relaxed);
        let exchanged = innocents.join().unwrap();
        assert!(exchanged >= 100);
        if let Err(panic) = attacked {
            std::panic::resume_unwind(panic);
        }
    });
    let after = staunch_system::process::memory().unwrap().resident_bytes;
    assert!(after < before + (512 << 20), "{before} bytes before, {after} after");
    until("all have gone", || server.connections() == 0);
    until("nothing is owed", || server.total_debt() == 0);
    assert_eq!(server.index_counts(), (0, 0, 0));
    server.audit().unwrap();
}

#[test]
fn packets_cut_off_anywhere() {
    beside_innocents(|address, _| {
        let (all, _) = recorded();
        for cut in 0..all.len() {
            let mut client = Client::tcp(address);
            client.send_bytes(&all[..cut]);
            if cut % 3 == 0 {
                client.finish();
                let (_, error) = client.rest();
                assert_eq!(error, None, "an end is no error");
            } else if cut % 3 == 1 {
                check_end(&mut client);
            }
        }
    });
}

#[test]
fn packets_with_mutations() {
    beside_innocents(|address, _| {
        let mut random = Random::new("packets_with_mutations");
        let (all, resolved) = recorded();
        for n in 0..3000 {
            let mut bytes = all.clone();
            let from = if n % 2 == 0 { 0 } else { resolved };
            for _ in 0..=random.below(3) {
                let at = from + random.below((bytes.len() - from) as u64) as usize;
                match random.below(4) {
                    0 => bytes[at] = random.next() as u8,
                    1 => bytes[at] ^= 1 << random.below(8),
                    2 => drop(bytes.remove(at)),
                    _ => bytes.insert(at, [0x80, 0x84, 0x86, 0xb5, 0xb4, 0xff][random.below(6) as usize]),
                }
            }
            let mut client = Client::tcp(address);
            client.send_anyway(&bytes);
            if n % 16 == 0 {
                check_end(&mut client);
            }
        }
    });
}

#[test]
fn random_bytes() {
    beside_innocents(|address, _| {
        let mut random = Random::new("random_bytes");
        for n in 0..1000 {
            let mut client = Client::tcp(address);
            if n % 2 == 0 {
                client = client.resolved();
            }
            let noise: Vec<u8> = (0..1 + random.below(2000)).map(|_| random.next() as u8 | 0x80).collect();
            client.send_anyway(&noise);
            if n % 16 == 0 {
                check_end(&mut client);
            }
        }
    });
}

/// Sends `nonsense` before and after resolving, and expects the session to end with an Error packet.
fn expect_error(nonsense: &[u8], expected: &str) {
    beside_innocents(|address, _| {
        for is_resolved in [false, true] {
            let mut client = Client::tcp(address);
            if is_resolved {
                client = client.resolved();
            }
            client.send_anyway(nonsense);
            let error = client.ends_with_error();
            assert!(error.contains(expected), "{error}");
        }
    });
}

#[test]
fn a_million_open_brackets() {
    expect_error(&[0xb5; 1_000_000], "deep");
    expect_error(&b"\xb4\xb3\x01a".repeat(300_000), "deep");
    expect_error(&[0x86; 1_000_000], "deep");
}

#[test]
fn huge_declared_lengths() {
    for tag in [0xb0, 0xb1, 0xb2, 0xb3] {
        expect_error(&[0xb5, tag, 0xff, 0xff, 0xff, 0xff, 0x7f], "");
        expect_error(&[tag, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f], "");
    }
}

#[test]
fn an_oversized_packet() {
    let mut packet = vec![0xb5, 0xb2, 0x80, 0x80, 0x80, 0x07];
    packet.resize(18 << 20, 0);
    expect_error(&packet, "");
    // Of many small parts; it ends however the parts add up.
    let mut packet = vec![0xb5];
    packet.extend(b"\xb0\x01\x05".repeat(6 << 20));
    expect_error(&packet, "");
}

#[test]
fn a_million_small_turns() {
    beside_innocents(|address, _| {
        let mut client = Client::tcp(address).resolved();
        client.send_bytes(&[0xb5, 0x84].repeat(1_000_000));
        client.send_bytes(&[0x80].repeat(1_000_000));
        client.send_bytes(&bytes("[[1 <M x>]]").repeat(200_000));
        client.send_bytes(&bytes("[[1 <M x>] [1 <S #:[0 5]>]]").repeat(1000));
        client.send_bytes(&bytes("[[1 <A x 10>] [1 <R 10>]]").repeat(100_000));
        assert_eq!(client.sync().iter().filter(|e| e.oid == 5).count(), 1000);
    });
}

/// A value with very many capabilities, and a turn with very many messages that each hold one.
#[test]
fn a_million_capabilities() {
    beside_innocents(|address, _| {
        let mut client = Client::tcp(address).resolved();
        client.send(&format!(
            "[{} [1 <A <Observe <bind <_>> #:[0 6]> 4>]]",
            observe(&record_pattern("k", 1), 7, 2)
        ));
        client.sync();
        let references: String = (0..100_000).map(|n| format!("#:[0 {}]", n + 100)).collect();
        client.send(&format!("[[1 <A <k [{references}]> 3>]]"));
        client.sync();
        let messages: String = (0..20_000).map(|n| format!("[1 <M <k #:[0 {}]>>]", n + 100)).collect();
        client.send(&format!("[{messages}]"));
        let events = client.sync();
        let own = events.iter().filter(|e| e.kind == 'M' && !e.body.contains("innocent"));
        assert_eq!(own.count(), 40_000);
    });
}

/// A caveat that makes much of little, used many times in one turn.
#[test]
fn a_turn_that_caveats_blow_up() {
    beside_innocents(|address, _| {
        let mut client = Client::tcp(address).resolved();
        let copies = "<ref 0>".repeat(1000);
        let caveat = format!("<rewrite <bind <_>> <arr [{copies}]>>");
        client.send(&format!(
            "[{} [1 <A <offer #:[1 1 {caveat}]> 3>]]",
            observe(&record_pattern("offer", 1), 7, 2)
        ));
        assert_eq!(client.event().body, "[#:[0, 2]]");
        let message = format!("[2 <M \"{}\">]", "x".repeat(10_000));
        client.send_anyway(&bytes(&format!("[{}]", message.repeat(50))));
        let error = client.ends_with_error();
        assert!(error.contains("caveats"), "{error}");
    });
}

/// A principal may have so many skeletons, in however many connections; others are not concerned, and what it gives up
/// it may have again.
#[test]
fn skeletons_are_bounded_per_principal() {
    let (server, address) = start(Config {
        workers: 2,
        limits: staunch::limits::Limits { principal_skeletons: 5, ..Default::default() },
        ..Config::default()
    });
    let one = "127.0.0.1".parse().unwrap();
    let other = "127.0.0.2".parse().unwrap();
    let skeleton = |n: usize| observe(&format!("<group <rec s{n}> {{0: <bind <_>>}}>"), 7, n as i64 + 10);
    let mut first = Client::tcp_from(one, address).resolved();
    (0..3).for_each(|n| first.send(&format!("[{}]", skeleton(n))));
    first.sync();
    let mut second = Client::tcp_from(one, address).resolved();
    // Known ones are free.
    (0..5).for_each(|n| second.send(&format!("[{}]", skeleton(n))));
    second.sync();
    assert_eq!(server.index_counts().2, 5);
    // The sixth ends the connection that asks for it, and nothing of its turn has happened.
    let mut third = Client::tcp_from(one, address).resolved();
    third.send(&format!("[[1 <A <there> 2>] {}]", skeleton(5)));
    let why = third.ends_with_error();
    assert!(why.contains("More than 5 kinds of pattern (skeletons) of one principal"), "{why}");
    let mut elsewhere = Client::tcp_from(other, address).resolved();
    (5..10).for_each(|n| elsewhere.send(&format!("[{}]", skeleton(n))));
    elsewhere.sync();
    assert_eq!(server.index_counts().2, 10);
    // The others of the principal go on, and once some are given up there is room again.
    second.send("[[1 <R 13>] [1 <R 14>]]");
    second.sync();
    let mut fourth = Client::tcp_from(one, address).resolved();
    (20..22).for_each(|n| fourth.send(&format!("[{}]", skeleton(n))));
    fourth.sync();
    fourth.send(&format!("[{}]", skeleton(22)));
    fourth.ends_with_error();
}

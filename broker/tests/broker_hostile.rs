//! Hostile bytes: whoever sends them ends with an Error packet, or waits; nobody else notices.

mod common;

use std::time::Duration;

use common::bystander::beside_innocents;
use common::*;
use staunch::server::Config;

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
            Came::Turn(_) | Came::Extension(_) => {}
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

#[test]
fn packets_cut_off_anywhere() {
    beside_innocents(|address, _| {
        let (all, _) = recorded();
        for cut in 0..=all.len() {
            let start = || {
                let mut client = Client::tcp(address);
                client.send_bytes(&all[..cut]);
                client
            };
            let mut finished = start();
            finished.finish();
            assert_eq!(finished.rest().1, None, "an end is no error");
            check_end(&mut start());
            start().kill();
        }
    });
}

/// Each byte in turn is replaced by those that mean most, dropped, and doubled.
#[test]
fn packets_changed_at_every_offset() {
    const BYTES: [u8; 16] =
        [0x00, 0x7f, 0x80, 0x81, 0x84, 0x85, 0x86, 0x87, 0xb0, 0xb1, 0xb3, 0xb4, 0xb5, 0xb6, 0xb7, 0xff];
    beside_innocents(|address, _| {
        let (all, _) = recorded();
        for at in 0..all.len() {
            let flipped = [all[at] ^ 1];
            for bytes in common::changed_at(&all, at, BYTES.iter().chain(&flipped)) {
                let mut client = Client::tcp(address);
                client.send_anyway(&bytes);
                client.finish_anyway();
                // It ends, with an Error packet or without.
                client.rest();
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
    expect_error(&[0xb6; 1_000_000], "deep");
    expect_error(&b"\xb7\x80".repeat(500_000), "deep");
    // Annotations: on one another, and very many on one value, each of which is a level.
    expect_error(&[0x85; 1_000_000], "deep");
    expect_error(&b"\x85\x80".repeat(500_000), "deep");
    expect_error(&b"\xb5\x85\xb4\xb3\x01a\x86\xb7\x80\xb6".repeat(100_000), "deep");
}

#[test]
fn huge_declared_lengths() {
    for tag in [0xb0, 0xb1, 0xb2, 0xb3, 0x87] {
        expect_error(&[0xb5, tag, 0xff, 0xff, 0xff, 0xff, 0x7f], "");
        expect_error(&[tag, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f], "length too long");
        // 2^64 - 1, 2^40, and 2^31.
        for length in [
            &b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"[..],
            b"\x80\x80\x80\x80\x80\x20",
            b"\x80\x80\x80\x80\x08",
        ] {
            expect_error(&[&[0xb5, tag], length].concat(), "longer than");
            expect_error(&[&[tag], length, &[0; 100_000]].concat(), "longer than");
        }
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
        let copies = "<ref 0>".repeat(20);
        let caveat = format!("<rewrite <bind <_>> <arr [{copies}]>>");
        client.send(&format!(
            "[{} [1 <A <offer #:[1 1 {caveat}]> 3>]]",
            observe(&record_pattern("offer", 1), 7, 2)
        ));
        assert_eq!(client.event().body, "[#:[0, 2]]");
        let message = format!("[2 <M \"{}\">]", "x".repeat(10_000));
        client.send_anyway(&bytes(&format!("[{}]", message.repeat(400))));
        let error = client.ends_with_error();
        assert!(error.contains("became behind caveats"), "{error}");
    });
}

/// A few caveats that make much of anything and then drop it: as much work for one value as there may be.
fn costly(n: usize) -> String {
    let grow = format!("<rewrite <bind <_>> <arr [{}]>>", "<ref 0>".repeat(16));
    let literal = format!("<rewrite <_> <lit [{}]>>", "1 ".repeat(4000));
    format!("<reject <lit {n}>> <reject <_>> {grow} {literal} {literal} {literal}")
}

/// An author's turn of events that each are much work by its own caveats.
#[test]
fn a_turn_that_is_long_on_its_way_through_caveats() {
    beside_innocents(|address, _| {
        let mut client = Client::tcp(address).resolved();
        client.send(&format!(
            "[{} [1 <A <offer #:[1 1 {}]> 3>]]",
            observe(&record_pattern("offer", 1), 7, 2),
            costly(0)
        ));
        assert_eq!(client.event().body, "[#:[0, 2]]");
        // One by one they are dropped, and that is all.
        client.send(&"[[2 <M 1>]]".repeat(100));
        client.sync();
        client.send_anyway(&bytes(&format!("[{}]", "[2 <M 1>]".repeat(1000))));
        let error = client.ends_with_error();
        assert!(error.contains("send it in parts"), "{error}");
    });
}

/// Whoever observes others behind costly caveats ends; whoever observes behind ordinary ones does not, however much
/// there is to be told.
#[test]
fn observers_with_costly_caveats_end_alone() {
    beside_innocents(|address, _| {
        // Ten observations of each message, by way of an entity behind caveats that pass some on.
        let (mut owner, mut modest, _) = introduced(address, &[50]);
        let ordinary = |n: i64| {
            format!(
                "#:[1 2 <rewrite <bind <arr [SignedInteger]>> <ref 0>> <reject <arr [<lit {n}>]>> <reject <rec x []>>]"
            )
        };
        let pattern = record_pattern("often", 1);
        let observes = |n: i64| format!("[1 <A <Observe {pattern} {}> {}>]", ordinary(n), 10 + n);
        modest.send(&format!("[{}]", (0..10).map(observes).collect::<String>()));
        modest.sync();
        let messages: String = (0..5000).map(|n| format!("[1 <M <often {}>>]", n % 10)).collect();
        let mut author = Client::tcp(address).resolved();
        author.send(&format!("[{messages}]"));
        author.sync();
        let mut told = 0;
        while told < 5000 * 9 {
            told += owner.turn().len();
        }
        assert_eq!(told, 5000 * 9);

        let mut greedy = Client::tcp(address).resolved();
        let pattern = record_pattern("innocent", 1);
        let observes = |n: usize| format!("[1 <A <Observe {pattern} #:[1 1 {}]> {}>]", costly(n), 10 + n);
        greedy.send_anyway(&bytes(&format!("[{}]", (0..10).map(observes).collect::<String>())));
        let error = greedy.ends_with_error();
        assert!(error.contains("Observations behind caveats"), "{error}");
        modest.sync();
    });
}

/// Many sessions of one principal, each behind caveats that take as much as one may, are bounded together; as many behind
/// ordinary ones are not.
#[test]
fn a_crowd_behind_costly_caveats_ends() {
    let (server, address) = start(Config { workers: 2, ..Config::default() });
    let crowd = |caveats: &dyn Fn(usize) -> String| -> Vec<Client> {
        let pattern = record_pattern("innocent", 1);
        let one = |n| {
            let mut client = Client::tcp_from("127.0.0.2".parse().unwrap(), address).resolved();
            client.send(&format!("[[1 <A <Observe {pattern} #:[1 1 {}]> 10>]]", caveats(n)));
            client.sync();
            client
        };
        (0..300).map(one).collect()
    };
    let mut innocent = Client::tcp(address).resolved();
    innocent.send(&format!(
        "[[1 <A <Observe {} #:[1 1 <rewrite <bind <arr [SignedInteger]>> <ref 0>> <reject <arr [<lit 5>]>>]> 10>]]",
        record_pattern("innocent", 1)
    ));
    innocent.send(&format!("[{}]", observe("<group <arr> {0: <bind <_>>}>", 7, 11)));
    innocent.sync();
    let mut author = Client::tcp(address).resolved();
    author.send("[[1 <M <first>>]]");
    let mut ordinary = crowd(&|n| {
        format!(
            "<rewrite <bind <arr [SignedInteger]>> <ref 0>> <reject <arr [<lit {n}>]>> <reject <rec x []>>"
        )
    });
    let many = "[1 <M <innocent 1000>>]".repeat(100);
    author.send(&format!("[{many}]"));
    author.sync();
    ordinary.iter_mut().for_each(|client| assert_eq!(client.sync(), []));

    let alternatives =
        |n: usize| (0..400).map(move |i| format!("<rewrite <lit -{}> <lit 0>>", 1 + i + n * 400));
    let costly = crowd(&|n| format!("<or [{}]>", alternatives(n).collect::<String>()));
    author.send("[[1 <M <innocent 1001>>]]");
    author.sync();
    innocent.sync();
    let ended = costly.into_iter().filter_map(|mut client| {
        client.send_anyway(&bytes("[[1 <S #:[0 1]>]]"));
        client.finish_anyway();
        client.rest().1
    });
    let ended = ended.inspect(|why| assert!(why.contains("Observations behind caveats"), "{why}")).count();
    assert!((100..300).contains(&ended), "{ended} ended");
    drop((innocent, author, ordinary));
    until("all is given back", || server.total_debt() == 0 && server.index_counts() == (0, 0, 0));
}

/// A few bytes attenuate further what is attenuated at length already: that copies nothing, and goes on only so far.
#[test]
fn long_caveats_attenuated_over_and_over() {
    beside_innocents(|address, _| {
        let mut client = Client::tcp(address).resolved();
        let text = "z".repeat(60_000);
        client.send(&format!(
            "[{} [1 <A <offer #:[1 1 <reject <lit \"{text}\">>]> 3>]]",
            observe(&record_pattern("offer", 1), 7, 2)
        ));
        assert_eq!(client.event().body, "[#:[0, 2]]");
        let before = staunch_system::process::memory().unwrap().resident_bytes;
        let kept = |n: i64| format!("[1 <A <keep {n} #:[1 2 <reject <lit {n}>>]> {}>]", 100 + n);
        client.send(&format!("[{}]", (0..5000).map(kept).collect::<String>()));
        client.sync();
        let after = staunch_system::process::memory().unwrap().resident_bytes;
        assert!(after < before + (64 << 20), "{before} bytes before, {after} after");
        client
            .send_anyway(&bytes(&format!("[[1 <A <keep #:[1 2 <reject <lit \"{}\">>]> 9>]]", &text[..6000])));
        let error = client.ends_with_error();
        assert!(error.contains("65536 bytes"), "{error}");
    });
}

/// The kinds of pattern of one principal that are like one value are bounded beside, by what they take to be tried.
#[test]
fn skeletons_that_are_like_one_value_are_bounded_per_principal() {
    let (server, address) = start(Config {
        workers: 2,
        limits: staunch::limits::Limits { principal_skeletons_alike: 10, ..Default::default() },
        ..Config::default()
    });
    let handles = std::cell::Cell::new(100);
    let skeleton = |label: &str, n: usize| {
        handles.set(handles.get() + 1);
        observe(&format!("<group <rec {label}> {{{n}: <lit 1>}}>"), 7, handles.get())
    };
    let mut first = Client::tcp(address).resolved();
    (0..9).for_each(|n| first.send(&format!("[{}]", skeleton("x", n))));
    first.sync();
    // With two constants it counts twice.
    let mut second = Client::tcp(address).resolved();
    second.send_anyway(&bytes(&format!("[{}]", observe("<group <rec x> {0: <lit 1> 1: <lit 1>}>", 7, 50))));
    let why = second.ends_with_error();
    assert!(why.contains("that are like one value") && why.contains("more than 10"), "{why}");
    let mut third = Client::tcp(address).resolved();
    third.send(&format!("[{}]", skeleton("x", 9)));
    // Known ones are free; so are those for other labels, to themselves.
    (0..10).for_each(|n| third.send(&format!("[{}]", skeleton("x", n))));
    (0..10).for_each(|n| third.send(&format!("[{}]", skeleton("y", n))));
    third.sync();
    let mut elsewhere = Client::tcp_from("127.0.0.2".parse().unwrap(), address).resolved();
    (20..30).for_each(|n| elsewhere.send(&format!("[{}]", skeleton("x", n))));
    elsewhere.sync();
    // What is given up may be had again.
    drop((first, third));
    until("they are gone", || server.index_counts().2 == 10);
    let mut fourth = Client::tcp(address).resolved();
    (0..10).for_each(|n| fourth.send(&format!("[{}]", skeleton("x", n))));
    fourth.sync();
    fourth.send(&format!("[{}]", skeleton("x", 10)));
    fourth.ends_with_error();
}

/// A turn whose values are like so many kinds of pattern that all would wait for it is refused whole.
#[test]
fn a_turn_that_is_tried_for_too_much_is_refused() {
    let (server, address) = start(Config { workers: 2, ..Config::default() });
    let mut observer = Client::tcp_from("127.0.0.2".parse().unwrap(), address).resolved();
    // 128 kinds, of two constants each. None of them matches.
    let kinds = (0..12).flat_map(|a| (a + 1..20).map(move |b| (a, b))).take(128);
    let kinds = kinds
        .zip(10..)
        .map(|((a, b), n)| observe(&format!("<group <rec x> {{{a}: <lit 1> {b}: <lit 1>}}>"), 7, n));
    let kinds: Vec<String> = kinds.collect();
    observer.send(&format!("[{}]", kinds.concat()));
    observer.sync();
    let mut watcher = Client::tcp_from("127.0.0.3".parse().unwrap(), address).resolved();
    watcher.send(&format!("[{}]", observe(&record_pattern("x", 1), 7, 5)));
    watcher.sync();
    let messages: fn(&str, usize) -> String =
        |label, count| format!("[{}]", format!("[1 <M <{label} 0>>]").repeat(count));
    let assertions: fn(&str, usize) -> String = |label, count| {
        format!(
            "[{}]",
            (0..count).map(|n| format!("[1 <A <{label} {n}> {}>]", n + 10_000 * count)).collect::<String>()
        )
    };
    for turn in [messages, assertions] {
        let mut author = Client::tcp(address).resolved();
        author.send("[[1 <M <first>>]]");
        author.send_bytes(&bytes(&turn("y", 3000)));
        author.sync();
        let mut author = Client::tcp(address).resolved();
        author.send("[[1 <M <first>>]]");
        author.send_bytes(&bytes(&turn("x", 2000)));
        assert_eq!(watcher.turn().len(), 2000);
        author.send_anyway(&bytes(&turn("x", 2200)));
        let why = author.ends_with_error();
        assert!(why.contains("too many kinds of pattern; send it in parts"), "{why}");
        watcher.sync();
    }
    drop((observer, watcher));
    until("all is given back", || server.total_debt() == 0 && server.index_counts() == (0, 0, 0));
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
    assert!(
        why.contains("More than 5 kinds of pattern (skeletons) of one principal (principal-skeletons)"),
        "{why}"
    );
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

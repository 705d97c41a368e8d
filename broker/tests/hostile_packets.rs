//! What the protocol calls an error ends that session, and nothing of that turn happens; what it calls ignored or
//! ordinary stays so. In binary and in text, beside innocent clients.

mod common;

use std::net::SocketAddr;

use common::bystander::beside_innocents;
use common::text::{TextClient, without_handles};
use common::*;
use staunch_protocols::sturdy::SturdyRef;
use staunch_protocols::wire;

/// Observes `<w x>`.
fn watcher(address: SocketAddr) -> Client {
    let mut watcher = Client::tcp(address).resolved();
    watcher.send(&format!("[{}]", observe(&record_pattern("w", 1), 7, 2)));
    watcher.sync();
    watcher
}

/// Expects these packets to end a session with an Error packet that tells this: in binary and, as they stand, in text.
/// What was sent before them happens; beside that, what `told` lists.
fn check_error(address: SocketAddr, watcher: &mut Client, packets: &str, expected: &str, told: &[&str]) {
    let before = "[[1 <M <w before>>]]";
    let mut binary = Client::tcp(address).resolved();
    binary.send_anyway(&bytes(&format!("{before} {packets}")));
    let mut text = TextClient::tcp(address).resolved();
    text.send_anyway(format!("{before} {packets}\n").as_bytes());
    for error in [binary.ends_with_error(), text.ends_with_error()] {
        assert!(error.contains(expected), "{packets}: {error}");
    }
    let told = [&["M[before]"], told].concat();
    let mut seen: Vec<String> = Vec::new();
    // The two sessions' events may come in any order: what one of them did is told twice.
    until("both have ended", || {
        seen.extend(watcher.sync().iter().map(|event| format!("{}{}", event.kind, event.body)));
        seen.len() >= 2 * told.len()
    });
    let mut expected: Vec<&str> = [&told[..], &told[..]].concat();
    seen.sort();
    expected.sort();
    assert_eq!(seen, expected, "{packets}");
}

#[test]
fn malformed_packets_end_the_session() {
    beside_innocents(|address, _| {
        let mut watcher = watcher(address);
        let packets = ["#t", "123", "\"x\"", "x", "#\"abc\"", "1.5", "{a: 1}", "#{1}", "#:[0 1]"];
        for packet in packets {
            // In text, only over what has begun as a session may these come.
            check_error(address, &mut watcher, packet, "not a packet", &[]);
        }
        let events = [
            ("[1 <Z 1>]", "event"),
            ("[1 <\"M\" 1>]", "event"),
            ("[1 <M>]", "event"),
            ("[1 <A x>]", "event"),
            ("[1 <R>]", "event"),
            ("[1 <S>]", "event"),
            ("[1 <S 5>]", "event"),
            ("[1 <A x y>]", "event"),
            ("[1 <A x 5.0>]", "event"),
            ("[1 <R \"5\">]", "event"),
            ("[x <M 1>]", "event"),
            ("[1.0 <M 1>]", "event"),
            ("[#:[0 5] <M 1>]", "event"),
            ("[1]", "event"),
            ("[]", "event"),
            ("7", "event"),
            ("<M 1>", "event"),
            ("[1 M]", "event"),
            ("[1 [M 1]]", "event"),
            ("[<M 1> 1]", "event"),
            ("[1 <M #:7>]", "reference"),
            ("[1 <M #:[]>]", "reference"),
            ("[1 <M #:[0]>]", "reference"),
            ("[1 <M #:[2 5]>]", "reference"),
            ("[1 <M #:[0 x]>]", "reference"),
            ("[1 <A {#:[0 5]: #:[0 1.0]} 9>]", "reference"),
        ];
        for (event, expected) in events {
            // First, in the middle, and last of a turn that would do something.
            let (one, two) = ("[1 <M <w 1>>]", "[1 <A <w 2> 8>]");
            for turn in [
                format!("[{event}{one}{two}]"),
                format!("[{one}{event}{two}]"),
                format!("[{one}{two}{event}]"),
            ] {
                check_error(address, &mut watcher, &turn, expected, &[]);
            }
        }
    });
}

#[test]
fn bytes_that_are_no_values_end_the_session() {
    let cases: [(&[u8], &str); 17] = [
        (b"\x82", "tag 0x82"),
        (b"\x88", "tag 0x88"),
        (b"\xb8", "tag 0xb8"),
        (b"\xff", "tag 0xff"),
        (b"\x84", "end of compound"),
        (b"\xb4\x84", "end of compound"),
        (b"\xb7\x80\x84", "without a value"),
        (b"\x87\x07\0\0\0\0\0\0\0", "8 bytes"),
        (b"\x87\x04\0\0\0\0", "8 bytes"),
        (b"\xb1\x01\xff", "UTF-8"),
        (b"\xb1\x02\xc3(", "UTF-8"),
        (b"\xb1\x03\xed\xa0\x80", "UTF-8"),
        (b"\xb3\x02\xc0\x80", "UTF-8"),
        (b"\xb6\xb0\x01\x01\xb0\x01\x01\x84", "duplicate"),
        (b"\xb6\xb0\x01\x01\xb0\x02\x00\x01\x84", "duplicate"),
        (b"\xb7\xb3\x01a\x80\xb3\x01a\x81\x84", "duplicate"),
        (b"\xb7\xb6\xb0\x01\x02\xb0\x01\x01\x84\x80\xb6\xb0\x01\x01\xb0\x01\x02\x84\x81\x84", "duplicate"),
    ];
    beside_innocents(|address, _| {
        let mut watcher = watcher(address);
        for (value, expected) in cases {
            // As a packet; as the body of a message, behind another; in a Nop's place; and far within.
            let message =
                |value: &[u8]| [b"\xb5\xb5\xb0\x01\x01\xb4\xb3\x01M", value, b"\x84\x84\x84"].concat();
            let turn = |value: &[u8]| {
                let good = b"\xb5\xb0\x01\x01\xb4\xb3\x01M\xb4\xb3\x01w\x80\x84\x84\x84";
                [&b"\xb5"[..], good, &message(value)[1..]].concat()
            };
            let deep = [&b"\xb5".repeat(100)[..], value, &b"\x84".repeat(100)].concat();
            let mut packets = vec![value.to_vec(), [b"\x80", value].concat()];
            // A bare end there would end something.
            if value[0] != 0x84 {
                packets.extend([message(value), turn(value), turn(&deep)]);
            }
            for packet in packets {
                for is_resolved in [false, true] {
                    let mut client = Client::tcp(address);
                    if is_resolved {
                        client = client.resolved();
                    }
                    client.send_anyway(&packet);
                    let error = client.ends_with_error();
                    assert!(error.contains(expected), "{packet:02x?}: {error}");
                }
            }
        }
        assert_eq!(watcher.sync(), []);
    });
}

#[test]
fn what_is_to_be_ignored_is() {
    beside_innocents(|address, _| {
        let mut watcher = watcher(address);
        let packets = [
            "[]",
            "#f",
            "<ext 1 2 3>",
            "<1 2>",
            "<[a] 2>",
            "<error \"bye\">",
            "<error 1 2>",
            "<do <credit-flow-control 202506>>",
            "<C 5>",
            "@annotation []",
            "<ext @annotation 5>",
            // Oids that nobody has told it of, and handles that nothing has.
            "[[99 <M <w 1>>] [99 <A <w 1> 50>] [99 <R 50>] [99 <S #:[0 5]>] [1 <R 4711>] [-1 <R -1>] [99 <R 3>]]",
            "[[1 <A <x #:[1 99]> 60>] [1 <R 60>]]",
        ];
        let mut binary = Client::tcp(address).resolved();
        let mut text = TextClient::tcp(address).resolved();
        for packet in packets {
            binary.send(packet);
            assert_eq!(binary.sync(), [], "{packet}");
            text.send(packet);
            assert_eq!(text.sync_at(1), [""; 0], "{packet}");
            assert_eq!(watcher.sync(), [], "{packet}");
        }
        // Surplus fields of everything.
        let surplus = "[[1 <M <w 1> more> more more] [1 <A <w 2> 70 more> more] [1 <R 70 more>] [1 <S #:[0 5] more> more]]";
        binary.send(surplus);
        let answers: Vec<i64> = binary.sync().iter().map(|event| event.oid).collect();
        assert_eq!(answers, [5]);
        let seen: Vec<_> =
            watcher.sync().iter().map(|event| format!("{}{}", event.kind, event.body)).collect();
        assert_eq!(seen, ["M[1]", "A[2]", "R"]);
        // Of an Error packet too, which ends the session; it is sent back, as the reference does.
        binary.send("<error \"bye\" #f more>");
        assert_eq!(binary.rest(), (Vec::new(), Some("bye".to_owned())));
    });
}

#[test]
fn observations_that_make_no_sense_are_ordinary_values() {
    beside_innocents(|address, _| {
        let mut all = Client::tcp(address).resolved();
        all.send(&format!("[{}]", observe(&record_pattern("Observe", 1), 8, 2)));
        all.sync();
        let mut client = Client::tcp(address).resolved();
        let malformed = [
            "<bind>",
            "<bind foo>",
            "<group arr {}>",
            "<group <set> {}>",
            "<group <rec w>>",
            "<group <rec w> [<_>]>",
            "<rec w [<_>]>",
            "<arr []>",
            "<compound <rec w 1> {}>",
            "<lit [1]>",
            "<lit <w>>",
            "<lit {}>",
            "<lit #{1}>",
            "<lit>",
            "foo",
            "7",
            "<group <rec> {}>",
            "<group <rec w> {0: <bind>}>",
        ];
        for (n, pattern) in malformed.iter().enumerate() {
            let handle = 100 + n as i64;
            client
                .send(&format!("[{} [1 <M <w 1>>] [1 <A <w 2> 9>] [1 <R 9>]]", observe(pattern, 9, handle)));
            assert_eq!(client.sync(), [], "{pattern}");
            assert_eq!(all.event().kind, 'A', "an assertion like others: {pattern}");
            client.send(&format!("[[1 <R {handle}>]]"));
            client.sync();
            assert_eq!(all.event().kind, 'R', "{pattern}");
        }
        // An observer that is none, and too few fields.
        for value in
            ["<Observe <bind <_>> 5>", "<Observe <bind <_>>>", "<Observe>", "<Observe <bind <_>> [#:[0 9]]>"]
        {
            client.send(&format!("[[1 <A {value} 90>] [1 <M <w 1>>]]"));
            assert_eq!(client.sync(), [], "{value}");
            client.send("[[1 <R 90>]]");
        }
        // Keys that can never be there.
        for key in ["x", "-1", "\"0\"", "0.0", "18446744073709551616"] {
            let pattern = format!("<group <rec w> {{{key}: <bind <_>>}}>");
            client.send(&format!("[{} [1 <M <w 1 2>>]]", observe(&pattern, 9, 91)));
            assert_eq!(client.sync(), [], "{key}");
            client.send("[[1 <R 91>]]");
        }
    });
}

/// Sets and dictionaries whose members are in no order are as good as others.
#[test]
fn members_in_any_order_are_equal() {
    const ONE: &[u8] = b"\xb0\x01\x01";
    const TWO: &[u8] = b"\xb0\x01\x02";
    beside_innocents(|address, _| {
        let mut watcher = watcher(address);
        let mut client = Client::tcp(address).resolved();
        let mut say = |kind: u8, members: &[&[u8]], tag: u8, handle: Option<u8>| {
            let value = [b"\xb4\xb3\x01w", &[tag][..], &members.concat(), b"\x84\x84"].concat();
            let handle = handle.map_or(Vec::new(), |handle| vec![0xb0, 1, handle]);
            client.send_bytes(
                &[b"\xb5\xb5\xb0\x01\x01\xb4\xb3\x01", &[kind][..], &value, &handle, b"\x84\x84\x84"]
                    .concat(),
            );
            client.sync();
        };
        let orders: [[&[u8]; 2]; 2] = [[ONE, TWO], [TWO, ONE]];
        for (n, members) in orders.iter().enumerate() {
            say(b'A', members, 0xb6, Some(60 + n as u8));
            say(b'M', members, 0xb6, None);
        }
        let pairs: [[&[u8]; 4]; 2] = [[ONE, b"\x80", TWO, b"\x81"], [TWO, b"\x81", ONE, b"\x80"]];
        for members in &pairs {
            say(b'M', members, 0xb7, None);
        }
        let seen: Vec<_> =
            watcher.sync().iter().map(|event| format!("{}{}", event.kind, event.body)).collect();
        let (set, dictionary) = ("[#{1, 2}]", "[{1: #f, 2: #t}]");
        let expected = [("A", set), ("M", set), ("M", set), ("M", dictionary), ("M", dictionary)];
        assert_eq!(seen, expected.map(|(kind, body)| format!("{kind}{body}")));
    });
}

/// Handles and oids are integers of any length.
#[test]
fn integers_beyond_128_bits() {
    beside_innocents(|address, _| {
        let huge = "8".repeat(2000);
        let mut numbers = vec![(1_i128 << 126).to_string(), i128::MIN.to_string(), u128::MAX.to_string()];
        // 2^128, and 60 digits.
        numbers.extend(["340282366920938463463374607431768211456".to_owned(), "9".repeat(60), huge]);
        numbers.extend(numbers.clone().iter().filter(|n| !n.starts_with('-')).map(|n| format!("-{n}")));
        for number in &numbers {
            let mut client = TextClient::tcp(address).resolved();
            let mut other = Client::tcp(address).resolved();
            client.send(&format!(
                "[[1 <A <Observe {} #:[0 {number}]> {number}>] [1 <S #:[0 -7]>]]",
                record_pattern("n", 1)
            ));
            assert_eq!(client.line(), "[[-7, <M #t>]]");
            other.send(&format!("[[1 <M <n 1>>] [1 <A <n {number}> {number}>] [1 <R {number}>]]"));
            let line = without_handles(&client.line());
            // Its own handles are the broker's, and short.
            assert_eq!(
                line,
                format!("[[{number}, <M [1]>], [{number}, <A [{number}] H>], [{number}, <R H>]]"),
                "{}",
                &number[..number.len().min(50)]
            );
            // As an entity of the broker's it is unknown.
            client.send(&format!(
                "[[{number} <M x>] [{number} <A x 77>] [{number} <S #:[0 5]>] [1 <R {number}0>]]"
            ));
            assert_eq!(client.sync_at(1), [""; 0]);
            client.send(&format!("[[1 <R {number}>]]"));
            assert_eq!(client.sync_at(1), [""; 0]);
            other.send("[[1 <M <n 2>>]]");
            other.sync();
            assert_eq!(client.sync_at(1), [""; 0], "it observes no more");
            // A second time the handle is free; twice at once it is not.
            client.send_anyway(format!("[[1 <A x {number}>]] [[1 <A y {number}>]]\n").as_bytes());
            let error = client.ends_with_error();
            assert!(error.contains("duplicate handle"), "{error}");
        }
    });
}

#[test]
fn duplicate_handles_end_the_session() {
    beside_innocents(|address, _| {
        let mut watcher = watcher(address);
        let one = "A[1]";
        for (packets, told) in [
            ("[[1 <A <w 1> 5>]] [[1 <A <w 2> 5>]]", &[one, "R"][..]),
            ("[[1 <A <w 1> 5>]] [[1 <M <w 3>>] [1 <A <w 2> 5>]]", &[one, "R"]),
            ("[[1 <A <w 1> 5>] [1 <A <w 2> 5>]]", &[]),
            ("[[1 <A <w 1> 5>] [1 <R 5>] [1 <A <w 2> 5>] [1 <A <w 2> 5>]]", &[]),
            // Over all entities, known or not; the one of the question as well.
            ("[[1 <A <w 1> 5>]] [[0 <A x 5>]]", &[one, "R"]),
            ("[[0 <A x 5>]] [[1 <A <w 1> 5>]]", &[]),
            ("[[1 <A <w 1> 1>]]", &[]),
            ("[[1 <A <w #:[0 9]> 5>] [1 <A <w 2> 5>]]", &[]),
            // That the turn would retract more does not help it.
            ("[[1 <A <w 1> 5>]] [[1 <R 5>] [1 <A <w 2> 6>] [1 <A <w 2> 6>]]", &[one, "R"]),
        ] {
            // Both sessions assert the same: each in its turn, so that it is told of twice.
            check_one_by_one(address, &mut watcher, packets, "duplicate handle", told);
        }
    });
}

/// As [`check_error`], but one session after the other.
fn check_one_by_one(address: SocketAddr, watcher: &mut Client, packets: &str, expected: &str, told: &[&str]) {
    for is_text in [false, true] {
        let error = if is_text {
            let mut client = TextClient::tcp(address).resolved();
            client.send_anyway(format!("{packets}\n").as_bytes());
            client.ends_with_error()
        } else {
            let mut client = Client::tcp(address).resolved();
            client.send_anyway(&bytes(packets));
            client.ends_with_error()
        };
        assert!(error.contains(expected), "{packets}: {error}");
        let mut seen = Vec::new();
        until("it is settled", || {
            seen.extend(watcher.sync().iter().map(|event| format!("{}{}", event.kind, event.body)));
            seen.len() >= told.len()
        });
        assert_eq!(seen, told, "{packets}");
    }
}

#[test]
fn caveats_that_are_not_valid_end_the_session() {
    beside_innocents(|address, _| {
        let mut watcher = watcher(address);
        for (caveats, expected) in [
            ("<rewrite <_> <ref 0>>", "UnboundRef"),
            ("<rewrite <bind <_>> <ref 1>>", "UnboundRef"),
            ("<rewrite <bind <_>> <ref -1>>", "UnboundRef"),
            ("<rewrite <bind <_>> <ref 340282366920938463463374607431768211456>>", "UnboundRef"),
            ("<rewrite <bind <_>> <rec a [<ref 0> <arr [<ref 7>]>]>>", "UnboundRef"),
            ("<or [<rewrite <bind <_>> <ref 0>> <rewrite <_> <ref 0>>]>", "UnboundRef"),
            ("<rewrite <bind <_>> <attenuate <ref 0> [<rewrite <_> <ref 0>>]>>", "UnboundRef"),
            ("<reject <_>> <rewrite <_> <dict {a: <ref 0>}>>", "UnboundRef"),
            ("<rewrite <not <bind <_>>> <lit 1>>", "BindingUnderNegation"),
            ("<rewrite <and [<not <arr [<bind <_>>]>>]> <lit 1>>", "BindingUnderNegation"),
        ] {
            for turn in [
                format!("[[1 <M <w 1>>] [1 <A <w #:[1 1 {caveats}]> 5>]]"),
                format!("[[1 <M <w 1>>] [1 <A <Observe <bind <_>> #:[1 1 {caveats}]> 5>]]"),
                format!("[[1 <M <w 1>>] [1 <S #:[1 1 {caveats}]>]]"),
            ] {
                check_one_by_one(address, &mut watcher, &turn, expected, &[]);
            }
        }
    });
}

#[test]
fn messages_that_would_introduce_references_end_the_session() {
    beside_innocents(|address, _| {
        let mut watcher = watcher(address);
        let expected = "transient reference";
        for packets in [
            "[[1 <M <w #:[0 7]>>]]",
            "[[1 <M <w #:[1 99]>>]]",
            "[[1 <M <w [{a: #{#:[0 7]}}]>>]]",
            "[[1 <M <x 1>>] [1 <M <w #:[0 7]>>]]",
            // Introduced too late, or no longer.
            "[[1 <M <w #:[0 7]>>] [1 <A <keep #:[0 7]> 5>]]",
            "[[1 <A <keep #:[0 7]> 5>] [1 <R 5>] [1 <M <w #:[0 7]>>]]",
            "[[1 <A <keep #:[0 7]> 5>]] [[1 <R 5>]] [[1 <M <w #:[0 7]>>]]",
        ] {
            check_one_by_one(address, &mut watcher, packets, expected, &[]);
        }
        let mut client = Client::tcp(address).resolved();
        client.send("[[1 <A <keep #:[0 7]> 5>] [1 <M <w #:[0 7]>>]]");
        client.sync();
        assert_eq!(watcher.sync(), [], "who does not hold it is not told, and goes on");
    });
}

/// Canonical bytes of a value in text.
fn value(text: &str) -> Vec<u8> {
    staunch_protocols::text::parse(text, &wire::Limits::default()).unwrap()
}

/// What the gatekeeper answers to the question for `<ref ...>`, given by its parameters, if anything.
fn ask(client: &mut Client, parameters: &[u8]) -> Option<String> {
    let turn = [
        &b"\xb5\xb5\xb0\x00\xb4\xb3\x01A\xb4\xb3\x07resolve\xb4\xb3\x03ref"[..],
        parameters,
        // #:[0 50], under handle 51.
        b"\x84\x86\xb5\xb0\x00\xb0\x01\x32\x84\x84\xb0\x01\x33\x84\x84\x84",
    ]
    .concat();
    client.send_bytes(&turn);
    let answered = client.sync_at(0).concat();
    client.send("[[0 <R 51>]]");
    let taken_back = client.sync_at(0).concat();
    assert_eq!(answered.len(), taken_back.len(), "{answered:?} {taken_back:?}");
    answered.first().map(|event| event.body.clone())
}

fn ask_for(client: &mut Client, reference: &SturdyRef) -> Option<String> {
    let mut parameters = Vec::new();
    reference.write_parameters(&mut parameters);
    ask(client, &parameters)
}

#[test]
fn sturdyrefs_that_are_forged_cut_or_too_long() {
    beside_innocents(|address, _| {
        let mut client = Client::tcp(address).resolved();
        let refused = Some("<error sturdyref-failed-validation>".to_owned());
        let good = SturdyRef::mint(&value("\"syndicate\""), b"");
        assert_eq!(ask_for(&mut client, &good).as_deref(), Some("<ok #:[0, 1]>"));
        // Signatures with one bit changed, of every other length, and of other keys.
        let with = |sig: &[u8]| SturdyRef { sig: sig.to_vec(), ..good.clone() };
        let changed = (0..128).map(|bit| {
            let mut sig = good.sig.clone();
            sig[bit / 8] ^= 1 << (bit % 8);
            sig
        });
        let cut = (0..16).map(|length| good.sig[..length].to_vec());
        let long = [1, 16, 100_000].map(|more| [&good.sig[..], &vec![0; more]].concat());
        for sig in changed.chain(cut).chain(long).chain([vec![0; 16]]) {
            assert_eq!(ask_for(&mut client, &with(&sig)), refused, "{}", sig.len());
        }
        let other_key = SturdyRef::mint(&value("\"syndicate\""), b"another");
        assert_eq!(ask_for(&mut client, &other_key), refused);
        // Caveats that were taken away, changed, or put in another order; put there without signing.
        let (w1, w2) = (value("<rewrite <bind <_>> <rec w1 [<ref 0>]>>"), value("<reject <lit 7>>"));
        let both = good.attenuate(&w1).attenuate(&w2);
        assert!(ask_for(&mut client, &both).unwrap().starts_with("<ok #:"));
        for caveats in [
            vec![],
            vec![w1.clone()],
            vec![w2.clone()],
            vec![w2.clone(), w1.clone()],
            vec![w1, w2.clone(), w2],
        ] {
            assert_eq!(ask_for(&mut client, &SturdyRef { caveats, ..both.clone() }), refused);
        }
        // Signed well, but of no use.
        for caveat in ["<rewrite <_> <ref 0>>", "<rewrite <not <bind <_>>> <lit 1>>", "<reject <_> surplus>"]
        {
            assert_eq!(ask_for(&mut client, &good.attenuate(&value(caveat))), refused, "{caveat}");
        }
        assert!(ask_for(&mut client, &good.attenuate(&value("<zork>"))).unwrap().starts_with("<ok #:"));
        // More than a capability may have: in number, and in bytes.
        let too_long = Some("<error sturdyref-caveats-too-long>".to_owned());
        let many = (0..300)
            .fold(good.clone(), |reference, n| reference.attenuate(&value(&format!("<reject <lit {n}>>"))));
        assert_eq!(ask_for(&mut client, &many), too_long);
        let long = good.attenuate(&value(&format!("<reject <lit \"{}\">>", "x".repeat(70_000))));
        assert_eq!(ask_for(&mut client, &long), too_long);
        // Of another form, and for what there is not.
        let sig = "sig: #[acowDB2/oI+6aSEC3YIxGg==]";
        for (parameters, expected) in [
            ("{}".to_owned(), Some("<error invalid>")),
            ("7".to_owned(), Some("<error invalid>")),
            ("{oid: \"syndicate\"}".to_owned(), Some("<error invalid>")),
            (format!("{{{sig}}}"), Some("<error invalid>")),
            ("{oid: \"syndicate\" sig: 7}".to_owned(), Some("<error invalid>")),
            (format!("{{oid: \"syndicate\" {sig} caveats: 7}}"), refused.as_deref()),
            (format!("{{oid: \"syndicate\" {sig} caveats: []}}"), Some("<ok #:[0, 1]>")),
            (format!("{{oid: \"syndicate\" {sig} more: 7}}"), Some("<ok #:[0, 1]>")),
            (format!("{{oid: elsewhere {sig}}}"), None),
            (format!("{{oid: [\"syndicate\"] {sig}}}"), None),
        ] {
            assert_eq!(ask(&mut client, &value(&parameters)).as_deref(), expected, "{parameters}");
        }
        client.sync();
    });
}

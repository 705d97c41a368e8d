//! Hostile text: whoever sends it ends with an Error packet in text, or waits; nobody else notices.

mod common;

use std::net::SocketAddr;

use common::bystander::beside_innocents;
use common::text::*;
use common::*;

/// Sends `nonsense` before and after resolving, and expects the session to end with an Error packet.
fn expect_error(address: SocketAddr, nonsense: &[u8], expected: &str) {
    for is_resolved in [false, true] {
        let mut client = TextClient::tcp(address);
        if is_resolved {
            client = client.resolved();
        }
        client.send_anyway(nonsense);
        client.send_anyway(b"\n");
        let error = client.ends_with_error();
        assert!(
            error.contains(expected),
            "{}: {error}",
            String::from_utf8_lossy(&nonsense[..40.min(nonsense.len())])
        );
    }
}

#[test]
fn a_million_open_brackets() {
    beside_innocents(|address, _| {
        expect_error(address, &b"[".repeat(1_000_000), "deep");
        expect_error(address, &b"<a ".repeat(1_000_000), "deep");
        expect_error(address, &b"[#{".repeat(1_000_000), "deep");
        expect_error(address, &[&b"["[..], &b"{a:".repeat(1_000_000)].concat(), "deep");
        expect_error(address, &[&b"["[..], &b"#:".repeat(1_000_000)].concat(), "deep");
        expect_error(address, &[&b"["[..], &b"@[".repeat(1_000_000)].concat(), "deep");
        expect_error(address, &[&b"[]"[..], &b"]".repeat(1_000_000)].concat(), "unexpected ']'");
    });
}

#[test]
fn tokens_without_an_end() {
    beside_innocents(|address, _| {
        for beginning in ["[\"", "['", "[#\"", "[#[", "[#x\"", "[a", "[1"] {
            let mut text = beginning.as_bytes().to_vec();
            text.resize(18 << 20, b'1');
            expect_error(address, &text, "longer than");
        }
        // Comments go on for ever without being held.
        let mut client = TextClient::tcp(address).resolved();
        client.send_bytes(b"[# ");
        for _ in 0..40 {
            client.send_bytes(&[b'#'; 1 << 20]);
        }
        client.send("\n[1 <S #:[0 5]>]]");
        assert_eq!(client.line(), "[[5, <M #t>]]");
        client.send_bytes(&b"#!\n# comment\n#\n".repeat(1_000_000));
        assert_eq!(client.sync_at(1), [""; 0]);
        client.send_bytes(&b"@annotation ".repeat(300_000));
        assert_eq!(client.sync_at(1), [""; 0]);
        client.send_anyway(&b"@annotation ".repeat(5_000_000));
        let error = client.ends_with_error();
        assert!(error.contains("tokens"), "{error}");
    });
}

#[test]
fn malformed_text() {
    beside_innocents(|address, _| {
        let cases: [(&[u8], &str); 28] = [
            (b"[\xff]", "UTF-8"),
            (b"[\"\xc3\"]", "UTF-8"),
            (b"[\"\xed\xa0\x80\"]", "UTF-8"),
            (b"[#\xc3\xa4]", "UTF-8"),
            (b"[\"\\q\"]", "escape"),
            (b"['\\\"']", "escape"),
            (b"[\"\\ud800\"]", "code point"),
            (b"[\"\\udc00\"]", "code point"),
            (b"[\"\\ud800\\u0041\"]", "code point"),
            (b"[\"\\u12g4\"]", "hexadecimal"),
            (b"[#\"\\u0041\"]", "escape"),
            (b"[#x\"0\"]", "hexadecimal"),
            (b"[#[=A]]", "base 64"),
            (b"[#xd\"0011\"]", "double"),
            (b"[#true]", "#"),
            (b"[#z]", "#"),
            (b"[#{1 +1}]", "duplicate"),
            (b"[{a: 1 'a': 2}]", "duplicate"),
            (b"[{a}]", "unexpected '}'"),
            (b"[{a: }]", "unexpected '}'"),
            (b"[a: b]", "unexpected ':'"),
            (b"<>", "label"),
            (b"<a, b>", "unexpected ','"),
            (b"[}", "unexpected '}'"),
            (b"[;", "unexpected ';'"),
            (b"[] #t ", "not a packet"),
            (b"[] 17 ", "not a packet"),
            (b"[] {}", "not a packet"),
        ];
        for (text, expected) in cases {
            expect_error(address, text, expected);
        }
        // It says where.
        let mut client = TextClient::tcp(address).resolved();
        client.send("# a second line\n[]");
        client.send_anyway(b"  [\"\xc3\xa4\", x }\n");
        let error = client.ends_with_error();
        assert!(error.contains("line 4, column 11: unexpected '}'"), "{error}");
    });
}

#[test]
fn numbers_beyond_all_bounds() {
    beside_innocents(|address, _| {
        let huge = "9".repeat(200_000);
        expect_error(address, format!("[[{huge} <M a>]]").as_bytes(), "integer");
        expect_error(address, format!("[[1 <A a -{huge}>]]").as_bytes(), "integer");
        let mut client = TextClient::tcp(address).resolved();
        // Integers of this protocol have no bound of 64 bits, nor have oids and handles.
        let big = "18446744073709551616";
        client.send(&format!("[{}]", observe(&record_pattern("n", 1), 7, 2)));
        client.send(&format!("[[{big} <M a>] [1 <A <n {big}> {big}>]]"));
        assert_eq!(without_handles(&client.line()), format!("[[7, <A [{big}] H>]]"));
        client.send(&format!("[[1 <R {big}>]]"));
        assert_eq!(without_handles(&client.line()), "[[7, <R H>]]");
        client.send(&format!("[[1 <S #:[0 -{big}]>]]"));
        assert_eq!(client.line(), format!("[[-{big}, <M #t>]]"));
        // Doubles: whatever is written is read as something.
        client.send(&format!("[[1 <M <n {}.{}e999999999>>]]", "1".repeat(100_000), "2".repeat(100_000)));
        assert_eq!(client.line(), "[[7, <M [#xd\"7ff0000000000000\"]>]]");
        client.send("[[1 <M <n 1e-999999999>>] [1 <M <n -0.0>>]]");
        assert_eq!(client.line(), "[[7, <M [0.0]>], [7, <M [-0.0]>]]");
    });
}

/// What was recorded of other sessions, in text.
const VALID: &str = r#"[[0 <A <resolve <ref {oid: "syndicate" sig: #[acowDB2/oI+6aSEC3YIxGg==]}> #:[0 0]> 1>]]
[[1 <A <Observe <group <rec h> {0: <bind <_>>, 1: <lit 7>}> #:[0 2]> 2>]]
[[1 <A <h [1 2.5 "three" #"four" five {six: #{7 8}}] 7> 3>] [1 <M <h 1 7>>] [1 <S #:[0 4]>]] # comment
@a [[1 <A <e #:[0 9] #:[1 1] #:[1 1 <reject <_>> <rewrite <bind <_>> <rec w [<ref 0>]>>]> 4>]]
[[1 <R 3>] [1 <A <h 4 7> 3>] [1 <R 3>]] #f <do <credit-flow-control 202506>>
"#;

#[test]
fn packets_cut_off_anywhere() {
    beside_innocents(|address, _| {
        for cut in 0..=VALID.len() {
            for _ in 0..2 {
                let mut client = TextClient::tcp(address);
                client.send_bytes(&VALID.as_bytes()[..cut]);
                if cut % 2 == 0 {
                    client.finish_anyway();
                    let rest = client.rest();
                    assert!(!rest.iter().any(|line| line.starts_with("<error")), "{cut}: {rest:?}");
                }
            }
        }
    });
}

/// Each byte in turn is replaced by those that mean most, dropped, and doubled.
#[test]
fn packets_changed_at_every_offset() {
    beside_innocents(|address, _| {
        let all = VALID.as_bytes();
        for at in 0..all.len() {
            for text in common::changed_at(all, at, b"[]<>{}#:\"'\\@ 0\n\x00\x80\xb5") {
                let mut client = TextClient::tcp(address);
                client.send_anyway(&text);
                client.finish_anyway();
                client.drain();
            }
        }
    });
}

#[test]
fn random_text() {
    beside_innocents(|address, _| {
        const PIECES: [&str; 24] = [
            "[", "]", "<", ">", "{", "}", "#{", "#:", "[0 7]", "[1 1]", "a", "M", "A", "R", "S", "1", "-7",
            "2.5", "\"x\"", "#f", "'", "@", ":", "\\",
        ];
        let mut random = Random::new("random text");
        for n in 0..2000 {
            let mut client = TextClient::tcp(address);
            if n % 2 == 0 {
                client = client.resolved();
            }
            let count = 1 + random.below(200);
            let pieces = (0..count).map(|_| PIECES[random.below(24) as usize].to_owned() + " ");
            client.send_anyway(("[".to_owned() + &pieces.collect::<String>()).as_bytes());
            client.finish_anyway();
            client.drain();
        }
    });
}

/// What was recorded, mutated at a few places at once.
#[test]
fn mutations() {
    beside_innocents(|address, _| {
        let mut random = Random::new("mutations of text");
        let resolved = VALID.find('\n').unwrap();
        for n in 0..2000 {
            let mut text = VALID.as_bytes().to_vec();
            let from = if n % 2 == 0 { 0 } else { resolved };
            for _ in 0..=random.below(3) {
                let at = from + random.below((text.len() - from) as u64) as usize;
                match random.below(4) {
                    0 => text[at] = random.next() as u8,
                    1 => text[at] ^= 1 << random.below(8),
                    2 => drop(text.remove(at)),
                    _ => text.insert(at, b"[]<>{}#:\"'\\@\x80\xb5"[random.below(14) as usize]),
                }
            }
            let mut client = TextClient::tcp(address);
            client.send_anyway(&text);
        }
    });
}

//! Bytes that mean harm: cut, changed, nested without end, declared longer than the world.

mod common;

use common::tree::{Noise, Tree};
use common::{scanned, unhex, vectors};
use proptest::prelude::*;
use staunch_protocols::packet::{Event, Packet, WireRef};
use staunch_protocols::text;
use staunch_protocols::wire::{
    Limits, Progress, ScanError, ScanErrorKind, Scanner, View, canonicalize, sort_key, tag,
};

/// Everything that is ever done with bytes a peer sent; the verdict must not depend on the pieces.
fn digest(bytes: &[u8], limits: Limits) -> Result<Progress, ScanError> {
    let mut whole = Scanner::new(limits);
    let verdict = whole.scan(bytes);
    let mut bytewise = Scanner::new(limits);
    let mut last = bytewise.scan(&[]);
    for n in 1..=bytes.len() {
        if !matches!(last, Ok(Progress::Incomplete(_))) {
            break;
        }
        last = bytewise.scan(&bytes[..n]);
    }
    assert_eq!(verdict, last, "{bytes:02x?}");
    let Ok(Progress::Complete(length)) = verdict else { return verdict };
    let bytes = &bytes[..length];
    let mut out = Vec::new();
    if canonicalize(whole.view(bytes), &mut out).is_ok() {
        let mut again = Scanner::new(Limits { packet_bytes_max: u32::MAX, ..limits });
        assert_eq!(again.scan(&out), Ok(Progress::Complete(out.len())), "{bytes:02x?}");
        assert!(again.is_canonical(), "{bytes:02x?}");
        read_packet(again.view(&out));
        sort_key(again.view(&out), &mut Vec::new());
    }
    text::write(whole.view(bytes), &mut String::new(), 200);
    verdict
}

fn read_packet(view: View<'_>) {
    let references = |value: View<'_>| {
        for token in value.token()..value.token() + value.tokens() {
            if value.at(token).tag() == tag::EMBEDDED {
                let _ = WireRef::read(value.at(token));
            }
        }
    };
    if let Ok(Packet::Turn(turn)) = Packet::read(view) {
        for event in turn.events().map_while(Result::ok) {
            match event.event {
                Event::Assert { assertion, .. } => references(assertion),
                Event::Message { body } => references(body),
                Event::Sync { peer } => references(peer),
                Event::Retract { .. } => {}
            }
        }
    }
}

/// Packets as recorded from clients.
fn packets() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let mut todo = vec![serde_json::Value::Array(vectors("transcripts.json"))];
    while let Some(value) = todo.pop() {
        match value {
            serde_json::Value::Array(items) => todo.extend(items),
            serde_json::Value::Object(map) => {
                if let Some(hex) = map.get("send_hex").and_then(|v| v.as_str()) {
                    all.push(unhex(hex));
                }
                todo.extend(map.into_iter().map(|(_, v)| v));
            }
            _ => {}
        }
    }
    all.sort();
    all.dedup();
    all.retain(|packet| packet.len() < 400);
    assert!(all.len() > 20, "{}", all.len());
    all
}

#[test]
fn a_packet_cut_anywhere_is_incomplete() {
    for packet in packets() {
        let first = match Scanner::new(Limits::default()).scan(&packet) {
            Ok(Progress::Complete(length)) => &packet[..length],
            _ => continue,
        };
        for cut in 0..first.len() {
            match digest(&first[..cut], Limits::default()) {
                Ok(Progress::Incomplete(more)) => assert!(more > cut && more <= first.len(), "{packet:02x?}"),
                other => panic!("{other:?}: {packet:02x?}"),
            }
        }
    }
}

#[test]
fn a_packet_changed_anywhere_does_no_harm() {
    let small = Limits { packet_bytes_max: 64, depth_max: 6, tokens_max: 24, integer_bytes_max: 2 };
    for packet in packets() {
        let mut changed = packet.clone();
        for at in 0..packet.len() {
            let original = packet[at];
            for byte in
                [0, 1, 0x7f, 0x80, 0x84, 0x85, 0x86, 0x87, 0xb0, 0xb1, 0xb4, 0xb6, 0xb7, 0xff, original ^ 1]
            {
                changed[at] = byte;
                let _ = digest(&changed, Limits::default());
                let _ = digest(&changed, small);
            }
            changed[at] = original;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn values_changed_in_a_few_places_do_no_harm(tree in Tree::any(), mut noise in Noise::any(300), changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3), 1..4)) {
        let mut bytes = tree.write(&mut noise);
        for (at, byte, how) in changes {
            let at = at.index(bytes.len());
            match how {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => { bytes.remove(at); }
            }
            if bytes.is_empty() {
                break;
            }
        }
        let _ = digest(&bytes, Limits::default());
    }

    #[test]
    fn any_bytes_do_no_harm(bytes in proptest::collection::vec(prop_oneof![0x80u8..0x88, 0xb0u8..0xb8, 0u8..4, any::<u8>()], 0..60)) {
        let _ = digest(&bytes, Limits::default());
    }

    #[test]
    fn any_text_does_no_harm(text in r#"[-+0-9a-c.eE"'#:@<>{}\[\], \\\nuxdtf=é]{0,40}"#) {
        if let Ok(bytes) = text::parse(&text, &Limits::default()) {
            prop_assert!(scanned(&bytes).is_canonical());
            // The other implementation wants a value after each comment.
            if !["# ", "#!", "#\n"].iter().any(|comment| text.contains(comment)) {
                prop_assert_eq!(common::parse_text(&(text.clone() + "\n")), bytes, "{}", text);
            }
        }
        let _ = text::parse_all(&text, &Limits { packet_bytes_max: 20, depth_max: 3, tokens_max: 9, integer_bytes_max: 1 });
    }
}

/// Runs something on a stack too small for recursion over what follows.
fn on_a_small_stack(f: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new().stack_size(128 << 10).spawn(f).unwrap().join().unwrap();
}

#[test]
fn a_million_levels_are_refused_and_the_deepest_allowed_need_no_stack() {
    on_a_small_stack(|| {
        let openings: [&[u8]; 8] =
            [b"\xb4", b"\xb5", b"\xb6", b"\xb7", b"\x85", b"\x86", b"\x85\xb5", b"\xb7\xb4\x86\x85\xb6"];
        for opening in openings {
            let bytes = opening.repeat(1_000_000 / opening.len());
            for depth_max in [256, u16::MAX] {
                let mut scanner = Scanner::new(Limits { depth_max, ..Limits::default() });
                let expected = ScanError { at: depth_max as usize, kind: ScanErrorKind::TooDeep(depth_max) };
                assert_eq!(scanner.scan(&bytes), Err(expected));
            }
        }
        for (text, limit) in [("[", 256), ("#:", 256), ("@", 256), ("{<#{", 256)] {
            let error = text::parse(&text.repeat(1_000_000), &Limits::default()).unwrap_err();
            assert_eq!(error.what, text::TextErrorKind::TooDeep(limit));
        }
        let deep = Limits { depth_max: u16::MAX, tokens_max: u32::MAX, ..Limits::default() };
        for (n, chars_max) in [(20_000, 2000), (500, usize::MAX)] {
            for bytes in towers(n) {
                let mut scanner = Scanner::new(deep);
                assert_eq!(scanner.scan(&bytes), Ok(Progress::Complete(bytes.len())));
                let mut out = Vec::new();
                canonicalize(scanner.view(&bytes), &mut out).unwrap();
                let mut canonical = Scanner::new(deep);
                assert_eq!(canonical.scan(&out), Ok(Progress::Complete(out.len())));
                sort_key(canonical.view(&out), &mut Vec::new());
                text::write(scanner.view(&bytes), &mut String::new(), chars_max);
                let mut written = String::new();
                text::write(canonical.view(&out), &mut written, chars_max);
                if chars_max == usize::MAX {
                    assert_eq!(text::parse(&written, &deep), Ok(out));
                }
            }
        }
        for deep_text in
            ["[".repeat(60_000) + &"]".repeat(60_000), "{a:#{<".repeat(20_000) + "b" + &">}}".repeat(20_000)]
        {
            assert!(text::parse(&deep_text, &deep).is_ok());
        }
    });
}

/// Values nested `n` levels deep and deeper.
fn towers(n: usize) -> Vec<Vec<u8>> {
    let closed =
        |opening: &[u8], inner: &[u8], end: &[u8]| [opening.repeat(n), inner.into(), end.repeat(n)].concat();
    vec![
        closed(b"\xb5", b"", b"\x84"),
        closed(b"\xb4", b"\x80", b"\x84"),
        closed(b"\xb6", b"", b"\x84"),
        closed(b"\xb7\x80", b"\x80", b"\x84"),
        closed(b"\x86", b"\x80", b""),
        closed(b"\x85\x81", b"\x80", b""),
        closed(b"\x85", b"\x80", b"\x81"),
        closed(b"\xb6\x81\x86\xb5", b"\x80", b"\x84\x80\x84"),
    ]
}

#[test]
fn absurd_lengths_are_refused_without_allocation() {
    let longest = b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01";
    let tebibyte = b"\x80\x80\x80\x80\x80\x20";
    for first in [0xb0, 0xb1, 0xb2, 0xb3, 0x87] {
        for length in [&longest[..], &tebibyte[..]] {
            let bytes = [&[0xb5, first], length, &[0; 100]].concat();
            for limits in [Limits::default(), Limits { packet_bytes_max: u32::MAX, ..Limits::default() }] {
                let error = digest(&bytes, limits).unwrap_err();
                assert_eq!((error.at, error.kind), (1, ScanErrorKind::TooLong(limits.packet_bytes_max)));
            }
        }
        // 2^64, and 2^64 - 1 in an overlong form; padding without end.
        for length in [&b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x02"[..], &[0x80; 80], &[0xff; 80]] {
            let error = digest(&[&[first], length].concat(), Limits::default()).unwrap_err();
            assert_eq!(error.kind, ScanErrorKind::LengthTooLong);
        }
        let longest = [&longest[..9], &[0x81, 0x80, 0x00]].concat();
        assert!(matches!(
            digest(&[&[first], &longest[..]].concat(), Limits::default()).unwrap_err().kind,
            ScanErrorKind::TooLong(_)
        ));
    }
    // A length within the limit waits for its bytes; the scanner holds nothing meanwhile.
    let mut scanner = Scanner::new(Limits::default());
    assert_eq!(scanner.scan(b"\xb2\x80\x80\x80\x04"), Ok(Progress::Incomplete(5 + (8 << 20))));
    assert!(scanner.tape().heap_bytes() <= 512, "more than the tape that every value gets");
}

/// What may be read again with each piece: the head of one atom.
const HEADER_BYTES_MAX: usize = 66;

#[test]
fn a_large_packet_in_small_pieces_is_read_once() {
    let record = b"\xb4\xb3\x03foo\xb6\xb0\x01\x01\xb1\x01a\x84\x84";
    let mut many = [&[0xb5][..], &record.repeat((4 << 20) / record.len()), &[0x84]].concat();
    let mut long = b"\xb5\xb2\x80\x80\x80\x02".to_vec();
    long.resize(long.len() + (4 << 20), b'x');
    long.push(0x84);
    // Elements that are equal but for their ends, at each of many levels.
    let mut set = Vec::new();
    for level in 0..200u32 {
        let filler = [&b"\xb2\x84\x50"[..], &level.to_be_bytes(), &[b'x'; 10_240]].concat();
        set = [&[0xb6][..], &filler, &filler[..filler.len() - 1], b"y", &set, &[0x84]].concat();
    }
    many.extend_from_slice(&[0; 64]);
    for bytes in [many, long, set] {
        let limits = Limits { tokens_max: 16 << 20, ..Limits::default() };
        let mut scanner = Scanner::new(limits);
        let mut again = 0;
        let mut end = 0;
        loop {
            end = (end + 64).min(bytes.len());
            let before = scanner.position();
            let tokens = scanner.tape().heap_bytes();
            match scanner.scan(&bytes[..end]).unwrap() {
                Progress::Complete(length) => {
                    assert_eq!(scanner.position(), length);
                    break;
                }
                Progress::Incomplete(needed) => {
                    assert!(needed > end);
                    assert!(scanner.position() >= before && scanner.position() <= end);
                    assert!(scanner.tape().heap_bytes() >= tokens);
                    // What was not taken is an atom that is not complete yet: of it only the head was read.
                    again += (end - scanner.position()).min(HEADER_BYTES_MAX);
                }
            }
        }
        assert!(again <= (bytes.len() / 64 + 1) * HEADER_BYTES_MAX);
    }
}

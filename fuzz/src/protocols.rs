//! Bytes and text: each function takes any bytes, and panics if something that must hold does not. The fuzzers run them, and
//! so do the tests, on everything that was ever found.
#![allow(dead_code, unreachable_pub, missing_docs)]

use staunch_protocols::caveat::{Caveats, Outcome, Scratch};
use staunch_protocols::packet::{Event, Packet, WireRef};
use staunch_protocols::sturdy::SturdyRef;
use staunch_protocols::text::{self, StreamReader, TextError};
use staunch_protocols::wire::{
    Limits, Progress, ScanError, Scanner, View, canonicalize, encode, sort_key, tag,
};

/// A target and its name.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 5] =
    [("wire", wire), ("packet", packet), ("caveat", caveat), ("sturdy", sturdy), ("text", text)];

/// Limits that one byte chooses: mostly ordinary ones.
fn limits(choice: u8) -> Limits {
    match choice {
        0..200 => Limits::default(),
        200..230 => Limits { packet_bytes_max: 32, ..Limits::default() },
        230..245 => Limits { depth_max: 3, tokens_max: 12, ..Limits::default() },
        _ => Limits { integer_bytes_max: 2, packet_bytes_max: choice as u32 - 230, ..Limits::default() },
    }
}

/// The first value in `bytes` in canonical form, and the rest.
fn canonical(bytes: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut scanner = Scanner::new(Limits::default());
    let Ok(Progress::Complete(length)) = scanner.scan(bytes) else { return None };
    let mut out = Vec::new();
    canonicalize(scanner.view(bytes), &mut out).ok()?;
    Some((out, &bytes[length..]))
}

fn scan_canonical(bytes: &[u8]) -> Scanner {
    let mut scanner = Scanner::new(Limits::default());
    assert_eq!(scanner.scan(bytes), Ok(Progress::Complete(bytes.len())));
    assert!(scanner.is_canonical());
    scanner
}

fn scan_in_pieces(bytes: &[u8], step: usize, limits: Limits) -> (Result<Progress, ScanError>, Scanner) {
    let mut scanner = Scanner::new(limits);
    let mut end = 0;
    loop {
        end = (end + step).min(bytes.len());
        let before = scanner.position();
        let verdict = scanner.scan(&bytes[..end]);
        assert!(scanner.position() >= before && scanner.position() <= end);
        match verdict {
            Ok(Progress::Incomplete(needed)) => assert!(needed > end),
            _ => return (verdict, scanner),
        }
        if end == bytes.len() {
            return (verdict, scanner);
        }
    }
}

/// Scanning whole and in pieces, canonical form, order, and printing. The first byte chooses limits and pieces.
pub fn wire(data: &[u8]) {
    let [choice, bytes @ ..] = data else { return };
    let limits = limits(*choice);
    let mut whole = Scanner::new(limits);
    let verdict = whole.scan(bytes);
    let (in_pieces, pieces) = scan_in_pieces(bytes, 1 + *choice as usize % 7, limits);
    assert_eq!(verdict, in_pieces);
    let Ok(Progress::Complete(length)) = verdict else { return };
    assert!(length <= limits.packet_bytes_max as usize);
    assert_eq!(whole.tape(), pieces.tape());
    assert_eq!(whole.is_canonical(), pieces.is_canonical());
    let view = whole.view(bytes);
    assert_eq!(view.span(), &bytes[..length]);
    let mut out = Vec::new();
    if canonicalize(view, &mut out).is_err() {
        assert!(!whole.is_canonical());
        return;
    }
    assert_eq!(whole.is_canonical(), out == bytes[..length]);
    let again = scan_canonical(&out);
    let canonical = again.view(&out);
    let mut twice = Vec::new();
    canonicalize(canonical, &mut twice).unwrap();
    assert_eq!(out, twice);
    sort_key(canonical, &mut Vec::new());
    walk(canonical);
    let mut short = String::new();
    text::write(view, &mut short, 50);
    assert!(short.chars().count() <= 50);
    if out.len() < 4096 {
        let mut written = String::new();
        text::write(canonical, &mut written, usize::MAX);
        assert_eq!(text::parse(&written, &Limits::default()), Ok(out));
    }
}

/// Uses every accessor on every part of a value.
fn walk(value: View<'_>) {
    for token in value.token()..value.token() + value.tokens() {
        let at = value.at(token);
        if at.tag() == tag::END {
            continue;
        }
        assert!(at.start() < at.end());
        let _ = (at.as_i64(), at.as_string(), at.as_symbol(), at.as_bytes(), at.embedded().is_some());
        let _ = (at.get(at.span()).is_some(), at.is_record("a", 1), at.is_symbol("a"), at.index(2).is_some());
        let inner: usize = at.children().map(|child| child.span().len()).sum();
        match at.tag() {
            tag::RECORD..=tag::DICTIONARY => assert_eq!(inner + 2, at.span().len()),
            _ => assert_eq!(inner, 0),
        }
        if let Some(int) = at.as_int() {
            let mut out = Vec::new();
            int.write(&mut out);
            assert_eq!(out, at.span());
        }
    }
}

/// A stream of packets, read as a session reads it.
pub fn packet(data: &[u8]) {
    let mut rest = data;
    while let Some((packet, after)) = canonical(rest) {
        rest = after;
        let scanner = scan_canonical(&packet);
        match Packet::read(scanner.view(&packet)) {
            Ok(Packet::Turn(turn)) => {
                for event in turn.events().map_while(Result::ok) {
                    assert!(event.oid.as_int().is_some());
                    match event.event {
                        Event::Assert { assertion: value, .. } | Event::Message { body: value } => {
                            references(value);
                        }
                        Event::Sync { peer } => references(peer),
                        Event::Retract { handle } => assert!(handle.as_int().is_some()),
                    }
                }
            }
            Ok(Packet::Error { detail, .. }) => references(detail),
            Ok(Packet::Extension(record)) => assert!(record.label().is_some()),
            Ok(Packet::Nop) | Err(_) => {}
        }
    }
}

fn references(value: View<'_>) {
    for token in value.token()..value.token() + value.tokens() {
        let at = value.at(token);
        if at.tag() == tag::EMBEDDED
            && let Ok(WireRef::Yours(_, caveats)) = WireRef::read(at)
        {
            let _ = Caveats::compile(caveats);
        }
    }
}

/// A list of caveats, and then values to send through them.
pub fn caveat(data: &[u8]) {
    let Some((list, mut rest)) = canonical(data) else { return };
    let scanner = scan_canonical(&list);
    let view = scanner.view(&list);
    let Ok(caveats) = Caveats::compile(view.children()) else { return };
    let one_by_one = view.children().fold(Caveats::default(), |all, caveat| {
        all.and_then(&Caveats::compile(std::iter::once(caveat)).unwrap()).unwrap()
    });
    assert_eq!(caveats, one_by_one);
    if view.tag() == tag::SEQUENCE {
        assert_eq!(caveats.source(), list);
    }
    let mut scratch = Scratch::new(1 << 12);
    while let Some((value, after)) = canonical(rest) {
        rest = after;
        let scanner = scan_canonical(&value);
        let mut run = |caveats: &Caveats| {
            let outcome = caveats.apply(scanner.view(&value), &mut scratch, &mut |cap, list| {
                assert_eq!(cap[0], tag::EMBEDDED);
                scan_canonical(&list.source());
                (cap.len() != 4).then(|| {
                    let mut out = vec![tag::EMBEDDED];
                    encode::bytes(&mut out, &list.source().len().to_be_bytes());
                    out
                })
            });
            match outcome {
                Outcome::Rewritten => {
                    scan_canonical(scratch.output());
                    assert_eq!(scratch.view().span(), scratch.output());
                    Some(scratch.output().to_vec())
                }
                Outcome::Unchanged => Some(value.clone()),
                Outcome::Dropped => None,
            }
        };
        let output = run(&caveats);
        assert_eq!(output, run(&one_by_one));
        if caveats.is_empty() {
            assert_eq!(output, Some(value.clone()));
        }
    }
}

/// The parameters of a sturdyref.
pub fn sturdy(data: &[u8]) {
    let Some((parameters, _)) = canonical(data) else { return };
    let scanner = scan_canonical(&parameters);
    let Ok(sturdy) = SturdyRef::read_parameters(scanner.view(&parameters)) else { return };
    sturdy.compile().unwrap();
    sturdy.verify(b"");
    let mut written = Vec::new();
    sturdy.write_parameters(&mut written);
    let again = SturdyRef::read_parameters(scan_canonical(&written).view(&written));
    assert_eq!(again.as_ref(), Ok(&sturdy));
    let mut minted = SturdyRef::mint(&sturdy.oid, b"key");
    for caveat in &sturdy.caveats {
        minted = minted.attenuate(caveat);
    }
    assert!(minted.verify(b"key"));
}

/// Text.
pub fn text(data: &[u8]) {
    let Ok(source) = std::str::from_utf8(data) else { return };
    let small = Limits { packet_bytes_max: 40, depth_max: 4, tokens_max: 12, integer_bytes_max: 3 };
    let _ = text::parse(source, &small);
    let parsed = text::parse(source, &Limits::default());
    let all = text::parse_all(source, &Limits::default());
    if let Ok(bytes) = &parsed {
        let scanner = scan_canonical(bytes);
        let all = all.as_ref().unwrap();
        assert_eq!(all[1..all.len() - 1], bytes[..]);
        let mut written = String::new();
        text::write(scanner.view(bytes), &mut written, usize::MAX);
        assert_eq!(text::parse(&written, &Limits::default()).as_ref(), Ok(bytes));
    }
    if let Ok(all) = &all {
        scan_canonical(all);
        for step in [1, 2, 7, source.len().max(1)] {
            let values = text_in_pieces(source, step).unwrap();
            assert!(values.is_none_or(|values| values == all[1..all.len() - 1]), "{step}");
        }
    } else {
        // Whatever is wrong with it, it may be cut anywhere.
        let whole = text_in_pieces(source, source.len().max(1));
        assert_eq!(text_in_pieces(source, 1), whole);
    }
}

/// All values of a text that comes in pieces, one after the other; `None` if there is a symbol that is taken for none.
fn text_in_pieces(source: &str, step: usize) -> Result<Option<Vec<u8>>, TextError> {
    let mut reader = StreamReader::new(Limits::default());
    let mut values = Vec::new();
    // A bare symbol is complete when something follows it.
    for mut piece in source.as_bytes().chunks(step).chain([&b"\n"[..]]) {
        while !piece.is_empty() {
            let (read, value) = reader.read(piece)?;
            values.extend_from_slice(value.unwrap_or_default());
            piece = &piece[read..];
            if value.is_none() && !piece.is_empty() {
                assert!(reader.is_idle() && piece[0] >= 0x80);
                return Ok(None);
            }
        }
    }
    Ok(Some(values))
}

//! Scanner, views, canonical form and order against plain trees and against the other implementation.

mod common;

use common::tree::{Noise, Tree};
use common::{canonical, scanned};
use proptest::prelude::*;
use staunch_protocols::text;
use staunch_protocols::wire::{Limits, Prefix, Progress, ScanError, Scanner, View, sort_key};

/// Scans what arrives in pieces that end at these places, and at the end.
fn scan_in_pieces(
    bytes: &[u8],
    mut cuts: Vec<usize>,
    limits: Limits,
) -> (Result<Progress, ScanError>, Scanner) {
    let mut scanner = Scanner::new(limits);
    cuts.push(bytes.len());
    cuts.sort_unstable();
    let mut last = Ok(Progress::Incomplete(1));
    for cut in cuts {
        let before = scanner.position();
        last = scanner.scan(&bytes[..cut]);
        assert!(scanner.position() >= before);
        if !matches!(last, Ok(Progress::Incomplete(_))) {
            break;
        }
    }
    (last, scanner)
}

fn key_of(tree: &Tree) -> Vec<u8> {
    let bytes = tree.canonical();
    let mut key = Vec::new();
    sort_key(scanned(&bytes).view(&bytes), &mut key);
    key
}

/// Every way to reach the parts of a value, against the tree.
fn check_view(view: View<'_>, tree: &Tree) {
    assert_eq!(view.span(), tree.canonical());
    assert_eq!(view.is_symbol("a"), *tree == Tree::Symbol("a".into()));
    let small = if let Tree::Int(n) = tree { i64::try_from(*n).ok() } else { None };
    assert_eq!(view.as_i64(), small);
    assert_eq!(view.as_int().is_some(), matches!(tree, Tree::Int(_)));
    if let Some(int) = view.as_int() {
        let mut out = Vec::new();
        int.write(&mut out);
        assert_eq!(out, view.span());
    }
    assert_eq!(view.as_string(), if let Tree::String(s) = tree { Some(s.as_str()) } else { None });
    assert_eq!(view.as_symbol(), if let Tree::Symbol(s) = tree { Some(s.as_str()) } else { None });
    assert_eq!(view.as_bytes(), if let Tree::Bytes(b) = tree { Some(&b[..]) } else { None });
    let (label, items): (Option<&Tree>, &[Tree]) = match tree {
        Tree::Record(label, fields) => (Some(label), fields),
        Tree::Sequence(items) => (None, items),
        _ => (None, &[]),
    };
    assert_eq!(view.label().map(View::span), label.map(Tree::canonical).as_deref());
    for (index, item) in items.iter().enumerate() {
        check_view(view.index(index as u32).unwrap(), item);
    }
    assert!(view.index(items.len() as u32).is_none());
    let fields: Vec<&[u8]> = view.fields().map(View::span).collect();
    let expected = if label.is_some() { items } else { &[] };
    assert_eq!(fields, expected.iter().map(Tree::canonical).collect::<Vec<_>>());
    if let Tree::Dictionary(entries) = tree {
        for (key, value) in entries {
            check_view(view.get(&key.canonical()).unwrap(), value);
        }
        assert!(view.get(b"\xb3\x07no such").is_none());
    } else {
        assert!(view.get(b"\xb0\x00").is_none());
    }
    match tree {
        Tree::Embedded(inner) => check_view(view.embedded().unwrap(), inner),
        _ => assert!(view.embedded().is_none()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn pieces_make_no_difference(tree in Tree::any(), mut noise in Noise::any(300), cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..20)) {
        let bytes = tree.write(&mut noise);
        let cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        let whole = scanned(&bytes);
        let (result, pieces) = scan_in_pieces(&bytes, cuts, Limits::default());
        prop_assert_eq!(result, Ok(Progress::Complete(bytes.len())));
        prop_assert_eq!(pieces.tape(), whole.tape());
        prop_assert_eq!(pieces.is_canonical(), whole.is_canonical());
        prop_assert_eq!(pieces.embedded(), whole.embedded());
        let (result, pieces) = scan_in_pieces(&bytes, (0..bytes.len()).collect(), Limits::default());
        prop_assert_eq!(result, Ok(Progress::Complete(bytes.len())));
        prop_assert_eq!(pieces.tape(), whole.tape());
    }

    #[test]
    fn limits_do_not_depend_on_pieces(tree in Tree::any(), mut noise in Noise::any(300), bytes_max in 0u32..60, depth_max in 0u16..8, tokens_max in 0u32..30, integer_bytes_max in 0u32..20) {
        let bytes = tree.write(&mut noise);
        let limits = Limits { packet_bytes_max: bytes_max, depth_max, tokens_max, integer_bytes_max };
        let whole = Scanner::new(limits).scan(&bytes);
        prop_assert_eq!(scan_in_pieces(&bytes, (0..bytes.len()).collect(), limits).0, whole);
        if let Ok(Progress::Complete(n)) = whole {
            prop_assert!(n <= bytes_max as usize);
        } else {
            prop_assert!(whole.is_err());
        }
    }

    #[test]
    fn canonical_form_is_the_same_for_all_ways_to_write_a_value(tree in Tree::any(), mut noise in Noise::any(300)) {
        let bytes = tree.write(&mut noise);
        let expected = tree.canonical();
        prop_assert_eq!(canonical(&bytes), Ok(expected.clone()));
        prop_assert_eq!(canonical(&expected), Ok(expected.clone()));
        let other = preserves::read_iovalue_packed(&bytes, true).unwrap();
        prop_assert_eq!(preserves::write_iovalue_packed(&other, false).unwrap(), expected);
    }

    #[test]
    fn duplicates_are_refused_however_they_are_written(tree in Tree::any(), mut noise in Noise::any(300), others in proptest::collection::vec(Tree::any(), 0..4), is_set: bool) {
        let mut items: Vec<Tree> = others;
        items.retain(|other| *other != tree);
        items.sort();
        items.dedup();
        items.insert(noise.below(items.len() + 1), tree.clone());
        items.insert(noise.below(items.len() + 1), tree);
        let mut bytes = vec![if is_set { 0xb6 } else { 0xb7 }];
        for item in items {
            bytes.extend(item.write(&mut noise));
            bytes.extend((!is_set).then_some(0x80));
        }
        bytes.push(0x84);
        prop_assert!(canonical(&bytes).unwrap_err().contains("duplicate"));
    }

    #[test]
    fn views_show_the_tree(tree in Tree::any()) {
        let bytes = tree.canonical();
        let scanner = scanned(&bytes);
        prop_assert!(scanner.is_canonical());
        prop_assert_eq!(Tree::read(scanner.view(&bytes)), tree.clone());
        check_view(scanner.view(&bytes), &tree);
        let embedded = bytes.len() - tree_without_embedded(&tree);
        prop_assert_eq!(scanner.embedded() as usize, embedded);
    }

    #[test]
    fn sort_keys_compare_like_values(mut noise in Noise::any(400)) {
        let mut trees: Vec<Tree> = (0..6).map(|_| Tree::generate(&mut noise, 3)).collect();
        // Neighbours: values that differ in one place deep inside.
        trees.push(Tree::Sequence(vec![trees[0].clone(), trees[1].clone()]));
        trees.push(Tree::Sequence(vec![trees[0].clone(), trees[2].clone()]));
        trees.push(common::tree::set(trees[..3].to_vec()));
        trees.push(common::tree::set(trees[1..4].to_vec()));
        let read = |tree: &Tree| preserves::read_iovalue_packed(&tree.canonical(), false).unwrap();
        for a in &trees {
            for b in &trees {
                let expected = a.cmp(b);
                prop_assert_eq!(key_of(a).cmp(&key_of(b)), expected, "{:?} {:?}", a, b);
                prop_assert_eq!(read(a).cmp(&read(b)), expected, "{:?} {:?}", a, b);
            }
        }
    }

    #[test]
    fn text_reads_back_and_is_what_the_other_implementation_writes(tree in Tree::any()) {
        let bytes = tree.canonical();
        let mut written = String::new();
        text::write(scanned(&bytes).view(&bytes), &mut written, usize::MAX);
        prop_assert_eq!(text::parse(&written, &Limits::default()), Ok(bytes.clone()), "{}", written);
        prop_assert_eq!(common::parse_text(&written), bytes.clone(), "{}", written);
        let other = preserves::read_iovalue_packed(&bytes, false).unwrap();
        let theirs = preserves::write_iovalue_text(&other, false).unwrap();
        prop_assert_eq!(written.replace("\\u0000", "\0"), theirs);
    }
}

/// Length of the canonical bytes less one for each embedded value.
fn tree_without_embedded(tree: &Tree) -> usize {
    let sum = |items: &[Tree]| items.iter().map(tree_without_embedded).sum::<usize>();
    match tree {
        Tree::Embedded(inner) => tree_without_embedded(inner),
        Tree::Record(label, fields) => 2 + tree_without_embedded(label) + sum(fields),
        Tree::Sequence(items) | Tree::Set(items) => 2 + sum(items),
        Tree::Dictionary(entries) => {
            2 + entries
                .iter()
                .map(|(k, v)| tree_without_embedded(k) + tree_without_embedded(v))
                .sum::<usize>()
        }
        atom => atom.canonical().len(),
    }
}

/// A prefix that has been scanned before changes nothing in what the scanner finds.
#[test]
fn known_prefixes_change_nothing() {
    let packet =
        b"\xb5\xb5\xb0\x01\x01\xb4\xb3\x01M\xb4\xb3\x04Says\xb1\x08producer\xb2\x03abc\x84\x84\x84\x84";
    let cuts = [1, 2, 5, 6, 9, 10, 16, 26, 31, 32];
    for cut in cuts {
        let prefix = Prefix::new(&packet[..cut], Limits::default()).expect("whole tokens");
        let mut plain = Scanner::new(Limits::default());
        assert_eq!(plain.scan(packet), Ok(Progress::Complete(packet.len())));
        let mut scanner = Scanner::new(Limits::default());
        assert!(!scanner.begin(&prefix, packet), "the scanner has no memory yet");
        assert_eq!(scanner.scan(packet), Ok(Progress::Complete(packet.len())));
        for arrived in cut..packet.len() {
            scanner.reset();
            assert!(scanner.begin(&prefix, &packet[..arrived]), "cut at {cut}, {arrived} arrived");
            assert!(!scanner.begin(&prefix, packet), "it has begun");
            assert!(matches!(scanner.scan(&packet[..arrived]), Ok(Progress::Incomplete(_))));
            assert_eq!(scanner.scan(packet), Ok(Progress::Complete(packet.len())));
            assert_eq!(scanner.tape(), plain.tape());
        }
        for other in 0..cut {
            let mut wrong = packet.to_vec();
            wrong[other] ^= 0x40;
            scanner.reset();
            assert!(!scanner.begin(&prefix, &wrong), "cut at {cut}, byte {other} differs");
        }
    }
    for not_whole in [&packet[..3], &packet[..8], &packet[..packet.len()], b"", b"\xb7\xb0\x00", b"\x86"] {
        assert!(Prefix::new(not_whole, Limits::default()).is_none() || not_whole.is_empty());
    }
}

/// `[[1 <M `: so many tokens, and so many compounds left open.
const MESSAGE: &[u8] = b"\xb5\xb5\xb0\x01\x01\xb4\xb3\x01M";
const MESSAGE_TOKENS: u32 = 5;
const MESSAGE_DEPTH: u32 = 3;

/// The fast way within a prefix finds what the general way finds, or leaves it to that.
fn within_agrees(scanner: &mut Scanner, prefix: &Prefix, bytes: &[u8]) {
    let mut plain = Scanner::new(*scanner.limits());
    let verdict = plain.scan(bytes);
    scanner.reset();
    match scanner.scan_within(prefix, bytes) {
        Some((length, body)) => {
            assert_eq!(verdict, Ok(Progress::Complete(length)), "{bytes:02x?}");
            assert!(plain.is_canonical() && plain.embedded() == 0);
            let whole = plain.view(bytes);
            let other = whole.at(MESSAGE_TOKENS);
            assert_eq!(body.span(), other.span());
            assert_eq!(body.tokens(), other.tokens());
            let starts = |view: View<'_>| {
                (0..view.tokens()).map(|t| view.at(view.token() + t).start()).collect::<Vec<_>>()
            };
            assert_eq!(starts(body), starts(other));
            assert_eq!(whole.tokens(), other.token() + other.tokens() + MESSAGE_DEPTH, "nothing else in it");
        }
        None => {
            assert_eq!(scanner.scan(bytes), verdict, "{bytes:02x?}");
            if verdict.is_ok_and(|v| matches!(v, Progress::Complete(_))) {
                assert_eq!(scanner.tape(), plain.tape());
                assert_eq!(scanner.is_canonical(), plain.is_canonical());
                assert_eq!(scanner.embedded(), plain.embedded());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn within_a_prefix_the_fast_way_agrees(tree in Tree::any(), mut noise in Noise::any(300), limit in 1u32..64, flip in any::<(u16, u8)>()) {
        let mut packet = MESSAGE.to_vec();
        packet.extend_from_slice(&if noise.one_in(2) { tree.write(&mut noise) } else { tree.canonical() });
        packet.extend_from_slice(&[0x84; 3]);
        for limits in [Limits::default(), Limits { tokens_max: limit, depth_max: 6, ..Limits::default() }] {
            let Some(prefix) = Prefix::new(MESSAGE, limits) else { continue };
            let mut scanner = Scanner::new(limits);
            // Memory for the beginning.
            let _ = scanner.scan(&packet);
            within_agrees(&mut scanner, &prefix, &packet);
            for cut in 0..packet.len() {
                within_agrees(&mut scanner, &prefix, &packet[..cut]);
            }
            let mut other = packet.clone();
            let at = flip.0 as usize % other.len();
            other[at] = flip.1;
            other.extend_from_slice(&packet);
            within_agrees(&mut scanner, &prefix, &other);
        }
    }
}

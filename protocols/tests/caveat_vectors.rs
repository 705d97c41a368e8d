//! Caveats against cases recorded from another implementation.

mod common;

use common::{parse_text, scanned, sequence, strings, unhex, vectors};
use staunch_protocols::caveat::{CAVEATS_MAX, CaveatError, Caveats, Outcome, SOURCE_BYTES_MAX, Scratch};
use staunch_protocols::sturdy::SturdyRef;

fn compile(list: &[Vec<u8>]) -> Result<Caveats, CaveatError> {
    let source = sequence(list);
    let caveats = Caveats::compile(scanned(&source).view(&source).children())?;
    assert_eq!(caveats.source(), source);
    assert_eq!(caveats.is_empty(), list.is_empty());
    Ok(caveats)
}

fn compile_text(text: &str) -> Result<Caveats, CaveatError> {
    let source = parse_text(text);
    Caveats::compile(scanned(&source).view(&source).children())
}

/// Capability `n`, as the broker writes it.
fn cap(n: u64) -> Vec<u8> {
    [&[0x86, 0xb2, 8][..], &n.to_be_bytes()].concat()
}

fn apply(caveats: &Caveats, value: &[u8], scratch: &mut Scratch) -> Option<Vec<u8>> {
    // An attenuated capability has a name of its own: 100 more, plus the number of its caveats.
    let mut attenuate = |capability: &[u8], list: &Caveats| {
        let name = u64::from_be_bytes(capability[3..].try_into().unwrap());
        let source = list.source();
        let count = scanned(&source).view(&source).children().count();
        Some(cap(name + 100 + count as u64))
    };
    let outcome = caveats.apply(scanned(value).view(value), scratch, &mut attenuate);
    match outcome {
        Outcome::Unchanged => Some(value.to_vec()),
        Outcome::Rewritten => {
            assert_eq!(scratch.view().span(), scratch.output());
            assert!(scanned(scratch.output()).is_canonical());
            Some(scratch.output().to_vec())
        }
        Outcome::Dropped => None,
    }
}

#[test]
fn recorded_cases_have_their_outcome() {
    let mut scratch = Scratch::new(1 << 20);
    for v in vectors("caveats.json") {
        let list: Vec<Vec<u8>> = strings(&v["caveats_hex"]).into_iter().map(unhex).collect();
        let texts: Vec<Vec<u8>> = strings(&v["caveats"]).into_iter().map(parse_text).collect();
        assert_eq!(list, texts, "{v}");
        let mut sturdy = SturdyRef::mint(&parse_text("x"), b"key");
        for caveat in &list {
            sturdy = sturdy.attenuate(caveat);
        }
        let mut written = Vec::new();
        sturdy.write_parameters(&mut written);
        let read = SturdyRef::read_parameters(scanned(&written).view(&written));
        assert_eq!(read.is_err(), v["resolve"] == "refused", "{v}");
        let Some(cases) = v["cases"].as_array() else { continue };
        let whole = compile(&list).unwrap();
        let joined = list
            .iter()
            .map(|c| compile(std::slice::from_ref(c)).unwrap())
            .fold(Caveats::default(), |a, b| a.and_then(&b).unwrap());
        assert_eq!(joined, whole);
        assert_eq!(sturdy.compile().unwrap(), whole);
        for case in cases {
            let input = parse_text(case["input"].as_str().unwrap());
            let output = case["output"].as_str().map(parse_text);
            assert_eq!(apply(&whole, &input, &mut scratch), output, "{v} {case}");
            assert_eq!(apply(&joined, &input, &mut scratch), output, "{v} {case}");
        }
    }
}

#[test]
fn what_is_invalid_is_refused_and_what_is_malformed_is_unknown() {
    use CaveatError::{BindingUnderNegation, UnboundRef};
    let check = |text: &str, expected: Result<(), CaveatError>| {
        assert_eq!(compile_text(text).map(|_| ()), expected, "{text}");
    };
    check("[<rewrite <_> <ref 0>>]", Err(UnboundRef));
    check("[<rewrite <bind <_>> <ref 99999999999999999999999>>]", Err(UnboundRef));
    check("[<rewrite <bind <_>> <arr [<ref 0> <dict {a: <ref 1>}>]>>]", Err(UnboundRef));
    check("[<rewrite <not <bind <_>>> <lit 1>>]", Err(BindingUnderNegation));
    check("[<rewrite <not <rec a [<arr [<not <bind <_>>>]>]>> <lit 1>>]", Err(BindingUnderNegation));
    check("[<rewrite <and [<not <dict {a: <_> b: <bind String>}>>]> <lit 1>>]", Err(BindingUnderNegation));
    check("[<or [<rewrite <_> <lit 1>> <rewrite <_> <ref 0>>]>]", Err(UnboundRef));
    check("[<rewrite <bind <_>> <attenuate <ref 0> [<or [<rewrite <_> <ref 0>>]>]>>]", Err(UnboundRef));
    check("[<or [<rewrite <_> <ref 0>> <rewrite <_> zork>]>]", Ok(()));
    check("[<rewrite <not <bind <_>>> <zork>>]", Ok(()));
    check("[<rewrite <bind <_>> <arr [<ref 9> <ref 1.0>]>>]", Ok(()));
    check("[<rewrite <bind <_>> <arr [<attenuate <ref 0> [<rewrite <_> <ref 7>>]> zork]>>]", Ok(()));
    check("[<or [<reject <_>>]>]", Ok(()));
    check("[<reject <not <bind <_>>>>]", Ok(()));
    assert_eq!(UnboundRef.to_string(), "Invalid capability attenuation: UnboundRef");
    for unknown in [
        "[<or [<reject <_>>]>]",
        "[<reject Integer>]",
        "[<or {}>]",
        "[<rewrite <_>>]",
        "[<\"reject\" <lit 7>>]",
    ] {
        assert_eq!(apply(&compile_text(unknown).unwrap(), &parse_text("1"), &mut Scratch::new(99)), None);
    }
}

#[test]
fn captures_are_numbered_by_the_total_order_of_keys() {
    // In canonical order: -1, 256, "b", "aa", c. In the total order "aa" comes before "b".
    let pattern = r#"<dict {"aa": <bind <_>> "b": <rec p [<bind <_>> <bind Symbol>]> c: <bind <_>> 256: <bind <_>> -1: <bind <bind <_>>>}>"#;
    let caveats = compile_text(&format!(
        "[<rewrite {pattern} <arr [<ref 0> <ref 1> <ref 2> <ref 3> <ref 4> <ref 5> <ref 6>]>>]"
    ))
    .unwrap();
    let value = parse_text(r#"{"aa": 10 "b": <p 11 x> c: 12 256: 13 -1: 14 d: 15 0: 16}"#);
    let mut scratch = Scratch::new(1000);
    assert_eq!(apply(&caveats, &value, &mut scratch), Some(parse_text("[14 14 13 10 11 x 12]")));
    let other = parse_text(r#"{"aa": 10 "b": <p 11 "x"> c: 12 256: 13 -1: 14}"#);
    assert_eq!(apply(&caveats, &other, &mut scratch), None);
}

#[test]
fn capabilities_are_matched_compared_and_attenuated() {
    let mut scratch = Scratch::new(1000);
    let with_cap = sequence(&[cap(7), parse_text("x")]);
    let caveats = compile_text(
        "[<rewrite <arr [<bind Embedded> <bind <_>>]>
           <rec r [<attenuate <attenuate <ref 0> [<reject <_>>]> [a b]> <attenuate <ref 0> []> <ref 1>]>>]",
    )
    .unwrap();
    let expected =
        [&parse_text("<r>")[..4], &cap(7 + 101 + 102), &cap(107), &parse_text("x"), &[0x84]].concat();
    assert_eq!(apply(&caveats, &with_cap, &mut scratch), Some(expected));
    assert_eq!(apply(&caveats, &sequence(&[parse_text("x"), cap(7)]), &mut scratch), None);
    let not_a_cap =
        compile_text("[<rewrite <arr [<bind <_>> <_>]> <arr [<attenuate <arr [<ref 0>]> []>]>>]").unwrap();
    assert_eq!(apply(&not_a_cap, &with_cap, &mut scratch), None);
    let refusing = compile_text("[<rewrite <arr [<bind <_>> <_>]> <attenuate <ref 0> []>>]").unwrap();
    assert_eq!(apply(&refusing, &with_cap, &mut scratch), Some(cap(107)));
    let outcome = refusing.apply(scanned(&with_cap).view(&with_cap), &mut scratch, &mut |_, _| None);
    assert_eq!(outcome, Outcome::Dropped);
    // A literal capability.
    let reject = [&b"\xb4\xb3\x06reject\xb4\xb3\x03lit"[..], &cap(7), &[0x84, 0x84]].concat();
    let reject = compile(&[reject]).unwrap();
    assert_eq!(apply(&reject, &cap(7), &mut scratch), None);
    assert_eq!(apply(&reject, &cap(8), &mut scratch), Some(cap(8)));
}

#[test]
fn negations_go_back_to_where_they_began() {
    let mut scratch = Scratch::new(1000);
    let check = |pattern: &str, value: &str, expected: bool, scratch: &mut Scratch| {
        let caveats = compile_text(&format!("[<reject {pattern}>]")).unwrap();
        assert_eq!(apply(&caveats, &parse_text(value), scratch).is_none(), expected, "{pattern} {value}");
    };
    let deep = "<arr [<not <rec a [<arr [<lit 1> <lit 2>]> <_>]>> <not <not <arr [<lit 5>]>>> <_>]>";
    check(deep, "[<a [1 2] 3> [5] 6]", false, &mut scratch);
    check(deep, "[<a [1 3] 3> [5] 6]", true, &mut scratch);
    check(deep, "[<a [1 2]> [5] 6]", true, &mut scratch);
    check(deep, "[<a [1 2] 3 4> [5] 6]", true, &mut scratch);
    check(deep, "[<a [1 3] 3> [4] 6]", false, &mut scratch);
    check("<and [<not <and [String <_>]>> <not <and []>>]>", "1", false, &mut scratch);
    check("<not <dict {a: <dict {b: <lit 1>}> c: <_>}>>", "{a: {b: 2} c: 1}", true, &mut scratch);
    check("<not <dict {a: <dict {b: <lit 1>}> c: <_>}>>", "{a: {b: 1} c: 1}", false, &mut scratch);
    check("<not <dict {a: <dict {b: <lit 1>}> c: <_>}>>", "{a: {b: 1} d: 1}", true, &mut scratch);
}

#[test]
fn output_that_doubles_again_and_again_is_dropped_at_the_bound() {
    let double = "<rewrite <bind <_>> <arr [<ref 0> <ref 0>]>>";
    let mut scratch = Scratch::new(1 << 20);
    let value = parse_text("\"0123456789\"");
    for (count, passes) in [(1, true), (10, true), (17, false), (256, false)] {
        let caveats = compile_text(&format!("[{}]", double.repeat(count))).unwrap();
        assert_eq!(apply(&caveats, &value, &mut scratch).is_some(), passes, "{count}");
        let wrapping = "<rewrite <bind <_>> <arr [<ref 0>]>>".repeat(count);
        let wrapping = compile_text(&format!("[{wrapping}]")).unwrap();
        assert_eq!(apply(&wrapping, &value, &mut scratch).is_some(), count < 256, "{count}");
    }
}

#[test]
fn work_is_bounded() {
    let mut value = Vec::from([0xb7]);
    for i in 0..20_000u32 {
        value.extend_from_slice(&[0xb2, 4]);
        value.extend_from_slice(&i.to_be_bytes());
        value.push(0x80);
    }
    value.push(0x84);
    let look = "<dict {zzz: <_>}>";
    let mut scratch = Scratch::new(1000);
    for (count, passes) in [(10, true), (1000, false)] {
        let caveats = compile_text(&format!(
            "[<reject <or>> <reject <and [{}]>>]",
            format!("<not {look}>").repeat(count)
        ));
        assert_eq!(apply(&caveats.unwrap(), &value, &mut scratch), None, "{count}");
        let caveats =
            compile_text(&format!("[<reject <not <and [{}]>>>]", format!("<not {look}>").repeat(count)));
        assert_eq!(apply(&caveats.unwrap(), &value, &mut scratch).is_some(), passes, "{count}");
    }
}

/// One caveat of so many bytes.
fn long(bytes: usize) -> String {
    // `<reject <lit "..">>`, with three bytes for the length.
    format!("<reject <lit \"{}\">>", "x".repeat(bytes - 21))
}

#[test]
fn caveats_are_bounded_together() {
    let check = |text: &str| compile_text(text).map(|caveats| caveats.source().len() - 2);
    assert_eq!(check(&format!("[{}]", long(SOURCE_BYTES_MAX))), Ok(SOURCE_BYTES_MAX));
    assert_eq!(check(&format!("[{}]", long(SOURCE_BYTES_MAX + 1))), Err(CaveatError::TooLong));
    assert_eq!(check(&format!("[{} 7]", long(SOURCE_BYTES_MAX))), Err(CaveatError::TooLong));
    assert!(check(&format!("[{}]", "7 ".repeat(CAVEATS_MAX))).is_ok());
    assert_eq!(check(&format!("[{}]", "7 ".repeat(CAVEATS_MAX + 1))), Err(CaveatError::TooMany));

    let (half, one) =
        (compile_text(&format!("[{}]", long(SOURCE_BYTES_MAX / 2))), compile_text("[7]").unwrap());
    let half = half.unwrap();
    let whole = half.and_then(&half).unwrap();
    assert_eq!(whole.and_then(&one), Err(CaveatError::TooLong));
    let mut many = Caveats::default();
    for n in 0..CAVEATS_MAX {
        many = many.and_then(&one).unwrap();
        assert_eq!(many.digest() == one.digest(), n == 0);
    }
    assert_eq!(many.and_then(&one), Err(CaveatError::TooMany));
    assert_eq!(many, compile_text(&format!("[{}]", "7 ".repeat(CAVEATS_MAX))).unwrap());
}

#[test]
fn lists_are_equal_however_they_came_about() {
    let caveats = |text: &str| compile_text(text).unwrap();
    let (a, b) = (caveats("[<reject <lit 1>> <reject <lit 2>>]"), caveats("[<reject <lit 3>>]"));
    let ab = a.and_then(&b).unwrap();
    assert_eq!(ab, caveats("[<reject <lit 1>> <reject <lit 2>> <reject <lit 3>>]"));
    assert_eq!(
        ab.and_then(&ab).unwrap(),
        a.and_then(&b.and_then(&a).unwrap()).unwrap().and_then(&b).unwrap()
    );
    assert_ne!(ab, b.and_then(&a).unwrap());
    assert_ne!(ab, a);
    assert_eq!(Caveats::default().and_then(&a).unwrap(), a.and_then(&Caveats::default()).unwrap());
}

/// What a value takes is bounded by a modest number and by the value's own length.
#[test]
fn work_is_in_proportion_to_the_value() {
    let mut scratch = Scratch::new(16 << 20);
    let copies = "<ref 0>".repeat(3000);
    let grow = compile_text(&format!("[<rewrite <bind <_>> <arr [{copies}]>>]")).unwrap();
    for (bytes, passes) in [(10, true), (1000, false), (100_000, false)] {
        let value = parse_text(&format!("\"{}\"", "x".repeat(bytes)));
        assert_eq!(apply(&grow, &value, &mut scratch).is_some(), passes, "{bytes}");
        assert!(scratch.work() <= (1 << 15) + 4 * (1 + bytes as u64 / 16 + 1), "{bytes}: {}", scratch.work());
    }
    // The longest caveat there may be can be yielded.
    let literal = compile_text(&format!("[<rewrite <_> <lit [{}]>>]", "1 ".repeat(21_000))).unwrap();
    assert!(apply(&literal, &parse_text("1"), &mut scratch).is_some());
    let plain =
        compile_text("[<rewrite <bind <rec a [<_> String]>> <ref 0>> <reject <rec b [<_>]>>]").unwrap();
    assert!(apply(&plain, &parse_text("<a 1 \"x\">"), &mut scratch).is_some());
    assert!(scratch.work() < 16, "{}", scratch.work());
}

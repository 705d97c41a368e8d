//! The text syntax against vectors recorded from existing implementations.

mod common;

use common::{canonical, scanned, strings, unhex, vector_file, vectors};
use staunch_protocols::text::{self, TextError, TextErrorKind};
use staunch_protocols::wire::Limits;

fn parse(text: &str) -> Result<Vec<u8>, TextError> {
    let parsed = text::parse(text, &Limits::default());
    if let Ok(bytes) = &parsed {
        assert!(scanned(bytes).is_canonical(), "{text}");
    }
    parsed
}

fn print(bytes: &[u8], chars_max: usize) -> String {
    let mut out = String::new();
    text::write(scanned(bytes).view(bytes), &mut out, chars_max);
    out
}

#[test]
fn recorded_texts_parse_to_their_canonical_form_and_are_printed_like_the_peer_does() {
    for v in vectors("preserves-values.json") {
        let text = v["text"].as_str().unwrap();
        let expected = unhex(v["canonical_hex"].as_str().unwrap());
        assert_eq!(parse(text), Ok(expected.clone()), "{text}");
        let annotated = unhex(v["annotated_binary_hex"].as_str().unwrap());
        let as_written = v["text_as_written_by_rust_peer"].as_str().unwrap();
        assert_eq!(print(&annotated, 1000), as_written, "{text}");
        let printed = print(&expected, 1000);
        if annotated == expected {
            assert_eq!(printed, as_written, "{text}");
        }
        assert_eq!(parse(&printed), Ok(expected), "{text}");
    }
    for text in strings(&vector_file("preserves-order.json")["ascending"]) {
        assert_eq!(parse(text), Ok(common::parse_text(text)));
    }
}

#[test]
fn recorded_errors_are_refused_as_recorded() {
    for v in vectors("preserves-text-errors.json") {
        let got = parse(v["text"].as_str().unwrap());
        let Err(TextError { what, .. }) = got else { panic!("{v}: {got:?}") };
        match v["expect"].as_str().unwrap() {
            "incomplete" => assert_eq!(what, TextErrorKind::Incomplete, "{v}"),
            "error" => assert_ne!(what, TextErrorKind::Incomplete, "{v}"),
            other => assert_eq!(other, "error-or-incomplete", "{v}"),
        }
    }
}

#[test]
fn errors_tell_where() {
    use TextErrorKind::*;
    let limits = Limits { packet_bytes_max: 40, depth_max: 4, tokens_max: 12, integer_bytes_max: 8 };
    let check = |text: &str, line: u32, column: u32, what: TextErrorKind| {
        assert_eq!(text::parse(text, &limits), Err(TextError { line, column, what }), "{text}");
    };
    check("", 1, 1, Incomplete);
    check(" # comment", 1, 11, Incomplete);
    check("a\nb", 2, 1, Trailing);
    check("[a\n {b: 1\n  c 2}]", 3, 5, Unexpected('2'));
    check("[\"é水\" )]", 1, 7, Unexpected(')'));
    check("[a\n  <b", 2, 3, Incomplete);
    check("[ \"abc]", 1, 3, Incomplete);
    check("{x: 1,\n y: 2, x: 3}", 2, 8, Duplicate);
    check("#{1 [2] @a [@b 2]}", 1, 9, Duplicate);
    check("[a}", 1, 3, Unexpected('}'));
    check("<a, b>", 1, 3, Unexpected(','));
    check("{a,: b}", 1, 3, Unexpected(','));
    check("{a: , b}", 1, 5, Unexpected(','));
    check("@a, b", 1, 3, Unexpected(','));
    check("[#:, b]", 1, 4, Unexpected(','));
    check("<\n>", 2, 1, MissingLabel);
    check("<@a>", 1, 4, Unexpected('>'));
    check("\"\\x41\"", 1, 2, Escape);
    check("'\\\"'", 1, 2, Escape);
    check("\"\\uDC00\"", 1, 2, CodePoint);
    check("#[AQJ]", 1, 6, Base64);
    check("[[[[[", 1, 5, TooDeep(4));
    check("[@[@#:@", 1, 5, TooDeep(4));
    check("[1 2 3 4 5 6 7 8 9 10 11 12]", 1, 26, TooManyTokens(12));
    check("\"0123456789012345678901234567890123456789\"", 1, 1, TooLong(40));
    check("9223372036854775808", 1, 1, IntegerTooLong(8));
    check(&"9".repeat(100_000), 1, 1, IntegerTooLong(8));
    assert!(text::parse(&format!("-{}9223372036854775808", "0".repeat(1000)), &limits).is_ok());
    assert_eq!(parse("[a\n )").unwrap_err().to_string(), "line 2, column 2: unexpected ')'");
}

#[test]
fn many_values_make_a_sequence() {
    let limits = Limits::default();
    let check = |text: &str, same: &str| {
        assert_eq!(text::parse_all(text, &limits), Ok(parse(same).unwrap()), "{text}")
    };
    check("", "[]");
    check("#!/usr/bin/env staunch\n# nothing", "[]");
    check("a <b> # c\n @d 5 #f#t", "[a <b> 5 #f #t]");
    for text in ["a, b", "a ]", "[", "@a"] {
        assert!(text::parse_all(text, &limits).is_err(), "{text}");
    }
}

#[test]
fn what_does_not_fit_is_cut() {
    let value = parse("<r [1 2 {a: \"水水水水水水\" b: #:c}] 'x y'>").unwrap();
    let whole = "<r [1, 2, {a: \"水水水水水水\", b: #:c}] 'x y'>";
    let chars: Vec<char> = whole.chars().collect();
    for chars_max in 0..chars.len() {
        let mut expected: String = chars[..chars_max.saturating_sub(1)].iter().collect();
        if chars_max > 0 {
            expected.push('…');
        }
        assert_eq!(print(&value, chars_max), expected, "{chars_max}");
    }
    assert_eq!(print(&value, chars.len()), whole);
    assert_eq!(
        print(&parse("\"a\\u0000\\u001b[31m\\u009b\"").unwrap(), 99),
        "\"a\\u0000\\u001b[31m\\u009b\""
    );
    let large = canonical(&[&[0xb0, 0x80, 0x40, 1][..], &[7; 8191]].concat());
    assert!(large.is_err());
}

#[test]
fn integers_of_any_size_keep_their_value() {
    for bits in [0u32, 1, 7, 8, 31, 32, 33, 63, 64, 65, 127, 128, 1000, 8000] {
        // 2 to the power of bits, by doubling decimal digits.
        let mut digits = vec![1u8];
        for _ in 0..bits {
            let mut carry = 0;
            for d in &mut digits {
                let n = *d * 2 + carry;
                (*d, carry) = (n % 10, n / 10);
            }
            digits.extend((carry > 0).then_some(carry));
        }
        let decimal: String = digits.iter().rev().map(|d| (b'0' + d) as char).collect();
        for text in [decimal.clone(), format!("-{decimal}")] {
            let bytes = parse(&text).unwrap();
            assert_eq!(bytes, common::parse_text(&text));
            assert_eq!(print(&bytes, 5000), text);
        }
    }
}

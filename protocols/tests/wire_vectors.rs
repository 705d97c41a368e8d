//! The machine syntax against vectors recorded from existing implementations.

mod common;

use common::{canonical, parse_text, scanned, strings, unhex, vector_file, vectors};
use staunch_protocols::wire::{Limits, Progress, Scanner, sort_key};

/// The same verdict when every byte arrives alone.
fn scan_bytewise(bytes: &[u8]) -> Result<Progress, String> {
    let mut scanner = Scanner::new(Limits::default());
    let mut last = Progress::Incomplete(1);
    for n in 0..=bytes.len() {
        last = scanner.scan(&bytes[..n]).map_err(|e| e.to_string())?;
        if let Progress::Complete(_) = last {
            break;
        }
    }
    Ok(last)
}

#[test]
fn values_have_their_canonical_form() {
    for v in vectors("preserves-values.json") {
        let expected = unhex(v["canonical_hex"].as_str().unwrap());
        let text = &v["text"];
        assert_eq!(canonical(&expected).as_ref(), Ok(&expected), "{text}");
        if let Some(annotated) = v["annotated_binary_hex"].as_str() {
            assert_eq!(canonical(&unhex(annotated)).as_ref(), Ok(&expected), "{text}");
        }
    }
}

#[test]
fn binary_inputs_get_their_verdict() {
    for v in vectors("preserves-binary.json") {
        let bytes = unhex(v["hex"].as_str().unwrap());
        let mut scanner = Scanner::new(Limits::default());
        let whole = scanner.scan(&bytes).map_err(|e| e.to_string());
        assert_eq!(whole, scan_bytewise(&bytes), "{v}");
        let verdict = v.as_object().unwrap().values().find_map(|x| match x.as_str() {
            Some(s @ ("accept" | "error" | "incomplete")) => Some(s),
            _ => None,
        });
        match verdict.unwrap() {
            "accept" => assert_eq!(canonical(&bytes), Ok(unhex(v["canonical_hex"].as_str().unwrap())), "{v}"),
            "incomplete" => assert!(matches!(whole, Ok(Progress::Incomplete(_))), "{v}: {whole:?}"),
            _ => assert!(canonical(&bytes).is_err(), "{v}"),
        }
    }
}

#[test]
fn sort_keys_ascend_like_the_total_order() {
    let file = vector_file("preserves-order.json");
    let keys: Vec<(Vec<u8>, &str)> = strings(&file["ascending"])
        .into_iter()
        .map(|text| {
            let bytes = parse_text(text);
            let mut key = Vec::new();
            sort_key(scanned(&bytes).view(&bytes), &mut key);
            (key, text)
        })
        .collect();
    for pair in keys.windows(2) {
        assert!(pair[0].0 < pair[1].0, "{} < {}", pair[0].1, pair[1].1);
    }
}

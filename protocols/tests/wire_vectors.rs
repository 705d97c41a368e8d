//! The machine syntax against vectors recorded from existing implementations.

use staunch_protocols::wire::{Limits, Progress, Scanner, canonicalize};

fn vectors(name: &str) -> Vec<serde_json::Value> {
    let path = format!("{}/tests/vectors/{name}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn unhex(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
}

fn canonical(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let mut scanner = Scanner::new(Limits::default());
    match scanner.scan(bytes).map_err(|e| e.to_string())? {
        Progress::Complete(n) if n == bytes.len() => {}
        other => return Err(format!("{other:?} of {}", bytes.len())),
    }
    let mut out = Vec::new();
    canonicalize(scanner.view(bytes), &mut out).map_err(|e| e.to_string())?;
    assert_eq!(scanner.is_canonical(), out == bytes, "canonical flag of {bytes:02x?}");
    Ok(out)
}

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

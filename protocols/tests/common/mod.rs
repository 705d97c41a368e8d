//! What the tests of this crate share.
#![allow(dead_code, unreachable_pub)]

pub mod interpret;
pub mod tree;
pub mod twin;

use staunch_protocols::wire::{Limits, Progress, Scanner, canonicalize};

/// The entries of a file of recorded vectors.
pub fn vectors(name: &str) -> Vec<serde_json::Value> {
    match vector_file(name) {
        serde_json::Value::Array(entries) => entries,
        other => panic!("{name}: {other}"),
    }
}

/// A file of recorded vectors.
pub fn vector_file(name: &str) -> serde_json::Value {
    let path = format!("{}/tests/vectors/{name}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

pub fn unhex(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
}

/// The strings in a JSON list.
pub fn strings(list: &serde_json::Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|s| s.as_str().unwrap()).collect()
}

/// Trusted text to canonical bytes, by the other implementation.
pub fn parse_text(text: &str) -> Vec<u8> {
    let value = preserves::read_iovalue_text(text, false).unwrap_or_else(|e| panic!("{text}: {e}"));
    preserves::PackedWriter::encode_iovalue(&value).unwrap()
}

/// A scanner that has scanned all of `bytes`.
pub fn scanned(bytes: &[u8]) -> Scanner {
    let mut scanner = Scanner::new(Limits::default());
    assert_eq!(scanner.scan(bytes), Ok(Progress::Complete(bytes.len())), "{bytes:02x?}");
    scanner
}

/// The verdict of scanner and canonicalizer together.
pub fn canonical(bytes: &[u8]) -> Result<Vec<u8>, String> {
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

/// Canonical values in a sequence.
pub fn sequence(items: &[Vec<u8>]) -> Vec<u8> {
    [&[0xb5][..], &items.concat(), &[0x84]].concat()
}

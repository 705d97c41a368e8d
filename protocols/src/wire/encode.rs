//! Writing values in canonical form, piece by piece. The caller keeps the order of set elements and keys.

use super::tag;

/// A length in base 128, least significant group first.
#[inline]
pub fn varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// An atom from its tag and content.
#[inline]
pub fn atom(out: &mut Vec<u8>, tag: u8, content: &[u8]) {
    out.push(tag);
    varint(out, content.len() as u64);
    out.extend_from_slice(content);
}

/// An integer in its shortest form.
#[inline]
pub fn int(out: &mut Vec<u8>, n: i64) {
    let bytes = n.to_be_bytes();
    // Leading bytes that only repeat the sign: one fewer than the leading sign bits, over 8.
    let sign_bits = if n < 0 { n.leading_ones() } else { n.leading_zeros() };
    let skip = if n == 0 { 8 } else { ((sign_bits - 1) / 8) as usize };
    out.push(tag::INTEGER);
    out.push((8 - skip) as u8);
    out.extend_from_slice(&bytes[skip..]);
}

/// An integer in its shortest form, from the upper half too.
pub fn uint(out: &mut Vec<u8>, n: u64) {
    match i64::try_from(n) {
        Ok(n) => int(out, n),
        Err(_) => {
            out.extend_from_slice(&[tag::INTEGER, 9, 0]);
            out.extend_from_slice(&n.to_be_bytes());
        }
    }
}

/// A string.
pub fn string(out: &mut Vec<u8>, text: &str) {
    atom(out, tag::STRING, text.as_bytes());
}

/// A symbol.
pub fn symbol(out: &mut Vec<u8>, name: &str) {
    atom(out, tag::SYMBOL, name.as_bytes());
}

/// A byte string.
pub fn bytes(out: &mut Vec<u8>, content: &[u8]) {
    atom(out, tag::BYTES, content);
}

/// The beginning of a record with a symbol as label; the fields and [`end`] follow.
pub fn record(out: &mut Vec<u8>, label: &str) {
    out.push(tag::RECORD);
    symbol(out, label);
}

/// The beginning of a sequence; the elements and [`end`] follow.
pub fn sequence(out: &mut Vec<u8>) {
    out.push(tag::SEQUENCE);
}

/// The end of a compound.
pub fn end(out: &mut Vec<u8>) {
    out.push(tag::END);
}

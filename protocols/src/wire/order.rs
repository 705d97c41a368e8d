//! The total order of values, as a byte string that compares like it.
//!
//! Canonical bytes are for equality; this is for the order in which a new observer sees what is already there.
//! A value becomes a key whose bytewise order is the total order: one byte for the kind (never 0), then the
//! content in a form where a prefix sorts first; compounds end with a 0.

use super::{View, tag};

const END: u8 = 0;

/// Appends the sort key of a canonical `value` to `out`. Iterative; costs one pass and a sort of each set and
/// dictionary.
pub fn sort_key(value: View<'_>, out: &mut Vec<u8>) {
    let mut open: Vec<(u8, Vec<usize>)> = Vec::new();
    let mut scratch = Vec::new();
    let mut inside_embedded = false;
    for token in value.token()..value.token() + value.tokens() {
        let at = value.at(token);
        let first = at.tag();
        if first == tag::END {
            if let Some((kind, starts)) = open.pop() {
                sort_children(kind, &starts, out, &mut scratch);
            }
            out.push(END);
            continue;
        }
        if let Some((kind, starts)) = open.last_mut()
            && *kind >= tag::SET
            && !inside_embedded
        {
            starts.push(out.len());
        }
        inside_embedded = first == tag::EMBEDDED;
        out.push(rank(first));
        match first {
            tag::RECORD..=tag::DICTIONARY => open.push((first, Vec::new())),
            tag::IEEE754 => float(at.content(), out),
            tag::INTEGER => integer(at.content(), out),
            tag::STRING | tag::BYTES | tag::SYMBOL => text(at.content(), out),
            _ => {}
        }
    }
}

fn rank(first: u8) -> u8 {
    match first {
        tag::FALSE => 1,
        tag::TRUE => 2,
        tag::IEEE754 => 3,
        tag::INTEGER => 4,
        tag::STRING => 5,
        tag::BYTES => 6,
        tag::SYMBOL => 7,
        tag::RECORD => 8,
        tag::SEQUENCE => 9,
        tag::SET => 10,
        tag::DICTIONARY => 11,
        _ => 12,
    }
}

fn sort_children(kind: u8, starts: &[usize], out: &mut [u8], scratch: &mut Vec<u8>) {
    let step = match kind {
        tag::SET => 1,
        tag::DICTIONARY => 2,
        _ => return,
    };
    let (Some(&first), end) = (starts.first(), out.len()) else { return };
    let mut entries: Vec<(usize, usize)> = (0..starts.len())
        .step_by(step)
        .map(|i| (starts[i], starts.get(i + step).copied().unwrap_or(end)))
        .collect();
    // Keys are distinct and no key is a prefix of another, so whole entries compare like their keys.
    if entries.is_sorted_by(|a, b| out[a.0..a.1] < out[b.0..b.1]) {
        return;
    }
    entries.sort_by(|a, b| out[a.0..a.1].cmp(&out[b.0..b.1]));
    scratch.clear();
    for &(start, entry_end) in &entries {
        scratch.extend_from_slice(&out[start..entry_end]);
    }
    out[first..end].copy_from_slice(scratch);
}

/// IEEE 754 totalOrder: as a signed integer, with the low 63 bits of negatives flipped.
fn float(content: &[u8], out: &mut Vec<u8>) {
    let mut raw = [0; 8];
    raw.copy_from_slice(content);
    let bits = u64::from_be_bytes(raw);
    let key = if bits >> 63 == 1 { !bits } else { bits | 1 << 63 };
    out.extend_from_slice(&key.to_be_bytes());
}

/// Sign, then length (reversed for negatives, where longer is smaller), then the bytes.
fn integer(content: &[u8], out: &mut Vec<u8>) {
    let length = content.len() as u32;
    match content.first() {
        Some(b) if *b >= 0x80 => {
            out.push(1);
            out.extend_from_slice(&(!length).to_be_bytes());
        }
        _ => {
            out.push(2);
            out.extend_from_slice(&length.to_be_bytes());
        }
    }
    out.extend_from_slice(content);
}

/// The bytes with 0 escaped as 0 255, ended by 0 0: a prefix sorts first, and nothing is ambiguous.
fn text(content: &[u8], out: &mut Vec<u8>) {
    for &b in content {
        out.push(b);
        if b == 0 {
            out.push(255);
        }
    }
    out.extend_from_slice(&[0, 0]);
}

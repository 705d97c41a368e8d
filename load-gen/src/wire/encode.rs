//! Writes Preserves values and packets into a byte vector, in the shortest form.

use super::{BYTES, DICTIONARY, EMBEDDED, END, INTEGER, RECORD, SEQUENCE, STRING, SYMBOL};

/// Signature of the well-known reference: the caveat-free ref whose key is the empty byte string.
const WELL_KNOWN_SIG: [u8; 16] =
    [0x69, 0xca, 0x30, 0x0c, 0x1d, 0xbf, 0xa0, 0x8f, 0xba, 0x69, 0x21, 0x02, 0xdd, 0x82, 0x31, 0x1a];

/// A pattern, as far as the scenarios need it.
#[derive(Clone, Debug)]
pub enum Pattern {
    /// `<bind <_>>`.
    Bind,
    /// `<lit "text">`.
    Lit(String),
    /// `<group <rec label> {index: pattern ...}>`.
    Rec(&'static str, Vec<(u32, Pattern)>),
}

/// Appends a length in base 128, least significant group first.
pub fn varint(out: &mut Vec<u8>, mut n: usize) {
    while n >= 0x80 {
        out.push((n as u8 & 0x7f) | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// Appends a signed integer in the fewest bytes.
pub fn int(out: &mut Vec<u8>, n: i64) {
    let bytes = n.to_be_bytes();
    let mut skip = 0;
    if n == 0 {
        skip = 8;
    } else {
        // A leading byte may go while the next one still carries the sign.
        while skip < 7 {
            let redundant = if n < 0 { 0xff } else { 0 };
            if bytes[skip] != redundant || (bytes[skip + 1] ^ bytes[skip]) & 0x80 != 0 {
                break;
            }
            skip += 1;
        }
    }
    out.push(INTEGER);
    out.push((8 - skip) as u8);
    out.extend_from_slice(&bytes[skip..]);
}

fn counted(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    out.push(tag);
    varint(out, bytes.len());
    out.extend_from_slice(bytes);
}

/// Appends a string.
pub fn string(out: &mut Vec<u8>, s: &str) {
    counted(out, STRING, s.as_bytes());
}

/// Appends a byte string.
pub fn bytes(out: &mut Vec<u8>, b: &[u8]) {
    counted(out, BYTES, b);
}

/// Appends a symbol.
pub fn symbol(out: &mut Vec<u8>, s: &str) {
    counted(out, SYMBOL, s.as_bytes());
}

/// Appends a record with a symbol for its label; `fields` writes the fields.
pub fn record(out: &mut Vec<u8>, label: &str, fields: impl FnOnce(&mut Vec<u8>)) {
    out.push(RECORD);
    symbol(out, label);
    fields(out);
    out.push(END);
}

/// Appends `#:[0 oid]`: a capability of the sender's own.
pub fn own_cap(out: &mut Vec<u8>, oid: u64) {
    out.push(EMBEDDED);
    out.push(SEQUENCE);
    int(out, 0);
    int(out, oid as i64);
    out.push(END);
}

/// Appends a pattern.
pub fn pattern(out: &mut Vec<u8>, p: &Pattern) {
    match p {
        Pattern::Bind => record(out, "bind", |out| record(out, "_", |_| {})),
        Pattern::Lit(s) => record(out, "lit", |out| string(out, s)),
        Pattern::Rec(label, entries) => record(out, "group", |out| {
            record(out, "rec", |out| symbol(out, label));
            out.push(DICTIONARY);
            for (index, inner) in entries {
                int(out, i64::from(*index));
                pattern(out, inner);
            }
            out.push(END);
        }),
    }
}

/// Appends a Turn packet; `events` writes the events.
pub fn turn(out: &mut Vec<u8>, events: impl FnOnce(&mut Vec<u8>)) {
    out.push(SEQUENCE);
    events(out);
    out.push(END);
}

fn event(out: &mut Vec<u8>, oid: u64, label: &str, body: impl FnOnce(&mut Vec<u8>)) {
    out.push(SEQUENCE);
    int(out, oid as i64);
    record(out, label, body);
    out.push(END);
}

/// Appends the turn event `[oid <A assertion handle>]`.
pub fn assert(out: &mut Vec<u8>, oid: u64, handle: u64, assertion: impl FnOnce(&mut Vec<u8>)) {
    event(out, oid, "A", |out| {
        assertion(out);
        int(out, handle as i64);
    });
}

/// Appends the turn event `[oid <R handle>]`.
pub fn retract(out: &mut Vec<u8>, oid: u64, handle: u64) {
    event(out, oid, "R", |out| int(out, handle as i64));
}

/// Appends the turn event `[oid <M body>]`.
pub fn message(out: &mut Vec<u8>, oid: u64, body: impl FnOnce(&mut Vec<u8>)) {
    event(out, oid, "M", body);
}

/// Appends the turn event `[oid <S #:[0 peer]>]`.
pub fn sync(out: &mut Vec<u8>, oid: u64, peer: u64) {
    event(out, oid, "S", |out| own_cap(out, peer));
}

/// Appends the assertion `<Observe pattern #:[0 observer]>`.
pub fn observe(out: &mut Vec<u8>, p: &Pattern, observer: u64) {
    record(out, "Observe", |out| {
        pattern(out, p);
        own_cap(out, observer);
    });
}

/// Appends the assertion `<resolve reference #:[0 observer]>`: for this reference, or for the well-known
/// `<ref {oid: "syndicate" sig: ...}>`.
pub fn resolve(out: &mut Vec<u8>, reference: Option<&[u8]>, observer: u64) {
    record(out, "resolve", |out| {
        match reference {
            Some(reference) => out.extend_from_slice(reference),
            None => well_known(out),
        }
        own_cap(out, observer);
    });
}

fn well_known(out: &mut Vec<u8>) {
    record(out, "ref", |out| {
        out.push(DICTIONARY);
        symbol(out, "oid");
        string(out, "syndicate");
        symbol(out, "sig");
        bytes(out, &WELL_KNOWN_SIG);
        out.push(END);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_shortest() {
        let table: &[(i64, &[u8])] = &[
            (0, &[]),
            (1, &[1]),
            (127, &[0x7f]),
            (128, &[0, 0x80]),
            (256, &[1, 0]),
            (-1, &[0xff]),
            (-128, &[0x80]),
            (-129, &[0xff, 0x7f]),
            (1 << 32, &[1, 0, 0, 0, 0]),
            (i64::MAX, &[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
            (i64::MIN, &[0x80, 0, 0, 0, 0, 0, 0, 0]),
        ];
        for (n, body) in table {
            let mut out = vec![];
            int(&mut out, *n);
            assert_eq!((out[0], out[1] as usize, &out[2..]), (INTEGER, body.len(), *body), "{n}");
        }
    }

    #[test]
    fn lengths_are_base_128() {
        for (n, expect) in
            [(0usize, vec![0u8]), (127, vec![0x7f]), (128, vec![0x80, 1]), (300, vec![0xac, 2])]
        {
            let mut out = vec![];
            varint(&mut out, n);
            assert_eq!(out, expect);
        }
    }

    #[test]
    fn a_message_has_the_bytes_of_the_specification() {
        let mut out = vec![];
        turn(&mut out, |out| message(out, 1, |out| record(out, "Says", |out| string(out, "a"))));
        let expect = b"\xb5\xb5\xb0\x01\x01\xb4\xb3\x01M\xb4\xb3\x04Says\xb1\x01a\x84\x84\x84\x84";
        assert_eq!(out, expect);
    }
}

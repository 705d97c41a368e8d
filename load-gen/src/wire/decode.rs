//! Reads single values out of a byte slice that may end too early.
//!
//! Everything returns `Ok(None)` when the slice ends before the value does, so that a caller can wait for more
//! bytes, and [`Malformed`] when no continuation could make it right. Nothing recurses.

use super::{
    ANNOTATION, BYTES, DICTIONARY, DOUBLE, EMBEDDED, END, FALSE, INTEGER, RECORD, SEQUENCE, SET, STRING,
    SYMBOL, TRUE,
};

/// The peer sent something that is not what it should be; what and where within the scanned slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// Offset in the slice that was scanned.
    pub at: usize,
    /// What was found or missed.
    pub what: String,
}

impl Malformed {
    /// An error at `at`.
    pub fn new(at: usize, what: impl Into<String>) -> Self {
        Malformed { at, what: what.into() }
    }
}

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "malformed input at offset {}: {}", self.at, self.what)
    }
}

impl std::error::Error for Malformed {}

/// Result of a scan: a value, `None` if the slice ends too early, or an error.
pub type Scan<T> = Result<Option<T>, Malformed>;

/// Unwraps a [`Scan`] within a function that returns one; returns `Ok(None)` when bytes are missing.
macro_rules! need {
    ($e:expr) => {
        match $e? {
            Some(v) => v,
            None => return Ok(None),
        }
    };
}
pub(crate) use need;

/// One event of a Turn, borrowed from the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// `<A value handle>`.
    Assert {
        /// The asserted value, encoded.
        value: &'a [u8],
        /// The peer's name for it.
        handle: u64,
    },
    /// `<R handle>`.
    Retract {
        /// The handle of the assertion that ends.
        handle: u64,
    },
    /// `<M body>`.
    Message {
        /// The body, encoded.
        body: &'a [u8],
    },
    /// `<S #:peer>`.
    Sync,
}

/// Reads a length at `at`; gives it and the offset after it.
#[inline]
pub fn varint(buf: &[u8], mut at: usize) -> Scan<(usize, usize)> {
    let (mut n, mut shift) = (0usize, 0);
    loop {
        let Some(&byte) = buf.get(at) else { return Ok(None) };
        if shift > 49 {
            return Err(Malformed::new(at, "length too long"));
        }
        at += 1;
        n |= usize::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(Some((n, at)));
        }
        shift += 7;
    }
}

/// Finds the end of the value that starts at `at`.
#[inline]
pub fn skip(buf: &[u8], mut at: usize) -> Scan<usize> {
    let mut depth = 0usize;
    loop {
        let Some(&tag) = buf.get(at) else { return Ok(None) };
        match tag {
            FALSE | TRUE => at += 1,
            END if depth > 0 => {
                at += 1;
                depth -= 1;
            }
            EMBEDDED => {
                at += 1;
                continue;
            }
            ANNOTATION => {
                // The annotation itself is one more value before the annotated one.
                at = need!(skip_flat(buf, at + 1));
                continue;
            }
            DOUBLE | INTEGER | STRING | BYTES | SYMBOL => {
                let (n, start) = need!(varint(buf, at + 1));
                if buf.len() - start < n {
                    return Ok(None);
                }
                at = start + n;
            }
            RECORD | SEQUENCE | SET | DICTIONARY => {
                at += 1;
                depth += 1;
                continue;
            }
            _ => return Err(Malformed::new(at, format!("tag {tag:#x}"))),
        }
        if depth == 0 {
            return Ok(Some(at));
        }
    }
}

/// Skips an annotation's value. Annotations on annotations are refused: no broker we drive sends them, and
/// accepting them would need a stack.
fn skip_flat(buf: &[u8], at: usize) -> Scan<usize> {
    match buf.get(at) {
        None => Ok(None),
        Some(&(FALSE | TRUE)) => Ok(Some(at + 1)),
        Some(&(INTEGER | STRING | BYTES | SYMBOL | DOUBLE)) => {
            let (n, start) = need!(varint(buf, at + 1));
            Ok((buf.len() - start >= n).then_some(start + n))
        }
        Some(_) => Err(Malformed::new(at, "compound annotation")),
    }
}

/// Reads a non-negative integer of at most 64 bits; gives it and the offset after it.
#[inline]
pub fn unsigned(buf: &[u8], at: usize) -> Scan<(u64, usize)> {
    match buf.get(at) {
        None => return Ok(None),
        Some(&INTEGER) => {}
        Some(&tag) => return Err(Malformed::new(at, format!("integer expected, found tag {tag:#x}"))),
    }
    let (n, start) = need!(varint(buf, at + 1));
    if buf.len() - start < n {
        return Ok(None);
    }
    let digits = &buf[start..start + n];
    let (sign, magnitude) = digits.split_at(digits.len().saturating_sub(8));
    if sign.iter().any(|b| *b != 0) || (sign.is_empty() && digits.first().is_some_and(|b| *b >= 0x80)) {
        return Err(Malformed::new(at, "integer out of range"));
    }
    let value = magnitude.iter().fold(0u64, |acc, b| acc << 8 | u64::from(*b));
    Ok(Some((value, start + n)))
}

/// Reads one counted atom (string, byte string, symbol) with the given tag; gives its bytes and the offset after.
pub fn counted(buf: &[u8], at: usize, tag: u8) -> Scan<(&[u8], usize)> {
    match buf.get(at) {
        None => return Ok(None),
        Some(t) if *t == tag => {}
        Some(t) => return Err(Malformed::new(at, format!("tag {tag:#x} expected, found {t:#x}"))),
    }
    let (n, start) = need!(varint(buf, at + 1));
    Ok(buf.get(start..start + n).map(|bytes| (bytes, start + n)))
}

/// Requires the byte `byte` at `at`; gives the offset after it.
#[inline]
pub fn exactly(buf: &[u8], at: usize, byte: u8) -> Scan<usize> {
    match buf.get(at) {
        None => Ok(None),
        Some(b) if *b == byte => Ok(Some(at + 1)),
        Some(b) => Err(Malformed::new(at, format!("{byte:#x} expected, found {b:#x}"))),
    }
}

/// Skips surplus fields up to and including the end marker.
fn close(buf: &[u8], mut at: usize) -> Scan<usize> {
    loop {
        match buf.get(at) {
            None => return Ok(None),
            Some(&END) => return Ok(Some(at + 1)),
            Some(_) => at = need!(skip(buf, at)),
        }
    }
}

/// Reads the turn event `[oid <...>]` that starts at `at`; gives oid, event and the offset after it.
pub fn turn_event(buf: &[u8], at: usize) -> Scan<(u64, Event<'_>, usize)> {
    let at = need!(exactly(buf, at, SEQUENCE));
    let (oid, at) = need!(unsigned(buf, at));
    let at = need!(exactly(buf, at, RECORD));
    let (label, at) = need!(counted(buf, at, SYMBOL));
    let (event, at) = match label {
        b"A" => {
            let end = need!(skip(buf, at));
            let (handle, after) = need!(unsigned(buf, end));
            (Event::Assert { value: &buf[at..end], handle }, after)
        }
        b"R" => {
            let (handle, after) = need!(unsigned(buf, at));
            (Event::Retract { handle }, after)
        }
        b"M" => {
            let end = need!(skip(buf, at));
            (Event::Message { body: &buf[at..end] }, end)
        }
        b"S" => {
            let end = need!(skip(buf, at));
            (Event::Sync, end)
        }
        other => {
            return Err(Malformed::new(at, format!("unknown event {:?}", String::from_utf8_lossy(other))));
        }
    };
    let at = need!(close(buf, at));
    let at = need!(close(buf, at));
    Ok(Some((oid, event, at)))
}

/// Splits a sequence, or the fields of a record, into its elements' encodings; `None` for any other value.
pub fn elements(value: &[u8]) -> Option<Vec<&[u8]>> {
    let mut at = match *value.first()? {
        SEQUENCE => 1,
        RECORD => skip(value, 1).ok()??,
        _ => return None,
    };
    let mut out = vec![];
    while *value.get(at)? != END {
        let end = skip(value, at).ok()??;
        out.push(&value[at..end]);
        at = end;
    }
    Some(out)
}

/// The label of a record, if it is a symbol.
pub fn label(value: &[u8]) -> Option<&[u8]> {
    (*value.first()? == RECORD).then_some(())?;
    Some(counted(value, 1, SYMBOL).ok()??.0)
}

#[cfg(test)]
mod tests {
    use super::super::encode;
    use super::*;

    #[test]
    fn values_end_where_they_end() {
        let mut out = vec![];
        encode::resolve(&mut out, None, 300);
        let end = out.len();
        out.extend_from_slice(&[0x84, 0x80]);
        assert_eq!(skip(&out, 0), Ok(Some(end)));
        for cut in 0..end {
            assert_eq!(skip(&out[..cut], 0), Ok(None), "cut at {cut}");
        }
    }

    #[test]
    fn annotations_are_skipped() {
        let bytes = b"\x85\xb3\x03ann\x85\x80\xb0\x01\x05";
        assert_eq!(skip(bytes, 0), Ok(Some(bytes.len())));
    }

    #[test]
    fn bad_bytes_are_refused() {
        for bytes in [&b"\x84"[..], b"\x12", b"\xb5\x83", b"\xb1\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"] {
            assert!(skip(bytes, 0).is_err(), "{bytes:x?}");
        }
    }

    #[test]
    fn unsigned_integers_of_any_width() {
        for n in [0, 1, 127, 128, 255, 65_536, 1 << 40, i64::MAX as u64] {
            let mut out = vec![];
            encode::int(&mut out, n as i64);
            assert_eq!(unsigned(&out, 0), Ok(Some((n, out.len()))));
        }
        assert_eq!(unsigned(b"\xb0\x09\x00\xff\xff\xff\xff\xff\xff\xff\xff", 0), Ok(Some((u64::MAX, 11))));
        assert!(unsigned(b"\xb0\x01\xff", 0).is_err());
        assert!(unsigned(b"\xb0\x09\x01\x00\x00\x00\x00\x00\x00\x00\x00", 0).is_err());
    }

    #[test]
    fn events_are_read_and_cut_short() {
        let mut out = vec![];
        encode::assert(&mut out, 7, 9, |o| encode::string(o, "x"));
        let first = out.len();
        encode::retract(&mut out, 7, 9);
        encode::sync(&mut out, 1, 2);
        let (oid, event, at) = turn_event(&out, 0).unwrap().unwrap();
        assert_eq!((oid, event, at), (7, Event::Assert { value: b"\xb1\x01x", handle: 9 }, first));
        let (_, event, at) = turn_event(&out, at).unwrap().unwrap();
        assert_eq!(event, Event::Retract { handle: 9 });
        assert_eq!(turn_event(&out, at).unwrap().unwrap().1, Event::Sync);
        for cut in 0..first {
            assert_eq!(turn_event(&out[..cut], 0), Ok(None));
        }
    }

    #[test]
    fn elements_of_records_and_sequences() {
        let mut out = vec![];
        encode::record(&mut out, "ok", |o| {
            encode::string(o, "a");
            encode::int(o, 1);
        });
        assert_eq!(label(&out), Some(&b"ok"[..]));
        assert_eq!(elements(&out), Some(vec![&b"\xb1\x01a"[..], b"\xb0\x01\x01"]));
    }
}

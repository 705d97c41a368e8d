//! Atoms: their lengths, and what their contents must be.

use super::scan::ScanErrorKind;
use super::{Limits, tag};

/// Whether so many more bytes from `pos` on are within the limit.
pub(super) fn check_size(limits: &Limits, pos: usize, more: usize) -> Result<(), ScanErrorKind> {
    if pos.saturating_add(more) > limits.packet_bytes_max as usize {
        return Err(ScanErrorKind::TooLong(limits.packet_bytes_max));
    }
    Ok(())
}

/// The length of an atom.
pub(super) enum Header {
    Complete { length: usize, body: usize, shortest: bool },
    Incomplete,
}

/// Where the atom at `pos` ends, if it is all there, in canonical form and well-formed beyond doubt. `None` says
/// nothing: the general way looks closer.
#[inline(always)]
pub(super) fn plain_atom(bytes: &[u8], pos: usize, first: u8, integer_bytes_max: usize) -> Option<usize> {
    let (body, length) = short_header(bytes, pos)?;
    let end = body + length;
    let content = bytes.get(body..end)?;
    let is_fine = match first {
        tag::BYTES => true,
        tag::INTEGER => is_minimal(content) && length <= integer_bytes_max,
        tag::IEEE754 => length == 8,
        _ => is_short_ascii(bytes, body, content) || is_text(content),
    };
    is_fine.then_some(end)
}

/// Where the content of the atom at `pos` begins and how long it is, if its length is as short as can be, and
/// below 16 Ki.
#[inline(always)]
fn short_header(bytes: &[u8], pos: usize) -> Option<(usize, usize)> {
    let low = *bytes.get(pos + 1)?;
    if low < 0x80 {
        return Some((pos + 2, low as usize));
    }
    let high = *bytes.get(pos + 2)?;
    (0 < high && high < 0x80).then_some((pos + 3, (low & 0x7f) as usize | (high as usize) << 7))
}

/// Reads the length of the atom at `pos`, of any form, if a packet can hold so much.
pub(super) fn read_header(bytes: &[u8], pos: usize, limits: &Limits) -> Result<Header, ScanErrorKind> {
    let mut length = 0u64;
    let mut shift = 0u32;
    let mut at = pos + 1;
    loop {
        let Some(&b) = bytes.get(at) else {
            // Overlong forms are legal but pointless: past 64 bytes of padding it is an attack.
            return if at - pos > 64 { Err(ScanErrorKind::LengthTooLong) } else { Ok(Header::Incomplete) };
        };
        at += 1;
        let bits = (b & 0x7f) as u64;
        if bits != 0 && (shift >= 64 || bits << shift >> shift != bits) || at - pos > 64 {
            return Err(ScanErrorKind::LengthTooLong);
        }
        if shift < 64 {
            length |= bits << shift;
        }
        shift += 7;
        if b < 0x80 {
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            check_size(limits, at, length)?;
            return Ok(Header::Complete { length, body: at, shortest: b != 0 || at == pos + 2 });
        }
    }
}

#[inline(always)]
pub(super) fn is_minimal(content: &[u8]) -> bool {
    match content {
        [] => true,
        [0] => false,
        [0, b, ..] => *b >= 0x80,
        [0xff, b, ..] => *b < 0x80,
        _ => true,
    }
}

/// Whether `content` is UTF-8.
#[inline(never)]
pub(super) fn is_text(content: &[u8]) -> bool {
    content.is_ascii() || simdutf8::basic::from_utf8(content).is_ok()
}

/// Whether `content`, which begins at `body`, is surely ASCII: one look at 8 bytes, those behind it shifted out,
/// or at the first and the last 8 of up to 16. False for what is longer, or close to the end.
#[inline(always)]
fn is_short_ascii(bytes: &[u8], body: usize, content: &[u8]) -> bool {
    const HIGH_BITS: u64 = 0x8080_8080_8080_8080;
    let word = |at: usize| bytes.get(at..at + 8).and_then(|w| w.try_into().ok()).map(u64::from_le_bytes);
    let length = content.len();
    let Some(head) = word(body) else { return false };
    if length <= 8 {
        // Twice, since a shift by all 64 bits is none.
        return head << (32 - 4 * length) << (32 - 4 * length) & HIGH_BITS == 0;
    }
    length <= 16 && word(body + length - 8).is_some_and(|tail| (head | tail) & HIGH_BITS == 0)
}

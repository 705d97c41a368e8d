//! Keys: the constants at a skeleton's positions, one after the other, as bytes.
//!
//! A long constant is in the key as a digest (its length, its first and its last bytes), so that a long value is not
//! hashed once for each skeleton that looks at it. Whoever matches such a key compares the constants themselves.

use staunch_protocols::wire::View;

use crate::find::{Finder, resolve};
use crate::pattern::{Loc, Pattern};

/// Longer constants are digested.
const LONG_BYTES: usize = 256;

/// How much of a long constant's beginning is in its digest, and of its end.
const PART_BYTES: usize = 64;

/// Starts a digest: no value starts so.
const DIGEST: u8 = 0;

/// The constants of a pattern of which a key holds only a digest.
pub(crate) fn long_constants(pattern: &Pattern) -> impl Iterator<Item = &(Loc, Box<[u8]>)> {
    pattern.constants.iter().filter(|(_, bytes)| bytes.len() > LONG_BYTES)
}

/// The key of a pattern's constants.
pub(crate) fn key_of_pattern(pattern: &Pattern) -> Vec<u8> {
    let mut key = Vec::new();
    pattern.constants.iter().for_each(|(_, bytes)| append(bytes, &mut key));
    key
}

/// The key of a value's parts at a skeleton's positions: borrowed if there is but one. `None` if one is missing.
#[inline(always)]
pub(crate) fn key_of<'a>(
    constants: &[Loc],
    value: View<'a>,
    registers: &[u32],
    finder: &mut Finder,
    buffer: &'a mut Vec<u8>,
) -> Option<&'a [u8]> {
    match constants {
        [] => return Some(&[]),
        [one] => {
            let part = resolve(one, value, registers, finder)?.span();
            if part.len() <= LONG_BYTES {
                return Some(part);
            }
            buffer.clear();
            append(part, buffer);
        }
        many => {
            buffer.clear();
            for loc in many {
                append(resolve(loc, value, registers, finder)?.span(), buffer);
            }
        }
    }
    Some(buffer)
}

fn append(part: &[u8], key: &mut Vec<u8>) {
    if part.len() <= LONG_BYTES {
        key.extend_from_slice(part);
        return;
    }
    key.push(DIGEST);
    key.extend_from_slice(&(part.len() as u64).to_be_bytes());
    key.extend_from_slice(&part[..PART_BYTES]);
    key.extend_from_slice(&part[part.len() - PART_BYTES..]);
}

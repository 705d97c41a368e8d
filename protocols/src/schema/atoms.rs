//! Atoms as Rust has them.

use super::{Codec, Input, Int, Mismatch, MismatchKind};
use crate::wire::{encode, tag};

impl Codec for bool {
    const NAME: &'static str = "a boolean";

    fn read_from(input: Input<'_>) -> Result<bool, Mismatch> {
        match input.view().tag() {
            tag::FALSE => Ok(false),
            tag::TRUE => Ok(true),
            _ => Err(input.mismatch(MismatchKind::Expected(Self::NAME))),
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.push(if *self { tag::TRUE } else { tag::FALSE });
    }
}

impl Codec for Int {
    const NAME: &'static str = "an integer";

    fn read_from(input: Input<'_>) -> Result<Int, Mismatch> {
        input.view().as_int().ok_or(input.mismatch(MismatchKind::Expected(Self::NAME)))
    }

    fn write(&self, out: &mut Vec<u8>) {
        Int::write(self, out);
    }
}

impl Codec for String {
    const NAME: &'static str = "a string";

    fn read_from(input: Input<'_>) -> Result<String, Mismatch> {
        let text = input.view().as_string();
        text.map(str::to_owned).ok_or(input.mismatch(MismatchKind::Expected(Self::NAME)))
    }

    fn write(&self, out: &mut Vec<u8>) {
        encode::string(out, self);
    }
}

/// A byte string.
impl Codec for Vec<u8> {
    const NAME: &'static str = "a byte string";

    fn read_from(input: Input<'_>) -> Result<Vec<u8>, Mismatch> {
        let bytes = input.view().as_bytes();
        bytes.map(<[u8]>::to_vec).ok_or(input.mismatch(MismatchKind::Expected(Self::NAME)))
    }

    fn write(&self, out: &mut Vec<u8>) {
        encode::bytes(out, self);
    }
}

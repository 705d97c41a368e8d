//! The little of the wire that a load generator needs: an encoder for packets that are built once and patched
//! in place, and a scanner for what a broker sends to observers.
//!
//! It is written apart from the broker's own codec on purpose: a fault shared by both would not be seen.

pub mod decode;
pub mod encode;
pub mod stream;

/// `#f`, also the Nop packet.
pub const FALSE: u8 = 0x80;
/// `#t`, the answer to a Sync.
pub const TRUE: u8 = 0x81;
/// Closes a compound value.
pub const END: u8 = 0x84;
/// An annotation, followed by the annotation's value and then by the annotated value.
pub const ANNOTATION: u8 = 0x85;
/// An embedded value: on this wire a capability.
pub const EMBEDDED: u8 = 0x86;
/// A double; its length is always 8.
pub const DOUBLE: u8 = 0x87;
/// A signed integer: length, then two's complement, big-endian.
pub const INTEGER: u8 = 0xb0;
/// A string: length, then UTF-8.
pub const STRING: u8 = 0xb1;
/// A byte string: length, then bytes.
pub const BYTES: u8 = 0xb2;
/// A symbol: length, then UTF-8.
pub const SYMBOL: u8 = 0xb3;
/// Opens a record: label, fields, [`END`].
pub const RECORD: u8 = 0xb4;
/// Opens a sequence.
pub const SEQUENCE: u8 = 0xb5;
/// Opens a set.
pub const SET: u8 = 0xb6;
/// Opens a dictionary: key, value, key, value, ..., [`END`].
pub const DICTIONARY: u8 = 0xb7;

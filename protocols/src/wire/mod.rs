//! The Preserves machine syntax: scanning, viewing, ordering and writing.
//!
//! The scanner checks and indexes bytes; a [`View`] reads them; [`canonicalize`] rewrites the rare value that
//! is legal but not canonical, so that everything after it may compare values as bytes.

mod atom;
mod canon;
pub mod encode;
mod limits;
mod order;
mod scan;
mod view;

pub(crate) use canon::minimal;
pub use canon::{CanonError, canonicalize};
pub use limits::Limits;
pub use order::sort_key;
pub use scan::{Prefix, Progress, ScanError, ScanErrorKind, Scanner};
pub use view::{Children, Int, Node, Tape, View};

/// First bytes of Preserves values in machine syntax.
pub mod tag {
    #![allow(missing_docs)]
    pub const FALSE: u8 = 0x80;
    pub const TRUE: u8 = 0x81;
    pub const END: u8 = 0x84;
    pub const ANNOTATION: u8 = 0x85;
    pub const EMBEDDED: u8 = 0x86;
    pub const IEEE754: u8 = 0x87;
    pub const INTEGER: u8 = 0xb0;
    pub const STRING: u8 = 0xb1;
    pub const BYTES: u8 = 0xb2;
    pub const SYMBOL: u8 = 0xb3;
    pub const RECORD: u8 = 0xb4;
    pub const SEQUENCE: u8 = 0xb5;
    pub const SET: u8 = 0xb6;
    pub const DICTIONARY: u8 = 0xb7;
}

//! The Preserves text syntax: for people, logs and configuration.
//!
//! [`write()`] prints a value, and stops where it is told to; [`parse`] and [`parse_all`] read text into
//! canonical bytes, and [`StreamReader`] does so with text that arrives in pieces. None recurses. Binary messages do
//! not come this way, so they are made to be clear, not fast.

mod atom;
mod build;
mod number;
mod parse;
mod stream;
mod write;

pub use parse::{parse, parse_all};
pub use stream::StreamReader;
pub use write::write;

/// Why a text is not a value, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {what}")]
pub struct TextError {
    /// The line, from 1.
    pub line: u32,
    /// The column in characters, from 1.
    pub column: u32,
    /// What is wrong there.
    pub what: TextErrorKind,
}

/// What is wrong with a text. All are its author's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TextErrorKind {
    /// The text ends before the value does. The position is where what is still open began.
    #[error("the text ends before this does")]
    Incomplete,
    /// A character that cannot stand here.
    #[error("unexpected {0:?}")]
    Unexpected(char),
    /// A token that is not UTF-8.
    #[error("invalid UTF-8")]
    Utf8,
    /// Something after the end of the value.
    #[error("something follows the value")]
    Trailing,
    /// `<>`.
    #[error("a record needs a label")]
    MissingLabel,
    /// An escape that does not exist in this kind of literal.
    #[error("invalid escape")]
    Escape,
    /// A `\u` escape that is half of a pair, or of no character.
    #[error("invalid code point")]
    CodePoint,
    /// Not pairs of hexadecimal digits.
    #[error("invalid hexadecimal digits")]
    Hex,
    /// Not base 64.
    #[error("invalid base 64")]
    Base64,
    /// A `#xd"..."` that is not 8 bytes long.
    #[error("a hexadecimal double must have 16 digits")]
    DoubleLength,
    /// `#` and something that does not go with it.
    #[error("invalid # syntax")]
    Hash,
    /// The same set element or dictionary key twice; this is the second.
    #[error("duplicate set element or dictionary key")]
    Duplicate,
    /// Nested deeper than [`crate::wire::Limits::depth_max`].
    #[error("nested deeper than {0} levels")]
    TooDeep(u16),
    /// Longer than [`crate::wire::Limits::packet_bytes_max`].
    #[error("longer than the limit of {0} bytes")]
    TooLong(u32),
    /// More tokens than [`crate::wire::Limits::tokens_max`].
    #[error("more than {0} tokens")]
    TooManyTokens(u32),
    /// An integer longer than [`crate::wire::Limits::integer_bytes_max`].
    #[error("integer longer than {0} bytes")]
    IntegerTooLong(u32),
}

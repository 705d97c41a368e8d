//! Text that arrives in pieces to canonical bytes, value by value.
//!
//! Of each piece, every byte is looked at once to find where tokens end, and tokens are read when they are complete:
//! a string that arrives byte by byte costs no more than one that arrives whole. What is kept between two pieces is
//! the value as far as it has come, in canonical form, and the beginning of one token.

use super::atom::{Cursor, is_blank, is_delimiter};
use super::build::Builder;
use super::{TextError, TextErrorKind};
use crate::wire::Limits;

/// Reads the values of a text that arrives in pieces.
///
/// Blanks, comments and annotations may stand before each value. A symbol, number or boolean is complete when
/// something else follows it. A byte beyond ASCII in front of a value is taken for the beginning of something else than
/// text (a symbol in quotes is none).
///
/// **Invariant:** what it reads, and what it finds wrong, do not depend on where the text was cut.
pub struct StreamReader {
    builder: Builder,
    state: State,
    /// The beginning of a token that has not arrived whole.
    partial: Vec<u8>,
    /// Where the token at hand begins, or else where the text has come to.
    place: Place,
    /// The value in the builder has been handed out.
    is_complete: bool,
}

/// Within what the text has come to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Between,
    /// Up to the end of the line.
    Comment,
    /// A symbol, number or boolean: up to a delimiter.
    Bare,
    /// After `#`.
    Hash,
    /// After `#x`.
    Hexadecimal,
    /// After `#xd`.
    Double,
    /// Up to this byte.
    Until(u8),
    /// Up to this quote.
    Quoted(u8),
    /// After a backslash, within these quotes.
    Escaped(u8),
}

/// What a byte does.
enum Step {
    /// It is part of no token, and neither is what came before it.
    Skip,
    /// It is part of a token that goes on.
    More,
    /// A token ends with it.
    Ends,
    /// A token ended before it.
    Ended,
}

/// A position, for people.
#[derive(Clone, Copy)]
struct Place {
    line: u32,
    column: u32,
}

impl Place {
    fn pass(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if *byte == b'\n' {
                // On a connection that lasts it may come round.
                self.line = self.line.wrapping_add(1);
                self.column = 1;
            } else if *byte & 0xc0 != 0x80 {
                self.column = self.column.saturating_add(1);
            }
        }
    }
}

/// Memory that is kept for the next value.
const KEPT_BYTES: usize = 4 << 10;

impl StreamReader {
    /// One whose values each keep within `limits`. A single token's text, too, may be as long as a value at most.
    pub fn new(limits: Limits) -> StreamReader {
        StreamReader {
            builder: Builder::new(limits),
            state: State::Between,
            partial: Vec::new(),
            place: Place { line: 1, column: 1 },
            is_complete: false,
        }
    }

    /// Whether nothing has been begun: neither a value, nor a comment.
    pub fn is_idle(&self) -> bool {
        self.state == State::Between && (self.is_complete || self.builder.open.is_empty())
    }

    /// Other limits, from here on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.builder.limits = limits;
    }

    /// Bytes of memory that it holds.
    pub fn memory_bytes(&self) -> usize {
        self.partial.capacity() + self.builder.memory_bytes()
    }

    /// Reads on, up to the end of a value or the beginning of something else at most. Returns how many bytes that took,
    /// which are not to be given again, and the value in canonical form, if it is complete.
    ///
    /// Costs a pass over the bytes, and what [`super::parse`] costs.
    ///
    /// # Errors
    /// [`TextError`] if no continuation can make this a value that `limits` let through; it is of no use any more.
    pub fn read(&mut self, bytes: &[u8]) -> Result<(usize, Option<&[u8]>), TextError> {
        if std::mem::take(&mut self.is_complete) {
            self.builder.reset(KEPT_BYTES);
        }
        // Of the token at hand, or of what has not been passed.
        let mut start = 0;
        let mut at = 0;
        while at < bytes.len() {
            if bytes[at] >= 0x80 && self.is_idle() {
                return Ok((at, None));
            }
            let step = self.step(bytes[at]);
            at += !matches!(step, Step::Ended) as usize;
            match step {
                Step::More => continue,
                Step::Skip => {
                    let partial = std::mem::take(&mut self.partial);
                    self.place.pass(&partial);
                }
                Step::Ends | Step::Ended => {
                    if self.token(&bytes[start..at])? {
                        self.is_complete = true;
                        return Ok((at, Some(&self.builder.out)));
                    }
                    start = at;
                    continue;
                }
            }
            self.place.pass(&bytes[start..at]);
            start = at;
        }
        self.check_length(self.partial.len() + bytes.len() - start)?;
        self.partial.extend_from_slice(&bytes[start..]);
        Ok((at, None))
    }

    fn check_length(&self, token_bytes: usize) -> Result<(), TextError> {
        let max = self.builder.limits.packet_bytes_max;
        match token_bytes > max as usize {
            true => Err(self.error_after(&[], TextErrorKind::TooLong(max))),
            false => Ok(()),
        }
    }

    /// Goes on by one byte.
    fn step(&mut self, byte: u8) -> Step {
        let (state, step) = match self.state {
            State::Between => match byte {
                _ if is_blank(byte) => (State::Between, Step::Skip),
                b',' if self.builder.takes_commas() => (State::Between, Step::Skip),
                b'#' => (State::Hash, Step::More),
                b'"' | b'\'' => (State::Quoted(byte), Step::More),
                _ if is_delimiter(byte) => (State::Between, Step::Ends),
                _ => (State::Bare, Step::More),
            },
            State::Comment if matches!(byte, b'\n' | b'\r') => (State::Between, Step::Skip),
            State::Comment => (State::Comment, Step::Skip),
            State::Bare if is_delimiter(byte) => (State::Between, Step::Ended),
            State::Bare => (State::Bare, Step::More),
            State::Hash => match byte {
                b'\n' | b'\r' => (State::Between, Step::Skip),
                b' ' | b'\t' | b'!' => (State::Comment, Step::Skip),
                b'"' => (State::Quoted(byte), Step::More),
                b'[' => (State::Until(b']'), Step::More),
                b'x' => (State::Hexadecimal, Step::More),
                b't' | b'f' => (State::Bare, Step::More),
                _ => (State::Between, Step::Ends),
            },
            State::Hexadecimal if byte == b'd' => (State::Double, Step::More),
            State::Hexadecimal | State::Double if byte == b'"' => (State::Until(byte), Step::More),
            State::Hexadecimal | State::Double => (State::Between, Step::Ends),
            State::Until(end) | State::Quoted(end) if byte == end => (State::Between, Step::Ends),
            State::Quoted(quote) if byte == b'\\' => (State::Escaped(quote), Step::More),
            State::Until(_) | State::Quoted(_) => (self.state, Step::More),
            State::Escaped(quote) => (State::Quoted(quote), Step::More),
        };
        self.state = state;
        step
    }

    /// Reads a token that is complete: what came before, and `rest`. True if a value is complete with it.
    fn token(&mut self, rest: &[u8]) -> Result<bool, TextError> {
        self.check_length(self.partial.len() + rest.len())?;
        let mut partial = std::mem::take(&mut self.partial);
        let bytes = if partial.is_empty() {
            rest
        } else {
            partial.extend_from_slice(rest);
            &partial
        };
        // Tokens end with ASCII characters, or before them, so that no character is cut but by an error.
        let text = std::str::from_utf8(bytes).map_err(|error| {
            let before = &bytes[..error.valid_up_to()];
            self.error_after(before, TextErrorKind::Utf8)
        })?;
        let mut cursor = Cursor { text, at: 0 };
        match self.builder.token(&mut cursor, bytes[0]) {
            Ok(has_ended) => {
                debug_assert_eq!(cursor.at, text.len(), "{text}");
                self.place.pass(bytes);
                Ok(has_ended && self.builder.complete())
            }
            Err((at, what)) => Err(self.error_after(&bytes[..at.min(bytes.len())], what)),
        }
    }

    /// An error behind these bytes of the token at hand.
    fn error_after(&self, before: &[u8], what: TextErrorKind) -> TextError {
        let mut place = self.place;
        place.pass(before);
        TextError { line: place.line, column: place.column, what }
    }
}

//! Text that is there whole to canonical bytes.

use super::atom::{Cursor, Fault, is_blank};
use super::build::{Builder, Kind, Open};
use super::{TextError, TextErrorKind};
use crate::wire::{Limits, tag};

/// Reads one value. Blanks and comments around it are skipped; annotations and comments within are dropped.
///
/// Comments may stand wherever blanks may (some readers insist that a value follows them). Iterative. Costs a
/// pass over the text, and a sort and a copy of each set and dictionary that is not in canonical order.
///
/// # Errors
/// [`TextError`] if it is not exactly one value, or one that `limits` would not let through in machine syntax.
pub fn parse(text: &str, limits: &Limits) -> Result<Vec<u8>, TextError> {
    read(text, limits, false)
}

/// Reads all the values in a text, none being fine too, and returns them as one sequence.
///
/// # Errors
/// As [`parse`].
pub fn parse_all(text: &str, limits: &Limits) -> Result<Vec<u8>, TextError> {
    read(text, limits, true)
}

fn read(text: &str, limits: &Limits, all: bool) -> Result<Vec<u8>, TextError> {
    let mut reader = Reader { cursor: Cursor { text, at: 0 }, builder: Builder::new(*limits) };
    match reader.run(all) {
        Ok(()) => Ok(reader.builder.out),
        Err((at, what)) => {
            let before = text.get(..at).unwrap_or(text);
            let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
            let line = 1 + before.bytes().filter(|b| *b == b'\n').count() as u32;
            let column = 1 + before[line_start..].chars().count() as u32;
            Err(TextError { line, column, what })
        }
    }
}

struct Reader<'t> {
    cursor: Cursor<'t>,
    builder: Builder,
}

impl Reader<'_> {
    fn run(&mut self, all: bool) -> Result<(), Fault> {
        if all {
            self.builder.open(0, Kind::Stream, &[tag::SEQUENCE])?;
        }
        loop {
            self.skip(true);
            let at = self.cursor.at;
            let Some(first) = self.cursor.peek() else {
                return match &self.builder.open[..] {
                    [Open { kind: Kind::Stream, .. }] => {
                        self.builder.out.push(tag::END);
                        self.builder.count(at)
                    }
                    [.., innermost] => Err((innermost.at, TextErrorKind::Incomplete)),
                    [] => Err((at, TextErrorKind::Incomplete)),
                };
            };
            if self.builder.token(&mut self.cursor, first)? && self.builder.complete() {
                self.skip(false);
                return match self.cursor.peek() {
                    Some(_) => Err((self.cursor.at, TextErrorKind::Trailing)),
                    None => Ok(()),
                };
            }
        }
    }

    /// Skips blanks, comments and, where they may stand, commas.
    fn skip(&mut self, commas: bool) {
        let commas = commas && self.builder.takes_commas();
        loop {
            self.cursor.take_while(|b| is_blank(b) || (commas && b == b','));
            match &self.cursor.text.as_bytes()[self.cursor.at..] {
                [b'#', b' ' | b'\t' | b'\n' | b'\r' | b'!', ..] => {
                    self.cursor.at += 1;
                    self.cursor.take_while(|b| b != b'\n' && b != b'\r');
                }
                _ => return,
            }
        }
    }
}

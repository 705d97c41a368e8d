//! Text to canonical bytes.
//!
//! Values are written in canonical form as they are read; the elements of a set or dictionary are put into order
//! when it closes. Annotations are read like values and then cut off again.

use super::atom::{Cursor, Fault, is_blank, is_delimiter};
use super::{TextError, TextErrorKind, number};
use crate::wire::{Limits, encode, minimal, tag};

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
    let mut reader = Reader {
        cursor: Cursor { text, at: 0 },
        limits: *limits,
        out: Vec::new(),
        tokens: 0,
        open: Vec::new(),
    };
    match reader.run(all) {
        Ok(()) => Ok(reader.out),
        Err((at, what)) => {
            let before = text.get(..at).unwrap_or(text);
            let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
            let line = 1 + before.bytes().filter(|b| *b == b'\n').count() as u32;
            let column = 1 + before[line_start..].chars().count() as u32;
            Err(TextError { line, column, what })
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The whole text, when it is read as a sequence.
    Stream,
    Sequence,
    Record,
    Set,
    DictionaryKey,
    DictionaryColon,
    DictionaryValue,
    Embedded,
    Annotation,
    Annotated,
}

/// What has been begun.
struct Open {
    kind: Kind,
    /// Position in the text.
    at: usize,
    /// Where it began in the output.
    start: usize,
    /// Of a set or dictionary: its elements or entries.
    items: Vec<Item>,
}

/// An element or entry, in the output.
struct Item {
    start: usize,
    /// Where the key ends and the value begins.
    value: usize,
    /// Position in the text.
    at: usize,
}

struct Reader<'t> {
    cursor: Cursor<'t>,
    limits: Limits,
    out: Vec<u8>,
    tokens: u32,
    open: Vec<Open>,
}

impl Reader<'_> {
    fn run(&mut self, all: bool) -> Result<(), Fault> {
        if all {
            self.open(0, Kind::Stream, &[tag::SEQUENCE])?;
        }
        loop {
            self.skip(true);
            let at = self.cursor.at;
            let Some(first) = self.cursor.peek() else {
                return match &self.open[..] {
                    [Open { kind: Kind::Stream, .. }] => {
                        self.out.push(tag::END);
                        self.count(at)
                    }
                    [.., innermost] => Err((innermost.at, TextErrorKind::Incomplete)),
                    [] => Err((at, TextErrorKind::Incomplete)),
                };
            };
            if self.token(at, first)? && self.complete() {
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
        let commas = commas
            && self
                .open
                .last()
                .is_some_and(|top| matches!(top.kind, Kind::Sequence | Kind::Set | Kind::DictionaryKey));
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

    /// One token; true if a value ended with it.
    fn token(&mut self, at: usize, first: u8) -> Result<bool, Fault> {
        let is_colon_due = self.open.last().is_some_and(|top| top.kind == Kind::DictionaryColon);
        if is_colon_due != (first == b':') {
            return Err(self.cursor.unexpected(at));
        }
        self.cursor.at += 1;
        match first {
            b':' => {
                if let Some(top) = self.open.last_mut() {
                    top.kind = Kind::DictionaryValue;
                }
                return Ok(false);
            }
            b'<' => self.open(at, Kind::Record, &[tag::RECORD])?,
            b'[' => self.open(at, Kind::Sequence, &[tag::SEQUENCE])?,
            b'{' => self.open(at, Kind::DictionaryKey, &[tag::DICTIONARY])?,
            b'@' => self.open(at, Kind::Annotation, &[])?,
            b'>' | b']' | b'}' => {
                self.close(at, first)?;
                return Ok(true);
            }
            b'"' => {
                let content = self.cursor.quoted(at, b'"')?;
                self.atom(at, tag::STRING, &content)?;
                return Ok(true);
            }
            b'\'' => {
                let content = self.cursor.quoted(at, b'\'')?;
                self.atom(at, tag::SYMBOL, &content)?;
                return Ok(true);
            }
            b'#' => return self.hash(at),
            _ if is_delimiter(first) => return Err(self.cursor.unexpected(at)),
            _ => {
                self.bare(at)?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What begins with `#`, and is no comment; true if a value ended with it.
    fn hash(&mut self, at: usize) -> Result<bool, Fault> {
        match self.cursor.byte(at)? {
            b'{' => {
                self.open(at, Kind::Set, &[tag::SET])?;
                return Ok(false);
            }
            b':' => {
                self.open(at, Kind::Embedded, &[tag::EMBEDDED])?;
                return Ok(false);
            }
            boolean @ (b't' | b'f') => {
                if self.cursor.peek().is_some_and(|next| !is_delimiter(next)) {
                    return Err((at, TextErrorKind::Hash));
                }
                self.begin(at);
                self.out.push(if boolean == b't' { tag::TRUE } else { tag::FALSE });
                self.count(at)?;
            }
            b'"' => {
                let content = self.cursor.byte_string(at)?;
                self.atom(at, tag::BYTES, &content)?;
            }
            b'[' => {
                let content = self.cursor.base64(at)?;
                self.atom(at, tag::BYTES, &content)?;
            }
            b'x' => match self.cursor.byte(at)? {
                b'"' => {
                    let content = self.cursor.hex_string(at)?;
                    self.atom(at, tag::BYTES, &content)?;
                }
                b'd' if self.cursor.byte(at)? == b'"' => {
                    let content = self.cursor.hex_string(at)?;
                    if content.len() != 8 {
                        return Err((at, TextErrorKind::DoubleLength));
                    }
                    self.atom(at, tag::IEEE754, &content)?;
                }
                _ => return Err((at, TextErrorKind::Hash)),
            },
            _ => return Err((at, TextErrorKind::Hash)),
        }
        Ok(true)
    }

    /// A bare symbol, or a number.
    fn bare(&mut self, at: usize) -> Result<(), Fault> {
        self.cursor.at = at;
        let token = self.cursor.take_while(|b| !is_delimiter(b));
        match number::is_number(token) {
            None => self.atom(at, tag::SYMBOL, token),
            Some(true) => {
                let bytes_max = self.limits.integer_bytes_max;
                let too_long = (at, TextErrorKind::IntegerTooLong(bytes_max));
                let content = number::integer_from_decimal(token, bytes_max).ok_or(too_long)?;
                let content = minimal(&content);
                if content.len() > bytes_max as usize {
                    return Err(too_long);
                }
                self.atom(at, tag::INTEGER, content)
            }
            Some(false) => {
                let double = std::str::from_utf8(token).ok().and_then(|t| t.parse::<f64>().ok());
                let double = double.ok_or_else(|| self.cursor.unexpected(at))?;
                self.atom(at, tag::IEEE754, &double.to_be_bytes())
            }
        }
    }

    fn atom(&mut self, at: usize, tag: u8, content: &[u8]) -> Result<(), Fault> {
        self.begin(at);
        encode::atom(&mut self.out, tag, content);
        self.count(at)
    }

    fn open(&mut self, at: usize, kind: Kind, opening: &[u8]) -> Result<(), Fault> {
        if self.open.len() >= self.limits.depth_max as usize {
            return Err((at, TextErrorKind::TooDeep(self.limits.depth_max)));
        }
        self.begin(at);
        self.open.push(Open { kind, at, start: self.out.len(), items: Vec::new() });
        self.out.extend_from_slice(opening);
        self.count(at)
    }

    /// A value begins: tells the set or dictionary around it.
    fn begin(&mut self, at: usize) {
        let start = self.out.len();
        let Some(top) = self.open.last_mut() else { return };
        match top.kind {
            Kind::Set | Kind::DictionaryKey => top.items.push(Item { start, value: start, at }),
            Kind::DictionaryValue => {
                if let Some(item) = top.items.last_mut() {
                    item.value = start;
                }
            }
            _ => {}
        }
    }

    /// One more token in the output.
    fn count(&mut self, at: usize) -> Result<(), Fault> {
        let Limits { tokens_max, packet_bytes_max, .. } = self.limits;
        if self.tokens >= tokens_max {
            return Err((at, TextErrorKind::TooManyTokens(tokens_max)));
        }
        if self.out.len() > packet_bytes_max as usize {
            return Err((at, TextErrorKind::TooLong(packet_bytes_max)));
        }
        self.tokens += 1;
        Ok(())
    }

    fn close(&mut self, at: usize, bracket: u8) -> Result<(), Fault> {
        let unexpected = self.cursor.unexpected(at);
        let top = self.open.pop().ok_or(unexpected)?;
        match (top.kind, bracket) {
            (Kind::Sequence, b']') | (Kind::Set | Kind::DictionaryKey, b'}') => {}
            (Kind::Record, b'>') if self.out.len() == top.start + 1 => {
                return Err((at, TextErrorKind::MissingLabel));
            }
            (Kind::Record, b'>') => {}
            _ => return Err(unexpected),
        }
        self.sort(&top)?;
        self.out.push(tag::END);
        self.count(at)
    }

    /// Puts the items of the set or dictionary that the output ends with into order.
    fn sort(&mut self, top: &Open) -> Result<(), Fault> {
        let end = self.out.len();
        // Where a key begins and ends, where its entry ends, and its position in the text.
        let mut sorted: Vec<(usize, usize, usize, usize)> = Vec::new();
        for (i, item) in top.items.iter().enumerate() {
            let entry_end = top.items.get(i + 1).map_or(end, |next| next.start);
            let key_end = if top.kind == Kind::Set { entry_end } else { item.value };
            sorted.push((item.start, key_end, entry_end, item.at));
        }
        let out = &self.out;
        let key = |item: &(usize, usize, usize, usize)| &out[item.0..item.1];
        if sorted.is_sorted_by(|a, b| key(a) < key(b)) {
            return Ok(());
        }
        sorted.sort_by(|a, b| key(a).cmp(key(b)));
        if let Some(pair) = sorted.windows(2).find(|pair| key(&pair[0]) == key(&pair[1])) {
            return Err((pair[1].3, TextErrorKind::Duplicate));
        }
        let ordered: Vec<u8> = sorted.iter().flat_map(|item| &out[item.0..item.2]).copied().collect();
        self.out[top.start + 1..].copy_from_slice(&ordered);
        Ok(())
    }

    /// A value ended: tells what is around it. True if it was the outermost.
    fn complete(&mut self) -> bool {
        while let Some(top) = self.open.last_mut() {
            match top.kind {
                Kind::DictionaryKey => top.kind = Kind::DictionaryColon,
                Kind::DictionaryValue => top.kind = Kind::DictionaryKey,
                Kind::Annotation => {
                    self.out.truncate(top.start);
                    top.kind = Kind::Annotated;
                }
                Kind::Embedded | Kind::Annotated => {
                    self.open.pop();
                    continue;
                }
                _ => {}
            }
            return false;
        }
        true
    }
}

//! Tokens of text to canonical bytes.
//!
//! Values are written in canonical form as they are read; the elements of a set or dictionary are put into order
//! when it closes. Annotations are read like values and then cut off again.

use super::atom::{Cursor, Fault, is_delimiter};
use super::{TextErrorKind, number};
use crate::wire::{Limits, encode, minimal, tag};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
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
pub(super) struct Open {
    pub(super) kind: Kind,
    /// Position in the text.
    pub(super) at: usize,
    /// Where it began in the output.
    start: usize,
    /// Of a set or dictionary: its elements or entries.
    items: Vec<Item>,
}

/// An element or entry, in the output. There may be very many, and limits fit 32 bits.
struct Item {
    start: u32,
    /// Where the key ends and the value begins.
    value: u32,
    /// Position in the text.
    at: u32,
}

/// What one value, or several, have come to so far.
pub(super) struct Builder {
    pub(super) limits: Limits,
    pub(super) out: Vec<u8>,
    pub(super) tokens: u32,
    pub(super) open: Vec<Open>,
}

impl Builder {
    pub(super) fn new(limits: Limits) -> Builder {
        Builder { limits, out: Vec::new(), tokens: 0, open: Vec::new() }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.out.capacity() + self.open.capacity() * size_of::<Open>()
    }

    /// Forgets the value, and all memory but some.
    pub(super) fn reset(&mut self, kept_bytes: usize) {
        self.out.clear();
        self.out.shrink_to(kept_bytes);
        self.tokens = 0;
    }

    /// Whether commas may stand here, like blanks.
    pub(super) fn takes_commas(&self) -> bool {
        let top = self.open.last();
        top.is_some_and(|top| matches!(top.kind, Kind::Sequence | Kind::Set | Kind::DictionaryKey))
    }

    /// One token; true if a value ended with it.
    pub(super) fn token(&mut self, cursor: &mut Cursor<'_>, first: u8) -> Result<bool, Fault> {
        let at = cursor.at;
        let is_colon_due = self.open.last().is_some_and(|top| top.kind == Kind::DictionaryColon);
        if is_colon_due != (first == b':') {
            return Err(cursor.unexpected(at));
        }
        cursor.at += 1;
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
            b'@' => self.annotation(at)?,
            b'>' | b']' | b'}' => {
                self.close(cursor, at, first)?;
                return Ok(true);
            }
            b'"' => {
                let content = cursor.quoted(at, b'"')?;
                self.atom(at, tag::STRING, &content)?;
                return Ok(true);
            }
            b'\'' => {
                let content = cursor.quoted(at, b'\'')?;
                self.atom(at, tag::SYMBOL, &content)?;
                return Ok(true);
            }
            b'#' => return self.hash(cursor, at),
            _ if is_delimiter(first) => return Err(cursor.unexpected(at)),
            _ => {
                self.bare(cursor, at)?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What begins with `#`, and is no comment; true if a value ended with it.
    fn hash(&mut self, cursor: &mut Cursor<'_>, at: usize) -> Result<bool, Fault> {
        match cursor.byte(at)? {
            b'{' => {
                self.open(at, Kind::Set, &[tag::SET])?;
                return Ok(false);
            }
            b':' => {
                self.open(at, Kind::Embedded, &[tag::EMBEDDED])?;
                return Ok(false);
            }
            boolean @ (b't' | b'f') => {
                if cursor.peek().is_some_and(|next| !is_delimiter(next)) {
                    return Err((at, TextErrorKind::Hash));
                }
                self.begin(at);
                self.out.push(if boolean == b't' { tag::TRUE } else { tag::FALSE });
                self.count(at)?;
            }
            b'"' => {
                let content = cursor.byte_string(at)?;
                self.atom(at, tag::BYTES, &content)?;
            }
            b'[' => {
                let content = cursor.base64(at)?;
                self.atom(at, tag::BYTES, &content)?;
            }
            b'x' => match cursor.byte(at)? {
                b'"' => {
                    let content = cursor.hex_string(at)?;
                    self.atom(at, tag::BYTES, &content)?;
                }
                b'd' if cursor.byte(at)? == b'"' => {
                    let content = cursor.hex_string(at)?;
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
    fn bare(&mut self, cursor: &mut Cursor<'_>, at: usize) -> Result<(), Fault> {
        cursor.at = at;
        let token = cursor.take_while(|b| !is_delimiter(b));
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
                let double = double.ok_or_else(|| cursor.unexpected(at))?;
                self.atom(at, tag::IEEE754, &double.to_be_bytes())
            }
        }
    }

    fn atom(&mut self, at: usize, tag: u8, content: &[u8]) -> Result<(), Fault> {
        self.begin(at);
        encode::atom(&mut self.out, tag, content);
        self.count(at)
    }

    pub(super) fn open(&mut self, at: usize, kind: Kind, opening: &[u8]) -> Result<(), Fault> {
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
        let start = self.out.len() as u32;
        let Some(top) = self.open.last_mut() else { return };
        match top.kind {
            Kind::Set | Kind::DictionaryKey => top.items.push(Item { start, value: start, at: at as u32 }),
            Kind::DictionaryValue => {
                if let Some(item) = top.items.last_mut() {
                    item.value = start;
                }
            }
            _ => {}
        }
    }

    /// One more token in the output.
    pub(super) fn count(&mut self, at: usize) -> Result<(), Fault> {
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

    /// An annotation begins. Many of one value are one after the other, not one in the other.
    fn annotation(&mut self, at: usize) -> Result<(), Fault> {
        match self.open.last_mut() {
            Some(top) if top.kind == Kind::Annotated => {
                top.kind = Kind::Annotation;
                self.count(at)
            }
            _ => self.open(at, Kind::Annotation, &[]),
        }
    }

    fn close(&mut self, cursor: &Cursor<'_>, at: usize, bracket: u8) -> Result<(), Fault> {
        let unexpected = cursor.unexpected(at);
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
        let end = self.out.len() as u32;
        // Where a key begins and ends, where its entry ends, and its position in the text.
        let mut sorted: Vec<(u32, u32, u32, u32)> = Vec::with_capacity(top.items.len());
        for (i, item) in top.items.iter().enumerate() {
            let entry_end = top.items.get(i + 1).map_or(end, |next| next.start);
            let key_end = if top.kind == Kind::Set { entry_end } else { item.value };
            sorted.push((item.start, key_end, entry_end, item.at));
        }
        let out = &self.out;
        let key = |item: &(u32, u32, u32, u32)| &out[item.0 as usize..item.1 as usize];
        if sorted.is_sorted_by(|a, b| key(a) < key(b)) {
            return Ok(());
        }
        sorted.sort_by(|a, b| key(a).cmp(key(b)));
        if let Some(pair) = sorted.windows(2).find(|pair| key(&pair[0]) == key(&pair[1])) {
            return Err((pair[1].3 as usize, TextErrorKind::Duplicate));
        }
        let ordered: Vec<u8> =
            sorted.iter().flat_map(|item| &out[item.0 as usize..item.2 as usize]).copied().collect();
        self.out[top.start + 1..].copy_from_slice(&ordered);
        Ok(())
    }

    /// A value ended: tells what is around it. True if it was the outermost.
    pub(super) fn complete(&mut self) -> bool {
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

//! The scanner: one forward pass, no recursion, bounded, and resumable.
//!
//! A value that arrives in pieces is scanned up to the last complete token, and the next call goes on from
//! there; only the header of the one atom that was cut (at most 11 bytes) is read again.

use super::tag;
use super::view::Node;
use super::{Limits, Tape, View};

/// Where a scan stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// One value is complete; it takes this many bytes.
    Complete(usize),
    /// More bytes are needed: at least this many in all, counted from the value's first byte.
    Incomplete(usize),
}

/// Why bytes are not a value, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("position {at}: {kind}")]
pub struct ScanError {
    /// Offset of the offending token from the value's first byte.
    pub at: usize,
    /// What is wrong there.
    pub kind: ScanErrorKind,
}

/// What is wrong with a value. All are the peer's fault: answer with an error and close that session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ScanErrorKind {
    /// A first byte that starts no value.
    #[error("invalid Preserves tag {0:#04x}")]
    Tag(u8),
    /// An end marker where a value must stand.
    #[error("end of compound where a value was expected")]
    UnexpectedEnd,
    /// A string or symbol that is not UTF-8.
    #[error("invalid UTF-8")]
    Utf8,
    /// A float whose length is not 8.
    #[error("floats must be 8 bytes long")]
    FloatLength,
    /// A length that does not fit 64 bits.
    #[error("length too long")]
    LengthTooLong,
    /// A dictionary with a key but no value for it.
    #[error("dictionary key without a value")]
    OddDictionary,
    /// The same set element or dictionary key twice.
    #[error("duplicate set element or dictionary key")]
    Duplicate,
    /// Nested deeper than [`Limits::depth_max`].
    #[error("nested deeper than {0} levels")]
    TooDeep(u16),
    /// Longer than [`Limits::packet_bytes_max`].
    #[error("longer than the limit of {0} bytes")]
    TooLong(u32),
    /// More tokens than [`Limits::tokens_max`].
    #[error("more than {0} tokens")]
    TooManyTokens(u32),
    /// An integer longer than [`Limits::integer_bytes_max`].
    #[error("integer longer than {0} bytes")]
    IntegerTooLong(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    Record,
    Set,
    DictionaryKey,
    DictionaryValue,
    Embedded,
    Annotation,
    Annotated,
}

/// An open compound.
#[derive(Debug, Clone, Copy)]
struct Frame {
    kind: Kind,
    /// Its token on the tape.
    node: u32,
    /// Token of the element or key before the current one; `node` when there is none yet.
    previous: u32,
    /// Token of the element or key that is being read.
    current: u32,
}

/// Checks one value after the other and indexes it; reusable, allocating only while it grows.
///
/// **Invariant:** after [`Progress::Complete`] the tape's spans lie within the bytes given, every compound is
/// closed, and the value is well-formed; if [`Scanner::is_canonical`], it is also the only way to write that
/// value.
#[derive(Debug)]
pub struct Scanner {
    limits: Limits,
    pos: usize,
    tape: Tape,
    stack: Vec<Frame>,
    embedded: u32,
    canonical: bool,
}

impl Scanner {
    /// A scanner with the given bounds.
    pub fn new(limits: Limits) -> Scanner {
        Scanner { limits, pos: 0, tape: Tape::default(), stack: Vec::new(), embedded: 0, canonical: true }
    }

    /// The bounds it was made with.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Forgets the value being scanned (its memory is kept for the next one).
    #[inline]
    pub fn reset(&mut self) {
        self.pos = 0;
        self.tape.nodes.clear();
        self.stack.clear();
        self.embedded = 0;
        self.canonical = true;
    }

    /// Gives back memory beyond what ordinary packets need; call it when a connection falls idle.
    pub fn shrink(&mut self) {
        self.tape.nodes.shrink_to(64);
        self.stack.shrink_to(8);
    }

    /// How many embedded values the value holds.
    #[inline]
    pub fn embedded(&self) -> u32 {
        self.embedded
    }

    /// Whether the value stands in canonical form, without annotations.
    #[inline]
    pub fn is_canonical(&self) -> bool {
        self.canonical
    }

    /// Up to which offset all tokens are complete and have been read, once and for all.
    #[inline]
    pub fn position(&self) -> usize {
        self.pos
    }

    /// Whether a value has been begun and is not complete.
    #[inline]
    pub fn is_mid_value(&self) -> bool {
        self.pos > 0 || !self.stack.is_empty()
    }

    /// The complete value. `bytes` must be what [`Scanner::scan`] was given last.
    #[inline]
    pub fn view<'a>(&'a self, bytes: &'a [u8]) -> View<'a> {
        View::new(bytes, &self.tape)
    }

    /// The index of the complete value.
    #[inline]
    pub fn tape(&self) -> &Tape {
        &self.tape
    }

    /// Scans on. `bytes` starts with the value's first byte and holds all that has arrived of it, so from one
    /// call to the next it only grows. Costs one pass over the bytes that are new.
    ///
    /// # Errors
    /// [`ScanError`] if no continuation can make this a value; the scanner must be reset before it is used again.
    #[inline]
    pub fn scan(&mut self, bytes: &[u8]) -> Result<Progress, ScanError> {
        let mut pos = self.pos;
        let result = self.scan_from(bytes, &mut pos);
        self.pos = pos;
        match result {
            Ok(progress) => Ok(progress),
            Err(kind) => Err(ScanError { at: pos, kind }),
        }
    }

    // One loop, somewhat long: what it is cut into passes its state through memory, which costs more than the
    // work.
    #[inline(always)]
    fn scan_from(&mut self, bytes: &[u8], at: &mut usize) -> Result<Progress, ScanErrorKind> {
        // What lies past the limit is not looked at, so the verdict does not depend on how much has arrived.
        let bytes = &bytes[..bytes.len().min(self.limits.packet_bytes_max as usize)];
        let mut pos = *at;
        // Whether the innermost open compound takes any number of elements in any order.
        let mut plain = matches!(self.stack.last(), Some(f) if matches!(f.kind, Kind::Plain | Kind::Record));
        loop {
            *at = pos;
            let Some(&first) = bytes.get(pos) else {
                self.check_size(pos, 1)?;
                return Ok(Progress::Incomplete(pos + 1));
            };
            if self.tape.nodes.len() >= self.limits.tokens_max as usize {
                return Err(ScanErrorKind::TooManyTokens(self.limits.tokens_max));
            }
            let node = self.tape.nodes.len() as u32;
            match first {
                tag::INTEGER..=tag::SYMBOL | tag::IEEE754 => {
                    // Short lengths are read here, without a value that would go through memory in pieces:
                    // reloading it whole stalls the processor at every atom.
                    let (length, body) = match bytes.get(pos + 1) {
                        Some(&b) if b < 0x80 => (u64::from(b), pos + 2),
                        _ => match long_header(bytes, pos)? {
                            Header::Complete { length, body, shortest } => {
                                self.canonical &= shortest;
                                (length, body)
                            }
                            Header::Incomplete => {
                                self.check_size(bytes.len(), 1)?;
                                return Ok(Progress::Incomplete(bytes.len() + 1));
                            }
                        },
                    };
                    self.check_size(body, length)?;
                    self.check_atom(first, length)?;
                    let end = body + length as usize;
                    let Some(content) = bytes.get(body..end) else { return Ok(Progress::Incomplete(end)) };
                    match first {
                        tag::STRING | tag::SYMBOL => check_utf8(content)?,
                        tag::INTEGER => self.canonical &= is_minimal(content),
                        _ => {}
                    }
                    self.tape.nodes.push(Node { start: pos as u32, next: node + 1 });
                    pos = end;
                }
                tag::RECORD..=tag::DICTIONARY | tag::EMBEDDED | tag::ANNOTATION => {
                    self.open(first, node, pos)?;
                    plain = matches!(first, tag::RECORD | tag::SEQUENCE);
                    pos += 1;
                    continue;
                }
                tag::FALSE | tag::TRUE => {
                    self.tape.nodes.push(Node { start: pos as u32, next: node + 1 });
                    pos += 1;
                }
                tag::END => {
                    self.close(node)?;
                    self.tape.nodes.push(Node { start: pos as u32, next: node + 1 });
                    pos += 1;
                    plain = false;
                }
                other => return Err(ScanErrorKind::Tag(other)),
            }
            if plain {
                continue;
            }
            if self.complete_value(bytes, pos)? {
                *at = pos;
                self.tape.end = pos as u32;
                return Ok(Progress::Complete(pos));
            }
            plain = matches!(self.stack.last(), Some(f) if matches!(f.kind, Kind::Plain | Kind::Record));
        }
    }

    fn open(&mut self, first: u8, node: u32, pos: usize) -> Result<(), ScanErrorKind> {
        if self.stack.len() >= self.limits.depth_max as usize {
            return Err(ScanErrorKind::TooDeep(self.limits.depth_max));
        }
        let kind = match first {
            tag::RECORD => Kind::Record,
            tag::SEQUENCE => Kind::Plain,
            tag::SET => Kind::Set,
            tag::DICTIONARY => Kind::DictionaryKey,
            tag::EMBEDDED => {
                self.embedded += 1;
                Kind::Embedded
            }
            _ => {
                self.canonical = false;
                Kind::Annotation
            }
        };
        self.tape.nodes.push(Node { start: pos as u32, next: 0 });
        self.stack.push(Frame { kind, node, previous: node, current: node + 1 });
        Ok(())
    }

    /// Closes the innermost compound at an end marker, whose token will be `end`.
    #[inline]
    fn close(&mut self, end: u32) -> Result<(), ScanErrorKind> {
        // By its parts, for the same reason as in scan_from().
        let (kind, node) = match self.stack.last() {
            Some(frame) => (frame.kind, frame.node),
            None => return Err(ScanErrorKind::UnexpectedEnd),
        };
        match kind {
            Kind::Plain | Kind::Set | Kind::DictionaryKey => {}
            Kind::Record if end > node + 1 => {}
            Kind::DictionaryValue => return Err(ScanErrorKind::OddDictionary),
            Kind::Record | Kind::Embedded | Kind::Annotation | Kind::Annotated => {
                return Err(ScanErrorKind::UnexpectedEnd);
            }
        }
        self.stack.truncate(self.stack.len() - 1);
        self.tape.nodes[node as usize].next = end + 1;
        Ok(())
    }

    /// A value ended at `pos`: tells the compounds around it. True if it was the outermost.
    #[inline]
    fn complete_value(&mut self, bytes: &[u8], pos: usize) -> Result<bool, ScanErrorKind> {
        loop {
            let next = self.tape.nodes.len() as u32;
            let Some(frame) = self.stack.last_mut() else { return Ok(true) };
            match frame.kind {
                Kind::Plain | Kind::Record => return Ok(false),
                Kind::Set => break,
                Kind::DictionaryKey => {
                    frame.kind = Kind::DictionaryValue;
                    break;
                }
                Kind::DictionaryValue => {
                    frame.kind = Kind::DictionaryKey;
                    frame.current = next;
                    return Ok(false);
                }
                Kind::Annotation => {
                    frame.kind = Kind::Annotated;
                    return Ok(false);
                }
                Kind::Embedded | Kind::Annotated => {
                    let node = frame.node as usize;
                    self.tape.nodes[node].next = next;
                    self.stack.pop();
                }
            }
        }
        self.check_order(bytes, pos)?;
        Ok(false)
    }

    /// A set element or dictionary key ended at `pos`: it must come after the one before it, or else the value
    /// is not canonical (and [`super::canonicalize`] looks for duplicates).
    fn check_order(&mut self, bytes: &[u8], pos: usize) -> Result<(), ScanErrorKind> {
        let next = self.tape.nodes.len() as u32;
        let Some(frame) = self.stack.last_mut() else { return Ok(()) };
        let nodes = &self.tape.nodes;
        let start = |node: u32| nodes[node as usize].start as usize;
        if frame.previous != frame.node && self.canonical {
            let before = start(frame.previous);
            let before_end =
                nodes.get(nodes[frame.previous as usize].next as usize).map_or(pos, |n| n.start as usize);
            match bytes[before..before_end].cmp(&bytes[start(frame.current)..pos]) {
                std::cmp::Ordering::Less => {}
                std::cmp::Ordering::Equal => return Err(ScanErrorKind::Duplicate),
                std::cmp::Ordering::Greater => self.canonical = false,
            }
        }
        frame.previous = frame.current;
        frame.current = next;
        Ok(())
    }

    #[inline(always)]
    fn check_size(&self, pos: usize, more: u64) -> Result<(), ScanErrorKind> {
        if more > self.limits.packet_bytes_max as u64
            || pos as u64 + more > self.limits.packet_bytes_max as u64
        {
            return Err(ScanErrorKind::TooLong(self.limits.packet_bytes_max));
        }
        Ok(())
    }

    #[inline(always)]
    fn check_atom(&self, first: u8, length: u64) -> Result<(), ScanErrorKind> {
        match first {
            tag::IEEE754 if length != 8 => Err(ScanErrorKind::FloatLength),
            tag::INTEGER if length > self.limits.integer_bytes_max as u64 => {
                Err(ScanErrorKind::IntegerTooLong(self.limits.integer_bytes_max))
            }
            _ => Ok(()),
        }
    }
}

enum Header {
    Complete { length: u64, body: usize, shortest: bool },
    Incomplete,
}

/// Reads the length of the atom at `pos`, of any form.
#[cold]
fn long_header(bytes: &[u8], pos: usize) -> Result<Header, ScanErrorKind> {
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
            return Ok(Header::Complete { length, body: at, shortest: b != 0 });
        }
    }
}

#[inline(always)]
fn is_minimal(content: &[u8]) -> bool {
    match content {
        [] => true,
        [0] => false,
        [0, b, ..] => *b >= 0x80,
        [0xff, b, ..] => *b < 0x80,
        _ => true,
    }
}

#[inline(always)]
fn check_utf8(content: &[u8]) -> Result<(), ScanErrorKind> {
    if content.is_ascii() {
        return Ok(());
    }
    simdutf8::basic::from_utf8(content).map(|_| ()).map_err(|_| ScanErrorKind::Utf8)
}

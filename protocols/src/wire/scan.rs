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

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Kind {
    #[default]
    Plain,
    Record,
    Set,
    DictionaryKey,
    DictionaryValue,
    Embedded,
    Annotation,
    Annotated,
}

impl Kind {
    /// Whether it takes any number of elements in any order, so that nothing is to be done after each.
    #[inline(always)]
    fn is_plain(self) -> bool {
        matches!(self, Kind::Plain | Kind::Record)
    }
}

/// An open compound.
#[derive(Debug, Clone, Copy, Default)]
struct Frame {
    kind: Kind,
    /// Its token on the tape.
    node: u32,
    /// Token of the element or key before the current one; `node` when there is none yet.
    previous: u32,
    /// Token of the element or key that is being read.
    current: u32,
}

/// Where the pass stands: small enough to live in registers while it runs.
#[derive(Debug, Clone, Copy)]
struct Cursor {
    /// Offset of the next token.
    pos: usize,
    /// Tokens on the tape.
    used: usize,
    /// Open compounds.
    depth: usize,
    /// Embedded values so far.
    embedded: u32,
    canonical: bool,
}

const START: Cursor = Cursor { pos: 0, used: 0, depth: 0, embedded: 0, canonical: true };

/// Why the pass paused.
enum Pause {
    Complete,
    /// So many bytes are needed.
    Incomplete(usize),
    /// The tape is full.
    Tape,
    /// The stack is full.
    Stack,
}

/// Checks one value after the other and indexes it; reusable, allocating only while it grows.
///
/// **Invariant:** after [`Progress::Complete`] the tape's spans lie within the bytes given, every compound is
/// closed, and the value is well-formed; if [`Scanner::is_canonical`], it is also the only way to write that
/// value.
#[derive(Debug)]
pub struct Scanner {
    limits: Limits,
    at: Cursor,
    tape: Tape,
    /// Open compounds: the first `at.depth`.
    stack: Vec<Frame>,
}

/// The beginning of a value, scanned once for all values that begin with the same bytes.
///
/// It must hold whole tokens, and only openings of records and sequences, and atoms.
#[derive(Debug, Clone)]
pub struct Prefix {
    bytes: Box<[u8]>,
    at: Cursor,
    nodes: Box<[Node]>,
    stack: Box<[Frame]>,
}

impl Prefix {
    /// Scans `bytes`. `None` if they are not the beginning of a value in canonical form, cut between two tokens.
    pub fn new(bytes: &[u8], limits: Limits) -> Option<Prefix> {
        let mut scanner = Scanner::new(limits);
        let Ok(Progress::Incomplete(_)) = scanner.scan(bytes) else { return None };
        let at = scanner.at;
        let stack: Box<[Frame]> = scanner.stack[..at.depth].into();
        let is_simple = at.canonical && at.embedded == 0 && stack.iter().all(|f| f.kind.is_plain());
        let nodes = scanner.tape.nodes[..at.used].into();
        (at.pos == bytes.len() && is_simple).then(|| Prefix { bytes: bytes.into(), at, nodes, stack })
    }

    /// How many tokens it has.
    #[inline]
    pub fn tokens(&self) -> u32 {
        self.at.used as u32
    }

    /// How many compounds it leaves open.
    #[inline]
    pub fn depth(&self) -> u32 {
        self.at.depth as u32
    }
}

impl Scanner {
    /// A scanner with the given bounds.
    pub fn new(limits: Limits) -> Scanner {
        Scanner { limits, at: START, tape: Tape::default(), stack: Vec::new() }
    }

    /// The bounds it was made with.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Forgets the value being scanned (its memory is kept for the next one).
    #[inline]
    pub fn reset(&mut self) {
        self.at = START;
    }

    /// Begins a value with what is known of `prefix`, if `bytes` begin with it and nothing has been scanned of
    /// them yet: [`Scanner::scan`] then goes on behind it. Returns whether they do.
    #[inline]
    pub fn begin(&mut self, prefix: &Prefix, bytes: &[u8]) -> bool {
        if self.at.pos != 0 || self.at.depth != 0 || !bytes.starts_with(&prefix.bytes) {
            return false;
        }
        let (nodes, frames) = (prefix.nodes.len(), prefix.stack.len());
        if self.tape.nodes.len() <= nodes || self.stack.len() < frames {
            return false;
        }
        self.tape.nodes[..nodes].copy_from_slice(&prefix.nodes);
        self.stack[..frames].copy_from_slice(&prefix.stack);
        self.at = prefix.at;
        true
    }

    /// Gives back memory beyond what ordinary packets need; call it when a connection falls idle.
    pub fn shrink(&mut self) {
        let (nodes, frames) = (self.at.used.max(64), self.at.depth.max(8));
        self.tape.nodes.truncate(nodes);
        self.tape.nodes.shrink_to(nodes);
        self.stack.truncate(frames);
        self.stack.shrink_to(frames);
    }

    /// How many embedded values the value holds.
    #[inline]
    pub fn embedded(&self) -> u32 {
        self.at.embedded
    }

    /// Whether the value stands in canonical form, without annotations.
    #[inline]
    pub fn is_canonical(&self) -> bool {
        self.at.canonical
    }

    /// Up to which offset all tokens are complete and have been read, once and for all.
    #[inline]
    pub fn position(&self) -> usize {
        self.at.pos
    }

    /// Whether a value has been begun and is not complete.
    #[inline]
    pub fn is_mid_value(&self) -> bool {
        self.at.pos > 0 || self.at.depth > 0
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
        loop {
            let pause = self.pass(bytes).map_err(|kind| self.error(kind))?;
            match pause {
                Pause::Complete => {
                    self.tape.finish(self.at.used, self.at.pos);
                    return Ok(Progress::Complete(self.at.pos));
                }
                Pause::Incomplete(wanted) => return Ok(Progress::Incomplete(wanted)),
                Pause::Tape => self.grow_tape().map_err(|kind| self.error(kind))?,
                Pause::Stack => self.grow_stack().map_err(|kind| self.error(kind))?,
            }
        }
    }

    #[cold]
    fn error(&self, kind: ScanErrorKind) -> ScanError {
        ScanError { at: self.at.pos, kind }
    }

    #[cold]
    fn grow_tape(&mut self) -> Result<(), ScanErrorKind> {
        if self.at.used >= self.limits.tokens_max as usize {
            return Err(ScanErrorKind::TooManyTokens(self.limits.tokens_max));
        }
        // One more than there are tokens: the last marks the end.
        let wanted = (self.tape.nodes.len() * 2).max(64).min(self.limits.tokens_max as usize + 1);
        self.tape.nodes.resize(wanted, Node::default());
        Ok(())
    }

    #[cold]
    fn grow_stack(&mut self) -> Result<(), ScanErrorKind> {
        if self.at.depth >= self.limits.depth_max as usize {
            return Err(ScanErrorKind::TooDeep(self.limits.depth_max));
        }
        let wanted = (self.stack.len() * 2).max(8).min(self.limits.depth_max as usize);
        self.stack.resize(wanted, Frame::default());
        Ok(())
    }

    /// Goes on until something is in the way, and notes how far it came: on an error, at the offending token.
    //
    // One loop, somewhat long, over local copies of all that changes: what it is cut into passes its state
    // through memory, which costs more than the work.
    #[inline(always)]
    fn pass(&mut self, bytes: &[u8]) -> Result<Pause, ScanErrorKind> {
        let Scanner { limits, at: cursor, tape, stack } = self;
        // What lies past the limit is not looked at, so the verdict does not depend on how much has arrived.
        let bytes = &bytes[..bytes.len().min(limits.packet_bytes_max as usize)];
        let (nodes, frames) = (tape.nodes.as_mut_slice(), stack.as_mut_slice());
        let mut at = *cursor;
        let mut kind = if at.depth > 0 { frames[at.depth - 1].kind } else { Kind::Annotation };
        let result = loop {
            let Some(&first) = bytes.get(at.pos) else {
                break check_size(limits, at.pos, 1).map(|()| Pause::Incomplete(at.pos + 1));
            };
            if at.used + 1 >= nodes.len() {
                break Ok(Pause::Tape);
            }
            let node = Node { start: at.pos as u32, next: at.used as u32 + 1 };
            match first {
                tag::INTEGER..=tag::SYMBOL | tag::IEEE754 => {
                    // Short lengths are read here, without a value that would go through memory in pieces:
                    // reloading it whole stalls the processor at every atom.
                    let (length, body) = match bytes.get(at.pos + 1) {
                        Some(&b) if b < 0x80 => (b as usize, at.pos + 2),
                        _ => match long_header(bytes, at.pos, limits) {
                            Ok(Header::Complete { length, body, shortest }) => {
                                at.canonical &= shortest;
                                (length, body)
                            }
                            Ok(Header::Incomplete) => {
                                break check_size(limits, bytes.len(), 1)
                                    .map(|()| Pause::Incomplete(bytes.len() + 1));
                            }
                            Err(error) => break Err(error),
                        },
                    };
                    let end = body + length;
                    if let Err(error) = check_atom(limits, first, length) {
                        break Err(error);
                    }
                    let Some(content) = bytes.get(body..end) else {
                        break check_size(limits, body, length).map(|()| Pause::Incomplete(end));
                    };
                    match first {
                        tag::STRING | tag::SYMBOL if !is_text(bytes, body, content) => {
                            break Err(ScanErrorKind::Utf8);
                        }
                        tag::INTEGER => at.canonical &= is_minimal(content),
                        _ => {}
                    }
                    nodes[at.used] = node;
                    at.used += 1;
                    at.pos = end;
                }
                tag::RECORD | tag::SEQUENCE => {
                    if at.depth >= frames.len() {
                        break Ok(Pause::Stack);
                    }
                    kind = if first == tag::RECORD { Kind::Record } else { Kind::Plain };
                    let this = at.used as u32;
                    frames[at.depth] = Frame { kind, node: this, previous: this, current: this + 1 };
                    nodes[at.used] = node;
                    at.depth += 1;
                    at.used += 1;
                    at.pos += 1;
                    continue;
                }
                tag::END => {
                    if at.depth == 0 {
                        break Err(ScanErrorKind::UnexpectedEnd);
                    }
                    let open = frames[at.depth - 1].node as usize;
                    if !kind.is_plain() || kind == Kind::Record && at.used == open + 1 {
                        if let Err(error) = check_end(kind) {
                            break Err(error);
                        }
                    }
                    nodes[open].next = at.used as u32 + 1;
                    nodes[at.used] = node;
                    at.used += 1;
                    at.pos += 1;
                    at.depth -= 1;
                    if at.depth == 0 {
                        break Ok(Pause::Complete);
                    }
                    kind = frames[at.depth - 1].kind;
                }
                tag::SET | tag::DICTIONARY | tag::EMBEDDED | tag::ANNOTATION => {
                    if at.depth >= frames.len() {
                        break Ok(Pause::Stack);
                    }
                    kind = opened(first, &mut at);
                    let this = at.used as u32;
                    frames[at.depth] = Frame { kind, node: this, previous: this, current: this + 1 };
                    nodes[at.used] = node;
                    at.depth += 1;
                    at.used += 1;
                    at.pos += 1;
                    continue;
                }
                tag::FALSE | tag::TRUE => {
                    nodes[at.used] = node;
                    at.used += 1;
                    at.pos += 1;
                }
                other => break Err(ScanErrorKind::Tag(other)),
            }
            if kind.is_plain() {
                continue;
            }
            match complete_value(bytes, at, nodes, frames) {
                Ok((depth, canonical)) => (at.depth, at.canonical) = (depth, canonical),
                Err(error) => {
                    at.pos = node.start as usize;
                    break Err(error);
                }
            }
            if at.depth == 0 {
                break Ok(Pause::Complete);
            }
            kind = frames[at.depth - 1].kind;
        };
        *cursor = at;
        result
    }
}

/// What kind of compound opens here, of those that are not plain.
#[inline]
fn opened(first: u8, at: &mut Cursor) -> Kind {
    match first {
        tag::SET => Kind::Set,
        tag::DICTIONARY => Kind::DictionaryKey,
        tag::EMBEDDED => {
            at.embedded += 1;
            Kind::Embedded
        }
        _ => {
            at.canonical = false;
            Kind::Annotation
        }
    }
}

/// Whether a compound that is not plain, or a record without a label, may end.
#[inline(never)]
fn check_end(kind: Kind) -> Result<(), ScanErrorKind> {
    match kind {
        Kind::Plain | Kind::Set | Kind::DictionaryKey => Ok(()),
        Kind::DictionaryValue => Err(ScanErrorKind::OddDictionary),
        Kind::Record | Kind::Embedded | Kind::Annotation | Kind::Annotated => {
            Err(ScanErrorKind::UnexpectedEnd)
        }
    }
}

/// A value ended where `at` stands, and what is around it is not plain, or nothing is: tells the compounds around
/// it. Returns how many are open then, and whether all is still canonical.
#[inline(never)]
fn complete_value(
    bytes: &[u8],
    at: Cursor,
    nodes: &mut [Node],
    frames: &mut [Frame],
) -> Result<(usize, bool), ScanErrorKind> {
    let next = at.used as u32;
    let mut depth = at.depth;
    while depth > 0 {
        let frame = &mut frames[depth - 1];
        match frame.kind {
            Kind::Plain | Kind::Record => break,
            Kind::Set | Kind::DictionaryKey => {
                if frame.kind == Kind::DictionaryKey {
                    frame.kind = Kind::DictionaryValue;
                }
                let canonical = check_order(bytes, at, nodes, frame)?;
                return Ok((depth, canonical));
            }
            Kind::DictionaryValue => {
                frame.kind = Kind::DictionaryKey;
                frame.current = next;
                break;
            }
            Kind::Annotation => {
                frame.kind = Kind::Annotated;
                break;
            }
            Kind::Embedded | Kind::Annotated => {
                nodes[frame.node as usize].next = next;
                depth -= 1;
            }
        }
    }
    Ok((depth, at.canonical))
}

/// A set element or dictionary key ended where `at` stands: it must come after the one before it, or else the
/// value is not canonical (and [`super::canonicalize`] looks for duplicates). Returns whether all is canonical.
fn check_order(
    bytes: &[u8],
    at: Cursor,
    nodes: &mut [Node],
    frame: &mut Frame,
) -> Result<bool, ScanErrorKind> {
    let mut canonical = at.canonical;
    let next = at.used as u32;
    let start = |node: u32| nodes[node as usize].start as usize;
    if frame.previous != frame.node && canonical {
        let before = start(frame.previous);
        let after = nodes[frame.previous as usize].next;
        let before_end = if after < next { start(after) } else { at.pos };
        match bytes[before..before_end].cmp(&bytes[start(frame.current)..at.pos]) {
            std::cmp::Ordering::Less => {}
            std::cmp::Ordering::Equal => return Err(ScanErrorKind::Duplicate),
            std::cmp::Ordering::Greater => canonical = false,
        }
    }
    frame.previous = frame.current;
    frame.current = next;
    Ok(canonical)
}

#[inline(always)]
fn check_size(limits: &Limits, pos: usize, more: usize) -> Result<(), ScanErrorKind> {
    if pos.saturating_add(more) > limits.packet_bytes_max as usize {
        return Err(ScanErrorKind::TooLong(limits.packet_bytes_max));
    }
    Ok(())
}

#[inline(always)]
fn check_atom(limits: &Limits, first: u8, length: usize) -> Result<(), ScanErrorKind> {
    match first {
        tag::IEEE754 if length != 8 => Err(ScanErrorKind::FloatLength),
        tag::INTEGER if length > limits.integer_bytes_max as usize => {
            Err(ScanErrorKind::IntegerTooLong(limits.integer_bytes_max))
        }
        _ => Ok(()),
    }
}

enum Header {
    Complete { length: usize, body: usize, shortest: bool },
    Incomplete,
}

/// Reads the length of the atom at `pos`, of any form, that a packet can hold.
#[inline(never)]
fn long_header(bytes: &[u8], pos: usize, limits: &Limits) -> Result<Header, ScanErrorKind> {
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
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            check_size(limits, at, length)?;
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

/// Whether `content`, which begins at `body`, is UTF-8. Nearly always it is short and ASCII: then a look at 16
/// bytes, those behind it masked off, tells.
#[inline(always)]
fn is_text(bytes: &[u8], body: usize, content: &[u8]) -> bool {
    const HIGH_BITS: u128 = 0x8080_8080_8080_8080_8080_8080_8080_8080;
    if content.len() < 16
        && let Some(ahead) = bytes.get(body..body + 16)
        && let Ok(ahead) = <[u8; 16]>::try_from(ahead)
    {
        let kept = (1u128 << (8 * content.len())) - 1;
        if u128::from_le_bytes(ahead) & kept & HIGH_BITS == 0 {
            return true;
        }
    }
    content.is_ascii() || simdutf8::basic::from_utf8(content).is_ok()
}

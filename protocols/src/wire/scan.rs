//! The scanner: one forward pass, no recursion, bounded, and resumable.
//!
//! A value that arrives in pieces is scanned up to the last complete token, and the next call goes on from
//! there; only the header of the one atom that was cut (at most 11 bytes) is read again.

use super::atom::{Header, check_size, is_minimal, is_text, plain_atom, read_header};
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
    /// Its token on the tape.
    node: u32,
    kind: Kind,
}

/// How far an open set or dictionary is known to be in order.
#[derive(Debug, Clone, Copy)]
struct Order {
    /// Token of the element or key before the current one; `None` when there is none yet.
    previous: Option<u32>,
    /// Token of the element or key that is being read.
    current: u32,
}

/// Where the scan stands.
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
    /// One for each open set and dictionary.
    orders: Vec<Order>,
}

/// The beginning of a value, scanned once for all values that begin with the same bytes.
///
/// It must hold whole tokens, and only openings of records and sequences, and atoms.
#[derive(Debug, Clone)]
pub struct Prefix {
    bytes: Box<[u8]>,
    /// The first 16 bytes at most, and which bits of them count: to be compared in one go.
    head: u128,
    mask: u128,
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
        let mut head = [0; 16];
        let length = bytes.len().min(16);
        head[..length].copy_from_slice(&bytes[..length]);
        let (head, mask) = (u128::from_le_bytes(head), u128::MAX.unbounded_shr(128 - 8 * length as u32));
        (at.pos == bytes.len() && is_simple && !bytes.is_empty()).then(|| Prefix {
            bytes: bytes.into(),
            head,
            mask,
            at,
            nodes,
            stack,
        })
    }

    #[inline(always)]
    fn is_of(&self, bytes: &[u8]) -> bool {
        match bytes.first_chunk::<16>() {
            Some(head) => {
                u128::from_le_bytes(*head) & self.mask == self.head
                    && (self.bytes.len() <= 16 || bytes.starts_with(&self.bytes))
            }
            None => bytes.starts_with(&self.bytes),
        }
    }
}

impl Scanner {
    /// A scanner with the given bounds.
    pub fn new(limits: Limits) -> Scanner {
        Scanner { limits, at: START, tape: Tape::default(), stack: Vec::new(), orders: Vec::new() }
    }

    /// The bounds it was made with.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Forgets the value being scanned (its memory is kept for the next one).
    #[inline]
    pub fn reset(&mut self) {
        self.at = START;
        self.orders.clear();
    }

    /// Begins a value with what is known of `prefix`, if `bytes` begin with it and nothing has been scanned of
    /// them yet: [`Scanner::scan`] then goes on behind it. Returns whether they do.
    #[inline]
    pub fn begin(&mut self, prefix: &Prefix, bytes: &[u8]) -> bool {
        if self.at.pos != 0 || self.at.depth != 0 || !prefix.is_of(bytes) {
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

    /// Scans a value that consists of `prefix`, one record or sequence, and the ends of what the prefix opened: the
    /// fast way for packets that nearly all look so. Returns the length of the whole and a view of that part, in
    /// canonical form and without embedded values; the scanner stands at its beginning again. `None` if the bytes
    /// are something else or incomplete: then [`Scanner::scan`] goes on from where this came to.
    #[inline]
    pub fn scan_within<'a>(&'a mut self, prefix: &Prefix, bytes: &'a [u8]) -> Option<(usize, View<'a>)> {
        let bytes = &bytes[..bytes.len().min(self.limits.packet_bytes_max as usize)];
        if !self.begin(prefix, bytes)
            || !matches!(bytes.get(self.at.pos), Some(&(tag::RECORD | tag::SEQUENCE)))
        {
            return None;
        }
        let (floor, token) = (self.at.depth, self.at.used);
        let _ = self.step(bytes);
        if !self.run_plain(bytes, floor) || self.at.used + floor > self.limits.tokens_max as usize {
            return None;
        }
        let Cursor { pos, used, .. } = self.at;
        let ends = bytes.get(pos..pos + floor)?;
        if ends.iter().any(|end| *end != tag::END) {
            return None;
        }
        self.tape.finish(used, pos);
        self.reset();
        Some((pos + floor, View::within(&bytes[..pos], &self.tape, token as u32)))
    }

    /// Bytes of memory that it holds.
    pub fn memory_bytes(&self) -> usize {
        self.tape.nodes.capacity() * size_of::<Node>()
            + self.stack.capacity() * size_of::<Frame>()
            + self.orders.capacity() * size_of::<Order>()
    }

    /// Gives back memory beyond what ordinary packets need; call it when a connection falls idle.
    pub fn shrink(&mut self) {
        let (nodes, frames) = (self.at.used.max(64), self.at.depth.max(8));
        self.tape.nodes.truncate(nodes);
        self.tape.nodes.shrink_to(nodes);
        self.stack.truncate(frames);
        self.stack.shrink_to(frames);
        self.orders.shrink_to(8);
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
        // What lies past the limit is not looked at, so the verdict does not depend on how much has arrived.
        let bytes = &bytes[..bytes.len().min(self.limits.packet_bytes_max as usize)];
        loop {
            let floor = self.plain_floor();
            let has_run = floor < self.at.depth && self.run_plain(bytes, floor);
            let stepped = if has_run { self.complete_value(bytes) } else { self.step(bytes) };
            match stepped {
                Ok(Some(wanted)) => return Ok(Progress::Incomplete(wanted)),
                Ok(None) if self.at.depth == 0 => break,
                Ok(None) => {}
                Err(kind) => return Err(ScanError { at: self.at.pos, kind }),
            }
        }
        self.tape.finish(self.at.used, self.at.pos);
        Ok(Progress::Complete(self.at.pos))
    }

    /// The depth from which on all open compounds are plain. (A few are looked at: each look is paid by a token at
    /// least.)
    #[inline]
    fn plain_floor(&self) -> usize {
        let depth = self.at.depth;
        let mut floor = depth;
        while floor > 0 && depth - floor < 4 && self.stack[floor - 1].kind.is_plain() {
            floor -= 1;
        }
        floor
    }

    /// Goes on through what most packets consist of - records, sequences, and atoms with short heads - while
    /// more than `floor` compounds are open, which are records and sequences too. Stops behind the end of the
    /// outermost of those, and returns true; or before the first token that is something else, or is wrong, or has not arrived:
    /// [`Scanner::step`] tells which.
    //
    // One loop over local variables, few enough to stay in registers.
    #[inline(always)]
    fn run_plain(&mut self, bytes: &[u8], floor: usize) -> bool {
        let (nodes, frames) = (self.tape.nodes.as_mut_slice(), self.stack.as_mut_slice());
        let Cursor { mut pos, mut used, mut depth, .. } = self.at;
        let has_plain = floor < depth;
        let integer_bytes_max = self.limits.integer_bytes_max as usize;
        while depth > floor {
            let Some(&first) = bytes.get(pos) else { break };
            if used + 1 >= nodes.len() {
                break;
            }
            let mut end = pos + 1;
            let mut next = used as u32 + 1;
            match first {
                tag::INTEGER..=tag::SYMBOL | tag::IEEE754 => {
                    let Some(after) = plain_atom(bytes, pos, first, integer_bytes_max) else { break };
                    end = after;
                }
                tag::RECORD | tag::SEQUENCE => {
                    let Some(frame) = frames.get_mut(depth) else { break };
                    let kind = if first == tag::RECORD { Kind::Record } else { Kind::Plain };
                    *frame = Frame { node: used as u32, kind };
                    depth += 1;
                    next = 0;
                }
                tag::END => {
                    let open = frames[depth - 1].node as usize;
                    // An empty compound may be a record without a label.
                    if open + 1 == used {
                        break;
                    }
                    nodes[open].next = next;
                    depth -= 1;
                }
                tag::FALSE | tag::TRUE => {}
                _ => break,
            }
            nodes[used] = Node { start: pos as u32, next };
            used += 1;
            pos = end;
        }
        (self.at.pos, self.at.used, self.at.depth) = (pos, used, depth);
        has_plain && depth == floor
    }

    /// Reads one token, of any kind. Returns how many bytes are needed if it is not all there.
    #[inline]
    fn step(&mut self, bytes: &[u8]) -> Result<Option<usize>, ScanErrorKind> {
        let pos = self.at.pos;
        let Some(&first) = bytes.get(pos) else {
            check_size(&self.limits, pos, 1)?;
            return Ok(Some(pos + 1));
        };
        if self.at.used + 1 >= self.tape.nodes.len() {
            self.grow_tape()?;
        }
        match first {
            tag::INTEGER..=tag::SYMBOL | tag::IEEE754 => {
                match plain_atom(bytes, pos, first, self.limits.integer_bytes_max as usize) {
                    Some(end) => self.push(end),
                    None => match self.atom(bytes, first)? {
                        Ok(end) => self.push(end),
                        Err(wanted) => return Ok(Some(wanted)),
                    },
                }
            }
            tag::RECORD..=tag::DICTIONARY | tag::EMBEDDED | tag::ANNOTATION => {
                self.open(first)?;
                return Ok(None);
            }
            tag::FALSE | tag::TRUE => self.push(pos + 1),
            tag::END => {
                self.close()?;
                self.push(pos + 1);
            }
            other => return Err(ScanErrorKind::Tag(other)),
        }
        self.complete_value(bytes)
    }

    /// Appends a token that begins here and ends there.
    #[inline]
    fn push(&mut self, end: usize) {
        self.tape.nodes[self.at.used] = Node { start: self.at.pos as u32, next: self.at.used as u32 + 1 };
        self.at.used += 1;
        self.at.pos = end;
    }

    /// Checks an atom of any form. Returns where it ends, or how many bytes are needed to know.
    #[inline(never)]
    fn atom(&mut self, bytes: &[u8], first: u8) -> Result<Result<usize, usize>, ScanErrorKind> {
        let Header::Complete { length, body, shortest } = read_header(bytes, self.at.pos, &self.limits)?
        else {
            check_size(&self.limits, bytes.len(), 1)?;
            return Ok(Err(bytes.len() + 1));
        };
        check_atom(&self.limits, first, length)?;
        let end = body + length;
        let Some(content) = bytes.get(body..end) else { return Ok(Err(end)) };
        match first {
            tag::STRING | tag::SYMBOL if !is_text(content) => return Err(ScanErrorKind::Utf8),
            tag::INTEGER => self.at.canonical &= is_minimal(content),
            _ => {}
        }
        self.at.canonical &= shortest;
        Ok(Ok(end))
    }

    /// Opens a compound, or what stands before a value.
    fn open(&mut self, first: u8) -> Result<(), ScanErrorKind> {
        if self.at.depth >= self.stack.len() {
            self.grow_stack()?;
        }
        let node = self.at.used as u32;
        let kind = match first {
            tag::RECORD => Kind::Record,
            tag::SEQUENCE => Kind::Plain,
            tag::SET => Kind::Set,
            tag::DICTIONARY => Kind::DictionaryKey,
            tag::EMBEDDED => {
                self.at.embedded += 1;
                Kind::Embedded
            }
            _ => {
                self.at.canonical = false;
                Kind::Annotation
            }
        };
        if matches!(kind, Kind::Set | Kind::DictionaryKey) {
            self.orders.push(Order { previous: None, current: node + 1 });
        }
        self.push(self.at.pos + 1);
        self.stack[self.at.depth] = Frame { node, kind };
        self.at.depth += 1;
        Ok(())
    }

    /// Closes the innermost compound at an end marker.
    fn close(&mut self) -> Result<(), ScanErrorKind> {
        let Some(depth) = self.at.depth.checked_sub(1) else { return Err(ScanErrorKind::UnexpectedEnd) };
        let Frame { kind, node } = self.stack[depth];
        match kind {
            Kind::Plain => {}
            Kind::Record if self.at.used as u32 > node + 1 => {}
            Kind::Set | Kind::DictionaryKey => drop(self.orders.pop()),
            Kind::DictionaryValue => return Err(ScanErrorKind::OddDictionary),
            Kind::Record | Kind::Embedded | Kind::Annotation | Kind::Annotated => {
                return Err(ScanErrorKind::UnexpectedEnd);
            }
        }
        self.tape.nodes[node as usize].next = self.at.used as u32 + 1;
        self.at.depth = depth;
        Ok(())
    }

    /// A value ended here: tells the compounds around it. (Returns `None`: no more is needed for that.)
    #[inline]
    fn complete_value(&mut self, bytes: &[u8]) -> Result<Option<usize>, ScanErrorKind> {
        let next = self.at.used as u32;
        while self.at.depth > 0 {
            let frame = &mut self.stack[self.at.depth - 1];
            match frame.kind {
                Kind::Plain | Kind::Record => return Ok(None),
                Kind::Set => return self.check_order(bytes).map(|()| None),
                Kind::DictionaryKey => {
                    frame.kind = Kind::DictionaryValue;
                    return self.check_order(bytes).map(|()| None);
                }
                Kind::DictionaryValue => {
                    frame.kind = Kind::DictionaryKey;
                    if let Some(order) = self.orders.last_mut() {
                        order.current = next;
                    }
                    return Ok(None);
                }
                Kind::Annotation => {
                    frame.kind = Kind::Annotated;
                    return Ok(None);
                }
                Kind::Embedded | Kind::Annotated => {
                    self.tape.nodes[frame.node as usize].next = next;
                    self.at.depth -= 1;
                }
            }
        }
        Ok(None)
    }

    /// A set element or dictionary key ended here: it must come after the one before it, or else the value is not
    /// canonical (and [`super::canonicalize`] looks for duplicates).
    #[inline]
    fn check_order(&mut self, bytes: &[u8]) -> Result<(), ScanErrorKind> {
        let Cursor { pos, used, canonical, .. } = self.at;
        let Some(order) = self.orders.last_mut() else { return Ok(()) };
        let nodes = &self.tape.nodes;
        let start = |node: u32| nodes[node as usize].start as usize;
        if let Some(previous) = order.previous
            && canonical
        {
            // What follows an element has begun on the tape.
            let before = start(previous)..start(nodes[previous as usize].next);
            match bytes[before].cmp(&bytes[start(order.current)..pos]) {
                std::cmp::Ordering::Less => {}
                std::cmp::Ordering::Equal => {
                    // Told of at its last token.
                    self.at.pos = start(used as u32 - 1);
                    return Err(ScanErrorKind::Duplicate);
                }
                std::cmp::Ordering::Greater => self.at.canonical = false,
            }
        }
        *order = Order { previous: Some(order.current), current: used as u32 };
        Ok(())
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
}

fn check_atom(limits: &Limits, first: u8, length: usize) -> Result<(), ScanErrorKind> {
    match first {
        tag::IEEE754 if length != 8 => Err(ScanErrorKind::FloatLength),
        tag::INTEGER if length > limits.integer_bytes_max as usize => {
            Err(ScanErrorKind::IntegerTooLong(limits.integer_bytes_max))
        }
        _ => Ok(()),
    }
}

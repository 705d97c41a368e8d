//! Reading scanned values without copying them.

use super::tag;

/// One token: an atom, an opening, or an end marker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Node {
    /// Offset of its first byte.
    pub start: u32,
    /// Index of the first token after the whole value that begins here.
    pub next: u32,
}

/// The index of a scanned value: its tokens in order, 8 bytes each, end markers included, so that the token at
/// a value's `next` always starts where that value ends. (For the whole value that is a last node, which is no
/// token.)
#[derive(Debug, Clone, Default)]
pub struct Tape {
    /// The nodes; those from `used` on mean nothing.
    pub(super) nodes: Vec<Node>,
    used: usize,
}

impl PartialEq for Tape {
    fn eq(&self, other: &Tape) -> bool {
        self.nodes[..self.used] == other.nodes[..other.used]
    }
}

impl Tape {
    /// The value is complete: it has so many tokens, and ends there.
    #[inline(always)]
    pub(super) fn finish(&mut self, tokens: usize, end: usize) {
        self.nodes[tokens] = Node { start: end as u32, next: tokens as u32 + 1 };
        self.used = tokens + 1;
    }

    /// Number of tokens in the whole value.
    #[inline(always)]
    pub fn tokens(&self) -> u32 {
        self.nodes[0].next
    }

    /// Where the value that begins at token `node` ends.
    #[inline(always)]
    fn end_of(&self, node: u32) -> usize {
        self.nodes[self.nodes[node as usize].next as usize].start as usize
    }

    /// Bytes of heap it holds.
    pub fn heap_bytes(&self) -> usize {
        self.nodes.capacity() * size_of::<Node>()
    }
}

/// A value, or a part of one, in place: 24 bytes, free to copy.
#[derive(Clone, Copy)]
pub struct View<'a> {
    bytes: &'a [u8],
    tape: &'a Tape,
    node: u32,
}

impl std::fmt::Debug for View<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "View({:02x?})", self.span())
    }
}

impl<'a> View<'a> {
    /// The whole scanned value.
    #[inline]
    pub(super) fn new(bytes: &'a [u8], tape: &'a Tape) -> View<'a> {
        View { bytes: &bytes[..tape.end_of(0)], tape, node: 0 }
    }

    /// A part of a value, the last on the tape, with all the bytes up to its end.
    #[inline]
    pub(super) fn within(bytes: &'a [u8], tape: &'a Tape, node: u32) -> View<'a> {
        View { bytes, tape, node }
    }

    /// The same bytes and tape at another token, as told by [`View::token`].
    #[inline(always)]
    pub fn at(self, token: u32) -> View<'a> {
        View { node: token, ..self }
    }

    /// Which token of the tape it begins with.
    #[inline(always)]
    pub fn token(self) -> u32 {
        self.node
    }

    /// Offset of its first byte.
    #[inline(always)]
    pub fn start(self) -> usize {
        self.tape.nodes[self.node as usize].start as usize
    }

    /// Offset of the first byte after it.
    #[inline(always)]
    pub fn end(self) -> usize {
        self.tape.end_of(self.node)
    }

    /// Its bytes.
    #[inline(always)]
    pub fn span(self) -> &'a [u8] {
        &self.bytes[self.start()..self.end()]
    }

    /// All the bytes that the tape indexes.
    #[inline(always)]
    pub fn all_bytes(self) -> &'a [u8] {
        self.bytes
    }

    /// Its first byte (see [`tag`]).
    #[inline(always)]
    pub fn tag(self) -> u8 {
        self.bytes[self.start()]
    }

    /// Number of tokens in it; at least 1, and an upper bound on what a walk over it visits.
    #[inline]
    pub fn tokens(self) -> u32 {
        self.tape.nodes[self.node as usize].next - self.node
    }

    /// The value after this one, in the same compound.
    #[inline(always)]
    pub fn next_sibling(self) -> Option<View<'a>> {
        let next = self.tape.nodes[self.node as usize].next;
        let start = self.tape.nodes[next as usize].start as usize;
        // What stands alone is followed by nothing that belongs to it.
        (*self.bytes.get(start)? != tag::END).then_some(self.at(next))
    }

    /// The first value inside a compound; for an embedded value, what represents it. `None` in atoms and empty
    /// compounds.
    #[inline(always)]
    pub fn first_child(self) -> Option<View<'a>> {
        if !matches!(self.tag(), tag::RECORD..=tag::DICTIONARY | tag::EMBEDDED) {
            return None;
        }
        let child = self.at(self.node + 1);
        (child.tag() != tag::END).then_some(child)
    }

    /// What stands inside a record (label first), sequence, set or dictionary (key, value, key...), in order.
    #[inline]
    pub fn children(self) -> Children<'a> {
        Children(if self.tag() == tag::EMBEDDED { None } else { self.first_child() })
    }

    /// A record's label.
    #[inline(always)]
    pub fn label(self) -> Option<View<'a>> {
        if self.tag() == tag::RECORD { self.first_child() } else { None }
    }

    /// A record's fields; empty for anything else.
    #[inline]
    pub fn fields(self) -> Children<'a> {
        Children(self.label().and_then(View::next_sibling))
    }

    /// Element `index` of a sequence, or field `index` of a record. Cost: the elements before it.
    #[inline]
    pub fn index(self, index: u32) -> Option<View<'a>> {
        let mut at = match self.tag() {
            tag::SEQUENCE => self.first_child()?,
            tag::RECORD => self.first_child()?.next_sibling()?,
            _ => return None,
        };
        for _ in 0..index {
            at = at.next_sibling()?;
        }
        Some(at)
    }

    /// The value under `key` (in canonical bytes) in a dictionary. Cost: the entries before it.
    pub fn get(self, key: &[u8]) -> Option<View<'a>> {
        if self.tag() != tag::DICTIONARY {
            return None;
        }
        let mut at = self.first_child()?;
        loop {
            let value = at.next_sibling()?;
            if at.span() == key {
                return Some(value);
            }
            at = value.next_sibling()?;
        }
    }

    /// The content of a string, symbol, byte string, integer or float: its bytes without tag and length.
    #[inline(always)]
    pub fn content(self) -> &'a [u8] {
        let span = self.span();
        match span.get(1) {
            Some(b) if *b < 0x80 => &span[2..],
            Some(_) => {
                let header = 1 + span[1..].iter().take_while(|b| **b >= 0x80).count() + 1;
                &span[header..]
            }
            None => &[],
        }
    }

    /// Whether it is the symbol `name` (of fewer than 128 bytes).
    #[inline(always)]
    pub fn is_symbol(self, name: &str) -> bool {
        let span = self.span();
        span.len() == name.len() + 2 && span[0] == tag::SYMBOL && &span[2..] == name.as_bytes()
    }

    /// Whether it is a record with this symbol as label and at least so many fields.
    pub fn is_record(self, name: &str, arity_min: usize) -> bool {
        self.label().is_some_and(|l| l.is_symbol(name)) && self.fields().take(arity_min).count() == arity_min
    }

    /// The text of a string.
    pub fn as_string(self) -> Option<&'a str> {
        if self.tag() == tag::STRING { std::str::from_utf8(self.content()).ok() } else { None }
    }

    /// The text of a symbol.
    pub fn as_symbol(self) -> Option<&'a str> {
        if self.tag() == tag::SYMBOL { std::str::from_utf8(self.content()).ok() } else { None }
    }

    /// The bytes of a byte string.
    pub fn as_bytes(self) -> Option<&'a [u8]> {
        if self.tag() == tag::BYTES { Some(self.content()) } else { None }
    }

    /// An integer of any size.
    #[inline]
    pub fn as_int(self) -> Option<Int> {
        if self.tag() != tag::INTEGER {
            return None;
        }
        Some(Int::from_content(self.content()))
    }

    /// A small integer, without looking at big ones.
    #[inline(always)]
    pub fn as_i64(self) -> Option<i64> {
        if self.tag() != tag::INTEGER {
            return None;
        }
        int_from_content(self.content())
    }

    /// What an embedded value holds. (It stands alone there: what follows it, [`View::next_sibling`], follows the
    /// embedded value.)
    pub fn embedded(self) -> Option<View<'a>> {
        if self.tag() == tag::EMBEDDED { self.first_child() } else { None }
    }
}

/// The values in a compound. See [`View::children`].
#[derive(Debug, Clone)]
pub struct Children<'a>(Option<View<'a>>);

impl<'a> Iterator for Children<'a> {
    type Item = View<'a>;
    #[inline(always)]
    fn next(&mut self) -> Option<View<'a>> {
        let at = self.0?;
        self.0 = at.next_sibling();
        Some(at)
    }
}

#[inline(always)]
fn int_from_content(content: &[u8]) -> Option<i64> {
    let mut wide = match content {
        [] => return Some(0),
        [b] => return Some(*b as i8 as i64),
        [b, ..] if content.len() <= 8 => *b as i8 as i64,
        _ => return None,
    };
    for b in &content[1..] {
        wide = wide << 8 | *b as i64;
    }
    Some(wide)
}

/// An integer as peers use them to name things: nearly always small, yet unbounded.
///
/// **Invariant:** `Big` never holds what fits `Small`, and its content is minimal, so equality is equality of
/// numbers.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Int {
    /// Fits 64 bits.
    Small(i64),
    /// Two's complement, big-endian, minimal, more than 8 bytes.
    Big(Box<[u8]>),
}

impl Int {
    /// From the content of an integer in canonical form.
    pub fn from_content(content: &[u8]) -> Int {
        match int_from_content(content) {
            Some(small) => Int::Small(small),
            None => Int::Big(content.into()),
        }
    }

    /// Writes it in canonical form.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Int::Small(n) => super::encode::int(out, *n),
            Int::Big(content) => super::encode::atom(out, tag::INTEGER, content),
        }
    }
}

impl From<i64> for Int {
    fn from(n: i64) -> Int {
        Int::Small(n)
    }
}

impl std::fmt::Display for Int {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Int::Small(n) => write!(f, "{n}"),
            Int::Big(content) => write!(f, "<integer of {} bytes>", content.len()),
        }
    }
}

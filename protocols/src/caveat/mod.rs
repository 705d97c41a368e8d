//! Caveats: what an attenuated capability does to the values that pass through it.
//!
//! A capability is an entity and a list of caveats, oldest first. Each value asserted or sent through it is
//! handed to the newest caveat, what that yields to the one before, and so on; a caveat may pass a value on,
//! replace it, or drop it.
//!
//! # How
//! [`Caveats::compile`] turns a list into flat arrays once: patterns become instructions for a small matching
//! machine (see `Op`), templates become the pieces of their output, in order. [`Caveats::apply`] then runs over
//! a scanned value without building trees and without recursion. Lists that stand inside `attenuate` templates,
//! at any depth, lie in the same arrays: dropping caveats is not recursive either.
//!
//! # What is assumed
//! All values here are canonical bytes, capabilities included (they stand as embedded values whose bytes are
//! equal exactly if the capabilities are), so that equality is equality of bytes. What comes out is canonical
//! again: the keys of a `dict` template are literal, and stand in canonical order in a canonical template.
//!
//! # What a hostile list can do
//! Rewriting can double a value, and a list of rewrites can do so again and again; an `and` of many patterns
//! can look through a large value many times. [`Scratch`] therefore bounds the size of what any caveat yields
//! and the work done for one value. A value that breaks a bound is dropped: a capability so attenuated is of no
//! use to anybody, and nobody else is harmed.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::wire::{View, tag};

mod apply;
pub(crate) mod compile;

pub use apply::{Attenuate, Outcome, Scratch};

/// Why a list of caveats is refused. (Unknown and malformed caveats are not: they drop everything.)
///
/// The peer's fault: in a sturdyref the reference is refused, on the wire the session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CaveatError {
    /// A template refers to a capture that its pattern does not have.
    #[error("Invalid capability attenuation: UnboundRef")]
    UnboundRef,
    /// A `bind` inside a `not` in the pattern of a rewrite.
    #[error("Invalid capability attenuation: BindingUnderNegation")]
    BindingUnderNegation,
}

/// A list of caveats, compiled. Cheap to clone; may be shared between threads.
///
/// Two are equal exactly if their sources are.
#[derive(Clone, Default)]
pub struct Caveats {
    /// Oldest first; none holds an empty list.
    segments: SmallVec<[Segment; 1]>,
    /// The source, if there are several segments.
    joined: Option<Arc<[u8]>>,
}

/// One list of a program.
#[derive(Clone)]
struct Segment {
    program: Arc<Program>,
    list: u32,
}

/// The source of the empty list.
const EMPTY: &[u8] = &[tag::SEQUENCE, tag::END];

impl Caveats {
    /// Compiles a list of canonical values, oldest first. Costs a few passes over their bytes; the result takes
    /// up to about five times their size.
    ///
    /// # Errors
    /// [`CaveatError`] if a well-formed rewrite in the list, or in a well-formed `attenuate` template of it, is
    /// invalid. Malformed caveats are no error: like unknown ones, they drop everything.
    pub fn compile<'a>(list: impl Iterator<Item = View<'a>>) -> Result<Caveats, CaveatError> {
        compile::compile(list).map(|compiled| compiled.caveats)
    }

    /// One that nobody knows, so that nothing passes.
    pub fn nothing() -> Caveats {
        let program = Program {
            source: Box::from([tag::SEQUENCE, tag::FALSE, tag::END]),
            lists: vec![List { steps: 0..1, source: Span { start: 0, length: 3 } }],
            steps: vec![Step::Unknown],
            ..Program::default()
        };
        Caveats::of_list(&Arc::new(program), 0)
    }

    /// Whether there are none, so that everything passes unchanged.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Whether one of them is malformed or of a kind that is not known here, so that nothing passes.
    pub fn has_unknown(&self) -> bool {
        let mut steps = self.segments.iter().flat_map(|segment| {
            let program = &segment.program;
            let steps = &program.lists[segment.list as usize].steps;
            &program.steps[steps.start as usize..steps.end as usize]
        });
        steps.any(|step| matches!(step, Step::Unknown))
    }

    /// The list in canonical bytes, as a sequence.
    pub fn source(&self) -> &[u8] {
        match (&self.joined, &self.segments[..]) {
            (Some(joined), _) => joined,
            (None, [only]) => only.source(),
            (None, _) => EMPTY,
        }
    }

    /// These caveats with `newer` ones appended: those apply first. Costs a copy of both sources; nothing is
    /// compiled again.
    #[must_use]
    pub fn and_then(&self, newer: &Caveats) -> Caveats {
        if self.is_empty() {
            return newer.clone();
        }
        if newer.is_empty() {
            return self.clone();
        }
        let (old, new) = (self.source(), newer.source());
        let joined = [&old[..old.len() - 1], &new[1..]].concat();
        let segments = self.segments.iter().chain(&newer.segments).cloned().collect();
        Caveats { segments, joined: Some(joined.into()) }
    }

    fn of_list(program: &Arc<Program>, list: u32) -> Caveats {
        if program.lists[list as usize].steps.is_empty() {
            return Caveats::default();
        }
        let segment = Segment { program: Arc::clone(program), list };
        Caveats { segments: SmallVec::from_iter([segment]), joined: None }
    }
}

impl Segment {
    fn source(&self) -> &[u8] {
        self.program.source_at(self.program.lists[self.list as usize].source)
    }
}

impl PartialEq for Caveats {
    fn eq(&self, other: &Caveats) -> bool {
        self.source() == other.source()
    }
}

impl Eq for Caveats {}

impl Hash for Caveats {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.source().hash(state);
    }
}

impl fmt::Debug for Caveats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Caveats({:02x?})", self.source())
    }
}

/// A stretch of a program's source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    start: u32,
    length: u32,
}

/// Everything that one list became, with the lists inside it.
///
/// **Invariant:** all ranges lie within their arrays; the slots in a rule's instructions and pieces are below
/// its count; in a rule's pieces each `Attenuate` follows a `Mark` of its own; entering and leaving compounds
/// is balanced in each pattern.
#[derive(Debug, Default)]
struct Program {
    /// The list, in canonical bytes.
    source: Box<[u8]>,
    /// The list itself, then those in its `attenuate` templates.
    lists: Vec<List>,
    steps: Vec<Step>,
    rules: Vec<Rule>,
    ops: Vec<Op>,
    pieces: Vec<Piece>,
    /// What [`Piece::Copy`] copies.
    pool: Vec<u8>,
}

impl Program {
    fn source_at(&self, span: Span) -> &[u8] {
        &self.source[span.start as usize..(span.start + span.length) as usize]
    }
}

#[derive(Debug, Clone)]
struct List {
    steps: Range<u32>,
    source: Span,
}

/// One caveat.
#[derive(Debug, Clone)]
enum Step {
    /// Drops everything.
    Unknown,
    /// Drops what matches these instructions.
    Reject(Range<u32>),
    /// The first of these rules that matches decides.
    Rewrite(Range<u32>),
}

/// A pattern and its template.
#[derive(Debug, Clone)]
struct Rule {
    pattern: Range<u32>,
    slots: u32,
    template: Range<u32>,
}

/// An instruction of a pattern. The machine looks at one value at a time; an instruction tests that value, or
/// goes elsewhere in the tree. A pattern leaves the machine at the value where it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    /// It is `#f` or `#t`.
    Boolean,
    /// Its first byte is this one.
    Tag(u8),
    /// Its bytes are these.
    Literal(Span),
    /// Keeps it in a slot.
    Bind(u32),
    /// It is a record with this label and no fields.
    EmptyRecord(Span),
    /// It is a sequence without elements.
    EmptySequence,
    /// It is a record with this label and a field: goes to the first.
    EnterRecord(Span),
    /// It is a sequence with an element: goes to the first.
    EnterSequence,
    /// Goes to the next field or element, which must exist.
    NextItem,
    /// Goes back to the compound, of which this must have been the last field or element.
    LeaveItems,
    /// It is a dictionary with an entry: goes to the first key.
    EnterDictionary,
    /// Goes from a key to the value of this key, there or further on.
    Find(Span),
    /// Goes from a value to the next key, which must exist.
    NextKey,
    /// Goes back to the dictionary.
    LeaveDictionary,
    /// What follows, up to the `NotEnd` at this index, must fail.
    Not(u32),
    /// It did not.
    NotEnd,
}

/// A part of what a template yields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Piece {
    /// These bytes of the pool.
    Copy(Span),
    /// What the slot holds.
    Capture(u32),
    /// What an `Attenuate` is about begins here.
    Mark,
    /// What the template yielded since the last mark must be a capability; it gets this list.
    Attenuate(u32),
}

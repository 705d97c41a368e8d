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
//! and the work done for one value, which is proportional to the value. A value that breaks a bound is dropped: a
//! capability so attenuated is of no use to anybody, and nobody else is harmed. [`Scratch::work`] tells what a value
//! took, for whoever bounds the work done for many.
//!
//! Whoever has an attenuated capability can attenuate it further with a few bytes. So nothing is copied for that
//! ([`Caveats`] is a list that shares its beginnings), and the whole is bounded: [`SOURCE_BYTES_MAX`],
//! [`CAVEATS_MAX`].

use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::ops::Range;
use std::sync::{Arc, LazyLock};

use smallvec::SmallVec;

use crate::wire::{View, tag};

mod apply;
pub(crate) mod compile;

pub use apply::{Attenuate, Outcome, Scratch, reading};

/// How long all the caveats of one capability may be, in canonical bytes.
pub const SOURCE_BYTES_MAX: usize = 64 << 10;
/// How many there may be.
pub const CAVEATS_MAX: usize = 256;

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
    /// They are longer than [`SOURCE_BYTES_MAX`].
    #[error("all the caveats of a capability may take {SOURCE_BYTES_MAX} bytes, and these take more")]
    TooLong,
    /// They are more than [`CAVEATS_MAX`].
    #[error("a capability may have {CAVEATS_MAX} caveats, and this has more")]
    TooMany,
}

/// A list of caveats, compiled. Cheap to clone; may be shared between threads.
///
/// Two are equal exactly if their sources are. At most [`CAVEATS_MAX`] long, and [`SOURCE_BYTES_MAX`] bytes.
#[derive(Clone, Default)]
pub struct Caveats(Option<Arc<Node>>);

/// One list of a program, after caveats that are older.
///
/// **Invariant:** the list is not empty. So there are no more nodes in a row than there may be caveats, and to drop
/// them one inside the other is no deep recursion.
struct Node {
    program: Arc<Program>,
    list: u32,
    older: Caveats,
    /// Of all, the older ones included: how many they are, and how long without the brackets around them.
    count: u32,
    bytes: u32,
    /// Of all their sources, one by one.
    digest: u64,
}

/// With what sources are digested. Peers cannot know it, so they cannot find two of one digest.
static DIGESTS: LazyLock<RandomState> = LazyLock::new(RandomState::new);

impl Caveats {
    /// Compiles a list of canonical values, oldest first. Costs a few passes over their bytes; the result takes
    /// up to about five times their size.
    ///
    /// # Errors
    /// [`CaveatError`] if a well-formed rewrite in the list, or in a well-formed `attenuate` template of it, is
    /// invalid, or if it is too long. Malformed caveats are no error: like unknown ones, they drop everything.
    pub fn compile<'a>(list: impl Iterator<Item = View<'a>>) -> Result<Caveats, CaveatError> {
        compile::compile(list).map(|compiled| compiled.caveats)
    }

    /// One that nobody knows, so that nothing passes.
    pub fn nothing() -> Caveats {
        let program = Program {
            source: Box::from([tag::SEQUENCE, tag::FALSE, tag::END]),
            lists: vec![List { steps: 0..1, source: Span { start: 0, length: 3 } }],
            steps: vec![Step::Unknown],
            digests: vec![digest(&[tag::FALSE])],
            ..Program::default()
        };
        Caveats::default().with(&Arc::new(program), 0).expect("one short caveat")
    }

    /// Whether there are none, so that everything passes unchanged.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Whether one of them is malformed or of a kind that is not known here, so that nothing passes.
    pub fn has_unknown(&self) -> bool {
        self.nodes().flat_map(Node::steps).any(|step| matches!(step, Step::Unknown))
    }

    /// The list in canonical bytes, as a sequence. Costs a copy.
    pub fn source(&self) -> Vec<u8> {
        let nodes: SmallVec<[&Node; 4]> = self.nodes().collect();
        let mut source = Vec::with_capacity(self.source_bytes() + 2);
        source.push(tag::SEQUENCE);
        nodes.iter().rev().for_each(|node| source.extend_from_slice(node.source()));
        source.push(tag::END);
        source
    }

    /// A digest of the source: equal for equal ones, and hardly ever for others. Of this process alone.
    pub fn digest(&self) -> u64 {
        self.0.as_ref().map_or(0, |node| node.digest)
    }

    /// These caveats with `newer` ones appended: those apply first. Costs time and memory for the newer ones;
    /// nothing is copied or compiled again.
    ///
    /// # Errors
    /// [`CaveatError::TooLong`] or [`CaveatError::TooMany`] if both together are.
    pub fn and_then(&self, newer: &Caveats) -> Result<Caveats, CaveatError> {
        if self.is_empty() {
            return Ok(newer.clone());
        }
        let nodes: SmallVec<[&Node; 4]> = newer.nodes().collect();
        nodes.iter().rev().try_fold(self.clone(), |whole, node| whole.with(&node.program, node.list))
    }

    /// How many there are.
    fn count(&self) -> usize {
        self.0.as_ref().map_or(0, |node| node.count as usize)
    }

    /// How long they are.
    fn source_bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |node| node.bytes as usize)
    }

    /// What they are made of, the newest first.
    fn nodes(&self) -> impl Iterator<Item = &Node> {
        std::iter::successors(self.0.as_deref(), |node| node.older.0.as_deref())
    }

    /// These with a list of a program appended.
    fn with(self, program: &Arc<Program>, list: u32) -> Result<Caveats, CaveatError> {
        let List { steps, source } = &program.lists[list as usize];
        if steps.is_empty() {
            return Ok(self);
        }
        let count = self.count() + steps.len();
        let bytes = self.source_bytes() + source.length as usize - 2;
        check_length(count, bytes)?;
        let digests = &program.digests[steps.start as usize..steps.end as usize];
        let digest = digests.iter().fold(self.digest(), |whole, one| DIGESTS.hash_one((whole, one)));
        let node = Node {
            program: Arc::clone(program),
            list,
            older: self,
            count: count as u32,
            bytes: bytes as u32,
            digest,
        };
        Ok(Caveats(Some(Arc::new(node))))
    }
}

/// Whether a capability may have so many caveats, of so many bytes.
fn check_length(count: usize, bytes: usize) -> Result<(), CaveatError> {
    match (count, bytes) {
        (_, bytes) if bytes > SOURCE_BYTES_MAX => Err(CaveatError::TooLong),
        (count, _) if count > CAVEATS_MAX => Err(CaveatError::TooMany),
        _ => Ok(()),
    }
}

/// Of one caveat's source.
fn digest(caveat: &[u8]) -> u64 {
    DIGESTS.hash_one(caveat)
}

impl Node {
    /// Its caveats, without brackets around them.
    fn source(&self) -> &[u8] {
        let Span { start, length } = self.program.lists[self.list as usize].source;
        self.program.source_at(Span { start: start + 1, length: length - 2 })
    }

    fn steps(&self) -> &[Step] {
        let steps = &self.program.lists[self.list as usize].steps;
        &self.program.steps[steps.start as usize..steps.end as usize]
    }
}

impl PartialEq for Caveats {
    fn eq(&self, other: &Caveats) -> bool {
        if (self.digest(), self.source_bytes()) != (other.digest(), other.source_bytes()) {
            return false;
        }
        // From the end on, piece by piece: they may have come about in different steps.
        let (mut ours, mut theirs) = (self.nodes(), other.nodes());
        let (mut a, mut b): (&[u8], &[u8]) = (&[], &[]);
        loop {
            if a.is_empty() {
                // Both are as long.
                let Some(next) = ours.next() else { return true };
                a = next.source();
            }
            if b.is_empty() {
                let Some(next) = theirs.next() else { return true };
                b = next.source();
            }
            let length = a.len().min(b.len());
            let (a_rest, a_end) = a.split_at(a.len() - length);
            let (b_rest, b_end) = b.split_at(b.len() - length);
            // The same place is the same bytes: what shares its beginnings need not be read.
            if !std::ptr::eq(a_end, b_end) && a_end != b_end {
                return false;
            }
            (a, b) = (a_rest, b_rest);
        }
    }
}

impl Eq for Caveats {}

impl Hash for Caveats {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.digest());
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
    /// Of the source of each of them.
    digests: Vec<u64>,
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

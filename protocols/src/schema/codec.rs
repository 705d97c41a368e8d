//! Reading and writing of generated types.

use std::fmt;

use super::Value;
use crate::wire::{Children, Limits, Progress, ScanError, ScanErrorKind, Scanner, View, canonicalize, tag};

/// How many definitions may stand inside each other.
///
/// The default limit of the scanner lets through 256 levels of compounds, and our schemas have at most two
/// definitions to a level.
pub const DEPTH_MAX: u16 = 512;

/// A type whose values are Preserves values of a certain form.
pub trait Codec: Clone + fmt::Debug + Ord + Sized {
    /// What it is called in diagnostics: `module.Definition` for what is generated.
    const NAME: &'static str;

    /// Reads it from a part of a value. For implementations; others use [`Codec::read`].
    ///
    /// # Errors
    /// [`Mismatch`] if the value is of another form.
    fn read_from(input: Input<'_>) -> Result<Self, Mismatch>;

    /// Appends it in canonical form.
    fn write(&self, out: &mut Vec<u8>);

    /// Reads it from a *canonical* value. Surplus fields, elements and keys are ignored.
    ///
    /// # Errors
    /// [`Mismatch`] if the value is of another form.
    fn read(value: View<'_>) -> Result<Self, Mismatch> {
        Self::read_from(Input { value, depth: DEPTH_MAX })
    }

    /// Reads it from bytes that are exactly one value, in any legal form.
    ///
    /// # Errors
    /// [`ReadError`] says which of the steps failed.
    fn from_bytes(bytes: &[u8], limits: &Limits) -> Result<Self, ReadError> {
        let mut scanner = Scanner::new(*limits);
        scan(&mut scanner, bytes)?;
        if scanner.is_canonical() {
            return Ok(Self::read(scanner.view(bytes))?);
        }
        let mut canonical = Vec::new();
        canonicalize(scanner.view(bytes), &mut canonical).map_err(ReadError::Canonical)?;
        let mut scanner = Scanner::new(*limits);
        scan(&mut scanner, &canonical)?;
        Ok(Self::read(scanner.view(&canonical))?)
    }

    /// It in canonical form.
    fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out
    }
}

/// Scans bytes that must be exactly one value.
pub(super) fn scan(scanner: &mut Scanner, bytes: &[u8]) -> Result<(), ReadError> {
    match scanner.scan(bytes)? {
        Progress::Complete(length) if length == bytes.len() => Ok(()),
        Progress::Complete(length) => Err(ReadError::Trailing { at: length }),
        Progress::Incomplete(_) => Err(ReadError::Incomplete),
    }
}

/// Why bytes are not a value of a type. The peer's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// They are no value, or break a limit.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// They are the beginning of a value.
    #[error("the value is incomplete")]
    Incomplete,
    /// Something follows the value.
    #[error("position {at}: something follows the value")]
    Trailing {
        /// Where the value ends.
        at: usize,
    },
    /// The value has no canonical form.
    #[error("{0}")]
    Canonical(ScanErrorKind),
    /// The value has another form. Positions are in its canonical form.
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
}

/// Where a value differs from what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("position {at}: {kind}")]
pub struct Mismatch {
    /// Offset of the part that differs.
    pub at: usize,
    /// How it differs.
    pub kind: MismatchKind,
}

/// How a value differs from what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MismatchKind {
    /// It is of another kind, or fits none of a definition's alternatives.
    #[error("expected {0}")]
    Expected(&'static str),
    /// It is not this value.
    #[error("expected {}", text(.0))]
    Literal(&'static [u8]),
    /// It is no record with this label.
    #[error("expected a record {}", text(.0))]
    Label(&'static [u8]),
    /// A field or an element is missing at its end.
    #[error("a field or element is missing")]
    Missing,
    /// This key is missing in it.
    #[error("the key {} is missing", text(.0))]
    Key(&'static [u8]),
    /// It differs from another key of its dictionary only in what is ignored.
    #[error("another key differs from this only in what is ignored")]
    SameKey,
    /// More than [`DEPTH_MAX`] definitions stand inside each other.
    #[error("nested deeper than {DEPTH_MAX} definitions")]
    TooDeep,
}

/// A literal of a schema, for people.
fn text(literal: &[u8]) -> String {
    Value::trusted(literal).to_string()
}

/// Reads one form of a type.
pub type Reader<T> = fn(Input<'_>) -> Result<T, Mismatch>;

/// A part of a value that is being read. For implementations of [`Codec`].
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    value: View<'a>,
    /// How many definitions may still be entered.
    depth: u16,
}

impl<'a> Input<'a> {
    /// The value.
    pub fn view(self) -> View<'a> {
        self.value
    }

    /// That something else was expected here.
    pub fn mismatch(self, kind: MismatchKind) -> Mismatch {
        Mismatch { at: self.value.start(), kind }
    }

    /// Reads the value.
    ///
    /// # Errors
    /// [`Mismatch`] if it is of another form.
    pub fn read<T: Codec>(self) -> Result<T, Mismatch> {
        T::read_from(self)
    }

    /// To be called by what may hold itself.
    ///
    /// # Errors
    /// [`MismatchKind::TooDeep`].
    pub fn enter(self) -> Result<Input<'a>, Mismatch> {
        match self.depth.checked_sub(1) {
            Some(depth) => Ok(Input { depth, ..self }),
            None => Err(self.mismatch(MismatchKind::TooDeep)),
        }
    }

    /// What the first reader that accepts the value makes of it.
    ///
    /// # Errors
    /// If none does, [`Mismatch`] of the one that came furthest, or `name` if all failed at the start.
    pub fn first_of<T>(self, name: &'static str, readers: &[Reader<T>]) -> Result<T, Mismatch> {
        let mut furthest = self.mismatch(MismatchKind::Expected(name));
        for reader in readers {
            match reader(self) {
                Ok(value) => return Ok(value),
                Err(mismatch) if mismatch.at > furthest.at => furthest = mismatch,
                Err(_) => {}
            }
        }
        Err(furthest)
    }

    /// Checks that it is a certain value.
    ///
    /// # Errors
    /// [`MismatchKind::Literal`].
    pub fn literal(self, canonical: &'static [u8]) -> Result<(), Mismatch> {
        match self.value.span() == canonical {
            true => Ok(()),
            false => Err(self.mismatch(MismatchKind::Literal(canonical))),
        }
    }

    /// The fields of a record with a certain label.
    ///
    /// # Errors
    /// [`MismatchKind::Label`].
    pub fn record(self, label: &'static [u8]) -> Result<Items<'a>, Mismatch> {
        match self.value.label() {
            Some(found) if found.span() == label => Ok(self.items(self.value.fields())),
            _ => Err(self.mismatch(MismatchKind::Label(label))),
        }
    }

    /// The label and the fields of a record.
    ///
    /// # Errors
    /// If it is none.
    pub fn any_record(self) -> Result<(Input<'a>, Items<'a>), Mismatch> {
        match self.value.label() {
            Some(label) => Ok((self.part(label), self.items(self.value.fields()))),
            None => Err(self.mismatch(MismatchKind::Expected("a record"))),
        }
    }

    /// The elements of a sequence.
    ///
    /// # Errors
    /// If it is none.
    pub fn sequence(self) -> Result<Items<'a>, Mismatch> {
        self.expect(tag::SEQUENCE, "a sequence")?;
        Ok(self.items(self.value.children()))
    }

    /// The elements of a set.
    ///
    /// # Errors
    /// If it is none.
    pub fn set(self) -> Result<Items<'a>, Mismatch> {
        self.expect(tag::SET, "a set")?;
        Ok(self.items(self.value.children()))
    }

    /// The entries of a dictionary.
    ///
    /// # Errors
    /// If it is none.
    pub fn entries(self) -> Result<Entries<'a>, Mismatch> {
        self.expect(tag::DICTIONARY, "a dictionary")?;
        Ok(Entries(self))
    }

    pub(super) fn expect(self, wanted: u8, name: &'static str) -> Result<(), Mismatch> {
        match self.value.tag() == wanted {
            true => Ok(()),
            false => Err(self.mismatch(MismatchKind::Expected(name))),
        }
    }

    pub(super) fn part(self, value: View<'a>) -> Input<'a> {
        Input { value, ..self }
    }

    fn items(self, rest: Children<'a>) -> Items<'a> {
        Items { whole: self, rest }
    }
}

/// Fields or elements, one after the other. For implementations of [`Codec`].
#[derive(Debug, Clone)]
pub struct Items<'a> {
    whole: Input<'a>,
    rest: Children<'a>,
}

impl<'a> Items<'a> {
    /// The next one, which must be there.
    ///
    /// # Errors
    /// [`MismatchKind::Missing`], at the end of the compound.
    #[expect(clippy::should_implement_trait, reason = "it is an error if there is none")]
    pub fn next(&mut self) -> Result<Input<'a>, Mismatch> {
        match self.rest.next() {
            Some(value) => Ok(self.whole.part(value)),
            None => Err(Mismatch { at: self.whole.value.end() - 1, kind: MismatchKind::Missing }),
        }
    }

    /// All that are left.
    ///
    /// # Errors
    /// [`Mismatch`] if one is of another form.
    pub fn rest<T: Codec, C: FromIterator<T>>(self) -> Result<C, Mismatch> {
        let whole = self.whole;
        self.rest.map(|value| whole.part(value).read()).collect()
    }
}

/// The entries of a dictionary. For implementations of [`Codec`].
#[derive(Debug, Clone, Copy)]
pub struct Entries<'a>(Input<'a>);

impl<'a> Entries<'a> {
    /// The value under a key, which must be there. Costs the entries before it.
    ///
    /// # Errors
    /// [`MismatchKind::Key`].
    pub fn get(self, key: &'static [u8]) -> Result<Input<'a>, Mismatch> {
        match self.0.value.get(key) {
            Some(value) => Ok(self.0.part(value)),
            None => Err(self.0.mismatch(MismatchKind::Key(key))),
        }
    }
}

/// A definition of a schema, to be found by its name.
#[derive(Clone, Copy)]
pub struct Definition {
    /// `module.Definition`.
    pub name: &'static str,
    rewrite: fn(View<'_>) -> Result<Vec<u8>, Mismatch>,
    describe: fn(View<'_>) -> Result<String, Mismatch>,
}

impl Definition {
    /// The definition that a type comes from.
    pub const fn of<T: Codec>() -> Definition {
        Definition {
            name: T::NAME,
            rewrite: |value| T::read(value).map(|typed| typed.to_bytes()),
            describe: |value| T::read(value).map(|typed| format!("{typed:?}")),
        }
    }

    /// Reads a canonical value and writes what is understood of it: all but what is surplus.
    ///
    /// # Errors
    /// [`Mismatch`] if the value does not fit.
    pub fn rewrite(&self, value: View<'_>) -> Result<Vec<u8>, Mismatch> {
        (self.rewrite)(value)
    }

    /// Reads a canonical value and tells how it is understood, for people.
    ///
    /// # Errors
    /// [`Mismatch`] if the value does not fit.
    pub fn describe(&self, value: View<'_>) -> Result<String, Mismatch> {
        (self.describe)(value)
    }
}

impl fmt::Debug for Definition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Definition").field(&self.name).finish()
    }
}

//! Schemas as read: modules, definitions, patterns.
//!
//! Public so that programs can look at schemas themselves: to print them, or to check a generated parser
//! against a plain interpreter.

/// One `.prs` file.
#[derive(Debug, Clone, PartialEq)]
pub struct Module {
    /// By which others refer to it: the file's name without its ending.
    pub name: String,
    /// The file, as diagnostics name it.
    pub file: String,
    /// Its text.
    pub text: String,
    /// The comment that the file begins with, line by line.
    pub doc: Vec<String>,
    /// In order of the text.
    pub definitions: Vec<Definition>,
    /// The path of the Rust module that has its types, if that is not to be generated.
    pub elsewhere: Option<String>,
}

/// `Name = ... .`
#[derive(Debug, Clone, PartialEq)]
pub struct Definition {
    /// Its name, which is the type's.
    pub name: String,
    /// The comment before it, line by line.
    pub doc: Vec<String>,
    /// Position of its name in the text.
    pub at: usize,
    /// Position after the full stop.
    pub end: usize,
    /// What it says.
    pub body: Body,
}

/// What a definition says.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// `a / b`: the first that fits.
    Alternatives(Vec<Alternative>),
    /// `a & b`: dictionaries that are one.
    Intersection(Vec<Field>),
    /// One pattern.
    Pattern(Pattern),
}

/// One of several forms.
#[derive(Debug, Clone, PartialEq)]
pub struct Alternative {
    /// Given by `@name`, or taken from what it is.
    pub name: String,
    /// The comment before it.
    pub doc: Vec<String>,
    /// Position in the text.
    pub at: usize,
    /// What it looks like.
    pub pattern: Pattern,
}

/// A part of a compound.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    /// Given by `@name`, or by a symbol that is its key.
    pub name: Option<String>,
    /// The comment before it.
    pub doc: Vec<String>,
    /// Position in the text.
    pub at: usize,
    /// What it looks like.
    pub pattern: Pattern,
}

/// What a value looks like.
#[derive(Debug, Clone, PartialEq)]
pub enum Pattern {
    /// Any value.
    Any,
    /// Any atom of a kind.
    Atom(Atom),
    /// Exactly this value.
    Literal(Literal),
    /// An embedded value; what kind of thing answers to it is for readers only.
    Embedded(Box<Pattern>),
    /// A sequence of any number of one thing.
    Sequence(Box<Pattern>),
    /// A set of one thing.
    Set(Box<Pattern>),
    /// A dictionary of any number of entries alike.
    Dictionary(Box<Pattern>, Box<Pattern>),
    /// What another definition says.
    Reference(Reference),
    /// A record: its label, and its fields as one sequence.
    Record(Box<Field>, Box<Pattern>),
    /// A sequence that begins like this; what follows is of one kind if the second part is there, and ignored
    /// otherwise.
    Tuple(Vec<Field>, Option<Box<Field>>),
    /// A dictionary with at least these keys, in canonical order.
    Entries(Vec<(Literal, Field)>),
}

/// The kinds of atoms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Atom {
    /// `bool`
    Boolean,
    /// `double`
    Double,
    /// `int`, of any size
    Integer,
    /// `string`
    String,
    /// `bytes`
    Bytes,
    /// `symbol`
    Symbol,
}

/// A value in a schema.
#[derive(Debug, Clone, PartialEq)]
pub struct Literal {
    /// In canonical machine syntax.
    pub bytes: Vec<u8>,
    /// Its text, if it is a symbol.
    pub symbol: Option<String>,
}

/// The name of a definition.
#[derive(Debug, Clone, PartialEq)]
pub struct Reference {
    /// The module, if it is named.
    pub module: Option<String>,
    /// The definition.
    pub name: String,
    /// Position in the text.
    pub at: usize,
}

/// Where in a definition a pattern stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// In it, or in a compound in it.
    Direct,
    /// In a sequence, set or dictionary of any length.
    Collection,
    /// In what is said of an embedded value, which is for readers only.
    Embedded,
}

impl Pattern {
    /// Whether it is a type, as opposed to a literal and to a compound, whose parts become fields.
    pub fn is_simple(&self) -> bool {
        !matches!(self, Pattern::Literal(_) | Pattern::Record(..) | Pattern::Tuple(..) | Pattern::Entries(_))
    }

    /// Calls `visit` for it and every pattern in it, with where that stands; `place` is where it stands itself.
    pub(crate) fn walk<'p>(&'p self, place: Place, visit: &mut impl FnMut(&'p Pattern, Place)) {
        visit(self, place);
        // What an embedded value answers to is not looked at, whatever is in it.
        let inside = place.max(Place::Collection);
        match self {
            Pattern::Any | Pattern::Atom(_) | Pattern::Literal(_) | Pattern::Reference(_) => {}
            Pattern::Embedded(inner) => inner.walk(Place::Embedded, visit),
            Pattern::Sequence(inner) | Pattern::Set(inner) => inner.walk(inside, visit),
            Pattern::Dictionary(key, value) => {
                key.walk(inside, visit);
                value.walk(inside, visit);
            }
            Pattern::Record(label, fields) => {
                label.pattern.walk(place, visit);
                fields.walk(place, visit);
            }
            Pattern::Tuple(fields, tail) => {
                fields.iter().for_each(|field| field.pattern.walk(place, visit));
                tail.iter().for_each(|field| field.pattern.walk(inside, visit));
            }
            Pattern::Entries(entries) => {
                entries.iter().for_each(|(_, field)| field.pattern.walk(place, visit));
            }
        }
    }
}

impl Body {
    /// The patterns that it is made of.
    pub(crate) fn patterns(&self) -> Vec<&Pattern> {
        match self {
            Body::Alternatives(alternatives) => alternatives.iter().map(|a| &a.pattern).collect(),
            Body::Intersection(parts) => parts.iter().map(|part| &part.pattern).collect(),
            Body::Pattern(pattern) => vec![pattern],
        }
    }
}

//! [`Node`]s to [`Module`]s: the grammar of the schema language.

use crate::datum::{Datum, Node};
use crate::diagnostic::Diagnostics;
use crate::read::{self, Fault};
use crate::schema::{Alternative, Atom, Body, Definition, Field, Literal, Module, Pattern, Reference};

type Parsed<T> = Result<T, Fault>;

fn fault<T>(at: usize, message: impl Into<String>) -> Parsed<T> {
    Err((at, message.into()))
}

/// Reads one module. One fault in a clause does not hide those in the others.
pub(crate) fn module(name: &str, file: &str, text: &str, faults: &mut Diagnostics) -> Module {
    let mut module = Module {
        name: name.into(),
        file: file.into(),
        text: text.into(),
        doc: read::opening_comment(text),
        definitions: Vec::new(),
        elsewhere: None,
    };
    let nodes = match read::read(text) {
        Ok(nodes) => nodes,
        Err((at, message)) => {
            faults.at(file, text, at, message);
            return module;
        }
    };
    let mut has_version = false;
    let mut rest = &nodes[..];
    while let Some(first) = rest.first() {
        let Some(length) = rest.iter().position(|node| node.is(".")) else {
            faults.at(file, text, first.at, "a clause ends with a full stop that stands alone");
            break;
        };
        match clause(&rest[..length], rest[length].end) {
            Ok(Clause::Version) => has_version = true,
            Ok(Clause::EmbeddedType | Clause::Nothing) => {}
            Ok(Clause::Definition(definition)) => module.definitions.push(definition),
            Err((at, message)) => faults.at(file, text, at, message),
        }
        rest = &rest[length + 1..];
    }
    if !has_version {
        faults.whole(file, "the clause `version 1 .` is missing");
    }
    module
}

enum Clause {
    Version,
    EmbeddedType,
    Nothing,
    Definition(Definition),
}

/// What stands before a full stop.
fn clause(nodes: &[Node], end: usize) -> Parsed<Clause> {
    match nodes {
        // Something for a last comment to stand before.
        [] => Ok(Clause::Nothing),
        [name, equals, body @ ..] if equals.is("=") => Ok(Clause::Definition(Definition {
            name: definition_name(name)?.into(),
            doc: name.doc.clone(),
            at: name.at,
            end,
            body: self::body(body, end)?,
        })),
        [word, version] if word.is("version") => match version.datum {
            Datum::Int(1) => Ok(Clause::Version),
            _ => fault(version.at, "unsupported version of the schema language: this is for version 1"),
        },
        // Rust code says itself what its capabilities are.
        [word, _] if word.is("embeddedType") => Ok(Clause::EmbeddedType),
        [word, ..] if word.is("include") => {
            fault(word.at, "include is not supported: refer to `module.Name`")
        }
        [first, ..] => fault(first.at, "expected `version 1 .`, `embeddedType ... .` or `Name = ... .`"),
    }
}

fn definition_name(node: &Node) -> Parsed<&str> {
    match node.symbol() {
        Some(name) if is_name(name) && name.starts_with(|c: char| c.is_ascii_uppercase()) => Ok(name),
        _ => fault(node.at, "a definition's name is a capital, then letters, digits and underscores"),
    }
}

/// Whether it can be part of a name in Rust.
fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn body(nodes: &[Node], end: usize) -> Parsed<Body> {
    let has = |separator: &str| nodes.iter().find(|node| node.is(separator));
    match (has("/"), has("&")) {
        (Some(_), Some(and)) => fault(and.at, "`/` and `&` do not mix: give one of them its own definition"),
        (Some(_), None) => {
            let parts = separated(nodes, "/", end)?;
            Ok(Body::Alternatives(parts.into_iter().map(alternative).collect::<Parsed<_>>()?))
        }
        (None, Some(_)) => {
            let parts = separated(nodes, "&", end)?;
            Ok(Body::Intersection(parts.into_iter().map(field).collect::<Parsed<_>>()?))
        }
        (None, None) => {
            let [only] = &separated(nodes, "/", end)?[..] else {
                return fault(end - 1, "a pattern is missing here");
            };
            match field(*only)? {
                Field { name: None, pattern, .. } => Ok(Body::Pattern(pattern)),
                Field { at, .. } => fault(at, "a name has no use here: the definition has one"),
            }
        }
    }
}

/// A pattern between separators, and the comment before it or before the separator.
#[derive(Clone, Copy)]
struct Part<'n> {
    node: &'n Node,
    doc: &'n [String],
}

/// What stands between separators, of which one may come first.
fn separated<'n>(nodes: &'n [Node], separator: &str, end: usize) -> Parsed<Vec<Part<'n>>> {
    let leading = nodes.first().filter(|node| node.is(separator));
    let mut before: &[String] = leading.map_or(&[], |node| &node.doc);
    let mut rest = if leading.is_some() { &nodes[1..] } else { nodes };
    let mut parts = Vec::new();
    loop {
        let node = match rest {
            [] => return fault(end - 1, "a pattern is missing here"),
            [node, ..] if node.is(separator) => return fault(node.at, "a pattern is missing here"),
            [node, ..] => node,
        };
        parts.push(Part { node, doc: if node.doc.is_empty() { before } else { &node.doc } });
        match &rest[1..] {
            [] => return Ok(parts),
            [next, more @ ..] if next.is(separator) => {
                before = &next.doc;
                rest = more;
            }
            [next, ..] => return fault(next.at, "expected `/`, `&` or `.`"),
        }
    }
}

fn alternative(part: Part<'_>) -> Parsed<Alternative> {
    let Field { name, doc, at, pattern } = field(part)?;
    let name = match (name, &pattern) {
        (Some(name), _) => Some(name),
        (None, Pattern::Reference(reference)) => Some(reference.name.clone()),
        (None, Pattern::Literal(literal)) => match literal.bytes[..] {
            [0x80] => Some("false".into()),
            [0x81] => Some("true".into()),
            _ => literal.symbol.clone(),
        },
        (None, Pattern::Record(label, _)) => match &label.pattern {
            Pattern::Literal(literal) => literal.symbol.clone(),
            _ => None,
        },
        (None, _) => None,
    };
    match name.filter(|name| name.starts_with(|c: char| c.is_ascii_alphabetic())) {
        Some(name) => Ok(Alternative { name, doc, at, pattern }),
        None => fault(at, "this alternative needs a name: write `@name` before it"),
    }
}

fn field(part: Part<'_>) -> Parsed<Field> {
    let Part { node, doc } = part;
    let mut doc = doc.to_vec();
    let mut name = None;
    for annotation in &node.annotations {
        match &annotation.datum {
            // The longer way of writing a comment.
            Datum::String(text) => doc.extend(text.lines().map(str::to_owned)),
            Datum::Symbol(text) if !is_name(text) => {
                return fault(annotation.at, "a name is a letter, then letters, digits and underscores");
            }
            Datum::Symbol(_) if name.is_some() => return fault(annotation.at, "one name is enough"),
            Datum::Symbol(text) => name = Some(text.clone()),
            _ => {}
        }
    }
    Ok(Field { name, doc, at: node.at, pattern: pattern(node)? })
}

fn named(node: &Node) -> Parsed<Field> {
    field(Part { node, doc: &node.doc })
}

fn pattern(node: &Node) -> Parsed<Pattern> {
    match &node.datum {
        Datum::Symbol(name) => symbol(name, node),
        Datum::Record(items) => record(items),
        Datum::Sequence(items) => match &items[..] {
            [only, dots] if dots.is("...") && only.annotations.is_empty() => {
                Ok(Pattern::Sequence(Box::new(pattern(only)?)))
            }
            _ => tuple(items),
        },
        Datum::Set(items) => match &items[..] {
            [only] => Ok(Pattern::Set(Box::new(pattern(only)?))),
            _ => fault(node.at, "a set pattern has one element: what all elements are like"),
        },
        Datum::Dictionary(entries) => dictionary(entries),
        Datum::Embedded(inner) => Ok(Pattern::Embedded(Box::new(pattern(inner)?))),
        Datum::Bool(_) | Datum::Double(_) | Datum::Int(_) | Datum::String(_) | Datum::Bytes(_) => {
            Ok(Pattern::Literal(literal(node)?))
        }
    }
}

fn symbol(name: &str, node: &Node) -> Parsed<Pattern> {
    if let Some(symbol) = name.strip_prefix('=')
        && !symbol.is_empty()
    {
        return Ok(Pattern::Literal(symbol_literal(symbol)));
    }
    Ok(match name {
        "any" => Pattern::Any,
        "bool" => Pattern::Atom(Atom::Boolean),
        "double" => Pattern::Atom(Atom::Double),
        "int" => Pattern::Atom(Atom::Integer),
        "string" => Pattern::Atom(Atom::String),
        "bytes" => Pattern::Atom(Atom::Bytes),
        "symbol" => Pattern::Atom(Atom::Symbol),
        "float" => return fault(node.at, "there is no `float` any more: use `double`"),
        "..." => return fault(node.at, "`...` follows the last pattern of a sequence or record"),
        _ => {
            let (module, name) = match name.rsplit_once('.') {
                Some((module, name)) => (Some(module.to_owned()), name),
                None => (None, name),
            };
            if !is_name(name) || module.as_ref().is_some_and(|module| !is_name(module)) {
                return fault(node.at, "expected a pattern; the symbol x itself is written `=x`");
            }
            Pattern::Reference(Reference { module, name: name.into(), at: node.at })
        }
    })
}

fn symbol_literal(symbol: &str) -> Literal {
    let mut bytes = Vec::new();
    Datum::Symbol(symbol.into()).encode(&mut bytes);
    Literal { bytes, symbol: Some(symbol.into()) }
}

fn literal(node: &Node) -> Parsed<Literal> {
    let mut bytes = Vec::new();
    if !node.datum.encode(&mut bytes) {
        return fault(node.at, "an embedded value cannot be a literal");
    }
    Ok(Literal { bytes, symbol: node.symbol().map(str::to_owned) })
}

fn record(items: &[Node]) -> Parsed<Pattern> {
    let (label, fields) = (&items[0], &items[1..]);
    match &label.datum {
        // <<lit> v> and <<rec> label fields>: a record as label says that this is no plain record.
        Datum::Record(escape) => match (escape[..].first().and_then(Node::symbol), fields) {
            (Some("lit"), [value]) => Ok(Pattern::Literal(literal(value)?)),
            (Some("rec"), [label, fields]) => {
                Ok(Pattern::Record(Box::new(named(label)?), Box::new(record_fields(fields)?)))
            }
            _ => fault(label.at, "expected `<<lit> value>` or `<<rec> label fields>`"),
        },
        Datum::Symbol(name) => {
            let label = Field {
                name: None,
                doc: Vec::new(),
                at: label.at,
                pattern: Pattern::Literal(symbol_literal(name)),
            };
            Ok(Pattern::Record(Box::new(label), Box::new(tuple(fields)?)))
        }
        _ => fault(label.at, "a label that is no symbol is written `<<rec> label fields>`"),
    }
}

/// The fields of a `<<rec> label fields>`, as a tuple.
fn record_fields(node: &Node) -> Parsed<Pattern> {
    let Field { name, doc, at, pattern } = named(node)?;
    match (name, pattern) {
        (None, tuple @ Pattern::Tuple(..)) => Ok(tuple),
        (name, Pattern::Sequence(inner)) => {
            Ok(Pattern::Tuple(Vec::new(), Some(Box::new(Field { name, doc, at, pattern: *inner }))))
        }
        _ => fault(at, "the fields of a record are written like a sequence: `[p q]`, or `@name [p ...]`"),
    }
}

fn tuple(items: &[Node]) -> Parsed<Pattern> {
    let (fixed, tail) = match items {
        [fixed @ .., tail, dots] if dots.is("...") => (fixed, Some(Box::new(named(tail)?))),
        _ => (items, None),
    };
    Ok(Pattern::Tuple(fixed.iter().map(named).collect::<Parsed<_>>()?, tail))
}

fn dictionary(entries: &[(Node, Node)]) -> Parsed<Pattern> {
    if let Some((dots, value)) = entries.iter().find(|(key, _)| key.is("..."))
        && let [first, second] = entries
    {
        let (key, item) = if first.0.is("...") { second } else { first };
        return match value.is("...") {
            true => Ok(Pattern::Dictionary(Box::new(pattern(key)?), Box::new(pattern(item)?))),
            false => fault(dots.at, "expected `...:...`"),
        };
    }
    let mut all = Vec::new();
    for (key, value) in entries {
        let mut field = named(value)?;
        if field.doc.is_empty() {
            field.doc.clone_from(&key.doc);
        }
        // `{key: any}` is `{key: @key any}`.
        if field.name.is_none() && field.pattern.is_simple() {
            field.name = key.symbol().filter(|name| is_name(name)).map(str::to_owned);
        }
        all.push((literal(key)?, field));
    }
    all.sort_by(|a, b| a.0.bytes.cmp(&b.0.bytes));
    Ok(Pattern::Entries(all))
}

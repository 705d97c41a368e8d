//! The types themselves.

use super::{Generator, doc};
use crate::diagnostic::place;
use crate::names::{camel, snake};
use crate::schema::{Atom, Body, Field, Pattern};
use crate::world::Id;

/// What a type, or a variant of one, is made of.
pub(super) enum Shape<'p> {
    /// Nothing that varies.
    Unit,
    /// One part without a name.
    Single(&'p Pattern),
    /// Parts with names.
    Fields(Vec<&'p Field>),
}

/// The shape of a definition or alternative that is one pattern.
pub(super) fn shape(pattern: &Pattern) -> Shape<'_> {
    if pattern.is_simple() {
        return Shape::Single(pattern);
    }
    let mut fields = Vec::new();
    collect(pattern, &mut fields);
    if fields.is_empty() { Shape::Unit } else { Shape::Fields(fields) }
}

/// The shape of an intersection.
pub(super) fn joined(parts: &[Field]) -> Shape<'_> {
    let mut fields = Vec::new();
    parts.iter().for_each(|part| collect_field(part, &mut fields));
    if fields.is_empty() { Shape::Unit } else { Shape::Fields(fields) }
}

fn collect<'p>(pattern: &'p Pattern, fields: &mut Vec<&'p Field>) {
    match pattern {
        Pattern::Record(label, inner) => {
            collect_field(label, fields);
            collect(inner, fields);
        }
        Pattern::Tuple(fixed, tail) => {
            fixed.iter().for_each(|field| collect_field(field, fields));
            tail.iter().for_each(|field| fields.push(field));
        }
        Pattern::Entries(entries) => entries.iter().for_each(|(_, field)| collect_field(field, fields)),
        _ => {}
    }
}

fn collect_field<'p>(field: &'p Field, fields: &mut Vec<&'p Field>) {
    if field.pattern.is_simple() { fields.push(field) } else { collect(&field.pattern, fields) }
}

/// A field's name in Rust.
pub(super) fn field_name(field: &Field) -> String {
    snake(field.name.as_deref().unwrap_or_default())
}

impl<'m> Generator<'_, 'm> {
    /// The type of a definition, and all that is implemented for it.
    pub(super) fn definition(&mut self, id: Id) {
        let (_, definition) = self.world.get(id);
        let name = &definition.name;
        doc::write(self.out, &definition.doc, &format!("The definition `{name}`."));
        self.source_lines(definition.at, definition.end);
        let derives = [
            "fmt::Debug",
            "clone::Clone",
            "cmp::PartialEq",
            "cmp::Eq",
            "cmp::PartialOrd",
            "cmp::Ord",
            "hash::Hash",
        ];
        let derives: Vec<String> = derives.iter().map(|derive| format!("::core::{derive}")).collect();
        self.line(&format!("#[derive({})]", derives.join(", ")));
        let parameter = match self.world.is_embedding(id) {
            true => format!("<E = {}>", self.rt("Value")),
            false => String::new(),
        };
        match &definition.body {
            Body::Alternatives(alternatives) => {
                self.line(&format!("pub enum {name}{parameter} {{"));
                for alternative in alternatives {
                    let variant = camel(&alternative.name);
                    doc::write(
                        self.out,
                        &alternative.doc,
                        &format!("The alternative `{}`.", alternative.name),
                    );
                    match shape(&alternative.pattern) {
                        Shape::Unit => self.line(&format!("{variant},")),
                        Shape::Single(pattern) => {
                            let ty = self.ty(id, pattern, true);
                            self.line(&format!("{variant}({ty}),"));
                        }
                        Shape::Fields(fields) => {
                            self.line(&format!("{variant} {{"));
                            self.fields(id, &fields, "");
                            self.line("},");
                        }
                    }
                }
                self.line("}");
            }
            Body::Intersection(parts) => self.structure(id, name, &parameter, joined(parts)),
            Body::Pattern(pattern) => self.structure(id, name, &parameter, shape(pattern)),
        }
        self.codec(id);
    }

    fn structure(&mut self, id: Id, name: &str, parameter: &str, shape: Shape<'_>) {
        match shape {
            Shape::Unit => self.line(&format!("pub struct {name}{parameter};")),
            Shape::Single(pattern) => {
                let ty = self.ty(id, pattern, true);
                self.line(&format!("pub struct {name}{parameter}("));
                doc::attribute(self.out, "What it is.");
                self.line(&format!("pub {ty});"));
            }
            Shape::Fields(fields) => {
                self.line(&format!("pub struct {name}{parameter} {{"));
                self.fields(id, &fields, "pub ");
                self.line("}");
            }
        }
    }

    fn fields(&mut self, id: Id, fields: &[&Field], visibility: &str) {
        for field in fields {
            let name = field.name.as_deref().unwrap_or_default();
            doc::write(self.out, &field.doc, &format!("The part `{name}`."));
            let mut ty = self.ty(id, &field.pattern, true);
            if self.is_tail(id, field) {
                ty = format!("::std::vec::Vec<{}>", self.ty(id, &field.pattern, false));
            }
            self.line(&format!("{visibility}{}: {ty},", field_name(field)));
        }
    }

    /// Whether a field is the open end of a sequence.
    fn is_tail(&self, id: Id, field: &Field) -> bool {
        let mut is_tail = false;
        for pattern in self.world.get(id).1.body.patterns() {
            pattern.walk(crate::schema::Place::Direct, &mut |inner, _| {
                if let Pattern::Tuple(_, Some(tail)) = inner {
                    is_tail |= std::ptr::eq(&**tail, field);
                }
            });
        }
        is_tail
    }

    /// The lines of the schema that a type comes from, for its documentation.
    fn source_lines(&mut self, at: usize, end: usize) {
        let text = &self.module.text;
        let (line, _) = place(text, at);
        let file = self.module.file.rsplit(['/', '\\']).next().unwrap_or_default();
        doc::attribute(self.out, "");
        doc::attribute(self.out, &format!("From `{file}`, line {line}:"));
        doc::attribute(self.out, "```text");
        text[at..end].lines().for_each(|line| doc::attribute(self.out, line));
        doc::attribute(self.out, "```");
    }

    /// The Rust type of a pattern in definition `id`, boxed if it may hold that.
    fn ty(&self, id: Id, pattern: &Pattern, is_direct: bool) -> String {
        let inner = |pattern: &Pattern| self.ty(id, pattern, false);
        match pattern {
            Pattern::Any => self.rt("Value"),
            Pattern::Atom(Atom::Boolean) => "bool".into(),
            Pattern::Atom(Atom::Double) => self.rt("Double"),
            Pattern::Atom(Atom::Integer) => self.rt("Int"),
            Pattern::Atom(Atom::String) => "::std::string::String".into(),
            Pattern::Atom(Atom::Bytes) => "::std::vec::Vec<u8>".into(),
            Pattern::Atom(Atom::Symbol) => self.rt("Symbol"),
            Pattern::Embedded(_) => format!("{}<E>", self.rt("Embedded")),
            Pattern::Sequence(item) => format!("::std::vec::Vec<{}>", inner(item)),
            Pattern::Set(item) => format!("::std::collections::BTreeSet<{}>", inner(item)),
            Pattern::Dictionary(key, value) => {
                format!("::std::collections::BTreeMap<{}, {}>", inner(key), inner(value))
            }
            Pattern::Reference(reference) => match self.world.resolve(self.m, reference) {
                Some(other) if is_direct && self.world.is_boxed(id, other) => {
                    format!("::std::boxed::Box<{}>", self.path(other))
                }
                Some(other) => self.path(other),
                None => unreachable!("references were checked"),
            },
            // No types: the checks saw to it that they do not stand here.
            Pattern::Literal(_) | Pattern::Record(..) | Pattern::Tuple(..) | Pattern::Entries(_) => {
                "()".into()
            }
        }
    }

    /// How the type of a definition is written here.
    pub(super) fn path(&self, id: Id) -> String {
        let (module, definition) = self.world.get(id);
        let parameter = if self.world.is_embedding(id) { "<E>" } else { "" };
        let name = &definition.name;
        match &module.elsewhere {
            _ if id.0 == self.m => format!("{name}{parameter}"),
            Some(path) => format!("{path}::{name}{parameter}"),
            None => format!("super::{}::{name}{parameter}", snake(&module.name)),
        }
    }
}

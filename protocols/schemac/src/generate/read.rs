//! How values are read.

use super::types::{Shape, field_name, shape};
use super::{Generator, byte_literal};
use crate::names::{camel, snake};
use crate::schema::{Alternative, Body, Field, Pattern};
use crate::world::Id;

impl<'m> Generator<'_, 'm> {
    /// The implementation of `Codec`, and what it needs.
    pub(super) fn codec(&mut self, id: Id) {
        let (_, definition) = self.world.get(id);
        let (codec, path) = (self.rt("Codec"), self.path(id));
        let generics = if self.world.is_embedding(id) { format!("<E: {codec}>") } else { String::new() };
        if let Body::Alternatives(alternatives) = &definition.body {
            self.line(&format!("impl{generics} {path} {{"));
            alternatives.iter().for_each(|alternative| self.read_alternative(alternative));
            self.line("}");
        }
        self.line(&format!("impl{generics} {codec} for {path} {{"));
        self.line(&format!("const NAME: &'static str = \"{}.{}\";", self.module.name, definition.name));
        let (input, result) = (self.rt("Input"), self.result());
        self.line(&format!("fn read_from(__input: {input}<'_>) -> {result} {{"));
        match &definition.body {
            Body::Alternatives(alternatives) => self.try_alternatives(alternatives),
            Body::Intersection(parts) => self.read_joined(parts),
            Body::Pattern(pattern) => self.read_shape(pattern, "Self"),
        }
        self.line("}");
        self.line("fn write(&self, __out: &mut ::std::vec::Vec<u8>) {");
        self.write_definition(&definition.body);
        self.line("}\n}");
    }

    fn result(&self) -> String {
        format!("::core::result::Result<Self, {}>", self.rt("Mismatch"))
    }

    /// The first alternative that fits; if none does, the one that came furthest tells why.
    fn try_alternatives(&mut self, alternatives: &[Alternative]) {
        self.line("let __input = __input.enter()?;");
        self.line(&format!("__input.first_of(<Self as {}>::NAME, &[", self.rt("Codec")));
        for alternative in alternatives {
            self.line(&format!("Self::{},", reader(alternative)));
        }
        self.line("])");
    }

    fn read_alternative(&mut self, alternative: &Alternative) {
        let (input, result) = (self.rt("Input"), self.result());
        self.line(&format!("fn {}(__input: {input}<'_>) -> {result} {{", reader(alternative)));
        self.read_pattern(&alternative.pattern, &format!("Self::{}", camel(&alternative.name)));
        self.line("}");
    }

    fn read_shape(&mut self, pattern: &Pattern, constructor: &str) {
        self.line("let __input = __input.enter()?;");
        self.read_pattern(pattern, constructor);
    }

    /// Reads what is one pattern, and makes of it what `constructor` names.
    fn read_pattern(&mut self, pattern: &Pattern, constructor: &str) {
        let made = match shape(pattern) {
            Shape::Single(_) => {
                self.line(&format!("::core::result::Result::Ok({constructor}(__input.read()?))"));
                return;
            }
            Shape::Unit => constructor.to_owned(),
            Shape::Fields(fields) => construct(constructor, &fields),
        };
        self.read_compound(pattern, "__input", 0);
        self.line(&format!("::core::result::Result::Ok({made})"));
    }

    fn read_joined(&mut self, parts: &[Field]) {
        self.line("let __input = __input.enter()?;");
        for part in parts {
            match part.pattern.is_simple() {
                true => self.line(&format!("let {} = __input.read()?;", field_name(part))),
                false => self.read_compound(&part.pattern, "__input", 0),
            }
        }
        let made = match super::types::joined(parts) {
            Shape::Fields(fields) => construct("Self", &fields),
            _ => "Self".into(),
        };
        self.line(&format!("::core::result::Result::Ok({made})"));
    }

    /// Statements that take a literal or compound apart: each named part becomes a variable. `level` keeps the
    /// names of compounds in compounds apart.
    fn read_compound(&mut self, pattern: &Pattern, input: &str, level: usize) {
        let items = format!("__items_{level}");
        match pattern {
            Pattern::Literal(literal) => {
                self.line(&format!("{input}.literal({})?;", byte_literal(&literal.bytes)))
            }
            Pattern::Record(label, fields) => {
                let Pattern::Tuple(fixed, tail) = &**fields else { unreachable!("fields are a tuple") };
                let binding =
                    if fixed.is_empty() && tail.is_none() { "_".into() } else { format!("mut {items}") };
                match &label.pattern {
                    Pattern::Literal(literal) => {
                        self.line(&format!(
                            "let {binding} = {input}.record({})?;",
                            byte_literal(&literal.bytes)
                        ));
                    }
                    pattern => {
                        self.line(&format!("let (__label_{level}, {binding}) = {input}.any_record()?;"));
                        match pattern.is_simple() {
                            true => {
                                self.line(&format!("let {} = __label_{level}.read()?;", field_name(label)))
                            }
                            false => self.read_compound(pattern, &format!("__label_{level}"), level + 1),
                        }
                    }
                }
                self.read_items(fixed, tail.as_deref(), &items, level);
            }
            Pattern::Tuple(fixed, tail) => {
                let binding =
                    if fixed.is_empty() && tail.is_none() { "_".into() } else { format!("mut {items}") };
                self.line(&format!("let {binding} = {input}.sequence()?;"));
                self.read_items(fixed, tail.as_deref(), &items, level);
            }
            Pattern::Entries(entries) => {
                let binding = if entries.is_empty() { "_" } else { &items };
                self.line(&format!("let {binding} = {input}.entries()?;"));
                for (key, field) in entries {
                    let key = byte_literal(&key.bytes);
                    self.read_part(field, &format!("{items}.get({key})?"), level);
                }
            }
            _ => {}
        }
    }

    fn read_items(&mut self, fixed: &[Field], tail: Option<&Field>, items: &str, level: usize) {
        fixed.iter().for_each(|field| self.read_part(field, &format!("{items}.next()?"), level));
        if let Some(tail) = tail {
            self.line(&format!("let {} = {items}.rest()?;", field_name(tail)));
        }
    }

    /// Reads a part of a compound, which the expression `input` yields.
    fn read_part(&mut self, field: &Field, input: &str, level: usize) {
        match &field.pattern {
            pattern if pattern.is_simple() => {
                self.line(&format!("let {} = {input}.read()?;", field_name(field)));
            }
            Pattern::Literal(literal) => {
                self.line(&format!("{input}.literal({})?;", byte_literal(&literal.bytes)));
            }
            pattern => {
                self.line(&format!("let __part_{level} = {input};"));
                self.read_compound(pattern, &format!("__part_{level}"), level + 1);
            }
        }
    }
}

/// The name of the function that reads an alternative.
fn reader(alternative: &Alternative) -> String {
    format!("__read_{}", snake(&alternative.name).trim_start_matches("r#"))
}

fn construct(constructor: &str, fields: &[&Field]) -> String {
    let names: Vec<String> = fields.iter().map(|field| field_name(field)).collect();
    format!("{constructor} {{ {} }}", names.join(", "))
}

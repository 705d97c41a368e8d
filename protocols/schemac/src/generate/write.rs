//! How values are written.

use super::types::{Shape, field_name, joined, shape};
use super::{Generator, byte_literal};
use crate::names::camel;
use crate::schema::{Body, Field, Pattern};

/// Constant bytes that are yet to be written, so that what is constant between two parts is one literal.
#[derive(Default)]
struct Pending(Vec<u8>);

impl<'m> Generator<'_, 'm> {
    /// The statements of `write`.
    pub(super) fn write_definition(&mut self, body: &Body) {
        match body {
            Body::Alternatives(alternatives) => {
                self.line("match self {");
                for alternative in alternatives {
                    let variant = format!("Self::{}", camel(&alternative.name));
                    self.line(&format!("{} => {{", destructure(&variant, &shape(&alternative.pattern))));
                    self.write_pattern(&alternative.pattern);
                    self.line("}");
                }
                self.line("}");
            }
            Body::Intersection(parts) => self.write_joined(parts),
            Body::Pattern(pattern) => {
                self.line(&format!("let {} = self;", destructure("Self", &shape(pattern))));
                self.write_pattern(pattern);
            }
        }
    }

    fn write_pattern(&mut self, pattern: &Pattern) {
        if pattern.is_simple() {
            self.write_value("__only");
            return;
        }
        let mut pending = Pending::default();
        self.write_compound(pattern, &mut pending);
        self.flush(&mut pending);
    }

    /// Each part is written by itself, and then their entries are merged.
    fn write_joined(&mut self, parts: &[Field]) {
        self.line(&format!("let {} = self;", destructure("Self", &joined(parts))));
        self.line(&format!("let mut __joined = {};", self.rt("Joined::default()")));
        for part in parts {
            self.line("{\nlet __out = __joined.part();");
            match part.pattern.is_simple() {
                true => self.write_value(&field_name(part)),
                false => self.write_pattern(&part.pattern),
            }
            self.line("}");
        }
        self.line("__joined.write(__out);");
    }

    fn write_value(&mut self, variable: &str) {
        self.line(&format!("{}::write({variable}, __out);", self.rt("Codec")));
    }

    fn flush(&mut self, pending: &mut Pending) {
        if !pending.0.is_empty() {
            self.line(&format!("__out.extend_from_slice({});", byte_literal(&pending.0)));
            pending.0.clear();
        }
    }

    fn write_compound(&mut self, pattern: &Pattern, pending: &mut Pending) {
        match pattern {
            Pattern::Literal(literal) => pending.0.extend_from_slice(&literal.bytes),
            Pattern::Record(label, fields) => {
                pending.0.push(0xb4);
                self.write_part(label, pending);
                self.write_items(fields, pending);
                pending.0.push(0x84);
            }
            Pattern::Tuple(..) => {
                pending.0.push(0xb5);
                self.write_items(pattern, pending);
                pending.0.push(0x84);
            }
            // They are in canonical order already.
            Pattern::Entries(entries) => {
                pending.0.push(0xb7);
                for (key, field) in entries {
                    pending.0.extend_from_slice(&key.bytes);
                    self.write_part(field, pending);
                }
                pending.0.push(0x84);
            }
            _ => {}
        }
    }

    fn write_items(&mut self, pattern: &Pattern, pending: &mut Pending) {
        let Pattern::Tuple(fixed, tail) = pattern else { unreachable!("fields are a tuple") };
        fixed.iter().for_each(|field| self.write_part(field, pending));
        if let Some(tail) = tail {
            self.flush(pending);
            self.line(&format!("for __item in {} {{", field_name(tail)));
            self.write_value("__item");
            self.line("}");
        }
    }

    fn write_part(&mut self, field: &Field, pending: &mut Pending) {
        match field.pattern.is_simple() {
            true => {
                self.flush(pending);
                self.write_value(&field_name(field));
            }
            false => self.write_compound(&field.pattern, pending),
        }
    }
}

/// A Rust pattern that names the parts of a shape.
fn destructure(constructor: &str, shape: &Shape<'_>) -> String {
    match shape {
        Shape::Unit => constructor.into(),
        Shape::Single(_) => format!("{constructor}(__only)"),
        Shape::Fields(fields) => {
            let names: Vec<String> = fields.iter().map(|field| field_name(field)).collect();
            format!("{constructor} {{ {} }}", names.join(", "))
        }
    }
}

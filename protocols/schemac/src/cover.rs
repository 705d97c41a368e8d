//! Whether one pattern takes everything that another does.
//!
//! Used to find alternatives that are never reached. Errs on the side of "no": what cannot be seen from the
//! patterns themselves is not covered.

use crate::schema::{Atom, Body, Field, Literal, Pattern};
use crate::world::{Id, World};

/// How many references are followed before giving up.
const DEPTH_MAX: u32 = 8;

/// Compares patterns of one module.
pub(crate) struct Cover<'c, 'm> {
    world: &'c World<'m>,
    m: usize,
    depth: u32,
}

/// A pattern, and the module in which it stands.
type Placed<'p> = (usize, &'p Pattern);

impl<'c, 'm> Cover<'c, 'm> {
    pub(crate) fn new(world: &'c World<'m>, m: usize) -> Cover<'c, 'm> {
        Cover { world, m, depth: 0 }
    }

    /// Whether every value that fits `narrow` fits `wide`.
    pub(crate) fn covers(&mut self, wide: &Pattern, narrow: &Pattern) -> bool {
        self.placed((self.m, wide), (self.m, narrow))
    }

    fn placed(&mut self, wide: Placed<'_>, narrow: Placed<'_>) -> bool {
        if let Some(same) = self.same_definition(wide, narrow) {
            return same;
        }
        if self.depth == DEPTH_MAX {
            return false;
        }
        self.depth += 1;
        let covers = self.unfolded(wide, narrow);
        self.depth -= 1;
        covers
    }

    /// True if both are references to one definition.
    fn same_definition(&self, wide: Placed<'_>, narrow: Placed<'_>) -> Option<bool> {
        match (wide.1, narrow.1) {
            (Pattern::Reference(a), Pattern::Reference(b)) => {
                let a = self.world.resolve(wide.0, a)?;
                (self.world.resolve(narrow.0, b)? == a).then_some(true)
            }
            _ => None,
        }
    }

    fn unfolded(&mut self, wide: Placed<'_>, narrow: Placed<'_>) -> bool {
        if let Pattern::Any = wide.1 {
            return true;
        }
        if let Pattern::Reference(reference) = narrow.1 {
            let Some(id) = self.world.resolve(narrow.0, reference) else { return false };
            return self.parts(id).is_some_and(|parts| parts.into_iter().all(|part| self.placed(wide, part)));
        }
        if let Pattern::Reference(reference) = wide.1 {
            let Some(id) = self.world.resolve(wide.0, reference) else { return false };
            return self
                .parts(id)
                .is_some_and(|parts| parts.into_iter().any(|part| self.placed(part, narrow)));
        }
        self.shapes(wide, narrow)
    }

    /// What a definition can be, one of which is enough. Of an intersection no part alone tells what fits it.
    fn parts(&self, id: Id) -> Option<Vec<Placed<'m>>> {
        let body = &self.world.get(id).1.body;
        match body {
            Body::Intersection(_) => None,
            _ => Some(body.patterns().into_iter().map(|pattern| (id.0, pattern)).collect()),
        }
    }

    fn shapes(&mut self, wide: Placed<'_>, narrow: Placed<'_>) -> bool {
        let (w, n) = (wide.0, narrow.0);
        match (wide.1, narrow.1) {
            (Pattern::Atom(a), Pattern::Atom(b)) => a == b,
            (Pattern::Atom(kind), Pattern::Literal(literal)) => atom_of(literal) == Some(*kind),
            (Pattern::Literal(a), Pattern::Literal(b)) => a.bytes == b.bytes,
            (Pattern::Embedded(_), Pattern::Embedded(_)) => true,
            (Pattern::Sequence(a), Pattern::Sequence(b)) | (Pattern::Set(a), Pattern::Set(b)) => {
                self.placed((w, a), (n, b))
            }
            (Pattern::Dictionary(a, x), Pattern::Dictionary(b, y)) => {
                self.placed((w, a), (n, b)) && self.placed((w, x), (n, y))
            }
            (Pattern::Record(a, x), Pattern::Record(b, y)) => {
                self.placed((w, &a.pattern), (n, &b.pattern)) && self.placed((w, x), (n, y))
            }
            (Pattern::Sequence(a), Pattern::Tuple(_, None)) => matches!(**a, Pattern::Any),
            (Pattern::Sequence(a), Pattern::Tuple(fields, Some(tail))) => {
                fields.iter().chain([&**tail]).all(|field| self.placed((w, a), (n, &field.pattern)))
            }
            (Pattern::Tuple(a, tail), Pattern::Tuple(b, narrow_tail)) => {
                self.tuples((w, a, tail.as_deref()), (n, b, narrow_tail.as_deref()))
            }
            (Pattern::Tuple(fields, None), Pattern::Sequence(_)) => fields.is_empty(),
            (Pattern::Entries(wide), Pattern::Entries(narrow)) => wide.iter().all(|(key, field)| {
                narrow
                    .iter()
                    .find(|(other, _)| other.bytes == key.bytes)
                    .is_some_and(|(_, other)| self.placed((w, &field.pattern), (n, &other.pattern)))
            }),
            (Pattern::Entries(wide), Pattern::Dictionary(..)) => wide.is_empty(),
            _ => false,
        }
    }

    fn tuples(
        &mut self,
        wide: (usize, &[Field], Option<&Field>),
        narrow: (usize, &[Field], Option<&Field>),
    ) -> bool {
        let ((w, wide, tail), (n, narrow, narrow_tail)) = (wide, narrow);
        if wide.len() > narrow.len() {
            return false;
        }
        let (begin, more) = narrow.split_at(wide.len());
        let begins_alike = wide.iter().zip(begin).all(|(a, b)| self.placed((w, &a.pattern), (n, &b.pattern)));
        let Some(tail) = tail else { return begins_alike };
        // What follows is anything if nothing is said of it.
        let ends_alike = match narrow_tail {
            None => matches!(tail.pattern, Pattern::Any),
            Some(other) => self.placed((w, &tail.pattern), (n, &other.pattern)),
        };
        begins_alike && ends_alike && more.iter().all(|b| self.placed((w, &tail.pattern), (n, &b.pattern)))
    }
}

fn atom_of(literal: &Literal) -> Option<Atom> {
    Some(match literal.bytes.first()? {
        0x80 | 0x81 => Atom::Boolean,
        0x87 => Atom::Double,
        0xb0 => Atom::Integer,
        0xb1 => Atom::String,
        0xb2 => Atom::Bytes,
        0xb3 => Atom::Symbol,
        _ => return None,
    })
}

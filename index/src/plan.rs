//! How the observers of one pattern read what they capture.

use staunch_protocols::wire::{View, tag};

use crate::Captures;
use crate::find::{Finder, NEAR, resolve};
use crate::key::long_constants;
use crate::pattern::{Class, Loc, Pattern, Step};

/// A field that a [`Plan::Forward`] looks at.
#[derive(Debug)]
pub(crate) struct Field {
    /// How many siblings to go on from the one before (or from the first).
    skip: u8,
    is_captured: bool,
}

/// What must be there beyond groups and constants, and what is captured, in an order that costs little.
#[derive(Debug)]
pub(crate) enum Plan {
    /// No value has what is asked for.
    Never,
    /// Fields of one group, near its front and in ascending order: one pass over them.
    Forward { register: u16, is_record: bool, fields: Box<[Field]> },
    /// Anything. Of `literals` only a digest has been compared.
    Any { literals: Box<[(Loc, Box<[u8]>)]>, required: Box<[Loc]>, captures: Box<[Loc]> },
}

impl Plan {
    pub(crate) fn new(pattern: &Pattern) -> Plan {
        if pattern.is_impossible {
            return Plan::Never;
        }
        Plan::forward(pattern).unwrap_or_else(|| Plan::Any {
            literals: long_constants(pattern).cloned().collect(),
            required: pattern.required.clone().into(),
            captures: pattern.captures.clone().into(),
        })
    }

    fn forward(pattern: &Pattern) -> Option<Plan> {
        if long_constants(pattern).next().is_some() {
            return None;
        }
        let captured = pattern.captures.iter().map(|loc| (loc, true));
        let mut looks = Vec::new();
        let mut of = None;
        for (loc, is_captured) in captured.chain(pattern.required.iter().map(|loc| (loc, false))) {
            let Loc::Child { register, step: Step::Index(index) } = loc else { return None };
            if *index >= NEAR || of.is_some_and(|r| r != *register) {
                return None;
            }
            of = Some(*register);
            looks.push((*index as u8, is_captured));
        }
        let register = of?;
        // Captures of one group come in ascending order already, and a stable sort keeps them so.
        looks.sort_by_key(|(index, _)| *index);
        let mut before = 0;
        let fields = looks.into_iter().map(|(index, is_captured)| {
            let skip = index - before;
            before = index;
            Field { skip, is_captured }
        });
        let is_record = matches!(pattern.shape[register as usize].1, Class::Rec(_));
        Some(Plan::Forward { register, is_record, fields: fields.collect() })
    }

    /// Reads the captures from a value (which lies in `bytes`) whose groups stand at `registers`, in place of what
    /// is in `out`. False if a part is missing.
    #[inline]
    pub(crate) fn read<'v>(
        &self,
        value: View<'_>,
        bytes: &'v [u8],
        registers: &[u32],
        finder: &mut Finder,
        out: &mut Captures<'v>,
    ) -> bool {
        out.clear();
        match self {
            Plan::Never => false,
            Plan::Forward { register, is_record, fields } => {
                let within = value.at(registers[*register as usize]);
                forward(within, *is_record, fields, bytes, out).is_some()
            }
            Plan::Any { literals, required, captures } => {
                has_all(literals, required, value, registers, finder).is_some()
                    && capture(captures, value, bytes, registers, finder, out).is_some()
            }
        }
    }
}

/// Where a pass over a compound stands.
///
/// The token after a value that stands in a compound always exists: it is the next value or the end marker.
struct Pass<'a> {
    /// The token after the present value.
    next: View<'a>,
    start: usize,
    end: usize,
}

impl<'a> Pass<'a> {
    /// At the first value inside a compound that has any.
    #[inline(always)]
    fn new(within: View<'a>, bytes: &[u8]) -> Option<Pass<'a>> {
        let next = within.at(within.token() + 1);
        let mut pass = Pass { next, start: 0, end: next.start() };
        pass.step(bytes)?;
        Some(pass)
    }

    #[inline(always)]
    fn step(&mut self, bytes: &[u8]) -> Option<()> {
        self.start = self.end;
        if bytes[self.start] == tag::END {
            return None;
        }
        self.next = self.next.at(self.next.token() + self.next.tokens());
        self.end = self.next.start();
        Some(())
    }
}

#[inline(always)]
fn forward<'v>(
    within: View<'_>,
    is_record: bool,
    fields: &[Field],
    bytes: &'v [u8],
    out: &mut Captures<'v>,
) -> Option<()> {
    let mut pass = Pass::new(within, bytes)?;
    if is_record {
        pass.step(bytes)?;
    }
    for field in fields {
        for _ in 0..field.skip {
            pass.step(bytes)?;
        }
        if field.is_captured {
            out.push(&bytes[pass.start..pass.end]);
        }
    }
    Some(())
}

fn has_all(
    literals: &[(Loc, Box<[u8]>)],
    required: &[Loc],
    value: View<'_>,
    registers: &[u32],
    finder: &mut Finder,
) -> Option<()> {
    for (loc, literal) in literals {
        if resolve(loc, value, registers, finder)?.span() != &**literal {
            return None;
        }
    }
    for loc in required {
        resolve(loc, value, registers, finder)?;
    }
    Some(())
}

fn capture<'v>(
    captures: &[Loc],
    value: View<'_>,
    bytes: &'v [u8],
    registers: &[u32],
    finder: &mut Finder,
    out: &mut Captures<'v>,
) -> Option<()> {
    for loc in captures {
        let part = resolve(loc, value, registers, finder)?;
        out.push(&bytes[part.start()..part.end()]);
    }
    Some(())
}

//! Patterns, compiled: what shape a value must have, which constants, and what is captured from it.
//!
//! A pattern is a tree; compiled it is flat. Its groups, in pre-order, become *registers*: register `i` holds
//! the part of the value that the `i`-th group matched. Every other position in the pattern is a [`Loc`]: the
//! root, or a child of a register. So matching needs no recursion, and two patterns with equal shapes share
//! the work.

use std::collections::HashMap;

use staunch_protocols::wire::{View, sort_key, tag};

/// A step from a compound into it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Step {
    /// Element of a sequence or field of a record.
    Index(u32),
    /// Value under this key (canonical bytes) of a dictionary.
    Key(Box<[u8]>),
}

/// A position in a value, relative to the registers of a shape.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Loc {
    /// The value itself.
    Root,
    /// One step into what a register holds.
    Child {
        /// Which register.
        register: u16,
        /// The step.
        step: Step,
    },
}

/// What kind of compound a group matches.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// A record with this label (canonical bytes).
    Rec(Box<[u8]>),
    /// A sequence.
    Arr,
    /// A dictionary.
    Dict,
}

impl Class {
    fn label_bytes(&self) -> usize {
        match self {
            Class::Rec(label) => label.len(),
            Class::Arr | Class::Dict => 0,
        }
    }

    pub(crate) fn admits(&self, value: View<'_>) -> bool {
        match self {
            Class::Rec(label) => value.label().is_some_and(|l| l.span() == &**label),
            Class::Arr => value.tag() == tag::SEQUENCE,
            Class::Dict => value.tag() == tag::DICTIONARY,
        }
    }

    /// The same for a value in canonical form that has not been scanned.
    pub(crate) fn admits_bytes(&self, value: &[u8]) -> bool {
        let (class, inside) = match self {
            Class::Rec(label) => (tag::RECORD, &**label),
            Class::Arr => (tag::SEQUENCE, &[][..]),
            Class::Dict => (tag::DICTIONARY, &[][..]),
        };
        // No value's bytes begin with another's, so what begins with the label has that label.
        value.split_first().is_some_and(|(first, rest)| *first == class && rest.starts_with(inside))
    }
}

/// The groups of a pattern in pre-order: where each stands and what it matches.
pub type Shape = Vec<(Loc, Class)>;

/// A compiled pattern.
///
/// **Invariant:** each `Loc` refers to registers that precede it in `shape`; `constants` are sorted by `Loc`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    /// The groups.
    pub shape: Shape,
    /// Positions that must hold exactly these bytes.
    pub constants: Vec<(Loc, Box<[u8]>)>,
    /// What is captured, in order.
    pub captures: Vec<Loc>,
    /// Positions that must exist, whatever they hold, beyond constants, captures and groups. An index is left out
    /// if a later one of the same group is looked at: who has that has the earlier ones.
    pub required: Vec<Loc>,
    /// Whether it is well-formed but asks for something no value has, such as field `-1`.
    pub is_impossible: bool,
}

/// A part of a pattern that waits to be compiled.
struct Pending<'a> {
    pattern: View<'a>,
    loc: Loc,
}

impl Pattern {
    /// Bytes of memory that it takes beside itself, nearly.
    pub fn memory_bytes(&self) -> usize {
        let labels: usize = self.shape.iter().map(|(_, class)| class.label_bytes()).sum();
        let constants: usize = self.constants.iter().map(|(_, bytes)| bytes.len()).sum();
        self.shape.capacity() * size_of::<(Loc, Class)>()
            + self.constants.capacity() * size_of::<(Loc, Box<[u8]>)>()
            + (self.captures.capacity() + self.required.capacity()) * size_of::<Loc>()
            + labels
            + constants
    }

    /// Compiles a pattern from its canonical form. `None` if it is not one: an Observe with it is an ordinary
    /// value. Iterative; costs one pass, and a sort of each dictionary group's keys.
    pub fn compile(pattern: View<'_>) -> Option<Pattern> {
        let mut compiled = Pattern {
            shape: Vec::new(),
            constants: Vec::new(),
            captures: Vec::new(),
            required: Vec::new(),
            is_impossible: false,
        };
        // Parts still to do, the next one last, so that they come in pre-order.
        let mut pending = vec![Pending { pattern, loc: Loc::Root }];
        while let Some(next) = pending.pop() {
            compiled.add(next, &mut pending)?;
        }
        compiled.constants.sort();
        compiled.drop_implied();
        Some(compiled)
    }

    /// How many captures lie within each other at most: what it captures of a value is so many times as long as the
    /// value at most.
    pub fn captures_nested(&self) -> usize {
        let mut counts: HashMap<&Loc, usize> = HashMap::new();
        self.captures.iter().for_each(|loc| *counts.entry(loc).or_default() += 1);
        // At each register, those around it included.
        let mut around: Vec<usize> = Vec::with_capacity(self.shape.len());
        let at = |loc: &Loc, around: &[usize]| {
            let outside = match loc {
                Loc::Root => 0,
                Loc::Child { register, .. } => around[*register as usize],
            };
            outside + counts.get(loc).copied().unwrap_or(0)
        };
        for (loc, _) in &self.shape {
            around.push(at(loc, &around));
        }
        self.captures.iter().map(|loc| at(loc, &around)).max().unwrap_or(0)
    }

    /// Leaves out of `required` what something else that is looked at implies.
    fn drop_implied(&mut self) {
        if self.required.is_empty() {
            return;
        }
        // One past the last index looked at, in each group.
        let mut ends = vec![0; self.shape.len()];
        let groups = self.shape.iter().map(|(loc, _)| loc);
        let constants = self.constants.iter().map(|(loc, _)| loc);
        for loc in groups.chain(constants).chain(&self.captures).chain(&self.required) {
            if let Loc::Child { register, step: Step::Index(i) } = loc {
                let end = &mut ends[*register as usize];
                *end = (*end).max(u64::from(*i) + 1);
            }
        }
        self.required.retain(|loc| match loc {
            Loc::Child { register, step: Step::Index(i) } => u64::from(*i) + 1 == ends[*register as usize],
            _ => true,
        });
    }

    fn add<'a>(
        &mut self,
        Pending { mut pattern, loc }: Pending<'a>,
        pending: &mut Vec<Pending<'a>>,
    ) -> Option<()> {
        let mut is_captured = false;
        loop {
            let label = pattern.label()?;
            let mut fields = pattern.fields();
            match label.as_symbol()? {
                "bind" => {
                    self.captures.push(loc.clone());
                    is_captured = true;
                    pattern = fields.next()?;
                }
                "_" => {
                    if !is_captured && loc != Loc::Root {
                        self.required.push(loc);
                    }
                    return Some(());
                }
                "lit" => {
                    let constant = fields.next()?;
                    if matches!(constant.tag(), tag::RECORD..=tag::DICTIONARY) {
                        return None;
                    }
                    self.constants.push((loc, constant.span().into()));
                    return Some(());
                }
                "group" => {
                    let (class, entries) = (fields.next()?, fields.next()?);
                    return self.add_group(class, entries, loc, pending);
                }
                _ => return None,
            }
        }
    }

    fn add_group<'a>(
        &mut self,
        class: View<'a>,
        entries: View<'a>,
        loc: Loc,
        pending: &mut Vec<Pending<'a>>,
    ) -> Option<()> {
        let class = match class.label()?.as_symbol()? {
            "rec" => Class::Rec(class.fields().next()?.span().into()),
            "arr" => Class::Arr,
            "dict" => Class::Dict,
            _ => return None,
        };
        if entries.tag() != tag::DICTIONARY {
            return None;
        }
        let register = u16::try_from(self.shape.len()).ok()?;
        let mut steps = Vec::new();
        let mut children = entries.children();
        while let (Some(key), Some(part)) = (children.next(), children.next()) {
            steps.push((self.step(&class, key), part));
        }
        if class == Class::Dict {
            steps.sort_by_cached_key(|(step, _)| step.1.clone());
        }
        // Keys of records and sequences that can match are non-negative integers, whose canonical order is
        // numeric order already.
        for ((step, _), part) in steps.into_iter().rev() {
            pending.push(Pending { pattern: part, loc: Loc::Child { register, step } });
        }
        self.shape.push((loc, class));
        Some(())
    }

    /// The step that a group's key stands for, with what it sorts by.
    fn step(&mut self, class: &Class, key: View<'_>) -> (Step, Vec<u8>) {
        if *class == Class::Dict {
            let mut order = Vec::new();
            sort_key(key, &mut order);
            return (Step::Key(key.span().into()), order);
        }
        match key.as_i64().and_then(|i| u32::try_from(i).ok()) {
            Some(i) => (Step::Index(i), Vec::new()),
            None => {
                self.is_impossible = true;
                (Step::Index(u32::MAX), Vec::new())
            }
        }
    }

    /// The pattern and the observer of an `<Observe pattern #:observer>`; `None` for any other value.
    pub fn of_observe(value: View<'_>) -> Option<(Pattern, View<'_>)> {
        if !value.label()?.is_symbol("Observe") {
            return None;
        }
        let mut fields = value.fields();
        let (pattern, observer) = (fields.next()?, fields.next()?);
        observer.embedded()?;
        Some((Pattern::compile(pattern)?, observer))
    }
}

#[cfg(test)]
mod tests {
    use staunch_protocols::text;
    use staunch_protocols::wire::{Limits, Scanner};

    use super::*;

    #[test]
    fn what_a_class_admits_is_told_by_the_first_bytes() {
        let limits = Limits::default();
        let bytes = |text: &str| text::parse(text, &limits).unwrap();
        let labels = ["a", "ab", "\"a\"", "1", "[]", "[a]", "<a>"];
        let mut classes: Vec<Class> =
            labels.iter().map(|label| Class::Rec(bytes(label).into_boxed_slice())).collect();
        classes.extend([Class::Arr, Class::Dict]);
        let mut values: Vec<String> = labels.iter().map(|label| format!("<{label} 1>")).collect();
        values.extend(["a", "[a 1]", "[]", "{a: 1}", "{}", "#{a}", "1"].map(str::to_owned));
        for value in &values {
            let bytes = bytes(value);
            let mut scanner = Scanner::new(limits);
            scanner.scan(&bytes).unwrap();
            for class in &classes {
                assert_eq!(
                    class.admits_bytes(&bytes),
                    class.admits(scanner.view(&bytes)),
                    "{class:?} {value}"
                );
            }
        }
    }
}

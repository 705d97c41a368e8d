//! What must hold of schemas before types are made from them.

use std::collections::{BTreeMap, BTreeSet};

use crate::cover::Cover;
use crate::diagnostic::Diagnostics;
use crate::names::{camel, snake};
use crate::schema::{Alternative, Body, Definition, Field, Literal, Module, Pattern, Place};
use crate::world::{Id, World};

/// Names that generated code needs for itself.
const RESERVED: &[&str] = &["E", "SOURCE", "Self"];

/// Notes all that is wrong.
pub(crate) fn check(world: &World<'_>, faults: &mut Diagnostics) {
    let mut modules = BTreeMap::new();
    for module in world.modules {
        if let Some(other) = modules.insert(snake(&module.name), module) {
            faults.whole(&module.file, format!("the module {} is also in {}", module.name, other.file));
        }
    }
    for (m, module) in world.modules.iter().enumerate() {
        let mut checker = Checker { world, m, module, faults };
        checker.definitions();
    }
    never_ending(world, faults);
    // Of what has other faults nobody can say what fits it.
    if faults.0.is_empty() {
        for (m, module) in world.modules.iter().enumerate() {
            let mut checker = Checker { world, m, module, faults };
            for definition in &module.definitions {
                if let Body::Alternatives(alternatives) = &definition.body {
                    checker.reached(alternatives);
                }
            }
        }
    }
}

struct Checker<'c, 'm> {
    world: &'c World<'m>,
    m: usize,
    module: &'m Module,
    faults: &'c mut Diagnostics,
}

impl<'m> Checker<'_, 'm> {
    fn fault(&mut self, at: usize, message: impl Into<String>) {
        self.faults.at(&self.module.file, &self.module.text, at, message);
    }

    fn definitions(&mut self) {
        let mut seen = BTreeSet::new();
        for definition in &self.module.definitions {
            if !seen.insert(&definition.name) {
                self.fault(definition.at, format!("{} is defined twice", definition.name));
            }
            if RESERVED.contains(&&*definition.name) {
                self.fault(definition.at, format!("{} is a name that generated code needs", definition.name));
            }
            self.references(definition);
            match &definition.body {
                Body::Alternatives(alternatives) => self.alternatives(alternatives),
                Body::Intersection(parts) => self.intersection(parts),
                Body::Pattern(pattern) => self.compound(pattern, definition.at),
            }
        }
    }

    fn references(&mut self, definition: &'m Definition) {
        for pattern in definition.body.patterns() {
            let mut unknown = Vec::new();
            pattern.walk(Place::Direct, &mut |inner, _| {
                if let Pattern::Reference(reference) = inner
                    && self.world.resolve(self.m, reference).is_none()
                {
                    unknown.push(reference);
                }
            });
            for reference in unknown {
                let message = match &reference.module {
                    Some(module) if self.world.modules.iter().all(|other| other.name != *module) => {
                        format!("there is no module {module}")
                    }
                    Some(module) => format!("the module {module} defines no {}", reference.name),
                    None => format!("this module defines no {}", reference.name),
                };
                self.fault(reference.at, message);
            }
        }
    }

    fn alternatives(&mut self, alternatives: &[Alternative]) {
        let mut seen = BTreeSet::new();
        for alternative in alternatives {
            if !seen.insert(camel(&alternative.name)) {
                let message =
                    format!("another alternative is named {}: write `@name` before one", alternative.name);
                self.fault(alternative.at, message);
            }
            self.compound(&alternative.pattern, alternative.at);
        }
    }

    /// Notes alternatives that are never reached.
    fn reached(&mut self, alternatives: &[Alternative]) {
        let mut cover = Cover::new(self.world, self.m);
        for (i, later) in alternatives.iter().enumerate() {
            if let Some(earlier) = alternatives[..i].iter().find(|e| cover.covers(&e.pattern, &later.pattern))
            {
                let message = format!(
                    "this alternative is never reached: what fits it fits {} before it, since surplus is ignored",
                    earlier.name
                );
                self.fault(later.at, message);
            }
        }
    }

    fn intersection(&mut self, parts: &[Field]) {
        for part in parts {
            if !is_dictionary(self.world, self.m, &part.pattern, &mut BTreeSet::new()) {
                self.fault(part.at, "what `&` joins are dictionaries with keys that are told");
            }
        }
        let mut fields = Fields::default();
        parts.iter().for_each(|part| fields.part(part));
        self.fields(fields);
    }

    /// A pattern that becomes a struct or variant.
    fn compound(&mut self, pattern: &Pattern, at: usize) {
        let mut fields = Fields::default();
        match pattern.is_simple() {
            true => fields.simple(pattern, at),
            false => fields.compound(pattern),
        }
        self.fields(fields);
    }

    fn fields(&mut self, fields: Fields<'_>) {
        fields.faults.into_iter().for_each(|(at, message)| self.fault(at, message));
        let mut seen = BTreeSet::new();
        for (name, at) in fields.names {
            if !seen.insert(snake(name)) {
                self.fault(at, format!("another part is named {name}"));
            }
        }
        let mut keys = BTreeSet::new();
        for (key, at) in fields.keys {
            if !keys.insert(&key.bytes) {
                self.fault(at, "another part has this key");
            }
        }
    }
}

/// Whether it is a dictionary with known keys, whichever alternative it takes.
fn is_dictionary(world: &World<'_>, m: usize, pattern: &Pattern, seen: &mut BTreeSet<Id>) -> bool {
    match pattern {
        Pattern::Entries(_) => true,
        Pattern::Reference(reference) => match world.resolve(m, reference) {
            Some(id) if seen.insert(id) => {
                let patterns = world.get(id).1.body.patterns();
                patterns.into_iter().all(|pattern| is_dictionary(world, id.0, pattern, seen))
            }
            // An unknown one is told elsewhere.
            _ => true,
        },
        _ => false,
    }
}

/// What becomes of a compound and the compounds in it: one list of fields.
#[derive(Default)]
struct Fields<'p> {
    names: Vec<(&'p str, usize)>,
    /// Keys of dictionaries that are joined.
    keys: Vec<(&'p Literal, usize)>,
    faults: Vec<(usize, &'static str)>,
}

impl<'p> Fields<'p> {
    fn part(&mut self, part: &'p Field) {
        if let Pattern::Entries(entries) = &part.pattern {
            self.keys.extend(entries.iter().map(|(key, field)| (key, field.at)));
        }
        self.field(part);
    }

    fn compound(&mut self, pattern: &'p Pattern) {
        match pattern {
            Pattern::Record(label, fields) => {
                self.field(label);
                self.compound(fields);
            }
            Pattern::Tuple(fields, tail) => {
                fields.iter().for_each(|field| self.field(field));
                tail.iter().for_each(|field| self.tail(field));
            }
            Pattern::Entries(entries) => entries.iter().for_each(|(_, field)| self.field(field)),
            _ => {}
        }
    }

    fn field(&mut self, field: &'p Field) {
        match (&field.name, field.pattern.is_simple()) {
            (Some(name), true) => {
                self.names.push((name, field.at));
                self.simple(&field.pattern, field.at);
            }
            (None, true) => self.faults.push((field.at, "this part needs a name: write `@name` before it")),
            (None, false) => self.compound(&field.pattern),
            (Some(_), false) => {
                self.faults
                    .push((field.at, "a literal or compound inside another takes no name: its parts do"));
            }
        }
    }

    fn tail(&mut self, field: &'p Field) {
        match &field.name {
            Some(name) => self.names.push((name, field.at)),
            None => self.faults.push((field.at, "this part needs a name: write `@name` before it")),
        }
        self.element(&field.pattern, field.at);
    }

    /// A pattern that is a type.
    fn simple(&mut self, pattern: &'p Pattern, at: usize) {
        match pattern {
            Pattern::Sequence(inner) | Pattern::Set(inner) => self.element(inner, at),
            Pattern::Dictionary(key, value) => {
                self.element(key, at);
                self.element(value, at);
            }
            _ => {}
        }
    }

    fn element(&mut self, pattern: &'p Pattern, at: usize) {
        match pattern.is_simple() {
            true => self.simple(pattern, at),
            false => {
                self.faults.push((at, "a literal or compound in a collection needs a definition of its own"))
            }
        }
    }
}

/// Notes definitions of which there is no finite value, and those that come back to themselves with nothing
/// around them, which no parser can follow.
fn never_ending(world: &World<'_>, faults: &mut Diagnostics) {
    let mut finite: BTreeSet<Id> = BTreeSet::new();
    loop {
        let is_finite = |id: &Id| {
            let (_, definition) = world.get(*id);
            let ends = |pattern: &&Pattern| {
                let mut ends = true;
                pattern.walk(Place::Direct, &mut |inner, place| {
                    if let Pattern::Reference(reference) = inner
                        && place == Place::Direct
                    {
                        ends &= world.resolve(id.0, reference).is_none_or(|other| finite.contains(&other));
                    }
                });
                ends
            };
            let patterns = definition.body.patterns();
            match definition.body {
                Body::Alternatives(_) => patterns.iter().any(ends),
                _ => patterns.iter().all(ends),
            }
        };
        let more: Vec<Id> =
            world.ids().into_iter().filter(|id| !finite.contains(id)).filter(is_finite).collect();
        if more.is_empty() {
            break;
        }
        finite.extend(more);
    }
    for id in world.ids() {
        let (module, definition) = world.get(id);
        let message = if !finite.contains(&id) {
            "every value of this would hold another one, without end"
        } else if returns(world, id, id, &mut BTreeSet::new()) {
            "this refers to itself with nothing around it"
        } else {
            continue;
        };
        faults.at(&module.file, &module.text, definition.at, message);
    }
}

/// Whether `at` leads to `target` by bare references.
fn returns(world: &World<'_>, at: Id, target: Id, seen: &mut BTreeSet<Id>) -> bool {
    world.get(at).1.body.patterns().into_iter().any(|pattern| match pattern {
        Pattern::Reference(reference) => match world.resolve(at.0, reference) {
            Some(next) => next == target || (seen.insert(next) && returns(world, next, target, seen)),
            None => false,
        },
        _ => false,
    })
}

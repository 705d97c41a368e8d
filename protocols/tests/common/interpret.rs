//! Schemas interpreted over plain trees, recursively and by the book: what generated code is held against. And
//! values made up from schemas.

use std::collections::BTreeMap;

use staunch_protocols::wire::{Limits, Progress, Scanner};
use staunch_schemac::schema::{
    Alternative, Atom, Body, Definition, Field, Literal, Module, Pattern, Reference,
};

use super::tree::{Noise, Tree, dictionary, set, sym};

pub struct Schemas {
    modules: Vec<Module>,
    /// How deep the shallowest value of a definition is, by module and name.
    heights: BTreeMap<(usize, String), usize>,
}

/// A pattern and the index of its module.
type Placed<'p> = (usize, &'p Pattern);

impl Schemas {
    /// Those of the protocol.
    pub fn ours() -> Schemas {
        Schemas::of("schemas")
    }

    /// Those in a folder of `protocols`.
    pub fn of(folder: &str) -> Schemas {
        let folder = format!("{}/../protocols/{folder}", env!("CARGO_MANIFEST_DIR"));
        Schemas::new(staunch_schemac::Compiler::new().directory(folder).check().unwrap())
    }

    fn new(modules: Vec<Module>) -> Schemas {
        let mut schemas = Schemas { modules, heights: BTreeMap::new() };
        loop {
            let before = schemas.heights.clone();
            for (m, module) in schemas.modules.iter().enumerate() {
                for definition in &module.definitions {
                    let height = match &definition.body {
                        Body::Alternatives(all) => {
                            all.iter().filter_map(|a| schemas.height((m, &a.pattern))).min()
                        }
                        Body::Intersection(parts) => schemas.highest(m, parts.iter()),
                        Body::Pattern(pattern) => schemas.height((m, pattern)),
                    };
                    if let Some(height) = height {
                        schemas.heights.insert((m, definition.name.clone()), height + 1);
                    }
                }
            }
            if schemas.heights == before {
                return schemas;
            }
        }
    }

    fn highest<'f>(&self, m: usize, mut fields: impl Iterator<Item = &'f Field>) -> Option<usize> {
        fields.try_fold(0, |most, field| Some(most.max(self.height((m, &field.pattern))?)))
    }

    fn height(&self, (m, pattern): Placed<'_>) -> Option<usize> {
        match pattern {
            Pattern::Reference(reference) => {
                let (m, definition) = self.resolve(m, reference);
                self.heights.get(&(m, definition.name.clone())).copied()
            }
            Pattern::Record(_, fields) => self.height((m, fields)),
            Pattern::Tuple(fixed, _) => self.highest(m, fixed.iter()),
            Pattern::Entries(entries) => self.highest(m, entries.iter().map(|(_, field)| field)),
            _ => Some(0),
        }
    }

    fn resolve(&self, m: usize, reference: &Reference) -> (usize, &Definition) {
        let module = reference.module.as_ref().unwrap_or(&self.modules[m].name);
        self.find(module, &reference.name)
    }

    fn find(&self, module: &str, name: &str) -> (usize, &Definition) {
        let m = self.modules.iter().position(|other| other.name == module).unwrap();
        (m, self.modules[m].definitions.iter().find(|d| d.name == name).unwrap())
    }

    /// What is understood of a value, as `module.Definition`: all of it but what is surplus.
    pub fn understand(&self, name: &str, tree: &Tree) -> Option<Tree> {
        let (module, name) = name.split_once('.').unwrap();
        let (m, definition) = self.find(module, name);
        self.definition(m, definition, tree)
    }

    fn definition(&self, m: usize, definition: &Definition, tree: &Tree) -> Option<Tree> {
        match &definition.body {
            Body::Alternatives(all) => all.iter().find_map(|a| self.pattern((m, &a.pattern), tree)),
            Body::Pattern(pattern) => self.pattern((m, pattern), tree),
            Body::Intersection(parts) => {
                let mut all = Vec::new();
                for part in parts {
                    match self.pattern((m, &part.pattern), tree)? {
                        Tree::Dictionary(entries) => all.extend(entries),
                        other => panic!("{other:?}"),
                    }
                }
                Some(dictionary(all))
            }
        }
    }

    fn pattern(&self, (m, pattern): Placed<'_>, tree: &Tree) -> Option<Tree> {
        let each = |inner, items: &[Tree]| -> Option<Vec<Tree>> {
            items.iter().map(|item| self.pattern((m, inner), item)).collect()
        };
        match (pattern, tree) {
            (Pattern::Any, _) | (Pattern::Embedded(_), Tree::Embedded(_)) => Some(tree.clone()),
            (Pattern::Atom(kind), _) => (atom_of(tree) == Some(*kind)).then(|| tree.clone()),
            (Pattern::Literal(literal), _) => (tree.canonical() == literal.bytes).then(|| tree.clone()),
            (Pattern::Sequence(inner), Tree::Sequence(items)) => each(inner, items).map(Tree::Sequence),
            (Pattern::Set(inner), Tree::Set(items)) => each(inner, items).map(set),
            (Pattern::Dictionary(key, value), Tree::Dictionary(entries)) => {
                let entry = |(k, v)| Some((self.pattern((m, key), k)?, self.pattern((m, value), v)?));
                let understood: Vec<_> = entries.iter().map(|(k, v)| entry((k, v))).collect::<Option<_>>()?;
                let all = dictionary(understood);
                // Keys that are alike in all that is understood are refused.
                matches!(&all, Tree::Dictionary(distinct) if distinct.len() == entries.len()).then_some(all)
            }
            (Pattern::Reference(reference), _) => {
                let (m, definition) = self.resolve(m, reference);
                self.definition(m, definition, tree)
            }
            (Pattern::Record(label, fields), Tree::Record(found, items)) => {
                let label = self.pattern((m, &label.pattern), found)?;
                Some(Tree::Record(Box::new(label), self.items(m, fields, items)?))
            }
            (Pattern::Tuple(..), Tree::Sequence(items)) => self.items(m, pattern, items).map(Tree::Sequence),
            (Pattern::Entries(wanted), Tree::Dictionary(entries)) => {
                let entry = |(key, field): &(Literal, Field)| {
                    let (key, value) = entries.iter().find(|(k, _)| k.canonical() == key.bytes)?;
                    Some((key.clone(), self.pattern((m, &field.pattern), value)?))
                };
                wanted.iter().map(entry).collect::<Option<_>>().map(dictionary)
            }
            _ => None,
        }
    }

    fn items(&self, m: usize, pattern: &Pattern, items: &[Tree]) -> Option<Vec<Tree>> {
        let Pattern::Tuple(fixed, tail) = pattern else { panic!("{pattern:?}") };
        let (begin, rest) = items.split_at_checked(fixed.len())?;
        let begin = fixed.iter().zip(begin).map(|(field, item)| self.pattern((m, &field.pattern), item));
        let tail =
            tail.iter().flat_map(|field| rest.iter().map(|item| self.pattern((m, &field.pattern), item)));
        begin.chain(tail).collect()
    }

    /// A value of `module.Definition`, perhaps with surplus.
    pub fn generate(&self, name: &str, noise: &mut Noise) -> Tree {
        let (module, name) = name.split_once('.').unwrap();
        let (m, definition) = self.find(module, name);
        self.make_definition(m, definition, noise, 8)
    }

    fn make_definition(&self, m: usize, definition: &Definition, noise: &mut Noise, depth: usize) -> Tree {
        match &definition.body {
            Body::Alternatives(all) => {
                let shallowest = |a: &&Alternative| self.height((m, &a.pattern)).unwrap_or(usize::MAX);
                let chosen = match depth {
                    0 => all.iter().min_by_key(shallowest).unwrap(),
                    _ => noise.of(all),
                };
                self.make((m, &chosen.pattern), noise, depth.saturating_sub(1))
            }
            Body::Pattern(pattern) => self.make((m, pattern), noise, depth.saturating_sub(1)),
            Body::Intersection(parts) => {
                let mut all = Vec::new();
                for part in parts {
                    match self.make((m, &part.pattern), noise, depth.saturating_sub(1)) {
                        Tree::Dictionary(entries) => all.extend(entries),
                        other => panic!("{other:?}"),
                    }
                }
                dictionary(all)
            }
        }
    }

    fn make(&self, (m, pattern): Placed<'_>, noise: &mut Noise, depth: usize) -> Tree {
        let count = |noise: &mut Noise| if depth == 0 { 0 } else { noise.below(4) };
        match pattern {
            Pattern::Any => Tree::generate(noise, 2),
            Pattern::Atom(kind) => make_atom(*kind, noise),
            Pattern::Literal(literal) => tree_of(literal),
            Pattern::Embedded(_) if noise.one_in(2) => {
                let oid = Tree::Int(noise.below(256) as i128);
                Tree::Embedded(Box::new(Tree::Sequence(vec![Tree::Int(noise.below(2) as i128), oid])))
            }
            Pattern::Embedded(_) => Tree::Embedded(Box::new(Tree::generate(noise, 1))),
            Pattern::Sequence(inner) => {
                Tree::Sequence((0..count(noise)).map(|_| self.make((m, inner), noise, depth)).collect())
            }
            Pattern::Set(inner) => {
                set((0..count(noise)).map(|_| self.make((m, inner), noise, depth)).collect())
            }
            Pattern::Dictionary(key, value) => {
                let entry = |_| {
                    let made = self.make((m, key), noise, depth);
                    // Without surplus, since keys must differ in more than that.
                    let key = self.pattern((m, key), &made).unwrap_or(made);
                    (key, self.make((m, value), noise, depth))
                };
                let count = if depth == 0 { 0 } else { 3 };
                dictionary((0..count).map(entry).collect())
            }
            Pattern::Reference(reference) => {
                let (m, definition) = self.resolve(m, reference);
                self.make_definition(m, definition, noise, depth)
            }
            Pattern::Record(label, fields) => {
                let label = self.make((m, &label.pattern), noise, depth);
                Tree::Record(Box::new(label), self.make_items(m, fields, noise, depth))
            }
            Pattern::Tuple(..) => Tree::Sequence(self.make_items(m, pattern, noise, depth)),
            Pattern::Entries(entries) => {
                let mut all: Vec<(Tree, Tree)> = Vec::new();
                for (key, field) in entries {
                    all.push((tree_of(key), self.make((m, &field.pattern), noise, depth)));
                }
                if noise.one_in(8) {
                    all.push((sym("surplus"), Tree::generate(noise, 1)));
                }
                dictionary(all)
            }
        }
    }

    fn make_items(&self, m: usize, pattern: &Pattern, noise: &mut Noise, depth: usize) -> Vec<Tree> {
        let Pattern::Tuple(fixed, tail) = pattern else { panic!("{pattern:?}") };
        let mut items: Vec<Tree> =
            fixed.iter().map(|field| self.make((m, &field.pattern), noise, depth)).collect();
        match tail {
            Some(field) if depth > 0 => {
                items.extend((0..noise.below(4)).map(|_| self.make((m, &field.pattern), noise, depth)));
            }
            None if noise.one_in(8) => items.push(Tree::generate(noise, 1)),
            _ => {}
        }
        items
    }
}

fn atom_of(tree: &Tree) -> Option<Atom> {
    Some(match tree {
        Tree::Bool(_) => Atom::Boolean,
        Tree::Double(_) => Atom::Double,
        Tree::Int(_) => Atom::Integer,
        Tree::String(_) => Atom::String,
        Tree::Bytes(_) => Atom::Bytes,
        Tree::Symbol(_) => Atom::Symbol,
        _ => return None,
    })
}

fn make_atom(kind: Atom, noise: &mut Noise) -> Tree {
    let text = |noise: &mut Noise| ["", "a", "état", "x y"][noise.below(4)].to_owned();
    match kind {
        Atom::Boolean => Tree::Bool(noise.one_in(2)),
        Atom::Double => Tree::Double((noise.below(256) as u64) << 56 | noise.below(256) as u64),
        Atom::Integer => {
            Tree::Int((0..noise.below(12)).fold(0, |n, _| n << 8 | noise.below(256) as i128) - 3)
        }
        Atom::String => Tree::String(text(noise)),
        Atom::Bytes => Tree::Bytes(text(noise).into()),
        Atom::Symbol => Tree::Symbol(text(noise)),
    }
}

fn tree_of(literal: &Literal) -> Tree {
    let mut scanner = Scanner::new(Limits::default());
    assert_eq!(scanner.scan(&literal.bytes), Ok(Progress::Complete(literal.bytes.len())));
    assert!(scanner.is_canonical());
    Tree::read(scanner.view(&literal.bytes))
}

/// A value that differs in one place: something else stands there, or something is left out.
pub fn spoil(tree: &Tree, noise: &mut Noise) -> Tree {
    if noise.one_in(4) {
        return Tree::generate(noise, 1);
    }
    let spoil_one = |items: &[Tree], noise: &mut Noise| {
        let mut items = items.to_vec();
        if items.is_empty() {
            return items;
        }
        let i = noise.below(items.len().min(256));
        match noise.one_in(4) {
            true => drop(items.remove(i)),
            false => items[i] = spoil(&items[i], noise),
        }
        items
    };
    match tree {
        Tree::Record(label, fields) if noise.one_in(8) => {
            Tree::Record(Box::new(spoil(label, noise)), fields.clone())
        }
        Tree::Record(label, fields) => Tree::Record(label.clone(), spoil_one(fields, noise)),
        Tree::Sequence(items) => Tree::Sequence(spoil_one(items, noise)),
        Tree::Set(items) => set(spoil_one(items, noise)),
        Tree::Dictionary(entries) if !entries.is_empty() => {
            let mut entries = entries.clone();
            let i = noise.below(entries.len().min(256));
            match noise.one_in(4) {
                true => drop(entries.remove(i)),
                false => entries[i].1 = spoil(&entries[i].1, noise),
            }
            dictionary(entries)
        }
        Tree::Embedded(inner) => Tree::Embedded(Box::new(spoil(inner, noise))),
        _ => Tree::generate(noise, 1),
    }
}

//! The naive twin: patterns interpreted recursively as the specification has it, assertions and observers in
//! lists, every set computed anew each time it is asked for.

use std::collections::BTreeSet;

use super::tree::{Tree, capability};

/// A pattern as a tree.
#[derive(Debug, Clone)]
pub enum Pat {
    Discard,
    Bind(Box<Pat>),
    Lit(Tree),
    Group(Kind, Vec<(Tree, Pat)>),
}

#[derive(Debug, Clone)]
pub enum Kind {
    Rec(Tree),
    Arr,
    Dict,
}

impl Pat {
    fn inner(&self) -> Vec<&Pat> {
        match self {
            Pat::Discard | Pat::Lit(_) => Vec::new(),
            Pat::Bind(inner) => vec![inner],
            Pat::Group(_, entries) => entries.iter().map(|(_, part)| part).collect(),
        }
    }

    /// How many binds lie within each other at most.
    pub fn binds_nested(&self) -> usize {
        let inside = self.inner().into_iter().map(Pat::binds_nested).max().unwrap_or(0);
        inside + usize::from(matches!(self, Pat::Bind(_)))
    }

    /// How many patterns it is made of, itself included.
    pub fn parts(&self) -> usize {
        1 + self.inner().into_iter().map(Pat::parts).sum::<usize>()
    }
}

/// The fields of a record whose label is this symbol.
fn fields<'a>(tree: &'a Tree, name: &str) -> Option<&'a [Tree]> {
    match tree {
        Tree::Record(label, fields) if **label == Tree::Symbol(name.into()) => Some(fields),
        _ => None,
    }
}

/// Reads a pattern; `None` if it is none.
pub fn parse(tree: &Tree) -> Option<Pat> {
    if fields(tree, "_").is_some() {
        return Some(Pat::Discard);
    }
    if let Some(inner) = fields(tree, "bind") {
        return Some(Pat::Bind(Box::new(parse(inner.first()?)?)));
    }
    if let Some(literal) = fields(tree, "lit") {
        return match literal.first()? {
            Tree::Record(..) | Tree::Sequence(_) | Tree::Set(_) | Tree::Dictionary(_) => None,
            atom => Some(Pat::Lit(atom.clone())),
        };
    }
    let [kind, Tree::Dictionary(entries), ..] = fields(tree, "group")? else { return None };
    let kind = if let Some(label) = fields(kind, "rec") {
        Kind::Rec(label.first()?.clone())
    } else if fields(kind, "arr").is_some() {
        Kind::Arr
    } else {
        fields(kind, "dict")?;
        Kind::Dict
    };
    // Entries of a dictionary tree are in ascending total order of their keys.
    let entries = entries.iter().map(|(key, part)| Some((key.clone(), parse(part)?)));
    Some(Pat::Group(kind, entries.collect::<Option<_>>()?))
}

/// Element or field `key`.
fn element<'a>(items: &'a [Tree], key: &Tree) -> Option<&'a Tree> {
    match key {
        Tree::Int(i) => items.get(usize::try_from(*i).ok()?),
        _ => None,
    }
}

/// Whether the value matches; what is captured is appended.
pub fn matches(pattern: &Pat, value: &Tree, captures: &mut Vec<Tree>) -> bool {
    match pattern {
        Pat::Discard => true,
        Pat::Bind(inner) => {
            captures.push(value.clone());
            matches(inner, value, captures)
        }
        Pat::Lit(literal) => literal == value,
        Pat::Group(kind, entries) => {
            let part = |key: &Tree| match (kind, value) {
                (Kind::Rec(label), Tree::Record(l, fields)) if **l == *label => element(fields, key),
                (Kind::Arr, Tree::Sequence(items)) => element(items, key),
                (Kind::Dict, Tree::Dictionary(all)) => {
                    all.iter().find(|(k, _)| k == key).map(|(_, part)| part)
                }
                _ => None,
            };
            let is_kind = match (kind, value) {
                (Kind::Rec(label), Tree::Record(l, _)) => **l == *label,
                (Kind::Arr, Tree::Sequence(_)) | (Kind::Dict, Tree::Dictionary(_)) => true,
                _ => false,
            };
            is_kind
                && entries
                    .iter()
                    .all(|(key, inner)| part(key).is_some_and(|part| matches(inner, part, captures)))
        }
    }
}

/// What a pattern captures from a value.
pub fn captures(pattern: &Pat, value: &Tree) -> Option<Vec<Tree>> {
    let mut captures = Vec::new();
    matches(pattern, value, &mut captures).then_some(captures)
}

/// The pattern and the observer of an Observe that subscribes somebody.
pub fn observe(value: &Tree) -> Option<(Pat, Tree)> {
    let [pattern, observer @ Tree::Embedded(_), ..] = fields(value, "Observe")? else { return None };
    Some((parse(pattern)?, observer.clone()))
}

/// An `<Observe pattern #:observer>`.
pub fn observe_of(pattern: Tree, observer: u64) -> Tree {
    super::tree::rec("Observe", vec![pattern, capability(observer)])
}

/// The state of a dataspace, as a list of placements and a list of observers.
#[derive(Debug, Default)]
pub struct Twin {
    pub placements: Vec<Tree>,
    pub observers: Vec<(u64, Tree, Pat)>,
}

impl Twin {
    pub fn count(&self, value: &Tree) -> usize {
        self.placements.iter().filter(|p| *p == value).count()
    }

    /// Ends one placement.
    pub fn remove(&mut self, value: &Tree) {
        let at = self.placements.iter().position(|p| p == value).expect("placed before");
        self.placements.swap_remove(at);
    }

    /// The distinct captures lists of a pattern, in total order.
    pub fn lists(&self, pattern: &Pat) -> BTreeSet<Vec<Tree>> {
        self.placements.iter().filter_map(|value| captures(pattern, value)).collect()
    }

    pub fn distinct(&self) -> usize {
        self.placements.iter().map(Tree::canonical).collect::<BTreeSet<_>>().len()
    }
}

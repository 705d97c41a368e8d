//! Values, patterns and Observes that meet often: few labels, few atoms, small compounds.

use super::tree::{Noise, Tree, capability, dictionary, rec, set, sym};
use super::twin::observe_of;

fn atom(noise: &mut Noise) -> Tree {
    match noise.below(10) {
        0 => Tree::Int(0),
        1 => Tree::Int(1),
        // Long enough to be digested, and alike at both ends.
        7 => Tree::Bytes(vec![b'x'; 400]),
        8 => Tree::Bytes([vec![b'x'; 200], vec![b'y'], vec![b'x'; 199]].concat()),
        2 => Tree::Int(-1),
        3 => sym("a"),
        4 => Tree::String("a".into()),
        5 => Tree::Bool(true),
        6 => capability(1),
        _ => sym("b"),
    }
}

fn key(noise: &mut Noise) -> Tree {
    match noise.below(7) {
        0 => sym("a"),
        1 => Tree::Int(0),
        2 => Tree::Int(-1),
        3 => sym("aa"),
        4 => Tree::String("z".into()),
        5 => Tree::Sequence(vec![sym("a")]),
        _ => rec("r", vec![]),
    }
}

/// A length: usually small, sometimes past what is looked at without a child table.
fn length(noise: &mut Noise) -> usize {
    if noise.one_in(12) { 8 + noise.below(20) } else { noise.below(4) }
}

pub fn value(noise: &mut Noise, depth: usize) -> Tree {
    if depth == 0 {
        return atom(noise);
    }
    let items = |noise: &mut Noise| (0..length(noise)).map(|_| value(noise, depth - 1)).collect::<Vec<_>>();
    match noise.below(8) {
        0..=2 => rec(if noise.one_in(2) { "s" } else { "r" }, items(noise)),
        3 => atom(noise),
        4 => Tree::Sequence(items(noise)),
        5 => dictionary(items(noise).into_iter().map(|v| (key(noise), v)).collect()),
        6 => Tree::Record(Box::new(Tree::Int(5)), items(noise)),
        _ => set(items(noise)),
    }
}

fn group(kind: Tree, entries: Vec<(Tree, Tree)>) -> Tree {
    rec("group", vec![kind, dictionary(entries)])
}

fn discard() -> Tree {
    rec("_", vec![])
}

/// A pattern that matches a value, more often than not; sometimes one that cannot, or is none.
pub fn pattern_for(noise: &mut Noise, value: &Tree) -> Tree {
    match noise.below(40) {
        35 => return rec("lit", vec![atom(noise)]),
        36 => return rec("bind", vec![]),
        37 => return rec("lit", vec![Tree::Sequence(vec![])]),
        38 => return group(rec("arr", vec![]), vec![(Tree::Int(-1), discard())]),
        39 => return group(rec("set", vec![]), vec![]),
        0..=5 => return rec("bind", vec![discard()]),
        6..=9 => return discard(),
        10..=13 => return rec("bind", vec![pattern_for(noise, value)]),
        _ => {}
    }
    let entries = |noise: &mut Noise, parts: Vec<(Tree, &Tree)>| -> Vec<(Tree, Tree)> {
        let mut entries: Vec<(Tree, Tree)> = Vec::new();
        for (key, part) in parts {
            if !noise.one_in(3) {
                entries.push((key, pattern_for(noise, part)));
            }
        }
        match noise.below(24) {
            21 => entries.push((Tree::Int(20), discard())),
            22 => entries.push((Tree::Int(-1), pattern_for(noise, &Tree::Int(0)))),
            23 => entries.push((sym("x"), rec("bind", vec![discard()]))),
            _ => {}
        }
        entries
    };
    let numbered = |items: &[Tree]| (0..items.len()).map(|i| Tree::Int(i as i128)).collect::<Vec<_>>();
    match value {
        Tree::Record(label, fields) => {
            let parts = numbered(fields).into_iter().zip(fields).collect();
            group(rec("rec", vec![(**label).clone()]), entries(noise, parts))
        }
        Tree::Sequence(items) => {
            let parts = numbered(items).into_iter().zip(items).collect();
            group(rec("arr", vec![]), entries(noise, parts))
        }
        Tree::Dictionary(all) => {
            let parts = all.iter().map(|(k, v)| (k.clone(), v)).collect();
            group(rec("dict", vec![]), entries(noise, parts))
        }
        Tree::Set(_) => rec("bind", vec![discard()]),
        atom => rec("lit", vec![atom.clone()]),
    }
}

/// A pattern that concerns many values.
pub fn pattern(noise: &mut Noise) -> Tree {
    let like = value(noise, 3);
    pattern_for(noise, &like)
}

/// An Observe, sometimes with a surplus field, sometimes one that subscribes nobody.
pub fn observe(noise: &mut Noise) -> Tree {
    let pattern = match noise.below(8) {
        // Patterns that all histories share, so that observers meet in groups and lanes.
        0 | 1 => rec("bind", vec![discard()]),
        2 | 3 => group(rec("rec", vec![sym("r")]), vec![(Tree::Int(0), rec("bind", vec![discard()]))]),
        4 => group(
            rec("rec", vec![sym("Observe")]),
            vec![(Tree::Int(0), rec("bind", vec![discard()])), (Tree::Int(1), rec("bind", vec![discard()]))],
        ),
        _ => pattern(noise),
    };
    let mut observe = observe_of(pattern, 1 + noise.below(6) as u64);
    if let Tree::Record(_, fields) = &mut observe {
        match noise.below(12) {
            10 => fields.push(Tree::Int(0)),
            11 => drop(fields.pop()),
            _ => {}
        }
    }
    observe
}

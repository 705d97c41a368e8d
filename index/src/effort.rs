//! What it takes to route a value at most: the efforts of all skeletons that a value like it may have to be tried for.
//!
//! A value never meets a skeleton whose outermost group it lacks, so efforts are summed up by that group's class: a label,
//! sequences, dictionaries, or anything. How deep a value really gets is known only once it is routed; this is known by
//! one look-up, and can be bounded for whoever makes the skeletons.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use staunch_protocols::wire::{View, tag};

use crate::pattern::{Class, Loc, Shape};

/// What one skeleton adds: about as many times as long as a skeleton of one group and one constant takes.
pub(crate) fn of_skeleton(shape: &Shape, constants: usize) -> u64 {
    1 + (shape.len().saturating_sub(1) + constants) as u64 / 2
}

/// The skeletons of one class: their effort, and the part of each payer.
#[derive(Default)]
struct Alike {
    sum: u64,
    by_payer: HashMap<u64, u64, RandomState>,
}

/// See the module's head.
#[derive(Default)]
pub(crate) struct Efforts {
    sum: u64,
    /// By [`key`].
    classes: HashMap<Box<[u8]>, Alike, RandomState>,
    /// How long the longest key has been: a longer one is not hashed.
    longest: usize,
}

/// What a shape's outermost class is known by: its label, or its tag, which no label is. Empty for no class.
fn key(shape: &Shape) -> &[u8] {
    match shape.first() {
        Some((Loc::Root, Class::Rec(label))) => label,
        Some((Loc::Root, Class::Arr)) => &[tag::SEQUENCE],
        Some((Loc::Root, Class::Dict)) => &[tag::DICTIONARY],
        _ => &[],
    }
}

impl Efforts {
    /// Of all skeletons together: no value takes more.
    #[inline]
    pub(crate) fn sum(&self) -> u64 {
        self.sum
    }

    /// What the skeletons of this payer's that are like a shape, by its outermost class, come to.
    pub(crate) fn of_payer(&self, payer: u64, shape: &Shape) -> u64 {
        let alike = self.classes.get(key(shape));
        alike.and_then(|alike| alike.by_payer.get(&payer)).copied().unwrap_or(0)
    }

    /// What a value may take.
    pub(crate) fn of_value(&self, value: View<'_>) -> u64 {
        let key = match value.tag() {
            tag::RECORD => value.at(value.token() + 1).span(),
            tag::SEQUENCE => &[tag::SEQUENCE],
            tag::DICTIONARY => &[tag::DICTIONARY],
            _ => &[],
        };
        let sum = |key: &[u8]| self.classes.get(key).map_or(0, |alike| alike.sum);
        let own = if key.is_empty() || key.len() > self.longest { 0 } else { sum(key) };
        own + sum(&[])
    }

    /// A payer has made a skeleton.
    pub(crate) fn add(&mut self, payer: u64, shape: &Shape, effort: u64) {
        let key = key(shape);
        self.longest = self.longest.max(key.len());
        self.sum += effort;
        let alike = self.classes.entry(key.into()).or_default();
        alike.sum += effort;
        *alike.by_payer.entry(payer).or_default() += effort;
    }

    /// It is gone.
    pub(crate) fn remove(&mut self, payer: u64, shape: &Shape, effort: u64) {
        let key = key(shape);
        let Some(alike) = self.classes.get_mut(key) else { return };
        self.sum -= effort;
        alike.sum -= effort;
        if let Some(part) = alike.by_payer.get_mut(&payer) {
            *part -= effort;
            if *part == 0 {
                alike.by_payer.remove(&payer);
            }
        }
        if alike.sum == 0 {
            self.classes.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use staunch_protocols::text::parse;
    use staunch_protocols::wire::{Limits, Scanner};

    use super::*;
    use crate::pattern::Pattern;

    fn scanned(text: &str) -> (Vec<u8>, Scanner) {
        let bytes = parse(text, &Limits::default()).unwrap();
        let mut scanner = Scanner::new(Limits::default());
        scanner.scan(&bytes).unwrap();
        (bytes, scanner)
    }

    #[test]
    fn efforts_are_summed_by_what_values_are_like_and_by_payer() {
        let shape_of = |text: &str| {
            let (bytes, scanner) = scanned(text);
            Pattern::compile(scanner.view(&bytes)).unwrap().shape
        };
        let of = |efforts: &Efforts, text: &str| {
            let (bytes, scanner) = scanned(text);
            efforts.of_value(scanner.view(&bytes))
        };
        let record = shape_of("<group <rec x> {0: <group <arr> {}>}>");
        let (sequence, dictionary) = (shape_of("<group <arr> {}>"), shape_of("<group <dict> {}>"));
        let any = shape_of("<bind <_>>");
        let mut efforts = Efforts::default();
        let all = [
            (1, &record, 1),
            (2, &record, 10),
            (1, &sequence, 100),
            (1, &dictionary, 1000),
            (3, &any, 10_000),
        ];
        for (payer, shape, effort) in all {
            efforts.add(payer, shape, effort);
        }
        let values = ["<x>", "<xy>", "[x]", "{}", "#{}", "5", "<[] 1>", "<longer-than-any 1>"];
        let found = values.map(|value| of(&efforts, value));
        assert_eq!(found, [10_011, 10_000, 10_100, 11_000, 10_000, 10_000, 10_000, 10_000]);
        assert_eq!(efforts.sum(), 11_111);
        assert_eq!([1, 2, 3].map(|payer| efforts.of_payer(payer, &record)), [1, 10, 0]);
        for (payer, shape, effort) in all {
            efforts.remove(payer, shape, effort);
        }
        assert_eq!(values.map(|value| of(&efforts, value)), [0; 8]);
        assert!(efforts.sum() == 0 && efforts.classes.is_empty());
    }
}

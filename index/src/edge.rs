//! Edges of the trie: from one group of a shape to the next, by what stands at that group's place.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use staunch_protocols::wire::{View, tag};

use crate::pattern::{Class, Loc};

/// Nodes by the label of a record: compared while there are few, looked up by hash when there are more.
enum Labels {
    Few(Vec<(Box<[u8]>, u32)>),
    /// And how long the longest has been: a longer one is not hashed.
    Many(HashMap<Box<[u8]>, u32, RandomState>, usize),
}

/// Up to so many labels are compared one by one.
const COMPARED_MAX: usize = 4;

impl Labels {
    #[inline(always)]
    fn get(&self, label: &[u8]) -> Option<u32> {
        match self {
            Labels::Few(list) => list.iter().find(|(known, _)| is_equal(known, label)).map(|(_, node)| *node),
            Labels::Many(_, longest) if label.len() > *longest => None,
            Labels::Many(map, _) => map.get(label).copied(),
        }
    }

    fn insert(&mut self, label: &[u8], node: u32) {
        match self {
            Labels::Few(list) if list.len() < COMPARED_MAX => list.push((label.into(), node)),
            Labels::Few(list) => {
                let mut map: HashMap<_, _, _> = std::mem::take(list).into_iter().collect();
                map.insert(label.into(), node);
                let longest = map.keys().map(|label| label.len()).max().unwrap_or(0);
                *self = Labels::Many(map, longest);
            }
            Labels::Many(map, longest) => {
                *longest = label.len().max(*longest);
                map.insert(label.into(), node);
            }
        }
    }

    fn remove(&mut self, label: &[u8]) {
        match self {
            Labels::Few(list) => list.retain(|(known, _)| **known != *label),
            Labels::Many(map, _) => {
                map.remove(label);
                if map.is_empty() {
                    *self = Labels::Few(Vec::new());
                } else if map.len() < map.capacity() / 8 {
                    map.shrink_to_fit();
                }
            }
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Labels::Few(list) => list.is_empty(),
            Labels::Many(map, _) => map.is_empty(),
        }
    }
}

/// Equality of what is mostly 4 to 16 bytes long, by two loads that may overlap.
#[inline(always)]
fn is_equal(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    if let (Some(a_first), Some(b_first)) = (a.first_chunk::<8>(), b.first_chunk::<8>()) {
        return a_first == b_first
            && if a.len() <= 16 { a.last_chunk::<8>() == b.last_chunk::<8>() } else { a == b };
    }
    match (a.first_chunk::<4>(), b.first_chunk::<4>()) {
        (Some(a_first), Some(b_first)) => a_first == b_first && a.last_chunk::<4>() == b.last_chunk::<4>(),
        _ => a == b,
    }
}

/// The ways on from a node that look at one position.
pub(crate) struct Edge {
    pub(crate) loc: Loc,
    recs: Labels,
    arr: Option<u32>,
    dict: Option<u32>,
}

impl Edge {
    /// One that leads nowhere yet.
    pub(crate) fn new(loc: Loc) -> Edge {
        Edge { loc, recs: Labels::Few(Vec::new()), arr: None, dict: None }
    }

    /// The node for a class.
    pub(crate) fn get(&self, class: &Class) -> Option<u32> {
        match class {
            Class::Rec(label) => self.recs.get(label),
            Class::Arr => self.arr,
            Class::Dict => self.dict,
        }
    }

    /// Makes the edge lead somewhere for a class, where it led nowhere.
    pub(crate) fn set(&mut self, class: &Class, node: u32) {
        match class {
            Class::Rec(label) => self.recs.insert(label, node),
            Class::Arr => self.arr = Some(node),
            Class::Dict => self.dict = Some(node),
        }
    }

    /// Makes it lead nowhere for a class.
    pub(crate) fn clear(&mut self, class: &Class) {
        match class {
            Class::Rec(label) => self.recs.remove(label),
            Class::Arr => self.arr = None,
            Class::Dict => self.dict = None,
        }
    }

    /// Whether it leads nowhere at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.recs.is_empty() && self.arr.is_none() && self.dict.is_none()
    }

    /// The node for what stands at the position.
    #[inline(always)]
    pub(crate) fn follow(&self, part: View<'_>) -> Option<u32> {
        match part.tag() {
            // The label comes right after the record's own token.
            tag::RECORD => self.recs.get(part.at(part.token() + 1).span()),
            tag::SEQUENCE => self.arr,
            tag::DICTIONARY => self.dict,
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_every_length_are_told_apart() {
        for length in 0..40 {
            let label = vec![7; length];
            assert!(is_equal(&label, &label.clone()));
            assert!(!is_equal(&label, &[&label[..], &[7]].concat()));
            for at in 0..length {
                let mut other = label.clone();
                other[at] = 8;
                assert!(!is_equal(&label, &other), "length {length}, byte {at}");
            }
        }
    }

    #[test]
    fn few_and_many_labels() {
        let mut labels = Labels::Few(Vec::new());
        for n in 0..100u32 {
            labels.insert(&n.to_be_bytes(), n);
            assert!((0..=n).all(|m| labels.get(&m.to_be_bytes()) == Some(m)));
        }
        assert!(matches!(labels, Labels::Many(..)));
        for n in 0..100u32 {
            labels.remove(&n.to_be_bytes());
            assert_eq!(labels.get(&n.to_be_bytes()), None);
            assert!((n + 1..100).all(|m| labels.get(&m.to_be_bytes()) == Some(m)));
        }
        assert!(labels.is_empty());
    }
}

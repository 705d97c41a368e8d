//! Finding parts of one value, at a cost that many look-ups share.
//!
//! The first few children of a compound are walked to. Looking further builds a table of that compound's
//! children, once for the value: so however many skeletons look at however long a compound, the look-ups cost
//! one pass over it and a step each (for dictionaries, whose keys are in order, a binary search each).

use std::collections::HashMap;

use foldhash::fast::RandomState;
use smallvec::SmallVec;
use staunch_protocols::wire::{View, tag};

use crate::pattern::{Loc, Shape, Step};

/// Children up to this one, and dictionary entries, are walked to.
pub(crate) const NEAR: u32 = 8;
/// Memory beyond so many tables is not kept for the next value.
const TABLES_KEPT: usize = 64;
/// The same for the children in them.
const CHILDREN_KEPT: usize = 1 << 16;

/// Tokens of the parts of a value that the groups of a shape matched.
pub(crate) type Registers = SmallVec<[u32; 8]>;

/// See the module's head. Good for one value at a time.
#[derive(Default)]
pub(crate) struct Finder {
    /// By a compound's token: where its children begin in `children`, and how many they are.
    tables: HashMap<u32, (u32, u32), RandomState>,
    children: Vec<u32>,
    /// Children visited.
    #[cfg(test)]
    pub(crate) steps: u64,
}

impl Finder {
    /// Another value comes.
    #[inline(always)]
    pub(crate) fn begin(&mut self) {
        // A table without children is one too.
        if !self.tables.is_empty() {
            self.forget();
        }
    }

    #[cold]
    fn forget(&mut self) {
        // Clearing costs as much as the map has room.
        if self.tables.capacity() > TABLES_KEPT {
            self.tables = HashMap::default();
        }
        self.tables.clear();
        self.children.clear();
        self.children.shrink_to(CHILDREN_KEPT);
    }

    #[inline(always)]
    fn count(&mut self) {
        #[cfg(test)]
        {
            self.steps += 1;
        }
    }

    /// Element `index` of a sequence, or field `index` of a record.
    #[inline]
    fn index<'a>(&mut self, within: View<'a>, index: u32) -> Option<View<'a>> {
        if index >= NEAR {
            return self.far_index(within, index);
        }
        let mut at = match within.tag() {
            tag::SEQUENCE => within.first_child()?,
            tag::RECORD => within.first_child()?.next_sibling()?,
            _ => return None,
        };
        for _ in 0..index {
            self.count();
            at = at.next_sibling()?;
        }
        Some(at)
    }

    #[cold]
    fn far_index<'a>(&mut self, within: View<'a>, index: u32) -> Option<View<'a>> {
        let label = match within.tag() {
            tag::SEQUENCE => 0,
            tag::RECORD => 1,
            _ => return None,
        };
        let (start, count) = self.table(within);
        self.count();
        let at = index.checked_add(label).filter(|at| *at < count)?;
        Some(within.at(self.children[(start + at) as usize]))
    }

    /// The value under `key` in a dictionary.
    fn get<'a>(&mut self, within: View<'a>, key: &[u8]) -> Option<View<'a>> {
        if within.tag() != tag::DICTIONARY {
            return None;
        }
        let mut at = within.first_child()?;
        for _ in 0..NEAR {
            self.count();
            let value = at.next_sibling()?;
            match at.span().cmp(key) {
                std::cmp::Ordering::Less => at = value.next_sibling()?,
                std::cmp::Ordering::Equal => return Some(value),
                // Canonical: keys are in order.
                std::cmp::Ordering::Greater => return None,
            }
        }
        self.far_get(within, key)
    }

    #[cold]
    fn far_get<'a>(&mut self, within: View<'a>, key: &[u8]) -> Option<View<'a>> {
        let (start, count) = self.table(within);
        let (mut low, mut high) = (0, count / 2);
        while low < high {
            self.count();
            let middle = (low + high) / 2;
            let entry = (start + 2 * middle) as usize;
            match within.at(self.children[entry]).span().cmp(key) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return Some(within.at(self.children[entry + 1])),
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        None
    }

    /// The table of a compound's children, made if need be.
    fn table(&mut self, within: View<'_>) -> (u32, u32) {
        if let Some(known) = self.tables.get(&within.token()) {
            return *known;
        }
        let start = self.children.len() as u32;
        for child in within.children() {
            self.count();
            self.children.push(child.token());
        }
        let made = (start, self.children.len() as u32 - start);
        self.tables.insert(within.token(), made);
        made
    }
}

/// Finds the part of `value` at `loc`.
#[inline(always)]
pub(crate) fn resolve<'a>(
    loc: &Loc,
    value: View<'a>,
    registers: &[u32],
    finder: &mut Finder,
) -> Option<View<'a>> {
    match loc {
        Loc::Root => Some(value),
        Loc::Child { register, step } => {
            let within = value.at(registers[*register as usize]);
            match step {
                Step::Index(i) => finder.index(within, *i),
                Step::Key(key) => finder.get(within, key),
            }
        }
    }
}

/// Matches the groups of a shape against `value`, for which `finder` is.
pub(crate) fn registers(shape: &Shape, value: View<'_>, finder: &mut Finder) -> Option<Registers> {
    let mut found = Registers::new();
    for (loc, class) in shape {
        let part = resolve(loc, value, &found, finder)?;
        if !class.admits(part) {
            return None;
        }
        found.push(part.token());
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use staunch_protocols::wire::{Limits, Scanner, encode};

    use super::*;

    fn scanned(bytes: &[u8]) -> Scanner {
        let mut scanner = Scanner::new(Limits::default());
        scanner.scan(bytes).unwrap();
        scanner
    }

    #[test]
    fn many_looks_at_a_long_sequence_cost_one_pass() {
        let mut bytes = vec![tag::SEQUENCE];
        (0..5000).for_each(|n| encode::int(&mut bytes, n));
        encode::end(&mut bytes);
        let scanner = scanned(&bytes);
        let mut finder = Finder::default();
        for i in 0..5000 {
            assert_eq!(finder.index(scanner.view(&bytes), i).unwrap().as_i64(), Some(i as i64));
        }
        assert!(finder.index(scanner.view(&bytes), 5000).is_none());
        assert!(finder.index(scanner.view(&bytes), u32::MAX).is_none());
        assert!(finder.steps < 11_000, "{} steps", finder.steps);
    }

    #[test]
    fn many_looks_into_a_large_dictionary_cost_a_binary_search_each() {
        let key = |n: i64| {
            let mut key = Vec::new();
            encode::int(&mut key, n);
            key
        };
        let mut bytes = vec![tag::DICTIONARY];
        (0..4000).for_each(|n| bytes.extend([key(2 * n), key(n)].concat()));
        encode::end(&mut bytes);
        let scanner = scanned(&bytes);
        assert!(scanner.is_canonical());
        let mut finder = Finder::default();
        for n in 0..8000 {
            let found = finder.get(scanner.view(&bytes), &key(n)).and_then(|v| v.as_i64());
            assert_eq!(found, (n % 2 == 0).then_some(n / 2));
        }
        assert!(finder.steps < 8000 * (NEAR as u64 + 1 + 12) + 8001, "{} steps", finder.steps);
    }

    #[test]
    fn tables_are_forgotten_with_their_value() {
        let mut finder = Finder::default();
        for length in [20, 10, 30] {
            let mut bytes = vec![tag::SEQUENCE];
            (0..length).for_each(|n| encode::int(&mut bytes, n));
            encode::end(&mut bytes);
            let scanner = scanned(&bytes);
            finder.begin();
            assert_eq!(finder.index(scanner.view(&bytes), 9).and_then(|v| v.as_i64()), Some(9));
            assert_eq!(finder.index(scanner.view(&bytes), 15).is_some(), length > 15);
        }
    }
}

//! Collections, and dictionaries that are written in parts.

use std::collections::{BTreeMap, BTreeSet};

use super::{Codec, Input, Mismatch, MismatchKind};
use crate::wire::{Limits, Scanner, encode, tag};

/// A sequence.
impl<T: Codec> Codec for Vec<T> {
    const NAME: &'static str = "a sequence";

    fn read_from(input: Input<'_>) -> Result<Vec<T>, Mismatch> {
        input.sequence()?.rest()
    }

    fn write(&self, out: &mut Vec<u8>) {
        encode::sequence(out);
        self.iter().for_each(|item| item.write(out));
        encode::end(out);
    }
}

impl<T: Codec> Codec for Box<T> {
    const NAME: &'static str = T::NAME;

    fn read_from(input: Input<'_>) -> Result<Box<T>, Mismatch> {
        T::read_from(input).map(Box::new)
    }

    fn write(&self, out: &mut Vec<u8>) {
        T::write(self, out);
    }
}

impl<T: Codec> Codec for BTreeSet<T> {
    const NAME: &'static str = "a set";

    fn read_from(input: Input<'_>) -> Result<BTreeSet<T>, Mismatch> {
        input.set()?.rest()
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.push(tag::SET);
        write_sorted(self.iter().map(|item| (item.to_bytes(), Vec::new())).collect(), out);
        encode::end(out);
    }
}

impl<K: Codec, V: Codec> Codec for BTreeMap<K, V> {
    const NAME: &'static str = "a dictionary";

    fn read_from(input: Input<'_>) -> Result<BTreeMap<K, V>, Mismatch> {
        input.entries()?;
        let mut all = input.view().children();
        let mut map = BTreeMap::new();
        while let (Some(key), Some(value)) = (all.next(), all.next()) {
            // Keys that differ in nothing but what is ignored: whichever was taken, the other would be lost.
            if map.insert(input.part(key).read()?, input.part(value).read()?).is_some() {
                return Err(input.part(key).mismatch(MismatchKind::SameKey));
            }
        }
        Ok(map)
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.push(tag::DICTIONARY);
        write_sorted(self.iter().map(|(key, value)| (key.to_bytes(), value.to_bytes())).collect(), out);
        encode::end(out);
    }
}

/// Writes entries, or elements with nothing as value, in canonical order. Of those with equal keys (there are none,
/// unless different values of a type are written alike) only the first is written.
fn write_sorted(mut entries: Vec<(Vec<u8>, Vec<u8>)>, out: &mut Vec<u8>) {
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    entries.dedup_by(|later, earlier| later.0 == earlier.0);
    entries.iter().for_each(|(key, value)| {
        out.extend_from_slice(key);
        out.extend_from_slice(value);
    });
}

/// A dictionary whose entries come from several dictionaries. For implementations of [`Codec`].
#[derive(Debug, Default)]
pub struct Joined {
    parts: Vec<Vec<u8>>,
}

impl Joined {
    /// A place for one more dictionary, in canonical form.
    pub fn part(&mut self) -> &mut Vec<u8> {
        self.parts.push(Vec::new());
        let last = self.parts.len() - 1;
        &mut self.parts[last]
    }

    /// Appends all entries as one dictionary. Under a key that is in several, the first one's value is taken. Costs
    /// a scan of all.
    pub fn write(&self, out: &mut Vec<u8>) {
        let limits = Limits::NONE;
        let mut entries = Vec::new();
        for part in &self.parts {
            let mut scanner = Scanner::new(limits);
            let is_scanned = scanner.scan(part).is_ok();
            assert!(is_scanned, "parts are canonical dictionaries");
            let mut all = scanner.view(part).children();
            while let (Some(key), Some(value)) = (all.next(), all.next()) {
                entries.push((key.span().to_vec(), value.span().to_vec()));
            }
        }
        out.push(tag::DICTIONARY);
        write_sorted(entries, out);
        encode::end(out);
    }
}

//! Values as plain trees, with everything done recursively and by the book.

use std::cmp::Ordering;

use proptest::prelude::*;
use staunch_protocols::wire::{View, tag};

/// Decisions, drawn from a finite supply; once it is used up, all are 0. Every generator takes 0 for its
/// simplest choice, so that shrinking the supply shrinks what comes of it.
#[derive(Debug, Clone)]
pub struct Noise {
    bytes: Vec<u8>,
    at: usize,
}

impl Noise {
    pub fn new(bytes: Vec<u8>) -> Noise {
        Noise { bytes, at: 0 }
    }

    /// A strategy for supplies of up to this many decisions.
    pub fn any(most: usize) -> impl Strategy<Value = Noise> {
        proptest::collection::vec(any::<u8>(), 0..most).prop_map(Noise::new)
    }

    /// Whether all further decisions are 0.
    pub fn is_used_up(&self) -> bool {
        self.at >= self.bytes.len()
    }

    /// A number below `n`, which is at most 256.
    pub fn below(&mut self, n: usize) -> usize {
        let byte = self.bytes.get(self.at).copied().unwrap_or(0);
        self.at += 1;
        byte as usize % n
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == n - 1
    }

    pub fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tree {
    Bool(bool),
    Double(u64),
    Int(i128),
    String(String),
    Bytes(Vec<u8>),
    Symbol(String),
    Record(Box<Tree>, Vec<Tree>),
    Sequence(Vec<Tree>),
    /// In ascending order.
    Set(Vec<Tree>),
    /// In ascending order of keys.
    Dictionary(Vec<(Tree, Tree)>),
    Embedded(Box<Tree>),
}

pub fn sym(name: &str) -> Tree {
    Tree::Symbol(name.into())
}

pub fn rec(label: &str, fields: Vec<Tree>) -> Tree {
    Tree::Record(Box::new(sym(label)), fields)
}

pub fn set(mut items: Vec<Tree>) -> Tree {
    items.sort();
    items.dedup();
    Tree::Set(items)
}

pub fn dictionary(mut entries: Vec<(Tree, Tree)>) -> Tree {
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    entries.dedup_by(|b, a| a.0 == b.0);
    Tree::Dictionary(entries)
}

/// A capability, as the broker writes it.
pub fn capability(id: u64) -> Tree {
    Tree::Embedded(Box::new(Tree::Bytes(id.to_be_bytes().into())))
}

const TEXTS: &[&str] =
    &["", "a", "b", "aa", "ab", "a\0", "\0", "\0\0", "é", "水", "𝄞", "12", "1e5", "x y", "'\"\\\n\t"];
const INTEGERS: &[i128] = &[
    0,
    1,
    2,
    -1,
    127,
    128,
    -128,
    -129,
    255,
    256,
    32767,
    -32769,
    i64::MAX as i128,
    i64::MIN as i128,
    i64::MAX as i128 + 1,
    i64::MIN as i128 - 1,
    u64::MAX as i128,
    i128::MAX,
    i128::MIN,
];
const DOUBLES: &[u64] = &[
    0,
    1 << 63,
    0x3ff0_0000_0000_0000,
    0xbff8_0000_0000_0000,
    0x7e37_e43c_8800_759c,
    0x7ff0_0000_0000_0000,
    0xfff0_0000_0000_0000,
    0x7ff8_0000_0000_0001,
    0xffff_ffff_ffff_ffff,
    1,
    0x3fb9_9999_9999_999a,
];

impl Tree {
    /// Any value, of at most this depth.
    pub fn generate(noise: &mut Noise, depth: usize) -> Tree {
        let items = |noise: &mut Noise| -> Vec<Tree> {
            (0..noise.below(4)).map(|_| Tree::generate(noise, depth - 1)).collect()
        };
        match noise.below(if depth == 0 { 7 } else { 12 }) {
            0 => Tree::Int(*noise.of(INTEGERS)),
            1 => Tree::Bool(noise.one_in(2)),
            2 => Tree::Symbol(Tree::text(noise)),
            3 => Tree::String(Tree::text(noise)),
            4 => Tree::Bytes(Tree::text(noise).into()),
            5 => Tree::Double(*noise.of(DOUBLES)),
            6 => Tree::Int((0..noise.below(16)).fold(0i128, |n, _| n << 8 | noise.below(256) as i128) - 128),
            7 => Tree::Sequence(items(noise)),
            8 => Tree::Record(Box::new(Tree::generate(noise, depth - 1)), items(noise)),
            9 => set(items(noise)),
            10 => dictionary(
                items(noise).into_iter().map(|key| (key, Tree::generate(noise, depth - 1))).collect(),
            ),
            _ => Tree::Embedded(Box::new(Tree::generate(noise, depth - 1))),
        }
    }

    fn text(noise: &mut Noise) -> String {
        if noise.one_in(20) { "0123456789".repeat(noise.below(40)) } else { noise.of(TEXTS).to_string() }
    }

    /// A strategy for any value.
    pub fn any() -> impl Strategy<Value = Tree> {
        Noise::any(200).prop_map(|mut noise| Tree::generate(&mut noise, 5))
    }

    /// Canonical bytes.
    pub fn canonical(&self) -> Vec<u8> {
        self.write(&mut Noise::new(Vec::new()))
    }

    /// Bytes that mean the same, but may have annotations, overlong lengths, padded integers, and sets and
    /// dictionaries in any order.
    pub fn write(&self, noise: &mut Noise) -> Vec<u8> {
        let mut out = Vec::new();
        while noise.one_in(12) {
            out.push(tag::ANNOTATION);
            out.extend(Tree::generate(noise, 2).write(noise));
        }
        match self {
            Tree::Bool(b) => out.push(if *b { tag::TRUE } else { tag::FALSE }),
            // A supply of noise that is empty counts as 0: once in n times is never.
            Tree::Double(bits) => atom(&mut out, tag::IEEE754, &bits.to_be_bytes(), noise),
            Tree::Int(n) => {
                let mut content = minimal(*n);
                while noise.one_in(8) {
                    let sign = if *n < 0 { 0xff } else { 0 };
                    content.insert(0, sign);
                }
                atom(&mut out, tag::INTEGER, &content, noise);
            }
            Tree::String(text) => atom(&mut out, tag::STRING, text.as_bytes(), noise),
            Tree::Bytes(content) => atom(&mut out, tag::BYTES, content, noise),
            Tree::Symbol(name) => atom(&mut out, tag::SYMBOL, name.as_bytes(), noise),
            Tree::Record(label, fields) => {
                out.push(tag::RECORD);
                out.extend(label.write(noise));
                fields.iter().for_each(|field| out.extend(field.write(noise)));
                out.push(tag::END);
            }
            Tree::Sequence(items) => {
                out.push(tag::SEQUENCE);
                items.iter().for_each(|item| out.extend(item.write(noise)));
                out.push(tag::END);
            }
            Tree::Set(items) => {
                out.push(tag::SET);
                let items = items.iter().map(|item| (item.canonical(), item.write(noise))).collect();
                out.extend(arrange(items, noise));
                out.push(tag::END);
            }
            Tree::Dictionary(entries) => {
                out.push(tag::DICTIONARY);
                let entries =
                    entries.iter().map(|(k, v)| (k.canonical(), [k.write(noise), v.write(noise)].concat()));
                out.extend(arrange(entries.collect(), noise));
                out.push(tag::END);
            }
            Tree::Embedded(inner) => {
                out.push(tag::EMBEDDED);
                out.extend(inner.write(noise));
            }
        }
        out
    }

    /// From canonical bytes, by walking over a view with the methods that everybody uses.
    pub fn read(view: View<'_>) -> Tree {
        let texts = |t: &str| t.to_string();
        match view.tag() {
            tag::FALSE | tag::TRUE => Tree::Bool(view.tag() == tag::TRUE),
            tag::IEEE754 => Tree::Double(u64::from_be_bytes(view.content().try_into().unwrap())),
            tag::INTEGER => {
                let start = if view.content().first().is_some_and(|b| *b >= 0x80) { -1 } else { 0 };
                Tree::Int(view.content().iter().fold(start, |n, b| n << 8 | *b as i128))
            }
            tag::STRING => Tree::String(view.as_string().map(texts).unwrap()),
            tag::BYTES => Tree::Bytes(view.as_bytes().unwrap().into()),
            tag::SYMBOL => Tree::Symbol(view.as_symbol().map(texts).unwrap()),
            tag::RECORD => Tree::Record(
                Box::new(Tree::read(view.label().unwrap())),
                view.fields().map(Tree::read).collect(),
            ),
            tag::SEQUENCE => Tree::Sequence(view.children().map(Tree::read).collect()),
            tag::SET => set(view.children().map(Tree::read).collect()),
            tag::DICTIONARY => {
                let all: Vec<Tree> = view.children().map(Tree::read).collect();
                dictionary(all.chunks(2).map(|entry| (entry[0].clone(), entry[1].clone())).collect())
            }
            tag::EMBEDDED => Tree::Embedded(Box::new(Tree::read(view.embedded().unwrap()))),
            other => panic!("{other:#x}"),
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Tree::Bool(_) => 0,
            Tree::Double(_) => 1,
            Tree::Int(_) => 2,
            Tree::String(_) => 3,
            Tree::Bytes(_) => 4,
            Tree::Symbol(_) => 5,
            Tree::Record(..) => 6,
            Tree::Sequence(_) => 7,
            Tree::Set(_) => 8,
            Tree::Dictionary(_) => 9,
            Tree::Embedded(_) => 10,
        }
    }

    /// Whether a capability stands in it.
    pub fn holds_capability(&self) -> bool {
        match self {
            Tree::Record(label, fields) => {
                label.holds_capability() || fields.iter().any(Tree::holds_capability)
            }
            Tree::Sequence(items) | Tree::Set(items) => items.iter().any(Tree::holds_capability),
            Tree::Dictionary(entries) => {
                entries.iter().any(|(k, v)| k.holds_capability() || v.holds_capability())
            }
            Tree::Embedded(_) => true,
            _ => false,
        }
    }
}

/// The total order, as the specification has it.
impl Ord for Tree {
    fn cmp(&self, other: &Tree) -> Ordering {
        match (self, other) {
            (Tree::Bool(a), Tree::Bool(b)) => a.cmp(b),
            (Tree::Double(a), Tree::Double(b)) => f64::from_bits(*a).total_cmp(&f64::from_bits(*b)),
            (Tree::Int(a), Tree::Int(b)) => a.cmp(b),
            (Tree::String(a), Tree::String(b)) | (Tree::Symbol(a), Tree::Symbol(b)) => {
                a.chars().cmp(b.chars())
            }
            (Tree::Bytes(a), Tree::Bytes(b)) => a.cmp(b),
            (Tree::Record(a, x), Tree::Record(b, y)) => a.cmp(b).then_with(|| x.cmp(y)),
            (Tree::Sequence(a), Tree::Sequence(b)) | (Tree::Set(a), Tree::Set(b)) => a.cmp(b),
            (Tree::Dictionary(a), Tree::Dictionary(b)) => a.cmp(b),
            (Tree::Embedded(a), Tree::Embedded(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for Tree {
    fn partial_cmp(&self, other: &Tree) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

fn minimal(n: i128) -> Vec<u8> {
    let bytes = n.to_be_bytes();
    if n == 0 {
        return Vec::new();
    }
    let sign = if n < 0 { 0xff } else { 0 };
    let mut start = 0;
    while start < 15 && bytes[start] == sign && (bytes[start + 1] ^ sign) < 0x80 {
        start += 1;
    }
    bytes[start..].into()
}

fn atom(out: &mut Vec<u8>, first: u8, content: &[u8], noise: &mut Noise) {
    out.push(first);
    let mut length = content.len();
    let mut groups = Vec::new();
    while length >= 128 {
        groups.push(length as u8 & 127);
        length >>= 7;
    }
    groups.push(length as u8);
    while noise.one_in(8) {
        groups.push(0);
    }
    let last = groups.len() - 1;
    groups[..last].iter_mut().for_each(|group| *group |= 128);
    out.extend(groups);
    out.extend_from_slice(content);
}

/// Items by their canonical bytes, or in another order.
fn arrange(mut items: Vec<(Vec<u8>, Vec<u8>)>, noise: &mut Noise) -> Vec<u8> {
    items.sort();
    if noise.one_in(3) {
        for i in (1..items.len()).rev() {
            items.swap(i, noise.below(i + 1));
        }
    }
    items.into_iter().flat_map(|(_, written)| written).collect()
}

//! Packets that are mostly right: each byte of the input is a decision. What is chosen from is small, so that peers meet in
//! oids, handles, values and patterns.

use std::sync::LazyLock;

use staunch_protocols::sturdy::SturdyRef;
use staunch_protocols::text;
use staunch_protocols::wire::{Limits, Progress, Scanner, encode, tag};

use super::peer::{bytes, event};
use super::{PEERS, Step, WAYS, What};

/// Steps of one script: more find nothing that fewer do not.
const STEPS_MAX: usize = 32;

const ATOMS: [&str; 18] = [
    "0",
    "1",
    "-1",
    "a",
    "b",
    "\"a\"",
    "#t",
    "#f",
    "#\"x\"",
    "1.5",
    "\"\"",
    "256",
    "99999999999999999999",
    "Observe",
    "r",
    "[]",
    "{}",
    "#{}",
];

/// Patterns of dataspaces, some of them none.
const PATTERNS: [&str; 22] = [
    "<_>",
    "<bind <_>>",
    "<bind <bind <_>>>",
    "<group <rec r> {}>",
    "<group <rec r> {0: <bind <_>>}>",
    "<group <rec r> {0: <bind <_>> 1: <bind <_>>}>",
    "<group <rec r> {0: <lit 0>}>",
    "<group <rec r> {0: <lit 1> 1: <bind <_>>}>",
    "<bind <group <rec r> {0: <bind <_>>}>>",
    "<group <rec a> {1: <bind <_>>}>",
    "<group <arr> {0: <bind <_>>}>",
    "<group <arr> {1: <_>}>",
    "<group <dict> {a: <bind <_>>}>",
    "<group <dict> {a: <lit 0> b: <bind <_>>}>",
    "<group <rec Observe> {0: <bind <_>>}>",
    "<group <rec Observe> {0: <bind <_>> 1: <bind <_>>}>",
    "<group <rec probe> {0: <bind <_>>}>",
    "<lit 0>",
    "<lit []>",
    "<group <rec r> {-1: <_>}>",
    "<bind>",
    "<group <rec r> {0: <bind <group <arr> {0: <bind <_>> 1: <lit a>}>>}>",
];

/// Caveats, some of them unknown, and some that are refused.
const CAVEATS: [&str; 16] = [
    "<reject <_>>",
    "<reject <rec r [<lit 0>]>>",
    "<rewrite <bind <_>> <ref 0>>",
    "<rewrite <bind <_>> <rec r [<ref 0>]>>",
    "<rewrite <rec r [<bind <_>>]> <ref 0>>",
    "<rewrite <rec r [<bind <_>> <bind <_>>]> <rec r [<ref 1> <ref 0>]>>",
    "<rewrite <bind <_>> <arr [<ref 0> <ref 0> <ref 0> <ref 0>]>>",
    "<rewrite <arr [<bind Embedded>]> <arr [<attenuate <ref 0> [<reject <rec r []>>]>]>>",
    "<rewrite <rec r [<bind Embedded>]> <rec r [<attenuate <ref 0> [<rewrite <bind <_>> <rec a [<ref 0> <ref 0>]>>]>]>>",
    "<or [<rewrite <rec a [<bind <_>>]> <lit 1>> <rewrite <bind SignedInteger> <rec r [<ref 0>]>>]>",
    "<or []>",
    "<rewrite <and [<bind <_>> <not <lit 0>>]> <dict {a: <ref 0>}>>",
    "<rewrite <dict {a: <bind <_>>}> <ref 0>>",
    "<zork>",
    "<rewrite <_> <ref 0>>",
    "<rewrite <bind <_>> <rec Observe [<lit <bind <_>>> <ref 0>]>>",
];

static PARSED: LazyLock<Parsed> = LazyLock::new(|| Parsed {
    atoms: ATOMS.map(bytes),
    patterns: PATTERNS.map(bytes),
    caveats: CAVEATS.map(bytes),
});

struct Parsed {
    atoms: [Vec<u8>; ATOMS.len()],
    patterns: [Vec<u8>; PATTERNS.len()],
    caveats: [Vec<u8>; CAVEATS.len()],
}

/// The steps that the input chooses.
pub(super) fn steps(data: &[u8]) -> Vec<Step> {
    let mut choices = Choices { data };
    let mut steps = Vec::new();
    while !choices.data.is_empty() && steps.len() < STEPS_MAX {
        choices.step(&mut steps);
    }
    steps
}

/// Decisions; once the input is used up, all are 0.
struct Choices<'a> {
    data: &'a [u8],
}

impl Choices<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.data.split_first() else { return 0 };
        self.data = rest;
        *first
    }

    fn below(&mut self, n: usize) -> usize {
        self.byte() as usize % n
    }

    fn of<'t>(&mut self, all: &'t [Vec<u8>]) -> &'t [u8] {
        &all[self.below(all.len())]
    }

    fn step(&mut self, steps: &mut Vec<Step>) {
        let peer = self.below(PEERS);
        let what = match self.below(24) {
            16 => What::HalfClose,
            17 => What::Leave,
            18 => What::Reads(false),
            19 => What::Reads(true),
            20 | 21 => What::Bystander(self.below(8) as u8),
            22 | 23 => What::Open(WAYS[self.below(WAYS.len())]),
            _ => {
                let packets = self.packets();
                if self.below(5) == 4 {
                    // Cut in two.
                    let at = packets.len() * self.below(256) / 256;
                    steps.push((peer, What::Send(packets[..at].to_vec())));
                    return steps.push((peer, What::Send(packets[at..].to_vec())));
                }
                What::Send(packets)
            }
        };
        steps.push((peer, what));
    }

    /// One packet, or a few that come together, perhaps spoilt, perhaps in text.
    fn packets(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        for _ in 0..=self.below(8).saturating_sub(4) {
            let from = out.len();
            self.packet(&mut out);
            if self.below(10) == 9 {
                let written = in_text(&out[from..]);
                out.splice(from.., written);
            }
        }
        for _ in 0..self.below(10).saturating_sub(8) {
            self.spoil(&mut out);
        }
        out
    }

    fn spoil(&mut self, out: &mut Vec<u8>) {
        let at = out.len() * self.below(256) / 256;
        match self.below(4) {
            0 if at < out.len() => out[at] ^= 1 << self.below(8),
            1 => out.truncate(at),
            2 => out.insert(at, self.byte()),
            _ => {
                let part = out[at..].to_vec();
                out.extend(part);
            }
        }
    }

    fn packet(&mut self, out: &mut Vec<u8>) {
        match self.below(24) {
            21 => out.push(tag::FALSE),
            22 => {
                encode::record(out, ["error", "ext"][self.below(2)]);
                encode::string(out, "x");
                self.value(out, 1);
                encode::end(out);
            }
            23 => self.value(out, 2),
            _ => {
                encode::sequence(out);
                for _ in 0..self.below(7) {
                    self.event(out);
                }
                encode::end(out);
            }
        }
    }

    fn event(&mut self, out: &mut Vec<u8>) {
        // The dataspace is oid 0 of those who were adopted, and 1 of those who resolved it.
        let oid = [1, 1, 1, 0, 2, 3, 4, -1][self.below(8)];
        let handle = i64::from(self.byte() % 24);
        let mut value = Vec::new();
        match self.below(16) {
            0..=3 => {
                self.value(&mut value, 2);
                event(out, oid, "A", &value, Some(handle));
            }
            4..=6 => {
                self.observe(&mut value);
                event(out, oid, "A", &value, Some(handle));
            }
            7..=9 => {
                encode::int(&mut value, handle);
                event(out, oid, "R", &value, None);
            }
            10..=12 => {
                self.value(&mut value, 2);
                event(out, oid, "M", &value, None);
            }
            13 => {
                self.reference(&mut value);
                event(out, oid, "S", &value, None);
            }
            14 => {
                self.resolve(&mut value);
                event(out, oid, "A", &value, Some(handle));
            }
            _ => {
                self.value(&mut value, 1);
                event(out, oid, ["A", "R", "S", "X"][self.below(4)], &value, None);
            }
        }
    }

    fn observe(&mut self, out: &mut Vec<u8>) {
        encode::record(out, "Observe");
        out.extend_from_slice(self.of(&PARSED.patterns));
        self.reference(out);
        encode::end(out);
    }

    fn resolve(&mut self, out: &mut Vec<u8>) {
        encode::record(out, "resolve");
        encode::record(out, "ref");
        let mut sturdy = SturdyRef::mint(&bytes("\"syndicate\""), b"");
        for _ in 0..self.below(3) {
            sturdy = sturdy.attenuate(self.of(&PARSED.caveats));
        }
        if self.below(8) == 7 {
            sturdy.sig[0] ^= 1;
        }
        sturdy.write_parameters(out);
        encode::end(out);
        self.reference(out);
        encode::end(out);
    }

    fn reference(&mut self, out: &mut Vec<u8>) {
        out.push(tag::EMBEDDED);
        encode::sequence(out);
        if self.below(3) < 2 {
            encode::int(out, 0);
            encode::int(out, self.below(8) as i64);
        } else {
            encode::int(out, 1);
            encode::int(out, self.below(4) as i64);
            for _ in 0..self.below(3) {
                out.extend_from_slice(self.of(&PARSED.caveats));
            }
        }
        encode::end(out);
    }

    fn value(&mut self, out: &mut Vec<u8>, depth: usize) {
        let choice = self.below(16);
        match choice {
            0..=3 if depth > 0 => {
                encode::record(out, ["r", "r", "a", "probe"][choice]);
                self.values(out, depth);
            }
            4 if depth > 0 => {
                encode::sequence(out);
                self.values(out, depth);
            }
            5 if depth > 0 => {
                out.push(tag::DICTIONARY);
                for key in ["a", "b"] {
                    encode::symbol(out, key);
                    self.value(out, depth - 1);
                }
                encode::end(out);
            }
            6 => self.reference(out),
            // Long enough to be shared, or to fill an outbox with a few.
            7 => encode::bytes(out, &vec![self.byte(); 64 * self.below(256)]),
            8 => self.observe(out),
            _ => out.extend_from_slice(self.of(&PARSED.atoms)),
        }
    }

    fn values(&mut self, out: &mut Vec<u8>, depth: usize) {
        for _ in 0..self.below(4) {
            self.value(out, depth - 1);
        }
        encode::end(out);
    }
}

/// The same packet in text; as it is if it is not one.
fn in_text(packet: &[u8]) -> Vec<u8> {
    let mut scanner = Scanner::new(Limits::default());
    if !matches!(scanner.scan(packet), Ok(Progress::Complete(length)) if length == packet.len()) {
        return packet.to_vec();
    }
    let mut written = String::new();
    text::write(scanner.view(packet), &mut written, usize::MAX);
    written.push('\n');
    written.into_bytes()
}

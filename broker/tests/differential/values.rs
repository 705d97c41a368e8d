//! Values, patterns and caveats at random, from small domains: so that they meet often.

use super::common::Random;

/// The labels of records that are facts.
const LABELS: [&str; 3] = ["a", "b", "c"];

fn pick<'a>(random: &mut Random, choices: &[&'a str]) -> &'a str {
    choices[random.below(choices.len() as u64) as usize]
}

/// An atom that a `lit` can hold.
pub fn atom(random: &mut Random) -> String {
    let choices = [
        "0",
        "1",
        "2",
        "-1",
        "1.5",
        "x",
        "y",
        "\"x\"",
        "\"\"",
        "#t",
        "#f",
        "#\"x\"",
        "170141183460469231731687303715884105727",
    ];
    // The first ones more often.
    let end = 1 + random.below(choices.len() as u64) as usize;
    pick(random, &choices[..end]).to_owned()
}

/// A value that holds no capability.
pub fn value(random: &mut Random, depth: u32) -> String {
    if depth == 0 || random.below(3) > 0 {
        return atom(random);
    }
    if random.below(6) == 0 {
        // What is written differently is different.
        let (one, two) = (atom(random), atom(random));
        return if one == two { format!("#{{{one}}}") } else { format!("#{{{one} {two}}}") };
    }
    let (one, two) = (value(random, depth - 1), value(random, depth - 1));
    match random.below(4) {
        0 => format!("[{one} {two}]"),
        1 => format!("[{one}]"),
        2 => format!("{{k: {one}}}"),
        _ => format!("<r {one} {two}>"),
    }
}

/// What is asserted and sent for its own sake.
pub fn fact(random: &mut Random) -> String {
    let (one, two) = (value(random, 2), value(random, 1));
    match random.below(12) {
        0..=3 => format!("<a {one} {two}>"),
        4 | 5 => format!("<b {one}>"),
        6 => format!("<c {one} {two} 0>"),
        7 => format!("[{one} {two}]"),
        8 => format!("{{k: {one} j: {two} 0: 1}}"),
        9 => format!("<a {one}>"),
        10 => format!("{{\"k\": {one} [0]: {two}}}"),
        _ => one,
    }
}

/// A pattern that facts may match.
pub fn pattern(random: &mut Random) -> String {
    let entries = |random: &mut Random, keys: &[&str]| {
        let chosen: Vec<&str> = keys.iter().copied().filter(|_| random.below(3) > 0).collect();
        chosen.into_iter().map(|key| format!("{key}: {}", part(random, 2))).collect::<Vec<_>>().join(" ")
    };
    match random.below(16) {
        0..=7 => record_pattern(random, pick_label),
        8 => format!("<group <arr> {{{}}}>", entries(random, &["0", "1"])),
        9 => format!("<group <dict> {{{}}}>", entries(random, &["k", "j", "0"])),
        10 => format!("<group <dict> {{{}}}>", entries(random, &["\"k\"", "[0]"])),
        11 => format!("<bind {}>", record_pattern(random, pick_label)),
        12 => "<_>".to_owned(),
        13 => "<lit 1>".to_owned(),
        // No pattern, so nothing is observed.
        14 => pick(random, &["<lit [1]>", "<group <set> {}>", "<bind>", "<group <rec a> [<_>]>"]).to_owned(),
        _ => format!("<group <rec a> {{0: {} 10: <_>}}>", part(random, 1)),
    }
}

fn pick_label(random: &mut Random) -> &'static str {
    pick(random, &LABELS)
}

/// A pattern for records with such a label.
pub fn record_pattern(random: &mut Random, label: impl Fn(&mut Random) -> &'static str) -> String {
    let label = label(random);
    let mut entries = Vec::new();
    for index in 0..2 {
        if random.below(3) > 0 {
            entries.push(format!("{index}: {}", part(random, 2)));
        }
    }
    format!("<group <rec {label}> {{{}}}>", entries.join(" "))
}

/// A pattern within another.
fn part(random: &mut Random, depth: u32) -> String {
    match random.below(if depth == 0 { 7 } else { 11 }) {
        0..=2 => "<bind <_>>".to_owned(),
        3 => "<_>".to_owned(),
        4 | 5 => format!("<lit {}>", atom(random)),
        6 => format!("<bind <lit {}>>", atom(random)),
        7 => format!("<bind {}>", part(random, depth - 1)),
        8 => format!("<group <arr> {{0: {}}}>", part(random, depth - 1)),
        9 => format!("<group <dict> {{k: {}}}>", part(random, depth - 1)),
        _ => format!("<group <rec r> {{1: {}}}>", part(random, depth - 1)),
    }
}

/// A list of caveats that nobody else uses who has another `name`.
pub fn caveats(random: &mut Random, name: &str) -> String {
    let mut all = vec![format!("<reject <lit {name}>>")];
    for _ in 0..=random.below(2) {
        let at = random.below(all.len() as u64 + 1) as usize;
        all.insert(at, caveat(random, name));
    }
    all.join(" ")
}

fn caveat(random: &mut Random, name: &str) -> String {
    match random.below(12) {
        0..=4 => rewrite(random, name),
        5 => format!("<reject <rec a [<lit {}> <_>]>>", atom(random)),
        6 => "<reject <not <rec a [<_> <and [<not String> <_>]>]>>>".to_owned(),
        7 => "<reject <rec c [<_> <_> <_>]>>".to_owned(),
        8 => format!(
            "<reject <rec b [{}]>>",
            pick(random, &["SignedInteger", "Symbol", "Boolean", "Double", "ByteString"])
        ),
        // What is not known lets nothing pass.
        9 if random.below(4) == 0 => "<zork>".to_owned(),
        _ => {
            // With one alternative it would be that, to the reference.
            let count = 2 + random.below(2);
            let all: Vec<String> = (0..count).map(|_| rewrite(random, name)).collect();
            format!("<or [{}]>", all.join(" "))
        }
    }
}

fn rewrite(random: &mut Random, name: &str) -> String {
    let (pattern, template) = match random.below(8) {
        0 => ("<bind <_>>", "<rec w [<ref 0>]>"),
        1 => ("<bind <rec a [<_> <_>]>>", "<ref 0>"),
        2 => ("<rec a [<bind <_>> <bind <_>>]>", "<rec a [<ref 1> <ref 0>]>"),
        3 => ("<rec b [<bind SignedInteger>]>", "<arr [<lit x> <ref 0> <lit 0>]>"),
        4 => ("<dict {k: <bind <_>>}>", "<dict {k: <ref 0> j: <lit 1>}>"),
        5 => ("<arr [<bind <_>> <bind <bind <_>>>]>", "<rec b [<arr [<ref 2> <ref 0>]>]>"),
        6 => ("<bind <and [<rec Observe [<_> <_> String]> <_>]>>", "<ref 0>"),
        _ => {
            let attenuated = format!("<attenuate <ref 1> [<reject <lit given-by-{name}>>]>");
            return format!(
                "<rewrite <rec give [<bind <_>> <bind Embedded>]> <rec cap [<ref 0> {attenuated}]>>"
            );
        }
    };
    format!("<rewrite {pattern} {template}>")
}

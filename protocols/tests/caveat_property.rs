//! Caveats against their naive twin.

mod common;

use std::hash::{DefaultHasher, Hash, Hasher};

use common::tree::{Noise, Tree, capability, dictionary};
use common::twin::Caveat;
use common::{scanned, sequence};
use proptest::prelude::*;
use staunch_protocols::caveat::{Caveats, Outcome, Scratch};
use staunch_protocols::sturdy::{SturdyError, SturdyRef};

/// A name for an attenuated capability; some may not be attenuated.
fn attenuated(cap: &[u8], list: &[u8]) -> Option<Tree> {
    let mut hasher = DefaultHasher::new();
    (cap, list).hash(&mut hasher);
    let hash = hasher.finish();
    (!hash.is_multiple_of(8)).then(|| capability(hash))
}

/// A value with capabilities in it here and there.
fn value(noise: &mut Noise) -> Tree {
    match Tree::generate(noise, 3) {
        Tree::Sequence(mut items) => {
            if noise.one_in(3) {
                items.push(capability(noise.below(3) as u64));
            }
            Tree::Sequence(items)
        }
        Tree::Embedded(_) => capability(noise.below(3) as u64),
        // Keys whose total order is not that of their bytes.
        Tree::Bool(_) => {
            let entries = (0..6).map(|_| (Tree::generate(noise, 0), Tree::generate(noise, 0)));
            dictionary(entries.collect())
        }
        other => other,
    }
}

#[derive(Default)]
struct Tally {
    invalid: usize,
    unknown: usize,
    surplus: usize,
    unchanged: usize,
    rewritten: usize,
    dropped: usize,
    attenuations: usize,
}

fn check(mut noise: Noise, scratch: &mut Scratch, tally: &mut Tally) {
    let input = value(&mut noise);
    // Newest first, each made to fit what the newer ones let pass.
    let mut passing = Some(input.clone());
    let mut list = Vec::new();
    let by_twin = |cap: &Tree, list: &[Tree]| {
        let list: Vec<Vec<u8>> = list.iter().map(Tree::canonical).collect();
        attenuated(&cap.canonical(), &sequence(&list))
    };
    for _ in 0..1 + noise.below(4) {
        let tree = Caveat::generate(&mut noise, passing.as_ref().unwrap_or(&input), 3);
        let caveat = Caveat::parse(&tree);
        if caveat.is_valid() {
            passing = passing.and_then(|value| caveat.apply(&value, &by_twin));
        }
        list.insert(0, (tree, caveat));
    }
    let trees: Vec<Tree> = list.iter().map(|(tree, _)| tree.clone()).collect();
    let written: Vec<Vec<u8>> = trees.iter().map(Tree::canonical).collect();
    let source = sequence(&written);
    // Something else stands between them.
    let spread: Vec<Vec<u8>> = written
        .iter()
        .flat_map(|caveat| [Tree::generate(&mut noise, 1).canonical(), caveat.clone()])
        .collect();
    let spread = sequence(&spread);
    let scanner = scanned(&spread);
    let compiled = Caveats::compile(scanner.view(&spread).children().skip(1).step_by(2));

    // What a gatekeeper would say.
    let mut sturdy = SturdyRef::mint(b"\x80", b"");
    written.iter().for_each(|caveat| sturdy = sturdy.attenuate(caveat));
    let mut parameters = Vec::new();
    sturdy.write_parameters(&mut parameters);
    let read = SturdyRef::read_parameters(scanned(&parameters).view(&parameters));
    let has_surplus = list.iter().any(|(tree, caveat)| caveat.to_tree() != *tree);
    let has_capability = trees.iter().any(Tree::holds_capability);
    let is_valid = list.iter().all(|(_, caveat)| caveat.is_valid());
    tally.surplus += has_surplus as usize;
    tally.unknown += list.iter().any(|(_, caveat)| matches!(caveat, Caveat::Unknown(_))) as usize;
    if has_surplus || has_capability || !is_valid {
        assert_eq!(read, Err(SturdyError::FailedValidation), "{trees:?}");
    } else {
        assert_eq!(read, Ok(sturdy), "{trees:?}");
    }

    assert_eq!(compiled.is_ok(), is_valid, "{trees:?} {compiled:?}");
    let Ok(compiled) = compiled else {
        tally.invalid += 1;
        return;
    };
    assert_eq!(compiled.source(), source);
    let bytes = input.canonical();
    // As a part of something larger, at an offset.
    let inside = sequence(&[bytes.clone(), bytes.clone(), source.clone()]);
    let whole = scanned(&inside);
    let view = whole.view(&inside).index(1).unwrap();
    let split = noise.below(written.len() + 1);
    let compile = |list: &[Vec<u8>]| {
        let source = sequence(list);
        Caveats::compile(scanned(&source).view(&source).children()).unwrap()
    };
    let joined = compile(&written[..split]).and_then(&compile(&written[split..])).unwrap();
    assert_eq!(joined, compiled);
    assert_eq!(joined.digest(), compiled.digest());
    assert_eq!(joined.source(), source);
    let mut attenuations = 0;
    for caveats in [&compiled, &joined] {
        let outcome = caveats.apply(view, scratch, &mut |cap, list| {
            attenuations += 1;
            attenuated(cap, &list.source()).map(|cap| cap.canonical())
        });
        let output = match outcome {
            Outcome::Unchanged => Some(input.clone()),
            Outcome::Rewritten => {
                assert_eq!(scratch.view().span(), scratch.output());
                Some(Tree::read(scratch.view()))
            }
            Outcome::Dropped => None,
        };
        assert_eq!(output, passing, "{input:?} {trees:?}");
        match outcome {
            Outcome::Unchanged => tally.unchanged += 1,
            Outcome::Rewritten => {
                assert_eq!(scratch.output(), passing.as_ref().unwrap().canonical());
                tally.rewritten += 1;
            }
            Outcome::Dropped => tally.dropped += 1,
        }
    }
    tally.attenuations += attenuations;
}

#[test]
fn caveats_do_what_their_twin_does() {
    let config = ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() };
    let cases = config.cases as usize;
    let tally = std::cell::RefCell::new(Tally::default());
    let scratch = std::cell::RefCell::new(Scratch::new(1 << 24));
    let mut runner = proptest::test_runner::TestRunner::new(config);
    runner
        .run(&Noise::any(400), |noise| {
            check(noise, &mut scratch.borrow_mut(), &mut tally.borrow_mut());
            Ok(())
        })
        .unwrap();
    // The generator must reach everything often enough to mean something.
    let tally = tally.into_inner();
    let counts = [
        tally.invalid,
        tally.unknown,
        tally.surplus,
        tally.unchanged,
        tally.rewritten,
        tally.dropped,
        tally.attenuations,
    ];
    println!("{counts:?} of {cases}");
    assert!(counts.iter().all(|count| *count > cases / 100), "{counts:?} of {cases}");
}

use staunch_protocols::wire::{Limits, Scanner, encode, tag};

use super::*;
use crate::pattern::Class;
use crate::value::tests::Plug;

/// A trie of patterns that each look at one element of a sequence, and want a sequence there.
fn trie(count: u32) -> Trie<Plug> {
    let mut trie: Trie<Plug> = Trie::default();
    for i in 0..count {
        let element = Loc::Child { register: 0, step: Step::Index(i) };
        let pattern = Pattern {
            shape: vec![(Loc::Root, Class::Arr), (element, Class::Arr)],
            constants: Vec::new(),
            captures: Vec::new(),
            required: Vec::new(),
            is_impossible: false,
        };
        assert!(trie.reserve::<()>(&pattern, 1, &(), |_| Ok(())).is_ok());
    }
    trie
}

/// Walks a sequence of so many empty sequences: places visited, and children looked at.
fn walk(trie: &Trie<Plug>, length: usize) -> (u64, u64) {
    let mut bytes = vec![tag::SEQUENCE];
    (0..length).for_each(|_| bytes.extend_from_slice(&[tag::SEQUENCE, tag::END]));
    encode::end(&mut bytes);
    let mut scanner = Scanner::new(Limits::default());
    scanner.scan(&bytes).unwrap();
    let mut walk = Walk::default();
    let mut visited = 0;
    trie.walk(scanner.view(&bytes), &mut walk, |_, registers, _| {
        assert_eq!(registers.len(), 2);
        visited += 1;
    });
    (visited, walk.finder.steps)
}

#[test]
fn skeletons_that_look_at_one_sequence_share_one_pass_over_it() {
    let trie = trie(2000);
    for length in [0, 1, 3, 100, 2000, 3000] {
        let (visited, steps) = walk(&trie, length);
        assert_eq!(visited, length.min(2000) as u64);
        assert!(steps <= 2 * length as u64 + 40, "{steps} steps for {length} elements");
    }
}

#[test]
fn nothing_is_left_of_patterns_that_go() {
    let mut trie = trie(0);
    let groups: Vec<_> = (0..300)
        .map(|i| {
            let element = Loc::Child { register: 0, step: Step::Index(i % 30) };
            let pattern = Pattern {
                shape: vec![(Loc::Root, Class::Rec([i as u8 % 7].into()))],
                constants: vec![(element, [i as u8].into())],
                captures: vec![Loc::Root],
                required: Vec::new(),
                is_impossible: i % 2 == 0,
            };
            trie.reserve::<()>(&pattern, u64::from(i % 3), &(), |_| Ok(())).unwrap()
        })
        .collect();
    assert!(trie.skeletons() > 100);
    for (group, i) in groups.iter().zip(0..) {
        trie.leave(group, None, (i % 3, &()));
    }
    assert_eq!(trie.usage(), Usage::default());
    assert!(trie.nodes[0].edges.is_empty() && trie.skeletons.is_empty());
}

//! Bags that are divided as they grow.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use common::tree::{Tree, dictionary, rec};
use common::{Event, Pays, Plug, Recorder, To, list, scanned, twin};
use staunch_index::pattern::Pattern;
use staunch_index::{Action, Index, Scratch, Stored, Usage};

const COUNT: i128 = 3000;

fn first_of_sequences() -> Tree {
    let bind = rec("bind", vec![rec("_", vec![])]);
    rec("group", vec![rec("arr", vec![]), dictionary(vec![(Tree::Int(0), bind)])])
}

fn observe(index: &Index<Plug>, number: u64, payer: &Pays, recorder: &mut Recorder) -> Stored<Plug> {
    let mut scratch = Scratch::default();
    let bytes = twin::observe_of(first_of_sequences(), number).canonical();
    let scanner = scanned(&bytes);
    let value = scanner.view(&bytes);
    let (pattern, _) = Pattern::of_observe(value).unwrap();
    let prepared = index.prepare::<()>(&pattern, number, payer.clone(), |_| Ok(Arc::default())).unwrap();
    while !index.advance(&prepared, 100, &mut scratch).unwrap() {}
    let to = To { observer: number, domain: number };
    let assert = Action::Assert { value, extra: None, observe: Some((prepared, to)) };
    let mut placed = Vec::new();
    index.write().commit(Some(payer.number), &mut [assert], &mut placed, &mut scratch, recorder);
    placed.pop().unwrap()
}

fn assert(index: &Index<Plug>, value: &Tree, recorder: &mut Recorder) -> Stored<Plug> {
    let bytes = value.canonical();
    let scanner = scanned(&bytes);
    let mut placed = Vec::new();
    let assert = Action::Assert { value: scanner.view(&bytes), extra: None, observe: None };
    index.read().commit(&mut [assert], &mut placed, &mut Scratch::default(), recorder);
    placed.pop().unwrap()
}

fn retract(index: &Index<Plug>, stored: Stored<Plug>, recorder: &mut Recorder) {
    let retract = &mut [Action::Retract(stored)];
    index.write().commit(Some(1), retract, &mut Vec::new(), &mut Scratch::default(), recorder);
}

/// What an observer holds after these events.
fn held(recorder: &Recorder, observer: u64) -> BTreeMap<u64, Vec<u8>> {
    let mut held = BTreeMap::new();
    for (_, event) in recorder.events.iter().filter(|(to, _)| *to == observer) {
        match event {
            Event::Assert(handle, list) => assert_eq!(held.insert(*handle, list.clone()), None),
            Event::Retract(handle, list) => assert_eq!(held.remove(handle).as_ref(), Some(list)),
            _ => {}
        }
    }
    held
}

/// Each list is given by two values, of which some come before the bag is divided and some after; it is told of once.
/// It is paid for once, too.
#[test]
fn lists_stay_what_they_are_when_their_bag_is_divided() {
    let mut paid = Vec::new();
    for lists in [usize::MAX, 1000] {
        let index: Index<Plug> = Index::new(Arc::new(AtomicU64::new(1))).with_stripes(u32::MAX, lists);
        let payer = Pays { number: 1, ..Pays::default() };
        let mut recorder = Recorder::default();
        let observed = observe(&index, 1, &payer, &mut recorder);
        let value = |n, which| Tree::Sequence(vec![Tree::Int(n), Tree::Int(which)]);
        let first: Vec<_> = (0..COUNT).map(|n| assert(&index, &value(n, 0), &mut recorder)).collect();
        paid.push(payer.lists());
        let again: Vec<_> = (0..COUNT).map(|n| assert(&index, &value(n, 1), &mut recorder)).collect();
        let told = held(&recorder, 1);
        assert_eq!(told.len(), COUNT as usize);
        first.into_iter().for_each(|stored| retract(&index, stored, &mut recorder));
        assert_eq!(held(&recorder, 1), told);
        assert_eq!(index.usage().lists, COUNT as usize);
        // Another, who is told piece by piece, and meanwhile of what goes.
        let late = observe(&index, 2, &payer, &mut recorder);
        let (_, replay) = recorder.replays.pop().unwrap();
        let mut pulled = 0;
        let mut pull = |recorder: &mut Recorder, events: u32| {
            replay.pull(events, &mut Scratch::default(), &mut |handle, _, captures| {
                recorder.events.push((2, Event::Assert(handle, list(captures))));
                pulled += 1;
                true
            })
        };
        assert!(pull(&mut recorder, COUNT as u32 / 2));
        again.into_iter().step_by(2).for_each(|stored| retract(&index, stored, &mut recorder));
        while pull(&mut recorder, 100) {}
        assert!(pulled < COUNT, "what went before it was told is not told");
        assert_eq!((held(&recorder, 2), COUNT as usize / 2), (held(&recorder, 1), held(&recorder, 1).len()));
        [late, observed].into_iter().for_each(|stored| retract(&index, stored, &mut recorder));
        assert!(held(&recorder, 2).is_empty() && held(&recorder, 1).is_empty());
        drop(replay);
        assert_eq!(payer.lists(), 0);
        assert_eq!(index.usage(), Usage { assertions: COUNT as usize / 2, ..Usage::default() });
    }
    // Each stripe weighs as 8 lists, and is paid ahead a little.
    assert!(paid[1] < paid[0] + 16 * 35, "{paid:?}");
}

//! Who waits for whom, for good: which sessions cannot go on unless another does that cannot either.
//!
//! A session that is held back waits for those who hold what it owes, and for room with those whose outboxes are above
//! their ceilings. If what it owes *among sessions that are stuck* keeps it above its resume level, nobody else can help
//! it. Those of which that is so are found by leaving out, one after the other, each of which it is not so. Every one
//! that is left waits for another that is left, so following whom each waits for most leads into a cycle.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use crate::relay::Session;

/// Runs and pieces of an outbox that are looked at.
pub(super) const PIECES_MAX: usize = 1024;

/// Sessions of which each waits for the next, and the last for the first. The one with the smallest number is the
/// first.
#[derive(Clone, Debug)]
pub(crate) struct Cycle {
    /// Numbers and names.
    pub(crate) members: Vec<(u64, Arc<str>)>,
    /// Since when all of them are held back, by the scheduler's clock.
    pub(crate) since_ns: u64,
}

impl PartialEq for Cycle {
    fn eq(&self, other: &Cycle) -> bool {
        let ids = |cycle: &Cycle| cycle.members.iter().map(|(id, _)| *id).collect::<Vec<_>>();
        self.since_ns == other.since_ns && ids(self) == ids(other)
    }
}

impl fmt::Display for Cycle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// So many are named.
        const NAMED_MAX: usize = 8;
        for (id, name) in self.members.iter().take(NAMED_MAX) {
            write!(f, "{name} ({id}) waits for ")?;
        }
        match (self.members.len(), self.members.first()) {
            (1, _) => write!(f, "itself"),
            (count, Some((id, name))) if count <= NAMED_MAX => write!(f, "{name} ({id})"),
            (count, _) => write!(f, "{} more", count - NAMED_MAX),
        }
    }
}

/// What one waits for another for.
#[derive(Clone, Copy, Debug)]
struct Wait {
    /// By their places.
    waiter: usize,
    holder: usize,
    /// What the holder has of the waiter's.
    units: u64,
    /// The waiter waits for room with the holder.
    is_for_room: bool,
}

/// The cycles among sessions that are held back and whose peers read nothing.
pub(super) fn cycles(stuck: &[Arc<Session>]) -> Vec<Cycle> {
    let places: HashMap<u64, usize> = stuck.iter().enumerate().map(|(at, s)| (s.id(), at)).collect();
    let mut waits = Vec::new();
    for (holder, session) in stuck.iter().enumerate() {
        for debtor in session.outbox().debtors(PIECES_MAX).each {
            if let Some(waiter) = places.get(&debtor.account.id()) {
                waits.push(Wait { waiter: *waiter, holder, units: debtor.units, is_for_room: false });
            }
        }
        for waiter in session.outbox().awaited_by() {
            if let Some(waiter) = places.get(&waiter) {
                waits.push(Wait { waiter: *waiter, holder, units: 0, is_for_room: true });
            }
        }
    }
    let levels: Vec<u64> = stuck.iter().map(|session| session.account().resume_level()).collect();
    let cycle_of = |members: Vec<usize>| {
        let since = members.iter().filter_map(|at| stuck[*at].meter().throttle());
        Cycle {
            since_ns: since.map(|throttle| throttle.since_ns).max().unwrap_or(0),
            members: members.iter().map(|at| (stuck[*at].id(), stuck[*at].account().name().into())).collect(),
        }
    };
    let mut found: Vec<Cycle> = find(&levels, &waits).into_iter().map(cycle_of).collect();
    for cycle in &mut found {
        let first = (0..cycle.members.len()).min_by_key(|at| cycle.members[*at].0).unwrap_or(0);
        cycle.members.rotate_left(first);
    }
    found.sort_by_key(|cycle| cycle.members.first().map(|(id, _)| *id));
    found
}

/// The cycles among those who are for ever stuck: each goes on when what the others hold of it is down to its level, and
/// it waits for no room. *Cost*: the number of waits.
fn find(levels: &[u64], waits: &[Wait]) -> Vec<Vec<usize>> {
    let mut held = vec![0_u64; levels.len()];
    let mut rooms = vec![0_usize; levels.len()];
    let mut by_holder: Vec<Vec<usize>> = vec![Vec::new(); levels.len()];
    for (number, wait) in waits.iter().enumerate() {
        held[wait.waiter] += wait.units;
        rooms[wait.waiter] += usize::from(wait.is_for_room);
        by_holder[wait.holder].push(number);
    }
    let mut is_stuck = vec![true; levels.len()];
    let mut unsure: Vec<usize> = (0..levels.len()).collect();
    while let Some(at) = unsure.pop() {
        if !is_stuck[at] || held[at] > levels[at] || rooms[at] > 0 {
            continue;
        }
        is_stuck[at] = false;
        for wait in by_holder[at].iter().map(|number| &waits[*number]) {
            held[wait.waiter] -= wait.units;
            rooms[wait.waiter] -= usize::from(wait.is_for_room);
            unsure.push(wait.waiter);
        }
    }
    let mut most: Vec<Option<&Wait>> = vec![None; levels.len()];
    for wait in waits.iter().filter(|wait| is_stuck[wait.waiter] && is_stuck[wait.holder]) {
        if most[wait.waiter].is_none_or(|known| known.units < wait.units) {
            most[wait.waiter] = Some(wait);
        }
    }
    follow(&most.iter().map(|wait| wait.map(|wait| wait.holder)).collect::<Vec<_>>())
}

/// The cycles that following leads into, each once.
fn follow(next: &[Option<usize>]) -> Vec<Vec<usize>> {
    // In which walk each was come by; 0 for none.
    let mut walked = vec![0; next.len()];
    let mut cycles = Vec::new();
    for start in 0..next.len() {
        let (walk, mut at) = (start + 1, start);
        while walked[at] == 0
            && let Some(to) = next[at]
        {
            walked[at] = walk;
            at = to;
        }
        if walked[at] != walk {
            continue;
        }
        let mut cycle = vec![at];
        let mut to = next[at];
        while let Some(member) = to.filter(|member| *member != at) {
            cycle.push(member);
            to = next[member];
        }
        cycles.push(cycle);
    }
    cycles
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waits written as (waiter, holder, units); each goes on at 10.
    fn check(count: usize, waits: &[(usize, usize, u64)], expected: &[&[usize]]) {
        let wait = |&(waiter, holder, units)| Wait { waiter, holder, units, is_for_room: units == 0 };
        let waits: Vec<Wait> = waits.iter().map(wait).collect();
        let mut found = find(&vec![10; count], &waits);
        for cycle in &mut found {
            let first = (0..cycle.len()).min_by_key(|at| cycle[*at]).unwrap();
            cycle.rotate_left(first);
        }
        found.sort();
        assert_eq!(found, expected, "{waits:?}");
    }

    #[test]
    fn cycles_are_found_and_nothing_else() {
        check(0, &[], &[]);
        check(2, &[(0, 1, 20), (1, 0, 20)], &[&[0, 1]]);
        check(1, &[(0, 0, 11)], &[&[0]]);
        check(3, &[(0, 1, 20), (1, 2, 20), (2, 0, 20)], &[&[0, 1, 2]]);
        // Who only waits for a cycle is not in it.
        check(3, &[(0, 1, 20), (1, 0, 20), (2, 0, 20)], &[&[0, 1]]);
        // A chain has an end, who goes on when its own holder reads.
        check(3, &[(0, 1, 20), (1, 2, 20)], &[]);
        // What the other holds is not what keeps it back.
        check(2, &[(0, 1, 20), (1, 0, 10)], &[]);
        // ... but several may together.
        check(3, &[(0, 1, 6), (0, 2, 7), (1, 0, 20), (2, 0, 20)], &[&[0, 2]]);
        // One that can go on frees another.
        check(4, &[(0, 1, 20), (1, 0, 6), (1, 2, 6), (2, 3, 20)], &[]);
        // Room is waited for, whatever is owed.
        check(2, &[(0, 1, 0), (1, 0, 0)], &[&[0, 1]]);
        check(2, &[(0, 1, 0), (1, 0, 3)], &[]);
        check(4, &[(0, 1, 20), (1, 0, 20), (2, 3, 20), (3, 2, 20)], &[&[0, 1], &[2, 3]]);
    }

    #[test]
    fn a_cycle_is_told_in_words() {
        let cycle = |count: u64| {
            let members = (1..=count).map(|id| (id, Arc::from(format!("n{id}")))).collect();
            Cycle { members, since_ns: 0 }.to_string()
        };
        assert_eq!(cycle(1), "n1 (1) waits for itself");
        assert_eq!(cycle(2), "n1 (1) waits for n2 (2) waits for n1 (1)");
        assert!(cycle(9).ends_with("n8 (8) waits for 1 more"));
    }
}

//! Are two brokers' outputs the same, but for oids, handles and the split into turns?
//!
//! What a retraction retracts stands in for its handle. Capabilities of the brokers' have oids of their choice, so each
//! session has a pairing of one broker's oids with the other's. It grows as capabilities come: from where they stand in
//! what came, and never changes. So a capability that comes again is the same one for both, and one that was given back
//! and comes again is another one for both; but for one that is given back and comes again in one step.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::common::{Event, bytes};
use staunch_protocols::text as syntax;
use staunch_protocols::wire::{Limits, Scanner};

/// An event as it was seen, without what brokers choose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// `A`, `R` or `M`.
    pub kind: char,
    /// The value, or what is retracted; `%` stands for the broker's oids.
    pub body: String,
    /// The broker's oids, in order.
    pub oids: Vec<i64>,
}

/// What a session was told, by its entity.
pub type Told = BTreeMap<i64, Vec<Seen>>;

/// What one broker has told one session.
#[derive(Default)]
pub struct Ledger {
    live: HashMap<i64, (i64, Seen)>,
    /// How often the live ones refer to each of the broker's oids.
    counts: HashMap<i64, usize>,
    /// To which nothing referred any more at some time while what came last was sorted.
    pub released: BTreeSet<i64>,
}

impl Ledger {
    /// Sorts what came.
    ///
    /// # Errors
    /// If it is nothing that any broker may say.
    pub fn take(&mut self, events: &[Event]) -> Result<Told, String> {
        let mut told = Told::new();
        self.released.clear();
        for event in events {
            let seen = match event.kind {
                'A' => {
                    let (body, oids) = split(&event.body);
                    oids.iter().for_each(|oid| *self.counts.entry(*oid).or_default() += 1);
                    let seen = Seen { kind: 'A', body, oids };
                    if let Some(known) = self.live.insert(event.handle, (event.oid, seen.clone())) {
                        return Err(format!("{event:?} has the handle of {known:?}"));
                    }
                    seen
                }
                'R' => match self.live.remove(&event.handle) {
                    Some((oid, seen)) if oid == event.oid => {
                        self.release(&seen.oids);
                        Seen { kind: 'R', ..seen }
                    }
                    other => return Err(format!("{event:?} retracts {other:?}")),
                },
                kind => {
                    let (body, oids) = split(&event.body);
                    Seen { kind, body, oids }
                }
            };
            told.entry(event.oid).or_default().push(seen);
        }
        Ok(told)
    }

    fn release(&mut self, oids: &[i64]) {
        for oid in oids {
            let count = self.counts.get_mut(oid).expect("it was counted");
            *count -= 1;
            if *count == 0 {
                self.counts.remove(oid);
                self.released.insert(*oid);
            }
        }
    }

    /// What is alive.
    pub fn live(&self) -> impl Iterator<Item = &Seen> {
        self.live.values().map(|(_, seen)| seen)
    }
}

/// A body in canonical form, its broker's oids apart.
fn split(body: &str) -> (String, Vec<i64>) {
    const MINE: &str = "#:[0, ";
    let (canonical, mut scanner) = (bytes(body), Scanner::new(Limits::default()));
    scanner.scan(&canonical).expect("it was a value");
    let mut body = String::new();
    syntax::write(scanner.view(&canonical), &mut body, usize::MAX);
    let (mut out, mut oids, mut rest) = (String::new(), Vec::new(), body.as_str());
    while let Some((before, after)) = rest.split_once(MINE) {
        let (oid, after) = after.split_once(']').expect("a reference ends");
        out += before;
        out += "#:%";
        oids.push(oid.parse().expect("an oid is a number"));
        rest = after;
    }
    (out + rest, oids)
}

/// Which oid of one broker's is which of the other's, in one session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pairing {
    forth: BTreeMap<i64, i64>,
    back: BTreeMap<i64, i64>,
    /// Oids of the first broker's that were given back in this step: what comes again has another one there, while at the
    /// second it keeps its oid to the end of the turn.
    pub released: BTreeSet<i64>,
}

impl Pairing {
    /// The gatekeeper and the dataspace.
    pub fn new() -> Pairing {
        let same = BTreeMap::from([(0, 0), (1, 1)]);
        Pairing { forth: same.clone(), back: same, released: BTreeSet::new() }
    }

    /// The second broker's oid for what is `oid` at the first.
    pub fn other(&self, oid: i64) -> i64 {
        self.forth.get(&oid).copied().unwrap_or(oid)
    }

    /// Takes two lists of oids for the same; changes nothing if they are not.
    fn pair(&mut self, one: &[i64], two: &[i64]) -> bool {
        let before = self.clone();
        let is_same = one.len() == two.len()
            && one.iter().zip(two).all(|(one, two)| {
                let forth = *self.forth.entry(*one).or_insert(*two);
                let back = self.back.entry(*two).or_insert(*one);
                if self.released.contains(back) && forth == *two {
                    *back = *one;
                }
                forth == *two && (*back == *one || self.released.contains(one))
            });
        if !is_same {
            *self = before;
        }
        is_same
    }

    fn knows_all(&self, oids: &[i64]) -> bool {
        oids.iter().all(|oid| self.forth.contains_key(oid))
    }
}

/// What a comparison has found that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The same.
    Same,
    /// The same, but new capabilities came of which it cannot be told which is which.
    Ambiguous,
}

/// What came at one entity of a session's, from either broker.
type Pool = (i64, Vec<Seen>, Vec<Seen>);

/// Compares what two brokers told a session; `in_order` says whether at this entity of the session's the order counts.
///
/// # Errors
/// If they differ: where.
pub fn compare(
    one: &Told,
    two: &Told,
    pairing: &mut Pairing,
    in_order: impl Fn(i64) -> bool,
) -> Result<Verdict, String> {
    let mut pools: Vec<Pool> = Vec::new();
    let none = Vec::new();
    let all: BTreeSet<i64> = one.keys().chain(two.keys()).copied().collect();
    for oid in all {
        let (one, two) = (one.get(&oid).unwrap_or(&none), two.get(&oid).unwrap_or(&none));
        if one.len() != two.len() {
            return Err(format!("at its {oid} came {} events and {}", one.len(), two.len()));
        }
        if !in_order(oid) {
            pools.push((oid, one.clone(), two.clone()));
            continue;
        }
        for (one, two) in one.iter().zip(two) {
            if (one.kind, &one.body) != (two.kind, &two.body) || !pairing.pair(&one.oids, &two.oids) {
                return Err(format!("at its {oid} came {one:?} and {two:?}"));
            }
        }
    }
    for (oid, one, two) in &mut pools {
        strike_known(*oid, one, two, pairing)?;
    }
    match_rest(&pools, pairing)
}

/// Strikes what refers to nothing new.
fn strike_known(
    oid: i64,
    one: &mut Vec<Seen>,
    two: &mut Vec<Seen>,
    pairing: &mut Pairing,
) -> Result<(), String> {
    let mut rest = Vec::new();
    for seen in one.drain(..) {
        if !pairing.knows_all(&seen.oids) {
            rest.push(seen);
            continue;
        }
        let at = two.iter().position(|other| {
            (other.kind, &other.body) == (seen.kind, &seen.body)
                && pairing.clone().pair(&seen.oids, &other.oids)
        });
        match at {
            Some(at) => drop(two.remove(at)),
            None => return Err(format!("at its {oid} came {seen:?}, and nothing like it among {two:?}")),
        }
    }
    *one = rest;
    Ok(())
}

/// The search for pairings under which what is left is the same.
struct Search {
    one: Vec<(i64, Seen)>,
    two: Vec<(i64, Seen)>,
    is_taken: Vec<bool>,
    found: Vec<Pairing>,
    steps_left: u32,
}

impl Search {
    fn go(&mut self, at: usize, pairing: &Pairing) {
        let Some((oid, seen)) = self.one.get(at).cloned() else {
            if !self.found.contains(pairing) {
                self.found.push(pairing.clone());
            }
            return;
        };
        for other in 0..self.two.len() {
            if self.found.len() == 2 || self.steps_left == 0 {
                return;
            }
            let (its_oid, candidate) = &self.two[other];
            let is_alike = (*its_oid, candidate.kind, &candidate.body) == (oid, seen.kind, &seen.body);
            let mut further = pairing.clone();
            if self.is_taken[other] || !is_alike || !further.pair(&seen.oids, &candidate.oids) {
                continue;
            }
            self.steps_left -= 1;
            self.is_taken[other] = true;
            self.go(at + 1, &further);
            self.is_taken[other] = false;
        }
    }
}

fn match_rest(pools: &[Pool], pairing: &mut Pairing) -> Result<Verdict, String> {
    const STEPS_MAX: u32 = 20_000;
    let flat = |choose: fn(&Pool) -> &Vec<Seen>| -> Vec<(i64, Seen)> {
        pools.iter().flat_map(|pool| choose(pool).iter().map(|seen| (pool.0, seen.clone()))).collect()
    };
    let (one, two) = (flat(|pool| &pool.1), flat(|pool| &pool.2));
    let mut search =
        Search { is_taken: vec![false; two.len()], one, two, found: Vec::new(), steps_left: STEPS_MAX };
    search.go(0, pairing);
    match &search.found[..] {
        [] => Err(format!(
            "no pairing of new oids makes these the same:\n  {:?}\n  {:?}",
            search.one, search.two
        )),
        [only] => {
            pairing.clone_from(only);
            Ok(Verdict::Same)
        }
        _ => Ok(Verdict::Ambiguous),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(events: &[(&str, &[i64])]) -> Told {
        let seen =
            |(body, oids): &(&str, &[i64])| Seen { kind: 'A', body: (*body).to_owned(), oids: oids.to_vec() };
        Told::from([(7, events.iter().map(seen).collect())])
    }

    #[test]
    fn oids_are_paired_once_and_for_all() {
        let mut pairing = Pairing::new();
        let (one, two) = (told(&[("x", &[5]), ("y", &[6])]), told(&[("y", &[3]), ("x", &[4])]));
        assert!(compare(&one, &two, &mut pairing.clone(), |_| true).is_err(), "in order they differ");
        assert_eq!(compare(&one, &two, &mut pairing, |_| false), Ok(Verdict::Same));
        assert_eq!((pairing.other(5), pairing.other(6)), (4, 3));
        assert!(compare(&told(&[("x", &[5])]), &told(&[("x", &[9])]), &mut pairing, |_| false).is_err());
        assert!(compare(&told(&[("x", &[8])]), &told(&[("x", &[4])]), &mut pairing, |_| true).is_err());
    }

    #[test]
    fn one_that_is_given_back_and_comes_again_may_keep_its_oid_at_the_second() {
        let mut pairing = Pairing::new();
        let compared = |one: &[i64], two: &[i64], pairing: &mut Pairing| {
            compare(&told(&[("x", one)]), &told(&[("x", two)]), pairing, |_| true)
        };
        assert_eq!(compared(&[5], &[4], &mut pairing), Ok(Verdict::Same));
        assert!(compared(&[6], &[4], &mut pairing).is_err());
        pairing.released.insert(5);
        assert_eq!(compared(&[6], &[4], &mut pairing), Ok(Verdict::Same));
        assert_eq!(compared(&[5], &[4], &mut pairing), Ok(Verdict::Same));
        pairing.released.clear();
        assert_eq!(compared(&[6], &[4], &mut pairing), Ok(Verdict::Same));
        assert!(compared(&[5], &[4], &mut pairing).is_err());
    }

    #[test]
    fn what_cannot_be_told_apart_is_said_to_be_ambiguous() {
        let mut pairing = Pairing::new();
        let (one, two) = (told(&[("x", &[5]), ("x", &[6])]), told(&[("x", &[3]), ("x", &[4])]));
        assert_eq!(compare(&one, &two, &mut pairing, |_| false), Ok(Verdict::Ambiguous));
        let two = told(&[("x", &[3]), ("x", &[3])]);
        assert!(compare(&one, &two, &mut pairing, |_| false).is_err(), "two are not one");
    }
}

//! What sessions do, at random, knowing what they have been told; see `foreign_differential.rs` for what they avoid.

use std::collections::{BTreeMap, BTreeSet};

use super::common::Random;
use super::compare::{Told, Verdict};
use super::play::{ANSWERS, Actor, Play};
use super::values;

const SESSIONS: u64 = 3;
const STEPS: u64 = 50;
/// From here on, a session's observers have the patterns of the history's pool, one each.
const OBSERVERS: i64 = 100;
/// A session's observer of any pattern.
const SHARED: i64 = 99;
/// A session's entities that it hands out.
const ENTITIES: i64 = 50;
const STURDYREF: &str = r#"<ref {oid: "syndicate" sig: #[acowDB2/oI+6aSEC3YIxGg==]}>"#;

/// Which kinds of things happen in a history.
struct Features {
    /// Capabilities are given on, attenuated.
    attenuates: bool,
    /// Events go to others' entities, which observe as well. There is no order then between two ways to one entity.
    roams: bool,
    /// The dataspace observes itself, through caveats.
    echoes: bool,
    /// Messages carry the capability that everybody has: the dataspace.
    sends_capabilities: bool,
}

/// What a session has asserted.
struct Mine {
    handle: i64,
    event: String,
    is_observe: bool,
    /// The broker's capabilities that it keeps alive.
    holds: Vec<i64>,
}

impl Mine {
    /// Whether it asks the gatekeeper.
    fn is_question(&self) -> bool {
        self.event.starts_with("[0 ")
    }
}

#[derive(Default)]
struct Session {
    name: u64,
    mine: Vec<Mine>,
    next_handle: i64,
    /// How it has attenuated what, so that it does the same again at times.
    attenuated: Vec<String>,
}

/// A capability that a session has been told of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Of an entity that its owner does not take back.
    Kept,
    /// The like, attenuated by another session: not to be passed on.
    Attenuated,
    /// The dataspace, attenuated by another session: not to be passed on, and observing nothing, since it might tell
    /// itself of what it tells itself for ever.
    Dataspace,
    /// Any other.
    Loose,
}

/// A turn that is being made.
#[derive(Default)]
struct Turn {
    text: String,
    /// Capabilities that it may give up, and so does not use.
    gives_up: BTreeSet<i64>,
    retracts_observe: bool,
    observes: bool,
    /// What the gatekeeper will have to say to it.
    answers: usize,
}

impl Turn {
    /// Whether the session may come to know some capability no more.
    fn gives_up_some(&self) -> bool {
        self.retracts_observe || !self.gives_up.is_empty()
    }
}

/// See the module's head.
pub struct History<'p, 's> {
    play: &'p mut Play<'s>,
    random: Random,
    features: Features,
    sessions: Vec<Session>,
    patterns: Vec<String>,
    names: u64,
}

impl<'p, 's> History<'p, 's> {
    /// One that begins with empty brokers.
    pub fn new(play: &'p mut Play<'s>, mut random: Random) -> Self {
        let mut chance = |n: u64| random.below(n) == 0;
        let (attenuates, roams) = (chance(2), chance(2));
        let features =
            Features { attenuates, roams, echoes: chance(3), sends_capabilities: !attenuates && chance(2) };
        let patterns = (0..8).map(|_| pattern(&mut random, &features)).collect();
        History { play, random, features, sessions: Vec::new(), patterns, names: 0 }
    }

    /// Goes on to the end, or until it cannot be told any more which capability is which.
    ///
    /// # Errors
    /// If the brokers differ: how.
    pub fn run(mut self) -> Result<Verdict, String> {
        for place in 0..SESSIONS as usize {
            self.enter(place)?;
        }
        for _ in 0..STEPS {
            if self.step()? == Verdict::Ambiguous {
                return Ok(Verdict::Ambiguous);
            }
        }
        Ok(Verdict::Same)
    }

    fn chance(&mut self, n: u64) -> bool {
        self.random.below(n) == 0
    }

    fn below(&mut self, end: usize) -> usize {
        self.random.below(end as u64) as usize
    }

    /// A session enters and hands out its entities, for as long as it lives.
    fn enter(&mut self, place: usize) -> Result<Verdict, String> {
        self.names += 1;
        let name = self.names;
        self.sessions.insert(place, Session { name, next_handle: 10, ..Session::default() });
        self.play.enter(place, name);
        let pins =
            (0..2).map(|n| format!("[1 <A <cap \"e{n} of {name}\" #:[0 {}]> {}>]", ENTITIES + n, 3 + n));
        let pins: String = pins.collect();
        self.play.turn(place, &pins);
        self.play.check(Some(Actor { place, answers: 0 }), |_, _| false)
    }

    fn step(&mut self) -> Result<Verdict, String> {
        let place = self.below(self.sessions.len());
        if self.chance(40) {
            self.play.kill(place);
            self.sessions.remove(place);
            // What they are told of the end comes in any order.
            if self.play.check(None, |_, _| false)? == Verdict::Ambiguous {
                return Ok(Verdict::Ambiguous);
            }
            return self.enter(place);
        }
        let turn = self.turn(place);
        self.play.turn(place, &turn.text);
        let is_ordered = !self.features.roams && !self.features.echoes && !turn.retracts_observe;
        let is_plain = |told: &Told, oid: i64| {
            told.get(&oid).is_none_or(|told| told.iter().all(|seen| !seen.body.contains("#:")))
        };
        self.play.check(Some(Actor { place, answers: turn.answers }), |told, oid| {
            is_ordered && oid != SHARED && (!turn.observes || is_plain(told, oid))
        })
    }

    fn turn(&mut self, place: usize) -> Turn {
        let mut turn = Turn::default();
        let most = 1 + self.below(4);
        // Retractions are chosen first: what they may give up is not used by the others.
        let mut parts = self.retractions(place, most, &mut turn);
        for _ in 0..=most {
            let part = self.action(place, &mut turn);
            parts.push(part);
        }
        while !parts.is_empty() {
            let at = self.below(parts.len());
            turn.text += &parts.swap_remove(at);
        }
        turn
    }

    /// Retractions of some of what a session has asserted; some are replacements.
    fn retractions(&mut self, place: usize, most: usize, turn: &mut Turn) -> Vec<String> {
        let (mut parts, mut replaced) = (Vec::new(), Vec::new());
        let crowd = self.sessions[place].mine.len().saturating_sub(25);
        for _ in 0..self.below(most).max(crowd) {
            let count = self.sessions[place].mine.len();
            if count == 0 {
                break;
            }
            let at = self.below(count);
            let mine = self.sessions[place].mine.remove(at);
            turn.gives_up.extend(&mine.holds);
            turn.retracts_observe |= mine.is_observe;
            turn.answers += usize::from(mine.is_question());
            let retraction = format!("[1 <R {}>]", mine.handle);
            let is_plain = mine.holds.is_empty() && !mine.is_observe && !mine.is_question();
            if !is_plain || !self.chance(5) {
                parts.push(retraction);
            } else if self.chance(2) {
                // By itself, under its own handle.
                parts.push(format!("{retraction} {} {}>]", mine.event, mine.handle));
                replaced.push(mine);
            } else {
                let handle = self.sessions[place].take_handle();
                parts.push(format!("{} {handle}>] {retraction}", mine.event));
                replaced.push(Mine { handle, ..mine });
            }
        }
        self.sessions[place].mine.extend(replaced);
        parts
    }

    fn action(&mut self, place: usize, turn: &mut Turn) -> String {
        match self.random.below(24) {
            0..=7 => {
                let fact = values::fact(&mut self.random);
                self.assert(place, "1", &fact, Vec::new())
            }
            8..=10 => match self.features.sends_capabilities && self.chance(3) {
                true => format!("[1 <M <a {} #:[1 1]>>]", values::atom(&mut self.random)),
                false => format!("[1 <M {}>]", values::fact(&mut self.random)),
            },
            11..=14 => self.observe(place, turn),
            15 => "[1 <S #:[0 900]>]".to_owned(),
            16 if !self.sessions[place].mine.iter().any(Mine::is_question) && turn.answers == 0 => {
                turn.answers += 1;
                self.assert(place, "0", &format!("<resolve {STURDYREF} #:[0 {ANSWERS}]>"), Vec::new())
            }
            17 => {
                // There and gone in one turn.
                let (fact, handle) = (values::fact(&mut self.random), self.sessions[place].take_handle());
                format!("[1 <A {fact} {handle}>] [1 <R {handle}>]")
            }
            18 => {
                let fact = values::fact(&mut self.random);
                match self.chance(2) {
                    true => format!("[777 <M {fact}>]"),
                    false => self.assert(place, "777", &fact, Vec::new()),
                }
            }
            19 | 20 if self.features.attenuates => self.hand_out_attenuated(place, turn),
            21.. if self.features.roams || self.features.attenuates => self.roam(place, turn),
            _ => self.give_on(place, turn),
        }
    }

    fn assert(&mut self, place: usize, target: &str, value: &str, holds: Vec<i64>) -> String {
        let session = &mut self.sessions[place];
        let handle = session.take_handle();
        let event = format!("[{target} <A {value}");
        let text = format!("{event} {handle}>]");
        session.mine.push(Mine { handle, event, is_observe: value.starts_with("<Observe"), holds });
        text
    }

    fn observe(&mut self, place: usize, turn: &mut Turn) -> String {
        turn.observes = true;
        let at = self.below(self.patterns.len());
        let pattern = self.pattern(at, place);
        if turn.gives_up_some() && shows_capabilities(&pattern) {
            return format!("[1 <M {pattern}>]");
        }
        let name = self.sessions[place].name;
        let (observer, holds) = match self.random.below(12) {
            0 => (format!("#:[0 {SHARED}] \"o of {name}\""), Vec::new()),
            1 if self.features.echoes => {
                let label = |_: &mut Random| "b";
                let pattern = values::record_pattern(&mut self.random, label);
                let echo = format!("<rewrite <bind <_>> <rec echo [<lit {name}> <ref 0>]>>");
                let observe = format!("<Observe {pattern} #:[1 1 <reject <lit {name}>> {echo}]>");
                return self.assert(place, "1", &observe, Vec::new());
            }
            2 | 3 if self.features.roams && !pattern.contains("<rec att") => {
                match self.known(place, turn, |kind| matches!(kind, Kind::Kept | Kind::Attenuated)) {
                    Some((oid, kind))
                        if kind == Kind::Attenuated || !self.features.attenuates || self.chance(2) =>
                    {
                        (format!("#:[1 %{oid}%]"), vec![oid])
                    }
                    Some((oid, _)) => {
                        let caveats = values::caveats(&mut self.random, &self.sessions[place].label());
                        (format!("#:[1 %{oid}% {caveats}]"), vec![oid])
                    }
                    None => (format!("#:[0 {}]", ENTITIES), Vec::new()),
                }
            }
            4 if self.features.roams => (format!("#:[0 {}]", ENTITIES + 1), Vec::new()),
            // By the surplus field others can tell whose it is.
            _ => (format!("#:[0 {}] \"o of {name}\"", OBSERVERS + at as i64), Vec::new()),
        };
        self.assert(place, "1", &format!("<Observe {pattern} {observer}>"), holds)
    }

    /// One of the pool's patterns, if it is fit for a session to observe: none sees what it has attenuated itself.
    fn pattern(&self, at: usize, place: usize) -> String {
        match self.patterns[at].contains(&format!("att{place}")) {
            true => "<group <rec b> {0: <bind <_>>}>".to_owned(),
            false => self.patterns[at].clone(),
        }
    }

    /// Gives on what it has been told of, or an entity of its own, or the dataspace.
    fn give_on(&mut self, place: usize, turn: &Turn) -> String {
        let name = self.sessions[place].name;
        match self.known(place, turn, |kind| matches!(kind, Kind::Kept | Kind::Loose)) {
            Some((oid, _)) if self.chance(2) => {
                let value = format!("<cap \"given by {name}\" #:[1 %{oid}%]>");
                self.assert(place, "1", &value, vec![oid])
            }
            _ if self.chance(2) => self.assert(place, "1", "<cap \"all\" #:[1 1]>", Vec::new()),
            _ => {
                let value =
                    format!("<cap \"e0 of {name}\" #:[0 {ENTITIES}] {}>", values::atom(&mut self.random));
                self.assert(place, "1", &value, Vec::new())
            }
        }
    }

    /// Hands out the dataspace, or another's entity, attenuated.
    fn hand_out_attenuated(&mut self, place: usize, turn: &Turn) -> String {
        let session = &self.sessions[place];
        let (label, again) = (session.label(), session.attenuated.len());
        let mut what = "ds ";
        let (reference, holds) = match self.known(place, turn, |kind| kind == Kind::Kept) {
            _ if again > 0 && self.chance(3) => {
                let at = self.below(again);
                (self.sessions[place].attenuated[at].clone(), Vec::new())
            }
            Some((oid, _)) if self.chance(2) => {
                what = "";
                let caveats = values::caveats(&mut self.random, &label);
                (format!("#:[1 %{oid}% {caveats}]"), vec![oid])
            }
            _ => {
                let reference = format!("#:[1 1 {}]", values::caveats(&mut self.random, &label));
                self.sessions[place].attenuated.push(reference.clone());
                (reference, Vec::new())
            }
        };
        // A label of its own, which it does not observe itself, and a number by which others know it.
        let number = self.sessions[place].take_handle();
        self.assert(place, "1", &format!("<att{place} \"att {what}{number} by {label}\" {reference}>"), holds)
    }

    /// Asserts at what it has been told of, or sends there.
    fn roam(&mut self, place: usize, turn: &mut Turn) -> String {
        let Some((oid, kind)) = self.known(place, turn, |_| true) else { return self.give_on(place, turn) };
        let (target, name) = (format!("%{oid}%"), self.sessions[place].name);
        let fact = values::fact(&mut self.random);
        if self.chance(2) {
            return format!("[{target} <M {fact}>]");
        }
        let value = match self.random.below(4) {
            0 if kind != Kind::Loose => format!("<give \"e1 of {name}\" #:[0 {}]>", ENTITIES + 1),
            1 if kind == Kind::Dataspace => {
                turn.observes = true;
                let at = self.below(self.patterns.len());
                let pattern = self.pattern(at, place);
                match turn.gives_up_some() && shows_capabilities(&pattern) {
                    true => fact,
                    false => format!("<Observe {pattern} #:[0 {}] \"o of {name}\">", OBSERVERS + at as i64),
                }
            }
            _ => fact,
        };
        self.assert(place, &target, &value, vec![oid])
    }

    /// One of the capabilities of a kind that a session has been told of, and may use in this turn.
    fn known(&mut self, place: usize, turn: &Turn, is_fit: impl Fn(Kind) -> bool) -> Option<(i64, Kind)> {
        let mut all: BTreeMap<i64, Kind> = BTreeMap::new();
        for seen in self.play.known(place) {
            for oid in seen.oids.iter().filter(|oid| **oid > 1) {
                let kind = match seen.body.as_str() {
                    body if body.contains("alive") => continue,
                    body if body.contains("\"att ds ") => Kind::Dataspace,
                    body if body.contains("\"att ") => Kind::Attenuated,
                    body if body.contains("\"e") => Kind::Kept,
                    _ => Kind::Loose,
                };
                let known = all.entry(*oid).or_insert(kind);
                if *known == Kind::Loose {
                    *known = kind;
                }
            }
        }
        let all: Vec<(i64, Kind)> =
            all.into_iter().filter(|(oid, kind)| is_fit(*kind) && !turn.gives_up.contains(oid)).collect();
        match all.len() {
            0 => None,
            count => Some(all[self.below(count)]),
        }
    }
}

impl Session {
    fn take_handle(&mut self) -> i64 {
        self.next_handle += 1;
        self.next_handle
    }

    /// What makes its attenuations different from everybody else's.
    fn label(&self) -> String {
        format!("s{}", self.name)
    }
}

/// Whether whoever observes so is told of capabilities.
fn shows_capabilities(pattern: &str) -> bool {
    pattern == "<bind <_>>"
        || ["<rec cap>", "<rec att", "<rec Observe>"].iter().any(|label| pattern.contains(label))
}

/// One for the pool of a history.
fn pattern(random: &mut Random, features: &Features) -> String {
    let given = "<group <rec cap> {0: <bind <_>> 1: <bind <_>>}>";
    let asked = "<group <rec Observe> {0: <bind <_>>}>";
    match random.below(14) {
        0 | 1 => given.to_owned(),
        2 => "<group <rec cap> {0: <bind <lit \"all\">> 1: <bind <lit #:[1 1]>>}>".to_owned(),
        3 if features.echoes => "<group <rec echo> {1: <bind <_>>}>".to_owned(),
        4 | 5 if features.attenuates => {
            format!("<group <rec att{}> {{0: <bind <_>> 1: <bind <_>>}}>", random.below(SESSIONS))
        }
        6 if features.attenuates => "<group <rec w> {}>".to_owned(),
        7 if features.attenuates => asked.to_owned(),
        // Whoever saw all values might see what it has attenuated itself.
        4 | 5 if !features.echoes => "<bind <_>>".to_owned(),
        6 if !features.echoes => "<bind <group <rec Observe> {0: <bind <_>>}>>".to_owned(),
        7 => asked.to_owned(),
        _ => values::pattern(random),
    }
}

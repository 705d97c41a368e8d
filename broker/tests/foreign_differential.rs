//! The same random histories of many sessions, here and at a server of the reference implementation: all sessions must
//! be told the same, up to oids, handles and the split of events into turns.
//!
//! After each turn of one session all sessions synchronise, so what a step comes to is determined. Played are assertions
//! and retractions, in-place updates, messages, Syncs, patterns of all kinds, equal assertions and equal captures of
//! several sessions, equal observations, capabilities in assertions, at which others assert and which others have observe,
//! attenuated ones with all kinds of caveats, dataspaces that observe themselves, questions to the gatekeeper, events for
//! what does not exist, and sessions that are killed.
//!
//! One fixed seed is played, and one new one, which is printed, half of `STAUNCH_TEST_SECONDS` (6) each;
//! `STAUNCH_TEST_SEED` plays that one alone. What makes a difference is printed, and the seed that begins with it.
//! Where the server of the reference is found says `foreign_support/reference.rs`.
//!
//! # What is not compared
//! Nobody promises an order among several observations of one entity's, or between two ways to one entity; of
//! retractions when an observation or a session ends; of captures that differ in capabilities alone. There, what comes is
//! compared as a multiset. Where new capabilities come of which even so it cannot be told which is which, a history ends.
//!
//! # What the reference does otherwise, and is avoided
//! - Two sessions that attenuate the same thing equally make it panic. Each has a caveat of its own here.
//! - `<or [x]>` and `x` make equal capabilities; here not, as what they are made of is not. No `or` has one alternative.
//! - What a session has attenuated itself comes back to it as if it were not attenuated (it has the other as well; here
//!   it comes as what it is). None observes its own.
//! - A Sync for a peer's entity, or a message that introduces a capability, ends the session that it is passed on to. Syncs
//!   go to the dataspace; messages refer to nothing but the dataspace, which everybody holds.
//! - What a turn gives up is given up when the turn is read, so what the same turn has the session told of comes under
//!   another oid, its own entities as if they were somebody else's. Here it is given up when the turn takes effect. Turns
//!   that give up something observe nothing that shows capabilities.
//! - An event behind the last retraction that held its target, in one turn, is dropped; here it arrives, since targets are
//!   looked up before anything takes effect: to give up while reading would lose what is retracted and asserted again in
//!   one turn. No turn uses what it may give up.
//! - What it tells an entity that its owner has taken back is never given back, and keeps its oid. Entities that are told of
//!   capabilities are not taken back here.
//! - Of observations that differ in surplus fields alone, one's end ends both, and leaves assertions behind. Equal patterns
//!   with one observer have equal surplus here; patterns have none.
//! - Integers from 2^127 on are not always in order; none is so large here.
//! - A state of more than 512 captures lists is replayed in order; here in any. None is so large.
//! - A dataspace that asserts an Observe subscribes its observer; here it does not (ARCHITECTURE.md, "Observers in this
//!   process"). And one that tells itself of what it tells itself goes on for ever; here that ends. What the dataspace tells
//!   itself here is neither.
//!
//! # What the reference does otherwise, and is allowed for
//! - What is given back and comes again in one turn keeps its oid there until the turn has been sent; here it has a new one at
//!   once. See `Pairing::released`.

mod common;
mod differential;
mod foreign_support;

use std::time::{Duration, Instant, SystemTime};

use common::{Random, start_default};
use differential::compare::Verdict;
use differential::history::History;
use differential::play::Play;
use foreign_support::reference::{self, Reference};

/// What was said with a panic.
fn words(panic: Box<dyn std::any::Any + Send>) -> String {
    match panic.downcast::<String>() {
        Ok(words) => *words,
        Err(other) => other.downcast_ref::<&str>().map_or_else(String::new, |words| (*words).to_owned()),
    }
}

/// Plays histories from one seed for a while; returns how many, and how many were given up.
fn play(seed: u64, duration: Duration, reference: &Reference) -> (u64, u64) {
    let (start, mut random, mut history) = (Instant::now(), Random(seed | 1), seed | 1);
    let (server, _) = start_default();
    let (mut played, mut given_up) = (0, 0);
    while start.elapsed() < duration || played == 0 {
        let mut play = Play::new(&server, reference.socket.clone());
        let run = std::panic::AssertUnwindSafe(|| History::new(&mut play, Random(history)).run());
        let outcome = std::panic::catch_unwind(run).unwrap_or_else(|panic| Err(words(panic)));
        let trace = std::mem::take(&mut play.trace);
        let fail = |why: String| -> ! {
            panic!(
                "history {played} of seed {seed} makes a difference.\n{}\n{why}\nThe reference's panics: {:?}\n\
                 STAUNCH_TEST_SEED={history} begins with it",
                trace.join("\n"),
                reference.panics()
            )
        };
        given_up += match outcome {
            Ok(Verdict::Same) => 0,
            Ok(Verdict::Ambiguous) => 1,
            Err(why) => fail(why),
        };
        let end = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| play.end()));
        end.unwrap_or_else(|panic| Err(words(panic))).unwrap_or_else(|why| fail(why));
        played += 1;
        history = random.next() | 1;
    }
    common::balanced(&server);
    (played, given_up)
}

#[test]
fn histories_make_no_difference() {
    let Some(program) = reference::program("histories_make_no_difference") else { return };
    let number = |name: &str| std::env::var(name).ok().map(|value| value.parse().expect("a number"));
    let seconds = number("STAUNCH_TEST_SECONDS").unwrap_or(6);
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let seeds = match number("STAUNCH_TEST_SEED") {
        Some(seed) => vec![seed],
        None => vec![1, since.as_nanos() as u64],
    };
    for seed in &seeds {
        println!("STAUNCH_TEST_SEED={seed}");
        let reference = Reference::start(&program);
        let duration = Duration::from_millis(1000 * seconds / seeds.len() as u64);
        let (played, given_up) = play(*seed, duration, &reference);
        println!("{played} histories, of which {given_up} were given up early");
        assert!(given_up <= played / 2, "most histories are played to their ends");
        assert_eq!(reference.panics(), Vec::<String>::new());
    }
}

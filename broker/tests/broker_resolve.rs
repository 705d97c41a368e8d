//! What a sturdyref gave is gone when the question is withdrawn, or the connection that asked ends, and nothing else
//! holds it. Each script is run here, and at a server of the reference implementation if there is one: see
//! `foreign_support/reference.rs`.

mod common;
mod foreign_support;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use common::*;
use foreign_support::reference::{self, Reference};

/// A sturdyref for the dataspace.
const PLAIN: &str = r#"<ref {oid: "syndicate" sig: #[acowDB2/oI+6aSEC3YIxGg==]}>"#;
/// The same, with a caveat that makes `<labelled "alice" x>` of x.
const LABELLED: &str = r#"<ref {oid: "syndicate" sig: #[IoqvhgjkYRWmzFf416kucA==]
    caveats: [<rewrite <bind <_>> <rec labelled [<lit "alice"> <ref 0>]>>]}>"#;

enum Broker {
    Staunch(SocketAddr),
    Reference(PathBuf),
}

impl Broker {
    fn connect(&self) -> Peer {
        let client = match self {
            Broker::Staunch(address) => Client::tcp(*address),
            Broker::Reference(socket) => Client::unix(socket),
        };
        Peer { client, live: HashMap::new() }
    }

    /// One that observes what is going on in the dataspace, at its 7, and sees this in the beginning. It has the dataspace
    /// as oid 1.
    fn witness(&self, expected: &[&str]) -> Peer {
        let mut witness = self.connect();
        witness.resolve(PLAIN, 1);
        witness.told(&["0 A <ok #:[0, 1]>"]);
        let patterns = ["x", "labelled", "given"].map(|label| format!("<bind <group <rec {label}> {{}}>>"));
        let all = patterns.iter().zip(2..).map(|(pattern, handle)| observe(pattern, 7, handle));
        witness.send(&format!("[{}]", all.collect::<String>()));
        witness.sees(expected);
        witness
    }
}

struct Peer {
    client: Client,
    /// What it was told and holds, by handle.
    live: HashMap<i64, String>,
}

impl Peer {
    fn send(&mut self, packets: &str) {
        self.client.send(packets);
    }

    /// Asks for what a sturdyref stands for, to be answered at its entity 0.
    fn resolve(&mut self, reference: &str, handle: i64) {
        self.send(&format!("[[0 <A <resolve {reference} #:[0 0]> {handle}>]]"));
    }

    fn note(&mut self, event: &Event) -> String {
        let body = match event.kind {
            'A' => self.live.entry(event.handle).insert_entry(event.body.clone()).get().clone(),
            'R' => self.live.remove(&event.handle).expect("what is retracted was told"),
            _ => event.body.clone(),
        };
        format!("{} {} {body}", event.oid, event.kind)
    }

    /// Waits for this, and makes sure that it is all.
    #[track_caller]
    fn told(&mut self, expected: &[&str]) {
        let mut events = Vec::new();
        while events.len() < expected.len() {
            events.extend(self.client.turn());
        }
        events.extend(self.client.sync_at(0).concat());
        let told: Vec<String> = events.iter().map(|event| self.note(event)).collect();
        assert_eq!(told, expected);
    }

    /// What the witness sees of what others did, who have been told since.
    #[track_caller]
    fn sees(&mut self, expected: &[&str]) {
        let events = self.client.sync();
        let seen: Vec<String> = events.iter().map(|event| self.note(event)).collect();
        assert_eq!(seen, expected);
    }

    /// Makes sure that events for `oid` go nowhere: not even a Sync is answered.
    #[track_caller]
    fn cannot_use(&mut self, oid: i64, witness: &mut Peer) {
        self.send(&format!(
            "[[{oid} <M <x lost>>] [{oid} <A <x lost> 900>] [{oid} <S #:[0 9]>] [{oid} <R 900>]]"
        ));
        self.told(&[]);
        witness.sees(&[]);
    }

    /// Makes sure that what is sent to `oid` arrives, as `expected`.
    #[track_caller]
    fn can_use(&mut self, oid: i64, witness: &mut Peer, expected: &str) {
        self.send(&format!("[[{oid} <M <x 0>>] [{oid} <S #:[0 9]>]]"));
        self.told(&["9 M #t"]);
        witness.sees(&[&format!("7 M [{expected}]")]);
    }
}

/// Runs a script here, and at the reference.
fn at_both(test: &str, script: impl Fn(&Broker)) {
    let (server, address) = start_default();
    script(&Broker::Staunch(address));
    until("all has gone", || server.connections() == 0 && server.index_counts() == (0, 0, 0));
    until("nothing is owed", || server.total_debt() == 0);
    if let Some(program) = reference::program(&format!("{test} at the reference")) {
        let reference = Reference::start(&program);
        script(&Broker::Reference(reference.socket.clone()));
        assert_eq!(reference.panics(), Vec::<String>::new());
    }
}

#[test]
fn a_question_withdrawn_ends_access() {
    at_both("a_question_withdrawn_ends_access", |broker| {
        let (mut witness, mut asker) = (broker.witness(&[]), broker.connect());
        asker.resolve(PLAIN, 1);
        asker.told(&["0 A <ok #:[0, 1]>"]);
        asker.can_use(1, &mut witness, "<x 0>");
        asker.send("[[0 <R 1>]]");
        asker.told(&["0 R <ok #:[0, 1]>"]);
        asker.cannot_use(1, &mut witness);
        // To withdraw it again changes nothing; to ask again gives it anew.
        asker.send("[[0 <R 1>]]");
        asker.told(&[]);
        asker.resolve(PLAIN, 1);
        asker.told(&["0 A <ok #:[0, 2]>"]);
        asker.cannot_use(1, &mut witness);
        asker.can_use(2, &mut witness, "<x 0>");
    });
}

#[test]
fn equal_questions_are_one_until_the_last_is_withdrawn() {
    at_both("equal_questions_are_one_until_the_last_is_withdrawn", |broker| {
        let (mut witness, mut asker) = (broker.witness(&[]), broker.connect());
        asker.resolve(PLAIN, 1);
        asker.told(&["0 A <ok #:[0, 1]>"]);
        asker.resolve(PLAIN, 2);
        asker.told(&[]);
        asker.send("[[0 <R 1>]]");
        asker.told(&[]);
        asker.can_use(1, &mut witness, "<x 0>");
        asker.send("[[0 <R 2>]]");
        asker.told(&["0 R <ok #:[0, 1]>"]);
        asker.cannot_use(1, &mut witness);
    });
}

/// An assertion made at it, or an observation, keeps it, and goes on by itself.
#[test]
fn what_was_asserted_there_holds_on_and_keeps_it() {
    at_both("what_was_asserted_there_holds_on_and_keeps_it", |broker| {
        let (mut witness, mut asker) = (broker.witness(&[]), broker.connect());
        asker.resolve(PLAIN, 1);
        asker.told(&["0 A <ok #:[0, 1]>"]);
        asker.send("[[1 <A <x 1> 5>]]");
        asker.told(&[]);
        witness.sees(&["7 A [<x 1>]"]);
        asker.send("[[0 <R 1>]]");
        asker.told(&["0 R <ok #:[0, 1]>"]);
        witness.sees(&[]);
        asker.can_use(1, &mut witness, "<x 0>");
        // One takes over from the other.
        asker.send(&format!("[{} [1 <R 5>]]", observe("<group <rec x> {0: <bind <_>>}>", 3, 6)));
        asker.told(&["3 A [1]", "3 R [1]"]);
        witness.sees(&["7 R [<x 1>]"]);
        asker.send("[[1 <M <x 2>>] [1 <S #:[0 9]>]]");
        asker.told(&["3 M [2]", "9 M #t"]);
        witness.sees(&["7 M [<x 2>]"]);
        asker.send("[[1 <R 6>]]");
        asker.told(&[]);
        asker.cannot_use(1, &mut witness);
    });
}

/// What was handed on is held by what handed it on, not by the question; attenuated it is as well.
#[test]
fn what_was_handed_on_goes_with_what_handed_it_on() {
    at_both("what_was_handed_on_goes_with_what_handed_it_on", |broker| {
        let (mut witness, mut asker) = (broker.witness(&[]), broker.connect());
        asker.resolve(LABELLED, 1);
        asker.told(&["0 A <ok #:[0, 1]>"]);
        asker.can_use(1, &mut witness, r#"<labelled "alice" <x 0>>"#);
        asker.resolve(PLAIN, 2);
        asker.told(&["0 A <ok #:[0, 2]>"]);
        asker.send("[[2 <A <given #:[1 1] #:[1 1 <reject <rec y [<_>]>>]> 5>]]");
        asker.told(&[]);
        witness.sees(&["7 A [<given #:[0, 2] #:[0, 3]>]"]);
        asker.send("[[0 <R 1>]]");
        asker.told(&["0 R <ok #:[0, 1]>"]);
        witness.send("[[2 <M <x 1>>] [3 <M <x 2>>] [3 <M <y 3>>]]");
        witness.sees(&[r#"7 M [<labelled "alice" <x 1>>]"#, r#"7 M [<labelled "alice" <x 2>>]"#]);
        // The asker, who made that assertion, holds it as well.
        asker.can_use(1, &mut witness, r#"<labelled "alice" <x 0>>"#);
        asker.send("[[2 <R 5>]]");
        asker.told(&[]);
        witness.sees(&["7 R [<given #:[0, 2] #:[0, 3]>]"]);
        let mut other = broker.witness(&[]);
        for oid in [2, 3] {
            witness.cannot_use(oid, &mut other);
        }
        asker.cannot_use(1, &mut witness);
    });
}

#[test]
fn what_was_handed_on_goes_with_the_connection_that_handed_it_on() {
    at_both("what_was_handed_on_goes_with_the_connection_that_handed_it_on", |broker| {
        let (mut witness, mut asker) = (broker.witness(&[]), broker.connect());
        asker.resolve(LABELLED, 1);
        asker.told(&["0 A <ok #:[0, 1]>"]);
        asker.resolve(PLAIN, 2);
        asker.told(&["0 A <ok #:[0, 2]>"]);
        asker.send("[[2 <A <given #:[1 1] #:[1 1 <reject <rec y [<_>]>>]> 5>]]");
        asker.told(&[]);
        witness.sees(&["7 A [<given #:[0, 2] #:[0, 3]>]"]);
        // This holds one of them.
        witness.send("[[3 <A <x 1> 20>]]");
        witness.sees(&[r#"7 A [<labelled "alice" <x 1>>]"#]);
        asker.client.kill();
        witness.told(&["7 R [<given #:[0, 2] #:[0, 3]>]"]);
        let mut other = broker.witness(&[r#"7 A [<labelled "alice" <x 1>>]"#]);
        witness.cannot_use(2, &mut other);
        witness.send("[[3 <M <x 2>>] [3 <M <y 3>>] [3 <S #:[0 9]>]]");
        witness.sees(&[r#"7 M [<labelled "alice" <x 2>>]"#, "9 M #t"]);
        other.sees(&[r#"7 M [<labelled "alice" <x 2>>]"#]);
        witness.send("[[3 <R 20>]]");
        witness.sees(&[r#"7 R [<labelled "alice" <x 1>>]"#]);
        other.sees(&[r#"7 R [<labelled "alice" <x 1>>]"#]);
        witness.cannot_use(3, &mut other);
    });
}

/// One asks on another's behalf: the answer goes when the question does, or its connection.
#[test]
fn an_answer_elsewhere_goes_with_its_question() {
    at_both("an_answer_elsewhere_goes_with_its_question", |broker| {
        let mut witness = broker.witness(&[]);
        let mut beneficiary = broker.connect();
        beneficiary.resolve(LABELLED, 1);
        beneficiary.told(&["0 A <ok #:[0, 1]>"]);
        beneficiary.send("[[1 <A <given #:[0 8]> 5>]]");
        beneficiary.told(&[]);
        witness.sees(&[r#"7 A [<labelled "alice" <given #:[0, 2]>>]"#]);
        for round in 0..2 {
            let oid = 2 + round;
            let mut asker = broker.connect();
            asker.resolve(PLAIN, 1);
            asker.told(&["0 A <ok #:[0, 1]>"]);
            asker.send(&format!(
                "[{}]",
                observe("<group <rec labelled> {1: <group <rec given> {0: <bind <_>>}>}>", 3, 2)
            ));
            asker.told(&["3 A [#:[0, 2]]"]);
            asker.send(&format!("[[0 <A <resolve {PLAIN} #:[1 2]> 3>]]"));
            beneficiary.told(&[&format!("8 A <ok #:[0, {oid}]>")]);
            beneficiary.can_use(oid, &mut witness, "<x 0>");
            match round {
                0 => asker.send("[[0 <R 3>]]"),
                _ => asker.client.kill(),
            }
            beneficiary.told(&[&format!("8 R <ok #:[0, {oid}]>")]);
            beneficiary.cannot_use(oid, &mut witness);
        }
    });
}

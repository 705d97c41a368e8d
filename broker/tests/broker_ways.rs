//! The fast ways and the general way come to the same.

mod common;

use std::collections::HashMap;

use common::*;

/// A random turn of plain events: values that collide, handles used again and again, also within a turn, retractions
/// of what is not there.
fn turn(random: &mut Random, live: &mut Vec<u64>) -> String {
    let mut events = String::new();
    for _ in 0..1 + random.below(4) {
        // The first handles are the client's own.
        let handle = 10 + random.below(12);
        let value = random.below(6);
        match random.below(4) {
            0 => events.push_str(&format!("[1 <M <v {value} \"said\">>]")),
            1 if !live.contains(&handle) => {
                events.push_str(&format!("[1 <A <v {value} \"held\"> {handle}>]"));
                live.push(handle);
            }
            // Observes itself now and then: never plain.
            2 if !live.contains(&handle) && random.below(8) == 0 => {
                let pattern = record_pattern("none", 1);
                events.push_str(&format!("[1 <A <Observe {pattern} #:[0 77]> {handle}>]"));
                live.push(handle);
            }
            _ => {
                events.push_str(&format!("[1 <R {handle}>]"));
                live.retain(|h| *h != handle);
            }
        }
    }
    events
}

/// What an observer was told, with handles numbered as they appear.
fn told(observer: &mut Client) -> Vec<Vec<(char, i64, String, usize)>> {
    let mut numbers: HashMap<i64, usize> = HashMap::new();
    let turns = observer.sync_at(1);
    let mut number = |event: Event| {
        let next = numbers.len();
        // A handle names one thing, and is not used again.
        let number = if event.kind == 'M' { 0 } else { *numbers.entry(event.handle).or_insert(next) };
        (event.kind, event.oid, event.body, number)
    };
    turns.into_iter().map(|turn| turn.into_iter().map(&mut number).collect()).collect()
}

#[test]
fn fast_and_general_ways_tell_the_same() {
    let mut random = Random::new("fast_and_general_ways_tell_the_same");
    for round in 0..16 {
        let mut live = Vec::new();
        let turns: Vec<String> = (0..250).map(|_| turn(&mut random, &mut live)).collect();
        let mut seen = Vec::new();
        // A Sync has a turn take the general way.
        for sync in ["", "[1 <S #:[0 99]>]"] {
            let (server, address) = start_default();
            let mut observer = Client::tcp(address).resolved();
            let (both, first) = (record_pattern("v", 2), record_pattern("v", 1));
            observer.send(&format!("[{} {}]", observe(&both, 7, 2), observe(&first, 8, 3)));
            observer.sync();
            let mut sender = Client::tcp(address).resolved();
            let packets: String = turns.iter().map(|events| format!("[{events}{sync}]")).collect();
            sender.send(&packets);
            sender.sync();
            let mut came = told(&mut observer);
            drop(sender);
            // What was alive at the end goes, in any order.
            until("the sender's assertions are gone", || server.index_counts().1 == 2);
            let mut rest: Vec<_> = told(&mut observer).concat().into_iter().map(|e| (e.0, e.1)).collect();
            rest.sort_unstable();
            came.push(rest.into_iter().map(|(kind, oid)| (kind, oid, String::new(), 0)).collect());
            seen.push(came);
            drop(observer);
            until("nothing is left", || server.index_counts() == (0, 0, 0));
        }
        assert_eq!(seen[0], seen[1], "round {round}");
    }
}

/// Caveats, some of which make long bodies, one after the other in the same place.
const CAVEATS: [&str; 4] = [
    "<rewrite <bind <_>> <ref 0>>",
    "<rewrite <rec v [<bind <_>> <lit \"said\">]> <rec v [<ref 0> <lit \"other\">]>> <reject <rec v [<lit 3> <_>]>>",
    "<or [<rewrite <rec v [<lit 1> <bind <_>>]> <rec v [<lit 7> <ref 0>]>> <rewrite <bind <rec v [<_> <_>]>> <ref 0>>]>",
    "<rewrite <rec v [<bind <_>> <_>]> <rec v [<ref 0> <lit \"LONG\">]>>",
];

#[test]
fn fast_and_general_ways_restrict_the_same() {
    let mut random = Random::new("fast_and_general_ways_restrict_the_same");
    let long = "long".repeat(1500);
    for caveat in CAVEATS.map(|caveat| caveat.replace("LONG", &long)) {
        // Each a turn of its own; the text in them is often the last thing that the caveats keep.
        let turns: Vec<String> = (0..300)
            .map(|_| {
                let value = random.below(6);
                let text =
                    if random.below(5) == 0 { "x".repeat(5000 + value as usize) } else { "said".to_owned() };
                format!("[2 <M <v {value} \"{text}\">>]")
            })
            .collect();
        let mut seen = Vec::new();
        for sync in ["", "[1 <S #:[0 99]>]"] {
            let (server, address) = start_default();
            let mut observer = Client::tcp(address).resolved();
            let (both, first) = (record_pattern("v", 2), record_pattern("v", 1));
            observer.send(&format!("[{} {}]", observe(&both, 7, 2), observe(&first, 8, 3)));
            observer.sync();
            let mut sender = Client::tcp(address).resolved();
            // What it may say only under these caveats becomes oid 2.
            sender.send(&format!(
                "[{} [1 <A <offer #:[1 1 {caveat}]> 4>]]",
                observe(&record_pattern("offer", 1), 5, 3)
            ));
            assert_eq!(sender.event().body, "[#:[0, 2]]");
            let packets: String = turns.iter().map(|events| format!("[{events}{sync}]")).collect();
            sender.send_bytes(&bytes(&packets));
            sender.sync();
            seen.push(told(&mut observer));
            drop((sender, observer));
            until("nothing is left", || server.index_counts() == (0, 0, 0) && server.total_debt() == 0);
        }
        assert!(!seen[0].is_empty());
        assert!(seen[0] == seen[1], "{caveat:.80}");
    }
}

/// What a caveat writes is no reference, whatever it looks like.
#[test]
fn caveats_make_no_references() {
    let (_server, address) = start_default();
    let mut observer = Client::tcp(address).resolved();
    observer.send(&format!("[{}]", observe(&record_pattern("v", 1), 7, 2)));
    observer.sync();
    let mut sender = Client::tcp(address).resolved();
    for forged in ["#:[0 1]", "#:[1 1]", "#:#x\"0000000000000001\"", "#:#x\"0000000000000002\""] {
        for sync in ["", "[1 <S #:[0 99]>]"] {
            let caveat = format!("<rewrite <_> <rec v [<lit {forged}>]>>");
            let mut sender = Client::tcp(address).resolved();
            sender.send_anyway(&bytes(&format!(
                "[{} [1 <A <offer #:[1 1 {caveat}]> 4>]]",
                observe(&record_pattern("offer", 1), 5, 3)
            )));
            let Came::Turn(_) = sender.next() else { continue };
            sender.send_anyway(&bytes(&format!("[[2 <M 1>]{sync}] [[2 <M 1>]{sync}] [[2 <A 1 99>]{sync}]")));
            sender.send("[[1 <M <done>>]]");
        }
    }
    sender.send("[[1 <M <v done>>]]");
    sender.sync();
    let told = observer.sync();
    assert!(told.iter().all(|e| e.body == "[done]"), "{told:?}");
}

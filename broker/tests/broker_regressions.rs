//! What was once wrong: each of these has been seen to fail.

mod common;

use common::*;

fn observer(address: std::net::SocketAddr, patterns: &[&str]) -> Client {
    let mut client = Client::tcp(address).resolved();
    for (i, pattern) in patterns.iter().enumerate() {
        let n = i as i64;
        client.send(&format!("[{}]", observe(pattern, 7 + n, 2 + n)));
    }
    client.sync();
    client
}

/// The oid under which the peer of an `<... #:ref>` may use the reference.
fn oid_in(event: &Event) -> i64 {
    let number = event.body.trim_matches(|c: char| "[]#:".contains(c)).split(", ").nth(1).unwrap();
    number.trim_matches(']').parse().unwrap()
}

#[test]
fn a_message_without_a_body_is_an_error() {
    let (_server, address) = start_default();
    let mut watcher = observer(address, &["<bind <_>>"]);
    let mut sender = Client::tcp(address).resolved();
    sender.send("[[1 <M 1>]] [[1 <M 2>]] [[1 <M>] #t]");
    assert!(sender.ends_with_error().contains("event has no field"));
    assert_eq!(watcher.event().body, "[1]");
    assert_eq!(watcher.event().body, "[2]");
    assert_eq!(watcher.sync(), []);
}

#[test]
fn an_empty_sequence_leaves_no_trace_for_the_next() {
    let (_server, address) = start_default();
    let mut watcher = observer(address, &["<group <arr> {9: <bind <_>>}>"]);
    let mut sender = Client::tcp(address).resolved();
    sender.send("[[1 <M [0 1 2 3 4 5 6 7 8 first]>]]");
    sender.send("[[1 <M []>]] [[1 <M [0 1 2 3 4 5 6 7 8 second]>]]");
    assert_eq!(watcher.event().body, "[first]");
    assert_eq!(watcher.event().body, "[second]");
}

#[test]
fn large_bodies_that_begin_alike_are_not_taken_for_each_other() {
    let (_server, address) = start_default();
    let patterns =
        ["<group <rec m> {0: <bind <_>> 1: <bind <_>>}>", "<group <rec m> {0: <bind <_>> 2: <bind <_>>}>"];
    let mut watcher = observer(address, &patterns);
    let mut sender = Client::tcp(address).resolved();
    sender.send(&format!("[[1 <M <m \"{}\" 1 2>>]]", "x".repeat(4200)));
    let turn = watcher.turn();
    assert_eq!(turn.len(), 2);
    for event in turn {
        let last = if event.oid == 7 { ", 1]" } else { ", 2]" };
        assert!(event.body.ends_with(last), "oid {}", event.oid);
    }
}

#[test]
fn large_messages_with_references_are_not_taken_for_each_other() {
    let (_server, address) = start_default();
    let mut sender = Client::tcp(address).resolved();
    sender.send("[[1 <A <pre #:[0 49]> 2>]] [[1 <A <ent #:[0 50]> 3>]]");
    sender.sync();
    // The first knows another reference already, so that the two know `ent` under different oids.
    let (pre, ent, message) = (record_pattern("pre", 1), record_pattern("ent", 1), record_pattern("t", 2));
    let mut watchers = Vec::new();
    for patterns in [vec![&pre, &ent, &message], vec![&ent, &message]] {
        let mut watcher = Client::tcp(address).resolved();
        let mut known = String::new();
        for (i, pattern) in patterns.iter().enumerate() {
            watcher.send(&format!("[{}]", observe(pattern, 7 + i as i64, 2 + i as i64)));
            if *pattern != &message {
                known = watcher.event().body;
            }
        }
        watcher.sync();
        watchers.push((watcher, known.trim_matches(['[', ']']).to_owned()));
    }
    let message = |letter: &str| format!("[1 <M <t \"{}\" #:[0 50]>>]", letter.repeat(4200));
    sender.send(&format!("[{}{}]", message("a"), message("b")));
    for (watcher, known) in &mut watchers {
        let turn = watcher.turn();
        assert_eq!(turn.len(), 2);
        for (event, letter) in turn.iter().zip(["a", "b"]) {
            assert!(event.body.starts_with(&format!("[\"{letter}")), "{}", &event.body[..8]);
            assert!(event.body.contains(known.trim_end_matches(']')), "its own name for the reference");
        }
    }
}

#[test]
fn a_handle_used_again_at_another_entity_in_one_turn_is_not_lost() {
    let (server, address) = start_default();
    let mut watcher = observer(address, &[&record_pattern("late", 1)]);
    let (owner, mut other, told) = introduced(address, &[50]);
    let entity = oid_in(&told);
    for target in [0, entity] {
        other.send(&format!("[[{target} <A hello 5>] [{target} <R 5>] [1 <A <late 1> 5>]]"));
        assert_eq!(watcher.event().kind, 'A');
        other.send("[[1 <R 5>]]");
        assert_eq!(watcher.event().kind, 'R');
    }
    other.send("[[0 <A hello 5>] [0 <R 5>] [1 <A <late 1> 5>]]");
    assert_eq!(watcher.event().kind, 'A');
    drop(other);
    assert_eq!(watcher.event().kind, 'R');
    drop((watcher, owner));
    until("nothing is left", || server.index_counts() == (0, 0, 0));
}

#[test]
fn a_reference_that_has_been_taken_back_is_of_no_use() {
    let (_server, address) = start_default();
    let mut watcher = observer(address, &[&record_pattern("m", 1)]);
    let mut giver = observer(address, &[&record_pattern("me", 1)]);
    let mut taker = Client::tcp(address).resolved();
    taker.send("[[1 <A <me #:[0 60]> 9>]]");
    let entity = oid_in(&giver.event());
    giver.send(&format!("[[{entity} <A <root #:[1 1]> 9>]]"));
    assert_eq!(taker.event().kind, 'A');
    // From here on only the giver keeps the dataspace within the taker's reach.
    taker.send("[[1 <R 9>]] [[0 <R 1>]]");
    assert_eq!(taker.event().kind, 'R');
    taker.send("[[1 <M <m 1>>]] [[1 <M <m 2>>]]");
    assert_eq!((watcher.event().body.as_str(), watcher.event().body.as_str()), ("[1]", "[2]"));
    giver.send(&format!("[[{entity} <R 9>]]"));
    assert_eq!(taker.event().kind, 'R');
    taker.send("[[1 <M <m revoked>>]]");
    taker.sync_at(0);
    assert_eq!(watcher.sync(), []);
}

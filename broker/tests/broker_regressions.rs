//! What was once wrong: each of these has been seen to fail.

mod common;

use common::*;
use staunch::limits::{Limits, Quota};
use staunch::server::Config;

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

/// An entity 5 of `owner`'s that `user` knows under the oid returned, but attenuated.
fn limited(address: std::net::SocketAddr, caveats: &str) -> (Client, Client, Client, i64) {
    let (owner, mut giver, told) = introduced(address, &[5]);
    giver.send(&format!("[[1 <A <limited #:[1 {} {caveats}]> 6>]]", oid_in(&told)));
    giver.sync();
    let mut user = Client::tcp(address).resolved();
    user.send(&format!("[{}]", observe(&record_pattern("limited", 1), 7, 2)));
    let oid = oid_in(&user.event());
    (owner, giver, user, oid)
}

/// Asserts the question that [`Client::resolved`] asks, for an observer.
fn resolve(observer: &str, handle: i64) -> String {
    format!(
        r#"[[0 <A <resolve <ref {{oid: "syndicate" sig: #[acowDB2/oI+6aSEC3YIxGg==]}}> {observer}> {handle}>]]"#
    )
}

/// Events without their handles, briefly.
fn brief(events: &[Event]) -> Vec<String> {
    events.iter().map(|e| format!("{} {}{}", e.oid, e.kind, e.body)).collect()
}

const DROP_ALL: &str = "<reject <_>>";
const WRAP: &str = "<rewrite <bind <_>> <rec told [<ref 0>]>>";

#[test]
fn the_gatekeepers_answer_passes_its_observers_caveats() {
    for (caveats, answered) in [(DROP_ALL, None), (WRAP, Some("5 A<told <ok #:[0, 1]>>"))] {
        let (_server, address) = start_default();
        let (mut owner, _giver, mut asker, oid) = limited(address, caveats);
        asker.send(&resolve(&format!("#:[1 {oid}]"), 9));
        asker.sync();
        assert_eq!(brief(&owner.sync()), Vec::from_iter(answered));
        asker.send("[[0 <R 9>]]");
        asker.sync();
        assert_eq!(brief(&owner.sync()), Vec::from_iter(answered.map(|_| "5 R")));
    }
}

#[test]
fn the_gatekeepers_answer_reaches_a_dataspace() {
    let (server, address) = start_default();
    let mut watcher = observer(address, &[&record_pattern("ok", 1), &record_pattern("told", 1)]);
    let mut asker = Client::tcp(address).resolved();
    asker.send(&resolve("#:[1 1]", 9));
    assert_eq!(brief(&[watcher.event()]), ["7 A[#:[0, 1]]"]);
    asker.send(&resolve(&format!("#:[1 1 {WRAP}]"), 10));
    assert_eq!(brief(&[watcher.event()]), ["8 A[<ok #:[0, 1]>]"]);
    asker.send("[[0 <R 9>]]");
    assert_eq!(brief(&[watcher.event()]), ["7 R"]);
    drop(asker);
    assert_eq!(brief(&[watcher.event()]), ["8 R"]);
    drop(watcher);
    until("nothing is left", || server.index_counts() == (0, 0, 0) && server.connections() == 0);
    until("nothing is owed", || server.total_debt() == 0);
}

#[test]
fn the_answer_to_a_sync_passes_its_peers_caveats() {
    for (caveats, answered) in [(DROP_ALL, None), (WRAP, Some("5 M<told #t>"))] {
        let (_server, address) = start_default();
        let (mut owner, mut giver, mut asker, oid) = limited(address, caveats);
        asker.send(&format!("[[1 <S #:[1 {oid}]>]]"));
        asker.sync();
        assert_eq!(brief(&owner.sync()), Vec::from_iter(answered));
        // The same by way of an entity of a peer's, which answers.
        giver.send("[[1 <A <ent #:[0 60]> 7>]]");
        giver.sync();
        asker.send(&format!("[{}]", observe(&record_pattern("ent", 1), 8, 3)));
        // Of the owner's, which it knows attenuated, and of this.
        let other = asker.sync().iter().filter(|e| e.oid == 8).map(oid_in).max().unwrap();
        asker.send(&format!("[[{other} <S #:[1 {oid}]>]]"));
        let forwarded = std::iter::repeat_with(|| giver.event()).find(|e| e.kind == 'S').unwrap();
        giver.send(&format!("[[{} <M #t>]]", oid_in(&forwarded)));
        giver.sync();
        assert_eq!(brief(&owner.sync()), Vec::from_iter(answered));
    }
}

#[test]
fn an_assertion_at_a_forgotten_entity_counts_for_no_other_of_its_oid() {
    let (_server, address) = start_default();
    let (mut owner, mut other, told) = introduced(address, &[5]);
    let forgotten = oid_in(&told);
    other.send(&format!("[[1 <A <keep #:[1 {forgotten}]> 3>]]"));
    other.sync();
    owner.send("[[1 <R 5>]]");
    owner.sync();
    other.send(&format!("[[{forgotten} <A hi 9>]]"));
    other.sync();
    // Another entity, under the oid that the owner uses again.
    owner.send(&format!("[{}]", observe(&record_pattern("p", 1), 5, 10)));
    owner.sync();
    other.send(&format!("[[{forgotten} <R 9>]]"));
    other.sync();
    // The same observer, if it is still known: else these are two, and each is told.
    owner.send(&format!("[{}]", observe(&record_pattern("p", 1), 5, 11)));
    owner.sync();
    other.send("[[1 <M <p 1>>]]");
    other.sync();
    assert_eq!(brief(&owner.sync()), ["5 M[1]"]);
}

#[test]
fn a_sync_that_will_not_be_answered_gives_back_what_it_held() {
    let quota = Quota { references: 100, ..Limits::default().connection };
    let limits = Limits { connection: quota, ..Limits::default() };
    let (server, address) = start(Config { workers: 2, limits, ..Config::default() });
    let mut asker = observer(address, &[&record_pattern("ent", 1)]);
    for round in 0..3 {
        let mut owner = Client::tcp(address).resolved();
        owner.send("[[1 <A <ent #:[0 5]> 5>]]");
        let told = asker.event();
        // A new reference each time.
        let syncs: String =
            (0..60).map(|n| format!("[{} <S #:[0 {}]>]", oid_in(&told), 100 * round + 100 + n)).collect();
        asker.send(&format!("[{syncs}]"));
        let asked: usize = std::iter::repeat_with(|| owner.turn().len()).take(60).sum();
        assert_eq!(asked, 60);
        drop(owner);
        assert_eq!(asker.event().kind, 'R');
        until("the owner has gone", || server.connections() == 1);
        asker.sync();
    }
    drop(asker);
    until("nothing is owed", || server.total_debt() == 0 && server.connections() == 0);
}

#[test]
fn a_sync_answered_by_a_third_party_ends_the_second_partys_reference() {
    let (_server, address) = start_default();
    let (mut target, mut asker, told) = introduced(address, &[5]);
    asker.send(&format!("[[{} <S #:[0 40]>]]", oid_in(&told)));
    let reply = oid_in(&target.event());
    let (mut third, mut watcher) = (Client::tcp(address).resolved(), Client::tcp(address).resolved());
    for client in [&mut third, &mut watcher] {
        client.send(&format!("[{}]", observe(&record_pattern("reply", 2), 7, 2)));
        client.sync();
    }
    target.send(&format!("[[1 <A <reply #:[1 {reply}] first> 6>]]"));
    let (thirds, watched) = (oid_in(&third.event()), oid_in(&watcher.event()));
    third.send(&format!("[[{thirds} <M #t>]]"));
    assert_eq!(brief(&[asker.event()]), ["40 M#t"]);
    // What it has been told of is told still, and by nothing else.
    third.send(&format!("[[1 <A <reply #:[1 {thirds}] again> 8>]]"));
    third.sync();
    target.send("[[1 <R 6>]]");
    target.sync();
    target.send(&format!("[[1 <A <reply #:[1 {reply}] afterwards> 9>]]"));
    target.sync();
    let events = watcher.sync();
    let oids: Vec<i64> = events.iter().filter(|e| e.kind == 'A').map(oid_in).collect();
    assert_eq!((events.len(), oids[0]), (3, watched), "{events:?}");
    assert_ne!(oids[1], watched, "the reference that the Sync brought has gone");
}

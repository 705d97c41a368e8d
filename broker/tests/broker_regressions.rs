//! One test for each thing that was once wrong, named for what broke.

mod common;

use common::*;

/// What a turn retracted before it failed was forgotten, and stayed for ever.
#[test]
fn a_failed_turn_leaves_its_retractions_to_the_end_of_the_session() {
    let (server, address) = start_default();
    let mut watcher = Client::tcp(address).resolved();
    watcher.send(&format!("[{}]", observe(&record_pattern("x", 1), 7, 2)));
    watcher.sync();
    let failing = [
        // A duplicate handle, behind a retraction; the same with the handle used again.
        "[[1 <R 5>] [1 <A <y 1> 6>] [1 <A <y 1> 6>]]",
        "[[1 <R 5>] [1 <A <x 2> 5>] [1 <A <x 3> 5>]]",
        // A transient reference.
        "[[1 <R 5>] [1 <M <y #:[0 8]>>]]",
    ];
    for packet in failing {
        let mut client = Client::tcp(address).resolved();
        client.send("[[1 <A <x 1> 5>]]");
        assert_eq!(watcher.event().body, "[1]");
        client.send(packet);
        client.ends_with_error();
        assert_eq!(watcher.event().kind, 'R', "{packet}");
    }
    until("they have gone", || server.connections() == 1);
    assert_eq!(watcher.sync(), []);
}

/// A turn refused for its many kinds of pattern left what it had reserved, so that its principal could never ask for
/// any again.
#[test]
fn a_refused_turn_gives_back_what_it_reserved() {
    const SKELETONS_MAX: usize = 20_000;
    let (server, address) = start_default();
    let patterns = |from: usize, count: usize| -> String {
        (from..from + count).map(|n| observe(&format!("<group <rec l{n}> {{}}>"), 7, n as i64 + 10)).collect()
    };
    for _ in 0..2 {
        let mut client = Client::tcp(address).resolved();
        client.send("[[1 <A <x 1> 5>]]");
        client.sync();
        client.send(&format!("[[1 <R 5>] {}]", patterns(0, SKELETONS_MAX + 1)));
        let error = client.ends_with_error();
        assert!(error.contains("20000"), "{error}");
        drop(client);
        until("it has gone", || server.connections() == 0);
        assert_eq!(server.index_counts(), (0, 0, 0), "observers, assertions, skeletons");
    }
    // As many as there may be are there to be had.
    let mut client = Client::tcp(address).resolved();
    client.send(&format!("[{}]", patterns(0, SKELETONS_MAX)));
    assert_eq!(client.sync(), []);
    assert_eq!(server.index_counts(), (SKELETONS_MAX, SKELETONS_MAX, SKELETONS_MAX));
    drop(client);
    until("it has gone", || server.connections() == 0);
    assert_eq!(server.index_counts(), (0, 0, 0));
}

/// A session that hung up while a turn of its waited for something to be built left what that had reserved.
#[test]
fn a_session_that_ends_while_a_turn_waits_leaves_nothing() {
    let (server, address) = start_default();
    let mut holder = Client::tcp(address).resolved();
    let values: Vec<String> = (0..20_000).map(|n| format!("[1 <A <x {n}> {}>]", n + 100)).collect();
    values.chunks(1000).for_each(|some| holder.send(&format!("[{}]", some.concat())));
    holder.sync();
    for n in 0..20 {
        let mut client = Client::tcp(address).resolved();
        client.send("[[1 <A <y 1> 5>]]");
        client.sync();
        client.send(&format!("[[1 <R 5>] {}]", observe(&record_pattern("x", n % 3), 7, 6)));
    }
    drop(holder);
    until("all have gone", || server.connections() == 0);
    assert_eq!(server.index_counts(), (0, 0, 0));
    until("nothing is owed", || server.total_debt() == 0);
}

/// Messages staged for an observer by the fast way could reach its outbox after its Observe was gone, when producer and
/// observer ran on different workers; and a new session with the old one's number could get them.
/// (`observers_come_and_go_while_others_route` is the same with many.)
#[test]
fn nothing_is_sent_after_an_observe_is_gone() {
    let (_server, address) = start_default();
    let mut producer = Client::tcp(address).resolved();
    let burst: Vec<u8> = bytes("[[1 <M <m 1>>]]").repeat(2000);
    for round in 0..50 {
        let mut observer = Client::tcp(address).resolved();
        observer.send(&format!("[{}]", observe(&record_pattern("m", 1), 7, 2)));
        observer.sync();
        producer.send_bytes(&burst);
        if round % 2 == 0 {
            observer.turn();
        }
        observer.send("[[1 <R 2>]]");
        observer.sync();
        assert_eq!(observer.sync(), []);
        drop(observer);
        // Likely with its number.
        let mut successor = Client::tcp(address).resolved();
        assert_eq!(successor.sync(), []);
        assert_eq!(producer.sync(), []);
    }
}

//! What turns, observers and capabilities mean, through real sockets.

mod common;

use common::*;
use staunch::server::Config;

/// A dataspace that observes itself by a wildcard goes round until the cap, and the session that made it so ends.
#[test]
fn a_loop_ends_at_the_cap_with_the_session_that_made_it() {
    let (server, address) = start_default();
    let mut innocent = Client::tcp(address).resolved();
    innocent.send(&format!("[{} [1 <A <here me> 3>]]", observe(&record_pattern("here", 1), 7, 2)));
    assert_eq!(innocent.event().body, "[me]");
    let mut looper = Client::tcp(address).resolved();
    looper.send("[[1 <A <Observe <bind <_>> #:[1 1]> 5>]]");
    let error = looper.ends_with_error();
    assert!(error.contains("32"), "{error}");
    innocent.send("[[1 <M <here again>>]]");
    let events = innocent.sync();
    assert_eq!(events.iter().map(|e| (e.kind, e.body.as_str())).collect::<Vec<_>>(), [('M', "[again]")]);
    // What went round is gone with it: somebody who looks at everything sees only what the innocent has placed.
    let mut watcher = Client::tcp(address).resolved();
    until("what the loop placed goes", || {
        watcher.send(&format!("[{}]", observe("<bind <_>>", 8, 6)));
        let seen = watcher.sync();
        watcher.send("[[1 <R 6>]]");
        watcher.sync();
        seen.iter().filter(|e| e.kind == 'A').count() == 3
    });
    drop(server);
}

/// The same attenuation of the same capability, made by a template for two events, is the same capability.
#[test]
fn capabilities_made_by_a_template_are_the_same_when_they_are_equal() {
    let (_server, address) = start_default();
    let mut client = Client::tcp(address).resolved();
    // The dataspace through which entities in `<e _>` are attenuated becomes oid 2.
    let caveat = "<rewrite <rec e [<bind Embedded>]> <rec e [<attenuate <ref 0> [<reject <lit 1>>]>]>>";
    client.send(&format!(
        "[{} [1 <A <offer #:[1 1 {caveat}]> 3>]]",
        observe(&record_pattern("offer", 1), 7, 2)
    ));
    assert_eq!(client.event().body, "[#:[0, 2]]");
    client.send(&format!("[{}]", observe(&record_pattern("e", 1), 8, 4)));
    client.send("[[2 <A <e #:[0 20]> 5>]] [[2 <A <e #:[0 20]> 6>]]");
    let events = client.sync();
    assert_eq!(events.len(), 1, "equal assertions are one: {events:?}");
    client.send("[[2 <R 5>]]");
    assert_eq!(client.sync(), []);
    client.send("[[2 <R 6>]]");
    assert_eq!(client.sync().iter().map(|e| e.kind).collect::<String>(), "R");
}

/// What a dataspace asserts of itself, since it observes, subscribes nobody, whatever it looks like: that is an
/// assertion like any other, which observers of Observe see. An equal one of a session's subscribes all the same; being
/// equal they are one assertion, and so the subscription lasts until both are gone.
#[test]
fn an_observe_that_a_dataspace_asserts_subscribes_nobody() {
    let (_server, address) = start_default();
    let mut client = Client::tcp(address).resolved();
    // The dataspace observes itself, and unwraps what it captures: so what is wanted, it asserts.
    let unwrapped = "#:[1 1 <rewrite <arr [<bind <_>>]> <ref 0>>]";
    client.send(&format!("[[1 <A <Observe {} {unwrapped}> 3>]]", record_pattern("want", 1)));
    client.send(&format!("[{}]", observe(&record_pattern("Observe", 2), 7, 4)));
    client.sync();
    let observe_x = format!("<Observe {} #:[0 9]>", record_pattern("x", 1));
    client.send(&format!("[[1 <A <want {observe_x}> 5>]]"));
    let seen = client.event();
    assert_eq!((seen.oid, seen.kind), (7, 'A'));
    assert!(seen.body.contains("<rec x>") && seen.body.ends_with("#:[1, 9]]"), "{seen:?}");
    client.send("[[1 <A <x 1> 6>] [1 <M <x 2>>]]");
    assert_eq!(client.sync(), [], "it subscribes nobody");
    client.send(&format!("[[1 <A {observe_x} 8>]]"));
    let told: Vec<_> = client.sync().into_iter().map(|e| (e.oid, e.kind, e.body)).collect();
    assert_eq!(told, [(9, 'A', "[1]".to_owned())], "the session's own does");
    client.send("[[1 <R 8>] [1 <M <x 3>>]]");
    let told: Vec<_> = client.sync().into_iter().map(|e| (e.oid, e.kind, e.body)).collect();
    assert_eq!(told, [(9, 'M', "[3]".to_owned())], "the dataspace's is still there");
    client.send("[[1 <R 5>]]");
    let mut gone = client.turn();
    gone.sort_by_key(|e| e.oid);
    assert_eq!(gone.iter().map(|e| (e.oid, e.kind)).collect::<Vec<_>>(), [(7, 'R'), (9, 'R')]);
    assert_eq!(gone[0].handle, seen.handle);
    client.send("[[1 <M <x 4>>]]");
    assert_eq!(client.sync(), []);
}

/// A turn that asserts and retracts very much does not keep the broker busy for long.
#[test]
fn a_turn_of_brief_assertions_costs_what_it_says() {
    let (_server, address) = start_default();
    let mut client = Client::tcp(address).resolved();
    let mut packet = vec![0xb5];
    let events: Vec<u8> = {
        let asserts: String = (10..100_000).map(|n| format!("[1 <A {n} {n}>]")).collect();
        let retracts: String = (10..100_000).map(|n| format!("[1 <R {n}>]")).collect();
        bytes(&format!("{asserts}{retracts}"))
    };
    packet.extend_from_slice(&events);
    packet.push(0x84);
    client.send_bytes(&packet);
    assert_eq!(client.sync(), []);
}

/// A session that ends by this side is told why, although it is not reading when that happens.
#[test]
fn the_reason_of_an_end_arrives_although_the_socket_is_full() {
    let (_server, address) = start(Config { workers: 2, debt_max: 64 << 20, ..Config::default() });
    for seed in 0..4 {
        let mut client = Client::narrow(address).resolved();
        client.send(&format!("[{}]", observe(&record_pattern("m", 1), 7, 2)));
        client.sync();
        // Fills its own socket and more, then says something that is no packet.
        let body = "x".repeat(1000 + seed * 4000);
        let message = bytes(&format!("[[1 <M <m \"{body}\">>]]"));
        let mut sent = 0;
        while sent < 12_000_000 {
            client.send_bytes(&message);
            sent += message.len();
        }
        client.send_anyway(&bytes("123"));
        let (_, error) = client.rest();
        let error = error.expect("it ends with an Error packet");
        assert!(error.contains("not a packet"), "{error}");
    }
}

//! What one turn may come to: wide ones are refused whole, and whoever multiplies others' turns ends alone.

mod common;

use common::*;
use staunch::server::Config;

/// What one turn may come to here.
const FAN_OUT_MAX: u64 = 1 << 20;

fn broker() -> (staunch::server::Server, std::net::SocketAddr) {
    start(Config { fan_out_max: FAN_OUT_MAX, workers: 2, ..Config::default() })
}

/// A turn of `count` events with a value of some 100 bytes each, `<x n "...">`.
fn turn(count: usize, event: impl Fn(usize, &str) -> String) -> String {
    let text = "t".repeat(80);
    let events: String = (0..count).map(|n| event(n, &format!("<x {n} \"{text}\">"))).collect();
    format!("[{events}]")
}

fn messages(count: usize) -> String {
    turn(count, |_, value| format!("[1 <M {value}>]"))
}

fn assertions(count: usize) -> String {
    turn(count, |n, value| format!("[1 <A {value} {}>]", n + 10))
}

fn observers(address: std::net::SocketAddr, count: i64, oid: impl Fn(i64) -> i64) -> Vec<Client> {
    let observer = |n| {
        let mut client = Client::tcp(address).resolved();
        client.send(&format!("[{}]", observe(&record_pattern("x", 2), oid(n), 5)));
        assert_eq!(client.sync(), []);
        client
    };
    (0..count).map(observer).collect()
}

#[test]
fn a_turn_that_would_come_to_too_much_has_no_effect() {
    let mixed = messages(500).replacen("[1 <M", "[1 <A <also> 1000>] [1 <M", 1);
    for wide in [messages(500), assertions(500), mixed] {
        let (server, address) = broker();
        // 40 times 70 kB, with an oid of its own each, so that nothing is shared.
        let mut observers = observers(address, 40, |n| 10 + n);
        let mut author = Client::tcp(address).resolved();
        let mut other = Client::tcp(address).resolved();
        author.send_anyway(&bytes(&wide));
        let why = author.ends_with_error();
        assert!(why.contains("send it in parts"), "{why}");
        other.send("[[1 <M <x 1 \"small\">>]]");
        assert_eq!(other.sync(), []);
        for observer in &mut observers {
            assert_eq!(observer.event().body, "[1, \"small\"]");
        }
        drop((author, other, observers));
        until("all is repaid", || server.total_debt() == 0);
    }
}

/// What observers are told of assertions that the same turn retracts is two events each.
#[test]
fn retractions_of_what_the_same_turn_asserts_count() {
    let brief = |count| turn(count, |n, value| format!("[1 <A {value} {0}>] [1 <R {0}>]", n + 10));
    let (_server, address) = broker();
    let mut observers = observers(address, 40, |n| 10 + n);
    let mut author = Client::tcp(address).resolved();
    // 40 times 100 assertions of some 160 bytes are within the bound, and with their retractions as well; of 145 they
    // are within it alone.
    author.send(&brief(100));
    author.sync();
    author.send_anyway(&bytes(&brief(145)));
    let why = author.ends_with_error();
    assert!(why.contains("send it in parts"), "{why}");
    for observer in &mut observers {
        assert_eq!(observer.sync().len(), 200);
    }
}

#[test]
fn a_turn_that_all_share_may_be_wide() {
    let (server, address) = broker();
    let mut observers = observers(address, 40, |_| 10);
    let mut author = Client::tcp(address).resolved();
    // What it sends first goes the general way.
    for count in [1, 500, 500] {
        author.send_bytes(&bytes(&messages(count)));
    }
    assert_eq!(author.sync(), []);
    for observer in &mut observers {
        let turns = observer.sync_at(1);
        assert!(turns.iter().map(Vec::len).eq([1, 500, 500]));
    }
    drop((author, observers));
    until("all is repaid", || server.total_debt() == 0);
}

#[test]
fn who_multiplies_the_turns_of_others_ends_alone() {
    for wide in [messages(500), assertions(500)] {
        let (server, address) = broker();
        let mut innocent = observers(address, 3, |n| 10 + n);
        let mut greedy = Client::tcp(address).resolved();
        // Each is a group of its own, and gets all.
        for n in 0..100 {
            greedy.send(&format!("[{}]", observe("<bind <_>>", 10 + n, 10 + n)));
        }
        // It is told of its own observations, many times over.
        greedy.sync();
        let mut author = Client::tcp(address).resolved();
        author.send_bytes(&bytes(&wide));
        assert_eq!(author.sync(), []);
        for observer in &mut innocent {
            let turns = observer.sync_at(1);
            assert!(turns.iter().map(Vec::len).eq([500]), "all of it, in one turn");
        }
        let (events, why) = greedy.rest();
        assert!(events.iter().all(|e| !e.body.contains("<x")), "no part of it");
        let why = why.expect("it is told why");
        assert!(why.contains("multiply"), "{why}");
        drop((author, innocent));
        until("all is repaid", || server.total_debt() == 0);
    }
}

/// Many small connections of one principal, each of which observes once, do not end a small turn's author.
#[test]
fn a_crowd_of_one_principal_does_not_end_who_sends_little() {
    for little in [messages(20), assertions(20)] {
        let (server, address) = broker();
        let mut innocent = observers(address, 3, |n| 10 + n);
        let source = "127.0.0.2".parse().unwrap();
        let crowd = (0..400).map(|n| {
            let mut client = Client::tcp_from(source, address).resolved();
            client.send(&format!("[{}]", observe(&record_pattern("x", 2), 10 + n, 5)));
            client.sync();
            client
        });
        let crowd: Vec<Client> = crowd.collect();
        let mut author = Client::tcp(address).resolved();
        author.send_bytes(&bytes(&little));
        assert_eq!(author.sync(), []);
        for observer in &mut innocent {
            assert!(observer.sync_at(1).iter().map(Vec::len).eq([20]), "all of it, in one turn");
        }
        // So many go as need be, and the rest gets what it is to get.
        let told: Vec<_> = crowd
            .into_iter()
            .map(|mut client| {
                client.send_anyway(&bytes("[[1 <S #:[0 1]>]]"));
                client.finish_anyway();
                client.rest()
            })
            .collect();
        let ended = told.iter().filter_map(|(_, why)| why.as_ref());
        let ended =
            ended.inspect(|why| assert!(why.contains("of one principal that multiply"), "{why}")).count();
        assert!((50..300).contains(&ended), "{ended} ended");
        drop((author, innocent));
        until("all is repaid", || server.total_debt() == 0 && server.index_counts() == (0, 0, 0));
    }
}

/// The same crowd is not to blame for a turn that is large itself.
#[test]
fn a_crowd_does_not_end_for_who_sends_much() {
    let (_server, address) = broker();
    let mut crowd = observers(address, 40, |n| 10 + n);
    let mut author = Client::tcp_from("127.0.0.2".parse().unwrap(), address).resolved();
    author.send_anyway(&bytes(&assertions(500)));
    assert!(author.ends_with_error().contains("send it in parts"));
    crowd.iter_mut().for_each(|observer| assert_eq!(observer.sync(), []));
}

/// Who has a few observations of a kind is not to blame for a turn that is large itself: not for its events, whatever
/// others observe, nor for its bytes.
#[test]
fn who_observes_in_several_ways_does_not_end_for_who_sends_much() {
    let gateway = |address| {
        let mut client = Client::tcp(address).resolved();
        (0..20).for_each(|n| client.send(&format!("[{}]", observe(&record_pattern("x", 2), 10 + n, 10 + n))));
        client.sync();
        client
    };
    let (_server, address) = start(Config { workers: 2, ..Config::default() });
    let mut innocent = gateway(address);
    let mut author = Client::tcp_from("127.0.0.2".parse().unwrap(), address).resolved();
    let idle: String = (0..1000).map(|n| observe(&format!("<lit {n}>"), 5, 10 + n)).collect();
    author.send_bytes(&bytes(&format!("[{idle}]")));
    author.send_bytes(&bytes(&messages(1100)));
    assert_eq!(innocent.turn().len(), 20 * 1100);
    author.sync();

    let (_server, address) = broker();
    let mut innocent = gateway(address);
    for much in [messages(500), assertions(500)] {
        let mut author = Client::tcp_from("127.0.0.2".parse().unwrap(), address).resolved();
        author.send_anyway(&bytes(&much));
        let why = author.ends_with_error();
        assert!(why.contains("send it in parts"), "{why}");
        assert_eq!(innocent.sync(), []);
    }
}

/// Observations that come with the turn itself multiply it as well.
#[test]
fn who_multiplies_its_own_turn_ends() {
    let (server, address) = broker();
    let mut greedy = Client::tcp(address).resolved();
    let observations: String = (0..100).map(|n| observe("<bind <_>>", 10 + n, 1000 + n)).collect();
    greedy.send_anyway(&bytes(&format!("[{observations}{}", &messages(500)[1..])));
    let (events, why) = greedy.rest();
    assert!(events.iter().all(|e| !e.body.contains("<x")), "no part of it");
    let why = why.expect("it is told why");
    assert!(why.contains("multiply"), "{why}");
    until("all is repaid", || server.total_debt() == 0);
}

/// The same with capabilities in what is multiplied.
#[test]
fn who_multiplies_messages_with_references_ends_alone() {
    let (server, address) = broker();
    let (mut owner, mut greedy, told) = introduced(address, &[5]);
    assert_eq!(told.oid, 7);
    for n in 0..100 {
        greedy.send(&format!("[{}]", observe("<bind <_>>", 10 + n, 10 + n)));
    }
    greedy.sync();
    let text = "t".repeat(80);
    let events: String = (0..500).map(|n| format!("[1 <M <x {n} \"{text}\" #:[0 5]>>]")).collect();
    owner.send_bytes(&bytes(&format!("[{events}]")));
    owner.sync();
    let why = greedy.ends_with_error();
    assert!(why.contains("multiply"), "{why}");
    drop(owner);
    until("all is repaid", || server.total_debt() == 0);
}

/// However many observations one client makes of what others send: they go on, and get what they are to get.
#[test]
fn many_observations_of_one_client_do_not_end_those_who_send() {
    for (observations, bytes_sent) in [(1000, 300_000), (20_000, 4500)] {
        let (server, address) = start(Config { workers: 2, ..Config::default() });
        let mut innocent = Client::tcp(address).resolved();
        innocent.send(&format!("[{}]", observe(&record_pattern("doc", 1), 7, 5)));
        let mut greedy = Client::tcp(address).resolved();
        for n in 0..observations {
            // Some are ended for that already.
            greedy.send_anyway(&bytes(&format!("[{}]", observe(&record_pattern("doc", 1), 10 + n, 10 + n))));
        }
        innocent.sync();
        let mut author = Client::tcp(address).resolved();
        author.send("[[1 <M <other 0>>]]");
        let text = "x".repeat(bytes_sent);
        author.send_bytes(&bytes(&format!("[[1 <M <doc \"{text}\">>]]")));
        assert_eq!(author.sync(), []);
        assert_eq!(innocent.event().body.len(), bytes_sent + 4);
        drop((author, greedy, innocent));
        until("all is repaid", || server.total_debt() == 0 && server.index_counts() == (0, 0, 0));
    }
}

/// A capability that the turn itself introduces, used many times over in a turn that is shed.
#[test]
fn a_share_may_be_shed_while_a_message_with_a_reference_is_staged() {
    let (server, address) = broker();
    let mut innocent = Client::tcp(address).resolved();
    innocent.send(&format!("[{}]", observe(&record_pattern("x", 2), 7, 2)));
    innocent.sync();
    let mut greedy = Client::tcp(address).resolved();
    (0..100).for_each(|n| greedy.send(&format!("[{}]", observe("<bind <_>>", 10 + n, 10 + n))));
    greedy.sync();
    let mut owner = Client::tcp(address).resolved();
    let text = "t".repeat(80);
    let events: String = (0..250).map(|n| format!("[1 <M <x {n} \"{text}\" #:[0 5]>>]")).collect();
    owner.send_bytes(&bytes(&format!("[[1 <A <x keep \"t\" #:[0 5]> 3>]{events}]")));
    owner.sync();
    assert!(greedy.ends_with_error().contains("multiply"));
    let told: usize = innocent.sync_at(1).iter().map(Vec::len).sum();
    assert_eq!(told, 251);
    drop((owner, innocent));
    until("all is repaid", || server.total_debt() == 0 && server.index_counts() == (0, 0, 0));
    balanced(&server);
}

/// A turn of many messages, times many observations: who makes these goes first.
#[test]
fn a_turn_waits_until_who_multiplies_it_has_gone() {
    let (server, address) = start(Config { workers: 2, ..Config::default() });
    let mut innocent = Client::tcp(address).resolved();
    innocent.send(&format!("[{}]", observe(&record_pattern("x", 0), 7, 2)));
    innocent.sync();
    // On the way of messages alone, and on the general one.
    for first in ["", "[1 <A <y> 3>]"] {
        let mut greedy = Client::tcp(address).resolved();
        for n in 0..100 {
            greedy.send_anyway(&bytes(&format!("[{}]", observe("<group <rec x> {}>", 10 + n, 10 + n))));
        }
        let mut author = Client::tcp(address).resolved();
        author.send_bytes(&bytes(&format!("[[1 <M <start>>]] [{first}{}]", "[1 <M <x>>]".repeat(20_000))));
        assert_eq!(author.sync(), []);
        let told: usize = innocent.sync_at(1).iter().map(Vec::len).sum();
        assert_eq!(told, 20_000);
        assert!(greedy.rest().1.is_some());
    }
    drop(innocent);
    until("all is repaid", || server.total_debt() == 0 && server.index_counts() == (0, 0, 0));
}

/// What captures lie within each other multiplies a value.
#[test]
fn captures_within_each_other_have_a_bound() {
    let (_server, address) = broker();
    for (depth, is_allowed) in [(8, true), (9, false)] {
        let pattern = format!("{}<_>{}", "<bind ".repeat(depth), ">".repeat(depth));
        let mut client = Client::tcp(address).resolved();
        client.send_anyway(&bytes(&format!("[{}]", observe(&pattern, 10, 10))));
        match is_allowed {
            true => _ = client.sync(),
            false => {
                let why = client.ends_with_error();
                assert!(why.contains("captures within each other"), "{why}");
            }
        }
    }
}

/// A dataspace that observes itself doubles what it is told with each hop: of all that one turn sets going so, together, no
/// more waits than one turn may come to.
#[test]
fn what_a_dataspace_multiplies_in_its_own_turns_has_a_bound() {
    let (debt_max, fan_out_max) = (64 << 10, 1 << 20);
    let (server, address) = start(Config { workers: 2, debt_max, fan_out_max, ..Config::default() });
    let mut client = Client::tcp(address).resolved();
    // Sequences, which captures lists are, and the observation itself is not.
    client.send("[[1 <A <Observe <bind <bind <group <arr> {}>>> #:[1 1]> 10>]]");
    client.sync();
    client.send_anyway(&bytes(&format!("[{}]", format!("[1 <M [\"{}\"]>]", "x".repeat(100)).repeat(256))));
    let mut owed_most = 0;
    until("whoever observes so ends", || {
        owed_most = owed_most.max(server.total_debt());
        server.connections() == 0 || matches!(client.next_within(std::time::Duration::ZERO), Came::Error(_))
    });
    drop(client);
    until("all is repaid", || {
        owed_most = owed_most.max(server.total_debt());
        server.total_debt() == 0 && server.index_counts() == (0, 0, 0)
    });
    // What its own turn came to, and what the last event became.
    assert!(owed_most <= debt_max + 3 * fan_out_max, "{owed_most} was owed");
    balanced(&server);
}

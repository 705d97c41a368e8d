//! Turns stay whole and in order, and observers are told what is theirs, through real sockets.

mod common;

use std::collections::HashMap;

use common::*;

/// A turn's events reach each observer as one turn, whatever others do meanwhile: messages by the fast way, messages
/// with capabilities by the general one, and updates in place.
#[test]
fn turns_of_several_producers_do_not_interleave() {
    const PRODUCERS: u64 = 4;
    const TURNS: u64 = 400;
    let (_server, address) = start_default();
    let mut observers: Vec<Client> = (0..2).map(|_| Client::tcp(address).resolved()).collect();
    for observer in &mut observers {
        let (three, two) = (record_pattern("t", 3), record_pattern("state", 2));
        observer.send(&format!("[{} {}]", observe(&three, 7, 2), observe(&two, 8, 3)));
        observer.sync();
    }
    std::thread::scope(|scope| {
        // They stay until the end, and so does what they asserted.
        let mut producers = Vec::new();
        for p in 0..PRODUCERS {
            producers.push(scope.spawn(move || {
                let mut producer = Client::tcp(address).resolved();
                producer.send(&format!("[[1 <A <state {p} 0> 1000>]]"));
                for n in 1..=TURNS {
                    let message = |i: u64| format!("[1 <M <t {p} {n} {i}>>]");
                    producer.send(&match n % 3 {
                        0 => format!("[{}]", (0..5).map(message).collect::<String>()),
                        // A Sync sends the turn by the general way.
                        1 => format!("[{} [1 <S #:[0 99]>]]", (0..5).map(message).collect::<String>()),
                        // The old goes as the new comes.
                        _ => {
                            let (new, old) = (1000 + n, if n == 2 { 1000 } else { 1000 + n - 3 });
                            format!("[[1 <A <state {p} {n}> {new}>] [1 <R {old}>]]")
                        }
                    });
                }
                producer.sync();
                producer
            }));
        }
        let producers: Vec<Client> = producers.into_iter().map(|p| p.join().unwrap()).collect();
        for observer in &mut observers {
            watch_turns(observer, PRODUCERS, TURNS);
        }
        drop(producers);
    });
}

fn watch_turns(observer: &mut Client, producers: u64, turns: u64) {
    let mut last: HashMap<String, u64> = HashMap::new();
    let mut states: HashMap<i64, String> = HashMap::new();
    let mut updates_left = producers * ((turns + 1) / 3);
    let mut turns_left = producers * turns - updates_left;
    while turns_left > 0 || updates_left > 0 {
        let turn = observer.turn();
        if turn[0].oid == 7 {
            assert_eq!(turn.len(), 5, "a whole turn, and nothing else: {turn:?}");
            let (producer, number) = {
                let mut parts = turn[0].body.trim_matches(['[', ']']).split(", ");
                (parts.next().unwrap().to_owned(), parts.next().unwrap().parse::<u64>().unwrap())
            };
            for (i, event) in turn.iter().enumerate() {
                assert_eq!(event.body, format!("[{producer}, {number}, {i}]"));
            }
            let before = last.insert(producer, number).unwrap_or(0);
            assert!(number > before, "in the order sent");
            turns_left -= 1;
        } else if turn.len() == 1 {
            assert_eq!(turn[0].kind, 'A', "a state begins: {turn:?}");
            states.insert(turn[0].handle, turn[0].body.clone());
        } else {
            assert_eq!(turn.iter().map(|e| e.kind).collect::<String>(), "AR", "{turn:?}");
            states.insert(turn[0].handle, turn[0].body.clone());
            let old = states.remove(&turn[1].handle).expect("it was told before");
            let producer = |state: &str| state.split(',').next().unwrap().to_owned();
            assert_eq!(producer(&old), producer(&turn[0].body));
            updates_left -= 1;
        }
    }
    assert_eq!(states.len() as u64, producers);
}

#[test]
fn two_observers_of_one_pattern_in_a_session_have_their_own_handles() {
    let (_server, address) = start_default();
    let mut client = Client::tcp(address).resolved();
    let pattern = record_pattern("x", 1);
    client.send(&format!(
        "[{} {}] [[1 <A <x 1> 10>] [1 <A <x 2> 11>]]",
        observe(&pattern, 7, 2),
        observe(&pattern, 8, 3)
    ));
    let events = client.sync();
    assert_eq!(events.len(), 4);
    let mut handles: Vec<i64> = events.iter().map(|e| e.handle).collect();
    handles.sort_unstable();
    handles.dedup();
    assert_eq!(handles.len(), 4, "a handle names one assertion within a session: {events:?}");
    client.send("[[1 <R 10>]]");
    let gone = client.sync();
    let told = |oid| events.iter().find(|e| e.oid == oid && e.body == "[1]").unwrap().handle;
    let mut expected = [(7, told(7)), (8, told(8))];
    let mut retracted: Vec<(i64, i64)> = gone.iter().map(|e| (e.oid, e.handle)).collect();
    retracted.sort_unstable();
    expected.sort_unstable();
    assert_eq!(retracted, expected);
}

/// An observer behind caveats beside a plain one: it is told what they make of things, and nothing of what they drop,
/// neither its coming nor its going; from the state that is there as from what comes later.
#[test]
fn an_attenuated_observer_sees_what_its_caveats_leave() {
    for already_there in [0, 10, 2000] {
        let (_server, address) = start_default();
        let (mut owner, mut asker, told) = introduced(address, &[50, 51]);
        assert_eq!(told.body, "[#:[0, 2], #:[0, 3]]");
        let values: Vec<String> =
            (0..already_there).map(|n| format!("[1 <A <x {n}> {}>]", n + 100)).collect();
        values.chunks(100).for_each(|some| asker.send(&format!("[{}]", some.concat())));
        // Drops odd numbers below 10 and marks the others; the newest caveat comes first.
        let odd = (0..5).map(|n| format!("<reject <arr [<lit {}>]>>", 2 * n + 1)).collect::<String>();
        let caveats = format!("<rewrite <arr [<bind <_>>]> <arr [<lit seen> <ref 0>]>> {odd}");
        let pattern = record_pattern("x", 1);
        asker.send(&format!(
            "[[1 <A <Observe {pattern} #:[1 2 {caveats}]> 10>] [1 <A <Observe {pattern} #:[1 3]> 11>]]"
        ));
        let passes = |n: i64| n >= 10 || n % 2 == 0;
        asker.send("[[1 <A <x 20000> 90000>] [1 <A <x 3> 90001>] [1 <M <x 5>>] [1 <M <x 4>>]]");
        asker.sync();
        let expected_plain = already_there as usize + if already_there > 3 { 1 } else { 2 };
        let expected_seen = (0..already_there).filter(|n| passes(*n)).count() + 1;
        let mut told = receive(&mut owner, expected_seen + 1, expected_plain + 2);
        assert_eq!(told.seen.values().filter(|body| **body == "[seen, 20000]").count(), 1);
        assert!(told.seen.values().all(|body| body.starts_with("[seen, ") && body != "[seen, 3]"));
        assert_eq!(told.seen.len(), expected_seen);
        assert_eq!(told.plain.len(), expected_plain);
        assert_eq!(
            told.messages,
            ["51 [5]", "50 [seen, 4]", "51 [4]"].map(str::to_owned).into_iter().collect()
        );
        // Nothing is retracted of what was not told.
        asker.send("[[1 <R 90001>] [1 <R 90000>]]");
        asker.send("[[1 <R 10>] [1 <R 11>]]");
        asker.sync();
        while !told.seen.is_empty() || !told.plain.is_empty() {
            for event in owner.turn() {
                assert_eq!(event.kind, 'R');
                let told = if event.oid == 50 { &mut told.seen } else { &mut told.plain };
                assert!(told.remove(&event.handle).is_some(), "{event:?} was never told");
            }
        }
    }
}

#[derive(Default)]
struct Told {
    seen: HashMap<i64, String>,
    plain: HashMap<i64, String>,
    messages: std::collections::BTreeSet<String>,
}

/// Receives so many events at 50 (behind caveats) and 51.
fn receive(owner: &mut Client, mut seen: usize, mut plain: usize) -> Told {
    let mut told = Told::default();
    while seen > 0 || plain > 0 {
        for event in owner.turn() {
            let (left, map) = match event.oid {
                50 => (&mut seen, &mut told.seen),
                _ => (&mut plain, &mut told.plain),
            };
            *left = left.checked_sub(1).unwrap_or_else(|| panic!("too much: {event:?}"));
            match event.kind {
                'A' => assert!(map.insert(event.handle, event.body).is_none()),
                'M' => assert!(told.messages.insert(format!("{} {}", event.oid, event.body))),
                _ => panic!("{event:?}"),
            }
        }
    }
    told
}

/// A Sync at an entity of another client goes there and comes back; until it does it is owed for.
#[test]
fn a_sync_passes_through_a_proxy() {
    let (server, address) = start_default();
    let (mut owner, mut asker, told) = introduced(address, &[50]);
    assert_eq!(told.body, "[#:[0, 2]]");
    asker.send("[[2 <M before>] [2 <S #:[0 60]>] [2 <M after>]]");
    let mut at_owner = owner.turn();
    while at_owner.len() < 3 {
        at_owner.extend(owner.turn());
    }
    let mut kinds: Vec<(char, &str)> = at_owner.iter().map(|e| (e.kind, e.body.as_str())).collect();
    let peer = kinds.iter().find(|(kind, _)| *kind == 'S').unwrap().1.to_owned();
    kinds.retain(|(kind, _)| *kind == 'M');
    assert_eq!(kinds, [('M', "before"), ('M', "after")]);
    assert!(at_owner.iter().all(|e| e.oid == 50));
    until("what is owed is owed for the Sync", || server.total_debt() == 32);
    balanced(&server);
    let oid: i64 = peer.trim_start_matches("#:[0, ").trim_end_matches(']').parse().unwrap();
    // Answering twice is answering once.
    owner.send(&format!("[[{oid} <M #t>] [{oid} <M #t>]]"));
    let answer = asker.event();
    assert_eq!((answer.oid, answer.kind, answer.body.as_str()), (60, 'M', "#t"));
    assert_eq!(asker.sync(), []);
    until("nothing is owed", || server.total_debt() == 0);
    // An owner that goes without answering leaves nobody in debt.
    asker.send("[[2 <S #:[0 61]>]]");
    assert_eq!(owner.turn()[0].kind, 'S');
    until("it is owed for again", || server.total_debt() == 32);
    drop(owner);
    until("nothing is owed", || server.total_debt() == 0);
    assert_eq!(asker.sync().iter().map(|e| e.kind).collect::<String>(), "R", "the owner's assertion went");
    balanced(&server);
}

/// A dataspace that observes itself is told of a large state, and of its end, as any observer is.
#[test]
fn a_dataspace_that_observes_is_told_of_a_large_state() {
    const COUNT: usize = 5000;
    let (server, address) =
        start(staunch::server::Config { workers: 2, debt_max: 100_000, ..Default::default() });
    let mut client = Client::tcp(address).resolved();
    let values: Vec<String> = (0..COUNT).map(|n| format!("[1 <A <x {n}> {}>]", n + 100)).collect();
    values.chunks(100).for_each(|some| client.send(&format!("[{}]", some.concat())));
    // What it is told of as `<x N>` it places as `[N]`.
    client.send(&format!("[[1 <A <Observe {} #:[1 1]> 10>]]", record_pattern("x", 1)));
    client.send("[[1 <A <Observe <group <arr> {0: <bind <_>>}> #:[0 9]> 11>]]");
    let mut told: HashMap<i64, String> = HashMap::new();
    while told.len() < COUNT {
        let Came::Turn(turn) = client.next_within(std::time::Duration::from_secs(3)) else {
            panic!("{} {:?} {:?} {:?}", told.len(), server.debts(), server.holdings(), server.index_counts())
        };
        for event in turn {
            assert_eq!(event.kind, 'A');
            assert!(told.insert(event.handle, event.body).is_none());
        }
    }
    client.send("[[1 <A <x 77777> 90000>] [1 <R 100>]]");
    let (new, gone) = (client.event(), client.event());
    assert_eq!((new.kind, new.body.as_str()), ('A', "[77777]"));
    assert_eq!((gone.kind, told.remove(&gone.handle).as_deref()), ('R', Some("[0]")));
    told.insert(new.handle, new.body);
    client.send("[[1 <R 10>]]");
    while !told.is_empty() {
        for event in client.turn() {
            assert!(event.kind == 'R' && told.remove(&event.handle).is_some(), "{event:?}");
        }
    }
    client.sync();
    until("nothing is owed", || server.total_debt() == 0);
    balanced(&server);
}

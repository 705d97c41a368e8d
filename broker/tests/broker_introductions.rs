//! Capabilities reach a peer in an assertion before anything that uses them, whoever sends what.

mod common;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use common::*;

/// One session keeps on asserting and retracting what introduces a capability to an observer, while another sends it
/// messages with that capability in them. A message may come only while the observer knows the capability; the others
/// are dropped, and counted.
#[test]
fn no_message_overtakes_the_assertion_that_introduces_its_capability() {
    const ROUNDS: u64 = 3000;
    let mut random = Random::new("introductions");
    let seed = random.next();
    let (server, address) = start_default();
    let (_keeper, mut sayer, told) = introduced(address, &[50]);
    assert_eq!(told.body, "[#:[0, 2]]");
    let mut owner = Client::tcp(address).resolved();
    owner.send(&format!("[{}]", observe(&record_pattern("ent", 1), 7, 2)));
    assert_eq!(owner.event().body, "[#:[0, 2]]");
    let mut watcher = Client::tcp(address).resolved();
    let (key, say, plain) = (record_pattern("key", 1), record_pattern("say", 3), record_pattern("plain", 1));
    let observes = [observe(&key, 7, 2), observe(&say, 8, 3), observe(&plain, 9, 4)];
    watcher.send(&format!("[{}]", observes.concat()));
    watcher.sync();

    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..ROUNDS {
                // What follows in the turn keeps it under way for a while after the capability has been staged.
                let fill = (0..random.below(300)).map(|n| format!("[1 <A <fill {n}> {}>]", 1000 + n));
                let fill: Vec<String> = fill.collect();
                let clear: String =
                    (0..fill.len()).map(|n| format!("[1 <R {}>]", 1000 + n)).collect::<String>();
                // At times the same turn takes it back and gives it anew.
                let anew = match random.below(4) {
                    0 => "[1 <R 900>] [1 <A <key #:[1 2]> 900>]",
                    _ => "",
                };
                owner.send(&format!("[[1 <A <key #:[1 2]> 900>] {anew} {}]", fill.concat()));
                if random.below(2) == 0 {
                    owner.sync();
                }
                owner.send(&format!("[{clear} [1 <R 900>] [1 <A <lap {round}> {}>]]", 10_000 + round));
            }
            owner.sync();
            // Relaxed: only that it comes through matters.
            is_over.store(true, Ordering::Relaxed);
        });
        scope.spawn(|| {
            let (mut n, mut random) = (0, Random(seed));
            while !is_over.load(Ordering::Relaxed) {
                let some = (0..20).map(|i| {
                    // Some are so large that outboxes share them.
                    let pad = "x".repeat(if random.below(20) == 0 { 5000 } else { 3 });
                    let say = format!("[1 <M <say {} #:[1 2] \"{pad}\">>]", n + i);
                    // What stands around one that is dropped arrives.
                    format!("[[1 <M <plain {}>>] {say} [1 <M <plain {}>>]]", 2 * (n + i), 2 * (n + i) + 1)
                });
                sayer.send(&some.collect::<String>());
                n += 20;
                sayer.sync();
            }
            sayer.send("[[1 <M <say over 0 0>>]]");
        });
        let mut known: HashMap<i64, String> = HashMap::new();
        let (mut came, mut plain, mut over) = (0, 0, false);
        while !over {
            for event in watcher.turn() {
                match (event.oid, event.kind) {
                    (7, 'A') => _ = known.insert(event.handle, event.body),
                    (7, 'R') => _ = known.remove(&event.handle).expect("it was told"),
                    (8, 'M') if event.body.contains("over") => over = true,
                    (9, 'M') => {
                        assert_eq!(event.body, format!("[{plain}]"));
                        plain += 1;
                    }
                    (8, 'M') => {
                        let (reference, pad) =
                            event.body.split_once(", ").unwrap().1.split_once(", \"").unwrap();
                        assert!([3 + 2, 5000 + 2].contains(&pad.len()));
                        let is_known = known.values().any(|k| *k == format!("[{reference}]"));
                        assert!(is_known, "{} after {came}, known are {known:?}", event.body);
                        came += 1;
                    }
                    _ => panic!("{event:?}"),
                }
            }
        }
        let dropped = server.counts().into_iter().find(|(name, _)| *name == "transient drops").unwrap().1;
        println!("{came} came, {dropped} were dropped");
        assert!(came > 0 && dropped > 0, "both happen");
    });
}

//! Many observers get what each of them asked for, in order and in whole turns, whoever else gets the same.

mod common;

use common::*;

/// The labels of messages: each observer asks for some of them.
const LABELS: usize = 5;

/// An observer, the labels that it asked for with the oids that their events come to.
struct Observer {
    client: Client,
    asked: Vec<(usize, i64)>,
}

/// Random observers: some alike, so that they share what is staged; some with oids of their own, some with oids that
/// are too long to be copied the short way, some that ask for several things or for one thing twice.
fn observers(random: &mut Random, address: std::net::SocketAddr) -> Vec<Observer> {
    let count = 2 + random.below(24);
    let observer = |random: &mut Random| {
        let mut client = Client::tcp(address).resolved();
        let asks = 1 + random.below(3) * random.below(2);
        let asked: Vec<(usize, i64)> = (0..asks as i64)
            .map(|i| {
                let label = random.below(if asks == 1 { 2 } else { LABELS as u64 }) as usize;
                let oid = match random.below(8) {
                    0 => 1000 + random.below(100) as i64 * 10 + i,
                    1 => i64::MAX - i,
                    _ => 10 + i,
                };
                (label, oid)
            })
            .collect();
        for (i, (label, oid)) in asked.iter().enumerate() {
            let pattern = record_pattern(&format!("l{label}"), 2);
            client.send(&format!("[{}]", observe(&pattern, *oid, 100 + i as i64)));
        }
        assert_eq!(client.sync(), []);
        Observer { client, asked }
    };
    (0..count).map(|_| observer(random)).collect()
}

/// What a turn is to an observer: for each message, by each thing that it asked for.
fn expected(turn: &[(usize, u64)], observer: &Observer) -> Vec<(i64, String)> {
    let mut events: Vec<(i64, String)> = Vec::new();
    for (label, number) in turn {
        let asked = observer.asked.iter().filter(|(l, _)| l == label);
        events.extend(asked.map(|(_, oid)| (*oid, format!("[{number}, \"x\"]"))));
    }
    events
}

#[test]
fn each_observer_gets_what_it_asked_for() {
    let mut random = Random::new("each_observer_gets_what_it_asked_for");
    for round in 0..24 {
        let (server, address) =
            start(staunch::server::Config { workers: 1 + round % 2, ..staunch::server::Config::default() });
        let mut observers = observers(&mut random, address);
        let mut producer = Client::tcp(address).resolved();
        let (mut turns, mut packets, mut number) = (Vec::new(), String::new(), 0);
        for _ in 0..600 {
            let count = if random.below(4) == 0 { 1 + random.below(4) } else { 1 };
            let turn: Vec<(usize, u64)> = (0..count)
                .map(|_| {
                    number += 1;
                    // Mostly the labels that everybody asks for; what else comes is what parts them.
                    let labels = if random.below(16) == 0 { LABELS as u64 } else { 2 };
                    (random.below(labels) as usize, number)
                })
                .collect();
            let events: String =
                turn.iter().map(|(label, number)| format!("[1 <M <l{label} {number} \"x\">>]")).collect();
            packets.push_str(&format!("[{events}]"));
            turns.push(turn);
        }
        // In one go, so that the broker has many turns at hand at once.
        producer.send_bytes(&bytes(&packets));
        producer.sync();
        for observer in &mut observers {
            let came: Vec<Vec<(i64, String)>> = observer
                .client
                .sync_at(1)
                .into_iter()
                .map(|turn| turn.into_iter().map(|e| (e.oid, e.body)).collect())
                .collect();
            let wanted: Vec<Vec<(i64, String)>> =
                turns.iter().map(|turn| expected(turn, observer)).filter(|turn| !turn.is_empty()).collect();
            assert_eq!(came.len(), wanted.len(), "round {round}: so many turns");
            for (came, wanted) in came.into_iter().zip(wanted) {
                // Several observations of one session may be told in any order, message by message.
                let sorted = |mut turn: Vec<(i64, String)>| {
                    turn.sort_by(|a, b| (&a.1, a.0).cmp(&(&b.1, b.0)));
                    turn
                };
                let order = |turn: &[(i64, String)]| turn.iter().map(|e| e.1.clone()).collect::<Vec<_>>();
                assert_eq!(order(&came), order(&wanted), "round {round}: in the order sent");
                assert_eq!(sorted(came), sorted(wanted), "round {round}");
            }
        }
        drop((producer, observers));
        until("all is repaid", || server.total_debt() == 0);
    }
}

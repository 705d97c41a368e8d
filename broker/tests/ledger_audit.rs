//! The audit: that what is owed is what waits, whenever that is looked at, and by whom it can be asked for.

mod common;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::ledger::*;
use common::*;
use staunch::server::{Config, LedgerConfig, NotPaused, Server};

fn config() -> Config {
    let ledger = LedgerConfig { every: Duration::from_millis(5), ..LedgerConfig::default() };
    Config {
        workers: 2,
        debt_max: 100_000,
        send_buffer: 4096,
        receive_buffer: 65536,
        ledger,
        ..Config::default()
    }
}

/// Sends small and large messages, asserts and retracts, asks for Syncs, and comes anew now and then.
fn noise(address: SocketAddr, seed: u64, is_over: &AtomicBool) {
    let mut random = Random(seed | 1);
    // Relaxed: a sign to end.
    while !is_over.load(Ordering::Relaxed) {
        let mut client = Client::tcp(address).resolved();
        client.send(&format!("[{}]", observe(&record_pattern("m", 1), 7, 2)));
        for handle in 10..10 + random.below(40) {
            let body = "x".repeat(random.below(6000) as usize);
            client.send(&format!("[[1 <M <m \"{body}\">>] [1 <A <m {handle}> {handle}>]]"));
            if random.below(2) == 0 {
                client.send(&format!("[[1 <R {handle}>]]"));
            }
            if random.below(3) == 0 {
                client.sync();
            }
        }
        match random.below(3) {
            0 => client.kill(),
            1 => _ = client.sync(),
            _ => drop(client),
        }
    }
}

#[test]
fn the_books_balance_while_everything_moves() {
    let (server, address) = start(config());
    let mut random = Random::new("the_books_balance_while_everything_moves");
    // One that holds much.
    let mut slow = Client::narrow(address).resolved();
    slow.send(&format!("[{}]", observe(&record_pattern("m", 1), 7, 2)));
    let is_over = AtomicBool::new(false);
    let (mut audits, mut owed) = (0, 0);
    std::thread::scope(|scope| {
        for seed in [random.next(), random.next(), random.next()] {
            scope.spawn({
                let is_over = &is_over;
                move || noise(address, seed, is_over)
            });
        }
        until("there were many audits", || {
            // Somebody who is held back goes on.
            slow.next_within(Duration::from_millis(1));
            match server.pause_and_audit() {
                Ok(audit) => {
                    assert_eq!(audit.imbalance, None, "{audit:?}");
                    assert_eq!(audit.debt, audit.outstanding);
                    audits += 1;
                    owed += u32::from(audit.debt > 0);
                }
                // The broker looks at itself, or the machine is busy.
                Err(NotPaused::Busy | NotPaused::Late) => {}
            }
            audits >= 300 && owed >= 50
        });
        is_over.store(true, Ordering::Relaxed);
        // All can end only if somebody reads.
        until("it is over", || {
            slow.next_within(Duration::from_millis(1));
            server.connections() == 1
        });
    });
}

/// Asks, by `client`, whose oid 1 is the ledger, and returns the response.
fn ask(client: &mut Client, id: &str, handle: i64) -> String {
    let pattern = format!("<group <rec a> {{0: <group <rec audit> {{0: <lit {id}>}}> 1: <bind <_>>}}>");
    client.send(&format!("[{}]", observe(&pattern, 20 + handle, 20 + handle)));
    client.send(&format!("[[1 <A <q <audit {id}>> {handle}>]]"));
    let answer = client.event();
    assert_eq!((answer.kind, answer.oid), ('A', 20 + handle));
    answer.body
}

fn check_asked(server: &Server, address: SocketAddr) {
    let mut client = at_ledger(Client::tcp(address));
    let answer = ask(&mut client, "\"one\"", 5);
    assert!(answer.starts_with("[<ok <audited "), "{answer}");
    // It goes with the question, and asked anew it is answered anew.
    client.send("[[1 <R 5>]]");
    assert_eq!(client.event().kind, 'R');
    let again = ask(&mut client, "\"two\"", 6);
    assert!(again.starts_with("[<ok <audited ") && again != answer, "{again}");
    // Who asks as well is told the same.
    let mut other = at_ledger(Client::tcp(address));
    let same = ask(&mut other, "\"two\"", 5);
    assert!(same.starts_with("[<ok <audited "), "{same}");
    until("nothing is owed", || server.total_debt() == 0);
}

#[test]
fn who_may_observe_the_ledger_may_ask() {
    let (server, address) = start(config());
    check_asked(&server, address);
}

#[test]
fn one_worker_can_stand_still_for_itself() {
    let (server, address) = start(Config { workers: 1, ..config() });
    check_asked(&server, address);
}

#[test]
fn odd_requests_meet_silence() {
    let (server, address) = start(config());
    let mut client = at_ledger(Client::tcp(address));
    client.send(&format!("[{}]", observe("<group <rec a> {}>", 30, 30)));
    client.send(&format!("[[1 <A <q <audit \"{}\">> 5>]]", "x".repeat(300)));
    client.send(
        "[[1 <A <q <audit #:[0 9]>> 6>] [1 <M <q <audit 1>>>] [1 <A <q <audit>> 7>] [1 <A <q audit> 8>]]",
    );
    // A thousand ask; those that are too many meet silence, and nobody comes to harm.
    for n in 100..1100 {
        client.send(&format!("[[1 <A <q <audit {n}>> {n}>]]"));
    }
    let events = client.sync();
    assert!(events.len() <= 1, "{events:?}");
    drop(client);
    // Until then there are too many.
    until("they have been withdrawn", || server.connections() == 0);
    let mut other = at_ledger(Client::tcp(address));
    assert!(ask(&mut other, "1", 5).starts_with("[<ok "));
}

//! What the ledger tells: who owes, who holds, who waits for whom; to whom, and at what cost.

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use common::ledger::*;
use common::*;
use staunch::server::{Config, LedgerConfig, Server};
use staunch_protocols::schema::ledger::{Account, Broker, Cause, State, Transport};

/// Small limits, and little in the kernel, so that little traffic reaches them; and a ledger that is quick.
fn tight() -> Config {
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

/// Observes `<label body>` with little room, and reads nothing more.
fn deaf(address: SocketAddr, label: &str) -> Client {
    let mut client = Client::narrow(address).resolved();
    client.send(&format!("[{}]", observe(&record_pattern(label, 1), 7, 2)));
    client.sync();
    client
}

/// How many connections are held back.
fn waiting(server: &Server) -> usize {
    server.debts().iter().filter(|debt| debt.is_waiting).count()
}

/// Sends `<label body>` until so many are held back.
fn fill(client: &mut Client, label: &str, server: &Server, count: usize) {
    let message = bytes(&format!("[[1 <M <{label} \"{}\">>]]", "x".repeat(1000)));
    until("it is held back", || {
        if waiting(server) < count {
            client.send_bytes(&message);
        }
        waiting(server) >= count
    });
}

fn account(accounts: &[Account], id: i64) -> &Account {
    accounts.iter().find(|account| int(&account.party.id) == id).expect("it is told")
}

#[test]
fn both_ends_of_a_debt_are_told() {
    let (server, address) = start(tight());
    let mut consumer = deaf(address, "m");
    let mut producer = Client::tcp(address).resolved();
    let mut innocent = Client::tcp(address).resolved();
    fill(&mut producer, "m", &server, 1);
    let debt = server.total_debt();
    let mut ledger = Ledger::observed(address);
    ledger.until("somebody holds all of it", |ledger| {
        ledger.throttled().len() == 1 && ledger.holdings().iter().any(|h| int(&h.units) == debt as i64)
    });
    let (accounts, held) = (ledger.accounts(), ledger.holdings());
    let holding = held.iter().find(|h| int(&h.units) == debt as i64).unwrap();
    let producing = account(&accounts, int(&holding.debtor.id));
    let consuming = account(&accounts, int(&holding.holder.id));
    assert_eq!(ledger.throttled(), [int(&holding.debtor.id)]);
    let State::Throttled { since, cause: Cause::Debt } = producing.state else { panic!("{producing:?}") };
    let [broker] = &ledger.all::<Broker>()[..] else { panic!("there is one") };
    assert!(since.0 >= broker.started.0 && since.0 <= broker.at.0, "{since:?} {broker:?}");
    assert!(holding.since.0 >= broker.started.0 && holding.since.0 <= broker.at.0);
    assert_eq!(int(&producing.debt), debt as i64);
    assert_eq!((int(&producing.limit), int(&consuming.debt)), (100_000, 0));
    assert_eq!(int(&consuming.held), debt as i64);
    // Messages of some 1,010 bytes that cost 32 more.
    let events = int(&holding.events);
    assert!((debt as i64 / 1050 - 2..debt as i64 / 1000 + 2).contains(&events), "{events} of {debt}");
    assert!(int(&producing.traffic.bytes_in) > 100_000 && int(&producing.traffic.turns) > 90);
    assert!(int(&producing.traffic.deliveries) >= events);
    assert_eq!((&producing.transport, producing.principal.as_str()), (&Transport::Tcp, "tcp:127.0.0.1"));
    assert_eq!((int(&broker.connections), int(&broker.throttled)), (4, 1));
    assert_eq!(innocent.sync(), []);

    // It goes, and its principal owes.
    drop(producer);
    consumer.sync();
    ledger
        .until("nobody is held back", |ledger| ledger.throttled().is_empty() && ledger.holdings().is_empty());
    balanced(&server);
}

#[test]
fn what_is_left_owing_is_told_of_its_principal() {
    let (server, address) = start(tight());
    let mut consumer = deaf(address, "m");
    let mut producer = Client::tcp(address).resolved();
    fill(&mut producer, "m", &server, 1);
    producer.finish();
    until("it has gone", || server.debts().iter().any(|debt| debt.is_orphaned));
    let mut ledger = Ledger::observed(address);
    ledger.until("its principal owes", |ledger| {
        ledger.principals().iter().any(|p| p.name == "tcp:127.0.0.1" && int(&p.orphaned) > 100_000)
            && ledger.accounts().iter().any(|a| a.state == State::Gone && int(&a.debt) > 100_000)
    });
    consumer.sync();
    ledger.until("nothing is left", |ledger| ledger.principals().is_empty());
}

#[test]
fn nothing_is_there_while_nobody_observes() {
    let (server, address) = start(tight());
    assert!(server.debts().is_empty());
    let mut first = Ledger::observed(address);
    first.until("it is told", |ledger| ledger.updates > 2);
    let of_reporter = |server: &Server| server.debts().into_iter().any(|debt| debt.name == "broker:ledger");
    assert!(of_reporter(&server));
    let mut second = Ledger::observed(address);
    second.until("both are told", |ledger| ledger.accounts().len() == 3);
    drop(first);
    second.until("one is left", |ledger| ledger.accounts().len() == 2);
    drop(second);
    until("all is over", || server.debts().is_empty() && server.connections() == 0);
    assert_eq!(server.index_counts(), (0, 0, 0));
    let mut third = Ledger::observed(address);
    third.until("it is told anew", |ledger| ledger.accounts().len() == 2);
}

#[test]
fn the_ledger_takes_observations_only() {
    let (_server, address) = start(tight());
    let mut forger = at_ledger(Client::tcp(address));
    forger.send("[[1 <A <cycle [[1 \"forged\"]] 1.0> 5>] [1 <M <cycle [] 1.0>>] [1 <A <q <other>> 6>]]");
    forger.sync();
    let mut watcher = at_ledger(Client::tcp(address));
    watcher.send(&format!("[{}]", observe("<group <rec cycle> {}>", 7, 2)));
    watcher.send(&format!("[{}]", observe("<group <rec q> {}>", 7, 3)));
    forger.send("[[1 <M <cycle [] 2.0>>]]");
    forger.sync();
    assert_eq!(watcher.sync(), []);
    // Nor does the reference of the dataspace show it.
    let mut stranger = Client::tcp(address).resolved();
    stranger.send(&format!("[{}]", observe("<group <rec broker> {}>", 7, 2)));
    let mut ledger = Ledger::observed(address);
    ledger.until("it is told", |ledger| ledger.updates > 2);
    assert_eq!(stranger.sync(), []);
}

#[test]
fn many_accounts_are_told_as_few_and_a_sum() {
    let mut config = tight();
    config.ledger.rows_max = 3;
    let (server, address) = start(config);
    let mut consumer = deaf(address, "m");
    let mut producer = Client::tcp(address).resolved();
    let others: Vec<Client> = (0..700).map(|_| Client::tcp(address)).collect();
    until("all are there", || server.connections() == 702);
    fill(&mut producer, "m", &server, 1);
    let mut ledger = Ledger::observed(address);
    ledger.until("it is told", |ledger| ledger.throttled().len() == 1);
    let accounts = ledger.accounts();
    assert_eq!(accounts.len(), 3);
    assert!(accounts.iter().any(|a| int(&a.held) > 0), "who holds is among them");
    let broker = &ledger.all::<Broker>()[0];
    // With the ledger's client and the reporter.
    assert_eq!(int(&broker.rest.accounts), 701);
    drop(others);
    consumer.sync();
    ledger.until("they are told", |ledger| int(&ledger.all::<Broker>()[0].rest.accounts) == 1);
}

#[test]
fn who_does_not_read_the_ledger_is_bounded_and_ended() {
    let mut config = tight();
    config.ledger = LedgerConfig {
        every: Duration::from_millis(1),
        rows_max: 100,
        debt_max: 20_000,
        patience: Duration::ZERO,
    };
    let (server, address) = start(config);
    let mut deaf = at_ledger(Client::narrow(address));
    deaf.send(&format!("[{}]", observe("<bind <group <rec broker> {}>>", 7, 2)));
    let mut ledger = Ledger::observed(address);
    let mut most = 0;
    until("it has been ended", || {
        ledger.step();
        most = server.total_debt().max(most);
        // It still owes its last words.
        ledger.accounts().iter().any(|account| account.state == State::Gone)
    });
    assert!(most < 60_000, "{most}: an update more than it may owe");
    let error = deaf.rest().1.expect("it is told why");
    assert!(error.contains("ledger"), "{error}");
    let before = ledger.updates;
    ledger.until("the others are told", |ledger| ledger.updates > before + 5);
}

#[test]
fn clients_that_wait_for_each_other_are_named() {
    let (server, address) = start(tight());
    let mut ledger = Ledger::observed(address);
    let (mut ann, mut ben) = (deaf(address, "to-ann"), deaf(address, "to-ben"));
    let mut outside = Client::tcp(address).resolved();
    fill(&mut ann, "to-ben", &server, 1);
    ledger.until("ann is held back", |ledger| ledger.throttled().len() == 1);
    let ann_id = ledger.throttled()[0];
    let before = ledger.updates;
    ledger.until("some time passes", |ledger| ledger.updates > before + 120);
    assert_eq!(ledger.cycles(), [], "ben could read");
    fill(&mut ben, "to-ann", &server, 2);
    ledger.until("both are named", |ledger| !ledger.cycles().is_empty());
    let cycles = ledger.cycles();
    let mut ids: Vec<i64> = cycles[0].parties.iter().map(|party| int(&party.id)).collect();
    assert_eq!((cycles.len(), ids.len()), (1, 2), "{cycles:?}");
    ids.sort();
    let mut throttled = ledger.throttled();
    throttled.sort();
    assert_eq!(ids, throttled);
    assert!(ids.contains(&ann_id));
    assert_eq!(outside.sync(), [], "others go on");
    // One reads, though it cannot write yet, and it is over.
    ledger.until("it is over", |ledger| {
        ann.next_within(Duration::from_millis(1));
        ledger.cycles().is_empty()
    });
}

#[test]
fn who_waits_for_itself_is_named() {
    let (server, address) = start(tight());
    let mut ledger = Ledger::observed(address);
    let mut alone = deaf(address, "m");
    fill(&mut alone, "m", &server, 1);
    ledger.until("it is named", |ledger| ledger.cycles().iter().any(|cycle| cycle.parties.len() == 1));
    drop(alone);
    ledger.until("it has gone", |ledger| ledger.cycles().is_empty() && ledger.accounts().len() == 2);
}

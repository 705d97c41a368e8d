//! Machines that vanish while something is on their way to them, and machines that only do not read: hosts are network
//! namespaces, joined by cables of which one is cut.

mod common;

use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::process::Command;
use std::time::{Duration, Instant};

use common::*;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use staunch::server::{Address, Binding, Config, Server};

/// As short as the configuration lets it be.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// A host, gone when dropped.
struct Host(String);

fn ip(arguments: &str) -> bool {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    output.is_ok_and(|output| output.status.success())
}

impl Host {
    fn new(name: &str) -> Option<Host> {
        let name = format!("staunch-{name}-{}", std::process::id());
        ip(&format!("netns add {name}")).then_some(Host(name))
    }

    /// Lays a cable from here to another host: 10.87.`net`.1 here, and 2 there.
    fn join(&self, other: &Host, net: u8) {
        let (here, there) = (&self.0, &other.0);
        for line in [
            format!(
                "link add to{net} netns {here} type veth peer name eth netns {there} address 02:00:00:00:00:0{net}"
            ),
            format!("-n {here} addr add 10.87.{net}.1/24 dev to{net}"),
            format!("-n {there} addr add 10.87.{net}.2/24 dev eth"),
            format!("-n {here} link set to{net} up"),
            format!("-n {there} link set eth up"),
            // So that it is silent from one moment to the next: nor does anybody say that there is no such host.
            format!(
                "-n {here} neigh replace 10.87.{net}.2 lladdr 02:00:00:00:00:0{net} dev to{net} nud permanent"
            ),
        ] {
            assert!(ip(&line), "ip {line}");
        }
    }

    /// Nobody answers there any more.
    fn power_off(&self) {
        assert!(ip(&format!("-n {} addr flush dev eth", self.0)));
    }

    /// Runs this on that host; sockets made there stay there.
    fn on<R: Send>(&self, run: impl FnOnce() -> R + Send) -> R {
        std::thread::scope(|scope| {
            let there = scope.spawn(|| {
                let namespace = File::open(format!("/run/netns/{}", self.0)).unwrap();
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                run()
            });
            there.join().unwrap()
        })
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        ip(&format!("netns del {}", self.0));
    }
}

fn hosts(test: &str) -> Option<[Host; 3]> {
    let hosts = (|| Some([Host::new("broker")?, Host::new("first")?, Host::new("second")?]))();
    if hosts.is_none() {
        eprintln!("SKIPPED: {test}: it takes root, and `ip netns` of iproute2, to make hosts");
        assert!(std::env::var_os("STAUNCH_TEST_REQUIRE_ALL").is_none_or(|v| v != "1"), "none may be skipped");
    }
    hosts
}

fn vanished(server: &Server) -> u64 {
    server.counts().into_iter().find(|(name, _)| *name == "vanished").unwrap().1
}

/// Observes `<label n body>` with little room, and asserts that it is here.
fn consumer(address: SocketAddr, label: &str) -> Client {
    let mut consumer = Client::narrow(address).resolved();
    consumer.send(&format!("[{} [1 <A <here {label}> 3>]]", observe(&record_pattern(label, 2), 7, 2)));
    consumer.sync();
    consumer
}

/// Sends to it until it is held back: its outbox and the kernel's buffers are full.
/// Returns how many have been begun, and what is left of the last.
fn stall(producer: &mut Client, label: &str) -> (u64, Vec<u8>) {
    let (mut sent, mut rest, mut since) = (0, Vec::new(), Instant::now());
    while since.elapsed() < Duration::from_secs(1) {
        if rest.is_empty() {
            rest = bytes(&format!("[[1 <M <{label} {sent} \"{}\">>]]", "x".repeat(1000)));
            sent += 1;
        }
        let taken = producer.send_some(&rest);
        rest.drain(..taken);
        if taken > 0 {
            since = Instant::now();
        }
    }
    (sent, rest)
}

#[test]
fn machines_that_vanish_are_told_from_those_that_do_not_read() {
    let Some([own, first, second]) = hosts("machines_that_vanish_are_told_from_those_that_do_not_read")
    else {
        return;
    };
    own.join(&first, 1);
    own.join(&second, 2);
    let server = own.on(|| {
        Server::start(&Config {
            listen: vec![Address::Tcp("0.0.0.0:0".parse().unwrap()).into()],
            bindings: vec![Binding::well_known()],
            workers: 2,
            debt_max: 100_000,
            send_buffer: 16 << 10,
            silence_max: Some(SILENCE_MAX),
            ..Config::default()
        })
        .unwrap()
    });
    let port = server.tcp_addresses()[0].port();
    let [at_first, at_second] = [1, 2].map(|net| SocketAddr::from(([10, 87, net, 1], port)));
    // On the first host somebody who reads, and somebody who does not; on the second another who does not.
    let _reader = first.on(|| consumer(at_first, "a"));
    let _stalled = first.on(|| consumer(at_first, "b"));
    let mut patient = second.on(|| consumer(at_second, "c"));
    let mut watcher = second.on(|| Client::tcp(at_second).resolved());
    watcher.send(&format!("[{}]", observe(&record_pattern("here", 1), 7, 2)));
    let mut here: Vec<Event> = Vec::new();
    while here.len() < 3 {
        here.extend(watcher.turn());
    }
    let mut producers = ["a", "b", "c"].map(|_| second.on(|| Client::tcp(at_second).resolved()));
    let (to_b, _) = stall(&mut producers[1], "b");
    let (to_c, mut rest) = stall(&mut producers[2], "c");
    assert!(to_b > 50 && to_c > 50, "{to_b} {to_c}");
    // However long they do not read.
    std::thread::sleep(3 * SILENCE_MAX);
    assert_eq!((vanished(&server), watcher.sync()), (0, Vec::new()));

    first.power_off();
    let start = Instant::now();
    // What is on its way to the one who reads: the kernel takes all of it.
    producers[0].send("[[1 <M <a 1 1>>]]");
    producers[0].sync();
    let mut gone: Vec<i64> = Vec::new();
    while gone.len() < 2 {
        // Before Linux 6.15 it takes minutes to ask the one who does not read often enough.
        match watcher.next_within(10 * PATIENCE) {
            Came::Turn(turn) => gone.extend(turn.iter().map(|event| event.handle)),
            other => panic!("{other:?}"),
        }
    }
    println!("found after {:?}", start.elapsed());
    assert!(
        start.elapsed() >= SILENCE_MAX - Duration::from_secs(1),
        "not before its time: {:?}",
        start.elapsed()
    );
    let expected = here.iter().filter(|event| event.body != "[c]").map(|event| event.handle);
    gone.sort();
    let mut expected: Vec<i64> = expected.collect();
    expected.sort();
    assert_eq!(gone, expected);
    assert_eq!(vanished(&server), 2);

    // The other goes on not to read, and gets everything when it does.
    std::thread::sleep(2 * SILENCE_MAX);
    let mut count = 0;
    while count < to_c {
        for event in patient.turn() {
            assert!(event.body.starts_with(&format!("[{count},")), "in order: {count}");
            count += 1;
        }
        let taken = producers[2].send_some(&rest);
        rest.drain(..taken);
    }
    assert_eq!((vanished(&server), watcher.sync()), (2, Vec::new()));
    drop((producers, patient, watcher));
    until("all have gone", || server.connections() == 0);
    until("nothing is owed", || server.total_debt() == 0);
    balanced(&server);
}

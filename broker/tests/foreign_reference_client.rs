//! The server of the reference implementation as a client of `staunch serve --dev`, by a script in its own configuration
//! language (`foreign_support/client.pr`). Where it is found says `foreign_support/reference.rs`.

mod common;
mod foreign_support;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use common::{Client, observe, record_pattern};
use foreign_support::{Broker, PATIENCE, Running, reference};
use tempfile::TempDir;

struct Stage {
    folder: TempDir,
    program: PathBuf,
}

impl Stage {
    fn new(test: &str) -> Option<Stage> {
        Some(Stage { program: reference::program(test)?, folder: tempfile::tempdir().unwrap() })
    }

    fn start_broker(&self, address: &str) -> Broker {
        Broker::start(&self.folder, address, PATIENCE).expect("nobody else listens there")
    }

    fn start_client(&self, name: &str, broker: SocketAddr) -> Running {
        let script = include_str!("foreign_support/client.pr").replace("PORT", &broker.port().to_string());
        reference::start(&self.program, &self.folder, name, &script)
    }
}

/// Waits until the client has logged this once more than before.
fn logged(client: &mut Running, lines: &mut usize, what: &str) {
    let words = format!(": {what}");
    client.wait_past(*lines, what, |line| line.ends_with(&words));
    let all = client.lines();
    *lines += 1 + all[*lines..].iter().position(|line| line.ends_with(&words)).unwrap();
}

/// A session of ours, which sees what the client does.
struct Watcher {
    client: Client,
    /// Which assertions there are, by handle.
    live: BTreeMap<i64, String>,
    messages: Vec<String>,
}

impl Watcher {
    const DOOR: i64 = 8;

    fn enter(broker: SocketAddr) -> Watcher {
        let mut client = Client::tcp(broker).resolved();
        let present = observe(&record_pattern("Present", 1), 7, 2);
        let door = observe(&record_pattern("Door", 1), Watcher::DOOR, 3);
        let messages = ["Pong", "said", "other"].map(|label| format!("<bind <group <rec {label}> {{}}>>"));
        let messages = messages.iter().zip(4..).map(|(pattern, handle)| observe(pattern, 9, handle));
        client.send(&format!("[{present} {door} {}]", messages.collect::<String>()));
        Watcher { client, live: BTreeMap::new(), messages: Vec::new() }
    }

    fn take_turn(&mut self) {
        for event in self.client.turn() {
            match event.kind {
                'A' => drop(self.live.insert(event.handle, event.body)),
                'R' => drop(self.live.remove(&event.handle).expect("what is retracted was told")),
                _ => self.messages.push(event.body),
            }
        }
    }

    /// Waits until just so many of others' assertions are there, with this among them.
    fn waits_for(&mut self, who: Option<&str>, count: usize) {
        let who = who.map(|who| format!("[{who:?}]"));
        let is_there =
            |live: &BTreeMap<i64, String>| who.iter().all(|who| live.values().any(|body| body == who));
        while self.live.len() != count || !is_there(&self.live) {
            self.take_turn();
        }
    }

    fn waits_for_message(&mut self, message: &str) {
        while self.messages.is_empty() {
            self.take_turn();
        }
        assert_eq!(std::mem::take(&mut self.messages), [message]);
    }

    /// The broker's oid for the reference that the client hands out.
    fn door(&self) -> String {
        let door = self.live.values().find_map(|body| body.strip_prefix("[#:[0, ")?.strip_suffix("]]"));
        door.expect("it has been handed out").to_owned()
    }
}

/// Everything that the client does, seen from both sides.
fn check_all(watcher: &mut Watcher, client: &mut Running, lines: &mut usize) {
    watcher.waits_for(Some("reference"), 2);
    logged(client, lines, r#""came" {who: "reference"}"#);
    watcher.client.send(r#"[[1 <A <Present "ann"> 20>]]"#);
    watcher.waits_for(Some("ann"), 3);
    logged(client, lines, r#""came" {who: "ann"}"#);
    watcher.client.send("[[1 <R 20>]]");
    watcher.waits_for(Some("reference"), 2);
    logged(client, lines, r#""went" {who: "ann"}"#);
    watcher.client.send("[[1 <M <Ping [1 {two: #{3.0}}]>>]]");
    watcher.waits_for_message("[<Pong [1, {two: #{3.0}}]>]");
    // To the client's own entity, and back through its caveat, which lets nothing else pass.
    let door = watcher.door();
    watcher.client.send(&format!("[[{door} <M <other>>] [{door} <M <say hello>>]]"));
    watcher.waits_for_message("[<said \"reference\" hello>]");
}

#[test]
fn a_client_that_is_killed_is_gone_and_comes_back() {
    let Some(stage) = Stage::new("a_client_that_is_killed_is_gone_and_comes_back") else { return };
    let broker = stage.start_broker("tcp:127.0.0.1:0");
    let mut watcher = Watcher::enter(broker.tcp);
    for name in ["first", "second"] {
        let mut client = stage.start_client(name, broker.tcp);
        check_all(&mut watcher, &mut client, &mut 0);
        // Some of what is on its way to it is not read any more.
        client.signal("-STOP");
        watcher.client.send(r#"[[1 <A <Present "late"> 21>] [1 <R 21>]]"#);
        client.kill();
        watcher.waits_for(None, 0);
    }
    drop(watcher);
    broker.end();
}

#[test]
fn a_client_finds_a_broker_again_that_was_killed() {
    let Some(stage) = Stage::new("a_client_finds_a_broker_again_that_was_killed") else { return };
    let mut broker = stage.start_broker("tcp:127.0.0.1:0");
    let (address, mut lines) = (broker.tcp, 0);
    let mut client = stage.start_client("client", address);
    check_all(&mut Watcher::enter(address), &mut client, &mut lines);
    broker.kill();
    logged(&mut client, &mut lines, r#""went" {who: "reference"}"#);
    // After two failures it waits for ten seconds before it tries again.
    let broker = stage.start_broker(&format!("tcp:{address}"));
    let mut watcher = Watcher::enter(address);
    check_all(&mut watcher, &mut client, &mut lines);
    client.kill();
    watcher.waits_for(None, 0);
    drop(watcher);
    broker.end();
}

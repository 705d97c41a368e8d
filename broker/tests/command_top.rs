//! `staunch top` and `staunch audit`, as a script has them.

#[path = "common/process.rs"]
mod process;

use process::*;
use serde_json::Value;

#[test]
fn a_look_at_a_broker_for_development_needs_no_reference() {
    let broker = Broker::dev();
    let table = broker.run(&["top", "--once"]);
    assert_eq!((table.status, table.err.as_str()), (Some(0), ""), "{table:?}");
    assert!(table.out.starts_with("up ") && table.out.contains("CONNECTION"), "{}", table.out);
    assert!(table.out.contains("unix:"), "it sees itself: {}", table.out);
    assert!(table.out.lines().all(|line| line.len() <= 80), "{}", table.out);
    let json = broker.run(&["top", "--once", "--json", "--sort", "name"]);
    let all: Value = serde_json::from_str(&json.out).expect("an object on a line");
    assert_eq!(all["broker"]["connections"], 1);
    let names: Vec<&str> =
        all["accounts"].as_array().unwrap().iter().map(|a| a["name"].as_str().unwrap()).collect();
    assert!(names.len() == 2 && names.is_sorted() && names[0] == "broker:ledger", "{names:?}");
    assert_eq!(all["accounts"][1]["transport"], "unix");
    let audit = broker.run(&["audit"]);
    assert!(audit.status == Some(0) && audit.out.starts_with("balanced: "), "{audit:?}");
    let audit = broker.run(&["audit", "--json"]);
    let all: Value = serde_json::from_str(&audit.out).expect("an object on a line");
    assert_eq!(all["debt"], all["outstanding"]);
}

#[test]
fn who_holds_is_told() {
    let broker = Broker::dev();
    let slow = broker.observe(&["<m $>"], "m", 1);
    slow.signal("-STOP");
    let mut producer = broker.command(&["send"]);
    producer.stdin(std::process::Stdio::piped());
    let mut producer = producer.spawn().unwrap();
    let mut input = producer.stdin.take().unwrap();
    let feeder = std::thread::spawn(move || {
        use std::io::Write;
        let line = format!("<m \"{}\">\n", "x".repeat(10_000));
        while input.write_all(line.as_bytes()).is_ok() {}
    });
    let mut follow = Running::start(broker.command(&["top", "--json"]));
    let all = loop {
        let all: Value = serde_json::from_str(&follow.line()).unwrap();
        if all["broker"]["throttled"] == 1 && all["holdings"][0]["units"].as_u64() > Some(2 << 20) {
            break all;
        }
    };
    let (holding, accounts) = (&all["holdings"][0], all["accounts"].as_array().unwrap());
    let account = |party: &Value| accounts.iter().find(|a| a["id"] == party["id"]).unwrap();
    assert_eq!(account(&holding["debtor"])["state"], "throttled");
    assert_eq!(account(&holding["debtor"])["cause"], "debt");
    assert_eq!(account(&holding["holder"])["debt"], 0);
    follow.signal("-INT");
    assert_eq!(follow.end(), (Some(0), String::new()));
    slow.signal("-CONT");
    producer.kill().unwrap();
    producer.wait().unwrap();
    feeder.join().unwrap();
}

#[test]
fn the_first_key_lets_in_to_the_ledger() {
    let mut broker = Broker::start(|folder| {
        vec!["--key-file".to_owned(), folder.path().join("key").display().to_string()]
    });
    let key = broker.path("key").display().to_string();
    let refused = broker.run(&["top", "--once"]);
    assert_eq!(refused.status, Some(1));
    assert!(refused.err.contains("staunch ref mint --oid '\"ledger\"'"), "{}", refused.err);
    let minted = run(&["ref", "mint", "--key-file", &key, "--oid", "\"ledger\""]);
    let reference = minted.out.trim().to_owned();
    let mut command = broker.command(&["top", "--once"]);
    command.env("STAUNCH_LEDGER_REF", &reference);
    assert_eq!(run_with(command, b"").status, Some(0));
    // The dataspace's own reference is to something else, and the ledger's is not to that.
    let minted = run(&["ref", "mint", "--key-file", &key]);
    let other = broker.run(&["top", "--once", "--timeout", "0.3", "--ref", minted.out.trim()]);
    assert!(other.status == Some(1) && other.err.contains("nothing is told there"), "{other:?}");
    broker.reference = Some(reference);
    let sent = broker.run(&["observe", "--snapshot", "<m $>"]);
    assert_eq!((sent.status, sent.out.as_str()), (Some(0), ""));
}

#[test]
fn the_oid_of_the_ledger_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key").display().to_string();
    let said = run(&["serve", "--check", "--key-file", &key, "--oid", "\"ledger\""]);
    assert!(said.status == Some(2) && said.err.contains("ledger"), "{said:?}");
}

#[test]
fn metrics_are_told_where_it_is_said() {
    let broker = Broker::start(|_| ["--dev", "--metrics", "tcp:127.0.0.1:0"].map(str::to_owned).to_vec());
    let mut broker = broker;
    let line = broker.logged("metrics at");
    let address = line.split("http://").nth(1).unwrap().strip_suffix("/metrics").unwrap();
    assert!(std::net::TcpStream::connect(address).is_ok());
    let said = run(&["serve", "--dev", "--metrics", "unix:/tmp/x"]);
    assert!(said.status == Some(2) && said.err.contains("over TCP"), "{said:?}");
    let said =
        run(&["serve", "--dev", "--listen", "tcp:127.0.0.1:0", "--metrics", &format!("tcp:{address}")]);
    assert!(said.status == Some(1) && said.err.contains("another program listens there"), "{said:?}");
    let _ = &mut broker;
}

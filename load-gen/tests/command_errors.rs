//! What cannot be run says why, and says so in its exit status: no scenario hangs, and none reports on nothing.

mod naive;

use std::path::Path;
use std::process::{Command, Output};

use naive::{Mischief, relay, start};

/// Every scenario that speaks to a Syndicate broker, small.
const SCENARIOS: [&str; 10] = [
    "one-to-one --messages 1000",
    "fan-out --consumers 3 --messages 300",
    "pairs --pairs 2 --messages 500",
    "ping-pong --messages 200",
    "observers --count 5 --connections 2 --messages 1000",
    "skeletons --counts 2 --messages 1000",
    "held --count 10 --messages 1000",
    "stall --observers 2 --duration 0.1 --messages 500 --payload 100",
    "open-loop --rate 5000 --duration 0.3",
    "one-to-one --messages 1000 --threads 2",
];

fn load(command: &str) -> Output {
    let output =
        Command::new(env!("CARGO_BIN_EXE_staunch-load")).args(command.split_whitespace()).output().unwrap();
    println!("{command}: {output:?}");
    output
}

/// The command cannot be carried through: status 2, nothing on standard output, the reason on standard error.
fn fails(command: &str, why: &str) {
    let output = load(command);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{command}: {text}");
    assert!(text.contains(why), "{command}: {text}");
    assert!(output.stdout.is_empty(), "{command}");
}

fn fails_at(path: &Path, command: &str, why: &str) {
    fails(&format!("{command} --warmup 0 --patience 0.5 --unix {}", path.display()), why);
}

#[test]
fn nobody_is_there() {
    let nowhere = std::env::temp_dir().join(format!("nobody-{}", std::process::id()));
    for scenario in SCENARIOS.iter().chain(&["churn", "idle", "stall-assertions", "relay-floor"]) {
        fails_at(&nowhere, scenario, &format!("connecting to unix:{}: No such file", nowhere.display()));
    }
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    fails(&format!("one-to-one --tcp {port}"), &format!("connecting to tcp:{port}: Connection refused"));
}

#[test]
fn the_broker_denies() {
    let path = start(Mischief::Refuse);
    for scenario in SCENARIOS.iter().chain(&["churn", "idle --count 2", "stall-assertions"]) {
        fails_at(&path, scenario, "the broker refused the reference: rejected not you");
    }
}

#[test]
fn the_broker_says_nothing() {
    let path = start(Mischief::Mute);
    for scenario in SCENARIOS.iter().chain(&["churn", "idle --count 2", "stall-assertions"]) {
        fails_at(&path, scenario, "no answer within 0.5 s: it does not know <ref");
    }
    fails_at(&path, "one-to-one --protocol nats", "no server of NATS is there: no INFO within 0.5 s");
}

#[test]
fn the_broker_dies_in_the_middle() {
    for scenario in SCENARIOS {
        fails_at(&start(Mischief::Die(150)), scenario, "the broker closed the session");
    }
}

#[test]
fn the_broker_reports_an_error() {
    for scenario in SCENARIOS {
        fails_at(&start(Mischief::Fail(150)), scenario, "the broker reported an error: had enough");
    }
}

#[test]
fn the_broker_s_process_is_gone() {
    // Beyond what Linux gives to any process.
    for scenario in ["one-to-one --messages 100", "idle --count 2", "stall --observers 1 --duration 0.1"] {
        let command = format!("{scenario} --broker-pid 99999999");
        fails_at(&start(Mischief::None), &command, "looking at process 99999999, which may have ended");
    }
}

#[test]
fn a_lost_answer_is_lost() {
    let path = start(Mischief::Drop(20));
    let output =
        load(&format!("ping-pong --messages 50 --warmup 0 --patience 0.3 --unix {}", path.display()));
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stdout).unwrap().contains("1 lost"));
}

#[test]
fn a_broker_is_no_relay_and_a_relay_no_broker() {
    let broker = start(Mischief::None);
    for scenario in [
        "relay-floor",
        "one-to-one --protocol relay",
        "ping-pong --protocol relay",
        "open-loop --protocol relay",
    ] {
        fails_at(&broker, scenario, "is not a bare relay");
    }
    fails_at(&broker, "fan-out --protocol relay", "fan-out is not there for a bare relay");
    fails_at(&broker, "pairs --protocol relay", "pairs is not there for a bare relay");
    fails_at(&broker, "ping-pong --protocol nats", "ping-pong is not there for NATS");
    let relay = relay();
    for scenario in ["relay-floor --duration 0.1", "one-to-one --protocol relay --messages 100"] {
        let output = load(&format!("{scenario} --warmup 0.01 --unix {}", relay.display()));
        assert!(output.status.success(), "{scenario}: {output:?}");
    }
}

#[test]
fn amounts_of_nothing_are_refused() {
    let path = start(Mischief::None);
    for (command, why) in [
        ("one-to-one --duration 0", "must be more than 0"),
        ("one-to-one --duration nan", "not a number of seconds"),
        ("one-to-one --duration=-1", "not a number of seconds"),
        ("one-to-one --patience 0 --messages 1", "must be more than 0"),
        ("one-to-one --messages 0", "would be zero"),
        ("one-to-one --repeat 0", "would be zero"),
        ("one-to-one --threads 0", "would be zero"),
        ("fan-out --consumers 0", "would be zero"),
        ("pairs --pairs 0", "would be zero"),
        ("observers --count 0", "would be zero"),
        ("skeletons --counts 1,0", "would be zero"),
        ("held --count 0", "would be zero"),
        ("idle --count 0", "would be zero"),
        ("stall --observers 0", "would be zero"),
        ("open-loop --rate 0", "would be zero"),
        ("churn --duration 0.000000001", "nothing was sent"),
    ] {
        fails(&format!("{command} --unix {}", path.display()), why);
    }
}

#[test]
fn addresses_may_be_written_as_the_broker_takes_them() {
    let path = start(Mischief::None);
    let output = load(&format!("one-to-one --messages 10 --warmup 0 --unix unix:{}", path.display()));
    assert!(output.status.success());
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    fails(&format!("one-to-one --tcp tcp:{port}"), &format!("connecting to tcp:{port}: Connection refused"));
    fails("one-to-one --tcp unix:/x", "for unix: there is another option");
    fails("one-to-one --unix tcp:127.0.0.1:1", "for tcp: there is another option");
    fails("one-to-one", "give the broker's address with --tcp or --unix");
}

#[test]
fn a_comparison_of_nothing_is_refused() {
    fails("compare", "required");
    let folder = std::env::temp_dir().join(format!("reports-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    for (name, text, why) in [
        ("a.b.1.json", None, "No such file"),
        ("a.b.2.json", Some(""), "is not a report"),
        ("a.b.3.json", Some("{}"), "has no figures"),
        ("a.b.4.json", Some(r#"{"points": [{"point": "p", "samples": []}]}"#), "has no figures"),
        ("a.json", Some("{}"), "is not named GATE.BROKER.N.json"),
    ] {
        let path = folder.join(name);
        if let Some(text) = text {
            std::fs::write(&path, text).unwrap();
        }
        fails(&format!("compare {}", path.display()), why);
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

//! Programs for syndicate-py, unchanged, against `staunch serve --dev`.
//!
//! They need a Python with syndicate-py 0.19.3: `$STAUNCH_TEST_PYTHON`, what `.ci/run` has installed, or `python3`.

mod foreign_support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use foreign_support::{Broker, Running, cache, skip};
use tempfile::TempDir;

const VERSION: &str = "0.19.3";

/// A Python that has the library, if there is one.
fn python(test: &str) -> Option<PathBuf> {
    let named = std::env::var_os("STAUNCH_TEST_PYTHON").map(PathBuf::from);
    let places = match named {
        Some(python) => vec![python],
        None => vec![cache().join("venv/bin/python"), "python3".into()],
    };
    let mut found = String::new();
    for place in &places {
        const ASK: &str = "import syndicate, importlib.metadata as m; print(m.version('syndicate-py'))";
        let answer = Command::new(place).args(["-c", ASK]).output();
        let version = answer.map(|a| String::from_utf8_lossy(&a.stdout).trim().to_owned());
        match version {
            Ok(version) if version == VERSION => return Some(place.clone()),
            Ok(version) if version.is_empty() => found += &format!("\n    {}: without it", place.display()),
            Ok(version) => found += &format!("\n    {}: has {version}", place.display()),
            Err(error) => found += &format!("\n    {}: {error}", place.display()),
        }
    }
    skip(
        test,
        &format!(
            "no Python with syndicate-py {VERSION}.\n  Looked at:{found}\n  To have it: run .ci/foreign, or\n    \
             python3 -m venv VENV && VENV/bin/pip install syndicate-py=={VERSION}\n  \
             and set STAUNCH_TEST_PYTHON=VENV/bin/python"
        ),
    );
    None
}

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/foreign_support")
}

fn run(folder: &TempDir, name: &str, python: &Path, script: &Path, arguments: &[&str]) -> Running {
    Running::start(folder, name, Command::new(python).arg("-u").arg(script).args(arguments))
}

fn broker(folder: &TempDir) -> Broker {
    Broker::start(folder, "tcp:127.0.0.1:0", Duration::ZERO).expect("port 0 is never in use")
}

/// The script that every broker of this protocol should be able to serve, over `address`; a second one joins and
/// leaves without a word.
fn check_present(python: &Path, address: impl Fn(&Broker) -> String) {
    let folder = tempfile::tempdir().unwrap();
    let broker = broker(&folder);
    let address = address(&broker);
    let script = scripts().join("present.py");
    let mut first = run(&folder, "first", python, &script, &[&address]);
    first.wait_for("its own message", |line| line == "says py hello");
    let own =
        |lines: Vec<String>| lines.into_iter().filter(|line| !line.starts_with("INFO")).collect::<Vec<_>>();
    assert_eq!(own(first.lines()), ["connected", "+ py", "says py hello"], "{address}");

    // Under a name of its own.
    let other = folder.path().join("other.py");
    let text = std::fs::read_to_string(&script).unwrap();
    std::fs::write(&other, text.replace("'py'", "'other'")).unwrap();
    let mut second = run(&folder, "second", python, &other, &[&address]);
    second.wait_for("who was there before", |line| line == "+ py");
    first.wait_for("the other's message", |line| line == "says other hello");
    second.kill();
    first.wait_for("the other's end", |line| line == "- other");

    // Two of one name are there once, until both have gone.
    let mut third = run(&folder, "third", python, &script, &[&address]);
    third.wait_for("its own message", |line| line == "says py hello");
    third.kill();
    let mut fourth = run(&folder, "fourth", python, &other, &[&address]);
    fourth.wait_for("who is still there", |line| line == "+ py");
    first.wait_past(7, "the other's second message", |line| line == "says other hello");
    let expected = [
        "connected",
        "+ py",
        "says py hello",
        "+ other",
        "says other hello",
        "- other",
        "says py hello",
        "+ other",
        "says other hello",
    ];
    assert_eq!(own(first.lines()), expected, "{address}");
    // It connects again without a word when it is thrown out.
    let connected = first.lines().iter().filter(|line| line.ends_with("Connected")).count();
    assert_eq!(connected, 1, "{}", first.said());
    drop((first, fourth));
    broker.end();
}

#[test]
fn assertions_and_messages_over_tcp() {
    let Some(python) = python("assertions_and_messages_over_tcp") else { return };
    check_present(&python, |broker| format!("<tcp \"127.0.0.1\" {}>", broker.tcp.port()));
}

#[test]
fn assertions_and_messages_over_a_unix_socket() {
    let Some(python) = python("assertions_and_messages_over_a_unix_socket") else { return };
    check_present(&python, |broker| format!("<unix \"{}\">", broker.unix.display()));
}

/// The library's own `relay.connect(address, cap)` wants the older answers, and its Sync is one that needs kindness.
#[test]
fn a_chat_by_the_librarys_own_connect() {
    let Some(python) = python("a_chat_by_the_librarys_own_connect") else { return };
    let folder = tempfile::tempdir().unwrap();
    let broker = broker(&folder);
    let address = format!("<tcp \"127.0.0.1\" {}>", broker.older.port());
    let script = scripts().join("chat.py");
    let mut ann = run(&folder, "ann", &python, &script, &[&address, "ann"]);
    ann.wait_for("her own message", |line| line == "ann says 'hello'");
    ann.wait_for("the answer to her Sync", |line| line == "synced");
    let mut ben = run(&folder, "ben", &python, &script, &[&address, "ben"]);
    ben.wait_for("who is there", |line| line == "ann joined");
    ann.wait_for("ben's coming", |line| line == "ben joined");
    ann.wait_for("ben's message", |line| line == "ben says 'hello'");
    ben.kill();
    ann.wait_for("ben's going", |line| line == "ben left");
    let connected = ann.lines().iter().filter(|line| *line == "connected").count();
    assert_eq!(connected, 1, "{}", ann.said());
    drop(ann);
    broker.end();
}

#[test]
fn many_messages_come_once_each_and_in_order() {
    let Some(python) = python("many_messages_come_once_each_and_in_order") else { return };
    let folder = tempfile::tempdir().unwrap();
    let broker = broker(&folder);
    let address = format!("<tcp \"127.0.0.1\" {}>", broker.tcp.port());
    let script = scripts().join("flood.py");
    let mut consumer = run(&folder, "consumer", &python, &script, &[&address, "count", "5000"]);
    consumer.wait_for("its subscription", |line| line == "counting");
    let mut producer = run(&folder, "producer", &python, &script, &[&address, "send", "5000"]);
    consumer.wait_for("all messages", |line| line == "all 5000");
    assert!(!consumer.said().contains("wrong"), "{}", consumer.said());
    producer.check_running();
    drop((consumer, producer));
    broker.end();
}

/// The client in the README does what the README says.
#[test]
fn the_client_in_the_readme() {
    let Some(python) = python("the_client_in_the_readme") else { return };
    let readme = std::fs::read_to_string(scripts().join("../../../README.md")).unwrap();
    let (_, rest) = readme.split_once("```python\n").expect("the README has a client in Python");
    let (client, _) = rest.split_once("```").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let broker = broker(&folder);
    let here = format!("\"127.0.0.1\" {}", broker.tcp.port());
    assert!(client.contains("\"127.0.0.1\" 9001"), "it uses the address that `staunch serve` has by default");
    let script = folder.path().join("chat.py");
    std::fs::write(&script, client.replace("\"127.0.0.1\" 9001", &here)).unwrap();
    let mut ann = run(&folder, "ann", &python, &script, &["ann"]);
    ann.wait_for("her own message", |line| line == "ann says hello");
    let mut ben = run(&folder, "ben", &python, &script, &["ben"]);
    ben.wait_for("who is there", |line| line == "ann is here");
    ann.wait_for("ben's coming", |line| line == "ben is here");
    ann.wait_for("ben's message", |line| line == "ben says hello");
    ben.kill();
    ann.wait_for("ben's going", |line| line == "ben has gone");
    drop(ann);
    broker.end();
}

//! Who starts from what over Unix sockets.

mod common;
#[path = "common/process.rs"]
mod process;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::*;
use staunch::admission::{Rule, Start, Who};
use staunch::server::{Address, Config, Server};
use staunch_protocols::sturdy::SturdyRef;

/// The user and group of this process.
fn own() -> (u32, u32) {
    (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

/// The well-known reference, with these caveats.
fn reference(caveats: &[&str]) -> SturdyRef {
    let oid = bytes_of("\"syndicate\"");
    caveats
        .iter()
        .fold(SturdyRef::mint(&oid, b""), |reference, caveat| reference.attenuate(&bytes_of(caveat)))
}

fn bytes_of(text: &str) -> Vec<u8> {
    staunch_protocols::text::parse(text, &staunch_protocols::wire::Limits::default()).unwrap()
}

fn give(caveats: &[&str]) -> Start {
    Start::Reference(Box::new(reference(caveats)))
}

fn serve(folder: &Path, rules: Vec<Rule>) -> (Server, PathBuf, PathBuf) {
    let (one, two) = (folder.join("one"), folder.join("two"));
    let listen = [&one, &two].map(|path| Address::Unix(path.clone()).into()).to_vec();
    let config = Config { listen, rules, workers: 2, socket_mode: Some(0o666), ..Config::default() };
    (Server::start_dev(&config).unwrap(), one, two)
}

fn user(uid: u32) -> Who {
    Who { uid: Some(uid), ..Who::default() }
}

/// What a message to oid 0 comes to for an observer in the dataspace.
fn arrives(client: &mut Client, witness: &mut Client, message: &str) -> bool {
    client.send(&format!("[[0 <M {message}>]]"));
    client.sync_at(0);
    !witness.sync().is_empty()
}

#[test]
fn a_rule_gives_a_dataspace_at_once_and_may_restrict_it() {
    let (uid, gid) = own();
    let folder = tempfile::tempdir().unwrap();
    let narrow = "<reject <rec secret [<_>]>>";
    let rules = vec![
        Rule { who: user(uid + 1), start: Start::Nothing, slow: None },
        Rule {
            who: Who { socket: Some(folder.path().join("one")), gid: Some(gid), uid: Some(uid) },
            start: give(&[narrow]),
            slow: None,
        },
    ];
    let (server, one, two) = serve(folder.path(), rules);
    // By the other socket there is the gatekeeper.
    let mut witness = Client::unix(&two).resolved();
    witness.send(&format!("[{}]", observe("<bind <_>>", 7, 2)));
    witness.sync();
    let mut client = Client::unix(&one);
    assert!(arrives(&mut client, &mut witness, "<open 1>"));
    assert!(!arrives(&mut client, &mut witness, "<secret 1>"));
    // It owes as whoever it is.
    let debts = server.debts();
    assert!(debts.iter().all(|debt| debt.principal == format!("uid:{uid}")), "{debts:?}");
    // Its oid 0 is a dataspace: nobody answers a question there.
    client.send(r#"[[0 <A <resolve <ref {oid: "syndicate" sig: #[acowDB2/oI+6aSEC3YIxGg==]}> #:[0 0]> 1>]]"#);
    assert!(client.sync_at(0).is_empty());
    client.send(&format!("[{}]", observe(&record_pattern("open", 1), 8, 3).replacen("[1 ", "[0 ", 1)));
    client.sync_at(0);
    witness.send("[[1 <M <open 2>>]]");
    let event = client.event();
    assert_eq!((event.oid, event.body.as_str()), (8, "[2]"));
}

#[test]
fn a_rule_may_refuse() {
    let (uid, _) = own();
    let folder = tempfile::tempdir().unwrap();
    let (server, one, _) =
        serve(folder.path(), vec![Rule { who: user(uid), start: Start::Nothing, slow: None }]);
    assert_eq!(Client::unix(&one).ends_with_error(), "This user may not connect here");
    let refused = server.counts().into_iter().find(|(name, _)| *name == "refused");
    assert_eq!((refused, server.connections()), (Some(("refused", 1)), 0));
}

#[test]
fn a_reference_that_is_not_valid_refuses() {
    let folder = tempfile::tempdir().unwrap();
    let forged = SturdyRef::mint(&bytes_of("\"syndicate\""), b"another key");
    let start = Start::Reference(Box::new(forged));
    let (_server, one, _) = serve(folder.path(), vec![Rule { who: Who::default(), start, slow: None }]);
    let why = Client::unix(&one).ends_with_error();
    assert!(why.contains("reference is not valid"), "{why}");
}

#[test]
fn rules_can_be_changed() {
    let (uid, _) = own();
    let folder = tempfile::tempdir().unwrap();
    let (server, one, _) = serve(folder.path(), Vec::new());
    let mut before = Client::unix(&one).resolved();
    let rules = vec![Rule { who: user(uid), start: Start::Nothing, slow: None }];
    server.reload(&Config { rules, ..Config::default() });
    assert_eq!(Client::unix(&one).ends_with_error(), "This user may not connect here");
    before.sync();
}

/// Bindings that come and go while sessions are there.
#[test]
fn other_keys_let_others_in_and_leave_those_that_are() {
    use staunch::server::Binding;
    let folder = tempfile::tempdir().unwrap();
    let (server, one, _) = serve(folder.path(), Vec::new());
    let binding = |key: &[u8]| Binding { oid: bytes_of("\"new\""), key: key.to_vec(), slow: None };
    let ask = |client: &mut Client, key: &[u8], handle: u32| {
        let mut out = Vec::new();
        SturdyRef::mint(&bytes_of("\"new\""), key).write(&mut out);
        let mut scanner = staunch_protocols::wire::Scanner::new(staunch_protocols::wire::Limits::default());
        scanner.scan(&out).unwrap();
        let mut text = String::new();
        staunch_protocols::text::write(scanner.view(&out), &mut text, usize::MAX);
        client.send(&format!("[[0 <A <resolve {text} #:[0 {handle}]> {handle}>]]"));
    };
    let mut early = Client::unix(&one).resolved();
    ask(&mut early, b"first", 5);
    assert!(early.sync_at(0).is_empty(), "there is no such thing yet");
    server.reload(&Config { bindings: vec![binding(b"first")], ..Config::default() });
    let event = early.event();
    assert_eq!((event.oid, event.body.as_str()), (5, "<ok #:[0, 1]>"), "the same capability as before");
    server.reload(&Config { bindings: vec![binding(b"second")], ..Config::default() });
    early.sync();
    let mut late = Client::unix(&one);
    ask(&mut late, b"first", 6);
    assert_eq!(late.event().body, "<error sturdyref-failed-validation>");
    ask(&mut late, b"second", 7);
    assert!(late.event().body.starts_with("<ok "));
    // What was asked before and is asked again is another question.
    early.send("[[0 <R 5>]]");
    early.sync();
    ask(&mut early, b"first", 8);
    assert_eq!(early.event().body, "<error sturdyref-failed-validation>");
    until("all debts are those of what waits", || server.audit().is_ok() && server.total_debt() == 0);
}

/// Only root can be somebody else: tells whether this is root, and says so if not.
fn may_be_others(test: &str) -> bool {
    let is_possible = own().0 == 0 && Command::new("setpriv").arg("--version").output().is_ok();
    if !is_possible {
        eprintln!("SKIPPED: {test}: it takes root, and setpriv of util-linux, to be another user");
        assert!(std::env::var_os("STAUNCH_TEST_REQUIRE_ALL").is_none_or(|v| v != "1") || own().0 != 0);
    }
    is_possible
}

#[test]
fn other_users_are_told_apart() {
    if !may_be_others("other_users_are_told_apart") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    // Where it was built, others may not be let in.
    let program = folder.path().join("staunch");
    std::fs::copy(env!("CARGO_BIN_EXE_staunch"), &program).unwrap();
    let rules = vec![
        Rule { who: user(65_533), start: Start::Nothing, slow: None },
        Rule { who: Who { gid: Some(65_532), ..Who::default() }, start: Start::Nothing, slow: None },
    ];
    let (_server, one, _) = serve(folder.path(), rules);
    let sync = |uid: u32, gid: u32| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &uid.to_string(), "--regid", &gid.to_string(), "--clear-groups"]);
        command.arg(&program).args(["sync", "--connect", &format!("unix:{}", one.display())]);
        process::run_with(command, b"")
    };
    let said = sync(65_534, 65_534);
    assert_eq!(said.status, Some(0), "{said:?}");
    for (uid, gid) in [(65_533, 65_534), (65_534, 65_532)] {
        let said = sync(uid, gid);
        assert!(said.status == Some(1) && said.err.contains("may not connect here"), "{said:?}");
    }
}

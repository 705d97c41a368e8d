//! What the broker logs: who comes in, who holds whom back, and how, for the journal.

#[path = "common/process.rs"]
mod process;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::process::Stdio;

use process::*;

/// What a session that fails leaves in a log, which is named to it as the journal's or as another.
fn logged(is_journal: bool) -> String {
    let (mut log, stderr) = std::io::pipe().unwrap();
    let named = File::from(OwnedFd::from(stderr.try_clone().unwrap())).metadata().unwrap();
    let inode = named.ino() + u64::from(!is_journal);
    let mut command = staunch(&["serve", "--dev", "--stdio", "--listen", "tcp:127.0.0.1:0"]);
    command.env("JOURNAL_STREAM", format!("{}:{inode}", named.dev()));
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(stderr);
    let mut child = command.spawn().unwrap();
    drop(command);
    child.stdin.take().unwrap().write_all(b"{}").unwrap();
    let mut text = String::new();
    log.read_to_string(&mut text).unwrap();
    child.wait().unwrap();
    text
}

#[test]
fn the_journal_gets_priorities_and_no_times() {
    let text = logged(true);
    let line = |what: &str| text.lines().find(|line| line.contains(what)).expect(&text);
    assert!(line("open on").starts_with("<6>open on tcp:127.0.0.1:"), "{text}");
    assert!(line("ends a connection").starts_with("<6>ends a connection connection=\"stdio\""), "{text}");
    assert!(!text.contains("INFO"), "{text}");
    let text = logged(false);
    assert!(text.contains(" INFO open on") && !text.contains("<6>"), "{text}");
}

/// Who came, by what, and with what it was let in; without secrets.
#[test]
fn who_comes_in_is_told_to_those_who_ask() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let mut command = staunch(&["serve", "--dev", "--listen", &format!("unix:{}", socket.display())]);
    command.env("STAUNCH_LOG", "debug");
    let running = Running::start(command);
    running.logged("open on");
    let narrow = run(&["ref", "mint", "--dev", "--allow", "<x>"]).out;
    let address = format!("unix:{}", socket.display());
    assert_eq!(run(&["sync", "--connect", &address, "--ref", narrow.trim()]).status, Some(0));
    let uid = rustix::process::geteuid().as_raw();
    let line = running.logged("connected");
    for word in [
        format!("connection=\"unix:{uid}:"),
        format!("principal=\"uid:{uid}\""),
        "start=\"gatekeeper\"".into(),
    ] {
        assert!(line.contains(&word), "{word}: {line}");
    }
    let line = running.logged("a reference lets in");
    assert!(line.contains("caveats=1") && line.contains("syndicate") && !line.contains("sig"), "{line}");
    let forged = "<ref {oid: \"syndicate\" sig: #[]}>";
    assert_eq!(run(&["sync", "--connect", &address, "--ref", forged]).status, Some(1));
    running.logged("a reference is refused");
}

/// One that does not read, and one that sends to it.
#[test]
fn who_holds_others_back_is_told() {
    let broker = Broker::dev();
    let observer = broker.observe(&["<m $>"], "rec m", 1);
    observer.signal("-STOP");
    let mut command = broker.command(&["send"]);
    command.stdin(Stdio::piped());
    let mut sender = Running::start(command);
    let mut input = sender.child.stdin.take().unwrap();
    let line = format!("<m \"{}\">\n", "x".repeat(1000));
    let feeder = std::thread::spawn(move || {
        // More than all buffers on the way take: it ends when the sender does.
        for _ in 0..100_000 {
            if input.write_all(line.as_bytes()).is_err() {
                return;
            }
        }
    });
    let told = broker.logged("does not read, and holds others back");
    let (consumer, producer) = (observer.child.id(), sender.child.id());
    let uid = rustix::process::geteuid().as_raw();
    for word in [
        format!("consumer=\"unix:{uid}:{consumer}\""),
        format!("principal=\"uid:{uid}\""),
        format!("held_back=\"unix:{uid}:{producer}\""),
    ] {
        assert!(told.contains(&word), "{word}: {told}");
    }
    sender.child.kill().unwrap();
    feeder.join().unwrap();
    observer.signal("-CONT");
}

//! What the clients say when something is wrong: with what they were given, or with what they meet.

#[path = "common/process.rs"]
mod process;

use std::io::{Read, Write};
use std::net::TcpListener;

use process::*;

/// Checks that a command fails with this status, and says this.
fn check(arguments: &[&str], status: i32, words: &[&str]) {
    let said = run(arguments);
    assert_eq!(said.status, Some(status), "{arguments:?}: {said:?}");
    assert_eq!(said.out, "", "{arguments:?}");
    words.iter().for_each(|word| assert!(said.err.contains(word), "{arguments:?}: {word:?} in {}", said.err));
    assert!(!said.err.contains("panicked"), "{}", said.err);
}

#[test]
fn what_makes_no_sense_is_told_before_anybody_is_asked() {
    let deep = "[".repeat(50_000);
    check(&["observe"], 2, &["PATTERN"]);
    check(&["observe", "<Says"], 2, &["pattern", "not closed"]);
    check(&["observe", "<$x>"], 2, &["label"]);
    check(&["observe", "[$x $x]"], 2, &["twice"]);
    check(&["observe", &deep], 2, &["deeper"]);
    check(&["observe", "--raw", "<Says $x>"], 2, &["<group"]);
    check(&["observe", "--count", "0", "_"], 2, &["--count"]);
    check(&["observe", "--for=-1", "_"], 2, &["--for"]);
    check(&["observe", "--for", "soon", "_"], 2, &["seconds"]);
    check(&["assert"], 2, &["VALUE"]);
    check(&["assert", "<a"], 2, &["<a cannot be read", "column 1"]);
    check(&["assert", "<ok>", "<a #:[0 1]>"], 2, &["capability"]);
    check(&["send", "<a> <b>"], 2, &["column 5", "follows"]);
    check(&["send", &deep], 2, &["deeper"]);
    check(&["send", ""], 2, &["no value"]);
    check(&["sync", "--connect", "localhost:9001"], 2, &["tcp:HOST:PORT", "as in tcp:localhost:9001"]);
    check(&["sync", "--connect", "/run/s"], 2, &["as in unix:/run/s"]);
    check(&["sync", "--direct", "--ref", "x"], 2, &["--direct"]);
    check(&["send", "Says 1"], 2, &["stands in < and >"]);
    check(&["sync", "--connect", "tcp:localhost"], 2, &["tcp:localhost", "port"]);
    check(&["sync", "--ref", "foo"], 2, &["not a reference", "<ref {oid:"]);
    check(&["sync", "--ref", "<ref {oid: \"x\"}>"], 2, &["sig"]);
    check(&["sync", "--ref", "<ref"], 2, &["cannot be read"]);
    check(&["sync", "--ref", &"<".repeat(50_000)], 2, &["deeper"]);
    check(&["sync", "--ref", "<ref {oid: 1 sig: #[] caveats: [<reject <_> 1>]}>"], 2, &["caveats"]);
    check(&["sync", "--ref", "<ref {}>", "--ref-file", "x"], 2, &["--ref-file"]);
    check(&["sync", "--ref-file", "/nonexistent"], 1, &["the reference's file /nonexistent"]);
}

#[test]
fn the_environment_is_read_and_named() {
    let broker = Broker::dev();
    let with = |name: &str, value: &str| {
        let mut command = broker.command(&["sync"]);
        command.env(name, value);
        run_with(command, b"")
    };
    assert!(with("STAUNCH_CONNECT", "nowhere").err.contains("$STAUNCH_CONNECT"));
    assert!(with("STAUNCH_REF", "nobody").err.contains("$STAUNCH_REF"));
    assert_eq!(with("STAUNCH_REF", "  ").status, Some(0), "as if it were not set");
    let file = broker.path("ref");
    std::fs::write(&file, "<ref {oid: \"syndicate\" sig: #[acowDB2/oI+6aSEC3YIxGg==]}>\n").unwrap();
    assert_eq!(broker.run(&["sync", "--ref-file", file.to_str().unwrap()]).status, Some(0));
}

#[test]
fn references_that_do_not_fit_are_told_apart() {
    let broker = Broker::dev();
    let refused = |reference: &str, words: &[&str]| {
        let said = broker.run(&["sync", "--timeout", "0.2", "--ref", reference]);
        assert_eq!(said.status, Some(1), "{said:?}");
        words
            .iter()
            .for_each(|word| assert!(said.err.contains(word), "{reference}: {word:?} in {}", said.err));
    };
    refused("<ref {oid: \"syndicate\" sig: #[]}>", &["refuses", "staunch ref inspect"]);
    refused("<ref {oid: \"other\" sig: #[]}>", &["nothing for this reference's oid", "\"other\""]);
    let keyed = Broker::start(|folder| {
        vec!["--key-file".to_owned(), folder.path().join("key").display().to_string()]
    });
    let said = keyed.run(&["sync"]);
    assert_eq!(said.status, Some(1));
    assert!(
        said.err.contains("does not let everybody in") && said.err.contains("staunch ref mint"),
        "{}",
        said.err
    );
}

/// Answers the first connection with these bytes, and keeps it open, or closes it at once.
fn answering(bytes: &'static [u8], keeps: bool) -> (String, std::thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp:localhost:{}", listener.local_addr().unwrap().port());
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut question = [0; 1024];
        let _ = stream.read(&mut question).unwrap();
        let _ = stream.write_all(bytes);
        if keeps {
            // Until the client has had enough.
            while stream.read(&mut question).is_ok_and(|read| read > 0) {}
        }
    });
    (address, server)
}

#[test]
fn what_is_no_broker_is_told() {
    let check_answer = |bytes: &'static [u8], keeps: bool, words: &[&str]| {
        let (address, server) = answering(bytes, keeps);
        check(
            &["sync", "--timeout", "0.5", "--connect", &address],
            1,
            &[&[address.as_str()], words].concat(),
        );
        server.join().unwrap();
    };
    check_answer(b"HTTP/1.1 400 Bad Request\r\n\r\n", false, &["not the Syndicate protocol", "HTTP/1.1 400"]);
    check_answer(b"\x1b[31mSSH-2.0\r\n", true, &["not the Syndicate protocol", "\\x1b"]);
    check_answer(b"", true, &["no answer within 0.5 s", "Is it a Syndicate broker?"]);
    check_answer(b"", false, &["closed the connection", "Is it a Syndicate broker"]);
    check_answer(b"\xb5\xb5", true, &["no answer within 0.5 s"]);
    // `<error "go away" #f>`.
    check_answer(b"\xb4\xb3\x05error\xb1\x07go away\x80\x84", false, &["go away"]);
    check_answer(&[0xb5; 5000], true, &["not the Syndicate protocol"]);
    // A turn with what is no event, and an answer that is no capability.
    check_answer(b"\xb5\xb0\x00\x84", true, &["malformed event"]);
    check_answer(
        b"\xb5\xb5\xb0\x00\xb4\xb3\x01A\xb0\x00\xb0\x01\x01\x84\x84\x84",
        true,
        &["refuses the reference"],
    );
    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    check(&["sync", "--connect", &format!("tcp:{unused}")], 1, &["nobody listens", "Is the broker running?"]);
    check(&["sync", "--connect", "unix:/nonexistent/socket"], 1, &["no such socket", "--connect ADDRESS"]);
    check(&["sync", "--connect", "tcp:host.invalid:9001"], 1, &["host.invalid", "not known"]);
}

/// A shell has taken the holes out of it.
#[test]
fn patterns_that_a_shell_has_read_are_told_of() {
    let broker = Broker::dev();
    for (pattern, is_told) in
        [("<Says  >", true), ("<Says \"ann\" >", true), ("<Says $x >", false), ("<Says>", false)]
    {
        let said = broker.run(&["observe", "--snapshot", pattern]);
        assert_eq!((said.status, said.err.contains("single quotes")), (Some(0), is_told), "{said:?}");
    }
}

#[test]
fn what_cannot_be_printed_is_told() {
    let broker = Broker::dev();
    let _holder = {
        let mut holder = Running::start(broker.command(&["assert", "<x 1>"]));
        holder.line();
        holder
    };
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = broker.command(&["observe", "--snapshot", "<x $>"]);
    command.stdout(full).stderr(std::process::Stdio::piped());
    let end = command.spawn().unwrap().wait_with_output().unwrap();
    assert_eq!(end.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&end.stderr).contains("No space left"));
}

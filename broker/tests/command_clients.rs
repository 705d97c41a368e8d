//! `staunch observe`, `assert`, `send` and `sync`: between processes, through a broker.

#[path = "common/process.rs"]
mod process;

use std::io::{Read, Write};
use std::process::Stdio;

use process::*;

#[test]
fn messages_go_from_one_to_the_other() {
    let broker = Broker::dev();
    let mut observer = broker.observe(&["<Says $who $what>"], "rec Says", 1);
    let said =
        broker.run(&["send", r#"<Says "ann" "hello\n">"#, "<Says ben [1 2.0 #x\"00\"]>", "<Shouts x y>"]);
    assert_eq!(said.status, Some(0), "{said:?}");
    assert_eq!((said.out.as_str(), said.err.as_str()), ("", ""));
    assert_eq!(observer.line(), r#"! who="ann" what="hello\n""#);
    assert_eq!(observer.line(), "! who=ben what=[1, 2.0, #[AA]]");
    observer.signal("-INT");
    assert_eq!(observer.rest(), [""; 0]);
    assert_eq!(observer.end(), (Some(0), String::new()));
}

#[test]
fn assertions_hold_as_long_as_they_are_held() {
    let broker = Broker::dev();
    let mut observer = broker.observe(&["<Present $>"], "rec Present", 1);
    let mut holder = Running::start(broker.command(&["assert", "<Present \"ann\">", "<Present \"ben\">"]));
    assert_eq!([observer.line(), observer.line()], ["+ \"ann\"", "+ \"ben\""]);
    assert_eq!([holder.line(), holder.line()], ["+ <Present \"ann\">", "+ <Present \"ben\">"]);
    let snapshot = broker.run(&["observe", "--snapshot", "<Present _>"]);
    assert_eq!(
        (snapshot.status, snapshot.out.as_str()),
        (Some(0), "+ <Present \"ann\">\n+ <Present \"ben\">\n")
    );
    holder.signal("-TERM");
    assert_eq!(holder.end(), (Some(0), String::new()));
    let mut gone = [observer.line(), observer.line()];
    gone.sort();
    assert_eq!(gone, ["- \"ann\"", "- \"ben\""]);

    // For a time.
    let said = broker.run(&["assert", "--quiet", "--for", "0.1", "<Present 1>"]);
    assert_eq!((said.status, said.out.as_str()), (Some(0), ""));
    assert_eq!([observer.line(), observer.line()], ["+ 1", "- 1"]);
    // As long as a pipe is open.
    let mut command = broker.command(&["assert", "<Present 2>"]);
    command.stdin(Stdio::piped());
    let mut holder = Running::start(command);
    assert_eq!((holder.line(), observer.line()), ("+ <Present 2>".to_owned(), "+ 2".to_owned()));
    drop(holder.child.stdin.take());
    assert_eq!(holder.end().0, Some(0));
    assert_eq!(observer.line(), "- 2");
    // Not less because there is no input.
    let mut command = broker.command(&["assert", "<Present 3>"]);
    command.stdin(Stdio::null());
    let mut holder = Running::start(command);
    assert_eq!((holder.line(), observer.line()), ("+ <Present 3>".to_owned(), "+ 3".to_owned()));
    assert!(holder.child.try_wait().unwrap().is_none());
    // However it ends.
    holder.signal("-KILL");
    assert_eq!(observer.line(), "- 3");
}

#[test]
fn many_lines_come_through_in_order() {
    const LINES: usize = 50_000;
    let broker = Broker::dev();
    let count = LINES.to_string();
    let mut observer = broker.observe(&["--count", &count, "<line $n>"], "rec line", 1);
    let input: String = (0..LINES).map(|n| format!("<line {n}>\n")).collect();
    let said = run_with(broker.command(&["send"]), input.as_bytes());
    assert_eq!(said.status, Some(0), "{said:?}");
    let lines = observer.rest();
    assert_eq!(lines.len(), LINES);
    assert!(lines.iter().enumerate().all(|(n, line)| *line == format!("! n={n}")));
    assert_eq!(observer.end(), (Some(0), String::new()));
}

#[test]
fn a_snapshot_has_all_that_is_there() {
    let broker = Broker::dev();
    let values: Vec<String> = (0..3000).map(|n| format!("<item {n}>")).collect();
    let mut arguments = vec!["assert"];
    arguments.extend(values.iter().map(String::as_str));
    let mut holder = Running::start(broker.command(&arguments));
    assert_eq!(holder.line(), "+ <item 0>");
    let said = broker.run(&["observe", "--exit-on-sync", "<item $>"]);
    let mut found: Vec<u32> = said.out.lines().map(|line| line[2..].parse().unwrap()).collect();
    found.sort_unstable();
    assert_eq!(found, (0..3000).collect::<Vec<u32>>());
}

#[test]
fn lines_that_are_no_values_end_a_stream_where_they_stand() {
    let broker = Broker::dev();
    let check = |input: &[u8], line: u32, words: &str, sent: usize| {
        let mut observer = broker.observe(&["<ok $>"], "rec ok", 1);
        let said = run_with(broker.command(&["send"]), input);
        assert_eq!(said.status, Some(1), "{said:?}");
        assert!(said.err.contains(&format!("line {line} of")) && said.err.contains(words), "{}", said.err);
        (0..sent).for_each(|_| assert_eq!(observer.line(), "! 1"));
        observer.signal("-TERM");
        assert_eq!(observer.rest(), [""; 0]);
        observer.end();
    };
    check(b"<ok 1>\n\n# what follows is broken\n<ok 1\n<ok 1>\n", 4, "column 1: this is not closed", 1);
    check(b"<ok 1>\r\n<ok 1>\n<ok>>", 3, "column 5", 2);
    check(b"\xff\n", 1, "not UTF-8", 0);
    check(b"<ok #:[1 1]>", 1, "capability", 0);
    check("[".repeat(100_000).as_bytes(), 1, "nested deeper than", 0);
    let long = [b"<ok 1>\n\"", vec![b'x'; (16 << 20) + 10].as_slice(), b"\"\n<ok 1>\n"].concat();
    check(&long, 2, "longer than", 1);
    let endless = [b"<ok 1>\n\"", vec![b'x'; 20 << 20].as_slice()].concat();
    check(&endless, 2, "longer than 16 MiB", 1);
    // The longest that fits, does.
    let large = [b"\"", vec![b'x'; (16 << 20) - 2000].as_slice(), b"\"\n"].concat();
    let said = run_with(broker.command(&["send"]), &large);
    assert_eq!((said.status, said.err.as_str()), (Some(0), ""));
}

#[test]
fn json_is_an_object_a_line() {
    let broker = Broker::dev();
    let mut named = broker.observe(&["--json", "<v $a $>"], "rec v", 1);
    let mut whole = broker.observe(&["--json", "<v _ _>"], "rec v", 2);
    let mut holder = Running::start(broker.command(&["assert", "-q", "<v {a: x} 18446744073709551616>"]));
    let json = |line: String| serde_json::from_str::<serde_json::Value>(&line).unwrap();
    let asserted = json(named.line());
    let (value, number) =
        (r#"{"a":{"@symbol":"x"}}"#.to_owned(), r#"{"@integer":"18446744073709551616"}"#.to_owned());
    let captures = format!(r#"{{"a":{value},"1":{number}}}"#);
    assert_eq!(asserted["event"], "assert");
    assert_eq!(asserted["captures"], json(captures));
    let asserted_whole = json(whole.line());
    assert_eq!(asserted_whole["value"], json(format!(r#"{{"@record":"v","@fields":[{value},{number}]}}"#)));
    assert!(asserted_whole.get("captures").is_none());
    holder.signal("-INT");
    holder.rest();
    let retracted = json(named.line());
    assert_eq!(retracted["event"], "retract");
    assert!(retracted["handle"].is_number());
    assert_eq!((&retracted["handle"], &retracted["captures"]), (&asserted["handle"], &asserted["captures"]));
    assert_eq!(broker.run(&["send", "<v 1 2.5>"]).status, Some(0));
    assert_eq!(named.line(), r#"{"event":"message","captures":{"a":1,"1":2.5}}"#);
    assert_eq!(json(whole.line())["event"], "retract");
    assert_eq!(whole.line(), r#"{"event":"message","value":{"@record":"v","@fields":[1,2.5]}}"#);

    // And back.
    let mut text = broker.observe(&["<w $>"], "rec w", 1);
    let input =
        b"{\"@record\":\"w\",\"@fields\":[{\"b\":{\"@symbol\":\"x\"},\"a\":{\"@bytes\":\"00\"}}]}\n\nnull\n";
    let said = run_with(broker.command(&["send", "--json"]), input);
    assert!(said.status == Some(1) && said.err.contains("line 3"), "{said:?}");
    assert_eq!(text.line(), "! {a: #[AA], b: x}");
    let mut holder =
        Running::start(broker.command(&["assert", "--json", r#"{"@record":"w","@fields":[1]}"#]));
    assert_eq!([holder.line(), text.line()], ["+ <w 1>", "+ 1"]);
    assert_eq!(broker.run(&["send", "--json", "[1,"]).status, Some(2));
}

#[test]
fn sync_tells_how_long_it_took() {
    let broker = Broker::dev();
    let said = broker.run(&["sync", "--count", "3"]);
    assert_eq!((said.status, said.out.lines().count()), (Some(0), 3), "{said:?}");
    assert!(said.out.starts_with(&format!("{} answers after ", broker.address)));
    let json: serde_json::Value = serde_json::from_str(&broker.run(&["sync", "--json"]).out).unwrap();
    assert!(json["ms"].as_f64().unwrap() > 0.0);
    assert_eq!(json["address"], broker.address.as_str());
}

#[test]
fn waiting_has_an_end() {
    let broker = Broker::dev();
    let said = broker.run(&["observe", "--count", "1", "--for", "0.1", "<never $>"]);
    assert_eq!(said.status, Some(1));
    assert!(said.err.contains("0 of 1 events came within 0.1 s"), "{}", said.err);
    assert_eq!(broker.run(&["observe", "--for", "0.1", "<never $>"]).status, Some(0));
}

#[test]
fn whoever_reads_may_stop() {
    let broker = Broker::dev();
    let mut command = broker.command(&["observe", "<line $>"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    let _holder = Running::start(broker.command(&["assert", "<line 1>"]));
    let mut first = [0; 4];
    out.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"+ 1\n");
    // It ends without being told anything more.
    drop(out);
    let end = child.wait_with_output().unwrap();
    assert_eq!((end.status.code(), end.stderr.as_slice()), (Some(0), &b""[..]));
}

#[test]
fn a_broker_that_goes_away_is_told_of() {
    let mut broker = Broker::dev();
    let mut observer = broker.observe(&["<x $>"], "rec x", 1);
    let mut holder = Running::start(broker.command(&["assert", "<y>"]));
    assert_eq!(holder.line(), "+ <y>");
    let mut command = broker.command(&["send"]);
    command.stdin(Stdio::piped());
    let mut sender = Running::start(command);
    sender.child.stdin.as_mut().unwrap().write_all(b"<x 1>\n").unwrap();
    assert_eq!(observer.line(), "! 1", "a line is sent when it comes");
    broker.running.child.kill().unwrap();
    let mut told = 0;
    for running in [observer, holder, sender] {
        let (status, err) = running.end();
        assert_eq!(status, Some(1), "{err}");
        assert!(err.contains("closed the connection") && err.contains(&broker.address), "{err}");
        told += usize::from(err.contains("of 1 messages have been taken for certain"));
    }
    assert_eq!(told, 1, "the sender knows what has come of it");
    broker.running.child.wait().unwrap();
    let said = broker.run(&["sync"]);
    assert_eq!(said.status, Some(1));
    assert!(
        said.err.contains("nobody listens") && said.err.contains("Is the broker running?"),
        "{}",
        said.err
    );
}

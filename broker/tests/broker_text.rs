//! Sessions in text: alone, beside others, in pieces, changing to binary and back.

mod common;

use common::text::*;
use common::*;
use staunch::server::{Address, Answers, Config, Listen, Server};

/// A broker on a Unix socket too, in a folder.
fn start_unix() -> (Server, std::net::SocketAddr, tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listen =
        vec![Address::Tcp("127.0.0.1:0".parse().unwrap()).into(), Address::Unix(path.clone()).into()];
    let (server, address) = start(Config { listen, workers: 2, ..Config::default() });
    (server, address, folder, path)
}

fn check_over(server: &Server) {
    until("all have gone", || server.connections() == 0);
    until("nothing is owed", || server.total_debt() == 0);
    assert_eq!(server.index_counts(), (0, 0, 0));
    balanced(server);
}

/// What a script sends, and what it gets for each line.
const TRANSCRIPT: [(&str, &[&str]); 6] = [
    (
        r#"[[0 <A <resolve <ref {oid: "syndicate" sig: #[acowDB2/oI+6aSEC3YIxGg]}> #:[0 0]> 1>]]"#,
        &["[[0, <A <ok #:[0, 1]> H>]]"],
    ),
    (
        "[[1 <A <Observe <group <rec Present> {0: <bind <_>>}> #:[0 1]> 2>] \
          [1 <A <Observe <group <rec Says> {0: <bind <_>> 1: <bind <_>>}> #:[0 2]> 3>]]",
        &[],
    ),
    (r#"[[1 <A <Present "bash"> 4>]]"#, &[r#"[[1, <A ["bash"] H>]]"#]),
    (r#"[[1 <M <Says "bash" "hi there">>]]"#, &[r#"[[2, <M ["bash", "hi there"]>]]"#]),
    ("[[1 <S #:[0 3]>]]", &["[[3, <M #t>]]"]),
    ("[[1 <R 4>]]", &["[[1, <R H>]]"]),
];

#[test]
fn the_transcript_of_a_script() {
    let (server, address) = start_default();
    let mut client = TextClient::tcp(address);
    let mut handles = Vec::new();
    for (sent, expected) in TRANSCRIPT {
        client.send(sent);
        for expected in expected {
            let line = client.line();
            assert_eq!(without_handles(&line), *expected);
            let handle: String = line.chars().rev().skip(3).take_while(char::is_ascii_digit).collect();
            handles.push(handle);
        }
    }
    assert!(!handles[1].is_empty());
    assert_eq!(handles[1], handles[handles.len() - 1], "what is retracted is what was asserted");
    drop(client);
    check_over(&server);
}

#[test]
fn text_and_binary_understand_each_other() {
    let (server, address, _folder, path) = start_unix();
    let pattern = record_pattern("v", 1);
    let mut binary = Client::tcp(address).resolved();
    binary.send(&format!("[{}]", observe(&pattern, 7, 2)));
    binary.sync();
    let mut text = TextClient::unix(&path).resolved();
    text.send(&format!("[{}]", observe(&pattern, 7, 2)));
    assert_eq!(text.sync_at(1), [""; 0]);

    let value = r#"[1 -2.5 "three\n\"\u0001é" #"four\x00" five 'a b' {b: 1 a: #{3 2 1}} #t #:[0 9] <r>]"#;
    text.send(&format!("[[1 <A <v {value}> 5>]]"));
    // Sets and dictionaries in the total order; a reference under a number of the broker's.
    let canonical = |oid: u32| {
        format!(
            r#"[[1, -2.5, "three\n\"\u0001é", #[Zm91cgA], five, 'a b', {{a: #{{1, 2, 3}}, b: 1}}, #t, #:[0, {oid}], <r>]]"#
        )
    };
    let told = binary.event();
    assert_eq!((told.kind, told.body), ('A', canonical(2)));
    let own = text.line();
    // Its own entity comes home as itself.
    assert_eq!(without_handles(&own), format!("[[7, <A {} H>]]", canonical(9).replace("[0, 9]", "[1, 9]")));

    // Both may speak to the entity now.
    binary.send("[[2 <M hello>] [2 <A hi 8>] [2 <S #:[0 50]>]]");
    assert_eq!(without_handles(&text.line()), "[[9, <M hello>], [9, <A hi H>]]");
    assert_eq!(text.line(), "[[9, <S #:[0, 2]>]]");
    text.send("[[2 <M #t>]]");
    assert_eq!(binary.event(), Event { oid: 50, kind: 'M', body: "#t".into(), handle: 0 });
    binary.send("[[2 <R 8>]]");
    assert_eq!(without_handles(&text.line()), "[[9, <R H>]]");
    binary.send("[[1 <M <v [binary]>>]]");
    assert_eq!(text.line(), "[[7, <M [[binary]]>]]");
    assert_eq!(binary.event().body, "[[binary]]");

    // A client that ends without a word.
    drop(text);
    assert_eq!(binary.event().kind, 'R');
    drop(binary);
    check_over(&server);
}

#[test]
fn pieces_of_every_size() {
    let (server, address) = start_default();
    let all: String = TRANSCRIPT.iter().map(|(sent, _)| format!("{sent}\n# a comment\n@a \t #f ")).collect();
    let run = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let mut client = TextClient::tcp(address);
        for piece in pieces {
            client.send_anyway(piece);
        }
        // How they are put together into turns is up to what arrives together.
        let mut text = String::new();
        while !text.contains("[1, <R H>]") {
            text += &without_handles(&client.line());
        }
        let expected = TRANSCRIPT.iter().flat_map(|(_, expected)| expected.iter());
        let mut rest = &text[..];
        for event in expected.map(|line| &line[1..line.len() - 1]) {
            let at = rest.find(event).unwrap_or_else(|| panic!("{event} in {text}"));
            rest = &rest[at..];
        }
    };
    let bytes = all.as_bytes();
    for cut in 1..bytes.len() {
        let (a, b) = bytes.split_at(cut);
        run(&mut [a, b].into_iter());
    }
    for size in [1, 2, 3, 5, 17, bytes.len()] {
        run(&mut bytes.chunks(size));
    }
    check_over(&server);
}

#[test]
fn what_comes_first() {
    let (server, address, _folder, path) = start_unix();
    // On a Unix socket there is nothing else to be taken for.
    for first in ["#f", "\n", " ", "# comment\n", "@a ", "#!/shebang\n", "\r\n\t"] {
        let mut client = TextClient::unix(&path);
        client.send_bytes(first.as_bytes());
        client.resolved();
    }
    for first in ["#f", "\n", "# comment\n", "GET / HTTP/1.1\r\n\r\n", "@a []"] {
        let mut client = TextClient::tcp(address);
        client.send_anyway(first.as_bytes());
        let error = client.ends_with_error();
        assert!(error.contains("HTTP"), "{first}: {error}");
    }
    check_over(&server);
}

/// Which syntax is spoken may change with each packet; the answers are in that of the last.
#[test]
fn changing_to_binary_and_back() {
    let (server, address) = start_default();
    let mut client = TextClient::tcp(address).resolved();
    let sync = |n: i64| bytes(&format!("[[1 <S #:[0 {n}]>]]"));
    for n in 10..30 {
        client.send_bytes(&sync(n));
        let answer = bytes(&format!("[[{n} <M #t>]]"));
        assert_eq!(client.read_bytes(answer.len()), answer);
        client.send(&format!("[[1 <S #:[0 {n}]>]]"));
        assert_eq!(client.line(), format!("[[{n}, <M #t>]]"));
    }
    // All at once: each answer is whole, in one or the other.
    let mut all = Vec::new();
    for n in 0..2000 {
        match n % 3 {
            0 => all.extend(sync(n)),
            _ => all.extend(format!("[[1 <S #:[0 {n}]>]]").bytes()),
        }
    }
    all.extend(b"[[1 <S #:[0 5000]>]]");
    client.send_bytes(&all);
    let mut got = Vec::new();
    while !got.ends_with(b"[[5000, <M #t>]]\n") {
        got.extend(client.read_bytes(1));
    }
    let mut rest = &got[..];
    for n in 0..2000 {
        let (text, binary) = (format!("[[{n}, <M #t>]]\n"), bytes(&format!("[[{n} <M #t>]]")));
        let answer = if rest[0] < 0x80 { text.as_bytes() } else { &binary };
        rest = rest.strip_prefix(answer).unwrap_or_else(|| panic!("answer {n}"));
    }
    client.send_bytes(b"\x80\n\x80\n".repeat(100_000).as_slice());
    assert_eq!(client.sync_at(1), [""; 0]);
    drop(client);
    check_over(&server);
}

/// What waits for an observer that changes its syntax goes out whole, the packet under way in the old one.
#[test]
fn changing_while_much_waits() {
    let (server, address) = start_default();
    for has_long in [false, true] {
        let mut client = TextClient::narrow(address);
        client.send_bytes(&bytes(RESOLVE));
        client.read_bytes(bytes("[[0 <A <ok #:[0 1]> 1>]]").len());
        client.send_bytes(&bytes(&format!("[{}]", observe(&record_pattern("w", 1), 7, 2))));
        let mut producer = Client::tcp(address).resolved();
        let padding = "x".repeat(if has_long { 50_000 } else { 700 });
        let count = if has_long { 45 } else { 3000 };
        until("it observes", || server.index_counts().0 == 1);
        for n in 0..count {
            producer.send(&format!("[[1 <M <w [{n} {padding:?}]>>]]"));
        }
        producer.sync();
        assert!(server.total_debt() > 500_000, "it waits");
        client.send_bytes(b"[[1 <S #:[0 8]>]]\n");
        let mut got = Vec::new();
        while !got.ends_with(b"[[8, <M #t>]]\n") {
            got.extend(client.read_bytes(1));
        }
        let mut rest = &got[..];
        let mut texts = 0;
        for n in 0..count {
            let binary = bytes(&format!("[[7 <M [[{n} {padding:?}]]>]]"));
            let text = format!("[[7, <M [[{n}, {padding:?}]]>]]\n");
            texts += (rest[0] < 0x80) as u32;
            let answer = if rest[0] < 0x80 { text.as_bytes() } else { &binary };
            rest = rest
                .strip_prefix(answer)
                .unwrap_or_else(|| panic!("message {n}: {:?}", &rest[..rest.len().min(80)]));
        }
        assert!(texts > 0, "some are in text");
        drop((client, producer));
        check_over(&server);
    }
}

#[test]
fn a_large_state_and_large_bodies_in_text() {
    let (server, address) = start_default();
    let mut owner = Client::tcp(address).resolved();
    let asserts: String = (0..3000).map(|n| format!("[1 <A <s {n} \"{:050}\"> {}>]", n, n + 10)).collect();
    owner.send(&format!("[{asserts}]"));
    // Larger than what is converted at a time.
    let body = "é".repeat(100_000);
    owner.send(&format!("[[1 <A <s 3000 \"{body}\"> 9000>]]"));
    owner.sync();
    let mut text = TextClient::narrow(address).resolved();
    text.send(&format!("[{}]", observe(&record_pattern("s", 1), 7, 2)));
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < 3001 {
        let line = text.line();
        for part in line.split("<A [").skip(1) {
            let n: u32 = part[..part.find(']').unwrap()].parse().unwrap();
            assert!(seen.insert(n));
        }
    }
    text.send(&format!("[{}]", observe("<group <rec s> {0: <lit 3000> 1: <bind <_>>}>", 8, 3)));
    assert_eq!(without_handles(&text.line()), format!("[[8, <A [\"{body}\"] H>]]"));
    drop((text, owner));
    check_over(&server);
}

/// A text observer stalls: whoever sends to it owes, until it has read everything, or is gone.
#[test]
fn an_observer_that_stalls() {
    for is_killed in [false, true] {
        let (server, address) =
            start(Config { workers: 2, debt_max: 200_000, send_buffer: 8192, ..Config::default() });
        let mut slow = TextClient::narrow(address).resolved();
        slow.send(&format!("[{}]", observe(&record_pattern("m", 2), 7, 2)));
        slow.sync_at(1);
        let mut producer = Client::tcp(address).resolved();
        let mut sent = 0;
        // It is read until it owes too much.
        let mut unsent: Vec<u8> = Vec::new();
        let start = std::time::Instant::now();
        while start.elapsed() < std::time::Duration::from_secs(2) {
            if unsent.is_empty() {
                let length = if sent % 10 == 0 { 6000 } else { 100 };
                unsent = bytes(&format!("[[1 <M <m {sent} \"{}\">>]]", "x".repeat(length)));
                sent += 1;
            }
            let taken = producer.send_some(&unsent);
            unsent.drain(..taken);
            if taken == 0 {
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        }
        let debts = server.debts();
        assert!(debts.iter().any(|d| d.is_waiting && d.debt > 100_000), "{debts:?}");
        balanced(&server);
        if is_killed {
            drop(slow);
            until("nothing is owed", || server.total_debt() == 0);
            producer.send_bytes(&unsent);
            producer.sync();
        } else {
            producer.send_bytes_while(&unsent, || drop(slow.line()));
            let mut next = None;
            while next != Some(sent - 1) {
                let line = slow.line();
                let n: u64 = line["[[7, <M [".len()..].split(',').next().unwrap().parse().unwrap();
                assert!(next.is_none_or(|next: u64| n == next + 1), "{n} after {next:?}");
                next = Some(n);
            }
            until("nothing is owed", || server.total_debt() == 0);
        }
        drop(producer);
        balanced(&server);
    }
}

/// The session ends by the broker while much waits: the packet under way goes out whole, and then the Error packet.
#[test]
fn an_end_while_much_waits() {
    let (server, address) = start_default();
    let mut slow = TextClient::narrow(address).resolved();
    slow.send(&format!("[{}]", observe(&record_pattern("m", 1), 7, 2)));
    slow.sync_at(1);
    let mut producer = Client::tcp(address).resolved();
    for n in 0..2000 {
        producer.send(&format!("[[1 <M <m [{n} {:?}]>>]]", "x".repeat(800)));
    }
    producer.sync();
    slow.send("[[1 <A x 2>]]");
    until("what waits is dropped", || server.total_debt() < 100_000);
    let error = slow.ends_with_error();
    assert!(error.contains("duplicate handle"), "{error}");
    drop((slow, producer));
    check_over(&server);
}

#[test]
fn listeners_that_answer_as_older_clients_want() {
    let older: Listen = "tcp:127.0.0.1:0,answers=accepted".parse().unwrap();
    assert_eq!(older.answers, Answers::Accepted);
    let listen = vec![Address::Tcp("127.0.0.1:0".parse().unwrap()).into(), older];
    let (server, address) = start(Config { listen, workers: 2, ..Config::default() });
    let older = server.tcp_addresses()[1];
    let wrong = RESOLVE.replace("acow", "bcow");
    let invalid = "[[0 <A <resolve <ref {}> #:[0 0]> 1>]]";
    for (address, ok, error) in [(address, "ok", "error"), (older, "accepted", "rejected")] {
        let ask = |question: &str| {
            let mut client = TextClient::tcp(address);
            client.send(question);
            without_handles(&client.line())
        };
        assert_eq!(ask(RESOLVE), format!("[[0, <A <{ok} #:[0, 1]> H>]]"));
        assert_eq!(ask(&wrong), format!("[[0, <A <{error} sturdyref-failed-validation> H>]]"));
        assert_eq!(ask(invalid), format!("[[0, <A <{error} invalid> H>]]"));
    }
    // It is one dataspace.
    let mut new = TextClient::tcp(address).resolved();
    new.send("[[1 <A <here 1> 2>]]");
    new.sync_at(1);
    let mut old = TextClient::tcp(older);
    old.send(RESOLVE);
    old.line();
    old.send(&format!("[{}]", observe(&record_pattern("here", 1), 7, 2)));
    assert_eq!(without_handles(&old.line()), "[[7, <A [1] H>]]");
    drop((new, old));
    check_over(&server);
}

/// One client library embeds the peer of a Sync twice.
#[test]
fn a_sync_whose_peer_is_embedded_twice() {
    let (server, address) = start_default();
    let mut binary = Client::tcp(address).resolved();
    binary.send("[[1 <S #:#:[0 40]>]]");
    assert_eq!(binary.event(), Event { oid: 40, kind: 'M', body: "#t".into(), handle: 0 });
    binary.send("[[0 <S #:#:[0 41]>]]");
    assert_eq!(binary.event().oid, 41);
    let mut text = TextClient::tcp(address).resolved();
    text.send("[[1 <S #:#:[0 42]>]]");
    assert_eq!(text.line(), "[[42, <M #t>]]");
    // To a peer's entity it is passed on as everybody else writes it.
    binary.send(&format!("[{}]", observe(&record_pattern("e", 1), 7, 2)));
    binary.sync();
    text.send("[[1 <A <e #:[0 9]> 5>]]");
    assert_eq!(binary.event().body, "[#:[0, 2]]");
    binary.send("[[2 <S #:#:[0 43]>]]");
    assert_eq!(text.line(), "[[9, <S #:[0, 2]>]]");
    text.send("[[2 <M #t>]]");
    assert_eq!(binary.event().oid, 43);
    drop((binary, text));
    check_over(&server);
}

/// Annotations are dropped, wherever they stand, in both syntaxes.
#[test]
fn annotations() {
    let (server, address) = start_default();
    let mut client = Client::tcp(address).resolved();
    client.send(&format!("[{}]", observe(&record_pattern("a", 1), 7, 2)));
    client.sync();
    // Before the packet, the turn's parts, and within the value: 85 annotation value.
    let annotated = b"\x85\xb1\x01n\x85\x80\xb5\x85\x81\xb5\x85\x81\xb0\x01\x01\x85\x81\xb4\x85\x81\xb3\x01M\
        \x85\x81\xb4\x85\x81\xb3\x01a\x85\xb5\x84\xb7\x85\x81\xb3\x01k\x85\x81\xb0\x01\x05\x84\x84\x84\x84\x84";
    client.send_bytes(annotated);
    assert_eq!(client.event().body, "[{k: 5}]");
    let mut text = TextClient::tcp(address).resolved();
    text.send("[@n [1 @n <@n M @n <a @[n] {@n k: @n 5}>>]] # and a comment");
    assert_eq!(client.event().body, "[{k: 5}]");
    // Each of a million values has one.
    let mut packet = b"\xb5\xb5\xb0\x01\x01\xb4\xb3\x01M\xb4\xb3\x01a\xb5".to_vec();
    packet.extend(b"\x85\x80\x81".repeat(1_000_000));
    packet.extend(b"\x84\x84\x84\x84\x84");
    client.send_bytes(&packet);
    assert_eq!(client.event().body.matches("#t").count(), 1_000_000);
    text.send(&format!("[[1 <M <a [{}]>>]]", "@#f #t ".repeat(1_000_000)));
    assert_eq!(client.event().body.matches("#t").count(), 1_000_000);
    // One value has a million: in binary that is depth.
    text.send(&format!("[[1 <M <a {} #t>>]]", "@#f ".repeat(1_000_000)));
    assert_eq!(client.event().body, "[#t]");
    client.send_anyway(&b"\x85\x80".repeat(1_000_000));
    let error = client.ends_with_error();
    assert!(error.contains("deep"), "{error}");
    drop((client, text));
    check_over(&server);
}

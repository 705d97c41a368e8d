//! Metrics over HTTP: what is told, in which form, and what hostile clients can do.

mod common;

use std::collections::{HashMap, HashSet};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use common::*;
use staunch::server::{Config, Server};

fn start_with_metrics() -> (Server, SocketAddr, SocketAddr) {
    let config = Config {
        workers: 2,
        debt_max: 100_000,
        send_buffer: 4096,
        receive_buffer: 65536,
        metrics: Some("127.0.0.1:0".parse().unwrap()),
        ..Config::default()
    };
    let (server, address) = start(config);
    let metrics = server.metrics_address().unwrap();
    (server, address, metrics)
}

/// Sends this and returns all that is answered. An end without an answer is "".
fn ask(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // It may be answered before all of it was taken.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    match uninterrupted(|| stream.read_to_end(&mut answer)) {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        other => _ = other.unwrap(),
    }
    String::from_utf8(answer).unwrap()
}

const GET: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";

/// Asks, and returns the samples, by name with labels.
fn scrape(address: SocketAddr) -> HashMap<String, f64> {
    let answer = ask(address, GET);
    let (head, text) = answer.split_once("\r\n\r\n").expect("there is a head");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(
        head.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"),
        "{head}"
    );
    samples(text)
}

/// Reads the text, as strictly as a test can.
fn samples(text: &str) -> HashMap<String, f64> {
    let (mut types, mut helped, mut found) = (HashMap::new(), HashSet::new(), HashMap::new());
    assert!(text.ends_with("\n# EOF\n"), "{text}");
    for line in text.lines().filter(|line| *line != "# EOF") {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        match words[..] {
            ["#", "HELP", name, help] => assert!(helped.insert(name) && help.ends_with('.'), "{line}"),
            ["#", "TYPE", name, kind] => assert!(types.insert(name, kind).is_none(), "{line}"),
            ["#", "UNIT", name, unit] => assert!(name.ends_with(&format!("_{unit}")), "{line}"),
            _ => {
                let (name, value) = line.rsplit_once(' ').unwrap();
                let bare = name.split('{').next().unwrap();
                let suffixes = ["_total", "_bucket", "_count", "_sum", "_info", ""];
                let family = suffixes.iter().find_map(|s| {
                    let family = bare.strip_suffix(s)?;
                    Some((family, types.get(family)?, *s))
                });
                let (family, kind, suffix) = family.unwrap_or_else(|| panic!("no type: {line}"));
                assert!(family.starts_with("staunch_") && helped.contains(family), "{line}");
                let expected: &[&str] = match *kind {
                    "counter" => &["_total"],
                    "gauge" => &[""],
                    "info" => &["_info"],
                    _ => &["_bucket", "_count", "_sum"],
                };
                assert!(expected.contains(&suffix), "{line}");
                assert!(found.insert(name.to_owned(), value.parse().unwrap()).is_none(), "{line}");
            }
        }
    }
    found
}

#[test]
fn what_happens_is_counted() {
    let (server, address, metrics) = start_with_metrics();
    let before = scrape(metrics);
    assert_eq!(before["staunch_connections"], 0.0);
    assert_eq!(before["staunch_workers"], 2.0);
    let mut consumer = Client::narrow(address).resolved();
    consumer.send(&format!("[{}]", observe(&record_pattern("m", 1), 7, 2)));
    consumer.sync();
    let mut producer = Client::tcp(address).resolved();
    let message = bytes(&format!("[[1 <M <m \"{}\">>]]", "x".repeat(1000)));
    let mut sent = 0;
    until("it is held back", || {
        producer.send_bytes(&message);
        sent += 1;
        server.debts().iter().any(|debt| debt.is_waiting)
    });
    let during = samples(&server.metrics());
    assert_eq!((during["staunch_connections"], during["staunch_connections_throttled"]), (2.0, 1.0));
    assert!(during["staunch_debt_units"] > 100_000.0);
    assert_eq!(during["staunch_throttles_total"], 1.0);
    assert_eq!(during["staunch_throttled_seconds_count"], 0.0, "it lasts");
    assert!(during["staunch_received_bytes_total"] > 100_000.0);
    consumer.sync();
    producer.sync();
    // What a run has counted is added when it ends.
    until("all is counted", || {
        let after = samples(&server.metrics());
        after["staunch_throttled_seconds_count"] == 1.0
            && after["staunch_throttled_seconds_bucket{le=\"+Inf\"}"] == 1.0
            && after["staunch_deliveries_total"] >= f64::from(sent)
            && after["staunch_turns_total"] >= f64::from(sent)
            && after["staunch_debt_units"] == 0.0
    });
    let after = samples(&server.metrics());
    for (name, value) in during.iter().filter(|(name, _)| name.contains("_total")) {
        assert!(after[name] >= *value, "{name}");
    }
}

#[test]
fn refusals_are_counted_by_reason() {
    let (server, address, _) = start_with_metrics();
    server.set_limits(staunch::limits::Limits { principal_connections: 1, ..Default::default() });
    let _first = Client::tcp(address).resolved();
    let error = Client::tcp(address).ends_with_error();
    assert!(error.contains("one principal"), "{error}");
    let told = samples(&server.metrics());
    assert_eq!(told["staunch_connections_refused_total{reason=\"principal-connections\"}"], 1.0);
    assert_eq!(told["staunch_connections_refused_total{reason=\"rate\"}"], 0.0);
}

#[test]
fn what_is_asked_wrongly_is_refused() {
    let (_server, _, metrics) = start_with_metrics();
    let check = |request: &[u8], expected: &str| {
        let answer = ask(metrics, request);
        assert!(answer.starts_with(expected), "{answer}");
    };
    check(b"GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 404");
    check(b"POST /metrics HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", "HTTP/1.1 405");
    check(b"\x00\x01\x02\x03 nonsense \r\n\r\n", "HTTP/1.1 400");
    check(&[b"GET /metrics?", &[b'x'; 20_000][..]].concat(), "HTTP/1.1 4");
    let many: Vec<u8> = (0..1000).flat_map(|n| format!("a{n}: b\r\n").into_bytes()).collect();
    check(&[b"GET /metrics HTTP/1.1\r\n", &many[..], b"\r\n"].concat(), "HTTP/1.1 4");
    let head = ask(metrics, b"HEAD /metrics HTTP/1.1\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"), "{head}");
    scrape(metrics);
}

#[test]
fn who_says_nothing_takes_one_place_of_many() {
    let (server, address, metrics) = start_with_metrics();
    let mut silent: Vec<TcpStream> = (0..64).map(|_| TcpStream::connect(metrics).unwrap()).collect();
    let mut late = TcpStream::connect(metrics).unwrap();
    late.write_all(GET).unwrap();
    // The broker does not mind.
    assert_eq!(Client::tcp(address).resolved().sync(), []);
    silent.pop().unwrap().shutdown(Shutdown::Both).unwrap();
    let mut answer = String::new();
    late.set_read_timeout(Some(PATIENCE)).unwrap();
    uninterrupted(|| late.read_to_string(&mut answer)).unwrap();
    assert!(answer.contains("# EOF"), "{answer}");
    drop(server);
    assert!(TcpStream::connect(metrics).is_err(), "it ends with the broker");
}

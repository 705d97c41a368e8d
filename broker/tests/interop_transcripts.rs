//! Sessions recorded with the reference implementation, replayed against this broker: what comes must be the
//! same up to the handles that the broker chooses and the split of events into turns.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value as Json;
use staunch::server::{Address, Config, Server};
use staunch_protocols::packet::{Event, Packet};
use staunch_protocols::wire::{Limits, Progress, Scanner};

fn unhex(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
}

fn start() -> (Server, SocketAddr) {
    let listen = vec![Address::Tcp("127.0.0.1:0".parse().unwrap()).into()];
    let server = Server::start_dev(&Config { listen, workers: 2, ..Config::default() }).unwrap();
    let address = server.tcp_addresses()[0];
    (server, address)
}

struct Client {
    stream: TcpStream,
    /// What came while a barrier was waited for.
    pending: Vec<String>,
    handles: HashMap<Vec<u8>, usize>,
    is_closed: bool,
}

impl Client {
    fn connect(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut client = Client { stream, pending: Vec::new(), handles: HashMap::new(), is_closed: false };
        client.stream.write_all(&[0x80]).unwrap();
        client
    }

    /// Waits until the broker has handled all that was sent: a Sync at the initial object, answered at our
    /// entity 99, which no transcript uses.
    fn barrier(&mut self) {
        const ANSWER: &str = "[b0, 01, 63] M [81]";
        self.stream.write_all(&unhex("b5b5b000b4b3015386b5b000b0016384848484")).unwrap();
        while !self.pending.iter().any(|e| e == ANSWER) {
            let more = self.receive(self.pending.len() + 1, false);
            assert!(more.len() > self.pending.len(), "the barrier is answered: {more:?}");
            self.pending = more;
        }
        self.pending.retain(|e| e != ANSWER);
    }

    /// Reads until `events_max` events have come, or the end, or nothing more for a while.
    fn receive(&mut self, events_max: usize, expect_end: bool) -> Vec<String> {
        let patience = if events_max > 0 || expect_end { 3000 } else { 100 };
        self.stream.set_read_timeout(Some(Duration::from_millis(patience))).unwrap();
        let mut bytes = Vec::new();
        let mut chunk = [0; 65536];
        let mut events = std::mem::take(&mut self.pending);
        while events.len() < events_max || expect_end || events_max == 0 {
            match self.stream.read(&mut chunk) {
                Ok(0) => {
                    self.is_closed = true;
                    break;
                }
                Ok(n) => bytes.extend_from_slice(&chunk[..n]),
                Err(e) if matches!(e.kind(), std::io::ErrorKind::ConnectionReset) => {
                    self.is_closed = true;
                    break;
                }
                Err(_) => break,
            }
            let done = self.events(&bytes, &mut events);
            bytes.drain(..done);
        }
        assert!(bytes.is_empty(), "ends within a packet: {bytes:02x?}");
        events
    }

    /// The events in `bytes`, with handles numbered in order of appearance. Errors are left out: the reference
    /// sends them or not.
    fn events(&mut self, bytes: &[u8], events: &mut Vec<String>) -> usize {
        let mut done = 0;
        let mut scanner = Scanner::new(Limits::default());
        while let Ok(Progress::Complete(n)) = scanner.scan(&bytes[done..]) {
            let packet = &bytes[done..done + n];
            if let Ok(Packet::Turn(turn)) = Packet::read(scanner.view(packet)) {
                for event in turn.events() {
                    let event = event.unwrap();
                    let oid = event.oid.span();
                    let count = self.handles.len();
                    let mut number = |h: &[u8]| *self.handles.entry(h.to_vec()).or_insert(count);
                    events.push(match event.event {
                        Event::Assert { assertion, handle } => {
                            format!("{oid:02x?} A {:02x?} {}", assertion.span(), number(handle.span()))
                        }
                        Event::Retract { handle } => format!("{oid:02x?} R {}", number(handle.span())),
                        Event::Message { body } => format!("{oid:02x?} M {:02x?}", body.span()),
                        Event::Sync { peer } => format!("{oid:02x?} S {:02x?}", peer.span()),
                    });
                }
            }
            scanner.reset();
            done += n;
        }
        done
    }
}

#[test]
fn transcripts_come_out_the_same() {
    let path = format!("{}/tests/vectors/transcripts.json", env!("CARGO_MANIFEST_DIR"));
    let transcripts: Vec<Json> = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    for transcript in &transcripts {
        let (_server, address) = start();
        let mut clients: HashMap<String, Client> = HashMap::new();
        let mut recorded: HashMap<String, Client> = HashMap::new();
        for (i, step) in transcript["steps"].as_array().unwrap().iter().enumerate() {
            let name = format!("{}, step {i}", transcript["name"]);
            let conn = step["conn"].as_str().unwrap();
            let client = clients.entry(conn.to_owned()).or_insert_with(|| Client::connect(address));
            match step["action"].as_str().unwrap() {
                "close" => drop(clients.remove(conn)),
                _ => {
                    client.stream.write_all(&unhex(step["send_hex"].as_str().unwrap())).unwrap();
                    if !step["received"][conn]["closed"].as_bool().unwrap_or(false) {
                        client.barrier();
                    }
                }
            }
            for (conn, received) in step["received"].as_object().unwrap() {
                let twin = recorded.entry(conn.clone()).or_insert_with(|| Client::connect(address));
                let mut expected = Vec::new();
                if let Some(hex) = received["hex"].as_str() {
                    twin.events(&unhex(hex), &mut expected);
                }
                let must_end = received["closed"].as_bool().unwrap();
                let Some(client) = clients.get_mut(conn) else { continue };
                let events = client.receive(expected.len(), must_end);
                assert_eq!(events, expected, "{name}");
                assert_eq!(client.is_closed, must_end, "{name}: closed");
            }
        }
    }
}

const RESOLVE: &str = "b5b5b000b4b30141b4b3077265736f6c7665b4b303726566b7b3036f6964b10973796e646963617465b303736967b21069ca300c1dbfa08fba692102dd82311a848486b5b000b0008484b00101848484";

/// `[[1 <A value handle>]]` or `[[1 <M value>]]`.
fn event(kind: u8, value: &[u8], handle: Option<u8>) -> Vec<u8> {
    let mut out = vec![0xb5, 0xb5, 0xb0, 1, 1, 0xb4, 0xb3, 1, kind];
    out.extend_from_slice(value);
    if let Some(handle) = handle {
        out.extend_from_slice(&[0xb0, 1, handle]);
    }
    out.extend_from_slice(&[0x84, 0x84, 0x84]);
    out
}

#[test]
fn patterns_capture_as_recorded() {
    let path = format!("{}/tests/vectors/patterns.json", env!("CARGO_MANIFEST_DIR"));
    let patterns: Vec<Json> = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let (_server, address) = start();
    for pattern in &patterns {
        let mut client = Client::connect(address);
        client.stream.write_all(&unhex(RESOLVE)).unwrap();
        client.receive(1, false);
        // <Observe pattern #:[0 1]>, and then each value as a message.
        let mut observe = b"\xb4\xb3\x07Observe".to_vec();
        observe.extend(unhex(pattern["pattern_hex"].as_str().unwrap()));
        observe.extend([0x86, 0xb5, 0xb0, 0, 0xb0, 1, 1, 0x84, 0x84]);
        client.stream.write_all(&event(b'A', &observe, Some(2))).unwrap();
        for case in pattern["cases"].as_array().unwrap() {
            let value = case["value_hex"].as_str().unwrap();
            // Those with capabilities need entities pinned beforehand, which the recording does not say.
            if value.contains("86b5") || pattern["pattern_hex"].as_str().unwrap().contains("86b5") {
                continue;
            }
            let mut send = event(b'M', &unhex(value), None);
            // A barrier, answered at our entity 9.
            send.extend(unhex("b5b5b00101b4b3015386b5b000b0010984848484"));
            client.stream.write_all(&send).unwrap();
            let expected = case["captures_hex"].as_str().map(|c| format!("M {:02x?}", unhex(c)));
            // Observers of everything also see their own subscription.
            let mut events = Vec::new();
            while !events.iter().any(|e: &String| e == "[b0, 01, 09] M [81]") {
                let more = client.receive(1, false);
                assert!(!more.is_empty(), "the barrier is answered");
                events.extend(more);
            }
            let mut seen = events.iter().filter(|e| e.starts_with("[b0, 01, 01] M"));
            let name = format!("{} on {}", pattern["pattern"], case["value"]);
            assert_eq!(seen.next().map(|e| &e["[b0, 01, 01] ".len()..]), expected.as_deref(), "{name}");
            assert_eq!(seen.next(), None, "{name}");
        }
    }
}

/// `[events...]` with each event given as the bytes of `[oid <...>]`.
fn turn(events: &[Vec<u8>]) -> Vec<u8> {
    let mut out = vec![0xb5];
    for event in events {
        // Without the brackets of a turn of its own.
        out.extend_from_slice(&event[1..event.len() - 1]);
    }
    out.push(0x84);
    out
}

/// A handle that a turn retracts and uses again stands for the later assertion.
#[test]
fn a_handle_may_be_used_again_within_a_turn() {
    let (_server, address) = start();
    let mut client = Client::connect(address);
    client.stream.write_all(&unhex(RESOLVE)).unwrap();
    client.receive(1, false);
    // <Observe <group <rec foo> {0: <bind <_>>}> #:[0 1]>
    let mut observe =
        b"\xb4\xb3\x07Observe\xb4\xb3\x05group\xb4\xb3\x03rec\xb3\x03foo\x84\xb7\xb0\x00".to_vec();
    observe.extend(b"\xb4\xb3\x04bind\xb4\xb3\x01_\x84\x84\x84\x84\x86\xb5\xb0\x00\xb0\x01\x01\x84\x84");
    client.stream.write_all(&event(b'A', &observe, Some(2))).unwrap();
    let foo = |n: u8| [b"\xb4\xb3\x03foo\xb0\x01".as_slice(), &[n, 0x84]].concat();
    let retract = unhex("b5b5b00101b4b30152b00103848484");
    let events = [event(b'A', &foo(1), Some(3)), retract.clone(), event(b'A', &foo(2), Some(3))];
    client.stream.write_all(&turn(&events)).unwrap();
    let kinds = |events: &[String]| {
        events.iter().map(|e| e.split(' ').nth(3).unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(kinds(&client.receive(3, false)), ["A", "R", "A"]);
    client.stream.write_all(&retract).unwrap();
    assert_eq!(kinds(&client.receive(1, false)), ["R"]);
}

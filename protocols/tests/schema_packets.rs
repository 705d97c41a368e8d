//! What is read and written by hand, for the hot paths, against the schemas.

mod common;

use common::interpret::{Schemas, spoil};
use common::tree::{Noise, Tree};
use common::{parse_text, scanned, strings, twin, unhex, vectors};
use proptest::prelude::*;
use staunch_protocols::packet::{self, Event, Packet, WireRef};
use staunch_protocols::schema::{Codec, DEFINITIONS, Embedded, Value, dataspace_patterns, protocol, sturdy};
use staunch_protocols::sturdy::SturdyRef;
use staunch_protocols::wire::{Int, Limits, Progress, Scanner, View};

/// What the hot path makes of a packet, as the type that the schema has for it.
fn by_hand(value: View<'_>) -> Option<protocol::Packet> {
    Some(match Packet::read(value).ok()? {
        Packet::Nop => protocol::Packet::Nop,
        Packet::Error { message, detail } => {
            protocol::Packet::Error(protocol::Error { message: message.into(), detail: Value::copy(detail) })
        }
        Packet::Extension(record) => protocol::Packet::Extension(protocol::Extension {
            label: Value::copy(record.label()?),
            fields: record.fields().map(Value::copy).collect(),
        }),
        Packet::Turn(turn) => {
            let events: Result<Vec<_>, _> = turn.events().collect();
            let events = events.ok()?.into_iter().map(|event| protocol::TurnEvent {
                oid: protocol::Oid(int(event.oid)),
                event: event_by_hand(event.event),
            });
            protocol::Packet::Turn(protocol::Turn(events.collect()))
        }
    })
}

fn event_by_hand(event: Event<'_>) -> protocol::Event {
    match event {
        Event::Assert { assertion, handle } => protocol::Event::Assert(protocol::Assert {
            assertion: Value::copy(assertion),
            handle: protocol::Handle(int(handle)),
        }),
        Event::Retract { handle } => {
            protocol::Event::Retract(protocol::Retract { handle: protocol::Handle(int(handle)) })
        }
        Event::Message { body } => protocol::Event::Message(protocol::Message { body: Value::copy(body) }),
        Event::Sync { peer } => {
            let peer = Embedded(Value::copy(peer.embedded().unwrap()));
            protocol::Event::Sync(protocol::Sync { peer })
        }
    }
}

fn int(view: View<'_>) -> Int {
    view.as_int().unwrap()
}

/// Both ways of reading agree. Yields what was read.
fn check_packet(canonical: &[u8]) -> Option<protocol::Packet> {
    let scanner = scanned(canonical);
    let by_schema = protocol::Packet::read(scanner.view(canonical)).ok();
    assert_eq!(by_hand(scanner.view(canonical)), by_schema, "{}", text(canonical));
    by_schema
}

fn text(canonical: &[u8]) -> String {
    Value::from_bytes(canonical, &Limits::default()).unwrap().to_string()
}

proptest! {
    #[test]
    fn packets_are_read_alike(noise in Noise::any(300)) {
        let schemas = Schemas::ours();
        let mut noise = noise;
        let mut tree = schemas.generate("protocol.Packet", &mut noise);
        prop_assert!(check_packet(&tree.canonical()).is_some(), "{:?}", tree);
        for _ in 0..4 {
            tree = spoil(&tree, &mut noise);
            check_packet(&tree.canonical());
        }
    }

    #[test]
    fn references_are_read_alike(noise in Noise::any(300)) {
        let schemas = Schemas::ours();
        let mut noise = noise;
        let mut tree = schemas.generate("sturdy.WireRef", &mut noise);
        for _ in 0..4 {
            // One client wraps its references twice, which is taken for once by hand, and is not in the schema.
            if !matches!(tree, Tree::Embedded(_)) {
                let bytes = Tree::Embedded(Box::new(tree.clone())).canonical();
                let scanner = scanned(&bytes);
                let by_schema = Embedded::<sturdy::WireRef>::read(scanner.view(&bytes)).ok().map(|e| e.0);
                let by_hand = WireRef::read(scanner.view(&bytes)).ok().map(|reference| match reference {
                    WireRef::Mine(oid) => sturdy::WireRef::Mine { oid },
                    WireRef::Yours(oid, caveats) => sturdy::WireRef::Yours {
                        oid,
                        attenuation: caveats.map(|caveat| sturdy::Caveat::read(caveat).unwrap()).collect(),
                    },
                });
                prop_assert_eq!(by_hand, by_schema, "{:?}", tree);
            }
            tree = spoil(&tree, &mut noise);
        }
    }

    #[test]
    fn caveats_are_known_to_both_or_to_neither(noise in Noise::any(300)) {
        let schemas = Schemas::ours();
        let mut noise = noise;
        let mut tree = schemas.generate("sturdy.Caveat", &mut noise);
        for _ in 0..4 {
            let is_known = !matches!(read(&tree), sturdy::Caveat::Unknown(_));
            prop_assert_eq!(is_known, !matches!(twin::Caveat::parse(&tree), twin::Caveat::Unknown(_)), "{:?}", tree);
            tree = spoil(&tree, &mut noise);
        }
    }

    #[test]
    fn sturdyrefs_are_read_and_written_alike(noise in Noise::any(300)) {
        let schemas = Schemas::ours();
        let tree = schemas.generate("sturdy.Parameters", &mut noise.clone());
        let bytes = tree.canonical();
        let typed: sturdy::Parameters = read(&tree);
        if let Ok(by_hand) = SturdyRef::read_parameters(scanned(&bytes).view(&bytes)) {
            prop_assert_eq!(&by_hand.oid[..], typed.oid.as_bytes());
            prop_assert_eq!(&by_hand.sig, &typed.sig);
            let caveats = match &typed.caveats {
                sturdy::CaveatsField::Present { caveats } => caveats.iter().map(Codec::to_bytes).collect(),
                sturdy::CaveatsField::Absent => Vec::new(),
                sturdy::CaveatsField::Invalid { .. } => panic!("{tree:?}"),
            };
            prop_assert_eq!(&by_hand.caveats, &caveats);
            let mut written = Vec::new();
            by_hand.write(&mut written);
            let again = sturdy::SturdyRef::from_bytes(&written, &Limits::default()).unwrap();
            prop_assert_eq!(again.to_bytes(), written);
        }
    }
}

fn read<T: Codec>(tree: &Tree) -> T {
    T::from_bytes(&tree.canonical(), &Limits::default()).unwrap()
}

/// What the writers of packets write has the form that the schema gives it, and nothing besides.
#[test]
fn packets_written_by_hand_fit() {
    let check = |bytes: &[u8], expected: &str| {
        let packet = check_packet(bytes).unwrap_or_else(|| panic!("{expected}"));
        assert_eq!(packet.to_bytes(), bytes, "{expected}");
        assert_eq!(bytes, parse_text(expected));
    };
    check(&[packet::NOP], "#f");
    let mut error = Vec::new();
    packet::write_error(&mut error, "no");
    check(&error, "<error \"no\" #f>");

    let event = |oid: Int, kind: u8, content: &[&[u8]]| {
        let mut out = vec![0xb5];
        packet::frame::open(&mut out, &oid, kind);
        content.iter().for_each(|part| out.extend_from_slice(part));
        out.extend_from_slice(&packet::frame::CLOSE);
        out.push(0x84);
        out
    };
    let big = Int::from_content(&[0, 0xff, 0, 0, 0, 0, 0, 0, 1]);
    check(&event(big.clone(), b'M', &[&[0x81]]), "[[18374686479671623681 <M #t>]]");
    check(&event(Int::Small(-3), b'A', &[&[0x80], b"\xb0\x01\x05"]), "[[-3 <A #f 5>]]");
    check(&event(Int::Small(0), b'R', &[b"\xb0\x00"]), "[[0 <R 0>]]");
    let (mut mine, mut yours) = (Vec::new(), Vec::new());
    packet::write_mine(&mut mine, u64::MAX);
    packet::write_yours(&mut yours, &big);
    check(&event(Int::Small(1), b'S', &[&mine]), "[[1 <S #:[0 18446744073709551615]>]]");
    check(&event(Int::Small(1), b'S', &[&yours]), "[[1 <S #:[1 18374686479671623681]>]]");
    for reference in [&mine, &yours] {
        let typed = Embedded::<sturdy::WireRef>::from_bytes(reference, &Limits::default()).unwrap();
        assert_eq!(&typed.to_bytes(), reference);
    }
}

/// All values in a recorded piece of a session, in canonical form; those before the first that is cut, or is text.
fn packets(recorded: &[u8]) -> Vec<Vec<u8>> {
    let (mut rest, mut all) = (recorded, Vec::new());
    loop {
        let mut scanner = Scanner::new(Limits::default());
        let Ok(Progress::Complete(length)) = scanner.scan(rest) else { return all };
        let mut canonical = Vec::new();
        if staunch_protocols::wire::canonicalize(scanner.view(rest), &mut canonical).is_ok() {
            all.push(canonical);
        }
        rest = &rest[length..];
    }
}

#[test]
fn recorded_sessions_are_read_alike() {
    let mut count = 0;
    for transcript in vectors("transcripts.json") {
        for step in transcript["steps"].as_array().unwrap() {
            for packet in step["send_hex"].as_str().map(|hex| packets(&unhex(hex))).unwrap_or_default() {
                count += usize::from(check_packet(&packet).is_some());
            }
            // The reference writes nothing that is not in the schema.
            for received in step["received"].as_object().unwrap().values() {
                for packet in packets(&unhex(received["hex"].as_str().unwrap())) {
                    let typed = check_packet(&packet).unwrap_or_else(|| panic!("{}", text(&packet)));
                    assert_eq!(typed.to_bytes(), packet);
                    count += 1;
                }
            }
        }
    }
    assert!(count > 50, "{count}");
}

#[test]
fn recorded_patterns_that_match_anything_fit() {
    let schemas = Schemas::ours();
    for v in vectors("patterns.json") {
        let bytes = unhex(v["pattern_hex"].as_str().unwrap());
        let typed = dataspace_patterns::Pattern::<sturdy::WireRef>::from_bytes(&bytes, &Limits::default());
        let matches = v["cases"].as_array().unwrap().iter().any(|case| !case["captures"].is_null());
        assert!(typed.is_ok() || !matches, "{v}");
        let expected =
            schemas.understand("dataspacePatterns.Pattern", &Tree::read(scanned(&bytes).view(&bytes)));
        assert_eq!(typed.ok().map(|typed| typed.to_bytes()), expected.map(|tree| tree.canonical()), "{v}");
    }
}

#[test]
fn recorded_sturdyrefs_and_caveats_fit() {
    for v in vectors("sturdy-macs.json") {
        let bytes = unhex(v["ref_binary_hex"].as_str().unwrap());
        let typed = sturdy::SturdyRef::from_bytes(&bytes, &Limits::default()).unwrap();
        assert_eq!(typed.to_bytes(), bytes, "{v}");
        assert_eq!(typed.parameters.oid.as_bytes(), unhex(v["oid_encoded_hex"].as_str().unwrap()));
        let caveats = match typed.parameters.caveats {
            sturdy::CaveatsField::Present { caveats } => caveats,
            _ => Vec::new(),
        };
        let expected: Vec<_> = strings(&v["caveats_encoded_hex"]).into_iter().map(unhex).collect();
        assert_eq!(caveats.iter().map(Codec::to_bytes).collect::<Vec<_>>(), expected, "{v}");
    }
    for v in vectors("caveats.json") {
        for (hex, source) in strings(&v["caveats_hex"]).into_iter().zip(strings(&v["caveats"])) {
            let tree = Tree::read(scanned(&unhex(hex)).view(&unhex(hex)));
            let is_known = !matches!(read(&tree), sturdy::Caveat::Unknown(_));
            assert_eq!(is_known, !matches!(twin::Caveat::parse(&tree), twin::Caveat::Unknown(_)), "{source}");
        }
    }
}

/// One of each form in the specification, as text, and what is to be understood of it; none of it if that is empty.
#[test]
fn forms_of_the_specification_fit() {
    let check = |name: &str, source: &str, expected: &str| {
        let definition = DEFINITIONS.iter().find(|d| d.name == name).unwrap_or_else(|| panic!("{name}"));
        let bytes = parse_text(source);
        let got = definition.rewrite(scanned(&bytes).view(&bytes)).map(|written| text(&written));
        match expected {
            "" => assert!(got.is_err(), "{name} of {source}: {got:?}"),
            _ => assert_eq!(got.as_ref().map(|t| &**t), Ok(text(&parse_text(expected)).as_str()), "{name}"),
        }
    };
    let fits = |name: &str, source: &str| check(name, source, source);
    check("dataspace.Observe", "<Observe <_> #:[0 1] 3>", "<Observe <_> #:[0 1]>");
    check("dataspace.Observe", "<Observe <_>>", "");
    fits("sturdy.Parameters", "{oid: a sig: #\"\"}");
    fits("sturdy.Parameters", "{oid: a sig: #\"\" caveats: 3}");
    check("sturdy.Parameters", "{oid: a}", "");
    fits("gatekeeper.Resolve", "<resolve <ref {oid: \"syndicate\" sig: #\"0123\"}> #:[0 0]>");
    check("gatekeeper.Step", "<ref>", "");
    check("gatekeeper.Step", "<\"ref\" 1>", "");
    fits("gatekeeper.Bind", "<bind <ref {oid: a key: #\"\"}> #:[0 0] #f>");
    fits("gatekeeper.Bind", "<bind <ref {oid: a key: #\"\"}> #:[0 0] #:[0 1]>");
    check("gatekeeper.Bind", "<bind <ref {oid: a key: #\"\"}> #:[0 0] #t>", "");
    fits("gatekeeper.Route", "<route [<ws \"wss://x/\">] <noise {service: a key: #\"\"}> <ref {}>>");
    fits("stdenv.StandardRoute", "[[\"wss://x/\" <tcp \"x\" 1>] #\"\" s #\"\" oid <reject <_>>]");
    fits("stdenv.StandardRoute", "<route []>");
    fits(
        "noise.ServiceSpec",
        "{service: a key: #\"k\" secretKey: #\"s\" protocol: \"Noise_NK\" preSharedKeys: [#\"\"]}",
    );
    fits("noise.SessionItem", "[#\"a\" #\"b\"]");
    fits("service.ServiceState", "<service-state <daemon x> ready>");
    fits("service.ServiceState", "<service-state <daemon x> <odd>>");
    fits("externalServices.DaemonProcess", "<daemon x \"sleep 1\">");
    fits("externalServices.DaemonProcess", "<daemon x <one-shot [\"sleep\" \"1\"]>>");
    fits(
        "externalServices.DaemonProcess",
        "<daemon x {argv: [\"x\"] env: {A: \"1\" \"B\": #f} dir: \"/\" clearEnv: #t readyOnStart: #f \
         restart: on-error protocol: application/syndicate}>",
    );
    check("externalServices.DaemonProcess", "<daemon x {argv: []}>", "");
    fits("internalServices.TcpRelayListener", "<relay-listener <tcp \"::\" 1> #:[0 0] #:[0 1]>");
    fits("internalServices.TcpRelayListener", "<relay-listener <tcp \"::\" 1> #:[0 0]>");
    check("internalServices.TcpRelayListener", "<relay-listener <unix \"x\"> #:[0 0]>", "");
    fits("http.HttpBinding", "<http-bind #f 80 get [\"a\" _ ...] #:[0 0]>");
    fits("http.HttpResponse", "<done #\"\">");
    fits("creditFlowControl.Enable", "<do <credit-flow-control 202506>>");
    check("creditFlowControl.Enable", "<do <credit-flow-control 1>>", "");
    fits("stream.Source", "<credit unbounded <packet 3>>");
    fits("timer.SetTimer", "<set-timer x 1.5 relative>");
    check("timer.SetTimer", "<set-timer x 1 relative>", "");
    fits(
        "trace.TraceEntry",
        "<trace 1.0 1 <turn 2 <external x> [<enqueue <event <entity 1 2 3> <message <value 1>>>>]>>",
    );
    fits("trace.TraceEntry", "<trace 1.0 1 <stop <error \"x\" 1>>>");
    fits("trace.TraceEntry", "<trace 1.0 1 <stop ok>>");
}

/// Diagnostics name the place and what was expected there.
#[test]
fn mismatches_are_told_with_their_place() {
    let check = |name: &str, source: &str, expected: &str| {
        let definition = DEFINITIONS.iter().find(|d| d.name == name).unwrap();
        let bytes = parse_text(source);
        let error = definition.rewrite(scanned(&bytes).view(&bytes)).unwrap_err();
        assert_eq!(error.to_string(), expected, "{name} of {source}");
    };
    check("rpc.Result", "<no>", "position 0: expected rpc.Result");
    check("rpc.Result", "<ok>", "position 5: a field or element is missing");
    check("dataspace.Observe", "<observe 1>", "position 0: expected a record Observe");
    check("dataspace.Observe", "<Observe <lit []> #:1>", "position 16: expected dataspacePatterns.AnyAtom");
    check("sturdy.Description", "<ref {key: 1}>", "position 12: expected a byte string");
    check("sturdy.Description", "<ref {key: #\"\"}>", "position 6: the key oid is missing");
    check("creditFlowControl.Enabled", "<will <credit-flow-control 2>>", "position 29: expected 202506");
    check("gatekeeper.Bind", "<bind <x 1> 2 #f>", "position 15: expected an embedded value");
}

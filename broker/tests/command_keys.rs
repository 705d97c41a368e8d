//! `staunch serve` with a key, and `staunch ref`.

#[path = "common/process.rs"]
mod process;

use std::io::{BufRead, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use process::*;
use staunch_protocols::text;
use staunch_protocols::wire::Limits;

fn keyed(more: &[&str]) -> Broker {
    Broker::start(|folder| {
        let path = folder.path().join("key").display().to_string();
        let mut flags = vec!["--key-file".to_owned(), path];
        flags.extend(more.iter().map(|flag| (*flag).to_owned()));
        flags
    })
}

fn mint(key: &Path, more: &[&str]) -> String {
    let said = run(&[&["ref", "mint", "--key-file", key.to_str().unwrap()], more].concat());
    assert_eq!((said.status, said.err.as_str()), (Some(0), ""));
    said.out.trim().to_owned()
}

#[test]
fn a_key_is_made_once_and_lets_in() {
    let broker = keyed(&["--socket-mode", "0600", "--oid", "<service 1>"]);
    let key = broker.path("key");
    assert_eq!(std::fs::metadata(&key).unwrap().mode() & 0o7777, 0o600);
    assert_eq!(std::fs::metadata(broker.path("socket")).unwrap().mode() & 0o777, 0o600);
    // The reference is a secret, and this log no terminal.
    let logged = broker.logged("clients come in by");
    let command = format!("`staunch ref mint --key-file {} --oid '<service 1>'`", key.display());
    assert!(logged.contains(&command) && !logged.contains("<ref"), "{logged}");
    let reference = mint(&key, &["--oid", "<service 1>"]);
    assert_eq!(broker.run(&["sync", "--ref", &reference]).status, Some(0));
    assert_eq!(broker.run(&["sync", "--timeout", "0.2"]).status, Some(1));
    let content = std::fs::read(&key).unwrap();
    assert_eq!(content.len(), 32);

    // The next one takes the key that is there, and does not write the reference into a log again.
    let socket = format!("unix:{}", broker.path("another").display());
    let again = Running::start(staunch(&["serve", "--listen", &socket, "--key-file", key.to_str().unwrap()]));
    let reference = mint(&key, &[]);
    loop {
        let said = run(&["sync", "--connect", &socket, "--ref", &reference]);
        if said.status == Some(0) {
            break;
        }
        assert!(said.err.contains("cannot connect"), "{}", said.err);
    }
    assert_eq!(std::fs::read(&key).unwrap(), content);
    again.signal("-TERM");
    let (status, log) = again.end();
    assert_eq!(status, Some(0), "{log}");
    let command = format!("`staunch ref mint --key-file {}`", key.display());
    assert!(log.contains(&command) && !log.contains("<ref"), "{log}");
}

#[test]
fn the_key_has_a_place_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let socket = format!("unix:{}", folder.path().join("socket").display());
    let mut command = staunch(&["serve", "--listen", &socket]);
    command.env("STATE_DIRECTORY", format!("{}:/nonexistent", folder.path().join("state").display()));
    let running = Running::start(command);
    let key = folder.path().join("state/key");
    let start = std::time::Instant::now();
    while !key.exists() {
        assert!(start.elapsed() < PATIENCE, "it is made");
    }
    running.signal("-TERM");
    running.end();
    let mut command = staunch(&["ref", "mint"]);
    command.env("STATE_DIRECTORY", folder.path().join("state"));
    assert_eq!(run_with(command, b"").out.trim(), mint(&key, &[]));
}

#[test]
fn what_is_no_good_key_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key");
    let socket = format!("unix:{}", folder.path().join("socket").display());
    let serve = |words: &[&str]| {
        for arguments in [&["serve", "--listen", &socket, "--key-file"][..], &["ref", "mint", "--key-file"]] {
            let said = run(&[arguments, &[key.to_str().unwrap()]].concat());
            assert_eq!(said.status, Some(1), "{said:?}");
            words.iter().for_each(|word| assert!(said.err.contains(word), "{word:?} in {}", said.err));
        }
    };
    std::fs::write(&key, [7; 32]).unwrap();
    for mode in [0o644, 0o640, 0o602] {
        std::fs::set_permissions(&key, PermissionsExt::from_mode(mode)).unwrap();
        serve(&["others may read", "chmod 600"]);
    }
    std::fs::write(&key, [7; 8]).unwrap();
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).unwrap();
    serve(&["16 to 32 bytes", "has 8"]);
    std::fs::remove_file(&key).unwrap();
    std::fs::create_dir(&key).unwrap();
    serve(&["not a file"]);
    let nowhere = folder.path().join("none/key");
    let said = run(&["serve", "--listen", &socket, "--key-file", nowhere.to_str().unwrap()]);
    assert!(said.err.contains("folder does not exist"), "{}", said.err);
    let said = run(&["ref", "mint", "--key-file", nowhere.to_str().unwrap()]);
    assert!(said.err.contains("`staunch serve` makes one"), "{}", said.err);
}

fn canonical(text: &str) -> Vec<u8> {
    text::parse(text, &Limits::default()).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// References recorded with the reference implementation: minted, attenuated one by one, and inspected.
#[test]
fn references_are_those_of_others() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../protocols/tests/vectors/sturdy-macs.json");
    let vectors: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let key_file = folder.path().join("key");
    let mut checked = 0;
    for v in vectors.as_array().unwrap() {
        let text = |name: &str| v[name].as_str().unwrap();
        let hex = text("key_hex");
        let key: Vec<u8> =
            (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect();
        let by = match key.len() {
            0 => vec!["--dev"],
            16..=32 => {
                let _ = std::fs::remove_file(&key_file);
                std::fs::write(&key_file, &key).unwrap();
                std::fs::set_permissions(&key_file, PermissionsExt::from_mode(0o600)).unwrap();
                vec!["--key-file", key_file.to_str().unwrap()]
            }
            // Others are no keys of ours.
            _ => continue,
        };
        let caveats: Vec<&str> =
            v["caveats"].as_array().unwrap().iter().map(|c| c.as_str().unwrap()).collect();
        let minted = run(&[&["ref", "mint", "--oid", text("oid")], &by[..]].concat());
        let mut reference = minted.out.trim().to_owned();
        for caveat in &caveats {
            let said =
                run_with(staunch(&["ref", "attenuate", "-", "--caveat", caveat]), reference.as_bytes());
            assert_eq!(said.status, Some(0), "{v}: {said:?}");
            reference = said.out.trim().to_owned();
        }
        assert_eq!(canonical(&reference), canonical(text("ref_text")), "{v}");
        let mut at_once = vec!["ref", "mint", "--oid", text("oid")];
        at_once.extend(&by);
        caveats.iter().for_each(|caveat| at_once.extend(["--caveat", caveat]));
        assert_eq!(run(&at_once).out.trim(), reference);
        let said = run(&[&["ref", "inspect", text("ref_text")], &by[..]].concat());
        assert!(said.status == Some(0) && said.out.contains("verified  yes"), "{v}: {said:?}");
        let forged = reference.replace("sig: #[", "sig: #[AAAA");
        let said = run(&[&["ref", "inspect", &forged], &by[..]].concat());
        assert!(said.status == Some(1) && said.out.contains("verified  NO"), "{said:?}");
        checked += 1;
    }
    assert!(checked >= 5, "{checked}");
}

#[test]
fn inspect_shows_what_is_in_a_reference() {
    let reference = "<ref {oid: \"syndicate\" sig: #[acowDB2/oI+6aSEC3YIxGg==]}>";
    let said = run(&["ref", "inspect", reference]);
    assert_eq!(said.status, Some(0));
    for words in ["oid       \"syndicate\"", "#[acowDB2/oI+6aSEC3YIxGg]", "not checked", "not restricted"] {
        assert!(said.out.contains(words), "{words}: {}", said.out);
    }
    let said = run(&["ref", "attenuate", reference, "--caveat", "<zork>", "--caveat", "<reject <_>>"]);
    assert_eq!(said.status, Some(0));
    assert!(said.err.contains("warning") && said.err.contains("<zork>"), "{}", said.err);
    let said = run(&["ref", "inspect", "--dev", said.out.trim()]);
    assert_eq!(said.out.matches("unknown or malformed").count(), 1, "{}", said.out);
    assert!(said.out.contains("verified  yes") && said.out.contains("the last sees a value first"));
    let said = run_with(staunch(&["ref", "inspect", "--json", "-"]), reference.as_bytes());
    let json: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(json["sig"], "69ca300c1dbfa08fba692102dd82311a");
    assert_eq!((&json["oid"], &json["verified"]), (&"syndicate".into(), &serde_json::Value::Null));
    for (caveat, words) in [
        ("<reject <_> 1>", "more fields"),
        ("<rewrite <_> <ref 0>>", "UnboundRef"),
        ("<rewrite <_> <lit #:[0 1]>>", "capability"),
        ("<rewrite", "not closed"),
    ] {
        let said = run(&["ref", "attenuate", reference, "--caveat", caveat]);
        assert!(said.status == Some(2) && said.err.contains(words), "{caveat}: {said:?}");
    }
    assert!(run(&["ref", "attenuate", reference]).err.contains("--allow"));
    assert_eq!(run(&["ref", "inspect", "<ref 1>"]).status, Some(2));
}

/// What the shorthands let pass, and that nothing else does.
#[test]
fn what_is_allowed_passes_and_nothing_else() {
    let mut broker = keyed(&[]);
    let full = mint(&broker.path("key"), &[]);
    let flags = ["--allow", "<Says \"ann\" _>", "--allow-observe", "<Says $who $what>"];
    let narrow = run(&[&["ref", "attenuate", &full], &flags[..]].concat()).out.trim().to_owned();
    assert_eq!(narrow, mint(&broker.path("key"), &flags));
    broker.reference = Some(full);
    let values = ["<Says \"ben\" 1>", "<Says \"ann\" 2 3>", "<says \"ann\" 1>", "<Says \"ann\" 4>"];
    let passed = "<Says \"ann\" 4>";
    // Messages and assertions, seen by somebody who may see everything.
    let mut witness = broker.observe(&["<Says _>"], "rec Says", 1);
    // A client of another kind, which does not look at its reference.
    let mut stream = std::os::unix::net::UnixStream::connect(broker.path("socket")).unwrap();
    let mut answers = std::io::BufReader::new(stream.try_clone().unwrap());
    let mut say = |packet: String| {
        writeln!(stream, "{packet}").unwrap();
        let mut answer = String::new();
        answers.read_line(&mut answer).unwrap();
        answer
    };
    assert!(say(format!("[[0 <A <resolve {narrow} #:[0 0]> 1>]]")).starts_with("[[0, <A <ok #:[0, 1]>"));
    let all = |kind: &dyn Fn(usize, &str) -> String| -> String {
        values.iter().enumerate().map(|(n, value)| format!("[1 {}]", kind(n, value))).collect()
    };
    let messages = all(&|_, value| format!("<M {value}>"));
    assert_eq!(say(format!("[{messages} [1 <S #:[0 9]>]]")), "[[9, <M #t>]]\n");
    assert_eq!(broker.run(&["send", "<Says end>"]).status, Some(0));
    assert_eq!([witness.line(), witness.line()], [format!("! {passed}"), "! <Says end>".to_owned()]);
    let assertions = all(&|n, value| format!("<A {value} {}>", n + 10));
    assert_eq!(say(format!("[{assertions} [1 <S #:[0 9]>]]")), "[[9, <M #t>]]\n");
    assert_eq!(broker.run(&["observe", "--snapshot", "<Says _>"]).out, format!("+ {passed}\n"));
    // Observers: of this pattern, by whatever names, and of no other.
    let said = broker.run(&["observe", "--ref", &narrow, "--snapshot", "<Says $a $b>"]);
    assert_eq!((said.status, said.out.as_str()), (Some(0), "+ a=\"ann\" b=4\n"), "{said:?}");
    for pattern in [
        "<group <rec Says> {0: <bind <_>> 1: <_>}>",
        "<group <rec Says> {0: <lit \"ann\"> 1: <bind <_>>}>",
        "<bind <group <rec Says> {1: <_>}>>",
        "<bind <_>>",
        "<group <rec Observe> {0: <bind <_>> 1: <bind <_>>}>",
    ] {
        let observe = format!("[[1 <A <Observe {pattern} #:[0 7]> 99>] [1 <R 99>] [1 <S #:[0 9]>]]");
        assert_eq!(say(observe), "[[9, <M #t>]]\n", "nothing comes before the answer");
    }
}

/// The broker drops what is not allowed without a word; so the clients say it.
#[test]
fn what_a_reference_does_not_allow_is_told_beforehand() {
    let broker = Broker::dev();
    let flags = ["--allow", "<Says \"ann\" _>", "--allow-observe", "<Present $who>"];
    let narrow = run(&[&["ref", "mint", "--dev"], &flags[..]].concat()).out.trim().to_owned();
    let fails = |arguments: &[&str], input: &[u8], words: &[&str]| {
        let mut command = broker.command(arguments);
        command.env("STAUNCH_REF", &narrow);
        let said = run_with(command, input);
        assert_eq!((said.status, said.out.as_str()), (Some(1), ""), "{arguments:?}: {said:?}");
        words.iter().for_each(|word| assert!(said.err.contains(word), "{word}: {said:?}"));
    };
    let mut witness = broker.observe(&["<Says $who $>"], "rec Says", 1);
    fails(
        &["assert", "<Says \"ann\" 1>", "<Present 1>"],
        b"",
        &["does not allow <Present 1>", "ref inspect"],
    );
    fails(&["send", "<Says \"ann\" 1>", "<Present 1>"], b"", &["does not allow <Present 1>"]);
    fails(
        &["send"],
        b"<Says \"ann\" 2>\n<Says \"ben\" 2>\n",
        &["line 2", "does not allow", "The message before it was sent"],
    );
    fails(&["observe", "--snapshot", "<Present _>"], b"", &["does not allow this pattern"]);
    fails(&["observe", "<Present \"ann\">"], b"", &["does not allow this pattern"]);
    assert_eq!(witness.line(), "! who=\"ann\" 2");
    let mut command = broker.command(&["observe", "--snapshot", "<Present $>"]);
    command.env("STAUNCH_REF", &narrow);
    assert_eq!(run_with(command, b"").status, Some(0), "whatever it is called");
    // What is not known here may be known to the broker.
    let unknown = run(&["ref", "mint", "--dev", "--caveat", "<zork>"]).out;
    assert_eq!(broker.run(&["send", "--ref", unknown.trim(), "<x>"]).status, Some(0));
}

/// The lowest bound on depth that can be set leaves room for what a reference brings with it.
#[test]
fn restricted_references_pass_where_packets_may_be_least_deep() {
    let broker = Broker::start(|_| ["--dev", "--limit", "packet-depth=32"].map(str::to_owned).to_vec());
    let pattern = "<Says {to: [$a {x: $b}]} $what>";
    let flags = ["--allow-observe", pattern, "--allow", "<Says [[[[_]]]]>"];
    let narrow = run(&[&["ref", "mint", "--dev"], &flags[..]].concat()).out.trim().to_owned();
    let more = ["--caveat", "<reject <rec Says [<lit 1>]>>", "--allow-observe", pattern];
    let narrower = run(&[&["ref", "attenuate", &narrow], &more[..]].concat()).out;
    let said = broker.run(&["observe", "--ref", narrower.trim(), "--snapshot", pattern]);
    assert_eq!(said.status, Some(0), "{said:?}");
}

/// `staunch ref mint` finds keys where `staunch serve` does.
#[test]
fn references_are_minted_as_the_configuration_says() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let text = "key-file = \"key\"\noid = '\"mybus\"'\n[[key]]\nfile = \"guests\"\noid = 'guests'\n";
    std::fs::write(path("staunch.toml"), text).unwrap();
    for (name, content) in [("key", [1; 16]), ("guests", [2; 16]), ("other", [3; 16])] {
        std::fs::write(path(name), content).unwrap();
        std::fs::set_permissions(path(name), PermissionsExt::from_mode(0o600)).unwrap();
    }
    let minted = |more: &[&str]| {
        let said =
            run(&[&["ref", "mint", "--config", path("staunch.toml").to_str().unwrap()], more].concat());
        assert_eq!(said.status, Some(0), "{said:?}");
        said.out.trim().to_owned()
    };
    let by = |key: &str, oid: &str| mint(&path(key), &["--oid", oid]);
    let of = |name: &str| path(name).display().to_string();
    assert_eq!(minted(&[]), by("key", "\"mybus\""));
    assert_eq!(minted(&["--oid", "guests"]), by("guests", "guests"));
    assert_eq!(minted(&["--oid", "more"]), by("key", "more"));
    assert_eq!(minted(&["--key-file", &of("guests")]), by("guests", "guests"));
    assert_eq!(
        minted(&["--key-file", &of("other")]),
        by("other", "\"mybus\""),
        "as `serve --key-file` would"
    );
    assert_eq!(minted(&["--key-file", &of("other"), "--oid", "guests"]), by("other", "guests"));
    let said = run(&["ref", "mint", "--config", "/nonexistent/staunch.toml"]);
    assert!(said.status == Some(1) && said.err.contains("there is no such file"), "{said:?}");
    let said = run(&["ref", "attenuate", "", "--allow", "_"]);
    assert!(said.status == Some(2) && said.err.contains("STURDYREF is empty"), "{said:?}");
}

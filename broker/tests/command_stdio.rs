//! `staunch serve --stdio`, and the listeners' options.

#[path = "common/process.rs"]
mod process;

use std::fs::File;
use std::io::{Read, Write};
use std::process::Stdio;
use std::time::Instant;

use process::*;

/// A packet in binary that asks for the message `#t` at oid 5, and the answer.
const SYNC: &[u8] = b"\xb5\xb5\xb0\x00\xb4\xb3\x01S\x86\xb5\xb0\x00\xb0\x01\x05\x84\x84\x84\x84";
const DONE: &[u8] = b"\xb5\xb5\xb0\x01\x05\xb4\xb3\x01M\x81\x84\x84\x84";

fn with(input: &[u8]) -> Said {
    run_with(staunch(&["serve", "--stdio"]), input)
}

/// It is the dataspace that speaks; the answers are out when it ends.
#[test]
fn a_session_in_text() {
    let said = with(b"[[0 <A <Observe <group <rec hello> {0: <bind <_>>}> #:[0 7]> 1>]]\n[[0 <M <hello \"x\">>] [0 <S #:[0 5]>]]\n");
    assert_eq!(said.status, Some(0), "{said:?}");
    assert_eq!(said.out, "[[7, <M [\"x\"]>]]\n[[5, <M #t>]]\n", "{said:?}");
    assert!(!said.out.contains("INFO") && !said.err.contains("open on"), "{said:?}");
}

#[test]
fn nothing_at_all() {
    let said = with(b"");
    assert_eq!((said.status, said.out.as_str()), (Some(0), ""), "{said:?}");
}

#[test]
fn a_session_in_binary_that_goes_on() {
    let mut child =
        staunch(&["serve", "--stdio"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    for _ in 0..100 {
        // In pieces, and with a Nop before it.
        stdin.write_all(&[0x80]).unwrap();
        SYNC.iter().for_each(|byte| stdin.write_all(&[*byte]).unwrap());
        let mut answer = vec![0; DONE.len()];
        stdout.read_exact(&mut answer).unwrap();
        assert_eq!(answer, DONE);
    }
    drop(stdin);
    let mut rest = Vec::new();
    stdout.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn an_error_of_the_peer() {
    let said = with(b"[[0 <S #:[0 5]>]] {}\n[[0 <S #:[0 6]>]]\n");
    assert_eq!(said.status, Some(1), "{said:?}");
    let error = said.out.lines().last().unwrap();
    assert!(error.starts_with("<error \"not a packet"), "{said:?}");
    assert!(said.err.contains("ends a connection") && said.err.contains("has failed"), "{said:?}");
    assert!(said.err.contains("principal=\"uid:"), "{said:?}");
    // Nobody ends the input: that it failed is known all the same.
    let mut command = staunch(&["serve", "--stdio"]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"{}\n").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
}

#[test]
fn input_that_ends_within_a_packet() {
    for input in [&b"[[0 <S #:[0 5]>]]\n[[0 <S"[..], b"zork", &SYNC[..SYNC.len() - 3], b"\""] {
        let said = run_with(staunch(&["serve", "--stdio"]), input);
        assert_eq!(said.status, Some(1), "{input:?}: {said:?}");
        assert!(said.err.contains("ended within a packet"), "{input:?}: {said:?}");
    }
    for input in [&b"  \n"[..], b"# nothing\n", b"[[0 <S #:[0 5]>]]"] {
        let said = with(input);
        assert_eq!(said.status, Some(0), "{input:?}: {said:?}");
    }
}

/// Files are no pipes: nothing can watch them.
#[test]
fn files() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in"), folder.path().join("out"));
    std::fs::write(&input, "# a script\n[[0 <S #:[0 5]>]]\n").unwrap();
    let mut command = staunch(&["serve", "--stdio"]);
    command.stdin(File::open(&input).unwrap()).stdout(File::create(&output).unwrap());
    assert_eq!(command.status().unwrap().code(), Some(0));
    assert_eq!(std::fs::read_to_string(&output).unwrap(), "[[5, <M #t>]]\n");
    // Output that takes nothing.
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = staunch(&["serve", "--stdio"]);
    command.stdin(Stdio::piped()).stdout(full).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"[[0 <S #:[0 5]>]]\n").unwrap();
    let mut errors = String::new();
    child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1), "{errors}");
    assert!(errors.contains("standard output"), "{errors}");
}

/// Who reads the output has gone, and the input stays open.
#[test]
fn output_that_nobody_reads_any_more() {
    let mut command = staunch(&["serve", "--stdio"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    drop(child.stdout.take());
    stdin.write_all(b"[[0 <S #:[0 5]>]]\n").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// Output that is not read holds the input back, and loses nothing.
#[test]
fn output_that_is_read_late() {
    let mut command = staunch(&["serve", "--stdio", "--debt-max", "65536"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let padding = "x".repeat(1000);
    let writer = std::thread::spawn(move || {
        stdin.write_all(b"[[0 <A <Observe <group <rec m> {0: <bind <_>>}> #:[0 7]> 1>]]\n").unwrap();
        for n in 0..5000 {
            writeln!(stdin, "[[0 <M <m {n} {padding}>>]]").unwrap();
        }
        writeln!(stdin, "[[0 <S #:[0 5]>]]").unwrap();
        stdin
    });
    std::thread::sleep(std::time::Duration::from_millis(300));
    let mut got = String::new();
    let mut chunk = [0; 4096];
    while !got.ends_with("[[5, <M #t>]]\n") {
        let read = stdout.read(&mut chunk).unwrap();
        assert!(read > 0);
        got.push_str(std::str::from_utf8(&chunk[..read]).unwrap());
    }
    let expected: Vec<String> = (0..5000).map(|n| format!("[[7, <M [{n}]>]]")).collect();
    assert_eq!(got.lines().take(5000).collect::<Vec<_>>(), expected);
    drop(writer.join().unwrap());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// With a listener beside it: one dataspace; both end when the input does.
#[test]
fn beside_a_listener() {
    let folder = tempfile::tempdir().unwrap();
    let address = format!("unix:{}", folder.path().join("socket").display());
    let mut command = staunch(&["serve", "--dev", "--stdio", "--listen", &address]);
    command.stdin(Stdio::piped());
    let mut running = Running::start(command);
    let mut stdin = running.child.stdin.take().unwrap();
    let start = Instant::now();
    while !folder.path().join("socket").exists() {
        assert!(start.elapsed() < PATIENCE);
    }
    stdin.write_all(b"[[0 <A <here 1> 1>] [0 <S #:[0 5]>]]\n").unwrap();
    assert_eq!(running.line(), "[[5, <M #t>]]");
    let said = run(&["observe", "--connect", &address, "--snapshot", "<here $n>"]);
    assert_eq!((said.status, said.out.as_str()), (Some(0), "+ n=1\n"), "{said:?}");
    drop(stdin);
    let (status, errors) = running.end();
    assert_eq!(status, Some(0), "{errors}");
}

#[test]
fn options_of_listeners() {
    let refused = |listen: &str, why: &str| {
        let said = run(&["serve", "--dev", "--listen", listen]);
        assert_eq!(said.status, Some(2), "{said:?}");
        assert!(said.err.contains(why), "{said:?}");
    };
    refused("tcp:127.0.0.1:0,answers=maybe", "expected answers=ok or answers=accepted");
    refused("tcp:127.0.0.1:0,speed=high", "speed is no option of a listener");
    refused("unix:/tmp/a,answers=ok,answers=ok", "twice");
}

/// More than all buffers on the way hold, to somebody who reads late.
#[test]
fn all_answers_are_out_when_it_ends() {
    let assertions: String =
        (0..20_000).map(|n| format!("[[0 <A <s {n} \"{}\"> {n}>]]\n", "x".repeat(100))).collect();
    let observe = "[[0 <A <Observe <group <rec s> {0: <bind <_>> 1: <bind <_>>}> #:[0 7]> 1000000>]]\n";
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("in");
    std::fs::write(&input, assertions + observe).unwrap();
    let mut command = staunch(&["serve", "--stdio"]);
    let mut child = command.stdin(File::open(&input).unwrap()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut said = vec![0; 1];
    stdout.read_exact(&mut said).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    stdout.read_to_end(&mut said).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let said = String::from_utf8(said).unwrap();
    assert_eq!(said.matches("<A [").count(), 20_000);
}

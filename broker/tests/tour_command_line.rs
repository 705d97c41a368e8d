//! The `staunch` command as people and init systems meet it: its help, its complaints, its end.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_staunch"));
    command.args(arguments).env_remove("STAUNCH_LOG").env_remove("RUST_LOG");
    command
}

/// What a command says that ends of itself.
fn output(arguments: &[&str]) -> Output {
    let mut child =
        command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it can be started");
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("{arguments:?} goes on");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().unwrap()
}

/// Checks that `serve --dev` does not listen on `address`, and what it says instead.
fn check_refused(address: &str, words: &[&str]) {
    let output = output(&["serve", "--dev", "--listen", address]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(matches!(output.status.code(), Some(1 | 2)), "{address}: {}", output.status);
    assert!(text.contains(address), "{address}: names the address: {text}");
    for word in words {
        assert!(text.contains(word), "{address}: {word:?} in {text}");
    }
}

/// A broker on a Unix socket, once it takes connections.
fn serve(path: &Path) -> Child {
    let address = format!("unix:{}", path.display());
    let mut child = command(&["serve", "--dev", "--listen", "tcp:127.0.0.1:0", "--listen", &address])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while UnixStream::connect(path).is_err() {
        assert!(child.try_wait().unwrap().is_none(), "it runs");
        assert!(start.elapsed() < PATIENCE, "it listens");
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

/// Sends a signal, and returns what the broker has logged when it has ended with status 0.
fn end(mut child: Child, signal: &str) -> String {
    let sent = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let start = Instant::now();
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None => assert!(start.elapsed() < PATIENCE, "it ends"),
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let mut log = String::new();
    child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert_eq!(status.code(), Some(0), "{signal}: {log}");
    log
}

#[test]
fn help_and_version_are_there() {
    for (arguments, words) in [
        (&["--help"][..], &["tour", "serve", "observe", "completions", "Usage: staunch"][..]),
        (&["serve", "--help"], &["--dev", "tcp:127.0.0.1:9001", "unix:PATH", "STAUNCH_LOG"]),
        (&["tour", "--help"], &["--seconds", "--plain", "--keep", "status 0"]),
        (&["--version"], &[concat!("staunch ", env!("CARGO_PKG_VERSION"))]),
    ] {
        let output = output(arguments);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{arguments:?}");
        words.iter().for_each(|word| assert!(text.contains(word), "{arguments:?}: {word:?} in {text}"));
    }
    assert_eq!(output(&[]).status.code(), Some(2));
}

#[test]
fn bad_addresses_are_told_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| format!("unix:{}", folder.path().join(name).display());
    check_refused("9001", &["tcp:ADDRESS:PORT", "unix:PATH"]);
    check_refused("tcp:localhost:9001", &["127.0.0.1:9001", "localhost is a name"]);
    check_refused("tcp:127.0.0.1", &["with a port"]);
    check_refused("unix:", &["path"]);
    check_refused("tcp:0.0.0.0:9001", &["loopback", "127.0.0.1"]);
    check_refused(&path("none/socket"), &["does not exist", "Make it"]);
    check_refused(&path(&"x".repeat(200)), &["107 bytes"]);
    std::fs::write(folder.path().join("file"), "precious").unwrap();
    check_refused(&path("file"), &["no socket", "another path"]);
    assert_eq!(std::fs::read(folder.path().join("file")).unwrap(), b"precious");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    check_refused(&format!("tcp:{}", listener.local_addr().unwrap()), &["already", "another port"]);
    let _listener = UnixListener::bind(folder.path().join("used")).unwrap();
    check_refused(&path("used"), &["already", "another path"]);
}

#[test]
fn flags_that_cannot_be_are_refused() {
    for (arguments, words) in [
        (&["--send-buffer", "0"][..], &["4096", "--send-buffer"][..]),
        (&["--receive-buffer", "99999999999"], &["1073741824"]),
        (&["--debt-max", "0"], &["4096", "--debt-max"]),
        (&["--outbox-max", "18446744073709551615"], &["--outbox-max"]),
        (
            &["--listen", "tcp:127.0.0.1:9", "--listen", "tcp:127.0.0.1:9"],
            &["given twice", "tcp:127.0.0.1:9"],
        ),
        (&["--listen", "unix:/tmp/s", "--listen", "unix:/tmp/s"], &["given twice", "unix:/tmp/s"]),
        (&["--socket-mode", "rw"], &["octal"]),
        (&["--key-file", "key"], &["--dev", "--key-file"]),
    ] {
        let output = output(&[&["serve", "--dev"], arguments].concat());
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
        words.iter().for_each(|word| assert!(text.contains(word), "{arguments:?}: {word:?} in {text}"));
    }
    // Two that overlap: known only when the system says so.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key").display().to_string();
    let (all, one) = (format!("tcp:0.0.0.0:{port}"), format!("tcp:127.0.0.1:{port}"));
    let output = output(&["serve", "--key-file", &key, "--listen", &all, "--listen", &one]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && text.contains("overlap"), "{text}");
}

#[test]
fn completions_and_manual_pages_are_made_from_the_flags() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = output(&["completions", shell]);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && text.contains("key-file") && text.contains("attenuate"),
            "{shell}"
        );
    }
    assert_eq!(output(&["completions", "csh"]).status.code(), Some(2));
    let page = output(&["man"]);
    assert!(String::from_utf8_lossy(&page.stdout).contains(".TH staunch 1"));
    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("man/man1");
    assert!(output(&["man", pages.to_str().unwrap()]).status.success());
    let observe = std::fs::read_to_string(pages.join("staunch-observe.1")).unwrap();
    assert!(observe.contains("snapshot") && observe.contains("Patterns are values with holes"));
    assert!(pages.join("staunch-ref-mint.1").exists());
    let output = output(&["man", "/dev/null/man"]);
    assert!(output.status.code() == Some(1) && !output.stderr.is_empty());
}

#[test]
fn it_ends_with_status_0_and_takes_its_socket_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    // Left behind by somebody who was killed: in nobody's use.
    drop(UnixListener::bind(&path).unwrap());
    for signal in ["-TERM", "-INT"] {
        let child = serve(&path);
        let _client = UnixStream::connect(&path).unwrap();
        let log = end(child, signal);
        assert!(!path.exists(), "{signal}");
        assert!(log.contains("open on tcp:127.0.0.1:") && log.contains("acowDB2"), "{log}");
        assert!(!log.contains('\x1b'), "no colours in a file: {log}");
    }
}

#[test]
fn a_tour_may_leave_its_broker() {
    let mut child = command(&["tour", "--plain", "--keep", "--seconds", "2"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    let address = loop {
        line.clear();
        assert!(
            std::io::BufRead::read_line(&mut out, &mut line).unwrap() > 0,
            "it says that the broker stays"
        );
        if let Some((_, rest)) = line.split_once("The broker stays, on tcp:") {
            break rest.split_once(',').unwrap().0.to_owned();
        }
    };
    TcpStream::connect(address).unwrap();
    end(child, "-INT");
}

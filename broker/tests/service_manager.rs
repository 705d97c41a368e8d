//! As a service manager meets it: readiness, reloading, the watchdog, sockets handed over, signals, and the units
//! that are shipped.

#[path = "common/process.rs"]
mod process;

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use process::*;

/// A service manager's side.
struct Manager(UnixDatagram);

impl Manager {
    fn next(&self) -> String {
        self.0.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut buffer = [0; 4096];
        let read = self.0.recv(&mut buffer).expect("it is told something");
        String::from_utf8(buffer[..read].to_vec()).unwrap()
    }

    /// The next message with this in it.
    fn told(&self, what: &str) -> String {
        loop {
            let message = self.next();
            if message.contains(what) {
                return message;
            }
        }
    }
}

fn serve(listen: &Path, more: &[&str]) -> Command {
    let address = format!("unix:{}", listen.display());
    staunch(&[&["serve", "--dev", "--listen", &address], more].concat())
}

#[test]
fn the_service_manager_is_told_what_happens() {
    let folder = tempfile::tempdir().unwrap();
    let (path, listen) = (folder.path().join("notify"), folder.path().join("socket"));
    let name = format!("staunch-manager-{}", std::process::id());
    let by_path = UnixDatagram::bind(&path).unwrap();
    let by_name = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    for (address, socket) in [(path.display().to_string(), by_path), (format!("@{name}"), by_name)] {
        let manager = Manager(socket);
        let mut command = serve(&listen, &[]);
        command.env("NOTIFY_SOCKET", address).env("WATCHDOG_USEC", "200000");
        let running = Running::start(command);
        let ready = manager.told("READY=1");
        assert!(ready.contains(&format!("MAINPID={}", running.child.id())), "{ready}");
        // It listens: by then, not after.
        let client = UnixStream::connect(&listen).unwrap();
        (0..3).for_each(|_| _ = manager.told("WATCHDOG=1"));
        manager.told("STATUS=1 connections");
        running.signal("-HUP");
        let reloading = manager.told("RELOADING=1");
        let time = reloading.split("MONOTONIC_USEC=").nth(1).unwrap();
        assert!(time.parse::<u64>().unwrap() > 0);
        manager.told("READY=1");
        running.signal("-TERM");
        manager.told("STOPPING=1");
        drop(client);
        let (status, log) = running.end();
        assert_eq!(status, Some(0), "{log}");
        assert!(!listen.exists());
    }
}

#[test]
fn the_watchdog_of_another_process_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let manager = Manager(UnixDatagram::bind(&path).unwrap());
    let mut command = serve(&folder.path().join("socket"), &[]);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "20000").env("WATCHDOG_PID", "1");
    let running = Running::start(command);
    manager.told("READY=1");
    let status = manager.next();
    assert!(status.starts_with("STATUS="), "{status}");
    running.signal("-TERM");
    manager.told("STOPPING=1");
    assert_eq!(running.end().0, Some(0));
    // A manager that has gone is no trouble.
    let mut command = serve(&folder.path().join("socket"), &[]);
    command.env("NOTIFY_SOCKET", folder.path().join("none"));
    let running = Running::start(command);
    while UnixStream::connect(folder.path().join("socket")).is_err() {}
    running.signal("-TERM");
    assert_eq!(running.end().0, Some(0));
}

/// Runs `staunch serve` with this as descriptor 3.
fn handed_over(socket: OwnedFd, flags: &str) -> Command {
    let program = env!("CARGO_BIN_EXE_staunch");
    let mut command = Command::new("sh");
    let script = format!(
        "exec 3<&0 </dev/null; export LISTEN_FDS=1 LISTEN_PID=$$ LISTEN_FDNAMES=one; exec {program} serve {flags}"
    );
    command.args(["-c", &script]).stdin(Stdio::from(socket));
    command
        .env_remove("STATE_DIRECTORY")
        .env_remove("NOTIFY_SOCKET")
        .env_remove("STAUNCH_LOG")
        .env_remove("RUST_LOG");
    command
}

fn sync(address: &str) -> Said {
    run(&["sync", "--connect", address])
}

#[test]
fn sockets_that_are_handed_over_are_used() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let address = format!("unix:{}", path.display());
    let other = folder.path().join("other");
    // Twice: the socket stays with whoever has made it.
    for more in [String::new(), format!("--listen unix:{}", other.display())] {
        let running =
            Running::start(handed_over(listener.try_clone().unwrap().into(), &format!("--dev {more}")));
        // It waits in the backlog until somebody takes it.
        let said = sync(&address);
        assert_eq!(said.status, Some(0), "{said:?}");
        assert_eq!(UnixStream::connect(&other).is_ok(), !more.is_empty());
        running.signal("-TERM");
        let (status, log) = running.end();
        assert_eq!(status, Some(0), "{log}");
        assert!(log.contains(&format!("open on {address}")), "{log}");
        // There is no default beside it.
        assert!(!log.contains("tcp:"), "{log}");
        assert!(path.exists() && !other.exists());
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp:{}", listener.local_addr().unwrap());
    let running = Running::start(handed_over(listener.into(), "--dev"));
    assert_eq!(sync(&address).status, Some(0));
    running.signal("-TERM");
    assert_eq!(running.end().0, Some(0));
}

#[test]
fn sockets_of_no_use_are_told_of() {
    let folder = tempfile::tempdir().unwrap();
    let file = std::fs::File::create(folder.path().join("file")).unwrap();
    let said = run_to_end(handed_over(file.into(), "--dev"));
    assert!(
        said.0 == Some(1) && said.1.contains("descriptor 3 (one)") && said.1.contains("ListenStream"),
        "{said:?}"
    );
    let (one, _other) = UnixStream::pair().unwrap();
    let said = run_to_end(handed_over(one.into(), "--dev"));
    assert!(said.0 == Some(1) && said.1.contains("not a listening socket"), "{said:?}");
    // What lets everybody in stays on this machine, whoever has made the socket.
    let far = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let said = run_to_end(handed_over(far.into(), "--dev"));
    assert!(said.0 == Some(1) && said.1.contains("loopback"), "{said:?}");
    // Meant for another process.
    let mut command = serve(&folder.path().join("socket"), &[]);
    command.env("LISTEN_FDS", "1").env("LISTEN_PID", "1");
    let running = Running::start(command);
    while UnixStream::connect(folder.path().join("socket")).is_err() {}
    running.signal("-TERM");
    assert_eq!(running.end().0, Some(0));
}

fn run_to_end(command: Command) -> (Option<i32>, String) {
    Running::start(command).end()
}

/// A peer for which much waits, and that does not read.
fn deaf(broker: &Broker) -> UnixStream {
    let mut stream = UnixStream::connect(broker.path("socket")).unwrap();
    let packets = r#"[[0 <A <resolve <ref {oid: "syndicate" sig: #[acowDB2/oI+6aSEC3YIxGg==]}> #:[0 0]> 1>]]
                     [[1 <A <Observe <group <rec m> {0: <bind <_>>}> #:[0 7]> 2>]] [[1 <S #:[0 9]>]]"#;
    let limits = staunch_protocols::wire::Limits::default();
    let bytes = staunch_protocols::text::parse_all(packets, &limits).unwrap();
    let sync = bytes.len() - 1;
    stream.write_all(&bytes[1..sync]).unwrap();
    // Its answers: it observes.
    let mut buffer = [0; 1000];
    assert!(stream.read(&mut buffer).unwrap() > 0);
    while broker.observers("rec m") == 0 {}
    let mut command = broker.command(&["send"]);
    command.stdin(Stdio::piped());
    let line = format!("<m \"{}\">\n", "x".repeat(10_000));
    let mut sender = command.spawn().unwrap();
    sender.stdin.take().unwrap().write_all(line.repeat(120).as_bytes()).unwrap();
    assert!(sender.wait().unwrap().success());
    stream
}

#[test]
fn a_peer_that_does_not_read_holds_nothing_up() {
    let broker = Broker::start(|_| vec!["--dev".to_owned(), "--drain".to_owned(), "0.2".to_owned()]);
    let _deaf = deaf(&broker);
    let Broker { running, folder: _folder, .. } = broker;
    let start = Instant::now();
    running.signal("-TERM");
    let (status, log) = running.end();
    assert_eq!(status, Some(0), "{log}");
    assert!(log.contains("have not read all") && start.elapsed() < Duration::from_secs(10), "{log}");
    let deaf = log.lines().find(|line| line.contains("has not read what waited for it")).expect(&log);
    assert!(deaf.contains("connection=\"unix:") && deaf.contains("bytes="), "{log}");
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let broker = Broker::start(|_| vec!["--dev".to_owned(), "--drain".to_owned(), "3000".to_owned()]);
    let _deaf = deaf(&broker);
    broker.running.signal("-TERM");
    broker.logged("ends: ");
    std::thread::sleep(Duration::from_millis(50));
    broker.running.signal("-INT");
    let Broker { running, folder: _folder, .. } = broker;
    let (status, log) = running.end();
    assert_eq!(status, Some(130), "{log}");
    assert!(log.contains("ends at once"), "{log}");
}

fn share(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("share").join(path)
}

/// The flags that the shipped units start it with are flags that it has.
#[test]
fn shipped_units_start_what_there_is() {
    let unit = std::fs::read_to_string(share("systemd/staunch.service")).unwrap();
    let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/bin/staunch ")).unwrap();
    let script = std::fs::read_to_string(share("openrc/staunch")).unwrap();
    let line = script.lines().find_map(|line| line.strip_prefix(": ${command_args:=\"")).unwrap();
    for arguments in [start, line.strip_suffix("\"}").unwrap()] {
        let mut arguments: Vec<&str> = arguments.split_whitespace().collect();
        let folder = tempfile::tempdir().unwrap();
        arguments.push("--check");
        let mut command = staunch(&arguments);
        command.env("STATE_DIRECTORY", folder.path());
        let said = run_with(command, b"");
        assert_eq!(said.status, Some(0), "{said:?}");
    }
    let text = std::fs::read_to_string(share("openrc/staunch.toml")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("staunch.toml");
    std::fs::write(&config, text.replace("/run/staunch", folder.path().to_str().unwrap())).unwrap();
    let mut command = staunch(&["serve", "--check", "--config", config.to_str().unwrap()]);
    command.env("STATE_DIRECTORY", folder.path());
    let said = run_with(command, b"");
    assert!(said.status == Some(0) && said.out.contains("/socket"), "{said:?}");
    // What is wrong is found out before anybody is told to reload, and is no reason to start again.
    let reloads: Vec<&str> = unit.lines().filter(|line| line.starts_with("ExecReload=")).collect();
    assert!(reloads.len() == 2 && reloads[0].contains("serve --check") && reloads[1].contains("kill -HUP"));
    assert!(unit.contains("RestartPreventExitStatus=2"));
    // The service waits for longer than the broker may take.
    let stop = unit.lines().find_map(|line| line.strip_prefix("TimeoutStopSec=")).unwrap();
    assert!(stop.parse::<u64>().unwrap() > 10);
    let parsed = Command::new("sh").arg("-n").arg(share("openrc/staunch")).status().unwrap();
    assert!(parsed.success());
}

#[test]
fn systemd_accepts_the_shipped_units() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        eprintln!(
            "SKIPPED: systemd_accepts_the_shipped_units: there is no systemd-analyze (package systemd)"
        );
        assert!(
            std::env::var_os("STAUNCH_TEST_REQUIRE_ALL").is_none_or(|v| v != "1"),
            "nothing may be skipped"
        );
        return;
    }
    // With a program that is there, and without the manual that is not installed.
    let folder = tempfile::tempdir().unwrap();
    for name in ["staunch.service", "staunch.socket"] {
        let text = std::fs::read_to_string(share("systemd").join(name)).unwrap();
        let text = text.replace("/usr/bin/staunch", env!("CARGO_BIN_EXE_staunch"));
        let text: String =
            text.lines().filter(|l| !l.starts_with("Documentation=")).map(|l| format!("{l}\n")).collect();
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let mut command = Command::new("systemd-analyze");
    command.arg("verify").args(["--man=no", "--generators=no"]);
    command.args(["staunch.service", "staunch.socket"].map(|name| folder.path().join(name)));
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    let ours: Vec<&str> = errors.lines().filter(|line| line.contains("staunch")).collect();
    assert!(ours.is_empty(), "{errors}");
}

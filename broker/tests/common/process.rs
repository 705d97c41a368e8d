//! The `staunch` command as a process: started, fed, listened to, ended.
#![allow(dead_code, unreachable_pub)]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long anything may take that must happen. Far more than it does.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The command, with an environment that says nothing of brokers and keys.
pub fn staunch(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_staunch"));
    command.args(arguments);
    for name in [
        "STAUNCH_LOG",
        "RUST_LOG",
        "STAUNCH_CONNECT",
        "STAUNCH_REF",
        "STATE_DIRECTORY",
        "XDG_STATE_HOME",
        "XDG_CONFIG_HOME",
        "NOTIFY_SOCKET",
        "WATCHDOG_USEC",
        "LISTEN_PID",
        "JOURNAL_STREAM",
    ] {
        command.env_remove(name);
    }
    command
}

/// What a command says that ends of itself.
#[derive(Debug)]
pub struct Said {
    pub status: Option<i32>,
    pub out: String,
    pub err: String,
}

/// Runs a command to its end, with this as standard input.
pub fn run_with(mut command: Command, input: &[u8]) -> Said {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it can be started");
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feeder = std::thread::spawn(move || {
        // A command may end without having read everything.
        let _ = stdin.write_all(&input);
    });
    let mut out = child.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        out.read_to_end(&mut text).unwrap();
        text
    });
    let mut err = child.stderr.take().unwrap();
    let errors = std::thread::spawn(move || {
        let mut text = Vec::new();
        err.read_to_end(&mut text).unwrap();
        text
    });
    let status = end_of(&mut child);
    feeder.join().unwrap();
    let text = |thread: std::thread::JoinHandle<Vec<u8>>| String::from_utf8(thread.join().unwrap()).unwrap();
    Said { status: status.code(), out: text(reader), err: text(errors) }
}

/// Runs a command to its end.
pub fn run(arguments: &[&str]) -> Said {
    run_with(staunch(arguments), b"")
}

fn end_of(child: &mut Child) -> ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if start.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("it goes on");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A command that runs on, and its lines.
pub struct Running {
    pub child: Child,
    lines: Receiver<String>,
    errors: Receiver<String>,
}

impl Running {
    pub fn start(mut command: Command) -> Running {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it can be started");
        let lines = lines(child.stdout.take().unwrap());
        let errors = lines_of_errors(&mut child);
        Running { child, lines, errors }
    }

    /// The next line that it prints.
    pub fn line(&mut self) -> String {
        self.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| {
            panic!("it prints a line; errors: {:?}", self.errors.try_iter().collect::<Vec<_>>())
        })
    }

    /// The lines that it prints until it ends.
    pub fn rest(&mut self) -> Vec<String> {
        let mut rest = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            rest.push(line);
        }
        rest
    }

    /// The next line of its log that holds this.
    pub fn logged(&self, what: &str) -> String {
        loop {
            let line = self.errors.recv_timeout(PATIENCE).expect("it is logged");
            if line.contains(what) {
                return line;
            }
        }
    }

    /// The lines of its log that have come and have not been looked at.
    pub fn logged_so_far(&self) -> Vec<String> {
        self.errors.try_iter().collect()
    }

    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits for its end: the status, and what it complained of.
    pub fn end(mut self) -> (Option<i32>, String) {
        let status = end_of(&mut self.child).code();
        (status, self.errors.iter().collect::<Vec<_>>().join("\n"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines_of_errors(child: &mut Child) -> Receiver<String> {
    lines(child.stderr.take().unwrap())
}

fn lines(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines() {
            let Ok(line) = line else { return };
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// A broker on a Unix socket in a folder of its own.
pub struct Broker {
    pub running: Running,
    pub folder: TempDir,
    pub address: String,
    /// What lets its commands in, unless they say otherwise.
    pub reference: Option<String>,
}

impl Broker {
    /// For everybody.
    pub fn dev() -> Broker {
        Broker::start(|_| vec!["--dev".to_owned()])
    }

    /// With more flags, which may name files in the folder.
    pub fn start(flags: impl FnOnce(&TempDir) -> Vec<String>) -> Broker {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let address = format!("unix:{}", socket.display());
        let mut command = staunch(&["serve", "--listen", &address]);
        command.args(flags(&folder));
        let mut running = Running::start(command);
        let start = Instant::now();
        while UnixStream::connect(&socket).is_err() {
            if let Some(status) = running.child.try_wait().unwrap() {
                panic!("{status}: {:?}", running.errors.iter().collect::<Vec<_>>());
            }
            assert!(start.elapsed() < PATIENCE, "it listens");
            std::thread::sleep(Duration::from_millis(2));
        }
        Broker { running, folder, address, reference: None }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The next line of its log that holds this.
    pub fn logged(&self, what: &str) -> String {
        self.running.logged(what)
    }

    /// A command that speaks to it.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = staunch(arguments);
        command.env("STAUNCH_CONNECT", &self.address);
        if let Some(reference) = &self.reference {
            command.env("STAUNCH_REF", reference);
        }
        command
    }

    /// Runs a command that speaks to it to its end.
    pub fn run(&self, arguments: &[&str]) -> Said {
        run_with(self.command(arguments), b"")
    }

    /// Starts `staunch observe`, and waits until the broker knows of it: until so many observe a pattern that is
    /// written with these words.
    pub fn observe(&self, arguments: &[&str], words: &str, count: usize) -> Running {
        let mut running = Running::start(self.command(&[&["observe"], arguments].concat()));
        let start = Instant::now();
        while self.observers(words) < count {
            assert!(running.child.try_wait().unwrap().is_none(), "it observes");
            assert!(start.elapsed() < PATIENCE, "it observes");
        }
        running
    }

    /// How many observe patterns that are written with these words.
    pub fn observers(&self, words: &str) -> usize {
        let all = "<group <rec Observe> {0: <bind <_>> 1: <bind <_>>}>";
        let seen = self.run(&["observe", "--raw", "--snapshot", all]);
        assert_eq!(seen.status, Some(0), "{seen:?}");
        seen.out.lines().filter(|line| line.contains(words)).count()
    }
}

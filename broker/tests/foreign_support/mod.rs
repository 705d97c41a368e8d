//! Programs that others have written, run unchanged against a broker of our own: where they are found, how they
//! are started and watched, and what is said when they are missing.
#![allow(dead_code, reason = "each test program uses a part of it")]

pub(crate) mod reference;

use std::fs::{File, read_to_string};
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Set to 1 where everything is expected to be there: skipping is failing then.
const REQUIRE_ALL: &str = "STAUNCH_TEST_REQUIRE_ALL";

/// Whether a test that cannot run must fail.
pub(crate) fn is_all_required() -> bool {
    std::env::var_os(REQUIRE_ALL).is_some_and(|value| value != "0" && !value.is_empty())
}

/// Says that a test does not run, on standard error itself, since the test harness keeps what `eprintln!` writes.
///
/// # Panics
/// If it has to run.
pub(crate) fn skip(test: &str, why: &str) {
    assert!(!is_all_required(), "{test} cannot run, and {REQUIRE_ALL} is set: {why}");
    let _ = writeln!(std::io::stderr(), "\n*** SKIPPED {test}: {why}\n");
}

/// Where `.ci/run` puts what it installs.
pub(crate) fn cache() -> PathBuf {
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    let folder = std::env::var_os("STAUNCH_CI_CACHE").map(PathBuf::from);
    let cache = || std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
    folder.or_else(|| Some(cache()?.join("staunch-ci"))).unwrap_or_default()
}

/// Looks again and again until there is something to see.
///
/// # Panics
/// If there is nothing for too long; says what was looked for, and what there was.
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match look() {
            Ok(seen) => return seen,
            Err(there) if start.elapsed() > PATIENCE => {
                panic!("waited in vain for {what}; there is:\n{there}")
            }
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// A program that runs, its output in a file. Ended when dropped.
pub(crate) struct Running {
    name: String,
    child: Child,
    output: PathBuf,
}

impl Running {
    /// Starts `command`, which puts all it says into a file in `folder`.
    pub(crate) fn start(folder: &TempDir, name: &str, command: &mut Command) -> Running {
        let output = folder.path().join(format!("{name}.out"));
        let file = File::create(&output).unwrap();
        command.stdout(file.try_clone().unwrap()).stderr(file);
        let child = command.spawn().unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
        Running { name: name.to_owned(), child, output }
    }

    /// What it has said so far.
    pub(crate) fn said(&self) -> String {
        read_to_string(&self.output).unwrap_or_default()
    }

    /// The whole lines that it has said so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        let said = self.said();
        said.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')).map(str::to_owned).collect()
    }

    /// Waits until it has said a line that `is_it`; returns that.
    pub(crate) fn wait_for(&mut self, what: &str, is_it: impl Fn(&str) -> bool) -> String {
        self.wait_past(0, what, is_it)
    }

    /// As [`Running::wait_for`], looking only at lines after the first `lines`.
    pub(crate) fn wait_past(&mut self, lines: usize, what: &str, is_it: impl Fn(&str) -> bool) -> String {
        let what = format!("{what} from {}", self.name);
        until(&what, || {
            let said = self.lines();
            match said.iter().skip(lines).find(|line| is_it(line)) {
                Some(line) => Ok(line.clone()),
                None => {
                    self.check_running();
                    Err(said.join("\n"))
                }
            }
        })
    }

    /// # Panics
    /// If it has ended, of itself.
    pub(crate) fn check_running(&mut self) {
        if let Some(status) = self.child.try_wait().unwrap() {
            panic!("{} has ended, {status}:\n{}", self.name, self.said());
        }
    }

    /// Sends a signal, such as `-STOP`.
    pub(crate) fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success(), "kill {signal} {}", self.name);
    }

    /// Ends it without warning.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// `staunch serve --dev`, as others run it.
pub(crate) struct Broker {
    running: Running,
    /// Where it listens on TCP.
    pub(crate) tcp: SocketAddr,
    /// Where it listens on TCP and answers in the older form.
    pub(crate) older: SocketAddr,
    /// Where it listens on a Unix socket.
    pub(crate) unix: PathBuf,
}

impl Broker {
    /// Starts it; `None` if the TCP address is in use and stays so for `wait`.
    pub(crate) fn start(folder: &TempDir, tcp: &str, wait: Duration) -> Option<Broker> {
        let start = Instant::now();
        let unix = folder.path().join("socket");
        loop {
            let mut command = Command::new(env!("CARGO_BIN_EXE_staunch"));
            command.args([
                "serve",
                "--dev",
                "--listen",
                tcp,
                "--listen",
                "tcp:127.0.0.1:0,answers=accepted",
                "--listen",
                &format!("unix:{}", unix.display()),
            ]);
            let mut running = Running::start(folder, "broker", command.env("STAUNCH_LOG", "debug"));
            let open = until("the broker's addresses", || {
                let said = running.said();
                let open = said.lines().filter_map(|line| line.split_once("open on tcp:")?.1.parse().ok());
                match (&open.collect::<Vec<SocketAddr>>()[..], running.child.try_wait().unwrap()) {
                    (&[tcp, older], _) => Ok(Some((tcp, older))),
                    (_, Some(_)) if said.contains("another program listens there") => Ok(None),
                    (_, Some(status)) => panic!("the broker has ended, {status}:\n{said}"),
                    _ => Err(said),
                }
            });
            match open {
                Some((tcp, older)) => return Some(Broker { running, tcp, older, unix }),
                None if start.elapsed() > wait => return None,
                None => std::thread::sleep(Duration::from_millis(200)),
            }
        }
    }

    /// Ends it without warning.
    pub(crate) fn kill(&mut self) {
        self.running.kill();
    }

    /// Ends it, and makes sure that it has ended no connection itself, and has had nothing to complain about.
    pub(crate) fn end(mut self) {
        self.running.check_running();
        self.running.signal("-TERM");
        let status = until("the broker to end", || {
            self.running.child.try_wait().unwrap().ok_or_else(|| self.running.said())
        });
        let said = self.running.said();
        assert_eq!(status.code(), Some(0), "{said}");
        for bad in ["ends a connection", "refused", " WARN", "ERROR", "panicked"] {
            assert!(!said.contains(bad), "{bad:?} in the broker's log:\n{said}");
        }
    }
}

//! The example programs of the reference implementation, unchanged, against `staunch serve --dev`.
//!
//! They are in `$STAUNCH_TEST_EXAMPLES`, or where `.ci/run` has installed them. They connect to port 9001 on this
//! machine, so that port must be free, and all of this is one test.

mod foreign_support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use foreign_support::{Broker, Running, cache, is_all_required, skip};
use tempfile::TempDir;

const PROGRAMS: [&str; 5] = ["producer", "consumer", "pingpong", "state-producer", "state-consumer"];

/// The folder that holds them, if there is one.
fn programs(test: &str) -> Option<PathBuf> {
    let named = std::env::var_os("STAUNCH_TEST_EXAMPLES").map(PathBuf::from);
    let folder = named.unwrap_or_else(|| cache().join("reference/bin"));
    let missing: Vec<&str> = PROGRAMS.into_iter().filter(|p| !folder.join(p).is_file()).collect();
    if missing.is_empty() {
        return Some(folder);
    }
    skip(
        test,
        &format!(
            "{} lacks {}.\n  To have them: run .ci/foreign, which builds them once, or set STAUNCH_TEST_EXAMPLES \
             to a folder that holds the examples of syndicate-server 0.51.0-rc.4",
            folder.display(),
            missing.join(", ")
        ),
    );
    None
}

/// The number before `word` in what the programs print once a second.
fn figure(line: &str, word: &str) -> Option<u64> {
    let words: Vec<&str> = line.split([' ', ',']).filter(|w| !w.is_empty()).collect();
    let at = words.iter().position(|w| *w == word)?;
    words.get(at.checked_sub(1)?)?.parse().ok()
}

struct Stage {
    folder: TempDir,
    programs: PathBuf,
}

impl Stage {
    fn run(&self, program: &str, arguments: &[&str]) -> Running {
        let path: &Path = &self.programs.join(program);
        // Its log goes by this.
        let mut command = Command::new(path);
        command.args(arguments).env("RUST_LOG", "info").env("NO_COLOR", "1");
        Running::start(&self.folder, &format!("{program} {}", arguments.join(" ")), &mut command)
    }

    /// Two seconds in a row in which a consumer gets something.
    fn check_flow(&self, consumer: &mut Running, word: &str) {
        for _ in 0..2 {
            let past = consumer.lines().len();
            consumer.wait_past(past, "a busy second", |line| figure(line, word).is_some_and(|n| n > 500));
        }
    }

    fn messages(&self, arguments: &[&str]) {
        let mut consumer = self.run("consumer", &[]);
        consumer.wait_for("its first second", |line| figure(line, "messages").is_some());
        let mut producer = self.run("producer", arguments);
        self.check_flow(&mut consumer, "messages");
        // Not reading for a while costs nothing but time.
        consumer.signal("-STOP");
        std::thread::sleep(Duration::from_secs(1));
        consumer.signal("-CONT");
        self.check_flow(&mut consumer, "messages");
        producer.check_running();
    }

    fn ping_pong(&self) {
        let mut pong = self.run("pingpong", &["pong"]);
        pong.wait_for("its first second", |line| figure(line, "events").is_some());
        let mut ping = self.run("pingpong", &["ping", "-t", "10", "-a", "10", "-l", "100", "-b", "16"]);
        ping.wait_for("round trips", |line| line.starts_with("rtt: "));
        self.check_flow(&mut pong, "events");
        ping.check_running();
    }

    fn state(&self) {
        let mut consumer = self.run("state-consumer", &[]);
        consumer.wait_for("its first second", |line| figure(line, "present") == Some(0));
        let mut producer = self.run("state-producer", &[]);
        self.check_flow(&mut consumer, "arrivals");
        producer.check_running();
        // Whatever it has asserted goes with it.
        producer.kill();
        let past = consumer.lines().len() + 1;
        let line = consumer.wait_past(past, "a quiet second", |line| figure(line, "events") == Some(0));
        assert_eq!(figure(&line, "present"), Some(0), "{}", consumer.said());
    }
}

#[test]
fn examples_of_the_reference() {
    const TEST: &str = "examples_of_the_reference";
    let Some(programs) = programs(TEST) else { return };
    let stage = Stage { folder: tempfile::tempdir().unwrap(), programs };
    let wait = Duration::from_secs(if is_all_required() { 180 } else { 5 });
    let Some(broker) = Broker::start(&stage.folder, "tcp:127.0.0.1:9001", wait) else {
        return skip(TEST, "port 9001, to which these programs connect, is in use. End what uses it");
    };
    stage.messages(&[]);
    stage.messages(&["-a", "100", "-b", "64"]);
    stage.ping_pong();
    stage.state();
    broker.end();
}

//! Scenario files played by the command: against a broker that keeps all promises, and against one that breaks each.

mod naive;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use naive::{Mischief, start};
use serde_json::Value;

/// A producer whose consumer is stopped for a while, and a pair that has nothing to do with it.
const STALL: &str = r#"
name = "stall"
duration = "2400ms"
patience = "4s"
[[producers]]
name = "loud"
rate = 2000
payload = 4096
send_buffer = "64KiB"
[[producers]]
name = "other"
rate = 200
innocent = true
[[consumers]]
name = "stopped"
follows = ["loud"]
receive_buffer = "64KiB"
stall = { from = "700ms", to = "1700ms" }
[[consumers]]
name = "listener"
follows = ["other"]
innocent = true
[expect]
memory_growth = "1MiB"
"#;

/// Everything that a scenario can ask for.
const ALL: &str = r#"
name = "all of it"
duration = "2500ms"
[[producers]]
name = "mixed"
count = 3
rate = 300
payload = { min = 16, max = "32KiB" }
process = "together"
[[producers]]
name = "evader"
payload = [100, 2000]
reconnect = { after = "50ms", times = 5 }
[[relays]]
name = "middle"
count = 2
follows = ["mixed"]
interest = "own"
[[consumers]]
name = "behind"
follows = ["middle"]
process = "together"
[[consumers]]
name = "random"
count = 5
follows = ["mixed"]
interest = { random = 2, seed = 3 }
stall = { from = "500ms", to = "1s", how = "reading", share = 0.4 }
[[consumers]]
name = "slow"
follows = ["evader"]
reads = { bytes_per_second = 20000000 }
receive_buffer = "64KiB"
stall = { from = "500ms", to = "1500ms" }
[[consumers]]
name = "victims"
count = 4
follows = ["mixed"]
kill = { at = "1s", share = 0.5 }
[expect]
throttled = false
"#;

/// A folder of the test's own.
fn folder(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("script-runs-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

fn load(args: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_staunch-load")).args(args).output().unwrap();
    println!("{args:?}: {}", String::from_utf8_lossy(&output.stdout));
    println!("{}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Plays a scenario without judging times; gives the status and what was written for its only outcome.
fn play(dir: &Path, text: &str, broker: &str, more: &[&str]) -> (Option<i32>, Value) {
    let (file, json) = (dir.join("scenario.toml"), dir.join("outcome.json"));
    std::fs::write(&file, text).unwrap();
    let (file, shown) = (file.to_str().unwrap(), json.to_str().unwrap());
    let output = load(&[&["run", file, "--broker", broker, "--no-times", "--json", shown], more].concat());
    let outcomes: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    (output.status.code(), outcomes[0].clone())
}

fn failing(outcome: &Value) -> Vec<String> {
    let verdicts = outcome["verdicts"].as_array().unwrap();
    let failing = verdicts.iter().filter(|v| v["status"] == "fails");
    failing.map(|v| v["property"].as_str().unwrap().to_owned()).collect()
}

fn figure(outcome: &Value, name: &str) -> f64 {
    outcome["figures"][name]["mean"].as_f64().unwrap()
}

/// The broker beside this package's own command, if it has been built: `cargo test --workspace` builds both.
fn staunch() -> Option<String> {
    let path = Path::new(env!("CARGO_BIN_EXE_staunch-load")).with_file_name("staunch");
    if path.exists() {
        return Some(path.display().to_string());
    }
    let must = std::env::var_os("STAUNCH_TEST_REQUIRE_ALL").is_some();
    assert!(!must, "{} is not there: cargo build -p staunch", path.display());
    eprintln!("SKIPPED: {} is not there: cargo build -p staunch", path.display());
    None
}

#[test]
fn what_a_broker_does_wrong_is_found() {
    for (mischief, wrong, right) in [
        // It waits for whoever does not read, and all others with it.
        (Mischief::None, &["innocent"][..], &["complete", "throttled", "connected"][..]),
        (Mischief::Hoard, &["throttled", "bounded"], &["complete", "innocent", "connected"]),
        (Mischief::Lose, &["complete", "throttled"], &["innocent", "connected"]),
        (Mischief::Cut, &["complete", "connected", "throttled"], &["innocent"]),
        (Mischief::Swap(100), &["complete"], &["connected", "throttled"]),
        (Mischief::Repeat(100), &["complete"], &["connected", "throttled"]),
        (Mischief::Drop(100), &["complete"], &["connected", "throttled"]),
    ] {
        let dir = folder(&format!("{mischief:?}"));
        let broker = format!("staunch@unix:{}", start(mischief).display());
        // The broker is a part of this process.
        let pid = std::process::id().to_string();
        let (status, outcome) = play(&dir, STALL, &broker, &["--broker-pid", &pid]);
        let failing = failing(&outcome);
        assert_eq!(status, Some(1), "{mischief:?}");
        for property in wrong {
            assert!(
                failing.iter().any(|f| f == property),
                "{mischief:?}: {property} should fail: {failing:?}"
            );
        }
        for property in right {
            assert!(
                !failing.iter().any(|f| f == property),
                "{mischief:?}: {property} should hold: {failing:?}"
            );
        }
        std::fs::remove_dir_all(dir).unwrap();
    }
}

#[test]
fn faults_are_counted_as_what_they_are() {
    for (mischief, figures) in [
        (Mischief::Swap(100), [0.0, 1.0, 0.0]),
        (Mischief::Repeat(100), [0.0, 0.0, 1.0]),
        (Mischief::Drop(100), [1.0, 0.0, 0.0]),
    ] {
        let dir = folder(&format!("count-{mischief:?}"));
        let text = "name = 'short'\nduration = '300ms'\npatience = '500ms'\n[[producers]]\nname = 'p'\n\
                    rate = 1000\n[[consumers]]\nname = 'c'\nfollows = ['p']\n";
        let broker = format!("staunch@unix:{}", start(mischief).display());
        let (_, outcome) = play(&dir, text, &broker, &[]);
        let found = ["lost", "reordered", "duplicated"].map(|name| figure(&outcome, name));
        assert_eq!(found, figures, "{mischief:?}");
        std::fs::remove_dir_all(dir).unwrap();
    }
}

#[test]
fn staunch_keeps_its_promises() {
    let Some(program) = staunch() else { return };
    let dir = folder("staunch");
    let page = dir.join("page.html");
    let text = STALL.replace("memory_growth = \"1MiB\"", "memory_growth = \"64MiB\"");
    // More than it may owe, while nobody reads.
    let text = text.replace("payload = 4096", "payload = 16384");
    let args =
        ["--repeat", "2", "--stretch", "2", "--out", dir.to_str().unwrap(), "--html", page.to_str().unwrap()];
    let (status, outcome) = play(&dir, &text, &format!("staunch={program}"), &args);
    assert_eq!((status, failing(&outcome)), (Some(0), vec![]));
    assert!(outcome["broker"]["version"].as_str().unwrap().starts_with("staunch "));
    assert!(outcome["figures"]["accepted_per_s"]["within"].is_number(), "two repetitions make an interval");

    let first = std::fs::read_to_string(&page).unwrap();
    assert!(first.matches("<svg").count() >= 4 && first.contains("class=\"shade\""));
    assert!(!first.contains("<script") && !first.contains("http"), "it needs nothing from elsewhere");
    let result = dir.join("stall.staunch.json");
    let again = dir.join("again.html");
    let output = load(&["report", again.to_str().unwrap(), result.to_str().unwrap()]);
    assert!(output.status.success());
    assert_eq!(std::fs::read_to_string(&again).unwrap(), first);
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn all_that_can_be_asked_for_is_played() {
    let Some(program) = staunch() else { return };
    let dir = folder("all");
    let (status, outcome) = play(&dir, ALL, &format!("staunch={program}"), &[]);
    assert_eq!((status, failing(&outcome)), (Some(0), vec![]));
    assert!(figure(&outcome, "reconnects") > 0.0, "it was throttled and came back");
    assert!(figure(&outcome, "delivered") > figure(&outcome, "accepted"));
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_rate_in_capacities_is_measured_first() {
    let Some(program) = staunch() else { return };
    let dir = folder("capacity");
    let text = "name = 'twice'\nduration = '500ms'\n[[producers]]\nname = 'p'\ncount = 2\nrate = '2x'\n\
                [[consumers]]\nname = 'c'\nfollows = ['p']\n";
    let (status, outcome) = play(&dir, text, &format!("staunch={program}"), &[]);
    assert_eq!((status, failing(&outcome)), (Some(0), vec![]));
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn the_proof_ends_with_what_it_found() {
    let Some(program) = staunch() else { return };
    let output = load(&["prove", "--short", "--broker", &program, "--only", "killed"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains("1 scenarios: ") && text.contains(" 0 fail"), "{text}");
}

//! The tour, as somebody gets it who has typed the README's first command.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

fn staunch(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_staunch")).args(arguments).output().unwrap()
}

/// The number at the end of the line of `text` that begins, after its time stamp, with `words`.
fn counted(text: &str, words: &[&str]) -> u64 {
    let mut lines = text.lines().filter_map(|line| {
        let mut found: Vec<&str> = line.split_whitespace().collect();
        if found.get(1) == Some(&"s") && found[0].parse::<f64>().is_ok() {
            found.drain(..2);
        }
        found.strip_prefix(words).map(|rest| rest.concat().replace(',', ""))
    });
    lines.next().unwrap_or_else(|| panic!("no line with {words:?} in:\n{text}")).parse().unwrap()
}

#[test]
fn a_tour_ends_well_and_says_what_it_showed() {
    let start = Instant::now();
    let output = staunch(&["tour", "--plain", "--seconds", "3"]);
    let (text, errors) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr).into_owned());
    assert!(output.status.success(), "{}\n{text}{errors}", output.status);
    assert_eq!(errors, "");
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
    let mut rest = text.as_str();
    for words in [
        "1. Everybody reads.",
        "2. slow stops reading.",
        // One chunk more than its limit at most, so 2.0 to 2.2 MiB.
        "P1 owes 2.",
        "MiB and is throttled",
        "MiB, throttled",
        "unread",
        "The ledger:",
        "P1 owes 2.",
        "messages that wait for slow",
        "it sends nothing to slow, and",
        "3. slow reads on",
        "it is read again.",
        "slow has caught up.",
        "4. The producers stop",
        "Nothing lost, nothing twice, everything in order; all debts are repaid.",
    ] {
        let at = rest.find(words).unwrap_or_else(|| panic!("no {words:?} where it belongs in:\n{text}"));
        rest = &rest[at + words.len()..];
    }
    let sent = counted(&text, &["P1", "sent"]);
    assert!(sent > 10_000, "{sent}");
    for consumer in ["ann", "ben", "slow"] {
        assert_eq!(counted(&text, &[consumer, "received"]), sent, "{consumer}");
    }
    assert_eq!(counted(&text, &["P2", "sent"]), counted(&text, &["cleo", "received"]));
    assert!(!text.contains('\x1b'), "no escape sequences off a terminal");
    let widest = text.lines().map(|line| line.chars().count()).max();
    assert!(widest <= Some(100), "{widest:?}");
}

#[test]
fn a_tour_of_no_length_is_refused() {
    let output = staunch(&["tour", "--seconds", "0"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("2..=3600"), "{output:?}");
}

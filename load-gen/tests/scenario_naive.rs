//! Every scenario against a naive broker: nothing is found where nothing is wrong, and what is wrong is found.

mod naive;

use std::path::Path;

use clap::Parser;
use naive::{Mischief, start};
use staunch_load::cli::Cli;

/// Runs a command line against the broker at `path`; gives the table and whether all was well.
fn run(path: &Path, command: &str) -> (String, bool) {
    let common = "--warmup 0.02 --patience 1 --unix";
    let words = ["staunch-load"].into_iter().chain(command.split(' ')).chain(common.split(' '));
    let words = words.chain([path.to_str().unwrap()]);
    Cli::try_parse_from(words).unwrap().run().unwrap()
}

fn clean(command: &str) -> String {
    let (table, is_clean) = run(&start(Mischief::None), command);
    assert!(is_clean, "{command}:\n{table}");
    table
}

#[test]
fn messages_arrive() {
    clean("one-to-one --duration 0.1");
    clean("one-to-one --messages 1000 --events-per-packet 7 --check-bodies");
    clean("one-to-one --messages 20 --payload 200000 --check-bodies");
    clean("one-to-one --messages 1000 --threads 2");
    clean("fan-out --consumers 5 --messages 500");
    clean("fan-out --consumers 5 --messages 500 --threads 3");
    clean("pairs --pairs 3 --messages 500");
    clean("pairs --pairs 3 --messages 500 --capture-both");
    clean("open-loop --rate 5000 --duration 0.2");
}

#[test]
fn round_trips_are_timed() {
    assert!(clean("ping-pong --messages 50").contains("p50"));
    clean("ping-pong --messages 50 --spin --payload 1000");
}

#[test]
fn assertions_come_and_go() {
    clean("churn --messages 500");
    clean("churn --messages 500 --live 20 --events-per-packet 10");
}

#[test]
fn crowds_hear_nothing() {
    clean("observers --count 50 --connections 4 --messages 200");
    clean("skeletons --counts 1,5,20 --messages 100");
    clean("skeletons --counts 3 --messages 100 --connections 2 --same-name");
    clean("held --count 1000 --messages 100");
    clean("held --count 1000 --messages 100 --observed");
    clean("idle --count 20");
}

#[test]
fn stalled_consumers_get_everything_later() {
    clean("stall --observers 3 --duration 0.2 --messages 5 --payload 100000 --alone");
    clean("stall-assertions --count 500 --duration 0.1");
    clean("stall-assertions --count 500 --duration 0.1 --early");
}

#[test]
fn mischief_is_found() {
    for (mischief, expect) in [
        (Mischief::Drop(50), "1 lost"),
        (Mischief::Drop(299), "1 lost"),
        (Mischief::Repeat(50), "1 duplicated"),
        (Mischief::Repeat(299), "1 duplicated"),
        (Mischief::Spoil(50), "1 damaged"),
        (Mischief::Stray(50), "1 misdelivered"),
    ] {
        let command = "one-to-one --messages 300 --check-bodies --warmup 0";
        let common = format!("staunch-load {command} --patience 0.3 --unix {}", start(mischief).display());
        let (table, is_clean) = Cli::try_parse_from(common.split(' ')).unwrap().run().unwrap();
        assert!(!is_clean && table.contains(expect), "{mischief:?}:\n{table}");
    }
}

//! What is wrong with a scenario, a broker or a result is told, with its place.

use std::path::PathBuf;
use std::process::{Command, Output};

const GOOD: &str =
    "name = 'x'\nduration = '200ms'\n[[producers]]\nname = 'p'\n[[consumers]]\nname = 'c'\nfollows = ['p']\n";

fn load(args: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_staunch-load")).args(args).output().unwrap();
    println!("{args:?}: {output:?}");
    output
}

/// Cannot be run: status 2, and why.
fn fails(args: &[&str], why: &str) {
    let output = load(args);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{args:?}: {text}");
    assert!(text.contains(why), "{args:?}: {text}");
}

fn file(name: &str, text: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("script-errors-{}-{name}.toml", std::process::id()));
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn faults_of_files_have_a_line_and_a_column() {
    let with = |more: &str| format!("{GOOD}{more}");
    for (n, (text, why)) in [
        ("name = 'x'\nduration = \n".to_owned(), ":2:"),
        ("name = 'x'\nduration = '1 fortnight'\n".to_owned(), ":2:12: \"1 fortnight\" is not a time"),
        ("duration = 1\n".to_owned(), "missing field `name`"),
        ("name = 'x'\nduration = 0\n".to_owned(), ":2:12: must be more than 0"),
        ("name = 'x'\nduration = 1\n".to_owned(), "there are no [[producers]]"),
        (with("colour = 'red'\n"), ":8:1: unknown field `colour`"),
        (GOOD.replace("['p']", "['p', 'q']"), ":7:17: no producers or relays \"q\""),
        (GOOD.replace("name = 'c'", "name = 'p'"), ":6:8: there is another group \"p\""),
        (GOOD.replace("name = 'c'", "name = 'a b'"), ":6:8: a name has letters"),
        (with("count = 0\n"), ":8:9: must be from 1"),
        (with("stall = { from = '100ms', to = '1s' }\n"), ":8:9: must end after it begins, and within"),
        (with("stall = { from = 0, to = 0.1, share = 0.5 }\n"), "how = \"reading\" is for that"),
        (with("stall = { from = 0, to = 0.1, how = 'asking', share = 1 }\n"), "unknown variant `asking`"),
        (with("kill = { at = '2s' }\n"), ":8:8: is not before the end"),
        (with("reads = { }\n"), ":8:9: a slow reader has either"),
        (with("interest = { random = 2 }\n"), ":8:12: must be from 1 to the 1 clients"),
        (with("interest = 'some'\n"), ":8:12: an interest is"),
        (GOOD.replace("name = 'p'", "name = 'p'\npayload = 3"), ":5:11: a payload has from 16 bytes"),
        (GOOD.replace("name = 'p'", "name = 'p'\nrate = 'quick'"), ":5:8: \"quick\" is not a rate"),
        (
            with("process = 'p'\nstall = { from = 0, to = 0.1 }\n"),
            "p would be stopped with c, whose process it shares",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let path = file(&n.to_string(), &text);
        fails(&["check", path.to_str().unwrap()], why);
        fails(&["run", path.to_str().unwrap(), "--broker", "staunch=/nowhere"], why);
        std::fs::remove_file(path).unwrap();
    }
}

#[test]
fn the_line_is_shown_with_a_mark() {
    let path = file("mark", &GOOD.replace("['p']", "['q']"));
    let text = String::from_utf8(load(&["check", path.to_str().unwrap()]).stderr).unwrap();
    assert!(text.contains("    7 | follows = ['q']\n      |            ^^^\n"), "{text}");
    std::fs::remove_file(path).unwrap();
}

#[test]
fn shipped_scenarios_are_right() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let mut found = 0;
    for dir in [dir.clone(), dir.join("prove")] {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "toml") {
                assert!(load(&["check", path.to_str().unwrap()]).status.success(), "{}", path.display());
                found += 1;
            }
        }
    }
    assert!(found >= 12, "{found}");
}

#[test]
fn brokers_that_are_not_there() {
    let path = file("brokers", GOOD);
    let script = path.to_str().unwrap();
    fails(&["run", script], "--broker");
    fails(&["run", script, "--broker", "pigeons"], "the kinds of brokers are staunch");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let refused = format!("connecting to tcp:{port}: Connection refused");
    fails(&["run", script, "--broker", &format!("nats@tcp:{port}")], &refused);
    fails(&["run", script, "--broker", "nats@nowhere"], "neither tcp:ADDRESS:PORT nor unix:PATH");
    let output = load(&["run", script, "--broker", "redis=/nowhere/redis"]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("!!! redis is LEFT OUT: there is no program /nowhere/redis"), "{text}");
    assert!(text.contains("none of these brokers is installed") && output.status.code() == Some(2), "{text}");
    fails(&["prove", "--broker", "/nowhere/staunch"], "there is no program /nowhere/staunch");
    fails(&["prove", "--broker", "/bin/true", "--only", "slow"], "ended at once");
    fails(&["prove", "--broker", "/bin/true", "--only", "tomorrow"], "no scenario is called like that");
    std::fs::remove_file(path).unwrap();
}

#[test]
fn results_that_are_none() {
    let path = file("result", "{}");
    let (out, result) = (std::env::temp_dir().join("never.html"), path.to_str().unwrap());
    fails(&["report", out.to_str().unwrap(), result], "is no result of `staunch-load run --out`");
    fails(&["report", out.to_str().unwrap(), "/nowhere.json"], "reading /nowhere.json: No such file");
    std::fs::remove_file(path).unwrap();
}

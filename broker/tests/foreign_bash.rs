//! A client that is a shell script, against `staunch serve --dev`, packet for packet.

mod foreign_support;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use foreign_support::{Broker, skip};

/// What it sends and gets; H is a handle of the broker's.
const EXPECTED: &str = r##"C: [[0 <A <resolve <ref {oid: "syndicate" sig: #[acowDB2/oI+6aSEC3YIxGg]}> #:[0 0]> 1>]]
S: [[0, <A <ok #:[0, 1]> H>]]
C: [[1 <A <Observe <group <rec Present> {0: <bind <_>>}> #:[0 1]> 2>] [1 <A <Observe <group <rec Says> {0: <bind <_>> 1: <bind <_>>}> #:[0 2]> 3>]]
C: [[1 <A <Present "bash"> 4>]]
S: [[1, <A ["bash"] H>]]
C: [[1 <M <Says "bash" "hi there">>]]
S: [[2, <M ["bash", "hi there"]>]]
C: [[1 <S #:[0 3]>]]
S: [[3, <M #t>]]
C: [[1 <R 4>]]
S: [[1, <R H>]]
"##;

#[test]
fn a_script_speaks_text() {
    if Command::new("bash").arg("--version").output().is_err() {
        return skip("a_script_speaks_text", "no bash");
    }
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(&folder, "tcp:127.0.0.1:0", Duration::ZERO).expect("port 0 is never in use");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/foreign_support/chat.sh");
    let port = broker.tcp.port().to_string();
    let output = Command::new("bash").arg(script).arg(port).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let (said, expected): (Vec<&str>, Vec<&str>) = (said.lines().collect(), EXPECTED.lines().collect());
    assert_eq!(said.len(), expected.len(), "{said:?}");
    let mut handles = Vec::new();
    for (said, expected) in said.iter().zip(expected) {
        match expected.split_once(" H") {
            None => assert_eq!(*said, expected),
            Some((before, after)) => {
                let handle = said.strip_prefix(before).and_then(|rest| rest.trim_start().strip_suffix(after));
                handles.push(handle.unwrap_or_else(|| panic!("{said}, not {expected}")).to_owned());
            }
        }
    }
    assert!(handles.iter().all(|handle| handle.parse::<u64>().is_ok()), "{handles:?}");
    assert_eq!(handles[1], handles[2], "what is retracted is what was asserted");
    broker.end();
}

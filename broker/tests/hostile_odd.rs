//! Odd names and times.
mod common;
use common::*;
use std::time::Duration;

#[test]
fn o2_the_last_assertion_of_a_fast_run() {
    let (_server, address) = start_default();
    let mut watcher = Client::tcp(address).resolved();
    watcher.send(&format!("[{}]", observe(&record_pattern("v", 1), 7, 2)));
    watcher.sync();
    for (packets, expect) in [
        ("[[1 <A <v 1> 5>]] [[0 <R 1>]] [[1 <R 5>]] [[1 <A <v 2> 6>]] [[1 <M <v 3>>]]", "A[1] R"),
        (
            "[[1 <A <v 1> 5>]] [[0 <R 1>]] [[1 <A <v 2> 6>]] [[1 <R 5>]] [[1 <R 6>]] [[1 <A <v 4> 7>]] [[1 <M <v 3>>]]",
            "A[1] A[2] R R",
        ),
        (
            "[[1 <A <v 1> 5>]] [[0 <R 1>]] [[1 <M <v 9>>]] [[1 <R 5>]] [[1 <M <v 3>>]] [[1 <S #:[0 5]>]]",
            "A[1] M[9] R",
        ),
        (
            "[[1 <A <v 1> 5>]] [[0 <R 1>]] [[1 <R 5>] [1 <A <v 2> 6>]] [[1 <R 6>]] [[1 <M <v 3>>]]",
            "A[1] R A[2] R",
        ),
    ] {
        let mut client = Client::tcp(address).resolved();
        client.send(packets);
        client.finish();
        client.rest();
        let events = watcher.sync();
        let got: Vec<String> = events.iter().map(|e| format!("{}{}", e.kind, e.body)).collect();
        println!("{packets}\n   {}", got.join(" "));
        assert_eq!(got.join(" "), expect);
    }
}

#[test]
fn o3_big_and_negative_numbers() {
    let (server, address) = start_default();
    {
        let mut client = Client::tcp(address).resolved();
        let mut other = Client::tcp(address).resolved();
        let big = "9".repeat(60);
        let huge = "8".repeat(2000);
        for (n, oid) in [
            "-1",
            "-9223372036854775808",
            "9223372036854775807",
            "9223372036854775808",
            "18446744073709551615",
            "18446744073709551616",
            &big,
            &format!("-{big}"),
            &huge,
        ]
        .iter()
        .enumerate()
        {
            client.send(&format!("[[1 <A <Observe {} #:[0 {oid}]> {oid}>]]", record_pattern("num", 1)));
            client.send("[[1 <S #:[0 60]>]]");
            // Big targets, unknown.
            client.send(&format!(
                "[[{oid} <M x>] [{oid} <A x 77>] [{oid} <R 77>] [{oid} <S #:[0 5]>] [1 <R {oid}0>]]"
            ));
            client.send(&format!("[[1 <A <r #:[1 {oid}]> {}>] [1 <R {}>]]", 9000 + n, 9000 + n));
            other.send(&format!("[[1 <M <num {n}>>]]"));
            other.sync();
        }
    }
    until("gone", || server.connections() == 0);
    until("nothing owed", || server.total_debt() == 0);
    assert_eq!(server.index_counts(), (0, 0, 0));
    balanced(&server);
}

#[test]
fn o4_references_in_odd_places() {
    let (server, address) = start_default();
    {
        let mut watcher = Client::tcp(address).resolved();
        watcher.send(&format!("[{}]", observe("<bind <group <rec odd> {}>>", 7, 2)));
        watcher.sync();
        for packet in [
            "[[1 <A <odd {#:[0 5]: 1, #:[0 6]: 2, #:[1 1]: 3}> 5>]]",
            "[[1 <A <odd #{#:[0 5] #:[0 6] #:[1 1] #:[1 77] #:[1 78]}> 5>]]",
            "[[1 <A <odd #{#:[1 1 <reject <_>>] #:[1 1 <reject <_>>  7]}> 5>]]",
            "[[1 <A <odd {#:[1 1 <reject <lit 1>>]: #:[1 1 <reject <lit 1>>]}> 5>]]",
            "[[1 <A <odd #:[1 1 <rewrite <bind <_>> <attenuate <ref 0> [<reject <lit #:[0 9]>>]>>]> 5>]]",
            "[[1 <A <odd #:[1 1 <reject <lit #:[0 9]>>]> 5>]]",
            "[[1 <A <odd <#:[0 5] 1>> 5>]]",
            "[[1 <A <odd #:[0 5] #:[0 5] #:[0 5]> 5>]] [[1 <M <odd #:[0 5]>>]]",
            "[[0 <A <resolve <ref {oid: #:[0 5] sig: #[acowDB2/oI+6aSEC3YIxGg==]}> #:[0 0]> 7>]]",
            "[[0 <A <resolve <ref {oid: \"syndicate\" sig: #[acowDB2/oI+6aSEC3YIxGg==] caveats: [<reject <lit #:[0 5]>>]}> #:[0 0]> 7>]]",
            "[[1 <A <odd #:7> 5>]]",
            "[[1 <A <odd #:[]> 5>]]",
            "[[1 <A <odd #:[2 5]> 5>]]",
            "[[1 <A <odd #:[0]> 5>]]",
            "[[1 <A <odd #:[0 5 5 5]> 5>]]",
            "[[1 <A <odd #:#:[0 5]> 5>]]",
            "[[1 <M <odd #:[0 5]>>]]",
            "[[1 <M <odd #:[1 5]>>]]",
            "[[1 <S 5>]]",
            "[[1 <S #:[1 99]>]]",
            "[[1 <S #:[1 1]>]]",
            "[[1 <A <Observe <lit #:[1 1]> #:[1 99]> 5>] [1 <M <odd #:[1 1]>>]]",
            "[[1 <A <Observe <bind <_>> #:[1 0]> 5>] [1 <M <odd 1>>]]",
            "[[#:[0 5] <M x>]]",
            "[[1 <A x #:[0 5]>]]",
        ] {
            let mut client = Client::tcp(address).resolved();
            client.send(packet);
            client.send_anyway(&bytes("[[1 <S #:[0 60]>]]"));
            let came = client.next_within(Duration::from_secs(5));
            println!("{packet}\n    {came:?}\n    {:?}", watcher.sync());
        }
    }
    until("gone", || server.connections() == 0);
    until("nothing owed", || server.total_debt() == 0);
    assert_eq!(server.index_counts(), (0, 0, 0));
    balanced(&server);
}

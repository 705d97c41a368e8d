//! Sturdyrefs against codes recorded from a running gatekeeper.

mod common;

use common::{parse_text, scanned, strings, unhex, vectors};
use staunch_protocols::sturdy::{CaveatFault, SturdyError, SturdyRef, check_caveat};

fn read(parameters: &[u8]) -> Result<SturdyRef, SturdyError> {
    SturdyRef::read_parameters(scanned(parameters).view(parameters))
}

#[test]
fn recorded_references_are_minted_written_read_and_verified() {
    for v in vectors("sturdy-macs.json") {
        let key = unhex(v["key_hex"].as_str().unwrap());
        let oid = unhex(v["oid_encoded_hex"].as_str().unwrap());
        assert_eq!(oid, parse_text(v["oid"].as_str().unwrap()), "{v}");
        let caveats: Vec<Vec<u8>> = strings(&v["caveats_encoded_hex"]).into_iter().map(unhex).collect();
        let chain: Vec<Vec<u8>> = strings(&v["sig_chain_hex"]).into_iter().map(unhex).collect();

        let mut sturdy = SturdyRef::mint(&oid, &key);
        assert_eq!(sturdy.sig, chain[0], "{v}");
        for (caveat, sig) in caveats.iter().zip(&chain[1..]) {
            sturdy = sturdy.attenuate(caveat);
            assert_eq!(&sturdy.sig, sig, "{v}");
        }
        assert_eq!(sturdy.caveats, caveats);

        let mut written = Vec::new();
        sturdy.write(&mut written);
        assert_eq!(written, unhex(v["ref_binary_hex"].as_str().unwrap()), "{v}");
        assert_eq!(written, parse_text(v["ref_text"].as_str().unwrap()), "{v}");
        let scanner = scanned(&written);
        assert!(scanner.is_canonical());
        let back = SturdyRef::read_parameters(scanner.view(&written).index(0).unwrap()).unwrap();
        assert_eq!(back, sturdy);
        assert!(back.verify(&key), "{v}");
        assert!(!back.verify(b"another key"), "{v}");
        assert!(back.compile().is_ok(), "{v}");

        for bit in 0..back.sig.len() * 8 {
            let mut forged = back.clone();
            forged.sig[bit / 8] ^= 1 << (bit % 8);
            assert!(!forged.verify(&key), "{v}");
        }
        for sig in [&back.sig[..15], &[&back.sig[..], &[0]].concat(), &[]] {
            assert!(!SturdyRef { sig: sig.to_vec(), ..back.clone() }.verify(&key), "{v}");
        }
        if !caveats.is_empty() {
            let fewer = caveats[..caveats.len() - 1].to_vec();
            assert!(!SturdyRef { caveats: fewer, ..back.clone() }.verify(&key), "{v}");
        }
    }
}

#[test]
fn a_gatekeeper_tells_what_is_no_reference_from_what_cannot_be_valid() {
    let check = |text: &str, expected: Result<usize, SturdyError>| {
        let got = read(&parse_text(text)).map(|sturdy| sturdy.caveats.len());
        assert_eq!(got, expected, "{text}");
    };
    let with_caveats =
        |caveats: &str| format!(r##"{{oid: "x" sig: #"0123456789abcdef" caveats: {caveats}}}"##);
    for text in
        ["x", "[]", "{}", "<ref>", r#"{oid: "x"}"#, "{sig: #\"\"}", r#"{oid: "x" sig: "0123456789abcdef"}"#]
    {
        check(text, Err(SturdyError::Invalid));
    }
    check(r##"{"oid": "x" "sig": #""}"##, Err(SturdyError::Invalid));
    check(r##"{oid: "x" sig: #""}"##, Ok(0));
    check(r##"{oid: "x" sig: #"0123456789abcdef" colour: red}"##, Ok(0));
    check(&with_caveats("[]"), Ok(0));
    check(&with_caveats("[<zork> foo 1 <zork 1 2 <reject <_> 3>>]"), Ok(4));
    check(&with_caveats("[<rewrite <zork> <lit 1> extra>]"), Ok(1));
    check(&with_caveats("[<rewrite <bind <_> extra> <zork>>]"), Ok(1));
    check(&with_caveats("[<rewrite <bind <_>> <attenuate <ref 0> [<zork a> <reject zork b>]>>]"), Ok(1));
    for refused in [
        "x",
        "{}",
        "#{<reject <_>>}",
        "<reject <_>>",
        "[<reject <_> extra>]",
        "[<reject <_ extra>>]",
        "[<rewrite <_> <lit 1> extra>]",
        "[<rewrite <bind <_> extra> <lit 1>>]",
        "[<rewrite <rec a [<and [Symbol] extra>]> <lit 1>>]",
        "[<rewrite <_> <lit 1 extra>>]",
        "[<or [] extra>]",
        "[<or [<rewrite <_> <lit 1>> <rewrite <dict {a: <not String extra>}> <lit 1>>]>]",
        "[<rewrite <bind <_>> <attenuate <ref 0> [<reject <_> extra>]>>]",
        "[<rewrite <bind <_>> <attenuate <ref 0> [] extra>>]",
        "[<rewrite <_> <ref 0>>]",
        "[<zork #:1>]",
        "[<reject <lit #:1>>]",
    ] {
        check(&with_caveats(refused), Err(SturdyError::FailedValidation));
    }
    check(r##"{oid: [#:1] sig: #""}"##, Err(SturdyError::FailedValidation));
}

#[test]
fn an_empty_list_of_caveats_equals_none() {
    let sturdy = SturdyRef::mint(&parse_text("a-service"), b"hello");
    let mut text = String::from("{oid: a-service caveats: [] sig: #x\"");
    sturdy.sig.iter().for_each(|b| text.push_str(&format!("{b:02x}")));
    let back = read(&parse_text(&(text + "\"}"))).unwrap();
    assert!(back.verify(b"hello"));
    assert_eq!(back, sturdy);
}

#[test]
fn caveats_are_checked_before_they_are_signed() {
    let check = |text: &str| {
        let caveat = parse_text(text);
        check_caveat(scanned(&caveat).view(&caveat))
    };
    assert_eq!(check("<reject <_>>"), Ok(true));
    assert_eq!(check("<or [<rewrite <bind <_>> <ref 0>>]>"), Ok(true));
    for unknown in ["<zork>", "7", "<rewrite <_>>", "<or [<reject <_>>]>"] {
        assert_eq!(check(unknown), Ok(false), "{unknown}");
    }
    assert_eq!(check("<reject <_> 1>"), Err(CaveatFault::Surplus));
    assert_eq!(check("<zork #:1>"), Err(CaveatFault::Capability));
    assert!(matches!(check("<rewrite <_> <ref 0>>"), Err(CaveatFault::Invalid(_))));
}

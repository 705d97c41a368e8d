//! Generated types against a plain interpreter of their schemas.

mod common;

use common::interpret::{Schemas, spoil};
use common::scanned;
use common::tree::{Noise, Tree};
use proptest::prelude::*;
use staunch_protocols::schema::{
    Codec, DEFINITIONS, Definition, MismatchKind, ReadError, dataspace_patterns, sturdy,
};
use staunch_protocols::wire::Limits;

/// Schemas with whatever the language has.
mod made {
    include!(concat!(env!("OUT_DIR"), "/test_schema.rs"));
}

/// All that is tested: schemas, and what was made of them.
fn all() -> [(Schemas, &'static [Definition]); 2] {
    [(Schemas::ours(), DEFINITIONS), (Schemas::of("tests/schemas"), made::DEFINITIONS)]
}

fn rewrite(definition: &Definition, bytes: &[u8]) -> Option<Vec<u8>> {
    definition.rewrite(scanned(bytes).view(bytes)).ok()
}

/// What is read from a value is what the interpreter understands of it; once written, it is read as the same.
fn check(schemas: &Schemas, definition: &Definition, tree: &Tree) -> bool {
    let bytes = tree.canonical();
    let written = rewrite(definition, &bytes);
    let expected = schemas.understand(definition.name, tree);
    assert_eq!(written, expected.map(|tree| tree.canonical()), "{} of {tree:?}", definition.name);
    let Some(written) = written else { return false };
    assert!(scanned(&written).is_canonical(), "{} of {tree:?}", definition.name);
    let describe = |bytes: &[u8]| definition.describe(scanned(bytes).view(bytes)).unwrap();
    assert_eq!(describe(&written), describe(&bytes), "{}", definition.name);
    assert_eq!(rewrite(definition, &written).as_ref(), Some(&written), "{}", definition.name);
    true
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn values_of_each_type_survive_being_read_and_written(noise in Noise::any(300)) {
        for (schemas, definitions) in all() {
            for definition in definitions {
                let tree = schemas.generate(definition.name, &mut noise.clone());
                prop_assert!(check(&schemas, definition, &tree), "{} of {:?}", definition.name, tree);
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused(noise in Noise::any(300)) {
        for (schemas, definitions) in all() {
            for definition in definitions {
                let mut noise = noise.clone();
                let mut tree = schemas.generate(definition.name, &mut noise);
                for _ in 0..4 {
                    tree = spoil(&tree, &mut noise);
                    check(&schemas, definition, &tree);
                }
            }
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        let _ = sturdy::Caveat::from_bytes(&bytes, &Limits::default());
        let _ = dataspace_patterns::Pattern::<sturdy::WireRef>::from_bytes(&bytes, &Limits::default());
    }
}

#[test]
fn every_definition_is_in_the_catalogue_once() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/schemas");
    let modules = staunch_schemac::Compiler::new().directory(folder).check().unwrap();
    let of = |module: &staunch_schemac::schema::Module| -> Vec<String> {
        module.definitions.iter().map(|definition| format!("{}.{}", module.name, definition.name)).collect()
    };
    let expected: Vec<String> = modules.iter().flat_map(of).collect();
    assert_eq!(DEFINITIONS.iter().map(|d| d.name).collect::<Vec<_>>(), expected);
    assert!(expected.len() > 100);
    assert_eq!(sturdy::SOURCE, std::fs::read_to_string(format!("{folder}/sturdy.prs")).unwrap());
}

/// `<bind <bind ... <_>>>`.
fn nested(levels: usize) -> Vec<u8> {
    let open = b"\xb4\xb3\x04bind".repeat(levels);
    [&open[..], b"\xb4\xb3\x01_\x84", &b"\x84".repeat(levels)[..]].concat()
}

#[test]
fn what_the_scanner_lets_through_by_default_is_read() {
    let limits = Limits::default();
    let deepest = nested(usize::from(limits.depth_max) - 1);
    let read = dataspace_patterns::Pattern::<sturdy::WireRef>::from_bytes(&deepest, &limits).unwrap();
    assert_eq!(read.clone().to_bytes(), deepest);
    let too_deep = dataspace_patterns::Pattern::<sturdy::WireRef>::from_bytes(&nested(256), &limits);
    assert!(matches!(too_deep, Err(ReadError::Scan(_))), "{too_deep:?}");
}

#[test]
fn depth_is_bounded_whatever_the_scanner_lets_through() {
    let limits = Limits { depth_max: u16::MAX, ..Limits::default() };
    let error =
        dataspace_patterns::Pattern::<sturdy::WireRef>::from_bytes(&nested(60_000), &limits).unwrap_err();
    assert!(matches!(error, ReadError::Mismatch(m) if m.kind == MismatchKind::TooDeep), "{error}");
    let error = sturdy::Reject::from_bytes(
        &[b"\xb4\xb3\x06reject", &b"\xb4\xb3\x03not".repeat(60_000)[..], &b"\x84".repeat(60_000)[..]]
            .concat(),
        &limits,
    );
    assert!(error.is_err());
}

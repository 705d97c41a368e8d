//! Patterns, which are compiled from bytes directly, against the schema of the dataspace.

mod common;

use common::interpret::{Schemas, spoil};
use common::tree::Noise;
use proptest::prelude::*;
use staunch_index::pattern::Pattern;
use staunch_protocols::schema::{Codec, Value, dataspace, dataspace_patterns};
use staunch_protocols::wire::{Limits, Progress, Scanner};

proptest! {
    #[test]
    fn what_is_a_pattern_and_an_observation_is_what_the_schema_says(noise in Noise::any(300)) {
        let schemas = Schemas::ours();
        let mut noise = noise;
        let mut tree = schemas.generate("dataspace.Observe", &mut noise);
        for _ in 0..4 {
            let bytes = tree.canonical();
            let mut scanner = Scanner::new(Limits::default());
            prop_assert_eq!(scanner.scan(&bytes), Ok(Progress::Complete(bytes.len())));
            let value = scanner.view(&bytes);
            let by_schema = dataspace::Observe::<Value>::read(value).is_ok();
            prop_assert_eq!(Pattern::of_observe(value).is_some(), by_schema, "{:?}", tree);
            if let Some(pattern) = value.index(0) {
                let by_schema = dataspace_patterns::Pattern::<Value>::read(pattern).is_ok();
                prop_assert_eq!(Pattern::compile(pattern).is_some(), by_schema, "{:?}", tree);
            }
            tree = spoil(&tree, &mut noise);
        }
    }
}

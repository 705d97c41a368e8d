//! The index against its naive twin, over random histories.

mod common;

use common::driver::{Driver, captures_by_index, captures_by_twin};
use common::tree::Noise;
use common::{generate, twin};
use proptest::prelude::*;

/// From how many lists on bags are divided: from the start, in the middle of a history, or never.
fn stripes() -> impl Strategy<Value = usize> {
    prop_oneof![Just(0), 1usize..8, Just(usize::MAX)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_pattern_captures_what_the_specification_says(mut noise in Noise::any(200)) {
        let value = generate::value(&mut noise, 3);
        let pattern = generate::pattern_for(&mut noise, &value);
        for value in [value, generate::value(&mut noise, 3), generate::value(&mut noise, 2)] {
            let expected = twin::parse(&pattern).map(|p| captures_by_twin(&p, &value));
            prop_assert_eq!(captures_by_index(&pattern, &value.canonical()), expected, "{:?} {:?}", pattern, value);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn histories_agree_with_the_twin(mut noise in Noise::any(1200), steps in 1usize..60, striped_from in stripes()) {
        let mut driver = Driver::new(512, striped_from);
        (0..steps).for_each(|_| driver.step(&mut noise));
        driver.finish();
    }

    #[test]
    fn histories_with_replays_agree_with_the_twin(mut noise in Noise::any(1200), steps in 1usize..60, striped_from in stripes()) {
        let mut driver = Driver::new(2, striped_from);
        (0..steps).for_each(|_| driver.step(&mut noise));
        driver.finish();
    }
}

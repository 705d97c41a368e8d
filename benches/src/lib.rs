//! Criterion benches, side-by-side runs and their results.
pub mod routing;

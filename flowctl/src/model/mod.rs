//! The models: run by `ci/loom.sh`, see there.

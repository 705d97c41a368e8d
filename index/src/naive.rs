//! The obvious version.

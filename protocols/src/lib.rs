//! Bytes to Syndicate packets and back: the bounded scanner, the packet reader and writer, sturdyrefs and
//! caveats. Knows bytes, not actors.
//!
//! # Layout
//! - [`wire`]: the Preserves machine syntax. [`wire::Scanner`] checks bytes in one forward pass and leaves a
//!   [`wire::Tape`] behind; everything else reads values as [`wire::View`]s over bytes and tape, without
//!   copying or decoding into trees.
//! - [`packet`]: Turns, events, errors and wire references.
//! - [`caveat`]: what attenuated capabilities do to values, compiled once and run without trees.
//! - [`sturdy`]: capabilities as signed data.
//! - [`schema`]: records as types, generated from `schemas/*.prs`; for the cold paths.
//! - [`text`]: the Preserves text syntax, for people.
//!
//! **Invariant:** a [`wire::View`] only ever looks at bytes that a scanner has accepted. The parts of this
//! crate that read views rely on it and index without further checks.
#![forbid(unsafe_code)]

pub mod caveat;
pub mod packet;
pub mod schema;
pub mod sturdy;
pub mod text;
pub mod wire;

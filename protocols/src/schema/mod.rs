//! The records of the Syndicate protocol as Rust types, generated from the schemas in `protocols/schemas`; and
//! what generated types, those of other crates included, are made of.
//!
//! For the cold paths: what is read a few times per session, not per message. Each type owns what it holds. (The
//! hot paths read packets in place: [`crate::packet`]. Tests hold those against the schemas.)
//!
//! ```
//! use staunch_protocols::schema::{Codec, Symbol, Value, gatekeeper};
//!
//! let step = gatekeeper::Step { step_type: Symbol("ref".into()), detail: Value::of(&true) };
//! let bytes = step.to_bytes();
//! assert_eq!(gatekeeper::Step::from_bytes(&bytes, &Default::default()), Ok(step));
//! ```
//!
//! # Values and capabilities
//! A part of which the schema says nothing is a [`Value`]: canonical bytes, so that equality is equality of bytes,
//! and no tree of it is ever built. A capability is an [`Embedded`] of whatever type the program has for them: a
//! [`Value`] unless told otherwise, or [`sturdy::WireRef`] to read packets as they come from a peer.
//!
//! # Hostile bytes
//! Bytes are scanned, within limits, before anything is read; what is read is bounded by them. Types that hold
//! themselves are followed [`DEPTH_MAX`] definitions deep and refused beyond. Alternatives are tried in order, each
//! once per value, so a type whose alternatives begin alike and hold the type itself would cost time exponential in
//! the depth; in our schemas a label or a kind tells them apart at once.

mod atoms;
mod codec;
mod collections;
mod value;

pub use codec::{
    Codec, DEPTH_MAX, Definition, Entries, Input, Items, Mismatch, MismatchKind, ReadError, Reader,
};
pub use collections::Joined;
pub use value::{Double, Embedded, Symbol, Value};

pub use crate::wire::Int;

include!(concat!(env!("OUT_DIR"), "/schema.rs"));

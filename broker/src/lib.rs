//! A message broker for Linux that speaks the Syndicate protocol.

pub mod schedule;

//! Load generator and checker for message brokers.
//!
//! # Layout
//!
//! - [`cli`]: the command line; [`settings`]: what all scenarios share; [`scenario`]: one module for each kind.
//! - [`client`]: a session while it is set up, blocking. [`drive`]: sessions under load, one thread and one epoll
//!   set, never blocking. [`flow`]: producers and consumers joined into a measured run.
//! - [`source`]: what producers write, templates encoded once and stamped in place; [`pace`]: fixed rates;
//!   [`payload`]: the stamp.
//! - [`sink`]: what consumers do with it; [`check`]: loss, duplication, reordering; [`record`]: latencies.
//! - [`assertions`]: assertions in bulk, churned, and followed by an observer.
//! - [`wire`]: the bytes of Syndicate.
//! - [`usage`]: processor and memory of a process; [`report`]: medians, table, JSON; [`screen`]: the progress line;
//!   [`compare`]: several brokers side by side.
//!
//! Scenario files, beside these fixed scenarios:
//!
//! - [`script`]: the files; [`cast`]: who sends and follows what; [`command`]: the commands.
//! - [`driver`]: brokers of all kinds behind one trait, started and spoken to.
//! - [`crew`]: the processes that carry the load; [`play`]: the one that directs and watches them.
//! - [`figures`]: what a play comes to in numbers; [`verdict`]: what is said of these; [`outcome`]: all of it, kept.
//! - [`page`]: the report; [`prove`]: the proof.
//!
//! The load must cost less than what it measures. Hence no value is built for a message: producers overwrite
//! sixteen bytes in a ready packet, consumers compare what surrounds a payload with what surrounded the last one.

pub mod assertions;
pub mod cast;
pub mod check;
pub mod cli;
pub mod client;
pub mod command;
pub mod compare;
pub mod crew;
pub mod drive;
pub mod driver;
pub mod figures;
pub mod flow;
pub mod outcome;
pub mod pace;
pub mod page;
pub mod payload;
pub mod play;
pub mod prove;
pub mod record;
pub mod report;
pub mod scenario;
pub mod screen;
pub mod script;
pub mod settings;
pub mod sink;
pub mod source;
pub mod usage;
pub mod verdict;
pub mod wire;

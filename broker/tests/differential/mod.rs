//! Random histories, played to two brokers.
#![allow(unreachable_pub)]

pub mod compare;
pub mod history;
pub mod play;
pub mod values;

use super::common;

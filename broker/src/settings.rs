//! What new connections get, as of now: it can be changed while the broker runs.

use std::time::Duration;

use staunch_protocols::wire;
use staunch_system::net::Buffers;

use crate::admission::Rule;
use crate::limits::Limits;
use crate::relay::SessionConfig;
use crate::server::Config;
use crate::slow::Slow;

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) debt_max: u64,
    pub(crate) orphaned_max: u64,
    pub(crate) outbox_max: usize,
    pub(crate) buffers: Buffers,
    /// See [`Config::slow`].
    pub(crate) slow: Slow,
    /// See [`Config::silence_max`].
    pub(crate) silence_max: Option<Duration>,
    /// For Unix sockets.
    pub(crate) rules: Vec<Rule>,
}

impl Settings {
    pub(crate) fn of(config: &Config) -> Settings {
        Settings {
            debt_max: config.debt_max,
            orphaned_max: config.orphaned_max,
            outbox_max: config.outbox_max,
            buffers: Buffers {
                send_bytes: Some(config.send_buffer),
                receive_bytes: Some(config.receive_buffer),
            },
            slow: config.slow,
            silence_max: config.silence_max,
            rules: config.rules.clone(),
        }
    }

    /// What a connection gets for which nothing else is said.
    pub(crate) fn session(&self, limits: &Limits) -> SessionConfig {
        SessionConfig {
            debt_max: self.debt_max,
            outbox_max: self.outbox_max,
            slow: Slow::Throttle,
            credit: None,
            packet: wire::Limits {
                packet_bytes_max: limits.packet_bytes,
                depth_max: limits.packet_depth,
                ..wire::Limits::default()
            },
        }
    }
}

//! What the broker takes meanwhile: memory, processor, and what the kernel holds for its sockets.

use std::fs;

use serde::{Deserialize, Serialize};

use crate::client::Address;
use crate::usage::Usage;

/// One look at a broker's process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// Nanoseconds from the start.
    pub at_ns: u64,
    /// Resident memory in KiB.
    pub rss_kib: u64,
    /// Bytes that wait in the kernel's queues of its sockets, both ways.
    pub queued_bytes: u64,
    /// Time on processors since it was started, in nanoseconds.
    pub cpu_ns: u64,
}

impl Reading {
    /// Resident memory and the kernel's queues, in MiB.
    pub fn memory_mib(&self) -> f64 {
        self.rss_kib as f64 / 1024.0 + self.queued_bytes as f64 / 1048576.0
    }
}

/// Looks at one broker.
#[derive(Clone, Debug)]
pub struct Gauge {
    pid: Option<u32>,
    port: Option<u16>,
}

impl Gauge {
    /// For a process that listens at an address. Without a process there is nothing to read.
    pub fn new(pid: Option<u32>, address: &Address) -> Gauge {
        let port = match address {
            Address::Tcp(addr) => Some(addr.port()),
            Address::Unix(_) => None,
        };
        Gauge { pid, port }
    }

    /// Looks. `None` if the process is not known or has ended.
    pub fn read(&self, at_ns: u64) -> Option<Reading> {
        let usage = Usage::of(self.pid?).ok()?;
        let queued_bytes = self.port.map_or(0, queued);
        Some(Reading { at_ns, rss_kib: usage.rss_kib, queued_bytes, cpu_ns: usage.cpu_ns })
    }
}

/// Bytes in the queues of all TCP sockets whose own port this is.
fn queued(port: u16) -> u64 {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    tables.iter().filter_map(|table| fs::read_to_string(table).ok()).map(|text| sum_queues(&text, port)).sum()
}

fn sum_queues(table: &str, port: u16) -> u64 {
    let own = format!(":{port:04X}");
    let queues = |line: &str| -> Option<u64> {
        let mut fields = line.split_ascii_whitespace().skip(1);
        fields.next()?.ends_with(&own).then_some(())?;
        let (state, queues) = (fields.nth(1)?, fields.next()?);
        // A listener's queue counts connections.
        (state != "0A").then_some(())?;
        let (tx, rx) = queues.split_once(':')?;
        Some(u64::from_str_radix(tx, 16).ok()? + u64::from_str_radix(rx, 16).ok()?)
    };
    table.lines().filter_map(queues).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_of_one_port_are_summed() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n   \
            0: 0100007F:2329 00000000:0000 0A 00000000:00000005 00:00000000 00000000     0\n   \
            1: 0100007F:2329 0100007F:9C40 01 00000010:00000020 00:00000000 00000000     0\n   \
            2: 0100007F:9C40 0100007F:2329 01 00001000:00000000 00:00000000 00000000     0\n";
        assert_eq!(sum_queues(table, 9001), 0x30);
        assert_eq!(sum_queues(table, 9002), 0);
    }
}

//! What workers keep for flushes: memory for reuse, and counts.

use std::collections::VecDeque;

use super::Segment;

/// Memory that flushes reuse: buffers that have been written out, and a list.
#[derive(Default)]
pub(crate) struct Pool {
    buffers: Vec<Vec<u8>>,
    pub(super) taken: VecDeque<Segment>,
}

impl Pool {
    const BUFFERS_MAX: usize = 64;
    const BUFFER_BYTES_MAX: usize = 256 << 10;

    pub(crate) fn take(&mut self) -> Vec<u8> {
        self.buffers.pop().unwrap_or_default()
    }

    pub(crate) fn put(&mut self, mut buffer: Vec<u8>) {
        if buffer.capacity() > 0
            && buffer.capacity() <= Pool::BUFFER_BYTES_MAX
            && self.buffers.len() < Pool::BUFFERS_MAX
        {
            buffer.clear();
            self.buffers.push(buffer);
        }
    }
}

/// Counts of system calls, kept by each worker.
#[derive(Default, Debug, Clone, Copy)]
pub(crate) struct WriteCounts {
    pub(crate) writes: u64,
    pub(crate) bytes: u64,
}

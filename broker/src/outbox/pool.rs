//! What workers keep for flushes: memory for reuse, and counts.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Segment;

/// Memory that flushes reuse: buffers that have been written out, and a list.
#[derive(Default)]
pub(crate) struct Pool {
    buffers: Vec<Vec<u8>>,
    /// Empty, and held by nobody else.
    shells: Vec<Arc<Vec<u8>>>,
    pub(super) taken: VecDeque<Segment>,
}

impl Pool {
    const BUFFERS_MAX: usize = 64;
    const BUFFER_BYTES_MAX: usize = 256 << 10;
    const SHELLS_MAX: usize = 64;

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

    /// A buffer that several are to hold.
    pub(crate) fn share(&mut self, buffer: Vec<u8>) -> Arc<Vec<u8>> {
        if let Some(mut shell) = self.shells.pop()
            && let Some(place) = Arc::get_mut(&mut shell)
        {
            *place = buffer;
            return shell;
        }
        Arc::new(buffer)
    }

    /// Takes back what [`Pool::share`] gave, from the last who holds it. (If the last two come at once, it is dropped.)
    pub(crate) fn unshare(&mut self, mut shared: Arc<Vec<u8>>) {
        let Some(buffer) = Arc::get_mut(&mut shared).map(std::mem::take) else { return };
        self.put(buffer);
        if self.shells.len() < Pool::SHELLS_MAX {
            self.shells.push(shared);
        }
    }
}

/// Counts of system calls, and of what they carried, kept by each worker.
#[derive(Default, Debug, Clone, Copy)]
pub(crate) struct CallCounts {
    pub(crate) reads: u64,
    pub(crate) read_bytes: u64,
    /// Turns of sessions.
    pub(crate) turns: u64,
    pub(crate) writes: u64,
    pub(crate) bytes: u64,
}

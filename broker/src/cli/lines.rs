//! Standard input, line by line, without waiting for more than is there.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd};

/// How long a line may be.
pub(super) const LINE_BYTES_MAX: usize = 16 << 20;
/// How much is read at once at most.
const CHUNK_BYTES: usize = 256 << 10;

/// Lines as they come.
pub(super) struct Lines {
    file: File,
    /// What has been read and not been taken: from `taken` to `filled`; there is no line break before `searched`.
    bytes: Vec<u8>,
    taken: usize,
    searched: usize,
    filled: usize,
    has_ended: bool,
}

impl Lines {
    /// Reads standard input, which nobody else must do at the same time.
    ///
    /// # Errors
    /// When it is closed, or out of descriptors.
    pub(super) fn stdin() -> io::Result<Lines> {
        let file = File::from(io::stdin().as_fd().try_clone_to_owned()?);
        Ok(Lines { file, bytes: Vec::new(), taken: 0, searched: 0, filled: 0, has_ended: false })
    }

    /// Whether nothing more will come.
    pub(super) fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Reads once; waits if nothing is there.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn fill(&mut self) -> io::Result<()> {
        self.bytes.copy_within(self.taken..self.filled, 0);
        self.filled -= self.taken;
        self.searched -= self.taken;
        self.taken = 0;
        self.bytes.resize(self.filled + CHUNK_BYTES, 0);
        match self.file.read(&mut self.bytes[self.filled..]) {
            Ok(0) => self.has_ended = true,
            Ok(read) => self.filled += read,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// The next line that is complete, without its line break; the last one may lack it.
    ///
    /// # Errors
    /// When a line is longer than [`LINE_BYTES_MAX`].
    pub(super) fn next(&mut self) -> Result<Option<&[u8]>, String> {
        let unsearched = &self.bytes[self.searched..self.filled];
        let start = self.taken;
        let end = match unsearched.iter().position(|b| *b == b'\n') {
            Some(at) => {
                self.taken = self.searched + at + 1;
                self.searched = self.taken;
                self.taken - 1
            }
            None if self.has_ended && start < self.filled => {
                self.taken = self.filled;
                self.searched = self.filled;
                self.filled
            }
            None => {
                self.searched = self.filled;
                return match self.filled - start > LINE_BYTES_MAX {
                    true => Err(format!("longer than {} MiB", LINE_BYTES_MAX >> 20)),
                    false => Ok(None),
                };
            }
        };
        let line = &self.bytes[start..end];
        Ok(Some(line.strip_suffix(b"\r").unwrap_or(line)))
    }
}

impl AsFd for Lines {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

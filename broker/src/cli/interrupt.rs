//! SIGINT and SIGTERM as something to wait for, beside sockets.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

/// For how long a program may go on after a signal: it may be writing to somebody who does not read.
const GRACE: Duration = Duration::from_secs(1);

/// Readable once a signal has come.
pub(super) struct Interrupt(UnixStream);

impl Interrupt {
    /// From now on SIGINT and SIGTERM do not end the process at once, but a second later.
    ///
    /// # Errors
    /// When out of descriptors or threads.
    pub(super) fn catch() -> io::Result<Interrupt> {
        let (ours, mut theirs) = UnixStream::pair()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (mut terminate, mut interrupt) = {
            let _within = runtime.enter();
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
        };
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                let _ = theirs.write_all(&[0]);
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                    () = tokio::time::sleep(GRACE) => {}
                }
                // As a shell reports a program that SIGINT has ended.
                std::process::exit(130);
            });
        })?;
        Ok(Interrupt(ours))
    }
}

impl AsFd for Interrupt {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

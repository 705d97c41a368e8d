//! Waiting for a few descriptors at once, of whatever kind (`poll(2)`): for programs that do one thing at a time.
//!
//! Unlike an epoll set it takes regular files too, which are always ready.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// What about a descriptor one waits for. Its end and its errors are told always.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Something to read.
    Read,
    /// Something to read, or room to write.
    ReadWrite,
    /// Only that the other end has gone.
    End,
}

/// How a descriptor was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// There is something to read, or the end of it.
    pub readable: bool,
    /// There is room to write.
    pub writable: bool,
    /// Nobody is at the other end any more, or the descriptor is broken.
    pub hangup: bool,
}

/// Waits until one of the descriptors is as wished, until `patience` is over, or until a signal comes; all three return
/// what was found then, in the order of the descriptors. `None` waits without an end.
///
/// # Errors
/// When out of memory, or given more descriptors than the process may have.
pub fn wait(watched: &[(BorrowedFd<'_>, Wish)], patience: Option<Duration>) -> io::Result<Vec<Found>> {
    let mut polled: Vec<PollFd<'_>> = watched
        .iter()
        .map(|(fd, wish)| {
            let flags = match wish {
                Wish::Read => PollFlags::IN,
                Wish::ReadWrite => PollFlags::IN | PollFlags::OUT,
                Wish::End => PollFlags::empty(),
            };
            PollFd::from_borrowed_fd(*fd, flags)
        })
        .collect();
    // A time too long for the kernel's clock is as good as for ever.
    let patience = patience.and_then(|patience| Timespec::try_from(patience).ok());
    match poll(&mut polled, patience.as_ref()) {
        Ok(_) => {}
        Err(Errno::INTR) => return Ok(vec![Found::default(); watched.len()]),
        Err(error) => return Err(error.into()),
    }
    let broken = PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL;
    let found = polled.iter().map(|fd| Found {
        readable: fd.revents().intersects(PollFlags::IN | broken),
        writable: fd.revents().intersects(PollFlags::OUT | broken),
        hangup: fd.revents().intersects(broken),
    });
    Ok(found.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn files_are_ready_and_streams_when_something_came() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let file = File::open("/proc/self/stat").unwrap();
        let look = |wish, patience| wait(&[(ours.as_fd(), wish)], Some(patience)).unwrap()[0];
        assert_eq!(look(Wish::Read, Duration::from_millis(1)), Found::default());
        assert!(look(Wish::ReadWrite, Duration::MAX).writable);
        let both = wait(&[(ours.as_fd(), Wish::Read), (file.as_fd(), Wish::Read)], None).unwrap();
        assert!(!both[0].readable && both[1].readable);
        theirs.write_all(b"x").unwrap();
        assert!(look(Wish::Read, Duration::MAX).readable);
        assert!(!look(Wish::End, Duration::ZERO).hangup);
        drop(theirs);
        assert!(look(Wish::End, Duration::MAX).hangup);
    }
}

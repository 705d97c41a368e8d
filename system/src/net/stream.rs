//! One connected stream socket.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
    sockopt,
};

use super::{Buffers, new_socket};

/// A connected stream socket, TCP or Unix, that never blocks.
///
/// Shape: one descriptor, closed on drop. Reading and writing take `&self`: two threads may do one each at a time;
/// two that write at once would mix their bytes, and ordering them is the caller's business.
#[derive(Debug)]
pub struct Stream {
    fd: OwnedFd,
    is_tcp: bool,
}

/// The kernel's word on the process that connected (`SO_PEERCRED`), as of the moment it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Process, in our own namespace. It may have ended since, and its number may be another's by now.
    pub pid: i32,
}

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A process of this machine.
    Unix(Credentials),
}

/// Which direction to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// Reading: what still arrives is dropped.
    Read,
    /// Writing: the peer reads to the end of what was written, then sees the end.
    Write,
    /// Both.
    Both,
}

impl Stream {
    /// How many pieces one [`writev`](Self::writev) takes at most (the kernel's `IOV_MAX`).
    pub const PIECES_MAX: usize = 1024;

    /// Takes over a connected stream socket, whatever it was opened by, and makes it non-blocking.
    ///
    /// # Errors
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) when it is not a TCP or Unix stream socket.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Stream> {
        let family = sockopt::socket_domain(&fd)?;
        let is_tcp = match family {
            AddressFamily::INET | AddressFamily::INET6 => true,
            AddressFamily::UNIX => false,
            _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "neither a TCP nor a Unix socket")),
        };
        if sockopt::socket_type(&fd)? != SocketType::STREAM {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a stream socket"));
        }
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Stream { fd, is_tcp })
    }

    /// What `accept` returned for a listener of the family told.
    pub(super) fn accepted(fd: OwnedFd, is_tcp: bool) -> Stream {
        Stream { fd, is_tcp }
    }

    /// Two Unix streams connected to each other.
    ///
    /// # Errors
    /// When out of descriptors or memory.
    pub fn pair() -> io::Result<(Stream, Stream)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (a, b) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        Ok((Stream { fd: a, is_tcp: false }, Stream { fd: b, is_tcp: false }))
    }

    /// Begins to connect over TCP. The stream is writable when that has succeeded or failed; [`take_error`] says
    /// which.
    ///
    /// # Errors
    /// What the kernel can tell at once: no route, no descriptor.
    ///
    /// [`take_error`]: Self::take_error
    pub fn connect_tcp(address: SocketAddr, buffers: Buffers) -> io::Result<Stream> {
        let fd = new_socket(if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 })?;
        buffers.apply(&fd)?;
        sockopt::set_tcp_nodelay(&fd, true)?;
        match rustix::net::connect(&fd, &address) {
            // A connect that a signal interrupts goes on by itself (connect(2)).
            Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => Ok(Stream { fd, is_tcp: true }),
            Err(error) => Err(error.into()),
        }
    }

    /// Connects to a Unix listener.
    ///
    /// # Errors
    /// [`NotFound`](io::ErrorKind::NotFound) when there is no such file,
    /// [`ConnectionRefused`](io::ErrorKind::ConnectionRefused) when nobody listens at it,
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) when the listener's backlog is full (try again later: no event will
    /// tell).
    pub fn connect_unix(path: &Path) -> io::Result<Stream> {
        let fd = new_socket(AddressFamily::UNIX)?;
        let address = SocketAddrUnix::new(path.as_os_str().as_bytes())?;
        retry_on_intr(|| rustix::net::connect(&fd, &address))?;
        Ok(Stream { fd, is_tcp: false })
    }

    /// Reads what is there, up to the length of `buffer`; zero is the end of what the peer wrote.
    ///
    /// # Errors
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) when nothing is there;
    /// [`ConnectionReset`](io::ErrorKind::ConnectionReset) and the like when the connection is lost.
    #[inline]
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match rustix::net::recv(&self.fd, &mut *buffer, RecvFlags::empty()) {
                Ok((read, _)) => return Ok(read),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Whether something has come that has not been read.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn has_unread(&self) -> io::Result<bool> {
        Ok(rustix::io::ioctl_fionread(&self.fd)? > 0)
    }

    /// Writes what there is room for, and returns how many bytes that were.
    ///
    /// # Errors
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) when there is no room;
    /// [`BrokenPipe`](io::ErrorKind::BrokenPipe) when the peer has gone.
    #[inline]
    pub fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(retry_on_intr(|| rustix::net::send(&self.fd, bytes, SendFlags::NOSIGNAL))?)
    }

    /// Writes what there is room for of several pieces, in order, and returns how many bytes that were. Pieces beyond
    /// [`PIECES_MAX`](Self::PIECES_MAX) are left alone.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    #[inline]
    pub fn writev(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let pieces = &pieces[..pieces.len().min(Self::PIECES_MAX)];
        Ok(retry_on_intr(|| {
            rustix::net::sendmsg(&self.fd, pieces, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL)
        })?)
    }

    /// Ends one direction or both, for all descriptors of this connection. One that the peer has ended already is no
    /// error.
    ///
    /// # Errors
    /// None is expected of a connected stream.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        let how = match how {
            Shutdown::Read => rustix::net::Shutdown::Read,
            Shutdown::Write => rustix::net::Shutdown::Write,
            Shutdown::Both => rustix::net::Shutdown::Both,
        };
        match rustix::net::shutdown(&self.fd, how) {
            Ok(()) | Err(Errno::NOTCONN) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether small writes leave at once (`TCP_NODELAY`); nothing to a Unix stream, where they always do.
    ///
    /// # Errors
    /// None is expected.
    pub fn set_nodelay(&self, on: bool) -> io::Result<()> {
        if self.is_tcp {
            sockopt::set_tcp_nodelay(&self.fd, on)?;
        }
        Ok(())
    }

    /// Has the kernel ask a TCP peer that says nothing whether it is still there: after `idle`, and then twice more, 5 s
    /// apart. One that does not answer, or has forgotten the connection, hangs up thereby. Nothing to a Unix stream,
    /// where the kernel knows.
    ///
    /// It asks only while it has nothing to send itself. What it sends to a machine that has vanished it repeats, or
    /// asks it for room, 15 times in about as many minutes (`net.ipv4.tcp_retries2`). A `TCP_USER_TIMEOUT` would
    /// shorten that, and is not set on purpose: since Linux 5.11 (and in maintained older ones) its clock runs from the
    /// first question for room to the first answer that *grants* some (`icsk_probes_tstamp`, in `tcp_probe_timer`).
    /// It would end the connection to a peer that lives, answers each question, and only does not read. What tells the two
    /// apart is [`answers`](Self::answers).
    ///
    /// # Errors
    /// None is expected.
    pub fn set_keepalive(&self, idle: Duration) -> io::Result<()> {
        if self.is_tcp {
            sockopt::set_socket_keepalive(&self.fd, true)?;
            sockopt::set_tcp_keepidle(&self.fd, idle)?;
            sockopt::set_tcp_keepintvl(&self.fd, Duration::from_secs(5))?;
            sockopt::set_tcp_keepcnt(&self.fd, 3)?;
        }
        Ok(())
    }

    /// Bounds what the kernel buffers for this stream.
    ///
    /// # Errors
    /// None is expected.
    pub fn set_buffers(&self, buffers: Buffers) -> io::Result<()> {
        buffers.apply(&self.fd)
    }

    /// What the kernel may buffer for this stream, its bookkeeping included (it counts twice what was set): send,
    /// receive.
    ///
    /// # Errors
    /// None is expected.
    pub fn buffers(&self) -> io::Result<(usize, usize)> {
        Ok((sockopt::socket_send_buffer_size(&self.fd)?, sockopt::socket_recv_buffer_size(&self.fd)?))
    }

    /// The error that the connection ended with, if any, which it forgets by telling it.
    ///
    /// # Errors
    /// The one told.
    pub fn take_error(&self) -> io::Result<()> {
        Ok(sockopt::socket_error(&self.fd)??)
    }

    /// Who is at the other end.
    ///
    /// # Errors
    /// [`NotConnected`](io::ErrorKind::NotConnected) when a TCP peer has gone already.
    pub fn peer(&self) -> io::Result<Peer> {
        if !self.is_tcp {
            let found = sockopt::socket_peercred(&self.fd)?;
            let pid = found.pid.as_raw_nonzero().get();
            return Ok(Peer::Unix(Credentials { uid: found.uid.as_raw(), gid: found.gid.as_raw(), pid }));
        }
        let address = rustix::net::getpeername(&self.fd)?.ok_or(Errno::NOTCONN)?;
        Ok(Peer::Tcp(address.try_into()?))
    }

    /// Our own address.
    ///
    /// # Errors
    /// [`Unsupported`](io::ErrorKind::Unsupported) for a Unix stream.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        if !self.is_tcp {
            return Err(io::ErrorKind::Unsupported.into());
        }
        Ok(rustix::net::getsockname(&self.fd)?.try_into()?)
    }

    /// Whether this is TCP; a Unix stream otherwise.
    pub fn is_tcp(&self) -> bool {
        self.is_tcp
    }

    /// Gives the descriptor up, non-blocking as it is.
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

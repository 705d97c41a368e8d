//! Non-blocking TCP and Unix stream sockets, and who is at the other end.
//!
//! All calls return at once: what cannot be done now is [`WouldBlock`](std::io::ErrorKind::WouldBlock). All retry
//! when a signal interrupts them. No write raises `SIGPIPE`. Descriptors are close-on-exec.

mod listener;
mod stream;

pub use listener::{Listener, ListenerAddress};
pub use stream::{Credentials, Peer, Shutdown, Stream};

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

/// How many bytes the kernel may buffer for a stream, each way; `None` leaves the kernel's own choice, which grows.
///
/// The kernel doubles the figure for its own bookkeeping and caps it at `net.core.{w,r}mem_max`. On a listener, what
/// is accepted inherits it; for TCP it must be set there, before the handshake, if it is to bound the window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Buffers {
    /// `SO_SNDBUF`.
    pub send_bytes: Option<usize>,
    /// `SO_RCVBUF`.
    pub receive_bytes: Option<usize>,
}

impl Buffers {
    /// Applies the figures to a socket.
    ///
    /// # Errors
    /// When it is not a socket.
    pub fn apply(self, socket: impl AsFd) -> io::Result<()> {
        if let Some(bytes) = self.send_bytes {
            sockopt::set_socket_send_buffer_size(&socket, bytes)?;
        }
        if let Some(bytes) = self.receive_bytes {
            sockopt::set_socket_recv_buffer_size(&socket, bytes)?;
        }
        Ok(())
    }
}

fn new_socket(family: AddressFamily) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(family, SocketType::STREAM, flags, None)?)
}

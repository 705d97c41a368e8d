//! Non-blocking TCP and Unix stream sockets, and who is at the other end.
//!
//! All calls return at once: what cannot be done now is [`WouldBlock`](std::io::ErrorKind::WouldBlock). All retry
//! when a signal interrupts them. No write raises `SIGPIPE`. Descriptors are close-on-exec.

mod answers;
mod listener;
mod stream;

pub use answers::Answers;
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::IoSlice;
    use std::net::SocketAddr;
    use std::path::Path;
    use std::thread;

    fn until<T>(mut ready: impl FnMut() -> io::Result<Option<T>>) -> T {
        loop {
            match ready() {
                Ok(Some(found)) => return found,
                Ok(None) => thread::yield_now(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn loopback(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn tcp() -> (Listener, SocketAddr) {
        let listener = Listener::tcp(loopback(0), Buffers::default()).unwrap();
        let ListenerAddress::Tcp(address) = *listener.address() else { panic!("it is TCP") };
        (listener, address)
    }

    /// What can be said of any two connected streams.
    fn check_connected(a: &Stream, b: &Stream) {
        let mut buffer = [0; 64];
        assert_eq!(b.read(&mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(a.write(b"one ").unwrap(), 4);
        assert_eq!(a.writev(&[IoSlice::new(b"two "), IoSlice::new(b""), IoSlice::new(b"three")]).unwrap(), 9);
        let mut read = Vec::new();
        while read.len() < 13 {
            let n = until(|| b.read(&mut buffer).map(Some));
            read.extend_from_slice(&buffer[..n]);
        }
        assert_eq!(read, b"one two three");
        a.shutdown(Shutdown::Write).unwrap();
        assert_eq!(until(|| b.read(&mut buffer).map(Some)), 0);
        assert_eq!(b.write(b"still").unwrap(), 5);
        assert_eq!(until(|| a.read(&mut buffer).map(Some)), 5);
        assert_eq!(a.write(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe, "and no signal");
        a.take_error().unwrap();
    }

    #[test]
    fn tcp_connects_and_knows_its_peer() {
        let (listener, address) = tcp();
        assert!(listener.accept().unwrap().is_none());
        let ours = Stream::connect_tcp(address, Buffers::default()).unwrap();
        let (theirs, peer) = until(|| listener.accept());
        assert_eq!(peer, Peer::Tcp(ours.local_address().unwrap()));
        assert_eq!(ours.peer().unwrap(), Peer::Tcp(address));
        assert!(
            ours.is_tcp() && sockopt::tcp_nodelay(&ours).unwrap() && sockopt::tcp_nodelay(&theirs).unwrap()
        );
        theirs.set_keepalive(std::time::Duration::from_secs(15)).unwrap();
        assert!(sockopt::socket_keepalive(&theirs).unwrap());
        assert_eq!(sockopt::tcp_user_timeout(&theirs).unwrap(), 0, "it would end peers that do not read");
        check_connected(&ours, &theirs);
    }

    /// Why keep-alives are not helped by a `TCP_USER_TIMEOUT`: see [`Stream::set_keepalive`].
    #[test]
    #[ignore = "takes ten seconds, and shows what the kernel does"]
    fn a_user_timeout_ends_a_peer_that_lives_and_does_not_read() {
        let has_ended = |user_timeout_ms: u32| {
            let (listener, address) = tcp();
            let _stalled = Stream::connect_tcp(address, Buffers::default()).unwrap();
            let (ours, _) = until(|| listener.accept());
            ours.set_keepalive(std::time::Duration::from_secs(1)).unwrap();
            sockopt::set_tcp_user_timeout(&ours, user_timeout_ms).unwrap();
            let start = std::time::Instant::now();
            while start.elapsed() < std::time::Duration::from_secs(5) {
                match ours.write(&[0; 65536]) {
                    Err(error) if error.kind() == io::ErrorKind::TimedOut => return true,
                    _ => thread::sleep(std::time::Duration::from_millis(10)),
                }
            }
            false
        };
        assert!(!has_ended(0));
        assert!(has_ended(2000));
    }

    #[test]
    fn a_tcp_port_is_taken_while_listened_at_and_free_after() {
        let (listener, address) = tcp();
        let error = Listener::tcp(address, Buffers::default()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains(&address.to_string()), "{error}");
        let ours = Stream::connect_tcp(address, Buffers::default()).unwrap();
        // The side that closes first keeps the port in TIME_WAIT.
        drop(until(|| listener.accept()));
        assert_eq!(until(|| ours.read(&mut [0]).map(Some)), 0);
        drop((listener, ours));
        Listener::tcp(address, Buffers::default()).unwrap();
    }

    #[test]
    fn a_refused_connection_says_so() {
        let (listener, address) = tcp();
        drop(listener);
        let refused = Stream::connect_tcp(address, Buffers::default()).map(|stream| {
            until(|| match stream.take_error() {
                Ok(()) => Ok(None),
                Err(error) => Ok(Some(error)),
            })
        });
        assert_eq!(refused.unwrap_or_else(|error| error).kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn buffers_are_bounded_as_asked() {
        let bounds = Buffers { send_bytes: Some(32 << 10), receive_bytes: Some(64 << 10) };
        let (a, _b) = Stream::pair().unwrap();
        a.set_buffers(bounds).unwrap();
        assert_eq!(a.buffers().unwrap(), (64 << 10, 128 << 10), "the kernel counts twice what was asked");
        let listener = Listener::tcp(loopback(0), bounds).unwrap();
        let ListenerAddress::Tcp(address) = *listener.address() else { panic!("it is TCP") };
        let _ours = Stream::connect_tcp(address, Buffers::default()).unwrap();
        let (theirs, _) = until(|| listener.accept());
        assert_eq!(theirs.buffers().unwrap(), (64 << 10, 128 << 10), "inherited");
    }

    #[test]
    fn unix_connects_and_knows_its_peer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = Listener::unix(&path, Some(0o600), Buffers::default()).unwrap();
        assert_eq!(listener.address(), &ListenerAddress::Unix(path.clone()));
        assert_eq!(
            std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions()) & 0o777,
            0o600
        );
        let ours = Stream::connect_unix(&path).unwrap();
        let (theirs, peer) = until(|| listener.accept());
        let Peer::Unix(credentials) = peer else { panic!("{peer:?}") };
        assert_eq!(credentials.pid, i32::try_from(std::process::id()).unwrap());
        assert_eq!(credentials.uid, rustix::process::getuid().as_raw());
        assert!(!ours.is_tcp() && ours.local_address().is_err());
        check_connected(&ours, &theirs);
    }

    #[test]
    fn a_socket_file_goes_with_its_listener_and_only_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listen = || Listener::unix(&path, None, Buffers::default());
        let first = listen().unwrap();
        let error = listen().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "a living listener is left alone");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        Stream::connect_unix(&path).unwrap();
        // A successor at the same path, once the first's file is out of the way, outlives the first.
        fs::rename(&path, folder.path().join("elsewhere")).unwrap();
        let second = listen().unwrap();
        drop(first);
        Stream::connect_unix(&path).unwrap();
        drop(second);
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_socket_file_is_replaced_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        // Std's listener leaves its file behind.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        drop(Listener::unix(&path, None, Buffers::default()).unwrap());
        fs::write(&path, "precious").unwrap();
        let error = Listener::unix(&path, None, Buffers::default()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        let too_long = Path::new("/").join("x".repeat(200));
        assert!(Listener::unix(&too_long, None, Buffers::default()).is_err());
    }

    #[test]
    fn descriptors_of_others_are_looked_at_before_they_are_taken() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let listener = Listener::from_fd(listener.into()).unwrap();
        assert_eq!(listener.address(), &ListenerAddress::Tcp(address));
        assert!(listener.accept().unwrap().is_none(), "it was made non-blocking");
        let client = std::net::TcpStream::connect(address).unwrap();
        assert!(Listener::from_fd(client.try_clone().unwrap().into()).is_err());
        let stream = Stream::from_fd(client.into()).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert!(Stream::from_fd(std::net::UdpSocket::bind("127.0.0.1:0").unwrap().into()).is_err());
        assert!(Stream::from_fd(fs::File::open("/proc/self/stat").unwrap().into()).is_err());
        Stream::from_fd(stream.into_fd()).unwrap();

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let taken = Listener::from_fd(std::os::unix::net::UnixListener::bind(&path).unwrap().into()).unwrap();
        assert_eq!(taken.address(), &ListenerAddress::Unix(path.clone()));
        assert!(!taken.owns_file());
        drop(taken);
        assert!(path.exists());
    }

    #[test]
    fn a_write_of_too_many_pieces_writes_the_first() {
        let (a, b) = Stream::pair().unwrap();
        let pieces = vec![IoSlice::new(b"x"); Stream::PIECES_MAX + 5];
        assert_eq!(a.writev(&pieces).unwrap(), Stream::PIECES_MAX);
        assert_eq!(b.read(&mut [0; 4096]).unwrap(), Stream::PIECES_MAX);
    }

    #[test]
    fn a_full_stream_would_block() {
        let (a, b) = Stream::pair().unwrap();
        let mut written = 0;
        let error = loop {
            match a.write(&[7; 4096]) {
                Ok(n) => written += n,
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        drop(a);
        let mut buffer = [0; 4096];
        while written > 0 {
            written -= b.read(&mut buffer).unwrap();
        }
        assert_eq!(b.read(&mut buffer).unwrap(), 0);
    }
}

//! Listening sockets.

use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, acceptfrom_with, sockopt};

use super::stream::{Peer, Stream};
use super::{Buffers, new_socket};

/// A listening socket, TCP or Unix, that never blocks. Closed on drop; a Unix one then removes its file.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
    address: ListenerAddress,
    file: Option<SocketFile>,
}

/// Where a [`Listener`] can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenerAddress {
    /// Address and port, the real one where 0 was asked for.
    Tcp(SocketAddr),
    /// A socket file.
    Unix(PathBuf),
}

impl fmt::Display for ListenerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenerAddress::Tcp(address) => write!(f, "tcp {address}"),
            ListenerAddress::Unix(path) => write!(f, "unix {}", path.display()),
        }
    }
}

/// The file of a Unix listener: known by its inode, so that a successor's file at the same path is left alone.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|found| found.dev() == self.device && found.ino() == self.inode);
        if is_ours {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Listener {
    /// How many connections the kernel completes for a listener before they are accepted (capped by
    /// `net.core.somaxconn`).
    pub const BACKLOG_MAX: i32 = 4096;

    /// Listens on a TCP address, port 0 for any. A port whose former connections are still winding down is taken at
    /// once (`SO_REUSEADDR`); a port with a listener is not.
    ///
    /// # Errors
    /// [`AddrInUse`](io::ErrorKind::AddrInUse), [`AddrNotAvailable`](io::ErrorKind::AddrNotAvailable),
    /// [`PermissionDenied`](io::ErrorKind::PermissionDenied); the address is named in the text.
    pub fn tcp(address: SocketAddr, buffers: Buffers) -> io::Result<Listener> {
        let listen = || {
            let fd = new_socket(if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 })?;
            sockopt::set_socket_reuseaddr(&fd, true)?;
            buffers.apply(&fd)?;
            rustix::net::bind(&fd, &address)?;
            rustix::net::listen(&fd, Self::BACKLOG_MAX)?;
            Listener::from_fd(fd)
        };
        listen().map_err(|error| named(error, &format!("tcp {address}")))
    }

    /// Listens at a path. The file gets the permissions `mode` (writing is what connecting takes); `None` leaves it to
    /// the umask. It is removed on drop.
    ///
    /// A socket file that is there already is removed only if connecting to it is refused: a listener that lives is
    /// left alone, and so is anything that is not a socket.
    ///
    /// # Errors
    /// [`AddrInUse`](io::ErrorKind::AddrInUse) when something else is at the path; whatever keeps the file from being
    /// made otherwise. The path is named in the text.
    pub fn unix(path: &Path, mode: Option<u32>, buffers: Buffers) -> io::Result<Listener> {
        Self::unix_unnamed(path, mode, buffers)
            .map_err(|error| named(error, &format!("unix {}", path.display())))
    }

    fn unix_unnamed(path: &Path, mode: Option<u32>, buffers: Buffers) -> io::Result<Listener> {
        let fd = new_socket(AddressFamily::UNIX)?;
        buffers.apply(&fd)?;
        let address = SocketAddrUnix::new(path.as_os_str().as_bytes())?;
        match rustix::net::bind(&fd, &address) {
            Err(Errno::ADDRINUSE) if is_stale(path) => {
                fs::remove_file(path)?;
                rustix::net::bind(&fd, &address)?;
            }
            other => other?,
        }
        let found = fs::symlink_metadata(path)?;
        let file = SocketFile { path: path.to_owned(), device: found.dev(), inode: found.ino() };
        if let Some(mode) = mode {
            // Before listen(): until then nobody can connect, so there is no moment with other permissions.
            fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        }
        rustix::net::listen(&fd, Self::BACKLOG_MAX)?;
        Ok(Listener { fd, address: ListenerAddress::Unix(path.to_owned()), file: Some(file) })
    }

    /// Takes over a listening socket that somebody else made (socket activation). A Unix one's file is not removed on
    /// drop, being the maker's.
    ///
    /// # Errors
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) when it is neither TCP nor Unix, or does not listen.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Listener> {
        if !sockopt::socket_acceptconn(&fd)? {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a listening socket"));
        }
        let found = rustix::net::getsockname(&fd)?;
        let address = match sockopt::socket_domain(&fd)? {
            AddressFamily::INET | AddressFamily::INET6 => ListenerAddress::Tcp(found.try_into()?),
            AddressFamily::UNIX => {
                let address = SocketAddrUnix::try_from(found)?;
                let path = address.path_bytes().unwrap_or_default();
                ListenerAddress::Unix(PathBuf::from(std::ffi::OsStr::from_bytes(path)))
            }
            _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "neither a TCP nor a Unix socket")),
        };
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Listener { fd, address, file: None })
    }

    /// Takes the next connection, with `TCP_NODELAY` set, and who it is from. `None` when there is none now.
    ///
    /// Connections that ended while they waited are passed over. For an edge-triggered listener: call until `None`,
    /// or until an error; after an error other connections may still wait and no further edge tells of them, so try
    /// again later.
    ///
    /// # Errors
    /// Out of descriptors or memory (`EMFILE`, `ENFILE`, `ENOBUFS`, `ENOMEM`): close something, try again later.
    pub fn accept(&self) -> io::Result<Option<(Stream, Peer)>> {
        let is_tcp = matches!(self.address, ListenerAddress::Tcp(_));
        loop {
            let (fd, from) = match acceptfrom_with(&self.fd, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(accepted) => accepted,
                Err(Errno::AGAIN) => return Ok(None),
                Err(error) if is_passing(error) => continue,
                Err(error) => return Err(error.into()),
            };
            let stream = Stream::accepted(fd, is_tcp);
            let peer = if is_tcp {
                let _ = stream.set_nodelay(true);
                from.and_then(|from| SocketAddr::try_from(from).ok()).map(Peer::Tcp)
            } else {
                stream.peer().ok()
            };
            // Without a peer it has ended already; nothing could be said to it.
            if let Some(peer) = peer {
                return Ok(Some((stream, peer)));
            }
        }
    }

    /// Where this listener can be reached.
    pub fn address(&self) -> &ListenerAddress {
        &self.address
    }

    /// Whether the socket file is removed on drop.
    pub fn owns_file(&self) -> bool {
        self.file.is_some()
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Whether `path` is a socket that nobody listens at.
fn is_stale(path: &Path) -> bool {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    is_socket
        && Stream::connect_unix(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// Errors of the connection that was to be accepted, not of the listener (accept(2), "Error handling").
fn is_passing(error: Errno) -> bool {
    let passing = [
        Errno::INTR,
        Errno::CONNABORTED,
        Errno::PERM,
        Errno::PROTO,
        Errno::NETDOWN,
        Errno::NOPROTOOPT,
        Errno::HOSTDOWN,
        Errno::NONET,
        Errno::HOSTUNREACH,
        Errno::NETUNREACH,
        Errno::TIMEDOUT,
    ];
    passing.contains(&error)
}

fn named(error: io::Error, what: &str) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

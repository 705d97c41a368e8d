//! What a service tells the service manager that started it: `sd_notify(3)`, without the library.
//!
//! Shape: one datagram for each message, to the Unix socket that `$NOTIFY_SOCKET` names: by a path, or, behind `@`, in
//! the abstract namespace.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Where the service manager listens.
#[derive(Debug)]
pub struct Manager {
    socket: UnixDatagram,
    address: SocketAddr,
}

impl Manager {
    /// From what `$NOTIFY_SOCKET` says.
    ///
    /// # Errors
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) when it names no socket, or one of a kind not known here
    /// (`vsock:`, for virtual machines); out of descriptors.
    pub fn at(name: &OsStr) -> io::Result<Manager> {
        let address = match name.as_bytes() {
            [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest)?,
            [b'/', ..] => SocketAddr::from_pathname(name)?,
            _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "neither a path nor @NAME")),
        };
        let socket = UnixDatagram::unbound()?;
        // A manager that does not read must not hold us up.
        socket.set_nonblocking(true)?;
        Ok(Manager { socket, address })
    }

    /// Tells it something: lines of `NAME=VALUE`, as in `sd_notify(3)`.
    ///
    /// # Errors
    /// When nobody listens there, or does not read.
    pub fn tell(&self, lines: &str) -> io::Result<()> {
        self.socket.send_to_addr(lines.as_bytes(), &self.address).map(drop)
    }
}

/// The time for `MONOTONIC_USEC`, in microseconds (`CLOCK_MONOTONIC`).
pub fn monotonic_us() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    let since = Duration::new(
        u64::try_from(time.tv_sec).unwrap_or_default(),
        u32::try_from(time.tv_nsec).unwrap_or_default(),
    );
    // 584,000 years are enough.
    since.as_micros() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &OsStr, listener: &UnixDatagram) {
        let manager = Manager::at(name).unwrap();
        manager.tell("READY=1\nSTATUS=fine").unwrap();
        let mut buffer = [0; 100];
        let read = listener.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..read], b"READY=1\nSTATUS=fine");
    }

    #[test]
    fn paths_and_abstract_names_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        check(path.as_os_str(), &UnixDatagram::bind(&path).unwrap());
        let name = format!("staunch-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        check(OsStr::new(&format!("@{name}")), &UnixDatagram::bind_addr(&address).unwrap());
        assert!(Manager::at(OsStr::new("vsock:2:1")).is_err());
        assert!(Manager::at(OsStr::new("")).is_err());
        assert!(Manager::at(folder.path().join("none").as_os_str()).unwrap().tell("READY=1").is_err());
    }

    #[test]
    fn time_goes_on() {
        let before = monotonic_us();
        assert!(before > 0 && monotonic_us() >= before);
    }
}

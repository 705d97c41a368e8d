//! Where a broker is to be reached.

use std::fmt;
use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

use staunch_system::net::Stream;

use super::Error;

/// Where a broker is to be reached. Unlike where one listens, this may name a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BrokerAddress {
    /// A host name or a numeric address (without brackets), and a port.
    Tcp(String, u16),
    /// A Unix socket.
    Unix(PathBuf),
}

impl FromStr for BrokerAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<BrokerAddress, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path {
                "" => Err("unix: needs a path, as in unix:/run/staunch/socket".to_owned()),
                path => Ok(BrokerAddress::Unix(path.into())),
            };
        }
        let Some(address) = text.strip_prefix("tcp:") else {
            let meant = if text.contains('/') { format!("unix:{text}") } else { format!("tcp:{text}") };
            let meant =
                meant.parse::<BrokerAddress>().map_or_else(|_| String::new(), |a| format!(", as in {a}"));
            return Err(format!("expected tcp:HOST:PORT or unix:PATH{meant}"));
        };
        let wanted = || format!("{address} is not a host with a port, as in localhost:9001 or [::1]:9001");
        let (host, port) = address.rsplit_once(':').ok_or_else(wanted)?;
        let port = port.parse().ok().filter(|port| *port > 0).ok_or_else(wanted)?;
        let host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(host) => host,
            // Without brackets it is not clear where the address ends.
            None if host.contains(':') => return Err(wanted()),
            None => host,
        };
        if host.is_empty() {
            return Err(wanted());
        }
        Ok(BrokerAddress::Tcp(host.to_owned(), port))
    }
}

impl fmt::Display for BrokerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BrokerAddress::Tcp(host, port) if host.contains(':') => write!(f, "tcp:[{host}]:{port}"),
            BrokerAddress::Tcp(host, port) => write!(f, "tcp:{host}:{port}"),
            BrokerAddress::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl BrokerAddress {
    /// Connects; of several addresses of a host, to the first that answers. Blocks for `patience` at most, not counting
    /// the look-up of a name.
    pub(super) fn connect(&self, patience: Duration) -> Result<Stream, Error> {
        let (host, port) = match self {
            BrokerAddress::Unix(path) => {
                let stream = UnixStream::connect(path).and_then(|stream| Stream::from_fd(stream.into()));
                return stream.map_err(|error| Error::Connect(self.clone(), error));
            }
            BrokerAddress::Tcp(host, port) => (host.as_str(), *port),
        };
        let start = Instant::now();
        let addresses =
            (host, port).to_socket_addrs().map_err(|error| Error::Host(host.to_owned(), error))?;
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for address in addresses {
            let left = patience.saturating_sub(start.elapsed()).max(Duration::from_millis(1));
            let connected = TcpStream::connect_timeout(&address, left).and_then(|stream| {
                let stream = Stream::from_fd(stream.into())?;
                stream.set_nodelay(true)?;
                stream.set_keepalive(KEEPALIVE_IDLE)?;
                Ok(stream)
            });
            match connected {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(Error::Connect(self.clone(), last))
    }
}

/// For how long a broker may be silent before the kernel asks whether it is there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written() {
        for text in ["tcp:localhost:9001", "tcp:127.0.0.1:1", "tcp:[::1]:9001", "unix:/run/s", "unix:s,t"] {
            assert_eq!(text.parse::<BrokerAddress>().unwrap().to_string(), text);
        }
        for text in
            ["", "9001", "localhost:9001", "tcp:", "tcp:localhost", "tcp::9001", "tcp:a:0", "tcp:a:65536"]
        {
            assert!(text.parse::<BrokerAddress>().is_err(), "{text}");
        }
        for (text, meant) in
            [("[::1]:9001", "tcp:[::1]:9001"), ("/run/s", "unix:/run/s"), ("9001", "unix:PATH")]
        {
            assert!(text.parse::<BrokerAddress>().unwrap_err().ends_with(meant), "{text}");
        }
        for text in ["tcp:::1:9001", "tcp:[]:1", "unix:"] {
            assert!(text.parse::<BrokerAddress>().is_err(), "{text}");
        }
    }
}

//! Why a broker cannot listen, and what to do about it.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;

use staunch::server::{Address, Listen, StartError};

use super::Fault;

/// Two listeners cannot have one address, except for a port that the system chooses.
pub(super) fn check_distinct(addresses: &[Listen]) -> Result<(), String> {
    let mut seen = HashSet::new();
    for Listen { address, .. } in addresses {
        let is_chosen = matches!(address, Address::Tcp(address) if address.port() == 0);
        if !is_chosen && !seen.insert(address.to_string()) {
            return Err(format!("listen: {address} is given twice"));
        }
    }
    Ok(())
}

/// The well-known reference is for this machine alone.
pub(super) fn check_local(addresses: &[Listen]) -> Result<(), String> {
    let is_far = |address: &&Address| matches!(address, Address::Tcp(a) if !a.ip().is_loopback());
    let far = addresses.iter().map(|listen| &listen.address).find(is_far);
    far.map_or(Ok(()), |address| Err(explain(&StartError::NotLocal(address.clone()), addresses)))
}

/// Why the broker does not start, and what to do about it.
pub(super) fn advise(error: &StartError, all: &[Listen]) -> Fault {
    Fault::Failed(explain(error, all))
}

fn explain(error: &StartError, all: &[Listen]) -> String {
    let (address, cause) = match error {
        StartError::Listen(address, cause) => (address, cause),
        StartError::NotLocal(_) => return format!("{error}. Choose an address such as 127.0.0.1"),
        StartError::Metrics(address, cause) if cause.kind() == ErrorKind::AddrInUse => {
            return format!(
                "cannot tell metrics on tcp:{address}: another program listens there already. Choose another port"
            );
        }
        StartError::Scheduler(_) | StartError::Socket(..) | StartError::Metrics(..) => {
            return error.to_string();
        }
    };
    let why = match (address, cause.kind()) {
        (Address::Tcp(address), ErrorKind::AddrInUse) if overlapping(*address, all).is_some() => {
            let other = overlapping(*address, all).unwrap_or(*address);
            format!("--listen tcp:{other} is given, too, and the two overlap")
        }
        (Address::Tcp(address), ErrorKind::AddrInUse) => format!(
            "another program listens there already. End it, or choose another port, as in --listen tcp:{}:{}",
            if address.is_ipv6() { format!("[{}]", address.ip()) } else { address.ip().to_string() },
            address.port().checked_add(1).unwrap_or(9001)
        ),
        (Address::Tcp(_), ErrorKind::PermissionDenied) => {
            "that takes privileges. Choose a port above 1023".to_owned()
        }
        (Address::Tcp(_), ErrorKind::AddrNotAvailable) => {
            "this machine does not have that address".to_owned()
        }
        (Address::Unix(path), ErrorKind::AddrInUse) if is_socket(path) => {
            "another program listens there already. End it, or choose another path".to_owned()
        }
        (Address::Unix(path), ErrorKind::AddrInUse) if path.is_dir() => {
            format!("that is a folder. Give a path in it, as in unix:{}", path.join("staunch.sock").display())
        }
        (Address::Unix(_), ErrorKind::AddrInUse) => {
            "there is a file, which is no socket. Choose another path".to_owned()
        }
        (Address::Unix(path), ErrorKind::NotFound) => {
            let folder = path.parent().unwrap_or(Path::new("/"));
            format!("the folder {} does not exist. Make it, or choose another path", folder.display())
        }
        (Address::Unix(_), ErrorKind::PermissionDenied) => {
            "this user may not make a file there. Choose another path".to_owned()
        }
        (Address::Unix(path), _) if path.as_os_str().len() > SOCKET_PATH_MAX => {
            format!("the path is too long: a socket's has {SOCKET_PATH_MAX} bytes at most")
        }
        _ => cause.to_string(),
    };
    format!("cannot listen on {address}: {why}")
}

/// Another of the addresses that are listened on, with the same port, if one of the two stands for all of this machine.
fn overlapping(address: SocketAddr, all: &[Listen]) -> Option<SocketAddr> {
    all.iter().find_map(|other| match &other.address {
        Address::Tcp(other) if *other != address && other.port() == address.port() => {
            (other.ip().is_unspecified() || address.ip().is_unspecified()).then_some(*other)
        }
        _ => None,
    })
}

/// What `sockaddr_un` has room for, less the final zero (unix(7)).
const SOCKET_PATH_MAX: usize = 107;

fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket())
}

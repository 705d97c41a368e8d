//! Why a broker cannot start or listen, and what to do about it; what is allowed, and likely not meant.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;

use staunch::admission::is_same_path;
use staunch::server::{Address, Config, Listen, StartError};

use super::config::Read;
use super::{Fault, key};

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

/// Whether Unix sockets can be made where they are to be, as far as can be told without making them.
pub(super) fn check_places(addresses: &[Listen]) -> Result<(), String> {
    for Listen { address, .. } in addresses {
        let Address::Unix(path) = address else { continue };
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let cause = if path.as_os_str().len() > SOCKET_PATH_MAX {
            ErrorKind::InvalidInput
        } else if !folder.is_dir() {
            ErrorKind::NotFound
        } else if path.exists() && !is_socket(path) {
            ErrorKind::AddrInUse
        } else {
            continue;
        };
        return Err(explain(&StartError::Listen(address.clone(), cause.into()), addresses));
    }
    Ok(())
}

/// Which rules are for a socket that nothing listens on: they are for nobody, and whoever they were meant for comes in
/// as if there were none.
pub(super) fn unheard(config: &Config, addresses: &[Address]) -> Vec<String> {
    let is_heard = |socket: &Path| {
        addresses.iter().any(|address| matches!(address, Address::Unix(path) if is_same_path(path, socket)))
    };
    let there_are: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let there_are =
        if there_are.is_empty() { String::new() } else { format!(", only on {}", there_are.join(", ")) };
    let numbered = config.rules.iter().zip(1..);
    let unheard = numbered.filter_map(|(rule, number)| {
        let socket = rule.who.socket.as_ref().filter(|socket| !is_heard(socket))?;
        Some(format!(
            "[[unix]] rule {number} is for nobody: nothing listens on its socket {}{there_are}",
            socket.display(),
        ))
    });
    unheard.collect()
}

/// Which keys a broker of this user would not take.
pub(super) fn foreign(keys: &[Read]) -> Vec<String> {
    let told = |read: &Read| {
        let (user, path) = (key::foreign_owner(&read.path)?, read.path.display());
        Some(format!("{path}: the key belongs to user {user}: only a broker that runs as that user takes it"))
    };
    keys.iter().filter_map(told).collect()
}

/// Why the broker does not start, and what to do about it.
pub(super) fn advise(error: &StartError, all: &[Listen]) -> Fault {
    Fault::Failed(explain(error, all))
}

fn explain(error: &StartError, all: &[Listen]) -> String {
    let (address, cause) = match error {
        StartError::Listen(address, cause) => (address, cause),
        StartError::NotLocal(_) => return format!("{error}. Choose an address such as 127.0.0.1"),
        StartError::Scheduler(cause) if cause.raw_os_error() == Some(TOO_MANY_OPEN_FILES) => {
            return format!(
                "{error}. Allow the process more descriptors: LimitNOFILE= of a service, `ulimit -Hn` of a shell"
            );
        }
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

/// `EMFILE` of Linux.
const TOO_MANY_OPEN_FILES: i32 = 24;

/// What `sockaddr_un` has room for, less the final zero (unix(7)).
const SOCKET_PATH_MAX: usize = 107;

fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket())
}

//! Listening sockets that a service manager hands over (`sd_listen_fds(3)`): `LISTEN_FDS` of them from descriptor 3 on,
//! for the process that `LISTEN_PID` names, called what `LISTEN_FDNAMES` says.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use listenfd::ListenFd;

/// One of them.
pub(super) struct Inherited {
    /// What it is called; empty if it is not.
    pub(super) name: String,
    pub(super) socket: Arc<OwnedFd>,
}

/// Takes all of them, once: to be called while there is one thread, since the environment is changed.
///
/// # Errors
/// When one is no stream socket, of TCP or Unix.
pub(super) fn take() -> Result<Vec<Inherited>, String> {
    let pid = std::env::var("LISTEN_PID").ok().and_then(|pid| pid.parse().ok());
    // For a parent of ours, perhaps, that has started us without a thought of them.
    if pid != Some(std::process::id()) {
        return Ok(Vec::new());
    }
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':').map(str::to_owned);
    let mut sockets = ListenFd::from_env();
    let count = sockets.len();
    let take = |at| {
        let name = names.next().unwrap_or_default();
        let tcp = sockets.take_tcp_listener(at).ok().flatten().map(OwnedFd::from);
        let unix = || sockets.take_unix_listener(at).ok().flatten().map(OwnedFd::from);
        match tcp.or_else(unix) {
            Some(socket) => Ok(Inherited { name, socket: Arc::new(socket) }),
            None => Err(format!(
                "the service manager hands over descriptor {} ({name}), which is no stream socket of TCP or Unix. Its \
                 socket unit needs ListenStream=",
                at + 3
            )),
        }
    };
    (0..count).map(take).collect()
}

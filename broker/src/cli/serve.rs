//! `staunch serve`.

use std::collections::HashSet;
use std::io::{ErrorKind, IsTerminal};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use staunch::server::{Address, Binding, Config, Listen, Server, StartError};
use staunch_protocols::sturdy::SturdyRef;

use super::reach::{DEFAULT_ADDRESS, WELL_KNOWN};
use super::value::{parse, scan, show};
use super::{Fault, key, stdio};

/// The oid that references are for, unless a flag says otherwise.
pub(super) const DEFAULT_OID: &str = "\"syndicate\"";

/// Run the broker until SIGTERM or Ctrl-C.
#[derive(clap::Args)]
#[command(long_about = "\
Run the broker until SIGTERM or Ctrl-C.

Clients come in by a reference (sturdyref) that is signed with the broker's key. The key is made at the first start, \
and the reference printed then; `staunch ref mint` prints it again.")]
#[command(after_long_help = "\
Examples:
  staunch serve --dev
  staunch serve --listen unix:/run/staunch/socket --socket-mode 0660
  staunch serve --listen tcp:0.0.0.0:9001
  staunch serve --listen tcp:127.0.0.1:9001,answers=accepted
  staunch serve --stdio

What goes over TCP is not encrypted: listen on networks that you trust.

Environment:
  STAUNCH_LOG  What is logged to standard error: off, error, warn, info (unless
               told otherwise) or debug, or a list as in tracing's EnvFilter.
               RUST_LOG is heeded where it is not set
  NO_COLOR     No colours, also on a terminal
  STATE_DIRECTORY, XDG_STATE_HOME, HOME
               Where the key is, see --key-file")]
pub(super) struct Serve {
    /// Let everybody in who can connect, by the well-known reference
    /// <ref {oid: "syndicate" sig: #[acowDB2/oI+6aSEC3YIxGg==]}>
    ///
    /// Takes loopback addresses and Unix sockets only. At a loopback address that is everybody on this machine; at a
    /// Unix socket whoever may write to its file: see --socket-mode.
    #[arg(long, conflicts_with_all = ["key_file", "oid"])]
    dev: bool,
    /// Where the key is, or is to be made [default: $STATE_DIRECTORY/key, or /var/lib/staunch/key for
    /// root, or $XDG_STATE_HOME/staunch/key, or ~/.local/state/staunch/key]
    ///
    /// A file of 16 to 32 random bytes (32 if it is made here) that nobody but its owner may read.
    #[arg(long, value_name = "PATH")]
    key_file: Option<PathBuf>,
    /// What the references are for, as Preserves text
    #[arg(long, value_name = "VALUE", default_value = DEFAULT_OID)]
    oid: String,
    /// Where to listen: tcp:ADDRESS:PORT with a numeric address, or unix:PATH. May be given more than once
    ///
    /// With ,answers=accepted behind it the gatekeeper there answers <accepted ..> and <rejected ..>, as older clients
    /// want, syndicate-py up to 0.19.3 among them, instead of <ok ..> and <error ..>. (So a path cannot end in a comma, a
    /// word of small letters, = and something without a slash.)
    #[arg(long, value_name = "ADDRESS[,OPTION=VALUE]", default_value = DEFAULT_ADDRESS)]
    #[arg(default_value_if("stdio", "true", None))]
    listen: Vec<Listen>,
    /// Speak on standard input and output as well, and end when the input does
    ///
    /// What is there at once, as oid 0, is the dataspace: who starts the broker so needs no reference. It listens only
    /// where --listen says, and takes no key if that is nowhere.
    #[arg(long)]
    stdio: bool,
    /// Permissions of Unix sockets' files, octal; connecting takes the one to write [default: as the umask
    /// has it]
    #[arg(long, value_name = "MODE", value_parser = mode)]
    socket_mode: Option<u32>,
    /// Worker threads; as many as there are processors by default
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    workers: Option<u16>,
    /// What a connection may owe before it is not read: bytes on their way to others, and 32 for each event
    #[arg(long, value_name = "UNITS", default_value_t = Config::default().debt_max)]
    #[arg(value_parser = clap::value_parser!(u64).range(4096..=1 << 40))]
    debt_max: u64,
    /// How many bytes may wait for a connection before those who cause more are not read
    #[arg(long, value_name = "BYTES", default_value_t = Config::default().outbox_max as u64)]
    #[arg(value_parser = clap::value_parser!(u64).range(4096..=1 << 40))]
    outbox_max: u64,
    /// What one turn may come to for all who observe it together, in the units of --debt-max, before it is refused
    #[arg(long, value_name = "UNITS", default_value_t = Config::default().fan_out_max)]
    #[arg(value_parser = clap::value_parser!(u64).range(1 << 20..=1 << 40))]
    fan_out_max: u64,
    /// How many bytes the kernel buffers for what is sent on a connection
    #[arg(long, value_name = "BYTES", default_value_t = Config::default().send_buffer as u64)]
    #[arg(value_parser = clap::value_parser!(u64).range(4096..=1 << 30))]
    send_buffer: u64,
    /// How many bytes the kernel buffers of what is received on a connection
    #[arg(long, value_name = "BYTES", default_value_t = Config::default().receive_buffer as u64)]
    #[arg(value_parser = clap::value_parser!(u64).range(4096..=1 << 30))]
    receive_buffer: u64,
}

/// Reads permissions.
fn mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
    mode.ok_or_else(|| "expected octal permissions, as in 0660".to_owned())
}

impl Serve {
    pub(super) fn run(self) -> Result<(), Fault> {
        if !self.stdio {
            return run(|| self.start());
        }
        let (done, is_done) = tokio::sync::oneshot::channel();
        let start = || {
            let server = self.start()?;
            stdio::attach(&server, done).map_err(Fault::Failed)?;
            Ok(server)
        };
        run_until(start, is_done)
    }

    fn start(self) -> Result<Server, Fault> {
        check_distinct(&self.listen)?;
        let defaults = Config::default();
        // The ranges of the flags fit this machine's words, or what does not fit is as good as no bound.
        let words = |n: u64| usize::try_from(n).unwrap_or(usize::MAX >> 3);
        let mut config = Config {
            listen: self.listen,
            socket_mode: self.socket_mode,
            workers: self.workers.map_or(defaults.workers, usize::from),
            debt_max: self.debt_max,
            outbox_max: words(self.outbox_max),
            fan_out_max: self.fan_out_max,
            send_buffer: words(self.send_buffer),
            receive_buffer: words(self.receive_buffer),
            ..defaults
        };
        if self.stdio && config.listen.is_empty() {
            return Server::start(&config).map_err(|error| advise(&error, &config.listen));
        }
        if self.dev {
            let server = Server::start_dev(&config).map_err(|error| advise(&error, &config.listen))?;
            announce(&server, &config);
            tracing::info!("everybody on this machine may come in, by {WELL_KNOWN}");
            return Ok(server);
        }
        let oid = parse(&self.oid).map_err(|error| Fault::Usage(format!("--oid {}: {error}", self.oid)))?;
        let (path, is_default) = match self.key_file {
            // For the sake of those who read the log elsewhere.
            Some(path) => (std::path::absolute(&path).unwrap_or(path), false),
            None => (key::default_path().map_err(Fault::Failed)?, true),
        };
        let (key, is_made) = key::read_or_make(&path, is_default).map_err(Fault::failed)?;
        if is_made {
            tracing::info!("made a key: {}", path.display());
        }
        // It is a secret: it need not stand in each log there is.
        if is_made || std::io::stderr().is_terminal() {
            let mut bytes = Vec::new();
            SturdyRef::mint(&oid, &key).write(&mut bytes);
            tracing::info!("clients come in by {}", show(scan(&bytes).view(&bytes)));
        } else {
            let oid = if self.oid == DEFAULT_OID { String::new() } else { format!(" --oid '{}'", self.oid) };
            tracing::info!(
                "clients come in by what `staunch ref mint --key-file {}{oid}` prints",
                path.display()
            );
        }
        config.bindings.push(Binding { oid, key });
        let server = Server::start(&config).map_err(|error| advise(&error, &config.listen))?;
        announce(&server, &config);
        Ok(server)
    }
}

/// Logs where the broker can be reached.
fn announce(server: &Server, config: &Config) {
    for address in server.tcp_addresses() {
        // Not only what was asked for: also the port that the system chose where that was 0.
        tracing::info!("open on tcp:{address}");
        if !address.ip().is_loopback() {
            tracing::warn!("tcp:{address} is not encrypted: who sees the traffic can come in, too");
        }
    }
    for listen in config.listen.iter().filter(|l| matches!(l.address, Address::Unix(_))) {
        tracing::info!("open on {}", listen.address);
    }
}

/// Two listeners cannot have one address, except for a port that the system chooses.
fn check_distinct(all: &[Listen]) -> Result<(), Fault> {
    let mut seen = HashSet::new();
    for Listen { address, .. } in all {
        let is_chosen = matches!(address, Address::Tcp(address) if address.port() == 0);
        if !is_chosen && !seen.insert(address.to_string()) {
            return Err(Fault::Usage(format!("--listen {address} is given twice")));
        }
    }
    Ok(())
}

/// Why the broker does not start, and what to do about it.
fn advise(error: &StartError, all: &[Listen]) -> Fault {
    Fault::Failed(explain(error, all))
}

fn explain(error: &StartError, all: &[Listen]) -> String {
    let (address, cause) = match error {
        StartError::Listen(address, cause) => (address, cause),
        StartError::NotLocal(_) => return format!("{error}. Choose an address such as 127.0.0.1"),
        StartError::Scheduler(_) => return error.to_string(),
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

/// Runs a broker until SIGTERM or SIGINT.
pub(super) fn run(start: impl FnOnce() -> Result<Server, Fault>) -> Result<(), Fault> {
    run_until(start, std::future::pending())
}

/// Runs a broker until SIGTERM or SIGINT, or until something else is over, and tells how that went.
fn run_until(
    start: impl FnOnce() -> Result<Server, Fault>,
    done: impl Future<Output = Result<Result<(), String>, tokio::sync::oneshot::error::RecvError>>,
) -> Result<(), Fault> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Fault::failed)?;
    runtime.block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate()).map_err(Fault::failed)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(Fault::failed)?;
        let server = start()?;
        let mut tick = tokio::time::interval(Duration::from_millis(500));
        let mut done = std::pin::pin!(done);
        let outcome = loop {
            tokio::select! {
                _ = terminate.recv() => break Ok(()),
                _ = interrupt.recv() => break Ok(()),
                outcome = &mut done => break outcome.unwrap_or(Ok(())),
                _ = tick.tick() => server.tick(),
            }
        };
        tracing::info!("ends: {} connections open", server.connections());
        server.shutdown();
        outcome.map_err(Fault::Failed)
    })
}

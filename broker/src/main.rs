//! The `staunch` command.

#![forbid(unsafe_code)]

mod tour;

use std::io::{ErrorKind, IsTerminal};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use staunch::server::{Address, Config, Server, StartError};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How `--dev` lets clients in.
const WELL_KNOWN: &str = r#"<ref {oid: "syndicate" sig: #[acowDB2/oI+6aSEC3YIxGg==]}>"#;

/// A message broker for Linux that speaks the Syndicate protocol.
#[derive(Parser)]
#[command(name = "staunch", version, arg_required_else_help = true)]
#[command(after_help = "New here? `staunch tour` takes ten seconds and needs nothing.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Watch it work: a consumer stops reading, its producer is throttled, nothing is lost.
    ///
    /// Starts a broker on a loopback port and connects six clients to it. What it tells it has measured; it ends
    /// with status 0 if every message has come through once and in order, and with 1 otherwise.
    Tour(tour::Options),
    /// Run the broker until SIGTERM or Ctrl-C.
    Serve(Serve),
}

#[derive(clap::Args)]
#[command(after_help = "\
Environment:
  STAUNCH_LOG  What is logged to standard error: off, error, warn, info (unless told otherwise)
               or debug, or a list as in tracing's EnvFilter. RUST_LOG is heeded where it is not set
  NO_COLOR     No colours, also on a terminal")]
struct Serve {
    /// Let everybody in who can connect, by the well-known reference
    /// <ref {oid: "syndicate" sig: #[acowDB2/oI+6aSEC3YIxGg==]}>. Required: there is no other way in yet.
    ///
    /// At a loopback address that is everybody on this machine; at a Unix socket whoever may write to its file, whose
    /// mode the umask tells: with the usual one, 022, that is your own user, and root.
    #[arg(long, required = true)]
    dev: bool,
    /// Where to listen: tcp:ADDRESS:PORT with a loopback address, or unix:PATH. May be given more than once.
    #[arg(long, value_name = "ADDRESS", default_value = "tcp:127.0.0.1:9001")]
    listen: Vec<Address>,
    /// Worker threads; as many as there are processors by default.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    workers: Option<u16>,
    /// What a connection may owe before it is not read: bytes on their way to others, and 32 for each event.
    #[arg(long, value_name = "UNITS", default_value_t = Config::default().debt_max)]
    debt_max: u64,
    /// How many bytes may wait for a connection before those who cause more are not read.
    #[arg(long, value_name = "BYTES", default_value_t = Config::default().outbox_max)]
    outbox_max: usize,
    /// What one turn may come to for all who observe it together, in the units of --debt-max, before it is refused.
    #[arg(long, value_name = "UNITS", default_value_t = Config::default().fan_out_max)]
    fan_out_max: u64,
    /// How many bytes the kernel buffers for what is sent on a connection.
    #[arg(long, value_name = "BYTES", default_value_t = Config::default().send_buffer)]
    send_buffer: usize,
    /// How many bytes the kernel buffers of what is received on a connection.
    #[arg(long, value_name = "BYTES", default_value_t = Config::default().receive_buffer)]
    receive_buffer: usize,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    log(&cli.command);
    let done = match cli.command {
        Command::Serve(serve) => run(|| serve.start()),
        Command::Tour(options) => tour(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("staunch: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Logs to standard error what the environment asks for.
fn log(command: &Command) {
    let unless_told = if matches!(command, Command::Tour(_)) { "warn" } else { "info" };
    let asked = ["STAUNCH_LOG", "RUST_LOG"]
        .into_iter()
        .find_map(|name| Some((name, std::env::var(name).ok().filter(|text| !text.trim().is_empty())?)));
    let filter = match &asked {
        Some((name, text)) => filter(text).unwrap_or_else(|why| {
            eprintln!("staunch: {name}={text} is not understood ({why}); logs {unless_told}");
            EnvFilter::new(unless_told)
        }),
        None => EnvFilter::new(unless_told),
    };
    let is_coloured =
        std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").unwrap_or_default().is_empty();
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    subscriber.with_target(false).with_ansi(is_coloured).init();
}

/// A filter as the environment gives it. A single word must be a level: taken for the name of a module, as the library
/// does, a misspelt level would log nothing. Traces are not compiled in, so they are taken for debug.
fn filter(text: &str) -> Result<EnvFilter, String> {
    let text = text.trim().to_ascii_lowercase();
    let text = if text == "trace" { "debug" } else { text.as_str() };
    let is_word = text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if is_word && text.parse::<LevelFilter>().is_err() {
        return Err("it is no level".to_owned());
    }
    text.parse().map_err(|error| format!("{error}"))
}

fn tour(options: &tour::Options) -> Result<(), Box<dyn std::error::Error>> {
    match options.run()? {
        Some(kept) => run(|| Ok(kept.announce())),
        None => Ok(()),
    }
}

impl Serve {
    fn start(self) -> Result<Server, Box<dyn std::error::Error>> {
        let defaults = Config::default();
        let config = Config {
            listen: self.listen,
            workers: self.workers.map_or(defaults.workers, usize::from),
            debt_max: self.debt_max,
            outbox_max: self.outbox_max,
            fan_out_max: self.fan_out_max,
            send_buffer: self.send_buffer,
            receive_buffer: self.receive_buffer,
            ..defaults
        };
        let server = Server::start_dev(&config).map_err(|error| advise(&error))?;
        for address in server.tcp_addresses() {
            // Not only what was asked for: also the port that the system chose where that was 0.
            tracing::info!("open on tcp:{address}");
        }
        for address in config.listen.iter().filter(|a| matches!(a, Address::Unix(_))) {
            tracing::info!("open on {address}");
        }
        tracing::info!("whoever can connect may come in, by {WELL_KNOWN}");
        Ok(server)
    }
}

/// Why the broker does not start, and what to do about it.
fn advise(error: &StartError) -> String {
    let (address, cause) = match error {
        StartError::Listen(address, cause) => (address, cause),
        StartError::NotLocal(_) => return format!("{error}. Choose an address such as 127.0.0.1"),
        StartError::Scheduler(_) => return error.to_string(),
    };
    let why = match (address, cause.kind()) {
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

/// What `sockaddr_un` has room for, less the final zero (unix(7)).
const SOCKET_PATH_MAX: usize = 107;

fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket())
}

/// Runs a broker until SIGTERM or SIGINT.
fn run(
    start: impl FnOnce() -> Result<Server, Box<dyn std::error::Error>>,
) -> Result<(), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let server = start()?;
        let mut tick = tokio::time::interval(Duration::from_millis(500));
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = tick.tick() => server.tick(),
            }
        }
        tracing::info!("ends: {} connections open", server.connections());
        server.shutdown();
        Ok(())
    })
}

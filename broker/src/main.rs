//! The `staunch` command.

#![forbid(unsafe_code)]

mod tour;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use staunch::server::{Address, Config, Server};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A message broker for Linux that speaks the Syndicate protocol.
#[derive(Parser)]
#[command(name = "staunch", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// See what it does: a broker, a few clients, and one that stops reading; about ten seconds.
    Tour(tour::Options),
    /// Run the broker until SIGTERM or SIGINT.
    Serve(Serve),
}

#[derive(clap::Args)]
struct Serve {
    /// Let everybody on this machine in, by the well-known reference
    /// <ref {oid: "syndicate" sig: #[acowDB2/oI+6aSEC3YIxGg==]}>. Loopback and Unix sockets only.
    #[arg(long, required = true)]
    dev: bool,
    /// Where to listen: tcp:ADDRESS:PORT or unix:PATH. May be given more than once.
    #[arg(long, value_name = "ADDRESS", default_value = "tcp:127.0.0.1:9001")]
    listen: Vec<Address>,
    /// Worker threads; as many as there are processors by default.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    workers: Option<u16>,
    /// What a connection may owe before it is not read: bytes on their way to others, and 32 for each event.
    #[arg(long, value_name = "UNITS", default_value_t = Config::default().debt_max)]
    debt_max: u64,
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
    let filter = tracing_subscriber::EnvFilter::try_from_env("STAUNCH_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(unless_told));
    let is_coloured =
        std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").unwrap_or_default().is_empty();
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    subscriber.with_target(false).with_ansi(is_coloured).init();
}

fn tour(options: &tour::Options) -> Result<(), Box<dyn std::error::Error>> {
    match options.run()? {
        Some(server) => run(|| Ok(server)),
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
            ..defaults
        };
        Ok(Server::start_dev(&config)?)
    }
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

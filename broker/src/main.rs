//! The `staunch` command.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use staunch::server::{Address, Config, Server};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A message broker that speaks the Syndicate protocol.
#[derive(Parser)]
#[command(name = "staunch", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
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
    /// How many bytes may wait for a connection before those who cause more are not read.
    #[arg(long, value_name = "BYTES", default_value_t = Config::default().outbox_max)]
    outbox_max: usize,
    /// How many bytes the kernel buffers for what is sent on a connection.
    #[arg(long, value_name = "BYTES", default_value_t = Config::default().send_buffer)]
    send_buffer: usize,
    /// How many bytes the kernel buffers of what is received on a connection.
    #[arg(long, value_name = "BYTES", default_value_t = Config::default().receive_buffer)]
    receive_buffer: usize,
}

fn main() -> ExitCode {
    let Command::Serve(serve) = Cli::parse().command;
    let filter = tracing_subscriber::EnvFilter::try_from_env("STAUNCH_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false).init();
    match run(serve) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("staunch: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(serve: Serve) -> Result<(), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let defaults = Config::default();
    let config = Config {
        listen: serve.listen,
        workers: serve.workers.map_or(defaults.workers, usize::from),
        debt_max: serve.debt_max,
        outbox_max: serve.outbox_max,
        send_buffer: serve.send_buffer,
        receive_buffer: serve.receive_buffer,
        ..defaults
    };
    runtime.block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let server = Server::start_dev(&config)?;
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

//! `staunch serve`: flags, and from there to a broker that runs.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use staunch::admission::{Rule, Start};
use staunch::server::{Address, Config, Listen, Server, Slow};
use staunch_protocols::sturdy::SturdyRef;

use super::Fault;
use super::advice::{advise, check_distinct, check_local, check_places, foreign, unheard};
use super::config::limits::{Chosen, read_flag};
use super::config::{
    self, BUFFER_MAX, BUSY_POLL_MAX, FAN_OUT_MIN, MetricsAddress, Named, Oid, Read, Settings, UNITS_MAX,
    amount, differences, mode,
};
use super::inherit::{self, Inherited};
use super::life::{self, Life};
use super::manual::print;
use super::reach::{DEFAULT_ADDRESS, WELL_KNOWN};
use super::stdio;
use super::value::{scan, show};

/// The oid that references are for, unless it is said.
pub(super) const DEFAULT_OID: &str = "\"syndicate\"";

/// Run the broker until SIGTERM or Ctrl-C.
#[derive(clap::Args)]
#[command(long_about = "\
Run the broker until SIGTERM or Ctrl-C.

Clients come in by a reference (sturdyref) that is signed with the broker's key. The key is made at the first start, \
and `staunch ref mint` prints the reference; on a terminal the broker does so, too, when it starts.")]
#[command(after_long_help = "\
Examples:
  staunch serve --dev
  staunch serve --listen unix:/run/staunch/socket --socket-mode 0660
  staunch serve --listen tcp:0.0.0.0:9001
  staunch serve --listen tcp:127.0.0.1:9001,answers=accepted
  staunch serve --metrics tcp:127.0.0.1:9464
  staunch serve --config staunch.toml --check
  staunch serve --stdio

What goes over TCP is not encrypted: listen on networks that you trust.

Signals:
  TERM, INT    What has been read takes effect, what waits for peers goes out (see
               --drain), and the broker ends with status 0. A second one ends it
               at once
  HUP          Reads the configuration and the keys again. Nobody is disconnected;
               if something is wrong, all stays as it was

Environment:
  STAUNCH_LOG  What is logged to standard error: off, error, warn, info (unless
               told otherwise) or debug, or a list as in tracing's EnvFilter.
               RUST_LOG is heeded where it is not set
  NO_COLOR     No colours, also on a terminal
  STATE_DIRECTORY, XDG_STATE_HOME, HOME
               Where the key is, see --key-file
  XDG_CONFIG_HOME, HOME
               Where the configuration is, see --config
  JOURNAL_STREAM
               As systemd sets it: if it is standard error, lines have the journal's
               priorities, and no time of their own
  LISTEN_FDS, NOTIFY_SOCKET, WATCHDOG_USEC
               As systemd sets them: sockets to listen on, and whom to tell how it
               goes

Status: 0 when it ends as told to; 1 if it cannot start, or not go on; 2 if the
command or the configuration makes no sense: a restart will not help.")]
pub(super) struct Serve {
    /// Let everybody in who can connect, by the well-known reference
    /// <ref {oid: "syndicate" sig: #[acowDB2/oI+6aSEC3YIxGg==]}>
    ///
    /// Takes loopback addresses and Unix sockets only. At a loopback address that is everybody on this machine; at a
    /// Unix socket whoever may write to its file: see --socket-mode.
    #[arg(long, conflicts_with_all = ["key_file", "oid"])]
    dev: bool,
    /// The configuration file [default: /etc/staunch/staunch.toml for root and for services, or
    /// $XDG_CONFIG_HOME/staunch/staunch.toml, or ~/.config/staunch/staunch.toml; none with --dev or --stdio]
    ///
    /// What flags say counts for more than what it says. It may be absent if it is not named here. docs/configuration.md
    /// tells all that may stand in it.
    #[arg(long, value_name = "PATH")]
    config: Option<PathBuf>,
    /// Check whether the broker would start, print the configuration as a file would say all of it, and end
    ///
    /// What holds on this machine: no more connections than there may be descriptors for. What is likely a mistake is
    /// warned of. What is not looked at: whether a TCP address is free.
    #[arg(long)]
    check: bool,
    /// Where the key is, or is to be made [default: $STATE_DIRECTORY/key, or /var/lib/staunch/key for
    /// root, or $XDG_STATE_HOME/staunch/key, or ~/.local/state/staunch/key]
    ///
    /// A file of 16 to 32 random bytes (32 if it is made here) that nobody but its owner may read.
    #[arg(long, value_name = "PATH")]
    key_file: Option<PathBuf>,
    /// What the references are for, as Preserves text [default: "syndicate"]
    #[arg(long, value_name = "VALUE")]
    oid: Option<Oid>,
    /// Where to listen: tcp:ADDRESS:PORT with a numeric address, or unix:PATH. May be given more than once
    /// [default: tcp:127.0.0.1:9001]
    ///
    /// Sockets that a service manager hands over (LISTEN_FDS) come on top; with these there is no default.
    ///
    /// With ,answers=accepted behind it the gatekeeper there answers <accepted ..> and <rejected ..>, as older clients
    /// want, syndicate-py up to 0.19.3 among them, instead of <ok ..> and <error ..>. ,slow=POLICY is --slow for this
    /// address; ,credit=on has turns counted and reported (docs/configuration.md). (So a path cannot end in a comma, a word
    /// of small letters, = and something without a slash.)
    #[arg(long, value_name = "ADDRESS[,OPTION=VALUE]")]
    listen: Vec<Listen>,
    /// Speak on standard input and output as well, and end when the input does
    ///
    /// What is there at once, as oid 0, is the dataspace: who starts the broker so needs no reference. It listens only
    /// where --listen, or a file that is named, says, and takes no key if that is nowhere.
    #[arg(long)]
    stdio: bool,
    /// Permissions of Unix sockets' files, octal; connecting takes the one to write [default: as the umask
    /// has it]
    #[arg(long, value_name = "MODE", value_parser = mode)]
    socket_mode: Option<u32>,
    /// Worker threads; as many as there are processors by default
    #[arg(long, value_name = "N", value_parser = workers)]
    workers: Option<u64>,
    /// For how many microseconds a worker polls for more before it sleeps, where clients wait for each
    /// answer before they go on: it makes round trips shorter and takes processor time; 0 for not at all [default: 50]
    #[arg(long, value_name = "MICROSECONDS", value_parser = busy_poll)]
    busy_poll: Option<u64>,
    /// What a connection may owe before it is not read: bytes on their way to others, and 32 for each event
    /// [default: 2MiB]
    #[arg(long, value_name = "UNITS", value_parser = units)]
    debt_max: Option<u64>,
    /// How many bytes may wait for a connection before those who cause more are not read [default: 64MiB]
    #[arg(long, value_name = "BYTES", value_parser = units)]
    outbox_max: Option<u64>,
    /// What one turn may come to for all who observe it together, in the units of --debt-max, before it is refused
    /// [default: 256MiB]
    #[arg(long, value_name = "UNITS", value_parser = fan_out)]
    fan_out_max: Option<u64>,
    /// How many bytes the kernel buffers for what is sent on a connection [default: 256KiB]
    #[arg(long, value_name = "BYTES", value_parser = buffer)]
    send_buffer: Option<u64>,
    /// How many bytes the kernel buffers of what is received on a connection [default: 256KiB]
    #[arg(long, value_name = "BYTES", value_parser = buffer)]
    receive_buffer: Option<u64>,
    /// What is done about who does not read what waits for it: throttle, disconnect:BYTES:SECONDS, latest or
    /// latest:drop [default: disconnect:0:120s]
    ///
    /// throttle holds back those who cause more, for as long as it takes. disconnect ends a connection for which more than
    /// so many bytes have waited for so long. latest holds back as throttle does, but drops assertions that are retracted
    /// before they were sent; latest:drop drops the messages that wait as well. Listeners, rules and keys may say otherwise:
    /// docs/configuration.md.
    #[arg(long, value_name = "POLICY")]
    slow: Option<Slow>,
    /// How many seconds a TCP peer's machine may acknowledge nothing of what is sent to it before it counts as vanished,
    /// 5 to 3600; 0 leaves that to the kernel [default: 60]
    ///
    /// A peer that only does not read acknowledges all the same.
    #[arg(long, value_name = "SECONDS", value_parser = silence)]
    silence_max: Option<Duration>,
    /// How many seconds what waits for peers may take to go out in the end [default: 5]
    #[arg(long, value_name = "SECONDS", value_parser = drain)]
    drain: Option<Duration>,
    /// Tell metrics there, over HTTP (`GET /metrics`, OpenMetrics text) [default: nowhere]
    ///
    /// To everybody who can connect: choose a loopback address, or one that only those reach who may know.
    #[arg(long, value_name = "tcp:ADDRESS:PORT")]
    metrics: Option<MetricsAddress>,
    /// Something that peers may have, by its name in the file's [limits], as in connections=1000. May be given more than
    /// once
    #[arg(long = "limit", value_name = "NAME=VALUE", value_parser = read_flag)]
    limits: Vec<Chosen>,
}

fn workers(text: &str) -> Result<u64, String> {
    amount::read_count_within(text, 1, 1024)
}

fn busy_poll(text: &str) -> Result<u64, String> {
    amount::read_count_within(text, 0, BUSY_POLL_MAX)
}

fn units(text: &str) -> Result<u64, String> {
    amount::read_within(text, 4096, UNITS_MAX)
}

fn fan_out(text: &str) -> Result<u64, String> {
    amount::read_within(text, FAN_OUT_MIN, UNITS_MAX)
}

fn buffer(text: &str) -> Result<u64, String> {
    amount::read_within(text, 4096, BUFFER_MAX)
}

fn silence(text: &str) -> Result<Duration, String> {
    config::silence(text.parse().unwrap_or(-1.0))
}

fn drain(text: &str) -> Result<Duration, String> {
    amount::seconds(text.parse().unwrap_or(-1.0))
}

impl Serve {
    pub(super) fn run(self) -> Result<(), Fault> {
        check_distinct(&self.listen).map_err(Fault::Usage)?;
        let (asked, is_check) = (self.config.clone(), self.check);
        let source = Source::of(asked, self.named());
        if is_check {
            return source.check();
        }
        if source.flags.is_stdio {
            let (done, is_done) = tokio::sync::oneshot::channel();
            let start = || {
                let life = start(source, Vec::new())?;
                stdio::attach(&life.server, done).map_err(Fault::Failed)?;
                Ok(life)
            };
            return life::run_until(start, is_done);
        }
        // Before there are threads.
        let sockets = inherit::take().map_err(Fault::Failed)?;
        life::run(|| start(source, sockets))
    }

    fn named(self) -> Named {
        Named {
            is_dev: self.dev,
            is_stdio: self.stdio,
            listen: self.listen,
            socket_mode: self.socket_mode,
            key_file: self.key_file,
            oid: self.oid,
            workers: self.workers,
            busy_poll: self.busy_poll,
            debt_max: self.debt_max,
            outbox_max: self.outbox_max,
            fan_out_max: self.fan_out_max,
            send_buffer: self.send_buffer,
            receive_buffer: self.receive_buffer,
            slow: self.slow,
            silence_max: self.silence_max,
            drain: self.drain,
            metrics: self.metrics,
            limits: self.limits,
        }
    }
}

/// Where the configuration comes from; it may be read again.
struct Source {
    flags: Named,
    path: Option<PathBuf>,
    /// The file was asked for.
    is_named: bool,
}

impl Source {
    fn of(asked: Option<PathBuf>, flags: Named) -> Source {
        let is_named = asked.is_some();
        // To try something out should not depend on what the system's broker is to do.
        let path =
            asked.or_else(|| if flags.is_dev || flags.is_stdio { None } else { config::default_path() });
        Source { flags, path, is_named }
    }

    fn read(&self) -> Result<Settings, String> {
        let file = match &self.path {
            None => None,
            Some(path) => match config::read(path)? {
                None if self.is_named => {
                    return Err(format!("{}: there is no such file. --config names it", path.display()));
                }
                file => file,
            },
        };
        let settings = Settings::of(&self.flags, file.unwrap_or_default())?;
        check_distinct(settings.listen.as_deref().unwrap_or_default())?;
        Ok(settings)
    }

    /// Prints what holds.
    fn check(&self) -> Result<(), Fault> {
        let mut settings = self.read().map_err(Fault::Usage)?;
        let keys = settings.check_keys().map_err(Fault::Failed)?;
        let config = settings.config(&keys).map_err(Fault::Usage)?;
        let listen = listen(&settings, &[]);
        if settings.is_dev {
            check_local(&listen).map_err(Fault::Failed)?;
        }
        check_places(&listen).map_err(Fault::Failed)?;
        let addresses: Vec<Address> = listen.iter().map(|listen| listen.address.clone()).collect();
        // What is not there yet has made no references.
        let handed_over = " (what a service manager hands over is not known to a check)";
        let unheard = unheard(&config, &addresses).into_iter().map(|warning| warning + handed_over).collect();
        let warnings = [unsigned(&config), unheard, foreign(&keys)].concat();
        warnings.iter().for_each(|warning| eprintln!("staunch: warning: {warning}"));
        settings.bound_by_descriptors();
        print(settings.show(&listen).to_string().as_bytes())
    }
}

/// Where to listen, beside sockets that were handed over.
fn listen(settings: &Settings, sockets: &[Inherited]) -> Vec<Listen> {
    match &settings.listen {
        Some(addresses) => addresses.clone(),
        None if sockets.is_empty() => DEFAULT_ADDRESS.parse().into_iter().collect(),
        None => Vec::new(),
    }
}

fn start(source: Source, sockets: Vec<Inherited>) -> Result<Life, Fault> {
    let settings = source.read().map_err(Fault::Usage)?;
    let keys = settings.read_keys().map_err(Fault::Failed)?;
    let mut config = settings.config(&keys).map_err(Fault::Usage)?;
    config.listen = listen(&settings, &sockets);
    for Inherited { name, socket } in sockets {
        tracing::debug!("takes over a socket: {name}");
        config.sockets.push(socket);
    }
    // Before the start: a key that was made is not made again if that fails.
    keys.iter().for_each(introduce);
    let started = if settings.is_dev { Server::start_dev(&config) } else { Server::start(&config) };
    let server = started.map_err(|error| advise(&error, &config.listen))?;
    if let Some(path) = source.path.as_ref().filter(|path| path.exists()) {
        tracing::info!("configured by {}", path.display());
    }
    announce(&server);
    if settings.is_dev {
        tracing::info!("everybody on this machine may come in, by {WELL_KNOWN}");
    }
    let addresses = server.addresses();
    warn(&config, &addresses);
    let listen = config.listen;
    let mut before = settings.show(&listen);
    let mut bindings = config.bindings;
    let drain = settings.drain;
    let reload = move |server: &Server| {
        let settings = source.read()?;
        let keys = settings.read_keys()?;
        let config = settings.config(&keys)?;
        server.reload(&config);
        let after = settings.show(settings.listen.as_deref().unwrap_or(&listen));
        tell_changes(&differences(&before, &after));
        if config.bindings.iter().ne(bindings.iter()) {
            tracing::info!("reloaded: references are checked against other keys; who is in stays");
            keys.iter().filter(|key| key.is_made).for_each(introduce);
        }
        warn(&config, &addresses);
        // What holds after a restart does not hold yet.
        let fixed = FIXED.map(|name| (name, before.remove(name)));
        (before, bindings) = (after, config.bindings);
        for (name, value) in fixed {
            match value {
                Some(value) => _ = before.insert(name.to_owned(), value),
                None => _ = before.remove(name),
            }
        }
        Ok(settings.drain)
    };
    Ok(Life { server, drain, reload: Some(Box::new(reload)) })
}

/// What takes a restart to change.
const FIXED: [&str; 8] = [
    "listen",
    "socket-mode",
    "workers",
    "busy-poll",
    "fan-out-max",
    "metrics",
    "ledger-every",
    "ledger-rows",
];

/// Logs what is different from now on.
fn tell_changes(changes: &[String]) {
    if changes.is_empty() {
        tracing::info!("reloaded: nothing in the configuration has changed");
    }
    for change in changes {
        match FIXED.iter().any(|name| change.starts_with(&format!("{name}:"))) {
            true => tracing::warn!("{change}: this holds after a restart"),
            false => tracing::info!("reloaded: {change}"),
        }
    }
}

/// Logs where the broker can be reached.
fn announce(server: &Server) {
    if let Some(address) = server.metrics_address() {
        tracing::info!("metrics at http://{address}/metrics");
        if !address.ip().is_loopback() {
            tracing::warn!("everybody who reaches {address} can read the metrics");
        }
    }
    for address in server.addresses() {
        // Not only what was asked for: also the port that the system chose where that was 0.
        tracing::info!("open on {address}");
        if let Address::Tcp(tcp) = address
            && !tcp.ip().is_loopback()
        {
            tracing::warn!("{address} is not encrypted: who sees the traffic can come in, too");
        }
    }
}

/// Logs what lets in.
fn introduce(read: &Read) {
    if read.is_made {
        tracing::info!("made a key: {}", read.path.display());
    }
    // It is a secret: logs are kept, and read by others.
    if std::io::stderr().is_terminal() {
        let mut bytes = Vec::new();
        SturdyRef::mint(&read.oid.bytes, &read.key).write(&mut bytes);
        tracing::info!("clients come in by {}", show(scan(&bytes).view(&bytes)));
    } else {
        let oid =
            if read.oid.text == DEFAULT_OID { String::new() } else { format!(" --oid '{}'", read.oid.text) };
        tracing::info!(
            "clients come in by what `staunch ref mint --key-file {}{oid}` prints",
            read.path.display()
        );
    }
}

/// Logs what is likely not meant.
fn warn(config: &Config, addresses: &[Address]) {
    let warnings = [unsigned(config), unheard(config, addresses)].concat();
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
}

/// Which rules refuse whoever they are for, since their references are not valid.
fn unsigned(config: &Config) -> Vec<String> {
    let is_signed = |reference: &SturdyRef| {
        let mut bindings = config.bindings.iter().chain(&config.ledger_bindings);
        let binding = bindings.find(|binding| binding.oid == reference.oid);
        binding.is_some_and(|binding| reference.verify(&binding.key)) && reference.compile().is_ok()
    };
    let numbered = config.rules.iter().zip(1..);
    let unsigned = numbered.filter(|(rule, _)| matches!(&rule.start, Start::Reference(r) if !is_signed(r)));
    let told = |(_, number): (&Rule, u32)| {
        format!("[[unix]] rule {number} lets nobody in: no key of this broker has made its reference")
    };
    unsigned.map(told).collect()
}

//! A broker's life under a service manager, or without one: signals, reloading, the end.
//!
//! | signal | what comes of it |
//! |---|---|
//! | SIGTERM, SIGINT | the broker drains and ends, with status 0; a second one ends it at once |
//! | SIGHUP | the configuration is read again; see `serve` |
//!
//! A service manager that asks for it (`NOTIFY_SOCKET`) is told when the broker is ready, reloads and stops, how many
//! connections there are, and, as often as `WATCHDOG_USEC` wants, that a worker has had time: not only that this thread
//! lives.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use staunch::server::Server;
use staunch_system::notify::{Manager, monotonic_us};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use super::Fault;

/// How often listeners are looked at that have run out of descriptors.
const TICK: Duration = Duration::from_millis(500);
/// How often the service manager is told how it goes, at most.
const STATUS_EVERY: Duration = Duration::from_secs(2);

/// Reads the configuration again, and has it hold: how long what waits may take in the end, or why nothing changes.
pub(super) type Reload = Box<dyn FnMut(&Server) -> Result<Duration, String>>;

/// A broker that has been started.
pub(super) struct Life {
    pub(super) server: Server,
    /// How long what waits may take to go out in the end.
    pub(super) drain: Duration,
    pub(super) reload: Option<Reload>,
}

/// Runs a broker until SIGTERM or SIGINT.
pub(super) fn run(start: impl FnOnce() -> Result<Life, Fault>) -> Result<(), Fault> {
    run_until(start, std::future::pending())
}

/// Runs a broker until SIGTERM or SIGINT, or until something else is over, and tells how that went.
pub(super) fn run_until(
    start: impl FnOnce() -> Result<Life, Fault>,
    done: impl Future<Output = Result<Result<(), String>, tokio::sync::oneshot::error::RecvError>>,
) -> Result<(), Fault> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Fault::failed)?;
    runtime.block_on(async {
        let mut ends = Ends::catch().map_err(Fault::failed)?;
        // Before the start: one that comes meanwhile must not end the process.
        let mut hang_up = signal(SignalKind::hangup()).map_err(Fault::failed)?;
        let Life { server, mut drain, mut reload } = start()?;
        let server = Arc::new(server);
        let mut told = Told::new();
        told.tell(&format!("READY=1\nMAINPID={}", std::process::id()));
        let mut tick = interval(TICK);
        let mut done = std::pin::pin!(done);
        let outcome = loop {
            tokio::select! {
                () = ends.next() => break Ok(()),
                outcome = &mut done => break outcome.unwrap_or(Ok(())),
                _ = hang_up.recv() => match &mut reload {
                    None => break Ok(()),
                    Some(reload) => {
                        told.tell(&format!("RELOADING=1\nMONOTONIC_USEC={}", monotonic_us()));
                        let kept = reload(&server).map(|reloaded| drain = reloaded);
                        told.reloaded(kept);
                    }
                },
                () = told.watchdog(&server) => {}
                _ = tick.tick() => {
                    server.tick();
                    told.status(&server);
                }
            }
        };
        told.tell("STOPPING=1");
        end(server, drain, &mut ends, &mut told).await;
        outcome.map_err(Fault::Failed)
    })
}

/// Drains the broker; a second signal ends the process.
async fn end(server: Arc<Server>, drain: Duration, ends: &mut Ends, told: &mut Told) {
    let connections = server.connections();
    tracing::info!("ends: {connections} connection{} open", if connections == 1 { "" } else { "s" });
    let draining = server.clone();
    let mut drained = tokio::task::spawn_blocking(move || draining.drain(drain));
    loop {
        tokio::select! {
            all = &mut drained => {
                // Without patience nothing was waited for.
                if !all.unwrap_or(false) && !drain.is_zero() {
                    tracing::warn!("some peers have not read all that waited for them within {drain:?}");
                }
                return;
            }
            () = told.watchdog(&server) => {}
            () = ends.next() => {
                tracing::warn!("ends at once: told so again");
                // As a shell reports a program that a signal has ended.
                std::process::exit(130);
            }
        }
    }
}

/// What ends the process.
struct Ends(Signal, Signal);

impl Ends {
    fn catch() -> std::io::Result<Ends> {
        Ok(Ends(signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?))
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.0.recv() => {}
            _ = self.1.recv() => {}
        }
    }
}

/// What the service manager is told, if there is one.
struct Told {
    manager: Option<Manager>,
    watchdog: Option<Interval>,
    /// Set by a worker since the watchdog was last fed.
    is_alive: Arc<AtomicBool>,
    status: (Instant, String),
}

impl Told {
    fn new() -> Told {
        let manager = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()).and_then(|name| {
            let manager = Manager::at(&name);
            let why = |error| tracing::warn!(%error, "cannot tell the service manager anything: NOTIFY_SOCKET={name:?}");
            manager.map_err(why).ok()
        });
        let watchdog = manager.as_ref().and_then(|_| watchdog_interval()).map(|every| {
            let mut watchdog = interval(every);
            watchdog.set_missed_tick_behavior(MissedTickBehavior::Delay);
            watchdog
        });
        let is_alive = Arc::new(AtomicBool::new(true));
        Told { manager, watchdog, is_alive, status: (Instant::now(), String::new()) }
    }

    fn tell(&self, lines: &str) {
        if let Some(Err(error)) = self.manager.as_ref().map(|manager| manager.tell(lines)) {
            tracing::debug!(%error, "cannot tell the service manager: {lines}");
        }
    }

    fn reloaded(&mut self, done: Result<(), String>) {
        match done {
            Ok(()) => self.tell("READY=1\nSTATUS=reloaded"),
            Err(why) => {
                tracing::error!("nothing has changed: {why}");
                let line = why.lines().next().unwrap_or_default();
                self.tell(&format!("READY=1\nSTATUS=kept the former configuration: {line}"));
            }
        }
        self.status = (Instant::now(), String::new());
    }

    /// Feeds the watchdog when it is time, if a worker has had time since. Never ends without a watchdog.
    async fn watchdog(&mut self, server: &Server) {
        let Some(watchdog) = &mut self.watchdog else { return std::future::pending().await };
        watchdog.tick().await;
        // Relaxed: a sign of life, nothing is published by it.
        if self.is_alive.swap(false, Ordering::Relaxed) {
            self.tell("WATCHDOG=1");
        }
        server.ask_workers(self.is_alive.clone());
    }

    fn status(&mut self, server: &Server) {
        if self.manager.is_none() || self.status.0.elapsed() < STATUS_EVERY {
            return;
        }
        let status =
            format!("STATUS={} connections, {} KiB owed", server.connections(), server.total_debt() >> 10);
        if status != self.status.1 {
            self.tell(&status);
            self.status.1 = status;
        }
        self.status.0 = Instant::now();
    }
}

/// How often the watchdog is to be fed: twice as often as the manager wants it, if it wants it of this process.
fn watchdog_interval() -> Option<Duration> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let is_other = number("WATCHDOG_PID").is_some_and(|pid| pid != u64::from(std::process::id()));
    let every = number("WATCHDOG_USEC").filter(|us| *us > 0 && !is_other)?;
    Some(Duration::from_micros(every.div_ceil(2)))
}

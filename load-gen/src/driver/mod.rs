//! Brokers of all kinds behind one trait.
//!
//! A driver knows three things of its broker: how it is started ([`Driver::launch`]), how a session with it begins
//! ([`Driver::open`]), and how a message is framed ([`Driver::frame`]). What a session receives is taken apart by a
//! [`Sink`]; for protocols of plain frames, [`framed`] makes one from a function that finds the next frame.
//!
//! To add a broker: write a module with its [`Driver`], name it in [`KINDS`] and in [`of`]. The scenarios in
//! `scenarios/` then run against it as they are.
//!
//! All drivers ask for what their broker gives by default: no persistence, no acknowledgements (MQTT's quality of
//! service is 0), one topic for each stream, and the broker's own policy for who does not read.

pub mod framed;
pub mod launch;
pub mod mqtt;
pub mod nats;
pub mod redis;
pub mod syndicate;

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use crate::client::{Address, Contact, Error, receive};
use crate::sink::{Sink, Subscriptions};

/// Names of all kinds of brokers.
pub const KINDS: [&str; 5] = ["staunch", "syndicate-server", "nats", "redis", "mosquitto"];

/// A session that is ready: its subscriptions are in place.
pub struct Session {
    /// Connected, blocking.
    pub fd: OwnedFd,
    /// What was read and not yet taken.
    pub kept: Vec<u8>,
    /// Takes what comes.
    pub sink: Box<dyn Sink>,
    /// To whom messages are addressed, where the protocol has such numbers.
    pub target: u64,
}

/// Where a broker may put its things.
#[derive(Clone, Debug)]
pub struct Place {
    /// A directory of its own.
    pub dir: PathBuf,
    /// A TCP port of 127.0.0.1 that is free.
    pub port: u16,
}

/// How a broker is started.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Its arguments.
    pub args: Vec<String>,
    /// Files to be written before: its configuration.
    pub files: Vec<(PathBuf, String)>,
    /// Where it will listen.
    pub address: Address,
}

/// A kind of broker.
pub trait Driver: Send + Sync + fmt::Debug {
    /// One of [`KINDS`].
    fn kind(&self) -> &'static str;
    /// The program, unless it is told.
    fn program(&self) -> &'static str {
        self.kind()
    }
    /// What makes the program tell its version.
    fn version_flag(&self) -> &'static str {
        "--version"
    }
    /// How to start it, with nothing changed that it does by default to those who do not read.
    fn launch(&self, place: &Place) -> Launch;
    /// Connects and subscribes to `topics` (a producer: to none). Blocks until the subscriptions are in place. The
    /// first of `topics` belongs to the first checker of `subscriptions`, and so on.
    fn open(
        &self,
        contact: Contact<'_>,
        topics: &[String],
        subscriptions: Subscriptions,
    ) -> Result<Session, Error>;
    /// Appends one message as it is sent to the broker, on a session with [`Session::target`]; gives where in `out`
    /// its payload begins.
    fn frame(&self, target: u64, topic: &str, payload: &[u8], out: &mut Vec<u8>) -> usize;
}

/// The driver for a kind.
pub fn of(kind: &str) -> Option<&'static dyn Driver> {
    Some(match kind {
        "staunch" => &syndicate::Staunch,
        "syndicate-server" => &syndicate::Reference,
        "nats" => &nats::Nats,
        "redis" => &redis::Redis,
        "mosquitto" => &mqtt::Mosquitto,
        _ => return None,
    })
}

impl Place {
    /// A file's path here.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The port at 127.0.0.1.
    pub fn tcp(&self) -> Address {
        Address::Tcp(([127, 0, 0, 1], self.port).into())
    }
}

/// Reads until `find` finds what it waits for at the beginning of `kept`; that is taken away. `find` gives how many
/// bytes to take, and whether that was it; `None` wants more.
fn wait_for(
    fd: &OwnedFd,
    kept: &mut Vec<u8>,
    mut find: impl FnMut(&[u8]) -> Result<Option<(usize, bool)>, Error>,
) -> Result<(), Error> {
    let mut buf = vec![0; 4096];
    loop {
        while let Some((taken, is_it)) = find(kept)? {
            kept.drain(..taken);
            if is_it {
                return Ok(());
            }
        }
        let n = receive(fd, &mut buf)?;
        kept.extend_from_slice(&buf[..n]);
    }
}

/// Whether a program is there: a path to a file, or a name in PATH.
pub fn is_installed(program: &str) -> bool {
    if program.contains('/') {
        return Path::new(program).is_file();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(["/usr/sbin".into()]).any(|dir| dir.join(program).is_file())
}

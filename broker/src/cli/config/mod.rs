//! The configuration file of `staunch serve`: what may stand in it, and what is wrong with it, by line.
//!
//! # Layout
//! - here: the file, its place, and how it is read.
//! - `limits`: what peers may have, by name.
//! - `rules`: who starts from what over Unix sockets.
//! - `settings`: the file and the flags together: what holds.

pub(super) mod limits;
mod rules;
mod settings;

pub(super) use settings::{Named, Read, Settings, differences, key_for};
pub(super) use staunch::amount;

use std::fmt;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error, Visitor};
use staunch::server::{Address, Listen, Slow};
use staunch_system::process::effective_user;

use super::value::parse;
use limits::Chosen;
use rules::UnixRule;

/// How large a file may be.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What a file says. What it does not say is `None`.
#[derive(Default, serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct File {
    listen: Option<Vec<toml::Spanned<Place>>>,
    #[serde(deserialize_with = "read_mode")]
    socket_mode: Option<u32>,
    key_file: Option<PathBuf>,
    oid: Option<Oid>,
    key: Vec<Key>,
    workers: Option<Within<1, 1024, false>>,
    busy_poll: Option<Within<0, BUSY_POLL_MAX, false>>,
    debt_max: Option<Within<4096, UNITS_MAX>>,
    orphaned_max: Option<Within<4096, UNITS_MAX>>,
    outbox_max: Option<Within<4096, UNITS_MAX>>,
    fan_out_max: Option<Within<FAN_OUT_MIN, UNITS_MAX>>,
    send_buffer: Option<Within<4096, BUFFER_MAX>>,
    receive_buffer: Option<Within<4096, BUFFER_MAX>>,
    #[serde(deserialize_with = "read_slow")]
    slow: Option<Slow>,
    #[serde(deserialize_with = "read_silence")]
    silence_max: Option<Duration>,
    #[serde(deserialize_with = "read_seconds")]
    drain: Option<Duration>,
    metrics: Option<MetricsAddress>,
    #[serde(deserialize_with = "read_every")]
    ledger_every: Option<Duration>,
    ledger_rows: Option<Within<1, LEDGER_ROWS_MAX, false>>,
    limits: Chosen,
    unix: Vec<UnixRule>,
}

/// The longest that a worker may poll, in microseconds.
pub(super) const BUSY_POLL_MAX: u64 = 10_000;
/// Bounds of what counts in cost units, and of buffers.
pub(super) const UNITS_MAX: u64 = 1 << 40;
/// As [`UNITS_MAX`].
pub(super) const FAN_OUT_MIN: u64 = 1 << 20;
/// As [`UNITS_MAX`].
pub(super) const BUFFER_MAX: u64 = 1 << 30;

/// The shortest time between two updates of the ledger.
const LEDGER_EVERY_MIN: Duration = Duration::from_millis(50);
/// How many accounts the ledger may tell one by one.
pub(super) const LEDGER_ROWS_MAX: u64 = 10_000;

/// Where to tell metrics.
#[derive(Clone, Copy)]
pub(super) struct MetricsAddress(pub(super) SocketAddr);

impl FromStr for MetricsAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<MetricsAddress, String> {
        match text.parse() {
            Ok(Address::Tcp(address)) => Ok(MetricsAddress(address)),
            Ok(Address::Unix(_)) => Err("metrics are told over TCP, as in tcp:127.0.0.1:9464".to_owned()),
            Err(error) => Err(error),
        }
    }
}

impl<'de> Deserialize<'de> for MetricsAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<MetricsAddress, D::Error> {
        from_text(deserializer)
    }
}

/// One more key, with what it is for.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Key {
    file: PathBuf,
    oid: Oid,
    #[serde(default, deserialize_with = "read_slow")]
    slow: Option<Slow>,
}

/// A value that references are for: as written, and canonical.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Oid {
    pub(super) text: String,
    pub(super) bytes: Vec<u8>,
}

impl FromStr for Oid {
    type Err = String;

    fn from_str(text: &str) -> Result<Oid, String> {
        let bytes =
            parse(text).map_err(|error| format!("{text} is not a value in Preserves text: {error}"))?;
        Ok(Oid { text: text.to_owned(), bytes })
    }
}

impl<'de> Deserialize<'de> for Oid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Oid, D::Error> {
        from_text(deserializer)
    }
}

/// A number or a size within bounds.
#[derive(Clone, Copy)]
struct Within<const MIN: u64, const MAX: u64, const IS_SIZE: bool = true>(u64);

impl<'de, const MIN: u64, const MAX: u64, const IS_SIZE: bool> Deserialize<'de>
    for Within<MIN, MAX, IS_SIZE>
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        within(deserializer, MIN, MAX, IS_SIZE).map(Within)
    }
}

/// Reads a number, or, if it is a size, text with a unit.
fn within<'de, D: Deserializer<'de>>(
    deserializer: D,
    min: u64,
    max: u64,
    is_size: bool,
) -> Result<u64, D::Error> {
    struct Amount(u64, u64, bool);
    impl Visitor<'_> for Amount {
        type Value = u64;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a whole number from {} to {}", self.0, self.1)?;
            if self.2 { f.write_str(", or a size as in \"16MiB\"") } else { Ok(()) }
        }

        fn visit_i64<E: Error>(self, number: i64) -> Result<u64, E> {
            amount::check(number.max(0).unsigned_abs(), self.0, self.1).map_err(E::custom)
        }

        fn visit_u64<E: Error>(self, number: u64) -> Result<u64, E> {
            amount::check(number, self.0, self.1).map_err(E::custom)
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<u64, E> {
            let read = if self.2 { amount::read_within } else { amount::read_count_within };
            read(text, self.0, self.1).map_err(E::custom)
        }
    }
    deserializer.deserialize_any(Amount(min, max, is_size))
}

fn from_text<'de, T: FromStr<Err = String>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
}

/// An address, or what is wrong with it: to be told by its place, where errors in an array tell the array's.
struct Place(Result<Listen, String>);

impl<'de> Deserialize<'de> for Place {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Place, D::Error> {
        Ok(Place(String::deserialize(deserializer)?.parse()))
    }
}

impl File {
    /// Where to listen, if that is said.
    fn listen(&self) -> Option<Vec<Listen>> {
        let good = |place: &toml::Spanned<Place>| place.as_ref().0.clone().ok();
        self.listen.as_ref().map(|all| all.iter().filter_map(good).collect())
    }

    /// Takes relative paths from the folder of the file, wherever the broker is started; and has rules know their places
    /// in it.
    fn settle(&mut self, path: &Path, text: &str) {
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let folder = absolute.parent().unwrap_or(Path::new("/"));
        for place in self.listen.iter_mut().flatten() {
            if let Place(Ok(Listen { address: Address::Unix(path), .. })) = place.get_mut() {
                *path = folder.join(&*path);
            }
        }
        let keys = self.key.iter_mut().map(|key| &mut key.file);
        keys.chain(&mut self.key_file).for_each(|file| *file = folder.join(&*file));
        let place = |at| {
            let (line, column) = place(text, at);
            format!("{}:{line}:{column}", path.display())
        };
        self.unix.iter_mut().for_each(|rule| rule.settle(folder, &place));
    }
}

fn read_mode<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    struct Mode;
    impl Visitor<'_> for Mode {
        type Value = u32;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(IN_QUOTES)
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<u32, E> {
            mode(text).map_err(E::custom)
        }
    }
    deserializer.deserialize_any(Mode).map(Some)
}

/// How permissions stand in a file, where numbers are decimal.
const IN_QUOTES: &str = "octal permissions in quotes, as in \"0660\"";

fn read_slow<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Slow>, D::Error> {
    from_text(deserializer).map(Some)
}

fn read_seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    amount::seconds(f64::deserialize(deserializer)?).map(Some).map_err(D::Error::custom)
}

fn read_every<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let span = amount::seconds(f64::deserialize(deserializer)?).ok().filter(|span| *span >= LEDGER_EVERY_MIN);
    let span = span.ok_or_else(|| D::Error::custom("expected a number of seconds from 0.05 to 3600"))?;
    Ok(Some(span))
}

fn read_silence<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    silence(f64::deserialize(deserializer)?).map(Some).map_err(D::Error::custom)
}

/// How long a peer may be silent, in seconds; 0 for as long as the kernel lets it.
///
/// # Errors
/// What is wrong with it, for its author.
pub(super) fn silence(number: f64) -> Result<Duration, String> {
    let span = amount::seconds(number).ok().filter(|span| span.is_zero() || span.as_secs() >= 5);
    span.ok_or_else(|| "expected a number of seconds from 5 to 3600, or 0 for no bound".to_owned())
}

/// Reads permissions.
///
/// # Errors
/// When they are not octal.
pub(super) fn mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
    mode.ok_or_else(|| "expected octal permissions, as in 0660".to_owned())
}

/// Where the file is, unless a flag says otherwise. `None` if there is no such place.
pub(super) fn default_path() -> Option<PathBuf> {
    let system = PathBuf::from("/etc/staunch/staunch.toml");
    // Users of their own have none of the three as a rule (STATE_DIRECTORY: the service manager's).
    if effective_user() == 0 || std::env::var_os("STATE_DIRECTORY").is_some() {
        return Some(system);
    }
    let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let folder = variable("XDG_CONFIG_HOME").or_else(|| Some(variable("HOME")?.join(".config")));
    folder.map(|folder| folder.join("staunch/staunch.toml"))
}

/// Reads a file. `None` if there is none.
///
/// # Errors
/// What is wrong with it and where, for its author.
pub(super) fn read(path: &Path) -> Result<Option<File>, String> {
    let text = match read_text(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == ErrorKind::InvalidData => {
            return Err(format!("{}: not text in UTF-8", path.display()));
        }
        Err(error) => return Err(format!("{}: {error}", path.display())),
    };
    let mut file = parse_file(&text).map_err(|(line, column, what)| match line {
        0 => format!("{}: {what}", path.display()),
        _ => format!("{}:{line}:{column}: {what}", path.display()),
    })?;
    file.settle(path, &text);
    Ok(Some(file))
}

fn read_text(path: &Path) -> std::io::Result<String> {
    use std::io::Read;
    // To open a pipe would wait for somebody who writes to it.
    if !std::fs::metadata(path)?.is_file() {
        return Err(std::io::Error::other("not a file"));
    }
    let mut text = String::new();
    let read = std::fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    match read as u64 > FILE_BYTES_MAX {
        true => Err(std::io::Error::other("too large for a configuration file")),
        false => Ok(text),
    }
}

/// Reads what a file holds.
///
/// # Errors
/// The line and column, from 1 (0 if not known), and what is wrong there.
fn parse_file(text: &str) -> Result<File, (usize, usize, String)> {
    let file: File = toml::from_str(text).map_err(|error| {
        let (line, column) = error.span().map_or((0, 0), |span| place(text, span.start));
        let mut what = error.message().replace('\n', "; ");
        // What begins with 0 is no number at all.
        let is_mode = line.checked_sub(1).and_then(|before| text.lines().nth(before));
        if what.contains("leading zero") && is_mode.is_some_and(|l| l.trim_start().starts_with("socket-mode"))
        {
            what = format!("expected {IN_QUOTES}");
        }
        (line, column, what)
    })?;
    for listen in file.listen.iter().flatten() {
        if let Place(Err(error)) = listen.as_ref() {
            let (line, column) = place(text, listen.span().start);
            return Err((line, column, error.clone()));
        }
    }
    Ok(file)
}

/// The line and column of a byte, from 1.
fn place(text: &str, at: usize) -> (usize, usize) {
    let before = &text.as_bytes()[..at.min(text.len())];
    let line = before.iter().filter(|b| **b == b'\n').count() + 1;
    let start = before.iter().rposition(|b| *b == b'\n').map_or(0, |newline| newline + 1);
    (line, String::from_utf8_lossy(&before[start..]).chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (text, line, expected) in [
            ("listen = [\n  \"tcp:localhost:1\",\n]", 2, "is a name"),
            ("listen = \"tcp:127.0.0.1:1\"", 1, "sequence"),
            ("\n\ndebt-mx = 1", 3, "debt-max"),
            ("debt-max = \"16MB\"", 1, "as in 16MiB"),
            ("debt-max = -1", 1, "4096 to"),
            ("debt-max = 1.5", 1, "whole number"),
            ("workers = 0", 1, "1 to 1024"),
            ("socket-mode = \"999\"", 1, "octal"),
            ("socket-mode = 660", 1, "in quotes"),
            ("workers = 1\nsocket-mode = 0660", 2, "in quotes, as in \"0660\""),
            ("workers = \"1MiB\"", 1, "whole number, as in 1000"),
            ("workers = true", 1, "a whole number from 1 to 1024"),
            ("drain = 1e9", 1, "0 to 3600"),
            ("slow = \"never\"", 1, "slow=never: expected"),
            ("slow = \"disconnect:1MB:5s\"", 1, "as in 16MiB"),
            ("[[unix]]\nuid = 1\ndeny = true\nslow = \"x\"", 4, "expected"),
            ("[[key]]\nfile = \"a\"\noid = \"1\"\nslow = \"x\"", 4, "expected"),
            ("metrics = \"unix:/x\"", 1, "over TCP"),
            ("metrics = 9464", 1, "string"),
            ("ledger-every = 0", 1, "0.05"),
            ("ledger-rows = 0", 1, "1 to 10000"),
            ("oid = \"<a\"", 1, "not closed"),
            ("[limits]\nconections = 1", 2, "there are packet-bytes"),
            ("[limits]\nconnections = 0", 2, "too small"),
            ("[limits]\n\nconnections = \"x\"", 3, "whole number"),
            ("workers = 1\nworkers = 2", 2, "duplicate"),
            ("[[key]]\nfile = \"a\"", 1, "oid"),
            ("[[unix]]\nuid = 1\ndeny = true\ngatekeeper = true", 1, "deny"),
            ("[[unix]]\nuid = 1", 1, "deny"),
            ("[[unix]]\nuser = \"no such user\"\ndeny = true", 2, "no user"),
            ("[[unix]]\nreference = '<ref {}>'", 2, "reference"),
            ("[[unix]]\nuid = 1\nuser = \"root\"\ndeny = true", 1, "uid"),
            ("=", 1, ""),
        ] {
            let (found, _, what) = parse_file(text).err().unwrap_or_else(|| panic!("{text}"));
            assert!(found == line && what.contains(expected), "{text}: line {found}: {what}");
        }
    }
}

//! What holds: flags, the file, and what is so where neither says anything.

use std::path::PathBuf;
use std::time::Duration;

use staunch::limits::Limits;
use staunch::server::{Binding, Config, LedgerConfig, Listen, Slow};
use toml::{Table, Value};

use super::super::key;
use super::limits::{Chosen, LIMITS};
use super::rules::UnixRule;
use super::{File, MetricsAddress, Oid, amount};

/// How long what waits may take to go out in the end, unless it is said.
const DRAIN: Duration = Duration::from_secs(5);

/// What is done about slow consumers, unless it is said: nothing may have waited for one for two minutes. What less
/// than all would count is no bound on those who open many connections.
const SLOW: Slow = Slow::Disconnect { bytes: 0, after: Duration::from_secs(120) };

/// What flags say. What they do not say is `None`.
#[derive(Default)]
pub(crate) struct Named {
    pub(crate) is_dev: bool,
    /// A session on standard input and output: it listens only where that is said.
    pub(crate) is_stdio: bool,
    pub(crate) listen: Vec<Listen>,
    pub(crate) socket_mode: Option<u32>,
    pub(crate) key_file: Option<PathBuf>,
    pub(crate) oid: Option<Oid>,
    pub(crate) workers: Option<u64>,
    /// In microseconds.
    pub(crate) busy_poll: Option<u64>,
    pub(crate) debt_max: Option<u64>,
    pub(crate) outbox_max: Option<u64>,
    pub(crate) fan_out_max: Option<u64>,
    pub(crate) send_buffer: Option<u64>,
    pub(crate) receive_buffer: Option<u64>,
    pub(crate) slow: Option<Slow>,
    pub(crate) silence_max: Option<Duration>,
    pub(crate) drain: Option<Duration>,
    pub(crate) metrics: Option<MetricsAddress>,
    pub(crate) limits: Vec<Chosen>,
}

/// What holds.
pub(crate) struct Settings {
    pub(crate) is_dev: bool,
    /// `None` if it has not been said where to listen.
    pub(crate) listen: Option<Vec<Listen>>,
    pub(crate) drain: Duration,
    /// All but the addresses and bindings.
    config: Config,
    keys: Vec<Key>,
    rules: Vec<UnixRule>,
}

/// A key and what it is for.
pub(crate) struct Key {
    pub(crate) path: PathBuf,
    pub(crate) oid: Oid,
    /// Its folder may be made.
    is_default: bool,
    /// What is done about those who come in by it and are slow, if it is something else than about others.
    slow: Option<Slow>,
}

/// A key that was read or made.
pub(crate) struct Read {
    pub(crate) path: PathBuf,
    pub(crate) oid: Oid,
    pub(crate) key: Vec<u8>,
    pub(crate) is_made: bool,
    slow: Option<Slow>,
}

/// Which key makes references: where it is, and what they are for. What is not given is as `staunch serve` has it by this
/// file: of several keys the one for this oid, or in this file, or the first.
///
/// # Errors
/// When nothing says where the key is.
pub(crate) fn key_for(
    given: Option<PathBuf>,
    oid: Option<Oid>,
    file: File,
) -> Result<(PathBuf, Oid), String> {
    let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
    let more = file.key.into_iter().find(|key| match (&given, &oid) {
        (None, Some(oid)) => key.oid.bytes == oid.bytes,
        (Some(path), None) => absolute(path) == absolute(&key.file),
        _ => false,
    });
    if let Some(key) = more {
        return Ok((key.file, key.oid));
    }
    let path = given.or(file.key_file).map_or_else(key::default_path, Ok)?;
    Ok((path, oid.or(file.oid).unwrap_or_else(default_oid)))
}

/// What the references are for, unless it is said.
fn default_oid() -> Oid {
    let text = super::super::serve::DEFAULT_OID;
    Oid { text: text.to_owned(), bytes: super::parse(text).unwrap_or_default() }
}

/// The first key, which lets in to the ledger as well, and more.
fn keys(
    flags: &Named,
    key_file: Option<PathBuf>,
    oid: Option<Oid>,
    more: Vec<super::Key>,
) -> Result<Vec<Key>, String> {
    // For the sake of those who read the log elsewhere.
    let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
    let (path, is_default) = match flags.key_file.as_ref().or(key_file.as_ref()) {
        Some(path) => (absolute(path), false),
        None => (key::default_path()?, true),
    };
    let oid = flags.oid.clone().or(oid).unwrap_or_else(default_oid);
    let mut keys = vec![Key { path, oid, is_default, slow: None }];
    for more in more {
        if let Some(same) = keys.iter().find(|key| key.oid.bytes == more.oid.bytes) {
            return Err(format!(
                "two keys are for the oid {}: {} and {}. Give each an oid of its own",
                more.oid.text,
                same.path.display(),
                more.file.display()
            ));
        }
        keys.push(Key { path: absolute(&more.file), oid: more.oid, is_default: false, slow: more.slow });
    }
    if keys.iter().any(|key| key.oid.bytes == Binding::of_ledger(Vec::new()).oid) {
        return Err("the oid \"ledger\" is that of the broker's ledger, which the first key lets in to. \
                    Choose another"
            .to_owned());
    }
    Ok(keys)
}

impl Settings {
    /// Flags win over the file.
    ///
    /// # Errors
    /// When both together make no sense.
    pub(crate) fn of(flags: &Named, file: File) -> Result<Settings, String> {
        let mut limits = Limits::default();
        file.limits.apply(&mut limits);
        flags.limits.iter().for_each(|chosen| chosen.apply(&mut limits));
        let defaults = Config::default();
        // The ranges fit this machine's words, or what does not fit is as good as no bound.
        let words = |n: u64| usize::try_from(n).unwrap_or(usize::MAX >> 3);
        let choose = |flag: Option<u64>, file: Option<u64>, default: u64| flag.or(file).unwrap_or(default);
        let size = |flag, file, default: usize| words(choose(flag, file, default as u64));
        let config = Config {
            socket_mode: flags.socket_mode.or(file.socket_mode),
            workers: size(flags.workers, file.workers.map(|n| n.0), defaults.workers),
            busy_poll: flags
                .busy_poll
                .or(file.busy_poll.map(|n| n.0))
                .map_or(defaults.busy_poll, Duration::from_micros),
            debt_max: choose(flags.debt_max, file.debt_max.map(|n| n.0), defaults.debt_max),
            orphaned_max: choose(None, file.orphaned_max.map(|n| n.0), defaults.orphaned_max),
            outbox_max: size(flags.outbox_max, file.outbox_max.map(|n| n.0), defaults.outbox_max),
            fan_out_max: choose(flags.fan_out_max, file.fan_out_max.map(|n| n.0), defaults.fan_out_max),
            send_buffer: size(flags.send_buffer, file.send_buffer.map(|n| n.0), defaults.send_buffer),
            receive_buffer: size(
                flags.receive_buffer,
                file.receive_buffer.map(|n| n.0),
                defaults.receive_buffer,
            ),
            slow: flags.slow.or(file.slow).unwrap_or(SLOW),
            silence_max: flags
                .silence_max
                .or(file.silence_max)
                .map_or(defaults.silence_max, Some)
                .filter(|s| !s.is_zero()),
            ledger: LedgerConfig {
                every: file.ledger_every.unwrap_or(defaults.ledger.every),
                rows_max: size(None, file.ledger_rows.map(|n| n.0), defaults.ledger.rows_max),
                ..defaults.ledger
            },
            metrics: flags.metrics.or(file.metrics).map(|metrics| metrics.0),
            limits,
            ..defaults
        };
        let listen = if flags.listen.is_empty() { file.listen() } else { Some(flags.listen.clone()) };
        let listen = if flags.is_stdio { Some(listen.unwrap_or_default()) } else { listen };
        // Nobody comes in who would have to show anything.
        let is_closed = listen.as_ref().is_some_and(Vec::is_empty) && flags.is_stdio;
        let is_dev = flags.is_dev && !is_closed;
        let keys = match flags.is_dev || is_closed {
            true => Vec::new(),
            false => keys(flags, file.key_file, file.oid, file.key)?,
        };
        let drain = flags.drain.or(file.drain).unwrap_or(DRAIN);
        Ok(Settings { is_dev, listen, drain, config, keys, rules: file.unix })
    }

    /// Reads the keys, and makes those that are not there.
    ///
    /// # Errors
    /// What is wrong with one.
    pub(crate) fn read_keys(&self) -> Result<Vec<Read>, String> {
        let read = |key: &Key| {
            let (path, oid, slow) = (key.path.clone(), key.oid.clone(), key.slow);
            let (key, is_made) =
                key::read_or_make(&path, key.is_default).map_err(|error| error.to_string())?;
            Ok(Read { path, oid, key, is_made, slow })
        };
        self.keys.iter().map(read).collect()
    }

    /// The keys, as far as they are there.
    ///
    /// # Errors
    /// What is wrong with one.
    pub(crate) fn check_keys(&self) -> Result<Vec<Read>, String> {
        let mut found = Vec::new();
        for Key { path, oid, slow, is_default } in &self.keys {
            match key::read(path) {
                Ok(key) => found.push(Read {
                    path: path.clone(),
                    oid: oid.clone(),
                    key,
                    is_made: false,
                    slow: *slow,
                }),
                Err(error) if error.is_absence() => {
                    key::check_folder(path, *is_default).map_err(|error| error.to_string())?;
                }
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(found)
    }

    /// The broker's configuration, but for where it listens.
    ///
    /// # Errors
    /// When a rule's file cannot be read.
    pub(crate) fn config(&self, keys: &[Read]) -> Result<Config, String> {
        let binding =
            |read: &Read| Binding { oid: read.oid.bytes.clone(), key: read.key.clone(), slow: read.slow };
        let mut bindings: Vec<Binding> = keys.iter().map(binding).collect();
        let mut ledger_bindings: Vec<Binding> =
            keys.iter().take(1).map(|read| Binding::of_ledger(read.key.clone())).collect();
        if self.is_dev {
            bindings.push(Binding::well_known());
            ledger_bindings.push(Binding::of_ledger(Vec::new()));
        }
        let (rules, wrong): (Vec<_>, Vec<_>) = self.rules.iter().map(UnixRule::read).partition(Result::is_ok);
        if !wrong.is_empty() {
            return Err(wrong.into_iter().filter_map(Result::err).collect::<Vec<_>>().join("; "));
        }
        let rules = rules.into_iter().flatten().collect();
        Ok(Config { bindings, ledger_bindings, rules, ..self.config.clone() })
    }

    /// Has no more connections than the process has descriptors for.
    pub(crate) fn bound_by_descriptors(&mut self) {
        let limits = std::mem::take(&mut self.config.limits);
        self.config.limits = limits.with_descriptors();
    }

    /// As a file that says all of it. `listen` is what is listened on.
    pub(crate) fn show(&self, listen: &[Listen]) -> Table {
        let config = &self.config;
        let mut table = Table::new();
        let mut add = |name: &str, value: Value| _ = table.insert(name.to_owned(), value);
        add(
            "listen",
            listen.iter().map(|address| Value::from(address.to_string())).collect::<Vec<_>>().into(),
        );
        if let Some(mode) = config.socket_mode {
            add("socket-mode", format!("{mode:04o}").into());
        }
        let mut keys = self.keys.iter();
        if let Some(first) = keys.next() {
            add("key-file", first.path.display().to_string().into());
            add("oid", first.oid.text.clone().into());
        }
        add("workers", number(config.workers as u64));
        add("busy-poll", number(config.busy_poll.as_micros() as u64));
        for (name, bytes) in [
            ("debt-max", config.debt_max),
            ("orphaned-max", config.orphaned_max),
            ("outbox-max", config.outbox_max as u64),
            ("fan-out-max", config.fan_out_max),
            ("send-buffer", config.send_buffer as u64),
            ("receive-buffer", config.receive_buffer as u64),
        ] {
            add(name, size(bytes));
        }
        add("slow", config.slow.to_string().into());
        add("silence-max", config.silence_max.unwrap_or_default().as_secs_f64().into());
        add("drain", self.drain.as_secs_f64().into());
        if let Some(metrics) = config.metrics {
            add("metrics", format!("tcp:{metrics}").into());
        }
        add("ledger-every", config.ledger.every.as_secs_f64().into());
        add("ledger-rows", number(config.ledger.rows_max as u64));
        let limit = |limit: &super::limits::Limit| {
            let value = (limit.get)(&config.limits);
            (limit.name.to_owned(), if limit.is_size { size(value) } else { number(value) })
        };
        add("limits", LIMITS.iter().map(limit).collect::<Table>().into());
        let more = keys.map(|key| {
            let slow = key.slow.map(|slow| ("slow", slow.to_string()));
            let pairs = [("file", key.path.display().to_string()), ("oid", key.oid.text.clone())];
            let all = pairs.into_iter().chain(slow);
            Value::from(all.map(|(name, text)| (name.to_owned(), text.into())).collect::<Table>())
        });
        let more: Vec<Value> = more.collect();
        if !more.is_empty() {
            add("key", more.into());
        }
        if !self.rules.is_empty() {
            add("unix", self.rules.iter().map(|rule| rule.show().into()).collect::<Vec<Value>>().into());
        }
        table
    }
}

fn number(number: u64) -> Value {
    i64::try_from(number).unwrap_or(i64::MAX).into()
}

/// As text if it has a unit.
fn size(bytes: u64) -> Value {
    match amount::show_bytes(bytes) {
        text if text.ends_with('B') => text.into(),
        _ => number(bytes),
    }
}

/// What is different in another such table: `name: before -> after`. References are secret.
pub(crate) fn differences(before: &Table, after: &Table) -> Vec<String> {
    let shown = |value: Option<&Value>| value.map_or("not set".to_owned(), ToString::to_string);
    let mut names: Vec<&String> = before.keys().chain(after.keys()).collect();
    names.sort();
    names.dedup();
    let mut found = Vec::new();
    for name in names {
        match (before.get(name), after.get(name)) {
            (a, b) if a == b => {}
            (Some(Value::Table(a)), Some(Value::Table(b))) => {
                found.extend(differences(a, b).into_iter().map(|line| format!("{name}.{line}")));
            }
            _ if name == "unix" => found.push("unix: other rules".to_owned()),
            (a, b) => found.push(format!("{name}: {} -> {}", shown(a), shown(b))),
        }
    }
    found
}

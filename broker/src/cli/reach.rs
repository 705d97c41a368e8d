//! Which broker a client speaks to, by which reference, and what to do if that fails.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use staunch::client::{BrokerAddress, Error, Session};
use staunch_protocols::sturdy::{SturdyError, SturdyRef};

use super::Fault;
use super::allowed::Allowed;
use super::value::{parse, scan, show};

/// Where a broker listens unless told otherwise.
pub(super) const DEFAULT_ADDRESS: &str = "tcp:127.0.0.1:9001";
/// What lets everybody into a broker for development.
pub(super) const WELL_KNOWN: &str = r#"<ref {oid: "syndicate" sig: #[acowDB2/oI+6aSEC3YIxGg==]}>"#;
/// What lets everybody in to the ledger of a broker for development.
const LEDGER_WELL_KNOWN: &str = r#"<ref {oid: "ledger" sig: #[Iq1qeOH1ioG4nnps2aRo6w==]}>"#;
/// How large a file with a reference may be.
const REF_BYTES_MAX: u64 = 1 << 20;

/// The flags of all clients.
#[derive(clap::Args)]
#[command(next_help_heading = "Connection")]
pub(super) struct Reach {
    /// Where the broker is: tcp:HOST:PORT or unix:PATH [default: $STAUNCH_CONNECT, or tcp:127.0.0.1:9001]
    #[arg(long, value_name = "ADDRESS")]
    connect: Option<BrokerAddress>,
    /// The reference (sturdyref) that lets you in [default: $STAUNCH_REF, or the one of `staunch serve --dev`]
    ///
    /// It is a secret, and others on this machine can see the arguments of your programs. Where they should not, use
    /// --ref-file or $STAUNCH_REF.
    #[arg(long = "ref", value_name = "STURDYREF", conflicts_with = "ref_file")]
    reference: Option<String>,
    /// A file that holds the reference
    #[arg(long, value_name = "PATH")]
    ref_file: Option<PathBuf>,
    /// How many seconds the broker may take to let us in
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    timeout: Duration,
    /// Show no reference: the dataspace is there at once, for those to whom a [[unix]] rule of the broker gives it
    #[arg(long, conflicts_with_all = ["reference", "ref_file"])]
    direct: bool,
}

/// The flags of clients of the ledger.
#[derive(clap::Args)]
#[command(next_help_heading = "Connection")]
pub(super) struct LedgerReach {
    /// Where the broker is: tcp:HOST:PORT or unix:PATH [default: $STAUNCH_CONNECT, or tcp:127.0.0.1:9001]
    #[arg(long, value_name = "ADDRESS")]
    connect: Option<BrokerAddress>,
    /// The reference (sturdyref) to its ledger [default: $STAUNCH_LEDGER_REF, or the one of `staunch serve --dev`]
    ///
    /// It is a secret, and others on this machine can see the arguments of your programs. Where they should not, use
    /// --ref-file or $STAUNCH_LEDGER_REF.
    #[arg(long = "ref", value_name = "STURDYREF", conflicts_with = "ref_file")]
    reference: Option<String>,
    /// A file that holds the reference
    #[arg(long, value_name = "PATH")]
    ref_file: Option<PathBuf>,
    /// How many seconds the broker may take to let us in, and to tell something
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    timeout: Duration,
    /// Show no reference: the ledger is there at once, for those to whom a [[unix]] rule of the broker gives it
    #[arg(long, conflicts_with_all = ["reference", "ref_file"])]
    direct: bool,
}

impl LedgerReach {
    /// Connects, and resolves the reference.
    pub(super) fn open(self) -> Result<Reached, Fault> {
        let LedgerReach { connect, reference, ref_file, timeout, direct } = self;
        Reach { connect, reference, ref_file, timeout, direct }.open_by(&LEDGER)
    }
}

/// Which of a broker's dataspaces.
struct Space {
    /// Where a reference to it is.
    variable: &'static str,
    /// What lets everybody in to that of a broker for development.
    well_known: &'static str,
    /// How to have the reference printed.
    mint: &'static str,
}

const DEFAULT: Space = Space { variable: "STAUNCH_REF", well_known: WELL_KNOWN, mint: "`staunch ref mint`" };
const LEDGER: Space = Space {
    variable: "STAUNCH_LEDGER_REF",
    well_known: LEDGER_WELL_KNOWN,
    mint: "`staunch ref mint --oid '\"ledger\"'`",
};

/// A broker let us in; kept to say what is wrong later.
pub(super) struct Reached {
    /// The session.
    pub(super) session: Session,
    /// What may be said in it.
    pub(super) allowed: Allowed,
    /// Where it is.
    pub(super) address: BrokerAddress,
    /// For how long to wait for an answer.
    pub(super) timeout: Duration,
}

/// Reads a time span in seconds.
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 =
        text.parse().map_err(|_| "expected a number of seconds, as in 10 or 0.5".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|_| "expected a number of seconds from 0 up".to_owned())
}

/// Reads a sturdyref.
///
/// # Errors
/// What is wrong with it, for its author.
pub(super) fn read_ref(text: &str) -> Result<SturdyRef, String> {
    let value = parse(text).map_err(|error| format!("the reference cannot be read: {error}"))?;
    let scanner = scan(&value);
    let value = scanner.view(&value);
    let looks = format!("A reference looks like {WELL_KNOWN}");
    if !value.is_record("ref", 1) {
        return Err(format!("that is not a reference. {looks}"));
    }
    value.index(0).ok_or(SturdyError::Invalid).and_then(SturdyRef::read_parameters).map_err(|error| {
        match error {
            SturdyError::Invalid => {
                format!("the reference needs an oid, and a byte string as sig. {looks}")
            }
            SturdyError::FailedValidation => {
                "the reference's caveats are not valid, so every broker refuses it".to_owned()
            }
            SturdyError::CaveatsTooLong => error.to_string(),
        }
    })
}

/// An environment variable, unless it is empty.
fn environment(name: &str) -> Result<Option<String>, Fault> {
    match std::env::var(name) {
        Ok(text) if text.trim().is_empty() => Ok(None),
        Ok(text) => Ok(Some(text)),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(error) => Err(Fault::Usage(format!("${name}: {error}"))),
    }
}

impl Reach {
    /// Connects, and resolves the reference.
    pub(super) fn open(&self) -> Result<Reached, Fault> {
        self.open_by(&DEFAULT)
    }

    fn open_by(&self, space: &Space) -> Result<Reached, Fault> {
        let address = self.address()?;
        let timeout = self.timeout;
        if self.direct {
            return match Session::open_direct(&address, timeout) {
                Ok(session) => Ok(Reached { session, allowed: Allowed::all(), address, timeout }),
                Err(error) => Err(Fault::Failed(advise(&error, &address, None))),
            };
        }
        let (reference, source) = self.reference(space)?;
        match Session::open(&address, &reference, timeout) {
            Ok(session) => Ok(Reached { session, allowed: Allowed::by(&reference), address, timeout }),
            Err(error) => Err(Fault::Failed(advise(&error, &address, Some((&reference, source, space))))),
        }
    }

    fn address(&self) -> Result<BrokerAddress, Fault> {
        if let Some(address) = &self.connect {
            return Ok(address.clone());
        }
        let asked = environment("STAUNCH_CONNECT")?;
        let text = asked.as_deref().unwrap_or(DEFAULT_ADDRESS);
        text.parse().map_err(|error| Fault::Usage(format!("$STAUNCH_CONNECT: {error}")))
    }

    fn reference(&self, space: &Space) -> Result<(SturdyRef, Source), Fault> {
        let (text, source) = if let Some(text) = &self.reference {
            (text.clone(), Source::Flag)
        } else if let Some(path) = &self.ref_file {
            let text = read_short(path).map_err(|error| {
                Fault::Failed(format!("the reference's file {}: {error}", path.display()))
            })?;
            (text, Source::File)
        } else if let Some(text) = environment(space.variable)? {
            (text, Source::Environment)
        } else {
            (space.well_known.to_owned(), Source::WellKnown)
        };
        let reference = read_ref(&text).map_err(|error| match (source, &self.ref_file) {
            (Source::File, Some(path)) => Fault::Failed(format!("{}: {error}", path.display())),
            (Source::Environment, _) => Fault::Usage(format!("${}: {error}", space.variable)),
            _ => Fault::Usage(error),
        })?;
        Ok((reference, source))
    }
}

/// Reads a text file that holds a reference.
fn read_short(path: &std::path::Path) -> std::io::Result<String> {
    use std::io::Read;
    let mut text = String::new();
    let read = std::fs::File::open(path)?.take(REF_BYTES_MAX + 1).read_to_string(&mut text)?;
    match read as u64 > REF_BYTES_MAX {
        true => Err(std::io::Error::other("too large for a reference")),
        false => Ok(text),
    }
}

/// Where a reference comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Flag,
    File,
    Environment,
    WellKnown,
}

impl Reached {
    /// Why the session does not go on.
    pub(super) fn fault(&self, error: &Error) -> Fault {
        Fault::Failed(advise(error, &self.address, None))
    }
}

/// What went wrong, and what to do about it.
fn advise(error: &Error, address: &BrokerAddress, by: Option<(&SturdyRef, Source, &Space)>) -> String {
    match error {
        Error::Connect(_, cause) => advise_connect(address, cause),
        Error::Host(host, cause) => {
            format!("cannot connect to {address}: the name {host} is not known ({cause})")
        }
        Error::NotABroker(_) => {
            format!("{address}: {error}. Does another program listen there? --connect ADDRESS chooses")
        }
        Error::Silent(_) if by.is_some() => format!(
            "{address} took the connection, but gave {error}. Is it a Syndicate broker? If it is only slow, \
             --timeout SECONDS waits longer"
        ),
        Error::Unbound(_) => {
            let oid = by.map(|(reference, ..)| show(scan(&reference.oid).view(&reference.oid)));
            let or = match address {
                BrokerAddress::Unix(_) => {
                    " Or a [[unix]] rule of the broker gives this user a dataspace at once: then --direct"
                }
                BrokerAddress::Tcp(..) => "",
            };
            format!(
                "{address}: {error}. The oid is {}; is the reference for another broker?{or}",
                oid.unwrap_or_default()
            )
        }
        Error::Refused(why) if why == "sturdyref-failed-validation" => match by {
            Some((_, Source::WellKnown, space)) => format!(
                "{address} does not let everybody in, as `staunch serve --dev` does. Give its reference, by --ref, \
                 --ref-file or ${}; {} prints it, to those who may read the broker's key",
                space.variable, space.mint
            ),
            _ => format!(
                "{address} refuses the reference: it was not signed with this broker's key, or was changed since. \
                 `staunch ref inspect` shows it, and checks it against a key"
            ),
        },
        Error::Closed if by.is_some() => {
            format!(
                "{address}: {error} before it let us in. Is it a Syndicate broker, and has it not been stopped?"
            )
        }
        Error::Closed => format!("{address}: {error}. Has the broker been stopped?"),
        _ => format!("{address}: {error}"),
    }
}

fn advise_connect(address: &BrokerAddress, cause: &std::io::Error) -> String {
    let is_unix = matches!(address, BrokerAddress::Unix(_));
    let why = match cause.kind() {
        ErrorKind::ConnectionRefused => "nobody listens there".to_owned(),
        ErrorKind::NotFound if is_unix => "there is no such socket".to_owned(),
        ErrorKind::PermissionDenied if is_unix => {
            return format!(
                "cannot connect to {address}: this user may not. It takes the permission to write to the socket's file"
            );
        }
        ErrorKind::TimedOut => "it does not answer".to_owned(),
        _ => cause.to_string(),
    };
    // Elsewhere it is a service, or somebody else's.
    let start =
        if address.to_string() == DEFAULT_ADDRESS { " `staunch serve --dev` starts one;" } else { "" };
    format!(
        "cannot connect to {address}: {why}. Is the broker running?{start} --connect ADDRESS chooses another"
    )
}

//! `staunch ref`: references (sturdyrefs) made, restricted and looked at.

use std::fmt::Write;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::Subcommand;
use staunch_protocols::sturdy::{SturdyRef, check_caveat};
use staunch_protocols::wire::encode;

use super::config::{self, Oid};
use super::manual::print;
use super::reach::read_ref;
use super::serve::DEFAULT_OID;
use super::value::{parse, scan, show};
use super::{Fault, json, key, pattern};

/// How long a reference on standard input may be.
const REF_BYTES_MAX: u64 = 1 << 20;

/// Mint, attenuate and inspect references (sturdyrefs).
#[derive(Subcommand)]
#[command(after_help = "\
A reference is a text that lets in whoever has it, and that nobody can guess.
Whoever has it can restrict it, without a key and without the broker, and give
it on; the restrictions cannot be taken away.

What a restricted reference does not allow, the broker drops without an answer:
nobody is told of an assertion or a message that does not pass, and an observer
that does not pass sees nothing. `staunch assert`, `send` and `observe` say so
beforehand.")]
pub(super) enum Reference {
    Mint(Mint),
    Attenuate(Attenuate),
    Inspect(Inspect),
}

impl Reference {
    pub(super) fn run(self) -> Result<(), Fault> {
        match self {
            Reference::Mint(mint) => mint.run(),
            Reference::Attenuate(attenuate) => attenuate.run(),
            Reference::Inspect(inspect) => inspect.run(),
        }
    }
}

/// What is added to a reference.
#[derive(clap::Args)]
#[command(next_help_heading = "Restrictions")]
struct Restrictions {
    /// A caveat, as the protocol has it: <rewrite PATTERN TEMPLATE>, <or [<rewrite ..> ..]> or <reject PATTERN>
    ///
    /// Of several, the last sees a value first. (Caveats' patterns are a language of their own, with exact lengths:
    /// <rec Says [<lit "ann"> <_>]>.)
    #[arg(long = "caveat", value_name = "CAVEAT")]
    caveats: Vec<String>,
    /// Let only this be asserted or sent, as in '<Says "ann" _>', where _ is anything
    ///
    /// Lengths are exact. May be given more than once; together with --allow-observe all that is allowed by one of them
    /// passes, and nothing else.
    #[arg(long, value_name = "VALUE")]
    allow: Vec<String>,
    /// Let only this pattern be observed, written as for `staunch observe`
    ///
    /// Exactly the pattern that `staunch observe` makes of it; see --allow.
    #[arg(long, value_name = "PATTERN")]
    allow_observe: Vec<String>,
}

impl Restrictions {
    /// The caveats, oldest first.
    fn read(&self) -> Result<Vec<Vec<u8>>, Fault> {
        let mut caveats = Vec::new();
        for text in &self.caveats {
            let usage = |error: String| Fault::Usage(format!("the caveat {text}: {error}"));
            let caveat = parse(text).map_err(usage)?;
            match check_caveat(scan(&caveat).view(&caveat)) {
                Ok(true) => {}
                Ok(false) => eprintln!(
                    "staunch: warning: the caveat {text} is not known here, or malformed. This broker lets nothing pass \
                     it"
                ),
                Err(error) => return Err(usage(error.to_string())),
            }
            caveats.push(caveat);
        }
        if self.allow.is_empty() && self.allow_observe.is_empty() {
            return Ok(caveats);
        }
        let mut or = Vec::new();
        encode::record(&mut or, "or");
        encode::sequence(&mut or);
        for text in &self.allow {
            let allowed = pattern::allowed(text);
            write_pass(&mut or, &allowed.map_err(|error| Fault::Usage(format!("--allow {text}: {error}")))?);
        }
        for text in &self.allow_observe {
            let observed = pattern::observed(text)
                .map_err(|error| Fault::Usage(format!("--allow-observe {text}: {error}")))?;
            let mut allowed = Vec::new();
            encode::record(&mut allowed, "rec");
            encode::symbol(&mut allowed, "Observe");
            encode::sequence(&mut allowed);
            encode::record(&mut allowed, "lit");
            allowed.extend_from_slice(&observed.bytes);
            encode::end(&mut allowed);
            encode::record(&mut allowed, "_");
            (0..3).for_each(|_| encode::end(&mut allowed));
            write_pass(&mut or, &allowed);
        }
        (0..2).for_each(|_| encode::end(&mut or));
        caveats.push(or);
        Ok(caveats)
    }
}

/// The reference with these caveats, if it may have so many.
fn restricted(reference: SturdyRef, caveats: &[Vec<u8>]) -> Result<SturdyRef, Fault> {
    let restricted = caveats.iter().fold(reference, |reference, caveat| reference.attenuate(caveat));
    restricted.compile().map_err(|error| Fault::Usage(error.to_string()))?;
    Ok(restricted)
}

/// Appends `<rewrite <bind PATTERN> <ref 0>>`: what matches passes unchanged.
fn write_pass(out: &mut Vec<u8>, pattern: &[u8]) {
    encode::record(out, "rewrite");
    encode::record(out, "bind");
    out.extend_from_slice(pattern);
    encode::end(out);
    encode::record(out, "ref");
    encode::int(out, 0);
    encode::end(out);
    encode::end(out);
}

/// Print the reference that a broker's key makes.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  staunch ref mint
  staunch ref mint --oid '\"ledger\"'            to the ledger, for `staunch top`
  staunch ref mint --key-file key --allow-observe '<Present $who>'")]
pub(super) struct Mint {
    /// The broker's key [default: where `staunch serve` has it; see there]
    #[arg(long, value_name = "PATH")]
    key_file: Option<PathBuf>,
    /// Use the empty key, of `staunch serve --dev`
    #[arg(long, conflicts_with_all = ["key_file", "config"])]
    dev: bool,
    /// What the reference is for, as Preserves text [default: what `staunch serve` has for that key, as a rule
    /// "syndicate"]
    #[arg(long, value_name = "VALUE")]
    oid: Option<Oid>,
    /// The broker's configuration file, which may say where its keys are, and what for [default: that of `staunch serve`]
    #[arg(long, value_name = "PATH")]
    config: Option<PathBuf>,
    #[command(flatten)]
    restrictions: Restrictions,
}

impl Mint {
    fn run(self) -> Result<(), Fault> {
        let caveats = self.restrictions.read()?;
        let (key, oid) = if self.dev {
            (Vec::new(), self.oid.map_or_else(|| DEFAULT_OID.parse(), Ok).map_err(Fault::Usage)?)
        } else {
            let (path, oid) = Mint::key(self.key_file, self.oid, self.config)?;
            (read_key(&path)?, oid)
        };
        show_ref(&restricted(SturdyRef::mint(&oid.bytes, &key), &caveats)?)
    }

    /// Where the key is, and what the reference is for: as `staunch serve` has it.
    fn key(
        given: Option<PathBuf>,
        oid: Option<Oid>,
        asked: Option<PathBuf>,
    ) -> Result<(PathBuf, Oid), Fault> {
        let is_all_given = given.is_some() && oid.is_some() && asked.is_none();
        let (is_named, path) = (asked.is_some(), asked.or_else(config::default_path));
        let file = match path.filter(|_| !is_all_given) {
            None => None,
            Some(path) => match config::read(&path).map_err(Fault::Failed)? {
                None if is_named => {
                    return Err(Fault::Failed(format!("{}: there is no such file", path.display())));
                }
                file => file,
            },
        };
        config::key_for(given, oid, file.unwrap_or_default()).map_err(Fault::Failed)
    }
}

/// Reads a key, which `staunch serve` makes.
fn read_key(path: &Path) -> Result<Vec<u8>, Fault> {
    key::read(path).map_err(|error| match error.is_absence() {
        true => Fault::Failed(format!(
            "{}: there is no key. `staunch serve` makes one at its first start; --key-file PATH says where it is, and \
             --dev uses that of `staunch serve --dev`",
            path.display()
        )),
        false => Fault::Failed(error.to_string()),
    })
}

/// Restrict a reference: what it is given to can do less. Takes no key.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  staunch ref attenuate \"$REF\" --allow '<Says \"ann\" _>'
  staunch ref mint | staunch ref attenuate - --caveat '<reject <rec secret [<_>]>>'

All --allow and --allow-observe of one command form one caveat, the last one.
What is not allowed is dropped by the broker without an answer.")]
pub(super) struct Attenuate {
    /// The reference; - reads it from standard input
    #[arg(value_name = "STURDYREF")]
    reference: String,
    #[command(flatten)]
    restrictions: Restrictions,
}

impl Attenuate {
    fn run(self) -> Result<(), Fault> {
        let caveats = self.restrictions.read()?;
        if caveats.is_empty() {
            return Err(Fault::Usage("give a restriction: --allow, --allow-observe or --caveat".to_owned()));
        }
        let reference = argument(&self.reference)?;
        show_ref(&restricted(reference, &caveats)?)
    }
}

/// Show what is in a reference, and whether a key has made it.
#[derive(clap::Args)]
#[command(after_long_help = "\
Status: 0; 1 if a key was given that has not made the reference; 2 if it is no
reference.")]
pub(super) struct Inspect {
    /// The reference; - reads it from standard input
    #[arg(value_name = "STURDYREF")]
    reference: String,
    /// Check whether the key in this file has made it
    #[arg(long, value_name = "PATH")]
    key_file: Option<PathBuf>,
    /// Check whether the empty key has made it, of `staunch serve --dev`
    #[arg(long, conflicts_with = "key_file")]
    dev: bool,
    /// Print JSON: {"oid": .., "sig": .., "caveats": [{"caveat": .., "known": ..}, ..], "verified": true, false or null}
    #[arg(long)]
    json: bool,
}

impl Inspect {
    fn run(self) -> Result<(), Fault> {
        let reference = argument(&self.reference)?;
        let key = match (&self.key_file, self.dev) {
            (Some(path), _) => Some(read_key(path)?),
            (None, true) => Some(Vec::new()),
            (None, false) => None,
        };
        let is_verified = key.map(|key| reference.verify(&key));
        let described = if self.json {
            describe_json(&reference, is_verified)
        } else {
            describe(&reference, is_verified)
        };
        print(described.as_bytes())?;
        match is_verified {
            Some(false) => Err(Fault::Failed(
                "the signature does not fit the key: another key has made the reference, or it was changed"
                    .to_owned(),
            )),
            _ => Ok(()),
        }
    }
}

/// Whether a caveat of a reference is known here.
fn is_known(caveat: &[u8]) -> bool {
    check_caveat(scan(caveat).view(caveat)).unwrap_or(false)
}

fn describe(reference: &SturdyRef, is_verified: Option<bool>) -> String {
    let shown = |value: &[u8]| show(scan(value).view(value));
    let mut sig = Vec::new();
    encode::bytes(&mut sig, &reference.sig);
    let mut out = String::new();
    let _ = writeln!(out, "oid       {}", shown(&reference.oid));
    let _ = writeln!(out, "sig       {}", shown(&sig));
    let _ = match is_verified {
        Some(true) => writeln!(out, "verified  yes: the key has made it"),
        Some(false) => writeln!(out, "verified  NO: the key has not made it"),
        None => writeln!(out, "verified  not checked; --key-file PATH checks"),
    };
    if reference.caveats.is_empty() {
        let _ = writeln!(out, "caveats   none: it is not restricted");
    }
    for (at, caveat) in reference.caveats.iter().enumerate() {
        let heading = match (at, reference.caveats.len()) {
            (0, 1) => "caveats   ",
            (0, _) => "caveats   the last sees a value first\n          ",
            _ => "          ",
        };
        let _ = writeln!(out, "{heading}{}", shown(caveat));
        if !is_known(caveat) {
            let _ = writeln!(out, "          ^ unknown or malformed: this broker lets nothing pass it");
        }
    }
    out
}

fn describe_json(reference: &SturdyRef, is_verified: Option<bool>) -> String {
    let mut out = String::from("{\"oid\":");
    json::write(scan(&reference.oid).view(&reference.oid), &mut out);
    out.push_str(",\"sig\":\"");
    reference.sig.iter().for_each(|b| _ = write!(out, "{b:02x}"));
    out.push_str("\",\"caveats\":[");
    for (at, caveat) in reference.caveats.iter().enumerate() {
        out.push_str(if at > 0 { ",{\"caveat\":" } else { "{\"caveat\":" });
        json::write(scan(caveat).view(caveat), &mut out);
        let _ = write!(out, ",\"known\":{}}}", is_known(caveat));
    }
    let verified = is_verified.map_or("null".to_owned(), |is_verified| is_verified.to_string());
    let _ = writeln!(out, "],\"verified\":{verified}}}");
    out
}

/// A reference as it is given.
fn argument(text: &str) -> Result<SturdyRef, Fault> {
    if text.trim().is_empty() {
        return Err(Fault::Usage(
            "the argument STURDYREF is empty. Is a variable not set? `staunch ref mint` prints a reference; - reads it from \
             standard input"
                .to_owned(),
        ));
    }
    if text != "-" {
        return read_ref(text).map_err(Fault::Usage);
    }
    let mut text = String::new();
    let read = io::stdin().lock().take(REF_BYTES_MAX + 1).read_to_string(&mut text);
    let read = read.map_err(|error| Fault::Failed(format!("cannot read standard input: {error}")))?;
    if read as u64 > REF_BYTES_MAX {
        return Err(Fault::Usage("standard input is too long for a reference".to_owned()));
    }
    read_ref(&text).map_err(|error| Fault::Usage(format!("standard input: {error}")))
}

fn show_ref(reference: &SturdyRef) -> Result<(), Fault> {
    let mut bytes = Vec::new();
    reference.write(&mut bytes);
    print(format!("{}\n", show(scan(&bytes).view(&bytes))).as_bytes())
}

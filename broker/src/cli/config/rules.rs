//! `[[unix]]`: who starts from what over Unix sockets.

use std::path::{Path, PathBuf};

use serde::de::{Deserialize, Deserializer, Error};
use staunch::admission::{Rule, Start, Who};
use staunch::server::Slow;
use staunch_protocols::sturdy::SturdyRef;
use staunch_system::users;

use super::super::reach::read_ref;
use super::super::value::{scan, show};

/// How large a file with a reference may be.
const REF_BYTES_MAX: u64 = 1 << 20;

/// A rule as it is written.
#[derive(Clone)]
pub(crate) struct UnixRule {
    who: Who,
    give: Give,
    slow: Option<Slow>,
}

#[derive(Clone)]
enum Give {
    Gatekeeper,
    Deny,
    Reference(Box<SturdyRef>),
    /// To be read when it is applied.
    File(PathBuf, Place),
}

/// Where in the configuration something stands: which byte, and in words once that is known.
#[derive(Clone)]
struct Place {
    at: usize,
    told: String,
}

/// The keys of a rule.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Keys {
    socket: Option<PathBuf>,
    uid: Option<u32>,
    #[serde(default, deserialize_with = "user")]
    user: Option<u32>,
    gid: Option<u32>,
    #[serde(default, deserialize_with = "group")]
    group: Option<u32>,
    #[serde(default)]
    deny: bool,
    #[serde(default)]
    gatekeeper: bool,
    #[serde(default, deserialize_with = "reference")]
    reference: Option<Box<SturdyRef>>,
    reference_file: Option<toml::Spanned<PathBuf>>,
    #[serde(default, deserialize_with = "super::read_slow")]
    slow: Option<Slow>,
}

impl<'de> Deserialize<'de> for UnixRule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<UnixRule, D::Error> {
        let keys = Keys::deserialize(deserializer)?;
        let one = |number: Option<u32>, named, what: &str, name: &str| match (number, named) {
            (Some(_), Some(_)) => Err(D::Error::custom(format!("give {what} or {name}, not both"))),
            (number, named) => Ok(number.or(named)),
        };
        let uid = one(keys.uid, keys.user, "uid", "user")?;
        let gid = one(keys.gid, keys.group, "gid", "group")?;
        let given = [
            keys.deny.then_some(Give::Deny),
            keys.gatekeeper.then_some(Give::Gatekeeper),
            keys.reference.map(Give::Reference),
            keys.reference_file.map(|file| {
                let place = Place { at: file.span().start, told: String::new() };
                Give::File(file.into_inner(), place)
            }),
        ];
        let mut given = given.into_iter().flatten();
        let (Some(give), None) = (given.next(), given.next()) else {
            return Err(D::Error::custom(
                "a rule gives one thing: deny = true, gatekeeper = true, reference = '<ref ..>' or reference-file = \
                 \"PATH\"",
            ));
        };
        Ok(UnixRule { who: Who { socket: keys.socket, uid, gid }, give, slow: keys.slow })
    }
}

fn named<'de, D: Deserializer<'de>>(
    deserializer: D,
    what: &str,
    find: fn(&str) -> std::io::Result<Option<u32>>,
) -> Result<Option<u32>, D::Error> {
    let name = String::deserialize(deserializer)?;
    match find(&name) {
        Ok(Some(number)) => Ok(Some(number)),
        Ok(None) => Err(D::Error::custom(format!("there is no {what} `{name}` on this machine"))),
        Err(error) => Err(D::Error::custom(format!("the {what} `{name}` cannot be looked up: {error}"))),
    }
}

fn user<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    named(deserializer, "user", users::user_id)
}

fn group<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    named(deserializer, "group", users::group_id)
}

fn reference<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<SturdyRef>>, D::Error> {
    let text = String::deserialize(deserializer)?;
    read_ref(&text).map(|reference| Some(Box::new(reference))).map_err(D::Error::custom)
}

impl UnixRule {
    /// Takes relative paths from this folder, and keeps where in the file things stand.
    pub(super) fn settle(&mut self, folder: &Path, place: &dyn Fn(usize) -> String) {
        if let Some(socket) = &mut self.who.socket {
            *socket = folder.join(&*socket);
        }
        if let Give::File(path, Place { at, told }) = &mut self.give {
            *path = folder.join(&*path);
            *told = place(*at);
        }
    }

    /// The rule, with what files hold.
    ///
    /// # Errors
    /// When a file cannot be read, or holds no reference.
    pub(crate) fn read(&self) -> Result<Rule, String> {
        let start = match &self.give {
            Give::Gatekeeper => Start::Gatekeeper,
            Give::Deny => Start::Nothing,
            Give::Reference(reference) => Start::Reference(reference.clone()),
            Give::File(path, place) => {
                let read =
                    read_file(path).map_err(|error| format!("{}: reference-file: {error}", place.told));
                Start::Reference(Box::new(read?))
            }
        };
        Ok(Rule { who: self.who.clone(), start, slow: self.slow })
    }

    /// As a table of the file.
    pub(crate) fn show(&self) -> toml::Table {
        let mut table = toml::Table::new();
        let mut add = |name: &str, value: Option<toml::Value>| {
            value.map(|value| table.insert(name.to_owned(), value));
        };
        add("socket", self.who.socket.as_ref().map(|path| path.display().to_string().into()));
        add("uid", self.who.uid.map(|uid| i64::from(uid).into()));
        add("gid", self.who.gid.map(|gid| i64::from(gid).into()));
        match &self.give {
            Give::Gatekeeper => add("gatekeeper", Some(true.into())),
            Give::Deny => add("deny", Some(true.into())),
            Give::Reference(reference) => {
                let mut bytes = Vec::new();
                reference.write(&mut bytes);
                add("reference", Some(show(scan(&bytes).view(&bytes)).into()));
            }
            Give::File(path, _) => add("reference-file", Some(path.display().to_string().into())),
        }
        add("slow", self.slow.map(|slow| slow.to_string().into()));
        table
    }
}

fn read_file(path: &Path) -> Result<SturdyRef, String> {
    use std::io::Read;
    let told = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|error| told(&error))?;
    let read = file.take(REF_BYTES_MAX + 1).read_to_string(&mut text).map_err(|error| told(&error))?;
    if read as u64 > REF_BYTES_MAX {
        return Err(told(&"too large for a reference"));
    }
    read_ref(&text).map_err(|error| told(&error))
}

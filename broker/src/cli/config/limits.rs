//! `[limits]`, and `--limit`: the names of what peers may have.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, Visitor};
use staunch::limits::Limits;

use super::amount;

/// One limit.
pub(crate) struct Limit {
    pub(crate) name: &'static str,
    pub(crate) min: u64,
    pub(crate) max: u64,
    /// Whether it counts bytes.
    pub(crate) is_size: bool,
    pub(crate) get: fn(&Limits) -> u64,
    set: fn(&mut Limits, u64),
}

/// Names a limit by where it stands in [`Limits`].
macro_rules! limit {
    ($name:literal, $min:expr, $max:expr, $is_size:literal, $($field:ident).+) => {
        Limit {
            name: $name,
            min: $min,
            max: $max,
            is_size: $is_size,
            get: |limits| u64::from(limits.$($field).+),
            // The bounds fit the field.
            set: |limits, value| limits.$($field).+ = value.try_into().unwrap_or_default(),
        }
    };
}

/// As good as no bound.
const MANY: u64 = 1 << 40;

/// All of them.
pub(crate) const LIMITS: [Limit; 18] = [
    limit!("packet-bytes", 1024, 1 << 30, true, packet_bytes),
    // What is stored is read again by scanners that know no deeper values; references with several caveats come to 20 and
    // more.
    limit!("packet-depth", 32, 256, false, packet_depth),
    limit!("connections", 1, MANY, false, connections),
    limit!("principal-connections", 1, MANY, false, principal_connections),
    limit!("principal-connection-rate", 1, MANY, false, principal_connection_rate),
    limit!("principal-connection-burst", 1, MANY, false, principal_connection_burst),
    limit!("connection-assertions", 1, MANY, false, connection.assertions),
    limit!("connection-observations", 1, MANY, false, connection.observations),
    limit!("connection-references", 1, MANY, false, connection.references),
    limit!("principal-assertions", 1, MANY, false, principal.assertions),
    limit!("principal-observations", 1, MANY, false, principal.observations),
    limit!("principal-references", 1, MANY, false, principal.references),
    limit!("principal-skeletons", 1, MANY, false, principal_skeletons),
    limit!("principal-skeletons-alike", 1, MANY, false, principal_skeletons_alike),
    limit!("principal-captures", 1024, MANY, false, principal_captures),
    limit!("principal-told", 1024, MANY, false, principal_told),
    limit!("principal-syncs", 64, MANY, false, principal_syncs),
    limit!("principal-unfinished", 64 << 10, MANY, true, principal_unfinished),
];

fn find(name: &str) -> Result<&'static Limit, String> {
    LIMITS.iter().find(|limit| limit.name == name).ok_or_else(|| {
        let names: Vec<&str> = LIMITS.iter().map(|limit| limit.name).collect();
        format!("there is no limit `{name}`; there are {}", names.join(", "))
    })
}

/// Some limits with their values, in the order in which they were given.
#[derive(Clone, Default)]
pub(crate) struct Chosen(Vec<(&'static Limit, u64)>);

impl Chosen {
    pub(crate) fn apply(&self, limits: &mut Limits) {
        self.0.iter().for_each(|(limit, value)| (limit.set)(limits, *value));
    }
}

/// Reads `NAME=VALUE`.
///
/// # Errors
/// What is wrong with it, for its author.
pub(crate) fn read_flag(text: &str) -> Result<Chosen, String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE, as in connections=1000")?;
    let limit = find(name.trim())?;
    let read = if limit.is_size { amount::read_within } else { amount::read_count_within };
    Ok(Chosen(vec![(limit, read(value, limit.min, limit.max)?)]))
}

impl<'de> serde::Deserialize<'de> for Chosen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Chosen, D::Error> {
        struct Table;
        impl<'de> Visitor<'de> for Table {
            type Value = Chosen;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table of limits")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Chosen, A::Error> {
                let mut chosen = Vec::new();
                while let Some(Name(limit)) = map.next_key()? {
                    chosen.push((limit, map.next_value_seed(limit)?));
                }
                Ok(Chosen(chosen))
            }
        }
        deserializer.deserialize_map(Table)
    }
}

/// A key of the table.
struct Name(&'static Limit);

impl<'de> serde::Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Name, D::Error> {
        find(&String::deserialize(deserializer)?).map(Name).map_err(D::Error::custom)
    }
}

impl<'de> DeserializeSeed<'de> for &'static Limit {
    type Value = u64;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<u64, D::Error> {
        super::within(deserializer, self.min, self.max, self.is_size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_sets_what_it_gets() {
        for limit in &LIMITS {
            let defaults = Limits::default();
            let before = (limit.get)(&defaults);
            assert!((limit.min..=limit.max).contains(&before), "{}", limit.name);
            let mut limits = defaults.clone();
            // Some are as large as they may be.
            let other = if before < limit.max { before + 1 } else { before - 1 };
            read_flag(&format!("{}={other}", limit.name)).unwrap().apply(&mut limits);
            assert_eq!((limit.get)(&limits), other, "{}", limit.name);
            let others = LIMITS.iter().filter(|other| other.name != limit.name);
            others
                .for_each(|o| assert_eq!((o.get)(&limits), (o.get)(&defaults), "{} {}", limit.name, o.name));
            read_flag(&format!("{}={}", limit.name, limit.max)).unwrap().apply(&mut limits);
            assert_eq!((limit.get)(&limits), limit.max, "{}", limit.name);
        }
    }

    #[test]
    fn what_is_no_limit_is_told() {
        for (text, expected) in [
            ("connections", "NAME=VALUE"),
            ("conections=1", "there are packet-bytes, "),
            ("connections=0", "1 to"),
            ("connections=many", "whole number"),
            ("packet-depth=16", "32 to 256"),
            ("connections=16MiB", "whole number, as in 1000"),
            ("packet-bytes=x", "as in 16MiB"),
        ] {
            let error = read_flag(text).err().unwrap();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}

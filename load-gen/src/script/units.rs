//! Amounts as people write them: `"300ms"`, `"8MiB"`, `"2x"`.

use std::fmt;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer};

/// A length of time, in seconds: a number, or text with the unit `us`, `ms`, `s`, `min` or `h`.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
pub struct Seconds(pub f64);

/// An amount of memory, in bytes: an integer, or text with the unit `B`, `KiB`, `MiB` or `GiB`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

/// How fast a producer sends.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Rate {
    /// As fast as the broker takes it: a closed loop.
    #[default]
    Full,
    /// Messages per second, each timed from the instant at which it was meant to be sent: an open loop.
    PerSecond(f64),
    /// An open loop at so many times what the broker takes at full speed, which is measured first.
    Times(f64),
}

/// Splits `12.5ms` into number and unit.
fn split(text: &str) -> Option<(f64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.' && c != '_').unwrap_or(text.len());
    let number: f64 = text[..end].replace('_', "").parse().ok()?;
    Some((number, text[end..].trim()))
}

impl Seconds {
    /// Reads text with a unit.
    pub fn parse(text: &str) -> Result<Seconds, String> {
        let (number, unit) =
            split(text).ok_or_else(|| format!("{text:?} is not a time, such as \"300ms\""))?;
        let scale = match unit {
            "us" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "min" => 60.0,
            "h" => 3600.0,
            _ => return Err(format!("{text:?} is not a time: its unit is us, ms, s, min or h")),
        };
        Ok(Seconds(number * scale))
    }

    /// In whole nanoseconds.
    pub fn ns(self) -> u64 {
        (self.0 * 1e9) as u64
    }
}

impl Bytes {
    /// Reads text with a unit.
    pub fn parse(text: &str) -> Result<Bytes, String> {
        let (number, unit) =
            split(text).ok_or_else(|| format!("{text:?} is not a size, such as \"8MiB\""))?;
        let scale = match unit {
            "B" => 1u64,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            _ => return Err(format!("{text:?} is not a size: its unit is B, KiB, MiB or GiB")),
        };
        Ok(Bytes((number * scale as f64) as u64))
    }
}

impl Rate {
    /// Reads `"full"` or a multiple as `"2x"`.
    pub fn parse(text: &str) -> Result<Rate, String> {
        match (text, split(text)) {
            ("full", _) => Ok(Rate::Full),
            (_, Some((times, "x"))) if times > 0.0 => Ok(Rate::Times(times)),
            _ => {
                Err(format!("{text:?} is not a rate: messages per second, \"full\", or a multiple as \"2x\""))
            }
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rate::Full => write!(f, "full speed"),
            Rate::PerSecond(n) => write!(f, "{n:.0}/s"),
            Rate::Times(n) => write!(f, "{n} times capacity"),
        }
    }
}

/// Reads a number with one function, and text with another.
struct Either<T> {
    what: &'static str,
    number: fn(f64) -> Option<T>,
    text: fn(&str) -> Result<T, String>,
}

impl<T> Visitor<'_> for Either<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what)
    }
    fn visit_i64<E: Error>(self, n: i64) -> Result<T, E> {
        self.visit_f64(n as f64)
    }
    fn visit_u64<E: Error>(self, n: u64) -> Result<T, E> {
        self.visit_f64(n as f64)
    }
    fn visit_f64<E: Error>(self, n: f64) -> Result<T, E> {
        (self.number)(n).ok_or_else(|| E::custom(format!("{n} is not {}", self.what)))
    }
    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        (self.text)(text).map_err(E::custom)
    }
}

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Seconds, D::Error> {
        d.deserialize_any(Either {
            what: "a time: a number of seconds, or text such as \"300ms\"",
            number: |n| (n >= 0.0 && n.is_finite()).then_some(Seconds(n)),
            text: Seconds::parse,
        })
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Bytes, D::Error> {
        d.deserialize_any(Either {
            what: "a size: a whole number of bytes, or text such as \"8MiB\"",
            number: |n| (n >= 0.0 && n.fract() == 0.0).then_some(Bytes(n as u64)),
            text: Bytes::parse,
        })
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Rate, D::Error> {
        d.deserialize_any(Either {
            what: "a rate: messages per second from 0.1 to 100 million, \"full\", or a multiple as \"2x\"",
            number: |n| (0.1..=1e8).contains(&n).then_some(Rate::PerSecond(n)),
            text: Rate::parse,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_with_their_units() {
        assert_eq!(Seconds::parse("300ms"), Ok(Seconds(0.3)));
        assert_eq!(Seconds::parse("1.5 min"), Ok(Seconds(90.0)));
        assert_eq!(Bytes::parse("8MiB"), Ok(Bytes(8 << 20)));
        assert_eq!(Bytes::parse("1_000B"), Ok(Bytes(1000)));
        assert_eq!(Rate::parse("full"), Ok(Rate::Full));
        assert_eq!(Rate::parse("2x"), Ok(Rate::Times(2.0)));
        for text in ["", "ms", "3", "3 parsecs", "-1s", "1e3s"] {
            assert!(Seconds::parse(text).is_err(), "{text}");
        }
        assert!(Bytes::parse("3MB").is_err() && Rate::parse("0x").is_err() && Rate::parse("fast").is_err());
    }
}

//! What is done about a consumer that does not take what waits for it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::amount;

/// A policy for slow consumers. What waits for one is owed by those who caused it, whatever the policy, so they are held
/// back meanwhile.
///
/// *Text*: `throttle`, `disconnect:BYTES:SECONDS` (as in `disconnect:4MiB:30s`), `latest`, `latest:drop`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Slow {
    /// Nothing else is done: they are held back for as long as it takes.
    #[default]
    Throttle,
    /// Its connection is ended when more than `bytes` have waited for it for longer than `after`.
    Disconnect {
        /// So many bytes may wait for as long as they like.
        bytes: u64,
        /// How long the others may wait: from a hundredth of a second to an hour.
        after: Duration,
    },
    /// Of state it is told what is newest: an assertion that is retracted before it was sent is not sent, and what came
    /// of it is repaid.
    Latest {
        /// Messages that wait are dropped as well, and counted; else they are sent as ever.
        drops_messages: bool,
    },
}

impl FromStr for Slow {
    type Err = String;

    fn from_str(text: &str) -> Result<Slow, String> {
        let wrong = || {
            format!(
                "slow={text}: expected throttle, disconnect:BYTES:SECONDS as in disconnect:4MiB:30s, latest or latest:drop"
            )
        };
        match text.split_once(':') {
            None if text == "throttle" => Ok(Slow::Throttle),
            None if text == "latest" => Ok(Slow::Latest { drops_messages: false }),
            Some(("latest", "drop")) => Ok(Slow::Latest { drops_messages: true }),
            Some(("disconnect", parts)) => {
                let (bytes, seconds) = parts.split_once(':').ok_or_else(wrong)?;
                let bytes =
                    amount::read_within(bytes, 0, 1 << 40).map_err(|why| format!("slow={text}: {why}"))?;
                let number = seconds.strip_suffix('s').unwrap_or(seconds).parse().unwrap_or(-1.0);
                let after = amount::seconds(number).ok().filter(|after| *after >= AFTER_MIN);
                let after = after.ok_or_else(|| {
                    format!("slow={text}: expected a number of seconds from 0.01 to 3600, as in 30s or 0.5s")
                })?;
                Ok(Slow::Disconnect { bytes, after })
            }
            _ => Err(wrong()),
        }
    }
}

/// The shortest that [`Slow::Disconnect`] waits.
const AFTER_MIN: Duration = Duration::from_millis(10);

impl fmt::Display for Slow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Slow::Throttle => f.write_str("throttle"),
            Slow::Disconnect { bytes, after } => {
                write!(f, "disconnect:{}:{}s", amount::show_bytes(*bytes), after.as_secs_f64())
            }
            Slow::Latest { drops_messages: false } => f.write_str("latest"),
            Slow::Latest { drops_messages: true } => f.write_str("latest:drop"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_read_as_they_are_written() {
        for text in [
            "throttle",
            "latest",
            "latest:drop",
            "disconnect:4MiB:30s",
            "disconnect:0:0.25s",
            "disconnect:5:3600s",
        ] {
            assert_eq!(text.parse::<Slow>().map(|slow| slow.to_string()), Ok(text.to_owned()));
        }
        let short = "disconnect:1024:2".parse::<Slow>().unwrap();
        assert_eq!(short.to_string(), "disconnect:1KiB:2s");
        for (text, why) in [
            ("", "expected throttle"),
            ("Throttle", "expected throttle"),
            ("latest:keep", "expected throttle"),
            ("disconnect", "expected throttle"),
            ("disconnect:1", "expected throttle"),
            ("disconnect:1MB:1s", "as in 16MiB"),
            ("disconnect:2TiB:1s", "too large"),
            ("disconnect:1:0", "0.01 to 3600"),
            ("disconnect:1:5m", "0.01 to 3600"),
            ("disconnect:1:nan", "0.01 to 3600"),
            ("disconnect:1:1s:1", "0.01 to 3600"),
        ] {
            let error = text.parse::<Slow>().unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}

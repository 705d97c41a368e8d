//! Where to listen, and how to answer there.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::amount;
use crate::slow::Slow;

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A TCP address and port.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Address, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path {
                "" => Err("unix: needs a path, as in unix:/run/staunch/socket".to_owned()),
                path => Ok(Address::Unix(path.into())),
            };
        }
        let Some(address) = text.strip_prefix("tcp:") else {
            return Err("expected tcp:ADDRESS:PORT or unix:PATH".to_owned());
        };
        address.parse().map(Address::Tcp).map_err(|_| match host_name(address) {
            Some((host, port)) => format!(
                "{host} is a name. Where to listen is given as a numeric address: tcp:127.0.0.1:{port} for this \
                 machine alone, tcp:0.0.0.0:{port} for all its IPv4 networks"
            ),
            None => {
                format!("{address} is not a numeric address with a port, as in 127.0.0.1:9001 or [::1]:9001")
            }
        })
    }
}

/// A host name and a port, if that is what stands there.
fn host_name(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let is_name = host.starts_with(|c: char| c.is_ascii_alphabetic())
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    Some((host, port.parse().ok()?)).filter(|_| is_name)
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => write!(f, "tcp:{address}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// In which form a gatekeeper answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Answers {
    /// `<ok capability>` and `<error why>`.
    #[default]
    Ok,
    /// `<accepted capability>` and `<rejected why>`, which clients want that are older, or written for older brokers.
    Accepted,
}

impl Answers {
    /// The label of the answer to who is let in.
    pub(crate) fn granted(self) -> &'static str {
        match self {
            Answers::Ok => "ok",
            Answers::Accepted => "accepted",
        }
    }

    /// The label of the answer to who is not.
    pub(crate) fn refused(self) -> &'static str {
        match self {
            Answers::Ok => "error",
            Answers::Accepted => "rejected",
        }
    }
}

impl FromStr for Answers {
    type Err = String;

    fn from_str(text: &str) -> Result<Answers, String> {
        match text {
            "ok" => Ok(Answers::Ok),
            "accepted" => Ok(Answers::Accepted),
            _ => Err(format!("answers={text}: expected answers=ok or answers=accepted")),
        }
    }
}

/// One listener: an address, and its options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// Where.
    pub address: Address,
    /// How its gatekeeper answers.
    pub answers: Answers,
    /// What is done about slow consumers that came in here; `None` for what holds elsewhere too.
    pub slow: Option<Slow>,
    /// Whether turns are counted and reported (`credit-flow-control`), each way.
    pub credit: Option<Credit>,
}

/// What a peer that agrees to report the turns that it has received may hold back by that.
///
/// *Text*: `on` for the default, or `WINDOW[:SECONDS]` as in `64KiB:2s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credit {
    /// So many bytes of turns that it has not reported may be sent to it, and the turn that exceeds that.
    pub window: u64,
    /// How long it may take to report a turn. After that its reports are waited for no more.
    pub patience: Duration,
}

impl Default for Credit {
    fn default() -> Credit {
        Credit { window: 1 << 20, patience: Duration::from_secs(10) }
    }
}

impl FromStr for Credit {
    type Err = String;

    fn from_str(text: &str) -> Result<Credit, String> {
        let default = Credit::default();
        if text == "on" {
            return Ok(default);
        }
        let (window, seconds) = text.split_once(':').map_or((text, None), |(w, s)| (w, Some(s)));
        let told =
            |why| format!("credit={text}: expected on, off or a window as in 64KiB or 64KiB:2s: {why}");
        let window = amount::read_within(window, 4096, 1 << 30).map_err(told)?;
        let patience = match seconds {
            None => default.patience,
            Some(seconds) => {
                let number = seconds.strip_suffix('s').unwrap_or(seconds).parse().unwrap_or(-1.0);
                let patience = amount::seconds(number).map_err(told)?;
                patience.max(Duration::from_millis(100))
            }
        };
        Ok(Credit { window, patience })
    }
}

impl fmt::Display for Credit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let default = Credit::default();
        if *self == default {
            return f.write_str("on");
        }
        f.write_str(&amount::show_bytes(self.window))?;
        match self.patience == default.patience {
            true => Ok(()),
            false => write!(f, ":{}s", self.patience.as_secs_f64()),
        }
    }
}

impl From<Address> for Listen {
    /// One without options.
    fn from(address: Address) -> Listen {
        Listen { address, answers: Answers::default(), slow: None, credit: None }
    }
}

impl FromStr for Listen {
    type Err = String;

    /// Reads `ADDRESS[,OPTION=VALUE...]`. A comma in a path stands for itself unless a word and `=` follow it, and no
    /// slash after that.
    fn from_str(text: &str) -> Result<Listen, String> {
        let mut address = text;
        let mut options = Vec::new();
        while let Some((before, name, value)) = last_option(address) {
            options.push((name, value));
            address = before;
        }
        let mut listen = Listen::from(address.parse::<Address>()?);
        let mut seen = Vec::new();
        for (name, value) in options.into_iter().rev() {
            if seen.contains(&name) {
                return Err(format!("{name}= is given twice"));
            }
            match name {
                "answers" => listen.answers = value.parse()?,
                "slow" => listen.slow = Some(value.parse()?),
                "credit" if value == "off" => listen.credit = None,
                "credit" => listen.credit = Some(value.parse()?),
                _ => {
                    return Err(format!(
                        "{name} is no option of a listener; there are answers=, slow= and credit="
                    ));
                }
            }
            seen.push(name);
        }
        Ok(listen)
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.address)?;
        if self.answers == Answers::Accepted {
            f.write_str(",answers=accepted")?;
        }
        if let Some(slow) = self.slow {
            write!(f, ",slow={slow}")?;
        }
        match self.credit {
            None => Ok(()),
            Some(credit) => write!(f, ",credit={credit}"),
        }
    }
}

/// Splits the last option off: what is before it, its name and value.
fn last_option(text: &str) -> Option<(&str, &str, &str)> {
    let (before, option) = text.rsplit_once(',')?;
    let (name, value) = option.split_once('=')?;
    let is_word = !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
    (is_word && !value.contains('/')).then_some((before, name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_read_and_written() {
        let check = |text: &str, address: &str, answers| {
            let listen = text.parse::<Listen>().unwrap();
            assert_eq!((listen.address.to_string().as_str(), listen.answers), (address, answers), "{text}");
            assert_eq!(listen.to_string().parse(), Ok(listen));
        };
        check("tcp:127.0.0.1:9001", "tcp:127.0.0.1:9001", Answers::Ok);
        check("tcp:[::1]:9001,answers=accepted", "tcp:[::1]:9001", Answers::Accepted);
        check("unix:/run/s,answers=ok", "unix:/run/s", Answers::Ok);
        check("unix:a,b", "unix:a,b", Answers::Ok);
        check("unix:a,b,answers=accepted", "unix:a,b", Answers::Accepted);
        check("unix:/a,b=c/d", "unix:/a,b=c/d", Answers::Ok);
        check("unix:a,B=c", "unix:a,B=c", Answers::Ok);
        check("unix:a,", "unix:a,", Answers::Ok);
        for text in [
            "unix:/s,answers=accepted,slow=disconnect:4MiB:30s,credit=on",
            "tcp:127.0.0.1:1,slow=latest:drop",
            "tcp:127.0.0.1:1,credit=64KiB",
            "tcp:127.0.0.1:1,credit=1MiB:2.5s",
        ] {
            assert_eq!(text.parse::<Listen>().unwrap().to_string(), text);
        }
        assert_eq!("unix:/s,credit=off".parse::<Listen>().unwrap().credit, None);
        let refused = |text: &str, why: &str| {
            let error = text.parse::<Listen>().unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        };
        refused("tcp:127.0.0.1:9001,answers=maybe", "answers=maybe: expected answers=ok");
        refused("unix:a,b=c", "b is no option");
        refused("unix:a,answers=ok,answers=accepted", "twice");
        refused("unix:a,slow=fast", "slow=fast: expected throttle");
        refused("unix:a,credit=yes", "credit=yes: expected on, off or a window");
        refused("unix:a,credit=1", "too small");
        refused("unix:a,credit=64KiB:x", "number of seconds");
        refused("unix:,answers=ok", "needs a path");
        refused("tcp:127.0.0.1:9001,answers", "not a numeric address");
    }
}

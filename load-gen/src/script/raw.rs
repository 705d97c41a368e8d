//! The keys as they stand in the file, and how they become a [`Script`].

use std::ops::Range;

use serde::Deserialize;
use toml::Spanned;

use super::fault::Fault;
use super::units::{Bytes, Rate, Seconds};
use super::{
    Consuming, Expect, Following, Group, Interest, Kill, Payloads, Producing, Reads, Reconnect, Role, Script,
    Stall,
};
use crate::payload::HEAD_BYTES;
use crate::wire::stream::LARGE_BYTES;

/// Clients of one group, and of all.
const CLIENTS_MAX: usize = 100_000;

/// Longest payload.
const PAYLOAD_MAX: usize = 1 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    #[serde(default)]
    about: String,
    duration: Spanned<Seconds>,
    #[serde(default = "usual_patience")]
    patience: Spanned<Seconds>,
    #[serde(default)]
    producers: Vec<Spanned<Producers>>,
    #[serde(default)]
    relays: Vec<Spanned<Relays>>,
    #[serde(default)]
    consumers: Vec<Spanned<Consumers>>,
    #[serde(default)]
    expect: RawExpect,
}

fn usual_patience() -> Spanned<Seconds> {
    Spanned::new(0..0, Seconds(10.0))
}

fn one() -> Spanned<usize> {
    Spanned::new(0..0, 1)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Producers {
    name: Spanned<String>,
    #[serde(default = "one")]
    count: Spanned<usize>,
    process: Option<String>,
    #[serde(default)]
    innocent: bool,
    #[serde(default)]
    rate: Rate,
    payload: Option<Spanned<RawPayload>>,
    send_buffer: Option<Bytes>,
    reconnect: Option<RawReconnect>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Relays {
    name: Spanned<String>,
    #[serde(default = "one")]
    count: Spanned<usize>,
    process: Option<String>,
    follows: Vec<Spanned<String>>,
    interest: Option<Spanned<RawInterest>>,
    send_buffer: Option<Bytes>,
    receive_buffer: Option<Bytes>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Consumers {
    name: Spanned<String>,
    #[serde(default = "one")]
    count: Spanned<usize>,
    process: Option<String>,
    #[serde(default)]
    innocent: bool,
    follows: Vec<Spanned<String>>,
    interest: Option<Spanned<RawInterest>>,
    reads: Option<Spanned<RawReads>>,
    receive_buffer: Option<Bytes>,
    stall: Option<Spanned<RawStall>>,
    kill: Option<Spanned<RawKill>>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a payload is a size, a list of sizes, or { min = SIZE, max = SIZE }")]
enum RawPayload {
    One(Bytes),
    Some(Vec<Bytes>),
    Range { min: Bytes, max: Bytes },
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "an interest is \"all\", \"own\" or { random = NUMBER }")]
enum RawInterest {
    Word(String),
    Random {
        random: usize,
        #[serde(default)]
        seed: u64,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawReads {
    messages_per_second: Option<f64>,
    bytes_per_second: Option<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawReconnect {
    after: Seconds,
    times: Spanned<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawStall {
    from: Seconds,
    to: Seconds,
    #[serde(default)]
    how: How,
    share: Option<f64>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum How {
    #[default]
    Process,
    Reading,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawKill {
    at: Seconds,
    share: Option<f64>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawExpect {
    memory_growth: Option<Bytes>,
    recovery: Option<Seconds>,
    throttled: Option<bool>,
    throttled_within: Option<Seconds>,
    evenness: Option<f64>,
    share_of_reader: Option<f64>,
    innocent_p99: Option<Seconds>,
}

/// Reads and checks a whole file.
pub(super) fn parse(text: &str) -> Result<Script, Fault> {
    let file: File = toml::from_str(text)?;
    if file.duration.as_ref().0 <= 0.0 {
        return Err(Fault::at(file.duration.span(), "must be more than 0"));
    }
    if file.patience.as_ref().0 <= 0.0 {
        return Err(Fault::at(file.patience.span(), "must be more than 0"));
    }
    let duration = file.duration.as_ref().0;
    let mut groups: Vec<Group> = vec![];
    for p in file.producers {
        let place = p.span();
        let group = p.into_inner().check(&groups).map_err(|f| or_at(f, &place))?;
        groups.push(group);
    }
    for r in file.relays {
        let place = r.span();
        let group = r.into_inner().check(&groups).map_err(|f| or_at(f, &place))?;
        groups.push(group);
    }
    for c in file.consumers {
        let place = c.span();
        let group = c.into_inner().check(&groups, duration).map_err(|f| or_at(f, &place))?;
        groups.push(group);
    }
    check_company(&groups)?;
    Ok(Script {
        name: file.name,
        about: file.about.trim().to_owned(),
        duration_s: duration,
        patience_s: file.patience.as_ref().0,
        groups,
        expect: Expect {
            memory_growth: file.expect.memory_growth.map(|b| b.0),
            is_unthrottled: file.expect.throttled == Some(false),
            recovery_s: file.expect.recovery.map(|s| s.0),
            throttled_within_s: file.expect.throttled_within.map(|s| s.0),
            evenness: file.expect.evenness,
            share_of_reader: file.expect.share_of_reader,
            innocent_p99_s: file.expect.innocent_p99.map(|s| s.0),
        },
        text: text.to_owned(),
        stretch: 1.0,
        clients_max: CLIENTS_MAX,
    })
}

/// A fault without a place of its own is where the group is.
fn or_at(fault: Fault, place: &Range<usize>) -> Fault {
    if fault.span == (0..0) { Fault { span: place.clone(), ..fault } } else { fault }
}

/// What only shows when all groups are there.
fn check_company(groups: &[Group]) -> Result<(), Fault> {
    let nowhere = |what: &str| Err(Fault::at(0..0, what));
    if !groups.iter().any(|g| g.producing().is_some()) {
        return nowhere("there are no [[producers]]");
    }
    if !groups.iter().any(|g| g.consuming().is_some()) {
        return nowhere("there are no [[consumers]]");
    }
    if groups.iter().map(|g| g.count).sum::<usize>() > CLIENTS_MAX {
        return nowhere(&format!("these are more than {CLIENTS_MAX} clients together"));
    }
    for group in groups.iter().filter(|g| g.stall().is_some_and(|s| s.stops_process)) {
        let mut others = groups.iter().filter(|o| o.process == group.process && o.name != group.name);
        if let Some(other) = others.next() {
            return nowhere(&format!(
                "{} would be stopped with {}, whose process it shares: give it one of its own, or stall \
                 it with how = \"reading\"",
                other.name, group.name
            ));
        }
    }
    Ok(())
}

/// A name that no other group has, and a number of clients.
fn check_head(name: &Spanned<String>, count: &Spanned<usize>, groups: &[Group]) -> Result<(), Fault> {
    let text = name.as_ref();
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Err(Fault::at(name.span(), "a name has letters, digits and -"));
    }
    if groups.iter().any(|g| g.name == *text) {
        return Err(Fault::at(name.span(), format!("there is another group {text:?}")));
    }
    if !(1..=CLIENTS_MAX).contains(count.as_ref()) {
        return Err(Fault::at(count.span(), format!("must be from 1 to {CLIENTS_MAX}")));
    }
    Ok(())
}

fn check_following(
    follows: &[Spanned<String>],
    interest: Option<Spanned<RawInterest>>,
    groups: &[Group],
) -> Result<Following, Fault> {
    let find = |name: &Spanned<String>| {
        let is_it = |g: &Group| g.name == *name.as_ref() && g.consuming().is_none();
        let none =
            || Fault::at(name.span(), format!("no producers or relays {:?} before this", name.as_ref()));
        groups.iter().position(is_it).ok_or_else(none)
    };
    let followed = follows.iter().map(find).collect::<Result<Vec<_>, _>>()?;
    if followed.is_empty() {
        return Err(Fault::at(0..0, "it follows nobody"));
    }
    let available: usize = followed.iter().map(|g| groups[*g].count).sum();
    let interest = match interest.map(|i| (i.span(), i.into_inner())) {
        None => Interest::All,
        Some((_, RawInterest::Word(word))) if word == "all" => Interest::All,
        Some((_, RawInterest::Word(word))) if word == "own" => Interest::Own,
        Some((_, RawInterest::Random { random, seed })) if (1..=available).contains(&random) => {
            Interest::Random(random, seed)
        }
        Some((span, RawInterest::Random { .. })) => {
            return Err(Fault::at(
                span,
                format!("must be from 1 to the {available} clients that it follows"),
            ));
        }
        Some((span, _)) => {
            return Err(Fault::at(span, "an interest is \"all\", \"own\" or { random = NUMBER }"));
        }
    };
    Ok(Following { groups: followed, interest })
}

fn check_share(share: Option<f64>, span: &Range<usize>) -> Result<f64, Fault> {
    let share = share.unwrap_or(1.0);
    let is_one = share > 0.0 && share <= 1.0;
    is_one.then_some(share).ok_or_else(|| Fault::at(span.clone(), "a share is more than 0, and at most 1"))
}

impl Producers {
    fn check(self, groups: &[Group]) -> Result<Group, Fault> {
        check_head(&self.name, &self.count, groups)?;
        let payloads = match self.payload {
            None => Payloads::OneOf(vec![64]),
            Some(p) => check_payload(p.span(), p.into_inner())?,
        };
        let reconnect = match self.reconnect {
            None => None,
            Some(r) if !(1..=1000).contains(r.times.as_ref()) => {
                return Err(Fault::at(r.times.span(), "must be from 1 to 1000"));
            }
            Some(r) => Some(Reconnect { after_s: r.after.0, times: r.times.into_inner() }),
        };
        let name = self.name.into_inner();
        Ok(Group {
            process: self.process.unwrap_or_else(|| name.clone()),
            name,
            count: self.count.into_inner(),
            is_innocent: self.innocent,
            role: Role::Producer(Producing { rate: self.rate, payloads, reconnect }),
            send_buffer: self.send_buffer.map(|b| b.0),
            receive_buffer: None,
        })
    }
}

fn check_payload(span: Range<usize>, raw: RawPayload) -> Result<Payloads, Fault> {
    let payloads = match raw {
        RawPayload::One(bytes) => Payloads::OneOf(vec![bytes.0 as usize]),
        RawPayload::Some(list) => Payloads::OneOf(list.iter().map(|b| b.0 as usize).collect()),
        RawPayload::Range { min, max } => Payloads::Range(min.0 as usize, max.0 as usize),
    };
    let is_well = match &payloads {
        Payloads::OneOf(list) => {
            !list.is_empty() && list.iter().all(|n| (HEAD_BYTES..=PAYLOAD_MAX).contains(n))
        }
        Payloads::Range(min, max) => *min >= HEAD_BYTES && max >= min && *max <= PAYLOAD_MAX,
    };
    is_well.then_some(payloads).ok_or_else(|| {
        Fault::at(span, format!("a payload has from {HEAD_BYTES} bytes, for its number and time, to 1 MiB"))
    })
}

impl Relays {
    fn check(self, groups: &[Group]) -> Result<Group, Fault> {
        check_head(&self.name, &self.count, groups)?;
        let following = check_following(&self.follows, self.interest, groups)?;
        for followed in &following.groups {
            let is_large = groups[*followed].producing().is_some_and(|p| p.payloads.max() > LARGE_BYTES);
            if is_large {
                let place = self.follows[0].span();
                return Err(Fault::at(place, format!("relays carry payloads of up to {LARGE_BYTES} bytes")));
            }
        }
        let name = self.name.into_inner();
        Ok(Group {
            process: self.process.unwrap_or_else(|| name.clone()),
            name,
            count: self.count.into_inner(),
            is_innocent: false,
            role: Role::Relay(following),
            send_buffer: self.send_buffer.map(|b| b.0),
            receive_buffer: self.receive_buffer.map(|b| b.0),
        })
    }
}

impl Consumers {
    fn check(self, groups: &[Group], duration: f64) -> Result<Group, Fault> {
        check_head(&self.name, &self.count, groups)?;
        let following = check_following(&self.follows, self.interest, groups)?;
        let reads = match self.reads.map(|r| (r.span(), r.into_inner())) {
            None => None,
            Some((_, RawReads { messages_per_second: Some(n), bytes_per_second: None })) if n > 0.0 => {
                Some(Reads::Messages(n))
            }
            Some((_, RawReads { messages_per_second: None, bytes_per_second: Some(n) })) if n > 0.0 => {
                Some(Reads::Bytes(n))
            }
            Some((span, _)) => {
                let what = "a slow reader has either messages_per_second or bytes_per_second, more than 0";
                return Err(Fault::at(span, what));
            }
        };
        let stall = self.stall.map(|s| check_stall(&s.span(), s.as_ref(), duration)).transpose()?;
        let kill = match &self.kill {
            None => None,
            Some(k) if k.as_ref().at.0 < duration => {
                Some(Kill { at_s: k.as_ref().at.0, share: check_share(k.as_ref().share, &k.span())? })
            }
            Some(k) => return Err(Fault::at(k.span(), "is not before the end of the duration")),
        };
        let name = self.name.into_inner();
        Ok(Group {
            process: self.process.unwrap_or_else(|| name.clone()),
            name,
            count: self.count.into_inner(),
            is_innocent: self.innocent,
            role: Role::Consumer(Consuming { following, reads, stall, kill }),
            send_buffer: None,
            receive_buffer: self.receive_buffer.map(|b| b.0),
        })
    }
}

fn check_stall(span: &Range<usize>, raw: &RawStall, duration: f64) -> Result<Stall, Fault> {
    let share = check_share(raw.share, span)?;
    let stops_process = matches!(raw.how, How::Process);
    if raw.from.0 >= raw.to.0 || raw.to.0 > duration {
        return Err(Fault::at(span.clone(), "must end after it begins, and within the duration"));
    }
    if stops_process && share < 1.0 {
        let what = "a share of the group has no process of its own to stop: how = \"reading\" is for that";
        return Err(Fault::at(span.clone(), what));
    }
    Ok(Stall { from_s: raw.from.0, to_s: raw.to.0, stops_process, share })
}

impl Payloads {
    /// The largest, in bytes.
    pub fn max(&self) -> usize {
        match self {
            Payloads::OneOf(sizes) => sizes.iter().copied().max().unwrap_or(HEAD_BYTES),
            Payloads::Range(_, max) => *max,
        }
    }

    /// The size of all, if they are of one size.
    pub fn only(&self) -> Option<usize> {
        match self {
            Payloads::OneOf(sizes) => sizes.iter().all(|s| *s == sizes[0]).then_some(sizes[0]),
            Payloads::Range(min, max) => (min == max).then_some(*min),
        }
    }
}

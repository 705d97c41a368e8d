//! 1->1 in the middle of a crowd: observers of other literals, other skeletons, assertions that nobody touches.
//!
//! Each scenario measures 1->1 first without and then with the crowd, on the same broker, so that the ratio does
//! not depend on the machine's mood.

use std::time::Instant;

use crate::assertions::{Answers, Expectation, Follower, held};
use crate::client::{Barrier, Client, Error};
use crate::drive::{Drive, Port};
use crate::flow::{self, Plan};
use crate::report::Sample;
use crate::settings::Settings;
use crate::sink::OBSERVER_OID;
use crate::source::Bulk;
use crate::wire::encode::{self, Pattern};

/// Observes asserted in one packet while a crowd is set up.
const OBSERVES_PER_PACKET: usize = 25;

/// Skeletons have constants in subsets of this many fields, so there can be two to that power of them.
pub const SKELETON_FIELDS: usize = 14;

/// Observers of other literals, `count` of them on `connections` sessions.
pub fn observers(settings: &Settings, count: usize, connections: usize) -> Result<Vec<Sample>, Error> {
    settings.require_syndicate("observers")?;
    let baseline = flow::run(settings, &Plan::one_to_one("1->1 alone"))?;
    let mut crowd = Crowd::new(settings, "observers")?;
    let connections = connections.clamp(1, count.max(1));
    crowd.connect(settings, connections)?;
    crowd.observe(count, |n| flow::says_pattern(&format!("other{n}")))?;
    let mut sample = flow::run(settings, &Plan::one_to_one(format!("1->1 among {count}")))?;
    crowd.judge(settings, &mut sample, count)?;
    relate(&baseline, &mut sample);
    Ok(vec![baseline, sample])
}

/// Patterns that share the message's label but not each other's constant positions; one point for each of
/// `counts`, which ascend. Messages have [`SKELETON_FIELDS`] more fields for the patterns to ask about. With
/// `has_same_name` the first constant is the producer's name, so that every skeleton nearly matches.
pub fn skeletons(
    settings: &Settings,
    counts: &[usize],
    connections: usize,
    has_same_name: bool,
) -> Result<Vec<Sample>, Error> {
    settings.require_syndicate("skeletons")?;
    let most = (1 << SKELETON_FIELDS) - 1;
    if counts.iter().any(|n| *n > most) || !counts.is_sorted() {
        return Err(Error::Usage(format!("counts of skeletons ascend, up to {most}")));
    }
    let first = Plan { extra_fields: SKELETON_FIELDS, ..Plan::one_to_one("S=0") };
    let plan = |point| Plan { point, ..first.clone() };
    let mut samples = vec![flow::run(settings, &first)?];
    let mut crowd = Crowd::new(settings, "skeletons")?;
    crowd.connect(settings, connections.max(1))?;
    let name = if has_same_name { first.names.of(0) } else { "x".to_owned() };
    for &count in counts {
        crowd.observe(count, |n| skeleton(&name, n + 1))?;
        let mut sample = flow::run(settings, &plan(format!("S={count}")))?;
        crowd.judge(settings, &mut sample, count)?;
        relate(&samples[0], &mut sample);
        samples.push(sample);
    }
    Ok(samples)
}

/// The pattern whose constants beyond the first are in the fields that `bits` picks.
fn skeleton(name: &str, bits: usize) -> Pattern {
    let mut entries = vec![(0, Pattern::Lit(name.to_owned())), (1, Pattern::Bind)];
    let picked = (0..SKELETON_FIELDS).filter(|i| bits >> i & 1 == 1);
    // The fields hold integers; no string equals them.
    entries.extend(picked.map(|i| (i as u32 + 2, Pattern::Lit("x".to_owned()))));
    Pattern::Rec("Says", entries)
}

/// `count` assertions held by one session while messages pass; seen by an observer of theirs if `is_observed`.
pub fn held_by_one(
    settings: &Settings,
    count: u64,
    value_bytes: usize,
    is_observed: bool,
) -> Result<Vec<Sample>, Error> {
    settings.require_syndicate("held")?;
    let baseline = flow::run(settings, &Plan::one_to_one("1->1, none held"))?;
    let before_kib = settings.broker_rss_kib()?;
    let mut screen = settings.screen.begin("held");
    let start = Instant::now();
    let holding = Holding::open(settings, count, value_bytes, is_observed, true)?;
    let Holding { mut drive, observer, holder } = holding;
    let expected = drive.expected(&[]);
    let is_complete = drive.drain(expected, settings.patience, &mut screen)?;
    let held_s = start.elapsed().as_secs_f64();
    settle(settings);
    let held_kib = settings.broker_rss_kib()?;

    let mut sample = flow::run(settings, &Plan::one_to_one(format!("1->1, {count} held")))?;
    relate(&baseline, &mut sample);
    sample.extra.push(("assertions_per_s", count as f64 / held_s));
    per_each(&mut sample, "rss_bytes_per_assertion", before_kib, held_kib, count);
    drive.hang_up(holder)?;
    if let Some(observer) = observer {
        drive.expect_end(observer);
        let start = Instant::now();
        drive.drain(drive.expected(&[]), settings.patience, &mut screen)?;
        sample.extra.push(("ends_per_s", count as f64 / start.elapsed().as_secs_f64()));
    }
    sample.faults.add(&drive.faults(&[]));
    if !is_complete && observer.is_none() {
        return Err(Error::Usage("the broker did not confirm the assertions in time".into()));
    }
    settle(settings);
    if let Some(after_kib) = settings.broker_rss_kib()? {
        sample.extra.push(("rss_after_mib", after_kib as f64 / 1024.0));
    }
    screen.end();
    Ok(vec![baseline, sample])
}

/// A session that asserts much, and perhaps one that observes it.
pub struct Holding {
    /// Both sessions.
    pub drive: Drive,
    /// The observer's port.
    pub observer: Option<usize>,
    /// The asserting session's port.
    pub holder: usize,
}

impl Holding {
    /// Connects; the assertions will be written once the drive is stepped. With `is_confirmed` they end with a
    /// Sync, whose answer counts as a delivery.
    pub fn open(
        settings: &Settings,
        count: u64,
        value_bytes: usize,
        is_observed: bool,
        is_confirmed: bool,
    ) -> Result<Holding, Error> {
        let mut ports = vec![];
        if is_observed {
            ports.push(open_follower(settings, count)?);
        }
        let client = Client::open(settings.contact(), settings.barrier)?;
        let mut bytes = vec![];
        held(&mut bytes, client.dataspace(), 0..count, value_bytes);
        let is_confirmed = is_confirmed && settings.barrier == Barrier::Sync;
        if is_confirmed {
            encode::turn(&mut bytes, |out| {
                encode::sync(out, client.dataspace(), crate::client::ANSWER_OID);
            });
        }
        let (fd, decoder, kept) = client.into_parts();
        let sink = Answers::new(decoder, u64::from(is_confirmed));
        ports.push(Port::new(fd, kept, None, Box::new(sink)));
        let holder = ports.len() - 1;
        let mut drive = Drive::new(ports)?;
        drive.set_source(holder, Box::new(Bulk::new(bytes)))?;
        Ok(Holding { drive, observer: is_observed.then_some(0), holder })
    }
}

/// Connects an observer of `count` held assertions, without waiting for what it will be told.
pub fn open_follower(settings: &Settings, count: u64) -> Result<Port, Error> {
    let mut client = Client::open(settings.contact(), settings.barrier)?;
    let mut entries = vec![(0, Pattern::Bind)];
    if settings.captures_both {
        entries.push((1, Pattern::Bind));
    }
    client.observe(&Pattern::Rec("Held", entries), OBSERVER_OID)?;
    let (fd, decoder, kept) = client.into_parts();
    let follower = Follower::new(decoder, Expectation::Held { count, is_retracted: false });
    Ok(Port::new(fd, kept, None, Box::new(follower)))
}

/// A pause where the broker cannot be asked whether it is done.
fn settle(settings: &Settings) {
    if let Barrier::Pause(pause) = settings.barrier {
        std::thread::sleep(pause);
    }
}

/// Sessions with observers that should hear nothing.
struct Crowd {
    clients: Vec<Client>,
    observers: usize,
    before_kib: Option<u64>,
    setup_s: f64,
    label: &'static str,
}

impl Crowd {
    fn new(settings: &Settings, label: &'static str) -> Result<Crowd, Error> {
        let before_kib = settings.broker_rss_kib()?;
        Ok(Crowd { clients: vec![], observers: 0, before_kib, setup_s: 0.0, label })
    }

    fn connect(&mut self, settings: &Settings, connections: usize) -> Result<(), Error> {
        super::raise_descriptor_limit(connections as u64)?;
        let mut screen = settings.screen.begin(self.label);
        for n in 0..connections {
            self.clients.push(Client::open(settings.contact(), settings.barrier)?);
            screen.counts(|| connections as u64, n as u64);
        }
        Ok(())
    }

    /// Adds observers until there are `total`, spread over the sessions; waits until all are in place.
    fn observe(&mut self, total: usize, pattern: impl Fn(usize) -> Pattern) -> Result<(), Error> {
        let start = Instant::now();
        let sessions = self.clients.len();
        let mut added: Vec<usize> = (self.observers..total).collect();
        added.sort_by_key(|n| n % sessions);
        for of_session in added.chunk_by(|a, b| a % sessions == b % sessions) {
            let client = &mut self.clients[of_session[0] % sessions];
            let mut bytes = vec![];
            for packet in of_session.chunks(OBSERVES_PER_PACKET) {
                encode::turn(&mut bytes, |out| {
                    for n in packet {
                        client.observe_into(out, &pattern(*n), OBSERVER_OID + *n as u64);
                    }
                });
            }
            client.send(&bytes)?;
        }
        match self.clients.first_mut() {
            // One pause serves all.
            Some(first) if first.is_pausing() => first.barrier()?,
            _ => self.clients.iter_mut().try_for_each(Client::barrier)?,
        }
        self.observers = total;
        self.setup_s += start.elapsed().as_secs_f64();
        Ok(())
    }

    /// Adds what the crowd costs to the sample, and whatever reached it by mistake.
    fn judge(&self, settings: &Settings, sample: &mut Sample, count: usize) -> Result<(), Error> {
        sample.faults.misdelivered += self.clients.iter().filter(|c| c.has_unread()).count() as u64;
        sample.extra.push(("setup_s", self.setup_s));
        let now_kib = settings.broker_rss_kib()?;
        per_each(sample, "rss_bytes_per_observer", self.before_kib, now_kib, count as u64);
        Ok(())
    }
}

/// Adds a difference of memory, divided by a number of things, to the sample.
pub fn per_each(
    sample: &mut Sample,
    name: &'static str,
    before: Option<u64>,
    after: Option<u64>,
    count: u64,
) {
    if let (Some(before), Some(after)) = (before, after)
        && count > 0
    {
        sample.extra.push((name, (after as f64 - before as f64) * 1024.0 / count as f64));
    }
}

/// Adds the ratio of the broker's cost per message to the baseline's.
fn relate(baseline: &Sample, sample: &mut Sample) {
    let cost = |s: &Sample| s.broker.map(|b| b.cpu_ns as f64 / s.messages.max(1) as f64);
    if let (Some(base), Some(cost)) = (cost(baseline), cost(sample))
        && base > 0.0
    {
        sample.extra.push(("cpu_ratio_to_alone", cost / base));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skeletons_differ_in_their_constants() {
        let Pattern::Rec(_, entries) = skeleton("x", 0b101) else { panic!() };
        let places: Vec<u32> = entries.iter().map(|e| e.0).collect();
        assert_eq!(places, [0, 1, 2, 4]);
    }
}

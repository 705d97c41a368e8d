//! Consumers that stop reading, and later go on.
//!
//! What is looked for: that the broker's memory stays bounded while they stall, that the producer is throttled
//! rather than its messages dropped, that others are not held up, and that afterwards everything is there.
//!
//! Over TCP the kernel's send buffers on the broker's side take up to some megabytes for each stalled consumer, so
//! small amounts never show; over Unix sockets they take little.

use std::time::{Duration, Instant};

use crate::client::{Error, looking_at};
use crate::drive::Drive;
use crate::flow::{Flow, Plan, open_consumer, open_producer};
use crate::payload::now_ns;
use crate::report::Sample;
use crate::scenario::crowd::{Holding, open_follower};
use crate::screen::Screen;
use crate::settings::{Amount, Settings};
use crate::source::Control;
use crate::usage::rss_kib;

/// What a stalled consumer's socket takes although nobody reads it.
const UNREAD_BYTES: usize = 64 * 1024;

/// How often the broker's memory is read while consumers stall.
const SAMPLE_EVERY: Duration = Duration::from_millis(50);

/// Messages to `observers` sessions that do not read for `stall`; a pair that has nothing to do with them goes on
/// meanwhile if `has_bystanders`. The producer's messages are limited by `--messages` or only by the broker.
pub fn messages(
    settings: &Settings,
    observers: usize,
    stall: Duration,
    has_bystanders: bool,
) -> Result<Vec<Sample>, Error> {
    settings.require_syndicate("stall")?;
    super::raise_descriptor_limit(observers as u64)?;
    let mut sample = Sample { point: format!("{observers} stalled"), ..Sample::default() };
    let mut screen = settings.screen.begin("stall");
    let mut bystanders = if has_bystanders { Some(Bystanders::open(settings)?) } else { None };
    let alone = bystanders.as_mut().map(|b| b.run(Duration::from_secs(1))).transpose()?;

    let mut ports = vec![];
    let plan = Plan { consumers: vec![vec![0]; observers], ..Plan::one_to_one("") };
    for follows in &plan.consumers {
        let port = open_consumer(settings, &plan, follows)?;
        port.limit_unread(UNREAD_BYTES)?;
        ports.push(port);
    }
    let control = Control::new();
    ports.push(open_producer(settings, &plan, 0, control.clone())?);
    let mut drive = Drive::new(ports)?;
    (0..observers).try_for_each(|i| drive.set_reading(i, false))?;
    let before_kib = settings.broker_rss_kib()?;
    let limit = match settings.amount {
        Amount::Messages(n) => n,
        Amount::Time(_) => u64::MAX,
    };
    control.allow(limit, 0, now_ns() + stall.as_nanos() as u64);
    drive.wake_sources()?;

    let start = Instant::now();
    let stalled = std::thread::scope(|scope| {
        let meanwhile = bystanders.as_mut().map(|b| scope.spawn(|| b.run(stall)));
        let stalled = Stalled::watch(settings, &mut drive, stall, &mut screen)?;
        let during = meanwhile.map(|t| t.join().expect("a load thread panicked")).transpose()?;
        if let (Some(alone), Some(during)) = (alone, during) {
            sample.extra.push(("bystanders_alone_per_s", alone));
            sample.extra.push(("bystanders_during_per_s", during));
        }
        Ok::<_, Error>(stalled)
    })?;
    sample.extra.push(("accepted_mib", drive.ports()[observers].traffic.written_bytes as f64 / 1048576.0));
    sample.extra.push(("accepted_messages", control.sent() as f64));
    stalled.report(&mut sample, before_kib);

    // A message that is half written must be finished, but no new one begun.
    control.allow(0, 0, 0);
    let resumed = Instant::now();
    (0..observers).try_for_each(|i| drive.set_reading(i, true))?;
    drive.wake_sources()?;
    while drive.sources_busy() > 0 && resumed.elapsed() < settings.patience {
        drive.step(20)?;
    }
    let sent = [control.sent()];
    drive.drain(drive.expected(&sent), settings.patience, &mut screen)?;
    sample.extra.push(("catching_up_s", resumed.elapsed().as_secs_f64()));
    finish(settings, &mut sample, &drive, &sent, start)?;
    if let Some(b) = &bystanders {
        sample.faults.add(&b.flow.faults());
    }
    sample.messages = sent[0];
    screen.end();
    Ok(vec![sample])
}

/// When the observer that will stall comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comes {
    /// Before the assertions.
    First,
    /// When they are all there, so that growth beyond the store can be told.
    Last,
    /// The same, and another has observed them from the start, and goes on reading.
    AfterAnother,
}

/// An observer of `count` assertions that does not read for `stall`.
pub fn assertions(
    settings: &Settings,
    count: u64,
    value_bytes: usize,
    stall: Duration,
    comes: Comes,
) -> Result<Vec<Sample>, Error> {
    settings.require_syndicate("stall")?;
    let when = match comes {
        Comes::First => "before",
        Comes::Last => "after",
        Comes::AfterAnother => "after another and",
    };
    let mut sample = Sample { point: format!("stalled {when} {count}"), ..Sample::default() };
    let mut screen = settings.screen.begin("stall");
    let empty_kib = settings.broker_rss_kib()?;
    let Holding { mut drive, observer, holder } =
        Holding::open(settings, count, value_bytes, comes != Comes::Last, true)?;
    let start = Instant::now();
    let (observers, stalled, before_kib) = match observer {
        Some(observer) if comes == Comes::First => {
            drive.ports()[observer].limit_unread(UNREAD_BYTES)?;
            drive.set_reading(observer, false)?;
            let stalled = Stalled::watch(settings, &mut drive, stall, &mut screen)?;
            let written = drive.ports()[holder].traffic.written_bytes;
            sample.extra.push(("accepted_mib", written as f64 / 1048576.0));
            drive.set_reading(observer, true)?;
            (vec![observer], stalled, empty_kib)
        }
        other => {
            drive.drain(drive.expected(&[]), settings.patience, &mut screen)?;
            let store_kib = settings.broker_rss_kib()?;
            if let (Some(empty), Some(store)) = (empty_kib, store_kib) {
                sample.extra.push(("rss_store_mib", (store as f64 - empty as f64) / 1024.0));
            }
            let port = open_follower(settings, count)?;
            port.limit_unread(UNREAD_BYTES)?;
            let observer = drive.add(port)?;
            drive.set_reading(observer, false)?;
            let stalled = Stalled::watch(settings, &mut drive, stall, &mut screen)?;
            drive.set_reading(observer, true)?;
            (other.into_iter().chain([observer]).collect(), stalled, store_kib)
        }
    };
    stalled.report(&mut sample, before_kib);
    let resumed = Instant::now();
    drive.drain(drive.expected(&[]), settings.patience, &mut screen)?;
    sample.extra.push(("catching_up_s", resumed.elapsed().as_secs_f64()));
    drive.hang_up(holder)?;
    observers.into_iter().for_each(|observer| drive.expect_end(observer));
    drive.drain(drive.expected(&[]), settings.patience, &mut screen)?;
    finish(settings, &mut sample, &drive, &[], start)?;
    sample.messages = count;
    screen.end();
    Ok(vec![sample])
}

fn finish(
    s: &Settings,
    sample: &mut Sample,
    drive: &Drive,
    sent: &[u64],
    start: Instant,
) -> Result<(), Error> {
    sample.faults.add(&drive.faults(sent));
    sample.deliveries = drive.intake.delivered;
    sample.seconds = start.elapsed().as_secs_f64();
    if let Some(kib) = s.broker_rss_kib()? {
        sample.extra.push(("rss_after_mib", kib as f64 / 1024.0));
    }
    Ok(())
}

/// What was seen while consumers stalled.
struct Stalled {
    peak_kib: Option<u64>,
    last_write: Duration,
}

impl Stalled {
    /// Drives everyone for `stall`, looking at the broker's memory.
    fn watch(
        s: &Settings,
        drive: &mut Drive,
        stall: Duration,
        screen: &mut Screen,
    ) -> Result<Stalled, Error> {
        let start = Instant::now();
        let mut stalled = Stalled { peak_kib: None, last_write: Duration::ZERO };
        let mut next_sample = Duration::ZERO;
        let mut written = 0;
        while start.elapsed() < stall {
            drive.step(10)?;
            let now_written = drive.ports().iter().map(|p| p.traffic.written_bytes).sum();
            if std::mem::replace(&mut written, now_written) != now_written {
                stalled.last_write = start.elapsed();
            }
            if let Some(pid) = s.broker_pid
                && start.elapsed() >= next_sample
            {
                let kib = rss_kib(pid).map_err(looking_at(pid))?;
                stalled.peak_kib = stalled.peak_kib.max(Some(kib));
                next_sample = start.elapsed() + SAMPLE_EVERY;
                screen.say(&format!("{} MiB written, broker has {} MiB", written >> 20, kib >> 10));
            }
        }
        Ok(stalled)
    }

    fn report(&self, sample: &mut Sample, before_kib: Option<u64>) {
        sample.extra.push(("last_write_s", self.last_write.as_secs_f64()));
        if let (Some(before), Some(peak)) = (before_kib, self.peak_kib) {
            sample.extra.push(("rss_before_mib", before as f64 / 1024.0));
            sample.extra.push(("rss_stalled_peak_mib", peak as f64 / 1024.0));
            sample.extra.push(("rss_growth_mib", (peak as f64 - before as f64) / 1024.0));
        }
    }
}

/// A pair that nobody stalls, with messages of the usual size.
struct Bystanders {
    flow: Flow,
    settings: Settings,
}

impl Bystanders {
    fn open(settings: &Settings) -> Result<Bystanders, Error> {
        let settings = Settings { threads: 1, payload_bytes: 64, captures_both: false, ..settings.clone() };
        let flow = Flow::open(&settings, &Plan::one_to_one("bystanders"))?;
        Ok(Bystanders { flow, settings })
    }

    /// Messages per second for a while.
    fn run(&mut self, time: Duration) -> Result<f64, Error> {
        let mut silent = Screen::new(false);
        let phase = self.flow.phase(&self.settings, Amount::Time(time), &mut silent)?;
        Ok(phase.deliveries as f64 / phase.duration.as_secs_f64())
    }
}

//! Plays a scenario: starts the broker and the processes that carry the load, stops and continues them, watches, and
//! puts together what they tell.

mod crew;
pub mod environment;
pub mod gauge;
pub mod series;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::cast::Cast;
use crate::client::Error;
use crate::crew::{Ending, Note, Order, Part, TICK_NS, Turn};
use crate::driver::launch::{Broker, Origin};
use crate::payload::now_ns;
use crate::scenario::raise_descriptor_limit;
use crate::screen::Screen;
use crate::script::{Rate, Script};
use crew::Crew;
use gauge::Gauge;
use series::{Record, Tracks};

/// From the order to begin to the beginning.
const LEAD: Duration = Duration::from_millis(200);

/// How long the capacity is measured.
const CALIBRATION_S: f64 = 1.5;

/// Beyond so many connections the tables of sockets are long, and looked at less often.
const MANY_CONNECTIONS: usize = 2000;

/// Longest that set-up may take for each client, beyond patience.
const SETUP_PER_CLIENT: Duration = Duration::from_millis(20);

/// How plays are carried out.
#[derive(Clone, Debug)]
pub struct Stagehand {
    /// The program that is started as `PROGRAM member` to carry load: this one.
    pub program: PathBuf,
    /// The progress line.
    pub screen: Screen,
}

/// What one play of a scenario came to.
#[derive(Clone, Debug)]
pub struct Play {
    /// Everything over time.
    pub record: Record,
    /// What is to be said of each group in the end.
    pub endings: Vec<Ending>,
    /// Rates that were measured first, by group.
    pub rates: Vec<Option<f64>>,
    /// What each stream had.
    pub sent: Vec<u64>,
    /// From the end of sending to the last delivery, in seconds.
    pub drain_s: f64,
    /// The broker died meanwhile: how, and the end of what it wrote.
    pub death: Option<String>,
}

/// A play's parts that do not change while it lasts.
struct Scene<'a> {
    script: &'a Script,
    broker: &'a Broker,
    part: Part,
    processes: Vec<String>,
}

/// The letter of a play's topics: another for each play.
fn fresh_letter() -> char {
    static PLAYS: AtomicU8 = AtomicU8::new(0);
    // Relaxed: only uniqueness matters. Wraps: after 26 plays letters come again.
    char::from(b'a' + PLAYS.fetch_add(1, Ordering::Relaxed) % 26)
}

impl Stagehand {
    /// Starts the broker (unless it runs) and plays the scenario once.
    pub fn play(
        &self,
        script: &Script,
        origin: &Origin,
    ) -> Result<(Play, crate::driver::launch::Identity), Error> {
        raise_descriptor_limit(script.connections() as u64)?;
        let mut broker = origin.obtain()?;
        let mut rates = vec![None; script.groups.len()];
        if script.groups.iter().any(|g| matches!(g.producing(), Some(p) if matches!(p.rate, Rate::Times(_))))
        {
            rates = self.calibrate(script, &broker)?;
        }
        let mut scene = Scene::of(script, &broker);
        scene.part.rates = rates.clone();
        let label = format!("{} on {}", script.name, broker.identity.kind);
        let screen = self.screen.begin(&label);
        let result = self.direct(&scene, screen);
        let death = broker.exit_status().map(|status| format!("{status}; it said:\n{}", broker.log()));
        let mut play = match (result, &death) {
            (Err(_), Some(death)) => {
                return Err(Error::Usage(format!("{} ended in the middle: {death}", broker.identity.kind)));
            }
            (result, _) => result?,
        };
        (play.rates, play.death) = (rates, death);
        Ok((play, broker.identity.clone()))
    }

    /// What the broker takes at full speed, per client of each group whose rate is a multiple of that; times that.
    fn calibrate(&self, script: &Script, broker: &Broker) -> Result<Vec<Option<f64>>, Error> {
        let mut scene = Scene::of(script, broker);
        scene.part.only_s = Some(CALIBRATION_S);
        let times = |g: &crate::script::Group| match g.producing()?.rate {
            Rate::Times(n) => Some(n),
            _ => None,
        };
        scene.part.rates = script.groups.iter().map(|g| times(g).map(|_| 0.0)).collect();
        let only = scene.part.script()?;
        let scene = Scene { script: &only, ..scene };
        let play = self.direct(&scene, self.screen.begin("measures the capacity"))?;
        let rate = |(number, group): (usize, &crate::script::Group)| {
            let accepted: u64 = play.record.tracks[number].last().map_or(0, |t| t.accepted);
            Some(times(group)? * accepted as f64 / CALIBRATION_S / group.count as f64)
        };
        Ok(script.groups.iter().enumerate().map(rate).collect())
    }

    fn direct(&self, scene: &Scene<'_>, mut screen: Screen) -> Result<Play, Error> {
        let script = scene.script;
        let patience = Duration::from_secs_f64(script.patience_s);
        let mut crew = Crew::start(&self.program, &scene.processes, &scene.part)?;
        for turn in [Turn::Consumers, Turn::Relays, Turn::Producers] {
            screen.say("connects");
            crew.tell(&Order::Open(turn))?;
            crew.await_ready(patience + SETUP_PER_CLIENT * script.connections() as u32)?;
        }
        let gauge = Gauge::new(scene.broker.pid, &scene.broker.address);
        let mut watch = Watch {
            crew,
            signals: signals(script),
            gauge_every: if script.connections() > MANY_CONNECTIONS { 10 * TICK_NS } else { TICK_NS },
            next_gauge: 0,
            record: Record { tracks: vec![Tracks::default(); script.groups.len()], ..Record::default() },
            gauge,
            start_ns: 0,
            screen,
        };
        watch.record.baseline = watch.gauge.read(0);
        watch.start_ns = now_ns() + LEAD.as_nanos() as u64;
        watch.crew.tell(&Order::Go(watch.start_ns))?;
        let length = Duration::from_secs_f64(script.duration_s);
        let sent = watch.hear_sent(scene, Instant::now() + LEAD + length + patience * 3)?;
        let sending_end = now_ns();
        watch.crew.tell(&Order::Drain(sent.clone()))?;
        let endings = watch.hear_done(patience)?;
        watch.screen.end();
        let last = watch.record.tracks.iter().filter_map(Tracks::last_delivery_ns).max().unwrap_or(0);
        let drain_s = (watch.start_ns + last).saturating_sub(sending_end) as f64 / 1e9;
        Ok(Play { record: watch.record, endings, rates: vec![], sent, drain_s, death: None })
    }
}

impl<'a> Scene<'a> {
    fn of(script: &'a Script, broker: &'a Broker) -> Scene<'a> {
        let mut processes: Vec<String> = vec![];
        for group in &script.groups {
            if !processes.contains(&group.process) {
                processes.push(group.process.clone());
            }
        }
        let part = Part {
            text: script.text.clone(),
            stretch: script.stretch,
            clients_max: script.clients_max,
            rates: vec![None; script.groups.len()],
            only_s: None,
            driver: broker.driver.kind().to_owned(),
            address: broker.address.to_string(),
            process: String::new(),
            letter: fresh_letter(),
        };
        Scene { script, broker, part, processes }
    }
}

/// Which process is to be stopped or continued when (nanoseconds from the start), the next one last.
fn signals(script: &Script) -> Vec<(u64, String, Signal)> {
    let mut signals = vec![];
    for group in &script.groups {
        if let Some(stall) = group.stall().filter(|s| s.stops_process) {
            signals.push(((stall.from_s * 1e9) as u64, group.process.clone(), Signal::STOP));
            signals.push(((stall.to_s * 1e9) as u64, group.process.clone(), Signal::CONT));
        }
    }
    signals.sort_by_key(|(at, ..)| std::cmp::Reverse(*at));
    signals
}

/// Someone who watches a play and interferes as the scenario says.
struct Watch {
    crew: Crew,
    signals: Vec<(u64, String, Signal)>,
    gauge: Gauge,
    gauge_every: u64,
    next_gauge: u64,
    record: Record,
    start_ns: u64,
    screen: Screen,
}

impl Watch {
    /// Waits for the next note that is no tick, until `until`; meanwhile does what is due.
    fn next(&mut self, until: Instant) -> Result<Option<(usize, Note)>, Error> {
        while Instant::now() < until {
            let now = now_ns().saturating_sub(self.start_ns);
            while let Some((_, process, signal)) = self.signals.pop_if(|(at, ..)| *at <= now) {
                self.crew.signal(&process, signal)?;
            }
            if now >= self.next_gauge {
                self.next_gauge = now - now % self.gauge_every + self.gauge_every;
                self.record.readings.extend(self.gauge.read(now));
                self.show(now);
            }
            let due = self.signals.last().map_or(self.next_gauge, |(at, ..)| self.next_gauge.min(*at));
            let wake = Instant::now() + Duration::from_nanos(due.saturating_sub(now).max(1_000_000));
            match self.crew.hear(wake.min(until))? {
                Some((_, Note::Tick(totals))) => {
                    for totals in totals {
                        self.record.tracks[totals.group].push(totals);
                    }
                }
                Some(note) => return Ok(Some(note)),
                None => {}
            }
        }
        Ok(None)
    }

    fn show(&mut self, now: u64) {
        let sum = |f: fn(&crate::crew::Totals) -> u64| -> u64 {
            self.record.tracks.iter().filter_map(|t| t.last()).map(f).sum()
        };
        let memory = self.record.readings.last().map_or(0.0, gauge::Reading::memory_mib);
        let (accepted, delivered) = (sum(|t| t.accepted), sum(|t| t.delivered));
        if now % (5 * TICK_NS) < self.gauge_every {
            self.screen.say(&format!("accepted {accepted}, delivered {delivered}, broker {memory:.1} MiB"));
        }
    }

    /// Waits until all producers have ended; gives what each stream had.
    fn hear_sent(&mut self, scene: &Scene<'_>, until: Instant) -> Result<Vec<u64>, Error> {
        let cast = Cast::of(scene.script);
        let mut sent = vec![0; cast.streams.len()];
        let mut missing = self.crew.len();
        while missing > 0 {
            match self.next(until)? {
                Some((_, Note::Sent(counts))) => {
                    counts.iter().for_each(|(stream, n)| sent[*stream] = *n);
                    missing -= 1;
                }
                Some(_) => {}
                None => return Err(Error::Usage("producers do not come to an end".into())),
            }
        }
        Ok(cast.with_relayed(&sent))
    }

    /// Waits until all consumers have everything, or nothing comes any more.
    fn hear_done(&mut self, patience: Duration) -> Result<Vec<Ending>, Error> {
        let mut endings = vec![];
        let mut missing = self.crew.len();
        let mut until = Instant::now() + patience * 3;
        let mut delivered = 0;
        while missing > 0 {
            // As long as something comes there is no hurry.
            let now = self.record.tracks.iter().filter_map(|t| t.last()).map(|t| t.delivered).sum();
            if std::mem::replace(&mut delivered, now) != now {
                until = Instant::now() + patience * 3;
            }
            match self.next(until.min(Instant::now() + Duration::from_secs(1)))? {
                Some((_, Note::Done(some))) => {
                    endings.extend(some);
                    missing -= 1;
                }
                None if Instant::now() >= until => {
                    return Err(Error::Usage("consumers do not come to an end".into()));
                }
                _ => {}
            }
        }
        endings.sort_by_key(|e| e.group);
        Ok(endings)
    }
}

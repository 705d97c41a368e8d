//! The common body of most scenarios: producers and consumers, a warm-up, a measured phase, a verdict.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::check::Faults;
use crate::client::{Client, Error, looking_at};
use crate::drive::{Drive, Port};
use crate::driver::nats;
use crate::payload::now_ns;
use crate::record::Latency;
use crate::report::Sample;
use crate::screen::Screen;
use crate::settings::{Amount, Protocol, Settings};
use crate::sink::{Names, OBSERVER_OID, Observers, Subscriptions};
use crate::source::{Control, Messages, Template};
use crate::usage::{Usage, reset_peak};
use crate::wire::encode::Pattern;
use crate::wire::stream::Decoder;

/// How long to go on listening after the last expected delivery, for those that should not come.
const LINGER: Duration = Duration::from_millis(30);

/// Longest wait for a socket in one step.
const STEP_MS: u64 = 20;

/// Who sends to whom.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What the run is called in reports.
    pub point: String,
    /// Names of the producers.
    pub names: Names,
    /// Number of producers.
    pub producers: usize,
    /// For each consuming session, the producers it follows.
    pub consumers: Vec<Vec<usize>>,
    /// Fields after the payload.
    pub extra_fields: usize,
    /// Messages per second of each producer; as fast as possible if not given.
    pub per_second: Option<u64>,
}

impl Plan {
    /// One producer, one consumer.
    pub fn one_to_one(point: impl Into<String>) -> Plan {
        Plan {
            point: point.into(),
            names: Names::fresh(),
            producers: 1,
            consumers: vec![vec![0]],
            extra_fields: 0,
            per_second: None,
        }
    }
}

/// The ports of a plan, spread over threads, and the producers' controls.
pub struct Flow {
    drives: Vec<Drive>,
    controls: Vec<Arc<Control>>,
}

/// What one phase measured.
#[derive(Clone, Copy, Debug)]
pub struct Phase {
    /// From the first write to the read that brought the last delivery.
    pub duration: Duration,
    /// Messages sent.
    pub messages: u64,
    /// Messages received.
    pub deliveries: u64,
}

/// Sets up the plan's sessions, runs it once, and reports.
pub fn run(settings: &Settings, plan: &Plan) -> Result<Sample, Error> {
    let mut flow = Flow::open(settings, plan)?;
    flow.measure(settings, &plan.point)
}

impl Flow {
    /// Connects everyone; consumers first, so that they miss nothing.
    pub fn open(settings: &Settings, plan: &Plan) -> Result<Flow, Error> {
        let mut lanes: Vec<Vec<Port>> = (0..settings.threads.max(1)).map(|_| vec![]).collect();
        let threads = lanes.len();
        for (i, producers) in plan.consumers.iter().enumerate() {
            // Counted from the end, so that a single consumer is not on the single producer's thread.
            lanes[threads - 1 - i % threads].push(open_consumer(settings, plan, producers)?);
        }
        let controls: Vec<_> = (0..plan.producers).map(|_| Control::new()).collect();
        for (n, control) in controls.iter().enumerate() {
            let port = open_producer(settings, plan, n, control.clone())?;
            lanes[n % threads].push(port);
        }
        Flow::of(lanes, controls)
    }

    /// Takes ports that were set up elsewhere: one list for each thread, and the control of each producer.
    pub fn of(lanes: Vec<Vec<Port>>, controls: Vec<Arc<Control>>) -> Result<Flow, Error> {
        let drives = lanes.into_iter().filter(|l| !l.is_empty()).map(Drive::new).collect::<Result<_, _>>()?;
        Ok(Flow { drives, controls })
    }

    /// Warms up, measures, lingers, judges.
    pub fn measure(&mut self, settings: &Settings, point: &str) -> Result<Sample, Error> {
        let mut screen = settings.screen.begin(point);
        if !settings.warmup.is_zero() {
            self.phase(settings, Amount::Time(settings.warmup), &mut screen)?;
        }
        self.drives.iter_mut().for_each(|d| d.intake.latency.clear());
        let meter = Meter::start(settings)?;
        let phase = self.phase(settings, settings.amount, &mut screen)?;
        let mut sample = meter.finish(point)?;
        self.linger()?;
        screen.end();

        sample.messages = phase.messages;
        sample.deliveries = phase.deliveries;
        sample.seconds = phase.duration.as_secs_f64();
        sample.faults = self.faults();
        let mut latency = Latency::default();
        self.drives.iter().for_each(|d| latency.add(&d.intake.latency));
        sample.latency = latency.quantiles();
        Ok(sample)
    }

    /// Lets producers send `amount` and waits until all of it has arrived, or nothing moves any more.
    pub fn phase(
        &mut self,
        settings: &Settings,
        amount: Amount,
        screen: &mut Screen,
    ) -> Result<Phase, Error> {
        let (sent_before, delivered_before) = (self.sent().iter().sum::<u64>(), self.delivered());
        let start_ns = now_ns();
        for control in &self.controls {
            let (limit, deadline_ns) = amount.limits(control.sent(), start_ns);
            control.allow(limit, start_ns, deadline_ns);
        }
        for drive in &mut self.drives {
            drive.wake_sources()?;
        }
        let shared = Shared {
            controls: &self.controls,
            producing: AtomicUsize::new(self.drives.len()),
            patience: settings.patience,
        };
        match &mut self.drives[..] {
            [only] => shared.run(only, Some(screen))?,
            [first, others @ ..] => std::thread::scope(|scope| {
                let running: Vec<_> =
                    others.iter_mut().map(|drive| scope.spawn(|| shared.run(drive, None))).collect();
                let mut result = shared.run(first, Some(screen));
                for thread in running {
                    result = result.and(thread.join().expect("a load thread panicked"));
                }
                result
            })?,
            [] => {}
        }
        let end_ns = self.drives.iter().map(|d| d.intake.now_ns).max().unwrap_or(0).max(start_ns + 1);
        Ok(Phase {
            duration: Duration::from_nanos(end_ns - start_ns),
            messages: self.sent().iter().sum::<u64>() - sent_before,
            deliveries: self.delivered() - delivered_before,
        })
    }

    /// The verdict so far.
    pub fn faults(&self) -> Faults {
        let sent = self.sent();
        let mut sum = Faults::default();
        self.drives.iter().for_each(|d| sum.add(&d.faults(&sent)));
        sum
    }

    /// Messages that each producer has sent so far.
    pub fn sent(&self) -> Vec<u64> {
        self.controls.iter().map(|c| c.sent()).collect()
    }

    fn delivered(&self) -> u64 {
        self.drives.iter().map(|d| d.intake.delivered).sum()
    }

    fn linger(&mut self) -> Result<(), Error> {
        let end = Instant::now() + LINGER;
        while Instant::now() < end {
            for drive in &mut self.drives {
                drive.step(1)?;
            }
        }
        Ok(())
    }
}

/// What the threads of one phase know of each other.
struct Shared<'a> {
    controls: &'a [Arc<Control>],
    /// Threads whose producers are not yet done.
    producing: AtomicUsize,
    patience: Duration,
}

impl Shared<'_> {
    fn run(&self, drive: &mut Drive, mut screen: Option<&mut Screen>) -> Result<(), Error> {
        let mut is_producing = true;
        let mut expected = None;
        let mut quiet_since: Option<Instant> = None;
        loop {
            let has_moved = drive.step(STEP_MS)?;
            if is_producing && drive.sources_busy() == 0 {
                is_producing = false;
                // Release: pairs with the Acquire below, publishes this thread's final counts of messages sent.
                self.producing.fetch_sub(1, Ordering::Release);
            }
            // Acquire: pairs with the Release above; at 0 all counts are final.
            if expected.is_none() && self.producing.load(Ordering::Acquire) == 0 {
                let sent: Vec<u64> = self.controls.iter().map(|c| c.sent()).collect();
                expected = Some(drive.expected(&sent));
            }
            if expected.is_some_and(|n| drive.intake.delivered >= n) {
                return Ok(());
            }
            if has_moved {
                quiet_since = None;
            } else if quiet_since.get_or_insert_with(Instant::now).elapsed() > self.patience {
                return Ok(());
            }
            if let Some(screen) = &mut screen {
                screen.counts(|| self.controls.iter().map(|c| c.sent()).sum(), drive.intake.delivered);
            }
        }
    }
}

/// Readings taken before a measured phase.
pub struct Meter {
    broker: Option<(u32, Usage)>,
    load: Usage,
}

impl Meter {
    /// Reads the broker's use (if its process is known) and our own.
    pub fn start(settings: &Settings) -> Result<Meter, Error> {
        let broker = match settings.broker_pid {
            None => None,
            Some(pid) => {
                reset_peak(pid);
                Some((pid, read_usage(pid)?))
            }
        };
        Ok(Meter { broker, load: read_usage(std::process::id())? })
    }

    /// Reads again; gives a sample with everything but counts, times and faults.
    pub fn finish(self, point: &str) -> Result<Sample, Error> {
        let mut sample = Sample { point: point.to_owned(), ..Sample::default() };
        if let Some((pid, before)) = self.broker {
            let now = read_usage(pid)?;
            sample.broker = Some(now.since(&before));
        }
        sample.load_cpu_ns = read_usage(std::process::id())?.since(&self.load).cpu_ns;
        Ok(sample)
    }
}

fn read_usage(pid: u32) -> Result<Usage, Error> {
    Usage::of(pid).map_err(looking_at(pid))
}

/// The pattern by which consumers observe messages of producer `name`.
pub fn says_pattern(name: &str) -> Pattern {
    Pattern::Rec("Says", vec![(0, Pattern::Lit(name.to_owned())), (1, Pattern::Bind)])
}

/// Connects a consumer that follows the given producers of a plan; its observers are in place afterwards.
pub fn open_consumer(s: &Settings, plan: &Plan, follows: &[usize]) -> Result<Port, Error> {
    let scrutiny = s.scrutiny(plan.per_second.is_some());
    let by_literal = || Subscriptions::by_literal(follows.to_vec(), s.payload_bytes, scrutiny);
    match s.protocol {
        Protocol::Syndicate => {
            let mut client = Client::open(s.contact(), s.barrier)?;
            let subscriptions = if s.captures_both {
                let both = vec![(0, Pattern::Bind), (1, Pattern::Bind)];
                client.observe(&Pattern::Rec("Says", both), OBSERVER_OID)?;
                Subscriptions::of_all(plan.producers, s.payload_bytes, scrutiny)
            } else {
                for (i, producer) in follows.iter().enumerate() {
                    client.observe(&says_pattern(&plan.names.of(*producer)), OBSERVER_OID + i as u64)?;
                }
                by_literal()
            };
            client.barrier()?;
            let (fd, decoder, kept) = client.into_parts();
            Ok(Port::new(fd, kept, None, Box::new(Observers::new(decoder, subscriptions))))
        }
        Protocol::Nats => {
            let subjects: Vec<String> = follows.iter().map(|n| plan.names.of(*n)).collect();
            nats::open_consumer(s.contact(), &subjects, by_literal())
        }
        Protocol::Relay => {
            let fd = crate::client::connect(s.contact())?;
            Ok(Port::new(fd, vec![], None, Box::new(Observers::new(Decoder::default(), by_literal()))))
        }
    }
}

/// Connects producer `number` of a plan.
pub fn open_producer(s: &Settings, plan: &Plan, number: usize, control: Arc<Control>) -> Result<Port, Error> {
    let mut shape = s.shape(plan.names.of(number));
    shape.extra_fields = plan.extra_fields;
    let nothing = Subscriptions::by_literal(vec![], s.payload_bytes, s.scrutiny(false));
    let source = |template| -> Box<dyn crate::source::Source> {
        Box::new(match plan.per_second {
            None => Messages::new(template, control),
            Some(rate) => Messages::paced(template, control, rate),
        })
    };
    match s.protocol {
        Protocol::Syndicate => {
            let client = match &s.producer_ref {
                Some(reference) => Client::open_by(s.contact(), s.barrier, reference)?,
                None => Client::open(s.contact(), s.barrier)?,
            };
            let source = source(Template::says(client.dataspace(), &shape));
            let (fd, decoder, kept) = client.into_parts();
            Ok(Port::new(fd, kept, Some(source), Box::new(Observers::new(decoder, nothing))))
        }
        Protocol::Nats => nats::open_producer(s.contact(), source(nats::template(&shape)), nothing),
        Protocol::Relay => {
            let fd = crate::client::connect(s.contact())?;
            // Sent to the oid of the consumer's first observer, as a broker would address it.
            let source = source(Template::says(OBSERVER_OID, &shape));
            Ok(Port::new(fd, vec![], Some(source), Box::new(Observers::new(Decoder::default(), nothing))))
        }
    }
}

//! One process of a scenario: takes orders, plays its part, tells how it goes.

use std::io::Write;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_send_buffer_size};

use super::feed::Feed;
use super::lane::Lane;
use super::live::{Bucket, Link, Live, Relay};
use super::{Note, Order, Part, TICK_NS, Turn};
use crate::cast::Cast;
use crate::client::{Address, Contact, Error, doing};
use crate::driver::{self, Driver, Session};
use crate::payload::now_ns;
use crate::script::{Group, Rate, Role, Script};
use crate::sink::{ANY_LENGTH, Scrutiny, Subscriptions};

/// The part that a member plays, and what it needs for it.
#[derive(Clone, Debug)]
pub struct Stage {
    /// The scenario, with the rates that hold.
    pub script: Script,
    /// Who is who in it.
    pub cast: Cast,
    /// How to speak with the broker.
    pub driver: &'static dyn Driver,
    /// Where it listens.
    pub address: Address,
    process: String,
    letter: char,
}

impl Stage {
    fn of(part: &Part) -> Result<Stage, Error> {
        let script = part.script()?;
        let driver = driver::of(&part.driver).ok_or_else(|| Error::Usage("no such driver".into()))?;
        let address = part.address.parse().map_err(Error::Usage)?;
        let cast = Cast::of(&script);
        Ok(Stage { script, cast, driver, address, process: part.process.clone(), letter: part.letter })
    }

    /// Numbers of the groups whose clients are here.
    pub fn own_groups(&self) -> impl Iterator<Item = usize> + use<'_> {
        (0..self.script.groups.len()).filter(|g| self.script.groups[*g].process == self.process)
    }

    fn topics(&self, streams: &[usize]) -> Vec<String> {
        streams.iter().map(|s| format!("{}{s}", self.letter)).collect()
    }

    /// Connects one client of a group, as a producer if it follows nobody.
    pub fn connect(
        &self,
        group: usize,
        contact: Contact<'_>,
        follows: &[usize],
        topics: &[String],
    ) -> Result<Session, Error> {
        let subscriptions =
            Subscriptions::by_literal(follows.to_vec(), self.payload_bytes(follows), self.scrutiny(follows));
        let session = self.driver.open(contact, topics, subscriptions)?;
        let group = &self.script.groups[group];
        if let Some(bytes) = group.send_buffer {
            // Linux doubles what it is told, for its own overhead.
            set_socket_send_buffer_size(&session.fd, bytes as usize / 2).map_err(doing("SO_SNDBUF"))?;
        }
        if let Some(bytes) = group.receive_buffer {
            set_socket_recv_buffer_size(&session.fd, bytes as usize / 2).map_err(doing("SO_RCVBUF"))?;
        }
        Ok(session)
    }

    /// The producers whose messages reach whoever follows `streams`.
    fn origins<'a>(&'a self, streams: &'a [usize]) -> impl Iterator<Item = &'a Group> {
        streams.iter().map(|s| {
            let mut stream = &self.cast.streams[*s];
            while let Some(upstream) = stream.upstream {
                stream = &self.cast.streams[upstream];
            }
            &self.script.groups[stream.group]
        })
    }

    fn payload_bytes(&self, follows: &[usize]) -> usize {
        let mut sizes = self.origins(follows).map(|g| g.producing().and_then(|p| p.payloads.only()));
        let first = sizes.next().flatten();
        let is_one = first.is_some() && sizes.all(|size| size == first);
        if is_one { first.unwrap_or(ANY_LENGTH) } else { ANY_LENGTH }
    }

    /// Latencies are sampled where messages come as fast as they can.
    fn scrutiny(&self, follows: &[usize]) -> Scrutiny {
        let is_full = |g: &Group| g.producing().is_some_and(|p| p.rate == Rate::Full);
        let time_every = if self.origins(follows).any(is_full) { 16 } else { 1 };
        Scrutiny { time_every, body_every: 64 }
    }

    /// What a producer writes in one of its lives.
    pub fn feed(&self, group: usize, client: usize, life: usize, target: u64) -> Feed {
        let stream = self.cast.clients[group][client].sends[life];
        let topic = &self.topics(&[stream])[0];
        let producing = self.script.groups[group].producing().expect("only producers have feeds");
        Feed::new(self.driver, target, topic, &producing.payloads, stream as u64)
    }

    /// Connects one client and makes it ready.
    pub(super) fn open(&self, group: usize, client: usize) -> Result<Live, Error> {
        let part = &self.cast.clients[group][client];
        let contact =
            Contact { address: &self.address, patience: Duration::from_secs_f64(self.script.patience_s) };
        let session = self.connect(group, contact, &part.follows, &self.topics(&part.follows))?;
        let role = &self.script.groups[group].role;
        let target = session.target;
        let (mut feed, mut relay, mut slow) = (None, None, None);
        match role {
            Role::Producer(_) => feed = Some(self.feed(group, client, 0, target)),
            Role::Relay(_) => {
                relay = Some(Relay { topics: self.topics(&part.sends), target, queue: vec![], at: 0 });
            }
            Role::Consumer(c) => slow = c.reads.map(Bucket::new),
        }
        Ok(Live {
            group,
            client,
            link: Link::Up(session.fd),
            kept: session.kept,
            sink: session.sink,
            feed,
            relay,
            slow,
            is_stalled: false,
            is_killed: false,
            blocked_since: None,
            blocked_ns: 0,
            delivered: 0,
            life: 0,
            accepted_before: vec![],
            flags: EventFlags::empty(),
            wants_to_write: false,
        })
    }
}

impl Part {
    /// The scenario as it is to be played.
    pub fn script(&self) -> Result<Script, Error> {
        let mut script =
            Script::parse(&self.text, "the scenario")?.stretched(self.stretch).limited(self.clients_max);
        for (group, rate) in script.groups.iter_mut().zip(&self.rates) {
            if let (Role::Producer(p), Some(rate)) = (&mut group.role, rate) {
                p.rate = if *rate > 0.0 { Rate::PerSecond(*rate) } else { Rate::Full };
            }
        }
        if let Some(seconds) = self.only_s {
            script.duration_s = seconds;
            for group in &mut script.groups {
                if let Role::Consumer(c) = &mut group.role {
                    (c.stall, c.kill, c.reads) = (None, None, None);
                }
            }
        }
        Ok(script)
    }
}

/// Something that the scenario does to its clients.
#[derive(Clone, Copy, Debug)]
enum Blow {
    Stall { group: usize, clients: usize, is_stalled: bool },
    Kill { group: usize, clients: usize },
}

/// Where a member stands.
struct Member {
    lane: Lane,
    /// What is to happen, and how many nanoseconds from the start; the next one last.
    blows: Vec<(u64, Blow)>,
    orders: Orders,
    start_ns: Option<u64>,
    next_tick_ns: u64,
    has_told_sent: bool,
    /// What each stream had, once that is known.
    drain: Option<Vec<u64>>,
    /// Ticks for which all has been there.
    drained_ticks: u32,
    is_done: bool,
}

/// Runs a member on standard input and output, until the input ends.
pub fn run() -> Result<(), Error> {
    let mut orders = Orders::default();
    let part: Part = loop {
        if let Some(line) = orders.line() {
            break serde_json::from_str(&line).map_err(|e| Error::Usage(format!("the part: {e}")))?;
        }
        if !orders.read()? {
            return Ok(());
        }
    };
    let result = Stage::of(&part).and_then(|stage| {
        let blows = blows(&stage);
        let lane = Lane::new(stage)?;
        let member = Member {
            lane,
            blows,
            orders,
            start_ns: None,
            next_tick_ns: 0,
            has_told_sent: false,
            drain: None,
            drained_ticks: 0,
            is_done: false,
        };
        member.play()
    });
    if let Err(e) = &result {
        let _ = tell(&Note::Failed(e.to_string()));
    }
    result
}

fn blows(stage: &Stage) -> Vec<(u64, Blow)> {
    let mut blows = vec![];
    let at = |seconds: f64| (seconds * 1e9) as u64;
    for group in stage.own_groups() {
        let it = &stage.script.groups[group];
        let Some(consuming) = it.consuming() else { continue };
        if let Some(stall) = consuming.stall.filter(|s| !s.stops_process) {
            let clients = it.share(stall.share);
            blows.push((at(stall.from_s), Blow::Stall { group, clients, is_stalled: true }));
            blows.push((at(stall.to_s), Blow::Stall { group, clients, is_stalled: false }));
        }
        if let Some(kill) = consuming.kill {
            blows.push((at(kill.at_s), Blow::Kill { group, clients: it.share(kill.share) }));
        }
    }
    blows.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
    blows
}

impl Member {
    fn play(mut self) -> Result<(), Error> {
        const IDLE_NS: u64 = 1_000_000_000;
        // Those that came with the part.
        self.obey()?;
        loop {
            let mut until = if self.start_ns.is_some() { self.next_tick_ns } else { now_ns() + IDLE_NS };
            if let (Some(start), Some((at, _))) = (self.start_ns, self.blows.last()) {
                until = until.min(start + at);
            }
            if self.lane.step(until)? && !self.take_orders()? {
                return Ok(());
            }
            let Some(start) = self.start_ns else { continue };
            let now = now_ns();
            while let Some((_, blow)) = self.blows.pop_if(|(at, _)| start + *at <= now) {
                self.strike(blow)?;
            }
            if now >= self.next_tick_ns {
                self.next_tick_ns = now - (now - start) % TICK_NS + TICK_NS;
                self.tick(now)?;
            }
        }
    }

    /// Says whether there may be more orders.
    fn take_orders(&mut self) -> Result<bool, Error> {
        if !self.orders.read()? {
            return Ok(false);
        }
        self.obey().map(|()| true)
    }

    fn obey(&mut self) -> Result<(), Error> {
        while let Some(line) = self.orders.line() {
            match serde_json::from_str(&line).map_err(|e| Error::Usage(format!("an order: {e}")))? {
                Order::Open(turn) => self.open(turn)?,
                Order::Go(start) => {
                    (self.start_ns, self.next_tick_ns) = (Some(start), start);
                    self.lane.go(start);
                }
                Order::Drain(sent) => self.drain = Some(sent),
            }
        }
        Ok(())
    }

    fn open(&mut self, turn: Turn) -> Result<(), Error> {
        let stage = self.lane.stage();
        let is_it = |g: &usize| {
            let role = &stage.script.groups[*g].role;
            matches!(
                (turn, role),
                (Turn::Consumers, Role::Consumer(_))
                    | (Turn::Relays, Role::Relay(_))
                    | (Turn::Producers, Role::Producer(_))
            )
        };
        let groups: Vec<usize> = stage.own_groups().filter(is_it).collect();
        groups.into_iter().try_for_each(|g| self.lane.open(g))?;
        tell(&Note::Ready)
    }

    fn strike(&mut self, blow: Blow) -> Result<(), Error> {
        match blow {
            Blow::Stall { group, clients, is_stalled } => self
                .lane
                .clients(group, clients)
                .into_iter()
                .try_for_each(|i| self.lane.set_stalled(i, is_stalled)),
            Blow::Kill { group, clients } => {
                self.lane.clients(group, clients).into_iter().try_for_each(|i| self.lane.kill(i))
            }
        }
    }

    fn tick(&mut self, now: u64) -> Result<(), Error> {
        tell(&Note::Tick(self.lane.totals()))?;
        let patience_ns = (self.lane.stage().script.patience_s * 1e9) as u64;
        let deadline = self.start_ns.unwrap_or(0) + (self.lane.stage().script.duration_s * 1e9) as u64;
        let is_still = now > deadline.max(self.lane.moved_ns) + patience_ns;
        if !self.has_told_sent && (self.lane.has_sent() || is_still) {
            self.has_told_sent = true;
            tell(&Note::Sent(self.lane.sent()))?;
        }
        if let Some(sent) = &self.drain
            && !self.is_done
        {
            if self.lane.is_drained(sent) {
                self.drained_ticks += 1;
            }
            // One more tick, for what should not come.
            if self.drained_ticks > 1 || is_still {
                self.is_done = true;
                tell(&Note::Done(self.lane.endings(sent)))?;
            }
        }
        Ok(())
    }
}

fn tell(note: &Note) -> Result<(), Error> {
    let mut line = serde_json::to_vec(note).expect("notes have string keys");
    line.push(b'\n');
    let mut out = std::io::stdout().lock();
    out.write_all(&line).and_then(|()| out.flush()).map_err(doing("telling how it goes"))
}

/// Lines of standard input.
#[derive(Default)]
struct Orders {
    kept: Vec<u8>,
}

impl Orders {
    /// Reads what is there, at least something. Says whether there may be more.
    fn read(&mut self) -> Result<bool, Error> {
        let mut buf = [0; 64 * 1024];
        match rustix::io::read(stdin(), &mut buf) {
            Ok(0) => Ok(false),
            Ok(n) => {
                self.kept.extend_from_slice(&buf[..n]);
                Ok(true)
            }
            Err(Errno::INTR) => Ok(true),
            Err(e) => Err(doing("reading orders")(e)),
        }
    }

    fn line(&mut self) -> Option<String> {
        let end = self.kept.iter().position(|b| *b == b'\n')?;
        let line: Vec<u8> = self.kept.drain(..=end).collect();
        Some(String::from_utf8_lossy(&line).into_owned())
    }
}

fn stdin() -> BorrowedFd<'static> {
    rustix::stdio::stdin()
}

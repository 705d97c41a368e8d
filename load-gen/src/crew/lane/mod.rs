//! All clients of one member: one thread, one epoll set, never blocking.

mod told;

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{TryRecvError, channel};
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};

use super::live::{Link, Live};
use super::member::Stage;
use crate::client::{Contact, Error, doing};
use crate::driver::Session;
use crate::pace::Pace;
use crate::payload::now_ns;
use crate::record::Latency;
use crate::script::{Rate, Role};
use crate::sink::Intake;

/// Bytes asked for in one read.
const READ_BYTES: usize = 128 * 1024;

/// Writes to one client before the others get their turn.
const WRITES_PER_TURN: usize = 4;

/// Ready sockets looked at in one step.
const READY_MAX: usize = 256;

/// Marks the timer and standard input among the ready descriptors.
const TIMER: u64 = u64::MAX;
const ORDERS: u64 = u64::MAX - 1;

/// Open loops that are due sooner than this wait together: more would cost more than it tells.
const COALESCE_NS: u64 = 100_000;

/// How often slow readers look whether they may read on.
const SLOW_NS: u64 = 2_000_000;

/// Reasons kept for each group.
const REASONS_MAX: usize = 8;

/// What a group has come to.
struct Tally {
    group: usize,
    intake: Intake,
    total: Latency,
    disconnects: u64,
    reconnects: u64,
    reasons: Vec<String>,
}

/// See the module's head.
pub struct Lane {
    stage: Stage,
    epoll: OwnedFd,
    timer: OwnedFd,
    lives: Vec<Live>,
    tallies: Vec<Tally>,
    buf: Vec<u8>,
    start_ns: u64,
    deadline_ns: u64,
    /// Clients that time alone may move: open loops, slow readers, those who come back.
    timed: Vec<usize>,
    /// When a byte moved last.
    pub moved_ns: u64,
}

impl Lane {
    /// No client yet.
    pub fn new(stage: Stage) -> Result<Lane, Error> {
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(doing("epoll_create"))?;
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags);
        let timer = timer.map_err(doing("timerfd_create"))?;
        epoll::add(&epoll, &timer, EventData::new_u64(TIMER), EventFlags::IN).map_err(doing("epoll_ctl"))?;
        epoll::add(&epoll, std::io::stdin(), EventData::new_u64(ORDERS), EventFlags::IN)
            .map_err(doing("epoll_ctl"))?;
        let tally = |group: usize| {
            let mut intake = Intake::default();
            if matches!(stage.script.groups[group].role, Role::Relay(_)) {
                intake.tap = Some(Default::default());
            }
            let total = Latency::default();
            Tally { group, intake, total, disconnects: 0, reconnects: 0, reasons: vec![] }
        };
        let tallies = stage.own_groups().map(tally).collect();
        Ok(Lane {
            stage,
            epoll,
            timer,
            lives: vec![],
            tallies,
            buf: vec![0; READ_BYTES],
            start_ns: u64::MAX,
            deadline_ns: u64::MAX,
            timed: vec![],
            moved_ns: 0,
        })
    }

    /// The part that is played.
    pub fn stage(&self) -> &Stage {
        &self.stage
    }

    /// Connects the clients of a group.
    pub fn open(&mut self, group: usize) -> Result<(), Error> {
        for client in 0..self.stage.script.groups[group].count {
            let mut live = self.stage.open(group, client)?;
            let Link::Up(fd) = &live.link else { continue };
            rustix::io::ioctl_fionbio(fd, true).map_err(doing("FIONBIO"))?;
            live.flags = EventFlags::IN;
            let data = EventData::new_u64(self.lives.len() as u64);
            epoll::add(&self.epoll, fd, data, live.flags).map_err(doing("epoll_ctl"))?;
            if live.feed.is_some() || live.slow.is_some() {
                self.timed.push(self.lives.len());
            }
            self.lives.push(live);
        }
        Ok(())
    }

    /// The scenario begins at `start_ns`.
    pub fn go(&mut self, start_ns: u64) {
        self.start_ns = start_ns;
        self.deadline_ns = start_ns + (self.stage.script.duration_s * 1e9) as u64;
        self.moved_ns = start_ns;
        for i in 0..self.lives.len() {
            self.begin(i);
        }
    }

    fn begin(&mut self, i: usize) {
        let live = &mut self.lives[i];
        let Some(producing) = self.stage.script.groups[live.group].producing() else { return };
        let before = live.accepted_before.iter().sum();
        let pace = match producing.rate {
            Rate::PerSecond(rate) => Some((Pace::fractional(self.start_ns, rate), before)),
            _ => None,
        };
        if let Some(feed) = &mut live.feed {
            feed.go(self.deadline_ns, pace);
        }
    }

    /// Waits until `until_ns` at most for something to do, and does it. Says whether there are orders to read.
    pub fn step(&mut self, until_ns: u64) -> Result<bool, Error> {
        self.set_timer(self.next_due(until_ns))?;
        let mut ready = [const { MaybeUninit::<epoll::Event>::uninit() }; READY_MAX];
        let ready = match epoll::wait(&self.epoll, &mut ready, None) {
            Ok((ready, _)) => &*ready,
            Err(Errno::INTR) => &[],
            Err(e) => return Err(doing("epoll_wait")(e)),
        };
        let mut has_orders = false;
        for event in ready {
            let (data, flags) = (event.data.u64(), event.flags);
            match data {
                TIMER => {
                    let mut count = [MaybeUninit::<u8>::uninit(); 8];
                    // Only resets its readiness.
                    let _ = rustix::io::read(&self.timer, &mut count);
                }
                ORDERS => has_orders = true,
                i => self.ready(i as usize, flags)?,
            }
        }
        self.time_passes()?;
        Ok(has_orders)
    }

    fn ready(&mut self, i: usize, flags: EventFlags) -> Result<(), Error> {
        let is_hung_up = flags.intersects(EventFlags::HUP | EventFlags::ERR);
        if self.lives[i].reads() && (flags.contains(EventFlags::IN) || is_hung_up) {
            self.read(i)?;
        } else if is_hung_up {
            self.cut(i)?;
        }
        if flags.contains(EventFlags::OUT) {
            self.write(i)?;
        }
        Ok(())
    }

    /// When to wake although no socket is ready.
    fn next_due(&self, until_ns: u64) -> u64 {
        let now = now_ns();
        let mut due = until_ns;
        for i in &self.timed {
            let live = &self.lives[*i];
            if live.slow.as_ref().is_some_and(|b| b.is_empty) || matches!(live.link, Link::Coming(_)) {
                due = due.min(now + SLOW_NS);
            }
            if let (Some(feed), None, Link::Up(_)) = (&live.feed, live.blocked_since, &live.link)
                && !feed.is_done(now)
            {
                due = due.min(feed.next_due_ns().max(self.start_ns).max(now + COALESCE_NS));
            }
            if let (Some(since), Some(after)) = (live.blocked_since, self.hang_up_after(live)) {
                due = due.min((since + after).max(now + COALESCE_NS));
            }
        }
        due
    }

    /// For how long a producer waits before it hangs up and comes back.
    fn hang_up_after(&self, live: &Live) -> Option<u64> {
        let reconnect = self.stage.script.groups[live.group].producing()?.reconnect?;
        (live.life < reconnect.times).then_some((reconnect.after_s * 1e9) as u64)
    }

    fn time_passes(&mut self) -> Result<(), Error> {
        let now = now_ns();
        for n in 0..self.timed.len() {
            let i = self.timed[n];
            if let Some(slow) = &mut self.lives[i].slow {
                slow.fill(now);
                self.update(i)?;
            }
            if matches!(self.lives[i].link, Link::Coming(_)) {
                self.come_back(i)?;
            }
            let live = &self.lives[i];
            if live.feed.is_some() && live.blocked_since.is_none() && now >= self.start_ns {
                self.write(i)?;
            }
            let live = &self.lives[i];
            if let (Some(since), Some(after)) = (live.blocked_since, self.hang_up_after(live))
                && now >= since + after
                && now < self.deadline_ns
                && matches!(live.link, Link::Up(_))
            {
                self.leave(i)?;
            }
        }
        Ok(())
    }

    /// A client stops reading, or reads on.
    pub fn set_stalled(&mut self, i: usize, is_stalled: bool) -> Result<(), Error> {
        self.lives[i].is_stalled = is_stalled;
        if !is_stalled && matches!(self.lives[i].link, Link::Cut(_)) {
            return self.read_the_rest(i);
        }
        self.update(i)
    }

    /// A client hangs up hard: what it has not read is thrown away, and the broker is told with a reset.
    pub fn kill(&mut self, i: usize) -> Result<(), Error> {
        self.lives[i].is_killed = true;
        if let Link::Up(fd) = &self.lives[i].link {
            let now = Some(Duration::ZERO);
            rustix::net::sockopt::set_socket_linger(fd, now).map_err(doing("SO_LINGER"))?;
        }
        self.lives[i].link = Link::Gone;
        Ok(())
    }

    /// Numbers of the clients of a group: the first so many.
    pub fn clients(&self, group: usize, count: usize) -> Vec<usize> {
        let is_it = |i: &usize| self.lives[*i].group == group && self.lives[*i].client < count;
        (0..self.lives.len()).filter(is_it).collect()
    }

    fn update(&mut self, i: usize) -> Result<(), Error> {
        let live = &mut self.lives[i];
        let mut flags = EventFlags::empty();
        flags.set(EventFlags::IN, live.reads());
        flags.set(EventFlags::OUT, live.wants_to_write);
        if let Link::Up(fd) = &live.link
            && flags != live.flags
        {
            live.flags = flags;
            epoll::modify(&self.epoll, fd, EventData::new_u64(i as u64), flags)
                .map_err(doing("epoll_ctl"))?;
        }
        Ok(())
    }

    fn tally(&mut self, i: usize) -> &mut Tally {
        let group = self.lives[i].group;
        self.tallies.iter_mut().find(|t| t.group == group).expect("each group of ours has one")
    }

    fn read(&mut self, i: usize) -> Result<(), Error> {
        let live = &mut self.lives[i];
        let Link::Up(fd) = &live.link else { return Ok(()) };
        let most = live.slow.as_ref().map_or(READ_BYTES, |b| b.read_bytes());
        let kept = live.kept.len();
        if self.buf.len() < kept + most {
            self.buf.resize(kept + most, 0);
        }
        self.buf[..kept].copy_from_slice(&live.kept);
        let n = match rustix::net::recv(fd, &mut self.buf[kept..kept + most], RecvFlags::DONTWAIT) {
            Ok((_, 0)) => return self.ended(i, "the broker closed the connection"),
            Ok((_, n)) => n,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
            Err(e) => return self.ended(i, &format!("the broker closed the connection: {e}")),
        };
        self.moved_ns = now_ns();
        self.take(i, kept + n, n)
    }

    /// Takes the first `len` bytes of the buffer, of which the last `fresh` have just come.
    fn take(&mut self, i: usize, len: usize, fresh: usize) -> Result<(), Error> {
        let live = &mut self.lives[i];
        let tally =
            self.tallies.iter_mut().find(|t| t.group == live.group).expect("each group of ours has one");
        tally.intake.now_ns = self.moved_ns;
        let before = tally.intake.delivered;
        let input = &self.buf[..len];
        let taken = match live.sink.data(input, &mut tally.intake) {
            Ok(taken) => taken,
            Err(e) => {
                tally.intake.damaged += 1;
                return self.ended(i, &format!("the broker sent {e}"));
            }
        };
        let messages = tally.intake.delivered - before;
        live.delivered += messages;
        live.kept.clear();
        live.kept.extend_from_slice(&input[taken..]);
        if let Some(slow) = &mut live.slow {
            slow.took(fresh, messages);
        }
        if let (Some(relay), Some(tap)) = (&mut live.relay, &mut tally.intake.tap) {
            let driver = self.stage.driver;
            tap.drain(|checker, payload| {
                driver.frame(relay.target, &relay.topics[checker as usize], payload, &mut relay.queue);
            });
            self.write(i)?;
        }
        if let Some(text) = self.tally(i).intake.failure.take() {
            self.note_reason(i, &format!("the broker said: {text}"));
        }
        self.update(i)
    }

    fn write(&mut self, i: usize) -> Result<(), Error> {
        let now = now_ns();
        let mut is_blocked = false;
        for _ in 0..WRITES_PER_TURN {
            let live = &mut self.lives[i];
            let Link::Up(fd) = &live.link else { return Ok(()) };
            let chunk = match (&mut live.feed, &live.relay) {
                (Some(feed), _) => feed.chunk(now),
                (_, Some(relay)) => &relay.queue[relay.at..],
                _ => return Ok(()),
            };
            if chunk.is_empty() {
                break;
            }
            let len = chunk.len();
            let n = match rustix::net::send(fd, chunk, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(n) => n,
                Err(Errno::AGAIN | Errno::INTR) => 0,
                Err(e) => return self.ended(i, &format!("the broker closed the connection: {e}")),
            };
            if n > 0 {
                live.unblock(now);
                self.moved_ns = now;
                live.feed.iter_mut().for_each(|feed| feed.wrote(n));
                live.relay.iter_mut().for_each(|relay| relay.wrote(n));
            }
            if n < len {
                is_blocked = true;
                break;
            }
        }
        let live = &mut self.lives[i];
        if is_blocked {
            live.blocked_since.get_or_insert(now);
        } else {
            live.unblock(now);
        }
        // A closed loop has more at once: it goes on when the others had their turn.
        let is_closed = live.feed.as_ref().is_some_and(|f| f.next_due_ns() <= now && !f.is_done(now));
        live.wants_to_write =
            is_blocked || is_closed || live.relay.as_ref().is_some_and(|r| !r.queue.is_empty());
        self.update(i)
    }

    /// The broker has ended the connection of a client that is not reading.
    fn cut(&mut self, i: usize) -> Result<(), Error> {
        match std::mem::replace(&mut self.lives[i].link, Link::Gone) {
            Link::Up(fd) if self.lives[i].is_stalled => {
                epoll::delete(&self.epoll, &fd).map_err(doing("epoll_ctl"))?;
                self.lives[i].link = Link::Cut(fd);
                self.tally(i).disconnects += 1;
                self.note_reason(i, "the broker closed the connection while it did not read");
                Ok(())
            }
            other => {
                self.lives[i].link = other;
                self.ended(i, "the broker closed the connection")
            }
        }
    }

    fn read_the_rest(&mut self, i: usize) -> Result<(), Error> {
        loop {
            let live = &mut self.lives[i];
            let Link::Cut(fd) = &live.link else { return Ok(()) };
            let kept = live.kept.len();
            self.buf.resize(self.buf.len().max(kept + READ_BYTES), 0);
            self.buf[..kept].copy_from_slice(&live.kept);
            match rustix::net::recv(fd, &mut self.buf[kept..kept + READ_BYTES], RecvFlags::DONTWAIT) {
                Ok((_, n)) if n > 0 => {
                    self.moved_ns = now_ns();
                    self.take(i, kept + n, n)?;
                }
                _ => {
                    self.lives[i].link = Link::Gone;
                    return Ok(());
                }
            }
        }
    }

    /// The broker has ended a connection that it should not have.
    fn ended(&mut self, i: usize, why: &str) -> Result<(), Error> {
        let now = now_ns();
        let live = &mut self.lives[i];
        live.link = Link::Gone;
        live.unblock(now);
        self.tally(i).disconnects += 1;
        self.note_reason(i, why);
        Ok(())
    }

    fn note_reason(&mut self, i: usize, why: &str) {
        let at_s = now_ns().saturating_sub(self.start_ns) as f64 / 1e9;
        let client = self.lives[i].client;
        let tally = self.tally(i);
        if tally.reasons.len() < REASONS_MAX {
            tally.reasons.push(format!("client {client} at {at_s:.1} s: {why}"));
        }
    }

    /// A throttled producer hangs up; what it has not wholly written was not sent.
    fn leave(&mut self, i: usize) -> Result<(), Error> {
        let live = &mut self.lives[i];
        live.accepted_before.push(live.feed.take().map_or(0, |feed| feed.accepted()));
        live.life += 1;
        live.link = Link::Gone;
        live.wants_to_write = false;
        self.tally(i).reconnects += 1;
        self.call_again(i);
        Ok(())
    }

    /// Opens a session on a thread of its own: the broker may let it wait.
    fn call_again(&mut self, i: usize) {
        let (live, stage) = (&mut self.lives[i], self.stage.clone());
        let (sender, receiver) = channel();
        let group = live.group;
        let reconnect = stage.script.groups[group].producing().and_then(|p| p.reconnect);
        let patience = Duration::from_secs_f64(reconnect.map_or(1.0, |r| r.after_s.max(0.05)));
        live.link = Link::Coming(receiver);
        std::thread::spawn(move || {
            let contact = Contact { address: &stage.address, patience };
            // Nobody may be there any more to be told.
            let _ = sender.send(stage.connect(group, contact, &[], &[]));
        });
    }

    fn come_back(&mut self, i: usize) -> Result<(), Error> {
        let Link::Coming(receiver) = &self.lives[i].link else { return Ok(()) };
        let session = match receiver.try_recv() {
            Err(TryRecvError::Empty) => return Ok(()),
            Ok(Ok(session)) => session,
            // It was not let in, or not in time: one more time that it was throttled.
            Ok(Err(_)) | Err(TryRecvError::Disconnected) if now_ns() < self.deadline_ns => {
                let (group, life) = (self.lives[i].group, self.lives[i].life);
                let times = self.stage.script.groups[group].producing().and_then(|p| p.reconnect);
                if times.is_some_and(|r| life < r.times) {
                    self.lives[i].accepted_before.push(0);
                    self.lives[i].life += 1;
                    self.tally(i).reconnects += 1;
                }
                self.call_again(i);
                return Ok(());
            }
            _ => {
                self.lives[i].link = Link::Gone;
                return Ok(());
            }
        };
        rustix::io::ioctl_fionbio(&session.fd, true).map_err(doing("FIONBIO"))?;
        let live = &mut self.lives[i];
        live.feed = Some(self.stage.feed(live.group, live.client, live.life, session.target));
        live.unblock(now_ns());
        self.resume(i, session)?;
        self.begin(i);
        self.write(i)
    }

    fn resume(&mut self, i: usize, session: Session) -> Result<(), Error> {
        let live = &mut self.lives[i];
        live.flags = EventFlags::IN;
        epoll::add(&self.epoll, session.fd.as_fd(), EventData::new_u64(i as u64), live.flags)
            .map_err(doing("epoll_ctl"))?;
        (live.link, live.kept, live.sink) = (Link::Up(session.fd), session.kept, session.sink);
        Ok(())
    }

    fn set_timer(&self, due_ns: u64) -> Result<(), Error> {
        let due = due_ns.max(1);
        let at = Timespec { tv_sec: (due / 1_000_000_000) as i64, tv_nsec: (due % 1_000_000_000) as i64 };
        let spec = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: at };
        rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &spec)
            .map(|_| ())
            .map_err(doing("timerfd_settime"))
    }
}

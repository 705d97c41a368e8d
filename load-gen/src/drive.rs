//! One thread's sockets, driven by readiness.
//!
//! All ports of a thread share one read buffer, large enough that a read is rarely cut short and small enough to
//! stay in cache. A port keeps bytes of its own only while an event is incomplete.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};

use crate::check::Faults;
use crate::client::{Error, doing, lost};
use crate::payload::now_ns;
use crate::screen::Screen;
use crate::sink::{Intake, Sink};
use crate::source::Source;

/// Bytes asked for in one read.
const READ_BYTES: usize = 256 * 1024;

/// Chunks written to one port before the others get their turn.
const CHUNKS_PER_TURN: usize = 4;

/// Ready sockets looked at in one step.
const READY_MAX: usize = 256;

/// Marks the timer among the ready descriptors.
const TIMER: u64 = u64::MAX;

/// A session under load.
pub struct Port {
    fd: OwnedFd,
    source: Option<Box<dyn Source>>,
    sink: Box<dyn Sink>,
    kept: Vec<u8>,
    is_reading: bool,
    is_writing: bool,
    is_done: bool,
    /// Bytes read and written.
    pub traffic: Traffic,
}

/// Bytes that went through a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// From the broker.
    pub read_bytes: u64,
    /// To the broker.
    pub written_bytes: u64,
}

impl Port {
    /// A session on a connected socket; `kept` are bytes that were read from it before.
    pub fn new(fd: OwnedFd, kept: Vec<u8>, source: Option<Box<dyn Source>>, sink: Box<dyn Sink>) -> Port {
        Port {
            fd,
            source,
            sink,
            kept,
            is_reading: true,
            is_writing: false,
            is_done: true,
            traffic: Traffic::default(),
        }
    }

    /// Lets the kernel keep only about `bytes` that this port has not read, so that what it leaves unread stays
    /// with the broker.
    pub fn limit_unread(&self, bytes: usize) -> Result<(), Error> {
        rustix::net::sockopt::set_socket_recv_buffer_size(&self.fd, bytes).map_err(doing("SO_RCVBUF"))
    }

    /// What this port's consumer says about what it received.
    pub fn faults(&self, sent: &[u64]) -> Faults {
        self.sink.faults(sent)
    }

    fn flags(&self) -> EventFlags {
        let mut flags = EventFlags::empty();
        flags.set(EventFlags::IN, self.is_reading);
        flags.set(EventFlags::OUT, self.is_writing);
        flags
    }
}

/// All ports of one thread.
pub struct Drive {
    epoll: OwnedFd,
    timer: Option<OwnedFd>,
    ports: Vec<Port>,
    buf: Vec<u8>,
    /// How many ports have `is_done` false.
    busy: usize,
    /// What the consumers received, together.
    pub intake: Intake,
}

impl Drive {
    /// Takes over `ports`; their sockets become non-blocking.
    pub fn new(ports: Vec<Port>) -> Result<Drive, Error> {
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(doing("epoll_create"))?;
        let mut drive =
            Drive { epoll, timer: None, ports, buf: vec![0; READ_BYTES], busy: 0, intake: Intake::default() };
        for (i, port) in drive.ports.iter().enumerate() {
            drive.register(i, port)?;
        }
        drive.decode_what_was_kept()?;
        Ok(drive)
    }

    fn register(&self, i: usize, port: &Port) -> Result<(), Error> {
        rustix::io::ioctl_fionbio(&port.fd, true).map_err(doing("FIONBIO"))?;
        epoll::add(&self.epoll, &port.fd, EventData::new_u64(i as u64), port.flags())
            .map_err(doing("epoll_ctl"))
    }

    /// Takes over one more port; gives its number. What was read before is decoded at once.
    pub fn add(&mut self, port: Port) -> Result<usize, Error> {
        let i = self.ports.len();
        self.register(i, &port)?;
        self.ports.push(port);
        self.decode_what_was_kept()?;
        Ok(i)
    }

    /// The ports, in the order given.
    pub fn ports(&self) -> &[Port] {
        &self.ports
    }

    /// Looks again at what every source has to write. Call it when limits have been changed.
    pub fn wake_sources(&mut self) -> Result<(), Error> {
        for i in 0..self.ports.len() {
            if self.ports[i].source.is_some() {
                self.set_done(i, false);
                self.set_writing(i, true)?;
            }
        }
        Ok(())
    }

    /// How many sources have not yet written all they may.
    pub fn sources_busy(&self) -> usize {
        self.busy
    }

    /// Gives port `i` something (else) to write.
    pub fn set_source(&mut self, i: usize, source: Box<dyn Source>) -> Result<(), Error> {
        self.ports[i].source = Some(source);
        self.set_done(i, false);
        self.set_writing(i, true)
    }

    /// Lets port `i` read or not; a port that does not read is a stalled consumer.
    pub fn set_reading(&mut self, i: usize, is_reading: bool) -> Result<(), Error> {
        self.ports[i].is_reading = is_reading;
        self.update(i)
    }

    /// Ends port `i`'s session. Nothing more is read from it or written to it.
    pub fn hang_up(&mut self, i: usize) -> Result<(), Error> {
        self.set_done(i, true);
        let port = &mut self.ports[i];
        (port.is_reading, port.is_writing, port.source) = (false, false, None);
        epoll::delete(&self.epoll, &port.fd).map_err(doing("epoll_ctl"))?;
        rustix::net::shutdown(&port.fd, Shutdown::Both).map_err(doing("shutdown"))
    }

    /// Tells port `i`'s consumer that the end of every assertion is expected from now on.
    pub fn expect_end(&mut self, i: usize) {
        self.ports[i].sink.expect_end();
    }

    /// Goes on until every source is done and `expected` deliveries have come in all, or until nothing has moved
    /// for `patience`; says whether all came.
    pub fn drain(&mut self, expected: u64, patience: Duration, screen: &mut Screen) -> Result<bool, Error> {
        let mut quiet_since: Option<Instant> = None;
        while self.busy > 0 || self.intake.delivered < expected {
            if self.step(20)? {
                quiet_since = None;
            } else if quiet_since.get_or_insert_with(Instant::now).elapsed() > patience {
                return Ok(false);
            }
            screen.counts(|| expected, self.intake.delivered);
        }
        Ok(true)
    }

    /// Deliveries due in total once producers have sent `sent`.
    pub fn expected(&self, sent: &[u64]) -> u64 {
        self.ports.iter().map(|p| p.sink.expected(sent)).sum()
    }

    /// The verdict over all consumers.
    pub fn faults(&self, sent: &[u64]) -> Faults {
        let mut sum = Faults {
            misdelivered: self.intake.misdelivered,
            damaged: self.intake.damaged,
            ..Faults::default()
        };
        self.ports.iter().for_each(|p| sum.add(&p.sink.faults(sent)));
        sum
    }

    /// Waits up to `timeout_ms` for something to do, and does it. Says whether any byte moved.
    pub fn step(&mut self, timeout_ms: u64) -> Result<bool, Error> {
        let timeout = Timespec { tv_sec: 0, tv_nsec: timeout_ms.min(999) as i64 * 1_000_000 };
        let mut ready = [const { MaybeUninit::<epoll::Event>::uninit() }; READY_MAX];
        let ready = match epoll::wait(&self.epoll, &mut ready, Some(&timeout)) {
            Ok((ready, _)) => &*ready,
            Err(Errno::INTR) => &[],
            Err(e) => return Err(doing("epoll_wait")(e)),
        };
        let mut has_moved = false;
        for event in ready {
            let (data, flags) = (event.data.u64(), event.flags);
            if data == TIMER {
                has_moved |= self.timer_fired()?;
                continue;
            }
            let i = data as usize;
            if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR)
                && self.ports[i].is_reading
            {
                has_moved |= self.read(i)?;
            }
            // Nobody reads it now, so nobody else would notice.
            if flags.intersects(EventFlags::HUP | EventFlags::ERR) && !self.ports[i].is_reading {
                return Err(Error::Closed);
            }
            if flags.contains(EventFlags::OUT) && self.ports[i].is_writing {
                has_moved |= self.write(i)?;
            }
        }
        match self.intake.failure.take() {
            Some(text) => Err(Error::PeerFailed(text)),
            None => Ok(has_moved),
        }
    }

    fn decode_what_was_kept(&mut self) -> Result<(), Error> {
        self.intake.now_ns = now_ns();
        for port in &mut self.ports {
            if !port.kept.is_empty() {
                let taken = port.sink.data(&port.kept, &mut self.intake)?;
                port.kept.drain(..taken);
            }
        }
        Ok(())
    }

    fn read(&mut self, i: usize) -> Result<bool, Error> {
        let port = &mut self.ports[i];
        let kept = port.kept.len();
        if self.buf.len() < kept + READ_BYTES {
            self.buf.resize(kept + READ_BYTES, 0);
        }
        self.buf[..kept].copy_from_slice(&port.kept);
        let n = match rustix::net::recv(&port.fd, &mut self.buf[kept..], RecvFlags::DONTWAIT) {
            Ok((_, 0)) => return Err(Error::Closed),
            Ok((_, n)) => n,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(false),
            Err(e) => return Err(lost("reading from the broker", e)),
        };
        port.traffic.read_bytes += n as u64;
        self.intake.now_ns = now_ns();
        let input = &self.buf[..kept + n];
        let taken = port.sink.data(input, &mut self.intake)?;
        port.kept.clear();
        port.kept.extend_from_slice(&input[taken..]);
        Ok(true)
    }

    fn write(&mut self, i: usize) -> Result<bool, Error> {
        let port = &mut self.ports[i];
        let Some(source) = &mut port.source else { return Ok(false) };
        let mut has_moved = false;
        for _ in 0..CHUNKS_PER_TURN {
            let chunk = source.chunk();
            if chunk.is_empty() {
                let (is_done, due) = (source.is_done(), source.next_due_ns());
                self.set_done(i, is_done);
                self.set_writing(i, false)?;
                if let (false, Some(due)) = (is_done, due) {
                    self.set_timer(due)?;
                }
                return Ok(has_moved);
            }
            let len = chunk.len();
            match rustix::net::send(&port.fd, chunk, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(n) => {
                    has_moved = true;
                    port.traffic.written_bytes += n as u64;
                    source.wrote(n);
                    if n < len {
                        break;
                    }
                }
                Err(Errno::AGAIN | Errno::INTR) => break,
                Err(e) => return Err(lost("writing to the broker", e)),
            }
        }
        Ok(has_moved)
    }

    fn set_done(&mut self, i: usize, is_done: bool) {
        if std::mem::replace(&mut self.ports[i].is_done, is_done) != is_done {
            self.busy = if is_done { self.busy - 1 } else { self.busy + 1 };
        }
    }

    fn set_writing(&mut self, i: usize, is_writing: bool) -> Result<(), Error> {
        if self.ports[i].is_writing != is_writing {
            self.ports[i].is_writing = is_writing;
            self.update(i)?;
        }
        Ok(())
    }

    fn update(&self, i: usize) -> Result<(), Error> {
        let port = &self.ports[i];
        epoll::modify(&self.epoll, &port.fd, EventData::new_u64(i as u64), port.flags())
            .map_err(doing("epoll_ctl"))
    }

    /// Arms the timer for `due_ns`; paced sources of one thread share it, so that the last one armed wins and
    /// every expiry wakes all.
    fn set_timer(&mut self, due_ns: u64) -> Result<(), Error> {
        if self.timer.is_none() {
            let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
            let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags);
            let timer = timer.map_err(doing("timerfd_create"))?;
            epoll::add(&self.epoll, &timer, EventData::new_u64(TIMER), EventFlags::IN)
                .map_err(doing("epoll_ctl"))?;
            self.timer = Some(timer);
        }
        let at =
            Timespec { tv_sec: (due_ns / 1_000_000_000) as i64, tv_nsec: (due_ns % 1_000_000_000) as i64 };
        let spec = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: at };
        let timer = self.timer.as_ref().expect("created above");
        rustix::time::timerfd_settime(timer, TimerfdTimerFlags::ABSTIME, &spec)
            .map_err(doing("timerfd_settime"))?;
        Ok(())
    }

    fn timer_fired(&mut self) -> Result<bool, Error> {
        let mut expirations = [MaybeUninit::uninit(); 8];
        if let Some(timer) = &self.timer {
            // Only resets its readiness; how often it expired does not matter.
            let _ = rustix::io::read(timer, &mut expirations);
        }
        let mut has_moved = false;
        for i in 0..self.ports.len() {
            if !self.ports[i].is_done {
                self.set_writing(i, true)?;
                has_moved |= self.write(i)?;
            }
        }
        Ok(has_moved)
    }
}

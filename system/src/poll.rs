//! Readiness: one epoll set that many threads may wait on, an eventfd to wake them, and a timer.
//!
//! The set is used edge-triggered: a descriptor is added once and never re-armed, so the cost of readiness is one
//! `epoll_wait` per batch of events and nothing per event. Several threads may wait on one [`Poller`]; the kernel
//! wakes one of them per event, the one that went to sleep last.
//!
//! What an edge means to the owner of a descriptor: after a readable edge, read until [`WouldBlock`] (or remember
//! that more may be there); after a write that would block, a writable edge follows once there is room.
//!
//! [`WouldBlock`]: std::io::ErrorKind::WouldBlock

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};

/// An epoll set (`epoll(7)`).
///
/// Shape: one descriptor; shared by reference between threads. Closing it forgets all that was added.
#[derive(Debug)]
pub struct Poller {
    epoll: OwnedFd,
}

/// What about a descriptor one wants to be told of. Hang-up and error are told always.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Readable, and the peer's end of writing.
    Read,
    /// Also writable. On a Unix stream socket the kernel reports that each time the peer has read something, full or
    /// not, so there it is worth asking for only once a write would have blocked.
    ReadWrite,
}

impl Interest {
    fn flags(self, edge: bool) -> epoll::EventFlags {
        let flags = epoll::EventFlags::IN | epoll::EventFlags::RDHUP;
        let flags = match self {
            Interest::Read => flags,
            Interest::ReadWrite => flags | epoll::EventFlags::OUT,
        };
        if edge { flags | epoll::EventFlags::ET } else { flags }
    }
}

/// One descriptor's readiness, as [`Poller::wait`] found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// The token given to [`Poller::add`].
    pub token: u64,
    /// There is something to read, or the end of it.
    pub readable: bool,
    /// There is room to write.
    pub writable: bool,
    /// The peer will send no more, or the connection is broken: what remains to be read comes first.
    pub hangup: bool,
}

impl Event {
    fn from_raw(raw: &epoll::Event) -> Event {
        // The kernel's struct is packed: copy the fields out before looking at them.
        let (flags, data) = (raw.flags, raw.data);
        let broken = epoll::EventFlags::HUP | epoll::EventFlags::ERR;
        Event {
            token: data.u64(),
            readable: flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::RDHUP | broken),
            writable: flags.intersects(epoll::EventFlags::OUT | broken),
            hangup: flags.intersects(epoll::EventFlags::RDHUP | broken),
        }
    }
}

/// A reusable buffer for [`Poller::wait`].
///
/// Shape: 12 bytes per event, allocated once. Order: as the kernel lists them, the longest ready first; a descriptor
/// occurs at most once.
pub struct Events {
    raw: Vec<epoll::Event>,
}

impl Events {
    /// A buffer for `events_max` events per wait; what does not fit is found by the next wait.
    ///
    /// # Panics
    /// When `events_max` is zero: the kernel refuses such a wait.
    pub fn with_capacity(events_max: usize) -> Events {
        assert!(events_max > 0);
        Events { raw: Vec::with_capacity(events_max) }
    }

    /// What the last wait found.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Event> + '_ {
        self.raw.iter().map(Event::from_raw)
    }

    /// How many events the last wait found.
    pub fn len(&self) -> usize {
        self.raw.len()
    }

    /// Whether the last wait found nothing.
    pub fn is_empty(&self) -> bool {
        self.raw.is_empty()
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl Poller {
    /// A new, empty set.
    ///
    /// # Errors
    /// When the process or the system is out of descriptors or memory.
    pub fn new() -> io::Result<Poller> {
        Ok(Poller { epoll: epoll::create(epoll::CreateFlags::CLOEXEC)? })
    }

    /// Adds a descriptor, edge-triggered: readiness that is there already counts as the first edge.
    ///
    /// The set refers to the open file behind `source`, not to its number. It forgets it when the last descriptor of
    /// that file is closed; until then (a child that has inherited it, say) events with `token` may still come.
    ///
    /// # Errors
    /// [`AlreadyExists`](io::ErrorKind::AlreadyExists) when `source` is in the set (see [`modify`](Self::modify)),
    /// [`PermissionDenied`](io::ErrorKind::PermissionDenied) for what cannot be polled (a regular file); exhaustion
    /// otherwise (`/proc/sys/fs/epoll/max_user_watches`).
    pub fn add(&self, source: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, source, epoll::EventData::new_u64(token), interest.flags(true))?)
    }

    /// Adds a descriptor, level-triggered: told by every wait of every thread for as long as it is ready.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub fn add_level(&self, source: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, source, epoll::EventData::new_u64(token), interest.flags(false))?)
    }

    /// Changes token and interest of a descriptor in the set, edge-triggered; readiness that is there already is told
    /// again, so that none is lost in between.
    ///
    /// # Errors
    /// [`NotFound`](io::ErrorKind::NotFound) when `source` is not in the set.
    pub fn modify(&self, source: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, source, epoll::EventData::new_u64(token), interest.flags(true))?)
    }

    /// Takes a descriptor out of the set. Events that another thread has fetched before are not called back.
    ///
    /// # Errors
    /// [`NotFound`](io::ErrorKind::NotFound) when `source` is not in the set.
    pub fn delete(&self, source: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.epoll, source)?)
    }

    /// Waits until something is ready or `timeout` has passed (for ever when `None`, not at all when zero), and
    /// replaces the contents of `events`. A signal ends the wait early with no events.
    ///
    /// Cost: one system call.
    ///
    /// # Errors
    /// None is expected of a valid set.
    pub fn wait(&self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        events.raw.clear();
        let timeout = timeout.map(|timeout| Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(timeout.subsec_nanos()),
        });
        match epoll::wait(&self.epoll, spare_capacity(&mut events.raw), timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// An eventfd (`eventfd(2)`): a descriptor that any thread can make readable.
///
/// It is never read, so that waking costs one system call in all. Added edge-triggered to a [`Poller`], each
/// [`wake`](Self::wake) makes an edge (several before the next wait make one); added level-triggered, it stays ready
/// for good. The kernel's counter would be full after 2^64 - 2 wakes.
#[derive(Debug)]
pub struct Waker {
    eventfd: OwnedFd,
}

impl Waker {
    /// A new one, not ready.
    ///
    /// # Errors
    /// When the process or the system is out of descriptors or memory.
    pub fn new() -> io::Result<Waker> {
        Ok(Waker { eventfd: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)? })
    }

    /// Makes the descriptor readable, which wakes one waiter (edge) or all (level).
    pub fn wake(&self) {
        // The one way to fail would be a full counter, and a full counter is readable.
        let _ = rustix::io::retry_on_intr(|| rustix::io::write(&self.eventfd, &1_u64.to_ne_bytes()));
    }

    /// Makes it unreadable, if it was readable: who waits by level is not woken any more.
    pub fn clear(&self) {
        // The one way to fail is that there is nothing to read.
        let _ = rustix::io::retry_on_intr(|| rustix::io::read(&self.eventfd, &mut [0_u8; 8]));
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.eventfd.as_fd()
    }
}

/// A timer (`timerfd_create(2)`) on the monotonic clock: a descriptor that becomes readable when its time has come.
///
/// It is never read: setting it anew makes it unreadable, and each expiry is an edge to a [`Poller`].
#[derive(Debug)]
pub struct Timer {
    timerfd: OwnedFd,
}

impl Timer {
    /// A new one, not set.
    ///
    /// # Errors
    /// When the process or the system is out of descriptors or memory.
    pub fn new() -> io::Result<Timer> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        Ok(Timer { timerfd: timerfd_create(TimerfdClockId::Monotonic, flags)? })
    }

    /// Sets it to expire once, `after` this long (at once, if that is nothing), whatever it was set to before.
    pub fn set(&self, after: Duration) {
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let value = Timespec {
            tv_sec: i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
            // Zero would switch it off.
            tv_nsec: i64::from(after.subsec_nanos()).max(1),
        };
        let times = Itimerspec { it_interval: zero, it_value: value };
        // The ways to fail are a bad descriptor and a time out of range: neither can be.
        let _ = timerfd_settime(&self.timerfd, TimerfdTimerFlags::empty(), &times);
    }
}

impl AsFd for Timer {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.timerfd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    fn now(poller: &Poller) -> Vec<Event> {
        let mut events = Events::with_capacity(8);
        poller.wait(&mut events, Some(Duration::ZERO)).unwrap();
        assert_eq!(events.len(), events.iter().count());
        events.iter().collect()
    }

    #[test]
    fn edges_come_once() {
        let poller = Poller::new().unwrap();
        let (mut a, mut b) = UnixStream::pair().unwrap();
        poller.add(&a, 7, Interest::Read).unwrap();
        assert!(now(&poller).is_empty());
        b.write_all(b"x").unwrap();
        let found = now(&poller);
        assert_eq!(found, [Event { token: 7, readable: true, writable: false, hangup: false }]);
        assert!(now(&poller).is_empty(), "an edge is told once, read or not");
        a.read_exact(&mut [0]).unwrap();
        drop(b);
        assert!(now(&poller)[0].hangup);
    }

    #[test]
    fn a_changed_interest_tells_what_is_ready() {
        let poller = Poller::new().unwrap();
        let (a, _b) = UnixStream::pair().unwrap();
        poller.add(&a, 1, Interest::Read).unwrap();
        assert!(now(&poller).is_empty());
        assert_eq!(poller.add(&a, 2, Interest::Read).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        poller.modify(&a, 2, Interest::ReadWrite).unwrap();
        assert_eq!(now(&poller), [Event { token: 2, readable: false, writable: true, hangup: false }]);
        poller.delete(&a).unwrap();
        assert_eq!(poller.delete(&a).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_waker_wakes_by_edge_and_by_level() {
        let poller = Poller::new().unwrap();
        let (edge, level) = (Waker::new().unwrap(), Waker::new().unwrap());
        poller.add(&edge, 1, Interest::Read).unwrap();
        for _ in 0..3 {
            edge.wake();
            assert_eq!(now(&poller).len(), 1);
            assert!(now(&poller).is_empty());
        }
        poller.add_level(&level, 2, Interest::Read).unwrap();
        level.wake();
        assert_eq!(now(&poller).len(), 1);
        assert_eq!(now(&poller).len(), 1);
        level.clear();
        level.clear();
        assert!(now(&poller).is_empty());
    }

    #[test]
    fn a_timer_makes_an_edge_each_time() {
        let poller = Poller::new().unwrap();
        let timer = Timer::new().unwrap();
        poller.add(&timer, 3, Interest::Read).unwrap();
        assert!(now(&poller).is_empty());
        for _ in 0..3 {
            timer.set(Duration::from_millis(1));
            let mut events = Events::with_capacity(8);
            poller.wait(&mut events, None).unwrap();
            assert_eq!(events.iter().map(|e| e.token).collect::<Vec<_>>(), [3]);
        }
        timer.set(Duration::from_secs(3600));
        assert!(now(&poller).is_empty());
    }

    #[test]
    fn closing_forgets() {
        let poller = Poller::new().unwrap();
        let (a, b) = UnixStream::pair().unwrap();
        poller.add(&a, 1, Interest::ReadWrite).unwrap();
        drop(a);
        drop(b);
        assert!(now(&poller).is_empty());
    }
}

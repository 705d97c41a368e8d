//! Those who take part in the tour: a thread each, driven by flags, watched through counters.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use staunch_system::net::Buffers;

use super::Error;
use super::client::{Client, Heard};

/// What the kernel may keep for a client, each way: little, so that it shows soon who does not read.
const CLIENT_BUFFERS: Buffers = Buffers { send_bytes: Some(32 << 10), receive_bytes: Some(32 << 10) };
/// How often a producer sends what is due.
const BEAT: Duration = Duration::from_millis(2);
/// Messages in one turn at most.
const TURN_MAX: u64 = 64;
/// A producer that was kept from sending for this long goes on from where it is, rather than make up for it.
const MAKE_UP_MAX: Duration = Duration::from_millis(50);
/// The second field of every message.
const TEXT: &str = "It was a bright cold day in April, and the clocks were striking thirteen; somewhere in the \
    building a broker carried this sentence from one process to the next, and let nobody pay for another's sloth.";

/// What a member of the crew and whoever watches it share.
#[derive(Debug, Default)]
struct Shared {
    /// Messages: sent whole, or received in order. Written by the member alone; a counter, so Relaxed throughout.
    count: AtomicU64,
    /// Told to stop: a producer at the end of a turn, a consumer whatever it has. Relaxed: nothing is published by
    /// it; counts are final when the thread has been joined.
    is_over: AtomicBool,
    /// A consumer is told not to read. Relaxed: as above.
    is_idle: AtomicBool,
    /// Messages per second that a consumer reads at most; 0: no bound. Relaxed: as above.
    pace: AtomicU64,
}

/// A producer or a consumer.
pub(super) struct Member {
    /// What people call it.
    pub(super) role: &'static str,
    /// What the broker calls it.
    pub(super) connection: String,
    shared: Arc<Shared>,
    thread: JoinHandle<Result<(), Error>>,
}

impl Member {
    /// Messages sent or received so far.
    pub(super) fn count(&self) -> u64 {
        self.shared.count.load(Ordering::Relaxed)
    }

    /// Has a consumer read no more.
    pub(super) fn stop_reading(&self) {
        self.shared.is_idle.store(true, Ordering::Relaxed);
    }

    /// Has a consumer read, at most so many messages per second; 0: as fast as it can.
    pub(super) fn read_on(&self, pace: u64) {
        self.shared.pace.store(pace, Ordering::Relaxed);
        self.shared.is_idle.store(false, Ordering::Relaxed);
    }

    /// Whether it has been told not to read.
    pub(super) fn is_idle(&self) -> bool {
        self.shared.is_idle.load(Ordering::Relaxed)
    }

    /// Tells it to stop.
    pub(super) fn end(&self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
    }

    /// Whether its thread has ended, be it of itself.
    pub(super) fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for its thread, which has been told to stop or has ended; returns its last count.
    pub(super) fn join(self) -> Result<u64, Error> {
        match self.thread.join() {
            Ok(result) => result.map_err(|e| Error::Member(self.role, Box::new(e)))?,
            Err(_) => return Err(Error::Panicked(self.role)),
        }
        Ok(self.shared.count.load(Ordering::Relaxed))
    }
}

/// Connects a producer of records with this label, so many per second, which begins at once.
pub(super) fn producer(
    broker: SocketAddr,
    role: &'static str,
    label: &'static str,
    rate: u64,
) -> Result<Member, Error> {
    let client = Client::open(broker, CLIENT_BUFFERS)?;
    begin(role, client, move |client, shared| produce(client, label, rate, shared))
}

/// Connects a consumer of records with this label, and has it read.
pub(super) fn consumer(broker: SocketAddr, role: &'static str, label: &'static str) -> Result<Member, Error> {
    let mut client = Client::open(broker, CLIENT_BUFFERS)?;
    client.observe(label)?;
    begin(role, client, consume)
}

fn begin(
    role: &'static str,
    client: Client,
    work: impl FnOnce(Client, &Shared) -> Result<(), Error> + Send + 'static,
) -> Result<Member, Error> {
    let (connection, shared) = (client.name(), Arc::new(Shared::default()));
    let work = {
        let shared = shared.clone();
        move || work(client, &shared)
    };
    let thread = std::thread::Builder::new().name(role.to_owned()).spawn(work);
    let thread = thread.map_err(|e| Error::Io("starting a thread", e))?;
    Ok(Member { role, connection, shared, thread })
}

fn produce(mut client: Client, label: &str, rate: u64, shared: &Shared) -> Result<(), Error> {
    let mut turn = Vec::new();
    let mut sent = 0;
    // At this instant this many were due.
    let (mut since, mut due_then) = (Instant::now(), 0);
    while !shared.is_over.load(Ordering::Relaxed) {
        let due = due_then + (since.elapsed().as_secs_f64() * rate as f64) as u64;
        if due <= sent {
            std::thread::sleep(BEAT);
            continue;
        }
        let last = due.min(sent + TURN_MAX);
        turn.clear();
        turn.push(staunch_protocols::wire::tag::SEQUENCE);
        (sent..last).for_each(|number| client.write_message(&mut turn, label, number, TEXT));
        turn.push(staunch_protocols::wire::tag::END);
        let begun = Instant::now();
        let mut rest = turn.as_slice();
        while !rest.is_empty() {
            rest = &rest[client.write(rest)?..];
        }
        sent = last;
        shared.count.store(sent, Ordering::Relaxed);
        if begun.elapsed() > MAKE_UP_MAX {
            (since, due_then) = (Instant::now(), sent);
        }
    }
    Ok(())
}

fn consume(mut client: Client, shared: &Shared) -> Result<(), Error> {
    let mut received = 0;
    // At this instant, under this pace, it had received so many.
    let (mut since, mut pace, mut received_then) = (Instant::now(), 0, 0);
    while !shared.is_over.load(Ordering::Relaxed) {
        let asked = shared.pace.load(Ordering::Relaxed);
        let may_receive = received_then + (since.elapsed().as_secs_f64() * asked as f64) as u64;
        if asked != pace {
            (since, pace, received_then) = (Instant::now(), asked, received);
        }
        if shared.is_idle.load(Ordering::Relaxed) || (pace > 0 && received > may_receive) {
            std::thread::sleep(BEAT);
            continue;
        }
        client.hear(|heard| {
            let Heard::Captures(captures) = heard else { return Ok(()) };
            let number = captures.index(0).and_then(|n| n.as_i64());
            let is_whole = captures.index(1).and_then(|t| t.as_string()) == Some(TEXT);
            if number != Some(received as i64) || !is_whole {
                return Err(Error::Disorder { expected: received, found: number });
            }
            received += 1;
            Ok(())
        })?;
        shared.count.store(received, Ordering::Relaxed);
    }
    Ok(())
}

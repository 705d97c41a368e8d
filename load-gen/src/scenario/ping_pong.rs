//! Round trips, one message in flight.
//!
//! Two sessions on one thread with blocking sockets: A writes, B waits for it and answers, A waits for the answer.
//! Nothing but the two sockets and the broker lies in between, so the figure is twice the broker's latency plus
//! four system calls and two wake-ups of this thread.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use crate::client::{Client, Error, connect, poll, receive, send_all, set_patience};
use crate::flow::{Meter, says_pattern};
use crate::payload::now_ns;
use crate::record::Latency;
use crate::report::Sample;
use crate::settings::{Protocol, Settings};
use crate::sink::{Intake, Names, OBSERVER_OID, Observers, Sink, Subscriptions};
use crate::source::{Control, Messages, Source, Template};
use crate::wire::stream::Decoder;

/// Runs round trips for the time or number given; the point's messages are two per round trip.
pub fn run(settings: &Settings) -> Result<Vec<Sample>, Error> {
    let names = Names::fresh();
    let mut a = Side::open(settings, names, 0, 1)?;
    let mut b = Side::open(settings, names, 1, 0)?;
    if settings.protocol == Protocol::Syndicate {
        a.client_barrier()?;
        b.client_barrier()?;
    }
    let mut screen = settings.screen.begin("ping-pong");
    let warmed = now_ns() + settings.warmup.as_nanos() as u64;
    while now_ns() < warmed {
        round_trip(&mut a, &mut b)?;
    }

    let meter = Meter::start(settings)?;
    let mut latency = Latency::default();
    let (before, start) = (a.control.sent() + b.control.sent(), now_ns());
    let (limit, deadline) = settings.amount.limits(0, start);
    let mut end = start;
    let mut done = 0;
    while done < limit && end < deadline {
        match round_trip(&mut a, &mut b) {
            // What is missing counts as lost.
            Err(Error::Silent(_)) => break,
            other => other?,
        }
        let now = now_ns();
        latency.record(now - end);
        end = now;
        done += 1;
        screen.counts(|| done * 2, done * 2);
    }

    let mut sample = meter.finish("ping-pong")?;
    screen.end();
    let sent = [a.control.sent(), b.control.sent()];
    sample.messages = sent[0] + sent[1] - before;
    sample.deliveries = sample.messages;
    sample.seconds = (end - start) as f64 / 1e9;
    sample.latency = latency.quantiles();
    for side in [&a, &b] {
        sample.faults.add(&side.sink.faults(&sent));
        sample.faults.misdelivered += side.intake.misdelivered;
        sample.faults.damaged += side.intake.damaged;
    }
    Ok(vec![sample])
}

fn round_trip(a: &mut Side, b: &mut Side) -> Result<(), Error> {
    a.send()?;
    b.receive()?;
    b.send()?;
    a.receive()
}

/// One of the two sessions.
struct Side {
    /// Before the barrier; then taken apart.
    client: Option<Client>,
    fd: Option<OwnedFd>,
    source: Messages,
    control: Arc<Control>,
    sink: Observers,
    intake: Intake,
    buf: Vec<u8>,
    have: usize,
    is_spinning: bool,
    patience: Duration,
}

impl Side {
    /// Connects as producer number `own`, observing producer number `other`.
    fn open(settings: &Settings, names: Names, own: usize, other: usize) -> Result<Side, Error> {
        let mut shape = settings.shape(names.of(own));
        (shape.events_per_packet, shape.write_bytes) = (1, 1);
        let (client, fd, dataspace) = match settings.protocol {
            Protocol::Syndicate => {
                let mut client = Client::open(settings.contact(), settings.barrier)?;
                client.observe(&says_pattern(&names.of(other)), OBSERVER_OID)?;
                let dataspace = client.dataspace();
                (Some(client), None, dataspace)
            }
            Protocol::Relay => (None, Some(connect(settings.contact())?), OBSERVER_OID),
            Protocol::Nats => return Err(Error::Usage("ping-pong is not there for NATS".into())),
        };
        let control = Control::new();
        control.allow(u64::MAX, 0, u64::MAX);
        let source = Messages::new(Template::says(dataspace, &shape), control.clone());
        let subscriptions =
            Subscriptions::by_literal(vec![other], settings.payload_bytes, settings.scrutiny(false));
        let sink = Observers::new(Decoder::default(), subscriptions);
        let buf = vec![0; 64 * 1024 + 2 * settings.payload_bytes];
        let (intake, is_spinning) = (Intake::default(), settings.is_spinning);
        let patience = settings.patience;
        Ok(Side { client, fd, source, control, sink, intake, buf, have: 0, is_spinning, patience })
    }

    /// Waits until this side's observer is in place, and ends the set-up.
    fn client_barrier(&mut self) -> Result<(), Error> {
        let mut client = self.client.take().expect("called once, on a Syndicate session");
        client.barrier()?;
        let (fd, decoder, kept) = client.into_parts();
        self.sink.resume(decoder);
        self.buf[..kept.len()].copy_from_slice(&kept);
        self.have = kept.len();
        set_patience(&fd, self.patience)?;
        self.fd = Some(fd);
        Ok(())
    }

    fn send(&mut self) -> Result<(), Error> {
        let chunk = self.source.chunk();
        let len = chunk.len();
        send_all(self.fd.as_ref().expect("set up"), chunk)?;
        self.source.wrote(len);
        Ok(())
    }

    /// Waits for one message.
    fn receive(&mut self) -> Result<(), Error> {
        let delivered = self.intake.delivered;
        while self.intake.delivered == delivered {
            let (fd, room) = (self.fd.as_ref().expect("set up"), &mut self.buf[self.have..]);
            let n = if self.is_spinning { poll(fd, room)? } else { receive(fd, room)? };
            self.have += n;
            let taken = self.sink.data(&self.buf[..self.have], &mut self.intake)?;
            self.buf.copy_within(taken..self.have, 0);
            self.have -= taken;
            if let Some(text) = self.intake.failure.take() {
                return Err(Error::PeerFailed(text));
            }
        }
        Ok(())
    }
}

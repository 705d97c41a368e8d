//! The acts of the tour.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use staunch::server::{Address, Config, Server};

use super::Error;
use super::crew::{self, Member};
use super::figures::{Cast, Figures, Observer, Owed, Sending};
use super::screen::{Screen, Tone, count, mib};

/// Time between two looks at everybody.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How much longer than planned anything may take before the tour gives up.
const PATIENCE: Duration = Duration::from_secs(30);
/// A producer that is held back may still fill the kernel's buffers. Then it stands still for this long.
const STILL: Duration = Duration::from_millis(250);

const P1: usize = 0;
const P2: usize = 1;
const SLOW: usize = 2;

/// Tells the story in about so many seconds. Returns the broker if it is to be kept.
pub(super) fn run(seconds: u64, keep: bool, screen: Screen) -> Result<Option<Kept>, Error> {
    let config = Config {
        listen: vec![Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).into()],
        ..Config::default()
    };
    let server = Server::start_dev(&config)?;
    let broker = server.tcp_addresses()[0];
    // In a short tour more is sent per second, so that debts rise in time.
    let rate = (200_000 / seconds).clamp(5_000, 40_000);
    let cast = Cast {
        consumers: vec![
            (crew::consumer(broker, "ann", "reading")?, P1),
            (crew::consumer(broker, "ben", "reading")?, P1),
            (crew::consumer(broker, "slow", "reading")?, P1),
            (crew::consumer(broker, "cleo", "order")?, P2),
        ],
        producers: vec![
            crew::producer(broker, "P1", "reading", rate)?,
            crew::producer(broker, "P2", "order", rate)?,
        ],
    };
    let mut tour = Tour { server, cast, screen, observer: Observer::default(), seconds, rate };
    tour.introduce(broker, config.debt_max);
    let before = tour.everybody_reads()?;
    tour.one_stops_reading(&before)?;
    tour.it_reads_on(&before)?;
    let (server, mut screen) = tour.everything_is_counted()?;
    screen.say(Tone::Act, "That was the tour.");
    if keep {
        return Ok(Some(Kept { server, screen }));
    }
    screen.say(Tone::Told, "`staunch serve --dev` runs a broker for clients of your own.");
    Ok(None)
}

/// A broker that outlives its tour.
pub(crate) struct Kept {
    server: Server,
    screen: Screen,
}

impl Kept {
    /// Says where the broker is. For when Ctrl-C would end it well.
    pub(crate) fn announce(mut self) -> Server {
        let broker = self.server.tcp_addresses()[0];
        let text = format!("The broker stays, on tcp:{broker}, for clients of your own. Ctrl-C ends it.");
        self.screen.say(Tone::Told, &text);
        self.server
    }
}

struct Tour {
    server: Server,
    cast: Cast,
    screen: Screen,
    observer: Observer,
    seconds: u64,
    /// Messages per second of each producer.
    rate: u64,
}

impl Tour {
    /// A part of the time that the whole is to take.
    fn part(&self, of_a_hundred: u64) -> Duration {
        Duration::from_millis(self.seconds * 10 * of_a_hundred)
    }

    fn say(&mut self, text: &str) {
        self.screen.say(Tone::Told, text);
    }

    fn act(&mut self, text: &str) {
        self.screen.say(Tone::Act, text);
    }

    fn slow(&self) -> &Member {
        &self.cast.consumers[SLOW].0
    }

    /// Looks at everybody, and shows what it sees, until `is_done` or the time is over. Returns whether it is.
    fn watch(&mut self, time: Duration, mut is_done: impl FnMut(&Figures) -> bool) -> Result<bool, Error> {
        let start = Instant::now();
        loop {
            let figures = self.look()?;
            self.screen.show(&figures);
            if is_done(&figures) {
                return Ok(true);
            }
            if start.elapsed() >= time {
                return Ok(false);
            }
            std::thread::sleep(LOOK_EVERY.min(time - start.elapsed().min(time)));
        }
    }

    /// As [`Tour::watch`], of what must happen.
    fn expect(&mut self, what: &'static str, is_done: impl FnMut(&Figures) -> bool) -> Result<(), Error> {
        let patience = PATIENCE + self.part(100);
        match self.watch(patience, is_done)? {
            true => Ok(()),
            false => Err(Error::Late(what, patience)),
        }
    }

    /// Goes on watching for a time; returns how many messages each producer sent per second.
    fn measure(&mut self, time: Duration) -> Result<Vec<f64>, Error> {
        let (start, before) = (Instant::now(), self.look()?);
        self.watch(time, |_| false)?;
        let seconds = start.elapsed().as_secs_f64();
        let after = self.look()?;
        let rate = |(after, before): (&Sending, &Sending)| (after.sent - before.sent) as f64 / seconds;
        Ok(after.producers.iter().zip(&before.producers).map(rate).collect())
    }

    /// Everybody, now. Fails if a thread has ended: none does of itself.
    fn look(&mut self) -> Result<Figures, Error> {
        if self.cast.members().any(Member::has_ended) {
            return Err(self.first_failure());
        }
        Ok(self.observer.look(&self.server, &self.cast))
    }

    fn first_failure(&mut self) -> Error {
        let members =
            self.cast.producers.drain(..).chain(self.cast.consumers.drain(..).map(|(member, _)| member));
        let failed = members.filter(Member::has_ended).find_map(|member| member.join().err());
        failed.unwrap_or(Error::Closed)
    }

    fn introduce(&mut self, broker: SocketAddr, debt_max: u64) {
        let (rate, limit) = (count(self.rate), mib(debt_max));
        self.say(&format!(
            "A broker on tcp:{broker}, in this process, and six clients:\n    \
                 P1 --- <reading number text> --->  ann, ben, slow\n    \
                 P2 --- <order number text> ----->  cleo\n\
             Both send {rate} messages per second, far less than the broker can\n\
             take. Each message is a debt of its producer's until the kernel has\n\
             taken it for every consumer: its bytes, and 32 for each consumer. A\n\
             producer that owes more than {limit} is throttled, that is, not read\n\
             until it owes half of that."
        ));
    }

    fn everybody_reads(&mut self) -> Result<Vec<f64>, Error> {
        self.act("1. Everybody reads.");
        self.watch(self.part(5), |_| false)?;
        let rates = self.measure(self.part(20))?;
        let owed: u64 = self.look()?.producers.iter().map(|p| p.debt).sum();
        let (p1, p2) = (per_second(rates[P1]), per_second(rates[P2]));
        self.say(&format!("P1 sends {p1}, P2 sends {p2}; together they owe {}.", mib(owed)));
        Ok(rates)
    }

    fn one_stops_reading(&mut self, before: &[f64]) -> Result<(), Error> {
        self.act("2. slow stops reading.");
        let (start, end) = (Instant::now(), self.part(40));
        self.slow().stop_reading();
        self.expect("P1 to be throttled", |f| f.producers[P1].is_throttled)?;
        let took = start.elapsed();
        let p1 = self.look()?.producers.swap_remove(P1);
        self.say(&format!(
            "After {} P1 owes {} and is throttled: it is not read.",
            milliseconds(took),
            mib(p1.debt)
        ));
        let (mut sent, mut since) = (p1.sent, Instant::now());
        self.watch(self.part(15), |f| {
            if std::mem::replace(&mut sent, f.producers[P1].sent) != sent {
                since = Instant::now();
            }
            since.elapsed() > STILL
        })?;
        let stands_at = self.look()?.producers[P1].sent;
        let rest = end.saturating_sub(start.elapsed()).max(self.part(15));
        let rates = self.measure(rest)?;
        let figures = self.look()?;
        self.tell_ledger(&figures);
        let more = figures.producers[P1].sent - stands_at;
        // The kernel may find room for a little more at any time.
        if more as f64 > before[P1] * rest.as_secs_f64() / 2.0 {
            return Err(Error::NotThrottled("P1", more));
        }
        if rates[P2] == 0.0 {
            return Err(Error::NotIsolated("P2", "slow"));
        }
        let (p1, p2, was) = (per_second(rates[P1]), per_second(rates[P2]), per_second(before[P2]));
        self.say(&format!(
            "P1 sends {p1} now, and nothing is dropped. ann and ben have all that\n\
             the broker has read of P1, and wait with it."
        ));
        // Whatever else runs on this machine may slow it.
        let how = match rates[P2] >= before[P2] * 0.8 {
            true => "is not slowed.",
            false => "is not throttled; something else keeps this machine busy.",
        };
        let text = format!("P2 sends {p2} ({was} before): it sends nothing to slow, and\n{how}");
        self.screen.say(Tone::Good, &text);
        Ok(())
    }

    /// Who owes how much, and who sits on it.
    fn tell_ledger(&mut self, figures: &Figures) {
        let mut text = "The ledger:\n".to_owned();
        for Owed { debtor, holder, events, cost } in &figures.ledger {
            let events = count(*events);
            text +=
                &format!("    {debtor} owes {} for {events} messages that wait for {holder}\n", mib(*cost));
        }
        let held: u64 = figures.ledger.iter().filter(|row| row.holder == "slow").map(|row| row.events).sum();
        let unread = figures.consumers[SLOW].unread;
        let (others, unread) = (count(unread.saturating_sub(held)), count(unread));
        text += &format!("slow has {unread} messages yet to read: those, and {others} in the kernel's\n");
        text += "buffers, for which nobody owes any more.";
        self.say(&text);
    }

    fn it_reads_on(&mut self, before: &[f64]) -> Result<(), Error> {
        // A pace that can be watched.
        let pace = 2 * self.rate;
        self.act(&format!("3. slow reads on, {} messages per second.", count(pace)));
        let (start, end) = (Instant::now(), self.part(25));
        let stood_at = self.look()?.producers[P1].sent;
        self.slow().read_on(pace);
        self.expect("P1 to go on", |f| !f.producers[P1].is_throttled && f.producers[P1].sent > stood_at)?;
        let took = milliseconds(start.elapsed());
        self.say(&format!("After {took} P1 has repaid half of what it may owe: it is read again."));
        self.expect("slow to catch up", |f| {
            // To what is on its way anyway, and never to the last message of a producer that goes on.
            f.consumers[SLOW].unread as f64 <= f.producers[P1].rate / 20.0
        })?;
        self.slow().read_on(0);
        let took = start.elapsed();
        self.say(&format!("After {} slow has caught up.", milliseconds(took)));
        let rates = self.measure(end.saturating_sub(took).max(self.part(8)))?;
        let (p1, was) = (per_second(rates[P1]), per_second(before[P1]));
        let owed = mib(self.look()?.producers[P1].debt);
        self.screen.say(Tone::Good, &format!("P1 sends {p1} ({was} in the beginning), and owes {owed}."));
        Ok(())
    }

    fn everything_is_counted(mut self) -> Result<(Server, Screen), Error> {
        self.act("4. The producers stop, and everything is counted.");
        self.cast.producers.iter().for_each(Member::end);
        let start = Instant::now();
        while self.cast.producers.iter().any(|p| !p.has_ended()) {
            if start.elapsed() > PATIENCE {
                return Err(Error::Late("the producers to stop", PATIENCE));
            }
            std::thread::sleep(LOOK_EVERY);
        }
        let mut sent = Vec::new();
        for producer in self.cast.producers.drain(..) {
            sent.push((producer.role, producer.join()?));
        }
        let mut lines = vec![String::new(); sent.len()];
        for (consumer, producer) in self.cast.consumers.drain(..) {
            let (role, (producer_role, sent)) = (consumer.role, sent[producer]);
            let start = Instant::now();
            while consumer.count() < sent && !consumer.has_ended() && start.elapsed() < PATIENCE {
                std::thread::sleep(LOOK_EVERY);
            }
            consumer.end();
            let received = consumer.join()?;
            if received != sent {
                return Err(Error::Lost { producer: producer_role, consumer: role, sent, received });
            }
            lines[producer].push_str(&format!("\n    {role:<5} received {:>9}", count(received)));
        }
        for ((producer, sent), line) in sent.iter().zip(lines) {
            self.say(&format!("{producer} sent {:>18}{line}", count(*sent)));
        }
        let start = Instant::now();
        while self.server.total_debt() > 0 {
            if start.elapsed() > PATIENCE {
                return Err(Error::Late("all debts to be repaid", PATIENCE));
            }
            std::thread::sleep(LOOK_EVERY);
        }
        self.screen.end();
        self.screen
            .say(Tone::Good, "Nothing lost, nothing twice, everything in order; all debts are repaid.");
        Ok((self.server, self.screen))
    }
}

fn per_second(rate: f64) -> String {
    format!("{}/s", count(rate.round() as u64))
}

fn milliseconds(time: Duration) -> String {
    match time.as_millis() {
        ms @ 0..1000 => format!("{ms} ms"),
        _ => format!("{:.1} s", time.as_secs_f64()),
    }
}

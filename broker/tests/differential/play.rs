//! Two brokers and the same sessions at both; what one does takes effect everywhere before anything else is done.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::common::{Client, Event, observe, until};
use super::compare::{Ledger, Pairing, Told, Verdict, compare};
use staunch::server::Server;

/// One of the two, from the outside.
enum At {
    Staunch(SocketAddr),
    Reference(PathBuf),
}

impl At {
    fn connect(&self) -> Client {
        match self {
            At::Staunch(address) => Client::tcp(*address),
            At::Reference(socket) => Client::unix(socket),
        }
        .resolved()
    }
}

/// A session's entity to which the gatekeeper's answers go.
pub const ANSWERS: i64 = 901;

/// Who has done something.
#[derive(Debug, Clone, Copy)]
pub struct Actor {
    /// The session's place among the others.
    pub place: usize,
    /// How many answers by the gatekeeper, and retractions of such, that comes to. No Sync tells when they have come.
    pub answers: usize,
}

/// A session at one broker.
struct Seat {
    client: Client,
    ledger: Ledger,
}

/// One broker, with all sessions there.
struct Side {
    at: At,
    seats: Vec<Seat>,
    /// Sees sessions end.
    watcher: Client,
}

impl Side {
    fn new(at: At) -> Side {
        let mut watcher = at.connect();
        watcher.send(&format!("[{}]", observe("<group <rec alive> {0: <bind <_>>}>", 2, 2)));
        assert_eq!(watcher.sync(), [], "nobody is there in the beginning");
        Side { at, seats: Vec::new(), watcher }
    }

    /// A session whose end can be waited for.
    fn enter(&mut self, name: u64) -> Seat {
        let mut client = self.at.connect();
        client.send(&format!("[[1 <A <alive {name}> 2>]]"));
        assert_eq!(self.watcher.event().kind, 'A', "it has come");
        Seat { client, ledger: Ledger::default() }
    }

    /// Waits until the broker has handled all that was sent, and has told everybody.
    fn settle(&mut self, actor: Option<Actor>, rounds: usize) -> Vec<Vec<Event>> {
        let mut came: Vec<Vec<Event>> = vec![Vec::new(); self.seats.len()];
        if let Some(Actor { place, answers }) = actor {
            let (client, came) = (&mut self.seats[place].client, &mut came[place]);
            came.extend(client.sync());
            while came.iter().filter(|event| event.oid == ANSWERS).count() < answers {
                came.extend(client.turn());
            }
        }
        for _ in 0..rounds {
            for (seat, came) in self.seats.iter_mut().zip(&mut came) {
                came.extend(seat.client.sync());
            }
        }
        came
    }
}

/// See the module's head.
pub struct Play<'s> {
    server: &'s Server,
    one: Side,
    two: Side,
    pairings: Vec<Pairing>,
    /// What was done, to be shown if it made a difference.
    pub trace: Vec<String>,
}

impl<'s> Play<'s> {
    /// With both brokers empty.
    pub fn new(server: &'s Server, reference: PathBuf) -> Play<'s> {
        let staunch = At::Staunch(server.tcp_addresses()[0]);
        let (one, two) = (Side::new(staunch), Side::new(At::Reference(reference)));
        Play { server, one, two, pairings: Vec::new(), trace: Vec::new() }
    }

    /// One more session, at a place among the others.
    pub fn enter(&mut self, place: usize, name: u64) {
        self.trace.push(format!("session {place}: enters, asserting <alive {name}> under 2"));
        for side in [&mut self.one, &mut self.two] {
            let seat = side.enter(name);
            side.seats.insert(place, seat);
        }
        self.pairings.insert(place, Pairing::new());
    }

    /// Ends a session, as if its process had been killed.
    pub fn kill(&mut self, place: usize) {
        self.trace.push(format!("session {place}: is killed"));
        for side in [&mut self.one, &mut self.two] {
            side.seats.remove(place).client.kill();
            assert_eq!(side.watcher.event().kind, 'R', "it has gone");
        }
        self.pairings.remove(place);
    }

    /// One turn of a session's; `%n%` in it stands for what is oid `n` at the first broker.
    pub fn turn(&mut self, place: usize, turn: &str) {
        self.trace.push(format!("session {place}: [{}]", turn.replace('%', "")));
        for (side, is_second) in [(&mut self.one, false), (&mut self.two, true)] {
            let mut text = String::from("[");
            for (n, part) in turn.split('%').enumerate() {
                match (n % 2 == 1, is_second) {
                    (true, true) => text += &self.pairings[place].other(part.parse().unwrap()).to_string(),
                    _ => text += part,
                }
            }
            side.seats[place].client.send(&(text + "]"));
        }
    }

    /// Waits for all consequences and compares what the sessions were told; `in_order` says, of what one of them was told,
    /// whether at this entity of its the order counts.
    ///
    /// # Errors
    /// If they differ: how.
    pub fn check(
        &mut self,
        actor: Option<Actor>,
        in_order: impl Fn(&Told, i64) -> bool,
    ) -> Result<Verdict, String> {
        let mut one = self.one.settle(actor, 1);
        // Some of it may have gone through a queue of the dataspace's own: it is owed for until it has come through.
        until("all is done", || self.server.total_debt() == 0);
        for (came, more) in one.iter_mut().zip(self.one.settle(None, 1)) {
            came.extend(more);
        }
        let two = self.two.settle(actor, 3);
        let mut verdict = Verdict::Same;
        for (place, (one, two)) in one.iter().zip(&two).enumerate() {
            let told_one = self.one.seats[place].ledger.take(one);
            let told_two = self.two.seats[place].ledger.take(two);
            let show = |why: String| {
                format!(
                    "session {place}: {why}\n  Staunch said:       {one:?}\n  the reference said: {two:?}"
                )
            };
            let (told_one, told_two) = (told_one.map_err(&show)?, told_two.map_err(&show)?);
            let pairing = &mut self.pairings[place];
            pairing.released.clone_from(&self.one.seats[place].ledger.released);
            let found =
                compare(&told_one, &told_two, pairing, |oid| in_order(&told_two, oid)).map_err(&show)?;
            if found == Verdict::Ambiguous {
                verdict = found;
            }
        }
        Ok(verdict)
    }

    /// What a session knows of by what it was told: the first broker's account.
    pub fn known(&self, place: usize) -> impl Iterator<Item = &super::compare::Seen> {
        self.one.seats[place].ledger.live()
    }

    /// Ends all sessions and looks whether anything has stayed behind.
    ///
    /// # Errors
    /// If something has: what.
    pub fn end(mut self) -> Result<(), String> {
        for (side, name) in [(&mut self.one, "Staunch"), (&mut self.two, "the reference")] {
            let count = side.seats.len();
            side.seats.drain(..).for_each(|seat| seat.client.kill());
            (0..count).for_each(|_| assert_eq!(side.watcher.event().kind, 'R', "it has gone"));
            // What the dataspace has told itself of their ends is done.
            (0..2).for_each(|_| assert_eq!(side.watcher.sync(), []));
            until("nothing is owed", || self.server.total_debt() == 0);
            side.watcher.send(&format!("[[1 <R 2>] {}]", observe("<bind <_>>", 3, 3)));
            let left = side.watcher.sync();
            let is_own = |event: &Event| event.kind == 'R' || event.body.contains("#:[1, 3]");
            if let Some(event) = left.iter().find(|event| !is_own(event)) {
                return Err(format!("{name} keeps something when all have gone: {event:?}"));
            }
        }
        until("all connections but the watcher's have gone", || self.server.connections() == 1);
        self.one.watcher.kill();
        self.two.watcher.kill();
        until("the last connection has gone", || self.server.connections() == 0);
        until("nothing is kept", || self.server.index_counts() == (0, 0, 0));
        Ok(())
    }
}

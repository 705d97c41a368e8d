//! Who is who in a scenario: which client sends and follows which stream. It depends on the scenario alone, so that
//! each process that plays a part of it finds the same.
//!
//! A *stream* is a topic and one numbering of messages on it: each producer has one, and one more for each time that
//! it may come back; a relay has one for each stream that it passes on.

use crate::script::{Following, Interest, Role, Script};

/// One numbered stream of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    /// The group of its sender.
    pub group: usize,
    /// Its sender's number in the group.
    pub client: usize,
    /// The stream that it repeats, if a relay sends it.
    pub upstream: Option<usize>,
}

/// What one client sends and follows, as numbers of streams.
#[derive(Clone, Debug, Default)]
pub struct Client {
    /// In the order of use (producers), or that of `follows` (relays).
    pub sends: Vec<usize>,
    /// In ascending order.
    pub follows: Vec<usize>,
}

/// All streams and all clients of a scenario.
#[derive(Clone, Debug)]
pub struct Cast {
    /// By number.
    pub streams: Vec<Stream>,
    /// By group, then by client.
    pub clients: Vec<Vec<Client>>,
}

impl Cast {
    /// Hands out the parts.
    pub fn of(script: &Script) -> Cast {
        let mut cast = Cast { streams: vec![], clients: vec![] };
        for (number, group) in script.groups.iter().enumerate() {
            let clients = (0..group.count).map(|client| match &group.role {
                Role::Producer(p) => {
                    let lives = 1 + p.reconnect.map_or(0, |r| r.times);
                    let sends = (0..lives).map(|_| cast.add(number, client, None)).collect();
                    Client { sends, follows: vec![] }
                }
                Role::Relay(following) => {
                    let follows = cast.followed(script, following, client);
                    let sends = follows.iter().map(|s| cast.add(number, client, Some(*s))).collect();
                    Client { sends, follows }
                }
                Role::Consumer(c) => {
                    Client { sends: vec![], follows: cast.followed(script, &c.following, client) }
                }
            });
            let clients = clients.collect();
            cast.clients.push(clients);
        }
        cast
    }

    fn add(&mut self, group: usize, client: usize, upstream: Option<usize>) -> usize {
        self.streams.push(Stream { group, client, upstream });
        self.streams.len() - 1
    }

    /// The streams that client number `client` follows.
    fn followed(&self, script: &Script, following: &Following, client: usize) -> Vec<usize> {
        let all = || following.groups.iter().flat_map(|g| (0..script.groups[*g].count).map(move |c| (*g, c)));
        let chosen: Vec<(usize, usize)> = match following.interest {
            Interest::All => all().collect(),
            Interest::Own => {
                following.groups.iter().map(|g| (*g, client % script.groups[*g].count)).collect()
            }
            Interest::Random(count, seed) => {
                let mut deck: Vec<_> = all().collect();
                let mut dice = Dice::new(seed ^ (client as u64).wrapping_mul(0x2545_f491_4f6c_dd1d));
                (0..count).map(|_| deck.swap_remove(dice.below(deck.len()))).collect()
            }
        };
        let mut streams: Vec<usize> =
            chosen.iter().flat_map(|(g, c)| self.clients[*g][*c].sends.iter().copied()).collect();
        streams.sort_unstable();
        streams
    }

    /// How many messages each stream had, given how many the producers sent; relays send what they were sent.
    pub fn with_relayed(&self, sent: &[u64]) -> Vec<u64> {
        let mut sent = sent.to_vec();
        for (number, stream) in self.streams.iter().enumerate() {
            if let Some(upstream) = stream.upstream {
                sent[number] = sent[upstream];
            }
        }
        sent
    }

    /// Whether what `stream` carries reaches, perhaps through relays, a client that stalls.
    pub fn reaches_stalled(&self, script: &Script, stream: usize) -> bool {
        let follows = |g: usize, clients: usize| {
            self.clients[g][..clients].iter().any(|c| c.follows.binary_search(&stream).is_ok())
        };
        let directly = (0..script.groups.len()).any(|g| {
            let group = &script.groups[g];
            group.stall().is_some_and(|s| follows(g, group.share(s.share)))
        });
        let repeated = || self.streams.iter().positions(|s| s.upstream == Some(stream));
        directly || repeated().into_iter().any(|s| self.reaches_stalled(script, s))
    }
}

/// All places at which something holds.
trait Positions: Iterator + Sized {
    fn positions(self, is_it: impl Fn(Self::Item) -> bool) -> Vec<usize> {
        self.enumerate().filter_map(|(i, item)| is_it(item).then_some(i)).collect()
    }
}

impl<I: Iterator> Positions for I {}

/// Equal numbers from equal seeds (SplitMix64).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Begins at a seed.
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is more than 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next_u64() % end as u64) as usize
    }

    /// From 0 to 1.
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cast(text: &str) -> (Script, Cast) {
        let script = Script::parse(text, "test").unwrap();
        let cast = Cast::of(&script);
        (script, cast)
    }

    #[test]
    fn streams_pass_through_relays() {
        let text = "name = 'x'\nduration = 1\n[[producers]]\nname = 'p'\ncount = 2\n[[relays]]\nname = 'r'\n\
                    follows = ['p']\ninterest = 'own'\n[[consumers]]\nname = 'c'\nfollows = ['r']\n\
                    stall = { from = 0.1, to = 0.2 }\n";
        let (script, cast) = cast(text);
        assert_eq!(cast.streams.len(), 3);
        assert_eq!(cast.streams[2], Stream { group: 1, client: 0, upstream: Some(0) });
        assert_eq!(cast.clients[2][0].follows, [2]);
        assert_eq!(cast.with_relayed(&[5, 7, 0]), [5, 7, 5]);
        assert!(cast.reaches_stalled(&script, 0) && !cast.reaches_stalled(&script, 1));
    }

    #[test]
    fn those_who_come_back_have_a_stream_each_time() {
        let text = "name = 'x'\nduration = 1\n[[producers]]\nname = 'p'\n\
                    reconnect = { after = '10ms', times = 3 }\n[[consumers]]\nname = 'c'\nfollows = ['p']\n";
        let (_, cast) = cast(text);
        assert_eq!(cast.clients[0][0].sends, [0, 1, 2, 3]);
        assert_eq!(cast.clients[1][0].follows, [0, 1, 2, 3]);
    }

    #[test]
    fn random_interests_are_the_same_each_time() {
        let text = "name = 'x'\nduration = 1\n[[producers]]\nname = 'p'\ncount = 50\n[[consumers]]\nname = 'c'\n\
                    count = 20\nfollows = ['p']\ninterest = { random = 5, seed = 3 }\n";
        let follows = |c: &Cast| c.clients[1].iter().map(|c| c.follows.clone()).collect::<Vec<_>>();
        let (first, second) = (follows(&cast(text).1), follows(&cast(text).1));
        assert_eq!(first, second);
        assert!(first.iter().all(|f| f.len() == 5 && f.windows(2).all(|w| w[0] < w[1])));
        assert!(first[0] != first[1]);
    }
}

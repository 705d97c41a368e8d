//! Scenario files: who sends what to whom, what goes wrong meanwhile, and what must hold.
//!
//! A file is TOML. Unknown keys are errors; every error says line and column. All keys:
//!
//! ```toml
//! name = "one stopped consumer"     # what it is called in reports
//! about = "Why it is run."          # a sentence or two, for reports
//! duration = "10s"                  # how long producers send
//! patience = "10s"                  # when nothing has moved for so long, what is missing is lost
//!
//! [[producers]]
//! name = "loud"                     # of the group: letters, digits and -
//! count = 4                         # clients, each with a connection of its own [1]
//! rate = 20000                      # messages a second of each, "full", or "2x" its capacity ["full"]
//! payload = 64                      # bytes, from 16 to 1 MiB; or a list to draw from; or a range:
//! # payload = { min = 16, max = "1MiB" }       spread evenly over the orders of magnitude
//! send_buffer = "256KiB"            # the kernel's buffer [the kernel's choice]
//! process = "left"                  # groups with one name here are one process [the group's own]
//! innocent = true                   # has nothing to do with who stalls, and must not be touched [false]
//! reconnect = { after = "200ms", times = 100 }   # hangs up when it could not write for so long, and comes back
//!
//! [[relays]]                        # clients that send on what they receive
//! name = "middle"
//! follows = ["loud"]                # groups of producers or relays; as in consumers
//!
//! [[consumers]]
//! name = "slow"
//! count = 10
//! follows = ["loud", "middle"]
//! interest = "all"                  # every client that it follows; "own": the one with the same number;
//! # interest = { random = 3, seed = 7 }        so many of them, drawn for each
//! reads = { messages_per_second = 100 }      # or bytes_per_second: a slow reader [as fast as it comes]
//! receive_buffer = "64KiB"
//! stall = { from = "2s", to = "6s", how = "reading", share = 0.5 }   # the first half stops reading, then goes on;
//!                                   # how = "process" [the default] stops the group's whole process with SIGSTOP
//! kill = { at = "5s", share = 0.1 } # hangs up hard
//! innocent = true
//!
//! [expect]                          # what must hold beyond the usual
//! memory_growth = "8MiB"            # of the broker, with the kernel's buffers, per the whole run
//! throttled = false                 # nobody needs to be: the stall is too short [true where somebody stalls]
//! recovery = "300ms"                # from the end of a stall to the full rate
//! throttled_within = "1s"           # from a stall's beginning to no message accepted
//! evenness = 1.2                    # most accepted over least, among the clients of a group at one rate
//! share_of_reader = 0.98            # accepted over what a slow reader can read
//! innocent_p99 = "1ms"              # the latency of the innocent
//! ```

mod fault;
mod raw;
pub mod units;

use std::path::Path;

use crate::client::{Error, doing};
pub use units::Rate;

/// A scenario, checked: names are unique, groups that are followed exist, times are in order.
#[derive(Clone, Debug)]
pub struct Script {
    /// What it is called.
    pub name: String,
    /// Why it is run.
    pub about: String,
    /// Seconds for which producers send.
    pub duration_s: f64,
    /// Seconds without any movement after which what is missing is lost.
    pub patience_s: f64,
    /// Who takes part, producers first, then relays, then consumers.
    pub groups: Vec<Group>,
    /// What must hold.
    pub expect: Expect,
    /// The text that it was read from, for reports and for the processes that play it.
    pub text: String,
    /// How many times longer than the text says everything takes.
    pub stretch: f64,
    /// Clients that a group has at most, whatever the text says.
    pub clients_max: usize,
}

/// Clients that are alike.
#[derive(Clone, Debug)]
pub struct Group {
    /// What it is called.
    pub name: String,
    /// Clients, from 1.
    pub count: usize,
    /// Groups with the same name here run in one process.
    pub process: String,
    /// Must not notice that others stall.
    pub is_innocent: bool,
    /// What its clients do.
    pub role: Role,
    /// Bytes for SO_SNDBUF, if it is not left to the kernel.
    pub send_buffer: Option<u64>,
    /// Bytes for SO_RCVBUF, if it is not left to the kernel.
    pub receive_buffer: Option<u64>,
}

/// What the clients of a group do.
#[derive(Clone, Debug)]
pub enum Role {
    /// They send.
    Producer(Producing),
    /// They send on what they receive.
    Relay(Following),
    /// They receive.
    Consumer(Consuming),
}

/// How producers send.
#[derive(Clone, Debug)]
pub struct Producing {
    /// How fast.
    pub rate: Rate,
    /// Sizes of payloads in bytes; messages take them in turn.
    pub payloads: Payloads,
    /// When to hang up and come back.
    pub reconnect: Option<Reconnect>,
}

/// Sizes of payloads.
#[derive(Clone, Debug, PartialEq)]
pub enum Payloads {
    /// One of these, each as likely.
    OneOf(Vec<usize>),
    /// From the first to the second, evenly over the orders of magnitude.
    Range(usize, usize),
}

/// A producer's answer to being throttled.
#[derive(Clone, Copy, Debug)]
pub struct Reconnect {
    /// Seconds for which it could not write.
    pub after_s: f64,
    /// How often at most.
    pub times: usize,
}

/// Whom clients follow.
#[derive(Clone, Debug)]
pub struct Following {
    /// Numbers of groups, all before this one's.
    pub groups: Vec<usize>,
    /// Which of their clients.
    pub interest: Interest,
}

/// Which clients of the groups that it follows a client follows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Interest {
    /// Every one.
    All,
    /// The one with the same number (modulo their count).
    Own,
    /// So many of them, drawn with this seed.
    Random(usize, u64),
}

/// How consumers receive.
#[derive(Clone, Debug)]
pub struct Consuming {
    /// Whom they follow.
    pub following: Following,
    /// How slowly they read.
    pub reads: Option<Reads>,
    /// When they stop for a while.
    pub stall: Option<Stall>,
    /// When they hang up.
    pub kill: Option<Kill>,
}

/// A slow reader's speed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Reads {
    /// Messages a second.
    Messages(f64),
    /// Bytes a second, as they come from the socket.
    Bytes(f64),
}

/// A time in which clients read nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stall {
    /// Seconds from the start.
    pub from_s: f64,
    /// Seconds from the start.
    pub to_s: f64,
    /// Whether their process is stopped, rather than their sockets left unread.
    pub stops_process: bool,
    /// The first clients of the group, as a share of it.
    pub share: f64,
}

/// A hard end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Kill {
    /// Seconds from the start.
    pub at_s: f64,
    /// The first clients of the group, as a share of it.
    pub share: f64,
}

/// What must hold beyond the usual.
#[derive(Clone, Copy, Debug, Default)]
pub struct Expect {
    /// Most growth of the broker's memory, in bytes.
    pub memory_growth: Option<u64>,
    /// Nobody needs to be throttled.
    pub is_unthrottled: bool,
    /// Longest way back to the full rate, in seconds.
    pub recovery_s: Option<f64>,
    /// Longest time until nothing is accepted any more, in seconds.
    pub throttled_within_s: Option<f64>,
    /// Most accepted over least accepted among equals.
    pub evenness: Option<f64>,
    /// Least accepted over what a slow reader can read.
    pub share_of_reader: Option<f64>,
    /// Most latency of innocents in 99 of 100 cases, in seconds.
    pub innocent_p99_s: Option<f64>,
}

impl Script {
    /// Reads a scenario file.
    pub fn read(path: &Path) -> Result<Script, Error> {
        let text = std::fs::read_to_string(path).map_err(doing(&format!("reading {}", path.display())))?;
        Script::parse(&text, &path.display().to_string())
    }

    /// Reads a scenario's text; `origin` is what it is called in errors.
    pub fn parse(text: &str, origin: &str) -> Result<Script, Error> {
        raw::parse(text).map_err(|fault| Error::Usage(fault.show(text, origin)))
    }

    /// The same with all times (but not patience) so many times as long.
    #[must_use]
    pub fn stretched(mut self, times: f64) -> Script {
        self.duration_s *= times;
        self.stretch *= times;
        for group in &mut self.groups {
            if let Role::Consumer(c) = &mut group.role {
                if let Some(stall) = &mut c.stall {
                    (stall.from_s, stall.to_s) = (stall.from_s * times, stall.to_s * times);
                }
                if let Some(kill) = &mut c.kill {
                    kill.at_s *= times;
                }
            }
        }
        self
    }

    /// The same with at most so many clients in each group: where descriptors are few.
    #[must_use]
    pub fn limited(mut self, clients: usize) -> Script {
        self.clients_max = self.clients_max.min(clients);
        for group in &mut self.groups {
            group.count = group.count.min(self.clients_max);
        }
        self
    }

    /// From the first beginning of a stall to the last end of one, in seconds from the start. Those who are killed
    /// stall no longer.
    pub fn stall(&self) -> Option<(f64, f64)> {
        let stalls = self.groups.iter().filter_map(|g| {
            let (stall, kill) = (g.stall()?, g.consuming()?.kill);
            let end = kill.filter(|k| k.share >= stall.share).map_or(stall.to_s, |k| k.at_s.min(stall.to_s));
            Some((stall.from_s, end))
        });
        stalls.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
    }

    /// Connections at one time.
    pub fn connections(&self) -> usize {
        self.groups.iter().map(|g| g.count).sum()
    }
}

impl Group {
    /// What it sends, if its clients are producers.
    pub fn producing(&self) -> Option<&Producing> {
        match &self.role {
            Role::Producer(p) => Some(p),
            _ => None,
        }
    }

    /// How it receives, if its clients are consumers.
    pub fn consuming(&self) -> Option<&Consuming> {
        match &self.role {
            Role::Consumer(c) => Some(c),
            _ => None,
        }
    }

    /// Whom its clients follow.
    pub fn following(&self) -> Option<&Following> {
        match &self.role {
            Role::Producer(_) => None,
            Role::Relay(following) => Some(following),
            Role::Consumer(c) => Some(&c.following),
        }
    }

    /// When its clients stop for a while.
    pub fn stall(&self) -> Option<Stall> {
        self.consuming()?.stall
    }

    /// How many of its clients a share comes to: at least one.
    pub fn share(&self, share: f64) -> usize {
        ((self.count as f64 * share).round() as usize).clamp(1, self.count)
    }
}

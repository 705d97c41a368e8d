//! What a member tells of its clients.

use super::Lane;
use crate::check::Faults;
use crate::crew::feed::Feed;
use crate::crew::live::{Link, Live};
use crate::crew::{CLIENTS_NOTED_MAX, Ending, Totals};
use crate::payload::now_ns;

impl Lane {
    /// Whether every producer has ended.
    pub fn has_sent(&self) -> bool {
        let now = now_ns();
        now >= self.deadline_ns
            && self.lives.iter().all(|live| match (&live.link, &live.feed) {
                (Link::Up(_), Some(feed)) => feed.is_done(now),
                (Link::Coming(_), _) => false,
                _ => true,
            })
    }

    /// Messages accepted of each stream of the producers here.
    pub fn sent(&self) -> Vec<(usize, u64)> {
        let mut out = vec![];
        for live in self.lives.iter().filter(|l| self.stage.script.groups[l.group].producing().is_some()) {
            let streams = &self.stage.cast.clients[live.group][live.client].sends;
            let last = live.feed.as_ref().map(Feed::accepted);
            out.extend(streams.iter().copied().zip(live.accepted_before.iter().copied().chain(last)));
        }
        out
    }

    /// Whether all that was sent has come to all who are there to receive it.
    pub fn is_drained(&self, sent: &[u64]) -> bool {
        let is_here = |live: &&Live| matches!(live.link, Link::Up(_));
        self.lives.iter().filter(is_here).all(|live| {
            let received: u64 = live.sink.received().iter().sum();
            let is_passed_on = live.relay.as_ref().is_none_or(|r| r.queue.is_empty());
            received >= live.sink.expected(sent) && is_passed_on
        })
    }

    /// Running totals; begins the next interval of latencies.
    pub fn totals(&mut self) -> Vec<Totals> {
        let now = now_ns();
        let mut out = vec![];
        for tally in &mut self.tallies {
            let mut totals = Totals {
                group: tally.group,
                at_ns: now.saturating_sub(self.start_ns),
                delivered: tally.intake.delivered,
                disconnects: tally.disconnects,
                reconnects: tally.reconnects,
                ..Totals::default()
            };
            totals.faults.misdelivered = tally.intake.misdelivered;
            totals.faults.damaged = tally.intake.damaged;
            let quantiles = tally.intake.latency.quantiles();
            totals.latency_us = quantiles.map(|q| [q.p50_us, q.p99_us, q.max_us]);
            tally.total.add(&tally.intake.latency);
            tally.intake.latency.clear();
            let is_noting = self.stage.script.groups[tally.group].count <= CLIENTS_NOTED_MAX;
            for live in self.lives.iter().filter(|l| l.group == tally.group) {
                let accepted = live.accepted();
                totals.accepted += accepted;
                let before: u64 = live.accepted_before.iter().sum();
                totals.offered += before + live.feed.as_ref().map_or(0, |f| f.offered(now));
                totals.blocked_ns += live.blocked(now);
                totals.faults.add(&live.sink.so_far());
                if is_noting {
                    let is_producer = !live.accepted_before.is_empty() || live.feed.is_some();
                    totals.clients.push(if is_producer { accepted } else { live.delivered });
                }
            }
            out.push(totals);
        }
        out
    }

    /// The verdict, given how many messages each stream had.
    pub fn endings(&mut self, sent: &[u64]) -> Vec<Ending> {
        let mut out = vec![];
        for tally in &mut self.tallies {
            let mut faults = Faults {
                misdelivered: tally.intake.misdelivered,
                damaged: tally.intake.damaged,
                ..Faults::default()
            };
            for live in self.lives.iter().filter(|l| l.group == tally.group) {
                faults.add(&if live.is_killed { live.sink.so_far() } else { live.sink.faults(sent) });
            }
            tally.total.add(&tally.intake.latency);
            out.push(Ending {
                group: tally.group,
                faults,
                reasons: tally.reasons.clone(),
                latency: tally.total.to_hex(),
            });
        }
        out
    }
}

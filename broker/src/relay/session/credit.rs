//! Turns that are counted and reported (`credit-flow-control 202506`), each way, where the listener says so.
//!
//! Who sends turns asks for reports (`<do ..>`); who agrees (`<will ..>`) tells every now and then how many turns it has
//! received since it told last (`<C n>`). We report turns when they have taken effect, so who is held back sees it by
//! that: reports stay away. What the peer reports of ours opens its outbox's window: see `outbox::credit`.

use std::sync::Arc;

use staunch_protocols::schema::Codec;
use staunch_protocols::schema::credit_flow_control::{Enable, Enabled, IssueCredit};
use staunch_protocols::wire::{Int, View};

use super::{Inbound, Session};
use crate::Local;
use crate::listen::Credit;
use crate::schedule::Ready;

/// How far both sides have agreed.
pub(super) struct Counting {
    credit: Credit,
    /// Turns of the peer's that have taken effect.
    turns: u64,
    /// Those of them that it has been told of, or that were there before it asked; `None` if it has not asked.
    told: Option<u64>,
    /// It is to be told soon.
    is_planned: bool,
    /// The peer has been asked to report, and has agreed.
    has_asked: bool,
    peer_reports: bool,
}

impl Counting {
    /// Neither side has asked.
    pub(super) fn new(credit: Credit) -> Counting {
        Counting { credit, turns: 0, told: None, is_planned: false, has_asked: false, peer_reports: false }
    }
}

impl Inbound {
    /// Turns of the peer's have taken effect.
    #[inline]
    pub(super) fn count_turns(&mut self, turns: u64) {
        if let Some(counting) = &mut self.counting {
            counting.turns += turns;
        }
    }
}

impl Session {
    /// Whether turns are counted.
    #[inline]
    pub(crate) fn counts_turns(&self) -> bool {
        self.counts_turns
    }

    /// Takes a packet that is neither a turn nor anything else that all peers know. What it is not asked for, or not
    /// well-formed, is ignored.
    #[cold]
    pub(super) fn take_extension(
        self: &Arc<Self>,
        packet: View<'_>,
        inbound: &mut Inbound,
        local: &mut Local,
    ) {
        let Some(counting) = &mut inbound.counting else { return };
        if let Ok(IssueCredit { count, .. }) = IssueCredit::read(packet) {
            if let Some(count) = natural(&count)
                && counting.peer_reports
            {
                let can_flush = self.outbox.credit(count, &mut local.stage.repayments);
                local.stage.repayments.repay_all();
                if can_flush {
                    local.stage.flush_soon(self);
                }
            }
        } else if Enabled::read(packet).is_ok() {
            // Said once more it would only be a loss to the peer.
            if counting.has_asked && !std::mem::replace(&mut counting.peer_reports, true) {
                self.outbox.open_window(counting.credit);
            }
        } else if Enable::read(packet).is_ok() && counting.told.is_none() {
            counting.told = Some(counting.turns + local.slice.turns());
            self.tell_peer(&Enabled {}, local);
        }
    }

    /// Asks the peer for reports, once something has come from it: so it is known what it speaks. Reports what is due.
    pub(super) fn count_turns(self: &Arc<Self>, counting: &mut Counting, ready: Ready, local: &mut Local) {
        if self.is_closed() {
            return;
        }
        if counting.turns > 0 && !std::mem::replace(&mut counting.has_asked, true) {
            self.tell_peer(&Enable {}, local);
        }
        let Some(told) = counting.told else { return };
        if ready.contains(Session::REPORT)
            && std::mem::take(&mut counting.is_planned)
            && told < counting.turns
        {
            let count = Int::Small((counting.turns - told) as i64);
            counting.told = Some(counting.turns);
            self.tell_peer(&IssueCredit { count }, local);
        } else if told < counting.turns && !std::mem::replace(&mut counting.is_planned, true) {
            self.broker.reports.add(&self.broker, self);
        }
    }

    /// Sends a packet of the session's own, at its own cost.
    fn tell_peer(self: &Arc<Self>, packet: &impl Codec, local: &mut Local) {
        let mut bytes = Vec::new();
        packet.write(&mut bytes);
        local.stage.append_own(self, bytes);
    }
}

/// A number of turns; `None` if there can be no such. What is larger than any number is as good as all.
fn natural(count: &Int) -> Option<u64> {
    match count {
        Int::Small(count) => u64::try_from(*count).ok(),
        // The first bit is the sign.
        Int::Big(content) => content.first().is_some_and(|first| *first < 0x80).then_some(u64::MAX),
    }
}

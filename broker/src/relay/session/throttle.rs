//! Whether a session is read, or held back for what it owes and for what waits because of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;

use super::meter::Cause;
use super::{Inbound, Session};

impl Session {
    /// Whether it may go on, by what it and its principal owe and by what waits for others because of it. A peer that
    /// has hung up is read to its end.
    pub(super) fn may_go_on(self: &Arc<Self>, inbound: &mut Inbound) -> bool {
        let owner = self.account.principal();
        // A principal's orphaned debt holds back only connections that have not begun: new ones.
        let is_clear = self.account.is_clear() && (inbound.has_begun || owner.is_clear());
        if inbound.is_hanging_up || is_clear && inbound.full.is_empty() {
            inbound.full.clear();
            self.go_on(inbound);
            return true;
        }
        let waker = self.waker.get_or_init(|| self.broker.scheduler().waker(self));
        // Each that is in the way is asked to wake it; the last to do so finds that it may go on.
        inbound.full.retain(|other| !other.outbox.poll_room(self.id, waker));
        let owner_is_clear = inbound.has_begun || owner.poll_clear_funds(waker).is_ready();
        let is_clear = self.account.poll_clear_funds(waker) == Poll::Ready(()) && owner_is_clear;
        if is_clear && inbound.full.is_empty() {
            self.go_on(inbound);
            return true;
        }
        if !std::mem::replace(&mut inbound.is_parked, true) {
            let cause = match self.account.is_clear() {
                false => Cause::Debt,
                true if inbound.full.is_empty() => Cause::Principal,
                true => Cause::Room,
            };
            self.broker.counters.throttled.fetch_add(1, Ordering::Relaxed);
            self.meter.begin_throttle(self.broker.scheduler().elapsed_ns(), cause);
            self.broker.stalls.add(self);
        }
        false
    }

    /// Notes that it is not held back any more.
    #[inline]
    pub(super) fn go_on(&self, inbound: &mut Inbound) {
        if std::mem::take(&mut inbound.is_parked) {
            self.note_going_on();
        }
    }

    #[cold]
    fn note_going_on(&self) {
        let span_ns = self.meter.end_throttle(self.broker.scheduler().elapsed_ns());
        self.broker.stalls.remove(self.id, span_ns);
    }
}

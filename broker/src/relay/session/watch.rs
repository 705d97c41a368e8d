//! Whose peer's kernel owes acknowledgements: see [`crate::silence`].

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use super::Session;

impl Session {
    /// Something has been written: the peer's kernel is to acknowledge it. To be called after that.
    #[inline]
    pub(crate) fn expect_answers(self: &Arc<Self>) {
        if self.stream.is_tcp() {
            // SeqCst: pairs with the one in end_watch(). Either what was written is seen there, or that the flag has
            // been cleared is seen here.
            fence(Ordering::SeqCst);
            if !self.is_watched.load(Ordering::Relaxed) {
                self.broker.silences.add(self);
            }
        }
    }

    /// Whether it was not watched yet, and is now.
    pub(crate) fn begin_watch(&self) -> bool {
        // Relaxed: only one of those who try it at a time may succeed.
        !self.is_watched.swap(true, Ordering::Relaxed)
    }

    /// Ends the watch. What the peer owes is to be looked at after that.
    pub(crate) fn end_watch(&self) {
        self.is_watched.store(false, Ordering::Relaxed);
        // SeqCst: pairs with the one in expect_answers().
        fence(Ordering::SeqCst);
    }
}

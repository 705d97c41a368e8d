//! Times as people and other programs know them.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Seconds since 1970, to the millisecond: of moments on the monotonic clock, as they were when the broker started. So
/// a moment is always the same number, whatever is done to the system's clock.
#[derive(Debug)]
pub(crate) struct Clock {
    began: Instant,
    began_s: f64,
}

impl Clock {
    /// One for whose moments count from `began`.
    pub(crate) fn from(began: Instant) -> Clock {
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        Clock { began, began_s: now_s - began.elapsed().as_secs_f64() }
    }

    pub(crate) fn now(&self) -> f64 {
        self.at(Instant::now())
    }

    /// When the broker was started.
    pub(crate) fn started(&self) -> f64 {
        self.at(self.began)
    }

    pub(crate) fn at(&self, moment: Instant) -> f64 {
        round(self.began_s + moment.saturating_duration_since(self.began).as_secs_f64())
    }

    /// So many nanoseconds after the beginning.
    pub(crate) fn at_ns(&self, ns: u64) -> f64 {
        round(self.began_s + ns as f64 / 1e9)
    }
}

fn round(seconds: f64) -> f64 {
    (seconds * 1e3).round() / 1e3
}

//! The progress line on standard error.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Least time between two updates.
const UPDATE_EVERY: Duration = Duration::from_millis(250);

/// A line that is rewritten while a run goes on; silent unless someone looks.
#[derive(Clone, Debug)]
pub struct Screen {
    is_shown: bool,
    is_terminal: bool,
    label: String,
    start: Instant,
    last: Instant,
    last_count: u64,
}

impl Screen {
    /// A line that is shown on a terminal, or anyway if `is_forced`.
    pub fn new(is_forced: bool) -> Screen {
        let is_terminal = std::io::stderr().is_terminal();
        let now = Instant::now();
        let is_shown = is_terminal || is_forced;
        Screen { is_shown, is_terminal, label: String::new(), start: now, last: now, last_count: 0 }
    }

    /// The same line, for the run called `label`.
    pub fn begin(&self, label: &str) -> Screen {
        let now = Instant::now();
        Screen { label: label.to_owned(), start: now, last: now, last_count: 0, ..self.clone() }
    }

    /// Shows counts, at most four times a second. Costs one look at the clock otherwise.
    pub fn counts(&mut self, sent: impl FnOnce() -> u64, delivered: u64) {
        if !self.is_shown || self.last.elapsed() < UPDATE_EVERY {
            return;
        }
        let rate = (delivered - self.last_count.min(delivered)) as f64 / self.last.elapsed().as_secs_f64();
        let line = format!("sent {}, delivered {delivered}, {rate:.0}/s", sent());
        self.last_count = delivered;
        self.show(&line);
    }

    /// Shows what is being done, at once.
    pub fn say(&mut self, what: &str) {
        if self.is_shown {
            self.show(what);
        }
    }

    /// Removes the line.
    pub fn end(&self) {
        if self.is_terminal {
            eprint!("\r\x1b[K");
        }
    }

    fn show(&mut self, what: &str) {
        self.last = Instant::now();
        let seconds = self.start.elapsed().as_secs_f64();
        let mut err = std::io::stderr().lock();
        // A terminal that has gone away is no reason to stop measuring.
        let _ = if self.is_terminal {
            write!(err, "\r\x1b[K{} {seconds:.1} s: {what}", self.label)
        } else {
            writeln!(err, "{} {seconds:.1} s: {what}", self.label)
        };
        let _ = err.flush();
    }
}

//! What people see of the tour: a story, line by line, and below it, on a terminal, a picture that is redrawn.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use super::figures::Figures;

/// Time between two pictures.
const REDRAW_EVERY: Duration = Duration::from_millis(100);
/// Time between two status lines where there is no picture.
const STATUS_EVERY: Duration = Duration::from_millis(500);
/// Characters in a bar.
const BAR: usize = 24;

const BOLD: &str = "1";
const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";

/// What kind of line the story goes on with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    /// The beginning of an act.
    Act,
    /// What happens.
    Told,
    /// What went as it should.
    Good,
}

/// Standard output, live or plain.
pub(super) struct Screen {
    is_live: bool,
    is_coloured: bool,
    start: Instant,
    shown: Option<Instant>,
    /// Lines of the picture that stands below the story.
    drawn: usize,
}

impl Screen {
    /// A picture if standard output is a terminal that can take one and `is_plain` does not ask otherwise.
    pub(super) fn new(is_plain: bool) -> Screen {
        let variable = |name| std::env::var_os(name).unwrap_or_default();
        let is_live = !is_plain && std::io::stdout().is_terminal() && variable("TERM") != "dumb";
        let is_coloured = is_live && variable("NO_COLOR").is_empty();
        Screen { is_live, is_coloured, start: Instant::now(), shown: None, drawn: 0 }
    }

    /// Goes on with the story.
    pub(super) fn say(&mut self, tone: Tone, text: &str) {
        let mut out = self.erased();
        let at = format!("{:5.1} s  ", self.start.elapsed().as_secs_f64());
        if tone == Tone::Act {
            out.push('\n');
        }
        for (i, line) in text.lines().enumerate() {
            let margin = if i == 0 { at.clone() } else { " ".repeat(at.len()) };
            let line = match tone {
                Tone::Act => self.paint(BOLD, line),
                Tone::Told => line.to_owned(),
                Tone::Good => self.paint(GREEN, line),
            };
            out.push_str(&format!("{margin}{line}\n"));
        }
        // A picture comes back at once, a status line later.
        self.shown = if self.is_live { None } else { Some(Instant::now()) };
        put(&out);
    }

    /// Shows figures, unless it has just done so.
    pub(super) fn show(&mut self, figures: &Figures) {
        let every = if self.is_live { REDRAW_EVERY } else { STATUS_EVERY };
        if self.shown.is_some_and(|then| then.elapsed() < every) {
            return;
        }
        self.shown = Some(Instant::now());
        if !self.is_live {
            put(&format!("{:5.1} s      {}\n", self.start.elapsed().as_secs_f64(), status(figures)));
            return;
        }
        let mut out = self.erased();
        let picture = self.picture(figures);
        self.drawn = picture.lines().count();
        // Without wrapping, so that a narrow terminal cuts lines off and their number stays right.
        out.push_str(&format!("\x1b[?7l{picture}\x1b[?7h"));
        put(&out);
    }

    /// Ends the picture, if there is one; the story stays.
    pub(super) fn end(&mut self) {
        let out = self.erased();
        put(&out);
    }

    /// What removes the picture.
    fn erased(&mut self) -> String {
        match std::mem::take(&mut self.drawn) {
            0 => String::new(),
            lines => format!("\x1b[{lines}A\r\x1b[J"),
        }
    }

    fn picture(&self, figures: &Figures) -> String {
        let limit = figures.producers.first().map_or(0, |p| p.limit);
        let mut out = format!("\n   producer      sends   owes, of {}\n", mib(limit));
        for p in &figures.producers {
            let filled = (p.debt as f64 / p.limit.max(1) as f64 * BAR as f64).round() as usize;
            let filled = filled.min(BAR);
            let colour = if p.is_throttled { RED } else { GREEN };
            let bar = self.paint(colour, &"#".repeat(filled));
            let rest = ".".repeat(BAR - filled);
            let note = if p.is_throttled { self.paint(RED, "  throttled") } else { String::new() };
            out.push_str(&format!(
                "   {:<8} {:>8}/s   [{bar}{rest}] {}{note}\n",
                p.role,
                count(p.rate as u64),
                mib(p.debt)
            ));
        }
        out.push_str("   consumer   receives      unread\n");
        for c in &figures.consumers {
            let note = if c.is_idle { self.paint(YELLOW, "  not reading") } else { String::new() };
            out.push_str(&format!(
                "   {:<8} {:>8}/s   {:>9}{note}\n",
                c.role,
                count(c.rate as u64),
                count(c.unread)
            ));
        }
        out
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.is_coloured { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// One line for all.
fn status(figures: &Figures) -> String {
    let producers = figures.producers.iter().map(|p| {
        let throttled = if p.is_throttled { ", throttled" } else { "" };
        format!("{} {:>6}/s, owes {}{throttled}", p.role, count(p.rate as u64), mib(p.debt))
    });
    let idle = figures.consumers.iter().filter(|c| c.is_idle);
    let idle = idle.map(|c| format!("{} {} unread", c.role, count(c.unread)));
    producers.chain(idle).collect::<Vec<_>>().join(" | ")
}

/// A number with commas between thousands.
pub(super) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Cost units, which are bytes for the most part, in MiB.
pub(super) fn mib(units: u64) -> String {
    format!("{:.1} MiB", units as f64 / f64::from(1 << 20))
}

/// Writes at once. Who no longer listens is no reason to fail.
fn put(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        for (n, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(count(n), text);
        }
    }
}

//! `staunch observe`.

use std::collections::HashMap;
use std::io::{self, BufWriter, ErrorKind, StdoutLock, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use staunch::client::Error;
use staunch_protocols::packet::Event;
use staunch_protocols::text;
use staunch_protocols::wire::{Int, View};
use staunch_system::wait::Wish;

use super::interrupt::Interrupt;
use super::pattern::{self, Compiled};
use super::reach::{Reach, Reached, seconds};
use super::value::{malformed, parse, scan};
use super::{Fault, json};

/// Print what matches a pattern: assertions that come and go, and messages.
#[derive(clap::Args)]
#[command(long_about = "\
Print what matches a pattern: assertions that come and go, and messages.

One line for each event, until Ctrl-C: `+` and what was asserted, `-` and what is retracted, `!` and a message. What \
is there already comes first.")]
#[command(after_long_help = "\
Patterns are values with holes in them:
  <Says \"ann\" $what>   records Says whose first field is \"ann\"; the second is
                       printed, as what=...
  <Says _ $>           a bare $ captures without a name, and _ is anything
  <Says _ _>           without any $ the whole value is printed
  [1 $x]               sequences that begin with 1 and have another element
  {kind: x, size: $n}  dictionaries that have these keys, maybe among others
  $all                 everything
Records and sequences match if they are longer, too. A record's label must be
given. Sets cannot be matched by what is in them. For what cannot be written so,
such as the symbols _ and $x themselves, there is --raw. In a shell patterns
need quotes: single ones.

Captures are counted: two assertions in which the same is captured are one, and
it goes when the second goes.

JSON has an object for each event:
  \"event\"     \"assert\", \"retract\" or \"message\"
  \"handle\"    a number that a retraction shares with its assertion
  \"captures\"  an object: by name, or by position from 0 where there is no name
  \"value\"     instead of captures, if the pattern has no $
Values are mapped without loss. Booleans, strings and sequences are themselves,
integers and doubles are numbers (1 and 1.0). The rest has names with @:
  {\"@symbol\": \"a\"}, {\"@bytes\": \"00ff\"}, {\"@set\": [..]},
  {\"@record\": \"label\", \"@fields\": [..]}
A dictionary is an object if its keys are symbols (and none begins with @),
otherwise {\"@dictionary\": [[key, value], ..]}. Rare are
  {\"@integer\": \"9007199254740992\"}, from 2^53,
  {\"@double\": \"7ff0000000000000\"}, its bits, if it is not finite,
  {\"@record\": {\"@label\": ..}, ..}, if the label is no symbol,
  {\"@embedded\": ..}, a capability, of which only the broker knows more.

Examples:
  staunch observe '<Present $who>'
  staunch observe --snapshot '<Present $>'
  staunch observe --count 1 --for 10 '<ready \"db\">'
  staunch observe --json '<Says $who $what>' | jq .captures.what

It ends when the broker does. To go on with the next one:
  until staunch observe '<Present $who>'; do sleep 1; done
What was asserted in the first is not retracted then: it is gone with it.

Status: 0, also after Ctrl-C; 1 if the broker goes away, if the reference does not
allow the pattern, or if the time of --for is over before there were as many
events as --count says; 2 if the command makes no sense.")]
pub(super) struct Observe {
    /// What to look for, such as '<Says $who $what>'; --help tells how to write it
    pattern: String,
    /// The pattern is given as the protocol has it, such as '<group <rec Says> {0: <bind <_>>}>'
    #[arg(long)]
    raw: bool,
    /// Print JSON, an object a line
    #[arg(long)]
    json: bool,
    /// Print what is there now, and end
    #[arg(long, visible_alias = "exit-on-sync")]
    snapshot: bool,
    /// End after so many events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End after so many seconds
    #[arg(long = "for", value_name = "SECONDS", value_parser = seconds)]
    patience: Option<Duration>,
    #[command(flatten)]
    reach: Reach,
}

impl Observe {
    pub(super) fn run(self) -> Result<(), Fault> {
        let compiled = if self.raw { raw(&self.pattern) } else { pattern::observed(&self.pattern) };
        let compiled =
            compiled.map_err(|error| Fault::Usage(format!("the pattern cannot be used: {error}")))?;
        if !self.pattern.contains('$') && self.pattern.trim_end().ends_with(" >") {
            eprintln!(
                "staunch: warning: the pattern {} captures nothing. Has a shell taken a $name out of it? Patterns need \
                 single quotes",
                self.pattern
            );
        }
        let mut reached = self.reach.open()?;
        reached.allowed.check_observer(&compiled.bytes).map_err(Fault::Failed)?;
        let interrupt = Interrupt::catch().map_err(Fault::failed)?;
        let observer = reached.session.observe(&compiled.bytes);
        let end = self.snapshot.then(|| reached.session.sync());
        let printer = Printer {
            out: BufWriter::with_capacity(64 << 10, io::stdout().lock()),
            names: compiled.names,
            is_whole: compiled.is_whole,
            is_json: self.json,
            live: HashMap::new(),
            line: String::new(),
            left: self.count.unwrap_or(u64::MAX),
            failure: None,
        };
        let deadline = self.patience.and_then(|patience| Instant::now().checked_add(patience));
        let mut watch = Watch { observer, end, deadline, interrupt, printer };
        match watch.run(&mut reached)? {
            End::Done => Ok(()),
            End::Late => match self.count {
                Some(count) => {
                    let patience = self.patience.unwrap_or_default().as_secs_f64();
                    let seen = count - watch.printer.left;
                    Err(Fault::Failed(format!("{seen} of {count} events came within {patience} s")))
                }
                None => Ok(()),
            },
        }
    }
}

/// A pattern as the protocol has it.
fn raw(text: &str) -> Result<Compiled, String> {
    let bytes = parse(text)?;
    let scanner = scan(&bytes);
    let known = staunch_index::pattern::Pattern::compile(scanner.view(&bytes))
        .ok_or("it is not of the form <_>, <bind P>, <lit atom> or <group <rec label> {0: P ...}>")?;
    Ok(Compiled { bytes, names: vec![String::new(); known.captures.len()], is_whole: false })
}

/// Why it ends well.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Done,
    /// The time is up.
    Late,
}

struct Watch {
    observer: i64,
    /// Our entity that hears when all that was there has been told.
    end: Option<i64>,
    deadline: Option<Instant>,
    interrupt: Interrupt,
    printer: Printer,
}

impl Watch {
    fn run(&mut self, reached: &mut Reached) -> Result<End, Fault> {
        loop {
            let mut has_synced = false;
            let heard = reached.session.flush().and_then(|()| {
                reached.session.hear(|oid, event| match event {
                    Event::Message { .. } if Some(oid) == self.end => {
                        has_synced = true;
                        Ok(())
                    }
                    // What comes behind the end of a snapshot is not in it.
                    event if oid == self.observer && !has_synced => self.printer.event(event),
                    _ => Ok(()),
                })
            });
            let is_finished = has_synced || self.printer.left == 0;
            if is_finished || !matches!(heard, Ok(true)) {
                self.printer.flush();
            }
            match self.printer.failure.take() {
                // Whoever read what we print has had enough.
                Some(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(End::Done),
                Some(error) => {
                    return Err(Fault::Failed(format!("cannot write to standard output: {error}")));
                }
                None if is_finished => return Ok(End::Done),
                None => {}
            }
            let has_heard = heard.map_err(|error| reached.fault(&error))?;
            let left = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                self.printer.flush();
                return Ok(End::Late);
            }
            let patience = if has_heard { Some(Duration::ZERO) } else { left };
            let out = io::stdout();
            let others = [(self.interrupt.as_fd(), Wish::Read), (out.as_fd(), Wish::End)];
            let found = reached.session.wait(&others, patience).map_err(Fault::failed)?;
            if found[0].readable || found[1].hangup {
                self.printer.flush();
                return Ok(End::Done);
            }
        }
    }
}

/// Writes events as lines.
struct Printer {
    out: BufWriter<StdoutLock<'static>>,
    names: Vec<String>,
    is_whole: bool,
    is_json: bool,
    /// What was printed of assertions that still hold, by their handles.
    live: HashMap<Int, Box<str>>,
    line: String,
    /// How many events more are to be printed.
    left: u64,
    /// Why nothing can be printed any more.
    failure: Option<io::Error>,
}

impl Printer {
    fn event(&mut self, event: Event<'_>) -> Result<(), Error> {
        if self.left == 0 || self.failure.is_some() {
            return Ok(());
        }
        match event {
            Event::Assert { assertion, handle } => {
                let handle = handle.as_int().ok_or_else(|| malformed("an assertion without a handle"))?;
                self.describe(assertion)?;
                let described = self.line.as_str().into();
                self.print('+', Some(&handle));
                self.live.insert(handle, described);
            }
            Event::Retract { handle } => {
                let handle = handle.as_int().ok_or_else(|| malformed("a retraction without a handle"))?;
                let Some(described) = self.live.remove(&handle) else { return Ok(()) };
                self.line.clear();
                self.line.push_str(&described);
                self.print('-', Some(&handle));
            }
            Event::Message { body } => {
                self.describe(body)?;
                self.print('!', None);
            }
            Event::Sync { .. } => {}
        }
        Ok(())
    }

    /// Puts what was captured into `line`.
    fn describe(&mut self, captures: View<'_>) -> Result<(), Error> {
        let line = &mut self.line;
        line.clear();
        if self.is_json {
            line.push_str(if self.is_whole { "\"value\":" } else { "\"captures\":{" });
        }
        let mut count = 0;
        for (at, value) in captures.children().enumerate() {
            count += 1;
            let name = self.names.get(at).map_or("", String::as_str);
            if at > 0 {
                line.push(if self.is_json { ',' } else { ' ' });
            }
            match (self.is_json, name) {
                (true, _) if self.is_whole => {}
                (true, "") => line.push_str(&format!("\"{at}\":")),
                (true, name) => {
                    json::quote(name, line);
                    line.push(':');
                }
                (false, "") => {}
                (false, name) => {
                    line.push_str(name);
                    line.push('=');
                }
            }
            if self.is_json {
                json::write(value, line);
            } else {
                text::write(value, line, usize::MAX);
            }
        }
        if self.is_json && !self.is_whole {
            line.push('}');
        }
        match count == self.names.len() {
            true => Ok(()),
            false => Err(malformed("another number of captures than the pattern has")),
        }
    }

    /// Prints the line.
    fn print(&mut self, sign: char, handle: Option<&Int>) {
        let written = if self.is_json {
            let event = match sign {
                '+' => "assert",
                '-' => "retract",
                _ => "message",
            };
            let handle = match handle {
                Some(Int::Small(handle)) => format!("\"handle\":{handle},"),
                // No broker counts so far.
                Some(Int::Big(_)) | None => String::new(),
            };
            writeln!(self.out, "{{\"event\":\"{event}\",{handle}{}}}", self.line)
        } else if self.line.is_empty() {
            writeln!(self.out, "{sign}")
        } else {
            writeln!(self.out, "{sign} {}", self.line)
        };
        self.left -= 1;
        self.failure = written.err();
    }

    fn flush(&mut self) {
        if self.failure.is_none() {
            self.failure = self.out.flush().err();
        }
    }
}

//! `staunch send`.

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;

use staunch_protocols::packet::Event;
use staunch_system::wait::Wish;

use super::hold::parse_all;
use super::lines::Lines;
use super::reach::{Reach, Reached};
use super::value::parse;
use super::{Fault, json};

/// How much is gathered before more is read.
const UNWRITTEN_BYTES_MAX: usize = 1 << 20;

/// Send messages: the values given, or one from each line of standard input.
#[derive(clap::Args)]
#[command(long_about = "\
Send messages: the values given, or one from each line of standard input.

Each value is a message in a turn of its own, in the order given. The command ends when the broker has taken them \
all. A line that is empty, or begins with # and a blank, is left out; one that cannot be read ends the command, when \
those before it have been sent.")]
#[command(after_long_help = "\
Examples:
  staunch send '<Says \"ann\" \"hello\">'
  seq 10 | sed 's/.*/<count &>/' | staunch send
  staunch observe --json '<a _>' | jq -c .value | staunch send --json --connect ADDRESS

(jq 1.6 and older writes 1.0 as 1, which makes an integer of a double.)

Status: 0 if the broker has taken all; 1 if it goes away, a line cannot be read,
or the reference does not allow a value; 2 if the command makes no sense. Of what
it was given in lines it says then how much has been taken. That the broker has
taken a message does not mean that anybody observes it.")]
pub(super) struct Send {
    /// What to send, as Preserves text, such as '<Says "ann" "hello">'
    #[arg(value_name = "VALUE", allow_negative_numbers = true)]
    values: Vec<String>,
    /// The values, or lines, are JSON, as `staunch observe --json` prints them
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reach: Reach,
}

impl Send {
    pub(super) fn run(self) -> Result<(), Fault> {
        let values = parse_all(&self.values, self.json)?;
        let mut reached = self.reach.open()?;
        if values.is_empty() {
            if io::stdin().is_terminal() {
                eprintln!("Sends each line, such as <Says \"ann\" \"hello\">; Ctrl-D ends.");
            }
            return Stream::new(&mut reached, self.json)?.run();
        }
        values.iter().try_for_each(|value| reached.allowed.check(value)).map_err(Fault::Failed)?;
        values.iter().for_each(|value| reached.session.message(value));
        let taken = reached.session.sync();
        while !turn(&mut reached, Some(taken))? {
            reached.session.wait(&[], None).map_err(Fault::failed)?;
        }
        Ok(())
    }
}

/// Writes and reads what is possible; true if the Sync answered at `taken` is done.
fn turn(reached: &mut Reached, taken: Option<i64>) -> Result<bool, Fault> {
    let session = &mut reached.session;
    let mut is_taken = false;
    let done = session.flush().and_then(|()| {
        while session.hear(|oid, event| {
            is_taken |= Some(oid) == taken && matches!(event, Event::Message { .. });
            Ok(())
        })? {}
        Ok(())
    });
    match done {
        // What comes after all was taken is of no interest.
        Err(error) if !is_taken => Err(reached.fault(&error)),
        _ => Ok(is_taken),
    }
}

/// Lines of standard input on their way.
struct Stream<'r> {
    reached: &'r mut Reached,
    lines: Lines,
    is_json: bool,
    /// The number of the line being read, from 1.
    line: u64,
    sent: u64,
    /// So many the broker is known to have taken.
    taken: u64,
    /// The answer that tells of more: our entity, and how many had been sent when it was asked.
    asked: Option<(i64, u64)>,
    /// What is wrong with the line that was read last: nothing more is read.
    fault: Option<String>,
}

impl Stream<'_> {
    fn new(reached: &mut Reached, is_json: bool) -> Result<Stream<'_>, Fault> {
        let lines = Lines::stdin().map_err(|error| cannot_read(&error))?;
        Ok(Stream { reached, lines, is_json, line: 0, sent: 0, taken: 0, asked: None, fault: None })
    }

    fn run(mut self) -> Result<(), Fault> {
        loop {
            let is_answered = turn(self.reached, self.asked.map(|(oid, _)| oid));
            if is_answered.map_err(|fault| self.interrupted(fault))? {
                self.taken = self.asked.take().map_or(self.taken, |(_, sent)| sent);
            }
            let is_over = self.lines.has_ended() || self.fault.is_some();
            if is_over && self.taken == self.sent {
                break;
            }
            if self.asked.is_none() && self.taken < self.sent {
                self.asked = Some((self.reached.session.sync(), self.sent));
                continue;
            }
            let reads = !is_over && self.reached.session.unwritten() < UNWRITTEN_BYTES_MAX;
            let input = [(self.lines.as_fd(), Wish::Read)];
            let others = if reads { &input[..] } else { &[] };
            let found = self.reached.session.wait(others, None).map_err(Fault::failed)?;
            if found.first().is_some_and(|input| input.readable) {
                self.lines.fill().map_err(|error| cannot_read(&error))?;
                self.fault = self.send_lines().err();
            }
        }
        match self.fault {
            None => Ok(()),
            Some(fault) => Err(Fault::Failed(format!(
                "line {} of standard input: {fault}. The {} before it {} sent, nothing after it",
                self.line,
                if self.sent == 1 { "message".to_owned() } else { format!("{} messages", self.sent) },
                if self.sent == 1 { "was" } else { "were" },
            ))),
        }
    }

    /// What has come of it when it cannot go on.
    fn interrupted(&self, fault: Fault) -> Fault {
        let (Fault::Usage(why) | Fault::Failed(why)) = fault;
        let (taken, sent) = (self.taken, self.sent);
        Fault::Failed(format!("{why}. {taken} of {sent} messages have been taken for certain"))
    }

    /// Sends the lines that are complete.
    fn send_lines(&mut self) -> Result<(), String> {
        loop {
            self.line += 1;
            let Some(line) = self.lines.next()? else { break };
            let text = std::str::from_utf8(line).map_err(|_| "not UTF-8".to_owned())?;
            let trimmed = text.trim_start();
            let is_comment = trimmed.starts_with("# ") || trimmed.starts_with("#\t") || trimmed == "#";
            if trimmed.is_empty() || is_comment {
                continue;
            }
            let value = if self.is_json { json::read(text)? } else { parse(text)? };
            self.reached.allowed.check(&value)?;
            self.reached.session.message(&value);
            self.sent += 1;
        }
        self.line -= 1;
        Ok(())
    }
}

fn cannot_read(error: &io::Error) -> Fault {
    Fault::Failed(format!("cannot read standard input: {error}"))
}

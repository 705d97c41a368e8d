//! `staunch assert`.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::time::{Duration, Instant};

use staunch_protocols::packet::Event;
use staunch_system::wait::Wish;

use super::interrupt::Interrupt;
use super::manual::print;
use super::reach::{Reach, Reached, seconds};
use super::value::{parse, scan, show};
use super::{Fault, json};

/// Make assertions, and hold them until Ctrl-C.
#[derive(clap::Args)]
#[command(long_about = "\
Make assertions, and hold them until Ctrl-C.

All are made in one turn. When the broker has taken them they are printed, each as a line `+ VALUE`. They are held \
until Ctrl-C or SIGTERM, until --for has passed, or, where standard input is a pipe or a socket, until that is \
closed; then the broker retracts them.")]
#[command(after_long_help = "\
Examples:
  staunch assert '<Present \"ann\">'
  staunch assert --for 60 '<maintenance \"db\">' '<ready #f>'
  ./server | staunch assert '<running \"server\">'      as long as the server runs

It ends when the broker does. To have it made again whenever there is one:
  until staunch assert '<Present \"ann\">'; do sleep 1; done
or a service with Restart=on-failure.

Status: 0 when it ends as above; 1 if the broker goes away, or the reference does
not allow what is to be asserted; 2 if the command makes no sense.")]
pub(super) struct Assert {
    /// What holds, as Preserves text, such as '<Present "ann">'
    #[arg(required = true, value_name = "VALUE", allow_negative_numbers = true)]
    values: Vec<String>,
    /// End after so many seconds
    #[arg(long = "for", value_name = "SECONDS", value_parser = seconds)]
    patience: Option<Duration>,
    /// The values are JSON, as `staunch observe --json` prints them
    #[arg(long)]
    json: bool,
    /// Do not print what is held
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    reach: Reach,
}

impl Assert {
    pub(super) fn run(self) -> Result<(), Fault> {
        let values = parse_all(&self.values, self.json)?;
        let mut reached = self.reach.open()?;
        values.iter().try_for_each(|value| reached.allowed.check(value)).map_err(Fault::Failed)?;
        let interrupt = Interrupt::catch().map_err(Fault::failed)?;
        reached.session.assert(values.iter().map(Vec::as_slice));
        let taken = reached.session.sync();
        let mut is_taken = false;
        let deadline = self.patience.and_then(|patience| Instant::now().checked_add(patience));
        let mut input = watched_input();
        let mut chunk = [0; 4096];
        loop {
            let was_taken = is_taken;
            let has_heard = hear(&mut reached, taken, &mut is_taken)?;
            if is_taken && !was_taken && !self.quiet {
                self.announce(&values)?;
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(());
            }
            let mut others = vec![(interrupt.as_fd(), Wish::Read)];
            others.extend(input.as_ref().map(|input| (input.as_fd(), Wish::Read)));
            let patience = if has_heard { Some(Duration::ZERO) } else { left };
            let found = reached.session.wait(&others, patience).map_err(Fault::failed)?;
            if found[0].readable {
                return Ok(());
            }
            if found.get(1).is_some_and(|input| input.readable)
                && let Some(input) = &mut input
                && matches!(input.read(&mut chunk), Ok(0))
                // What is closed before the broker has taken anything waits for that.
                && is_taken
            {
                return Ok(());
            }
        }
    }

    fn announce(&self, values: &[Vec<u8>]) -> Result<(), Fault> {
        let lines: String =
            values.iter().map(|value| format!("+ {}\n", show(scan(value).view(value)))).collect();
        print(lines.as_bytes())?;
        if io::stdout().is_terminal() && self.patience.is_none() {
            eprintln!("Held until Ctrl-C.");
        }
        Ok(())
    }
}

/// Reads the values that are to be asserted or sent.
pub(super) fn parse_all(values: &[String], is_json: bool) -> Result<Vec<Vec<u8>>, Fault> {
    let parsed = values.iter().map(|text| {
        let parsed = if is_json { json::read(text) } else { parse(text) };
        parsed.map_err(|error| {
            let shown: String = text.chars().take(60).collect();
            let dots = if shown.len() < text.len() { "…" } else { "" };
            Fault::Usage(format!("{shown}{dots} cannot be read: {error}"))
        })
    });
    parsed.collect()
}

/// Writes and reads once; tells whether the Sync answered at `taken` is done.
fn hear(reached: &mut Reached, taken: i64, is_taken: &mut bool) -> Result<bool, Fault> {
    let session = &mut reached.session;
    let heard = session.flush().and_then(|()| {
        session.hear(|oid, event| {
            *is_taken |= oid == taken && matches!(event, Event::Message { .. });
            Ok(())
        })
    });
    heard.map_err(|error| reached.fault(&error))
}

/// Standard input, if somebody may close it to say that it is enough. Not a terminal, of which a program in the
/// background must not read, and not /dev/null, which programs are given that have no input.
fn watched_input() -> Option<File> {
    let input = File::from(io::stdin().as_fd().try_clone_to_owned().ok()?);
    let kind = input.metadata().ok()?.file_type();
    (kind.is_fifo() || kind.is_socket()).then_some(input)
}

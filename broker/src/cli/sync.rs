//! `staunch sync`.

use std::time::Instant;

use staunch::client::Error;
use staunch_protocols::packet::Event;

use super::Fault;
use super::manual::print;
use super::reach::{Reach, Reached};

/// Ask the broker for an answer, and print how long it took.
#[derive(clap::Args)]
#[command(long_about = "\
Ask the broker for an answer, and print how long it took.

The question goes to the dataspace behind the reference, so an answer says that the broker is there, that it lets us \
in, and that it has done what it was sent by this session before. It says nothing of other sessions.")]
#[command(after_long_help = "\
Example, in a script that needs the broker:
  until staunch sync 2>/dev/null; do sleep 0.2; done

Status: 0 if it answered each time; 1 if not; 2 if the command makes no sense.")]
pub(super) struct Sync {
    /// How often to ask
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
    /// Print JSON, an object a line: {"address": .., "ms": ..}
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reach: Reach,
}

impl Sync {
    pub(super) fn run(self) -> Result<(), Fault> {
        let mut reached = self.reach.open()?;
        for _ in 0..self.count {
            let start = Instant::now();
            round_trip(&mut reached, start)?;
            let ms = start.elapsed().as_secs_f64() * 1e3;
            let line = if self.json {
                let mut address = String::new();
                super::json::quote(&reached.address.to_string(), &mut address);
                format!("{{\"address\":{address},\"ms\":{ms:.3}}}\n")
            } else {
                format!("{} answers after {ms:.3} ms\n", reached.address)
            };
            print(line.as_bytes())?;
        }
        Ok(())
    }
}

fn round_trip(reached: &mut Reached, start: Instant) -> Result<(), Fault> {
    let answer = reached.session.sync();
    let mut has_come = false;
    loop {
        let session = &mut reached.session;
        let heard = session.flush().and_then(|()| {
            session.hear(|oid, event| {
                has_come |= oid == answer && matches!(event, Event::Message { .. });
                Ok(())
            })
        });
        let has_heard = match heard {
            _ if has_come => return Ok(()),
            Ok(has_heard) => has_heard,
            Err(error) => return Err(reached.fault(&error)),
        };
        let left = reached.timeout.saturating_sub(start.elapsed());
        if left.is_zero() {
            return Err(reached.fault(&Error::Silent(reached.timeout)));
        }
        if !has_heard {
            reached.session.wait(&[], Some(left)).map_err(Fault::failed)?;
        }
    }
}

//! `staunch audit`.

use std::os::fd::AsFd;
use std::time::Instant;

use serde_json::json;
use staunch::client::Error;
use staunch_protocols::packet::Event;
use staunch_protocols::schema::ledger::{Audit as Request, Audited};
use staunch_protocols::schema::rpc::{Question, Result as Response};
use staunch_protocols::schema::{Codec, Int, Value};
use staunch_protocols::wire::Limits;
use staunch_system::wait::Wish;

use super::Fault;
use super::interrupt::Interrupt;
use super::manual::print;
use super::reach::{LedgerReach, Reached};
use super::value::parse;

/// Have the broker check that what is owed is exactly what waits.
#[derive(clap::Args)]
#[command(long_about = "\
Have the broker check that what is owed is exactly what waits.

Its workers stand still for the moment that it takes (some tens of microseconds, and as long as the longest turn that is \
under way); there is one check a second at most, however many ask. The sum of all debts must then be the cost of \
everything that waits to be read by somebody. If it is not, that is a bug in the broker.

This needs a reference to the broker's ledger: see `staunch top`.")]
#[command(after_long_help = "\
JSON: {\"debt\": .., \"outstanding\": .., \"accounts\": .., \"connections\": .., \"paused\": ..}, in cost units (bytes, and 32
for each event) and seconds.

Example, of a check every minute:
  while staunch audit; do sleep 60; done

Status: 0 if the two agree; 1 if not, or if the broker could not tell; 2 if the
command makes no sense.")]
pub(super) struct Audit {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reach: LedgerReach,
}

impl Audit {
    pub(super) fn run(self) -> Result<(), Fault> {
        let mut reached = self.reach.open()?;
        let interrupt = Interrupt::catch().map_err(Fault::failed)?;
        let id = nonce()?;
        let observer = reached.session.observe(&answers_to(&id));
        let request = Value::of(&Request { id: Value::of(&id) });
        reached.session.assert([&Question { request }.to_bytes()[..]]);
        let Some(response) = response(&mut reached, observer, &interrupt)? else { return Ok(()) };
        let audited = match response {
            Response::Ok { value } => Audited::from_bytes(value.as_bytes(), &Limits::default())
                .map_err(|_| Fault::Failed("an answer of another form than is known here".to_owned()))?,
            Response::Error { error } => {
                let why = String::from_bytes(error.as_bytes(), &Limits::default()).unwrap_or_default();
                return Err(Fault::Failed(format!("{}: {why}", reached.address)));
            }
        };
        let told = if self.json { as_json(&audited) } else { in_words(&audited) };
        print(told.as_bytes())
    }
}

/// What tells our request from others: nobody guesses it, and nobody has used it.
fn nonce() -> Result<String, Fault> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(Fault::failed)?;
    Ok(format!("{:032x}", u128::from_ne_bytes(bytes)))
}

/// The pattern of what answers the request with this id.
fn answers_to(id: &str) -> Vec<u8> {
    let pattern = format!("<group <rec a> {{0: <group <rec audit> {{0: <lit \"{id}\">}}> 1: <bind <_>>}}>");
    parse(&pattern).expect("it is well-formed")
}

/// Waits for the answer; none after a signal.
fn response(reached: &mut Reached, observer: i64, interrupt: &Interrupt) -> Result<Option<Response>, Fault> {
    let start = Instant::now();
    let mut response = None;
    loop {
        let heard = reached.session.flush().and_then(|()| {
            reached.session.hear(|oid, event| {
                if let (true, Event::Assert { assertion, .. }) = (oid == observer, event) {
                    let answer = assertion.index(0).map(|answer| answer.span().to_vec()).unwrap_or_default();
                    response = Response::from_bytes(&answer, &Limits::default()).ok();
                }
                Ok(())
            })
        });
        let has_heard = heard.map_err(|error| reached.fault(&error))?;
        if response.is_some() {
            return Ok(response);
        }
        let left = reached.timeout.saturating_sub(start.elapsed());
        if left.is_zero() {
            let hint = "Is the reference one to the ledger? `staunch top --help` says more";
            return Err(match reached.fault(&Error::Silent(reached.timeout)) {
                Fault::Failed(why) => Fault::Failed(format!("{why}. {hint}")),
                other => other,
            });
        }
        if !has_heard {
            let others = [(interrupt.as_fd(), Wish::Read)];
            let found = reached.session.wait(&others, Some(left)).map_err(Fault::failed)?;
            if found[0].readable {
                return Ok(None);
            }
        }
    }
}

fn number(n: &Int) -> i64 {
    match n {
        Int::Small(n) => *n,
        Int::Big(_) => i64::MAX,
    }
}

fn in_words(audited: &Audited) -> String {
    format!(
        "balanced: {} accounts owe {} units, and so much waits; {} connections; nothing moved for {:.3} ms\n",
        number(&audited.accounts),
        number(&audited.debt),
        number(&audited.connections),
        audited.paused.0 * 1e3
    )
}

fn as_json(audited: &Audited) -> String {
    let all = json!({
        "debt": number(&audited.debt),
        "outstanding": number(&audited.outstanding),
        "accounts": number(&audited.accounts),
        "connections": number(&audited.connections),
        "paused": audited.paused.0,
    });
    format!("{all}\n")
}

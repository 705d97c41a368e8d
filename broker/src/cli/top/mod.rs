//! `staunch top`: who owes, who holds, who does what, on a terminal or as lines.
//!
//! An ordinary client of the ledger, by whatever capability to it; it may run anywhere.
//!
//! # Layout
//! - here: the flags, and the loop that waits for the broker and for keys.
//! - `model`: what the ledger says. `order`: by what connections are sorted.
//! - `amount`: numbers that fit into columns.
//! - `plain`: as text and as JSON. `screen`: on a terminal.

mod amount;
mod model;
mod order;
mod plain;
mod screen;

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use staunch_system::wait::Wish;

use super::Fault;
use super::interrupt::Interrupt;
use super::manual::print;
use super::reach::{LedgerReach, Reached};

use model::Model;
use order::Order;
use screen::{Screen, Wanted};

/// How often the screen is drawn if nothing is told: times go on.
const REDRAW_EVERY: Duration = Duration::from_millis(500);
/// After so many updates there are rates.
const UPDATES_FOR_RATES: u64 = 2;

/// Show who owes what and who holds it: a view of a broker that runs.
#[derive(clap::Args)]
#[command(long_about = "\
Show who owes what and who holds it: a view of a broker that runs.

A connection owes for what it has sent and others have not read yet: bytes, and 32 for each event. One that owes more \
than it may is held back: it is not read until half is repaid. Those who do not read hold what others owe.

This needs a reference to the broker's ledger, not to its dataspace. Who may read the broker's key can make one: \
`staunch ref mint --oid '\"ledger\"'`. With `staunch serve --dev` none is needed.")]
#[command(after_long_help = "\
Keys:
  o h i u e n s   sort by what a connection owes, holds, reads (in), is sent (out),
                  causes (events), by name, or by how long it is held back
  r               the other way round
  up down         scroll; also k and j, page up and page down
  space           stand still, and go on
  q               end; also Esc and Ctrl-C

Columns:
  OWES  %   what it owes, and how much of what it may that is
  HOLDS     what waits for it, which others owe
  IN/s      bytes read from it; OUT/s bytes that it has taken; EV/s events that
            others got because of it
  STATE     for how long it is held back, and why: \"debt\" for what it owes,
            \"room\" since too much waits for somebody it sends to, \"left\" for what
            its principal's earlier connections owe; or \"gone\"

Below are those who hold, whose debts, and since when something has waited. A cycle
is shown in red: connections that wait for each other, and of which none reads.

JSON has an object for each update, a line each: broker, accounts, holdings,
principals (what those that have gone still owe) and cycles. Units, bytes and
counts are numbers, times are seconds since 1970.

Examples:
  staunch top
  staunch top --once --sort holds
  staunch top --json --once | jq '.holdings[0]'
  staunch top --connect tcp:192.0.2.7:9001 --ref-file ledger.ref

Environment:
  STAUNCH_CONNECT     Where the broker is
  STAUNCH_LEDGER_REF  The reference to its ledger
  NO_COLOR            No colours

Status: 0, also after Ctrl-C; 1 if the broker goes away or tells nothing; 2 if the
command makes no sense.")]
pub(super) struct Top {
    /// Print a table once, and end; so it is, too, where standard output is no terminal
    #[arg(long)]
    once: bool,
    /// Print JSON, an object a line for each update
    #[arg(long)]
    json: bool,
    /// By what connections are sorted
    #[arg(long, value_enum, default_value_t = Order::Owes)]
    sort: Order,
    #[command(flatten)]
    reach: LedgerReach,
}

impl Top {
    pub(super) fn run(self) -> Result<(), Fault> {
        let Top { once, json, sort, reach } = self;
        let mut reached = reach.open()?;
        let interrupt = Interrupt::catch().map_err(Fault::failed)?;
        let mut model = Model::observe(&mut reached.session);
        // A look at nothing would be puzzling.
        let start = Instant::now();
        let first = if once { UPDATES_FOR_RATES } else { 1 };
        while model.updates() < first {
            let left = reached.timeout.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Err(silence(&reached));
            }
            if !step(&mut reached, &mut model, &interrupt, left)? {
                return Ok(());
            }
        }
        if json {
            return follow(&mut reached, &mut model, &interrupt, sort, once);
        }
        if once || !io::stdout().is_terminal() {
            while model.updates() < UPDATES_FOR_RATES {
                if !step(&mut reached, &mut model, &interrupt, REDRAW_EVERY)? {
                    return Ok(());
                }
            }
            return print(plain::table(&model, sort).as_bytes());
        }
        let mut screen = Screen::open(&reached.address.to_string(), sort).map_err(Fault::failed)?;
        let shown = show(&mut reached, &mut model, &interrupt, &mut screen);
        drop(screen);
        shown
    }
}

/// Prints each update as JSON, or one.
fn follow(
    reached: &mut Reached,
    model: &mut Model,
    interrupt: &Interrupt,
    sort: Order,
    once: bool,
) -> Result<(), Fault> {
    loop {
        let told = model.updates();
        print(plain::json(model, sort).as_bytes())?;
        if once {
            return Ok(());
        }
        while model.updates() == told {
            if !step(reached, model, interrupt, REDRAW_EVERY)? {
                return Ok(());
            }
        }
    }
}

/// Hears what the broker has to say, for up to so long. Returns false after a signal.
fn step(
    reached: &mut Reached,
    model: &mut Model,
    interrupt: &Interrupt,
    patience: Duration,
) -> Result<bool, Fault> {
    let heard =
        reached.session.flush().and_then(|()| reached.session.hear(|oid, event| model.hear(oid, event)));
    if heard.map_err(|error| reached.fault(&error))? {
        return Ok(true);
    }
    let others = [(interrupt.as_fd(), Wish::Read)];
    let found = reached.session.wait(&others, Some(patience)).map_err(Fault::failed)?;
    Ok(!found[0].readable)
}

/// Shows it on a terminal, until somebody has seen enough.
fn show(
    reached: &mut Reached,
    model: &mut Model,
    interrupt: &Interrupt,
    screen: &mut Screen,
) -> Result<(), Fault> {
    loop {
        screen.draw(model).map_err(Fault::failed)?;
        let stdin = io::stdin();
        let heard =
            reached.session.flush().and_then(|()| reached.session.hear(|oid, event| model.hear(oid, event)));
        if !heard.map_err(|error| reached.fault(&error))? {
            let others = [(interrupt.as_fd(), Wish::Read), (stdin.as_fd(), Wish::Read)];
            let found = reached.session.wait(&others, Some(REDRAW_EVERY)).map_err(Fault::failed)?;
            if found[0].readable || found[1].hangup {
                return Ok(());
            }
        }
        if screen.take_keys(model).map_err(Fault::failed)? == Wanted::End {
            return Ok(());
        }
    }
}

fn silence(reached: &Reached) -> Fault {
    Fault::Failed(format!(
        "{}: nothing is told there. Is the reference one to the ledger? `staunch ref mint --oid '\"ledger\"'` prints it, to \
         those who may read the broker's key",
        reached.address
    ))
}

//! The command line: what can be asked for, and who does it.
//!
//! # Layout
//! - `serve`, `stdio`, `key`: the broker, on standard input and output too, and the secret that its references are
//!   signed with.
//! - `config`: its configuration file. `life`: its signals and its service manager. `inherit`: sockets from there.
//! - `advice`: what to do when it cannot start or listen, and what is likely not meant.
//! - `reference`: `staunch ref`.
//! - `top`, `audit`: who owes what, on a terminal; and whether it adds up.
//! - `observe`, `hold`, `send`, `sync`: clients for people and scripts.
//! - `reach`: which broker these speak to, by which reference, and what to do if that fails.
//! - `allowed`: what that reference lets pass.
//! - `pattern`, `value`, `json`, `lines`: what people write, and what they are shown.
//! - `interrupt`, `logging`: signals and logs.
//! - `manual`: completions and manual pages, made from the definitions of the flags.

mod advice;
mod allowed;
mod audit;
mod config;
mod hold;
mod inherit;
mod interrupt;
mod json;
mod key;
mod life;
mod lines;
mod logging;
mod manual;
mod observe;
mod pattern;
mod reach;
mod reference;
mod send;
mod serve;
mod stdio;
mod sync;
#[cfg(feature = "top")]
mod top;
mod value;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::tour;

/// The command line.
#[derive(Parser)]
#[command(name = "staunch", version, arg_required_else_help = true)]
#[command(about = "A message broker for Linux that speaks the Syndicate protocol")]
#[command(after_help = "\
New here? `staunch tour` takes ten seconds and needs nothing. To try it by hand:
  staunch serve --dev                       in one terminal,
  staunch observe '<Says $who $what>'       in another,
  staunch send '<Says \"ann\" \"hello\">'       in a third.")]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// What each is for stands with its flags.
#[derive(Subcommand)]
enum Command {
    /// Watch it work: a consumer stops reading, its producer is throttled, nothing is lost.
    ///
    /// Starts a broker on a loopback port and connects six clients to it. What it tells it has measured; it ends
    /// with status 0 if every message has come through once and in order, and with 1 otherwise.
    Tour(tour::Options),
    Serve(Box<serve::Serve>),
    Observe(observe::Observe),
    Assert(hold::Assert),
    Send(send::Send),
    Sync(sync::Sync),
    #[cfg(feature = "top")]
    Top(top::Top),
    Audit(audit::Audit),
    #[command(subcommand)]
    Ref(reference::Reference),
    Completions(manual::Completions),
    Man(manual::Man),
}

/// Why a command does not do what it was asked for.
#[derive(Debug)]
pub(crate) enum Fault {
    /// It was asked for something that makes no sense. Status 2, as for flags that do not exist.
    Usage(String),
    /// It did not work out. Status 1.
    Failed(String),
}

impl Fault {
    /// From anything that says what went wrong.
    pub(crate) fn failed(error: impl std::fmt::Display) -> Fault {
        Fault::Failed(error.to_string())
    }
}

impl Cli {
    /// Does what was asked for.
    pub(crate) fn run(self) -> ExitCode {
        logging::start(if matches!(self.command, Command::Serve(_)) { "info" } else { "warn" });
        let done = match self.command {
            Command::Tour(options) => tour(&options),
            Command::Serve(serve) => serve.run(),
            Command::Observe(observe) => observe.run(),
            Command::Assert(assert) => assert.run(),
            Command::Send(send) => send.run(),
            Command::Sync(sync) => sync.run(),
            #[cfg(feature = "top")]
            Command::Top(top) => top.run(),
            Command::Audit(audit) => audit.run(),
            Command::Ref(reference) => reference.run(),
            Command::Completions(completions) => completions.run(),
            Command::Man(man) => man.run(),
        };
        let (message, status) = match done {
            Ok(()) => return ExitCode::SUCCESS,
            Err(Fault::Failed(message)) => (message, 1),
            Err(Fault::Usage(message)) => (message, 2),
        };
        eprintln!("staunch: {message}");
        ExitCode::from(status)
    }
}

fn tour(options: &tour::Options) -> Result<(), Fault> {
    match options.run().map_err(Fault::failed)? {
        Some(kept) => {
            life::run(|| Ok(life::Life { server: kept.announce(), drain: Duration::ZERO, reload: None }))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definitions_are_consistent() {
        Cli::command().debug_assert();
    }
}

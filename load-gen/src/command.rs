//! The commands beside the fixed scenarios: scenario files, reports, the proof.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::client::{Address, Error, doing};
use crate::crew::member;
use crate::driver::launch::Origin;
use crate::driver::{self, KINDS};
use crate::outcome::{self, Outcome};
use crate::page;
use crate::play::Stagehand;
use crate::prove::{self, Form};
use crate::screen::Screen;
use crate::script::Script;
use crate::verdict::Strictness;

/// What is told of these commands in the help of all.
pub const OVERVIEW: &str = "\
Scenario files, reports, and the proof (each has its own --help):
  run FILE...                   Plays scenarios from files, against one broker or several
  check FILE...                 Reads scenario files, and says what is wrong with them
  report OUT.html RESULT.json...
                                Makes one page of results, brokers side by side
  prove --broker PROGRAM        Saturates a broker in a fixed set of ways, and fails if it
                                loses, reorders, grows, or does not throttle
  brokers                       Lists the kinds of brokers, and which are installed";

/// Names of these commands.
const NAMES: [&str; 6] = ["run", "check", "report", "prove", "brokers", "member"];

/// Plays scenario files against brokers, and proves what must hold.
#[derive(Debug, Parser)]
#[command(name = "staunch-load", version, max_term_width = 110)]
pub struct Commands {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Play scenarios from files, against one broker or several
    ///
    /// Each broker is started for each repetition, in a directory of its own and on a free port, and ended afterwards.
    /// Those that are not installed are left out, with a word about it. What each key of a file means is told in the
    /// documentation of staunch_load::script; examples are in load-gen/scenarios.
    ///
    /// The exit status is 0 if every property holds on every broker, 1 if not, and 2 if something could not be run.
    Run(Run),
    /// Read scenario files, and say what is wrong with them
    Check {
        /// Scenario files
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Make one page of results, brokers side by side
    ///
    /// The page needs nothing else: it can be sent, kept, or put on the web as it is.
    Report {
        /// The page to be written
        #[arg(value_name = "OUT.html")]
        out: PathBuf,
        /// What `run --out` or `prove --out` wrote
        #[arg(required = true, value_name = "RESULT.json")]
        results: Vec<PathBuf>,
        /// Write verdicts and figures, without the plots, as JSON too
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// Saturate a broker in a fixed set of ways, and fail if it loses, reorders, grows, or does not throttle
    ///
    /// It starts the broker itself, once for each scenario, on a free port and in a directory of its own. The exit
    /// status is 0 if every property holds, 1 if one does not, and 2 if something could not be run.
    Prove(Prove),
    /// List the kinds of brokers, and which are installed
    Brokers,
    /// Carry a part of the load, as ordered on standard input
    #[command(hide = true)]
    Member,
}

#[derive(Debug, Args)]
struct Run {
    /// Scenario files
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// A broker: a kind, as `brokers` lists them, with the program if it is not in PATH, or with the address of one
    /// that runs already. May be given more than once
    #[arg(long, required = true, value_name = "KIND[=PROGRAM|@ADDRESS]", value_parser = broker)]
    broker: Vec<Origin>,
    /// A further argument for each broker that is started. May be given more than once
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    broker_arg: Vec<String>,
    /// The process of a broker that runs already: its memory and processor time are read
    #[arg(long, value_name = "PID")]
    broker_pid: Option<u32>,
    /// Repetitions of each; figures are means with 95% confidence intervals
    #[arg(long, default_value = "1", value_name = "N")]
    repeat: NonZeroUsize,
    /// Make all times in the files so many times as long
    #[arg(long, default_value = "1", value_name = "TIMES", value_parser = times)]
    stretch: f64,
    /// Tell times and do not judge them: for machines that have something else to do
    #[arg(long)]
    no_times: bool,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
struct Prove {
    /// The program: that of staunch, unless --kind says otherwise
    #[arg(long, value_name = "PROGRAM")]
    broker: String,
    /// The kind of broker
    #[arg(long, default_value = "staunch", value_name = "KIND", value_parser = kind)]
    kind: &'static dyn driver::Driver,
    /// A further argument for the broker. May be given more than once
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    broker_arg: Vec<String>,
    /// About two minutes; times are told and not judged, so that it can run on a machine that is busy
    #[arg(long, conflicts_with = "soak")]
    short: bool,
    /// Again and again for an hour
    #[arg(long)]
    soak: bool,
    /// Only scenarios with this in their file's name. May be given more than once
    #[arg(long, value_name = "PART")]
    only: Vec<String>,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
struct Output {
    /// A folder for results, one JSON file for each scenario and broker
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// A page with plots and verdicts
    #[arg(long, value_name = "OUT.html")]
    html: Option<PathBuf>,
    /// Verdicts and figures as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Show the progress line even if standard error is not a terminal
    #[arg(long)]
    progress: bool,
}

/// `KIND`, `KIND=PROGRAM` or `KIND@ADDRESS`.
fn broker(text: &str) -> Result<Origin, String> {
    let (kind_text, rest) = match text.find(['=', '@']) {
        None => (text, ""),
        Some(at) => text.split_at(at),
    };
    let driver = kind(kind_text)?;
    let address = |text: &str| text.parse::<Address>();
    Ok(Origin {
        driver,
        program: rest.strip_prefix('=').map(str::to_owned),
        args: vec![],
        running: rest.strip_prefix('@').map(address).transpose()?,
        pid: None,
    })
}

fn kind(text: &str) -> Result<&'static dyn driver::Driver, String> {
    driver::of(text).ok_or_else(|| format!("the kinds of brokers are {}", KINDS.join(", ")))
}

fn times(text: &str) -> Result<f64, String> {
    let times: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.1..=1000.0).contains(&times) { Ok(times) } else { Err("must be from 0.1 to 1000".into()) }
}

impl Commands {
    /// Whether the first argument names one of these commands.
    pub fn are_meant(args: &[std::ffi::OsString]) -> bool {
        args.get(1).and_then(|arg| arg.to_str()).is_some_and(|arg| NAMES.contains(&arg))
    }

    /// Runs what was asked for; gives what is to be printed, and whether all is as it should be.
    pub fn run(&self) -> Result<(String, bool), Error> {
        match &self.command {
            Command::Run(run) => run.run(),
            Command::Check { files } => check(files),
            Command::Report { out, results, json } => {
                let outcomes =
                    results.iter().map(|path| Outcome::read(path)).collect::<Result<Vec<_>, _>>()?;
                write(out, &page::html(&outcomes))?;
                json.as_ref().map_or(Ok(()), |path| write(path, &page::json(&outcomes)))?;
                Ok((String::new(), true))
            }
            Command::Prove(prove) => prove.run(),
            Command::Brokers => Ok((brokers(), true)),
            Command::Member => member::run().map(|()| (String::new(), true)),
        }
    }
}

fn check(files: &[PathBuf]) -> Result<(String, bool), Error> {
    let mut out = String::new();
    for path in files {
        let script = Script::read(path)?;
        let clients: Vec<String> = script.groups.iter().map(|g| format!("{} {}", g.count, g.name)).collect();
        let line =
            format!("{}: {}: {} s, {}\n", path.display(), script.name, script.duration_s, clients.join(", "));
        out.push_str(&line);
    }
    Ok((out, true))
}

fn brokers() -> String {
    let line = |kind: &&str| {
        let driver = driver::of(kind).expect("it is one of them");
        let is = if driver::is_installed(driver.program()) { "installed" } else { "not installed" };
        format!("{kind:18} {:18} {is}\n", driver.program())
    };
    KINDS.iter().map(line).collect()
}

/// This program, and the progress line.
fn stagehand(output: &Output) -> Result<Stagehand, Error> {
    let program = std::env::current_exe().map_err(doing("looking for this program"))?;
    Ok(Stagehand { program, screen: Screen::new(output.progress) })
}

fn write(path: &PathBuf, text: &str) -> Result<(), Error> {
    std::fs::write(path, text).map_err(doing(&format!("writing {}", path.display())))
}

/// A name for a file: letters, digits and -.
fn file_name(text: &str) -> String {
    let name: String = text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    name.split('-').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-")
}

impl Output {
    /// Makes the folder, so that what cannot be written is known before anything is run.
    fn prepare(&self) -> Result<(), Error> {
        match &self.out {
            None => Ok(()),
            Some(dir) => std::fs::create_dir_all(dir).map_err(doing(&format!("making {}", dir.display()))),
        }
    }

    fn keep(&self, outcome: &Outcome) -> Result<(), Error> {
        let Some(dir) = &self.out else { return Ok(()) };
        outcome.write(&dir.join(format!("{}.{}.json", file_name(&outcome.scenario), outcome.broker.kind)))
    }

    fn finish(&self, outcomes: &[Outcome]) -> Result<(), Error> {
        self.html.as_ref().map_or(Ok(()), |path| write(path, &page::html(outcomes)))?;
        self.json.as_ref().map_or(Ok(()), |path| write(path, &page::json(outcomes)))
    }
}

impl Run {
    fn run(&self) -> Result<(String, bool), Error> {
        let scripts = self.files.iter().map(|f| Script::read(f)).collect::<Result<Vec<_>, _>>()?;
        let mut origins = vec![];
        for origin in &self.broker {
            if origin.is_available() {
                origins.push(Origin {
                    args: self.broker_arg.clone(),
                    pid: self.broker_pid,
                    ..origin.clone()
                });
            } else {
                let kind = origin.driver.kind();
                eprintln!("!!! {kind} is LEFT OUT: there is no program {}", origin.program());
            }
        }
        if origins.is_empty() {
            return Err(Error::Usage("none of these brokers is installed".into()));
        }
        self.output.prepare()?;
        let stagehand = stagehand(&self.output)?;
        let strictness = if self.no_times { Strictness::NoTimes } else { Strictness::All };
        let mut outcomes = vec![];
        for script in scripts {
            let script = script.stretched(self.stretch);
            for origin in &origins {
                let outcome = outcome::run(&stagehand, &script, origin, self.repeat.get(), strictness)?;
                println!("{}", outcome.table());
                self.output.keep(&outcome)?;
                outcomes.push(outcome);
            }
        }
        self.output.finish(&outcomes)?;
        Ok((String::new(), outcomes.iter().all(Outcome::holds)))
    }
}

impl Prove {
    fn run(&self) -> Result<(String, bool), Error> {
        self.output.prepare()?;
        let origin = Origin {
            driver: self.kind,
            program: Some(self.broker.clone()),
            args: self.broker_arg.clone(),
            running: None,
            pid: None,
        };
        let form = match (self.short, self.soak) {
            (true, _) => Form::Short,
            (_, true) => Form::Soak,
            _ => Form::Usual,
        };
        let stagehand = stagehand(&self.output)?;
        let outcomes =
            prove::run(&stagehand, &origin, form, &self.only, |outcome| self.output.keep(outcome))?;
        self.output.finish(&outcomes)?;
        Ok((prove::table(&outcomes, form), outcomes.iter().all(Outcome::holds)))
    }
}

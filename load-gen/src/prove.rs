//! The proof: a fixed set of ways to saturate a broker, and what must hold in each.

use std::fmt::Write;
use std::time::{Duration, Instant};

use crate::client::Error;
use crate::driver::launch::Origin;
use crate::outcome::{self, Outcome};
use crate::play::Stagehand;
use crate::script::Script;
use crate::verdict::{Status, Strictness};

/// How thoroughly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// About two minutes, without judging times.
    Short,
    /// Some minutes.
    Usual,
    /// An hour.
    Soak,
}

/// How long the soak lasts.
const SOAK: Duration = Duration::from_secs(3600);

/// The scenarios: names of files, and their text. They can be played by themselves, too: `staunch-load run`.
const SCENARIOS: [(&str, &str); 9] = [
    ("stopped-consumer", include_str!("../scenarios/prove/stopped-consumer.toml")),
    ("reconnecting-producer", include_str!("../scenarios/prove/reconnecting-producer.toml")),
    ("overload", include_str!("../scenarios/prove/overload.toml")),
    ("crowd", include_str!("../scenarios/prove/crowd.toml")),
    ("quiet-pair", include_str!("../scenarios/prove/quiet-pair.toml")),
    ("slow-consumer", include_str!("../scenarios/prove/slow-consumer.toml")),
    ("killed-consumer", include_str!("../scenarios/prove/killed-consumer.toml")),
    ("relayed", include_str!("../scenarios/prove/relayed.toml")),
    ("connections", include_str!("../scenarios/prove/connections.toml")),
];

/// All scenarios of the proof, by name.
pub fn scripts() -> Result<Vec<(&'static str, Script)>, Error> {
    SCENARIOS.iter().map(|(name, text)| Ok((*name, Script::parse(text, name)?))).collect()
}

/// Plays all (or those with one of `only` in their names); `keep` is told of each as it ends.
pub fn run(
    stagehand: &Stagehand,
    origin: &Origin,
    form: Form,
    only: &[String],
    mut keep: impl FnMut(&Outcome) -> Result<(), Error>,
) -> Result<Vec<Outcome>, Error> {
    let (stretch, strictness) = match form {
        Form::Short => (1.0, Strictness::NoTimes),
        Form::Usual => (3.0, Strictness::All),
        Form::Soak => (6.0, Strictness::All),
    };
    let is_asked = |name: &str| only.is_empty() || only.iter().any(|part| name.contains(part.as_str()));
    let clients = clients_max();
    let asked = scripts()?.into_iter().filter(|(name, _)| is_asked(name));
    let scripts: Vec<Script> = asked.map(|(_, s)| s.stretched(stretch).limited(clients)).collect();
    if scripts.is_empty() {
        let names: Vec<&str> = SCENARIOS.iter().map(|(name, _)| *name).collect();
        return Err(Error::Usage(format!("no scenario is called like that; there are {}", names.join(", "))));
    }
    let start = Instant::now();
    let mut outcomes: Vec<Outcome> = vec![];
    loop {
        for script in &scripts {
            let outcome = outcome::run(stagehand, script, origin, 1, strictness)?;
            eprintln!("{}: {}", outcome.scenario, if outcome.holds() { "holds" } else { "FAILS" });
            keep(&outcome)?;
            // Of a soak each scenario's worst is kept.
            match outcomes.iter_mut().find(|o| o.scenario == outcome.scenario) {
                Some(known) if known.holds() && !outcome.holds() => *known = outcome,
                Some(_) => {}
                None => outcomes.push(outcome),
            }
        }
        if form != Form::Soak || start.elapsed() >= SOAK {
            return Ok(outcomes);
        }
    }
}

/// How many clients a group may have, by the descriptors that processes may have here. Brokers want some of their own,
/// and may keep some from a single user.
fn clients_max() -> usize {
    let hard = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    hard.map_or(usize::MAX, |n| (n as usize * 3 / 5).saturating_sub(100).max(10))
}

/// All properties of all scenarios, and what decided them.
pub fn table(outcomes: &[Outcome], form: Form) -> String {
    let mut out = String::new();
    for outcome in outcomes {
        let _ = writeln!(out, "{}", outcome.table());
    }
    let all = || outcomes.iter().flat_map(|o| &o.verdicts);
    let count = |status| all().filter(|v| v.status == status).count();
    let (holding, failing, told) = (count(Status::Holds), count(Status::Fails), count(Status::NotJudged));
    let _ = write!(out, "{} scenarios: {holding} properties hold, {failing} fail", outcomes.len());
    if form == Form::Short {
        let _ = write!(out, "; the short form tells times and does not judge them ({told} told only)");
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_scenarios_can_be_read() {
        let all = scripts().unwrap();
        let length: f64 = all.iter().map(|(_, s)| s.duration_s).sum();
        assert!(length <= 75.0, "the short form takes {length} s of sending alone");
        assert!(all.iter().all(|(_, s)| !s.about.is_empty()));
    }
}

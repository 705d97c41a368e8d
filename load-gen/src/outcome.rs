//! The result of a scenario on one broker: all repetitions, intervals, verdicts, and where it comes from. This is what
//! is written as JSON, and what reports are made from.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::client::{Error, doing};
use crate::driver::launch::{Identity, Origin};
use crate::figures::{self, Figures};
use crate::play::environment::Environment;
use crate::play::series::Series;
use crate::play::{Play, Stagehand};
use crate::report::fine;
use crate::script::{Role, Script};
use crate::verdict::{Status, Strictness, Verdict, judge, worst};

/// Tells these files from others, and their versions from each other.
pub const FORMAT: &str = "staunch-load outcome 1";

/// See the module's head.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// [`FORMAT`].
    pub format: String,
    /// The scenario's name.
    pub scenario: String,
    /// Why it is run.
    pub about: String,
    /// Its whole text.
    pub text: String,
    /// How many times as long as in the text everything took.
    pub stretch: f64,
    /// For how long producers sent, in seconds.
    pub duration_s: f64,
    /// When somebody stalled, in seconds from the start.
    pub stall_s: Option<(f64, f64)>,
    /// What ran.
    pub broker: Identity,
    /// Where.
    pub environment: Environment,
    /// The command line of the load generator.
    pub command: Vec<String>,
    /// Rates that were found by measuring the capacity first, by group; per client and second.
    pub rates: BTreeMap<String, f64>,
    /// What is said of each property; of several repetitions the worst.
    pub verdicts: Vec<Verdict>,
    /// Means over the repetitions.
    pub figures: BTreeMap<String, Estimate>,
    /// In order.
    pub repetitions: Vec<Repetition>,
}

/// One repetition.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Repetition {
    /// Figures by name.
    pub figures: Figures,
    /// Over time.
    pub series: Series,
    /// Why connections ended that should not have: group, and why.
    pub reasons: Vec<(String, String)>,
}

/// A mean and how well it is known.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// Over all repetitions.
    pub mean: f64,
    /// With 95% confidence (Student's t) the true mean is within so much of it. `null` for a single repetition.
    pub within: Option<f64>,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
    /// Repetitions that have it.
    pub count: usize,
}

/// Two-sided 95% quantiles of Student's distribution, for 1, 2, ... degrees of freedom.
const STUDENT: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
];

impl Estimate {
    /// Of at least one value.
    pub fn of(values: &[f64]) -> Estimate {
        let n = values.len();
        let mean = values.iter().sum::<f64>() / n as f64;
        let within = (n > 1).then(|| {
            let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1) as f64;
            let t = STUDENT.get(n - 2).copied().unwrap_or(1.960);
            t * (variance / n as f64).sqrt()
        });
        let min = values.iter().copied().fold(f64::INFINITY, f64::min);
        let max = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        Estimate { mean, within, min, max, count: n }
    }
}

/// Plays a scenario so many times, each time on a broker of its own (if it can be started), and judges.
pub fn run(
    stagehand: &Stagehand,
    script: &Script,
    origin: &Origin,
    repetitions: usize,
    strictness: Strictness,
) -> Result<Outcome, Error> {
    let environment = Environment::capture();
    let (mut all, mut verdicts, mut identity, mut rates) =
        (vec![], vec![], Identity::default(), BTreeMap::new());
    for _ in 0..repetitions {
        let (play, broker) = stagehand.play(script, origin)?;
        identity = broker;
        let repetition = Repetition::of(script, &play);
        let mut judged = judge(script, &repetition.figures, strictness);
        if let Some(death) = &play.death {
            judged[0].status = Status::Fails;
            judged[0].because = format!("the broker ended: {death}");
        }
        verdicts.push(judged);
        all.push(repetition);
        let named = script.groups.iter().zip(&play.rates);
        rates = named.filter_map(|(g, rate)| Some((g.name.clone(), (*rate)?))).collect();
    }
    let mut values: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for (name, value) in all.iter().flat_map(|r| &r.figures) {
        values.entry(name.clone()).or_default().push(*value);
    }
    Ok(Outcome {
        format: FORMAT.into(),
        scenario: script.name.clone(),
        about: script.about.clone(),
        text: script.text.clone(),
        stretch: script.stretch,
        duration_s: script.duration_s,
        stall_s: script.stall(),
        broker: identity,
        environment,
        command: std::env::args().collect(),
        rates,
        verdicts: worst(&verdicts),
        figures: values.into_iter().map(|(name, v)| (name, Estimate::of(&v))).collect(),
        repetitions: all,
    })
}

impl Repetition {
    fn of(script: &Script, play: &Play) -> Repetition {
        let clients: Vec<usize> = script.groups.iter().map(|g| g.count).collect();
        let mut series = play.record.series(&clients);
        for (group, series) in script.groups.iter().zip(&mut series.groups) {
            series.name.clone_from(&group.name);
            series.innocent = group.is_innocent;
            series.role = match group.role {
                Role::Producer(_) => "producer",
                Role::Relay(_) => "relay",
                Role::Consumer(_) => "consumer",
            }
            .into();
        }
        // What is lost behind the last that came shows only in the end.
        for ending in &play.endings {
            let group = &mut series.groups[ending.group];
            if let Some(last) = group.lost.last_mut() {
                *last = last.max(ending.faults.lost as f64);
            }
        }
        let name = |group: usize| script.groups[group].name.clone();
        let reasons = play.endings.iter().flat_map(|e| e.reasons.iter().map(|r| (name(e.group), r.clone())));
        Repetition { figures: figures::of(script, play), series, reasons: reasons.collect() }
    }
}

impl Outcome {
    /// Whether no property fails.
    pub fn holds(&self) -> bool {
        self.verdicts.iter().all(|v| v.status != Status::Fails)
    }

    /// Reads what was written.
    pub fn read(path: &Path) -> Result<Outcome, Error> {
        let shown = path.display();
        let text = std::fs::read_to_string(path).map_err(doing(&format!("reading {shown}")))?;
        let outcome: Outcome = serde_json::from_str(&text)
            .map_err(|e| Error::Usage(format!("{shown} is no result of `staunch-load run --out`: {e}")))?;
        if outcome.format == FORMAT && !outcome.repetitions.is_empty() {
            return Ok(outcome);
        }
        Err(Error::Usage(format!(
            "{shown} is no result that this version reads: its format is {:?}",
            outcome.format
        )))
    }

    /// Writes it as JSON.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let json = serde_json::to_vec(self).expect("outcomes have string keys");
        std::fs::write(path, json).map_err(doing(&format!("writing {}", path.display())))
    }

    /// The verdicts and the main figures, for a terminal.
    pub fn table(&self) -> String {
        let mut out = String::new();
        let version = if self.broker.version.is_empty() { "" } else { &self.broker.version };
        let _ = writeln!(out, "{} on {} ({version})", self.scenario, self.broker.kind);
        let applicable = || self.verdicts.iter().filter(|v| v.status != Status::NotApplicable);
        let width = applicable().map(|v| v.question.len()).max().unwrap_or(0);
        for v in applicable() {
            let _ = writeln!(out, "  {:9} {:width$}  {}", v.status.word(), v.question, v.because);
        }
        for (group, reason) in self.repetitions.iter().flat_map(|r| &r.reasons).take(5) {
            let _ = writeln!(out, "            {group}, {reason}");
        }
        for (name, unit) in [("accepted_per_s", "accepted/s"), ("delivered_per_s", "delivered/s")] {
            let Some(e) = self.figures.get(name) else { continue };
            let within = e.within.map_or(String::new(), |w| format!(" +- {} (95% of {})", fine(w), e.count));
            let _ = writeln!(out, "  {:>9} {unit}{within}", fine(e.mean));
        }
        out
    }
}

impl Status {
    /// For a terminal.
    pub fn word(self) -> &'static str {
        match self {
            Status::Holds => "holds",
            Status::Fails => "FAILS",
            Status::NotJudged => "(told)",
            Status::NotApplicable => "-",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_student_s() {
        assert_eq!(Estimate::of(&[5.0]).within, None);
        let e = Estimate::of(&[10.0, 12.0, 14.0]);
        assert_eq!((e.mean, e.min, e.max, e.count), (12.0, 10.0, 14.0, 3));
        assert!((e.within.unwrap() - 4.303 * (4.0f64 / 3.0).sqrt()).abs() < 1e-9);
    }
}

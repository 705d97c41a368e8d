//! Judges what a play came to, one property after the other, and says by which numbers.

use serde::{Deserialize, Serialize};

use crate::figures::Figures;
use crate::script::{Reads, Script};

/// Most growth of the broker's memory, unless the scenario says otherwise.
const MEMORY_GROWTH_MIB: f64 = 64.0;

/// A producer that is throttled sends at most so much of what it sent before.
const THROTTLED_SHARE: f64 = 0.05;

/// Whom nobody touches goes on at least at so much of the rate before.
const INNOCENT_SHARE: f64 = 0.9;

/// The same, where times are not judged: it has not come to a halt.
const INNOCENT_SHARE_LAX: f64 = 0.3;

/// Latencies of innocents may grow so many times, and below this many microseconds they do not count as grown.
const INNOCENT_TIMES: f64 = 3.0;
const INNOCENT_P99_US: f64 = 5000.0;

/// Longest way back to the full rate, unless the scenario says otherwise.
const RECOVERY_S: f64 = 3.0;

/// The share of the rate before that it must get back to, where times are not judged.
const RECOVERED_SHARE_LAX: f64 = 0.1;

/// What is said of one property.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The scenario does not touch it.
    NotApplicable,
    /// It was measured, and is not judged: on this machine, now, times say little.
    NotJudged,
    /// It holds.
    Holds,
    /// It does not.
    Fails,
}

/// One property and what is said of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// A short name that stays the same.
    pub property: String,
    /// What is asked, for people.
    pub question: String,
    /// The answer.
    pub status: Status,
    /// The numbers that decided it.
    pub because: String,
}

/// What is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strictness {
    /// Times, too.
    All,
    /// Everything but times and shares of rates, which a busy machine spoils.
    NoTimes,
}

/// Judges one property by figures.
type Judge = fn(&Script, &Figures, Strictness) -> (Status, String);

/// The properties, in the order in which they are told.
const PROPERTIES: [(&str, &str, Judge); 8] = [
    ("complete", "nothing lost, doubled or out of order?", complete),
    ("connected", "nobody disconnected?", connected),
    ("bounded", "memory bounded?", bounded),
    ("throttled", "producers throttled?", throttled),
    ("innocent", "innocents unaffected?", innocent),
    ("recovery", "full rate after the stall?", recovery),
    ("even", "equals treated evenly?", even),
    ("paced", "as fast as the slow reader?", paced),
];

/// Judges all.
pub fn judge(script: &Script, figures: &Figures, strictness: Strictness) -> Vec<Verdict> {
    let verdict = |(property, question, judge): &(&str, &str, Judge)| {
        let (status, because) = judge(script, figures, strictness);
        Verdict { property: (*property).into(), question: (*question).into(), status, because }
    };
    PROPERTIES.iter().map(verdict).collect()
}

/// Of several repetitions: of each property the worst that was said.
pub fn worst(all: &[Vec<Verdict>]) -> Vec<Verdict> {
    let mut out: Vec<Verdict> = all.first().cloned().unwrap_or_default();
    for verdicts in &all[1.min(all.len())..] {
        for (worst, verdict) in out.iter_mut().zip(verdicts) {
            if verdict.status > worst.status {
                worst.clone_from(verdict);
            }
        }
    }
    out
}

fn get(figures: &Figures, name: &str) -> f64 {
    figures.get(name).copied().unwrap_or(0.0)
}

fn holds(does: bool) -> Status {
    if does { Status::Holds } else { Status::Fails }
}

/// What is said of a time that has a bound.
fn within(most_s: f64, strictness: Strictness) -> String {
    match strictness {
        Strictness::All => format!("at most {most_s:.1} s"),
        Strictness::NoTimes => format!("at most {most_s:.1} s, which is not judged here"),
    }
}

/// For times: judged only if that is asked for.
fn timed(does: bool, strictness: Strictness) -> Status {
    if strictness == Strictness::All { holds(does) } else { Status::NotJudged }
}

fn nothing(why: &str) -> (Status, String) {
    (Status::NotApplicable, why.to_owned())
}

fn complete(_: &Script, f: &Figures, _: Strictness) -> (Status, String) {
    let kinds = ["lost", "duplicated", "reordered", "misdelivered", "damaged"];
    let wrong: Vec<String> = kinds
        .iter()
        .filter(|kind| get(f, kind) > 0.0)
        .map(|kind| format!("{} {kind}", count(get(f, kind))))
        .collect();
    let (accepted, delivered) = (count(get(f, "accepted")), count(get(f, "delivered")));
    match wrong.is_empty() {
        true if get(f, "accepted") == 0.0 => (Status::Fails, "nothing was accepted at all".into()),
        true => {
            (Status::Holds, format!("{accepted} accepted, {delivered} delivered, each once and in order"))
        }
        false => (Status::Fails, format!("{} of {accepted} accepted", wrong.join(", "))),
    }
}

fn connected(_: &Script, f: &Figures, _: Strictness) -> (Status, String) {
    match get(f, "disconnects") {
        0.0 => (Status::Holds, "the broker ended no connection".into()),
        1.0 => (Status::Fails, "the broker ended 1 connection".into()),
        n => (Status::Fails, format!("the broker ended {n:.0} connections")),
    }
}

fn bounded(script: &Script, f: &Figures, _: Strictness) -> (Status, String) {
    let Some(growth) = f.get("memory_growth_mib") else {
        return nothing("the broker's process is not known");
    };
    let most = script.expect.memory_growth.map_or(MEMORY_GROWTH_MIB, |b| b as f64 / 1048576.0);
    let text = format!(
        "grew by {growth:.1} MiB to {:.1} MiB, up to {:.1} of it in the kernel's queues (idle: {:.1}); at most by {most:.0} MiB",
        get(f, "memory_peak_mib"),
        get(f, "queued_peak_mib"),
        get(f, "memory_idle_mib"),
    );
    (holds(*growth <= most), text)
}

fn throttled(script: &Script, f: &Figures, strictness: Strictness) -> (Status, String) {
    if script.stall().is_none() {
        return nothing("nobody stalls");
    }
    if script.expect.is_unthrottled {
        return nothing("nobody stalls for long enough");
    }
    let (before, share) = (get(f, "reaching_before_per_s"), get(f, "reaching_stalled_share"));
    let after = f.get("throttled_after_s").copied();
    let mut text = format!("from {}/s to {}/s", count(before), count(get(f, "reaching_stalled_per_s")));
    text.push_str(&after.map_or(" all the time".into(), |after| format!(" after {after:.1} s")));
    let mut status = holds(share <= THROTTLED_SHARE && before > 0.0);
    if let (Some(most), Status::Holds) = (script.expect.throttled_within_s, status) {
        text.push_str(&format!("; {}", within(most, strictness)));
        // Half a step of the plots, which is how exactly it is known.
        if strictness == Strictness::All {
            status = holds(after.is_some_and(|after| after <= most + 0.1));
        }
    }
    (status, text)
}

fn innocent(script: &Script, f: &Figures, strictness: Strictness) -> (Status, String) {
    if !script.groups.iter().any(|g| g.is_innocent) {
        return match f.get("free_during_share") {
            None => nothing("everybody has to do with who stalls"),
            Some(share) => {
                let does =
                    *share >= if strictness == Strictness::All { INNOCENT_SHARE } else { INNOCENT_SHARE_LAX };
                let text = format!("who reaches nobody that stalls kept {:.0}% of the rate", share * 100.0);
                (holds(does), text)
            }
        };
    }
    let p99 = get(f, "innocent_latency_p99_us");
    let limit = script.expect.innocent_p99_s.map(|s| s * 1e6);
    let Some(share) = f.get("innocent_during_share") else {
        let text = format!(
            "p99 {}, p99.9 {}{}",
            time(p99),
            time(get(f, "innocent_latency_p999_us")),
            limit.map_or(String::new(), |l| format!("; at most {} for p99", time(l)))
        );
        return (limit.map_or(Status::NotJudged, |l| timed(p99 <= l && p99 > 0.0, strictness)), text);
    };
    let (before, during) = (get(f, "innocent_before_p99_us"), get(f, "innocent_during_p99_us"));
    let text =
        format!("kept {:.0}% of the rate; p99 {}, {} before", share * 100.0, time(during), time(before));
    let is_quick = during <= limit.unwrap_or(INNOCENT_P99_US).max(before * INNOCENT_TIMES);
    let does = match strictness {
        Strictness::All => *share >= INNOCENT_SHARE && is_quick,
        Strictness::NoTimes => *share >= INNOCENT_SHARE_LAX,
    };
    (holds(does), text)
}

fn recovery(script: &Script, f: &Figures, strictness: Strictness) -> (Status, String) {
    if script.stall().is_none() {
        return nothing("nobody stalls");
    }
    if script.expect.is_unthrottled || get(f, "reaching_stalled_share") > THROTTLED_SHARE {
        return nothing("nobody was throttled");
    }
    if get(f, "recovered") == 0.0 {
        let share = get(f, "recovered_share");
        let text =
            format!("to {:.0}% of the rate before, within {:.1} s", share * 100.0, get(f, "recovery_s"));
        // A machine that has got busy meanwhile is no reason to fail where times are not judged.
        return (holds(strictness == Strictness::NoTimes && share >= RECOVERED_SHARE_LAX), text);
    }
    let most = script.expect.recovery_s.unwrap_or(RECOVERY_S);
    let text = format!("back after {:.1} s; {}", get(f, "recovery_s"), within(most, strictness));
    let is_in_time = get(f, "recovery_s") <= most + 0.1;
    // That it recovers is judged in any case.
    (if strictness == Strictness::All { holds(is_in_time) } else { Status::Holds }, text)
}

fn even(script: &Script, f: &Figures, strictness: Strictness) -> (Status, String) {
    let (Some(most), Some(evenness)) = (script.expect.evenness, f.get("evenness")) else {
        return nothing("nobody is to be treated like another");
    };
    (
        timed(*evenness <= most, strictness),
        format!("most over least accepted {evenness:.2}; at most {most:.2}"),
    )
}

fn paced(script: &Script, f: &Figures, strictness: Strictness) -> (Status, String) {
    let reads = script.groups.iter().find_map(|g| g.consuming()?.reads);
    let (Some(reads), Some(share)) = (reads, f.get("share_of_reader")) else {
        return nothing("nobody reads slowly");
    };
    let least = script.expect.share_of_reader.unwrap_or(0.9);
    let speed = match reads {
        Reads::Messages(n) => format!("{} messages/s", count(n)),
        Reads::Bytes(n) => format!("{} bytes/s", count(n)),
    };
    let variation = f.get("accepted_variation");
    let text = format!(
        "producers sent {:.0}% of what it reads ({speed}){}",
        share * 100.0,
        variation.map_or(String::new(), |v| format!(", varying by {:.0}% over seconds", v * 100.0))
    );
    // Faster than it reads is not throttled, however exact the clock.
    if *share > 1.5 {
        return (Status::Fails, text);
    }
    (timed(*share >= least, strictness), text)
}

/// A count, with commas.
pub(crate) fn count(n: f64) -> String {
    let digits = format!("{n:.0}");
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A time given in microseconds.
pub(crate) fn time(us: f64) -> String {
    match us {
        us if us >= 1e6 => format!("{:.1} s", us / 1e6),
        us if us >= 1e4 => format!("{:.0} ms", us / 1e3),
        us if us >= 1e3 => format!("{:.1} ms", us / 1e3),
        us => format!("{us:.0} us"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STALL: &str = "name = 'x'\nduration = 6\n[[producers]]\nname = 'p'\ncount = 2\n[[producers]]\n\
        name = 'i'\ninnocent = true\n[[consumers]]\nname = 'c'\nfollows = ['p']\nstall = { from = 2, to = 4 }\n\
        [[consumers]]\nname = 'j'\nfollows = ['i']\ninnocent = true\n[expect]\nmemory_growth = '8MiB'\n\
        recovery = '300ms'\nthrottled_within = '1s'\nevenness = 1.2\n";

    const GOOD: [(&str, f64); 14] = [
        ("accepted", 1000.0),
        ("delivered", 1000.0),
        ("memory_growth_mib", 7.0),
        ("reaching_before_per_s", 100_000.0),
        ("reaching_stalled_share", 0.0),
        ("throttled_after_s", 0.4),
        ("recovered", 1.0),
        ("recovery_s", 0.2),
        ("evenness", 1.1),
        ("innocent_during_share", 1.0),
        ("innocent_before_p99_us", 100.0),
        ("innocent_during_p99_us", 120.0),
        ("innocent_latency_p99_us", 120.0),
        ("disconnects", 0.0),
    ];

    fn statuses(changes: &[(&str, f64)], strictness: Strictness) -> Vec<(String, Status)> {
        let script = Script::parse(STALL, "test").unwrap();
        let mut figures: Figures = GOOD.iter().map(|(n, v)| ((*n).to_owned(), *v)).collect();
        figures.extend(changes.iter().map(|(n, v)| ((*n).to_owned(), *v)));
        judge(&script, &figures, strictness).into_iter().map(|v| (v.property, v.status)).collect()
    }

    fn failing(changes: &[(&str, f64)], strictness: Strictness) -> Vec<String> {
        let all = statuses(changes, strictness);
        all.into_iter().filter(|(_, s)| *s == Status::Fails).map(|(p, _)| p).collect()
    }

    #[test]
    fn each_figure_decides_its_own_property() {
        assert_eq!(failing(&[], Strictness::All), [""; 0]);
        for (figure, value, property, is_time) in [
            ("lost", 1.0, "complete", false),
            ("reordered", 1.0, "complete", false),
            ("duplicated", 1.0, "complete", false),
            ("accepted", 0.0, "complete", false),
            ("disconnects", 1.0, "connected", false),
            ("memory_growth_mib", 8.1, "bounded", false),
            ("reaching_stalled_share", 0.06, "throttled", false),
            ("throttled_after_s", 1.5, "throttled", true),
            ("recovered", 0.0, "recovery", false),
            ("recovery_s", 0.6, "recovery", true),
            ("evenness", 1.3, "even", true),
            ("innocent_during_share", 0.2, "innocent", false),
            ("innocent_during_share", 0.8, "innocent", true),
            ("innocent_during_p99_us", 9000.0, "innocent", true),
        ] {
            let change = [(figure, value)];
            assert_eq!(failing(&change, Strictness::All), [property], "{figure} {value}");
            let lax = if is_time { vec![] } else { vec![property.to_owned()] };
            assert_eq!(failing(&change, Strictness::NoTimes), lax, "{figure} {value}");
        }
    }

    #[test]
    fn the_worst_repetition_counts() {
        let script = Script::parse(STALL, "test").unwrap();
        let good: Figures = GOOD.iter().map(|(n, v)| ((*n).to_owned(), *v)).collect();
        let mut bad = good.clone();
        bad.insert("lost".into(), 3.0);
        let all = [&good, &bad, &good].map(|f| judge(&script, f, Strictness::All));
        let complete = &worst(&all)[0];
        assert_eq!(complete.status, Status::Fails);
        assert!(complete.because.contains("3 lost"), "{}", complete.because);
    }

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!(
            (count(1234567.0), count(999.0), count(0.2)),
            ("1,234,567".into(), "999".into(), "0".into())
        );
        assert_eq!(
            (time(12.3), time(1500.0), time(2_300_000.0)),
            ("12 us".into(), "1.5 ms".into(), "2.3 s".into())
        );
    }
}

//! The backpressure report: one page that needs nothing else, with brokers side by side.
//!
//! For each scenario: a verdict for each property with the numbers that decided it, plots over time with the stall
//! shaded, main figures with their intervals, and how to do it again. Plots of one row have one scale. Without scripts;
//! light or dark as the reader likes it.

mod plot;
mod rows;

use std::fmt::Write;

use serde_json::{Value, json};

use crate::outcome::{Estimate, Outcome};
use crate::report::fine;
use crate::verdict::{Status, count, time};
use rows::ROWS;

const STYLE: &str = include_str!("style.css");

/// Figures in the table, what they are called, and how they are written.
type Shown = (&'static str, &'static str, fn(f64) -> String);
const FIGURES: [Shown; 12] = [
    ("accepted_per_s", "accepted per second", count),
    ("delivered_per_s", "delivered per second", count),
    ("reaching_before_per_s", "accepted per second before the stall", count),
    ("reaching_stalled_per_s", "accepted per second in its second half", count),
    ("throttled_after_s", "until nothing was accepted", seconds),
    ("recovery_s", "from the stall's end to the full rate", seconds),
    ("memory_growth_mib", "growth of memory", mebibytes),
    ("latency_p99_us", "latency, p99", time),
    ("innocent_latency_p50_us", "latency of the innocent, median", time),
    ("innocent_latency_p99_us", "latency of the innocent, p99", time),
    ("broker_cpu_us_per_delivery", "processor time per delivery", microseconds),
    ("evenness", "most over least accepted", fine),
];

fn seconds(s: f64) -> String {
    format!("{s:.1} s")
}

fn mebibytes(n: f64) -> String {
    format!("{n:.1} MiB")
}

fn microseconds(us: f64) -> String {
    format!("{us:.2} us")
}

/// Text in HTML.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// With a capital letter.
fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |first| first.to_uppercase().chain(chars).collect())
}

/// What a section is called in the page's address.
fn anchor(text: &str) -> String {
    text.chars().map(|c| if c.is_alphanumeric() { c } else { '-' }).collect()
}

/// The page.
pub fn html(outcomes: &[Outcome]) -> String {
    let mut scenarios: Vec<&str> = vec![];
    for outcome in outcomes {
        if !scenarios.contains(&outcome.scenario.as_str()) {
            scenarios.push(&outcome.scenario);
        }
    }
    let mut out = String::from("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    out.push_str("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n");
    let _ = write!(out, "<title>Backpressure</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n");
    out.push_str("<h1>What happens to messages when somebody does not read them</h1>\n");
    if let Some(first) = outcomes.first() {
        let e = &first.environment;
        let _ = writeln!(
            out,
            "<p class=\"soft\">{} · {} · {}, {} processors, {} MiB of memory · {}</p>",
            e.date(),
            escape(&e.load_generator),
            escape(&e.cpu),
            e.cores,
            e.memory_mib,
            escape(&e.kernel)
        );
    }
    overview(&mut out, outcomes, &scenarios);
    for name in scenarios {
        let some: Vec<&Outcome> = outcomes.iter().filter(|o| o.scenario == name).collect();
        section(&mut out, &some);
    }
    out.push_str("</body>\n</html>\n");
    out
}

/// Where there are several scenarios: how many properties fail in each.
fn overview(out: &mut String, outcomes: &[Outcome], scenarios: &[&str]) {
    if scenarios.len() < 2 {
        return;
    }
    let mut kinds: Vec<&str> = vec![];
    for outcome in outcomes {
        if !kinds.contains(&outcome.broker.kind.as_str()) {
            kinds.push(&outcome.broker.kind);
        }
    }
    out.push_str("<div class=\"scroll\"><table><thead><tr><th>Scenario</th>");
    for kind in &kinds {
        let _ = write!(out, "<th>{}</th>", escape(kind));
    }
    out.push_str("</tr></thead><tbody>\n");
    for name in scenarios {
        let (anchor, title) = (anchor(name), escape(&capital(name)));
        let _ = write!(out, "<tr><th><a href=\"#{anchor}\">{title}</a></th>");
        for kind in &kinds {
            let outcome = outcomes.iter().find(|o| o.scenario == *name && o.broker.kind == *kind);
            out.push_str(&outcome.map_or("<td class=\"soft\">not run</td>".to_owned(), summary));
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody></table></div>\n");
}

fn summary(outcome: &Outcome) -> String {
    let failing: Vec<&str> = outcome
        .verdicts
        .iter()
        .filter(|v| v.status == Status::Fails)
        .map(|v| v.question.trim_end_matches('?'))
        .collect();
    if failing.is_empty() {
        return "<td><span class=\"mark holds\">✓ holds</span></td>".into();
    }
    format!(
        "<td><span class=\"mark fails\">✗ fails</span><span class=\"because\">not: {}</span></td>",
        escape(&failing.join("; "))
    )
}

/// One scenario on all brokers.
fn section(out: &mut String, outcomes: &[&Outcome]) {
    let first = outcomes[0];
    let (anchor, title) = (anchor(&first.scenario), escape(&capital(&first.scenario)));
    let _ = writeln!(out, "<section id=\"{anchor}\">\n<h2>{title}</h2>\n<p>{}</p>", escape(&first.about));
    verdicts(out, outcomes);
    plots(out, outcomes);
    figures(out, outcomes);
    again(out, outcomes);
    out.push_str("</section>\n");
}

fn heads(out: &mut String, corner: &str, outcomes: &[&Outcome]) {
    let _ = write!(out, "<thead><tr><th>{corner}</th>");
    for outcome in outcomes {
        let version = escape(&outcome.broker.version);
        let _ = write!(out, "<th title=\"{version}\">{}</th>", escape(&outcome.broker.kind));
    }
    out.push_str("</tr></thead><tbody>\n");
}

fn verdicts(out: &mut String, outcomes: &[&Outcome]) {
    out.push_str("<div class=\"scroll\"><table class=\"verdicts\">");
    heads(out, "", outcomes);
    for (n, verdict) in outcomes[0].verdicts.iter().enumerate() {
        let all: Vec<_> = outcomes.iter().filter_map(|o| o.verdicts.get(n)).collect();
        if all.iter().all(|v| v.status == Status::NotApplicable) {
            continue;
        }
        let _ = write!(out, "<tr><th>{}</th>", escape(&capital(&verdict.question)));
        for verdict in all {
            let (class, mark) = match verdict.status {
                Status::Holds => ("holds", "✓ yes"),
                Status::Fails => ("fails", "✗ no"),
                Status::NotJudged => ("not_judged", "• not judged"),
                Status::NotApplicable => ("not_applicable", "–"),
            };
            let because = escape(&verdict.because);
            let _ = write!(
                out,
                "<td><span class=\"mark {class}\">{mark}</span><span class=\"because\">{because}</span></td>"
            );
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody></table></div>\n");
}

fn plots(out: &mut String, outcomes: &[&Outcome]) {
    for row in ROWS.iter().filter(|row| row.is_shown(outcomes)) {
        let scale = row.scale(outcomes);
        let _ = write!(out, "<div class=\"row\"><div class=\"head\"><b>{}</b>", row.title);
        for line in row.lines.iter().rev() {
            let _ = write!(out, "<span class=\"key\"><i class=\"{}\"></i>{}</span>", line.class, line.label);
        }
        if outcomes.iter().any(|o| o.stall_s.is_some()) {
            out.push_str("<span class=\"key\"><i class=\"shade\"></i>stall</span>");
        }
        let _ = write!(out, "<span class=\"key\">{}</span></div><div class=\"plots\">", row.note());
        for outcome in outcomes {
            let title = escape(&format!("{}: {}", outcome.broker.kind, row.title));
            let svg = plot::svg(&title, &scale, outcome.stall_s, &row.lines(outcome));
            let _ = write!(
                out,
                "<figure><figcaption>{}</figcaption>{svg}</figure>",
                escape(&outcome.broker.kind)
            );
        }
        out.push_str("</div></div>\n");
    }
}

fn figures(out: &mut String, outcomes: &[&Outcome]) {
    let repetitions = outcomes.iter().map(|o| o.repetitions.len()).max().unwrap_or(1);
    out.push_str("<h3>Figures</h3>\n<div class=\"scroll\"><table class=\"num\">");
    heads(out, "", outcomes);
    for (name, label, show) in FIGURES {
        if outcomes.iter().all(|o| !o.figures.contains_key(name)) {
            continue;
        }
        let _ = write!(out, "<tr><th>{label}</th>");
        for outcome in outcomes {
            let text = outcome.figures.get(name).map_or("–".to_owned(), |e| estimate(e, show));
            let _ = write!(out, "<td>{text}</td>");
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody></table></div>\n");
    if repetitions > 1 {
        let _ = writeln!(
            out,
            "<p class=\"soft\">Means of {repetitions} repetitions, with 95% confidence intervals (Student's t); verdicts \
             are those of the worst repetition. Plots show the first; the others lie faintly behind it.</p>"
        );
    }
}

fn estimate(e: &Estimate, show: fn(f64) -> String) -> String {
    match e.within {
        Some(within) if within > 0.0 => {
            format!("{} <span class=\"soft\">± {}</span>", show(e.mean), show(within))
        }
        _ => show(e.mean),
    }
}

/// What is needed to do it again, folded away.
fn again(out: &mut String, outcomes: &[&Outcome]) {
    let first = outcomes[0];
    let stretch =
        if first.stretch == 1.0 { String::new() } else { format!(" (all times × {})", first.stretch) };
    let _ = writeln!(
        out,
        "<details><summary>The scenario{stretch}, the brokers' versions and configurations</summary>\n<pre>{}</pre>",
        escape(&first.text)
    );
    for outcome in outcomes {
        let broker = &outcome.broker;
        let mut text = format!("{}\n{}\n", broker.version, broker.command.join(" "));
        for (name, contents) in &broker.files {
            let _ = write!(text, "\n# {name}\n{contents}");
        }
        for (group, reason) in outcome.repetitions.iter().flat_map(|r| &r.reasons).take(12) {
            let _ = write!(text, "\n{group}, {reason}");
        }
        for (group, rate) in &outcome.rates {
            let _ =
                write!(text, "\n{group}: {} messages per second and client, as measured first", count(*rate));
        }
        let _ = writeln!(out, "<h3>{}</h3>\n<pre>{}</pre>", escape(&broker.kind), escape(text.trim()));
    }
    out.push_str("</details>\n");
}

/// Verdicts and figures of all, without what is only for plots.
pub fn json(outcomes: &[Outcome]) -> String {
    let one = |o: &Outcome| -> Value {
        json!({
            "scenario": o.scenario,
            "broker": o.broker,
            "environment": o.environment,
            "repetitions": o.repetitions.len(),
            "holds": o.holds(),
            "verdicts": o.verdicts,
            "figures": o.figures,
        })
    };
    let all: Vec<Value> = outcomes.iter().map(one).collect();
    let mut text = serde_json::to_string_pretty(&all).expect("strings for keys");
    text.push('\n');
    text
}

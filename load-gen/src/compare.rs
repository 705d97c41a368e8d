//! Reports of several brokers side by side, as a Markdown table.
//!
//! Input are the JSON files of single runs, named `GATE.BROKER.N.json`: what was run, against whom, and which
//! repetition. Figures are medians over all repetitions of all files of one gate and broker, with the least and
//! the greatest; ratios are those of the first broker's medians to the others'.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::client::{Error, doing};
use crate::report::{Spread, fine};

/// Figures shown where a scenario has them, in this order. Those of `extra` kind follow, then faults.
const SHOWN: [&str; 5] = [
    "broker_cpu_us_per_message",
    "broker_cpu_us_per_delivery",
    "messages_per_s",
    "latency_p50_us",
    "latency_p99_us",
];

/// Figures that every run has and that say little side by side.
const HIDDEN: [&str; 13] = [
    "seconds",
    "messages",
    "deliveries",
    "deliveries_per_s",
    "load_cpu_us_per_message",
    "load_cpu_share",
    "broker_rss_mib",
    "broker_rss_peak_mib",
    "broker_cpu_s",
    "broker_user_us_per_message",
    "broker_sys_us_per_message",
    "broker_cpu_share",
    "latency_max_us",
];

/// One figure of one gate's point, with the values measured for each broker.
#[derive(Debug, PartialEq)]
struct Row {
    gate: String,
    point: String,
    figure: String,
    /// One list for each broker, in the order of [`Comparison::brokers`].
    values: Vec<Vec<f64>>,
}

/// Everything that was measured, row by row.
#[derive(Debug, Default)]
pub struct Comparison {
    brokers: Vec<String>,
    rows: Vec<Row>,
}

impl Comparison {
    /// Reads reports, each of which must have figures. Rows and columns are in the order in which they first occur.
    pub fn read(files: &[PathBuf]) -> Result<Comparison, Error> {
        let mut comparison = Comparison::default();
        for file in files {
            let (gate, broker) = names(file)?;
            let text =
                std::fs::read_to_string(file).map_err(doing(&format!("reading {}", file.display())))?;
            let report = serde_json::from_str(&text)
                .map_err(|e| Error::Usage(format!("{} is not a report: {e}", file.display())))?;
            let before = comparison.figures();
            comparison.add(&gate, &broker, &report);
            if comparison.figures() == before {
                return Err(Error::Usage(format!("{} has no figures", file.display())));
            }
        }
        Ok(comparison)
    }

    /// How many values there are.
    fn figures(&self) -> usize {
        self.rows.iter().flat_map(|row| &row.values).map(Vec::len).sum()
    }

    fn add(&mut self, gate: &str, broker: &str, report: &Value) {
        let is_timing = matches!(report["scenario"].as_str(), Some("ping-pong" | "open-loop"));
        for point in report["points"].as_array().into_iter().flatten() {
            let name = point["point"].as_str().unwrap_or("?");
            for sample in point["samples"].as_array().into_iter().flatten() {
                let figures = sample.as_object();
                let value = |figure: &str| figures.and_then(|f| f.get(figure)).and_then(Value::as_f64);
                for figure in SHOWN.iter().filter(|f| is_timing || !f.starts_with("latency")) {
                    if let Some(x) = value(figure) {
                        self.put(gate, name, figure, broker, x);
                    }
                }
                for (figure, x) in figures.into_iter().flatten() {
                    let is_extra = !SHOWN.contains(&figure.as_str()) && !HIDDEN.contains(&figure.as_str());
                    if let (true, Some(x)) = (is_extra && !figure.starts_with("latency"), x.as_f64()) {
                        self.put(gate, name, figure, broker, x);
                    }
                }
            }
            let faults: f64 =
                point["faults"].as_object().into_iter().flatten().filter_map(|f| f.1.as_f64()).sum();
            if faults > 0.0 {
                self.put(gate, name, "FAULTS", broker, faults);
            }
        }
    }

    fn put(&mut self, gate: &str, point: &str, figure: &str, broker: &str, x: f64) {
        let column = self.brokers.iter().position(|b| b == broker).unwrap_or_else(|| {
            self.brokers.push(broker.to_owned());
            self.brokers.len() - 1
        });
        let is_it = |r: &Row| (&*r.gate, &*r.point, &*r.figure) == (gate, point, figure);
        let row = self.rows.iter().position(is_it).unwrap_or_else(|| {
            let (gate, point, figure) = (gate.to_owned(), point.to_owned(), figure.to_owned());
            self.rows.push(Row { gate, point, figure, values: vec![] });
            self.rows.len() - 1
        });
        let values = &mut self.rows[row].values;
        values.resize(values.len().max(column + 1), vec![]);
        values[column].push(x);
    }

    /// The table.
    pub fn markdown(&self) -> String {
        let mut header = vec!["gate".to_owned(), "point".to_owned(), "figure".to_owned()];
        header.extend(self.brokers.iter().cloned());
        if let Some((first, others)) = self.brokers.split_first() {
            header.extend(others.iter().map(|other| format!("{first}/{other}")));
        }
        let mut lines = vec![line(&header), line(&vec!["---".to_owned(); header.len()])];
        for row in &self.rows {
            // Not worth a line where every message is delivered once.
            if row.figure == "broker_cpu_us_per_delivery" && self.repeats_per_message(row) {
                continue;
            }
            lines.push(line(&self.cells(row)));
        }
        lines.join("\n") + "\n"
    }

    fn repeats_per_message(&self, row: &Row) -> bool {
        self.rows.iter().any(|other| {
            (&other.gate, &other.point, &other.values) == (&row.gate, &row.point, &row.values)
                && other.figure == "broker_cpu_us_per_message"
        })
    }

    fn cells(&self, row: &Row) -> Vec<String> {
        let spreads: Vec<Option<Spread>> = (0..self.brokers.len())
            .map(|b| row.values.get(b).filter(|v| !v.is_empty()).map(|v| Spread::of(v)))
            .collect();
        let mut cells = vec![row.gate.clone(), row.point.clone(), row.figure.clone()];
        cells.extend(spreads.iter().map(|s| match s {
            None => String::new(),
            Some(s) if s.min == s.max => fine(s.median),
            Some(s) => format!("{} ({}-{})", fine(s.median), fine(s.min), fine(s.max)),
        }));
        if let Some((first, others)) = spreads.split_first() {
            cells.extend(others.iter().map(|other| match (first, other) {
                (Some(a), Some(b)) if b.median != 0.0 => format!("{:.3}", a.median / b.median),
                _ => String::new(),
            }));
        }
        cells
    }
}

fn line(cells: &[String]) -> String {
    format!("| {} |", cells.join(" | "))
}

/// Gate and broker in `GATE.BROKER.N.json`.
fn names(file: &Path) -> Result<(String, String), Error> {
    let name = file.file_name().and_then(|n| n.to_str()).unwrap_or("");
    match name.split('.').collect::<Vec<_>>()[..] {
        [gate, broker, _, "json"] => Ok((gate.to_owned(), broker.to_owned())),
        _ => Err(Error::Usage(format!("{} is not named GATE.BROKER.N.json", file.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Report, Sample};
    use crate::usage::Usage;

    fn report(cpu_ns: u64, lost: u64) -> Value {
        let broker = Some(Usage { cpu_ns, ..Usage::default() });
        let mut sample =
            Sample { point: "1->1".into(), messages: 1000, deliveries: 1000, ..Sample::default() };
        (sample.broker, sample.seconds, sample.faults.lost) = (broker, 1.0, lost);
        serde_json::to_value(Report::new("one-to-one", String::new(), vec![], &[sample])).unwrap()
    }

    #[test]
    fn medians_and_ratios_by_broker() {
        let mut c = Comparison::default();
        for (broker, cpu_ns, lost) in [("ours", 100_000, 0), ("theirs", 400_000, 2), ("ours", 300_000, 0)] {
            c.add("1to1", broker, &report(cpu_ns, lost));
        }
        let table = c.markdown();
        let expect = "| 1to1 | 1->1 | broker_cpu_us_per_message | 0.2000 (0.1000-0.3000) | 0.4000 | 0.500 |";
        assert!(table.contains(expect), "{table}");
        assert!(table.contains("| FAULTS |  | 2 |") && !table.contains("per_delivery"), "{table}");
    }

    #[test]
    fn file_names() {
        assert_eq!(names(Path::new("/x/a.b.1.json")).unwrap(), ("a".into(), "b".into()));
        assert!(names(Path::new("a.json")).is_err());
    }
}

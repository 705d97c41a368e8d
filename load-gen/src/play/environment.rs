//! The machine that figures come from.

use std::fs;

use serde::{Deserialize, Serialize};

/// What is captured of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Environment {
    /// Name and release of the kernel.
    pub kernel: String,
    /// The processor's name.
    pub cpu: String,
    /// Processors that this process may use.
    pub cores: usize,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Load averages before the first run: over 1, 5 and 15 minutes.
    pub load_average: String,
    /// When, in seconds since 1970, UTC.
    pub unix_time: u64,
    /// The version of the load generator.
    pub load_generator: String,
}

impl Environment {
    /// This machine, now.
    pub fn capture() -> Environment {
        let uname = rustix::system::uname();
        let words =
            [uname.sysname(), uname.release(), uname.machine()].map(|w| w.to_string_lossy().into_owned());
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let load_average = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        Environment {
            kernel: words.join(" "),
            cpu: field("/proc/cpuinfo", "model name").unwrap_or_else(|| "not known".into()),
            cores: std::thread::available_parallelism().map_or(1, |n| n.get()),
            memory_mib: field("/proc/meminfo", "MemTotal")
                .and_then(|kib| kib.trim_end_matches("kB").trim().parse::<u64>().ok())
                .map_or(0, |kib| kib / 1024),
            load_average: load_average.split(' ').take(3).collect::<Vec<_>>().join(" "),
            unix_time: since.map_or(0, |d| d.as_secs()),
            load_generator: format!("staunch-load {}", env!("CARGO_PKG_VERSION")),
        }
    }

    /// The date, as in 2026-03-01 12:30 UTC.
    pub fn date(&self) -> String {
        let (days, seconds) = (self.unix_time / 86_400, self.unix_time % 86_400);
        let (year, month, day) = civil(days as i64);
        format!("{year}-{month:02}-{day:02} {:02}:{:02} UTC", seconds / 3600, seconds / 60 % 60)
    }
}

/// Year, month and day of a number of days since 1970 (Howard Hinnant's `civil_from_days`).
fn civil(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + i64::from(month <= 2), month, doy - (153 * mp + 2) / 5 + 1)
}

fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|l| l.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(19_782), (2024, 2, 29));
        let env = Environment { unix_time: 1_709_210_040, ..Environment::default() };
        assert_eq!(env.date(), "2024-02-29 12:34 UTC");
        assert!(Environment::capture().cores > 0);
    }
}

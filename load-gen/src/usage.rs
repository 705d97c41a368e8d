//! What a process has used, from `/proc`.

use std::fs;
use std::io;

/// A reading of one process's use of processor and memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Time on a processor, all threads, in nanoseconds.
    pub cpu_ns: u64,
    /// The part spent in user mode, in nanoseconds but counted in ticks.
    pub user_ns: u64,
    /// The part spent in the kernel, likewise.
    pub sys_ns: u64,
    /// Resident memory, in KiB.
    pub rss_kib: u64,
    /// Most resident memory since the start or since [`reset_peak`], in KiB.
    pub rss_peak_kib: u64,
}

/// Linux reports processor time to user space in hundredths of a second, whatever its own tick.
const TICK_NS: u64 = 10_000_000;

impl Usage {
    /// Reads process `pid`. Fails if there is none.
    pub fn of(pid: u32) -> io::Result<Usage> {
        let mut usage = Usage::default();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        (usage.user_ns, usage.sys_ns) = parse_stat(&stat).ok_or_else(|| invalid("stat"))?;
        // The first is exact, the second has what threads used that have ended.
        usage.cpu_ns = task_ns(pid).unwrap_or(0).max(usage.user_ns + usage.sys_ns);
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        usage.rss_kib = rss_kib(pid)?;
        usage.rss_peak_kib = field_kib(&status, "VmHWM:").unwrap_or(0);
        Ok(usage)
    }

    /// What was used between `earlier` and this reading; memory as it is now.
    pub fn since(&self, earlier: &Usage) -> Usage {
        Usage {
            cpu_ns: self.cpu_ns.saturating_sub(earlier.cpu_ns),
            user_ns: self.user_ns.saturating_sub(earlier.user_ns),
            sys_ns: self.sys_ns.saturating_sub(earlier.sys_ns),
            ..*self
        }
    }
}

/// Sets the peak of resident memory back to the present. Needs rights over the process; says whether it worked.
pub fn reset_peak(pid: u32) -> bool {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").is_ok()
}

/// Resident memory of `pid` in KiB, exactly: the kernel walks the page tables. Takes milliseconds for gigabytes.
pub fn rss_kib(pid: u32) -> io::Result<u64> {
    if let Ok(rollup) = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))
        && let Some(kib) = field_kib(&rollup, "Rss:")
    {
        return Ok(kib);
    }
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    field_kib(&status, "VmRSS:").ok_or_else(|| invalid("status"))
}

/// Sums the run time of all threads. Threads that have ended are not in it.
fn task_ns(pid: u32) -> io::Result<u64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end while we look.
        if let Ok(line) = fs::read_to_string(task?.path().join("schedstat")) {
            sum += line.split(' ').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    Ok(sum)
}

/// User and system time from `/proc/PID/stat`. The command's name may contain anything, also parentheses.
fn parse_stat(stat: &str) -> Option<(u64, u64)> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    Some((ticks()? * TICK_NS, ticks()? * TICK_NS))
}

fn field_kib(status: &str, name: &str) -> Option<u64> {
    status.lines().find_map(|l| l.strip_prefix(name))?.trim().trim_end_matches("kB").trim().parse().ok()
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("cannot read /proc/PID/{what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_with_a_strange_name() {
        let stat = "12 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 700 30 0 0 20 0 1 0 5 6 7";
        assert_eq!(parse_stat(stat), Some((700 * TICK_NS, 30 * TICK_NS)));
    }

    #[test]
    fn kib_fields() {
        assert_eq!(field_kib("Name:\tx\nVmRSS:\t    1234 kB\n", "VmRSS:"), Some(1234));
        assert_eq!(field_kib("Name:\tx\n", "VmRSS:"), None);
    }

    #[test]
    fn our_own_usage_grows() {
        let pid = std::process::id();
        let before = Usage::of(pid).unwrap();
        let mut x = 1u64;
        let start = std::time::Instant::now();
        while start.elapsed().as_millis() < 20 {
            x = std::hint::black_box(x.wrapping_mul(3));
        }
        let used = Usage::of(pid).unwrap().since(&before);
        assert!(used.cpu_ns > 0 && used.rss_kib > 0, "{used:?}");
    }
}

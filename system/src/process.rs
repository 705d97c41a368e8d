//! Whose the process is, and what it uses: memory, processor time, threads, descriptors.
//!
//! Read from `/proc/self` (`proc(5)`), at the cost of opening and reading one small file each: for a metrics page,
//! not for a hot path.

use std::fs;
use std::io;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Memory of the process at one moment, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// All that is mapped.
    pub virtual_bytes: u64,
    /// What of it is in memory (RSS), shared pages included.
    pub resident_bytes: u64,
    /// What of that is backed by files or shared.
    pub shared_bytes: u64,
}

/// Processor time of the process since it began, all threads together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// In the program; in steps of the kernel's tick (10 ms as a rule).
    pub user: Duration,
    /// In the kernel; in steps of the kernel's tick.
    pub system: Duration,
    /// Both together, exact to the nanosecond.
    pub total: Duration,
    /// How many threads there are now.
    pub threads: u64,
}

/// The user with whose rights the process acts (`geteuid(2)`); 0 is root.
pub fn effective_user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// The process's memory now.
///
/// # Errors
/// When `/proc` is not mounted, or a line in it is not as documented.
pub fn memory() -> io::Result<Memory> {
    let page_bytes = rustix::param::page_size() as u64;
    parse_statm(&fs::read_to_string("/proc/self/statm")?, page_bytes).ok_or_else(|| malformed("statm"))
}

/// The process's processor time until now.
///
/// # Errors
/// When `/proc` is not mounted, or a line in it is not as documented.
pub fn cpu() -> io::Result<Cpu> {
    let ticks_per_second = rustix::param::clock_ticks_per_second();
    let stat = fs::read_to_string("/proc/self/stat")?;
    let (user, system, threads) = parse_stat(&stat, ticks_per_second).ok_or_else(|| malformed("stat"))?;
    Ok(Cpu { user, system, total: cpu_total(), threads })
}

/// The process's processor time until now, all threads, user and system together. Needs no `/proc`.
pub fn cpu_total() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// How many descriptors the process has open, the one used for counting not included.
///
/// Cost: one directory entry per descriptor.
///
/// # Errors
/// When `/proc` is not mounted.
pub fn open_files() -> io::Result<usize> {
    Ok(fs::read_dir("/proc/self/fd")?.count().saturating_sub(1))
}

fn parse_statm(line: &str, page_bytes: u64) -> Option<Memory> {
    let mut pages = line.split_ascii_whitespace().map_while(|word| word.parse::<u64>().ok());
    let mut bytes = || pages.next()?.checked_mul(page_bytes);
    Some(Memory { virtual_bytes: bytes()?, resident_bytes: bytes()?, shared_bytes: bytes()? })
}

fn parse_stat(line: &str, ticks_per_second: u64) -> Option<(Duration, Duration, u64)> {
    // The second field is the command in parentheses and may hold anything, so count from its end: what follows is
    // field 3 of proc(5), and utime, stime and num_threads are fields 14, 15 and 20.
    let (_, rest) = line.rsplit_once(')')?;
    let field = |number: usize| rest.split_ascii_whitespace().nth(number - 3)?.parse::<u64>().ok();
    let time = |ticks: u64| {
        let nanos = u128::from(ticks) * 1_000_000_000 / u128::from(ticks_per_second.max(1));
        Some(Duration::from_nanos(u64::try_from(nanos).ok()?))
    };
    Some((time(field(14)?)?, time(field(15)?)?, field(20)?))
}

fn malformed(file: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("/proc/self/{file} is not as documented"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_use_is_plausible() {
        let memory = memory().unwrap();
        assert!(memory.virtual_bytes >= memory.resident_bytes);
        assert!(memory.resident_bytes > 100_000);
        let before = cpu_total();
        let cpu = cpu().unwrap();
        assert!(cpu.total >= before);
        assert!(cpu.threads >= 1);
        assert!(open_files().unwrap() >= 3);
    }

    #[test]
    fn lines_are_parsed_as_documented() {
        assert_eq!(
            parse_statm("10 5 2 1 0 3 0\n", 4096),
            Some(Memory { virtual_bytes: 40960, resident_bytes: 20480, shared_bytes: 8192 })
        );
        let stat = "1 (a) b) c) S 0 1 1 0 -1 4194560 9 9 9 9 250 75 0 0 20 0 3 0 5 0 0";
        assert_eq!(parse_stat(stat, 100), Some((Duration::from_millis(2500), Duration::from_millis(750), 3)));
        for bad in ["", "1 2", "1 (x) S", "x y z"] {
            assert_eq!(parse_statm(bad, 4096), None);
            assert_eq!(parse_stat(bad, 100), None);
        }
    }
}

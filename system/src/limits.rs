//! The process's resource limits.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit of open descriptors (`RLIMIT_NOFILE`) to the hard limit, and returns what is then in force
/// (`u64::MAX` for none).
///
/// The soft limit is often 1024 for the sake of `select(2)`, which nothing here uses.
///
/// # Errors
/// None is expected: a process may always raise its soft limit to its hard one.
pub fn raise_open_files() -> io::Result<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    }
    Ok(open_files())
}

/// How many descriptors the process may have open (`u64::MAX` for no limit).
pub fn open_files() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_hard_limit_is_reached_and_kept() {
        let raised = super::raise_open_files().unwrap();
        assert!(raised > 0);
        assert_eq!(super::open_files(), raised);
        assert_eq!(super::raise_open_files().unwrap(), raised);
    }
}

//! Rules for connections over Unix sockets: who starts from what.
//!
//! The kernel says who has connected (`SO_PEERCRED`): user, group and process, as of then. The first rule that fits
//! decides; where none fits, the peer starts from the gatekeeper, as everybody does over TCP.

use std::path::{Path, PathBuf};

use staunch_protocols::sturdy::SturdyRef;
use staunch_system::net::Credentials;

use crate::slow::Slow;

/// Which connections a rule is for: all of what is named must fit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Who {
    /// The Unix socket that they came by: see [`is_same_path`].
    pub socket: Option<PathBuf>,
    /// The user.
    pub uid: Option<u32>,
    /// The group: that of the process, not those that its user is in besides.
    pub gid: Option<u32>,
}

/// What a rule gives.
#[derive(Clone)]
pub enum Start {
    /// The gatekeeper, as without a rule.
    Gatekeeper,
    /// What this reference stands for, if it does when the connection is made; otherwise it is refused.
    Reference(Box<SturdyRef>),
    /// Nothing: the connection is refused.
    Nothing,
}

/// One rule.
#[derive(Clone)]
pub struct Rule {
    /// For whom.
    pub who: Who,
    /// What they start from.
    pub start: Start,
    /// What is done about those of them who are slow; `None` for what the listener or the configuration says.
    pub slow: Option<Slow>,
}

impl std::fmt::Debug for Rule {
    /// Without the reference, which is a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let start = match &self.start {
            Start::Gatekeeper => "Gatekeeper",
            Start::Reference(_) => "Reference",
            Start::Nothing => "Nothing",
        };
        f.debug_struct("Rule")
            .field("who", &self.who)
            .field("start", &start)
            .field("slow", &self.slow)
            .finish()
    }
}

impl Who {
    fn fits(&self, socket: &Path, peer: &Credentials) -> bool {
        self.socket.as_deref().is_none_or(|path| is_same_path(path, socket))
            && self.uid.is_none_or(|uid| uid == peer.uid)
            && self.gid.is_none_or(|gid| gid == peer.gid)
    }
}

/// Whether two paths, of which either may be relative to the working directory, are the same without a look at the file
/// system: links are not followed.
pub fn is_same_path(one: &Path, other: &Path) -> bool {
    let absolute = |path: &Path| std::path::absolute(path).ok();
    one == other || absolute(one).is_some_and(|path| absolute(other) == Some(path))
}

/// The first rule that fits.
pub(crate) fn rule_for<'a>(rules: &'a [Rule], socket: &Path, peer: &Credentials) -> Option<&'a Rule> {
    rules.iter().find(|rule| rule.who.fits(socket, peer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rule_that_fits_decides() {
        let who = |socket: Option<&str>, uid, gid| Who { socket: socket.map(PathBuf::from), uid, gid };
        let reference = || Start::Reference(Box::new(SturdyRef::mint(&[0x81], b"")));
        let rule = |who, start| Rule { who, start, slow: None };
        let rules = [
            rule(who(Some("/a"), Some(1), None), reference()),
            rule(who(None, Some(1), Some(9)), Start::Gatekeeper),
            rule(who(None, Some(1), None), Start::Nothing),
            rule(who(None, None, Some(9)), reference()),
        ];
        let check = |socket: &str, uid, gid, expected: &str| {
            let found = rule_for(&rules, Path::new(socket), &Credentials { uid, gid, pid: 1 });
            let found = match found.map(|rule| &rule.start) {
                Some(Start::Gatekeeper) => "gatekeeper",
                Some(Start::Reference(_)) => "reference",
                Some(Start::Nothing) => "nothing",
                None => "no rule",
            };
            assert_eq!(found, expected, "{socket} {uid} {gid}");
        };
        check("/a", 1, 1, "reference");
        check("/b", 1, 1, "nothing");
        check("/b", 1, 9, "gatekeeper");
        check("/b", 2, 9, "reference");
        check("/b", 2, 2, "no rule");
    }

    #[test]
    fn relative_paths_are_those_of_the_working_directory() {
        let here = std::env::current_dir().unwrap().join("s");
        assert!(is_same_path(Path::new("s"), &here) && is_same_path(&here, Path::new("./s")));
        assert!(is_same_path(Path::new("/run//s"), Path::new("/run/./s")));
        assert!(!is_same_path(Path::new("s"), Path::new("/s")) && !is_same_path(Path::new(""), &here));
    }
}

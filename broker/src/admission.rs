//! Rules for connections over Unix sockets: who starts from what.
//!
//! The kernel says who has connected (`SO_PEERCRED`): user, group and process, as of then. The first rule that fits
//! decides; where none fits, the peer starts from the gatekeeper, as everybody does over TCP.

use std::path::{Path, PathBuf};

use staunch_protocols::sturdy::SturdyRef;
use staunch_system::net::Credentials;

/// Which connections a rule is for: all of what is named must fit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Who {
    /// The Unix socket that they came by.
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
}

impl std::fmt::Debug for Rule {
    /// Without the reference, which is a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let start = match &self.start {
            Start::Gatekeeper => "Gatekeeper",
            Start::Reference(_) => "Reference",
            Start::Nothing => "Nothing",
        };
        f.debug_struct("Rule").field("who", &self.who).field("start", &start).finish()
    }
}

impl Who {
    fn fits(&self, socket: &Path, peer: &Credentials) -> bool {
        self.socket.as_deref().is_none_or(|path| path == socket)
            && self.uid.is_none_or(|uid| uid == peer.uid)
            && self.gid.is_none_or(|gid| gid == peer.gid)
    }
}

/// What the first rule that fits gives.
pub(crate) fn start_of<'a>(rules: &'a [Rule], socket: &Path, peer: &Credentials) -> &'a Start {
    let first = rules.iter().find(|rule| rule.who.fits(socket, peer));
    first.map_or(&Start::Gatekeeper, |rule| &rule.start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rule_that_fits_decides() {
        let who = |socket: Option<&str>, uid, gid| Who { socket: socket.map(PathBuf::from), uid, gid };
        let reference = || Start::Reference(Box::new(SturdyRef::mint(&[0x81], b"")));
        let rules = [
            Rule { who: who(Some("/a"), Some(1), None), start: reference() },
            Rule { who: who(None, Some(1), Some(9)), start: Start::Gatekeeper },
            Rule { who: who(None, Some(1), None), start: Start::Nothing },
            Rule { who: who(None, None, Some(9)), start: reference() },
        ];
        let check = |socket: &str, uid, gid, expected: &str| {
            let found = start_of(&rules, Path::new(socket), &Credentials { uid, gid, pid: 1 });
            let found = match found {
                Start::Gatekeeper => "gatekeeper",
                Start::Reference(_) => "reference",
                Start::Nothing => "nothing",
            };
            assert_eq!(found, expected, "{socket} {uid} {gid}");
        };
        check("/a", 1, 1, "reference");
        check("/b", 1, 1, "nothing");
        check("/b", 1, 9, "gatekeeper");
        check("/b", 2, 9, "reference");
        check("/b", 2, 2, "gatekeeper");
    }
}

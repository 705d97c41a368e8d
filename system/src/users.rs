//! Users and groups by name, as the system's databases have them (`getpwnam(3)`, `getgrnam(3)`): in `/etc/passwd`, or
//! wherever the name service switch says. Such a database may be on a network: these calls may block.

use std::io;

/// The number of a user; `None` if there is none of that name.
///
/// # Errors
/// When the database cannot be asked.
pub fn user_id(name: &str) -> io::Result<Option<u32>> {
    Ok(nix::unistd::User::from_name(name)?.map(|user| user.uid.as_raw()))
}

/// The number of a group; `None` if there is none of that name.
///
/// # Errors
/// When the database cannot be asked.
pub fn group_id(name: &str) -> io::Result<Option<u32>> {
    Ok(nix::unistd::Group::from_name(name)?.map(|group| group.gid.as_raw()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_known_and_nobody_else_of_no_name() {
        assert_eq!(user_id("root").unwrap(), Some(0));
        assert_eq!(group_id("root").unwrap(), Some(0));
        assert_eq!(user_id("no such user").unwrap(), None);
        assert_eq!(group_id("no such group").unwrap(), None);
    }
}

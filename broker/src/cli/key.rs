//! The secret that a broker's references are signed with: a file of random bytes, made once.
//!
//! Whoever reads it can make references to everything, so it must be its owner's alone. It appears at its path whole or
//! not at all, and of two brokers that make it at the same time one wins, and the other takes what is there.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use staunch_system::process::effective_user;

/// How long a key is that is made here.
const KEY_BYTES: usize = 32;
/// How short a key may be.
const KEY_BYTES_MIN: usize = 16;

/// Where the key is, unless a flag says otherwise.
///
/// # Errors
/// When there is no such place: there is no home.
pub(super) fn default_path() -> Result<PathBuf, String> {
    let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    // Of a service manager that gives the service several folders, the first.
    let state = std::env::var_os("STATE_DIRECTORY").and_then(|paths| std::env::split_paths(&paths).next());
    if let Some(folder) = state.filter(|path| path.is_absolute()) {
        return Ok(folder.join("key"));
    }
    if effective_user() == 0 {
        return Ok("/var/lib/staunch/key".into());
    }
    let state = variable("XDG_STATE_HOME").or_else(|| Some(variable("HOME")?.join(".local/state")));
    let state = state.ok_or("neither $HOME nor $XDG_STATE_HOME is set, so give --key-file PATH")?;
    Ok(state.join("staunch/key"))
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeyError {
    /// It cannot be read or made.
    #[error("{}: {cause}{advice}", .path.display(), advice = advice(.cause))]
    Io { path: PathBuf, cause: io::Error },
    /// It does not exist, nor does its folder.
    #[error("{}: the folder does not exist. Make it, or choose another path", .0.display())]
    NoFolder(PathBuf),
    /// It is no file.
    #[error("{}: not a file", .0.display())]
    NotAFile(PathBuf),
    /// Others may read it.
    #[error(
        "{path}: others may read the key (mode {mode:04o}). If nobody has, `chmod 600 {path}` makes it usable; \
         otherwise remove it, and a new one is made",
        path = .path.display()
    )]
    Readable { path: PathBuf, mode: u32 },
    /// It is somebody else's.
    #[error(
        "{path}: the key belongs to user {user}, who could read it. Run the broker as that user; or, if that user may have \
         read it, `chown {me} {path}` makes it usable here",
        path = .path.display(),
        me = effective_user()
    )]
    Foreign { path: PathBuf, user: u32 },
    /// It is too short or too long.
    #[error(
        "{}: a key has {KEY_BYTES_MIN} to {KEY_BYTES} bytes, and this file has {}",
        .path.display(),
        length(*.bytes)
    )]
    Length { path: PathBuf, bytes: usize },
}

impl KeyError {
    fn io(path: &Path) -> impl Fn(io::Error) -> KeyError + Copy + '_ {
        |cause| KeyError::Io { path: path.to_owned(), cause }
    }

    /// Whether there is nothing at the path.
    pub(super) fn is_absence(&self) -> bool {
        matches!(self, KeyError::Io { cause, .. } if cause.kind() == ErrorKind::NotFound)
    }
}

/// What to do if this user may not.
fn advice(cause: &io::Error) -> &'static str {
    match cause.kind() {
        ErrorKind::PermissionDenied => {
            ". This user may not read or make the key there: --key-file PATH names another"
        }
        _ => "",
    }
}

fn length(bytes: usize) -> String {
    if bytes > KEY_BYTES { "more".to_owned() } else { bytes.to_string() }
}

/// Reads the key of a broker, or makes one if there is none. A key that is another user's (but root's) is refused.
///
/// # Returns
/// The key, and whether it was made.
///
/// # Errors
/// [`KeyError`].
pub(super) fn read_or_make(path: &Path, makes_folder: bool) -> Result<(Vec<u8>, bool), KeyError> {
    match read_owned(path) {
        Err(error) if error.is_absence() => {}
        other => return other.map(|key| (key, false)),
    }
    let doing = KeyError::io(path);
    let folder = folder_of(path);
    check_folder(path, makes_folder)?;
    if makes_folder {
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(doing)?;
    }
    let mut key = vec![0; KEY_BYTES];
    random(&mut key).map_err(doing)?;
    match place(path, folder, &key) {
        Ok(()) => Ok((key, true)),
        // Somebody else was faster.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => read_owned(path).map(|key| (key, false)),
        Err(error) => Err(doing(error)),
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Whether there is a folder for a key that is to be made.
///
/// # Errors
/// If there is none, and it may not be made.
pub(super) fn check_folder(path: &Path, makes_folder: bool) -> Result<(), KeyError> {
    match makes_folder || folder_of(path).is_dir() {
        true => Ok(()),
        false => Err(KeyError::NoFolder(path.to_owned())),
    }
}

/// The user whose key this is, if a broker of this user does not take it.
pub(super) fn foreign_owner(path: &Path) -> Option<u32> {
    let owner = fs::metadata(path).ok()?.uid();
    (owner != 0 && owner != effective_user()).then_some(owner)
}

fn random(bytes: &mut [u8]) -> io::Result<()> {
    getrandom::fill(bytes).map_err(|error| io::Error::other(error.to_string()))
}

/// Puts a file of ours alone at a path where there is none.
fn place(path: &Path, folder: &Path, content: &[u8]) -> io::Result<()> {
    let mut number = [0; 8];
    random(&mut number)?;
    let temporary = folder.join(format!(".key-{:016x}", u64::from_ne_bytes(number)));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    // Unlike a rename, a link replaces nothing.
    let placed =
        file.write_all(content).and_then(|()| file.sync_all()).and_then(|()| fs::hard_link(&temporary, path));
    let removed = fs::remove_file(&temporary);
    placed.and(removed)?;
    // The file's name is kept by its folder.
    File::open(folder)?.sync_all()
}

/// Reads a key, whoever owns it.
///
/// # Errors
/// [`KeyError`].
pub(super) fn read(path: &Path) -> Result<Vec<u8>, KeyError> {
    Ok(read_with_owner(path)?.0)
}

/// Reads the key of a broker that runs as this user.
fn read_owned(path: &Path) -> Result<Vec<u8>, KeyError> {
    match read_with_owner(path)? {
        (key, owner) if owner == 0 || owner == effective_user() => Ok(key),
        (_, user) => Err(KeyError::Foreign { path: path.to_owned(), user }),
    }
}

fn read_with_owner(path: &Path) -> Result<(Vec<u8>, u32), KeyError> {
    let doing = KeyError::io(path);
    // To open a pipe would wait for somebody who writes to it.
    if !fs::metadata(path).map_err(doing)?.is_file() {
        return Err(KeyError::NotAFile(path.to_owned()));
    }
    let file = File::open(path).map_err(doing)?;
    let found = file.metadata().map_err(doing)?;
    if found.mode() & 0o077 != 0 {
        return Err(KeyError::Readable { path: path.to_owned(), mode: found.mode() & 0o7777 });
    }
    let mut key = Vec::new();
    file.take(KEY_BYTES as u64 + 1).read_to_end(&mut key).map_err(doing)?;
    match key.len() {
        KEY_BYTES_MIN..=KEY_BYTES => Ok((key, found.uid())),
        bytes => Err(KeyError::Length { path: path.to_owned(), bytes }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_key_is_made_once_whoever_comes_first() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/key");
        assert!(matches!(read_or_make(&path, false), Err(KeyError::NoFolder(_))));
        let barrier = std::sync::Barrier::new(8);
        let all: Vec<(Vec<u8>, bool)> = std::thread::scope(|scope| {
            let make = || {
                barrier.wait();
                read_or_make(&path, true).unwrap()
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(make)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(all.iter().all(|(key, _)| *key == all[0].0 && key.len() == 32));
        assert_eq!(all.iter().filter(|(_, is_made)| *is_made).count(), 1);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o7777, 0o700);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing is left behind");
        let other = folder.path().join("key");
        assert_ne!(read_or_make(&other, false).unwrap().0, all[0].0);
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let check = |content: &[u8], mode: u32, expected: &str| {
            let _ = fs::remove_file(&path);
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let text =
                read_or_make(&path, true).map_or_else(|error| error.to_string(), |_| "fine".to_owned());
            assert!(text.contains(expected), "{text}");
            assert_eq!(fs::read(&path).unwrap(), content);
        };
        check(&[7; 32], 0o600, "fine");
        check(&[7; 16], 0o400, "fine");
        check(&[7; 32], 0o640, "mode 0640");
        check(&[7; 32], 0o604, "chmod 600");
        check(&[7; 15], 0o600, "has 15");
        check(&[7; 33], 0o600, "has more");
        check(&[], 0o600, "has 0");
        if effective_user() == 0 {
            fs::write(&path, [7; 32]).unwrap();
            std::os::unix::fs::chown(&path, Some(12345), None).unwrap();
            assert!(matches!(read_or_make(&path, true), Err(KeyError::Foreign { user: 12345, .. })));
            assert!(read(&path).is_ok(), "root may print its references");
        }
        assert!(read(folder.path()).unwrap_err().to_string().contains("not a file"));
    }
}

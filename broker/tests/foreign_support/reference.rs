//! The server of the reference implementation, unchanged: as a broker to compare with, and as a client.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::{Running, cache, skip, until};

const VERSION: &str = "0.51.0-rc.4";

/// Where the server is, if it is anywhere: `$STAUNCH_TEST_REFERENCE`, or where `.ci/foreign` has installed it.
pub(crate) fn program(test: &str) -> Option<PathBuf> {
    let named = std::env::var_os("STAUNCH_TEST_REFERENCE").map(PathBuf::from);
    let program = named.unwrap_or_else(|| cache().join("reference/bin/syndicate-server"));
    let answer = Command::new(&program).arg("--version").output();
    let found = match answer.map(|answer| String::from_utf8_lossy(&answer.stdout).trim().to_owned()) {
        Ok(version) if version == format!("syndicate-server {VERSION}") => return Some(program),
        Ok(version) => format!("says that it is {version:?}"),
        Err(error) => error.to_string(),
    };
    skip(
        test,
        &format!(
            "no syndicate-server {VERSION}.\n  Looked at:\n    {}: {found}\n  To have it: run .ci/foreign, which builds \
             it once, or set STAUNCH_TEST_REFERENCE to the program",
            program.display()
        ),
    );
    None
}

/// Starts it with a configuration, which it need not have taken in yet.
pub(crate) fn start(program: &Path, folder: &TempDir, name: &str, configuration: &str) -> Running {
    let file = folder.path().join(format!("{name}.pr"));
    std::fs::write(&file, configuration).unwrap();
    let mut command = Command::new(program);
    command.arg("--no-banner").arg("-c").arg(&file).env("RUST_LOG", "info").env("NO_COLOR", "1");
    command.env_remove("SYNDICATE_CREDIT");
    Running::start(folder, name, &mut command)
}

/// The server as a broker.
pub(crate) struct Reference {
    running: Running,
    /// Where it listens.
    pub(crate) socket: PathBuf,
    _folder: TempDir,
}

impl Reference {
    /// Starts one that lets everybody in, as `staunch serve --dev` does. It listens on a Unix socket: which TCP port the
    /// kernel would choose for it, it does not say.
    pub(crate) fn start(program: &Path) -> Reference {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let configuration = format!(
            "let ?ds = dataspace\n<bind <ref {{oid: \"syndicate\" key: #x\"\"}}> $ds #f>\n\
             <require-service <relay-listener <unix {socket:?}> $gatekeeper>>\n"
        );
        let running = start(program, &folder, "reference", &configuration);
        let mut reference = Reference { running, socket, _folder: folder };
        until("the reference to listen", || {
            reference.running.check_running();
            UnixStream::connect(&reference.socket)
                .map_err(|error| format!("{error}: {}", reference.running.said()))
        });
        reference
    }

    /// What it has logged of panics.
    pub(crate) fn panics(&self) -> Vec<String> {
        self.running.lines().into_iter().filter(|line| line.contains("panicked")).collect()
    }
}

//! Completions and manual pages, made from the definitions of the flags, so that they cannot differ from them.

use std::io::{self, ErrorKind, Write};
use std::path::PathBuf;

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, Fault};

/// Print completions for a shell.
#[derive(clap::Args)]
#[command(after_help = "\
Where they go:
  bash  ~/.local/share/bash-completion/completions/staunch
  zsh   _staunch in a folder that is in $fpath before compinit runs
  fish  ~/.config/fish/completions/staunch.fish")]
pub(super) struct Completions {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self) -> Result<(), Fault> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "staunch", &mut script);
        print(&script)
    }
}

/// Print the manual page, or write one for each command into a folder.
#[derive(clap::Args)]
#[command(after_help = "\
For example:
  staunch man | man -l -
  staunch man ~/.local/share/man/man1")]
pub(super) struct Man {
    /// Where to write staunch.1 and a page for each command, such as staunch-serve.1. It is made if need be.
    #[arg(value_name = "DIR")]
    folder: Option<PathBuf>,
}

impl Man {
    pub(super) fn run(self) -> Result<(), Fault> {
        let Some(folder) = self.folder else {
            let mut page = Vec::new();
            clap_mangen::Man::new(Cli::command()).render(&mut page).map_err(Fault::failed)?;
            return print(&page);
        };
        let written = std::fs::create_dir_all(&folder)
            .and_then(|()| clap_mangen::generate_to(Cli::command().disable_help_subcommand(true), &folder));
        written.map_err(|error| Fault::Failed(format!("cannot write to {}: {error}", folder.display())))
    }
}

/// Writes to standard output. Whoever reads it may stop doing so.
pub(super) fn print(bytes: &[u8]) -> Result<(), Fault> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Fault::Failed(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

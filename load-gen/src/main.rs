//! The `staunch-load` command.

use std::process::ExitCode;

use clap::Parser;
use staunch_load::cli::Cli;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok((text, is_clean)) => {
            print!("{text}");
            if is_clean { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("staunch-load: {error}");
            ExitCode::from(2)
        }
    }
}

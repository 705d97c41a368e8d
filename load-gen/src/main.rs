//! The `staunch-load` command.

use std::process::ExitCode;

use clap::Parser;
use staunch_load::cli::Cli;
use staunch_load::command::Commands;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    let result = if Commands::are_meant(&args) {
        Commands::parse_from(args).run()
    } else {
        Cli::parse_from(args).run()
    };
    match result {
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

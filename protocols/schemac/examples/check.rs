//! Checks schemas: `cargo run -p staunch-schemac --example check -- protocols/schemas` prints what is wrong with the
//! `.prs` files in the folders that it is given, or the code that would be made of them if there is `--print`.

use std::process::ExitCode;

fn main() -> ExitCode {
    let (flags, folders): (Vec<String>, Vec<String>) =
        std::env::args().skip(1).partition(|argument| argument.starts_with("--"));
    let compiler =
        folders.iter().fold(staunch_schemac::Compiler::new(), |compiler, folder| compiler.directory(folder));
    match compiler.generate() {
        Ok(code) if flags.iter().any(|flag| flag == "--print") => print!("{code}"),
        Ok(_) => {}
        Err(faults) => {
            eprintln!("{faults}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

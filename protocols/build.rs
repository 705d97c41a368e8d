//! Makes the types of `schema` from `schemas/*.prs`; and those that only tests use.

use staunch_schemac::{Compiler, Diagnostics};

fn main() {
    if let Err(faults) = compile() {
        eprintln!("{faults}");
        std::process::exit(1);
    }
}

fn compile() -> Result<(), Diagnostics> {
    let ours = Compiler::new().directory("schemas").runtime("crate::schema").catalogue();
    ours.write_to_out_dir("schema.rs")?;
    Compiler::new().directory("tests/schemas").catalogue().write_to_out_dir("test_schema.rs")
}

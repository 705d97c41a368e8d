//! Makes the types of `schema` from `schemas/*.prs`.

fn main() {
    let compiled = staunch_schemac::Compiler::new()
        .directory("schemas")
        .runtime("crate::schema")
        .catalogue()
        .write_to_out_dir("schema.rs");
    if let Err(faults) = compiled {
        eprintln!("{faults}");
        std::process::exit(1);
    }
}

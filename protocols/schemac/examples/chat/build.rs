fn main() {
    // Elsewhere this would be a copy of the folder, say `vendor/syndicate-schemas`.
    let protocol = "../../../schemas";
    let compiler =
        staunch_schemac::Compiler::new().directory("schemas").import(protocol, "::staunch_protocols::schema");
    if let Err(faults) = compiler.write_to_out_dir("schemas.rs") {
        eprintln!("{faults}");
        std::process::exit(1);
    }
}

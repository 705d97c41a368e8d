//! The `staunch-load` command.
fn main() {}

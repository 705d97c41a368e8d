//! The `staunch` command.
fn main() {}

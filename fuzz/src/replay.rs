//! Runs a target on the files that are kept for it, for the tests of the crates.

use std::path::Path;

/// Runs `target` on each of its seeds and of its finds.
///
/// # Panics
/// If the target does, or if there are no seeds.
pub(crate) fn run(name: &str, target: fn(&[u8])) {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().find(|top| top.join("fuzz/corpus").is_dir());
    let top = top.expect("the crate is in its repository");
    let mut count = 0;
    for kind in ["corpus", "crashes"] {
        let Ok(files) = std::fs::read_dir(top.join("fuzz").join(kind).join(name)) else { continue };
        let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        // The order of a folder is anybody's, and what is run may depend on what was run before.
        paths.sort();
        for path in paths {
            println!("{}", path.display());
            target(&std::fs::read(&path).unwrap());
            count += 1;
        }
    }
    assert!(count > 0, "no seeds for {name}");
}

//! Everything the fuzzers start from and everything they ever found, run again.

use std::path::Path;

#[path = "../fuzz/src/targets.rs"]
mod targets;

#[test]
fn seeds_and_former_crashes_do_no_harm() {
    let mut count = 0;
    for (name, target) in targets::TARGETS {
        for kind in ["corpus", "crashes"] {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(kind).join(name);
            let Ok(files) = std::fs::read_dir(&folder) else { continue };
            for file in files {
                let path = file.unwrap().path();
                println!("{}", path.display());
                target(&std::fs::read(&path).unwrap());
                count += 1;
            }
        }
    }
    assert!(count > 50, "only {count} seeds found");
}

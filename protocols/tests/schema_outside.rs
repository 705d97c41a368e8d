//! Another crate compiles schemas of its own, which refer to ours, in its build script.

use std::path::Path;
use std::process::Command;

/// Copies a folder; in files, what leads up from the example leads to the room itself.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(|entry| entry.unwrap()) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            let text = std::fs::read_to_string(entry.path()).unwrap();
            std::fs::write(target, text.replace("../../..", env!("CARGO_MANIFEST_DIR"))).unwrap();
        }
    }
}

#[test]
fn another_crate_has_schemas_that_refer_to_ours() {
    let room = Path::new(env!("CARGO_MANIFEST_DIR"));
    let temporary = tempfile::tempdir().unwrap();
    copy(&room.join("schemac/examples/chat"), temporary.path());
    // The versions that this workspace has, so that nothing needs to be fetched.
    std::fs::copy(room.join("../Cargo.lock"), temporary.path().join("Cargo.lock")).unwrap();
    let cargo = |what: &str| {
        let mut command = Command::new(env!("CARGO"));
        command.current_dir(temporary.path()).args([what, "--offline", "--quiet"]);
        // Kept, so that only the first run of this test takes its time.
        command.env("CARGO_TARGET_DIR", Path::new(env!("CARGO_TARGET_TMPDIR")).join("chat"));
        command.env_remove("RUSTFLAGS").env("CARGO_PROFILE_DEV_DEBUG", "false").output().unwrap()
    };

    let output = cargo("run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.starts_with("{invitation: <invitation <ref {oid: #[cm9vbQ]"), "{printed}");

    // A fault ends the build, and its place is told.
    let schema = temporary.path().join("schemas/chat.prs");
    let text = std::fs::read_to_string(&schema).unwrap();
    std::fs::write(&schema, text.replace("sturdy.SturdyRef", "sturdy.StrudyRef")).unwrap();
    let output = cargo("check");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(told.contains("schemas/chat.prs:26:9: the module sturdy defines no StrudyRef"), "{told}");
}

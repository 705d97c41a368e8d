//! Dependencies between the rooms point one way, as ARCHITECTURE.md says.

use std::path::Path;

/// Each room, with the rooms that it may depend on (not counting what only its tests use).
const ROOMS: [(&str, &[&str]); 7] = [
    ("flowctl", &[]),
    ("protocols", &[]),
    ("system", &[]),
    ("index", &["protocols"]),
    ("load-gen", &["protocols"]),
    ("broker", &["flowctl", "index", "protocols", "system"]),
    ("benches", &["flowctl", "index", "protocols", "system", "broker", "load-gen"]),
];

/// The package that lives in a room.
fn package(room: &str) -> &str {
    match room {
        "flowctl" => "staunch-flowctl",
        "protocols" => "staunch-protocols",
        "system" => "staunch-system",
        "index" => "staunch-index",
        "load-gen" => "staunch-load",
        "broker" => "staunch",
        _ => "staunch-benches",
    }
}

/// What a manifest's `[dependencies]` name.
fn dependencies(manifest: &str) -> Vec<&str> {
    let lines = manifest.lines().skip_while(|line| *line != "[dependencies]").skip(1);
    let names =
        lines.take_while(|line| !line.starts_with('[')).filter_map(|line| line.split(['.', ' ', '=']).next());
    names.filter(|name| !name.is_empty()).collect()
}

#[test]
fn dependencies_point_one_way() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    for (room, allowed) in ROOMS {
        let manifest = std::fs::read_to_string(top.join(room).join("Cargo.toml")).unwrap();
        let found = dependencies(&manifest);
        assert!(room == "benches" || !found.is_empty(), "{room} depends on something");
        for (other, _) in ROOMS {
            if found.contains(&package(other)) {
                assert!(allowed.contains(&other), "{room} must not depend on {other}");
            }
        }
    }
}

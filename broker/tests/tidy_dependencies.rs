//! Dependencies between the rooms point one way, as ARCHITECTURE.md says.

use std::path::Path;

/// Each room, with the rooms that it may depend on (not counting what only its tests use).
const ROOMS: [(&str, &[&str]); 8] = [
    ("flowctl", &[]),
    ("protocols/schemac", &[]),
    ("protocols", &["protocols/schemac"]),
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
        "protocols/schemac" => "staunch-schemac",
        "system" => "staunch-system",
        "index" => "staunch-index",
        "load-gen" => "staunch-load",
        "broker" => "staunch",
        _ => "staunch-benches",
    }
}

/// What a section of a manifest names.
fn dependencies<'m>(manifest: &'m str, section: &str) -> Vec<&'m str> {
    let lines = manifest.lines().skip_while(|line| *line != section).skip(1);
    let names =
        lines.take_while(|line| !line.starts_with('[')).filter_map(|line| line.split(['.', ' ', '=']).next());
    names.filter(|name| !name.is_empty()).collect()
}

#[test]
fn dependencies_point_one_way() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    for (room, allowed) in ROOMS {
        let manifest = std::fs::read_to_string(top.join(room).join("Cargo.toml")).unwrap();
        let mut found = dependencies(&manifest, "[dependencies]");
        // The compiler of schemas is built before all else, and takes nothing that is not in it.
        let is_alone = room == "protocols/schemac";
        assert!(room == "benches" || is_alone == found.is_empty(), "{room} depends on {found:?}");
        found.extend(dependencies(&manifest, "[build-dependencies]"));
        for (other, _) in ROOMS {
            if found.contains(&package(other)) {
                assert!(allowed.contains(&other), "{room} must not depend on {other}");
            }
        }
    }
}

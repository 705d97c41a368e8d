//! Another repository takes the schemas by `git subtree`, and follows them.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::Command;

const PREFIX: &str = "vendor/syndicate-schemas";

/// A git that has `git subtree`, which is not installed with all of them: that of the path, of the system, or that
/// which `STAUNCH_TEST_GIT` names.
fn git_with_subtree() -> Option<String> {
    let named = std::env::var("STAUNCH_TEST_GIT").ok();
    let candidates = named.into_iter().chain(["git".into(), "/usr/bin/git".into()]);
    candidates.into_iter().find(|git| {
        let help = Command::new(git).args(["subtree", "-h"]).output();
        help.is_ok_and(|help| [help.stdout, help.stderr].concat().windows(6).any(|w| w == b"--pref"))
    })
}

/// A repository.
struct Repository<'g> {
    git: &'g str,
    path: std::path::PathBuf,
}

impl<'g> Repository<'g> {
    fn new(git: &'g str, path: &Path) -> Repository<'g> {
        std::fs::create_dir(path).unwrap();
        let repository = Repository { git, path: path.into() };
        repository.git(&["init", "--quiet", "--initial-branch=main"]);
        repository
    }

    fn git(&self, arguments: &[&str]) {
        let mut command = Command::new(self.git);
        command.current_dir(&self.path).args(["-c", "user.name=Test", "-c", "user.email=test@test.example"]);
        command.args(arguments);
        // Whoever tests may be in a repository of their own, with settings of their own.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("GIT_")) {
            command.env_remove(name);
        }
        command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
        let output = command.output().unwrap();
        assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn commit(&self, message: &str) {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--message", message]);
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.path.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}

/// The files in a folder, without folders in it.
fn files(folder: &Path) -> BTreeMap<String, String> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| {
            (entry.file_name().into_string().unwrap(), std::fs::read_to_string(entry.path()).unwrap())
        })
        .collect()
}

fn check_schemas(folder: &Path) {
    let checked = staunch_schemac::Compiler::new().directory(folder).check();
    assert!(checked.is_ok(), "{}", checked.unwrap_err());
}

#[test]
fn another_repository_takes_the_schemas_and_follows_them() {
    let Some(git) = git_with_subtree() else {
        let advice = "no `git subtree` here: install it, or name a git that has it in STAUNCH_TEST_GIT";
        let is_required =
            std::env::var_os("STAUNCH_TEST_REQUIRE_ALL").is_some_and(|v| v != "0" && !v.is_empty());
        assert!(!is_required, "{advice}");
        // On standard error itself: the test harness keeps what `eprintln!` writes.
        let _ = writeln!(std::io::stderr(), "\n*** SKIPPED schema_subtree: {advice}\n");
        return;
    };
    let schemas = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas");
    let temporary = tempfile::tempdir().unwrap();
    let ours = Repository::new(&git, &temporary.path().join("ours"));
    let theirs = Repository::new(&git, &temporary.path().join("theirs"));

    for (name, text) in files(&schemas) {
        ours.write(&format!("protocols/schemas/{name}"), &text);
    }
    ours.write("broker/main.rs", "fn main() {}");
    ours.commit("The schemas, and a broker");
    theirs.write("src/main.rs", "fn main() {}");
    theirs.commit("Something else");
    let folder = theirs.path.join(PREFIX);
    let split = ["subtree", "split", "--prefix=protocols/schemas", "--branch", "schemas"];
    let source = ours.path.to_str().unwrap().to_owned();
    let take = |how| {
        ours.git(&split);
        theirs.git(&["subtree", how, &format!("--prefix={PREFIX}"), "--squash", &source, "schemas"]);
    };

    take("add");
    assert_eq!(files(&folder), files(&schemas));
    check_schemas(&folder);

    ours.write("protocols/schemas/worker.prs", "version 1 .\nInstance = <Instance @name string> .\n");
    ours.write("protocols/schemas/later.prs", "version 1 .\nLater = <later @instance worker.Instance> .\n");
    ours.write("broker/main.rs", "fn main() { run() }");
    ours.commit("A change");
    theirs.write("src/main.rs", "fn main() { something_else() }");
    theirs.commit("A change of theirs");
    take("pull");
    assert_eq!(files(&folder), files(&ours.path.join("protocols/schemas")));
    assert!(files(&folder)["later.prs"].contains("worker.Instance"));
    check_schemas(&folder);
    assert_eq!(files(&theirs.path.join("src"))["main.rs"], "fn main() { something_else() }");
    assert!(!theirs.path.join("broker").exists());

    // What is tested is what the folder's own text tells people to do.
    let readme = std::fs::read_to_string(schemas.join("README.md")).unwrap();
    assert!(readme.contains(&format!("git {}", split.join(" "))));
    for how in ["add", "pull"] {
        assert!(
            readme.contains(&format!("git subtree {how} --prefix={PREFIX} --squash <the clone> schemas"))
        );
    }
}

#[test]
fn each_schema_is_told_of() {
    let schemas = files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas"));
    for name in schemas.keys().filter(|name| name.ends_with(".prs")) {
        assert!(schemas["README.md"].contains(&format!("`{name}`")), "{name}");
    }
}

//! The configuration file: what it says holds, what is wrong is told by line, and it may be read again.

#[path = "common/process.rs"]
mod process;

use std::path::{Path, PathBuf};

use process::*;
use tempfile::TempDir;
use toml::{Table, Value};

fn share(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("share").join(path)
}

/// Writes a file and returns its path.
fn write(folder: &TempDir, name: &str, text: &str) -> String {
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// What `--check` prints.
fn check(arguments: &[&str]) -> Table {
    let said = run(&[&["serve", "--check"], arguments].concat());
    // There may be warnings.
    assert_eq!(said.status, Some(0), "{arguments:?}: {}", said.err);
    said.out.parse().unwrap()
}

fn refused(text: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = write(&folder, "staunch.toml", text);
    let said = run(&["serve", "--check", "--config", &path]);
    assert_eq!((said.status, said.out.as_str()), (Some(2), ""), "{text}");
    said.err.replace(&path, "FILE")
}

/// What this machine's descriptors may bound.
const BOUNDED: [&str; 2] = ["connections", "principal-connections"];

/// Each line of the example that is commented out once says what holds anyhow.
#[test]
fn the_example_shows_the_defaults() {
    let text = std::fs::read_to_string(share("staunch.toml")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key").display().to_string();
    let mut defaults = check(&["--key-file", &key, "--config", &write(&folder, "empty.toml", "")]);
    let as_shipped = check(&["--key-file", &key, "--config", share("staunch.toml").to_str().unwrap()]);
    assert_eq!(as_shipped, defaults);
    // What is "for example" has two signs.
    let is_setting = |line: &&str| !line.starts_with("# ") && !line.starts_with("##") && *line != "#";
    let told: String =
        text.lines().filter(is_setting).map(|line| line.trim_start_matches('#').to_owned() + "\n").collect();
    let mut told: Table = told.parse().unwrap();
    for table in [&mut told, &mut defaults] {
        let limits = table["limits"].as_table_mut().unwrap();
        BOUNDED.iter().for_each(|name| assert!(limits.remove(*name).is_some()));
    }
    for name in ["key-file", "workers"] {
        assert!(defaults.remove(name).is_some() && text.contains(&format!("##{name} = ")), "{name}");
    }
    assert_eq!(told, defaults);
    // And the examples are fine, too.
    let uncommented: String = text
        .lines()
        .filter(|line| !line.starts_with("# ") && *line != "#")
        .map(|line| line.trim_start_matches('#').to_owned() + "\n")
        .collect();
    let all = uncommented.replace("/var/lib/staunch", &folder.path().display().to_string());
    let all = check(&["--config", &write(&folder, "all.toml", &all)]);
    assert!(all.contains_key("unix") && all.contains_key("key") && all.contains_key("socket-mode"));
}

#[test]
fn every_key_is_documented() {
    let documented = std::fs::read_to_string(share("../../docs/configuration.md")).unwrap();
    let example: String = std::fs::read_to_string(share("staunch.toml")).unwrap();
    let settings = example.lines().filter(|line| line.starts_with('#') && line.contains(" = "));
    let names = settings.filter_map(|line| line.trim_start_matches('#').split(" = ").next());
    for name in
        names.filter(|name| !name.contains(' ')).chain(["gid", "group", "uid", "reference-file", "socket"])
    {
        assert!(documented.contains(&format!("`{name}`")), "{name}");
    }
}

/// Texts that name a default name the one that there is.
#[test]
fn defaults_are_told_as_they_are() {
    let defaults = check(&["--dev"]);
    let help = run(&["serve", "--help"]).out.split_whitespace().collect::<Vec<_>>().join(" ");
    let documented = std::fs::read_to_string(share("../../docs/configuration.md")).unwrap();
    let limits = defaults["limits"].as_table().unwrap().iter();
    for (name, value) in defaults.iter().filter(|(_, value)| !value.is_table()).chain(limits) {
        let row = documented.lines().find(|line| line.starts_with(&format!("| `{name}` |"))).unwrap();
        // There are as many as there are processors.
        let is_fixed = name != "workers" && !BOUNDED.contains(&name.as_str());
        assert!(!is_fixed || row.contains(&value.to_string()), "{name} = {value}: {row}");
        if let Some((_, flag)) = help.split_once(&format!("--{name} <"))
            && let Some(size) = value.as_str()
        {
            // Up to the next flag's own words.
            let told = flag.split("> ").nth(1).unwrap_or_default();
            assert!(told.contains(&format!("[default: {size}]")), "{name} = {size}: {told}");
        }
    }
}

#[test]
fn flags_win_over_the_file_and_what_is_printed_can_be_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key").display().to_string();
    let path = write(
        &folder,
        "a.toml",
        &format!(
            "listen = [\"unix:/run/a,answers=accepted\"]\nsocket-mode = \"0660\"\nworkers = 3\ndebt-max = \"1MiB\"\noutbox-max = 5000\n\
             drain = 1.5\nkey-file = \"{key}\"\noid = '<a 1>'\n[limits]\nconnections = 7\npacket-bytes = \"1MiB\"\n\
             [[key]]\nfile = \"{key}2\"\noid = 'b'\n[[unix]]\nuser = \"root\"\ngroup = \"root\"\nsocket = \"/run/a\"\n\
             reference = '<ref {{oid: \"syndicate\" sig: #[acowDB2/oI+6aSEC3YIxGg==]}}>'\n[[unix]]\ndeny = true\n"
        ),
    );
    let found = check(&["--config", &path]);
    for (name, expected) in [
        ("listen", Value::from(vec!["unix:/run/a,answers=accepted"])),
        ("socket-mode", "0660".into()),
        ("workers", 3.into()),
        ("debt-max", "1MiB".into()),
        ("outbox-max", 5000.into()),
        ("fan-out-max", "256MiB".into()),
        ("drain", 1.5.into()),
        ("oid", "<a 1>".into()),
    ] {
        assert_eq!(found[name], expected, "{name}");
    }
    assert_eq!((&found["limits"]["connections"], &found["unix"][0]["uid"]), (&7.into(), &0.into()));
    let again = write(&folder, "b.toml", &toml::to_string(&found).unwrap());
    assert_eq!(check(&["--config", &again]), found);
    let flags =
        ["--listen", "tcp:127.0.0.1:1", "--debt-max", "3MiB", "--limit", "connections=8", "--drain", "0"];
    let other = check(&[&["--config", &path, "--workers", "1", "--oid", "c"], &flags[..]].concat());
    assert_eq!(
        (&other["listen"][0], &other["debt-max"], &other["limits"]["connections"], &other["drain"]),
        (&"tcp:127.0.0.1:1".into(), &"3MiB".into(), &8.into(), &0.0.into())
    );
    assert_eq!(
        (&other["workers"], &other["oid"], &other["outbox-max"]),
        (&1.into(), &"c".into(), &5000.into())
    );
    // For everybody: without keys.
    let dev = check(&["--dev", "--config", &path]);
    assert!(!dev.contains_key("key-file") && !dev.contains_key("key") && dev["workers"] == 3.into());
}

#[test]
fn what_is_wrong_is_told_with_its_line() {
    for (text, expected) in [
        ("\ndebt-mx = 1", "FILE:2:1: unknown field `debt-mx`"),
        ("workers = 1\n\n[limits]\nconnections = \"1GB\"", "FILE:4:15: expected a whole number"),
        ("listen = [\"tcp:localhost:9\"]", "FILE:1:11: localhost is a name"),
        ("listen = [\"unix:/a\", \"unix:/a\"]", "unix:/a is given twice"),
        ("workers = ", "FILE:1:"),
        ("[[unix]]\nuser = \"no such user\"\ndeny = true", "FILE:2:8: there is no user"),
        (
            "[[unix]]\nuid = 0\nreference-file = \"/nonexistent\"",
            "FILE:3:18: reference-file: /nonexistent: No such",
        ),
        (
            "[[unix]]\nuid = 0\nreference-file = \"/none\"\n[[unix]]\nreference-file = \"/nor\"",
            "FILE:3:18: reference-file: /none: No such file or directory (os error 2); FILE:5:18: reference-file: /nor",
        ),
        ("socket-mode = 0660", "FILE:1:15: expected octal permissions in quotes, as in \"0660\""),
        ("[[key]]\nfile = \"/a\"\noid = '\"syndicate\"'", "two keys are for the oid"),
    ] {
        let error = refused(text);
        assert!(error.contains(expected), "{text}: {error}");
    }
    let said = run(&["serve", "--config", "/nonexistent/staunch.toml"]);
    assert!(
        said.status == Some(2) && said.err.contains("/nonexistent/staunch.toml: there is no such file"),
        "{said:?}"
    );
    let said = run(&["serve", "--dev", "--limit", "conections=1"]);
    assert!(said.status == Some(2) && said.err.contains("there are packet-bytes"), "{said:?}");
}

#[test]
fn the_file_has_a_place_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("staunch")).unwrap();
    write(&folder, "staunch/staunch.toml", "workers = 9");
    let key = folder.path().join("key").display().to_string();
    let mut command = staunch(&["serve", "--check", "--key-file", &key]);
    command.env("XDG_CONFIG_HOME", folder.path());
    let said = run_with(command, b"");
    // Root's is in /etc.
    let is_root = rustix::process::geteuid().is_root();
    assert!(said.status == Some(0) && said.out.contains("workers = 9") != is_root, "{said:?}");
}

/// A broker with a configuration file, and a key in it.
fn configured(text: &str) -> (Broker, PathBuf) {
    let mut path = PathBuf::new();
    let broker = Broker::start(|folder| {
        path = folder.path().join("staunch.toml");
        let key = folder.path().join("key");
        std::fs::write(&path, format!("key-file = \"{}\"\n{text}", key.display())).unwrap();
        vec!["--config".to_owned(), path.display().to_string()]
    });
    (broker, path)
}

fn mint(key: &Path) -> String {
    run(&["ref", "mint", "--key-file", key.to_str().unwrap()]).out.trim().to_owned()
}

fn replace(path: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.contains(from));
    std::fs::write(path, text.replace(from, to)).unwrap();
}

#[test]
fn limits_are_read_again_and_nobody_is_disconnected() {
    let (mut broker, path) = configured("workers = 2\n[limits]\nprincipal-connections = 50\n");
    broker.reference = Some(mint(&broker.path("key")));
    let mut observer = broker.observe(&["<m $n>"], "rec m", 1);
    replace(&path, "principal-connections = 50", "principal-connections = 1");
    replace(&path, "workers = 2", "workers = 3");
    broker.running.signal("-HUP");
    broker.logged("reloaded: limits.principal-connections: 50 -> 1");
    broker.logged("workers: 2 -> 3: this holds after a restart");
    replace(&path, "workers = 3", "workers = 2");
    let said = broker.run(&["sync"]);
    assert!(said.status == Some(1) && said.err.contains("one principal may have 1"), "{said:?}");
    // What is wrong changes nothing.
    replace(&path, "principal-connections = 1", "principal-connections = 50\nconections = 1");
    broker.running.signal("-HUP");
    let logged = broker.logged("nothing has changed");
    assert!(logged.contains(&format!("{}:5:1: there is no limit `conections`", path.display())), "{logged}");
    assert_eq!(broker.run(&["sync"]).status, Some(1));
    replace(&path, "\nconections = 1", "");
    broker.running.signal("-HUP");
    broker.logged("reloaded: limits.principal-connections: 1 -> 50");
    assert_eq!(broker.run(&["send", "<m 1>"]).status, Some(0));
    assert_eq!(observer.line(), "! n=1");
    broker.running.signal("-HUP");
    broker.logged("nothing in the configuration has changed");
}

#[test]
fn keys_are_read_again_and_who_is_in_stays() {
    let (mut broker, path) = configured("");
    let key = broker.path("key");
    let old = mint(&key);
    broker.reference = Some(old.clone());
    let mut observer = broker.observe(&["<m $n>"], "rec m", 1);
    std::fs::remove_file(&key).unwrap();
    broker.running.signal("-HUP");
    broker.logged("references are checked against other keys");
    let new = mint(&key);
    assert_ne!(old, new);
    let said = broker.run(&["sync"]);
    assert!(said.status == Some(1) && said.err.contains("refuses the reference"), "{said:?}");
    broker.reference = Some(new);
    assert_eq!(broker.run(&["send", "<m 1>"]).status, Some(0));
    assert_eq!(observer.line(), "! n=1");
    // One more, for others; and who waits for it gets in.
    let guests = broker.path("guests").display().to_string();
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{text}\n[[key]]\nfile = \"{guests}\"\noid = 'guests'\n")).unwrap();
    broker.running.signal("-HUP");
    broker.logged("references are checked against other keys");
    let reference = run(&["ref", "mint", "--oid", "guests", "--key-file", &guests]).out.trim().to_owned();
    assert_eq!(broker.run(&["sync", "--ref", &reference]).status, Some(0));
    // A key that is no good changes nothing.
    std::fs::write(&key, "short").unwrap();
    broker.running.signal("-HUP");
    broker.logged("16 to 32 bytes");
    assert_eq!(broker.run(&["sync"]).status, Some(0));
}

/// Root may check what is for the service's user, and not serve by it.
#[test]
fn the_key_of_another_user_can_be_checked_by_root() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: the_key_of_another_user_can_be_checked_by_root: this is not root");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let key = write(&folder, "key", "0123456789abcdef");
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    std::os::unix::fs::chown(&key, Some(65_534), None).unwrap();
    let said = run(&["serve", "--check", "--key-file", &key]);
    assert!(said.status == Some(0) && said.err.contains("only a broker that runs as that user"), "{said:?}");
    let socket = format!("unix:{}", folder.path().join("socket").display());
    let said = run(&["serve", "--key-file", &key, "--listen", &socket]);
    assert!(said.status == Some(1) && said.err.contains("belongs to user 65534"), "{said:?}");
    assert!(said.err.contains(&format!("`chown 0 {key}`")), "{said:?}");
}

/// As an operator writes them: by name, with a reference that is restricted, in a file.
#[test]
fn rules_for_users_hold() {
    let (broker, path) = configured("");
    let uid = rustix::process::geteuid().as_raw();
    let full = mint(&broker.path("key"));
    let narrow = run(&["ref", "attenuate", &full, "--allow", "<m _>"]).out;
    let file = broker.path("narrow");
    std::fs::write(&file, narrow).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let rule = format!("[[unix]]\nuid = {uid}\nreference-file = \"{}\"\n", file.display());
    std::fs::write(&path, format!("{text}{rule}")).unwrap();
    broker.running.signal("-HUP");
    broker.logged("unix: other rules");
    // Its oid 0 is no gatekeeper any more.
    let said = broker.run(&["sync", "--ref", &full, "--timeout", "0.3"]);
    assert_eq!(said.status, Some(1), "{said:?}");
    replace(&path, &rule, "[[unix]]\ndeny = true\n");
    broker.running.signal("-HUP");
    broker.logged("unix: other rules");
    let said = broker.run(&["sync", "--ref", &full]);
    assert!(said.status == Some(1) && said.err.contains("may not connect here"), "{said:?}");
    let forged = "<ref {oid: \"syndicate\" sig: #[acowDB2/oI+6aSEC3YIxGg==]}>";
    replace(&path, "deny = true", &format!("reference = '{forged}'"));
    broker.running.signal("-HUP");
    broker.logged("no key of this broker has made its reference");
    let said = run(&["serve", "--check", "--config", path.to_str().unwrap()]);
    assert!(
        said.status == Some(0) && said.err.contains("warning: [[unix]] rule 1 lets nobody in"),
        "{said:?}"
    );
}

/// A rule for a socket is for that socket, however either is written; and a rule for one that there is not is told of.
#[test]
fn rules_for_sockets_hold_and_those_for_none_are_told_of() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("q.sock");
    let deny = |socket: &str| format!("key-file = \"key\"\n[[unix]]\nsocket = \"{socket}\"\ndeny = true\n");
    // The rule's path is from the file's folder, the flag's from where it is started.
    let config = write(&folder, "staunch.toml", &deny("./q.sock"));
    let mut command = staunch(&["serve", "--listen", "unix:q.sock", "--config", &config]);
    command.current_dir(folder.path());
    let running = Running::start(command);
    running.logged("open on unix:q.sock");
    let address = format!("unix:{}", path.display());
    let said = run(&["sync", "--connect", &address]);
    assert!(said.err.contains("This user may not connect here"), "{said:?}");
    std::fs::write(&config, deny("/run/nope")).unwrap();
    running.signal("-HUP");
    let warned = "[[unix]] rule 1 is for nobody: nothing listens on its socket /run/nope, only on unix:";
    running.logged(warned);
    // Both from the file.
    for socket in [path.to_str().unwrap(), "q.sock", "/run/nope"] {
        let text = format!("listen = [\"unix:q.sock\"]\n{}", deny(socket));
        let said = run(&["serve", "--check", "--config", &write(&folder, "other.toml", &text)]);
        assert_eq!(said.status, Some(0), "{said:?}");
        assert_eq!(said.err.contains(warned), socket == "/run/nope", "{said:?}");
        assert!(said.out.contains(&format!("\"{address}\"")), "{said:?}");
    }
}

/// What it is started with and what it is checked with need not be the same folder.
#[test]
fn paths_in_a_file_are_from_its_folder() {
    let (narrow, flags) = ("narrow.ref", ["--allow", "<m _>"]);
    let mut path = PathBuf::new();
    let broker = Broker::start(|folder| {
        path = folder.path().join("staunch.toml");
        write(folder, narrow, &run(&[&["ref", "mint", "--dev"], &flags[..]].concat()).out);
        std::fs::write(
            &path,
            format!("key-file = \"key\"\n[[key]]\nfile = \"guests\"\noid = 'guests'\n[[unix]]\nreference-file = \"{narrow}\"\n"),
        )
        .unwrap();
        vec!["--config".to_owned(), path.display().to_string()]
    });
    assert!(broker.path("key").exists() && broker.path("guests").exists());
    let found = check(&["--config", path.to_str().unwrap()]);
    assert_eq!(found["key-file"], broker.path("key").display().to_string().into());
    assert_eq!(found["unix"][0]["reference-file"], broker.path(narrow).display().to_string().into());
}

/// What would keep it from starting is found out by a check, too.
#[test]
fn a_check_finds_what_a_start_would() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    write(&folder, "file", "");
    let listen = |name: &str| format!("unix:{}", path(name));
    for (arguments, words) in [
        (["--dev", "--listen", &listen("none/x")], "none does not exist"),
        (["--dev", "--listen", &listen("file")], "there is a file, which is no socket"),
        (["--dev", "--listen", &listen(&"x".repeat(110))], "the path is too long"),
        (
            ["--listen", &listen("x"), &format!("--key-file={}", path("none/key"))],
            "the folder does not exist",
        ),
    ] {
        for check in [&["serve", "--check"][..], &["serve"]] {
            let said = run(&[check, &arguments].concat());
            assert!(said.status == Some(1) && said.err.contains(words), "{check:?} {arguments:?}: {said:?}");
        }
    }
    check(&["--dev", "--listen", &listen("x")]);
}

/// Under a hard limit of descriptors.
fn limited(descriptors: u32, arguments: &str) -> Said {
    let mut command = std::process::Command::new("sh");
    command.args(["-c", &format!("ulimit -n {descriptors}; exec \"$0\" serve --dev {arguments}")]);
    command.arg(env!("CARGO_BIN_EXE_staunch")).env_remove("STAUNCH_LOG").env_remove("RUST_LOG");
    run_with(command, b"")
}

#[test]
fn descriptors_are_told_of_where_they_matter() {
    let found: Table = limited(128, "--check").out.parse().unwrap();
    assert_eq!(
        (&found["limits"]["connections"], &found["limits"]["principal-connections"]),
        (&96.into(), &72.into())
    );
    let found: Table = limited(128, "--check --limit connections=50").out.parse().unwrap();
    assert_eq!(found["limits"]["connections"], 50.into());
    // A session that is over at once.
    for (arguments, is_told) in [
        ("--stdio --listen tcp:127.0.0.1:0", true),
        ("--stdio --listen tcp:127.0.0.1:0 --limit connections=50 --limit principal-connections=50", false),
        ("--stdio --listen tcp:127.0.0.1:0 --limit connections=200 --limit principal-connections=50", true),
    ] {
        let said = limited(128, arguments);
        assert_eq!(said.status, Some(0), "{said:?}");
        let is_there = said.err.contains("WARN")
            && said.err.contains("LimitNOFILE=")
            && said.err.contains("128 descriptors");
        assert_eq!(is_there, is_told, "{arguments}: {}", said.err);
    }
    let said = limited(10, "--listen tcp:127.0.0.1:0");
    assert!(said.status == Some(1) && said.err.contains("LimitNOFILE= of a service"), "{said:?}");
}

/// As `[[unix]]` rules give it: a dataspace, and no gatekeeper before it.
#[test]
fn who_starts_from_a_dataspace_needs_no_reference() {
    let (broker, path) = configured("");
    let uid = rustix::process::geteuid().as_raw();
    let allow = ["--allow-observe", "<Present $who>", "--allow", "<Present _>"];
    let key = broker.path("key").display().to_string();
    let narrow = run(&[&["ref", "mint", "--key-file", &key], &allow[..]].concat()).out;
    std::fs::write(broker.path("narrow"), narrow).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{text}[[unix]]\nuid = {uid}\nreference-file = \"narrow\"\n")).unwrap();
    broker.running.signal("-HUP");
    broker.logged("unix: other rules");
    let mut holder = Running::start(broker.command(&["assert", "--direct", "<Present 1>"]));
    assert_eq!(holder.line(), "+ <Present 1>");
    let said = broker.run(&["observe", "--direct", "--snapshot", "<Present $who>"]);
    assert_eq!((said.status, said.out.as_str()), (Some(0), "+ who=1\n"), "{said:?}");
    assert_eq!(broker.run(&["sync", "--direct"]).status, Some(0));
    let said = broker.run(&["sync", "--timeout", "0.3"]);
    assert!(said.status == Some(1) && said.err.contains("then --direct"), "{said:?}");
}

//! A broker's process: started, watched, ended.

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;

use super::{Driver, Place, is_installed};
use crate::client::{Address, Contact, Error, connect, doing};

/// Longest wait until a broker listens.
const START_MAX: Duration = Duration::from_secs(20);

/// How long a broker may take to end by itself.
const END_MAX: Duration = Duration::from_secs(8);

/// What was run, as reports tell it.
#[derive(Clone, Debug, Default, Serialize, serde::Deserialize)]
pub struct Identity {
    /// The kind of driver.
    pub kind: String,
    /// The first line of what it says about its version.
    pub version: String,
    /// Program and arguments; empty if it ran already.
    pub command: Vec<String>,
    /// Its configuration files: name and contents.
    pub files: Vec<(String, String)>,
    /// Where it listens.
    pub address: String,
}

/// A broker that runs, or one that was there already.
pub struct Broker {
    /// How to speak with it.
    pub driver: &'static dyn Driver,
    /// Where it listens.
    pub address: Address,
    /// Its process, if it is known.
    pub pid: Option<u32>,
    /// What it is.
    pub identity: Identity,
    child: Option<Child>,
    dir: Option<PathBuf>,
}

/// How to come by a broker.
#[derive(Clone, Debug)]
pub struct Origin {
    /// How to speak with it.
    pub driver: &'static dyn Driver,
    /// The program, if it is to be started and is not the driver's usual one.
    pub program: Option<String>,
    /// Arguments beyond the driver's.
    pub args: Vec<String>,
    /// Where one runs already.
    pub running: Option<Address>,
    /// The process of that.
    pub pid: Option<u32>,
}

impl Origin {
    /// The program to be started.
    pub fn program(&self) -> &str {
        self.program.as_deref().unwrap_or(self.driver.program())
    }

    /// Whether there is something to start, or to connect to.
    pub fn is_available(&self) -> bool {
        self.running.is_some() || is_installed(self.program())
    }

    /// Starts it in a new directory, on a free port of 127.0.0.1, or takes the one that runs.
    pub fn obtain(&self) -> Result<Broker, Error> {
        if let Some(address) = &self.running {
            let identity = Identity {
                kind: self.driver.kind().to_owned(),
                version: "not known: it ran already".into(),
                address: address.to_string(),
                ..Identity::default()
            };
            let (address, pid) = (address.clone(), self.pid);
            connect(Contact { address: &address, patience: Duration::from_secs(5) })?;
            return Ok(Broker { driver: self.driver, address, pid, identity, child: None, dir: None });
        }
        let mut broker = self.start()?;
        broker.await_listening()?;
        Ok(broker)
    }

    fn start(&self) -> Result<Broker, Error> {
        let program = self.program();
        if !is_installed(program) {
            return Err(Error::Usage(format!("there is no program {program}")));
        }
        // It runs in a directory of its own.
        let absolute = fs::canonicalize(program).map(|path| path.display().to_string());
        let program = if program.contains('/') { absolute.as_deref().unwrap_or(program) } else { program };
        let place = Place { dir: fresh_dir()?, port: free_port()? };
        let launch = self.driver.launch(&place);
        for (path, text) in &launch.files {
            fs::write(path, text).map_err(doing(&format!("writing {}", path.display())))?;
        }
        let args: Vec<String> = launch.args.iter().chain(&self.args).cloned().collect();
        let log = fs::File::create(place.file("log")).map_err(doing("writing the broker's log"))?;
        let copy = log.try_clone().map_err(doing("writing the broker's log"))?;
        let mut command = Command::new(program);
        command.args(&args).current_dir(&place.dir).stdin(Stdio::null()).stdout(log).stderr(copy);
        let child = command.spawn().map_err(doing(&format!("starting {program}")))?;
        let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let identity = Identity {
            kind: self.driver.kind().to_owned(),
            version: version(program, self.driver.version_flag()),
            command: std::iter::once(program.to_owned()).chain(args).collect(),
            files: launch.files.iter().map(|(path, text)| (name(path), text.clone())).collect(),
            address: launch.address.to_string(),
        };
        let pid = Some(child.id());
        let (address, driver) = (launch.address, self.driver);
        Ok(Broker { driver, address, pid, identity, child: Some(child), dir: Some(place.dir) })
    }
}

impl Broker {
    fn await_listening(&mut self) -> Result<(), Error> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.exit_status() {
                let program = &self.identity.command[0];
                return Err(Error::Usage(format!(
                    "{program} ended at once ({status}); it said:\n{}",
                    self.log()
                )));
            }
            match connect(Contact { address: &self.address, patience: Duration::from_secs(1) }) {
                Ok(_) => return Ok(()),
                Err(e) if start.elapsed() > START_MAX => return Err(e),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// How it ended, if it was started here and has.
    pub fn exit_status(&mut self) -> Option<std::process::ExitStatus> {
        self.child.as_mut()?.try_wait().ok().flatten()
    }

    /// The end of what it wrote.
    pub fn log(&self) -> String {
        let mut text = String::new();
        if let Some(mut file) = self.dir.as_ref().and_then(|dir| fs::File::open(dir.join("log")).ok()) {
            let _ = file.read_to_string(&mut text);
        }
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            if let Some(pid) = Pid::from_raw(child.id() as i32) {
                let _ = kill_process(pid, Signal::TERM);
            }
            let start = Instant::now();
            while start.elapsed() < END_MAX && !matches!(child.try_wait(), Ok(Some(_))) {
                std::thread::sleep(Duration::from_millis(10));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        if let Some(dir) = &self.dir {
            let _ = fs::remove_dir_all(dir);
        }
    }
}

/// The first line that names a version. What a program says without knowing the flag will do.
fn version(program: &str, flag: &str) -> String {
    let output = Command::new(program).arg(flag).stdin(Stdio::null()).output();
    let Ok(output) = output else { return String::new() };
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).lines().find(|l| !l.trim().is_empty()).unwrap_or("").trim().to_owned()
}

fn fresh_dir() -> Result<PathBuf, Error> {
    let base = std::env::temp_dir();
    for n in 0..1000 {
        let dir = base.join(format!("staunch-load-{}-{n}", std::process::id()));
        if fs::create_dir(&dir).is_ok() {
            return Ok(dir);
        }
    }
    Err(Error::Usage(format!("no directory can be made in {}", base.display())))
}

/// A port that was free a moment ago.
fn free_port() -> Result<u16, Error> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(doing("looking for a free port"))?;
    Ok(listener.local_addr().map_err(doing("looking for a free port"))?.port())
}

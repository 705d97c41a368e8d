//! The director's side of the members: started, told, heard, stopped, ended.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::client::{Error, doing};
use crate::crew::{Note, Order, Part};

/// One process that carries load.
struct Member {
    process: String,
    child: Child,
    stdin: Option<ChildStdin>,
}

/// All of them.
pub(super) struct Crew {
    members: Vec<Member>,
    notes: Receiver<(usize, Option<Note>)>,
}

impl Crew {
    /// Starts one process for each name; `program` is this one.
    pub(super) fn start(program: &Path, processes: &[String], part: &Part) -> Result<Crew, Error> {
        let (sender, notes) = channel();
        let mut crew = Crew { members: vec![], notes };
        for (number, process) in processes.iter().enumerate() {
            let mut command = Command::new(program);
            command.arg("member").stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut child = command.spawn().map_err(doing(&format!("starting {}", program.display())))?;
            let stdout = child.stdout.take().expect("asked for");
            let stdin = child.stdin.take();
            let sender: Sender<_> = sender.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    // What is no note is somebody's panic, which ends in an end of the output.
                    let Ok(note) = serde_json::from_str(&line) else { continue };
                    if sender.send((number, Some(note))).is_err() {
                        return;
                    }
                }
                let _ = sender.send((number, None));
            });
            crew.members.push(Member { process: process.clone(), child, stdin });
            let part = Part { process: process.clone(), ..part.clone() };
            crew.write(number, &part)?;
        }
        Ok(crew)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    fn write(&mut self, member: usize, value: &impl serde::Serialize) -> Result<(), Error> {
        let mut line = serde_json::to_vec(value).expect("orders have string keys");
        line.push(b'\n');
        let member = &mut self.members[member];
        let stdin = member.stdin.as_mut().expect("kept until the end");
        stdin.write_all(&line).map_err(doing(&format!("giving orders to {}", member.process)))
    }

    /// Tells all.
    pub(super) fn tell(&mut self, order: &Order) -> Result<(), Error> {
        (0..self.members.len()).try_for_each(|member| self.write(member, order))
    }

    /// The next note, if one comes before `until`.
    pub(super) fn hear(&self, until: Instant) -> Result<Option<(usize, Note)>, Error> {
        let wait = until.saturating_duration_since(Instant::now());
        match self.notes.recv_timeout(wait) {
            Ok((member, Some(Note::Failed(why)))) => {
                Err(Error::Usage(format!("{}: {why}", self.members[member].process)))
            }
            Ok((member, Some(note))) => Ok(Some((member, note))),
            Ok((member, None)) => {
                Err(Error::Usage(format!("the process of {} ended by itself", self.members[member].process)))
            }
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(Error::Usage("all processes ended".into())),
        }
    }

    /// Waits until all have said that they are ready.
    pub(super) fn await_ready(&self, patience: Duration) -> Result<(), Error> {
        let until = Instant::now() + patience;
        let mut ready = 0;
        while ready < self.members.len() {
            match self.hear(until)? {
                Some((_, Note::Ready)) => ready += 1,
                Some(_) => {}
                None => return Err(Error::Usage("clients cannot all connect: it takes too long".into())),
            }
        }
        Ok(())
    }

    /// Stops a process, or lets it go on.
    pub(super) fn signal(&self, process: &str, signal: Signal) -> Result<(), Error> {
        for member in self.members.iter().filter(|m| m.process == process) {
            let pid = Pid::from_raw(member.child.id() as i32).expect("children have numbers");
            if signal == Signal::CONT && !is_stopped(member.child.id()) {
                return Err(Error::Usage(format!(
                    "the process of {process} was continued by somebody else while it was to be stopped"
                )));
            }
            kill_process(pid, signal).map_err(doing(&format!("signalling {process}")))?;
        }
        Ok(())
    }
}

/// Whether a process is stopped, as `/proc/PID/stat` has it; its name, before that, may contain anything.
fn is_stopped(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
}

impl Drop for Crew {
    fn drop(&mut self) {
        for member in &mut self.members {
            member.stdin = None;
            let pid = Pid::from_raw(member.child.id() as i32).expect("children have numbers");
            let _ = kill_process(pid, Signal::CONT);
        }
        let end = Instant::now() + Duration::from_secs(2);
        for member in &mut self.members {
            while Instant::now() < end && !matches!(member.child.try_wait(), Ok(Some(_))) {
                std::thread::sleep(Duration::from_millis(2));
            }
            let _ = member.child.kill();
            let _ = member.child.wait();
        }
    }
}

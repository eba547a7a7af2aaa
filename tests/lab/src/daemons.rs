//! Our own daemons in the hosts of a lab: one formation, one `peat-blobd` a host, and sends by `peat-blobctl`.
//!
//! They are real processes from built programs, and this knows of them what a user knows.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::{Host, Lab, LabError};

/// The UDP port of each: a host has no other programs, so it is free.
const PORT: u16 = 4433;
/// How long daemons may take to start.
const STARTING: Duration = Duration::from_secs(120);

/// With whom a daemon keeps a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peering {
    /// All with the first.
    First,
    /// Each with the one before it.
    Previous,
}

/// A daemon in each host of a lab, all members of one formation, named like their hosts. They end with the lab.
#[derive(Debug)]
pub struct Daemons {
    programs: PathBuf,
    directory: PathBuf,
    ids: Vec<String>,
    processes: Vec<u32>,
}

impl Daemons {
    /// Starts them, and waits until all answer. `programs` has `peat-blobd` and `peat-blobctl`; all that they write is beneath
    /// `directory`; `flags` are for each daemon.
    ///
    /// # Errors
    /// What a program said that failed.
    pub fn start(lab: &Lab, programs: &Path, directory: &Path, peering: Peering, flags: &[&str]) -> Result<Self, LabError> {
        let programs = programs.canonicalize().map_err(LabError::io(programs.display().to_string()))?;
        let mut daemons = Self { programs, directory: directory.to_owned(), ids: Vec::new(), processes: Vec::new() };
        let formation = directory.join("formation");
        said(daemons.control().arg("keygen").arg(&formation))?;
        for host in lab.hosts() {
            let data = daemons.data(&host.name());
            said(
                daemons
                    .control()
                    .args(["enroll", "--name", &host.name()])
                    .args(["--formation".as_ref(), formation.as_os_str()])
                    .arg("--data")
                    .arg(&data),
            )?;
            let identity = said(daemons.control().args(["--output", "json", "identity", "show", "--data"]).arg(&data))?;
            daemons.ids.push(text(&identity, "endpoint_id")?);
        }
        for (index, host) in lab.hosts().iter().enumerate() {
            let peer = match peering {
                Peering::First => (index > 0).then_some(0),
                Peering::Previous => index.checked_sub(1),
            };
            let process = daemons.spawn(lab, host, peer, flags)?;
            daemons.processes.push(process);
        }
        for host in lab.hosts() {
            let start = Instant::now();
            while let Err(error) = daemons.ask(host, &["status"]) {
                if start.elapsed() > STARTING {
                    return Err(error);
                }
                thread::park_timeout(Duration::from_millis(20));
            }
        }
        Ok(daemons)
    }

    /// The inbox of a host's daemon.
    #[must_use]
    pub fn inbox(&self, host: &Host) -> PathBuf {
        self.directory.join(format!("{}-inbox", host.name()))
    }

    /// The process ids of the daemons, in order of the hosts.
    #[must_use]
    pub fn processes(&self) -> &[u32] {
        &self.processes
    }

    /// Sends a file or directory from one host's daemon to others', and waits for all receipts until the deadline.
    ///
    /// # Errors
    /// If the distribution is not completed, with what the daemons logged.
    pub fn send(&self, path: &Path, from: &Host, to: &[&Host], deadline: Duration) -> Result<(), LabError> {
        let mut arguments = vec!["send".to_owned(), path.display().to_string(), "--wait".into()];
        arguments.extend(["--timeout".into(), format!("{}s", deadline.as_secs())]);
        for host in to {
            arguments.extend(["--to".into(), self.ids[host.index()].clone()]);
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let said = self.ask(from, &arguments)?;
        let state = serde_json::from_slice::<serde_json::Value>(&said).ok().map(|said| said["status"]["state"].clone());
        match state {
            Some(state) if state == "completed" => Ok(()),
            other => Err(LabError::Command { what: "peat-blobctl send".into(), message: format!("the state is {other:?}") }),
        }
    }

    /// What the daemons logged, for who has to find out why something failed.
    #[must_use]
    pub fn logs(&self, lab: &Lab) -> String {
        let log = |host: &Host| fs::read_to_string(self.log(&host.name())).unwrap_or_default();
        lab.hosts().iter().map(|host| format!("--- {}\n{}", host.name(), log(host))).collect()
    }

    fn ask(&self, host: &Host, arguments: &[&str]) -> Result<Vec<u8>, LabError> {
        let socket = format!("unix://{}", self.data(&host.name()).join("api.sock").display());
        said(self.control().args(["--output", "json", "--daemon", &socket]).args(arguments))
    }

    fn spawn(&self, lab: &Lab, host: &Host, peer: Option<usize>, flags: &[&str]) -> Result<u32, LabError> {
        let name = host.name();
        let mut command = host.command(self.programs.join("peat-blobd"));
        command.arg("--data-dir").arg(self.data(&name)).arg("--inbox").arg(self.inbox(host));
        command.args(["--iroh-listen", &format!("{}:{PORT}", host.address())]).args(flags);
        if let Some(peer) = peer {
            command.args(["--peers", &format!("{}@{}:{PORT}", self.ids[peer], lab.hosts()[peer].address())]);
        }
        let log = File::create(self.log(&name)).map_err(LabError::io("cannot write a log"))?;
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        child.map(|child| child.id()).map_err(LabError::io("cannot start peat-blobd"))
    }

    fn control(&self) -> Command {
        Command::new(self.programs.join("peat-blobctl"))
    }

    fn data(&self, host: &str) -> PathBuf {
        self.directory.join(host)
    }

    fn log(&self, host: &str) -> PathBuf {
        self.directory.join(format!("{host}.log"))
    }
}

/// Runs a program to its end: what it said, or what it complained of.
fn said(command: &mut Command) -> Result<Vec<u8>, LabError> {
    let what = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().map_err(LabError::io(format!("cannot run {what}")))?;
    match output.status.success() {
        true => Ok(output.stdout),
        false => Err(LabError::Command { what, message: String::from_utf8_lossy(&output.stderr).trim().to_owned() }),
    }
}

fn text(json: &[u8], key: &str) -> Result<String, LabError> {
    let value = serde_json::from_slice::<serde_json::Value>(json).ok().and_then(|value| value[key].as_str().map(str::to_owned));
    value.ok_or_else(|| LabError::Command { what: "peat-blobctl".into(), message: format!("its answer has no {key}") })
}

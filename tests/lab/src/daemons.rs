//! Our own daemons in the hosts of a lab: one formation, a `peat-blobd` in each seat, and sends by `peat-blobctl`.
//!
//! They are real processes from built programs, and this knows of them what a user knows.

use std::fmt::Display;
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::{Host, Lab, LabError, host_name};

/// The UDP port of each: a host has no other programs at a seat's address, so it is free.
const PORT: u16 = 4433;
/// How long daemons may take to start.
const STARTING: Duration = Duration::from_secs(120);

/// Where a program runs, and which address it has there.
#[derive(Debug, Clone)]
pub struct Seat<'a> {
    /// In which host.
    pub host: &'a Host,
    /// What it is called.
    pub name: String,
    /// Its own address there.
    pub address: Ipv4Addr,
}

impl<'a> Seat<'a> {
    /// One in each host of a lab, named like it, with its address.
    #[must_use]
    pub fn each(lab: &'a Lab) -> Vec<Self> {
        lab.hosts().iter().map(|host| Self { host, name: host.name(), address: host.address() }).collect()
    }

    /// Several in one host, which talk over its loopback device.
    #[must_use]
    pub fn loopback(host: &'a Host, count: usize) -> Vec<Self> {
        let seat = |index| Self { host, name: host_name(index), address: Ipv4Addr::new(127, 0, 0, index as u8 + 1) };
        (0..count).map(seat).collect()
    }
}

/// Where `peat-blobd` and `peat-blobctl` are: where somebody says, or beside the program that asks.
///
/// # Errors
/// If it is not known where that program is.
pub fn programs(said: Option<&Path>) -> Result<PathBuf, LabError> {
    if let Some(said) = said {
        return Ok(said.to_owned());
    }
    let own = std::env::current_exe().map_err(LabError::io("cannot tell where this program is"))?;
    Ok(own.parent().unwrap_or(&own).to_owned())
}

/// How a program ends: what went wrong, if something did, goes to standard error, after its name.
#[must_use]
pub fn ended(name: &str, outcome: Result<(), impl Display>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// With whom a daemon keeps a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peering {
    /// All with the first.
    First,
    /// Each with the one before it.
    Previous,
}

/// A daemon in each seat, all members of one formation. They end with the lab.
#[derive(Debug)]
pub struct Daemons<'a> {
    programs: PathBuf,
    directory: PathBuf,
    seats: Vec<Seat<'a>>,
    ids: Vec<String>,
}

impl<'a> Daemons<'a> {
    /// Starts them, and waits until all answer. `programs` has `peat-blobd` and `peat-blobctl`; all that they write is beneath
    /// `directory`; `flags` are for each daemon.
    ///
    /// # Errors
    /// What a program said that failed.
    pub fn start(
        seats: Vec<Seat<'a>>,
        programs: &Path,
        directory: &Path,
        peering: Peering,
        flags: &[&str],
    ) -> Result<Self, LabError> {
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        Self::start_each(seats, programs, directory, peering, |_| flags.clone())
    }

    /// The same with other flags for each.
    ///
    /// # Errors
    /// What a program said that failed.
    pub fn start_each(
        seats: Vec<Seat<'a>>,
        programs: &Path,
        directory: &Path,
        peering: Peering,
        flags: impl Fn(&Seat<'_>) -> Vec<String>,
    ) -> Result<Self, LabError> {
        let programs = programs.canonicalize().map_err(LabError::io(programs.display().to_string()))?;
        let mut daemons = Self { programs, directory: directory.to_owned(), seats, ids: Vec::new() };
        let formation = directory.join("formation");
        said(Command::new(daemons.control()).arg("keygen").arg(&formation))?;
        for seat in &daemons.seats {
            let control = || Command::new(daemons.control());
            let data = daemons.data(seat);
            said(control().args(["enroll", "--name", &seat.name, "--formation"]).arg(&formation).arg("--data").arg(&data))?;
            let identity = said(control().args(["--output", "json", "identity", "show", "--data"]).arg(&data))?;
            daemons.ids.push(text(&identity, "endpoint_id")?);
        }
        for index in 0..daemons.seats.len() {
            let peer = match peering {
                Peering::First => (index > 0).then_some(0),
                Peering::Previous => index.checked_sub(1),
            };
            daemons.spawn(index, peer, &flags(&daemons.seats[index]))?;
        }
        for seat in &daemons.seats {
            let start = Instant::now();
            while let Err(error) = daemons.ask(seat, &["status"]) {
                if start.elapsed() > STARTING {
                    return Err(error);
                }
                thread::park_timeout(Duration::from_millis(20));
            }
        }
        Ok(daemons)
    }

    /// The inbox of a seat's daemon.
    #[must_use]
    pub fn inbox(&self, seat: usize) -> PathBuf {
        self.directory.join(format!("{}-inbox", self.seats[seat].name))
    }

    /// Waits until the first daemon has connections with so many others.
    ///
    /// # Errors
    /// If it does not get them by the deadline.
    pub fn connected(&self, count: usize, deadline: Duration) -> Result<(), LabError> {
        let start = Instant::now();
        loop {
            let said = self.ask(&self.seats[0], &["peers"])?;
            let peers = serde_json::from_slice::<serde_json::Value>(&said).unwrap_or_default();
            let peers = peers["peers"].as_array().into_iter().flatten();
            if peers.filter(|peer| peer["connected"] == true).count() >= count {
                return Ok(());
            }
            if start.elapsed() > deadline {
                let message = format!("it has no connections with {count} others after {deadline:?}");
                return Err(LabError::Command { what: "peat-blobd".into(), message });
            }
            thread::park_timeout(Duration::from_millis(20));
        }
    }

    /// Sends a file or directory from the first seat to others, and waits for all receipts until the deadline.
    ///
    /// # Errors
    /// If the distribution is not completed.
    pub fn send(&self, path: &Path, to: &[usize], deadline: Duration) -> Result<(), LabError> {
        let said = self.send_with(path, to, &["--wait", "--timeout", &format!("{}s", deadline.as_secs())])?;
        let state = serde_json::from_slice::<serde_json::Value>(&said).ok().map(|said| said["status"]["state"].clone());
        match state {
            Some(state) if state == "completed" => Ok(()),
            other => Err(LabError::Command { what: "peat-blobctl send".into(), message: format!("the state is {other:?}") }),
        }
    }

    /// Sends a file or directory from the first seat to others, and waits for nothing.
    ///
    /// # Errors
    /// If it is not taken.
    pub fn offer(&self, path: &Path, to: &[usize]) -> Result<(), LabError> {
        self.send_with(path, to, &[]).map(|_| ())
    }

    /// Sends a file or directory from the first seat to others, with more flags of `peat-blobctl send`; returns what that says as JSON.
    ///
    /// # Errors
    /// If it is not taken, or, with `--wait`, not completed.
    pub fn send_with(&self, path: &Path, to: &[usize], flags: &[&str]) -> Result<Vec<u8>, LabError> {
        let path = path.display().to_string();
        let to = to.iter().flat_map(|seat| ["--to", &self.ids[*seat]]);
        let arguments: Vec<&str> = ["send", &path].into_iter().chain(to).chain(flags.iter().copied()).collect();
        self.ask(&self.seats[0], &arguments)
    }

    /// What the daemons logged, for who has to find out why something failed.
    #[must_use]
    pub fn logs(&self) -> String {
        let log = |seat| format!("--- {}\n{}", seat, fs::read_to_string(self.log(seat)).unwrap_or_default());
        self.seats.iter().map(|seat| log(&seat.name)).collect()
    }

    /// The program runs in the host, so that what it costs is the host's.
    fn ask(&self, seat: &Seat<'_>, arguments: &[&str]) -> Result<Vec<u8>, LabError> {
        let socket = format!("unix://{}", self.data(seat).join("api.sock").display());
        said(seat.host.command(self.control()).args(["--output", "json", "--daemon", &socket]).args(arguments))
    }

    fn spawn(&self, index: usize, peer: Option<usize>, flags: &[String]) -> Result<(), LabError> {
        let seat = &self.seats[index];
        let mut command = seat.host.command(self.programs.join("peat-blobd"));
        command.arg("--data-dir").arg(self.data(seat)).arg("--inbox").arg(self.inbox(index));
        command.args(["--iroh-listen", &format!("{}:{PORT}", seat.address)]).args(flags);
        if let Some(peer) = peer {
            command.args(["--peers", &format!("{}@{}:{PORT}", self.ids[peer], self.seats[peer].address)]);
        }
        let log = File::create(self.log(&seat.name)).map_err(LabError::io("cannot write a log"))?;
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        child.map(|_| ()).map_err(LabError::io("cannot start peat-blobd"))
    }

    fn control(&self) -> PathBuf {
        self.programs.join("peat-blobctl")
    }

    fn data(&self, seat: &Seat<'_>) -> PathBuf {
        self.directory.join(&seat.name)
    }

    fn log(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.log"))
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

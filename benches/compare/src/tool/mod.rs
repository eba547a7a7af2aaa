//! The tools that are compared: which they are, what they can do, and the one step of each that is timed.
//!
//! For all the step begins with files at the sender and ends when every receiver has verified them and they are on its disk
//! (fsync). Servers run before it begins; what is made anew for each file (hashes, a torrent) is part of it.
mod aria2;
mod registry;
mod rsync;
mod sendme;
mod syncthing;
mod tracker;

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use peat_blob_lab::{Daemons, Host, Peering};

pub(crate) use registry::pull_back;

use crate::Outcome;
use crate::work::{Copy, Scene, Task, Work};

/// What is compared. What is named is the congestion control of TCP; ours and sendme, which use QUIC, have their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tool {
    Ours,
    Rsync(&'static str),
    Ssh,
    Syncthing(&'static str),
    Aria2,
    Sendme,
    Registry,
}

/// All of them, in the order of their turns.
pub(crate) const TOOLS: [Tool; 9] = [
    Tool::Ours,
    Tool::Rsync(CONTROL),
    Tool::Rsync("cubic"),
    Tool::Ssh,
    Tool::Syncthing(CONTROL),
    Tool::Syncthing("cubic"),
    Tool::Aria2,
    Tool::Sendme,
    Tool::Registry,
];
/// Where one congestion control is enough, it is this one.
const CONTROL: &str = "bbr";

/// What is timed. It may be done again when the files have changed.
pub(crate) type Step<'a> = Box<dyn Fn() -> Outcome<()> + 'a>;

impl Tool {
    pub(crate) fn name(self) -> String {
        match self {
            Self::Ours => "peat-blob".into(),
            Self::Rsync(control) => format!("rsync, {control}"),
            Self::Ssh => format!("rsync over ssh, {CONTROL}"),
            Self::Syncthing(control) => format!("syncthing, {control}"),
            Self::Aria2 => format!("aria2, {CONTROL}"),
            Self::Sendme => "sendme".into(),
            Self::Registry => format!("docker-registry, {CONTROL}"),
        }
    }

    /// The congestion control of its TCP.
    fn control(self) -> &'static str {
        match self {
            Self::Rsync(control) | Self::Syncthing(control) => control,
            _ => CONTROL,
        }
    }

    /// The programs that it needs, each with the option that makes it tell its version.
    fn programs(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Ours => &[],
            Self::Rsync(_) => &[("rsync", "--version")],
            Self::Ssh => &[("rsync", "--version"), ("ssh", "-V"), ("/usr/sbin/sshd", "-V")],
            Self::Syncthing(_) => &[("syncthing", "--version")],
            Self::Aria2 => &[("aria2c", "--version"), ("mktorrent", "-h")],
            Self::Sendme => &[(sendme::PROGRAM, "--version")],
            Self::Registry => &[("skopeo", "--version"), ("docker-registry", "--version")],
        }
    }

    /// The packages of Debian that it comes in.
    pub(crate) fn packages(self) -> &'static [&'static str] {
        match self {
            Self::Ours | Self::Sendme => &[],
            Self::Rsync(_) => &["rsync"],
            Self::Ssh => &["rsync", "openssh-server"],
            Self::Syncthing(_) => &["syncthing"],
            Self::Aria2 => &["aria2", "mktorrent"],
            Self::Registry => &["docker-registry", "skopeo"],
        }
    }

    /// The crate that it comes in.
    pub(crate) fn a_crate(self) -> Option<&'static str> {
        (self == Self::Sendme).then_some(sendme::PROGRAM)
    }

    /// What its first program says of itself; none if one of them is not installed.
    pub(crate) fn version(self) -> Option<String> {
        if self == Self::Ours {
            return Some(format!("peat-blob {}", env!("CARGO_PKG_VERSION")));
        }
        let mut said = self.programs().iter().map(|(program, option)| Command::new(program).arg(option).output().ok());
        // ssh is what sets it apart from the other rsync, and says so on standard error.
        let which = usize::from(self == Self::Ssh);
        let said = said.by_ref().collect::<Option<Vec<_>>>()?;
        let text = [&said[which].stdout[..], &said[which].stderr[..]].concat();
        String::from_utf8_lossy(&text).lines().next().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
    }

    /// Refuses what this machine does not have.
    pub(crate) fn is_here(self) -> Result<(), String> {
        self.version().ok_or("not installed")?;
        let control = self.control();
        // Hosts may choose only from what the machine allows to all.
        let allowed = fs::read_to_string("/proc/sys/net/ipv4/tcp_allowed_congestion_control").unwrap_or_default();
        match matches!(self, Self::Ours | Self::Sendme) || allowed.split_whitespace().any(|one| one == control) {
            true => Ok(()),
            false => Err(format!("{control} is not in sysctl net.ipv4.tcp_allowed_congestion_control")),
        }
    }

    /// Whether it makes sense here: congestion controls differ where packets are lost, BitTorrent is for many, a registry for
    /// images, and who has no connection when there is nothing to do is not idle.
    pub(crate) fn fits(self, work: &Work) -> bool {
        match (self, work.task) {
            (Self::Ours, _) => true,
            (Self::Sendme, Task::Image(_) | Task::Idle(..)) => false,
            (Self::Sendme, _) => true,
            // A registry alone knows of no other host.
            (Self::Registry, Task::Image(Copy::Cold)) => work.profile.is_some(),
            (Self::Registry, task) => matches!(task, Task::Image(_)),
            (_, Task::Image(_)) => false,
            (_, task) if self.control() != CONTROL => task == Task::File && matches!(work.profile, Some("satcom" | "radio")),
            (Self::Syncthing(_), _) => true,
            (_, Task::Idle(..)) => false,
            (Self::Rsync(_), _) => true,
            (Self::Ssh, _) => work.receivers == 1,
            (Self::Aria2, _) => work.receivers > 1,
        }
    }

    /// Why it cannot do this, though it should.
    pub(crate) fn lacks(self, work: &Work) -> Option<&'static str> {
        match (self, work.task) {
            (Self::Ours, Task::Image(_)) if Command::new("skopeo").arg("--version").output().is_err() => {
                Some("skopeo, the client, is not installed")
            }
            (Self::Sendme, Task::Version) => Some("cannot: it replaces no file"),
            _ => None,
        }
    }

    /// Whether nobody on the way can read what it carries.
    pub(crate) fn encrypts(self) -> bool {
        matches!(self, Self::Ours | Self::Ssh | Self::Syncthing(_) | Self::Sendme)
    }

    /// Starts the servers, and waits until they answer.
    pub(crate) fn prepare<'a>(self, scene: &'a Scene<'a>) -> Outcome<Step<'a>> {
        for seat in scene.receivers() {
            fs::create_dir_all(scene.inbox(seat))?;
        }
        if !matches!(self, Self::Ours | Self::Sendme) {
            for seat in scene.seats {
                seat.host.enter(|| fs::write("/proc/sys/net/ipv4/tcp_congestion_control", self.control()))??;
            }
        }
        match self {
            Self::Ours if matches!(scene.work.task, Task::Image(_)) => registry::ours(scene),
            Self::Ours => ours(scene),
            Self::Rsync(_) => rsync::daemon(scene),
            Self::Ssh => rsync::ssh(scene),
            Self::Syncthing(_) => syncthing::prepare(scene),
            Self::Aria2 => aria2::prepare(scene),
            Self::Sendme => sendme::prepare(scene),
            Self::Registry => registry::prepare(scene),
        }
    }
}

fn ours<'a>(scene: &'a Scene<'a>) -> Outcome<Step<'a>> {
    let flags = ["--log=warn"];
    let daemons = Daemons::start(scene.seats.to_vec(), scene.programs, scene.directory, Peering::First, &flags)?;
    let to: Vec<usize> = (1..scene.seats.len()).collect();
    daemons.connected(to.len(), scene.deadline)?;
    Ok(Box::new(move || Ok(daemons.send(scene.payload, &to, scene.deadline)?)))
}

fn quiet(command: &mut Command) -> &mut Command {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null())
}

/// Waits until a server takes connections.
fn answers(from: &Host, address: SocketAddr, deadline: Duration) -> Outcome<()> {
    let taken = || Ok(from.enter(|| TcpStream::connect_timeout(&address, Duration::from_secs(5)))?.is_ok());
    until(deadline, &format!("nothing answers at {address}"), taken)
}

/// Waits until something is so. It is asked every ten milliseconds.
fn until(deadline: Duration, otherwise: &str, mut is_so: impl FnMut() -> Outcome<bool>) -> Outcome<()> {
    let begun = Instant::now();
    while !is_so()? {
        if begun.elapsed() > deadline {
            return Err(format!("{otherwise} by the deadline").into());
        }
        thread::park_timeout(Duration::from_millis(10));
    }
    Ok(())
}

fn all_end_well(mut children: Vec<Child>, name: &str, deadline: Duration) -> Outcome<()> {
    let begun = Instant::now();
    while let Some(child) = children.last_mut() {
        match child.try_wait()? {
            Some(status) if status.success() => drop(children.pop()),
            Some(status) => return Err(format!("{name} ended with {status}").into()),
            None if begun.elapsed() > deadline => return Err(format!("{name} is not done by the deadline").into()),
            None => thread::park_timeout(Duration::from_millis(5)),
        }
    }
    Ok(())
}

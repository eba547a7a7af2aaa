//! The tools that are compared: how each is started, and the one step of it that is timed.
//!
//! For all the step begins with a file at the sender and ends when every receiver has verified it and it is on its disk (fsync).
//! Servers run before it begins; what is made anew for each file (hashes, a torrent) is part of it.

use std::fs;
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use peat_blob_lab::{Daemons, Host, Peering};

use crate::Outcome;
use crate::tracker::Tracker;
use crate::work::{Scene, Work};

const RSYNC_PORT: u16 = 8730;

/// What is compared. What is named is the congestion control of TCP; ours has its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tool {
    Ours,
    Rsync(&'static str),
    Aria2,
}

/// All of them, in the order of their turns.
pub(crate) const TOOLS: [Tool; 4] = [Tool::Ours, Tool::Rsync("bbr"), Tool::Rsync("cubic"), Tool::Aria2];
/// Where one congestion control is enough, it is this one.
const CONTROL: &str = "bbr";

/// What is timed.
pub(crate) type Step<'a> = Box<dyn FnOnce() -> Outcome<()> + 'a>;

impl Tool {
    pub(crate) fn name(self) -> String {
        match self {
            Self::Ours => "peat-blob".into(),
            Self::Rsync(control) => format!("rsync, {control}"),
            Self::Aria2 => format!("aria2, {CONTROL}"),
        }
    }

    /// The first line that the program says of itself; none if it is not installed.
    pub(crate) fn version(self) -> Option<String> {
        let program = match self {
            Self::Ours => return Some(format!("peat-blob {}", env!("CARGO_PKG_VERSION"))),
            Self::Rsync(_) => "rsync",
            Self::Aria2 => "aria2c",
        };
        let said = Command::new(program).arg("--version").output().ok()?;
        String::from_utf8_lossy(&said.stdout).lines().next().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
    }

    /// Refuses what this machine does not have.
    pub(crate) fn is_here(self) -> Result<(), String> {
        let control = match self {
            Self::Ours => return Ok(()),
            Self::Rsync(control) => control,
            Self::Aria2 => CONTROL,
        };
        self.version().ok_or("not installed")?;
        if self == Self::Aria2 {
            Command::new("mktorrent").output().map_err(|_| "mktorrent is not installed")?;
        }
        // Hosts may choose only from what the machine allows to all.
        let allowed = fs::read_to_string("/proc/sys/net/ipv4/tcp_allowed_congestion_control").unwrap_or_default();
        match allowed.split_whitespace().any(|one| one == control) {
            true => Ok(()),
            false => Err(format!("{control} is not in sysctl net.ipv4.tcp_allowed_congestion_control")),
        }
    }

    /// Whether it makes sense here: congestion controls differ where packets are lost, and BitTorrent is for many.
    pub(crate) fn fits(self, work: &Work) -> bool {
        match self {
            Self::Ours => true,
            Self::Rsync(control) => control == CONTROL || work.profile == Some("satcom"),
            Self::Aria2 => work.receivers > 1,
        }
    }

    /// Starts the servers, and waits until they answer.
    pub(crate) fn prepare<'a>(self, scene: &'a Scene<'a>) -> Outcome<Step<'a>> {
        for seat in scene.receivers() {
            fs::create_dir_all(scene.inbox(seat))?;
        }
        match self {
            Self::Ours => ours(scene),
            Self::Rsync(control) => {
                congestion(scene, control)?;
                rsync(scene)
            }
            Self::Aria2 => {
                congestion(scene, CONTROL)?;
                aria2(scene)
            }
        }
    }
}

fn ours<'a>(scene: &'a Scene<'a>) -> Outcome<Step<'a>> {
    let flags = ["--log=warn"];
    let daemons = Daemons::start(scene.seats.to_vec(), scene.programs, scene.directory, Peering::First, &flags)?;
    let to: Vec<usize> = (1..scene.seats.len()).collect();
    daemons.connected(to.len(), scene.deadline)?;
    Ok(Box::new(move || Ok(daemons.send(scene.file, &to, scene.deadline)?)))
}

fn rsync<'a>(scene: &'a Scene<'a>) -> Outcome<Step<'a>> {
    for seat in scene.receivers() {
        let configuration = scene.directory.join(format!("{}.conf", seat.name));
        let inbox = scene.inbox(seat);
        fs::write(
            &configuration,
            format!(
                "use chroot = no\nuid = 0\ngid = 0\nread only = no\naddress = {}\nport = {RSYNC_PORT}\n\
                 [inbox]\npath = {}\n",
                seat.address,
                inbox.display()
            ),
        )?;
        let mut daemon = seat.host.command("rsync");
        daemon.args(["--daemon", "--no-detach", "--config"]).arg(&configuration);
        quiet(&mut daemon).spawn()?;
        answers(scene.sender().host, (seat.address, RSYNC_PORT).into(), scene.deadline)?;
    }
    Ok(Box::new(|| {
        let push = |seat: &peat_blob_lab::Seat<'_>| {
            let mut push = scene.sender().host.command("rsync");
            push.arg("--fsync").arg(scene.file).arg(format!("rsync://{}:{RSYNC_PORT}/inbox/", seat.address));
            Ok(push.stdin(Stdio::null()).spawn()?)
        };
        let pushes = scene.receivers().iter().map(push).collect::<Outcome<Vec<Child>>>()?;
        all_end_well(pushes, "rsync", scene.deadline)
    }))
}

fn aria2<'a>(scene: &'a Scene<'a>) -> Outcome<Step<'a>> {
    let sender = scene.sender();
    let tracker = Tracker::start(sender.host, sender.address)?;
    // A receiver is done when its file is on its disk.
    let hook = scene.directory.join("done.sh");
    fs::write(&hook, "#!/bin/sh\nsync \"$3\" && touch \"$3.done\"\n")?;
    rustix::fs::chmod(&hook, rustix::fs::Mode::from_raw_mode(0o755))?;
    Ok(Box::new(move || {
        let torrent = scene.directory.join("payload.torrent");
        let mut make = sender.host.command("mktorrent");
        make.arg("-a").arg(tracker.announce()).arg("-o").arg(&torrent).arg(scene.file);
        all_end_well(vec![quiet(&mut make).spawn()?], "mktorrent", scene.deadline)?;
        let start = |host: &Host, directory: &std::path::Path| {
            let mut client = host.command("aria2c");
            client.args(["--quiet", "--no-conf", "--enable-dht=false", "--enable-dht6=false", "--bt-enable-lpd=false"]);
            client.args(["--seed-ratio=0", "--file-allocation=none", "--listen-port=6881", "--bt-max-peers=0"]);
            client.args(["--check-integrity=true", "--bt-hash-check-seed=true", "--allow-overwrite=true"]);
            client.arg("--on-bt-download-complete").arg(&hook).arg("--dir").arg(directory).arg(&torrent);
            quiet(&mut client).spawn()
        };
        start(sender.host, scene.file.parent().ok_or("the file has a directory")?)?;
        for seat in scene.receivers() {
            start(seat.host, &scene.inbox(seat))?;
        }
        let done = |seat| scene.inbox(seat).join("payload.bin.done").exists();
        let begun = Instant::now();
        while !scene.receivers().iter().all(done) {
            if begun.elapsed() > scene.deadline {
                return Err("aria2 is not done by the deadline".into());
            }
            thread::park_timeout(Duration::from_millis(10));
        }
        Ok(())
    }))
}

/// Which congestion control TCP has in each host.
fn congestion(scene: &Scene<'_>, control: &str) -> Outcome<()> {
    for seat in scene.seats {
        seat.host.enter(|| fs::write("/proc/sys/net/ipv4/tcp_congestion_control", control))??;
    }
    Ok(())
}

fn quiet(command: &mut Command) -> &mut Command {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null())
}

/// Waits until a server takes connections.
fn answers(from: &Host, address: std::net::SocketAddr, deadline: Duration) -> Outcome<()> {
    let begun = Instant::now();
    while from.enter(|| TcpStream::connect_timeout(&address, Duration::from_secs(5)))?.is_err() {
        if begun.elapsed() > deadline {
            return Err(format!("nothing answers at {address}").into());
        }
        thread::park_timeout(Duration::from_millis(20));
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

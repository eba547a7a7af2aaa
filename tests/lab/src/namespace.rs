//! Network namespaces: made, entered, emptied, removed, and swept up where an earlier lab was killed.
//!
//! A name tells whose it is: `pbl-PROCESS-START-LAB-HOST`. A namespace whose process is gone, or is another one that started at
//! another time, belongs to nobody. No other namespace is ever touched.

use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tun_rs::{DeviceBuilder, SyncDevice};

use crate::LabError;

const PREFIX: &str = "pbl-";
const DIRECTORY: &str = "/run/netns";
/// The name of the device in each host.
const DEVICE: &str = "lab0";
/// How long processes may take to go after they were killed.
const GOING: Duration = Duration::from_secs(30);

/// A network namespace of this process's. It goes, with all processes in it, when this is dropped.
#[derive(Debug)]
pub(crate) struct Namespace(String);

impl Namespace {
    /// Makes one for a host of a lab.
    pub(crate) fn create(lab: u32, host: &str) -> Result<Self, LabError> {
        let pid = std::process::id();
        let start = started(pid).ok_or_else(|| LabError::io("/proc")(io::ErrorKind::NotFound.into()))?;
        let name = format!("{PREFIX}{pid}-{start}-{lab}-{host}");
        ip(&["netns", "add", &name])?;
        Ok(Self(name))
    }

    /// A number for a lab of this process.
    pub(crate) fn next_lab() -> u32 {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn path(&self) -> PathBuf {
        Path::new(DIRECTORY).join(&self.0)
    }

    /// Runs something in it, in a thread of its own. Sockets and devices that it opens belong to the namespace for good.
    pub(crate) fn enter<T: Send>(&self, what: impl FnOnce() -> T + Send) -> Result<T, LabError> {
        let entering = || -> io::Result<T> {
            let namespace = fs::File::open(self.path())?;
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(what())
        };
        let outcome = thread::scope(|scope| scope.spawn(entering).join());
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic)).map_err(LabError::io(format!("cannot enter {}", self.0)))
    }

    /// Opens a TUN device in it, with this address in a network of 24 bits. It goes when it is closed.
    pub(crate) fn open_device(&self, address: std::net::Ipv4Addr, mtu: u16) -> Result<SyncDevice, LabError> {
        let name = self.0.as_str();
        let open = || {
            // The kernel would send packets of its own accord otherwise. Where there is no IPv6 there is nothing to turn off.
            for scope in ["all", "default"] {
                match fs::write(format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6"), "1") {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
            let device = DeviceBuilder::new().name(DEVICE).mtu(mtu).tx_queue_len(1000).build_sync()?;
            device.set_nonblocking(true)?;
            Ok(device)
        };
        let device = self.enter(open)?.map_err(LabError::io(format!("cannot open a TUN device in {name}")))?;
        ip(&["-n", name, "link", "set", "lo", "up"])?;
        ip(&["-n", name, "address", "add", &format!("{address}/24"), "dev", DEVICE])?;
        ip(&["-n", name, "link", "set", DEVICE, "up"])?;
        Ok(device)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.0) {
            eprintln!("cannot remove the network namespace {}: {error}", self.0);
        }
    }
}

/// Removes the namespaces of labs whose processes are gone.
pub(crate) fn sweep() -> Result<(), LabError> {
    let Ok(entries) = fs::read_dir(DIRECTORY) else { return Ok(()) };
    for name in entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
        if owner(&name).is_some_and(|(pid, start)| started(pid).as_deref() != Some(start)) {
            remove(&name)?;
        }
    }
    Ok(())
}

/// The process that a namespace's name names, and when it started.
fn owner(name: &str) -> Option<(u32, &str)> {
    let mut parts = name.strip_prefix(PREFIX)?.splitn(3, '-');
    let owner = (parts.next()?.parse().ok()?, parts.next()?);
    parts.next().map(|_| owner)
}

/// When a process started, as the kernel counts it; None if it is gone. See proc_pid_stat(5), field 22.
fn started(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(19).map(str::to_owned)
}

/// Kills what runs in a namespace, and removes it.
fn remove(name: &str) -> Result<(), LabError> {
    let deadline = Instant::now() + GOING;
    loop {
        let running = processes(&Path::new(DIRECTORY).join(name));
        if running.is_empty() || Instant::now() > deadline {
            break;
        }
        for pid in running {
            // One that has ended meanwhile is what this asks for.
            let _ = kill_process(pid, Signal::KILL);
        }
        thread::sleep(Duration::from_millis(5));
    }
    match ip(&["netns", "delete", name]) {
        // Another lab has swept it up meanwhile.
        Err(_) if !Path::new(DIRECTORY).join(name).exists() => Ok(()),
        outcome => outcome,
    }
}

/// The processes in a namespace. This process is not among them: it enters with threads only.
fn processes(namespace: &Path) -> Vec<Pid> {
    let identity = |path: &Path| fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
    let Some(wanted) = identity(namespace) else { return Vec::new() };
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| identity(Path::new(&format!("/proc/{pid}/ns/net"))) == Some(wanted)).filter_map(Pid::from_raw).collect()
}

/// Refuses a machine that has not what hosts need.
pub(crate) fn check_programs() -> Result<(), LabError> {
    for (program, package) in [("ip", "iproute2"), ("nsenter", "util-linux")] {
        let missing = LabError::Missing { program, package };
        Command::new(program).arg("-V").output().map_err(|_| missing)?;
    }
    Ok(())
}

/// Runs iproute2.
fn ip(arguments: &[&str]) -> Result<(), LabError> {
    let output = Command::new("ip").args(arguments).stdin(Stdio::null()).output().map_err(LabError::io("cannot run ip"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(LabError::Command {
            what: format!("ip {}", arguments.join(" ")),
            message: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_whose_it_is_and_foreign_names_are_nobodys() {
        assert_eq!(owner("pbl-12-345-0-a"), Some((12, "345")));
        for foreign in ["", "pbl-", "pbl-12", "pbl-12-345", "pbl-x-345-0-a", "cni-12-345-0-a"] {
            assert_eq!(owner(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn a_process_has_one_start_and_one_that_is_gone_has_none() {
        let me = std::process::id();
        assert!(started(me).is_some_and(|start| start.parse::<u64>().is_ok()));
        assert_eq!(started(me), started(me));
        assert_eq!(started(u32::MAX), None);
    }
}

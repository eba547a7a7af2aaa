//! The command that is run for each file that came into the inbox. It is told of the file in its environment, never through a
//! shell, one after the other. What it does and how it ends changes nothing about the file or its receipt.
//!
//! Files wait in the node's queue on disk until the command has ended for them: after a crash it is run again for the file that
//! it was run for, and for those that waited. A command that fails is not run again for that file; one that cannot be started is.

use std::ffi::OsString;
use std::io::{PipeReader, Read as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use peat_blobcore::exchange::Arrival;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use crate::api::Daemon;

/// How long after a command could not be started it is tried again.
const START_AGAIN: Duration = Duration::from_secs(10);
/// How often a run looks whether the daemon ends.
const LOOK: Duration = Duration::from_millis(100);
/// What is logged of one run.
const MAX_OUTPUT_BYTES: usize = 16 * 1024;
/// Variables of the daemon that the command has too. The rest may hold secrets.
const INHERITED: [&str; 7] = ["PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR"];

/// How the command has done since the daemon started.
#[derive(Debug, Default)]
pub(crate) struct Hooks {
    pub(crate) runs: AtomicU64,
    pub(crate) failures: AtomicU64,
    problem: Mutex<Option<String>>,
}

impl Hooks {
    /// Why the last run, or the last attempt at one, did not succeed.
    pub(crate) fn problem(&self) -> Option<String> {
        self.problem.lock().expect("nothing panics while it holds the problem").clone()
    }

    fn say(&self, problem: Option<String>) {
        *self.problem.lock().expect("nothing panics while it holds the problem") = problem;
    }
}

/// Why the command did not succeed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("it cannot be started: {0}")]
    Start(std::io::Error),
    #[error("it ended with {0}")]
    Status(ExitStatus),
    #[error("it had not ended after {}s, and was killed", .0.as_secs())]
    Deadline(Duration),
    #[error("the daemon ended first")]
    Stopped,
}

/// What is run, and where.
#[derive(Debug, Clone)]
pub(crate) struct Hook {
    pub(crate) program: PathBuf,
    pub(crate) inbox: PathBuf,
    pub(crate) deadline: Duration,
}

/// Runs the command for what arrives until the daemon ends.
pub(crate) async fn run(daemon: Arc<Daemon>, hook: Hook) {
    let stop = Arc::new(AtomicBool::new(false));
    loop {
        let arrival = tokio::select! {
            // First: what was cut off by the daemon's end waits again, and is not to be begun once more by a daemon that ends.
            biased;
            () = daemon.stopped() => return,
            arrival = daemon.node.arrival() => arrival,
        };
        let ended = match arrival {
            Ok((number, arrival)) => see_to(&daemon, &hook, number, arrival, &stop).await,
            Err(error) => {
                tracing::error!(%error, "what came into the inbox cannot be looked up, and its hook is not run");
                daemon.hooks.say(Some(error.to_string()));
                Some(START_AGAIN)
            }
        };
        if let Some(rest) = ended {
            tokio::select! {
                () = tokio::time::sleep(rest) => {}
                () = daemon.stopped() => return,
            }
        }
    }
}

/// Runs it for one file; gives how long to rest before the next.
async fn see_to(daemon: &Daemon, hook: &Hook, number: u64, arrival: Arrival, stop: &Arc<AtomicBool>) -> Option<Duration> {
    let sender = daemon.node.members().into_iter().find(|(id, _)| *id == arrival.sender);
    let sender = sender.map(|(_, record)| record.name).unwrap_or_default();
    let variables = variables(&hook.inbox, &arrival, &sender);
    let (path, distribution) = (arrival.path, arrival.distribution);
    let mut running = tokio::task::spawn_blocking({
        let (hook, stop) = (hook.clone(), Arc::clone(stop));
        move || execute(&hook, variables, &stop)
    });
    let ended = tokio::select! {
        ended = &mut running => ended,
        () = daemon.stopped() => {
            stop.store(true, Ordering::Relaxed);
            running.await
        }
    };
    let ended = ended.expect("a run does not panic, and is not cancelled");
    let failure = match ended {
        Ok(()) => None,
        Err(Failure::Stopped) => return None,
        Err(failure) => Some(failure),
    };
    let hooks = &daemon.hooks;
    hooks.runs.fetch_add(1, Ordering::Relaxed);
    if let Some(failure) = &failure {
        hooks.failures.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(path, %distribution, %failure, "the inbox hook failed");
    }
    hooks.say(failure.as_ref().map(|failure| format!("{failure} ({path:?})")));
    if matches!(failure, Some(Failure::Start(_))) {
        return Some(START_AGAIN);
    }
    if let Err(error) = daemon.node.arrival_done(number).await {
        tracing::error!(path, %error, "that the inbox hook was run cannot be noted: it will be run again");
        return Some(START_AGAIN);
    }
    None
}

/// What the command is told. A value with a NUL cannot be told; what the sender left out is not set.
fn variables(inbox: &Path, arrival: &Arrival, sender: &str) -> Vec<(&'static str, OsString)> {
    let file = &arrival.file;
    let path = std::path::absolute(inbox).unwrap_or_else(|_| inbox.to_owned()).join(&arrival.path);
    let told: [(&str, Option<OsString>); 15] = [
        ("PEAT_BLOB_DISTRIBUTION", Some(arrival.distribution.to_string().into())),
        ("PEAT_BLOB_INDEX", Some(arrival.index.to_string().into())),
        ("PEAT_BLOB_SENDER", Some(arrival.sender.to_string().into())),
        ("PEAT_BLOB_SENDER_NAME", Some(sender.into())),
        ("PEAT_BLOB_PATH", Some(path.into())),
        ("PEAT_BLOB_RELATIVE_PATH", Some(OsString::from_vec(file.path.clone()))),
        ("PEAT_BLOB_ROOT", Some(file.root.clone().into())),
        ("PEAT_BLOB_SIZE", Some(file.size.to_string().into())),
        ("PEAT_BLOB_SHA256", Some(file.sha256.to_string().into())),
        ("PEAT_BLOB_BLAKE3", Some(file.blob.to_string().into())),
        ("PEAT_BLOB_CONTENT_TYPE", file.content_type.clone().map(Into::into)),
        ("PEAT_BLOB_DISPLAY_NAME", file.display_name.clone().map(Into::into)),
        ("PEAT_BLOB_BUNDLE", Some(arrival.bundle.clone().into())),
        ("PEAT_BLOB_PRIORITY", Some(arrival.priority.to_string().into())),
        ("PEAT_BLOB_MADE_AT", Some(arrival.made_at.to_string().into())),
    ];
    let told = told.into_iter().filter_map(|(name, value)| Some((name, value?)));
    told.filter(|(_, value)| !value.as_bytes().contains(&0)).collect()
}

fn execute(hook: &Hook, variables: Vec<(&'static str, OsString)>, stop: &AtomicBool) -> Result<(), Failure> {
    let (mut output, into) = std::io::pipe().map_err(Failure::Start)?;
    let mut command = Command::new(&hook.program);
    command.env_clear().current_dir(&hook.inbox).stdin(Stdio::null()).process_group(0);
    command.envs(INHERITED.iter().filter_map(|name| Some((*name, std::env::var_os(name)?)))).envs(variables);
    command.stdout(into.try_clone().map_err(Failure::Start)?).stderr(into);
    let spawned = command.spawn();
    // It holds the daemon's end of the pipe, which would never close.
    drop(command);
    let mut child = spawned.map_err(Failure::Start)?;
    let ended = wait(&mut child, &mut output, hook.deadline, stop);
    if ended.is_err() {
        // And whatever it started.
        if let Err(error) = kill_process_group(Pid::from_child(&child), Signal::KILL) {
            tracing::warn!(%error, "the inbox hook cannot be killed");
        }
        let _ = child.wait();
    }
    match ended? {
        status if status.success() => Ok(()),
        status => Err(Failure::Status(status)),
    }
}

/// Waits for the command, and logs what it says.
fn wait(child: &mut Child, output: &mut PipeReader, deadline: Duration, stop: &AtomicBool) -> Result<ExitStatus, Failure> {
    let begun = Instant::now();
    let pid = pidfd_open(Pid::from_child(child), PidfdFlags::empty()).map_err(|error| Failure::Start(error.into()))?;
    let (mut said, mut open, mut buffer) = (Said::default(), true, [0; 4096]);
    let ended = loop {
        let rest = deadline.saturating_sub(begun.elapsed());
        if rest.is_zero() {
            break Err(Failure::Deadline(deadline));
        }
        if stop.load(Ordering::Relaxed) {
            break Err(Failure::Stopped);
        }
        let mut fds = vec![PollFd::new(&pid, PollFlags::IN)];
        fds.extend(open.then(|| PollFd::new(&*output, PollFlags::IN)));
        let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(rest.min(LOOK).subsec_nanos()) };
        if poll(&mut fds, Some(&timeout)).is_err() {
            continue;
        }
        let has_ended = !fds[0].revents().is_empty();
        let speaks = fds.get(1).is_some_and(|fd| !fd.revents().is_empty());
        // What it said last is read too; what it left running may say more, and is not waited for.
        if speaks && !(has_ended && said.is_full()) {
            match output.read(&mut buffer) {
                Ok(read) if read > 0 => said.hear(&buffer[..read]),
                _ => open = false,
            }
        } else if has_ended {
            break child.wait().map_err(Failure::Start);
        }
    };
    said.tell();
    ended
}

/// What a run said, as far as it is logged.
#[derive(Default)]
struct Said {
    bytes: Vec<u8>,
    more: bool,
}

impl Said {
    fn hear(&mut self, bytes: &[u8]) {
        let room = MAX_OUTPUT_BYTES - self.bytes.len();
        self.bytes.extend(&bytes[..bytes.len().min(room)]);
        self.more |= bytes.len() > room;
    }

    fn is_full(&self) -> bool {
        self.more
    }

    fn tell(&self) {
        for line in String::from_utf8_lossy(&self.bytes).lines() {
            // Quoted: it may repeat what a sender chose.
            tracing::info!(said = ?line, "inbox hook");
        }
        if self.more {
            tracing::info!("inbox hook: it said more than {MAX_OUTPUT_BYTES} bytes, which is not logged");
        }
    }
}

#[cfg(test)]
mod tests {
    use peat_blobcore::model::{BlobHash, DistributionId, EndpointId, FileEntry, Priority, Sha256Digest, Timestamp};

    use super::*;

    fn hook(directory: &Path, script: &str, deadline: Duration) -> Hook {
        use std::os::unix::fs::PermissionsExt as _;
        let program = directory.join("hook");
        // Written by another process: a thread that forks meanwhile must not hold it open for writing.
        let mut put = Command::new("/bin/sh");
        put.args(["-c", "printf '%s' \"$1\" > \"$2\"", "sh"]).arg(format!("#!/bin/sh\n{script}")).arg(&program);
        assert!(put.status().expect("a shell").success());
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).expect("a mode");
        Hook { program, inbox: directory.to_owned(), deadline }
    }

    fn arrival() -> Arrival {
        Arrival {
            path: "d/a b".into(),
            distribution: DistributionId::from_bytes([1; 32]),
            index: 7,
            sender: EndpointId::from_bytes([2; 32]),
            made_at: Timestamp::from_millis(1_795_268_785_123),
            bundle: "orders".into(),
            priority: Priority::Critical,
            file: FileEntry {
                root: "out".into(),
                path: b"d/a b".to_vec(),
                size: 3,
                blob: BlobHash::from_bytes([3; 32]),
                sha256: Sha256Digest::from_bytes([4; 32]),
                mode: 0o644,
                mtime: 0,
                content_type: None,
                display_name: Some("$(touch hacked); `touch hacked`\n".into()),
            },
        }
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn the_command_is_told_of_the_file_and_nothing_a_sender_wrote_is_run() {
        let directory = tempfile::tempdir().expect("a directory");
        let script = "env | sort > seen; printf '%s' \"$PEAT_BLOB_DISPLAY_NAME\" > name";
        let hook = hook(directory.path(), script, LONG);
        execute(&hook, variables(directory.path(), &arrival(), "alpha"), &AtomicBool::new(false)).expect("it succeeds");
        let seen = std::fs::read_to_string(directory.path().join("seen")).expect("it was run in the inbox");
        let path = format!("PEAT_BLOB_PATH={}/d/a b", directory.path().display());
        let (distribution, sender) = ("01".repeat(32), "02".repeat(32));
        let (blake3, sha256) = ("03".repeat(32), "04".repeat(32));
        for expected in [
            path,
            format!("PEAT_BLOB_DISTRIBUTION={distribution}"),
            format!("PEAT_BLOB_SENDER={sender}"),
            format!("PEAT_BLOB_BLAKE3={blake3}"),
            format!("PEAT_BLOB_SHA256={sha256}"),
            "PEAT_BLOB_SENDER_NAME=alpha".into(),
            "PEAT_BLOB_RELATIVE_PATH=d/a b".into(),
            "PEAT_BLOB_INDEX=7".into(),
            "PEAT_BLOB_SIZE=3".into(),
            "PEAT_BLOB_BUNDLE=orders".into(),
            "PEAT_BLOB_PRIORITY=critical".into(),
            "PEAT_BLOB_MADE_AT=2026-11-21T13:46:25.123Z".into(),
        ] {
            assert!(seen.lines().any(|line| line == expected), "{expected}: {seen}");
        }
        assert!(!seen.contains("CONTENT_TYPE") && !seen.contains("CARGO"), "{seen}");
        let name = std::fs::read_to_string(directory.path().join("name")).expect("it has a name");
        assert_eq!(Some(name), arrival().file.display_name);
        assert!(!directory.path().join("hacked").exists());
    }

    #[test]
    fn a_value_that_no_environment_can_have_is_left_out() {
        let mut arrival = arrival();
        arrival.file.path = b"a\0b".to_vec();
        let told = variables(Path::new("/inbox"), &arrival, "");
        assert!(!told.iter().any(|(name, _)| *name == "PEAT_BLOB_RELATIVE_PATH"));
        assert_eq!(told.len(), 13, "{told:?}");
    }

    #[test]
    fn failures_say_what_happened() {
        let directory = tempfile::tempdir().expect("a directory");
        let run = |hook: &Hook, stop: bool| match execute(hook, Vec::new(), &AtomicBool::new(stop)) {
            Ok(()) => "success".to_owned(),
            Err(failure) => failure.to_string(),
        };
        assert_eq!(run(&hook(directory.path(), "exit 3", LONG), false), "it ended with exit status: 3");
        // What it says does not fill a pipe that nobody reads, and what it leaves running is not waited for.
        let loud = "sleep 1000 & echo $! > left; head -c 1000000 /dev/zero; exit 0";
        assert_eq!(run(&hook(directory.path(), loud, LONG), false), "success");
        let left = std::fs::read_to_string(directory.path().join("left")).expect("a process id");
        let left = Pid::from_raw(left.trim().parse().expect("a number")).expect("a process id");
        rustix::process::kill_process(left, Signal::KILL).expect("it still runs");
        let short = Duration::from_millis(300);
        assert_eq!(run(&hook(directory.path(), "sleep 1000 & wait", short), false), "it had not ended after 0s, and was killed");
        assert_eq!(run(&hook(directory.path(), "sleep 1000", LONG), true), "the daemon ended first");
        let none = Hook { program: "/nowhere/hook".into(), ..hook(directory.path(), "", LONG) };
        assert!(run(&none, false).starts_with("it cannot be started: No such file"));
    }
}

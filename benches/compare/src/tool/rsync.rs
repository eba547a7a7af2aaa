//! rsync to its daemon, and over ssh to a server with keys of its own. Pushes go to all receivers at once, and are started again
//! when their connection breaks, as who uses it on thin links does: what came over before is kept.

use std::fs;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use peat_blob_lab::Seat;

use super::{Step, all_end_well, answers, quiet};
use crate::Outcome;
use crate::work::Scene;

const DAEMON_PORT: u16 = 8730;
const SSH_PORT: u16 = 2222;

pub(super) fn daemon<'a>(scene: &'a Scene<'a>) -> Outcome<Step<'a>> {
    for seat in scene.receivers() {
        let configuration = scene.directory.join(format!("{}.conf", seat.name));
        let inbox = scene.inbox(seat);
        fs::write(
            &configuration,
            format!(
                "use chroot = no\nuid = 0\ngid = 0\nread only = no\naddress = {}\nport = {DAEMON_PORT}\n\
                 [inbox]\npath = {}\n",
                seat.address,
                inbox.display()
            ),
        )?;
        let mut daemon = seat.host.command("rsync");
        daemon.args(["--daemon", "--no-detach", "--config"]).arg(&configuration);
        quiet(&mut daemon).spawn()?;
        answers(scene.sender().host, (seat.address, DAEMON_PORT).into(), scene.deadline)?;
    }
    Ok(pushes(scene, |push, seat| push.arg(format!("rsync://{}:{DAEMON_PORT}/inbox/", seat.address))))
}

pub(super) fn ssh<'a>(scene: &'a Scene<'a>) -> Outcome<Step<'a>> {
    let key = scene.directory.join("key");
    let mut make = Command::new("ssh-keygen");
    make.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key);
    all_end_well(vec![quiet(&mut make).spawn()?], "ssh-keygen", scene.deadline)?;
    // Its server wants this directory to be there.
    fs::create_dir_all("/run/sshd")?;
    for seat in scene.receivers() {
        let configuration = scene.directory.join(format!("{}.sshd", seat.name));
        fs::write(
            &configuration,
            format!(
                "ListenAddress {}\nPort {SSH_PORT}\nHostKey {1}\nAuthorizedKeysFile {1}.pub\nStrictModes no\nPidFile none\n",
                seat.address,
                key.display()
            ),
        )?;
        let mut server = seat.host.command("/usr/sbin/sshd");
        server.args(["-D", "-f"]).arg(&configuration);
        quiet(&mut server).spawn()?;
        answers(scene.sender().host, (seat.address, SSH_PORT).into(), scene.deadline)?;
    }
    let shell = format!(
        "ssh -q -F none -i {} -p {SSH_PORT} -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null",
        key.display()
    );
    Ok(pushes(scene, move |push, seat| {
        push.args(["--rsh", &shell]).arg(format!("root@{}:{}/", seat.address, scene.inbox(seat).display()))
    }))
}

/// A push to each receiver; what it needs besides is told it by `to`.
fn pushes<'a>(scene: &'a Scene<'a>, to: impl for<'c> Fn(&'c mut Command, &Seat<'_>) -> &'c mut Command + 'a) -> Step<'a> {
    Box::new(move || {
        let push = |seat: &Seat<'_>| {
            let mut push = scene.sender().host.command("rsync");
            push.args(["--fsync", "--recursive", "--partial", "--timeout=60"]).arg(format!("{}/", scene.outbox().display()));
            Outcome::Ok(to(&mut push, seat).stdin(Stdio::null()).spawn()?)
        };
        let begun = Instant::now();
        let mut running = scene.receivers().iter().map(|seat| Ok((seat, push(seat)?))).collect::<Outcome<Vec<_>>>()?;
        while let Some((seat, mut child)) = running.pop() {
            match child.try_wait()? {
                Some(status) if status.success() => continue,
                Some(status) if status.code().is_some_and(|code| BROKEN.contains(&code)) => {
                    thread::park_timeout(Duration::from_secs(1));
                    child = push(seat)?;
                }
                Some(status) => return Err(format!("rsync ended with {status}").into()),
                None => thread::park_timeout(Duration::from_millis(5)),
            }
            if begun.elapsed() > scene.deadline {
                return Err("rsync is not done by the deadline".into());
            }
            running.insert(0, (seat, child));
        }
        Ok(())
    })
}

/// The exit codes for errors of a socket, of the stream and of time, and that of ssh: see rsync(1).
const BROKEN: [i32; 4] = [10, 12, 30, 255];

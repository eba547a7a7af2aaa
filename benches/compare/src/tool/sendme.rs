//! sendme, the tool of iroh's makers on the stock iroh-blobs: a program at the sender that imports the files and serves them, and
//! one at each receiver that fetches and exports them. Relays are off, and the ticket has the sender's address, so nothing is
//! looked up.
//!
//! Both programs start within the timed step, as their users start them for each transfer; there is no other way. A receiver
//! whose connection breaks is started again and goes on with what it has. It syncs nothing, so that is done after it.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use peat_blob_lab::Seat;

use super::{Step, quiet, until};
use crate::Outcome;
use crate::work::Scene;

pub(super) const PROGRAM: &str = "sendme";
const PORT: u16 = 4433;

pub(super) fn prepare<'a>(scene: &'a Scene<'a>) -> Outcome<Step<'a>> {
    let sending = scene.directory.join("sendme");
    fs::create_dir(&sending)?;
    for seat in scene.receivers() {
        fs::create_dir(receiving(scene, seat))?;
        if scene.payload.is_dir() {
            // It writes a directory's files beneath the directory's name.
            let name = scene.payload.file_name().ok_or("the payload has a name")?;
            symlink(scene.inbox(seat), receiving(scene, seat).join(name))?;
        }
    }
    Ok(Box::new(move || {
        let said = sending.join("said");
        let sender = scene.sender();
        let mut send = sender.host.command(PROGRAM);
        send.args(["send", "--relay", "disabled", "--ticket-type", "addresses", "--no-progress"]);
        send.arg(format!("--magic-ipv4-addr={}:{PORT}", sender.address)).arg(scene.payload).current_dir(&sending);
        quiet(&mut send).stdout(File::create(&said)?).spawn()?;
        let mut ticket = None;
        until(scene.deadline, "sendme has no ticket", || {
            // The whole line has come once the next one begins, or it ends.
            ticket = fs::read_to_string(&said)?
                .split_inclusive('\n')
                .filter(|line| line.ends_with('\n'))
                .find_map(|line| Some(line.strip_prefix("sendme receive ")?.trim().to_owned()));
            Ok(ticket.is_some())
        })?;
        let ticket = ticket.ok_or("it has been there")?;
        receive_all(scene, &ticket)
    }))
}

/// Where a receiver keeps what it has of what it has not exported yet.
fn receiving(scene: &Scene<'_>, seat: &Seat<'_>) -> PathBuf {
    scene.directory.join(format!("{}-sendme", seat.name))
}

fn receive_all(scene: &Scene<'_>, ticket: &str) -> Outcome<()> {
    let receive = |seat: &Seat<'_>| -> Outcome<Child> {
        let mut receive = seat.host.command("sh");
        // One file is exported beside the store; it is where it should be by a rename.
        receive.args([
            "-c",
            "sendme receive --relay disabled --no-progress \"$1\" || exit 75
             if [ -f \"$3\" ]; then mv \"$3\" \"$2\"; fi
             sync --file-system \"$2\"",
        ]);
        receive.arg("sh").arg(ticket).arg(scene.inbox(seat)).arg(scene.payload.file_name().unwrap_or_default());
        Ok(quiet(receive.current_dir(receiving(scene, seat))).spawn()?)
    };
    let begun = Instant::now();
    let mut running = scene.receivers().iter().map(|seat| Ok((seat, receive(seat)?))).collect::<Outcome<Vec<_>>>()?;
    while let Some((seat, mut child)) = running.pop() {
        match child.try_wait()? {
            Some(status) if status.success() => continue,
            Some(status) if status.code() == Some(BROKEN) => {
                thread::park_timeout(Duration::from_secs(1));
                child = receive(seat)?;
            }
            Some(status) => return Err(format!("sendme ended with {status}").into()),
            None => thread::park_timeout(Duration::from_millis(5)),
        }
        if begun.elapsed() > scene.deadline {
            return Err("sendme is not done by the deadline".into());
        }
        running.insert(0, (seat, child));
    }
    Ok(())
}

/// What the receivers' shell ends with when sendme failed.
const BROKEN: i32 = 75;

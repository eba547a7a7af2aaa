//! Registries, and skopeo as the client of each: it copies an image from a layout into the sender's registry, and each receiver
//! copies it into a layout on its disk.
//!
//! Ours are two daemons, and a receiver asks its own, which has nothing; the other registry is the sender's alone.

use std::fs;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use peat_blob_lab::{Daemons, Host, Peering, Seat};

use super::{Step, all_end_well, answers, quiet, until};
use crate::Outcome;
use crate::work::{Copy, Scene, Task};

const PORT: u16 = 5000;
/// What skopeo is told whatever it does.
const ALWAYS: [&str; 4] = ["--insecure-policy", "copy", "--quiet", "--preserve-digests"];

/// A registry at the sender.
pub(super) fn prepare<'a>(scene: &'a Scene<'a>) -> Outcome<Step<'a>> {
    let address = address_of(scene.sender());
    let configuration = scene.directory.join("registry.yml");
    let storage = scene.directory.join("registry");
    fs::write(
        &configuration,
        format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n",
            storage.display(),
        ),
    )?;
    let mut registry = scene.sender().host.command("docker-registry");
    quiet(registry.arg("serve").arg(&configuration)).spawn()?;
    answers(scene.sender().host, address, scene.deadline)?;
    step(scene)
}

/// A daemon with a registry at each.
pub(super) fn ours<'a>(scene: &'a Scene<'a>) -> Outcome<Step<'a>> {
    // Beyond loopback a registry without a token wants to be told so; the other one does not ask.
    let flags =
        |seat: &Seat<'_>| vec![format!("--registry-listen={}", address_of(seat)), "--insecure".into(), "--log=error".into()];
    let daemons = Daemons::start_each(scene.seats.to_vec(), scene.programs, scene.directory, Peering::First, flags)?;
    daemons.connected(scene.receivers().len(), scene.deadline)?;
    if scene.work.task != Task::Image(Copy::Cold) {
        return step(scene);
    }
    push(scene)?;
    for seat in scene.receivers() {
        // The tag crosses as a document.
        let list = ["list-tags", "--tls-verify=false", &format!("docker://{}/payload", address_of(seat))].map(str::to_owned);
        let knows = || Ok(quiet(seat.host.command("skopeo").args(&list)).status()?.success());
        until(scene.deadline, "the receiver does not know the image", knows)?;
    }
    Ok(Box::new(move || {
        // The daemons are there until this is done.
        let _daemons = &daemons;
        pull(scene, address_of)
    }))
}

/// What is timed where there is one registry that matters.
fn step<'a>(scene: &'a Scene<'a>) -> Outcome<Step<'a>> {
    if scene.work.task == Task::Image(Copy::Push) {
        return Ok(Box::new(|| push(scene)));
    }
    push(scene)?;
    Ok(Box::new(|| pull(scene, |_| address_of(scene.sender()))))
}

/// What was pushed, for who wants to compare it.
pub(crate) fn pull_back(scene: &Scene<'_>) -> Outcome<()> {
    pull(scene, |_| address_of(scene.sender()))
}

fn push(scene: &Scene<'_>) -> Outcome<()> {
    let mut push = skopeo(scene.sender().host);
    push.arg("--dest-tls-verify=false").arg(format!("oci:{}:1", scene.payload.display()));
    push.arg(format!("docker://{}/payload:1", address_of(scene.sender())));
    all_end_well(vec![quiet(&mut push).spawn()?], "skopeo", scene.deadline)
}

fn pull(scene: &Scene<'_>, from: impl Fn(&Seat<'_>) -> SocketAddr) -> Outcome<()> {
    let pull = |seat: &Seat<'_>| {
        // skopeo syncs nothing.
        let script =
            format!("skopeo {} --src-tls-verify=false \"$1\" \"oci:$2:1\" && sync \"$2\"/blobs/sha256/*", ALWAYS.join(" "));
        let mut pull = seat.host.command("sh");
        pull.args(["-c", &script, "sh", &format!("docker://{}/payload:1", from(seat))]).arg(scene.inbox(seat));
        Ok(pull.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?)
    };
    let pulls = scene.receivers().iter().map(pull).collect::<Outcome<Vec<Child>>>()?;
    all_end_well(pulls, "skopeo", scene.deadline)
}

fn skopeo(host: &Host) -> Command {
    let mut skopeo = host.command("skopeo");
    skopeo.args(ALWAYS);
    skopeo
}

/// Where a seat's registry serves.
fn address_of(seat: &Seat<'_>) -> SocketAddr {
    (seat.address, PORT).into()
}

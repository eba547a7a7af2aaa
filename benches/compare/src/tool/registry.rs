//! A registry at the sender, from which each receiver copies an image with skopeo into a layout on its disk.

use std::fs;
use std::process::{Child, Stdio};

use peat_blob_lab::Seat;

use super::{Step, all_end_well, answers, quiet};
use crate::Outcome;
use crate::work::Scene;

const PORT: u16 = 5000;

pub(super) fn prepare<'a>(scene: &'a Scene<'a>) -> Outcome<Step<'a>> {
    let sender = scene.sender();
    let configuration = scene.directory.join("registry.yml");
    let storage = scene.directory.join("registry");
    fs::write(
        &configuration,
        format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {}:{PORT}\n",
            storage.display(),
            sender.address
        ),
    )?;
    let mut registry = sender.host.command("docker-registry");
    quiet(registry.arg("serve").arg(&configuration)).spawn()?;
    answers(sender.host, (sender.address, PORT).into(), scene.deadline)?;
    let image = format!("docker://{}:{PORT}/payload:1", sender.address);
    let mut push = sender.host.command("skopeo");
    push.args(["--insecure-policy", "copy", "--quiet", "--preserve-digests", "--dest-tls-verify=false"]);
    push.arg(format!("oci:{}:1", scene.payload.display())).arg(&image);
    all_end_well(vec![push.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?], "skopeo", scene.deadline)?;
    Ok(Box::new(move || {
        let pull = |seat: &Seat<'_>| {
            // skopeo syncs nothing.
            let mut pull = seat.host.command("sh");
            pull.args([
                "-c",
                "skopeo --insecure-policy copy --quiet --preserve-digests --src-tls-verify=false \"$1\" \"oci:$2:1\"\
                       && sync \"$2\"/blobs/sha256/*",
            ]);
            pull.arg("sh").arg(&image).arg(scene.inbox(seat));
            Ok(pull.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?)
        };
        let pulls = scene.receivers().iter().map(pull).collect::<Outcome<Vec<Child>>>()?;
        all_end_well(pulls, "skopeo", scene.deadline)
    }))
}

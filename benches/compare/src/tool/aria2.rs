//! aria2, a BitTorrent client, with a tracker at the sender. It carries one file.

use std::fs;
use std::path::Path;

use peat_blob_lab::Host;

use super::tracker::Tracker;
use super::{Step, all_end_well, quiet, until};
use crate::Outcome;
use crate::work::Scene;

pub(super) fn prepare<'a>(scene: &'a Scene<'a>) -> Outcome<Step<'a>> {
    let sender = scene.sender();
    let tracker = Tracker::start(sender.host, sender.address)?;
    // A receiver is done when its file is on its disk.
    let hook = scene.directory.join("done.sh");
    fs::write(&hook, "#!/bin/sh\nsync \"$3\" && touch \"$3.done\"\n")?;
    rustix::fs::chmod(&hook, rustix::fs::Mode::from_raw_mode(0o755))?;
    Ok(Box::new(move || {
        let torrent = scene.directory.join("payload.torrent");
        let mut make = sender.host.command("mktorrent");
        make.arg("-a").arg(tracker.announce()).arg("-o").arg(&torrent).arg(scene.payload);
        all_end_well(vec![quiet(&mut make).spawn()?], "mktorrent", scene.deadline)?;
        let start = |host: &Host, directory: &Path| {
            let mut client = host.command("aria2c");
            client.args(["--quiet", "--no-conf", "--enable-dht=false", "--enable-dht6=false", "--bt-enable-lpd=false"]);
            client.args(["--seed-ratio=0", "--file-allocation=none", "--listen-port=6881", "--bt-max-peers=0"]);
            client.args(["--check-integrity=true", "--bt-hash-check-seed=true", "--allow-overwrite=true"]);
            client.arg("--on-bt-download-complete").arg(&hook).arg("--dir").arg(directory).arg(&torrent);
            quiet(&mut client).spawn()
        };
        start(sender.host, &scene.outbox())?;
        for seat in scene.receivers() {
            start(seat.host, &scene.inbox(seat))?;
        }
        let done = |seat| scene.inbox(seat).join("payload.bin.done").exists();
        until(scene.deadline, "aria2 is not done", || Ok(scene.receivers().iter().all(done)))
    }))
}

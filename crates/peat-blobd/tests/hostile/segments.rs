//! Nodes where segments of UDP cannot be sent at once: as on some devices of containers, the system says so with an error when it is
//! tried. This kernel can everywhere, so a library before the system's stands for the device.

use std::path::PathBuf;
use std::process::Command;

use crate::subject::{Subject, wait};

/// Daemons whose device takes segments while the file `taken` is there.
struct Devices {
    made: tempfile::TempDir,
    library: PathBuf,
}

impl Devices {
    fn new() -> Self {
        let made = tempfile::tempdir().unwrap();
        let library = made.path().join("segments.so");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/hostile/segments.c");
        let built =
            Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([library.as_os_str(), source.as_ref()]).arg("-ldl").status();
        assert!(built.expect("the C compiler that the build wants").success());
        Self { made, library }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.made.path().join(name)
    }

    fn start(&self, name: &str, settings: &str) -> Subject {
        let (refused, taken) = (self.path(name), self.path("taken"));
        let variables = [
            ("LD_PRELOAD", self.library.to_str().unwrap()),
            ("SEGMENTS_REFUSED", refused.to_str().unwrap()),
            ("SEGMENTS_TAKEN", taken.to_str().unwrap()),
            ("PEAT_BLOBD_NODE_ID", name),
        ];
        Subject::start_with(settings, &variables)
    }

    /// Whether a daemon of that name has tried to send segments in vain.
    fn were_refused(&self, name: &str) -> bool {
        self.path(name).exists()
    }

    /// A large file of this name goes from one to the other, and is there whole.
    fn a_file_arrives(&self, name: &str, from: &Subject, at: &Subject) {
        // Noise, since what can be compressed hardly crosses.
        let mut bytes = vec![0; 8 << 20];
        getrandom::fill(&mut bytes).unwrap();
        let file = self.path(name);
        std::fs::write(&file, &bytes).unwrap();
        let request = format!(r#"{{"root":"{}","options":{{"scope":{{"all":{{}}}}}}}}"#, file.display());
        from.call("peat.blob.v1.BlobService/SendPath", &request);
        let delivered = at.path("inbox").join(name);
        wait("it is delivered", || delivered.exists());
        assert!(std::fs::read(&delivered).unwrap() == bytes);
    }
}

fn settings_to_dial(peer: &Subject) -> String {
    let node: serde_json::Value = serde_json::from_slice(&peer.call("peat.blob.v1.BlobService/GetNode", "{}").body).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    format!("peers = ['{}@{}']", text(&node["endpointId"]), text(&node["addresses"][0]))
}

#[test]
fn a_file_arrives_whole_where_segmentation_offload_fails() {
    let devices = Devices::new();
    let alpha = devices.start("alpha", "");
    let bravo = devices.start("bravo", &settings_to_dial(&alpha));
    devices.a_file_arrives("noise", &alpha, &bravo);
    devices.a_file_arrives("back", &bravo, &alpha);
    assert!(devices.were_refused("alpha") && devices.were_refused("bravo"), "segments were never tried: it shows nothing");
}

#[test]
fn connections_are_made_anew_where_segmentation_offload_fails_later() {
    let devices = Devices::new();
    std::fs::write(devices.path("taken"), "").unwrap();
    let alpha = devices.start("alpha", "");
    let bravo = devices.start("bravo", &settings_to_dial(&alpha));
    devices.a_file_arrives("before", &alpha, &bravo);
    assert!(!devices.were_refused("alpha"));
    std::fs::remove_file(devices.path("taken")).unwrap();
    // With who comes now alpha finds out.
    let charlie = devices.start("charlie", &settings_to_dial(&alpha));
    devices.a_file_arrives("after", &alpha, &bravo);
    devices.a_file_arrives("back", &bravo, &alpha);
    devices.a_file_arrives("there", &alpha, &charlie);
    assert!(devices.were_refused("alpha"));
}

//! Nodes where segments of UDP cannot be sent at once: as on some devices of containers, the system says so with an error when it is
//! tried. This kernel can everywhere, so a library before the system's stands for the device.

use std::process::Command;

use crate::subject::{Subject, wait};

#[test]
#[ignore = "fails: the transport goes on sending segments over a connection that has them refused (docs/field.md, 12)"]
fn a_file_arrives_whole_where_segmentation_offload_fails() {
    let made = tempfile::tempdir().unwrap();
    let library = made.path().join("segments.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/hostile/segments.c");
    let built =
        Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([library.as_os_str(), source.as_ref()]).arg("-ldl").status();
    assert!(built.expect("the C compiler that the build wants").success());
    let refused = |name: &str| made.path().join(name);
    let start = |name: &str, settings: &str| {
        let refused = refused(name);
        let variables = [
            ("LD_PRELOAD", library.to_str().unwrap()),
            ("SEGMENTS_REFUSED", refused.to_str().unwrap()),
            ("PEAT_BLOBD_NODE_ID", name),
        ];
        Subject::start_with(settings, &variables)
    };
    let alpha = start("alpha", "");
    let node: serde_json::Value = serde_json::from_slice(&alpha.call("peat.blob.v1.BlobService/GetNode", "{}").body).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let peer = format!("{}@{}", text(&node["endpointId"]), text(&node["addresses"][0]));
    let bravo = start("bravo", &format!("peers = ['{peer}']"));
    // Noise, since what can be compressed hardly crosses.
    let mut bytes = vec![0; 8 << 20];
    getrandom::fill(&mut bytes).unwrap();
    let file = made.path().join("noise");
    std::fs::write(&file, &bytes).unwrap();
    let request = format!(r#"{{"root":"{}","options":{{"scope":{{"all":{{}}}}}}}}"#, file.display());
    alpha.call("peat.blob.v1.BlobService/SendPath", &request);
    let delivered = bravo.path("inbox/noise");
    wait("it is delivered", || delivered.exists());
    assert!(std::fs::read(&delivered).unwrap() == bytes);
    assert!(refused("alpha").exists(), "segments were never tried: the test shows nothing");
}

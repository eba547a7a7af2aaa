//! `blob`, and images into other registries, against daemons that run in the test.
#![allow(clippy::unwrap_used, reason = "in a test")]

use crate::online::Daemons;
use crate::{ctl_with_input, formation};

const EMPTY: &str = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";

#[test]
fn a_blob_goes_in_and_out_and_away_by_the_exit_codes() {
    let work = tempfile::tempdir().unwrap();
    formation(work.path(), &["alpha"]);
    std::fs::create_dir(work.path().join("out")).unwrap();
    let out = work.path().join("out");
    let daemons = Daemons::start_with(work.path(), &["alpha"], |_, mut config| {
        config.outbox.insert("out".to_owned(), out.clone());
        config
    });
    let alpha = |arguments: &[&str]| daemons.at("alpha", arguments);
    let socket = format!("unix://{}", work.path().join("alpha/api.sock").display());

    std::fs::write(work.path().join("file"), "{}").unwrap();
    let taken = alpha(&["blob", "import", "file", "--digest", EMPTY, "--pin", "mine", "--output", "json"]).ok().json();
    assert_eq!((taken["digest"].as_str(), taken["size"].as_u64()), (Some(EMPTY), Some(2)));
    assert_eq!(taken["already_present"], false);
    let blob = taken["blob"].as_str().unwrap();
    let again = ctl_with_input(work.path(), &["--daemon", &socket, "--output", "json", "blob", "import", "-"], "{}").ok().json();
    assert_eq!((again["blob"].as_str(), again["already_present"].as_bool()), (Some(blob), Some(true)));
    assert_eq!(alpha(&["blob", "import", "out"]).code, Some(2), "a directory");
    assert_eq!(alpha(&["blob", "import", "nothing"]).code, Some(4));
    let wrong = alpha(&["blob", "import", "file", "--digest", &EMPTY.replace('4', "5"), "--output", "json"]);
    assert_eq!((wrong.code, wrong.error()["kind"].as_str()), (Some(2), Some("usage")), "{}", wrong.err);

    assert_eq!(alpha(&["blob", "export", blob, "-"]).ok().out, "{}");
    let written = alpha(&["blob", "export", EMPTY, "copy", "--output", "json"]).ok().json();
    assert_eq!((written["method"].as_str(), written["bytes_written"].as_u64()), (Some("streamed"), Some(2)));
    assert_eq!(std::fs::read_to_string(work.path().join("copy")).unwrap(), "{}");
    alpha(&["blob", "export", blob, "deep/copy", "--root", "out"]).ok();
    assert_eq!(std::fs::read_to_string(out.join("deep/copy")).unwrap(), "{}");
    std::fs::write(out.join("taken"), "another's").unwrap();
    assert_eq!(alpha(&["blob", "export", blob, "taken", "--root", "out"]).code, Some(8));
    assert_eq!(std::fs::read_to_string(out.join("taken")).unwrap(), "another's");
    let from_root = alpha(&["blob", "import", "taken", "--root", "out", "--output", "json"]).ok().json();
    assert_eq!(alpha(&["blob", "export", &"0".repeat(64), "never"]).code, Some(4));
    assert!(!work.path().join("never").exists());
    assert_eq!(alpha(&["blob", "export", blob]).code, Some(2), "where to");

    let status = alpha(&["blob", "status", blob, "--output", "json"]).ok().json();
    assert_eq!((status["state"].as_str(), status["bytes_held"].as_u64()), (Some("held"), Some(2)));
    assert_eq!(alpha(&["blob", "status", &"0".repeat(64), "--output", "json"]).ok().json()["state"], "absent");
    let listed = alpha(&["blob", "ls", "--pin", "user:", "--output", "json"]).ok().json();
    assert_eq!((listed["blobs"].as_array().unwrap().len(), listed["blobs"][0]["blob"].as_str()), (1, Some(blob)));
    assert_eq!(alpha(&["blob", "ls", "--output", "jsonl"]).ok().out.lines().count(), 2);

    let kept = alpha(&["blob", "rm", blob, "--leases", "--output", "json"]);
    assert_eq!((kept.code, kept.error()["kind"].as_str()), (Some(8), Some("refused")), "{}", kept.err);
    assert!(kept.error()["message"].as_str().unwrap().contains("user:mine"), "{}", kept.err);
    assert!(kept.error()["hint"].as_str().is_some(), "{}", kept.err);
    assert_eq!(alpha(&["blob", "export", blob, "-"]).ok().out, "{}", "it is there as it was");
    assert_eq!(alpha(&["blob", "rm", blob, "--leases", "--pin", "mine", "--output", "json"]).ok().json()["freed"], 2);
    assert_eq!(alpha(&["blob", "rm", blob]).code, Some(4));
    let other = from_root["blob"].as_str().unwrap();
    assert_eq!(alpha(&["blob", "rm", other]).code, Some(8), "the import holds it for an hour");
    alpha(&["blob", "rm", other, "--leases"]).ok();
    assert_eq!(alpha(&["blob", "ls", "--output", "jsonl"]).ok().out, "");
}

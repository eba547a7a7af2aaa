//! `blob`, and images into other registries, against daemons that run in the test.
#![allow(clippy::unwrap_used, reason = "in a test")]

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::Stdio;

use crate::online::Daemons;
use crate::registry::Serving;
use crate::{ctl_with_input, formation, program};

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

/// A layout with one image of nothing but a configuration; gives its manifest and the digest of that.
fn layout(work: &Path, digest_of: impl Fn(&str) -> String) -> (String, String) {
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let config = format!(r#"{{"mediaType":"application/vnd.oci.empty.v1+json","digest":"{EMPTY}","size":2}}"#);
    let manifest = format!(r#"{{"schemaVersion":2,"mediaType":"{kind}","config":{config},"layers":[]}}"#);
    std::fs::write(work.join("manifest"), &manifest).unwrap();
    let digest = digest_of("manifest");
    let blobs = work.join("layout/blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    std::fs::write(work.join("layout/oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let size = manifest.len();
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{kind}","digest":"{digest}","size":{size}}}]}}"#);
    std::fs::write(work.join("layout/index.json"), index).unwrap();
    std::fs::write(blobs.join(digest.strip_prefix("sha256:").unwrap()), &manifest).unwrap();
    std::fs::write(blobs.join(EMPTY.strip_prefix("sha256:").unwrap()), "{}").unwrap();
    (manifest, digest)
}

#[test]
fn an_image_is_watched_inspected_and_pushed_into_another_registry() {
    let work = tempfile::tempdir().unwrap();
    formation(work.path(), &["alpha"]);
    let daemons = Daemons::start(work.path(), &["alpha"]);
    let alpha = |arguments: &[&str]| daemons.at("alpha", arguments);
    let socket = format!("unix://{}", work.path().join("alpha/api.sock").display());
    let (manifest, digest) = layout(work.path(), |file| {
        let taken = alpha(&["blob", "import", file, "--output", "json"]).ok().json();
        taken["digest"].as_str().unwrap().to_owned()
    });
    let watch = ["--daemon", &socket, "--output", "json", "image", "ls", "--watch"];
    let mut watching = program(work.path(), &watch).stdout(Stdio::piped()).spawn().unwrap();
    alpha(&["image", "import", "layout", "--name", "team/app:1"]).ok();
    let (mut seen, mut sequence) = (BTreeSet::new(), 0);
    for line in BufReader::new(watching.stdout.take().unwrap()).lines() {
        let event: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
        assert_eq!((event["sequence"].as_u64(), event["repository"].as_str()), (Some(sequence), Some("team/app")));
        assert_eq!(event["digest"], digest);
        seen.insert(event["event"].as_str().unwrap().to_owned());
        sequence += 1;
        if ["here", "claimed", "tag"].iter().all(|event| seen.contains(*event)) {
            break;
        }
    }
    watching.kill().unwrap();
    watching.wait().unwrap();

    let found = alpha(&["image", "inspect", "team/app:1", "--output", "json"]).ok().json();
    assert_eq!((found["digest"].as_str(), found["here"].as_bool()), (Some(digest.as_str()), Some(true)));
    assert_eq!(found["manifest"], serde_json::from_str::<serde_json::Value>(&manifest).unwrap());
    assert_eq!((found["parts"][0]["digest"].as_str(), found["parts"][0]["here"].as_bool()), (Some(EMPTY), Some(true)));
    assert_eq!(found["config"], serde_json::json!({}));
    let shown = alpha(&["image", "inspect", "team/app:1"]).ok().out;
    assert!(shown.contains(&digest) && shown.contains("team/app") && shown.contains(EMPTY), "{shown}");
    assert_eq!(alpha(&["image", "inspect", "team/none:1"]).code, Some(4));
    assert_eq!(alpha(&["blob", "rm", EMPTY, "--leases"]).code, Some(8), "the image needs it");

    let serving = Serving::start(work.path(), &[]);
    let to = format!("{}/mirror/app", serving.listen);
    let pushed = alpha(&["image", "push", "team/app:1", &to, "--insecure", "--output", "json"]).ok().json();
    assert_eq!((pushed["digest"].as_str(), pushed["sent"].as_u64()), (Some(digest.as_str()), Some(2)));
    let accept = "Accept: application/vnd.oci.image.manifest.v1+json\r\n";
    assert_eq!(serving.ask("GET", "/v2/mirror/app/manifests/1", accept, "").1, manifest);
    let same = format!("{}/team/app:1", serving.listen);
    let pushed = alpha(&["image", "push", &same, "--insecure", "--mount-from", "mirror/app", "--output", "json"]).ok().json();
    assert_eq!((pushed["image"].as_str(), pushed["mounted"].as_u64()), (Some("team/app:1"), Some(1)));
    let third = format!("{}/third:1", serving.listen);
    let exported = alpha(&["blob", "export", &digest, "--to", &third, "--insecure", "--output", "json"]).ok().json();
    assert_eq!(exported["method"], "pushed");
    assert_eq!(alpha(&["image", "push", "team/app:1"]).code, Some(2), "where to");
    assert_eq!(alpha(&["image", "push", "team/none:1", &same, "--insecure"]).code, Some(4));
    assert_eq!(serving.terminate(), Some(0));
    assert_eq!(alpha(&["image", "push", "team/app:1", &same, "--insecure"]).code, Some(5), "nobody is there");
}

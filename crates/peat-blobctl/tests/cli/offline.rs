//! Verbs that need no daemon.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use crate::{ctl, formation, program};

#[test]
fn ids_derive_as_they_are_known_to() {
    let work = tempfile::tempdir().unwrap();
    for (key, node, id) in [
        (
            "KioqKioqKioqKioqKioqKioqKioqKioqKioqKioqKio=",
            "node-a",
            "4229afe8d9c12d0acfd98cb56d4e2edd0e844442651a70a6995c2ed7ef100684",
        ),
        (
            "KioqKioqKioqKioqKioqKioqKioqKioqKioqKioqKio=",
            "node-b",
            "f0782d206a443de24a744a6682851c11b71813fd1c03c9447ddecd9a5e9df279",
        ),
        (
            "fPARVR0eqxhTNqqjKIrYrYTD1VBP6PjGKCAAa39+wl8=",
            "attach-a",
            "fdf9a98cb65237d2f2d70e1af68e7d2f543e14a287775a4e1bf12a35b84bccb6",
        ),
        (
            "fPARVR0eqxhTNqqjKIrYrYTD1VBP6PjGKCAAa39+wl8=",
            "attach-b",
            "a53fca1d6263555d269d1594b2e5b05e88a0bab126b3885b9ee74259bd6ecd2f",
        ),
    ] {
        let run = ctl(work.path(), &["derive-id", "--shared-key", key, "--node-id", node]).ok();
        assert_eq!(run.out, format!("{id}\n"), "nothing but the id");
        let run = ctl(work.path(), &["--output", "json", "derive-id", "--shared-key", key, "--node-id", node]).ok();
        assert_eq!(run.json()["endpoint_id"], id);
    }
    let run = ctl(work.path(), &["derive-id", "--shared-key", "c2hvcnQ=", "--node-id", "a"]);
    assert_eq!(run.code, Some(2), "{}", run.err);
    assert!(run.err.contains("hint: give 32 bytes in base64"), "{}", run.err);
}

#[test]
fn a_formation_is_made_once_and_its_keys_are_its_owners_alone() {
    let work = tempfile::tempdir().unwrap();
    let made = ctl(work.path(), &["keygen", "formation", "--output", "json"]).ok().json();
    for name in ["formation.key", "authority.key", "authority.pub"] {
        let mode = std::fs::metadata(work.path().join("formation").join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let public = std::fs::read_to_string(work.path().join("formation/authority.pub")).unwrap();
    assert_eq!(made["authority"], public.trim());
    let again = ctl(work.path(), &["keygen", "formation"]);
    assert_eq!(again.code, Some(8), "{}", again.err);
    assert_eq!(std::fs::read_to_string(work.path().join("formation/authority.pub")).unwrap(), public);
}

#[test]
fn a_member_on_this_machine_is_enrolled_in_one_step_and_renewed_in_another() {
    let work = tempfile::tempdir().unwrap();
    formation(work.path(), &["alpha"]);
    let shown = ctl(work.path(), &["identity", "show", "--data", "alpha", "--output", "json"]).ok().json();
    assert_eq!((shown["name"].as_str(), shown["enrolled"].as_bool()), (Some("alpha"), Some(true)));
    assert_eq!((shown["labels"]["role"].as_str(), shown["expired"].as_bool()), (Some("alpha"), Some(false)));
    let enroll = ["enroll", "--formation", "formation", "--name", "renewed", "--data", "alpha", "--lifetime", "1ms"];
    ctl(work.path(), &enroll).ok();
    let renewed = ctl(work.path(), &["identity", "show", "--data", "alpha", "--output", "json"]).ok().json();
    assert_eq!((&renewed["endpoint_id"], renewed["name"].as_str()), (&shown["endpoint_id"], Some("renewed")));
    assert!(renewed["expiry"].as_u64() < shown["expiry"].as_u64());
}

#[test]
fn a_member_elsewhere_waits_for_its_certificate_and_takes_no_others() {
    let work = tempfile::tempdir().unwrap();
    let ctl = |arguments: &[&str]| ctl(work.path(), arguments);
    ctl(&["keygen", "formation"]).ok();
    let id = |data: &str| {
        let made = ctl(&["keygen", "formation", "--data", data, "--output", "json"]).ok().json();
        made["endpoint_id"].as_str().unwrap().to_owned()
    };
    let (bravo, charlie) = (id("bravo"), id("charlie"));
    let waiting = ctl(&["identity", "show", "--data", "bravo"]).ok();
    assert!(waiting.out.contains(&bravo) && waiting.out.contains("waits for its certificate"), "{}", waiting.out);
    ctl(&["enroll", "--formation", "formation", "--name", "bravo", &bravo, "-o", "bravo.certificate"]).ok();
    let other = ctl(&["identity", "import", "--data", "charlie", "bravo.certificate"]);
    assert_ne!(other.code, Some(0), "{charlie} is not bravo");
    let taken = ctl(&["identity", "import", "--data", "bravo", "bravo.certificate"]).ok();
    assert!(taken.out.contains("bravo"), "{}", taken.out);
}

#[test]
fn a_backup_is_secret_restores_the_node_and_never_replaces_one() {
    let work = tempfile::tempdir().unwrap();
    let ctl = |arguments: &[&str]| ctl(work.path(), arguments);
    formation(work.path(), &["alpha"]);
    let exported = ctl(&["identity", "export", "--data", "alpha", "-o", "backup"]).ok();
    assert!(exported.out.contains("warning: backup holds secret keys"), "{}", exported.out);
    assert_eq!(std::fs::metadata(work.path().join("backup")).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(ctl(&["identity", "export", "--data", "alpha", "-o", "backup"]).code, Some(8), "it exists");

    ctl(&["identity", "import", "--data", "restored", "backup"]).ok();
    let show = |data: &str| ctl(&["identity", "show", "--data", data, "--output", "json"]).ok().json();
    let (before, after) = (show("alpha"), show("restored"));
    assert_eq!((&before["endpoint_id"], &before["expiry"]), (&after["endpoint_id"], &after["expiry"]));
    assert_ne!(before["incarnation"], after["incarnation"], "a new life");
    assert_eq!(ctl(&["identity", "import", "--data", "alpha", "backup"]).code, Some(8), "a key is there");

    let text = std::fs::read_to_string(work.path().join("backup")).unwrap();
    for damaged in [text.replace("node.key ", "node.key A"), text.replace("authority.pub", "autority.pub"), format!("x{text}")] {
        std::fs::write(work.path().join("damaged"), damaged).unwrap();
        let run = ctl(&["identity", "import", "--data", "fresh", "damaged"]);
        assert_eq!(run.code, Some(7), "{}", run.err);
        assert!(!work.path().join("fresh").exists(), "nothing was written");
    }
}

#[test]
fn errors_say_what_to_do_in_every_mode() {
    let work = tempfile::tempdir().unwrap();
    let human = ctl(work.path(), &["status"]);
    assert_eq!(human.code, Some(5), "{}", human.err);
    assert!(human.err.starts_with("error: no daemon answers at nowhere/api.sock: "), "{}", human.err);
    assert!(human.err.contains("\nhint: start peat-blobd"), "{}", human.err);
    for (arguments, kind, code) in [
        (&["status", "--output", "json"][..], "unreachable", 5),
        (&["--output=jsonl", "status"], "unreachable", 5),
        (&["status", "--daemon", "ftp://x", "--output", "json"], "usage", 2),
        (&["status", "--daemon", "http://127.0.0.1:9", "--output", "json"], "unreachable", 5),
        (&["--output", "json", "nonsense"], "usage", 2),
        (&["--output", "json", "wait"], "usage", 2),
        (&["--output", "json"], "usage", 2),
        (&["send", "x", "--to", "role=", "--output", "json"], "usage", 2),
        (&["send", "-", "--output", "json"], "usage", 2),
        (&["send", "x", "--timeout", "5", "--output", "json"], "usage", 2),
        (&["identity", "show", "--output", "json"], "not found", 4),
        (&["ls", "--token-file", "missing", "--output", "json"], "not found", 4),
    ] {
        let run = ctl(work.path(), arguments);
        let error = run.error();
        assert_eq!((run.code, error["kind"].as_str()), (Some(code), Some(kind)), "{arguments:?}: {}", run.err);
        assert_eq!(error["exit_code"], code, "{arguments:?}");
        assert!(error["message"].as_str().is_some_and(|text| !text.is_empty()), "{arguments:?}");
        assert!(error.as_object().unwrap().contains_key("hint"), "{arguments:?}");
        assert_eq!(run.out, "", "{arguments:?}");
    }
}

#[test]
fn a_pipe_that_is_closed_early_ends_quietly() {
    let work = tempfile::tempdir().unwrap();
    let mut child = program(work.path(), &["man"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    assert_eq!((ended.status.code(), ended.stderr), (Some(0), Vec::new()));
}

#[test]
fn an_output_that_cannot_be_written_is_an_error() {
    let work = tempfile::tempdir().unwrap();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let ended = program(work.path(), &["man"]).stdout(full).output().unwrap();
    assert_eq!(ended.status.code(), Some(9), "no space");
}

#[test]
fn completions_and_pages_name_every_verb() {
    let work = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let script = ctl(work.path(), &["completion", shell]).ok().out;
        assert!(script.contains("redeliver") && script.contains("derive-id"), "{shell}");
    }
    assert!(ctl(work.path(), &["man"]).ok().out.contains("peat\\-blobctl"));
    ctl(work.path(), &["man", "pages"]).ok();
    for page in ["peat-blobctl.1", "peat-blobctl-send.1", "peat-blobctl-node-retire.1"] {
        assert!(work.path().join("pages").join(page).exists(), "{page}");
    }
    assert!(ctl(work.path(), &["--version"]).ok().out.starts_with("peat-blobctl "));
}

//! Verbs that ask a daemon, against daemons that run in the test.

use std::path::{Path, PathBuf};

use peat_blobcore::model::Carry;
use peat_blobd::{Config, Running};
use tokio::runtime::Runtime;

use crate::{Run, ctl, ctl_with_input, formation};

/// Daemons with an inbox each, `NAME.inbox`, over data directories that are there.
pub(crate) struct Daemons {
    runtime: Runtime,
    running: Vec<(String, Running)>,
    work: PathBuf,
}

impl Daemons {
    pub(crate) fn start(work: &Path, names: &[&str]) -> Self {
        Self::start_with(work, names, |_, config| config)
    }

    /// The same with more to say to each.
    pub(crate) fn start_with(work: &Path, names: &[&str], configure: impl Fn(&str, Config) -> Config) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let running = names.iter().map(|name| {
            let mut config = Config::new(work.join(name));
            config.iroh_listen = vec!["127.0.0.1:0".parse().expect("an address")];
            config.inbox = Some(work.join(format!("{name}.inbox")));
            ((*name).to_owned(), runtime.block_on(Running::start(configure(name, config))).expect("the daemon starts"))
        });
        let running = running.collect();
        Self { runtime, running, work: work.to_owned() }
    }

    /// Ends the daemon of that name.
    pub(crate) fn stop(&mut self, name: &str) {
        let place = self.running.iter().position(|(running, _)| running == name).expect("it was started");
        self.runtime.block_on(self.running.swap_remove(place).1.stop());
    }

    pub(crate) fn node(&self, name: &str) -> &peat_blobcore::Node {
        self.running.iter().find(|(running, _)| running == name).expect("it was started").1.node()
    }

    /// How `--peer` and `connect` name a node.
    pub(crate) fn peer(&self, name: &str) -> String {
        format!("{}@{}", self.node(name).id(), self.node(name).listening_on()[0])
    }

    /// The program, told where the daemon of that name is.
    pub(crate) fn at(&self, name: &str, arguments: &[&str]) -> Run {
        let socket = format!("unix://{}", self.work.join(name).join("api.sock").display());
        ctl(&self.work, &[&["--daemon", &socket], arguments].concat())
    }
}

impl Drop for Daemons {
    fn drop(&mut self) {
        for (_, running) in self.running.drain(..) {
            self.runtime.block_on(running.stop());
        }
    }
}

/// Two daemons that are connected.
fn two(work: &Path) -> Daemons {
    formation(work, &["alpha", "bravo"]);
    let daemons = Daemons::start(work, &["alpha", "bravo"]);
    daemons.at("alpha", &["connect", &daemons.peer("bravo")]).ok();
    std::fs::create_dir_all(work.join("outbox/sub")).expect("made");
    std::fs::write(work.join("outbox/sub/file"), "content").expect("written");
    std::fs::write(work.join("outbox/empty"), "").expect("written");
    daemons
}

#[test]
fn a_parcel_brings_what_no_link_does_and_another_brings_the_receipt_back() {
    let work = tempfile::tempdir().unwrap();
    formation(work.path(), &["alpha", "bravo"]);
    let daemons = Daemons::start(work.path(), &["alpha", "bravo"]);
    std::fs::create_dir(work.path().join("outbox")).expect("made");
    std::fs::write(work.path().join("outbox/file"), "content").expect("written");
    let bravo = daemons.node("bravo").id().to_string();
    let alpha = |arguments: &[&str]| daemons.at("alpha", arguments);
    let id = alpha(&["send", "outbox", "--to", &bravo, "--output", "json"]).ok().json()["distribution_id"]
        .as_str()
        .unwrap()
        .to_owned();
    let packed = alpha(&["parcel", "export", "stick", "--output", "json"]).ok().json();
    assert_eq!((&packed["blobs"], &packed["file"]), (&1.into(), &"stick".into()));
    let taken = daemons.at("bravo", &["parcel", "import", "stick", "--output", "json"]).ok().json();
    assert_eq!((&taken["blobs"], &taken["skipped_blobs"]), (&1.into(), &0.into()));
    daemons.at("bravo", &["wait", &id, "--timeout", "60s"]).ok();
    assert_eq!(std::fs::read_to_string(work.path().join("bravo.inbox/file")).unwrap(), "content");
    daemons.at("bravo", &["parcel", "export", "back", "--for", "alpha"]).ok();
    alpha(&["parcel", "import", "back"]).ok();
    alpha(&["wait", &id, "--timeout", "60s"]).ok();
    // Cut off, or no parcel at all.
    let whole = std::fs::read(work.path().join("stick")).unwrap();
    std::fs::write(work.path().join("cut"), &whole[..whole.len() - 7]).unwrap();
    std::fs::write(work.path().join("other"), "no parcel").unwrap();
    assert_eq!(daemons.at("bravo", &["parcel", "import", "cut"]).code, Some(7));
    assert_eq!(daemons.at("bravo", &["parcel", "import", "other"]).code, Some(2));
    assert_eq!(daemons.at("bravo", &["parcel", "import", "missing"]).code, Some(4));
    assert_eq!(alpha(&["parcel", "export", "x", "--for", "nobody"]).code, Some(4));
}

#[test]
fn a_directory_is_sent_waited_for_shown_and_fetched() {
    let work = tempfile::tempdir().unwrap();
    let daemons = two(work.path());
    let alpha = |arguments: &[&str]| daemons.at("alpha", arguments);
    let sent = alpha(&["send", "outbox", "--wait", "--timeout", "60s", "--output", "json"]).ok().json();
    assert_eq!((sent["file_count"].as_u64(), sent["status"]["state"].as_str()), (Some(2), Some("completed")));
    assert_eq!(std::fs::read_to_string(work.path().join("bravo.inbox/sub/file")).unwrap(), "content");
    let id = sent["distribution_id"].as_str().unwrap();
    let short = &id[..8];

    let status = alpha(&["status", short, "--files", "--output", "json"]).ok().json();
    assert_eq!(status["distribution_id"], id);
    assert_eq!(status["targets"][0]["name"], "bravo");
    assert_eq!(status["files"][1]["path"], "sub/file");
    let bundle = status["bundle"].as_str().unwrap();
    let whole = alpha(&["status", "--bundle", bundle]).ok().out;
    assert!(whole.contains("file      bravo\nempty     ✓\nsub/file  ✓\n✓ delivered"), "{whole}");
    let documents = alpha(&["status", "--bundle", bundle, "--output", "json"]).ok().json();
    assert_eq!((&documents["distributions"][0], documents["distributions"].as_array().unwrap().len()), (&status, 1));
    assert_eq!(alpha(&["status", "--bundle", "another"]).code, Some(4));
    let human = alpha(&["status", short]).ok().out;
    assert!(human.contains("completed") && human.contains("bravo"), "{human}");
    assert!(alpha(&["why", short, "bravo"]).ok().out.starts_with("delivered: "));
    assert_eq!(alpha(&["why", short, "charlie"]).code, Some(4));
    assert_eq!(alpha(&["wait", short, "--output", "json"]).ok().json()["state"], "completed");
    let watched = alpha(&["watch", short, "--output", "jsonl"]).ok().out;
    assert!(watched.lines().last().unwrap().contains("\"state\":\"completed\""), "{watched}");

    alpha(&["get", short, "sub/file"]).ok();
    assert_eq!(std::fs::read_to_string(work.path().join("file")).unwrap(), "content");
    assert_eq!(alpha(&["get", short, "sub/file"]).code, Some(8), "a file is not replaced unasked");
    assert_eq!(alpha(&["get", short, "sub/file", "-o", "-"]).ok().out, "content");
    let blob = status["files"][1]["blob"].as_str().unwrap();
    assert_eq!(alpha(&["get", blob, "-o", "-"]).ok().out, "content");
    assert_eq!(alpha(&["get", short, "nothing"]).code, Some(4));
    assert_eq!(alpha(&["get", short]).code, Some(2), "which of two");

    let listed = alpha(&["ls", "--output", "jsonl"]).ok();
    assert_eq!(listed.json()["distribution_id"], id, "one line");
    assert_eq!(alpha(&["ls", "--output", "json"]).ok().json()["distributions"][0]["state"], "completed");
    let peers = alpha(&["peers", "--output", "json"]).ok().json();
    assert_eq!((peers["peers"][0]["name"].as_str(), peers["peers"][0]["connected"].as_bool()), (Some("bravo"), Some(true)));
    let node = alpha(&["status", "--output", "json"]).ok().json();
    assert_eq!((node["name"].as_str(), node["distributions"].as_u64()), (Some("alpha"), Some(1)));
    daemons.at("bravo", &["redeliver", short]).ok();
    assert_eq!(alpha(&["gc", "--output", "json"]).ok().json()["dropped"], 0);
    assert_eq!(
        alpha(&["disconnect", &daemons.node("bravo").id().to_string(), "--output", "json"]).ok().json()["was_connected"],
        true
    );
}

#[test]
fn bytes_are_streamed_from_standard_input_and_from_files() {
    let work = tempfile::tempdir().unwrap();
    let daemons = two(work.path());
    let socket = format!("unix://{}", work.path().join("alpha/api.sock").display());
    let send = ["--daemon", &socket, "send", "-", "--name", "deep/in.txt", "--wait", "--timeout", "60s", "--to", "bravo"];
    ctl_with_input(work.path(), &send, "streamed").ok();
    assert_eq!(std::fs::read_to_string(work.path().join("bravo.inbox/deep/in.txt")).unwrap(), "streamed");
    let carry = ["--carry", "bravo", "--carry", &"e".repeat(64), "--root-name", "orders", "--output", "json"];
    let send = ["send", "outbox", "--stream", "--wait", "--timeout", "60s", "--to", "role=bravo"];
    let sent = daemons.at("alpha", &[&send[..], &carry[..]].concat()).ok().json();
    assert_eq!(sent["status"]["root_name"], "orders");
    assert_eq!(std::fs::read_to_string(work.path().join("bravo.inbox/sub/file")).unwrap(), "content");
    let id = sent["distribution_id"].as_str().unwrap().parse().unwrap();
    let manifest = daemons.runtime.block_on(daemons.node("bravo").distribution(id)).unwrap().manifest.clone();
    let carriers = [daemons.node("bravo").id(), "e".repeat(64).parse().unwrap()];
    assert_eq!(manifest.carry, Carry::Nodes(carriers.to_vec()));
    assert_eq!(daemons.at("alpha", &["send", "outbox", "--carry", "nobody-known"]).code, Some(4));
    assert_eq!(daemons.at("alpha", &["send", "outbox", "--carry", "none", "--carry", "bravo"]).code, Some(2));
}

#[test]
fn what_has_no_target_is_a_timeout_and_what_is_cancelled_has_failed() {
    let work = tempfile::tempdir().unwrap();
    let daemons = two(work.path());
    let alpha = |arguments: &[&str]| daemons.at("alpha", arguments);
    let run = alpha(&["send", "outbox", "--to", "role=nobody", "--wait", "--timeout", "200ms", "--output", "json"]);
    assert_eq!((run.code, run.error()["kind"].as_str()), (Some(6), Some("timed out")), "{}", run.err);
    // A target that is named by its id counts though nobody has met it.
    let unknown = "e10ac89fd00397e5b0c52cbda091f1e630f5d4e8654dc454168c2cd2b7ca832e";
    let sent = alpha(&["send", "outbox", "--to", unknown, "--output", "json"]).ok().json();
    let id = sent["distribution_id"].as_str().unwrap().to_owned();
    assert_eq!(alpha(&["wait", &id, "--timeout", "200ms"]).code, Some(6));
    alpha(&["cancel", &id]).ok();
    let cancelled = alpha(&["wait", &id, "--timeout", "20s"]);
    assert_eq!(cancelled.code, Some(1), "{}", cancelled.err);
    assert!(cancelled.err.contains("was cancelled"), "{}", cancelled.err);
}

#[test]
fn limits_are_shown_and_changed_while_the_daemon_runs() {
    let work = tempfile::tempdir().unwrap();
    formation(work.path(), &["alpha"]);
    let daemons = Daemons::start_with(work.path(), &["alpha"], |_, mut config| {
        config.limit_up = Some("2Mbit/s".parse().unwrap());
        config
    });
    let alpha = |arguments: &[&str]| daemons.at("alpha", arguments);
    let limits = alpha(&["limits", "--output", "json"]).ok().json();
    assert_eq!((limits["up"].as_u64(), limits["down"].as_u64(), limits["metered"].as_bool()), (Some(250_000), None, Some(false)));
    let set = ["limits", "set", "--down", "1MiB/s", "--class", "bulk=up=100KiB/s", "--peer", "bravo=50kB/s", "--metered", "on"];
    let changed = alpha(&set).ok();
    assert!(changed.out.contains("250kB/s") && changed.out.contains("100KiB/s"), "{}", changed.out);
    assert!(changed.err.contains("no node \"bravo\" is known yet"), "{}", changed.err);
    let limits = alpha(&["limits", "--output", "json"]).ok().json();
    assert_eq!((limits["up"].as_u64(), limits["down"].as_u64()), (Some(250_000), Some(1 << 20)));
    assert_eq!(limits["classes"], serde_json::json!([{ "priority": "bulk", "up": 102_400, "down": null }]));
    assert_eq!(limits["peers"], serde_json::json!([{ "peer": "bravo", "up": 50_000, "down": 50_000 }]));
    assert_eq!(limits["in_force"]["down"], 1 << 20);
    let status = alpha(&["status", "--output", "json"]).ok().json();
    assert_eq!((&status["limits"], status["limits"]["metered"].as_bool()), (&limits, Some(true)));
    assert!(status["warnings"].to_string().contains("the link is metered"), "{status}");
    let always = ["limits", "set", "--schedule", "00:00-24:00 unlimited", "--class", "bulk=none", "--peer", "bravo=none"];
    let limits = alpha(&[&always[..], &["--output", "json"]].concat()).ok().json();
    assert_eq!(limits["in_force"]["period"], "00:00-24:00 unlimited");
    assert_eq!((&limits["in_force"]["up"], &limits["up"]), (&serde_json::Value::Null, &serde_json::json!(250_000)));
    assert_eq!((&limits["classes"], &limits["peers"]), (&serde_json::json!([]), &serde_json::json!([])));
    let limits = alpha(&["limits", "set", "--reset", "--output", "json"]).ok().json();
    assert_eq!((&limits["up"], &limits["schedule"]), (&serde_json::Value::Null, &serde_json::json!([])));
    for (wrong, hint) in [("2Mb/s", "write 2MB/s"), ("0", "`none` for no limit"), ("fast", "256KiB/s")] {
        let run = alpha(&["limits", "set", "--up", wrong]);
        assert_eq!(run.code, Some(2));
        assert!(run.err.contains(hint), "{}", run.err);
    }
    assert_eq!(alpha(&["limits", "set"]).code, Some(2));
}

#[test]
fn the_daemons_refusals_come_with_their_kind_and_what_to_do() {
    let work = tempfile::tempdir().unwrap();
    let daemons = two(work.path());
    let alpha = |arguments: &[&str]| daemons.at("alpha", arguments);
    let unknown = alpha(&["status", "00000000", "--output", "json"]);
    assert_eq!((unknown.code, unknown.error()["kind"].as_str()), (Some(4), Some("not found")), "{}", unknown.err);
    let empty = work.path().join("nothing");
    std::fs::create_dir(empty).unwrap();
    assert_eq!(alpha(&["send", "nothing"]).code, Some(4));
    assert_eq!(alpha(&["send", "nothing", "--stream"]).code, Some(4));
}

#[test]
fn damage_in_the_store_is_an_integrity_failure() {
    let work = tempfile::tempdir().unwrap();
    let daemons = two(work.path());
    // Large enough for a file of its own in the store.
    std::fs::write(work.path().join("large"), vec![7; 1 << 20]).unwrap();
    let sent = daemons.at("alpha", &["send", "large", "--output", "json"]).ok().json();
    assert_eq!(daemons.at("alpha", &["check", "--output", "json"]).ok().json()["damaged"], serde_json::json!([]));
    let blob = sent["files"][0]["blob"].as_str().unwrap();
    let file = find(&work.path().join("alpha/content"), blob).expect("a file of the blob's name");
    std::fs::write(file, vec![8; 1 << 20]).unwrap();
    let run = daemons.at("alpha", &["check", "--output", "json"]);
    assert_eq!(run.code, Some(7), "{}", run.err);
    assert_eq!(run.json()["damaged"][0], blob);
}

/// The file that has the name of a blob.
fn find(directory: &Path, blob: &str) -> Option<PathBuf> {
    std::fs::read_dir(directory).ok()?.flatten().find_map(|entry| {
        let path = entry.path();
        if path.is_dir() { find(&path, blob) } else { path.ends_with(blob).then_some(path) }
    })
}

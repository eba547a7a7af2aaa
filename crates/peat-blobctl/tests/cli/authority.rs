//! What the authority declares: signed here, handed to daemons that run in the test, or carried to them.

use std::time::{Duration, Instant};

use peat_blobcore::identity::FormationKey;
use serde_json::Value;

use crate::online::Daemons;
use crate::{ctl, ctl_with_input, formation};

/// How long a test waits for what must happen.
const DEADLINE: Duration = Duration::from_secs(120);

/// Asks until the answer is yes.
#[track_caller]
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let since = Instant::now();
    while !holds() {
        assert!(since.elapsed() < DEADLINE, "waited for {what}");
    }
}

/// What a daemon says of a peer.
fn peer(daemons: &Daemons, at: &str, id: &str) -> Value {
    let peers = daemons.at(at, &["peers", "--output", "json"]).ok().json();
    let mut peers = peers["peers"].as_array().expect("a list").iter();
    peers.find(|peer| peer["endpoint_id"] == id).cloned().unwrap_or(Value::Null)
}

fn id(daemons: &Daemons, name: &str) -> String {
    daemons.node(name).id().to_string()
}

/// Connects each of these with the one before it, both known by name then.
fn chain(daemons: &Daemons, names: &[&str]) {
    for pair in names.windows(2) {
        daemons.at(pair[0], &["connect", &daemons.peer(pair[1])]).ok();
        for (at, other) in [(pair[0], pair[1]), (pair[1], pair[0])] {
            let other_id = id(daemons, other);
            until("a connection", || {
                let peer = peer(daemons, at, &other_id);
                peer["connected"] == true && peer["name"] == other
            });
        }
    }
}

#[test]
fn a_revoked_node_is_cut_off_by_the_daemon_and_by_those_that_hear_of_it() {
    let work = tempfile::tempdir().unwrap();
    formation(work.path(), &["alpha", "bravo", "lost"]);
    let daemons = Daemons::start(work.path(), &["alpha", "bravo", "lost"]);
    chain(&daemons, &["alpha", "bravo", "lost", "alpha"]);
    let lost = id(&daemons, "lost");
    let revoke = ["revoke", "lost", "--formation", "formation", "--reason", "captured", "--yes", "--output", "json"];
    let done = daemons.at("alpha", &revoke).ok().json();
    assert_eq!((&done["endpoint_id"], &done["name"]), (&lost.as_str().into(), &"lost".into()));
    assert_eq!((&done["declared"], &done["already"]), (&"revoked".into(), &false.into()));
    for at in ["alpha", "bravo"] {
        until("the revocation", || {
            let peer = peer(&daemons, at, &lost);
            peer["revoked"] == true && peer["connected"] == false
        });
    }
    until("the revoked node is alone", || daemons.node("lost").peers().is_empty());
    // Once more changes nothing, by its id and by its name, which those know too who never met it.
    for (at, node) in [("bravo", lost.as_str()), ("bravo", "lost"), ("alpha", "lost")] {
        let again = daemons.at(at, &["revoke", node, "--formation", "formation"]).ok();
        assert!(again.out.starts_with("lost (") && again.out.contains("is revoked already"), "{at} {node}: {}", again.out);
    }
    assert_eq!(daemons.at("alpha", &revoke).ok().json()["already"], true);
}

#[test]
fn a_revocation_is_carried_to_a_daemon_that_never_met_the_authority_and_from_there_on() {
    let work = tempfile::tempdir().unwrap();
    formation(work.path(), &["alpha", "bravo", "lost"]);
    let daemons = Daemons::start(work.path(), &["alpha", "bravo", "lost"]);
    chain(&daemons, &["alpha", "lost"]);
    let lost = id(&daemons, "lost");
    // No daemon is asked: none is where this one looks.
    let revoke = ["revoke", &lost, "--formation", "formation", "--parcel", "stick", "--yes", "--output", "json"];
    let signed = ctl(work.path(), &revoke).ok().json();
    assert_eq!((&signed["parcel"], &signed["endpoint_id"]), (&"stick".into(), &lost.as_str().into()));
    assert_eq!(peer(&daemons, "alpha", &lost)["revoked"], false);
    let taken = daemons.at("alpha", &["parcel", "import", "stick", "--output", "json"]).ok().json();
    assert_eq!((&taken["new_envelopes"], &taken["refused_envelopes"]), (&1.into(), &0.into()));
    until("the revocation", || {
        let peer = peer(&daemons, "alpha", &lost);
        peer["revoked"] == true && peer["connected"] == false
    });
    // By name a daemon is asked, and an older word changes nothing.
    let unreachable = ctl(work.path(), &["revoke", "lost", "--formation", "formation", "--parcel", "x", "--yes"]);
    assert_eq!(unreachable.code, Some(5), "{}", unreachable.err);
    assert_eq!(daemons.at("alpha", &["parcel", "import", "stick", "--output", "json"]).ok().json()["new_envelopes"], 0);
    daemons.at("alpha", &["parcel", "export", "next"]).ok();
    daemons.at("bravo", &["parcel", "import", "next"]).ok();
    assert_eq!(peer(&daemons, "bravo", &lost)["revoked"], true);
    // The node itself may hear of it, and answers on.
    daemons.at("lost", &["parcel", "import", "stick"]).ok();
    daemons.at("lost", &["status"]).ok();
}

#[test]
fn a_retired_node_is_waited_for_no_longer() {
    let work = tempfile::tempdir().unwrap();
    formation(work.path(), &["alpha", "bravo", "gone"]);
    let mut daemons = Daemons::start(work.path(), &["alpha", "bravo", "gone"]);
    chain(&daemons, &["bravo", "alpha", "gone"]);
    let gone = id(&daemons, "gone");
    daemons.stop("gone");
    std::fs::write(work.path().join("file"), "content").unwrap();
    let alpha = |arguments: &[&str]| daemons.at("alpha", arguments);
    let sent = alpha(&["send", "file", "--output", "json"]).ok().json()["distribution_id"].as_str().unwrap().to_owned();
    let status = || alpha(&["status", &sent, "--output", "json"]).ok().json();
    until("the receipt of the other", || status()["targets"].as_array().unwrap().iter().any(|target| target["receipt"] == true));
    assert_eq!((&status()["state"], status()["targets"].as_array().unwrap().len()), (&"in progress".into(), 2));

    let retire = ["node", "retire", "gone", "--formation", "formation", "--reason", "scrapped", "--yes", "--output", "json"];
    let done = alpha(&retire).ok().json();
    assert_eq!((&done["endpoint_id"], &done["declared"]), (&gone.as_str().into(), &"retired".into()));
    alpha(&["wait", &sent, "--timeout", "60s"]).ok();
    assert_eq!((&status()["state"], status()["targets"].as_array().unwrap().len()), (&"completed".into(), 1));
    for at in ["alpha", "bravo"] {
        until("the retirement", || peer(&daemons, at, &gone)["retired"] == true);
    }
    assert_eq!(alpha(&retire).ok().json()["already"], true);
    // What is sent from now on does not count it either.
    std::fs::write(work.path().join("file"), "more").unwrap();
    alpha(&["send", "file", "--wait", "--timeout", "60s"]).ok();
}

#[test]
fn who_is_not_the_authority_declares_nothing() {
    let work = tempfile::tempdir().unwrap();
    formation(work.path(), &["alpha", "bravo"]);
    ctl(work.path(), &["keygen", "other"]).ok();
    let daemons = Daemons::start(work.path(), &["alpha", "bravo"]);
    chain(&daemons, &["alpha", "bravo"]);
    let bravo = id(&daemons, "bravo");
    let authority = std::fs::read_to_string(work.path().join("formation/authority.pub")).unwrap();
    assert_eq!(daemons.at("alpha", &["status", "--output", "json"]).ok().json()["authority"], authority.trim());
    let refused = |arguments: &[&str], code: i32, hint: &str| {
        let run = daemons.at("alpha", &[arguments, &["--output", "json"]].concat());
        assert_eq!(run.code, Some(code), "{arguments:?}: {}{}", run.out, run.err);
        let told = run.error()["hint"].as_str().unwrap_or_default().to_owned();
        assert!(told.contains(hint), "{arguments:?}: {told}");
    };
    for verb in [&["revoke"][..], &["node", "retire"]] {
        let with = |arguments: &[&'static str]| [verb, arguments].concat();
        refused(&with(&["bravo", "--yes"]), 8, "--formation DIRECTORY");
        refused(&with(&["bravo", "--yes", "--formation", "other"]), 8, "keygen");
        refused(&with(&["bravo", "--yes", "--formation", "nowhere"]), 4, "authority's key");
        refused(&with(&["bravo", "--formation", "formation"]), 2, "--yes");
        refused(&with(&["nobody", "--yes", "--formation", "formation"]), 4, "peers");
    }
    let unknown = "e".repeat(64);
    refused(&["revoke", &unknown, "--yes", "--formation", "formation"], 4, "--parcel FILE");
    refused(&["revoke", "alpha", "--yes", "--formation", "formation"], 8, "another node");
    daemons.at("alpha", &["revoke", "alpha", "--yes", "--formation", "formation", "--parcel", "for-bravo"]).ok();
    let long = "x".repeat(9000);
    refused(&["revoke", "bravo", "--yes", "--formation", "formation", "--reason", &long], 2, "shorter");

    // Signed with the wrong key for the right formation, and with the right key for another.
    std::fs::create_dir(work.path().join("forged")).unwrap();
    let forge = |from: &str, name: &str| {
        std::fs::copy(work.path().join(from).join(name), work.path().join("forged").join(name)).unwrap();
    };
    forge("formation", "formation.key");
    forge("other", "authority.key");
    ctl(work.path(), &["revoke", &bravo, "--yes", "--formation", "forged", "--parcel", "stick"]).ok();
    let taken = daemons.at("alpha", &["parcel", "import", "stick"]).ok();
    assert!(taken.out.contains("1 envelope refused"), "{}", taken.out);
    ctl(work.path(), &["revoke", &bravo, "--yes", "--formation", "other", "--parcel", "stick"]).ok();
    refused(&["parcel", "import", "stick"], 8, "formation");
    forge("formation", "authority.pub");
    refused(&["revoke", &bravo, "--yes", "--formation", "forged", "--parcel", "stick"], 8, "restore");
    // Answered by a pipe, the question counts as not asked.
    let socket = format!("unix://{}", work.path().join("alpha/api.sock").display());
    let piped = ["--daemon", &socket, "revoke", "bravo", "--formation", "formation"];
    assert_eq!(ctl_with_input(work.path(), &piped, "revoke\n").code, Some(2));
    let known = peer(&daemons, "alpha", &bravo);
    assert_eq!((&known["revoked"], &known["retired"]), (&false.into(), &false.into()));
    assert_eq!(known["connected"], true);
}

#[test]
fn without_an_authority_any_member_retires_and_nobody_is_expelled() {
    let work = tempfile::tempdir().unwrap();
    let key = FormationKey::generate();
    let daemons = Daemons::start_with(work.path(), &["alpha", "bravo"], |name, mut config| {
        config.shared_key = Some(key.clone());
        config.node_id = Some(name.to_owned());
        config
    });
    chain(&daemons, &["alpha", "bravo"]);
    assert_eq!(daemons.at("alpha", &["status", "--output", "json"]).ok().json()["authority"], "");
    let revoke = daemons.at("alpha", &["revoke", "bravo", "--yes"]);
    assert_eq!(revoke.code, Some(8), "{}", revoke.err);
    assert!(revoke.err.contains("hint: give all other nodes a new formation key"), "{}", revoke.err);
    let retired = daemons.at("alpha", &["node", "retire", "bravo", "--yes"]).ok();
    assert!(retired.out.starts_with("bravo ("), "{}", retired.out);
    assert_eq!(peer(&daemons, "alpha", &id(&daemons, "bravo"))["retired"], true);
}

//! Sending without a daemon, to a daemon that runs in the test.

use crate::online::Daemons;
use crate::{ctl, formation};

#[test]
fn a_node_of_its_own_joins_delivers_and_leaves() {
    let work = tempfile::tempdir().unwrap();
    formation(work.path(), &["visitor", "bravo"]);
    let daemons = Daemons::start(work.path(), &["bravo"]);
    std::fs::write(work.path().join("orders.txt"), "hold the bridge\n").unwrap();
    let peer = daemons.peer("bravo");
    let send = ["send", "orders.txt", "--data", "visitor", "--peer", &peer, "--timeout", "60s", "--output", "json"];
    let sent = ctl(work.path(), &[&send[..], &["--carry", "none", "--root-name", "orders"]].concat()).ok().json();
    assert_eq!(sent["status"]["state"], "completed");
    assert_eq!(sent["status"]["targets"][0]["receipt"], true);
    assert_eq!(std::fs::read_to_string(work.path().join("bravo.inbox/orders.txt")).unwrap(), "hold the bridge\n");
    let listed = daemons.at("bravo", &["ls", "--output", "json"]).ok().json();
    assert_eq!(listed["distributions"][0]["root_name"], "orders");
    let named = ctl(work.path(), &[&send[..], &["--carry", "bravo"]].concat());
    assert_eq!(named.code, Some(2), "{}", named.err);
}

#[test]
fn a_peer_out_of_reach_is_a_timeout_and_what_was_sent_stays() {
    let work = tempfile::tempdir().unwrap();
    formation(work.path(), &["visitor"]);
    std::fs::write(work.path().join("file"), "x").unwrap();
    let peer = format!("{}@127.0.0.1:9", "e10ac89fd00397e5b0c52cbda091f1e630f5d4e8654dc454168c2cd2b7ca832e");
    let send = ["send", "file", "--data", "visitor", "--peer", &peer, "--timeout", "200ms", "--output", "json"];
    let run = ctl(work.path(), &send);
    assert_eq!(run.code, Some(6), "{}", run.err);
    assert_eq!(run.json()["status"]["state"], "no targets");
    let alone = ctl(work.path(), &["send", "file", "--data", "visitor"]);
    assert_eq!(alone.code, Some(2), "{}", alone.err);
}

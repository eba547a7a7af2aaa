//! The rules of an inbox as a daemon's settings have them: what its user sees on disk, and what the sender is told.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use peat_blob_tests::fleet::{Fleet, completed, contents, eventually};
use peat_blobcore::exchange::{Layout, Owner};
use peat_blobcore::model::{DistributionId, DistributionState, Scope, TargetState};
use peat_blobcore::{Node, SendRequest};
use peat_blobd::config::{Listen, StaticPeer, WatchTerms, Watched};
use peat_blobd::{Config, Running};

fn config(fleet: &Fleet, name: &str, peers: &[&Running]) -> Config {
    let loopback = ([127, 0, 0, 1], 0).into();
    let peer = |peer: &&Running| StaticPeer {
        id: peer.node().id(),
        hosts: peer.node().listening_on().iter().map(ToString::to_string).collect(),
    };
    Config {
        listen: vec![Listen::Tcp(loopback)],
        iroh_listen: vec![loopback],
        inbox: Some(fleet.inbox(name)),
        peers: peers.iter().map(peer).collect(),
        gossip: false,
        ..Config::new(fleet.path(name))
    }
}

async fn start(fleet: &Fleet, config: Config) -> Running {
    if !config.data_dir.exists() {
        let name = config.data_dir.file_name().expect("a name").to_str().expect("text");
        fleet.enroll(name, &[]);
    }
    let started = Mutex::new(None);
    // The hook of another test, until it is the program that it is to be, has all files of this process, the lock of who just ended among them.
    eventually("the data directory is free", || async {
        let outcome = Running::start(config.clone()).await;
        let in_use = matches!(outcome, Err(peat_blobd::Error::Node(peat_blobcore::Error::InUse(_))));
        *started.lock().expect("nobody panics") = Some(outcome);
        !in_use
    })
    .await;
    started.into_inner().expect("nobody panics").expect("it was tried").expect("it starts")
}

/// Sends these files from a directory of their own.
async fn send(fleet: &Fleet, node: &Node, directory: &str, files: &[(&str, &[u8])]) -> DistributionId {
    let root = fleet.write(directory, files);
    node.send(SendRequest::new(root)).await.expect("sent").distribution
}

async fn to_bravo(node: &Node, root: PathBuf) -> DistributionId {
    let scope = Scope::Nodes(vec!["bravo".into()]);
    node.send(SendRequest { scope, ..SendRequest::new(root) }).await.expect("sent").distribution
}

/// Waits until a sender is told that a target is in this state, and why.
async fn told(sender: &Node, id: DistributionId, target: &Running, state: TargetState, why: &str) {
    let target = target.node().id();
    eventually(why, || async {
        let status = sender.status(id).await.expect("known");
        let Some(target) = status.targets.get(&target) else { return false };
        let said = target
            .record
            .as_ref()
            .is_some_and(|record| record.state == state && record.error.as_ref().is_some_and(|error| error.contains(why)));
        said && target.why.contains(why)
    })
    .await;
}

fn text(path: impl AsRef<Path>) -> Option<String> {
    fs::read_to_string(path).ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_receiver_does_not_take_is_refused_with_a_reason_that_the_sender_sees_and_taken_when_it_does() {
    let fleet = Fleet::new();
    let alpha = start(&fleet, config(&fleet, "alpha", &[])).await;
    let open = config(&fleet, "bravo", &[&alpha]);
    let bravo = start(&fleet, Config { max_file_bytes: Some(10), quota: Some(25), ..open.clone() }).await;
    let large = send(&fleet, alpha.node(), "large", &[("large", b"eleven bytes")]).await;
    told(alpha.node(), large, &bravo, TargetState::Refused, "a file of 12 bytes is over the cap of 10 bytes").await;
    let many = send(&fleet, alpha.node(), "many", &[("1", b"ten bytes."), ("2", b"ten more b"), ("3", b"and others")]).await;
    told(alpha.node(), many, &bravo, TargetState::Refused, "30 bytes are over the quota of 25 bytes").await;
    let fits = send(&fleet, alpha.node(), "fits", &[("fits", b"0123456789")]).await;
    completed(alpha.node(), fits).await;
    let others = BTreeSet::from([bravo.node().id()]);
    bravo.reload(Config { accepted_senders: Some(others), ..open.clone() }).await.expect("reloaded");
    let unwanted = send(&fleet, alpha.node(), "unwanted", &[("unwanted", b"x")]).await;
    told(alpha.node(), unwanted, &bravo, TargetState::Refused, "the sender is not among those that this node accepts").await;
    assert_eq!(contents(&fleet.inbox("bravo")).into_keys().collect::<Vec<_>>(), [PathBuf::from("fits")]);
    bravo.reload(open).await.expect("reloaded");
    for id in [large, many, unwanted] {
        // It had ended, refused, and goes on: who waits for its end would not wait.
        eventually("it is taken now", || async {
            alpha.node().status(id).await.expect("known").state == DistributionState::Completed
        })
        .await;
    }
    assert_eq!(contents(&fleet.inbox("bravo")).len(), 6);
    alpha.stop().await;
    bravo.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_replaces_its_own_files_alone_and_what_the_user_edited_is_moved_aside() {
    let fleet = Fleet::new();
    let alpha = start(&fleet, config(&fleet, "alpha", &[])).await;
    let bravo = start(&fleet, Config { inbox_owner: Owner::Sender, ..config(&fleet, "bravo", &[&alpha]) }).await;
    let charlie = start(&fleet, Config { inbox: None, ..config(&fleet, "charlie", &[&bravo]) }).await;
    let first = to_bravo(alpha.node(), fleet.write("first", &[("a", b"of alpha")])).await;
    completed(alpha.node(), first).await;
    let other = to_bravo(charlie.node(), fleet.write("other", &[("a", b"of charlie")])).await;
    let why = format!("belongs to sender {}", alpha.node().id());
    told(charlie.node(), other, &bravo, TargetState::Failed, &why).await;
    let file = fleet.inbox("bravo").join("a");
    assert_eq!(text(&file).as_deref(), Some("of alpha"));
    fs::write(&file, "of the user").expect("edited");
    let second = to_bravo(alpha.node(), fleet.write("second", &[("a", b"of alpha, newer")])).await;
    completed(alpha.node(), second).await;
    let mut found: Vec<_> = contents(&fleet.inbox("bravo")).into_iter().collect();
    found.sort();
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!((found[0].0.as_path(), found[0].1.as_slice()), (Path::new("a"), &b"of alpha, newer"[..]));
    assert!(found[1].0.to_str().expect("text").starts_with("a.conflict-") && found[1].1 == b"of the user", "{found:?}");
    for daemon in [alpha, bravo, charlie] {
        daemon.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn senders_have_folders_of_their_own_with_sidecars_and_permissions_as_the_settings_say() {
    let fleet = Fleet::new();
    let alpha = start(&fleet, config(&fleet, "alpha", &[])).await;
    let inbox = Config {
        inbox_layout: Layout::Origin,
        inbox_sidecar: true,
        inbox_mode: 0o750,
        inbox_mtime: true,
        ..config(&fleet, "bravo", &[&alpha])
    };
    let bravo = start(&fleet, inbox.clone()).await;
    let charlie = start(&fleet, Config { inbox: None, ..config(&fleet, "charlie", &[&bravo]) }).await;
    let root = fleet.write("of alpha", &[("d/run", b"of alpha")]);
    fs::set_permissions(root.join("d/run"), Permissions::from_mode(0o777)).expect("a mode");
    let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    fs::File::open(root.join("d/run")).expect("a file").set_modified(time).expect("a time");
    let one = to_bravo(alpha.node(), root).await;
    let two = to_bravo(charlie.node(), fleet.write("of charlie", &[("d/run", b"of charlie")])).await;
    completed(alpha.node(), one).await;
    completed(charlie.node(), two).await;
    let folder = |daemon: &Running| fleet.inbox("bravo").join(daemon.node().id().to_string());
    let file = folder(&alpha).join("d/run");
    assert_eq!(text(&file).as_deref(), Some("of alpha"));
    assert_eq!(text(folder(&charlie).join("d/run")).as_deref(), Some("of charlie"));
    let meta = fs::metadata(&file).expect("delivered");
    assert_eq!((meta.permissions().mode() & 0o7777, meta.modified().expect("a time")), (0o750, time));
    let sidecar = text(folder(&alpha).join("d/run.peat.json")).expect("a sidecar");
    assert!(sidecar.contains(&format!("\"distribution\": \"{}\"", one)), "{sidecar}");
    assert!(sidecar.contains("\"relative_path\": \"d/run\""), "{sidecar}");
    // With another layout nothing is delivered again.
    bravo.stop().await;
    let peers = config(&fleet, "bravo", &[&alpha]).peers;
    let bravo = start(&fleet, Config { inbox_layout: Layout::Shared, peers, ..inbox }).await;
    let proof = send(&fleet, alpha.node(), "proof", &[("proof", b"that bravo had its chance")]).await;
    eventually("the proof", || async { fleet.inbox("bravo").join("proof").exists() }).await;
    assert!(!fleet.inbox("bravo").join("d").exists(), "{proof}");
    for daemon in [alpha, bravo, charlie] {
        daemon.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_what_belongs_together_nothing_appears_while_something_is_in_the_way_of_a_part() {
    let fleet = Fleet::new();
    let alpha = start(&fleet, config(&fleet, "alpha", &[])).await;
    let bravo = start(&fleet, config(&fleet, "bravo", &[&alpha])).await;
    let in_the_way = fleet.inbox("bravo").join("b");
    fs::create_dir_all(&in_the_way).expect("the user may");
    let root = fleet.write("outbox", &[("a", b"one"), ("b", b"two")]);
    let request = SendRequest { together: true, ..SendRequest::new(root) };
    let sent = alpha.node().send(request).await.expect("sent").distribution;
    let bravo_id = bravo.node().id();
    eventually("the sender hears of it", || async {
        let status = alpha.node().status(sent).await.expect("known");
        status.targets.get(&bravo_id).is_some_and(|target| target.why.contains("in the way") || target.why.contains("held back"))
    })
    .await;
    assert!(contents(&fleet.inbox("bravo")).is_empty());
    fs::remove_dir(&in_the_way).expect("the user may");
    // It is tried again at a start, and else after five minutes.
    bravo.stop().await;
    let bravo = start(&fleet, config(&fleet, "bravo", &[&alpha])).await;
    completed(alpha.node(), sent).await;
    assert_eq!(contents(&fleet.inbox("bravo")).len(), 2);
    alpha.stop().await;
    bravo.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_user_removed_stays_removed_over_restarts_until_it_is_asked_for() {
    let fleet = Fleet::new();
    let alpha = start(&fleet, config(&fleet, "alpha", &[])).await;
    let bravo = start(&fleet, config(&fleet, "bravo", &[&alpha])).await;
    let sent = send(&fleet, alpha.node(), "outbox", &[("a", b"one"), ("b", b"two")]).await;
    completed(alpha.node(), sent).await;
    fs::remove_file(fleet.inbox("bravo").join("a")).expect("the user may");
    bravo.stop().await;
    alpha.stop().await;
    let alpha = start(&fleet, config(&fleet, "alpha", &[])).await;
    let bravo = start(&fleet, config(&fleet, "bravo", &[&alpha])).await;
    let proof = send(&fleet, alpha.node(), "proof", &[("proof", b"that bravo had its chance")]).await;
    completed(alpha.node(), proof).await;
    assert!(!fleet.inbox("bravo").join("a").exists());
    bravo.node().redeliver(sent).await.expect("known");
    eventually("it is there again", || async { text(fleet.inbox("bravo").join("a")).as_deref() == Some("one") }).await;
    assert_eq!(contents(&fleet.inbox("bravo")).len(), 3, "and nothing was moved aside");
    alpha.stop().await;
    bravo.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_inbox_alone_is_to_have_it_the_store_keeps_nothing_and_what_is_asked_for_again_is_fetched_again() {
    let fleet = Fleet::new();
    let alpha = start(&fleet, config(&fleet, "alpha", &[])).await;
    let only = |alpha: &Running| Config { inbox_only: true, ..config(&fleet, "bravo", &[alpha]) };
    let bravo = start(&fleet, only(&alpha)).await;
    let large = vec![7; 100_000];
    let sent = send(&fleet, alpha.node(), "outbox", &[("large", &large), ("small", b"two")]).await;
    completed(alpha.node(), sent).await;
    let empty = |daemon: &Running| daemon.node().content().usage().expect("a store").blobs == 0;
    eventually("the store has let go of it", || async { empty(&bravo) }).await;
    assert_eq!(contents(&fleet.inbox("bravo")), contents(&fleet.path("outbox")));
    fs::remove_file(fleet.inbox("bravo").join("large")).expect("the user may");
    bravo.stop().await;
    let bravo = start(&fleet, only(&alpha)).await;
    let before = bravo.node().block_bytes().received;
    bravo.node().redeliver(sent).await.expect("known");
    eventually("it is there again", || async { fs::read(fleet.inbox("bravo").join("large")).is_ok_and(|read| read == large) })
        .await;
    assert!(bravo.node().block_bytes().received > before, "it was nowhere else");
    eventually("the store has let go of it again", || async { empty(&bravo) }).await;
    // What was kept so far goes as well once it is said.
    bravo.stop().await;
    let bravo = start(&fleet, config(&fleet, "bravo", &[&alpha])).await;
    let more = send(&fleet, alpha.node(), "more", &[("more", b"three")]).await;
    completed(alpha.node(), more).await;
    assert!(!empty(&bravo));
    bravo.stop().await;
    let bravo = start(&fleet, only(&alpha)).await;
    eventually("nothing is kept", || async { empty(&bravo) }).await;
    assert_eq!(contents(&fleet.inbox("bravo")).len(), 3);
    alpha.stop().await;
    bravo.stop().await;
}

/// A script that notes what it was run for, fails where a file `fail` is beside it, and ends where `block` is only by force.
fn hook(fleet: &Fleet) -> PathBuf {
    let root = fleet.path("hook");
    fs::create_dir_all(&root).expect("a directory");
    let script = format!(
        "#!/bin/sh\nhere='{0}'\necho \"$PEAT_BLOB_RELATIVE_PATH of $PEAT_BLOB_SENDER_NAME\" >> \"$here/begun\"\n\
         [ -e \"$here/block\" ] && sleep 100000\n[ -e \"$here/fail\" ] && exit 7\n\
         cmp \"$PEAT_BLOB_PATH\" '{1}'/\"$PEAT_BLOB_RELATIVE_PATH\" && echo \"$PEAT_BLOB_RELATIVE_PATH\" >> \"$here/ended\"\n",
        root.display(),
        fleet.path("outbox").display()
    );
    fs::write(root.join("run"), script).expect("written");
    fs::set_permissions(root.join("run"), Permissions::from_mode(0o700)).expect("a mode");
    root.join("run")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hook_runs_for_each_file_holds_no_receipt_back_and_runs_again_where_it_was_cut_off() {
    let fleet = Fleet::new();
    let program = hook(&fleet);
    let note = |name: &str| fleet.path("hook").join(name);
    fs::write(note("block"), "").expect("written");
    let alpha = start(&fleet, config(&fleet, "alpha", &[])).await;
    let with_hook = |alpha: &Running| Config { inbox_hook: Some(program.clone()), ..config(&fleet, "bravo", &[alpha]) };
    let bravo = start(&fleet, with_hook(&alpha)).await;
    let sent = send(&fleet, alpha.node(), "outbox", &[("a b", b"one"), ("d/$(exit)", b"two")]).await;
    completed(alpha.node(), sent).await;
    let begun = || text(note("begun")).unwrap_or_default();
    eventually("it is run", || async { begun() == "a b of alpha\n" }).await;
    bravo.stop().await;
    assert_eq!(text(note("ended")), None, "it was cut off");
    fs::remove_file(note("block")).expect("removed");
    let bravo = start(&fleet, with_hook(&alpha)).await;
    eventually("it has run for all", || async { text(note("ended")).as_deref() == Some("a b\nd/$(exit)\n") }).await;
    assert_eq!(begun(), "a b of alpha\na b of alpha\nd/$(exit) of alpha\n", "one after the other");

    fs::write(note("fail"), "").expect("written");
    fs::write(fleet.path("outbox").join("last"), "three").expect("written");
    let request = SendRequest { paths: vec!["last".into()], ..SendRequest::new(fleet.path("outbox")) };
    let last = alpha.node().send(request).await.expect("sent").distribution;
    completed(alpha.node(), last).await;
    let warnings = || async { warnings(&bravo).await };
    eventually("its failure is said", || async {
        warnings().await.iter().any(|warning| warning.contains("the inbox hook failed: it ended with exit status: 7 (\"last\")"))
    })
    .await;
    assert_eq!(contents(&fleet.inbox("bravo")).len(), 3, "the file is there all the same");
    eventually("it was seen to", || async { bravo.node().arrivals().await.expect("a ledger") == 0 }).await;
    bravo.stop().await;
    fs::remove_file(note("fail")).expect("removed");
    let bravo = start(&fleet, with_hook(&alpha)).await;
    let request = SendRequest { paths: vec!["d".into()], ..SendRequest::new(fleet.path("outbox")) };
    let again = alpha.node().send(request).await.expect("sent").distribution;
    completed(alpha.node(), again).await;
    eventually("what is delivered again is told again", || async {
        text(note("ended")).as_deref() == Some("a b\nd/$(exit)\nd/$(exit)\n")
    })
    .await;
    assert!(!begun().contains("last of alpha\nlast"), "what failed is not run again: {}", begun());
    alpha.stop().await;
    bravo.stop().await;
}

async fn warnings(daemon: &Running) -> Vec<String> {
    use connectrpc::client::{ClientConfig, HttpClient};
    use peat_blobapi::blob::{BlobServiceClient, GetNodeRequest};
    let Listen::Tcp(address) = &daemon.addresses()[0] else { panic!("it listens on TCP") };
    let uri = format!("http://{address}").parse().expect("an address");
    let client = BlobServiceClient::new(HttpClient::plaintext(), ClientConfig::new(uri));
    client.get_node(GetNodeRequest::default()).await.expect("it answers").into_owned().warnings
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_that_cannot_be_started_loses_no_file() {
    let fleet = Fleet::new();
    let alpha = start(&fleet, config(&fleet, "alpha", &[])).await;
    let with = |program: PathBuf| Config { inbox_hook: Some(program), ..config(&fleet, "bravo", &[&alpha]) };
    let bravo = start(&fleet, with(fleet.path("nowhere"))).await;
    let sent = send(&fleet, alpha.node(), "outbox", &[("a", b"one")]).await;
    completed(alpha.node(), sent).await;
    eventually("it is said", || async {
        warnings(&bravo).await.iter().any(|warning| warning.contains("it cannot be started: No such file"))
    })
    .await;
    bravo.stop().await;
    let bravo = start(&fleet, with(hook(&fleet))).await;
    eventually("it was run", || async { text(fleet.path("hook").join("ended")).as_deref() == Some("a\n") }).await;
    alpha.stop().await;
    bravo.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_keeps_what_came_says_so_and_removes_it_when_it_is_told_to() {
    let fleet = Fleet::new();
    let root = fleet.write("out", &[("a", b"a"), ("b", b"b")]);
    let terms = WatchTerms { deletions: true, ..WatchTerms::default() };
    let sender = Config {
        outbox: BTreeMap::from([("out".to_owned(), root.clone())]),
        outbox_watch: Watched::Named(BTreeMap::from([("out".to_owned(), terms)])),
        outbox_poll: Duration::from_millis(50),
        outbox_stable: Duration::from_millis(200),
        ..config(&fleet, "alpha", &[])
    };
    let alpha = start(&fleet, sender).await;
    let open = config(&fleet, "bravo", &[&alpha]);
    let bravo = start(&fleet, Config { inbox_deletions: false, ..open.clone() }).await;
    let inbox = fleet.inbox("bravo");
    eventually("both have come", || async { contents(&inbox).len() == 2 }).await;
    let before = alpha.node().distributions();
    fs::remove_file(root.join("a")).expect("removed");
    eventually("it is told", || async { alpha.node().distributions().len() > before.len() }).await;
    let id = alpha.node().distributions().into_iter().find(|id| !before.contains(id)).expect("another one");
    told(alpha.node(), id, &bravo, TargetState::Refused, "this node keeps files that their sender has removed").await;
    assert_eq!(contents(&inbox).len(), 2);
    bravo.reload(open).await.expect("reloaded");
    eventually("it is removed now", || async {
        alpha.node().status(id).await.expect("known").state == DistributionState::Completed
    })
    .await;
    assert_eq!(contents(&inbox).into_keys().collect::<Vec<_>>(), [PathBuf::from("b")]);
    alpha.stop().await;
    bravo.stop().await;
}

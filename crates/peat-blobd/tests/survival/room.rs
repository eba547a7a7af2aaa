//! Daemons whose disks fill up: the sender is told which node has no room, nothing is lost, and it goes on when there is some.

use std::time::Duration;

use peat_blob_tests::filesystem::FileSystem;
use peat_blob_tests::fleet::{Fleet, completed, connected, contents, eventually};
use peat_blobcore::SendRequest;
use peat_blobcore::identity::files;
use peat_blobcore::model::{Labels, NodeRef, Scope};

use crate::victim::{Victim, peer, steady};

const MIB: usize = 1024 * 1024;

#[derive(Clone, Copy)]
enum Full {
    Inbox,
    Store,
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inbox_without_room_is_told_to_the_sender_and_filled_when_there_is_room() {
    goes_on(Full::Inbox).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_without_room_is_told_to_the_sender_and_filled_when_there_is_room() {
    goes_on(Full::Store).await;
}

async fn goes_on(full: Full) {
    let Some(disk) = FileSystem::ext4(256) else { return };
    let fleet = Fleet::new();
    fleet.enroll("alpha", &[]);
    let (data, inbox) = match full {
        Full::Inbox => (fleet.path("bravo"), disk.path().join("inbox")),
        Full::Store => (disk.path().join("bravo"), fleet.inbox("bravo")),
    };
    let bravo = files::create_member(&data, &fleet.formation, &fleet.authority, "bravo", Labels::new()).expect("a member").id();
    // The store leaves 64 MiB of its file system to others.
    let filler = disk.fill(if matches!(full, Full::Store) { 80 } else { 16 });
    let alpha = steady(&fleet, "alpha").await;
    let victim = Victim::start(&data, &inbox, &[peer(&alpha)]);
    let root = fleet.write("outbox", &[("large", &[7; 40 * MIB]), ("small", b"small")]);
    let request = SendRequest { scope: Scope::Nodes(vec![NodeRef::Id(bravo)]), ..SendRequest::new(&root) };
    let id = alpha.node().send(request).await.expect("sent").distribution;
    let told = || async {
        let status = alpha.node().status(id).await.expect("known");
        let target = &status.targets[&bravo];
        (target.name.clone(), target.record.as_ref().and_then(|record| record.error.clone()), target.why.clone())
    };
    eventually("the sender's status says that there is no room", || async { told().await.1.is_some() }).await;
    let (name, error, why) = told().await;
    let no_space = |text: &str| text.to_lowercase().contains("no space");
    let error = error.unwrap_or_default();
    assert!(name == "bravo" && no_space(&error) && no_space(&why), "{name}: {error}: {why}");
    if let Full::Inbox = full {
        assert!(error.contains(&format!("no space for {} bytes", 40 * MIB)), "it was not copied to find that out: {error}");
    }
    std::fs::remove_file(&filler).expect("removed");
    completed(alpha.node(), id).await;
    assert!(contents(&inbox) == contents(&root), "all of it is there, and nothing else");
    drop(victim);
    alpha.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_disk_has_not_a_byte_left_goes_on_when_there_is_room() {
    let Some(disk) = FileSystem::tmpfs(256) else { return };
    let fleet = Fleet::new();
    fleet.enroll("alpha", &[]);
    // Documents, store, ledger and inbox have one disk between them.
    let (data, inbox) = (disk.path().join("bravo"), disk.path().join("inbox"));
    let bravo = files::create_member(&data, &fleet.formation, &fleet.authority, "bravo", Labels::new()).expect("a member").id();
    let alpha = steady(&fleet, "alpha").await;
    let victim = Victim::start(&data, &inbox, &[peer(&alpha)]);
    connected(alpha.node(), bravo).await;
    let filler = disk.fill(0);
    let mut sent = Vec::new();
    for number in 0..30 {
        let root = fleet.write("outbox", &[(&format!("file-{number}"), [7; 30_000].as_slice())]);
        let scope = Scope::Nodes(vec![NodeRef::Id(bravo)]);
        let paths = vec![format!("file-{number}").into()];
        let request = SendRequest { scope, paths, ..SendRequest::new(&root) };
        sent.push(alpha.node().send(request).await.expect("sent").distribution);
    }
    assert!(alpha.node().wait(sent[29], Duration::from_secs(5)).await.is_err(), "there is no room for it");
    std::fs::remove_file(&filler).expect("removed");
    for id in sent {
        completed(alpha.node(), id).await;
    }
    assert!(contents(&inbox) == contents(&fleet.path("outbox")), "all of it is there, and nothing else");
    drop(victim);
    alpha.stop().await;
}

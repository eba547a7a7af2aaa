//! Blobs that are deleted, cut short and altered beneath a daemon: found, served to nobody, and fetched again from another node.

use std::path::{Path, PathBuf};

use peat_blob_tests::fleet::{Fleet, completed, contents, eventually};
use peat_blobcore::SendRequest;
use peat_blobcore::model::{BlobHash, NodeRef, Scope};

use crate::victim::{Victim, peer, steady};

fn file_of(data: &Path, blob: &BlobHash) -> PathBuf {
    let hash = blob.to_string();
    data.join("content/blobs").join(&hash[..2]).join(hash)
}

fn damage(data: &Path, blobs: &[BlobHash]) {
    let [deleted, truncated, flipped] = blobs else { panic!("three blobs") };
    std::fs::remove_file(file_of(data, deleted)).expect("removed");
    let file = std::fs::File::options().write(true).open(file_of(data, truncated)).expect("opened");
    file.set_len(100_000).expect("cut short");
    let mut bytes = std::fs::read(file_of(data, flipped)).expect("read");
    bytes[150_000] ^= 1;
    std::fs::write(file_of(data, flipped), bytes).expect("written");
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_never_served_and_heals_from_another_node() {
    let fleet = Fleet::new();
    let large = |seed: u8| (0..300_000_u32).map(|at| (at % 251) as u8 ^ seed).collect::<Vec<_>>();
    let root = fleet.write("outbox", &[("a", &large(1)), ("b", &large(2)), ("c", &large(3))]);
    for name in ["alpha", "bravo"] {
        fleet.enroll(name, &[]);
    }
    let charlie = fleet.enroll("charlie", &[]).id();
    let bravo = steady(&fleet, "bravo").await;
    let alpha = steady(&fleet, "alpha").await;
    // Charlie is yet to come, so that both of the others keep what they have.
    let scope = Scope::Nodes(vec![NodeRef::Id(bravo.node().id()), NodeRef::Id(charlie)]);
    let sent = alpha.node().send(SendRequest { scope, ..SendRequest::new(&root) }).await.expect("sent");
    let id = sent.distribution;
    alpha.node().add_peer(bravo.node().id(), bravo.node().listening_on()).await;
    eventually("bravo has it", || async { contents(&fleet.inbox("bravo")) == contents(&root) }).await;
    let blobs: Vec<_> = sent.files.iter().map(|file| file.blob).collect();

    // Each heals from the other, which has it whole.
    for (name, daemon) in [("alpha", &alpha), ("bravo", &bravo)] {
        damage(&fleet.path(name), &blobs);
        let report = daemon.node().check().await.expect("checked");
        assert_eq!((report.missing.as_slice(), report.damaged.len()), (&blobs[..1], 2), "{name}: {report:?}");
        eventually("it has it again", || async {
            let report = daemon.node().check().await.expect("checked");
            report.damaged.is_empty() && report.missing.is_empty()
        })
        .await;
    }

    // It is damaged at the only node that is there, nobody has looked, and a third asks for it.
    alpha.stop().await;
    damage(&fleet.path("bravo"), &blobs);
    let mut victim = Victim::start(&fleet.path("charlie"), &fleet.inbox("charlie"), &[peer(&bravo)]);
    eventually("charlie is there", || async { bravo.node().peers().contains(&charlie) }).await;
    let alpha = steady(&fleet, "alpha").await;
    alpha.node().add_peer(bravo.node().id(), bravo.node().listening_on()).await;
    completed(alpha.node(), id).await;
    assert!(contents(&fleet.inbox("charlie")) == contents(&root), "all of it came, and nothing else");
    victim.kill();
    alpha.stop().await;
    bravo.stop().await;
}

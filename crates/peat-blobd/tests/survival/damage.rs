//! Blobs that are deleted, cut short and altered beneath a daemon: found, served to nobody, and fetched again from another node.

use std::path::{Path, PathBuf};

use peat_blob_tests::fleet::{Fleet, completed, contents, eventually};
use peat_blobcore::SendRequest;
use peat_blobcore::model::{BlobHash, Files, NodeRef, Scope};

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

/// Whether these blobs lie on disk as they were.
fn intact(data: &Path, originals: &[(BlobHash, Vec<u8>)]) -> bool {
    originals.iter().all(|(blob, bytes)| std::fs::read(file_of(data, blob)).is_ok_and(|found| found == *bytes))
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_never_served_and_heals_from_another_node() {
    let fleet = Fleet::new();
    let large = |seed: u8| (0..300_000_u32).map(|at| (at % 251) as u8 ^ seed).collect::<Vec<_>>();
    let root = fleet.write("outbox", &[("a", &large(1)), ("b", &large(2)), ("c", &large(3))]);
    // So many that they are named in a blob of their own.
    for number in 0..400 {
        std::fs::write(root.join(format!("small-{number}")), number.to_string()).expect("written");
    }
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
    let Files::List { blob: list, .. } = alpha.node().distribution(id).await.expect("known").manifest.files.clone() else {
        panic!("the files are in a list")
    };
    let original = |blob: BlobHash| (blob, std::fs::read(file_of(&fleet.path("alpha"), &blob)).expect("it is whole"));
    let of_files: Vec<_> = sent.files[..3].iter().map(|file| file.blob).collect();
    let originals: Vec<_> = of_files.iter().copied().chain([list]).map(original).collect();
    let harm = |name: &str| {
        damage(&fleet.path(name), &of_files);
        std::fs::write(file_of(&fleet.path(name), &list), b"no list").expect("written");
        assert!(!intact(&fleet.path(name), &originals));
    };

    // The sender heals from the receiver.
    harm("alpha");
    let report = alpha.node().check().await.expect("checked");
    assert_eq!((report.missing.as_slice(), report.damaged.len()), (&of_files[..1], 3), "{report:?}");
    eventually("alpha has it again", || async { intact(&fleet.path("alpha"), &originals) }).await;

    // The receiver heals from the sender, though nobody is there when it finds out, and it is started anew meanwhile.
    alpha.stop().await;
    harm("bravo");
    assert_eq!(bravo.node().check().await.expect("checked").damaged.len(), 3);
    bravo.stop().await;
    let bravo = steady(&fleet, "bravo").await;
    let alpha = steady(&fleet, "alpha").await;
    alpha.node().add_peer(bravo.node().id(), bravo.node().listening_on()).await;
    eventually("bravo has it again", || async { intact(&fleet.path("bravo"), &originals) }).await;

    // It is damaged at the only node that is there, nobody has looked, and a third asks for it.
    alpha.stop().await;
    damage(&fleet.path("bravo"), &of_files);
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

//! Daemons that are killed again and again in the midst of their work: receiver, sender and carrier. In the end every file is
//! there and identical, none was delivered twice, and nothing unfinished is left in the inbox.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use peat_blob_tests::fleet::{DEADLINE, Fleet, completed, contents};
use peat_blob_tests::simulation::Rng;
use peat_blobcore::model::{DistributionId, EndpointId, NodeRef, Scope};
use peat_blobcore::{Node, SendRequest};

use crate::victim::{Victim, peer, steady};

const KILLS: u64 = 20;
/// Bytes of blocks that cross between two kills, at most.
const STRETCH: u64 = 5 * 1024 * 1024;
const MIB: usize = 1024 * 1024;

/// 200 files from nothing to 64 MiB, 150 MiB in all.
fn files(fleet: &Fleet) -> PathBuf {
    let mut rng = Rng::new(7);
    let root = fleet.path("outbox");
    for index in 0..200_usize {
        let size = match index {
            0 => 64 * MIB,
            1..=4 => 8 * MIB,
            5..=44 => MIB,
            45..=49 => 0,
            _ => usize::try_from(rng.within(1, 64 * 1024)).expect("small"),
        };
        let mut bytes: Vec<u8> = std::iter::repeat_with(|| rng.number().to_le_bytes()).take(size.div_ceil(8)).flatten().collect();
        bytes.truncate(size);
        let directory = root.join(format!("d{}", index % 7));
        std::fs::create_dir_all(&directory).expect("made");
        std::fs::write(directory.join(format!("file-{index}")), bytes).expect("written");
    }
    root
}

/// Bytes of blocks that these nodes have served and received.
fn bytes(nodes: &[&Node]) -> u64 {
    nodes.iter().map(|node| node.block_bytes()).map(|bytes| bytes.served + bytes.received).sum()
}

/// Waits until so many more bytes of blocks have crossed at these nodes, or the first of them knows that all has come.
async fn crossed(nodes: &[&Node], more: u64, distribution: DistributionId, log: &Path) {
    let until = bytes(nodes) + more;
    let looking = async { while bytes(nodes) < until && nodes[0].wait(distribution, Duration::from_millis(1)).await.is_err() {} };
    let waited = tokio::time::timeout(DEADLINE, looking).await;
    assert!(waited.is_ok(), "{} of {until} bytes crossed: {}", bytes(nodes), std::fs::read_to_string(log).unwrap_or_default());
}

fn inodes(inbox: &Path) -> BTreeMap<PathBuf, u64> {
    let inode = |path: PathBuf| std::fs::metadata(inbox.join(&path)).ok().map(|meta| (path, meta.ino()));
    let names = if inbox.exists() { contents(inbox).into_keys().collect() } else { Vec::new() };
    names.into_iter().filter(|path| !path.to_string_lossy().contains(".peat-")).filter_map(inode).collect()
}

/// What was in the inbox at a kill is still the same file.
fn none_was_delivered_twice(seen: &mut BTreeMap<PathBuf, u64>, inbox: &Path) {
    let now = inodes(inbox);
    for (path, inode) in seen.iter() {
        assert_eq!(now.get(path), Some(inode), "{} was delivered once", path.display());
    }
    seen.extend(now);
}

fn request(root: &Path, target: EndpointId) -> SendRequest {
    let scope = Scope::Nodes(vec![NodeRef::Id(target)]);
    SendRequest { scope, together: false, ..SendRequest::new(root) }
}

fn equal(fleet: &Fleet, root: &Path) {
    assert!(contents(&fleet.inbox("bravo")) == contents(root), "every file is there, identical, and nothing else is");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_killed_twenty_times_has_every_file_once() {
    let (fleet, mut rng, mut seen) = (Fleet::in_memory(), Rng::new(1), BTreeMap::new());
    let root = files(&fleet);
    fleet.enroll("alpha", &[]);
    let bravo = fleet.enroll("bravo", &[]).id();
    let alpha = steady(&fleet, "alpha").await;
    let id = alpha.node().send(request(&root, bravo)).await.expect("sent").distribution;
    for _ in 0..KILLS {
        let mut victim = Victim::start(&fleet.path("bravo"), &fleet.inbox("bravo"), &[peer(&alpha)]);
        crossed(&[alpha.node()], rng.within(1, STRETCH), id, &fleet.path("bravo.log")).await;
        victim.kill();
        none_was_delivered_twice(&mut seen, &fleet.inbox("bravo"));
    }
    let _victim = Victim::start(&fleet.path("bravo"), &fleet.inbox("bravo"), &[peer(&alpha)]);
    completed(alpha.node(), id).await;
    none_was_delivered_twice(&mut seen, &fleet.inbox("bravo"));
    equal(&fleet, &root);
    alpha.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_is_killed_twenty_times_has_sent_every_file_once() {
    let (fleet, mut rng, mut seen) = (Fleet::in_memory(), Rng::new(2), BTreeMap::new());
    let root = files(&fleet);
    fleet.enroll("alpha", &[]);
    fleet.enroll("bravo", &[]);
    let bravo = steady(&fleet, "bravo").await;
    let alpha = steady(&fleet, "alpha").await;
    let id = alpha.node().send(request(&root, bravo.node().id())).await.expect("sent").distribution;
    alpha.stop().await;
    // The receiver learns of it first, so that there is something to wait for.
    let mut victim = Victim::start(&fleet.path("alpha"), &fleet.inbox("alpha"), &[peer(&bravo)]);
    peat_blob_tests::fleet::eventually("bravo knows of it", || async { bravo.node().distributions().contains(&id) }).await;
    for _ in 0..KILLS {
        crossed(&[bravo.node()], rng.within(1, STRETCH), id, &fleet.path("alpha.log")).await;
        victim.kill();
        none_was_delivered_twice(&mut seen, &fleet.inbox("bravo"));
        victim = Victim::start(&fleet.path("alpha"), &fleet.inbox("alpha"), &[peer(&bravo)]);
    }
    completed(bravo.node(), id).await;
    none_was_delivered_twice(&mut seen, &fleet.inbox("bravo"));
    equal(&fleet, &root);
    bravo.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_carrier_that_is_killed_twenty_times_brings_every_file_once() {
    let (fleet, mut rng, mut seen) = (Fleet::in_memory(), Rng::new(3), BTreeMap::new());
    let root = files(&fleet);
    for name in ["alpha", "bravo", "carrier"] {
        fleet.enroll(name, &[]);
    }
    // Neither of the two knows where the other is: all goes over the carrier.
    let bravo = steady(&fleet, "bravo").await;
    let alpha = steady(&fleet, "alpha").await;
    let id = alpha.node().send(request(&root, bravo.node().id())).await.expect("sent").distribution;
    alpha.node().remove_peer(bravo.node().id()).await;
    bravo.node().remove_peer(alpha.node().id()).await;
    for _ in 0..KILLS {
        let mut victim = Victim::start(&fleet.path("carrier"), &fleet.inbox("carrier"), &[peer(&alpha), peer(&bravo)]);
        crossed(&[alpha.node(), bravo.node()], rng.within(1, STRETCH), id, &fleet.path("carrier.log")).await;
        victim.kill();
        none_was_delivered_twice(&mut seen, &fleet.inbox("bravo"));
    }
    let _victim = Victim::start(&fleet.path("carrier"), &fleet.inbox("carrier"), &[peer(&alpha), peer(&bravo)]);
    completed(alpha.node(), id).await;
    none_was_delivered_twice(&mut seen, &fleet.inbox("bravo"));
    equal(&fleet, &root);
    alpha.stop().await;
    bravo.stop().await;
}

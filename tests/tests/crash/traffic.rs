//! What crosses the link when one side of a large transfer is killed again and again at random moments.

use peat_blob_tests::fleet::{DEADLINE, Fleet, contents};
use peat_blob_tests::simulation::Rng;
use peat_blobcore::model::{DistributionState, NodeRef, Scope};
use peat_blobcore::{Node, SendRequest};

use crate::child::{Child, Ending, Order};
use crate::scene::bytes;

const SIZE: u64 = 64 * 1024 * 1024;
const KILLS: u64 = 10;
/// A blob so large that it is synced on the way, however far the sync beside the writes falls behind.
const SYNCED: u64 = 256 * 1024 * 1024;
/// What a kill may cost.
const LOST: u64 = 1024 * 1024;
/// Bytes that cross between two kills, at most.
const STRETCH: u64 = 5 * 1024 * 1024;

/// The rest, plus what was on its way at each kill, plus hashes.
fn assert_little_crossed(crossed: u64, seed: u64) {
    let most = SIZE + KILLS * LOST + SIZE / 50;
    println!("seed {seed}: {crossed} bytes crossed; {} for each kill", (crossed.saturating_sub(SIZE)) / KILLS);
    assert!(crossed <= most, "seed {seed}: {crossed} bytes crossed, and {most} may");
}

/// Waits until a node has had this much to do with blocks.
async fn crossed(node: &Node, until: u64, count: impl Fn(&Node) -> u64) {
    let looking = async {
        while count(node) < until {
            tokio::time::sleep(std::time::Duration::from_micros(200)).await;
        }
    };
    tokio::time::timeout(DEADLINE, looking).await.expect("blocks go on crossing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_killed_at_random_moments_fetches_little_again() {
    let seed = 1;
    let mut rng = Rng::new(seed);
    let fleet = Fleet::in_memory();
    let root = fleet.write("outbox", &[("large", &bytes(seed, SIZE as usize))]);
    let alpha = fleet.start("alpha", &[]).await;
    let bravo = fleet.enroll("bravo", &[]).id();
    let scope = Scope::Nodes(vec![NodeRef::Id(bravo)]);
    let id = alpha.send(SendRequest { scope, ..SendRequest::new(&root) }).await.expect("it can be sent").distribution;
    for _ in 0..KILLS {
        let child = Child::start(&fleet, "bravo", &[&alpha], &[], None);
        let until = alpha.block_bytes().served + rng.within(1, STRETCH);
        crossed(&alpha, until, |node| node.block_bytes().served).await;
        child.kill();
    }
    let bravo = fleet.restart("bravo", &[&alpha]).await;
    let status = alpha.wait(id, DEADLINE).await.expect("it ends");
    assert_eq!(status.state, DistributionState::Completed);
    assert!(bravo.block_bytes().received > 0, "the kills were in the midst of the transfer");
    assert!(contents(&fleet.inbox("bravo")) == contents(&root), "the file is equal");
    assert!(bravo.check().await.expect("everything can be read").is_clean());
    assert_little_crossed(alpha.block_bytes().served, seed);
    alpha.shutdown().await;
    bravo.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_killed_at_random_moments_while_it_serves_sends_little_again() {
    let seed = 2;
    let mut rng = Rng::new(seed);
    let fleet = Fleet::in_memory();
    let root = fleet.write("outbox", &[("large", &bytes(seed, SIZE as usize))]);
    fleet.enroll("alpha", &[]);
    let bravo = fleet.start("bravo", &[]).await;
    for _ in 0..KILLS {
        let child = Child::start(&fleet, "alpha", &[&bravo], &[Order::Send(bravo.id())], None);
        let until = bravo.block_bytes().received + rng.within(1, STRETCH);
        crossed(&bravo, until, |node| node.block_bytes().received).await;
        child.kill();
    }
    let received = bravo.block_bytes().received;
    let mut child = Child::start(&fleet, "alpha", &[&bravo], &[Order::Send(bravo.id())], None);
    child.says("completed").await;
    assert!(bravo.block_bytes().received > received, "the kills were in the midst of the transfer");
    child.stop().await;
    assert!(contents(&fleet.inbox("bravo")) == contents(&root), "the file is equal");
    assert!(bravo.check().await.expect("everything can be read").is_clean());
    assert_little_crossed(bravo.block_bytes().received, seed);
    bravo.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_killed_when_it_syncs_a_large_blob_fetches_little_again() {
    let fleet = Fleet::in_memory();
    let root = fleet.write("outbox", &[("large", &bytes(3, SYNCED as usize))]);
    let alpha = fleet.start("alpha", &[]).await;
    let bravo = fleet.enroll("bravo", &[]).id();
    let scope = Scope::Nodes(vec![NodeRef::Id(bravo)]);
    let id = alpha.send(SendRequest { scope, ..SendRequest::new(&root) }).await.expect("it can be sent").distribution;
    let mut child = Child::start(&fleet, "bravo", &[&alpha], &[], Some("content.assembly.synced"));
    tokio::time::timeout(DEADLINE, child.ended()).await.expect("so large a blob is synced before it is whole");
    assert_eq!(child.stop().await, Ending::Died);
    let bravo = fleet.restart("bravo", &[&alpha]).await;
    let status = alpha.wait(id, DEADLINE).await.expect("it ends");
    assert_eq!(status.state, DistributionState::Completed);
    assert!(alpha.block_bytes().served <= SYNCED + LOST + SYNCED / 50);
    assert!(contents(&fleet.inbox("bravo")) == contents(&root), "the file is equal");
    assert!(bravo.check().await.expect("everything can be read").is_clean());
    alpha.shutdown().await;
    bravo.shutdown().await;
}

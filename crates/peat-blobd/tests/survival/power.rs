//! The power is cut in the midst of deliveries, again and again: what was called delivered is there, unaltered, when it is back.

use std::path::Path;

use peat_blob_tests::filesystem::FileSystem;
use peat_blob_tests::fleet::{DEADLINE, Fleet, completed, contents};
use peat_blob_tests::simulation::Rng;
use peat_blobcore::SendRequest;
use peat_blobcore::identity::files;
use peat_blobcore::model::{DistributionId, Labels, NodeRef, Scope};

use crate::victim::{Victim, peer, steady};

const CUTS: u64 = 10;
const FILES: usize = 80;
const MIB: usize = 1024 * 1024;
/// Bytes of blocks that cross between two cuts, at most.
const STRETCH: u64 = 6 * 1024 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn on_ext4_what_was_called_delivered_outlives_ten_power_cuts() {
    let Some(disk) = FileSystem::ext4(1024) else { return };
    survives(&disk, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_xfs_what_was_called_delivered_outlives_ten_power_cuts() {
    let Some(disk) = FileSystem::xfs(1024) else { return };
    survives(&disk, 2).await;
}

/// Each file is a distribution of its own, so that its receipt says what was called delivered.
async fn survives(disk: &FileSystem, seed: u64) {
    let (fleet, mut rng) = (Fleet::new(), Rng::new(seed));
    let (data, inbox) = (disk.path().join("bravo"), disk.path().join("inbox"));
    fleet.enroll("alpha", &[]);
    let bravo = files::create_member(&data, &fleet.formation, &fleet.authority, "bravo", Labels::new()).expect("a member").id();
    let alpha = steady(&fleet, "alpha").await;
    let mut sent = Vec::new();
    for index in 0..FILES {
        let size = if index % 10 == 0 { 0 } else { usize::try_from(rng.within(1, 2 * MIB as u64)).expect("small") };
        let bytes: Vec<u8> = std::iter::repeat_with(|| rng.number() as u8).take(size).collect();
        let name = format!("file-{index}");
        let root = fleet.write("outbox", &[(&name, &bytes)]);
        let scope = Scope::Nodes(vec![NodeRef::Id(bravo)]);
        let request = SendRequest { scope, paths: vec![name.clone().into()], ..SendRequest::new(&root) };
        sent.push((name, alpha.node().send(request).await.expect("sent").distribution));
    }
    let mut looked_at = 0;
    for cut in 0..CUTS {
        let mut victim = Victim::start(&data, &inbox, &[peer(&alpha)]);
        let until = alpha.node().block_bytes().served + rng.within(1, STRETCH);
        let crossing = async {
            while alpha.node().block_bytes().served < until && delivered(alpha.node(), &sent).await.len() < FILES {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(DEADLINE, crossing).await.expect("blocks go on crossing");
        if !disk.cut_power() {
            return;
        }
        victim.kill();
        let called_delivered = delivered(alpha.node(), &sent).await;
        disk.restore();
        for name in called_delivered {
            looked_at += 1;
            let (there, meant) = (std::fs::read(inbox.join(name)), std::fs::read(fleet.path("outbox").join(name)));
            assert!(
                there.is_ok_and(|there| there == meant.expect("readable")),
                "cut {cut}: {} was called delivered",
                name.display()
            );
        }
    }
    assert!(looked_at > 0, "some were delivered between the cuts");
    let mut victim = Victim::start(&data, &inbox, &[peer(&alpha)]);
    for (_, id) in &sent {
        completed(alpha.node(), *id).await;
    }
    assert!(contents(&inbox) == contents(&fleet.path("outbox")), "all is there in the end, and nothing else");
    victim.kill();
    alpha.stop().await;
}

/// The files that have a receipt.
async fn delivered<'a>(alpha: &peat_blobcore::Node, sent: &'a [(String, DistributionId)]) -> Vec<&'a Path> {
    let mut delivered = Vec::new();
    for (name, id) in sent {
        let status = alpha.status(*id).await.expect("known");
        if status.targets.values().any(|target| target.record.as_ref().is_some_and(|record| record.state.is_receipt())) {
            delivered.push(Path::new(name));
        }
    }
    delivered
}

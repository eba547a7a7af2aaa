//! Daemons that are started on a full disk: each ends with a clear word, or serves what it has; none loses anything, and when
//! there is room it goes on.

use std::path::PathBuf;

use peat_blob_tests::filesystem::FileSystem;
use peat_blob_tests::fleet::{Fleet, completed, contents};
use peat_blobcore::identity::files;
use peat_blobcore::model::{DistributionId, EndpointId, Labels, NodeRef, Scope};
use peat_blobcore::{Node, SendRequest};

use crate::victim::{Victim, peer, steady};

const KIB: u64 = 1024;

/// A full disk, with a node's data directory and inbox on it.
struct Full {
    disk: FileSystem,
    filler: PathBuf,
    /// By a way that does not lead over the disk, so that what is beside it is not on it.
    data: PathBuf,
    inbox: PathBuf,
}

impl Full {
    fn new(fleet: &Fleet, disk: FileSystem) -> Self {
        let (data, inbox) = (fleet.path("bravo"), disk.path().join("inbox"));
        std::fs::create_dir(disk.path().join("data")).expect("a directory");
        std::os::unix::fs::symlink(disk.path().join("data"), &data).expect("a link");
        Self { filler: disk.path().join("filler"), disk, data, inbox }
    }

    /// Leaves so many bytes free.
    fn fill(&self, free: u64) {
        let filler = self.disk.fill(0);
        let file = std::fs::File::options().write(true).open(&filler).expect("it is there");
        let length = file.metadata().expect("it is there").len();
        file.set_len(length - free).expect("cut short");
    }

    fn make_room(&self) {
        std::fs::remove_file(&self.filler).expect("removed");
    }
}

/// Sends a file of its own to one node.
async fn send(fleet: &Fleet, from: &Node, to: EndpointId, name: &str, bytes: &[u8]) -> DistributionId {
    let root = fleet.write("outbox", &[(name, bytes)]);
    let scope = Scope::Nodes(vec![NodeRef::Id(to)]);
    let request = SendRequest { scope, paths: vec![name.into()], ..SendRequest::new(&root) };
    from.send(request).await.expect("sent").distribution
}

/// What a daemon must say that ends for want of room.
fn assert_says_so(ended: &(Option<i32>, String)) {
    let (code, told) = ended;
    assert!(*code == Some(9) && told.contains("No space left") && told.contains("; free some space"), "{code:?}: {told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_data_directory_without_room_is_refused_and_used_when_there_is_some() {
    for free in [0, 16 * KIB, 64 * KIB] {
        let Some(disk) = FileSystem::tmpfs(64) else { return };
        let fleet = Fleet::new();
        let full = Full::new(&fleet, disk);
        full.fill(free);
        let start = || Victim::start_derived(&full.data);
        let ended = start().begins(&full.data).await.expect_err("there is no room for a node");
        assert_says_so(&ended);
        full.make_room();
        start().begins(&full.data).await.expect("there is room");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_that_is_full_loses_nothing_and_goes_on_when_there_is_room() {
    let Some(disk) = FileSystem::tmpfs(160) else { return };
    let fleet = Fleet::new();
    fleet.enroll("alpha", &[]);
    let alpha = steady(&fleet, "alpha").await;
    let full = Full::new(&fleet, disk);
    let bravo =
        files::create_member(&full.data, &fleet.formation, &fleet.authority, "bravo", Labels::new()).expect("a member").id();
    let start = || Victim::start(&full.data, &full.inbox, &[peer(&alpha)]);
    let mut victim = start();
    let mut sent = vec![
        send(&fleet, alpha.node(), bravo, "small", b"small").await,
        send(&fleet, alpha.node(), bravo, "large", &[7; 3_000_000]).await,
    ];
    for id in &sent {
        completed(alpha.node(), *id).await;
    }
    for (round, free) in [0, 4 * KIB, 100 * KIB].into_iter().enumerate() {
        victim.kill();
        let before = contents(&full.inbox);
        full.fill(free);
        victim = start();
        let begun = victim.begins(&full.data).await;
        sent.push(send(&fleet, alpha.node(), bravo, &format!("later-{round}"), &[round as u8; 300_000]).await);
        assert!(contents(&full.inbox) == before, "what was delivered is there");
        full.make_room();
        if let Err(ended) = begun {
            assert_says_so(&ended);
            victim = start();
        }
        for id in &sent {
            completed(alpha.node(), *id).await;
        }
        assert!(contents(&full.inbox) == contents(&fleet.path("outbox")), "all of it is there, and nothing else");
    }
    victim.kill();
    assert_whole(&fleet).await;
    alpha.stop().await;
}

/// The store of the node that was full has no damage.
async fn assert_whole(fleet: &Fleet) {
    let bravo = steady(fleet, "bravo").await;
    let found = bravo.node().check().await.expect("checked");
    assert!(found.is_clean(), "{found:?}");
    bravo.stop().await;
}

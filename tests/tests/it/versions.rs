//! Nodes of different versions in one fleet, and a store that an earlier one has left.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use peat_blob_tests::fixture::{self, Expected};
use peat_blob_tests::fleet::{Fleet, completed, connected, contents, eventually};
use peat_blob_tests::raw::RawMember;
use peat_blobcore::clock::{Clock, SystemClock};
use peat_blobcore::content::BlobStatus;
use peat_blobcore::identity::admission::VersionRange;
use peat_blobcore::identity::{AuthorityKey, FormationKey};
use peat_blobcore::model::Timestamp;
use peat_blobcore::{Node, SendRequest};

const fn range(oldest: u16, newest: u16) -> VersionRange {
    VersionRange { oldest, newest }
}

async fn claiming(fleet: &Fleet, name: &str, versions: VersionRange) -> Node {
    fleet.enroll(name, &[]);
    fleet.describe(name).claim_versions(versions).start().await.expect("it starts")
}

async fn raw(fleet: &Fleet, name: &str, versions: VersionRange) -> RawMember {
    let identity = fleet.identity_until(name, SystemClock.now().plus(std::time::Duration::from_secs(3600)));
    RawMember { versions, ..RawMember::new(fleet, identity).await }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_speak_the_highest_version_that_both_know() {
    let fleet = Fleet::new();
    let node = claiming(&fleet, "alpha", range(2, 4)).await;
    for (theirs, spoken) in [(range(1, 2), 2), (range(1, 3), 3), (range(4, 9), 4), (range(1, 9), 4)] {
        let peer = raw(&fleet, "peer", theirs).await;
        assert_eq!(peer.join(&node).await.peer.version, spoken, "{theirs}");
    }
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_dials_without_a_common_version_is_told_so() {
    let fleet = Fleet::new();
    let node = claiming(&fleet, "alpha", range(2, 4)).await;
    for theirs in [range(1, 1), range(5, 9)] {
        let peer = raw(&fleet, "peer", theirs).await;
        let error = peer.try_join(&node, SystemClock.now()).await.expect_err("they have none in common");
        let expected = format!("no common protocol version: here 2 to 4, there {theirs}");
        assert!(error.contains(&expected), "{error}");
    }
    assert!(node.peers().is_empty());
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_rolls_through_a_fleet_that_goes_on_delivering() {
    let fleet = Fleet::new();
    let [old, now, new] =
        [("old", range(0, 1)), ("now", range(1, 1)), ("new", range(1, 2))].map(|(name, it)| claiming(&fleet, name, it));
    let (old, now, new) = (old.await, now.await, new.await);
    for node in [&old, &now] {
        new.add_peer(node.id(), node.addresses()).await;
        connected(&new, node.id()).await;
    }
    let root = fleet.write("outbox", &[("file", &[7; 100_000])]);
    let sent = old.send(SendRequest::new(&root)).await.expect("sent");
    for name in ["now", "new"] {
        eventually("it is delivered", || async { contents(&fleet.inbox(name)) == contents(&root) }).await;
    }
    completed(&old, sent.distribution).await;
    let record = |id| now.members().into_iter().find(|(member, _)| *member == id).map(|(_, record)| record.protocol);
    assert_eq!((record(old.id()), record(new.id())), (Some((0, 1)), Some((1, 2))), "each says what it speaks");
    for node in [old, now, new] {
        node.shutdown().await;
    }
}

/// A clock that began then, and goes on.
struct Since(Timestamp, Instant);

impl Clock for Since {
    fn now(&self) -> Timestamp {
        self.0.plus(self.1.elapsed())
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("the fixture") {
        let (entry, to) = (entry.as_ref().expect("an entry"), to.join(entry.as_ref().expect("an entry").file_name()));
        match entry.file_type().expect("a type").is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(std::fs::copy(entry.path(), to).expect("copied")),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_of_the_first_release_opens_is_whole_and_delivers() {
    let kept = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/store-v1");
    let expected = Expected::read(&kept.join("expected"));
    let mut fleet = Fleet::new();
    let key = |name: &str| std::fs::read_to_string(kept.join(name)).expect("a key");
    fleet.formation = FormationKey::from_base64(key("formation.key").trim()).expect("a key");
    fleet.authority = AuthorityKey::from_base64(key("authority.key").trim()).expect("a key");
    copy(&kept.join("data"), &fleet.path("alpha"));
    copy(&kept.join("inbox"), &fleet.inbox("alpha"));
    let clock = Arc::new(Since(expected.made_at, Instant::now()));
    let alpha = fleet.describe("alpha").clock(clock.clone()).start().await.expect("it opens");

    assert_eq!(alpha.id(), expected.node);
    let checked = alpha.check().await.expect("it can be read");
    assert!(checked.is_clean() && checked.checked == 5, "{checked:?}");
    completed(&alpha, expected.sent).await;
    completed(&alpha, expected.received).await;
    let status = alpha.content().status(&expected.assembly).expect("the index can be read");
    assert!(matches!(status, BlobStatus::Partial { size, held } if size == expected.assembly_size && held > 0), "{status:?}");
    let assembly = alpha.content().assemble(&expected.assembly, expected.assembly_size).expect("it opens");
    assert!(assembly.held() > 0, "what it claims is true");
    drop(assembly);

    fleet.enroll_until("charlie", fixture::NEVER);
    let charlie = fleet.describe("charlie").clock(clock).peer(alpha.id(), alpha.addresses()).start().await.expect("it starts");
    eventually("charlie has what alpha had sent", || async { contents(&fleet.inbox("charlie")) == fixture::sent() }).await;
    charlie.shutdown().await;
    // The ledger knows what was delivered: a file that its user removed stays away.
    let mut left = fixture::received();
    left.remove(Path::new("removed"));
    assert_eq!(contents(&fleet.inbox("alpha")), left);
    alpha.shutdown().await;
}

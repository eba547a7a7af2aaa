//! A node starts in every state that its data directory may be in, or says clearly why it does not.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use peat_blob_tests::filesystem::FileSystem;
use peat_blob_tests::fleet::{Fleet, completed, contents, eventually};
use peat_blobcore::content::{ContentError, Options};
use peat_blobcore::model::{DistributionId, DistributionState, NodeRef, Scope};
use peat_blobcore::{Error, ErrorKind, Node, SendRequest};

async fn send(sender: &Node, target: &str, fleet: &Fleet, root: &Path) -> DistributionId {
    let target = peat_blobcore::identity::files::load(&fleet.path(target)).expect("it is enrolled").0.id();
    let scope = Scope::Nodes(vec![NodeRef::Id(target)]);
    sender.send(SendRequest { scope, ..SendRequest::new(root) }).await.expect("it can be sent").distribution
}

/// The files of an inbox and their inodes: a file that is written again has another one.
fn inodes(inbox: &Path) -> BTreeMap<PathBuf, u64> {
    let inode = |path: &PathBuf| std::fs::metadata(inbox.join(path)).expect("it is there").ino();
    contents(inbox).into_keys().map(|path| (path.clone(), inode(&path))).collect()
}

/// Bravo gets a distribution, loses something while another one is sent, and starts again: both are there in the end.
async fn after_the_loss_of(what: &str, lose: impl FnOnce(&Path)) {
    let fleet = Fleet::new();
    let (first, second) = (vec![1; 300_000], vec![2; 200_000]);
    let root = fleet.write("outbox", &[("large", &first), ("small", b"small"), ("removed", b"by the user")]);
    let more = fleet.write("more", &[("new", &second), ("newer", b"small too")]);
    let alpha = fleet.start("alpha", &[]).await;
    let bravo = fleet.start("bravo", &[&alpha]).await;
    let before = send(&alpha, "bravo", &fleet, &root).await;
    completed(&alpha, before).await;
    bravo.shutdown().await;
    let inbox = fleet.inbox("bravo");
    let has_ledger = what != "the ledger" && what != "the data directory but its identity";
    if has_ledger {
        std::fs::remove_file(inbox.join("removed")).expect("it was delivered");
    }
    let was = inodes(&inbox);
    let after = send(&alpha, "bravo", &fleet, &more).await;
    lose(&fleet.path("bravo"));

    let bravo = fleet.restart("bravo", &[&alpha]).await;
    completed(&alpha, after).await;
    assert_eq!(alpha.status(before).await.expect("it is known").state, DistributionState::Completed, "{what}");
    eventually("bravo knows both, and has its own receipts", || async {
        let mut receipts = 0;
        for id in [before, after] {
            let Ok(status) = bravo.status(id).await else { return false };
            let own = status.targets.get(&bravo.id()).and_then(|target| target.record.as_ref());
            receipts += usize::from(own.is_some_and(|record| record.state.is_receipt()));
        }
        receipts == 2
    })
    .await;
    let mut expected = contents(&root);
    expected.extend(contents(&more));
    if has_ledger {
        expected.remove(&PathBuf::from("removed"));
    }
    assert!(contents(&inbox) == expected, "{what}: {:?}", inodes(&inbox).keys());
    let is = inodes(&inbox);
    assert!(was.iter().all(|(path, inode)| is.get(path) == Some(inode)), "{what}: equal files are not written again");
    assert!(bravo.check().await.expect("everything can be read").is_clean(), "{what}");
    alpha.shutdown().await;
    bravo.shutdown().await;
}

fn remove(path: PathBuf) {
    if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }.expect("it was there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_store_is_filled_again_as_needed() {
    after_the_loss_of("the store", |data| remove(data.join("content"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_documents_come_back_from_the_others() {
    after_the_loss_of("the documents", |data| remove(data.join("replica.redb"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_ledger_means_that_equal_files_are_recognised_by_their_content() {
    after_the_loss_of("the ledger", |data| remove(data.join("exchange.redb"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lost_everything_but_its_identity_is_whole_again() {
    after_the_loss_of("the data directory but its identity", |data| {
        for entry in std::fs::read_dir(data).expect("it is there") {
            let entry = entry.expect("an entry");
            if entry.file_name() != "identity" {
                remove(entry.path());
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_is_for_one_node_at_a_time() {
    let fleet = Fleet::new();
    let node = fleet.start("alpha", &[]).await;
    let error = fleet.describe("alpha").start().await.expect_err("another has it");
    assert!(matches!(error, Error::InUse(_)) && error.hint().is_some(), "{error}");
    node.shutdown().await;
    fleet.restart("alpha", &[]).await.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_of_a_newer_format_is_left_alone() {
    let fleet = Fleet::new();
    fleet.start("alpha", &[]).await.shutdown().await;
    std::fs::write(fleet.path("alpha").join("format"), "peat-blob data 2\n").expect("written");
    let before = contents(&fleet.path("alpha"));
    let error = fleet.describe("alpha").start().await.expect_err("it is not known");
    assert!(matches!(error, Error::Format { .. }) && error.hint().is_some(), "{error}");
    assert!(contents(&fleet.path("alpha")) == before, "nothing was touched");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_an_identity_says_how_to_make_one() {
    let fleet = Fleet::new();
    let error = fleet.describe("nobody").start().await.expect_err("it is nobody");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.hint().is_some_and(|hint| hint.contains("identity")), "{error}: {:?}", error.hint());
}

/// Gives a node a data directory on a file system of its own; none where this user may not mount.
fn mount(fleet: &Fleet, name: &str, mebibytes: u64) -> Option<FileSystem> {
    let filesystem = FileSystem::tmpfs(mebibytes)?;
    std::os::unix::fs::symlink(filesystem.path(), fleet.path(name)).expect("a link");
    Some(filesystem)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_data_directory_is_an_error_with_a_hint() {
    let fleet = Fleet::new();
    let Some(disk) = mount(&fleet, "alpha", 64) else { return };
    fleet.start("alpha", &[]).await.shutdown().await;
    disk.remount("ro");
    let error = fleet.describe("alpha").start().await.expect_err("it cannot be written to");
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert!(error.hint().is_some(), "{error}");
    disk.remount("rw");
    fleet.restart("alpha", &[]).await.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_a_state_with_a_name_and_ends_when_there_is_room() {
    let fleet = Fleet::new();
    let Some(disk) = mount(&fleet, "bravo", 16) else { return };
    let root = fleet.write("outbox", &[("large", &[7; 32 * 1024 * 1024])]);
    let alpha = fleet.start("alpha", &[]).await;
    fleet.enroll("bravo", &[]);
    let tight = || fleet.describe("bravo").content(Options { quota: None, reserve: 0 });
    let bravo = tight().peer(alpha.id(), alpha.addresses()).start().await.expect("there is room for a node");
    let error = bravo.send(SendRequest::new(&root)).await.expect_err("there is no room for the file");
    assert!(matches!(&error, Error::Content(ContentError::NoSpace { .. })), "{error}");
    assert!(error.kind() == ErrorKind::NoSpace && error.hint().is_some(), "{error}");
    let id = send(&alpha, "bravo", &fleet, &root).await;
    eventually("its status says why it waits", || async {
        let status = bravo.status(id).await;
        status.is_ok_and(|status| status.targets.get(&bravo.id()).is_some_and(|target| target.why.contains("no space")))
    })
    .await;
    assert!(contents(&fleet.inbox("bravo")).is_empty());
    bravo.shutdown().await;
    disk.remount("size=128m");
    let bravo = tight().peer(alpha.id(), alpha.addresses()).start().await.expect("it starts");
    completed(&alpha, id).await;
    assert!(contents(&fleet.inbox("bravo")) == contents(&root), "it is there and equal");
    alpha.shutdown().await;
    bravo.shutdown().await;
}

//! Watched outboxes: what is put there arrives, once for each version, whatever happens to the nodes meanwhile.

use std::fs;
use std::future::Future as _;
use std::path::Path;
use std::task::Poll;
use std::time::Duration;

use peat_blob_tests::fleet::{Fleet, eventually};
use peat_blobcore::{Node, OutboxOptions, WatchedOutbox};

async fn watch(node: &Node, root: &Path) -> WatchedOutbox {
    let options = OutboxOptions {
        stable: Duration::from_millis(200),
        interval: Duration::from_millis(50),
        max_file_bytes: Some(1000),
        ..OutboxOptions::new(root, "box")
    };
    node.watch_outbox(options).await.expect("watched")
}

/// Puts a file in its place whole: what is still being written may be sent when a busy machine stops for a while.
fn put(root: &Path, name: &str, text: &str) {
    fs::write(root.join(".part"), text).expect("written");
    fs::rename(root.join(".part"), root.join(name)).expect("renamed");
}

async fn until(outbox: &mut WatchedOutbox, what: &str, is_so: impl Fn(&peat_blobcore::OutboxStatus) -> bool) {
    let waiting = async {
        while !is_so(&outbox.status()) {
            assert!(outbox.changed().await, "the watch has ended");
        }
    };
    let waited = tokio::time::timeout(peat_blob_tests::fleet::DEADLINE, waiting).await;
    assert!(waited.is_ok(), "{what}: {:?}", outbox.status());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_version_of_a_file_is_sent_once_also_when_nodes_restart_and_files_are_renamed() {
    let fleet = Fleet::new();
    let root = fleet.write("outbox", &[("a", b"first"), (".hidden", b"not sent")]);
    let alpha = fleet.start("alpha", &[]).await;
    let outbox = watch(&alpha, &root).await;
    // Nobody is there yet; who comes later gets it.
    eventually("it is sent", || async { outbox.status().sent == 1 }).await;
    let bravo = fleet.start("bravo", &[&alpha]).await;
    let inbox = fleet.inbox("bravo");
    let has = |name: &'static str, text: &'static str| {
        let file = inbox.join(name);
        move || {
            let file = file.clone();
            async move { fs::read_to_string(file).is_ok_and(|found| found == text) }
        }
    };
    eventually("bravo has it", has("a", "first")).await;

    put(&root, "a", "other");
    eventually("the new version replaces the old, though it has the same size", has("a", "other")).await;
    assert_eq!(alpha.distributions().len(), 2);

    let received = bravo.block_bytes().received;
    fs::rename(root.join("a"), root.join("b")).expect("renamed");
    eventually("it is there under its new name", has("b", "other")).await;
    assert_eq!(bravo.block_bytes().received, received, "and moved no bytes");
    assert_eq!(alpha.distributions().len(), 3);

    drop(outbox);
    alpha.shutdown().await;
    // Its content is the same: nothing is sent for that.
    put(&root, "b", "other");
    let alpha = fleet.restart("alpha", &[&bravo]).await;
    let mut outbox = watch(&alpha, &root).await;
    put(&root, "c", "last");
    eventually("what came after the restart", has("c", "last")).await;
    until(&mut outbox, "all has been looked at", |status| status.waiting == 0).await;
    assert_eq!(alpha.distributions().len(), 4, "and nothing of before");
    assert_eq!(outbox.status().sent, 1);
    assert!(!inbox.join(".hidden").exists());
    alpha.shutdown().await;
    bravo.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_files_becomes_few_distributions_and_one_that_cannot_be_sent_stops_no_other() {
    const FILES: usize = 5000;
    let fleet = Fleet::new();
    let root = fleet.write("outbox", &[("large", &[0; 1001])]);
    for number in 0..FILES {
        fs::write(root.join(format!("{number:05}")), number.to_string()).expect("written");
    }
    let alpha = fleet.start("alpha", &[]).await;
    let mut outbox = watch(&alpha, &root).await;
    until(&mut outbox, "all are sent but one", |status| status.sent == FILES as u64 && status.waiting == 1).await;
    let status = outbox.status();
    assert!((2..=3).contains(&status.distributions), "{status:?}");
    let problem = status.problem.expect("one is too large");
    assert_eq!(problem, "\"large\" has 1001 bytes, over the cap of 1000 bytes");
    alpha.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_that_is_not_there_is_said_and_waited_for() {
    let fleet = Fleet::new();
    let alpha = fleet.start("alpha", &[]).await;
    let mut outbox = watch(&alpha, &fleet.path("outbox")).await;
    until(&mut outbox, "it is missed", |status| status.problem.is_some()).await;
    let problem = outbox.status().problem.expect("it is not there");
    assert!(problem.contains("No such file or directory"), "{problem}");
    let root = fleet.write("outbox", &[("a", b"late")]);
    until(&mut outbox, "it is there now", |status| status.sent == 1 && status.problem.is_none()).await;
    // Another watch of the same begins when this one has ended.
    let mut second = Box::pin(watch(&alpha, &root));
    let waits = std::future::poll_fn(|context| Poll::Ready(second.as_mut().poll(context).is_pending())).await;
    assert!(waits, "two would send the same");
    drop(outbox);
    let mut outbox = second.await;
    fs::write(root.join("b"), "more").expect("written");
    until(&mut outbox, "the second watch goes on", |status| status.sent == 1).await;
    alpha.shutdown().await;
    while outbox.changed().await {}
}

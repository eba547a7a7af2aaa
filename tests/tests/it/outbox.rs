//! Watched outboxes: what is put there arrives, once for each version, whatever happens to the nodes meanwhile.

use std::fs;
use std::future::Future as _;
use std::path::Path;
use std::task::Poll;
use std::time::Duration;

use peat_blob_tests::fleet::{Fleet, completed, contents, eventually};
use peat_blobcore::model::{DistributionId, Files};
use peat_blobcore::{Node, NodeEvent, OutboxOptions, SendRequest, WatchedOutbox};

fn options(root: &Path) -> OutboxOptions {
    OutboxOptions {
        stable: Duration::from_millis(200),
        interval: Duration::from_millis(50),
        max_file_bytes: Some(1000),
        ..OutboxOptions::new(root, "box")
    }
}

async fn watch(node: &Node, root: &Path) -> WatchedOutbox {
    watch_as(node, options(root)).await
}

/// The same, and what is removed there goes from inboxes.
async fn mirror(node: &Node, root: &Path) -> WatchedOutbox {
    watch_as(node, OutboxOptions { deletions: true, ..options(root) }).await
}

async fn watch_as(node: &Node, options: OutboxOptions) -> WatchedOutbox {
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
    const FILES: usize = 10_000;
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

/// Polls that a test would not live to see.
const NEVER: Duration = Duration::from_secs(24 * 3600);

#[tokio::test(flavor = "multi_thread")]
async fn what_is_told_is_not_waited_for_whatever_the_polls() {
    let fleet = Fleet::new();
    let root = fleet.write("outbox", &[("there", b"before")]);
    let alpha = fleet.start("alpha", &[]).await;
    let bravo = fleet.start("bravo", &[&alpha]).await;
    let inbox = fleet.inbox("bravo");
    let mut outbox = watch_as(&alpha, OutboxOptions { interval: NEVER, deletions: true, ..options(&root) }).await;
    shows(&inbox, &[("there", "before")]).await;
    fs::write(root.join("closed"), "one").expect("written");
    shows(&inbox, &[("closed", "one"), ("there", "before")]).await;
    // The directory and what is in it come before anybody can watch it.
    fs::create_dir(root.join("new")).expect("a directory");
    put(&root, "new/file", "two");
    shows(&inbox, &[("closed", "one"), ("new/file", "two"), ("there", "before")]).await;
    put(&root, "new/file", "three");
    fs::remove_file(root.join("there")).expect("removed");
    shows(&inbox, &[("closed", "one"), ("new/file", "three")]).await;
    until(&mut outbox, "nothing waits", |status| status.waiting == 0 && status.removed == 1).await;
    assert_eq!(outbox.status().polled, None);
    // A burst has a few looks for all of it, and so a few distributions.
    let before = outbox.status();
    for number in 0..500 {
        put(&root, &format!("new/{number:03}"), "many");
    }
    until(&mut outbox, "all are sent", |status| status.sent == before.sent + 500 && status.waiting == 0).await;
    // The root is made anew, with other files.
    let away = fleet.path("away");
    fs::rename(&root, &away).expect("moved");
    until(&mut outbox, "it is missed", |status| status.problem.is_some()).await;
    fs::rename(&away, &root).expect("moved back");
    until(&mut outbox, "it is there", |status| status.problem.is_none()).await;
    put(&root, "last", "four");
    eventually("it came", || async { fs::read(inbox.join("last")).is_ok() }).await;
    alpha.shutdown().await;
    bravo.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn polls_do_without_notices_and_say_so() {
    let fleet = Fleet::new();
    let root = fleet.write("outbox", &[("a", b"one")]);
    let alpha = fleet.start("alpha", &[]).await;
    let mut outbox = watch_as(&alpha, OutboxOptions { notices: false, ..options(&root) }).await;
    until(&mut outbox, "what was there is sent", |status| status.sent == 1).await;
    put(&root, "b", "two");
    until(&mut outbox, "what came is sent", |status| status.sent == 2 && status.waiting == 0).await;
    assert_eq!(outbox.status().polled.as_deref(), Some("notices are turned off"));
    alpha.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn polls_find_what_nobody_tells_of_beside_notices() {
    let fleet = Fleet::new();
    let root = fleet.write("outbox", &[("elsewhere/file", b"one")]);
    let alpha = fleet.start("alpha", &[]).await;
    let mut outbox = watch(&alpha, &root).await;
    until(&mut outbox, "what was there is sent", |status| status.sent == 1).await;
    // A further name for a file is neither closed nor moved.
    fs::hard_link(root.join("elsewhere/file"), root.join("link")).expect("linked");
    until(&mut outbox, "it is sent", |status| status.sent >= 2 && status.waiting == 0).await;
    assert_eq!(outbox.status().polled, None);
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

/// The names in an inbox, with their contents.
fn shown(inbox: &Path) -> Vec<(String, String)> {
    let text =
        |(path, bytes): (std::path::PathBuf, Vec<u8>)| (path.display().to_string(), String::from_utf8(bytes).expect("text"));
    contents(inbox).into_iter().map(text).collect()
}

async fn shows(inbox: &Path, what: &[(&str, &str)]) {
    let what: Vec<_> = what.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
    eventually(&format!("it shows {what:?}"), || async { shown(inbox) == what }).await;
}

/// The distribution of a node that has this file removed.
async fn removal(node: &Node, path: &str) -> DistributionId {
    for id in node.distributions() {
        let manifest = node.distribution(id).await.expect("known").manifest.clone();
        let Files::Inline(files) = &manifest.files else { continue };
        if manifest.removes && files.iter().any(|file| file.path == path.as_bytes()) {
            return id;
        }
    }
    panic!("there is none");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_removed_goes_where_it_was_delivered_also_at_a_node_that_was_away_and_what_was_edited_stays() {
    let fleet = Fleet::new();
    let root = fleet.write("outbox", &[("a", b"a"), ("b", b"b"), ("c", b"c")]);
    let alpha = fleet.start("alpha", &[]).await;
    let bravo = fleet.start("bravo", &[&alpha]).await;
    let charlie = fleet.start("charlie", &[&alpha]).await;
    let mut outbox = mirror(&alpha, &root).await;
    let (of_bravo, of_charlie) = (fleet.inbox("bravo"), fleet.inbox("charlie"));
    for inbox in [&of_bravo, &of_charlie] {
        shows(inbox, &[("a", "a"), ("b", "b"), ("c", "c")]).await;
    }
    for id in alpha.distributions() {
        completed(&alpha, id).await;
    }
    charlie.shutdown().await;
    fs::write(of_bravo.join("b"), "mine").expect("edited");
    let mut events = bravo.events();
    fs::remove_file(root.join("a")).expect("removed");
    fs::remove_file(root.join("b")).expect("removed");
    shows(&of_bravo, &[("b", "mine"), ("c", "c")]).await;
    until(&mut outbox, "both are told", |status| status.removed == 2 && status.held.is_none()).await;
    // One or two distributions, as they are looked at.
    let (of_a, of_b) = (removal(&alpha, "a").await, removal(&alpha, "b").await);
    let told = async {
        loop {
            match events.next().await {
                Some(NodeEvent::Removed { distribution, index }) => break (distribution, index),
                Some(_) => {}
                None => panic!("no event told of it"),
            }
        }
    };
    let told = tokio::time::timeout(peat_blob_tests::fleet::DEADLINE, told).await.expect("it is told");
    assert_eq!(told, (of_a, 0));
    let bravo_id = bravo.id();
    eventually("alpha is told what became of both", || async {
        let status = alpha.status(of_b).await.expect("known");
        status.targets.get(&bravo_id).is_some_and(|target| {
            target.why.starts_with("removed there since") && target.why.contains("files stay: they were edited there")
        })
    })
    .await;
    assert_eq!(shown(&of_charlie).len(), 3, "it was away");
    // The sender goes; who has the documents is enough.
    outbox = {
        drop(outbox);
        alpha.shutdown().await;
        let charlie = fleet.restart("charlie", &[&bravo]).await;
        shows(&of_charlie, &[("c", "c")]).await;
        let alpha = fleet.restart("alpha", &[&bravo, &charlie]).await;
        for id in [of_a, of_b] {
            completed(&alpha, id).await;
        }
        // What was removed comes back with its content, and as often as it changes.
        let mut outbox = mirror(&alpha, &root).await;
        put(&root, "a", "a");
        for inbox in [&of_bravo, &of_charlie] {
            eventually("it is there again", || async { fs::read(inbox.join("a")).is_ok() }).await;
        }
        until(&mut outbox, "all has been looked at", |status| status.waiting == 0 && status.sent == 1).await;
        assert_eq!(outbox.status().removed, 0, "nothing is told twice");
        alpha.shutdown().await;
        charlie.shutdown().await;
        outbox
    };
    while outbox.changed().await {}
    bravo.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_removed_where_nobody_says_so_nor_while_the_root_is_away_and_a_rename_moves() {
    let fleet = Fleet::new();
    let root = fleet.write("outbox", &[("a", b"a"), ("b", b"b"), ("c", b"c")]);
    let alpha = fleet.start("alpha", &[]).await;
    let bravo = fleet.start("bravo", &[&alpha]).await;
    let inbox = fleet.inbox("bravo");
    let mut outbox = watch(&alpha, &root).await;
    shows(&inbox, &[("a", "a"), ("b", "b"), ("c", "c")]).await;
    // Off, which is the default.
    fs::remove_file(root.join("a")).expect("removed");
    put(&root, "d", "d");
    until(&mut outbox, "d is sent", |status| status.sent == 4 && status.waiting == 0).await;
    drop(outbox);
    let mut outbox = mirror(&alpha, &root).await;
    until(&mut outbox, "it is looked at", |_| true).await;
    let away = fleet.path("away");
    fs::rename(&root, &away).expect("moved");
    until(&mut outbox, "the root is missed", |status| status.problem.is_some()).await;
    fs::create_dir(&root).expect("a directory");
    until(&mut outbox, "the root is another", |status| status.held.is_some() && status.problem.is_none()).await;
    let held = outbox.status().held.expect("it is held");
    assert!(held.contains("3 files are missed, and the root is another directory"), "{held}");
    // What comes after it has come: nothing was told before that.
    let after = alpha.send(SendRequest::new(fleet.write("after", &[("e", b"e")]))).await.expect("sent");
    completed(&alpha, after.distribution).await;
    let all = [("a", "a"), ("b", "b"), ("c", "c"), ("d", "d"), ("e", "e")];
    shows(&inbox, &all).await;
    fs::remove_dir(&root).expect("removed");
    fs::rename(&away, &root).expect("moved back");
    until(&mut outbox, "it is back", |status| status.held.is_none() && status.problem.is_none()).await;
    let received = bravo.block_bytes().received;
    fs::rename(root.join("b"), root.join("moved")).expect("renamed");
    shows(&inbox, &[("a", "a"), ("c", "c"), ("d", "d"), ("e", "e"), ("moved", "b")]).await;
    assert_eq!(bravo.block_bytes().received, received, "no byte was moved");
    until(&mut outbox, "that is all", |status| (status.removed, status.sent) == (1, 1)).await;
    alpha.shutdown().await;
    bravo.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_files_go_than_a_document_names() {
    let fleet = Fleet::new();
    let root = fleet.write("outbox", &[("stays", b"stays")]);
    let many: Vec<_> = (0..300).map(|number| format!("many/{number}")).collect();
    let _ = fleet.write("outbox", &many.iter().map(|path| (path.as_str(), &b"goes"[..])).collect::<Vec<_>>());
    let alpha = fleet.start("alpha", &[]).await;
    let bravo = fleet.start("bravo", &[&alpha]).await;
    let inbox = fleet.inbox("bravo");
    let mut outbox = mirror(&alpha, &root).await;
    eventually("all are there", || async { shown(&inbox).len() == 301 }).await;
    until(&mut outbox, "all were sent", |status| status.sent == 301 && status.waiting == 0).await;
    // All in one go, so that one look misses all.
    fs::rename(root.join("many"), fleet.path("elsewhere")).expect("moved");
    shows(&inbox, &[("stays", "stays")]).await;
    until(&mut outbox, "all are told", |status| status.removed == 300 && status.held.is_none()).await;
    let mut longest = 0;
    for id in alpha.distributions() {
        let manifest = alpha.distribution(id).await.expect("known").manifest.clone();
        longest = longest.max(if manifest.removes { manifest.file_count() } else { 0 });
        completed(&alpha, id).await;
    }
    assert!(longest > 256, "{longest} files went at once, which a document names");
    drop(outbox);
    alpha.shutdown().await;
    bravo.shutdown().await;
}

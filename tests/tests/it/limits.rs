//! Limits between real nodes: what they hold back, and what they must not.

use std::time::{Duration, Instant};

use peat_blob_tests::fleet::{Fleet, completed, connected, eventually};
use peat_blobcore::content::BlobStatus;
use peat_blobcore::model::{BlobHash, NodeRef, Priority, Scope, TargetState};
use peat_blobcore::{Limits, Node, RateChange, Rates, SendRequest, Sent};

const RATE: u64 = 64 * 1024;
const SIZE: usize = 4 * 1024 * 1024;

fn rates(text: &str) -> Rates {
    text.parse::<RateChange>().expect(text).applied_to(Rates::default())
}

fn node(text: &str) -> Limits {
    Limits { node: rates(text), ..Limits::default() }
}

fn metered() -> Limits {
    Limits { metered: true, ..Limits::default() }
}

/// Two nodes that are connected.
async fn pair(fleet: &Fleet, alpha: Limits, bravo: Limits) -> (Node, Node) {
    fleet.enroll("alpha", &[]);
    fleet.enroll("bravo", &[]);
    let alpha = fleet.describe("alpha").limits(alpha).start().await.expect("alpha starts");
    let bravo = fleet.describe("bravo").limits(bravo).peer(alpha.id(), alpha.addresses());
    let bravo = bravo.start().await.expect("bravo starts");
    connected(&alpha, bravo.id()).await;
    connected(&bravo, alpha.id()).await;
    (alpha, bravo)
}

async fn send(fleet: &Fleet, from: &Node, name: &str, bytes: &[u8], priority: Priority) -> Sent {
    let outbox = fleet.write(name, &[(name, bytes)]);
    from.send(SendRequest { priority, ..SendRequest::new(outbox) }).await.expect("sent")
}

fn noise(seed: u32) -> Vec<u8> {
    (0..SIZE as u32 / 4).flat_map(|at| (at ^ seed).wrapping_mul(0x9e37_79b9).to_le_bytes()).collect()
}

fn held(node: &Node, blob: BlobHash) -> u64 {
    match node.content().status(&blob).expect("the index can be read") {
        BlobStatus::Held { size } => size,
        BlobStatus::Partial { held, .. } => held,
        BlobStatus::Absent | BlobStatus::Damaged => 0,
    }
}

async fn why(node: &Node, sent: &Sent) -> String {
    match node.status(sent.distribution).await {
        Ok(status) => status.targets.get(&node.id()).map(|target| target.why.clone()).unwrap_or_default(),
        Err(_) => String::new(),
    }
}

/// A blob is sent under a limit: no more of it crosses than the limit says; a document passes it; a change holds at once.
async fn binds(alpha: Limits, bravo: Limits) {
    let fleet = Fleet::new();
    let (alpha, bravo) = pair(&fleet, alpha, bravo).await;
    let received = || bravo.peer_stats().iter().map(|stats| stats.received_bytes).sum::<u64>();
    let (before, started) = (received(), Instant::now());
    let large = send(&fleet, &alpha, "large", &noise(1), Priority::Routine).await;
    let blob = large.files[0].blob;
    eventually("a part of it is there", || async {
        let (here, crossed) = (held(&bravo, blob), received() - before);
        let most = started.elapsed().as_secs_f64() * RATE as f64;
        assert!(here as f64 <= most + 16_384.0, "{here} bytes are here, at most {most} may be");
        // With documents, headers and hashes.
        assert!(crossed as f64 <= most * 1.1 + 65_536.0, "{crossed} bytes have crossed, at most {most} of blobs may have");
        here >= 4 * RATE
    })
    .await;
    let document = send(&fleet, &alpha, "small", b"small", Priority::Routine).await;
    eventually("the document is there", || async { bravo.distribution(document.distribution).await.is_ok() }).await;
    assert!(held(&bravo, blob) < SIZE as u64, "documents do not wait for blobs");
    for node in [&alpha, &bravo] {
        node.set_limits(Limits::default()).await.expect("it runs");
    }
    completed(&alpha, large.distribution).await;
    completed(&alpha, document.distribution).await;
    alpha.shutdown().await;
    bravo.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_sends_no_more_than_its_limit_and_documents_pass_it() {
    binds(node("up=64KiB/s"), Limits::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_lets_no_more_come_than_its_limit_and_documents_pass_it() {
    binds(Limits::default(), node("down=64KiB/s")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_of_a_priority_holds_back_nothing_else() {
    let fleet = Fleet::new();
    let limits = Limits { classes: [(Priority::Bulk, rates("up=16KiB/s"))].into(), ..Limits::default() };
    let (alpha, bravo) = pair(&fleet, limits, Limits::default()).await;
    let bulk = send(&fleet, &alpha, "bulk", &noise(1), Priority::Bulk).await;
    eventually("it has begun", || async { held(&bravo, bulk.files[0].blob) > 0 }).await;
    let routine = send(&fleet, &alpha, "routine", &noise(2), Priority::Routine).await;
    completed(&alpha, routine.distribution).await;
    assert!(held(&bravo, bulk.files[0].blob) < SIZE as u64);
    alpha.shutdown().await;
    bravo.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_metered_receiver_fetches_what_is_critical_alone_until_that_is_over() {
    let fleet = Fleet::new();
    let (alpha, bravo) = pair(&fleet, Limits::default(), metered()).await;
    let routine = send(&fleet, &alpha, "routine", b"routine", Priority::Routine).await;
    let reason = "waits: the link is metered and its priority is routine";
    eventually("it says why", || async { why(&bravo, &routine).await == reason }).await;
    let critical = send(&fleet, &alpha, "critical", b"critical", Priority::Critical).await;
    completed(&alpha, critical.distribution).await;
    assert_eq!(held(&bravo, routine.files[0].blob), 0);
    bravo.set_limits(Limits::default()).await.expect("it runs");
    completed(&alpha, routine.distribution).await;
    alpha.shutdown().await;
    bravo.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_metered_sender_serves_what_is_critical_alone_and_what_is_under_way_gives_way() {
    let fleet = Fleet::new();
    let (alpha, bravo) = pair(&fleet, node("up=64KiB/s"), Limits::default()).await;
    let routine = send(&fleet, &alpha, "routine", &noise(1), Priority::Routine).await;
    eventually("it has begun", || async { held(&bravo, routine.files[0].blob) > 0 }).await;
    alpha.set_limits(metered()).await.expect("it runs");
    eventually("it says why", || async { why(&bravo, &routine).await.contains("the links of its holders are metered") }).await;
    let critical = send(&fleet, &alpha, "critical", &noise(2), Priority::Critical).await;
    completed(&alpha, critical.distribution).await;
    assert!(held(&bravo, routine.files[0].blob) < SIZE as u64);
    let had = held(&bravo, routine.files[0].blob);
    alpha.set_limits(Limits::default()).await.expect("it runs");
    completed(&alpha, routine.distribution).await;
    assert!(had > 0, "it goes on where it was");
    tokio::time::timeout(Duration::from_secs(20), alpha.shutdown()).await.expect("nothing is left waiting");
    bravo.shutdown().await;
}

/// Of two at the same distance that have the same blobs, who was slow with an earlier one is not asked while the other can be.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_holders_who_sent_faster_before_is_asked_first() {
    const FILES: usize = 12;
    // More than is asked for together, so that each is somebody's to be asked for.
    const FILE: usize = 20 * 1024;
    let fleet = Fleet::new();
    let (alpha, bravo) = pair(&fleet, node("up=64KiB/s"), Limits::default()).await;
    fleet.enroll("charlie", &[]);
    let charlie = fleet.describe("charlie").peer(alpha.id(), alpha.addresses()).peer(bravo.id(), bravo.addresses());
    let charlie = charlie.start().await.expect("charlie starts");
    for holder in [&alpha, &bravo] {
        connected(holder, charlie.id()).await;
        connected(&charlie, holder.id()).await;
    }
    let to = |nodes: &[&Node]| Scope::Nodes(nodes.iter().map(|node| NodeRef::Id(node.id())).collect());
    // Both have these.
    let files: Vec<(String, Vec<u8>)> =
        (0..FILES).map(|number| (number.to_string(), noise(number as u32)[..FILE].to_vec())).collect();
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
    let outbox = fleet.write("both", &files);
    let sent = bravo.send(SendRequest { scope: to(&[&alpha]), ..SendRequest::new(&outbox) }).await.expect("sent");
    completed(&bravo, sent.distribution).await;
    // One from each.
    for (seed, holder) in [(100, &alpha), (101, &bravo)] {
        let name = format!("from-{seed}");
        let outbox = fleet.write(&name, &[(&name, &noise(seed)[..SIZE / 16])]);
        let sent = holder.send(SendRequest { scope: to(&[&charlie]), ..SendRequest::new(outbox) }).await.expect("sent");
        completed(holder, sent.distribution).await;
    }
    charlie.set_limits(metered()).await.expect("it runs");
    let sent = alpha.send(SendRequest { scope: to(&[&bravo, &charlie]), ..SendRequest::new(outbox) }).await.expect("sent");
    eventually("charlie knows that bravo has it", || async {
        let known = charlie.distribution(sent.distribution).await;
        known.is_ok_and(|known| known.targets.get(&bravo.id()).is_some_and(|target| target.state == TargetState::Delivered))
    })
    .await;
    let before = alpha.block_bytes().served;
    charlie.set_limits(Limits::default()).await.expect("it runs");
    completed(&alpha, sent.distribution).await;
    assert_eq!(alpha.block_bytes().served, before, "all comes from bravo");
    for node in [alpha, bravo, charlie] {
        node.shutdown().await;
    }
}

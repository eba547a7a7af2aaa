//! New versions of large files: what the receiver has elsewhere in its store does not cross the link again.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use iroh::endpoint::{RecvStream, SendStream};
use peat_blob_tests::fleet::{DEADLINE, Fleet, completed, connected, contents, eventually};
use peat_blob_tests::raw::{Joined, RawMember};
use peat_blobcore::clock::{Clock as _, SystemClock};
use peat_blobcore::content::{Chunk, Content, Cutter, Options, Recipe, Segment};
use peat_blobcore::model::{NodeRef, Scope, TargetState};
use peat_blobcore::network::wire::{BlockFrame, BlockRequest, Request, Runs, read_frame, write_frame};
use peat_blobcore::{Node, SendRequest, Sent};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

const SIZE: usize = 16 << 20;
const NEW: usize = 33_554;
/// What the link may carry of a new version with 0.16 MiB of new bytes in 16 MiB: 1.2 MiB of 64, as the scoreboard has it.
const MOST: u64 = (SIZE as u64 / 64) * 12 / 10;

fn bytes(seed: u64, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Five times something new, here and there.
fn new_version(old: &[u8]) -> Vec<u8> {
    let parts = old.chunks(old.len().div_ceil(5)).enumerate();
    parts.flat_map(|(round, part)| [bytes(round as u64 + 100, NEW), part.to_vec()]).flatten().collect()
}

async fn send(fleet: &Fleet, node: &Node, to: &Node, files: &[(&str, &[u8])]) -> PathBuf {
    let outbox = fleet.write("outbox", files);
    let scope = Scope::Nodes(vec![NodeRef::Id(to.id())]);
    let sent = node.send(SendRequest { scope, ..SendRequest::new(&outbox) }).await.expect("sent");
    completed(node, sent.distribution).await;
    assert!(contents(&fleet.inbox("bravo")) == contents(&outbox), "it is delivered as it is");
    outbox
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_costs_what_is_new_and_two_files_in_one_cost_nothing() {
    let fleet = Fleet::in_memory();
    let alpha = fleet.start("alpha", &[]).await;
    let bravo = fleet.start("bravo", &[&alpha]).await;
    connected(&alpha, bravo.id()).await;
    let old = bytes(1, SIZE);
    send(&fleet, &alpha, &bravo, &[("file", &old)]).await;
    let before = bravo.block_bytes();
    assert_eq!(before.copied, 0);

    let new = new_version(&old);
    send(&fleet, &alpha, &bravo, &[("file", &new)]).await;
    let after = bravo.block_bytes();
    let (received, copied) = (after.received - before.received, after.copied);
    assert!(received > 5 * NEW as u64 && received < MOST, "{received} bytes of at most {MOST}");
    assert!(copied > SIZE as u64 * 98 / 100, "{copied} bytes were copied");
    assert_eq!(alpha.block_bytes().served, after.received);

    let both = [bytes(2, 1_500_000), new[5_000_000..9_000_000].to_vec(), old[1_000..2_000_000].to_vec()].concat();
    send(&fleet, &alpha, &bravo, &[("file", &both)]).await;
    let received = bravo.block_bytes().received - after.received;
    assert!(received < 1_600_000, "{received} bytes for 1500000 that are nowhere");
    assert!(bravo.check().await.expect("checked").is_clean());
    for node in [alpha, bravo] {
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn along_a_row_a_new_version_costs_what_is_new_on_each_link() {
    let fleet = Fleet::in_memory();
    let alpha = fleet.start("alpha", &[]).await;
    let bravo = fleet.start("bravo", &[&alpha]).await;
    let charlie = fleet.start("charlie", &[]).await;
    // The two ends hear of each other, and reach each other never.
    alpha.remove_peer(charlie.id()).await;
    charlie.remove_peer(alpha.id()).await;
    charlie.add_peer(bravo.id(), bravo.listening_on()).await;
    connected(&alpha, bravo.id()).await;
    connected(&charlie, bravo.id()).await;
    let old = bytes(1, SIZE);
    let mut received = Vec::new();
    for version in [old.clone(), new_version(&old)] {
        let outbox = fleet.write("outbox", &[("file", &version)]);
        let scope = Scope::Nodes([&bravo, &charlie].map(|node| NodeRef::Id(node.id())).to_vec());
        let sent = alpha.send(SendRequest { scope, ..SendRequest::new(&outbox) }).await.expect("sent");
        completed(&alpha, sent.distribution).await;
        received.push([&bravo, &charlie].map(|node| node.block_bytes().received));
    }
    assert!(!charlie.peers().contains(&alpha.id()));
    for (first, second) in received[0].iter().zip(received[1]) {
        assert!(second - first < MOST, "{} bytes of at most {MOST}", second - first);
    }
    for node in [alpha, bravo, charlie] {
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_like_nothing_else_costs_no_more_than_a_hundredth_more() {
    let fleet = Fleet::in_memory();
    let alpha = fleet.start("alpha", &[]).await;
    let bravo = fleet.start("bravo", &[&alpha]).await;
    connected(&alpha, bravo.id()).await;
    send(&fleet, &alpha, &bravo, &[("file", &bytes(1, 4_000_000))]).await;
    let first = bravo.block_bytes().received;
    send(&fleet, &alpha, &bravo, &[("file", &bytes(2, 4_000_000))]).await;
    let second = bravo.block_bytes().received - first;
    // That a recipe is no longer than a hundredth has a test of its own. The hashes that come with blocks of other sizes are up to
    // another two.
    assert!(second < first * 103 / 100, "{second} bytes, where the first cost {first}");
    assert_eq!(bravo.block_bytes().copied, 0);
    for node in [alpha, bravo] {
        node.shutdown().await;
    }
}

/// Bravo has the old version, and a holder the new one; the sender has gone.
struct Scene {
    fleet: Fleet,
    holder: Arc<Holder>,
    sent: Sent,
}

/// Answers by hand.
struct Holder {
    member: RawMember,
    content: Content,
    /// Of these bytes it tells the recipe and sends ranges.
    says: Vec<u8>,
    /// Ranges that it may still send.
    ranges: Semaphore,
    /// Those that it has sent.
    sent: Mutex<Vec<Range<u64>>>,
    /// Bytes of recipes that it has told.
    told: AtomicU64,
    /// How often it was asked for an outline, and for blocks.
    outlines: AtomicU64,
    blocks: AtomicU64,
}

impl Scene {
    async fn new(says: impl FnOnce(&[u8]) -> Vec<u8>, ranges: usize) -> Self {
        let fleet = Fleet::in_memory();
        let (old, alpha) = (bytes(1, SIZE), fleet.start("alpha", &[]).await);
        let bravo = fleet.start("bravo", &[&alpha]).await;
        connected(&alpha, bravo.id()).await;
        send(&fleet, &alpha, &bravo, &[("file", &old)]).await;
        let id = bravo.id();
        bravo.shutdown().await;

        let identity = fleet.identity_until("holder", SystemClock.now().plus(Duration::from_secs(3600)));
        let member = RawMember::new(&fleet, identity).await;
        let mut joined = member.join(&alpha).await;
        joined.reconcile(&member).await;
        let new = new_version(&old);
        let outbox = fleet.write("outbox", &[("file", new.as_slice())]);
        let scope = Scope::Nodes(vec![NodeRef::Id(id), NodeRef::Id(member.id())]);
        let sent = alpha.send(SendRequest { scope, ..SendRequest::new(&outbox) }).await.expect("sent");
        joined.learn(&member, &sent.distribution).await;
        alpha.shutdown().await;
        let content = Content::open(&fleet.path("held"), Options::default(), Arc::new(SystemClock)).expect("a store");
        content.ingest_bytes(&new).expect("ingested");
        let (says, zero) = (says(&new), AtomicU64::default);
        let ranges = Semaphore::new(ranges);
        let holder =
            Holder { member, content, says, ranges, sent: Mutex::default(), told: zero(), outlines: zero(), blocks: zero() };
        Self { fleet, holder: Arc::new(holder), sent }
    }

    /// Starts bravo, whom the holder serves.
    async fn start(&self, serving: &mut JoinSet<()>) -> Node {
        let bravo = self.fleet.restart("bravo", &[]).await;
        let member = &self.holder.member;
        let mut joined = member.join(&bravo).await;
        joined.reconcile(member).await;
        let claim = member.claim(&self.sent.distribution, TargetState::Delivered, self.sent.files[0].size);
        joined.push(member, &claim).await;
        serving.spawn(Arc::clone(&self.holder).serve(joined));
        bravo
    }

    async fn delivered(&self) {
        let arrived = || async { contents(&self.fleet.inbox("bravo")) == contents(&self.fleet.path("outbox")) };
        eventually("bravo has it", arrived).await;
    }
}

impl Holder {
    fn sent(&self) -> Vec<Range<u64>> {
        self.sent.lock().expect("nobody panics").clone()
    }

    async fn serve(self: Arc<Self>, mut joined: Joined) {
        let (connection, mut streams) = (joined.connection.clone(), JoinSet::new());
        streams.spawn(async move { while joined.hear().await.is_ok() {} });
        while let Ok((send, mut recv)) = connection.accept_bi().await {
            let Ok(frame) = read_frame(&mut recv, Request::MAX_BYTES).await else { continue };
            let holder = Arc::clone(&self);
            match Request::decode(&frame) {
                Ok(Request::Blocks(request)) => drop(streams.spawn(holder.blocks(request, send))),
                Ok(Request::Recipe(_)) => drop(streams.spawn(holder.recipe(recv, send))),
                Ok(Request::Ranges(_)) => drop(streams.spawn(holder.ranges(recv, send))),
                _ => {}
            }
        }
    }

    async fn blocks(self: Arc<Self>, request: BlockRequest, mut send: SendStream) {
        self.blocks.fetch_add(1, Ordering::SeqCst);
        for range in request.blocks() {
            let block = self.content.encode_block_below(&request.blob, range, request.known()).expect("it has it");
            if BlockFrame::Block(block).write(&mut send, DEADLINE).await.is_err() {
                return;
            }
        }
        let _ = send.finish();
    }

    async fn recipe(self: Arc<Self>, recv: RecvStream, mut send: SendStream) {
        let mut cutter = Cutter::default();
        cutter.push(&self.says);
        let recipe = Recipe::of_chunks(cutter.finish(), self.says.len() as u64).expect("it has one");
        let segments: Vec<&[Chunk]> = recipe.segments().collect();
        let runs = runs(recv).await;
        let mut frame = Vec::new();
        if runs.is_empty() {
            self.outlines.fetch_add(1, Ordering::SeqCst);
            segments.iter().for_each(|chunks| Segment::of(chunks).encode(&mut frame));
            self.told.fetch_add(frame.len() as u64, Ordering::SeqCst);
            let _ = BlockFrame::Block(frame).write(&mut send, DEADLINE).await;
        } else {
            for (first, count) in runs {
                let wanted = &segments[first as usize..(first + count) as usize];
                let mut frame = Vec::new();
                wanted.iter().flat_map(|chunks| chunks.iter()).for_each(|chunk| chunk.encode(&mut frame));
                self.told.fetch_add(frame.len() as u64, Ordering::SeqCst);
                let _ = BlockFrame::Block(frame).write(&mut send, DEADLINE).await;
            }
        }
        let _ = send.finish();
    }

    async fn ranges(self: Arc<Self>, recv: RecvStream, mut send: SendStream) {
        for (start, length) in runs(recv).await {
            self.ranges.acquire().await.expect("open").forget();
            self.sent.lock().expect("nobody panics").push(start..start + length);
            let range = self.says[start as usize..(start + length) as usize].to_vec();
            if BlockFrame::Block(range).write(&mut send, DEADLINE).await.is_err() {
                return;
            }
        }
        let _ = send.finish();
    }
}

fn length(ranges: &[Range<u64>]) -> u64 {
    ranges.iter().map(|range| range.end - range.start).sum()
}

async fn runs(mut recv: RecvStream) -> Vec<(u64, u64)> {
    Runs::decode(&read_frame(&mut recv, Runs::MAX_BYTES).await.expect("a frame")).expect("an honest node asks well").runs
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recipe_that_is_a_lie_costs_bytes_and_nothing_else() {
    let lie = |new: &[u8]| {
        let mut lie = new.to_vec();
        lie[SIZE / 2] ^= 1;
        lie
    };
    let scene = Scene::new(lie, Semaphore::MAX_PERMITS).await;
    let mut serving = JoinSet::new();
    let bravo = scene.start(&mut serving).await;
    scene.delivered().await;
    let count = |of: &AtomicU64| of.load(Ordering::SeqCst);
    assert!(length(&scene.holder.sent()) > 0 && count(&scene.holder.blocks) > 0, "it was believed, and then asked for blocks");
    assert_eq!(count(&scene.holder.outlines), 1, "it is not believed twice");
    assert!(bravo.check().await.expect("checked").is_clean());
    serving.shutdown().await;
    bravo.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_in_the_midst_costs_what_was_in_flight() {
    let scene = Scene::new(<[u8]>::to_vec, 4).await;
    let mut serving = JoinSet::new();
    let bravo = scene.start(&mut serving).await;
    let holder = &scene.holder;
    // Four ranges come, and no more.
    let come = || async {
        let told = holder.told.load(Ordering::SeqCst);
        holder.ranges.available_permits() == 0 && bravo.block_bytes().received == told + length(&holder.sent())
    };
    eventually("some has come", come).await;
    bravo.shutdown().await;
    serving.shutdown().await;

    holder.ranges.add_permits(1000);
    let mut serving = JoinSet::new();
    let bravo = scene.start(&mut serving).await;
    scene.delivered().await;
    let sent = holder.sent();
    let once: BTreeSet<u64> = sent.iter().cloned().flatten().collect();
    assert!(once.len() as u64 > 5 * NEW as u64 && (once.len() as u64) < MOST);
    // What the store was at when it was closed may be lost.
    let again = length(&sent) - once.len() as u64;
    assert!(again <= 32 * 1024, "{again} bytes came again");
    assert_eq!(holder.outlines.load(Ordering::SeqCst), 1, "the recipe is kept");
    assert_eq!(holder.blocks.load(Ordering::SeqCst), 0);
    serving.shutdown().await;
    bravo.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_knows_no_recipes_is_asked_for_blocks() {
    let scene = Scene::new(<[u8]>::to_vec, 0).await;
    let bravo = scene.fleet.restart("bravo", &[]).await;
    let (holder, size) = (&scene.holder, scene.sent.files[0].size);
    let mut joined = holder.member.join(&bravo).await;
    joined.reconcile(&holder.member).await;
    let claim = holder.member.claim(&scene.sent.distribution, TargetState::Delivered, size);
    joined.push(&holder.member, &claim).await;
    let (connection, mut streams) = (joined.connection.clone(), JoinSet::new());
    streams.spawn(async move { while joined.hear().await.is_ok() {} });
    let serve = async {
        while let Ok((send, mut recv)) = connection.accept_bi().await {
            let Ok(frame) = read_frame(&mut recv, Request::MAX_BYTES).await else { continue };
            // Of what it does not know the stream ends.
            if let Ok(Request::Blocks(request)) = Request::decode(&frame) {
                streams.spawn(Arc::clone(holder).blocks(request, send));
            }
        }
    };
    tokio::select! {
        () = serve => panic!("the connection ended"),
        () = scene.delivered() => {}
    }
    streams.shutdown().await;
    bravo.shutdown().await;
}

/// A stranger to the blob, and one who asks for what is not there, learn nothing.
#[tokio::test(flavor = "multi_thread")]
async fn recipes_and_ranges_are_for_who_is_entitled() {
    let fleet = Fleet::in_memory();
    let alpha = fleet.start("alpha", &[]).await;
    let bravo = fleet.start("bravo", &[&alpha]).await;
    connected(&alpha, bravo.id()).await;
    send(&fleet, &alpha, &bravo, &[("file", &bytes(1, 2_000_000))]).await;
    let blob = alpha.content().ingest_bytes(&bytes(1, 2_000_000)).expect("held").hash;
    let stranger = RawMember::new(&fleet, fleet.identity_until("x", SystemClock.now().plus(Duration::from_secs(3600)))).await;
    let joined = stranger.join(&alpha).await;
    for request in [
        Request::Recipe(peat_blobcore::network::wire::RecipeRequest { blob }),
        Request::Ranges(peat_blobcore::network::wire::RangesRequest { blob }),
    ] {
        let (mut send, mut recv) = joined.connection.open_bi().await.expect("a stream");
        write_frame(&mut send, &request.encode()).await.expect("asked");
        write_frame(&mut send, &Runs { runs: vec![(0, 1)] }.encode()).await.expect("asked");
        let answer = BlockFrame::read(&mut recv, DEADLINE).await.expect("an answer");
        assert_eq!(answer, BlockFrame::Denied(peat_blobcore::network::wire::Denial::NotAvailable));
    }
    for node in [alpha, bravo] {
        node.shutdown().await;
    }
}

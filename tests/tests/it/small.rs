//! Many small files: few requests, and each of them by itself.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use iroh::endpoint::SendStream;
use peat_blob_tests::fleet::{DEADLINE, Fleet, contents, eventually};
use peat_blob_tests::raw::{Joined, RawMember};
use peat_blobcore::clock::{Clock as _, SystemClock};
use peat_blobcore::content::{Content, Options};
use peat_blobcore::model::{BlobHash, Carry, FileList, NodeRef, Scope, TargetState};
use peat_blobcore::network::wire::{
    BlockFrame, BlockRequest, Denial, Request, SmallBlob, SmallBlobs, SmallRequest, read_frame, write_frame,
};
use peat_blobcore::{Node, SendRequest, Sent};
use tokio::task::JoinSet;

/// A distribution of small files for bravo and a holder, who alone has it: the sender has gone.
struct Scene {
    fleet: Fleet,
    member: RawMember,
    content: Content,
    outbox: PathBuf,
    sent: Sent,
}

impl Scene {
    async fn new(files: usize) -> Self {
        let fleet = Fleet::new();
        let content: Vec<_> = (0..files).map(|number| (number.to_string(), number.to_string().repeat(200))).collect();
        let files: Vec<_> = content.iter().map(|(path, bytes)| (path.as_str(), bytes.as_bytes())).collect();
        let outbox = fleet.write("outbox", &files);
        let identity = fleet.identity_until("holder", SystemClock.now().plus(Duration::from_secs(3600)));
        let member = RawMember::new(&fleet, identity).await;
        let scope = Scope::Nodes([fleet.enroll("bravo", &[]).id(), member.id()].map(NodeRef::Id).to_vec());
        let alpha = fleet.start("alpha", &[]).await;
        let mut joined = member.join(&alpha).await;
        joined.reconcile(&member).await;
        let sent = alpha.send(SendRequest { scope, ..SendRequest::new(&outbox) }).await.expect("sent");
        joined.learn(&member, &sent.distribution).await;
        alpha.shutdown().await;
        let content = Content::open(&fleet.path("held"), Options::default(), Arc::new(SystemClock)).expect("a store");
        let mut batch = content.batch();
        batch.add_bytes(&FileList(sent.files.clone()).encode()).expect("added");
        files.iter().for_each(|(_, bytes)| _ = batch.add_bytes(bytes).expect("added"));
        batch.commit().expect("held");
        Self { fleet, member, content, outbox, sent }
    }

    fn holder(&self) -> Holder {
        Holder { content: self.content.clone(), one_by_one: false, wrong: None, small: Arc::default(), blocks: Arc::default() }
    }

    /// The holder says to a node what it has.
    async fn join(&self, node: &Node) -> Joined {
        let mut joined = self.member.join(node).await;
        joined.reconcile(&self.member).await;
        let claim = self.member.claim(&self.sent.distribution, TargetState::Delivered, 1);
        joined.push(&self.member, &claim).await;
        joined
    }

    async fn delivered(&self) {
        eventually("bravo has it", || async { contents(&self.fleet.inbox("bravo")) == contents(&self.outbox) }).await;
    }

    fn held(&self, node: &Node) -> usize {
        self.sent.files.iter().filter(|file| node.content().holds(&file.blob).expect("the index can be read")).count()
    }
}

/// Answers what a peer asks, and counts.
#[derive(Clone)]
struct Holder {
    content: Content,
    /// Whether it knows no requests for several blobs.
    one_by_one: bool,
    /// Of this blob it sends wrong bytes.
    wrong: Option<BlobHash>,
    small: Arc<AtomicU64>,
    blocks: Arc<AtomicU64>,
}

impl Holder {
    async fn serve(self, mut joined: Joined) {
        let (connection, mut streams) = (joined.connection.clone(), JoinSet::new());
        streams.spawn(async move { while joined.hear().await.is_ok() {} });
        while let Ok((send, mut recv)) = connection.accept_bi().await {
            let Ok(frame) = read_frame(&mut recv, Request::MAX_BYTES).await else { continue };
            match Request::decode(&frame) {
                Ok(Request::Small(request)) => {
                    self.small.fetch_add(1, Ordering::SeqCst);
                    if !self.one_by_one {
                        self.several(request, send).await;
                    }
                }
                Ok(Request::Blocks(request)) => {
                    self.blocks.fetch_add(1, Ordering::SeqCst);
                    self.one(request, send).await;
                }
                _ => {}
            }
        }
    }

    async fn several(&self, request: SmallRequest, mut send: SendStream) {
        for some in request.blobs.chunks(10) {
            let read = self.content.read_small(some, usize::MAX).expect("it reads");
            let answer = some.iter().zip(read).map(|(blob, read)| match read {
                _ if self.wrong == Some(*blob) => SmallBlob::Whole(b"wrong".to_vec()),
                Ok(bytes) => SmallBlob::Whole(bytes),
                Err(_) => SmallBlob::Denied(Denial::NotAvailable as u8),
            });
            let frame = BlockFrame::Block(SmallBlobs { blobs: answer.collect() }.encode());
            if frame.write(&mut send, DEADLINE).await.is_err() {
                return;
            }
        }
        let _ = send.finish();
    }

    async fn one(&self, request: BlockRequest, mut send: SendStream) {
        for range in request.blocks() {
            let block = self.content.encode_block_below(&request.blob, range, request.known()).expect("it has it");
            if BlockFrame::Block(block).write(&mut send, DEADLINE).await.is_err() {
                return;
            }
        }
        let _ = send.finish();
    }

    fn asked(&self) -> (u64, u64) {
        (self.small.load(Ordering::SeqCst), self.blocks.load(Ordering::SeqCst))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_small_files_cost_a_handful_of_requests() {
    let scene = Scene::new(1000).await;
    let bravo = scene.fleet.restart("bravo", &[]).await;
    let holder = scene.holder();
    let mut serving = JoinSet::new();
    serving.spawn(holder.clone().serve(scene.join(&bravo).await));
    scene.delivered().await;
    let (small, blocks) = holder.asked();
    // 256 in each, and their list.
    assert!((4..=6).contains(&small) && blocks <= 8, "{small} requests for several blobs and {blocks} for blocks");
    serving.shutdown().await;
    bravo.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_one_of_many_small_files_concerns_itself_alone() {
    let scene = Scene::new(200).await;
    let bravo = scene.fleet.restart("bravo", &[]).await;
    let holder = Holder { wrong: Some(scene.sent.files[7].blob), ..scene.holder() };
    let mut serving = JoinSet::new();
    serving.spawn(holder.clone().serve(scene.join(&bravo).await));
    eventually("all others are here", || async { scene.held(&bravo) == 199 }).await;
    assert_eq!(holder.asked(), (1, 0), "who has sent it wrong is not asked for it again");
    assert!(contents(&scene.fleet.inbox("bravo")).is_empty(), "they belong together");
    // The sender has it right.
    let alpha = scene.fleet.restart("alpha", &[&bravo]).await;
    scene.delivered().await;
    assert_eq!(holder.asked(), (1, 0));
    serving.shutdown().await;
    for node in [alpha, bravo] {
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_know_requests_for_several_is_asked_for_one_by_one() {
    let scene = Scene::new(50).await;
    let bravo = scene.fleet.restart("bravo", &[]).await;
    let holder = Holder { one_by_one: true, ..scene.holder() };
    let mut serving = JoinSet::new();
    serving.spawn(holder.clone().serve(scene.join(&bravo).await));
    scene.delivered().await;
    assert_eq!(holder.asked(), (1, 50));
    serving.shutdown().await;
    bravo.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_gives_several_small_blobs_to_who_is_entitled_and_to_nobody_else() {
    let scene = Scene::new(40).await;
    let alpha = scene.fleet.restart("alpha", &[]).await;
    let other = scene.fleet.write("other", &[("secret", b"for bravo alone")]);
    let bravo = NodeRef::Name("bravo".to_owned());
    let secret = SendRequest { scope: Scope::Nodes(vec![bravo]), carry: Carry::None, ..SendRequest::new(other) };
    let secret = alpha.send(secret).await.expect("sent").files[0].blob;
    let joined = scene.member.join(&alpha).await;
    let mut blobs: Vec<BlobHash> = scene.sent.files.iter().map(|file| file.blob).collect();
    blobs.insert(3, secret);
    blobs.insert(20, BlobHash::from_bytes([0; 32]));
    let (mut send, mut recv) = joined.connection.open_bi().await.expect("a stream");
    let request = Request::Small(SmallRequest { blobs: blobs.clone() });
    write_frame(&mut send, &request.encode()).await.expect("asked");
    let mut given = Vec::new();
    while given.len() < blobs.len() {
        let BlockFrame::Block(frame) = BlockFrame::read(&mut recv, DEADLINE).await.expect("a frame") else { panic!("denied") };
        given.extend(SmallBlobs::decode(&frame).expect("blobs").blobs);
    }
    for (blob, given) in blobs.iter().zip(&given) {
        let expected = match scene.sent.files.iter().any(|file| file.blob == *blob) {
            true => SmallBlob::Whole(scene.content.read_blob(blob, 1 << 20).expect("it is here")),
            false => SmallBlob::Denied(Denial::NotAvailable as u8),
        };
        assert_eq!(*given, expected, "{blob}");
    }
    alpha.shutdown().await;
}

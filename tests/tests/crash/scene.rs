//! One delivery, in which one node is killed again and again, and what has to hold in the end.

use std::collections::BTreeMap;
use std::path::PathBuf;

use peat_blob_tests::fleet::{DEADLINE, Fleet, contents, eventually};
use peat_blobcore::model::{BlobHash, Carry, DistributionId, DistributionState, EndpointId, NodeRef, Scope, TargetState};
use peat_blobcore::{Node, SendRequest};

use crate::child::{Child, Ending, Order};

/// Whose part the node has that is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// It receives.
    Receiver,
    /// It has received, and one of its blobs is damaged.
    Mender,
    /// It sends.
    Sender,
    /// It carries for a node that is not there.
    Carrier,
}

/// A delivery from alpha to bravo, or by way of bravo to charlie.
pub(crate) struct Scene {
    part: Part,
    together: bool,
    fleet: Fleet,
    files: BTreeMap<PathBuf, Vec<u8>>,
}

impl Scene {
    /// Writes the files, and makes the identities.
    pub(crate) async fn new(part: Part, together: bool) -> Self {
        let fleet = Fleet::in_memory();
        let (edge, medium, large) = (bytes(1, 16 * 1024), bytes(2, 100_000), bytes(3, 3_000_000));
        let files: [(&str, &[u8]); 6] = [
            ("edited", b"as it was sent"),
            ("empty", b""),
            ("deep/er/edge", &edge),
            ("deep/medium", &medium),
            ("large", &large),
            ("removed", b"by the user, later"),
        ];
        let root = fleet.write("outbox", &files);
        let _ = fleet.write("", &[("unwanted", &bytes(4, 50_000))]);
        for name in ["alpha", "bravo", "charlie"] {
            fleet.enroll(name, &[]);
        }
        Self { part, together, files: contents(&root), fleet }
    }

    /// Kills the node at each of these places in turn; says at which of them it died.
    pub(crate) async fn run(self, kills: &[String]) -> Vec<bool> {
        match self.part {
            Part::Receiver => self.receive(kills).await,
            Part::Mender => self.mend(kills).await,
            Part::Sender => self.send(kills).await,
            Part::Carrier => self.carry(kills).await,
        }
    }

    async fn receive(&self, kills: &[String]) -> Vec<bool> {
        let _ = self.fleet.write("bravo.inbox", &[("edited", b"by the user, before")]);
        let alpha = self.fleet.restart("alpha", &[]).await;
        let id = self.send_to(&alpha, self.id_of("bravo"), Carry::None).await;
        let mut died = Vec::new();
        for kill in kills {
            let mut child = Child::start(&self.fleet, "bravo", &[&alpha], &[Order::Tidy], Some(kill));
            tokio::select! {
                () = child.ended() => {}
                () = completed(&alpha, id) => {}
            }
            child.says("done").await;
            died.push(child.stop().await == Ending::Died);
        }
        let child = Child::start(&self.fleet, "bravo", &[&alpha], &[], None);
        completed(&alpha, id).await;
        child.kill();
        let bravo = self.is_delivered_once(&alpha, "bravo", &[&alpha]).await;
        stop([alpha, bravo]).await;
        died
    }

    async fn mend(&self, kills: &[String]) -> Vec<bool> {
        let alpha = self.fleet.restart("alpha", &[]).await;
        let id = self.send_to(&alpha, self.id_of("bravo"), Carry::None).await;
        let bravo = self.fleet.restart("bravo", &[&alpha]).await;
        completed(&alpha, id).await;
        bravo.shutdown().await;
        let large = self.blob_of("large", &alpha, id).await;
        self.damage("bravo", &large);
        let mut died = Vec::new();
        for kill in kills {
            let mut child = Child::start(&self.fleet, "bravo", &[&alpha], &[Order::Heal], Some(kill));
            child.says("mended").await;
            died.push(child.stop().await == Ending::Died);
        }
        let bravo = self.fleet.restart("bravo", &[&alpha]).await;
        bravo.check().await.expect("everything can be read");
        bravo.redeliver(id).await.expect("it is known");
        eventually("the blob is whole again", || async { bravo.content().holds(&large).expect("readable") }).await;
        is_clean(&self.fleet, "bravo", &bravo).await;
        assert_eq!(contents(&self.fleet.inbox("bravo")), self.files);
        stop([alpha, bravo]).await;
        died
    }

    async fn send(&self, kills: &[String]) -> Vec<bool> {
        let bravo = self.fleet.restart("bravo", &[]).await;
        let mut died = Vec::new();
        for kill in kills {
            let mut child = Child::start(&self.fleet, "alpha", &[&bravo], &[Order::Send(bravo.id())], Some(kill));
            child.says("completed").await;
            died.push(child.stop().await == Ending::Died);
        }
        let mut child = Child::start(&self.fleet, "alpha", &[&bravo], &[Order::Send(bravo.id())], None);
        child.says("completed").await;
        child.kill();
        let alpha = self.fleet.restart("alpha", &[&bravo]).await;
        assert_eq!(alpha.distributions(), bravo.distributions());
        assert_eq!(alpha.distributions().len(), 1, "it was sent once");
        completed(&alpha, alpha.distributions()[0]).await;
        assert_eq!(contents(&self.fleet.inbox("bravo")), self.files);
        is_clean(&self.fleet, "alpha", &alpha).await;
        is_clean(&self.fleet, "bravo", &bravo).await;
        stop([alpha, bravo]).await;
        died
    }

    async fn carry(&self, kills: &[String]) -> Vec<bool> {
        let alpha = self.fleet.restart("alpha", &[]).await;
        let id = self.send_to(&alpha, self.id_of("charlie"), Carry::Members).await;
        let carrier = self.id_of("bravo");
        let held = async || {
            eventually("bravo holds it for charlie", || async {
                let status = alpha.status(id).await.expect("it is known");
                status.distribution.carriers.get(&carrier).is_some_and(|record| record.state == TargetState::Held)
            })
            .await;
        };
        let mut died = Vec::new();
        for kill in kills {
            let mut child = Child::start(&self.fleet, "bravo", &[&alpha], &[Order::Carry], Some(kill));
            tokio::select! {
                () = child.ended() => {}
                () = held() => {}
            }
            child.says("done").await;
            died.push(child.stop().await == Ending::Died);
        }
        let mut child = Child::start(&self.fleet, "bravo", &[&alpha], &[Order::Carry], None);
        held().await;
        child.says("done").await;
        child.kill();
        alpha.shutdown().await;
        let bravo = self.fleet.restart("bravo", &[]).await;
        let charlie = self.fleet.restart("charlie", &[&bravo]).await;
        completed_at(&charlie, id).await;
        assert_eq!(contents(&self.fleet.inbox("charlie")), self.files);
        assert!(contents(&self.fleet.inbox("bravo")).is_empty(), "a carrier delivers nothing to itself");
        let alpha = self.fleet.restart("alpha", &[&bravo]).await;
        completed(&alpha, id).await;
        is_clean(&self.fleet, "bravo", &bravo).await;
        is_clean(&self.fleet, "charlie", &charlie).await;
        stop([alpha, bravo, charlie]).await;
        died
    }

    /// Starts the receiver again after the user has removed a file, and sends something else as the proof that what was
    /// delivered before had its chance to come again.
    async fn is_delivered_once(&self, alpha: &Node, name: &str, peers: &[&Node]) -> Node {
        let inbox = self.fleet.inbox(name);
        std::fs::remove_file(inbox.join("removed")).expect("it was delivered");
        let proof = self.fleet.write("proof", &[("proof", b"that there was a chance")]);
        let node = self.fleet.restart(name, peers).await;
        let scope = Scope::Nodes(vec![NodeRef::Id(node.id())]);
        let sent = alpha.send(SendRequest { scope, ..SendRequest::new(proof) }).await.expect("it can be sent");
        completed(alpha, sent.distribution).await;
        let mut found = contents(&inbox);
        assert_eq!(found.remove(&PathBuf::from("proof")).as_deref(), Some(&b"that there was a chance"[..]));
        let aside: Vec<PathBuf> =
            found.keys().filter(|path| path.to_string_lossy().starts_with("edited.conflict-")).cloned().collect();
        let kept: Vec<Vec<u8>> = aside.iter().filter_map(|path| found.remove(path)).collect();
        assert_eq!(kept, [b"by the user, before"], "what the user had there is kept, once");
        let mut expected = self.files.clone();
        expected.remove(&PathBuf::from("removed"));
        assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        assert!(found == expected, "every file is equal");
        is_clean(&self.fleet, "alpha", alpha).await;
        is_clean(&self.fleet, name, &node).await;
        node
    }

    async fn send_to(&self, alpha: &Node, target: EndpointId, carry: Carry) -> DistributionId {
        let scope = Scope::Nodes(vec![NodeRef::Id(target)]);
        let root = self.fleet.path("outbox");
        let request = SendRequest { scope, carry, together: self.together, ..SendRequest::new(root) };
        alpha.send(request).await.expect("it can be sent").distribution
    }

    fn id_of(&self, name: &str) -> EndpointId {
        peat_blobcore::identity::files::load(&self.fleet.path(name)).expect("it is enrolled").0.id()
    }

    async fn blob_of(&self, path: &str, node: &Node, id: DistributionId) -> BlobHash {
        let status = node.status(id).await.expect("it is known");
        let peat_blobcore::model::Files::Inline(files) = &status.distribution.manifest.files else {
            panic!("there are few files")
        };
        files.iter().find(|file| file.path == path.as_bytes()).expect("it was sent").blob
    }

    /// Changes a byte of a blob behind the back of its node.
    fn damage(&self, name: &str, blob: &BlobHash) {
        let hex = blob.to_string();
        let path = self.fleet.path(name).join("content/blobs").join(&hex[..2]).join(&hex);
        let mut bytes = std::fs::read(&path).expect("a blob");
        bytes[100_000] ^= 1;
        std::fs::write(&path, bytes).expect("written");
    }
}

/// The check finds nothing, and nothing unfinished is left.
async fn is_clean(fleet: &Fleet, name: &str, node: &Node) {
    let report = node.check().await.expect("everything can be read");
    assert!(report.is_clean(), "{name}: {report:?}");
    // What a blob was assembled from goes right after it has become one.
    eventually("nothing unfinished is left", || async {
        ["content/tmp", "content/assemblies"].iter().all(|directory| contents(&fleet.path(name).join(directory)).is_empty())
    })
    .await;
}

async fn completed(sender: &Node, id: DistributionId) {
    let status = sender.wait(id, DEADLINE).await.expect("it ends");
    assert_eq!(status.state, DistributionState::Completed, "{:?}", status.targets);
    assert!(status.targets.values().all(|target| target.record.as_ref().is_some_and(|record| record.state.is_receipt())));
}

/// Waits for the receipt of a target that does not have the sender's roster.
async fn completed_at(target: &Node, id: DistributionId) {
    eventually("it is delivered", || async {
        let Ok(status) = target.status(id).await else { return false };
        status.targets.get(&target.id()).and_then(|it| it.record.as_ref()).is_some_and(|record| record.state.is_receipt())
    })
    .await;
}

async fn stop<const COUNT: usize>(nodes: [Node; COUNT]) {
    for node in nodes {
        node.shutdown().await;
    }
}

/// Bytes that no compression or deduplication makes fewer.
pub(crate) fn bytes(seed: u64, size: usize) -> Vec<u8> {
    let mut rng = peat_blob_tests::simulation::Rng::new(seed);
    let mut bytes: Vec<u8> = std::iter::repeat_with(|| rng.number().to_le_bytes()).take(size.div_ceil(8)).flatten().collect();
    bytes.truncate(size);
    bytes
}

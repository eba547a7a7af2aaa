//! Images between the registries of several nodes: what one has, the others come to when they are asked, or before.

use std::sync::Arc;
use std::time::Duration;

use peat_blob_tests::fleet::{Fleet, completed, connected, eventually};
use peat_blobcore::model::{Carry, NodeRef, Priority, Scope};
use peat_blobcore::oci::{Digest, Reference, Repository, Tag, media_type};
use peat_blobcore::registry::{Elsewhere, Found, Registry};
use peat_blobcore::{Limits, Node, RateChange, Rates, Terms};
use sha2::{Digest as _, Sha256};

fn digest_of(bytes: &[u8]) -> Digest {
    Digest::Sha256(peat_blobcore::model::Sha256Digest::from_bytes(Sha256::digest(bytes).into()))
}

/// An image of one layer, as bytes.
struct Image {
    layer: Vec<u8>,
    config: Vec<u8>,
    manifest: Vec<u8>,
}

impl Image {
    fn new(seed: u8, size: usize) -> Self {
        // Nothing of it is like another.
        let mut hash = blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof();
        let mut layer = vec![0; size];
        hash.fill(&mut layer);
        let config = format!(r#"{{"architecture":"amd64","os":"linux","seed":{seed}}}"#).into_bytes();
        let describe = |kind: &str, bytes: &[u8]| {
            format!(r#"{{"mediaType":"{kind}","digest":"{}","size":{}}}"#, digest_of(bytes), bytes.len())
        };
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","config":{},"layers":[{}]}}"#,
            media_type::OCI_MANIFEST,
            describe(media_type::OCI_CONFIG, &config),
            describe(media_type::OCI_LAYER, &layer),
        );
        Self { layer, config, manifest: manifest.into_bytes() }
    }

    fn digest(&self) -> Digest {
        digest_of(&self.manifest)
    }

    /// Pushes it, as a client does.
    async fn push(&self, node: &Node, repository: &Repository, tag: &str) {
        let (registry, repository) = (node.registry().clone(), repository.clone());
        let (blobs, manifest) = ([self.layer.clone(), self.config.clone()], self.manifest.clone());
        let reference = Reference::Tag(tag.parse().expect("a tag"));
        let push = move || {
            for blob in blobs {
                let id = registry.begin_upload(&repository).expect("begun");
                registry.append_upload(&repository, &id, 0, &blob).expect("appended");
                registry.finish_upload(&repository, &id, &digest_of(&blob)).expect("finished");
            }
            registry.put_manifest(&repository, &reference, Some(media_type::OCI_MANIFEST), &manifest).expect("put");
        };
        tokio::task::spawn_blocking(push).await.expect("pushed");
    }
}

fn repository() -> Repository {
    "team/app".parse().expect("a name")
}

/// What a node's tag points to, once it is that.
async fn tagged(node: &Node, tag: &str, digest: Option<Digest>) {
    let tag: Tag = tag.parse().expect("a tag");
    let is =
        || async { node.registry().resolve(&repository(), &tag).await.expect("resolved").map(|named| named.digest) == digest };
    eventually(&format!("{tag} is {digest:?}"), is).await;
}

/// Reads something that another node has, through this one's registry, to its end.
async fn pull(registry: &Registry, elsewhere: &Arc<dyn Elsewhere>, digest: &Digest) -> Vec<u8> {
    let repository = repository();
    let found = elsewhere.find(&repository, digest).await.expect("somebody has it");
    let Found::Claimed(arriving) = found else { panic!("{found:?}") };
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < arriving.size {
        let range = bytes.len() as u64..arriving.size;
        let read = registry.read_arriving(&repository, digest, &arriving, range, 64 * 1024).await.expect("it comes");
        assert!(!read.is_empty(), "there is more of it");
        bytes.extend(read);
    }
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_node_has_another_gives_when_it_is_asked_and_then_without_the_first() {
    let fleet = Fleet::new();
    let alpha = fleet.start("alpha", &[]).await;
    let bravo = fleet.start("bravo", &[&alpha]).await;
    let charlie = fleet.start("charlie", &[&bravo]).await;
    let image = Image::new(1, 3_000_000);
    image.push(&alpha, &repository(), "1").await;
    tagged(&bravo, "1", Some(image.digest())).await;
    tagged(&charlie, "1", Some(image.digest())).await;
    let elsewhere = bravo.registry().elsewhere().expect("the mesh");
    assert!(elsewhere.find(&"team/other".parse().expect("a name"), &image.digest()).await.is_none(), "it is another's");
    for part in [&image.manifest, &image.config, &image.layer] {
        assert!(pull(bravo.registry(), &elsewhere, &digest_of(part)).await == *part);
    }
    // Whoever has come to have all of it says so.
    let holds = || async { charlie.packages().await.expect("known").iter().any(|known| known.holders.contains(&bravo.id())) };
    eventually("bravo is known to have it", holds).await;
    alpha.shutdown().await;
    let elsewhere = charlie.registry().elsewhere().expect("the mesh");
    assert!(pull(charlie.registry(), &elsewhere, &digest_of(&image.layer)).await == image.layer);
    bravo.shutdown().await;
    charlie.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_that_somebody_waits_for_comes_before_the_middle() {
    let fleet = Fleet::new();
    let alpha = fleet.start("alpha", &[]).await;
    fleet.enroll("bravo", &[]);
    let slow = "down=64KiB/s".parse::<RateChange>().expect("a rate").applied_to(Rates::default());
    let limits = Limits { node: slow, ..Limits::default() };
    let bravo = fleet.describe("bravo").limits(limits).peer(alpha.id(), alpha.addresses()).start().await.expect("it starts");
    let image = Image::new(1, 3_000_000);
    image.push(&alpha, &repository(), "1").await;
    tagged(&bravo, "1", Some(image.digest())).await;
    let elsewhere = bravo.registry().elsewhere().expect("the mesh");
    let (repository, digest) = (repository(), digest_of(&image.layer));
    assert_eq!(bravo.registry().size_elsewhere(&repository, &digest).expect("readable"), Some(3_000_000));
    let arriving = elsewhere.find(&repository, &digest).await.expect("alpha has it");
    let Found::Claimed(arriving) = arriving else { panic!("{arriving:?}") };
    let range = 2_800_000..2_800_100;
    let read = bravo.registry().read_arriving(&repository, &digest, &arriving, range, 100).await.expect("it comes");
    assert_eq!(read, image.layer[2_800_000..2_800_100]);
    let held = bravo.registry().content().held_ranges(&arriving.hash).expect("readable");
    let middle = 1_500_000;
    assert!(!held.iter().any(|held| held.contains(&middle)), "{held:?}");
    alpha.shutdown().await;
    bravo.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_sent_is_in_the_registries_of_its_targets_before_anybody_asks() {
    let fleet = Fleet::new();
    let alpha = fleet.start("alpha", &[]).await;
    fleet.enroll("bravo", &[]);
    // Without an inbox it has a place for images.
    let bravo = Node::builder(fleet.path("bravo")).listen(([127, 0, 0, 1], 0).into()).gossip(false);
    let bravo = bravo.peer(alpha.id(), alpha.addresses()).start().await.expect("it starts");
    let image = Image::new(2, 200_000);
    image.push(&alpha, &repository(), "1").await;
    let terms = Terms {
        bundle: "images".into(),
        scope: Scope::Nodes(vec![NodeRef::Id(bravo.id())]),
        priority: Priority::Routine,
        lifetime: Duration::from_secs(3600),
        carry: Carry::Members,
        together: true,
    };
    let sent = alpha.send_package(repository(), image.digest(), terms).await.expect("sent");
    completed(&alpha, sent).await;
    let kept = bravo.registry().manifest(&repository(), &image.digest()).expect("readable").expect("it is there");
    assert_eq!(kept.bytes, image.manifest);
    // It stays when everything that nothing needs goes, and when the node starts again.
    bravo.gc().await.expect("collected");
    bravo.shutdown().await;
    let bravo = Node::builder(fleet.path("bravo")).listen(([127, 0, 0, 1], 0).into()).gossip(false).start().await.expect("again");
    let layer = bravo.registry().open_blob(&repository(), &digest_of(&image.layer)).expect("held");
    assert_eq!(layer.size(), 200_000);
    drop(layer);
    bravo.shutdown().await;
    alpha.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_is_what_was_said_of_it_last_whoever_said_it_and_what_is_deleted_here_is_gone_here() {
    let fleet = Fleet::new();
    let alpha = fleet.start("alpha", &[]).await;
    let bravo = fleet.start("bravo", &[&alpha]).await;
    connected(&alpha, bravo.id()).await;
    let (old, new) = (Image::new(3, 1000), Image::new(4, 1000));
    old.push(&alpha, &repository(), "1").await;
    tagged(&bravo, "1", Some(old.digest())).await;
    new.push(&bravo, &repository(), "1").await;
    tagged(&alpha, "1", Some(new.digest())).await;
    tagged(&bravo, "1", Some(new.digest())).await;
    // The image that bravo alone has is not told of any more once bravo has removed it.
    let (registry, digest) = (bravo.registry().clone(), new.digest());
    let delete = move || registry.delete_manifest(&repository(), &Reference::Digest(digest));
    tokio::task::spawn_blocking(delete).await.expect("it ends").expect("deleted");
    let gone = || async { alpha.claims().of(&repository(), &new.digest()).is_empty() };
    eventually("alpha hears of it no more", gone).await;
    let elsewhere = alpha.registry().elsewhere().expect("the mesh");
    assert!(elsewhere.find(&repository(), &new.digest()).await.is_none());
    tagged(&bravo, "1", None).await;
    alpha.shutdown().await;
    bravo.shutdown().await;
}

//! What other nodes claim to have, and do not give, or not all of it, is had from the upstream.

use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use super::{Fake, Manner, SIZE, place, repository};
use crate::clock::SystemClock;
use crate::content::{Assembly, Content, MAX_BLOCK_BYTES, Options};
use crate::model::EndpointId;
use crate::oci::{Descriptor, Digest, Repository, Tag, media_type};
use crate::registry::{Answer, Arrival, Arriving, Change, Elsewhere, Found, Named, Rank, Registry, RegistryError};

/// A node that claims to have something, gives the beginning of it, and falls silent.
struct Claimant {
    arriving: Arriving,
    /// What it gave stays readable as long as this is there.
    _assembly: Option<Assembly>,
    /// As long as it is there somebody may still give more.
    _progress: watch::Sender<Arrival>,
    disproved: Mutex<Vec<Digest>>,
}

impl Claimant {
    fn new(registry: &Registry, claimed: &[u8], given: usize, media_type: &str) -> Arc<Self> {
        let dir = tempfile::tempdir().expect("a directory");
        let there = Content::open(dir.path(), Options { quota: None, reserve: 0 }, Arc::new(SystemClock)).expect("another store");
        let hash = there.ingest_bytes(claimed).expect("room").hash;
        let size = claimed.len() as u64;
        let assembly = (given > 0).then(|| registry.content().assemble(&hash, size).expect("room"));
        for start in (0..given as u64).step_by(MAX_BLOCK_BYTES as usize) {
            let block = start..(start + MAX_BLOCK_BYTES).min(given as u64);
            let encoded = there.encode_block(&hash, block.clone()).expect("it is there");
            assembly.as_ref().expect("it gives some").write_block(block, &encoded).expect("it is what was claimed");
        }
        let (sender, progress) = watch::channel(Arrival::Coming);
        let media_type = media_type.to_owned();
        let arriving = Arriving { hash, size, media_type, claimed_by: EndpointId::from_bytes([1; 32]), progress };
        let claimant = Arc::new(Self { arriving, _assembly: assembly, _progress: sender, disproved: Mutex::default() });
        registry.add_elsewhere(Rank::Mesh, claimant.clone());
        claimant
    }
}

impl Elsewhere for Claimant {
    fn resolve<'a>(&'a self, _: &'a Repository, _: &'a Tag) -> Answer<'a, Option<Named>> {
        Box::pin(async { None })
    }

    fn find<'a>(&'a self, _: &'a Repository, _: &'a Digest) -> Answer<'a, Option<Found>> {
        Box::pin(async { Some(Found::Claimed(self.arriving.clone())) })
    }

    fn hurry(&self, _: &Arriving, _: std::ops::Range<u64>) {}

    fn disprove(&self, _: &Repository, digest: &Digest, _: &Arriving) {
        self.disproved.lock().expect("no panic").push(*digest);
    }

    fn repositories(&self) -> Vec<Repository> {
        Vec::new()
    }

    fn tags(&self, _: &Repository) -> Vec<Tag> {
        Vec::new()
    }

    fn referrers(&self, _: &Repository, _: &Digest) -> Vec<Descriptor> {
        Vec::new()
    }

    fn changed(&self, _: &Change) {}
}

#[tokio::test]
async fn what_nobody_gives_is_had_from_the_upstream_by_all_who_wait_with_one_get() {
    let fake = Fake::new(Manner::Honest).await;
    let (place, a) = (Arc::new(place(&[&fake], None)), repository("up/a"));
    let (layer, digest) = fake.layer();
    Claimant::new(&place.registry, &layer, 0, media_type::OCI_LAYER);
    let mut readers = tokio::task::JoinSet::new();
    for start in [0, 1_000_000, SIZE - 10] {
        let (place, layer) = (Arc::clone(&place), layer.clone());
        readers.spawn(async move {
            let found = place.find(&repository("up/a"), &digest).await.expect("it is claimed");
            assert!(matches!(found, Found::Backed(_)) && found.size() == SIZE as u64);
            let read = place.read(&digest, &found, start as u64..SIZE as u64).await.expect("bytes");
            assert!(read == layer[start..], "from {start}");
        });
    }
    while let Some(read) = readers.join_next().await {
        read.expect("it read");
    }
    assert_eq!(fake.gets(&digest), 1);
    assert!(place.registry.blob(&a, &digest).expect("a catalog").is_some());
}

#[tokio::test]
async fn a_manifest_that_nobody_gives_is_the_upstreams_too() {
    let fake = Fake::new(Manner::Honest).await;
    let (place, a) = (place(&[&fake], None), repository("up/a"));
    let elsewhere = place.registry.elsewhere().expect("it asks");
    let named = elsewhere.resolve(&a, &"v1".parse().expect("a tag")).await.expect("a tag");
    Claimant::new(&place.registry, &vec![7; usize::try_from(named.size).expect("small")], 0, &named.media_type);
    let found = place.registry.find_manifest(&a, &named.digest).await.expect("a catalog").expect("it is claimed");
    let held = place.registry.settle_found(&a, &named.digest, &found).await.expect("it comes");
    assert_eq!(held.size, named.size);
}

#[tokio::test]
async fn what_broke_off_goes_on_from_the_upstream() {
    let fake = Fake::new(Manner::Honest).await;
    let place = place(&[&fake], None);
    let (layer, digest) = fake.layer();
    let claimant = Claimant::new(&place.registry, &layer, 1_048_576, media_type::OCI_LAYER);
    let found = place.find(&repository("up/a"), &digest).await.expect("it is claimed");
    assert!(place.read(&digest, &found, 0..SIZE as u64).await.expect("bytes") == layer);
    assert_eq!((fake.gets(&digest), claimant.disproved.lock().expect("no panic").len()), (1, 0));
}

#[tokio::test]
async fn the_beginning_of_one_and_the_end_of_another_are_never_given_as_one() {
    let fake = Fake::new(Manner::Honest).await;
    let place = place(&[&fake], None);
    let (layer, digest) = fake.layer();
    let mut other = layer;
    other[5] ^= 1;
    let claimant = Claimant::new(&place.registry, &other, 1_048_576, media_type::OCI_LAYER);
    let found = place.find(&repository("up/a"), &digest).await.expect("it is claimed");
    let read = place.read(&digest, &found, 0..SIZE as u64).await;
    assert!(matches!(read, Err(RegistryError::FalseClaim(_))), "{:?}", read.map(|bytes| bytes.len()));
    assert_eq!(*claimant.disproved.lock().expect("no panic"), [digest]);
}

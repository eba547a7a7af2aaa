//! What comes from elsewhere, read while it comes.

use std::ops::Range;

use super::fake::{Coming, Others};
use super::*;
use crate::registry::{Arriving, Change};

const SIZE: usize = 3_000_000;

struct Scene {
    place: Place,
    here: Repository,
    others: Arc<Others>,
    coming: Coming,
    digest: Digest,
}

impl Scene {
    fn new() -> Self {
        let place = Place::new();
        let others = Others::new();
        place.set_elsewhere(Some(others.clone()));
        let coming = Coming::new(place.content(), 1, SIZE);
        let digest = sha256(&coming.sent);
        Self { place, here: repository("a"), others, coming, digest }
    }

    async fn read(&self, digest: &Digest, arriving: &Arriving, range: Range<u64>) -> Result<Vec<u8>, RegistryError> {
        let mut read = Vec::new();
        while range.start + (read.len() as u64) < range.end {
            let rest = range.start + read.len() as u64..range.end;
            read.extend(self.place.read_arriving(&self.here, digest, arriving, rest, 100_000).await?);
        }
        Ok(read)
    }

    /// Whether the future waits still after it was polled.
    async fn waits<T>(future: &mut (impl Future<Output = T> + Unpin)) -> bool {
        tokio::time::timeout(Duration::from_millis(50), future).await.is_err()
    }
}

#[tokio::test]
async fn bytes_leave_as_soon_as_they_are_verified_and_a_range_is_hurried() {
    let scene = Scene::new();
    let arriving = scene.coming.arriving();
    scene.coming.send(0..131_072);
    assert_eq!(scene.read(&scene.digest, &arriving, 5..131_072).await.unwrap(), scene.coming.sent[5..131_072]);
    let range = 2_000_003..2_000_013;
    let mut read = Box::pin(scene.read(&scene.digest, &arriving, range.clone()));
    assert!(Scene::waits(&mut read).await);
    assert_eq!(*scene.others.hurried.lock().unwrap(), [range]);
    scene.coming.send(1_998_848..2_015_232);
    assert_eq!(read.await.unwrap(), scene.coming.sent[2_000_003..2_000_013]);
    assert_eq!(scene.place.blob(&scene.here, &scene.digest).unwrap(), None, "not whole yet");
}

#[tokio::test]
async fn the_end_is_withheld_until_the_digest_is_right_and_then_it_is_the_repositorys() {
    let scene = Scene::new();
    let (arriving, size) = (scene.coming.arriving(), SIZE as u64);
    scene.coming.send(0..size);
    let before = size - 65_536;
    assert_eq!(scene.read(&scene.digest, &arriving, before - 10..before).await.unwrap().len(), 10);
    let mut end = Box::pin(scene.read(&scene.digest, &arriving, before..size));
    assert!(Scene::waits(&mut end).await, "all is here, and not yet known to be right");
    scene.coming.finish();
    assert_eq!(end.await.unwrap(), scene.coming.sent[SIZE - 65_536..]);
    assert_eq!(scene.place.blob(&scene.here, &scene.digest).unwrap().unwrap().size, size);
}

#[tokio::test]
async fn a_false_claim_is_disproved_and_its_end_never_leaves() {
    for digest in [sha256(b"something else"), sha512(b"something else")] {
        let scene = Scene::new();
        let arriving = scene.coming.arriving();
        scene.coming.finish();
        let error = scene.read(&digest, &arriving, 0..SIZE as u64).await.unwrap_err();
        assert!(matches!(error, RegistryError::FalseClaim(_)), "{error}");
        assert_eq!(*scene.others.disproved.lock().unwrap(), [digest]);
        assert_eq!(scene.place.blob(&scene.here, &digest).unwrap(), None);
    }
}

#[tokio::test]
async fn what_does_not_come_ends_its_readers() {
    let scene = Scene::new();
    let arriving = scene.coming.arriving();
    scene.coming.fail();
    let error = scene.read(&scene.digest, &arriving, 0..10).await.unwrap_err();
    assert!(matches!(&error, RegistryError::NotComing { why, .. } if why == "the holder is gone"), "{error}");
    let scene = Scene::new();
    let arriving = scene.coming.arriving();
    let Scene { coming, place, here, digest, .. } = scene;
    drop(coming);
    let error = place.settle(&here, &digest, &arriving).await.unwrap_err();
    assert!(matches!(error, RegistryError::NotComing { .. }), "{error}");
}

#[tokio::test]
async fn what_was_deleted_here_meanwhile_does_not_come_back() {
    let scene = Scene::new();
    let arriving = scene.coming.arriving();
    scene.coming.finish();
    scene.place.settle(&scene.here, &scene.digest, &arriving).await.unwrap();
    scene.place.delete_blob(&scene.here, &scene.digest).unwrap();
    let error = scene.place.settle(&scene.here, &scene.digest, &arriving).await.unwrap_err();
    assert!(matches!(error, RegistryError::NoBlob { .. }), "{error}");
}

#[test]
fn changes_are_told() {
    let (place, here, others) = (Place::new(), repository("a"), Others::new());
    place.set_elsewhere(Some(others.clone()));
    let (put, layer) = place.push_image(&here, "v1", 1);
    place.delete_blob(&here, &layer).unwrap();
    place.delete_manifest(&here, &by_tag("v1")).unwrap();
    place.delete_manifest(&here, &Reference::Digest(put.digest)).unwrap();
    let expected = [
        Change::ManifestPut(here.clone(), put.digest),
        Change::TagSet(here.clone(), tag("v1"), put.digest),
        Change::BlobRemoved(here.clone(), layer),
        Change::TagRemoved(here.clone(), tag("v1")),
        Change::ManifestRemoved(here, put.digest),
    ];
    assert_eq!(*others.changes.lock().unwrap(), expected);
}

//! What stays, and what goes.

use super::*;
use crate::content::{Pin, PinRole};
use crate::model::DistributionId;

const SIZE: usize = 100_000;

fn ingest(store: &Store, seed: u64) -> BlobHash {
    store.clock.advance(1000);
    store.ingest_bytes(&bytes(seed, SIZE)).unwrap().hash
}

fn held_of(store: &Store, hashes: &[BlobHash]) -> Vec<bool> {
    hashes.iter().map(|hash| held(store, hash)).collect()
}

fn with_quota(blobs: u64) -> Store {
    Store::with(Options { quota: Some(blobs * SIZE as u64), reserve: 0 })
}

#[test]
fn collection_drops_the_oldest_unpinned_and_only_what_is_over_the_quota() {
    let store = with_quota(3);
    let hashes: Vec<_> = (0..5).map(|seed| ingest(&store, seed)).collect();
    store.pin(&Pin::User("mine".into()), &hashes[..1]).unwrap();
    let report = store.gc().unwrap();
    assert_eq!((report.dropped, report.freed), (2, 2 * SIZE as u64), "{report:?}");
    assert_eq!(held_of(&store, &hashes), [true, false, false, true, true]);
    assert_eq!(store.gc().unwrap().dropped, 0, "within the quota");
    assert_eq!(store.files().len(), 6, "what was dropped has no files: {:?}", store.files());
    assert_eq!(store.digest(&store.sha256_of(&hashes[0]).unwrap().unwrap()).unwrap(), Some(hashes[0]));
}

#[test]
fn nothing_is_collected_between_taking_a_blob_in_and_pinning_it() {
    let store = with_quota(0);
    let unpinned = store.keep_unpinned();
    let hash = ingest(&store, 1);
    assert_eq!(store.gc().unwrap().dropped, 0);
    store.pin(&Pin::User("mine".into()), &[hash]).unwrap();
    drop(unpinned);
    assert_eq!(store.gc().unwrap().dropped, 0);
    store.unpin(&Pin::User("mine".into())).unwrap();
    assert_eq!(store.gc().unwrap().dropped, 1);
}

#[test]
fn a_dropped_blob_is_gone_with_its_files_and_its_digest() {
    let store = Store::new();
    let small = store.ingest_bytes(b"small").unwrap();
    let large = store.ingest_bytes(&bytes(1, SIZE)).unwrap();
    assert_eq!(store.gc_all().unwrap().dropped, 2);
    for blob in [small, large] {
        assert_eq!(store.status(&blob.hash).unwrap(), BlobStatus::Absent);
        assert_eq!(store.digest(&blob.sha256).unwrap(), None);
        assert!(matches!(store.open_blob(&blob.hash), Err(ContentError::Absent(_))));
    }
    assert!(store.files().is_empty());
    assert!(store.check(&mut go_on).unwrap().is_clean());
}

#[test]
fn small_blobs_that_were_dropped_give_their_space_back() {
    let store = Store::new();
    let mut batch = store.batch();
    for seed in 0..1000 {
        batch.add_bytes(&bytes(seed, 16_000)).unwrap();
    }
    batch.commit().unwrap();
    let length = || fs::metadata(store.path("content.redb")).unwrap().len();
    assert!(length() > 16_000_000);
    assert_eq!(store.gc_all().unwrap().freed, 16_000_000);
    assert_eq!((store.collected().freed, store.collected().failures), (16_000_000, 0));
    assert!(length() < 4_000_000, "{}", length());
    store.ingest_bytes(b"goes on").unwrap();
}

#[test]
fn a_pin_holds_until_its_last_reason_ends_also_over_restarts_and_before_the_blob_is_here() {
    let mut store = Store::new();
    let hash = hash_of(&bytes(1, SIZE));
    let id = DistributionId::from_bytes([7; 32]);
    let reasons = [Pin::Distribution(id, PinRole::Sender), Pin::Distribution(id, PinRole::Target), Pin::User("u".into())];
    for reason in &reasons {
        store.pin(reason, &[hash]).unwrap();
    }
    ingest(&store, 1);
    store.crash();
    assert_eq!(store.pins().unwrap(), reasons);
    for reason in &reasons {
        assert_eq!(store.gc_all().unwrap().dropped, 0);
        store.unpin(reason).unwrap();
    }
    assert_eq!(store.gc_all().unwrap().dropped, 1);
    assert!(store.pins().unwrap().is_empty());
}

#[test]
fn a_lease_ends_by_itself_and_can_be_moved() {
    let store = Store::new();
    let hashes = [ingest(&store, 1), ingest(&store, 2)];
    let lease =
        |millis| Pin::Lease { name: "upload".into(), until: store.clock.now().plus(std::time::Duration::from_millis(millis)) };
    store.pin(&lease(100), &hashes[..1]).unwrap();
    store.pin(&lease(500), &hashes[1..]).unwrap();
    store.clock.advance(400);
    assert_eq!(store.gc_all().unwrap().dropped, 0, "the later end counts for all of the lease");
    assert_eq!(store.pins().unwrap(), [lease(100)]);
    store.clock.advance(100);
    assert_eq!(store.gc_all().unwrap().dropped, 2);
    assert!(store.pins().unwrap().is_empty());
}

#[test]
fn what_is_being_read_stays_and_can_be_read_to_its_end() {
    let store = Store::new();
    let hash = ingest(&store, 1);
    let reader = store.open_blob(&hash).unwrap();
    assert_eq!(store.gc_all().unwrap().dropped, 0);
    let mut last = [0; 10];
    assert_eq!(reader.read_at(SIZE as u64 - 10, &mut last).unwrap(), 10);
    drop(reader);
    assert_eq!(store.gc_all().unwrap().dropped, 1);
}

#[test]
fn downloads_in_flight_stay_and_idle_ones_go_unless_they_are_pinned() {
    let source = Store::new();
    let mut store = Store::new();
    let blobs: Vec<_> = (1..=3).map(|seed| source.ingest_bytes(&bytes(seed, SIZE)).unwrap()).collect();
    let begin = |hash: &BlobHash| {
        let assembly = store.assemble(hash, SIZE as u64).unwrap();
        assembly.write_block(0..16_384, &source.encode_block(hash, 0..16_384).unwrap()).unwrap();
        assembly
    };
    let open = begin(&blobs[0].hash);
    begin(&blobs[1].hash);
    begin(&blobs[2].hash);
    store.pin(&Pin::User("u".into()), &[blobs[2].hash]).unwrap();
    let report = store.gc_all().unwrap();
    assert_eq!((report.dropped, report.failures.len()), (1, 0), "{report:?}");
    let partial = BlobStatus::Partial { size: SIZE as u64, held: 16_384 };
    assert_eq!(
        blobs.iter().map(|blob| store.status(&blob.hash).unwrap()).collect::<Vec<_>>(),
        [partial, BlobStatus::Absent, partial]
    );
    drop(open);
    store.crash();
    for (blob, missing) in blobs.iter().zip([SIZE - 16_384, SIZE, SIZE - 16_384]) {
        assert_eq!(fetch(&source, &store, &blob.hash, SIZE as u64).unwrap().1, missing as u64);
    }
}

#[test]
fn collection_goes_on_after_an_error_and_reports_it() {
    let store = Store::new();
    let hashes: Vec<_> = (0..3).map(|seed| ingest(&store, seed)).collect();
    let stuck = store.0.layout.blob(&hashes[0]);
    fs::remove_file(&stuck).unwrap();
    fs::create_dir(&stuck).unwrap();
    let report = store.gc_all().unwrap();
    assert_eq!((report.dropped, report.freed), (2, 2 * SIZE as u64));
    assert_eq!(report.failures.len(), 1);
    assert_eq!(report.failures[0].0, hashes[0]);
    assert!(store.files().is_empty());
}

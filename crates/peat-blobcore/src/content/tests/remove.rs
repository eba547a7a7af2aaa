//! One blob away because somebody says so: only if nothing else keeps it.

use std::time::Duration;

use super::*;
use crate::ErrorKind;
use crate::content::{Pin, PinRole, Release};
use crate::model::DistributionId;

const SIZE: usize = 100_000;

fn lease(store: &Store) -> Pin {
    Pin::Lease { name: "upload".into(), until: store.0.clock.now().plus(Duration::from_secs(60)) }
}

fn every_reason(store: &Store) -> Vec<Pin> {
    vec![
        Pin::User("mine".into()),
        lease(store),
        Pin::Distribution(DistributionId::from_bytes([1; 32]), PinRole::Carrier),
        Pin::Stock(BlobHash::from_bytes([2; 32])),
        Pin::Package { repository: "a/b".into(), digest: "sha256:00".into() },
    ]
}

#[test]
fn what_is_kept_stays_with_all_its_reasons_and_the_refusal_names_them() {
    let store = Store::new();
    for size in [10, SIZE] {
        let blob = store.ingest_bytes(&bytes(1, size)).unwrap();
        for pin in every_reason(&store) {
            store.pin(&pin, &[blob.hash]).unwrap();
            let release = Release { users: vec!["another".into()], leases: !matches!(pin, Pin::Lease { .. }) };
            let error = store.remove(&blob.hash, &release).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Refused);
            assert!(error.to_string().contains(&pin.to_string()) && error.hint().is_some_and(|hint| !hint.is_empty()), "{error}");
            assert!(held(&store, &blob.hash));
            assert_eq!(store.reasons(&blob.hash).unwrap(), std::slice::from_ref(&pin));
            store.unpin(&pin).unwrap();
        }
        // Given up are all or none.
        store.pin(&Pin::User("mine".into()), &[blob.hash]).unwrap();
        store.pin(&Pin::Stock(blob.hash), &[blob.hash]).unwrap();
        let both = Release { users: vec!["mine".into()], leases: true };
        assert!(matches!(store.remove(&blob.hash, &both), Err(ContentError::Kept { reasons, .. }) if reasons.len() == 1));
        assert_eq!(store.reasons(&blob.hash).unwrap().len(), 2);
        store.unpin(&Pin::Stock(blob.hash)).unwrap();
        assert_eq!(store.remove(&blob.hash, &both).unwrap(), size as u64);
        assert!(matches!(store.remove(&blob.hash, &both), Err(ContentError::Absent(_))));
    }
    assert!(store.files().is_empty() && store.check(&mut go_on).unwrap().is_clean());
}

#[test]
fn a_pin_that_is_given_up_with_one_blob_goes_on_keeping_the_others() {
    let store = Store::new();
    let hashes: Vec<_> = (0..3).map(|seed| store.ingest_bytes(&bytes(seed, SIZE)).unwrap().hash).collect();
    store.pin(&Pin::User("mine".into()), &hashes).unwrap();
    store.pin(&lease(&store), &hashes[..1]).unwrap();
    let release = Release { users: vec!["mine".into()], leases: false };
    assert!(matches!(store.remove(&hashes[0], &release), Err(ContentError::Kept { .. })), "the lease");
    store.clock.advance(60_001);
    store.remove(&hashes[0], &release).unwrap();
    store.gc_all().unwrap();
    assert_eq!(hashes.iter().map(|hash| held(&store, hash)).collect::<Vec<_>>(), [false, true, true]);
}

#[test]
fn what_is_read_or_fetched_stays_and_what_was_begun_goes() {
    let (store, other) = (Store::new(), Store::new());
    let blob = store.ingest_bytes(&bytes(1, SIZE)).unwrap();
    let reader = store.open_blob(&blob.hash).unwrap();
    assert!(matches!(store.remove(&blob.hash, &Release::default()), Err(ContentError::InUse(_))));
    drop(reader);
    let assembly = other.assemble(&blob.hash, blob.size).unwrap();
    let Range { start, end } = assembly.take(16 * 1024).unwrap().range();
    assembly.write_block(start..end, &store.encode_block(&blob.hash, start..end).unwrap()).unwrap();
    assert!(matches!(other.remove(&blob.hash, &Release::default()), Err(ContentError::InUse(_))));
    drop(assembly);
    assert!(matches!(other.status(&blob.hash).unwrap(), BlobStatus::Partial { .. }));
    other.remove(&blob.hash, &Release::default()).unwrap();
    assert_eq!(other.status(&blob.hash).unwrap(), BlobStatus::Absent);
    assert!(other.files().is_empty());
    store.remove(&blob.hash, &Release::default()).unwrap();
    assert!(store.files().is_empty());
}

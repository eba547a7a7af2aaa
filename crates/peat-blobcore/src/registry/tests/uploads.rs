//! Blobs coming in.

use super::*;
use crate::registry::{LONGEST_SILENCE, MAX_UPLOADS};

fn files(place: &Place) -> usize {
    std::fs::read_dir(place.dir.path().join("content/tmp")).unwrap().count()
}

#[test]
fn a_blob_comes_in_pieces_and_is_read_under_either_digest() {
    let (place, here) = (Place::new(), repository("a/b"));
    for (seed, size) in [(1, 0), (2, 1), (3, 16_384), (4, 300_000)] {
        let sent = bytes(seed, size);
        for digest in [sha256(&sent), sha512(&sent)] {
            assert_eq!(place.push_as(&here, &sent, &digest).unwrap().size, size as u64);
            let reader = place.open_blob(&here, &digest).unwrap();
            assert_eq!(reader.read_first(1 << 20).unwrap(), sent);
            assert!(matches!(place.open_blob(&repository("other"), &digest), Err(RegistryError::NoBlob { .. })));
        }
    }
}

#[test]
fn what_is_not_what_its_digest_says_is_refused_and_nothing_is_kept() {
    let (place, here) = (Place::new(), repository("a"));
    for size in [100, 300_000] {
        let sent = bytes(1, size);
        for claimed in [sha256(b"other"), sha512(b"other")] {
            let error = place.push_as(&here, &sent, &claimed).unwrap_err();
            assert!(matches!(error, RegistryError::DigestDiffers { claimed: said, .. } if said == claimed), "{error}");
            assert_eq!(place.blob(&here, &claimed).unwrap(), None);
        }
        assert_eq!(place.content().usage().unwrap().blobs, 0);
        assert_eq!(files(&place), 0);
    }
}

#[test]
fn pieces_come_in_order_and_uploads_are_their_repositorys() {
    let (place, here) = (Place::new(), repository("a"));
    let id = place.begin_upload(&here).unwrap();
    assert_eq!(place.append_upload(&here, &id, 0, b"abc").unwrap(), 3);
    for at in [0, 2, 4] {
        assert!(matches!(place.append_upload(&here, &id, at, b"x"), Err(RegistryError::OutOfOrder { has: 3, .. })));
    }
    let other = repository("b");
    assert!(matches!(place.append_upload(&other, &id, 3, b"d"), Err(RegistryError::NoUpload(_))));
    assert!(matches!(place.finish_upload(&other, &id, &sha256(b"abc")), Err(RegistryError::NoUpload(_))));
    assert!(matches!(place.cancel_upload(&other, &id), Err(RegistryError::NoUpload(_))));
    assert_eq!(place.upload_size(&here, &id).unwrap(), 3);
    assert_eq!(files(&place), 1);
    place.cancel_upload(&here, &id).unwrap();
    assert_eq!(files(&place), 0);
    assert!(matches!(place.upload_size(&here, &id), Err(RegistryError::NoUpload(_))));
}

#[test]
fn uploads_are_bounded_and_silent_ones_make_room() {
    let (place, here) = (Place::new(), repository("a"));
    let ids: Vec<_> = (0..MAX_UPLOADS).map(|_| place.begin_upload(&here).unwrap()).collect();
    assert!(matches!(place.begin_upload(&here), Err(RegistryError::TooManyUploads(MAX_UPLOADS))));
    place.advance(LONGEST_SILENCE);
    place.append_upload(&here, &ids[7], 0, b"x").unwrap();
    place.begin_upload(&here).unwrap();
    assert_eq!(place.upload_size(&here, &ids[7]).unwrap(), 1);
    assert!(place.upload_size(&here, &ids[8]).is_err());
    assert_eq!(files(&place), 2);
}

#[test]
fn a_blob_without_a_manifest_is_kept_for_a_day() {
    let (place, here) = (Place::new(), repository("a"));
    let digest = place.push_blob(&here, &bytes(1, 50_000));
    place.advance(Duration::from_secs(24 * 60 * 60 - 1));
    assert_eq!(place.collect(), 0);
    place.advance(Duration::from_secs(1));
    assert_eq!(place.collect(), 1);
    assert_eq!(place.blob(&here, &digest).unwrap(), None);
}

#[test]
fn a_mount_takes_what_a_repository_has_and_only_that() {
    let (place, one, two) = (Place::new(), repository("one"), repository("two"));
    let digest = place.push_blob(&one, &bytes(1, 50_000));
    assert_eq!(place.mount(&two, &digest, Some(&repository("three"))).unwrap(), None);
    assert_eq!(place.mount(&two, &sha256(b"other"), None).unwrap(), None);
    assert!(place.mount(&two, &digest, Some(&one)).unwrap().is_some());
    assert!(place.mount(&repository("four"), &digest, None).unwrap().is_some());
    place.delete_blob(&one, &digest).unwrap();
    assert_eq!(place.blob(&one, &digest).unwrap(), None);
    assert!(place.is_blocked(&one, &digest).unwrap());
    assert!(matches!(place.delete_blob(&one, &digest), Err(RegistryError::NoBlob { .. })));
    assert!(place.open_blob(&two, &digest).is_ok(), "it is the other's still");
    place.push_blob(&one, &bytes(1, 50_000));
    assert!(!place.is_blocked(&one, &digest).unwrap());
}

#[test]
fn what_the_store_has_is_adopted_only_under_its_digest() {
    let (place, here) = (Place::new(), repository("a"));
    let sent = bytes(1, 50_000);
    let hash = place.content().ingest_bytes(&sent).unwrap().hash;
    for wrong in [sha256(b"x"), sha512(b"x")] {
        assert!(matches!(place.adopt_blob(&here, &wrong, &hash), Err(RegistryError::DigestDiffers { .. })));
    }
    for right in [sha256(&sent), sha512(&sent)] {
        assert_eq!(place.adopt_blob(&here, &right, &hash).unwrap(), Held { hash, size: 50_000 });
    }
}

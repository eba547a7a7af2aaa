//! Several small blobs at once.

use super::*;
use crate::ErrorKind;

fn hash_of(bytes: &[u8]) -> BlobHash {
    BlobHash::from_bytes(*blake3::hash(bytes).as_bytes())
}

#[test]
fn small_blobs_are_read_in_one_go_until_it_is_enough_and_what_is_not_there_concerns_itself_alone() {
    let store = Store::new();
    let content = store.content.as_ref().unwrap();
    let small: Vec<Vec<u8>> = (0..5).map(|number| vec![number; 1000]).collect();
    let mut hashes: Vec<BlobHash> = small.iter().map(|bytes| content.ingest_bytes(bytes).unwrap().hash).collect();
    hashes.insert(1, content.ingest_bytes(&[7; 20_000]).unwrap().hash);
    hashes.insert(2, hash_of(b"not here"));
    let read = content.read_small(&hashes, 2500).unwrap();
    let [Ok(first), Err(large), Err(absent), Ok(second), Ok(third)] = &read[..] else { panic!("{read:?}") };
    assert_eq!([first, second, third], [&small[0], &small[1], &small[2]]);
    for error in [large, absent] {
        assert!(matches!(error, ContentError::Absent(_)), "{error}");
    }
    assert_eq!(content.read_small(&hashes, 0).unwrap().len(), 1, "at least the first");
}

#[test]
fn of_small_blobs_that_come_together_what_is_not_its_hashs_is_left_out() {
    let store = Store::new();
    let content = store.content.as_ref().unwrap();
    let (good, other) = (vec![1; 100], vec![2; 16 * 1024]);
    let mut batch = content.batch();
    batch.add_small(&hash_of(&good), good.clone()).unwrap();
    for (named, bytes) in [(hash_of(b"something else"), vec![3; 10]), (hash_of(&[4; 20_000]), vec![4; 20_000])] {
        assert!(matches!(batch.add_small(&named, bytes), Err(ContentError::Corrupt(hash)) if hash == named));
    }
    batch.add_small(&hash_of(&other), other.clone()).unwrap();
    assert!(!content.holds(&hash_of(&good)).unwrap(), "not before it is durable");
    batch.commit().unwrap();
    for bytes in [good, other] {
        assert_eq!(content.read_blob(&hash_of(&bytes), 1 << 20).unwrap(), bytes);
    }
    assert_eq!(content.usage().unwrap().blobs, 2);
}

#[test]
fn room_in_the_index_is_asked_for_before_anything_is_fetched() {
    let store = Store::new();
    let content = store.content.as_ref().unwrap();
    content.ensure_small_fit(1 << 20).unwrap();
    assert_eq!(content.ensure_small_fit(u64::MAX).unwrap_err().kind(), ErrorKind::NoSpace);
}

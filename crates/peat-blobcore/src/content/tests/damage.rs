//! Damage on disk is noticed wherever the bytes are used, and heals at the price of what is wrong.

use std::fs::File;

use super::*;
use crate::content::index::INLINE;

/// A blob in two stores, of which one gets damaged.
fn pair(size: usize) -> (Store, Store, BlobHash, u64) {
    let (good, bad) = (Store::new(), Store::new());
    let data = bytes(10, size);
    let hash = good.ingest_bytes(&data).unwrap().hash;
    bad.ingest_bytes(&data).unwrap();
    (good, bad, hash, size as u64)
}

#[test]
fn a_damaged_blob_is_noticed_when_it_is_served_and_never_leaves() {
    for (what, use_it) in [
        ("encode", (|content, hash| content.encode_block(hash, 1 << 20..2_000_000).map(drop)) as fn(&Content, &BlobHash) -> _),
        ("read", |content, hash| read_all(content, hash).map(drop)),
        ("export", |content, hash| content.export(hash, &tempfile::tempfile().unwrap(), Path::new("out")).map(drop)),
        ("verify", |content, hash| content.verify(hash)),
    ] {
        let (_, bad, hash, _) = pair(2_000_000);
        flip(&bad.0.layout.blob(&hash), 1_500_000);
        assert!(held(&bad, &hash), "nobody has looked yet");
        assert!(bad.encode_block(&hash, 0..1 << 20).is_ok(), "what is right can be served");
        let error = use_it(&bad, &hash).expect_err(what);
        assert!(matches!(error, ContentError::Damaged(_)) && error.hint().is_some(), "{what}: {error}");
        assert_eq!(bad.status(&hash).unwrap(), BlobStatus::Damaged, "{what}");
        assert!(matches!(bad.encode_block(&hash, 0..16_384), Err(ContentError::Damaged(_))), "{what}");
    }
}

#[test]
fn what_is_exported_unverified_shows_the_damage_to_who_reads_it_back() {
    let cut = |path: &Path| File::options().write(true).open(path).unwrap().set_len(1_200_000).unwrap();
    for damage in [(|path| flip(path, 1_500_000)) as fn(&Path), cut] {
        let (_, bad, hash, _) = pair(2_000_000);
        damage(&bad.0.layout.blob(&hash));
        let file = tempfile::NamedTempFile::new_in(bad.dir.path()).unwrap();
        bad.export_unverified(&hash, file.as_file(), file.path(), &mut |_| Ok(())).unwrap();
        assert_ne!(fs::read(file.path()).unwrap(), bytes(10, 2_000_000));
        assert!(held(&bad, &hash), "nobody has looked yet");
        assert!(matches!(bad.verify(&hash), Err(ContentError::Damaged(_))));
        assert_eq!(bad.status(&hash).unwrap(), BlobStatus::Damaged);
    }
}

#[test]
fn check_finds_damage_and_healing_fetches_only_what_is_wrong() {
    let (good, mut bad, hash, size) = pair(5_000_000);
    flip(&bad.0.layout.blob(&hash), 3_000_000);
    let report = bad.check(&mut go_on).unwrap();
    assert_eq!((report.checked, report.damaged), (1, vec![hash]));
    bad.crash();
    assert_eq!(bad.status(&hash).unwrap(), BlobStatus::Damaged, "it is remembered");
    let (_, crossed) = fetch(&good, &bad, &hash, size).unwrap();
    assert_eq!(crossed, 16_384);
    assert!(held(&bad, &hash));
    assert_eq!(read_all(&bad, &hash).unwrap(), bytes(10, 5_000_000));
    assert!(bad.check(&mut go_on).unwrap().is_clean());
    assert_eq!(bad.files().len(), 2, "{:?}", bad.files());
}

#[test]
fn what_is_somebody_elses_file_too_is_not_written_to_when_it_heals() {
    let (good, bad, hash, size) = pair(2_000_000);
    let theirs = bad.dir.path().join("theirs");
    fs::hard_link(bad.0.layout.blob(&hash), &theirs).unwrap();
    flip(&theirs, 1_500_000);
    let as_they_have_it = fs::read(&theirs).unwrap();
    assert!(matches!(bad.verify(&hash), Err(ContentError::Damaged(_))));
    let (_, crossed) = fetch(&good, &bad, &hash, size).unwrap();
    assert_eq!(crossed, 16_384);
    assert_eq!(read_all(&bad, &hash).unwrap(), bytes(10, 2_000_000));
    assert_eq!(fs::read(&theirs).unwrap(), as_they_have_it);
}

#[test]
fn a_damaged_outboard_is_made_anew_without_fetching_anything() {
    for by_check in [true, false] {
        for destroy in
            [(|path| flip(path, 0)) as fn(&Path), |path| fs::remove_file(path).unwrap(), |path| fs::write(path, "").unwrap()]
        {
            let (good, bad, hash, size) = pair(5_000_000);
            destroy(&bad.0.layout.outboard(&hash));
            if by_check {
                assert_eq!(bad.check(&mut go_on).unwrap().repaired, vec![hash]);
            } else {
                read_all(&bad, &hash).unwrap_err();
                assert_eq!(fetch(&good, &bad, &hash, size).unwrap().1, 0);
            }
            assert_eq!(read_all(&bad, &hash).unwrap(), bytes(10, 5_000_000));
            assert!(bad.check(&mut go_on).unwrap().is_clean());
        }
    }
}

#[test]
fn what_is_gone_or_cut_short_is_fetched_again() {
    for destroy in [(|path| fs::remove_file(path).unwrap()) as fn(&Path), |path| {
        File::options().write(true).open(path).unwrap().set_len(100_000).unwrap();
    }] {
        let (good, bad, hash, size) = pair(1_000_000);
        destroy(&bad.0.layout.blob(&hash));
        let report = bad.check(&mut go_on).unwrap();
        assert_eq!(report.damaged.len() + report.missing.len(), 1, "{report:?}");
        assert!(!held(&bad, &hash));
        fetch(&good, &bad, &hash, size).unwrap();
        assert_eq!(read_all(&bad, &hash).unwrap(), bytes(10, 1_000_000));
        assert!(bad.check(&mut go_on).unwrap().is_clean());
    }
}

#[test]
fn a_damaged_small_blob_is_noticed_and_heals() {
    let (good, bad, hash, size) = pair(5000);
    bad.0
        .index
        .write(|txn| {
            txn.open_table(INLINE)?.insert(hash.as_bytes(), bytes(11, 5000).as_slice())?;
            Ok(())
        })
        .unwrap();
    assert!(matches!(bad.encode_block(&hash, 0..5000), Err(ContentError::Damaged(_))));
    assert_eq!(bad.check(&mut go_on).unwrap().damaged, vec![hash]);
    fetch(&good, &bad, &hash, size).unwrap();
    assert_eq!(read_all(&bad, &hash).unwrap(), bytes(10, 5000));
    assert!(bad.check(&mut go_on).unwrap().is_clean());
}

#[test]
fn a_damaged_blob_heals_when_it_is_taken_in_again() {
    let (_, bad, hash, _) = pair(1_000_000);
    flip(&bad.0.layout.blob(&hash), 5);
    read_all(&bad, &hash).unwrap_err();
    bad.ingest_bytes(&bytes(10, 1_000_000)).unwrap();
    assert_eq!(read_all(&bad, &hash).unwrap(), bytes(10, 1_000_000));
}

#[test]
fn check_takes_in_orphans_that_are_blobs_and_removes_those_that_are_not() {
    let store = Store::new();
    let data = bytes(12, 200_000);
    let (whole, torn) = (hash_of(&data), hash_of(b"something else"));
    fs::write(store.0.layout.blob(&whole), &data).unwrap();
    fs::write(store.0.layout.blob(&torn), &data).unwrap();
    fs::write(store.0.layout.outboard(&torn), "not an outboard").unwrap();
    let report = store.check(&mut go_on).unwrap();
    assert_eq!((report.adopted, report.orphans), (1, 2), "{report:?}");
    assert_eq!(read_all(&store, &whole).unwrap(), data);
    assert_eq!(store.files().len(), 2);
    assert!(store.check(&mut go_on).unwrap().is_clean());
}

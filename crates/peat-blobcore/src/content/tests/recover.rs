//! Starts, ends, and what lies between.

use super::*;
use crate::clock::SystemClock;

#[test]
fn what_became_whole_shortly_before_an_unclean_end_is_verified_and_older_things_are_not() {
    let mut store = Store::new();
    let old = store.ingest_bytes(&bytes(1, 100_000)).unwrap().hash;
    store.clock.advance(61_000);
    let new = store.ingest_bytes(&bytes(2, 100_000)).unwrap().hash;
    flip(&store.0.layout.blob(&old), 0);
    flip(&store.0.layout.blob(&new), 0);
    store.crash();
    assert_eq!(store.status(&new).unwrap(), BlobStatus::Damaged);
    assert!(held(&store, &old), "check finds that one");
}

#[test]
fn after_a_clean_end_nothing_is_read_again() {
    let mut store = Store::new();
    let hash = store.ingest_bytes(&bytes(1, 100_000)).unwrap().hash;
    flip(&store.0.layout.blob(&hash), 0);
    store.close();
    store.open();
    assert!(held(&store, &hash));
}

#[test]
fn leftovers_of_a_killed_process_are_removed_and_assemblies_stay() {
    let mut store = Store::new();
    let source = Store::new();
    let hash = source.ingest_bytes(&bytes(1, 100_000)).unwrap().hash;
    store.assemble(&hash, 100_000).unwrap().write_block(0..16_384, &source.encode_block(&hash, 0..16_384).unwrap()).unwrap();
    fs::write(store.path("tmp/17"), "half a file").unwrap();
    fs::write(store.0.layout.assembly(&hash_of(b"x"), 5_000_000, "bitmap"), "no data").unwrap();
    fs::write(store.path("assemblies/a users file"), "stays").unwrap();
    store.crash();
    assert_eq!(store.status(&hash).unwrap(), BlobStatus::Partial { size: 100_000, held: 16_384 });
    assert_eq!(store.files().len(), 4, "three of the assembly, one that is not ours: {:?}", store.files());
}

#[test]
fn a_store_is_open_once() {
    let mut store = Store::new();
    let error = Content::open(store.dir.path(), Options::default(), Arc::new(SystemClock)).unwrap_err();
    assert!(error.hint().unwrap().contains("another process"), "{error}");
    let content = store.content.clone().unwrap();
    store.close();
    for error in [
        content.ingest_bytes(b"late").unwrap_err(),
        content.ingest_bytes(&bytes(1, 100_000)).unwrap_err(),
        content.status(&hash_of(b"late")).unwrap_err(),
        content.assemble(&hash_of(b"late"), 100_000).unwrap_err(),
    ] {
        assert!(matches!(error, ContentError::Closed), "{error}");
    }
    store.open();
    assert!(store.files().is_empty(), "{:?}", store.files());
}

#[test]
fn a_store_of_an_unknown_format_is_refused() {
    let mut store = Store::new();
    store.0.index.set_format(99).unwrap();
    store.content = None;
    let error = Content::open(store.dir.path(), Options::default(), Arc::new(SystemClock)).unwrap_err();
    assert!(matches!(error, ContentError::UnknownFormat { format: 99, .. }), "{error}");
}

#[test]
fn a_commit_that_fails_halfway_leaves_everything_as_it_was() {
    let (source, store) = (Store::new(), Store::new());
    let data = bytes(3, 100_000);
    let hash = source.ingest_bytes(&data).unwrap().hash;
    let assembly = store.assemble(&hash, 100_000).unwrap();
    assembly.write_block(0..100_000, &source.encode_block(&hash, 0..100_000).unwrap()).unwrap();
    let in_the_way = store.0.layout.outboard(&hash);
    fs::create_dir(&in_the_way).unwrap();
    let before = store.files();
    assembly.finish().unwrap_err();
    store.ingest_bytes(&data).unwrap_err();
    assert_eq!(store.files(), before);
    assert!(!held(&store, &hash));
    fs::remove_dir(&in_the_way).unwrap();
    assembly.finish().unwrap();
    assert_eq!(read_all(&store, &hash).unwrap(), data);
}

#[test]
fn an_index_that_met_a_full_disk_goes_on_when_there_is_room_again() {
    let store = Store::new();
    let hash = store.ingest_bytes(b"before").unwrap().hash;
    store.0.index.fail();
    assert!(held(&store, &hash));
    store.0.index.fail();
    store.ingest_bytes(b"after").unwrap();
}

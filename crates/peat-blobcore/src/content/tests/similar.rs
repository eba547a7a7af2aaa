//! Blobs that have something in common, and blobs that are put together.

use super::*;
use crate::content::{Draft, Pin, Recipe};

/// A blob, and another version of it.
fn versions(seed: u64, size: usize) -> (Vec<u8>, Vec<u8>) {
    let old = bytes(seed, size);
    let new = [&old[..size / 3], &bytes(seed + 1000, 30_000), &old[size / 3..]].concat();
    (old, new)
}

fn recipe(store: &Content, hash: &BlobHash) -> Recipe {
    store.recipe(hash).unwrap().expect("it has one")
}

/// Writes what of a blob is in a range of its chunks.
fn put(draft: &Draft, recipe: &Recipe, data: &[u8], chunks: Range<usize>) {
    let start = |chunk: usize| recipe.chunks()[..chunk].iter().map(|chunk| usize::from(chunk.length)).sum::<usize>();
    draft.write(start(chunks.start) as u64, &data[start(chunks.start)..start(chunks.end)]).unwrap();
}

#[test]
fn another_version_is_found_among_others_and_what_is_gone_is_not() {
    let (source, store) = (Store::new(), Store::new());
    let (old, new) = versions(40, 3_000_000);
    let new = source.ingest_bytes(&new).unwrap().hash;
    let outline = recipe(&source, &new).outline();
    assert!(!store.sketch(u64::MAX).unwrap(), "there is nothing yet");
    let kept = store.ingest_bytes(&old).unwrap().hash;
    store.ingest_bytes(&bytes(41, 3_000_000)).unwrap();
    store.ingest_bytes(&bytes(42, 500_000)).unwrap();
    assert_eq!(store.similar(&outline).unwrap(), [], "nobody has looked at it");
    assert!(!store.sketch(2_999_999).unwrap(), "more than may be looked at");
    assert!(store.sketch(u64::MAX).unwrap());
    assert_eq!(store.similar(&outline).unwrap(), [kept]);
    assert_eq!(store.files().iter().filter(|file| file.extension().is_some_and(|part| part == "recipe")).count(), 2);
    store.gc_all().unwrap();
    assert_eq!(store.similar(&outline).unwrap(), []);
    assert!(store.files().is_empty(), "{:?}", store.files());
    assert!(!store.sketch(u64::MAX).unwrap());
}

#[test]
fn a_recipe_is_kept_and_made_again_when_it_is_damaged_and_an_orphan_goes() {
    let mut store = Store::new();
    let hash = store.ingest_bytes(&bytes(43, 3_000_000)).unwrap().hash;
    let first = recipe(&store, &hash);
    let path = store.0.layout.recipe(&hash);
    flip(&path, 1000);
    assert_eq!(recipe(&store, &hash), first);
    assert_eq!(recipe(&store, &hash), Recipe::from_file(&fs::read(&path).unwrap(), &hash, 3_000_000).unwrap());
    let orphan = store.0.layout.recipe(&hash_of(b"gone"));
    fs::write(&orphan, b"").unwrap();
    store.crash();
    assert!(!orphan.exists());
    assert!(path.exists());
    assert!(store.check(&mut go_on).unwrap().is_clean());
    assert_eq!(store.recipe(&store.ingest_bytes(&bytes(44, 1 << 20)).unwrap().hash).unwrap(), None, "it is too small");
}

#[test]
fn a_draft_is_nothing_until_it_is_the_blob_and_then_all_of_it() {
    let (source, mut store) = (Store::new(), Store::new());
    let (_, new) = versions(45, 3_000_000);
    let (hash, size) = (hash_of(&new), new.len() as u64);
    let ingested = source.ingest_bytes(&new).unwrap();
    let recipe = recipe(&source, &hash);
    let half = recipe.chunks().len() / 2;
    {
        let assembly = store.assemble(&hash, size).unwrap();
        let draft = assembly.draft().unwrap();
        assert!(assembly.draft().is_none() && assembly.take(u64::MAX).is_none(), "all of it is taken");
        assert_eq!(draft.kept_recipe(), None);
        draft.keep_recipe(&recipe).unwrap();
        put(&draft, &recipe, &new, 0..half);
        assert_eq!((assembly.held(), store.held_ranges(&hash).unwrap()), (0, vec![]));
    }
    store.crash();
    let assembly = store.assemble(&hash, size).unwrap();
    let draft = assembly.draft().unwrap();
    assert_eq!(draft.kept_recipe().as_ref(), Some(&recipe));
    let have = draft.look(recipe.chunks()).unwrap();
    assert!(have[..half].iter().all(|have| *have) && !have[half..].iter().any(|have| *have), "what was written is there");
    put(&draft, &recipe, &new, half..recipe.chunks().len());
    assert!(draft.complete().unwrap());
    assert_eq!(assembly.finish().unwrap(), ingested, "with the right SHA-256");
    drop((draft, assembly));
    assert_eq!(read_all(&store, &hash).unwrap(), new);
    assert!(store.check(&mut go_on).unwrap().is_clean());
    assert_eq!(store.files().len(), 2, "{:?}", store.files());
}

#[test]
fn a_draft_that_is_not_the_blob_holds_nothing_and_there_is_no_other() {
    let (source, store) = (Store::new(), Store::new());
    let (_, new) = versions(47, 3_000_000);
    let (hash, size) = (hash_of(&new), new.len() as u64);
    source.ingest_bytes(&new).unwrap();
    let recipe = recipe(&source, &hash);
    let assembly = store.assemble(&hash, size).unwrap();
    let draft = assembly.draft().unwrap();
    draft.keep_recipe(&recipe).unwrap();
    put(&draft, &recipe, &new, 0..recipe.chunks().len());
    draft.write(1_000_000, b"lies").unwrap();
    assert!(!draft.complete().unwrap());
    drop(draft);
    assert_eq!(assembly.held(), 0);
    assert!(assembly.draft().is_none());
    assert!(!store.files().iter().any(|file| file.extension().is_some_and(|part| part == "recipe")));
    drop(assembly);
    assert_eq!(fetch(&source, &store, &hash, size).unwrap().1, size);
    assert_eq!(read_all(&store, &hash).unwrap(), new);
}

#[test]
fn a_draft_begins_only_where_nothing_is_held_and_goes_with_its_assembly() {
    let (source, store) = (Store::new(), Store::new());
    let data = bytes(48, 3_000_000);
    let (hash, size) = (source.ingest_bytes(&data).unwrap().hash, data.len() as u64);
    let assembly = store.assemble(&hash, size).unwrap();
    let taken = assembly.take(1).unwrap();
    assert!(assembly.draft().is_none(), "somebody fetches it");
    drop(taken);
    let draft = assembly.draft().unwrap();
    draft.keep_recipe(&recipe(&source, &hash)).unwrap();
    assembly.abandon().unwrap();
    assert!(matches!(draft.write(0, b"x"), Err(ContentError::Abandoned(_))));
    assert!(store.files().is_empty(), "{:?}", store.files());
    let assembly = store.assemble(&hash, size).unwrap();
    assembly.write_block(0..16_384, &source.encode_block(&hash, 0..16_384).unwrap()).unwrap();
    assert!(assembly.draft().is_none(), "some of it is held");
    assert!(store.assemble(&hash_of(b"small"), 100).unwrap().draft().is_none());
    store.pin(&Pin::User("x".into()), &[hash]).unwrap();
}

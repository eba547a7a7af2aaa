//! Where blobs are cut, what of it stays after an edit, and what comes from elsewhere.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::content::{Chunk, Cutter, RECIPE_SIZES, Recipe, Segment};

const SIZE: usize = 2_000_000;

fn cut(bytes: &[u8], step: usize) -> Vec<Chunk> {
    let mut cutter = Cutter::default();
    bytes.chunks(step).for_each(|some| cutter.push(some));
    cutter.finish()
}

fn recipe(bytes: &[u8]) -> Recipe {
    Recipe::of_chunks(cut(bytes, 1 << 20), bytes.len() as u64).unwrap()
}

fn total(chunks: &[Chunk]) -> usize {
    chunks.iter().map(|chunk| usize::from(chunk.length)).sum()
}

#[test]
fn where_a_blob_is_cut_never_changes() {
    // Nodes of different versions find chunks of each other by these, which another program has made of docs/format.md.
    let recipe = recipe(&bytes(1, SIZE));
    let lengths: Vec<u16> = recipe.chunks().iter().take(6).map(|chunk| chunk.length).collect();
    assert_eq!(lengths, [5802, 4586, 5524, 2830, 4204, 6125]);
    assert_eq!((recipe.chunks().len(), recipe.outline().len()), (428, 12));
    let first = Segment { chunks: 53, bytes: 259_183, hash: 0x42a9_0934_8ed4_5b76, hook: 0x46bd_7b26_7d21_3660 };
    assert_eq!(recipe.outline()[0], first);
}

#[test]
fn what_does_not_change_has_long_chunks_and_no_recipe_is_longer_than_it_may() {
    for data in [vec![0; SIZE], [1, 2, 3, 4, 5].repeat(SIZE / 5), bytes(2, SIZE), bytes(3, 700).repeat(SIZE / 700)] {
        let chunks = cut(&data, 1 << 20);
        assert_eq!(total(&chunks), data.len());
        if let Some(recipe) = Recipe::of_chunks(chunks, data.len() as u64) {
            let outline = recipe.outline();
            assert!(outline.len() as u64 <= Segment::most(data.len() as u64));
            let most = outline.len() * Segment::BYTES + recipe.chunks().len() * Chunk::BYTES;
            assert!(most * 100 <= data.len(), "{most} bytes of recipe");
        }
    }
}

#[test]
fn a_blob_has_a_recipe_only_of_its_size_and_within_the_limits() {
    let chunks = cut(&bytes(4, SIZE), 1 << 20);
    assert!(Recipe::of_chunks(chunks.clone(), SIZE as u64 + 1).is_none());
    assert!(Recipe::of_chunks(cut(&bytes(4, 1 << 20), 1 << 20), 1 << 20).is_none());
    assert!(Recipe::of_chunks(vec![Chunk { length: 1, hash: 0 }; SIZE], SIZE as u64).is_none());
    assert!(RECIPE_SIZES.contains(&(SIZE as u64)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_recipe_covers_its_blob_and_does_not_depend_on_how_the_bytes_come(
        seed in any::<u64>(), size in 1_048_577..SIZE, step in 1_usize..400_000,
    ) {
        let data = bytes(seed, size);
        let chunks = cut(&data, step);
        prop_assert_eq!(total(&chunks), size);
        let mut rest = &data[..];
        for chunk in &chunks {
            prop_assert!(chunk.is(rest.split_off(..usize::from(chunk.length)).unwrap()));
        }
        let recipe = Recipe::of_chunks(chunks.clone(), size as u64).unwrap();
        prop_assert_eq!(&recipe, &Recipe::of_chunks(cut(&data, 1 << 20), size as u64).unwrap());
        prop_assert_eq!(recipe.segments().flatten().copied().collect::<Vec<_>>(), chunks);
    }

    #[test]
    fn an_insertion_changes_the_chunks_and_the_segments_round_it_and_no_others(
        seed in any::<u64>(), at in 0..SIZE, inserted in 1_usize..40_000,
    ) {
        let old = bytes(seed, SIZE);
        let new = [&old[..at], &bytes(seed ^ 1, inserted), &old[at..]].concat();
        let (before, after) = (recipe(&old), recipe(&new));
        let known: BTreeSet<u64> = before.chunks().iter().map(|chunk| chunk.hash).collect();
        let fresh = after.chunks().iter().filter(|chunk| !known.contains(&chunk.hash));
        let fresh: usize = fresh.map(|chunk| usize::from(chunk.length)).sum();
        // The chunk that was cut in two, the last one of what was inserted, and seldom one until the cuts are the same again.
        prop_assert!(fresh <= inserted + 4 * 16_384, "{fresh} bytes for {inserted}");
        let known: BTreeSet<u64> = before.outline().iter().map(|segment| segment.hash).collect();
        let fresh = after.outline().iter().filter(|segment| !known.contains(&segment.hash)).count();
        prop_assert!(fresh <= 3 + inserted / 8_192, "{fresh} segments for {inserted}");
    }

    #[test]
    fn what_is_encoded_decodes_and_other_bytes_do_no_harm(
        seed in any::<u64>(), garbage in prop::collection::vec(any::<u8>(), 0..2100), at in any::<usize>(),
    ) {
        let (data, hash) = (bytes(seed, 1_100_000), hash_of(&seed.to_le_bytes()));
        let recipe = recipe(&data);
        let mut encoded = Vec::new();
        recipe.outline().into_iter().for_each(|segment| segment.encode(&mut encoded));
        prop_assert_eq!(Segment::decode_all(&encoded).unwrap(), recipe.outline());
        let mut file = recipe.to_file(&hash);
        prop_assert_eq!(Recipe::from_file(&file, &hash, 1_100_000), Some(recipe));
        prop_assert_eq!(Recipe::from_file(&file, &hash_of(b"other"), 1_100_000), None);
        let at = at % file.len();
        prop_assert_eq!(Recipe::from_file(&file[..at], &hash, 1_100_000), None);
        file[at] ^= 1;
        prop_assert_eq!(Recipe::from_file(&file, &hash, 1_100_000), None);
        if let Some(segments) = Segment::decode_all(&garbage) {
            prop_assert!(segments.iter().all(|segment| segment.chunks > 0 && segment.bytes > 0));
        }
        if let Some(chunks) = Chunk::decode_all(&garbage) {
            prop_assert!(chunks.iter().all(|chunk| (1..=16_384).contains(&chunk.length)));
        }
    }
}

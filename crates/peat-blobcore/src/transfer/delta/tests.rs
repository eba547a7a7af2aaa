//! A blob is what is copied and what is asked for, whatever was edited.

use std::collections::HashSet;

use proptest::prelude::*;

use super::fill::are;
use super::plan::{Copy, Finder, bytes_of, requests};
use crate::content::{Chunk, Cutter, Recipe, Segment};
use crate::network::wire::{MAX_BLOCK_BYTES, Runs};

fn bytes(seed: u64, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn cut(bytes: &[u8]) -> Vec<Chunk> {
    let mut cutter = Cutter::default();
    cutter.push(bytes);
    cutter.finish()
}

fn at(start: u64, length: u64) -> std::ops::Range<usize> {
    start as usize..(start + length) as usize
}

/// A blob put together from others; how many bytes were asked for, and of how many ranges.
fn put_together(new: &[u8], others: &[&[u8]]) -> (Vec<u8>, u64, usize) {
    let chunks = cut(new);
    let mut have = vec![false; chunks.len()];
    let mut finder = Finder::new(&chunks, &have);
    for (from, other) in others.iter().enumerate() {
        finder.offer(from, &cut(other));
    }
    let mut made = vec![0; new.len()];
    for Copy { from, offset, piece } in finder.copies(&chunks, &have) {
        assert!(piece.length <= MAX_BLOCK_BYTES);
        made[at(piece.at, piece.length)].copy_from_slice(&others[from][at(offset, piece.length)]);
        have[piece.chunks].fill(true);
    }
    let requests = requests(&chunks, &have);
    for request in &requests {
        assert!(request.len() <= Runs::MAX_RUNS && bytes_of(request) <= 256 * 1024);
        for piece in request {
            let came = &new[at(piece.at, piece.length)];
            assert!(are(&chunks[piece.chunks.clone()], came) && !are(&chunks[piece.chunks.clone()], &came[1..]));
            made[at(piece.at, piece.length)].copy_from_slice(came);
        }
    }
    (made, bytes_of(requests.iter().flatten()), requests.iter().map(Vec::len).sum())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn any_edits_are_made_up_for(
        seed in any::<u64>(),
        edits in prop::collection::vec((0_usize..600_000, 0_usize..20_000, 0_usize..20_000), 0..6),
    ) {
        let old = bytes(seed, 600_000);
        let mut new = old.clone();
        let mut inserted = 0;
        for (round, (at, removed, added)) in edits.iter().enumerate() {
            let at = at % new.len();
            let end = (at + removed).min(new.len());
            new.splice(at..end, bytes(seed ^ (round as u64 + 1), *added));
            inserted += added;
        }
        let (made, asked, _) = put_together(&new, &[&bytes(seed ^ 99, 100_000), &old]);
        prop_assert_eq!(made, new);
        prop_assert!(asked <= (inserted + edits.len() * 4 * 16_384) as u64, "{} for {}", asked, inserted);
    }
}

#[test]
fn twenty_insertions_into_64_mib_cost_little_more_than_what_is_new() {
    const SIZE: usize = 64 << 20;
    const NEW: usize = 33_554;
    let old = bytes(1, SIZE);
    let mut new = Vec::with_capacity(SIZE + 20 * NEW);
    for round in 0..20 {
        new.extend(&old[SIZE / 20 * round..SIZE / 20 * (round + 1)]);
        new.extend(bytes(round as u64 + 2, NEW));
    }
    new.extend(&old[SIZE / 20 * 20..]);
    let (made, asked, ranges) = put_together(&new, &[&old]);
    assert!(made == new);
    let (before, after) =
        (Recipe::of_chunks(cut(&old), SIZE as u64).unwrap(), Recipe::of_chunks(cut(&new), new.len() as u64).unwrap());
    let known: HashSet<u64> = before.outline().iter().map(|segment| segment.hash).collect();
    let told =
        after.outline().into_iter().filter(|segment| !known.contains(&segment.hash)).map(|segment| usize::from(segment.chunks));
    let recipe = after.outline().len() * Segment::BYTES + told.sum::<usize>() * Chunk::BYTES;
    let wire = asked as usize + recipe + ranges * 5;
    assert!(wire < 900 * 1024, "{asked} bytes in {ranges} ranges, {recipe} of recipe");
    assert!(recipe < 40 * 1024);
}

#[test]
fn two_blobs_one_after_the_other_are_copied_and_nothing_of_a_stranger_is() {
    let (one, other) = (bytes(1, 1_500_000), bytes(2, 1_200_000));
    let both = [one.as_slice(), &other].concat();
    let (made, asked, _) = put_together(&both, &[&other, &one]);
    assert!(made == both);
    assert!(asked <= 3 * 16_384, "{asked}");
    assert_eq!(put_together(&one, &[&other]).1, 1_500_000);
}

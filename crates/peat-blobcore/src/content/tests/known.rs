//! Blocks without the hashes that their receiver has.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::content::{Assembly, GROUP_BYTES, Known, Taken, tree};

/// A request: what is taken, and what was known of the hashes above it when it was made.
struct Request {
    taken: Taken,
    known: Known,
}

impl Request {
    fn new(assembly: &Assembly, taken: Taken) -> Self {
        let since = taken.range().start;
        Self { taken, known: Known { since, pairs: assembly.known_pairs(since) } }
    }

    /// Its blocks, of so many groups each.
    fn blocks(&self, groups: u64) -> impl Iterator<Item = Range<u64>> {
        let Range { start, end } = self.taken.range();
        (start..end).step_by((groups * GROUP_BYTES) as usize).map(move |at| at..(at + groups * GROUP_BYTES).min(end))
    }
}

/// Fetches all that is missing, from the first byte to the last, with so many requests of so many groups under way at once.
/// Returns the bytes of hashes that crossed, and how many requests there were.
fn hashes_of_fetch(from: &Content, assembly: &Assembly, under_way: usize, request: u64, block: u64) -> (u64, u64) {
    let (mut asked, mut crossed, mut requests) = (VecDeque::new(), 0, 0);
    loop {
        while asked.len() < under_way
            && let Some(taken) = assembly.take(request * GROUP_BYTES)
        {
            asked.push_back(Request::new(assembly, taken));
            requests += 1;
        }
        let Some(request) = asked.pop_front() else { return (crossed, requests) };
        for range in request.blocks(block) {
            let encoded = from.encode_block_below(&assembly.hash(), range.clone(), request.known).unwrap();
            crossed += encoded.len() as u64 - (range.end - range.start);
            assembly.write_block_below(range, request.known, &encoded).unwrap();
        }
    }
}

/// A blob of so many groups in a new store, and an assembly of it in another.
fn scene(groups: u64, rest: u64) -> (Store, Store, Assembly, Vec<u8>) {
    let (source, store) = (Store::new(), Store::new());
    let data = bytes(40, (groups * GROUP_BYTES + rest) as usize);
    let blob = source.ingest_bytes(&data).unwrap();
    let assembly = store.assemble(&blob.hash, blob.size).unwrap();
    (source, store, assembly, data)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn whatever_is_held_and_in_whatever_order_it_comes_it_is_verified_and_right(
        groups in 0_u64..150,
        rest in 1_u64..=GROUP_BYTES,
        held in prop::collection::vec((0_u64..150, 1_u64..=4), 0..8),
        steps in prop::collection::vec((0_u32..6, 0_u64..5, 0_u64..4, any::<usize>(), 1_u8..=255), 1..120),
    ) {
        let (source, store, assembly, data) = scene(groups, rest);
        let hash = assembly.hash();
        for (start, length) in held {
            let start = start % (groups + 1);
            let range = start * GROUP_BYTES..((start + length) * GROUP_BYTES).min(assembly.size());
            assembly.write_block(range.clone(), &source.encode_block(&hash, range).unwrap()).unwrap();
        }
        let mut asked: Vec<Request> = Vec::new();
        for (action, request, block, at, change) in steps {
            if action < 3 {
                asked.extend(assembly.take(GROUP_BYTES << request).map(|taken| Request::new(&assembly, taken)));
                continue;
            }
            if asked.is_empty() {
                continue;
            }
            let request = asked.swap_remove(at % asked.len());
            for range in request.blocks(1 << block) {
                let encoded = source.encode_block_below(&hash, range.clone(), request.known).unwrap();
                let mut altered = encoded.clone();
                altered[at % encoded.len()] ^= change;
                let before = assembly.held_ranges();
                for wrong in [&encoded[..at % encoded.len()], &altered, &[&encoded[..], &[change]].concat()] {
                    let refused = assembly.write_block_below(range.clone(), request.known, wrong);
                    prop_assert!(matches!(refused, Err(ContentError::Corrupt(_))));
                }
                prop_assert_eq!(before, assembly.held_ranges());
                assembly.write_block_below(range, request.known, &encoded).unwrap();
            }
        }
        drop(asked);
        hashes_of_fetch(&source, &assembly, 3, 16, 2);
        assembly.finish().unwrap();
        prop_assert_eq!(read_all(&store, &hash).unwrap(), data);
        prop_assert!(store.check(&mut go_on).unwrap().is_clean());
    }

    #[test]
    fn no_hash_comes_twice_but_for_those_above_several_requests_under_way(
        groups in 1_u64..400,
        rest in 1_u64..=GROUP_BYTES,
        request in 0_u64..5,
        block in 0_u64..4,
    ) {
        let outboard = tree::outboard_bytes(groups * GROUP_BYTES + rest);
        let fetch = |under_way| {
            let (source, _store, assembly, _) = scene(groups, rest);
            let crossed = hashes_of_fetch(&source, &assembly, under_way, 1 << request, 1 << block);
            assembly.finish().unwrap();
            crossed
        };
        let (one, _) = fetch(1);
        prop_assert!(one <= outboard, "{one} of {outboard}");
        let (four, requests) = fetch(4);
        prop_assert!(four <= outboard + 3 * requests * tree::PAIR_BYTES as u64, "{four} of {outboard} with {requests} requests");
    }
}

#[test]
fn a_fetch_of_four_megabytes_brings_half_a_per_cent_of_hashes_at_most() {
    // With eight blocks in each of four requests under way, as over a thin link.
    for (block, most) in [(1, 20_000), (2, 10_000)] {
        let (source, _store, assembly, data) = scene(4_000_000 / GROUP_BYTES, 4_000_000 % GROUP_BYTES);
        let (crossed, _) = hashes_of_fetch(&source, &assembly, 4, 8 * block, block);
        assert!(crossed < most && crossed * 200 < data.len() as u64, "{crossed} bytes of hashes");
    }
}

#[test]
fn a_known_hash_that_is_not_right_on_the_disk_is_found_and_what_is_below_it_comes_again() {
    let (source, store, assembly, data) = scene(64, 1);
    let (hash, size) = (assembly.hash(), assembly.size());
    let first = 0..4 * GROUP_BYTES;
    assembly.write_block(first.clone(), &source.encode_block(&hash, first).unwrap()).unwrap();
    let taken = assembly.take(4 * GROUP_BYTES).unwrap();
    let request = Request::new(&assembly, taken);
    assert!(request.known.pairs > 2);
    flip(&store.dir.path().join(format!("assemblies/{hash}-{size}.outboard")), tree::PAIR_BYTES);
    let range = request.taken.range();
    let encoded = source.encode_block_below(&hash, range.clone(), request.known).unwrap();
    assert!(matches!(assembly.write_block_below(range, request.known, &encoded), Err(ContentError::Damaged(_))));
    drop(request);
    assert_eq!(assembly.held(), 0);
    assert_eq!(assembly.known_pairs(0), 0);
    hashes_of_fetch(&source, &assembly, 4, 16, 4);
    assembly.finish().unwrap();
    assert_eq!(read_all(&store, &hash).unwrap(), data);
}

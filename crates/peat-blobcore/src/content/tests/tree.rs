//! Our trees and encodings are those of the `bao-tree` crate.

use bao_tree::io::outboard::PreOrderMemOutboard;
use bao_tree::io::sync::encode_ranges_validated;
use bao_tree::{BlockSize, ChunkNum, ChunkRanges};
use proptest::prelude::*;

use super::*;
use crate::content::{GROUP_BYTES, Known, tree};

const GROUP: BlockSize = BlockSize::from_chunk_log(4);

fn build(data: &[u8]) -> (tree::Node, Vec<u8>) {
    let mut outboard = vec![0; tree::outboard_bytes(data.len() as u64) as usize];
    let mut rest = data;
    let mut next = |length| {
        let (next, left) = rest.split_at(length);
        rest = left;
        Ok::<_, ()>(Arc::new(next.to_vec()))
    };
    let mut write = |at: u64, pairs: &[u8]| {
        outboard[at as usize..at as usize + pairs.len()].copy_from_slice(pairs);
        Ok(())
    };
    let hash = tree::build(data.len() as u64, &mut next, &mut write).unwrap();
    (hash, outboard)
}

#[test]
fn outboards_are_those_of_bao_tree() {
    let group = GROUP_BYTES as usize;
    for size in
        [0, 1, 1024, group, group + 1, 2 * group, 3 * group - 1, 64 * group, 64 * group + 1, 65 * group + 7, 200 * group + 1023]
    {
        let data = bytes(1, size);
        let theirs = PreOrderMemOutboard::create(&data, GROUP);
        let (hash, outboard) = build(&data);
        assert_eq!(hash, *theirs.root.as_bytes(), "{size}");
        assert_eq!(outboard, theirs.data, "{size}");
    }
}

/// What of a bao slice with groups of 16 KiB is in a block: the pairs below which the slice has not everything, and the bytes.
fn block_of_slice(first: u64, count: u64, range: &Range<u64>, size: u64, slice: &mut &[u8], block: &mut Vec<u8>) {
    if first + count <= range.start || range.end <= first {
        return;
    }
    if count == 1 {
        let bytes = tree::bytes_of(&(first..first + 1), size);
        block.extend_from_slice(slice.split_off(..(bytes.end - bytes.start) as usize).unwrap());
        return;
    }
    let pair = slice.split_off(..tree::PAIR_BYTES).unwrap();
    if first < range.start || range.end < first + count {
        block.extend_from_slice(pair);
    }
    let left = count.next_power_of_two() / 2;
    block_of_slice(first, left, range, size, slice, block);
    block_of_slice(first + left, count - left, range, size, slice, block);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn blocks_are_slices_of_bao_tree_without_what_follows_from_the_bytes_and_decode_to_the_data(groups in 0_u64..150, rest in 1_u64..=GROUP_BYTES, start in 0_u64..150, length in 1_u64..64) {
        let size = groups * GROUP_BYTES + rest;
        let data = bytes(2, size as usize);
        let store = Store::new();
        let hash = store.ingest_bytes(&data).unwrap().hash;
        let start = start % (groups + 1);
        let range = start..(start + length).min(groups + 1);
        let at = tree::bytes_of(&range, size);
        let ours = store.encode_block(&hash, at.clone()).unwrap();

        let outboard = PreOrderMemOutboard::create(&data, GROUP);
        let chunks = ChunkRanges::from(ChunkNum(range.start * 16)..ChunkNum(range.end * 16));
        let (mut slice, mut theirs) = (Vec::new(), Vec::new());
        encode_ranges_validated(data.as_slice(), &outboard, &chunks, &mut slice).unwrap();
        block_of_slice(0, groups + 1, &range, size, &mut slice.as_slice(), &mut theirs);
        prop_assert_eq!(&ours, &theirs);

        let decoded = tree::decode(hash.as_bytes(), size, &range, Known::NOTHING, None, &ours).unwrap();
        prop_assert_eq!(decoded.data.concat(), &data[at.start as usize..at.end as usize]);
        for (at, pairs) in &decoded.pairs {
            prop_assert_eq!(pairs.as_slice(), &outboard.data[*at as usize..*at as usize + pairs.len()]);
        }
    }
}

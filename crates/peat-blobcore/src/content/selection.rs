//! Any chunks of a blob, encoded as stock iroh-blobs clients ask for them: by chunks of 1 KiB, where our own requests are by
//! whole groups. A piece at a time, so that no blob is in memory whole; like all that goes out, held against the blob's hash.

use std::ops::Range;

use super::tree::{GroupRange, Mismatch, Node, PAIR_BYTES, Pair, Subtree, Visitor, groups, pair_hash, part_hash};
use super::{BlobReader, ContentError, GROUP_BYTES};

/// Bytes of a chunk, the leaf of a BLAKE3 tree.
const CHUNK_BYTES: u64 = 1024;
const CHUNKS_A_GROUP: u64 = GROUP_BYTES / CHUNK_BYTES;
/// Groups that are encoded at a time.
const PIECE_GROUPS: u64 = 16;

/// Which chunks of a blob, as the numbers at which it turns from no to yes and back. What is behind the end of a blob stands
/// for its last chunk, which proves its size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunks(Vec<u64>);

impl Chunks {
    /// From where it turns, in ascending order; `None` if it is in another.
    #[must_use]
    pub fn new(turns: Vec<u64>) -> Option<Self> {
        turns.is_sorted_by(|a, b| a < b).then_some(Self(turns))
    }

    /// Whether it is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What it comes to for a blob of so many chunks: as `bao-tree` has it, nothing is behind the last one, and what reaches
    /// over it has it.
    fn within(&self, count: u64) -> Selection<'_> {
        let last = count.saturating_sub(1);
        let turns = match self.0.binary_search(&last) {
            Ok(at) if at % 2 == 0 => at + 1,
            Ok(at) if at + 1 == self.0.len() => at + 1,
            Ok(at) => at,
            Err(at) if at % 2 == 0 => (at + 1).min(self.0.len()),
            Err(at) => at,
        };
        Selection { turns: &self.0[..turns], count }
    }
}

/// What is wanted of a blob of a known size.
struct Selection<'a> {
    turns: &'a [u64],
    /// Chunks of the blob.
    count: u64,
}

impl Selection<'_> {
    /// Whether some of these chunks are wanted, and whether all of them are.
    fn of(&self, range: &Range<u64>) -> (bool, bool) {
        if range.is_empty() {
            return (false, true);
        }
        let last = if range.end >= self.count { u64::MAX } else { range.end - 1 };
        let before = self.turns.partition_point(|turn| *turn <= range.start);
        let turns = self.turns.get(before).is_some_and(|next| *next <= last);
        let begins = before % 2 == 1;
        (begins || turns, begins && !turns)
    }

    fn any_group(&self, groups: &GroupRange) -> bool {
        self.of(&(groups.start * CHUNKS_A_GROUP..groups.end.saturating_mul(CHUNKS_A_GROUP))).0
    }

    /// Encodes what is wanted of a part of a group and returns its hash: the hashes on the way to what is wanted and then that,
    /// in pre-order, but no hashes within what is wanted whole.
    fn encode(&self, first: u64, bytes: &[u8], root: bool, encoded: &mut Vec<u8>) -> Node {
        let range = first..first + (bytes.len() as u64).div_ceil(CHUNK_BYTES);
        let (some, all) = self.of(&range);
        if bytes.len() as u64 <= CHUNK_BYTES {
            if some {
                encoded.extend_from_slice(bytes);
            }
            return part_hash(first * CHUNK_BYTES, bytes, root);
        }
        let half = (range.end - range.start).next_power_of_two() / 2;
        let (left, right) = bytes.split_at((half * CHUNK_BYTES) as usize);
        let at = (some && !all).then_some(encoded.len());
        let mut pair = [0; PAIR_BYTES];
        encoded.extend_from_slice(if at.is_some() { &pair } else { &[] });
        pair[..32].copy_from_slice(&self.encode(first, left, false, encoded));
        pair[32..].copy_from_slice(&self.encode(first + half, right, false, encoded));
        if let Some(at) = at {
            encoded[at..at + PAIR_BYTES].copy_from_slice(&pair);
        }
        pair_hash(&pair, root)
    }
}

impl BlobReader {
    /// Encodes the next piece of what is wanted, from group `from` on, and says which group comes after it; `None` when there is
    /// no more. The pieces one after the other are the encoding of `bao-tree` with groups of 16 KiB.
    ///
    /// # Errors
    /// `Damaged` when the bytes are not what they were; the blob is marked then.
    pub fn encode_chunks(&self, chunks: &Chunks, from: u64) -> Result<Option<(Vec<u8>, u64)>, ContentError> {
        let selection = chunks.within(self.size().div_ceil(CHUNK_BYTES));
        let (end, mut start) = (groups(self.size()), from);
        while start < end {
            let piece = start..(start + PIECE_GROUPS).min(end);
            if selection.any_group(&piece) {
                let mut encoder = Encoder { selection: &selection, piece, encoded: Vec::new() };
                self.visit(&mut encoder)?;
                return Ok(Some((encoder.encoded, encoder.piece.end)));
            }
            start = piece.end;
        }
        Ok(None)
    }
}

struct Encoder<'a> {
    selection: &'a Selection<'a>,
    piece: GroupRange,
    encoded: Vec<u8>,
}

impl Visitor for Encoder<'_> {
    fn wants(&self, groups: &GroupRange) -> bool {
        let here = groups.start.max(self.piece.start)..groups.end.min(self.piece.end);
        here.start < here.end && self.selection.any_group(&here)
    }

    fn pair(&mut self, tree: Subtree, pair: &Pair) {
        // With the first piece that has something of this subtree, and not again with the later ones.
        let GroupRange { start, end } = tree.groups();
        if !self.selection.any_group(&(start..self.piece.start.min(end))) {
            self.encoded.extend_from_slice(pair);
        }
    }

    fn group(&mut self, group: u64, bytes: &[u8]) {
        let first = group * CHUNKS_A_GROUP;
        let root = group == 0 && self.selection.count <= CHUNKS_A_GROUP;
        if self.selection.of(&(first..first + (bytes.len() as u64).div_ceil(CHUNK_BYTES))).1 {
            self.encoded.extend_from_slice(bytes);
        } else {
            self.selection.encode(first, bytes, root, &mut self.encoded);
        }
    }

    fn bad(&mut self, _groups: &GroupRange) -> Result<(), Mismatch> {
        Err(Mismatch)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bao_tree::io::outboard::PreOrderMemOutboard;
    use bao_tree::io::sync::encode_ranges_validated;
    use bao_tree::{BlockSize, ChunkNum, ChunkRanges};
    use proptest::prelude::*;

    use super::*;
    use crate::clock::SystemClock;
    use crate::content::{Content, Options};

    fn theirs(data: &[u8], turns: &[u64]) -> Vec<u8> {
        let mut ranges = ChunkRanges::empty();
        for turn in turns.chunks(2) {
            ranges |= match *turn {
                [from, to] => ChunkRanges::from(ChunkNum(from)..ChunkNum(to)),
                _ => ChunkRanges::from(ChunkNum(turn[0])..),
            };
        }
        let outboard = PreOrderMemOutboard::create(data, BlockSize::from_chunk_log(4));
        let mut encoded = Vec::new();
        encode_ranges_validated(data, &outboard, &ranges, &mut encoded).expect("encodes");
        encoded
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn pieces_together_are_what_bao_tree_encodes(
            size in prop_oneof![0..3_000_usize, 15_000..18_000_usize, 0..900_000_usize],
            mut turns in prop::collection::vec(prop_oneof![0..20_u64, 0..1_000_u64, Just(u64::MAX)], 0..6),
        ) {
            turns.sort_unstable();
            turns.dedup();
            let data: Vec<u8> = (0..size).map(|at| (at / 7 % 251) as u8).collect();
            let directory = tempfile::tempdir().expect("a temporary directory");
            let content = Content::open(directory.path(), Options::default(), Arc::new(SystemClock)).expect("opens");
            let reader = content.open_blob(&content.ingest_bytes(&data).expect("taken in").hash).expect("held");
            let chunks = Chunks::new(turns.clone()).expect("ascending");
            let (mut ours, mut from) = (Vec::new(), 0);
            while let Some((piece, next)) = reader.encode_chunks(&chunks, from).expect("reads") {
                prop_assert!(piece.len() as u64 <= (PIECE_GROUPS + 3) * GROUP_BYTES);
                ours.extend(piece);
                from = next;
            }
            prop_assert!(ours == theirs(&data, &turns), "{size} bytes, {turns:?}");
        }
    }

    #[test]
    fn turns_out_of_order_are_no_chunks() {
        assert_eq!(Chunks::new(vec![3, 3]), None);
        assert_eq!(Chunks::new(vec![3, 2]), None);
        assert!(Chunks::new(Vec::new()).expect("none").is_empty());
    }
}

//! The BLAKE3 tree of a blob down to groups of 16 KiB: the one place where bytes are hashed and held against a hash.
//!
//! An outboard is the hash pairs of the tree's inner nodes in pre-order, 64 bytes each (the layout and the encoding of the
//! `bao-tree` crate with chunk groups of 16 KiB; tests hold ours against it). Nothing here trusts a byte that it has read.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use blake3::hazmat::{HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};

use super::GROUP_BYTES;

/// A hash within the tree: a chaining value, or the blob's hash at the root.
pub(super) type Node = [u8; 32];
/// The hashes of a node's two children.
pub(super) type Pair = [u8; PAIR_BYTES];
/// Bytes of a [`Pair`].
pub(super) const PAIR_BYTES: usize = 64;
/// Groups that are hashed in one go: their pairs are contiguous in the outboard, and are written together.
const RUN_GROUPS: u64 = super::MAX_BLOCK_BYTES / GROUP_BYTES;
/// How much of an outboard is read at a time.
const WINDOW_BYTES: usize = 8 * 1024;

/// Groups in a row.
pub(super) type GroupRange = Range<u64>;

/// Bytes were not what the hash says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mismatch;

/// Which of the pairs above a block its receiver has, so that they are left out of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// The offset at which the answer begins that the block is part of, a multiple of [`super::GROUP_BYTES`]: what is above
    /// both the block and the bytes from there to it came with those. At the block's own start, or after it, nothing did.
    pub since: u64,
    /// Pairs from the root on, on the way to the group at [`Known::since`], that the receiver had before the answer.
    pub pairs: u8,
}

impl Known {
    /// None: the block stands by itself.
    pub const NOTHING: Self = Self { since: u64::MAX, pairs: 0 };
}

/// How many groups a blob of this size has; an empty one has none.
pub(super) const fn groups(size: u64) -> u64 {
    size.div_ceil(GROUP_BYTES)
}

/// The bytes that groups of a blob of this size cover.
pub(super) fn bytes_of(groups: &Range<u64>, size: u64) -> Range<u64> {
    (groups.start * GROUP_BYTES).min(size)..groups.end.saturating_mul(GROUP_BYTES).min(size)
}

/// The groups that a range of bytes touches.
pub(super) fn covering(bytes: &Range<u64>) -> GroupRange {
    bytes.start / GROUP_BYTES..groups(bytes.end)
}

/// Bytes of the outboard of a blob of this size.
pub(super) const fn outboard_bytes(size: u64) -> u64 {
    groups(size).saturating_sub(1) * PAIR_BYTES as u64
}

/// Some subtree: which groups it covers, the place of its pair in the outboard, and how many pairs are above it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subtree {
    first: u64,
    count: u64,
    pair: u64,
    depth: u8,
}

impl Subtree {
    const fn root(size: u64) -> Self {
        Self { first: 0, count: groups(size), pair: 0, depth: 0 }
    }

    /// The children: the left one has the greatest power of two of groups that leaves some for the right one (BLAKE3
    /// paper, section 2.1).
    const fn split(self) -> (Self, Self) {
        let (left, depth) = (self.count.next_power_of_two() / 2, self.depth + 1);
        (
            Self { first: self.first, count: left, pair: self.pair + 1, depth },
            Self { first: self.first + left, count: self.count - left, pair: self.pair + left, depth },
        )
    }

    pub(super) const fn groups(self) -> Range<u64> {
        self.first..self.first + self.count
    }

    /// Whether a block of this range brings all of it, so that its pairs follow from the bytes.
    const fn is_within(self, range: &GroupRange) -> bool {
        range.start <= self.first && self.first + self.count <= range.end
    }

    /// Whether the pair of this subtree, which a block of this range touches, is in the block.
    pub(super) const fn is_carried(self, range: &GroupRange, known: Known) -> bool {
        let (since, end) = (known.since / GROUP_BYTES, self.first + self.count);
        let came_before = self.first < range.start && since < range.start && since < end;
        let was_there = self.depth < known.pairs && self.first <= since && since < end;
        !(self.is_within(range) || came_before || was_there)
    }
}

/// How many pairs from the root on, on the way to a group, are above a group that `is_held` finds among those it is asked of.
pub(super) fn pairs_above(group: u64, size: u64, is_held: impl Fn(&GroupRange) -> bool) -> u8 {
    let mut tree = Subtree::root(size);
    while tree.count > 1 && is_held(&tree.groups()) {
        let (left, right) = tree.split();
        tree = if group < right.first { left } else { right };
    }
    tree.depth
}

fn group_hash(group: u64, bytes: &[u8], root: bool) -> Node {
    part_hash(group * GROUP_BYTES, bytes, root)
}

/// The hash of a group, or of a part of one that is a subtree of its own.
pub(super) fn part_hash(offset: u64, bytes: &[u8], root: bool) -> Node {
    if root {
        return *blake3::hash(bytes).as_bytes();
    }
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(offset);
    hasher.update(bytes).finalize_non_root()
}

pub(super) fn pair_hash(pair: &Pair, root: bool) -> Node {
    let (left, right) = halves(pair);
    if root {
        *merge_subtrees_root(&left, &right, Mode::Hash).as_bytes()
    } else {
        merge_subtrees_non_root(&left, &right, Mode::Hash)
    }
}

fn halves(pair: &Pair) -> (Node, Node) {
    let (left, right) = pair.split_at(PAIR_BYTES / 2);
    (left.try_into().expect("half a pair is a node"), right.try_into().expect("half a pair is a node"))
}

/// Gives the next so many bytes of a blob; shared, since another hash may still be at them.
pub(super) type Next<'a, E> = dyn FnMut(usize) -> Result<Arc<Vec<u8>>, E> + 'a;
/// Writes bytes at an offset.
pub(super) type WriteAt<'a, E> = dyn FnMut(u64, &[u8]) -> Result<(), E> + 'a;

/// Hashes `size` bytes, which `next` gives in order (asked for at most 1 MiB at a time), and hands runs of the outboard to
/// `outboard` with their offsets. Returns the blob's hash.
///
/// # Errors
/// What `next` or `outboard` failed with.
pub(super) fn build<E>(size: u64, next: &mut Next<'_, E>, outboard: &mut WriteAt<'_, E>) -> Result<Node, E> {
    if size == 0 {
        return Ok(*blake3::hash(&[]).as_bytes());
    }
    build_subtree(Subtree::root(size), true, size, next, outboard)
}

fn build_subtree<E>(
    tree: Subtree,
    root: bool,
    size: u64,
    next: &mut Next<'_, E>,
    outboard: &mut WriteAt<'_, E>,
) -> Result<Node, E> {
    let offset = tree.pair * PAIR_BYTES as u64;
    if tree.count <= RUN_GROUPS {
        let bytes = bytes_of(&tree.groups(), size);
        let data = next(usize::try_from(bytes.end - bytes.start).expect("a run is at most 1 MiB"))?;
        let mut pairs = Vec::with_capacity(RUN_GROUPS as usize * PAIR_BYTES);
        let hash = hash_run(tree, root, &data, &mut pairs);
        if !pairs.is_empty() {
            outboard(offset, &pairs)?;
        }
        return Ok(hash);
    }
    let (left, right) = tree.split();
    let mut pair = [0; PAIR_BYTES];
    pair[..32].copy_from_slice(&build_subtree(left, false, size, next, outboard)?);
    pair[32..].copy_from_slice(&build_subtree(right, false, size, next, outboard)?);
    outboard(offset, &pair)?;
    Ok(pair_hash(&pair, root))
}

/// Hashes a subtree that is in memory and appends its pairs in pre-order.
fn hash_run(tree: Subtree, root: bool, data: &[u8], pairs: &mut Vec<u8>) -> Node {
    if tree.count == 1 {
        return group_hash(tree.first, data, root);
    }
    let at = pairs.len();
    pairs.resize(at + PAIR_BYTES, 0);
    let (left, right) = tree.split();
    let (left_data, right_data) = data.split_at((left.count * GROUP_BYTES) as usize);
    let mut pair = [0; PAIR_BYTES];
    pair[..32].copy_from_slice(&hash_run(left, false, left_data, pairs));
    pair[32..].copy_from_slice(&hash_run(right, false, right_data, pairs));
    pairs[at..at + PAIR_BYTES].copy_from_slice(&pair);
    pair_hash(&pair, root)
}

/// What is done with the parts of a tree, once they are verified.
pub(super) trait Visitor {
    /// Whether any of these groups is of interest.
    fn wants(&self, groups: &Range<u64>) -> bool;
    /// The pair of a subtree with something wanted.
    fn pair(&mut self, _tree: Subtree, _pair: &Pair) {}
    /// A wanted group.
    fn group(&mut self, _group: u64, _bytes: &[u8]) {}
    /// These groups cannot be verified: their bytes, or the hashes above them, are wrong or unreadable.
    ///
    /// # Errors
    /// [`Mismatch`] to end the walk.
    fn bad(&mut self, groups: &Range<u64>) -> Result<(), Mismatch>;
}

/// A blob's data with its outboard, in two files of which nothing is trusted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stored<'a> {
    pub(super) hash: &'a Node,
    pub(super) size: u64,
    pub(super) data: &'a File,
    pub(super) outboard: &'a File,
}

impl Stored<'_> {
    /// Reads and verifies what the visitor wants, in order.
    ///
    /// # Errors
    /// [`Mismatch`] when the visitor ended the walk.
    pub(super) fn walk(&self, visitor: &mut dyn Visitor) -> Result<(), Mismatch> {
        if self.size == 0 {
            let empty = *self.hash == *blake3::hash(&[]).as_bytes();
            return if empty { Ok(()) } else { visitor.bad(&(0..0)) };
        }
        let mut walk = Walk { stored: self, pairs: Window::default(), group: vec![0; GROUP_BYTES as usize], visitor };
        walk.subtree(Subtree::root(self.size), true, self.hash)
    }
}

struct Walk<'a> {
    stored: &'a Stored<'a>,
    pairs: Window,
    group: Vec<u8>,
    visitor: &'a mut dyn Visitor,
}

impl Walk<'_> {
    fn subtree(&mut self, tree: Subtree, root: bool, expected: &Node) -> Result<(), Mismatch> {
        let groups = tree.groups();
        if !self.visitor.wants(&groups) {
            return Ok(());
        }
        if tree.count == 1 {
            let bytes = bytes_of(&groups, self.stored.size);
            let group = &mut self.group[..(bytes.end - bytes.start) as usize];
            let read = self.stored.data.read_exact_at(group, bytes.start);
            if read.is_err() || group_hash(tree.first, group, root) != *expected {
                return self.visitor.bad(&groups);
            }
            self.visitor.group(tree.first, group);
            return Ok(());
        }
        let pair = match self.pairs.read(self.stored.outboard, tree.pair) {
            Some(pair) if pair_hash(&pair, root) == *expected => pair,
            _ => return self.visitor.bad(&groups),
        };
        self.visitor.pair(tree, &pair);
        let (left, right) = tree.split();
        let (left_hash, right_hash) = halves(&pair);
        self.subtree(left, false, &left_hash)?;
        self.subtree(right, false, &right_hash)
    }
}

/// The part of an outboard that was read last: a walk goes through it in order.
#[derive(Default)]
struct Window {
    start: u64,
    bytes: Vec<u8>,
}

impl Window {
    fn read(&mut self, outboard: &File, pair: u64) -> Option<Pair> {
        let offset = pair * PAIR_BYTES as u64;
        let end = offset + PAIR_BYTES as u64;
        if offset < self.start || end > self.start + self.bytes.len() as u64 {
            self.start = offset;
            self.bytes.resize(WINDOW_BYTES, 0);
            let read = outboard.read_at(&mut self.bytes, offset).unwrap_or(0);
            self.bytes.truncate(read);
        }
        let at = usize::try_from(offset - self.start).ok()?;
        self.bytes.get(at..at + PAIR_BYTES)?.try_into().ok()
    }
}

/// An encoded range whose every byte was verified: what to write where.
#[derive(Debug, Default)]
pub(super) struct Decoded<'a> {
    /// Runs of the outboard with their offsets.
    pub(super) pairs: Vec<(u64, Vec<u8>)>,
    /// The groups' bytes in order.
    pub(super) data: Vec<&'a [u8]>,
}

/// Why an encoded range is refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// A byte is wrong, missing or left over.
    Encoded,
    /// The pair above these groups, which the receiver is to have, is not there.
    Known(GroupRange),
}

/// Verifies an encoded range of groups against the blob's hash. `outboard` gives what the receiver has written of the pairs that
/// were left out; like everything else it is held against the hashes above it.
///
/// # Errors
/// [`Refused`].
pub(super) fn decode<'a>(
    hash: &Node,
    size: u64,
    range: &GroupRange,
    known: Known,
    outboard: Option<&File>,
    encoded: &'a [u8],
) -> Result<Decoded<'a>, Refused> {
    let mut decoding = Decoding { size, range, known, outboard, encoded, decoded: Decoded::default() };
    decoding.subtree(Subtree::root(size), true, hash)?;
    if decoding.encoded.is_empty() { Ok(decoding.decoded) } else { Err(Refused::Encoded) }
}

struct Decoding<'a, 'b> {
    size: u64,
    range: &'b GroupRange,
    known: Known,
    outboard: Option<&'b File>,
    encoded: &'a [u8],
    decoded: Decoded<'a>,
}

impl<'a> Decoding<'a, '_> {
    fn subtree(&mut self, tree: Subtree, root: bool, expected: &Node) -> Result<(), Refused> {
        let groups = tree.groups();
        if groups.end <= self.range.start || self.range.end <= groups.start {
            return Ok(());
        }
        if tree.is_within(self.range) {
            return self.bytes(tree, root, expected);
        }
        let pair = if tree.is_carried(self.range, self.known) {
            let pair = *self.take(PAIR_BYTES as u64)?.first_chunk().ok_or(Refused::Encoded)?;
            if pair_hash(&pair, root) != *expected {
                return Err(Refused::Encoded);
            }
            self.keep(tree.pair, &pair);
            pair
        } else {
            let mut pair = [0; PAIR_BYTES];
            let read = self.outboard.is_some_and(|file| file.read_exact_at(&mut pair, tree.pair * PAIR_BYTES as u64).is_ok());
            if !read || pair_hash(&pair, root) != *expected {
                return Err(Refused::Known(groups));
            }
            pair
        };
        let (left, right) = tree.split();
        let (left_hash, right_hash) = halves(&pair);
        self.subtree(left, false, &left_hash)?;
        self.subtree(right, false, &right_hash)
    }

    /// A subtree of which all bytes are here: its pairs follow from them.
    fn bytes(&mut self, tree: Subtree, root: bool, expected: &Node) -> Result<(), Refused> {
        let bytes = bytes_of(&tree.groups(), self.size);
        let data = self.take(bytes.end - bytes.start)?;
        let mut pairs = Vec::with_capacity((tree.count as usize - 1) * PAIR_BYTES);
        if hash_run(tree, root, data, &mut pairs) != *expected {
            return Err(Refused::Encoded);
        }
        self.decoded.data.push(data);
        self.keep(tree.pair, &pairs);
        Ok(())
    }

    fn take(&mut self, bytes: u64) -> Result<&'a [u8], Refused> {
        let bytes = usize::try_from(bytes).map_err(|_| Refused::Encoded)?;
        self.encoded.split_off(..bytes).ok_or(Refused::Encoded)
    }

    /// Notes pairs that follow each other in the outboard.
    fn keep(&mut self, pair: u64, pairs: &[u8]) {
        let offset = pair * PAIR_BYTES as u64;
        match self.decoded.pairs.last_mut() {
            Some((start, run)) if *start + run.len() as u64 == offset => run.extend_from_slice(pairs),
            _ if pairs.is_empty() => {}
            _ => self.decoded.pairs.push((offset, pairs.to_vec())),
        }
    }
}

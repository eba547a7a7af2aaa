//! The recipe of a blob: where content-defined chunking cuts it, and a short hash of each chunk. So two nodes find out what
//! of a blob one of them has in others. Pure; all who make a blob's recipe make the same one.
//!
//! Chunks are cut by a gear hash with normalised sizes (FastCDC: Xia et al., USENIX ATC 2016, without its rolling two bytes).
//! Some tens of chunks are a segment, which ends at a chunk whose hash says so; the **outline** of a recipe is its segments.
//! A short hash tells where to look, and nothing more: what is put together by a recipe is held against the blob's hash.

use std::ops::RangeInclusive;
use std::sync::LazyLock;

use super::MAX_BLOCK_BYTES;
use crate::model::BlobHash;

/// The sizes in bytes of the blobs that have recipes: a smaller one is fetched at once, a larger one's takes too much memory.
pub const RECIPE_SIZES: RangeInclusive<u64> = MAX_BLOCK_BYTES + 1..=4 * 1024 * 1024 * 1024;

/// The shortest chunk that is not a blob's last, the length from which on it is cut more easily, and the longest.
const MIN_BYTES: usize = 1024;
const NORMAL_BYTES: usize = 4096;
const MAX_BYTES: usize = 16 * 1024;
/// Before the normal length a cut is where these many high bits of the gear hash are zero, then where these are.
const STRICT_BITS: u32 = 14;
const EASY_BITS: u32 = 10;
/// Chunks of a segment: it ends, when it has the least, with a chunk whose hash has these low bits zero.
const MIN_CHUNKS: usize = 8;
const MAX_CHUNKS: usize = 128;
const END_BITS: u32 = 5;
/// Bytes of a blob for each chunk, at the least on average: a blob that is cut finer has no recipe, which would be too long.
const LEAST_AVERAGE: u64 = 2048;

/// The gear hash's random number for each byte: 256 little-endian numbers of the BLAKE3 output for this context.
static GEAR: LazyLock<[u64; 256]> = LazyLock::new(|| {
    let mut bytes = [0; 256 * 8];
    blake3::Hasher::new_derive_key("peat-blob gear v1").finalize_xof().fill(&mut bytes);
    let (numbers, _) = bytes.as_chunks::<8>();
    std::array::from_fn(|at| u64::from_le_bytes(numbers[at]))
});

/// The first 64 bits of the BLAKE3 hash of some bytes, little-endian.
pub(crate) fn short_hash(bytes: &[u8]) -> u64 {
    let hash = blake3::hash(bytes);
    u64::from_le_bytes(*hash.as_bytes().first_chunk().expect("a hash has 32 bytes"))
}

/// A chunk of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// Its length in bytes.
    pub length: u16,
    /// The first 64 bits of its BLAKE3 hash.
    pub hash: u64,
}

impl Chunk {
    /// Bytes of an encoded chunk: the length and the hash, little-endian.
    pub const BYTES: usize = 10;

    /// Appends the encoded chunk.
    pub fn encode(self, to: &mut Vec<u8>) {
        to.extend(self.length.to_le_bytes());
        to.extend(self.hash.to_le_bytes());
    }

    /// Reads chunks that anyone may have sent; nothing when they are none.
    #[must_use]
    pub fn decode_all(bytes: &[u8]) -> Option<Vec<Self>> {
        let (chunks, []) = bytes.as_chunks::<{ Self::BYTES }>() else { return None };
        let decode = |chunk: &[u8; Self::BYTES]| {
            let [a, b, hash @ ..] = *chunk;
            let length = u16::from_le_bytes([a, b]);
            (1..=MAX_BYTES).contains(&usize::from(length)).then_some(Self { length, hash: u64::from_le_bytes(hash) })
        };
        chunks.iter().map(decode).collect()
    }

    /// Whether these bytes are the chunk, as far as its hash tells.
    pub(crate) fn is(self, bytes: &[u8]) -> bool {
        bytes.len() == usize::from(self.length) && short_hash(bytes) == self.hash
    }
}

/// Some chunks in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// How many chunks.
    pub chunks: u8,
    /// Their bytes.
    pub bytes: u32,
    /// The first 64 bits of the BLAKE3 hash of the encoded chunks.
    pub hash: u64,
    /// The hash of its last chunk.
    pub hook: u64,
}

impl Segment {
    /// Bytes of an encoded segment: the fields in order, little-endian.
    pub const BYTES: usize = 21;

    /// The segment that these chunks are.
    ///
    /// # Panics
    /// When they are more than a segment has.
    #[must_use]
    pub fn of(chunks: &[Chunk]) -> Self {
        assert!(chunks.len() <= MAX_CHUNKS, "more than a segment");
        let mut encoded = Vec::with_capacity(chunks.len() * Chunk::BYTES);
        chunks.iter().for_each(|chunk| chunk.encode(&mut encoded));
        Self {
            chunks: chunks.len() as u8,
            bytes: chunks.iter().map(|chunk| u32::from(chunk.length)).sum(),
            hash: short_hash(&encoded),
            hook: chunks.last().map_or(0, |chunk| chunk.hash),
        }
    }

    /// Appends the encoded segment.
    pub fn encode(self, to: &mut Vec<u8>) {
        to.push(self.chunks);
        to.extend(self.bytes.to_le_bytes());
        to.extend(self.hash.to_le_bytes());
        to.extend(self.hook.to_le_bytes());
    }

    /// Reads segments that anyone may have sent; nothing when they are none.
    #[must_use]
    pub fn decode_all(bytes: &[u8]) -> Option<Vec<Self>> {
        let (segments, []) = bytes.as_chunks::<{ Self::BYTES }>() else { return None };
        let decode = |segment: &[u8; Self::BYTES]| {
            let (head, hashes) = segment.split_at(5);
            let number = |at: usize| hashes[at..].first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
            let [chunks, a, b, c, d] = *head.first_chunk()?;
            let bytes = u32::from_le_bytes([a, b, c, d]);
            let fits = (1..=MAX_CHUNKS).contains(&usize::from(chunks))
                && (u32::from(chunks)..=u32::from(chunks) * MAX_BYTES as u32).contains(&bytes);
            fits.then_some(Self { chunks, bytes, hash: number(0)?, hook: number(8)? })
        };
        segments.iter().map(decode).collect()
    }

    /// Most segments that the recipe of a blob of this size has.
    #[must_use]
    pub const fn most(size: u64) -> u64 {
        size / LEAST_AVERAGE / MIN_CHUNKS as u64 + 1
    }
}

/// All chunks of a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    chunks: Vec<Chunk>,
}

impl Recipe {
    /// These chunks as the recipe of a blob of this size; nothing when they cannot be.
    #[must_use]
    pub fn of_chunks(chunks: Vec<Chunk>, size: u64) -> Option<Self> {
        let bytes: u64 = chunks.iter().map(|chunk| u64::from(chunk.length)).sum();
        let fits = RECIPE_SIZES.contains(&size) && bytes == size && chunks.len() as u64 <= size / LEAST_AVERAGE;
        fits.then_some(Self { chunks })
    }

    /// The chunks in order.
    #[must_use]
    pub fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }

    /// The chunks of each segment in order.
    pub fn segments(&self) -> impl Iterator<Item = &[Chunk]> {
        let mut rest = &self.chunks[..];
        std::iter::from_fn(move || {
            let most = rest.len().min(MAX_CHUNKS);
            let ends = |chunk: &Chunk| chunk.hash.trailing_zeros() >= END_BITS;
            let least = most.min(MIN_CHUNKS);
            let end = (least..most).find(|end| ends(&rest[end - 1])).unwrap_or(most);
            let (segment, after) = rest.split_at(end);
            rest = after;
            (!segment.is_empty()).then_some(segment)
        })
    }

    /// The segments in order.
    #[must_use]
    pub fn outline(&self) -> Vec<Segment> {
        self.segments().map(Segment::of).collect()
    }

    /// The recipe as it is kept in a file: a BLAKE3 hash of what follows and of the blob's, and the chunks.
    pub(super) fn to_file(&self, blob: &BlobHash) -> Vec<u8> {
        let mut file = vec![0; blake3::OUT_LEN];
        self.chunks.iter().for_each(|chunk| chunk.encode(&mut file));
        let seal = seal(blob, &file[blake3::OUT_LEN..]);
        file[..blake3::OUT_LEN].copy_from_slice(&seal);
        file
    }

    /// Reads what a file says; nothing when it is torn or damaged.
    pub(super) fn from_file(file: &[u8], blob: &BlobHash, size: u64) -> Option<Self> {
        let (said, chunks) = file.split_at_checked(blake3::OUT_LEN)?;
        let right = said == seal(blob, chunks);
        right.then(|| Chunk::decode_all(chunks))?.and_then(|chunks| Self::of_chunks(chunks, size))
    }
}

fn seal(blob: &BlobHash, chunks: &[u8]) -> [u8; blake3::OUT_LEN] {
    *blake3::Hasher::new().update(blob.as_bytes()).update(chunks).finalize().as_bytes()
}

/// Most bytes of the file that keeps the recipe of a blob of this size.
pub(super) const fn max_file_bytes(size: u64) -> u64 {
    size / LEAST_AVERAGE * Chunk::BYTES as u64 + blake3::OUT_LEN as u64
}

/// Cuts a blob, whose bytes come in order, into chunks.
#[derive(Debug, Default)]
pub struct Cutter {
    rest: Vec<u8>,
    chunks: Vec<Chunk>,
}

impl Cutter {
    /// The next bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
        let mut at = 0;
        while self.rest.len() - at >= MAX_BYTES {
            at += self.cut(at);
        }
        self.rest.drain(..at);
    }

    /// There are no more bytes.
    #[must_use]
    pub fn finish(mut self) -> Vec<Chunk> {
        let mut at = 0;
        while at < self.rest.len() {
            at += self.cut(at);
        }
        self.chunks
    }

    fn cut(&mut self, at: usize) -> usize {
        let bytes = &self.rest[at..];
        let length = first_chunk(bytes);
        self.chunks.push(Chunk { length: length as u16, hash: short_hash(&bytes[..length]) });
        length
    }
}

/// The length of the first chunk of bytes that go on for longer than a chunk, or are the last.
fn first_chunk(bytes: &[u8]) -> usize {
    let end = bytes.len().min(MAX_BYTES);
    let (gear, mut hash, mut at) = (&*GEAR, 0_u64, MIN_BYTES.min(end));
    for (until, bits) in [(NORMAL_BYTES.min(end), STRICT_BITS), (end, EASY_BITS)] {
        let limit = 1 << (u64::BITS - bits);
        for byte in &bytes[at..until.max(at)] {
            hash = (hash << 1).wrapping_add(gear[usize::from(*byte)]);
            at += 1;
            if hash < limit {
                return at;
            }
        }
    }
    end
}

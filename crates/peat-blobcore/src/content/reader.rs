//! Bytes going out: every group is held against the blob's hash before a byte of it leaves.
//!
//! What does not match marks the blob as damaged. Nothing here ever returns bytes that were not verified in the same call.

use std::collections::btree_map::Entry;
use std::fs::File;
use std::ops::Range;

use super::assembly::check_range;
use super::index::Row;
use super::tree::{self, GroupRange, Known, Mismatch, Pair, Subtree, Visitor};
use super::{Content, ContentError, GROUP_BYTES, Inner, MAX_BLOCK_BYTES, lock};
use crate::fault;
use crate::model::BlobHash;

impl Content {
    /// Opens a blob for reading. It is not collected while a reader is open.
    ///
    /// # Errors
    /// `Absent` or `Damaged` when it is not held, or what the store's files failed with.
    pub fn open_blob(&self, hash: &BlobHash) -> Result<BlobReader, ContentError> {
        let open = OpenMark::new(self, hash);
        let row = self.0.index.row(hash)?.ok_or(ContentError::Absent(*hash))?;
        if row.damaged {
            return Err(ContentError::Damaged(*hash));
        }
        let source = match self.0.open_source(hash, &row) {
            Ok(source) => source,
            Err(ContentError::Damaged(_)) => return Err(self.0.damaged(hash, &row)),
            Err(error) => return Err(error),
        };
        Ok(BlobReader { row, source, open })
    }

    /// Reads a small blob whole, or its first `most` bytes, which the caller has found reasonable.
    ///
    /// # Errors
    /// `Absent`, or what reading fails with.
    pub fn read_blob(&self, hash: &BlobHash, most: u64) -> Result<Vec<u8>, ContentError> {
        self.open_blob(hash)?.read_first(most)
    }

    /// The ranges of bytes that [`Content::encode_block`] can serve: all of a blob that is held, else what an open assembly
    /// has verified so far.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn held_ranges(&self, hash: &BlobHash) -> Result<Vec<Range<u64>>, ContentError> {
        Ok(match self.size(hash)? {
            Some(size) => std::iter::once(0..size).collect(),
            None => self.0.assemblies.open(hash).map_or_else(Vec::new, |assembly| assembly.held_ranges()),
        })
    }

    /// Reads verified bytes from `offset` on of a blob that is held or is being put together, and says how many: none when those
    /// at `offset` are not here, or the blob has ended.
    ///
    /// # Errors
    /// What the store's files failed with.
    pub fn read_held(&self, hash: &BlobHash, offset: u64, buffer: &mut [u8]) -> Result<usize, ContentError> {
        match self.open_blob(hash) {
            Ok(reader) => return reader.read_at(offset, buffer),
            Err(ContentError::Absent(_) | ContentError::Damaged(_)) => {}
            Err(error) => return Err(error),
        }
        let Some(assembly) = self.0.assemblies.open(hash) else {
            // It may have become whole since the first look.
            return if self.holds(hash)? { self.open_blob(hash)?.read_at(offset, buffer) } else { Ok(0) };
        };
        let Some(held) = assembly.held_ranges().into_iter().find(|held| held.contains(&offset)) else { return Ok(0) };
        let start = offset - offset % GROUP_BYTES;
        let most = offset.saturating_add(buffer.len() as u64).min(held.end);
        let end = most.next_multiple_of(GROUP_BYTES).min(held.end).min(start + MAX_BLOCK_BYTES);
        let length = usize::try_from(end.min(most) - offset).expect("at most a block");
        let range = start..end;
        let mut copier = Copier { range: tree::covering(&range), offset, buffer: &mut buffer[..length] };
        match assembly.visit(&range, &mut copier) {
            Ok(()) => Ok(length),
            // Damaged since: it is fetched again.
            Err(ContentError::Absent(_) | ContentError::Damaged(_)) => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Encodes a range of a blob, of at most [`MAX_BLOCK_BYTES`] at group boundaries (or the blob's end), for
    /// [`Assembly::write_block`](super::Assembly::write_block) on another node, so that it can be verified by itself. Serves
    /// what an open assembly has verified, too.
    ///
    /// # Errors
    /// `Absent` or `Damaged` when not all of the range is held, `BadRange`, or what the store's files failed with.
    pub fn encode_block(&self, hash: &BlobHash, range: Range<u64>) -> Result<Vec<u8>, ContentError> {
        self.encode_block_below(hash, range, Known::NOTHING)
    }

    /// The same for [`Assembly::write_block_below`](super::Assembly::write_block_below): in pre-order from the root on, the pairs
    /// of hashes that are above a part of the range and not known, and the bytes. What is below follows from the bytes.
    ///
    /// # Errors
    /// Those of [`Content::encode_block`].
    pub fn encode_block_below(&self, hash: &BlobHash, range: Range<u64>, known: Known) -> Result<Vec<u8>, ContentError> {
        let groups = tree::covering(&range);
        let length = usize::try_from(range.end.saturating_sub(range.start).min(MAX_BLOCK_BYTES)).expect("a block fits");
        let mut encoder = Encoder { range: groups, known, encoded: Vec::with_capacity(length + length / 128) };
        match self.open_blob(hash) {
            Ok(reader) => reader.encode(&range, &mut encoder)?,
            Err(ContentError::Absent(_) | ContentError::Damaged(_)) => match self.0.assemblies.open(hash) {
                Some(assembly) => assembly.visit(&range, &mut encoder)?,
                // It may have become whole since the first look.
                None => self.open_blob(hash)?.encode(&range, &mut encoder)?,
            },
            Err(error) => return Err(error),
        }
        Ok(encoder.encoded)
    }
}

/// A blob that is held, open for reading.
#[derive(Debug)]
pub struct BlobReader {
    row: Row,
    source: Source,
    open: OpenMark,
}

/// Where a blob's bytes are read from.
#[derive(Debug)]
pub(super) enum Source {
    Inline(Vec<u8>),
    Files { data: File, outboard: File },
}

impl BlobReader {
    /// The blob's size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.row.size
    }

    /// Reads verified bytes from `offset` on, and says how many: less than `buffer` holds at the end of the blob or after
    /// [`MAX_BLOCK_BYTES`], none behind the end. Each call reads whole groups, so large aligned reads cost least.
    ///
    /// # Errors
    /// `Damaged` when the bytes are not what they were; the blob is marked then.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, ContentError> {
        let end = self.size().min(offset.saturating_add((buffer.len() as u64).min(MAX_BLOCK_BYTES)));
        if offset >= end {
            return Ok(0);
        }
        let length = usize::try_from(end - offset).expect("at most a block");
        let mut copier = Copier { range: tree::covering(&(offset..end)), offset, buffer: &mut buffer[..length] };
        self.visit(&mut copier)?;
        Ok(length)
    }

    /// Reads verified bytes, of which there is at most a block.
    ///
    /// # Errors
    /// `BadRange` when it is longer, or beyond the blob; as [`BlobReader::read_at`].
    pub(crate) fn read_range(&self, range: Range<u64>) -> Result<Vec<u8>, ContentError> {
        let (Range { start, end }, size) = (range, self.size());
        if start > end || end > size || end - start > MAX_BLOCK_BYTES {
            return Err(ContentError::BadRange { start, end, size });
        }
        let mut bytes = vec![0; usize::try_from(end - start).expect("at most a block")];
        self.read_at(start, &mut bytes)?;
        Ok(bytes)
    }

    /// Reads its first `most` bytes, which the caller has found reasonable, or all if it has no more.
    ///
    /// # Errors
    /// `Damaged` when the bytes are not what they were; the blob is marked then.
    pub fn read_first(&self, most: u64) -> Result<Vec<u8>, ContentError> {
        let mut bytes = vec![0; usize::try_from(self.size().min(most)).unwrap_or_default()];
        let mut read = 0;
        while read < bytes.len() {
            match self.read_at(read as u64, &mut bytes[read..])? {
                0 => break,
                more => read += more,
            }
        }
        bytes.truncate(read);
        Ok(bytes)
    }

    pub(super) fn visit(&self, visitor: &mut dyn Visitor) -> Result<(), ContentError> {
        let hash = &self.open.hash;
        self.source.walk(hash, self.size(), visitor).map_err(|Mismatch| self.open.content.0.damaged(hash, &self.row))
    }

    fn encode(&self, range: &Range<u64>, encoder: &mut Encoder) -> Result<(), ContentError> {
        check_range(range, self.size())?;
        self.visit(encoder)
    }

    /// The data file, unless the blob is in the index.
    pub(crate) fn file(&self) -> Option<&File> {
        match &self.source {
            Source::Inline(_) => None,
            Source::Files { data, .. } => Some(data),
        }
    }
}

impl Source {
    pub(super) fn walk(&self, hash: &BlobHash, size: u64, visitor: &mut dyn Visitor) -> Result<(), Mismatch> {
        match self {
            Self::Inline(bytes) => {
                if blake3::hash(bytes).as_bytes() != hash.as_bytes() {
                    return visitor.bad(&(0..tree::groups(size)));
                }
                if !bytes.is_empty() && visitor.wants(&(0..1)) {
                    visitor.group(0, bytes);
                }
                Ok(())
            }
            Self::Files { data, outboard } => tree::Stored { hash: hash.as_bytes(), size, data, outboard }.walk(visitor),
        }
    }
}

impl Inner {
    /// Opens a blob's bytes; `Damaged` when they are not there.
    pub(super) fn open_source(&self, hash: &BlobHash, row: &Row) -> Result<Source, ContentError> {
        if row.inline {
            return Ok(Source::Inline(self.index.inline(hash)?.ok_or(ContentError::Damaged(*hash))?));
        }
        let open = |path: &std::path::Path| {
            File::open(path).map_err(|error| match error.kind() {
                std::io::ErrorKind::NotFound => ContentError::Damaged(*hash),
                _ => ContentError::io("open", path)(error),
            })
        };
        Ok(Source::Files { data: open(&self.layout.blob(hash))?, outboard: open(&self.layout.outboard(hash))? })
    }

    /// Marks a blob as damaged, and returns the error that says so; one that was collected meanwhile is absent.
    pub(super) fn damaged(&self, hash: &BlobHash, row: &Row) -> ContentError {
        tracing::warn!(blob = %hash, "a blob is damaged on this disk");
        match self.index.mark(hash, row.added, true) {
            Ok(true) => {
                fault::point("content.damage.marked");
                lock(&self.lost).insert(*hash);
                ContentError::Damaged(*hash)
            }
            Ok(false) => ContentError::Absent(*hash),
            Err(error) => error,
        }
    }
}

/// Says, while it lives, that a blob is being read.
#[derive(Debug)]
struct OpenMark {
    content: Content,
    hash: BlobHash,
}

impl OpenMark {
    fn new(content: &Content, hash: &BlobHash) -> Self {
        *lock(&content.0.readers).entry(*hash).or_default() += 1;
        Self { content: content.clone(), hash: *hash }
    }
}

impl Drop for OpenMark {
    fn drop(&mut self) {
        if let Entry::Occupied(mut readers) = lock(&self.content.0.readers).entry(self.hash) {
            *readers.get_mut() -= 1;
            if *readers.get() == 0 {
                readers.remove();
            }
        }
    }
}

struct Encoder {
    range: GroupRange,
    known: Known,
    encoded: Vec<u8>,
}

impl Visitor for Encoder {
    fn wants(&self, groups: &GroupRange) -> bool {
        overlap(&self.range, groups)
    }

    fn pair(&mut self, tree: Subtree, pair: &Pair) {
        if tree.is_carried(&self.range, self.known) {
            self.encoded.extend_from_slice(pair);
        }
    }

    fn group(&mut self, _group: u64, bytes: &[u8]) {
        self.encoded.extend_from_slice(bytes);
    }

    fn bad(&mut self, _groups: &GroupRange) -> Result<(), Mismatch> {
        Err(Mismatch)
    }
}

struct Copier<'a> {
    range: GroupRange,
    offset: u64,
    buffer: &'a mut [u8],
}

impl Visitor for Copier<'_> {
    fn wants(&self, groups: &GroupRange) -> bool {
        overlap(&self.range, groups)
    }

    fn group(&mut self, group: u64, bytes: &[u8]) {
        let start = group * GROUP_BYTES;
        let from = start.max(self.offset);
        let to = (start + bytes.len() as u64).min(self.offset + self.buffer.len() as u64);
        let within = |base: u64| (from - base) as usize..(to - base) as usize;
        self.buffer[within(self.offset)].copy_from_slice(&bytes[within(start)]);
    }

    fn bad(&mut self, _groups: &GroupRange) -> Result<(), Mismatch> {
        Err(Mismatch)
    }
}

fn overlap(a: &GroupRange, b: &GroupRange) -> bool {
    a.start < b.end && b.start < a.end
}

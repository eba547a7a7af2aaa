//! (interface sketch: bodies follow)
#![allow(missing_docs, clippy::unimplemented, unused_variables, dead_code)]
use std::fs::File;
use std::ops::{ControlFlow, Range};
use std::path::Path;
use std::sync::Arc;

use crate::clock::Clock;
use crate::model::{BlobHash, DistributionId, Sha256Digest, Timestamp};

/// A chunk group: what is verified as one.
pub const GROUP_BYTES: u64 = 16 * 1024;
/// The longest range that one block covers (data, without the hashes that come along).
pub const MAX_BLOCK_BYTES: u64 = 1024 * 1024;
/// Blobs up to this size live in the index.
pub const MAX_INLINE_BYTES: u64 = GROUP_BYTES;

pub struct Options { pub quota: Option<u64>, pub reserve: u64 }
/// Called with the bytes done so far; `Break` ends the call with `ContentError::Stopped`.
pub type Progress<'a> = dyn FnMut(u64) -> ControlFlow<()> + 'a;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ingested { pub hash: BlobHash, pub sha256: Sha256Digest, pub size: u64 }
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlobStatus { Absent, Partial { size: u64, held: u64 }, Held { size: u64 }, Damaged }
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pin {
    Distribution(DistributionId, PinRole),
    User(String),
    /// Same name again moves `until`; `unpin` looks at the name only.
    Lease { name: String, until: Timestamp },
}
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PinRole { Sender, Target, Carrier }
pub enum Exported { Reflinked, Copied }

/// Clone + Send + Sync; every call may block on the disk.
#[derive(Clone)]
pub struct Content;
impl Content {
    pub fn open(dir: &Path, options: Options, clock: Arc<dyn Clock>) -> Result<Self, ContentError> { unimplemented!() }
    pub fn close(&self) -> Result<(), ContentError> { unimplemented!() }
    // ingest
    pub fn ingest_path(&self, path: &Path, progress: &mut Progress<'_>) -> Result<Ingested, ContentError> { unimplemented!() }
    /// `path` is only for messages.
    pub fn ingest_file(&self, file: &File, path: &Path, progress: &mut Progress<'_>) -> Result<Ingested, ContentError> { unimplemented!() }
    pub fn ingest_bytes(&self, bytes: &[u8]) -> Result<Ingested, ContentError> { unimplemented!() }
    /// Many blobs, few commits: nothing added is held before `Batch::commit`.
    pub fn batch(&self) -> Batch { unimplemented!() }
    // look up
    pub fn status(&self, hash: &BlobHash) -> Result<BlobStatus, ContentError> { unimplemented!() }
    pub fn holds(&self, hash: &BlobHash) -> Result<bool, ContentError> { unimplemented!() }
    pub fn size(&self, hash: &BlobHash) -> Result<Option<u64>, ContentError> { unimplemented!() }
    pub fn digest(&self, sha256: &Sha256Digest) -> Result<Option<BlobHash>, ContentError> { unimplemented!() }
    pub fn sha256_of(&self, hash: &BlobHash) -> Result<Option<Sha256Digest>, ContentError> { unimplemented!() }
    pub fn open_blob(&self, hash: &BlobHash) -> Result<BlobReader, ContentError> { unimplemented!() }
    pub fn usage(&self) -> Result<Usage, ContentError> { unimplemented!() }
    // serve; also what a live assembly has verified
    pub fn encode_block(&self, hash: &BlobHash, range: Range<u64>) -> Result<Vec<u8>, ContentError> { unimplemented!() }
    pub fn export(&self, hash: &BlobHash, dest: &File) -> Result<Exported, ContentError> { unimplemented!() }
    // assemble: the same (hash, size) gives the same assembly; drops keep the files
    pub fn assemble(&self, hash: &BlobHash, size: u64) -> Result<Assembly, ContentError> { unimplemented!() }
    // keep
    pub fn pin(&self, reason: &Pin, hashes: &[BlobHash]) -> Result<(), ContentError> { unimplemented!() }
    pub fn unpin(&self, reason: &Pin) -> Result<(), ContentError> { unimplemented!() }
    pub fn gc(&self) -> Result<GcReport, ContentError> { unimplemented!() }
    pub fn gc_all(&self) -> Result<GcReport, ContentError> { unimplemented!() }
    pub fn check(&self, progress: &mut Progress<'_>) -> Result<CheckReport, ContentError> { unimplemented!() }
}
pub struct Batch;
impl Batch {
    pub fn add_path(&mut self, path: &Path, progress: &mut Progress<'_>) -> Result<Ingested, ContentError> { unimplemented!() }
    pub fn add_file(&mut self, file: &File, path: &Path, progress: &mut Progress<'_>) -> Result<Ingested, ContentError> { unimplemented!() }
    pub fn add_bytes(&mut self, bytes: &[u8]) -> Result<Ingested, ContentError> { unimplemented!() }
    /// Adds a whole assembly, so that many small ones share a commit.
    pub fn add_assembly(&mut self, assembly: &Assembly) -> Result<Ingested, ContentError> { unimplemented!() }
    pub fn commit(self) -> Result<(), ContentError> { unimplemented!() }
}
/// Every read is verified; damage is an error, and marks the blob.
pub struct BlobReader;
impl BlobReader {
    pub fn size(&self) -> u64 { unimplemented!() }
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, ContentError> { unimplemented!() }
}
#[derive(Clone)]
pub struct Assembly;
impl Assembly {
    pub fn hash(&self) -> BlobHash { unimplemented!() }
    pub fn size(&self) -> u64 { unimplemented!() }
    /// Verified bytes.
    pub fn held(&self) -> u64 { unimplemented!() }
    pub fn is_whole(&self) -> bool { unimplemented!() }
    /// The verified ranges, in order.
    pub fn held_ranges(&self) -> Vec<Range<u64>> { unimplemented!() }
    /// The first range that is neither held nor taken, at most `max_bytes`, at aligned boundaries. Dropping `Taken` gives it back.
    pub fn take(&self, max_bytes: u64) -> Option<Taken> { unimplemented!() }
    /// Nothing is written when the bytes are wrong (`ContentError::Corrupt`).
    pub fn write_block(&self, range: Range<u64>, encoded: &[u8]) -> Result<(), ContentError> { unimplemented!() }
    pub fn sync(&self) -> Result<(), ContentError> { unimplemented!() }
    pub fn finish(&self) -> Result<Ingested, ContentError> { unimplemented!() }
    pub fn abandon(&self) -> Result<(), ContentError> { unimplemented!() }
}
pub struct Taken;
impl Taken { pub fn range(&self) -> Range<u64> { unimplemented!() } }
pub struct Usage { pub blobs: u64, pub bytes: u64, pub assembly_bytes: u64, pub free: u64 }
pub struct GcReport { pub freed: u64, pub dropped: u64, pub failures: Vec<(BlobHash, ContentError)> }
pub struct CheckReport { pub checked: u64, pub damaged: Vec<BlobHash>, pub missing: Vec<BlobHash>, pub repaired: u64, pub orphans: u64 }
/// kinds: Changed, Vanished, Unreadable, Absent, Corrupt (what was received), Damaged (what is stored), BadRange, SizeDiffers,
/// Incomplete, NoSpace, Stopped, Abandoned, Closed, Io, Index
#[derive(Debug, Clone)]
pub enum ContentError {}

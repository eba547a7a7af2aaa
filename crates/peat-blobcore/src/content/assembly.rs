//! A blob that is not whole yet: verified groups come in any order, from anybody, and stay across restarts.
//!
//! A group counts as held when its bytes and all hashes above it were verified and written. The bitmap on disk is only a
//! claim: when an assembly is opened again, every group that it claims is verified first. So a killed process loses nothing
//! that it wrote, and a power cut at most what came since the last sync. Nothing wrong is ever written.

mod draft;

use std::fs::File;
use std::io::IoSlice;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, TryLockError, Weak};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::commit::{Staged, StagedBytes};
use super::groups::Groups;
use super::hurried::Hurried;
use super::layout::{BITMAP, DATA, OUTBOARD, StagedPath, WRITE_BYTES};
use super::registry::Slot;
use super::tree::Known;
use super::{Content, ContentError, GROUP_BYTES, Ingested, MAX_BLOCK_BYTES, ingest, lock, tree};
pub(crate) use draft::Draft;

use crate::fault;
use crate::model::{BlobHash, Sha256Digest};

/// After this many bytes, or this long after the last time, what was written is synced; twice as many never wait for it.
const SYNC_BYTES: u64 = 64 * 1024 * 1024;
const SYNC_AFTER: Duration = Duration::from_secs(1);

/// Ranges that are looked at, from the first that is missing, before it is said that none is wanted.
const MAX_LOOKED_AT: usize = 4096;

/// A handle of the assembly of one blob; all handles of a blob are of the same assembly. When the last one is dropped, what
/// was assembled stays on disk, to be continued (blobs up to [`super::MAX_INLINE_BYTES`] start again).
#[derive(Clone)]
pub struct Assembly(Arc<Shared>);

/// One open assembly.
pub(super) struct Shared {
    content: Content,
    hash: BlobHash,
    size: u64,
    slot: Arc<Slot>,
    storage: Storage,
    progress: Mutex<Progress>,
    sha256: Mutex<Sha256Prefix>,
    /// Bytes written since the last sync.
    unsynced: AtomicU64,
    last_sync: Mutex<Instant>,
}

/// Where the verified bytes are.
pub(super) enum Storage {
    /// In memory: a small blob goes from here into the index.
    Memory(Mutex<Vec<u8>>),
    /// In files that outlive the process.
    Files { data: File, outboard: File, bitmap: File },
}

struct Progress {
    held: Groups,
    taken: Groups,
    hurried: Hurried,
    /// No group before this one is missing.
    prefix: u64,
    end: Option<End>,
}

impl Progress {
    /// The runs of groups that are neither held nor taken, in order, cut at multiples of `most`.
    fn free(&self, most: u64) -> impl Iterator<Item = Range<u64>> {
        self.free_within(self.prefix..self.held.count(), most)
    }

    /// Those of some groups.
    fn free_within(&self, groups: Range<u64>, most: u64) -> impl Iterator<Item = Range<u64>> {
        let (mut next, end) = (groups.start.max(self.prefix), groups.end);
        std::iter::from_fn(move || {
            loop {
                next = self.held.first(next, false)?;
                match self.taken.contains(next) {
                    true => next = self.taken.first(next, false)?,
                    false => break,
                }
            }
            if next >= end {
                return None;
            }
            let limit = ((next / most + 1) * most).min(end);
            let start = next;
            next = (start..limit).find(|group| self.held.contains(*group) || self.taken.contains(*group)).unwrap_or(limit);
            Some(start..next)
        })
    }
}

#[derive(Clone, Copy)]
enum End {
    Whole(Ingested),
    Abandoned,
}

struct Sha256Prefix {
    hasher: Sha256,
    position: u64,
}

impl Assembly {
    pub(super) fn new(content: Content, hash: BlobHash, size: u64, slot: Arc<Slot>, storage: Storage, held: Groups) -> Self {
        let taken = Groups::none(held.count());
        let shared = Shared {
            content,
            hash,
            size,
            slot,
            storage,
            progress: Mutex::new(Progress { held, taken, hurried: Hurried::default(), prefix: 0, end: None }),
            sha256: Mutex::new(Sha256Prefix { hasher: Sha256::new(), position: 0 }),
            unsynced: AtomicU64::new(0),
            last_sync: Mutex::new(Instant::now()),
        };
        shared.update(&mut lock(&shared.progress));
        Self(Arc::new(shared))
    }

    /// The assembly of a blob that is held already: nothing is missing, and it is finished.
    pub(super) fn of_whole(content: Content, blob: Ingested) -> Self {
        let storage = Storage::Memory(Mutex::default());
        let held = Groups::all(tree::groups(blob.size));
        let assembly = Self::new(content, blob.hash, blob.size, Arc::default(), storage, held);
        lock(&assembly.0.progress).end = Some(End::Whole(blob));
        assembly
    }

    pub(super) fn upgrade(open: &Weak<Shared>) -> Option<Self> {
        open.upgrade().map(Self)
    }

    pub(super) fn downgrade(&self) -> Weak<Shared> {
        Arc::downgrade(&self.0)
    }

    /// The blob.
    #[must_use]
    pub fn hash(&self) -> BlobHash {
        self.0.hash
    }

    /// The blob's size in bytes, as the one who asked for the assembly claimed it.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.0.size
    }

    /// Bytes that are verified and here.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.0.slot.held.load(Ordering::Relaxed)
    }

    /// Whether no byte is missing, so that [`Assembly::finish`] can succeed.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        lock(&self.0.progress).held.is_all()
    }

    /// The ranges of bytes that are verified and here, in order.
    #[must_use]
    pub fn held_ranges(&self) -> Vec<Range<u64>> {
        lock(&self.0.progress).held.runs().map(|run| tree::bytes_of(&run, self.0.size)).collect()
    }

    /// How many bytes of a range are not here, in whole groups.
    pub(crate) fn missing(&self, range: &Range<u64>) -> u64 {
        let progress = lock(&self.0.progress);
        tree::covering(range).filter(|group| !progress.held.contains(*group)).count() as u64 * GROUP_BYTES
    }

    /// Has these bytes taken before the rest from now on, as somebody waits for them. A range of few bytes comes before one of many.
    pub(super) fn hurry(&self, range: &Range<u64>) {
        let groups = range.start / GROUP_BYTES..range.end.min(self.size()).div_ceil(GROUP_BYTES);
        if range.start < self.size() && groups.start < groups.end {
            lock(&self.0.progress).hurried.add(groups);
        }
    }

    /// Takes the first range that is neither held nor taken, of those in a hurry if there are any, so that nobody else fetches it
    /// meanwhile: at most `max_bytes` (at least a group, at most [`MAX_BLOCK_BYTES`]), up to the next multiple of that. `None` when
    /// nothing is left to take.
    #[must_use]
    pub fn take(&self, max_bytes: u64) -> Option<Taken> {
        self.take_one(max_bytes, |free| free.next())
    }

    /// Takes, like [`Assembly::take`], the first range that is wanted, cut to what `wanted` returns of the groups that it is shown.
    pub(crate) fn take_first(&self, max_bytes: u64, mut wanted: impl FnMut(Range<u64>) -> Option<Range<u64>>) -> Option<Taken> {
        self.take_one(max_bytes, |free| free.take(MAX_LOOKED_AT).find_map(&mut wanted))
    }

    /// The same for the best range: the one that `rank` gives the least to.
    pub(crate) fn take_best<R: Ord>(
        &self,
        max_bytes: u64,
        mut rank: impl FnMut(Range<u64>) -> Option<(R, Range<u64>)>,
    ) -> Option<Taken> {
        self.take_one(max_bytes, |free| {
            free.take(MAX_LOOKED_AT).filter_map(&mut rank).min_by(|(one, _), (other, _)| one.cmp(other)).map(|(_, groups)| groups)
        })
    }

    fn take_one(
        &self,
        max_bytes: u64,
        mut choose: impl FnMut(&mut dyn Iterator<Item = Range<u64>>) -> Option<Range<u64>>,
    ) -> Option<Taken> {
        let most = 1 << (max_bytes.clamp(GROUP_BYTES, MAX_BLOCK_BYTES) / GROUP_BYTES).ilog2();
        let progress = &mut *lock(&self.0.progress);
        if progress.end.is_some() {
            return None;
        }
        let Progress { held, hurried, .. } = &mut *progress;
        hurried.retain(|groups| !held.contains_all(groups));
        let first = progress.hurried.ranges().find_map(|groups| choose(&mut progress.free_within(groups.clone(), most)));
        let groups = first.or_else(|| choose(&mut progress.free(most)))?;
        progress.taken.insert(&groups);
        Some(Taken { assembly: self.clone(), groups })
    }

    /// How many pairs of hashes from the root on, on the way to the group at this offset, are here: what [`Known::pairs`] may say
    /// of a block that is asked for now.
    #[must_use]
    pub fn known_pairs(&self, start: u64) -> u8 {
        let progress = lock(&self.0.progress);
        tree::pairs_above(start / GROUP_BYTES, self.0.size, |groups| progress.held.contains_any(groups))
    }

    /// Verifies a range of the blob as [`Content::encode_block`] encodes it, and writes it. The range need not be taken, and
    /// one that is held already is fine.
    ///
    /// # Errors
    /// `Corrupt` when a byte is wrong, missing or left over (nothing is written then), `BadRange`, `NoSpace`, `Abandoned`, or
    /// what the files failed with.
    pub fn write_block(&self, range: Range<u64>, encoded: &[u8]) -> Result<(), ContentError> {
        self.write_block_below(range, Known::NOTHING, encoded)
    }

    /// The same as [`Content::encode_block_below`] encodes it. Blocks of one answer are written in their order.
    ///
    /// # Errors
    /// Those of [`Assembly::write_block`], and `Damaged` when a pair that is said to be known is not right here: what is below it
    /// is not held any more then.
    pub fn write_block_below(&self, range: Range<u64>, known: Known, encoded: &[u8]) -> Result<(), ContentError> {
        let shared = &*self.0;
        let groups = check_range(&range, shared.size)?;
        match lock(&shared.progress).end {
            Some(End::Abandoned) => return Err(ContentError::Abandoned(shared.hash)),
            Some(End::Whole(_)) => return Ok(()),
            None => {}
        }
        let outboard = match &shared.storage {
            Storage::Memory(_) => None,
            Storage::Files { outboard, .. } => Some(outboard),
        };
        let decoded = tree::decode(shared.hash.as_bytes(), shared.size, &groups, known, outboard, encoded);
        let decoded = decoded.map_err(|refused| match refused {
            tree::Refused::Encoded => ContentError::Corrupt(shared.hash),
            tree::Refused::Known(below) => shared.lose(&below),
        })?;
        shared.write(range.start, &decoded)?;
        fault::point("content.assembly.written");
        shared.hold(&groups)?;
        fault::point("content.assembly.marked");
        // Whoever keeps up has fallen behind the disk, or there is nobody.
        if shared.unsynced.fetch_add(range.end - range.start, Ordering::Relaxed) >= 2 * SYNC_BYTES {
            shared.sync()?;
        }
        Ok(())
    }

    /// Does what follows the writing of blocks, beside it: syncs when that is due, and brings SHA-256 to the end of the
    /// contiguous prefix. Whoever writes blocks calls it now and then.
    ///
    /// # Errors
    /// When the files cannot be read or synced.
    pub fn keep_up(&self) -> Result<(), ContentError> {
        let shared = &*self.0;
        if shared.unsynced.load(Ordering::Relaxed) >= SYNC_BYTES || lock(&shared.last_sync).elapsed() >= SYNC_AFTER {
            shared.sync()?;
        }
        shared.follow_sha256()
    }

    /// Makes durable what was written. [`Assembly::keep_up`] does it while blocks come; call it when they cease to.
    ///
    /// # Errors
    /// When the files cannot be synced.
    pub fn sync(&self) -> Result<(), ContentError> {
        self.0.sync()
    }

    /// Makes a blob of it, durably. Whoever calls it again gets the same answer.
    ///
    /// # Errors
    /// `Incomplete` when bytes are missing, `Corrupt` when an empty blob is not what the hash names, `Abandoned`, `NoSpace`,
    /// or what the store's files failed with. What was assembled stays.
    pub fn finish(&self) -> Result<Ingested, ContentError> {
        let mut batch = self.0.content.batch();
        let ingested = batch.add_assembly(self)?;
        batch.commit()?;
        Ok(ingested)
    }

    /// Gives it up for all its handles, and removes what was assembled. One that is finished stays a blob.
    ///
    /// # Errors
    /// When the files cannot be removed.
    pub fn abandon(&self) -> Result<(), ContentError> {
        let shared = &*self.0;
        let mut open = lock(&shared.slot.open);
        {
            let progress = &mut *lock(&shared.progress);
            if progress.end.is_some() {
                return Ok(());
            }
            progress.end = Some(End::Abandoned);
        }
        *open = Weak::new();
        shared.content.0.remove_assembly(&shared.hash, shared.size)
    }

    /// Ends the hashing, and says what is to be committed; nothing when it is committed already.
    pub(super) fn stage(&self) -> Result<(Ingested, Option<Staged>), ContentError> {
        let shared = &*self.0;
        {
            let progress = lock(&shared.progress);
            match progress.end {
                Some(End::Whole(ingested)) => return Ok((ingested, None)),
                Some(End::Abandoned) => return Err(ContentError::Abandoned(shared.hash)),
                None if !progress.held.is_all() => {
                    return Err(ContentError::Incomplete { hash: shared.hash, missing: shared.size - self.held() });
                }
                None => {}
            }
        }
        let staged = match &shared.storage {
            Storage::Memory(bytes) => ingest::stage_inline(lock(bytes).clone()),
            Storage::Files { data, .. } => shared.stage_files(data)?,
        };
        if staged.blob.hash == shared.hash { Ok((staged.blob, Some(staged))) } else { Err(ContentError::Corrupt(shared.hash)) }
    }

    /// Cleans up after the blob has become whole.
    pub(super) fn settle(&self, ingested: Ingested) -> Result<(), ContentError> {
        let shared = &*self.0;
        let mut open = lock(&shared.slot.open);
        if lock(&shared.progress).end.replace(End::Whole(ingested)).is_some() {
            return Ok(());
        }
        *open = Weak::new();
        shared.content.0.remove_assembly(&shared.hash, shared.size)?;
        drop(open);
        // Those of other claimed sizes can never get whole.
        let inner = &shared.content.0;
        inner.assemblies.sizes(&shared.hash).iter().try_for_each(|size| inner.drop_idle_assembly(&shared.hash, *size).map(drop))
    }

    /// Walks what is held; a part that was damaged on disk since is not held any more.
    pub(super) fn visit(&self, range: &Range<u64>, visitor: &mut dyn tree::Visitor) -> Result<(), ContentError> {
        let shared = &*self.0;
        let groups = check_range(range, shared.size)?;
        if !lock(&shared.progress).held.contains_all(&groups) {
            return Err(ContentError::Absent(shared.hash));
        }
        let read = match &shared.storage {
            Storage::Memory(bytes) => {
                visitor.group(0, &lock(bytes));
                Ok(())
            }
            Storage::Files { data, outboard, .. } => shared.stored(data, outboard).walk(visitor),
        };
        read.map_err(|tree::Mismatch| shared.lose(&groups))
    }
}

/// The groups of a range that a block may cover.
pub(super) fn check_range(range: &Range<u64>, size: u64) -> Result<Range<u64>, ContentError> {
    let ends = range.end.is_multiple_of(GROUP_BYTES) || range.end == size;
    let fits = range.start < range.end && range.end <= size && range.end - range.start <= MAX_BLOCK_BYTES;
    if !(ends && fits && range.start.is_multiple_of(GROUP_BYTES)) {
        return Err(ContentError::BadRange { start: range.start, end: range.end, size });
    }
    Ok(tree::covering(range))
}

impl Shared {
    pub(super) fn stored<'a>(&'a self, data: &'a File, outboard: &'a File) -> tree::Stored<'a> {
        tree::Stored { hash: self.hash.as_bytes(), size: self.size, data, outboard }
    }

    fn path(&self, part: &str) -> std::path::PathBuf {
        self.content.0.layout.assembly(&self.hash, self.size, part)
    }

    fn write(&self, start: u64, decoded: &tree::Decoded<'_>) -> Result<(), ContentError> {
        let (data, outboard) = match &self.storage {
            Storage::Memory(bytes) => {
                *lock(bytes) = decoded.data.concat();
                return Ok(());
            }
            Storage::Files { data, outboard, .. } => (data, outboard),
        };
        let inner = &self.content.0;
        let groups = decoded.data.iter().flat_map(|run| run.chunks(GROUP_BYTES as usize));
        let mut slices: Vec<IoSlice<'_>> = groups.map(IoSlice::new).collect();
        let (mut rest, mut at) = (&mut slices[..], start);
        while !rest.is_empty() {
            let piece = rest.len().min((WRITE_BYTES / GROUP_BYTES) as usize);
            let written = match rustix::io::pwritev(data, &rest[..piece], at) {
                Ok(written) => written,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(inner.layout.write_error("write", &self.path(DATA), MAX_BLOCK_BYTES, error.into())),
            };
            IoSlice::advance_slices(&mut rest, written);
            at += written as u64;
        }
        decoded.pairs.iter().try_for_each(|(at, pairs)| inner.write_at(outboard, &self.path(OUTBOARD), pairs, *at))
    }

    /// Counts groups that are not what they were as missing.
    fn lose(&self, groups: &Range<u64>) -> ContentError {
        let progress = &mut *lock(&self.progress);
        progress.held.remove(groups);
        progress.prefix = progress.prefix.min(groups.start);
        self.update(progress);
        ContentError::Damaged(self.hash)
    }

    /// Counts written groups as held, here and in the bitmap.
    fn hold(&self, groups: &Range<u64>) -> Result<(), ContentError> {
        let progress = &mut *lock(&self.progress);
        progress.held.insert(groups);
        self.update(progress);
        match &self.storage {
            Storage::Memory(_) => Ok(()),
            Storage::Files { bitmap, .. } => {
                let (at, bytes) = progress.held.bytes(groups);
                self.content.0.write_at(bitmap, &self.path(BITMAP), bytes, at)
            }
        }
    }

    fn update(&self, progress: &mut Progress) {
        progress.prefix = progress.held.first(progress.prefix, false).unwrap_or(progress.held.count());
        let short = progress.held.count() * GROUP_BYTES - self.size;
        let last = progress.held.count().checked_sub(1).is_some_and(|last| progress.held.contains(last));
        let held = progress.held.len() * GROUP_BYTES - if last { short } else { 0 };
        self.slot.held.store(held, Ordering::Relaxed);
        self.content.0.arrivals.send_replace(());
    }

    fn sync(&self) -> Result<(), ContentError> {
        let Storage::Files { data, outboard, bitmap } = &self.storage else { return Ok(()) };
        self.unsynced.store(0, Ordering::Relaxed);
        *lock(&self.last_sync) = Instant::now();
        for (part, file) in [(DATA, data), (OUTBOARD, outboard)] {
            file.sync_data().map_err(|error| self.content.0.layout.write_error("sync", &self.path(part), 0, error))?;
        }
        fault::point("content.assembly.synced");
        bitmap.sync_data().map_err(|error| self.content.0.layout.write_error("sync", &self.path(BITMAP), 0, error))
    }

    /// Brings SHA-256 nearer to the end of the contiguous prefix, unless somebody else is at it.
    fn follow_sha256(&self) -> Result<(), ContentError> {
        let Storage::Files { data, .. } = &self.storage else { return Ok(()) };
        let mut sha256 = match self.sha256.try_lock() {
            Ok(sha256) => sha256,
            Err(TryLockError::WouldBlock) => return Ok(()),
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        };
        let prefix = (lock(&self.progress).prefix * GROUP_BYTES).min(self.size);
        self.bring_sha256(&mut sha256, data, prefix)
    }

    fn bring_sha256(&self, sha256: &mut Sha256Prefix, data: &File, end: u64) -> Result<(), ContentError> {
        let mut buffer = vec![0; (end.saturating_sub(sha256.position)).min(MAX_BLOCK_BYTES / 4) as usize];
        while sha256.position < end {
            let step = buffer.len().min((end - sha256.position) as usize);
            data.read_exact_at(&mut buffer[..step], sha256.position).map_err(ContentError::io("read", &self.path(DATA)))?;
            sha256.hasher.update(&buffer[..step]);
            sha256.position += step as u64;
        }
        Ok(())
    }

    fn stage_files(&self, data: &File) -> Result<Staged, ContentError> {
        let mut sha256 = lock(&self.sha256);
        self.bring_sha256(&mut sha256, data, self.size)?;
        let sha256 = Sha256Digest::from_bytes(sha256.hasher.clone().finalize().into());
        let staged = |part| StagedPath { path: self.path(part), temp: false };
        Ok(Staged {
            blob: Ingested { hash: self.hash, sha256, size: self.size },
            bytes: StagedBytes::Files { data: staged(DATA), outboard: staged(OUTBOARD) },
        })
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // What is in memory only is gone now; what has files is known until somebody removes them.
        if let Storage::Memory(_) = self.storage
            && let Ok(open) = self.slot.open.try_lock()
            && open.strong_count() == 0
            && self.content.0.assemblies.is_current(&self.hash, self.size, &self.slot)
        {
            self.content.0.assemblies.forget(&self.hash, self.size);
        }
    }
}

impl std::fmt::Debug for Assembly {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Assembly").field("hash", &self.hash()).field("size", &self.size()).field("held", &self.held()).finish()
    }
}

/// A range that somebody is fetching; given back when this is dropped.
#[derive(Debug)]
pub struct Taken {
    assembly: Assembly,
    groups: Range<u64>,
}

impl Taken {
    /// The bytes, for [`Content::encode_block`] on the other side and [`Assembly::write_block`] here.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        tree::bytes_of(&self.groups, self.assembly.0.size)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        lock(&self.assembly.0.progress).taken.remove(&self.groups);
    }
}

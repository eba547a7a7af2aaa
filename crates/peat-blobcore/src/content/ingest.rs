//! Files and bytes coming in from this machine: read once, hashed with BLAKE3 and SHA-256 side by side, staged and committed.
//!
//! Memory is bounded whatever the size: a ring of 1 MiB buffers. What changes while it is read is refused, never taken in.

use std::fs::{self, File};
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use sha2::{Digest, Sha256};

use super::assembly::Assembly;
use super::commit::{Staged, StagedBytes};
use super::layout::{WRITE_BYTES, WriteBack};
use super::{Content, ContentError, Ingested, Inner, MAX_INLINE_BYTES, Progress, Shared, Sharing, share, tree};
use crate::fault;
use crate::model::{BlobHash, Sha256Digest};

/// Buffers between the two hashes.
const RING: usize = 4;
/// A batch commits by itself when it has staged this many bytes for the index, or this many files.
const BATCH_INLINE_BYTES: u64 = 8 * 1024 * 1024;
const BATCH_FILES: usize = 1024;

impl Content {
    /// Takes in the file at `path`, or that a symbolic link there leads to. It is held, durably, when this returns.
    ///
    /// # Errors
    /// `Vanished`, `Unreadable` or `NotAFile` when it cannot be read, `Changed` when it was written to or replaced
    /// meanwhile, `NoSpace`, `Stopped`, or what the store's own files failed with.
    pub fn ingest_path(&self, path: &Path, progress: &mut Progress<'_>) -> Result<Ingested, ContentError> {
        let mut batch = self.batch();
        let ingested = batch.add_path(path, progress)?;
        batch.commit()?;
        Ok(ingested)
    }

    /// Takes in an open file from its first byte; `path` is what messages call it.
    ///
    /// # Errors
    /// As [`Content::ingest_path`].
    pub fn ingest_file(&self, file: &File, path: &Path, progress: &mut Progress<'_>) -> Result<Ingested, ContentError> {
        let mut batch = self.batch();
        let ingested = batch.add_file(file, path, progress)?;
        batch.commit()?;
        Ok(ingested)
    }

    /// Takes in bytes.
    ///
    /// # Errors
    /// `NoSpace`, or what the store's own files failed with.
    pub fn ingest_bytes(&self, bytes: &[u8]) -> Result<Ingested, ContentError> {
        let mut batch = self.batch();
        let ingested = batch.add_bytes(bytes)?;
        batch.commit()?;
        Ok(ingested)
    }

    /// Starts a batch: many blobs, few commits.
    #[must_use]
    pub fn batch(&self) -> Batch {
        Batch { content: self.clone(), staged: Vec::new(), inline_bytes: 0, assemblies: Vec::new() }
    }
}

/// Blobs that become whole together. What was added is held when [`Batch::commit`] has returned, some of it earlier; what a
/// batch that is dropped had not committed is gone.
#[derive(Debug)]
pub struct Batch {
    content: Content,
    staged: Vec<Staged>,
    inline_bytes: u64,
    assemblies: Vec<(Assembly, Ingested)>,
}

impl Batch {
    /// Adds the file at `path`. An error leaves the batch as it was, so that others are not affected.
    ///
    /// # Errors
    /// As [`Content::ingest_path`].
    pub fn add_path(&mut self, path: &Path, progress: &mut Progress<'_>) -> Result<Ingested, ContentError> {
        // Without O_NONBLOCK a named pipe would keep us here until somebody writes to it.
        let flags = rustix::fs::OFlags::NONBLOCK.bits();
        let file = File::options()
            .read(true)
            .custom_flags(i32::try_from(flags).expect("open flags fit an int"))
            .open(path)
            .map_err(|error| open_error(path, error))?;
        let (staged, _) = self.content.0.stage_file(&file, path, Sharing::WherePossible, progress)?;
        let opened = file.metadata().map_err(|error| ContentError::unreadable(path, error))?;
        let now = fs::metadata(path).map_err(|error| open_error(path, error))?;
        if (now.dev(), now.ino()) != (opened.dev(), opened.ino()) {
            return Err(ContentError::Changed(path.to_owned()));
        }
        self.add(staged)
    }

    /// Adds an open file from its first byte; `path` is what messages call it.
    ///
    /// # Errors
    /// As [`Content::ingest_path`].
    pub fn add_file(&mut self, file: &File, path: &Path, progress: &mut Progress<'_>) -> Result<Ingested, ContentError> {
        self.add_shared(file, path, Sharing::WherePossible, progress).map(|(ingested, _)| ingested)
    }

    /// The same, for who wants to know or to say whether bytes are copied. What fits into the index (16 KiB) always is.
    ///
    /// # Errors
    /// `NotShared` where they may not be, and as [`Content::ingest_path`].
    pub fn add_shared(
        &mut self,
        file: &File,
        path: &Path,
        sharing: Sharing,
        progress: &mut Progress<'_>,
    ) -> Result<(Ingested, Shared), ContentError> {
        let (staged, shared) = self.content.0.stage_file(file, path, sharing, progress)?;
        Ok((self.add(staged)?, shared))
    }

    /// Adds bytes.
    ///
    /// # Errors
    /// As [`Content::ingest_bytes`].
    pub fn add_bytes(&mut self, bytes: &[u8]) -> Result<Ingested, ContentError> {
        let staged = self.content.0.stage_bytes(bytes)?;
        self.add(staged)
    }

    /// Adds an assembly that has all its bytes, so that many small ones share a commit.
    ///
    /// # Errors
    /// As [`Assembly::finish`].
    pub fn add_assembly(&mut self, assembly: &Assembly) -> Result<Ingested, ContentError> {
        let (ingested, staged) = assembly.stage()?;
        self.assemblies.push((assembly.clone(), ingested));
        match staged {
            Some(staged) => self.add(staged),
            None => Ok(ingested),
        }
    }

    /// Makes whole what was added and is not yet.
    ///
    /// # Errors
    /// When it could not be made durable; then none of it is held.
    pub fn commit(mut self) -> Result<(), ContentError> {
        self.flush()
    }

    pub(super) fn store(&self) -> &Inner {
        &self.content.0
    }

    pub(super) fn add(&mut self, staged: Staged) -> Result<Ingested, ContentError> {
        let blob = staged.blob;
        if let StagedBytes::Inline(_) = staged.bytes {
            self.inline_bytes += blob.size;
        }
        self.staged.push(staged);
        if self.inline_bytes >= BATCH_INLINE_BYTES || self.staged.len() >= BATCH_FILES {
            self.flush()?;
        }
        Ok(blob)
    }

    fn flush(&mut self) -> Result<(), ContentError> {
        self.inline_bytes = 0;
        let assemblies = std::mem::take(&mut self.assemblies);
        self.content.0.commit(std::mem::take(&mut self.staged))?;
        assemblies.into_iter().try_for_each(|(assembly, ingested)| assembly.settle(ingested))
    }
}

fn open_error(path: &Path, error: io::Error) -> ContentError {
    match error.kind() {
        io::ErrorKind::NotFound => ContentError::Vanished(path.to_owned()),
        _ => ContentError::unreadable(path, error),
    }
}

/// What tells a file from itself after somebody wrote to it: size, mtime and ctime.
fn version(metadata: &fs::Metadata) -> (u64, [i64; 4]) {
    (metadata.len(), [metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec()])
}

impl Inner {
    fn stage_bytes(&self, bytes: &[u8]) -> Result<Staged, ContentError> {
        if bytes.len() as u64 <= MAX_INLINE_BYTES {
            return Ok(stage_inline(bytes.to_vec()));
        }
        let (file, data) = self.layout.temp()?;
        self.ensure_free(bytes.len() as u64)?;
        let mut rest = bytes;
        let mut fill = |at: u64, buffer: &mut [u8]| {
            let (next, left) = rest.split_at(buffer.len());
            buffer.copy_from_slice(next);
            rest = left;
            self.write_at(&file, &data.path, buffer, at)
        };
        let (blob, outboard) = self.hash_large(bytes.len() as u64, &mut fill)?;
        Ok(Staged { blob, bytes: StagedBytes::Files { data, outboard } })
    }

    fn stage_file(
        &self,
        file: &File,
        path: &Path,
        sharing: Sharing,
        progress: &mut Progress<'_>,
    ) -> Result<(Staged, Shared), ContentError> {
        let look = || file.metadata().map_err(|error| ContentError::unreadable(path, error));
        let metadata = look()?;
        if !metadata.is_file() {
            return Err(ContentError::NotAFile(path.to_owned()));
        }
        let size = metadata.len();
        let (staged, shared) = if size <= MAX_INLINE_BYTES {
            let mut bytes = vec![0; usize::try_from(size).expect("a small size")];
            read_source(file, path, &mut bytes, 0)?;
            report(progress, size)?;
            (stage_inline(bytes), Shared::Copied)
        } else {
            self.stage_large(file, path, size, sharing, progress)?
        };
        let (before, mut after) = (version(&metadata), version(&look()?));
        if shared == Shared::HardLinked {
            // One more name is a change of the file's too.
            after.1[2..].copy_from_slice(&before.1[2..]);
        }
        if after != before {
            return Err(ContentError::Changed(path.to_owned()));
        }
        Ok((staged, shared))
    }

    fn stage_large(
        &self,
        file: &File,
        path: &Path,
        size: u64,
        sharing: Sharing,
        progress: &mut Progress<'_>,
    ) -> Result<(Staged, Shared), ContentError> {
        let (copy, data) = self.layout.temp()?;
        let not = |why| ContentError::NotShared { what: path.display().to_string(), why };
        let shared = share(file, &copy, &data.path, sharing).map_err(not)?.unwrap_or(Shared::Copied);
        if shared == Shared::Copied {
            self.ensure_free(size)?;
        }
        let mut write_back = WriteBack::default();
        let mut fill = |at: u64, buffer: &mut [u8]| {
            // A clone is hashed itself: nobody can write to it.
            let source = if shared == Shared::Reflinked { &copy } else { file };
            read_source(source, path, buffer, at)?;
            if shared == Shared::Copied {
                self.write_at(&copy, &data.path, buffer, at)?;
                write_back.begin(&copy, at + buffer.len() as u64);
            }
            report(progress, at + buffer.len() as u64)
        };
        let (blob, outboard) = self.hash_large(size, &mut fill)?;
        fault::point("content.ingest.copied");
        Ok((Staged { blob, bytes: StagedBytes::Files { data, outboard } }, shared))
    }

    /// Hashes bytes that `fill` gives in order, into a new temp outboard.
    pub(super) fn hash_large(
        &self,
        size: u64,
        fill: &mut Fill<'_>,
    ) -> Result<(Ingested, super::layout::StagedPath), ContentError> {
        let (file, outboard) = self.layout.temp()?;
        let mut write = |at: u64, pairs: &[u8]| self.write_at(&file, &outboard.path, pairs, at);
        let (hash, sha256) = hash_both(size, fill, &mut write)?;
        Ok((Ingested { hash, sha256, size }, outboard))
    }

    /// Writes to one of the store's own files.
    pub(super) fn write_at(&self, file: &File, path: &Path, bytes: &[u8], at: u64) -> Result<(), ContentError> {
        (at..)
            .step_by(WRITE_BYTES as usize)
            .zip(bytes.chunks(WRITE_BYTES as usize))
            .try_for_each(|(at, piece)| file.write_all_at(piece, at))
            .map_err(|error| self.layout.write_error("write", path, bytes.len() as u64, error))
    }
}

/// Fills the buffer with the bytes at an offset.
type Fill<'a> = dyn FnMut(u64, &mut [u8]) -> Result<(), ContentError> + 'a;

pub(super) fn stage_inline(bytes: Vec<u8>) -> Staged {
    let hash = BlobHash::from_bytes(*blake3::hash(&bytes).as_bytes());
    let sha256 = Sha256Digest::from_bytes(Sha256::digest(&bytes).into());
    Staged { blob: Ingested { hash, sha256, size: bytes.len() as u64 }, bytes: StagedBytes::Inline(bytes) }
}

fn read_source(file: &File, path: &Path, buffer: &mut [u8], at: u64) -> Result<(), ContentError> {
    file.read_exact_at(buffer, at).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => ContentError::Changed(path.to_owned()),
        io::ErrorKind::NotFound => ContentError::Vanished(path.to_owned()),
        _ => ContentError::unreadable(path, error),
    })
}

pub(super) fn report(progress: &mut Progress<'_>, done: u64) -> Result<(), ContentError> {
    match progress(done) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(ContentError::Stopped),
    }
}

/// Both hashes in one pass, SHA-256 on a thread of its own.
fn hash_both(
    size: u64,
    fill: &mut Fill<'_>,
    outboard: &mut tree::WriteAt<'_, ContentError>,
) -> Result<(BlobHash, Sha256Digest), ContentError> {
    std::thread::scope(|scope| {
        let (full, to_hash) = sync_channel::<Arc<Vec<u8>>>(RING);
        let (hashed, free) = sync_channel(RING);
        let sha256 = scope.spawn(move || sha256_of_all(&to_hash, &hashed));
        let mut ring: Vec<Arc<Vec<u8>>> = (0..RING).map(|_| Arc::default()).collect();
        let (mut at, mut turn) = (0, 0);
        let mut next = |length: usize| {
            if turn >= RING {
                free.recv().expect("the other thread answers for each buffer");
            }
            let slot = &mut ring[turn % RING];
            turn += 1;
            let buffer = Arc::get_mut(slot).expect("the other thread has answered for this buffer");
            buffer.resize(length, 0);
            fill(at, buffer)?;
            at += length as u64;
            full.send(Arc::clone(slot)).expect("the other thread listens until this end is dropped");
            Ok(Arc::clone(slot))
        };
        let hash = tree::build(size, &mut next, outboard);
        drop(full);
        let sha256 = sha256.join().expect("hashing does not panic");
        Ok((BlobHash::from_bytes(hash?), sha256))
    })
}

fn sha256_of_all(buffers: &Receiver<Arc<Vec<u8>>>, done: &SyncSender<()>) -> Sha256Digest {
    let mut hasher = Sha256::new();
    for buffer in buffers {
        hasher.update(&*buffer);
        drop(buffer);
        // Nobody waits for the last answers.
        let _ = done.send(());
    }
    Sha256Digest::from_bytes(hasher.finalize().into())
}

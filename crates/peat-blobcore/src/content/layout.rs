//! Where the store's files are, and the few things that are done with whole files and directories.
//!
//! `blobs/<first two digits>/<hash>` and `<hash>.outboard` are blobs that the index knows; `assemblies/<hash>-<size>.data`,
//! `.outboard` and `.bitmap` are blobs that are not whole yet; `tmp/` is emptied at each start. A file `.recipe` beside either is made
//! again when it is missing. Nothing here decides anything.

use std::fs::{self, File};
use std::io;
use std::num::NonZero;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::ContentError;
use crate::model::{BlobHash, Timestamp};

/// The directories and file names of a store.
#[derive(Debug)]
pub(super) struct Layout {
    dir: PathBuf,
    next_temp: AtomicU64,
}

/// The file of an assembly that holds its bytes; it alone makes the assembly exist.
pub(super) const DATA: &str = "data";
/// The file of an assembly that holds its hash pairs.
pub(super) const OUTBOARD: &str = "outboard";
/// The file of an assembly that says which groups it may hold.
pub(super) const BITMAP: &str = "bitmap";
/// The file of a blob, or of an assembly, that holds the blob's recipe.
pub(super) const RECIPE: &str = "recipe";

impl Layout {
    /// Makes what is missing of the directories, durably.
    pub(super) fn create(dir: &Path) -> Result<Self, ContentError> {
        let layout = Self { dir: dir.to_owned(), next_temp: AtomicU64::new(0) };
        let blobs = dir.join("blobs");
        for path in [layout.temp_dir(), layout.assembly_dir(), blobs.clone()] {
            fs::create_dir_all(&path).map_err(ContentError::io("create", &path))?;
        }
        for first in 0..=u8::MAX {
            let path = blobs.join(format!("{first:02x}"));
            match fs::create_dir(&path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(ContentError::io("create", &path)(error));
                }
                _ => {}
            }
        }
        for path in [&blobs, dir] {
            sync_dir(path)?;
        }
        Ok(layout)
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn index(&self) -> PathBuf {
        self.dir.join("content.redb")
    }

    pub(super) fn temp_dir(&self) -> PathBuf {
        self.dir.join("tmp")
    }

    pub(super) fn assembly_dir(&self) -> PathBuf {
        self.dir.join("assemblies")
    }

    /// The directories that hold blobs.
    pub(super) fn blob_dirs(&self) -> impl Iterator<Item = PathBuf> {
        (0..=u8::MAX).map(|first| self.dir.join("blobs").join(format!("{first:02x}")))
    }

    pub(super) fn blob(&self, hash: &BlobHash) -> PathBuf {
        let name = hash.to_string();
        self.dir.join("blobs").join(&name[..2]).join(name)
    }

    pub(super) fn outboard(&self, hash: &BlobHash) -> PathBuf {
        self.blob(hash).with_extension(OUTBOARD)
    }

    pub(super) fn recipe(&self, hash: &BlobHash) -> PathBuf {
        self.blob(hash).with_extension(RECIPE)
    }

    pub(super) fn assembly(&self, hash: &BlobHash, size: u64, part: &str) -> PathBuf {
        self.assembly_dir().join(format!("{hash}-{size}.{part}"))
    }

    /// Which assembly, and which part of it, a file name says.
    pub(super) fn parse_assembly(name: &str) -> Option<(BlobHash, u64, &str)> {
        let (stem, part) = name.split_once('.')?;
        let (hash, size) = stem.split_once('-')?;
        Some((hash.parse().ok()?, size.parse().ok()?, part))
    }

    /// A new temp file, open for reading and writing.
    pub(super) fn temp(&self) -> Result<(File, StagedPath), ContentError> {
        let path = self.temp_dir().join(self.next_temp.fetch_add(1, Ordering::Relaxed).to_string());
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(|error| self.write_error("create", &path, 0, error))?;
        Ok((file, StagedPath { path, temp: true }))
    }

    /// Bytes that this process may still write to the store's file system.
    pub(super) fn free(&self) -> Result<u64, ContentError> {
        let stat = rustix::fs::statvfs(&self.dir)
            .map_err(|error| ContentError::io("look for free space in", &self.dir)(error.into()))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// The error for a write that failed: a full disk has a name of its own.
    pub(super) fn write_error(&self, action: &'static str, path: &Path, wanted: u64, error: io::Error) -> ContentError {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                ContentError::NoSpace { dir: self.dir.clone(), wanted, free: self.free().unwrap_or(0), reserve: 0 }
            }
            _ => ContentError::io(action, path)(error),
        }
    }
}

/// Most bytes that are written at a time. For longer writes Linux looks for longer runs of free pages, and where memory is full of
/// cached files it moves others' pages about to make some: that costs more than all else about a write.
pub(super) const WRITE_BYTES: u64 = 32 * 1024;

/// Begins to write back what was written to a file from its first byte on, so that the sync in the end has little left to wait for.
#[derive(Debug, Default)]
pub(super) struct WriteBack {
    begun: u64,
}

impl WriteBack {
    const STEP_BYTES: u64 = 8 * 1024 * 1024;

    /// Begins with what was written up to `end`, when that is worth the call. It is advice: what fails here shows in the sync.
    pub(super) fn begin(&mut self, file: &File, end: u64) {
        if let Some(length) = NonZero::new(end.saturating_sub(self.begun)).filter(|length| length.get() >= Self::STEP_BYTES) {
            // Linux starts to write dirty pages when it hears this, and drops clean ones only.
            let _ = rustix::fs::fadvise(file, self.begun, Some(length), rustix::fs::Advice::DontNeed);
            self.begun = end;
        }
    }
}

/// A file that waits to become a blob's.
#[derive(Debug)]
pub(super) struct StagedPath {
    pub(super) path: PathBuf,
    /// Whether the file is nobody's once this is dropped; an assembly's stays.
    pub(super) temp: bool,
}

impl Drop for StagedPath {
    fn drop(&mut self) {
        if self.temp {
            // Renamed ones are not there any more; what cannot be removed now is removed at the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Makes a directory's names durable.
pub(super) fn sync_dir(path: &Path) -> Result<(), ContentError> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(ContentError::io("sync", path))
}

/// Removes a file; one that is gone already is fine.
pub(super) fn remove(path: &Path) -> Result<(), ContentError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(ContentError::io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Bytes of disk that a file takes (a sparse one takes less than its length); none when it is gone.
pub(super) fn allocated(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.blocks() * 512)
}

/// When a file was last written to; the epoch when it is gone.
pub(super) fn modified(path: &Path) -> Timestamp {
    let seconds = fs::metadata(path).map_or(0, |metadata| metadata.mtime());
    Timestamp::from_millis(u64::try_from(seconds).unwrap_or(0).saturating_mul(1000))
}

/// The names in a directory that are text; the store makes no others.
pub(super) fn names(path: &Path) -> Result<Vec<String>, ContentError> {
    let fail = |error| ContentError::io("list", path)(error);
    let mut names = Vec::new();
    for entry in fs::read_dir(path).map_err(fail)? {
        names.extend(entry.map_err(fail)?.file_name().into_string());
    }
    Ok(names)
}

//! A whole blob into a file of somebody else's: shared with it where the file system can, else copied.
//!
//! Either way every byte that the file shows afterwards is verified: here, or by who reads back what it got. Its name and its
//! durability are the caller's.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::layout::{WRITE_BYTES, WriteBack};
use super::tree::{GroupRange, Mismatch, Visitor};
use super::{Content, ContentError, GROUP_BYTES, MAX_BLOCK_BYTES};
use crate::model::BlobHash;

/// How a blob got into a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exported {
    /// The file shares the blob's extents, and takes no space until it is written to.
    Reflinked,
    /// The file has bytes of its own.
    Copied,
}

impl Content {
    /// Makes `file`, which is empty, the blob's bytes. `path` is what messages call it. When it fails the file is to be thrown
    /// away. It is neither synced nor renamed here.
    ///
    /// # Errors
    /// `Absent` or `Damaged` when the blob is not held (any more), or what writing failed with.
    pub fn export(&self, hash: &BlobHash, file: &File, path: &Path) -> Result<Exported, ContentError> {
        let reader = self.open_blob(hash)?;
        if reader.file().is_some_and(|data| rustix::fs::ioctl_ficlone(file, data).is_ok()) {
            // The extents are the same, so that this says of both files that they are right.
            reader.visit(&mut Whole)?;
            return Ok(Exported::Reflinked);
        }
        ensure_fits(file, reader.size()).map_err(ContentError::io("write", path))?;
        let mut writer = Writer { file, error: None };
        let read = reader.visit(&mut writer);
        match writer.error {
            Some(error) => Err(ContentError::io("write", path)(error)),
            None => read.map(|()| Exported::Copied),
        }
    }

    /// The same, for who hashes what it got: the kernel copies, and a large blob is not read here. `written` is called with the
    /// number of bytes that the file has so far, while they are in the cache.
    ///
    /// # Errors
    /// As [`Content::export`], and what `written` fails with.
    pub(crate) fn export_unverified(
        &self,
        hash: &BlobHash,
        file: &File,
        path: &Path,
        written: &mut dyn FnMut(u64) -> io::Result<()>,
    ) -> Result<Exported, ContentError> {
        let reader = self.open_blob(hash)?;
        let fail = |error| ContentError::io("write", path)(error);
        let Some(data) = reader.file() else { return self.export(hash, file, path) };
        if rustix::fs::ioctl_ficlone(file, data).is_ok() {
            return written(reader.size()).map(|()| Exported::Reflinked).map_err(fail);
        }
        ensure_fits(file, reader.size()).map_err(fail)?;
        match copy(data, file, reader.size(), written) {
            Ok(()) => Ok(Exported::Copied),
            // What cannot be read here is damage, which has to be marked.
            Err(error) => reader.visit(&mut Whole).and(Err(fail(error))),
        }
    }

    /// Reads a blob to know whether it is right; one that is not gets marked.
    ///
    /// # Errors
    /// `Absent` or `Damaged`, or what the store's files failed with.
    pub(crate) fn verify(&self, hash: &BlobHash) -> Result<(), ContentError> {
        self.open_blob(hash)?.visit(&mut Whole)
    }
}

/// Copies what the first `size` bytes of a file are, fewer when it has fewer.
fn copy(from: &File, mut to: &File, size: u64, written: &mut dyn FnMut(u64) -> io::Result<()>) -> io::Result<()> {
    let (mut at, mut write_back) = (0, WriteBack::default());
    while at < size {
        // The standard library leaves this to the kernel.
        let copied = io::copy(&mut from.take(WRITE_BYTES.min(size - at)), &mut to)?;
        if copied == 0 {
            break;
        }
        at += copied;
        if at.is_multiple_of(MAX_BLOCK_BYTES) || at == size {
            written(at)?;
            write_back.begin(to, at);
        }
    }
    Ok(())
}

/// Whether a copy fits, so that one which does not never fills the disk first.
fn ensure_fits(file: &File, size: u64) -> std::io::Result<()> {
    let stat = rustix::fs::fstatvfs(file)?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if size <= free {
        return Ok(());
    }
    let why = format!("no space for {size} bytes: {free} are free");
    Err(std::io::Error::new(std::io::ErrorKind::StorageFull, why))
}

/// Wants all of a blob, for nothing but to know that it is right.
struct Whole;

impl Visitor for Whole {
    fn wants(&self, _groups: &GroupRange) -> bool {
        true
    }

    fn bad(&mut self, _groups: &GroupRange) -> Result<(), Mismatch> {
        Err(Mismatch)
    }
}

struct Writer<'a> {
    file: &'a File,
    error: Option<std::io::Error>,
}

impl Visitor for Writer<'_> {
    fn wants(&self, _groups: &GroupRange) -> bool {
        self.error.is_none()
    }

    fn group(&mut self, group: u64, bytes: &[u8]) {
        self.error = self.file.write_all_at(bytes, group * GROUP_BYTES).err();
    }

    fn bad(&mut self, _groups: &GroupRange) -> Result<(), Mismatch> {
        Err(Mismatch)
    }
}

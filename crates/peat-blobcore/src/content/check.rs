//! The scrub: everything that the index knows is read and held against its hash, everything on disk against the index.
//!
//! Damage is mended from what is here if it can be (a wrong outboard is made anew), and marked otherwise, so that the blob is
//! fetched again. Nothing that could still be somebody's is removed.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::commit::{Staged, StagedBytes};
use super::index::Row;
use super::layout::{self, OUTBOARD, StagedPath};
use super::tree::{GroupRange, Mismatch, Visitor};
use super::{Content, ContentError, Inner, MAX_BLOCK_BYTES, Progress, ingest, lock};
use crate::model::BlobHash;

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Blobs that were read.
    pub checked: u64,
    /// Blobs whose bytes are wrong; they are marked, and their assembly fetches what is.
    pub damaged: Vec<BlobHash>,
    /// Blobs whose files are gone; marked likewise.
    pub missing: Vec<BlobHash>,
    /// Blobs that were damaged, and are right again.
    pub repaired: Vec<BlobHash>,
    /// Files that the index did not know and that were no blob; they were removed.
    pub orphans: u64,
    /// Blobs that the index did not know, and knows again.
    pub adopted: u64,
}

impl CheckReport {
    /// Whether nothing was wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        *self == Self { checked: self.checked, ..Self::default() }
    }
}

impl Content {
    /// Reads everything. Others can work meanwhile. `progress` is called with the bytes read so far.
    ///
    /// # Errors
    /// `Stopped`, or when the index or a directory cannot be read or written. Damage is not an error.
    pub fn check(&self, progress: &mut Progress<'_>) -> Result<CheckReport, ContentError> {
        let mut report = CheckReport::default();
        let mut read = 0;
        self.0.each_blob(&mut |hash, row| {
            self.0.check_blob(&hash, &row, &mut report, &mut |bytes| progress(read + bytes))?;
            read += row.size;
            ingest::report(progress, read)
        })?;
        self.0.check_orphans(&mut report)?;
        Ok(report)
    }
}

/// Wants all of a blob, to know that it is right.
struct Whole<'a, 'p> {
    progress: &'a mut Progress<'p>,
    read: u64,
    stopped: bool,
}

impl Visitor for Whole<'_, '_> {
    fn wants(&self, _groups: &GroupRange) -> bool {
        !self.stopped
    }

    fn group(&mut self, _group: u64, bytes: &[u8]) {
        self.read += bytes.len() as u64;
        if self.read.is_multiple_of(MAX_BLOCK_BYTES) {
            self.stopped = (self.progress)(self.read).is_break();
        }
    }

    fn bad(&mut self, _groups: &GroupRange) -> Result<(), Mismatch> {
        Err(Mismatch)
    }
}

impl Inner {
    pub(super) fn check_blob(
        &self,
        hash: &BlobHash,
        row: &Row,
        report: &mut CheckReport,
        progress: &mut Progress<'_>,
    ) -> Result<(), ContentError> {
        let mut whole = Whole { progress, read: 0, stopped: false };
        let source = self.open_source(hash, row).map(|source| source.walk(hash, row.size, &mut whole));
        if whole.stopped {
            return Err(ContentError::Stopped);
        }
        report.checked += 1;
        let found = match source {
            Ok(Ok(())) => {
                let _names = lock(&self.names);
                if row.damaged && self.mended(hash, row)? {
                    report.repaired.push(*hash);
                }
                return Ok(());
            }
            Err(ContentError::Damaged(_)) if row.inline || !self.layout.blob(hash).exists() => &mut report.missing,
            Ok(_) | Err(ContentError::Damaged(_)) => {
                if !row.inline && self.repair(hash, row)? {
                    report.repaired.push(*hash);
                    return Ok(());
                }
                &mut report.damaged
            }
            Err(error) => return Err(error),
        };
        // False when it was collected, or made whole again, while it was looked at.
        if self.index.mark(hash, row.added, true)? {
            lock(&self.lost).insert(*hash);
            found.push(*hash);
        }
        Ok(())
    }

    /// Takes in files that are a blob without a row (the process ended between the two), and removes what is none.
    pub(super) fn check_orphans(&self, report: &mut CheckReport) -> Result<(), ContentError> {
        for dir in self.layout.blob_dirs() {
            let mut orphans = Vec::new();
            {
                let _names = lock(&self.names);
                for name in layout::names(&dir)? {
                    if let Some((stem, layout::RECIPE)) = name.split_once('.') {
                        // It is no more than its blob: it goes without being counted, and is made again when it is needed.
                        if stem.parse().is_ok_and(|hash| matches!(self.index.row(&hash), Ok(None))) {
                            layout::remove(&dir.join(&name))?;
                        }
                        continue;
                    }
                    let stem = name.strip_suffix(OUTBOARD).and_then(|stem| stem.strip_suffix('.')).unwrap_or(&name);
                    if let Ok(hash) = stem.parse::<BlobHash>()
                        && self.index.row(&hash)?.is_none_or(|row| row.inline)
                    {
                        orphans.push((hash, stem == name));
                    }
                }
            }
            // Data before outboards: taking in data replaces its outboard.
            orphans.sort_by_key(|(hash, is_data)| (*hash, !is_data));
            for (hash, is_data) in orphans {
                if is_data && self.adopt(&hash)? {
                    report.adopted += 1;
                } else {
                    report.orphans += u64::from(self.remove_orphan(&hash, is_data)?);
                }
            }
        }
        Ok(())
    }

    /// Takes in a data file under its final name, if it is what its name says. It is moved only by becoming a blob.
    fn adopt(&self, hash: &BlobHash) -> Result<bool, ContentError> {
        let path = self.layout.blob(hash);
        let Ok(file) = File::open(&path) else { return Ok(false) };
        let size = file.metadata().map_err(ContentError::io("read", &path))?.len();
        let mut fill = |at, buffer: &mut [u8]| file.read_exact_at(buffer, at).map_err(ContentError::io("read", &path));
        let (blob, outboard) = match self.hash_large(size, &mut fill) {
            Ok(hashed) => hashed,
            Err(error @ ContentError::NoSpace { .. }) => return Err(error),
            Err(_) => return Ok(false),
        };
        if blob.hash != *hash || size <= super::MAX_INLINE_BYTES {
            return Ok(false);
        }
        let data = StagedPath { path, temp: false };
        self.commit(vec![Staged { blob, bytes: StagedBytes::Files { data, outboard } }])?;
        Ok(true)
    }

    fn remove_orphan(&self, hash: &BlobHash, is_data: bool) -> Result<bool, ContentError> {
        let _names = lock(&self.names);
        if self.index.row(hash)?.is_some_and(|row| !row.inline) {
            return Ok(false);
        }
        layout::remove(&if is_data { self.layout.blob(hash) } else { self.layout.outboard(hash) })?;
        Ok(true)
    }
}

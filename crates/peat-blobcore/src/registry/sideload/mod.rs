//! Sideload: images that lie about as files, served as if they had been pushed. A pattern says which file is which image; nothing
//! is copied until somebody asks, and what is copied then is the store's for as long as a lease keeps it, whatever becomes of the
//! file.
//!
//! - `pattern` says what a path is, `place` finds and opens files, `examine` reads one and says what image it is
//! - `index` keeps that over restarts, `known` has it in memory, `supply` takes blobs from a file into the store
//! - `elsewhere` is how the registry asks
//!
//! A file is looked at again whenever its size, times or inode are not what they were. Must never write beside the store and the
//! index, follow a link beneath a pattern's root, or serve what no pattern matches.

mod elsewhere;
mod examine;
mod index;
mod known;
mod pattern;
mod place;
mod supply;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

pub use pattern::{Pattern, PatternError};

use super::archive::Limits;
use super::closure::{Closure, is_manifest};
use super::{Part, Registry, RegistryError};
use crate::model::EndpointId;
use crate::oci::{Descriptor, Digest, Manifest, Repository, Tag};
use index::{Index, LiesRow};
use known::{Entry, Known};

/// Images that are served from files: a cheap handle, to be cloned.
#[derive(Clone)]
pub struct Sideload(Arc<Inner>);

struct Inner {
    registry: Registry,
    me: EndpointId,
    patterns: Vec<Pattern>,
    limits: Limits,
    index: Index,
    known: RwLock<Known>,
    /// Held while a file is read to find out what it is: one at a time, so that they cost one thread and one disk.
    examining: Mutex<()>,
    /// One asker at a time waits for that on a thread.
    asking: tokio::sync::Mutex<()>,
    changed: tokio::sync::Notify,
}

/// An image of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SideloadedImage {
    /// The file, or the directory of a layout.
    pub path: PathBuf,
    /// The repository that the pattern names.
    pub repository: Repository,
    /// The tag that it names.
    pub tag: Tag,
    /// The image's manifest.
    pub digest: Digest,
    /// What else is there: manifests about the image, or about each other.
    pub about: Vec<Digest>,
    /// The bytes of all of it.
    pub size: u64,
}

/// A file that matches a pattern and is not served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedFile {
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub reason: String,
}

impl Sideload {
    /// Serves the files that these patterns match from the registry, as far as the index, the file `index`, knows them from before;
    /// [`Sideload::scan`] finds the others. `me` is who claims that they are what they are. Blocks.
    ///
    /// # Errors
    /// When the index cannot be read or written.
    pub fn open(index: &Path, registry: Registry, me: EndpointId, patterns: Vec<Pattern>) -> Result<Self, RegistryError> {
        let index = Index::open(index)?;
        let mut known = Known::default();
        for (path, row) in index.files()? {
            let entry = entry_of(&patterns, &path).and_then(|named| Entry::read(named, row).ok());
            if entry.is_none_or(|entry| known.insert(entry).is_err()) {
                index.remove(&path)?;
            }
        }
        Ok(Self(Arc::new(Inner {
            registry,
            me,
            patterns,
            limits: Limits::default(),
            index,
            known: RwLock::new(known),
            examining: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
            changed: tokio::sync::Notify::new(),
        })))
    }

    /// Looks for new, changed and removed files. Blocks for as long as it takes to read those that are new or changed.
    ///
    /// # Errors
    /// When the index cannot be written.
    pub fn scan(&self) -> Result<(), RegistryError> {
        let mut seen = BTreeSet::new();
        for number in 0..self.0.patterns.len() {
            let mut found = Vec::new();
            let pattern = &self.0.patterns[number];
            let whole = place::walk(pattern, &mut |path| {
                if found.len() < known::MAX_FILES {
                    found.push(path.to_owned());
                }
            });
            if !whole || found.len() == known::MAX_FILES {
                tracing::warn!(%pattern, "there are too many files to look at all of them");
            }
            for path in found {
                if let Some(path) = self.look(number, &path)? {
                    seen.insert(path);
                }
            }
        }
        let others: Vec<_> = self.known().entries().filter(|entry| !seen.contains(&entry.path)).cloned().collect();
        for entry in others {
            if !self.is_current(&entry) {
                self.forget(&entry)?;
            }
        }
        Ok(())
    }

    /// Makes sure that a file is known as it is now; its path, unless nothing that can be served is there.
    fn look(&self, number: usize, beneath: &str) -> Result<Option<PathBuf>, RegistryError> {
        let pattern = &self.0.patterns[number];
        let path = pattern.root().join(beneath);
        // What an earlier pattern speaks of is its.
        let Some(named) = entry_of(&self.0.patterns, &path).filter(|named| named.pattern == number) else { return Ok(None) };
        let _one = self.0.examining.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.known().entry(&path);
        if before.as_ref().is_some_and(|entry| self.is_current(entry)) {
            return Ok(Some(path));
        }
        if let Some(before) = before {
            self.forget(&before)?;
        }
        if self.known().is_full() {
            tracing::warn!(path = %path.display(), "so many files are served already: this one is not looked at");
            return Ok(None);
        }
        let looked = examine::examine(pattern.root(), beneath, (&named.repository, &named.tag), self.0.limits);
        let Some(row) = looked else { return Ok(None) };
        self.0.index.put(&path, &row)?;
        let entry = Entry::read(named, row)?;
        match &entry.image {
            Ok(image) => {
                tracing::info!(path = %path.display(), repository = %entry.repository, tag = %entry.tag, digest = %image.digest(), "an image is served from a file");
            }
            Err(reason) => tracing::warn!(path = %path.display(), %reason, "a file is not served"),
        }
        match self.known_mut().insert(entry) {
            Ok(()) => self.0.changed.notify_one(),
            Err(why) => {
                tracing::warn!(path = %path.display(), why, "a file is not served");
                self.0.index.remove(&path)?;
            }
        }
        Ok(Some(path))
    }

    /// Whether the file is what it was when it was looked at.
    fn is_current(&self, entry: &Entry) -> bool {
        place::is_as_before(self.0.patterns[entry.pattern].root(), &entry.beneath, &entry.stamps)
    }

    /// A file is gone, or is another.
    fn forget(&self, entry: &Entry) -> Result<(), RegistryError> {
        self.known_mut().remove(&entry.path);
        self.0.index.remove(&entry.path)?;
        if entry.image.is_ok() {
            tracing::info!(path = %entry.path.display(), "a file is gone or has changed: its image is not served any more");
        }
        self.0.changed.notify_one();
        Ok(())
    }

    /// Returns after something was found to have changed.
    pub async fn changed(&self) {
        self.0.changed.notified().await;
    }

    /// The images that are served.
    #[must_use]
    pub fn images(&self) -> Vec<SideloadedImage> {
        self.known().entries().filter_map(|entry| entry.describe()).collect()
    }

    /// The files that match a pattern and are not served, each with why.
    #[must_use]
    pub fn refused(&self) -> Vec<RefusedFile> {
        let refused = |entry: &Arc<Entry>| {
            let reason = entry.image.as_ref().err()?.clone();
            Some(RefusedFile { path: entry.path.clone(), reason })
        };
        self.known().entries().filter_map(refused).collect()
    }

    /// A manifest of a file with all that it consists of, itself first; `None` when it is not served any more.
    pub(crate) fn package(&self, image: &SideloadedImage, root: &Digest) -> Option<(Manifest, Vec<Part>)> {
        let entry = self.known().entry(&image.path)?;
        let found = entry.image.as_ref().ok().filter(|found| found.digest() == image.digest)?;
        let described = found.roots.iter().find(|described| described.digest == *root)?;
        let mut closure = Closure::of(Descriptor::new(described.media_type.clone(), described.digest, described.size));
        let (mut manifest, mut parts) = (None, Vec::new());
        while let Some(named) = closure.step() {
            let blob = found.blobs.get(&named.digest)?;
            if let (true, LiesRow::Here(bytes)) = (is_manifest(&named), &blob.lies) {
                let read = closure.read(&named, bytes).ok()?;
                manifest.get_or_insert(read);
            }
            let (hash, sha256, size) = (blob.hash, blob.sha256, blob.size);
            parts.push(Part { digest: named.digest, hash, sha256, size, media_type: named.media_type });
        }
        Some((manifest?, parts))
    }

    /// What others were told of: repository, manifest and tag.
    pub(crate) fn told(&self) -> Result<BTreeSet<(Repository, Digest, Tag)>, RegistryError> {
        let read =
            |(name, digest, tag): (String, String, String)| Some((name.parse().ok()?, digest.parse().ok()?, tag.parse().ok()?));
        Ok(self.0.index.told()?.into_iter().filter_map(read).collect())
    }

    /// Notes that others are told of an image, before they are.
    pub(crate) fn note_told(&self, repository: &Repository, digest: &Digest, tag: &Tag) -> Result<(), RegistryError> {
        self.0.index.note_told(repository.as_str(), &digest.to_string(), tag.as_str())
    }

    /// Notes that others were told that it is gone.
    pub(crate) fn forget_told(&self, repository: &Repository, digest: &Digest, tag: &Tag) -> Result<(), RegistryError> {
        self.0.index.forget_told(repository.as_str(), &digest.to_string(), tag.as_str())
    }

    /// Closes the index.
    pub fn close(&self) {
        self.0.index.close();
    }

    fn known(&self) -> RwLockReadGuard<'_, Known> {
        self.0.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn known_mut(&self) -> RwLockWriteGuard<'_, Known> {
        self.0.known.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Sideload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Sideload").field(&self.0.patterns).finish()
    }
}

/// What the first pattern that matches a path says of it.
fn entry_of(patterns: &[Pattern], path: &Path) -> Option<known::NamedPath> {
    patterns.iter().enumerate().find_map(|(number, pattern)| {
        let beneath = path.strip_prefix(pattern.root()).ok()?.to_str()?;
        let (repository, tag) = pattern.read(beneath)?;
        Some(known::NamedPath { path: path.to_owned(), pattern: number, beneath: beneath.to_owned(), repository, tag })
    })
}

//! The files that were looked at, in memory, by what is asked for. Bounded: what is too much is not served.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::SideloadedImage;
use super::index::{FileRow, Found, ImageRow, LiesRow};
use super::place::Stamp;
use crate::model::{BlobHash, Sha256Digest, Timestamp};
use crate::oci::{Digest, Repository, Tag};
use crate::registry::RegistryError;
use crate::registry::catalog;

/// Most files that are known.
pub(super) const MAX_FILES: usize = 4096;
/// Most blobs of all of them.
const MAX_BLOBS: usize = 200_000;
/// Most bytes of all their manifests.
const MAX_DOCUMENTS_BYTES: usize = 64 * 1024 * 1024;

/// What a pattern says of a path.
pub(super) struct NamedPath {
    pub(super) path: PathBuf,
    pub(super) pattern: usize,
    pub(super) beneath: String,
    pub(super) repository: Repository,
    pub(super) tag: Tag,
}

/// A file that was looked at.
pub(super) struct Entry {
    pub(super) path: PathBuf,
    pub(super) pattern: usize,
    /// Its path beneath the pattern's root.
    pub(super) beneath: String,
    pub(super) repository: Repository,
    pub(super) tag: Tag,
    pub(super) stamps: Vec<Stamp>,
    /// What it is, or why it is not served.
    pub(super) image: Result<Image, String>,
    /// Held while something is taken from it.
    pub(super) taking: tokio::sync::Mutex<()>,
}

/// An image of a file.
pub(super) struct Image {
    /// The image's manifest first, then those about it.
    pub(super) roots: Vec<Root>,
    pub(super) blobs: BTreeMap<Digest, Blob>,
    pub(super) compressed: bool,
}

pub(super) struct Root {
    pub(super) digest: Digest,
    pub(super) media_type: String,
    pub(super) size: u64,
    pub(super) subject: Option<Digest>,
    pub(super) artifact_type: Option<String>,
}

pub(super) struct Blob {
    pub(super) hash: BlobHash,
    pub(super) sha256: Sha256Digest,
    pub(super) size: u64,
    pub(super) media_type: String,
    pub(super) lies: LiesRow,
}

impl Image {
    fn read(row: ImageRow) -> Result<Self, RegistryError> {
        let roots = row.roots.into_iter().map(|root| {
            let (digest, subject) = (catalog::digest(&root.digest)?, root.subject.as_deref().map(catalog::digest).transpose()?);
            Ok(Root { digest, subject, media_type: root.media_type, size: root.size, artifact_type: root.artifact_type })
        });
        let roots = roots.collect::<Result<Vec<_>, RegistryError>>()?;
        let blobs = row.blobs.into_iter().map(|blob| {
            let (hash, sha256, size) = (blob.hash, blob.sha256, blob.size);
            Ok((catalog::digest(&blob.digest)?, Blob { hash, sha256, size, media_type: blob.media_type, lies: blob.lies }))
        });
        let blobs = blobs.collect::<Result<_, RegistryError>>()?;
        match roots.is_empty() {
            true => Err(redb::StorageError::Corrupted("an image without a manifest".to_owned()).into()),
            false => Ok(Self { roots, blobs, compressed: row.compressed }),
        }
    }

    /// The image's manifest.
    pub(super) fn digest(&self) -> Digest {
        self.roots[0].digest
    }

    fn documents(&self) -> usize {
        let bytes = |blob: &Blob| if let LiesRow::Here(bytes) = &blob.lies { bytes.len() } else { 0 };
        self.blobs.values().map(bytes).sum()
    }
}

impl Entry {
    pub(super) fn read(named: NamedPath, row: FileRow) -> Result<Self, RegistryError> {
        let image = match row.found {
            Found::Refused(reason) => Err(reason),
            Found::Image(row) => Ok(Image::read(row)?),
        };
        let NamedPath { path, pattern, beneath, repository, tag } = named;
        Ok(Self { path, pattern, beneath, repository, tag, stamps: row.stamps, image, taking: tokio::sync::Mutex::default() })
    }

    /// When it came to be there.
    pub(super) fn since(&self) -> Timestamp {
        let newest = self.stamps.iter().map(|stamp| stamp.ctime).max().unwrap_or_default();
        Timestamp::from_millis(u64::try_from(newest / 1_000_000).unwrap_or_default())
    }

    pub(super) fn describe(&self) -> Option<SideloadedImage> {
        let image = self.image.as_ref().ok()?;
        Some(SideloadedImage {
            path: self.path.clone(),
            repository: self.repository.clone(),
            tag: self.tag.clone(),
            digest: image.digest(),
            about: image.roots[1..].iter().map(|root| root.digest).collect(),
            size: image.blobs.values().map(|blob| blob.size).sum(),
        })
    }
}

/// Every file that was looked at.
#[derive(Default)]
pub(super) struct Known {
    files: BTreeMap<PathBuf, Arc<Entry>>,
    repositories: BTreeMap<Repository, BTreeSet<PathBuf>>,
    hashes: BTreeMap<BlobHash, BTreeSet<PathBuf>>,
    blobs: usize,
    documents: usize,
}

impl Known {
    /// Takes up a file that is not known, or says why not.
    pub(super) fn insert(&mut self, entry: Entry) -> Result<(), &'static str> {
        if self.is_full() {
            return Err("so many files are served already");
        }
        if let Ok(image) = &entry.image {
            let documents = image.documents();
            if self.blobs + image.blobs.len() > MAX_BLOBS || self.documents + documents > MAX_DOCUMENTS_BYTES {
                return Err("so many blobs are served already");
            }
            self.blobs += image.blobs.len();
            self.documents += documents;
            self.repositories.entry(entry.repository.clone()).or_default().insert(entry.path.clone());
            for blob in image.blobs.values() {
                self.hashes.entry(blob.hash).or_default().insert(entry.path.clone());
            }
        }
        self.files.insert(entry.path.clone(), Arc::new(entry));
        Ok(())
    }

    /// Whether there is no room for another file.
    pub(super) fn is_full(&self) -> bool {
        self.files.len() >= MAX_FILES
    }

    pub(super) fn remove(&mut self, path: &Path) {
        let Some(entry) = self.files.remove(path) else { return };
        let Ok(image) = &entry.image else { return };
        self.blobs -= image.blobs.len();
        self.documents -= image.documents();
        remove_from(&mut self.repositories, &entry.repository, path);
        for blob in image.blobs.values() {
            remove_from(&mut self.hashes, &blob.hash, path);
        }
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.files.values()
    }

    pub(super) fn entry(&self, path: &Path) -> Option<Arc<Entry>> {
        self.files.get(path).cloned()
    }

    pub(super) fn repositories(&self) -> impl Iterator<Item = &Repository> {
        self.repositories.keys()
    }

    /// The images of a repository.
    pub(super) fn of(&self, repository: &Repository) -> impl Iterator<Item = &Arc<Entry>> {
        self.repositories.get(repository).into_iter().flatten().filter_map(|path| self.files.get(path))
    }

    /// The images that have a blob.
    pub(super) fn with(&self, hash: &BlobHash) -> impl Iterator<Item = &Arc<Entry>> {
        self.hashes.get(hash).into_iter().flatten().filter_map(|path| self.files.get(path))
    }
}

fn remove_from<K: Ord>(map: &mut BTreeMap<K, BTreeSet<PathBuf>>, key: &K, path: &Path) {
    if let Some(paths) = map.get_mut(key) {
        paths.remove(path);
        if paths.is_empty() {
            map.remove(key);
        }
    }
}

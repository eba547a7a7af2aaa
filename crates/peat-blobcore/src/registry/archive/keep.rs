//! What of an archive becomes blobs of the store, or is listed: what belongs to an image, once it is what its digest says.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use sha2::{Digest as _, Sha256};

use super::intake::{Files, Held, blob_name};
use super::survey::Seen;
use super::{ArchiveError, Imported, ImportedBlob, Root};
use crate::content::{Batch, Content, Hashed, Ingested};
use crate::model::{BlobHash, Sha256Digest};
use crate::oci::{Descriptor, Digest, MAX_MANIFEST_BYTES};
use crate::registry::closure::{Closure, is_manifest};

/// Most missing blobs that an error names.
const NAMED_MISSING: usize = 20;
/// Most bytes of manifests and configurations of what is only listed.
const MAX_DOCUMENTS_BYTES: usize = 8 * 1024 * 1024;

/// Where it goes.
enum To<'a> {
    /// Into the store.
    Store(&'a Content, Batch),
    /// Nowhere: it is only listed.
    List(&'a mut Documents),
}

/// What is remembered of what is only listed: manifests, and what was made here and is in no file.
#[derive(Debug, Default)]
pub(super) struct Documents {
    pub(super) bytes: BTreeMap<Digest, Vec<u8>>,
    size: usize,
}

impl Documents {
    fn add(&mut self, digest: Digest, bytes: &[u8]) -> Result<(), ArchiveError> {
        self.size += bytes.len();
        if self.size > MAX_DOCUMENTS_BYTES {
            return Err(ArchiveError::OverLimit(format!("manifests of more than {MAX_DOCUMENTS_BYTES} bytes together")));
        }
        self.bytes.insert(digest, bytes.to_vec());
        Ok(())
    }
}

/// What is taken from some files.
pub(super) struct Keep<'a> {
    to: To<'a>,
    pub(super) files: &'a mut dyn Files,
    blobs: Vec<ImportedBlob>,
    known: BTreeMap<Digest, usize>,
    missing: BTreeMap<Digest, String>,
}

impl<'a> Keep<'a> {
    pub(super) fn new(content: &'a Content, files: &'a mut dyn Files) -> Self {
        Self::to(To::Store(content, content.batch()), files)
    }

    /// Lists what is in files that were looked at.
    pub(super) fn listing(files: &'a mut dyn Files, documents: &'a mut Documents) -> Self {
        Self::to(To::List(documents), files)
    }

    fn to(to: To<'a>, files: &'a mut dyn Files) -> Self {
        Self { to, files, blobs: Vec::new(), known: BTreeMap::new(), missing: BTreeMap::new() }
    }

    /// The store, for what was spooled in it or is there.
    pub(super) fn content(&self) -> &'a Content {
        match self.to {
            To::Store(content, _) => content,
            To::List(_) => unreachable!("what is only listed was only seen"),
        }
    }

    /// The bytes of a manifest or configuration of a layout, or of the store, held against its digest.
    pub(super) fn load(&mut self, digest: &Digest) -> Result<Option<Vec<u8>>, ArchiveError> {
        let name = blob_name(digest);
        let bytes = match (self.files.read(&name)?, digest.sha256(), &self.to) {
            (None, Some(sha256), To::Store(content, _)) => match content.digest(&sha256)? {
                Some(hash) if content.holds(&hash)? => Some(content.read_blob(&hash, MAX_MANIFEST_BYTES as u64 + 1)?),
                _ => None,
            },
            (found, ..) => found,
        };
        let Some(bytes) = bytes else { return Ok(None) };
        if bytes.len() > MAX_MANIFEST_BYTES {
            return Err(ArchiveError::OverLimit(format!("{name}, of which at most {MAX_MANIFEST_BYTES} bytes are read")));
        }
        if digest.is_of(&bytes) { Ok(Some(bytes)) } else { Err(ArchiveError::Mismatch { name, digest: *digest }) }
    }

    /// Keeps all that belongs to a manifest of a layout, or notes what is missing.
    pub(super) fn closure(&mut self, root: &Descriptor) -> Result<(), ArchiveError> {
        let mut closure = Closure::of(root.clone());
        while let Some(part) = closure.step() {
            if is_manifest(&part) {
                match self.load(&part.digest)? {
                    Some(bytes) => {
                        closure.read(&part, &bytes)?;
                        if let To::List(documents) = &mut self.to {
                            documents.add(part.digest, &bytes)?;
                        }
                    }
                    None => {
                        self.missing.insert(part.digest, part.media_type.clone());
                        continue;
                    }
                }
            }
            self.keep(&part)?;
        }
        Ok(())
    }

    /// Keeps a blob that a layout has under its digest, or that is in the store.
    fn keep(&mut self, part: &Descriptor) -> Result<(), ArchiveError> {
        if !self.known.contains_key(&part.digest) {
            match self.files.take(&blob_name(&part.digest))? {
                Some(Held::Spooled(spooled, sha512)) => {
                    let hashed = self.content().hash_spooled(spooled)?;
                    self.add_checked(part, hashed, sha512)?;
                }
                Some(Held::Hashed(hashed, sha512)) => self.add_checked(part, hashed, sha512)?,
                Some(Held::Seen(Seen { blob, sha512, .. })) => {
                    check(part, &blob, sha512)?;
                    self.note(part.digest, blob, &part.media_type);
                }
                Some(Held::Here) | None => match self.in_store(&part.digest)? {
                    Some(blob) => self.note(part.digest, blob, &part.media_type),
                    None => {
                        self.missing.insert(part.digest, part.media_type.clone());
                        return Ok(());
                    }
                },
            }
        }
        let actual = self.blobs[self.known[&part.digest]].blob.size;
        if actual == part.size {
            Ok(())
        } else {
            Err(ArchiveError::SizeDiffers { digest: part.digest, claimed: part.size, actual })
        }
    }

    /// The blob of the store that a digest names, if it is held.
    pub(super) fn in_store(&self, digest: &Digest) -> Result<Option<Ingested>, ArchiveError> {
        // What a file is listed with is in the file: digests alone open nothing of the store.
        let (Some(sha256), To::Store(content, _)) = (digest.sha256(), &self.to) else { return Ok(None) };
        let Some(hash) = content.digest(&sha256)? else { return Ok(None) };
        Ok(content.size(&hash)?.map(|size| Ingested { hash, sha256, size }))
    }

    fn add_checked(&mut self, part: &Descriptor, hashed: Hashed, sha512: Option<[u8; 64]>) -> Result<(), ArchiveError> {
        check(part, &hashed.blob(), sha512)?;
        self.add(part.digest, hashed, &part.media_type)
    }

    /// Keeps a blob whose digest was computed here.
    pub(super) fn add(&mut self, digest: Digest, hashed: Hashed, media_type: &str) -> Result<(), ArchiveError> {
        let blob = match &mut self.to {
            To::Store(_, batch) => batch.add_hashed(hashed)?,
            To::List(_) => hashed.blob(),
        };
        self.note(digest, blob, media_type);
        Ok(())
    }

    /// Keeps bytes that were made here.
    pub(super) fn add_bytes(&mut self, bytes: &[u8], media_type: &str) -> Result<Digest, ArchiveError> {
        let blob = match &mut self.to {
            To::Store(_, batch) => batch.add_bytes(bytes)?,
            To::List(documents) => {
                let hash = BlobHash::from_bytes(*blake3::hash(bytes).as_bytes());
                let sha256 = Sha256Digest::from_bytes(Sha256::digest(bytes).into());
                documents.add(sha256.into(), bytes)?;
                Ingested { hash, sha256, size: bytes.len() as u64 }
            }
        };
        self.note(blob.sha256.into(), blob, media_type);
        Ok(blob.sha256.into())
    }

    pub(super) fn note(&mut self, digest: Digest, blob: Ingested, media_type: &str) {
        if let Entry::Vacant(slot) = self.known.entry(digest) {
            slot.insert(self.blobs.len());
            self.blobs.push(ImportedBlob { digest, blob, media_type: media_type.to_owned() });
        }
    }

    /// Makes whole what was kept, if nothing is missing.
    pub(super) fn finish(self, roots: Vec<Root>) -> Result<Imported, ArchiveError> {
        if !self.missing.is_empty() {
            let first = self.missing.iter().take(NAMED_MISSING).map(|(digest, media_type)| format!("{digest} ({media_type})"));
            return Err(ArchiveError::Missing { count: self.missing.len(), first: first.collect() });
        }
        if let To::Store(_, batch) = self.to {
            batch.commit()?;
        }
        Ok(Imported { roots, blobs: self.blobs })
    }
}

/// Whether what was hashed is what a layout names.
fn check(part: &Descriptor, blob: &Ingested, sha512: Option<[u8; 64]>) -> Result<(), ArchiveError> {
    let right = match part.digest {
        Digest::Sha256(sha256) => blob.sha256 == sha256,
        Digest::Sha512(bytes) => sha512 == Some(bytes),
    };
    if right { Ok(()) } else { Err(ArchiveError::Mismatch { name: blob_name(&part.digest), digest: part.digest }) }
}

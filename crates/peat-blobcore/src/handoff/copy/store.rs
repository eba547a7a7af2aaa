//! What a store of images has to do for a copy, and what is handed from one to the other.

use std::any::Any;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use super::CopyError;
use crate::content::{Shared, Sharing};
use crate::oci::{Algorithm, Descriptor, Digest, DigestHasher, ImageReference, MAX_MANIFEST_BYTES, Repository, Tag};

const READ_BYTES: usize = 256 * 1024;

/// A store of images on this machine. All calls may block on the disk.
pub trait ImageStore {
    /// The manifest of an image, with what describes it.
    ///
    /// # Errors
    /// [`CopyError::NoImage`], or what the store fails with.
    fn find(&mut self, image: &ImageReference) -> Result<(Descriptor, Vec<u8>), CopyError>;

    /// The manifests that are about this one and whole here.
    ///
    /// # Errors
    /// What the store fails with.
    fn about(&mut self, repository: &Repository, subject: &Digest) -> Result<Vec<Descriptor>, CopyError>;

    /// Opens a blob or manifest. Nobody has held it against its digest.
    ///
    /// # Errors
    /// [`CopyError::Missing`], or what the store fails with.
    fn open(&mut self, repository: &Repository, part: &Descriptor) -> Result<Opened, CopyError>;

    /// Whether all of a blob or manifest is in a repository, or is now that it was found in another of this store.
    ///
    /// # Errors
    /// What the store fails with.
    fn has(&mut self, repository: &Repository, part: &Descriptor) -> Result<bool, CopyError>;

    /// Takes a blob, durably, if it is what its digest says.
    ///
    /// # Errors
    /// [`CopyError::Mismatch`], [`CopyError::Content`] with `NotShared`, or what the store fails with.
    fn put(&mut self, repository: &Repository, part: &Descriptor, from: Opened, sharing: Sharing) -> Result<Shared, CopyError>;

    /// Takes a manifest all of whose parts were taken, and sets a tag. `is_root`: it is not there for another's sake, so that a store
    /// which lists images lists it.
    ///
    /// # Errors
    /// What the store fails with.
    fn put_manifest(
        &mut self,
        repository: &Repository,
        part: &Descriptor,
        bytes: &[u8],
        is_root: bool,
        tag: Option<&Tag>,
    ) -> Result<(), CopyError>;
}

/// An open blob.
pub enum Opened {
    /// A file that has its bytes and no others, and what keeps it there while it is open.
    File(File, Option<Box<dyn Any + Send>>),
    /// Its bytes, which are few.
    Bytes(Vec<u8>),
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(file, _) => f.debug_tuple("File").field(file).finish(),
            Self::Bytes(bytes) => f.debug_tuple("Bytes").field(&bytes.len()).finish(),
        }
    }
}

impl Opened {
    /// The bytes of a manifest, held against its digest.
    pub(super) fn read_manifest(self, part: &Descriptor) -> Result<Vec<u8>, CopyError> {
        let bytes = match self {
            Self::Bytes(bytes) => bytes,
            Self::File(file, _) => {
                let size = usize::try_from(part.size).ok().filter(|size| *size <= MAX_MANIFEST_BYTES);
                let mut bytes = vec![0; size.ok_or_else(|| CopyError::TooLong(Box::new(part.digest)))?];
                file.read_exact_at(&mut bytes, 0).map_err(|error| CopyError::io("read", part.digest)(error))?;
                bytes
            }
        };
        match part.digest.is_of(&bytes) {
            true => Ok(bytes),
            false => Err(CopyError::Mismatch(Box::new(part.digest))),
        }
    }

    /// The digest of its bytes by some function.
    pub(super) fn digest(&self, part: &Descriptor, algorithm: Algorithm) -> Result<Digest, CopyError> {
        match self {
            Self::Bytes(bytes) => Ok(Digest::of(algorithm, bytes)),
            Self::File(file, _) => digest_of_file(file, algorithm).map_err(CopyError::io("read", part.digest)),
        }
    }
}

/// The digest of all that a file has.
pub(super) fn digest_of_file(file: &File, algorithm: Algorithm) -> io::Result<Digest> {
    let (mut hasher, mut buffer, mut at) = (DigestHasher::new(algorithm), vec![0; READ_BYTES], 0);
    loop {
        match file.read_at(&mut buffer, at)? {
            0 => return Ok(hasher.finish()),
            read => {
                hasher.update(&buffer[..read]);
                at += read as u64;
            }
        }
    }
}

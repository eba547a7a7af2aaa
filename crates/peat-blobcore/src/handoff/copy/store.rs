//! What a store of images has to do for a copy, and what is handed from one to the other.

use std::any::Any;
use std::fs::File;
use std::os::unix::fs::FileExt as _;

use sha2::{Digest as _, Sha256, Sha512};

use super::CopyError;
use crate::content::{Shared, Sharing};
use crate::model::Sha256Digest;
use crate::oci::{Algorithm, Descriptor, Digest, ImageReference, MAX_MANIFEST_BYTES, Repository, Tag};

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
        match digest_of(part.digest.algorithm(), &bytes) == part.digest {
            true => Ok(bytes),
            false => Err(CopyError::Mismatch(Box::new(part.digest))),
        }
    }

    /// The digest of its bytes by some function.
    pub(super) fn digest(&self, part: &Descriptor, algorithm: Algorithm) -> Result<Digest, CopyError> {
        match self {
            Self::Bytes(bytes) => Ok(digest_of(algorithm, bytes)),
            Self::File(file, _) => digest_of_file(file, algorithm).map_err(CopyError::io("read", part.digest)),
        }
    }
}

pub(super) fn digest_of(algorithm: Algorithm, bytes: &[u8]) -> Digest {
    match algorithm {
        Algorithm::Sha256 => Digest::Sha256(Sha256Digest::from_bytes(Sha256::digest(bytes).into())),
        Algorithm::Sha512 => Digest::Sha512(Sha512::digest(bytes).into()),
    }
}

/// The digest of all that a file has.
pub(super) fn digest_of_file(file: &File, algorithm: Algorithm) -> std::io::Result<Digest> {
    let (mut buffer, mut at) = (vec![0; READ_BYTES], 0);
    let mut each = |update: &mut dyn FnMut(&[u8])| loop {
        match file.read_at(&mut buffer, at)? {
            0 => return std::io::Result::Ok(()),
            read => {
                update(&buffer[..read]);
                at += read as u64;
            }
        }
    };
    match algorithm {
        Algorithm::Sha256 => {
            let mut hasher = Sha256::new();
            each(&mut |bytes| hasher.update(bytes))?;
            Ok(Digest::Sha256(Sha256Digest::from_bytes(hasher.finalize().into())))
        }
        Algorithm::Sha512 => {
            let mut hasher = Sha512::new();
            each(&mut |bytes| hasher.update(bytes))?;
            Ok(Digest::Sha512(hasher.finalize().into()))
        }
    }
}

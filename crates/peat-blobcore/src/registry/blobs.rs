//! Blobs of a repository: which are here, from where they came, and their reading. Content is for those who may read a repository
//! that has it: a digest alone opens nothing.

use std::sync::Arc;
use std::time::Duration;

use super::catalog::{self, BLOBS, BlobRow, DIGESTS};
use super::{Change, Elsewhere, Registry, RegistryError};
use crate::content::{BlobReader, Pin};
use crate::model::BlobHash;
use crate::oci::{Algorithm, Digest, DigestHasher, Repository};

/// How long a blob is kept that no manifest names.
pub(super) const LEASE: Duration = Duration::from_secs(24 * 60 * 60);

/// A blob that is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// What the store calls it.
    pub hash: BlobHash,
    /// Its size in bytes.
    pub size: u64,
}

impl Registry {
    /// A blob of a repository, if all of it is here.
    ///
    /// # Errors
    /// When the catalog or the store cannot be read.
    pub fn blob(&self, repository: &Repository, digest: &Digest) -> Result<Option<Held>, RegistryError> {
        let row: Option<BlobRow> = self.0.catalog.row(BLOBS, repository, &digest.to_string())?;
        self.held(row)
    }

    /// The row, if the store has what it says.
    pub(super) fn held(&self, row: Option<BlobRow>) -> Result<Option<Held>, RegistryError> {
        let Some(BlobRow { hash, size }) = row else { return Ok(None) };
        Ok((self.0.content.size(&hash)? == Some(size)).then_some(Held { hash, size }))
    }

    /// Opens a blob of a repository. It is not collected while the reader is open.
    ///
    /// # Errors
    /// [`RegistryError::NoBlob`], or what the store fails with.
    pub fn open_blob(&self, repository: &Repository, digest: &Digest) -> Result<BlobReader, RegistryError> {
        match self.blob(repository, digest)? {
            Some(held) => Ok(self.0.content.open_blob(&held.hash)?),
            None => Err(RegistryError::NoBlob { repository: repository.clone(), digest: *digest }),
        }
    }

    /// Makes a blob that another repository has one of this repository as well; `None` when no such is here. Without `from` any
    /// repository will do.
    ///
    /// # Errors
    /// When the catalog or the store cannot be read or written.
    pub fn mount(
        &self,
        repository: &Repository,
        digest: &Digest,
        from: Option<&Repository>,
    ) -> Result<Option<Held>, RegistryError> {
        let _unpinned = self.0.content.keep_unpinned();
        let found = match from {
            Some(from) => self.blob(from, digest)?,
            None => self.blob_anywhere(digest)?,
        };
        let Some(held) = found else { return Ok(None) };
        self.take_in(repository, digest, held)?;
        Ok(Some(held))
    }

    /// A blob of any repository, if it is here.
    fn blob_anywhere(&self, digest: &Digest) -> Result<Option<Held>, RegistryError> {
        let name = digest.to_string();
        let row = self.0.catalog.read(|txn| {
            let table = txn.open_table(DIGESTS)?;
            let Some(first) = table.range((name.as_str(), "")..)?.next() else { return Ok(None) };
            let (key, _) = first?;
            let (found, owner) = key.value();
            if found != name {
                return Ok(None);
            }
            let row = txn.open_table(BLOBS)?.get((owner, found))?;
            row.map(|row| catalog::decode(row.value())).transpose()
        })?;
        self.held(row)
    }

    /// Makes a blob that the store has one of a repository, once it is what the digest says.
    ///
    /// # Errors
    /// [`RegistryError::DigestDiffers`] when it is not; `Absent` when the store does not have it, or what it fails with.
    pub fn adopt_blob(&self, repository: &Repository, digest: &Digest, hash: &BlobHash) -> Result<Held, RegistryError> {
        // Open until it has its lease, so that it is not collected.
        let reader = self.0.content.open_blob(hash)?;
        let held = Held { hash: *hash, size: reader.size() };
        let actual = match digest {
            Digest::Sha256(_) => {
                let known = self.0.content.sha256_of(hash)?;
                Digest::Sha256(known.ok_or(crate::content::ContentError::Absent(*hash))?)
            }
            Digest::Sha512(_) => sha512_of(&reader)?,
        };
        if actual != *digest {
            return Err(RegistryError::DigestDiffers { claimed: *digest, actual: Box::new(actual) });
        }
        self.take_in(repository, digest, held)?;
        Ok(held)
    }

    /// Keeps a blob of a repository for a day; a manifest that names it keeps it for longer.
    pub(super) fn take_in(&self, repository: &Repository, digest: &Digest, held: Held) -> Result<(), RegistryError> {
        let _changing = self.changing();
        let name = format!("registry {repository} {digest}");
        let until = self.0.clock.now().plus(LEASE);
        self.0.content.pin(&Pin::Lease { name, until }, &[held.hash])?;
        let row = BlobRow { hash: held.hash, size: held.size };
        self.0.catalog.write(|txn| catalog::insert_blob(txn, repository, digest, row))
    }

    /// Takes a blob out of a repository. It is not asked for elsewhere any more, until it is pushed again.
    ///
    /// # Errors
    /// [`RegistryError::NoBlob`] when it is neither there nor known to be elsewhere, or when the catalog cannot be written.
    pub fn delete_blob(&self, repository: &Repository, digest: &Digest) -> Result<(), RegistryError> {
        let has = |elsewhere: Arc<dyn Elsewhere>| elsewhere.has(repository, digest);
        let elsewhere = !self.is_blocked(repository, digest)? && self.elsewhere().is_some_and(has);
        {
            let _changing = self.changing();
            self.0.catalog.write(|txn| {
                if !catalog::remove_blob(txn, repository, digest)? && !elsewhere {
                    return Err(RegistryError::NoBlob { repository: repository.clone(), digest: *digest });
                }
                catalog::block(txn, repository, &digest.to_string(), self.0.clock.now())
            })?;
        }
        self.tell(&Change::BlobRemoved(repository.clone(), *digest));
        Ok(())
    }

    /// Whether a digest or tag of a repository was deleted here, and not put since: then what others have of it does not count.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub fn is_blocked(&self, repository: &Repository, name: &impl ToString) -> Result<bool, RegistryError> {
        self.0.catalog.is_blocked(repository, &name.to_string())
    }
}

fn sha512_of(reader: &BlobReader) -> Result<Digest, RegistryError> {
    let (mut hasher, mut buffer, mut at) = (DigestHasher::new(Algorithm::Sha512), vec![0; 256 * 1024], 0);
    loop {
        match reader.read_at(at, &mut buffer)? {
            0 => return Ok(hasher.finish()),
            read => {
                hasher.update(&buffer[..read]);
                at += read as u64;
            }
        }
    }
}

//! Blobs that are being pushed, piece by piece. Pieces go straight into the store's own files and are nobody's until their
//! digest was found to be right: dropped before, they are gone. Uploads live in memory alone, bounded in number, and end by
//! themselves.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Held, Registry, RegistryError};
use crate::content::{Spool, Spooled};
use crate::model::Timestamp;
use crate::oci::{Digest, Repository};

/// Most uploads at once. Each holds a file open.
pub const MAX_UPLOADS: usize = 256;
/// How long an upload may hear nothing before another may have its place.
pub const LONGEST_SILENCE: Duration = Duration::from_secs(60 * 60);

/// Names an upload. Nobody can guess it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct UploadId([u8; 16]);

impl fmt::Display for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = data_encoding::HEXLOWER.encode(&self.0);
        write!(f, "{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
    }
}

impl FromStr for UploadId {
    type Err = RegistryError;

    fn from_str(text: &str) -> Result<Self, RegistryError> {
        let bytes = data_encoding::HEXLOWER.decode(text.replace('-', "").as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
        bytes
            .map(Self)
            .filter(|id| id.to_string() == text)
            .ok_or_else(|| RegistryError::NoUpload(text.chars().take(64).collect()))
    }
}

/// The uploads that are under way.
#[derive(Default)]
pub(super) struct Uploads(Mutex<BTreeMap<UploadId, Arc<Upload>>>);

struct Upload {
    repository: Repository,
    state: Mutex<State>,
}

struct State {
    /// Gone once the upload is ended.
    spool: Option<Spool>,
    heard: Timestamp,
}

impl Uploads {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<UploadId, Arc<Upload>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn clear(&self) {
        self.lock().clear();
    }
}

impl Upload {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registry {
    /// Begins to take a blob into a repository.
    ///
    /// # Errors
    /// [`RegistryError::TooManyUploads`], or what the store fails with.
    pub fn begin_upload(&self, repository: &Repository) -> Result<UploadId, RegistryError> {
        let now = self.0.clock.now();
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).expect("the operating system gives randomness");
        // Version and variant of a random UUID (RFC 9562, section 5.4).
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        let id = UploadId(bytes);
        let spool = self.0.content.spool()?;
        let state = Mutex::new(State { spool: Some(spool), heard: now });
        let mut uploads = self.0.uploads.lock();
        if uploads.len() >= MAX_UPLOADS {
            // One that is being written to is not silent.
            uploads.retain(|_, upload| upload.state.try_lock().map_or(true, |state| now.since(state.heard) < LONGEST_SILENCE));
        }
        if uploads.len() >= MAX_UPLOADS {
            return Err(RegistryError::TooManyUploads(uploads.len()));
        }
        uploads.insert(id, Arc::new(Upload { repository: repository.clone(), state }));
        Ok(id)
    }

    fn upload(&self, repository: &Repository, id: &UploadId) -> Result<Arc<Upload>, RegistryError> {
        let upload = self.0.uploads.lock().get(id).cloned();
        upload.filter(|upload| upload.repository == *repository).ok_or_else(|| RegistryError::NoUpload(id.to_string()))
    }

    /// How many bytes of an upload have come.
    ///
    /// # Errors
    /// [`RegistryError::NoUpload`].
    pub fn upload_size(&self, repository: &Repository, id: &UploadId) -> Result<u64, RegistryError> {
        let upload = self.upload(repository, id)?;
        let state = upload.state();
        state.spool.as_ref().map(Spool::size).ok_or_else(|| RegistryError::NoUpload(id.to_string()))
    }

    /// Adds the piece that begins at `at`, and says how many bytes have come then.
    ///
    /// # Errors
    /// [`RegistryError::NoUpload`]; [`RegistryError::OutOfOrder`] when it is not the next piece; `NoSpace`, or what else the
    /// store fails with.
    pub fn append_upload(&self, repository: &Repository, id: &UploadId, at: u64, bytes: &[u8]) -> Result<u64, RegistryError> {
        let upload = self.upload(repository, id)?;
        let mut state = upload.state();
        state.heard = self.0.clock.now();
        let spool = state.spool.as_mut().ok_or_else(|| RegistryError::NoUpload(id.to_string()))?;
        if spool.size() != at {
            return Err(RegistryError::OutOfOrder { has: spool.size(), at });
        }
        spool.write(bytes)?;
        Ok(spool.size())
    }

    /// Ends an upload: it is a blob of its repository, durably, when it is what the digest says, and gone when it is not.
    ///
    /// # Errors
    /// [`RegistryError::NoUpload`], [`RegistryError::DigestDiffers`], or what the store fails with.
    pub fn finish_upload(&self, repository: &Repository, id: &UploadId, digest: &Digest) -> Result<Held, RegistryError> {
        let upload = self.upload(repository, id)?;
        let spool = upload.state().spool.take();
        self.0.uploads.lock().remove(id);
        let spooled = spool.ok_or_else(|| RegistryError::NoUpload(id.to_string()))?.end();
        self.take_spooled(repository, digest, spooled)
    }

    /// Takes what was spooled into a repository, durably, when it is what the digest says; else it is gone.
    pub(super) fn take_spooled(&self, repository: &Repository, digest: &Digest, spooled: Spooled) -> Result<Held, RegistryError> {
        let differs = |actual| RegistryError::DigestDiffers { claimed: *digest, actual: Box::new(actual) };
        if let Digest::Sha512(claimed) = digest {
            let actual = spooled.sha512()?;
            if actual != *claimed {
                return Err(differs(Digest::Sha512(actual)));
            }
        }
        // Until it has its lease.
        let _unpinned = self.0.content.keep_unpinned();
        let mut batch = self.0.content.batch();
        let ingested = batch.add_spooled(spooled)?;
        if digest.sha256().is_some_and(|claimed| claimed != ingested.sha256) {
            return Err(differs(Digest::Sha256(ingested.sha256)));
        }
        batch.commit()?;
        let held = Held { hash: ingested.hash, size: ingested.size };
        self.take_in(repository, digest, held)?;
        Ok(held)
    }

    /// Gives an upload up.
    ///
    /// # Errors
    /// [`RegistryError::NoUpload`].
    pub fn cancel_upload(&self, repository: &Repository, id: &UploadId) -> Result<(), RegistryError> {
        let upload = self.upload(repository, id)?;
        self.0.uploads.lock().remove(id);
        upload.state().spool = None;
        Ok(())
    }
}

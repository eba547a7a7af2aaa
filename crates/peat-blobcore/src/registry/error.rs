//! What can go wrong with images, of which kind it is, and what to do about it.

use std::sync::Arc;

use super::archive::ArchiveError;
#[cfg(feature = "http")]
use super::remote::RemoteError;
use crate::ErrorKind;
use crate::content::ContentError;
use crate::database::Failure;
use crate::oci::{Digest, ManifestError, NameError, Reference, Repository};

/// Why the registry could not do what it was asked for.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RegistryError {
    /// The store of the bytes.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// The catalog refused something.
    #[error("the registry's catalog: {0}")]
    Catalog(Arc<redb::Error>),
    /// What was pushed as a manifest is none.
    #[error(transparent)]
    Manifest(Arc<ManifestError>),
    /// A digest, tag or repository is malformed.
    #[error(transparent)]
    Name(#[from] NameError),
    /// No such repository.
    #[error("no repository {0} is known here")]
    NoRepository(Repository),
    /// No such manifest or tag in the repository.
    #[error("no manifest {reference} is known in {repository}")]
    NoManifest {
        /// The repository.
        repository: Repository,
        /// The tag or digest.
        reference: Reference,
    },
    /// No such blob in the repository.
    #[error("no blob {digest} is known in {repository}")]
    NoBlob {
        /// The repository.
        repository: Repository,
        /// The blob.
        digest: Digest,
    },
    /// No such upload, or not any more.
    #[error("no upload {0} is under way")]
    NoUpload(String),
    /// As many uploads are under way as can be.
    #[error("{0} uploads are under way already")]
    TooManyUploads(usize),
    /// A piece of an upload is not the next one.
    #[error("the upload has {has} bytes, so its next piece begins there and not at {at}")]
    OutOfOrder {
        /// Bytes that have come.
        has: u64,
        /// Where the piece would begin.
        at: u64,
    },
    /// Bytes are not what their digest says. Nothing of them was kept.
    #[error("the content is {actual} and not {claimed}")]
    DigestDiffers {
        /// What was claimed.
        claimed: Digest,
        /// What it is, by the same function.
        actual: Box<Digest>,
    },
    /// A manifest names what is not in its repository.
    #[error("the manifest names {} blobs that are not in the repository, the first of them {}", .0.len(), .0.first().map(ToString::to_string).unwrap_or_default())]
    Missing(Vec<Digest>),
    /// A manifest is wrong about the size of what it names.
    #[error("the manifest says that {digest} has {claimed} bytes; it has {actual}")]
    SizeDiffers {
        /// What it names.
        digest: Digest,
        /// Bytes, as it says.
        claimed: u64,
        /// Bytes in truth.
        actual: u64,
    },
    /// Manifests within manifests go too deep, or are too many.
    #[error("the manifest's closure is too large: at most {MAX_CLOSURE} blobs, manifests within each other {MAX_DEPTH} deep")]
    TooDeep,
    /// What was on its way from elsewhere does not come.
    #[error("{digest} does not come from elsewhere: {why}")]
    NotComing {
        /// What was on its way.
        digest: Digest,
        /// Why.
        why: String,
    },
    /// What came from elsewhere is not what somebody claimed it to be.
    #[error("what was claimed to be {0} is something else")]
    FalseClaim(Digest),
    /// An archive that is not good, or cannot be written.
    #[error(transparent)]
    Archive(Arc<ArchiveError>),
    /// Another registry.
    #[cfg(feature = "http")]
    #[error(transparent)]
    Remote(Arc<RemoteError>),
    /// It is not said which repository an image is for.
    #[error("it is not said what to call it: {0}")]
    NoName(String),
    /// The program ends.
    #[error("the registry is shut down")]
    Stopped,
}

/// Most blobs of one closure.
pub(super) const MAX_CLOSURE: usize = 100_000;
/// How deep manifests may be within each other.
pub(super) const MAX_DEPTH: usize = 8;

impl RegistryError {
    /// What it means for the one who called.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Content(error) => error.kind(),
            Self::Catalog(error) => match &**error {
                redb::Error::Io(error) => ErrorKind::of_io(error),
                redb::Error::DatabaseAlreadyOpen => ErrorKind::Refused,
                _ => ErrorKind::Failed,
            },
            Self::Archive(error) => error.kind(),
            #[cfg(feature = "http")]
            Self::Remote(error) => error.kind(),
            Self::NoName(_)
            | Self::Manifest(_)
            | Self::Name(_)
            | Self::OutOfOrder { .. }
            | Self::SizeDiffers { .. }
            | Self::TooDeep => ErrorKind::Usage,
            Self::NoRepository(_)
            | Self::NoManifest { .. }
            | Self::NoBlob { .. }
            | Self::NoUpload(_)
            | Self::Missing(_)
            | Self::NotComing { .. } => ErrorKind::NotFound,
            Self::TooManyUploads(_) => ErrorKind::Refused,
            Self::DigestDiffers { .. } | Self::FalseClaim(_) => ErrorKind::Integrity,
            Self::Stopped => ErrorKind::Failed,
        }
    }

    /// What to do about it, where there is something to do.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Content(error) => return error.hint(),
            Self::Catalog(_) if self.kind() == ErrorKind::NoSpace => return None,
            Self::Catalog(_) => "restart; if it stays, look at the disk's health",
            Self::NoRepository(_) | Self::NoManifest { .. } | Self::NoBlob { .. } => {
                "check the name; what was deleted here stays away until it is pushed again"
            }
            Self::Archive(error) => return error.hint(),
            #[cfg(feature = "http")]
            Self::Remote(error) => return error.hint(),
            Self::NoName(_) => "name a repository, and a tag where there is one image, as in team/app:1",
            Self::NoUpload(_) => "begin it again; uploads do not outlive a restart or an hour of silence",
            Self::TooManyUploads(_) => "try again when some of them have ended",
            Self::Missing(_) => "push what the manifest names first, its blobs and then the manifests",
            Self::DigestDiffers { .. } => "send it again; if it stays, the sender's copy is damaged",
            Self::NotComing { .. } => "try again when a node that has it is in reach",
            Self::FalseClaim(_) => "push it again at a node that has the true content",
            Self::Manifest(_)
            | Self::Name(_)
            | Self::OutOfOrder { .. }
            | Self::SizeDiffers { .. }
            | Self::TooDeep
            | Self::Stopped => return None,
        };
        Some(hint.to_owned())
    }
}

impl From<ManifestError> for RegistryError {
    fn from(error: ManifestError) -> Self {
        Self::Manifest(Arc::new(error))
    }
}

macro_rules! from_redb {
    ($($error:ty),*) => {$(
        impl From<$error> for RegistryError {
            fn from(error: $error) -> Self {
                Self::Catalog(Arc::new(error.into()))
            }
        }
    )*};
}
from_redb!(redb::Error, redb::TransactionError, redb::TableError, redb::StorageError, redb::CommitError);

impl Failure for RegistryError {
    fn of_file(&self) -> Option<&redb::Error> {
        match self {
            Self::Catalog(error) => Some(error),
            _ => None,
        }
    }
}

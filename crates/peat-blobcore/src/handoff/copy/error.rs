//! Why an image was not copied, of which kind it is, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::ErrorKind;
use crate::content::ContentError;
use crate::handoff::varlink::VarlinkError;
use crate::oci::Digest;
use crate::registry::{ClosureError, RegistryError};

/// Why an image was not copied.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CopyError {
    /// The store that it was to come from has no such image.
    #[error("{0} is not there")]
    NoImage(String),
    /// A part of the image is not in that store.
    #[error("{0}, a part of the image, is not there")]
    Missing(Box<Digest>),
    /// A part of it is not what its digest says.
    #[error("what there is as {0} is something else")]
    Mismatch(Box<Digest>),
    /// A manifest is longer than any that is read.
    #[error("manifest {0} is too long")]
    TooLong(Box<Digest>),
    /// A manifest cannot be read.
    #[error(transparent)]
    Closure(Arc<ClosureError>),
    /// A directory is no layout.
    #[error("{} is no OCI layout: {why}", path.display())]
    NotALayout {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// Somebody else writes to a layout.
    #[error("another process writes to {}", .0.display())]
    InUse(PathBuf),
    /// Nothing may be copied, and nothing can be shared.
    #[error("the two stores are on different file systems, which share no blocks")]
    Apart,
    /// A store of bytes.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// The other process.
    #[error(transparent)]
    Varlink(#[from] VarlinkError),
    /// A registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Something could not be read or written.
    #[error("cannot {action} {what}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        what: String,
        /// What the system says.
        source: Arc<io::Error>,
    },
}

impl CopyError {
    /// What it means for the one who called.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoImage(_) | Self::Missing(_) => ErrorKind::NotFound,
            Self::Mismatch(_) => ErrorKind::Integrity,
            Self::NotALayout { .. } => ErrorKind::Usage,
            Self::Apart => ErrorKind::Refused,
            Self::TooLong(_) | Self::Closure(_) | Self::InUse(_) => ErrorKind::Failed,
            Self::Content(error) => error.kind(),
            Self::Registry(error) => error.kind(),
            Self::Varlink(error) => error.kind(),
            Self::Io { source, .. } => ErrorKind::of_io(source),
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::NoImage(_) => "look what there is: `image ls`, or index.json of a layout",
            Self::Missing(_) => "have all of the image come there first (`image pull`), or choose one of its platforms by digest",
            Self::Mismatch(_) => "the store that it comes from is damaged: check it, or take the image from another",
            Self::NotALayout { .. } => {
                "name a directory with oci-layout and index.json; one that is empty or missing is made into one"
            }
            Self::Apart => "let it be copied, or choose a store on the same file system",
            Self::InUse(_) => "try again when that has ended",
            Self::Content(error) => return error.hint(),
            Self::Registry(error) => return error.hint(),
            Self::Varlink(error) => return error.hint(),
            Self::TooLong(_) | Self::Closure(_) | Self::Io { .. } => return None,
        };
        Some(hint.to_owned())
    }

    pub(super) fn io(action: &'static str, what: impl ToString) -> impl FnOnce(io::Error) -> Self {
        let what = what.to_string();
        move |source| Self::Io { action, what, source: Arc::new(source) }
    }

    pub(super) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        Self::io(action, path.display())
    }
}

impl From<ClosureError> for CopyError {
    fn from(error: ClosureError) -> Self {
        Self::Closure(Arc::new(error))
    }
}

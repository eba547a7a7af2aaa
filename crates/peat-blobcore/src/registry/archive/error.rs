//! What can be wrong with an archive, of which kind it is, and what to do about it.

use std::io;
use std::path::PathBuf;

use super::super::closure::ClosureError;
use crate::ErrorKind;
use crate::content::ContentError;
use crate::oci::{Digest, ManifestError};

/// Why an archive was not taken in, or not written.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It cannot be opened or read.
    #[error("cannot read {what}: {source}")]
    Unreadable {
        /// What was read.
        what: String,
        /// What the system says, or who unpacks.
        source: io::Error,
    },
    /// It is nothing that is known here.
    #[error("it is no OCI layout, oci-archive or docker-archive: {0}")]
    Unrecognised(String),
    /// It ends where more has to come.
    #[error("it is cut off: {0}")]
    Truncated(&'static str),
    /// Its form is broken, or hostile.
    #[error("it is malformed: {0}")]
    Malformed(String),
    /// An entry that no archive of images has.
    #[error("the entry {name:?} is refused: {why}")]
    Refused {
        /// Its name.
        name: String,
        /// Why.
        why: &'static str,
    },
    /// More than was allowed.
    #[error("it is over the limit: {0}")]
    OverLimit(String),
    /// A manifest in it is none.
    #[error("{what}: {source}")]
    Manifest {
        /// Where it was read.
        what: String,
        /// Why.
        source: ManifestError,
    },
    /// Its closure cannot be walked.
    #[error(transparent)]
    Closure(#[from] ClosureError),
    /// Some bytes are not what their digest says.
    #[error("{name} is not what {digest} names")]
    Mismatch {
        /// The entry.
        name: String,
        /// What it was to be.
        digest: Digest,
    },
    /// Some blob is of another size than what names it says.
    #[error("{digest} has {actual} bytes, and is named with {claimed}")]
    SizeDiffers {
        /// The blob.
        digest: Digest,
        /// What was claimed.
        claimed: u64,
        /// What is true.
        actual: u64,
    },
    /// Blobs that belong to it are not in it, nor here.
    #[error("{count} blobs are missing: {}", list(.first))]
    Missing {
        /// How many.
        count: usize,
        /// Some of them.
        first: Vec<String>,
    },
    /// No image in it is for the platform that was asked for.
    #[error("it has no image for the platform {0}")]
    NoSuchPlatform(String),
    /// The store could not do its part.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// A file or directory could not be written.
    #[error("cannot {action} {}: {source}", path.display())]
    Write {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// What was asked for cannot be written so.
    #[error("it cannot be written as such an archive: {0}")]
    NotExpressible(String),
}

fn list(first: &[String]) -> String {
    first.join(", ")
}

impl ArchiveError {
    /// What it means for the caller.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Unreadable { source, .. } | Self::Write { source, .. } => ErrorKind::of_io(source),
            Self::Unrecognised(_) | Self::NotExpressible(_) => ErrorKind::Usage,
            Self::Truncated(_)
            | Self::Malformed(_)
            | Self::Manifest { .. }
            | Self::Closure(_)
            | Self::Mismatch { .. }
            | Self::SizeDiffers { .. } => ErrorKind::Integrity,
            Self::Refused { .. } | Self::OverLimit(_) => ErrorKind::Refused,
            Self::Missing { .. } | Self::NoSuchPlatform(_) => ErrorKind::NotFound,
            Self::Content(error) => error.kind(),
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Unrecognised(_) => {
                "name a directory with an OCI layout, or what `docker save`, `podman save` or `skopeo copy` made"
            }
            Self::Truncated(_) | Self::Mismatch { .. } => "copy it again from where it was made, and compare the sizes",
            Self::Missing { .. } => "export it with all its platforms, or choose the platform that it has",
            Self::OverLimit(_) => "raise the limit if you trust who made it",
            Self::NoSuchPlatform(_) => "leave the platform out to take all that is there",
            Self::Content(error) => return error.hint(),
            _ => return None,
        };
        Some(hint.to_owned())
    }

    pub(crate) fn read(what: impl ToString) -> impl FnOnce(io::Error) -> Self {
        move |source| match unwrap(source) {
            Ok(own) => own,
            Err(source) => match source.kind() {
                io::ErrorKind::UnexpectedEof => Self::Truncated("what it is compressed with says that more follows"),
                _ => Self::Unreadable { what: what.to_string(), source },
            },
        }
    }

    /// What writing into an archive failed with: the stream, or the blob that was read for it.
    pub(super) fn written(source: io::Error) -> Self {
        match unwrap(source) {
            Ok(own) => own,
            Err(source) => Self::Write { action: "write", path: PathBuf::from("the archive"), source },
        }
    }

    pub(super) fn malformed(why: impl Into<String>) -> Self {
        Self::Malformed(why.into())
    }
}

/// An error of ours that came through a reader, if it is one.
fn unwrap(error: io::Error) -> Result<ArchiveError, io::Error> {
    match error.downcast::<ArchiveError>() {
        Ok(own) => Ok(own),
        Err(other) => match other.downcast::<ContentError>() {
            Ok(content) => Ok(content.into()),
            Err(other) => Err(other),
        },
    }
}

//! What can go wrong with split streams, of which kind it is, and what to do about it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::io::Errno;

use super::frame::{FrameError, NameError};
use crate::ErrorKind;
use crate::oci::Digest;
use crate::registry::RegistryError;
use crate::registry::archive::ArchiveError;

/// Why a layer was not handed over, or not taken.
#[derive(Debug, Clone, thiserror::Error)]
pub enum HandoffError {
    /// The stream is none.
    #[error("it is no split stream: {0}")]
    Frame(#[from] FrameError),
    /// A chunk is of a directory that did not come with the stream.
    #[error("a chunk is of directory {index}, and {count} came with the stream")]
    NoDirectory {
        /// Which.
        index: u32,
        /// How many came.
        count: usize,
    },
    /// A chunk is of a descriptor that is no directory.
    #[error("a chunk is of descriptor {0}, which is no directory")]
    NotADirectory(u32),
    /// A file is not there.
    #[error("{0:?} is not there")]
    Missing(String),
    /// A file's name goes over a symbolic link, or is one.
    #[error("{0:?} is or goes over a symbolic link")]
    Link(String),
    /// A file's name leaves its directory, or the file system that this is on.
    #[error("{0:?} leads out of its directory or into another file system")]
    Leaves(String),
    /// What is named is no regular file.
    #[error("{0:?} is no regular file")]
    NotAFile(String),
    /// A file is not as long as its chunk says.
    #[error("{name:?} has {actual} bytes, and its chunk says {stated}")]
    WrongLength {
        /// The file.
        name: String,
        /// Bytes, as the chunk says.
        stated: u64,
        /// Bytes in truth.
        actual: u64,
    },
    /// The system cannot open a file without a way out of its directory.
    #[error("this system has no openat2, without which no file is opened for another")]
    NoOpenat2,
    /// More bytes than were allowed.
    #[error("the layer has more than {0} bytes")]
    OverLimit(u64),
    /// The layer is not what it was to be. Nothing of it is to be kept.
    #[error("the layer is {actual} and not {expected}")]
    DiffersFromDiffId {
        /// What it was to be.
        expected: Digest,
        /// What it is, by the same function.
        actual: Box<Digest>,
    },
    /// There is no room for the layer beside those that are in use.
    #[error(
        "no room for {wanted} more bytes: the layers in use take the quota of {quota} bytes, or no more than the {reserve} that are left to others are free"
    )]
    NoRoom {
        /// Bytes that were asked for.
        wanted: u64,
        /// Bytes that all layers may take.
        quota: u64,
        /// Bytes of the file system that are left to others.
        reserve: u64,
    },
    /// A file cannot be shared with where it is to be, and a copy was not wanted.
    #[error("{name:?} cannot be shared and was not to be copied: {why}")]
    CannotShare {
        /// The file.
        name: String,
        /// Why.
        why: String,
    },
    /// Another process has the cache open.
    #[error("the cache of layers {} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// What is to be handed over layer by layer has none.
    #[error("{digest} is no image that has layers: {why}")]
    NotAnImage {
        /// What was named.
        digest: Digest,
        /// Why it is none.
        why: String,
    },
    /// The registry, or the store of its bytes.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// What a layer is packed in cannot be read.
    #[error("the layer: {0}")]
    Archive(Arc<ArchiveError>),
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

impl HandoffError {
    /// What it means for the one who called.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Frame(FrameError::Name(_))
            | Self::Link(_)
            | Self::Leaves(_)
            | Self::OverLimit(_)
            | Self::CannotShare { .. } => ErrorKind::Refused,
            Self::Frame(_)
            | Self::NoDirectory { .. }
            | Self::NotADirectory(_)
            | Self::Missing(_)
            | Self::NotAFile(_)
            | Self::WrongLength { .. }
            | Self::DiffersFromDiffId { .. } => ErrorKind::Integrity,
            Self::NoRoom { .. } => ErrorKind::NoSpace,
            Self::InUse(_) => ErrorKind::Refused,
            Self::NotAnImage { .. } => ErrorKind::Usage,
            Self::Registry(error) => error.kind(),
            Self::Archive(error) => error.kind(),
            Self::NoOpenat2 => ErrorKind::Failed,
            Self::Io { source, .. } => ErrorKind::of_io(source),
        }
    }

    /// Whether a layer that is kept is damaged, when reading it failed so: what it lacks or what the disk does not give back.
    pub(super) fn is_damage(&self) -> bool {
        match self {
            Self::Frame(_)
            | Self::Missing(_)
            | Self::Link(_)
            | Self::Leaves(_)
            | Self::NotAFile(_)
            | Self::WrongLength { .. }
            | Self::DiffersFromDiffId { .. } => true,
            Self::Io { source, .. } => {
                source.kind() == io::ErrorKind::NotFound || source.raw_os_error() == Some(Errno::IO.raw_os_error())
            }
            _ => false,
        }
    }

    /// What to do about it, where there is something to do.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Frame(FrameError::UnknownKind(_)) => "agree on a version of the format that both sides know",
            Self::Frame(FrameError::Truncated) => "ask for the layer again; whoever wrote it ended early",
            Self::Frame(_) | Self::Link(_) | Self::Leaves(_) => {
                "do not take layers from who sent it before it is known why it did"
            }
            Self::NoDirectory { .. } | Self::NotADirectory(_) => "send every directory at the index that the chunks name",
            Self::Missing(_) | Self::WrongLength { .. } => "ask for the layer again, and keep its files as they are meanwhile",
            Self::NotAFile(_) => "only regular files can stand for the content of a layer",
            Self::NoOpenat2 => "use Linux 5.6 or later, and let the sandbox allow openat2",
            Self::OverLimit(_) => "raise the limit if you trust who made it",
            Self::DiffersFromDiffId { .. } => "copy the layer again from where it was made",
            Self::NoRoom { .. } => "free some space or raise the quota, or try again when other layers have been copied",
            Self::CannotShare { .. } => {
                "let it be copied, or have both stores on one file system that shares blocks (XFS, btrfs)"
            }
            Self::InUse(_) => "stop the other process, or name another directory",
            Self::NotAnImage { .. } => "name an image of one platform by the digest of its manifest",
            Self::Registry(error) => return error.hint(),
            Self::Archive(error) => return error.hint(),
            Self::Io { .. } if self.kind() == ErrorKind::NoSpace => "free some space; nothing of the layer was kept",
            Self::Io { .. } => return None,
        };
        Some(hint.to_owned())
    }

    /// What reading the bytes of a layer failed with.
    pub(super) fn source(error: io::Error) -> Self {
        error.downcast::<Self>().unwrap_or_else(|error| Self::archive(ArchiveError::read("the layer")(error)))
    }

    pub(super) fn archive(error: ArchiveError) -> Self {
        Self::Archive(Arc::new(error))
    }

    pub(super) fn io(action: &'static str, what: impl ToString) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, what: what.to_string(), source: Arc::new(source) }
    }
}

impl From<NameError> for HandoffError {
    fn from(error: NameError) -> Self {
        Self::Frame(error.into())
    }
}

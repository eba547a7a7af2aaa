//! What can go wrong with bytes at rest, of which kind it is, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::ErrorKind;
use crate::database::Failure;
use crate::model::BlobHash;

/// Why the store could not do what it was asked for.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ContentError {
    /// A file was written to while it was read: what was read may be half old and half new.
    #[error("{} changed while it was read", .0.display())]
    Changed(PathBuf),
    /// A file was there, and is not any more.
    #[error("{} vanished while it was read", .0.display())]
    Vanished(PathBuf),
    /// A file to take in cannot be opened or read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: Arc<io::Error>,
    },
    /// Only regular files can be taken in.
    #[error("{} is not a regular file", .0.display())]
    NotAFile(PathBuf),
    /// Bytes were not to be copied, and cannot be shared.
    #[error("{what} would have to be copied: {why}")]
    NotShared {
        /// What the caller calls them.
        what: String,
        /// Why.
        why: String,
    },
    /// No such blob here, or not all of it.
    #[error("blob {0} is not here")]
    Absent(BlobHash),
    /// Bytes that were received are not what the blob's hash and size say. Nothing of them was written.
    #[error("the bytes that came for blob {0} are not those that its hash names")]
    Corrupt(BlobHash),
    /// Bytes on this node's disk are not what they were. The blob is marked, and is not served.
    #[error("blob {0} is damaged on this disk")]
    Damaged(BlobHash),
    /// A range is empty, beyond the blob, not at group boundaries, or longer than a block may be.
    #[error("{start}..{end} is not a range of blocks of a blob of {size} bytes")]
    BadRange {
        /// First byte.
        start: u64,
        /// One past the last byte.
        end: u64,
        /// The blob's size in bytes.
        size: u64,
    },
    /// Somebody claims another size for a blob whose size is known.
    #[error("blob {hash} has {actual} bytes, not {claimed}")]
    SizeDiffers {
        /// The blob.
        hash: BlobHash,
        /// What was claimed.
        claimed: u64,
        /// What is true.
        actual: u64,
    },
    /// An assembly is not whole.
    #[error("{missing} bytes of blob {hash} are still missing")]
    Incomplete {
        /// The blob.
        hash: BlobHash,
        /// Bytes that are not held.
        missing: u64,
    },
    /// The store's file system has no room for it.
    #[error("no space in {} for {wanted} bytes: {free} are free, of which {reserve} are kept free", dir.display())]
    NoSpace {
        /// The store's directory.
        dir: PathBuf,
        /// Bytes that were asked for.
        wanted: u64,
        /// Bytes that are free and not promised to assemblies.
        free: u64,
        /// Bytes that the store leaves to others.
        reserve: u64,
    },
    /// Blobs are being taken in of which it is not known yet why they are kept.
    #[error("blobs are being taken in, and nothing is collected meanwhile")]
    Busy,
    /// It cannot be taken out: something keeps it.
    #[error("blob {hash} is kept by {}", .reasons.join(", "))]
    Kept {
        /// The blob.
        hash: BlobHash,
        /// What keeps it, as a [`Pin`](super::Pin) is shown.
        reasons: Vec<String>,
    },
    /// It cannot be taken out: somebody reads it, or it is being fetched.
    #[error("blob {0} is being read or fetched")]
    InUse(BlobHash),
    /// The caller stopped it.
    #[error("stopped")]
    Stopped,
    /// The assembly was given up.
    #[error("the assembly of blob {0} was given up")]
    Abandoned(BlobHash),
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// The directory is of a version that this program does not know.
    #[error("{} holds a store of format {format}, which this program does not know", dir.display())]
    UnknownFormat {
        /// The store's directory.
        dir: PathBuf,
        /// The format that was found.
        format: u64,
    },
    /// The file system refused something.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system says.
        source: Arc<io::Error>,
    },
    /// The index refused something.
    #[error("the index of the store failed: {0}")]
    Index(Arc<redb::Error>),
}

impl ContentError {
    /// What it means for the caller.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Vanished(_) | Self::Absent(_) => ErrorKind::NotFound,
            Self::Unreadable { source, .. } | Self::Io { source, .. } => ErrorKind::of_io(source),
            Self::NotAFile(_) | Self::BadRange { .. } => ErrorKind::Usage,
            Self::Corrupt(_) | Self::Damaged(_) | Self::SizeDiffers { .. } => ErrorKind::Integrity,
            Self::NoSpace { .. } => ErrorKind::NoSpace,
            Self::Kept { .. } | Self::InUse(_) | Self::NotShared { .. } => ErrorKind::Refused,
            Self::Index(error) => match &**error {
                redb::Error::Io(error) => ErrorKind::of_io(error),
                redb::Error::Corrupted(_) => ErrorKind::Integrity,
                _ => ErrorKind::Failed,
            },
            Self::Changed(_)
            | Self::Incomplete { .. }
            | Self::Busy
            | Self::Stopped
            | Self::Abandoned(_)
            | Self::Closed
            | Self::UnknownFormat { .. } => ErrorKind::Failed,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            error if error.kind() == ErrorKind::NoSpace => {
                "free some space, drop what is not needed (gc), or move the store to a larger file system"
            }
            Self::Changed(_) => "send it again when nothing writes to it any more",
            Self::Unreadable { .. } => "let the user that this node runs as read it",
            Self::NotAFile(_) => "send regular files, or a directory of them",
            Self::Kept { reasons, .. } => return Some(how_to_let_go(reasons)),
            Self::NotShared { .. } => "have both on one file system, best one that shares extents (XFS, Btrfs), or allow copies",
            Self::InUse(_) => "try again when that has ended; a fetch ends when nobody wants the blob any more",
            Self::Busy => "try again when what is being sent, pulled or imported has ended",
            Self::Damaged(_) => "it is fetched again from another holder; look at the disk's health",
            Self::UnknownFormat { .. } => "use the version of the program that wrote it, or a newer one",
            Self::Index(error) if matches!(**error, redb::Error::DatabaseAlreadyOpen) => {
                "another process has the store open: ask the daemon instead, or stop it first"
            }
            Self::Index(_) => "restart; if it stays, look at the disk's health",
            _ => return None,
        };
        Some(hint.to_owned())
    }

    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source: Arc::new(source) }
    }

    pub(super) fn unreadable(path: &Path, source: io::Error) -> Self {
        Self::Unreadable { path: path.to_owned(), source: Arc::new(source) }
    }
}

/// What ends the reasons for which something is kept, one sentence a kind.
fn how_to_let_go(reasons: &[String]) -> String {
    const WAYS: [(&str, &str); 5] = [
        ("user:", "give up the pin by its name"),
        ("lease:", "give up leases, or wait: they end by themselves"),
        ("package:", "remove the image from this node's registry"),
        ("distribution:", "cancel the distribution, or wait until it expires"),
        ("stock:", "forbid stock clients to have it"),
    ];
    let ways = WAYS.iter().filter(|(kind, _)| reasons.iter().any(|reason| reason.starts_with(kind)));
    ways.map(|(_, way)| *way).collect::<Vec<_>>().join("; ")
}

impl From<redb::Error> for ContentError {
    fn from(error: redb::Error) -> Self {
        match error {
            redb::Error::DatabaseClosed => Self::Closed,
            error => Self::Index(Arc::new(error)),
        }
    }
}

macro_rules! index_errors {
    ($($error:ident),*) => {
        $(impl From<redb::$error> for ContentError {
            fn from(error: redb::$error) -> Self {
                redb::Error::from(error).into()
            }
        })*
    };
}
index_errors!(CommitError, StorageError, TableError);

impl Failure for ContentError {
    fn of_file(&self) -> Option<&redb::Error> {
        match self {
            Self::Index(error) => Some(error),
            _ => None,
        }
    }
}

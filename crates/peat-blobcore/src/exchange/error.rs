//! What can go wrong with one file on its way in or out, in words for the person who has to mend it.

use std::io;

use crate::ErrorKind;
use crate::database::Failure;
use crate::model::{BlobHash, EndpointId};

/// Why a file was not delivered, or not collected. Paths are quoted, since they come from others.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The store does not hold the blob (any more).
    #[error("{path:?}: blob {blob} is not in the store")]
    Missing {
        /// The path beneath the inbox.
        path: String,
        /// What is missing.
        blob: BlobHash,
    },
    /// What the store gave is not what the blob's name or the manifest's size says.
    #[error("{path:?}: the bytes written are not blob {blob} of {size} bytes")]
    Damaged {
        /// The path beneath the inbox.
        path: String,
        /// What was expected.
        blob: BlobHash,
        /// Its size in the manifest.
        size: u64,
    },
    /// The name is taken by a directory.
    #[error("{path:?}: a directory of that name is in the way")]
    DirectoryInTheWay {
        /// The path beneath the inbox.
        path: String,
    },
    /// A directory is needed where something else is.
    #[error("{path:?}: {way:?} is in the way and is not a directory")]
    FileInTheWay {
        /// The path beneath the inbox.
        path: String,
        /// The part of it that is taken.
        way: String,
    },
    /// A directory is needed where a symbolic link is.
    #[error("{path:?}: {way:?} is a symbolic link, which is never followed")]
    SymlinkInTheWay {
        /// The path beneath the inbox.
        path: String,
        /// The part of it that is a link.
        way: String,
    },
    /// One distribution names a file and, beneath the same name, another file.
    #[error("{path:?} is a file and also a directory in one distribution")]
    Clash {
        /// The path beneath the inbox.
        path: String,
    },
    /// Another sender's file, in an inbox where each sender replaces only its own.
    #[error("{path:?} belongs to sender {owner}, and this inbox lets a sender replace only its own files")]
    NotOwner {
        /// The path beneath the inbox.
        path: String,
        /// Whose file it is.
        owner: EndpointId,
    },
    /// The file itself is fine.
    #[error("{path:?} is held back: {failed} other files of the distribution failed, and its files are delivered together")]
    HeldBack {
        /// The path beneath the inbox.
        path: String,
        /// How many failed.
        failed: usize,
    },
    /// A path that must not be collected.
    #[error("{path:?} is not a path beneath the root: {why}")]
    NotBeneath {
        /// The path that was asked for.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The name that a blob was to be exported under is taken.
    #[error("{path:?} is there already, and is something else")]
    Taken {
        /// The path beneath the root.
        path: String,
    },
    /// A file is larger than what is taken in.
    #[error("{path:?} has {size} bytes, and at most {most} are taken in")]
    TooLarge {
        /// The path beneath the root.
        path: String,
        /// Its size in bytes.
        size: u64,
        /// The most that were allowed.
        most: u64,
    },
    /// A collected file is not the file any more that was found.
    #[error("{path:?} changed while it was read")]
    Changed {
        /// The path beneath the root.
        path: String,
    },
    /// The file system said no.
    #[error("{path:?}: cannot {what}: {source}")]
    Io {
        /// The path beneath the inbox or root, or the directory itself.
        path: String,
        /// What was tried.
        what: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// The inbox's ledger cannot be read or written; nothing of the batch is acknowledged.
    #[error("the inbox's ledger: {0}")]
    Ledger(Box<redb::Error>),
}

impl ExchangeError {
    pub(super) fn io(path: &str, what: &'static str, source: impl Into<io::Error>) -> Self {
        Self::Io { path: path.to_owned(), what, source: source.into() }
    }

    /// What the error means for the one who asked.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Missing { .. } => ErrorKind::NotFound,
            Self::Damaged { .. } => ErrorKind::Integrity,
            Self::NotOwner { .. } | Self::Taken { .. } | Self::TooLarge { .. } => ErrorKind::Refused,
            Self::Clash { .. } | Self::NotBeneath { .. } => ErrorKind::Usage,
            Self::Io { source, .. } => ErrorKind::of_io(source),
            Self::Ledger(error) => match &**error {
                redb::Error::Io(source) => ErrorKind::of_io(source),
                redb::Error::Corrupted(_) => ErrorKind::Integrity,
                _ => ErrorKind::Failed,
            },
            Self::DirectoryInTheWay { .. }
            | Self::FileInTheWay { .. }
            | Self::SymlinkInTheWay { .. }
            | Self::HeldBack { .. }
            | Self::Changed { .. } => ErrorKind::Failed,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Missing { .. } => "it is fetched again from another holder".to_owned(),
            Self::Damaged { .. } => "run check: it heals the store from other holders".to_owned(),
            Self::DirectoryInTheWay { path } => format!("move the directory {path:?} of the inbox away"),
            Self::FileInTheWay { way, .. } => format!("move the file {way:?} of the inbox away"),
            Self::SymlinkInTheWay { way, .. } => format!("replace the link {way:?} of the inbox by a directory"),
            Self::NotOwner { .. } => "set inbox_owner to all or inbox_layout to origin, or send under another path".to_owned(),
            Self::Taken { path } => format!("choose another name, or move {path:?} away"),
            Self::TooLarge { .. } => "raise the limit, or take in a smaller file".to_owned(),
            Self::Changed { .. } => "send it again when nobody writes to it".to_owned(),
            Self::Io { .. } if self.kind() == ErrorKind::NoSpace => "free space on the file system".to_owned(),
            Self::Ledger(_) if self.kind() == ErrorKind::Integrity => {
                "move the ledger away: files are delivered again, and equal ones skipped".to_owned()
            }
            _ => return None,
        })
    }

    /// Whether trying again can help without another distribution.
    pub(crate) fn retry(&self) -> bool {
        !matches!(self, Self::Clash { .. } | Self::NotOwner { .. })
    }
}

macro_rules! from_redb {
    ($($error:ty),*) => {$(
        impl From<$error> for ExchangeError {
            fn from(error: $error) -> Self {
                Self::Ledger(Box::new(error.into()))
            }
        }
    )*};
}
from_redb!(redb::Error, redb::TransactionError, redb::TableError, redb::StorageError, redb::CommitError);

impl Failure for ExchangeError {
    fn of_file(&self) -> Option<&redb::Error> {
        match self {
            Self::Ledger(error) => Some(error),
            _ => None,
        }
    }
}

//! The umbrella error of the library: what happened, of which kind, and what to do about it.

use std::path::PathBuf;

use crate::ErrorKind;
use crate::content::ContentError;
use crate::exchange::ExchangeError;
use crate::handoff::HandoffError;
use crate::identity::IdentityError;
use crate::model::{DistributionId, ManifestError};
use crate::network::NetworkError;
use crate::parcel::ParcelError;
use crate::registry::RegistryError;
use crate::replica::ReplicaError;

/// What went wrong in a call of the library.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The node's identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The documents.
    #[error(transparent)]
    Replica(#[from] ReplicaError),
    /// The blobs.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// The inbox or the files to send.
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
    /// The endpoint.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// A parcel.
    #[error(transparent)]
    Parcel(#[from] ParcelError),
    /// The registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A layer that is handed over to others on this machine.
    #[error(transparent)]
    Handoff(#[from] HandoffError),
    /// What is to be sent does not fit into a manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The data directory cannot be made, read or locked.
    #[error("the data directory {}: {source}", path.display())]
    DataDirectory {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Another process runs a node on the data directory.
    #[error("the data directory {} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// The data directory was made by a version that this one does not know.
    #[error("the data directory {} has the format {found:?}, and this version knows {known:?}", path.display())]
    Format {
        /// The directory.
        path: PathBuf,
        /// What it says of itself.
        found: String,
        /// What this version writes and reads.
        known: &'static str,
    },
    /// No such distribution is known here.
    #[error("no distribution {0} is known here")]
    NoDistribution(DistributionId),
    /// A distribution cannot be named for stock clients.
    #[error("it cannot be named for stock clients: {0}")]
    NotForStock(&'static str),
    /// There was no file to send, or none of them could be read.
    #[error("there is nothing to send: {0}")]
    NothingToSend(String),
    /// A wait ended before what was waited for.
    #[error("timed out: {0}")]
    TimedOut(String),
    /// The node has been shut down.
    #[error("the node is shut down")]
    Stopped,
}

impl Error {
    /// Nothing beneath `root` could be taken in; the first file that was left out says why.
    pub(crate) fn nothing_to_send(root: &std::path::Path, skipped: &[crate::Skipped]) -> Self {
        Self::NothingToSend(skipped.first().map_or_else(
            || format!("{} has no files", root.display()),
            |first| format!("{}: {}", String::from_utf8_lossy(&first.path), first.reason),
        ))
    }

    /// What it means for the one who called.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Identity(error) => error.kind(),
            Self::Replica(error) => error.kind(),
            Self::Content(error) => error.kind(),
            Self::Exchange(error) => error.kind(),
            Self::Network(error) => error.kind(),
            Self::Parcel(error) => error.kind(),
            Self::Registry(error) => error.kind(),
            Self::Handoff(error) => error.kind(),
            Self::Manifest(_) => ErrorKind::Usage,
            Self::NotForStock(_) => ErrorKind::Refused,
            Self::DataDirectory { source, .. } => ErrorKind::of_io(source),
            Self::InUse(_) | Self::Format { .. } => ErrorKind::Refused,
            Self::NoDistribution(_) | Self::NothingToSend(_) => ErrorKind::NotFound,
            Self::TimedOut(_) => ErrorKind::TimedOut,
            Self::Stopped => ErrorKind::Failed,
        }
    }

    /// What to do about it, where there is something to do.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Identity(error) => error.hint(),
            Self::Replica(error) => error.hint(),
            Self::Content(error) => error.hint(),
            Self::Exchange(error) => error.hint(),
            Self::Network(error) => error.hint(),
            Self::Parcel(error) => error.hint(),
            Self::Registry(error) => error.hint(),
            Self::Handoff(error) => error.hint(),
            Self::Manifest(_) => None,
            Self::DataDirectory { .. } if self.kind() == ErrorKind::NoSpace => None,
            Self::DataDirectory { .. } => Some("name a directory on a local file system that this user may write to".to_owned()),
            Self::InUse(_) => Some("stop the other process, or give this node a data directory of its own".to_owned()),
            Self::Format { .. } => Some("run the version that wrote it, or a newer one".to_owned()),
            Self::NoDistribution(_) => Some("check the id; ids of expired distributions are forgotten".to_owned()),
            Self::NotForStock(_) => Some("wait until its files are known, or name single blobs".to_owned()),
            Self::NothingToSend(_) => Some("name a file or a directory with files that this user may read".to_owned()),
            Self::TimedOut(_) => Some("ask for the status to see what it waits for".to_owned()),
            Self::Stopped => None,
        };
        let room = || "free some space on the file system of the data directory; nothing is lost".to_owned();
        hint.or_else(|| (self.kind() == ErrorKind::NoSpace).then(room))
    }
}

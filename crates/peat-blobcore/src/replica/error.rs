//! What can go wrong with a replica.

use super::Reason;
use crate::ErrorKind;
use crate::database::Failure;
use crate::document::{ChangeError, EnvelopeError};
use crate::model::{DistributionId, ManifestError};

/// Why a replica could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ReplicaError {
    /// The file cannot be read or written.
    #[error("the replica's file: {0}")]
    Store(#[from] redb::Error),
    /// Another node would refuse the manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// This node may not write that into the document.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// There is no such distribution here.
    #[error("there is no distribution {0} here")]
    Unknown(DistributionId),
    /// The data directory is new, and this node may have said something in an older one.
    #[error("this node's data directory is new: it must reconcile with another node before it writes there")]
    NotReady,
    /// The replica itself refused what was to be written.
    #[error("the replica refused it: {}", .0.as_str())]
    Refused(Reason),
    /// It is dated so far ahead that everyone would hold it back, or this node is unknown to itself.
    #[error("what was to be written is dated more than a day ahead of the clock, or waits for something unknown")]
    HeldBack,
    /// A record is over its limit.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
}

impl ReplicaError {
    /// The kind, for exit codes.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Store(redb::Error::Io(error)) => ErrorKind::of_io(error),
            Self::Store(redb::Error::Corrupted(_)) => ErrorKind::Integrity,
            Self::Store(_) => ErrorKind::Failed,
            Self::Manifest(_) | Self::Envelope(_) => ErrorKind::Usage,
            Self::Unknown(_) => ErrorKind::NotFound,
            Self::Change(_) | Self::NotReady | Self::Refused(_) | Self::HeldBack => ErrorKind::Refused,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Store(redb::Error::DatabaseAlreadyOpen) => "another process has this data directory open: talk to the daemon",
            Self::Store(redb::Error::Corrupted(_)) => "move the data directory's replica.redb away; peers fill a new one",
            Self::Unknown(_) => "list the distributions; it may have expired, or not have come here yet",
            Self::NotReady => "connect it to any other node of the formation",
            Self::HeldBack => "check this node's clock",
            Self::Refused(Reason::NotPermitted) => "sign it with the key of the formation's authority; nobody else may say that",
            Self::Refused(Reason::NotMember) => "check this node's certificate and its expiry",
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

impl Failure for ReplicaError {
    fn of_file(&self) -> Option<&redb::Error> {
        match self {
            Self::Store(error) => Some(error),
            _ => None,
        }
    }
}

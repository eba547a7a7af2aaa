//! What can go wrong with another registry, of which kind it is, and what to do about it.

use std::time::Duration;

use crate::ErrorKind;
use crate::content::ContentError;
use crate::oci::{Digest, ManifestError};
use crate::registry::ClosureError;

/// Why a registry did not give or take something.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// Its name, or an address that it gave, cannot be used.
    #[error("{0:?} is no address of a registry that can be used here: {1}")]
    BadAddress(String, &'static str),
    /// It does not answer, or the connection broke and did not come back.
    #[error("{registry}: {source}")]
    Unreachable {
        /// The registry.
        registry: String,
        /// What the transport says.
        source: reqwest::Error,
    },
    /// Other nodes, which were to ask, did not give it.
    #[error("other nodes do not give it: {0}")]
    NoMember(String),
    /// It said nothing for too long.
    #[error("{registry} said nothing for {} s", .after.as_secs())]
    Stalled {
        /// The registry.
        registry: String,
        /// For how long it was waited.
        after: Duration,
    },
    /// It cut a body off again and again.
    #[error("{registry} cut {digest} off {attempts} times at byte {at}")]
    Cut {
        /// The registry.
        registry: String,
        /// What was asked for.
        digest: Digest,
        /// How often.
        attempts: u32,
        /// Where.
        at: u64,
    },
    /// It wants to know who asks, and is not content with what it was told.
    #[error("{registry} does not let this be done: {why}")]
    Denied {
        /// The registry.
        registry: String,
        /// What it says.
        why: String,
    },
    /// It has no such thing.
    #[error("{registry} does not have {what}")]
    NotFound {
        /// The registry.
        registry: String,
        /// What was asked for.
        what: String,
    },
    /// It answered with something that the protocol does not have there.
    #[error("{registry} answered {status} for {what}: {why}")]
    Protocol {
        /// The registry.
        registry: String,
        /// The status of the answer.
        status: u16,
        /// What was asked for.
        what: String,
        /// What is wrong with it, or the registry's own words.
        why: String,
    },
    /// What it gave is not what was asked for.
    #[error("what {registry} gave for {digest} is not what the digest names")]
    Mismatch {
        /// The registry.
        registry: String,
        /// What was asked for.
        digest: Digest,
    },
    /// What it has under a name is not what was expected.
    #[error("it is {actual} there, and not {expected}")]
    Another {
        /// What was expected.
        expected: Digest,
        /// What it is.
        actual: Box<Digest>,
    },
    /// A manifest that cannot be read.
    #[error("{what}: {source}")]
    Manifest {
        /// What was asked for.
        what: String,
        /// Why.
        source: ManifestError,
    },
    /// A closure that cannot be walked.
    #[error(transparent)]
    Closure(#[from] ClosureError),
    /// No image is for the platform that was asked for.
    #[error("{0} has no image for the platform that was asked for")]
    NoSuchPlatform(String),
    /// What is to be pushed is not here.
    #[error("{0} is not here, and belongs to what is pushed")]
    Missing(Digest),
    /// The store could not do its part.
    #[error(transparent)]
    Content(#[from] ContentError),
}

impl RemoteError {
    /// What it means for the caller.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::BadAddress(..) => ErrorKind::Usage,
            Self::Unreachable { .. } | Self::NoMember(_) | Self::Cut { .. } => ErrorKind::Unreachable,
            Self::Stalled { .. } => ErrorKind::TimedOut,
            Self::Denied { .. } => ErrorKind::Refused,
            Self::NotFound { .. } | Self::NoSuchPlatform(_) | Self::Missing(_) => ErrorKind::NotFound,
            Self::Mismatch { .. } | Self::Another { .. } | Self::Manifest { .. } | Self::Closure(_) => ErrorKind::Integrity,
            Self::Protocol { .. } => ErrorKind::Failed,
            Self::Content(error) => error.kind(),
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::BadAddress(..) => "write host or host:port; for plain http say that it may be insecure",
            Self::Unreachable { .. } | Self::Stalled { .. } | Self::Cut { .. } => {
                "try again: what has come is kept; a registry without TLS has to be allowed as insecure"
            }
            Self::Denied { .. } => "give a user and password, or a token, that may do this",
            Self::NoSuchPlatform(_) => "leave the platform out to take all that there are",
            Self::Mismatch { .. } => "nothing of it was kept; the registry, or what is between, is damaged or lies",
            Self::Content(error) => return error.hint(),
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

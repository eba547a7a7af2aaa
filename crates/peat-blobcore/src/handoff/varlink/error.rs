//! What can go wrong between two stores that speak varlink, of which kind it is, and what to do about it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;

use super::{MessageError, Refusal};
use crate::ErrorKind;
use crate::handoff::HandoffError;

/// Why a call did not come to its end.
#[derive(Debug, Clone, thiserror::Error)]
pub enum VarlinkError {
    /// The socket.
    #[error("cannot {action}: {source}")]
    Io {
        /// What was tried.
        action: String,
        /// What the system says.
        source: Arc<io::Error>,
    },
    /// The other side has gone.
    #[error("the other side has closed the connection")]
    Closed,
    /// The other side does nothing.
    #[error("the other side neither read nor wrote for {} s", .0.as_secs())]
    Stalled(Duration),
    /// This side ends.
    #[error("the service ends")]
    Stopped,
    /// Descriptors were lost on the way: this process may have no more open.
    #[error("descriptors were lost: no more files can be open")]
    LostDescriptors,
    /// All connections together have no more room for messages.
    #[error("there is no room for another long message now")]
    Busy,
    /// What came is no message, or more than one may be.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// The other side is another user.
    #[error("the other side is user {0}, who may not use this")]
    Stranger(u32),
    /// A reply that makes no sense.
    #[error("the service answers what makes no sense: {0}")]
    Senseless(String),
    /// The service said no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A layer.
    #[error(transparent)]
    Handoff(#[from] HandoffError),
}

impl VarlinkError {
    pub(super) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source: Arc::new(source) }
    }

    pub(super) fn errno(action: &'static str) -> impl FnOnce(Errno) -> Self {
        move |errno| Self::io(action)(errno.into())
    }

    /// What it means for the one who called.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Io { source, .. } => ErrorKind::of_io(source),
            Self::Handoff(error) => error.kind(),
            Self::Refused(refusal) => match refusal {
                Refusal::NoSuchImage { .. } | Refusal::NoSuchLayer { .. } | Refusal::RepoNotFound { .. } => ErrorKind::NotFound,
                Refusal::DiffIdMismatch { .. } => ErrorKind::Integrity,
                Refusal::InvalidDigest { .. } | Refusal::InvalidSpec { .. } | Refusal::InvalidHandle { .. } => ErrorKind::Usage,
                Refusal::InvalidRequest { .. } | Refusal::FdLimitExceeded { .. } => ErrorKind::Refused,
                Refusal::InternalError { .. } | Refusal::Other { .. } => ErrorKind::Failed,
            },
            Self::Stranger(_) => ErrorKind::Refused,
            Self::Closed | Self::Stopped | Self::Busy => ErrorKind::Unreachable,
            Self::Stalled(_) => ErrorKind::TimedOut,
            Self::LostDescriptors | Self::Message(_) | Self::Senseless(_) => ErrorKind::Failed,
        }
    }

    /// What to do about it, where there is something to do.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Io { .. } => "see that the service runs, and that this user may use its socket",
            Self::Closed | Self::Stalled(_) | Self::Stopped | Self::Busy => "try again",
            Self::LostDescriptors => "raise the limit of open files (ulimit -n)",
            Self::Stranger(_) => "call as the user that the service runs as, or as root",
            Self::Message(_) | Self::Senseless(_) => "see that the socket is of a service of org.composefs.Oci",
            Self::Refused(Refusal::FdLimitExceeded { .. }) => "ask with `more`",
            Self::Refused(_) => return None,
            Self::Handoff(error) => return error.hint(),
        };
        Some(hint.to_owned())
    }
}

//! How a verb fails: what happened, what to do about it, and an exit code that scripts can rely on. Never prints by itself.

use std::fmt;

use connectrpc::{ConnectError, ErrorCode};
use peat_blobcore::identity::{IdentityError, KeyError, Rejection};
use peat_blobcore::{Error, ErrorKind};

/// What a failure means for the one who called, one kind an exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Something went wrong that no other kind covers.
    Failed,
    /// What was asked for is malformed or contradicts itself.
    Usage,
    /// A part of what was asked for was done.
    Partial,
    /// What was asked for does not exist.
    NotFound,
    /// A peer or the daemon is out of reach.
    Unreachable,
    /// It took longer than was allowed.
    TimedOut,
    /// Bytes are not what they should be.
    Integrity,
    /// A rule forbids it.
    Refused,
    /// A file system is full.
    NoSpace,
    /// The user ended it.
    Interrupted,
}

impl Kind {
    const ALL: [Self; 10] = [
        Self::Failed,
        Self::Usage,
        Self::Partial,
        Self::NotFound,
        Self::Unreachable,
        Self::TimedOut,
        Self::Integrity,
        Self::Refused,
        Self::NoSpace,
        Self::Interrupted,
    ];

    /// The exit code.
    pub(crate) const fn exit_code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Partial => 3,
            Self::NotFound => 4,
            Self::Unreachable => 5,
            Self::TimedOut => 6,
            Self::Integrity => 7,
            Self::Refused => 8,
            Self::NoSpace => 9,
            Self::Interrupted => 130,
        }
    }

    /// The word that the API and JSON use.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Usage => "usage",
            Self::Partial => "partial",
            Self::NotFound => "not found",
            Self::Unreachable => "unreachable",
            Self::TimedOut => "timed out",
            Self::Integrity => "integrity",
            Self::Refused => "refused",
            Self::NoSpace => "no space",
            Self::Interrupted => "interrupted",
        }
    }

    /// What a Connect code means where the daemon, or whatever answers in its place, gives no kind.
    const fn of_code(code: ErrorCode) -> Self {
        match code {
            ErrorCode::InvalidArgument | ErrorCode::OutOfRange => Self::Usage,
            ErrorCode::NotFound => Self::NotFound,
            ErrorCode::Unavailable => Self::Unreachable,
            ErrorCode::DeadlineExceeded => Self::TimedOut,
            ErrorCode::DataLoss => Self::Integrity,
            ErrorCode::PermissionDenied
            | ErrorCode::Unauthenticated
            | ErrorCode::FailedPrecondition
            | ErrorCode::AlreadyExists => Self::Refused,
            ErrorCode::ResourceExhausted => Self::NoSpace,
            _ => Self::Failed,
        }
    }
}

impl From<ErrorKind> for Kind {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Failed => Self::Failed,
            ErrorKind::Usage => Self::Usage,
            ErrorKind::NotFound => Self::NotFound,
            ErrorKind::Unreachable => Self::Unreachable,
            ErrorKind::TimedOut => Self::TimedOut,
            ErrorKind::Integrity => Self::Integrity,
            ErrorKind::Refused => Self::Refused,
            ErrorKind::NoSpace => Self::NoSpace,
        }
    }
}

/// Why a verb failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    /// What happened.
    pub(crate) message: String,
    /// What to do about it.
    pub(crate) hint: Option<String>,
}

impl Failure {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }

    /// The same with what to do about it.
    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// An error of the system, with what was tried.
    pub(crate) fn io(what: impl fmt::Display) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::new(ErrorKind::of_io(&source).into(), format!("{what}: {source}"))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { kind: error.kind().into(), message: error.to_string(), hint: error.hint() }
    }
}

impl From<IdentityError> for Failure {
    fn from(error: IdentityError) -> Self {
        Error::from(error).into()
    }
}

impl From<Rejection> for Failure {
    fn from(rejection: Rejection) -> Self {
        IdentityError::from(rejection).into()
    }
}

impl From<KeyError> for Failure {
    fn from(error: KeyError) -> Self {
        Self { kind: error.kind().into(), message: format!("the key is malformed: {error}"), hint: error.hint() }
    }
}

/// What the daemon answered. Its own words come in two headers, or at the end of a stream.
pub(crate) fn of_daemon(error: &ConnectError) -> Failure {
    let told = |name: &str| {
        let value = error.response_headers().get(name).or_else(|| error.trailers().get(name))?;
        Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let kind = told("peat-blob-error-kind").and_then(|word| Kind::ALL.into_iter().find(|kind| kind.as_str() == word));
    let message = error.message.clone().unwrap_or_else(|| error.code.as_str().replace('_', " "));
    let hint = told("peat-blob-hint").or_else(|| match error.code {
        ErrorCode::Unauthenticated => Some("name the file with the daemon's token with --token-file".to_owned()),
        ErrorCode::Unimplemented => Some("the daemon may be older than this program; upgrade it".to_owned()),
        _ => None,
    });
    Failure { kind: kind.unwrap_or(Kind::of_code(error.code)), message, hint }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daemons_own_words_win_over_the_code() {
        let mut error = ConnectError::new(ErrorCode::Internal, "the disk is full");
        error.response_headers_mut().insert("peat-blob-error-kind", "no space".parse().unwrap());
        error.trailers_mut().insert("peat-blob-hint", "make room".parse().unwrap());
        let failure = of_daemon(&error);
        assert_eq!((failure.kind, failure.kind.exit_code()), (Kind::NoSpace, 9));
        assert_eq!((failure.message.as_str(), failure.hint.as_deref()), ("the disk is full", Some("make room")));
    }

    #[test]
    fn without_words_the_code_decides() {
        assert_eq!(of_daemon(&ConnectError::not_found("no")).kind, Kind::NotFound);
        assert_eq!(of_daemon(&ConnectError::unauthenticated("no")).kind, Kind::Refused);
        assert!(of_daemon(&ConnectError::unauthenticated("no")).hint.unwrap().contains("--token-file"));
    }
}

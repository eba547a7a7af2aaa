//! How a verb fails: what happened, what to do about it, and an exit code that scripts can rely on. Never prints by itself.

use std::fmt;

use connectrpc::{ConnectError, ErrorCode};
use peat_blobapi::tls::TlsError;
use peat_blobapi::{HINT_HEADER, KIND_HEADER};
use peat_blobcore::identity::{IdentityError, KeyError, Rejection};
use peat_blobcore::{Error, ErrorKind};

/// What a failure means for the one who called, one kind an exit code: those of the library, and what only a command can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// As the library has it.
    Of(ErrorKind),
    /// A part of what was asked for was done.
    Partial,
    /// The user ended it.
    Interrupted,
}

impl Kind {
    pub(crate) const FAILED: Self = Self::Of(ErrorKind::Failed);
    pub(crate) const USAGE: Self = Self::Of(ErrorKind::Usage);
    pub(crate) const NOT_FOUND: Self = Self::Of(ErrorKind::NotFound);
    pub(crate) const UNREACHABLE: Self = Self::Of(ErrorKind::Unreachable);
    pub(crate) const TIMED_OUT: Self = Self::Of(ErrorKind::TimedOut);
    pub(crate) const INTEGRITY: Self = Self::Of(ErrorKind::Integrity);
    pub(crate) const REFUSED: Self = Self::Of(ErrorKind::Refused);
    pub(crate) const NO_SPACE: Self = Self::Of(ErrorKind::NoSpace);

    /// The exit code.
    pub(crate) const fn exit_code(self) -> u8 {
        match self {
            Self::Of(kind) => kind.exit_code(),
            Self::Partial => 3,
            Self::Interrupted => 130,
        }
    }

    /// The word that JSON uses.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Of(kind) => kind.as_str(),
            Self::Partial => "partial",
            Self::Interrupted => "interrupted",
        }
    }

    /// What a Connect code means where the daemon, or whatever answers in its place, gives no kind.
    const fn of_code(code: ErrorCode) -> Self {
        match code {
            ErrorCode::InvalidArgument | ErrorCode::OutOfRange => Self::USAGE,
            ErrorCode::NotFound => Self::NOT_FOUND,
            ErrorCode::Unavailable => Self::UNREACHABLE,
            ErrorCode::DeadlineExceeded => Self::TIMED_OUT,
            ErrorCode::DataLoss => Self::INTEGRITY,
            ErrorCode::PermissionDenied
            | ErrorCode::Unauthenticated
            | ErrorCode::FailedPrecondition
            | ErrorCode::AlreadyExists => Self::REFUSED,
            ErrorCode::ResourceExhausted => Self::NO_SPACE,
            _ => Self::FAILED,
        }
    }
}

impl From<ErrorKind> for Kind {
    fn from(kind: ErrorKind) -> Self {
        Self::Of(kind)
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
        Self::new(Kind::USAGE, message)
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

impl From<TlsError> for Failure {
    fn from(error: TlsError) -> Self {
        let kind = match &error {
            TlsError::Unreadable { source, .. } => ErrorKind::of_io(source).into(),
            _ => Kind::USAGE,
        };
        Self::new(kind, error.to_string())
    }
}

/// What the daemon answered. Its own words come in two headers, or at the end of a stream.
pub(crate) fn of_daemon(error: &ConnectError) -> Failure {
    let told = |name: &str| {
        let value = error.response_headers().get(name).or_else(|| error.trailers().get(name))?;
        Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let kind = told(KIND_HEADER).and_then(|word| ErrorKind::ALL.into_iter().find(|kind| kind.as_str() == word));
    let message = error.message.clone().unwrap_or_else(|| error.code.as_str().replace('_', " "));
    let hint = told(HINT_HEADER).or_else(|| match error.code {
        ErrorCode::Unauthenticated => Some("name the file with the daemon's token with --token-file".to_owned()),
        ErrorCode::Unimplemented => Some("the daemon may be older than this program; upgrade it".to_owned()),
        _ => None,
    });
    Failure { kind: kind.map_or(Kind::of_code(error.code), Kind::Of), message, hint }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daemons_own_words_win_over_the_code() {
        let mut error = ConnectError::new(ErrorCode::Internal, "the disk is full");
        error.response_headers_mut().insert(KIND_HEADER, "no space".parse().unwrap());
        error.trailers_mut().insert(HINT_HEADER, "make room".parse().unwrap());
        let failure = of_daemon(&error);
        assert_eq!((failure.kind, failure.kind.exit_code()), (Kind::NO_SPACE, 9));
        assert_eq!((failure.message.as_str(), failure.hint.as_deref()), ("the disk is full", Some("make room")));
    }

    #[test]
    fn without_words_the_code_decides() {
        assert_eq!(of_daemon(&ConnectError::not_found("no")).kind, Kind::NOT_FOUND);
        assert_eq!(of_daemon(&ConnectError::unauthenticated("no")).kind, Kind::REFUSED);
        assert!(of_daemon(&ConnectError::unauthenticated("no")).hint.unwrap().contains("--token-file"));
    }
}

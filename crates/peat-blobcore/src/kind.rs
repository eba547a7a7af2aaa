//! What an error means for the one who called, whatever module it comes from.

use std::fmt;

/// What an error means for the one who called, one kind an exit code of the CLI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// Something went wrong that no other kind covers.
    Failed,
    /// What was asked for is malformed or contradicts itself.
    Usage,
    /// What was asked for does not exist.
    NotFound,
    /// A peer or daemon is out of reach.
    Unreachable,
    /// It took longer than was allowed.
    TimedOut,
    /// Bytes are not what they should be.
    Integrity,
    /// A rule forbids it.
    Refused,
    /// A file system is full.
    NoSpace,
}

impl ErrorKind {
    /// Every kind, in the order of their exit codes.
    pub const ALL: [Self; 8] = [
        Self::Failed,
        Self::Usage,
        Self::NotFound,
        Self::Unreachable,
        Self::TimedOut,
        Self::Integrity,
        Self::Refused,
        Self::NoSpace,
    ];

    /// The word that logs, the API and JSON use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Usage => "usage",
            Self::NotFound => "not found",
            Self::Unreachable => "unreachable",
            Self::TimedOut => "timed out",
            Self::Integrity => "integrity",
            Self::Refused => "refused",
            Self::NoSpace => "no space",
        }
    }

    /// What a program of peat-blob exits with. 0 is success; 3 and 130 are the CLI's own (done in part, interrupted).
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotFound => 4,
            Self::Unreachable => 5,
            Self::TimedOut => 6,
            Self::Integrity => 7,
            Self::Refused => 8,
            Self::NoSpace => 9,
        }
    }

    /// The kind of an I/O error.
    #[must_use]
    pub fn of_io(error: &std::io::Error) -> Self {
        use std::io::ErrorKind as Io;
        match error.kind() {
            Io::NotFound => Self::NotFound,
            Io::PermissionDenied | Io::ReadOnlyFilesystem => Self::Refused,
            Io::StorageFull | Io::QuotaExceeded | Io::FileTooLarge => Self::NoSpace,
            Io::TimedOut => Self::TimedOut,
            Io::InvalidData => Self::Integrity,
            Io::ConnectionRefused | Io::ConnectionReset | Io::HostUnreachable | Io::NetworkUnreachable => Self::Unreachable,
            _ => Self::Failed,
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

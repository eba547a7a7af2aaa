//! How an error ends the program: what happened, what to do about it, and an exit code that scripts can rely on.

use std::process::ExitCode;

use peat_blobcore::{Error, ErrorKind};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The library's errors.
    #[error(transparent)]
    Core(#[from] Error),
    /// Something on this machine that the command itself touches.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// What arrived is not what was sent.
    #[error("{0}")]
    Differs(String),
}

impl Failure {
    /// An error of the system, with what was tried.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        |source| Self::Io { what: what.into(), source }
    }

    /// Prints it and returns the exit code.
    pub(crate) fn show(&self) -> ExitCode {
        eprintln!("error: {self}");
        if let Self::Core(error) = self
            && let Some(hint) = error.hint()
        {
            eprintln!("hint: {hint}");
        }
        ExitCode::from(exit_code(match self {
            Self::Core(error) => error.kind(),
            Self::Io { source, .. } => ErrorKind::of_io(source),
            Self::Differs(_) => ErrorKind::Integrity,
        }))
    }
}

/// The exit codes: 1 failed, 2 usage, 4 not found, 5 unreachable, 6 timed out, 7 integrity, 8 refused, 9 no space.
const fn exit_code(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::Failed => 1,
        ErrorKind::Usage => 2,
        ErrorKind::NotFound => 4,
        ErrorKind::Unreachable => 5,
        ErrorKind::TimedOut => 6,
        ErrorKind::Integrity => 7,
        ErrorKind::Refused => 8,
        ErrorKind::NoSpace => 9,
    }
}

//! What can go wrong with a lab, and what to do about it.

use std::io;

/// Why a lab could not be made, or could not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// Network namespaces and TUN devices are root's.
    #[error("the lab needs root: run it as root, or with sudo")]
    NotRoot,
    /// The kernel has no TUN.
    #[error("the lab needs /dev/net/tun: load the module `tun`, or give this container the device")]
    NoTun,
    /// A program of the system is missing.
    #[error("the lab needs `{program}`: install {package}")]
    Missing {
        /// The program.
        program: &'static str,
        /// What Debian has it in.
        package: &'static str,
    },
    /// What was asked for does not exist, or contradicts itself.
    #[error("{0}")]
    Usage(String),
    /// A program of the system failed.
    #[error("{what} failed: {message}")]
    Command {
        /// What it was to do.
        what: String,
        /// What it said.
        message: String,
    },
    /// The system refused.
    #[error("{what}: {source}")]
    Io {
        /// What was to be done.
        what: String,
        /// Why it was not.
        source: io::Error,
    },
}

impl LabError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

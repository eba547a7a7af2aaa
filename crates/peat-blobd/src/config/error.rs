//! What can be wrong with a configuration. Each error names the setting, where it comes from, and what is allowed; none shows
//! a secret.

use std::io;
use std::path::PathBuf;

use super::Origin;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The command line is not understood, or asks for help.
    #[error(transparent)]
    CommandLine(#[from] clap::Error),
    /// An environment variable or a key of the file that no setting has.
    #[error("{at}: {name} is not a setting{}", .nearest.as_ref().map(|name| format!("; did you mean {name}?")).unwrap_or_default())]
    Unknown {
        /// Where it stands.
        at: Origin,
        /// As it was written.
        name: String,
        /// The name that differs least, where one is near.
        nearest: Option<String>,
    },
    /// An environment variable that is not text.
    #[error("{0}: the value is not UTF-8")]
    NotText(Origin),
    /// The configuration file, or a file that a setting names, cannot be read.
    #[error("{at}: cannot read {}: {source}", path.display())]
    Unreadable {
        /// What names the file.
        at: Origin,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The configuration file is not TOML.
    #[error("{at}: not TOML: {message}")]
    Syntax {
        /// Where it stops being TOML.
        at: Origin,
        /// What is wrong there.
        message: String,
    },
    /// A value that its setting does not have.
    #[error("{at}: {name} cannot be {value}; give {allowed}")]
    Value {
        /// Where it stands.
        at: Origin,
        /// The setting.
        name: String,
        /// The value, quoted, unless it is a secret.
        value: String,
        /// What the setting can be.
        allowed: String,
    },
    /// A reload cannot change what kind of client is let in over TCP.
    #[error("token_file, tls_cert and tls_client_ca come and go with a start only: who is connected was let in by those before")]
    Door,
    /// Settings that contradict each other, or that need another one.
    #[error("{at}: {message}")]
    Rule {
        /// Where the setting stands that the message begins with.
        at: Origin,
        /// What is wrong, and what to do.
        message: String,
    },
}

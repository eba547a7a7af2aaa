//! The values of settings that have a type of their own, each with its text form.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use peat_blobcore::model::{EndpointId, Manifest, Priority, Scope};

/// Why a text is not a value of a setting: what is allowed, in words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ValueError(pub(super) String);

/// Where the API is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// On a Unix socket: `unix:///path`.
    Unix(PathBuf),
    /// On TCP: `tcp://host:port`, the host an address.
    Tcp(SocketAddr),
}

impl Listen {
    /// Whether other machines may reach it.
    #[must_use]
    pub fn is_beyond_loopback(&self) -> bool {
        matches!(self, Self::Tcp(address) if !address.ip().to_canonical().is_loopback())
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

impl FromStr for Listen {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let allowed = || ValueError("unix:///absolute/path, or tcp://address:port such as tcp://127.0.0.1:50051".to_owned());
        if let Some(path) = text.strip_prefix("unix://") {
            return path.starts_with('/').then(|| Self::Unix(path.into())).ok_or_else(allowed);
        }
        let address = text.strip_prefix("tcp://").ok_or_else(allowed)?;
        let address = match address.strip_prefix("localhost:") {
            Some(port) => format!("127.0.0.1:{port}"),
            None => address.to_owned(),
        };
        address.parse().map(Self::Tcp).map_err(|_| allowed())
    }
}

/// Which roots are watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Watched {
    /// All, each for all nodes.
    All,
    /// These, each on terms of its own.
    Named(BTreeMap<String, WatchTerms>),
}

/// How files of a watched root are sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchTerms {
    /// Whom they are for.
    pub scope: Scope,
    /// How urgent they are; `None` as what is sent without a priority.
    pub priority: Option<Priority>,
    /// How long they are tried.
    pub lifetime: Duration,
    /// Whether what is removed there goes from inboxes.
    pub deletions: bool,
}

impl Default for WatchTerms {
    fn default() -> Self {
        Self { scope: Scope::All, priority: None, lifetime: Manifest::DEFAULT_LIFETIME, deletions: false }
    }
}

/// A peer that a connection is kept with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaticPeer {
    /// Who it is.
    pub id: EndpointId,
    /// Where it is: `host:port`, the host a name or an address (an IPv6 address in brackets).
    pub hosts: Vec<String>,
}

/// A registry that the node's stands before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamAt {
    /// What its repositories are beneath; `None` for every repository.
    pub name: Option<String>,
    /// Where it and its mirrors are, in the order in which they are asked: `host` or `host:port`, and whether by plain http.
    pub hosts: Vec<(String, bool)>,
}

/// A secret that clients of the API show. `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// The token that consists of `text`.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(hidden)")
    }
}

/// How a line of the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

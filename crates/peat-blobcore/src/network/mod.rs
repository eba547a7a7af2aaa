//! The connections of a node: one with each peer, admitted before anything else is said on it. They carry envelopes, hints
//! and blocks. Decides nothing about distributions; what arrives goes to the replica, and what changed to the driver.
//!
//! - `endpoint`: the QUIC endpoint and the gate before protocols other than ours.
//! - `congestion`: how fast a path is sent over.
//! - `service`: accepts, dials, and owns the task of each connection.
//! - `addresses`, `names`, `dialing`: where a peer may be, and when to dial it.
//! - `mdns`, `found`: who is on the local network, and which of them to try.
//! - `segments`: whether this machine takes several packets in one call.
//! - `idle`: when a connection that has nothing to carry is let go.
//! - `lobby`: who came in and is not admitted yet.
//! - `session`: one connection, from admission to its end.
//! - `stock`: requests of stock iroh-blobs clients.
//! - `gossip`: signed hints beyond direct neighbours.
//! - `errand`: what a node asks another to ask a registry for.
//! - `wire`: what is said; `compression`: in fewer bytes.

mod addresses;
pub mod compression;
mod congestion;
mod dialing;
mod endpoint;
pub mod errand;
mod failures;
mod found;
mod gossip;
mod hearing;
mod idle;
mod lobby;
mod mdns;
mod names;
mod pairs;
mod peers;
mod queue;
mod relay;
mod segments;
mod service;
mod session;
pub mod stock;
pub mod wire;

pub use endpoint::CloseCode;
pub use failures::PeerFailure;
pub use idle::IdleLinks;
pub use names::{Resolver, SystemResolver};
pub(crate) use peers::{Peer, Reached};
pub use relay::{Relay, RelayError};
pub(crate) use service::{Network, NetworkConfig};

use crate::document::Hint;
use crate::model::{DistributionId, EndpointId};
use crate::replica::Accepted;

/// What happened on the network, for the driver.
#[derive(Debug)]
pub(crate) enum NetworkEvent {
    /// An admitted connection with the peer exists.
    Up(EndpointId),
    /// None exists any more.
    Down(EndpointId),
    /// A dial that was asked for has ended.
    DialEnded {
        /// Whom it was to.
        peer: EndpointId,
        /// Whether an admitted connection exists now.
        ok: bool,
    },
    /// The replicas of both had the same envelopes for a moment.
    Reconciled(EndpointId),
    /// Envelopes came from a peer, and have been passed on.
    Accepted(Accepted),
    /// This node can be dialled at these addresses now.
    Addresses(Vec<std::net::SocketAddr>),
    /// A hint that its author signed.
    Hint(Box<Hint>),
    /// A peer says how far it is with a distribution.
    Progress {
        /// Who.
        peer: EndpointId,
        /// With what.
        distribution: DistributionId,
        /// Verified bytes there.
        bytes: u64,
    },
}

/// Why a node has no network.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The UDP sockets cannot be bound.
    #[error("cannot listen on UDP: {0}")]
    Listen(String),
    /// The gossip actor is gone.
    #[error("gossip does not start: {0}")]
    Gossip(String),
    /// The machine takes no part in multicast.
    #[error("the local network cannot be searched by mDNS: {0}")]
    Mdns(String),
}

impl NetworkError {
    /// What it means for the caller.
    #[must_use]
    pub fn kind(&self) -> crate::ErrorKind {
        crate::ErrorKind::Failed
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Listen(_) => Some("choose another address or port, or stop what holds it".to_owned()),
            Self::Gossip(_) => None,
            Self::Mdns(_) => Some("let the firewall pass UDP port 5353 and multicast, or turn mDNS off".to_owned()),
        }
    }
}

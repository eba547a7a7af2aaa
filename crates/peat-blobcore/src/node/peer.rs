//! What a connection with a peer has cost so far.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::model::{EndpointId, Revocation};
use crate::network::Peer;

/// Nodes that do not count any more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gone {
    /// Declared gone for good: rosters leave them out.
    pub retired: BTreeSet<EndpointId>,
    /// Expelled: nothing of them counts, and they are cut off.
    pub revoked: BTreeMap<EndpointId, Revocation>,
}

/// Figures of the connection with one peer, since it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStats {
    /// Who is at the other end.
    pub id: EndpointId,
    /// Bytes of UDP payload that were sent: all that QUIC adds is in it, IP and UDP headers are not.
    pub sent_bytes: u64,
    /// Bytes of UDP payload that were received.
    pub received_bytes: u64,
    /// Bytes that were sent in vain.
    pub lost_bytes: u64,
    /// The round trip time of the path in use, while there is one.
    pub round_trip: Option<Duration>,
    /// The largest packet that the path in use takes, in bytes of UDP payload, while there is one.
    pub mtu: Option<u16>,
}

impl PeerStats {
    pub(super) fn of(peer: &Peer) -> Self {
        let stats = peer.connection.stats();
        Self {
            id: peer.id,
            sent_bytes: stats.udp_tx.bytes,
            received_bytes: stats.udp_rx.bytes,
            lost_bytes: stats.lost_bytes,
            round_trip: peer.round_trip(),
            mtu: peer.mtu(),
        }
    }
}

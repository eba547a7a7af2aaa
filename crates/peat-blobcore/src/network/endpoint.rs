//! The QUIC endpoint: offline by construction. It asks no DNS, no relay and no port mapper for anything; addresses are those
//! that users, peers and documents name.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use iroh::address_lookup::memory::MemoryLookup;
use iroh::endpoint::{
    AfterHandshakeOutcome, Connection, EndpointHooks, PortmapperConfig, QuicTransportConfig, VarInt, WeakConnectionHandle,
    presets,
};
use iroh::{Endpoint, RelayMode};

use super::NetworkError;
use super::wire::ALPN;
use crate::clock::Clock;
use crate::identity::{Admitted, Identity};
use crate::model::{EndpointId, Timestamp};

/// Why a connection is closed; the reason's bytes say it in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum CloseCode {
    /// This node stops.
    Stopped = 0,
    /// The peer is not admitted, or not any more.
    NotAdmitted = 1,
    /// The pair has another connection.
    Duplicate = 2,
    /// The peer broke the protocol.
    Protocol = 3,
    /// This node has as many connections as it keeps.
    Full = 4,
}

impl CloseCode {
    pub(crate) const fn var_int(self) -> VarInt {
        VarInt::from_u32(self as u32)
    }
}

/// Streams of blocks that a peer may have open at once.
const MAX_BLOCK_STREAMS: u32 = 128;
/// Bytes that a peer may have in flight to us over all streams. Bounds memory; one stream alone has QUIC's default window.
const RECEIVE_WINDOW_BYTES: u32 = 16 * 1024 * 1024;

/// Binds the endpoint.
///
/// # Errors
/// [`NetworkError::Listen`] when an address is in use or not of this machine.
pub(crate) async fn bind(
    identity: &Identity,
    addresses: &[SocketAddr],
    lookup: MemoryLookup,
    gate: Gate,
) -> Result<Endpoint, NetworkError> {
    let transport = QuicTransportConfig::builder()
        .max_concurrent_bidi_streams(VarInt::from_u32(MAX_BLOCK_STREAMS))
        .receive_window(VarInt::from_u32(RECEIVE_WINDOW_BYTES))
        .build();
    let mut builder = Endpoint::builder(presets::Minimal)
        .secret_key(identity.key().as_iroh().clone())
        .relay_mode(RelayMode::Disabled)
        .portmapper_config(PortmapperConfig::Disabled)
        .address_lookup(lookup)
        .hooks(gate)
        .transport_config(transport)
        .alpns(vec![ALPN.to_vec(), iroh_gossip::ALPN.to_vec()]);
    if !addresses.is_empty() {
        builder = builder.clear_ip_transports();
    }
    for address in addresses {
        builder = builder.bind_addr(*address).map_err(|error| NetworkError::Listen(error.to_string()))?;
    }
    builder.bind().await.map_err(|error| NetworkError::Listen(error.to_string()))
}

/// Lets connections of every protocol but ours through only for peers that were admitted on ours, in both directions.
#[derive(Clone)]
pub(crate) struct Gate {
    admitted: Admitted,
    clock: Arc<dyn Clock>,
    passed: Arc<Mutex<Vec<(EndpointId, WeakConnectionHandle)>>>,
}

impl Gate {
    pub(crate) fn new(admitted: Admitted, clock: Arc<dyn Clock>) -> Self {
        Self { admitted, clock, passed: Arc::default() }
    }

    /// Closes the connections of other protocols with peers that are not admitted any more.
    pub(crate) fn close_departed(&self, now: Timestamp) {
        let mut passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
        passed.retain(|(peer, handle)| {
            let Some(connection) = handle.upgrade().filter(|open| open.close_reason().is_none()) else { return false };
            let stays = self.admitted.is_admitted(peer, now);
            if !stays {
                connection.close(CloseCode::NotAdmitted.var_int(), b"not admitted any more");
            }
            stays
        });
    }
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate").finish_non_exhaustive()
    }
}

impl EndpointHooks for Gate {
    async fn after_handshake<'a>(&'a self, connection: &'a Connection) -> AfterHandshakeOutcome {
        if connection.alpn() == ALPN {
            return AfterHandshakeOutcome::Accept;
        }
        let peer = EndpointId::from_bytes(*connection.remote_id().as_bytes());
        if !self.admitted.is_admitted(&peer, self.clock.now()) {
            return AfterHandshakeOutcome::Reject {
                error_code: CloseCode::NotAdmitted.var_int(),
                reason: b"not admitted".to_vec(),
            };
        }
        let mut passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
        passed.retain(|(_, handle)| handle.upgrade().is_some_and(|open| open.close_reason().is_none()));
        passed.push((peer, connection.weak_handle()));
        AfterHandshakeOutcome::Accept
    }
}

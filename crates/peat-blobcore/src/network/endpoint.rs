//! The QUIC endpoint: offline by construction. It asks no DNS, no relay that nobody named and no port mapper for anything;
//! addresses are those that users, peers and documents name, and, where that is turned on, the local network.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use iroh::address_lookup::memory::MemoryLookup;
use iroh::endpoint::{
    AfterHandshakeOutcome, ConnectOptions, Connection, EndpointHooks, MtuDiscoveryConfig, PortmapperConfig, QuicTransportConfig,
    QuicTransportConfigBuilder, ServerConfig, VarInt, WeakConnectionHandle, presets,
};
use iroh::{Endpoint, EndpointAddr};

use super::congestion::ByRoundTrip;
use super::session::SessionError;
use super::wire::ALPN;
use super::{NetworkError, Relay, relay, stock};
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
    /// There is nothing to say over a thin link; either side may dial when there is.
    Idle = 5,
}

impl CloseCode {
    pub(crate) const fn var_int(self) -> VarInt {
        VarInt::from_u32(self as u32)
    }
}

/// Streams of blocks that an admitted peer may have open at once.
const MAX_BLOCK_STREAMS: u32 = 512;
/// Bytes that an admitted peer may have in flight to us over all streams. Bounds memory; one stream alone has QUIC's default
/// window.
const RECEIVE_WINDOW_BYTES: u32 = 16 * 1024 * 1024;
/// The same for everybody else. Admission needs one stream and 10 KiB, gossip little more.
const STRANGERS_WINDOW_BYTES: u32 = 64 * 1024;
/// How long a connection of ours outlives silence: an outage of ten minutes costs no handshake. Its peer counts as out of reach
/// long before.
const SILENCE_MILLIS: u32 = 11 * 60_000;
/// The same for connections of other protocols, which find out by it that their peer has gone. The lesser of two sides' holds.
const OTHERS_SILENCE_MILLIS: u32 = 60_000;
/// How often a connection is kept alive as a whole. Each of its paths is already, every five seconds.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// How often who has dialled keeps a path alive: a little sooner than the other would, so that only one of them does.
const DIALLERS_KEEP_ALIVE: Duration = Duration::from_millis(4500);
/// The step in which longer packets are tried, in bytes: two probes, of 1326 and of 1452, rather than four.
const MTU_STEP_BYTES: u16 = 100;
/// Connections of other protocols that a peer may have at once: one each way, and what is about to end.
const MAX_OTHER_CONNECTIONS: usize = 4;

/// Binds the endpoint.
///
/// # Errors
/// [`NetworkError::Listen`] when an address is in use or not of this machine.
pub(crate) async fn bind(
    identity: &Identity,
    addresses: &[SocketAddr],
    lookup: MemoryLookup,
    gate: Gate,
    protocols: Vec<Vec<u8>>,
    relays: &[Relay],
) -> Result<Endpoint, NetworkError> {
    let mut builder = Endpoint::builder(presets::Minimal)
        .secret_key(identity.key().as_iroh().clone())
        .relay_mode(relay::mode(relays))
        .portmapper_config(PortmapperConfig::Disabled)
        .address_lookup(lookup)
        .hooks(gate)
        .transport_config(transport().build())
        .alpns(protocols);
    if !addresses.is_empty() {
        builder = builder.clear_ip_transports();
    }
    for address in addresses {
        builder = builder.bind_addr(*address).map_err(|error| NetworkError::Listen(error.to_string()))?;
    }
    builder.bind().await.map_err(|error| NetworkError::Listen(error.to_string()))
}

/// How connections are taken, with segments of UDP or, on a machine that refuses them, without.
pub(crate) fn taking(endpoint: &Endpoint, protocols: Vec<Vec<u8>>, segments: bool) -> Arc<ServerConfig> {
    let transport = ours().enable_segmentation_offload(segments).build();
    endpoint.create_server_config_builder(protocols).set_transport_config(transport).build().into()
}

/// Dials a peer to speak our protocol, with segments of UDP or without.
///
/// # Errors
/// [`SessionError::Dial`] when there is no connection.
pub(crate) async fn dial(endpoint: &Endpoint, address: EndpointAddr, segments: bool) -> Result<Connection, SessionError> {
    let transport = ours().default_path_keep_alive_interval(DIALLERS_KEEP_ALIVE).enable_segmentation_offload(segments).build();
    let options = ConnectOptions::new().with_transport_config(transport);
    let failed = |error: &dyn std::fmt::Display| SessionError::Dial(error.to_string());
    let connecting = endpoint.connect_with_opts(address, ALPN, options).await.map_err(|error| failed(&error))?;
    connecting.await.map_err(|error| failed(&error))
}

fn ours() -> QuicTransportConfigBuilder {
    transport().max_idle_timeout(Some(VarInt::from_u32(SILENCE_MILLIS).into()))
}

fn transport() -> QuicTransportConfigBuilder {
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.minimum_change(MTU_STEP_BYTES);
    QuicTransportConfig::builder()
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .receive_window(VarInt::from_u32(STRANGERS_WINDOW_BYTES))
        // Nobody reads datagrams, so nobody may fill memory with them.
        .datagram_receive_buffer_size(None)
        .keep_alive_interval(KEEP_ALIVE)
        .max_idle_timeout(Some(VarInt::from_u32(OTHERS_SILENCE_MILLIS).into()))
        .mtu_discovery_config(Some(discovery))
        .congestion_controller_factory(Arc::new(ByRoundTrip::default()))
}

/// Gives an admitted peer the streams and the memory that blocks need.
pub(crate) fn widen(connection: &Connection) {
    connection.set_receive_window(VarInt::from_u32(RECEIVE_WINDOW_BYTES));
    connection.set_max_concurrent_bi_streams(VarInt::from_u32(MAX_BLOCK_STREAMS));
}

/// Lets connections of every protocol but ours through only for peers that were admitted on ours, in both directions; those
/// of stock iroh-blobs clients for the ids that the user listed, whether they are members or not.
#[derive(Clone)]
pub(crate) struct Gate {
    admitted: Admitted,
    clock: Arc<dyn Clock>,
    stock: Arc<BTreeSet<EndpointId>>,
    passed: Arc<Mutex<Vec<Passed>>>,
}

struct Passed {
    peer: EndpointId,
    handle: WeakConnectionHandle,
    stock: bool,
}

impl Gate {
    pub(crate) fn new(admitted: Admitted, clock: Arc<dyn Clock>, stock: BTreeSet<EndpointId>) -> Self {
        Self { admitted, clock, stock: Arc::new(stock), passed: Arc::default() }
    }

    /// Whether the user has listed stock clients.
    pub(crate) fn lets_stock_through(&self) -> bool {
        !self.stock.is_empty()
    }

    fn lets_through(&self, peer: &EndpointId, stock: bool, now: Timestamp) -> bool {
        if stock { self.stock.contains(peer) && !self.admitted.is_expelled(peer) } else { self.admitted.is_admitted(peer, now) }
    }

    /// Closes the connections of other protocols with peers that are not admitted any more.
    pub(crate) fn close_departed(&self, now: Timestamp) {
        let mut passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
        passed.retain(|Passed { peer, handle, stock }| {
            let Some(connection) = handle.upgrade().filter(|open| open.close_reason().is_none()) else { return false };
            let stays = self.lets_through(peer, *stock, now);
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
        let stock = connection.alpn() == stock::ALPN;
        let mut passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
        // Looked up with the list in hand: who departs from here on is found in it and closed.
        if !self.lets_through(&peer, stock, self.clock.now()) {
            return reject(CloseCode::NotAdmitted, "not admitted");
        }
        passed.retain(|Passed { handle, .. }| handle.upgrade().is_some_and(|open| open.close_reason().is_none()));
        if passed.iter().filter(|other| other.peer == peer).count() >= MAX_OTHER_CONNECTIONS {
            return reject(CloseCode::Full, "too many connections");
        }
        passed.push(Passed { peer, handle: connection.weak_handle(), stock });
        AfterHandshakeOutcome::Accept
    }
}

fn reject(code: CloseCode, reason: &str) -> AfterHandshakeOutcome {
    AfterHandshakeOutcome::Reject { error_code: code.var_int(), reason: reason.as_bytes().to_vec() }
}

//! Finding nodes on the local network by multicast DNS (RFC 6762). What is announced is this node's endpoint id and its
//! addresses, under a name that is the same for all formations; whose member anybody is, admission alone tells. Must never
//! announce anything else.

use std::net::SocketAddr;
use std::pin::Pin;

use iroh::Endpoint;
use iroh::address_lookup::AddrFilter;
use iroh_mdns_address_lookup::{DiscoveryEvent, MdnsAddressLookup};
use n0_future::{Stream, StreamExt as _};

use super::NetworkError;
use crate::model::EndpointId;

/// The service that nodes of all formations announce: `<endpoint id>._peat-blob._udp.local`.
const SERVICE: &str = "peat-blob";

/// Announces this node while it lives, and says who else is there.
pub(crate) struct Mdns {
    events: Pin<Box<dyn Stream<Item = DiscoveryEvent> + Send>>,
}

impl Mdns {
    /// Begins to announce the endpoint's addresses, as they are at any time, and to listen.
    ///
    /// # Errors
    /// [`NetworkError::Mdns`] when the machine takes no part in multicast.
    pub(crate) async fn start(endpoint: &Endpoint) -> Result<Self, NetworkError> {
        let fail = |error: String| NetworkError::Mdns(error);
        let builder = MdnsAddressLookup::builder().service_name(SERVICE).addr_filter(AddrFilter::ip_only());
        let lookup = builder.build(endpoint.id()).map_err(|error| fail(error.to_string()))?;
        let events = Box::pin(lookup.subscribe().await);
        endpoint.address_lookup().map_err(|error| fail(error.to_string()))?.add(lookup);
        Ok(Self { events })
    }

    /// The next endpoint that is found, or found elsewhere than before, and where; none once the endpoint is closed.
    pub(crate) async fn next(&mut self) -> Option<(EndpointId, Vec<SocketAddr>)> {
        loop {
            if let DiscoveryEvent::Discovered { endpoint_info, .. } = self.events.next().await? {
                let addresses = endpoint_info.ip_addrs().copied().collect();
                return Some((EndpointId::from_bytes(*endpoint_info.endpoint_id.as_bytes()), addresses));
            }
        }
    }
}

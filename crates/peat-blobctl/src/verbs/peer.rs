//! `connect` and `disconnect`: with whom the node keeps a connection.

use clap::Args;
use peat_blobapi::blob::{ConnectPeerRequest, DisconnectPeerRequest};
use peat_blobcore::model::EndpointId;
use serde_json::json;

use crate::daemon::{Address, Daemon, answer};
use crate::failure::Failure;
use crate::output::Output;
use crate::{show, values};

/// With whom.
#[derive(Debug, Args)]
pub(crate) struct Connect {
    /// The peer, as ID@host:port. The daemon resolves the host.
    #[arg(value_name = "ID@HOST:PORT", value_parser = values::peer)]
    peer: values::Peer,
}

/// With whom no longer.
#[derive(Debug, Args)]
pub(crate) struct Disconnect {
    /// The peer's endpoint id.
    #[arg(value_name = "ID")]
    endpoint_id: EndpointId,
}

/// Has the node keep a connection.
pub(crate) async fn connect(options: &Connect, output: &Output, address: &Address) -> Result<(), Failure> {
    let values::Peer { id, address: peer_address } = &options.peer;
    let daemon = Daemon::connect(address).await?;
    let request = ConnectPeerRequest { endpoint_id: id.to_string(), addresses: vec![peer_address.clone()], ..Default::default() };
    answer(daemon.client.connect_peer(request).await)?;
    let document = json!({ "endpoint_id": id.to_string(), "addresses": [peer_address] });
    output.result(&document, || format!("{} is dialled at {peer_address} from now on", id.short()))
}

/// Has the node leave a peer alone.
pub(crate) async fn disconnect(options: &Disconnect, output: &Output, address: &Address) -> Result<(), Failure> {
    let id = options.endpoint_id.to_string();
    let daemon = Daemon::connect(address).await?;
    let request = DisconnectPeerRequest { endpoint_id: id.clone(), ..Default::default() };
    let was_connected = answer(daemon.client.disconnect_peer(request).await)?.was_connected;
    output.result(&json!({ "endpoint_id": id, "was_connected": was_connected }), || {
        let before = if was_connected { "was connected" } else { "was not connected" };
        format!("{} {before} and is dialled no longer", show::short(&id))
    })
}

//! `node retire`: a node is gone for good, and completion waits for it no longer. The daemon's own node says so, which counts
//! in a deterministic formation; in an enrolled one the authority would have to, and the daemon refuses.

use clap::Subcommand;
use peat_blobapi::blob::RetireNodeRequest;
use peat_blobcore::model::EndpointId;
use serde_json::json;

use crate::daemon::{Address, Daemon, answer};
use crate::failure::{Failure, Kind};
use crate::output::Output;

/// What to decide.
#[derive(Debug, Subcommand)]
pub(crate) enum Options {
    /// Declares a node gone for good: completion waits for it no longer.
    Retire {
        /// The node's endpoint id.
        #[arg(value_name = "ID")]
        endpoint_id: EndpointId,
        /// Why, for people.
        #[arg(long, default_value = "")]
        reason: String,
    },
}

/// Does it.
pub(crate) async fn run(options: &Options, output: &Output, address: &Address) -> Result<(), Failure> {
    let Options::Retire { endpoint_id, reason } = options;
    let daemon = Daemon::connect(address).await?;
    let request = RetireNodeRequest { endpoint_id: endpoint_id.to_string(), reason: reason.clone(), ..Default::default() };
    answer(daemon.client.retire_node(request).await).map_err(|failure| match failure {
        Failure { kind: Kind::REFUSED, hint: None, .. } => {
            failure.hint("in a formation with an authority, its key alone can retire a node")
        }
        failure => failure,
    })?;
    let document = json!({ "endpoint_id": endpoint_id.to_string(), "reason": reason });
    output.result(&document, || format!("{} is retired", endpoint_id.short()))
}

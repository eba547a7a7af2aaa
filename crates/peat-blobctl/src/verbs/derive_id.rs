//! `derive-id`: which endpoint id a deterministic node has.

use clap::Args;
use peat_blobcore::identity::{Formation, FormationKey, Identity};
use peat_blobcore::model::Incarnation;
use serde_json::json;

use crate::failure::Failure;
use crate::output::Output;

/// What it derives from.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The formation key: 32 bytes in base64.
    #[arg(long, value_name = "KEY", env = "PEAT_BLOBD_SHARED_KEY", hide_env_values = true)]
    shared_key: String,
    /// The node id.
    #[arg(long, value_name = "ID", env = "PEAT_BLOBD_NODE_ID")]
    node_id: String,
}

/// Prints it, and nothing else.
pub(crate) fn run(options: &Options, output: &Output) -> Result<(), Failure> {
    let formation = Formation::deterministic(FormationKey::from_base64(options.shared_key.trim())?);
    // Which life it is makes no difference to the key.
    let id = Identity::derived(formation, &options.node_id, Incarnation::from_bytes([0; 16]))?.id().to_string();
    output.result(&json!({ "endpoint_id": id }), || id.clone())
}

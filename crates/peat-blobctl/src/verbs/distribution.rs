//! `cancel` and `redeliver`: what is done to one distribution.

use clap::Args;
use peat_blobapi::blob::{CancelDistributionRequest, RedeliverRequest};
use serde_json::json;

use crate::daemon::{Address, Daemon, answer};
use crate::failure::Failure;
use crate::output::Output;
use crate::show;

/// Which.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The distribution's id, or its first eight or more digits.
    id: String,
}

/// Ends it.
pub(crate) async fn cancel(options: &Options, output: &Output, address: &Address) -> Result<(), Failure> {
    let daemon = Daemon::connect(address).await?;
    let id = daemon.whole_id(&options.id).await?;
    let request = CancelDistributionRequest { distribution_id: id.clone(), ..Default::default() };
    answer(daemon.client.cancel_distribution(request).await)?;
    output.result(&json!({ "distribution_id": id }), || format!("distribution {} is cancelled", show::short(&id)))
}

/// Delivers it again.
pub(crate) async fn redeliver(options: &Options, output: &Output, address: &Address) -> Result<(), Failure> {
    let daemon = Daemon::connect(address).await?;
    let id = daemon.whole_id(&options.id).await?;
    let request = RedeliverRequest { distribution_id: id.clone(), ..Default::default() };
    answer(daemon.client.redeliver(request).await)?;
    output.result(&json!({ "distribution_id": id }), || format!("distribution {} is being delivered again", show::short(&id)))
}

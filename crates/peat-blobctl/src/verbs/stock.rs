//! `stock`: what stock clients of iroh-blobs may fetch from the node. Who they are the daemon's settings say.

use clap::{Args, Subcommand};
use peat_blobapi::blob::{AllowStockRequest, ForbidStockRequest, ListStockRequest};
use peat_blobcore::model::BlobHash;
use serde_json::json;

use crate::daemon::{Address, Daemon, answer};
use crate::failure::Failure;
use crate::output::Output;

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Options {
    /// Lets the clients of `serve_stock` fetch a distribution or a blob, and prints the ticket for `sendme receive`.
    Allow(Allow),
    /// Lets them fetch it no more.
    Forbid(Forbid),
    /// Lists the hashes that they may fetch.
    Ls,
}

/// What they may have.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Allow {
    /// The distribution's id, or its first eight or more digits.
    distribution: Option<String>,
    /// One blob instead, by its hash.
    #[arg(long, value_name = "HASH")]
    blob: Option<BlobHash>,
}

/// What they may have no more.
#[derive(Debug, Args)]
pub(crate) struct Forbid {
    /// The hash that `allow` printed.
    hash: BlobHash,
}

/// Does it.
pub(crate) async fn run(options: &Options, output: &Output, address: &Address) -> Result<(), Failure> {
    let daemon = Daemon::connect(address).await?;
    match options {
        Options::Allow(Allow { distribution, blob }) => {
            let distribution_id = match distribution {
                Some(id) => daemon.whole_id(id).await?,
                None => String::new(),
            };
            let blob = blob.map(|hash| hash.to_string()).unwrap_or_default();
            let request = AllowStockRequest { distribution_id, blob, ..Default::default() };
            let allowed = answer(daemon.client.allow_stock(request).await)?;
            let document = json!({ "hash": allowed.hash, "ticket": allowed.ticket });
            output.result(&document, || format!("hash    {}\nticket  {}", allowed.hash, allowed.ticket))
        }
        Options::Forbid(Forbid { hash }) => {
            let request = ForbidStockRequest { hash: hash.to_string(), ..Default::default() };
            answer(daemon.client.forbid_stock(request).await)?;
            output.result(&json!({ "hash": hash.to_string() }), || {
                format!("what was allowed by {hash} is served no more, but for what is allowed otherwise: see `stock ls`")
            })
        }
        Options::Ls => {
            let hashes = answer(daemon.client.list_stock(ListStockRequest::default()).await)?.hashes;
            output.result(&json!({ "hashes": hashes }), || hashes.join("\n"))
        }
    }
}

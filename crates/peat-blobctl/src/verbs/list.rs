//! `ls` and `peers`: what the node knows.

use clap::Args;
use indicatif::HumanBytes;
use peat_blobapi::blob::{Distribution, ListDistributionsRequest, ListPeersRequest, Peer};
use serde_json::{Value, json};

use crate::daemon::{Address, Daemon, answer};
use crate::failure::Failure;
use crate::output::Output;
use crate::show;

/// Distributions that are asked for at a time.
const PAGE: u32 = 500;

/// Which distributions.
#[derive(Debug, Args)]
pub(crate) struct Distributions {
    /// Only those of this bundle.
    #[arg(long)]
    bundle: Option<String>,
    /// At most so many.
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    limit: u32,
}

/// Lists distributions.
pub(crate) async fn distributions(options: &Distributions, output: &Output, address: &Address) -> Result<(), Failure> {
    let daemon = Daemon::connect(address).await?;
    let (found, total) = some(&daemon, options.bundle.as_deref().unwrap_or_default(), options.limit).await?;
    let items = found.iter().map(show::distribution_json).collect::<Vec<_>>();
    output.list("distributions", &items, || text(found.iter()))?;
    if total > found.len() as u64 {
        output.note(&format!("{} of {total} are shown; --limit shows more", found.len()));
    }
    Ok(())
}

/// So many distributions at most, of a bundle if one is named, newest first; and how many there are.
pub(super) async fn some(daemon: &Daemon, bundle: &str, limit: u32) -> Result<(Vec<Distribution>, u64), Failure> {
    let mut found: Vec<Distribution> = Vec::new();
    let mut after = String::new();
    let mut total = 0;
    while let missing @ 1.. = u64::from(limit).saturating_sub(found.len() as u64) {
        let request = ListDistributionsRequest {
            bundle: bundle.to_owned(),
            limit: u32::try_from(missing).unwrap_or(PAGE).min(PAGE),
            after,
            ..Default::default()
        };
        let page = answer(daemon.client.list_distributions(request).await)?;
        total = page.total;
        found.extend(page.distributions);
        if page.next.is_empty() {
            break;
        }
        after = page.next;
    }
    Ok((found, total))
}

/// A line for each.
pub(super) fn text<'a>(found: impl ExactSizeIterator<Item = &'a Distribution>) -> String {
    if found.len() == 0 {
        return "no distributions are known here".to_owned();
    }
    let rows = found.map(|distribution| {
        [
            show::short(&distribution.distribution_id).to_owned(),
            show::state(distribution).to_owned(),
            show::time(distribution.made_at),
            show::node(&distribution.sender_name, &distribution.sender),
            show::printable(&show::scope(&distribution.scope)),
            show::count(distribution.file_count, "file"),
            if distribution.removes { "removed".to_owned() } else { HumanBytes(distribution.bytes).to_string() },
            show::printable(&distribution.bundle),
        ]
    });
    show::table(["id", "state", "made at", "from", "to", "files", "size", "bundle"], rows)
}

/// Lists peers.
pub(crate) async fn peers(output: &Output, address: &Address) -> Result<(), Failure> {
    let daemon = Daemon::connect(address).await?;
    let peers = answer(daemon.client.list_peers(ListPeersRequest::default()).await)?.peers;
    let items = peers.iter().map(peer_json).collect::<Vec<_>>();
    output.list("peers", &items, || {
        if peers.is_empty() {
            return "no peers are known here".to_owned();
        }
        show::table(["peer", "state", "rtt", "received", "sent", "labels", "addresses"], peers.iter().map(peer_row))
    })
}

fn peer_json(peer: &Peer) -> Value {
    json!({
        "endpoint_id": peer.endpoint_id,
        "name": peer.name,
        "connected": peer.connected,
        "idle": peer.idle,
        "addresses": peer.addresses,
        "labels": peer.labels,
        "rtt_micros": peer.rtt_micros,
        "bytes_received": peer.bytes_received,
        "bytes_sent": peer.bytes_sent,
        "retired": peer.retired,
        "revoked": peer.revoked,
    })
}

fn peer_row(peer: &Peer) -> [String; 7] {
    let state = match (peer.revoked, peer.retired, peer.connected) {
        (true, _, _) => "revoked",
        (_, true, _) => "retired",
        (_, _, true) if peer.idle => "idle",
        (_, _, true) => "connected",
        _ => "not connected",
    };
    let rtt = if peer.connected && !peer.idle { format!("{:.1} ms", peer.rtt_micros as f64 / 1000.0) } else { String::new() };
    [
        show::node(&peer.name, &peer.endpoint_id),
        state.to_owned(),
        rtt,
        HumanBytes(peer.bytes_received).to_string(),
        HumanBytes(peer.bytes_sent).to_string(),
        show::printable(&peer.labels.join(",")),
        show::printable(&peer.addresses.join(" ")),
    ]
}

//! `status` and `why`: who the node is, and how a distribution or a bundle stands.

use clap::Args;
use indicatif::HumanBytes;
use peat_blobapi::blob::{GetDistributionResponse, GetNodeRequest, GetNodeResponse, WatchedOutbox};
use serde_json::{Value, json};

use super::{limits, list};
use crate::daemon::{Address, Daemon, answer};
use crate::failure::{Failure, Kind};
use crate::output::Output;
use crate::{matrix, show};

/// Distributions of a bundle that are looked at.
const BUNDLE: u32 = 200;
/// Characters of a line where nobody says how many there are.
const PIPE_WIDTH: usize = 120;

/// What to show.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// A distribution's id, or its first eight or more digits. Without it, the node.
    id: Option<String>,
    /// List the distribution's files too, the first 1000.
    #[arg(long, requires = "id")]
    files: bool,
    /// The distributions of this bundle, the newest 200: their files by their targets.
    #[arg(long, value_name = "NAME", conflicts_with = "id")]
    bundle: Option<String>,
}

/// Which target of which distribution.
#[derive(Debug, Args)]
pub(crate) struct Why {
    /// The distribution's id, or its first eight or more digits.
    id: String,
    /// The target's name, or its endpoint id, or the beginning of that.
    target: String,
}

/// Shows the node or a distribution.
pub(crate) async fn run(options: &Options, output: &Output, address: &Address) -> Result<(), Failure> {
    let daemon = Daemon::connect(address).await?;
    if let Some(id) = &options.id {
        // A person sees the files by the targets.
        let seen = output.width();
        let status = daemon.distribution(id, options.files || seen.is_some()).await?;
        return output.result(&show::status_json(&status), || distribution_text(status, options.files, seen));
    }
    if let Some(name) = &options.bundle {
        return bundle(name, output, &daemon).await;
    }
    let node = answer(daemon.client.get_node(GetNodeRequest::default()).await)?;
    for warning in &node.warnings {
        output.note(&format!("warning: {}", show::printable(warning)));
    }
    output.result(&node_json(&node), || node_text(&node))
}

/// Shows the distributions of a bundle, oldest first.
async fn bundle(name: &str, output: &Output, daemon: &Daemon) -> Result<(), Failure> {
    let (found, total) = list::some(daemon, name, BUNDLE).await?;
    if found.is_empty() {
        return Err(Failure::new(Kind::NOT_FOUND, format!("no distribution of a bundle {name:?} is known here")));
    }
    let mut statuses = Vec::new();
    for distribution in found.iter().rev() {
        statuses.push(daemon.distribution(&distribution.distribution_id, true).await?);
    }
    let items = statuses.iter().map(show::status_json).collect::<Vec<_>>();
    output.list("distributions", &items, || {
        let matrix = matrix::text(&statuses, output.width().unwrap_or(PIPE_WIDTH));
        let lists = list::text(statuses.iter().map(|status| &*status.distribution));
        if matrix.is_empty() { lists } else { format!("{lists}\n\n{matrix}") }
    })?;
    if total > found.len() as u64 {
        output.note(&format!("the newest {} of {total} distributions are shown", found.len()));
    }
    Ok(())
}

fn distribution_text(mut status: GetDistributionResponse, files: bool, width: Option<usize>) -> String {
    let matrix = width.map(|width| matrix::text(std::slice::from_ref(&status), width)).unwrap_or_default();
    if !files {
        status.files.clear();
    }
    let text = show::status_text(&status);
    if matrix.is_empty() { text } else { format!("{text}\n\n{matrix}") }
}

/// Says why a distribution is not at a target.
pub(crate) async fn why(options: &Why, output: &Output, address: &Address) -> Result<(), Failure> {
    let status = Daemon::connect(address).await?.distribution(&options.id, false).await?;
    let wanted = options.target.as_str();
    let named = status.targets.iter().filter(|target| target.name == wanted || target.endpoint_id == wanted);
    let begun = status.targets.iter().filter(|target| wanted.len() >= 8 && target.endpoint_id.starts_with(wanted));
    let mut found = named.chain(begun).collect::<Vec<_>>();
    found.dedup_by_key(|target| target.endpoint_id.clone());
    let [target] = found[..] else {
        let known = status.targets.iter().map(|target| show::node(&target.name, &target.endpoint_id)).collect::<Vec<_>>();
        let (kind, what) = if found.is_empty() { (Kind::NOT_FOUND, "no target") } else { (Kind::USAGE, "more than one target") };
        let hint =
            if known.is_empty() { "it has no targets yet".to_owned() } else { format!("its targets: {}", known.join(", ")) };
        return Err(Failure::new(kind, format!("{wanted:?} is {what} of this distribution")).hint(hint));
    };
    output.result(&show::target_json(target), || {
        let state = if target.state.is_empty() { "nothing signed" } else { target.state.as_str() };
        format!("{}: {}", show::printable(state), show::printable(&target.why))
    })
}

fn node_json(node: &GetNodeResponse) -> Value {
    json!({
        "endpoint_id": node.endpoint_id,
        "name": node.name,
        "version": node.version,
        "formation_id": node.formation_id,
        "enrolled": node.enrolled,
        "authority": node.authority,
        "addresses": node.addresses,
        "connected_peers": node.connected_peers,
        "distributions": node.distributions,
        "store": {
            "blobs": node.store.blobs,
            "bytes": node.store.bytes,
            "assembly_bytes": node.store.assembly_bytes,
            "free_bytes": node.store.free_bytes,
        },
        "inbox": node.inbox,
        "bytes_received": node.bytes_received,
        "bytes_served": node.bytes_served,
        "limits": limits::json(&node.limits),
        "outboxes": node.outboxes.iter().map(outbox_json).collect::<Vec<_>>(),
        "warnings": node.warnings,
    })
}

fn outbox_json(outbox: &WatchedOutbox) -> Value {
    json!({
        "root_name": outbox.root_name,
        "root": outbox.root,
        "waiting": outbox.waiting,
        "sent": outbox.sent,
        "distributions": outbox.distributions,
        "removed": outbox.removed,
        "problem": outbox.problem,
        "held": outbox.held,
        "polled": outbox.polled,
    })
}

fn outbox_text(outbox: &WatchedOutbox) -> String {
    let sent = format!("{} sent in {}", show::count(outbox.sent, "file"), show::count(outbox.distributions, "distribution"));
    let removed = if outbox.removed == 0 { String::new() } else { format!(", {} removed", outbox.removed) };
    let (name, root) = (show::printable(&outbox.root_name), show::printable(&outbox.root));
    let polled =
        if outbox.polled.is_empty() { String::new() } else { format!(", polled alone: {}", show::printable(&outbox.polled)) };
    format!("{name} ({root}): {sent}, {} waiting{removed}{polled}", outbox.waiting)
}

fn node_text(node: &GetNodeResponse) -> String {
    let identity = if node.enrolled { "certified" } else { "derived: every member can compute its key" };
    let store = format!(
        "{}, {}; {} unfinished; {} free",
        show::count(node.store.blobs, "blob"),
        HumanBytes(node.store.bytes),
        HumanBytes(node.store.assembly_bytes),
        HumanBytes(node.store.free_bytes),
    );
    let inbox = if node.inbox.is_empty() { "none: it takes nothing" } else { node.inbox.as_str() };
    let outboxes: Vec<String> = node.outboxes.iter().map(outbox_text).collect();
    let authority = if node.authority.is_empty() { "none: any member retires, nobody revokes" } else { node.authority.as_str() };
    show::fields(&[
        ("node", show::printable(&node.name)),
        ("endpoint id", node.endpoint_id.clone()),
        ("formation", node.formation_id.clone()),
        ("identity", identity.to_owned()),
        ("authority", authority.to_owned()),
        ("version", node.version.clone()),
        ("addresses", node.addresses.join(" ")),
        ("peers", format!("{} connected", node.connected_peers)),
        ("distributions", node.distributions.to_string()),
        ("store", store),
        ("inbox", show::printable(inbox)),
        ("watched", if outboxes.is_empty() { "none".to_owned() } else { outboxes.join("; ") }),
        ("limits", limits::in_force(&node.limits)),
        ("blocks", format!("{} received, {} served", HumanBytes(node.bytes_received), HumanBytes(node.bytes_served))),
    ])
}

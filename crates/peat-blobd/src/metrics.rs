//! Figures for Prometheus, in its text format (version 0.0.4). Labels are states, and names out of the daemon's own configuration:
//! never what others can make up. `packaging/grafana` and `packaging/prometheus` stand on these names.

use std::fmt::{Display, Write as _};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};

use peat_blobcore::{Activity, Rate};

use crate::api::Daemon;

/// How long the node's loop may take to say what it is at, before the figures come without that. Prometheus waits ten seconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// All figures.
pub(crate) async fn show(State(daemon): State<Arc<Daemon>>) -> Response {
    let content = daemon.node.content();
    let (usage, room) = match content.usage().and_then(|usage| Ok((usage, content.room()?))) {
        Ok(found) => found,
        Err(error) => return (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    };
    let waiting = match daemon.node.arrivals().await {
        Ok(waiting) => waiting,
        Err(error) => return (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    };
    let activity = tokio::time::timeout(PATIENCE, daemon.node.activity()).await.ok().and_then(Result::ok);
    let (node, stats, blocks, collected) = (&daemon.node, daemon.node.stats(), daemon.node.block_bytes(), content.collected());
    let mut text = Text(String::new());
    text.family("build_info", "gauge", "The version of the daemon, as a label; always 1.");
    text.labelled("build_info", "version", env!("CARGO_PKG_VERSION"), 1);
    text.gauge("responding", "Whether the node's loop answered within 5 seconds.", u64::from(activity.is_some()));
    text.gauge("peers_connected", "Peers with an admitted connection, idle ones included.", node.peers().len() as u64);
    text.gauge("peers_idle", "Peers whose connection was let go for having nothing to carry.", node.idle_peers().len() as u64);
    text.gauge("members", "Nodes whose record is known, this one included.", node.members().len() as u64);
    text.gauge("distributions", "Distributions that are known.", stats.documents as u64);
    if let Some(activity) = &activity {
        text.activity(activity);
    }
    text.gauge("store_blobs", "Whole blobs in the store.", usage.blobs);
    text.gauge("store_bytes", "Bytes of whole blobs.", usage.bytes);
    text.gauge("store_assembly_bytes", "Bytes of blobs that are not whole yet.", usage.assembly_bytes);
    text.gauge("store_free_bytes", "Free bytes of the store's file system.", usage.free);
    text.gauge("store_room_bytes", "Bytes that may still be taken in: free, and neither promised nor left to others.", room);
    text.counter("collected_blobs_total", "Blobs that were dropped since nothing needed them.", collected.dropped);
    text.counter("collected_bytes_total", "Bytes of blobs that were dropped since nothing needed them.", collected.freed);
    text.counter("collection_failures_total", "Times that a blob to be dropped could not be removed.", collected.failures);
    outboxes(&mut text, &daemon).await;
    text.gauge("clock_plausible", "Whether this node's clock agrees with its peers.", u64::from(stats.clock_plausible));
    text.counter("block_bytes_received_total", "Bytes of blocks that came from peers.", blocks.received);
    text.counter("block_bytes_served_total", "Bytes of blocks that went to peers.", blocks.served);
    text.counter("block_bytes_copied_total", "Bytes of blobs that were copied from others here, not fetched.", blocks.copied);
    text.counter("block_bytes_saved_total", "Bytes of blocks that compression kept off the links.", blocks.saved);
    let (runs, failures) = (&daemon.hooks.runs, &daemon.hooks.failures);
    text.counter("inbox_hook_runs_total", "Runs of the inbox's hook.", runs.load(Ordering::Relaxed));
    text.counter("inbox_hook_failures_total", "Runs that failed, or did not begin.", failures.load(Ordering::Relaxed));
    text.gauge("inbox_hook_waiting", "Files of the inbox that its hook was not run for yet.", waiting);
    let limits = node.limits_in_force();
    let rate = |rate: Option<Rate>| rate.map_or(0, Rate::bytes);
    text.gauge("limit_up_bytes_per_second", "What may go to peers now of blobs; 0 without a limit.", rate(limits.node.up));
    text.gauge(
        "limit_down_bytes_per_second",
        "What may come from peers now of blobs; 0 without a limit.",
        rate(limits.node.down),
    );
    text.gauge("metered", "Whether of blobs only what is critical crosses.", u64::from(limits.metered));
    text.counter("envelopes_accepted_total", "Envelopes that were stored.", stats.accepted);
    text.counter("envelopes_refused_total", "Envelopes that were refused.", stats.refused.values().sum());
    text.counter("envelopes_held_total", "Envelopes from the future that were held back.", stats.held);
    text.counter("envelopes_expired_total", "Envelopes that were dropped after their expiry.", stats.expired);
    text.counter("clones_total", "Times that two lives of one endpoint spoke at once.", stats.clones);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text.0).into_response()
}

/// The outboxes that are watched; their names are the configuration's.
async fn outboxes(text: &mut Text, daemon: &Daemon) {
    let outboxes = daemon.outboxes.statuses().await;
    let mut each = |name, kind, help, of: fn(&peat_blobapi::blob::WatchedOutbox) -> u64| {
        text.family(name, kind, help);
        for outbox in &outboxes {
            text.labelled(name, "root", &outbox.root_name, of(outbox));
        }
    };
    each("outbox_files_waiting", "gauge", "Files that wait until nobody writes to them, or for their turn.", |outbox| {
        outbox.waiting
    });
    each("outbox_files_sent_total", "counter", "Files that were sent since the watch began.", |outbox| outbox.sent);
    each("outbox_distributions_total", "counter", "The distributions that they became.", |outbox| outbox.distributions);
    each("outbox_has_problem", "gauge", "Whether something keeps files from being sent; the status says what.", |outbox| {
        u64::from(!outbox.problem.is_empty())
    });
    each("outbox_files_removed_total", "counter", "Files whose removal was told since the watch began.", |outbox| outbox.removed);
    each(
        "outbox_deletions_held",
        "gauge",
        "Whether files are missed and not taken for removed; the status says why.",
        |outbox| u64::from(!outbox.held.is_empty()),
    );
}

struct Text(String);

impl Text {
    fn activity(&mut self, activity: &Activity) {
        self.family("distributions_by_state", "gauge", "Distributions that are known, by where they stand.");
        for (state, count) in &activity.distributions {
            self.labelled("distributions_by_state", "state", state.as_str(), *count);
        }
        self.gauge("fetches_running", "Fetches under way; one of several small blobs counts once.", activity.fetches);
        self.gauge("fetches_running_bytes", "The sizes of the blobs that are being fetched.", activity.fetching_bytes);
        self.counter(
            "files_delivered_total",
            "Files that are in the inbox since, or were there already, and parts of images that were taken in.",
            activity.delivered_files,
        );
        self.counter(
            "files_removed_total",
            "Files that went from the inbox since their sender removed them.",
            activity.removed_files,
        );
        self.counter("file_delivery_failures_total", "Times that one could not be delivered.", activity.failed_deliveries);
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.one(name, "gauge", help, value);
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.one(name, "counter", help, value);
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: u64) {
        self.family(name, kind, help);
        self.line(format_args!("peat_blob_{name} {value}"));
    }

    /// What comes before the figures of one name.
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP peat_blob_{name} {help}\n# TYPE peat_blob_{name} {kind}"));
    }

    fn labelled(&mut self, name: &str, label: &str, of: &str, value: u64) {
        let of = of.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        self.line(format_args!("peat_blob_{name}{{{label}=\"{of}\"}} {value}"));
    }

    fn line(&mut self, line: impl Display) {
        writeln!(self.0, "{line}").expect("a string takes all");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_label_says_cannot_end_it() {
        let mut text = Text(String::new());
        text.labelled("x", "root", "a\"} 1\nb\\", 7);
        assert_eq!(text.0, "peat_blob_x{root=\"a\\\"} 1\\nb\\\\\"} 7\n");
    }
}

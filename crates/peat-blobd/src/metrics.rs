//! Figures for Prometheus, in its text format (version 0.0.4).

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};

use peat_blobcore::Rate;

use crate::api::Daemon;

/// All figures.
pub(crate) async fn show(State(daemon): State<Arc<Daemon>>) -> Response {
    let usage = match daemon.node.content().usage() {
        Ok(usage) => usage,
        Err(error) => return (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    };
    let waiting = match daemon.node.arrivals().await {
        Ok(waiting) => waiting,
        Err(error) => return (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    };
    let (node, stats, blocks) = (&daemon.node, daemon.node.stats(), daemon.node.block_bytes());
    let mut text = Text(String::new());
    text.gauge("peers_connected", "Peers with an admitted connection.", node.peers().len() as u64);
    text.gauge("members", "Nodes whose record is known, this one included.", node.members().len() as u64);
    text.gauge("distributions", "Distributions that are known.", stats.documents as u64);
    text.gauge("store_blobs", "Whole blobs in the store.", usage.blobs);
    text.gauge("store_bytes", "Bytes of whole blobs.", usage.bytes);
    text.gauge("store_assembly_bytes", "Bytes of blobs that are not whole yet.", usage.assembly_bytes);
    text.gauge("store_free_bytes", "Free bytes of the store's file system.", usage.free);
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
    text.counter("envelopes_expired_total", "Envelopes that were dropped after their expiry.", stats.expired);
    text.counter("clones_total", "Times that two lives of one endpoint spoke at once.", stats.clones);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text.0).into_response()
}

struct Text(String);

impl Text {
    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.write(name, "gauge", help, value);
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.write(name, "counter", help, value);
    }

    fn write(&mut self, name: &str, kind: &str, help: &str, value: u64) {
        let name = format_args!("peat_blob_{name}");
        writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}").expect("a string takes all");
    }
}

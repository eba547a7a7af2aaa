//! The outboxes that the daemon watches. The watching is the library's.

use std::collections::BTreeMap;

use peat_blobapi::blob;
use peat_blobcore::{OutboxOptions, WatchedOutbox};
use tokio::sync::Mutex;

use super::Daemon;
use crate::Config;

/// Those that are watched, by the names of their roots.
#[derive(Default)]
pub(crate) struct Outboxes(Mutex<BTreeMap<String, (OutboxOptions, WatchedOutbox)>>);

impl Outboxes {
    /// How each is doing.
    pub(crate) async fn statuses(&self) -> Vec<blob::WatchedOutbox> {
        let show = |(name, (options, outbox)): (&String, &(OutboxOptions, WatchedOutbox))| {
            let status = outbox.status();
            blob::WatchedOutbox {
                root_name: name.clone(),
                root: options.root.display().to_string(),
                waiting: status.waiting,
                sent: status.sent,
                distributions: status.distributions,
                problem: status.problem.unwrap_or_default(),
                removed: status.removed,
                held: status.held.unwrap_or_default(),
                polled: status.polled.unwrap_or_default(),
                ..Default::default()
            }
        };
        self.0.lock().await.iter().map(show).collect()
    }

    /// Watches nothing any more.
    pub(crate) async fn end(&self) {
        self.0.lock().await.clear();
    }
}

impl Daemon {
    /// Watches what the configuration says, as it says, and nothing else. What stays as it is goes on undisturbed.
    pub(crate) async fn watch_outboxes(&self, config: &Config) {
        let wanted = config.watches();
        let mut watched = self.outboxes.0.lock().await;
        watched.retain(|name, (options, _)| wanted.get(name) == Some(options));
        for (name, options) in wanted {
            if watched.contains_key(&name) {
                continue;
            }
            match self.node.watch_outbox(options.clone()).await {
                Ok(outbox) => _ = watched.insert(name, (options, outbox)),
                Err(error) => tracing::error!(root = name, %error, "the outbox is not watched"),
            }
        }
    }
}

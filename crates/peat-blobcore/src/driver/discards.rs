//! Has the store let go of what the inbox alone is to have, off the loop. What somebody reads at the moment is tried again.

use std::collections::BTreeSet;

use tokio::task::JoinSet;

use crate::content::Content;
use crate::model::BlobHash;

/// What is to go, and the call under way.
pub(super) struct Discards {
    content: Content,
    waiting: BTreeSet<BlobHash>,
    /// Those that could not go when they were tried.
    busy: BTreeSet<BlobHash>,
    under_way: JoinSet<Vec<BlobHash>>,
}

impl Discards {
    pub(super) fn new(content: Content) -> Self {
        Self { content, waiting: BTreeSet::new(), busy: BTreeSet::new(), under_way: JoinSet::new() }
    }

    /// Lets go of blobs that nothing else keeps, now or after what is under way.
    pub(super) fn add(&mut self, blobs: Vec<BlobHash>) {
        self.waiting.extend(blobs);
        self.begin();
    }

    /// Tries again what could not go.
    pub(super) fn again(&mut self) {
        self.waiting.append(&mut self.busy);
        self.begin();
    }

    /// The end of a call. Pends while none is under way.
    pub(super) async fn ended(&mut self) {
        match self.under_way.join_next().await {
            Some(busy) => {
                self.busy.extend(busy.expect("the store does not panic, and its calls are not cancelled"));
                self.begin();
            }
            None => std::future::pending().await,
        }
    }

    /// Waits for the call under way and begins no other. What is left is found again at the next start.
    pub(super) async fn stop(&mut self) {
        while self.under_way.join_next().await.is_some() {}
    }

    fn begin(&mut self) {
        if !self.under_way.is_empty() || self.waiting.is_empty() {
            return;
        }
        let (content, blobs) = (self.content.clone(), std::mem::take(&mut self.waiting));
        self.under_way.spawn_blocking(move || {
            let blobs: Vec<_> = blobs.into_iter().collect();
            content.discard(&blobs).unwrap_or_else(|error| {
                tracing::error!(%error, "what the inbox alone is to have cannot be taken out of the store");
                blobs
            })
        });
    }
}

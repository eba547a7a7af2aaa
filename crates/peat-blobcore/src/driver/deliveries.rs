//! Hands deliveries to the inbox, off the loop and several at a time, so that they share a barrier; and packages to the registry.

use std::collections::VecDeque;
use std::sync::Arc;

use std::fs::File;
use std::io;
use std::path::Path;

use tokio::task::JoinSet;

use crate::ErrorKind;
use crate::clock::Clock;
use crate::content::{Content, ContentError, Exported};
use crate::exchange::{Blobs, Delivery, ExchangeError, Export, Forgetting, Inbox, Ledger, Outcome, Written};
use crate::model::{BlobHash, DistributionId, FileEntry, Package};
use crate::reconcile::{FileOutcome, Retry};
use crate::registry::{Registry, RegistryError};

/// Deliveries that share a call, and with it a barrier.
const DELIVERIES_PER_CALL: usize = 256;

/// What became of the files of one delivery.
pub(super) type Ended = (DistributionId, Vec<(u32, FileOutcome)>);

/// The deliveries that wait, and the call under way.
pub(super) struct Deliveries {
    inbox: Option<Inbox>,
    content: Content,
    clock: Arc<dyn Clock>,
    waiting: VecDeque<Delivery>,
    under_way: JoinSet<Vec<Ended>>,
    registry: Registry,
    /// Packages that become part of the registry.
    packages: JoinSet<Vec<Ended>>,
    /// What the ledger forgets in time; away while it does.
    forgetting: Option<Forgetting>,
    forgets: JoinSet<Forgetting>,
}

impl Deliveries {
    pub(super) fn new(inbox: Option<Inbox>, ledger: Ledger, registry: Registry, content: Content, clock: Arc<dyn Clock>) -> Self {
        let (waiting, under_way, packages) = (VecDeque::new(), JoinSet::new(), JoinSet::new());
        let forgetting = Some(Forgetting::new(ledger, inbox.clone()));
        Self { inbox, content, clock, waiting, under_way, registry, packages, forgetting, forgets: JoinSet::new() }
    }

    /// Has the ledger forget some of what it may, unless it is at that. For a clock that can be believed.
    pub(super) fn forget_some(&mut self) {
        let Some(mut forgetting) = self.forgetting.take() else { return };
        let now = self.clock.now();
        self.forgets.spawn_blocking(move || {
            match forgetting.some(now) {
                Ok(0) => {}
                Ok(paths) => tracing::debug!(paths, "the inbox's ledger forgot what can come no more"),
                Err(error) => tracing::warn!(%error, "the inbox's ledger forgets nothing"),
            }
            forgetting
        });
    }

    /// Takes a package into the registry.
    pub(super) fn keep(&mut self, id: DistributionId, package: Package, files: Arc<[FileEntry]>) {
        let registry = self.registry.clone();
        self.packages.spawn_blocking(move || {
            let outcome = match registry.keep_claimed(&package, &files) {
                Ok(()) => FileOutcome::Delivered,
                Err(error) => {
                    let retry = match error.kind() {
                        ErrorKind::NoSpace => Retry::WithRoom,
                        ErrorKind::Integrity | ErrorKind::Usage => Retry::Never,
                        // It names what is not part of it, and will tomorrow.
                        _ if matches!(error, RegistryError::Missing(_) | RegistryError::NoManifest { .. }) => Retry::Never,
                        _ => Retry::Later,
                    };
                    FileOutcome::Failed { error: error.to_string(), retry }
                }
            };
            vec![(id, (0_u32..).take(files.len()).map(|index| (index, outcome.clone())).collect())]
        });
    }

    /// Delivers, now or after what is under way.
    pub(super) fn add(&mut self, delivery: Delivery) {
        self.waiting.push_back(delivery);
        self.begin();
    }

    /// The end of a call. Pends while none is under way.
    pub(super) async fn ended(&mut self) -> Vec<Ended> {
        tokio::select! {
            Some(ended) = self.under_way.join_next() => {
                self.begin();
                ended.expect("the inbox does not panic, and its calls are not cancelled")
            }
            Some(ended) = self.packages.join_next() => ended.expect("the registry does not panic, and its calls are not cancelled"),
            Some(forgetting) = self.forgets.join_next() => {
                self.forgetting = Some(forgetting.expect("the ledger does not panic, and its calls are not cancelled"));
                Vec::new()
            }
            else => std::future::pending().await,
        }
    }

    /// Waits for the calls under way and begins no other.
    pub(super) async fn stop(&mut self) {
        self.waiting.clear();
        while self.under_way.join_next().await.is_some() {}
        while self.packages.join_next().await.is_some() {}
        while self.forgets.join_next().await.is_some() {}
    }

    fn begin(&mut self) {
        if !self.under_way.is_empty() || self.waiting.is_empty() {
            return;
        }
        let count = self.waiting.len().min(DELIVERIES_PER_CALL);
        let batch: Vec<_> = self.waiting.drain(..count).collect();
        let (inbox, content, now) = (self.inbox.clone(), self.content.clone(), self.clock.now());
        self.under_way.spawn_blocking(move || {
            let outcomes = match &inbox {
                Some(inbox) => inbox.deliver(&batch, &Store(content), now).map_err(|error| failed(&error, error.retry())),
                None => Err(FileOutcome::Failed { error: "this node has no inbox".to_owned(), retry: Retry::Never }),
            };
            match outcomes {
                Ok(outcomes) => {
                    let ids = batch.iter().map(|delivery| delivery.id);
                    ids.zip(outcomes.into_iter().map(|files| files.into_iter().map(file_outcome).collect())).collect()
                }
                Err(failed) => {
                    let each = |delivery: &Delivery| delivery.files.iter().map(|(index, _)| (*index, failed.clone())).collect();
                    batch.iter().map(|delivery| (delivery.id, each(delivery))).collect()
                }
            }
        });
    }
}

/// The store as the inbox sees it.
struct Store(Content);

impl Blobs for Store {
    fn size(&self, blob: &BlobHash) -> io::Result<Option<u64>> {
        self.0.size(blob).map_err(io_error)
    }

    fn export(&self, blob: &BlobHash, dest: &File, written: &mut Written<'_>) -> io::Result<Export> {
        let path = Path::new("a temporary file of the inbox");
        match self.0.export_unverified(blob, dest, path, written).map_err(io_error)? {
            Exported::Reflinked => Ok(Export::Reflinked),
            Exported::Copied => Ok(Export::Copied),
        }
    }

    fn verify(&self, blob: &BlobHash) -> io::Result<()> {
        self.0.verify(blob).map_err(io_error)
    }
}

fn io_error(error: ContentError) -> io::Error {
    let kind = match error.kind() {
        ErrorKind::NotFound => io::ErrorKind::NotFound,
        // Damage was marked when it was noticed: the blob is absent until it is fetched again.
        ErrorKind::Integrity => io::ErrorKind::NotFound,
        ErrorKind::NoSpace => io::ErrorKind::StorageFull,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}

fn file_outcome((index, outcome): (u32, Outcome)) -> (u32, FileOutcome) {
    let outcome = match outcome {
        Outcome::Delivered => FileOutcome::Delivered,
        Outcome::AlreadyThere => FileOutcome::AlreadyThere,
        Outcome::Superseded => FileOutcome::Superseded,
        Outcome::Removed => FileOutcome::Removed,
        Outcome::Kept => FileOutcome::Kept,
        Outcome::Failed { error, retry } => failed(&error, retry),
    };
    (index, outcome)
}

fn failed(error: &ExchangeError, again: bool) -> FileOutcome {
    let retry = match error.kind() {
        _ if !again => Retry::Never,
        ErrorKind::NoSpace => Retry::WithRoom,
        _ => Retry::Later,
    };
    FileOutcome::Failed { error: error.to_string(), retry }
}

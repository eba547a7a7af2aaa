//! Word that something about packages has changed, for who watches them: it says where to look, and nothing that must be believed.
//! Whoever is slow misses some, and is told how many.

use std::sync::{Mutex, PoisonError};

use tokio::sync::broadcast;

use crate::model::{DistributionId, EndpointId};
use crate::oci::{Digest, Repository};

/// Words that wait for a listener.
const WAITING_NEWS: usize = 256;

/// A package by its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct NamedPackage {
    /// The repository that it belongs to.
    pub repository: Repository,
    /// Its manifest.
    pub digest: Digest,
}

/// Where something has changed.
#[derive(Debug, Clone)]
pub(crate) enum PackageNews {
    /// What this distribution tells of a package.
    Package(DistributionId),
    /// How far a node has come with one.
    Progress {
        /// Which distribution, which need not be a package.
        distribution: DistributionId,
        /// Which node.
        node: EndpointId,
        /// Verified bytes there.
        bytes: u64,
    },
    /// What the tag with this key points to.
    Tag([u8; 32]),
    /// Whether a manifest is in the registry here.
    Here(NamedPackage),
}

/// Where news is told. It ends for all listeners when it is closed.
#[derive(Debug)]
pub(super) struct Board(Mutex<Option<broadcast::Sender<PackageNews>>>);

impl Default for Board {
    fn default() -> Self {
        Self(Mutex::new(Some(broadcast::channel(WAITING_NEWS).0)))
    }
}

impl Board {
    pub(super) fn tell(&self, news: PackageNews) {
        if let Some(sender) = &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            // Nobody may be listening.
            let _ = sender.send(news);
        }
    }

    pub(super) fn listen(&self) -> broadcast::Receiver<PackageNews> {
        let sender = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sender.as_ref().map_or_else(|| broadcast::channel(1).1, broadcast::Sender::subscribe)
    }

    pub(super) fn close(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

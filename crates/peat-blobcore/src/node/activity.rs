//! What a node is at, in figures, for who watches over it.

use std::collections::BTreeMap;

use tokio::sync::oneshot;

use super::Node;
use crate::Error;
use crate::driver::Request;
use crate::model::DistributionState;

/// What a node is at now, and what it has done since it started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Activity {
    /// How many distributions stand where, every state among them. Those that were not looked at yet are not counted.
    pub distributions: BTreeMap<DistributionState, u64>,
    /// Fetches under way; one of several small blobs counts once.
    pub fetches: u64,
    /// The sizes of the blobs that are being fetched, in bytes.
    pub fetching_bytes: u64,
    /// Files that were put into the inbox or were there already, and parts of packages that were taken in.
    pub delivered_files: u64,
    /// How often a file, or a part of a package, could not be delivered; each further try counts again.
    pub failed_deliveries: u64,
    /// Files that went from the inbox since their sender removed them.
    pub removed_files: u64,
}

impl Node {
    /// What the node is at. Goes over all distributions that are known, on the node's loop: for every few seconds, not for each request
    /// of somebody else.
    ///
    /// # Errors
    /// [`Error::Stopped`] when the loop has ended.
    pub async fn activity(&self) -> Result<Activity, Error> {
        let (answer, answered) = oneshot::channel();
        self.request(Request::Activity { answer }).await?;
        answered.await.map_err(|_| Error::Stopped)
    }
}

//! A node: the handle that embedders hold. It opens the parts, wires them to the driver, and shuts them down in order.

mod activity;
mod blobs;
mod builder;
mod data;
mod errand;
mod event;
mod looks;
mod outbox;
mod package;
mod package_events;
mod parcel;
mod peer;
mod send;
mod sideload;
mod status;
mod stock;

pub use activity::Activity;
pub use blobs::{BlobDetails, BlobFilter, BlobPage, BlobSource, ImportedBlob};
pub use builder::NodeBuilder;
pub use event::{NodeEvent, NodeEvents};
pub use outbox::{OutboxOptions, OutboxStatus, WatchedOutbox};
pub use package::PackageStatus;
pub use package_events::{PackageEvent, PackageEvents};
pub use parcel::ParcelReport;
pub use peer::{Gone, PeerStats};
pub use send::{SendRequest, Sent, Skipped, Streamed, TAKEN_LIFETIME, Taken, Terms};
pub use status::{DistributionStatus, TargetStatus};
pub use stock::StockTicket;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::Error;
use crate::clock::Clock;
use crate::content::{CheckReport, Content, GcReport};
use crate::document::Distribution;
use crate::driver::{Progress, Request, Status};
use crate::exchange::{Arrival, Inbox, Ledger, WatchLimit};
use crate::identity::{AuthorityKey, Identity};
use crate::model::{DistributionId, DistributionState, EndpointId, FileEntry, FileList, Files, NodeRecord};
use crate::network::{Network, PeerFailure};
use crate::reconcile::Policy;
use crate::registry::{Claims, Registry};
use crate::replica::{Accepted, Replica, ReplicaError, Stats};
use crate::transfer::{BlockBytes, Limits, LimitsInForce};
use data::DataDirectory;

/// A running node. Dropping it without [`Node::shutdown`] loses nothing that was reported as done, but peers only notice
/// that it is gone when their connections time out.
pub struct Node {
    identity: Arc<Identity>,
    clock: Arc<dyn Clock>,
    replica: Replica,
    content: Content,
    registry: Registry,
    ledger: Ledger,
    inbox: Option<Inbox>,
    network: Arc<Network>,
    requests: mpsc::Sender<Request>,
    watchers: broadcast::Sender<NodeEvent>,
    progress: Arc<Progress>,
    claims: Claims,
    mesh: package::Reach,
    fleet: Arc<errand::Fleet>,
    sideload: Option<sideload::Watch>,
    outboxes: outbox::Turns,
    watches: Arc<WatchLimit>,
    driver: JoinHandle<()>,
    bundles: AtomicU64,
    /// Released last.
    _data: DataDirectory,
}

impl Node {
    /// Begins to describe a node whose data directory is `data`.
    pub fn builder(data: impl Into<std::path::PathBuf>) -> NodeBuilder {
        NodeBuilder::new(data.into())
    }

    /// The node's endpoint id.
    #[must_use]
    pub fn id(&self) -> EndpointId {
        self.identity.id()
    }

    /// The node's identity.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Socket addresses at which other nodes may reach this one.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.network.addresses()
    }

    /// The UDP sockets that the node listens on.
    #[must_use]
    pub fn listening_on(&self) -> Vec<SocketAddr> {
        self.network.listening_on()
    }

    /// Keeps a connection with a peer from now on, dialling it whenever there is none. Returns at once; see
    /// [`NodeEvent::PeerUp`].
    pub async fn add_peer(&self, peer: EndpointId, addresses: Vec<SocketAddr>) {
        self.network.know(peer, addresses, true).await;
    }

    /// The same for a peer that is to be found at these hosts: see [`NodeBuilder::named_peer`].
    pub async fn add_named_peer(&self, peer: EndpointId, hosts: Vec<String>) {
        self.network.know_by_name(peer, hosts).await;
    }

    /// Ends the connection with a peer and takes no other, until [`Node::add_peer`] names it again or the node is started
    /// anew. Says whether there was one. To expel a member for good, see [`Node::revoke`].
    pub async fn remove_peer(&self, peer: EndpointId) -> bool {
        self.network.leave(peer).await
    }

    /// The peers in reach: those with which an admitted connection exists, and those of [`Node::idle_peers`].
    #[must_use]
    pub fn peers(&self) -> Vec<EndpointId> {
        let connected: BTreeSet<_> = self.network.peers().iter().map(|peer| peer.id).chain(self.idle_peers()).collect();
        connected.into_iter().collect()
    }

    /// The peers in reach whose connection was let go, for a thin link and nothing to say: they are dialled when there is
    /// something to say. See [`NodeBuilder::idle_links`].
    #[must_use]
    pub fn idle_peers(&self) -> Vec<EndpointId> {
        self.network.idle()
    }

    /// Figures of the admitted connections.
    #[must_use]
    pub fn peer_stats(&self) -> Vec<PeerStats> {
        self.network.peers().iter().map(|peer| PeerStats::of(peer)).collect()
    }

    /// Why peers are not connected: the last failure with each, as far as they are remembered (256).
    #[must_use]
    pub fn peer_failures(&self) -> BTreeMap<EndpointId, PeerFailure> {
        self.network.failures()
    }

    /// Every member whose record is known, this node included.
    #[must_use]
    pub fn members(&self) -> Vec<(EndpointId, NodeRecord)> {
        self.replica.nodes().into_iter().map(|(id, record)| (id, NodeRecord::clone(&record))).collect()
    }

    /// The nodes that were declared gone for good, and those that were expelled.
    #[must_use]
    pub fn gone(&self) -> Gone {
        Gone { retired: self.replica.retired().into_keys().collect(), revoked: self.replica.revoked() }
    }

    /// Looks at the machine's network interfaces again and dials at once whom it waits to dial.
    pub async fn network_changed(&self) {
        self.network.network_changed().await;
    }

    /// What happens from now on.
    #[must_use]
    pub fn events(&self) -> NodeEvents {
        NodeEvents(self.watchers.subscribe())
    }

    /// Every distribution that is known here, in order of their ids.
    #[must_use]
    pub fn distributions(&self) -> Vec<DistributionId> {
        self.replica.distributions()
    }

    /// How a distribution stands.
    ///
    /// # Errors
    /// [`Error::NoDistribution`] when it is not known here, or not any more.
    pub async fn status(&self, id: DistributionId) -> Result<DistributionStatus, Error> {
        let (answer, answered) = oneshot::channel();
        self.request(Request::Status { id, answer }).await?;
        let Status { distribution, state, targets } =
            answered.await.map_err(|_| Error::Stopped)?.ok_or(Error::NoDistribution(id))?;
        Ok(DistributionStatus { distribution, state, targets, bytes_here: self.progress.get(&id) })
    }

    /// The files of a distribution; none while the list of them is not here yet.
    ///
    /// # Errors
    /// [`Error::NoDistribution`], [`Error::Manifest`] when the list is not what the manifest says of it, or what reading it
    /// fails with.
    pub async fn files(&self, id: DistributionId) -> Result<Option<Vec<FileEntry>>, Error> {
        let (replica, content) = (self.replica.clone(), self.content.clone());
        blocking(move || {
            let distribution = replica.distribution(&id)?.ok_or(Error::NoDistribution(id))?;
            match &distribution.manifest.files {
                Files::Inline(files) => Ok(Some(files.clone())),
                Files::List { blob, .. } if !content.holds(blob)? => Ok(None),
                Files::List { blob, size, count, bytes } => {
                    Ok(Some(FileList::decode(&content.read_blob(blob, *size)?, *count, *bytes)?.0))
                }
            }
        })
        .await?
    }

    /// What a distribution is, without how it stands.
    ///
    /// # Errors
    /// [`Error::NoDistribution`], or what the replica fails with.
    pub async fn distribution(&self, id: DistributionId) -> Result<Arc<Distribution>, Error> {
        let replica = self.replica.clone();
        blocking(move || replica.distribution(&id)?.ok_or(Error::NoDistribution(id))).await?
    }

    /// Waits until a distribution has come to an end: until its state is none of no targets, pending and in progress.
    ///
    /// # Errors
    /// [`Error::NoDistribution`], or [`Error::TimedOut`] with the state that it had when `patience` ended.
    pub async fn wait(&self, id: DistributionId, patience: Duration) -> Result<DistributionStatus, Error> {
        use DistributionState as State;
        // Subscribed first, so that no change between the look and the wait is missed.
        let mut events = self.events();
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            let status = self.status(id).await?;
            if !matches!(status.state, State::NoTargets | State::Pending | State::InProgress) {
                return Ok(status);
            }
            let changed = async {
                while let Some(event) = events.next().await {
                    let concerns = match event {
                        NodeEvent::Distribution { id: changed, .. } => changed == id,
                        NodeEvent::Missed(_) => true,
                        _ => false,
                    };
                    if concerns {
                        return Ok(());
                    }
                }
                Err(Error::Stopped)
            };
            match tokio::time::timeout_at(deadline, changed).await {
                Ok(changed) => changed?,
                Err(_) => return Err(Error::TimedOut(format!("distribution {} is {}", id.short(), status.state))),
            }
        }
    }

    /// Cancels a distribution that this node sent. Who has a receipt keeps its files.
    ///
    /// # Errors
    /// [`Error::NoDistribution`], or what the replica refuses: only the sender may cancel.
    pub async fn cancel(&self, id: DistributionId) -> Result<(), Error> {
        self.known(&id)?;
        self.write(move |replica| replica.cancel(&id)).await
    }

    /// Delivers a distribution to this node's inbox again, what the user removed or edited included.
    ///
    /// # Errors
    /// [`Error::NoDistribution`], or what the inbox's ledger says.
    pub async fn redeliver(&self, id: DistributionId) -> Result<(), Error> {
        self.known(&id)?;
        let (inbox, requests) = (self.inbox.clone(), self.requests.clone());
        blocking(move || {
            if let Some(inbox) = inbox {
                inbox.forget(&id)?;
            }
            requests.blocking_send(Request::Redeliver(id)).map_err(|_| Error::Stopped)
        })
        .await?
    }

    /// The first file that came into the inbox and was not seen to yet; waits for one. It is told of again, also after a restart,
    /// until [`Node::arrival_done`] is called with its number. One asks at a time, and only where
    /// [`InboxPolicy::arrivals`](crate::exchange::InboxPolicy::arrivals) says that somebody does; else this never resolves.
    ///
    /// # Errors
    /// What the inbox's ledger says.
    pub async fn arrival(&self) -> Result<(u64, Arrival), Error> {
        let Some(inbox) = self.inbox.clone() else { return std::future::pending().await };
        loop {
            let asked = inbox.clone();
            if let Some(arrival) = blocking(move || asked.arrival()).await?? {
                return Ok(arrival);
            }
            inbox.arrived().await;
        }
    }

    /// The file of this number was seen to: it is not told of again.
    ///
    /// # Errors
    /// What the inbox's ledger says.
    pub async fn arrival_done(&self, number: u64) -> Result<(), Error> {
        let Some(inbox) = self.inbox.clone() else { return Ok(()) };
        Ok(blocking(move || inbox.arrival_done(number)).await??)
    }

    /// How many files came into the inbox and were not seen to yet.
    ///
    /// # Errors
    /// What the inbox's ledger says.
    pub async fn arrivals(&self) -> Result<u64, Error> {
        let Some(inbox) = self.inbox.clone() else { return Ok(0) };
        Ok(blocking(move || inbox.arrivals()).await??)
    }

    /// Declares a node gone for good: rosters leave it out. In an enrolled formation this wants the authority's key; where
    /// that is not at hand, see [`AuthorityKey::retire`]. Nothing happens when the node is retired already.
    ///
    /// # Errors
    /// What the replica refuses.
    pub async fn retire(&self, node: EndpointId, reason: &str, authority: Option<&AuthorityKey>) -> Result<(), Error> {
        let reason = reason.to_owned();
        let signed = authority.map(|key| key.retire(&node, &reason, self.clock.now())).transpose().map_err(ReplicaError::from)?;
        self.write(move |replica| match signed {
            _ if replica.is_retired(&node) => Ok(Accepted::default()),
            Some(signed) => replica.declare(signed),
            None => replica.retire(&node, &reason),
        })
        .await
    }

    /// Expels a node: nothing of it counts any more, and every member that hears of it cuts it off. Where the authority's key
    /// is not at hand, which it should not be on a node, see [`AuthorityKey::revoke`]. Nothing happens when the node is
    /// revoked already.
    ///
    /// # Errors
    /// What the replica refuses: only the authority of an enrolled formation can revoke.
    pub async fn revoke(&self, node: EndpointId, reason: &str, authority: &AuthorityKey) -> Result<(), Error> {
        let name = self.replica.node(&node).map(|record| record.name.clone());
        let signed = authority.revoke(&node, name.as_deref(), reason, self.clock.now()).map_err(ReplicaError::from)?;
        self.write(move |replica| match replica.is_revoked(&node) {
            true => Ok(Accepted::default()),
            false => replica.declare(signed),
        })
        .await
    }

    /// Puts other rules into force.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub async fn set_policy(&self, policy: Policy) -> Result<(), Error> {
        self.request(Request::Policy(Box::new(policy))).await
    }

    /// Lets no more of blobs cross than these limits say, from now on and also of what is under way; documents, receipts and
    /// hints are never held back. They are not kept on disk: a node that starts anew has those of [`NodeBuilder::limits`].
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub async fn set_limits(&self, limits: Limits) -> Result<(), Error> {
        let metered = limits.metered;
        self.network.traffic().limiter.set(limits);
        self.request(Request::Metered(metered)).await
    }

    /// The limits that were set last.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.network.traffic().limiter.limits()
    }

    /// What of them holds now, by their schedule.
    #[must_use]
    pub fn limits_in_force(&self) -> LimitsInForce {
        self.network.traffic().limiter.in_force()
    }

    /// Reads everything in the store and holds it against its hashes. What is damaged is served to nobody, and what is kept for
    /// a distribution is fetched again from another holder.
    ///
    /// # Errors
    /// When the store cannot be read at all.
    pub async fn check(&self) -> Result<CheckReport, Error> {
        let content = self.content.clone();
        let report = blocking(move || content.check(&mut |_| std::ops::ControlFlow::Continue(()))).await??;
        self.request(Request::Mend).await?;
        Ok(report)
    }

    /// Drops every blob that nothing pins.
    ///
    /// # Errors
    /// When the store's index cannot be read.
    pub async fn gc(&self) -> Result<GcReport, Error> {
        let content = self.content.clone();
        Ok(blocking(move || content.gc_all()).await??)
    }

    /// Waits until the node's loop has taken this call up: an idle one does at once, a busy one when it comes round, one that
    /// is stuck never. How long is too long is for the caller to say.
    ///
    /// # Errors
    /// [`Error::Stopped`] when the loop has ended.
    pub async fn responds(&self) -> Result<(), Error> {
        let (answer, answered) = oneshot::channel();
        self.request(Request::Probe { answer }).await?;
        answered.await.map_err(|_| Error::Stopped)
    }

    /// Figures of the replica: what was accepted, what was refused and why.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.replica.stats()
    }

    /// Bytes of blocks that were received and served since the node started.
    #[must_use]
    pub fn block_bytes(&self) -> BlockBytes {
        self.network.traffic().bytes()
    }

    /// The store, for reading blobs.
    #[must_use]
    pub fn content(&self) -> &Content {
        &self.content
    }

    /// Ends everything that is under way, says so to the peers, and closes the store. What had come of unfinished blobs is
    /// kept for the next start.
    pub async fn shutdown(self) {
        // A driver that has ended already is what this asks for.
        let _ = self.requests.send(Request::Stop).await;
        if let Err(error) = self.driver.await {
            tracing::error!(%error, "the driver ended badly");
        }
        match Arc::try_unwrap(self.network) {
            Ok(network) => network.stop().await,
            Err(_) => tracing::error!("the network is still in use at shutdown"),
        }
        if let Some(sideload) = self.sideload {
            sideload.stop().await;
        }
        drop(self.mesh);
        let registry = self.registry;
        if blocking(move || registry.close()).await.is_err() {
            tracing::error!("the registry was not closed");
        }
        self.replica.close().await;
        let content = self.content;
        match blocking(move || content.close()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the store was not closed cleanly"),
            Err(error) => tracing::error!(%error, "the store was not closed"),
        }
    }

    fn known(&self, id: &DistributionId) -> Result<(), Error> {
        match self.replica.distribution(id)? {
            Some(_) => Ok(()),
            None => Err(Error::NoDistribution(*id)),
        }
    }

    /// Changes the replica off the async threads and lets the driver know.
    async fn write(&self, work: impl FnOnce(&Replica) -> Result<Accepted, ReplicaError> + Send + 'static) -> Result<(), Error> {
        let replica = self.replica.clone();
        self.write_with(move || Ok(((), work(&replica)?))).await
    }

    /// The same for work that also has a result. The driver hears of what was written even if the caller has stopped waiting.
    async fn write_with<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<(T, Accepted), Error> + Send + 'static,
    ) -> Result<T, Error> {
        let requests = self.requests.clone();
        blocking(move || {
            let (result, accepted) = work()?;
            requests.blocking_send(Request::Wrote(accepted)).map_err(|_| Error::Stopped)?;
            Ok(result)
        })
        .await?
    }

    async fn request(&self, request: Request) -> Result<(), Error> {
        self.requests.send(request).await.map_err(|_| Error::Stopped)
    }

    fn next_bundle(&self) -> String {
        let count = self.bundles.fetch_add(1, Ordering::Relaxed);
        format!("{}-{}-{count}", self.id().short(), self.clock.now().as_millis())
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("id", &self.id()).finish_non_exhaustive()
    }
}

/// Runs what blocks off the async threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    // Only a runtime that shuts down cancels blocking work.
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::Stopped)
}

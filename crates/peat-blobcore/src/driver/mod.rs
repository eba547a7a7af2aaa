//! The only loop of a node: receive an event, ask reconcile, perform the actions. It decides nothing itself.
//!
//! It runs on a thread of its own that may block, since looking at documents and writing records touch the disk; what takes
//! long (fetches, deliveries) runs beside it and comes back as events.

mod activity;
mod deliveries;
mod discards;
mod fetches;
mod gains;
mod parcels;
mod progress;
mod room;
mod world;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, oneshot};

use crate::clock::Clock;
use crate::content::Content;
use crate::document::{Distribution, Hint, News, Section};
use crate::exchange::{Delivery, Inbox, Ledger};
use crate::identity::Identity;
use crate::model::{BlobHash, DistributionId, DistributionState, EndpointId, Files, Manifest, NodeRecord, Timestamp};
use crate::network::wire::Message;
use crate::network::{Network, NetworkEvent};
use crate::node::{Activity, NodeEvent, TargetStatus};
use crate::reconcile::{self, Action, Event, FetchId, FetchOutcome, FileOutcome, Memory, Policy, Retry, View as _};
use crate::registry::{Claims, PackageNews, Registry};
use crate::replica::{Accepted, Change, Replica};

use deliveries::Deliveries;
use discards::Discards;
use fetches::{Fetches, Order, SmallOrder};
use gains::Gains;
pub(crate) use parcels::{ParcelRequest, Wanted};
pub(crate) use progress::Progress;
use room::{ROOM_INTERVAL, Room};
pub(crate) use world::SharedNodes;
use world::World;

/// How often those who watch hear of bytes.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);
/// Ticks of progress between two words to the sender.
const PROGRESS_TICKS_A_WORD: u32 = 5;
/// How often what can wait is done: expired envelopes dropped, failed writes tried again.
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(60);

/// What the node asks of the driver.
pub(crate) enum Request {
    /// The replica was changed through the node's handle.
    Wrote(Accepted),
    /// The user wants a distribution delivered again.
    Redeliver(DistributionId),
    /// A client of the registry asks for blobs of a package.
    Asked { distribution: DistributionId, blobs: Vec<BlobHash> },
    /// The policy is another one now.
    Policy(Box<Policy>),
    /// Whether only what is critical crosses the link, from now on.
    Metered(bool),
    /// What was found damaged or gone is to be fetched again.
    Mend,
    /// How a distribution stands.
    Status { id: DistributionId, answer: oneshot::Sender<Option<Status>> },
    /// What the node is at.
    Activity { answer: oneshot::Sender<Activity> },
    /// What a parcel wants.
    Parcel(ParcelRequest),
    /// Whether the loop comes round.
    Probe { answer: oneshot::Sender<()> },
    /// End everything that is under way, then the loop.
    Stop,
}

/// How a distribution stands, as the driver sees it.
pub(crate) struct Status {
    pub(crate) distribution: Arc<Distribution>,
    pub(crate) state: DistributionState,
    pub(crate) targets: BTreeMap<EndpointId, TargetStatus>,
}

/// What a driver is made of.
pub(crate) struct Parts {
    pub(crate) identity: Arc<Identity>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) replica: Replica,
    pub(crate) content: Content,
    pub(crate) inbox: Option<Inbox>,
    pub(crate) ledger: Ledger,
    pub(crate) network: Arc<Network>,
    pub(crate) policy: Policy,
    /// How long a source may send nothing before another is asked.
    pub(crate) stall: Duration,
    /// What this node says of itself; addresses are filled in as they become known.
    pub(crate) record: NodeRecord,
    pub(crate) progress: Arc<Progress>,
    pub(crate) nodes: SharedNodes,
    pub(crate) claims: Claims,
    pub(crate) registry: Registry,
    pub(crate) watchers: broadcast::Sender<NodeEvent>,
    /// Spreads waits; differs between nodes.
    pub(crate) seed: u64,
}

pub(crate) struct Driver {
    identity: Arc<Identity>,
    clock: Arc<dyn Clock>,
    replica: Replica,
    content: Content,
    network: Arc<Network>,
    policy: Policy,
    record: NodeRecord,
    watchers: broadcast::Sender<NodeEvent>,
    seed: u64,
    world: World,
    memory: Memory,
    fetches: Fetches,
    inbox: Option<Inbox>,
    deliveries: Deliveries,
    discards: Discards,
    delivered: activity::Deliveries,
    progress: Arc<Progress>,
    progress_ticks: u32,
    /// What peers that are to get the same know of what is here.
    gains: Gains,
    timer: Option<Timestamp>,
    /// What the actions of one event have brought about; empty between two events.
    ahead: VecDeque<Event>,
    /// Whether something could not be written for want of room, and is to be tried again.
    room: Room,
    /// Lists of files that are to come, and whose blobs are to be pinned when they have.
    lists: BTreeMap<BlobHash, BTreeSet<DistributionId>>,
    /// Documents that could not be written; they are looked at again.
    unwritten: BTreeSet<DistributionId>,
    /// What is said of packages, for the registry.
    claims: Claims,
    registry: Registry,
}

impl Driver {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts {
            identity,
            clock,
            replica,
            content,
            inbox,
            ledger,
            network,
            policy,
            stall,
            record,
            progress,
            nodes,
            claims,
            registry,
            watchers,
            seed,
        } = parts;
        let policy = Policy { inbox: inbox.is_some(), ..policy };
        Self {
            world: World::new(identity.id(), replica.clone(), content.clone(), Arc::clone(&network), nodes),
            memory: Memory::default(),
            fetches: Fetches::new(content.clone(), Arc::clone(&network), stall, identity.id()),
            inbox: inbox.clone(),
            room: Room::new(
                std::iter::once(content.directory()).chain(inbox.as_ref().map(Inbox::directory)).map(Into::into).collect(),
            ),
            deliveries: Deliveries::new(inbox, ledger, registry.clone(), content.clone(), Arc::clone(&clock)),
            discards: Discards::new(content.clone()),
            delivered: activity::Deliveries::default(),
            registry,
            progress_ticks: 0,
            gains: Gains::default(),
            timer: None,
            ahead: VecDeque::new(),
            lists: BTreeMap::new(),
            unwritten: BTreeSet::new(),
            claims,
            identity,
            clock,
            replica,
            content,
            network,
            policy,
            record,
            progress,
            watchers,
            seed,
        }
    }

    /// Runs until [`Request::Stop`], then ends what is under way.
    pub(crate) async fn run(mut self, mut requests: mpsc::Receiver<Request>, mut network: mpsc::Receiver<NetworkEvent>) {
        let mut progress = tokio::time::interval(PROGRESS_INTERVAL);
        progress.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut room = tokio::time::interval(ROOM_INTERVAL);
        room.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut housekeeping = tokio::time::interval(HOUSEKEEPING_INTERVAL);
        self.start().await;
        loop {
            let timer = self.timer.map(|time| time.since(self.clock.now()));
            tokio::select! {
                request = requests.recv() => match request {
                    Some(Request::Stop) | None => break,
                    Some(request) => self.serve(request).await,
                },
                Some(event) = network.recv() => self.hear(event).await,
                news = self.fetches.news() => match news {
                    fetches::News::Ended(ended) => self.fetched(ended).await,
                    fetches::News::Some(some) => self.some_fetched(some).await,
                    fetches::News::Dropped(fetches::Dropped { blob, distribution, source, outcome }) => {
                        self.decide(Event::SourceFailed { distribution, blob, source, outcome }).await;
                    }
                },
                ended = self.deliveries.ended() => {
                    for (distribution, outcomes) in ended {
                        self.delivered.count(&outcomes);
                        self.tell_files(distribution, &outcomes);
                        if outcomes.iter().any(|(_, outcome)| matches!(outcome, FileOutcome::Failed { retry: Retry::WithRoom, .. })) {
                            self.room.ran_out();
                        }
                        self.decide(Event::DeliveryEnded { distribution, outcomes }).await;
                    }
                }
                () = self.discards.ended() => {}
                () = tokio::time::sleep(timer.unwrap_or_default()), if timer.is_some() => {
                    self.timer = None;
                    self.decide(Event::Timer).await;
                }
                _ = progress.tick(), if !self.fetches.is_idle() || self.gains.are_untold() => self.tell_progress().await,
                _ = room.tick(), if self.room.is_awaited() => {
                    if self.room.is_made() {
                        self.decide(Event::RoomMade).await;
                    }
                }
                _ = housekeeping.tick() => self.keep_house().await,
            }
        }
        self.decide(Event::Stop).await;
        self.fetches.stop().await;
        self.deliveries.stop().await;
        self.discards.stop().await;
    }

    async fn start(&mut self) {
        for (id, record) in self.replica.nodes() {
            self.learn_addresses(id, &record.addresses).await;
        }
        for id in self.replica.revoked().into_keys() {
            self.network.expel(id);
        }
        if self.replica.ready_to_write() {
            self.publish().await;
        }
        let distributions = self.replica.distributions();
        self.decide(Event::Started { distributions: distributions.clone() }).await;
        for id in distributions {
            self.learn_claims(&id);
            self.redeliver_if_lost(id).await;
            self.discard(&id);
        }
    }

    /// Has the store let go of what the inbox alone is to have.
    fn discard(&mut self, id: &DistributionId) {
        if !self.policy.inbox_only || self.inbox.is_none() {
            return;
        }
        let Some(distribution) = self.world.distribution(id) else { return };
        let signed = distribution.targets.get(&self.identity.id()).is_some_and(|record| record.state.is_receipt());
        if signed && distribution.manifest.package.is_none() {
            self.discards.add(self.world.blobs(&distribution));
        }
    }

    /// Delivers again what this node has signed a receipt for and its ledger knows nothing of: the disk, or the ledger on it,
    /// was lost. Equal files are left as they are.
    async fn redeliver_if_lost(&mut self, id: DistributionId) {
        let Some(distribution) = self.world.distribution(&id) else { return };
        let signed = distribution.targets.get(&self.identity.id()).is_some_and(|record| record.state.is_receipt());
        if !signed {
            return;
        }
        if let Some(package) = &distribution.manifest.package {
            if self.registry.has_lost(package) {
                tracing::warn!(distribution = %id, "a package that was kept here is unknown to the registry: it is taken in again");
                self.decide(Event::Redeliver(id)).await;
            }
            return;
        }
        let Some(inbox) = self.inbox.clone() else { return };
        let lost = match self.world.files(&distribution) {
            Some(Ok(files)) => match files.first() {
                Some(first) => inbox
                    .knows(&distribution.manifest.sender, &id, 0, distribution.manifest.file_count(), first)
                    .map(|known| !known),
                None => Ok(false),
            },
            Some(Err(_)) => Ok(false),
            // The list of files may have been dropped since; that alone says nothing.
            None => inbox.is_blank(),
        };
        let lost = lost.unwrap_or_else(|error| {
            tracing::error!(distribution = %id, %error, "cannot look into the ledger");
            false
        });
        if lost {
            tracing::warn!(distribution = %id, "delivered in an earlier life and unknown to the ledger: delivered again");
            self.decide(Event::Redeliver(id)).await;
        }
    }

    /// Asks reconcile and performs what it answers, and so on for what this itself brings about.
    async fn decide(&mut self, event: Event) {
        self.ahead.push_back(event);
        while let Some(event) = self.ahead.pop_front() {
            let now = self.clock.now();
            for action in reconcile::reconcile(now, self.seed, &self.policy, &self.world, &mut self.memory, event) {
                self.perform(action).await;
            }
        }
    }

    async fn perform(&mut self, action: Action) {
        match action {
            Action::Fetch { fetch, blob, size, source, whole, distribution, priority } => {
                self.begin_progress(&distribution);
                self.begin_gains(distribution, Some(&blob));
                self.fetches.begin(Order { fetch, blob, size, source, whole, distribution, priority });
                self.offer_sources(Some(fetch));
            }
            Action::FetchSmall { fetch, blobs, source, whole, distribution, priority } => {
                self.begin_progress(&distribution);
                self.begin_gains(distribution, None);
                self.fetches.begin_small(SmallOrder { fetch, blobs, source, whole, distribution, priority });
            }
            Action::CancelFetch { fetch } => self.fetches.cancel(fetch),
            Action::Dial { peer } => self.network.dial(peer).await,
            Action::Deliver { distribution, files } => self.deliver(distribution, &files),
            Action::Record { distribution, section, record } => {
                if section == Section::Targets && record.state.is_terminal() {
                    self.progress.forget(&distribution);
                }
                let written = self.replica.record(&distribution, section, &record);
                self.wrote(distribution, written).await;
            }
            Action::WriteRoster { distribution, roster } => {
                let written = self.replica.write_roster(&distribution, &roster);
                self.wrote(distribution, written).await;
            }
            Action::Pin { distribution, reason } => self.pin(distribution, reason),
            Action::Unpin { distribution } => {
                if let Err(error) = self.content.unpin_distribution(&distribution) {
                    tracing::error!(%distribution, %error, "cannot unpin");
                }
                self.discard(&distribution);
            }
            Action::Announce { distribution } => self.spread(News::Holds(distribution)).await,
            Action::ArmTimer(time) => self.timer = Some(time),
            Action::Notify { distribution, state } => self.tell(NodeEvent::Distribution { id: distribution, state }),
        }
    }

    fn deliver(&mut self, id: DistributionId, indices: &[u32]) {
        let Some(distribution) = self.world.distribution(&id) else { return };
        let Some(Ok(files)) = self.world.files(&distribution) else { return };
        let manifest = &distribution.manifest;
        if let Some(package) = &manifest.package {
            return self.deliveries.keep(id, package.clone(), files);
        }
        self.deliveries.add(Delivery {
            id,
            sender: manifest.sender,
            made_at: manifest.made_at,
            expiry: manifest.expiry,
            bundle: manifest.bundle.clone(),
            priority: manifest.priority,
            file_count: manifest.file_count(),
            together: manifest.together,
            removes: manifest.removes,
            files: indices.iter().filter_map(|&index| Some((index, files.get(index as usize)?.clone()))).collect(),
        });
    }

    fn pin(&mut self, id: DistributionId, reason: reconcile::PinReason) {
        let Some(distribution) = self.world.distribution(&id) else { return };
        if let Files::List { blob, .. } = &distribution.manifest.files
            && !self.world.holds(blob)
        {
            self.lists.entry(*blob).or_default().insert(id);
        }
        if let Err(error) = self.content.pin_distribution(&id, world::role(reason), &self.world.blobs(&distribution)) {
            tracing::error!(distribution = %id, %error, "cannot pin");
        }
    }

    async fn fetched(&mut self, ended: fetches::Ended) {
        let fetches::Ended { fetch, blob, distribution, outcome } = ended;
        if let Some(blob) = blob.filter(|_| outcome == FetchOutcome::Done) {
            self.arrived(&distribution, &blob);
        }
        if outcome == FetchOutcome::NoSpace {
            self.room.ran_out();
        }
        self.decide(Event::FetchEnded { fetch, outcome }).await;
    }

    async fn some_fetched(&mut self, some: fetches::SomeEnded) {
        let fetches::SomeEnded { fetch, distribution, outcomes } = some;
        for (blob, _) in outcomes.iter().filter(|(_, outcome)| *outcome == FetchOutcome::Done) {
            self.arrived(&distribution, blob);
        }
        self.decide(Event::SomeFetched { fetch, outcomes }).await;
    }

    /// A blob that was fetched for a distribution is whole.
    fn arrived(&mut self, distribution: &DistributionId, blob: &BlobHash) {
        if let Ok(Some(size)) = self.content.size(blob) {
            self.progress.add(*distribution, size);
        }
        self.pin_listed(blob);
    }

    /// Lets large blobs, or one of them, come from all who have some of them.
    fn offer_sources(&self, only: Option<FetchId>) {
        for (fetch, distribution, blob) in self.fetches.shared().filter(|(fetch, ..)| only.is_none_or(|only| only == *fetch)) {
            let sources = reconcile::sources(self.clock.now(), &self.world, &self.memory, &distribution, &blob);
            self.fetches.offer(fetch, &sources);
        }
    }

    /// If the blob is a list of files that was waited for: pins what it names.
    fn pin_listed(&mut self, list: &BlobHash) {
        for id in self.lists.remove(list).unwrap_or_default() {
            if let Some(reason) = self.world.pinned(&id) {
                self.pin(id, reason);
            }
        }
    }

    async fn wrote(&mut self, id: DistributionId, written: Result<Accepted, crate::replica::ReplicaError>) {
        match written {
            Ok(accepted) => {
                self.pass_on(&accepted).await;
                if self.claims.knows(&id) {
                    self.registry.note(PackageNews::Package(id));
                }
                self.ahead.extend(accepted.changes.iter().filter_map(|change| match change {
                    Change::Distribution(id) => Some(Event::DistributionChanged(*id)),
                    _ => None,
                }));
            }
            // This life has yet to learn what an earlier one wrote; the first reconciliation is the time to try again.
            Err(crate::replica::ReplicaError::NotReady) => {
                self.unwritten.insert(id);
            }
            Err(error) => {
                tracing::error!(distribution = %id, %error, "cannot write to a document; it is tried again");
                self.unwritten.insert(id);
            }
        }
    }

    /// Sends what this node wrote to its peers, and word of it beyond them.
    async fn pass_on(&self, accepted: &Accepted) {
        self.network.push(&accepted.push);
        self.report_clones(accepted);
        if let Some(id) = accepted.push.first() {
            self.spread(News::New(*id)).await;
        }
    }

    fn report_clones(&self, accepted: &Accepted) {
        for id in &accepted.clones {
            tracing::warn!(endpoint = %id, "two lives of one node speak at once: was its data directory copied?");
            self.tell(NodeEvent::Clone(*id));
        }
        if !accepted.held.is_empty() {
            tracing::warn!(count = accepted.held.len(), "documents from the future are held back: check the clocks");
        }
    }

    async fn spread(&self, news: News) {
        let hint = Hint { author: self.identity.id(), time: self.clock.now(), news };
        match hint.seal(self.identity.key().as_iroh()) {
            Ok(bytes) => self.network.spread(bytes).await,
            Err(error) => tracing::debug!(%error, "a hint is not spread"),
        }
    }

    async fn serve(&mut self, request: Request) {
        match request {
            Request::Wrote(accepted) => {
                self.pass_on(&accepted).await;
                self.changed(accepted.changes).await;
            }
            Request::Redeliver(id) => self.decide(Event::Redeliver(id)).await,
            Request::Asked { distribution, blobs } => self.decide(Event::Asked { distribution, blobs }).await,
            Request::Policy(policy) => {
                self.policy = Policy { inbox: self.policy.inbox, metered: self.policy.metered, ..*policy };
                self.decide(Event::PolicyChanged).await;
            }
            Request::Metered(metered) if metered == self.policy.metered => {}
            Request::Metered(metered) => {
                self.policy.metered = metered;
                self.decide(Event::PolicyChanged).await;
                if !metered {
                    // Who was told to ask later does so after the next reconciliation.
                    self.network.peers().iter().for_each(|peer| _ = peer.queue.message(Message::Again));
                    // Who sleeps is told by the reconciliation that a new connection begins with.
                    self.network.idle().iter().for_each(|peer| self.network.wake(peer));
                }
            }
            Request::Mend => self.mend().await,
            Request::Status { id, answer } => {
                // Who asked may have gone.
                let _ = answer.send(self.status(&id));
            }
            Request::Activity { answer } => {
                let _ = answer.send(self.activity());
            }
            Request::Parcel(request) => self.serve_parcel(request).await,
            Request::Probe { answer } => {
                let _ = answer.send(());
            }
            Request::Stop => {}
        }
    }

    fn status(&self, id: &DistributionId) -> Option<Status> {
        let (now, distribution) = (self.clock.now(), self.world.distribution(id)?);
        let state = reconcile::status(now, &self.world, &distribution);
        let mut ids = reconcile::targets(&self.world, &distribution);
        ids.extend(distribution.targets.keys());
        let targets = ids.into_iter().map(|target| {
            let status = TargetStatus {
                name: self.world.nodes().get(&target).map(|node| node.name.clone()).unwrap_or_default(),
                record: distribution.targets.get(&target).cloned(),
                why: reconcile::explain(now, &self.policy, &self.world, &self.memory, id, &target).to_string(),
            };
            (target, status)
        });
        Some(Status { targets: targets.collect(), state, distribution })
    }

    async fn hear(&mut self, event: NetworkEvent) {
        match event {
            NetworkEvent::Up(peer) => {
                self.tell(NodeEvent::PeerUp(peer));
                self.decide(Event::PeerUp(peer)).await;
            }
            // A newer connection has come since; its own event says so, before this one or after.
            NetworkEvent::Down(peer) if self.network.is_in_reach(&peer) => {}
            NetworkEvent::Down(peer) => {
                self.tell(NodeEvent::PeerDown(peer));
                self.decide(Event::PeerDown(peer)).await;
                // The next connection may have come up, and been told of, before the end of the last one was.
                if self.network.is_in_reach(&peer) {
                    self.decide(Event::PeerUp(peer)).await;
                }
            }
            NetworkEvent::DialEnded { peer, ok } => self.decide(Event::DialEnded { peer, ok }).await,
            NetworkEvent::Reconciled(peer) => {
                if let Err(error) = self.replica.mark_reconciled() {
                    tracing::error!(%error, "cannot note that this node has reconciled");
                }
                self.publish().await;
                self.decide(Event::Reconciled(peer)).await;
                self.write_again().await;
            }
            NetworkEvent::Accepted(accepted) => {
                self.report_clones(&accepted);
                self.changed(accepted.changes).await;
            }
            NetworkEvent::Addresses(addresses) => {
                self.record.addresses = addresses.iter().map(ToString::to_string).collect();
                if self.replica.ready_to_write() {
                    self.publish().await;
                }
            }
            NetworkEvent::Hint(hint) => self.hear_hint(*hint).await,
            NetworkEvent::Progress { peer, distribution, bytes } => {
                self.tell(NodeEvent::Progress { distribution, node: peer, bytes });
                self.decide(Event::Getting { peer, distribution }).await;
            }
        }
    }

    async fn hear_hint(&mut self, hint: Hint) {
        match hint.news {
            News::Holds(distribution) => self.decide(Event::Holding { peer: hint.author, distribution }).await,
            News::Addresses(addresses) => self.learn_addresses(hint.author, &addresses).await,
            // A neighbour will push it; if none does, its author is worth a connection.
            News::New(id) => {
                let wanted = self.replica.wanted(vec![id]).is_ok_and(|wanted| !wanted.is_empty());
                if wanted && self.network.peers().is_empty() && self.network.idle().is_empty() {
                    self.network.dial(hint.author).await;
                }
            }
        }
    }

    /// Tells reconcile what reads differently now.
    async fn changed(&mut self, changes: Vec<Change>) {
        let registers = changes.iter().any(|change| !matches!(change, Change::Distribution(_) | Change::Tag(_)));
        if registers {
            self.world.refresh_nodes();
        }
        for change in changes {
            match change {
                Change::Distribution(id) => {
                    self.learn_claims(&id);
                    self.decide(Event::DistributionChanged(id)).await;
                    self.redeliver_if_lost(id).await;
                }
                Change::Node(id) => {
                    if let Some(record) = self.replica.node(&id) {
                        self.learn_addresses(id, &record.addresses).await;
                    }
                    self.decide(Event::NodeChanged(id)).await;
                }
                // The registry looks tags up when it is asked.
                Change::Tag(key) => self.registry.note(PackageNews::Tag(key)),
                Change::Retired(id) => {
                    self.network.forget(id).await;
                    self.decide(Event::NodeChanged(id)).await;
                }
                Change::Revoked(id) => {
                    tracing::warn!(endpoint = %id, "a node was revoked and is cut off");
                    self.network.expel(id);
                    self.network.forget(id).await;
                    self.decide(Event::NodeChanged(id)).await;
                }
            }
        }
    }

    fn learn_claims(&self, id: &DistributionId) {
        let knew = self.claims.knows(id);
        match self.world.distribution(id) {
            Some(distribution) => self.claims.learn(&distribution),
            None => self.claims.forget(id),
        }
        if knew || self.claims.knows(id) {
            self.registry.note(PackageNews::Package(*id));
        }
    }

    async fn learn_addresses(&self, id: EndpointId, addresses: &[String]) {
        let gone = self.world.nodes().get(&id).is_some_and(|node| node.retired || node.revoked);
        if id == self.identity.id() || gone {
            return;
        }
        let addresses: Vec<SocketAddr> = addresses.iter().filter_map(|address| address.parse().ok()).collect();
        self.network.know(id, addresses, false).await;
    }

    /// Writes this node's record if it says anything new.
    async fn publish(&mut self) {
        if self.record.addresses.is_empty() {
            self.record.addresses = self.network.addresses().iter().map(ToString::to_string).collect();
        }
        let published = self.replica.node(&self.identity.id());
        self.record.free_bytes = self.room.told(published.as_ref().map_or(0, |published| published.free_bytes));
        if published.is_some_and(|published| *published == self.record) {
            return;
        }
        match self.replica.publish_node(&self.record) {
            Ok(accepted) => {
                self.pass_on(&accepted).await;
                self.world.refresh_nodes();
                self.decide(Event::NodeChanged(self.identity.id())).await;
            }
            Err(error) => tracing::error!(%error, "cannot publish this node's record"),
        }
    }

    async fn keep_house(&mut self) {
        match self.replica.expire() {
            Ok(accepted) => self.changed(accepted.changes).await,
            Err(error) => tracing::error!(%error, "cannot drop what has expired"),
        }
        match self.replica.renew_tags() {
            Ok(accepted) => self.pass_on(&accepted).await,
            Err(error) => tracing::error!(%error, "cannot say again what this node's tags point to"),
        }
        self.write_again().await;
        self.mend().await;
        self.discards.again();
        if self.replica.clock_trusted() {
            self.deliveries.forget_some();
        }
        if let Err(error) = self.content.gc() {
            tracing::error!(%error, "cannot collect garbage");
        }
    }

    /// Fetches again what this disk has lost of that which is kept for a distribution.
    async fn mend(&mut self) {
        let lost = self.content.take_lost();
        let lost: Vec<BlobHash> = lost.into_iter().collect();
        let concerned = self.content.distributions_of(&lost).unwrap_or_else(|error| {
            tracing::error!(%error, "cannot find out what lost blobs were kept for");
            Vec::new()
        });
        for id in concerned.into_iter().flatten().collect::<BTreeSet<_>>() {
            tracing::warn!(distribution = %id, "some of it was lost on this disk and is fetched again");
            self.decide(Event::Lost(id)).await;
        }
    }

    /// Looks again at the documents that could not be written to.
    async fn write_again(&mut self) {
        for id in std::mem::take(&mut self.unwritten) {
            self.decide(Event::DistributionChanged(id)).await;
        }
    }

    fn tell_files(&self, distribution: DistributionId, outcomes: &[(u32, FileOutcome)]) {
        let is_files = |manifest: &Manifest| manifest.package.is_none() && !manifest.removes;
        let is_files = self.world.distribution(&distribution).is_none_or(|found| is_files(&found.manifest));
        for (index, outcome) in outcomes {
            match outcome {
                // What went into the registry is no file of the inbox, and what was to go was gone.
                FileOutcome::Delivered | FileOutcome::AlreadyThere if !is_files => {}
                FileOutcome::Delivered | FileOutcome::AlreadyThere => {
                    self.tell(NodeEvent::File { distribution, index: *index });
                }
                FileOutcome::Removed => self.tell(NodeEvent::Removed { distribution, index: *index }),
                FileOutcome::Superseded | FileOutcome::Kept => {}
                FileOutcome::Failed { error, retry } => {
                    tracing::warn!(%distribution, index, ?retry, error, "a file cannot be delivered");
                }
            }
        }
    }

    fn tell(&self, event: NodeEvent) {
        if let NodeEvent::Progress { distribution, node, bytes } = event
            && self.claims.knows(&distribution)
        {
            self.registry.note(PackageNews::Progress { distribution, node, bytes });
        }
        // Nobody may be watching.
        let _ = self.watchers.send(event);
    }
}

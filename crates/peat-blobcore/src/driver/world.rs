//! What reconcile may look at, backed by the replica and the store.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};

use crate::content::{Content, PinRole};
use crate::document::Distribution;
use crate::model::{BlobHash, DistributionId, EndpointId, FileEntry, FileList, Files};
use crate::network::Network;
use crate::reconcile::{Distance, Node, PinReason, View};
use crate::replica::Replica;

/// Lists of files that stay decoded. Each may have some 100 MiB in the worst case, so only a few do.
const KEPT_LISTS: usize = 4;

/// The members as their registers describe them, kept up to date by the driver.
pub(crate) type SharedNodes = Arc<RwLock<BTreeMap<EndpointId, Node>>>;

/// The state of the world as this node knows it.
pub(super) struct World {
    me: EndpointId,
    replica: Replica,
    content: Content,
    network: Arc<Network>,
    nodes: BTreeMap<EndpointId, Node>,
    /// The same, for those who serve blocks.
    shared: SharedNodes,
    /// The most recently used last.
    lists: RefCell<Vec<(DistributionId, Arc<[FileEntry]>)>>,
}

impl World {
    pub(super) fn new(me: EndpointId, replica: Replica, content: Content, network: Arc<Network>, shared: SharedNodes) -> Self {
        let mut world = Self { me, replica, content, network, nodes: BTreeMap::new(), shared, lists: RefCell::default() };
        world.refresh_nodes();
        world
    }

    /// Reads the registers again after one of them has changed.
    pub(super) fn refresh_nodes(&mut self) {
        let (retired, revoked) = (self.replica.retired(), self.replica.revoked());
        let known = self.replica.nodes();
        let mut nodes: BTreeMap<_, _> = known
            .iter()
            .map(|(id, record)| {
                let (name, labels) = record.name_and_labels();
                let upstreams = record.upstreams.clone().unwrap_or_default();
                (*id, Node { name: name.to_owned(), labels: labels.clone(), upstreams, ..Node::default() })
            })
            .collect();
        for id in retired.keys() {
            nodes.entry(*id).or_default().retired = true;
        }
        for id in revoked.keys() {
            nodes.entry(*id).or_default().revoked = true;
        }
        *self.shared.write().expect("nothing panics while it holds the nodes") = nodes.clone();
        self.nodes = nodes;
    }

    /// The files of a distribution, from its manifest or its list.
    pub(super) fn files(&self, distribution: &Distribution) -> Option<Result<Arc<[FileEntry]>, String>> {
        match &distribution.manifest.files {
            Files::Inline(files) => Some(Ok(files.as_slice().into())),
            Files::List { .. } => self.listed_files(&distribution.id),
        }
    }

    /// Every blob of a distribution that is known by now: its list first, then its files, where these have a content.
    pub(super) fn blobs(&self, distribution: &Distribution) -> Vec<BlobHash> {
        let mut blobs = Vec::new();
        if let Files::List { blob, .. } = &distribution.manifest.files {
            blobs.push(*blob);
        }
        if !distribution.manifest.removes
            && let Some(Ok(files)) = self.files(distribution)
        {
            blobs.extend(files.iter().map(|file| file.blob));
        }
        blobs
    }

    fn read_list(&self, distribution: &Distribution) -> Option<Result<Arc<[FileEntry]>, String>> {
        let Files::List { blob, size, count, bytes } = &distribution.manifest.files else { return None };
        if !self.holds(blob) {
            return None;
        }
        let read = || -> Result<Arc<[FileEntry]>, String> {
            let encoded = self.content.read_blob(blob, *size).map_err(|error| error.to_string())?;
            let list = FileList::decode(&encoded, *count, *bytes).map_err(|error| error.to_string())?;
            Ok(list.0.into())
        };
        Some(read())
    }
}

impl View for World {
    fn me(&self) -> EndpointId {
        self.me
    }

    fn nodes(&self) -> &BTreeMap<EndpointId, Node> {
        &self.nodes
    }

    fn distribution(&self, id: &DistributionId) -> Option<Arc<Distribution>> {
        self.replica.distribution(id).unwrap_or_else(|error| {
            tracing::error!(distribution = %id, %error, "cannot read a document");
            None
        })
    }

    fn is_unreadable(&self, id: &DistributionId) -> bool {
        self.replica.knows(id)
    }

    fn listed_files(&self, id: &DistributionId) -> Option<Result<Arc<[FileEntry]>, String>> {
        let mut lists = self.lists.borrow_mut();
        if let Some(at) = lists.iter().position(|(kept, _)| kept == id) {
            let kept = lists.remove(at);
            let files = Arc::clone(&kept.1);
            lists.push(kept);
            return Some(Ok(files));
        }
        let files = self.read_list(&*self.distribution(id)?)?;
        if let Ok(files) = &files {
            if lists.len() == KEPT_LISTS {
                lists.remove(0);
            }
            lists.push((*id, Arc::clone(files)));
        }
        Some(files)
    }

    fn holds(&self, blob: &BlobHash) -> bool {
        self.content.holds(blob).unwrap_or_else(|error| {
            tracing::error!(%blob, %error, "cannot look up a blob");
            false
        })
    }

    fn pinned(&self, id: &DistributionId) -> Option<PinReason> {
        let role = self.content.pinned_as(id).unwrap_or_else(|error| {
            tracing::error!(distribution = %id, %error, "cannot look up a pin");
            None
        })?;
        Some(match role {
            PinRole::Sender => PinReason::Sent,
            PinRole::Target => PinReason::Target,
            PinRole::Carrier => PinReason::Carry,
        })
    }

    fn changes_left(&self, id: &DistributionId) -> u32 {
        self.replica.changes_left(id).unwrap_or_else(|error| {
            tracing::error!(distribution = %id, %error, "cannot read a document");
            0
        })
    }

    fn clock_trusted(&self) -> bool {
        self.replica.clock_trusted()
    }

    fn distance(&self, peer: &EndpointId) -> Distance {
        Distance::of(self.network.peer(peer).and_then(|peer| peer.round_trip()))
    }

    fn is_connected(&self, peer: &EndpointId) -> bool {
        self.network.peer(peer).is_some()
    }

    fn rate(&self, peer: &EndpointId) -> Option<u64> {
        let connected = self.network.peer(peer);
        self.network.traffic().speeds.of(peer, connected.as_ref().map(|connected| &connected.connection))
    }
}

/// The store's word for a reason to keep a distribution.
pub(super) fn role(reason: PinReason) -> PinRole {
    match reason {
        PinReason::Sent => PinRole::Sender,
        PinReason::Target => PinRole::Target,
        PinReason::Carry => PinRole::Carrier,
    }
}

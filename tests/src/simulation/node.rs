//! One simulated node: what survives its crashes, what does not, and the view that its reconciler has of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use peat_blobcore::document::Distribution;
use peat_blobcore::model::{BlobHash, DistributionId, EndpointId, FileEntry, Labels, Manifest, TargetRecord, Timestamp};
use peat_blobcore::reconcile::{Memory, Node, PinReason, Policy, View};

/// Changes of one author to one document, as the replica bounds them.
pub(super) const MAX_CHANGES: u32 = 32;

/// Names one replicated value. Only one node writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Key {
    /// A manifest.
    Manifest(DistributionId),
    /// A target's record.
    Target(DistributionId, EndpointId),
    /// A carrier's record.
    Carrier(DistributionId, EndpointId),
    /// The sender's roster.
    Roster(DistributionId),
    /// The sender's cancellation.
    Cancel(DistributionId),
    /// A node's register.
    Node(EndpointId),
    /// A retirement.
    Retired(EndpointId),
}

/// A replicated value.
#[derive(Debug, Clone)]
pub(super) enum Value {
    /// Of [`Key::Manifest`].
    Manifest(Box<Manifest>),
    /// Of [`Key::Target`] and [`Key::Carrier`].
    Record(TargetRecord),
    /// Of [`Key::Roster`].
    Roster(BTreeSet<EndpointId>),
    /// Of [`Key::Cancel`].
    Cancel(Timestamp),
    /// Of [`Key::Node`].
    Node(String, Labels),
    /// Of [`Key::Retired`].
    Retired,
}

/// What one author said: its incarnation and a counter decide what is newer.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// Greater is newer.
    pub(super) version: (u32, u32),
    /// What was said.
    pub(super) value: Arc<Value>,
}

/// What a change of the replica means for the reconciler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Change {
    /// A document.
    Distribution(DistributionId),
    /// The registers of a node.
    Node(EndpointId),
}

/// A simulated node.
#[derive(Debug)]
pub(super) struct SimNode {
    /// Its id.
    pub(super) id: EndpointId,
    /// Its name.
    pub(super) name: String,
    /// Its labels.
    pub(super) labels: Labels,
    /// Whether others can dial it; it can always dial others.
    pub(super) dialable: bool,
    /// Its policy.
    pub(super) policy: Policy,
    /// Whether it runs.
    pub(super) alive: bool,
    /// Whether its reconciler has been told that it runs.
    pub(super) started: bool,
    /// Counts its starts, so that what was meant for an earlier life is dropped.
    pub(super) life: u32,
    /// Counts its disks.
    pub(super) incarnation: u32,
    /// Milliseconds by which its clock is wrong.
    pub(super) skew: i64,
    /// Which side of a partition it is on.
    pub(super) side: usize,
    /// Whether its store is full.
    pub(super) full: bool,
    /// What its reconciler remembers.
    pub(super) memory: Memory,
    /// Which armed timer is the last one.
    pub(super) timer: u64,
    /// Deliveries under way.
    pub(super) delivering: BTreeSet<DistributionId>,
    /// Distributions of whose cancellation its reconciler was told in this life.
    pub(super) cancelled: BTreeSet<DistributionId>,
    /// Everything replicated.
    pub(super) replica: BTreeMap<Key, Entry>,
    /// Equal on two nodes that know the same.
    pub(super) digest: u64,
    /// The documents, put together.
    pub(super) documents: BTreeMap<DistributionId, Arc<Distribution>>,
    /// The members, put together.
    pub(super) members: BTreeMap<EndpointId, Node>,
    /// Whole blobs.
    pub(super) blobs: BTreeSet<BlobHash>,
    /// Blobs that are damaged on its disk.
    pub(super) damaged: BTreeSet<BlobHash>,
    /// What is pinned.
    pub(super) pins: BTreeMap<DistributionId, PinReason>,
    /// Which files the inbox got.
    pub(super) inbox: BTreeMap<DistributionId, BTreeSet<u32>>,
    /// Changes written to each document in this incarnation.
    pub(super) changes: BTreeMap<DistributionId, u32>,
}

impl SimNode {
    /// The time that its clock shows at `millis` of true time.
    #[must_use]
    pub(super) fn clock(&self, millis: u64) -> Timestamp {
        Timestamp::from_millis(millis.saturating_add_signed(self.skew))
    }

    /// Takes an entry in, if it is news, and says what changed by it.
    pub(super) fn merge(&mut self, key: Key, entry: &Entry) -> Option<Change> {
        if self.replica.get(&key).is_some_and(|known| known.version >= entry.version) {
            return None;
        }
        if let Some(old) = self.replica.insert(key, entry.clone()) {
            self.digest ^= fingerprint(&key, old.version);
        }
        self.digest ^= fingerprint(&key, entry.version);
        let change = match key {
            Key::Node(id) | Key::Retired(id) => {
                self.rebuild_member(id);
                Change::Node(id)
            }
            Key::Manifest(id) | Key::Roster(id) | Key::Cancel(id) | Key::Target(id, _) | Key::Carrier(id, _) => {
                self.rebuild_document(id, key);
                Change::Distribution(id)
            }
        };
        Some(change)
    }

    /// Writes a value of its own.
    pub(super) fn write(&mut self, key: Key, value: Value) -> (Key, Entry) {
        let counter = self.replica.get(&key).map_or(0, |known| known.version.1) + 1;
        let entry = Entry { version: (self.incarnation, counter), value: Arc::new(value) };
        self.merge(key, &entry);
        (key, entry)
    }

    /// All that is lost with the disk. The id stays: it comes back as a new incarnation.
    pub(super) fn lose_disk(&mut self) {
        self.incarnation += 1;
        self.replica.clear();
        self.digest = 0;
        self.documents.clear();
        self.members.clear();
        self.blobs.clear();
        self.damaged.clear();
        self.pins.clear();
        self.inbox.clear();
        self.changes.clear();
    }

    /// Drops what is damaged, unless this node sent it and may be the only one to have it. Returns the distributions that it was
    /// kept for.
    pub(super) fn check(&mut self) -> Vec<DistributionId> {
        let sent = self.documents.values().filter(|document| document.manifest.sender == self.id);
        let own: BTreeSet<_> = sent.flat_map(|document| blobs_of(&document.manifest)).collect();
        let lost: BTreeSet<_> = std::mem::take(&mut self.damaged).difference(&own).copied().collect();
        self.blobs.retain(|blob| !lost.contains(blob));
        let concerned = |id: &&DistributionId| {
            self.documents.get(*id).is_some_and(|document| blobs_of(&document.manifest).iter().any(|blob| lost.contains(blob)))
        };
        self.pins.keys().filter(concerned).copied().collect()
    }

    /// Deletes what no pin keeps.
    pub(super) fn collect_garbage(&mut self) {
        let pinned: BTreeSet<BlobHash> = self
            .pins
            .keys()
            .filter_map(|id| self.documents.get(id))
            .flat_map(|distribution| blobs_of(&distribution.manifest))
            .collect();
        self.blobs.retain(|blob| pinned.contains(blob));
    }

    fn rebuild_member(&mut self, id: EndpointId) {
        let retired = self.replica.contains_key(&Key::Retired(id));
        if let Some(Value::Node(name, labels)) = self.replica.get(&Key::Node(id)).map(|entry| &*entry.value) {
            let node = Node { name: name.clone(), labels: labels.clone(), retired, ..Node::default() };
            self.members.insert(id, node);
        }
    }

    /// A document is there once its manifest is; what came before is put in then.
    fn rebuild_document(&mut self, id: DistributionId, key: Key) {
        let Some(Value::Manifest(manifest)) = self.replica.get(&Key::Manifest(id)).map(|entry| &*entry.value) else { return };
        let whole = matches!(key, Key::Manifest(_));
        let document = self.documents.entry(id).or_insert_with(|| {
            let manifest = (**manifest).clone();
            let (targets, carriers) = (BTreeMap::new(), BTreeMap::new());
            Arc::new(Distribution { id, manifest, targets, carriers, roster: None, cancelled: None })
        });
        let document = Arc::make_mut(document);
        let lowest = EndpointId::from_bytes([0; 32]);
        let highest = EndpointId::from_bytes([0xff; 32]);
        let ranges = [Key::Target(id, lowest)..=Key::Target(id, highest), Key::Carrier(id, lowest)..=Key::Carrier(id, highest)];
        let keys: Vec<Key> = if whole {
            let records = ranges.into_iter().flat_map(|range| self.replica.range(range).map(|(key, _)| *key));
            records.chain([Key::Roster(id), Key::Cancel(id)]).collect()
        } else {
            vec![key]
        };
        for key in keys {
            match (key, self.replica.get(&key).map(|entry| &*entry.value)) {
                (Key::Target(_, author), Some(Value::Record(record))) => _ = document.targets.insert(author, record.clone()),
                (Key::Carrier(_, author), Some(Value::Record(record))) => _ = document.carriers.insert(author, record.clone()),
                (Key::Roster(_), Some(Value::Roster(roster))) => document.roster = Some(roster.clone()),
                (Key::Cancel(_), Some(Value::Cancel(time))) => document.cancelled = Some(*time),
                _ => {}
            }
        }
    }
}

/// The blobs of a manifest, which the simulation always has inline.
pub(super) fn blobs_of(manifest: &Manifest) -> Vec<BlobHash> {
    files_of(manifest).iter().map(|file| file.blob).collect()
}

/// The files of a manifest, which the simulation always has inline.
#[must_use]
pub(super) fn files_of(manifest: &Manifest) -> &[FileEntry] {
    match &manifest.files {
        peat_blobcore::model::Files::Inline(files) => files,
        peat_blobcore::model::Files::List { .. } => &[],
    }
}

fn fingerprint(key: &Key, version: (u32, u32)) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    (key, version).hash(&mut hasher);
    hasher.finish()
}

/// What a reconciler sees of its node.
pub(super) struct SimView<'a>(pub(super) &'a SimNode);

impl View for SimView<'_> {
    fn me(&self) -> EndpointId {
        self.0.id
    }

    fn nodes(&self) -> &BTreeMap<EndpointId, Node> {
        &self.0.members
    }

    fn distribution(&self, id: &DistributionId) -> Option<Arc<Distribution>> {
        self.0.documents.get(id).cloned()
    }

    fn listed_files(&self, _: &DistributionId) -> Option<Result<Arc<[FileEntry]>, String>> {
        None
    }

    fn holds(&self, blob: &BlobHash) -> bool {
        self.0.blobs.contains(blob)
    }

    fn pinned(&self, id: &DistributionId) -> Option<PinReason> {
        self.0.pins.get(id).copied()
    }

    fn changes_left(&self, id: &DistributionId) -> u32 {
        MAX_CHANGES - self.0.changes.get(id).copied().unwrap_or_default().min(MAX_CHANGES)
    }

    fn clock_trusted(&self) -> bool {
        self.0.skew.abs() < 60_000
    }
}

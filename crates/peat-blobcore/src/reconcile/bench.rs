//! One node on a test bench: a view that is written by hand and by the actions, and what is under way.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::flights::Place;
use super::*;
use crate::document::Distribution;
use crate::document::Section;
use crate::model::{
    BlobHash, Carry, DistributionId, EndpointId, FileEntry, Files, Manifest, NodeRef, Priority, Scope, Sha256Digest,
    TargetRecord, TargetState,
};

pub(super) fn peer(number: u8) -> EndpointId {
    EndpointId::from_bytes([number; 32])
}

pub(super) const ME: u8 = 1;

/// These nodes and nobody else.
pub(super) fn only(numbers: &[u8]) -> Scope {
    Scope::Nodes(numbers.iter().map(|number| NodeRef::Id(peer(*number))).collect())
}

/// What a test wants to know of a distribution; the rest is the default.
#[derive(Debug, Clone)]
pub(super) struct Sketch {
    pub(super) sender: u8,
    pub(super) scope: Scope,
    pub(super) blobs: Vec<(u8, u64)>,
    pub(super) together: bool,
    pub(super) priority: Priority,
    pub(super) carry: Carry,
}

impl Default for Sketch {
    fn default() -> Self {
        let (sender, scope, carry) = (2, Scope::All, Carry::Members);
        Self { sender, scope, blobs: vec![(1, 10)], together: true, priority: Priority::Routine, carry }
    }
}

impl Sketch {
    pub(super) fn build(&self) -> Distribution {
        let file = |(index, (blob, size)): (usize, &(u8, u64))| FileEntry {
            root: "outbox".into(),
            path: index.to_string().into_bytes(),
            size: *size,
            blob: BlobHash::from_bytes([*blob; 32]),
            sha256: Sha256Digest::from_bytes([*blob; 32]),
            mode: 0o644,
            mtime: 0,
            content_type: None,
            display_name: None,
        };
        let manifest = Manifest {
            sender: peer(self.sender),
            bundle: String::new(),
            files: Files::Inline(self.blobs.iter().enumerate().map(file).collect()),
            scope: self.scope.clone(),
            priority: self.priority,
            made_at: Timestamp::from_millis(1_000_000),
            expiry: Timestamp::from_millis(500_000_000),
            carry: self.carry.clone(),
            together: self.together,
            package: None,
            removes: false,
        };
        let (id, _) = manifest.seal().expect("a valid manifest");
        let (targets, carriers) = (BTreeMap::new(), BTreeMap::new());
        Distribution { id, manifest, targets, carriers, roster: None, cancelled: None }
    }
}

pub(super) struct Fake {
    pub(super) nodes: BTreeMap<EndpointId, Node>,
    pub(super) documents: BTreeMap<DistributionId, Arc<Distribution>>,
    pub(super) blobs: BTreeSet<BlobHash>,
    pub(super) pins: BTreeMap<DistributionId, PinReason>,
    /// How often a document was asked for.
    pub(super) asked: Cell<usize>,
    pub(super) changes_left: u32,
    /// Who is not near.
    pub(super) distances: BTreeMap<EndpointId, Distance>,
    /// Who is in reach without a connection.
    pub(super) idle: BTreeSet<EndpointId>,
    /// Whose rate is known.
    pub(super) rates: BTreeMap<EndpointId, u64>,
}

impl View for Fake {
    fn me(&self) -> EndpointId {
        peer(ME)
    }
    fn nodes(&self) -> &BTreeMap<EndpointId, Node> {
        &self.nodes
    }
    fn distribution(&self, id: &DistributionId) -> Option<Arc<Distribution>> {
        self.asked.set(self.asked.get() + 1);
        self.documents.get(id).cloned()
    }
    fn listed_files(&self, _: &DistributionId) -> Option<Result<Arc<[FileEntry]>, String>> {
        None
    }
    fn holds(&self, blob: &BlobHash) -> bool {
        self.blobs.contains(blob)
    }
    fn pinned(&self, id: &DistributionId) -> Option<PinReason> {
        self.pins.get(id).copied()
    }
    fn changes_left(&self, _: &DistributionId) -> u32 {
        self.changes_left
    }
    fn clock_trusted(&self) -> bool {
        true
    }
    fn distance(&self, peer: &EndpointId) -> Distance {
        self.distances.get(peer).copied().unwrap_or_default()
    }
    fn is_connected(&self, peer: &EndpointId) -> bool {
        !self.idle.contains(peer)
    }
    fn rate(&self, peer: &EndpointId) -> Option<u64> {
        self.rates.get(peer).copied()
    }
}

/// A blob that is being fetched, by itself or with others of the same fetch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Running {
    pub(super) fetch: FetchId,
    pub(super) blob: BlobHash,
    pub(super) size: u64,
    pub(super) distribution: DistributionId,
}

pub(super) struct Bench {
    pub(super) now: Timestamp,
    pub(super) policy: Policy,
    pub(super) view: Fake,
    pub(super) memory: Memory,
    pub(super) running: Vec<Running>,
    pub(super) dialling: Vec<EndpointId>,
    pub(super) delivering: BTreeMap<DistributionId, Vec<u32>>,
    pub(super) inbox: BTreeMap<DistributionId, BTreeSet<u32>>,
    pub(super) states: BTreeMap<DistributionId, crate::model::DistributionState>,
    /// What clients of the registry have asked for.
    pub(super) asked: BTreeSet<DistributionId>,
}

impl Bench {
    /// A node among members 1 to 6.
    pub(super) fn new() -> Self {
        let node = |number: u8| Node { name: format!("node-{number}"), ..Node::default() };
        let nodes = (1..=6).map(|number| (peer(number), node(number))).collect();
        let (documents, blobs, pins) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
        let (distances, idle, rates) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
        Self {
            now: Timestamp::from_millis(2_000_000),
            policy: Policy::default(),
            view: Fake { nodes, documents, blobs, pins, asked: Cell::new(0), changes_left: 32, distances, idle, rates },
            memory: Memory::default(),
            running: Vec::new(),
            dialling: Vec::new(),
            delivering: BTreeMap::new(),
            inbox: BTreeMap::new(),
            states: BTreeMap::new(),
            asked: BTreeSet::new(),
        }
    }

    pub(super) fn add(&mut self, sketch: &Sketch) -> DistributionId {
        let document = sketch.build();
        let id = document.id;
        self.view.documents.entry(id).or_insert(Arc::new(document));
        self.settle(Event::DistributionChanged(id));
        id
    }

    pub(super) fn edit(&mut self, id: DistributionId, change: impl FnOnce(&mut Distribution)) {
        change(Arc::make_mut(self.view.documents.get_mut(&id).expect("it was added")));
        self.settle(Event::DistributionChanged(id));
    }

    pub(super) fn say(&mut self, id: DistributionId, who: u8, state: TargetState) {
        let record = TargetRecord { state, bytes: 0, error: None, time: self.now };
        self.edit(id, |document| _ = document.targets.insert(peer(who), record));
    }

    /// A client of the registry asks for blobs.
    pub(super) fn ask(&mut self, id: DistributionId, blobs: &[u8]) -> Vec<Action> {
        self.asked.insert(id);
        let blobs = blobs.iter().map(|blob| BlobHash::from_bytes([*blob; 32])).collect();
        self.settle(Event::Asked { distribution: id, blobs })
    }

    pub(super) fn raw(&mut self, event: Event) -> Vec<Action> {
        reconcile(self.now, 7, &self.policy, &self.view, &mut self.memory, event)
    }

    /// Gives an event, performs what follows, and tells of what was written, until nothing follows.
    pub(super) fn settle(&mut self, event: Event) -> Vec<Action> {
        let mut all = Vec::new();
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            for action in self.raw(event) {
                events.extend(self.perform(&action));
                all.push(action);
            }
        }
        all
    }

    pub(super) fn wait(&mut self, time: Duration) -> Vec<Action> {
        self.now = self.now.plus(time);
        self.settle(Event::Timer)
    }

    pub(super) fn fetch_ended(&mut self, running: Running, outcome: FetchOutcome) -> Vec<Action> {
        let ended = self.running.extract_if(.., |other| other.fetch == running.fetch);
        let blobs: Vec<_> = ended.map(|ended| ended.blob).collect();
        if outcome == FetchOutcome::Done {
            self.view.blobs.extend(blobs);
        }
        self.settle(Event::FetchEnded { fetch: running.fetch, outcome })
    }

    /// One blob of a fetch of several has ended.
    pub(super) fn one_ended(&mut self, running: Running, outcome: FetchOutcome) -> Vec<Action> {
        self.running.retain(|other| other.blob != running.blob);
        if outcome == FetchOutcome::Done {
            self.view.blobs.insert(running.blob);
        }
        self.settle(Event::SomeFetched { fetch: running.fetch, outcomes: vec![(running.blob, outcome)] })
    }

    pub(super) fn delivery_ended(&mut self, id: DistributionId, outcome: &FileOutcome) -> Vec<Action> {
        let files = self.delivering.remove(&id).expect("it is being delivered");
        if !matches!(outcome, FileOutcome::Failed { .. }) {
            self.inbox.entry(id).or_default().extend(&files);
        }
        let outcomes = files.into_iter().map(|index| (index, outcome.clone())).collect();
        self.settle(Event::DeliveryEnded { distribution: id, outcomes })
    }

    fn begin_fetch(
        &mut self,
        fetch: FetchId,
        blobs: &[(BlobHash, u64)],
        distribution: DistributionId,
        source: EndpointId,
        priority: Priority,
    ) {
        assert!(!self.policy.metered || priority == Priority::Critical, "fetches only what is critical on a metered link");
        let document = &self.view.documents[&distribution];
        let mine = is_target(self.view.nodes(), document, &peer(ME));
        let carried = document.manifest.carry.permits(&peer(ME)) && self.policy.carry_quota_bytes > 0;
        let sent = document.manifest.sender == peer(ME);
        assert!(mine || carried || sent, "fetches only what is meant for it, carried, or its own");
        let asked = carried && !mine && self.asked.contains(&distribution);
        assert!(asked || self.view.pins.contains_key(&distribution), "fetches only what is pinned or asked for");
        assert_ne!(source, peer(ME));
        for (blob, size) in blobs.iter().copied() {
            assert!(!self.view.blobs.contains(&blob), "fetches only what is not here");
            assert!(self.running.iter().all(|other| other.blob != blob), "fetches a blob once at a time");
            self.running.push(Running { fetch, blob, size, distribution });
        }
        let of_the_budget =
            |running: &&Running| self.memory.flights.get(running.fetch).is_some_and(|flight| flight.place == Place::Budget);
        let budgeted: Vec<_> = self.running.iter().filter(of_the_budget).collect();
        let bytes: u64 = budgeted.iter().map(|running| running.size).sum();
        let fetches: BTreeSet<_> = budgeted.iter().map(|running| running.fetch).collect();
        let budget = self.policy.budget;
        assert!(fetches.len() <= budget.fetches, "keeps to the number of fetches");
        assert!(budgeted.len() <= 1 || bytes <= budget.bytes, "keeps to the bytes in flight");
    }

    fn perform(&mut self, action: &Action) -> Option<Event> {
        match action.clone() {
            Action::Fetch { fetch, blob, size, distribution, source, priority, .. } => {
                self.begin_fetch(fetch, &[(blob, size)], distribution, source, priority);
            }
            Action::FetchSmall { fetch, blobs, distribution, source, priority, .. } => {
                assert!((2..=MAX_SMALL_BLOBS).contains(&blobs.len()) && blobs.iter().all(|(_, size)| *size <= SMALL_BYTES));
                assert!(blobs.iter().map(|(_, size)| size).sum::<u64>() <= MAX_SMALL_FETCH_BYTES);
                self.begin_fetch(fetch, &blobs, distribution, source, priority);
            }
            Action::CancelFetch { fetch } => self.running.retain(|running| running.fetch != fetch),
            Action::Dial { peer } => {
                self.dialling.push(peer);
                assert!(self.dialling.len() <= self.policy.budget.dials, "keeps to the number of dials");
            }
            Action::Deliver { distribution, files } => {
                let document = &self.view.documents[&distribution];
                assert!(is_target(self.view.nodes(), document, &peer(ME)), "delivers only what is meant for it");
                assert!(self.delivering.insert(distribution, files).is_none(), "delivers once at a time");
            }
            Action::Record { distribution, section, record } => {
                let document = Arc::make_mut(self.view.documents.get_mut(&distribution).expect("it is known"));
                if record.state == TargetState::Delivered {
                    let files = usize::try_from(document.manifest.file_count()).expect("few");
                    assert_eq!(self.inbox.get(&distribution).map_or(0, BTreeSet::len), files, "a receipt is for every file");
                }
                let map = if section == Section::Targets { &mut document.targets } else { &mut document.carriers };
                let before = map.insert(peer(ME), record.clone());
                let taken_back = before.as_ref().is_some_and(|before| before.state.is_receipt()) && !record.state.is_receipt();
                assert!(!taken_back, "a receipt stands");
                return Some(Event::DistributionChanged(distribution));
            }
            Action::WriteRoster { distribution, roster } => {
                assert!(!roster.is_empty());
                let document = Arc::make_mut(self.view.documents.get_mut(&distribution).expect("it is known"));
                assert_eq!(document.roster.replace(roster), None, "a roster is written once");
                return Some(Event::DistributionChanged(distribution));
            }
            Action::Pin { distribution, reason } => _ = self.view.pins.insert(distribution, reason),
            Action::Unpin { distribution } => _ = self.view.pins.remove(&distribution),
            Action::Notify { distribution, state } => {
                let before = self.states.insert(distribution, state);
                assert_ne!(before, Some(crate::model::DistributionState::Completed), "completed is for good");
            }
            Action::Announce { .. } | Action::ArmTimer(_) => {}
        }
        None
    }
}

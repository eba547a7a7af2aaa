//! The nodes of a fleet, what lies and travels between them, and the counting. What is the same at all nodes is kept once: an
//! envelope, and what a document reads as with some of its envelopes.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use peat_blobcore::document::{Distribution, Section};
use peat_blobcore::model::{
    BlobHash, Carry, DistributionId, EndpointId, FileEntry, Files, Labels, Manifest, Priority, Scope, Sha256Digest, TargetRecord,
    Timestamp,
};
use peat_blobcore::reconcile::{
    Action, Event, FetchId, FetchOutcome, FileOutcome, Memory, Node, PinReason, Policy, View, reconcile, targets,
};

use super::Counts;
use super::sizes::{FRAME, IN_FRAME, Sizes};
use crate::simulation::Rng;

const BEGIN: u64 = 1_795_000_000_000;
/// How long a frame takes, and how long what is to be sent over a link is gathered, in milliseconds.
const LINK: u64 = 20;
/// How long a hint takes to everybody, in milliseconds.
const GOSSIP: u64 = 200;
/// When a connection that a reconciler asked for is closed again, in milliseconds.
const CLOSE_AFTER: u64 = 10_000;
/// Chords of the ring that each node adds.
const CHORDS: usize = 3;
/// Envelopes of one frame at most.
const FRAME_ENVELOPES: usize = 1024;
const FILE_BYTES: u64 = 1 << 20;

enum Happening {
    Tell(Event),
    Frame {
        from: usize,
        envelopes: Vec<usize>,
    },
    Flush {
        to: usize,
    },
    Timer(u64),
    /// The node has told everybody that it holds this.
    Heard(DistributionId),
    Fetched(FetchId, Vec<BlobHash>),
    Dialled {
        to: usize,
    },
    Close {
        peer: usize,
    },
}

/// What an envelope says.
enum Says {
    Node,
    Manifest,
    Record(Section, TargetRecord),
    Roster(BTreeSet<EndpointId>),
}

struct Sealed {
    author: usize,
    /// The distribution that it is about; none for a node's register.
    document: Option<usize>,
    bytes: u64,
    says: Says,
}

struct Written {
    id: DistributionId,
    manifest: Manifest,
    bytes: u64,
    envelopes: Vec<usize>,
}

/// What nodes have in common.
#[derive(Default)]
struct Common {
    envelopes: Vec<Sealed>,
    documents: Vec<Written>,
    index: HashMap<DistributionId, usize>,
    /// What documents read as lately, by which of their envelopes are there.
    read: RefCell<HashMap<(usize, u64), Arc<Distribution>>>,
}

struct Member {
    id: EndpointId,
    name: String,
    labels: Labels,
    has: Vec<u64>,
    /// Of each document that it knows: which of its envelopes it has, as the sum of their fingerprints.
    documents: HashMap<usize, u64>,
    nodes: BTreeMap<EndpointId, Node>,
    blobs: BTreeSet<BlobHash>,
    pins: BTreeMap<DistributionId, PinReason>,
    written: HashMap<usize, u32>,
    memory: Memory,
    timer: u64,
    /// Its links, each with what is to go over it next.
    links: BTreeMap<usize, Vec<usize>>,
}

/// All of them.
pub(super) struct Fleet {
    now: u64,
    common: Common,
    members: Vec<Member>,
    places: HashMap<EndpointId, usize>,
    policy: Policy,
    sizes: Sizes,
    queue: BinaryHeap<Reverse<(u64, u64, usize)>>,
    happenings: HashMap<u64, Happening>,
    serial: u64,
    counts: Counts,
}

struct Seen<'a>(&'a Member, &'a Common);

impl View for Seen<'_> {
    fn me(&self) -> EndpointId {
        self.0.id
    }
    fn nodes(&self) -> &BTreeMap<EndpointId, Node> {
        &self.0.nodes
    }
    fn distribution(&self, id: &DistributionId) -> Option<Arc<Distribution>> {
        let number = *self.1.index.get(id)?;
        let state = *self.0.documents.get(&number)?;
        let written = &self.1.documents[number];
        // The first envelope is the manifest.
        if !self.0.has(written.envelopes[0]) {
            return None;
        }
        let mut read = self.1.read.borrow_mut();
        if read.len() > 100_000 {
            read.clear();
        }
        Some(Arc::clone(read.entry((number, state)).or_insert_with(|| Arc::new(self.read(written)))))
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
        32 - self.1.index.get(id).and_then(|number| self.0.written.get(number)).copied().unwrap_or(0)
    }
    fn clock_trusted(&self) -> bool {
        true
    }
}

impl Seen<'_> {
    fn read(&self, written: &Written) -> Distribution {
        let (targets, carriers) = (BTreeMap::new(), BTreeMap::new());
        let (id, manifest) = (written.id, written.manifest.clone());
        let mut read = Distribution { id, manifest, targets, carriers, roster: None, cancelled: None };
        for number in written.envelopes.iter().filter(|number| self.0.has(**number)) {
            let Sealed { author, says, .. } = &self.1.envelopes[*number];
            match says {
                Says::Record(Section::Targets, record) => _ = read.targets.insert(member_id(*author), record.clone()),
                Says::Record(Section::Carriers, record) => _ = read.carriers.insert(member_id(*author), record.clone()),
                Says::Roster(roster) => read.roster = Some(roster.clone()),
                Says::Node | Says::Manifest => {}
            }
        }
        read
    }
}

impl Member {
    fn has(&self, envelope: usize) -> bool {
        self.has.get(envelope / 64).is_some_and(|word| word >> (envelope % 64) & 1 == 1)
    }

    fn take(&mut self, envelope: usize) {
        if self.has.len() <= envelope / 64 {
            self.has.resize(envelope / 64 + 1, 0);
        }
        self.has[envelope / 64] |= 1 << (envelope % 64);
    }
}

fn member_id(number: usize) -> EndpointId {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&Rng::new(number as u64).number().to_be_bytes());
    bytes[8..16].copy_from_slice(&(number as u64).to_be_bytes());
    EndpointId::from_bytes(bytes)
}

fn manifest(sender: EndpointId, number: usize, scope: Scope, made_at: Timestamp, lifetime: Duration) -> Manifest {
    let mut hash = [0; 32];
    hash[..8].copy_from_slice(&(number as u64 + 1).to_be_bytes());
    let file = FileEntry {
        root: "outbox".to_owned(),
        path: format!("reports/{number}").into_bytes(),
        size: FILE_BYTES,
        blob: BlobHash::from_bytes(hash),
        sha256: Sha256Digest::from_bytes(hash),
        mode: 0o644,
        mtime: 0,
        content_type: None,
        display_name: None,
    };
    Manifest {
        sender,
        bundle: number.to_string(),
        files: Files::Inline(vec![file]),
        scope,
        priority: Priority::Routine,
        made_at,
        expiry: made_at.plus(lifetime),
        carry: Carry::Members,
        together: true,
        package: None,
        removes: false,
    }
}

impl Fleet {
    /// A fleet whose nodes start now, each in a group of this name.
    pub(super) fn new(count: usize, group: impl Fn(usize) -> String) -> Self {
        let member = |number| Member {
            id: member_id(number),
            name: format!("node-{number}"),
            labels: Labels::from([("group".to_owned(), group(number))]),
            has: Vec::new(),
            documents: HashMap::new(),
            nodes: BTreeMap::new(),
            blobs: BTreeSet::new(),
            pins: BTreeMap::new(),
            written: HashMap::new(),
            memory: Memory::default(),
            timer: 0,
            links: BTreeMap::new(),
        };
        let now = Timestamp::from_millis(BEGIN);
        let example = manifest(member_id(0), 0, Scope::All, now, Duration::from_secs(1));
        let mut fleet = Self {
            now: BEGIN,
            common: Common::default(),
            members: (0..count).map(member).collect(),
            places: (0..count).map(|number| (member_id(number), number)).collect(),
            policy: Policy::default(),
            sizes: Sizes::of(&example, now),
            queue: BinaryHeap::new(),
            happenings: HashMap::new(),
            serial: 0,
            counts: Counts::default(),
        };
        let mut rng = Rng::new(1);
        for node in 0..count {
            fleet.tell(node, Event::Started { distributions: Vec::new() });
            fleet.connect(node, (node + 1) % count);
            for _ in 0..CHORDS.min(count / 4) {
                fleet.connect(node, rng.index(count));
            }
        }
        (0..count).for_each(|node| fleet.say(node, None, Says::Node));
        fleet
    }

    pub(super) fn id(&self, node: usize) -> EndpointId {
        self.members[node].id
    }

    pub(super) fn envelopes(&self) -> usize {
        self.common.envelopes.len()
    }

    /// Pairs of a distribution and a target, and those whose receipt the sender has.
    pub(super) fn receipts(&self) -> (usize, usize) {
        let (mut due, mut delivered) = (0, 0);
        for written in &self.common.documents {
            let seen = Seen(&self.members[self.places[&written.manifest.sender]], &self.common);
            let read = seen.distribution(&written.id).expect("its sender has it");
            let meant = targets(&seen, &read);
            due += meant.len();
            delivered += meant.iter().filter(|id| read.targets.get(id).is_some_and(|record| record.state.is_receipt())).count();
        }
        (due, delivered)
    }

    /// What was counted since the last time, of one node on average.
    pub(super) fn take_counts(&mut self) -> Counts {
        let Counts { frames, news, repeats, sessions, hints, bytes, calls, actions, seconds } = std::mem::take(&mut self.counts);
        let each = |sum: f64| sum / self.members.len() as f64;
        Counts {
            frames: each(frames),
            news: each(news),
            repeats: each(repeats),
            sessions: each(sessions),
            hints: each(hints),
            bytes: each(bytes),
            calls: each(calls),
            actions: each(actions),
            seconds: each(seconds),
        }
    }

    pub(super) fn send(&mut self, sender: usize, number: usize, scope: Scope, lifetime: Duration) {
        let manifest = manifest(self.members[sender].id, number, scope, Timestamp::from_millis(self.now), lifetime);
        let (id, _) = manifest.seal().expect("a valid manifest");
        let Files::Inline(files) = &manifest.files else { return };
        self.members[sender].blobs.insert(files[0].blob);
        let document = self.common.documents.len();
        let bytes = self.sizes.manifest(&manifest);
        self.common.index.insert(id, document);
        self.common.documents.push(Written { id, manifest, bytes, envelopes: Vec::new() });
        self.say(sender, Some(document), Says::Manifest);
    }

    pub(super) fn run_for(&mut self, millis: u64) {
        let until = self.now + millis;
        while let Some(Reverse((at, serial, node))) = self.queue.peek().copied().filter(|Reverse((at, ..))| *at <= until) {
            self.queue.pop();
            self.now = at;
            let happening = self.happenings.remove(&serial).expect("each is planned once");
            self.happen(node, happening);
        }
        self.now = until;
    }

    fn plan(&mut self, node: usize, after: u64, happening: Happening) {
        self.serial += 1;
        self.queue.push(Reverse((self.now + after, self.serial, node)));
        self.happenings.insert(self.serial, happening);
    }

    fn happen(&mut self, node: usize, happening: Happening) {
        match happening {
            Happening::Tell(event) => self.tell(node, event),
            Happening::Frame { from, envelopes } => self.receive(node, from, &envelopes),
            Happening::Flush { to } => {
                let Some(waiting) = self.members[node].links.get_mut(&to) else { return };
                let envelopes = std::mem::take(waiting);
                for frame in envelopes.chunks(FRAME_ENVELOPES) {
                    self.plan(to, LINK, Happening::Frame { from: node, envelopes: frame.to_vec() });
                }
            }
            Happening::Timer(timer) if self.members[node].timer == timer => self.tell(node, Event::Timer),
            Happening::Timer(_) => {}
            Happening::Heard(distribution) => {
                let peer = self.members[node].id;
                for other in (0..self.members.len()).filter(|other| *other != node) {
                    self.tell(other, Event::Holding { peer, distribution });
                }
            }
            Happening::Fetched(fetch, blobs) => {
                self.members[node].blobs.extend(blobs);
                self.tell(node, Event::FetchEnded { fetch, outcome: FetchOutcome::Done });
            }
            Happening::Dialled { to } => {
                if self.connect(node, to) {
                    self.plan(node, CLOSE_AFTER, Happening::Close { peer: to });
                }
                self.tell(node, Event::DialEnded { peer: member_id(to), ok: true });
            }
            Happening::Close { peer } => {
                for (node, peer) in [(node, peer), (peer, node)] {
                    self.members[node].links.remove(&peer);
                    self.tell(node, Event::PeerDown(member_id(peer)));
                }
            }
        }
    }

    /// Whether the two were not connected before.
    fn connect(&mut self, a: usize, b: usize) -> bool {
        if a == b || self.members[a].links.contains_key(&b) {
            return false;
        }
        for (node, peer) in [(a, b), (b, a)] {
            self.members[node].links.insert(peer, Vec::new());
            self.counts.sessions += 1.0;
            self.counts.bytes += self.sizes.session as f64 / 2.0;
            self.tell(node, Event::PeerUp(member_id(peer)));
            self.plan(node, 4 * LINK, Happening::Tell(Event::Reconciled(member_id(peer))));
        }
        true
    }

    /// A node writes an envelope and passes it on, with a hint to everybody.
    fn say(&mut self, node: usize, document: Option<usize>, says: Says) {
        let bytes = match (&says, document) {
            (Says::Manifest, Some(document)) => self.common.documents[document].bytes,
            (Says::Roster(roster), _) => self.sizes.roster(roster.len()),
            (Says::Record(..), _) => self.sizes.record,
            _ => self.sizes.node,
        };
        let envelope = self.common.envelopes.len();
        self.common.envelopes.push(Sealed { author: node, document, bytes, says });
        if let Some(document) = document {
            self.common.documents[document].envelopes.push(envelope);
            *self.members[node].written.entry(document).or_default() += 1;
        }
        self.hear_all();
        let event = self.take(node, envelope);
        self.push(node, None, &[envelope]);
        self.plan(node, 0, Happening::Tell(event));
    }

    /// Everybody hears a hint.
    fn hear_all(&mut self) {
        let others = (self.members.len() - 1) as f64;
        self.counts.hints += others;
        self.counts.bytes += others * self.sizes.hint as f64;
    }

    fn push(&mut self, node: usize, except: Option<usize>, envelopes: &[usize]) {
        let mut flush = Vec::new();
        for (peer, waiting) in self.members[node].links.iter_mut().filter(|(peer, _)| Some(**peer) != except) {
            if waiting.is_empty() {
                flush.push(*peer);
            }
            waiting.extend_from_slice(envelopes);
        }
        for to in flush {
            self.plan(node, LINK, Happening::Flush { to });
        }
    }

    fn receive(&mut self, node: usize, from: usize, envelopes: &[usize]) {
        self.counts.frames += 1.0;
        self.counts.bytes += FRAME as f64;
        let (mut news, mut events) = (Vec::new(), Vec::new());
        for envelope in envelopes {
            self.counts.bytes += (self.common.envelopes[*envelope].bytes + IN_FRAME) as f64;
            if self.members[node].has(*envelope) {
                self.counts.repeats += 1.0;
                continue;
            }
            self.counts.news += 1.0;
            let event = self.take(node, *envelope);
            // A document that several of them change is told of once.
            if !events.contains(&event) {
                events.push(event);
            }
            news.push(*envelope);
        }
        if !news.is_empty() {
            self.push(node, Some(from), &news);
        }
        events.into_iter().for_each(|event| self.tell(node, event));
    }

    /// Stores an envelope, and says what it changes.
    fn take(&mut self, node: usize, envelope: usize) -> Event {
        let Sealed { author, document, .. } = self.common.envelopes[envelope];
        let about = (self.members[author].id, self.members[author].name.clone(), self.members[author].labels.clone());
        let member = &mut self.members[node];
        member.take(envelope);
        match document {
            Some(document) => {
                let state = member.documents.entry(document).or_default();
                *state = state.wrapping_add(Rng::new(envelope as u64).number());
                Event::DistributionChanged(self.common.documents[document].id)
            }
            None => {
                let (id, name, labels) = about;
                member.nodes.insert(id, Node { name, labels, ..Node::default() });
                Event::NodeChanged(id)
            }
        }
    }

    fn tell(&mut self, node: usize, event: Event) {
        let mut memory = std::mem::take(&mut self.members[node].memory);
        let begun = Instant::now();
        let seen = Seen(&self.members[node], &self.common);
        let actions = reconcile(Timestamp::from_millis(self.now), node as u64, &self.policy, &seen, &mut memory, event);
        self.counts.seconds += begun.elapsed().as_secs_f64();
        self.counts.calls += 1.0;
        self.counts.actions += actions.len() as f64;
        self.members[node].memory = memory;
        actions.into_iter().for_each(|action| self.perform(node, action));
    }

    fn perform(&mut self, node: usize, action: Action) {
        match action {
            Action::Fetch { fetch, blob, whole: false, source, .. }
                if !self.members[self.places[&source]].blobs.contains(&blob) =>
            {
                self.plan(node, 2_000, Happening::Tell(Event::FetchEnded { fetch, outcome: FetchOutcome::Missing }));
            }
            // It comes, whoever it was asked of: sources do not matter to what is counted here.
            Action::Fetch { fetch, blob, .. } => self.plan(node, 100, Happening::Fetched(fetch, vec![blob])),
            Action::FetchSmall { fetch, blobs, .. } => {
                let blobs = blobs.into_iter().map(|(blob, _)| blob).collect();
                self.plan(node, 100, Happening::Fetched(fetch, blobs));
            }
            Action::Dial { peer } => {
                let to = self.places[&peer];
                self.plan(node, 2 * LINK, Happening::Dialled { to });
            }
            Action::Deliver { distribution, files } => {
                let outcomes = files.into_iter().map(|index| (index, FileOutcome::Delivered)).collect();
                self.plan(node, 10, Happening::Tell(Event::DeliveryEnded { distribution, outcomes }));
            }
            Action::Record { distribution, section, record } => {
                let document = self.common.index[&distribution];
                self.say(node, Some(document), Says::Record(section, record));
            }
            Action::WriteRoster { distribution, roster } => {
                let document = self.common.index[&distribution];
                self.say(node, Some(document), Says::Roster(roster));
            }
            Action::Pin { distribution, reason } => _ = self.members[node].pins.insert(distribution, reason),
            Action::Unpin { distribution } => _ = self.members[node].pins.remove(&distribution),
            Action::Announce { distribution } => {
                self.hear_all();
                self.plan(node, GOSSIP, Happening::Heard(distribution));
            }
            Action::ArmTimer(at) => {
                self.serial += 1;
                let timer = self.serial;
                self.members[node].timer = timer;
                self.plan(node, at.as_millis().saturating_sub(self.now), Happening::Timer(timer));
            }
            Action::CancelFetch { .. } | Action::Notify { .. } => {}
        }
    }
}

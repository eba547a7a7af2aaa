//! The simulated network: virtual time, connections, replication and transfers, and the reconcilers that act in it.
//! Whatever a reconciler asks for that it must not ask for is a violation, noted with the time.

use std::collections::{BTreeMap, BTreeSet};

use peat_blobcore::document::Section;
use peat_blobcore::model::{BlobHash, DistributionId, DistributionState, EndpointId, TargetRecord, TargetState};
use peat_blobcore::reconcile::{
    Action, Event, FetchId, FetchOutcome, FileOutcome, Memory, Retry, View as _, is_entitled, is_target, reconcile,
};

use super::node::{Change, Entry, Key, SimNode, SimView, Value, files_of};
use super::rng::Rng;

/// Milliseconds of true time since the Unix epoch at which a simulation begins.
pub(super) const BEGIN: u64 = 1_795_000_000_000;
/// How often connected nodes look whether they know the same.
const SESSION_EVERY: (u64, u64) = (8_000, 15_000);
/// How often a node dials one of its static peers.
const DIAL_EVERY: (u64, u64) = (5_000, 20_000);
/// Fetches at once from those who may have parts.
const MAX_PARTS: usize = 4;

/// Something that happens at a time.
#[derive(Debug)]
pub(super) enum Happening {
    /// An event for a reconciler.
    Local(Event),
    /// Entries arrive over a connection.
    Entries { from: usize, epoch: u64, entries: Vec<(Key, Entry)>, session: bool },
    /// Two connected nodes compare what they know.
    Session { with: usize, epoch: u64 },
    /// A dial reaches its end.
    Dialled { to: usize },
    /// A connection is noticed to be gone.
    Lost { peer: usize },
    /// A fetch reaches its end.
    Fetched(FetchId),
    /// A delivery reaches its end.
    Written(DistributionId, Vec<u32>),
    /// An armed timer.
    Timer(u64),
    /// Time to dial a static peer.
    DialSomeone,
}

/// A fetch as the network sees it.
#[derive(Debug, Clone)]
pub(super) struct Transfer {
    blobs: Vec<(BlobHash, u64)>,
    source: usize,
    /// Whether the source is known to have them.
    whole: bool,
    epoch: u64,
    distribution: DistributionId,
}

/// All nodes and what is between them.
pub(super) struct World {
    /// True time in milliseconds.
    pub(super) now: u64,
    /// Chance.
    pub(super) rng: Rng,
    /// The nodes.
    pub(super) nodes: Vec<SimNode>,
    /// Whether things still go wrong.
    pub(super) faulty: bool,
    /// What was done against the rules.
    pub(super) violations: Vec<String>,
    /// Events that reconcilers were given.
    pub(super) events: u64,
    /// Nodes that lost a disk: others may have believed a receipt that is worth nothing now.
    pub(super) lost: BTreeSet<EndpointId>,
    index: BTreeMap<EndpointId, usize>,
    queue: BTreeMap<(u64, u64), (usize, u32, Happening)>,
    serial: u64,
    links: BTreeMap<(usize, usize), u64>,
    transfers: BTreeMap<(usize, FetchId), Transfer>,
    /// The last state that each node told of each distribution.
    pub(super) told: BTreeMap<(usize, DistributionId), DistributionState>,
}

impl World {
    /// A world of these nodes, none of which runs yet.
    #[must_use]
    pub(super) fn new(rng: Rng, nodes: Vec<SimNode>) -> Self {
        let index = nodes.iter().enumerate().map(|(index, node)| (node.id, index)).collect();
        Self {
            now: BEGIN,
            rng,
            nodes,
            faulty: true,
            violations: Vec::new(),
            events: 0,
            lost: BTreeSet::new(),
            index,
            queue: BTreeMap::new(),
            serial: 0,
            links: BTreeMap::new(),
            transfers: BTreeMap::new(),
            told: BTreeMap::new(),
        }
    }

    /// Lets time pass up to `until`, or until a rule is broken.
    pub(super) fn run_until(&mut self, until: u64) {
        while self.violations.is_empty()
            && let Some(entry) = self.queue.first_entry().filter(|entry| entry.key().0 <= until)
        {
            let ((at, _), (node, life, happening)) = entry.remove_entry();
            self.now = at;
            if self.nodes[node].alive && self.nodes[node].life == life {
                self.happen(node, happening);
            }
        }
        self.now = self.now.max(until);
    }

    /// Notes that a rule was broken.
    pub(super) fn violate(&mut self, node: usize, what: impl std::fmt::Display) {
        let name = &self.nodes[node].name;
        self.violations.push(format!("at {} ms, {name}: {what}", self.now - BEGIN));
    }

    /// Plans something for a node's present life.
    pub(super) fn plan(&mut self, node: usize, after: u64, happening: Happening) {
        self.serial += 1;
        let life = self.nodes[node].life;
        self.queue.insert((self.now + after, self.serial), (node, life, happening));
    }

    /// Starts a node: at once, or once it has heard from another where its disk is new.
    pub(super) fn start(&mut self, node: usize, disk_is_new: bool) {
        let (life, name, labels) = (self.nodes[node].life + 1, self.nodes[node].name.clone(), self.nodes[node].labels.clone());
        let it = &mut self.nodes[node];
        (it.life, it.alive, it.started, it.memory) = (life, true, false, Memory::default());
        it.delivering.clear();
        it.cancelled.clear();
        it.members.entry(it.id).or_default();
        self.plan(node, 1, Happening::DialSomeone);
        if !disk_is_new {
            self.begin(node);
        }
        self.say(node, Key::Node(self.nodes[node].id), Value::Node(name, labels));
    }

    fn begin(&mut self, node: usize) {
        self.nodes[node].started = true;
        let distributions: Vec<_> = self.nodes[node].documents.keys().copied().collect();
        let connected: Vec<_> = self.neighbours(node).collect();
        self.tell(node, Event::Started { distributions: distributions.clone() });
        for peer in connected {
            self.tell(node, Event::PeerUp(self.nodes[peer].id));
        }
        distributions.into_iter().for_each(|id| self.redeliver_what_was_lost(node, id));
    }

    /// The ledger went with the disk: what was delivered once is asked for again.
    fn redeliver_what_was_lost(&mut self, node: usize, id: DistributionId) {
        let it = &self.nodes[node];
        let Some(document) = it.documents.get(&id) else { return };
        let receipt = document.targets.get(&it.id).is_some_and(|record| record.state.is_receipt());
        let delivered = it.inbox.get(&id).map_or(0, BTreeSet::len);
        if receipt && delivered < files_of(&document.manifest).len() {
            self.tell_after(node, 30, Event::Redeliver(id));
        }
    }

    /// Stops a node, with or without a warning, and perhaps with its disk.
    pub(super) fn crash(&mut self, node: usize, gracefully: bool, with_disk: bool) {
        if gracefully {
            let actions = self.ask(node, Event::Stop);
            if actions.iter().any(|action| !matches!(action, Action::CancelFetch { .. })) {
                self.violate(node, format!("began something at its end: {actions:?}"));
            }
            let mine = self.transfers.keys().filter(|(owner, _)| *owner == node).count();
            if self.nodes[node].memory.fetches_in_flight() > 0 || actions.len() != mine {
                self.violate(node, "has fetches in flight after its end");
            }
        }
        let peers: Vec<_> = self.neighbours(node).collect();
        peers.into_iter().for_each(|peer| self.disconnect(node, peer));
        self.nodes[node].alive = false;
        self.transfers.retain(|(owner, _), _| *owner != node);
        if with_disk {
            self.lost.insert(self.nodes[node].id);
            self.nodes[node].lose_disk();
            self.told.retain(|(owner, _), _| *owner != node);
        }
    }

    /// Breaks the connections between nodes that are on different sides.
    pub(super) fn part(&mut self) {
        let apart: Vec<_> = self.links.keys().copied().filter(|(a, b)| self.nodes[*a].side != self.nodes[*b].side).collect();
        apart.into_iter().for_each(|(a, b)| self.disconnect(a, b));
    }

    /// Breaks one connection; both ends notice after a while.
    pub(super) fn disconnect(&mut self, a: usize, b: usize) {
        if self.links.remove(&(a.min(b), a.max(b))).is_some() {
            for (node, peer) in [(a, b), (b, a)] {
                let after = self.rng.within(0, 3_000);
                self.plan(node, after, Happening::Lost { peer });
            }
        }
    }

    /// Some connection, to be broken.
    pub(super) fn any_link(&mut self) -> Option<(usize, usize)> {
        let links: Vec<_> = self.links.keys().copied().collect();
        if links.is_empty() { None } else { Some(links[self.rng.index(links.len())]) }
    }

    /// A node writes into its replica and passes it on.
    pub(super) fn say(&mut self, node: usize, key: Key, value: Value) {
        let change = match key {
            Key::Node(id) | Key::Retired(id) => Change::Node(id),
            Key::Manifest(id) | Key::Target(id, _) | Key::Carrier(id, _) | Key::Roster(id) | Key::Cancel(id) => {
                Change::Distribution(id)
            }
        };
        let entry = self.nodes[node].write(key, value);
        self.push(node, None, &[entry]);
        self.changed(node, change, 0);
    }

    /// Tells a node's reconciler something after a while.
    pub(super) fn tell_after(&mut self, node: usize, after: u64, event: Event) {
        self.plan(node, after, Happening::Local(event));
    }

    fn changed(&mut self, node: usize, change: Change, after: u64) {
        let event = match change {
            Change::Distribution(id) => Event::DistributionChanged(id),
            Change::Node(id) => Event::NodeChanged(id),
        };
        self.tell_after(node, after, event);
    }

    fn neighbours(&self, node: usize) -> impl Iterator<Item = usize> + use<'_> {
        self.links.keys().filter_map(move |(a, b)| match (*a == node, *b == node) {
            (true, _) => Some(*b),
            (_, true) => Some(*a),
            _ => None,
        })
    }

    fn epoch(&self, a: usize, b: usize) -> Option<u64> {
        self.links.get(&(a.min(b), a.max(b))).copied()
    }

    fn happen(&mut self, node: usize, happening: Happening) {
        match happening {
            Happening::Local(event) => self.tell(node, event),
            Happening::Entries { from, epoch, entries, session } => {
                if self.epoch(node, from) == Some(epoch) {
                    self.receive(node, from, entries, session);
                }
            }
            Happening::Session { with, epoch } => self.session(node, with, epoch),
            Happening::Dialled { to } => self.dialled(node, to),
            Happening::Lost { peer } => {
                if self.epoch(node, peer).is_none() {
                    self.tell(node, Event::PeerDown(self.nodes[peer].id));
                }
                let broken: Vec<_> =
                    self.transfers.iter().filter(|((owner, _), transfer)| *owner == node && transfer.source == peer).collect();
                let stale = broken.into_iter().filter(|(_, transfer)| self.epoch(node, peer) != Some(transfer.epoch));
                let fetches: Vec<_> = stale.map(|((_, fetch), _)| *fetch).collect();
                for fetch in fetches {
                    self.transfers.remove(&(node, fetch));
                    self.tell(node, Event::FetchEnded { fetch, outcome: FetchOutcome::Unreachable });
                }
            }
            Happening::Fetched(fetch) => self.fetched(node, fetch),
            Happening::Written(id, files) => self.written(node, id, files),
            Happening::Timer(timer) => {
                if self.nodes[node].timer == timer {
                    self.tell(node, Event::Timer);
                }
            }
            Happening::DialSomeone => {
                let peer = (node + 1 + self.rng.index(3)) % self.nodes.len();
                if peer != node && self.epoch(node, peer).is_none() {
                    self.connect(node, peer);
                }
                let (low, high) = DIAL_EVERY;
                let after = self.rng.within(low, high);
                self.plan(node, after, Happening::DialSomeone);
            }
        }
    }

    fn receive(&mut self, node: usize, from: usize, entries: Vec<(Key, Entry)>, session: bool) {
        let mut news = Vec::new();
        let mut changes = BTreeSet::new();
        for (key, entry) in entries {
            if let Some(change) = self.nodes[node].merge(key, &entry) {
                changes.insert(change);
                news.push((key, entry));
            }
        }
        self.push(node, Some(from), &news);
        if session && !self.nodes[node].started {
            self.begin(node);
        }
        for change in changes {
            let after = self.rng.within(0, 20);
            self.changed(node, change, after);
            if let Change::Distribution(id) = change {
                self.redeliver_what_was_lost(node, id);
            }
        }
        if session {
            self.tell_after(node, 25, Event::Reconciled(self.nodes[from].id));
        }
    }

    /// Sends entries to all that are connected but one. Some get lost while things go wrong; sessions make up for it.
    fn push(&mut self, node: usize, except: Option<usize>, entries: &[(Key, Entry)]) {
        if entries.is_empty() {
            return;
        }
        let peers: Vec<_> = self.neighbours(node).filter(|peer| Some(*peer) != except).collect();
        for peer in peers {
            if self.faulty && self.rng.chance(20) {
                continue;
            }
            let epoch = self.epoch(node, peer).expect("neighbours are connected");
            let after = self.rng.within(5, 400);
            self.plan(peer, after, Happening::Entries { from: node, epoch, entries: entries.to_vec(), session: false });
        }
    }

    fn session(&mut self, node: usize, with: usize, epoch: u64) {
        if self.epoch(node, with) != Some(epoch) {
            return;
        }
        for (from, to) in [(node, with), (with, node)] {
            let mut entries = Vec::new();
            if self.nodes[from].digest != self.nodes[to].digest {
                let known = &self.nodes[to].replica;
                let news = |key: &Key, entry: &Entry| known.get(key).is_none_or(|known| known.version < entry.version);
                let replica = self.nodes[from].replica.iter();
                entries.extend(replica.filter(|(key, entry)| news(key, entry)).map(|(key, entry)| (*key, entry.clone())));
            }
            let after = self.rng.within(20, 800);
            self.plan(to, after, Happening::Entries { from, epoch, entries, session: true });
        }
        let (low, high) = SESSION_EVERY;
        let after = self.rng.within(low, high);
        self.plan(node, after, Happening::Session { with, epoch });
    }

    /// Whether a dial succeeds, and the connection if so.
    fn connect(&mut self, from: usize, to: usize) -> bool {
        let (a, b) = (&self.nodes[from], &self.nodes[to]);
        let possible = a.alive && b.alive && b.dialable && a.side == b.side && !(self.faulty && self.rng.chance(15));
        if possible && self.epoch(from, to).is_none() {
            self.serial += 1;
            let epoch = self.serial;
            self.links.insert((from.min(to), from.max(to)), epoch);
            self.plan(from, 1, Happening::Session { with: to, epoch });
            for (node, peer) in [(from, to), (to, from)] {
                self.tell_after(node, 0, Event::PeerUp(self.nodes[peer].id));
            }
        }
        possible
    }

    fn dialled(&mut self, node: usize, to: usize) {
        let ok = self.connect(node, to);
        self.tell_after(node, 0, Event::DialEnded { peer: self.nodes[to].id, ok });
    }

    fn fetched(&mut self, node: usize, fetch: FetchId) {
        let Some(transfer) = self.transfers.remove(&(node, fetch)) else { return };
        let source = &self.nodes[transfer.source];
        let document = source.documents.get(&transfer.distribution);
        let entitled = document.is_some_and(|document| is_entitled(SimView(source).nodes(), document, &self.nodes[node].id));
        let end = if self.epoch(node, transfer.source) != Some(transfer.epoch) {
            FetchOutcome::Unreachable
        } else if transfer.blobs.len() > 1 && gives_one_by_one(transfer.source) {
            FetchOutcome::OneByOne
        } else if !entitled {
            FetchOutcome::Refused
        } else {
            self.landed(node, fetch, &transfer)
        };
        self.tell(node, Event::FetchEnded { fetch, outcome: end });
    }

    /// Takes in what a source gives, and says how it ends. Of several blobs each ends by itself, until one ends all.
    fn landed(&mut self, node: usize, fetch: FetchId, transfer: &Transfer) -> FetchOutcome {
        let several = transfer.blobs.len() > 1;
        let (mut outcomes, mut end) = (Vec::new(), FetchOutcome::Done);
        for (blob, _) in &transfer.blobs {
            let source = &self.nodes[transfer.source];
            let outcome = if self.nodes[node].full {
                FetchOutcome::NoSpace
            } else if !source.blobs.contains(blob) {
                FetchOutcome::Missing
            } else if source.damaged.contains(blob) {
                FetchOutcome::Corrupt
            } else if self.faulty && self.rng.chance(5) {
                FetchOutcome::Failed
            } else {
                self.nodes[node].blobs.insert(*blob);
                self.tell_of_parts(node, transfer.distribution);
                FetchOutcome::Done
            };
            if !several || matches!(outcome, FetchOutcome::NoSpace | FetchOutcome::Failed) {
                end = outcome;
                break;
            }
            outcomes.push((*blob, outcome));
        }
        if several {
            self.tell(node, Event::SomeFetched { fetch, outcomes });
        }
        end
    }

    /// Who is connected hears now and then that a node has more of a distribution.
    fn tell_of_parts(&mut self, node: usize, distribution: DistributionId) {
        let peer = self.nodes[node].id;
        for other in 0..self.nodes.len() {
            if self.epoch(other, node).is_some() && self.rng.chance(30) {
                let after = self.rng.within(1, 5_000);
                self.tell_after(other, after, Event::Getting { peer, distribution });
            }
        }
    }

    fn written(&mut self, node: usize, id: DistributionId, files: Vec<u32>) {
        self.nodes[node].delivering.remove(&id);
        let entries = files_of(&self.nodes[node].documents[&id].manifest).to_vec();
        let fails = self.faulty && self.rng.chance(10);
        let mut outcomes = Vec::new();
        for index in files {
            let blob = entries[index as usize].blob;
            let outcome = if fails || !self.nodes[node].blobs.contains(&blob) {
                FileOutcome::Failed { error: "no".into(), retry: Retry::Later }
            } else if self.nodes[node].inbox.entry(id).or_default().insert(index) {
                FileOutcome::Delivered
            } else {
                FileOutcome::AlreadyThere
            };
            outcomes.push((index, outcome));
        }
        self.tell(node, Event::DeliveryEnded { distribution: id, outcomes });
    }

    /// Gives an event to a reconciler and performs what it asks for.
    fn tell(&mut self, node: usize, event: Event) {
        if !self.nodes[node].started {
            return;
        }
        if let Event::DistributionChanged(id) = event
            && self.nodes[node].documents.get(&id).is_some_and(|document| document.cancelled.is_some())
        {
            self.nodes[node].cancelled.insert(id);
        }
        for action in self.ask(node, event) {
            self.perform(node, action);
        }
        let (memory, budget) = (&self.nodes[node].memory, self.nodes[node].policy.budget);
        let (count, bytes) = (memory.fetches_in_flight(), memory.bytes_in_flight());
        let mine = self.transfers.range((node, FetchId(0))..=(node, FetchId(u64::MAX))).map(|(_, transfer)| transfer);
        let (whole, parts): (Vec<&Transfer>, Vec<_>) = mine.partition(|transfer| transfer.whole);
        let parts = parts.len();
        let mut mine: Vec<u64> = whole.iter().map(|transfer| transfer.blobs.iter().map(|(_, size)| size).sum()).collect();
        // One may be beside the budget, of any size.
        mine.sort_unstable();
        mine.pop();
        if parts > MAX_PARTS || mine.len() > budget.fetches || (mine.len() > 1 && mine.iter().sum::<u64>() > budget.bytes) {
            self.violate(node, format!("is over budget with {count} fetches of {bytes} bytes"));
        }
    }

    fn ask(&mut self, node: usize, event: Event) -> Vec<Action> {
        self.events += 1;
        let now = self.nodes[node].clock(self.now);
        let mut memory = std::mem::take(&mut self.nodes[node].memory);
        let it = &self.nodes[node];
        let actions = reconcile(now, node as u64, &it.policy, &SimView(it), &mut memory, event);
        self.nodes[node].memory = memory;
        actions
    }

    fn begin_fetch(
        &mut self,
        node: usize,
        fetch: FetchId,
        blobs: Vec<(BlobHash, u64)>,
        source: EndpointId,
        whole: bool,
        distribution: DistributionId,
    ) {
        blobs.iter().for_each(|(blob, _)| self.check_fetch(node, blob, &distribution));
        let source = self.index[&source];
        let epoch = self.epoch(node, source).unwrap_or_default();
        let rate = [50, 500, 5_000][(node + source) % 3];
        // Who has nothing to give says so at once.
        let given = blobs.iter().filter(|(blob, _)| self.nodes[source].blobs.contains(blob));
        let after = self.rng.within(10, 200) + given.map(|(_, size)| size / rate).sum::<u64>();
        self.transfers.insert((node, fetch), Transfer { blobs, source, whole, epoch, distribution });
        self.plan(node, after, Happening::Fetched(fetch));
    }

    fn perform(&mut self, node: usize, action: Action) {
        let me = self.nodes[node].id;
        match action {
            Action::Fetch { fetch, blob, size, source, whole, distribution, .. } => {
                self.begin_fetch(node, fetch, vec![(blob, size)], source, whole, distribution);
            }
            Action::FetchSmall { fetch, blobs, source, whole, distribution, .. } => {
                self.begin_fetch(node, fetch, blobs, source, whole, distribution);
            }
            Action::CancelFetch { fetch } => {
                self.transfers.remove(&(node, fetch));
                if self.rng.chance(50) {
                    self.tell_after(node, 1, Event::FetchEnded { fetch, outcome: FetchOutcome::Cancelled });
                }
            }
            Action::Dial { peer } => {
                let (to, after) = (self.index[&peer], self.rng.within(20, 3_000));
                self.plan(node, after, Happening::Dialled { to });
            }
            Action::Deliver { distribution, files } => {
                self.check_delivery(node, &distribution, &files);
                self.nodes[node].delivering.insert(distribution);
                let after = self.rng.within(5, 3_000);
                self.plan(node, after, Happening::Written(distribution, files));
            }
            Action::Record { distribution, section, record } => {
                self.check_record(node, &distribution, section, &record);
                *self.nodes[node].changes.entry(distribution).or_default() += 1;
                let key = match section {
                    Section::Targets => Key::Target(distribution, me),
                    Section::Carriers => Key::Carrier(distribution, me),
                };
                self.say(node, key, Value::Record(record));
            }
            Action::WriteRoster { distribution, roster } => {
                let document = &self.nodes[node].documents[&distribution];
                if document.manifest.sender != me || document.roster.is_some() || roster.is_empty() {
                    self.violate(node, "wrote a roster that is not its to write");
                }
                self.say(node, Key::Roster(distribution), Value::Roster(roster));
            }
            Action::Pin { distribution, reason } => _ = self.nodes[node].pins.insert(distribution, reason),
            Action::Unpin { distribution } => _ = self.nodes[node].pins.remove(&distribution),
            Action::Announce { distribution } => {
                let peers: Vec<_> = (0..self.nodes.len()).filter(|peer| *peer != node).collect();
                for peer in peers {
                    if self.nodes[peer].side == self.nodes[node].side && !self.rng.chance(30) {
                        let after = self.rng.within(5, 2_000);
                        self.tell_after(peer, after, Event::Holding { peer: me, distribution });
                    }
                }
            }
            Action::ArmTimer(at) => {
                self.serial += 1;
                self.nodes[node].timer = self.serial;
                let after = at.as_millis().saturating_sub(self.nodes[node].clock(self.now).as_millis());
                self.plan(node, after, Happening::Timer(self.serial));
            }
            Action::Notify { distribution, state } => {
                let before = self.told.insert((node, distribution), state);
                let document = &self.nodes[node].documents[&distribution];
                let sound = document.targets.keys().all(|target| !self.lost.contains(target));
                if sound && before == Some(DistributionState::Completed) && state != DistributionState::Completed {
                    self.violate(node, format!("{distribution:?} was completed and is {state} now"));
                }
            }
        }
    }

    fn check_fetch(&mut self, node: usize, blob: &BlobHash, id: &DistributionId) {
        let it = &self.nodes[node];
        let Some(document) = it.documents.get(id) else { return self.violate(node, "fetches for what it does not know") };
        let meant = is_target(SimView(it).nodes(), document, &it.id);
        let carried = it.policy.carry_quota_bytes > 0 && document.manifest.carry.permits(&it.id);
        let wrong = if !meant && !carried {
            Some("fetches what is neither meant for it nor carried")
        } else if !files_of(&document.manifest).iter().any(|file| file.blob == *blob) {
            Some("fetches a blob that is not of the distribution")
        } else if it.cancelled.contains(id) {
            Some("fetches what was cancelled")
        } else if it.blobs.contains(blob) {
            Some("fetches what it holds")
        } else if !it.pins.contains_key(id) {
            Some("fetches what is not pinned")
        } else {
            None
        };
        if let Some(wrong) = wrong {
            self.violate(node, wrong);
        }
    }

    fn check_delivery(&mut self, node: usize, id: &DistributionId, files: &[u32]) {
        let it = &self.nodes[node];
        let document = &it.documents[id];
        let entries = files_of(&document.manifest);
        let wrong = if !is_target(SimView(it).nodes(), document, &it.id) {
            Some("delivers what is not meant for it")
        } else if !it.policy.inbox {
            Some("delivers without an inbox")
        } else if files.iter().any(|index| !it.blobs.contains(&entries[*index as usize].blob)) {
            Some("delivers what it does not hold")
        } else if it.delivering.contains(id) {
            Some("delivers twice at a time")
        } else if document.manifest.together && entries.iter().any(|file| !it.blobs.contains(&file.blob)) {
            Some("delivers a part of what belongs together")
        } else {
            None
        };
        if let Some(wrong) = wrong {
            self.violate(node, wrong);
        }
    }

    fn check_record(&mut self, node: usize, id: &DistributionId, section: Section, record: &TargetRecord) {
        let it = &self.nodes[node];
        let document = &it.documents[id];
        let files = files_of(&document.manifest);
        let before = it.documents[id].targets.get(&it.id).filter(|_| section == Section::Targets);
        let delivered = it.inbox.get(id).map_or(0, BTreeSet::len);
        let holds = files.iter().all(|file| it.blobs.contains(&file.blob));
        let wrong = if it.changes.get(id).is_some_and(|changes| *changes >= super::node::MAX_CHANGES) {
            Some("wrote more changes than a document takes")
        } else if record.state == TargetState::Delivered && delivered < files.len() {
            Some("signed a receipt for what its inbox does not have")
        } else if record.state == TargetState::Held && !holds {
            Some("claims to hold what it does not")
        } else if before.is_some_and(|before| before.state.is_receipt() && !record.state.is_receipt()) {
            Some("took a receipt back")
        } else if before.is_some_and(|before| before.state == record.state && before.error == record.error) {
            Some("recorded what was recorded")
        } else {
            None
        };
        if let Some(wrong) = wrong {
            self.violate(node, format!("{wrong}: {record:?}"));
        }
    }
}

/// Some nodes run a version that does not know requests for several blobs.
fn gives_one_by_one(node: usize) -> bool {
    node % 4 == 3
}

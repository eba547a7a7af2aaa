//! One event of reconcile, with few and with many idle distributions known: the price must not depend on their number.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use peat_blobcore::document::Distribution;
use peat_blobcore::model::{BlobHash, DistributionId, EndpointId, FileEntry, Timestamp};
use peat_blobcore::reconcile::{Event, Memory, Node, PinReason, Policy, View, reconcile};

use crate::documents::{delivered, manifest};
use crate::table::{Row, Spread};
use crate::{Options, Outcome};

/// What one event may take, in microseconds.
const GOAL: f64 = 100.0;
/// How many distributions are few.
const FEW: usize = 10;
const NOW: Timestamp = Timestamp::from_millis(1_795_000_000_000);
const ME: EndpointId = EndpointId::from_bytes([1; 32]);
const PEER: EndpointId = EndpointId::from_bytes([2; 32]);

/// Every second distribution was sent from here and has its receipt, the others were delivered here.
struct Idle {
    nodes: BTreeMap<EndpointId, Node>,
    distributions: BTreeMap<DistributionId, Arc<Distribution>>,
}

impl Idle {
    fn new(count: usize) -> Outcome<Self> {
        let mut distributions = BTreeMap::new();
        for number in 0..count {
            let (sender, target) = if number.is_multiple_of(2) { (ME, PEER) } else { (PEER, ME) };
            let manifest = manifest(sender, target, number, NOW);
            let (id, _) = manifest.seal()?;
            let targets = BTreeMap::from([(target, delivered(NOW))]);
            let distribution = Distribution { id, manifest, targets, carriers: BTreeMap::new(), roster: None, cancelled: None };
            distributions.insert(id, Arc::new(distribution));
        }
        Ok(Self { nodes: BTreeMap::from([(ME, Node::default()), (PEER, Node::default())]), distributions })
    }
}

impl View for Idle {
    fn me(&self) -> EndpointId {
        ME
    }

    fn nodes(&self) -> &BTreeMap<EndpointId, Node> {
        &self.nodes
    }

    fn distribution(&self, id: &DistributionId) -> Option<Arc<Distribution>> {
        self.distributions.get(id).cloned()
    }

    fn listed_files(&self, _id: &DistributionId) -> Option<Result<Arc<[FileEntry]>, String>> {
        None
    }

    fn holds(&self, _blob: &BlobHash) -> bool {
        true
    }

    fn pinned(&self, id: &DistributionId) -> Option<PinReason> {
        let sent = self.distributions.get(id)?.manifest.sender == ME;
        Some(if sent { PinReason::Sent } else { PinReason::Target })
    }

    fn changes_left(&self, _id: &DistributionId) -> u32 {
        16
    }

    fn clock_trusted(&self) -> bool {
        true
    }
}

/// A reconciler that has come to rest.
struct Reconciler {
    view: Idle,
    policy: Policy,
    memory: Memory,
    now: Timestamp,
}

impl Reconciler {
    fn new(count: usize) -> Outcome<Self> {
        let (view, policy) = (Idle::new(count)?, Policy::default());
        let mut node = Self { view, policy, memory: Memory::default(), now: NOW };
        node.event(Event::PeerUp(PEER));
        node.event(Event::Reconciled(PEER));
        node.event(Event::Started { distributions: node.view.distributions.keys().copied().collect() });
        // What one call leaves over is done in the next.
        for _ in 0..count / 256 + 2 {
            node.event(Event::Timer);
        }
        Ok(node)
    }

    fn event(&mut self, event: Event) -> usize {
        self.now = self.now.plus(Duration::from_millis(1));
        reconcile(self.now, 1, &self.policy, &self.view, &mut self.memory, event).len()
    }

    /// Microseconds of an event, as the mean over many of its kind.
    fn cost(&mut self, times: usize, event: impl Fn(usize, &Idle) -> Event) -> f64 {
        let events: Vec<Event> = (0..times).map(|time| event(time, &self.view)).collect();
        let started = Instant::now();
        for event in events {
            std::hint::black_box(self.event(event));
        }
        started.elapsed().as_secs_f64() * 1e6 / times as f64
    }
}

/// Measures what an event costs, against the goal and against the same event with few distributions.
pub(crate) fn run(options: &Options) -> Outcome<Vec<Row>> {
    let (mut few, mut many) = (Reconciler::new(FEW)?, Reconciler::new(options.documents)?);
    let ids: Vec<DistributionId> = many.view.distributions.keys().copied().collect();
    let few_ids: Vec<DistributionId> = few.view.distributions.keys().copied().collect();
    let changed = |ids: &[DistributionId], time: usize| Event::DistributionChanged(ids[time * 7919 % ids.len()]);
    let comes_and_goes = |time: usize, _: &Idle| if time.is_multiple_of(2) { Event::PeerDown(PEER) } else { Event::PeerUp(PEER) };
    let mut costs = [const { Vec::new() }; 4];
    for _ in 0..options.runs {
        costs[0].push(few.cost(2000, |time, _| changed(&few_ids, time)));
        costs[1].push(many.cost(2000, |time, _| changed(&ids, time)));
        costs[2].push(few.cost(2000, comes_and_goes));
        costs[3].push(many.cost(2000, comes_and_goes));
    }
    let count = options.documents;
    let mut rows = Vec::new();
    for (what, [few, many]) in [("a document changed", [&costs[0], &costs[1]]), ("a peer came or went", [&costs[2], &costs[3]])] {
        let us = Spread::new(many.clone()).median();
        rows.push(Row {
            what: format!("{what}, {count} distributions known"),
            ours: format!("{us:.2} µs"),
            against: format!("goal: {GOAL} µs"),
            ratio: Spread::new(many.iter().map(|cost| cost / GOAL).collect()),
        });
        rows.push(Row::pairs("the same", "µs", many, &format!("{FEW} distributions known"), few));
    }
    Ok(rows)
}

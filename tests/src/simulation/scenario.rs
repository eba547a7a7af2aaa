//! What a seed makes of a simulation: which nodes there are, what they send, and what goes wrong when.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use peat_blobcore::document::Distribution;
use peat_blobcore::model::{
    BlobHash, Carry, DistributionId, EndpointId, FileEntry, Files, Manifest, NodeRef, Priority, Scope, Sha256Digest, Timestamp,
};
use peat_blobcore::reconcile::{Budget, Event, Memory, Patience, Policy};

use super::node::{Key, SimNode, Value, blobs_of};
use super::rng::Rng;
use super::world::{BEGIN, World};

/// The faults and requests of one run.
pub(super) struct Scenario {
    rng: Rng,
    sent: Vec<(usize, DistributionId)>,
    blobs: u64,
}

impl Scenario {
    /// The scenario of a seed, with its world at the beginning of time.
    #[must_use]
    pub(super) fn new(seed: u64) -> (Self, World) {
        let mut rng = Rng::new(seed);
        let count = 20 + rng.index(5);
        let nodes: Vec<_> = (0..count).map(|index| node(index, &mut rng)).collect();
        let late = nodes.len() - 3;
        let mut world = World::new(Rng::new(rng.number()), nodes);
        // The last three join while it runs.
        (0..late).for_each(|node| world.start(node, false));
        (Self { rng, sent: Vec::new(), blobs: 0 }, world)
    }

    /// Milliseconds until something is done or goes wrong.
    pub(super) fn pause(&mut self) -> u64 {
        self.rng.within(500, 16_000)
    }

    /// Does something, or lets something go wrong.
    pub(super) fn strike(&mut self, world: &mut World) {
        let node = self.rng.index(world.nodes.len());
        if !world.nodes[node].alive {
            // An empty replica is that of a new disk; one that never ran has nobody to wait for.
            let is_new = world.nodes[node].replica.is_empty() && world.nodes[node].life > 0;
            world.start(node, is_new);
            return;
        }
        match self.rng.index(20) {
            0..6 => self.send(world, node),
            6..8 => {
                let gracefully = self.rng.chance(50);
                world.crash(node, gracefully, false);
            }
            8 => {
                let gracefully = self.rng.chance(50);
                world.crash(node, gracefully, true);
            }
            9..11 => {
                let sides = self.rng.within(1, 3);
                world.nodes.iter_mut().for_each(|node| node.side = self.rng.index(usize::try_from(sides).expect("small")));
                world.part();
            }
            11..13 => {
                if let Some((a, b)) = world.any_link() {
                    world.disconnect(a, b);
                }
            }
            13 => {
                world.nodes[node].full ^= true;
                if !world.nodes[node].full {
                    world.tell_after(node, 0, Event::RoomMade);
                }
            }
            14 => {
                world.nodes[node].collect_garbage();
                for id in world.nodes[node].check() {
                    world.tell_after(node, 0, Event::Lost(id));
                }
            }
            15 => {
                let blobs: Vec<_> = world.nodes[node].blobs.iter().copied().collect();
                if !blobs.is_empty() {
                    world.nodes[node].damaged.insert(blobs[self.rng.index(blobs.len())]);
                }
            }
            16 => self.cancel(world),
            17 => {
                let retired = world.nodes[self.rng.index(world.nodes.len())].id;
                if self.rng.chance(15) {
                    world.say(node, Key::Retired(retired), Value::Retired);
                }
            }
            18 => self.set_clock(world, node),
            _ => {
                let role = ["edge", "hub"][self.rng.index(2)];
                world.nodes[node].labels.insert("role".into(), role.into());
                let (id, name, labels) = (world.nodes[node].id, world.nodes[node].name.clone(), world.nodes[node].labels.clone());
                if world.nodes[node].started {
                    world.say(node, Key::Node(id), Value::Node(name, labels));
                }
            }
        }
    }

    /// Ends all faults. What was set wrong for good (a clock, a lost disk) stays so.
    pub(super) fn heal(&mut self, world: &mut World) {
        world.faulty = false;
        for node in 0..world.nodes.len() {
            world.nodes[node].side = 0;
            world.nodes[node].full = false;
            world.nodes[node].damaged.clear();
            if !world.nodes[node].alive {
                let is_new = world.nodes[node].replica.is_empty() && world.nodes[node].life > 0;
                world.start(node, is_new);
            }
        }
    }

    /// The distributions that have to arrive: sent by a node with a plausible clock that still has them, and not ended.
    pub(super) fn expected(&self, world: &World) -> Vec<(usize, DistributionId)> {
        let sound = |(sender, id): &&(usize, DistributionId)| {
            let node = &world.nodes[*sender];
            node.documents.get(id).is_some_and(|document| {
                let manifest = &document.manifest;
                let true_now = Timestamp::from_millis(world.now);
                let made = manifest.made_at.as_millis();
                document.cancelled.is_none()
                    && manifest.expiry > true_now.plus(Duration::from_secs(3600))
                    && (BEGIN - 60_000..world.now + 60_000).contains(&made)
                    && !world.lost.contains(&node.id)
                    && blobs_of(manifest).iter().all(|blob| node.blobs.contains(blob))
            })
        };
        self.sent.iter().filter(sound).copied().collect()
    }

    /// Whether a distribution can arrive at a target at all once nothing goes wrong any more.
    pub(super) fn can_arrive(&self, world: &World, sender: usize, target: &SimNode, document: &Distribution) -> bool {
        let retired = world.nodes[sender].members.get(&target.id).is_none_or(|node| node.retired);
        let takes = target.policy.inbox
            && target.policy.accepted_senders.as_ref().is_none_or(|senders| senders.contains(&document.manifest.sender))
            && target
                .policy
                .max_file_bytes
                .is_none_or(|cap| super::node::files_of(&document.manifest).iter().all(|f| f.size <= cap));
        // A target whose disk was lost after its receipt has to come by itself: in the documents it needs nothing.
        let left = target.members.get(&document.manifest.sender).is_some_and(|node| node.retired);
        let comes = (world.nodes[sender].dialable && !left) || !world.lost.contains(&target.id);
        let direct = world.nodes[sender].dialable || target.dialable;
        comes && takes && !retired && (direct || document.manifest.carry == Carry::Members)
    }

    fn send(&mut self, world: &mut World, sender: usize) {
        if !world.nodes[sender].started || self.sent.len() >= 24 {
            return;
        }
        let made_at = world.nodes[sender].clock(world.now);
        let lifetime = if self.rng.chance(20) { self.rng.millis(30_000, 400_000) } else { Manifest::DEFAULT_LIFETIME };
        let count = if self.rng.chance(20) { self.rng.within(20, 60) } else { self.rng.within(1, 4) };
        let files: Vec<_> = (0..count).map(|index| self.file(index, count > 4)).collect();
        let some: Vec<_> = (0..self.rng.within(1, 4)).map(|_| self.rng.index(world.nodes.len())).collect();
        let scope = match self.rng.index(5) {
            0 => Scope::All,
            1 => Scope::Labels(
                ["role=edge", "role!=edge", "role in (edge,hub)", "nobody"][self.rng.index(4)].parse().expect("valid"),
            ),
            2 => Scope::Nodes(some.iter().map(|node| NodeRef::Name(world.nodes[*node].name.clone())).collect()),
            _ => Scope::Nodes(some.iter().map(|node| NodeRef::Id(world.nodes[*node].id)).collect()),
        };
        let carry = match self.rng.index(6) {
            0 => Carry::None,
            1 => Carry::Nodes(some.iter().map(|node| world.nodes[(*node + 1) % world.nodes.len()].id).collect()),
            _ => Carry::Members,
        };
        let priorities = [Priority::Bulk, Priority::Low, Priority::Routine, Priority::Priority, Priority::Critical];
        let manifest = Manifest {
            sender: world.nodes[sender].id,
            bundle: self.sent.len().to_string(),
            files: Files::Inline(files),
            scope,
            priority: priorities[self.rng.index(5)],
            made_at,
            expiry: made_at.plus(lifetime),
            carry,
            together: self.rng.chance(50),
            package: None,
            removes: false,
        };
        let (id, _) = manifest.seal().expect("a valid manifest");
        world.nodes[sender].blobs.extend(blobs_of(&manifest));
        self.sent.push((sender, id));
        world.say(sender, Key::Manifest(id), Value::Manifest(Box::new(manifest)));
    }

    fn file(&mut self, index: u64, small: bool) -> FileEntry {
        // Some content is sent again and again.
        let content = if self.rng.chance(10) { self.rng.within(0, 3) } else { 100 + self.blobs };
        self.blobs += 1;
        let size = match (content < 4, small, self.rng.index(4)) {
            (true, ..) => 5_000 * (content + 1),
            (_, true, _) => 2_000,
            (_, _, 0) => 2_000_000,
            (_, _, 1) => 200_000,
            _ => 10_000,
        };
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&Rng::new(content).number().to_be_bytes());
        FileEntry {
            root: "outbox".into(),
            path: index.to_string().into_bytes(),
            size,
            blob: BlobHash::from_bytes(bytes),
            sha256: Sha256Digest::from_bytes(bytes),
            mode: 0o644,
            mtime: 0,
            content_type: None,
            display_name: None,
        }
    }

    fn cancel(&mut self, world: &mut World) {
        if self.sent.is_empty() || !self.rng.chance(40) {
            return;
        }
        let (sender, id) = self.sent[self.rng.index(self.sent.len())];
        let node = &world.nodes[sender];
        if node.started && node.alive && node.documents.get(&id).is_some_and(|document| document.cancelled.is_none()) {
            let time = node.clock(world.now);
            world.say(sender, Key::Cancel(id), Value::Cancel(time));
        }
    }

    fn set_clock(&mut self, world: &mut World, node: usize) {
        let day = 24 * 3_600_000;
        world.nodes[node].skew = [0, 1_500, -2_500, 0, 3 * day, -400 * day][self.rng.index(6)];
        world.tell_after(node, 0, Event::PolicyChanged);
    }
}

fn node(index: usize, rng: &mut Rng) -> SimNode {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&rng.number().to_be_bytes());
    let id = EndpointId::from_bytes(bytes);
    let patience = Patience {
        backoff: Duration::from_secs(1),
        backoff_max: Duration::from_secs(60),
        corrupt: Duration::from_secs(120),
        retry: Duration::from_secs(60),
        quiet: Duration::from_secs(2),
        aging: Duration::from_secs(30),
        carry_after: Duration::from_secs(60),
        fetching_believed: Duration::from_secs(240),
    };
    let policy = Policy {
        inbox_only: false,
        deletions: true,
        accepted_senders: None,
        max_file_bytes: rng.chance(5).then_some(1_000_000),
        quota_bytes: None,
        carry_quota_bytes: if rng.chance(15) { 0 } else { 1_000_000_000 },
        inbox: !rng.chance(5),
        metered: false,
        budget: Budget { fetches: 1 + rng.index(8), bytes: 3_000_000, dials: 1 + rng.index(3) },
        patience,
    };
    SimNode {
        id,
        name: format!("node-{index}"),
        labels: BTreeMap::from([("role".into(), ["edge", "hub"][rng.index(2)].into())]),
        // Each node has one among its static peers that can be dialled.
        dialable: rng.chance(70) || index.is_multiple_of(3),
        policy,
        alive: false,
        started: false,
        life: 0,
        incarnation: 0,
        skew: if rng.chance(8) { 400 * 24 * 3_600_000 } else { 0 },
        side: 0,
        full: false,
        memory: Memory::default(),
        timer: 0,
        delivering: BTreeSet::new(),
        cancelled: BTreeSet::new(),
        replica: BTreeMap::new(),
        digest: 0,
        documents: BTreeMap::new(),
        members: BTreeMap::new(),
        blobs: BTreeSet::new(),
        damaged: BTreeSet::new(),
        pins: BTreeMap::new(),
        inbox: BTreeMap::new(),
        changes: BTreeMap::new(),
    }
}

//! Who is connected, who is to be, and how long to leave alone those that failed. Knows nothing of distributions but
//! their ids.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Patience;
use crate::model::{DistributionId, EndpointId, Timestamp};

/// All peers that matter at the moment. Peers that nobody is interested in are forgotten.
#[derive(Debug, Clone, Default)]
pub(super) struct Peers {
    all: BTreeMap<EndpointId, Peer>,
    up: BTreeSet<EndpointId>,
    /// Those to dial, by when: demanded, not connected, not being dialled.
    queue: BTreeSet<(Timestamp, EndpointId)>,
    dialling: usize,
}

#[derive(Debug, Clone, Default)]
struct Peer {
    up: bool,
    dialling: bool,
    backoff: Backoff,
    /// Whether it gives blobs one by one only, as this connection has shown.
    one_by_one: bool,
    queued: Option<Timestamp>,
    /// Distributions to look at when it comes or goes.
    interests: BTreeSet<DistributionId>,
    /// Distributions that need a connection to it.
    demands: BTreeSet<DistributionId>,
}

/// Failures in a row and the wait that follows from them.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Backoff {
    failures: u32,
    /// Not to be tried before.
    pub(super) until: Timestamp,
}

impl Backoff {
    /// One more failure: the wait doubles, and is spread over its second half.
    pub(super) fn fail(&mut self, now: Timestamp, seed: u64, patience: &Patience) {
        let doubled = patience.backoff.saturating_mul(1_u32.checked_shl(self.failures.min(31)).unwrap_or(u32::MAX));
        self.failures = self.failures.saturating_add(1);
        let whole = doubled.min(patience.backoff_max);
        let spread = mix(seed ^ now.as_millis() ^ u64::from(self.failures)) % 1024;
        let wait = whole / 2 + whole.mul_f64(spread as f64 / 2048.0);
        self.until = now.plus(wait.max(Duration::from_millis(1)));
    }

    /// Whether it has failed so often that others need not make room for the next try.
    pub(super) fn is_lasting(&self) -> bool {
        self.failures >= LASTING
    }

    /// Tried again at the latest after `longest` from now, whatever the clock did.
    pub(super) fn clamp(&mut self, now: Timestamp, longest: Duration) {
        self.until = self.until.min(now.plus(longest));
    }
}

/// Failures after which nobody hopes that the next try makes a difference.
const LASTING: u32 = 3;

/// The finaliser of splitmix64: spreads the bits of a number.
pub(crate) fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The first eight bytes of an id as a number.
pub(crate) fn number(id: &[u8; 32]) -> u64 {
    u64::from_be_bytes(id[..8].try_into().expect("eight of 32 bytes"))
}

impl Peers {
    pub(super) fn connected(&self) -> &BTreeSet<EndpointId> {
        &self.up
    }

    pub(super) fn is_up(&self, id: &EndpointId) -> bool {
        self.up.contains(id)
    }

    pub(super) fn is_dialling(&self, id: &EndpointId) -> bool {
        self.all.get(id).is_some_and(|peer| peer.dialling)
    }

    /// Until when a peer is left alone; a time that has passed when it is not.
    pub(super) fn until(&self, id: &EndpointId) -> Timestamp {
        self.all.get(id).map(|peer| peer.backoff.until).unwrap_or_default()
    }

    /// A connection exists: what failed before is forgotten. Says whether that is news.
    pub(super) fn came_up(&mut self, id: EndpointId) -> bool {
        let peer = self.all.entry(id).or_default();
        let news = !peer.up;
        if news {
            peer.up = true;
            peer.backoff = Backoff::default();
            peer.one_by_one = false;
            self.up.insert(id);
            self.settle(id);
        }
        news
    }

    pub(super) fn went_down(&mut self, id: EndpointId) -> bool {
        let news = self.up.remove(&id);
        if news {
            self.all.entry(id).or_default().up = false;
            self.settle(id);
        }
        news
    }

    pub(super) fn dial_ended(&mut self, id: EndpointId, now: Timestamp, seed: u64, patience: &Patience) {
        let Some(peer) = self.all.get_mut(&id).filter(|peer| peer.dialling) else { return };
        peer.dialling = false;
        self.dialling -= 1;
        // Also after a dial that went well: if the connection is lost before it is told, the next dial must not be at once.
        if !peer.up {
            peer.backoff.fail(now, seed ^ number(id.as_bytes()), patience);
        }
        self.settle(id);
    }

    pub(super) fn failed(&mut self, id: EndpointId, now: Timestamp, seed: u64, patience: &Patience) {
        let peer = self.all.entry(id).or_default();
        peer.backoff.fail(now, seed ^ number(id.as_bytes()), patience);
        self.settle(id);
    }

    /// It serves: what failed before is forgotten. Says whether something had.
    pub(super) fn succeeded(&mut self, id: EndpointId) -> bool {
        let before = self.all.get_mut(&id).map(|peer| std::mem::take(&mut peer.backoff));
        before.is_some_and(|backoff| backoff.failures > 0)
    }

    /// It does not know how to give several blobs at once.
    pub(super) fn gives_one_by_one(&mut self, id: &EndpointId) {
        if let Some(peer) = self.all.get_mut(id) {
            peer.one_by_one = true;
        }
    }

    /// Whether several small blobs may be asked of it at once.
    pub(super) fn gives_several(&self, id: &EndpointId) -> bool {
        self.all.get(id).is_some_and(|peer| !peer.one_by_one)
    }

    pub(super) fn interested_in(&self, id: &EndpointId) -> Vec<DistributionId> {
        self.all.get(id).map(|peer| peer.interests.iter().copied().collect()).unwrap_or_default()
    }

    pub(super) fn set_interests(&mut self, of: DistributionId, old: &BTreeSet<EndpointId>, new: &BTreeSet<EndpointId>) {
        self.differ(of, old, new, |peer| &mut peer.interests);
    }

    pub(super) fn set_demands(&mut self, of: DistributionId, old: &BTreeSet<EndpointId>, new: &BTreeSet<EndpointId>) {
        self.differ(of, old, new, |peer| &mut peer.demands);
    }

    fn differ(
        &mut self,
        of: DistributionId,
        old: &BTreeSet<EndpointId>,
        new: &BTreeSet<EndpointId>,
        set: fn(&mut Peer) -> &mut BTreeSet<DistributionId>,
    ) {
        for id in old.difference(new) {
            if let Some(peer) = self.all.get_mut(id) {
                set(peer).remove(&of);
            }
            self.settle(*id);
        }
        for id in new.difference(old) {
            set(self.all.entry(*id).or_default()).insert(of);
            self.settle(*id);
        }
    }

    /// Those to dial now, at most `budget` at a time.
    pub(super) fn dials(&mut self, now: Timestamp, budget: usize) -> Vec<EndpointId> {
        let mut due = Vec::new();
        while self.dialling < budget {
            let Some((_, id)) = self.queue.first().filter(|(at, _)| *at <= now).copied() else { break };
            self.all.entry(id).or_default().dialling = true;
            self.dialling += 1;
            self.settle(id);
            due.push(id);
        }
        due
    }

    /// When the next dial is due; `None` while the budget is used up, as the end of a dial is an event of its own.
    pub(super) fn next_dial(&self, budget: usize) -> Option<Timestamp> {
        if self.dialling >= budget { None } else { self.queue.first().map(|(at, _)| *at) }
    }

    /// No wait is longer than `longest` from now, whatever the clock did.
    pub(super) fn clamp(&mut self, now: Timestamp, longest: Duration) {
        let ids: Vec<_> = self.all.keys().copied().collect();
        for id in ids {
            self.all.entry(id).or_default().backoff.clamp(now, longest);
            self.settle(id);
        }
    }

    /// Puts a peer where it belongs after something about it changed.
    fn settle(&mut self, id: EndpointId) {
        let Some(peer) = self.all.get_mut(&id) else { return };
        if let Some(at) = peer.queued.take() {
            self.queue.remove(&(at, id));
        }
        if !peer.up && !peer.dialling && !peer.demands.is_empty() {
            peer.queued = Some(peer.backoff.until);
            self.queue.insert((peer.backoff.until, id));
        } else if !peer.up && !peer.dialling && peer.interests.is_empty() {
            self.all.remove(&id);
        }
    }
}

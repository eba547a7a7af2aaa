//! Holding for others what they cannot reach. A member carries when it may, when a target has been out of reach for a
//! while, and when not enough others do so already; what is carried is dropped when nobody needs it any more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::memory::{Seen, Work};
use super::pass::Pass;
use super::peers::{mix, number};
use super::targets::{is_target, outstanding};
use super::{PinReason, View};
use crate::document::Distribution;
use crate::model::{DistributionId, EndpointId, TargetState};

/// How many carry a distribution.
const CARRIERS: usize = 2;

impl Pass<'_> {
    /// Goes on carrying, begins to, or watches whether others need it.
    pub(super) fn watch_or_carry(&mut self, id: DistributionId, distribution: Arc<Distribution>) {
        let carries = matches!(
            self.memory.jobs.get(&id).map(|job| &job.work),
            Some(Work::Fetching(fetching)) if fetching.reason == Some(PinReason::Carry)
        );
        let said_so = distribution.carriers.get(&self.me).is_some_and(|record| holds_or_will(record.state));
        // Its pin outlives a crash: what was begun goes on without waiting again to be needed.
        let began = self.view.pinned(&id) == Some(PinReason::Carry);
        if carries || said_so || began || self.begins_to_carry(id, &distribution) {
            return self.fetch(id, distribution, Some(PinReason::Carry));
        }
        self.pin(id, None, 0);
    }

    fn begins_to_carry(&mut self, id: DistributionId, distribution: &Arc<Distribution>) -> bool {
        self.keep_job(id, distribution, || Work::Watching(BTreeMap::new()), |work| matches!(work, Work::Watching(_)));
        let needing = outstanding(self.view, distribution);
        let mut interests = self.sources(id, distribution);
        let reaches_holder = interests.iter().any(|source| self.memory.peers.is_up(source));
        interests.extend(&needing);
        self.interest(id, interests);

        let (now, patience) = (self.now, self.policy.patience);
        let Some(Work::Watching(seen)) = self.memory.jobs.get_mut(&id).map(|job| &mut job.work) else { return false };
        seen.retain(|target, _| needing.contains(target));
        let mut due = Vec::new();
        for target in needing {
            let record = distribution.targets.get(&target);
            let state = record.map(|record| record.state);
            let seen = seen.entry(target).or_insert(Seen { state, since: now });
            if seen.state != state {
                *seen = Seen { state, since: now };
            }
            // One that has every byte, or says why it takes none, is not helped by a carrier.
            let helpless = state == Some(TargetState::Held) || record.is_some_and(|record| record.error.is_some());
            if helpless {
                continue;
            }
            let up = self.memory.peers.is_up(&target);
            match state {
                Some(TargetState::Fetching) if up => {}
                Some(TargetState::Fetching) => due.push((seen.since.plus(patience.fetching_believed), up)),
                _ => due.push((seen.since.plus(patience.carry_after), up)),
            }
        }
        let waited = due.iter().filter(|(at, _)| *at <= now).map(|(at, _)| now.since(*at)).max();
        let direct = due.iter().any(|(at, up)| *at <= now && *up);
        // Each further wait lets two more volunteer: the first ones may have no room or no holder in reach.
        let rounds = waited.map(|waited| waited.as_millis() / patience.carry_after.as_millis().max(1) + 1);
        if let Some(rounds) = rounds
            && reaches_holder
            && (direct || self.is_elected(id, distribution, usize::try_from(rounds).unwrap_or(usize::MAX)))
        {
            return true;
        }
        // The longer it has waited, the less often it is looked at.
        let again = waited.map(|waited| now.plus(patience.carry_after.max(waited / 4)));
        let first = due.iter().map(|(at, _)| *at).filter(|at| *at > now).min();
        let expiry = self.expiry(distribution);
        self.wake_at(id, [again, first, expiry].into_iter().flatten().min());
        false
    }

    /// Whether this node is among those that the others leave it to. Those that this node is connected to come to the same
    /// order by themselves.
    fn is_elected(&self, id: DistributionId, distribution: &Distribution, rounds: usize) -> bool {
        let gone = |peer: &EndpointId| self.view.nodes().get(peer).is_some_and(|node| node.retired || node.revoked);
        let others: BTreeSet<_> = distribution
            .carriers
            .iter()
            .filter(|(carrier, record)| **carrier != self.me && holds_or_will(record.state) && !gone(carrier))
            .map(|(carrier, _)| *carrier)
            .collect();
        if others.len() >= CARRIERS {
            return false;
        }
        let before = |peer: &&EndpointId| {
            rank(id, peer) > rank(id, &self.me)
                && !others.contains(*peer)
                && !gone(peer)
                && may_carry(self.view, distribution, peer)
        };
        let better = self.memory.peers.connected().iter().filter(before).count();
        better < (CARRIERS - others.len()).saturating_add(CARRIERS.saturating_mul(rounds - 1))
    }
}

fn holds_or_will(state: TargetState) -> bool {
    matches!(state, TargetState::Fetching | TargetState::Held)
}

fn may_carry(view: &dyn View, distribution: &Distribution, peer: &EndpointId) -> bool {
    *peer != distribution.manifest.sender
        && distribution.manifest.carry.permits(peer)
        && !is_target(view.nodes(), distribution, peer)
}

/// Rendezvous hashing (Thaler and Ravishankar, 1998): each distribution has an order of its own among the members.
fn rank(id: DistributionId, peer: &EndpointId) -> (u64, EndpointId) {
    (mix(number(id.as_bytes()) ^ mix(number(peer.as_bytes()))), *peer)
}

//! One call of reconcile: what an event touches is marked, what is marked is looked at, and what the budget allows is begun.

use std::collections::BTreeSet;

use super::decide::{Settled, Verdict, decide};
use super::memory::{Job, Known, Memory, Work};
use super::targets::{outstanding, roster_to_write, status};
use super::{Action, Event, PinReason, Policy, View};
use crate::document::Distribution;
use crate::document::Section;
use crate::model::{DistributionId, DistributionState, EndpointId, Files, MAX_ERROR_BYTES, TargetRecord, TargetState, Timestamp};
use std::cmp::Reverse;
use std::sync::Arc;

/// Distributions looked at in one call. The rest follow in the next, so that no call holds the driver up for long.
const MAX_LOOKS: usize = 1024;
/// Hints kept for one distribution.
const MAX_HINTS: usize = 16;

pub(super) struct Pass<'a> {
    pub(super) now: Timestamp,
    pub(super) seed: u64,
    pub(super) policy: &'a Policy,
    pub(super) view: &'a dyn View,
    pub(super) me: EndpointId,
    pub(super) memory: &'a mut Memory,
    pub(super) actions: Vec<Action>,
    /// Records of these were written in this pass: the view does not show them yet.
    pub(super) written: BTreeSet<DistributionId>,
    /// Jobs whose turn it is to ask who may have parts.
    pub(super) turns: BTreeSet<DistributionId>,
}

impl Pass<'_> {
    pub(super) fn run(mut self, event: Event) -> Vec<Action> {
        if self.memory.stopped {
            return self.actions;
        }
        self.notice_clock();
        self.take(event);
        if self.memory.stopped {
            return self.actions;
        }
        while let Some((_, id)) = self.memory.timers.first().filter(|(at, _)| *at <= self.now).copied() {
            self.wake_at(id, None);
            self.memory.dirty.insert(id);
        }
        for _ in 0..MAX_LOOKS {
            let Some(id) = self.memory.dirty.pop_first() else { break };
            self.look_at(id);
        }
        self.heed_meter();
        // Nothing is begun before everything was looked at: something more urgent may be among the rest.
        if self.memory.dirty.is_empty() {
            self.begin_fetches();
        }
        for peer in self.memory.peers.dials(self.now, self.policy.budget.dials) {
            self.actions.push(Action::Dial { peer });
        }
        self.arm();
        self.actions
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Started { distributions } => {
                for id in distributions {
                    self.memory.known.entry(id).or_default();
                    self.memory.dirty.insert(id);
                }
            }
            Event::DistributionChanged(id) => {
                self.memory.known.entry(id).or_default();
                self.memory.dirty.insert(id);
            }
            Event::NodeChanged(id) if id == self.me => self.mark_all(),
            Event::NodeChanged(_) => self.mark_open(),
            Event::PeerUp(peer) => self.peer_up(peer),
            Event::PeerDown(peer) => {
                if self.memory.peers.went_down(peer) {
                    self.memory.seeking.forget(&peer);
                    self.rouse_interested(&peer);
                }
            }
            Event::Reconciled(peer) => {
                self.ask_again(&peer);
                self.seek_parts(&peer, false);
                if !std::mem::replace(&mut self.memory.reconciled, true) {
                    self.memory.dirty.extend(self.memory.jobs.keys());
                }
            }
            Event::Holding { peer, distribution } => self.hint(peer, distribution),
            Event::Getting { peer, distribution } => self.getting(distribution, &peer),
            Event::PartCame(fetch) => self.part_came(fetch),
            Event::Offered(id) => self.offered(id),
            Event::Asked { distribution, blobs } => self.asked(distribution, blobs),
            Event::BlobHeld(blob) => self.blobs_held([blob]),
            Event::Lost(id) => {
                self.do_again(id);
                // A job that had them all goes on.
                self.look_for_blobs(id);
            }
            Event::FetchEnded { fetch, outcome } => self.fetch_ended(fetch, outcome),
            Event::SomeFetched { fetch, outcomes } => self.some_fetched(fetch, outcomes),
            Event::SourceFailed { distribution, blob, source, outcome } => {
                // Of a blob that nobody misses any more nothing is remembered.
                if self.memory.wanted.contains_key(&blob) {
                    self.blame(distribution, &[blob], source, outcome);
                }
            }
            Event::DeliveryEnded { distribution, outcomes } => self.delivery_ended(distribution, outcomes),
            Event::DialEnded { peer, .. } => self.memory.peers.dial_ended(peer, self.now, self.seed, &self.policy.patience),
            Event::RoomMade => self.end_rests(),
            Event::PolicyChanged => self.mark_all(),
            Event::Redeliver(id) => self.do_again(id),
            Event::Timer => self.memory.armed = None,
            Event::Stop => {
                self.memory.stopped = true;
                for fetch in self.memory.flights.ids() {
                    self.memory.flights.end(fetch);
                    self.actions.push(Action::CancelFetch { fetch });
                }
            }
        }
    }

    pub(super) fn do_again(&mut self, id: DistributionId) {
        if let Some(known) = self.memory.known.get_mut(&id) {
            known.again = true;
            self.memory.dirty.insert(id);
        }
    }

    /// Who is meant may have changed, and with it the state of all that is not completed for good.
    fn mark_open(&mut self) {
        self.memory.dirty.extend(&self.memory.open);
    }

    fn mark_all(&mut self) {
        self.memory.dirty.extend(self.memory.known.keys());
    }

    /// A clock that went back must not make anything wait for the time that it showed before.
    fn notice_clock(&mut self) {
        let before = std::mem::replace(&mut self.memory.latest, self.now);
        if self.now >= before {
            return;
        }
        self.memory.armed = None;
        let longest = self.policy.patience.backoff_max;
        self.memory.peers.clamp(self.now, longest);
        self.memory.aging.clock_went_back(self.now);
        self.memory.flights.clock_went_back(self.now);
        self.memory.seeking.clock_went_back(self.now);
        for avoid in self.memory.avoid.values_mut() {
            avoid.backoff.clamp(self.now, self.policy.patience.corrupt.max(longest));
        }
        for job in self.memory.jobs.values_mut() {
            match &mut job.work {
                Work::Sending => {}
                Work::Watching(seen) => seen.values_mut().for_each(|seen| seen.since = seen.since.min(self.now)),
                Work::Fetching(fetching) => fetching.clock_went_back(self.now, &self.policy.patience),
            }
        }
        self.memory.dirty.extend(self.memory.timers.iter().map(|(_, id)| *id));
    }

    fn peer_up(&mut self, peer: EndpointId) {
        if self.memory.peers.came_up(peer) {
            for id in self.memory.peers.interested_in(&peer) {
                self.forgive(id, &peer);
            }
            self.rouse_interested(&peer);
            self.seek_parts(&peer, true);
        }
    }

    fn rouse_interested(&mut self, peer: &EndpointId) {
        for id in self.memory.peers.interested_in(peer) {
            match self.memory.jobs.get(&id) {
                Some(Job { work: Work::Fetching(_), rank, .. }) => _ = self.memory.ready.insert(*rank),
                Some(_) => _ = self.memory.dirty.insert(id),
                None => {}
            }
        }
    }

    fn offered(&mut self, id: DistributionId) {
        self.look_at(id);
        if let Some(Job { work: Work::Watching(_), distribution, .. }) = self.memory.jobs.get(&id) {
            // Others may carry it too: they do not have it yet, and this node is given it.
            self.fetch(id, Arc::clone(distribution), Some(PinReason::Carry));
        }
        if self.admit(id) {
            self.deliver(id);
            self.tend(id);
        }
    }

    fn hint(&mut self, peer: EndpointId, id: DistributionId) {
        if let Some(job) = self.memory.jobs.get_mut(&id)
            && peer != self.me
            && job.hints.len() < MAX_HINTS
            && job.hints.insert(peer)
        {
            self.memory.dirty.insert(id);
        }
    }

    /// Brings what is done about a distribution in line with what it is to this node.
    fn look_at(&mut self, id: DistributionId) {
        let Some(distribution) = self.view.distribution(&id) else {
            if self.view.is_unreadable(&id) {
                return self.wake_at(id, Some(self.now.plus(self.policy.patience.retry)));
            }
            self.drop_job(id);
            self.pin(id, None, 0);
            self.wake_at(id, None);
            self.memory.known.remove(&id);
            self.memory.open.remove(&id);
            return;
        };
        let state = status(self.now, self.view, &distribution);
        self.notify(id, state);
        let again = self.memory.known.get(&id).is_some_and(|known| known.again);
        let verdict = decide(self.now, self.policy, self.view, &distribution, again);
        if verdict != Verdict::Take && self.is_delivering(id) {
            // What is being written is waited for: it decides whether there is a receipt.
            return self.halt(id);
        }
        let total = distribution.manifest.total_bytes();
        let not_meant = matches!(verdict, Verdict::ForOthers | Verdict::Settled(Settled::NotMeant));
        if not_meant && self.fetch_asked(id, &distribution, verdict == Verdict::ForOthers) {
            return;
        }
        match verdict {
            Verdict::Sent => self.send(id, distribution),
            Verdict::Take => self.fetch(id, distribution, Some(PinReason::Target)),
            Verdict::ForOthers => self.watch_or_carry(id, distribution),
            Verdict::Refused(refusal) => {
                self.settle(id, None, 0);
                let error = Some(cut(refusal.to_string()));
                self.record_once(&distribution, TargetState::Refused, error);
                self.wake_at(id, self.expiry(&distribution));
            }
            Verdict::TooEarly(until) => {
                self.settle(id, None, 0);
                self.record_once(&distribution, TargetState::Pending, Some("made in the future: check the clocks".into()));
                self.wake_at(id, Some(until));
            }
            Verdict::Settled(settled) => {
                let in_inbox = |state: TargetState| state.is_receipt() && distribution.manifest.package.is_none();
                let keep = matches!(settled, Settled::Recorded(state) if !(self.policy.inbox_only && in_inbox(state)))
                    && state != DistributionState::Completed
                    && distribution.cancelled.is_none()
                    && self.expiry(&distribution).is_none_or(|expiry| expiry > self.now);
                self.settle(id, keep.then_some(PinReason::Target), total);
                let begun = distribution.targets.get(&self.me).is_some_and(|record| !record.state.is_terminal());
                let awaited = distribution.roster.as_ref().is_some_and(|roster| roster.contains(&self.me))
                    && !distribution.targets.contains_key(&self.me);
                if settled == Settled::Cancelled && (begun || awaited) {
                    self.record_once(&distribution, TargetState::Cancelled, None);
                }
                let watched = keep || !matches!(state, DistributionState::Completed | DistributionState::NoTargets);
                let expiry = self.expiry(&distribution).filter(|expiry| watched && *expiry > self.now);
                self.wake_at(id, expiry);
            }
        }
    }

    /// What this node sent: kept, told to those who are meant, and closed by a roster.
    fn send(&mut self, id: DistributionId, distribution: Arc<Distribution>) {
        // What it sent is its own, and under nobody's quota; what is in the registry is kept there.
        let manifest = &distribution.manifest;
        let in_registry = manifest.package.is_some() && matches!(manifest.files, Files::Inline(_));
        self.pin(id, (!in_registry).then_some(PinReason::Sent), 0);
        if self.memory.reconciled
            && let Some(roster) = roster_to_write(self.view, &distribution)
        {
            self.actions.push(Action::WriteRoster { distribution: id, roster });
        }
        if self.memory.known.get(&id).is_some_and(|known| known.again) {
            return self.fetch(id, distribution, Some(PinReason::Sent));
        }
        let open = distribution.roster.is_none();
        let demands = self.to_reach(&distribution);
        if demands.is_empty() && !open {
            self.drop_job(id);
        } else {
            self.keep_job(id, &distribution, || Work::Sending, |work| matches!(work, Work::Sending));
            self.demand(id, demands);
        }
        let expiry = self.expiry(&distribution);
        self.wake_at(id, expiry);
    }

    /// The targets that a holder for others seeks a connection to: either side dialling is enough.
    pub(super) fn to_reach(&self, distribution: &Distribution) -> BTreeSet<EndpointId> {
        let mut targets = outstanding(self.view, distribution);
        targets.retain(|id| distribution.targets.get(id).is_none_or(|record| record.state != TargetState::Held));
        targets.remove(&self.me);
        targets
    }

    /// Makes sure that there is a job for this work and that it knows the document as it is now.
    pub(super) fn keep_job(
        &mut self,
        id: DistributionId,
        distribution: &Arc<Distribution>,
        make: impl FnOnce() -> Work,
        fits: impl Fn(&Work) -> bool,
    ) {
        let mut hints = BTreeSet::new();
        if let Some(job) = self.memory.jobs.get_mut(&id).filter(|job| !fits(&job.work)) {
            hints = std::mem::take(&mut job.hints);
            self.drop_job(id);
        }
        if let Some(job) = self.memory.jobs.get_mut(&id) {
            job.distribution = Arc::clone(distribution);
            return;
        }
        let rank = (Reverse(distribution.manifest.priority), distribution.manifest.made_at, id);
        let job = Job {
            rank,
            distribution: Arc::clone(distribution),
            work: make(),
            hints,
            interests: BTreeSet::new(),
            demands: BTreeSet::new(),
        };
        self.memory.jobs.insert(id, job);
    }

    pub(super) fn drop_job(&mut self, id: DistributionId) {
        let Some(job) = self.memory.jobs.remove(&id) else { return };
        self.memory.ready.remove(&job.rank);
        self.memory.seeking.leave(&id);
        self.memory.over_quota.remove(&id);
        self.memory.peers.set_interests(id, &job.interests, &BTreeSet::new());
        self.memory.peers.set_demands(id, &job.demands, &BTreeSet::new());
        if let Work::Fetching(fetching) = job.work {
            for blob in fetching.missing.keys() {
                self.no_longer_wanted(id, blob);
            }
        }
    }

    /// There is nothing to do here now, and blobs are kept for this reason.
    fn settle(&mut self, id: DistributionId, pin: Option<PinReason>, bytes: u64) {
        self.drop_job(id);
        self.pin(id, pin, bytes);
    }

    pub(super) fn interest(&mut self, id: DistributionId, new: BTreeSet<EndpointId>) {
        if let Some(job) = self.memory.jobs.get_mut(&id) {
            self.memory.peers.set_interests(id, &job.interests, &new);
            job.interests = new;
        }
    }

    pub(super) fn demand(&mut self, id: DistributionId, mut new: BTreeSet<EndpointId>) {
        new.retain(|peer| !self.view.nodes().get(peer).is_some_and(|node| node.retired || node.revoked));
        if let Some(job) = self.memory.jobs.get_mut(&id) {
            self.memory.peers.set_demands(id, &job.demands, &new);
            job.demands = new;
        }
    }

    /// Has blobs kept for a reason, counted against the quota of that reason, or for none.
    pub(super) fn pin(&mut self, id: DistributionId, reason: Option<PinReason>, bytes: u64) {
        let account = reason.map(|reason| (reason, bytes));
        let known = self.memory.known.entry(id).or_default();
        let before = std::mem::replace(&mut known.account, account);
        if before != account {
            if let Some((reason, bytes)) = before {
                let sum = self.memory.accounts.entry(reason).or_default();
                *sum = sum.saturating_sub(bytes);
                // What was given back may be enough for those that wait for it.
                for waiting in std::mem::take(&mut self.memory.over_quota) {
                    self.memory.ready.extend(self.memory.jobs.get(&waiting).map(|job| job.rank));
                }
            }
            if let Some((reason, bytes)) = account {
                let sum = self.memory.accounts.entry(reason).or_default();
                *sum = sum.saturating_add(bytes);
            }
        }
        match (self.view.pinned(&id), reason) {
            (before, after) if before == after => {}
            (_, Some(reason)) => self.actions.push(Action::Pin { distribution: id, reason }),
            (_, None) => self.actions.push(Action::Unpin { distribution: id }),
        }
    }

    fn notify(&mut self, id: DistributionId, state: DistributionState) {
        let known: &mut Known = self.memory.known.entry(id).or_default();
        if known.state.replace(state) != Some(state) {
            match state {
                DistributionState::Completed => _ = self.memory.open.remove(&id),
                _ => _ = self.memory.open.insert(id),
            }
            self.actions.push(Action::Notify { distribution: id, state });
        }
    }

    /// Writes a record of this node as a target, unless the document says the same already.
    fn record_once(&mut self, distribution: &Distribution, state: TargetState, error: Option<String>) {
        let recorded = distribution.targets.get(&self.me);
        if recorded.is_none_or(|record| !record.state.is_receipt() && (record.state != state || record.error != error)) {
            let record = TargetRecord { state, bytes: 0, error, time: self.now };
            self.actions.push(Action::Record { distribution: distribution.id, section: Section::Targets, record });
        }
    }

    /// When a distribution ends, if the clock can be trusted with it.
    pub(super) fn expiry(&self, distribution: &Distribution) -> Option<Timestamp> {
        self.view.clock_trusted().then_some(distribution.manifest.expiry)
    }

    /// Looks at a distribution again at this time, or not before something happens.
    pub(super) fn wake_at(&mut self, id: DistributionId, at: Option<Timestamp>) {
        let known = self.memory.known.entry(id).or_default();
        if known.wake == at {
            return;
        }
        if let Some(before) = std::mem::replace(&mut known.wake, at) {
            self.memory.timers.remove(&(before, id));
        }
        self.memory.timers.extend(at.map(|at| (at, id)));
    }

    fn arm(&mut self) {
        let at = if self.memory.dirty.is_empty() {
            let dial = self.memory.peers.next_dial(self.policy.budget.dials);
            self.memory
                .timers
                .first()
                .map(|(at, _)| *at)
                .into_iter()
                .chain(dial)
                .chain(self.aging_due())
                .chain(self.turns_due())
                .min()
        } else {
            Some(self.now)
        };
        if let Some(at) = at.filter(|at| self.memory.armed != Some(*at)) {
            self.memory.armed = Some(at);
            self.actions.push(Action::ArmTimer(at));
        }
    }
}

/// Cuts an error to what a record may hold.
pub(super) fn cut(mut error: String) -> String {
    let mut end = MAX_ERROR_BYTES.min(error.len());
    while !error.is_char_boundary(end) {
        end -= 1;
    }
    error.truncate(end);
    error
}

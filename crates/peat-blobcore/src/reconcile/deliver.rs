//! From whole blobs to files in the inbox, and what is written into the document on the way. Writes a receipt only after
//! the delivery of every file has ended well.

use super::memory::{Fetching, Work};
use super::pass::{Pass, cut};
use super::targets::outstanding;
use super::{Action, FileOutcome, PinReason, Policy, Retry};
use crate::document::Section;
use crate::model::{DistributionId, Manifest, Priority, TargetRecord, TargetState, Timestamp};

/// Changes of a document that are kept for records that end something.
const RESERVED_CHANGES: u32 = 8;

/// Whether this node has where to put what is meant for it: files into an inbox, packages into its registry.
pub(super) fn has_place(policy: &Policy, manifest: &Manifest) -> bool {
    policy.inbox || manifest.package.is_some()
}

/// Whether nothing of it is delivered before everything is here. Of a package nothing may show before.
fn comes_together(manifest: &Manifest) -> bool {
    manifest.together || manifest.package.is_some()
}

impl Pass<'_> {
    pub(super) fn is_delivering(&self, id: DistributionId) -> bool {
        self.memory
            .jobs
            .get(&id)
            .is_some_and(|job| matches!(&job.work, Work::Fetching(fetching) if !fetching.delivery.under_way.is_empty()))
    }

    /// Begins a delivery of what is here: of all files or, where they come one by one, of those that can be written.
    pub(super) fn deliver(&mut self, id: DistributionId) {
        let Some(job) = self.memory.jobs.get_mut(&id) else { return };
        let Work::Fetching(fetching) = &mut job.work else { return };
        let possible = fetching.reason == Some(PinReason::Target)
            && has_place(self.policy, &job.distribution.manifest)
            && fetching.admitted
            && fetching.files.is_some()
            && (fetching.is_whole() || !comes_together(&job.distribution.manifest));
        let delivery = &mut fetching.delivery;
        if possible && delivery.under_way.is_empty() && !delivery.ready.is_empty() {
            delivery.under_way = std::mem::take(&mut delivery.ready);
            let files = delivery.under_way.iter().copied().collect();
            self.actions.push(Action::Deliver { distribution: id, files });
        }
    }

    /// Tries again what an inbox could not take before, if its time has come.
    pub(super) fn retry_delivery(&mut self, id: DistributionId) {
        let Some(job) = self.memory.jobs.get_mut(&id) else { return };
        let Work::Fetching(fetching) = &mut job.work else { return };
        if fetching.delivery.retry_at.is_some_and(|at| at <= self.now) {
            (fetching.delivery.retry_at, fetching.delivery.for_room) = (None, false);
            fetching.delivery.postponed.clear();
            self.look_for_blobs(id);
        }
    }

    /// There is room: what rests for want of it need not wait for its time.
    pub(super) fn end_rests(&mut self) {
        for (id, job) in &mut self.memory.jobs {
            if let Work::Fetching(fetching) = &mut job.work
                && fetching.end_rest(self.now)
            {
                self.memory.dirty.insert(*id);
            }
        }
    }

    pub(super) fn delivery_ended(&mut self, id: DistributionId, outcomes: Vec<(u32, FileOutcome)>) {
        let Some(job) = self.memory.jobs.get_mut(&id) else { return };
        let Work::Fetching(fetching) = &mut job.work else { return };
        let delivery = &mut fetching.delivery;
        if delivery.under_way.is_empty() {
            return;
        }
        let mut again = None;
        for (index, outcome) in outcomes {
            if !delivery.under_way.remove(&index) {
                continue;
            }
            match outcome {
                FileOutcome::Delivered | FileOutcome::AlreadyThere | FileOutcome::Removed => _ = delivery.done.insert(index),
                FileOutcome::Kept => {
                    delivery.kept += 1;
                    delivery.done.insert(index);
                }
                FileOutcome::Superseded => {
                    delivery.superseded += 1;
                    delivery.done.insert(index);
                }
                FileOutcome::Failed { error, retry: Retry::Never } => _ = delivery.failed.insert(index, error),
                FileOutcome::Failed { error, retry } => {
                    delivery.postponed.insert(index);
                    delivery.for_room |= retry == Retry::WithRoom;
                    again = again.or(Some(error));
                }
            }
        }
        if !delivery.under_way.is_empty() {
            delivery.postponed.append(&mut delivery.under_way);
            again = again.or_else(|| Some("the delivery ended without a word about some files".into()));
        }
        if delivery.postponed.is_empty() {
            (delivery.retry_at, delivery.for_room, delivery.error) = (None, false, None);
        } else {
            // What was postponed first sets the time: files that come and fail one after the other put nothing off.
            delivery.retry_at = delivery.retry_at.or(Some(self.now.plus(self.policy.patience.retry)));
            delivery.error = again.map(cut).or_else(|| delivery.error.take());
        }
        let count = fetching.files.as_ref().map_or(0, |files| files.entries().len());
        if delivery.done.len() + delivery.failed.len() < count {
            self.memory.dirty.insert(id);
            return;
        }
        let (state, error) = match delivery.failed.values().next() {
            Some(error) => (TargetState::Failed, Some(cut(format!("{} of {count} files: {error}", delivery.failed.len())))),
            None if delivery.superseded == count => (TargetState::Superseded, None),
            None if delivery.kept > 0 => (TargetState::Delivered, Some(kept(delivery.kept, count))),
            None => (TargetState::Delivered, None),
        };
        let said = self.record(id, state, error);
        self.finish(id, said);
    }

    /// The record is written, and the next event finds it in the view: nothing is left to be done before that. No such event
    /// comes when the document said it before.
    fn finish(&mut self, id: DistributionId, said: bool) {
        let expiry = self.memory.jobs.get(&id).and_then(|job| self.expiry(&job.distribution));
        if let Some(known) = self.memory.known.get_mut(&id) {
            known.again = false;
        }
        self.drop_job(id);
        if said {
            self.memory.dirty.insert(id);
        } else {
            self.memory.dirty.remove(&id);
        }
        self.wake_at(id, expiry.filter(|at| *at > self.now));
    }

    /// What follows from the state of a fetching job: its record, whom it needs a connection to, when to look again.
    pub(super) fn tend(&mut self, id: DistributionId) {
        let Some(job) = self.memory.jobs.get_mut(&id) else { return };
        let Work::Fetching(fetching) = &mut job.work else { return };
        if fetching.halted {
            return;
        }
        let distribution = job.distribution.clone();
        let whole = fetching.is_whole();
        let doubtful = self.memory.flights.doubtful().filter(|blob| fetching.missing.contains_key(*blob)).count();
        let flying = fetching.missing.len() > fetching.todo.len() + fetching.stuck.len() + doubtful;
        let connected = !self.memory.peers.connected().is_disjoint(&job.interests);
        // Nobody is dialled for what would not be fetched.
        let metered = self.policy.metered && distribution.manifest.priority < Priority::Critical;
        let rests = metered || !fetching.admitted && self.memory.over_quota.contains(&id) || fetching.no_space.is_some();
        let starved = !whole
            && !flying
            && !rests
            && (!connected || (fetching.todo.is_empty() && (!fetching.stuck.is_empty() || doubtful > 0)));
        fetching.starved = if starved { fetching.starved.or(Some(self.now)) } else { None };
        let for_good = fetching.reason.is_some();
        let announce = for_good && whole && fetching.begun && !std::mem::replace(&mut fetching.announced, whole);
        let restored = whole && fetching.reason == Some(PinReason::Sent);
        let for_others = fetching.reason == Some(PinReason::Sent) || (whole && fetching.reason == Some(PinReason::Carry));
        // Who has all of it is sought, too, while parts come from others.
        let seeks = starved || (!whole && !rests && !connected);
        let mut demands = if seeks { job.interests.clone() } else { Default::default() };
        demands.retain(|peer| !self.memory.peers.is_up(peer));
        if for_others {
            // Also who is up: it is to be reached again when it has gone.
            demands.extend(self.to_reach(&distribution));
        }
        self.demand(id, demands);
        if announce && outstanding(self.view, &distribution).iter().any(|target| *target != self.me) {
            self.actions.push(Action::Announce { distribution: id });
        }
        if restored && let Some(known) = self.memory.known.get_mut(&id) {
            // The sender has again what it had lost, and is no more than the sender.
            known.again = false;
            self.memory.dirty.insert(id);
        }
        if let Some((state, error)) = self.progress(id) {
            self.record(id, state, error);
        }
        let wake = self.next_look(id);
        self.wake_at(id, wake);
    }

    /// The record that describes a fetching job. What is over soon is not recorded in between.
    fn progress(&self, id: DistributionId) -> Option<(TargetState, Option<String>)> {
        let job = self.memory.jobs.get(&id)?;
        let Work::Fetching(fetching) = &job.work else { return None };
        let place = has_place(self.policy, &job.distribution.manifest);
        if matches!(fetching.reason, Some(PinReason::Sent) | None) {
            return None;
        }
        let patience = &self.policy.patience;
        let late = self.now >= fetching.since.plus(patience.quiet);
        let is_target = fetching.reason == Some(PinReason::Target);
        let pending = |error: &str| Some((TargetState::Pending, Some(error.to_owned())));
        if fetching.is_whole() {
            let shows = is_target && place && fetching.delivery.error.is_none() && !late;
            return if shows { None } else { Some((TargetState::Held, fetching.delivery.error.clone())) };
        }
        if is_target && fetching.full {
            return pending("no space on the file system of the store");
        }
        if is_target && self.memory.over_quota.contains(&id) {
            return pending("the quota is used up");
        }
        let starved = fetching.starved.is_some_and(|since| self.now >= since.plus(patience.carry_after));
        match (late, fetching.begun && !starved, is_target) {
            (true, true, _) => Some((TargetState::Fetching, None)),
            (true, false, true) => Some((TargetState::Pending, None)),
            _ => None,
        }
    }

    /// Writes this node's record if it says something new; says whether the document said it before. A receipt is never
    /// taken back.
    fn record(&mut self, id: DistributionId, state: TargetState, error: Option<String>) -> bool {
        let room = self.view.changes_left(&id);
        if !self.written.contains(&id) {
            self.reread_record(id);
        }
        let Some(job) = self.memory.jobs.get_mut(&id) else { return false };
        let Work::Fetching(fetching) = &mut job.work else { return false };
        let before = fetching.recorded.as_ref().map(|(state, _)| *state);
        let known = fetching.recorded.as_ref().is_some_and(|(before, text)| *before == state && *text == error);
        let taken_back = before.is_some_and(TargetState::is_receipt) && !state.is_receipt();
        let reserve = if state.is_terminal() { 0 } else { RESERVED_CHANGES };
        if known || taken_back || room <= reserve {
            return known;
        }
        fetching.recorded = Some((state, error.clone()));
        self.written.insert(id);
        let section = if fetching.reason == Some(PinReason::Carry) { Section::Carriers } else { Section::Targets };
        let record = TargetRecord { state, bytes: fetching.bytes, error, time: self.now };
        self.actions.push(Action::Record { distribution: id, section, record });
        false
    }

    /// Takes over what the document has of this node: after a lost disk, peers bring back what was written before.
    fn reread_record(&mut self, id: DistributionId) {
        let (Some(distribution), me) = (self.view.distribution(&id), self.me) else { return };
        self.with_fetching(id, |fetching| {
            let carries = fetching.reason == Some(PinReason::Carry);
            let records = if carries { &distribution.carriers } else { &distribution.targets };
            fetching.recorded = records.get(&me).map(|record| (record.state, record.error.clone()));
        });
    }

    /// When something changes for a fetching job by time alone.
    fn next_look(&self, id: DistributionId) -> Option<Timestamp> {
        let job = self.memory.jobs.get(&id)?;
        let Work::Fetching(fetching) = &job.work else { return None };
        let patience = &self.policy.patience;
        let times = [
            self.expiry(&job.distribution),
            Some(fetching.since.plus(patience.quiet)),
            fetching.starved.map(|since| since.plus(patience.carry_after)),
            fetching.no_space,
            fetching.delivery.retry_at,
            fetching.stuck.first().map(|(until, ..)| *until),
        ];
        times.into_iter().flatten().filter(|at| *at > self.now).min()
    }
}

/// What a receipt says beside.
fn kept(kept: usize, count: usize) -> String {
    format!("{kept} of {count} files stay: they were edited there, or came from others")
}

impl Fetching {
    /// The store was full: rest until then.
    pub(super) fn rest(&mut self, until: Timestamp) {
        self.full = true;
        self.no_space = Some(until);
    }

    /// There is room. Whether that is what it waited for.
    fn end_rest(&mut self, now: Timestamp) -> bool {
        let delivery = &mut self.delivery;
        let postponed = delivery.retry_at.as_mut().filter(|_| delivery.for_room).map(|at| *at = now);
        self.no_space.take().is_some() || postponed.is_some()
    }
}

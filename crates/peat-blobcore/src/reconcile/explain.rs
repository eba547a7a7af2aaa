//! Why a distribution is not at a target yet, from the code that decides. Changes nothing.

use std::fmt;

use super::decide::{Settled, Verdict, decide};
use super::deliver::has_place;
use super::fetch::{Choice, choose};
use super::memory::{Fetching, Job, Memory, Work};
use super::targets::is_target;
use super::{Policy, Refusal, View};
use crate::model::{DistributionId, EndpointId, NodeRef, Priority, Scope, TargetRecord, TargetState, Timestamp};

/// Why a distribution is, or is not, at a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// No document of that id is here.
    UnknownDistribution,
    /// It is the sender, which is never a target.
    IsSender,
    /// The scope does not match it.
    NotMeant,
    /// The scope names nodes by names that no member is known to have.
    UnknownNames(Vec<String>),
    /// It was expelled.
    Revoked,
    /// It was declared gone for good.
    Retired,
    /// The sender was expelled, and nothing of it counts any more.
    SenderRevoked,
    /// The sender cancelled it.
    Cancelled(Timestamp),
    /// It expired.
    Expired(Timestamp),
    /// It was made in the future and is held until then.
    TooEarly(Timestamp),
    /// What the target itself says last.
    Recorded(TargetRecord),
    /// What was to go is gone there, by the target's own word.
    Removed(TargetRecord),
    /// The target has said nothing: the document has not reached it, or its answer has not reached us.
    NothingHeard {
        /// Whether this node has a connection to it.
        connected: bool,
        /// Whether this node is dialling it.
        dialling: bool,
    },
    /// This node's policy does not take it.
    Refused(Refusal),
    /// The quota has no room for it at the moment.
    QuotaUsedUp,
    /// The file system of the store is full; tried again then.
    StoreFull(Timestamp),
    /// Nobody who has it is connected.
    NoHolderConnected {
        /// Who is known to have it.
        holders: Vec<EndpointId>,
    },
    /// The link is metered, and this is not critical.
    Metered(Priority),
    /// The links of those who have it are metered, and this is not critical; they are asked again when they say so, or then.
    HoldersMetered(Timestamp),
    /// Those who are connected failed before and are left alone until then.
    HoldersRest(Timestamp),
    /// Bytes are coming, or wait for what is more urgent.
    Fetching {
        /// Verified bytes that are here.
        bytes: u64,
        /// All bytes, as far as the manifest says.
        of: u64,
        /// Fetches of it that are under way.
        fetches: usize,
    },
    /// It is being written to the inbox.
    Delivering,
    /// The inbox could not take it; tried again then.
    InboxFailed {
        /// Why.
        error: String,
        /// When.
        retry_at: Timestamp,
    },
    /// This node has no inbox and only holds it.
    NoInbox,
    /// It has not been looked at yet.
    JustArrived,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownDistribution => f.write_str("this node does not know the distribution"),
            Self::IsSender => f.write_str("it is the sender"),
            Self::NotMeant => f.write_str("the distribution is not meant for it"),
            Self::UnknownNames(names) => write!(f, "no member is known by the name {}", names.join(", ")),
            Self::Revoked => f.write_str("it was expelled from the formation"),
            Self::Retired => f.write_str("it was declared gone for good, and is not waited for"),
            Self::SenderRevoked => f.write_str("its sender was expelled from the formation"),
            Self::Cancelled(at) => write!(f, "the sender cancelled it at {at}"),
            Self::Expired(at) => write!(f, "it expired at {at}"),
            Self::TooEarly(at) => write!(f, "it was made in the future and is held until {at}: check the clocks"),
            Self::Recorded(TargetRecord { state, error: Some(error), time, .. }) => write!(f, "{state} since {time}: {error}"),
            Self::Recorded(TargetRecord { state, time, .. }) => write!(f, "{state} since {time}"),
            Self::Removed(TargetRecord { time, error: Some(kept), .. }) => write!(f, "removed there since {time}; {kept}"),
            Self::Removed(TargetRecord { time, .. }) => write!(f, "removed there since {time}"),
            Self::NothingHeard { connected: true, .. } => f.write_str("it is connected and has not answered yet"),
            Self::NothingHeard { dialling: true, .. } => f.write_str("it is being dialled"),
            Self::NothingHeard { .. } => f.write_str("nothing was heard of it, and it is not connected to this node"),
            Self::Refused(refusal) => write!(f, "refused: {refusal}"),
            Self::QuotaUsedUp => f.write_str("the quota is used up: it waits until others are done"),
            Self::StoreFull(until) => {
                write!(f, "no space on the file system of the store: tried again when there is some, and at {until}")
            }
            Self::NoHolderConnected { holders } => {
                let names: Vec<_> = holders.iter().take(3).map(EndpointId::short).collect();
                write!(f, "none of the {} known holders is connected ({})", holders.len(), names.join(", "))
            }
            Self::Metered(priority) => write!(f, "waits: the link is metered and its priority is {priority}"),
            Self::HoldersMetered(until) => {
                write!(f, "waits: the links of its holders are metered and it is not critical; asked again by {until}")
            }
            Self::HoldersRest(until) => write!(f, "the connected holders failed and are asked again at {until}"),
            Self::Fetching { bytes, of, fetches } => write!(f, "{bytes} of {of} bytes are here, {fetches} fetches are under way"),
            Self::Delivering => f.write_str("it is being written to the inbox"),
            Self::InboxFailed { error, retry_at } => write!(f, "the inbox could not take it: {error}; tried again at {retry_at}"),
            Self::NoInbox => f.write_str("this node has no inbox and only holds it"),
            Self::JustArrived => f.write_str("it has just arrived"),
        }
    }
}

/// Says why a distribution is not at a target yet, or that it is.
#[must_use]
pub fn explain(
    now: Timestamp,
    policy: &Policy,
    view: &dyn View,
    memory: &Memory,
    id: &DistributionId,
    target: &EndpointId,
) -> Reason {
    let Some(distribution) = view.distribution(id) else { return Reason::UnknownDistribution };
    let record = distribution.targets.get(target).cloned();
    let again = *target == view.me() && memory.known.get(id).is_some_and(|known| known.again);
    if let Some(receipt) = record.clone().filter(|record| record.state.is_receipt() && !again) {
        let gone = distribution.manifest.removes && receipt.state == TargetState::Delivered;
        return if gone { Reason::Removed(receipt) } else { Reason::Recorded(receipt) };
    }
    if *target == distribution.manifest.sender {
        return Reason::IsSender;
    }
    if view.nodes().get(target).is_some_and(|node| node.revoked) {
        return Reason::Revoked;
    }
    if let Some(at) = distribution.cancelled {
        return Reason::Cancelled(at);
    }
    if view.clock_trusted() && now >= distribution.manifest.expiry {
        return Reason::Expired(distribution.manifest.expiry);
    }
    if !is_target(view.nodes(), &distribution, target) {
        let unknown = unknown_names(view, &distribution.manifest.scope);
        return if unknown.is_empty() { Reason::NotMeant } else { Reason::UnknownNames(unknown) };
    }
    if *target != view.me() {
        if view.nodes().get(target).is_some_and(|node| node.retired) {
            return Reason::Retired;
        }
        let (connected, dialling) = (memory.peers.is_up(target), memory.peers.is_dialling(target));
        return record.map_or(Reason::NothingHeard { connected, dialling }, Reason::Recorded);
    }
    match decide(now, policy, view, &distribution, again) {
        Verdict::Refused(refusal) => Reason::Refused(refusal),
        Verdict::TooEarly(until) => Reason::TooEarly(until),
        Verdict::Settled(Settled::SenderRevoked) => Reason::SenderRevoked,
        Verdict::Settled(Settled::Recorded(_)) => record.map_or(Reason::JustArrived, Reason::Recorded),
        Verdict::Take => match memory.jobs.get(id) {
            Some(job @ Job { work: Work::Fetching(fetching), .. }) => here(now, policy, view, memory, job, fetching),
            _ => Reason::JustArrived,
        },
        // The cases above have covered the rest.
        Verdict::Sent | Verdict::ForOthers | Verdict::Settled(_) => Reason::NotMeant,
    }
}

/// Where a fetch or a delivery of this node's stands.
fn here(now: Timestamp, policy: &Policy, view: &dyn View, memory: &Memory, job: &Job, fetching: &Fetching) -> Reason {
    let (_, _, id) = job.rank;
    if !fetching.delivery.under_way.is_empty() {
        return Reason::Delivering;
    }
    if memory.over_quota.contains(&id) {
        return Reason::QuotaUsedUp;
    }
    if let (Some(error), Some(retry_at)) = (fetching.delivery.error.clone(), fetching.delivery.retry_at) {
        return Reason::InboxFailed { error, retry_at };
    }
    if fetching.is_whole() {
        return if has_place(policy, &job.distribution.manifest) { Reason::JustArrived } else { Reason::NoInbox };
    }
    if let Some(until) = fetching.no_space {
        return Reason::StoreFull(until);
    }
    let priority = job.distribution.manifest.priority;
    if policy.metered && priority < Priority::Critical {
        return Reason::Metered(priority);
    }
    let doubtful: Vec<_> = memory.flights.doubtful().filter(|blob| fetching.missing.contains_key(*blob)).collect();
    let fetches = fetching.missing.len().saturating_sub(fetching.todo.len() + fetching.stuck.len() + doubtful.len());
    let next = fetching.todo.first().map(|(_, blob)| blob).or(fetching.stuck.first().map(|(.., blob)| blob));
    let no_holder = || Reason::NoHolderConnected { holders: job.interests.iter().copied().collect() };
    if fetches == 0
        && let Some(blob) = next.or(doubtful.first().copied())
    {
        if memory.peers.connected().is_disjoint(&job.interests) {
            return no_holder();
        }
        match choose(now, view, memory, &id, blob) {
            Choice::NoneConnected => return no_holder(),
            Choice::NotBefore(until) if fetching.metered.iter().any(|source| memory.peers.is_up(source)) => {
                return Reason::HoldersMetered(until);
            }
            Choice::NotBefore(until) => return Reason::HoldersRest(until),
            Choice::From(_) | Choice::Part(_) => {}
        }
    }
    Reason::Fetching { bytes: fetching.bytes, of: job.distribution.manifest.total_bytes(), fetches }
}

fn unknown_names(view: &dyn View, scope: &Scope) -> Vec<String> {
    let Scope::Nodes(nodes) = scope else { return Vec::new() };
    let names = nodes.iter().filter_map(|node| match node {
        NodeRef::Name(name) => Some(name.clone()),
        NodeRef::Id(_) => None,
    });
    names.filter(|name| !view.nodes().values().any(|node| node.name == *name)).collect()
}

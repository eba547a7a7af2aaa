//! Whom a distribution is for, who may have its blobs, and how it stands as a whole. Decides nothing for this node alone.

use std::collections::{BTreeMap, BTreeSet};

use super::{Node, View};
use crate::document::Distribution;
use crate::model::{DistributionState, EndpointId, NodeRef, Scope, TargetState, Timestamp};

/// Whether this member is meant: it is on the roster or the scope matches it, and it is neither the sender nor revoked.
/// (Who is on the roster stays meant when its name or labels change, or completion would wait for ever.)
#[must_use]
pub fn is_target(nodes: &BTreeMap<EndpointId, Node>, distribution: &Distribution, id: &EndpointId) -> bool {
    if *id == distribution.manifest.sender {
        return false;
    }
    match (nodes.get(id), &distribution.manifest.scope) {
        (Some(node), _) if node.revoked => false,
        _ if distribution.roster.as_ref().is_some_and(|roster| roster.contains(id)) => true,
        (Some(node), scope) => scope.matches(id, &node.name, &node.labels),
        // Nothing but an id can match a node that no register is known of.
        (None, Scope::Nodes(nodes)) => nodes.contains(&NodeRef::Id(*id)),
        (None, Scope::All | Scope::Labels(_)) => false,
    }
}

/// Whether a peer may have the blobs of a distribution: its sender, those whom it is meant for, and the carriers that the
/// manifest permits. What a peer says of itself in the document entitles it to nothing.
#[must_use]
pub fn is_entitled(nodes: &BTreeMap<EndpointId, Node>, distribution: &Distribution, peer: &EndpointId) -> bool {
    if nodes.get(peer).is_some_and(|node| node.revoked) {
        return false;
    }
    *peer == distribution.manifest.sender
        || is_target(nodes, distribution, peer)
        || (nodes.contains_key(peer) && distribution.manifest.carry.permits(peer))
}

/// Everyone who is meant, as far as this node knows: the roster or the ids that the manifest names, else all members that
/// match. Who is retired counts only with a receipt.
#[must_use]
pub fn targets(view: &dyn View, distribution: &Distribution) -> BTreeSet<EndpointId> {
    let counts = |id: &EndpointId| {
        let gone = view.nodes().get(id).is_some_and(|node| node.retired || node.revoked);
        !gone || receipt(distribution, id)
    };
    match &distribution.roster {
        Some(roster) => roster.iter().filter(|id| counts(id)).copied().collect(),
        None => matching(view, distribution).into_iter().filter(counts).collect(),
    }
}

/// The roster that the sender can write now: for names once each of them is known, for `all` and `labels` as soon as
/// anybody matches. `None` when it is written already, needs none, or would be empty.
pub(super) fn roster_to_write(view: &dyn View, distribution: &Distribution) -> Option<BTreeSet<EndpointId>> {
    if distribution.roster.is_some() || is_closed(distribution) {
        return None;
    }
    if let Scope::Nodes(nodes) = &distribution.manifest.scope {
        let known = |name: &String| view.nodes().values().any(|node| node.name == *name);
        if nodes.iter().any(|node| matches!(node, NodeRef::Name(name) if !known(name))) {
            return None;
        }
    }
    let present = |id: &EndpointId| !view.nodes().get(id).is_some_and(|node| node.retired || node.revoked);
    let roster: BTreeSet<_> = matching(view, distribution).into_iter().filter(present).collect();
    if roster.is_empty() { None } else { Some(roster) }
}

/// The targets that have not come to an end, with those that joined after the roster was written and ask by a record.
pub(super) fn outstanding(view: &dyn View, distribution: &Distribution) -> BTreeSet<EndpointId> {
    let late = distribution.targets.keys().filter(|id| is_target(view.nodes(), distribution, id)).copied();
    let mut all = targets(view, distribution);
    all.extend(late.filter(|id| !view.nodes().get(id).is_some_and(|node| node.retired)));
    all.retain(|id| !distribution.targets.get(id).is_some_and(|record| record.state.is_terminal()));
    all
}

/// How the distribution stands as a whole. Expiry is judged only by a clock that is trusted.
#[must_use]
pub fn status(now: Timestamp, view: &dyn View, distribution: &Distribution) -> DistributionState {
    let targets = targets(view, distribution);
    let expired = view.clock_trusted() && now >= distribution.manifest.expiry;
    if targets.is_empty() {
        return match (distribution.cancelled.is_some(), expired) {
            (true, _) => DistributionState::Cancelled,
            (false, true) => DistributionState::Expired,
            (false, false) => DistributionState::NoTargets,
        };
    }
    let states = || targets.iter().map(|id| distribution.targets.get(id).map(|record| record.state));
    let receipts = states().flatten().filter(|state| state.is_receipt()).count();
    let closed = distribution.roster.is_some() || is_closed(distribution);
    if closed && receipts == targets.len() {
        return DistributionState::Completed;
    }
    let ended = |none| if receipts == 0 { none } else { DistributionState::Partial };
    if distribution.cancelled.is_some() {
        return ended(DistributionState::Cancelled);
    }
    if closed && states().all(|state| state.is_some_and(TargetState::is_terminal)) {
        return ended(DistributionState::Failed);
    }
    if expired {
        return ended(DistributionState::Expired);
    }
    let begun = states().flatten().any(|state| state != TargetState::Pending);
    if begun { DistributionState::InProgress } else { DistributionState::Pending }
}

fn receipt(distribution: &Distribution, id: &EndpointId) -> bool {
    distribution.targets.get(id).is_some_and(|record| record.state.is_receipt())
}

/// Whether the manifest itself names a closed set: ids and nothing else.
fn is_closed(distribution: &Distribution) -> bool {
    match &distribution.manifest.scope {
        Scope::Nodes(nodes) => nodes.iter().all(|node| matches!(node, NodeRef::Id(_))),
        Scope::All | Scope::Labels(_) => false,
    }
}

fn matching(view: &dyn View, distribution: &Distribution) -> BTreeSet<EndpointId> {
    // Where only ids are named, who they are is not looked for among all members, of whom there may be a thousand.
    let members = (!is_closed(distribution)).then(|| view.nodes().keys()).into_iter().flatten();
    let mut all: BTreeSet<_> = members.filter(|id| is_target(view.nodes(), distribution, id)).copied().collect();
    if let Scope::Nodes(nodes) = &distribution.manifest.scope {
        let ids = nodes.iter().filter_map(|node| match node {
            NodeRef::Id(id) => Some(*id),
            NodeRef::Name(_) => None,
        });
        all.extend(ids.filter(|id| is_target(view.nodes(), distribution, id)));
    }
    all
}

//! Who can be asked for a blob besides the source that a fetch began with. Only asks; decides nothing.

use std::collections::BTreeMap;

use super::expected::behind;
use super::memory::{Fetching, Job, Memory, Work};
use super::peers::{mix, number};
use super::{View, is_target};
use crate::model::{BlobHash, DistributionId, EndpointId, Timestamp};

/// Sources of one blob at a time, at most: more would share a link that a few fill.
const MOST: usize = 8;

/// The connected nodes that a blob of a distribution can be fetched from now, each with whether it is said to have all of it.
/// The others are to get it as this node is, and may have parts.
#[must_use]
pub fn sources(
    now: Timestamp,
    view: &dyn View,
    memory: &Memory,
    id: &DistributionId,
    blob: &BlobHash,
) -> BTreeMap<EndpointId, bool> {
    let Some(job) = memory.jobs.get(id) else { return BTreeMap::new() };
    let Work::Fetching(fetching) = &job.work else { return BTreeMap::new() };
    let candidates: Vec<_> = memory
        .peers
        .connected()
        .iter()
        .filter(|peer| left_alone_until(memory, fetching, peer, blob) <= now)
        .filter_map(|peer| {
            let whole = job.interests.contains(peer);
            (whole || may_have_parts(view, job, peer)).then_some((!whole, *peer))
        })
        .collect();
    let size = fetching.missing.get(blob).map(|missing| missing.size).unwrap_or_default();
    let behind = behind(view, candidates.iter().map(|(_, peer)| *peer), size);
    // The best first, and else a different choice for each blob and node, so that all are asked by somebody.
    let spread = |peer: &EndpointId| mix(number(view.me().as_bytes()) ^ number(blob.as_bytes()) ^ number(peer.as_bytes()));
    let mut found: Vec<_> = candidates
        .into_iter()
        .map(|(partial, peer)| (partial, behind[&peer], view.distance(&peer), spread(&peer), peer))
        .collect();
    found.sort_unstable();
    found.truncate(MOST);
    found.into_iter().map(|(partial, .., peer)| (peer, !partial)).collect()
}

/// The connected nodes that are to get a distribution as this node is, and are not known to have all of it: what is here may be of
/// use to them.
#[must_use]
pub fn seekers(view: &dyn View, memory: &Memory, id: &DistributionId) -> Vec<EndpointId> {
    let Some(job) = memory.jobs.get(id) else { return Vec::new() };
    memory.peers.connected().iter().filter(|peer| may_have_parts(view, job, peer)).copied().collect()
}

/// Whether a peer is to get a distribution as this node is, and is not known to have all of it.
pub(super) fn may_have_parts(view: &dyn View, job: &Job, peer: &EndpointId) -> bool {
    let distribution = &job.distribution;
    !job.interests.contains(peer)
        && (distribution.carriers.contains_key(peer) || is_target(view.nodes(), distribution, peer))
        && !distribution.targets.get(peer).is_some_and(|record| record.state.is_terminal())
        && !view.nodes().get(peer).is_some_and(|node| node.revoked)
}

/// Until when a peer is not to be asked for a blob; a time that has passed when it may be.
pub(super) fn left_alone_until(memory: &Memory, fetching: &Fetching, peer: &EndpointId, blob: &BlobHash) -> Timestamp {
    let refused = fetching.refused.get(peer).map(|backoff| backoff.until);
    let avoided = memory.avoid.get(&(*blob, *peer)).map(|avoid| avoid.backoff.until);
    refused.into_iter().chain(avoided).fold(memory.peers.until(peer), Ord::max)
}

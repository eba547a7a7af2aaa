//! Upstreams for the fleet: what another member asks this node's for, and whom this node asks when it has none in reach.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use n0_future::{StreamExt as _, stream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Node;
use crate::driver::SharedNodes;
use crate::model::EndpointId;
use crate::network::Reached;
use crate::network::errand::{UpstreamHead, UpstreamRequest, UpstreamWanted};
use crate::network::wire::Denial;
use crate::oci::{Descriptor, Repository};
use crate::registry::{Answer, Found, Gift, Given, Members, Pieces, Refusal, Registry, Thing, Wanted};
use crate::transfer::{FetchError, ask_errand};

/// Most things at once that other members have this node ask for.
const MAX_ERRANDS: usize = 64;
/// Bytes that are given on at a time.
const PIECE_BYTES: usize = 256 * 1024;
/// Members that are asked for one thing, one after the other.
const MAX_ASKED: usize = 4;
/// How long a connection with a member is waited for that was let go.
const REACH: Duration = Duration::from_secs(5);
/// How long a member, whose upstream may stall, is waited for.
const PATIENCE: Duration = Duration::from_secs(30);
/// The same for what a tag points to: a little longer than the member waits itself, so that there is time for another.
const TAG_PATIENCE: Duration = Duration::from_secs(9);
/// How long one that failed is asked after the others.
const REST: Duration = Duration::from_secs(30);

impl Node {
    /// Other members, to be asked for what no upstream of this node's can be asked for
    /// (`registry::upstream::Upstreams::with_members`).
    #[must_use]
    pub fn other_upstreams(&self) -> Arc<dyn Members> {
        Arc::clone(&self.fleet) as Arc<dyn Members>
    }
}

/// What other members have this node ask its upstreams for.
pub(super) struct Errands {
    registry: Registry,
    places: Arc<Semaphore>,
}

impl Errands {
    pub(super) fn new(registry: Registry) -> Self {
        Self { registry, places: Arc::new(Semaphore::new(MAX_ERRANDS)) }
    }

    pub(super) async fn run(&self, request: &UpstreamRequest) -> Result<(UpstreamHead, Pieces), Denial> {
        let wanted = read(request).ok_or(Denial::Failed)?;
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| Denial::Failed)?;
        let elsewhere = self.registry.elsewhere().ok_or(Denial::Failed)?;
        match (elsewhere.give(&wanted).await, wanted.thing) {
            (Gift::Nothing, _) => Err(Denial::NotAvailable),
            (Gift::CannotAsk, _) => Err(Denial::Failed),
            (Gift::Named(descriptor), _) => Ok((head(&descriptor), Box::pin(stream::empty()))),
            (Gift::Found(found), Thing::Manifest(digest)) => Ok(self.pour(wanted.repository, digest, found, 0, place)),
            (Gift::Found(found), Thing::Blob(digest, begin)) => Ok(self.pour(wanted.repository, digest, found, begin, place)),
            (Gift::Found(_), Thing::Tag(_)) => Err(Denial::Failed),
        }
    }

    /// What was found, from a byte on, as it comes.
    fn pour(
        &self,
        repository: Repository,
        digest: crate::oci::Digest,
        found: Found,
        begin: u64,
        place: OwnedSemaphorePermit,
    ) -> (UpstreamHead, Pieces) {
        let (registry, size) = (self.registry.clone(), found.size());
        let head = head(&Descriptor::new(found.media_type(), digest, size));
        let state = Some((begin..size, place));
        let pieces = stream::unfold(state, move |state| {
            let (registry, repository, found) = (registry.clone(), repository.clone(), found.clone());
            async move {
                let (rest, place) = state?;
                if rest.is_empty() {
                    return None;
                }
                match registry.read_found(&repository, &digest, &found, rest.clone(), PIECE_BYTES).await {
                    Ok(bytes) if bytes.is_empty() => Some((Err("it is shorter than was said".to_owned()), None)),
                    Ok(bytes) => {
                        let rest = rest.start + bytes.len() as u64..rest.end;
                        Some((Ok(bytes.into()), Some((rest, place))))
                    }
                    Err(error) => Some((Err(error.to_string()), None)),
                }
            }
        });
        (head, Box::pin(pieces))
    }
}

fn head(descriptor: &Descriptor) -> UpstreamHead {
    UpstreamHead { digest: descriptor.digest.to_string(), media_type: descriptor.media_type.clone(), size: descriptor.size }
}

fn read(request: &UpstreamRequest) -> Option<Wanted> {
    let thing = match &request.wanted {
        UpstreamWanted::Tag(tag) => Thing::Tag(tag.parse().ok()?),
        UpstreamWanted::Manifest(digest) => Thing::Manifest(digest.parse().ok()?),
        UpstreamWanted::Blob(digest, begin) => Thing::Blob(digest.parse().ok()?, *begin),
    };
    Some(Wanted { repository: request.repository.parse().ok()?, thing })
}

fn written(wanted: &Wanted) -> UpstreamRequest {
    let thing = match &wanted.thing {
        Thing::Tag(tag) => UpstreamWanted::Tag(tag.to_string()),
        Thing::Manifest(digest) => UpstreamWanted::Manifest(digest.to_string()),
        Thing::Blob(digest, begin) => UpstreamWanted::Blob(digest.to_string(), *begin),
    };
    UpstreamRequest { repository: wanted.repository.to_string(), wanted: thing }
}

/// The members whose records say that they ask upstreams for others.
pub(super) struct Fleet {
    me: EndpointId,
    nodes: SharedNodes,
    reached: Reached,
    failed: Failed,
}

/// When members failed to ask the last time: those are asked after the others for a while.
#[derive(Clone, Default)]
struct Failed(Arc<Mutex<BTreeMap<EndpointId, Instant>>>);

impl Failed {
    fn note(&self, id: EndpointId) {
        let mut failed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        failed.retain(|_, at| at.elapsed() < REST);
        failed.insert(id, Instant::now());
    }

    fn lately(&self, id: &EndpointId) -> bool {
        let failed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        failed.get(id).is_some_and(|at| at.elapsed() < REST)
    }
}

impl Fleet {
    pub(super) fn new(me: EndpointId, nodes: SharedNodes, reached: Reached) -> Self {
        Self { me, nodes, reached, failed: Failed::default() }
    }

    /// Those that speak for a repository and seem to be in reach, each with the length of the name that they do it by: the longest
    /// first, as among the upstreams of one node. Of those with one name the first is the same for all who can reach it, so that the
    /// upstream is asked once for all of them; for another repository it is another.
    fn of(&self, repository: &Repository) -> Vec<(EndpointId, usize)> {
        let nodes = self.nodes.read().expect("nothing panics while it holds the nodes");
        let beneath = |name: &&String| repository.as_str().strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with('/'));
        let able = nodes.iter().filter(|(id, node)| **id != self.me && !node.retired && !node.revoked && self.reached.seems(id));
        let mut able: Vec<_> =
            able.filter_map(|(id, node)| Some((*id, node.upstreams.iter().filter(beneath).map(String::len).max()?))).collect();
        able.sort_by_cached_key(|(id, length)| {
            let mut rank = blake3::Hasher::new();
            rank.update(id.as_bytes()).update(repository.as_str().as_bytes());
            (Reverse(*length), self.failed.lately(id), *rank.finalize().as_bytes())
        });
        able
    }
}

impl Members for Fleet {
    fn speak_for(&self, repository: &Repository) -> bool {
        !self.of(repository).is_empty()
    }

    fn ask<'a>(&'a self, wanted: &'a Wanted) -> Answer<'a, Result<Given, Refusal>> {
        Box::pin(async move {
            let patience = if matches!(wanted.thing, Thing::Tag(_)) { TAG_PATIENCE } else { PATIENCE };
            // One that has a longer name for it knows better than those with a shorter.
            let mut denied = None;
            for (id, length) in self.of(&wanted.repository).into_iter().take(MAX_ASKED) {
                if denied.is_some_and(|denied| denied > length) {
                    break;
                }
                let reached = tokio::time::timeout(REACH, self.reached.peer(&id)).await;
                let Ok(Some(peer)) = reached else {
                    self.failed.note(id);
                    continue;
                };
                let through = (id, peer.connection.clone(), Arc::clone(&peer.in_use));
                match ask_errand(through, written(wanted), Arc::clone(self.reached.traffic()), patience).await {
                    Ok((UpstreamHead { digest, media_type, size }, pieces)) => {
                        let Ok(digest) = digest.parse() else { continue };
                        let failed = self.failed.clone();
                        let pieces = pieces.inspect(move |piece| {
                            if piece.is_err() {
                                failed.note(id);
                            }
                        });
                        return Ok(Given { descriptor: Descriptor::new(media_type, digest, size), pieces: Box::pin(pieces) });
                    }
                    Err(FetchError::NotAvailable) => denied = Some(length),
                    Err(error) => {
                        tracing::debug!(peer = %id.short(), %error, "a member does not ask its upstream");
                        self.failed.note(id);
                    }
                }
            }
            if denied.is_some() {
                return Err(Refusal::Nothing);
            }
            Err(Refusal::CannotAsk)
        })
    }
}

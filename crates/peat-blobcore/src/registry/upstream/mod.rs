//! Other registries that this one stands before: what is neither here nor with other nodes is fetched from one of them, once for
//! all who ask, and given to them while it comes.
//!
//! - `mirrors`: a registry with the places that have its content, and which of them is asked next; `source`: one of them, which may
//!   be another node that can reach a registry
//! - `streamer`: one fetch for many readers; `fetch`: the one that fills the file, over cuts, stalls and lies
//! - `watch`: what is brought before anybody asks
//! - `keep`: what becomes of what came, and what tags were last known to be
//!
//! An upstream speaks for the repositories beneath its name alone, and content counts for the repository that it was served for.
//! Of a repository that an upstream has, tags are the upstream's. Must never keep what is not what its digest says.

mod fetch;
mod keep;
mod mirrors;
mod source;
mod streamer;
#[cfg(test)]
mod tests;
mod watch;

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use mirrors::{Location, Upstream};
pub use watch::{MAX_WATCHED_TAGS, WatchStatus, WatchedRepository, Watching};

use super::remote::RemoteError;
use super::{Answer, Arriving, Change, Elsewhere, Found, Gift, Members, Named, Registry, Thing, Wanted, blocking};
use crate::oci::{Descriptor, Digest, Repository, Tag};
use keep::Keeper;
use streamer::{BlobStreamer, Kind, Reply, Way};

/// How long a tag is asked for before what was last known counts.
const TAG_PATIENCE: Duration = Duration::from_secs(8);
/// The same of other nodes, which wait as long for their upstreams: time for two of them.
const MEMBERS_PATIENCE: Duration = Duration::from_secs(19);
/// Most repositories of which it is remembered that nobody could be asked.
const MAX_UNSURE: usize = 4096;

/// The upstreams of a registry.
pub struct Upstreams {
    registry: Registry,
    upstreams: Vec<Arc<Upstream>>,
    keeper: Arc<Keeper>,
    streamer: BlobStreamer,
    /// Other nodes, and the same as one upstream.
    members: Option<(Arc<dyn Members>, Arc<Upstream>)>,
    /// Repositories whose tags could not be asked for the last time.
    unsure: Mutex<BTreeSet<Repository>>,
}

impl Upstreams {
    /// Those that a registry asks: it is to be told by [`Registry::add_elsewhere`]. What was pulled is kept for good, and told to
    /// other nodes once it is whole, or for so long and by this node alone.
    #[must_use]
    pub fn new(registry: &Registry, upstreams: Vec<Upstream>, keep: Option<Duration>) -> Self {
        let keeper = Arc::new(Keeper::new(registry.clone(), keep));
        let mut upstreams: Vec<_> = upstreams.into_iter().map(Arc::new).collect();
        // The one with the longest name speaks for what is beneath it.
        upstreams.sort_by_key(|upstream| std::cmp::Reverse(upstream.name().map_or(0, str::len)));
        let streamer = BlobStreamer::new(Arc::clone(&keeper));
        Self { registry: registry.clone(), upstreams, streamer, keeper, members: None, unsure: Mutex::default() }
    }

    /// The same, which asks other nodes for what none of its own can be asked for.
    #[must_use]
    pub fn with_members(self, members: Arc<dyn Members>) -> Self {
        let upstream = Arc::new(Upstream::of_members(Arc::clone(&members)));
        Self { members: Some((members, upstream)), ..self }
    }

    /// The upstream that speaks for a repository, and what it calls that.
    fn of(&self, repository: &Repository) -> Option<(&Arc<Upstream>, Repository)> {
        self.upstreams.iter().find_map(|upstream| Some((upstream, upstream.beneath(repository)?)))
    }

    /// Who is asked for something of a repository, in which order, and what it is called there: this node's own upstream, unless
    /// it could not be reached lately, and other nodes for what that does not say.
    fn ways(&self, repository: &Repository) -> Vec<(Way, &Arc<Upstream>, Repository)> {
        let own = self.of(repository).map(|(upstream, there)| (Way::Own, upstream, there));
        let rests = own.as_ref().is_some_and(|(_, upstream, _)| upstream.rests());
        let speaking = self.members.iter().filter(|(members, _)| members.speak_for(repository));
        let mut ways: Vec<_> = speaking.map(|(_, upstream)| (Way::Members, upstream, repository.clone())).collect();
        ways.extend(own);
        if !rests {
            ways.reverse();
        }
        ways
    }

    async fn look(&self, kind: Kind, repository: &Repository, digest: &Digest) -> Option<Found> {
        for (way, upstream, there) in self.ways(repository) {
            match self.streamer.find((kind, way), upstream, there, repository, digest).await {
                Reply::Found(found) => return Some(found),
                Reply::Nothing => return None,
                Reply::Unknown => {}
            }
        }
        None
    }

    /// What a tag points to: nothing is said where nobody can say it in time.
    async fn say(
        &self,
        (way, upstream, there): (Way, &Upstream, &Repository),
        repository: &Repository,
        tag: &Tag,
    ) -> Option<Option<Named>> {
        let patience = match way {
            Way::Own => TAG_PATIENCE,
            Way::Members => MEMBERS_PATIENCE,
        };
        let Ok(asked) = tokio::time::timeout(patience, ask(upstream, there, tag)).await else {
            upstream.rest();
            return None;
        };
        let asked = asked.ok()?;
        let Some(descriptor) = asked else { return Some(None) };
        let (keeper, repository, tag) = (Arc::clone(&self.keeper), repository.clone(), tag.clone());
        blocking(move || keeper.note_tag(&repository, &tag, &descriptor)).await.ok().map(Some)
    }

    fn unsure(&self) -> MutexGuard<'_, BTreeSet<Repository>> {
        self.unsure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_unsure(&self, repository: &Repository, is_unsure: bool) {
        let mut unsure = self.unsure();
        if !is_unsure {
            unsure.remove(repository);
            return;
        }
        if unsure.len() >= MAX_UNSURE && !unsure.contains(repository) {
            unsure.pop_first();
        }
        unsure.insert(repository.clone());
    }
}

async fn ask(upstream: &Upstream, there: &Repository, tag: &Tag) -> Result<Option<Descriptor>, RemoteError> {
    let mut failed = None;
    for mirror in upstream.order() {
        match mirror.source.resolve(there, tag).await {
            Ok(descriptor) => return Ok(Some(descriptor)),
            Err(RemoteError::NotFound { .. }) => {}
            Err(error) => {
                tracing::debug!(repository = %there, %tag, %error, "an upstream does not say what a tag points to");
                failed = Some(fetch::note(mirror, error));
            }
        }
    }
    // That one does not have it says nothing while another cannot be asked.
    failed.map_or(Ok(None), Err)
}

impl Elsewhere for Upstreams {
    fn resolve<'a>(&'a self, repository: &'a Repository, tag: &'a Tag) -> Answer<'a, Option<Named>> {
        Box::pin(async move {
            let ways = self.ways(repository);
            let speaks = !ways.is_empty();
            for (way, upstream, there) in ways {
                if upstream.rests() {
                    continue;
                }
                if let Some(said) = self.say((way, upstream, &there), repository, tag).await {
                    self.set_unsure(repository, false);
                    return said;
                }
            }
            let (keeper, within, tag) = (Arc::clone(&self.keeper), repository.clone(), tag.clone());
            let known = blocking(move || keeper.last_known(&within, &tag)).await.ok().flatten();
            self.set_unsure(repository, speaks || known.is_some());
            known
        })
    }

    fn is_unsure(&self, repository: &Repository) -> bool {
        self.unsure().contains(repository)
    }

    fn find<'a>(&'a self, repository: &'a Repository, digest: &'a Digest) -> Answer<'a, Option<Found>> {
        Box::pin(self.look(Kind::Blob, repository, digest))
    }

    fn find_manifest<'a>(&'a self, repository: &'a Repository, digest: &'a Digest) -> Answer<'a, Option<Found>> {
        Box::pin(self.look(Kind::Manifest, repository, digest))
    }

    fn give<'a>(&'a self, wanted: &'a Wanted) -> Answer<'a, Gift> {
        Box::pin(async move {
            let repository = &wanted.repository;
            let Some((upstream, there)) = self.of(repository) else { return Gift::CannotAsk };
            let (kind, digest) = match &wanted.thing {
                Thing::Tag(tag) => {
                    if upstream.rests() {
                        return Gift::CannotAsk;
                    }
                    return match self.say((Way::Own, upstream, &there), repository, tag).await {
                        Some(Some(Named { digest, media_type, size, .. })) => {
                            Gift::Named(Descriptor::new(media_type, digest, size))
                        }
                        Some(None) => Gift::Nothing,
                        None => Gift::CannotAsk,
                    };
                }
                Thing::Manifest(digest) => (Kind::Manifest, digest),
                Thing::Blob(digest, _) => (Kind::Blob, digest),
            };
            // What was deleted here stays away, whoever asks.
            let (registry, within, name) = (self.registry.clone(), repository.clone(), *digest);
            match blocking(move || registry.is_blocked(&within, &name)).await {
                Ok(false) => {}
                Ok(true) => return Gift::Nothing,
                Err(_) => return Gift::CannotAsk,
            }
            match self.streamer.find((kind, Way::Own), upstream, there, repository, digest).await {
                Reply::Found(found) => Gift::Found(found),
                Reply::Nothing => Gift::Nothing,
                Reply::Unknown => Gift::CannotAsk,
            }
        })
    }

    fn hurry(&self, _: &Arriving, _: Range<u64>) {}

    fn disprove(&self, _: &Repository, _: &Digest, _: &Arriving) {}

    /// Listings are of what this fleet has: an upstream may have millions.
    fn repositories(&self) -> Vec<Repository> {
        Vec::new()
    }

    fn tags(&self, repository: &Repository) -> Vec<Tag> {
        self.keeper.tags(repository).unwrap_or_default()
    }

    fn referrers(&self, _: &Repository, _: &Digest) -> Vec<Descriptor> {
        Vec::new()
    }

    fn changed(&self, _: &Change) {}
}

impl std::fmt::Debug for Upstreams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upstreams").field("registry", &self.registry).field("upstreams", &self.upstreams).finish_non_exhaustive()
    }
}

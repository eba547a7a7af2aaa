//! Other registries that this one stands before: what is neither here nor with other nodes is fetched from one of them, once for
//! all who ask, and given to them while it comes.
//!
//! - `mirrors`: a registry with the places that have its content, and which of them is asked next
//! - `streamer`: one fetch for many readers; `fetch`: the one that fills the file, over cuts, stalls and lies
//! - `watch`: what is brought before anybody asks
//! - `keep`: what becomes of what came, and what tags were last known to be
//!
//! An upstream speaks for the repositories beneath its name alone, and content counts for the repository that it was served for.
//! Of a repository that an upstream has, tags are the upstream's. Must never keep what is not what its digest says.

mod fetch;
mod keep;
mod mirrors;
mod streamer;
#[cfg(test)]
mod tests;
mod watch;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

pub use mirrors::{Location, Upstream};
pub use watch::{MAX_WATCHED_TAGS, WatchStatus, WatchedRepository, Watching};

use super::remote::RemoteError;
use super::{Answer, Arriving, Change, Elsewhere, Found, Named, Registry, blocking};
use crate::oci::{Descriptor, Digest, Repository, Tag};
use keep::Keeper;
use streamer::{BlobStreamer, Kind};

/// How long a tag is asked for before what was last known counts.
const TAG_PATIENCE: Duration = Duration::from_secs(10);

/// The upstreams of a registry.
pub struct Upstreams {
    registry: Registry,
    upstreams: Vec<Arc<Upstream>>,
    keeper: Arc<Keeper>,
    streamer: BlobStreamer,
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
        Self { registry: registry.clone(), upstreams, streamer: BlobStreamer::new(Arc::clone(&keeper)), keeper }
    }

    /// The upstream that speaks for a repository, and what it calls that.
    fn of(&self, repository: &Repository) -> Option<(&Arc<Upstream>, Repository)> {
        self.upstreams.iter().find_map(|upstream| Some((upstream, upstream.beneath(repository)?)))
    }

    async fn ask(&self, upstream: &Upstream, there: &Repository, tag: &Tag) -> Result<Option<Descriptor>, RemoteError> {
        let mut failed = None;
        for mirror in upstream.order() {
            match mirror.remote.resolve(there, tag).await {
                Ok(descriptor) => return Ok(Some(descriptor)),
                Err(RemoteError::NotFound { .. }) => {}
                Err(error) => {
                    tracing::debug!(repository = %there, %tag, %error, "an upstream does not say what a tag points to");
                    mirror.rest();
                    failed = Some(error);
                }
            }
        }
        // That one does not have it says nothing while another cannot be asked.
        failed.map_or(Ok(None), Err)
    }
}

impl Elsewhere for Upstreams {
    fn resolve<'a>(&'a self, repository: &'a Repository, tag: &'a Tag) -> Answer<'a, Option<Named>> {
        Box::pin(async move {
            let (upstream, there) = self.of(repository)?;
            if !upstream.rests() {
                let asked = tokio::time::timeout(TAG_PATIENCE, self.ask(upstream, &there, tag)).await;
                if let Ok(Ok(said)) = asked {
                    upstream.set_unsure(false);
                    let (keeper, repository, tag) = (Arc::clone(&self.keeper), repository.clone(), tag.clone());
                    return match said {
                        None => None,
                        Some(descriptor) => blocking(move || keeper.note_tag(&repository, &tag, &descriptor)).await.ok(),
                    };
                }
            }
            upstream.set_unsure(true);
            let (keeper, repository, tag) = (Arc::clone(&self.keeper), repository.clone(), tag.clone());
            blocking(move || keeper.last_known(&repository, &tag)).await.ok().flatten()
        })
    }

    fn is_unsure(&self, repository: &Repository) -> bool {
        self.of(repository).is_some_and(|(upstream, _)| upstream.is_unsure())
    }

    fn find<'a>(&'a self, repository: &'a Repository, digest: &'a Digest) -> Answer<'a, Option<Found>> {
        Box::pin(async move {
            let (upstream, there) = self.of(repository)?;
            self.streamer.find(Kind::Blob, upstream, there, repository, digest).await
        })
    }

    fn find_manifest<'a>(&'a self, repository: &'a Repository, digest: &'a Digest) -> Answer<'a, Option<Found>> {
        Box::pin(async move {
            let (upstream, there) = self.of(repository)?;
            self.streamer.find(Kind::Manifest, upstream, there, repository, digest).await
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

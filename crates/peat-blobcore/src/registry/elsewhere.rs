//! The way to what is not here. The node answers it with the mesh; tests with what they like.

use std::future::Future;
use std::ops::Range;
use std::pin::Pin;

use tokio::sync::watch;

use super::{Backed, Flight, Gift, Held, Wanted};
use crate::model::{BlobHash, EndpointId, Timestamp};
use crate::oci::{Descriptor, Digest, Repository, Tag, media_type};

/// What comes of a question, later.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Where a registry asks for what it does not hold: the mesh, an upstream. It is asked before every answer of "not here", and an
/// answer may be waited for, within a bound that the asker sets by dropping it. Several are asked in the order of their
/// [`Rank`](super::Rank).
pub trait Elsewhere: Send + Sync + 'static {
    /// What a tag points to, as others say.
    fn resolve<'a>(&'a self, repository: &'a Repository, tag: &'a Tag) -> Answer<'a, Option<Named>>;

    /// Whether whoever decides over the repository's tags could not be asked the last time, so that what is said of them may be
    /// out of date.
    fn is_unsure(&self, repository: &Repository) -> bool {
        let _ = repository;
        false
    }

    /// A manifest or blob that the repository has elsewhere. It is being fetched from then on, into the registry's store; what
    /// is there whole already is answered as such.
    fn find<'a>(&'a self, repository: &'a Repository, digest: &'a Digest) -> Answer<'a, Option<Found>>;

    /// The same of what the asker knows to be a manifest, for those that keep the two apart.
    fn find_manifest<'a>(&'a self, repository: &'a Repository, digest: &'a Digest) -> Answer<'a, Option<Found>> {
        self.find(repository, digest)
    }

    /// Whether a manifest or blob is known to be elsewhere in the repository. Nobody is asked, and nothing is fetched.
    fn has(&self, repository: &Repository, digest: &Digest) -> bool {
        self.size(repository, digest).is_some()
    }

    /// Asks upstreams, and them alone, on behalf of another node.
    fn give<'a>(&'a self, wanted: &'a Wanted) -> Answer<'a, Gift> {
        let _ = wanted;
        Box::pin(std::future::ready(Gift::CannotAsk))
    }

    /// The size in bytes of a manifest or blob that is known to be elsewhere in the repository, as others say. Nobody is asked, and
    /// nothing is fetched; it may block.
    fn size(&self, repository: &Repository, digest: &Digest) -> Option<u64> {
        let _ = (repository, digest);
        None
    }

    /// Has these bytes of what is arriving fetched before the rest. Said by whoever waits for them each time that something else
    /// has come, on a thread that may block.
    fn hurry(&self, arriving: &Arriving, range: Range<u64>);

    /// What has arrived is not what was claimed: whoever claimed it is not to be believed again.
    fn disprove(&self, repository: &Repository, digest: &Digest, arriving: &Arriving);

    /// The repositories that others have, in any order.
    fn repositories(&self) -> Vec<Repository>;

    /// The tags that others have in a repository, in any order.
    fn tags(&self, repository: &Repository) -> Vec<Tag>;

    /// The manifests that others have about this one, in any order.
    fn referrers(&self, repository: &Repository, subject: &Digest) -> Vec<Descriptor>;

    /// Said after a change that is durable, on the thread that made it, which may block.
    fn changed(&self, change: &Change);
}

/// What a tag points to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The manifest.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// Its size in bytes.
    pub size: u64,
    /// When the tag was set: of two the later one counts.
    pub set_at: Timestamp,
}

/// What was found. Clones are of the same.
#[derive(Debug, Clone)]
pub enum Found {
    /// It is the repository's now, whole and by its digest.
    Here(Held, String),
    /// Others claim to have it; it comes into the store piece by piece.
    Claimed(Arriving),
    /// The same, and somebody else is asked for it if nothing comes.
    Backed(Backed),
    /// An upstream gives it: it is known to be right only once all of it has come.
    Streamed(Flight),
}

impl Found {
    /// Its size in bytes, as far as is known before it is here.
    #[must_use]
    pub fn size(&self) -> u64 {
        match self {
            Self::Here(held, _) => held.size,
            Self::Claimed(arriving) => arriving.size,
            Self::Backed(backed) => backed.arriving().size,
            Self::Streamed(flight) => flight.size(),
        }
    }

    /// Its media type, as far as is known before it is here.
    #[must_use]
    pub fn media_type(&self) -> &str {
        match self {
            Self::Here(_, media_type) => media_type,
            Self::Claimed(arriving) => &arriving.media_type,
            Self::Backed(backed) => &backed.arriving().media_type,
            Self::Streamed(_) => media_type::OCTET_STREAM,
        }
    }
}

impl From<Arriving> for Found {
    fn from(arriving: Arriving) -> Self {
        Self::Claimed(arriving)
    }
}

/// Content on its way into the store. Clones are of the same.
#[derive(Debug, Clone)]
pub struct Arriving {
    /// The blob that somebody claims it to be.
    pub hash: BlobHash,
    /// Its size in bytes, by the same claim.
    pub size: u64,
    /// Its media type, by the same claim.
    pub media_type: String,
    /// Who claims it.
    pub claimed_by: EndpointId,
    /// How far it is. It changes, if only by being sent again, whenever more of it is verified; when its sender is gone
    /// the store is looked at a last time.
    pub progress: watch::Receiver<Arrival>,
}

/// How far something that arrives is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Arrival {
    /// It comes. What of it is verified the store says.
    Coming,
    /// All of it is in the store, durably.
    Whole,
    /// It will not come, and why.
    Failed(String),
}

/// Something that others may want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A manifest was put here; everything that it names is here.
    ManifestPut(Repository, Digest),
    /// A tag was set here.
    TagSet(Repository, Tag, Digest),
    /// A manifest was removed here, with the tags that pointed to it.
    ManifestRemoved(Repository, Digest),
    /// A tag was removed here.
    TagRemoved(Repository, Tag),
    /// A blob was removed from a repository here.
    BlobRemoved(Repository, Digest),
}

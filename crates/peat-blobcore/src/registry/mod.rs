//! The node's registry: images and artifacts of the OCI that are here, by repository, and the way to those that are elsewhere.
//!
//! - `catalog`: what is here, in one file; `pins`: what is kept for it, and that both agree again after a crash
//! - in: `uploads` takes blobs piece by piece, `blobs` what the store has already, `manifests` what ties blobs together
//! - across: `package` is a manifest with all that it names, as it travels, `claims` what others say that they have
//! - out: `blobs`, `manifests`, `listing`; `elsewhere` is the way to what others have, `chain` asks several, `arriving` reads it while
//!   it comes, and `backed` turns to the next where nothing does
//! - `errand` is what nodes ask each other's upstreams for
//! - `step` is how far a part of an image is; `inspect` shows what an image is, and `news` tells those who watch
//! - `sideload` serves images from files by patterns of their paths
//! - `archive` reads and writes layouts and archives, by `closure`; `files` has them go into repositories and out
//! - `http` speaks the distribution protocol, and `remote` does as the client of other registries (feature `http`)
//!
//! Nothing here knows of peers or documents, and nothing that is listed lacks a byte: a manifest is taken once all that it names
//! is here. Calls that are not `async` may block on the disk: make them on blocking threads. Must never call a blob by a digest
//! that was not computed here.

pub mod archive;
mod arriving;
mod backed;
mod blobs;
mod catalog;
mod chain;
mod claims;
mod closure;
mod elsewhere;
mod errand;
mod error;
mod files;
mod flight;
#[cfg(feature = "http")]
pub mod http;
mod inspect;
mod listing;
mod manifests;
mod news;
mod package;
mod pins;
#[cfg(feature = "http")]
pub mod remote;
pub mod sideload;
mod step;
mod stream;
#[cfg(test)]
mod tests;
mod uploads;
#[cfg(feature = "http")]
pub mod upstream;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

pub use backed::Backed;
pub use blobs::Held;
pub use chain::Rank;
pub(crate) use claims::read as claimed;
pub use claims::{Claim, Claimed, ClaimedBlob, Claims};
pub(crate) use closure::is_manifest;
pub use closure::{Closure, ClosureError, matches_platform};
pub use elsewhere::{Answer, Arrival, Arriving, Change, Elsewhere, Found, Named};
pub use errand::{Gift, Given, Members, Pieces, Refusal, Thing, Wanted};
pub use error::RegistryError;
pub use files::ImportedImage;
pub use flight::Flight;
pub use inspect::{InspectedPart, Inspection};
pub use listing::Page;
pub use manifests::{Put, Stored};
pub use news::NamedPackage;
pub(crate) use news::PackageNews;
pub use package::Part;
pub use step::{PartProgress, PartStep};
pub use stream::BlobStream;
pub use uploads::{LONGEST_SILENCE, MAX_UPLOADS, UploadId};

use crate::clock::Clock;
use crate::content::Content;
use catalog::Catalog;
use chain::Chain;

/// The registry of one node: a cheap handle, to be cloned.
#[derive(Clone)]
pub struct Registry(Arc<Inner>);

struct Inner {
    content: Content,
    catalog: Catalog,
    clock: Arc<dyn Clock>,
    elsewhere: RwLock<Option<Arc<Chain>>>,
    uploads: uploads::Uploads,
    #[cfg(feature = "http")]
    there: remote::There,
    news: news::Board,
    /// Held while the catalog and the pins change together. Never while a body comes or goes.
    changing: Mutex<()>,
}

impl Registry {
    /// Opens the registry whose catalog is the file `catalog`, made if it is missing, over the store that has its bytes. What a
    /// crash left half-done between the two is set right.
    ///
    /// # Errors
    /// When the catalog or the store cannot be read or written.
    pub fn open(catalog: &Path, content: Content, clock: Arc<dyn Clock>) -> Result<Self, RegistryError> {
        let registry = Self(Arc::new(Inner {
            content,
            catalog: Catalog::open(catalog)?,
            clock,
            elsewhere: RwLock::default(),
            uploads: uploads::Uploads::default(),
            #[cfg(feature = "http")]
            there: remote::There::default(),
            news: news::Board::default(),
            changing: Mutex::default(),
        }));
        registry.settle_pins()?;
        Ok(registry)
    }

    /// Asks here alone for what it does not hold from now on; `None` ends all asking.
    pub fn set_elsewhere(&self, elsewhere: Option<Arc<dyn Elsewhere>>) {
        *self.0.elsewhere.write().unwrap_or_else(PoisonError::into_inner) = elsewhere.map(|it| Arc::new(Chain::of(it)));
    }

    /// Asks here too from now on, in the order of ranks; what had this rank is asked no more.
    pub fn add_elsewhere(&self, rank: Rank, elsewhere: Arc<dyn Elsewhere>) {
        let mut chain = self.0.elsewhere.write().unwrap_or_else(PoisonError::into_inner);
        let longer = chain.as_deref().cloned().unwrap_or_default().with(rank, elsewhere);
        *chain = Some(Arc::new(longer));
    }

    /// Where it asks for what it does not hold.
    #[must_use]
    pub fn elsewhere(&self) -> Option<Arc<dyn Elsewhere>> {
        let chain = self.0.elsewhere.read().unwrap_or_else(PoisonError::into_inner).clone();
        chain.map(|chain| chain as Arc<dyn Elsewhere>)
    }

    /// The store that has its bytes.
    #[must_use]
    pub fn content(&self) -> &Content {
        &self.0.content
    }

    /// Closes the catalog. Uploads that were not ended are gone; everything that is asked from then on fails.
    pub fn close(&self) {
        self.set_elsewhere(None);
        self.0.uploads.clear();
        self.0.news.close();
        self.0.catalog.close();
    }

    /// Word of what changes from now on.
    pub(crate) fn news(&self) -> tokio::sync::broadcast::Receiver<PackageNews> {
        self.0.news.listen()
    }

    /// Says that something has changed, to who watches.
    pub(crate) fn note(&self, news: PackageNews) {
        self.0.news.tell(news);
    }

    fn tell(&self, change: &Change) {
        if let Change::ManifestRemoved(repository, digest) = change {
            self.note(PackageNews::Here(NamedPackage { repository: repository.clone(), digest: *digest }));
        }
        if let Some(elsewhere) = self.elsewhere() {
            elsewhere.changed(change);
        }
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.0.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Registry").field(&self.0.content).finish()
    }
}

/// Runs what blocks off the async threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RegistryError> + Send + 'static,
) -> Result<T, RegistryError> {
    // Only a runtime that shuts down cancels blocking work.
    tokio::task::spawn_blocking(work).await.map_err(|_| RegistryError::Stopped)?
}

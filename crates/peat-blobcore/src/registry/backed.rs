//! What other nodes claim to have, where somebody later in the order can be turned to if nothing of it comes: read as one. What
//! came by the claim and what comes from the other are never both given out unless they are found to be parts of the same.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::OnceCell;

use super::arriving::WITHHELD;
use super::{Arriving, Elsewhere, Found, Held, Registry, RegistryError};
use crate::oci::{Digest, Repository};

/// How long nothing may come of what other nodes claim to have before somebody else is turned to: a thin link takes its time for
/// the first bytes, and what has to come again from elsewhere may cross it twice.
const PATIENCE: Duration = Duration::from_secs(8);
/// The same for a while after that was waited for in vain: an image has many blobs, and all of them are with who is gone.
const PATIENCE_AFTER: Duration = Duration::from_secs(1);
const AFTER: Duration = Duration::from_secs(60);
/// The same once some of it has come: whoever gave it is there, or was.
const PATIENCE_BETWEEN: Duration = Duration::from_secs(20);

/// When something was waited for in vain the last time.
#[derive(Debug, Clone, Default)]
pub(super) struct InVain(Arc<Mutex<Option<Instant>>>);

impl InVain {
    fn note(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn patience(&self) -> Duration {
        let last = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|last| last.elapsed() < AFTER) { PATIENCE_AFTER } else { PATIENCE }
    }
}

/// A claim, and who is asked if nothing comes of it. Clones are of the same, for one reader.
#[derive(Clone)]
pub struct Backed(Arc<Inner>);

struct Inner {
    repository: Repository,
    digest: Digest,
    is_manifest: bool,
    arriving: Arriving,
    later: Vec<Arc<dyn Elsewhere>>,
    in_vain: InVain,
    /// What was found when it was turned to them; nothing if they have it neither.
    turned: OnceCell<Option<Found>>,
    /// Whether bytes were given out that came by the claim.
    gave: AtomicBool,
}

impl Backed {
    pub(super) fn new(
        (repository, digest, is_manifest): (&Repository, &Digest, bool),
        arriving: Arriving,
        later: Vec<Arc<dyn Elsewhere>>,
        in_vain: InVain,
    ) -> Self {
        Self(Arc::new(Inner {
            repository: repository.clone(),
            digest: *digest,
            is_manifest,
            arriving,
            later,
            in_vain,
            turned: OnceCell::new(),
            gave: AtomicBool::new(false),
        }))
    }

    /// What is claimed.
    #[must_use]
    pub fn arriving(&self) -> &Arriving {
        &self.0.arriving
    }

    /// What was found elsewhere when nothing came of the claim.
    pub(super) fn turned(&self) -> Option<&Found> {
        self.0.turned.get()?.as_ref()
    }

    pub(super) async fn settle(&self, registry: &Registry) -> Result<Held, RegistryError> {
        let Inner { repository, digest, arriving, .. } = &*self.0;
        match self.either(registry.settle(repository, digest, arriving)).await {
            Came::Claimed(held) => held,
            Came::Turned(found) => registry.settle_found(repository, digest, found).await,
        }
    }

    pub(super) async fn read(&self, registry: &Registry, range: Range<u64>, most: usize) -> Result<Vec<u8>, RegistryError> {
        let Inner { repository, digest, arriving, gave, .. } = &*self.0;
        let found = match self.either(registry.read_arriving(repository, digest, arriving, range.clone(), most)).await {
            Came::Claimed(bytes) => {
                gave.store(true, Ordering::Relaxed);
                return bytes;
            }
            Came::Turned(found) => found,
        };
        // The reader was told how long it is by the claim, and how long it is elsewhere is no more than a word either, until the
        // digest is found to be right.
        let is_end = range.start >= arriving.size.saturating_sub(WITHHELD) || matches!(found, Found::Here(..));
        let gave = gave.load(Ordering::Relaxed);
        if found.size() != arriving.size || is_end && gave {
            let held = registry.settle_found(repository, digest, found).await?;
            if held.size != arriving.size || gave && held.hash != arriving.hash {
                registry.disprove(repository, digest, arriving);
                return Err(RegistryError::FalseClaim(*digest));
            }
        }
        registry.read_found(repository, digest, found, range, most).await
    }

    /// What comes by the claim; or whom it was turned to, then or before.
    async fn either<T>(&self, claimed: impl Future<Output = Result<T, RegistryError>>) -> Came<'_, T> {
        let inner = &*self.0;
        if let Some(Some(found)) = inner.turned.get() {
            return Came::Turned(found);
        }
        tokio::pin!(claimed);
        let came = tokio::select! {
            biased;
            came = &mut claimed => came,
            // If they have it neither, it is waited for all the same.
            Some(found) = self.turn_when_silent() => return Came::Turned(found),
        };
        let may_turn = match &came {
            Err(RegistryError::NotComing { .. }) => true,
            // What was given out by it cannot be called back.
            Err(RegistryError::FalseClaim(_)) => !inner.gave.load(Ordering::Relaxed),
            _ => false,
        };
        match may_turn {
            true => self.turn().await.map_or(Came::Claimed(came), Came::Turned),
            false => Came::Claimed(came),
        }
    }

    async fn turn_when_silent(&self) -> Option<&Found> {
        let inner = &*self.0;
        let mut progress = inner.arriving.progress.clone();
        loop {
            let gave = inner.gave.load(Ordering::Relaxed);
            let patience = if gave { PATIENCE_BETWEEN } else { inner.in_vain.patience() };
            match tokio::time::timeout(patience, progress.changed()).await {
                Ok(Ok(())) => {}
                // Who reads hears of that.
                Ok(Err(_)) => std::future::pending().await,
                Err(_) => break,
            }
        }
        self.turn().await
    }

    async fn turn(&self) -> Option<&Found> {
        let Inner { repository, digest, later, is_manifest, in_vain, turned, .. } = &*self.0;
        let ask = async {
            for elsewhere in later {
                let found = match is_manifest {
                    true => elsewhere.find_manifest(repository, digest).await,
                    false => elsewhere.find(repository, digest).await,
                };
                if found.is_some() {
                    tracing::info!(%repository, %digest, "nothing comes from the nodes that claim to have it: it is asked for elsewhere");
                    in_vain.note();
                    return found;
                }
            }
            None
        };
        turned.get_or_init(|| ask).await.as_ref()
    }
}

/// Where something came from.
enum Came<'a, T> {
    Claimed(Result<T, RegistryError>),
    Turned(&'a Found),
}

impl std::fmt::Debug for Backed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Backed").field(&self.0.arriving).finish()
    }
}

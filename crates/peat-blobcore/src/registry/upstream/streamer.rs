//! One fetch for all who ask for the same of a repository. It has a slot from the first question until its end, and goes on when
//! those who asked have gone. Must never leave a slot behind, nor give content to who names a repository that the upstream did not
//! serve it for.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Semaphore, watch};

use super::fetch;
use super::keep::Keeper;
use super::mirrors::Upstream;
use crate::oci::{Digest, Repository};
use crate::registry::remote::RemoteError;
use crate::registry::{Flight, Found, RegistryError, blocking};

/// Most things that are asked for at once; what is more is answered as not there.
const MAX_SLOTS: usize = 1024;
/// Most that are fetched at once, in either way: each has a thread and a file.
const AT_ONCE: usize = 64;

/// What is asked for: a registry keeps the two apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Blob,
    Manifest,
}

/// Who is asked. What this node's own upstream is asked for is never given by waiting for another node, which may wait for this
/// one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Way {
    Own,
    Members,
}

type Key = (Repository, Digest, Kind, Way);

/// What a question has come to.
#[derive(Debug, Clone)]
pub(super) enum Reply {
    Found(Found),
    /// There is no such thing, as the upstream says.
    Nothing,
    /// Nobody could say so.
    Unknown,
}

/// How far the answer to a question is.
#[derive(Debug, Clone)]
enum Stage {
    Asking,
    Replied(Reply),
}

type Slots = Arc<Mutex<BTreeMap<Key, watch::Receiver<Stage>>>>;

/// The fetches that are under way. They end with it.
pub(super) struct BlobStreamer {
    keeper: Arc<Keeper>,
    slots: Slots,
    own_places: Arc<Semaphore>,
    /// Apart from the others, so that no two nodes wait for each other's.
    member_places: Arc<Semaphore>,
    alive: watch::Sender<()>,
}

/// A place among those that are under way: given back however the fetch ends.
struct Slot(Slots, Key);

impl Drop for Slot {
    fn drop(&mut self) {
        lock(&self.0).remove(&self.1);
    }
}

/// Changed by single calls: a panic elsewhere leaves it in order.
fn lock(slots: &Slots) -> MutexGuard<'_, BTreeMap<Key, watch::Receiver<Stage>>> {
    slots.lock().unwrap_or_else(PoisonError::into_inner)
}

impl BlobStreamer {
    pub(super) fn new(keeper: Arc<Keeper>) -> Self {
        let places = || Arc::new(Semaphore::new(AT_ONCE));
        let (own_places, member_places) = (places(), places());
        Self { keeper, slots: Slots::default(), own_places, member_places, alive: watch::Sender::new(()) }
    }

    /// Asks an upstream, which calls the repository `there`, or joins who asks already.
    pub(super) async fn find(
        &self,
        (kind, way): (Kind, Way),
        upstream: &Arc<Upstream>,
        there: Repository,
        repository: &Repository,
        digest: &Digest,
    ) -> Reply {
        let Some(mut stage) = self.join((repository.clone(), *digest, kind, way), upstream, there) else {
            return Reply::Unknown;
        };
        match stage.wait_for(|stage| !matches!(stage, Stage::Asking)).await.as_deref() {
            Ok(Stage::Replied(reply)) => reply.clone(),
            Ok(Stage::Asking) | Err(_) => Reply::Unknown,
        }
    }

    fn join(&self, key: Key, upstream: &Arc<Upstream>, there: Repository) -> Option<watch::Receiver<Stage>> {
        let mut slots = lock(&self.slots);
        if let Some(stage) = slots.get(&key) {
            return Some(stage.clone());
        }
        if slots.len() >= MAX_SLOTS {
            tracing::warn!(digest = %key.1, "too much is being fetched from upstreams");
            return None;
        }
        let (sender, stage) = watch::channel(Stage::Asking);
        slots.insert(key.clone(), stage.clone());
        let places = match key.3 {
            Way::Own => &self.own_places,
            Way::Members => &self.member_places,
        };
        let (places, mut alive) = (Arc::clone(places), self.alive.subscribe());
        let question = Question {
            slot: Slot(Arc::clone(&self.slots), key),
            upstream: Arc::clone(upstream),
            there,
            keeper: Arc::clone(&self.keeper),
            stage: sender,
        };
        tokio::spawn(async move {
            let work = async move {
                let _place = places.acquire().await;
                question.answer().await;
            };
            tokio::select! {
                () = work => {}
                // The registry is closed: nobody could keep what came.
                _ = alive.changed() => {}
            }
        });
        Some(stage)
    }

    #[cfg(test)]
    pub(super) fn slots(&self) -> usize {
        lock(&self.slots).len()
    }
}

/// A question to an upstream.
struct Question {
    slot: Slot,
    upstream: Arc<Upstream>,
    there: Repository,
    keeper: Arc<Keeper>,
    stage: watch::Sender<Stage>,
}

impl Question {
    async fn answer(self) {
        let Slot(_, (repository, digest, kind, _)) = &self.slot;
        let (repository, digest, kind) = (repository.clone(), *digest, *kind);
        let outcome = match kind {
            Kind::Manifest => self.manifest(&repository, &digest).await,
            Kind::Blob => self.blob(&repository, &digest).await,
        };
        match outcome {
            Ok(()) => {}
            Err(error) => {
                tracing::debug!(%repository, %digest, %error, "an upstream does not give it");
                drop(self.slot);
                let is_said = matches!(&error, RegistryError::Remote(error) if matches!(**error, RemoteError::NotFound { .. }));
                self.stage.send_replace(Stage::Replied(if is_said { Reply::Nothing } else { Reply::Unknown }));
            }
        }
    }

    async fn manifest(&self, repository: &Repository, digest: &Digest) -> Result<(), RegistryError> {
        let (keeper, within, name) = (Arc::clone(&self.keeper), repository.clone(), *digest);
        let here = blocking(move || keeper.manifest_here(&within, &name)).await?;
        let (held, media_type) = match here {
            Some(here) => here,
            None => {
                let named = fetch::manifest(&self.upstream, &self.there, digest).await?;
                let (keeper, within) = (Arc::clone(&self.keeper), repository.clone());
                blocking(move || keeper.take_manifest(&within, named)).await?
            }
        };
        self.stage.send_replace(Stage::Replied(Reply::Found(Found::Here(held, media_type))));
        Ok(())
    }

    async fn blob(&self, repository: &Repository, digest: &Digest) -> Result<(), RegistryError> {
        let (keeper, within, name) = (Arc::clone(&self.keeper), repository.clone(), *digest);
        // It may have come since the asker looked.
        if let Some(held) = blocking(move || keeper.blob_here(&within, &name)).await? {
            let media_type = crate::oci::media_type::OCTET_STREAM.to_owned();
            self.stage.send_replace(Stage::Replied(Reply::Found(Found::Here(held, media_type))));
            return Ok(());
        }
        let opened = fetch::open(&self.upstream, &self.there, digest).await?;
        let content = self.keeper.registry().content().clone();
        let (spool, reader) = blocking(move || {
            let spool = content.spool()?;
            let reader = spool.reader()?;
            Ok((spool, reader))
        })
        .await?;
        let (pilot, flight) = Flight::begin(*digest, opened.size(), reader);
        self.stage.send_replace(Stage::Replied(Reply::Found(Found::Streamed(flight))));
        let pilot = Arc::new(pilot);
        let outcome = fetch::fill(opened, (&self.there, digest), spool, &pilot, |spooled| {
            let (keeper, within, name) = (Arc::clone(&self.keeper), repository.clone(), *digest);
            blocking(move || keeper.take_blob(&within, &name, spooled))
        })
        .await;
        if let Err(error) = &outcome {
            tracing::warn!(%repository, %digest, %error, "a blob from an upstream is given up");
        }
        // Whoever hears that it failed may ask again at once.
        lock(&self.slot.0).remove(&self.slot.1);
        pilot.end(outcome);
        Ok(())
    }
}

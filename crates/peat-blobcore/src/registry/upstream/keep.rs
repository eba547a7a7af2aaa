//! What becomes of what came from an upstream: blobs and manifests are their repository's; a manifest whose closure is here is
//! kept with it, and told to other nodes; and what a tag was last known to be outlives the upstream's absence.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::content::{Pin, Spooled};
use crate::model::{Timestamp, encode};
use crate::oci::{Descriptor, Digest, MAX_MANIFEST_BYTES, Manifest, Reference, Repository, Tag};
use crate::registry::catalog::{self, LAST_KNOWN, LastKnownRow};
use crate::registry::remote::Manifest as Fetched;
use crate::registry::{Change, Held, Named, Registry, RegistryError};

/// Most manifests of which it is remembered that their closure is not here yet.
const MAX_PENDING: usize = 4096;
/// As good as for good.
const FOR_GOOD: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// Keeps what came, for good or for so long.
pub(super) struct Keeper {
    registry: Registry,
    keep: Option<Duration>,
    /// Manifests, with their media types, that wait for what they name.
    pending: Mutex<BTreeMap<(Repository, Digest), String>>,
}

impl Keeper {
    pub(super) fn new(registry: Registry, keep: Option<Duration>) -> Self {
        Self { registry, keep, pending: Mutex::default() }
    }

    pub(super) fn registry(&self) -> &Registry {
        &self.registry
    }

    pub(super) fn blob_here(&self, repository: &Repository, digest: &Digest) -> Result<Option<Held>, RegistryError> {
        self.registry.blob(repository, digest)
    }

    /// A manifest that came before, though not with all that it names.
    pub(super) fn manifest_here(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Option<(Held, String)>, RegistryError> {
        let Some(held) = self.registry.blob(repository, digest)? else { return Ok(None) };
        let bytes = self.registry.content().read_blob(&held.hash, MAX_MANIFEST_BYTES as u64 + 1)?;
        // A blob of the repository may have been no manifest all along.
        let Ok(manifest) = Manifest::parse(&bytes, None) else { return Ok(None) };
        self.expect(repository, digest, &manifest.media_type);
        Ok(Some((held, manifest.media_type)))
    }

    pub(super) fn take_manifest(&self, repository: &Repository, fetched: Fetched) -> Result<(Held, String), RegistryError> {
        let Fetched { descriptor, bytes } = fetched;
        if self.registry.is_blocked(repository, &descriptor.digest)? {
            let reference = Reference::Digest(descriptor.digest);
            return Err(RegistryError::NoManifest { repository: repository.clone(), reference });
        }
        let held = {
            // Until it has its lease.
            let _unpinned = self.registry.content().keep_unpinned();
            let hash = self.registry.content().ingest_bytes(&bytes)?.hash;
            let held = self.registry.adopt_blob(repository, &descriptor.digest, &hash)?;
            self.lease(repository, &descriptor.digest, &held, self.keep.unwrap_or(FOR_GOOD))?;
            held
        };
        self.expect(repository, &descriptor.digest, &descriptor.media_type);
        self.complete(repository);
        Ok((held, descriptor.media_type))
    }

    pub(super) fn take_blob(&self, repository: &Repository, digest: &Digest, spooled: Spooled) -> Result<Held, RegistryError> {
        if self.registry.is_blocked(repository, digest)? {
            return Err(RegistryError::NoBlob { repository: repository.clone(), digest: *digest });
        }
        let held = self.registry.take_spooled(repository, digest, spooled)?;
        if let Some(keep) = self.keep {
            self.lease(repository, digest, &held, keep)?;
        }
        self.complete(repository);
        Ok(held)
    }

    /// Remembers what a tag points to, as the upstream says now.
    pub(super) fn note_tag(&self, repository: &Repository, tag: &Tag, said: &Descriptor) -> Result<Named, RegistryError> {
        let now = self.registry.0.clock.now();
        let known = self.last_known(repository, tag)?;
        if known.is_none_or(|known| known.digest != said.digest) {
            let row = LastKnownRow {
                digest: said.digest.to_string(),
                media_type: said.media_type.clone(),
                size: said.size,
                known_at: now,
            };
            self.registry.0.catalog.write(|txn| {
                txn.open_table(LAST_KNOWN)?.insert((repository.as_str(), tag.as_str()), encode(&row).as_slice())?;
                Ok(())
            })?;
        }
        if self.keep.is_none() && self.registry.manifest_row(repository, &said.digest)?.is_some() {
            self.set_tag(repository, tag, &said.digest)?;
        }
        Ok(named(said.digest, said.media_type.clone(), said.size, now))
    }

    /// Remembers what a tag of an image that was brought to stay points to, and sets it.
    pub(super) fn follow_tag(&self, repository: &Repository, tag: &Tag, said: &Descriptor) -> Result<(), RegistryError> {
        self.note_tag(repository, tag, said)?;
        self.set_tag(repository, tag, &said.digest)
    }

    /// What a tag pointed to when the upstream was last asked.
    pub(super) fn last_known(&self, repository: &Repository, tag: &Tag) -> Result<Option<Named>, RegistryError> {
        let row: Option<LastKnownRow> = self.registry.0.catalog.row(LAST_KNOWN, repository, tag.as_str())?;
        row.map(|row| Ok(named(catalog::digest(&row.digest)?, row.media_type, row.size, row.known_at))).transpose()
    }

    /// The tags that were asked for.
    pub(super) fn tags(&self, repository: &Repository) -> Result<Vec<Tag>, RegistryError> {
        Ok(self.known(repository)?.into_iter().map(|(tag, _)| tag).collect())
    }

    fn known(&self, repository: &Repository) -> Result<Vec<(Tag, Digest)>, RegistryError> {
        self.registry.0.catalog.read(|txn| {
            let mut known = Vec::new();
            for entry in txn.open_table(LAST_KNOWN)?.range((repository.as_str(), "")..)? {
                let (key, row) = entry?;
                let (of, tag) = key.value();
                if of != repository.as_str() {
                    break;
                }
                let row: LastKnownRow = catalog::decode(row.value())?;
                if let Ok(tag) = tag.parse() {
                    known.push((tag, catalog::digest(&row.digest)?));
                }
            }
            Ok(known)
        })
    }

    fn lease(&self, repository: &Repository, digest: &Digest, held: &Held, keep: Duration) -> Result<(), RegistryError> {
        let until = self.registry.0.clock.now().plus(keep);
        let name = format!("upstream {repository} {digest}");
        Ok(self.registry.content().pin(&Pin::Lease { name, until }, &[held.hash])?)
    }

    fn expect(&self, repository: &Repository, digest: &Digest, media_type: &str) {
        // What goes after a while is not for others to rely on.
        if self.keep.is_some() {
            return;
        }
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if pending.len() >= MAX_PENDING {
            pending.pop_first();
        }
        pending.insert((repository.clone(), *digest), media_type.to_owned());
    }

    /// Keeps the manifests of a repository whose closure is here by now.
    fn complete(&self, repository: &Repository) {
        let pending: Vec<_> = {
            let pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
            let of = pending.iter().filter(|((of, _), _)| of == repository);
            of.map(|((_, digest), media_type)| (*digest, media_type.clone())).collect()
        };
        for (digest, media_type) in pending {
            match self.keep_whole(repository, &digest, &media_type) {
                Err(RegistryError::Missing(_)) => continue,
                Ok(()) => {}
                Err(error) => tracing::warn!(%repository, %digest, %error, "an image from an upstream is not kept"),
            }
            self.pending.lock().unwrap_or_else(PoisonError::into_inner).remove(&(repository.clone(), digest));
        }
    }

    fn keep_whole(&self, repository: &Repository, digest: &Digest, media_type: &str) -> Result<(), RegistryError> {
        let Some(held) = self.registry.blob(repository, digest)? else { return Ok(()) };
        let bytes = self.registry.content().read_blob(&held.hash, MAX_MANIFEST_BYTES as u64 + 1)?;
        if self.registry.is_blocked(repository, digest)? {
            return Ok(());
        }
        self.registry.keep_manifest(repository, digest, Some(media_type), &bytes)?;
        self.registry.tell(&Change::ManifestPut(repository.clone(), *digest));
        for (tag, of) in self.known(repository)? {
            if of == *digest {
                self.set_tag(repository, &tag, digest)?;
            }
        }
        Ok(())
    }

    /// Sets a tag here, and tells others of it, unless it is so already or was deleted here.
    fn set_tag(&self, repository: &Repository, tag: &Tag, digest: &Digest) -> Result<(), RegistryError> {
        let is_set = self.registry.tag(repository, tag)?.is_some_and(|here| here.digest == *digest);
        if is_set || self.registry.is_blocked(repository, tag)? {
            return Ok(());
        }
        self.registry.set_tag(repository, tag, digest)
    }
}

fn named(digest: Digest, media_type: String, size: u64, set_at: Timestamp) -> Named {
    Named { digest, media_type, size, set_at }
}

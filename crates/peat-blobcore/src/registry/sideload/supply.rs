//! What somebody asks for is taken from its file into the store: by its digest, durably, and under a lease. Must never call a blob
//! by a digest that was not computed while it was taken.

use std::io::Read;
use std::sync::Arc;

use super::Sideload;
use super::index::LiesRow;
use super::known::{Blob, Entry, Image};
use super::place::{self, Opened};
use crate::content::Content;
use crate::model::BlobHash;
use crate::oci::{Digest, Repository};
use crate::registry::archive::{ArchiveError, read_at};
use crate::registry::{Held, Registry, RegistryError, blocking};

/// Bytes that are read at a time.
const STEP_BYTES: usize = 256 * 1024;

impl Sideload {
    /// Whether a repository has these bytes under this digest in a file.
    pub(crate) fn has_hash(&self, repository: &Repository, digest: &Digest, hash: &BlobHash) -> bool {
        let is = |entry: &Arc<Entry>| {
            let image = entry.image.as_ref().ok();
            let blob = image.and_then(|image| image.blobs.get(digest));
            entry.repository == *repository && blob.is_some_and(|blob| blob.hash == *hash)
        };
        let entries: Vec<_> = self.known().with(hash).filter(|entry| is(entry)).cloned().collect();
        entries.iter().any(|entry| self.is_current(entry))
    }

    /// Has those of these blobs that are in files be in the store, if they can be; returns once they are.
    pub(crate) async fn supply(&self, hashes: &[BlobHash]) {
        for hash in hashes {
            // Nearly always.
            if self.known().with(hash).next().is_none() {
                continue;
            }
            let (content, wanted) = (self.0.registry.content().clone(), *hash);
            if blocking(move || Ok(content.holds(&wanted)?)).await.unwrap_or(false) {
                continue;
            }
            let found: Vec<_> = {
                let known = self.known();
                let entries = known.with(hash).filter_map(|entry| {
                    let image = entry.image.as_ref().ok()?;
                    let (digest, _) = image.blobs.iter().find(|(_, blob)| blob.hash == *hash)?;
                    Some((Arc::clone(entry), *digest))
                });
                entries.collect()
            };
            for (entry, digest) in found {
                match self.take(&entry, digest).await {
                    Ok(_) => break,
                    Err(error) => tracing::warn!(path = %entry.path.display(), %digest, %error, "cannot take a blob from a file"),
                }
            }
        }
    }

    /// Takes a blob of a file into the store and its repository, unless it is there. One at a time from each file, since from one
    /// that is compressed all of its blobs are taken.
    pub(super) async fn take(&self, entry: &Arc<Entry>, digest: Digest) -> Result<Held, RegistryError> {
        let _turn = entry.taking.lock().await;
        let (sideload, entry) = (self.clone(), Arc::clone(entry));
        blocking(move || sideload.take_now(&entry, &digest)).await
    }

    fn take_now(&self, entry: &Entry, digest: &Digest) -> Result<Held, RegistryError> {
        let registry = &self.0.registry;
        let not_here = || RegistryError::NoBlob { repository: entry.repository.clone(), digest: *digest };
        let image = entry.image.as_ref().map_err(|_| not_here())?;
        let blob = image.blobs.get(digest).ok_or_else(not_here)?;
        if registry.is_blocked(&entry.repository, digest)? {
            return Err(not_here());
        }
        // From before, or from another file.
        if let Some(held) = adopt(registry, entry, digest, blob)? {
            return Ok(held);
        }
        let opened = place::open(self.0.patterns[entry.pattern].root(), &entry.beneath);
        let unreadable =
            |source| RegistryError::from(ArchiveError::Unreadable { what: entry.path.display().to_string(), source });
        let taken = match (&blob.lies, opened.map_err(unreadable)?) {
            (LiesRow::Here(bytes), _) => take_one(registry, entry, digest, blob, &mut bytes.as_slice()),
            (LiesRow::In(name), Opened::Directory(layout)) => {
                let file = place::file_of(&layout, name).map_err(unreadable)?.ok_or_else(not_here)?;
                take_one(registry, entry, digest, blob, &mut file.take(blob.size))
            }
            (LiesRow::At(_), Opened::File(file)) => self.take_from(entry, image, digest, &Arc::new(file)),
            _ => Err(not_here()),
        };
        taken?;
        registry.blob(&entry.repository, digest)?.ok_or_else(not_here)
    }

    /// Takes a blob from an archive, and from one that is compressed everything that is not here: to read one all before it is
    /// unpacked, and who asks for one wants the others.
    fn take_from(&self, entry: &Entry, image: &Image, digest: &Digest, file: &Arc<std::fs::File>) -> Result<(), RegistryError> {
        let registry = &self.0.registry;
        let mut wanted = Vec::new();
        for (name, blob) in &image.blobs {
            let LiesRow::At(at) = blob.lies else { continue };
            let is_asked_for = name == digest;
            if is_asked_for || (image.compressed && !registry.is_blocked(&entry.repository, name)?) {
                let is_here = !is_asked_for && adopt(registry, entry, name, blob)?.is_some();
                if !is_here {
                    wanted.push((at, name, blob));
                }
            }
        }
        wanted.sort_by_key(|(at, ..)| *at);
        let places: Vec<_> = wanted.iter().map(|(at, _, blob)| (*at, blob.size)).collect();
        read_at(file, image.compressed, self.0.limits, &places, &mut |number, source| {
            let (_, name, blob) = wanted[number];
            take_one(registry, entry, name, blob, source)
        })
    }
}

/// Makes a blob that the store has the repository's: it is in the file as well.
fn adopt(registry: &Registry, entry: &Entry, digest: &Digest, blob: &Blob) -> Result<Option<Held>, RegistryError> {
    let held = Held { hash: blob.hash, size: blob.size };
    let _unpinned = registry.content().keep_unpinned();
    if registry.content().size(&blob.hash)? != Some(blob.size) {
        return Ok(None);
    }
    registry.take_in(&entry.repository, digest, held)?;
    Ok(Some(held))
}

/// Takes bytes that are to be a blob into the store.
fn take_one(
    registry: &Registry,
    entry: &Entry,
    digest: &Digest,
    blob: &Blob,
    source: &mut dyn Read,
) -> Result<(), RegistryError> {
    let content: &Content = registry.content();
    let mut spool = content.spool()?;
    let mut buffer = vec![0; STEP_BYTES];
    loop {
        match source.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => spool.write(&buffer[..read])?,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(ArchiveError::read(entry.path.display())(error).into()),
        }
    }
    let hashed = content.hash_spooled(spool.end())?;
    // Both were computed over the same bytes when the file was looked at, beside a SHA-512 that names them.
    if hashed.blob().hash != blob.hash || hashed.blob().sha256 != blob.sha256 {
        return Err(ArchiveError::Mismatch { name: entry.path.display().to_string(), digest: *digest }.into());
    }
    let _unpinned = content.keep_unpinned();
    let mut batch = content.batch();
    batch.add_hashed(hashed)?;
    batch.commit()?;
    registry.take_in(&entry.repository, digest, Held { hash: blob.hash, size: blob.size })
}

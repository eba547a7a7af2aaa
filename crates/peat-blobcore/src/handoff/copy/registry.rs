//! A registry of ours that this process has open.

use std::ops::ControlFlow;
use std::path::Path;

use super::{CopyError, ImageStore, Opened};
use crate::content::{Shared, Sharing};
use crate::oci::{Descriptor, Digest, ImageReference, Reference, Repository, Tag};
use crate::registry::{Registry, RegistryError};

/// Most manifests about an image that go with it.
const MAX_ABOUT: usize = 1000;

/// The registry.
#[derive(Debug, Clone)]
pub struct RegistryStore(Registry);

impl RegistryStore {
    /// Images of this registry.
    #[must_use]
    pub fn new(registry: Registry) -> Self {
        Self(registry)
    }

    fn digest(&self, image: &ImageReference) -> Result<Option<Digest>, CopyError> {
        match image.reference() {
            Reference::Digest(digest) => Ok(Some(digest)),
            Reference::Tag(tag) => Ok(self.0.tag(&image.repository, &tag)?.map(|named| named.digest)),
        }
    }
}

impl ImageStore for RegistryStore {
    fn find(&mut self, image: &ImageReference) -> Result<(Descriptor, Vec<u8>), CopyError> {
        let stored = match self.digest(image)? {
            Some(digest) => self.0.manifest(&image.repository, &digest)?,
            None => None,
        };
        let stored = stored.ok_or_else(|| CopyError::NoImage(image.to_string()))?;
        Ok((Descriptor::new(stored.media_type, stored.digest, stored.bytes.len() as u64), stored.bytes))
    }

    fn about(&mut self, repository: &Repository, subject: &Digest) -> Result<Vec<Descriptor>, CopyError> {
        let mut about = Vec::new();
        for referrer in self.0.referrers(repository, subject, None, None, MAX_ABOUT)?.items {
            // What others have of it is not here to be copied.
            if let Some(named) = self.0.describe(repository, &referrer.digest)? {
                about.push(Descriptor::new(named.media_type, named.digest, named.size));
            }
        }
        Ok(about)
    }

    fn open(&mut self, repository: &Repository, part: &Descriptor) -> Result<Opened, CopyError> {
        if let Some(stored) = self.0.manifest(repository, &part.digest)? {
            return Ok(Opened::Bytes(stored.bytes));
        }
        let reader = match self.0.open_blob(repository, &part.digest) {
            Err(RegistryError::NoBlob { .. }) => return Err(CopyError::Missing(Box::new(part.digest))),
            reader => reader?,
        };
        match reader.file() {
            Some(file) => {
                let file = file.try_clone().map_err(CopyError::io("open", part.digest))?;
                Ok(Opened::File(file, Some(Box::new(reader))))
            }
            None => Ok(Opened::Bytes(reader.read_first(reader.size())?)),
        }
    }

    fn has(&mut self, repository: &Repository, part: &Descriptor) -> Result<bool, CopyError> {
        if crate::registry::is_manifest(part) {
            return Ok(self.0.describe(repository, &part.digest)?.is_some());
        }
        Ok(self.0.mount(repository, &part.digest, None)?.is_some_and(|held| held.size == part.size))
    }

    fn put(&mut self, repository: &Repository, part: &Descriptor, from: Opened, sharing: Sharing) -> Result<Shared, CopyError> {
        // Until it has its lease nothing keeps it.
        let _unpinned = self.0.content().keep_unpinned();
        let mut batch = self.0.content().batch();
        let (blob, shared) = match &from {
            Opened::Bytes(bytes) => (batch.add_bytes(bytes)?, Shared::Copied),
            Opened::File(file, _) => {
                let name = part.digest.to_string();
                batch.add_shared(file, Path::new(&name), sharing, &mut |_| ControlFlow::Continue(()))?
            }
        };
        if part.digest.sha256().is_some_and(|wanted| wanted != blob.sha256) || blob.size != part.size {
            return Err(CopyError::Mismatch(Box::new(part.digest)));
        }
        batch.commit()?;
        match self.0.adopt_blob(repository, &part.digest, &blob.hash) {
            Err(RegistryError::DigestDiffers { .. }) => Err(CopyError::Mismatch(Box::new(part.digest))),
            adopted => Ok(adopted.map(|_| shared)?),
        }
    }

    fn put_manifest(
        &mut self,
        repository: &Repository,
        part: &Descriptor,
        bytes: &[u8],
        _is_root: bool,
        tag: Option<&Tag>,
    ) -> Result<(), CopyError> {
        self.0.put_manifest(repository, &part.digest.into(), Some(&part.media_type), bytes)?;
        if let Some(tag) = tag {
            self.0.set_tag(repository, tag, &part.digest)?;
        }
        Ok(())
    }
}

//! Images between files and repositories: what an archive has becomes part of a repository under its tags, and back.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::sync::{Arc, RwLockReadGuard};

use super::archive::{self, ArchiveError, Export, Format, ImportOptions, Imported, ImportedBlob, Origin, Root, Taking};
use super::blobs::LEASE;
#[cfg(feature = "http")]
use super::remote::{Pushed, Remote, RemoteError};
use super::{Change, Part, Registry, RegistryError};
#[cfg(feature = "http")]
use super::{PartProgress, PartStep};
use crate::content::{Ingested, Pin};
#[cfg(feature = "http")]
use crate::model::BlobHash;
use crate::oci::{Descriptor, Digest, ImageReference, Repository, Tag};
#[cfg(feature = "http")]
use crate::oci::{Platform, Reference};

/// Manifests about an image that are pushed with it.
#[cfg(feature = "http")]
const MAX_REFERRERS: usize = 100;

/// An image that came out of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportedImage {
    /// The repository that it is in now.
    pub repository: Repository,
    /// The tags that were set; none for what is about another manifest.
    pub tags: Vec<Tag>,
    /// Its manifest.
    pub digest: Digest,
    /// The bytes of its blobs.
    pub size: u64,
}

impl Registry {
    /// Takes in the images of an archive, each under the name that it has there; `into` names the one image of an archive that has
    /// no name, or another. Others are told of them. `progress` hears of each file that is taken. Blocks.
    ///
    /// # Errors
    /// [`RegistryError::Archive`] when the archive is not good, [`RegistryError::NoName`] when it is not said where an image
    /// belongs, else what the store fails with. Nothing shows in a repository then that was not whole.
    pub fn import(
        &self,
        origin: Origin<'_>,
        into: Option<&ImageReference>,
        options: &ImportOptions,
        progress: &mut Taking<'_>,
    ) -> Result<Vec<ImportedImage>, RegistryError> {
        let unpinned = self.content().keep_unpinned();
        let imported = archive::import(self.content(), origin, options, progress)?;
        let names = imported.roots.iter().map(|root| named(root, into, imported.roots.len()));
        let names = names.collect::<Result<Vec<_>, _>>()?;
        self.take(&imported, &names, unpinned)
    }

    /// Pulls an image of another registry, with what is about it. It has the same name here, without the registry. `progress` hears
    /// what becomes of each part. Blocks, on a thread beside the runtime.
    ///
    /// # Errors
    /// [`RegistryError::Remote`], or those of [`Registry::import`].
    #[cfg(feature = "http")]
    pub fn pull(
        &self,
        remote: &Remote,
        image: &ImageReference,
        platform: Option<&Platform>,
        expected: Option<&Digest>,
        progress: Arc<PartProgress<'static>>,
        runtime: &tokio::runtime::Handle,
    ) -> Result<Vec<ImportedImage>, RegistryError> {
        let unpinned = self.content().keep_unpinned();
        let reference = image.reference();
        let pull = remote.pull(self.content(), &image.repository, (&reference, expected), platform, progress);
        let imported = runtime.block_on(pull).map_err(|error| match error {
            RemoteError::Another { expected, actual } => RegistryError::DigestDiffers { claimed: expected, actual },
            error => RegistryError::Remote(Arc::new(error)),
        })?;
        for blob in &imported.blobs {
            self.0.there.note(remote.registry(), blob.digest, &image.repository);
        }
        // Of an image that is named by its digest no tag is moved but one that is named too; what is about it has none.
        let latest = image.digest.is_none().then(Tag::latest);
        let tags: BTreeSet<Tag> = image.tag.clone().or(latest).into_iter().collect();
        let names = |tags: BTreeSet<Tag>| BTreeMap::from([(image.repository.clone(), tags)]);
        let rest = imported.roots.iter().skip(1).map(|_| names(BTreeSet::new()));
        let names: Vec<_> = std::iter::once(names(tags)).chain(rest).collect();
        self.take(&imported, &names, unpinned)
    }

    /// Pushes an image or artifact of a repository to another registry, where it gets the name `image`, and what is about it here
    /// (signatures) behind it. What is there is not sent; what another repository there has is mounted: one of `mount_from`, or the
    /// last to which this process pushed that blob, or from which it pulled it. `progress` hears what becomes of each part. Blocks, on a thread
    /// beside the runtime.
    ///
    /// # Errors
    /// [`RegistryError::NoManifest`] when it is not here, [`RegistryError::Remote`] with what the other registry says.
    #[cfg(feature = "http")]
    #[allow(clippy::too_many_arguments, reason = "each is something else, and a struct of them would have one user")]
    pub fn push(
        &self,
        repository: &Repository,
        digest: &Digest,
        remote: &Remote,
        image: &ImageReference,
        mount_from: &[Repository],
        progress: &PartProgress<'_>,
        runtime: &tokio::runtime::Handle,
    ) -> Result<Pushed, RegistryError> {
        let host = remote.registry();
        let mounts = |digest: &Digest| mount_from.iter().cloned().chain(self.0.there.find(host, digest)).collect();
        let progress = |part: &Descriptor, step: PartStep| {
            if !matches!(step, PartStep::Moved(_)) {
                self.0.there.note(host, part.digest, &image.repository);
            }
            progress(part, step);
        };
        let push = |digest: &Digest, reference: &Reference| {
            let (_, parts) = self.package(repository, digest)?;
            let root = parts.first().expect("a package has its manifest first");
            let root = Descriptor::new(root.media_type.clone(), root.digest, root.size);
            let hashes: BTreeMap<Digest, BlobHash> = parts.iter().map(|part| (part.digest, part.hash)).collect();
            let lookup = |digest: &Digest| hashes.get(digest).copied();
            let push = remote.push(self.content(), &lookup, &root, &image.repository, reference, &mounts, &progress);
            runtime.block_on(push).map_err(|error| RegistryError::Remote(Arc::new(error)))
        };
        let mut pushed = push(digest, &image.reference())?;
        for about in self.referrers(repository, digest, None, None, MAX_REFERRERS)?.items {
            // What others have of it they can push.
            if self.describe(repository, &about.digest)?.is_some() {
                pushed += push(&about.digest, &about.digest.into())?;
            }
        }
        Ok(pushed)
    }

    /// Has what is in the store become part of repositories.
    fn take(
        &self,
        imported: &Imported,
        names: &[BTreeMap<Repository, BTreeSet<Tag>>],
        unpinned: RwLockReadGuard<'_, ()>,
    ) -> Result<Vec<ImportedImage>, RegistryError> {
        // Each is kept before anything is told: `keep_manifest` takes the same guard.
        let mut images = Vec::new();
        let parts: BTreeMap<_, _> = imported.blobs.iter().map(|blob| (blob.digest, part(blob))).collect();
        for (root, names) in imported.roots.iter().zip(names) {
            let closure = self.closure_among(&root.descriptor, &parts)?;
            let hashes: Vec<_> = closure.iter().map(|part| part.hash).collect();
            for (repository, tags) in names {
                let name = format!("import {repository} {}", root.descriptor.digest);
                self.content().pin(&Pin::Lease { name, until: self.0.clock.now().plus(LEASE) }, &hashes)?;
                images.push((root.descriptor.digest, repository.clone(), tags.clone(), closure.clone()));
            }
        }
        drop(unpinned);
        images.into_iter().map(|(digest, repository, tags, parts)| self.keep_imported(digest, repository, tags, &parts)).collect()
    }

    fn keep_imported(
        &self,
        digest: Digest,
        repository: Repository,
        tags: BTreeSet<Tag>,
        parts: &[Part],
    ) -> Result<ImportedImage, RegistryError> {
        let size = parts.iter().map(|part| part.size).sum();
        self.keep_package(&repository, parts)?;
        self.tell(&Change::ManifestPut(repository.clone(), digest));
        for tag in &tags {
            self.set_tag(&repository, tag, &digest)?;
        }
        Ok(ImportedImage { repository, tags: tags.into_iter().collect(), digest, size })
    }

    /// Writes an image of a repository as an archive, in which it has this tag. What is written to is given back, flushed. Blocks.
    ///
    /// # Errors
    /// [`RegistryError::NoManifest`] when it is not here, [`RegistryError::Archive`] when it cannot be written in that form.
    pub fn export<W: Write>(
        &self,
        repository: &Repository,
        digest: &Digest,
        tag: Option<&Tag>,
        format: Format,
        out: W,
    ) -> Result<W, RegistryError> {
        let (_, parts) = self.package(repository, digest)?;
        let root = parts.first().expect("the manifest itself comes first");
        let descriptor = Descriptor::new(root.media_type.clone(), root.digest, root.size);
        let named = |tag: &Tag| match format {
            Format::DockerArchive => format!("{repository}:{tag}"),
            Format::OciLayout | Format::OciArchive => tag.to_string(),
        };
        let names = tag.map(named).into_iter().collect();
        let hashes: BTreeMap<_, _> = parts.iter().map(|part| (part.digest, part.hash)).collect();
        let lookup = |digest: &Digest| hashes.get(digest).copied();
        Ok(archive::export_to(self.content(), &lookup, &[Export { descriptor, names }], format, out)?)
    }
}

fn part(blob: &ImportedBlob) -> Part {
    let Ingested { hash, sha256, size } = blob.blob;
    Part { digest: blob.digest, hash, sha256, size, media_type: blob.media_type.clone() }
}

/// Where an image belongs: by what the caller says, else by what it is called in the archive.
fn named(
    root: &Root,
    into: Option<&ImageReference>,
    images: usize,
) -> Result<BTreeMap<Repository, BTreeSet<Tag>>, RegistryError> {
    let mut places: BTreeMap<Repository, BTreeSet<Tag>> = BTreeMap::new();
    if let Some(into) = into {
        let tags = places.entry(into.repository.clone()).or_default();
        match &into.tag {
            Some(_) if images > 1 => {
                return Err(RegistryError::NoName("an archive of several images cannot have one tag".to_owned()));
            }
            Some(tag) => _ = tags.insert(tag.clone()),
            None => {
                let own = root.names.iter().filter_map(|name| name.rsplit(['/', ':']).next()?.parse().ok());
                tags.extend(own);
                if tags.is_empty() && images == 1 {
                    tags.insert(Tag::latest());
                }
            }
        }
        return Ok(places);
    }
    for name in &root.names {
        // A layout may have but tags.
        let Ok(reference) = name.parse::<ImageReference>() else { continue };
        if name.contains([':', '/']) {
            places.entry(reference.repository).or_default().insert(reference.tag.unwrap_or_else(Tag::latest));
        }
    }
    match places.is_empty() {
        true => Err(RegistryError::NoName(format!("an image is called {:?} in the archive", root.names.join(", ")))),
        false => Ok(places),
    }
}

impl From<ArchiveError> for RegistryError {
    fn from(error: ArchiveError) -> Self {
        Self::Archive(Arc::new(error))
    }
}

//! The store of another process of this machine, over varlink: images blob by blob, as files.

use std::fs::File;
use std::os::fd::AsFd as _;

use super::wire::{self, About, Blob, HeldBlob, OpenedBlob, PutBlob, PutManifest, Refusal};
use super::{Client, STORE, VarlinkError, WhichRepository};
use crate::content::{Shared, Sharing};
use crate::handoff::copy::{CopyError, ImageStore, Opened};
use crate::oci::{Descriptor, Digest, ImageReference, Repository, Tag};

/// The registry of a node that runs.
#[derive(Debug)]
pub struct RemoteStore {
    client: Client,
    handle: u64,
}

impl RemoteStore {
    /// Opens the registry of a service.
    ///
    /// # Errors
    /// [`VarlinkError`], as of every call; `Senseless` where the service has no such interface.
    pub fn open(mut client: Client) -> Result<Self, VarlinkError> {
        if !client.service()?.interfaces.iter().any(|interface| interface == STORE) {
            return Err(VarlinkError::Senseless(format!("it has no {STORE}: it is not of a node, or of an older one")));
        }
        let handle = client.open_repository(&WhichRepository::Only)?.handle;
        Ok(Self { client, handle })
    }

    fn blob(&self, repository: &Repository, part: &Descriptor) -> Blob {
        Blob {
            handle: self.handle,
            repository: repository.to_string(),
            digest: part.digest.to_string(),
            size: part.size,
            media_type: part.media_type.clone(),
        }
    }
}

/// What a service said of a part.
fn of_part(part: &Descriptor) -> impl Fn(VarlinkError) -> CopyError {
    let digest = part.digest;
    move |error| match error {
        VarlinkError::Refused(Refusal::NoSuchLayer { .. }) => CopyError::Missing(Box::new(digest)),
        VarlinkError::Refused(Refusal::DiffIdMismatch { .. }) => CopyError::Mismatch(Box::new(digest)),
        error => error.into(),
    }
}

fn descriptor(told: wire::Described) -> Result<Descriptor, VarlinkError> {
    let digest: Digest = told.digest.parse().map_err(|error| VarlinkError::Senseless(format!("{}: {error}", told.digest)))?;
    Ok(Descriptor::new(told.media_type, digest, told.size))
}

impl ImageStore for RemoteStore {
    fn find(&mut self, image: &ImageReference) -> Result<(Descriptor, Vec<u8>), CopyError> {
        let asked = wire::Image { handle: self.handle, image: image.to_string() };
        let found: wire::FoundImage = self.client.call(STORE, "FindImage", &asked).map_err(|error| match error {
            VarlinkError::Refused(Refusal::NoSuchImage { image }) => CopyError::NoImage(image),
            error => error.into(),
        })?;
        Ok((descriptor(found.described)?, found.manifest.into_bytes()))
    }

    fn about(&mut self, repository: &Repository, subject: &Digest) -> Result<Vec<Descriptor>, CopyError> {
        let asked = About { handle: self.handle, repository: repository.to_string(), digest: subject.to_string() };
        let told: wire::Descriptions = self.client.call(STORE, "ListReferrers", &asked)?;
        Ok(told.referrers.into_iter().map(descriptor).collect::<Result<_, _>>()?)
    }

    fn open(&mut self, repository: &Repository, part: &Descriptor) -> Result<Opened, CopyError> {
        let asked = self.blob(repository, part);
        let (opened, file) = self.client.call_for_file::<_, OpenedBlob>(STORE, "OpenBlob", &asked).map_err(of_part(part))?;
        match (opened.text, file) {
            (Some(text), _) => Ok(Opened::Bytes(text.into_bytes())),
            // The service keeps it until the next call; the file stays what it is however that goes.
            (None, Some(file)) => Ok(Opened::File(File::from(file), None)),
            (None, None) => Err(VarlinkError::Senseless("a blob without bytes".to_owned()).into()),
        }
    }

    fn has(&mut self, repository: &Repository, part: &Descriptor) -> Result<bool, CopyError> {
        let asked = self.blob(repository, part);
        Ok(self.client.call::<_, HeldBlob>(STORE, "HasBlob", &asked)?.present)
    }

    fn put(&mut self, repository: &Repository, part: &Descriptor, from: Opened, sharing: Sharing) -> Result<Shared, CopyError> {
        let blob = self.blob(repository, part);
        let zerocopy = sharing == Sharing::Only;
        // What lies in an index goes as a file that nobody else has.
        let file = match from {
            Opened::File(file, _) => file,
            Opened::Bytes(bytes) => wire::in_memory(&bytes).map_err(VarlinkError::io("make a file in memory"))?,
        };
        let asked = PutBlob { blob, zerocopy };
        let taken: wire::TakenBlob = self.client.call_with(STORE, "PutBlob", &asked, &[file.as_fd()]).map_err(of_part(part))?;
        Ok(taken.method.into())
    }

    fn put_manifest(
        &mut self,
        repository: &Repository,
        part: &Descriptor,
        bytes: &[u8],
        _is_root: bool,
        tag: Option<&Tag>,
    ) -> Result<(), CopyError> {
        let manifest = String::from_utf8(bytes.to_vec()).map_err(|_| CopyError::Mismatch(Box::new(part.digest)))?;
        let asked = PutManifest { blob: self.blob(repository, part), manifest, tag: tag.map(ToString::to_string) };
        self.client.call::<_, wire::Nothing>(STORE, "PutManifest", &asked).map_err(of_part(part))?;
        Ok(())
    }
}

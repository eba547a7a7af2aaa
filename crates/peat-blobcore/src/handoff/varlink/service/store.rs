//! `peat.blob.Store`: the registry blob by blob, as files, for a copy into or out of another store that keeps blobs as they travel.

use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::{FileType, fstat};

use super::calls::{Session, digest, internal, of_registry, refused};
use crate::content::{ContentError, Sharing};
use crate::handoff::copy::{CopyError, ImageStore as _, Opened, RegistryStore};
use crate::handoff::varlink::message::Fault;
use crate::handoff::varlink::wire::{
    About, Blob, Described, Descriptions, FoundImage, HeldBlob, Image, Nothing, OpenedBlob, PutBlob, PutManifest, Refusal,
    TakenBlob,
};
use crate::oci::{Descriptor, ImageReference, MAX_MANIFEST_BYTES, Repository, Tag};

/// A blob that is handed out: what is said, and its file.
pub(super) struct HandedBlob {
    pub(super) said: OpenedBlob,
    pub(super) file: Option<File>,
}

fn repository(text: &str) -> Result<Repository, Fault> {
    text.parse().map_err(|error| refused(format!("{error}")))
}

fn described(descriptor: Descriptor) -> Described {
    Described { media_type: descriptor.media_type, digest: descriptor.digest.to_string(), size: descriptor.size }
}

fn part(blob: &Blob) -> Result<(Repository, Descriptor), Fault> {
    Ok((repository(&blob.repository)?, Descriptor::new(blob.media_type.clone(), digest(&blob.digest)?, blob.size)))
}

/// What went wrong with a copy, as this interface says it.
fn of_copy(name: &str) -> impl Fn(CopyError) -> Fault {
    move |error| match error {
        CopyError::NoImage(_) => Refusal::NoSuchImage { image: name.to_owned() }.into(),
        CopyError::Missing(_) => Refusal::NoSuchLayer { diff_id: name.to_owned() }.into(),
        CopyError::Mismatch(expected) => {
            Refusal::DiffIdMismatch { expected: expected.to_string(), actual: "something else".to_owned() }.into()
        }
        CopyError::Content(error @ (ContentError::NotShared { .. } | ContentError::NotAFile(_) | ContentError::Changed(_))) => {
            refused(error.to_string())
        }
        CopyError::Registry(error) => of_registry(name)(error),
        error => internal(error),
    }
}

impl Session<'_> {
    fn store(&self) -> RegistryStore {
        RegistryStore::new(self.registry().clone())
    }

    pub(super) fn find_image(&mut self, asked: &Image) -> Result<FoundImage, Fault> {
        self.is_open(asked.handle)?;
        let image: ImageReference = asked.image.parse().map_err(|error| refused(format!("{error}")))?;
        let (descriptor, bytes) = self.store().find(&image).map_err(of_copy(&asked.image))?;
        let manifest = String::from_utf8(bytes).map_err(|_| internal("the manifest is not UTF-8"))?;
        Ok(FoundImage { described: described(descriptor), manifest })
    }

    pub(super) fn list_referrers(&mut self, asked: &About) -> Result<Descriptions, Fault> {
        self.is_open(asked.handle)?;
        let about =
            self.store().about(&repository(&asked.repository)?, &digest(&asked.digest)?).map_err(of_copy(&asked.digest))?;
        Ok(Descriptions { referrers: about.into_iter().map(described).collect() })
    }

    /// What is small and UTF-8 is said; all else goes as a file.
    pub(super) fn open_blob(&mut self, asked: &Blob) -> Result<HandedBlob, Fault> {
        self.is_open(asked.handle)?;
        let (repository, part) = part(asked)?;
        Ok(match self.store().open(&repository, &part).map_err(of_copy(&asked.digest))? {
            Opened::File(file, _) => HandedBlob { said: OpenedBlob { text: None }, file: Some(file) },
            Opened::Bytes(bytes) => match String::from_utf8(bytes) {
                Ok(text) => HandedBlob { said: OpenedBlob { text: Some(text) }, file: None },
                Err(error) => {
                    let file = crate::handoff::varlink::wire::in_memory(error.as_bytes()).map_err(internal)?;
                    HandedBlob { said: OpenedBlob { text: None }, file: Some(file) }
                }
            },
        })
    }

    pub(super) fn has_blob(&mut self, asked: &Blob) -> Result<HeldBlob, Fault> {
        self.is_open(asked.handle)?;
        let (repository, part) = part(asked)?;
        Ok(HeldBlob { present: self.store().has(&repository, &part).map_err(of_copy(&asked.digest))? })
    }

    pub(super) fn put_blob(&mut self, asked: &PutBlob, descriptors: Vec<OwnedFd>) -> Result<TakenBlob, Fault> {
        self.is_open(asked.blob.handle)?;
        let (repository, part) = part(&asked.blob)?;
        let [file] = <[OwnedFd; 1]>::try_from(descriptors)
            .map_err(|all| refused(format!("one file is wanted, and {} came", all.len())))?;
        // Looked at before it is read: a pipe would be waited for.
        let stat = fstat(file.as_fd()).map_err(|errno| refused(format!("what came is no file: {errno}")))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || u64::try_from(stat.st_size) != Ok(part.size) {
            return Err(refused(format!("what came is no regular file of {} bytes", part.size)));
        }
        let sharing = if asked.zerocopy { Sharing::Only } else { Sharing::WherePossible };
        let opened = Opened::File(File::from(file), None);
        let shared = self.store().put(&repository, &part, opened, sharing).map_err(of_copy(&asked.blob.digest))?;
        Ok(TakenBlob { method: shared.into() })
    }

    pub(super) fn put_manifest(&mut self, asked: &PutManifest) -> Result<Nothing, Fault> {
        self.is_open(asked.blob.handle)?;
        let (repository, part) = part(&asked.blob)?;
        if asked.manifest.len() > MAX_MANIFEST_BYTES {
            return Err(refused(format!("a manifest has at most {MAX_MANIFEST_BYTES} bytes")));
        }
        let tag: Option<Tag> = asked.tag.as_deref().map(str::parse).transpose().map_err(|error| refused(format!("{error}")))?;
        let put = self.store().put_manifest(&repository, &part, asked.manifest.as_bytes(), true, tag.as_ref());
        put.map_err(of_copy(&asked.blob.digest))?;
        Ok(Nothing {})
    }
}

//! Images of the registry by name: listed, shown, checked, named. Only what is here counts: nothing is asked for elsewhere.

use std::fmt::Display;

use serde::Deserialize;

use super::calls::{Session, digest, internal, of_registry, refused};
use crate::handoff::varlink::message::Fault;
use crate::handoff::varlink::wire::{self, CheckedImages, CheckedObjects, ImageEntry, Images, InspectedImage, Refusal};
use crate::oci::{
    Descriptor, Digest, MAX_MANIFEST_BYTES, Manifest, ManifestKind, Platform, Reference, Repository, Tag, media_type,
};
use crate::registry::{BlobStream, Registry, RegistryError, Stored, matches_platform};

/// Most images of a list.
const MAX_LISTED: usize = 10_000;
/// Most manifests about an image that are counted or named.
const MAX_REFERRERS: usize = 1000;
/// Most damages that a check tells.
const MAX_ERRORS: usize = 100;
/// Where images are kept that have no name.
const UNNAMED: &str = "unnamed";

/// An image by its name.
#[derive(Debug, Clone)]
pub(super) struct Name {
    /// None: whichever has it.
    repository: Option<Repository>,
    reference: Reference,
}

impl Name {
    /// Reads `repository[:tag][@digest]`, or a digest alone.
    fn parse(text: &str) -> Result<Self, Fault> {
        let bad = |error: &dyn Display| refused(format!("{:?} names no image: {error}", shorten(text)));
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None if text.starts_with("sha256:") || text.starts_with("sha512:") => ("", Some(text)),
            None => (text, None),
        };
        let digest: Option<Digest> = digest.map(str::parse).transpose().map_err(|error| bad(&error))?;
        let (repository, tag) = match name.rsplit_once(':') {
            Some((repository, tag)) if !tag.contains('/') => (repository, Some(tag)),
            _ => (name, None),
        };
        let tag: Tag = tag.map_or_else(|| Ok(Tag::latest()), str::parse).map_err(|error| bad(&error))?;
        let repository = match (repository, digest) {
            ("", Some(_)) => None,
            (repository, _) => Some(repository.parse().map_err(|error| bad(&error))?),
        };
        Ok(Self { repository, reference: digest.map_or(Reference::Tag(tag), Reference::Digest) })
    }

    /// Where an image goes that is given this name.
    pub(super) fn to_be(name: Option<&str>) -> Result<(Repository, Option<Tag>), Fault> {
        let unnamed = || UNNAMED.parse().map_err(internal);
        let Some(name) = name else { return Ok((unnamed()?, None)) };
        match Self::parse(name)? {
            Self { repository: Some(repository), reference: Reference::Tag(tag) } => Ok((repository, Some(tag))),
            _ => Err(refused(format!("{:?} is no name with a tag", shorten(name)))),
        }
    }
}

fn shorten(text: &str) -> String {
    text.chars().take(300).collect()
}

impl Session<'_> {
    pub(super) fn registry(&self) -> &Registry {
        &self.service.0.registry
    }

    pub(super) fn list_images(&mut self, asked: wire::ListImages) -> Result<Images, Fault> {
        self.is_open(asked.handle)?;
        let mut images = Vec::new();
        for (repository, tag) in self.names()? {
            let name = format!("{repository}:{tag}");
            if asked.filter.as_ref().is_some_and(|filter| !name.contains(filter.as_str())) {
                continue;
            }
            if images.len() >= MAX_LISTED {
                return Err(refused(format!("there are more than {MAX_LISTED} images: name a filter")));
            }
            images.extend(self.entry(name, &repository, &tag)?);
        }
        Ok(Images { images })
    }

    /// Every tag of what is here.
    fn names(&self) -> Result<Vec<(Repository, Tag)>, Fault> {
        let registry = self.registry();
        let here = registry.manifests_here().map_err(internal)?;
        let mut repositories: Vec<_> = here.into_iter().map(|named| named.repository).collect();
        repositories.dedup();
        let mut names = Vec::new();
        for repository in repositories {
            let mut after = None;
            loop {
                let page = registry.tags(&repository, after.as_deref(), 1000).map_err(internal)?;
                after = page.items.last().map(ToString::to_string);
                names.extend(page.items.into_iter().map(|tag| (repository.clone(), tag)));
                if !page.more {
                    break;
                }
            }
        }
        Ok(names)
    }

    fn entry(&self, name: String, repository: &Repository, tag: &Tag) -> Result<Option<ImageEntry>, Fault> {
        #[derive(Default, Deserialize)]
        struct About {
            #[serde(default)]
            architecture: String,
            #[serde(default)]
            os: String,
            created: Option<String>,
        }
        let registry = self.registry();
        let Some(named) = registry.tag(repository, tag).map_err(internal)? else { return Ok(None) };
        let Some(stored) = registry.manifest(repository, &named.digest).map_err(internal)? else { return Ok(None) };
        let manifest = Manifest::parse(&stored.bytes, Some(&stored.media_type)).map_err(internal)?;
        let config = manifest.config.as_ref().filter(|config| is_image(config));
        let about = match config {
            Some(config) => self.config(repository, config)?,
            None => None,
        };
        let about: About = about.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        let referrers = registry.referrers(repository, &named.digest, None, None, MAX_REFERRERS).map_err(internal)?;
        Ok(Some(ImageEntry {
            name,
            manifest_digest: named.digest.to_string(),
            is_container: config.is_some() || manifest.kind == ManifestKind::Index,
            architecture: about.architecture,
            os: about.os,
            created: about.created,
            layer_count: manifest.layers.len() as u64,
            referrer_count: referrers.items.len() as u64,
        }))
    }

    fn config(&self, repository: &Repository, config: &Descriptor) -> Result<Option<Vec<u8>>, Fault> {
        let most = MAX_MANIFEST_BYTES as u64;
        match self.registry().open_blob(repository, &config.digest) {
            Ok(reader) if reader.size() <= most => Ok(Some(reader.read_first(most).map_err(internal)?)),
            Ok(_) | Err(RegistryError::NoBlob { .. }) => Ok(None),
            Err(error) => Err(internal(error)),
        }
    }

    /// The manifest that an image's name stands for.
    fn find(&self, image: &str) -> Result<(Repository, Stored), Fault> {
        let none = || Fault::from(Refusal::NoSuchImage { image: shorten(image) });
        let Name { repository, reference } = Name::parse(image)?;
        let registry = self.registry();
        let (repository, digest) = match (repository, reference) {
            (Some(repository), Reference::Digest(digest)) => (repository, digest),
            (Some(repository), Reference::Tag(tag)) => {
                let named = registry.tag(&repository, &tag).map_err(internal)?.ok_or_else(none)?;
                (repository, named.digest)
            }
            (None, Reference::Digest(digest)) => {
                let here = registry.manifests_here().map_err(internal)?;
                let named = here.into_iter().find(|named| named.digest == digest).ok_or_else(none)?;
                (named.repository, digest)
            }
            (None, Reference::Tag(_)) => return Err(none()),
        };
        let stored = registry.manifest(&repository, &digest).map_err(internal)?.ok_or_else(none)?;
        Ok((repository, stored))
    }

    /// The image that a name stands for: of an index the one for this machine, since the interface has images of one platform only.
    fn image(&self, image: &str) -> Result<(Repository, Stored, Manifest), Fault> {
        let none = || Fault::from(Refusal::NoSuchImage { image: shorten(image) });
        let (repository, stored) = self.find(image)?;
        let manifest = Manifest::parse(&stored.bytes, Some(&stored.media_type)).map_err(internal)?;
        if manifest.kind == ManifestKind::Image {
            return Ok((repository, stored, manifest));
        }
        let own = own_platform();
        let fits = |named: &&Descriptor| named.platform.as_ref().is_some_and(|offered| matches_platform(&own, offered));
        let fitting = manifest.manifests.iter().find(fits).ok_or_else(none)?;
        let stored = self.registry().manifest(&repository, &fitting.digest).map_err(internal)?.ok_or_else(none)?;
        let manifest = Manifest::parse(&stored.bytes, Some(&stored.media_type)).map_err(internal)?;
        Ok((repository, stored, manifest))
    }

    pub(super) fn inspect(&mut self, asked: &wire::Image) -> Result<InspectedImage, Fault> {
        self.is_open(asked.handle)?;
        let none = || Fault::from(Refusal::NoSuchImage { image: shorten(&asked.image) });
        let (repository, stored, manifest) = self.image(&asked.image)?;
        let config = match &manifest.config {
            Some(config) => self.config(&repository, config)?.ok_or_else(none)?,
            None => return Err(none()),
        };
        let referrers = self.registry().referrers(&repository, &stored.digest, None, None, MAX_REFERRERS).map_err(internal)?;
        let text = |bytes| String::from_utf8(bytes).map_err(|_| internal("the image has bytes that are no text"));
        Ok(InspectedImage {
            manifest: text(stored.bytes)?,
            config: text(config)?,
            referrers: referrers.items.iter().map(|referrer| referrer.digest.to_string()).collect(),
            composefs_erofs: None,
            composefs_boot_erofs: None,
        })
    }

    pub(super) fn check(&mut self, asked: &wire::Check) -> Result<CheckedImages, Fault> {
        self.is_open(asked.handle)?;
        let images = match &asked.image {
            Some(image) => {
                let (repository, stored, _) = self.image(image)?;
                vec![(image.clone(), repository, stored.digest)]
            }
            None => {
                let here = self.registry().manifests_here().map_err(internal)?.into_iter();
                here.map(|named| (format!("{}@{}", named.repository, named.digest), named.repository, named.digest)).collect()
            }
        };
        let mut checked = CheckedImages { images_checked: images.len() as u64, ..CheckedImages::default() };
        let mut objects = CheckedObjects { has_metadata: true, ..CheckedObjects::default() };
        let mut seen = std::collections::BTreeSet::new();
        for (name, repository, digest) in images {
            let found = self.damages(&repository, &digest, &mut seen, &mut objects);
            if let Err(why) = found {
                checked.images_corrupted += 1;
                if checked.errors.len() < MAX_ERRORS {
                    checked.errors.push(format!("{}: {why}", shorten(&name)));
                }
            }
        }
        checked.ok = checked.images_corrupted == 0;
        objects.ok = objects.objects_corrupted == 0 && objects.missing_objects == 0;
        checked.repo = objects;
        Ok(checked)
    }

    /// Reads everything that an image consists of, each blob once.
    fn damages(
        &self,
        repository: &Repository,
        digest: &Digest,
        seen: &mut std::collections::BTreeSet<crate::model::BlobHash>,
        objects: &mut CheckedObjects,
    ) -> Result<(), String> {
        // Of an index each image that is here is one by itself; the others need not be.
        let stored = self.registry().manifest(repository, digest).map_err(|error| error.to_string())?;
        let stored = stored.ok_or("its manifest has gone")?;
        let manifest = Manifest::parse(&stored.bytes, Some(&stored.media_type)).map_err(|error| error.to_string())?;
        if manifest.kind == ManifestKind::Index {
            return Ok(());
        }
        let (_, parts) = self.registry().package(repository, digest).map_err(|error| {
            objects.missing_objects += u64::from(matches!(error, RegistryError::Missing(_)));
            error.to_string()
        })?;
        for part in parts {
            if !seen.insert(part.hash) {
                continue;
            }
            objects.objects_checked += 1;
            let stream = BlobStream::open(self.registry().content(), &part.hash).map_err(|error| error.to_string());
            let read =
                stream.and_then(|mut stream| std::io::copy(&mut stream, &mut std::io::sink()).map_err(|error| error.to_string()));
            if let Err(why) = read {
                // Whichever image has it too is as damaged.
                seen.remove(&part.hash);
                objects.objects_corrupted += 1;
                return Err(format!("{}: {why}", part.digest));
            }
        }
        Ok(())
    }

    pub(super) fn tag(&mut self, asked: &wire::Tag) -> Result<(), Fault> {
        self.is_open(asked.handle)?;
        let digest = digest(&asked.manifest_digest)?;
        let (repository, tag) = Name::to_be(Some(&asked.name))?;
        let tag = tag.ok_or_else(|| refused("a name with a tag is wanted"))?;
        let registry = self.registry();
        let of = of_registry(&asked.manifest_digest);
        let from = registry.repository_with(&repository, &digest).map_err(&of)?;
        if from != repository {
            let (_, parts) = registry.package(&from, &digest).map_err(&of)?;
            let (manifests, blobs): (Vec<_>, Vec<_>) = parts.iter().partition(|part| media_type::is_manifest(&part.media_type));
            for part in blobs {
                registry.mount(&repository, &part.digest, Some(&from)).map_err(&of)?;
            }
            // What is named before what names it.
            for part in manifests.into_iter().rev() {
                let stored = registry.manifest(&from, &part.digest).map_err(&of)?;
                let stored =
                    stored.ok_or_else(|| Fault::from(Refusal::NoSuchImage { image: shorten(&asked.manifest_digest) }))?;
                let reference = Reference::Digest(part.digest);
                registry.put_manifest(&repository, &reference, Some(&stored.media_type), &stored.bytes).map_err(&of)?;
            }
        }
        registry.set_tag(&repository, &tag, &digest).map_err(of)
    }

    pub(super) fn untag(&mut self, asked: &wire::Untag) -> Result<(), Fault> {
        self.is_open(asked.handle)?;
        let (repository, tag) = Name::to_be(Some(&asked.name))?;
        let tag = tag.ok_or_else(|| refused("a name with a tag is wanted"))?;
        self.registry().delete_manifest(&repository, &Reference::Tag(tag)).map_err(of_registry(&asked.name))
    }
}

/// Whether a configuration is that of an image, and not of another artifact.
pub(super) fn is_image(config: &Descriptor) -> bool {
    matches!(config.media_type.as_str(), media_type::OCI_CONFIG | media_type::DOCKER_CONFIG)
}

/// What this machine runs, in the words of Go.
fn own_platform() -> Platform {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "x86" => "386",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        "loongarch64" => "loong64",
        other => other,
    };
    Platform { architecture: architecture.to_owned(), os: std::env::consts::OS.to_owned(), variant: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_named_with_or_without_tag_and_by_digests() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        let shown = |text: &str| {
            let name = Name::parse(text).ok()?;
            Some(format!("{}|{}", name.repository.map_or_else(String::new, |it| it.to_string()), name.reference))
        };
        assert_eq!(shown("a/b:v1").as_deref(), Some("a/b|v1"));
        assert_eq!(shown("quay.example/a/b").as_deref(), Some("quay.example/a/b|latest"));
        assert_eq!(shown(&format!("a:v1@{digest}")), Some(format!("a|{digest}")));
        assert_eq!(shown(&format!("@{digest}")), Some(format!("|{digest}")));
        assert_eq!(shown(&digest), Some(format!("|{digest}")));
        for bad in ["", ":v1", "A:v1", "a:", "a@", "a@sha256:00", "host:5000/a:v1", "a b"] {
            assert!(Name::parse(bad).is_err(), "{bad}");
        }
        assert!(Name::to_be(Some(&format!("a@{digest}"))).is_err());
        assert!(matches!(Name::to_be(None), Ok((repository, None)) if repository.as_str() == UNNAMED));
    }
}

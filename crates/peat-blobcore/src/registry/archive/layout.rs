//! An OCI layout (image-spec 1.1, `image-layout.md`), wherever its files are: which of its manifests are wanted, and what they are
//! called.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::keep::Keep;
use super::{ArchiveError, CONTAINERD_NAME, INDEX_FILE, ImportOptions, Imported, LAYOUT_FILE, REF_NAME, Root};
use crate::oci::{Descriptor, Digest, Manifest, ManifestKind, Platform, media_type};
use crate::registry::closure::{is_manifest, matches_platform};

/// Most indexes within one another.
const MAX_DEPTH: usize = 8;

pub(super) fn import(mut keep: Keep<'_>, options: &ImportOptions) -> Result<Imported, ArchiveError> {
    check_version(&mut keep)?;
    let bytes = keep.files.read(INDEX_FILE)?.unwrap_or_default();
    let index = Manifest::parse(&bytes, None).map_err(|source| ArchiveError::Manifest { what: INDEX_FILE.to_owned(), source })?;
    if index.kind != ManifestKind::Index {
        return Err(ArchiveError::malformed("index.json is no index"));
    }
    let mut roots: Vec<Root> = Vec::new();
    let mut about = Vec::new();
    for entry in index.manifests {
        let names = names(&entry);
        let Some(found) = choose(&mut keep, entry, options.platform.as_ref())? else { continue };
        match roots.iter_mut().find(|root| root.descriptor.digest == found.descriptor.digest) {
            Some(known) => known.names.extend(names),
            None => {
                about.push(found.subject);
                roots.push(Root { descriptor: found.descriptor, names, platform: found.platform });
            }
        }
    }
    if let Some(platform) = &options.platform {
        // What is about an image that is not taken is not wanted either.
        let subjects: Vec<_> = roots.iter().map(|root| root.descriptor.digest).collect();
        let wanted = roots.into_iter().zip(about).filter(|(_, about)| about.is_none_or(|subject| subjects.contains(&subject)));
        roots = wanted.map(|(root, _)| root).collect();
        if roots.is_empty() {
            return Err(ArchiveError::NoSuchPlatform(show(platform)));
        }
    }
    for root in &mut roots {
        let mut seen = BTreeSet::new();
        root.names.retain(|name| seen.insert(name.clone()));
        keep.closure(&root.descriptor)?;
    }
    keep.finish(roots)
}

/// The text of a platform, as `linux/arm64/v8`.
pub(super) fn show(platform: &Platform) -> String {
    let variant = platform.variant.as_ref().map(|variant| format!("/{variant}")).unwrap_or_default();
    format!("{}/{}{variant}", platform.os, platform.architecture)
}

/// The file that says that this is a layout, and of which version. Some writers leave it out.
fn check_version(keep: &mut Keep<'_>) -> Result<(), ArchiveError> {
    #[derive(Deserialize)]
    struct Version {
        #[serde(rename = "imageLayoutVersion")]
        version: String,
    }
    let Some(bytes) = keep.files.read(LAYOUT_FILE)? else { return Ok(()) };
    let Version { version } =
        serde_json::from_slice(&bytes).map_err(|error| ArchiveError::malformed(format!("{LAYOUT_FILE}: {error}")))?;
    match version.split('.').next() {
        Some("1") => Ok(()),
        _ => Err(ArchiveError::Unrecognised(format!("it is a layout of version {:.20}, and 1 is read", version))),
    }
}

/// What an entry of the index is called. Docker and containerd write the whole name and, as the name of the specification, the
/// tag alone: then the former says it all.
fn names(entry: &Descriptor) -> Vec<String> {
    let name = entry.annotations.get(CONTAINERD_NAME).or_else(|| entry.annotations.get(REF_NAME));
    name.filter(|name| !name.is_empty()).cloned().into_iter().collect()
}

/// A manifest of the index, as far as it is wanted.
struct Chosen {
    descriptor: Descriptor,
    platform: Option<Platform>,
    subject: Option<Digest>,
}

/// What of an entry is wanted: it, or, where a platform is, the image for it that is somewhere below.
fn choose(keep: &mut Keep<'_>, entry: Descriptor, wanted: Option<&Platform>) -> Result<Option<Chosen>, ArchiveError> {
    let mut at = entry;
    for _ in 0..MAX_DEPTH {
        if let (Some(wanted), Some(offered)) = (wanted, &at.platform)
            && !matches_platform(wanted, offered)
        {
            return Ok(None);
        }
        let bytes = match keep.load(&at.digest)? {
            Some(bytes) if is_manifest(&at) => bytes,
            // It is named as missing, or refused, by who walks its closure.
            _ => return Ok(Some(Chosen { platform: at.platform.clone(), descriptor: at, subject: None })),
        };
        let manifest = Manifest::parse(&bytes, Some(&at.media_type))
            .map_err(|source| ArchiveError::Manifest { what: at.digest.to_string(), source })?;
        let subject = manifest.subject.as_ref().map(|subject| subject.digest);
        if manifest.kind == ManifestKind::Image {
            let platform = match &at.platform {
                Some(platform) => Some(platform.clone()),
                None => platform_of(keep, &manifest)?,
            };
            let fits = wanted.is_none_or(|wanted| platform.as_ref().is_none_or(|offered| matches_platform(wanted, offered)));
            return Ok(fits.then_some(Chosen { descriptor: at, platform, subject }));
        }
        let Some(wanted) = wanted else { return Ok(Some(Chosen { descriptor: at, platform: None, subject })) };
        let below = manifest.manifests.into_iter().filter(is_manifest);
        let mut fitting = below.filter(|child| child.platform.as_ref().is_none_or(|offered| matches_platform(wanted, offered)));
        match fitting.next() {
            Some(child) => at = child,
            None => return Ok(None),
        }
    }
    Err(ArchiveError::OverLimit(format!("more than {MAX_DEPTH} indexes within one another")))
}

/// What an image's configuration says that it runs on.
fn platform_of(keep: &mut Keep<'_>, manifest: &Manifest) -> Result<Option<Platform>, ArchiveError> {
    let Some(config) = &manifest.config else { return Ok(None) };
    if ![media_type::OCI_CONFIG, media_type::DOCKER_CONFIG].contains(&config.media_type.as_str()) {
        return Ok(None);
    }
    let bytes = keep.load(&config.digest)?;
    Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

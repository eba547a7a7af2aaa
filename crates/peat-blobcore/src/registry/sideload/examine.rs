//! What a file is: one image with all that it names and what is about it, or why it is not served. Reads it once.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use super::index::{BlobRow, FileRow, Found, ImageRow, LiesRow, RootRow};
use super::place::{self, Opened, Stamp};
use crate::oci::{Descriptor, Digest, Manifest, Repository, Tag};
use crate::registry::archive::{ArchiveError, Lies, Limits, Root, Source, Surveyed, survey};
use crate::registry::closure::{Closure, is_manifest};

/// Looks at the file at a path beneath a root. Nothing comes of what has gone, or changed while it was read: it is looked at
/// again the next time.
pub(super) fn examine(root: &Path, beneath: &str, (repository, tag): (&Repository, &Tag), limits: Limits) -> Option<FileRow> {
    let stamps = RefCell::new(BTreeMap::new());
    let note = |stamp: Stamp| _ = stamps.borrow_mut().insert(stamp.name.clone(), stamp);
    let looked = match place::open(root, beneath).ok()? {
        Opened::File(file) => {
            note(Stamp::of("", &file.metadata().ok()?));
            survey(Source::File(Arc::new(file)), limits)
        }
        Opened::Directory(layout) => {
            // A directory like any other.
            place::file_of(&layout, place::INDEX_FILE).ok()??;
            let open = |name: &str| {
                let file = place::file_of(&layout, name)?;
                if let Some(file) = &file {
                    note(Stamp::of(name, &file.metadata()?));
                }
                Ok(file)
            };
            survey(Source::Directory(&open), limits)
        }
    };
    let found = match looked.and_then(|surveyed| image(surveyed, repository, tag)) {
        Ok(image) => Found::Image(image),
        // What the disk lacks says nothing about the file.
        Err(ArchiveError::Unreadable { source, .. }) if source.raw_os_error().is_some() => {
            tracing::warn!(path = %root.join(beneath).display(), error = %source, "cannot read a file of images");
            return None;
        }
        Err(error) => Found::Refused(error.to_string()),
    };
    let stamps: Vec<Stamp> = stamps.into_inner().into_values().collect();
    place::is_as_before(root, beneath, &stamps).then_some(FileRow { stamps, found })
}

/// The image that is served of what was found, the only one or the one that has the name, and what is about it.
fn image(surveyed: Surveyed, repository: &Repository, tag: &Tag) -> Result<ImageRow, ArchiveError> {
    let Surveyed { roots, blobs, compressed } = surveyed;
    let documents: BTreeMap<_, _> = blobs
        .iter()
        .filter_map(|(blob, lies)| match lies {
            Lies::Here(bytes) => Some((blob.digest, bytes.as_slice())),
            _ => None,
        })
        .collect();
    let (mut images, mut about) = (Vec::new(), Vec::new());
    for Root { descriptor, names, .. } in roots {
        let missing = || ArchiveError::Missing { count: 1, first: vec![descriptor.digest.to_string()] };
        let bytes = documents.get(&descriptor.digest).ok_or_else(missing)?;
        let manifest = Manifest::parse(bytes, Some(&descriptor.media_type))
            .map_err(|source| ArchiveError::Manifest { what: descriptor.digest.to_string(), source })?;
        match &manifest.subject {
            Some(_) => about.push((descriptor, manifest)),
            None => images.push((descriptor, manifest, names)),
        }
    }
    let full = format!("{repository}:{tag}");
    let count = images.len();
    let is_named = |names: &[String]| count == 1 || names.iter().any(|name| *name == full || name == tag.as_str());
    let Some((descriptor, manifest, _)) = images.into_iter().find(|(.., names)| is_named(names)) else {
        return Err(ArchiveError::Unrecognised(format!("it has {count} images, of which none is called {full}")));
    };
    // What else is in the file is not what the pattern names.
    let (mut roots, mut wanted) = (vec![root(&descriptor, manifest)], BTreeSet::new());
    walk(descriptor, &documents, &mut wanted)?;
    // What is about something may itself have something about it.
    loop {
        let is_about = |(_, manifest): &(Descriptor, Manifest)| {
            manifest.subject.as_ref().is_some_and(|subject| wanted.contains(&subject.digest))
        };
        let Some(at) = about.iter().position(is_about) else { break };
        let (descriptor, manifest) = about.swap_remove(at);
        roots.push(root(&descriptor, manifest));
        walk(descriptor, &documents, &mut wanted)?;
    }
    let blobs = blobs.into_iter().filter(|(blob, _)| wanted.contains(&blob.digest)).map(|(blob, lies)| BlobRow {
        digest: blob.digest.to_string(),
        hash: blob.blob.hash,
        sha256: blob.blob.sha256,
        size: blob.blob.size,
        media_type: blob.media_type,
        lies: match lies {
            Lies::At(at) => LiesRow::At(at),
            Lies::In(name) => LiesRow::In(name),
            Lies::Here(bytes) => LiesRow::Here(bytes),
        },
    });
    Ok(ImageRow { roots, blobs: blobs.collect(), compressed })
}

fn root(descriptor: &Descriptor, manifest: Manifest) -> RootRow {
    RootRow {
        digest: descriptor.digest.to_string(),
        media_type: descriptor.media_type.clone(),
        size: descriptor.size,
        subject: manifest.subject.map(|subject| subject.digest.to_string()),
        artifact_type: manifest.artifact_type,
    }
}

/// Adds what belongs to a manifest.
fn walk(root: Descriptor, documents: &BTreeMap<Digest, &[u8]>, wanted: &mut BTreeSet<Digest>) -> Result<(), ArchiveError> {
    let mut closure = Closure::of(root);
    while let Some(part) = closure.step() {
        if let (true, Some(bytes)) = (is_manifest(&part), documents.get(&part.digest)) {
            closure.read(&part, bytes)?;
        }
        wanted.insert(part.digest);
    }
    Ok(())
}

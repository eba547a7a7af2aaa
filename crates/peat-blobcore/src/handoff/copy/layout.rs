//! A directory with an OCI layout (image-spec 1.1, `image-layout.md`). Its index is replaced when all that it names is there, and durable.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};

use super::store::digest_of_file;
use super::{CopyError, ImageStore, Opened};
use crate::content::{ContentError, Shared, Sharing, share};
use crate::oci::{Descriptor, Digest, ImageReference, MAX_MANIFEST_BYTES, Manifest, Repository, Tag};
use crate::registry::archive::{CONTAINERD_NAME, INDEX_FILE, LAYOUT_FILE, REF_NAME};
use crate::registry::is_manifest;

/// The file that is to replace the index.
const INDEX_PART: &str = "index.json.part";

/// The layout.
#[derive(Debug)]
pub struct LayoutStore {
    path: PathBuf,
    /// Held while it is written to, so that what was left half-done can be known for that.
    lock: Option<File>,
    /// Blobs that were found to be what they are called.
    right: BTreeSet<Digest>,
}

/// An entry of the index.
struct Named {
    descriptor: Descriptor,
    names: Vec<String>,
}

impl LayoutStore {
    /// A layout that is there, to be read.
    ///
    /// # Errors
    /// [`CopyError::NotALayout`].
    pub fn open(path: &Path) -> Result<Self, CopyError> {
        let store = Self { path: path.to_owned(), lock: None, right: BTreeSet::new() };
        store.index()?;
        Ok(store)
    }

    /// A layout to be written to; made where there is none, or nothing.
    ///
    /// # Errors
    /// [`CopyError::NotALayout`] where there is something else, [`CopyError::InUse`], or what the directory fails with.
    pub fn create(path: &Path) -> Result<Self, CopyError> {
        fs::create_dir_all(path).map_err(CopyError::file("make", path))?;
        let lock = File::open(path).map_err(CopyError::file("open", path))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| CopyError::InUse(path.to_owned()))?;
        let (mark, index) = (path.join(LAYOUT_FILE), path.join(INDEX_FILE));
        let mut names = fs::read_dir(path).map_err(CopyError::file("read", path))?;
        // What a crash has left of one that was begun is as good as nothing.
        if names.all(|name| name.is_ok_and(|name| [LAYOUT_FILE, INDEX_PART].iter().any(|part| name.file_name() == *part))) {
            let empty = json!({ "schemaVersion": 2, "manifests": [] });
            replace(&index, empty.to_string().as_bytes())?;
            fs::write(&mark, br#"{"imageLayoutVersion":"1.0.0"}"#).map_err(CopyError::file("write", &mark))?;
        }
        let store = Self { path: path.to_owned(), lock: Some(lock), right: BTreeSet::new() };
        store.index()?;
        Ok(store)
    }

    fn not(&self, why: impl ToString) -> CopyError {
        CopyError::NotALayout { path: self.path.clone(), why: why.to_string() }
    }

    /// The index as it is there, read as what it is.
    fn index(&self) -> Result<(Vec<u8>, Manifest), CopyError> {
        if !self.path.join(LAYOUT_FILE).is_file() {
            return Err(self.not(format_args!("it has no {LAYOUT_FILE}")));
        }
        let path = self.path.join(INDEX_FILE);
        let file = File::open(&path).map_err(|error| self.not(format_args!("{INDEX_FILE}: {error}")))?;
        let mut bytes = Vec::new();
        file.take(MAX_MANIFEST_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(CopyError::file("read", &path))?;
        let manifest = Manifest::parse(&bytes, None).map_err(|error| self.not(error))?;
        Ok((bytes, manifest))
    }

    fn entries(&self) -> Result<Vec<Named>, CopyError> {
        let (_, manifest) = self.index()?;
        let named = manifest.manifests.into_iter().map(|mut descriptor| {
            let names = [REF_NAME, CONTAINERD_NAME].map(|name| descriptor.annotations.remove(name));
            descriptor.annotations.clear();
            Named { names: names.into_iter().flatten().collect(), descriptor }
        });
        Ok(named.collect())
    }

    /// A manifest that the index does not name, and something in it does: one of several platforms.
    fn unlisted(&self, digest: &Digest) -> Result<Option<Descriptor>, CopyError> {
        let path = self.blob(digest);
        let Ok(file) = File::open(&path) else { return Ok(None) };
        let mut bytes = Vec::new();
        file.take(MAX_MANIFEST_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(CopyError::file("read", &path))?;
        let manifest = Manifest::parse(&bytes, None).ok();
        Ok(manifest.map(|manifest| Descriptor::new(manifest.media_type, *digest, bytes.len() as u64)))
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.path.join("blobs").join(digest.algorithm().as_str()).join(digest.hex())
    }

    /// Has a file appear in the place of a blob, whole, right and durable, or not at all.
    fn add(
        &mut self,
        part: &Descriptor,
        fill: impl FnOnce(&mut File, &Path) -> Result<Shared, CopyError>,
    ) -> Result<Shared, CopyError> {
        debug_assert!(self.lock.is_some(), "a layout that is written to was opened for that");
        let place = self.blob(&part.digest);
        let directory = place.parent().expect("it is in a directory");
        fs::create_dir_all(directory).map_err(CopyError::file("make", directory))?;
        let begun = Begun(directory.join(format!(".{}.part", part.digest.hex())));
        // One that a copy before this left half-done: nobody else writes here.
        begun.remove();
        let mut file =
            File::options().read(true).write(true).create_new(true).open(&begun.0).map_err(CopyError::file("make", &begun.0))?;
        let shared = fill(&mut file, &begun.0)?;
        // It may be another file by now.
        let file = File::open(&begun.0).map_err(CopyError::file("open", &begun.0))?;
        let actual = digest_of_file(&file, part.digest.algorithm()).map_err(CopyError::file("read", &begun.0))?;
        if actual != part.digest || file.metadata().is_ok_and(|found| found.len() != part.size) {
            return Err(CopyError::Mismatch(Box::new(part.digest)));
        }
        file.sync_all().map_err(CopyError::file("sync", &begun.0))?;
        fs::rename(&begun.0, &place).map_err(CopyError::file("name", &place))?;
        sync(directory)?;
        self.right.insert(part.digest);
        Ok(shared)
    }
}

/// The entry that a name means: by a whole name before a tag alone, which says of no repository that it is its.
fn named<'a>(entries: &'a [Named], image: &ImageReference) -> Option<&'a Named> {
    let image = ImageReference { tag: Some(image.tag.clone().unwrap_or_else(Tag::latest)), ..image.clone() };
    let (full, bare) = (image.to_string(), ImageReference { registry: None, ..image.clone() }.to_string());
    let is_whole = |name: &String| name.contains([':', '/']);
    let by = |is_it: &dyn Fn(&String) -> bool| entries.iter().find(|entry| entry.names.iter().any(is_it));
    let by_tag = || {
        let tag = image.tag.as_ref().map(ToString::to_string).unwrap_or_default();
        let bare = entries.iter().filter(|entry| !entry.names.iter().any(is_whole));
        let mut found = bare.filter(|entry| entry.names.is_empty() && entries.len() == 1 || entry.names.contains(&tag));
        found.next().filter(|_| found.next().is_none())
    };
    by(&|name| *name == full || *name == bare).or_else(|| by(&|name| name.ends_with(&format!("/{bare}")))).or_else(by_tag)
}

/// A file that is nobody's yet.
struct Begun(PathBuf);

impl Begun {
    fn remove(&self) {
        let _ = fs::remove_file(&self.0);
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        // One that has its name is not there any more.
        self.remove();
    }
}

impl ImageStore for LayoutStore {
    fn find(&mut self, image: &ImageReference) -> Result<(Descriptor, Vec<u8>), CopyError> {
        let entries = self.entries()?;
        let none = || CopyError::NoImage(format!("{image} in {}", self.path.display()));
        let listed = match image.digest {
            Some(digest) => entries.iter().find(|entry| entry.descriptor.digest == digest),
            None => named(&entries, image),
        };
        let descriptor = match (listed, image.digest) {
            (Some(listed), _) => Some(listed.descriptor.clone()),
            (None, Some(digest)) => self.unlisted(&digest)?,
            (None, None) => None,
        };
        let descriptor = descriptor.ok_or_else(none)?;
        let bytes = self.open(&image.repository, &descriptor)?.read_manifest(&descriptor)?;
        Ok((descriptor, bytes))
    }

    fn about(&mut self, repository: &Repository, subject: &Digest) -> Result<Vec<Descriptor>, CopyError> {
        let mut about = Vec::new();
        for Named { descriptor, .. } in self.entries()? {
            if !is_manifest(&descriptor) || descriptor.digest == *subject {
                continue;
            }
            let bytes = match self.open(repository, &descriptor).and_then(|opened| opened.read_manifest(&descriptor)) {
                Ok(bytes) => bytes,
                // It may be of an image that nobody asked for.
                Err(error) => {
                    tracing::warn!(layout = %self.path.display(), digest = %descriptor.digest, %error, "a manifest of a layout is passed over");
                    continue;
                }
            };
            let manifest = Manifest::parse(&bytes, Some(&descriptor.media_type));
            if manifest.is_ok_and(|manifest| manifest.subject.is_some_and(|named| named.digest == *subject)) {
                about.push(descriptor);
            }
        }
        Ok(about)
    }

    fn open(&mut self, _repository: &Repository, part: &Descriptor) -> Result<Opened, CopyError> {
        let path = self.blob(&part.digest);
        match File::open(&path) {
            Ok(file) if file.metadata().is_ok_and(|found| found.is_file() && found.len() == part.size) => {
                Ok(Opened::File(file, None))
            }
            Ok(_) => Err(CopyError::Mismatch(Box::new(part.digest))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(CopyError::Missing(Box::new(part.digest))),
            Err(error) => Err(CopyError::file("open", &path)(error)),
        }
    }

    fn has(&mut self, _repository: &Repository, part: &Descriptor) -> Result<bool, CopyError> {
        if self.right.contains(&part.digest) {
            return Ok(true);
        }
        let path = self.blob(&part.digest);
        let Ok(file) = File::open(&path) else { return Ok(false) };
        if !file.metadata().is_ok_and(|found| found.is_file() && found.len() == part.size) {
            return Ok(false);
        }
        // What somebody else has put there may be anything.
        let actual = digest_of_file(&file, part.digest.algorithm()).map_err(CopyError::file("read", &path))?;
        Ok(actual == part.digest && self.right.insert(part.digest))
    }

    fn put(&mut self, _repository: &Repository, part: &Descriptor, from: Opened, sharing: Sharing) -> Result<Shared, CopyError> {
        self.add(part, |file, path| match &from {
            Opened::Bytes(bytes) => {
                file.write_all(bytes).map_err(CopyError::file("write", path))?;
                Ok(Shared::Copied)
            }
            Opened::File(source, _) => {
                let not = |why| ContentError::NotShared { what: part.digest.to_string(), why };
                if let Some(shared) = share(source, file, path, sharing).map_err(not)? {
                    return Ok(shared);
                }
                let mut source = source.try_clone().map_err(CopyError::io("open", part.digest))?;
                io::Seek::rewind(&mut source).map_err(CopyError::io("read", part.digest))?;
                io::copy(&mut source.take(part.size), file).map_err(CopyError::file("write", path))?;
                Ok(Shared::Copied)
            }
        })
    }

    fn put_manifest(
        &mut self,
        repository: &Repository,
        part: &Descriptor,
        bytes: &[u8],
        is_root: bool,
        tag: Option<&Tag>,
    ) -> Result<(), CopyError> {
        if !self.has(repository, part)? {
            self.add(part, |file, path| {
                file.write_all(bytes).map_err(CopyError::file("write", path))?;
                Ok(Shared::Copied)
            })?;
        }
        if !is_root {
            return Ok(());
        }
        let (bytes, _) = self.index()?;
        let mut index: Value = serde_json::from_slice(&bytes).map_err(|error| self.not(error))?;
        let (digest, whole) = (part.digest.to_string(), tag.map(|tag| format!("{repository}:{tag}")));
        let list =
            index.get_mut("manifests").and_then(Value::as_array_mut).ok_or_else(|| self.not("its index has no manifests"))?;
        let annotation = |entry: &Value, name: &str| entry["annotations"][name].as_str().map(str::to_owned);
        // A name points to one image. Those of others stay, also where their tags are the same.
        list.retain(|entry| match (tag, annotation(entry, CONTAINERD_NAME)) {
            (Some(_), Some(name)) => Some(name) != whole,
            (Some(tag), None) => annotation(entry, REF_NAME).is_none_or(|name| name != tag.as_str() && Some(name) != whole),
            (None, name) => entry["digest"] != digest.as_str() || name.is_some() || annotation(entry, REF_NAME).is_some(),
        });
        let mut entry = json!({ "mediaType": part.media_type, "digest": digest, "size": part.size });
        if let Some(tag) = tag {
            entry["annotations"] = json!({ REF_NAME: tag.as_str(), CONTAINERD_NAME: whole });
        }
        list.push(entry);
        replace(&self.path.join(INDEX_FILE), index.to_string().as_bytes())
    }
}

/// Replaces a small file by another, durably.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), CopyError> {
    let directory = path.parent().expect("it is in a directory");
    let begun = Begun(path.with_file_name(INDEX_PART));
    let mut file = File::create(&begun.0).map_err(CopyError::file("make", &begun.0))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(CopyError::file("write", &begun.0))?;
    fs::rename(&begun.0, path).map_err(CopyError::file("name", path))?;
    sync(directory)
}

fn sync(directory: &Path) -> Result<(), CopyError> {
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(CopyError::file("sync", directory))
}

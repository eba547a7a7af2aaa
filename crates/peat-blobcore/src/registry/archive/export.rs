//! Images out of the store, into files: an OCI layout in a directory, the same in a tar archive, or a docker-archive.
//!
//! The same images give the same bytes. Everything is read verified; what has its name is whole and durable, and until then it
//! is nobody's. Must never write over what it did not write.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::intake::blob_name;
use super::pack::TarWriter;
use super::{ArchiveError, INDEX_FILE, LAYOUT_FILE, Limits, MANIFEST_FILE, REF_NAME, compression};
use crate::content::Content;
use crate::model::BlobHash;
use crate::oci::{Descriptor, Digest, MAX_MANIFEST_BYTES, Manifest, ManifestKind, diff_ids, media_type};
use crate::registry::BlobStream;
use crate::registry::closure::{Closure, is_manifest};

/// What a layout says of itself.
const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
/// Bytes that are collected before they are written.
const BUFFER_BYTES: usize = 256 * 1024;

/// How images are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A directory with an OCI layout. One that is there already is added to.
    OciLayout,
    /// A tar archive of an OCI layout.
    OciArchive,
    /// What `docker load` reads: images of one platform each, their layers unpacked.
    DockerArchive,
}

/// What is to be written: a manifest and its names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// The manifest or index.
    pub descriptor: Descriptor,
    /// What it is called there: for a layout tags or any text, for a docker-archive names with tags.
    pub names: Vec<String>,
}

/// Where the bytes of a digest are in the store.
pub type Lookup<'a> = dyn Fn(&Digest) -> Option<BlobHash> + 'a;

/// Writes images to a path: a file that is not there yet, or the directory of a layout. Blocks.
///
/// # Errors
/// [`ArchiveError`]; then nothing is there that was not before. (What was added to a layout that existed may stay as blobs that
/// its index does not name.)
pub fn export(
    content: &Content,
    lookup: &Lookup<'_>,
    images: &[Export],
    format: Format,
    path: &Path,
) -> Result<(), ArchiveError> {
    if format == Format::OciLayout {
        return Source::new(content, lookup, images)?.layout(path);
    }
    let (directory, temporary) = beside(path)?;
    let fail = |action| move |source| ArchiveError::Write { action, path: path.to_owned(), source };
    let written = File::create_new(&temporary).map_err(fail("create")).and_then(|file| {
        let out = BufWriter::with_capacity(BUFFER_BYTES, file);
        let out = export_to(content, lookup, images, format, out)?;
        let file = out.into_inner().map_err(|error| fail("write")(error.into_error()))?;
        file.sync_all().map_err(fail("sync"))?;
        rename_new(&temporary, path).map_err(fail("name"))
    });
    if written.is_err() {
        // One that cannot be removed is told from others by its name.
        let _ = fs::remove_file(&temporary);
    }
    written.and_then(|()| sync(&directory))
}

/// Writes images as an archive. Gives back what it was written to, flushed. Blocks.
///
/// # Errors
/// [`ArchiveError`]; what was written until then is to be thrown away.
pub fn export_to<W: Write>(
    content: &Content,
    lookup: &Lookup<'_>,
    images: &[Export],
    format: Format,
    out: W,
) -> Result<W, ArchiveError> {
    let source = Source::new(content, lookup, images)?;
    let tar = TarWriter::new(out);
    match format {
        Format::OciArchive => source.oci_archive(tar),
        Format::DockerArchive => source.docker_archive(tar),
        Format::OciLayout => Err(ArchiveError::NotExpressible("a layout is a directory, not a stream".to_owned())),
    }
}

/// What is written: it is all here, as was looked up before the first byte.
struct Source<'a> {
    content: &'a Content,
    images: &'a [Export],
    /// The closures of all images, in order of their digests.
    blobs: BTreeMap<Digest, BlobHash>,
}

impl<'a> Source<'a> {
    fn new(content: &'a Content, lookup: &Lookup<'_>, images: &'a [Export]) -> Result<Self, ArchiveError> {
        let mut source = Self { content, images, blobs: BTreeMap::new() };
        let mut missing = BTreeSet::new();
        for image in images {
            let mut closure = Closure::of(image.descriptor.clone());
            while let Some(part) = closure.step() {
                let hash = match lookup(&part.digest) {
                    Some(hash) if content.size(&hash)? == Some(part.size) => hash,
                    _ => {
                        missing.insert(part.digest.to_string());
                        continue;
                    }
                };
                source.blobs.insert(part.digest, hash);
                if is_manifest(&part) {
                    closure.read(&part, &source.document(&part.digest)?)?;
                }
            }
        }
        match missing.len() {
            0 => Ok(source),
            count => Err(ArchiveError::Missing { count, first: missing.into_iter().take(20).collect() }),
        }
    }

    /// The bytes of a manifest or configuration.
    fn document(&self, digest: &Digest) -> Result<Vec<u8>, ArchiveError> {
        let hash = self.blobs.get(digest).ok_or_else(|| ArchiveError::Missing { count: 1, first: vec![digest.to_string()] })?;
        let bytes = self.content.read_blob(hash, MAX_MANIFEST_BYTES as u64 + 1)?;
        // Whoever looked it up may have been wrong.
        if digest.is_of(&bytes) { Ok(bytes) } else { Err(ArchiveError::Mismatch { name: hash.to_string(), digest: *digest }) }
    }

    /// The entries of a layout's index, the names in place.
    fn entries(&self) -> Vec<Value> {
        let mut entries = Vec::new();
        for image in self.images {
            let names = image.names.iter().map(Some).chain(image.names.is_empty().then_some(None));
            entries.extend(names.map(|name| entry(&image.descriptor, name)));
        }
        entries
    }

    fn oci_archive<W: Write>(&self, mut tar: TarWriter<W>) -> Result<W, ArchiveError> {
        let failed = ArchiveError::written;
        tar.file(LAYOUT_FILE, LAYOUT.len() as u64, LAYOUT).map_err(failed)?;
        let index = index(self.entries())?;
        tar.file(INDEX_FILE, index.len() as u64, index.as_slice()).map_err(failed)?;
        tar.directory("blobs").map_err(failed)?;
        let mut algorithm = None;
        for (digest, hash) in &self.blobs {
            if algorithm.replace(digest.algorithm()) != Some(digest.algorithm()) {
                tar.directory(&format!("blobs/{}", digest.algorithm().as_str())).map_err(failed)?;
            }
            let stream = BlobStream::open(self.content, hash)?;
            tar.file(&blob_name(digest), stream.size(), stream).map_err(failed)?;
        }
        tar.finish().map_err(failed)
    }

    fn docker_archive<W: Write>(&self, mut tar: TarWriter<W>) -> Result<W, ArchiveError> {
        let failed = ArchiveError::written;
        let (mut list, mut written) = (Vec::new(), BTreeSet::new());
        for image in self.images {
            let (config, layers) = self.docker_image(image)?;
            let mut names = Vec::new();
            for (layer, diff_id) in layers {
                let name = format!("{}.tar", diff_id.hex());
                if written.insert(name.clone()) {
                    let size = self.unpack(&layer.digest, diff_id, &mut io::sink())?;
                    tar.file(&name, size, self.plain(&layer.digest)?).map_err(failed)?;
                }
                names.push(name);
            }
            let bytes = self.document(&config)?;
            let name = format!("{}.json", config.hex());
            if written.insert(name.clone()) {
                tar.file(&name, bytes.len() as u64, bytes.as_slice()).map_err(failed)?;
            }
            list.push(json!({ "Config": name, "RepoTags": image.names, "Layers": names }));
        }
        let list = serde_json::to_vec(&list).map_err(|error| ArchiveError::malformed(error.to_string()))?;
        tar.file(MANIFEST_FILE, list.len() as u64, list.as_slice()).map_err(failed)?;
        tar.finish().map_err(failed)
    }

    /// An image's configuration and its layers, each with the digest that the configuration has of it unpacked.
    fn docker_image(&self, image: &Export) -> Result<(Digest, Vec<(Descriptor, Digest)>), ArchiveError> {
        let not = |why: &str| ArchiveError::NotExpressible(format!("{}: {why}", image.descriptor.digest));
        let digest = image.descriptor.digest;
        let manifest = Manifest::parse(&self.document(&digest)?, Some(&image.descriptor.media_type))
            .map_err(|source| ArchiveError::Manifest { what: digest.to_string(), source })?;
        if manifest.kind == ManifestKind::Index {
            return Err(not("it is for several platforms, and a docker-archive has images of one: choose it"));
        }
        let config = manifest.config.ok_or_else(|| not("it has no configuration"))?;
        if ![media_type::OCI_CONFIG, media_type::DOCKER_CONFIG].contains(&config.media_type.as_str()) {
            return Err(not("it is an artifact, not an image"));
        }
        let diff_ids = diff_ids(&self.document(&config.digest)?)
            .map_err(|error| ArchiveError::malformed(format!("{}: {error}", config.digest)))?;
        if manifest.layers.len() != diff_ids.len() {
            return Err(not("its configuration is of other layers"));
        }
        Ok((config.digest, manifest.layers.into_iter().zip(diff_ids).collect()))
    }

    /// A layer as a plain tar archive.
    fn plain(&self, digest: &Digest) -> Result<Box<dyn io::Read>, ArchiveError> {
        let hash = self.blobs.get(digest).ok_or_else(|| ArchiveError::Missing { count: 1, first: vec![digest.to_string()] })?;
        Ok(compression::plain(BlobStream::open(self.content, hash)?, Limits::default())?.1)
    }

    /// Unpacks a layer, and says how many bytes it comes to: a tar archive wants to know before.
    fn unpack(&self, digest: &Digest, diff_id: Digest, out: &mut dyn Write) -> Result<u64, ArchiveError> {
        let mut hashing = Hashing { out, hasher: sha2::Digest::new() };
        let size = io::copy(&mut self.plain(digest)?, &mut hashing).map_err(ArchiveError::read("a layer"))?;
        match Digest::from(hashing.finish()) == diff_id {
            true => Ok(size),
            false => Err(ArchiveError::Mismatch { name: digest.to_string(), digest: diff_id }),
        }
    }

    /// Writes a layout, or adds to one.
    fn layout(&self, path: &Path) -> Result<(), ArchiveError> {
        if path.join(INDEX_FILE).exists() {
            return self.add_to_layout(path);
        }
        let (directory, temporary) = beside(path)?;
        let fail = |action| move |source| ArchiveError::Write { action, path: path.to_owned(), source };
        let written = fs::create_dir(&temporary).map_err(fail("create")).and_then(|()| {
            write_new(&temporary, LAYOUT_FILE, LAYOUT)?;
            write_new(&temporary, INDEX_FILE, &index(self.entries())?)?;
            self.write_blobs(&temporary)?;
            sync(&temporary)?;
            // An empty directory gives way, nothing else does.
            fs::rename(&temporary, path).map_err(fail("name"))
        });
        if written.is_err() {
            let _ = fs::remove_dir_all(&temporary);
        }
        written.and_then(|()| sync(&directory))
    }

    /// Blobs first, then the index that names them: a reader sees a whole layout at each moment.
    fn add_to_layout(&self, path: &Path) -> Result<(), ArchiveError> {
        self.write_blobs(path)?;
        let what = path.join(INDEX_FILE);
        let old = fs::read(&what).map_err(ArchiveError::read(what.display()))?;
        let bad = |source| ArchiveError::Manifest { what: what.display().to_string(), source };
        Manifest::parse(&old, Some(media_type::OCI_INDEX)).map_err(bad)?;
        let mut old: Map<String, Value> =
            serde_json::from_slice(&old).map_err(|error| ArchiveError::malformed(error.to_string()))?;
        let new = self.entries();
        let named: BTreeSet<_> = new.iter().filter_map(name_of).collect();
        let mut entries = match old.remove("manifests") {
            Some(Value::Array(entries)) => entries,
            _ => Vec::new(),
        };
        // A name has one manifest, the last that got it.
        entries.retain(|entry| name_of(entry).is_none_or(|name| !named.contains(name)) && !new.contains(entry));
        entries.extend(new);
        old.insert("manifests".to_owned(), Value::Array(entries));
        let bytes = serde_json::to_vec(&old).map_err(|error| ArchiveError::malformed(error.to_string()))?;
        let (_, temporary) = beside(&what)?;
        write_at(&temporary, &bytes)?;
        fs::rename(&temporary, &what).map_err(|source| ArchiveError::Write { action: "name", path: what.clone(), source })?;
        sync(path)
    }

    fn write_blobs(&self, root: &Path) -> Result<(), ArchiveError> {
        let mut directories = BTreeSet::new();
        for (digest, hash) in &self.blobs {
            let path = root.join(blob_name(digest));
            let (directory, temporary) = beside(&path)?;
            if directories.insert(directory.clone()) {
                fs::create_dir_all(&directory).map_err(|source| ArchiveError::Write {
                    action: "create",
                    path: directory,
                    source,
                })?;
            }
            if fs::metadata(&path).is_ok_and(|known| Some(known.len()) == self.content.size(hash).ok().flatten()) {
                continue;
            }
            let target = &path;
            let fail = |action| move |source| ArchiveError::Write { action, path: target.clone(), source };
            let file = File::create_new(&temporary).map_err(fail("create"))?;
            let written = self.content.export(hash, &file, &temporary).map_err(ArchiveError::from).and_then(|_| {
                file.sync_all().map_err(fail("sync"))?;
                fs::rename(&temporary, &path).map_err(fail("name"))
            });
            if written.is_err() {
                let _ = fs::remove_file(&temporary);
            }
            written?;
        }
        directories.iter().try_for_each(|directory| sync(directory))?;
        sync(&root.join("blobs")).and_then(|()| sync(root))
    }
}

/// Hashes what passes.
struct Hashing<'a> {
    out: &'a mut dyn Write,
    hasher: sha2::Sha256,
}

impl Hashing<'_> {
    fn finish(self) -> crate::model::Sha256Digest {
        crate::model::Sha256Digest::from_bytes(sha2::Digest::finalize(self.hasher).into())
    }
}

impl Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        sha2::Digest::update(&mut self.hasher, &bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// An entry of a layout's index.
fn entry(descriptor: &Descriptor, name: Option<&String>) -> Value {
    let mut entry = Map::new();
    entry.insert("mediaType".to_owned(), json!(descriptor.media_type));
    entry.insert("digest".to_owned(), json!(descriptor.digest.to_string()));
    entry.insert("size".to_owned(), json!(descriptor.size));
    if let Some(artifact_type) = &descriptor.artifact_type {
        entry.insert("artifactType".to_owned(), json!(artifact_type));
    }
    if let Some(platform) = &descriptor.platform {
        let mut told = json!({ "architecture": platform.architecture, "os": platform.os });
        if let Some(variant) = &platform.variant {
            told["variant"] = json!(variant);
        }
        entry.insert("platform".to_owned(), told);
    }
    let mut annotations = descriptor.annotations.clone();
    annotations.remove(super::CONTAINERD_NAME);
    annotations.remove(REF_NAME);
    annotations.extend(name.map(|name| (REF_NAME.to_owned(), name.clone())));
    if !annotations.is_empty() {
        entry.insert("annotations".to_owned(), json!(annotations));
    }
    Value::Object(entry)
}

fn name_of(entry: &Value) -> Option<&str> {
    entry.get("annotations")?.get(REF_NAME)?.as_str()
}

fn index(entries: Vec<Value>) -> Result<Vec<u8>, ArchiveError> {
    let index = json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": entries });
    serde_json::to_vec(&index).map_err(|error| ArchiveError::malformed(error.to_string()))
}

/// The directory of a path, and a name in it for what is not whole yet.
fn beside(path: &Path) -> Result<(PathBuf, PathBuf), ArchiveError> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|error| ArchiveError::NotExpressible(error.to_string()))?;
    let name = format!(".peat-blob-{}.tmp", data_encoding::HEXLOWER.encode(&random));
    Ok((directory.clone(), directory.join(name)))
}

/// Gives a file a name that nothing has. Not every file system can say so in one step, as that of most sticks.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) if to.symlink_metadata().is_err() => fs::rename(from, to),
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => Err(io::ErrorKind::AlreadyExists.into()),
        done => Ok(done?),
    }
}

fn write_new(directory: &Path, name: &str, bytes: &[u8]) -> Result<(), ArchiveError> {
    write_at(&directory.join(name), bytes)
}

fn write_at(path: &Path, bytes: &[u8]) -> Result<(), ArchiveError> {
    let fail = |action| move |source| ArchiveError::Write { action, path: path.to_owned(), source };
    let mut file = File::create_new(path).map_err(fail("create"))?;
    file.write_all(bytes).map_err(fail("write"))?;
    file.sync_all().map_err(fail("sync"))
}

fn sync(directory: &Path) -> Result<(), ArchiveError> {
    let fail = |source| ArchiveError::Write { action: "sync", path: directory.to_owned(), source };
    File::open(directory).and_then(|open| open.sync_all()).map_err(fail)
}

//! A docker-archive: a list of images, each with its configuration and its layers by the names of files. It has no manifests, so
//! that one is made of each image: the same of the same files, whoever imports it.

use std::collections::BTreeMap;
use std::io::Read;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::compression::{self, Compression, read_up_to};
use super::intake::{Held, digest_of};
use super::keep::Keep;
use super::layout::show;
use super::tar::normal;
use super::{ArchiveError, ImportOptions, Imported, MANIFEST_FILE, Root};
use crate::content::Hashed;
use crate::model::Sha256Digest;
use crate::oci::{Descriptor, Digest, MAX_MANIFEST_BYTES, Platform, media_type};
use crate::registry::BlobStream;
use crate::registry::closure::matches_platform;

/// A layer of Docker's as a plain tar archive: its specification has none, its implementations do.
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
/// Most layers of an image; Docker itself takes 127.
const MAX_LAYERS: usize = 1000;

/// An image, as the list has it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Image {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

/// What is wanted of a configuration.
#[derive(Deserialize)]
struct Config {
    #[serde(flatten)]
    platform: Option<Platform>,
    rootfs: RootFs,
}

/// The digests of an image's layers, unpacked.
#[derive(Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Vec<String>,
}

/// A manifest as it is written here: without spaces, its members in this order.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Written<'a> {
    schema_version: u8,
    media_type: &'a str,
    config: WrittenPart<'a>,
    layers: Vec<WrittenPart<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WrittenPart<'a> {
    media_type: &'a str,
    size: u64,
    digest: String,
}

/// A layer that was looked at.
#[derive(Debug, Clone)]
struct Layer {
    digest: Digest,
    size: u64,
    compression: Compression,
    /// The digest of the plain tar archive.
    diff_id: Digest,
}

pub(super) fn import<'a>(keep: Keep<'a>, options: &'a ImportOptions) -> Result<Imported, ArchiveError> {
    let mut import = Import { keep, options, layers: BTreeMap::new() };
    let bytes = import.keep.files.read(MANIFEST_FILE)?.unwrap_or_default();
    let images: Vec<Image> =
        serde_json::from_slice(&bytes).map_err(|error| ArchiveError::malformed(format!("{MANIFEST_FILE}: {error}")))?;
    let mut roots: Vec<Root> = Vec::new();
    for image in images {
        let Some(root) = import.image(image)? else { continue };
        match roots.iter_mut().find(|known| known.descriptor.digest == root.descriptor.digest) {
            Some(known) => known.names.extend(root.names),
            None => roots.push(root),
        }
    }
    if let (true, Some(platform)) = (roots.is_empty(), &options.platform) {
        return Err(ArchiveError::NoSuchPlatform(show(platform)));
    }
    import.keep.finish(roots)
}

struct Import<'a> {
    keep: Keep<'a>,
    options: &'a ImportOptions,
    /// By the name of the file, since images share them.
    layers: BTreeMap<String, Layer>,
}

impl Import<'_> {
    /// Takes in an image, unless it is for another platform.
    fn image(&mut self, image: Image) -> Result<Option<Root>, ArchiveError> {
        let bytes = self.config(&image.config)?;
        let config: Config = serde_json::from_slice(&bytes)
            .map_err(|error| ArchiveError::malformed(format!("the configuration {:.100}: {error}", image.config)))?;
        if let (Some(wanted), Some(offered)) = (&self.options.platform, &config.platform)
            && !matches_platform(wanted, offered)
        {
            return Ok(None);
        }
        let names = image.layers.unwrap_or_default();
        if names.len() != config.rootfs.diff_ids.len() || names.len() > MAX_LAYERS {
            let why = format!("an image of {} layers, whose configuration names {}", names.len(), config.rootfs.diff_ids.len());
            return Err(ArchiveError::malformed(why));
        }
        let mut layers = Vec::new();
        for (name, diff_id) in names.iter().zip(&config.rootfs.diff_ids) {
            let layer = self.layer(name)?;
            if layer.diff_id.to_string() != *diff_id {
                let digest = diff_id.parse().map_err(|error| ArchiveError::malformed(format!("a diff_id: {error}")))?;
                return Err(ArchiveError::Mismatch { name: name.clone(), digest });
            }
            layers.push(layer);
        }
        let descriptor = self.manifest(&bytes, &layers)?;
        Ok(Some(Root { descriptor, names: image.repo_tags.unwrap_or_default(), platform: config.platform }))
    }

    /// The bytes of a configuration. If its name is a digest it has to be its own.
    fn config(&mut self, name: &str) -> Result<Vec<u8>, ArchiveError> {
        let bytes = self.keep.files.read(&clean(name)?)?.ok_or_else(|| missing(name))?;
        if bytes.len() > MAX_MANIFEST_BYTES {
            return Err(ArchiveError::OverLimit(format!("{name:.200}, of which at most {MAX_MANIFEST_BYTES} bytes are read")));
        }
        match named_digest(name) {
            Some(digest) if !digest.is_of(&bytes) => Err(ArchiveError::Mismatch { name: name.to_owned(), digest }),
            _ => Ok(bytes),
        }
    }

    fn layer(&mut self, name: &str) -> Result<Layer, ArchiveError> {
        // Several names may lead to one file, of which the first took it.
        let resolved = self.keep.files.resolve(&clean(name)?)?;
        if let Some(known) = self.layers.get(&resolved) {
            return Ok(known.clone());
        }
        let hashed = match self.keep.files.take(&resolved)?.ok_or_else(|| missing(name))? {
            Held::Spooled(spooled, _) => self.keep.content().hash_spooled(spooled)?,
            Held::Hashed(hashed, _) => hashed,
            Held::Here => return self.layer_here(resolved),
            Held::Seen(seen) => {
                let layer = look(seen.blob.sha256, seen.blob.size, seen.bytes, self.options)?;
                self.keep.note(layer.digest, seen.blob, media_type_of(layer.compression));
                self.layers.insert(resolved, layer.clone());
                return Ok(layer);
            }
        };
        let layer = self.look(&hashed)?;
        self.keep.add(layer.digest, hashed, media_type_of(layer.compression))?;
        self.layers.insert(resolved, layer.clone());
        Ok(layer)
    }

    /// What a layer is, by its bytes.
    fn look(&self, hashed: &Hashed) -> Result<Layer, ArchiveError> {
        let blob = hashed.blob();
        look(blob.sha256, blob.size, hashed.open()?, self.options)
    }

    /// A layer whose name is the digest of a blob that is in the store.
    fn layer_here(&mut self, name: String) -> Result<Layer, ArchiveError> {
        let blob = match digest_of(&name) {
            Some(digest) => self.keep.in_store(&digest)?,
            None => None,
        };
        let blob = blob.ok_or_else(|| missing(&name))?;
        let stream = BlobStream::open(self.keep.content(), &blob.hash)?;
        let layer = look(blob.sha256, blob.size, stream, self.options)?;
        self.keep.note(layer.digest, blob, media_type_of(layer.compression));
        self.layers.insert(name, layer.clone());
        Ok(layer)
    }

    /// Makes the manifest of an image, and keeps it with the configuration.
    fn manifest(&mut self, config: &[u8], layers: &[Layer]) -> Result<Descriptor, ArchiveError> {
        // Docker's own has no word for layers in zstd.
        let docker = layers.iter().all(|layer| layer.compression != Compression::Zstd);
        let (manifest_type, config_type) = match docker {
            true => (media_type::DOCKER_MANIFEST, media_type::DOCKER_CONFIG),
            false => (media_type::OCI_MANIFEST, media_type::OCI_CONFIG),
        };
        let config_digest = self.keep.add_bytes(config, config_type)?;
        let part = |layer: &Layer| WrittenPart {
            media_type: match (docker, layer.compression) {
                (false, Compression::Plain) => media_type::OCI_LAYER,
                (false, Compression::Gzip) => media_type::OCI_LAYER_GZIP,
                (_, compression) => media_type_of(compression),
            },
            size: layer.size,
            digest: layer.digest.to_string(),
        };
        let manifest = Written {
            schema_version: 2,
            media_type: manifest_type,
            config: WrittenPart { media_type: config_type, size: config.len() as u64, digest: config_digest.to_string() },
            layers: layers.iter().map(part).collect(),
        };
        let bytes = serde_json::to_vec(&manifest).map_err(|error| ArchiveError::malformed(error.to_string()))?;
        let digest = self.keep.add_bytes(&bytes, manifest_type)?;
        Ok(Descriptor::new(manifest_type, digest, bytes.len() as u64))
    }
}

/// What a layer is: a plain one is its own diff_id, and of another the digest of what it unpacks to is.
fn look(sha256: Sha256Digest, size: u64, mut source: impl Read, options: &ImportOptions) -> Result<Layer, ArchiveError> {
    let mut first = [0; 6];
    let known = read_up_to(&mut source, &mut first).map_err(ArchiveError::read("a layer"))?;
    let compression = Compression::of(&first[..known])?;
    let digest = Digest::from(sha256);
    let diff_id = match compression {
        Compression::Plain => digest,
        _ => {
            let (_, mut plain) = compression::plain(first[..known].chain(source), options.limits)?;
            let mut hasher = Sha256::new();
            let mut buffer = vec![0; 128 * 1024];
            loop {
                match plain.read(&mut buffer).map_err(ArchiveError::read("a layer"))? {
                    0 => break Sha256Digest::from_bytes(hasher.finalize().into()).into(),
                    read => hasher.update(&buffer[..read]),
                }
            }
        }
    };
    Ok(Layer { digest, size, compression, diff_id })
}

fn media_type_of(compression: Compression) -> &'static str {
    match compression {
        Compression::Plain => DOCKER_LAYER,
        Compression::Gzip => media_type::DOCKER_LAYER_GZIP,
        Compression::Zstd => media_type::OCI_LAYER_ZSTD,
    }
}

/// A name of the list as the archive's entries have it.
fn clean(name: &str) -> Result<String, ArchiveError> {
    normal(name.as_bytes()).map_err(|why| ArchiveError::Refused { name: name.chars().take(200).collect(), why })
}

fn missing(name: &str) -> ArchiveError {
    ArchiveError::Missing { count: 1, first: vec![name.chars().take(200).collect()] }
}

/// The digest that a name is: `<hex>.json`, `sha256:<hex>`, `blobs/sha256/<hex>`.
fn named_digest(name: &str) -> Option<Digest> {
    let last = name.rsplit('/').next()?;
    let hex = last.strip_suffix(".json").unwrap_or(last);
    let hex = hex.strip_prefix("sha256:").unwrap_or(hex);
    format!("sha256:{hex}").parse().ok()
}

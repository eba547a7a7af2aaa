//! The layers of images that are here, as split streams.

use super::{HandoffError, LayerCache, LayerSource, SplitLayer};
use crate::oci::{Descriptor, Digest, MAX_MANIFEST_BYTES, Manifest, Reference, Repository, diff_ids};
use crate::registry::archive::{Compression, Limits, plain};
use crate::registry::{BlobStream, Registry, RegistryError};

/// A layer of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageLayer {
    /// What the manifest says of it: its digest is of the layer as it travels.
    pub descriptor: Descriptor,
    /// What the configuration says of it: the digest of the plain tar archive.
    pub diff_id: Digest,
}

impl Registry {
    /// The layers of an image that is here, the lowest first.
    ///
    /// # Errors
    /// `NotAnImage` where the manifest is none of an image, or what the registry fails with.
    pub fn image_layers(&self, repository: &Repository, manifest: &Digest) -> Result<Vec<ImageLayer>, HandoffError> {
        let not = |why: String| HandoffError::NotAnImage { digest: *manifest, why };
        let stored = self.manifest(repository, manifest)?.ok_or_else(|| RegistryError::NoManifest {
            repository: repository.clone(),
            reference: Reference::Digest(*manifest),
        })?;
        let image = Manifest::parse(&stored.bytes, Some(&stored.media_type)).map_err(RegistryError::from)?;
        let Some(config) = image.config else { return Err(not("it is for several platforms: choose one".to_owned())) };
        let config = self.open_blob(repository, &config.digest)?;
        if config.size() > MAX_MANIFEST_BYTES as u64 {
            return Err(not(format!("its configuration has {} bytes, and at most {MAX_MANIFEST_BYTES} are read", config.size())));
        }
        let config = config.read_first(MAX_MANIFEST_BYTES as u64).map_err(RegistryError::from)?;
        let diff_ids = diff_ids(&config).map_err(|error| not(error.to_string()))?;
        if diff_ids.len() != image.layers.len() {
            return Err(not("its configuration is of other layers".to_owned()));
        }
        let layers = image.layers.into_iter().zip(diff_ids);
        Ok(layers.map(|(descriptor, diff_id)| ImageLayer { descriptor, diff_id }).collect())
    }

    /// A layer that is here as a split stream, from the cache or made now: plain, or in gzip or zstd. Where it is plain and in a
    /// file that can share its blocks, those of its files that begin with a block do.
    ///
    /// # Errors
    /// `NoBlob` when it is not here, and those of [`LayerCache::layer`].
    pub fn split_layer(
        &self,
        cache: &LayerCache,
        repository: &Repository,
        layer: &ImageLayer,
    ) -> Result<SplitLayer, HandoffError> {
        // Who may not read the layer is not given it from the cache either.
        let digest = layer.descriptor.digest;
        let held =
            self.blob(repository, &digest)?.ok_or_else(|| RegistryError::NoBlob { repository: repository.clone(), digest })?;
        let reader = self.content().open_blob(&held.hash).map_err(RegistryError::from)?;
        cache.layer(&layer.diff_id, || {
            let stream = BlobStream::open(self.content(), &held.hash).map_err(RegistryError::from)?;
            let limits = Limits { bytes: cache.options().layer_limit, ..Limits::default() };
            let (compression, tar) = plain(stream, limits).map_err(HandoffError::archive)?;
            let file = reader.file().filter(|_| compression == Compression::Plain);
            Ok(LayerSource { tar, file })
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Read as _;
    use std::sync::Arc;

    use super::super::CacheOptions;
    use super::super::tests::{directory, file, sha256};
    use super::*;
    use crate::ErrorKind;
    use crate::clock::SystemClock;
    use crate::content::{Content, Options};
    use crate::oci::media_type;

    pub(in crate::handoff) fn push(registry: &Registry, repository: &Repository, bytes: &[u8]) -> Digest {
        let (id, digest) = (registry.begin_upload(repository).expect("begun"), sha256(bytes));
        registry.append_upload(repository, &id, 0, bytes).expect("appended");
        registry.finish_upload(repository, &id, &digest).expect("finished");
        digest
    }

    pub(in crate::handoff) fn gzip(plain: &[u8]) -> Vec<u8> {
        let mut packed = Vec::new();
        flate2::read::GzEncoder::new(plain, flate2::Compression::fast()).read_to_end(&mut packed).expect("memory");
        packed
    }

    fn zstd(plain: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; zstd_safe::compress_bound(plain.len())];
        let length = zstd_safe::compress(frame.as_mut_slice(), plain, 3).expect("it fits");
        frame.truncate(length);
        frame
    }

    /// An image of these layers, whose configuration names these.
    pub(in crate::handoff) fn image(
        registry: &Registry,
        repository: &Repository,
        layers: &[Vec<u8>],
        diff_ids: &[Digest],
    ) -> Digest {
        let ids: Vec<_> = diff_ids.iter().map(|id| format!("\"{id}\"")).collect();
        let config = format!(r#"{{"os":"linux","rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#, ids.join(","));
        let part = |kind: &str, bytes: &[u8]| {
            let digest = push(registry, repository, bytes);
            format!(r#"{{"mediaType":"{kind}","digest":"{digest}","size":{}}}"#, bytes.len())
        };
        let layers: Vec<_> = layers.iter().map(|layer| part(media_type::OCI_LAYER, layer)).collect();
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","config":{},"layers":[{}]}}"#,
            media_type::OCI_MANIFEST,
            part(media_type::OCI_CONFIG, config.as_bytes()),
            layers.join(",")
        );
        let reference = "v1".parse().expect("a tag");
        registry.put_manifest(repository, &reference, None, manifest.as_bytes()).expect("put");
        sha256(manifest.as_bytes())
    }

    pub(in crate::handoff) struct Fixture {
        pub(in crate::handoff) _dir: tempfile::TempDir,
        pub(in crate::handoff) registry: Registry,
        pub(in crate::handoff) cache: LayerCache,
        pub(in crate::handoff) repository: Repository,
    }

    pub(in crate::handoff) fn fixture() -> Fixture {
        let (dir, clock) = (directory(), Arc::new(SystemClock));
        let options = Options { quota: None, reserve: 0 };
        let content = Content::open(&dir.path().join("content"), options, clock.clone()).expect("a store");
        let registry = Registry::open(&dir.path().join("registry.redb"), content, clock.clone()).expect("a registry");
        let options = CacheOptions { reserve: 0, ..CacheOptions::default() };
        let cache = LayerCache::open(&dir.path().join("layers"), options, clock).expect("a cache");
        Fixture { _dir: dir, registry, cache, repository: "team/app".parse().expect("a name") }
    }

    #[test]
    fn layers_of_an_image_come_out_plain_however_they_are_packed() {
        let Fixture { registry, cache, repository, .. } = &fixture();
        let plains = [1, 2, 3].map(|byte| [file("own", &[byte; 30_000]), file("shared", &[9; 50_000]), vec![0; 1024]].concat());
        let packed = [plains[0].clone(), gzip(&plains[1]), zstd(&plains[2])];
        let manifest = image(registry, repository, &packed, &plains.each_ref().map(|plain| sha256(plain)));
        let layers = registry.image_layers(repository, &manifest).expect("an image");
        assert_eq!(layers.len(), 3);
        for (layer, plain) in layers.iter().zip(&plains) {
            let split = registry.split_layer(cache, repository, layer).expect("split");
            let mut out = Vec::new();
            split.copy_to(&mut out).expect("whole");
            assert!(out == *plain);
            assert!(cache.get(&layer.diff_id).expect("it can be read").is_some());
        }
        let elsewhere = registry.split_layer(cache, &"other/app".parse().expect("a name"), &layers[0]);
        assert!(matches!(elsewhere, Err(HandoffError::Registry(RegistryError::NoBlob { .. }))), "not for readers of others");
    }

    #[test]
    fn a_configuration_that_is_wrong_about_a_layer_is_found_out() {
        let Fixture { registry, cache, repository, .. } = &fixture();
        let plain = file("own", &[1; 9000]);
        let manifest = image(registry, repository, &[gzip(&plain)], &[sha256(b"other")]);
        let layers = registry.image_layers(repository, &manifest).expect("an image");
        let split = registry.split_layer(cache, repository, &layers[0]);
        assert!(matches!(split, Err(HandoffError::DiffersFromDiffId { actual, .. }) if *actual == sha256(&plain)));
        let short = image(registry, repository, &[gzip(&plain)], &[]);
        assert!(matches!(registry.image_layers(repository, &short), Err(HandoffError::NotAnImage { .. })));
        let none = registry.image_layers(repository, &sha256(b"none")).expect_err("it is not here");
        assert_eq!(none.kind(), ErrorKind::NotFound);
        let cut = gzip(&plain);
        let manifest = image(registry, repository, &[cut[..cut.len() - 9].to_vec()], &[sha256(&plain)]);
        let layers = registry.image_layers(repository, &manifest).expect("an image");
        assert!(matches!(registry.split_layer(cache, repository, &layers[0]), Err(HandoffError::Archive(_))));
        assert_eq!(cache.bytes(), 0);
    }
}

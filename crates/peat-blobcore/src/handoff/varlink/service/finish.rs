//! An image of layers that were put. The registry keeps blobs as they travel: where that is the plain archive, or what travels is here
//! already, the manifest stays byte for byte what it was; where what travelled cannot be made again, it is written anew with the plain
//! layers, and has another digest.
//!
//! Must never put a manifest whose parts are not here, which the registry sees to.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde_json::Value;

use super::calls::{Session, internal, of_layer, refused};
use super::images::{Name, is_image};
use super::layers::verity;
use crate::handoff::varlink::message::Fault;
use crate::handoff::varlink::wire::{self, FinalizedImage, Refusal};
use crate::oci::{Algorithm, Digest, Manifest, ManifestKind, Reference, Repository, diff_ids, media_type};
use crate::registry::{Held, RegistryError};

const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
/// Bytes that go into the store at a time.
const STEP_BYTES: usize = 1024 * 1024;

impl Session<'_> {
    pub(super) fn finalize_image(&mut self, asked: &wire::FinalizeImage) -> Result<FinalizedImage, Fault> {
        self.is_open(asked.handle)?;
        let (repository, tag) = Name::to_be(asked.name.as_deref())?;
        let manifest = Manifest::parse(asked.manifest_json.as_bytes(), None).map_err(|error| refused(error.to_string()))?;
        let config = manifest.config.as_ref().filter(|_| manifest.kind == ManifestKind::Image);
        let config = config.ok_or_else(|| refused("the manifest is none of an image: give the images of an index one by one"))?;
        let config_bytes = asked.config_json.as_bytes();
        if !config.digest.is_of(config_bytes) || config.size != config_bytes.len() as u64 {
            return Err(refused(format!("the configuration is not {}, which the manifest names", config.digest)));
        }
        let layers = match is_image(config) {
            true => diff_ids(config_bytes).map_err(|error| refused(error.to_string()))?,
            // What is no image is not packed.
            false => manifest.layers.iter().map(|layer| layer.digest).collect(),
        };
        if layers.len() != manifest.layers.len() {
            return Err(refused("the configuration is of other layers than the manifest"));
        }
        let named = asked.layers.iter().map(|layer| (layer.diff_id.clone(), layer.layer_verity.clone()));
        if !named.eq(layers.iter().map(|diff_id| (diff_id.to_string(), verity(diff_id)))) {
            return Err(refused("the layers are not those of the configuration, by the names that they have here"));
        }
        let mut changed = BTreeMap::new();
        for (at, (layer, diff_id)) in manifest.layers.iter().zip(&layers).enumerate() {
            if self.has(&repository, &layer.digest)?.is_some() {
                continue;
            }
            if self.has(&repository, diff_id)?.is_none() {
                self.write(&repository, diff_id)?;
            }
            if layer.digest != *diff_id {
                let held = self.has(&repository, diff_id)?.ok_or_else(|| no_layer(diff_id))?;
                changed.insert(at, (*diff_id, held.size));
            }
        }
        self.upload(&repository, &config.digest, |out| out.write_all(config_bytes).map_err(internal))?;
        let bytes = match changed.is_empty() {
            true => asked.manifest_json.clone().into_bytes(),
            false => with_plain_layers(&asked.manifest_json, &manifest.media_type, &changed)?,
        };
        let digest = Digest::of(Algorithm::Sha256, &bytes);
        let reference = tag.map_or(Reference::Digest(digest), Reference::Tag);
        let put = self.registry().put_manifest(&repository, &reference, Some(&manifest.media_type), &bytes);
        let put = put.map_err(|error| match error {
            RegistryError::SizeDiffers { .. } | RegistryError::Missing(_) => refused(error.to_string()),
            error => internal(error),
        })?;
        let mut kept = self.service.put();
        layers.iter().for_each(|diff_id| kept.forget(diff_id));
        Ok(FinalizedImage {
            manifest_digest: put.digest.to_string(),
            manifest_verity: verity(&put.digest),
            config_digest: config.digest.to_string(),
            config_verity: verity(&config.digest),
        })
    }

    /// A blob, as one of the repository if any has it.
    fn has(&self, repository: &Repository, digest: &Digest) -> Result<Option<Held>, Fault> {
        match self.registry().blob(repository, digest).map_err(internal)? {
            Some(held) => Ok(Some(held)),
            None => self.registry().mount(repository, digest, None).map_err(internal),
        }
    }

    /// Writes a layer into the repository as a plain archive.
    fn write(&self, repository: &Repository, diff_id: &Digest) -> Result<(), Fault> {
        let layer = self.service.layer(diff_id)?;
        self.upload(repository, diff_id, |out| layer.copy_to(out).map(drop).map_err(of_layer(diff_id)))
    }

    fn upload(
        &self,
        repository: &Repository,
        digest: &Digest,
        write: impl FnOnce(&mut dyn Write) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let registry = self.registry();
        let id = registry.begin_upload(repository).map_err(internal)?;
        let mut failed = None;
        let upload = Upload {
            append: |at, bytes: &[u8]| {
                registry.append_upload(repository, &id, at, bytes).map(drop).map_err(|error| {
                    failed = Some(internal(error));
                    io::ErrorKind::Other.into()
                })
            },
            at: 0,
        };
        let mut out = io::BufWriter::with_capacity(STEP_BYTES, upload);
        let written = write(&mut out).and_then(|()| out.flush().map_err(internal));
        drop(out.into_parts());
        if let Err(fault) = written {
            let _ = registry.cancel_upload(repository, &id);
            // What the store says is nearer to the cause.
            return Err(failed.unwrap_or(fault));
        }
        registry.finish_upload(repository, &id, digest).map(drop).map_err(internal)
    }
}

/// Goes into an upload.
struct Upload<F> {
    append: F,
    at: u64,
}

impl<F: FnMut(u64, &[u8]) -> io::Result<()>> Write for Upload<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (self.append)(self.at, bytes)?;
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn no_layer(diff_id: &Digest) -> Fault {
    Refusal::NoSuchLayer { diff_id: diff_id.to_string() }.into()
}

/// The manifest with other layers at some places; what else it says stays.
fn with_plain_layers(manifest: &str, kind: &str, changed: &BTreeMap<usize, (Digest, u64)>) -> Result<Vec<u8>, Fault> {
    let plain = if kind == media_type::DOCKER_MANIFEST { DOCKER_LAYER } else { media_type::OCI_LAYER };
    let mut value: Value = serde_json::from_str(manifest).map_err(|error| refused(error.to_string()))?;
    let layers = value.get_mut("layers").and_then(Value::as_array_mut).ok_or_else(|| refused("the manifest has no layers"))?;
    for (at, (digest, size)) in changed {
        let layer = layers.get_mut(*at).and_then(Value::as_object_mut).ok_or_else(|| refused("a layer is none"))?;
        layer.insert("mediaType".to_owned(), plain.into());
        layer.insert("digest".to_owned(), digest.to_string().into());
        layer.insert("size".to_owned(), (*size).into());
        // Places from which, bytes of, and notes on what was packed are not of this.
        for name in ["urls", "data", "annotations"] {
            layer.remove(name);
        }
    }
    serde_json::to_vec(&value).map_err(internal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_that_is_written_anew_differs_in_the_layers_that_had_to_be_alone() {
        let gzip = "application/vnd.oci.image.layer.v1.tar+gzip";
        let layer = |digest: &str| {
            format!(
                r#"{{"mediaType":"{gzip}","digest":"sha256:{}","size":7,"urls":["https://x.example"],"data":"","annotations":{{"a":"b"}},"x":1}}"#,
                digest.repeat(32)
            )
        };
        let text = format!(r#"{{"schemaVersion":2,"a":[null],"layers":[{},{}]}}"#, layer("aa"), layer("bb"));
        let digest = Digest::of(Algorithm::Sha256, b"");
        let written = with_plain_layers(&text, media_type::OCI_MANIFEST, &[(1, (digest, 512))].into()).expect("written");
        let (before, after): (Value, Value) =
            (serde_json::from_str(&text).expect("JSON"), serde_json::from_slice(&written).expect("JSON"));
        assert_eq!((&before["a"], &before["layers"][0]), (&after["a"], &after["layers"][0]));
        let expected = serde_json::json!({"mediaType": media_type::OCI_LAYER, "digest": digest.to_string(), "size": 512, "x": 1});
        assert_eq!(after["layers"][1], expected);
        let docker = with_plain_layers(&text, media_type::DOCKER_MANIFEST, &[(0, (digest, 512))].into()).expect("written");
        assert!(String::from_utf8_lossy(&docker).contains(DOCKER_LAYER));
    }
}

//! An image by digests of another function: its blobs are what they were, and its manifests, which name them, are written anew.

use std::collections::BTreeMap;

use serde_json::Value;

use super::CopyError;
use crate::oci::{Algorithm, Descriptor, Digest, ManifestError};
use crate::registry::ClosureError;

/// What things are called now, by what they were called, with their sizes.
#[derive(Debug, Default)]
pub(super) struct Readdressed(BTreeMap<Digest, (Digest, u64)>);

impl Readdressed {
    /// A blob has another digest.
    pub(super) fn blob(&mut self, mut part: Descriptor, digest: Digest) -> Descriptor {
        self.0.insert(part.digest, (digest, part.size));
        part.digest = digest;
        part
    }

    /// A manifest that names its parts by what they are called now. One that needs no other name stays as it is, byte for byte.
    pub(super) fn manifest(
        &mut self,
        mut part: Descriptor,
        bytes: Vec<u8>,
        algorithm: Option<Algorithm>,
    ) -> Result<(Descriptor, Vec<u8>), CopyError> {
        let Some(algorithm) = algorithm else { return Ok((part, bytes)) };
        let digest = part.digest;
        let unreadable =
            |error: serde_json::Error| ClosureError::Manifest { digest, source: ManifestError::Malformed(error.to_string()) };
        let mut value: Value = serde_json::from_slice(&bytes).map_err(unreadable)?;
        let renamed = self.rename(&mut value);
        if !renamed && part.digest.algorithm() == algorithm {
            return Ok((part, bytes));
        }
        let bytes = if renamed { serde_json::to_vec(&value).map_err(unreadable)? } else { bytes };
        let (digest, size) = (Digest::of(algorithm, &bytes), bytes.len() as u64);
        self.0.insert(part.digest, (digest, size));
        (part.digest, part.size) = (digest, size);
        Ok((part, bytes))
    }

    /// Renames the descriptors of a manifest: its configuration, layers, manifests and subject.
    fn rename(&self, manifest: &mut Value) -> bool {
        let mut renamed = false;
        let Some(fields) = manifest.as_object_mut() else { return false };
        for name in ["config", "layers", "manifests", "subject"] {
            let descriptors: Vec<&mut Value> = match fields.get_mut(name) {
                Some(Value::Array(list)) => list.iter_mut().collect(),
                Some(one) => vec![one],
                None => continue,
            };
            for descriptor in descriptors {
                let before = descriptor.get("digest").and_then(Value::as_str).and_then(|text| text.parse().ok());
                if let Some((digest, size)) = before.and_then(|before: Digest| self.0.get(&before)) {
                    descriptor["digest"] = digest.to_string().into();
                    descriptor["size"] = (*size).into();
                    renamed = true;
                }
            }
        }
        renamed
    }
}

//! Manifests and indexes: which blobs an image consists of. They are read for what they name and kept as the bytes that they
//! came as, since their digest is of these. Must never write one anew.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Digest, DigestError, media_type};

/// Longest manifest, in bytes: what distribution-spec 1.1 asks registries to take at least.
pub const MAX_MANIFEST_BYTES: usize = 4 * 1024 * 1024;
/// Most blobs that one manifest names.
const MAX_REFERENCES: usize = 10_000;

/// What a manifest is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ManifestKind {
    /// One image or artifact: a configuration and layers.
    Image,
    /// A list of manifests.
    Index,
}

/// Some content, described (image-spec, `descriptor.md`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// What kind of content it is.
    pub media_type: String,
    /// What names it.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// What it runs on, where an index says so.
    pub platform: Option<Platform>,
    /// What an artifact is, where an index says so.
    pub artifact_type: Option<String>,
    /// Remarks.
    pub annotations: BTreeMap<String, String>,
    /// Where else it may be had. Layers that may not be distributed are there alone (`foreign` layers).
    pub urls: Vec<String>,
}

impl Descriptor {
    /// Content of which nothing else is to be said.
    #[must_use]
    pub fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.into(),
            digest,
            size,
            platform: None,
            artifact_type: None,
            annotations: BTreeMap::new(),
            urls: Vec::new(),
        }
    }
}

/// What an image runs on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Platform {
    /// The processor, as `amd64`.
    pub architecture: String,
    /// The operating system, as `linux`.
    pub os: String,
    /// The variant of the processor, as `v8`.
    #[serde(default)]
    pub variant: Option<String>,
}

/// What a manifest says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Its kind.
    pub kind: ManifestKind,
    /// Its media type: what it says of itself, or what it came as.
    pub media_type: String,
    /// What kind of artifact it is: its own word for it, else the media type of its configuration.
    pub artifact_type: Option<String>,
    /// An image's configuration.
    pub config: Option<Descriptor>,
    /// An image's layers, the lowest first.
    pub layers: Vec<Descriptor>,
    /// An index's manifests.
    pub manifests: Vec<Descriptor>,
    /// The manifest that it is about (a signature's image).
    pub subject: Option<Descriptor>,
    /// Remarks.
    pub annotations: BTreeMap<String, String>,
}

/// Why bytes are not a manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Over [`MAX_MANIFEST_BYTES`].
    #[error("the manifest has {0} bytes, over the limit of {MAX_MANIFEST_BYTES}")]
    TooLarge(usize),
    /// Not JSON of the expected shape.
    #[error("the manifest cannot be read: {0}")]
    Malformed(String),
    /// It names something by what is no digest.
    #[error("the manifest names something by a bad digest: {0}")]
    Digest(#[from] DigestError),
    /// Of a kind that is not understood.
    #[error(
        "manifests of the media type {0:?} are not understood: use an image manifest or index of the OCI or of Docker (schema 2)"
    )]
    UnknownType(String),
    /// Its own word for its type is not what it came as.
    #[error("the manifest says that it is {inside:?}, and came as {outside:?}")]
    TypesDiffer {
        /// What it says.
        inside: String,
        /// What it came as.
        outside: String,
    },
    /// More than are read.
    #[error("the manifest names {0} blobs, over the limit of {MAX_REFERENCES}")]
    TooMany(usize),
}

impl Manifest {
    /// Reads a manifest. `came_as` is the media type that it came with, if any.
    ///
    /// # Errors
    /// [`ManifestError`] when it is not one.
    pub fn parse(bytes: &[u8], came_as: Option<&str>) -> Result<Self, ManifestError> {
        if bytes.len() > MAX_MANIFEST_BYTES {
            return Err(ManifestError::TooLarge(bytes.len()));
        }
        let json: Json = serde_json::from_slice(bytes).map_err(|error| ManifestError::Malformed(error.to_string()))?;
        // Parameters of the media type say nothing here.
        let came_as = came_as.and_then(|given| given.split(';').next()).map(str::trim).filter(|given| !given.is_empty());
        let media_type = match (json.media_type.clone(), came_as) {
            (Some(inside), Some(outside)) if inside != outside => {
                return Err(ManifestError::TypesDiffer { inside, outside: outside.to_owned() });
            }
            (Some(own), _) => own,
            (None, Some(given)) => given.to_owned(),
            (None, None) if json.manifests.is_some() => media_type::OCI_INDEX.to_owned(),
            (None, None) => media_type::OCI_MANIFEST.to_owned(),
        };
        if json.schema_version != 2 {
            return Err(ManifestError::Malformed(format!("schemaVersion is {}, not 2", json.schema_version)));
        }
        let kind = match media_type.as_str() {
            media_type::OCI_MANIFEST | media_type::DOCKER_MANIFEST => ManifestKind::Image,
            media_type::OCI_INDEX | media_type::DOCKER_MANIFEST_LIST => ManifestKind::Index,
            _ => return Err(ManifestError::UnknownType(media_type.chars().take(160).collect())),
        };
        json.check(kind)?;
        let config = json.config.map(Descriptor::try_from).transpose()?;
        let artifact_type = json.artifact_type.filter(|word| !word.is_empty());
        Ok(Self {
            kind,
            media_type,
            artifact_type: artifact_type.or_else(|| config.as_ref().map(|config| config.media_type.clone())),
            config,
            layers: descriptors(json.layers.unwrap_or_default())?,
            manifests: descriptors(json.manifests.unwrap_or_default())?,
            subject: json.subject.map(Descriptor::try_from).transpose()?,
            annotations: json.annotations.unwrap_or_default(),
        })
    }

    /// What it is made of, in the order in which it is wanted: the configuration and the layers, or the manifests. What it is
    /// about, its subject, is not part of it; nor are layers that may not be distributed.
    pub fn references(&self) -> impl Iterator<Item = &Descriptor> {
        let parts = self.config.iter().chain(&self.layers).chain(&self.manifests);
        parts.filter(|part| part.urls.is_empty())
    }
}

fn descriptors(list: Vec<JsonDescriptor>) -> Result<Vec<Descriptor>, ManifestError> {
    list.into_iter().map(Descriptor::try_from).collect()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Json {
    schema_version: u64,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<JsonDescriptor>,
    layers: Option<Vec<JsonDescriptor>>,
    manifests: Option<Vec<JsonDescriptor>>,
    subject: Option<JsonDescriptor>,
    annotations: Option<BTreeMap<String, String>>,
}

impl Json {
    /// What is there must be of the kind: a manifest that can be read as two things is a way to deceive (CVE-2021-41190).
    fn check(&self, kind: ManifestKind) -> Result<(), ManifestError> {
        let wrong = match kind {
            ManifestKind::Image if self.manifests.is_some() => Some("an image has no manifests"),
            ManifestKind::Image if self.config.is_none() => Some("an image has a config"),
            ManifestKind::Index if self.config.is_some() || self.layers.is_some() => Some("an index has no config and no layers"),
            ManifestKind::Index if self.manifests.is_none() => Some("an index has manifests"),
            _ => None,
        };
        if let Some(wrong) = wrong {
            return Err(ManifestError::Malformed(wrong.to_owned()));
        }
        let count = self.layers.as_ref().map_or(0, Vec::len) + self.manifests.as_ref().map_or(0, Vec::len);
        if count > MAX_REFERENCES { Err(ManifestError::TooMany(count)) } else { Ok(()) }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JsonDescriptor {
    media_type: String,
    digest: String,
    size: u64,
    platform: Option<Platform>,
    artifact_type: Option<String>,
    annotations: Option<BTreeMap<String, String>>,
    urls: Option<Vec<String>>,
}

impl TryFrom<JsonDescriptor> for Descriptor {
    type Error = ManifestError;

    fn try_from(json: JsonDescriptor) -> Result<Self, ManifestError> {
        Ok(Self {
            media_type: json.media_type,
            digest: json.digest.parse()?,
            size: json.size,
            platform: json.platform,
            artifact_type: json.artifact_type,
            annotations: json.annotations.unwrap_or_default(),
            urls: json.urls.unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(media_type: &str, byte: &str) -> String {
        format!(r#"{{"mediaType":"{media_type}","digest":"sha256:{}","size":7}}"#, byte.repeat(32))
    }

    fn image(media_type: &str) -> String {
        let (config, layer) = (descriptor(media_type::OCI_CONFIG, "aa"), descriptor(media_type::OCI_LAYER_GZIP, "bb"));
        format!(r#"{{"schemaVersion":2,"mediaType":"{media_type}","config":{config},"layers":[{layer}],"unknown":[1]}}"#)
    }

    #[test]
    fn images_of_both_makes_name_their_parts() {
        for media_type in [media_type::OCI_MANIFEST, media_type::DOCKER_MANIFEST] {
            let read =
                Manifest::parse(image(media_type).as_bytes(), Some(&format!("{media_type}; charset=utf-8"))).expect("read");
            assert_eq!((read.kind, read.references().count()), (ManifestKind::Image, 2));
            assert_eq!(read.artifact_type.as_deref(), Some(media_type::OCI_CONFIG));
        }
    }

    #[test]
    fn an_index_names_its_manifests_with_their_platforms() {
        let platform = r#","platform":{"architecture":"arm64","os":"linux","variant":"v8","os.version":"1"}}"#;
        let manifest = descriptor(media_type::OCI_MANIFEST, "cc").replace('}', platform);
        let read = Manifest::parse(format!(r#"{{"schemaVersion":2,"manifests":[{manifest}]}}"#).as_bytes(), None).expect("read");
        assert_eq!((read.kind, read.media_type.as_str()), (ManifestKind::Index, media_type::OCI_INDEX));
        let platform = read.manifests[0].platform.as_ref().expect("a platform");
        assert_eq!((platform.architecture.as_str(), platform.variant.as_deref()), ("arm64", Some("v8")));
    }

    #[test]
    fn layers_that_may_not_be_distributed_are_not_part_of_it() {
        let text = image(media_type::OCI_MANIFEST).replacen(r#""size":7}]"#, r#""size":7,"urls":["https://x.example/y"]}]"#, 1);
        assert_eq!(Manifest::parse(text.as_bytes(), None).expect("read").references().count(), 1);
    }

    #[test]
    fn what_can_be_read_as_two_things_is_refused() {
        let both = image(media_type::OCI_MANIFEST).replace(r#""unknown""#, r#""manifests""#).replace("[1]", "[]");
        let cases = [
            (both.as_str(), None),
            (&image(media_type::OCI_MANIFEST), Some(media_type::OCI_INDEX)),
            (&image(media_type::OCI_INDEX), None),
            (&image("application/vnd.docker.distribution.manifest.v1+json"), None),
            (&image(media_type::OCI_MANIFEST).replace(":2,", ":1,"), None),
            (&image(media_type::OCI_MANIFEST).replace("sha256:", "sha257:"), None),
            (&image(media_type::OCI_MANIFEST).replace("\"size\":7", "\"size\":-7"), None),
            (r#"{"schemaVersion":2}"#, None),
            ("[]", None),
            ("", None),
        ];
        for (text, came_as) in cases {
            assert!(Manifest::parse(text.as_bytes(), came_as).is_err(), "{text}");
        }
        assert!(matches!(Manifest::parse(&vec![b' '; MAX_MANIFEST_BYTES + 1], None), Err(ManifestError::TooLarge(_))));
    }
}

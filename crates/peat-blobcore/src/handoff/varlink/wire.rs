//! What the calls of `org.composefs.Oci` and `org.composefs.Repository` take and give, as composefs 0.9 has them, and those of
//! `peat.blob.Store`, which is ours.
//!
//! Plain data of somebody else's making: nothing here is checked.

use std::fs::File;
use std::io::Write as _;

use rustix::fs::MemfdFlags;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::message::MessageError;
use crate::content::Shared;

/// What a service of split layers says that it can do.
pub const FEATURE: &str = "splitdirfdstream-v0";

/// Why a service does not do what it was asked for: the errors of both interfaces, under their names there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// It has no such repository.
    #[error("there is no such repository: {message}")]
    RepoNotFound {
        /// Why.
        message: String,
    },
    /// The repository is not said in a way that could be meant.
    #[error("no repository is named: {message}")]
    InvalidSpec {
        /// Why.
        message: String,
    },
    /// No repository was opened under this handle.
    #[error("no repository is open under handle {handle}")]
    InvalidHandle {
        /// The handle.
        handle: u64,
    },
    /// It has no such image.
    #[error("there is no image {image}")]
    NoSuchImage {
        /// The image, as it was named.
        image: String,
    },
    /// Something else.
    #[error("the service failed: {message}")]
    InternalError {
        /// What.
        message: String,
    },
    /// It has no such layer.
    #[error("there is no layer {diff_id}")]
    NoSuchLayer {
        /// The layer.
        diff_id: String,
    },
    /// A digest that is none.
    #[error("a digest is none: {message}")]
    InvalidDigest {
        /// Why.
        message: String,
    },
    /// The layer that was sent is another one.
    #[error("the layer that was sent is {actual} and not {expected}")]
    DiffIdMismatch {
        /// What it was called.
        expected: String,
        /// What it is.
        actual: String,
    },
    /// What was asked makes no sense, or cannot be done as it was asked.
    #[error("the request is refused: {message}")]
    InvalidRequest {
        /// Why.
        message: String,
    },
    /// More descriptors than go with one reply, and only one was asked for.
    #[error("{fd_count} descriptors do not go with one reply, which may have {max_per_frame}: allow for several")]
    FdLimitExceeded {
        /// How many there are.
        fd_count: u64,
        /// How many may go.
        max_per_frame: u64,
    },
    /// An error of another interface, such as `org.varlink.service.MethodNotFound`.
    #[error("the service refuses: {error} {detail}")]
    #[serde(skip)]
    Other {
        /// Its name.
        error: String,
        /// What it says beside, as JSON.
        detail: String,
    },
}

impl Refusal {
    /// Its name within its interface, and what it says.
    pub(super) fn named(self) -> Result<(String, Value), MessageError> {
        match serde_json::to_value(self)? {
            Value::Object(object) => {
                object.into_iter().next().ok_or_else(|| MessageError::Malformed("an error without a name".to_owned()))
            }
            other => Err(MessageError::Malformed(other.to_string())),
        }
    }

    pub(super) fn read(error: &str, parameters: Value) -> Self {
        let known =
            error.rsplit_once('.').filter(|(interface, _)| matches!(*interface, super::OCI | super::REPOSITORY | super::STORE));
        let known = known.and_then(|(_, name)| serde_json::from_value(json!({ name: &parameters })).ok());
        let cut = |text: &str| text.chars().take(500).collect();
        known.unwrap_or_else(|| Self::Other { error: cut(error), detail: cut(&parameters.to_string()) })
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Nothing {}

#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct OpenRepository {
    #[serde(default)]
    pub(super) path: Option<String>,
    #[serde(default)]
    pub(super) user: Option<bool>,
    #[serde(default)]
    pub(super) system: Option<bool>,
}

/// A repository that was opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenedRepository {
    /// What names it in other calls, on this connection.
    pub handle: u64,
    /// What objects are named by: `sha256` and `sha512` are fs-verity in composefs, `blake3` is ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash_algorithm: Option<String>,
    /// The device number of the file system of its objects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objects_device_id: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Handle {
    pub(super) handle: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Features {
    pub(super) features: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ListImages {
    pub(super) handle: u64,
    #[serde(default)]
    pub(super) filter: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Images {
    pub(super) images: Vec<ImageEntry>,
}

/// An image of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageEntry {
    /// Its name, with its tag.
    pub name: String,
    /// The digest of its manifest.
    pub manifest_digest: String,
    /// Whether it is an image of a container, and no other artifact.
    pub is_container: bool,
    /// For which processors; empty for artifacts.
    pub architecture: String,
    /// For which system; empty for artifacts.
    pub os: String,
    /// When it was made, as it says.
    pub created: Option<String>,
    /// How many layers it has.
    pub layer_count: u64,
    /// How many manifests are about it.
    pub referrer_count: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Image {
    pub(super) handle: u64,
    pub(super) image: String,
}

/// What an image is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InspectedImage {
    /// Its manifest, byte for byte.
    pub manifest: String,
    /// Its configuration, byte for byte.
    pub config: String,
    /// Digests of the manifests that are about it.
    pub referrers: Vec<String>,
    /// Of composefs: its image of the files. None here.
    #[serde(default)]
    pub composefs_erofs: Option<String>,
    /// The same for booting.
    #[serde(default)]
    pub composefs_boot_erofs: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Tag {
    pub(super) handle: u64,
    pub(super) manifest_digest: String,
    pub(super) name: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Untag {
    pub(super) handle: u64,
    pub(super) name: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Check {
    pub(super) handle: u64,
    #[serde(default)]
    pub(super) image: Option<String>,
}

/// What a check of images found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckedImages {
    /// Whether all is well.
    pub ok: bool,
    /// Images that were looked at.
    pub images_checked: u64,
    /// Those of them that are damaged.
    pub images_corrupted: u64,
    /// What is wrong.
    pub errors: Vec<String>,
    /// The same of the objects beneath.
    pub repo: CheckedObjects,
}

/// What a check of objects found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are those of composefs")]
pub struct CheckedObjects {
    pub ok: bool,
    pub has_metadata: bool,
    pub objects_checked: u64,
    pub objects_corrupted: u64,
    pub streams_checked: u64,
    pub streams_corrupted: u64,
    pub images_checked: u64,
    pub images_corrupted: u64,
    pub broken_links: u64,
    pub missing_objects: u64,
    pub errors: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct HasLayer {
    pub(super) handle: u64,
    pub(super) diff_id: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct FoundLayer {
    pub(super) present: bool,
    pub(super) layer_verity: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct GetLayer {
    pub(super) handle: u64,
    pub(super) params: WhichLayer,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct WhichLayer {
    #[serde(default)]
    pub(super) diff_id: Option<String>,
    /// A layer of a containers-storage, which other services have.
    #[serde(default)]
    pub(super) storage: Option<StorageLayer>,
    #[serde(default)]
    pub(super) consumer_has_cap_dac_override: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct StorageLayer {
    pub(super) storage_path: String,
    pub(super) layer_id: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Slots {
    pub(super) dir_count: u32,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct PutLayer {
    pub(super) handle: u64,
    pub(super) diff_id: String,
    pub(super) zerocopy: bool,
}

/// What became of a layer that was put.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutLayerReport {
    /// What the service calls it, for [`super::Client::finalize_image`].
    pub layer_verity: String,
    /// Whether it was there before.
    pub already_present: bool,
    /// Objects that share their blocks with the source's.
    #[serde(default)]
    pub objects_reflinked: u64,
    /// Objects that are the source's.
    #[serde(default)]
    pub objects_hardlinked: u64,
    /// Objects that were copied.
    #[serde(default)]
    pub objects_copied: u64,
    /// Objects that were there before.
    #[serde(default)]
    pub objects_already_present: u64,
}

/// A layer that was put, or was there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRef {
    /// The digest of the plain tar archive.
    pub diff_id: String,
    /// What the service calls it.
    pub layer_verity: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct FinalizeImage {
    pub(super) handle: u64,
    pub(super) manifest_json: String,
    pub(super) config_json: String,
    pub(super) layers: Vec<LayerRef>,
    #[serde(default)]
    pub(super) name: Option<String>,
}

/// An image that is there now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinalizedImage {
    /// The digest of its manifest: another than that of the manifest which was given, where the service had to write it anew.
    pub manifest_digest: String,
    /// What the service calls the manifest.
    pub manifest_verity: String,
    /// The digest of its configuration.
    pub config_digest: String,
    /// What the service calls the configuration.
    pub config_verity: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Interface {
    pub(super) interface: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Description {
    pub(super) description: String,
}

/// What a service says of itself (`org.varlink.service.GetInfo`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceInfo {
    /// Who made it.
    pub vendor: String,
    /// What it is.
    pub product: String,
    /// Which version.
    pub version: String,
    /// Where to read more.
    pub url: String,
    /// What it speaks.
    pub interfaces: Vec<String>,
}

/// A manifest, a configuration or a layer of a repository.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Blob {
    pub(super) handle: u64,
    pub(super) repository: String,
    pub(super) digest: String,
    pub(super) size: u64,
    pub(super) media_type: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Described {
    pub(super) media_type: String,
    pub(super) digest: String,
    pub(super) size: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct FoundImage {
    #[serde(flatten)]
    pub(super) described: Described,
    pub(super) manifest: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct About {
    pub(super) handle: u64,
    pub(super) repository: String,
    pub(super) digest: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Descriptions {
    pub(super) referrers: Vec<Described>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct OpenedBlob {
    /// What it has, where that goes into a message. Else it is in the file that comes with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) text: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct HeldBlob {
    pub(super) present: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct PutBlob {
    #[serde(flatten)]
    pub(super) blob: Blob,
    pub(super) zerocopy: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct TakenBlob {
    pub(super) method: Method,
}

/// How bytes came from one file into another.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Method {
    Reflinked,
    Hardlinked,
    Copied,
}

impl From<Shared> for Method {
    fn from(shared: Shared) -> Self {
        match shared {
            Shared::Reflinked => Self::Reflinked,
            Shared::HardLinked => Self::Hardlinked,
            Shared::Copied => Self::Copied,
        }
    }
}

impl From<Method> for Shared {
    fn from(method: Method) -> Self {
        match method {
            Method::Reflinked => Self::Reflinked,
            Method::Hardlinked => Self::HardLinked,
            Method::Copied => Self::Copied,
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct PutManifest {
    #[serde(flatten)]
    pub(super) blob: Blob,
    pub(super) manifest: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) tag: Option<String>,
}

/// Bytes as a file that nobody else has, for what goes by descriptor and has none.
pub(super) fn in_memory(bytes: &[u8]) -> std::io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create("blob", MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    Ok(file)
}

//! Packages of the OCI as they are told to others: a distribution whose files are blobs of an image, and what a tag points to.

use super::Timestamp;

/// What makes a distribution a package: an image or artifact of the OCI. Its files are its closure, the manifest first, each
/// with its digest (`sha256:...`) for a path; a target keeps them in its registry, not in its inbox.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub struct Package {
    /// The repository that it belongs to.
    #[n(0)]
    pub repository: String,
    /// The digest of its manifest.
    #[n(1)]
    pub digest: String,
    /// The digest of the manifest that it is about, as a signature is.
    #[n(2)]
    pub subject: Option<String>,
    /// What kind of artifact it is, where it is about another.
    #[n(3)]
    pub artifact_type: Option<String>,
}

/// The value of the register `tags/<repository>/<tag>/<endpoint id>`: what that node says a tag points to.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub struct TagRecord {
    /// The repository.
    #[n(0)]
    pub repository: String,
    /// The tag.
    #[n(1)]
    pub tag: String,
    /// What it points to; nothing when the node has removed it.
    #[n(2)]
    pub target: Option<TagTarget>,
    /// When it was set, by the author's hybrid clock: of all that is said of a tag the latest counts. It stays when the register is
    /// written again for not to expire, and is never later than the register's version.
    #[n(3)]
    pub set_at: Timestamp,
}

/// The manifest that a tag points to.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub struct TagTarget {
    /// Its digest.
    #[n(0)]
    pub digest: String,
    /// Its media type.
    #[n(1)]
    pub media_type: String,
    /// Its size in bytes.
    #[n(2)]
    pub size: u64,
}

impl TagRecord {
    /// The key of the register, in the place where others have an endpoint id: the hash of both names.
    #[must_use]
    pub fn key(repository: &str, tag: &str) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("peat-blob tag v1");
        hasher.update(&(repository.len() as u64).to_le_bytes());
        hasher.update(repository.as_bytes());
        hasher.update(tag.as_bytes());
        *hasher.finalize().as_bytes()
    }
}

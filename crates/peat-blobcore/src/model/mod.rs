//! The words of the field as types: ids, paths, manifests, records. Pure values with a canonical encoding; nothing here
//! reads a clock, a file, a socket or a random number.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod credential;
mod ids;
mod manifest;
mod node_record;
mod package;
mod path;
mod scope;
mod status;
mod time;

pub use credential::{Certificate, CertificateBody, Credential, CredentialError, Role};
pub use ids::{
    BlobHash, CredentialHash, DistributionId, EndpointId, EnvelopeId, FormationId, Incarnation, ParseIdError, Sha256Digest,
};
pub use manifest::{
    Carry, FileEntry, FileList, Files, MAX_FILE_LIST_BYTES, MAX_INLINE_FILES, MAX_LISTED_FILES, MAX_MANIFEST_BYTES, Manifest,
    ManifestError, Priority,
};
pub use node_record::{MAX_NODE_RECORD_BYTES, NodeRecord, Retirement, Revocation};
pub use package::{Package, TagRecord, TagTarget};
pub use path::{MAX_COMPONENT_BYTES, MAX_PATH_BYTES, RelativePath, UnsafePath};
pub use scope::{Labels, NodeRef, Requirement, Scope, Selector, SelectorError};
pub use status::{DistributionState, MAX_ERROR_BYTES, TargetRecord, TargetState};
pub use time::Timestamp;

/// Decodes one CBOR value that must fill `bytes` to its end.
///
/// # Errors
/// What `minicbor` found wrong, or that bytes follow the value.
pub(crate) fn decode_whole<'b, T: minicbor::Decode<'b, ()>>(bytes: &'b [u8]) -> Result<T, minicbor::decode::Error> {
    let mut decoder = minicbor::Decoder::new(bytes);
    let value = decoder.decode()?;
    if decoder.position() != bytes.len() {
        return Err(minicbor::decode::Error::message("bytes follow the value"));
    }
    Ok(value)
}

/// Encodes a value as CBOR. Writing to memory cannot fail.
pub(crate) fn encode<T: minicbor::Encode<()>>(value: &T) -> Vec<u8> {
    minicbor::to_vec(value).expect("encoding to memory cannot fail")
}

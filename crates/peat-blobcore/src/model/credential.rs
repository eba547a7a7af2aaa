//! What makes a node a member of a formation. Signatures are checked in `identity`; here is only the form.

use super::{CredentialHash, EndpointId, FormationId, Labels, Timestamp, decode_whole, encode};

/// Longest encoded credential, in bytes.
const MAX_CREDENTIAL_BYTES: usize = 4 * 1024;

/// What makes a node a member.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub enum Credential {
    /// Enrolled: the formation's authority signed for this endpoint id.
    #[n(0)]
    Certificate(#[n(0)] Certificate),
    /// Deterministic: the endpoint id derives from the formation key and this node id.
    #[n(1)]
    Derived {
        /// The node id that was derived from.
        #[n(0)]
        node_id: String,
    },
}

impl Credential {
    /// The encoding that [`Credential::hash`] is of.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// Reads a credential from bytes that anyone may have made.
    ///
    /// # Errors
    /// [`CredentialError`] when it is malformed, over its limit, or not in canonical form.
    pub fn decode(bytes: &[u8]) -> Result<Self, CredentialError> {
        if bytes.len() > MAX_CREDENTIAL_BYTES {
            return Err(CredentialError::TooLarge(bytes.len()));
        }
        let credential: Self = decode_whole(bytes)?;
        if credential.encode() == bytes { Ok(credential) } else { Err(CredentialError::NotCanonical) }
    }

    /// What envelopes name the credential by.
    #[must_use]
    pub fn hash(&self) -> CredentialHash {
        CredentialHash::from_bytes(*blake3::hash(&self.encode()).as_bytes())
    }
}

/// A statement of the formation's authority that an endpoint is a member.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub struct Certificate {
    /// What is stated.
    #[n(0)]
    pub body: CertificateBody,
    /// The authority's Ed25519 signature (RFC 8032) over `"peat-blob certificate v1"` and the encoded body; 64 bytes.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub signature: Vec<u8>,
}

/// What an authority signs.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub struct CertificateBody {
    /// The formation that it is good for.
    #[n(0)]
    pub formation: FormationId,
    /// The member.
    #[n(1)]
    pub endpoint: EndpointId,
    /// The member's name.
    #[n(2)]
    pub name: String,
    /// The member's labels.
    #[n(3)]
    pub labels: Labels,
    /// What the member may do.
    #[n(4)]
    pub role: Role,
    /// The last moment at which something new of the member's is accepted.
    #[n(5)]
    pub expiry: Timestamp,
}

impl CertificateBody {
    /// The bytes that the authority signs.
    #[must_use]
    pub fn signed_bytes(&self) -> Vec<u8> {
        let mut bytes = b"peat-blob certificate v1".to_vec();
        bytes.extend(encode(self));
        bytes
    }
}

/// What a member may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, minicbor::Encode, minicbor::Decode)]
#[cbor(index_only)]
pub enum Role {
    /// Send, receive and carry.
    #[default]
    #[n(0)]
    Member,
}

/// Why bytes are not a credential.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// Not CBOR of the expected shape.
    #[error("the bytes are not a credential: {0}")]
    Malformed(#[from] minicbor::decode::Error),
    /// Over the limit.
    #[error("the credential has {0} bytes, over the limit of {MAX_CREDENTIAL_BYTES}")]
    TooLarge(usize),
    /// The same credential has exactly one encoding, and these bytes are another.
    #[error("the credential is not in canonical form")]
    NotCanonical,
}

//! The unit of replication: a signed change or register. At rest and on the wire it is the same bytes, a 64-byte Ed25519
//! signature followed by the payload that it signs. Must never accept two encodings of one payload.

use iroh::{PublicKey, SecretKey, Signature};
use minicbor::bytes::ByteVec;

use crate::model::{CredentialHash, DistributionId, EndpointId, EnvelopeId, Incarnation, Timestamp, decode_whole, encode};

/// What the signature covers, before the payload.
const CONTEXT: &[u8] = b"peat-blob envelope v1";
/// The only version of the payload.
const VERSION: u8 = 1;
/// Length of the signature at the head, in bytes.
const SIGNATURE_BYTES: usize = 64;
/// Longest change of a distribution's sender: its first carries the manifest.
pub const MAX_SENDER_CHANGE_BYTES: usize = 300 * 1024;
/// Longest change of anyone else.
pub const MAX_CHANGE_BYTES: usize = 8 * 1024;
/// Longest value of a register.
pub const MAX_REGISTER_BYTES: usize = 8 * 1024;
/// Longest envelope.
pub const MAX_ENVELOPE_BYTES: usize = MAX_SENDER_CHANGE_BYTES + 1024;

/// What an envelope is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A change of `file_distributions/<id>`.
    Distribution,
    /// The register `nodes/<endpoint id>`.
    Node,
    /// The register `retired/<endpoint id>`.
    Retired,
    /// The register `revoked/<endpoint id>`.
    Revoked,
    /// The register `tags/<repository>/<tag>/<endpoint id>`.
    Tag,
}

impl Kind {
    /// The number in the payload. 5 was kept for packages, which are distributions.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Distribution => 1,
            Self::Node => 2,
            Self::Retired => 3,
            Self::Revoked => 4,
            Self::Tag => 6,
        }
    }

    fn from_number(number: u8) -> Option<Self> {
        [Self::Distribution, Self::Node, Self::Retired, Self::Revoked, Self::Tag].into_iter().find(|kind| kind.number() == number)
    }
}

/// What an envelope says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// An uncompressed Automerge change.
    Change(Vec<u8>),
    /// A value that replaces those of lower versions.
    Register {
        /// The author's hybrid clock: milliseconds, and always greater than before.
        version: u64,
        /// The encoded value.
        value: Vec<u8>,
    },
}

impl Body {
    /// A register's value.
    ///
    /// # Errors
    /// [`EnvelopeError::TooLarge`] when it has more than [`MAX_REGISTER_BYTES`].
    pub fn register(version: u64, value: Vec<u8>) -> Result<Self, EnvelopeError> {
        if value.len() > MAX_REGISTER_BYTES {
            return Err(EnvelopeError::TooLarge(value.len()));
        }
        Ok(Self::Register { version, value })
    }
}

/// A change or register with what it takes to judge it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// What it is about.
    pub kind: Kind,
    /// The distribution id, the endpoint id that the register is about, or the [key of a tag](crate::model::TagRecord::key).
    pub key: [u8; 32],
    /// Who says it.
    pub author: EndpointId,
    /// The life of the author's data directory in which it was said. All zero for the authority, which has none.
    pub incarnation: Incarnation,
    /// The credential that the author had then. All zero for the authority, which needs none.
    pub credential: CredentialHash,
    /// When it counts for nobody any more.
    pub expiry: Timestamp,
    /// What it says.
    pub body: Body,
}

/// The payload with integer keys. `change` and the register's two fields exclude each other.
#[derive(minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
struct Payload {
    #[n(0)]
    version: u8,
    #[n(1)]
    kind: u8,
    #[cbor(n(2), with = "minicbor::bytes")]
    key: [u8; 32],
    #[n(3)]
    author: EndpointId,
    #[n(4)]
    incarnation: Incarnation,
    #[n(5)]
    credential: CredentialHash,
    #[n(6)]
    expiry: Timestamp,
    #[n(7)]
    change: Option<ByteVec>,
    #[n(8)]
    register_version: Option<u64>,
    #[n(9)]
    register_value: Option<ByteVec>,
}

/// The head of a payload: enough to tell a newer one from a broken one.
#[derive(minicbor::Decode)]
#[cbor(map)]
struct Head {
    #[n(0)]
    version: u8,
    #[n(1)]
    kind: u8,
}

impl Envelope {
    /// The expiry of what counts for ever: retirements and revocations.
    pub const NEVER: Timestamp = Timestamp::from_millis(u64::MAX);

    /// The envelope's id: the hash of all its bytes. The signature is part of them, so that a copy with a broken signature
    /// has another id than the honest one.
    #[must_use]
    pub fn id_of(bytes: &[u8]) -> EnvelopeId {
        EnvelopeId::from_bytes(*blake3::hash(bytes).as_bytes())
    }

    /// The bytes of the envelope, signed by its author's key.
    #[must_use]
    pub fn seal(&self, author: &SecretKey) -> Vec<u8> {
        let payload = self.payload();
        let mut bytes = author.sign(&signed_bytes(&payload)).to_bytes().to_vec();
        bytes.extend(payload);
        bytes
    }

    /// Reads an envelope from bytes that anyone may have made, and checks its author's signature.
    ///
    /// # Errors
    /// [`EnvelopeError`] when the form or the signature is wrong. Whether the author may say it is for others to judge.
    pub fn open(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        let envelope = Self::decode(bytes)?;
        let (signature, payload) = bytes.split_first_chunk::<SIGNATURE_BYTES>().ok_or(EnvelopeError::Truncated)?;
        let author = PublicKey::from_bytes(envelope.author.as_bytes()).map_err(|_| EnvelopeError::Signature)?;
        let signature = Signature::from_bytes(signature);
        author.verify(&signed_bytes(payload), &signature).map_err(|_| EnvelopeError::Signature)?;
        Ok(envelope)
    }

    /// Reads an envelope whose signature was checked before it was stored.
    ///
    /// # Errors
    /// [`EnvelopeError`] when the form is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        if bytes.len() > MAX_ENVELOPE_BYTES {
            return Err(EnvelopeError::TooLarge(bytes.len()));
        }
        let (_, payload) = bytes.split_first_chunk::<SIGNATURE_BYTES>().ok_or(EnvelopeError::Truncated)?;
        let head: Head = decode_whole(payload)?;
        if head.version != VERSION {
            return Err(EnvelopeError::UnknownVersion(head.version));
        }
        let kind = Kind::from_number(head.kind).ok_or(EnvelopeError::UnknownKind(head.kind))?;
        let read: Payload = decode_whole(payload)?;
        let body = match (kind, read.change, read.register_version, read.register_value) {
            (Kind::Distribution, Some(change), None, None) => Body::Change(change.into()),
            (Kind::Node | Kind::Retired | Kind::Revoked | Kind::Tag, None, Some(version), Some(value)) => {
                Body::register(version, value.into())?
            }
            _ => return Err(EnvelopeError::BodyDoesNotFit),
        };
        let envelope = Self {
            kind,
            key: read.key,
            author: read.author,
            incarnation: read.incarnation,
            credential: read.credential,
            expiry: read.expiry,
            body,
        };
        if envelope.payload() == payload { Ok(envelope) } else { Err(EnvelopeError::NotCanonical) }
    }

    /// The key as the distribution that a change belongs to.
    #[must_use]
    pub fn distribution(&self) -> DistributionId {
        DistributionId::from_bytes(self.key)
    }

    /// The key as the endpoint that a register is about.
    #[must_use]
    pub fn subject(&self) -> EndpointId {
        EndpointId::from_bytes(self.key)
    }

    fn payload(&self) -> Vec<u8> {
        let (change, register_version, register_value) = match &self.body {
            Body::Change(change) => (Some(change.clone().into()), None, None),
            Body::Register { version, value } => (None, Some(*version), Some(value.clone().into())),
        };
        encode(&Payload {
            version: VERSION,
            kind: self.kind.number(),
            key: self.key,
            author: self.author,
            incarnation: self.incarnation,
            credential: self.credential,
            expiry: self.expiry,
            change,
            register_version,
            register_value,
        })
    }
}

fn signed_bytes(payload: &[u8]) -> Vec<u8> {
    [CONTEXT, payload].concat()
}

/// Why bytes are not an envelope.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// Shorter than a signature.
    #[error("the envelope ends within its signature")]
    Truncated,
    /// Not CBOR of the expected shape.
    #[error("the bytes are not an envelope: {0}")]
    Malformed(#[from] minicbor::decode::Error),
    /// Over a limit.
    #[error("the envelope or its value has {0} bytes, over its limit")]
    TooLarge(usize),
    /// Of a newer version than this one.
    #[error("the envelope has version {0}, this node knows {VERSION}")]
    UnknownVersion(u8),
    /// About something that this version does not know.
    #[error("the envelope is of kind {0}, which this node does not know")]
    UnknownKind(u8),
    /// A change where a register belongs, or the reverse.
    #[error("the envelope's body does not fit its kind")]
    BodyDoesNotFit,
    /// The same payload has exactly one encoding, and these bytes are another.
    #[error("the envelope is not in canonical form")]
    NotCanonical,
    /// Not signed by its author.
    #[error("the envelope's signature is not its author's")]
    Signature,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn register(author: &SecretKey) -> Envelope {
        Envelope {
            kind: Kind::Retired,
            key: [9; 32],
            author: EndpointId::from_bytes(*author.public().as_bytes()),
            incarnation: Incarnation::from_bytes([3; 16]),
            credential: CredentialHash::from_bytes([4; 32]),
            expiry: Timestamp::from_millis(5),
            body: Body::Register { version: 6, value: vec![7] },
        }
    }

    #[test]
    fn what_was_sealed_opens_and_every_flipped_bit_is_noticed() {
        let key = SecretKey::from_bytes(&[1; 32]);
        let envelope = register(&key);
        let bytes = envelope.seal(&key);
        assert_eq!(Envelope::open(&bytes).expect("opens"), envelope);
        for position in 0..bytes.len() * 8 {
            let mut broken = bytes.clone();
            broken[position / 8] ^= 1 << (position % 8);
            assert!(Envelope::open(&broken).is_err(), "bit {position}");
            assert_ne!(Envelope::id_of(&broken), Envelope::id_of(&bytes));
        }
    }

    #[test]
    fn another_key_cannot_sign_for_the_author() {
        let envelope = register(&SecretKey::from_bytes(&[1; 32]));
        let bytes = envelope.seal(&SecretKey::from_bytes(&[2; 32]));
        assert!(matches!(Envelope::open(&bytes), Err(EnvelopeError::Signature)));
    }

    #[test]
    fn a_newer_kind_or_version_is_told_from_a_broken_envelope() {
        let mut bytes = register(&SecretKey::from_bytes(&[1; 32])).seal(&SecretKey::from_bytes(&[1; 32]));
        assert_eq!(bytes[SIGNATURE_BYTES + 3..SIGNATURE_BYTES + 5], [1, 3], "key 1, kind 3");
        bytes[SIGNATURE_BYTES + 4] = 7;
        assert!(matches!(Envelope::open(&bytes), Err(EnvelopeError::UnknownKind(7))));
        bytes[SIGNATURE_BYTES + 2] = 2;
        assert!(matches!(Envelope::open(&bytes), Err(EnvelopeError::UnknownVersion(2))));
    }

    #[test]
    fn bodies_over_their_limits_and_of_the_wrong_sort_are_refused() {
        let key = SecretKey::from_bytes(&[1; 32]);
        let large = Body::Register { version: 1, value: vec![0; MAX_REGISTER_BYTES + 1] };
        let bytes = Envelope { body: large, ..register(&key) }.seal(&key);
        assert!(matches!(Envelope::open(&bytes), Err(EnvelopeError::TooLarge(_))));
        let bytes = Envelope { body: Body::Change(vec![1]), ..register(&key) }.seal(&key);
        assert!(matches!(Envelope::open(&bytes), Err(EnvelopeError::BodyDoesNotFit)));
        assert!(matches!(Envelope::open(&vec![0; MAX_ENVELOPE_BYTES + 1]), Err(EnvelopeError::TooLarge(_))));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = Envelope::open(&bytes);
        }

        #[test]
        fn what_decodes_encodes_to_the_same_bytes(at in 64..200_usize, byte in any::<u8>()) {
            let key = SecretKey::from_bytes(&[1; 32]);
            let mut bytes = register(&key).seal(&key);
            let at = at.min(bytes.len() - 1);
            bytes[at] = byte;
            if let Ok(envelope) = Envelope::decode(&bytes) {
                prop_assert_eq!(envelope.payload(), &bytes[SIGNATURE_BYTES..]);
            }
        }
    }
}

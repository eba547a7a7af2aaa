//! The secrets: the formation's key, a node's key, the authority's key. None of them is ever shown by `Debug`.

use std::fmt;

use bytes::Bytes;
use data_encoding::BASE64;

use crate::ErrorKind;
use crate::document::{EnvelopeError, retirement, revocation};
use crate::model::{Certificate, CertificateBody, Credential, CredentialError, EndpointId, FormationId, Revocation, Timestamp};

use super::Rejection;
use super::formation::check_body;

/// Length of an Ed25519 signature (RFC 8032).
pub const SIGNATURE_BYTES: usize = 64;

/// Fills an array with randomness of the operating system.
pub(super) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system gives randomness");
    bytes
}

/// Why a text is not a key or a certificate.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Not base64 (RFC 4648, section 4, with padding).
    #[error("not base64 with padding")]
    NotBase64,
    /// Another number of bytes.
    #[error("{0} bytes, where a key has 32")]
    WrongLength(usize),
    /// Thirty-two bytes that are no point of the curve.
    #[error("{0} is not an Ed25519 public key")]
    NotAPublicKey(EndpointId),
    /// Base64, but not of a certificate.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// The credential of a deterministic node, which is no certificate.
    #[error("a credential without a certificate")]
    NotACertificate,
}

impl KeyError {
    /// What it means for the one who gave the text.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Usage
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NotBase64 | Self::WrongLength(_) => "give 32 bytes in base64, 44 characters with the final `=`".into(),
            Self::NotAPublicKey(_) => "look for a digit that was lost or changed in the endpoint id".into(),
            Self::Credential(_) | Self::NotACertificate => "give the one line that the authority printed".into(),
        })
    }
}

fn decode_base64(text: &str) -> Result<Vec<u8>, KeyError> {
    BASE64.decode(text.trim_ascii().as_bytes()).map_err(|_| KeyError::NotBase64)
}

fn decode_key(text: &str) -> Result<[u8; 32], KeyError> {
    let bytes = decode_base64(text)?;
    bytes.as_slice().try_into().map_err(|_| KeyError::WrongLength(bytes.len()))
}

/// What the members of a formation share. In an enrolled formation it lets a node speak to members; only together with a
/// certificate does it make one.
#[derive(Clone)]
pub struct FormationKey([u8; 32]);

impl FormationKey {
    /// A new random key.
    #[must_use]
    pub fn generate() -> Self {
        Self(random())
    }

    /// The key that consists of `bytes`.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Reads a key from base64 with padding; white space around it is ignored.
    ///
    /// # Errors
    /// [`KeyError`] when it is not base64 of 32 bytes.
    pub fn from_base64(text: &str) -> Result<Self, KeyError> {
        decode_key(text).map(Self)
    }

    /// The secret itself, as base64.
    #[must_use]
    pub fn to_base64(&self) -> String {
        BASE64.encode(&self.0)
    }

    /// Names the formation without giving its key away.
    #[must_use]
    pub fn id(&self) -> FormationId {
        let hash = blake3::derive_key("peat-blob formation v1", &self.0);
        FormationId::from_bytes(*hash.first_chunk().expect("a hash of 32 bytes has a first 16"))
    }

    /// The gossip topic of the formation.
    #[must_use]
    pub fn topic(&self) -> [u8; 32] {
        blake3::derive_key("peat-blob gossip topic v1", &self.0)
    }

    /// The key that proofs of admission are made with.
    pub(super) fn admission_key(&self) -> [u8; 32] {
        blake3::derive_key("peat-blob admission v1", &self.0)
    }
}

impl fmt::Debug for FormationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FormationKey(of {})", self.id())
    }
}

/// A node's Ed25519 key. Its public half is the endpoint id.
#[derive(Debug, Clone)]
pub struct NodeKey(iroh::SecretKey);

impl NodeKey {
    /// A new random key.
    #[must_use]
    pub fn generate() -> Self {
        Self(random::<32>().into())
    }

    /// The key of `node_id` in deterministic mode: the seed is HKDF-SHA256 (RFC 5869) without salt of the formation key, with
    /// the info `"iroh:" + node_id`. Every member of the formation can compute it.
    #[must_use]
    pub fn derive(formation: &FormationKey, node_id: &str) -> Self {
        let mut seed = [0; 32];
        hkdf::Hkdf::<sha2::Sha256>::new(None, &formation.0)
            .expand_multi_info(&[b"iroh:", node_id.as_bytes()], &mut seed)
            .expect("HKDF-SHA256 gives up to 8160 bytes");
        Self(seed.into())
    }

    /// Reads a key from base64 with padding; white space around it is ignored.
    ///
    /// # Errors
    /// [`KeyError`] when it is not base64 of 32 bytes.
    pub fn from_base64(text: &str) -> Result<Self, KeyError> {
        decode_key(text).map(|seed| Self(seed.into()))
    }

    /// The secret itself, as base64.
    #[must_use]
    pub fn to_base64(&self) -> String {
        BASE64.encode(&self.0.to_bytes())
    }

    /// The public half.
    #[must_use]
    pub fn endpoint_id(&self) -> EndpointId {
        self.0.public().into()
    }

    /// Signs a message; see [`verify`].
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_BYTES] {
        self.0.sign(message).to_bytes()
    }

    /// The key in the form that an iroh endpoint is built with.
    #[must_use]
    pub fn as_iroh(&self) -> &iroh::SecretKey {
        &self.0
    }
}

/// The key that enrols nodes. It belongs on no node that may be lost.
#[derive(Debug, Clone)]
pub struct AuthorityKey(NodeKey);

impl AuthorityKey {
    /// A new random key.
    #[must_use]
    pub fn generate() -> Self {
        Self(NodeKey::generate())
    }

    /// Reads a key from base64 with padding; white space around it is ignored.
    ///
    /// # Errors
    /// [`KeyError`] when it is not base64 of 32 bytes.
    pub fn from_base64(text: &str) -> Result<Self, KeyError> {
        NodeKey::from_base64(text).map(Self)
    }

    /// The secret itself, as base64.
    #[must_use]
    pub fn to_base64(&self) -> String {
        self.0.to_base64()
    }

    /// What members know the authority by.
    #[must_use]
    pub fn id(&self) -> EndpointId {
        self.0.endpoint_id()
    }

    /// Expels a node: the signed envelope that says so, made away from any node. Whoever takes it in passes it on, and every
    /// member that hears of it cuts the node off, for ever. [`Node::import_parcel`](crate::Node::import_parcel) takes it in:
    ///
    /// ```
    /// use peat_blobcore::identity::{AuthorityKey, FormationKey, NodeKey};
    /// use peat_blobcore::clock::{Clock as _, SystemClock};
    /// use peat_blobcore::parcel::{Header, ParcelWriter};
    ///
    /// # let (formation, authority) = (FormationKey::generate(), AuthorityKey::generate());
    /// # let captured = NodeKey::generate().endpoint_id();
    /// let now = SystemClock.now();
    /// let revocation = authority.revoke(&captured, Some("bravo"), "captured", now)?;
    /// let header = Header { formation: formation.id(), exporter: authority.id(), made_at: now };
    /// let mut parcel = Vec::new();
    /// let mut writer = ParcelWriter::begin(&mut parcel, &header)?;
    /// writer.envelope(&revocation)?;
    /// writer.finish()?;
    /// // At any node, at once or once a stick has brought it there: node.import_parcel(std::io::Cursor::new(parcel)).await
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// `now` is the register's version. A node holds back what is dated more than a day ahead of its own clock; a time in the
    /// past counts, unless the authority has said the same later, which changes nothing. The node's own record, with its name,
    /// goes: `name` is what people go on knowing it by.
    ///
    /// # Errors
    /// [`EnvelopeError::TooLarge`] when the reason or the name is too long.
    pub fn revoke(&self, node: &EndpointId, name: Option<&str>, reason: &str, now: Timestamp) -> Result<Bytes, EnvelopeError> {
        let revoked = Revocation { time: now, reason: reason.to_owned(), name: name.map(str::to_owned) };
        revocation(node, &revoked, self.0.as_iroh())
    }

    /// Declares a node gone for good, so that rosters leave it out: the signed envelope that says so. What
    /// [`AuthorityKey::revoke`] says of its envelope holds of this one.
    ///
    /// # Errors
    /// [`EnvelopeError::TooLarge`] when the reason is too long.
    pub fn retire(&self, node: &EndpointId, reason: &str, now: Timestamp) -> Result<Bytes, EnvelopeError> {
        retirement(node, reason, now, self.0.as_iroh())
    }

    /// States that the endpoint in `body` is a member.
    ///
    /// # Errors
    /// [`Rejection`] when members would refuse the certificate because its name or labels are over their limits, or its
    /// endpoint id is not a public key.
    pub fn certify(&self, body: CertificateBody) -> Result<Certificate, Rejection> {
        check_body(&body)?;
        iroh::PublicKey::try_from(body.endpoint).map_err(|_| Rejection::NotAPublicKey(body.endpoint))?;
        let signature = self.0.sign(&body.signed_bytes()).to_vec();
        Ok(Certificate { body, signature })
    }
}

impl Certificate {
    /// The certificate as one line of base64.
    #[must_use]
    pub fn to_base64(&self) -> String {
        BASE64.encode(&Credential::Certificate(self.clone()).encode())
    }

    /// Reads what [`Certificate::to_base64`] wrote. Whether it is to be trusted is for [`Formation`](super::Formation) to say.
    ///
    /// # Errors
    /// [`KeyError`] when the text is anything else.
    pub fn from_base64(text: &str) -> Result<Self, KeyError> {
        match Credential::decode(&decode_base64(text)?)? {
            Credential::Certificate(certificate) => Ok(certificate),
            Credential::Derived { .. } => Err(KeyError::NotACertificate),
        }
    }
}

/// The signature is not the author's over this message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not hold")]
pub struct BadSignature;

/// Checks an Ed25519 signature by the strict rules: one encoding a signature, no key or point of small order.
///
/// # Errors
/// [`BadSignature`] when it does not hold, has another length, or `author` is not a public key.
pub fn verify(author: &EndpointId, message: &[u8], signature: &[u8]) -> Result<(), BadSignature> {
    let key = iroh::PublicKey::try_from(*author).map_err(|_| BadSignature)?;
    let signature = iroh::Signature::try_from(signature).map_err(|_| BadSignature)?;
    key.verify(message, &signature).map_err(|_| BadSignature)
}

impl From<iroh::PublicKey> for EndpointId {
    fn from(key: iroh::PublicKey) -> Self {
        Self::from_bytes(*key.as_bytes())
    }
}

/// Fails for ids that are no point of the curve.
impl TryFrom<EndpointId> for iroh::PublicKey {
    type Error = KeyError;

    fn try_from(id: EndpointId) -> Result<Self, KeyError> {
        Self::from_bytes(id.as_bytes()).map_err(|_| KeyError::NotAPublicKey(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Labels, Role};

    /// Endpoint ids that deployed nodes derive.
    #[test]
    fn derived_endpoint_ids_are_the_known_answers() {
        let (first, second) = ("KioqKioqKioqKioqKioqKioqKioqKioqKioqKioqKio=", "fPARVR0eqxhTNqqjKIrYrYTD1VBP6PjGKCAAa39+wl8=");
        for (key, node_id, expected) in [
            (first, "node-a", "4229afe8d9c12d0acfd98cb56d4e2edd0e844442651a70a6995c2ed7ef100684"),
            (first, "node-b", "f0782d206a443de24a744a6682851c11b71813fd1c03c9447ddecd9a5e9df279"),
            (second, "attach-a", "fdf9a98cb65237d2f2d70e1af68e7d2f543e14a287775a4e1bf12a35b84bccb6"),
            (second, "attach-b", "a53fca1d6263555d269d1594b2e5b05e88a0bab126b3885b9ee74259bd6ecd2f"),
        ] {
            let key = FormationKey::from_base64(key).unwrap();
            assert_eq!(NodeKey::derive(&key, node_id).endpoint_id().to_string(), expected, "{node_id}");
        }
    }

    #[test]
    fn the_formation_id_never_changes_for_a_key() {
        let key = FormationKey::from_bytes([42; 32]);
        assert_eq!(key.id().to_string(), "f6c4f4b0b02ab88fa7b323099acc7bbc");
    }

    #[test]
    fn what_is_derived_from_a_formation_key_differs_by_purpose() {
        let key = FormationKey::from_bytes([42; 32]);
        assert_ne!(key.topic(), key.admission_key());
        assert_ne!(key.topic()[..16], key.id().as_bytes()[..]);
    }

    #[test]
    fn keys_round_trip_as_base64_and_anything_else_is_refused() {
        let key = FormationKey::generate();
        assert_eq!(FormationKey::from_base64(&format!(" {}\n", key.to_base64())).unwrap().id(), key.id());
        let node = NodeKey::generate();
        assert_eq!(NodeKey::from_base64(&node.to_base64()).unwrap().endpoint_id(), node.endpoint_id());
        for bad in ["", "KioqKg==", "not base64", &key.to_base64()[..43], &format!("{0}{0}", key.to_base64())] {
            assert!(FormationKey::from_base64(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let (formation, node) = (FormationKey::from_bytes([0xa5; 32]), NodeKey(iroh::SecretKey::from_bytes(&[0xa5; 32])));
        let shown = format!("{formation:?} {node:?} {:?}", AuthorityKey(node.clone())).to_lowercase();
        for secret in ["a5a5", "165, 165", &formation.to_base64().to_lowercase()[..8]] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }

    #[test]
    fn a_signature_holds_for_its_author_and_message_only() {
        let (key, other) = (NodeKey::generate(), NodeKey::generate());
        let signature = key.sign(b"message");
        assert_eq!(verify(&key.endpoint_id(), b"message", &signature), Ok(()));
        assert_eq!(verify(&other.endpoint_id(), b"message", &signature), Err(BadSignature));
        assert_eq!(verify(&key.endpoint_id(), b"Message", &signature), Err(BadSignature));
        assert_eq!(verify(&key.endpoint_id(), b"message", &signature[..63]), Err(BadSignature));
        assert_eq!(verify(&key.endpoint_id(), b"message", &[]), Err(BadSignature));
    }

    #[test]
    fn an_id_of_small_order_signs_nothing() {
        // The neutral element as key and as R, with s = 0, satisfies the equation of RFC 8032 for every message.
        let mut neutral = [0; 32];
        neutral[0] = 1;
        let mut signature = [0; 64];
        signature[0] = 1;
        assert_eq!(verify(&EndpointId::from_bytes(neutral), b"anything", &signature), Err(BadSignature));
    }

    #[test]
    fn ids_convert_to_public_keys_unless_they_are_no_point_of_the_curve() {
        let id = NodeKey::generate().endpoint_id();
        assert_eq!(EndpointId::from(iroh::PublicKey::try_from(id).unwrap()), id);
        // No point has y = 2.
        let mut bytes = [0; 32];
        bytes[0] = 2;
        let error = iroh::PublicKey::try_from(EndpointId::from_bytes(bytes)).unwrap_err();
        assert!(matches!(error, KeyError::NotAPublicKey(_)), "{error}");
        assert_eq!(verify(&EndpointId::from_bytes(bytes), b"", &[0; 64]), Err(BadSignature));
    }

    #[test]
    fn the_largest_certificate_round_trips_as_a_line() {
        let labels: Labels = (0..64).map(|index| (format!("{index:016}"), "v".repeat(16))).collect();
        let body = CertificateBody {
            formation: FormationKey::generate().id(),
            endpoint: NodeKey::generate().endpoint_id(),
            name: "n".repeat(255),
            labels,
            role: Role::Member,
            expiry: Timestamp::from_millis(u64::MAX),
        };
        let authority = AuthorityKey::generate();
        let certificate = authority.certify(body.clone()).unwrap();
        let line = certificate.to_base64();
        assert_eq!(Certificate::from_base64(&line).unwrap(), certificate);
        assert!(Certificate::from_base64(&line[4..]).is_err());

        let mut larger = body.clone();
        larger.labels.insert("one".into(), "more".into());
        assert_eq!(authority.certify(larger), Err(Rejection::BadLabels));
        let nameless = CertificateBody { name: String::new(), ..body };
        assert_eq!(authority.certify(nameless), Err(Rejection::BadName));
    }
}

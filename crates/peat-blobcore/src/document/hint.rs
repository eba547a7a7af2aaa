//! Signed news that travels by gossip and may be lost: the one who hears a hint asks for what it names, nothing more. Must
//! never be what a decision rests on.

use iroh::{PublicKey, SecretKey, Signature};

use crate::model::{DistributionId, EndpointId, EnvelopeId, Timestamp, decode_whole, encode};

/// What the signature covers, before the payload.
const CONTEXT: &[u8] = b"peat-blob hint v1";
/// Length of the signature at the head, in bytes.
const SIGNATURE_BYTES: usize = 64;
/// Longest hint, in bytes.
pub const MAX_HINT_BYTES: usize = 1024;

/// One piece of news.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub struct Hint {
    /// Who says it.
    #[n(0)]
    pub author: EndpointId,
    /// When, by its own clock.
    #[n(1)]
    pub time: Timestamp,
    /// What it says.
    #[n(2)]
    pub news: News,
}

/// What a hint says.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub enum News {
    /// There is a new envelope.
    #[n(0)]
    New(#[n(0)] EnvelopeId),
    /// The author holds all blobs of a distribution.
    #[n(1)]
    Holds(#[n(0)] DistributionId),
    /// Where the author can be dialled now: socket addresses, most useful first.
    #[n(2)]
    Addresses(#[n(0)] Vec<String>),
}

impl Hint {
    /// The bytes of the hint, signed by its author's key.
    ///
    /// # Errors
    /// [`HintError::TooLarge`] when it has more than [`MAX_HINT_BYTES`]: name fewer addresses.
    pub fn seal(&self, author: &SecretKey) -> Result<Vec<u8>, HintError> {
        let payload = encode(self);
        let mut bytes = author.sign(&[CONTEXT, &payload].concat()).to_bytes().to_vec();
        bytes.extend(payload);
        if bytes.len() > MAX_HINT_BYTES { Err(HintError::TooLarge(bytes.len())) } else { Ok(bytes) }
    }

    /// Reads a hint from bytes that anyone may have made, and checks its author's signature.
    ///
    /// # Errors
    /// [`HintError`] when its size, form or signature is wrong.
    pub fn open(bytes: &[u8]) -> Result<Self, HintError> {
        if bytes.len() > MAX_HINT_BYTES {
            return Err(HintError::TooLarge(bytes.len()));
        }
        let (signature, payload) = bytes.split_first_chunk::<SIGNATURE_BYTES>().ok_or(HintError::Signature)?;
        let hint: Self = decode_whole(payload)?;
        let author = PublicKey::from_bytes(hint.author.as_bytes()).map_err(|_| HintError::Signature)?;
        author.verify(&[CONTEXT, payload].concat(), &Signature::from_bytes(signature)).map_err(|_| HintError::Signature)?;
        Ok(hint)
    }
}

/// Why bytes are not a hint.
#[derive(Debug, thiserror::Error)]
pub enum HintError {
    /// Not CBOR of the expected shape.
    #[error("the bytes are not a hint: {0}")]
    Malformed(#[from] minicbor::decode::Error),
    /// Over [`MAX_HINT_BYTES`].
    #[error("the hint has {0} bytes, over the limit of {MAX_HINT_BYTES}")]
    TooLarge(usize),
    /// Not signed by its author.
    #[error("the hint's signature is not its author's")]
    Signature,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hint(key: &SecretKey, addresses: usize) -> Hint {
        let author = EndpointId::from_bytes(*key.public().as_bytes());
        let news = News::Addresses(vec!["192.0.2.1:4433".to_owned(); addresses]);
        Hint { author, time: Timestamp::from_millis(1), news }
    }

    #[test]
    fn a_hint_opens_as_it_was_sealed_and_only_with_its_authors_signature() {
        let key = SecretKey::from_bytes(&[1; 32]);
        let bytes = hint(&key, 8).seal(&key).expect("small");
        assert_eq!(Hint::open(&bytes).expect("opens"), hint(&key, 8));
        let forged = hint(&key, 8).seal(&SecretKey::from_bytes(&[2; 32])).expect("small");
        assert!(matches!(Hint::open(&forged), Err(HintError::Signature)));
    }

    #[test]
    fn a_hint_over_its_limit_is_neither_made_nor_read() {
        let key = SecretKey::from_bytes(&[1; 32]);
        assert!(matches!(hint(&key, 100).seal(&key), Err(HintError::TooLarge(_))));
        assert!(matches!(Hint::open(&[0; MAX_HINT_BYTES + 1]), Err(HintError::TooLarge(_))));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Hint::open(&bytes);
        }
    }
}

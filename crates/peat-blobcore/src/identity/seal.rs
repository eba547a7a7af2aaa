//! Proof and secrecy for the messages of admission, from BLAKE3 keyed by the formation. A sealed body can be made and read
//! only by who knows the formation key, and only on the connection, in the direction and under the header it was made for.
//!
//! The construction is that of a synthetic initialisation vector (RFC 5297, section 2, with BLAKE3 in keyed mode in place of
//! both primitives): the proof is the keyed hash of everything, the body is masked with a keyed stream that starts from the
//! proof. A second body on one connection therefore never shares its mask with the first.

use crate::model::EndpointId;

use super::FormationKey;

/// Bytes from the TLS exporter (RFC 8446, section 7.5) of a connection: equal at both of its ends, unlike any other's.
pub(super) const EXPORTER_BYTES: usize = 32;

/// Who made a message. Part of the proof, so that a message sent back to its maker proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// Who opened the connection.
    Initiator,
    /// Who accepted it.
    Responder,
}

/// What a proof holds for: one connection between two endpoints.
#[derive(Debug, Clone, Copy)]
pub(super) struct Channel {
    /// Who opened the connection.
    pub(super) initiator: EndpointId,
    /// Who accepted it.
    pub(super) responder: EndpointId,
    /// What both ends got from the TLS exporter.
    pub(super) exporter: [u8; EXPORTER_BYTES],
}

/// A body with its proof.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub(super) struct Sealed {
    #[cbor(n(0), with = "minicbor::bytes")]
    proof: [u8; 32],
    #[cbor(n(1), with = "minicbor::bytes")]
    masked: Vec<u8>,
}

impl Channel {
    /// Seals `body`. `header` is what goes with it in the clear; its length must be the same in all messages of a side.
    pub(super) fn seal(&self, key: &FormationKey, side: Side, header: &[u8], mut body: Vec<u8>) -> Sealed {
        let keys = Keys::of(key);
        let proof = self.proof(&keys, side, header, &body);
        keys.mask(&proof, &mut body);
        Sealed { proof: *proof.as_bytes(), masked: body }
    }

    /// The body, if it was sealed with this key, on this connection, by this side, under this header.
    pub(super) fn open(&self, key: &FormationKey, side: Side, header: &[u8], sealed: &Sealed) -> Option<Vec<u8>> {
        let keys = Keys::of(key);
        let claimed = blake3::Hash::from_bytes(sealed.proof);
        let mut body = sealed.masked.clone();
        keys.mask(&claimed, &mut body);
        // Hashes compare in constant time.
        (self.proof(&keys, side, header, &body) == claimed).then_some(body)
    }

    /// Every part but the last has a fixed length, so that no two inputs run together to the same bytes.
    fn proof(&self, keys: &Keys, side: Side, header: &[u8], body: &[u8]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&keys.proof);
        hasher.update(match side {
            Side::Initiator => b"initiator",
            Side::Responder => b"responder",
        });
        hasher.update(self.initiator.as_bytes()).update(self.responder.as_bytes()).update(&self.exporter);
        hasher.update(header).update(body).finalize()
    }
}

struct Keys {
    proof: [u8; 32],
    mask: [u8; 32],
}

impl Keys {
    fn of(key: &FormationKey) -> Self {
        let admission = key.admission_key();
        Self {
            proof: blake3::derive_key("peat-blob admission proof v1", &admission),
            mask: blake3::derive_key("peat-blob admission mask v1", &admission),
        }
    }

    fn mask(&self, proof: &blake3::Hash, body: &mut [u8]) {
        let mut stream = vec![0; body.len()];
        blake3::Hasher::new_keyed(&self.mask).update(proof.as_bytes()).finalize_xof().fill(&mut stream);
        body.iter_mut().zip(stream).for_each(|(byte, mask)| *byte ^= mask);
    }
}

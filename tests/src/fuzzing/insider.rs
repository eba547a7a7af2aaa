//! Messages of admission with any body, sealed by who knows the formation key: docs/format.md, "Admission". Written from that
//! page rather than with the library, which seals no body but its own.

use peat_blobcore::identity::admission::VERSIONS;
use peat_blobcore::model::EndpointId;

use super::certificate::EXPORTER;
use super::fixture::FORMATION_KEY;

/// A hello of the initiator's.
pub(super) fn hello(initiator: &EndpointId, responder: &EndpointId, body: &[u8]) -> Vec<u8> {
    let (oldest, newest) = (VERSIONS.oldest.to_be_bytes(), VERSIONS.newest.to_be_bytes());
    let sealed = seal("initiator", initiator, responder, &[oldest, newest].concat(), body);
    let head = [&[0xa3, 0, 0x19][..], &oldest, &[1, 0x19], &newest, &[2]].concat();
    [head, sealed].concat()
}

/// The responder's answer to a hello.
pub(super) fn answer(initiator: &EndpointId, responder: &EndpointId, hello: &[u8], body: &[u8]) -> Vec<u8> {
    let version = VERSIONS.newest.to_be_bytes();
    let header = [&version[..], blake3::hash(hello).as_bytes()].concat();
    let sealed = seal("responder", initiator, responder, &header, body);
    [&[0xa2, 0, 0x19], &version[..], &[1], &sealed].concat()
}

/// The body, masked, after its proof: a CBOR map of two byte strings.
fn seal(side: &str, initiator: &EndpointId, responder: &EndpointId, header: &[u8], body: &[u8]) -> Vec<u8> {
    let root = blake3::derive_key("peat-blob admission v1", &FORMATION_KEY);
    let mut hasher = blake3::Hasher::new_keyed(&blake3::derive_key("peat-blob admission proof v1", &root));
    hasher.update(side.as_bytes()).update(initiator.as_bytes()).update(responder.as_bytes()).update(&EXPORTER);
    let proof = hasher.update(header).update(body).finalize();
    let mut masked = vec![0; body.len()];
    let mask = blake3::derive_key("peat-blob admission mask v1", &root);
    blake3::Hasher::new_keyed(&mask).update(proof.as_bytes()).finalize_xof().fill(&mut masked);
    masked.iter_mut().zip(body).for_each(|(mask, byte)| *mask ^= byte);
    let length = u32::try_from(masked.len()).expect("an input is short").to_be_bytes();
    [&[0xa2, 0, 0x58, 32], &proof.as_bytes()[..], &[1, 0x5a], &length, &masked].concat()
}

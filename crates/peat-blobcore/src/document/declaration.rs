//! What the authority says of a node for ever: that it is expelled, or gone for good. Signed with the authority's key alone, so
//! that the key need not be on a node. Must never need anything that only a node has.

use bytes::Bytes;
use iroh::SecretKey;

use super::{Body, Envelope, EnvelopeError, Kind};
use crate::model::{CredentialHash, EndpointId, Incarnation, Retirement, Revocation, Timestamp, encode};

/// The envelope that expels a node. Its version is the time of the revocation in milliseconds.
///
/// # Errors
/// [`EnvelopeError::TooLarge`] when the reason or the name is too long.
pub fn revocation(node: &EndpointId, what: &Revocation, authority: &SecretKey) -> Result<Bytes, EnvelopeError> {
    declaration(Kind::Revoked, node, what.time, encode(what), authority)
}

/// The envelope that declares a node gone for good. Its version is `time` in milliseconds.
///
/// # Errors
/// [`EnvelopeError::TooLarge`] when the reason is too long.
pub fn retirement(node: &EndpointId, reason: &str, time: Timestamp, authority: &SecretKey) -> Result<Bytes, EnvelopeError> {
    let value = encode(&Retirement { time, reason: reason.to_owned() });
    declaration(Kind::Retired, node, time, value, authority)
}

fn declaration(
    kind: Kind,
    node: &EndpointId,
    time: Timestamp,
    value: Vec<u8>,
    authority: &SecretKey,
) -> Result<Bytes, EnvelopeError> {
    let envelope = Envelope {
        kind,
        key: *node.as_bytes(),
        author: EndpointId::from_bytes(*authority.public().as_bytes()),
        incarnation: Incarnation::from_bytes([0; 16]),
        credential: CredentialHash::from_bytes([0; 32]),
        expiry: Envelope::NEVER,
        body: Body::register(time.as_millis(), value)?,
    };
    Ok(envelope.seal(authority).into())
}

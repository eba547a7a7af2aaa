//! Admission: on a new connection two nodes show each other that they are members, in one round trip. Pure: the caller
//! carries the messages, and gives time and revocations.
//!
//! ```text
//! initiator -> responder   hello   versions, sealed { credential, clock, incarnation } once for each key it accepts
//! responder -> initiator   answer  version,  sealed { credential, clock, incarnation }
//! ```
//!
//! TLS has proved both endpoint ids already. The seal proves that its maker knows the formation key, on this very
//! connection, and hides the rest from who does not: a stranger learns a range of versions by being dialled, and nothing at
//! all by dialling. The responder says nothing before all of the initiator's hello holds.
//!
//! Never changes, so that all versions can agree on one: the form of these two messages, and of what their proofs cover.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::model::{Credential, EndpointId, Incarnation, Timestamp, decode_whole, encode};

use super::seal::{Channel, Sealed, Side};
use super::{Identity, Rejection};

/// Longest message of admission, in bytes. Two credentials of the greatest length fit.
pub const MAX_MESSAGE_BYTES: usize = 10 * 1024;

/// The label that both ends give the TLS exporter; the context is empty.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-peat-blob-admission-v1";

/// The versions of the protocol that this build speaks.
pub const VERSIONS: VersionRange = VersionRange { oldest: 1, newest: 1 };

/// The versions that a node speaks: all from the oldest to the newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VersionRange {
    /// The oldest.
    pub oldest: u16,
    /// The newest.
    pub newest: u16,
}

impl VersionRange {
    /// The highest version that both speak.
    #[must_use]
    pub fn highest_common(self, other: Self) -> Option<u16> {
        let newest = self.newest.min(other.newest);
        (newest >= self.oldest.max(other.oldest)).then_some(newest)
    }

    fn header(self) -> [u8; 4] {
        let ([a, b], [c, d]) = (self.oldest.to_be_bytes(), self.newest.to_be_bytes());
        [a, b, c, d]
    }
}

impl fmt::Display for VersionRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.oldest, self.newest)
    }
}

/// What one side brings to the admission on one connection.
#[derive(Debug, Clone)]
pub struct Terms {
    /// This node.
    pub identity: Arc<Identity>,
    /// The versions that it speaks; [`VERSIONS`] but in tests.
    pub versions: VersionRange,
    /// The other end of the connection, as TLS proved it.
    pub peer: EndpointId,
    /// 32 bytes of the connection's TLS exporter under [`EXPORTER_LABEL`].
    pub exporter: [u8; 32],
    /// The time here.
    pub now: Timestamp,
}

/// A peer that was admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its endpoint id.
    pub id: EndpointId,
    /// What makes it a member.
    pub credential: Credential,
    /// The version of the protocol to speak on this connection.
    pub version: u16,
    /// The time there when it wrote its message.
    pub clock: Timestamp,
    /// The life of its data directory.
    pub incarnation: Incarnation,
}

impl Peer {
    /// The end of a lease of `length` from `now`: never after the certificate's.
    #[must_use]
    pub fn lease_end(&self, now: Timestamp, length: Duration) -> Timestamp {
        match &self.credential {
            Credential::Certificate(certificate) => now.plus(length).min(certificate.body.expiry),
            Credential::Derived { .. } => now.plus(length),
        }
    }
}

#[derive(minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
struct Hello {
    #[n(0)]
    oldest: u16,
    #[n(1)]
    newest: u16,
    /// By the current key.
    #[n(2)]
    sealed: Sealed,
    /// By the previous one, while it is accepted.
    #[n(3)]
    previous: Option<Sealed>,
}

#[derive(minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
struct Answer {
    #[n(0)]
    version: u16,
    #[n(1)]
    sealed: Sealed,
}

#[derive(minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
struct Body {
    #[cbor(n(0), with = "minicbor::bytes")]
    credential: Vec<u8>,
    #[n(1)]
    clock: Timestamp,
    #[n(2)]
    incarnation: Incarnation,
}

/// The side that opened the connection, waiting for the answer.
#[derive(Debug)]
pub struct Initiator {
    terms: Terms,
    hello: blake3::Hash,
}

impl Initiator {
    /// Begins: the bytes are the hello to send.
    #[must_use]
    pub fn new(terms: Terms) -> (Self, Vec<u8>) {
        let formation = terms.identity.formation();
        let channel = terms.channel(Side::Initiator);
        let seal = |key| channel.seal(key, Side::Initiator, &terms.versions.header(), terms.body());
        let hello = encode(&Hello {
            oldest: terms.versions.oldest,
            newest: terms.versions.newest,
            sealed: seal(&formation.key),
            previous: formation.previous.as_ref().map(seal),
        });
        (Self { terms, hello: blake3::hash(&hello) }, hello)
    }

    /// Ends: checks the answer.
    ///
    /// # Errors
    /// [`Rejection`] when the peer is not to be trusted: close the connection.
    pub fn finish(self, answer: &[u8], is_revoked: impl Fn(&EndpointId) -> bool) -> Result<Peer, Rejection> {
        let terms = &self.terms;
        if is_revoked(&terms.peer) {
            return Err(Rejection::Revoked);
        }
        let answer: Answer = decode_message(answer)?;
        let (channel, header) = (terms.channel(Side::Initiator), answer_header(answer.version, &self.hello));
        let body = terms
            .identity
            .formation()
            .keys()
            .find_map(|key| channel.open(key, Side::Responder, &header, &answer.sealed))
            .ok_or(Rejection::NoProof)?;
        let theirs = VersionRange { oldest: answer.version, newest: answer.version };
        let version = terms.common_version(theirs)?;
        terms.peer_of(&body, version)
    }
}

/// The side that accepted the connection.
#[derive(Debug)]
pub struct Responder {
    terms: Terms,
}

impl Responder {
    /// Waits for a hello.
    #[must_use]
    pub fn new(terms: Terms) -> Self {
        Self { terms }
    }

    /// Checks the hello. The bytes are the answer to send, after which the peer is admitted.
    ///
    /// # Errors
    /// [`Rejection`] when the peer is not to be trusted: send nothing, close the connection with [`Rejection::for_peer`].
    pub fn receive(self, hello: &[u8], is_revoked: impl Fn(&EndpointId) -> bool) -> Result<(Peer, Vec<u8>), Rejection> {
        let terms = &self.terms;
        if is_revoked(&terms.peer) {
            return Err(Rejection::Revoked);
        }
        let hash = blake3::hash(hello);
        let hello: Hello = decode_message(hello)?;
        let theirs = VersionRange { oldest: hello.oldest, newest: hello.newest };
        let (channel, header) = (terms.channel(Side::Responder), theirs.header());
        let (key, body) = terms
            .identity
            .formation()
            .keys()
            .find_map(|key| {
                let mut copies = std::iter::once(&hello.sealed).chain(&hello.previous);
                copies.find_map(|sealed| Some((key, channel.open(key, Side::Initiator, &header, sealed)?)))
            })
            .ok_or(Rejection::NoProof)?;
        let version = terms.common_version(theirs)?;
        let peer = terms.peer_of(&body, version)?;
        let sealed = channel.seal(key, Side::Responder, &answer_header(version, &hash), terms.body());
        Ok((peer, encode(&Answer { version, sealed })))
    }
}

impl Terms {
    /// The connection, seen from the side that this node is.
    fn channel(&self, here: Side) -> Channel {
        let own = self.identity.id();
        let (initiator, responder) = match here {
            Side::Initiator => (own, self.peer),
            Side::Responder => (self.peer, own),
        };
        Channel { initiator, responder, exporter: self.exporter }
    }

    fn body(&self) -> Vec<u8> {
        encode(&Body {
            credential: self.identity.credential().encode(),
            clock: self.now,
            incarnation: self.identity.incarnation(),
        })
    }

    fn common_version(&self, theirs: VersionRange) -> Result<u16, Rejection> {
        self.versions.highest_common(theirs).ok_or(Rejection::NoCommonVersion { ours: self.versions, theirs })
    }

    /// The peer that an opened body speaks of, if its credential holds.
    fn peer_of(&self, body: &[u8], version: u16) -> Result<Peer, Rejection> {
        let body: Body = decode_message(body)?;
        let credential = Credential::decode(&body.credential).map_err(|error| Rejection::Malformed(error.to_string()))?;
        self.identity.formation().verify(&self.peer, &credential, self.now)?;
        Ok(Peer { id: self.peer, credential, version, clock: body.clock, incarnation: body.incarnation })
    }
}

/// What the answer's proof covers besides its body: the choice made, and the hello that it was made from.
fn answer_header(version: u16, hello: &blake3::Hash) -> [u8; 34] {
    let mut header = [0; 34];
    header[..2].copy_from_slice(&version.to_be_bytes());
    header[2..].copy_from_slice(hello.as_bytes());
    header
}

fn decode_message<'b, T: minicbor::Decode<'b, ()>>(bytes: &'b [u8]) -> Result<T, Rejection> {
    if bytes.len() > MAX_MESSAGE_BYTES {
        return Err(Rejection::Malformed(format!("{} bytes, over the limit of {MAX_MESSAGE_BYTES}", bytes.len())));
    }
    decode_whole(bytes).map_err(|error| Rejection::Malformed(error.to_string()))
}

#[cfg(test)]
mod tests;

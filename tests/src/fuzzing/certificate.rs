//! Credentials, and admission by strangers and by those who know the formation key.

use std::sync::{Arc, LazyLock};

use peat_blobcore::identity::admission::{Initiator, Peer, Responder, Terms, VERSIONS};
use peat_blobcore::identity::{Formation, Identity, NodeKey, Rejection};
use peat_blobcore::model::{Certificate, CertificateBody, Credential, EndpointId, Incarnation, Labels, Role, Timestamp};

use super::fixture::{NOW, authority, formation_key};
use super::insider;

/// What the TLS exporter of the one connection gives.
pub(super) const EXPORTER: [u8; 32] = [5; 32];

/// A certificate has one encoding and counts only as its authority signed it; admission takes any message, and admits nobody
/// but the peer that TLS has proved, with a credential that holds.
///
/// # Panics
/// When a law is broken.
pub fn certificate(bytes: &[u8]) {
    if let Ok(credential) = Credential::decode(bytes) {
        assert_eq!(credential.encode(), bytes, "a credential has one encoding");
        match &credential {
            Credential::Certificate(certificate) => judge(certificate),
            Credential::Derived { node_id } => derived(node_id),
        }
    }
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(certificate) = Certificate::from_base64(text)
    {
        assert_eq!(certificate.to_base64(), text.trim_ascii());
        judge(&certificate);
    }
    for node in [&*ENROLLED, &*DERIVED] {
        node.admits(bytes);
        node.admits_insider(bytes);
    }
}

fn judge(certificate: &Certificate) {
    let line = certificate.to_base64();
    assert_eq!(&Certificate::from_base64(&line).expect("what is printed is read"), certificate);
    let (formation, body) = (ENROLLED.identity.formation(), &certificate.body);
    let (subject, ends) = (body.endpoint, body.expiry);
    let genuine = authority().certify(body.clone());
    let verdict = formation.verify(&subject, &Credential::Certificate(certificate.clone()), ends);
    if verdict.is_ok() {
        assert_eq!(genuine.as_ref(), Ok(certificate), "a certificate counts as its authority signed it");
    }
    if let Ok(genuine) = genuine {
        let credential = Credential::Certificate(genuine);
        match formation.verify(&subject, &credential, ends) {
            Ok(()) => assert_eq!(body.formation, formation.id()),
            Err(error) => assert_eq!(error, Rejection::OtherFormation(body.formation)),
        }
        assert_eq!(Credential::decode(&credential.encode()).expect("what is encoded decodes"), credential);
        assert!(DERIVED.identity.formation().verify(&subject, &credential, ends).is_err());
    }
}

fn derived(node_id: &str) {
    let formation = DERIVED.identity.formation();
    let credential = Credential::Derived { node_id: node_id.to_owned() };
    let own = NodeKey::derive(&formation.key, node_id).endpoint_id();
    let verdict = formation.verify(&own, &credential, NOW);
    assert!(matches!(verdict, Ok(()) | Err(Rejection::BadName)), "{verdict:?}");
    assert!(formation.verify(&EndpointId::from_bytes([9; 32]), &credential, NOW).is_err());
}

/// Two members of a formation on one connection, the second of which is the one to be wary of.
pub(super) struct Pair {
    pub(super) identity: Arc<Identity>,
    pub(super) peer: Arc<Identity>,
}

/// A pair with certificates.
pub(super) static ENROLLED: LazyLock<Pair> = LazyLock::new(|| {
    let formation = Formation::enrolled(formation_key(), authority().id());
    let member = |name: &str, life| {
        let key = NodeKey::derive(&formation_key(), name);
        let body = CertificateBody {
            formation: formation.id(),
            endpoint: key.endpoint_id(),
            name: name.to_owned(),
            labels: Labels::from([("role".to_owned(), "edge".to_owned())]),
            role: Role::Member,
            expiry: Timestamp::from_millis(u64::MAX),
        };
        let certificate = authority().certify(body).expect("a good body");
        Arc::new(Identity::enrolled(key, certificate, formation.clone(), Incarnation::from_bytes([life; 16])).expect("a member"))
    };
    Pair { identity: member("node-a", 1), peer: member("node-b", 2) }
});

/// A pair whose keys derive from the formation's.
pub(super) static DERIVED: LazyLock<Pair> = LazyLock::new(|| {
    let member = |name, life| {
        let formation = Formation::deterministic(formation_key());
        Arc::new(Identity::derived(formation, name, Incarnation::from_bytes([life; 16])).expect("a member"))
    };
    Pair { identity: member("node-a", 1), peer: member("node-b", 2) }
});

impl Pair {
    pub(super) fn terms(&self) -> Terms {
        terms(&self.identity, &self.peer)
    }

    /// As the peer sees the connection.
    pub(super) fn peer_terms(&self) -> Terms {
        terms(&self.peer, &self.identity)
    }

    /// These bytes as the one message of admission, each way.
    fn admits(&self, message: &[u8]) {
        self.check(Responder::new(self.terms()).receive(message, |_| false).map(|(peer, _)| peer));
        self.check(Initiator::new(self.terms()).0.finish(message, |_| false));
        assert_eq!(Responder::new(self.terms()).receive(message, |_| true).map(|_| ()), Err(Rejection::Revoked));
    }

    /// These bytes as the body of a message that is sealed as it should be, each way; whether both were admitted.
    pub(super) fn admits_insider(&self, body: &[u8]) -> bool {
        let (initiator, hello) = Initiator::new(self.terms());
        let (id, peer) = (self.identity.id(), self.peer.id());
        let finished = self.check(initiator.finish(&insider::answer(&id, &peer, &hello, body), |_| false));
        let received = Responder::new(self.terms()).receive(&insider::hello(&peer, &id, body), |_| false);
        assert_ne!(received.as_ref().err(), Some(&Rejection::NoProof), "it is sealed as it should be");
        self.check(received.map(|(peer, _)| peer)) && finished
    }

    fn check(&self, outcome: Result<Peer, Rejection>) -> bool {
        match outcome {
            Ok(peer) => {
                assert_eq!((peer.id, peer.version), (self.peer.id(), VERSIONS.newest));
                assert_eq!(&peer.credential, self.peer.credential(), "nobody else signs for it, or derives to it");
                true
            }
            Err(rejection) => {
                assert!(!rejection.for_peer().is_empty());
                false
            }
        }
    }
}

fn terms(here: &Arc<Identity>, there: &Arc<Identity>) -> Terms {
    Terms { identity: Arc::clone(here), versions: VERSIONS, peer: there.id(), exporter: EXPORTER, now: NOW }
}

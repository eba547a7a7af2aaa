//! Whether an endpoint is a member: by a certificate of the authority, or because its id derives from the formation key.
//! Decides from its arguments alone; never takes a certificate's word before its signature holds.

use crate::ErrorKind;
use crate::model::{Certificate, CertificateBody, Credential, EndpointId, FormationId, Labels, Timestamp};

use super::admission::VersionRange;
use super::{FormationKey, NodeKey, verify};

/// Longest name of a member, in bytes.
pub const MAX_NAME_BYTES: usize = 255;
/// All labels of a member together, in bytes of their keys and values.
pub const MAX_LABEL_BYTES: usize = 2 * 1024;
/// Most labels of a member.
const MAX_LABELS: usize = 64;

/// The nodes that share a key, and how one knows them.
#[derive(Debug, Clone)]
pub struct Formation {
    /// The key.
    pub key: FormationKey,
    /// The key that was in use before, still accepted while not all members have the new one.
    pub previous: Option<FormationKey>,
    /// Whose certificates make members. Without one the formation is deterministic.
    pub authority: Option<EndpointId>,
}

impl Formation {
    /// A formation whose members hold a certificate of `authority`.
    #[must_use]
    pub const fn enrolled(key: FormationKey, authority: EndpointId) -> Self {
        Self { key, previous: None, authority: Some(authority) }
    }

    /// A formation whose members' keys derive from its key. It authenticates the formation, not the node: each member can
    /// compute the key of every other.
    #[must_use]
    pub const fn deterministic(key: FormationKey) -> Self {
        Self { key, previous: None, authority: None }
    }

    /// The formation's id, by its current key.
    #[must_use]
    pub fn id(&self) -> FormationId {
        self.key.id()
    }

    /// Who enrols and revokes. `None` in a deterministic formation.
    #[must_use]
    pub const fn authority(&self) -> Option<EndpointId> {
        self.authority
    }

    /// The keys that are accepted, the current one first.
    pub fn keys(&self) -> impl Iterator<Item = &FormationKey> {
        std::iter::once(&self.key).chain(&self.previous)
    }

    /// Whether `credential` makes `endpoint` a member at the time `now`. Revocation is for the caller to look up.
    ///
    /// # Errors
    /// [`Rejection`] says why not.
    pub fn verify(&self, endpoint: &EndpointId, credential: &Credential, now: Timestamp) -> Result<(), Rejection> {
        match credential {
            Credential::Certificate(certificate) => {
                self.verify_certificate(endpoint, certificate)?;
                let expiry = certificate.body.expiry;
                if now > expiry { Err(Rejection::Expired(expiry)) } else { Ok(()) }
            }
            Credential::Derived { node_id } => self.verify_derived(endpoint, node_id),
        }
    }

    /// All of [`Formation::verify`] but the expiry.
    pub(super) fn verify_certificate(&self, endpoint: &EndpointId, certificate: &Certificate) -> Result<(), Rejection> {
        let body = &certificate.body;
        let authority = self.authority.ok_or(Rejection::NoAuthority)?;
        if body.endpoint != *endpoint {
            return Err(Rejection::OtherEndpoint(body.endpoint));
        }
        if !self.keys().any(|key| key.id() == body.formation) {
            return Err(Rejection::OtherFormation(body.formation));
        }
        check_body(body)?;
        verify(&authority, &body.signed_bytes(), &certificate.signature).map_err(|_| Rejection::NotByAuthority)
    }

    pub(super) fn verify_derived(&self, endpoint: &EndpointId, node_id: &str) -> Result<(), Rejection> {
        if self.authority.is_some() {
            return Err(Rejection::CertificateRequired);
        }
        check_name(node_id)?;
        if self.keys().any(|key| NodeKey::derive(key, node_id).endpoint_id() == *endpoint) {
            Ok(())
        } else {
            Err(Rejection::NotDerived(node_id.to_owned()))
        }
    }
}

/// What must hold of a certificate whoever signed it: names and labels go into tables, metrics and logs.
pub(super) fn check_body(body: &CertificateBody) -> Result<(), Rejection> {
    check_name(&body.name)?;
    check_labels(&body.labels)
}

fn check_name(name: &str) -> Result<(), Rejection> {
    if name.is_empty() || name.len() > MAX_NAME_BYTES || name.chars().any(char::is_control) {
        return Err(Rejection::BadName);
    }
    Ok(())
}

fn check_labels(labels: &Labels) -> Result<(), Rejection> {
    let bytes: usize = labels.iter().map(|(key, value)| key.len() + value.len()).sum();
    let strange = |text: &str| text.chars().any(char::is_control);
    if labels.len() > MAX_LABELS
        || bytes > MAX_LABEL_BYTES
        || labels.iter().any(|(key, value)| key.is_empty() || strange(key) || strange(value))
    {
        return Err(Rejection::BadLabels);
    }
    Ok(())
}

/// Why an endpoint is not taken for a member.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// It could not prove that it knows the formation key: a stranger, another formation, or a proof from elsewhere.
    #[error("the peer does not prove that it knows the formation key")]
    NoProof,
    /// The authority revoked it.
    #[error("the node was revoked")]
    Revoked,
    /// What it sent is not a message of admission.
    #[error("the message of admission is malformed: {0}")]
    Malformed(String),
    /// No version of the protocol that both speak.
    #[error("no common protocol version: here {ours}, there {theirs}")]
    NoCommonVersion {
        /// What this node speaks.
        ours: VersionRange,
        /// What the peer speaks.
        theirs: VersionRange,
    },
    /// The formation is an enrolled one, and the node shows no certificate.
    #[error("the formation admits only nodes with a certificate")]
    CertificateRequired,
    /// The node shows a certificate, but this side knows no authority to check it by.
    #[error("the formation has no authority, so a certificate proves nothing")]
    NoAuthority,
    /// The certificate is another node's.
    #[error("the certificate is for the endpoint {0}")]
    OtherEndpoint(EndpointId),
    /// The certificate is for another formation.
    #[error("the certificate is for the formation {0}")]
    OtherFormation(FormationId),
    /// The signature of the certificate is not the authority's.
    #[error("the certificate was not signed by the formation's authority")]
    NotByAuthority,
    /// The certificate has ended.
    #[error("the certificate expired at {0}")]
    Expired(Timestamp),
    /// The endpoint id does not derive from the formation key and the node id.
    #[error("the endpoint id does not derive from the formation key and the node id {0:?}")]
    NotDerived(String),
    /// The name or node id is empty, too long or not printable.
    #[error("the name is empty, over {MAX_NAME_BYTES} bytes, or has control characters")]
    BadName,
    /// The labels are too many, too long or not printable.
    #[error("the labels are over {MAX_LABELS}, over {MAX_LABEL_BYTES} bytes together, without a key, or have control characters")]
    BadLabels,
    /// The endpoint id is not a point of the curve, so that nobody can hold its key.
    #[error("{0} is not an Ed25519 public key")]
    NotAPublicKey(EndpointId),
}

impl Rejection {
    /// What it means for the one who called.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::BadName | Self::BadLabels | Self::NotAPublicKey(_) => ErrorKind::Usage,
            Self::Malformed(_) => ErrorKind::Integrity,
            _ => ErrorKind::Refused,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoProof => "compare the formation ids of both nodes; they must be equal".into(),
            Self::NoCommonVersion { .. } => "upgrade the older of the two nodes".into(),
            Self::CertificateRequired => "have the authority sign a certificate for the node's endpoint id, and enrol it".into(),
            Self::NoAuthority => "enrol this node too, or run all nodes of the formation in deterministic mode".into(),
            Self::OtherEndpoint(_) | Self::OtherFormation(_) | Self::NotByAuthority => {
                "ask this formation's authority for a certificate for this node".into()
            }
            Self::Expired(_) => "ask the authority for a new certificate; if the date is not past, set the clock".into(),
            Self::NotDerived(_) => "give all nodes the same formation key, and each its own node id".into(),
            Self::BadName | Self::BadLabels => "choose shorter, printable ones".into(),
            Self::NotAPublicKey(_) => "look for a digit that was lost or changed in the endpoint id".into(),
            Self::Revoked | Self::Malformed(_) => return None,
        })
    }

    /// What the peer may be told: nothing, unless it has proved that it knows the formation key.
    #[must_use]
    pub fn for_peer(&self) -> String {
        match self {
            Self::NoProof | Self::Revoked | Self::Malformed(_) => "not admitted".to_owned(),
            _ => self.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::AuthorityKey;
    use crate::model::Role;

    const EXPIRY: Timestamp = Timestamp::from_millis(1_000);

    struct Enrolled {
        authority: AuthorityKey,
        formation: Formation,
        node: EndpointId,
        body: CertificateBody,
    }

    fn enrolled() -> Enrolled {
        let (key, authority) = (FormationKey::generate(), AuthorityKey::generate());
        let node = NodeKey::generate().endpoint_id();
        let body = CertificateBody {
            formation: key.id(),
            endpoint: node,
            name: "vehicle-7".into(),
            labels: Labels::from([("role".into(), "edge".into())]),
            role: Role::Member,
            expiry: EXPIRY,
        };
        Enrolled { formation: Formation::enrolled(key, authority.id()), authority, node, body }
    }

    fn credential(authority: &AuthorityKey, body: CertificateBody) -> Credential {
        Credential::Certificate(authority.certify(body).unwrap())
    }

    #[test]
    fn a_certificate_makes_a_member_up_to_its_last_moment() {
        let Enrolled { authority, formation, node, body } = enrolled();
        let credential = credential(&authority, body);
        assert_eq!(formation.verify(&node, &credential, EXPIRY), Ok(()));
        assert_eq!(formation.verify(&node, &credential, Timestamp::from_millis(1_001)), Err(Rejection::Expired(EXPIRY)));
    }

    #[test]
    fn a_certificate_of_somebody_else_makes_nobody_a_member() {
        let Enrolled { authority, formation, node, body } = enrolled();
        let thief = NodeKey::generate().endpoint_id();
        let credential = credential(&authority, body);
        assert_eq!(formation.verify(&thief, &credential, EXPIRY), Err(Rejection::OtherEndpoint(node)));
    }

    #[test]
    fn a_certificate_that_the_authority_did_not_sign_as_it_stands_is_refused() {
        let Enrolled { authority, formation, node, body } = enrolled();
        let impostor = credential(&AuthorityKey::generate(), body.clone());
        assert_eq!(formation.verify(&node, &impostor, EXPIRY), Err(Rejection::NotByAuthority));

        let genuine = authority.certify(body).unwrap();
        let longer = CertificateBody { expiry: Timestamp::from_millis(u64::MAX), ..genuine.body.clone() };
        let renamed = CertificateBody { name: "headquarters".into(), ..genuine.body.clone() };
        let unlabelled = CertificateBody { labels: Labels::new(), ..genuine.body.clone() };
        for body in [longer, renamed, unlabelled] {
            let forged = Credential::Certificate(Certificate { body, signature: genuine.signature.clone() });
            assert_eq!(formation.verify(&node, &forged, EXPIRY), Err(Rejection::NotByAuthority));
        }
        for signature in [vec![], vec![0; 64], genuine.signature[..63].to_vec()] {
            let forged = Credential::Certificate(Certificate { body: genuine.body.clone(), signature });
            assert_eq!(formation.verify(&node, &forged, EXPIRY), Err(Rejection::NotByAuthority));
        }
    }

    #[test]
    fn a_certificate_for_the_previous_key_holds_while_that_key_does() {
        let Enrolled { authority, formation, node, body } = enrolled();
        let (old, credential) = (formation.key.clone(), credential(&authority, body));
        let changing = Formation { key: FormationKey::generate(), previous: Some(old.clone()), ..formation };
        assert_eq!(changing.verify(&node, &credential, EXPIRY), Ok(()));
        let changed = Formation { previous: None, ..changing };
        assert_eq!(changed.verify(&node, &credential, EXPIRY), Err(Rejection::OtherFormation(old.id())));
    }

    #[test]
    fn oversized_or_unprintable_names_and_labels_are_refused_even_when_signed() {
        let Enrolled { authority, formation, node, body } = enrolled();
        let labels = |key: &str, value: &str| Labels::from([(key.into(), value.into())]);
        for (body, expected) in [
            (CertificateBody { name: "n".repeat(256), ..body.clone() }, Rejection::BadName),
            (CertificateBody { name: "a\u{1b}[2J".into(), ..body.clone() }, Rejection::BadName),
            (CertificateBody { labels: labels("key", "line\nbreak"), ..body.clone() }, Rejection::BadLabels),
            (CertificateBody { labels: labels("", "value"), ..body.clone() }, Rejection::BadLabels),
            (CertificateBody { labels: labels("key", &"v".repeat(2 * 1024)), ..body }, Rejection::BadLabels),
        ] {
            let key = NodeKey::from_base64(&authority.to_base64()).expect("a key");
            let signature = key.sign(&body.signed_bytes()).to_vec();
            let credential = Credential::Certificate(Certificate { body, signature });
            assert_eq!(formation.verify(&node, &credential, EXPIRY), Err(expected));
        }
    }

    #[test]
    fn in_a_deterministic_formation_the_id_must_derive_from_the_node_id() {
        let formation = Formation::deterministic(FormationKey::generate());
        let node = NodeKey::derive(&formation.key, "node-a").endpoint_id();
        let derived = |node_id: &str| Credential::Derived { node_id: node_id.into() };
        assert_eq!(formation.verify(&node, &derived("node-a"), EXPIRY), Ok(()));
        assert_eq!(formation.verify(&node, &derived("node-b"), EXPIRY), Err(Rejection::NotDerived("node-b".into())));
        assert_eq!(formation.verify(&node, &derived(""), EXPIRY), Err(Rejection::BadName));

        let changing = Formation { key: FormationKey::generate(), previous: Some(formation.key.clone()), authority: None };
        assert_eq!(changing.verify(&node, &derived("node-a"), EXPIRY), Ok(()));
    }

    #[test]
    fn neither_kind_of_credential_passes_for_the_other() {
        let Enrolled { authority, formation, node, body } = enrolled();
        let derived = Credential::Derived { node_id: "node-a".into() };
        let derived_id = NodeKey::derive(&formation.key, "node-a").endpoint_id();
        assert_eq!(formation.verify(&derived_id, &derived, EXPIRY), Err(Rejection::CertificateRequired));

        let deterministic = Formation { authority: None, ..formation };
        assert_eq!(deterministic.verify(&node, &credential(&authority, body), EXPIRY), Err(Rejection::NoAuthority));
    }

    #[test]
    fn a_peer_without_proof_is_told_nothing() {
        for rejection in [Rejection::NoProof, Rejection::Revoked, Rejection::Malformed("at byte 7".into())] {
            assert_eq!(rejection.for_peer(), "not admitted");
        }
        assert!(Rejection::Expired(EXPIRY).for_peer().contains("expired"));
    }
}

//! Who is a member: keys, certificates, admission of peers, and the files that hold a node's own identity.
//!
//! Never prints, logs or sends a secret, and never takes a peer's word for what a signature or a proof can show.
//!
//! - [`FormationKey`], [`NodeKey`], [`AuthorityKey`]: the three secrets.
//! - [`Formation`]: decides whether an endpoint with a [`Credential`] is a member.
//! - [`Identity`]: what this node is; [`files`] keeps it in the data directory.
//! - [`admission`]: two nodes show each other on a connection that they are members.
//! - [`Admitted`]: the peers that did, for handlers of every protocol of the endpoint.

pub mod admission;
mod admitted;
pub mod files;
mod formation;
mod keys;
mod seal;

pub use admitted::Admitted;
pub use files::{IdentityError, Warning};
pub use formation::{Formation, MAX_LABEL_BYTES, MAX_NAME_BYTES, Rejection};
pub use keys::{AuthorityKey, BadSignature, FormationKey, KeyError, NodeKey, SIGNATURE_BYTES, verify};

use crate::model::{Certificate, Credential, EndpointId, Incarnation};

/// What this node is: its key, what makes it a member, and of which formation.
#[derive(Debug, Clone)]
pub struct Identity {
    key: NodeKey,
    credential: Credential,
    formation: Formation,
    incarnation: Incarnation,
}

impl Identity {
    /// The identity of an enrolled node. Its certificate may have expired: the clock may be what is wrong, and peers decide.
    ///
    /// # Errors
    /// [`Rejection`] when the certificate does not make this key a member of this formation at any time.
    pub fn enrolled(
        key: NodeKey,
        certificate: Certificate,
        formation: Formation,
        incarnation: Incarnation,
    ) -> Result<Self, Rejection> {
        formation.verify_certificate(&key.endpoint_id(), &certificate)?;
        Ok(Self { key, credential: Credential::Certificate(certificate), formation, incarnation })
    }

    /// The deterministic identity: the key derives from the current formation key and `node_id`.
    ///
    /// # Errors
    /// [`Rejection`] when the node id is over its limits, or when the formation has an authority.
    pub fn derived(formation: Formation, node_id: &str, incarnation: Incarnation) -> Result<Self, Rejection> {
        let key = NodeKey::derive(&formation.key, node_id);
        formation.verify_derived(&key.endpoint_id(), node_id)?;
        Ok(Self { key, credential: Credential::Derived { node_id: node_id.to_owned() }, formation, incarnation })
    }

    /// The node's endpoint id.
    #[must_use]
    pub fn id(&self) -> EndpointId {
        self.key.endpoint_id()
    }

    /// The node's secret key.
    #[must_use]
    pub fn key(&self) -> &NodeKey {
        &self.key
    }

    /// What makes the node a member.
    #[must_use]
    pub fn credential(&self) -> &Credential {
        &self.credential
    }

    /// The formation that it is a member of.
    #[must_use]
    pub fn formation(&self) -> &Formation {
        &self.formation
    }

    /// The present life of the data directory.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// The name that the credential gives the node.
    #[must_use]
    pub fn name(&self) -> &str {
        match &self.credential {
            Credential::Certificate(certificate) => &certificate.body.name,
            Credential::Derived { node_id } => node_id,
        }
    }
}

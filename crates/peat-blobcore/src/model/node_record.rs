//! What the registers say: nodes of themselves, the authority of nodes.

use super::{Credential, Labels, Timestamp};

/// Longest encoded node record, in bytes.
pub const MAX_NODE_RECORD_BYTES: usize = 8 * 1024;

/// The value of the register `nodes/<endpoint id>`. Written when something in it changes, never as a heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub struct NodeRecord {
    /// The name that users give in scopes. A certificate's name wins over it.
    #[n(0)]
    pub name: String,
    /// The labels that selectors match. A certificate's labels win over them.
    #[n(1)]
    pub labels: Labels,
    /// Where it can be dialled: socket addresses, most useful first.
    #[n(2)]
    pub addresses: Vec<String>,
    /// The oldest and the newest version of our protocol that it speaks.
    #[n(3)]
    pub protocol: (u16, u16),
    /// Free space of its store's file system in bytes, rounded down to a power of two so that it seldom changes.
    #[n(4)]
    pub free_bytes: u64,
    /// What makes it a member; its hash is in every envelope of the node.
    #[n(5)]
    pub credential: Credential,
    /// The names of the registries that it asks on behalf of other nodes: for repositories beneath them.
    #[n(6)]
    pub upstreams: Option<Vec<String>>,
}

impl NodeRecord {
    /// The name and labels that count: the certificate's, when there is one.
    #[must_use]
    pub fn name_and_labels(&self) -> (&str, &Labels) {
        match &self.credential {
            Credential::Certificate(certificate) => (&certificate.body.name, &certificate.body.labels),
            Credential::Derived { node_id } => (node_id, &self.labels),
        }
    }
}

/// The value of the register `retired/<endpoint id>`: the node is gone for good and rosters leave it out.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub struct Retirement {
    /// When it was retired.
    #[n(0)]
    pub time: Timestamp,
    /// Why, for people.
    #[n(1)]
    pub reason: String,
}

/// The value of the register `revoked/<endpoint id>`: nothing of the node's counts any more.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub struct Revocation {
    /// When it was revoked.
    #[n(0)]
    pub time: Timestamp,
    /// Why, for people.
    #[n(1)]
    pub reason: String,
    /// What it was called, if that was known: its own record does not outlive this.
    #[n(2)]
    pub name: Option<String>,
}

//! Signed changes and registers at rest (redb), and the difference between two such sets.
//!
//! The public face, each method synchronous (callers run them where blocking is allowed):
//!
//! ```text
//! Replica: Clone + Send + Sync
//!   open(path, Signer, Arc<dyn Membership>, Arc<dyn Clock>, Limits) -> Result<Replica, ReplicaError>
//!   accept(from: Option<EndpointId>, &[Bytes]) -> Result<Accepted, ReplicaError>
//!   create_distribution(&Manifest) -> Result<(DistributionId, Accepted), ReplicaError>
//!   record(&DistributionId, Section, &TargetRecord) / write_roster(&id, &BTreeSet<EndpointId>) / cancel(&id)
//!   publish_node(&NodeRecord) / retire(&EndpointId, reason, Option<&SecretKey>) / revoke(&EndpointId, reason, &SecretKey)
//!                                                         -> Result<Accepted, ReplicaError>
//!   distribution(&id) -> Option<Arc<Distribution>>   distributions() -> Vec<DistributionId>
//!   nodes() retired() revoked() -> BTreeMap<EndpointId, ..>     credential(&EndpointId) -> Option<Credential>
//!   envelope(&EnvelopeId) -> Option<Bytes>   envelopes_of(Kind, &[u8; 32]) -> Vec<(EnvelopeId, Bytes)>
//!   receipts(&id) -> Vec<(EndpointId, Bytes)>
//!   ready_to_write() -> bool      mark_reconciled()      note_clock(peer, its time)
//!   expire() -> Result<Accepted, ReplicaError>      stats() -> Stats
//! Session::start(&Replica, peer, Clocks { ours, theirs }, Role) -> (Session, Option<first message>)
//! Session::answer(&mut self, message) -> Result<Step { reply, send, need, done }, SessionError>
//! ```

use crate::model::{Credential, DistributionId, EndpointId, EnvelopeId, Timestamp};

/// Who is a member, as the replica must know it. Implemented by `identity`.
pub trait Membership: Send + Sync + 'static {
    /// Whether `credential` makes `author` a member at `now`.
    ///
    /// # Errors
    /// Why it does not, for people.
    fn verify(&self, author: &EndpointId, credential: &Credential, now: Timestamp) -> Result<(), String>;

    /// The authority's public key; none in deterministic mode.
    fn authority(&self) -> Option<EndpointId>;
}

/// What became known through one call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Accepted {
    /// What now reads differently.
    pub changes: Vec<Change>,
    /// The envelopes that are new here, to be passed on to peers that did not send them.
    pub push: Vec<EnvelopeId>,
    /// Endpoints of which two lives or two copies speak at once.
    pub clones: Vec<EndpointId>,
}

/// Something that reads differently than before, or is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Change {
    /// A distribution.
    Distribution(DistributionId),
    /// A node's record.
    Node(EndpointId),
    /// A node was retired.
    Retired(EndpointId),
    /// A node was revoked.
    Revoked(EndpointId),
}

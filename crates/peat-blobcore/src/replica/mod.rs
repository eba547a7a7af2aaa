//! Signed changes and registers at rest (redb), and the difference between two such sets. What comes in is judged once, by
//! the rules of [`crate::document`] and of membership, stored, and reported as typed changes; what is refused is counted,
//! logged and not fetched again. [`Replica`] is the handle, [`Session`] one side of a reconciliation. No network here.

mod batch;
mod clock_trust;
mod error;
mod limits;
mod outgoing;
mod recent;
mod refused;
mod registers;
#[expect(clippy::module_inception, reason = "the replica is what the module is named after")]
mod replica;
mod session;
mod snapshot;
mod state;
mod store;
#[cfg(test)]
mod tests;
mod waiting;

pub use error::ReplicaError;
pub use limits::{Limits, Reason, Stats};
pub use replica::Replica;
pub(crate) use replica::WeakReplica;
pub use session::{Clocks, MAX_SESSION_MESSAGE_BYTES, Session, SessionError, Side, Step};

use crate::model::{Credential, DistributionId, EndpointId, EnvelopeId, Incarnation, Timestamp};

/// Who is a member, as the replica must know it. Called while the replica is locked: an implementation must not call back.
pub trait Membership: Send + Sync + 'static {
    /// Whether `credential` makes `author` a member at `now`.
    ///
    /// # Errors
    /// Why it does not, for people.
    fn verify(&self, author: &EndpointId, credential: &Credential, now: Timestamp) -> Result<(), String>;

    /// The authority's public key; none in deterministic mode.
    fn authority(&self) -> Option<EndpointId>;
}

/// As whom a replica speaks.
#[derive(Clone)]
pub struct Signer {
    /// The node's key.
    pub secret: iroh::SecretKey,
    /// The life of its data directory.
    pub incarnation: Incarnation,
    /// What makes it a member.
    pub credential: Credential,
}

impl Signer {
    /// The node's id.
    #[must_use]
    pub fn id(&self) -> EndpointId {
        EndpointId::from_bytes(*self.secret.public().as_bytes())
    }
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer").field("id", &self.id()).field("incarnation", &self.incarnation).finish_non_exhaustive()
    }
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
    /// Envelopes that are held back because they do not fit this node's clock.
    pub held: Vec<EnvelopeId>,
    /// How many envelopes were refused.
    pub refused: u64,
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
    /// A tag, by its [key](crate::model::TagRecord::key).
    Tag([u8; 32]),
}

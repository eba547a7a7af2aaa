//! Finds the difference between two replicas in a few round trips, whatever their size: range-based set reconciliation
//! (negentropy protocol 1: <https://github.com/hoytech/negentropy>) over envelope ids. One side initiates and learns what to
//! send and what to ask for; the other only answers. Must never trust a message: any bytes end in a step or an error.

use negentropy::{Id, Negentropy};

use super::snapshot::Snapshot;
use super::{Replica, ReplicaError};
use crate::ErrorKind;
use crate::model::{EndpointId, EnvelopeId, Timestamp};

/// Longest message of a session, in bytes.
pub const MAX_SESSION_MESSAGE_BYTES: usize = 60 * 1024;
/// Most messages that one side takes in one session. Each narrows every open range by 16, or carries some 1800 ids.
const MAX_MESSAGES: u32 = 4096;

/// What the two clocks said when the session was agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clocks {
    /// This node's.
    pub ours: Timestamp,
    /// The peer's.
    pub theirs: Timestamp,
}

/// Who speaks first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// This side begins and learns the difference.
    Initiator,
    /// This side answers.
    Responder,
}

/// What a message led to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// What to send back. Without it the initiator knows all of the difference.
    pub reply: Option<Vec<u8>>,
    /// Envelopes that the peer lacks.
    pub send: Vec<EnvelopeId>,
    /// Envelopes to ask the peer for.
    pub need: Vec<EnvelopeId>,
}

/// One side of a session.
pub struct Session {
    replica: Replica,
    negentropy: Negentropy<'static, Snapshot>,
    messages: u32,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("messages", &self.messages).finish_non_exhaustive()
    }
}

impl Session {
    /// Begins a session with `peer`; both sides leave out what had expired by the lower of the two clocks. The initiator gets
    /// the first message beside it.
    ///
    /// # Errors
    /// [`SessionError::Replica`] when the replica cannot be read.
    pub fn start(
        replica: &Replica,
        peer: &EndpointId,
        clocks: Clocks,
        side: Side,
    ) -> Result<(Self, Option<Vec<u8>>), SessionError> {
        let set = replica.snapshot(peer, clocks.ours.min(clocks.theirs))?;
        let mut negentropy = Negentropy::owned(set, MAX_SESSION_MESSAGE_BYTES as u64)?;
        let first = match side {
            Side::Initiator => Some(negentropy.initiate()?),
            Side::Responder => None,
        };
        Ok((Self { replica: replica.clone(), negentropy, messages: 0 }, first))
    }

    /// Takes the peer's next message.
    ///
    /// # Errors
    /// [`SessionError`] when it is no message of this protocol, or too long, or there were too many. The session is over then.
    pub fn answer(&mut self, message: &[u8]) -> Result<Step, SessionError> {
        self.messages += 1;
        if message.len() > MAX_SESSION_MESSAGE_BYTES || self.messages > MAX_MESSAGES {
            return Err(SessionError::TooMuch);
        }
        if !self.negentropy.is_initiator() {
            return Ok(Step { reply: Some(self.negentropy.reconcile(message)?), ..Step::default() });
        }
        let (mut have, mut need) = (Vec::new(), Vec::new());
        let reply = self.negentropy.reconcile_with_ids(message, &mut have, &mut need)?;
        let ids = |ids: Vec<Id>| ids.into_iter().map(|id| EnvelopeId::from_bytes(id.to_bytes())).collect();
        Ok(Step { reply, send: self.replica.stored(ids(have))?, need: self.replica.wanted(ids(need))? })
    }
}

impl Replica {
    /// The set for a session: what is stored, and what this peer offered before and is not stored.
    fn snapshot(&self, peer: &EndpointId, lower: Timestamp) -> Result<Snapshot, ReplicaError> {
        let now = self.now();
        let mut state = self.lock();
        let extra: Vec<EnvelopeId> = state.refused.offered_by(peer).chain(state.waiting.offered_by(peer)).collect();
        Ok(state.snapshots.take(self.store(), now, lower, &extra)?)
    }

    /// Those of the ids that are stored here.
    fn stored(&self, ids: Vec<EnvelopeId>) -> Result<Vec<EnvelopeId>, ReplicaError> {
        let mut kept = Vec::with_capacity(ids.len());
        for id in ids {
            if self.store().contains(&id)? {
                kept.push(id);
            }
        }
        Ok(kept)
    }

    /// Those of the ids that are worth asking for: not stored, not refused and not waiting here. (Hints name ids too.)
    ///
    /// # Errors
    /// [`ReplicaError::Store`] when the replica cannot be read.
    pub fn wanted(&self, ids: Vec<EnvelopeId>) -> Result<Vec<EnvelopeId>, ReplicaError> {
        let mut kept = Vec::with_capacity(ids.len());
        let state = self.lock();
        for id in ids {
            if !state.refused.contains(&id) && !state.waiting.contains(&id) && !self.store().contains(&id)? {
                kept.push(id);
            }
        }
        Ok(kept)
    }
}

/// Why a session ended early.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// Not a message of the protocol.
    #[error("not a message of set reconciliation: {0}")]
    Protocol(#[from] negentropy::Error),
    /// The peer sends messages that are too long, or too many of them.
    #[error("the peer's messages are too long or too many")]
    TooMuch,
    /// The replica could not be read.
    #[error(transparent)]
    Replica(#[from] ReplicaError),
}

impl SessionError {
    /// The kind, for exit codes.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Protocol(_) => ErrorKind::Integrity,
            Self::TooMuch => ErrorKind::Refused,
            Self::Replica(error) => error.kind(),
        }
    }
}
